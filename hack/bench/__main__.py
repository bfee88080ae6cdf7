"""bench BINARY: what the release program costs beside other ways to write routes, and the limits that it was built to.

`make bench` builds it and calls this. Everything happens in namespaces of this process and ends with it; root and ordinary users may.
SIZES (10,100,1000,10000,50000), ROUNDS (5) and IDLE (120 seconds) may be given for a quick run. PAGE is the folder that gets the page
and its pictures: docs for a run of all sizes, otherwise target/bench.
"""

import os
import subprocess
import sys
import time

import kernel
import limits
import page
from contest import Contest, Results

SIZES = (10, 100, 1000, 10000, 50000)
FORBIDDEN = (
    "it needs network namespaces of its own. Run it as root, or let ordinary users make them: user.max_user_namespaces above 0, and "
    "kernel.unprivileged_userns_clone=1 (Debian) or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu) where there is such a setting."
)


def main(binary):
    sizes = tuple(int(size) for size in os.environ.get("SIZES", "").replace(",", " ").split()) or SIZES
    rounds, idle = int(os.environ.get("ROUNDS", 5)), int(os.environ.get("IDLE", 120))
    folder = os.environ.get("PAGE") or ("docs" if sizes == SIZES else "target/bench")
    os.makedirs(f"{folder}/images", exist_ok=True)
    machine = page.machine(binary)
    load, begin = os.getloadavg()[0], time.perf_counter()
    kernel.make_network()
    results = Results()
    contest = Contest(binary, sizes, results)

    def progress(text):
        print(f"bench: {time.perf_counter() - begin:6.1f} s  {text}", file=sys.stderr, flush=True)

    for number in range(1, rounds + 1):
        for size in sizes:
            for step in (contest.agent, contest.others, contest.failover):
                contest.attempt(step, size)
            progress(f"round {number} of {rounds}: {size} prefixes")
    for size in sizes:
        contest.attempt(contest.costs, size)
    progress("memory and processes")
    contest.attempt(contest.idle, max(sizes), idle)
    progress(f"idle for {idle} s")
    checked = limits.check(results, sizes, os.path.getsize(binary))
    minutes = (time.perf_counter() - begin) / 60
    about = f"{machine} Rounds: {rounds}, in {minutes:.0f} minutes; the load average when they began was {load:.2f}."
    page.write(folder, results, sizes, checked, about)
    for line in limits.printed(checked):
        print(line)
    print(f"bench: wrote {folder}/benchmarks.md")
    for failure in contest.failed:
        print(f"bench: FAILED {failure}")
    return bool(contest.failed) or any(not limit.holds for limit in checked)


def inside_namespaces(binary):
    """Starts this program again where it may do as it likes."""
    user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    here = os.path.dirname(os.path.abspath(__file__))
    namespaces = ["unshare", *user, "--mount", "--net"]
    tried = subprocess.run([*namespaces, "true"], check=False, stderr=subprocess.PIPE, text=True)
    if tried.returncode:
        print(f"bench: {tried.stderr.strip()}\nbench: {FORBIDDEN}", file=sys.stderr)
        return 2
    return subprocess.run([*namespaces, sys.executable, here, "--inside", os.path.abspath(binary)], check=False).returncode


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        os.environ["LC_ALL"] = "C"
        sys.exit(main(sys.argv[2]))
    sys.exit(inside_namespaces(sys.argv[1]))

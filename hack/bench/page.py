"""The page docs/benchmarks.md and its pictures, from the figures of one run; every figure in it was measured."""

import re
import subprocess
from importlib.metadata import version
from platform import python_version
from statistics import median

import plot
from plot import number

NAMES = {
    "agent": "egress-routes",
    "shell": "shell loop",
    "operator": "pyroute2, as the operator",
    "pyroute2": "pyroute2, at its best",
    "batch": "one ip -batch",
    "netlink": "raw netlink",
}
CHANGES = {
    "cold": "first apply",
    "restart": "restart, nothing to do",
    "line": "one line edited",
    "gateway": "another gateway",
    "half": "half of the list replaced",
    "repair": "a tenth deleted by somebody",
    "cleanup": "cleanup",
}


def first_match(pattern, text):
    found = re.search(pattern, text)
    return found[1] if found else "unknown"


def machine(binary):
    """The machine and the programs, in words."""
    with open("/proc/cpuinfo", encoding="utf-8") as text:
        cpuinfo = text.read()
    with open("/proc/version", encoding="utf-8") as text:
        kernel = first_match(r"Linux version (\d+\.\d+\.\d+)", text.read())
    with open("/proc/meminfo", encoding="utf-8") as text:
        memory = int(first_match(r"MemTotal:\s+(\d+)", text.read())) / (1 << 20)
    ip = first_match(r"iproute2-([\d.]+)", subprocess.run(["ip", "-V"], check=True, capture_output=True, text=True).stdout)
    cores = len(re.findall(r"^processor", cpuinfo, re.M))
    model = first_match(r"model name\s*: (.*)", cpuinfo)
    program = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split("\n")[0]
    return (
        f"{cores} cores ({model}), {memory:.0f} GiB, Linux {kernel}, iproute2 {ip}, pyroute2 {version('pyroute2')} on Python {python_version()}, with `{program}`."
    )


def cell(values, unit="s"):
    """Median and spread, each on one line: a page breaks neither at the blank nor at the dash."""
    if not values:
        return "–"
    middle, least, most = (number(value, unit) for value in (median(values), min(values), max(values)))
    if len(values) == 1:
        return unbroken(middle)
    shared = middle.partition(" ")[2]
    if least.endswith(f" {shared}") and most.endswith(f" {shared}"):
        least, most = least.removesuffix(f" {shared}"), most.removesuffix(f" {shared}")
    return f"{unbroken(middle)} ({unbroken(least)}\u2060–\u2060{unbroken(most)})"


def unbroken(text):
    return text.replace(" ", "\u00a0")


def table(head, rows):
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def write(folder, results, sizes, checked, about):
    """Writes the page and its pictures below a folder."""
    pictures(folder, results, sizes)
    lines = [PREFACE.format(machine=about)]
    lines += first_apply(results, sizes)
    for size in (size for size in sizes if size >= 10000 or size == max(sizes)):
        lines += changes(results, size)
    lines += growth(results, sizes)
    lines += costs(results, sizes)
    lines += ["## Limits", "", "What the program was built to, checked in this run:", ""]
    lines += table(
        ("what", "measured", "limit", ""),
        [(limit.what, f"{limit.value:,.2f} {limit.unit}".strip(), limit.bound, limit.verdict) for limit in checked],
    )
    with open(f"{folder}/benchmarks.md", "w", encoding="utf-8") as file:
        file.write("\n".join(lines).rstrip() + "\n")


def first_apply(results, sizes):
    yield from (
        "## First apply",
        "",
        "![Time until the last route is in the kernel, by number of prefixes](images/bench-first-apply.svg)",
        "",
        "An empty table; the median, and in brackets the least and the most.",
        "",
    )
    rows = [(f"{name}", *(cell(results.of(who, "cold", size)) for size in sizes)) for who, name in NAMES.items()]
    yield from table(("", *(f"{size:,}" for size in sizes)), rows)


def changes(results, size):
    yield from (
        f"## {size:,} prefixes: each change",
        "",
        "A dash: this method cannot make the change, does not notice it, or was not measured (shell loop and operator at 50,000).",
        "",
    )
    compared = [what for what in CHANGES if what != "repair"]  # the others do not repair: see `growth`
    rows = [(name, *(cell(results.of(who, what, size)) for what in compared)) for who, name in NAMES.items()]
    yield from table(("", *(CHANGES[what] for what in compared)), rows)
    yield "Processor time of all processes together; the agent's includes reading back and its lookups until it rests."
    yield ""
    counted = [what for what in CHANGES if what != "cleanup"]
    rows = [(name, *(cell(results.of(who, what, size, "cpu")) for what in counted)) for who, name in NAMES.items()]
    yield from table(("", *(CHANGES[what] for what in counted)), rows)


def growth(results, sizes):
    yield from (
        "## What grows with the table",
        "",
        "![Time of each change by the agent, by number of prefixes](images/bench-changes.svg)",
        "",
    )
    rows = [(name, *(cell(results.of("agent", what, size)) for size in sizes)) for what, name in CHANGES.items()]
    rows.append(("failover, 3 × 200 ms", *(cell(results.of("agent", "failover", size)) for size in sizes)))
    yield from table(("egress-routes", *(f"{size:,}" for size in sizes)), rows)


def costs(results, sizes):
    yield from ("## Memory and processes", "", "![Highest memory, by number of prefixes](images/bench-memory.svg)", "")

    def memory(who, size):
        return cell(results.of(who, "memory", size, "highest") or results.of(who, "cold", size, "memory")[:1], "MiB")

    rows = [(name, *(memory(who, size) for size in sizes)) for who, name in NAMES.items()]
    rows.insert(1, ("an `ip` that it runs", *(cell(results.of("agent", "memory", size, "child"), "MiB") for size in sizes)))
    yield from table(("highest resident memory", *(f"{size:,}" for size in sizes)), rows)
    head = ("runs of `ip`", *(f"{size:,}" for size in sizes))
    rows = [
        (f"egress-routes, {CHANGES[what]}", *(cell(results.of("agent", what, size, "processes"), "") for size in sizes))
        for what in ("cold", "line", "gateway")
    ]
    rows.append(("shell loop, first apply", *(cell(results.of("shell", "cold", size, "processes")[:1], "") for size in sizes)))
    yield from table(head, rows)
    for size in sizes:
        for share in results.of("agent", "idle", size, "percent"):
            yield f"Idle with {size:,} prefixes and two gateways, default settings: {share:.2f} % of one core, the `ip`s that it runs included."
            yield ""


def pictures(folder, results, sizes):
    def series(named, values):
        found = [(name, {size: values(key, size) for size in sizes if values(key, size)}) for key, name in named.items()]
        return [(name, points) for name, points in found if points]

    def memory(who, size):
        return results.of(who, "memory", size, "highest") or results.of(who, "cold", size, "memory")

    drawn = {
        "first-apply": ("Time until the last route is in the kernel", series(NAMES, lambda who, size: results.of(who, "cold", size)), "s"),
        "changes": ("Each change by egress-routes", series(CHANGES, lambda what, size: results.of("agent", what, size)), "s"),
        "memory": ("Highest resident memory", series(NAMES, memory), "MiB"),
    }
    for name, (title, found, unit) in drawn.items():
        with open(f"{folder}/images/bench-{name}.svg", "w", encoding="utf-8") as file:
            file.write(plot.lines(title, found, unit))


PREFACE = """# Benchmarks

`make bench` writes this page. Measured on {machine}

Each round makes the same changes with the agent and with each other method, one after the other, in network namespaces: a node, one
interface, two gateways. Each method's result is counted in the kernel before the next one begins.

- **egress-routes** is the release program as it runs on a node, without a cluster. Its clock starts at the rename with which the kubelet
  shows a new ConfigMap and stops when the kernel's lookup returns the new path for the last prefix; at a restart it starts with the program
  and stops at 200 from `/readyz`. Reading the list, checking it and computing the difference are included.
- **shell loop** runs one `ip route replace` for each prefix.
- **pyroute2, as the operator** makes the calls of DigitalOcean's k8s-staticroute-operator with the version of pyroute2 that it pins:
  for each route it opens a socket, sends one request, awaits the answer and logs a line. Its framework, its requests to the API server and the
  Event for each route are left out, in its favour. Its Python is running when the clock starts.
- **pyroute2, at its best** uses one socket and sends 200 compiled requests at a time.
- **one `ip -batch`** reads all lines from a file.
- **raw netlink** sends messages that were made before the clock starts. It measures what the kernel itself needs: the limit.

Only egress-routes and the operator keep a record of what they did. The others write the whole list again for every change, and get a list of
what to delete. Only egress-routes looks at the kernel: with the others, a route that somebody deletes stays away until they are started again,
which takes as long as a restart. The operator compares destinations only, so it does not notice another gateway; at a restart it adds every
route and is refused each time. What took longer than 15 s in all was not repeated in further rounds; the shell loop and the operator made
only the first apply of 50,000.
"""

"""What is measured: the same changes by the agent and by the other ways, one after the other, so that a busy moment meets all alike."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import kernel
from agent import Agent, Children, Volume, UNPROBED, processes_started
from kernel import FIRST, SECOND, address_in, prefixes, until
from others import LINE, highest_memory

HERE = os.path.dirname(os.path.abspath(__file__))
WAYS = ("shell", "operator", "pyroute2", "batch", "netlink")
CHANGES = ("cold", "restart", "line", "gateway", "half", "repair", "cleanup")
LARGE = 50000
# What takes long is not measured again once it has taken this many seconds, and slow ways get no more than a cold start at LARGE.
ENOUGH = 15
SLOW = ("shell", "operator")
# Failover: three questions without an answer, 200 ms apart.
PROBED = "strategy: failover\n  healthCheck: {interval: 200ms, timeout: 200ms, failures: 3, successes: 1}"


class Results:
    """Every figure of every round, by who, what and size; each a dictionary of seconds, cpu, memory, processes and others."""

    def __init__(self):
        self.runs = {}

    def add(self, who, what, size, **figures):
        for name, value in figures.items():
            self.runs.setdefault((who, what, size, name), []).append(value)

    def of(self, who, what, size, name="seconds"):
        return self.runs.get((who, what, size, name), [])

    def spent(self, who, what, size):
        return sum(self.of(who, what, size))


def changes_of(way, what, size):
    """What a way is given for a change. All but the operator write the whole list again, because they keep no record of what they did
    last; the operator compares the destinations of its object, old and new, and never looks at the kernel."""
    now = prefixes(size)
    after = {
        "line": now[:-1] + prefixes(1, 21),
        "half": now[size // 2 :] + prefixes(size // 2, 21),
    }.get(what, now)
    gone = [f"del {prefix} {FIRST}\n" for prefix in sorted(set(now) - set(after))]
    if what == "cleanup":
        return [f"del {prefix} {FIRST}\n" for prefix in now]
    if way == "operator":
        if what in ("gateway", "repair"):
            return None  # its update handler sees no difference; it does not notice a deletion
        come = now if what in ("cold", "restart") else sorted(set(after) - set(now))
        return gone + [f"add {prefix} {FIRST}\n" for prefix in come]
    if what == "repair":
        return None  # nobody calls them; what it costs then is a restart
    gateway = SECOND if what == "gateway" else FIRST
    return gone + [f"replace {prefix} {gateway}\n" for prefix in after]


def run_way(way, changes):
    """Runs a way to its end; what it cost."""
    listing = "/run/list"
    if way in ("shell", "batch"):
        changes = [LINE.format(*line.split()) + "\n" for line in changes]
    with open(listing, "w", encoding="ascii") as lines:
        lines.writelines(changes)
    if way not in ("shell", "batch"):
        done = subprocess.run([sys.executable, f"{HERE}/others.py", way, listing], check=True, stdout=subprocess.PIPE)
        return json.loads(done.stdout)
    loop = f"while read -r words; do ip $words; done <{listing}; while read -r key size _; do [ $key != VmHWM: ] || echo $size; done </proc/$$/status"
    command = ["bash", "-c", loop] if way == "shell" else ["ip", "-force", "-batch", listing]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cost = {"seconds": seconds, "cpu": cpu, "processes": len(changes) if way == "shell" else 1}
    return cost | ({"memory": int(done.stdout) / 1024} if way == "shell" else {})


def memory_of_batch(netlink, size):
    """The highest memory of one `ip -batch`: it is read while `ip` waits for a next line."""
    with subprocess.Popen(["ip", "-force", "-batch", "-"], stdin=subprocess.PIPE, text=True) as ip:
        ip.stdin.writelines(LINE.format("replace", prefix, FIRST) + "\n" for prefix in prefixes(size))
        # `ip` reads whole blocks: more lines push the last one through.
        ip.stdin.write("\n" * 8192)
        ip.stdin.flush()
        until(lambda: netlink.count() == size, "one ip -batch", pause=0.02)
        highest = highest_memory(ip.pid)
    return highest


class Contest:
    """The rounds of one run."""

    def __init__(self, binary, sizes, results):
        self.binary, self.sizes, self.results = binary, sizes, results
        self.netlink, self.volume = kernel.Netlink(), Volume()
        self.running, self.failed = None, []

    def attempt(self, step, *words):
        """A step of a round. What does not happen in time is remembered, cleaned up and printed; the run goes on and fails at its end."""
        try:
            step(*words)
        except (kernel.Late, subprocess.SubprocessError) as why:
            self.failed.append(f"{step.__name__} {words}: {why}")
            print(f"bench: FAILED {self.failed[-1]}", file=sys.stderr)
            if self.running and self.running.process.poll() is None:
                self.running.stop(signal.SIGKILL)
            subprocess.run([self.binary, "cleanup", "--force"], check=False, stdout=subprocess.DEVNULL)
            self.empty()
            kernel.run("ip", "-n", "gateways", "addr", "replace", f"{FIRST}/24", "dev", kernel.DEVICE)

    def start(self, **options):
        self.running = Agent(self.binary, **options)
        return self.running

    def goes(self, prefix, gateway):
        return self.netlink.gateway_of(address_in(prefix)) == gateway

    def others(self, size):
        """One round of the ways that are not the agent."""
        for way in WAYS:
            for what in CHANGES:
                changes = changes_of(way, what, size)
                over = self.results.spent(way, what, size) > ENOUGH or (way in SLOW and size >= LARGE and what != "cold")
                if changes is None or over:
                    continue
                self.before(what, size)
                self.results.add(way, what, size, **run_way(way, changes))
                self.after(way, what, size)
        self.empty()

    def before(self, what, size):
        """The routes that a change meets, by the shortest way."""
        self.empty()
        if what != "cold":
            self.write("replace", prefixes(size))

    def after(self, way, what, size):
        wanted = 0 if what == "cleanup" else size
        # The operator's routes carry pyroute2's own protocol, `static`.
        found = self.netlink.count() + self.netlink.count(4)
        if found != wanted:
            raise kernel.Late(f"{way} left {found} routes after {what}, not {wanted}")

    def write(self, operation, some, gateway=FIRST):
        flags = kernel.CREATE | kernel.REPLACE if operation == "replace" else 0
        kind = kernel.NEWROUTE if operation == "replace" else kernel.DELROUTE
        self.netlink.write([kernel.route(kind, flags, prefix, gateway, 0 if operation == "del" else kernel.PROTOCOL) for prefix in some])

    def empty(self):
        for protocol in (str(kernel.PROTOCOL), "static"):
            subprocess.run(["ip", "route", "flush", "proto", protocol], check=False, stderr=subprocess.DEVNULL)
        if self.netlink.count() + self.netlink.count(4):
            raise kernel.Late("routes are left")

    def edit(self, agent, what, size, number, done, *configuration):
        """An edit, from the rename of the ConfigMap to the last route in the kernel."""
        self.volume.prepare(*configuration)
        cpu = agent.cpu()
        self.volume.swap()
        seconds = until(done, what)
        agent.wait_in_force(number)
        self.results.add("agent", what, size, seconds=seconds, cpu=agent.cpu() - cpu)

    def agent(self, size):
        """One round of the agent: every change, one after the other."""
        now, new = prefixes(size), prefixes(size, 21)
        line = now[:-1] + new[-1:]
        half = new[: size // 2] + now[size // 2 : -1] + new[-1:]
        self.volume.prepare([])
        self.volume.swap()
        agent = self.start()
        agent.wait_in_force(1)
        self.edit(agent, "cold", size, 2, lambda: self.goes(now[-1], FIRST), now)
        self.same(size)
        agent.stop()
        agent = self.restart(size)
        self.edit(agent, "line", size, 2, lambda: self.goes(new[-1], FIRST) and self.goes(now[-1], None), line)
        self.edit(agent, "gateway", size, 3, lambda: self.goes(new[-1], SECOND), line, SECOND)
        gone, last = now[size // 2 - 1], new[size // 2 - 1]
        self.edit(agent, "half", size, 4, lambda: self.goes(last, SECOND) and self.goes(gone, None), half, SECOND)
        self.same(size)
        self.repair(agent, size, half)
        agent.stop()
        self.results.add("agent", "cleanup", size, seconds=agent.cleanup())
        self.same(0)

    def same(self, size):
        until(lambda: self.netlink.count() == size, f"{size} routes in the kernel", pause=0.05)

    def restart(self, size):
        """A restart with nothing to do: what it writes, and when it is ready."""
        listener = kernel.Netlink(kernel.GROUP_IPV4_ROUTE, kernel.GROUP_NEXTHOP)
        agent = self.start()
        seconds = agent.ready()
        agent.wait_in_force(1)
        self.results.add("agent", "restart", size, seconds=seconds, cpu=agent.cpu(), writes=listener.heard())
        return agent

    def repair(self, agent, size, routes):
        """A tenth of the routes deleted at once, from the end of the deletion to the last one back."""
        some = routes[:: 10 if size > 10 else 5]
        cpu = agent.cpu()
        kernel.run_batch([f"route del {prefix} proto {kernel.PROTOCOL}" for prefix in some])
        seconds = until(lambda: self.netlink.count() == size, "repair", pause=0.005)
        agent.settle()
        self.results.add("agent", "repair", size, seconds=seconds, cpu=agent.cpu() - cpu)

    def costs(self, size):
        """Memory, and processes started: a run of its own, because watching costs time."""
        self.volume.prepare([])
        self.volume.swap()
        agent = self.start(counting=True)
        agent.wait_in_force(1)
        children = Children(agent)
        steps = (
            ("cold", (prefixes(size), f"{FIRST}, {SECOND}")),
            ("line", (prefixes(size)[:-1] + prefixes(1, 21), f"{FIRST}, {SECOND}")),
            ("gateway", (prefixes(size)[:-1] + prefixes(1, 21), SECOND)),
        )
        for number, (what, configuration) in enumerate(steps, 2):
            started = processes_started()
            self.volume.prepare(*configuration)
            self.volume.swap()
            until(lambda: agent.in_force() >= number, what, pause=0.01)
            self.results.add("agent", what, size, processes=processes_started() - started)
        agent.settle()
        self.results.add("agent", "memory", size, highest=agent.highest_memory(), after=agent.memory(), child=children.stop())
        agent.stop()
        agent.cleanup()
        self.empty()
        self.results.add("batch", "memory", size, highest=memory_of_batch(self.netlink, size))
        self.empty()

    def failover(self, size):
        """From the loss of the first gateway's address to a lookup that gives the second."""
        self.volume.prepare(prefixes(size), f"{FIRST}, {SECOND}", PROBED)
        self.volume.swap()
        agent = self.start()
        agent.wait_in_force(1)
        last = prefixes(size)[-1]
        until(lambda: self.goes(last, FIRST), "the first gateway")
        kernel.run("ip", "-n", "gateways", "addr", "del", f"{FIRST}/24", "dev", kernel.DEVICE)
        self.results.add("agent", "failover", size, seconds=until(lambda: self.goes(last, SECOND), "failover"))
        kernel.run("ip", "-n", "gateways", "addr", "replace", f"{FIRST}/24", "dev", kernel.DEVICE)
        agent.stop()
        agent.cleanup()

    def idle(self, size, seconds):
        """Processor time of an agent with two gateways, default settings, and nothing to do."""
        self.volume.prepare(prefixes(size), f"{FIRST}, {SECOND}", "")
        self.volume.swap()
        agent = self.start()
        agent.wait_in_force(1)
        time.sleep(5)
        cpu, start = agent.cpu(), time.perf_counter()
        time.sleep(seconds)
        share = (agent.cpu() - cpu) / (time.perf_counter() - start)
        self.results.add("agent", "idle", size, percent=100 * share)
        agent.stop()
        agent.cleanup()

"""The other ways to write routes, each run as a program of its own: `others.py WAY LIST` does what the list says and prints what it cost.

A line of the list is `add`, `replace` or `del`, a prefix and a gateway. What a way needs before it can begin (an interpreter, the list
in memory, for raw netlink also the messages) is there before the clock starts, as it would be in a program that runs all the time.
"""

import ipaddress
import json
import logging
import resource
import sys
import time

import kernel

# What `ip -batch` and the shell loop are given, as an operator would write it.
LINE = "route {0} {1} via {2} dev " + kernel.DEVICE + f" proto {kernel.PROTOCOL}"


def as_the_operator_calls_it(changes):
    """pyroute2 as DigitalOcean's k8s-staticroute-operator calls it: for each route both addresses are checked, a socket is opened and
    closed, one request is sent and its answer awaited, and a line is logged. Left out, in its favour: kopf, its requests to the API
    server, and the Event that it posts for each route."""
    from pyroute2 import IPRoute

    log = logging.getLogger("operator")
    log.addHandler(logging.StreamHandler(open("/dev/null", "w")))
    log.setLevel(logging.INFO)

    def begin():
        for operation, prefix, gateway in changes:
            ipaddress.ip_network(prefix)
            ipaddress.ip_address(gateway)
            with IPRoute() as routes:
                try:
                    routes.route(operation, dst=prefix, gateway=gateway)
                    log.info("%s %s via %s", operation, prefix, gateway)
                except Exception as why:  # pylint: disable=broad-except; such as a route that exists
                    log.error("%s %s via %s: %s", operation, prefix, gateway, why)

    return begin


def at_its_best(changes):
    """pyroute2 with one socket: requests are compiled by `IPBatch`, sent 200 at a time, and all answers are awaited."""
    from pyroute2 import IPBatch, IPRoute

    def begin():
        with IPRoute() as routes:
            for start in range(0, len(changes), 200):
                batch = IPBatch()
                some = changes[start : start + 200]
                for operation, prefix, gateway in some:
                    batch.route(operation, dst=prefix, gateway=gateway, proto=kernel.PROTOCOL)
                routes.sendto(batch.batch, (0, 0))
                answers = 0
                while answers < len(some):
                    answers += sum(1 for _ in kernel.messages(routes.recv(1 << 17)))

    return begin


def raw_netlink(changes):
    """Messages that were made before, sent 500 at a time without an answer to each: what the kernel itself needs."""
    kinds = {
        "add": (kernel.NEWROUTE, kernel.CREATE),
        "replace": (kernel.NEWROUTE, kernel.CREATE | kernel.REPLACE),
        "del": (kernel.DELROUTE, 0),
    }
    socket = kernel.Netlink()
    made = [kernel.route(*kinds[operation], prefix, gateway) for operation, prefix, gateway in changes]
    return lambda: socket.write(made)


WAYS = {"operator": as_the_operator_calls_it, "pyroute2": at_its_best, "netlink": raw_netlink}


def highest_memory(pid="self"):
    """The highest resident memory of a process so far, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def main(way, path):
    with open(path, encoding="ascii") as lines:
        begin = WAYS[way]([line.split() for line in lines])
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    begin()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": highest_memory(), "processes": 0}))


if __name__ == "__main__":
    main(*sys.argv[1:])

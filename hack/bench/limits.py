"""The limits that the program was built to, each checked against what was measured in the same run."""

from statistics import median
from typing import NamedTuple


class Limit(NamedTuple):
    """What was measured, and what it may be at most, or at least."""

    what: str
    value: float
    limit: float
    unit: str
    least: bool = False

    @property
    def holds(self):
        return self.value >= self.limit if self.least else self.value <= self.limit

    @property
    def bound(self):
        return f"{'at least' if self.least else 'at most'} {self.limit:g} {self.unit}".strip()

    @property
    def verdict(self):
        return "ok" if self.holds else "OVER"


def check(results, sizes, binary_size):
    """All limits whose sizes were measured."""
    found = [Limit("the program", binary_size / 1e6, 10, "MB")]

    def limit(what, who, change, size, name, bound, unit, scale=1.0):
        values = results.of(who, change, size, name)
        if values:
            found.append(Limit(f"{what}, {size:,} prefixes", scale * median(values), bound, unit))

    def ratio(what, size, over, under, bound, least):
        above, below = (results.of(who, "cold", size) for who in (over, under))
        if above and below:
            found.append(Limit(f"{what}, {size:,} prefixes", median(above) / median(below), bound, "×", least))

    for size in (size for size in sizes if size >= 10000):
        ratio("first apply beside one `ip -batch`", size, "agent", "batch", 0.9, False)
        ratio("shell loop beside the first apply", size, "shell", "agent", 50, True)
        ratio("pyroute2 as the operator uses it beside the first apply", size, "operator", "agent", 5, True)
    for size, milliseconds in ((10000, 50), (50000, 100)):
        limit("one line edited", "agent", "line", size, "seconds", milliseconds, "ms", 1000)
        limit("another gateway", "agent", "gateway", size, "seconds", milliseconds, "ms", 1000)
    limit("ready after a restart with nothing to do", "agent", "restart", 10000, "seconds", 150, "ms", 1000)
    for size in sizes:
        limit("changes written by a restart with nothing to do", "agent", "restart", size, "writes", 0, "")
        limit("failover, 3 × 200 ms", "agent", "failover", size, "seconds", 1000, "ms", 1000)
    for size, mebibytes in ((10000, 10), (50000, 25)):
        limit("highest memory of the agent", "agent", "memory", size, "highest", mebibytes, "MiB")
        limit("highest memory of an `ip` that it runs", "agent", "memory", size, "child", 12, "MiB")
    limit("idle, two gateways, of one core", "agent", "idle", max(sizes), "percent", 0.3, "%")
    return found


def printed(checked):
    for limit in checked:
        yield f"{limit.what:<78} {limit.value:8.2f} {limit.unit:<4} {limit.bound:<18} {limit.verdict}"

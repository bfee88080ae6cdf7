"""The kernel's side of the benchmark: raw netlink to write, look up and watch routes, and the network that everything runs in.

Not a netlink library: IPv4, the main table, and only what the benchmark asks. A lookup costs microseconds here and milliseconds by `ip`,
so waiting for a route hardly disturbs who writes it.
"""

import errno
import os
import socket
import struct
import subprocess
import time

NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
REQUEST, ACK, DUMP, REPLACE, CREATE = 0x1, 0x4, 0x300, 0x100, 0x400
GROUP_IPV4_ROUTE, GROUP_NEXTHOP = 7, 32
DST, OIF, GATEWAY = 1, 4, 5
ERROR, DONE = 2, 3
MAIN, UNIVERSE, UNICAST = 254, 0, 1
PROTOCOL = 230  # the agent's

FIRST, SECOND = "10.116.0.5", "10.116.0.6"  # the gateways
DEVICE = "eth1"


class Late(Exception):
    """Something did not happen in time."""


def prefixes(count, first_octet=20):
    return [f"{first_octet}.{n // 256}.{n % 256}.0/24" for n in range(count)]


def address_in(prefix):
    return prefix.split("/")[0][:-1] + "1"


def make_network():
    """A node with `eth1`, and two gateways behind it, in the namespaces of this process."""
    run("mount", "-t", "tmpfs", "bench", "/run")
    for folder in ("/run/netns", "/run/config", "/run/bin"):
        os.mkdir(folder)
    for line in (
        "netns add gateways",
        "link set lo up",
        f"link add {DEVICE} up type veth peer name {DEVICE} netns gateways",
        f"addr add 10.116.0.2/24 dev {DEVICE}",
        f"-n gateways link set {DEVICE} up",
        # The first address of a subnet takes the others along when it goes.
        f"-n gateways addr add 10.116.0.1/24 dev {DEVICE}",
        f"-n gateways addr add {FIRST}/24 dev {DEVICE}",
        f"-n gateways addr add {SECOND}/24 dev {DEVICE}",
    ):
        run("ip", *line.split())


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def message(kind, flags, body):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body


def route(kind, flags, prefix, gateway=FIRST, protocol=PROTOCOL):
    """A message that adds, replaces or deletes a route."""
    network, length = prefix.split("/")
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, int(length), 0, 0, MAIN, protocol, UNIVERSE, UNICAST, 0)
    body += attribute(DST, socket.inet_aton(network))
    if kind == NEWROUTE:
        body += attribute(GATEWAY, socket.inet_aton(gateway))
        body += attribute(OIF, struct.pack("=I", socket.if_nametoindex(DEVICE)))
    return message(kind, REQUEST | flags, body)


def messages(data):
    """The messages of a datagram: type and body."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


class Netlink:
    """A socket to the kernel's routing tables."""

    def __init__(self, *groups):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self.socket.bind((0, 0))
        if groups:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            self.socket.setblocking(False)
        for group in groups:
            self.socket.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP

    def gateway_of(self, address):
        """The gateway that a packet to this address would take; nothing where it has none."""
        body = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + attribute(DST, socket.inet_aton(address))
        self.socket.send(message(GETROUTE, REQUEST, body))
        for kind, body in messages(self.socket.recv(65536)):
            if kind == NEWROUTE:
                found = dict(attributes(body[12:]))
                return socket.inet_ntoa(found[GATEWAY]) if GATEWAY in found else None
        return None

    def count(self, protocol=PROTOCOL):
        """How many routes with this protocol there are."""
        self.socket.send(message(GETROUTE, REQUEST | DUMP, struct.pack("=BBBBBBBBI", socket.AF_INET, *[0] * 8)))
        found = 0
        while True:
            for kind, body in messages(self.socket.recv(1 << 17)):
                if kind in (DONE, ERROR):
                    return found
                found += body[5] == protocol

    def write(self, lines):
        """Sends messages many at a time and waits until the last one is done. The kernel answers each that it refuses."""
        for start in range(0, len(lines), 500):
            self.socket.send(b"".join(lines[start : start + 500]))
        self.socket.send(message(DELROUTE, REQUEST | ACK, b""))  # is refused: the answer comes after all before it
        for kind, body in messages(self.socket.recv(65536)):
            number = -struct.unpack_from("=i", body)[0]
            if number not in (0, errno.EINVAL):
                raise OSError(number, os.strerror(number))

    def heard(self):
        """How many notifications came since the last call; a listener that lost some hears at least one."""
        found = 0
        while True:
            try:
                found += sum(1 for _ in messages(self.socket.recv(1 << 17)))
            except BlockingIOError:
                return found
            except OSError as why:
                if why.errno != errno.ENOBUFS:
                    raise
                found += 1


def until(condition, what, limit=60, pause=0.0005):
    """Seconds until a condition holds, from now."""
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > limit:
            raise Late(f"not within {limit} s: {what}")
        time.sleep(pause)
    return time.perf_counter() - begin


def run_batch(lines):
    """Lines for one `ip -batch`, all of which have to succeed."""
    subprocess.run(["ip", "-batch", "-"], check=True, input="\n".join(lines) + "\n", text=True, stdout=subprocess.DEVNULL)

"""The program under test: its ConfigMap, its process, and what it costs."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
import time

import kernel
from others import highest_memory

CONFIG, LOG, COUNT = "/run/config", "/run/log", "/run/started"
UNPROBED = "healthCheck: {type: none}"
# `ip` as the agent finds it while runs of it are counted: each is a line in a file.
COUNTING_IP = f'#!/bin/sh\necho >>{COUNT}\nexec "$REAL_IP" "$@"\n'
TICK = os.sysconf("SC_CLK_TCK")


class Volume:
    """A mounted ConfigMap: whole versions, swapped in by one rename as the kubelet does."""

    def __init__(self):
        self.version = 0

    def prepare(self, prefixes, gateways=kernel.FIRST, more=UNPROBED):
        """Writes the next version without showing it; no prefixes are no routes."""
        self.version += 1
        folder = f"{CONFIG}/..{self.version}"
        os.mkdir(folder)
        with open(f"{folder}/list.txt", "w", encoding="ascii") as lines:
            lines.writelines(f"{prefix}\n" for prefix in prefixes)
        route_set = f"routes:\n- name: bench\n  gateways: [{gateways}]\n  destinationFiles: [list.txt]\n  {more}\n"
        with open(f"{folder}/routes.yaml", "w", encoding="ascii") as lines:
            lines.write(route_set if prefixes else "routes: []\n")
        os.symlink(f"..{self.version}", f"{CONFIG}/..data_tmp")

    def swap(self):
        os.rename(f"{CONFIG}/..data_tmp", f"{CONFIG}/..data")


class Agent:
    """A running agent."""

    def __init__(self, binary, counting=False):
        self.binary = binary
        environment = {name: value for name, value in os.environ.items() if name not in ("NODE_NAME", "KUBERNETES_SERVICE_HOST")}
        if counting:
            environment |= {"REAL_IP": which("ip"), "PATH": f"/run/bin:{environment['PATH']}"}
            with open("/run/bin/ip", "w", encoding="ascii") as script:
                script.write(COUNTING_IP)
            os.chmod("/run/bin/ip", 0o755)
            open(COUNT, "w", encoding="ascii").close()
        with open(LOG, "w", encoding="ascii") as log:
            self.started = time.perf_counter()
            command = [binary, "run", "--config", CONFIG]
            self.process = subprocess.Popen(command, stderr=log, env=environment, preexec_fn=end_with_the_benchmark)

    def in_force(self):
        """How many configurations the log has reported in force."""
        with open(LOG, encoding="utf-8") as log:
            return log.read().count("Configuration in force")

    def wait_in_force(self, number):
        """Waits for that many of them, and then until the agent has nothing left to do."""
        kernel.until(lambda: self.in_force() >= number, "Configuration in force", pause=0.02)
        self.settle()

    def settle(self):
        """Waits until the agent has used no processor time for half a second: the next edit comes alone."""
        last, since = self.cpu(), time.perf_counter()
        while time.perf_counter() - since < 0.5:
            time.sleep(0.05)
            if self.cpu() != last:
                last, since = self.cpu(), time.perf_counter()
            if time.perf_counter() - self.started > 600:
                raise kernel.Late("the agent never comes to rest")

    def ready(self):
        """Waits for 200 from /readyz; seconds since the program was started."""

        def answers():
            with socket.socket() as client:
                client.settimeout(1)
                if client.connect_ex(("127.0.0.1", 9465)) != 0:
                    return False
                client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return client.recv(64).startswith(b"HTTP/1.1 200")

        kernel.until(answers, "/readyz", pause=0.001)
        return time.perf_counter() - self.started

    def cpu(self):
        """Seconds of processor time, of the `ip`s that it has run as well."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICK

    def highest_memory(self):
        return highest_memory(self.process.pid)

    def memory(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)

    def cleanup(self):
        """Seconds that removing everything of ours takes, as a command."""
        start = time.perf_counter()
        subprocess.run([self.binary, "cleanup"], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


class Children:
    """The highest resident memory of any `ip` that an agent runs, looked for all the time in the background."""

    def __init__(self, agent):
        self.path = f"/proc/{agent.process.pid}/task/{agent.process.pid}/children"
        self.highest, self.stopped = 0.0, False
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.stopped:
            try:
                with open(self.path, encoding="ascii") as children:
                    pids = children.read().split()
                for pid in pids:
                    # Until it has become `ip`, its memory is the agent's.
                    with open(f"/proc/{pid}/comm", encoding="ascii") as name:
                        if name.read().strip() == "ip":
                            self.highest = max(self.highest, highest_memory(pid))
            except (OSError, StopIteration):
                pass  # it ended meanwhile
            time.sleep(0.0005)

    def stop(self):
        self.stopped = True
        self.thread.join()
        return self.highest


def end_with_the_benchmark():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def processes_started():
    with open(COUNT, encoding="ascii") as lines:
        return len(lines.readlines())


def which(name):
    return next(f"{folder}/{name}" for folder in os.environ["PATH"].split(":") if os.access(f"{folder}/{name}", os.X_OK))

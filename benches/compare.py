#!/usr/bin/env python3
"""CPU time that ringway and twemproxy (nutcracker) need for a request, measured side by side.

    cargo build --release && python3 benches/compare.py

Both stand before the same four redis-servers with the same placement (ketama, fnv1a_64, the same
node names), one data worker each, on loopback ports that the kernel chose. redis-benchmark loads
them in turn; what counts is user and system time of the proxy's whole process, from
/proc/PID/stat, divided by the number of requests. That number is steadier than throughput where
proxy, nodes and load generator share the cores. Timeouts are long on both sides, or a busy machine
would eject nodes. Linux only.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
# Debian puts nutcracker where only root looks.
SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
NODES = 4
KEYS = 100_000
VALUE_BYTES = 64
START_SECONDS = 10
# What is measured: a name, redis-benchmark's arguments, requests in one run.
LOADS = [
    ("GET, 50 connections, no pipelining", ["-t", "get", "-c", "50"], 100_000),
    ("SET, 50 connections, depth 16", ["-t", "set", "-c", "50", "-P", "16"], 800_000),
    ("GET, 8 connections, depth 128", ["-t", "get", "-c", "8", "-P", "128"], 1_600_000),
]


def fail(message):
    sys.exit(f"compare.py: {message}")


def tool(name, package):
    path = shutil.which(name, path=SEARCH)
    if path is None:
        fail(f"{name} is missing: apt-get install {package}")
    return path


def free_ports(count):
    """Ports that nobody uses now: all are held until the last one is known."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(port, process, what):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            fail(f"{what} ended with {process.returncode} instead of serving")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    fail(f"{what} does not listen after {START_SECONDS} s")


class Fleet:
    """Everything that was started; all of it ends with the block."""

    def __enter__(self):
        self.processes = []
        self.directory = Path(tempfile.mkdtemp(prefix="ringway-compare-"))
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, command, port, what):
        log = open(self.directory / f"{what}.log", "wb")
        with log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        self.processes.append(process)
        wait_for(port, process, what)
        return process

    def redis(self, server, port):
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.start([server, *options], port, f"redis-{port}")

    def ringway(self, program, ports, listen, admin):
        nodes = "".join(
            f"      - {{name: n{i}, address: '127.0.0.1:{port}'}}\n" for i, port in enumerate(ports)
        )
        text = (
            f"workers: 1\nadmin: {{listen: '127.0.0.1:{admin}'}}\npools:\n  compare:\n"
            f"    listen: 127.0.0.1:{listen}\n"
            "    ring: {placement: ketama, hash: fnv1a_64}\n"
            "    request_timeout: 10s\n    deadline: 20s\n    health: {timeout: 10s, interval: 10s}\n"
            f"    nodes:\n{nodes}"
        )
        config = self.directory / "ringway.yaml"
        config.write_text(text)
        return self.start([program, "serve", "--config", str(config)], listen, "ringway")

    def twemproxy(self, program, ports, listen, stats):
        servers = "".join(f"   - 127.0.0.1:{port}:1 n{i}\n" for i, port in enumerate(ports))
        text = (
            f"compare:\n  listen: 127.0.0.1:{listen}\n  redis: true\n  hash: fnv1a_64\n"
            "  hash_tag: '{}'\n  distribution: ketama\n  timeout: 10000\n  auto_eject_hosts: true\n"
            f"  servers:\n{servers}"
        )
        config = self.directory / "nutcracker.yml"
        config.write_text(text)
        command = [program, "-c", str(config), "-a", "127.0.0.1", "-s", str(stats)]
        return self.start(command, listen, "nutcracker")


def cpu_seconds(pid):
    # Fields 14 and 15, counted behind the name, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(port):
    """Sets every key that redis-benchmark will ask for, through a proxy."""
    value = b"x" * VALUE_BYTES
    with socket.create_connection(("127.0.0.1", port)) as s:
        for first in range(0, KEYS, 1000):
            keys = (b"key:%012d" % i for i in range(first, first + 1000))
            s.sendall(
                b"".join(
                    b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(k), k, VALUE_BYTES, value)
                    for k in keys
                )
            )
            wanted = 1000 * len(b"+OK\r\n")
            reply = b""
            while len(reply) < wanted:
                chunk = s.recv(65536)
                if not chunk:
                    fail("a proxy closed the connection while the keys were set")
                reply += chunk
            if reply != b"+OK\r\n" * 1000:
                fail(f"setting the keys failed: {reply[:200]!r}")


def misses(port):
    """How many of a thousand keys have no value behind this proxy."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"".join(b"*2\r\n$3\r\nGET\r\n$16\r\nkey:%012d\r\n" % i for i in range(1000)))
        reply, hit = b"", b"$%d\r\n%b\r\n" % (VALUE_BYTES, b"x" * VALUE_BYTES)
        s.settimeout(5)
        while reply.count(b"\r\n") < 2 * reply.count(hit) + (1000 - reply.count(hit)):
            reply += s.recv(65536)
        return 1000 - reply.count(hit)


def measure(benchmark, pid, port, arguments, requests):
    """Microseconds of the proxy's CPU for one request."""
    command = [benchmark, "-h", "127.0.0.1", "-p", str(port), "-n", str(requests), "-r", str(KEYS)]
    command += ["-d", str(VALUE_BYTES), "-q", *arguments]
    before = cpu_seconds(pid)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0 or "Error" in done.stdout + done.stderr:
        fail(f"redis-benchmark failed: {done.stderr.strip()}")
    return (cpu_seconds(pid) - before) / requests * 1e6


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ringway", default=str(TREE / "target/release/ringway"), help="the program")
    parser.add_argument("--rounds", type=int, default=5, help="of each load with each proxy")
    return parser.parse_args()


def memory_gib():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def first_line(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def report(results, rounds):
    print(f"\nCPU of the proxy, µs per request: median of {rounds} rounds (least to most)\n")
    print("| load | ringway | twemproxy | ringway / twemproxy |")
    print("|---|---|---|---|")
    for name, *_ in LOADS:
        ours, theirs = results[name, "ringway"], results[name, "twemproxy"]
        cells = [
            f"{statistics.median(all_):.2f} ({min(all_):.2f} to {max(all_):.2f})" for all_ in (ours, theirs)
        ]
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratio:.2f} |")


def main():
    arguments = parse_arguments()
    if not os.access(arguments.ringway, os.X_OK):
        fail(f"{arguments.ringway} is missing: cargo build --release")
    nutcracker = tool("nutcracker", "nutcracker")
    benchmark = tool("redis-benchmark", "redis-tools")
    server = tool("redis-server", "redis-server")
    print(f"{time.strftime('%Y-%m-%d')}: {os.cpu_count()} cores, {memory_gib():.0f} GiB, Linux {os.uname().release}")
    for command in ([arguments.ringway, "--version"], [nutcracker, "--version"], [server, "--version"]):
        print(first_line(command))
    with Fleet() as fleet:
        *ports, listen, admin, other, stats = free_ports(NODES + 4)
        for port in ports:
            fleet.redis(server, port)
        proxies = {
            "ringway": (fleet.ringway(arguments.ringway, ports, listen, admin).pid, listen),
            "twemproxy": (fleet.twemproxy(nutcracker, ports, other, stats).pid, other),
        }
        fill(listen)
        if misses(other):
            fail("the two proxies do not place keys alike")
        results = {}
        # Round 0 warms up and does not count. The order turns, so that neither is always first.
        for turn in range(arguments.rounds + 1):
            for name, load, requests in LOADS:
                for proxy in sorted(proxies, reverse=turn % 2 == 1):
                    pid, port = proxies[proxy]
                    cost = measure(benchmark, pid, port, load, requests)
                    if turn > 0:
                        results.setdefault((name, proxy), []).append(cost)
                        print(f"round {turn}: {proxy:9} {name}: {cost:.2f}", flush=True)
    report(results, arguments.rounds)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""CPU of the proxy for a request of memcached's text protocol: ringway beside twemproxy.

    cargo build --release && python3 benches/memcached.py [--rounds N]

Four memcacheds, then ringway and nutcracker in turn, interleaved round by round, the same work:
gets and sets 9 to 1 of 64 bytes over 50 connections, one request at a time and 16 at a time. Every
reply's length is checked. CPU is that of the proxy's process, user and system, all threads.
"""
import argparse, os, pathlib, selectors, shutil, socket, statistics, subprocess, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent.parent
NODES, CONNECTIONS, KEYS, VALUE = 4, 50, 1000, b"v" * 64
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait(port):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


def start(*words):
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ringway(folder, nodes, port):
    lines = "".join(f"      - {{name: n{i}, address: 127.0.0.1:{p}}}\n" for i, p in enumerate(nodes))
    path = folder / "ringway.yaml"
    path.write_text(
        f"workers: 1\nadmin: {{listen: 127.0.0.1:{free_port()}}}\npools:\n  p:\n    protocol: memcached\n"
        f"    listen: 127.0.0.1:{port}\n    nodes:\n{lines}"
    )
    return start(str(HERE / "target/release/ringway"), "serve", "--config", str(path))


def nutcracker(folder, nodes, port):
    lines = "".join(f"  - 127.0.0.1:{p}:1\n" for p in nodes)
    path = folder / "nutcracker.yml"
    path.write_text(f"p:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  timeout: 4000\n  servers:\n{lines}")
    return start("nutcracker", "-c", str(path), "-s", str(free_port()), "-v", "0")


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def batch(at, depth):
    """Requests, and how many bytes answer them."""
    out, expected = [], 0
    for i in range(at, at + depth):
        key = b"key:%06d" % (i * 7919 % KEYS)
        if i % 10 == 0:
            out.append(b"set %s 0 0 64\r\n%s\r\n" % (key, VALUE))
            expected += len(b"STORED\r\n")
        else:
            out.append(b"get %s\r\n" % key)
            expected += len(b"VALUE %s 0 64\r\n%s\r\nEND\r\n" % (key, VALUE))
    return b"".join(out), expected


def drive(port, pid, depth, total):
    """Microseconds of the proxy's CPU for a request."""
    with socket.create_connection(("127.0.0.1", port)) as filler:
        for i in range(KEYS):
            filler.sendall(b"set key:%06d 0 0 64\r\n%s\r\n" % (i, VALUE))
            assert filler.recv(100) == b"STORED\r\n"
    batches = [batch(at * depth, depth) for at in range(200)]
    selector = selectors.DefaultSelector()
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    before, sent, done, next_batch = cpu(pid), 0, 0, 0
    for client in clients:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ, [0])
        client.sendall(batches[next_batch % 200][0])
        selector.get_key(client).data[0] = batches[next_batch % 200][1]
        next_batch, sent = next_batch + 1, sent + depth
    while done < sent:
        for key, _ in selector.select(5) or [(None, 0)]:
            assert key, "no reply for 5 s"
            got = len(key.fileobj.recv(1 << 16))
            assert got, "closed"
            key.data[0] -= got
            assert key.data[0] >= 0, "more bytes than were asked for"
            if key.data[0] == 0:
                done += depth
                if sent < total:
                    request, key.data[0] = batches[next_batch % 200]
                    key.fileobj.sendall(request)
                    next_batch, sent = next_batch + 1, sent + depth
    used = cpu(pid) - before
    for client in clients:
        client.close()
    return used / done * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    os.environ["PATH"] += ":/usr/sbin"
    for program in ("memcached", "nutcracker"):
        if not shutil.which(program):
            raise SystemExit(f"{program} is not here; install Debian's package of that name")
    running = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        try:
            ports = [free_port() for _ in range(NODES)]
            running += [start("memcached", "-l", "127.0.0.1", "-p", str(p), "-U", "0", "-u", "nobody") for p in ports]
            for port in ports:
                wait(port)
            proxies = {}
            for label, make in (("ringway", ringway), ("twemproxy", nutcracker)):
                port = free_port()
                running.append(make(folder, ports, port))
                wait(port)
                proxies[label] = (port, running[-1].pid)
            print("| depth | ringway, us | twemproxy, us | ratio | spread of the ratio |\n|---|---|---|---|---|")
            for depth, total in ((1, 40_000), (16, 240_000)):
                figures = [{l: drive(*p, depth, total) for l, p in proxies.items()} for _ in range(rounds)]
                ratios = [f["ringway"] / f["twemproxy"] for f in figures]
                ours, theirs = (statistics.median(f[l] for f in figures) for l in proxies)
                print(
                    f"| {depth} | {ours:.2f} | {theirs:.2f} | {statistics.median(ratios):.2f} "
                    f"| {min(ratios):.2f} to {max(ratios):.2f} |",
                    flush=True,
                )
        finally:
            for process in running:
                process.kill()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes src/protocol/resp/commands.tsv from what real servers say about their commands.

    python3 tests/data/commands.py redis=redis-server valkey=valkey-server > commands.tsv
    python3 tests/data/commands.py --check src/protocol/resp/commands.tsv redis=redis-server

Each server is started on a socket in a directory of its own, asked, and stopped. With --check the
rows of the named servers are compared with the file; differences are printed, and the exit code is
1. A row is written once when all servers that know the command agree, else once per server; the
servers are named from the oldest to the newest. Standard library only.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time

COLUMNS = "name servers arity flags categories tips range keys group since".split()


class Server:
    """A child process that ends with the `with` block, and one connection to it."""

    def __init__(self, program):
        self.program = program

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        path = os.path.join(self.directory.name, "socket")
        self.process = subprocess.Popen(
            [self.program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", self.directory.name],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.socket = self.connect(path)
        except BaseException:
            self.__exit__()
            raise
        self.stream = self.socket.makefile("rb")
        return self

    def connect(self, path):
        deadline = time.monotonic() + 20
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(path)
                return link
            except OSError:
                link.close()
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.program} does not answer")
                time.sleep(0.02)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.directory.cleanup()

    def ask(self, *args):
        parts = [b"*%d\r\n" % len(args)]
        parts += [b"$%d\r\n%s\r\n" % (len(arg), arg.encode()) for arg in args]
        self.socket.sendall(b"".join(parts))
        return self.reply()

    def reply(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise SystemExit(f"{self.program} says {line!r}")


def pairs(flat):
    return dict(zip(flat[::2], flat[1::2]))


def search(words):
    """One half of a key specification: `index:1`, `keyword:STREAMS:1`, `range:-1:1:2`."""
    half = pairs(words)
    return ":".join([half["type"]] + [str(v) for v in half["spec"][1::2]])


def key_spec(flat):
    spec = pairs(flat)
    return " ".join([",".join(spec["flags"]), search(spec["begin_search"]), search(spec["find_keys"])])


def rows(server):
    """name -> its columns but for `servers`, subcommands included."""
    docs = {}

    def note(flat):
        for name, text in pairs(flat).items():
            docs[name] = pairs(text)
            note(docs[name].get("subcommands", []))

    note(server.ask("COMMAND", "DOCS"))
    found = {}

    def row(entry):
        name, arity, flags, first, last, step, categories, tips, specs, subcommands = entry[:10]
        found[name] = {
            "name": name,
            "arity": str(arity),
            "flags": ",".join(flags),
            "categories": ",".join(categories),
            "tips": ",".join(tips),
            "range": f"{first},{last},{step}",
            "keys": "; ".join(key_spec(spec) for spec in specs),
            "group": docs[name]["group"],
            "since": docs[name]["since"],
        }
        for subcommand in subcommands:
            row(subcommand)

    for entry in server.ask("COMMAND"):
        row(entry)
    return found


def version(server):
    info = dict(line.split(":", 1) for line in server.ask("INFO", "server").split("\r\n") if ":" in line)
    return info.get("valkey_version", info["redis_version"])


def merged(servers):
    """Rows in order of name; of two rows for one command the older server's comes first."""
    by_row = {}
    for word, found in servers.items():
        for name, row in found.items():
            by_row.setdefault((name, tuple(row[c] for c in COLUMNS if c != "servers")), []).append(word)
    order = {word: at for at, word in enumerate(servers)}
    entries = sorted(by_row.items(), key=lambda entry: (entry[0][0].split("|"), order[entry[1][0]]))
    for (_, values), words in entries:
        columns = list(values)
        columns.insert(COLUMNS.index("servers"), ",".join(words))
        yield "\t".join(columns)


def check(path, servers):
    recorded = {word: {} for word in servers}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("#"):
                continue
            row = dict(zip(COLUMNS, line.rstrip("\n").split("\t")))
            for word in row.pop("servers").split(","):
                if word in recorded:
                    recorded[word][row["name"]] = row
    different = 0
    for word, found in servers.items():
        for name in sorted(recorded[word].keys() | found.keys()):
            if recorded[word].get(name) != found.get(name):
                different += 1
                print(f"{name}: the table has {recorded[word].get(name)}, {word} says {found.get(name)}")
    return different


def main():
    arguments = sys.argv[1:]
    path = None
    if arguments[:1] == ["--check"]:
        path, arguments = arguments[1], arguments[2:]
    if not arguments:
        raise SystemExit(__doc__)
    servers, versions = {}, {}
    for argument in arguments:
        word, program = argument.split("=", 1)
        with Server(program) as server:
            servers[word], versions[word] = rows(server), version(server)
    if path:
        sys.exit(1 if check(path, servers) else 0)
    print("# What servers say about their commands, by tests/data/commands.py from " +
          ", ".join(f"{word} {v}" for word, v in versions.items()) + ".")
    print("# " + "\t".join(COLUMNS))
    for line in merged(servers):
        print(line)


main()

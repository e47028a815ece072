#!/usr/bin/env python3
"""Writes tests/data/memcached-replies.txt: requests, and what memcached answers to them.

    python3 tests/data/memcached.py memcached > tests/data/memcached-replies.txt
    python3 tests/data/memcached.py --check tests/data/memcached-replies.txt memcached

Each section gets a server of its own, on a socket in a directory of its own, and one connection.
With --check what is recorded is asked again; differences are printed, and the exit code is 1.
Standard library only.

The file, line by line:

    # text      a comment
    = name      a section begins: a server with nothing in it
    > bytes     a request, sent as one piece
    < bytes     all that was answered to it; nothing behind the blank for no answer
    !           the server closed the connection instead of, or after, that answer; the next request
                has a new one

Bytes are printable ASCII, and \\r \\n \\\\ \\xNN (two hexadecimal digits) \\{N:c} (N times the byte c).
"""

import getpass
import os
import re
import socket
import subprocess
import sys
import tempfile
import time

# Asked behind each request: its answer is the end of what is said to the request.
FENCE, FENCE_REPLY = b"mg \x01 Ofence\r\n", b"EN Ofence\r\n"
# How long nothing is said before that is taken for the end, where a fence is not understood.
SILENCE_SECONDS = 0.1


class Server:
    """A memcached that ends with the `with` block."""

    def __init__(self, program, options):
        self.program, self.options = program, options

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "socket")
        options = list(self.options)
        if "-Y" in options:
            passwords = os.path.join(self.directory.name, "passwords")
            with open(passwords, "w") as file:
                file.write("user:secret\n")
            options[options.index("-Y") + 1] = passwords
        self.process = subprocess.Popen(
            [self.program, "-u", getpass.getuser(), "-s", self.path, "-t", "1", *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def connect(self):
        deadline = time.monotonic() + 20
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(self.path)
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


def ask(link, request, fenced):
    """The answer to a request, and whether the server closed the connection."""
    fenced = fenced and request.endswith(b"\n")
    link.settimeout(20 if fenced else SILENCE_SECONDS)
    link.sendall(request + (FENCE if fenced else b""))
    answer = b""
    while True:
        try:
            piece = link.recv(65536)
        except ConnectionResetError:
            piece = b""
        except TimeoutError:
            if fenced:
                raise SystemExit(f"no answer to {escape(request)}") from None
            return answer, False
        if not piece:
            return answer, True
        answer += piece
        if fenced and answer.endswith(FENCE_REPLY):
            return answer[: -len(FENCE_REPLY)], False


def unescape(text):
    def one(found):
        word = found.group(0)
        if word.startswith("\\{"):
            return found.group(2) * int(found.group(1))
        if word.startswith("\\x"):
            return chr(int(word[2:], 16))
        return {"\\r": "\r", "\\n": "\n", "\\\\": "\\"}[word]

    return re.sub(r"\\\{(\d+):(.)\}|\\x[0-9a-f]{2}|\\[rn\\]", one, text).encode("latin-1")


def escape(data):
    text = ""
    for run in re.finditer(rb"(.)\1*", data, re.S):
        byte, count = run.group(0)[0], len(run.group(0))
        if count > 30 and 32 < byte < 127 and byte not in b"\\{}":
            text += "\\{%d:%c}" % (count, byte)
            continue
        word = {10: "\\n", 13: "\\r", 92: "\\\\"}.get(byte)
        text += count * (word or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"))
    return text


# Section, options of the server, requests.
SCRIPT = [
    ("lines", [], r"""
        \r\n
        \n
          \r\n
        x\r\n
        nonsense\r\n
        GET a\r\n
        g\r\n
        gets\r\n
        get\r\n
        get \r\n
        getx a\r\n
        get a\r\n
        get a\n
           get    a   \r\n
        get a\r\r\n
        get a\x00b c\r\n
        get\x00 a\r\n
        get \x01\x02\r\n
        get a\x09b\r\n
        get \x80\xff\r\n
        get \{250:k}\r\n
        get \{251:k}\r\n
        get a \{251:k} b\r\n
        gets a b\r\n
        bget a\r\n
        get a b c d e f g h i j k l m n o p q r s t u v w x y z\r\n
        mget a\r\n
        m\r\n
        mx a\r\n
        mn\r\n
        mn a b\r\n
        sett a 0 0 1\r\n
        incrr a 1\r\n
        deletes a\r\n
        touchy a\r\n
        addd a 0 0 1\r\n
        casx\r\n
        versions\r\n
        verbosity\r\n
        verbosity 0\r\n
        verbosity x\r\n
        verbosity 0 noreply\r\n
        verbosity noreply\r\n
        verbosity 0 0 0\r\n
        version\r\n
        version 1 2 3\r\n
        foo HTTP/1.1\r\n
        GET / HTTP/1.1\r\n
        quit\r\n
        quit now\r\n
        get a\r\nquit\r\nget b\r\n
        \{3000:x}
        set a 0 0 \{3000:1}
        \{3000:x}\r\n
        \x81\r\n
        shutdown\r\n
        stats nonsense\r\n
        """),
    ("storage", [], r"""
        set a 0 0 5\r\nhello\r\n
        get a\r\n
        gets a\r\n
        get a a\r\n
        get a x a\r\n
        set a 5 0 0\r\n\r\n
        get a\r\n
        set a 4294967295 0 1\r\nx\r\n
        get a\r\n
        set a -1 0 1\r\nx\r\n
        set a x 0 1\r\n
        set a 0 x 1\r\n
        set a 0 0 x\r\n
        set a 0 0 -1\r\n
        set a 0 0 -1 noreply\r\n
        set a 0 0 2147483647\r\n
        set a 0 0 1x\r\n
        set a 0 0\r\n
        set a\r\n
        set\r\n
        set a 0 0 1 noreply extra\r\n
        set a 0 0 1 extra\r\ny\r\n
        get a\r\n
        set a 0 0 1 noreply\r\nz\r\n
        get a\r\n
        set a 0 0 noreply\r\n
        set a x 0 1 noreply\r\n
        set \{250:k} 0 0 1\r\nx\r\n
        get \{250:k}\r\n
        set \{251:k} 0 0 1\r\n
        set \{251:k} 0 0 1\r\nx\r\n
        set \{251:k} 0 0 1 noreply\r\n
        set a 0 0 3\r\nabcd\r\n
        set a 0 0 3\r\nab\r\nmn\r\n
        set a 0 0 3 noreply\r\nabcde\r\n
        get a\r\n
        set a 0 0 2\n\r\n\r\n
        get a\r\n
        set a 0 -1 1\r\nx\r\n
        get a\r\n
        set a 0 2592001 1\r\nx\r\n
        get a\r\n
        set a 007 0 01\r\nx\r\n
        get a\r\n
        add a 0 0 1\r\nx\r\n
        add b 0 0 1\r\nx\r\n
        replace b 0 0 1\r\ny\r\n
        replace c 0 0 1\r\ny\r\n
        append b 9 0 1\r\nz\r\n
        prepend b 9 0 1\r\na\r\n
        append c 0 0 1\r\nz\r\n
        prepend c 0 0 1\r\nz\r\n
        get b\r\n
        append b 0 0 1 noreply\r\n!\r\n
        prepend c 0 0 1 noreply\r\n!\r\n
        add b 0 0 1 noreply\r\n!\r\n
        replace c 0 0 1 noreply\r\n!\r\n
        get b\r\n
        delete a\r\n
        delete a\r\n
        delete b noreply\r\n
        delete b noreply\r\n
        delete b 0\r\n
        delete b 0 noreply\r\n
        delete b 5\r\n
        delete b 5 noreply\r\n
        delete b 0 5\r\n
        delete b 0 noreply x\r\n
        delete\r\n
        delete noreply\r\n
        delete \{251:k}\r\n
        delete \{251:k} noreply\r\n
        set big 0 0 1048576\r\n\{1048576:x}\r\n
        set big 0 0 1048576 noreply\r\n\{1048576:x}\r\n
        ms big 1048576 q\r\n\{1048576:x}\r\n
        get big\r\n
        """),
    ("cas", [], r"""
        cas a 0 0 1 1\r\nx\r\n
        set a 0 0 1\r\nx\r\n
        gets a\r\n
        gets a a b\r\n
        cas a 0 0 1 999\r\ny\r\n
        cas a 0 0 1 1\r\ny\r\n
        gets a\r\n
        cas a 0 0 1 x\r\n
        cas a 0 0 1 -1\r\n
        cas a 0 0 1\r\n
        cas a 0 0 1 noreply\r\n
        cas a 0 0 1 2 noreply\r\nz\r\n
        cas a 0 0 1 2 noreply\r\nz\r\n
        gets a\r\n
        cas a 0 0 1 3 noreply x\r\n
        cas a 0 0 1 3\r\nzzz\r\n
        """),
    ("counters", [], r"""
        incr a 1\r\n
        decr a 1\r\n
        set a 0 0 1\r\n9\r\n
        incr a 1\r\n
        get a\r\n
        decr a 1\r\n
        get a\r\n
        decr a 100\r\n
        incr a 18446744073709551615\r\n
        incr a 1\r\n
        incr a 18446744073709551616\r\n
        incr a -1\r\n
        incr a x\r\n
        incr a 1x\r\n
        incr a\r\n
        incr\r\n
        incr a 1 2\r\n
        incr a 1 noreply\r\n
        incr a noreply\r\n
        decr a x noreply\r\n
        incr a 1 2 3\r\n
        incr a +1\r\n
        get a\r\n
        set b 0 0 1\r\nx\r\n
        incr b 1\r\n
        incr b 1 noreply\r\n
        decr \{251:k} 1\r\n
        decr \{251:k} 1 noreply\r\n
        incr missing 1 noreply\r\n
        """),
    ("touch", [], r"""
        touch a 0\r\n
        set a 3 0 1\r\nx\r\n
        touch a 100\r\n
        touch a x\r\n
        touch a x noreply\r\n
        touch a noreply\r\n
        touch a\r\n
        touch a 1 2 3\r\n
        touch a 100 noreply\r\n
        touch a 100 x\r\n
        touch missing 0 noreply\r\n
        touch \{251:k} 0\r\n
        gat\r\n
        gat 0\r\n
        gat x\r\n
        gat x a\r\n
        gat 0 a\r\n
        gat 0 b a b a\r\n
        gats 0 a\r\n
        gats 0 a b\r\n
        gat 0 \{251:k}\r\n
        gat 0 a \{251:k}\r\n
        gat -1 a\r\n
        get a\r\n
        touch a -1\r\n
        """),
    ("flush", [], r"""
        set a 0 0 1\r\nx\r\n
        flush_all x\r\n
        flush_all x noreply\r\n
        flush_all 0 0 0\r\n
        flush_all noreply 0\r\n
        get a\r\n
        flush_all\r\n
        get a\r\n
        flush_all noreply\r\n
        flush_all 0\r\n
        flush_all -1\r\n
        flush_all 0 noreply\r\n
        flush_all 100 noreply\r\n
        flush_all 0 0\r\n
        """),
    ("meta get", [], r"""
        mg\r\n
        mg a\r\n
        mg a v\r\n
        mg a v q\r\n
        mg a v q\r\nmg a v\r\nmg a q Ox\r\n
        mg a k Oabc\r\n
        mg a Oabc k v s f t c h l\r\n
        set a 7 0 5\r\nhello\r\n
        mg a\r\n
        mg a h l\r\n
        mg a v h\r\n
        mg a v\r\n
        mg a q\r\n
        mg a v q\r\n
        mg a s v f t c k O1 h l\r\n
        mg a k O1 q v\r\n
        mg a P1 Lx v\r\n
        mg a u v\r\n
        mg a v v\r\n
        mg a q q\r\n
        mg a q x q\r\n
        mg a !\r\n
        mg a ! v v\r\n
        mg a \xff\r\n
        mg a x\r\n
        mg a E1\r\n
        mg a C1\r\n
        mg a N\r\n
        mg a Nx\r\n
        mg a Tx\r\n
        mg a R\r\n
        mg a T\r\n
        mg a F\r\n
        mg a Fx q\r\n
        mg a M\r\n
        mg a Mxx\r\n
        mg a Jx\r\n
        mg a Dx\r\n
        mg a O\{31:o}\r\n
        mg a O\{32:o}\r\n
        mg b O\{32:o} q\r\n
        mg a vfoo\r\n
        mg b qfoo\r\n
        mg \{250:k}\r\n
        mg \{251:k}\r\n
        mg \{251:k} q\r\n
        mg a 1 2 3 4 5 6 7 8 9 0 A B C D E F G\r\n
        mg a 1 2 3 4 5 6 7 8 9 0 A B C D E F G H\r\n
        mg a 1 2 3 4 5 6 7 8 9 0 A B C D E F G H I J K L M N O P\r\n
        mg b N100 v c t\r\n
        mg b N0 v q\r\n
        mg b v q\r\n
        mg a T0 v t\r\n
        mg a R10 v\r\n
        """),
    ("meta set", [], r"""
        ms\r\n
        ms a\r\n
        ms a x\r\n
        ms a -1\r\n
        ms a 1x\r\n
        ms a 2147483647\r\n
        ms a S1\r\n
        ms a 1\r\nx\r\n
        ms a 1 q\r\nx\r\n
        ms a 1 q\r\nxy\r\n
        ms a 1\r\nxy\r\n
        ms a 1 c k O5\r\ny\r\n
        ms a 1 c k O5 q\r\ny\r\n
        ms a 1 C1\r\nz\r\n
        ms a 1 C1 q O7 k\r\nz\r\n
        ms missing 1 C1 q O7\r\nz\r\n
        ms a 1 ME q\r\nz\r\n
        ms a 1 ME k\r\nz\r\n
        ms new 1 ME\r\nz\r\n
        ms a 1 MA\r\n1\r\n
        ms a 1 MP q\r\n0\r\n
        ms a 1 MR\r\nr\r\n
        ms a 1 MS\r\ns\r\n
        ms none 1 MA\r\n1\r\n
        ms none 1 MA N0\r\n1\r\n
        ms none 1 MR q\r\n1\r\n
        ms a 1 MX\r\n1\r\n
        ms a 1 MX q\r\n1\r\n
        ms a 1 M\r\n1\r\n
        ms a 1 MEE\r\n1\r\n
        ms a 1 !\r\n1\r\n
        ms a 1 ! q\r\n1\r\n
        ms a 1 q q\r\n1\r\n
        ms a 1 c c\r\n1\r\n
        ms a 1 Tx\r\n1\r\n
        ms a 1 Fx\r\n1\r\n
        ms a 1 Cx\r\n1\r\n
        ms a 1 E5\r\n1\r\n
        ms a 1 s\r\n1\r\n
        ms a 1 F5 T0\r\n1\r\n
        mg a f v t\r\n
        ms a 1 I C1\r\n1\r\n
        ms a 1 O\{32:o}\r\n1\r\n
        ms \{251:k} 1\r\n
        ms \{251:k} 1 q\r\nx\r\n
        ms a 1 1 2 3 4 5 6 7 8 9 0 A B C D E F G\r\n
        ms a 0\r\n\r\n
        mg a v s\r\n
        ms a 02\r\nxy\r\n
        ms a 2 T-1\r\nxy\r\n
        mg a v\r\n
        """),
    ("meta delete", [], r"""
        md\r\n
        md a\r\n
        md a q\r\n
        md a k O1\r\n
        ms a 1\r\nx\r\n
        md a q\r\n
        md a q\r\n
        ms a 1\r\nx\r\n
        md a C9\r\n
        md a C9 q O1\r\n
        md a I T30\r\n
        mg a v\r\n
        mg a v\r\n
        md a I q\r\n
        mg a v q k\r\n
        md a k O3\r\n
        md a q q\r\n
        md a !\r\n
        md a x\r\n
        md a Tx\r\n
        md \{251:k}\r\n
        md a O\{32:o}\r\n
        md a 1 2 3 4 5 6 7 8 9 0 A B C D E F G H\r\n
        """),
    ("stale", [], r"""
        ms a 1\r\nx\r\n
        mg a c v\r\n
        md a I T30\r\n
        mg a c v\r\n
        mg a c v\r\n
        ms a 1 C1 I\r\ny\r\n
        mg a v\r\n
        mg a v\r\n
        ms a 1\r\nz\r\n
        mg a v\r\n
        mg b N30 v\r\n
        mg b N30 v\r\n
        mg b v\r\n
        ms b 1 T30\r\nw\r\n
        mg b R60 v\r\n
        mg b R60 v\r\n
        mg b R10 v\r\n
        """),
    ("meta arithmetic", [], r"""
        ma\r\n
        ma a\r\n
        ma a q\r\n
        ma a k O1\r\n
        ma a N0\r\n
        ma a\r\n
        ma a v\r\n
        ma a q\r\n
        ma a v q\r\n
        ma a v t c k O1\r\n
        ma a v D10\r\n
        ma a v MD D5\r\n
        ma a v M- D100\r\n
        ma a v M+\r\n
        ma a v MI\r\n
        ma a MX\r\n
        ma a MX q\r\n
        ma a M\r\n
        ma a Dx\r\n
        ma a D-1\r\n
        ma a Jx\r\n
        ma b N0 J13 v\r\n
        ma b N0 J13 v\r\n
        ma c N0 J13 v q\r\n
        ma a C1\r\n
        ma a C1 q k\r\n
        ma a q q\r\n
        ma a !\r\n
        ms s 1\r\nx\r\n
        ma s\r\n
        ma s q\r\n
        ma \{251:k}\r\n
        ma a O\{32:o}\r\n
        ma a 1 2 3 4 5 6 7 8 9 0 A B C D E F G H\r\n
        """),
    ("meta debug", [], r"""
        me\r\n
        me a\r\n
        me a b\r\n
        me YQ== b\r\n
        me a q\r\n
        me \{251:k}\r\n
        """),
    ("base64", [], r"""
        ms Zm9v 3 b\r\nbar\r\n
        get foo\r\n
        mg foo v k\r\n
        mg Zm9v v k b\r\n
        mg Zm9v k b O1 v\r\n
        mg Zm9v= b v\r\n
        mg Zm9v!! b v\r\n
        mg !!!! b v\r\n
        mg Zm9 b v\r\n
        mg Zm9 b v q\r\n
        mg Zg== b k\r\n
        mg Zg== b k q\r\n
        mg Zg=== b k\r\n
        mg Z=== b k\r\n
        mg Zg==Zg== b k\r\n
        mg Zm9v b b\r\n
        mg Zm9v v k b2\r\n
        ms !!!! 1 b\r\nx\r\n
        ms Zm9 1 b q\r\nx\r\n
        md !!!! b\r\n
        ma !!!! b\r\n
        ms AAEC 3 b c\r\nbin\r\n
        mg AAEC v k b\r\n
        md AAEC k b\r\n
        ma AAEC b k N0 v\r\n
        md Zm9v q b\r\n
        get foo\r\n
        """),
    ("fence", [], r"""
        mg a v q\r\nmg b v q\r\nmn\r\n
        ms a 1 q\r\nx\r\nms b 1 q\r\ny\r\nmg a v q\r\nmg none v q\r\nmg b v q\r\nmd none q\r\nmn\r\n
        set c 0 0 1 noreply\r\nz\r\nget c\r\ndelete c noreply\r\nget c\r\nmn\r\n
        """),
    ("auth", ["-Y", "FILE"], r"""
        get a\r\n
        version\r\n
        mn\r\n
        set a\r\n
        set a 0 0 x\r\n
        add a 0 0 11\r\n
        set a 0 0 10\r\nuser wrong\r\n
        set a 0 0 4\r\nuser\r\n
        set a 0 0 4\r\nuser secret\r\n
        set a 0 0 16\r\nuser secret more\r\n
        get a\r\n
        set a 0 0 1\r\nx\r\n
        get a\r\n
        """),
]


def sections(path):
    """The requests of a recording, with their answers."""
    found, name = [], None
    with open(path, encoding="latin-1") as file:
        for line in file.read().splitlines():
            if line.startswith("= "):
                found.append((line[2:], []))
            elif line.startswith("> "):
                found[-1][1].append([unescape(line[2:]), b"", False])
            elif line.startswith("<"):
                found[-1][1][-1][1] = unescape(line[2:])
            elif line == "!":
                found[-1][1][-1][2] = True
    return found


def record(program, options, requests):
    answers = []
    with Server(program, options) as server:
        link = server.connect()
        for request in requests:
            answer, closed = ask(link, request, not options)
            answers.append([request, answer, closed])
            if closed:
                link = server.connect()
    return answers


def main(arguments):
    check = None
    if arguments[:1] == ["--check"]:
        check, arguments = arguments[1], arguments[2:]
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    options = {name: options for name, options, _ in SCRIPT}
    if check:
        differ = False
        for name, cases in sections(check):
            for old, new in zip(cases, record(arguments[0], options[name], [c[0] for c in cases])):
                if old != new:
                    differ = True
                    print(f"{name}: {escape(old[0])}\n  was {escape(old[1])} now {escape(new[1])}")
        raise SystemExit(differ)
    version = subprocess.run([arguments[0], "-V"], capture_output=True, text=True).stdout.strip()
    print(f"# Written by tests/data/memcached.py, which explains the form. {version}, as it comes.")
    for name, options, script in SCRIPT:
        requests = [unescape(line.removeprefix("        ")) for line in script.split("\n") if line.strip()]
        print(f"\n= {name}")
        for request, answer, closed in record(arguments[0], options, requests):
            print(f"> {escape(request)}\n< {escape(answer)}".rstrip(" "))
            if closed:
                print("!")


if __name__ == "__main__":
    main(sys.argv[1:])

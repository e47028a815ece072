"""pymemcache at its default settings against ringway: pymemcache_client.py HOST PORT. Ends with `ok`."""

import sys

from pymemcache.client.base import Client, PooledClient

HOST, PORT = sys.argv[1], int(sys.argv[2])


def same(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def plain(client):
    client.flush_all(noreply=False)
    # Its writes ask for no reply unless they are told to; the reads behind them still fit.
    same(client.set("a", b"1"), True)
    same(client.get("a"), b"1")
    same(client.get("none"), None)
    pairs = {f"key:{i}": str(i).encode() for i in range(100)}
    same(client.set_many(pairs), [])
    same(client.get_many(list(pairs) + ["none"]), pairs)
    same(client.delete_many(["key:1", "key:2"]), True)
    same(client.get("key:1"), None)
    same(client.add("a", b"2", noreply=False), False)
    same(client.replace("a", b"5", noreply=False), True)
    same(client.incr("a", 3), 8)
    same(client.decr("a", 1), 7)
    same(client.append("a", b"x", noreply=False), True)
    value, cas = client.gets("a")
    same(client.cas("a", b"new", cas, noreply=False), True)
    same(client.cas("a", b"late", cas, noreply=False), False)
    same(client.touch("a", 100, noreply=False), True)
    same(client.get("a"), b"new")
    large = b"x" * 900_000
    same(client.set("large", large, noreply=False), True)
    same(client.get("large"), large)
    assert client.version().startswith(b"1.6.")
    assert b"ringway_nodes" in client.stats()
    client.quit()


plain(Client((HOST, PORT)))
pooled = PooledClient((HOST, PORT), max_pool_size=4)
same(pooled.set("p", b"1"), True)
same(pooled.get("p"), b"1")
print("ok")

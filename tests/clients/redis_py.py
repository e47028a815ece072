"""redis-py at its default settings against ringway: redis_py.py HOST PORT. Ends with `ok`."""

import asyncio
import sys

import redis
import redis.asyncio

HOST, PORT = sys.argv[1], int(sys.argv[2])


def same(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def plain(**settings):
    r = redis.Redis(host=HOST, port=PORT, decode_responses=True, **settings)
    r.flushall()
    same(r.ping(), True)
    same(r.set("a", "1", ex=100), True)
    same(r.get("a"), "1")
    same(r.get("none"), None)
    pairs = {f"key:{i}": str(i) for i in range(100)}
    same(r.mset(pairs), True)
    same(r.mget(list(pairs)), list(pairs.values()))
    same(r.incrby("n", 5), 5)
    same(r.hset("h", mapping={"x": "1", "y": "2"}), 2)
    same(r.hgetall("h"), {"x": "1", "y": "2"})
    same(r.zadd("z", {"a": 1.5, "b": 2}), 2)
    same([(m, float(s)) for m, s in r.zrange("z", 0, -1, withscores=True)], [("a", 1.5), ("b", 2.0)])
    same(r.smembers("none"), set())
    same(r.rpush("l", "x", "y"), 2)
    same(sorted(r.scan_iter(match="key:*", count=7)), sorted(pairs))
    same(r.dbsize(), 105)
    same(r.delete(*pairs), 100)

    pipe = r.pipeline(transaction=False)
    for i in range(200):
        pipe.set(f"p:{i}", i)
        pipe.get(f"p:{i}")
    pipe.lpush("a", "wrong type")
    replies = pipe.execute(raise_on_error=False)
    same(replies[:400], [x for i in range(200) for x in (True, str(i))])
    assert isinstance(replies[400], redis.ResponseError), replies[400]

    script = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    for i in range(20):
        same(script(keys=[f"s:{i}"], args=[3]), 3)
    with r.pipeline() as transaction:
        try:
            transaction.set("x", "1").execute()
        except redis.ResponseError as error:
            assert "transaction" in str(error), error
        else:
            raise AssertionError("MULTI is refused by name")
    same(r.get("a"), "1")
    r.client_setname("me")
    same(r.client_getname() is not None, True)
    same(r.info()["redis_version"][0].isdigit(), True)


async def asynchronous(**settings):
    r = redis.asyncio.Redis(host=HOST, port=PORT, decode_responses=True, **settings)

    async def one(i):
        await r.set(f"async:{i}", i)
        same(await r.get(f"async:{i}"), str(i))

    await asyncio.gather(*(one(i) for i in range(100)))
    async with r.pipeline(transaction=False) as pipe:
        for i in range(100):
            pipe.get(f"async:{i}")
        same(await pipe.execute(), [str(i) for i in range(100)])
    same(len([key async for key in r.scan_iter(match="async:*")]), 100)
    await r.aclose()


for settings in ({}, {"protocol": 2}, {"protocol": 3}):
    plain(**settings)
    asyncio.run(asynchronous(**settings))
print("ok")

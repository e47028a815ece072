// ioredis at its default settings against ringway: node ioredis.mjs MODULES HOST PORT. Ends with `ok`.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, host, port] = process.argv.slice(2);
const Redis = createRequire(`${modules}/`)("ioredis");

const redis = new Redis(Number(port), host);
await redis.flushall();
assert.equal(await redis.set("a", "1", "EX", 100), "OK");
assert.equal(await redis.get("a"), "1");
assert.equal(await redis.get("none"), null);
const keys = Array.from({ length: 100 }, (_, i) => `key:${i}`);
assert.equal(await redis.mset(Object.fromEntries(keys.map((k, i) => [k, i]))), "OK");
assert.deepEqual(await redis.mget(keys), keys.map((_, i) => `${i}`));
assert.equal(await redis.hset("h", { x: 1, y: 2 }), 2);
assert.deepEqual(await redis.hgetall("h"), { x: "1", y: "2" });

const pipeline = redis.pipeline();
keys.forEach((k) => pipeline.get(k));
pipeline.lpush("a", "wrong type");
const replies = await pipeline.exec();
assert.deepEqual(replies.slice(0, 100), keys.map((_, i) => [null, `${i}`]));
assert.match(replies[100][0].message, /WRONGTYPE/);
const many = await Promise.all(keys.map((k) => redis.incr(`n:${k}`)));
assert.ok(many.every((n) => n === 1));

const seen = new Set();
for await (const page of redis.scanStream({ match: "key:*", count: 10 })) page.forEach((k) => seen.add(k));
assert.equal(seen.size, 100);

redis.defineCommand("add", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
for (let i = 0; i < 20; i++) assert.equal(await redis.add(`s:${i}`, 3), 3);
await assert.rejects(redis.multi({ pipeline: false }), /MULTI/i);
assert.equal(await redis.get("a"), "1");
assert.equal(await redis.quit(), "OK");
console.log("ok");

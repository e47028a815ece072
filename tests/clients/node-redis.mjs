// node-redis at its default settings against ringway: node node-redis.mjs MODULES HOST PORT. Ends with `ok`.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, host, port] = process.argv.slice(2);
const { createClient } = createRequire(`${modules}/`)("redis");

for (const RESP of [2, 3]) {
  const redis = createClient({ socket: { host, port: Number(port) }, RESP });
  redis.on("error", (error) => {
    throw error;
  });
  await redis.connect();
  await redis.flushAll();
  assert.equal(await redis.set("a", "1", { EX: 100 }), "OK");
  assert.equal(await redis.get("a"), "1");
  assert.equal(await redis.get("none"), null);
  const keys = Array.from({ length: 100 }, (_, i) => `key:${i}`);
  assert.equal(await redis.mSet(Object.fromEntries(keys.map((k, i) => [k, `${i}`]))), "OK");
  assert.deepEqual(await redis.mGet(keys), keys.map((_, i) => `${i}`));
  assert.equal(await redis.hSet("h", { x: 1, y: 2 }), 2);
  assert.deepEqual({ ...(await redis.hGetAll("h")) }, { x: "1", y: "2" });
  assert.deepEqual(await Promise.all(keys.map((k) => redis.get(k))), keys.map((_, i) => `${i}`));
  await assert.rejects(redis.lPush("a", "x"), /WRONGTYPE/);
  const seen = new Set();
  for await (const page of redis.scanIterator({ MATCH: "key:*", COUNT: 10 })) [page].flat().forEach((k) => seen.add(k));
  assert.equal(seen.size, 100);
  assert.equal(await redis.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", { keys: ["s"], arguments: ["3"] }), 3);
  await assert.rejects(redis.multi().set("x", "1").exec(), /MULTI/i);
  assert.equal(await redis.get("a"), "1");
  await redis.close();
}
console.log("ok");

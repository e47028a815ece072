//! `on_ejected: miss` in a Redis pool: reads of keys whose node is away find nothing, as a redis-server
//! says it.

use crate::harness::{Client, Config, Redis, Ringway};

/// Reads whose answer for an absent key is known.
const READS: [&str; 31] = [
    "GET k",
    "HGET k f",
    "LINDEX k 0",
    "ZSCORE k m",
    "ZRANK k m",
    "ZREVRANK k m",
    "MGET k k",
    "HMGET k f g",
    "EXISTS k k",
    "STRLEN k",
    "LLEN k",
    "SCARD k",
    "SISMEMBER k m",
    "HLEN k",
    "HEXISTS k f",
    "HSTRLEN k f",
    "ZCARD k",
    "ZCOUNT k 0 1",
    "XLEN k",
    "GETBIT k 0",
    "BITCOUNT k",
    "TTL k",
    "PTTL k",
    "TYPE k",
    "GETRANGE k 0 1",
    "LRANGE k 0 1",
    "ZRANGE k 0 1",
    "HKEYS k",
    "HVALS k",
    "SMEMBERS k",
    "HGETALL k",
];

fn ask(client: &mut Client, line: &str, key: &str) -> String {
    let words: Vec<&str> = line.split(' ').map(|word| if word == "k" { key } else { word }).collect();
    client.cmd(&words)
}

/// In both versions of the protocol each read answers what a redis-server without the key answers;
/// writes, and reads without such an answer, are refused; keys of other nodes are as they were.
#[test]
fn reads_find_nothing() {
    let mut nodes = Redis::several(2);
    let empty = Redis::start();
    let mut ringway = Ringway::serve(Config::of(&nodes).pool("on_ejected: miss"));
    let mut client = ringway.client();
    for i in 0..40 {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n");
    }
    nodes[0].kill();
    ringway.wait_away("a");
    let mut is_away = |key: &String| client.cmd(&["APPEND", key, "x"]).starts_with("-ERR node a ");
    let key = (0..40).map(|i| format!("key:{i}")).find(|key| is_away(key));
    let key = key.expect("a node of two has some of 40 keys");
    for version in ["2", "3"] {
        let mut direct = empty.client();
        let (_, _) = (client.cmd(&["HELLO", version]), direct.cmd(&["HELLO", version]));
        for read in READS {
            assert_eq!(ask(&mut client, read, &key), ask(&mut direct, read, &key), "{read} in RESP{version}");
        }
        assert!(ask(&mut client, "DUMP k", &key).starts_with("-ERR node a "));
        let other = (0..40).map(|i| format!("key:{i}")).find(|k| client.cmd(&["EXISTS", k]) == ":1\r\n");
        let other = other.expect("the other node has some of 40 keys");
        let nil = if version == "2" { "$-1\r\n" } else { "_\r\n" };
        let both = client.cmd(&["MGET", &key, &other]);
        assert!(both.starts_with(&format!("*2\r\n{nil}$")), "{both}");
        assert_eq!(client.cmd(&["EXISTS", &key, &other]), ":1\r\n");
    }
    // Also the parts of split ones; to find the other key one more was asked.
    let misses = ringway.metric("ringway_away_misses_total", &[]) as usize;
    assert!(misses >= 2 * (READS.len() + 2), "{misses} of {}", 2 * (READS.len() + 2));
}

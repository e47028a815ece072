//! Gutters: while a node is away another pool serves its keys, and what is written there lives for a
//! bounded time. And nodes that wait until what they have has expired.

use std::time::{Duration, Instant};

use crate::harness::{
    Client, Config, Redis, Ringway, SOON,
    memcached::{Memcached, Wire},
    owners, until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";
const OVER: &str = "on_ejected: failover";

/// A pool that fails over to a pool `gutter` of these nodes.
fn config(protocol: &str, nodes: &[String], gutter: &[String], lines: &[&str]) -> Config {
    let spare: Vec<String> = gutter
        .iter()
        .zip(["g", "h", "i"])
        .map(|(address, name)| format!("{{name: {name}, address: {address}}}"))
        .collect();
    // A pool that comes before the one under test.
    let other = format!(
        "pools:\n  gutter:\n    protocol: {protocol}\n    listen: 127.0.0.1:0\n    {BRISK}\n    \
         warmth: {{share: 100%}}\n    nodes: [{}]",
        spare.join(", ")
    );
    let config = lines.iter().fold(Config::of([]).pool(&format!("protocol: {protocol}")), |c, l| c.pool(l));
    let config = nodes.iter().zip(["a", "b", "c"]).fold(config.pool(BRISK), |c, (n, name)| c.node(name, n));
    config.before(&other)
}

fn redis(nodes: &[Redis], gutter: &[Redis], lines: &[&str]) -> (Ringway, Client) {
    let all = |nodes: &[Redis]| nodes.iter().map(|node| node.address()).collect::<Vec<_>>();
    Ringway::serve(config("redis", &all(nodes), &all(gutter), lines)).into_client()
}

fn set(client: &mut Client, keys: &[String], value: &str) {
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, value]), "+OK\r\n"));
}

fn count(node: &Redis) -> usize {
    node.cmd(&["DBSIZE"])[1..].trim().parse().expect("a number")
}

fn ttl_ms(node: &Redis, key: &str) -> i64 {
    node.cmd(&["PTTL", key])[1..].trim().parse().expect("a number")
}

/// All keys, and those of node b.
fn keys(client: &mut Client, nodes: &[Redis]) -> (Vec<String>, Vec<String>) {
    let all: Vec<String> = (0..200).map(|i| format!("key:{i}")).collect();
    set(client, &all, "old");
    let map = owners(nodes);
    let of_b: Vec<String> = all.iter().filter(|key| map[*key] == 1).cloned().collect();
    assert!(of_b.len() > 20, "it has keys");
    (all, of_b)
}

/// A node that dies: its keys, and no others, go to the gutter, what is written there expires, whatever
/// wrote it, and all of it is back when the node is.
#[test]
fn a_node_dies() {
    let (mut nodes, gutter) = (Redis::several(3), Redis::several(2));
    let lines = [OVER, "failover: {pool: gutter, ttl_max: 50s}", "sole_writer: true"];
    let (mut ringway, mut client) = redis(&nodes, &gutter, &lines);
    let (all, of_b) = keys(&mut client, &nodes);
    assert_eq!(gutter.iter().map(count).sum::<usize>(), 0, "nobody is away");
    let epoch = ringway.epoch();
    nodes[1].kill();
    ringway.wait_away("b");
    assert!(of_b.iter().all(|key| client.cmd(&["GET", key]) == "$-1\r\n"), "the gutter is cold");
    set(&mut client, &all, "new");
    assert_eq!(nodes[0].cmd(&["GET", &of_b[0]]), "$-1\r\n", "not to a neighbour");
    assert_eq!(gutter.iter().map(count).sum::<usize>(), of_b.len(), "these keys and no others");
    assert!(gutter.iter().all(|node| count(node) > 0), "over all of the gutter");
    let on =
        |key: &str| gutter.iter().find(|node| node.cmd(&["EXISTS", key]) == ":1\r\n").expect("it is there");
    for key in &of_b {
        assert!((1..=50_000).contains(&ttl_ms(on(key), key)), "{key}");
    }
    // Each way to write one, on keys of the node that is away.
    let key = |i: usize| of_b[i].as_str();
    for (i, command) in [
        (0, &["SET", key(0), "v", "EX", "3000"][..]),
        (1, &["SETEX", key(1), "7", "v"]),
        (2, &["PERSIST", key(2)]),
        (3, &["EXPIRE", key(3), "9000"]),
        (4, &["APPEND", key(4), "x"]),
        (5, &["EVAL", "return redis.call('SET', KEYS[1], 'v')", "1", key(5)]),
        (6, &["GETEX", key(6), "PERSIST"]),
        (7, &["MSET", key(7), "v", key(8), "v", all[0].as_str(), "v"]),
    ] {
        let reply = client.cmd(command);
        assert!(!reply.starts_with('-'), "{command:?}: {reply}");
        let longest = if i == 1 { 7_000 } else { 50_000 };
        until(SOON, "it is bounded", || (1..=longest).contains(&ttl_ms(on(key(i)), key(i))));
    }
    until(SOON, "each key of it", || (1..=50_000).contains(&ttl_ms(on(key(8)), key(8))));
    let list = of_b[9].as_str();
    client.cmd(&["DEL", list]);
    assert_eq!(client.cmd(&["RPUSH", list, "a", "b"]), ":2\r\n");
    assert_eq!(client.cmd(&["LRANGE", list, "0", "-1"]), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    until(SOON, "new ones too", || (1..=50_000).contains(&ttl_ms(on(list), list)));
    assert!(ringway.metric("ringway_node_substituted_requests_total", &[("node", "b")]) > 20.0);
    assert_eq!(ringway.epoch(), epoch + 1, "one epoch");
    let page: serde_json::Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    let moves = &page["incidents"][0]["moves"];
    assert!(moves[0]["from"] == "b" && moves[0]["to"] == "pool gutter", "{moves}");
    let lived = ringway.http(&format!("/v1/pools/cache/keys/{}", of_b[0])).1;
    assert!(lived.contains("\"gutter/g\"") || lived.contains("\"gutter/h\""), "{lived}");

    nodes[1].restart_empty();
    ringway.wait_back("b");
    let read = of_b.iter().filter(|key| client.cmd(&["GET", key]) != "$-1\r\n").count();
    assert_eq!(read, 0, "it came back empty, and nothing is read from the gutter");
    set(&mut client, &of_b, "back");
    assert_eq!(count(&nodes[1]), of_b.len());
    assert_eq!(ttl_ms(&nodes[1], &of_b[0]), -1, "its own keys live as they were meant to");
    until(SOON, "the gutter is clean", || gutter.iter().map(count).sum::<usize>() == 0);
}

/// A node that hangs and goes on, twice: what was written to the gutter is not read as old on the node, and
/// what is left in the gutter of the first absence is not read in the second. It is deleted there where it is
/// known; else the keys do not move until it has expired.
#[test]
fn a_node_hangs_twice() {
    for (lines, is_exact) in [
        (&[OVER, "failover: {pool: gutter, ttl_max: 20s}", "sole_writer: true"][..], true),
        (&[OVER, "failover: {pool: gutter, ttl_max: 14s}", "on_return: flush"], false),
    ] {
        let (nodes, gutter) = (Redis::several(3), Redis::several(1));
        let (mut ringway, mut client) = redis(&nodes, &gutter, lines);
        let (_, of_b) = keys(&mut client, &nodes);
        for round in ["2", "4"] {
            let last = Instant::now();
            nodes[1].stop();
            ringway.wait_away("b");
            let mut held = 0;
            loop {
                let read = client.cmd(&["GET", &of_b[0]]);
                assert!(read != "$1\r\n2\r\n" || round == "2", "a leftover: {read}");
                if !read.starts_with('-') {
                    break;
                }
                assert!(read.contains("its keys do not move yet"), "{read}");
                held += 1;
                assert!(last.elapsed() < SOON, "its keys never move");
            }
            assert_eq!(held > 0, round == "4" && !is_exact, "{lines:?} in round {round}");
            set(&mut client, &of_b, round);
            nodes[1].cont();
            ringway.wait_back("b");
            let back: Vec<String> = of_b.iter().map(|key| client.cmd(&["GET", key])).collect();
            assert!(back.iter().all(|value| value == "$-1\r\n"), "{round}: {back:?}");
            set(&mut client, &of_b, "3");
        }
        if !is_exact {
            assert!(ringway.said().contains("keys held"), "{}", ringway.said());
        }
    }
}

/// The gutter may fail, too: another node of it takes the keys, and when none is left they are refused by
/// name. Clients of other keys do not notice.
#[test]
fn a_gutter_fails() {
    let (mut nodes, mut gutter) = (Redis::several(3), Redis::several(2));
    let lines = [OVER, "failover: {pool: gutter, ttl_max: 50s}"];
    let (mut ringway, mut client) = redis(&nodes, &gutter, &lines);
    let (all, of_b) = keys(&mut client, &nodes);
    nodes[1].kill();
    ringway.wait_away("b");
    set(&mut client, &of_b, "new");
    gutter[0].kill();
    until(SOON, "the other one has all of them", || {
        of_b.iter().all(|key| client.cmd(&["SET", key, "newer"]) == "+OK\r\n")
    });
    assert_eq!(count(&gutter[1]), of_b.len());
    gutter[1].kill();
    until(SOON, "they are refused", || client.cmd(&["SET", &of_b[0], "x"]).starts_with("-ERR node h"));
    let rest = all.iter().filter(|key| !of_b.contains(key));
    rest.for_each(|key| assert_eq!(client.cmd(&["GET", key]), "$3\r\nold\r\n"));
    gutter[0].restart_empty();
    gutter[1].restart_empty();
    until(SOON, "they are served again", || client.cmd(&["SET", &of_b[0], "x"]) == "+OK\r\n");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    until(SOON, "by their own node", || {
        nodes[1].cmd(&["EXISTS", &of_b[0]]) == ":1\r\n" || {
            client.cmd(&["SET", &of_b[0], "y"]);
            false
        }
    });
}

/// For some keys alone.
#[test]
fn by_prefix() {
    let (mut nodes, gutter) = (Redis::several(2), Redis::several(1));
    let lines = [
        "on_ejected: fail",
        "prefixes: [{prefix: 'c:', on_ejected: failover}]",
        "failover: {pool: gutter, ttl_max: 50s}",
    ];
    let (mut ringway, mut client) = redis(&nodes, &gutter, &lines);
    let all: Vec<String> =
        ["c:", "d:"].iter().flat_map(|p| (0..40).map(move |i| format!("{p}{i}"))).collect();
    set(&mut client, &all, "v");
    let map = owners(&nodes);
    let of_b =
        |prefix: &str| all.iter().find(|k| map[*k] == 1 && k.starts_with(prefix)).expect("it has some");
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(client.cmd(&["SET", of_b("c:"), "x"]), "+OK\r\n");
    assert!(client.cmd(&["SET", of_b("d:"), "x"]).contains("these keys do not move"));
    assert_eq!(gutter[0].cmd(&["KEYS", "*"]), format!("*1\r\n${}\r\n{}\r\n", of_b("c:").len(), of_b("c:")));
    nodes[1].restart_empty();
    ringway.wait_back("b");
    assert_eq!(client.cmd(&["GET", of_b("c:")]), "$-1\r\n");
}

/// memcached: text and meta commands get the time to live in their own words.
#[test]
fn memcached() {
    let (mut nodes, gutter) = (Memcached::several(3), Memcached::several(1));
    let all = |nodes: &[Memcached]| nodes.iter().map(|node| node.address()).collect::<Vec<_>>();
    let lines = [OVER, "failover: {pool: gutter, ttl_max: 50s}", "sole_writer: true"];
    let mut ringway = Ringway::serve(config("memcached", &all(&nodes), &all(&gutter), &lines));
    let mut wire = Wire::connect(&ringway.address());
    let keys: Vec<String> = (0..120).map(|i| format!("key:{i}")).collect();
    keys.iter().for_each(|k| assert_eq!(wire.ask(format!("set {k} 0 0 3\r\nold\r\n")), "STORED\r\n"));
    let mut node = Wire::connect(&nodes[1].address());
    let of_b: Vec<&String> =
        keys.iter().filter(|k| node.ask(format!("get {k}\r\n")).starts_with("VALUE")).collect();
    nodes[1].kill();
    ringway.wait_away("b");
    let mut spare = Wire::connect(&gutter[0].address());
    let mut ttl = |key: &str| -> i64 {
        let said = spare.ask(format!("mg {key} t\r\n"));
        let ttl = said.strip_prefix("HD t").and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        ttl.unwrap_or_else(|| panic!("{key}: {said}"))
    };
    for (key, request) in of_b.iter().zip([
        "set {} 0 0 1\r\nx\r\n",
        "set {} 0 100 1 noreply\r\nx\r\n",
        "add {} 0 5 1\r\nx\r\n",
        "ms {} 1\r\nx\r\n",
        "ms {} 1 T0 q\r\nx\r\n",
        "ma {} N0 J5\r\n",
        "mg {} N0 v\r\n",
        "set {} 0 0 1\r\nx\r\ntouch {} 0\r\n",
        "set {} 0 0 1\r\nx\r\ngat 0 {}\r\n",
        "set {} 0 0 1\r\nx\r\ngat 0 {} other\r\n",
    ]) {
        wire.ask(request.replace("{}", key));
        let longest = if request.starts_with("add") { 5 } else { 50 };
        assert!((1..=longest).contains(&ttl(key)), "{request:?}: {}", ttl(key));
    }
    nodes[1].restart_empty();
    ringway.wait_back("b");
    let read: String = of_b.iter().map(|k| wire.ask(format!("get {k}\r\n"))).collect();
    assert_eq!(read, "END\r\n".repeat(of_b.len()));
}

/// `on_return: ttl`: every write of the pool expires, and a node that goes on after it hung serves nothing
/// that it had: it waits until that is gone, and says so.
#[test]
fn old_values_expire() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).pool("on_return: ttl").pool("ttl_max: 3s");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    let (_, of_b) = keys(&mut client, &nodes);
    until(SOON, "they expire", || (1..=3000).contains(&ttl_ms(&nodes[1], &of_b[0])));
    set(&mut client, &of_b, "old");
    let stopped = Instant::now();
    nodes[1].stop();
    // What lies in its socket is applied when it goes on, and lives from then on.
    let mut late = ringway.client();
    late.send(crate::harness::encode(&["SET", &of_b[0], "old"])).expect("it is sent");
    ringway.wait_away("b");
    set(&mut client, &of_b, "new");
    until(SOON, "it stood still for longer than anything lives", || {
        stopped.elapsed() > Duration::from_secs(4)
    });
    set(&mut client, &of_b, "new");
    nodes[1].cont();
    until(SOON, "it waits", || {
        let wait = ringway.node("b")["wait"].clone();
        wait["reason"] == "ttl" && wait["due_s"].as_f64().is_some_and(|due| due <= 3.0)
    });
    let mut saw_new = false;
    while !ringway.owns("b") {
        for key in &of_b {
            let value = client.cmd(&["GET", key]);
            assert_ne!(value, "$3\r\nold\r\n");
            saw_new |= value == "$3\r\nnew\r\n";
        }
        assert!(stopped.elapsed() < SOON, "it never comes back");
    }
    assert!(saw_new && stopped.elapsed() > Duration::from_secs(3), "{:?}", stopped.elapsed());
    assert!(of_b.iter().all(|key| client.cmd(&["GET", key]) == "$-1\r\n"), "all of it has expired");
    assert_eq!(ringway.metric("ringway_node_unbounded_writes_total", &[]), 0.0);
}

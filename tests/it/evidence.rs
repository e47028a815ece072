//! What nodes say of themselves and how fast they answer: what becomes evidence, what does not, and what
//! follows from it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Config, Load, Redis, Ringway, SOON,
    forwarder::Forwarder,
    load::Plan,
    memcached::{Memcached, Wire},
    ringway::run,
    until,
};

/// How often node `a` said this of itself, as `/metrics` has it.
fn said(ringway: &mut Ringway, reply: &str) -> f64 {
    ringway.metric("ringway_node_error_replies_total", &[("node", "a"), ("reply", reply)])
}

/// A full redis says so with each write: that is counted, the error reaches the client, and the node stays
/// what it is. What a script returns is not counted, whatever it looks like.
#[test]
fn a_full_node_is_counted_and_stays() {
    let node = Redis::with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    for i in 1..=20 {
        let reply = client.cmd(&["SET", "key", "value"]);
        assert!(reply.starts_with("-OOM"), "{reply}");
        let forged = client.cmd(&["EVAL", "return redis.error_reply('LOADING forged')", "1", "key"]);
        assert!(forged.starts_with("-LOADING forged"), "{i}: {forged}");
    }
    assert_eq!(said(&mut ringway, "oom"), 20.0);
    assert_eq!(said(&mut ringway, "loading"), 0.0);
    assert_eq!(ringway.node("a")["health"], "healthy");
    assert_eq!(ringway.pool()["revision"], 1, "nobody even doubted it");
    assert_eq!(ringway.node("a")["evidence"]["error_replies"]["oom"], 20);
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let told = run(&["status", "--admin", &admin]);
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert_eq!(told.status.code(), Some(4), "{out}{err}");
    assert!(out.contains("0 of 1 nodes serve as they should"), "{out}");
    assert!(out.contains("s ago: it is out of memory and evicts nothing)"), "{out}");
    assert!(err.contains("not as it should be: cache/a"), "{err}");
}

/// A node that asks for a password since a while is found by the reply to a client's request, long before the
/// next probe on its old connection would be due.
#[test]
fn a_password_that_was_set_is_found_by_the_reply() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("health: {interval: 10m}");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    let keys: Vec<String> = (0..20).map(|i| format!("key:{i}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "v"]), "+OK\r\n"));
    let key = nodes[0].client().list(&["KEYS", "*"]).swap_remove(0);
    let mut admin = nodes[0].client();
    assert_eq!(admin.cmd(&["CONFIG", "SET", "requirepass", "sesame"]), "+OK\r\n");
    let list = admin.cmd(&["CLIENT", "LIST"]);
    let data = list.lines().find(|line| line.contains("cmd=set")).expect("the pipeline's connection");
    let id = data.split_once("id=").and_then(|(_, rest)| rest.split(' ').next()).expect("it has an id");
    assert_eq!(admin.cmd(&["CLIENT", "KILL", "ID", id]), ":1\r\n");
    until(SOON, "the new connection has to log in, and its node is out", || {
        client.cmd(&["GET", &key]);
        !ringway.owns("a")
    });
    assert!(said(&mut ringway, "noauth") >= 1.0);
    ringway.wait_metric("ringway_ejections_total", &[("node", "a"), ("cause", "misconfigured")], 1.0);
}

/// A replica that has lost its primary says so, is asked, and stays: its probe is answered.
#[test]
fn a_replica_without_its_primary_stays() {
    let node = Redis::with(&["--replica-serve-stale-data", "no"]);
    assert_eq!(node.cmd(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    until(SOON, "it says so a hundred times", || {
        assert!(client.cmd(&["GET", "key"]).starts_with("-MASTERDOWN"));
        said(&mut ringway, "masterdown") >= 100.0
    });
    ringway.wait_back("a");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    let revision = ringway.pool()["revision"].as_u64().expect("a number");
    assert!(revision < 60, "it is not doubted with each reply: revision {revision}");
}

/// A full memcached says so, that is counted, and it stays.
#[test]
fn a_full_memcached_is_counted_and_stays() {
    let node = Memcached::with(&["-m", "2", "-M"]);
    let config = Config::of([]).pool("protocol: memcached").node("a", &node.address());
    let mut ringway = Ringway::serve(config);
    let mut wire = Wire::connect(&ringway.address());
    let value = "x".repeat(100_000);
    let mut filled = 0;
    until(SOON, "it is full", || {
        let set = |i: usize| format!("set key:{filled}:{i} 0 0 {}\r\n{value}\r\n", value.len());
        wire.ask((0..50).map(set).collect::<String>());
        filled += 1;
        said(&mut ringway, "oom") > 0.0
    });
    assert_eq!(ringway.node("a")["health"], "healthy");
    assert_eq!(ringway.pool()["revision"], 1);
}

/// Longer than anything else takes here, and shorter than any time-out of these tests.
const DELAY: Duration = Duration::from_millis(300);

/// A pool of four, of which `a` is behind a way that can be made longer.
fn with_a_way(nodes: &[Redis], health: &str) -> (Forwarder, Ringway, Load) {
    let way = Forwarder::start(&nodes[0].address());
    let config =
        Config::of(nodes).moved("a", &way.address()).pool("request_timeout: 5s").pool("deadline: 10s");
    let mut ringway = Ringway::serve(config.pool(health));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    (way, ringway, load)
}

/// A node that has become slow is suspect and shown, for as long as it is slow, though its probes are
/// answered; it keeps its keys. The others are not touched.
#[test]
fn a_slow_node_is_shown() {
    let nodes = Redis::several(4);
    let (way, mut ringway, load) =
        with_a_way(&nodes, "health: {timeout: 5s, window: 2s, volume: 20, slow_factor: 3}");
    let epoch = ringway.epoch();
    load.run(2000);
    assert_eq!(ringway.metric("ringway_node_slow", &[]), 0.0);
    way.delay(DELAY);
    until(SOON, "it is slow", || ringway.node("a")["slow"].is_string());
    let node = ringway.node("a");
    assert_eq!((&node["health"], &node["placement"]), (&"suspect".into(), &"owns".into()));
    assert!(node["slow"].as_str().is_some_and(|text| text.contains("the pool's median")), "{node}");
    ringway.wait_metric("ringway_node_slow", &[("node", "a")], 1.0);
    assert_eq!(ringway.metric("ringway_node_slow", &[]), 1.0);
    way.delay(Duration::ZERO);
    ringway.wait_back("a");
    assert_eq!((ringway.metric("ringway_node_slow", &[]), ringway.epoch()), (0.0, epoch));
    load.stop().assert_nothing_wrong();
}

/// With `slow_eject` it gives up its keys, and has them again when its probes are quick.
#[test]
fn a_slow_node_leaves_by_option() {
    let nodes = Redis::several(4);
    let health =
        "health: {interval: 100ms, timeout: 5s, window: 2s, volume: 20, slow_factor: 3, slow_eject: true}";
    let (way, mut ringway, load) = with_a_way(&nodes, health);
    load.run(1000);
    way.delay(DELAY);
    ringway.wait_away("a");
    ringway.wait_metric("ringway_ejections_total", &[("node", "a"), ("cause", "slow")], 1.0);
    assert!(ringway.http("/v1/incidents").1.contains("it is slow over 2 s: its p99 is"));
    load.run(1000);
    assert!(!ringway.owns("a"), "answers that are as slow as before do not bring it back");
    way.delay(Duration::ZERO);
    ringway.wait_back("a");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 1.0);
    load.stop().assert_nothing_wrong();
}

/// A node whose requests fail leaves though its probes are answered and fewer fail in a row than `failures`.
#[test]
fn a_node_whose_requests_fail_leaves() {
    let nodes = Redis::several(4);
    let way = Forwarder::start(&nodes[0].address());
    let config = Config::of(&nodes).moved("a", &way.address()).pool("request_timeout: 100ms");
    let health = "health: {timeout: 5s, failures: 1000, window: 2s, volume: 20}";
    let mut ringway = Ringway::serve(config.pool(health));
    let load = Load::start(&ringway.address(), &Plan { clients: 50, ..Plan::default() });
    load.run(1000);
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    way.delay(DELAY);
    ringway.wait_metric("ringway_ejections_total", &[("node", "a"), ("cause", "failure_rate")], 1.0);
    let timeouts = ringway.metric("ringway_node_requests_total", &[("node", "a"), ("outcome", "timeout")]);
    assert!(timeouts >= 10.0, "requests that had no reply in time are counted at their node: {timeouts}");
    load.stop().assert_nothing_wrong();
}

/// With `deep` a redis that is full, and one that was made a replica, leave, and say why; the key with which
/// they are tried does not stay. Without it they stay.
#[test]
fn a_deep_probe_finds_who_takes_no_writes() {
    let nodes = Redis::several(4);
    let config = Config::of(&nodes);
    let mut ringway = Ringway::serve(config.clone().pool("health: {interval: 100ms}"));
    assert_eq!(nodes[0].cmd(&["CONFIG", "SET", "maxmemory", "1"]), "+OK\r\n");
    assert_eq!(nodes[1].cmd(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
    until(SOON, "the replica is named as one", || ringway.node("b")["misconfigured"].is_string());
    assert!(ringway.owns("a") && ringway.owns("b"));
    let deep = config.pool("health: {interval: 100ms, deep: true}");
    assert_eq!(ringway.reload(&deep), "ok");
    ringway.wait_away("a");
    ringway.wait_away("b");
    ringway.wait_metric("ringway_ejections_total", &[("cause", "unwritable")], 2.0);
    let incidents = ringway.http("/v1/incidents").1;
    assert!(incidents.contains("OOM command not allowed") && incidents.contains("READONLY You can't write"));
    assert_eq!(nodes[0].cmd(&["CONFIG", "SET", "maxmemory", "0"]), "+OK\r\n");
    assert_eq!(nodes[1].cmd(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
    ringway.wait_back("a");
    ringway.wait_back("b");
    for node in &nodes {
        until(SOON, "the key is deleted", || node.cmd(&["DBSIZE"]) == ":0\r\n");
    }
}

/// A full memcached that evicts nothing fails a deep probe, one with room does not.
#[test]
fn a_deep_probe_finds_a_full_memcached() {
    let nodes = [Memcached::with(&["-m", "2", "-M"]), Memcached::start(), Memcached::start()];
    let config =
        nodes.iter().zip(["a", "b", "c"]).fold(Config::of([]), |c, (n, name)| c.node(name, &n.address()));
    let config = config.pool("protocol: memcached").pool("health: {interval: 100ms, deep: true}");
    let mut ringway = Ringway::serve(config);
    ringway.wait_back("a");
    let mut wire = Wire::connect(&nodes[0].address());
    let mut filled = 0;
    // Whatever has room for the probe's key has room for one of these.
    until(SOON, "it is full and leaves", || {
        for bytes in [100_000, 1_000].into_iter().chain((0..150).step_by(10)) {
            let value = "x".repeat(bytes);
            let set = |i: usize| format!("set fill:{bytes}:{i} 0 0 {bytes}\r\n{value}\r\n");
            wire.ask((filled..filled + 50).map(set).collect::<String>());
        }
        filled += 50;
        !ringway.owns("a")
    });
    ringway.wait_metric("ringway_ejections_total", &[("node", "a"), ("cause", "unwritable")], 1.0);
    wire.ask("flush_all\r\n");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 1.0);
}

/// A node that comes and goes waits before it is believed, and whoever looks is told that it does, and until
/// when.
#[test]
fn a_node_that_flaps_says_so() {
    let mut nodes = Redis::several(3);
    let mut ringway =
        Ringway::serve(Config::of(&nodes).pool("health: {interval: 1500ms, timeout: 500ms, rise: 1}"));
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(ringway.node("b")["wait"], Value::Null, "once is no flapping");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[1].restart_empty();
    until(SOON, "it is told", || {
        let wait = &ringway.node("b")["wait"];
        wait["reason"] == "flaps" && wait["due_s"].as_f64().is_some_and(|due| (0.0..=3.0).contains(&due))
    });
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let said = run(&["status", "--admin", &admin]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("(flaps, tried again in "), "{said}");
    ringway.wait_back("b");
    assert_eq!(ringway.node("b")["wait"], Value::Null);
}

/// A node that closes connections with requests in flight and one that resets them are counted apart, for
/// Redis and for HTTP.
#[test]
fn resets_are_told_from_closes() {
    for (protocol, ask) in [("redis", &b"GET a\r\n"[..]), ("http", b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")] {
        for (is_read, kind) in [(true, "lost"), (false, "reset")] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("it is bound").to_string();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.expect("a connection");
                    // The kernel resets what is closed before it is read.
                    let mut bytes = [0; 4096];
                    let come = if is_read { stream.read(&mut bytes) } else { stream.peek(&mut bytes) };
                    come.expect("a request");
                }
            });
            let config = Config::of([]).pool(&format!("protocol: {protocol}")).node("a", &address);
            let mut ringway = Ringway::serve(config.pool("health: {interval: 1h}"));
            until(SOON, &format!("{protocol}: {kind}"), || {
                let mut stream = TcpStream::connect(ringway.address()).expect("it listens");
                stream.write_all(ask).expect("it reads");
                // What it answers is nobody's concern.
                let _ = stream.read(&mut [0; 64]);
                ringway.metric("ringway_node_failures_total", &[("node", "a"), ("kind", kind)]) > 0.0
            });
            let other = if is_read { "reset" } else { "lost" };
            assert_eq!(ringway.metric("ringway_node_failures_total", &[("node", "a"), ("kind", other)]), 0.0);
        }
    }
}

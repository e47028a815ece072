//! The warmth budget, and what a node comes back with, with real servers.

use std::collections::HashMap;

use crate::harness::{Client, Config, Redis, Ringway, SOON, memcached::Memcached, owners, until};

/// Probes that find out fast, so that the budget is what a test waits for.
const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";

fn set_all(client: &mut Client, count: usize) {
    for i in 0..count {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n", "key:{i}");
    }
}

/// Keys of a node.
fn keys_of(map: &HashMap<String, usize>, node: usize) -> Vec<&String> {
    map.iter().filter(|(_, at)| **at == node).map(|(key, _)| key).collect()
}

fn placement(ringway: &mut Ringway, node: &str) -> String {
    ringway.node(node)["placement"].as_str().expect("a word").to_owned()
}

/// Nodes that are not there when ringway starts are out at once, and cost the budget nothing.
#[test]
fn nodes_that_were_never_there() {
    let mut nodes = Redis::several(6);
    nodes.iter_mut().skip(4).for_each(|node| node.kill());
    let mut ringway = Ringway::serve(
        Config::of(&nodes).pool("health: {interval: 100ms}").pool("warmth: {share: 1%, window: 1h}"),
    );
    for name in ["e", "f"] {
        until(SOON, "it is out", || ringway.node(name)["health"] == "ejected");
        assert_eq!(ringway.node(name)["placement"], "away");
    }
    nodes[3].kill();
    until(SOON, "the first that leaves acts", || ringway.node("d")["placement"] == "away");
}

/// Of three nodes that die at once the first gives up its keys; those of the others are refused by
/// name, by commands of every kind, until the window is over, and move then without being asked.
#[test]
fn an_avalanche_waits() {
    let mut nodes = Redis::several(8);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("warmth: {share: 20%, window: 5s}"));
    let mut client = ringway.client();
    set_all(&mut client, 400);
    let map = owners(&nodes);
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[2].kill();
    ringway.wait_away("c");
    assert_eq!((placement(&mut ringway, "b"), placement(&mut ringway, "c")), ("away".into(), "held".into()));
    let due = ringway.pool()["budget_due_s"].as_f64().expect("it waits");
    assert!((0.0..=5.0).contains(&due), "{due}");
    assert_eq!(ringway.metric("ringway_warmth_waits_total", &[("what", "ejection")]), 1.0);
    let address = nodes[2].address();
    let said = format!("-ERR node c ({address}): ejected, and its keys do not move yet\r\n");
    for key in keys_of(&map, 2) {
        assert_eq!(client.cmd(&["GET", key]), said);
        assert_eq!(client.cmd(&["SET", key, "w"]), said);
        assert_eq!(client.cmd(&["MGET", key, "key:1", "key:2"]), said);
    }
    for key in keys_of(&map, 3) {
        assert_eq!(client.cmd(&["GET", key]), "$1\r\nv\r\n", "survivors' keys do not move");
    }
    let epoch = ringway.epoch();
    until(SOON, "its keys are let go", || placement(&mut ringway, "c") == "away");
    assert_eq!(ringway.epoch(), epoch + 1);
    for key in keys_of(&map, 2) {
        assert_eq!(client.cmd(&["SET", key, "w"]), "+OK\r\n");
    }
}

/// With `hold_down` a node that restarts in time gives up nothing: its keys are refused meanwhile, and then
/// are where they were; no other node sees one of them.
#[test]
fn a_restart_moves_nothing() {
    let mut nodes = vec![
        Redis::start(),
        Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]),
        Redis::start(),
    ];
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("hold_down: 1h"));
    let mut client = ringway.client();
    set_all(&mut client, 100);
    let map = owners(&nodes);
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(placement(&mut ringway, "b"), "held");
    for key in keys_of(&map, 1) {
        assert!(client.cmd(&["SET", key, "w"]).contains("ejected, and its keys do not move yet"), "{key}");
    }
    nodes[1].restart_empty();
    ringway.wait_back("b");
    for key in keys_of(&map, 1) {
        assert_eq!(client.cmd(&["GET", key]), "$1\r\nv\r\n", "{key}");
    }
    assert_eq!(owners(&nodes), map);
}

/// A plan that is told of the running ringway knows who is away, and how many requests are concerned.
#[test]
fn a_plan_knows_who_is_away() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK);
    let mut ringway = Ringway::serve(config.clone());
    nodes[1].kill();
    ringway.wait_away("b");
    let dir = tempfile::tempdir().expect("a directory");
    let new = dir.path().join("new.yaml");
    let extra = Redis::start();
    std::fs::write(&new, config.node("d", &extra.address()).to_string()).expect("a file");
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let (old, new) = (ringway.config_path(), new.display().to_string());
    let load = crate::harness::Load::start(&ringway.address(), &crate::harness::load::Plan::default());
    load.run(500);
    let said = crate::harness::ringway::run(&["plan", "--config", &old, &new, "--admin", &admin]);
    load.stop();
    let out = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.status.code(), Some(3), "{out} {}", String::from_utf8_lossy(&said.stderr));
    assert!(out.contains("node b is away now") && !out.contains("b -> d"), "{out}");
    assert!(out.contains("a -> d") && out.contains("c -> d") && out.contains("0.00 % collateral"), "{out}");
    let rate = out.lines().find(|l| l.contains("requests a second now")).expect("a rate");
    assert!(
        rate.trim().split(' ').next().and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.0),
        "{rate}"
    );
    let about = rate.split("about ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(about.is_some_and(|n| n > 0.0), "{rate}");
}

/// `held: miss` lets reads of keys that wait find nothing, and refuses the rest; in memcached too.
#[test]
fn reads_may_miss_meanwhile() {
    let mut nodes = Redis::several(8);
    let warmth = "warmth: {share: 20%, window: 1h, held: miss}";
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool(warmth));
    let mut client = ringway.client();
    set_all(&mut client, 200);
    let map = owners(&nodes);
    for (at, name) in [(1, "b"), (2, "c")] {
        nodes[at].kill();
        ringway.wait_away(name);
    }
    let held = keys_of(&map, 2);
    for key in &held {
        assert_eq!(client.cmd(&["GET", key]), "$-1\r\n");
        assert!(client.cmd(&["SET", key, "w"]).contains("do not move yet"));
    }
    // A part of a request of several keys is one, too: of the two nodes that are out only one has its keys
    // still.
    let (other, all) = (keys_of(&map, 0)[0], ["MGET", held[0], held[1]]);
    assert_eq!(client.cmd(&all), "*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(client.cmd(&["MGET", other, held[0]]), "*2\r\n$1\r\nv\r\n$-1\r\n");
    assert!(client.cmd(&["MSET", other, "v", held[0], "w", held[1], "w"]).contains("do not move yet"));
    let unserved = |ringway: &mut Ringway, node| {
        ringway.metric("ringway_node_unserved_requests_total", &[("node", node)]) as usize
    };
    assert_eq!(unserved(&mut ringway, "c"), 2 * held.len() + 3);
    assert_eq!(unserved(&mut ringway, "b"), 0);
    until(SOON, "its incident says so while it goes on", || {
        let page: serde_json::Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
        let all = &page["incidents"];
        all[0]["node"] == "c" && all[0]["requests_unserved"] == 2 * held.len() + 3
    });
    nodes[2].restart_empty();
    ringway.wait_back("c");
    assert_eq!(placement(&mut ringway, "b"), "away", "who was held returns at once");
    for key in keys_of(&map, 2) {
        assert_eq!(client.cmd(&["SET", key, "w"]), "+OK\r\n");
    }
}

/// A node that comes back without its keys waits while the budget is spent; its substitutes serve on.
#[test]
fn a_cold_return_waits() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("warmth: {share: 25%, window: 4s}"));
    let mut client = ringway.client();
    set_all(&mut client, 100);
    let map = owners(&nodes);
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[1].restart_empty();
    ringway.wait_metric("ringway_warmth_waits_total", &[("what", "return")], 1.0);
    let node = ringway.node("b");
    assert_eq!((node["health"].as_str(), node["placement"].as_str()), (Some("healthy"), Some("away")));
    for key in keys_of(&map, 1) {
        assert_eq!(client.cmd(&["SET", key, "w"]), "+OK\r\n", "a substitute serves");
    }
    ringway.wait_back("b");
    assert!(ringway.said().contains("data=\"empty\""), "{}", ringway.said());
}

/// A node that has all it had and is to be emptied is as cold: that more was written elsewhere than is
/// remembered is known before it is back.
#[test]
fn who_is_to_be_emptied_waits() {
    let nodes = Redis::several(4);
    let lines = ["sole_writer: true", "quarantine_max: 3", "warmth: {share: 25%, window: 4s}", BRISK];
    let mut ringway = Ringway::serve(lines.iter().fold(Config::of(&nodes), |config, line| config.pool(line)));
    let mut client = ringway.client();
    set_all(&mut client, 100);
    let map = owners(&nodes);
    nodes[1].stop();
    ringway.wait_away("b");
    for key in keys_of(&map, 1) {
        assert_eq!(client.cmd(&["SET", key, "w"]), "+OK\r\n");
    }
    nodes[1].cont();
    ringway.wait_metric("ringway_warmth_waits_total", &[("what", "return")], 1.0);
    let node = ringway.node("b");
    assert_eq!((node["health"].as_str(), node["placement"].as_str()), (Some("healthy"), Some("away")));
    for key in keys_of(&map, 1) {
        assert_eq!(client.cmd(&["GET", key]), "$1\r\nw\r\n", "a substitute serves");
    }
    ringway.wait_back("b");
    assert!(ringway.said().contains(" keys, as it is not known exactly what is old"), "{}", ringway.said());
}

/// What a node comes back with is told apart: the same process, another one without keys, another
/// one with keys from its disk; for Redis and for memcached.
#[test]
fn what_a_node_comes_back_with() {
    let mut nodes = vec![Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]), Redis::start()];
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    set_all(&mut ringway.client(), 50);
    for (at, name, how, data) in
        [(0, "a", "kill", "other"), (0, "a", "stop", "same"), (1, "b", "kill", "empty")]
    {
        let restores = ringway.metric("ringway_restores_total", &[("node", name)]);
        match how {
            "kill" => nodes[at].kill(),
            _ => nodes[at].stop(),
        }
        ringway.wait_away(name);
        match how {
            "kill" => nodes[at].restart_empty(),
            _ => nodes[at].cont(),
        }
        ringway.wait_metric("ringway_restores_total", &[("node", name)], restores + 1.0);
        let line = format!("node=\"{name}\" data=\"{data}\"");
        until(SOON, &line, || ringway.said().contains(&line));
    }

    let mut nodes = Memcached::several(2);
    let config = Config::of([]).pool("protocol: memcached").pool(BRISK);
    let config = config.node("a", &nodes[0].address()).node("b", &nodes[1].address());
    let mut ringway = Ringway::serve(config);
    for (how, data) in [("kill", "empty"), ("stop", "same")] {
        match how {
            "kill" => nodes[0].kill(),
            _ => nodes[0].stop(),
        }
        ringway.wait_away("a");
        match how {
            "kill" => nodes[0].restart_empty(),
            _ => nodes[0].cont(),
        }
        ringway.wait_back("a");
        let line = format!("node=\"a\" data=\"{data}\"");
        until(SOON, &line, || ringway.said().contains(&line));
    }
}

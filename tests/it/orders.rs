//! What operators want of nodes: said first, done when they say so, and taken back.

use std::collections::HashMap;

use crate::harness::{
    Client, Config, Load, Redis, Ringway, SOON, encode, load::Plan, owners, ringway::run, until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";

/// A command for the ringway's admin port: exit code, stdout and stderr.
fn command(ringway: &mut Ringway, words: &[&str]) -> (Option<i32>, String, String) {
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let said = run(&[words, &["--admin", &admin]].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (said.status.code(), text(&said.stdout), text(&said.stderr))
}

fn set_all(client: &mut Client, count: usize) {
    for i in 0..count {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n", "key:{i}");
    }
}

/// Each of these keys has the owner that it had.
fn assert_same_map(ringway: &mut Ringway, nodes: &[Redis], before: &HashMap<String, usize>) {
    let mut client = ringway.client();
    nodes.iter().for_each(|node| assert_eq!(node.cmd(&["FLUSHALL"]), "+OK\r\n"));
    before.keys().for_each(|key| assert_eq!(client.cmd(&["SET", key, "x"]), "+OK\r\n"));
    assert_eq!(owners(nodes), *before);
}

/// A drain is told before it is done, moves the node's keys and no others without an error under load,
/// and is taken back to the exact map.
#[test]
fn a_drain_costs_no_request() {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    set_all(&mut ringway.client(), 200);
    let before = owners(&nodes);
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    load.run(1000);
    let (code, out, err) = command(&mut ringway, &["drain", "b"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.contains("% of the key space would move; epoch 2 would be in force"), "{out}");
    assert!(["b -> a", "b -> c", "b -> d"].iter().all(|pair| out.contains(pair)), "{out}");
    assert!(out.contains("nothing is done; say --yes to do it"), "{out}");
    assert_eq!((ringway.epoch(), ringway.owns("b")), (1, true));
    let (code, out, _) = command(&mut ringway, &["drain", "b", "--yes", "--wait"]);
    assert!(
        code == Some(0) && out.contains("moved; epoch 2 is in force") && out.contains("done after"),
        "{out}"
    );
    let node = ringway.node("b");
    assert_eq!((node["placement"].as_str(), node["health"].as_str()), (Some("away"), Some("healthy")));
    assert_eq!((node["order"].as_str(), node["in_flight"].as_i64()), (Some("drain"), Some(0)));
    load.run(2000);
    let (_, out, _) = command(&mut ringway, &["drain", "b", "--yes"]);
    assert!(out.contains("it is so already") && ringway.epoch() == 2, "{out}");
    let (code, out, _) = command(&mut ringway, &["undrain", "b", "--yes", "--wait"]);
    assert!(code == Some(0) && out.contains("epoch 3 is in force"), "{out}");
    load.run(1000);
    let report = load.stop();
    report.assert_nothing_wrong();
    assert!(report.failed(false).is_empty() && report.failed(true).is_empty(), "no request fails");
    assert_same_map(&mut ringway, &nodes, &before);
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// A rolling restart as docs/operations.md has it: each node is drained, restarted without its data and let
/// back, the next one when `status` finds nothing wrong. No request fails, nobody is ejected, and the map is
/// the one of before.
#[test]
fn a_rolling_restart() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    set_all(&mut ringway.client(), 200);
    let before = owners(&nodes);
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    load.run(1000);
    for (at, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let (code, out, err) = command(&mut ringway, &["drain", name, "--yes", "--wait"]);
        assert!(code == Some(0) && out.contains("done after"), "{out}{err}");
        nodes[at].kill();
        load.run(1000);
        nodes[at].restart_empty();
        let (code, out, err) = command(&mut ringway, &["undrain", name, "--yes", "--wait"]);
        assert!(code == Some(0) && out.contains("done after"), "{out}{err}");
        until(SOON, "nothing is wrong", || command(&mut ringway, &["status"]).0 == Some(0));
        load.run(1000);
    }
    let report = load.stop();
    report.assert_nothing_wrong();
    assert!(report.failed(false).is_empty() && report.failed(true).is_empty(), "no request fails");
    assert_same_map(&mut ringway, &nodes, &before);
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    nodes[3].kill();
    ringway.wait_away("d");
    until(SOON, "the ejection is told", || ringway.said().contains("node ejected"));
    assert!(
        !ringway.said().contains("it comes and goes"),
        "that it was restarted under an order is no flapping"
    );
}

/// A script that takes longer than probes allow is finished by a node that is drained.
#[test]
fn a_drain_waits_for_a_script() {
    let nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool("health: {interval: 100ms, timeout: 100ms}"));
    let mut client = ringway.client();
    let busy = "local t = redis.call('TIME') local till = t[1] * 1000 + t[2] / 1000 + 1500 \
                repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > till return 'done'";
    let script = encode(&["EVAL", busy, "1", "key:1"]);
    let node = ["a", "b"][usize::from(owner_of(&mut client, &nodes, "key:1") == 1)];
    client.send(script).expect("ringway reads");
    until(SOON, "it is there", || ringway.node(node)["in_flight"] == 1);
    let (code, out, err) = command(&mut ringway, &["drain", node, "--yes", "--wait"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(client.reply().expect("it is answered"), b"$4\r\ndone\r\n");
}

/// A large value that is on its way when its node is drained arrives there whole, and its client is told so.
#[test]
fn a_drain_waits_for_a_large_write() {
    let nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    let mut client = ringway.client();
    let owner = owner_of(&mut client, &nodes, "key:1");
    let node = ["a", "b"][owner];
    let request = encode(&["SET", "key:1", &"x".repeat(3 << 20)]);
    client.send(&request[..1 << 20]).expect("ringway reads");
    until(SOON, "it is there", || ringway.node(node)["in_flight"] == 1);
    let (code, out, err) = command(&mut ringway, &["drain", node, "--yes"]);
    assert_eq!(code, Some(0), "{out}{err}");
    client.send(&request[1 << 20..]).expect("ringway reads");
    assert_eq!(client.reply().expect("it is answered"), b"+OK\r\n");
    assert_eq!(nodes[owner].cmd(&["STRLEN", "key:1"]), format!(":{}\r\n", 3 << 20));
    until(SOON, "nothing is in flight", || ringway.node(node)["in_flight"] == 0);
}

/// On which node a key is.
fn owner_of(client: &mut Client, nodes: &[Redis], key: &str) -> usize {
    assert_eq!(client.cmd(&["SET", key, "v"]), "+OK\r\n");
    owners(nodes)[key]
}

/// A pinned node stays in the ring while it is dead, and what cannot be done is refused with its reason.
#[test]
fn pins_and_refusals() {
    let mut nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    assert_eq!(command(&mut ringway, &["pin", "a", "--yes"]).0, Some(0));
    nodes[0].kill();
    until(SOON, "it is known to fail", || ringway.node("a")["health"] == "ejected");
    assert!(ringway.owns("a"));
    let (code, _, err) = command(&mut ringway, &["eject", "x", "--yes"]);
    assert!(code == Some(1) && err == "error: pool cache: there is no node x, it has a, b\n", "{err}");
    assert_eq!(command(&mut ringway, &["unpin", "a", "--yes"]).0, Some(0));
    assert!(!ringway.owns("a"));
    let (code, _, err) = command(&mut ringway, &["restore", "a", "--yes"]);
    assert!(code == Some(1) && err.contains("it is ejected because it fails"), "{err}");
    let (code, _, err) = command(&mut ringway, &["eject", "b", "--yes"]);
    assert!(code == Some(1) && err.contains("node b is the last of pool cache that owns keys"), "{err}");
    let (code, _, err) = command(&mut ringway, &["drain", "a", "--pool", "none", "--yes"]);
    assert!(code == Some(1) && err.contains("there is no pool none"), "{err}");
    let (status, body) = ringway.http("/v1/pools/cache/nodes/b/drain");
    assert_eq!(status, 405, "an order is a POST: {body}");
}

/// Each order is taken back by its own word alone, one that takes another's place says so, and what becomes
/// of the node's data is told before and after.
#[test]
fn each_takes_back_its_own() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    set_all(&mut ringway.client(), 100);
    let keys: usize = nodes[1].cmd(&["DBSIZE"])[1..].trim().parse().expect("a number");
    let (_, out, _) = command(&mut ringway, &["drain", "b", "--yes"]);
    assert!(out.contains("its data: when it is back it is emptied first"), "{out}");
    for (word, other) in [("restore", "undrain"), ("unpin", "undrain")] {
        let (code, _, err) = command(&mut ringway, &[word, "b", "--yes"]);
        let why = format!(
            "node b is under the order drain, and {word} does not take that back: `ringway {other} b`"
        );
        assert!(code == Some(1) && err.contains(&why), "{err}");
    }
    let (_, out, _) = command(&mut ringway, &["eject", "b", "--yes"]);
    assert!(out.contains("in the place of drain"), "{out}");
    let (code, _, err) = command(&mut ringway, &["undrain", "b", "--yes"]);
    assert!(code == Some(1) && err.contains("under the order eject"), "{err}");
    let (_, out, _) = command(&mut ringway, &["restore", "b"]);
    assert!(out.contains("its data: it is emptied first"), "{out}");
    assert_eq!(command(&mut ringway, &["restore", "b", "--yes", "--wait"]).0, Some(0));
    assert!(ringway.owns("b"));
    until(SOON, "the log says which order", || ringway.said().contains("node=\"b\" order=\"restore\""));
    let said = format!("node=\"b\" keys={keys} ");
    until(SOON, "the loss is said", || ringway.said().contains(&said));
    let (code, out, _) = command(&mut ringway, &["undrain", "b", "--yes"]);
    assert!(code == Some(0) && out.contains("it is so already"), "{out}");
}

/// The share of a line such as `  12.34 %  a -> b`.
fn share_of(line: &str) -> f64 {
    let number = line.trim().split(' ').next().expect("a line has a first word");
    number.parse().expect("a share")
}

/// An order says of each other node what it comes to, and whether it fails; the total is the sum of the
/// pairs.
#[test]
fn an_order_tells_of_others() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("warmth: {share: 25%, window: 1h}"));
    ringway.wait_probed(&["a", "b", "c", "d"]);
    for (at, name) in [(1, "b"), (2, "c")] {
        nodes[at].kill();
        ringway.wait_away(name);
    }
    assert_eq!(ringway.node("c")["placement"], "held");
    let said = |ringway: &mut Ringway, words: &[&str]| {
        let (code, out, err) = command(ringway, words);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        let total: Vec<f64> = out
            .lines()
            .filter(|l| l.contains("of the key space would move"))
            .map(|l| share_of(l.split(": ").nth(1).expect("the share comes behind the names")))
            .collect();
        let pairs: f64 =
            out.lines().filter(|l| l.contains(" -> ") && !l.contains("node")).map(share_of).sum();
        assert!((total[0] - pairs).abs() < 0.05, "{total:?} and {pairs}: {out}");
        out
    };
    // Who is away by the order takes nobody's place: what it comes to for the others is told.
    let out = said(&mut ringway, &["drain", "d"]);
    assert!(out.contains("1 of 4 nodes would serve and answer"), "{out}");
    let is_told = |name: &str| out.lines().any(|line| line.trim().starts_with(&format!("node {name} fails")));
    command(&mut ringway, &["drain", "d", "--yes"]);
    for (name, before) in [("b", "away"), ("c", "held")] {
        let after = ringway.node(name)["placement"].as_str().unwrap_or_default().to_owned();
        assert_eq!(is_told(name), after != before, "{name}: {before} -> {after}: {out}");
    }
    command(&mut ringway, &["undrain", "d", "--yes"]);
    let out = said(&mut ringway, &["pin", "b"]);
    assert!(out.contains("its data: it fails, "), "a dead node is not emptied: {out}");
}

/// A node that waits for the warmth budget returns at once when an operator says so; one that is held gives
/// up its keys.
#[test]
fn the_budget_can_be_overridden() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("warmth: {share: 25%, window: 1h}"));
    ringway.wait_probed(&["a", "b", "c", "d"]);
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[2].kill();
    ringway.wait_away("c");
    assert_eq!(ringway.node("c")["placement"], "held");
    let (code, out, _) = command(&mut ringway, &["eject", "c", "--yes"]);
    assert!(code == Some(0) && out.contains("c -> "), "{out}");
    assert_eq!(ringway.node("c")["placement"], "away");
    nodes[1].restart_empty();
    ringway.wait_metric("ringway_warmth_waits_total", &[("what", "return")], 1.0);
    assert!(!ringway.owns("b"));
    let (code, out, err) = command(&mut ringway, &["undrain", "b", "--yes", "--wait", "--timeout", "0"]);
    let why = "; others serve until the warmth budget has room, next in ";
    assert!(code == Some(1) && out.contains(why), "what is waited for is told: {out}{err}");
    assert_eq!(command(&mut ringway, &["restore", "b", "--yes", "--wait"]).0, Some(0));
    assert!(ringway.owns("b"));
}

/// A node that hangs, and for whose keys others took writes, is brought in by no order before it answers and
/// is clean: neither by a pin, nor because a drain leaves so few others that `eject_max` would want it.
#[test]
fn an_order_brings_up_nothing_old() {
    for (hung, order) in [(&[1][..], ["pin", "b"]), (&[1, 2], ["drain", "d"])] {
        let nodes = Redis::several(4);
        let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("warmth: {share: 100%}"));
        let mut client = ringway.client();
        let names: Vec<String> = (0..200).map(|i| format!("key:{i}")).collect();
        names.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "old"]), "+OK\r\n"));
        let map = owners(&nodes);
        let keys: Vec<&String> = names.iter().filter(|key| hung.contains(&map[*key])).collect();
        let away: Vec<&str> = hung.iter().map(|at| ["a", "b", "c", "d"][*at]).collect();
        hung.iter().for_each(|at| nodes[*at].stop());
        away.iter().for_each(|name| ringway.wait_away(name));
        keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "new"]), "+OK\r\n"));
        let (code, out, err) = command(&mut ringway, &[&order[..], &["--yes"]].concat());
        assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
        assert!(away.iter().all(|name| !ringway.owns(name)), "{order:?} brings none of them in");
        keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "new"]), "+OK\r\n", "others serve"));
        hung.iter().for_each(|at| nodes[*at].cont());
        until(SOON, "they are back", || {
            let read: Vec<String> = keys.iter().map(|key| client.cmd(&["GET", key])).collect();
            assert!(!read.iter().any(|value| value.contains("old")), "{order:?}: {read:?}");
            away.iter().all(|name| ringway.owns(name))
        });
        let read = keys.iter().filter(|key| client.cmd(&["GET", key]).contains("old")).count();
        assert_eq!(read, 0, "{order:?}");
    }
}

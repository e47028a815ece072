//! Old data: what clients read from a node that was away while others took writes for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use crate::harness::{
    Client, Config, Redis, Ringway, SOON,
    memcached::{Memcached, Wire},
    owners,
    ringway::run,
    twemproxy::Twemproxy,
    until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";

/// Stops a node, writes `new` over `old` elsewhere, lets it go on, and gives what all keys of the node read
/// as afterwards. A reader looks all the time: it must never see `old` once `new` was written, unless
/// the node serves what it has.
fn read_after_absence(on_return: &str) -> (Ringway, Vec<Redis>, Vec<String>) {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).pool(&format!("on_return: {on_return}"));
    let mut ringway = Ringway::serve(config);
    let mut client = ringway.client();
    let names: Vec<String> = (0..100).map(|i| format!("key:{i}")).collect();
    names.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "old"]), "+OK\r\n"));
    let map = owners(&nodes);
    let keys: Vec<String> = names.into_iter().filter(|key| map[key] == 1).collect();
    assert!(keys.len() > 10, "it has keys");
    nodes[1].stop();
    ringway.wait_away("b");
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "new"]), "+OK\r\n"));
    let stop = Arc::new(AtomicBool::new(false));
    let reader = {
        let (stop, keys, mut client) = (stop.clone(), keys.clone(), ringway.client());
        thread::spawn(move || read_until(&stop, &keys, &mut client))
    };
    nodes[1].cont();
    ringway.wait_back("b");
    let read = keys.iter().map(|key| client.cmd(&["GET", key])).collect();
    stop.store(true, Relaxed);
    let saw_old = reader.join().expect("it ends");
    assert_eq!(saw_old, on_return == "serve", "{on_return}");
    (ringway, nodes, read)
}

/// Whether an old value was read.
fn read_until(stop: &AtomicBool, keys: &[String], client: &mut Client) -> bool {
    let mut saw_old = false;
    loop {
        let ends = stop.load(Relaxed);
        for key in keys {
            saw_old |= client.cmd(&["GET", key]) == "$3\r\nold\r\n";
        }
        if ends {
            return saw_old;
        }
    }
}

/// With `on_return: serve` a node serves what it had, and it is said; with `flush` nobody reads an old value
/// at any moment, the node is emptied before it owns keys, and it counts as cold.
#[test]
fn a_node_that_was_away() {
    let (ringway, _nodes, read) = read_after_absence("serve");
    assert!(read.iter().all(|value| value == "$3\r\nold\r\n"), "{read:?}");
    assert!(ringway.said().contains("node=\"b\" data=\"same\""), "{}", ringway.said());
    let (ringway, _nodes, read) = read_after_absence("flush");
    assert!(read.iter().all(|value| value == "$-1\r\n"), "{read:?}");
    assert!(ringway.said().contains("node=\"b\" data=\"flushed\""), "{}", ringway.said());
}

/// twemproxy serves what the node had, however new what was written elsewhere is.
#[test]
fn behind_twemproxy() {
    let nodes = Redis::several(3);
    let twemproxy = Twemproxy::start(&nodes);
    let mut client = Client::connect(&twemproxy.address());
    let names: Vec<String> = (0..100).map(|i| format!("key:{i}")).collect();
    names.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "old"]), "+OK\r\n"));
    let map = owners(&nodes);
    let keys: Vec<String> = names.into_iter().filter(|key| map[key] == 1).collect();
    nodes[1].stop();
    for key in &keys {
        // The first ones are refused: it takes three that time out to have the node out.
        until(SOON, "it is written elsewhere", || client.cmd(&["SET", key, "new"]) == "+OK\r\n");
    }
    assert!(keys.iter().any(|key| client.cmd(&["GET", key]) == "$3\r\nnew\r\n"), "the new value is there");
    nodes[1].cont();
    until(SOON, "an old value is read", || {
        keys.iter().any(|key| client.cmd(&["GET", key]) == "$3\r\nold\r\n")
    });
}

/// In memcached pools as in those of Redis: only `serve` gives out an old value, at no moment any other does,
/// and what was not written elsewhere outlives the absence where that is known.
#[test]
fn memcached_in_every_mode() {
    for (lines, rest) in [
        (&["on_return: serve"][..], "old"),
        (&["on_return: flush"], ""),
        (&["on_return: quarantine"], ""),
        (&["on_return: quarantine", "sole_writer: true"], "old"),
    ] {
        let nodes = Memcached::several(3);
        let config =
            lines.iter().fold(Config::of([]).pool("protocol: memcached").pool(BRISK), |c, l| c.pool(l));
        let config =
            nodes.iter().zip(["a", "b", "c"]).fold(config, |c, (n, name)| c.node(name, &n.address()));
        let mut ringway = Ringway::serve(config);
        let mut wire = Wire::connect(&ringway.address());
        let mut of_b = Wire::connect(&nodes[1].address());
        let all: Vec<String> = (0..120).map(|i| format!("key:{i}")).collect();
        all.iter().for_each(|k| assert_eq!(wire.ask(format!("set {k} 0 0 3\r\nold\r\n")), "STORED\r\n"));
        let keys: Vec<String> =
            all.into_iter().filter(|k| of_b.ask(format!("get {k}\r\n")).starts_with("VALUE")).collect();
        let (written, kept) = keys.split_at(keys.len() / 2);
        assert!(written.len() > 5, "it has keys");
        nodes[1].stop();
        ringway.wait_away("b");
        written.iter().for_each(|k| assert_eq!(wire.ask(format!("set {k} 0 0 3\r\nnew\r\n")), "STORED\r\n"));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let (stop, keys, mut wire) = (stop.clone(), written.to_vec(), Wire::connect(&ringway.address()));
            thread::spawn(move || {
                let mut saw_old = false;
                while !stop.load(Relaxed) {
                    saw_old |= keys.iter().any(|k| wire.ask(format!("get {k}\r\n")).contains("\r\nold\r\n"));
                }
                saw_old
            })
        };
        nodes[1].cont();
        ringway.wait_back("b");
        until(SOON, "it owns all", || ringway.node("b")["placement"] == "owns");
        let mut read =
            |keys: &[String]| -> String { keys.iter().map(|k| wire.ask(format!("get {k}\r\n"))).collect() };
        let (late, left) = (read(written), read(kept));
        stop.store(true, Relaxed);
        let saw_old = reader.join().expect("it ends") | late.contains("old");
        assert_eq!(saw_old, lines[0].ends_with("serve"), "{lines:?}: {late}");
        assert_eq!(
            left.matches("\r\nold\r\n").count(),
            if rest.is_empty() { 0 } else { kept.len() },
            "{lines:?}"
        );
    }
}

/// The same node fails twice: with `flush` the second absence does not bring up what substitutes took in the
/// first, in Redis and in memcached.
#[test]
fn a_node_that_fails_twice() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("on_return: flush"));
    let mut client = ringway.client();
    let names: Vec<String> = (0..300).map(|i| format!("key:{i}")).collect();
    let set = |client: &mut Client, value: &str| {
        names.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, value]), "+OK\r\n"));
    };
    set(&mut client, "1");
    for round in ["2", "4"] {
        nodes[1].stop();
        ringway.wait_away("b");
        let late: Vec<String> = names.iter().map(|key| client.cmd(&["GET", key])).collect();
        assert!(late.iter().all(|value| round == "2" || value != "$1\r\n2\r\n"), "{late:?}");
        set(&mut client, round);
        nodes[1].cont();
        ringway.wait_back("b");
        let own = || owners(&nodes).len();
        set(&mut client, "3");
        until(SOON, "leftovers are gone", || {
            nodes
                .iter()
                .map(|node| node.cmd(&["DBSIZE"]))
                .map(|n| n[1..].trim().parse::<usize>().expect("a number"))
                .sum::<usize>()
                == names.len()
        });
        assert_eq!(own(), names.len());
    }
    assert!(ringway.metric("ringway_leftovers_deleted_total", &[]) > 10.0);

    let nodes = Memcached::several(3);
    let config = Config::of([]).pool("protocol: memcached").pool("on_return: flush").pool(BRISK);
    let config = nodes.iter().zip(["a", "b", "c"]).fold(config, |c, (n, name)| c.node(name, &n.address()));
    let mut ringway = Ringway::serve(config);
    let mut wire = Wire::connect(&ringway.address());
    let set = |wire: &mut Wire, value: &str| {
        (0..200)
            .for_each(|i| assert_eq!(wire.ask(format!("set key:{i}%20 0 0 1\r\n{value}\r\n")), "STORED\r\n"));
    };
    set(&mut wire, "1");
    nodes[1].stop();
    ringway.wait_away("b");
    set(&mut wire, "2");
    nodes[1].cont();
    ringway.wait_back("b");
    set(&mut wire, "3");
    until(SOON, "leftovers are gone", || ringway.metric("ringway_leftovers_deleted_total", &[]) > 10.0);
    until(SOON, "all of them", || wire.ask("stats nodes\r\n").contains("STAT curr_items 200\r\n"));
    nodes[1].stop();
    ringway.wait_away("b");
    let late: String = (0..200).map(|i| wire.ask(format!("get key:{i}%20\r\n"))).collect();
    assert!(!late.contains("\r\n2\r\n") && late.contains("\r\n3\r\n"), "{late}");
    nodes[1].cont();
}

/// A durable node that comes back without a key is not served until it has its data, or an operator says so;
/// one that comes back with keys is, and that is an error in the log.
#[test]
fn a_durable_node_that_forgot() {
    let mut nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("durable: true"));
    let mut client = ringway.client();
    (0..20).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n"));
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[1].restart_empty();
    let waits = |ringway: &mut Ringway| ringway.node("b")["wait"]["reason"] == "word";
    until(SOON, "it waits for a word", || waits(&mut ringway));
    assert!(ringway.said().contains("a durable node is not served"));
    let lost = (0..20).map(|i| client.cmd(&["GET", &format!("key:{i}")])).filter(|r| r != "$1\r\nv\r\n");
    let lost: Vec<String> = lost.collect();
    assert!(
        !lost.is_empty()
            && lost.iter().all(|r| r.contains(": back without a key, and waits for an operator")),
        "{lost:?}"
    );

    // Its data is found.
    nodes[1].cmd(&["SET", "key:found", "v"]);
    nodes[1].cmd(&["SAVE"]);
    nodes[1].kill();
    until(SOON, "it is gone again", || ringway.node("b")["health"] == "ejected");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    let said = "a durable node is not what it was";
    until(SOON, said, || ringway.said().contains(said));

    nodes[1].cmd(&["FLUSHALL"]);
    nodes[1].cmd(&["SAVE"]);
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[1].restart_empty();
    until(SOON, "it waits again", || waits(&mut ringway));
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let said = run(&["restore", "b", "--yes", "--admin", &admin]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    ringway.wait_back("b");
    assert!((0..20).all(|i| client.cmd(&["GET", &format!("key:{i}")]) != lost[0]));
}

/// memcached's nodes are emptied as well; one that comes back empty need not be.
#[test]
fn memcached_nodes_are_emptied() {
    let mut nodes = Memcached::several(2);
    let config = Config::of([]).pool("protocol: memcached").pool("on_return: flush").pool(BRISK);
    let config = config.node("a", &nodes[0].address()).node("b", &nodes[1].address());
    let mut ringway = Ringway::serve(config);
    let mut wire = Wire::connect(&ringway.address());
    let set = |wire: &mut Wire, value: &str| {
        (0..50).for_each(|i| assert_eq!(wire.ask(format!("set key:{i} 0 0 3\r\n{value}\r\n")), "STORED\r\n"));
    };
    set(&mut wire, "old");
    nodes[0].stop();
    ringway.wait_away("a");
    set(&mut wire, "new");
    nodes[0].cont();
    ringway.wait_back("a");
    let all: String = (0..50).map(|i| wire.ask(format!("get key:{i}\r\n"))).collect();
    assert!(!all.contains("old") && all.contains("new"), "{all}");
    let said = "node=\"a\" data=\"flushed\"";
    until(SOON, said, || ringway.said().contains(said));
    nodes[0].kill();
    ringway.wait_away("a");
    nodes[0].restart_empty();
    ringway.wait_back("a");
    let said = "node=\"a\" data=\"empty\"";
    until(SOON, said, || ringway.said().contains(said));
}

/// A node that can't be emptied does not return, and the reason is named; one that `eject_max` keeps in
/// the ring is never emptied.
#[test]
fn who_is_not_emptied() {
    let nodes = [Redis::start(), Redis::with(&["--rename-command", "FLUSHALL", ""])];
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool("on_return: flush"));
    let mut client = ringway.client();
    (0..20).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n"));
    nodes[1].stop();
    ringway.wait_away("b");
    nodes[1].cont();
    let why = "it can't be emptied, as on_return wants it";
    until(SOON, "it is named", || {
        ringway.node("b")["misconfigured"].as_str().is_some_and(|text| text.contains(why))
    });
    assert!(!ringway.owns("b"));

    // Where it would be cleaned only if it was away.
    let nodes = [Redis::start(), Redis::with(&["--rename-command", "FLUSHALL", ""])];
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    let mut client = ringway.client();
    (0..20).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n"));
    nodes[1].stop();
    ringway.wait_away("b");
    nodes[1].cont();
    let why = "its old keys can't be deleted";
    until(SOON, "it is named", || {
        ringway.node("b")["misconfigured"].as_str().is_some_and(|text| text.contains(why))
    });
    assert_eq!(ringway.metric("ringway_node_owns", &[("node", "b")]), 0.0);
    assert_eq!(ringway.metric("ringway_node_misconfigured", &[("node", "b")]), 1.0);
    // The last one that serves is not put out for it.
    nodes[0].stop();
    until(SOON, "it is known to hang", || ringway.node("a")["health"] == "ejected");
    assert!(ringway.owns("a"));
    nodes[0].cont();
    until(SOON, "it is well", || ringway.node("a")["health"] == "healthy");

    let nodes = Redis::several(2);
    let config = Config::of(&nodes)
        .pool("on_return: flush")
        .pool("health: {interval: 100ms, timeout: 1s, eject_max: 0%}");
    let mut ringway = Ringway::serve(config);
    let mut client = ringway.client();
    (0..20).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n"));
    nodes[1].stop();
    until(SOON, "it is known to hang", || ringway.node("b")["health"] == "ejected");
    nodes[1].cont();
    until(SOON, "it is well", || ringway.node("b")["health"] == "healthy");
    (0..20).for_each(|i| assert_eq!(client.cmd(&["GET", &format!("key:{i}")]), "$1\r\nv\r\n"));
}

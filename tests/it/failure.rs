//! Nodes that die, hang, lie or are set up wrongly, and what clients notice of it.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::harness::{
    Client, Config, Load, Redis, Ringway, SOON,
    fake::{Fake, Manner},
    load::{End, Op, Plan, Report, describe_all},
    owners,
    ringway::sum,
    until,
};

/// How late a write may have been sent and still have met a node's death: the proxy sees it when
/// the kernel says so, and the machine may be busy.
const RACE: Duration = Duration::from_millis(300);

/// Failed writes are at most those in flight at that instant: a client has one request in flight,
/// so it fails at most once, and nothing fails that was sent later.
fn assert_only_in_flight(failed: &[&Op], at: Instant) {
    let mut clients = HashSet::new();
    for op in failed {
        let client = op.key.split('-').next().expect("keys begin with their client");
        assert!(clients.insert(client), "{client} failed twice: {}", describe_all(failed));
        assert!(op.sent < at + RACE, "sent {:?} after the failure: {}", op.sent - at, describe_all(failed));
    }
}

/// Only keys of this node missed their data, and none went back in time.
fn assert_losses_of(report: &Report, map: &HashMap<String, usize>, node: usize) {
    for end in [End::Missed, End::Stale] {
        for key in report.keys(&end) {
            assert_eq!(map[key], node, "{end:?}: {key} was not on the node");
        }
    }
}

fn set_all(client: &mut Client, count: usize) {
    for i in 0..count {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n", "key:{i}");
    }
}

/// The count of ejections of a node.
fn ejections(ringway: &mut Ringway, node: &str) -> f64 {
    ringway.metric("ringway_ejections_total", &[("node", node)])
}

/// `kill -9` of one of four under 50 clients: no GET fails, at most the SETs in flight do, the
/// ring heals in one epoch with its cause, the node's return is one more epoch without an error,
/// and every key is where it was before.
#[test]
fn a_killed_node_leaves_and_returns_under_load() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan::default());
    let before = owners(&nodes);
    let epoch = ringway.epoch();
    load.run(2000);

    nodes[1].kill();
    let killed = Instant::now();
    ringway.wait_away("b");
    assert!(killed.elapsed() < Duration::from_secs(5), "ejected after {:?}", killed.elapsed());
    assert_eq!(ringway.epoch(), epoch + 1);
    ringway.wait_metric("ringway_ejections_total", &[("node", "b"), ("cause", "refused")], 1.0);
    load.run(5000);

    nodes[1].restart_empty();
    ringway.wait_back("b");
    // It is cleaned, and then it owns.
    assert_eq!(ringway.epoch(), epoch + 3);
    load.run(5000);
    let report = load.stop();

    report.assert_nothing_wrong();
    assert!(report.failed(false).is_empty(), "GETs: {}", describe_all(&report.failed(false)));
    assert_only_in_flight(&report.failed(true), killed);
    assert_losses_of(&report, &before, 1);
    assert!(report.keys(&End::Stale).is_empty(), "nobody served old data");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 1.0);
    ringway.wait_metric("ringway_restores_total", &[("node", "b")], 1.0);

    let mut client = ringway.client();
    nodes.iter().for_each(|node| assert_eq!(node.cmd(&["FLUSHALL"]), "+OK\r\n"));
    before.keys().for_each(|key| assert_eq!(client.cmd(&["SET", key, "x"]), "+OK\r\n"));
    assert_eq!(owners(&nodes), before, "each key has the owner that it had");
}

/// A stopped node costs at most `failures` timeouts and the writes in flight; when it goes on, its
/// late replies reach nobody.
#[test]
fn a_stopped_node_costs_few_errors_and_no_wrong_reply() {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan { writes: 30, ..Plan::default() });
    let before = owners(&nodes);
    load.run(2000);
    for round in 1..=2 {
        nodes[2].stop();
        ringway.wait_away("c");
        load.run(3000);
        nodes[2].cont();
        ringway.wait_back("c");
        ringway.wait_metric("ringway_ejections_total", &[("node", "c")], f64::from(round));
        load.run(3000);
    }
    let report = load.stop();

    report.assert_nothing_wrong();
    let (reads, writes) = (report.failed(false), report.failed(true));
    assert!(reads.len() <= 2 * 3, "GETs: {}", describe_all(&reads));
    assert!(writes.len() <= 2 * (50 + 3), "{} SETs: {}", writes.len(), describe_all(&writes));
    let foreign = |op: &&&Op| before[&*op.key] != 2;
    assert_eq!(reads.iter().chain(&writes).filter(foreign).count(), 0, "other nodes' keys do not fail");
    assert_losses_of(&report, &before, 2);
    let slowest = report.slowest(|_| true);
    assert!(slowest < Duration::from_secs(4), "no client waits longer than its deadline of 2 s: {slowest:?}");
}

/// While one node is stopped, requests to the others do not wait for it.
#[test]
fn other_nodes_clients_do_not_notice() {
    let nodes = Redis::several(4);
    let config = Config::of(&nodes).pool("request_timeout: 3s").pool("deadline: 8s");
    let mut ringway = Ringway::serve(config.pool("health: {timeout: 3s}"));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    let before = owners(&nodes);
    load.run(500);
    nodes[0].stop();
    ringway.wait_away("a");
    nodes[0].cont();
    let report = load.stop();
    report.assert_nothing_wrong();
    let others = report.slowest(|op| before[&*op.key] != 0);
    assert!(others < Duration::from_secs(2), "others waited {others:?}, the timeout is 3 s");
    let own = report.slowest(|op| before[&*op.key] == 0);
    assert!(own > Duration::from_secs(2), "the test is worth something: the node's own waited {own:?}");
}

/// A client's pipelined requests to healthy nodes are answered though an earlier one waits for a
/// stopped node, and the waiting one ends within its deadline.
#[test]
fn a_request_to_a_stopped_node_ends_within_its_deadline() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("on_ejected: fail").pool("deadline: 1s");
    let (_ringway, mut client) = Ringway::serve(config).into_client();
    set_all(&mut client, 50);
    let map = owners(&nodes);
    nodes[1].stop();
    for (key, node) in &map {
        let start = Instant::now();
        let reply = client.cmd(&["GET", key]);
        assert!(start.elapsed() < Duration::from_secs(4), "{key}: {:?}", start.elapsed());
        assert_eq!(reply.starts_with('-'), *node == 1, "{key}: {reply}");
    }
}

/// ringway starts though nodes are not there, serves the rest, and takes them in when they come.
#[test]
fn starts_without_some_nodes() {
    let mut nodes = Redis::several(4);
    nodes[3].kill();
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    set_all(&mut client, 200);
    assert_eq!(ringway.http("/readyz").0, 200);
    ringway.wait_away("d");
    nodes[3].restart_empty();
    ringway.wait_back("d");
    set_all(&mut client, 200);
    assert_ne!(nodes[3].cmd(&["DBSIZE"]), ":0\r\n");
}

/// `/readyz` is 503 while no node of a pool answers at all, and 200 as soon as one does; metrics say the
/// same, and of each request that is refused meanwhile which class it was of and that a node left it
/// unserved.
#[test]
fn readiness_says_when_nothing_serves() {
    let mut nodes = Redis::several(2);
    nodes.iter_mut().for_each(|node| node.kill());
    let mut ringway = Ringway::serve(Config::of(&nodes).pool("health: {interval: 500ms}"));
    until(SOON, "it is not ready", || ringway.http("/readyz").0 == 503);
    assert!(ringway.http("/readyz").1.contains("cache"), "it names the pool");
    assert_eq!(ringway.http("/healthz").0, 200);
    assert_eq!(ringway.metric("ringway_pool_serves", &[]), 0.0);
    let mut client = ringway.client();
    for i in 0..40 {
        let told = client.cmd(&["GET", &format!("key:{i}")]);
        assert!(told.starts_with("-ERR node "), "{told}");
    }
    let refused = ringway.metric("ringway_requests_total", &[("class", "read"), ("outcome", "refused")]);
    assert_eq!((refused, ringway.metric("ringway_node_unserved_requests_total", &[])), (40.0, 40.0));
    nodes[0].restart_empty();
    until(SOON, "it is ready", || ringway.http("/readyz").0 == 200);
    assert_eq!(ringway.metric("ringway_pool_serves", &[]), 1.0);
    until(SOON, "it serves", || client.cmd(&["SET", "a", "1"]) == "+OK\r\n");
}

/// A name that does not resolve costs nobody else anything, and the topology says what it is.
#[test]
fn a_name_that_does_not_resolve_is_one_node_away() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).node("d", "no-such-host.invalid:6379");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    ringway.wait_away("d");
    set_all(&mut client, 200);
    ringway.wait_metric("ringway_ejections_total", &[("node", "d"), ("cause", "unresolved")], 1.0);
}

/// `eject_max` fails open: with three of four dead, two are out, the third stays in and its
/// ejection is refused aloud; the living one's keys are served.
#[test]
fn eject_max_fails_open_and_says_so() {
    let mut nodes = Redis::several(4);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    set_all(&mut client, 100);
    let map = owners(&nodes);
    for (node, name) in [(0, "a"), (1, "b")] {
        nodes[node].kill();
        ringway.wait_away(name);
    }
    nodes[2].kill();
    until(SOON, "the refusal is counted", || {
        ringway.metric("ringway_ejections_refused_total", &[("node", "c")]) >= 1.0
    });
    assert!(ringway.owns("c") && ringway.owns("d"));
    assert!(ringway.said().contains("kept, as more than 50 % of the pool's weight would be out"));
    assert_eq!(ringway.http("/readyz").0, 200);
    let mut failed = 0;
    for (key, node) in &map {
        let reply = client.cmd(&["GET", key]);
        match node {
            3 => assert_eq!(reply, "$1\r\nv\r\n", "{key}"),
            2 => assert!(reply.starts_with('-'), "{key}: {reply}"),
            _ => failed += usize::from(reply.starts_with('-')),
        }
    }
    let moved = map.values().filter(|n| **n < 2).count();
    assert!(failed < moved, "some of the dead nodes' keys went to the living one");
    nodes.iter_mut().take(3).for_each(|node| node.restart_empty());
    ["a", "b", "c"].iter().for_each(|name| ringway.wait_back(name));
    set_all(&mut client, 100);
}

/// The last node of a pool is never ejected: it fails, and serves again the moment it can.
#[test]
fn the_last_node_stays() {
    let mut nodes = Redis::several(1);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    set_all(&mut client, 5);
    nodes[0].kill();
    until(SOON, "the refusal is counted", || {
        ringway.metric("ringway_ejections_refused_total", &[("node", "a")]) >= 1.0
    });
    assert!(ringway.owns("a"));
    let start = Instant::now();
    assert!(client.cmd(&["GET", "key:1"]).starts_with('-'));
    assert!(start.elapsed() < Duration::from_secs(5));
    nodes[0].restart_empty();
    until(SOON, "it serves again", || client.cmd(&["SET", "key:1", "v"]) == "+OK\r\n");
    assert_eq!(ejections(&mut ringway, "a"), 0.0);
}

/// A replica, and a node that asks for a password, are misconfigured: the topology and the metric
/// say what is wrong, they are not called dead, and it passes when it is put right.
#[test]
fn a_misconfigured_node_is_not_called_dead() {
    let main = Redis::start();
    let at = main.address();
    let (host, port) = at.split_once(':').expect("host:port");
    let replica = Redis::with(&["--replicaof", host, port]);
    let locked = Redis::with(&["--requirepass", "secret"]);
    let plain = Redis::several(2);
    let config = Config::of(&plain).node("replica", &replica.address()).node("locked", &locked.address());
    let mut ringway = Ringway::serve(config.pool("health: {interval: 200ms}"));
    let what = |ringway: &mut Ringway, name: &str| {
        until(SOON, "it is found out", || !ringway.node(name)["misconfigured"].is_null());
        ringway.node(name)["misconfigured"].to_string().to_lowercase()
    };
    let said = what(&mut ringway, "replica");
    assert!(said.contains("replica"), "{said}");
    let said = what(&mut ringway, "locked");
    assert!(said.contains("password") || said.contains("noauth") || said.contains("auth"), "{said}");
    for name in ["replica", "locked"] {
        assert_eq!(ringway.metric("ringway_node_misconfigured", &[("node", name)]), 1.0);
        let as_dead = ejections(&mut ringway, name)
            - ringway.metric("ringway_ejections_total", &[("node", name), ("cause", "misconfigured")]);
        assert_eq!(as_dead, 0.0, "{name} is not dead");
    }
    assert_eq!(replica.cmd(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
    assert_eq!(locked.cmd(&["CONFIG", "SET", "requirepass", ""]), "+OK\r\n");
    for name in ["replica", "locked"] {
        until(SOON, "it is well", || ringway.node(name)["misconfigured"].is_null());
        ringway.wait_back(name);
    }
    set_all(&mut ringway.client(), 200);
}

/// With `on_ejected: fail` no key moves: an ejected node's keys are refused at once, by name, and
/// the others do not notice.
#[test]
fn on_ejected_fail_moves_nothing() {
    let mut nodes = Redis::several(4);
    let config = Config::of(&nodes).pool("on_ejected: fail");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    set_all(&mut client, 100);
    let map = owners(&nodes);
    let epoch = ringway.epoch();
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(ringway.epoch(), epoch + 1);
    for (key, node) in &map {
        let reply = client.cmd(&["GET", key]);
        let expected = if *node == 1 { "-ERR" } else { "$1\r\nv\r\n" };
        assert!(reply.starts_with(expected), "{key}: {reply}");
        assert!(*node != 1 || reply.split(|c: char| !c.is_alphanumeric()).any(|w| w == "b"), "{reply}");
    }
    nodes[1].restart_empty();
    ringway.wait_back("b");
    set_all(&mut client, 100);
    assert_eq!(owners(&nodes), map);
}

/// A node that answers with what is not the protocol, too much, nothing, half a reply, or a closed
/// door is ejected with that cause, and the others serve its keys.
#[test]
fn a_lying_node_is_ejected_with_its_cause() {
    let cases = [
        (Manner::Garbage, &["protocol"][..]),
        (Manner::TooMany, &["protocol"]),
        (Manner::Silent, &["timeout"]),
        (Manner::Half, &["lost", "protocol"]),
        (Manner::Closing, &["lost", "refused"]),
        (Manner::HugeLength, &["protocol", "timeout"]),
    ];
    for (manner, causes) in cases {
        let nodes = Redis::several(2);
        let fake = Fake::start(manner);
        let config = Config::of(&nodes).node("fake", &fake.address());
        let (mut ringway, mut client) =
            Ringway::serve(config.pool("health: {interval: 200ms}")).into_client();
        // Its own keys fail until it is out, the others' never; no reply takes longer than the deadline.
        until(SOON, &format!("{manner:?}: ejected"), || {
            for i in 0..20 {
                let asked = Instant::now();
                let reply = client.try_cmd(&["SET", &format!("key:{i}"), "v"]);
                // The beginning of a reply that was passed on can't be taken back: a closed
                // connection is how the client learns that the rest does not come.
                if reply.is_err() && matches!(manner, Manner::Half | Manner::HugeLength) {
                    client = ringway.client();
                } else {
                    reply.expect("each request has its reply");
                }
                assert!(asked.elapsed() < Duration::from_secs(5), "{manner:?}: {:?}", asked.elapsed());
            }
            !ringway.owns("fake")
        });
        until(SOON, &format!("{manner:?}: the cause is one of {causes:?}"), || {
            let page = ringway.http("/metrics").1;
            let count =
                |cause: &&str| sum(&page, "ringway_ejections_total", &[("node", "fake"), ("cause", cause)]);
            causes.iter().map(count).sum::<f64>() >= 1.0
        });
        set_all(&mut client, 200);
        assert_eq!(ejections(&mut ringway, "a") + ejections(&mut ringway, "b"), 0.0, "{manner:?}");
    }
}

/// A connection that a node closes while nothing is in flight is no failure: nobody sees an error
/// and nothing is counted.
#[test]
fn an_idle_close_is_no_failure() {
    let node = Redis::start();
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    for round in 0..20 {
        assert_eq!(client.cmd(&["SET", "k", &round.to_string()]), "+OK\r\n");
        assert!(node.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).starts_with(':'));
    }
    assert_eq!(client.cmd(&["GET", "k"]), "$2\r\n19\r\n");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    // A probe may have been under way when its connection was closed: the next one clears that.
    ringway.wait_back("a");
    assert_eq!(ringway.epoch(), 1);
}

/// All connections to a node cut once under load: it is not ejected, no GET fails, and at most the
/// SETs in flight do.
#[test]
fn a_cut_connection_does_not_eject() {
    let nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    let epoch = ringway.epoch();
    for _ in 0..3 {
        load.run(500);
        assert!(nodes[0].cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).starts_with(':'));
    }
    load.run(500);
    let report = load.stop();
    report.assert_nothing_wrong();
    assert!(report.failed(false).is_empty(), "GETs: {}", describe_all(&report.failed(false)));
    assert!(report.failed(true).len() <= 3 * 20, "SETs: {}", describe_all(&report.failed(true)));
    assert!(report.keys(&End::Missed).is_empty() && report.keys(&End::Stale).is_empty());
    assert_eq!((ringway.epoch(), ejections(&mut ringway, "a")), (epoch, 0.0));
}

/// Two ringways with the same nodes in another order of the file place every key alike.
#[test]
fn the_order_of_nodes_does_not_matter() {
    let nodes = Redis::several(3);
    let (_first, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    set_all(&mut client, 100);
    let turned = Config::of([]).node("c", &nodes[2].address()).node("a", &nodes[0].address());
    let (_second, mut other) = Ringway::serve(turned.node("b", &nodes[1].address())).into_client();
    for i in 0..100 {
        assert_eq!(other.cmd(&["GET", &format!("key:{i}")]), "$1\r\nv\r\n", "key:{i}");
    }
}

/// While a node is away, what needs every node is refused by name instead of answered in part.
#[test]
fn whole_keyspace_commands_refuse_while_a_node_is_away() {
    let mut nodes = Redis::several(3);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    set_all(&mut client, 50);
    nodes[1].kill();
    ringway.wait_away("b");
    for args in [&["DBSIZE"][..], &["KEYS", "*"], &["FLUSHALL"], &["FUNCTION", "FLUSH"]] {
        let reply = client.cmd(args);
        assert!(reply.starts_with('-'), "{args:?}: {reply}");
    }
}

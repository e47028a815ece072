//! The control plane hangs: the data plane does not care. The whole machine stands still: no node is to
//! blame.

use std::{
    io::Write,
    path::Path,
    sync::{Arc, OnceLock, atomic::AtomicBool, mpsc},
    thread,
    time::{Duration, Instant},
};

use ringway::{app::App, config, net::HandedSockets};

use crate::harness::{
    Config, Load, Redis, Ringway, SOON,
    load::{Plan, describe_all},
    owners, signal, until,
    web::{Actor, Browser, Stage},
};

/// With the control plane blocked for ten seconds while a node is killed, requests to the other
/// nodes all succeed and those to the dead node end within their deadline; when control goes on,
/// the node is ejected.
#[test]
fn a_blocked_control_plane_stops_nobody() {
    let mut nodes = Redis::several(4);
    let text = Config::of(&nodes).to_string();
    let loaded = config::load_str(&text, "a test", Path::new(".")).expect("the configuration is good");
    let app = App::start(loaded.settings, HandedSockets::default()).expect("it starts");
    let address = app.addresses()[0].1.to_string();
    let load = Load::start(&address, &Plan { clients: 20, ..Plan::default() });
    let map = owners(&nodes);
    load.run(500);

    let (blocked, is_blocked) = mpsc::channel();
    app.control().spawn(async move {
        blocked.send(Instant::now()).expect("the test waits");
        thread::sleep(Duration::from_secs(10));
    });
    let from = is_blocked.recv_timeout(SOON).expect("control is blocked");
    nodes[1].kill();
    until(SOON, "control is blocked for most of ten seconds", || from.elapsed() > Duration::from_secs(8));
    let during = from + Duration::from_secs(8);
    until(SOON, "control goes on", || from.elapsed() > Duration::from_secs(11));
    load.run(500);
    let report = load.stop();
    let mut probe = crate::harness::Client::connect(&address);
    for (key, _) in map.iter().filter(|(_, node)| **node == 1) {
        assert_eq!(probe.cmd(&["SET", key, "moved"]), "+OK\r\n", "the node is ejected");
    }
    assert!(app.stop(&AtomicBool::new(false)), "it ends in time");

    report.assert_nothing_wrong();
    let failed: Vec<_> = [report.failed(true), report.failed(false)].concat();
    let others: Vec<_> = failed.iter().copied().filter(|op| map[&*op.key] != 1).collect();
    assert!(others.is_empty(), "other nodes' requests failed: {}", describe_all(&others));
    let meanwhile =
        report.ops.iter().filter(|op| op.sent > from && op.sent < during && map[&*op.key] != 1).count();
    assert!(meanwhile > 100, "the others were asked meanwhile: {meanwhile}");
    let slowest = report.slowest(|op| map[&*op.key] == 1);
    assert!(slowest < Duration::from_secs(4), "the deadline is 2 s: {slowest:?}");
}

/// ringway and its nodes stand still for a second under load, as they do when a virtual machine is moved:
/// afterwards no node is ejected, nothing is counted against one, and no request has failed.
#[test]
fn a_machine_that_stands_still_ejects_nobody() {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    for _ in 0..3 {
        load.run(500);
        nodes.iter().for_each(|node| node.stop());
        signal("STOP", ringway.pid());
        let from = Instant::now();
        until(SOON, "a second is over", || from.elapsed() > Duration::from_secs(1));
        signal("CONT", ringway.pid());
        nodes.iter().for_each(|node| node.cont());
        load.run(500);
    }
    load.stop().assert_all_good();
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!((ringway.epoch(), ringway.metric("ringway_ejections_total", &[])), (1, 0.0));
}

/// The same for HTTP nodes: neither a head nor a body is late for it, and one that does not come is missed
/// all the same afterwards.
#[test]
fn a_machine_that_stands_still_cuts_no_page() {
    let pid: Arc<OnceLock<u32>> = Arc::default();
    let known = pid.clone();
    let stand_still = move || {
        signal("STOP", *known.get().expect("ringway runs"));
        thread::sleep(Duration::from_millis(1500));
        signal("CONT", *known.get().expect("ringway runs"));
        thread::sleep(Duration::from_millis(300));
    };
    let node = Stage::start(move |head: &[u8], actor: &mut Actor| {
        let is_for = |path: &str| head.starts_with(format!("GET {path} ").as_bytes());
        let mut say = |bytes: &[u8]| actor.write_all(bytes).expect("ringway reads");
        if is_for("/head") {
            stand_still();
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhead");
        } else if is_for("/body") {
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo");
            thread::sleep(Duration::from_millis(200));
            stand_still();
            say(b"dy");
        } else {
            stand_still();
        }
    });
    let config = Config::web([]).node("a", &node.address()).top("workers: 1");
    let mut ringway =
        Ringway::serve(config.pool("request_timeout: 1s").pool("deadline: 20s").pool("retries: 0"));
    pid.set(ringway.pid()).expect("it is set once");
    let mut browser = Browser::connect(&ringway.address());
    for path in ["/head", "/body"] {
        let page = browser.get(path);
        assert_eq!((page.status, page.text()), (200, path[1..].to_owned()), "{}", page.head);
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    let page = browser.get("/never");
    assert_eq!(page.status, 504, "{}", page.head);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[("kind", "timeout")]), 1.0);
}

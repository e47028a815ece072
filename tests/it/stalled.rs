//! The control plane hangs: the data plane does not care. The whole machine stands still: no node is to
//! blame.

use std::{
    fs::OpenOptions,
    io::{Read, Write},
    path::Path,
    process::Command,
    sync::{Arc, OnceLock, atomic::AtomicBool, mpsc},
    thread,
    time::{Duration, Instant},
};

use ringway::{app::App, config, net::HandedSockets};

use crate::harness::{
    Config, Load, Redis, Ringway, SOON,
    load::{Plan, describe_all},
    owners,
    ringway::program,
    signal, until,
    web::{Actor, Browser, Stage},
};

/// Nobody reads the log, and its pipe is full: nodes are ejected and taken back, the admin port answers, and
/// a signal ends the process.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut nodes = Redis::several(3);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("log");
    let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo is there");
    assert!(made.success());
    // Somebody has it open, and does not read.
    let mut pipe = OpenOptions::new().read(true).write(true).open(&path).expect("a pipe");
    let mut ends = pipe.try_clone().expect("a descriptor");
    let filled = thread::spawn(move || drop(ends.write_all(&[b'x'; 1 << 20])));
    let log = format!("exec \"$@\" 2>{}", path.display());
    let mut ringway = Ringway::serve_through(Config::of(&nodes), &["sh", "-c", &log, "sh", program()]);
    let names = ["a", "b"];
    for (name, node) in names.iter().zip(&mut nodes) {
        node.kill();
        ringway.wait_away(name);
        node.restart_empty();
        ringway.wait_back(name);
    }
    assert_eq!(ringway.http("/healthz").0, 200);
    let (status, took) = ringway.terminate();
    assert!(status.success() && took < Duration::from_secs(8), "{status} {took:?}");
    // Lets the thread that filled it end.
    let mut rest = vec![0; 1 << 20];
    pipe.read_exact(&mut rest).expect("it is full");
    filled.join().expect("it ends");
}

/// A log that can't be written is no reason not to serve.
#[test]
fn a_full_disk_for_the_log_is_no_reason() {
    let node = Redis::start();
    let to_full = ["sh", "-c", "exec \"$@\" 2>/dev/full", "sh", program()];
    let mut ringway = Ringway::serve_through(Config::of([&node]), &to_full);
    assert_eq!(ringway.client().cmd(&["PING"]), "+PONG\r\n");
    assert!(ringway.terminate().0.success());
}

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

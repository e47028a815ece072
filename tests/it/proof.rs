//! The harness is worth something: the load finds what it is there to find, on a plain server.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::harness::{
    Load, Redis,
    load::{End, Plan},
};

const FEW: Plan = Plan { clients: 4, keys: 5, writes: 20, pause: Duration::from_micros(200) };

/// A plain server passes: every reply is good.
#[test]
fn a_plain_server_passes() {
    let node = Redis::start();
    let load = Load::start(&node.address(), &FEW);
    load.run(1000);
    let report = load.stop();
    report.assert_all_good();
    assert_eq!(report.preloaded, 20);
    assert!(report.ops.len() >= 1000);
}

/// Data that is gone is missed and absent from then on, a value that was never written is wrong, an old one
/// is stale each time, and an error is a failure.
#[test]
fn each_fault_is_found() {
    let node = Redis::start();
    let load = Load::start(&node.address(), &FEW);
    load.run(100);
    let mut client = node.client();
    client.cmd(&["FLUSHALL"]);
    load.run(400);
    let ended = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = node.client();
            while !ended.load(Relaxed) {
                client.cmd(&["SET", "u0-k0", "u0-k1=1"]);
                client.cmd(&["SET", "u1-k0", "u1-k0=1-short"]);
                client.cmd(&["DEL", "u2-k0"]);
                client.cmd(&["LPUSH", "u2-k0", "a list"]);
            }
        });
        load.run(2000);
        ended.store(true, Relaxed);
        load.stop()
    });
    let of = |key: &str, end: fn(&End) -> bool| report.ops.iter().any(|op| &*op.key == key && end(&op.end));
    assert!(!report.keys(&End::Missed).is_empty() && !report.keys(&End::Absent).is_empty());
    assert!(of("u0-k0", |end| matches!(end, End::Wrong(_))));
    let stale = report.ops.iter().filter(|op| op.end == End::Stale);
    assert!(stale.clone().all(|op| &*op.key == "u1-k0") && stale.count() > 1);
    assert!(of("u2-k0", |end| matches!(end, End::Failed(_))));
    assert!(report.ops.iter().filter(|op| matches!(op.end, End::Wrong(_))).all(|op| &*op.key == "u0-k0"));
}

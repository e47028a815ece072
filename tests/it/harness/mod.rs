//! What the tests stand on: real servers, the built ringway, a plain RESP client and a load
//! that knows what each of its keys must hold. Nothing here sleeps and hopes: every wait has a
//! condition and a deadline.

pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod fake;
pub(crate) mod forwarder;
pub(crate) mod load;
pub(crate) mod memcached;
pub(crate) mod names;
pub(crate) mod network;
pub(crate) mod nginx;
pub(crate) mod prometheus;
pub(crate) mod redis;
pub(crate) mod ringway;
mod server;
pub(crate) mod twemproxy;
pub(crate) mod web;

use std::{
    io::Write,
    process::Command,
    thread,
    time::{Duration, Instant},
};

pub(crate) use client::{Client, encode};
pub(crate) use config::Config;
pub(crate) use load::Load;
pub(crate) use redis::{Redis, owners};
pub(crate) use ringway::Ringway;

/// Long enough for anything that works, on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits for a condition.
///
/// # Panics
/// When it is not true by the deadline; `what` is the sentence that was to become true.
pub(crate) fn until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Says that a test could not be made here, past the harness that keeps what tests print: `tests/run` counts
/// these.
pub(crate) fn skipped(why: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("test skipped: {name}: {why}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
}

/// Sends a signal by its name (`STOP`, `CONT`, `HUP`, `TERM`).
pub(crate) fn signal(name: &str, pid: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.expect("kill can be run").success(), "kill -{name} {pid}");
}

/// A process's peak resident memory in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    status_field(pid, "VmHWM:")
}

/// A process's resident memory in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    status_field(pid, "VmRSS:")
}

fn status_field(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|l| l.starts_with(field)).expect("Linux has the field");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number of kB");
    kib * 1024
}

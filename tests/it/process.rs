//! ringway as what starts, reloads and ends it sees it: signals, sockets' files, and what it says when it
//! can't start.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{Client, Config, Redis, Ringway, SOON, ringway::program, signal, until};

/// A socket's file has the mode that the pool says, also after a reload that says another one.
#[test]
fn a_socket_has_the_mode_that_is_asked_for() {
    let node = Redis::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("front.sock");
    let front = format!("unix:{}", path.display());
    let with = |mode: &str| Config::of([&node]).listen(&front).pool(&format!("socket_mode: {mode}"));
    let mut ringway = Ringway::serve(with("0666"));
    let mode = || std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o666);
    assert_eq!(Client::connect(&front).cmd(&["SET", "k", "v"]), "+OK\r\n");
    assert_eq!(ringway.reload(with("0600")), "ok");
    until(SOON, "the file has the new mode", || mode() == 0o600);
}

/// SIGUSR1 and SIGUSR2, which scripts send to what has log files, end nothing.
#[test]
fn signals_of_others_end_nothing() {
    let node = Redis::start();
    let (ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    for name in ["USR1", "USR2"] {
        signal(name, ringway.pid());
        assert_eq!(client.cmd(&["SET", "k", name]), "+OK\r\n");
    }
    let mut ringway = ringway;
    assert!(ringway.terminate().0.success(), "it ends when it is told to");
}

/// A drain waits for who has sent half a request; a further signal does not.
#[test]
fn a_further_signal_ends_a_drain() {
    let node = Redis::start();
    let (mut ringway, mut client) =
        Ringway::serve(Config::of([&node]).top("drain_timeout: 30s")).into_client();
    assert_eq!(client.cmd(&["PING"]), "+PONG\r\n");
    client.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\nabc").expect("it is sent");
    until(SOON, "half of it is there", || ringway.metric("ringway_client_received_bytes_total", &[]) > 40.0);
    let start = Instant::now();
    signal("TERM", ringway.pid());
    until(SOON, "it drains", || ringway.said().contains("draining"));
    signal("TERM", ringway.pid());
    assert!(ringway.wait().0.success());
    // Without it the half request would be waited for until its deadline, ten seconds.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(ringway.said().contains("a further signal"), "{}", ringway.said());
}

/// An idle ringway that is told to end has nothing to wait for.
#[test]
fn an_idle_process_ends_at_once() {
    let node = Redis::start();
    let took = (0..5).map(|_| {
        let mut ringway = Ringway::serve(Config::of([&node]));
        ringway.wait_probed(&["a"]);
        let start = Instant::now();
        assert!(ringway.terminate().0.success());
        start.elapsed()
    });
    let least = took.min().expect("five of them");
    assert!(least < Duration::from_millis(150), "{least:?}");
}

/// What is wrong before ringway serves is JSON, too, where the log is to be: a mistake in the file, and a
/// port that is taken.
#[test]
fn errors_at_the_start_are_in_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("it has one").port();
    let node = Redis::start();
    for (config, says) in [
        ("pools: {}\n".to_owned(), "pools: has no pools"),
        (Config::of([&node]).listen(&format!("127.0.0.1:{port}")).to_string(), "can't listen on 127.0.0.1:"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ringway.yaml");
        std::fs::write(&path, config).expect("it can be written");
        let mut command = Command::new(program());
        command.args(["serve", "--log", "json", "--config"]).arg(&path).stdin(Stdio::null());
        let told = command.output().expect("it runs");
        assert!(!told.status.success());
        let lines: Vec<Value> = String::from_utf8_lossy(&told.stderr)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect();
        let is_told = |line: &Value| {
            line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains(says))
        };
        assert!(lines.iter().any(is_told), "{says} is not in {lines:?}");
    }
}

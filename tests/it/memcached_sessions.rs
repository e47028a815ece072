//! Several sessions of memcached at once, on one worker and in front of the same nodes, do not notice each
//! other: each gets the bytes that it gets from one memcached. Their scripts have values that are refused,
//! which are passed over, and some sessions end in the middle of theirs.

use std::thread;

use proptest::{
    array,
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config as Cases, TestRunner},
};

use crate::{
    harness::{
        Ringway,
        memcached::{Memcached, Wire},
    },
    memcached::{SMALL, pool},
    memcached_scripts::{Text, piped},
};

/// Each session has keys of its own, so that what it is told depends on it alone.
const SUFFIXES: [&str; 4] = ["", ":b", ":c", ":d"];

/// What one session sends.
#[derive(Clone, Debug)]
struct Script {
    /// Requests, with `@` for what makes a key the session's own.
    requests: Vec<String>,
    /// Where it is cut.
    cuts: Vec<usize>,
    /// It closes behind so many bytes, and what it is told is nobody's.
    leaves: Option<usize>,
}

/// A value that is refused, and would be commands if it were read: what they store is asked for by others.
fn large() -> Text {
    let head = select(
        &[
            "set big@ 0 0 {}",
            "add big@ 1 0 {}",
            "append big@ 0 0 {}",
            "cas big@ 0 0 {} 1",
            "ms big@ {} c",
            "ms big@ {} MA",
        ][..],
    );
    (head, 90usize..200, any::<bool>())
        .prop_map(|(head, times, is_quiet)| {
            let value = "set injected 0 0 1\r\nX\r\nmn\r\n".repeat(times);
            let quiet = match (is_quiet, head.starts_with("ms")) {
                (false, _) => "",
                (true, false) => " noreply",
                (true, true) => " q",
            };
            format!("{}{quiet}\r\n{value}\r\n", head.replace("{}", &value.len().to_string()))
        })
        .boxed()
}

fn script() -> impl Strategy<Value = Script> {
    // A flush is everybody's.
    let small = piped(false, "@").prop_filter("of one session", |request| !request.starts_with("flush_all"));
    let request = prop_oneof![
        8 => small,
        2 => large(),
        1 => Just("get injected big@ a@\r\n".to_owned()),
    ];
    let leaves = prop::option::weighted(0.2, 0usize..4000);
    (vec(request, 1..20), vec(0usize..4000, 0..6), leaves).prop_map(|(requests, cuts, leaves)| Script {
        requests,
        cuts,
        leaves,
    })
}

/// Sends a script and gives what is answered; nothing for one that leaves.
fn play(address: &str, script: &Script, suffix: &str) -> String {
    let bytes = script.requests.concat().replace('@', suffix);
    let mut wire = Wire::connect(address);
    let whole = script.leaves.map_or(bytes.len(), |at| at % (bytes.len() + 1));
    let mut rest = &bytes.as_bytes()[..whole];
    for cut in &script.cuts {
        let (piece, more) = rest.split_at((*cut).min(rest.len()));
        wire.send(piece);
        // The other sessions' bytes come in between.
        thread::yield_now();
        rest = more;
    }
    wire.send(rest);
    if script.leaves.is_some() { String::new() } else { wire.fenced() }
}

/// What each of several sessions is told that play their scripts at once.
fn play_all(address: &str, scripts: &[Script; 4]) -> Vec<String> {
    assert_eq!(Wire::connect(address).ask("flush_all\r\n"), "OK\r\n");
    thread::scope(|scope| {
        let sessions: Vec<_> = scripts
            .iter()
            .zip(SUFFIXES)
            .map(|(script, suffix)| scope.spawn(move || play(address, script, suffix)))
            .collect();
        sessions.into_iter().map(|session| session.join().expect("it is answered")).collect()
    })
}

/// Several sessions at once, each with keys of its own, some with values that are refused and some that end
/// in the middle of one, do not notice each other, whichever nodes they share.
#[test]
fn sessions_side_by_side() {
    let (nodes, alone) = ([(); 3].map(|()| Memcached::with(SMALL.0)), Memcached::with(SMALL.0));
    let mut ringway = Ringway::serve(pool(&nodes).top("workers: 1").pool(SMALL.1));
    let (ours, theirs) = (ringway.address(), alone.address());
    let cases = Cases { cases: 150, failure_persistence: None, ..Cases::default() };
    let run = TestRunner::new(cases).run(&array::uniform4(script()), |scripts| {
        let told = [&ours, &theirs].map(|address| play_all(address, &scripts));
        for (session, (ours, theirs)) in told[0].iter().zip(&told[1]).enumerate() {
            prop_assert_eq!(ours, theirs, "{}", scripts[session].requests.concat().escape_debug());
            prop_assert!(!ours.contains("VALUE injected"), "a value was read as commands");
        }
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("{e}"));
    for node in ["a", "b", "c"] {
        assert_eq!(ringway.metric("ringway_node_failures_total", &[("node", node)]), 0.0);
    }
}

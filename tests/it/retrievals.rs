//! memcached's retrievals of very many keys, through ringway and at a memcached: the same answers, and no
//! cost to anybody but the client that asks.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::{
    harness::{
        Ringway, SOON,
        memcached::{Memcached, Wire},
        until,
    },
    memcached::pool,
};

/// So many keys, each with so many bytes in front of its number.
fn keys(count: usize, bytes: usize) -> Vec<String> {
    let head = "k".repeat(bytes);
    (0..count).map(|i| format!("{head}:{}", i * 11 % count)).collect()
}

/// Stores some of them.
fn store(wire: &mut Wire, keys: &[String]) {
    let sets = keys.iter().step_by(97).map(|key| format!("set {key} 5 0 {}\r\n{key}\r\n", key.len()));
    assert_eq!(wire.ask(sets.collect::<String>()), "STORED\r\n".repeat(keys.len().div_ceil(97)));
}

/// However many keys a line names, through one node or several it is answered as by one memcached: by a
/// `gat`, too, of which memcached itself takes no long line unless all of it is there at once.
#[test]
fn long_lines_are_answered_as_one() {
    for nodes in [1, 3] {
        let (alone, servers) = (Memcached::start(), Memcached::several(nodes));
        let mut ringway = Ringway::serve(pool(&servers));
        let (mut ours, mut theirs) = (Wire::connect(&ringway.address()), Wire::connect(&alone.address()));
        for (count, bytes) in [(2, 200), (90, 20), (700, 1), (5000, 2), (700, 201), (30_000, 3)] {
            let keys = keys(count, bytes);
            store(&mut ours, &keys);
            store(&mut theirs, &keys);
            let named = keys.join(" ");
            let expected = theirs.ask(format!("get {named}\r\n"));
            let values = keys.len().div_ceil(97);
            assert_eq!(expected.matches("VALUE ").count(), values);
            for verb in ["get", "gat 1000"] {
                let behind = "get none\r\nset last 0 0 1\r\nx\r\n";
                let said = ours.ask(format!("get none\r\n{verb} {named}\r\n{behind}"));
                assert!(
                    said == format!("END\r\n{expected}END\r\nSTORED\r\n"),
                    "{nodes} nodes, {verb}, {count} keys"
                );
            }
            for verb in ["gets", "gats 0"] {
                let said = ours.ask(format!("{verb} {named} {}\r\n", keys[0]));
                assert_eq!(said.matches("VALUE ").count(), values + 1, "{nodes} nodes, {verb}, {count} keys");
                assert!(
                    nodes > 1
                        || !verb.starts_with("gets ")
                        || said == theirs.ask(format!("{verb} {named}\r\n"))
                );
            }
        }
        // What stands between the words, or behind a NUL, makes a line no longer for a node.
        for (odd, blanks) in
            [("get{} key\r\n", 100_000), ("gat 0{} key\r\n", 3000), ("get key\0{}\r\n", 3000)]
        {
            assert_eq!(ours.ask(odd.replace("{}", &" ".repeat(blanks))), "END\r\n");
        }
        assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    }
}

/// Clients that ask for very many keys at once, over and over, cost the others no answer, and no node its
/// place.
#[test]
fn a_long_line_hurts_nobody_else() {
    let nodes = Memcached::several(2);
    let mut ringway = Ringway::serve(pool(&nodes));
    let address = ringway.address();
    let (is_over, long) = (AtomicBool::new(false), format!("get{}\r\n", " zz".repeat(300_000)));
    thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut wire = Wire::connect(&address);
            let mut answers = 0;
            while !is_over.load(Relaxed) || answers < 100 {
                let key = format!("key:{}", answers % 50);
                assert_eq!(wire.ask(format!("set {key} 0 0 1\r\nv\r\n")), "STORED\r\n");
                assert_eq!(wire.ask(format!("get {key} zz\r\n")), format!("VALUE {key} 0 1\r\nv\r\nEND\r\n"));
                answers += 1;
                thread::sleep(Duration::from_millis(1));
            }
        });
        let greedy: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = Wire::connect(&address);
                    for _ in 0..2 {
                        wire.ask(&long);
                    }
                })
            })
            .collect();
        greedy.into_iter().for_each(|client| client.join().expect("it was answered"));
        is_over.store(true, Relaxed);
        honest.join().expect("it was answered");
    });
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert!(ringway.owns("a") && ringway.owns("b"));
}

/// `limits.args_max` bounds the words of one retrieval: a line with more is refused as a whole, and its
/// session goes on.
#[test]
fn a_line_of_too_many_keys_is_refused() {
    let nodes = Memcached::several(2);
    let mut ringway = Ringway::serve(pool(&nodes).pool("limits: {args_max: 100}"));
    let mut wire = Wire::connect(&ringway.address());
    let refusal = "CLIENT_ERROR more keys than limits.args_max allows in one line\r\n";
    for (verb, words) in [("get", 1), ("gets", 1), ("gat 0", 2), ("gats 0", 2)] {
        let line = |keys: usize| format!("{verb}{}\r\n", " k".repeat(keys));
        let said = wire.ask([line(100 - words), line(101 - words), line(100_000), line(1)].concat());
        assert_eq!(said, format!("END\r\n{refusal}{refusal}END\r\n"), "{verb}");
    }
}

/// A retrieval that is refused, as its reply is larger than a session may hold, has its node send no more:
/// not the gigabytes that it asked for, be its client there or gone.
#[test]
fn a_refused_retrieval_ends_at_the_node() {
    let nodes = Memcached::several(2);
    let mut ringway = Ringway::serve(pool(&nodes).pool("limits: {session_bytes_max: 8MiB}"));
    let mut wire = Wire::connect(&ringway.address());
    let size = 1_000_000;
    assert_eq!(wire.ask(format!("set k 0 0 {size}\r\n{}\r\n", "x".repeat(size))), "STORED\r\n");
    for leaves in [false, true] {
        let mut greedy = Wire::connect(&ringway.address());
        greedy.send(format!("get{}\r\n", " k".repeat(20_000)));
        let said = greedy.line();
        assert!(said.contains("limits.session_bytes_max"), "{said}");
        if leaves {
            drop(greedy);
        }
        until(SOON, "nothing is in flight", || ringway.metric("ringway_node_in_flight", &[]) == 0.0);
        // Within a tick, and what the sockets hold: of twenty gigabytes.
        let came = ringway.metric("ringway_node_received_bytes_total", &[]);
        assert!(came < 3e9, "{came} bytes");
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(wire.ask("get none\r\n"), "END\r\n");
}

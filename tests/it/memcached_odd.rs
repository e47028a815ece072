//! Odd lines: whatever a client writes, every memcached reads it as ringway does, so that nothing of it is
//! run as a command and nobody else's answers are mixed up.

use std::cell::RefCell;

use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config as Cases, TestRunner},
};

use crate::{
    harness::{
        Ringway,
        memcached::{Memcached, Wire},
        skipped,
    },
    memcached::pool,
    memcached_scripts::piped,
};

/// Lines that servers read in several ways. What stands behind one is its value, or a request of its own that
/// does no harm.
const ODD: &[&str] = &[
    "ms k 11 -\r\nmg evil O7 v\r\n",
    "ms k 11 O1 {\r\nmg evil O7 v\r\n",
    "ms k 11 \r\r\nmg evil O7 v\r\n",
    "ms k 11\0 q\r\nmg evil O7 v\r\n",
    " ms k 11\r\nmg evil O7 v\r\n",
    " set k 0 0 11\r\nmg evil O7 v\r\n",
    "set k 0 0 11\0 noreply\r\nmg evil O7 v\r\n",
    "set k 0 0 00000000000000000011\r\nmg evil O7 v\r\n",
    "ms k 00000000000000000011\r\nmg evil O7 v\r\n",
    "cas k 0 0 11 00000000000000000000001\r\nmg evil O7 v\r\n",
    "set k 0 0 11\t\r\nmg evil O7 v\r\n",
    "mg k -\r\n",
    "me k !\r\n",
    "me k b\r\n",
    "delete noreply\r\n",
    "delete noreply noreply\r\n",
    "delete noreply 0 noreply\r\n",
    "bget noreply\r\n",
    "get noreply\r\n",
    "gets a noreply\r\n",
    "touch k 0\0 noreply\r\n",
    "incr k 1\0 noreply\r\n",
    "md k\0 q\r\n",
    " get foo \r\n",
    "touch k +0\r\n",
    "gat \t0 k\r\n",
    "md k\r q\n",
];

/// Requests with some bytes more in them.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let mutation = (
        any::<Index>(),
        select(vec![
            " ",
            "  ",
            "\0",
            "\r",
            "\t",
            "0",
            "-",
            "+",
            "\u{7f}",
            "\u{e9}",
            "00000000000",
            "noreply",
            " noreply",
            " q",
        ]),
    );
    vec((piped(true, ""), vec(mutation, 0..3)), 1..6).prop_map(|lines| {
        let mut all = Vec::new();
        for (line, mutations) in lines {
            let mut line = line.into_bytes();
            for (at, what) in mutations {
                let at = at.index(line.len());
                line.splice(at..at, what.bytes());
            }
            all.extend_from_slice(&line);
        }
        all
    })
}

/// A client writes odd lines while another asks for its own item, over the same connection to the node.
fn nothing_is_mixed_up(node: Memcached) {
    let nodes = [node];
    let mut ringway = Ringway::serve(pool(&nodes).top("workers: 1"));
    let address = ringway.address();
    let [mut odd, mut honest] = [(); 2].map(|()| Wire::connect(&address));
    assert_eq!(odd.ask("set evil 0 0 6\r\nPOISON\r\n"), "STORED\r\n");
    assert_eq!(honest.ask("set foo 0 0 4\r\ngood\r\n"), "STORED\r\n");
    let mut ask_own = || {
        assert_eq!(honest.ask("mg foo v\r\nget foo\r\n"), "VA 4\r\ngood\r\nVALUE foo 0 4\r\ngood\r\nEND\r\n")
    };
    for lines in ODD {
        odd.send(format!("{lines}mn\r\n"));
        ask_own();
        let said = odd.fenced();
        // The lines that ask for it get it.
        let expected = if lines.contains("foo") { 1 } else { 0 };
        assert_eq!(
            (said.matches("good").count(), said.contains("POISON")),
            (expected, false),
            "{lines:?} {said}"
        );
    }
    let ask_own = RefCell::new(ask_own);
    let cases = Cases { cases: 300, failure_persistence: None, ..Cases::default() };
    let run = TestRunner::new(cases).run(&mutated(), |all| {
        // Flushes are allowed, and take what is asked for.
        if all.windows(5).any(|w| w == b"flush") {
            return Ok(());
        }
        let mut odd = Wire::connect(&address);
        odd.send(&all);
        odd.end();
        ask_own.borrow_mut()();
        let said = odd.rest();
        prop_assert!(
            !said.contains("good") && !said.contains("SERVER_ERROR node"),
            "{} {said}",
            all.escape_ascii()
        );
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

/// With the memcached that is installed.
#[test]
fn odd_lines_are_read_alike() {
    nothing_is_mixed_up(Memcached::start());
}

/// With a newer one, which runs the value behind a line that it gives up.
#[test]
fn odd_lines_are_read_alike_by_newer_servers() {
    match Memcached::other() {
        Some(node) => nothing_is_mixed_up(node),
        None => skipped("RINGWAY_TEST_MEMCACHED names no memcached of 1.6.40 or later"),
    }
}

//! What a real memcached answered, held against what the embedded node answers.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::{
    embedded::{
        Settings, Speaks,
        session::{Fate, Node, Session, limits},
        store::Store,
    },
    protocol::memcache::{Limits, recorded},
};

const NOW_MS: i64 = 1_900_000_000_000;

/// Where the node does not say what was recorded of memcached 1.6.18, and why. The first is how the request
/// begins, or what is wrong with it. `tests/it/memcached_scripts.rs` has those that were not recorded.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("long line", "the limit holds whether or not the line arrives in one piece"),
    ("ma c N0 J13 v q", "an item that N creates is not announced: newer servers hide it too"),
    ("shutdown", "not known here, as all that concerns memcached's memory, disks and tests"),
];

/// The exception for a request, if there is one.
fn exception(request: &[u8]) -> Option<&'static str> {
    let is_long = request.len() > Limits::LINE_BYTES && request.iter().position(|b| *b == b'\n') > Some(2048);
    let of = |what: &str| if what == "long line" { is_long } else { request.starts_with(what.as_bytes()) };
    EXCEPTIONS.iter().find(|(what, _)| of(what)).map(|(what, _)| *what)
}

fn node() -> Node {
    let settings = Settings { speaks: Speaks::Memcached, ..Settings::default() };
    Node {
        store: Store::new(settings.bytes_max, 1),
        run_id: String::new(),
        started_ms: NOW_MS,
        sessions: 1,
        sessions_ever: 1,
        requests: 0,
        memcache: super::State::default(),
        settings,
    }
}

fn session(node: &Node) -> Session {
    Session::new(1, limits(node.settings.bytes_max), Speaks::Memcached)
}

/// All that is answered to these bytes.
fn said(node: &mut Node, session: &mut Session, mut input: &[u8], now_ms: i64) -> String {
    let mut all = Vec::new();
    loop {
        let mut out = Vec::new();
        let batch = session.answer(node, input, &mut out, now_ms);
        all.extend_from_slice(&out);
        input = &input[batch.used..];
        if batch.needs != 0 || session.fate() == Fate::Closing {
            return all.escape_ascii().to_string();
        }
    }
}

/// What was recorded of memcached 1.6.18 is what the node answers, byte for byte, but for what is listed;
/// and what is listed and recorded does differ.
#[test]
fn as_recorded() {
    let (mut node_now, mut section) = (node(), String::new());
    let mut link = session(&node_now);
    let (mut alike, mut differ) = (0, BTreeSet::new());
    for case in recorded::cases() {
        if case.section != section {
            (node_now, section) = (node(), case.section.clone());
            link = session(&node_now);
        }
        let ours = said(&mut node_now, &mut link, &case.request, NOW_MS);
        let ours = (ours, link.fate() == Fate::Closing);
        if ours.1 || case.closed {
            link = session(&node_now);
        }
        let theirs = (case.answer.escape_ascii().to_string(), case.closed);
        match exception(&case.request) {
            Some(what) if ours != theirs => drop(differ.insert(what)),
            _ => assert_eq!(ours, theirs, "{section}: {}", case.request.escape_ascii()),
        }
        alike += usize::from(ours == theirs);
    }
    assert!(alike > 420, "{alike}");
    assert!(differ.into_iter().eq(EXCEPTIONS.iter().map(|(what, _)| *what)));
}

/// The answers of a fresh node to requests, each at its time.
fn answers<'a>(requests: impl IntoIterator<Item = (i64, &'a str)>) -> Vec<String> {
    let mut node = node();
    let mut link = session(&node);
    let mut ask = |(ms, request): (i64, &str)| said(&mut node, &mut link, request.as_bytes(), NOW_MS + ms);
    requests.into_iter().map(&mut ask).collect()
}

fn check(script: &[(i64, &str, &str)]) {
    let said = answers(script.iter().map(|(ms, request, _)| (*ms, *request)));
    for ((ms, request, expected), said) in script.iter().zip(said) {
        assert_eq!(said, expected.as_bytes().escape_ascii().to_string(), "{request:?} at {ms} ms");
    }
}

/// An item lives as long as was said, to the millisecond, however that was said.
#[test]
fn expiry() {
    let unix = NOW_MS / 1000 + 2;
    let absolute = format!("set u 0 {unix} 1\r\nx\r\n");
    check(&[
        (0, "set a 0 1 1\r\nx\r\n", "STORED\r\n"),
        (0, "set past 0 2592001 1\r\nx\r\nget past\r\n", "STORED\r\nEND\r\n"),
        (0, "set gone 0 -1 1\r\nx\r\nadd gone 0 0 1\r\ny\r\n", "STORED\r\nSTORED\r\n"),
        (0, &absolute, "STORED\r\n"),
        (0, "mg a t\r\nmg u t\r\nmg gone t\r\n", "HD t1\r\nHD t2\r\nHD t-1\r\n"),
        (999, "get a\r\nmg a t\r\n", "VALUE a 0 1\r\nx\r\nEND\r\nHD t1\r\n"),
        (1000, "get a\r\nmg u t\r\n", "END\r\nHD t1\r\n"),
        (1999, "mg u t T10 t\r\n", "CLIENT_ERROR duplicate flag\r\n"),
        (1999, "mg u T10 t\r\ntouch u 20\r\nmg u t\r\n", "HD t10\r\nTOUCHED\r\nHD t20\r\n"),
        (21_998, "gat 1 u\r\n", "VALUE u 0 1\r\nx\r\nEND\r\n"),
        (22_998, "get u\r\n", "END\r\n"),
        // 2^32 seconds are 0 in the 32 bits of memcached.
        (23_000, "set z 0 0 1\r\nx\r\ntouch z 4294967296\r\nmg z t\r\n", "STORED\r\nTOUCHED\r\nHD t-1\r\n"),
        (23_000, "ms r 1 T30\r\nx\r\n", "HD\r\n"),
        (23_999, "mg r R30 t\r\n", "HD t30\r\n"),
        (24_000, "mg r R30 t\r\nmg r R30\r\n", "HD t29 W\r\nHD Z\r\n"),
        (24_000, "mg z T-1\r\nmg z\r\n", "HD\r\nEN\r\n"),
    ]);
}

/// All keys are listed for who looks for those that are left over.
#[test]
fn all_keys() {
    check(&[
        (0, "lru_crawler metadump all\r\n", "END\r\n"),
        (0, "set a:1 0 0 3\r\nxyz\r\n", "STORED\r\n"),
        (0, "lru_crawler metadump all\r\n", "key=a%3A1 exp=-1 cas=1 size=3\r\nEND\r\n"),
    ]);
}

/// A flush that is put off takes what is there when its time comes, and a later one replaces it.
#[test]
fn flushes() {
    check(&[
        (0, "set a 0 0 1\r\nx\r\nflush_all 5\r\n", "STORED\r\nOK\r\n"),
        (3_999, "set b 0 0 1\r\ny\r\nget a\r\n", "STORED\r\nVALUE a 0 1\r\nx\r\nEND\r\n"),
        (4_000, "get a b\r\nset a 0 0 1\r\nx\r\n", "END\r\nSTORED\r\n"),
        (4_000, "flush_all 5 noreply\r\nflush_all 10\r\n", "OK\r\n"),
        (9_000, "get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n"),
        (13_000, "get a\r\nset a 0 0 1\r\nx\r\ngets a\r\n", "END\r\nSTORED\r\nVALUE a 0 1 4\r\nx\r\nEND\r\n"),
        // What goes at once takes an id, and a time before the start of the node is none.
        (
            13_000,
            "flush_all 2592001\r\nget a\r\nflush_all\r\nget a\r\n",
            "OK\r\nVALUE a 0 1\r\nx\r\nEND\r\nOK\r\nEND\r\n",
        ),
        (13_000, "ms a 1 c\r\nx\r\n", "HD c7\r\n"),
    ]);
}

/// The largest item is the largest of memcached's; a larger one is refused, and what it would have
/// replaced is gone.
#[test]
fn the_largest_item() {
    // Header, cas id, key with its NUL, the end of the line.
    let largest = (1 << 20) - 48 - 8 - 2 - 2;
    let line = |head: &str, len: usize| format!("{head}\r\n{}\r\n", "x".repeat(len));
    let (fits, large) = ("STORED\r\n", "SERVER_ERROR object too large for cache\r\n");
    let is_there = "VALUE a 0 1\r\nx\r\nEND\r\n";
    for (head, len, expected, left) in [
        (format!("set a 0 0 {largest}"), largest, fits, ""),
        (format!("set a 0 0 {}", largest + 1), largest + 1, large, "END\r\n"),
        (format!("set a 1 0 {largest}"), largest, large, "END\r\n"),
        (format!("set a 0 0 {}", 3 << 20), 3 << 20, large, "END\r\n"),
        (format!("add a 0 0 {}", 3 << 20), 3 << 20, large, is_there),
        (format!("append a 0 0 {largest}"), largest, "NOT_STORED\r\n", is_there),
        (format!("ms a {} T0", 3 << 20), 3 << 20, large, "END\r\n"),
        (format!("ms YQ== {} b", largest + 1), largest + 1, large, "END\r\n"),
        (format!("ms YQ== {} b", 3 << 20), 3 << 20, large, "END\r\n"),
        (format!("set a 0 0 {} noreply", 3 << 20), 3 << 20, "", "END\r\n"),
    ] {
        let request = line(&head, len);
        let said = answers([(0, "set a 0 0 1\r\nx\r\n"), (0, &request), (0, "get a\r\n")]);
        assert_eq!(said[1], expected.escape_default().to_string(), "{head}");
        assert!(left.is_empty() || said[2] == left.escape_default().to_string(), "{head}: {}", said[2]);
    }
}

/// One retrieval can't ask for more bytes than a reply may have, and says so as memcached does.
#[test]
fn a_reply_is_bounded() {
    let mut node = node();
    node.settings.bytes_max = 1 << 20;
    let mut link = session(&node);
    let value = "x".repeat(1 << 19);
    let set = format!("set a 0 0 {}\r\n{value}\r\n", value.len());
    assert_eq!(said(&mut node, &mut link, set.as_bytes(), NOW_MS), "STORED\\r\\n");
    let get = format!("get{}\r\nmn\r\n", " a".repeat(40));
    let said = said(&mut node, &mut link, get.as_bytes(), NOW_MS);
    assert_eq!(said, "SERVER_ERROR out of memory writing get response\\r\\nMN\\r\\n");
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "get",
        "gats",
        "set",
        "cas",
        "incr",
        "decr",
        "touch",
        "delete",
        "flush_all",
        "mg",
        "ms",
        "md",
        "ma",
        "me",
        "mn",
        "stats",
        "a",
        "YQ==",
        "b",
        "0",
        "1",
        "5",
        "-1",
        "noreply",
        "v",
        "t",
        "T0",
        "T-1",
        "N30",
        "R30",
        "I",
        "C1",
        "q",
        "k",
        "Oo",
        "M+",
        "MD",
        "MA",
        "D18446744073709551615",
        "J5",
        "F4294967295",
    ]);
    prop_oneof![
        6 => prop::collection::vec(words, 1..8).prop_map(|words| (words.join(" ") + "\r\n").into_bytes()),
        2 => "(set|append|prepend) a [0-9] 0 1\r\n[0-9]\r\n".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    /// No bytes make the node panic, however they are cut, and its items are counted right.
    #[test]
    fn any_bytes(pieces in prop::collection::vec(piece(), 0..30), size in 1..50usize) {
        let stream = pieces.concat();
        let all = |size: usize| {
            let mut node = node();
            let mut link = session(&node);
            let (mut input, mut out) = (Vec::new(), String::new());
            for chunk in stream.chunks(size) {
                input.extend_from_slice(chunk);
                while link.fate() == Fate::Open {
                    let mut written = Vec::new();
                    let batch = link.answer(&mut node, &input, &mut written, NOW_MS);
                    out += &written.escape_ascii().to_string();
                    input.drain(..batch.used);
                    if batch.needs != 0 {
                        break;
                    }
                }
            }
            prop_assert!(node.store.bytes() < 1 << 16);
            Ok(out)
        };
        prop_assert_eq!(all(stream.len().max(1))?, all(size)?);
    }
}

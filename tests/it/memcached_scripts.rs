//! Random scripts of memcached's commands give the same bytes from one memcached and from what stands for
//! it: a pool of one node, a pool of several (cas ids aside, which are each server's own), and embedded
//! nodes, behind ringway and alone.
//!
//! There are two kinds of scripts. Pipelines are sent in two pieces, cut anywhere. In a dialogue each
//! request waits for the answer to the one before: what memcached does with a counter depends on whether
//! it still sends the old one (a number that becomes shorter is filled up with blanks or not, a stale item
//! stays so or not), so that pipelines have counters of their own that only grow. Times that pass are
//! waited for in tests of their own, since clocks tick apart.

use std::{
    cell::RefCell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
    test_runner::{Config as Cases, TestRunner},
};
use ringway::embedded::Speaks;

use crate::{
    embedded::speaking,
    harness::{
        Config, Ringway, SOON,
        memcached::{Memcached, Wire},
        until,
    },
    memcached::pool,
};

pub(crate) type Text = BoxedStrategy<String>;

fn words(words: &'static [&'static str]) -> Text {
    select(words).prop_map(str::to_owned).boxed()
}

/// Some of these flags, in this order.
fn flags(of: &'static [&'static str]) -> Text {
    subsequence(of, 0..=of.len()).prop_map(|flags| flags.join(" ")).boxed()
}

/// Few of these flags, in this order.
fn few_flags(of: &'static [&'static str]) -> Text {
    subsequence(of, 0..=of.len().min(4)).prop_map(|flags| flags.join(" ")).boxed()
}

fn noreply() -> Text {
    words(&["", "", " noreply"])
}

/// `set` and its kin.
fn store(key: Text, exptime: Text, value: Text) -> Text {
    let verb = words(&["set", "set", "add", "replace", "append", "prepend"]);
    (verb, key, 0u32..9, exptime, value, noreply())
        .prop_map(|(verb, key, flags, exptime, value, noreply)| {
            format!("{verb} {key} {flags} {exptime} {}{noreply}\r\n{value}\r\n", value.len())
        })
        .boxed()
}

/// `verb key flags`
fn meta(verb: &'static str, key: Text, flags: Text) -> Text {
    (key, flags).prop_map(move |(key, flags)| format!("{verb} {key} {flags}\r\n")).boxed()
}

fn meta_set(key: Text, flags: Text, mode: Text, value: Text) -> Text {
    (key, flags, mode, value)
        .prop_map(|(key, flags, mode, value)| {
            format!("ms {key} {} {flags} {mode}\r\n{value}\r\n", value.len())
        })
        .boxed()
}

/// Retrievals of several keys.
fn read(verb: Text, key: Text) -> Text {
    (verb, vec(key, 1..6)).prop_map(|(verb, keys)| format!("{verb} {}\r\n", keys.join(" "))).boxed()
}

/// A form with `{}` for a key.
fn form(forms: &'static [&'static str], key: Text) -> Text {
    (select(forms), key, noreply())
        .prop_map(|(form, key, noreply)| format!("{}{noreply}\r\n", form.replace("{}", &key)))
        .boxed()
}

fn wrong() -> Text {
    words(&[
        "get\r\n",
        "nonsense\r\n",
        "set a b c\r\n",
        "set a 0 0 -1\r\n",
        "set a 0 0 3\r\nabcde\r\n",
        "mg\r\n",
        "ms a x\r\n",
        "mg a q q\r\n",
        "incr a x\r\n",
        "touch a\r\n",
        "gat x a\r\n",
        "verbosity 1\r\n",
        "flush_all\r\n",
        "flush_all noreply\r\n",
        "flush_all -1\r\n",
        "flush_all 1000\r\nflush_all 0\r\n",
    ])
}

/// A request of a pipeline, of keys that end like this.
pub(crate) fn piped(with_cas: bool, suffix: &'static str) -> impl Strategy<Value = String> {
    let key = || words(&["a", "b", "c", "key:4", "key:5", "Zm9v"]).prop_map(move |key| key + suffix).boxed();
    let value = || words(&["", "1", "value", "END\r\n", "VALUE x 0 1\r\n"]);
    let exptime = || words(&["0", "0", "0", "-1", "5000", "2592001"]);
    // Counters of two digits that stay below 18446744073709551615.
    let counter = || words(&["n", "m"]).prop_map(move |key| key + suffix).boxed();
    let verb = if with_cas {
        words(&["get", "gets", "gat 0", "gats 0", "gat -1", "gat 5000"])
    } else {
        words(&["get", "gat 0", "gat -1"])
    };
    let shown = if with_cas {
        &["c", "q", "v", "k", "Oabc", "f", "s", "h", "N0", "T20", "R30"][..]
    } else {
        &["q", "v", "k", "Oabc", "f", "s", "h", "N0", "T20", "R30"]
    };
    let stored =
        if with_cas { &["q", "k", "c", "O1", "F7", "T0"][..] } else { &["q", "k", "O1", "F7", "T-1"] };
    prop_oneof![
        4 => read(verb, key()),
        4 => store(key(), exptime(), value()),
        2 => form(&["delete {}", "delete {} 0", "touch {} 0", "touch {} -1", "touch {} 5000"], key()),
        3 => meta("mg", key(), few_flags(shown)),
        3 => meta_set(key(), few_flags(stored), words(&["", "ME", "MR", "MA", "MP"]), value()),
        2 => meta("md", key(), few_flags(&["q", "k", "O2", "I", "T60"])),
        1 => store(counter(), words(&["0", "-1"]), words(&["10", "99", "950"])),
        2 => form(&["incr {} 1", "incr {} 7", "incr {} 90", "delete {}"], counter()),
        // Not with q: 1.6.18 announces what N creates, q or not, and newer servers do not.
        2 => meta("ma", counter(), few_flags(&["k", "O3", "N0", "J13", "D5", "MI", "v"])),
        1 => meta("ma", counter(), few_flags(&["q", "k", "O3", "D50", "M+", "v"])),
        1 => read(words(&["get"]), counter()),
        1 => wrong(),
    ]
}

/// Values that are counters, and some that are not. None has a minus sign: behind a number above 2^63
/// memcached looks for one in what is left of older items, too.
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "100",
    "18446744073709551615",
    "18446744073709551616",
    "007",
    " 7",
    "7 ",
    "+5",
    "7x",
    "",
    "x",
];

/// Steps of counters.
const DELTAS: &[&str] = &[
    "incr {} 1",
    "incr {} 9",
    "decr {} 1",
    "decr {} 5",
    "decr {} 90",
    "incr {} 18446744073709551615",
    "decr {} 0",
    "incr {} x",
    "incr {} -1",
    "decr {} 18446744073709551616",
];

/// Flags that are none, doubled, or want another token.
const ODD: &[&str] = &[
    "v v", "q q", "x", "E1", "S1", "Nx", "Tx", "Rx", "F", "Fx", "M", "MXX", "Jx", "D-1", "Cx", "b b",
    "\u{e9}",
];

/// A request of a dialogue. `@` stands for the id that the value of its key has then, and `<` for the one
/// before it.
fn spoken(with_cas: bool) -> impl Strategy<Value = String> {
    let key = || words(&["n", "n", "n", "m", "bg==", "a"]);
    let number = || prop_oneof![words(&["9", "99", "10"]), words(NUMBERS)].boxed();
    let exptime = || words(&["0", "0", "0", "0", "-1", "2592001"]);
    let verb = if with_cas {
        words(&["get", "gets", "gat 0", "gats 0", "gat -1"])
    } else {
        words(&["get", "gat 0", "gat -1"])
    };
    let cas = |flags: &'static [&'static str]| {
        let flags = if with_cas { flags } else { flags.strip_prefix(&["c"]).unwrap_or(flags) };
        few_flags(flags)
    };
    let swap =
        (key(), number(), words(&["@", "@", "<", "0"]), noreply()).prop_map(|(key, value, cas, noreply)| {
            format!("cas {key} 5 0 {} {cas}{noreply}\r\n{value}\r\n", value.len())
        });
    let odd = (words(&["mg", "md", "ma"]), key(), few_flags(&["k", "q", "Ok", "v"]), words(ODD))
        .prop_map(|(verb, key, flags, odd)| format!("{verb} {key} {flags} {odd}\r\n"));
    let long = words(&["mg", "md", "ma"]).prop_map(|verb| format!("{verb} n k O{} q\r\n", "o".repeat(32)));
    prop_oneof![
        3 => read(verb, key()),
        4 => store(key(), exptime(), number()),
        2 => swap,
        6 => form(DELTAS, key()),
        2 => form(&["delete {}", "touch {} 0", "touch {} -1"], key()),
        4 => meta("mg", key(), cas(&["c", "b", "q", "v", "k", "Oabc", "f", "s", "t", "h", "u", "N0", "R30", "T0"])),
        1 => meta("mg", key(), flags(&["v", "t", "k", "T-1"])),
        3 => meta("mg", key(), words(&["h v", "h k s", "k"])),
        2 => meta("md", key(), words(&["I"])),
        4 => meta_set(key(), cas(&["c", "b", "q", "k", "O1", "F7", "F4294967297", "C@", "T0"]), words(&["", "", "ME", "MR", "MA", "MP", "MS", "MX", "I"]), number()),
        2 => meta_set(key(), flags(&["k", "I"]), words(&["C<", "C<", "C0"]), number()),
        3 => meta("md", key(), few_flags(&["b", "q", "k", "O2", "I", "T0", "C@"])),
        1 => meta("md", key(), flags(&["k", "I", "C<"])),
        4 => meta("ma", key(), cas(&["c", "b", "k", "O3", "t", "N0", "J13", "D95", "MI", "v"])),
        4 => meta("ma", key(), cas(&["c", "b", "q", "k", "O3", "D95", "M-", "v", "C@"])),
        2 => meta("ma", key(), few_flags(&["k", "D18446744073709551615", "MD", "v", "C<"])),
        1 => meta("ma", key(), few_flags(&["N-1", "J18446744073709551615", "M+", "v"])),
        1 => odd,
        1 => long,
        1 => wrong(),
    ]
}

/// Dialogues in which an item is asked for, invalid, claimed or spelled in base64 while it is changed:
/// what stays with the item and what goes.
const MARKS: &[&[&str]] = &[
    &["set n 5 0 1\r\n9\r\n", "get n\r\n", "incr n 1\r\n", "mg n h v f\r\n"],
    &["set n 5 0 2\r\n10\r\n", "get n\r\n", "decr n 1\r\n", "mg n h v f\r\n"],
    &["set n 0 0 1\r\n9\r\n", "md n I\r\n", "mg n v\r\n", "incr n 1\r\n", "mg n v\r\n"],
    &[
        "set n 0 0 1\r\n1\r\n",
        "md n I\r\n",
        "mg n v\r\n",
        "incr n 1\r\n",
        "mg n v\r\n",
        "md n I\r\n",
        "mg n v\r\n",
    ],
    &["ms bg== 1 b\r\n9\r\n", "mg n k v\r\n", "incr n 1\r\n", "mg n k v\r\n", "mg bg== b k\r\n"],
    &["ms bg== 1 b\r\n1\r\n", "incr n 1\r\n", "mg n k v\r\n", "append n 0 0 1\r\n5\r\n", "mg n k v\r\n"],
    &[
        "set n 0 0 1\r\n1\r\n",
        "md n I\r\n",
        "mg n v\r\n",
        "ms n 1 C< I\r\n2\r\n",
        "mg n v\r\n",
        "ms n 1 C@\r\n3\r\n",
        "mg n v\r\n",
    ],
    &["set n 0 0 1\r\n1\r\n", "md n I\r\n", "ms n 1 C< I\r\n2\r\n", "mg n v\r\n", "mg n v\r\n"],
    &["set n 0 0 1\r\n1\r\n", "md n I\r\n", "prepend n 0 0 1\r\n2\r\n", "mg n v\r\n"],
    &["mg n N0 v\r\n", "mg n v\r\n", "incr n 1\r\n", "append n 0 0 1\r\n2\r\n", "mg n v\r\n", "incr n 1\r\n"],
    &["mg bg== b N0 k\r\n", "mg n k\r\n", "ma bQ== b N0 k\r\n", "mg m k h\r\n"],
    &[
        "set n 0 0 1\r\n1\r\n",
        "touch n 0\r\n",
        "mg n h\r\n",
        "set n 0 0 1\r\n1\r\n",
        "mg n u\r\n",
        "mg n h\r\n",
    ],
    &["set n 0 0 1\r\n1\r\n", "mg n h Ooooooooooooooooooooooooooooooooo\r\n", "mg n h\r\n", "mg n h\r\n"],
    &[
        "ma n N0 J99 v\r\n",
        "ma n v k O\r\n",
        "ma n MD v D91\r\n",
        "get n\r\n",
        "ma n v Ooooooooooooooooooooooooooooooooo\r\n",
        "get n\r\n",
    ],
];

/// Each script finds nothing. A flush takes an id, so that there is one before that of any value.
fn begin(wire: &mut Wire) {
    assert_eq!(wire.ask("flush_all\r\n"), "OK\r\n");
}

/// Sends a pipeline in two pieces, cut anywhere, and gives all that is answered.
fn pipe(wire: &mut Wire, script: &[String], cut: usize) -> String {
    let script = script.concat();
    let (one, other) = script.as_bytes().split_at(cut % (script.len() + 1));
    wire.send(one);
    wire.ask(other)
}

/// Asks one request after the other.
fn talk(wire: &mut Wire, script: &[String]) -> Vec<String> {
    script
        .iter()
        .map(|request| {
            let request = with_id(wire, request);
            wire.ask(request)
        })
        .collect()
}

/// The request with the id of its key's value in it.
fn with_id(wire: &mut Wire, request: &str) -> String {
    if !request.contains(['@', '<']) {
        return request.to_owned();
    }
    let key = request.split(' ').nth(1).unwrap_or_default();
    let binary = if request.split([' ', '\r']).any(|word| word == "b") { " b" } else { "" };
    // It changes nothing, where `mg` would claim a stale item.
    let said = wire.ask(format!("me {key}{binary}\r\n"));
    let id: u64 = said.split(' ').find_map(|word| word.strip_prefix("cas=")?.parse().ok()).unwrap_or(1);
    request.replacen('@', &id.to_string(), 1).replacen('<', &id.saturating_sub(1).to_string(), 1)
}

/// Runs scripts on both sides and compares all bytes.
fn compare(ours: &str, with_cas: bool) {
    // A thread that moves items about holds some of them now and then, and counters show it.
    let alone = Memcached::with(PLAIN);
    let wires = [ours, &alone.address()].map(|address| RefCell::new(Wire::connect(address)));
    let cases = |cases| TestRunner::new(Cases { cases, failure_persistence: None, ..Cases::default() });
    let pipelines = (vec(piped(with_cas, ""), 1..30), 0usize..4000);
    let run = cases(300).run(&pipelines, |(script, cut)| {
        let [ours, theirs] = wires.each_ref().map(|wire| {
            let mut wire = wire.borrow_mut();
            begin(&mut wire);
            pipe(&mut wire, &script, cut)
        });
        prop_assert_eq!(ours, theirs, "{}", script.concat().escape_debug());
        Ok(())
    });
    run.unwrap_or_else(|e| panic!("pipelines: {e}"));
    let dialogue = |script: &[String]| {
        let [ours, theirs] = wires.each_ref().map(|wire| {
            let mut wire = wire.borrow_mut();
            begin(&mut wire);
            talk(&mut wire, script)
        });
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            prop_assert_eq!(ours, theirs, "{}", script[..=i].concat().escape_debug());
        }
        Ok(())
    };
    for script in MARKS {
        let script: Vec<String> = script.iter().map(|&request| request.to_owned()).collect();
        dialogue(&script).unwrap_or_else(|e| panic!("{e}"));
    }
    let run = cases(300).run(&vec(spoken(with_cas), 1..25), |script| dialogue(&script));
    run.unwrap_or_else(|e| panic!("dialogues: {e}"));
}

/// Options of servers whose counters are compared.
const PLAIN: &[&str] = &["-o", "no_lru_maintainer"];

fn plain(count: usize) -> Vec<Memcached> {
    (0..count).map(|_| Memcached::with(PLAIN)).collect()
}

/// A pool of embedded nodes.
fn embedded(names: &[&str]) -> Config {
    let empty = Config::of([]).pool("protocol: memcached");
    names.iter().fold(empty, |config, name| config.node(name, "embedded"))
}

/// Through one node, scripts of text and meta commands, quiet ones and wrong ones among them, give
/// memcached's own bytes, cas ids included.
#[test]
fn one_node_answers_as_it_is() {
    let nodes = plain(1);
    compare(&Ringway::serve(pool(&nodes)).address(), true);
}

/// Three nodes answer as one memcached that holds all keys, cas ids aside: values in the order of
/// the keys, and quiet commands with a fence behind them.
#[test]
fn several_nodes_answer_as_one() {
    let nodes = plain(3);
    compare(&Ringway::serve(pool(&nodes)).address(), false);
}

/// An embedded node gives memcached's own bytes, cas ids included.
#[test]
fn an_embedded_node_answers_as_memcached() {
    compare(&speaking(Speaks::Memcached).address().to_string(), true);
}

/// Three embedded nodes behind ringway answer as one memcached that holds all keys.
#[test]
fn embedded_nodes_answer_as_one() {
    compare(&Ringway::serve(embedded(&["a", "b", "c"])).address(), false);
}

/// A time that was given in any way passes for one memcached, for pools and for embedded nodes: what has a
/// second or two goes, what has longer stays, and a place that is free is free for `add`.
#[test]
fn times_pass_alike() {
    let (alone, nodes) = (Memcached::start(), Memcached::several(3));
    let mut several = Ringway::serve(pool(&nodes));
    let mut inside = Ringway::serve(embedded(&["a", "b", "c"]));
    let addresses = [alone.address(), several.address(), inside.address()];
    let mut wires = addresses.map(|address| Wire::connect(&address));
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + Duration::from_secs(2);
    let give = [
        "set t:1 0 1 1\r\nx\r\n".to_owned(),
        format!("set t:2 0 {} 1\r\nx\r\n", unix.as_secs()),
        "set t:3 0 0 1\r\nx\r\ntouch t:3 1\r\n".to_owned(),
        "set t:4 0 1000 1\r\nx\r\ngat 1 t:4\r\n".to_owned(),
        "ms t:5 1 T1\r\nx\r\n".to_owned(),
        "set t:6 0 0 1\r\nx\r\nmg t:6 T1\r\n".to_owned(),
        "mg t:7 N1 v\r\n".to_owned(),
        "ma t:8 N1 J5 v\r\n".to_owned(),
        "set t:9 0 0 1\r\nx\r\nmd t:9 I T1\r\n".to_owned(),
        "set t:10 0 2 1\r\n5\r\nincr t:10 10\r\nappend t:10 0 0 1\r\n!\r\n".to_owned(),
        // These get more time than they had first, which must last until then: memcached's second may end at
        // once.
        "set l:1 0 2 1\r\nx\r\ntouch l:1 1000\r\n".to_owned(),
        "set l:2 0 2 1\r\nx\r\ngat 0 l:2\r\n".to_owned(),
        "ms l:3 1 T2\r\nx\r\nmg l:3 T1000\r\n".to_owned(),
        "set l:4 0 2 1\r\nx\r\nset l:4 0 0 1\r\ny\r\n".to_owned(),
    ]
    .concat();
    let given = wires.each_mut().map(|wire| wire.ask(&give));
    assert_eq!([&given[0], &given[0]], [&given[1], &given[2]]);
    let short: Vec<String> = (1..=10).map(|i| format!("t:{i}")).collect();
    for wire in &mut wires {
        let get = format!("get {}\r\n", short.join(" "));
        until(SOON, "what has a second or two is gone", || wire.ask(&get) == "END\r\n");
    }
    let after = short.iter().map(|key| format!("add {key} 0 0 1\r\nz\r\n")).collect::<String>()
        + "get l:1 l:2 l:3 l:4\r\nincr t:11 1\r\n";
    let left = wires.each_mut().map(|wire| wire.ask(&after));
    let stored = "STORED\r\n".repeat(10);
    let long = ["l:1", "l:2", "l:3"].map(|key| format!("VALUE {key} 0 1\r\nx\r\n")).concat();
    let expected = format!("{stored}{long}VALUE l:4 0 1\r\ny\r\nEND\r\nNOT_FOUND\r\n");
    assert_eq!(left.each_ref().map(String::as_str), [expected.as_str(); 3]);
}

/// A flush that is put off comes for all: everything that is there then goes, and nothing sooner.
#[test]
fn flushes_come_alike() {
    let (alone, nodes) = (Memcached::start(), Memcached::several(2));
    let mut several = Ringway::serve(pool(&nodes));
    let mut inside = Ringway::serve(embedded(&["a", "b"]));
    for address in [alone.address(), several.address(), inside.address()] {
        let mut wire = Wire::connect(&address);
        // One that is replaced never comes.
        assert_eq!(
            wire.ask("set a 0 0 1\r\nx\r\nset b 0 0 1\r\ny\r\nflush_all 2\r\nflush_all 1000\r\nget a\r\n"),
            "STORED\r\nSTORED\r\nOK\r\nOK\r\nVALUE a 0 1\r\nx\r\nEND\r\n"
        );
        assert_eq!(wire.ask("flush_all 3\r\n"), "OK\r\n");
        until(SOON, "all is gone", || wire.ask("get a b\r\n") == "END\r\n");
        assert_eq!(wire.ask("set a 0 0 1\r\nz\r\n"), "STORED\r\n");
    }
}

/// What `me` tells of a small item is what memcached tells.
#[test]
fn what_is_known_of_an_item() {
    let (alone, inside) = (Memcached::start(), speaking(Speaks::Memcached));
    let mut wires = [alone.address(), inside.address().to_string()].map(|a| Wire::connect(&a));
    let make = "set a 0 0 1\r\nx\r\nms Zm9v 3 b F5\r\nbar\r\nget a\r\n";
    wires.iter_mut().for_each(|wire| drop(wire.ask(make)));
    // A second may begin between the two.
    until(SOON, "both say the same", || {
        let [ours, theirs] = wires.each_mut().map(|wire| wire.ask("me a\r\nme Zm9v b\r\nme none\r\n"));
        assert!(ours.starts_with("ME a exp=-1 la=") && ours.ends_with("EN\r\n"), "{ours}");
        ours == theirs
    });
}

/// Dialogues in which an embedded node says something else than memcached 1.6.18 says: its last answer, and
/// why.
const EXCEPTIONS: &[(&[&str], &str, &str)] = &[
    (
        &["set n 0 0 1\r\n9\r\n", "ma n T1000\r\n", "mg n t\r\n"],
        "HD t1000\r\n",
        "1.6.18 loses the new time when the number gets longer",
    ),
    (&["set n 0 0 1\r\n9\r\n", "mg n T-1 t\r\n"], "HD t0\r\n", "1.6.18 shows the past as a wrapped number"),
    (&["ma n N0 v q\r\n"], "", "newer servers hide what N creates, too"),
    (
        &["set n 0 0 2\r\n10\r\n", "mg n v\r\ndecr n 1\r\nget n\r\n"],
        "VA 2\r\n10\r\n9\r\nVALUE n 0 2\r\n9 \r\nEND\r\n",
        "1.6.18 does not fill up a number that it still sends",
    ),
    (&["ms n 1 x\r\nxyz"], "CLIENT_ERROR bad data chunk\r\n", "1.6.18 names the flag first"),
    (
        &["set n 0 0 +1\r\nx\r\n"],
        "CLIENT_ERROR bad command line format\r\n",
        "newer servers refuse a sign, too",
    ),
    (&["lru_crawler enable\r\n"], "ERROR\r\n", "it concerns the inside of a real memcached"),
    (&["stats reset\r\n"], "ERROR\r\n", "it concerns the inside of a real memcached"),
];

/// The exceptions are what they are said to be, and are exceptions.
#[test]
fn where_an_embedded_node_differs() {
    let (alone, inside) = (Memcached::with(PLAIN), speaking(Speaks::Memcached));
    let mut wires = [inside.address().to_string(), alone.address()].map(|a| Wire::connect(&a));
    for (script, expected, why) in EXCEPTIONS {
        let script: Vec<String> = script.iter().map(|&request| request.to_owned()).collect();
        let [ours, theirs] = wires.each_mut().map(|wire| {
            begin(wire);
            talk(wire, &script).pop().unwrap_or_default()
        });
        assert_eq!(&ours, expected, "{script:?}: {why}");
        assert_ne!(ours, theirs, "{script:?} is no exception: {why}");
    }
}

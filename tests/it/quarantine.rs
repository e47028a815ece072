//! Quarantine: a node that was away is cleaned of what was written elsewhere before it owns its keys
//! again, exactly where that is known.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use ringway::protocol::base64;

use crate::harness::{
    Client, Config, Redis, Ringway, SOON, encode,
    memcached::{Memcached, Wire},
    owners,
    ringway::run,
    until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";
const EXACT: &str = "sole_writer: true";

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("key:{i}")).collect()
}

fn set(client: &mut Client, keys: &[String], value: &str) {
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, value]), "+OK\r\n"));
}

fn get(client: &mut Client, keys: &[String]) -> Vec<String> {
    keys.iter().map(|key| client.cmd(&["GET", key])).collect()
}

/// A pool of three nodes with keys of value `old`, those of node b, and a client.
fn scene(lines: &[&str]) -> (Ringway, Vec<Redis>, Vec<String>, Client) {
    let nodes = Redis::several(3);
    let config = lines.iter().fold(Config::of(&nodes).pool(BRISK), |config, line| config.pool(line));
    let mut ringway = Ringway::serve(config);
    let mut client = ringway.client();
    let all = names(200);
    set(&mut client, &all, "old");
    let map = owners(&nodes);
    let keys: Vec<String> = all.into_iter().filter(|key| map[key] == 1).collect();
    assert!(keys.len() > 20, "it has keys");
    (ringway, nodes, keys, client)
}

fn count(node: &Redis) -> usize {
    node.cmd(&["DBSIZE"])[1..].trim().parse().expect("a number")
}

/// A client that stops in the middle of a large value keeps no node out that is back: the value is for
/// another one.
#[test]
fn half_a_large_value_keeps_nobody_out() {
    let (mut ringway, nodes, keys, mut client) = scene(&[EXACT, "limits: {stall_timeout: 10m}"]);
    let of_a = names(200).into_iter().find(|key| owners(&nodes)[key] == 0).expect("a has keys");
    let request = encode(&["SET", &of_a, &"x".repeat(2 << 20)]);
    let mut stops = ringway.client();
    stops.send(&request[..1 << 20]).expect("ringway reads");
    until(SOON, "it is there", || ringway.node("a")["in_flight"] == 1);
    nodes[1].stop();
    ringway.wait_away("b");
    set(&mut client, &keys, "new");
    nodes[1].cont();
    until(SOON, "b owns its keys", || ringway.owns("b"));
    assert_eq!(get(&mut client, &keys), vec!["$-1\r\n".to_owned(); keys.len()], "none is old");
    stops.send(&request[1 << 20..]).expect("ringway reads");
    assert_eq!(stops.reply().expect("it is answered"), b"+OK\r\n");
}

/// What was written or deleted elsewhere is gone from the node that is back, and from those that took
/// the writes; everything else is there as it was.
#[test]
fn only_what_was_written_elsewhere_is_deleted() {
    let (mut ringway, nodes, keys, mut client) = scene(&[EXACT]);
    let (written, rest) = keys.split_at(keys.len() / 2);
    let (deleted, kept) = rest.split_at(rest.len() / 2);
    nodes[1].stop();
    ringway.wait_away("b");
    set(&mut client, written, "new");
    deleted.iter().for_each(|key| assert_eq!(client.cmd(&["DEL", key]), ":0\r\n"));
    nodes[1].cont();
    ringway.wait_back("b");
    let is = |values: Vec<String>, value: &str| values.iter().all(|v| v == value);
    assert!(is(get(&mut client, written), "$-1\r\n") && is(get(&mut client, deleted), "$-1\r\n"));
    assert!(is(get(&mut client, kept), "$3\r\nold\r\n"), "the rest is served from where it was");
    assert_eq!(nodes.iter().map(count).sum::<usize>(), 200 - written.len() - deleted.len());
    assert!(ringway.said().contains("copies of keys that were written elsewhere are deleted"));
}

/// The same node fails twice: the second absence does not bring up what substitutes took in the first.
#[test]
fn a_node_that_fails_twice() {
    let (mut ringway, nodes, keys, mut client) = scene(&[EXACT]);
    for round in ["2", "4"] {
        nodes[1].stop();
        ringway.wait_away("b");
        let late = get(&mut client, &keys);
        assert!(late.iter().all(|value| value == "$-1\r\n"), "{round}: {late:?}");
        set(&mut client, &keys, round);
        nodes[1].cont();
        ringway.wait_back("b");
        let back = get(&mut client, &keys);
        assert!(back.iter().all(|value| value == "$-1\r\n"), "{round}: {back:?}");
        set(&mut client, &keys, "3");
    }
}

/// While a node leaves and returns under load, with its keys taken back at once or in steps, no client ever
/// reads a value that is older than one whose write was answered, on whatever connection, and no request
/// fails at the return.
#[test]
fn no_old_value_at_any_moment() {
    for start in ["slow_start: 0s", "slow_start: 2s"] {
        let (mut ringway, nodes, keys, mut client) = scene(&[EXACT, start, "request_timeout: 200ms"]);
        set(&mut client, &keys, "0");
        let (stop, strict) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let users: Vec<_> = keys
            .chunks(keys.len().div_ceil(4))
            .map(|keys| {
                let (stop, strict, keys) = (stop.clone(), strict.clone(), keys.to_vec());
                let clients = [ringway.client(), ringway.client()];
                thread::spawn(move || write_and_read(&stop, &strict, &keys, clients))
            })
            .collect();
        for _ in 0..2 {
            nodes[1].stop();
            ringway.wait_away("b");
            // What was in flight has been answered, or refused, when another request is.
            assert_eq!(client.cmd(&["SET", &keys[0], "0"]), "+OK\r\n");
            strict.store(true, Relaxed);
            nodes[1].cont();
            ringway.wait_back("b");
            until(SOON, "it owns all", || ringway.node("b")["placement"] == "owns");
            strict.store(false, Relaxed);
        }
        stop.store(true, Relaxed);
        let writes: u64 = users.into_iter().map(|user| user.join().expect("no old value")).sum();
        assert!(writes > 100, "{writes}");
    }
}

/// Writes rising numbers on one connection and reads them on another; gives how many were written.
fn write_and_read(stop: &AtomicBool, strict: &AtomicBool, keys: &[String], mut clients: [Client; 2]) -> u64 {
    let least = Mutex::new(vec![0_u64; keys.len()]);
    let mut n = 0;
    while !stop.load(Relaxed) {
        for (i, key) in keys.iter().enumerate().skip(1) {
            n += 1;
            let was_strict = strict.load(Relaxed);
            let reply = clients[0].cmd(&["SET", key, &n.to_string()]);
            let is_done = reply == "+OK\r\n";
            assert!(is_done || !(was_strict && strict.load(Relaxed)), "{key}: {reply}");
            if is_done {
                least.lock().expect("no panic")[i] = n;
            }
            let read = clients[1].cmd(&["GET", key]);
            let value = read.split("\r\n").nth(1).and_then(|v| v.parse::<u64>().ok());
            let least = least.lock().expect("no panic")[i];
            assert!(value.is_none_or(|v| v >= least), "{key}: {read} after {least} was answered");
        }
    }
    n
}

/// Where it is not known exactly what was written elsewhere, the node is emptied: others may write, or more
/// was written than is remembered.
#[test]
fn what_is_not_known_exactly() {
    for lines in [&["sole_writer: false"][..], &[EXACT, "quarantine_max: 3"]] {
        let (mut ringway, nodes, keys, mut client) = scene(lines);
        nodes[1].stop();
        ringway.wait_away("b");
        set(&mut client, &keys, "new");
        nodes[1].cont();
        ringway.wait_back("b");
        assert!(get(&mut client, &keys).iter().all(|value| value == "$-1\r\n"));
        assert_eq!(count(&nodes[1]), 0, "{lines:?}");
        assert!(ringway.said().contains(" keys, as it is not known exactly what is old"));
        until(SOON, "leftovers are deleted, too", || {
            nodes.iter().map(count).sum::<usize>() == 200 - keys.len()
        });
    }
}

/// A node that an operator drained is cleaned as well when it is let back.
#[test]
fn a_drained_node() {
    let (mut ringway, _nodes, keys, mut client) = scene(&[EXACT]);
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let order = |word: &str| {
        let output = run(&[word, "b", "--admin", &admin, "--yes", "--wait"]);
        assert!(output.status.success(), "{output:?}");
    };
    order("drain");
    set(&mut client, &keys[..10], "new");
    order("undrain");
    until(SOON, "it owns", || ringway.node("b")["placement"] == "owns");
    let read = get(&mut client, &keys);
    assert!(read[..10].iter().all(|value| value == "$-1\r\n"), "{read:?}");
    assert!(read[10..].iter().all(|value| value == "$3\r\nold\r\n"), "{read:?}");
}

/// memcached's nodes are cleaned as well, of keys that text can't name, too.
#[test]
fn memcached_nodes() {
    let mut nodes = Memcached::several(3);
    let config = Config::of([]).pool("protocol: memcached").pool(EXACT).pool(BRISK);
    let config = nodes.iter().zip(["a", "b", "c"]).fold(config, |c, (n, name)| c.node(name, &n.address()));
    let mut ringway = Ringway::serve(config);
    let mut wire = Wire::connect(&ringway.address());
    // Every other key has a space in it, which only base64 can name.
    let key = |i: usize| match i % 2 {
        0 => (format!("key:{i}"), ""),
        _ => {
            let mut text = Vec::new();
            base64::encode(format!("key {i}").as_bytes(), &mut text);
            (String::from_utf8(text).expect("is ASCII"), " b")
        }
    };
    let set = |wire: &mut Wire, value: &str, keys: std::ops::Range<usize>| {
        for (key, flag) in keys.map(key) {
            assert_eq!(wire.ask(format!("ms {key} 3{flag}\r\n{value}\r\n")), "HD\r\n");
        }
    };
    let get = |wire: &mut Wire, keys: std::ops::Range<usize>| -> String {
        keys.map(key).map(|(key, flag)| wire.ask(format!("mg {key} v{flag}\r\n"))).collect()
    };
    set(&mut wire, "old", 0..200);
    nodes[1].stop();
    ringway.wait_away("b");
    set(&mut wire, "new", 0..100);
    nodes[1].cont();
    ringway.wait_back("b");
    until(SOON, "it owns all", || ringway.node("b")["placement"] == "owns");
    let read = get(&mut wire, 0..100);
    assert!(!read.contains("old") && read.contains("new"), "{read}");
    let rest = get(&mut wire, 100..200);
    assert!(!rest.contains("EN\r\n"), "{rest}");
    // Nothing of what is deleted there need be there.
    nodes[1].kill();
    ringway.wait_away("b");
    set(&mut wire, "new", 0..100);
    nodes[1].restart_empty();
    ringway.wait_back("b");
    let read = get(&mut wire, 0..100);
    assert!(read.contains("EN\r\n") && read.contains("new"), "{read}");
}

/// A node that is back takes its keys in steps: the epochs rise, it serves a growing part of its own keys,
/// no other key moves, and it ends with the exact map.
#[test]
fn a_slow_start() {
    let (mut ringway, mut nodes, keys, mut client) = scene(&["slow_start: 3s"]);
    nodes[1].kill();
    ringway.wait_away("b");
    let epoch = ringway.epoch();
    nodes[1].restart_empty();
    let mut shares: Vec<f64> = Vec::new();
    until(SOON, "it owns all", || {
        let node = ringway.node("b");
        let share = node["admitted"].as_f64().expect("a number");
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        node["placement"] == "owns"
    });
    assert!(shares.len() > 5 && shares.is_sorted(), "{shares:?}");
    let epochs = ringway.epoch() - epoch;
    assert!((16..=33).contains(&epochs), "each step is cleaned and taken: {epochs}");
    set(&mut client, &keys, "back");
    let map = owners(&nodes);
    assert!(keys.iter().all(|key| map[key] == 1), "the exact map");
}

/// Keys have their own policy by prefix: with their node away some are refused, some find nothing, and the
/// rest is served by others, also side by side in one command.
#[test]
fn prefixes() {
    let mut nodes = Redis::several(2);
    let prefixes = "prefixes: [{prefix: 'f:', on_ejected: fail}, {prefix: 'm:', on_ejected: miss}]";
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK).pool(prefixes));
    let mut client = ringway.client();
    let all: Vec<String> =
        ["f:", "m:", "r:"].iter().flat_map(|p| (0..30).map(move |i| format!("{p}{i}"))).collect();
    set(&mut client, &all, "v");
    let map = owners(&nodes);
    let of_b =
        |prefix: &str| all.iter().find(|k| map[*k] == 1 && k.starts_with(prefix)).expect("it has some");
    let (fails, misses, moves) = (of_b("f:"), of_b("m:"), of_b("r:"));
    nodes[1].kill();
    ringway.wait_away("b");
    for command in ["GET", "SET"] {
        let words = [command, fails, "x"];
        let reply = client.cmd(if command == "GET" { &words[..2] } else { &words });
        assert!(reply.contains("ejected, and these keys do not move"), "{reply}");
    }
    assert_eq!(client.cmd(&["GET", misses]), "$-1\r\n");
    assert!(client.cmd(&["SET", misses, "x"]).contains("these keys do not move"));
    assert_eq!(client.cmd(&["SET", moves, "x"]), "+OK\r\n");
    assert_eq!(client.cmd(&["MGET", misses, moves]), "*2\r\n$-1\r\n$1\r\nx\r\n");
    assert!(client.cmd(&["MGET", misses, moves, fails]).starts_with("-ERR node b"));
    nodes[1].restart_empty();
    ringway.wait_back("b");
    assert_eq!(client.cmd(&["SET", fails, "y"]), "+OK\r\n");
}

/// Keys that stay with their node outlive an absence in which all that may be old is deleted, however their
/// node is received, and also where they are the pool's own and a prefix moves. The others are not waited for
/// meanwhile.
#[test]
fn what_stays_is_kept() {
    let stays = ["on_ejected: rehash", "prefixes: [{prefix: 'keep:', on_ejected: fail}]"];
    let moves = ["on_ejected: fail", "prefixes: [{prefix: 'move:', on_ejected: rehash}]"];
    for way in ["on_return: quarantine", "on_return: flush"] {
        for policy in [stays, moves] {
            let nodes: Vec<Redis> =
                (0..3).map(|_| Redis::with(&["--enable-debug-command", "local"])).collect();
            let config = [BRISK, way].iter().chain(&policy).fold(Config::of(&nodes), |c, line| c.pool(line));
            let mut ringway = Ringway::serve(config);
            let mut client = ringway.client();
            let all: Vec<String> =
                (0..90).flat_map(|i| ["keep:", "move:"].map(|prefix| format!("{prefix}{i}"))).collect();
            set(&mut client, &all, "old");
            let map = owners(&nodes);
            let of_b = all.into_iter().filter(|key| map[key] == 1);
            let (kept, moved): (Vec<String>, Vec<String>) = of_b.partition(|key| key.starts_with("keep:"));
            assert!(kept.len() > 10 && moved.len() > 10, "it has some of both");
            // Enough that looking through them takes longer than a request waits.
            assert_eq!(nodes[1].cmd(&["DEBUG", "POPULATE", "300000", "keep:more"]), "+OK\r\n");
            nodes[1].stop();
            ringway.wait_away("b");
            set(&mut client, &moved, "new");
            nodes[1].cont();
            until(SOON, "it is back, and owns all", || {
                moved.iter().for_each(|key| {
                    let value = client.cmd(&["GET", key]);
                    assert!(
                        ["$3\r\nnew\r\n", "$-1\r\n"].contains(&&*value),
                        "{way} {policy:?} {key}: {value}"
                    );
                });
                ringway.node("b")["placement"] == "owns"
            });
            assert_eq!(get(&mut client, &kept), vec!["$3\r\nold\r\n"; kept.len()], "{way} {policy:?}");
            let read = get(&mut client, &moved);
            assert_eq!(read, vec!["$-1\r\n"; moved.len()], "{way} {policy:?}");
            assert_eq!(count(&nodes[1]), 300_000 + kept.len());
            assert!(ringway.said().contains("those that stay with it are kept"));
        }
    }
}

/// The same in memcached, of keys that text can't name, too.
#[test]
fn what_stays_in_memcached_is_kept() {
    let nodes = Memcached::several(3);
    let config = Config::of([]).pool("protocol: memcached").pool(BRISK);
    let config = config.pool("prefixes: [{prefix: 'keep', on_ejected: fail}]");
    let config = nodes.iter().zip(["a", "b", "c"]).fold(config, |c, (n, name)| c.node(name, &n.address()));
    let mut ringway = Ringway::serve(config);
    let mut wire = Wire::connect(&ringway.address());
    let mut of_b = Wire::connect(&nodes[1].address());
    // Every other key has a space in it, which only base64 can name.
    let named = |prefix: &str, i: usize| match i % 2 {
        0 => format!("{prefix}:{i}"),
        _ => {
            let mut text = Vec::new();
            base64::encode(format!("{prefix} {i}").as_bytes(), &mut text);
            format!("{} b", String::from_utf8(text).expect("is ASCII"))
        }
    };
    let set = |wire: &mut Wire, key: &str, value: &str| {
        let (name, flag) =
            key.split_once(' ').map_or((key, String::new()), |(name, b)| (name, format!(" {b}")));
        assert_eq!(wire.ask(format!("ms {name} 3{flag}\r\n{value}\r\n")), "HD\r\n");
    };
    let get = |wire: &mut Wire, key: &str| {
        let (name, flag) =
            key.split_once(' ').map_or((key, String::new()), |(name, b)| (name, format!(" {b}")));
        wire.ask(format!("mg {name} v{flag}\r\n"))
    };
    let all: Vec<(&str, String)> =
        (0..300).flat_map(|i| ["keep", "move"].map(|prefix| (prefix, named(prefix, i)))).collect();
    all.iter().for_each(|(_, key)| set(&mut wire, key, "old"));
    let of_b = all.into_iter().filter(|(_, key)| get(&mut of_b, key).starts_with("VA"));
    let (kept, moved): (Vec<_>, Vec<_>) = of_b.partition(|(prefix, _)| *prefix == "keep");
    assert!(kept.len() > 40 && moved.len() > 40, "it has some of both");
    nodes[1].stop();
    ringway.wait_away("b");
    moved.iter().step_by(2).for_each(|(_, key)| set(&mut wire, key, "new"));
    nodes[1].cont();
    until(SOON, "it owns all", || ringway.node("b")["placement"] == "owns");
    for (prefix, key) in kept.iter().chain(&moved) {
        let expected = if *prefix == "keep" { "VA 3\r\nold\r\n" } else { "EN\r\n" };
        assert_eq!(get(&mut wire, key), expected, "{key}");
    }
}

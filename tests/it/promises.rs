//! What clients may rely on when things go wrong: order, at most once, whole answers or errors.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Client, Config, Redis, Ringway, SOON, client::text, encode, owners, until};

/// Cuts all connections to a node, again and again, while `work` runs.
fn while_cutting<T>(node: &Redis, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = node.client();
            while !done.load(Relaxed) {
                client.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                thread::sleep(Duration::from_millis(3));
            }
        });
        let result = work();
        done.store(true, Relaxed);
        result
    })
}

/// A write is never sent twice: with connections cut all the time, a counter is at least what was
/// acknowledged and at most that plus what failed.
#[test]
fn a_write_is_applied_at_most_once() {
    let node = Redis::start();
    let (_ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    let (mut acknowledged, mut failed) = (0, 0);
    while_cutting(&node, || {
        for _ in 0..3000 {
            match client.cmd(&["INCR", "counter"]).starts_with(':') {
                true => acknowledged += 1,
                false => failed += 1,
            }
        }
    });
    let value: i32 = node.client().list(&["GET", "counter"])[0].parse().expect("a number");
    assert!((acknowledged..=acknowledged + failed).contains(&value), "{acknowledged} + {failed}: {value}");
    assert!(failed > 0, "the test is worth something: some were cut off");
}

/// A session's writes to one key are applied in the order in which it sent them, whatever happens
/// to connections.
#[test]
fn writes_to_one_key_stay_in_order() {
    let node = Redis::start();
    let (_ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    while_cutting(&node, || {
        for batch in 0..200 {
            let push = |i: i32| encode(&["RPUSH", "list", &(batch * 50 + i).to_string()]);
            client.send((0..50).flat_map(push).collect::<Vec<u8>>()).expect("sent");
            for _ in 0..50 {
                client.reply().expect("each has its reply");
            }
        }
    });
    let list: Vec<u64> =
        node.client().list(&["LRANGE", "list", "0", "-1"]).iter().filter_map(|n| n.parse().ok()).collect();
    assert!(list.is_sorted_by(|a, b| a < b), "each once, in order");
    assert!(list.len() > 1000, "most arrived: {}", list.len());
}

/// Reads do not fail when connections are cut: they are sent again.
#[test]
fn reads_are_repeated() {
    let node = Redis::start();
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node]).pool("retries: 3")).into_client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..30 {
                node.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                thread::sleep(Duration::from_millis(20));
            }
            done.store(true, Relaxed);
        });
        while !done.load(Relaxed) {
            assert_eq!(client.cmd(&["GET", "a"]), "$1\r\n1\r\n");
        }
    });
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// SCAN while a node is ejected under it covers what stays, or says that it can't.
#[test]
fn a_scan_under_ejection_is_whole_or_an_error() {
    let mut nodes = Redis::several(3);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    for i in 0..300 {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n");
    }
    let map = owners(&nodes);
    let (mut cursor, mut found, mut pages) = ("0".to_owned(), HashSet::new(), 0);
    let whole = loop {
        let reply = text(&client.try_cmd(&["SCAN", &cursor, "COUNT", "10"]).expect("a reply"));
        if reply.starts_with('-') {
            break false;
        }
        let mut page = crate::harness::client::elements(&reply);
        cursor = page.remove(0);
        found.extend(page);
        pages += 1;
        if pages == 3 {
            nodes[1].kill();
            ringway.wait_away("b");
        }
        if cursor == "0" {
            break true;
        }
        assert!(pages < 1000, "SCAN ends");
    };
    let lost = map.iter().filter(|(key, node)| **node != 1 && !found.contains(*key)).count();
    assert!(!whole || lost == 0, "SCAN ended well and {lost} keys that stay were not returned");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    assert!(client.cmd(&["SCAN", "0"]).starts_with('*'), "a new walk is possible");
}

/// A script that was loaded is known wherever its keys go: also on a node that comes back empty,
/// and also when it was loaded while that node was away.
#[test]
fn loaded_scripts_survive_a_nodes_return() {
    let mut nodes = Redis::several(2);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    let sha = client.list(&["SCRIPT", "LOAD", "return KEYS[1]"]).swap_remove(0);
    nodes[0].kill();
    ringway.wait_away("a");
    let late = client.list(&["SCRIPT", "LOAD", "return {KEYS[1]}"]).swap_remove(0);
    nodes[0].restart_empty();
    ringway.wait_back("a");
    for i in 0..50 {
        let key = format!("key:{i}");
        let bulk = format!("${}\r\n{key}\r\n", key.len());
        assert_eq!(client.cmd(&["EVALSHA", &sha, "1", &key]), bulk);
        assert_eq!(client.cmd(&["EVALSHA", &late, "1", &key]), format!("*1\r\n{bulk}"));
    }
}

/// A split MGET of which one node fails is one clear error; with `per_key_errors` it is an error
/// for each of that node's keys and a value for the others.
#[test]
fn a_broken_mget_is_one_error_or_one_per_key() {
    let mut nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("on_ejected: fail");
    let (mut one, mut client) = Ringway::serve(&config).into_client();
    let (mut each, mut other) = Ringway::serve(config.pool("per_key_errors: true")).into_client();
    let keys: Vec<String> = (0..20).map(|i| format!("key:{i}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "v"]), "+OK\r\n"));
    let map = owners(&nodes);
    nodes[1].kill();
    one.wait_away("b");
    each.wait_away("b");
    let mget: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
    let refusal = client.cmd(&mget);
    assert!(refusal.starts_with('-') && refusal.matches("\r\n").count() == 1, "{refusal}");
    let replies = other.cmd(&mget);
    let mut rest = replies.strip_prefix("*20\r\n").unwrap_or_else(|| panic!("one for each: {replies}"));
    for key in &keys {
        let (line, after) = rest.split_once("\r\n").expect("one more");
        assert_eq!(line.starts_with('-'), map[key] == 1, "{key}: {line}");
        rest = if map[key] == 1 { after } else { after.strip_prefix("v\r\n").expect("a value") };
    }
}

/// A script may take longer than `request_timeout`; it is answered, and the node is not ejected.
#[test]
fn a_long_script_is_no_failure() {
    let nodes = Redis::several(2);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes).pool("deadline: 10s")).into_client();
    let busy = "local from = redis.call('TIME') \
                repeat local now = redis.call('TIME') \
                until (now[1] - from[1]) * 1000 + (now[2] - from[2]) / 1000 > 900 return 'done'";
    assert_eq!(client.cmd(&["EVAL", busy, "1", "a"]), "$4\r\ndone\r\n");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// With `reload.watch` a changed file is taken without a signal.
#[test]
fn a_watched_file_is_reloaded() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).top("reload: {watch: true}");
    let (mut ringway, mut client) = Ringway::serve(&config).into_client();
    assert!(client.cmd(&["KEYS", "*"]).starts_with('*'));
    let path = ringway.config_path();
    std::fs::write(path, config.pool("deny_commands: [KEYS]").to_string()).expect("it can be written");
    until(SOON, "the file is taken", || client.cmd(&["KEYS", "*"]).contains("deny_commands"));
    assert_eq!(ringway.metric("ringway_reloads_total", &[("outcome", "ok")]), 1.0);
}

/// Requests without a deadline's worth of patience: with every node of a pool stopped, each request
/// ends within its deadline, and the first after they go on is served.
#[test]
fn with_every_node_stopped_requests_still_end() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("deadline: 1s").pool("on_return: serve");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    assert_eq!(client.cmd(&["MSET", "a", "1", "b", "2", "c", "3"]), "+OK\r\n");
    nodes.iter().for_each(|node| node.stop());
    let mut clients: Vec<Client> = (0..10).map(|_| ringway.client()).collect();
    let start = Instant::now();
    for client in &mut clients {
        client.send(encode(&["MGET", "a", "b", "c"])).expect("sent");
    }
    for client in &mut clients {
        let reply = text(&client.reply().expect("a reply"));
        assert!(reply.starts_with('-'), "{reply}");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    nodes.iter().for_each(|node| node.cont());
    until(SOON, "it serves", || {
        client.cmd(&["MGET", "a", "b", "c"]) == "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n"
    });
}

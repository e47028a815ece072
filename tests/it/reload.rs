//! SIGHUP: another configuration under clients that stay.

use std::net::TcpListener;

use crate::harness::{Client, Config, Load, Redis, Ringway, SOON, load::Plan, owners, ringway::run, until};

fn set_all(ringway: &mut Ringway, count: usize) {
    let mut client = ringway.client();
    for i in 0..count {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n");
    }
}

/// What lets a reload move as much as it likes.
const FREE: &str = "reload: {max_share: 100%, flush_new: true}";

/// A node is added and taken away again under load: no request fails, each is one epoch, the new
/// node takes only what becomes its own, and its leaving gives back exactly that.
#[test]
fn nodes_come_and_go_under_load() {
    let nodes = Redis::several(4);
    let three = Config::of(&nodes[..3]).top(FREE);
    let four = Config::of(&nodes).top(FREE);
    let mut ringway = Ringway::serve(&three);
    set_all(&mut ringway, 300);
    let before = owners(&nodes[..3]);
    let mut client = ringway.client();
    client.cmd(&["CLIENT", "SETNAME", "stays"]);
    let load = Load::start(&ringway.address(), &Plan { clients: 10, keys: 5, ..Plan::default() });
    let epoch = ringway.epoch();

    load.run(300);
    assert_eq!(ringway.reload(&four), "ok");
    assert_eq!(ringway.epoch(), epoch + 1);
    load.run(300);
    // The others have old values of what they would get back, until these are deleted.
    until(SOON, "they have not any more", || ringway.reload(&three) == "ok");
    assert_eq!(ringway.epoch(), epoch + 2);
    load.run(300);
    let report = load.stop();
    report.assert_nothing_wrong();
    assert!(report.failed(false).is_empty() && report.failed(true).is_empty());

    // The connection is the same one.
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), "$5\r\nstays\r\n");
    assert_eq!(ringway.reload(&four), "ok");
    nodes.iter().for_each(|n| assert_eq!(n.cmd(&["FLUSHALL"]), "+OK\r\n"));
    set_all(&mut ringway, 300);
    let after = owners(&nodes);
    let (mut taken, mut strayed) = (0, 0);
    for (key, node) in after.iter().filter(|(key, _)| key.starts_with("key:")) {
        taken += usize::from(*node == 3);
        strayed += usize::from(*node != 3 && *node != before[key]);
    }
    assert_eq!(strayed, 0, "no key moved between nodes that stay");
    assert!((30..150).contains(&taken), "the fourth of four took {taken} of 300");
}

/// A node that a reload adds has old values: nobody reads them, unless the pool says that it serves such. One
/// that can't be emptied is not taken.
#[test]
fn a_newcomer_with_old_data() {
    for (on_return, is_old) in [("quarantine", false), ("flush", false), ("serve", true)] {
        let nodes = Redis::several(3);
        let with =
            |count: usize| Config::of(&nodes[..count]).top(FREE).pool(&format!("on_return: {on_return}"));
        let mut ringway = Ringway::serve(with(3));
        set_all(&mut ringway, 100);
        assert_eq!(ringway.reload(with(2)), "ok");
        let mut client = ringway.client();
        (0..100).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "new"]), "+OK\r\n"));
        assert_eq!(ringway.reload(with(3)), "ok");
        let read: Vec<String> = (0..100).map(|i| client.cmd(&["GET", &format!("key:{i}")])).collect();
        assert_eq!(read.iter().any(|value| value == "$1\r\nv\r\n"), is_old, "{on_return}: {read:?}");
        assert_eq!(
            ringway.said().contains("a server that is new had keys and was emptied"),
            !is_old,
            "{}",
            ringway.said()
        );
    }
    let nodes = [Redis::start(), Redis::with(&["--rename-command", "FLUSHALL", ""])];
    nodes[1].cmd(&["SET", "key:1", "old"]);
    let mut ringway = Ringway::serve(Config::of(&nodes[..1]).top(FREE));
    let all = Config::of(&nodes).top(FREE).top("buffered_bytes: 2GiB");
    assert_eq!(ringway.reload(all), "partly");
    let said = "which is to be node b, has 1 keys, which may be old, and it can't be emptied";
    until(SOON, said, || ringway.said().contains(said));
    assert!(ringway.said().contains("all others are in force: pool cache: "), "{}", ringway.said());
    let last = &ringway.topology()["last_reload"];
    assert_eq!((&last["in_part"], &last["needs_restart"]), (&true.into(), &["buffered_bytes"][..].into()));
    assert!(last["refused"][0].as_str().is_some_and(|why| why.contains(said)), "{last}");
}

/// A server that a reload puts in and that has keys is not emptied unasked, be it a new node or another
/// address of one: the address may be a slip. The same process at another address is what it was.
#[test]
fn nobody_is_emptied_unasked() {
    let nodes = Redis::several(3);
    let asked = |flush_new: bool| {
        Config::of(&nodes[..2]).top(&format!("reload: {{max_share: 100%, flush_new: {flush_new}}}"))
    };
    let mut ringway = Ringway::serve(asked(false));
    set_all(&mut ringway, 50);
    assert_eq!(nodes[2].cmd(&["SET", "of another service", "v"]), "+OK\r\n");
    let address = nodes[2].address();
    for config in [asked(false).node("c", &address), asked(false).moved("b", &address)] {
        assert_eq!(ringway.reload(config), "refused");
        let said = format!("the server at {address}, which is to be node");
        until(SOON, &said, || ringway.said().contains(&said) && ringway.said().contains("flush_new: true"));
        assert_eq!(nodes[2].cmd(&["DBSIZE"]), ":1\r\n");
    }
    let dead = "127.0.0.1:1";
    for config in [asked(false).node("c", dead), asked(false).moved("b", dead)] {
        assert_eq!(ringway.reload(config), "refused");
        let said = format!("the server at {dead}, which is to be node");
        until(SOON, &said, || ringway.said().contains(&said) && ringway.said().contains("does not answer"));
    }
    nodes[2].stop();
    assert_eq!(ringway.reload(asked(false).node("c", &address)), "refused");
    nodes[2].cont();
    let keys = nodes[1].cmd(&["DBSIZE"]);
    let same = nodes[1].address().replace("127.0.0.1", "localhost");
    assert_eq!(ringway.reload(asked(false).moved("b", &same)), "ok");
    assert_eq!(nodes[1].cmd(&["DBSIZE"]), keys, "it is the same process");
    assert_eq!(ringway.reload(asked(true).moved("b", &address)), "ok");
    assert_eq!(nodes[2].cmd(&["DBSIZE"]), ":0\r\n");
}

/// Keys that a reload moves are deleted where they were: neither the failure of their new owner nor another
/// reload brings up what they were before. Until that is done the keys of a node that fails wait, and a
/// reload that would take them from it is refused; with `on_return: serve` old values are served.
#[test]
fn what_a_reload_moves_has_no_old_copies() {
    for (on_return, is_old) in [("quarantine", false), ("flush", false), ("serve", true)] {
        let mut nodes = Redis::several(4);
        let brisk = "health: {interval: 100ms, timeout: 1s}";
        let with = |nodes: &[Redis]| {
            Config::of(nodes).top(FREE).pool(brisk).pool(&format!("on_return: {on_return}"))
        };
        let mut ringway = Ringway::serve(with(&nodes[..3]));
        set_all(&mut ringway, 200);
        assert_eq!(ringway.reload(with(&nodes)), "ok");
        let mut client = ringway.client();
        (0..200).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "new"]), "+OK\r\n"));
        if on_return == "flush" {
            // Back to three at once, or when it may be.
            until(SOON, "nobody has old values", || ringway.reload(with(&nodes[..3])) == "ok");
        } else {
            nodes[3].kill();
            until(SOON, "it is found", || ringway.node("d")["health"] == "ejected");
        }
        let mut read: Vec<String> = (0..200).map(|i| client.cmd(&["GET", &format!("key:{i}")])).collect();
        if on_return == "quarantine" {
            ringway.wait_away("d");
            until(SOON, "its keys go on", || ringway.node("d")["placement"] == "away");
            read.extend((0..200).map(|i| client.cmd(&["GET", &format!("key:{i}")])));
        }
        assert_eq!(read.iter().any(|value| value == "$1\r\nv\r\n"), is_old, "{on_return}: {read:?}");
        assert!(read.iter().any(|value| value == "$3\r\nnew\r\n"), "{on_return}: {read:?}");
        let deleted = ringway.metric("ringway_leftovers_deleted_total", &[]);
        assert_eq!(deleted > 20.0, !is_old, "{on_return}: {deleted}");
    }
}

/// A weight that is changed, and changed back at once: the second reload waits until those who had the keys
/// before have them no more, and nobody reads an old value.
#[test]
fn a_weight_is_put_back_at_once() {
    let nodes = Redis::several(4);
    let brisk = "health: {interval: 100ms, timeout: 1s}";
    let config = Config::of(&nodes).top(FREE).pool(brisk).pool("sole_writer: true");
    let mut ringway = Ringway::serve(&config);
    set_all(&mut ringway, 400);
    let mut client = ringway.client();
    let heavy = config.clone().moved("d", &format!("{}, weight: 2", nodes[3].address()));
    for turn in 0..3 {
        until(SOON, "nobody has old values", || ringway.reload(&heavy) == "ok");
        let value = format!("new{turn}");
        (0..400).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), &value]), "+OK\r\n"));
        assert_eq!(ringway.reload(&config), "refused", "others have old values");
        until(SOON, "they have none", || ringway.reload(&config) == "ok");
        for i in 0..400 {
            let read = client.cmd(&["GET", &format!("key:{i}")]);
            assert!(read == "$-1\r\n" || read == format!("$4\r\n{value}\r\n"), "key:{i}: {read}");
        }
    }
}

/// A node that is out gets another address, where a server has old values: it is received as a new one.
#[test]
fn another_server_in_the_place_of_one_that_is_out() {
    let nodes = Redis::several(4);
    let config = Config::of(&nodes[..3]).top(FREE).pool("health: {interval: 100ms, timeout: 1s}");
    let mut ringway = Ringway::serve(&config);
    set_all(&mut ringway, 100);
    nodes[1].client().list(&["KEYS", "*"]).iter().for_each(|key| drop(nodes[3].cmd(&["SET", key, "v"])));
    nodes[1].stop();
    ringway.wait_away("b");
    let mut client = ringway.client();
    (0..100).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "new"]), "+OK\r\n"));
    assert_eq!(ringway.reload(config.moved("b", &nodes[3].address())), "ok");
    let read: Vec<String> = (0..100).map(|i| client.cmd(&["GET", &format!("key:{i}")])).collect();
    assert!(!read.contains(&"$1\r\nv\r\n".to_owned()), "{read:?}");
    assert!(ringway.owns("b") && ringway.said().contains("a server that is new had keys and was emptied"));
    nodes[1].cont();
}

/// While a node has old values of its keys these can't be told to stay with it: such a reload is refused, and
/// says what to do. Once the node is back and clean it is done, and nobody has read an old value.
#[test]
fn keys_stay_once_their_node_is_clean() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool("health: {interval: 100ms, timeout: 1s}");
    let mut ringway = Ringway::serve(config.clone().pool("sole_writer: true"));
    let mut client = ringway.client();
    let mut set = |value: &str| {
        (0..100).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), value]), "+OK\r\n"));
    };
    set("old");
    nodes[1].stop();
    ringway.wait_away("b");
    set("new");
    let stays = config.pool("on_ejected: fail");
    assert_eq!(ringway.reload(&stays), "refused");
    let said = "pool cache: node b is not back in its place, and others have taken writes for its keys";
    until(SOON, said, || ringway.said().contains(said));
    nodes[1].cont();
    ringway.wait_back("b");
    assert_eq!(ringway.reload(&stays), "ok");
    for i in 0..100 {
        let value = client.cmd(&["GET", &format!("key:{i}")]);
        assert!(["$3\r\nnew\r\n", "$-1\r\n"].contains(&&*value), "key:{i}: {value}");
    }
}

/// A heavier node takes more, and only from the others.
#[test]
fn a_weight_moves_keys_to_the_heavier_node() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).top(FREE);
    let mut ringway = Ringway::serve(&config);
    set_all(&mut ringway, 300);
    let before = owners(&nodes);
    let heavy = config.moved("a", &format!("{}, weight: 4", nodes[0].address()));
    assert_eq!(ringway.reload(heavy), "ok");
    nodes.iter().for_each(|n| assert_eq!(n.cmd(&["FLUSHALL"]), "+OK\r\n"));
    set_all(&mut ringway, 300);
    let after = owners(&nodes);
    let count = |map: &std::collections::HashMap<String, usize>| map.values().filter(|n| **n == 0).count();
    assert!(count(&after) > count(&before) + 50, "{} -> {}", count(&before), count(&after));
    assert!(after.iter().all(|(key, node)| *node == 0 || *node == before[key]), "nothing else moved");
    let share = ringway.node("a")["share"].as_f64().expect("a share is a number");
    assert!((0.5..0.8).contains(&share), "4 of 6 units: {share}");
}

/// A node's address changes under its name: no key has another owner, and the others' connections
/// stay.
#[test]
fn an_address_changes_and_no_key_moves() {
    let nodes = Redis::several(4);
    // With one worker, each node needs one connection.
    let config = Config::of(&nodes[..3]).top("workers: 1");
    let mut ringway = Ringway::serve(&config);
    set_all(&mut ringway, 200);
    let before = owners(&nodes[..3]);
    let connects = ringway.metric("ringway_node_connects_total", &[("node", "a")]);
    let epoch = ringway.epoch();
    assert_eq!(ringway.reload(config.moved("b", &nodes[3].address())), "ok");
    set_all(&mut ringway, 200);
    assert!(ringway.epoch() <= epoch + 1);
    let moved: std::collections::HashMap<_, _> =
        owners(&nodes[3..]).into_keys().map(|key| (key, 1)).collect();
    let expected = before.iter().filter(|(_, n)| **n == 1).map(|(k, n)| (k.clone(), *n)).collect();
    assert_eq!(moved, expected, "the new address has the keys of the old one");
    assert_eq!(ringway.metric("ringway_node_connects_total", &[("node", "a")]), connects);
}

/// A file with an error changes nothing: the error is logged with its key and counted, clients are
/// served as before, and the next good file is taken.
#[test]
fn an_invalid_file_changes_nothing() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes);
    let (mut ringway, mut client) = Ringway::serve(&config).into_client();
    let topology = ringway.topology();
    let bad = config.clone().pool("request_timeout: soon").pool("nonsense: 1");
    assert_eq!(ringway.reload(&bad), "invalid");
    assert_eq!(ringway.topology()["pools"][0]["epoch"], topology["pools"][0]["epoch"]);
    until(SOON, "both errors are told", || {
        let said = ringway.said();
        said.contains("request_timeout") && said.contains("nonsense")
    });
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert_eq!(ringway.reload("pools: ["), "invalid");
    assert_eq!(ringway.reload(config.pool("deny_commands: [KEYS]")), "ok");
    assert!(client.cmd(&["KEYS", "*"]).contains("deny_commands"));
}

/// A reload that would move more than `reload.max_share` is refused and says how much it is.
#[test]
fn a_reload_that_moves_too_much_is_refused() {
    let nodes = Redis::several(4);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    let epoch = ringway.epoch();
    assert_eq!(ringway.reload(Config::of(&nodes[..2])), "refused");
    assert_eq!(ringway.epoch(), epoch);
    assert!(ringway.said().contains("max_share"));
    assert_eq!(ringway.pool()["nodes"].as_array().map(Vec::len), Some(4));
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
}

/// What only a restart puts in force is told by `status` until the file says again what is, or the process is
/// another.
#[test]
fn what_waits_for_a_restart_is_told() {
    let node = Redis::start();
    let config = Config::of([&node]);
    let mut ringway = Ringway::serve(&config);
    ringway.wait_probed(&["a"]);
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let status = || {
        let told = crate::harness::ringway::run(&["status", "--admin", &admin]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (told.status.code(), text(&told.stdout), text(&told.stderr))
    };
    until(SOON, "all is well", || status().0 == Some(0));
    let other = config.clone().top("buffered_bytes: 2GiB").top("incidents: {file_bytes_max: 2MiB}");
    for _ in 0..2 {
        assert_eq!(ringway.reload(&other), "ok");
        let (code, out, err) = status();
        assert_eq!(code, Some(4), "{out}{err}");
        let line =
            "the file says otherwise than what is in force until a restart: buffered_bytes, incidents\n";
        assert!(out.contains(line), "{out}");
        assert!(err.contains("not as it should be: what waits for a restart"), "{err}");
    }
    assert_eq!(ringway.reload(&config), "ok");
    assert_eq!(status().0, Some(0), "it says what is in force");
}

/// A reload that changes nothing is no epoch and closes nothing.
#[test]
fn the_same_file_again_is_no_epoch() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes);
    let (mut ringway, mut client) = Ringway::serve(&config).into_client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    let (epoch, connects) = (ringway.epoch(), ringway.metric("ringway_node_connects_total", &[]));
    assert_eq!(ringway.reload(&config), "ok");
    assert_eq!(client.cmd(&["GET", "a"]), "$1\r\n1\r\n");
    assert_eq!((ringway.epoch(), ringway.metric("ringway_node_connects_total", &[])), (epoch, connects));
}

/// `locate` names the node that ringway really sends each key to.
#[test]
fn locate_tells_where_keys_are() {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    set_all(&mut ringway, 200);
    let map = owners(&nodes);
    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
    let path = ringway.config_path();
    let output = run(&[&["locate", "--config", &path][..], &keys].concat());
    let text = String::from_utf8(output.stdout).expect("locate prints text");
    assert_eq!(text.lines().count(), keys.len());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields[2], crate::harness::config::NAMES[map[fields[0]]], "{line}");
    }
}

/// A pool that a reload removes leaves no connection behind at its nodes, however often it comes
/// and goes.
#[test]
fn a_removed_pool_leaves_nothing_behind() {
    let (node, other) = (Redis::start(), Redis::start());
    let free =
        TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").to_string();
    let with = |pool: &str, listen: &str, node: &Redis| {
        let address = node.address();
        format!("  {pool}:\n    listen: \"{listen}\"\n    nodes: [{{name: n, address: \"{address}\"}}]\n")
    };
    let one = format!(
        "admin: {{listen: \"127.0.0.1:0\"}}\n{FREE}\npools:\n{}",
        with("cache", "127.0.0.1:0", &node)
    );
    let two = format!("{one}{}", with("comes", &free, &other));
    let mut ringway = Ringway::serve(&one);
    let connections = |node: &Redis| node.cmd(&["CLIENT", "LIST"]).matches("addr=").count();
    let before = connections(&other);
    for _ in 0..3 {
        ringway.reload(&two);
        let pools = |ringway: &mut Ringway| ringway.topology()["pools"].as_array().map_or(0, Vec::len);
        until(SOON, "the pool is there", || pools(&mut ringway) == 2);
        assert_eq!(Client::connect(&free).cmd(&["SET", "k", "v"]), "+OK\r\n");
        assert!(connections(&other) > before);
        ringway.reload(&one);
        until(SOON, "the pool is gone", || pools(&mut ringway) == 1);
    }
    until(SOON, "its connections are closed", || connections(&other) == before);
}

/// A file with two pools: `cache`, and another.
fn two_pools(nodes: &[Redis], top: &str, cache: &str, other: (&str, &str)) -> String {
    let pool = |name: &str, listen: &str, node: &Redis, more: &str| {
        let address = node.address();
        format!(
            "  {name}:\n    listen: \"{listen}\"\n{more}    nodes: [{{name: n, address: \"{address}\"}}]\n"
        )
    };
    let (name, listen) = other;
    format!(
        "admin: {{listen: \"127.0.0.1:0\"}}\n{top}\npools:\n{}{}",
        pool("cache", "127.0.0.1:0", &nodes[0], cache),
        pool(name, listen, &nodes[1], "")
    )
}

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").to_string()
}

/// A reload is taken as a whole or not at all: with a taken port, or a pool that is left out, nothing else of
/// the file is in force either, and it is said what to do.
#[test]
fn all_or_nothing() {
    let nodes = Redis::several(2);
    let free = free_port();
    let mut ringway = Ringway::serve(two_pools(&nodes, "", "", ("other", &free)));
    let mut client = ringway.client();
    let is_as_before = |client: &mut Client| assert!(client.cmd(&["KEYS", "*"]).starts_with('*'));
    let deny = "    deny_commands: [KEYS]\n";
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|at| (at.to_string(), taken)).expect("it is bound");
    assert_eq!(ringway.reload(two_pools(&nodes, "", deny, ("other", &taken.0))), "invalid");
    let said =
        format!("pool other: can't listen on {}: Address already in use (os error 98); stop who", taken.0);
    until(SOON, "it is said", || ringway.said().contains(&said));
    is_as_before(&mut client);
    let node = nodes[0].address();
    let one = format!(
        "admin: {{listen: \"127.0.0.1:0\"}}\npools:\n  cache:\n    listen: 127.0.0.1:0\n{deny}    nodes: [{{name: n, address: \"{node}\"}}]\n"
    );
    assert_eq!(ringway.reload(&one), "refused");
    until(SOON, "it is said", || ringway.said().contains("pool other: it is not in the new file"));
    is_as_before(&mut client);
    assert_eq!(Client::connect(&free).cmd(&["PING"]), "+PONG\r\n");
    assert_eq!(ringway.reload(one.replace("pools:", "reload: {max_share: 100%}\npools:")), "ok");
    assert!(client.cmd(&["KEYS", "*"]).starts_with('-'), "it is denied now");
}

/// A pool that gets another name goes on at its port: no client is refused a connection meanwhile, and those
/// of the old name connect anew.
#[test]
fn a_pool_is_renamed() {
    let nodes = Redis::several(2);
    let port = free_port();
    let mut ringway = Ringway::serve(two_pools(&nodes, "", "", ("before", &port)));
    assert_eq!(Client::connect(&port).cmd(&["SET", "k", "v"]), "+OK\r\n");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let visitor = {
        let (stop, port) = (stop.clone(), port.clone());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // One that came to the pool that goes is closed before it asks, as in every drain.
                let reply = Client::connect(&port).try_cmd(&["GET", "k"]);
                assert!(reply.as_ref().map_or(true, |r| r == b"$1\r\nv\r\n"), "{reply:?}");
            }
        })
    };
    for name in ["after", "again"] {
        assert_eq!(ringway.reload(two_pools(&nodes, "", "", (name, &port))), "ok");
        let is_there = |pool: &serde_json::Value| pool["name"] == name;
        let pools = ringway.topology()["pools"].as_array().cloned().unwrap_or_default();
        assert!(pools.len() == 2 && pools.iter().any(is_there), "{pools:?}");
    }
    let told = ["before", "after"].map(|old| format!("pool=\"{old}\" goes_on_as="));
    assert!(told.iter().all(|told| ringway.said().contains(told)), "{}", ringway.said());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    visitor.join().expect("each connection is taken");
}

/// Connections that the system holds open towards an address.
fn open_towards(address: &str) -> usize {
    let address: std::net::SocketAddrV4 = address.parse().expect("an address");
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&remote) && fields.next() == Some("01")
    };
    table.lines().filter(is_open).count()
}

/// A node that hangs while a reload removes it costs its clients `request_timeout`, not their whole
/// deadline, and its connections are closed.
#[test]
fn a_hung_node_that_is_removed_is_let_go() {
    let nodes = Redis::several(2);
    let config = |nodes: &[Redis]| {
        let calm = "health: {interval: 20s, timeout: 10s, failures: 1000, fall: 100}";
        Config::of(nodes).top(FREE).pool("deadline: 30s").pool("request_timeout: 2s").pool(calm)
    };
    let mut ringway = Ringway::serve(config(&nodes));
    set_all(&mut ringway, 100);
    let of_b = owners(&nodes).into_iter().find(|(_, node)| *node == 1).expect("b owns a key").0;
    nodes[1].stop();
    let mut client = ringway.client();
    client.send(crate::harness::encode(&["SET", &of_b, "w"])).expect("sent");
    ringway.wait_metric("ringway_node_in_flight", &[("node", "b")], 1.0);
    assert!(open_towards(&nodes[1].address()) > 0);
    let start = std::time::Instant::now();
    assert_eq!(ringway.reload(config(&nodes[..1])), "ok");
    let reply = client.reply().expect("a reply");
    assert!(reply.starts_with(b"-ERR node b"), "{}", reply.escape_ascii());
    assert!(start.elapsed().as_secs() < 15, "after {:?}", start.elapsed());
    until(SOON, "its connections are closed", || open_towards(&nodes[1].address()) == 0);
}

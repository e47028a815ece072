//! memcached pools in front of real memcached servers: what clients notice when a node dies, hangs or
//! returns, large values, logins, and what ringway answers itself.

use std::{fmt::Display, process::Command};

use crate::harness::{
    Config, Ringway, SOON,
    memcached::{Memcached, Wire},
    memory, peak_memory, until,
};

/// A pool of these nodes.
pub(crate) fn pool(nodes: &[Memcached]) -> Config {
    let names = ["a", "b", "c", "d"];
    let empty = Config::of([]).pool("protocol: memcached");
    nodes.iter().zip(names).fold(empty, |config, (node, name)| config.node(name, &node.address()))
}

/// The shipped configuration serves Redis and memcached without any server being installed, and says how
/// to try both.
#[test]
fn the_shipped_pools_serve() {
    let free = |text: &str, listen: &str| text.replace(listen, "127.0.0.1:0");
    let shipped = include_str!("../../config.yaml").replace("#listen: 127.0.0.1:9400", "listen: 127.0.0.1:0");
    let mut ringway = Ringway::serve(free(&free(&shipped, "127.0.0.1:6380"), "127.0.0.1:11311"));
    assert_eq!(ringway.client().cmd(&["SET", "a", "1"]), "+OK\r\n");
    let address = ringway.announced("pool memcached listens on ", 1).swap_remove(0);
    let mut wire = Wire::connect(&address);
    set_all(&mut wire, 50);
    assert!(found(&mut wire, 50).iter().all(|is_there| *is_there));
    assert_eq!(ringway.metric("ringway_node_requests_total", &[("pool", "memcached")]), 100.0);
    assert_eq!(
        wire.ask("incr key:0 1\r\n"),
        "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
    );
    let said = ringway.said();
    let tries: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("try: ")).take(3).collect();
    let (ip, port) = address.split_once(':').expect("a port");
    assert!(
        tries[0].starts_with("try: redis-cli -p ") && tries[2].starts_with("     curl http://"),
        "{said}"
    );
    assert!(
        tries[1].starts_with("     printf 'set a 0 0 1") && tries[1].ends_with(&format!("| nc {ip} {port}"))
    );
    // What is printed there is what memcached's protocol wants; not every machine has nc.
    let printed = Command::new("sh").args(["-c", tries[1].split(" | ").next().expect("a command")]).output();
    wire.send(printed.expect("there is a shell").stdout);
    assert_eq!(wire.rest(), "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n");
}

fn set_all(wire: &mut Wire, count: usize) {
    for i in 0..count {
        assert_eq!(wire.ask(format!("set key:{i} 0 0 1\r\nv\r\n")), "STORED\r\n");
    }
}

/// Which of the keys are there.
fn found(wire: &mut Wire, count: usize) -> Vec<bool> {
    (0..count)
        .map(|i| match wire.ask(format!("get key:{i}\r\n")).as_str() {
            "END\r\n" => false,
            other => {
                assert_eq!(other, format!("VALUE key:{i} 0 1\r\nv\r\nEND\r\n"));
                true
            }
        })
        .collect()
}

/// A killed node's keys, and no others, are gone and can be written elsewhere; its return restores
/// the map; reads meanwhile find a value or nothing.
#[test]
fn a_killed_node_leaves_and_returns() {
    let mut nodes = Memcached::several(4);
    let mut ringway = Ringway::serve(pool(&nodes));
    let mut wire = Wire::connect(&ringway.address());
    set_all(&mut wire, 200);
    let epoch = ringway.epoch();
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(ringway.epoch(), epoch + 1);
    let left = found(&mut wire, 200);
    let lost = left.iter().filter(|there| !**there).count();
    assert!((10..=110).contains(&lost), "{lost} of 200 lived on one node of four");
    set_all(&mut wire, 200);
    nodes[1].restart_empty();
    ringway.wait_back("b");
    assert_eq!(found(&mut wire, 200), left, "the same keys live on the same nodes");
}

/// A hung node's requests time out within the deadline, and the session's later replies are those
/// of their own requests.
#[test]
fn a_hung_node_mixes_nothing_up() {
    let nodes = Memcached::several(2);
    let mut ringway = Ringway::serve(pool(&nodes).pool("request_timeout: 200ms").pool("on_return: serve"));
    let mut wire = Wire::connect(&ringway.address());
    let store: String = (0..50).map(|i| format!("set key:{i} 0 0 3 noreply\r\nv{i:02}\r\n")).collect();
    assert_eq!(wire.ask(&store), "");
    nodes[0].stop();
    for _ in 0..3 {
        for i in 0..50 {
            let answer = wire.ask(format!("get key:{i}\r\n"));
            let value = format!("VALUE key:{i} 0 3\r\nv{i:02}\r\nEND\r\n");
            let fits = answer == value || answer == "END\r\n" || answer.starts_with("SERVER_ERROR ");
            assert!(fits, "key:{i} got {answer:?}");
        }
    }
    ringway.wait_away("a");
    nodes[0].cont();
    ringway.wait_back("a");
    for i in 0..50 {
        assert_eq!(wire.ask(format!("get key:{i}\r\n")), format!("VALUE key:{i} 0 3\r\nv{i:02}\r\nEND\r\n"));
    }
}

/// While a node is away, `fail` answers SERVER_ERROR at once and `miss` finds nothing; writes are
/// refused under both, and a quiet one hears nothing.
#[test]
fn keys_that_do_not_move() {
    for (word, is_miss) in [("fail", false), ("miss", true)] {
        let mut nodes = Memcached::several(2);
        let mut ringway = Ringway::serve(pool(&nodes).pool(&format!("on_ejected: {word}")));
        let mut wire = Wire::connect(&ringway.address());
        set_all(&mut wire, 40);
        nodes[0].kill();
        ringway.wait_away("a");
        let refused = (0..40).find(|i| wire.ask(format!("touch key:{i} 0\r\n")).starts_with("SERVER_ERROR "));
        let key = format!("key:{}", refused.expect("a node of two has some of 40 keys"));
        let get = wire.ask(format!("get {key}\r\n"));
        let meta = wire.ask(format!("mg {key} v O7\r\n"));
        assert_eq!(wire.ask(format!("mg {key} v q\r\n")).is_empty(), is_miss);
        assert_eq!(wire.ask(format!("set {key} 0 0 1 noreply\r\nx\r\n")), "");
        let keys: Vec<String> = (0..40).map(|i| format!("key:{i}")).collect();
        let all = wire.ask(format!("get {}\r\n", keys.join(" ")));
        assert!(all.starts_with("VALUE "), "the other node's values are there: {all}");
        if is_miss {
            assert_eq!((get.as_str(), meta.as_str()), ("END\r\n", "EN O7\r\n"));
            assert!(all.ends_with("\r\nEND\r\n"), "{all}");
        } else {
            assert!(get.starts_with("SERVER_ERROR node a ("), "{get}");
            assert!(all.contains("SERVER_ERROR ") && !all.ends_with("END\r\n"), "{all}");
        }
    }
}

/// A value that is too large for the node is refused by it, streamed or not, and costs neither the
/// node its place nor anybody else an answer; the value that it would have replaced is gone. An embedded
/// node does the same.
#[test]
fn values_too_large_for_the_node() {
    let nodes = [Memcached::with(&["-I", "512k"])];
    let embedded = Config::of([]).pool("protocol: memcached").node("a", "embedded");
    for (pool, sizes) in [(pool(&nodes), [600_000, 3 << 20]), (embedded, [1 << 20, 3 << 20])] {
        let mut ringway = Ringway::serve(pool);
        let mut wire = Wire::connect(&ringway.address());
        for size in sizes {
            let value = vec![b'x'; size];
            let request = [format!("set big 0 0 {size}\r\n").as_bytes(), &value, b"\r\n"].concat();
            assert_eq!(wire.ask("set big 0 0 1\r\nv\r\n"), "STORED\r\n");
            assert_eq!(wire.ask(&request), "SERVER_ERROR object too large for cache\r\n");
            assert_eq!(
                wire.ask("get big\r\nset small 0 0 1\r\nv\r\nget small\r\n"),
                "END\r\nSTORED\r\nVALUE small 0 1\r\nv\r\nEND\r\n"
            );
        }
        assert!(ringway.owns("a"));
        assert_eq!(ringway.metric("ringway_node_failures_total", &[("node", "a")]), 0.0);
    }
}

/// A memcached that refuses values of 2 KiB, and the line of a pool that does.
pub(crate) const SMALL: (&[&str], &str) =
    (&["-I", "2k", "-o", "slab_chunk_max=1024"], "limits: {bulk_bytes: 2KiB}");

const TOO_LARGE: &str = "SERVER_ERROR object too large for cache\r\n";

/// A connection that has sent this, which was read.
fn begun(address: &str, bytes: impl Display) -> Wire {
    let mut wire = Wire::connect(address);
    wire.send(format!("mn\r\n{bytes}"));
    assert_eq!(wire.line(), "MN\r\n");
    wire
}

/// What two sessions are told when one sends values that are refused, in pieces, and closes in the middle of
/// some.
fn refusals(address: &str) -> Vec<String> {
    let value = "set injected 0 0 1\r\nX\r\n".repeat(150);
    let behind = format!("{value}\r\nget innocent\r\n");
    let size = value.len();
    let (mut other, mut said) = (Wire::connect(address), Vec::new());
    let mut asks = |said: &mut Vec<String>| {
        said.push(other.ask("set innocent 0 0 1\r\nv\r\nget innocent\r\nget injected\r\n"));
    };
    for (line, quiet) in [
        (format!("add big 0 0 {size}"), " noreply"),
        (format!("cas big 0 0 {size} 1"), " noreply"),
        (format!("ms big {size} c"), " q"),
    ] {
        for line in [format!("{line}\r\n"), format!("{line}{quiet}\r\n")] {
            for cuts in [&[0][..], &[0, 1, 24], &[24], &[size / 2], &[24, size, size + 1], &[size + 2]] {
                let mut wire = begun(address, format!("{line}{}", &behind[..cuts[0]]));
                asks(&mut said);
                for cut in cuts.windows(2) {
                    wire.send(&behind[cut[0]..cut[1]]);
                    asks(&mut said);
                }
                said.push(wire.ask(&behind[cuts[cuts.len() - 1]..]));
                asks(&mut said);
            }
            // It closes in the middle, or sends no more.
            for sent in [0, 24, size / 2] {
                let [closes, mut ends] =
                    [(); 2].map(|()| begun(address, format!("{line}{}", &value[..sent])));
                asks(&mut said);
                drop(closes);
                ends.end();
                // memcached says it when the value has gone by.
                assert!(["", TOO_LARGE].contains(&ends.rest().as_str()));
                asks(&mut said);
            }
        }
    }
    said
}

/// A value above `limits.bulk_bytes` is refused at its line as memcached refuses one. What is left of it is
/// its session's: it is never read as commands, and the other sessions of the worker are answered as ever,
/// whether it comes later, in pieces, or never.
#[test]
fn a_refused_value_is_its_sessions_own() {
    let (alone, behind) = (Memcached::with(SMALL.0), [Memcached::with(SMALL.0)]);
    let mut ringway = Ringway::serve(pool(&behind).top("workers: 1").pool(SMALL.1));
    let expected = refusals(&alone.address());
    assert!(expected.iter().any(|said| said.starts_with(TOO_LARGE)), "{expected:?}");
    assert!(!expected.iter().any(|said| said.contains("injected")), "{expected:?}");
    assert_eq!(refusals(&ringway.address()), expected);
}

/// Values larger than any buffer pass whole, both ways, and the largest without being held.
#[test]
fn large_values_pass() {
    let nodes = [Memcached::with(&["-I", "128m", "-m", "512"])];
    let mut ringway = Ringway::serve(pool(&nodes).pool("request_timeout: 10s").pool("deadline: 60s"));
    let mut wire = Wire::connect(&ringway.address());
    assert_eq!(wire.ask("get small\r\n"), "END\r\n");
    let before = memory(ringway.pid());
    for size in [100_000, 1 << 20, 6 << 20, 64 << 20] {
        let value = "0123456789".repeat(size / 10);
        let size = value.len();
        assert_eq!(wire.ask(format!("set big 0 0 {size}\r\n{value}\r\n")), "STORED\r\n");
        let got = wire.ask("get big\r\n");
        assert!(got == format!("VALUE big 0 {size}\r\n{value}\r\nEND\r\n"), "{size} bytes came back changed");
    }
    let more = peak_memory(ringway.pid()) - before;
    assert!(more < 32 << 20, "{} MiB more, for a value of 64", more >> 20);
}

/// The binary protocol gets one clear refusal and a close.
#[test]
fn the_binary_protocol_is_refused() {
    let nodes = Memcached::several(1);
    let mut ringway = Ringway::serve(pool(&nodes));
    let mut wire = Wire::connect(&ringway.address());
    wire.send([&b"get a\r\n"[..], b"\x80\x00\x00\x01\x00\x00\x00\x00"].concat());
    let said = wire.rest();
    assert!(said.starts_with("END\r\nCLIENT_ERROR ringway speaks"), "{said}");
    assert!(said.ends_with("not the binary one\r\n"), "{said}");
    until(SOON, "it is counted", || {
        ringway.metric("ringway_refusals_total", &[("reason", "protocol")]) == 1.0
    });
}

/// memcached's authfile: ringway logs in at nodes, and lets clients in that do.
#[test]
fn logins() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("auth");
    std::fs::write(&file, "app:secret\n").expect("it can be written");
    let path = file.to_str().expect("text");
    let nodes = [Memcached::with(&["-Y", path])];
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").expect("it can be written");
    let auth = format!("auth: {{user: app, password_file: {}}}", password.to_str().expect("text"));
    let mut ringway =
        Ringway::serve(pool(&nodes).pool(&auth).pool(&format!("client_auth: {{password_file: {path}}}")));
    let mut wire = Wire::connect(&ringway.address());
    let answer = wire.ask("get a\r\nset x 0 0 10\r\napp wrong1\r\nset x 0 0 10\r\napp secret\r\nget a\r\n");
    assert_eq!(
        answer,
        "CLIENT_ERROR unauthenticated\r\nCLIENT_ERROR authentication failure\r\nSTORED\r\nEND\r\n"
    );
    assert!(ringway.owns("a"));
    // A login that is as long as a line may be; and what is no login of anybody. memcached closes once its
    // buffer is full.
    let login = format!("set x 0 0 2048\r\n{:2048}\r\nget a\r\n", "app secret");
    let said = [ringway.address(), nodes[0].address()].map(|address| Wire::connect(&address).ask(&login));
    assert_eq!(said, ["STORED\r\nEND\r\n"; 2]);
    let mut wire = Wire::connect(&ringway.address());
    wire.send("set x 0 0 500000000\r\n");
    assert_eq!(wire.rest(), "CLIENT_ERROR unauthenticated\r\n");
    assert_eq!(ringway.metric("ringway_refusals_total", &[("reason", "auth")]), 3.0);
}

/// A node that wants another login, or a login at all, is misconfigured and not dead; its message
/// says which.
#[test]
fn a_node_that_refuses_our_login() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("auth");
    std::fs::write(&file, "app:secret\n").expect("it can be written");
    let path = file.to_str().expect("text");
    let nodes = [Memcached::start(), Memcached::with(&["-Y", path])];
    for (login, why) in [(None, "asks for a password"), (Some("wrong"), "refuses our credentials")] {
        let mut config = pool(&nodes);
        if let Some(password) = login {
            let file = dir.path().join("password");
            std::fs::write(&file, password).expect("it can be written");
            config =
                config.pool(&format!("auth: {{user: app, password_file: {}}}", file.to_str().expect("text")));
        }
        let mut ringway = Ringway::serve(config);
        ringway.wait_away("b");
        let wrong = ringway.node("b")["misconfigured"].to_string();
        assert!(wrong.contains(why), "{wrong}");
    }
}

/// A node on a unix socket serves like any other.
#[test]
fn a_node_on_a_unix_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("memcached");
    let path = socket.to_str().expect("text").to_owned();
    let mut child = std::process::Command::new("memcached")
        .args(["-s", &path, "-u", "root"])
        .spawn()
        .expect("memcached runs");
    until(SOON, "the socket is there", || socket.exists());
    let config = Config::of([]).pool("protocol: memcached").node("a", &format!("unix:{path}"));
    let mut ringway = Ringway::serve(config);
    let answer = Wire::connect(&ringway.address()).ask("set k 0 0 1\r\nv\r\nget k\r\n");
    let ended = child.kill().and_then(|()| child.wait());
    assert_eq!(answer, "STORED\r\nVALUE k 0 1\r\nv\r\nEND\r\n");
    assert!(ended.is_ok());
}

/// A streamed value that does not end where its line says is refused in memcached's words, and ends
/// its session; the node is not to blame and keeps nothing of it.
#[test]
fn a_streamed_value_that_is_too_long() {
    let nodes = [Memcached::with(&["-I", "16m"])];
    let mut ringway = Ringway::serve(pool(&nodes));
    let mut wire = Wire::connect(&ringway.address());
    let value = "x".repeat((3 << 20) + 10);
    wire.send(format!("set big 0 0 {}\r\n{value}\r\n", 3 << 20));
    assert_eq!(wire.rest(), "CLIENT_ERROR bad data chunk\r\n");
    assert_eq!(Wire::connect(&ringway.address()).ask("get big\r\n"), "END\r\n");
    assert!(ringway.owns("a"));
}

/// A pool can't change what it speaks while it runs: the reload is refused, and the pool serves on.
#[test]
fn a_pool_keeps_its_protocol() {
    let nodes = Memcached::several(1);
    let mut ringway = Ringway::serve(pool(&nodes));
    let redis = Config::of([]).node("a", &nodes[0].address());
    assert_eq!(ringway.reload(&redis), "refused");
    assert!(ringway.said().contains("it speaks memcached and can't change to redis"), "{}", ringway.said());
    assert_eq!(Wire::connect(&ringway.address()).ask("get k\r\n"), "END\r\n");
}

/// What ringway answers itself: its version, its numbers, the nodes' numbers added up, and the
/// commands of one server refused by name.
#[test]
fn ringways_own_answers() {
    let nodes = Memcached::several(2);
    let mut ringway = Ringway::serve(pool(&nodes));
    let mut wire = Wire::connect(&ringway.address());
    set_all(&mut wire, 20);
    assert!(wire.ask("version\r\n").starts_with("VERSION 1.6.18+ringway-"));
    assert!(wire.ask("stats\r\n").contains("STAT ringway_nodes 2\r\n"));
    assert!(wire.ask("stats nodes\r\n").contains("STAT curr_items 20\r\n"));
    assert!(wire.ask("lru_crawler metadump all\r\n").contains("does not offer lru_crawler"));
    assert_eq!(wire.ask("flush_all\r\nget key:1\r\n"), "OK\r\nEND\r\n");
    wire.send("quit\r\n");
    assert_eq!(wire.rest(), "");
}

//! Scripts and functions that were loaded are there wherever their keys go.

use crate::harness::{Config, Redis, Ringway, client::text, encode};

/// The SHA-1 of `return redis.call('GET', KEYS[1])`, as the server computes it.
fn load(client: &mut crate::harness::Client) -> String {
    let reply = client.cmd(&["SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])"]);
    reply.trim_end().rsplit("\r\n").next().expect("a digest").to_owned()
}

/// Every key's script runs, whichever node owns the key.
fn runs_everywhere(client: &mut crate::harness::Client, digest: &str) {
    for i in 0..60 {
        let key = format!("key:{i}");
        assert_eq!(client.cmd(&["SET", &key, "v"]), "+OK\r\n");
        assert_eq!(client.cmd(&["EVALSHA", digest, "1", &key]), "$1\r\nv\r\n", "{key}");
        assert_eq!(client.cmd(&["FCALL", "twice", "1", &key]), "$2\r\nvv\r\n", "{key}");
    }
}

/// After a node was lost, restarted empty or added by a reload, scripts and functions that clients
/// had loaded run on it before anything else does.
#[test]
fn a_node_is_taught_before_it_owns() {
    let mut nodes = Redis::several(3);
    let spare = Redis::start();
    let config = Config::of(&nodes);
    let (mut ringway, mut client) =
        Ringway::serve(config.clone().top("reload: {max_share: 100%}")).into_client();
    let digest = load(&mut client);
    let library = "#!lua name=lib\nredis.register_function('twice', \
                   function(k) local v = redis.call('GET', k[1]) return v .. v end)";
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", library]), "$3\r\nlib\r\n");
    runs_everywhere(&mut client, &digest);
    nodes[1].kill();
    ringway.wait_away("b");
    runs_everywhere(&mut client, &digest);
    assert_eq!(load(&mut client), digest, "loading goes on while a node is away");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    runs_everywhere(&mut client, &digest);
    ringway.reload(config.top("reload: {max_share: 100%}").node("z", &spare.address()));
    runs_everywhere(&mut client, &digest);
    assert_ne!(spare.cmd(&["DBSIZE"]), ":0\r\n", "the new node owns keys");
}

/// A library that the nodes refused is not taught to them later, and the first one through a fresh
/// ringway is taken as it is.
#[test]
fn a_refused_library_is_not_taught() {
    let nodes = Redis::several(2);
    let (_ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    let library = |said: &str| {
        format!("#!lua name=lib\nredis.register_function('twice', function() return '{said}' end)")
    };
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", &library("good")]), "$3\r\nlib\r\n");
    let refusal = client.cmd(&["FUNCTION", "LOAD", &library("evil")]);
    assert!(refusal.starts_with("-ERR"), "{refusal}");
    for node in &nodes {
        assert!(node.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).starts_with(':'));
    }
    for i in 0..20 {
        assert_eq!(client.cmd(&["FCALL", "twice", "1", &format!("key:{i}")]), "$4\r\ngood\r\n");
    }
}

fn versioned(version: &str) -> String {
    format!("#!lua name=lib\nredis.register_function('ver', function() return '{version}' end)")
}

/// What `FCALL` runs on each node, by keys of all of them.
fn runs(client: &mut crate::harness::Client) -> Vec<String> {
    let mut said: Vec<String> =
        (0..40).map(|i| client.cmd(&["FCALL", "ver", "1", &format!("key:{i}")])).collect();
    said.dedup();
    said
}

/// A library that a node has is never put back to what ringway knows of it: not when it was restored, and not
/// when it was loaded past ringway, whoever connects anew.
#[test]
fn a_newer_library_stays() {
    let (nodes, elsewhere) = (Redis::several(2), Redis::start());
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", &versioned("v1")]), "$3\r\nlib\r\n");
    elsewhere.cmd(&["FUNCTION", "LOAD", &versioned("v2")]);
    let mut source = elsewhere.client();
    source.send(encode(&["FUNCTION", "DUMP"])).expect("sent");
    let dump = source.reply().expect("a payload");
    let payload = &dump[dump.iter().position(|b| *b == b'\n').expect("a length") + 1..dump.len() - 2];
    let restore = encode(&[&b"FUNCTION"[..], b"RESTORE", payload, b"REPLACE"]);
    client.send(restore).expect("sent");
    assert_eq!(text(&client.reply().expect("a reply")), "+OK\r\n");
    let connect_anew = |ringway: &mut Ringway| {
        let mut other = ringway.client();
        assert!(other.cmd(&["HELLO", "3"]).starts_with('%'));
        (0..20).for_each(|i| assert_eq!(other.cmd(&["GET", &format!("key:{i}")]), "_\r\n"));
        for node in &nodes {
            assert!(node.cmd(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).starts_with(':'));
        }
    };
    connect_anew(&mut ringway);
    assert_eq!(runs(&mut client), ["$2\r\nv2\r\n"]);
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", "REPLACE", &versioned("v3")]), "$3\r\nlib\r\n");
    for node in &nodes {
        assert_eq!(node.cmd(&["FUNCTION", "LOAD", "REPLACE", &versioned("v4")]), "$3\r\nlib\r\n");
    }
    connect_anew(&mut ringway);
    assert_eq!(runs(&mut client), ["$2\r\nv4\r\n"]);
    assert_eq!(client.cmd(&["FUNCTION", "DELETE", "lib"]), "+OK\r\n");
    connect_anew(&mut ringway);
    assert!(runs(&mut client)[0].starts_with("-ERR Function not found"));
}

/// A node that was away while a library was loaded has its older one replaced when it is back.
#[test]
fn a_library_that_a_node_missed_replaces_its_own() {
    let nodes = Redis::several(3);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", &versioned("v1")]), "$3\r\nlib\r\n");
    nodes[1].stop();
    ringway.wait_away("b");
    assert_eq!(client.cmd(&["FUNCTION", "LOAD", "REPLACE", &versioned("v2")]), "$3\r\nlib\r\n");
    nodes[1].cont();
    ringway.wait_back("b");
    assert_eq!(runs(&mut client), ["$2\r\nv2\r\n"]);
    assert!(nodes[1].cmd(&["FUNCTION", "LIST", "WITHCODE"]).contains("'v2'"));
}

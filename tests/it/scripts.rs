//! Scripts and functions that were loaded are there wherever their keys go.

use crate::harness::{Config, Redis, Ringway};

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

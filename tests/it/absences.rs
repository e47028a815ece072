//! The whole table of what a node may bring back: each way to receive it, in Redis and in memcached, at its
//! first absence, its second and its third. What is read is never older than what was answered last.

use crate::harness::{
    Client, Config, Redis, Ringway, SOON,
    memcached::{Memcached, Wire},
    until,
};

/// Keys of all nodes; a third of them are the node's.
pub(crate) const KEYS: usize = 150;

/// What the pool is told of nodes that return.
pub(crate) const WAYS: [&[&str]; 4] = [
    &["on_return: flush"],
    &["on_return: quarantine"],
    &["on_return: quarantine", "sole_writer: true"],
    &["on_return: ttl", "ttl_max: 2s"],
];

pub(crate) enum Node {
    Redis(Redis),
    Memcached(Memcached),
}

impl Node {
    pub(crate) fn address(&self) -> String {
        match self {
            Node::Redis(node) => node.address(),
            Node::Memcached(node) => node.address(),
        }
    }

    pub(crate) fn stop(&self) {
        match self {
            Node::Redis(node) => node.stop(),
            Node::Memcached(node) => node.stop(),
        }
    }

    pub(crate) fn cont(&self) {
        match self {
            Node::Redis(node) => node.cont(),
            Node::Memcached(node) => node.cont(),
        }
    }
}

pub(crate) enum Asker {
    Redis(Client),
    Memcached(Wire),
}

impl Asker {
    pub(crate) fn of(nodes: &[Node], ringway: &mut Ringway) -> Asker {
        match &nodes[0] {
            Node::Redis(_) => Asker::Redis(ringway.client()),
            Node::Memcached(_) => Asker::Memcached(Wire::connect(&ringway.address())),
        }
    }

    /// Whether a value was taken.
    fn set(&mut self, key: usize, value: u32) -> bool {
        match self {
            Asker::Redis(client) => {
                client.cmd(&["SET", &format!("key:{key}"), &format!("{value:04}")]) == "+OK\r\n"
            }
            Asker::Memcached(wire) => {
                wire.ask(format!("set key:{key} 0 0 4\r\n{value:04}\r\n")) == "STORED\r\n"
            }
        }
    }

    /// The value, 0 if there is none; `None` when nobody serves the key now.
    fn get(&mut self, key: usize) -> Option<u32> {
        let (reply, nothing) = match self {
            Asker::Redis(client) => (client.cmd(&["GET", &format!("key:{key}")]), "$-1\r\n"),
            Asker::Memcached(wire) => (wire.ask(format!("get key:{key}\r\n")), "END\r\n"),
        };
        if reply == nothing {
            return Some(0);
        }
        let value = reply.split("\r\n").nth(1)?;
        value.parse().ok()
    }
}

/// Reads all keys, each until somebody serves it: nothing is older than what was answered.
pub(crate) fn read(asker: &mut Asker, last: &[u32], when: &str) {
    for (key, last) in last.iter().enumerate() {
        let mut value = None;
        until(SOON, &format!("key:{key} is served {when}"), || {
            value = asker.get(key);
            value.is_some()
        });
        let value = value.unwrap_or_default();
        assert!(value == 0 || value >= *last, "{when}: key:{key} is {value}, and was {last} already");
    }
}

/// Writes every `nth` key, each until it is taken.
pub(crate) fn write(asker: &mut Asker, last: &mut [u32], nth: usize) {
    for (key, last) in last.iter_mut().enumerate().filter(|(key, _)| key % nth == 0) {
        *last += 1;
        until(SOON, &format!("key:{key} is taken"), || asker.set(key, *last));
    }
}

/// A pool of nodes a, b and c that receives nodes in this way.
pub(crate) fn config(nodes: &[Node], protocol: &str, way: &[&str]) -> Config {
    let config = Config::of([])
        .pool(&format!("protocol: {protocol}"))
        .pool("health: {interval: 100ms, timeout: 1s, flap_max: 1s}")
        .pool("warmth: {share: 100%}");
    let config = way.iter().fold(config, |config, line| config.pool(line));
    let named = nodes.iter().zip(["a", "b", "c"]);
    named.fold(config, |config, (node, name)| config.node(name, &node.address()))
}

/// A node may have keys that nobody wrote through this ringway, nor with its bounds.
fn from_before(nodes: &[Node], protocol: &str, way: &[&str]) {
    // An earlier one, of other settings, placed them.
    let mut earlier = Ringway::serve(config(nodes, protocol, &["on_return: serve"]));
    let mut asker = Asker::of(nodes, &mut earlier);
    let mut last = vec![0; KEYS];
    write(&mut asker, &mut last, 1);
    drop((asker, earlier));
    let mut ringway = Ringway::serve(config(nodes, protocol, way));
    let mut asker = Asker::of(nodes, &mut ringway);
    let at = |what: &str| format!("{protocol}, {way:?}, from before, {what}");
    read(&mut asker, &last, &at("at the start"));
    nodes[1].stop();
    ringway.wait_away("b");
    write(&mut asker, &mut last, 1);
    nodes[1].cont();
    until(SOON, &at("it is back"), || {
        read(&mut asker, &last, &at("on its return"));
        ringway.node("b")["placement"] == "owns"
    });
    read(&mut asker, &last, &at("when it is back"));
}

fn three_absences(nodes: &[Node], protocol: &str, way: &[&str]) {
    let mut ringway = Ringway::serve(config(nodes, protocol, way));
    let mut asker = Asker::of(nodes, &mut ringway);
    let mut last = vec![0; KEYS];
    write(&mut asker, &mut last, 1);
    for absence in 1..=3 {
        let at = |what: &str| format!("{protocol}, {way:?}, absence {absence}, {what}");
        nodes[1].stop();
        ringway.wait_away("b");
        // Before anything is written: what others took at an earlier absence is not brought up.
        read(&mut asker, &last, &at("before a write"));
        write(&mut asker, &mut last, 2);
        read(&mut asker, &last, &at("after it"));
        nodes[1].cont();
        until(SOON, &at("it is back"), || {
            read(&mut asker, &last, &at("on its return"));
            ringway.owns("b")
        });
        read(&mut asker, &last, &at("when it is back"));
        // Some of what others took is older from now on.
        write(&mut asker, &mut last, 3);
    }
}

/// Redis, each way.
#[test]
fn redis() {
    for way in WAYS {
        let nodes: Vec<Node> = Redis::several(3).into_iter().map(Node::Redis).collect();
        three_absences(&nodes, "redis", way);
        let nodes: Vec<Node> = Redis::several(3).into_iter().map(Node::Redis).collect();
        from_before(&nodes, "redis", way);
    }
}

/// memcached, each way.
#[test]
fn memcached() {
    for way in WAYS {
        let nodes: Vec<Node> = Memcached::several(3).into_iter().map(Node::Memcached).collect();
        three_absences(&nodes, "memcached", way);
        let nodes: Vec<Node> = Memcached::several(3).into_iter().map(Node::Memcached).collect();
        from_before(&nodes, "memcached", way);
    }
}

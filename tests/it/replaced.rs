//! Another server in the place of one that served, and nobody was refused in between: behind something that
//! takes connections for it, or behind a name that leads elsewhere.

use serde_json::Value;

use crate::harness::{
    Client, Config, Redis, Ringway, SOON,
    forwarder::Forwarder,
    memcached::{Memcached, Wire},
    names::Names,
    until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";
const KEYS: usize = 200;

fn set_all(client: &mut Client, value: &str) {
    (0..KEYS).for_each(|i| assert_eq!(client.cmd(&["SET", &format!("key:{i}"), value]), "+OK\r\n"));
}

/// Which keys read as this.
fn that_read(client: &mut Client, value: &str) -> usize {
    let value = format!("${}\r\n{value}\r\n", value.len());
    (0..KEYS).filter(|i| client.cmd(&["GET", &format!("key:{i}")]) == value).count()
}

fn newest(ringway: &mut Ringway) -> Value {
    let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    page["incidents"][0].clone()
}

/// Gives a server what another has, as it was saved some time ago.
fn save_in(from: &Redis, to: &Redis) {
    from.client().list(&["KEYS", "*"]).iter().for_each(|key| drop(to.cmd(&["SET", key, "old"])));
}

/// A node is behind a load balancer, and dies; another process, or the same server restarted from its disk,
/// takes the next connection. It is found by who answers, fenced and emptied, and is an incident; with
/// `serve` it serves what it has.
#[test]
fn behind_a_balancer() {
    for (on_return, is_found) in [("quarantine", true), ("flush", true), ("serve", false)] {
        let mut nodes = Redis::several(4);
        let way = Forwarder::start(&nodes[1].address());
        let config = Config::of(&nodes[..3]).moved("b", &way.address());
        let mut ringway = Ringway::serve(config.pool(BRISK).pool(&format!("on_return: {on_return}")));
        let mut client = ringway.client();
        set_all(&mut client, "old");
        save_in(&nodes[1], &nodes[3]);
        set_all(&mut client, "new");
        way.lead_to(&nodes[3].address());
        nodes[1].kill();
        if !is_found {
            until(SOON, "it is taken as it is", || that_read(&mut client, "old") > 10);
            assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
            continue;
        }
        ringway.wait_metric("ringway_ejections_total", &[("node", "b"), ("cause", "replaced")], 1.0);
        ringway.wait_back("b");
        assert_eq!(that_read(&mut client, "old"), 0, "{on_return}");
        assert!(that_read(&mut client, "new") > 10, "{on_return}: the others have theirs");
        assert!(ringway.said().contains("another process answers"), "{}", ringway.said());
        let incident = newest(&mut ringway);
        assert_eq!(incident["diagnoses"][0]["what"], "replaced", "{incident}");
        assert_eq!(ringway.metric("ringway_ejections_total", &[]), 1.0);
    }
}

/// The same of memcached, which comes back with other data than it had.
#[test]
fn memcached_behind_a_balancer() {
    let mut nodes = Memcached::several(4);
    let way = Forwarder::start(&nodes[1].address());
    let config = [nodes[0].address(), way.address(), nodes[2].address()];
    let config = config.iter().zip(["a", "b", "c"]);
    let config = config.fold(Config::of([]), |config, (address, name)| config.node(name, address));
    let mut ringway = Ringway::serve(config.pool("protocol: memcached").pool(BRISK));
    let mut wire = Wire::connect(&ringway.address());
    let mut old = Wire::connect(&nodes[3].address());
    for i in 0..KEYS {
        assert_eq!(old.ask(format!("set key:{i} 0 0 3\r\nold\r\n")), "STORED\r\n");
        assert_eq!(wire.ask(format!("set key:{i} 0 0 3\r\nnew\r\n")), "STORED\r\n");
    }
    way.lead_to(&nodes[3].address());
    nodes[1].kill();
    ringway.wait_metric("ringway_ejections_total", &[("node", "b"), ("cause", "replaced")], 1.0);
    ringway.wait_back("b");
    for i in 0..KEYS {
        let read = wire.ask(format!("get key:{i}\r\n"));
        assert!(!read.contains("old"), "{read}");
    }
}

/// A name leads to another server while the one before lives on: it is taken out, received like one that
/// comes back, and no connection stays with the one before.
#[test]
fn behind_a_name() {
    let Some(names) = Names::start() else { return };
    let mut nodes = Redis::several(4);
    let other = Redis::beside(&nodes[2]);
    let port = |node: &Redis| node.address().rsplit_once(':').expect("a port").1.to_owned();
    let config = Config::of(&nodes[..2])
        .node("c", &format!("c.names.test:{}", port(&nodes[2])))
        .node("d", &format!("d.names.test:{}", port(&nodes[3])))
        .pool(BRISK)
        .pool("warmth: {share: 100%}");
    let at = |c: &Redis, d: &Redis| [("c.names.test", c.address()), ("d.names.test", d.address())];
    let know =
        |known: [(&str, String); 2]| names.know(&known.each_ref().map(|(name, at)| (*name, at.as_str())));
    know(at(&nodes[2], &nodes[3]));
    let wrapper = names.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let mut ringway = Ringway::serve_through(&config, &wrapper);
    let mut client = ringway.client();
    set_all(&mut client, "old");
    save_in(&nodes[2], &other);
    set_all(&mut client, "new");
    know(at(&other, &nodes[3]));
    // A lost connection has all names looked up.
    nodes[3].kill();
    ringway.wait_metric("ringway_ejections_total", &[("node", "c"), ("cause", "replaced")], 1.0);
    nodes[3].restart_empty();
    ringway.wait_back("c");
    ringway.wait_back("d");
    let mut another = ringway.client();
    for (client, value) in [(&mut client, "newer"), (&mut another, "newest")] {
        assert_eq!(that_read(client, "old"), 0);
        set_all(client, value);
    }
    assert_eq!((that_read(&mut client, "newest"), that_read(&mut another, "newest")), (KEYS, KEYS));
    let left = nodes[2].client().list(&["KEYS", "*"]);
    assert!(left.iter().all(|key| nodes[2].cmd(&["GET", key]) == "$3\r\nnew\r\n"), "nobody writes there");
    let (before, now) = (nodes[2].address(), other.address());
    assert!(ringway.said().contains(&before) && ringway.said().contains(&now), "{}", ringway.said());
}

//! Real faults, and where they are located: each is made, its incident opens, and the diagnosis names the
//! right place and thing, with no rival above half its confidence. What is noisy and healthy opens nothing.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Client, Config, Load, Redis, Ringway, SOON, encode,
    fake::{Fake, Manner},
    load::Plan,
    memcached::Memcached,
    network::Network,
    nginx::Nginx,
    ringway::run,
    until,
};

const BRISK: &str = "health: {interval: 100ms, timeout: 300ms}";

fn incidents(ringway: &mut Ringway) -> Vec<Value> {
    let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    page["incidents"].as_array().expect("a list").clone()
}

fn serve(config: Config) -> Ringway {
    Ringway::serve(config.pool(BRISK))
}

/// Whether an incident of this node, or of the process, is located there, and no rival is likely.
pub(crate) fn is_located(incident: &Value, node: Option<&str>, place: &str, what: &str) -> bool {
    let told = &incident["diagnoses"];
    let confidence = |i: usize| told[i]["confidence"].as_f64().unwrap_or(0.0);
    let is_first = told[0]["place"] == place && told[0]["what"] == what;
    incident["node"].as_str() == node && is_first && confidence(1) <= confidence(0) / 2.0
}

/// Waits until the incident of a node says where the fault is.
pub(crate) fn located(ringway: &mut Ringway, node: Option<&str>, place: &str, what: &str) {
    let mut last = Vec::new();
    let start = std::time::Instant::now();
    loop {
        last.clone_from(&incidents(ringway));
        if last.iter().any(|incident| is_located(incident, node, place, what)) {
            return;
        }
        assert!(start.elapsed() < SOON, "{node:?} is not located as {place} {what}: {last:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn load(ringway: &mut Ringway) -> Load {
    Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() })
}

/// Some writes, whatever becomes of them, on a connection of their own each: none waits for another.
fn try_writes(ringway: &mut Ringway, count: usize) {
    let address = ringway.address();
    for i in 0..count {
        if let Ok(mut client) = Client::try_connect(&address) {
            // The reply is nobody's concern.
            let _ = client.send(encode(&["SET", &format!("w:{i}"), "v"]));
        }
    }
}

/// A killed redis-server is gone, under load; the log, the metric and the command say the same.
#[test]
fn a_killed_node_is_gone() {
    let mut nodes = Redis::several(3);
    let mut ringway = serve(Config::of(&nodes));
    let load = load(&mut ringway);
    load.run(300);
    nodes[1].kill();
    located(&mut ringway, Some("b"), "node", "gone");
    load.stop();
    ringway.wait_metric("ringway_diagnoses_total", &[("pool", "cache"), ("what", "gone")], 1.0);
    let sentence = format!("node b: its process is gone, nobody listens on {}", nodes[1].address());
    assert!(ringway.said().contains(&sentence), "the log of the ejection");
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let said = run(&["incident", "1", "--admin", &admin]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("where: {sentence} (confidence 0.")), "{said}");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    let first = &incidents(&mut ringway)[0];
    assert!(is_located(first, Some("b"), "node", "gone"), "its return changes nothing: {first:#}");
}

/// A stopped redis-server hangs, found by requests or, while nobody asks, by probes.
#[test]
fn a_stopped_node_hangs() {
    for is_used in [true, false] {
        let nodes = Redis::several(3);
        let mut ringway = serve(Config::of(&nodes));
        let load = is_used.then(|| load(&mut ringway));
        if let Some(load) = &load {
            load.run(300);
        }
        nodes[1].stop();
        located(&mut ringway, Some("b"), "node", "hung");
        ringway.wait_away("b");
        // It stays so when probes have learnt more.
        until(SOON, "it was probed again", || {
            incidents(&mut ringway)[0]["diagnoses"][0]["evidence"]
                .to_string()
                .contains("probes were connected")
        });
        located(&mut ringway, Some("b"), "node", "hung");
        nodes[1].cont();
        ringway.wait_back("b");
        until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
        let first = &incidents(&mut ringway)[0];
        assert!(is_located(first, Some("b"), "node", "hung"), "its return changes nothing: {first:#}");
        load.map(Load::stop);
    }
}

/// A node that hangs again and again within the time that is remembered hangs each time: what it owed from
/// the time before says nothing.
#[test]
fn a_node_that_hangs_again_hangs() {
    let nodes = Redis::several(3);
    let mut ringway = serve(Config::of(&nodes));
    let load = load(&mut ringway);
    load.run(300);
    for turn in 1..=3 {
        nodes[1].stop();
        until(SOON, "its incident opens", || incidents(&mut ringway).len() == turn);
        // Long enough for several probes to be late, short enough for all of it to be within ten seconds.
        thread::sleep(Duration::from_millis(900));
        nodes[1].cont();
        ringway.wait_back("b");
        until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
        let last = incidents(&mut ringway).swap_remove(0);
        assert!(is_located(&last, Some("b"), "node", "hung"), "the {turn}th time: {last:#}");
    }
    load.stop();
}

/// `DEBUG SLEEP` and `CLIENT PAUSE` look the same from outside: nothing is answered.
#[test]
fn a_sleeping_node_hangs() {
    let sleeps: [&[&str]; 2] = [&["DEBUG", "SLEEP", "2.5"], &["CLIENT", "PAUSE", "2500", "ALL"]];
    for sleep in sleeps {
        let nodes = [Redis::start(), Redis::with(&["--enable-debug-command", "yes"]), Redis::start()];
        let mut ringway = serve(Config::of(&nodes));
        let load = load(&mut ringway);
        load.run(300);
        let mut client = nodes[1].client();
        client.send(encode(sleep)).expect("it reads");
        located(&mut ringway, Some("b"), "node", "hung");
        load.stop();
    }
}

/// A node that answers probes and reads but no writes is held up by something.
#[test]
fn a_node_that_takes_no_writes_is_busy() {
    let node = Redis::start();
    let mut ringway = serve(Config::of([&node]).pool("request_timeout: 200ms"));
    assert_eq!(node.cmd(&["CLIENT", "PAUSE", "8000", "WRITE"]), "+OK\r\n");
    let start = std::time::Instant::now();
    while !incidents(&mut ringway).iter().any(|i| is_located(i, Some("a"), "node", "busy")) {
        try_writes(&mut ringway, 4);
        assert!(start.elapsed() < SOON, "{:#?}", incidents(&mut ringway));
        thread::sleep(Duration::from_millis(100));
    }
    node.cmd(&["CLIENT", "UNPAUSE"]);
}

/// A script that does not end: first nothing is answered, then that it is busy.
#[test]
fn a_script_holds_a_node() {
    let nodes = [Redis::start(), Redis::with(&["--busy-reply-threshold", "1500"])];
    let config = Config::of(&nodes).pool("health: {interval: 100ms, timeout: 300ms, rise: 20}");
    let mut ringway = Ringway::serve(config);
    let mut client = nodes[1].client();
    client.send(encode(&["EVAL", "while true do end", "0"])).expect("it reads");
    located(&mut ringway, Some("b"), "node", "hung");
    located(&mut ringway, Some("b"), "node", "busy");
    assert_eq!(nodes[1].cmd(&["SCRIPT", "KILL"]), "+OK\r\n");
}

/// What a node says itself when it is asked: another password, another protocol, too many clients, a role.
#[test]
fn a_node_says_what_is_wrong() {
    let nodes = [
        Redis::start(),
        Redis::with(&["--requirepass", "sesame"]),
        Redis::with(&["--replicaof", "127.0.0.1 1"]),
        Redis::with(&["--maxclients", "3"]),
    ];
    let crowd: Vec<Client> = (0..3).map(|_| nodes[3].client()).collect();
    let memcached = Memcached::start();
    let closing = Fake::start(Manner::Closing);
    let config = Config::of(&nodes)
        .node("memcached", &memcached.address())
        .node("closing", &closing.address())
        .node("unknown", "ringway.invalid:6379")
        .pool("health: {interval: 100ms, timeout: 300ms, eject_max: 100%}");
    let mut ringway = Ringway::serve(config);
    for (node, what) in [
        ("b", "auth"),
        ("c", "replica"),
        ("d", "full"),
        ("memcached", "protocol"),
        ("closing", "closing"),
        ("unknown", "unresolved"),
    ] {
        located(&mut ringway, Some(node), "node", what);
    }
    assert!(ringway.owns("c"), "a replica serves reads");
    drop(crowd);
}

/// A node that starts with much data is loading.
#[test]
fn a_node_that_reads_its_data_is_loading() {
    let slow = ["--enable-debug-command", "yes", "--key-load-delay", "500"];
    let slow = [&slow[..], &["--loading-process-events-interval-bytes", "1024"]].concat();
    let mut nodes = [Redis::start(), Redis::with(&slow)];
    nodes[1].cmd(&["DEBUG", "POPULATE", "20000"]);
    assert_eq!(nodes[1].cmd(&["SAVE"]), "+OK\r\n");
    let mut ringway = serve(Config::of(&nodes));
    nodes[1].kill();
    located(&mut ringway, Some("b"), "node", "gone");
    nodes[1].restart_unready();
    located(&mut ringway, Some("b"), "node", "loading");
}

/// memcached and nginx, killed and stopped, and an nginx that answers with an error.
#[test]
fn other_protocols_are_located_too() {
    let mut nodes = Memcached::several(4);
    let config = ["a", "b", "c", "d"].iter().zip(&nodes);
    let config = config.fold(Config::of([]).pool("protocol: memcached"), |config, (name, node)| {
        config.node(name, &node.address())
    });
    let mut ringway = serve(config);
    nodes[1].kill();
    located(&mut ringway, Some("b"), "node", "gone");
    nodes[2].stop();
    located(&mut ringway, Some("c"), "node", "hung");
    let mut nodes = Nginx::several(4);
    let broken = Nginx::with("broken", "", "error_page 404 =503 /broken; location = /probe { return 503; }");
    let config = Config::web(&nodes)
        .node("broken", &broken.address())
        .pool("http: {key: path, probe: {path: /probe}}")
        .pool("health: {interval: 100ms, timeout: 300ms, eject_max: 100%}");
    let mut ringway = Ringway::serve(config);
    nodes[1].kill();
    located(&mut ringway, Some("b"), "node", "gone");
    nodes[2].stop();
    located(&mut ringway, Some("c"), "node", "hung");
    located(&mut ringway, Some("broken"), "node", "errors");
}

/// Passes bytes on after a while, both ways.
fn delayed(to: &str, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let (address, to) = (listener.local_addr().expect("it is bound").to_string(), to.to_owned());
    let pass = move |mut from: TcpStream, mut to: TcpStream, delay: Duration| {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            thread::sleep(delay);
            if to.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    };
    thread::spawn(move || {
        for near in listener.incoming() {
            let (Ok(near), Ok(far)) = (near, TcpStream::connect(&to)) else { return };
            let (near2, far2) = (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
            thread::spawn(move || pass(near, far, delay));
            thread::spawn(move || pass(far2, near2, Duration::ZERO));
        }
    });
    address
}

/// Behind a forwarder that delays, each answer comes too late: slow, and not hung.
#[test]
fn a_delayed_node_is_slow() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).node("slow", &delayed(&nodes[1].address(), Duration::from_millis(700)));
    let mut ringway = serve(config);
    located(&mut ringway, Some("slow"), "node", "slow");
}

/// A firewall that drops everything to a port, while its host answers elsewhere, one that rejects, and one
/// that refuses: it is the path each time, and not the node.
#[test]
fn a_firewall_is_the_path() {
    let Some(network) = Network::start(1) else { return };
    let nodes = [6379, 6380, 6381].map(|port| Redis::inside(&network, 0, port));
    for (rule, what) in [
        ("DROP", "unreachable"),
        ("REJECT --reject-with icmp-admin-prohibited", "rejected"),
        ("REJECT --reject-with icmp-port-unreachable", "rejected"),
    ] {
        let mut ringway = serve(Config::of(&nodes));
        let load = load(&mut ringway);
        load.run(300);
        network.rule(&format!("-p tcp --dport 6380 -j {rule}"));
        located(&mut ringway, Some("b"), "path", what);
        load.stop();
        network.open();
        ringway.wait_back("b");
    }
}

/// A path that loses two packets of three, at random.
#[test]
fn a_lossy_path_is_the_path() {
    let Some(network) = Network::start(3) else { return };
    let nodes = [0, 1, 2].map(|host| Redis::inside(&network, host, 6379));
    let mut ringway = serve(Config::of(&nodes));
    let load = load(&mut ringway);
    load.run(300);
    let lossy = "-m statistic --mode random --probability 0.6 -j DROP";
    network.rule(&format!("-d {} -p tcp {lossy}", network.host(1)));
    located(&mut ringway, Some("b"), "path", "lossy");
    load.stop();
}

/// A link that is cut, or where a firewall refuses all: no node is ejected for it, however it shows, and one
/// incident of the proxy says so; when it is whole again, that is over and everything goes on as before. A
/// single host that vanishes is ejected all the same.
#[test]
fn a_cut_link_ejects_nobody() {
    let Some(network) = Network::start(4) else { return };
    let nodes = [0, 1, 2, 3].map(|host| Redis::inside(&network, host, 6379));
    let (reject, reset) = ("-p tcp -j REJECT", "-p tcp -j REJECT --reject-with tcp-reset");
    let all = [("-j DROP", true), ("-j DROP", false), (reject, false), (reset, true), (reset, false)];
    for (rule, is_used) in all {
        let mut ringway = serve(Config::of(&nodes));
        let epoch = ringway.epoch();
        let load = is_used.then(|| load(&mut ringway));
        if let Some(load) = &load {
            load.run(300);
        }
        network.rule(rule);
        located(&mut ringway, None, "proxy", "link");
        until(SOON, "all four are withheld", || {
            let steps = incidents(&mut ringway)[0]["timeline"].to_string();
            ["a", "b", "c", "d"].iter().all(|n| steps.contains(&format!("cache/{n} is not ejected for it")))
        });
        let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
        let said = run(&["incident", "--admin", &admin]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("  this proxy  proxy link  goes on"), "{said}");
        network.open();
        until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
        ["a", "b", "c", "d"].iter().for_each(|node| ringway.wait_back(node));
        load.map(Load::stop);
        assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
        assert_eq!(ringway.epoch(), epoch, "no key moved");
        network.rule(&format!("-d {} -j DROP", network.host(2)));
        located(&mut ringway, Some("c"), "path", "unreachable");
        ringway.wait_away("c");
        network.open();
    }
}

/// A link that loses packets, for all nodes alike: no node is ejected for it, be it for requests in a row,
/// for the part of them that fail or for its probes, and the proxy's incident says what it is.
#[test]
fn a_lossy_link_ejects_nobody() {
    let Some(network) = Network::start(4) else { return };
    let nodes = [0, 1, 2, 3].map(|host| Redis::inside(&network, host, 6379));
    // With fewer failures in a row one node may be out before any other has been seen to lose something.
    let in_a_row = "health: {interval: 100ms, timeout: 300ms, failures: 6}";
    let by_rate = "health: {interval: 100ms, timeout: 300ms, failures: 1000, volume: 20, window: 2s}";
    for (health, probability, is_used) in [(in_a_row, 0.4, true), (BRISK, 0.4, false), (by_rate, 0.7, true)] {
        let mut ringway = Ringway::serve(Config::of(&nodes).pool(health));
        let epoch = ringway.epoch();
        let load = is_used.then(|| load(&mut ringway));
        if let Some(load) = &load {
            load.run(300);
        }
        network.rule(&format!("-p tcp -m statistic --mode random --probability {probability} -j DROP"));
        located(&mut ringway, None, "proxy", "lossy");
        // Long enough for each node to lose enough.
        thread::sleep(Duration::from_secs(5));
        let told = incidents(&mut ringway);
        assert!(told.iter().all(|incident| incident["node"].is_null()), "{told:#?}");
        network.open();
        until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
        ["a", "b", "c", "d"].iter().for_each(|node| ringway.wait_back(node));
        load.map(Load::stop);
        assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
        assert_eq!(ringway.epoch(), epoch, "no key moved");
    }
}

/// A node on another machine that answers its probes and no writes is out after a few of them, as one on this
/// machine is: what it answers itself shows that the way to it is open.
#[test]
fn a_busy_node_behind_a_link_leaves() {
    let Some(network) = Network::start(4) else { return };
    let nodes = [0, 1, 2, 3].map(|host| Redis::inside(&network, host, 6379));
    let mut ringway = serve(Config::of(&nodes).pool("request_timeout: 200ms"));
    let mut client = ringway.client();
    let mut keys = (0..).map(|i| format!("k:{i}"));
    let mut is_own = |key: &String| {
        client.cmd(&["SET", key, "v"]);
        nodes[1].cmd(&["EXISTS", key]) == ":1\r\n"
    };
    let key = keys.find(&mut is_own).expect("there is one");
    assert_eq!(nodes[1].cmd(&["CLIENT", "PAUSE", "60000", "WRITE"]), "+OK\r\n");
    // One write after the other: no other node is heard of while one waits.
    let mut writes = 0;
    until(SOON, "it is out", || {
        client.cmd(&["SET", &key, "v"]);
        writes += 1;
        !ringway.owns("b")
    });
    assert!(writes <= 6, "{writes} writes");
    assert_eq!(ringway.metric("ringway_ejections_total", &[("cause", "timeout")]), 1.0);
    nodes[1].cmd(&["CLIENT", "UNPAUSE"]);
}

/// A node that dies while the link loses packets is gone all the same: that nobody listens there is no loss.
#[test]
fn a_node_dies_behind_a_lossy_link() {
    let Some(network) = Network::start(4) else { return };
    let mut nodes = [0, 1, 2, 3].map(|host| Redis::inside(&network, host, 6379));
    let mut ringway = serve(Config::of(&nodes));
    let load = load(&mut ringway);
    load.run(300);
    network.rule("-p tcp -m statistic --mode random --probability 0.4 -j DROP");
    located(&mut ringway, None, "proxy", "lossy");
    until(SOON, "the verdict on it is withheld", || {
        incidents(&mut ringway)
            .iter()
            .any(|i| i["timeline"].to_string().contains("cache/b is not ejected for it"))
    });
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 1.0);
    network.open();
    load.stop();
}

/// Most nodes of a zone that fail at once are the zone's fault.
#[test]
fn a_zone_is_located() {
    let mut nodes = Redis::several(6);
    let names = ["a", "b", "c", "d", "e", "f"];
    let config = names.iter().zip(&nodes).enumerate().fold(Config::of([]), |config, (i, (name, node))| {
        config.node(name, &format!("{}, zone: z{}", node.address(), i % 2))
    });
    let mut ringway = serve(config);
    for i in [1, 3] {
        nodes[i].kill();
    }
    located(&mut ringway, Some("b"), "zone", "down");
    located(&mut ringway, Some("d"), "zone", "down");
}

/// A proxy without descriptors blames itself, and ejects nobody.
#[test]
fn no_descriptors_is_the_proxy() {
    let nodes = Redis::several(2);
    let mut ringway = serve(Config::of(&nodes));
    let (mut client, pid) = (ringway.client(), ringway.pid().to_string());
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    let limit = |limit: &str| {
        let done = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
        assert!(done.is_ok_and(|status| status.success()), "prlimit is in util-linux");
    };
    limit("8");
    until(SOON, "it says so", || ringway.said().contains("this proxy: it has no file descriptor left"));
    nodes.iter().for_each(|node| assert!(node.cmd(&["CLIENT", "KILL", "TYPE", "normal"]).starts_with(':')));
    // The admin port lacks descriptors, too.
    limit("256");
    located(&mut ringway, None, "proxy", "descriptors");
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// A proxy that was stopped for a while blames itself: what it was owed meanwhile proves nothing.
#[test]
fn a_stopped_proxy_ejects_nobody() {
    let nodes = Redis::several(3);
    let mut ringway = serve(Config::of(&nodes));
    let load = load(&mut ringway);
    load.run(300);
    crate::harness::signal("STOP", ringway.pid());
    thread::sleep(Duration::from_secs(3));
    crate::harness::signal("CONT", ringway.pid());
    located(&mut ringway, None, "proxy", "starved");
    load.run(300);
    load.stop();
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
}

/// What is noisy and healthy opens no incident: idle connections that a node closes, connections that are
/// rolled, slow commands below the timeout, bursts, and clients that come and go.
#[test]
fn noise_is_no_fault() {
    let nodes =
        [Redis::with(&["--timeout", "1"]), Redis::with(&["--enable-debug-command", "yes"]), Redis::start()];
    let mut ringway = Ringway::serve(Config::of(&nodes).pool("health: {interval: 1500ms}"));
    let address = ringway.address();
    let mut client = ringway.client();
    for i in 0..50 {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), &"x".repeat(1000)]), "+OK\r\n");
    }
    let mut watcher = nodes[0].client();
    until(SOON, "idle connections are closed", || !watcher.cmd(&["CLIENT", "LIST"]).contains("cmd=set"));
    let load = load(&mut ringway);
    for _ in 0..5 {
        load.run(200);
        assert!(nodes[2].cmd(&["CLIENT", "KILL", "TYPE", "normal"]).starts_with(':'));
        assert_eq!(nodes[1].cmd(&["DEBUG", "SLEEP", "0.15"]), "+OK\r\n");
    }
    for _ in 0..300 {
        assert_eq!(Client::connect(&address).cmd(&["GET", "nothing"]), "$-1\r\n");
    }
    let burst: Vec<u8> = (0..2000).flat_map(|i| encode(&["GET", &format!("key:{}", i % 50)])).collect();
    client.send(&burst).expect("it reads");
    for _ in 0..2000 {
        client.reply().expect("a reply");
    }
    load.run(500);
    load.stop();
    assert_eq!(incidents(&mut ringway), Vec::<Value>::new());
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

//! What nodes are busy with: hot and large keys, and the clients that ask for most, found by samples.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use serde_json::Value;

use crate::{
    diagnosis::{is_located, located},
    harness::{
        Client, Config, Load, Redis, Ringway, SOON, encode, load::Plan, memcached::Memcached, owners,
        ringway::run, until,
    },
};

/// What a pool's nodes are busy with, node by node.
fn busy(ringway: &mut Ringway, pool: &str) -> Vec<Value> {
    let (status, page) = ringway.http(&format!("/v1/pools/{pool}/keys"));
    assert_eq!(status, 200, "{page}");
    let page: Value = serde_json::from_str(&page).expect("JSON");
    page["nodes"].as_array().expect("a list").clone()
}

/// The first part, and its error, of a key or client in a list.
fn part(nodes: &[Value], list: &str, name: &str, of: &str) -> Option<(f64, f64)> {
    let lists = nodes.iter().flat_map(|node| node["busy_with"][list].as_array().into_iter().flatten());
    let heavy = lists.into_iter().find(|heavy| heavy["name"].as_str().is_some_and(|n| n.contains(name)))?;
    Some((heavy[of]["share"].as_f64()?, heavy[of]["error"].as_f64()?))
}

/// Asks for many in one pipeline.
fn ask(client: &mut Client, requests: &[Vec<u8>], bytes: &mut usize) {
    client.send(requests.concat()).expect("ringway reads");
    for _ in requests {
        *bytes += client.reply().expect("a reply").len();
    }
}

/// A key that is asked for often and one that is large are told with their shares, the real ones within the
/// error; so is the client that asks; a healthy node with a hot key is no incident; `hot_keys: false` tells
/// nothing.
#[test]
fn hot_and_large_keys_are_told() {
    let node = Redis::start();
    let mut ringway = Ringway::serve(Config::of([&node]));
    let mut client = ringway.client();
    client.cmd(&["SET", "large", &"x".repeat(400_000)]);
    client.cmd(&["SET", "hot", "v"]);
    let get = |key: &str| encode(&["GET", key]);
    let mut round = 0;
    let mut bytes = 0;
    // Three of ten requests are for the hot key, one of a thousand is for the large one.
    until(SOON, "the shares are right", || {
        for _ in 0..10 {
            round += 1;
            let cold = (0..70).map(|i| get(&format!("cold:{round}:{i}")));
            let requests: Vec<Vec<u8>> = cold.chain((0..30).map(|_| get("hot"))).collect();
            ask(&mut client, &requests, &mut bytes);
        }
        ask(&mut client, &[get("large")], &mut bytes);
        let nodes = busy(&mut ringway, "cache");
        let is_near = |name: &str, of: &str, real: f64| {
            let told = part(&nodes, "keys", name, of);
            told.is_some_and(|(share, error)| (share - real).abs() <= 0.05 && error < 0.1)
        };
        is_near("hot", "requests", 0.3) && part(&nodes, "keys", "large", "bytes").is_some_and(|p| p.0 > 0.8)
    });
    let nodes = busy(&mut ringway, "cache");
    assert!(part(&nodes, "clients", "127.0.0.1:", "requests").is_some_and(|p| p.0 > 0.9), "{nodes:#?}");
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let told = |more: &[&str]| {
        let said = run(&[&["keys", "--admin", &admin], more].concat());
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let text = told(&[]);
    for word in ["node a of pool cache: about ", "  hot\n", "  large\n", " (session "] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    assert!(told(&["--pool", "cache", "--json"]).contains("\"requests_per_second\""));
    let none = run(&["keys", "--admin", &admin, "--pool", "none"]);
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no pool none"), "{none:?}");
    assert!(ringway.http("/v1/incidents").1.contains("\"incidents\": []"), "nothing is wrong");
    assert_eq!(ringway.reload(Config::of([&node]).pool("hot_keys: false")), "ok");
    until(SOON, "it says so", || told(&[]).contains("pool cache: hot_keys is false: nothing is sampled"));
}

/// memcached's keys are told as well, those of retrievals of several each for itself; of quiet commands, too.
#[test]
fn memcached_keys_are_told() {
    let node = Memcached::start();
    let config = Config::of([]).node("a", &node.address()).pool("protocol: memcached");
    let mut ringway = Ringway::serve(config);
    let mut client = TcpStream::connect(ringway.address()).expect("ringway listens");
    until(SOON, "both are told", || {
        let request = b"get one two\r\nmg hot q\r\nmg hot q\r\nmn\r\n";
        client.write_all(&request.repeat(100)).expect("ringway reads");
        let mut replies = vec![0; 9 * 100];
        client.read_exact(&mut replies).expect("replies");
        assert!(replies.starts_with(b"END\r\nMN\r\n"));
        let nodes = busy(&mut ringway, "cache");
        let is_near = |name: &str, real: f64| {
            part(&nodes, "keys", name, "requests").is_some_and(|(share, _)| (share - real).abs() < 0.06)
        };
        is_near("hot", 0.667) && is_near("one", 0.167) && is_near("two", 0.167)
    });
}

/// A node is called slow soon, and slowness alone ejects nobody, however busy the machine is.
fn watchful(nodes: &[Redis]) -> Config {
    let health = "health: {timeout: 5s, window: 2s, volume: 20, slow_factor: 3}";
    Config::of(nodes).pool(health).pool("request_timeout: 5s").pool("deadline: 10s")
}

/// Writes a list of so many elements.
fn fill(client: &mut Client, key: &str, elements: usize) {
    let element = |i: usize| format!("element:{i:06}");
    for from in (0..elements).step_by(5000) {
        let words: Vec<String> = (from..elements.min(from + 5000)).map(element).collect();
        let request: Vec<&str> = ["RPUSH", key].into_iter().chain(words.iter().map(String::as_str)).collect();
        assert!(client.cmd(&request).starts_with(':'), "{key}");
    }
}

/// A whole list.
fn range(key: &str) -> Vec<u8> {
    encode(&["LRANGE", key, "0", "-1"])
}

/// The first element in order: much work for its node, and a short reply, so that only the node is slow.
fn sort(key: &str) -> Vec<u8> {
    encode(&["SORT", key, "ALPHA", "LIMIT", "0", "1"])
}

/// Clients that ask for lists until they are told to stop, several at once each.
struct Readers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    fn start(address: &str, requests: &[Vec<u8>], clients: usize, at_once: usize) -> Readers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..clients).map(|_| {
            let (stop, requests, mut client) = (stop.clone(), requests.to_vec(), Client::connect(address));
            thread::spawn(move || {
                let mut next = requests.iter().cycle();
                while !stop.load(Relaxed) {
                    let some: Vec<u8> = next.by_ref().take(at_once).flatten().copied().collect();
                    client.send(some).expect("ringway reads");
                    (0..at_once).for_each(|_| drop(client.reply().expect("a reply")));
                }
            })
        });
        let threads = threads.collect();
        Readers { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a reader panicked"));
    }
}

/// A giant key that several clients ask for makes its node slow: an incident opens and names the key, and
/// ends when nobody asks for it any more; no key moves.
#[test]
fn a_giant_key_is_the_fault() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(watchful(&nodes));
    fill(&mut ringway.client(), "giant", 30_000);
    let owner = ["a", "b", "c"][owners(&nodes)["giant"]];
    let load = Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() });
    let readers = Readers::start(&ringway.address(), &[sort("giant")], 8, 1);
    located(&mut ringway, Some(owner), "key", "giant");
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    let id = page["incidents"][0]["id"].to_string();
    let said = run(&["incident", &id, "--admin", &admin]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!("  where: key giant: it holds node {owner}, ")), "{said}");
    readers.stop();
    until(SOON, "it is over", || {
        load.run(100);
        !ringway.http("/v1/incidents").1.contains("\"closed_ms\": null")
    });
    load.stop();
    assert_eq!((ringway.epoch(), ringway.metric("ringway_node_slow", &[])), (1, 0.0));
}

/// With many workers most connections to the node only wait behind the giant key. The node's own log tells
/// which it is, however few ask for it; where it has none, samples do if all goes over one connection.
#[test]
fn a_giant_key_is_the_fault_for_many_workers() {
    for (log, workers) in [(true, 4), (false, 1)] {
        let node = || if log { Redis::start() } else { Redis::with(&["--rename-command", "SLOWLOG", ""]) };
        let nodes = [node(), node(), node()];
        let mut ringway = Ringway::serve(watchful(&nodes).top(&format!("workers: {workers}")));
        // Enough for some ten milliseconds also on a fast machine: what takes less is not in the log.
        fill(&mut ringway.client(), "giant", 100_000);
        let owner = ["a", "b", "c"][owners(&nodes)["giant"]];
        let load = Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() });
        let readers = Readers::start(&ringway.address(), &[sort("giant")], 2, 1);
        located(&mut ringway, Some(owner), "key", "giant");
        let told = ringway.http("/v1/incidents").1;
        assert_eq!(told.contains("of the time that its slow log tells of"), log, "{told}");
        readers.stop();
        load.stop();
    }
}

/// A client that has a node read many lists, several at once, holds it: the incident names the client, though
/// no key is asked for often.
#[test]
fn a_client_is_the_fault() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(watchful(&nodes));
    let mut client = ringway.client();
    let mut keys: Vec<String> = (0..120).map(|i| format!("list:{i}")).collect();
    keys.iter().for_each(|key| fill(&mut client, key, 5000));
    let map = owners(&nodes);
    keys.retain(|key| map[key] == 1);
    assert!(keys.len() >= 10, "{keys:?}");
    let load = Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() });
    let lists: Vec<Vec<u8>> = keys.iter().map(|key| range(key)).collect();
    let reader = Readers::start(&ringway.address(), &lists, 1, 60);
    located(&mut ringway, Some("b"), "client", "flood");
    reader.stop();
    load.stop();
}

/// A pool whose nodes are quick, with a key that most requests are for, has no incident.
#[test]
fn a_hot_key_that_hurts_nobody_is_no_incident() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(watchful(&nodes));
    let load = Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() });
    let mut client = ringway.client();
    let hot = vec![encode(&["GET", "hot"]); 50];
    let mut bytes = 0;
    until(SOON, "the key is hot", || {
        (0..100).for_each(|_| ask(&mut client, &hot, &mut bytes));
        let busy = busy(&mut ringway, "cache");
        let part = part(&busy, "keys", "hot", "requests");
        let rates = busy.iter().filter_map(|node| node["busy_with"]["requests_per_second"].as_f64());
        part.is_some_and(|(share, _)| share > 0.9) && rates.sum::<f64>() > 3000.0
    });
    load.stop();
    let page = ringway.http("/v1/incidents").1;
    assert!(page.contains("\"incidents\": []"), "{page}");
}

/// A request that keeps a node from answering anything has it ejected; when it comes again and again the key
/// is named.
#[test]
fn a_key_that_stops_a_node_is_the_fault() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool("request_timeout: 100ms").pool("on_return: serve");
    let config = config.pool("health: {interval: 100ms, timeout: 1s, rise: 12, flap_window: 0s}");
    let mut ringway = Ringway::serve(config);
    assert_eq!(ringway.client().cmd(&["RPUSH", "report", "first"]), ":1\r\n");
    let at = owners(&nodes)["report"];
    let owner = ["a", "b", "c"][at];
    fill(&mut nodes[at].client(), "report", 500_000);
    let load = Load::start(&ringway.address(), &Plan { clients: 10, ..Plan::default() });
    until(3 * SOON, "the key is named", || {
        load.run(300);
        let mut client = ringway.client();
        client.send(encode(&["SORT_RO", "report", "ALPHA", "LIMIT", "0", "1"])).expect("ringway reads");
        ringway.wait_away(owner);
        ringway.wait_back(owner);
        let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
        is_located(&page["incidents"][0], Some(owner), "key", "stall")
    });
    load.stop();
}

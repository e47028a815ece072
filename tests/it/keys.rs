//! What nodes are busy with: hot and large keys, and the clients that ask for most, found by samples.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::harness::{
    Client, Config, Redis, Ringway, SOON, encode, memcached::Memcached, ringway::run, until,
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

/// A key that is asked for often and one that is large are told with their shares, the real ones within the error;
/// so is the client that asks; a healthy node with a hot key is no incident; `hot_keys: false` tells nothing.
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

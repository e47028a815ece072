//! Requests that the nodes do not want: larger than their own limit, which is below the pool's. They say so
//! before they have read them, and close the connection. Whoever asks hears it; nobody else notices.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::harness::{Client, Config, Redis, Ringway, SOON, client::text, encode, until};

/// Nodes that take no argument above 1 MiB, which the pool does not know.
fn small_nodes(count: usize) -> Vec<Redis> {
    (0..count).map(|_| Redis::with(&["--proto-max-bulk-len", "1mb"])).collect()
}

/// A script with an argument of so many bytes.
fn script(key: &str, bytes: usize) -> Vec<u8> {
    encode(&[&b"EVAL"[..], b"return 1", b"1", key.as_bytes(), &vec![b'x'; bytes]])
}

/// What the client hears of one.
fn told(client: &mut Client, request: &[u8]) -> String {
    client.send(request).expect("all of it is taken");
    client.reply().map(|reply| text(&reply)).expect("a reply")
}

/// Nobody was ejected, and nothing is thought of any node, nor was any blamed.
fn all_are_well(ringway: &mut Ringway) {
    let nodes = ringway.pool()["nodes"].as_array().expect("nodes").clone();
    for node in nodes {
        let name = node["name"].as_str().expect("a name");
        assert_eq!((&node["health"], &node["placement"]), (&"healthy".into(), &"owns".into()), "{node}");
        let failures = node["evidence"]["failures"].as_object().expect("failures");
        assert!(failures.values().all(|n| n == 0), "{name}: {failures:?}");
    }
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// Scripts and values far above the limit of the nodes of a quiet pool: each client hears the node's own
/// words, no node is blamed, and all keys are where they were.
#[test]
fn what_nodes_refuse_costs_them_nothing() {
    let nodes = small_nodes(4);
    let (mut ringway, mut other) = Ringway::serve(Config::of(&nodes)).into_client();
    let keys: Vec<String> = (0..400).map(|i| format!("key:{i}")).collect();
    keys.iter().for_each(|key| assert_eq!(other.cmd(&["SET", key, "v"]), "+OK\r\n"));
    for key in &keys[..4] {
        let large = vec![b'x'; 30 << 20];
        for request in [script(key, 30 << 20), encode(&[&b"SET"[..], key.as_bytes(), &large])] {
            let mut client = ringway.client();
            let told = told(&mut client, &request);
            assert_eq!(told, "-ERR Protocol error: invalid bulk length\r\n");
            assert_eq!(client.cmd(&["GET", key]), "$1\r\nv\r\n", "its session goes on");
        }
    }
    all_are_well(&mut ringway);
    for key in &keys {
        assert_eq!(other.cmd(&["GET", key]), "$1\r\nv\r\n");
    }
}

/// One client sends scripts that are a little above the limit of the nodes, while six others pipeline writes
/// over the connections that all share: not one of these is refused.
#[test]
fn what_nodes_refuse_breaks_nobody_elses_writes() {
    let nodes = small_nodes(2);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes).top("workers: 1")).into_client();
    let (written, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut others: Vec<Client> = (0..6).map(|_| ringway.client()).collect();
    thread::scope(|scope| {
        for (n, other) in others.iter_mut().enumerate() {
            let (written, over) = (&written, &over);
            let batch: Vec<u8> =
                (0..100).flat_map(|i| encode(&["SET", &format!("other:{n}:{i}"), "v"])).collect();
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    other.send(&batch).expect("sent");
                    for _ in 0..100 {
                        assert_eq!(other.reply().map(|r| text(&r)).expect("a reply"), "+OK\r\n");
                    }
                    written.fetch_add(100, Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let large = vec![b'x'; 1_200_000];
        for i in 0..10 {
            let before = written.load(Relaxed);
            until(SOON, "others write", || written.load(Relaxed) > before + 600);
            let key = format!("key:{i}");
            let requests = [
                script(&key, 1_200_000),
                encode(&[&b"MSET"[..], key.as_bytes(), &large, b"other", &large]),
                encode(&[&b"SCRIPT"[..], b"LOAD", &large]),
            ];
            for request in requests {
                // Where the whole of it was written before the node said so, there is nobody else to tell.
                let told = told(&mut client, &request);
                assert!(told.contains("Protocol error: invalid bulk length"), "{told}");
            }
        }
        over.store(true, Relaxed);
    });
    all_are_well(&mut ringway);
}

/// Large requests that wait for those before them hold back their client, not its session: what a pipeline of
/// them sends meanwhile is more than a session may have waiting.
#[test]
fn a_pipeline_of_large_requests_is_answered() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool("limits: {session_bytes_max: 4MiB}");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    let mut sender = client.sender();
    let sending = thread::spawn(move || {
        let value = vec![b'x'; 2 << 20];
        for i in 0..12 {
            let key = format!("{{k}}{i}");
            let request = encode(&[&b"MSET"[..], key.as_bytes(), &value, b"{k}", b"small"]);
            sender.write_all(&request).expect("it is taken by and by");
        }
        sender.write_all(&script("{k}", 6 << 20)).expect("one above what a session may have waiting, too");
    });
    for i in 0..12 {
        assert_eq!(client.reply().map(|reply| text(&reply)).expect("a reply"), "+OK\r\n", "{i}");
    }
    assert_eq!(client.reply().map(|reply| text(&reply)).expect("a reply"), ":1\r\n");
    sending.join().expect("all is sent");
    all_are_well(&mut ringway);
}

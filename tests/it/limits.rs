//! Clients that ask too much, read too little or send nonsense; starting and stopping.

use std::{
    io::Write,
    net::TcpListener,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    diagnosis::located,
    harness::{
        Client, Config, Redis, Ringway, SOON, client::text, encode, memory, peak_memory, ringway::program,
        signal, until,
    },
};

const MIB: u64 = 1 << 20;

/// Malformed and huge requests, each on a connection of its own: an error as Redis words it and a
/// close, no memory for what was only announced, and nobody else notices.
#[test]
fn malformed_requests_harm_nobody() {
    let node = Redis::start();
    let (mut ringway, mut other) = Ringway::serve(Config::of([&node]).top("workers: 1")).into_client();
    other.cmd(&["SET", "a", "1"]);
    let before = memory(ringway.pid());
    let cases: [&[u8]; 14] = [
        b"*1000000000\r\n",
        b"*99999999999999999999\r\n",
        b"*abc\r\n",
        b"*1\r\n!x\r\n",
        b"*1\r\n$-5\r\n",
        b"*1\r\n$abc\r\n",
        b"*2\r\n$3\r\nGET\r\n$-1\r\n",
        b"*2\r\n$3\r\nGET\r\n:1\r\n",
        b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
        b"*2\r\n$3\r\nGET\r\n$99999999999999\r\n",
        b"*1\r\n$4\r\nPINGPONG\r\n",
        b"GET \"unbalanced\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\"\n",
        &[b'x'; 70_000],
    ];
    for case in cases {
        let mut client = ringway.client();
        client.set_timeout(Duration::from_secs(10));
        // It may be closed before all is written.
        let _ = client.send(case);
        let name = case.escape_ascii().to_string().chars().take(60).collect::<String>();
        let rest = client.rest().unwrap_or_else(|e| panic!("{name}: not closed: {e}"));
        assert!(rest.starts_with("-ERR"), "{name}: {rest:?}");
        // Whoever comes next on the same worker is understood.
        let mut next = ringway.client();
        next.set_timeout(Duration::from_secs(10));
        for args in [&["PING"][..], &["GET", "a"]] {
            let reply = next.try_cmd(args).unwrap_or_else(|e| panic!("after {name}: {args:?}: {e}"));
            assert!(!reply.starts_with(b"-"), "after {name}: {args:?}: {}", text(&reply));
        }
        next.send("PING\r\n").expect("sent");
        assert_eq!(next.reply().map(|r| text(&r)).unwrap_or_default(), "+PONG\r\n", "inline after {name}");
        assert_eq!(other.cmd(&["GET", "a"]), "$1\r\n1\r\n");
    }
    assert!(peak_memory(ringway.pid()) < before + 50 * MIB, "memory for what was announced");
}

/// A key of 512 MiB is announced by twenty clients that send little of it: no memory is set aside.
#[test]
fn announced_bytes_cost_nothing_until_they_come() {
    let node = Redis::start();
    let (mut ringway, mut other) = Ringway::serve(Config::of([&node])).into_client();
    other.cmd(&["SET", "a", "1"]);
    let before = memory(ringway.pid());
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = ringway.client();
        client.send("*2\r\n$3\r\nGET\r\n$536870912\r\nbeginning of a key").expect("sent");
        waiting.push(client);
    }
    until(SOON, "they are accepted", || ringway.metric("ringway_sessions", &[]) == 21.0);
    assert_eq!(other.cmd(&["GET", "a"]), "$1\r\n1\r\n");
    assert!(memory(ringway.pid()) < before + 50 * MIB);
}

/// A value of 100 MiB is written and read through ringway without being held whole.
#[test]
fn large_values_pass_without_being_held() {
    const SIZE: usize = 100 << 20;
    let node = Redis::start();
    let config = Config::of([&node]).pool("request_timeout: 10s").pool("deadline: 60s");
    let (ringway, mut client) = Ringway::serve(config).into_client();
    assert_eq!(client.cmd(&["SET", "small", "1"]), "+OK\r\n");
    let before = memory(ringway.pid());
    let value: Vec<u8> = (0..SIZE).map(|i| (i * 7 + i / 1000) as u8).collect();
    client.send(encode(&[&b"SET"[..], b"large", &value])).expect("sent");
    assert_eq!(text(&client.reply().expect("a reply")), "+OK\r\n");
    assert_eq!(node.cmd(&["STRLEN", "large"]), format!(":{SIZE}\r\n"));
    client.send(encode(&["GET", "large"])).expect("sent");
    client.send(encode(&["GET", "small"])).expect("sent");
    let reply = client.reply().expect("a reply");
    let head = format!("${SIZE}\r\n").len();
    assert!(reply[head..head + SIZE] == value[..], "every byte is the one that was written");
    assert_eq!(text(&client.reply().expect("the next reply")), "$1\r\n1\r\n");
    let peak = peak_memory(ringway.pid());
    assert!(peak < before + 80 * MIB, "{} MiB more", (peak - before) / MIB);
}

/// Three nodes' worth of small keys, one large value, and a worker that all clients share.
fn with_large_value() -> (Vec<Redis>, Ringway, Client) {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).top("workers: 1").pool("limits: {session_bytes_max: 16MiB}");
    let (ringway, mut client) = Ringway::serve(config).into_client();
    assert_eq!(client.cmd(&["SET", "large", &"x".repeat(1 << 20)]), "+OK\r\n");
    (nodes, ringway, client)
}

/// A client that does not read a reply of many megabytes keeps nobody waiting, whoever stands
/// behind it on the same connection.
#[test]
fn a_huge_reply_that_is_not_read_keeps_nobody_waiting() {
    let node = Redis::start();
    let config = Config::of([&node]).top("workers: 1");
    let (mut ringway, mut other) = Ringway::serve(config).into_client();
    assert_eq!(other.cmd(&["SET", "huge", &"x".repeat(40 << 20)]), "+OK\r\n");
    let mut greedy: Vec<Client> = (0..3).map(|_| ringway.client()).collect();
    for client in &mut greedy {
        client.send(encode(&["GET", "huge"])).expect("sent");
    }
    for _ in 0..5 {
        assert_others_served(&mut other);
    }
    assert_no_node_blamed(&mut ringway);
}

/// Other clients' requests to all nodes are answered, quickly.
fn assert_others_served(client: &mut Client) {
    for i in 0..200 {
        let start = Instant::now();
        assert_eq!(client.cmd(&["SET", &format!("small:{i}"), "v"]), "+OK\r\n", "small:{i}");
        assert!(start.elapsed() < Duration::from_millis(1500), "another client waited {:?}", start.elapsed());
    }
}

/// No node is blamed for what a client does not read.
fn assert_no_node_blamed(ringway: &mut Ringway) {
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
}

/// A client that stops reading in the middle of its replies keeps its own replies waiting and
/// nobody else's; when it reads again it gets all of them.
#[test]
fn a_client_that_pauses_gets_its_replies_later() {
    let (_nodes, mut ringway, mut other) = with_large_value();
    let mut paused = ringway.client();
    paused.send(encode(&["GET", "large"]).repeat(12)).expect("sent");
    // For longer than the request timeout.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        assert_others_served(&mut other);
    }
    assert_no_node_blamed(&mut ringway);
    for i in 0..12 {
        let reply = paused.reply().unwrap_or_else(|e| panic!("reply {i}: {e}"));
        assert_eq!(reply.len(), "$1048576\r\n".len() + (1 << 20) + 2, "reply {i}");
    }
}

/// A client writes 100,000 requests and reads their 20 MB of replies late: it gets them all, and
/// meanwhile nobody waits and no node is blamed.
#[test]
fn a_deep_pipeline_that_is_read_late_blames_nobody() {
    const COUNT: usize = 100_000;
    let (_nodes, mut ringway, mut other) = with_large_value();
    other.cmd(&["SET", "k", &"x".repeat(200)]);
    let mut late = ringway.client();
    let mut sender = late.sender();
    let writer = thread::spawn(move || sender.write_all(&encode(&["GET", "k"]).repeat(COUNT)));
    // For longer than the request timeout.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        assert_others_served(&mut other);
    }
    for i in 0..COUNT {
        let reply = late.reply().unwrap_or_else(|e| panic!("reply {i}: {e}"));
        assert!(reply.starts_with(b"$200\r\n"), "reply {i}: {}", text(&reply));
    }
    writer.join().expect("the writer ends").expect("ringway takes all of it");
    assert_no_node_blamed(&mut ringway);
}

/// A client that never reads, and asks for large values for ever, is bounded in memory and closed
/// in the end; others on the same nodes and worker are served meanwhile, and no node is blamed.
#[test]
fn a_client_that_never_reads_is_bounded() {
    let (_nodes, mut ringway, mut other) = with_large_value();
    let before = memory(ringway.pid());
    let greedy = ringway.client();
    let mut sender = greedy.sender();
    let asked = AtomicU64::new(0);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let batch = encode(&["GET", "large"]).repeat(1000);
            // Ends when ringway closes, or takes no more for the client's own timeout.
            while sender.write_all(&batch).is_ok() {
                asked.fetch_add(1000, Relaxed);
            }
        });
        until(SOON, "it has asked a lot", || asked.load(Relaxed) > 1000 || asking.is_finished());
        for _ in 0..5 {
            assert_others_served(&mut other);
        }
        until(2 * SOON, "it is closed", || ringway.metric("ringway_sessions", &[]) == 1.0);
        until(2 * SOON, "its writer ends", || asking.is_finished());
    });
    assert!(ringway.metric("ringway_refusals_total", &[("reason", "slow_client")]) >= 1.0);
    let peak = peak_memory(ringway.pid());
    assert!(peak < before + 120 * MIB, "{} MiB more", (peak - before) / MIB);
    assert_others_served(&mut other);
    assert_no_node_blamed(&mut ringway);
    drop(greedy);
}

/// Fifty clients that send a byte at a time, and stop in the middle, keep nobody from anything.
#[test]
fn slow_senders_keep_nobody_waiting() {
    let node = Redis::start();
    let (mut ringway, mut other) = Ringway::serve(Config::of([&node]).top("workers: 1")).into_client();
    let request = encode(&["SET", "slow", "value"]);
    let mut slow: Vec<Client> = (0..50).map(|_| ringway.client()).collect();
    for byte in &request[..request.len() - 1] {
        slow.iter_mut().for_each(|c| c.send([*byte]).expect("sent"));
        assert_eq!(other.cmd(&["SET", "quick", "1"]), "+OK\r\n");
    }
    assert_eq!(other.cmd(&["EXISTS", "slow"]), ":0\r\n");
    for client in &mut slow {
        client.send([b'\n']).expect("sent");
        assert_eq!(text(&client.reply().expect("a reply")), "+OK\r\n");
    }
}

/// The client above `limits.clients` gets Redis's words and a close; a place that is given back can
/// be taken.
#[test]
fn clients_above_the_limit_are_told_so() {
    let node = Redis::start();
    let mut ringway = Ringway::serve(Config::of([&node]).pool("limits: {clients: 5}"));
    let mut clients: Vec<Client> = (0..5).map(|_| ringway.client()).collect();
    for client in &mut clients {
        assert_eq!(client.cmd(&["PING"]), "+PONG\r\n");
    }
    let told = ringway.client().rest().expect("a word and a close");
    assert_eq!(told, "-ERR max number of clients reached\r\n");
    drop(clients.pop());
    until(SOON, "a place is free", || {
        let mut client = ringway.client();
        client.try_cmd(&["PING"]).is_ok_and(|r| r == b"+PONG\r\n")
    });
    assert!(ringway.metric("ringway_refusals_total", &[("reason", "clients")]) >= 1.0);
}

/// An argument above `bulk_bytes`, too many arguments and a request above `request_bytes` are
/// refused; what is at the limit passes.
#[test]
fn configured_limits_hold() {
    let node = Redis::start();
    let limits = "limits: {bulk_bytes: 64KiB, request_bytes: 100KiB, args_max: 8}";
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node]).pool(limits)).into_client();
    assert_eq!(client.cmd(&["SET", "a", &"x".repeat(65536)]), "+OK\r\n");
    assert_eq!(client.cmd(&["DEL", "1", "2", "3", "4", "5", "6", "7"]), ":0\r\n");
    let big = "x".repeat(60_000);
    let long = "x".repeat(65537);
    for args in [vec!["SET", "a", &long], vec!["MSET", "a", &big, "b", &big], vec!["DEL"; 9]] {
        let mut client = ringway.client();
        let _ = client.send(encode(&args));
        let rest = client.rest().expect("an error and a close");
        assert!(rest.starts_with("-ERR"), "{}: {rest}", args[0]);
    }
}

/// More clients than there are descriptors: those that it has are served, with large values too, nodes are
/// probed and the admin port answers; the others are refused, which is told in one clear line and not
/// thousands, until there is room again.
#[test]
fn clients_leave_descriptors_to_others() {
    let mut node = Redis::start();
    let shell = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh", program()];
    let mut ringway = Ringway::serve_through(Config::of([&node]), &shell);
    let mut first = ringway.client();
    assert_eq!(first.cmd(&["SET", "a", "1"]), "+OK\r\n");
    let address = ringway.address();
    let crowd: Vec<_> = (0..60).filter_map(|_| Client::try_connect(&address).ok()).collect();
    let evidence = "clients are refused: what is left is for nodes, probes and the admin port";
    until(SOON, "it says so", || ringway.said().contains(evidence));
    assert!(ringway.metric("ringway_refusals_total", &[("reason", "clients")]) > 0.0);
    for _ in 0..50 {
        assert_eq!(first.cmd(&["GET", "a"]), "$1\r\n1\r\n");
    }
    // A large value wants a connection of its own.
    assert_eq!(first.cmd(&["SET", "b", &"x".repeat(2 << 20)]), "+OK\r\n");
    // So does the return of a node.
    node.kill();
    until(SOON, "it is found to be gone", || ringway.node("a")["health"] != "healthy");
    node.restart_empty();
    until(SOON, "it is found to be back", || ringway.node("a")["health"] == "healthy");
    assert_eq!(first.cmd(&["SET", "a", "1"]), "+OK\r\n");
    drop(crowd);
    until(SOON, "new clients are served again", || {
        Client::try_connect(&address).is_ok_and(|mut c| {
            c.set_timeout(Duration::from_secs(1));
            c.try_cmd(&["GET", "a"]).is_ok()
        })
    });
    let lines = ringway.said().lines().filter(|l| l.contains(evidence)).count();
    assert!(lines <= 10, "{lines} lines");
}

/// A port that is taken is one clear line with the port, and exit code 1.
#[test]
fn a_taken_port_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("it is bound").to_string();
    let node = Redis::start();
    for config in
        [Config::of([&node]).listen(&at), Config::of([&node]).top(&format!("admin: {{listen: \"{at}\"}}"))]
    {
        let mut ringway = Ringway::spawn(config, &[program()]);
        let (status, _) = ringway.wait();
        assert_eq!(status.code(), Some(1));
        let said = ringway.said();
        let lines: Vec<&str> = said.lines().filter(|l| l.contains(&at)).collect();
        assert_eq!(lines.len(), 1, "{said}");
        assert!(lines[0].contains("in use"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// SIGTERM: no new client gets in, what is in flight is answered, idle clients are closed, and
/// ringway ends with 0 within `drain_timeout`.
#[test]
fn sigterm_finishes_what_is_in_flight() {
    let node = Redis::start();
    let config =
        Config::of([&node]).top("drain_timeout: 8s").pool("request_timeout: 10s").pool("deadline: 10s");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    let mut idle = ringway.client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert_eq!(idle.cmd(&["PING"]), "+PONG\r\n");
    let address = ringway.address();
    node.stop();
    client.send(encode(&["GET", "a"])).expect("sent");
    until(SOON, "it is in flight", || ringway.metric("ringway_node_in_flight", &[]) == 1.0);
    let start = Instant::now();
    signal("TERM", ringway.pid());
    assert_eq!(idle.rest().expect("idle clients are closed"), "");
    until(SOON, "no new client gets in", || {
        Client::try_connect(&address).map_or(true, |mut c| c.try_cmd(&["PING"]).is_err())
    });
    node.cont();
    assert_eq!(text(&client.reply().expect("what was in flight is answered")), "$1\r\n1\r\n");
    assert_eq!(client.rest().expect("and then it is closed"), "");
    let (status, _) = ringway.wait();
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "before drain_timeout: {:?}", start.elapsed());
}

/// With `drain_delay` a SIGTERM is first told by `/readyz` alone, while new clients are served as before; a
/// second one ends that.
#[test]
fn a_drain_is_announced() {
    let node = Redis::start();
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node]).top("drain_delay: 1h")).into_client();
    assert_eq!(ringway.http("/readyz").0, 200);
    signal("TERM", ringway.pid());
    until(SOON, "it is told", || ringway.http("/readyz").0 == 503);
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert_eq!(ringway.client().cmd(&["GET", "a"]), "$1\r\n1\r\n", "a new client");
    assert_eq!(ringway.terminate().0.code(), Some(0));
    assert_eq!(client.rest().expect("it is closed"), "");
}

/// A request that never ends does not keep ringway longer than `drain_timeout`.
#[test]
fn draining_has_an_end() {
    let node = Redis::start();
    let config =
        Config::of([&node]).top("drain_timeout: 1s").pool("request_timeout: 60s").pool("deadline: 60s");
    let (mut ringway, mut client) = Ringway::serve(config).into_client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    node.stop();
    client.send(encode(&["GET", "a"])).expect("sent");
    until(SOON, "it is in flight", || ringway.metric("ringway_node_in_flight", &[]) == 1.0);
    let (status, took) = ringway.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(8), "{took:?}");
}

/// Ctrl-C ends it like SIGTERM does, with exit code 0.
#[test]
fn ctrl_c_ends_it() {
    let node = Redis::start();
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node])).into_client();
    assert_eq!(client.cmd(&["PING"]), "+PONG\r\n");
    signal("INT", ringway.pid());
    assert_eq!(ringway.wait().0.code(), Some(0));
}

/// One request takes no multiple of its size: not by asking for an answer of ringway's own many times over,
/// nor by going to many nodes.
#[test]
fn a_request_is_not_held_many_times() {
    let node = Redis::start();
    let mut config = Config::of([&node]).top("buffered_bytes: 64MiB").top("workers: 1");
    for n in 0..9 {
        config = config.node(&format!("n{n}"), &node.address());
    }
    let (ringway, mut client) = Ringway::serve(config).into_client();
    let names = [&["COMMAND", "INFO"][..], &["client"; 500_000]].concat();
    assert_eq!(client.cmd(&names), "-ERR COMMAND takes at most 1024 arguments and 65536 bytes here\r\n");
    let large = "z".repeat(40 << 20);
    for (words, why) in [(["SCRIPT", "EXISTS"], "all nodes"), (["SCRIPT", "LOAD"], "buffered_bytes")] {
        let reply = client.cmd(&[words[0], words[1], &large]);
        assert!(reply.starts_with("-ERR") && reply.contains(why), "{words:?}: {reply}");
    }
    assert_eq!(client.cmd(&["SET", "k", "v"]), "+OK\r\n");
    // The request, in a buffer that has grown by doubling.
    let peak = peak_memory(ringway.pid());
    assert!(peak < 200 * MIB, "{} MiB", peak / MIB);
}

/// What all sessions hold together is bounded: the one that would pass `buffered_bytes` is closed,
/// the others are served, and an incident of the process says so until there is room.
#[test]
fn all_sessions_share_a_bound() {
    let node = Redis::start();
    let config = Config::of([&node]).top("buffered_bytes: 8MiB").pool("limits: {session_bytes_max: 8MiB}");
    let (mut ringway, mut other) = Ringway::serve(config).into_client();
    let half = &encode(&["MSET", "k", &"x".repeat(20 << 20)])[..6 << 20];
    let mut holders: Vec<Client> = (0..2).map(|_| ringway.client()).collect();
    for holder in &mut holders {
        // The one that is closed may not take all of it.
        let _ = holder.send(half);
    }
    ringway.wait_metric("ringway_refusals_total", &[("reason", "overload")], 1.0);
    assert_eq!(other.cmd(&["SET", "a", "1"]), "+OK\r\n");
    located(&mut ringway, None, "proxy", "memory");
    until(SOON, "one is closed", || ringway.metric("ringway_sessions", &[]) == 2.0);
    drop(holders);
    until(SOON, "what they held is given back", || {
        let mut next = ringway.client();
        next.cmd(&["MSET", "k", &"x".repeat(6 << 20)]) == "+OK\r\n"
    });
    until(SOON, "it is over", || ringway.http("/v1/incidents").1.contains("there is room again"));
}

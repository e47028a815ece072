//! Requests over HTTP/2, frame by frame, as no client library would send them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::Recorder;
use super::{limited, quick};
use crate::harness::{
    Config, Ringway, SOON, peak_memory, until,
    web::{Browser, Gate, Stage},
};

/// A name, the fields, the data, and what becomes of it.
type Row = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>, Ends);

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// The node gets exactly this.
    Passes(&'static str),
    /// The stream is reset, or answered with an error.
    Refused,
}

use Ends::{Passes, Refused};

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/x")];
const PASSED: Ends = Passes("GET /x HTTP/1.1\r\nhost: h\r\n\r\n");

const ROWS: &[Row] = &[
    ("plain", &[], None, PASSED),
    ("connection", &[("connection", "close")], None, Refused),
    ("keep-alive", &[("keep-alive", "1")], None, Refused),
    ("proxy-connection", &[("proxy-connection", "x")], None, Refused),
    ("transfer-encoding", &[("transfer-encoding", "chunked")], None, Refused),
    ("upgrade", &[("upgrade", "websocket")], None, Refused),
    (
        "te trailers",
        &[("te", "trailers")],
        None,
        Passes("GET /x HTTP/1.1\r\nhost: h\r\nte: trailers\r\nconnection: te\r\n\r\n"),
    ),
    ("te gzip", &[("te", "gzip")], None, Refused),
    ("upper case", &[("X-A", "1")], None, Refused),
    ("CR LF in a value", &[("x", "a\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n")], None, Refused),
    ("LF in a value", &[("x", "a\nb: c")], None, Refused),
    ("NUL in a value", &[("x", "a\0b")], None, Refused),
    ("colon in a name", &[("x: y\r\nz", "1")], None, Refused),
    ("space in a name", &[("x y", "1")], None, Refused),
    ("pseudo after fields", &[("x", "1"), (":path", "/y")], None, Refused),
    ("path twice", &[(":path", "/y")], None, Refused),
    ("unknown pseudo", &[(":evil", "1")], None, Refused),
    ("the same Host", &[("host", "h")], None, PASSED),
    ("another Host", &[("host", "other")], None, Refused),
    ("length too large", &[("content-length", "5")], Some("ab"), Refused),
    ("length too small", &[("content-length", "1")], Some("ab"), Refused),
    ("length twice", &[("content-length", "2"), ("content-length", "3")], Some("ab"), Refused),
    ("length signed", &[("content-length", "+2")], Some("ab"), Refused),
    (
        "length right",
        &[("content-length", "2")],
        Some("ab"),
        Passes("GET /x HTTP/1.1\r\ncontent-length: 2\r\nhost: h\r\n\r\nab"),
    ),
];

/// A connection that sends frames as they are.
struct Frames(TcpStream);

impl Frames {
    fn connect(address: &str) -> Frames {
        let mut stream = TcpStream::connect(address).expect("ringway listens");
        stream.set_read_timeout(Some(SOON)).expect("sockets take timeouts");
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it reads");
        let mut frames = Frames(stream);
        frames.send(4, 0, 0, &[]);
        frames
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.send_raw(&frame);
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        // ringway may have closed.
        let _ = self.0.write_all(bytes);
    }

    /// A request with these fields, none of them compressed.
    fn ask(&mut self, stream: u32, fields: &[(&str, &str)], data: Option<&str>) {
        self.ask_with(stream, fields, data.is_none());
        if let Some(data) = data {
            self.send(0, 1, stream, data.as_bytes());
        }
    }

    /// Its head alone.
    fn ask_with(&mut self, stream: u32, fields: &[(&str, &str)], is_whole: bool) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).expect("short"));
                block.extend(text.bytes());
            }
        }
        self.send(1, 4 | u8::from(is_whole), stream, &block);
    }

    /// What comes of a kind and a stream, whatever else does; `None` when the connection ends before.
    fn payload(&mut self, kind: u8, stream: u32) -> Option<Vec<u8>> {
        loop {
            let (found, id, payload) = self.frame()?;
            if (found, id) == (kind, stream) {
                return Some(payload);
            }
        }
    }

    fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Waits for the end of `second`; what `first` ended with, if it did meanwhile.
    fn either(&mut self, first: u32, second: u32) -> Option<bool> {
        let mut ended = None;
        loop {
            match self.next_end() {
                Some((id, is_fine)) if id == first => ended = ended.or(Some(is_fine)),
                Some((id, is_fine)) if id == second => {
                    assert!(is_fine, "stream {second}");
                    return ended;
                }
                Some(_) => {}
                None => panic!("the connection ended"),
            }
        }
    }

    /// What a stream ends with: whether it is a reply 200. `None` when the connection ends before.
    fn end(&mut self, stream: u32) -> Option<bool> {
        loop {
            let (id, is_fine) = self.next_end()?;
            if id == stream {
                return Some(is_fine);
            }
        }
    }

    /// The next stream of which the head of a reply, or a reset, comes.
    fn next_end(&mut self) -> Option<(u32, bool)> {
        loop {
            let (kind, id, payload) = self.frame()?;
            match kind {
                // The static table has `:status: 200` at 8.
                1 => return Some((id, payload[0] == 0x88)),
                3 => return Some((id, false)),
                7 => return None,
                _ => {}
            }
        }
    }
}

/// Whatever comes over HTTP/2 is refused, or goes on in one form of HTTP/1.1; and the node sees no request
/// that no client sent.
#[test]
fn http2_is_not_read_in_two_ways() {
    let node = Recorder::start();
    let config = Config::web([]).node("a", &node.stage.address()).pool("http: {via: false}");
    let mut ringway = Ringway::serve(config);
    let innocent = [&GET[..3], &[(":path", "/innocent")]].concat();
    let seen = "GET /innocent HTTP/1.1\r\nhost: h\r\n\r\n".to_owned();
    for (name, more, data, ends) in ROWS {
        let mut frames = Frames::connect(&ringway.address());
        frames.ask(1, &[&GET[..], more].concat(), *data);
        let is_fine = frames.end(1);
        frames.ask(3, &innocent, None);
        let lives = frames.end(3);
        let mut other = Frames::connect(&ringway.address());
        other.ask(1, &innocent, None);
        assert_eq!(other.end(1), Some(true), "{name}: another client");
        let mut wanted = match ends {
            Passes(form) => {
                assert_eq!((is_fine, lives), (Some(true), Some(true)), "{name}");
                vec![(*form).to_owned()]
            }
            Refused => {
                assert_ne!(is_fine, Some(true), "{name}");
                Vec::new()
            }
        };
        wanted.extend(lives.map(|_| seen.clone()));
        wanted.push(seen.clone());
        until(SOON, name, || node.count() >= wanted.len());
        // A body that breaks off has its head there.
        let got: Vec<String> = node.take().into_iter().filter(|r| !r.ends_with("[broke off]")).collect();
        assert_eq!(got, wanted, "{name}");
    }
    assert!(ringway.owns("a"));
}

/// Over HTTP/2 a connection may be idle, and be asked whether it lives, for as long as `idle_timeout`; a head
/// that stops is cut after `header_timeout`, also beside other requests; a body that stops costs its own
/// stream alone.
#[test]
fn slow_http2_clients() {
    let node = quick();
    let mut ringway = limited(&node, "header_timeout: 300ms, idle_timeout: 1500ms");
    let (mut idle, mut slow_head) =
        (Frames::connect(&ringway.address()), Frames::connect(&ringway.address()));
    idle.send(4, 1, 0, &[]);
    slow_head.ask(1, &GET, None);
    assert_eq!(slow_head.end(1), Some(true));
    // A head of 200 bytes of which the first few come.
    slow_head.send_raw(&[0, 0, 200, 1, 5, 0, 0, 0, 3, 0x82, 0x86]);
    assert_eq!(slow_head.end(3), None, "its connection is cut");
    ringway.wait_metric("ringway_refusals_total", &[("reason", "slow_client")], 1.0);
    idle.send(6, 0, 0, &[7; 8]);
    idle.ask(1, &GET, None);
    assert_eq!(idle.end(1), Some(true), "idle for longer than a head may take");

    let mut slow_body = Frames::connect(&ringway.address());
    slow_body.ask_with(1, &[&[(":method", "POST")], &GET[1..], &[("content-length", "5")]].concat(), false);
    slow_body.send(0, 0, 1, b"ab");
    let (mut stream, mut ends) = (3, None);
    until(SOON, "the body is given up", || {
        // The connection is never quiet.
        slow_body.ask(stream, &GET, None);
        stream += 2;
        ends = slow_body.either(1, stream - 2);
        ends.is_some()
    });
    assert_eq!(ends, Some(false), "408");
    slow_body.ask(stream, &GET, None);
    assert_eq!(slow_body.end(stream), Some(true), "the connection lives");
    ringway.wait_metric("ringway_refusals_total", &[("reason", "slow_client")], 2.0);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
}

/// A client that takes nothing of a reply, though its connection is alive, loses that stream after
/// `idle_timeout`, and the node's connection with it: others are served, and so is it.
#[test]
fn replies_that_nobody_takes() {
    let node = quick();
    let limits = "idle_timeout: 700ms, connections_per_node_max: 1";
    let config = Config::web([]).top("workers: 1").node("a", &node.address());
    let mut ringway = Ringway::serve(config.pool(&format!("http: {{limits: {{{limits}}}}}")));
    let mut deaf = Frames::connect(&ringway.address());
    // SETTINGS_INITIAL_WINDOW_SIZE
    deaf.send(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    deaf.ask(1, &GET, None);
    assert_eq!(deaf.end(1), Some(true), "the head needs no window");
    let mut pings = Frames(deaf.0.try_clone().expect("it is open"));
    let began = Instant::now();
    let pinging = thread::spawn(move || {
        while began.elapsed() < Duration::from_secs(3) {
            pings.send(6, 0, 0, &[7; 8]);
            thread::sleep(Duration::from_millis(50));
        }
    });
    let mut other = Browser::connect(&ringway.address());
    assert_eq!(other.get("/").text(), "ok", "it waits for the connection");
    assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(deaf.payload(3, 1), Some(vec![0, 0, 0, 8]), "CANCEL");
    ringway.wait_metric("ringway_refusals_total", &[("reason", "slow_client")], 1.0);
    deaf.send(4, 0, 0, &[0, 4, 0, 0, 255, 255]);
    deaf.ask(3, &GET, None);
    assert_eq!(deaf.payload(0, 3).as_deref(), Some(&b"ok"[..]), "the connection lives");
    pinging.join().expect("it pings");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
}

/// Replies of 8 MiB.
fn large() -> Stage {
    Stage::start(|_, actor| {
        static PIECE: [u8; 1 << 16] = [b'x'; 1 << 16];
        // ringway closes within it.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8388608\r\n\r\n");
        let _ = (0..128).try_for_each(|_| actor.write_all(&PIECE));
    })
}

/// Many replies over one slow connection, each of which gets its turn after longer than `idle_timeout` alone,
/// are not taken for such that nobody reads.
#[test]
fn replies_over_a_slow_connection() {
    const STREAMS: u32 = 40;
    const GRANT: u32 = 16 * 1024;
    let node = large();
    let mut ringway = limited(&node, "idle_timeout: 700ms");
    let mut slow = Frames::connect(&ringway.address());
    // SETTINGS_INITIAL_WINDOW_SIZE of 16 MiB: it is the connection that is slow.
    slow.send(4, 0, 0, &[0, 4, 1, 0, 0, 0]);
    (0..STREAMS).for_each(|i| slow.ask(2 * i + 1, &GET, None));
    let (began, mut granted, mut taken) = (Instant::now(), 65_535, 0);
    while began.elapsed() < Duration::from_secs(4) {
        while taken < granted {
            let (kind, stream, payload) = slow.frame().expect("it goes on");
            assert!(kind != 3, "stream {stream} is reset after {:?}", began.elapsed());
            taken += if kind == 0 { payload.len() as u32 } else { 0 };
        }
        thread::sleep(Duration::from_millis(25));
        slow.send(8, 0, 0, &GRANT.to_be_bytes());
        granted += GRANT;
    }
    assert_eq!(ringway.metric("ringway_refusals_total", &[]), 0.0);
}

/// What is held for clients that take nothing of large replies is bounded for each of them.
#[test]
fn replies_that_wait_are_small() {
    const STREAMS: u32 = 60;
    let node = large();
    let mut ringway = limited(&node, "idle_timeout: 60s");
    let before = peak_memory(ringway.pid());
    let mut deaf: Vec<Frames> = (0..4).map(|_| Frames::connect(&ringway.address())).collect();
    for frames in &mut deaf {
        // SETTINGS_INITIAL_WINDOW_SIZE, and as much for the connection.
        frames.send(4, 0, 0, &[0, 4, 0x3f, 0, 0, 0]);
        frames.send(8, 0, 0, &[0x3f, 0, 0, 0]);
        (0..STREAMS).for_each(|i| frames.ask(2 * i + 1, &GET, None));
    }
    until(SOON, "all are asked for", || node.seen() == 4 * STREAMS as usize);
    let (mut received, mut quiet) = (-1.0, 0);
    until(SOON, "nothing moves", || {
        let now = ringway.metric("ringway_node_received_bytes_total", &[]);
        quiet = if now == received { quiet + 1 } else { 0 };
        received = now;
        quiet == 10
    });
    let each = (peak_memory(ringway.pid()) - before) / u64::from(4 * STREAMS);
    assert!(each < 450 << 10, "{each} bytes for each of them");
}

/// Over HTTP/2 a body that is larger than `body_bytes` is refused, said in advance or not; after
/// `requests_per_connection` the client is told to go, and one that goes on asking is cut: no more requests
/// are served than may have been under way.
#[test]
fn limits_of_http2() {
    let node = quick();
    let mut ringway = limited(&node, "body_bytes: 1000, requests_per_connection: 2");
    let post = [&[(":method", "POST")], &GET[1..]].concat();
    let mut frames = Frames::connect(&ringway.address());
    frames.ask_with(1, &[&post[..], &[("content-length", "1001")]].concat(), false);
    let mut unsaid = Frames::connect(&ringway.address());
    unsaid.ask_with(1, &post, false);
    unsaid.send(0, 0, 1, &[b'x'; 600]);
    unsaid.send(0, 1, 1, &[b'x'; 600]);
    for frames in [&mut frames, &mut unsaid] {
        let text = String::from_utf8_lossy(&frames.payload(0, 1).expect("a text")).into_owned();
        assert!(text.contains("larger than http.limits.body_bytes") || text.contains("is 1000"), "{text}");
    }
    let before = node.seen();
    let mut frames = Frames::connect(&ringway.address());
    let mut served = 0;
    for stream in (1..).step_by(2) {
        frames.ask(stream, &GET, None);
        if frames.payload(1, stream).is_none() {
            break;
        }
        served += 1;
        assert!(served <= 252, "it is cut");
    }
    assert!(served >= 2, "{served}");
    assert!(node.seen() - before <= 253, "{}", node.seen());
    let mut heeds = Frames::connect(&ringway.address());
    heeds.ask(1, &GET, None);
    heeds.ask(3, &GET, None);
    assert!(heeds.payload(7, 0).is_some(), "GOAWAY");
    ringway.wait_metric("ringway_node_failures_total", &[], 0.0);
}

/// Pings are no requests: a connection that sends nothing else is closed after `idle_timeout`; one with a
/// request under way is not.
#[test]
fn pings_do_not_keep_a_connection() {
    let gate = Gate::default();
    let held = gate.clone();
    let node = Stage::start(move |_, actor| {
        held.pass();
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut ringway = limited(&node, "idle_timeout: 600ms");
    let mut busy = Frames::connect(&ringway.address());
    busy.ask(1, &GET, None);
    until(SOON, "it is under way", || node.seen() == 1);
    let mut idle = Frames::connect(&ringway.address());
    let mut pings = Frames(idle.0.try_clone().expect("it is open"));
    let began = Instant::now();
    let pinging = thread::spawn(move || {
        while began.elapsed() < SOON / 2 {
            pings.send(6, 0, 0, &[7; 8]);
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert_eq!(idle.end(1), None, "it is closed");
    assert!(began.elapsed() < SOON / 2, "{:?}, though it pings", began.elapsed());
    gate.open();
    assert_eq!(busy.end(1), Some(true), "what is under way is no idleness");
    drop(idle);
    pinging.join().expect("it pings in vain");
    assert_eq!(ringway.metric("ringway_refusals_total", &[("reason", "slow_client")]), 0.0);
}

/// Tunnels to somewhere, and other protocols than WebSocket within HTTP/2, are refused with 501 and why; a
/// node that answers with a success and agrees to nothing is 502, as for the client any success is a tunnel;
/// another reply passes as it is; and the connection goes on.
#[test]
fn protocols_within_http2_are_refused() {
    let node = Stage::start(|head, actor| {
        let status = if head.starts_with(b"GET /no ") { "404 Not Found" } else { "200 OK" };
        // ringway may have closed.
        let _ = write!(actor, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok");
    });
    let connect =
        |protocol, path| [(":method", "CONNECT"), (":protocol", protocol), GET[1], GET[2], (":path", path)];
    let tunnel = [(":method", "CONNECT"), (":authority", "h:1")];
    // Digits of a status that is in no table, compressed; 404 is in the table.
    let (is_501, is_502, is_404) =
        (&[0x48, 0x82, 0x6c, 0x01][..], &[0x48, 0x82, 0x6c, 0x02][..], &[0x8d][..]);
    for (fields, status, words) in [
        (&connect("connect-udp", "/x")[..], is_501, "ringway: no protocol but WebSocket"),
        (&tunnel[..], is_501, "ringway: CONNECT is not served"),
        (&connect("websocket", "/x"), is_502, "answers 200 OK where a WebSocket is asked for"),
        (&connect("websocket", "/no"), is_404, "ok"),
    ] {
        let mut ringway = Ringway::serve(Config::web([]).node("a", &node.address()));
        let mut frames = Frames::connect(&ringway.address());
        frames.ask_with(1, fields, false);
        let head = frames.payload(1, 1).expect("a head");
        assert!(head.windows(status.len()).any(|w| w == status), "{fields:?}: {head:x?}");
        let text = String::from_utf8_lossy(&frames.payload(0, 1).expect("a text")).into_owned();
        assert!(text.contains(words), "{fields:?}: {text}");
        frames.ask(3, &GET, None);
        assert_eq!(frames.end(3), Some(true), "the connection goes on");
    }
}

/// A WebSocket within HTTP/2 is one over HTTP/1.1 for a node that speaks it, and stays one for a node of
/// HTTP/2, carries bytes both ways beside other requests, and ends when either side ends it.
#[test]
fn websockets_within_http2() {
    let (sender, heads) = mpsc::channel();
    let node = Stage::start(move |head, actor| {
        if head.starts_with(b"GET /x ") {
            let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        sender.send(String::from_utf8_lossy(head).to_ascii_lowercase()).expect("the test waits");
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello";
        actor.write_all(agreed).expect("it reads");
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = actor.read(&mut bytes) {
            actor.write_all(&bytes[..n]).expect("it reads");
        }
    });
    let mut between = Ringway::serve(Config::web([]).node("b", &node.address()));
    for (address, protocol) in [(node.address(), "h1"), (between.address(), "h2")] {
        let lines = format!("http: {{limits: {{idle_timeout: 500ms}}, node_protocol: {protocol}}}");
        chat(Ringway::serve(Config::web([]).node("a", &address).pool(&lines)), &heads);
    }
}

fn chat(mut ringway: Ringway, heads: &mpsc::Receiver<String>) {
    let mut frames = Frames::connect(&ringway.address());
    let settings = frames.payload(4, 0).expect("settings");
    assert!(settings.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "it is offered: {settings:?}");
    let chat = [(":method", "CONNECT"), (":protocol", "websocket"), GET[1], GET[2], (":path", "/chat")];
    frames.ask_with(1, &[&chat[..], &[("sec-websocket-version", "13")]].concat(), false);
    let head = frames.payload(1, 1).expect("a head");
    assert_eq!(head[0], 0x88, "200: {head:x?}");
    let asked = heads.recv().expect("the node is asked");
    assert!(asked.starts_with("get /chat http/1.1\r\n"), "{asked}");
    for line in
        ["host: h\r\n", "upgrade: websocket\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n"]
    {
        assert!(asked.contains(line), "{line}: {asked}");
    }
    let key = asked.split("sec-websocket-key: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    assert!(key.is_some_and(|key| key.len() == 24 && key.ends_with("==")), "{asked}");
    assert_eq!(frames.payload(0, 1).as_deref(), Some(&b"hello"[..]));
    let began = Instant::now();
    for round in 0..10u32 {
        let said = vec![round as u8; 1000];
        frames.send(0, 0, 1, &said);
        let mut back = Vec::new();
        while back.len() < said.len() {
            back.extend(frames.payload(0, 1).expect("it is open"));
        }
        assert!(back == said, "round {round}");
    }
    until(SOON, "it is longer silent than idle_timeout", || began.elapsed() > Duration::from_millis(1200));
    frames.ask(3, &GET, None);
    assert_eq!(frames.end(3), Some(true), "a request beside it");
    assert_eq!(ringway.metric("ringway_node_in_flight", &[]), 1.0);
    // The end of the stream is the end of the node's connection, and that the end of the tunnel.
    frames.send(0, 1, 1, b"");
    ringway.wait_metric("ringway_node_in_flight", &[], 0.0);
}

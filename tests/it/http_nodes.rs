//! Nodes that speak HTTP/2: what they say of their connections and streams costs no client anything.

use std::{
    fs,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use crate::harness::{
    Config, Ringway, SOON,
    nginx::Nginx,
    until,
    web::{Browser, Gate, Stage},
};

/// Three nodes that speak HTTP/2, with these lines in their configuration, and which say their name, the
/// method and the Host below `/said`.
fn three(lines: &str) -> Vec<Nginx> {
    let node = |name: &&str| {
        let said = format!("location /said {{ return 200 \"{name} $request_method $host\"; }}");
        Nginx::with(name, "http2", &format!("{lines} {said}"))
    };
    ["a", "b", "c"].iter().map(node).collect()
}

fn web(nodes: &[Nginx]) -> Ringway {
    let config = Config::web(nodes).top("workers: 1").pool("http: {node_protocol: h2}");
    Ringway::serve(config.pool("health: {interval: 100ms, timeout: 1s}"))
}

/// Asks for pages through as many connections at once, and checks each.
fn browse(address: &str, browsers: usize, pages: usize) {
    let ask = |id: usize| {
        let mut browser = Browser::connect(address);
        for i in 0..pages {
            let (method, body) = [("GET", ""), ("POST", "what is sent"), ("PUT", "")][i % 3];
            let page = browser.ask(method, &format!("/said/{id}/{i}"), "", body.as_bytes());
            let page = page.expect("an answer");
            let text = page.text();
            let said = text.split_once(' ').map_or("", |said| said.1);
            assert_eq!((page.status, said), (200, &*format!("{method} web.test")), "{id} {i}: {page:?}");
        }
    };
    thread::scope(|scope| {
        for id in 0..browsers {
            scope.spawn(move || ask(id));
        }
    });
}

/// A node that closes its connections after so many requests, as nginx does after `keepalive_requests`, and
/// one that takes few requests at once have each request answered, whatever its method and with its body, and
/// none by another virtual host; they are not in trouble.
#[test]
fn what_nodes_turn_away_is_asked_again() {
    for lines in ["keepalive_requests 20;", "http2_max_concurrent_streams 4;"] {
        let nodes = three(lines);
        let mut ringway = web(&nodes);
        browse(&ringway.address(), 16, 60);
        assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "{lines}");
        assert_eq!(ringway.metric("ringway_refusals_total", &[]), 0.0, "{lines}");
        assert!(["a", "b", "c"].iter().all(|name| ringway.owns(name)), "{lines}");
    }
}

/// A request over which a node closes the connection, as nginx does with a head that is too large for it,
/// costs its own client a 400, as over HTTP/1.1; those that share the connection are answered, and the node
/// is not in trouble.
#[test]
fn heads_that_nodes_refuse_hurt_nobody_else() {
    let nodes = three("");
    let mut ringway = web(&nodes);
    let address = ringway.address();
    let large = format!("X-Large: {}\r\n", "x".repeat(40_000));
    let bad = |count: usize| {
        for i in 0..count {
            let page = Browser::connect(&address).ask("GET", &format!("/said/{i}"), &large, b"");
            let page = page.expect("an answer");
            assert_eq!(page.status, 400, "{page:?}");
            assert!(page.text().contains("closes its connection over this request"), "{page:?}");
        }
    };
    bad(10);
    thread::scope(|scope| {
        scope.spawn(|| browse(&address, 8, 60));
        scope.spawn(|| bad(10));
    });
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert!(["a", "b", "c"].iter().all(|name| ringway.owns(name)));
}

/// Clients that read nothing of large replies do not keep the replies of others from moving, though all of
/// them come over one connection.
#[test]
fn who_reads_nothing_stops_nobody() {
    let nodes = three("");
    for node in &nodes {
        fs::write(node.files().join("large"), vec![b'x'; 32 << 20]).expect("a file");
        fs::write(node.files().join("page"), vec![b'y'; 200_000]).expect("a file");
    }
    let mut ringway = web(&nodes[..1]);
    let mut deaf: Vec<Browser> = (0..8).map(|_| Browser::connect(&ringway.address())).collect();
    deaf.iter_mut().for_each(|browser| browser.send("GET /files/large HTTP/1.1\r\nHost: h\r\n\r\n"));
    let (mut received, mut quiet) = (-1.0, 0);
    until(SOON, "nothing moves", || {
        let now = ringway.metric("ringway_node_received_bytes_total", &[]);
        quiet = if now == received && now > 1e6 { quiet + 1 } else { 0 };
        received = now;
        quiet == 10
    });
    for _ in 0..5 {
        assert_eq!(Browser::connect(&ringway.address()).get("/files/page").body, vec![b'y'; 200_000]);
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 1.0, "they share it");
}

/// What a browser asks for a WebSocket with, and the answer to its key (RFC 6455, 1.3).
const ASKS: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const PROOF: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A WebSocket passes to a node that speaks HTTP/2 and takes them within it, as ringway does itself: bytes
/// pass both ways, beside other requests, until one side ends it.
#[test]
fn websockets_to_nodes_of_http2() {
    let origin = Stage::start(|head, actor| {
        if !head.starts_with(b"GET /chat ") {
            let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            return;
        }
        let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nhello";
        actor.write_all(agreed).expect("it reads");
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = actor.read(&mut bytes) {
            actor.write_all(&bytes[..n]).expect("it reads");
        }
    });
    let mut node = Ringway::serve(Config::web([]).node("o", &origin.address()));
    let config = Config::web([]).top("workers: 1").node("a", &node.address());
    let mut ringway = Ringway::serve(config.pool("http: {node_protocol: h2}"));
    for round in 0..3u8 {
        let mut browser = Browser::connect(&ringway.address());
        let page = browser.ask("GET", "/chat", ASKS, b"").expect("an answer");
        assert_eq!((page.status, page.field("sec-websocket-accept")), (101, Some(PROOF)), "{page:?}");
        assert_eq!(page.field("upgrade"), Some("websocket"), "{page:?}");
        assert_eq!(browser.exactly(5), b"hello");
        for _ in 0..10 {
            browser.send([round; 1000]);
            assert_eq!(browser.exactly(1000), [round; 1000]);
        }
        assert_eq!(Browser::connect(&ringway.address()).get("/").text(), "ok", "beside it");
        assert_eq!(ringway.metric("ringway_node_in_flight", &[]), 1.0);
        drop(browser);
        ringway.wait_metric("ringway_node_in_flight", &[], 0.0);
        node.wait_metric("ringway_node_in_flight", &[], 0.0);
    }
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 1.0, "they share it");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

/// A node that speaks HTTP/2 and takes no WebSockets is not asked for one: the client is told with 501, and
/// why.
#[test]
fn nodes_of_http2_without_websockets() {
    let nodes = three("");
    let mut ringway = web(&nodes);
    for path in ["/said", "/said/again"] {
        let page = Browser::connect(&ringway.address()).ask("GET", path, ASKS, b"").expect("an answer");
        assert_eq!(page.status, 501, "{page:?}");
        assert!(page.text().contains("it takes no WebSocket within HTTP/2"), "{page:?}");
        let other = "Connection: upgrade\r\nUpgrade: foo\r\n";
        let page = Browser::connect(&ringway.address()).ask("GET", path, other, b"").expect("an answer");
        assert_eq!(page.status, 200, "an offer that is left: {page:?}");
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

/// A node that speaks HTTP/2, takes so many requests at once over a connection, and has `origin` answer those
/// below `/slow`.
fn narrow(streams: usize, origin: &Stage) -> Nginx {
    let passed = format!("location /slow {{ proxy_pass http://{}; proxy_buffering off; }}", origin.address());
    Nginx::with("a", "http2", &format!("http2_max_concurrent_streams {streams}; {passed}"))
}

/// One worker before that node, with these limits of the pool and these of its HTTP.
fn before(node: &Nginx, lines: &[&str], limits: &str) -> Ringway {
    let config = Config::web([node]).top("workers: 1").pool("health: {interval: 100ms, timeout: 1s}");
    let config = config.pool(&format!("http: {{node_protocol: h2, limits: {{{limits}}}}}"));
    Ringway::serve(lines.iter().fold(config, |config, line| config.pool(line)))
}

/// As many browsers, each of which has asked for a page below `/slow`.
fn asking(ringway: &mut Ringway, count: usize) -> Vec<Browser> {
    let mut browsers: Vec<Browser> = (0..count).map(|_| Browser::connect(&ringway.address())).collect();
    browsers.iter_mut().for_each(|browser| browser.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"));
    browsers
}

/// Answers, late or when it may.
fn answer(actor: &mut impl Write) {
    // nginx may have closed.
    let _ = actor.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
}

/// What is more than a node of HTTP/2 takes at once over a connection, and may have no further connection,
/// waits, and this time is not the node's: all are answered though the last waits for longer than a node has,
/// and nothing counts against it.
#[test]
fn what_waits_for_a_stream_is_not_charged_to_the_node() {
    let service = Duration::from_millis(250);
    let origin = Stage::start(move |_, actor| {
        thread::sleep(service);
        answer(actor);
    });
    let node = narrow(1, &origin);
    let mut ringway = before(&node, &["request_timeout: 3s", "deadline: 1m"], "connections_per_node_max: 1");
    let mut browsers = asking(&mut ringway, 16);
    for browser in &mut browsers {
        let page = browser.page(false).expect("an answer");
        assert_eq!(page.status, 200, "{page:?}");
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 1.0);
    assert!(ringway.owns("a"));
}

/// For what is more than a node of HTTP/2 takes at once over a connection there are further ones, no more
/// than there may be; who finds no place for as long as a client waits is told so.
#[test]
fn further_connections_take_what_one_does_not() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Stage::start(move |_, actor| {
        held.pass();
        answer(actor);
    });
    let node = narrow(2, &origin);
    let mut ringway = before(&node, &["request_timeout: 10s"], "connections_per_node_max: 3");
    let mut browsers = asking(&mut ringway, 12);
    until(SOON, "as many as it takes are there", || origin.seen() == 6);
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 3.0);
    gate.open();
    for browser in &mut browsers {
        assert_eq!(browser.page(false).map(|page| page.status), Some(200));
    }
    assert_eq!((origin.seen(), ringway.metric("ringway_node_connects_total", &[])), (12, 3.0));
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);

    let stuck = Stage::start(|_, actor| {
        // nginx may have closed.
        let _ = actor.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nabc");
        let _ = actor.read(&mut [0; 64]);
    });
    let node = narrow(1, &stuck);
    let lines = ["request_timeout: 20s", "deadline: 1s"];
    let mut ringway = before(&node, &lines, "connections_per_node_max: 1");
    let mut first = asking(&mut ringway, 1).remove(0);
    assert_eq!(first.exactly(12), b"HTTP/1.1 200", "its end does not come");
    let full = Browser::connect(&ringway.address()).get("/slow");
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.text().contains("no connection came free in time"), "{full:?}");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

/// A node of HTTP/2 that hangs, so that its kernel takes connections and nobody says a word over them, has
/// timed out, for a WebSocket as for everything else; and as soon as it goes on both are answered.
#[test]
fn nodes_of_http2_that_say_nothing() {
    let node = three("").remove(0);
    let config = Config::web([&node]).top("workers: 1").pool("http: {node_protocol: h2}");
    let config = config.pool("health: {interval: 1m, failures: 1000}").pool("request_timeout: 300ms");
    for (lines, later) in [("", 200), (ASKS, 501)] {
        let mut ringway = Ringway::serve(&config);
        ringway.wait_probed(&["a"]);
        node.stop();
        let address = ringway.address();
        let ask = || Browser::connect(&address).ask("GET", "/said", lines, b"").expect("an answer");
        let page = ask();
        assert_eq!(page.status, 504, "{page:?}");
        assert!(page.text().contains("no SETTINGS within 300 ms"), "{page:?}");
        assert!(ringway.metric("ringway_node_failures_total", &[("kind", "timeout")]) >= 1.0);
        node.cont();
        until(SOON, "it goes on", || ask().status == later);
    }
}

/// A node of HTTP/2 that does what nginx can't be told to do: this with each connection, of which it takes so
/// many.
fn act<F: Future<Output = ()> + Send + 'static>(
    connections: usize,
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    listener.set_nonblocking(true).expect("sockets take options");
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it is one");
            for _ in 0..connections {
                let (stream, _) = listener.accept().await.expect("somebody comes");
                tokio::spawn(serve(stream));
            }
            drop(listener);
            std::future::pending::<()>().await;
        });
    });
    address
}

/// It resets the streams of all requests for `/reset`, and of the first for `/end` it closes the connection
/// as wrong; others it answers.
async fn reset(stream: tokio::net::TcpStream, has_ended: Arc<AtomicBool>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut reply))) = connection.accept().await {
        match request.uri().path() {
            "/end" if !has_ended.swap(true, Relaxed) => {
                connection.abrupt_shutdown(h2::Reason::PROTOCOL_ERROR)
            }
            "/reset" | "/end" => reply.send_reset(h2::Reason::INTERNAL_ERROR),
            // ringway may have closed.
            _ => drop(reply.send_response(Default::default(), true)),
        }
    }
}

/// That a node resets streams counts against it once for a connection over which it answered nothing, however
/// many they are, and not at all when it answers others, or the request has a connection of its own because
/// the node took offence at it.
#[test]
fn resets_count_once() {
    let has_ended = Arc::new(AtomicBool::new(false));
    let address = act(usize::MAX, move |stream| reset(stream, has_ended.clone()));
    let config = Config::web([]).top("workers: 1").node("a", &address);
    let config = config.pool("health: {interval: 1m, failures: 1000}").pool("http: {node_protocol: h2}");
    let failures = |ringway: &mut Ringway| ringway.metric("ringway_node_failures_total", &[]);
    let status = |ringway: &mut Ringway, method: &str, path: &str| {
        Browser::connect(&ringway.address()).ask(method, path, "", b"").expect("an answer").status
    };
    let mut ringway = Ringway::serve(&config);
    for _ in 0..5 {
        assert_eq!(status(&mut ringway, "POST", "/reset"), 502);
        assert_eq!(failures(&mut ringway), 1.0);
    }
    assert_eq!(status(&mut ringway, "GET", "/end"), 502, "it is sent again, alone, and reset");
    assert_eq!(failures(&mut ringway), 1.0);
    assert_eq!(status(&mut ringway, "GET", "/"), 200);
    assert_eq!(status(&mut ringway, "POST", "/reset"), 502);
    assert_eq!(failures(&mut ringway), 1.0, "it answers others");
}

/// It takes one request at once over a connection, and has time for it; a WebSocket it holds.
async fn take_one(stream: tokio::net::TcpStream) {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1).enable_connect_protocol();
    let Ok(mut connection) = builder.handshake::<_, bytes::Bytes>(stream).await else { return };
    while let Some(Ok((request, mut reply))) = connection.accept().await {
        tokio::spawn(async move {
            let is_tunnel = request.method() == "CONNECT";
            if !is_tunnel {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let sent = reply.send_response(Default::default(), !is_tunnel);
            let mut body = request.into_body();
            while body.data().await.is_some() {}
            drop(sent);
        });
    }
}

/// A node of HTTP/2 that takes no further connection serves those who wait over the one that it has: they are
/// not refused for it, and it is not stormed. A WebSocket within HTTP/2 keeps its place, so that what comes
/// beside it gets another connection.
#[test]
fn places_are_kept_and_waited_for() {
    let config = |address: &str| {
        let config = Config::web([]).top("workers: 1").node("a", address).pool("http: {node_protocol: h2}");
        config.pool("health: {interval: 1m, failures: 1000}")
    };
    // One for the probe.
    let mut ringway = Ringway::serve(config(&act(2, take_one)));
    ringway.wait_probed(&["a"]);
    let mut browsers = asking(&mut ringway, 8);
    for browser in &mut browsers {
        assert_eq!(browser.page(false).map(|page| page.status), Some(200));
    }
    let refused = ringway.metric("ringway_node_failures_total", &[]);
    assert!((1.0..=3.0).contains(&refused), "{refused}");

    let mut ringway = Ringway::serve(config(&act(usize::MAX, take_one)));
    let mut socket = Browser::connect(&ringway.address());
    assert_eq!(socket.ask("GET", "/chat", ASKS, b"").map(|page| page.status), Some(101));
    assert_eq!(Browser::connect(&ringway.address()).get("/").status, 200);
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 2.0);
    drop(socket);
    ringway.wait_metric("ringway_node_in_flight", &[], 0.0);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

/// The first request it hands back when so many bytes of its body are there as the path says, the next it
/// answers with its body.
async fn hand_back(stream: tokio::net::TcpStream, is_second: Arc<AtomicBool>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut reply))) = connection.accept().await {
        let (after, is_second) = (request.uri().path()[1..].parse::<usize>(), is_second.clone());
        tokio::spawn(async move {
            let (mut body, mut seen) = (request.into_body(), Vec::new());
            while let Some(Ok(data)) = body.data().await {
                seen.extend_from_slice(&data);
                body.flow_control().release_capacity(data.len()).expect("it was taken");
                if after.as_ref().is_ok_and(|after| seen.len() >= *after) && !is_second.swap(true, Relaxed) {
                    return reply.send_reset(h2::Reason::REFUSED_STREAM);
                }
            }
            // ringway may have closed.
            let sent = reply.send_response(Default::default(), false);
            let _ = sent.and_then(|mut reply| reply.send_data(bytes::Bytes::from(seen), true));
        });
    }
}

/// What a node of HTTP/2 hands back unseen is sent again with all of its body, of a length that is said or
/// not; when more of it was taken than is kept the client is told.
#[test]
fn bodies_that_are_handed_back() {
    let is_second = Arc::new(AtomicBool::new(false));
    let again = is_second.clone();
    let address = act(usize::MAX, move |stream| hand_back(stream, again.clone()));
    let config = Config::web([]).top("workers: 1").node("a", &address).pool("http: {node_protocol: h2}");
    let mut ringway = Ringway::serve(config.pool("health: {interval: 1m, failures: 1000}"));
    for (after, size, is_chunked, status) in [
        (1, 1, false, 200),
        (1, 30_000, false, 200),
        (20_000, 60_000, false, 200),
        (20_000, 60_000, true, 200),
        (1, 10, true, 200),
        (100_000, 200_000, false, 502),
    ] {
        is_second.store(false, Relaxed);
        let body: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
        let mut browser = Browser::connect(&ringway.address());
        let page = if is_chunked {
            let head = format!(
                "POST /{after} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{size:x}\r\n"
            );
            browser.send([head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat());
            browser.page(false)
        } else {
            browser.ask("POST", &format!("/{after}"), "", &body)
        };
        let page = page.expect("an answer");
        assert_eq!(page.status, status, "{after} of {size}");
        assert!(status != 200 || page.body == body, "{after} of {size}: {} bytes", page.body.len());
        assert!(is_second.load(Relaxed), "it was handed back");
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
}

//! HTTP pools whose nodes fail: what clients are told of it, by cause, and at which pace a node that is back
//! is connected to.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use crate::harness::{
    Config, Ringway, SOON,
    ringway::run,
    until,
    web::{Actor, Browser, Gate, Stage},
};

/// An address that answers nobody: its queue is full of those who were there before.
struct Silent {
    address: SocketAddr,
    _listener: socket2::Socket,
    _before: TcpStream,
}

impl Silent {
    fn start() -> Silent {
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
        listener.listen(0).expect("it is bound");
        let address = listener.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
        let before = TcpStream::connect(address).expect("there is room for one");
        Silent { address, _listener: listener, _before: before }
    }
}

/// What the only node of a pool does.
enum Node {
    /// It does not listen.
    Nobody,
    /// It takes no connection.
    Silent,
    /// It does this with each request.
    Acts(fn(&mut Actor)),
}

/// A cause, the node, lines of the pool, requests that are under way before, the method; and what is said:
/// status, error and words, and the reason that is counted.
type Cause = (
    &'static str,
    Node,
    &'static [&'static str],
    usize,
    &'static str,
    (u16, &'static str, &'static str, &'static str),
);

fn hold(actor: &mut Actor) {
    // Until ringway closes.
    let _ = std::io::Read::read(actor, &mut [0; 64]);
}

/// The beginning of a reply, and nothing more.
fn begin(actor: &mut Actor) {
    // ringway may have closed.
    let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc");
    hold(actor);
}

fn close(actor: &mut Actor) {
    actor.close();
}

fn babble(actor: &mut Actor) {
    // ringway may have closed.
    let _ = actor.write_all(b"+PONG\r\n");
}

const CAUSES: [Cause; 11] = [
    ("nobody listens", Node::Nobody, &[], 0, "GET", (502, "connection_refused", "refused", "no_owner")),
    (
        "no connection in time",
        Node::Silent,
        &["connect_timeout: 200ms"],
        0,
        "GET",
        (504, "connection_timeout", "no connection within 200 ms", "no_owner"),
    ),
    (
        "a connection that takes longer than the client waits",
        Node::Silent,
        &["connect_timeout: 10s", "request_timeout: 200ms", "deadline: 300ms"],
        0,
        "GET",
        (504, "connection_timeout", "no connection was made in time", "timeout"),
    ),
    (
        "the same over HTTP/2",
        Node::Silent,
        &["connect_timeout: 10s", "request_timeout: 200ms", "deadline: 300ms", "http: {node_protocol: h2}"],
        0,
        "GET",
        (504, "connection_timeout", "no connection was made in time", "timeout"),
    ),
    (
        "all connections are busy",
        Node::Acts(begin),
        &["deadline: 300ms", "request_timeout: 20s", "http: {limits: {connections_per_node_max: 1}}"],
        1,
        "GET",
        (503, "connection_limit_reached", "no connection came free in time", "overload"),
    ),
    (
        "too many requests",
        Node::Acts(hold),
        &["http: {limits: {requests_max: 1}}"],
        1,
        "GET",
        (503, "connection_limit_reached", "http.limits.requests_max", "overload"),
    ),
    (
        "the connection breaks",
        Node::Acts(close),
        &[],
        0,
        "POST",
        (502, "connection_terminated", "the request may have been applied", "maybe_applied"),
    ),
    (
        "the connection breaks, and nothing can have happened",
        Node::Acts(close),
        &["retries: 0"],
        0,
        "GET",
        (502, "connection_terminated", "node a (", "maybe_applied"),
    ),
    (
        "no HTTP comes",
        Node::Acts(babble),
        &["retries: 0"],
        0,
        "GET",
        (502, "http_protocol_error", "node a (", "maybe_applied"),
    ),
    (
        "no reply in time",
        Node::Acts(hold),
        &["request_timeout: 200ms", "retries: 0"],
        0,
        "GET",
        (504, "http_response_timeout", "no reply in time", "timeout"),
    ),
    (
        "no reply in time, and something may have happened",
        Node::Acts(hold),
        &["request_timeout: 200ms"],
        0,
        "DELETE",
        (504, "http_response_timeout", "the request may have been applied", "timeout"),
    ),
];

/// Each way in which a node can fail has its status, its error in Proxy-Status and its words, and is counted
/// by its reason.
#[test]
fn each_cause_is_told() {
    for (cause, node, lines, before, method, (status, error, words, reason)) in CAUSES {
        let (mut silent, mut stage) = (None, None);
        let address = match node {
            Node::Nobody => TcpListener::bind("127.0.0.1:0")
                .and_then(|l| l.local_addr())
                .expect("a free port")
                .to_string(),
            Node::Silent => silent.insert(Silent::start()).address.to_string(),
            Node::Acts(act) => stage.insert(Stage::start(move |_, actor| act(actor))).address(),
        };
        let config = Config::web([]).top("workers: 1").node("a", &address);
        let config = config.pool("health: {interval: 1m, failures: 1000}");
        let mut ringway = Ringway::serve(lines.iter().fold(config, |config, line| config.pool(line)));
        let mut others: Vec<Browser> = (0..before).map(|_| Browser::connect(&ringway.address())).collect();
        others.iter_mut().for_each(|other| other.send("GET /before HTTP/1.1\r\nHost: h\r\n\r\n"));
        until(SOON, cause, || stage.as_ref().map_or(0, Stage::seen) == before);
        let mut browser = Browser::connect(&ringway.address());
        let page = browser.ask(method, "/page", "", b"").expect(cause);
        let said = page.field("proxy-status").expect(cause);
        assert_eq!(page.status, status, "{cause}: {said}");
        let start = format!("ringway; error={error}; details=\"");
        assert!(said.starts_with(&start) && said.contains(words), "{cause}: {said}");
        assert!(page.text().starts_with("ringway: ") && page.text().contains(words), "{cause}: {page:?}");
        assert!(ringway.metric("ringway_refusals_total", &[("reason", reason)]) >= 1.0, "{cause}: {reason}");
    }
}

/// What is idempotent and not safe is sent again to the owner of its key and to nobody else: at the next node
/// of the ring a DELETE would find nothing, and a PUT would be stored where nobody looks for it.
#[test]
fn a_delete_stays_with_its_owner() {
    let node = Stage::start(|_, actor| actor.close());
    let other = Stage::start(|_, actor| {
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let config = Config::web([]).node("a", &node.address()).node("b", &other.address());
    let mut ringway =
        Ringway::serve(config.pool("health: {interval: 1m, failures: 1000}").pool("retries: 1"));
    let path = owned_by_a(&ringway);
    let mut browser = Browser::connect(&ringway.address());
    for (method, sent) in [("DELETE", 2), ("PUT", 4), ("POST", 5)] {
        let page = browser.ask(method, &path, "", b"").expect("an answer");
        assert_eq!((page.status, node.seen(), other.seen()), (502, sent, 0), "{method}");
        assert!(page.text().contains("may have been applied"), "{method}: {page:?}");
    }
    assert_eq!((browser.get(&path).text().as_str(), node.seen(), other.seen()), ("ok", 6, 1));
}

/// A page whose owner fails, and the node behind that one as well, comes from the third: also when the second
/// fails in another way.
#[test]
fn a_page_passes_two_that_fail() {
    let good = || {
        Stage::start(|_, actor| {
            // ringway may have closed.
            let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        })
    };
    for act in [close, babble] {
        // Whatever the ring's order behind the owner is, some page has the good one last.
        let nodes =
            [Stage::start(|_, actor| actor.close()), Stage::start(move |_, actor| act(actor)), good()];
        let config = nodes
            .iter()
            .zip(["a", "b", "c"])
            .fold(Config::web([]), |config, (node, name)| config.node(name, &node.address()));
        let mut ringway =
            Ringway::serve(config.pool("health: {interval: 1m, failures: 1000}").pool("retries: 2"));
        let mut browser = Browser::connect(&ringway.address());
        let mut passed = 0;
        for page in 0..100 {
            let before = [nodes[0].seen(), nodes[1].seen()];
            let page = browser.get(&format!("/{page}"));
            assert_eq!((page.status, page.text().as_str()), (200, "ok"), "{page:?}");
            let seen = [nodes[0].seen() - before[0], nodes[1].seen() - before[1]];
            assert!(seen[0] <= 1 && seen[1] <= 1, "each is asked once: {seen:?}");
            passed += usize::from(seen == [1, 1]);
            if passed == 5 {
                break;
            }
        }
        assert_eq!(passed, 5, "pages whose first two nodes fail");
        assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    }
}

/// The address of a node that takes a single connection, that of the probes.
fn no_more() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it is probed");
        drop(listener);
        while let Ok(1..) = std::io::Read::read(&mut stream, &mut [0; 4096]) {
            // ringway may have closed.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    address
}

/// With `bounded_load` the node that takes what is too much for the owner may fail: the owner serves that,
/// too, also what may be sent only once when nothing of it was.
#[test]
fn too_much_comes_back_when_nobody_takes_it() {
    let gate = Gate::default();
    let held = gate.clone();
    let owner = Stage::start(move |head, actor| {
        if head.starts_with(b"GET /") && head.windows(4).any(|w| w == b"hold") {
            held.pass();
        }
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let closing = Stage::start(|_, actor| actor.close());
    for (is_closed, on_ejected) in [(false, "rehash"), (true, "rehash"), (true, "fail")] {
        let other = if is_closed { no_more() } else { closing.address() };
        let config = Config::web([]).node("a", &owner.address()).node("b", &other);
        let config = config.pool("health: {interval: 1m, failures: 1000}").pool("ring: {bounded_load: 1.25}");
        let mut ringway = Ringway::serve(config.pool(&format!("on_ejected: {on_ejected}")));
        // The one connection that a node which takes no more has is that of the probes.
        ringway.wait_probed(&["a", "b"]);
        let path = owned_by_a(&ringway);
        let mut busy: Vec<Browser> = (0..2).map(|_| Browser::connect(&ringway.address())).collect();
        let before = owner.seen();
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nX: hold\r\n\r\n");
        busy.iter_mut().for_each(|browser| browser.send(&request));
        until(SOON, "the owner is busy", || owner.seen() == before + 2);
        let mut browser = Browser::connect(&ringway.address());
        assert_eq!(browser.get(&path).text(), "ok", "{other}");
        if is_closed {
            assert_eq!(browser.ask("POST", &path, "", b"x").map(|page| page.status), Some(200), "{other}");
        }
        assert!(
            ringway.metric("ringway_node_retries_total", &[("node", "a")]) >= 1.0,
            "the other was asked first"
        );
    }
    gate.open();
}

/// A path that node a owns.
fn owned_by_a(ringway: &Ringway) -> String {
    let is_its = |path: &String| {
        let located = run(&["locate", "--config", &ringway.config_path(), "--pool", "cache", path]);
        String::from_utf8_lossy(&located.stdout).trim_end().split('\t').nth(2) == Some("a")
    };
    (0..100).map(|i| format!("/{i}")).find(is_its).expect("it has pages")
}

/// A request that waits for the verdict on its node, and whose client goes away meanwhile, waits no more.
#[test]
fn who_goes_away_is_not_waited_for() {
    let node = Stage::start(|_, actor| actor.close());
    let config = Config::web([]).node("a", &node.address()).pool("health: {interval: 1m, failures: 1000}");
    let mut ringway = Ringway::serve(config);
    for round in 1..=20 {
        let mut browser = Browser::connect(&ringway.address());
        let before = node.seen();
        browser.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        until(SOON, "the node has closed", || node.seen() > before);
        drop(browser);
        ringway.wait_metric("ringway_sessions", &[], 0.0);
        let parked = ringway.metric("ringway_parked_requests", &[]);
        assert_eq!(parked, 0.0, "round {round}");
    }
}

/// A node that is back, and for which several hundred clients wait, gets the connections of all workers
/// together at the pace that the documentation names: 128 at once and then one each millisecond, give or take
/// a quarter.
#[test]
fn a_node_that_is_back_is_not_stormed() {
    const CLIENTS: usize = 400;
    let gate = Gate::default();
    let held = gate.clone();
    let node = Stage::start(move |_, actor| {
        held.pass();
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let other = Stage::start(|_, actor| actor.close());
    let config = Config::web([]).top("workers: 4").node("a", &node.address()).node("b", &other.address());
    let mut ringway =
        Ringway::serve(config.pool("on_ejected: fail").pool("health: {interval: 100ms, timeout: 1s}"));
    let request = format!("GET {} HTTP/1.1\r\nHost: h\r\n\r\n", owned_by_a(&ringway));
    let address = ringway.address();
    let mut browsers: Vec<Browser> = (0..CLIENTS).map(|_| Browser::connect(&address)).collect();
    ringway.wait_metric("ringway_sessions", &[], CLIENTS as f64);
    node.is_well(false);
    ringway.wait_away("a");
    node.is_well(true);
    ringway.wait_back("a");
    let began = Instant::now();
    browsers.iter_mut().for_each(|browser| browser.send(&request));
    until(SOON, "all are there", || node.seen() == CLIENTS);
    let took = began.elapsed();
    let least = Duration::from_millis((CLIENTS as u64 - 128) * 3 / 4);
    assert!(took >= least, "{took:?}, and {least:?} at least");
    gate.open();
    assert!(browsers.iter_mut().all(|browser| browser.page(false).is_some_and(|page| page.status == 200)));
}

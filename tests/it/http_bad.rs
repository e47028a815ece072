//! Bad input in HTTP pools: what two servers could read differently is refused, or goes on in one form
//! that leaves nothing to read into it; a client that misbehaves hurts only itself.

mod h2;
mod replies;
mod requests;

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex, PoisonError},
};

use crate::harness::{
    Config, Ringway, SOON, until,
    web::{Actor, Browser, Stage},
};

/// A node that keeps every request as it came, byte for byte.
struct Recorder {
    stage: Stage,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn start() -> Recorder {
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let to = seen.clone();
        let stage = Stage::start(move |head, actor| {
            let mut bytes = head.to_vec();
            read_body(head, actor, &mut bytes);
            to.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
            // The client may be gone.
            let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        });
        Recorder { stage, seen }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What came since the last call.
    fn take(&self) -> Vec<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *seen).iter().map(|r| String::from_utf8_lossy(r).into_owned()).collect()
    }
}

/// The body as the head announces it, as it stands on the wire.
fn read_body(head: &[u8], actor: &mut Actor, bytes: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()));
    let mut byte = [0];
    let start = bytes.len();
    let is_whole = |body: &[u8]| match (field("content-length:"), field("transfer-encoding:")) {
        (Some(length), _) => body.len() >= length.parse::<usize>().expect("a length"),
        (None, Some(_)) => {
            body.ends_with(b"\r\n\r\n")
                && (body.starts_with(b"0\r\n") || body.windows(5).any(|w| w == b"\r\n0\r\n"))
        }
        (None, None) => true,
    };
    while !is_whole(&bytes[start..]) {
        match actor.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => {
                bytes.extend_from_slice(b"[broke off]");
                return;
            }
        }
    }
}

/// What becomes of a request.
enum Becomes {
    /// The node gets exactly this, and the connection goes on.
    Passes(&'static str),
    /// The node gets exactly this, and the connection closes after the reply.
    PassesAndEnds(&'static str),
    /// It is answered with this status, and the connection goes on.
    Refused(u16),
    /// It is answered with this status, and the connection closes; of a body that broke off the node
    /// has had this.
    RefusedAndEnds(u16, Option<&'static str>),
}

/// Each request is refused, or goes on in one form; and whatever it was, the next request, over the same
/// connection or another, is the one that its client sent, and the node sees no request besides.
#[test]
fn nothing_is_read_in_two_ways() {
    let node = Recorder::start();
    let config = Config::web([]).node("a", &node.stage.address()).pool("http: {via: false}");
    let mut ringway = Ringway::serve(config);
    let host = node.stage.address();
    for (i, (name, bytes, becomes)) in requests::REQUESTS.iter().enumerate() {
        let innocent = format!("GET /innocent/{i} HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n");
        let seen = format!("GET /innocent/{i} HTTP/1.1\r\nhost: i\r\n\r\n");
        let mut browser = Browser::connect(&ringway.address());
        // Together: a server that closes may not leave bytes unread, or its answer is lost.
        browser.send([bytes, innocent.as_bytes()].concat());
        let said = String::from_utf8_lossy(&browser.rest()).into_owned();
        let statuses: Vec<u16> =
            said.split("HTTP/1.").skip(1).map(|s| s[2..5].parse().expect("a status")).collect();
        let (mut wanted, answers): (Vec<String>, Vec<u16>) = match *becomes {
            Becomes::Passes(form) => (vec![form.into(), seen.clone()], vec![200, 200]),
            Becomes::PassesAndEnds(form) => (vec![form.into()], vec![200]),
            Becomes::Refused(status) => (vec![seen.clone()], vec![status, 200]),
            Becomes::RefusedAndEnds(status, part) => {
                (part.into_iter().map(str::to_owned).collect(), vec![status])
            }
        };
        assert_eq!(statuses, answers, "{name}: {said}");
        let mut other = Browser::connect(&ringway.address());
        other.send(&innocent);
        assert_eq!(other.page(false).map(|p| p.status), Some(200), "{name}: another client");
        wanted.push(seen);
        let mut wanted: Vec<String> = wanted.iter().map(|w| w.replace("NODE", &host)).collect();
        until(SOON, name, || node.count() >= wanted.len());
        // A body that broke off is seen to have done so whenever the node looks.
        let mut seen = node.take();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted, "{name}");
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
    assert!(ringway.owns("a"));
}

/// What a client gets for a reply.
enum Gets {
    /// Exactly this, the date left aside; the connection goes on.
    Reply(&'static str),
    /// 502 with this error of Proxy-Status and these words; the connection goes on.
    BadGateway(&'static str, &'static str),
    /// Exactly this, and then the connection closes: there is no other way to say it.
    BreaksOff(&'static str),
}

/// Whatever a node answers, its client gets it in one form, or is told by a status, or by the end of the
/// connection; and the next request is answered with what belongs to it.
#[test]
fn no_reply_is_mixed_up() {
    let node = Stage::start(|head, actor| {
        let head = String::from_utf8_lossy(head).into_owned();
        let at = head.split(' ').nth(1).and_then(|path| path.strip_prefix("/row/")?.parse::<usize>().ok());
        let (bytes, closes) = match at {
            Some(at) => (replies::REPLIES[at].1, replies::REPLIES[at].2),
            None => (&b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\ninnocent"[..], false),
        };
        // ringway may have closed.
        let _ = actor.write_all(bytes);
        if closes {
            actor.close();
        }
    });
    let config = Config::web([]).node("a", &node.address()).pool("health: {interval: 1m, failures: 1000}");
    let mut ringway = Ringway::serve(config.pool("retries: 0").pool("request_timeout: 500ms"));
    for (i, (name, _, _, gets)) in replies::REPLIES.iter().enumerate() {
        let mut browser = Browser::connect(&ringway.address());
        let method = if name.starts_with("HEAD") { "HEAD" } else { "GET" };
        let row = format!("{method} /row/{i} HTTP/1.1\r\nHost: h\r\n\r\n");
        browser.send(row + "GET /innocent HTTP/1.1\r\nHost: i\r\nConnection: close\r\n\r\n");
        let said = without_dates(&browser.rest());
        let innocent = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\ninnocent";
        match *gets {
            Gets::Reply(reply) => assert_eq!(said, format!("{reply}{innocent}"), "{name}"),
            Gets::BreaksOff(part) => assert_eq!(said, part, "{name}"),
            Gets::BadGateway(error, words) => {
                let head = "HTTP/1.1 502 Bad Gateway\r\n";
                assert!(said.starts_with(head) && said.ends_with(innocent), "{name}: {said}");
                let status =
                    format!("ringway; error={error}; details=\"node a ({}): {words}\"", node.address());
                assert!(said.contains(&status), "{name}: {said}");
            }
        }
        let mut other = Browser::connect(&ringway.address());
        assert_eq!(other.get("/innocent").text(), "innocent", "{name}: another client");
    }
}

/// A page of replies without the lines that say when.
fn without_dates(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.split_inclusive("\r\n").filter(|l| !l.starts_with("date: ")).collect()
}

/// A node that answers at once, whatever is asked.
fn quick() -> Stage {
    Stage::start(|head, actor| {
        read_body(head, actor, &mut Vec::new());
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    })
}

fn limited(node: &Stage, limits: &str) -> Ringway {
    Ringway::serve(
        Config::web([]).node("a", &node.address()).pool(&format!("http: {{limits: {{{limits}}}}}")),
    )
}

/// What is larger than the pool's bounds is refused with the status of the specification, said in
/// advance or not; and what is just within them passes.
#[test]
fn sizes_are_bounded() {
    let node = quick();
    let mut ringway = limited(&node, "header_bytes: 8KiB, headers_max: 20, body_bytes: 1000");
    let address = ringway.address();
    let ask = |request: String| {
        let mut browser = Browser::connect(&address);
        browser.send(request);
        browser.page(false).map(|page| page.status)
    };
    let head = |more: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{more}\r\n");
    assert_eq!(ask(head(&format!("X: {}\r\n", "x".repeat(7_000)))), Some(200));
    assert_eq!(ask(head(&format!("X: {}\r\n", "x".repeat(9_000)))), Some(431));
    assert_eq!(ask(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(9_000))), Some(431));
    assert_eq!(ask(head(&"X: y\r\n".repeat(19))), Some(200));
    assert_eq!(ask(head(&"X: y\r\n".repeat(20))), Some(431));
    let post = |more: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{more}");
    let body = |n: usize| post(&format!("Content-Length: {n}\r\n\r\n{}", "b".repeat(n)));
    assert_eq!((ask(body(1000)), ask(body(1001))), (Some(200), Some(413)));
    let chunked = |n: usize| {
        post(&format!("Transfer-Encoding: chunked\r\n\r\n{n:x}\r\n{}\r\n0\r\n\r\n", "b".repeat(n)))
    };
    assert_eq!((ask(chunked(1000)), ask(chunked(1001))), (Some(200), Some(413)));
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
}

/// A client that is slow with its head, with its body, or takes nothing is cut; one that sends nothing is
/// closed; the time that a node takes is not theirs.
#[test]
fn slow_clients_are_cut() {
    let gate = crate::harness::web::Gate::default();
    let held = gate.clone();
    let node = Stage::start(move |head, actor| {
        read_body(head, actor, &mut Vec::new());
        if head.starts_with(b"GET /slow") {
            held.pass();
        }
        if head.starts_with(b"GET /large") {
            // More than sockets hold; ringway closes within it.
            let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n");
            let _ = actor.write_all(&vec![b'x'; 64 << 20]);
        }
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut ringway = limited(&node, "header_timeout: 300ms, idle_timeout: 600ms");
    let address = ringway.address();
    let mut patient = Browser::connect(&address);
    patient.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n");
    let (mut slow_head, mut idle) = (Browser::connect(&address), Browser::connect(&address));
    let (mut slow_body, mut deaf) = (Browser::connect(&address), Browser::connect(&address));
    deaf.send("GET /large HTTP/1.1\r\nHost: h\r\n\r\n");
    slow_head.send("GET / HTTP/1.1\r\nHo");
    slow_body.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(idle.get("/").text(), "ok");
    assert_eq!(slow_head.rest(), b"");
    assert_eq!(idle.rest(), b"");
    let said = String::from_utf8_lossy(&slow_body.rest()).into_owned();
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("http.limits.idle_timeout"), "{said}");
    ringway.wait_metric("ringway_refusals_total", &[("reason", "slow_client")], 3.0);
    assert!(deaf.rest().len() < 64 << 20, "it is cut within its reply");
    gate.open();
    assert_eq!(
        patient.page(false).map(|p| p.text()),
        Some("ok".to_owned()),
        "the node's time is not the client's"
    );
    ringway.wait_metric("ringway_sessions", &[], 0.0);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
}

/// A node that has begun to answer and waits for more of the request is not to blame for a client that
/// pauses: what times the pause is `idle_timeout`, and who goes on before it is over gets the whole reply.
#[test]
fn a_paused_upload_is_the_clients() {
    let node = Stage::start(|head, actor| {
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        let mut body = Vec::new();
        read_body(head, actor, &mut body);
        let _ = write!(actor, "{:x}\r\n{}\r\n0\r\n\r\n", body.len(), String::from_utf8_lossy(&body));
    });
    let config = Config::web([]).node("a", &node.address()).pool("request_timeout: 200ms");
    let mut ringway = Ringway::serve(config.pool("http: {limits: {idle_timeout: 3s}}"));
    let mut pausing: Vec<Browser> = (0..8).map(|_| Browser::connect(&ringway.address())).collect();
    for browser in &mut pausing {
        browser.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    }
    let since = std::time::Instant::now();
    until(SOON, "several times request_timeout have passed", || since.elapsed().as_millis() > 800);
    let mut back = pausing.pop().expect("there are several");
    back.send("1\r\nc\r\n0\r\n\r\n");
    let page = back.page(false).expect("it has gone on in time");
    assert_eq!(page.text().replace("\r\n", "|"), "hi2|ab|1|c|0||");
    for browser in pausing {
        let said = String::from_utf8_lossy(&browser.rest()).into_owned();
        assert!(said.ends_with("\r\n2\r\nhi\r\n"), "{said}");
    }
    assert!(since.elapsed().as_millis() >= 2_500, "they were cut after {:?}", since.elapsed());
    ringway.wait_metric("ringway_refusals_total", &[("reason", "slow_client")], 7.0);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0, "no client is evidence");
    assert!(ringway.owns("a"));
}

/// Replies that have begun and go quiet for `request_timeout`, as streams of events do, are cut, and say
/// nothing against their node.
#[test]
fn a_quiet_reply_is_no_evidence() {
    let node = Stage::start(|head, actor| {
        let event = if head.starts_with(b"GET /events") { "6\r\n:hello\r\n" } else { "" };
        // ringway may have closed.
        let _ = write!(actor, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{event}");
        let _ = actor.read(&mut [0; 64]);
    });
    let config = Config::web([]).node("a", &node.address()).pool("request_timeout: 200ms");
    let mut ringway = Ringway::serve(config);
    let mut listeners: Vec<Browser> = (0..8).map(|_| Browser::connect(&ringway.address())).collect();
    for (i, listener) in listeners.iter_mut().enumerate() {
        let path = if i % 2 == 0 { "/events" } else { "/nothing" };
        listener.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
    }
    for (i, listener) in listeners.into_iter().enumerate() {
        let said = String::from_utf8_lossy(&listener.rest()).into_owned();
        let end = if i % 2 == 0 { "\r\n\r\n6\r\n:hello\r\n" } else { "\r\n\r\n" };
        assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with(end), "{said}");
    }
    ringway.wait_metric("ringway_node_requests_total", &[("outcome", "timeout")], 8.0);
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert!(ringway.owns("a"));
}

/// A client that waits for "100 Continue" gets it before it has sent anything of its body, once a node takes
/// that, and the node hears nothing of it.
#[test]
fn a_client_that_waits_for_100_gets_it() {
    let node = Recorder::start();
    let config = Config::web([]).node("a", &node.stage.address()).pool("http: {via: false}");
    let mut ringway = Ringway::serve(config);
    let mut browser = Browser::connect(&ringway.address());
    for path in ["/first", "/second"] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n");
        browser.send(head + "Expect: 100-continue\r\n\r\n");
        let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(browser.exactly(go_on.len()), go_on, "{path}");
        browser.send("body");
        assert_eq!(browser.page(false).map(|page| page.text()), Some("ok".to_owned()), "{path}");
        let seen = format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbody");
        assert_eq!(node.take(), [seen]);
    }
}

/// The body of a request is no part of the next one's head: a connection that has sent one may be idle.
#[test]
fn idle_after_a_body() {
    let node = quick();
    let mut ringway = limited(&node, "header_timeout: 200ms, idle_timeout: 20s");
    let mut browser = Browser::connect(&ringway.address());
    let post = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n{}", "x".repeat(90_000));
    browser.send(&post);
    assert_eq!(browser.page(false).map(|page| page.status), Some(200));
    let since = std::time::Instant::now();
    until(SOON, "several times header_timeout have passed", || since.elapsed().as_millis() > 800);
    assert_eq!(browser.get("/").status, 200);
    assert_eq!(ringway.metric("ringway_refusals_total", &[("reason", "slow_client")]), 0.0);
}

/// Over HTTP/2 the fields of a head are bounded as well, and cookies that come one by one are one field for a
/// node.
#[test]
fn fields_of_http2() {
    let node = Stage::start(|head, actor| {
        let cookies: Vec<&[u8]> =
            head.split(|b| *b == b'\n').filter(|l| l.to_ascii_lowercase().starts_with(b"cookie:")).collect();
        let text = String::from_utf8_lossy(&cookies.join(&b'|')).trim().to_owned();
        let _ = write!(actor, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    });
    let mut ringway = limited(&node, "headers_max: 20");
    let url = format!("http://{}/", ringway.address());
    let curl = |fields: &[String]| {
        let fields = fields.iter().flat_map(|field| ["-H", field]);
        let output = std::process::Command::new("curl")
            .args(["-sS", "--http2-prior-knowledge", "-w", " %{http_code}", &url])
            .args(fields)
            .output()
            .expect("tests/run installs curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let some = |count: usize| (0..count).map(|i| format!("x-{i}: 1")).collect::<Vec<_>>();
    assert!(curl(&some(5)).ends_with(" 200"));
    let said = curl(&some(30));
    assert!(said.ends_with(" 431") && said.contains("headers_max is 20"), "{said}");
    let said = curl(&["cookie: a=1".to_owned(), "cookie: b=2".to_owned()]);
    assert_eq!(said.to_lowercase(), "cookie: a=1; b=2 200");
}

/// Requests, clients and requests of one connection are bounded, and who is refused is told so in HTTP.
#[test]
fn counts_are_bounded() {
    let gate = crate::harness::web::Gate::default();
    let held = gate.clone();
    let node = Stage::start(move |_, actor| {
        held.pass();
        // ringway may have closed.
        let _ = actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let config = Config::web([]).node("a", &node.address()).pool("limits: {clients: 4}");
    let mut ringway =
        Ringway::serve(config.pool("http: {limits: {requests_max: 2, requests_per_connection: 2}}"));
    let address = ringway.address();
    let mut busy: Vec<Browser> = (0..2).map(|_| Browser::connect(&address)).collect();
    busy.iter_mut().for_each(|b| b.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n"));
    until(SOON, "both are under way", || node.seen() == 2);
    let mut third = Browser::connect(&address);
    let page = third.get("/");
    assert_eq!((page.status, page.field("proxy-status").is_some()), (503, true), "{page:?}");
    assert!(page.text().contains("requests_max"), "{page:?}");
    let _fourth = Browser::connect(&address);
    ringway.wait_metric("ringway_sessions", &[], 4.0);
    let fifth = String::from_utf8_lossy(&Browser::connect(&address).rest()).into_owned();
    assert!(fifth.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{fifth}");
    assert!(fifth.contains("proxy-status: ringway; error=connection_limit_reached"), "{fifth}");
    gate.open();
    for browser in &mut busy {
        assert_eq!(browser.page(false).map(|p| p.status), Some(200));
        let last = browser.get("/");
        assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    }
    busy.into_iter().for_each(|b| assert_eq!(b.rest(), b""));
}

/// A reply goes out when it is there, though half of the next request is behind the first.
#[test]
fn replies_do_not_wait_for_the_next_request() {
    let node = quick();
    let mut ringway = limited(&node, "");
    let mut browser = Browser::connect(&ringway.address());
    for _ in 0..20 {
        browser.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /half HTTP/1.1\r\nHo");
        assert_eq!(browser.page(false).map(|p| p.status), Some(200));
        browser.send("st: h\r\n\r\n");
        assert_eq!(browser.page(false).map(|p| p.status), Some(200));
    }
}

/// A reply's head that is larger than the pool's bound is refused, and told as that; a reply that comes
/// before the request was wholly sent reaches the client, and the connection is not used again.
#[test]
fn heads_and_early_replies_of_nodes() {
    let node = Stage::start(|head, actor| {
        let is_large = head.starts_with(b"GET /large");
        let more = if is_large { format!("X: {}\r\n", "x".repeat(9_000)) } else { String::new() };
        let status = if head.starts_with(b"POST") { "413 Payload Too Large" } else { "200 OK" };
        // ringway may have closed.
        let _ = actor.write_all(format!("HTTP/1.1 {status}\r\n{more}Content-Length: 2\r\n\r\nok").as_bytes());
        if head.starts_with(b"POST") {
            actor.close();
        }
    });
    let config =
        Config::web([]).node("a", &node.address()).pool("retries: 0").pool("health: {failures: 1000}");
    let mut ringway = Ringway::serve(config.pool("http: {limits: {header_bytes: 8KiB}}"));
    let address = ringway.address();
    let mut browser = Browser::connect(&address);
    let page = browser.get("/large");
    assert_eq!((page.status, page.field("proxy-status").is_some()), (502, true), "{page:?}");
    assert!(page.text().contains("http.limits.header_bytes, 8192"), "{page:?}");
    assert_eq!(browser.get("/small").text(), "ok");
    let mut sender = Browser::connect(&address);
    sender.send("POST /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    let page = sender.page(false).expect("it is answered though its body is not sent");
    assert!(page.status == 413 || page.status == 502, "{page:?}");
    assert_eq!(Browser::connect(&address).get("/small").text(), "ok");
}

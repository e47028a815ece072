//! HTTP pools: what passes, where it goes, and what clients notice of nodes that fail.

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Config, Ringway, SOON,
    nginx::Nginx,
    ringway::run,
    signal, until,
    web::{Browser, Gate, Stage},
};

/// Timeouts short enough for a test, long enough for a busy machine.
const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";

pub(crate) fn web(nodes: &[Nginx]) -> Config {
    Config::web(nodes).pool(BRISK).pool("request_timeout: 1s").pool("deadline: 10s")
}

/// Which node answers for each of these paths.
fn map(address: &str, count: usize) -> HashMap<String, String> {
    let mut browser = Browser::connect(address);
    let owner = |i: usize| {
        let path = format!("/page/{i}?v=1");
        let text = browser.get(&path).text();
        (path, text.split(' ').next().expect("nginx says its name").to_owned())
    };
    (0..count).map(owner).collect()
}

/// curl, with these arguments: what it printed.
pub(crate) fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(args).output();
    let output = output.expect("tests/run installs curl");
    assert!(output.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A reply as curl shows it, without the date.
fn shown(args: &[&str]) -> String {
    let text = String::from_utf8_lossy(&curl(&[&["-i"], args].concat())).into_owned();
    let text = text.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    let mut lines: Vec<&str> =
        text.lines().filter(|l| !l.to_ascii_lowercase().starts_with("date:")).collect();
    let body = lines.iter().position(|l| l.is_empty()).unwrap_or(lines.len());
    // Two of a list of fields may change places on the way.
    lines[1..body].sort_unstable_by_key(|l| l.to_ascii_lowercase());
    lines[1..body].iter().for_each(|l| assert!(l.is_ascii(), "{l}"));
    let head: Vec<String> = lines[1..body].iter().map(|l| l.to_ascii_lowercase()).collect();
    format!("{}\n{}\n{}", lines[0], head.join("\n"), lines[body..].join("\n"))
}

/// Through ringway curl gets what it gets from nginx itself: methods, ranges, conditions, bodies of
/// both kinds, errors.
#[test]
fn curl_gets_what_the_node_says() {
    let node = Nginx::start("a");
    fs::write(node.files().join("text"), "0123456789".repeat(1000)).expect("a file");
    let mut ringway = Ringway::serve(web(std::slice::from_ref(&node)));
    let through = ringway.address();
    for (path, args) in [
        ("/", &[][..]),
        ("/a?b=c%20d&e", &[]),
        ("/", &["-I"]),
        ("/", &["-X", "DELETE"]),
        ("/", &["-X", "OPTIONS"]),
        ("/files/text", &[]),
        ("/files/text", &["-I"]),
        ("/files/text", &["-r", "5-9"]),
        ("/files/text", &["-H", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT"]),
        ("/files/none", &[]),
        ("/broken", &[]),
        ("/", &["-d", "a=b"]),
        ("/", &["-H", "Transfer-Encoding: chunked", "-d", "a=b"]),
        ("/", &["-H", "Expect: 100-continue", "-d", "a=b"]),
        ("/", &["--http1.0"]),
    ] {
        let ask = |address: &str| {
            let url = format!("http://{address}{path}");
            shown(&[args, &["-H", "Host: web.test", &url]].concat())
        };
        let (straight, proxied) = (ask(&node.address()), ask(&through));
        // What concerns a connection is each server's own, the version among it.
        let bare = |text: &str| -> String {
            let lines: Vec<_> = text.lines().filter(|l| !l.starts_with("connection:")).collect();
            lines.join("\n").replacen("HTTP/1.0", "HTTP/1.1", 1)
        };
        assert_eq!(bare(&proxied), bare(&straight), "{path} {args:?}");
    }
}

/// A body of 128 MiB passes in both directions, over HTTP/1.1 and HTTP/2, and ringway holds a fraction
/// of it.
#[test]
fn large_bodies_pass_without_being_held() {
    let node = Nginx::start("a");
    let mut ringway = Ringway::serve(web(std::slice::from_ref(&node)));
    let dir = tempfile::tempdir().expect("a directory");
    let (sent, got) = (dir.path().join("sent"), dir.path().join("got"));
    let bytes: Vec<u8> =
        (0..(128u32 << 20) / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(&sent, &bytes).expect("a file");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let name = version.trim_start_matches('-');
        let url = format!("http://{}/files/{name}", ringway.address());
        let (sent, got) = (sent.to_str().expect("text"), got.to_str().expect("text"));
        curl(&[version, "-T", sent, &url]);
        assert!(fs::read(node.files().join(name)).expect("it was put") == bytes, "{version}: what was put");
        // Slower than the node is, so that something would pile up.
        curl(&[version, "--limit-rate", "100M", "-o", got, &url]);
        assert!(fs::read(got).expect("it was got") == bytes, "{version}: what was got");
    }
    let peak = crate::harness::peak_memory(ringway.pid());
    assert!(peak < 64 << 20, "{peak} bytes");
}

/// Clients of HTTP/2 are served, many requests at once over one connection; nodes can be spoken to
/// in HTTP/2, too.
#[test]
fn http2_on_both_sides() {
    for (listen, line) in [("", "http: {}"), ("http2", "http: {node_protocol: h2}")] {
        let nodes = ["a", "b"].map(|name| Nginx::with(name, listen, ""));
        fs::write(nodes[0].files().join("f"), vec![b'x'; 200_000]).expect("a file");
        fs::write(nodes[1].files().join("f"), vec![b'x'; 200_000]).expect("a file");
        let mut ringway = Ringway::serve(web(&nodes).pool(line));
        let address = ringway.address();
        let base = format!("http://{address}");
        let urls: Vec<String> = (0..50).map(|i| format!("{base}/page/{i}")).collect();
        let mut args = vec!["--http2-prior-knowledge", "--parallel", "--parallel-immediate"];
        args.extend(urls.iter().map(String::as_str));
        let text = String::from_utf8_lossy(&curl(&args)).into_owned();
        let mut pages: Vec<&str> = text.lines().filter_map(|l| l.split_once(' ')).map(|l| l.1).collect();
        pages.sort_unstable();
        let mut wanted: Vec<String> = (0..50).map(|i| format!("GET /page/{i}")).collect();
        wanted.sort_unstable();
        assert_eq!(pages, wanted, "{line}");
        assert!(["a ", "b "].iter().all(|name| text.contains(name)), "both nodes: {text}");
        let large = curl(&["--http2-prior-knowledge", &format!("{base}/files/f")]);
        assert_eq!(large.len(), 200_000);
        assert!(shown(&["-I", &format!("{base}/files/f")]).contains("content-length: 200000"));
        assert_eq!(Browser::connect(&address).ask("POST", "/", "", b"abc").map(|p| p.status), Some(200));
    }
}

/// Each page goes to the node that `locate` names, over any connection and version, and no other.
#[test]
fn pages_have_their_node() {
    let nodes = Nginx::several(3);
    let mut ringway = Ringway::serve(web(&nodes));
    let address = ringway.address();
    let found = map(&address, 60);
    for name in ["a", "b", "c"] {
        assert!(found.values().any(|n| n == name), "{name} has pages");
    }
    for (path, node) in found.iter().take(10) {
        let located = run(&["locate", "--config", &ringway.config_path(), "--pool", "cache", path]);
        let said = String::from_utf8_lossy(&located.stdout).into_owned();
        assert!(said.contains(node.as_str()), "{path} is on {node}: {said}");
        let url = format!("http://{address}{path}");
        let text = String::from_utf8_lossy(&curl(&["--http2-prior-knowledge", &url])).into_owned();
        assert!(text.starts_with(node.as_str()), "{path}: {text}");
    }
    assert_eq!(map(&address, 60), found);
}

/// What nodes learn of a client is what the pool says, and what concerns the client's connection
/// they do not learn.
#[test]
fn nodes_are_told_who_asks() {
    let node = Nginx::start("a");
    for (line, wanted) in [
        ("{}", "web.test|1.1 ringway|9.9.9.9||||-|"),
        ("{via: false, forwarded: x_forwarded_for}", "web.test||9.9.9.9, 127.0.0.1|web.test|http||-|"),
        ("{via: false, keep_host: false}", "IP||9.9.9.9||||-|"),
        (
            "{forwarded: forwarded}",
            "web.test|1.1 ringway|9.9.9.9|||for=127.0.0.1;proto=http;host=\"web.test\"|-|",
        ),
    ] {
        let mut ringway = Ringway::serve(web(std::slice::from_ref(&node)).pool(&format!("http: {line}")));
        let mut browser = Browser::connect(&ringway.address());
        let lines = "X-Forwarded-For: 9.9.9.9\r\nConnection: keep-alive, X-Mine\r\nX-Mine: secret\r\n";
        let page = browser.ask("GET", "/asked", lines, b"").expect("an answer");
        let ip = node.address();
        let wanted = wanted.replace("IP", ip.split(':').next().expect("an address")).replace("|-|", "||");
        assert_eq!(page.text().trim_end(), wanted, "{line}");
    }
}

/// Clients that ask for pages without a pause, each checking what it gets.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Visitors {
    fn start(address: &str, count: usize) -> Visitors {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..count)
            .map(|n| {
                let (address, stop, served) = (address.to_owned(), stop.clone(), served.clone());
                thread::spawn(move || visit(&address, n, &stop, &served))
            })
            .collect();
        Visitors { stop, served, threads }
    }

    /// Waits for so many more answers.
    fn run(&self, count: u64) {
        let from = self.served.load(Relaxed);
        until(SOON, "pages are served", || self.served.load(Relaxed) >= from + count);
    }

    /// What went wrong.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().flat_map(|t| t.join().expect("visitors do not panic")).collect()
    }
}

fn visit(address: &str, n: usize, stop: &AtomicBool, served: &AtomicU64) -> Vec<String> {
    let mut browser = Browser::connect(address);
    let mut wrong = Vec::new();
    for i in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let path = format!("/page/{}?v=1", (i * 7 + n) % 500);
        match browser.ask("GET", &path, "", b"") {
            Some(page) if page.status == 200 && page.text().ends_with(&format!(" GET {path}\n")) => {}
            Some(page) => wrong.push(format!("{path}: {page:?}")),
            None => {
                wrong.push(format!("{path}: the connection ended"));
                browser = Browser::connect(address);
            }
        }
        served.fetch_add(1, Relaxed);
    }
    wrong
}

/// `kill -9` of one of three under load: no GET fails, only its own pages move, and its return
/// restores the exact map.
#[test]
fn a_killed_node_leaves_and_returns_under_load() {
    let mut nodes = Nginx::several(3);
    let mut ringway = Ringway::serve(web(&nodes));
    let address = ringway.address();
    let before = map(&address, 200);
    let visitors = Visitors::start(&address, 8);
    visitors.run(2000);
    let epoch = ringway.epoch();
    nodes[1].kill();
    ringway.wait_away("b");
    assert_eq!(ringway.epoch(), epoch + 1);
    visitors.run(2000);
    let meanwhile = map(&address, 200);
    for (path, node) in &before {
        let now = &meanwhile[path];
        assert!(if node == "b" { now != "b" } else { now == node }, "{path}: {node}, then {now}");
    }
    nodes[1].restart_empty();
    ringway.wait_back("b");
    visitors.run(2000);
    assert_eq!(visitors.stop(), Vec::<String>::new());
    assert_eq!(map(&address, 200), before);
    assert_eq!(ringway.epoch(), epoch + 2);
    assert!(ringway.metric("ringway_node_substituted_requests_total", &[("node", "b")]) > 50.0);
}

/// A node that hangs: who waits for it is served by the next candidate or the new owner, each page
/// is the one that was asked for, and the node comes back.
#[test]
fn a_hung_node_costs_time_and_no_page() {
    let nodes = Nginx::several(3);
    let config = Config::web(&nodes).pool(BRISK).pool("request_timeout: 300ms").pool("deadline: 10s");
    let mut ringway = Ringway::serve(config);
    let address = ringway.address();
    let before = map(&address, 100);
    let visitors = Visitors::start(&address, 8);
    visitors.run(1000);
    nodes[2].stop();
    ringway.wait_away("c");
    visitors.run(1000);
    nodes[2].cont();
    ringway.wait_back("c");
    visitors.run(1000);
    assert_eq!(visitors.stop(), Vec::<String>::new());
    assert_eq!(map(&address, 100), before);
}

/// Under `on_ejected: fail` pages of a node that is away are refused at once, by name, and all others
/// are served.
#[test]
fn pages_that_do_not_move() {
    let mut nodes = Nginx::several(3);
    let mut ringway = Ringway::serve(web(&nodes).pool("on_ejected: fail"));
    let address = ringway.address();
    let before = map(&address, 60);
    nodes[0].kill();
    ringway.wait_away("a");
    let mut browser = Browser::connect(&address);
    for (path, node) in &before {
        let page = browser.get(path);
        if node == "a" {
            assert_eq!(page.status, 503, "{path}");
            let said = page.field("proxy-status").expect("it says why");
            assert!(said.starts_with("ringway; error=destination_unavailable; details=\"node a ("), "{said}");
            assert!(page.text().contains("ejected, and these keys do not move"), "{page:?}");
        } else {
            assert_eq!((page.status, page.text().starts_with(node.as_str())), (200, true), "{path}");
        }
    }
    let refused = ringway.metric("ringway_refusals_total", &[("reason", "no_owner")]);
    assert_eq!(refused, before.values().filter(|n| *n == "a").count() as f64);
    assert_eq!(ringway.metric("ringway_node_unserved_requests_total", &[("node", "a")]), refused);
}

/// What may not be sent twice is sent once: a POST whose connection breaks is answered with 502, a
/// GET goes to the next candidate.
#[test]
fn a_post_is_sent_once() {
    let closing = Stage::start(|_, actor| actor.close());
    let good = Nginx::start("b");
    let config = Config::web([]).node("a", &closing.address()).node("b", &good.address());
    // Probes find it well, so that traffic alone sees what it does.
    let mut ringway = Ringway::serve(config.pool("deadline: 10s"));
    let address = ringway.address();
    let is_its = |path: &String| {
        let located = run(&["locate", "--config", &ringway.config_path(), "--pool", "cache", path]);
        String::from_utf8_lossy(&located.stdout).trim_end().split('\t').nth(2) == Some("a")
    };
    let path = (0..100).map(|i| format!("/p{i}")).find(is_its).expect("it has keys");
    let mut browser = Browser::connect(&address);
    let page = browser.ask("POST", &path, "", b"once").expect("an answer");
    assert_eq!((page.status, closing.seen()), (502, 1), "{page:?}");
    let said = page.field("proxy-status").expect("it says why").to_owned();
    assert!(said.contains("connection_terminated") && said.contains("may have been applied"), "{said}");
    let page = browser.get(&path);
    assert_eq!((page.status, page.text()), (200, format!("b GET {path}\n")));
    let mut of = |kind| ringway.metric("ringway_node_failures_total", &[("node", "a"), ("kind", kind)]);
    assert!(of("lost") + of("reset") >= 2.0);
}

/// Connections that nodes close while they are idle cost nothing: no GET fails, however close the
/// race, nor does a POST that comes when they are closed; and no failure is counted.
#[test]
fn idle_closes_are_no_failures() {
    let node = Nginx::with("a", "", "keepalive_timeout 1ms;");
    let mut ringway = Ringway::serve(web(std::slice::from_ref(&node)));
    let mut browser = Browser::connect(&ringway.address());
    for i in 0..300 {
        assert_eq!(browser.get(&format!("/{i}")).status, 200);
        if i % 3 == 0 {
            thread::yield_now();
        }
    }
    for i in 0..20 {
        ringway.wait_metric("ringway_node_connections", &[], 0.0);
        assert_eq!(browser.ask("POST", &format!("/{i}"), "", b"x").map(|p| p.status), Some(200));
    }
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(ringway.metric("ringway_requests_total", &[("outcome", "ok")]), 320.0);
}

/// A connection that client and node agree to use otherwise carries bytes of any kind, both ways,
/// until one side closes it.
#[test]
fn upgraded_connections_carry_anything() {
    let node = Stage::start(|head, stream| {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        let reply = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-A: 1\r\n\r\nhello";
        stream.write_all(reply.as_bytes()).expect("it reads");
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut bytes) {
            stream.write_all(&bytes[..n]).expect("it reads");
        }
    });
    let mut ringway = Ringway::serve(Config::web([]).node("a", &node.address()));
    let mut browser = Browser::connect(&ringway.address());
    let page = browser.ask("GET", "/chat", "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", b"");
    let page = page.expect("an answer");
    assert_eq!((page.status, page.field("upgrade"), page.field("x-a")), (101, Some("websocket"), Some("1")));
    assert_eq!(browser.exactly(5), b"hello");
    let noise: Vec<u8> = (0..200_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
    for piece in noise.chunks(1000) {
        browser.send(piece);
        assert_eq!(browser.exactly(piece.len()), piece);
    }
    assert_eq!(ringway.metric("ringway_node_in_flight", &[]), 1.0);
    drop(browser);
    ringway.wait_metric("ringway_node_in_flight", &[], 0.0);
    ringway.wait_metric("ringway_sessions", &[], 0.0);
}

/// One hot page is shared by its nodes: with `bounded_load` none has more than its cap in flight.
#[test]
fn a_hot_page_is_shared() {
    let gate = Gate::default();
    let nodes: Vec<Stage> = (0..4)
        .map(|_| {
            let gate = gate.clone();
            Stage::start(move |_, stream| {
                gate.pass();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("it reads");
            })
        })
        .collect();
    let names = ["a", "b", "c", "d"];
    let config =
        nodes.iter().zip(names).fold(Config::web([]), |c, (node, name)| c.node(name, &node.address()));
    let mut ringway = Ringway::serve(config.pool("ring: {bounded_load: 1.25}"));
    let address = ringway.address();
    let mut browsers: Vec<Browser> = (0..40).map(|_| Browser::connect(&address)).collect();
    for (i, browser) in browsers.iter_mut().enumerate() {
        browser.send("GET /hot HTTP/1.1\r\nHost: h\r\n\r\n");
        until(SOON, "it is under way", || nodes.iter().map(Stage::seen).sum::<usize>() == i + 1);
        let cap = ((i + 1) as f64 * 1.25 / 4.0).ceil() as usize;
        assert!(
            nodes.iter().all(|n| n.seen() <= cap),
            "{:?}",
            nodes.iter().map(Stage::seen).collect::<Vec<_>>()
        );
    }
    assert!(nodes.iter().all(|n| n.seen() >= 1));
    gate.open();
    assert!(browsers.iter_mut().all(|b| b.page(false).is_some_and(|page| page.status == 200)));
}

/// SIGTERM: what is in flight is answered and says that the connection closes, idle connections are
/// closed, nobody new is served, and the process ends in time.
#[test]
fn a_drain_answers_what_is_in_flight() {
    let gate = Gate::default();
    let held = gate.clone();
    let node = Stage::start(move |_, stream| {
        held.pass();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast").expect("it reads");
    });
    let mut ringway = Ringway::serve(Config::web([]).node("a", &node.address()).top("drain_timeout: 10s"));
    let address = ringway.address();
    let (mut busy, idle) = (Browser::connect(&address), Browser::connect(&address));
    busy.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    until(SOON, "it is in flight", || node.seen() == 1);
    signal("TERM", ringway.pid());
    assert_eq!(idle.rest(), b"");
    gate.open();
    let page = busy.page(false).expect("the last answer");
    assert_eq!((page.text().as_str(), page.field("connection")), ("last", Some("close")));
    assert_eq!(busy.rest(), b"");
    let (status, after) = ringway.wait();
    assert!(status.success() && after < Duration::from_secs(8), "{status} after {after:?}");
}

/// Replies with a status that the pool counts as a failure eject their node, and reach their clients.
#[test]
fn failure_statuses_eject() {
    let nodes = Nginx::several(2);
    let config = web(&nodes).pool("http: {failure_statuses: [503]}").pool("retries: 0");
    // Probes find the node well, and must not clear it in between.
    let mut ringway =
        Ringway::serve(config.to_string().replace(BRISK, "health: {interval: 1m, failures: 3}"));
    let mut browser = Browser::connect(&ringway.address());
    let mut seen = 0;
    let start = Instant::now();
    while ringway.metric("ringway_ejections_total", &[("cause", "status")]) == 0.0 {
        let page = browser.get(&format!("/broken/{}", seen % 2));
        assert_eq!(page.status, 503);
        seen += 1;
        assert!(start.elapsed() < SOON, "{seen} failures eject nobody");
    }
}

/// Each request is counted once, by what it was and how it ended, with its bytes and its time.
#[test]
fn requests_are_counted() {
    let nodes = Nginx::several(2);
    let mut ringway = Ringway::serve(web(&nodes));
    let mut browser = Browser::connect(&ringway.address());
    for i in 0..20 {
        browser.get(&format!("/{i}"));
        browser.ask("POST", &format!("/{i}"), "", b"abc").expect("an answer");
    }
    browser.get("/broken");
    browser.ask("CONNECT", "a:1", "", b"").expect("an answer");
    let count = |ringway: &mut Ringway, class: &str, outcome: &str| {
        ringway.metric("ringway_requests_total", &[("class", class), ("outcome", outcome)])
    };
    assert_eq!(count(&mut ringway, "read", "ok"), 20.0);
    assert_eq!(count(&mut ringway, "write", "ok"), 20.0);
    assert_eq!(count(&mut ringway, "read", "error"), 1.0);
    assert_eq!(count(&mut ringway, "local", "refused"), 1.0);
    assert_eq!(ringway.metric("ringway_requests_total", &[]), 42.0);
    assert_eq!(ringway.metric("ringway_node_requests_total", &[]), 41.0);
    assert_eq!(ringway.metric("ringway_node_request_duration_seconds_count", &[]), 41.0);
    assert_eq!(ringway.metric("ringway_node_in_flight", &[]), 0.0);
    assert_eq!(ringway.metric("ringway_sessions", &[]), 1.0);
    assert!(ringway.metric("ringway_client_received_bytes_total", &[]) > 1000.0);
    assert!(ringway.metric("ringway_node_received_bytes_total", &[]) > 1000.0);
}

/// `wrk` finds no error, over many connections, while a node dies and returns.
#[test]
fn wrk_finds_no_error() {
    let mut nodes = Nginx::several(3);
    let mut ringway = Ringway::serve(web(&nodes));
    let url = format!("http://{}/x", ringway.address());
    let wrk = Command::new("wrk")
        .args(["-t1", "-c100", "-d4s", "-s", "/dev/stdin", &url])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut wrk = wrk.expect("tests/run installs wrk");
    let script =
        "local n = 0\nrequest = function() n = n + 1 return wrk.format('GET', '/p/' .. n % 1000) end\n";
    wrk.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("it reads");
    until(SOON, "it is under way", || ringway.metric("ringway_requests_total", &[]) > 1000.0);
    nodes[0].kill();
    ringway.wait_away("a");
    nodes[0].restart_empty();
    ringway.wait_back("a");
    let mut said = String::new();
    wrk.stdout.take().expect("it is piped").read_to_string(&mut said).expect("text");
    wrk.wait().expect("it ends");
    assert!(said.contains("requests in"), "{said}");
    assert!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "{said}");
}

//! What requests of one client say of HTTP nodes: nothing that ejects one which is well. And a node that
//! hangs is found all the same.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Config, Ringway, SOON,
    nginx::Nginx,
    until,
    web::{Actor, Browser, Stage},
};

const NODES: [&str; 3] = ["a", "b", "c"];

/// A page as its path says: with many header fields, a head of many bytes, a coding that nobody knows, bytes
/// that are no HTTP, one that takes long, or a good one.
fn page(head: &[u8], actor: &mut Actor) {
    let path = String::from_utf8_lossy(head).split(' ').nth(1).unwrap_or_default().to_owned();
    let more = match path.split('/').nth(1).unwrap_or_default() {
        "many" => (0..150).map(|i| format!("X-{i}: v\r\n")).collect(),
        "long" => (0..20).map(|i| format!("X-{i}: {}\r\n", "v".repeat(8_000))).collect(),
        "coding" => "Transfer-Encoding: gzip, chunked\r\n".to_owned(),
        "name" => "bad name: v\r\n".to_owned(),
        "slow" => {
            thread::sleep(Duration::from_secs(3));
            String::new()
        }
        _ => String::new(),
    };
    let length = if path.starts_with("/coding") { "" } else { "Content-Length: 2\r\n" };
    let body = if path.starts_with("/coding") { "2\r\nok\r\n0\r\n\r\n" } else { "ok" };
    // ringway may have closed.
    let _ = write!(actor, "HTTP/1.1 200 OK\r\n{more}{length}\r\n{body}");
}

fn three() -> [Stage; 3] {
    std::array::from_fn(|_| Stage::start(page))
}

/// A quiet pool of these, with ringway's own settings of health.
fn quiet(nodes: &[Stage], lines: &[&str]) -> Ringway {
    let web = nodes
        .iter()
        .zip(NODES)
        .fold(Config::web([]), |config, (node, name)| config.node(name, &node.address()));
    let mut ringway = Ringway::serve(lines.iter().fold(web, |config, line| config.pool(line)));
    ringway.wait_probed(&NODES);
    ringway
}

/// A reply that ringway itself does not read is answered with 502 and which bound it is above; it is asked of
/// no second node, and nobody is even suspect.
#[test]
fn what_ringway_does_not_read_is_no_evidence() {
    let nodes = three();
    let mut ringway = quiet(&nodes, &[]);
    let mut browser = Browser::connect(&ringway.address());
    let rows = [
        (
            "/many",
            "http_response_header_section_size",
            "more header fields than http.limits.headers_max, 100",
        ),
        ("/long", "http_response_header_section_size", "larger than http.limits.header_bytes, 65536"),
        ("/coding", "http_response_transfer_coding", "an unknown transfer coding"),
    ];
    for (path, error, words) in rows {
        let before: usize = nodes.iter().map(Stage::seen).sum();
        for i in 0..4 {
            let page = browser.get(&format!("{path}/{i}"));
            let said = page.field("proxy-status").expect("it says why").to_owned();
            assert_eq!(page.status, 502, "{said}");
            assert!(said.contains(&format!("error={error};")) && said.contains(words), "{path}: {said}");
        }
        assert_eq!(nodes.iter().map(Stage::seen).sum::<usize>() - before, 4, "{path}: each is asked once");
    }
    assert_eq!(browser.get("/good").text(), "ok");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[]), 0.0);
    assert_eq!(ringway.pool()["revision"], 1, "nobody was even suspect");
    assert_eq!(ringway.metric("ringway_refusals_total", &[("reason", "protocol")]), 12.0);
}

/// While one client asks for such pages as fast as it can, and for others that are no HTTP, the pages of
/// others are served by the nodes that own them.
#[test]
fn bad_pages_of_one_client_refuse_nobody_else() {
    let nodes = three();
    let mut ringway = quiet(&nodes, &[]);
    let epoch = ringway.epoch();
    let address = ringway.address();
    let until_then = Instant::now() + Duration::from_secs(3);
    let (served, bad) = thread::scope(|scope| {
        let bad: Vec<_> = (0..6)
            .map(|client| {
                let address = &address;
                scope.spawn(move || {
                    let path = if client % 2 == 0 { "/many" } else { "/name" };
                    let mut bad = 0;
                    while Instant::now() < until_then {
                        let page = Browser::connect(address).get(&format!("{path}/{client}"));
                        assert_eq!(page.status, 502, "{page:?}");
                        bad += 1;
                    }
                    bad
                })
            })
            .collect();
        let mut browser = Browser::connect(&address);
        let mut served = 0;
        while Instant::now() < until_then {
            let page = browser.get(&format!("/good/{}", served % 50));
            assert_eq!((page.status, page.text().as_str()), (200, "ok"), "after {served}");
            served += 1;
        }
        (served, bad.into_iter().map(|client| client.join().expect("it is answered")).sum::<usize>())
    });
    assert!(served > 50 && bad > 50, "{served} pages beside {bad}");
    assert_eq!((ringway.metric("ringway_ejections_total", &[]), ringway.epoch()), (0.0, epoch));
    assert!(NODES.iter().all(|name| ringway.owns(name)));
}

/// A page that takes longer than `request_timeout`, asked for by three clients of a quiet pool: each is told
/// so once the node has answered a probe, no other node is asked for it, and all stay.
#[test]
fn a_slow_page_ejects_nobody() {
    let nodes = three();
    let mut ringway = quiet(&nodes, &["request_timeout: 500ms", "deadline: 20s", "health: {timeout: 5s}"]);
    let epoch = ringway.epoch();
    let mut browsers: Vec<Browser> = (0..3).map(|_| Browser::connect(&ringway.address())).collect();
    browsers.iter_mut().for_each(|b| b.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"));
    for browser in &mut browsers {
        let page = browser.page(false).expect("an answer");
        assert_eq!(page.status, 504, "{page:?}");
        assert!(page.text().contains("no reply in time"), "{page:?}");
    }
    assert_eq!(nodes.iter().map(Stage::seen).sum::<usize>(), 3, "each is asked of its owner alone");
    assert_eq!(ringway.metric("ringway_node_failures_total", &[("kind", "timeout")]), 3.0);
    until(SOON, "all are well", || NODES.iter().all(|name| ringway.node(name)["health"] == "healthy"));
    assert_eq!((ringway.metric("ringway_ejections_total", &[]), ringway.epoch()), (0.0, epoch));
}

/// Bytes that are no HTTP have the node probed at once, and the probe decides: it stays when that is answered
/// well, and goes when it is not.
#[test]
fn a_doubt_is_asked_about_at_once() {
    let node = Stage::start(|head, actor| match head.starts_with(b"GET /good") {
        true => drop(actor.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")),
        false => drop(actor.write_all(b"+PONG\r\n")),
    });
    let other = Stage::start(page);
    let config = Config::web([]).node("a", &node.address()).node("b", &other.address());
    let config = config.pool("health: {interval: 2s}").pool("retries: 0");
    let serve = || Ringway::serve(&config);
    let mut ringway = serve();
    ringway.wait_probed(&["a", "b"]);
    let probes = ringway.metric("ringway_node_probes_total", &[("node", "a")]);
    let ask = |address: &str, count: usize| {
        let mut browser = Browser::connect(address);
        (0..count).map(|i| browser.get(&format!("/{i}")).status).filter(|status| *status == 502).count()
    };
    assert!(ask(&ringway.address(), 40) > 3, "a has keys");
    until(SOON, "it is probed", || ringway.metric("ringway_node_probes_total", &[("node", "a")]) > probes);
    ringway.wait_back("a");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    // What a probe denied is asked again after an interval, so that is another ringway.
    let mut ringway = serve();
    ringway.wait_probed(&["a", "b"]);
    node.is_well(false);
    ask(&ringway.address(), 40);
    ringway.wait_away("a");
}

/// A stopped nginx is found within the bound that the documentation names, with ringway's own settings of
/// health: by its probes, under load and in a quiet pool, where nobody waits for `request_timeout`. Who asked
/// it for a page meanwhile gets that from another node, once a probe has failed.
#[test]
fn a_hung_node_is_found_in_time() {
    // `interval` x `fall` and `timeout`.
    let bound = Duration::from_millis(3_500);
    for has_load in [false, true] {
        let nodes = Nginx::several(3);
        let config = Config::web(&nodes).pool("request_timeout: 400ms").pool("deadline: 10s");
        let mut ringway = Ringway::serve(config);
        ringway.wait_probed(&NODES);
        let address = ringway.address();
        let since = Instant::now();
        nodes[2].stop();
        thread::scope(|scope| {
            if has_load {
                scope.spawn(|| {
                    let mut browser = Browser::connect(&address);
                    for i in 0..60 {
                        let page = browser.get(&format!("/{i}"));
                        assert_eq!(page.status, 200, "{page:?}");
                    }
                });
            }
            ringway.wait_away("c");
            let took = since.elapsed();
            assert!(took < 2 * bound, "{took:?}, the machine may be busy");
        });
        nodes[2].cont();
        ringway.wait_back("c");
    }
}

/// A node that hangs costs a page that is only read the time of one probe: it comes from the next node before
/// there is a verdict, and what is not safe to ask of another is refused.
#[test]
fn a_page_passes_a_node_whose_probe_fails() {
    let nodes = Nginx::several(2);
    let config = Config::web(&nodes).pool("request_timeout: 300ms").pool("deadline: 10s");
    let mut ringway =
        Ringway::serve(config.pool("health: {interval: 1m, timeout: 500ms, fall: 1000, failures: 1000}"));
    ringway.wait_probed(&["a", "b"]);
    let mut browser = Browser::connect(&ringway.address());
    let of_b = |browser: &mut Browser| {
        let is_its = |path: &String| browser.get(path).text().starts_with("b ");
        (0..100).map(|i| format!("/{i}")).find(is_its).expect("it has pages")
    };
    let path = of_b(&mut browser);
    nodes[1].stop();
    let since = Instant::now();
    let page = browser.get(&path);
    assert_eq!((page.status, page.text().starts_with("a ")), (200, true), "{page:?}");
    assert!(since.elapsed() >= Duration::from_millis(600), "{:?}", since.elapsed());
    let page = browser.ask("DELETE", &path, "", b"").expect("an answer");
    assert_eq!(page.status, 504, "{page:?}");
    assert!(page.text().contains("may have been applied"), "{page:?}");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    nodes[1].cont();
}

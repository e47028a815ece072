//! Nodes that speak HTTP/2: what they say of their connections and streams costs no client anything.

use std::thread;

use crate::harness::{Config, Ringway, nginx::Nginx, web::Browser};

/// Three nodes that speak HTTP/2, with these lines in their configuration, and which say their name, the method and
/// the Host below `/said`.
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
            let method = ["GET", "POST", "PUT"][i % 3];
            let page = browser.ask(method, &format!("/said/{id}/{i}"), "", b"");
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

/// A node that closes its connections after so many requests, as nginx does after `keepalive_requests`, and one that
/// takes few requests at once have each request answered, whatever its method, and none by another virtual host;
/// they are not in trouble.
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

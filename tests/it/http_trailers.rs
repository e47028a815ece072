//! Trailers through HTTP pools.

use std::{
    fs,
    io::{Read, Write},
    sync::mpsc,
};

use crate::{
    harness::{
        Config, Ringway,
        nginx::Nginx,
        web::{Browser, Stage},
    },
    http::{curl, web},
};

/// Trailers pass in both directions, to who asks for them, and the node's connection serves the next request.
#[test]
fn trailers_pass() {
    let node = Stage::start(|head, stream| {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        assert!(head.contains("te: trailers"), "{head}");
        let mut body = Vec::new();
        let mut bytes = [0; 4096];
        while !body.ends_with(b"\r\n\r\n") {
            let n = stream.read(&mut bytes).expect("a body");
            body.extend_from_slice(&bytes[..n]);
        }
        let body = String::from_utf8_lossy(&body).to_ascii_lowercase();
        assert!(body.contains("0\r\nx-sum: 7\r\n"), "{body}");
        let reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Back\r\n\r\n3\r\nabc\r\n0\r\nX-Back: 9\r\n\r\n";
        stream.write_all(reply.as_bytes()).expect("it reads");
    });
    let mut ringway = Ringway::serve(Config::web([]).top("workers: 1").node("a", &node.address()));
    let mut browser = Browser::connect(&ringway.address());
    for _ in 0..5 {
        browser.send("POST / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
        let page = browser.page(false).expect("an answer");
        assert_eq!((page.status, page.text().as_str()), (200, "abc\nx-back: 9"), "{page:?}");
    }
    assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 1.0);
}

/// Trailers that no `Trailer` field names pass like others, in both directions, those aside that may not
/// stand behind a body; the connections go on. Where the configuration names some, the heads do.
#[test]
fn trailers_that_nobody_announced() {
    let (node, seen) = trailing();
    for named in ["", "X-Sum, X-Back"] {
        let line = format!("http: {{trailers: [{named}]}}");
        let config = Config::web([]).top("workers: 1").node("a", &node.address());
        let mut ringway = Ringway::serve(config.pool(&line));
        let mut browser = Browser::connect(&ringway.address());
        let ask = "POST / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nHost: evil\r\nX-Other: 8\r\n\r\n";
        // One after the other, then together.
        for together in [1, 1, 3] {
            browser.send(ask.repeat(together));
            for _ in 0..together {
                let page = browser.page(false).expect("an answer");
                assert_eq!((page.status, page.text().as_str()), (200, "abc\nx-back: 9"), "{page:?}");
                assert_eq!(page.field("trailer").is_some(), !named.is_empty(), "{page:?}");
                let body = seen.recv().expect("the node has it");
                assert_eq!(body, "2\r\nhi\r\n0\r\nx-sum: 7\r\nx-other: 8\r\n\r\n");
            }
        }
        let url = format!("http://{}/", ringway.address());
        let said = curl(&["-i", "--http2-prior-knowledge", "-H", "TE: trailers", &url]);
        assert!(String::from_utf8_lossy(&said).contains("x-back: 9"), "{}", String::from_utf8_lossy(&said));
        // Who does not ask for trailers gets none, and no word of them.
        let page = browser.get("/");
        assert_eq!((page.text().as_str(), page.field("trailer")), ("abc", None));
        assert_eq!(ringway.metric("ringway_node_connects_total", &[]), 1.0, "one connection serves them all");
    }
}

/// The same of a real nginx, which names no trailer that it adds: also behind bodies larger than what sockets
/// hold, of which several are asked for together.
#[test]
fn trailers_of_nginx() {
    let node = Nginx::with("a", "", "add_trailer X-Sum 42;");
    fs::write(node.files().join("text"), "text").expect("a file");
    let large = "0123456789".repeat(1 << 20);
    fs::write(node.files().join("large"), &large).expect("a file");
    let mut named = Ringway::serve(web(std::slice::from_ref(&node)).pool("http: {trailers: [X-Sum]}"));
    let mut unnamed = Ringway::serve(web(std::slice::from_ref(&node)));
    for address in [node.address(), named.address(), unnamed.address()] {
        let mut browser = Browser::connect(&address);
        let ask = |path| format!("GET {path} HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: te\r\n\r\n");
        browser.send([ask("/files/text"), ask("/files/large"), ask("/files/text")].concat());
        for wanted in ["text", &large, "text"] {
            let text = browser.page(false).expect("an answer").text().to_lowercase();
            assert!(text.strip_suffix("\nx-sum: 42") == Some(wanted), "{address}: {} bytes", text.len());
        }
    }
}

/// A node that answers with a trailer which it does not announce; and the bodies, as it got them.
fn trailing() -> (Stage, mpsc::Receiver<String>) {
    let (sender, seen) = mpsc::channel();
    let node = Stage::start(move |head, stream| {
        let mut body = Vec::new();
        let mut bytes = [0; 4096];
        while head.starts_with(b"POST") && !body.ends_with(b"\r\n\r\n") {
            let n = stream.read(&mut bytes).expect("a body");
            body.extend_from_slice(&bytes[..n]);
        }
        if !body.is_empty() {
            // The test may have failed.
            let _ = sender.send(String::from_utf8_lossy(&body).to_ascii_lowercase());
        }
        let reply = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Back: 9\r\n\r\n";
        stream.write_all(reply.as_bytes()).expect("it reads");
    });
    (node, seen)
}

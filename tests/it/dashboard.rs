//! The dashboard: what browsers are given, and what its script makes of a real ringway's answers.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
};

use crate::harness::{Config, Load, Redis, Ringway, SOON, client::text, load::Plan, until};

/// `GET path` as a browser asks: the head and the body.
fn browse(ringway: &mut Ringway, path: &str) -> (String, String) {
    let address = ringway.announced("dashboard http://", 1).swap_remove(0);
    let address = address.trim_end_matches('/');
    let mut stream = TcpStream::connect(address).expect("the admin port listens");
    stream.set_read_timeout(Some(SOON)).expect("sockets take timeouts");
    let accept = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = text(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.to_lowercase(), body.to_owned())
}

/// A browser gets a page that needs nothing from elsewhere and may load nothing from there; a program gets
/// the list of paths.
#[test]
fn what_browsers_get() {
    let nodes = Redis::several(1);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let (head, page) = browse(&mut ringway, "/");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self'"), "{head}");
    assert!(!page.contains("://") && !page.contains("<script>"), "nothing from elsewhere, nothing in line");
    for (part, kind) in [("/dashboard.css", "text/css"), ("/dashboard.js", "text/javascript")] {
        assert!(page.contains(part));
        let (head, body) = browse(&mut ringway, part);
        assert!(head.contains(kind) && !body.contains("://"), "{head}");
    }
    let (status, index) = ringway.http("/");
    assert!(status == 200 && index.starts_with("ringway's admin port"), "{index}");
}

/// The script shows pools, nodes, what they wait for, rates and incidents of a real ringway; what looks like
/// markup in a name is text.
#[test]
fn what_it_shows() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes[..2])
        .node("'<img-src=x>'", &nodes[2].address())
        .pool("health: {interval: 100ms, timeout: 1s}")
        .pool("hold_down: 1h");
    let mut ringway = Ringway::serve(config);
    let load = Load::start(&ringway.address(), &Plan { clients: 4, ..Plan::default() });
    load.run(300);
    nodes[2].kill();
    until(SOON, "it is held", || ringway.node("<img-src=x>")["placement"] == "held");
    until(SOON, "it is an incident", || ringway.http("/v1/incidents").1.contains("\"held\""));
    load.stop();
    let dir = tempfile::tempdir().expect("a directory");
    let save = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("it can be written");
        path
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (_, script) = browse(&mut ringway, "/dashboard.js");
    let files = [
        save("script.js", &script),
        save("topology.json", &ringway.http("/v1/topology").1),
        save("incidents.json", &ringway.http("/v1/incidents").1),
        save("metrics.txt", &ringway.http("/metrics").1),
    ];
    let output = Command::new("node")
        .arg(root.join("tests/clients/dashboard.js"))
        .args(&files)
        .output()
        .expect("node is there; tests/run installs it");
    let (said, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{err}");
    for part in [
        "<h2>pool cache",
        "on_ejected rehash",
        "<td>a <td.well>healthy <td.well>owns",
        "<td><img-src=x> <td.bad>ejected <td.bad>held",
        "its keys wait for its return, next in 60.0 min",
        "cache/<img-src=x>: refused",
        "where: node <img-src=x>: its process is gone",
        "<span.bad>1 of its nodes need a look",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

//! Ring keys of HTTP pools, each kind through a running ringway: what decides where a request goes, and what
//! does not.

use std::{collections::HashSet, process::Command};

use crate::harness::{Config, Ringway, nginx::Nginx, ringway::run, web::Browser};

/// Keys of each kind, enough for all nodes to have some.
const KEYS: usize = 24;

/// A request: which loopback address it comes from, its target and the lines of its head.
struct Asked {
    from: String,
    target: String,
    lines: String,
}

/// A request from 127.0.0.1.
fn asked(target: String, lines: String) -> Asked {
    Asked { from: "127.0.0.1".to_owned(), target, lines }
}

/// The setting, the key with a number, and the request with that key; what else there is in it differs by its
/// second number.
type Kind = (&'static str, fn(usize) -> String, fn(usize, usize) -> Asked);

const KINDS: [Kind; 7] = [
    ("path", |i| format!("/p/{i}"), |i, n| asked(format!("/p/{i}?q={n}"), "Host: h\r\n".into())),
    (
        "path_and_query",
        |i| format!("/p?{i}"),
        |i, n| asked(format!("/p?{i}"), format!("Host: h{n}\r\nX-Shard: {n}\r\nCookie: id={n}\r\n")),
    ),
    (
        "host_and_path",
        |i| format!("h{i}.test/p"),
        |i, n| asked(format!("/p?q={n}"), format!("Host: H{i}.Test:{}\r\n", 80 + n)),
    ),
    (
        "client_address",
        |i| format!("127.9.8.{}", i + 1),
        |i, n| Asked { from: format!("127.9.8.{}", i + 1), ..asked(format!("/p/{n}"), "Host: h\r\n".into()) },
    ),
    (
        "{header: X-Shard}",
        |i| format!("shard {i}"),
        |i, n| asked(format!("/p/{n}"), format!("Host: h\r\nx-shard: shard {i}\r\nX-Shard: {n}\r\n")),
    ),
    (
        "{cookie: id}",
        |i| format!("c{i}"),
        |i, n| asked(format!("/p/{n}"), format!("Host: h\r\nCookie: ID=9; a={n}; id=c{i}; id={n}\r\n")),
    ),
    (
        "{pattern: \"^/users/([0-9]+)/\"}",
        |i| format!("{i}"),
        |i, n| asked(format!("/users/{i}/page?{n}"), "Host: h\r\n".into()),
    ),
];

/// Whom `locate` names for a key.
fn located(ringway: &Ringway, key: &str) -> String {
    let located = run(&["locate", "--config", &ringway.config_path(), "--pool", "cache", key]);
    let said = String::from_utf8_lossy(&located.stdout).into_owned();
    said.trim_end().split('\t').nth(2).expect("a node").to_owned()
}

/// The node that answers a request.
fn answers(ringway: &mut Ringway, Asked { from, target, lines }: &Asked) -> String {
    let mut browser = Browser::connect_from(from, &ringway.address());
    browser.send(format!("GET {target} HTTP/1.1\r\n{lines}\r\n"));
    let page = browser.page(false).expect("an answer");
    assert_eq!(page.status, 200, "{target}: {page:?}");
    page.text().split(' ').next().expect("nginx says its name").to_owned()
}

/// Requests with one key go to one node, the one that `locate` names for it, whatever else is in them; and
/// the keys are spread over all nodes.
#[test]
fn each_kind_of_key() {
    let nodes = Nginx::several(3);
    for (setting, key, request) in KINDS {
        let mut ringway = Ringway::serve(Config::web(&nodes).pool(&format!("http: {{key: {setting}}}")));
        let mut owners = HashSet::new();
        for i in 0..KEYS {
            let owner = located(&ringway, &key(i));
            for n in 0..3 {
                assert_eq!(answers(&mut ringway, &request(i, n)), owner, "{setting}, key {}, {n}", key(i));
            }
            owners.insert(owner);
        }
        assert_eq!(owners.len(), nodes.len(), "{setting}");
    }
}

/// A request without what the key comes from goes by its path and query, or is refused; over HTTP/2 keys are
/// the same.
#[test]
fn requests_without_the_key_and_over_http2() {
    let nodes = Nginx::several(3);
    let mut ringway = Ringway::serve(Config::web(&nodes).pool("http: {key: {header: X-Shard}}"));
    for i in 0..KEYS {
        let path = format!("/p?{i}");
        let bare = asked(path.clone(), "Host: h\r\nX-Shard:\r\n".into());
        assert_eq!(answers(&mut ringway, &bare), located(&ringway, &path));
        let (shard, url) = (format!("X-Shard: shard {i}"), format!("http://{}/", ringway.address()));
        let curl = Command::new("curl").args(["-sS", "--http2-prior-knowledge", "-H", &shard, &url]).output();
        let said = String::from_utf8_lossy(&curl.expect("tests/run installs curl").stdout).into_owned();
        let owner = located(&ringway, &format!("shard {i}"));
        assert!(said.starts_with(&format!("{owner} ")), "{shard}: {said}");
    }
    let strict = Config::web(&nodes).pool("http: {key: {header: X-Shard}, missing_key: refuse}");
    let mut ringway = Ringway::serve(strict);
    let mut browser = Browser::connect(&ringway.address());
    let page = browser.get("/p");
    assert_eq!(page.status, 400, "{page:?}");
    let said = page.field("proxy-status").expect("it says why");
    assert!(
        said.starts_with("ringway; error=http_request_error; details=\"the request has nothing"),
        "{said}"
    );
    assert_eq!(browser.ask("GET", "/p", "X-Shard: 1\r\n", b"").map(|page| page.status), Some(200));
}

//! `ringway import`: keys are where twemproxy has them.

use crate::harness::{Client, Redis, owners, ringway::run, twemproxy::Twemproxy};

/// A twemproxy puts keys on real servers, and the imported configuration has each at the node where it is:
/// for both distributions, several hashes, weights, hash tags, and servers with and without names.
#[test]
fn keys_stay_where_they_are() {
    for (lines, named) in [
        ("", false),
        ("  distribution: modula\n  hash: crc16\n", true),
        ("  hash: murmur\n  hash_tag: \"{}\"\n", true),
        ("  distribution: ketama\n  hash: md5\n", false),
    ] {
        let nodes = Redis::several(4);
        let server = |(i, node): (usize, &Redis)| {
            let name = if named { format!(" server-{i}") } else { String::new() };
            format!("    - {}:{}{name}\n", node.address(), i % 2 + 1)
        };
        let servers: String = nodes.iter().enumerate().map(server).collect();
        let twemproxy = Twemproxy::with(format!("  redis: true\n{lines}  servers:\n{servers}"));
        let mut client = Client::connect(&twemproxy.address());
        let keys: Vec<String> = (0..300).map(|i| format!("user:{{{}}}:{i}", i % 50)).collect();
        keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "v"]), "+OK\r\n"));
        let map = owners(&nodes);
        let imported = run(&["import", &twemproxy.config_path()]);
        assert!(imported.status.success(), "{imported:?}");
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("ringway.yaml").display().to_string();
        std::fs::write(&path, &imported.stdout).expect("it can be written");
        let checked = run(&["check", "--config", &path]);
        assert!(checked.status.success(), "{checked:?}");
        let words: Vec<&str> = keys.iter().map(String::as_str).collect();
        let located = run(&[&["locate", "--config", &path, "--next", "0"], &words[..]].concat());
        assert!(located.status.success(), "{located:?}");
        let located = String::from_utf8_lossy(&located.stdout).into_owned();
        for line in located.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let at = map[fields[0]];
            let name = if named { format!("server-{at}") } else { nodes[at].address() };
            assert_eq!(fields[2], name, "{lines:?}: {line}");
        }
        assert_eq!(located.lines().count(), keys.len());
    }
}

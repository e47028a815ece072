//! TWEMPROXY'S CONFIGURATION -> OURS. Keys stay where they are: names, hash, distribution and weights are
//! taken over as they decide there. What has no counterpart stands in the output as a comment that says why.

use super::{
    finding::{Errors, Place, Report},
    section::Section,
    tree, units,
};

/// Port for which twemproxy names a server by its host alone.
const NAMELESS_PORT: &str = "11211";

/// The configuration that has each key where this one of twemproxy has it.
///
/// # Errors
/// All that can't be read in twemproxy's.
pub fn from_twemproxy(text: &str, origin: &str) -> Result<String, Errors> {
    let report = Report::new(origin);
    let mut yaml = format!("# From twemproxy's {origin}, by `ringway import`.\npools:\n");
    if let Some(root) = tree::parse(text, &report) {
        let mut pools = 0;
        for (name, field) in Section::root(&root, &report).into_iter().flat_map(Section::named) {
            pools += 1;
            if let Some(section) = field.section() {
                pool(name.value, section, &mut yaml);
            }
        }
        if pools == 0 {
            report.error(&Place::default(), "has no pools");
        }
    }
    report.finish().map(|_| yaml)
}

/// Keys of twemproxy that need no counterpart, and why.
const DROPPED: [(&str, &str); 5] = [
    ("backlog", "ringway asks for as much as the system lets it"),
    ("preconnect", "connections are made when they are needed; probes have their own from the start"),
    ("tcpkeepalive", "connections to nodes always have it"),
    ("reuseport", "one process serves with all cores; see workers"),
    ("server_retry_timeout", "probes try a node out, no client's request does; see health.interval"),
];

/// What is taken over.
const KNOWN: [&str; 13] = [
    "listen",
    "hash",
    "hash_tag",
    "distribution",
    "timeout",
    "client_connections",
    "redis",
    "redis_auth",
    "redis_db",
    "server_connections",
    "auto_eject_hosts",
    "server_failure_limit",
    "servers",
];

/// Lines of a pool.
struct Lines<'a>(&'a mut String);

impl Lines<'_> {
    fn add(&mut self, line: &str) {
        self.0.push_str("    ");
        self.0.push_str(line);
        self.0.push('\n');
    }
}

/// A pool.
fn pool(name: &str, mut of: Section<'_>, yaml: &mut String) {
    yaml.push_str(&format!("  {}:\n", quoted(name)));
    let mut lines = Lines(yaml);
    let is_redis = switched(&mut of, "redis");
    lines.add(if is_redis { "protocol: redis" } else { "protocol: memcached" });
    let address = of.require("listen", "it is where clients come");
    address.and_then(|field| field.text()).iter().for_each(|text| listen(text, &mut lines));
    ring(&mut of, &mut lines);
    timeouts(&mut of, &mut lines);
    ejections(&mut of, &mut lines);
    if let Some(count) = counted(&mut of, "server_connections").filter(|count| *count > 1) {
        lines.add(&format!("connections_per_node: {count}"));
    }
    if let Some(count) = counted(&mut of, "client_connections") {
        lines.add(&format!("limits: {{clients: {count}}}"));
    }
    if let Some(db) = counted(&mut of, "redis_db") {
        lines.add(&format!("db: {db}"));
    }
    if of.take("redis_auth").is_some() {
        let variable = variable(name);
        lines.add(&format!("# redis_auth: ringway reads passwords from files or variables; set {variable}."));
        lines.add(&format!("auth: {{password_env: {variable}}}"));
        lines.add(&format!("client_auth: {{password_env: {variable}}}"));
    }
    for (key, why) in DROPPED {
        if of.written(key).is_some() {
            lines.add(&format!("# {key} is left out: {why}."));
        }
    }
    let servers = of.require("servers", "it is the list of nodes");
    let is_strange = |key: &str| !KNOWN.contains(&key) && DROPPED.iter().all(|dropped| dropped.0 != key);
    for (key, _) in of.named().filter(|(key, _)| is_strange(key.value)) {
        lines.add(&format!("# {} is left out: it is no key of twemproxy 0.5.0.", key.value));
    }
    lines.add("nodes:");
    match servers {
        Some(list) if list.is_list() => {
            let nodes = list.items().into_iter().filter_map(|server| server.parse(node));
            nodes.for_each(|node| lines.add(&format!("  - {node}")));
        }
        Some(other) => other.error("is no list"),
        None => {}
    }
}

/// `host:port`, or the path of a socket and the mode of its file.
fn listen(text: &str, lines: &mut Lines<'_>) {
    if text.starts_with('/') {
        let (path, mode) = text.split_once(' ').unwrap_or((text, ""));
        lines.add(&format!("listen: {}", quoted(&format!("unix:{path}"))));
        return match mode {
            "" => {}
            mode if units::mode(mode).is_ok() => lines.add(&format!("socket_mode: {}", quoted(mode))),
            mode => lines.add(&format!("# The socket's mode {mode} is left out: it is no mode.")),
        };
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    if host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[') {
        lines.add(&format!("# An ip has to stand for {host}: ringway resolves no names to listen on."));
    }
    lines.add(&format!("listen: {}", quoted(text)));
}

/// Where keys are.
fn ring(of: &mut Section<'_>, lines: &mut Lines<'_>) {
    let mut placement = "ketama".to_owned();
    of.read("distribution", &mut placement, |text| match text {
        "ketama" | "modula" | "random" => Ok(text.to_owned()),
        other => Err(format!("`{other}` is not one of ketama, modula, random")),
    });
    let hash = of.take("hash").and_then(|field| field.text()).unwrap_or("fnv1a_64");
    let mut tag = String::new();
    of.read("hash_tag", &mut tag, |text| match text.chars().count() {
        0 | 2 => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not two characters")),
    });
    let tag = quoted(&tag);
    if placement == "random" {
        lines.add("# distribution: random has no counterpart: there no key has a place, here each has one. None has");
        lines.add("# to stay where it is, so that placement and hash are those that ringway has by default.");
        return lines.add(&format!("ring: {{placement: vnode, hash_tag: {tag}}}"));
    }
    lines.add("# Which node has which key: as twemproxy has it.");
    lines.add(&format!("ring: {{placement: {placement}, hash: {hash}, hash_tag: {tag}}}"));
}

fn timeouts(of: &mut Section<'_>, lines: &mut Lines<'_>) {
    match counted(of, "timeout") {
        None => {
            lines.add("# Without a timeout twemproxy waits for ever; here request_timeout (400ms) holds.")
        }
        Some(ms) => {
            lines.add(&format!("request_timeout: {ms}ms"));
            lines.add(&format!("connect_timeout: {ms}ms"));
            if ms > 2000 {
                // Longer than that nobody waits here.
                lines.add(&format!("deadline: {}ms", ms.min(15 * 60 * 1000)));
            }
        }
    }
}

/// What becomes of nodes that fail, and of what they have when they are back.
fn ejections(of: &mut Section<'_>, lines: &mut Lines<'_>) {
    if switched(of, "auto_eject_hosts") {
        lines.add(
            "# auto_eject_hosts: a node that fails gives its keys to the next one, and only its keys move.",
        );
        lines.add("on_ejected: rehash");
        lines.add("# As there, a node that is back serves what it has, old or not. If nobody else writes to the nodes,");
        lines.add("# on_return: quarantine with sole_writer: true deletes exactly what is old first.");
        lines.add("on_return: serve");
    } else {
        lines
            .add("# No auto_eject_hosts: the keys of a node that fails stay there, and are refused at once.");
        lines.add("on_ejected: fail");
    }
    if let Some(limit) = counted(of, "server_failure_limit") {
        lines.add(&format!("health: {{failures: {limit}}}"));
    }
}

/// `host:port:weight name`, `/path:weight name`, as a node.
fn node(text: &str) -> Result<String, String> {
    read_node(text).ok_or_else(|| format!("`{text}` is not host:port:weight [name]"))
}

fn read_node(text: &str) -> Option<String> {
    let (server, name) = match text.trim().split_once(char::is_whitespace) {
        Some((server, name)) => (server, Some(name.trim())),
        None => (text.trim(), None),
    };
    let (place, weight) = server.rsplit_once(':')?;
    let weight: u32 = weight.parse().ok()?;
    let (address, own) = if place.starts_with('/') {
        (format!("unix:{place}"), format!("{place}:"))
    } else {
        let (host, port) = place.rsplit_once(':')?;
        port.parse::<u16>().ok()?;
        let own = if port == NAMELESS_PORT { host.to_owned() } else { place.to_owned() };
        (place.to_owned(), own)
    };
    let name = name.unwrap_or(&own);
    let weight = if weight == 1 { String::new() } else { format!(", weight: {weight}") };
    Some(format!("{{name: {}, address: {}{weight}}}", quoted(name), quoted(&address)))
}

/// The variable that has a pool's password.
fn variable(pool: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{}_PASSWORD", pool.chars().map(letter).collect::<String>())
}

/// A text that YAML reads as this text.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins_well && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

/// A number that says something: none and 0 do not.
fn counted(of: &mut Section<'_>, key: &'static str) -> Option<u64> {
    let whole = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a whole number"));
    of.take(key)?.parse(whole).filter(|count| *count > 0)
}

fn switched(of: &mut Section<'_>, key: &'static str) -> bool {
    let mut is_on = false;
    of.read(key, &mut is_on, |text| match text {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    });
    is_on
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load_str;

    const EVERY_KEY: &str = "
alpha:
  listen: 127.0.0.1:22121
  hash: murmur
  hash_tag: \"{}\"
  distribution: ketama
  timeout: 3000
  backlog: 1024
  client_connections: 500
  redis: true
  redis_db: 3
  preconnect: true
  tcpkeepalive: true
  reuseport: true
  auto_eject_hosts: true
  server_connections: 2
  server_retry_timeout: 2000
  server_failure_limit: 4
  shards: 7
  servers:
   - 127.0.0.1:6379:1 first
   - 127.0.0.1:6380:3
   - /run/redis.sock:1
beta:
  listen: /run/nutcracker.sock 0666
  servers:
   - 127.0.0.1:11211:1
   - 127.0.0.1:11212:1
";

    /// Every key of twemproxy is taken over or its absence explained, and what comes out is a configuration
    /// that has no mistake.
    #[test]
    fn every_key() {
        let yaml = from_twemproxy(EVERY_KEY, "nutcracker.yml").expect("it is one");
        let loaded = load_str(&yaml, "f", Path::new("")).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        let [alpha, beta] = &loaded.settings.pools[..] else { panic!("{yaml}") };
        let names = |pool: &crate::topology::PoolSpec| -> Vec<String> {
            pool.nodes.iter().map(|n| format!("{} {} {}", n.name, n.address, n.weight)).collect()
        };
        assert_eq!(
            names(alpha),
            [
                "first 127.0.0.1:6379 1",
                "127.0.0.1:6380 127.0.0.1:6380 3",
                "/run/redis.sock: unix:/run/redis.sock 1"
            ]
        );
        assert_eq!(names(beta), ["127.0.0.1 127.0.0.1:11211 1", "127.0.0.1:11212 127.0.0.1:11212 1"]);
        assert_eq!((alpha.ring.hash.word(), beta.ring.hash.word()), ("murmur", "fnv1a_64"));
        assert_eq!((alpha.ring.hash_tag, beta.ring.hash_tag), (Some((b'{', b'}')), None));
        let policy = &alpha.policy;
        assert_eq!((policy.db, policy.connections_per_node, policy.limits.clients), (3, 2, 500));
        assert_eq!((policy.request_timeout.as_millis(), alpha.health.failures), (3000, 4));
        assert_eq!((alpha.policy.socket_mode, beta.policy.socket_mode), (None, Some(0o666)));
        for said in ["# backlog is left out", "# preconnect", "# shards is left out: it is no key"] {
            assert!(yaml.contains(said), "{said} is not in {yaml}");
        }
    }

    /// Where twemproxy gives keys no place they are spread as ringway spreads them, and nothing says
    /// otherwise: its hash may be one that is good for nothing here.
    #[test]
    fn keys_without_a_place() {
        let text = "a:\n  listen: 127.0.0.1:1\n  hash: crc32\n  distribution: random\n  hash_tag: '{}'\n  \
                    servers: ['h:1:1', 'h:2:1', 'h:3:1']\n";
        let yaml = from_twemproxy(text, "f").expect("fine");
        assert!(!yaml.contains("as twemproxy has it"), "{yaml}");
        let loaded = load_str(&yaml, "f", Path::new("")).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
        let ring = &loaded.settings.pools[0].ring;
        assert_eq!((ring.placement.word(), ring.hash.word()), ("vnode", "xxh3_64"));
        assert_eq!(ring.hash_tag, Some((b'{', b'}')));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        assert!(!warnings.iter().any(|w| w.contains("ONE NODE")), "{warnings:?}");
    }

    /// A password is asked for by the name of a variable, and never copied.
    #[test]
    fn passwords() {
        let text =
            "a-b:\n  listen: 127.0.0.1:1\n  redis: true\n  redis_auth: hunter2\n  servers: ['h:1:1']\n";
        let yaml = from_twemproxy(text, "f").expect("fine");
        assert!(
            yaml.contains("client_auth: {password_env: A_B_PASSWORD}") && !yaml.contains("hunter2"),
            "{yaml}"
        );
    }

    /// What can't be read is named with its place, all of it at once.
    #[test]
    fn mistakes() {
        for (text, why) in [
            ("a: [", "f:1:4: is not YAML: "),
            ("{}", "f: has no pools"),
            ("", "f: "),
            ("a: 1", "f:1:4: a: is not a section"),
            ("a: {servers: []}", "f:1:4: a.listen: is missing"),
            (
                "a: {listen: 'h:1', timeout: soon, servers: []}",
                "f:1:29: a.timeout: `soon` is not a whole number",
            ),
            ("a: {listen: 'h:1', redis: perhaps}", "f:1:27: a.redis: `perhaps` is neither true nor false"),
            ("a: {listen: 'h:1', distribution: none}", "f:1:34: a.distribution: `none` is not one of"),
            ("a: {listen: 'h:1', servers: no}", "f:1:29: a.servers: is no list"),
            (
                "a:\n  listen: h:1\n  servers:\n   - h:1\n",
                "f:4:6: a.servers[0]: `h:1` is not host:port:weight [name]",
            ),
            ("a: {listen: 'h:1', redis_auth: {}, servers: []}\na: {}", "f:2:1: key `a` is here again"),
        ] {
            let said = from_twemproxy(text, "f").expect_err(text).to_string();
            assert!(said.lines().any(|said| said.starts_with(why)), "{text}: {said}");
        }
        let text = "a: {timeout: soon, redis: perhaps, servers: ['h:1', {}]}\nb: 1\nc: {listen: 'h:1', hash_tag: x, servers: []}";
        let all = from_twemproxy(text, "f").expect_err(text);
        let keys: Vec<&str> = all.findings.iter().map(|finding| &*finding.path).collect();
        let told = ["a.listen", "a.timeout", "a.redis", "a.servers[0]", "a.servers[1]", "b", "c.hash_tag"];
        assert_eq!(keys, told, "{all}");
    }
}

//! `import`: a twemproxy configuration, as ringway would have it. Keys stay where they are: names, hash,
//! distribution and weights are taken over as they decide there. What has no counterpart stands in the output
//! as a comment that says why.

use std::{cell::RefCell, io::Write, path::PathBuf};

use clap::Args;
use serde_yaml::{Mapping, Value};

use super::{EXIT_USAGE, Stop};

/// Port for which twemproxy names a server by its host alone.
const NAMELESS_PORT: &str = "11211";

const EXAMPLES: &str = "\
The result goes to stdout; look through its comments, then `ringway check` it. Every key has the node that it has
in twemproxy.

Examples:
  ringway import /etc/nutcracker/nutcracker.yml > ringway.yaml
  ringway check --config ringway.yaml
  ringway locate --config ringway.yaml --pool alpha user:1";

/// Arguments of `import`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// twemproxy's configuration
    #[arg(value_name = "NUTCRACKER_YML")]
    file: PathBuf,
}

/// Prints the configuration.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let name = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file)
        .map_err(|e| Stop::Failed(format!("error: {name}: {e}"), EXIT_USAGE))?;
    let failed = |all: Vec<String>| {
        let lines: Vec<String> = all.iter().map(|why| format!("error: {why}")).collect();
        Stop::Failed(lines.join("\n"), EXIT_USAGE)
    };
    let yaml = import(&text, &name.to_string()).map_err(failed)?;
    Ok(out.write_all(yaml.as_bytes())?)
}

/// The configuration, or all that can't be read in the other one.
fn import(text: &str, file: &str) -> Result<String, Vec<String>> {
    let tree: Mapping = serde_yaml::from_str(text).map_err(|e| vec![format!("{file}: {e}")])?;
    if tree.is_empty() {
        return Err(vec![format!("{file} has no pools")]);
    }
    let mut yaml = format!("# From twemproxy's {file}, by `ringway import`.\npools:\n");
    let mut wrong = Vec::new();
    for (name, pool) in &tree {
        match (name.as_str(), pool.as_mapping()) {
            (None, _) => wrong.push(format!("{file}: a pool's name is no text")),
            (Some(name), None) => wrong.push(format!("{file}: {name}: is no section")),
            (Some(name), Some(pool)) => {
                let found = self::pool(name, pool, &mut yaml);
                wrong.extend(found.into_iter().map(|why| format!("{file}: {name}.{why}")));
            }
        }
    }
    if wrong.is_empty() { Ok(yaml) } else { Err(wrong) }
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

/// A pool. All that is wrong with it.
fn pool(name: &str, pool: &Mapping, yaml: &mut String) -> Vec<String> {
    let of = Of { pool, wrong: RefCell::default() };
    yaml.push_str(&format!("  {}:\n", quoted(name)));
    let mut lines = Lines(yaml);
    let is_redis = of.switch("redis").unwrap_or(false);
    lines.add(if is_redis { "protocol: redis" } else { "protocol: memcached" });
    of.need("listen").iter().for_each(|text| listen(text, &mut lines));
    ring(&of, &mut lines);
    timeouts(&of, &mut lines);
    ejections(&of, &mut lines);
    if let Some(count) = of.number("server_connections").filter(|count| *count > 1) {
        lines.add(&format!("connections_per_node: {count}"));
    }
    if let Some(count) = of.number("client_connections").filter(|count| *count > 0) {
        lines.add(&format!("limits: {{clients: {count}}}"));
    }
    if let Some(db) = of.number("redis_db").filter(|db| *db > 0) {
        lines.add(&format!("db: {db}"));
    }
    if of.text("redis_auth").is_some() {
        let variable = variable(name);
        lines.add(&format!("# redis_auth: ringway reads passwords from files or variables; set {variable}."));
        lines.add(&format!("auth: {{password_env: {variable}}}"));
        lines.add(&format!("client_auth: {{password_env: {variable}}}"));
    }
    for (key, why) in DROPPED.iter().filter(|(key, _)| pool.contains_key(*key)) {
        lines.add(&format!("# {key} is left out: {why}."));
    }
    let strange = pool.keys().filter_map(Value::as_str);
    let strange =
        strange.filter(|key| !KNOWN.contains(key) && DROPPED.iter().all(|dropped| dropped.0 != *key));
    for key in strange {
        lines.add(&format!("# {key} is left out: it is no key of twemproxy 0.5.0."));
    }
    lines.add("nodes:");
    match pool.get("servers").and_then(Value::as_sequence) {
        Some(servers) => servers.iter().for_each(|server| match server.as_str() {
            None => of.wrong("servers: an entry is no text".to_owned()),
            Some(text) => match node(text) {
                Some(node) => lines.add(&format!("  - {node}")),
                None => of.wrong(format!("servers: `{text}` is not host:port:weight [name]")),
            },
        }),
        None => of.wrong("servers: is no list".to_owned()),
    }
    of.wrong.into_inner()
}

/// `host:port`, or the path of a socket and the mode of its file.
fn listen(text: &str, lines: &mut Lines<'_>) {
    if text.starts_with('/') {
        let (path, mode) = text.split_once(' ').unwrap_or((text, ""));
        if !mode.is_empty() {
            lines.add(&format!("# The socket's file has the mode that the umask leaves it, not {mode}."));
        }
        return lines.add(&format!("listen: {}", quoted(&format!("unix:{path}"))));
    }
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host);
    if host.parse::<std::net::IpAddr>().is_err() && !host.starts_with('[') {
        lines.add(&format!("# An ip has to stand for {host}: ringway resolves no names to listen on."));
    }
    lines.add(&format!("listen: {}", quoted(text)));
}

/// Where keys are.
fn ring(of: &Of<'_>, lines: &mut Lines<'_>) {
    let distribution = of.text("distribution").unwrap_or_else(|| "ketama".to_owned());
    let hash = of.text("hash").unwrap_or_else(|| "fnv1a_64".to_owned());
    let placement = match distribution.as_str() {
        "ketama" | "modula" => distribution.as_str(),
        "random" => {
            lines.add("# distribution: random has no counterpart, as no key has a place there.");
            "ketama"
        }
        other => {
            of.wrong(format!("distribution: `{other}` is not one of ketama, modula, random"));
            other
        }
    };
    let tag = of.text("hash_tag").unwrap_or_default();
    if !tag.is_empty() && tag.chars().count() != 2 {
        of.wrong(format!("hash_tag: `{tag}` is not two characters"));
    }
    lines.add("# Which node has which key: as twemproxy has it.");
    lines.add(&format!("ring: {{placement: {placement}, hash: {hash}, hash_tag: {}}}", quoted(&tag)));
}

fn timeouts(of: &Of<'_>, lines: &mut Lines<'_>) {
    match of.number("timeout").filter(|ms| *ms > 0) {
        None => {
            lines.add("# Without a timeout twemproxy waits for ever; here request_timeout (400ms) holds.")
        }
        Some(ms) => {
            lines.add(&format!("request_timeout: {ms}ms"));
            lines.add(&format!("connect_timeout: {ms}ms"));
            if ms > 2000 {
                lines.add(&format!("deadline: {ms}ms"));
            }
        }
    }
}

/// What becomes of nodes that fail, and of what they have when they are back.
fn ejections(of: &Of<'_>, lines: &mut Lines<'_>) {
    if of.switch("auto_eject_hosts").unwrap_or(false) {
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
    if let Some(limit) = of.number("server_failure_limit").filter(|limit| *limit > 0) {
        lines.add(&format!("health: {{failures: {limit}}}"));
    }
}

/// `host:port:weight name`, `/path:weight name`, as a node.
fn node(text: &str) -> Option<String> {
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

/// A pool's keys, and what is wrong with those that were read.
struct Of<'a> {
    pool: &'a Mapping,
    wrong: RefCell<Vec<String>>,
}

impl Of<'_> {
    fn wrong(&self, why: String) {
        self.wrong.borrow_mut().push(why);
    }

    fn text(&self, key: &str) -> Option<String> {
        match self.pool.get(key)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    fn need(&self, key: &str) -> Option<String> {
        let text = self.text(key);
        if text.is_none() {
            self.wrong(format!("{key}: is missing"));
        }
        text
    }

    fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.wrong(format!("{key}: `{text}` is not a whole number"));
        }
        number
    }

    fn switch(&self, key: &str) -> Option<bool> {
        match self.text(key)?.as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            other => {
                self.wrong(format!("{key}: `{other}` is neither true nor false"));
                None
            }
        }
    }
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
        let yaml = import(EVERY_KEY, "nutcracker.yml").expect("it is one");
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
        for said in
            ["# backlog is left out", "# preconnect", "# shards is left out: it is no key", "not 0666"]
        {
            assert!(yaml.contains(said), "{said} is not in {yaml}");
        }
    }

    /// A password is asked for by the name of a variable, and never copied.
    #[test]
    fn passwords() {
        let text =
            "a-b:\n  listen: 127.0.0.1:1\n  redis: true\n  redis_auth: hunter2\n  servers: ['h:1:1']\n";
        let yaml = import(text, "f").expect("fine");
        assert!(
            yaml.contains("client_auth: {password_env: A_B_PASSWORD}") && !yaml.contains("hunter2"),
            "{yaml}"
        );
    }

    /// What can't be read is named, all of it at once.
    #[test]
    fn mistakes() {
        for (text, why) in [
            ("[]", "f: "),
            ("{}", "f has no pools"),
            ("a: 1", "f: a: is no section"),
            ("a: {servers: []}", "f: a.listen: is missing"),
            ("a: {listen: 'h:1', timeout: soon, servers: []}", "f: a.timeout: `soon` is not a whole number"),
            ("a: {listen: 'h:1', redis: perhaps}", "f: a.redis: `perhaps` is neither true nor false"),
            ("a: {listen: 'h:1', distribution: none}", "f: a.distribution: `none` is not one of"),
            ("a: {listen: 'h:1', servers: ['h:1']}", "f: a.servers: `h:1` is not host:port:weight [name]"),
        ] {
            let said = import(text, "f").expect_err(text);
            assert!(said.iter().any(|said| said.starts_with(why)), "{text}: {said:?}");
        }
        let text = "a: {timeout: soon, redis: perhaps, servers: ['h:1', 1]}\nb: 1\nc: {listen: 'h:1', hash_tag: x, servers: []}";
        let all = import(text, "f").expect_err(text);
        let keys = ["a.redis", "a.listen", "a.timeout", "a.servers", "a.servers", "b", "c.hash_tag"];
        assert_eq!(all.len(), keys.len(), "{all:?}");
        for (said, key) in all.iter().zip(keys) {
            assert!(said.starts_with(&format!("f: {key}: ")), "{key} is told: {all:?}");
        }
    }
}

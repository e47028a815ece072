//! The room as a whole: the shipped file, every key, every error at once, and bad input.

use std::{fs, sync::Arc, time::Instant};

use ::http::HeaderName;
use proptest::prelude::*;

use super::*;
use crate::{
    net::Address,
    protocol::{
        Protocol,
        http::{KeyRule, KeySource, Missing, Pattern},
    },
    ring,
    topology::{
        Failover, Forwarded, HealthSettings, HttpLimits, HttpProbe, HttpSettings, Limits, NodeProtocol,
        NodeSpec, OnEjected, OnReturn, Policy, PrefixPolicy, Warmth, WhileHeld,
    },
};

fn resolved(text: &str) -> Result<Loaded, String> {
    load_str(text, "f", Path::new("/nowhere")).map_err(|e| e.to_string())
}

/// The text with every documented default in force.
fn uncommented(text: &str) -> String {
    let line = |line: &str| match line.split_once('#') {
        Some((indent, key))
            if indent.trim().is_empty() && key.starts_with(|c: char| c.is_ascii_lowercase()) =>
        {
            format!("{indent}{key}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// A minimal pool, with `extra` lines below its name.
fn pool_with(extra: &str) -> String {
    format!(
        "pools:\n  p:\n    listen: 127.0.0.1:1\n    nodes: [{{name: a, address: h:1}}, \
         {{name: b, address: h:2}}]\n{extra}"
    )
}

/// A thousand pools are read; one more than the bound is an error that names it.
#[test]
fn a_thousand_pools() {
    let text = |count: usize| {
        let pool = |i: usize| {
            let nodes = "[{name: a, address: h:1}, {name: b, address: h:2}]";
            format!("  p{i}:\n    listen: 127.0.0.1:{}\n    nodes: {nodes}\n", i + 1)
        };
        "pools:\n".to_owned() + &(0..count).map(pool).collect::<String>()
    };
    assert_eq!(resolved(&text(1000)).map(|loaded| loaded.settings.pools.len()), Ok(1000));
    let message = resolved(&text(1025)).expect_err("one too many");
    assert!(message.contains("p1024") && message.contains("1024 that are read"), "{message}");
}

/// The shipped file is the documented one: pools of three embedded nodes, `cache` on 6380 and
/// `memcached` on 11311, the admin port on 9400, all else by default, nothing to warn about.
#[test]
fn shipped() {
    let loaded = Source::Shipped.load().expect("the shipped file is fine");
    assert_eq!(loaded.warnings, []);
    let node = |name: &str| NodeSpec { name: name.into(), address: Address::Embedded, weight: 1, zone: None };
    let pool = |name: &str, listen: &str, protocol| PoolSpec {
        name: name.into(),
        listen: vec![listen.parse().expect("an address")],
        ring: placement::defaults(protocol),
        policy: Arc::new(Policy::of(protocol)),
        health: HealthSettings::default(),
        nodes: vec![node("a"), node("b"), node("c")],
    };
    let pools = vec![
        pool("cache", "127.0.0.1:6380", Protocol::Redis),
        pool("memcached", "127.0.0.1:11311", Protocol::Memcached),
    ];
    assert_eq!(loaded.settings, Settings { pools, ..Settings::default() });
    assert_eq!(loaded.settings.admin.listen.to_string(), "127.0.0.1:9400");
}

/// Every default in the shipped file is the default in force, and every setting there is stands in
/// the shipped file with its key.
#[test]
fn documented_defaults() {
    let text = uncommented(SHIPPED);
    let loaded = load_str(&text, "f", Path::new("")).expect("fine with its defaults");
    let slots = "vnode has points, maglev has slots";
    assert!(loaded.warnings.iter().all(|w| w.to_string().ends_with(slots)), "{:?}", loaded.warnings);
    let mut settings = loaded.settings;
    let web = settings.pools.pop().expect("the example of an HTTP pool");
    assert_eq!(Ok(settings), Source::Shipped.load().map(|l| l.settings));
    let least = "protocol: http, listen: '127.0.0.1:8080', nodes: [{name: a, address: '127.0.0.1:8081'}, \
                 {name: b, address: '127.0.0.1:8082'}]";
    let least = resolved(&format!("pools: {{web: {{{least}}}}}")).expect("fine");
    assert_eq!(Some(&web), least.settings.pools.first());
    assert_eq!(web.policy, Arc::new(Policy::of(Protocol::Http)));

    let keys = |text: &str| -> Vec<String> {
        let tree: serde_yaml::Value = serde_yaml::from_str(text).expect("is YAML");
        let mut keys = Vec::new();
        key_paths(&tree, "", &mut keys);
        keys
    };
    let documented = keys(&text);
    // A pool's example has what is special about its protocol; the first pool has the rest.
    let is_documented = |key: &str| {
        let general = key.replace(".web", ".cache").replace(".gutter", ".cache");
        documented.iter().any(|k| k == key || *k == general)
    };
    for every in [EVERY_KEY, EVERY_HTTP_KEY] {
        let written = to_yaml(&resolved(every).expect("fine").settings).replace("slots", "points");
        let is_example = |k: &&String| {
            ["JSON", "http.key.", ".prefixes", ".failover."].iter().any(|part| k.contains(part))
        };
        for key in keys(&written).iter().chain(&keys(every)).filter(|k| !is_example(k)) {
            assert!(is_documented(key), "{key} is not in config.yaml");
        }
    }
    for example in [
        "    #   auth: {user: ",
        "    #   prefixes: [{prefix: ",
        "    #   failover: {pool: ",
        "    #   client_auth: {password_env: ",
        "password_file",
        "last_key",
        "#   key: {header: ",
        "#   key: {cookie: ",
        "#   key: {pattern: ",
    ] {
        assert!(SHIPPED.contains(example), "{example} is not in config.yaml");
    }
}

/// The paths of all keys, list positions left out.
fn key_paths(tree: &serde_yaml::Value, path: &str, keys: &mut Vec<String>) {
    match tree {
        serde_yaml::Value::Mapping(map) => {
            for (key, value) in map {
                let below = format!("{path}.{}", key.as_str().expect("a word"));
                key_paths(value, &below, keys);
                keys.push(below);
            }
        }
        serde_yaml::Value::Sequence(items) => items.iter().for_each(|item| key_paths(item, path, keys)),
        _ => {}
    }
}

/// Every key with a value that is not its default (passwords have tests of their own).
const EVERY_KEY: &str = "
workers: 3
coalesce: false
drain_timeout: 11s
drain_delay: 12s
buffered_bytes: 2GiB
reload: {max_share: 11%, watch: true, flush_new: true}
admin: {listen: '127.0.0.1:9401'}
incidents: {file: /var/log/incidents.json, file_bytes_max: 1MiB}
state_file: /var/lib/state.json
pools:
  cache:
    protocol: redis
    listen: ['127.0.0.1:6381', 'unix:/run/x.sock']
    socket_mode: 0660
    ring: {placement: maglev, slots: 65539, hash: crc16_cluster, char_sign: arm, hash_tag: '<>'}
    request_timeout: 401ms
    connect_timeout: 251ms
    slow_timeout: 11s
    deadline: 3s
    on_ejected: rehash
    prefixes: [{prefix: 'session:', on_ejected: fail}, {prefix: 'page:', on_ejected: miss}, {prefix: 'cart:', on_ejected: failover}]
    failover: {pool: gutter, ttl_max: 62s}
    ttl_max: 1h
    hold_down: 7s
    on_return: quarantine
    sole_writer: true
    quarantine_max: 1001
    slow_start: 31s
    warmth: {share: 24%, window: 61s, held: miss}
    retries: 2
    connections_per_node: 3
    db: 5
    deny_commands: [KEYS, FLUSHALL]
    commands: {JSON.GET: {first_key: 1, last_key: -2, step: 2, read_only: true}}
    per_key_errors: true
    hot_keys: false
    limits: {clients: 9, bulk_bytes: 2KiB, request_bytes: 4KiB, args_max: 9, pipeline_depth: 9, session_bytes_max: 1MiB, stall_timeout: 9s, idle_timeout: 8m}
    health: {interval: 2s, timeout: 501ms, fall: 4, rise: 5, failures: 6, eject_max: 40%, flap_window: 6m, flap_max: 2m, deep: true, window: 12s, volume: 90, failure_rate: 45%, slow_factor: 4.5, slow_floor: 30ms, slow_eject: true}
    nodes:
      - {name: a, address: 'redis.example:6379', weight: 2, zone: z1}
      - {name: b, address: 'unix:/run/redis.sock'}
  gutter: {listen: 127.0.0.1:6382, nodes: [{name: g, address: 'spare.example:6379'}]}
";

/// Every key that only HTTP pools have, with a value that is not its default.
const EVERY_HTTP_KEY: &str = "
pools:
  web:
    protocol: http
    listen: 127.0.0.1:8080
    ring: {bounded_load: 1.5, hash_tag: '<>'}
    http:
      key: {pattern: '^/([^/]+)'}
      missing_key: refuse
      node_protocol: h2
      keep_host: false
      forwarded: forwarded
      via: false
      trailers: [X-Sum, server-timing]
      failure_statuses: [504, 502]
      idle_connections: 5
      probe: {path: '/health?full', host: 'web.example:81', status: 204-206, body: all well}
      limits: {header_bytes: 8KiB, headers_max: 9, body_bytes: 5MiB, requests_per_connection: 7, idle_timeout: 3s, header_timeout: 4s, requests_max: 11, connections_per_node_max: 12}
    nodes: [{name: a, address: 'h:1'}, {name: b, address: 'h:2'}]
";

/// Every key of an HTTP pool reaches its own setting.
#[test]
fn every_http_key() {
    let pool = resolved(EVERY_HTTP_KEY).expect("fine").settings.pools.remove(0);
    let pattern = Pattern::new("^/([^/]+)").expect("a pattern");
    let http = HttpSettings {
        key: KeyRule { from: KeySource::Capture(pattern), missing: Missing::Refuse },
        bounded_load: ring::BoundedLoad::new(150),
        node_protocol: NodeProtocol::H2,
        keep_host: false,
        forwarded: Forwarded::Forwarded,
        via: false,
        trailers: vec![HeaderName::from_static("x-sum"), HeaderName::from_static("server-timing")],
        failure_statuses: vec![502, 504],
        probe: HttpProbe {
            path: "/health?full".into(),
            host: Some("web.example:81".into()),
            status: 204..=206,
            body: Some((*b"all well").into()),
        },
        idle_connections: 5,
        limits: HttpLimits {
            header_bytes: 8192,
            headers_max: 9,
            body_bytes: Some(5 << 20),
            requests_per_connection: Some(7),
            idle_timeout: Duration::from_secs(3),
            header_timeout: Duration::from_secs(4),
            requests_max: 11,
            connections_per_node_max: 12,
        },
    };
    assert_eq!(*pool.policy.http, http);
    assert_eq!(pool.ring.hash_tag, Some((b'<', b'>')));
}

/// What one protocol obeys is an error in a pool of another, which names both.
#[test]
fn keys_of_other_protocols() {
    let http = |extra: &str| pool_with(&format!("    protocol: http\n    {extra}\n"));
    let memcached = |extra: &str| pool_with(&format!("    protocol: memcached\n    {extra}\n"));
    for (text, want) in [
        (http("health: {deep: true}"), "pools.p.health.deep: is for redis and memcached pools"),
        (http("db: 0"), "f:6:9: pools.p.db: is for redis pools, and this one speaks http"),
        (http("deny_commands: [KEYS]"), "pools.p.deny_commands: is for redis pools"),
        (http("commands: {X: {first_key: 1}}"), "pools.p.commands: is for redis pools"),
        (http("per_key_errors: true"), "pools.p.per_key_errors: is for redis pools"),
        (http("hot_keys: true"), "pools.p.hot_keys: is for redis and memcached pools"),
        (http("slow_timeout: 1s"), "pools.p.slow_timeout: is for redis and memcached pools"),
        (http("connections_per_node: 1"), "http: write http.limits.connections_per_node_max"),
        (http("limits: {clients: 1, bulk_bytes: 1KiB}"), "pools.p.limits.bulk_bytes: is for redis and"),
        (http("on_ejected: miss"), "pools.p.on_ejected: `miss` is for redis and memcached pools"),
        (pool_with("    http: {}\n"), "pools.p.http: is for http pools, and this one speaks redis"),
        (
            pool_with("    ring: {bounded_load: 1.25}\n"),
            "pools.p.ring.bounded_load: is for http pools, and this one speaks redis: it sends one key to several",
        ),
        (
            http("").replace("h:1", "embedded"),
            "pools.p.nodes[0].address: an embedded node speaks redis or memcached, not http",
        ),
        (http("limits: {args_max: 9}"), "pools.p.limits.args_max: is for redis and memcached pools"),
        (memcached("auth: {password_env: CARGO_PKG_NAME}"), "pools.p.auth: has no user"),
        (
            memcached("client_auth: {password_env: CARGO_PKG_NAME}"),
            "pools.p.client_auth: is not user:password",
        ),
    ] {
        let found = resolved(&text).expect_err(want);
        assert!(found.contains(want), "wants {want}\nfound {found}");
        assert_eq!(found.lines().count(), 1, "{found}");
    }
    for fine in [http("on_ejected: fail"), http("limits: {clients: 5}"), pool_with("    on_ejected: miss\n")]
    {
        assert_eq!(resolved(&fine).map(|l| l.warnings), Ok(Vec::new()), "{fine}");
    }
    let open = http("").replace("127.0.0.1:1", "0.0.0.0:1");
    assert_eq!(resolved(&open).map(|l| l.warnings), Ok(Vec::new()), "a web server is there to be reached");
}

/// A node is emptied only where it has nobody else's keys, and where some of its own may be old.
#[test]
fn what_may_be_emptied() {
    let pools = |on_return: &str, more: &str, node: &str| {
        format!(
            "pools:\n  p:\n    listen: 127.0.0.1:1\n    on_return: {on_return}\n{more}    nodes: [{{name: a, \
             address: h:1}}, {{name: b, address: h:2}}]\n  q:\n    listen: 127.0.0.1:2\n    nodes: [{{name: a, \
             address: {node}}}, {{name: c, address: h:4}}]\n"
        )
    };
    let errors = |text: &str| resolved(text).map(|_| ()).map_err(|e| e.to_string());
    assert_eq!(errors(&pools("flush", "", "h:3")), Ok(()));
    assert_eq!(errors(&pools("serve", "", "h:1")), Ok(()));
    let said = errors(&pools("flush", "", "h:1")).expect_err("q would lose its keys");
    assert!(said.contains("pool p has on_return: flush, and `h:1` is a node of p and q too"), "{said}");
    let said = errors(&pools("flush", "    on_ejected: fail\n", "h:3")).expect_err("nothing is old");
    assert!(said.contains("on_return: is flush, and keys of this pool do not move"), "{said}");
    assert_eq!(errors(&pools("flush", "    db: 3\n", "h:1")), Ok(()), "q has another database there");
}

/// The policy that [`EVERY_KEY`] means.
fn every_policy() -> Policy {
    let ms = Duration::from_millis;
    let command = crate::topology::CustomCommand {
        name: "JSON.GET".to_owned(),
        first_key: 1,
        last_key: -2,
        step: 2,
        read_only: true,
    };
    Policy {
        protocol: Protocol::Redis,
        request_timeout: ms(401),
        connect_timeout: ms(251),
        slow_timeout: ms(11_000),
        deadline: ms(3_000),
        on_ejected: OnEjected::Rehash,
        durable: false,
        prefixes: vec![
            PrefixPolicy { prefix: (*b"session:").into(), on_ejected: OnEjected::Fail },
            PrefixPolicy { prefix: (*b"page:").into(), on_ejected: OnEjected::Miss },
            PrefixPolicy { prefix: (*b"cart:").into(), on_ejected: OnEjected::Failover },
        ],
        failover: Some(Failover { pool: "gutter".into(), ttl_max: ms(62_000) }),
        ttl_max: Some(ms(3_600_000)),
        hold_down: ms(7_000),
        on_return: OnReturn::Quarantine,
        sole_writer: true,
        quarantine_max: 1001,
        slow_start: ms(31_000),
        warmth: Warmth { share: 0.24, window: ms(61_000), held: WhileHeld::Miss },
        retries: 2,
        connections_per_node: 3,
        auth: None,
        db: 5,
        client_auth: None,
        deny: vec!["FLUSHALL".to_owned(), "KEYS".to_owned()],
        commands: vec![command],
        per_key_errors: true,
        hot_keys: false,
        socket_mode: Some(0o660),
        limits: Limits {
            clients: 9,
            bulk_bytes: 2048,
            request_bytes: 4096,
            args_max: 9,
            pipeline_depth: 9,
            session_bytes_max: 1 << 20,
            stall_timeout: Duration::from_secs(9),
            idle_timeout: Duration::from_secs(8 * 60),
        },
        http: Arc::default(),
    }
}

/// Every key reaches its own setting.
#[test]
fn every_key() {
    let Settings {
        workers,
        coalesce,
        drain_timeout,
        drain_delay,
        buffered_bytes,
        reload,
        admin,
        incidents,
        state_file,
        pools,
    } = resolved(EVERY_KEY).expect("fine").settings;
    let log = IncidentLog { file: Some("/var/log/incidents.json".into()), file_bytes_max: 1 << 20 };
    assert_eq!(incidents, log);
    assert_eq!(state_file, Some("/var/lib/state.json".into()));
    let ms = Duration::from_millis;
    assert_eq!((workers, coalesce), (3, false));
    assert_eq!((drain_timeout, buffered_bytes), (ms(11_000), 2 << 30));
    assert_eq!(drain_delay, ms(12_000));
    assert_eq!((reload.max_share, reload.watch, reload.flush_new), (0.11, true, true));
    assert_eq!(admin.listen.to_string(), "127.0.0.1:9401");
    let pool = &pools[0];
    let listen: Vec<String> = pool.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:6381", "unix:/run/x.sock"]);
    assert_eq!(pool.ring.placement, ring::Placement::Maglev { slots: 65539 });
    assert_eq!((pool.ring.hash.word(), pool.ring.hash_tag), ("crc16_cluster", Some((b'<', b'>'))));
    assert_eq!(pool.ring.char_sign, ring::CharSign::Arm);
    assert_eq!(*pool.policy, every_policy());
    let shown: Vec<String> =
        pool.nodes.iter().map(|n| format!("{} {} {}", n.name, n.address, n.weight)).collect();
    assert_eq!(shown, ["a redis.example:6379 2", "b unix:/run/redis.sock 1"]);
    assert_eq!(pool.nodes[0].zone.as_deref(), Some("z1"));
}

/// Every key of `health` reaches its own setting.
#[test]
fn every_health_key() {
    let pool = resolved(EVERY_KEY).expect("fine").settings.pools.remove(0);
    let ms = Duration::from_millis;
    let health = HealthSettings {
        interval: ms(2_000),
        timeout: ms(501),
        fall: 4,
        rise: 5,
        failures: 6,
        eject_max: 0.4,
        flap_window: ms(360_000),
        flap_max: ms(120_000),
        deep: true,
        window: ms(12_000),
        volume: 90,
        failure_rate: 0.45,
        slow_factor: 4.5,
        slow_floor: ms(30),
        slow_eject: true,
    };
    assert_eq!(pool.health, health);
}

/// The settings in force, written down, are read back as the same settings.
#[test]
fn written_is_read_back() {
    for text in [EVERY_KEY, EVERY_HTTP_KEY, SHIPPED, &uncommented(SHIPPED)] {
        let settings = resolved(text).expect("fine").settings;
        assert_eq!(resolved(&to_yaml(&settings)).map(|l| l.settings), Ok(settings));
    }
}

/// The configuration that the manual shows is obeyed, passwords included; they are not shown.
#[test]
fn passwords() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("secret"), "hunter2\n").expect("writable");
    let file = dir.path().join("ringway.yaml");
    let text =
        pool_with("    auth: {user: app, password_file: secret}\n    client_auth: {password_file: secret}\n");
    fs::write(&file, text).expect("writable");
    let loaded = load(&file).expect("fine");
    let policy = &loaded.settings.pools[0].policy;
    assert_eq!(policy.auth.as_ref().map(|a| &*a.password.0), Some(&b"hunter2"[..]));
    assert_eq!(policy.client_auth.as_ref().map(|s| &*s.0), Some(&b"hunter2"[..]));
    assert!(!format!("{loaded:?}{}", to_yaml(&loaded.settings)).contains("hunter2"));
    let careless = resolved(&pool_with("    auth: hunter2\n    client_auth: {password: hunter2}\n"));
    assert!(!careless.expect_err("no passwords in the file").contains("hunter2"));
}

/// One file with every field wrong: every error is reported at once, with its line and key.
#[test]
fn every_field_wrong() {
    let errors =
        resolved(include_str!("../../tests/data/config/every-field-wrong.yaml")).expect_err("all wrong");
    let want = include_str!("../../tests/data/config/every-field-wrong.txt");
    assert_eq!(format!("{errors}\n"), want);
}

/// A gutter has to be there and fit for it, and who waits for expiries has to have some.
#[test]
fn gutters() {
    let pools = |cache: &str, gutter: &str| {
        format!(
            "pools:\n  cache: {{listen: '127.0.0.1:1', on_ejected: failover, {cache}, nodes: [{{name: a, address: 'h:1'}}]}}\n  \
             gutter: {{listen: '127.0.0.1:2', {gutter}}}\n"
        )
    };
    let over = "failover: {pool: gutter, ttl_max: 60s}";
    let spare = "nodes: [{name: g, address: 'h:2'}]";
    assert!(resolved(&pools(over, spare)).is_ok());
    for (cache, gutter, want) in [
        ("retries: 1", spare, "on_ejected: is failover, and no pool is named"),
        ("failover: {pool: none, ttl_max: 60s}", spare, "has failover to none, and there is no such pool"),
        ("failover: {pool: cache, ttl_max: 60s}", spare, "which is itself"),
        ("failover: {pool: gutter}", spare, "failover.ttl_max: is missing"),
        (over, "protocol: memcached, nodes: [{name: g, address: 'h:2'}]", "which speaks memcached"),
        (over, "sole_writer: true, nodes: [{name: g, address: 'h:2'}]", "which says sole_writer: true"),
        (over, "durable: true, nodes: [{name: g, address: 'h:2'}]", "which is durable"),
        (over, "nodes: [{name: g, address: 'h:1'}]", "and `h:1` is a node of both"),
        ("durable: true, failover: {pool: gutter, ttl_max: 60s}", spare, "is failover in a durable pool"),
        ("on_return: ttl, failover: {pool: gutter, ttl_max: 60s}", spare, "is ttl, and without ttl_max"),
        (
            over,
            "on_ejected: failover, failover: {pool: cache, ttl_max: 1s}, nodes: [{name: g, address: 'h:2'}]",
            "which fails over itself",
        ),
    ] {
        let said = resolved(&pools(cache, gutter)).map(|l| l.settings).expect_err(want);
        assert!(said.contains(want), "{cache} and {gutter}\nwant {want}\nfound {said}");
    }
    // One for two pools is fine if their keys differ, which nobody can tell here.
    let warned = |more: &str| {
        let more =
            format!("  more: {{listen: '127.0.0.1:3', {more}, nodes: [{{name: b, address: 'h:3'}}]}}\n");
        let warnings = resolved(&(pools(over, spare) + &more)).expect("it can be obeyed").warnings;
        warnings
            .iter()
            .map(ToString::to_string)
            .filter(|warning| warning.contains("failover"))
            .collect::<Vec<_>>()
    };
    assert_eq!(warned("on_ejected: rehash"), [""; 0]);
    let both = warned(&format!("on_ejected: failover, {over}"));
    assert!(
        matches!(&both[..], [text] if text.contains("pools.more.failover: pools cache and more both have failover to gutter")),
        "{both:?}"
    );
    let http = "pools: {p: {protocol: http, listen: '127.0.0.1:1', on_ejected: failover, nodes: [{name: a, address: 'h:1'}]}}";
    assert!(resolved(http).expect_err("no gutter").contains("`failover` is for redis and memcached pools"));
}

/// What spans keys, nodes, pools and listeners is an error that names both sides.
#[test]
fn cross_checks() {
    let nodes = |nodes: &str| format!("pools: {{p: {{listen: '127.0.0.1:1', nodes: {nodes}}}}}");
    let two = "nodes: [{name: a, address: embedded}]";
    for (text, want) in [
        ("pools: {}".to_owned(), "f:1:8: pools: has no pools"),
        ("pools:".to_owned(), "f:1:6: pools: is missing"),
        ("workers: 1".to_owned(), "pools: is missing"),
        (nodes("[]"), "pools.p.nodes: has no nodes"),
        (nodes(""), "pools.p.nodes: is missing"),
        (nodes("a"), "pools.p.nodes: is not a list"),
        (nodes("[{address: embedded}]"), "pools.p.nodes[0].name: is missing; it is the node's identity"),
        (nodes("[{name: a}]"), "pools.p.nodes[0].address: is missing"),
        (nodes("[{name: a, address: embedded, weight: 0}]"), "nodes[0].weight: `0` is outside 1 to 65535"),
        (nodes("[{name: a, address: embedded, weight: 65536}]"), "`65536` is outside"),
        (
            nodes("[{name: a, address: 'h:1'}, {name: a, address: 'h:2'}]"),
            "nodes[1].name: `a` is the name of",
        ),
        (
            nodes("[{name: a, address: nowhere}, {name: a, address: 'h:2'}]"),
            "nodes[1].name: `a` is the name of",
        ),
        (nodes("[{name: a, address: '127.0.0.1:1'}]"), "it would ask itself"),
        (format!("pools: {{p: {{{two}}}}}"), "pools.p.listen: is missing"),
        (format!("pools: {{p: {{listen: [], {two}}}}}"), "pools.p.listen: is a list of 0 addresses"),
        (format!("pools: {{'a b': {{listen: 'unix:/x', {two}}}}}"), "a pool's name has letters"),
        (
            format!("pools: {{p: {{listen: '127.0.0.1:5', {two}}}, q: {{listen: '0.0.0.0:5', {two}}}}}"),
            "pools.q.listen: `0.0.0.0:5` is taken by pools.p.listen",
        ),
        (
            format!("pools: {{p: {{listen: ['unix:/x', 'unix:/x'], {two}}}}}"),
            "pools.p.listen[1]: `unix:/x` is taken by pools.p.listen[0]",
        ),
        (format!("pools: {{p: {{listen: '127.0.0.1:9400', {two}}}}}"), "is taken by admin"),
        (
            pool_with("    ring: {points: 65536}\n").replace("h:1}", "h:1, weight: 9999}"),
            "makes 655360000 places of points and weights, more than 16777216",
        ),
        (pool_with("    protocol: resp\n"), "`resp` is not one of redis, memcached, http"),
        (pool_with("    db: -1\n"), "pools.p.db: `-1` is outside 0 to 65535"),
        (pool_with("    health: {eject_max: 101%}\n"), "pools.p.health.eject_max: `101%` is more than 100%"),
        (pool_with("    client_auth: {}\n"), "pools.p.client_auth: names no password"),
        (pool_with("    client_auth:\n"), "pools.p.client_auth: is not a section"),
    ] {
        let found = match resolved(&text) {
            Err(errors) => errors,
            Ok(loaded) => loaded.warnings.iter().map(|w| format!("{w}\n")).collect(),
        };
        assert!(found.contains(want), "{text}\nwants {want}\nfound {found}");
    }
    let free_ports = format!("pools: {{p: {{listen: ['127.0.0.1:0', '127.0.0.1:0'], {two}}}}}");
    assert!(resolved(&free_ports).is_ok(), "port 0 is a new port each time");
}

/// A pool that would ask itself is refused, also where it listens on all addresses and a node is at one of
/// this machine's.
#[test]
fn nobody_asks_itself() {
    let pool = |listen: &str, node: &str| {
        let nodes = format!("[{{name: a, address: '{node}'}}, {{name: b, address: '127.0.0.1:2'}}]");
        resolved(&format!("pools: {{p: {{listen: '{listen}', nodes: {nodes}}}}}"))
    };
    for (listen, node) in [
        ("127.0.0.1:1", "localhost:1"),
        ("0.0.0.0:1", "127.0.0.9:1"),
        ("[::]:1", "127.0.0.1:1"),
        ("unix:/x", "unix:/x"),
    ] {
        let errors = pool(listen, node).expect_err(listen);
        assert!(errors.contains("it would ask itself"), "{errors}");
    }
    let errors = pool("0.0.0.0:1", "127.0.0.9:1").expect_err("it does");
    assert!(
        errors.contains("nodes[0].address: `127.0.0.9:1` is where this pool listens (0.0.0.0:1)"),
        "{errors}"
    );
    // An address that is kept for documentation is no machine's.
    for (listen, node) in
        [("0.0.0.0:1", "192.0.2.1:1"), ("0.0.0.0:1", "127.0.0.1:3"), ("127.0.0.1:1", "127.0.0.2:1")]
    {
        assert!(pool(listen, node).is_ok(), "{listen} {node}");
    }
}

/// A pool may have another one as its node, as long as requests come to an end.
#[test]
fn nobody_asks_in_a_circle() {
    let pools = |ends: &[(&str, &str)]| {
        let pool = |(i, (listen, node)): (usize, &(&str, &str))| {
            format!(
                "  p{i}: {{listen: '127.0.0.1:{listen}', on_return: serve, nodes: [{{name: a, address: \
                 'localhost:{node}'}}, {{name: b, address: 'h:1'}}]}}\n"
            )
        };
        resolved(&format!("pools:\n{}", ends.iter().enumerate().map(pool).collect::<String>()))
    };
    assert!(pools(&[("1", "2"), ("2", "3"), ("3", "9")]).is_ok());
    for ends in [&[("1", "2"), ("2", "1")][..], &[("7", "1"), ("1", "2"), ("2", "3"), ("3", "1")]] {
        let errors = pools(ends).expect_err("it is a circle");
        assert!(errors.contains("requests would go round"), "{errors}");
    }
}

/// Bounds that nobody could live with are refused.
#[test]
fn bounds_leave_room() {
    for (line, want) in [
        ("limits: {args_max: 1}", "limits.args_max: `1` is outside 8 to"),
        ("limits: {idle_timeout: 1ms}", "limits.idle_timeout: `1ms` is outside 1s to 1h"),
        (
            "client_auth: {password_env: CARGO_PKG_NAME}\n    deny_commands: [AUTH, HELLO]",
            "no client could log in",
        ),
    ] {
        let errors = resolved(&pool_with(&format!("    {line}\n"))).expect_err(want);
        assert!(errors.contains(want), "{errors}");
    }
    assert!(resolved(&pool_with("    limits: {idle_timeout: 0s}\n")).is_ok());
}

/// What can be obeyed and is perhaps not meant is a warning, with its place.
#[test]
fn warnings() {
    for (text, want) in [
        (pool_with("    deadline: 100ms\n"), "f:5:15: warning: pools.p.deadline: is below request_timeout"),
        (pool_with("    socket_mode: 0660\n"), "pools.p.socket_mode: is the mode of a unix socket's file"),
        (pool_with("    connect_timeout: 3s\n"), "pools.p.deadline: is below connect_timeout"),
        (pool_with("    db: 16\n"), "pools.p.db: is above 15"),
        (pool_with("    slow_timeout: 50ms\n"), "pools.p.slow_timeout: is below request_timeout"),
        (
            pool_with("    limits: {bulk_bytes: 1GiB, request_bytes: 1GiB}\n"),
            "pools.p.limits: bulk_bytes is above what a redis-server takes",
        ),
        (pool_with("    limits: {args_max: 2000000}\n"), "pools.p.limits: args_max is above"),
        (
            pool_with("    ring: {placement: ketama, hash: crc32}\n"),
            "warning: pools.p.ring: PRACTICALLY ALL KEYS GO TO ONE NODE",
        ),
        (pool_with("    health: {timeout: 2s}\n"), "timeout is above interval"),
        (pool_with("    health: {eject_max: 0%}\n"), "no node is ever ejected"),
        (pool_with("    health: {interval: 2m}\n"), "interval is above 1m"),
        (
            pool_with("    limits: {request_bytes: 1MiB}\n"),
            "pools.p.limits.request_bytes: is below bulk_bytes",
        ),
        (
            pool_with("").replace("h:2", "h:1"),
            "nodes[1].address: `h:1` is the address of the node in line 4 too",
        ),
        (
            pool_with("").replace("127.0.0.1:1", "0.0.0.0:1"),
            "f:3:13: warning: pools.p.listen: can be reached",
        ),
        (pool_with("admin: {listen: '0.0.0.0:2'}\n"), "admin.listen: can be reached from other machines"),
        (pool_with("buffered_bytes: 1MiB\n"), "buffered_bytes: is below session_bytes_max of pool p"),
        (
            "pools: {p: {listen: '127.0.0.1:1', db: 1, nodes: [{name: a, address: embedded}]}}".to_owned(),
            "is the only node of its pool",
        ),
        (
            "pools: {p: {listen: '127.0.0.1:1', db: 1, nodes: [{name: a, address: embedded}]}}".to_owned(),
            "an embedded node has no passwords and no database but 0",
        ),
    ] {
        let loaded = resolved(&text).expect(want);
        let shown: String = loaded.warnings.iter().map(|w| format!("{w}\n")).collect();
        assert!(shown.contains(want), "{text}\nwants {want}\nfound {shown}");
    }
    assert_eq!(resolved(&pool_with("    sole_writer: true\n")).map(|l| l.warnings), Ok(Vec::new()));
    let silent = resolved(&pool_with("")).expect("fine").warnings;
    assert!(silent.len() == 1 && silent[0].to_string().contains("says neither sole_writer nor on_return"));
}

/// A missing file, a directory, a file of 100 MB, bytes that are not text, an empty file and one
/// of comments are each refused in one line.
#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let write = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).expect("writable");
    fs::File::create(path("large")).and_then(|f| f.set_len(100 << 20)).expect("a sparse file");
    write("latin", b"pools:\n  caf\xe9: 1\n");
    write("empty", b"");
    write("comments", b"# nothing\n");
    write("nul", &[0; 64]);
    for (name, want) in [
        ("nowhere", "nowhere: cannot be read: there is no such file"),
        (".", "cannot be read: it is a directory"),
        ("large", "is larger than 16 MiB"),
        ("latin", "latin:2:6: is not UTF-8 text"),
        ("empty", "empty: is empty"),
        ("comments", "is empty"),
        ("nul", "nul"),
    ] {
        let errors = load(&path(name)).expect_err(name).to_string();
        assert!(errors.contains(want) && errors.lines().count() == 1, "{errors}");
    }
    assert!(Source::File(path("nowhere")).fingerprint().is_err());
}

/// A fingerprint follows the content, not the time.
#[test]
fn fingerprints() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = Source::File(dir.path().join("f"));
    let print = |text: &str| {
        fs::write(dir.path().join("f"), text).expect("writable");
        source.fingerprint().expect("readable")
    };
    let (a, b, again) = (print("a: 1"), print("a: 2"), print("a: 1"));
    assert_eq!(a, again);
    assert_ne!(a, b);
}

/// A file of nothing but mistakes is refused within a moment, however long it is.
#[test]
fn many_mistakes() {
    let unknown: String = (0..50_000).map(|i| format!("key{i}: {{a: [b, c]}}\n")).collect();
    let pools: String = (0..20_000).map(|i| format!("  p{i}: {{nodes: x}}\n")).collect();
    let alias = format!("pools:\n  a: &a {{nodes: [{}]}}\n{}", "x,".repeat(900), "  b: *a\n");
    let started = Instant::now();
    for text in [unknown, format!("pools:\n{pools}"), alias] {
        let errors = resolved(&text).expect_err("all wrong");
        assert!(errors.lines().count() <= 201, "{}", errors.lines().count());
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

fn keys_and_values() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "pools", "nodes", "name", "address", "listen", "ring", "points", "weight", "limits", "db", "auth",
        "commands",
    ]);
    let value = prop::sample::select(vec![
        "1",
        "-1",
        "a",
        "[]",
        "{}",
        "~",
        "50%",
        "4s",
        "*x",
        "&x 1",
        "[{name: a, address: embedded}]",
        "99999999999",
        "''",
        "\"\\u0000\"",
        "|\n  x",
    ]);
    let line = (0usize..4, key, value, any::<bool>()).prop_map(|(depth, key, value, leaf)| {
        format!("{}{key}: {}\n", "  ".repeat(depth), if leaf { value } else { "" })
    });
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.concat())
}

proptest! {
    /// No text makes the reader panic: it is obeyed, or refused with at least one error.
    #[test]
    fn any_text_is_judged(text in prop_oneof![keys_and_values(), "\\PC{0,60}"]) {
        if let Err(errors) = load_str(&text, "f", Path::new("/nowhere")) {
            prop_assert!(!errors.findings.is_empty());
        }
    }

    /// The shipped file with a piece cut out or a byte changed is judged, too.
    #[test]
    fn damaged_files_are_judged(from in 0..SHIPPED.len(), to in 0..SHIPPED.len(), byte in " -~") {
        let text = uncommented(SHIPPED);
        if let (Some(head), Some(tail)) = (text.get(..from.min(to)), text.get(from.max(to)..)) {
            let _ = load_str(&format!("{head}{byte}{tail}"), "f", Path::new("/nowhere"));
        }
    }
}

//! SETTINGS -> TEXT. Every setting in force, defaults included, as a configuration that resolves to
//! the same settings again; passwords, which settings do not show, are left out.

use ::http::HeaderName;
use serde_yaml::{Mapping, Value};

use super::{
    Settings,
    http::{forwarded_word, key_words, missing_word, node_protocol_word, statuses_text},
    placement::factor_text,
    protocols::obeys,
    units::{duration_text, mode_text, share_text, size_text},
};
use crate::{
    ring::{self, Placement},
    topology::{
        CustomCommand, Failover, HealthSettings, HttpLimits, HttpProbe, HttpSettings, Limits, NodeSpec,
        Policy, PoolSpec, PrefixPolicy, Warmth,
    },
};

/// Every setting in force as YAML, without passwords.
pub fn to_yaml(settings: &Settings) -> String {
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
    } = settings;
    let state_file = state_file.as_ref().map(|file| file.display().to_string());
    let file = incidents.file.as_ref().map(|file| file.display().to_string());
    let bytes_max = usize::try_from(incidents.file_bytes_max).unwrap_or(usize::MAX);
    let incidents = map([("file", optional(file)), ("file_bytes_max", size_text(bytes_max).into())]);
    let reload = map([
        ("max_share", share_text(reload.max_share).into()),
        ("watch", reload.watch.into()),
        ("flush_new", reload.flush_new.into()),
    ]);
    let tree = map([
        ("workers", (*workers as u64).into()),
        ("coalesce", (*coalesce).into()),
        ("drain_timeout", duration_text(*drain_timeout).into()),
        ("drain_delay", duration_text(*drain_delay).into()),
        ("buffered_bytes", size_text(*buffered_bytes).into()),
        ("reload", reload),
        ("admin", map([("listen", admin.listen.to_string().into())])),
        ("incidents", incidents),
        ("state_file", optional(state_file)),
        ("pools", Value::Mapping(pools.iter().map(|p| (p.name.to_string().into(), pool(p))).collect())),
    ]);
    // A tree of maps, lists and scalars always has a text.
    serde_yaml::to_string(&tree).unwrap_or_default()
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    mapping(entries.into())
}

fn mapping(entries: Vec<(&str, Value)>) -> Value {
    Value::Mapping(entries.into_iter().map(|(key, value)| (key.into(), value)).collect::<Mapping>())
}

/// The keys below `prefix` that the pool's protocol obeys.
fn obeyed(policy: &Policy, prefix: &str, mut entries: Vec<(&'static str, Value)>) -> Value {
    entries.retain(|(key, _)| obeys(policy.protocol, &format!("{prefix}{key}")));
    mapping(entries)
}

/// A value that may be absent.
fn optional(value: Option<impl Into<Value>>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn pool(spec: &PoolSpec) -> Value {
    let p = &spec.policy;
    let listen: Vec<String> = spec.listen.iter().map(ToString::to_string).collect();
    let entries = vec![
        ("protocol", p.protocol.word().into()),
        ("listen", listen.into()),
        ("socket_mode", optional(p.socket_mode.map(mode_text))),
        ("ring", ring(&spec.ring, p)),
        ("request_timeout", duration_text(p.request_timeout).into()),
        ("connect_timeout", duration_text(p.connect_timeout).into()),
        ("slow_timeout", duration_text(p.slow_timeout).into()),
        ("deadline", duration_text(p.deadline).into()),
        ("on_ejected", p.on_ejected.word().into()),
        ("durable", p.durable.into()),
        ("prefixes", p.prefixes.iter().map(prefix).collect::<Vec<Value>>().into()),
        ("failover", optional(p.failover.as_ref().map(failover))),
        ("ttl_max", optional(p.ttl_max.map(duration_text))),
        ("hold_down", duration_text(p.hold_down).into()),
        ("on_return", p.on_return.word().into()),
        ("sole_writer", p.sole_writer.into()),
        ("quarantine_max", (p.quarantine_max as u64).into()),
        ("slow_start", duration_text(p.slow_start).into()),
        ("warmth", warmth(&p.warmth)),
        ("retries", p.retries.into()),
        ("connections_per_node", (p.connections_per_node as u64).into()),
        ("db", p.db.into()),
        ("deny_commands", p.deny.clone().into()),
        (
            "commands",
            Value::Mapping(p.commands.iter().map(|c| (c.name.clone().into(), command(c))).collect()),
        ),
        ("per_key_errors", p.per_key_errors.into()),
        ("hot_keys", p.hot_keys.into()),
        ("limits", limits(&p.limits, p)),
        ("http", http(&p.http)),
        ("health", health(&spec.health, p)),
        ("nodes", spec.nodes.iter().map(node).collect::<Vec<Value>>().into()),
    ];
    obeyed(p, "", entries)
}

fn failover(failover: &Failover) -> Value {
    let ttl_max = duration_text(failover.ttl_max);
    map([("pool", failover.pool.to_string().into()), ("ttl_max", ttl_max.into())])
}

fn prefix(policy: &PrefixPolicy) -> Value {
    let prefix = String::from_utf8_lossy(&policy.prefix).into_owned();
    map([("prefix", prefix.into()), ("on_ejected", policy.on_ejected.word().into())])
}

fn ring(ring: &ring::Settings, policy: &Policy) -> Value {
    let tag = ring.hash_tag.map(|(open, close)| String::from_utf8_lossy(&[open, close]).into_owned());
    let mut entries = vec![("placement", Value::from(ring.placement.word()))];
    match ring.placement {
        Placement::Vnode { points } => entries.push(("points", points.into())),
        Placement::Maglev { slots } => entries.push(("slots", slots.into())),
        Placement::Ketama | Placement::Modula => {}
    }
    entries.push(("hash", ring.hash.word().into()));
    entries.push(("char_sign", ring.char_sign.word().into()));
    entries.push(("hash_tag", tag.unwrap_or_default().into()));
    entries.push(("bounded_load", optional(policy.http.bounded_load.map(factor_text))));
    obeyed(policy, "ring.", entries)
}

fn http(http: &HttpSettings) -> Value {
    let key = match key_words(&http.key.from) {
        (word, None) => word.into(),
        (word, Some(argument)) => map([(word, argument.into())]),
    };
    map([
        ("key", key),
        ("missing_key", missing_word(http.key.missing).into()),
        ("node_protocol", node_protocol_word(http.node_protocol).into()),
        ("keep_host", http.keep_host.into()),
        ("forwarded", forwarded_word(http.forwarded).into()),
        ("via", http.via.into()),
        ("trailers", http.trailers.iter().map(HeaderName::as_str).collect::<Vec<_>>().into()),
        ("failure_statuses", http.failure_statuses.clone().into()),
        ("idle_connections", (http.idle_connections as u64).into()),
        ("probe", http_probe(&http.probe)),
        ("limits", http_limits(&http.limits)),
    ])
}

fn http_probe(probe: &HttpProbe) -> Value {
    map([
        ("path", probe.path.clone().into()),
        ("host", optional(probe.host.clone())),
        ("status", statuses_text(&probe.status).into()),
        ("body", optional(probe.body.as_ref().map(|b| String::from_utf8_lossy(b).into_owned()))),
    ])
}

fn http_limits(limits: &HttpLimits) -> Value {
    map([
        ("header_bytes", size_text(limits.header_bytes).into()),
        ("headers_max", (limits.headers_max as u64).into()),
        ("body_bytes", optional(limits.body_bytes.map(|n| size_text(n as usize)))),
        ("requests_per_connection", optional(limits.requests_per_connection)),
        ("idle_timeout", duration_text(limits.idle_timeout).into()),
        ("header_timeout", duration_text(limits.header_timeout).into()),
        ("requests_max", (limits.requests_max as u64).into()),
        ("connections_per_node_max", (limits.connections_per_node_max as u64).into()),
    ])
}

fn command(command: &CustomCommand) -> Value {
    map([
        ("first_key", command.first_key.into()),
        ("last_key", command.last_key.into()),
        ("step", command.step.into()),
        ("read_only", command.read_only.into()),
    ])
}

fn limits(limits: &Limits, policy: &Policy) -> Value {
    let entries = vec![
        ("clients", (limits.clients as u64).into()),
        ("bulk_bytes", size_text(limits.bulk_bytes).into()),
        ("request_bytes", size_text(limits.request_bytes).into()),
        ("args_max", (limits.args_max as u64).into()),
        ("pipeline_depth", (limits.pipeline_depth as u64).into()),
        ("session_bytes_max", size_text(limits.session_bytes_max).into()),
        ("stall_timeout", duration_text(limits.stall_timeout).into()),
        ("idle_timeout", duration_text(limits.idle_timeout).into()),
    ];
    obeyed(policy, "limits.", entries)
}

fn warmth(warmth: &Warmth) -> Value {
    map([
        ("share", share_text(warmth.share).into()),
        ("window", duration_text(warmth.window).into()),
        ("held", warmth.held.word().into()),
    ])
}

fn health(health: &HealthSettings, policy: &Policy) -> Value {
    let entries = vec![
        ("interval", duration_text(health.interval).into()),
        ("timeout", duration_text(health.timeout).into()),
        ("fall", health.fall.into()),
        ("rise", health.rise.into()),
        ("failures", health.failures.into()),
        ("eject_max", share_text(health.eject_max).into()),
        ("flap_window", duration_text(health.flap_window).into()),
        ("flap_max", duration_text(health.flap_max).into()),
        ("deep", health.deep.into()),
        ("window", duration_text(health.window).into()),
        ("volume", health.volume.into()),
        ("failure_rate", share_text(health.failure_rate).into()),
        ("slow_factor", health.slow_factor.into()),
        ("slow_floor", duration_text(health.slow_floor).into()),
        ("slow_eject", health.slow_eject.into()),
    ];
    obeyed(policy, "health.", entries)
}

fn node(node: &NodeSpec) -> Value {
    map([
        ("name", node.name.to_string().into()),
        ("address", node.address.to_string().into()),
        ("weight", node.weight.into()),
        ("zone", optional(node.zone.as_deref())),
    ])
}

//! SETTINGS -> TEXT. Every setting in force, defaults included, as a configuration that resolves to
//! the same settings again; passwords, which settings do not show, are left out.

use serde_yaml::{Mapping, Value};

use super::{
    Settings,
    placement::char_sign_word,
    pool::on_ejected_word,
    units::{duration_text, share_text, size_text},
};
use crate::{
    ring::{self, Placement},
    topology::{CustomCommand, HealthSettings, Limits, NodeSpec, PoolSpec},
};

/// Every setting in force as YAML, without passwords.
pub fn to_yaml(settings: &Settings) -> String {
    let Settings { workers, drain_timeout, buffered_bytes, reload, admin, pools } = settings;
    let watch = map([("max_share", share_text(reload.max_share).into()), ("watch", reload.watch.into())]);
    let tree = map([
        ("workers", (*workers as u64).into()),
        ("drain_timeout", duration_text(*drain_timeout).into()),
        ("buffered_bytes", size_text(*buffered_bytes).into()),
        ("reload", watch),
        ("admin", map([("listen", admin.listen.to_string().into())])),
        ("pools", Value::Mapping(pools.iter().map(|p| (p.name.to_string().into(), pool(p))).collect())),
    ]);
    // A tree of maps, lists and scalars always has a text.
    serde_yaml::to_string(&tree).unwrap_or_default()
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Mapping(entries.into_iter().map(|(key, value)| (key.into(), value)).collect::<Mapping>())
}

fn pool(spec: &PoolSpec) -> Value {
    let p = &spec.policy;
    let listen: Vec<String> = spec.listen.iter().map(ToString::to_string).collect();
    map([
        ("protocol", p.protocol.word().into()),
        ("listen", listen.into()),
        ("ring", ring(&spec.ring)),
        ("request_timeout", duration_text(p.request_timeout).into()),
        ("connect_timeout", duration_text(p.connect_timeout).into()),
        ("slow_timeout", duration_text(p.slow_timeout).into()),
        ("deadline", duration_text(p.deadline).into()),
        ("on_ejected", on_ejected_word(p.on_ejected).into()),
        ("retries", p.retries.into()),
        ("connections_per_node", (p.connections_per_node as u64).into()),
        ("db", p.db.into()),
        ("deny_commands", p.deny.clone().into()),
        (
            "commands",
            Value::Mapping(p.commands.iter().map(|c| (c.name.clone().into(), command(c))).collect()),
        ),
        ("per_key_errors", p.per_key_errors.into()),
        ("limits", limits(&p.limits)),
        ("health", health(&spec.health)),
        ("nodes", spec.nodes.iter().map(node).collect::<Vec<Value>>().into()),
    ])
}

fn ring(ring: &ring::Settings) -> Value {
    let tag = ring.hash_tag.map(|(open, close)| String::from_utf8_lossy(&[open, close]).into_owned());
    let mut entries = vec![("placement", Value::from(ring.placement.word()))];
    match ring.placement {
        Placement::Vnode { points } => entries.push(("points", points.into())),
        Placement::Maglev { slots } => entries.push(("slots", slots.into())),
        Placement::Ketama | Placement::Modula => {}
    }
    entries.push(("hash", ring.hash.word().into()));
    entries.push(("char_sign", char_sign_word(ring.char_sign).into()));
    entries.push(("hash_tag", tag.unwrap_or_default().into()));
    Value::Mapping(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

fn command(command: &CustomCommand) -> Value {
    map([
        ("first_key", command.first_key.into()),
        ("last_key", command.last_key.into()),
        ("step", command.step.into()),
        ("read_only", command.read_only.into()),
    ])
}

fn limits(limits: &Limits) -> Value {
    map([
        ("clients", (limits.clients as u64).into()),
        ("bulk_bytes", size_text(limits.bulk_bytes).into()),
        ("request_bytes", size_text(limits.request_bytes).into()),
        ("args_max", (limits.args_max as u64).into()),
        ("pipeline_depth", (limits.pipeline_depth as u64).into()),
        ("session_bytes_max", size_text(limits.session_bytes_max).into()),
    ])
}

fn health(health: &HealthSettings) -> Value {
    map([
        ("interval", duration_text(health.interval).into()),
        ("timeout", duration_text(health.timeout).into()),
        ("fall", health.fall.into()),
        ("rise", health.rise.into()),
        ("failures", health.failures.into()),
        ("eject_max", share_text(health.eject_max).into()),
    ])
}

fn node(node: &NodeSpec) -> Value {
    let zone = node.zone.as_ref().map_or(Value::Null, |zone| zone.to_string().into());
    map([
        ("name", node.name.to_string().into()),
        ("address", node.address.to_string().into()),
        ("weight", node.weight.into()),
        ("zone", zone),
    ])
}

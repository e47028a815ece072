//! WHO OBEYS WHAT: the keys of a pool that only some protocols have. One table says it, for the
//! reader, which refuses them elsewhere, and for the writer, which leaves them out.

use super::section::Section;
use crate::protocol::{
    Protocol,
    Protocol::{Http, Memcached, Redis},
};

/// A key, or one value of it, that only some protocols obey.
struct Only {
    /// From the pool's section, as in `limits.bulk_bytes`.
    path: &'static str,
    /// Only this value of the key; `None` for all of it.
    value: Option<&'static str>,
    protocols: &'static [Protocol],
    /// What to write instead or why, after a colon; may be empty.
    why: &'static str,
}

const fn only(path: &'static str, protocols: &'static [Protocol], why: &'static str) -> Only {
    Only { path, value: None, protocols, why }
}

const HTTP_LIMITS: &str = "its bounds are below http.limits";
const NO_PASSWORDS: &str = "HTTP's own headers carry credentials, and they pass";
/// Why a key must not be spread over nodes where values change.
const BOUNDED_LOAD: &str = "it sends one key to several nodes when its owner is busy, and a cache whose keys \
                            are written would then answer with different values";

const ONLY: [Only; 25] = [
    only(
        "on_return",
        &[Redis, Memcached],
        "pages can't be taken from an HTTP node by a command of the protocol",
    ),
    only("sole_writer", &[Redis, Memcached], "only on_return: quarantine asks who writes"),
    only("quarantine_max", &[Redis, Memcached], "only on_return: quarantine remembers keys"),
    only("failover", &[Redis, Memcached], "HTTP requests go on to the next node by themselves"),
    only("ttl_max", &[Redis, Memcached], "pages say themselves how long they live"),
    only("durable", &[Redis, Memcached], "write on_ejected: fail"),
    only("slow_timeout", &[Redis, Memcached], "one request is like another"),
    only("connections_per_node", &[Redis, Memcached], "write http.limits.connections_per_node_max"),
    only("auth", &[Redis, Memcached], NO_PASSWORDS),
    only("client_auth", &[Redis, Memcached], NO_PASSWORDS),
    only("db", &[Redis], ""),
    only("deny_commands", &[Redis], ""),
    only("commands", &[Redis], ""),
    only("per_key_errors", &[Redis], ""),
    only("hot_keys", &[Redis, Memcached], "its requests are not sampled"),
    only("limits.bulk_bytes", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.request_bytes", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.args_max", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.pipeline_depth", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.session_bytes_max", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.stall_timeout", &[Redis, Memcached], HTTP_LIMITS),
    only("limits.idle_timeout", &[Redis, Memcached], HTTP_LIMITS),
    only("ring.bounded_load", &[Http], BOUNDED_LOAD),
    only("http", &[Http], ""),
    only("health.deep", &[Redis, Memcached], "write http.probe"),
];

const fn miss(path: &'static str, why: &'static str) -> Only {
    Only { path, value: Some("miss"), protocols: &[Redis, Memcached], why }
}

const ONLY_VALUES: [Only; 3] = [
    miss("on_ejected", "HTTP has no reply that every client takes for a miss; write rehash or fail"),
    Only {
        path: "on_ejected",
        value: Some("failover"),
        protocols: &[Redis, Memcached],
        why: "write rehash or fail",
    },
    miss("warmth.held", "HTTP has no reply that every client takes for a miss; write fail"),
];

/// Whether pools of this protocol have the key.
pub(super) fn obeys(protocol: Protocol, path: &str) -> bool {
    ONLY.iter().all(|only| only.path != path || only.protocols.contains(&protocol))
}

/// Reports what stands in the section of a pool and is not obeyed by its protocol.
pub(super) fn check(pool: &Section<'_>, protocol: Protocol) {
    for only in ONLY.iter().chain(&ONLY_VALUES).filter(|only| !only.protocols.contains(&protocol)) {
        let Some(field) = pool.peek(only.path) else { continue };
        if only.value.is_some_and(|value| !field.is_text(value)) {
            continue;
        }
        let words: Vec<&str> = only.protocols.iter().map(|p| p.word()).collect();
        let what = only.value.map_or(String::new(), |value| format!("`{value}` "));
        let why = if only.why.is_empty() { String::new() } else { format!(": {}", only.why) };
        field.error(format!(
            "{what}is for {} pools, and this one speaks {}{why}",
            words.join(" and "),
            protocol.word()
        ));
    }
}

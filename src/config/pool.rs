//! `pools.NAME`: one pool, its nodes, its policy and its bounds.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{
    commands, http, placement, protocols,
    secret::{self, Surroundings},
    section::{Field, Placed, Section},
    units::{duration, mode, name, number, share, size, switch, times, word, word_of},
};
use crate::{
    net::{Address, ListenAddress},
    protocol::Protocol,
    ring,
    topology::{
        Failover, HealthSettings, HttpSettings, Limits, NodeSpec, OnEjected, OnReturn, Policy, PoolSpec,
        PrefixPolicy, Warmth, WhileHeld,
    },
};

/// A second is a thousand of the unit in which durations are bounded.
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
/// Timeouts: below a millisecond none can be kept, above an hour none is meant.
const TIMEOUT: RangeInclusive<u64> = 1..=HOUR;
/// How long a client may wait: a worker's clock tells no longer times from those that are past.
const WAIT: RangeInclusive<u64> = 1..=15 * 60 * SECOND;
const COUNT: RangeInclusive<u32> = 1..=1_000;
/// Most commands have no more arguments.
const ARGS_MIN: usize = 8;
/// What a redis-server takes by default: `proto-max-bulk-len`, and arguments of a request.
const REDIS_BULK: usize = 512 << 20;
const REDIS_ARGS: usize = 1 << 20;
const NODES_MAX: usize = 65_536;
const WEIGHT_MAX: u32 = 65_535;
const LISTENERS_MAX: usize = 16;
/// A redis-server has this many databases unless it is told otherwise.
const DATABASES: u32 = 16;

/// A pool, and where its listeners stand for the checks across pools.
pub(super) struct Read {
    pub(super) spec: PoolSpec,
    pub(super) listen: Vec<Placed<ListenAddress>>,
    /// Nodes that return are cleaned, and nobody wrote that they should be.
    pub(super) on_return_unasked: bool,
    /// Nor whether this ringway is the one that writes.
    pub(super) sole_writer_unasked: bool,
}

/// Reads the pool called `pool`.
pub(super) fn pool(name: &Placed<&str>, mut section: Section<'_>, around: &Surroundings<'_>) -> Option<Read> {
    let pool = pool_name(name.value).map_err(|message| section.report().error(&name.place, message));
    let mut protocol = Protocol::default();
    section.read("protocol", &mut protocol, |t| word(&Protocol::ALL, t));
    let listen = section.require("listen", "write an address, as in 127.0.0.1:6380").map(|f| listen(&f));
    protocols::check(&section, protocol);
    let defaults = placement::defaults(protocol);
    let ring = section.inner("ring").map(|s| placement::ring(s, defaults.clone()));
    let place = section.place().clone();
    let (ring, bounded_load) = ring.unwrap_or((Placed { value: defaults, place }, None));
    let mut policy = policy(&mut section, protocol, around);
    let http = section.inner("http").map(http::http).unwrap_or_default();
    policy.http = Arc::new(HttpSettings { bounded_load, ..http });
    let health = section.inner("health").map(health).unwrap_or_default();
    let nodes = section.require("nodes", "list at least one node").map(|f| nodes(&f)).unwrap_or_default();
    let listen = listen.unwrap_or_default();
    let specs: Vec<NodeSpec> = nodes.iter().map(|n| n.spec.clone()).collect();
    let members: Vec<ring::Member> = specs.iter().map(NodeSpec::member).collect();
    placement::check(&ring, &members, &section);
    let on_return_unasked = policy.on_return != OnReturn::Serve && section.peek("on_return").is_none();
    check_policy(&section, &policy, &health);
    let sole_writer_unasked = section.peek("sole_writer").is_none();
    check_listeners(&listen, &policy, &section);
    check_nodes(&nodes, &listen, &policy);
    section.finish();
    let spec = PoolSpec {
        name: pool.ok()?,
        listen: listen.iter().map(|l| l.value.clone()).collect(),
        ring: ring.value,
        policy: Arc::new(policy),
        health,
        nodes: specs,
    };
    Some(Read { spec, listen, on_return_unasked, sole_writer_unasked })
}

/// A pool's name stands in addresses of the admin port, so it keeps to what needs no escape there.
fn pool_name(text: &str) -> Result<Arc<str>, String> {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return name(text);
    }
    Err("a pool's name has letters, digits, `-`, `_` and `.` only".to_owned())
}

/// One address or a list of them.
fn listen(field: &Field<'_>) -> Vec<Placed<ListenAddress>> {
    let items = field.items();
    if items.is_empty() || items.len() > LISTENERS_MAX {
        field.error(format!("is a list of {} addresses; write 1 to {LISTENERS_MAX}", items.len()));
        return Vec::new();
    }
    let read = |item: &Field<'_>| {
        let value = item.parse(listen_address)?;
        Some(Placed { value, place: item.place.clone() })
    };
    items.iter().filter_map(read).collect()
}

/// An address to listen on.
pub(super) fn listen_address(text: &str) -> Result<ListenAddress, String> {
    text.parse().map_err(|e: crate::net::ParseError| e.to_string())
}

fn policy(section: &mut Section<'_>, protocol: Protocol, around: &Surroundings<'_>) -> Policy {
    let mut p = Policy::of(protocol);
    section.read("request_timeout", &mut p.request_timeout, duration(TIMEOUT));
    section.read("connect_timeout", &mut p.connect_timeout, duration(TIMEOUT));
    section.read("slow_timeout", &mut p.slow_timeout, duration(WAIT));
    section.read("deadline", &mut p.deadline, duration(WAIT));
    section.read("on_ejected", &mut p.on_ejected, |t| word_of(OnEjected::ALL, OnEjected::word, t));
    section.read("durable", &mut p.durable, switch);
    if p.durable && section.peek("on_ejected").is_none() {
        p.on_ejected = OnEjected::Fail;
    }
    p.prefixes = section.take("prefixes").map(|f| prefixes(&f, protocol)).unwrap_or_default();
    section.read("hold_down", &mut p.hold_down, duration(0..=24 * HOUR));
    p.failover = section.inner("failover").and_then(failover);
    section.read("ttl_max", &mut p.ttl_max, |t| duration(TTL)(t).map(Some));
    if p.durable || !p.moves_keys() {
        p.on_return = OnReturn::Serve;
    }
    section.read("on_return", &mut p.on_return, |t| word_of(OnReturn::ALL, OnReturn::word, t));
    section.read("sole_writer", &mut p.sole_writer, switch);
    section.read("quarantine_max", &mut p.quarantine_max, number(1..=10_000_000));
    section.read("slow_start", &mut p.slow_start, duration(0..=HOUR));
    p.warmth = section.inner("warmth").map(warmth).unwrap_or_default();
    section.read("retries", &mut p.retries, number(0..=10));
    section.read("connections_per_node", &mut p.connections_per_node, number(1..=64));
    p.auth = section.written("auth").and_then(Field::section).and_then(|s| secret::node_auth(s, around));
    section.read("db", &mut p.db, number(0..=65_535));
    p.client_auth =
        section.written("client_auth").and_then(Field::section).and_then(|s| secret::client_auth(s, around));
    (p.commands, p.deny) = commands::commands(section);
    section.read("per_key_errors", &mut p.per_key_errors, switch);
    section.read("hot_keys", &mut p.hot_keys, switch);
    section.read("socket_mode", &mut p.socket_mode, |t| mode(t).map(Some));
    p.limits = section.inner("limits").map(limits).unwrap_or_default();
    p
}

/// Times to live: memcached knows seconds.
const TTL: RangeInclusive<u64> = SECOND..=365 * 24 * HOUR;

/// Which pool serves the keys of ejected nodes.
fn failover(mut section: Section<'_>) -> Option<Failover> {
    let pool = section.require("pool", "write the name of another pool of this file");
    let ttl = section.require("ttl_max", "how long what is written there lives at most, as in 60s");
    section.finish();
    let pool = pool.as_ref().and_then(|f| f.parse(name));
    let ttl_max = ttl.as_ref().and_then(|f| f.parse(duration(TTL)));
    Some(Failover { pool: pool?, ttl_max: ttl_max? })
}

/// Prefixes that a pool may tell apart: each costs every request for the keys of a node that is away.
const PREFIXES_MAX: usize = 100;

/// What happens to keys that begin in some way. HTTP has no miss.
fn prefixes(field: &Field<'_>, protocol: Protocol) -> Vec<PrefixPolicy> {
    if !field.is_list() {
        field.error("is not a list; write `- {prefix: 'session:', on_ejected: fail}` lines below it");
        return Vec::new();
    }
    let items = field.items();
    if items.len() > PREFIXES_MAX {
        field.error(format!("has {} prefixes; {PREFIXES_MAX} are read", items.len()));
        return Vec::new();
    }
    let mut read: Vec<PrefixPolicy> = Vec::new();
    for item in items {
        let Some(mut section) = item.section() else { continue };
        let prefix = section.require("prefix", "write how the keys begin");
        let action = section.require("on_ejected", "write what happens to them");
        section.finish();
        let on_ejected =
            action.as_ref().and_then(|f| f.parse(|t| word_of(OnEjected::ALL, OnEjected::word, t)));
        let bytes = prefix.as_ref().and_then(|f| {
            f.parse(
                |t| if t.is_empty() { Err("is empty: write on_ejected".to_owned()) } else { Ok(t.into()) },
            )
        });
        let (Some(prefix), Some(action), Some(on_ejected)) = (prefix, action, on_ejected) else { continue };
        let Some::<Box<str>>(text) = bytes else { continue };
        if protocol == Protocol::Http && on_ejected == OnEjected::Miss {
            action.error("`miss` is for redis and memcached pools; write rehash or fail");
        }
        let entry = PrefixPolicy { prefix: text.as_bytes().into(), on_ejected };
        if read.iter().any(|other| other.prefix == entry.prefix) {
            prefix.error(format!("`{text}` is here twice"));
            continue;
        }
        read.push(entry);
    }
    read
}

fn limits(mut section: Section<'_>) -> Limits {
    let mut l = Limits::default();
    section.read("clients", &mut l.clients, number(1..=1_000_000));
    section.read("bulk_bytes", &mut l.bulk_bytes, size(1 << 10..=4 << 30));
    section.read("request_bytes", &mut l.request_bytes, size(1 << 10..=16 << 30));
    section.read("args_max", &mut l.args_max, number(ARGS_MIN..=1 << 24));
    section.read("pipeline_depth", &mut l.pipeline_depth, number(1..=1_000_000));
    section.read("session_bytes_max", &mut l.session_bytes_max, size(64 << 10..=64 << 30));
    section.read("stall_timeout", &mut l.stall_timeout, duration(SECOND..=600 * SECOND));
    section.read("idle_timeout", &mut l.idle_timeout, idle);
    if l.request_bytes < l.bulk_bytes {
        let place = section.place_of("request_bytes");
        section.report().warn(&place, "is below bulk_bytes, which can then never be reached");
    }
    section.finish();
    l
}

/// How long a client may ask for nothing: not so short that it is cut off between two requests.
fn idle(text: &str) -> Result<Duration, String> {
    match duration(0..=HOUR)(text)? {
        idle if idle < Duration::from_secs(1) && !idle.is_zero() => {
            Err(format!("`{text}` is outside 1s to 1h; 0s lets clients stay"))
        }
        idle => Ok(idle),
    }
}

fn warmth(mut section: Section<'_>) -> Warmth {
    let mut w = Warmth::default();
    section.read("share", &mut w.share, share);
    section.read("window", &mut w.window, duration(SECOND..=24 * HOUR));
    section.read("held", &mut w.held, |t| word_of(WhileHeld::ALL, WhileHeld::word, t));
    section.finish();
    w
}

fn health(mut section: Section<'_>) -> HealthSettings {
    let mut h = HealthSettings::default();
    section.read("interval", &mut h.interval, duration(10..=HOUR));
    section.read("timeout", &mut h.timeout, duration(TIMEOUT));
    section.read("fall", &mut h.fall, number(COUNT));
    section.read("rise", &mut h.rise, number(COUNT));
    section.read("failures", &mut h.failures, number(COUNT));
    section.read("eject_max", &mut h.eject_max, share);
    section.read("flap_window", &mut h.flap_window, duration(0..=24 * HOUR));
    section.read("flap_max", &mut h.flap_max, duration(0..=HOUR));
    section.read("deep", &mut h.deep, switch);
    section.read("window", &mut h.window, duration(SECOND..=HOUR));
    section.read("volume", &mut h.volume, number(1..=1_000_000_000));
    section.read("failure_rate", &mut h.failure_rate, share);
    section.read("slow_factor", &mut h.slow_factor, times);
    section.read("slow_floor", &mut h.slow_floor, duration(0..=HOUR));
    section.read("slow_eject", &mut h.slow_eject, switch);
    section.finish();
    h
}

/// A node, and where its parts stand.
struct NodeRead<'a> {
    spec: NodeSpec,
    name: Field<'a>,
    address: Field<'a>,
}

fn nodes<'a>(field: &Field<'a>) -> Vec<NodeRead<'a>> {
    if !field.is_list() {
        field.error("is not a list; write `- {name: a, address: host:port}` lines below it");
        return Vec::new();
    }
    let items = field.items();
    if items.is_empty() {
        field.error("has no nodes; list at least one");
    }
    if items.len() > NODES_MAX {
        field.error(format!("has {} nodes; a pool takes {NODES_MAX}", items.len()));
        return Vec::new();
    }
    let mut lines = HashMap::new();
    items.into_iter().filter_map(|f| node(f.section()?, &mut lines)).collect()
}

/// Reads one node. Its name is required, because it is what the ring places keys by, and no other
/// node may have it; `lines` remembers those that were met.
fn node<'a>(mut section: Section<'a>, lines: &mut HashMap<Arc<str>, usize>) -> Option<NodeRead<'a>> {
    let name_field = section.require("name", "it is the node's identity in the ring");
    let address = section.require("address", "write host:port, unix:/path or embedded");
    let (mut weight, mut zone) = (1, None);
    section.read("weight", &mut weight, number(1..=WEIGHT_MAX));
    section.read("zone", &mut zone, |t| name(t).map(Some));
    section.finish();
    let name = name_field.as_ref().and_then(|f| f.parse(name));
    let to = address.as_ref().and_then(|f| f.parse(node_address));
    let (name, name_field) = (name?, name_field?);
    if let Some(first) = lines.insert(name.clone(), name_field.place.mark.line) {
        name_field.error(format!("`{name}` is the name of the node in line {first} too"));
    }
    let spec = NodeSpec { name, address: to?, weight, zone };
    Some(NodeRead { spec, name: name_field, address: address? })
}

fn node_address(text: &str) -> Result<Address, String> {
    text.parse().map_err(|e: crate::net::ParseError| e.to_string())
}

/// memcached's authfile has lines of `user:password`, and so have both secrets here.
fn check_memcached_auth(section: &Section<'_>, policy: &Policy) {
    if policy.auth.as_ref().is_some_and(|auth| auth.user.is_none()) {
        section.report().error(&section.place_of("auth"), "has no user; memcached's login has one");
    }
    if policy.client_auth.as_ref().is_some_and(|secret| !secret.0.contains(&b':')) {
        let text = "is not user:password, as a line of memcached's authfile is";
        section.report().error(&section.place_of("client_auth"), text);
    }
}

/// Who needs a bounded time to live, and who needs a gutter, has one.
fn check_lives(section: &Section<'_>, policy: &Policy) {
    let error = |key: &str, text: &str| section.report().error(&section.place_of(key), text);
    if policy.on_return == OnReturn::Ttl && policy.ttl_max.is_none() {
        error(
            "on_return",
            "is ttl, and without ttl_max nothing says when old values have expired; write ttl_max",
        );
    }
    if policy.fails_over() && policy.failover.is_none() && section.peek("failover").is_none() {
        let text = "is failover, and no pool is named; write failover: {pool: NAME, ttl_max: 60s}";
        error(if policy.on_ejected == OnEjected::Failover { "on_ejected" } else { "prefixes" }, text);
    }
    if policy.failover.is_some() && !policy.fails_over() {
        let text = "has no effect: on_ejected is failover neither for the pool nor for a prefix";
        section.report().warn(&section.place_of("failover"), text);
    }
}

/// Settings that are each fine and together not what they seem.
fn check_policy(section: &Section<'_>, policy: &Policy, health: &HealthSettings) {
    let warn = |key: &str, text: &str| section.report().warn(&section.place_of(key), text);
    if policy.protocol == Protocol::Memcached {
        check_memcached_auth(section, policy);
    }
    if policy.deadline < policy.request_timeout {
        warn("deadline", "is below request_timeout: clients give up before a hung node is noticed");
    }
    if policy.deadline < policy.connect_timeout {
        warn("deadline", "is below connect_timeout: clients give up before a connection has failed");
    }
    if policy.slow_timeout < policy.request_timeout && policy.protocol != Protocol::Http {
        let text = "is below request_timeout: scripts and commands for all nodes fail where a GET does not";
        warn("slow_timeout", text);
    }
    if policy.durable {
        check_durable(section, policy);
    }
    check_lives(section, policy);
    if policy.protocol == Protocol::Redis {
        check_redis(section, policy);
    }
    if !policy.slow_start.is_zero() && !policy.moves_keys() {
        warn("slow_start", "has no effect: keys of this pool do not move");
    }
    if policy.sole_writer && policy.on_return != OnReturn::Quarantine {
        warn("sole_writer", "has no effect: only on_return: quarantine asks who writes");
    }
    if !policy.hold_down.is_zero() && !policy.moves_keys() {
        warn("hold_down", "has no effect: keys of this pool do not move anyhow");
    }
    if policy.on_return != OnReturn::Serve && !policy.moves_keys() && !policy.durable {
        let text = format!(
            "is {}, and keys of this pool do not move: nothing is old, and all of it would be lost",
            policy.on_return.word()
        );
        section.report().error(&section.place_of("on_return"), text);
    }
    if policy.moves_keys() && policy.warmth.share == 0.0 {
        warn("warmth", "share is 0%: of several nodes that fail, only one gives up its keys in each window");
    }
    if policy.db >= DATABASES {
        warn("db", "is above 15: a redis-server has databases 0 to 15 unless `databases` is set there");
    }
    if health.timeout > health.interval {
        warn("health", "timeout is above interval: a probe may still run when the next is due");
    }
    if health.eject_max == 0.0 {
        warn("health", "eject_max is 0%: no node is ever ejected");
    }
    if health.interval > Duration::from_millis(60 * SECOND) {
        warn("health", "interval is above 1m: a node that is back waits long for its keys");
    }
}

/// What clients of a Redis pool need to get in, and what its nodes would refuse.
fn check_redis(section: &Section<'_>, policy: &Policy) {
    let is_denied = |command: &str| policy.deny.iter().any(|denied| denied == command);
    if policy.client_auth.is_some() && is_denied("AUTH") && is_denied("HELLO") {
        let text = "has AUTH and HELLO, and there is client_auth: no client could log in";
        section.report().error(&section.place_of("deny_commands"), text);
    }
    let warn = |what: &str| {
        let text = format!(
            "{what} is above what a redis-server takes unless it is told otherwise: it would close connections that              others use, too"
        );
        section.report().warn(&section.place_of("limits"), text);
    };
    if policy.limits.bulk_bytes > REDIS_BULK {
        warn("bulk_bytes");
    }
    if policy.limits.args_max > REDIS_ARGS {
        warn("args_max");
    }
}

/// What must outlive its node is neither given to another one nor deleted.
fn check_durable(section: &Section<'_>, policy: &Policy) {
    let error = |key: &str, text: String| section.report().error(&section.place_of(key), text);
    let lost = "in a durable pool: what is written elsewhere would be lost";
    if policy.on_ejected.moves() {
        error("on_ejected", format!("is {} {lost}", policy.on_ejected.word()));
    }
    if let Some(prefix) = policy.prefixes.iter().find(|p| p.on_ejected.moves()) {
        error("prefixes", format!("has {} {lost}", prefix.on_ejected.word()));
    }
    if policy.ttl_max.is_some() {
        error("ttl_max", "lets keys expire, and those of a durable pool are to stay".to_owned());
    }
    if policy.on_return != OnReturn::Serve {
        let word = policy.on_return.word();
        error("on_return", format!("is {word} in a durable pool: nothing is deleted there; write serve"));
    }
}

fn check_listeners(listen: &[Placed<ListenAddress>], policy: &Policy, section: &Section<'_>) {
    let has_file = listen.iter().any(|l| matches!(l.value, ListenAddress::Unix(_)));
    if policy.socket_mode.is_some() && !has_file {
        let text = "is the mode of a unix socket's file, and this pool listens on none; write listen: unix:/run/x.sock";
        section.report().warn(&section.place_of("socket_mode"), text);
    }
    // A web server is there to be reached.
    let is_open = policy.protocol != Protocol::Http && policy.client_auth.is_none();
    for listener in listen.iter().filter(|l| is_open && !l.value.is_local()) {
        let text = "can be reached from other machines and asks for no password; add client_auth";
        section.report().warn(&listener.place, text);
    }
}

fn check_nodes(nodes: &[NodeRead<'_>], listen: &[Placed<ListenAddress>], policy: &Policy) {
    let mut addresses = HashMap::new();
    for NodeRead { spec, name, address } in nodes {
        if spec.address == Address::Embedded {
            if policy.protocol == Protocol::Http {
                address.error("an embedded node speaks redis or memcached, not http; write host:port");
            }
            if policy.auth.is_some() || policy.db != 0 {
                address.warn("an embedded node has no passwords and no database but 0");
            }
            continue;
        }
        if let Some(first) = addresses.insert(&spec.address, name.place.mark.line) {
            address.warn(format!("`{}` is the address of the node in line {first} too", spec.address));
        }
        if let Some(own) = listen.iter().find(|l| is_at(&spec.address, &l.value)) {
            let own = match own.value.to_string() {
                own if own == spec.address.to_string() => String::new(),
                own => format!(" ({own})"),
            };
            address.error(format!("`{}` is where this pool listens{own}: it would ask itself", spec.address));
        }
    }
    if let [only] = nodes {
        only.name.warn("is the only node of its pool: nothing can take over its keys");
    }
}

/// Whether a node is asked where a pool listens. One that listens on all addresses listens on each of this
/// machine's.
pub(super) fn is_at(node: &Address, listener: &ListenAddress) -> bool {
    match (node, listener) {
        (Address::Unix(node), ListenAddress::Unix(own)) => node == own,
        (Address::Tcp { host, port }, ListenAddress::Tcp(own)) if *port == own.port() => {
            let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
            let node = if host == "localhost" { Some(localhost) } else { host.parse().ok() };
            let is_same_kind = |ip: IpAddr| own.is_ipv6() || ip.is_ipv4();
            let is_ours = |ip: IpAddr| ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok();
            let is_here =
                |ip: IpAddr| ip == own.ip() || own.ip().is_unspecified() && is_same_kind(ip) && is_ours(ip);
            node.is_some_and(is_here)
        }
        _ => false,
    }
}

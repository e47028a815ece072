//! FILE -> SETTINGS. Reads every key, lets what is absent have its default, checks what spans
//! sections, and reports every error before it fails once.

use std::{collections::HashMap, path::PathBuf, sync::Arc, thread};

use super::{
    IncidentLog, Loaded, Reload, Settings,
    finding::{Errors, Place, Report},
    pool, protocols,
    secret::Surroundings,
    section::{Placed, Section},
    tree,
    units::{duration, number, share, size, switch},
};
use crate::{
    net::{Address, ListenAddress},
    topology::{NodeSpec, OnReturn, PoolSpec},
};

const WORKERS_MAX: usize = 1024;
const POOLS_MAX: usize = 1024;
const HOUR_MS: u64 = 3_600_000;
/// What to say of a text without a single key.
const EMPTY: &str = "is empty; a configuration needs `pools:` with a listener and nodes";

/// Resolves the text of a configuration; `origin` is its name in messages.
pub(super) fn resolve(text: &str, origin: &str, around: &Surroundings<'_>) -> Result<Loaded, Errors> {
    let report = Report::new(origin);
    let settings = match tree::parse(text, &report) {
        Some(root) if root.is_absent() => {
            report.error(&Place::default(), EMPTY);
            None
        }
        Some(root) => Section::root(&root, &report).map(|s| settings(s, around)),
        None => None,
    };
    let warnings = report.finish()?;
    // Without an error there was a root section, so this default is never seen.
    Ok(Loaded { settings: settings.unwrap_or_default(), warnings })
}

fn settings(mut root: Section<'_>, around: &Surroundings<'_>) -> Settings {
    let mut settings = Settings::default();
    root.read("workers", &mut settings.workers, number(1..=WORKERS_MAX));
    root.read("coalesce", &mut settings.coalesce, switch);
    root.read("drain_timeout", &mut settings.drain_timeout, duration(0..=HOUR_MS));
    root.read("drain_delay", &mut settings.drain_delay, duration(0..=HOUR_MS));
    root.read("buffered_bytes", &mut settings.buffered_bytes, size(1 << 20..=1 << 40));
    if let Some(section) = root.inner("reload") {
        settings.reload = reload(section);
    }
    if let Some(section) = root.inner("incidents") {
        settings.incidents = incidents(section, around);
    }
    root.read("state_file", &mut settings.state_file, |text| path(text, around));
    let mut listeners = vec![admin(&mut root, &mut settings)];
    if let Some(pools) = root.require("pools", "name at least one pool below it").and_then(|f| f.section()) {
        settings.pools = self::pools(pools, around, &mut listeners);
    }
    check_listeners(&listeners, root.report());
    check_bytes(&root, &settings);
    check_gutters(&root, &settings.pools);
    check_shared_gutters(&root, &settings.pools);
    check_flushed(&root, &settings.pools);
    check_circles(&root, &settings.pools);
    root.finish();
    settings
}

fn reload(mut section: Section<'_>) -> Reload {
    let mut reload = Reload::default();
    section.read("max_share", &mut reload.max_share, share);
    section.read("watch", &mut reload.watch, switch);
    section.read("flush_new", &mut reload.flush_new, switch);
    section.finish();
    reload
}

/// A relative path starts at the configuration's directory.
fn path(text: &str, around: &Surroundings<'_>) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Err("is empty; write a path, or leave it out".to_owned()),
        text => Ok(Some(around.directory.join(text))),
    }
}

fn incidents(mut section: Section<'_>, around: &Surroundings<'_>) -> IncidentLog {
    let mut log = IncidentLog::default();
    section.read("file", &mut log.file, |text| path(text, around));
    section.read("file_bytes_max", &mut log.file_bytes_max, |text| {
        size(64 << 10..=64 << 30)(text).map(|bytes| bytes as u64)
    });
    section.finish();
    log
}

/// Reads `admin`; returns where it listens, with its place.
fn admin(root: &mut Section<'_>, settings: &mut Settings) -> Placed<ListenAddress> {
    let mut place = root.place_of("admin");
    if let Some(mut section) = root.inner("admin") {
        section.read("listen", &mut settings.admin.listen, pool::listen_address);
        place = section.place_of("listen");
        section.finish();
    }
    let listen = settings.admin.listen.clone();
    if !listen.is_local() {
        root.report()
            .warn(&place, "can be reached from other machines, and the admin port asks for no password");
    }
    Placed { value: listen, place }
}

fn pools(
    section: Section<'_>,
    around: &Surroundings<'_>,
    listeners: &mut Vec<Placed<ListenAddress>>,
) -> Vec<PoolSpec> {
    let (report, place) = (section.report(), section.place().clone());
    let mut pools = Vec::new();
    let mut unasked = Vec::new();
    let mut count = 0;
    for (name, field) in section.named() {
        count += 1;
        if count > POOLS_MAX {
            report.error(&name.place, format!("is one pool more than the {POOLS_MAX} that are read"));
            break;
        }
        if let Some(read) = field.section().and_then(|s| pool::pool(&name, s, around)) {
            listeners.extend(read.listen);
            unasked.push(read.on_return_unasked.then_some((name.place, read.sole_writer_unasked)));
            pools.push(read.spec);
        }
    }
    if count == 0 {
        report.error(&place, "has no pools; name at least one");
    }
    clean_only_own_nodes(&mut pools, &unasked, report);
    pools
}

/// By default a node may be emptied when it returns; not one that others have, too. `unasked` has the
/// places of pools whose file does not say what becomes of returning nodes, and whether it does not say who
/// writes either: their nodes are emptied after each absence, however short.
fn clean_only_own_nodes(pools: &mut [PoolSpec], unasked: &[Option<(Place, bool)>], report: &Report) {
    let mut users: HashMap<String, Vec<usize>> = HashMap::new();
    for (i, pool) in pools.iter().enumerate() {
        for node in pool.nodes.iter().filter(|node| node.address != Address::Embedded) {
            users.entry(node.address.to_string()).or_default().push(i);
        }
    }
    let unasked = unasked.iter().enumerate().filter_map(|(i, place)| Some((i, place.as_ref()?)));
    for (i, (place, is_unsaid)) in unasked {
        let addresses = pools[i].nodes.iter().map(|node| node.address.to_string());
        let is_shared = |address: &String| users.get(address).is_some_and(|users| users.len() > 1);
        if let Some(address) = addresses.into_iter().find(is_shared) {
            let text = "there more than once; on_return is serve, so nodes that return serve old data";
            report.warn(place, format!("has the node `{address}`, which is {text}"));
            Arc::make_mut(&mut pools[i].policy).on_return = OnReturn::Serve;
            continue;
        }
        let policy = &pools[i].policy;
        let is_inexact = policy.on_return == OnReturn::Quarantine && !policy.sole_writer;
        // Nobody reaches embedded nodes but through this process, and they have nothing to lose.
        let has_more = pools[i].nodes.iter().any(|node| node.address != Address::Embedded);
        if *is_unsaid && is_inexact && has_more {
            let what = match policy.keeps_keys() {
                true => "loses all keys that others had meanwhile",
                false => "is emptied",
            };
            let text = format!(
                "says neither sole_writer nor on_return: a node that was away for a moment {what} before it serves \
                 again, also for all others that use it; write sole_writer: true if nobody else writes to the nodes, as \
                 other pools do to a gutter's, on_return: serve if another ringway has them (docs/operations.md, more \
                 than one ringway), or on_return: flush if that is meant"
            );
            report.warn(place, text);
        }
    }
}

/// No two listeners may want one address. A wildcard address wants its port on all of them.
fn check_listeners(listeners: &[Placed<ListenAddress>], report: &Report) {
    let clash = |a: &ListenAddress, b: &ListenAddress| match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let any = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() != 0 && a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (any || a.ip() == b.ip())
        }
        (a, b) => a == b,
    };
    for (i, later) in listeners.iter().enumerate() {
        if let Some(first) = listeners[..i].iter().find(|first| clash(&first.value, &later.value)) {
            let message = format!("`{}` is taken by {}", later.value, first.place.path);
            report.error(&later.place, message);
        }
    }
}

/// What all sessions may hold together should be enough for one.
fn check_bytes(root: &Section<'_>, settings: &Settings) {
    let exceeds = |p: &&PoolSpec| {
        protocols::obeys(p.policy.protocol, "limits.session_bytes_max")
            && p.policy.limits.session_bytes_max > settings.buffered_bytes
    };
    for pool in settings.pools.iter().filter(exceeds) {
        let message =
            format!("is below session_bytes_max of pool {}, which can then never be reached", pool.name);
        root.report().warn(&root.place_of("buffered_bytes"), message);
    }
}

/// A node that one pool empties must not be another's, nor be there twice: the other would lose its keys.
fn check_flushed(root: &Section<'_>, pools: &[PoolSpec]) {
    let mut seen: HashMap<(String, u32), &str> = HashMap::new();
    let flushes = |pool: &PoolSpec| pool.policy.on_return != OnReturn::Serve;
    let nodes = || pools.iter().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node)));
    for (pool, node) in nodes().filter(|(_, node)| node.address != Address::Embedded) {
        // FLUSHALL takes all databases, FLUSHDB that of the pool.
        let db = if pools.iter().any(|p| flushes(p) && p.policy.db == 0) { 0 } else { pool.policy.db };
        let Some(first) = seen.insert((node.address.to_string(), db), &pool.name) else { continue };
        let (other, node) = (pools.iter().find(|p| &*p.name == first), &node.address);
        if let Some(flusher) = [Some(pool), other].into_iter().flatten().find(|p| flushes(p)) {
            let place = root.place_of("pools");
            let name = &flusher.name;
            let text = format!(
                "pool {name} has on_return: {}, and `{node}` is a node of {first} and {} too",
                flusher.policy.on_return.word(),
                pool.name
            );
            root.report().error(&place, text);
        }
    }
}

/// A pool may have another pool as its node, but requests must come to an end somewhere.
fn check_circles(root: &Section<'_>, pools: &[PoolSpec]) {
    let asks = |from: &PoolSpec, to: &PoolSpec| {
        let at = |node: &NodeSpec| to.listen.iter().any(|listen| pool::is_at(&node.address, listen));
        from.nodes.iter().any(at)
    };
    let onward: Vec<Vec<usize>> = pools
        .iter()
        .map(|from| {
            (0..pools.len()).filter(|to| pools[*to].name != from.name && asks(from, &pools[*to])).collect()
        })
        .collect();
    for (start, pool) in pools.iter().enumerate() {
        let (mut seen, mut next) = (vec![false; pools.len()], onward[start].clone());
        while let Some(at) = next.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                next.extend(&onward[at]);
            }
        }
        if seen[start] {
            let text = format!(
                "pool {} has a node that is another pool, and that comes back to it: requests would go round",
                pool.name
            );
            root.report().error(&root.place_of("pools"), text);
            return;
        }
    }
}

/// A pool that takes the keys of another's ejected nodes is there, and fit for it.
fn check_gutters(root: &Section<'_>, pools: &[PoolSpec]) {
    let gutters = pools.iter().filter_map(|pool| Some((pool, pool.policy.failover.as_ref()?)));
    for (pool, failover) in gutters {
        let gutter = pools.iter().find(|gutter| gutter.name == failover.pool);
        let shares = |gutter: &PoolSpec| {
            let own = |node: &&NodeSpec| pool.nodes.iter().any(|own| own.address == node.address);
            gutter.nodes.iter().filter(|node| node.address != Address::Embedded).find(own).cloned()
        };
        let why = match gutter {
            None => "and there is no such pool; write the name of another pool of this file".to_owned(),
            Some(gutter) if gutter.name == pool.name => "which is itself; write another pool".to_owned(),
            Some(gutter) if gutter.policy.protocol != pool.policy.protocol => {
                format!(
                    "which speaks {}, and this one {}",
                    gutter.policy.protocol.word(),
                    pool.policy.protocol.word()
                )
            }
            Some(gutter) if gutter.policy.fails_over() => {
                "which fails over itself; a gutter has none".to_owned()
            }
            Some(gutter) if gutter.policy.sole_writer => {
                "which says sole_writer: true, and this pool would write there, too".to_owned()
            }
            Some(gutter) if gutter.policy.durable => {
                "which is durable, and what is written there by this one is to expire".to_owned()
            }
            Some(gutter) => match shares(gutter) {
                Some(node) => format!("and `{}` is a node of both", node.address),
                None => continue,
            },
        };
        let text = format!("pool {} has failover to {}, {why}", pool.name, failover.pool);
        root.report().error(&failover_place(root, pool), text);
    }
}

/// Keys of several pools that fail over to one are told apart by nothing there.
fn check_shared_gutters(root: &Section<'_>, pools: &[PoolSpec]) {
    let mut users: HashMap<&str, &PoolSpec> = HashMap::new();
    for pool in pools {
        let Some(failover) = &pool.policy.failover else { continue };
        let first = users.entry(&failover.pool).or_insert(pool);
        if first.name != pool.name {
            let text = format!(
                "pools {} and {} both have failover to {}, where a key of one is the key of the same name of the other: \
                 fine if no name is in both; else give each a gutter of its own",
                first.name, pool.name, failover.pool
            );
            root.report().warn(&failover_place(root, pool), text);
        }
    }
}

fn failover_place(root: &Section<'_>, pool: &PoolSpec) -> Place {
    let place = root.peek(&format!("pools.{}.failover", pool.name)).map(|field| field.place);
    place.unwrap_or_else(|| root.place_of("pools"))
}

/// One data worker per core.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

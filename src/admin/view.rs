//! What the routes show, from a topology: plain data, ready to be written.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde::Serialize;
use tokio::time::Instant;

use super::{AdminState, LastReload, Pool};
use crate::{
    metrics::{NodeView, PoolView, Process, ProcessView, render},
    ring,
    topology::{Entry, ErrorReply, Evidence, Failure, Health, Order, Placement, Topology, WaitReason},
};

/// ringway's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// For so many seconds a node that answered that it takes no writes is said to take none.
const LATELY_S: u64 = 60;

/// The answer of `/v1/topology`.
#[derive(Serialize)]
pub(super) struct TopologyPage<'a> {
    boot_id: &'a str,
    version: &'static str,
    draining: bool,
    /// What came of the last reload; `null` when there was none.
    last_reload: Option<Arc<LastReload>>,
    /// Why the state file can't be written; `null` when it can, or there is none.
    state_file_error: Option<Arc<String>>,
    pools: Vec<PoolPart<'a>>,
}

#[derive(Serialize)]
struct PoolPart<'a> {
    name: &'a str,
    epoch: u64,
    revision: u64,
    placement: String,
    hash: String,
    /// All that the ring is made from beside its nodes, in the words of the configuration.
    ring: RingPart,
    /// What of an HTTP request is its key.
    http_key: Option<String>,
    on_ejected: &'static str,
    /// The pool that serves the keys of nodes that are away, if one does.
    failover: Option<&'a str>,
    serves: bool,
    /// Why it serves worse than it should, though no node of it may be ejected.
    degraded: Option<String>,
    /// Seconds until the warmth budget may let a held node's keys go, or a cold node return; `null`
    /// when nothing waits.
    budget_due_s: Option<f64>,
    nodes: Vec<NodePart<'a>>,
}

#[derive(Serialize)]
struct RingPart {
    placement: &'static str,
    /// Of vnode.
    points: Option<u32>,
    /// Of maglev.
    slots: Option<u32>,
    hash: &'static str,
    char_sign: &'static str,
    /// Its two characters, or nothing.
    hash_tag: String,
}

#[derive(Serialize)]
struct NodePart<'a> {
    name: &'a str,
    address: String,
    zone: Option<&'a str>,
    weight: u32,
    health: Health,
    placement: &'static str,
    /// The share of its keys that it serves.
    admitted: f64,
    order: Option<Order>,
    share: f64,
    /// What it waits for, or its keys.
    wait: Option<WaitPart>,
    /// Others still have to be rid of old copies of its keys: if it fails before, its keys are held.
    leftovers: bool,
    misconfigured: Option<&'a str>,
    slow: Option<String>,
    /// Why it takes no writes, if it said so within the last minute.
    refuses_writes: Option<String>,
    targets: Vec<String>,
    evidence: EvidencePart,
    in_flight: i64,
    connections: i64,
}

#[derive(Serialize)]
struct WaitPart {
    reason: WaitReason,
    /// Seconds until it may be over, as far as that is known.
    due_s: Option<f64>,
}

#[derive(Serialize)]
struct EvidencePart {
    /// Failures in a row.
    streak: u32,
    /// Failures since the node has been in the pool, by kind.
    failures: BTreeMap<&'static str, u64>,
    /// Error replies in which it said something of itself, by kind, those of scripts left out.
    error_replies: BTreeMap<&'static str, u64>,
}

/// The answer of `/readyz`.
#[derive(Serialize)]
pub(super) struct Readiness {
    /// Whether clients should be sent here.
    pub(super) ready: bool,
    draining: bool,
    pools_without_owner: Vec<String>,
}

/// The JSON of `/v1/topology`.
pub(super) fn topology_json(state: &AdminState) -> serde_json::Result<Vec<u8>> {
    let snapshots = snapshots(state);
    let flapping = |topology: &Topology| state.membership.flapping(&topology.pool);
    let pools = snapshots.iter().map(|(_, topology)| pool_part(topology, &flapping(topology))).collect();
    let (boot_id, draining) = (&*state.boot_id, state.is_draining());
    // People read it with curl: indented, and the prompt comes on a line of its own.
    let last_reload = state.last_reload();
    let state_file_error = state.keeping.trouble();
    let page = TopologyPage { boot_id, version: VERSION, draining, last_reload, state_file_error, pools };
    let mut page = serde_json::to_vec_pretty(&page)?;
    page.push(b'\n');
    Ok(page)
}

/// The text of `/metrics`.
pub(super) fn metrics_text(state: &AdminState) -> String {
    let snapshots = snapshots(state);
    let views: Vec<PoolView<'_>> = snapshots.iter().map(|(pool, t)| pool_view(pool, t)).collect();
    let process = ProcessView { version: VERSION, start_seconds: state.started, process: Process::read() };
    let mut page = String::new();
    render(&views, &process, &mut page);
    // A long-lived histogram of the facade keeps its samples until it is drained.
    state.recorder.run_upkeep();
    page.push_str(&state.recorder.render());
    page
}

/// Whether each pool has a node that owns keys, and the process is not going away.
pub(super) fn readiness(state: &AdminState) -> Readiness {
    let draining = state.is_draining();
    let pools_without_owner: Vec<String> = state
        .pools
        .load()
        .iter()
        .filter(|pool| !pool.topology.load().serves())
        .map(|pool| pool.name.to_string())
        .collect();
    Readiness { ready: !draining && pools_without_owner.is_empty(), draining, pools_without_owner }
}

/// Each pool with one snapshot, so that all numbers of a pool are of one revision.
fn snapshots(state: &AdminState) -> Vec<(Pool, Arc<Topology>)> {
    state.pools.load().iter().map(|pool| (pool.clone(), pool.topology.load())).collect()
}

fn pool_part<'a>(topology: &'a Topology, flapping: &HashMap<Arc<str>, Instant>) -> PoolPart<'a> {
    let shares = shares(topology);
    let (placement, hash) = ring_words(topology);
    // All but HTTP pools say what a key is.
    let is_http = !topology.policy.tells_misses();
    PoolPart {
        name: &topology.pool,
        epoch: topology.epoch,
        revision: topology.revision,
        placement,
        hash,
        ring: ring_part(topology),
        http_key: is_http.then(|| topology.policy.http.key.from.to_string()),
        on_ejected: topology.policy.on_ejected.word(),
        failover: topology.gutter.as_ref().map(|gutter| &*gutter.pool),
        serves: topology.serves(),
        degraded: degraded(topology),
        budget_due_s: topology.budget_due.map(seconds_until),
        nodes: topology
            .nodes
            .iter()
            .zip(shares)
            .map(|(entry, share)| node_part(topology, entry, share, flapping.get(&entry.node.name)))
            .collect(),
    }
}

/// Nodes that fail and stay in the ring, as too much would be out without them.
fn degraded(topology: &Topology) -> Option<String> {
    let is_kept = |e: &&Entry| e.health.is_out() && e.placement.serves() && e.order != Some(Order::Pin);
    let kept: Vec<&str> = topology.nodes.iter().filter(is_kept).map(|e| &*e.node.name).collect();
    let share = topology.health.eject_max * 100.0;
    let (verb, stay) = if kept.len() == 1 { ("fails", "stays") } else { ("fail", "stay") };
    let is_last = topology.nodes.iter().filter(|e| e.placement.serves()).count() == 1;
    let why = match is_last {
        true => "the last of a pool is never taken out".to_owned(),
        false => format!("eject_max ({share:.0} %) lets no more out"),
    };
    (!kept.is_empty()).then(|| format!("{} {verb} and {stay} in the ring: {why}", kept.join(", ")))
}

fn seconds_until(at: Instant) -> f64 {
    at.saturating_duration_since(Instant::now()).as_secs_f64()
}

fn node_part<'a>(
    topology: &'a Topology,
    entry: &'a Entry,
    share: f64,
    flaps_until: Option<&Instant>,
) -> NodePart<'a> {
    let node = &entry.node;
    let wait = topology.waits.iter().find(|wait| wait.node == node.id).map(|wait| (wait.reason, wait.due));
    // What else it waits for comes first, as that may take longer.
    let flaps = flaps_until.filter(|_| entry.health == Health::Ejected);
    let wait = wait.or_else(|| flaps.map(|until| (WaitReason::Flaps, Some(*until))));
    NodePart {
        name: &node.name,
        address: node.address.to_string(),
        zone: node.zone.as_deref(),
        weight: node.weight,
        health: entry.health,
        placement: entry.placement.word(),
        admitted: entry.placement.admitted(),
        order: entry.order,
        share,
        wait: wait.map(|(reason, due)| WaitPart { reason, due_s: due.map(seconds_until) }),
        leftovers: topology.leftovers.binary_search_by_key(&node.id, |left| left.node).is_ok(),
        misconfigured: entry.misconfigured.as_deref(),
        slow: entry.slow.map(|slow| slow.to_string()),
        refuses_writes: refuses_writes(&node.evidence),
        targets: entry.targets.iter().map(ToString::to_string).collect(),
        evidence: EvidencePart {
            streak: node.evidence.streak(),
            failures: Failure::ALL.into_iter().map(|k| (k.word(), node.evidence.count(k))).collect(),
            error_replies: ErrorReply::ALL
                .into_iter()
                .map(|k| (k.word(), node.evidence.replies(k)))
                .collect(),
        },
        in_flight: node.blocks.iter().map(|b| b.in_flight.value()).sum(),
        connections: node.blocks.iter().map(|b| b.connections.value()).sum(),
    }
}

/// Why a node takes no writes, if it said so lately. It stays in the ring: its reads are good.
fn refuses_writes(evidence: &Evidence) -> Option<String> {
    let reasons = [
        (ErrorReply::OutOfMemory, "it is out of memory and evicts nothing"),
        (ErrorReply::ReadOnly, "it is a replica"),
    ];
    reasons.into_iter().find_map(|(kind, why)| {
        let since = evidence.since_said(kind).filter(|since| *since < LATELY_S)?;
        Some(format!("refuses writes, the last {since} s ago: {why}"))
    })
}

fn pool_view<'a>(pool: &'a Pool, topology: &'a Topology) -> PoolView<'a> {
    let nodes = topology.nodes.iter().zip(shares(topology));
    PoolView {
        name: &pool.name,
        epoch: topology.epoch,
        revision: topology.revision,
        serves: topology.serves(),
        blocks: &pool.blocks,
        nodes: nodes.map(|(entry, share)| node_view(entry, share)).collect(),
    }
}

fn node_view(entry: &Entry, share: f64) -> NodeView<'_> {
    let evidence = &entry.node.evidence;
    NodeView {
        name: &entry.node.name,
        states: Health::ALL.into_iter().map(|state| (state.word(), state == entry.health)).collect(),
        owns: entry.placement.admitted() > 0.0,
        probes: evidence.probes(),
        held: entry.placement == Placement::Held,
        ordered: entry.order.is_some(),
        share,
        misconfigured: entry.misconfigured.is_some(),
        slow: entry.slow.is_some(),
        failures: Failure::ALL.into_iter().map(|k| (k.word(), evidence.count(k))).collect(),
        error_replies: ErrorReply::ALL.into_iter().map(|k| (k.word(), evidence.replies(k))).collect(),
        blocks: &entry.node.blocks,
    }
}

/// The share of the key space that each node holds now. Where the keys of an ejected node do not
/// move, it goes on holding its share, and its requests are refused.
fn shares(topology: &Topology) -> Vec<f64> {
    topology.shares()
}

/// The configuration's words for the pool's placement and hash.
fn ring_words(topology: &Topology) -> (String, String) {
    let settings = topology.ring.settings();
    (settings.placement.word().to_owned(), settings.hash.word().to_owned())
}

fn ring_part(topology: &Topology) -> RingPart {
    let settings = topology.ring.settings();
    let (points, slots) = match settings.placement {
        ring::Placement::Vnode { points } => (Some(points), None),
        ring::Placement::Maglev { slots } => (None, Some(slots)),
        ring::Placement::Ketama | ring::Placement::Modula => (None, None),
    };
    let tag = settings.hash_tag.map(|(open, close)| String::from_utf8_lossy(&[open, close]).into_owned());
    RingPart {
        placement: settings.placement.word(),
        points,
        slots,
        hash: settings.hash.word(),
        char_sign: settings.char_sign.word(),
        hash_tag: tag.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The metric's words for a node's state are the ones that `/v1/topology` uses.
    #[test]
    fn one_word_for_a_state() {
        for state in Health::ALL {
            assert_eq!(serde_json::to_value(state).expect("it is a word"), state.word());
        }
    }
}

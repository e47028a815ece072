//! A pool as its operator wants it -> a topology: the first one, and what a reload needs before
//! it can be planned. Ring builds happen here, so large pools belong on a blocking thread.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::ledger::Ledger;
use crate::{
    metrics::NodeBlock,
    net::Target,
    ring::{Diff, Member, Move, Ring, diff},
    topology::{Entry, Evidence, Health, Node, NodeId, NodeSpec, OnEjected, Placement, PoolSpec, Topology},
};

/// Hands out identities of nodes, each once in the life of the process.
#[derive(Clone, Debug, Default)]
pub struct IdSource(Arc<AtomicU64>);

impl IdSource {
    fn next(&self) -> NodeId {
        NodeId(self.0.fetch_add(1, Relaxed))
    }
}

/// What new nodes of a pool are made with.
#[derive(Clone, Debug)]
pub struct Births {
    /// Where identities come from.
    pub ids: IdSource,
    /// Data workers: each has its own block of counters.
    pub workers: usize,
    /// What the pool's evidence rings.
    pub bell: Arc<Notify>,
}

/// A reload whose slow part is done.
#[derive(Debug)]
pub struct Prepared {
    /// The pool as it shall be.
    pub spec: Arc<PoolSpec>,
    /// Its ring: the one in force when neither settings nor members differ.
    pub ring: Arc<Ring>,
    /// Where each node of the spec is, in its order.
    pub targets: Vec<Arc<[Target]>>,
    /// The share of the key space that moves.
    pub moved: f64,
    /// From whom to whom; not told of keys that are scattered.
    pub moves: Vec<Move>,
}

/// The first topology of a pool: every node is assumed healthy until it is asked.
pub fn first_topology(
    spec: &PoolSpec,
    births: &Births,
    targets: impl Fn(&NodeSpec) -> Arc<[Target]>,
) -> Topology {
    let nodes: Vec<Entry> =
        spec.nodes.iter().map(|node| new_entry(births.node(node, None), targets(node))).collect();
    Topology {
        pool: spec.name.clone(),
        epoch: 1,
        revision: 1,
        gutter: None,
        budget_due: None,
        leftovers: Arc::default(),
        waits: Arc::default(),
        ring: Arc::new(Ring::build(&spec.ring, &members(spec))),
        policy: spec.policy.clone(),
        health: Arc::new(spec.health.clone()),
        ordinals: ordinals(&[], &nodes),
        nodes: nodes.into(),
    }
}

fn new_entry(node: Arc<Node>, targets: Arc<[Target]>) -> Entry {
    Entry {
        node,
        health: Health::Healthy,
        placement: Placement::Owns,
        order: None,
        targets,
        misconfigured: None,
        slow: None,
    }
}

fn members(spec: &PoolSpec) -> Vec<Member> {
    spec.nodes.iter().map(|n| Member { name: n.name.clone(), weight: n.weight }).collect()
}

/// The slow part of a reload: the ring, if it differs, and the share that moves.
pub fn prepare(
    now: &Topology,
    ledger: &Ledger,
    spec: Arc<PoolSpec>,
    targets: Vec<Arc<[Target]>>,
) -> Prepared {
    let members = members(&spec);
    let is_same = ledger.ring == spec.ring
        && members.len() == now.nodes.len()
        && members
            .iter()
            .zip(now.nodes.iter())
            .all(|(m, e)| m.name == e.node.name && m.weight == e.node.weight);
    let is_scattered = now.policy.http.key != spec.policy.http.key;
    if is_same && !is_scattered {
        return Prepared { spec, ring: now.ring.clone(), targets, moved: 0.0, moves: Vec::new() };
    }
    if is_same {
        let owns = |i: usize| now.nodes[i].placement != Placement::Away;
        let moved = scattered((&now.ring, &owns), (&now.ring, &owns));
        return Prepared { spec, ring: now.ring.clone(), targets, moved, moves: Vec::new() };
    }
    let ring = Arc::new(Ring::build(&spec.ring, &members));
    // What a gutter has of a node's keys is told as the node's.
    let goes_over = now.policy.on_ejected == OnEjected::Failover;
    let is_away = |e: &Entry| e.placement == Placement::Away && !goes_over;
    let away: HashSet<_> = now.nodes.iter().filter(|e| is_away(e)).map(|e| &e.node.name).collect();
    let before = |i: usize| !away.contains(&now.nodes[i].node.name);
    let after = |i: usize| !away.contains(&members[i].name);
    let rings: (Serving<'_>, Serving<'_>) = ((&now.ring, &before), (&ring, &after));
    let (moved, moves) = if is_scattered {
        (scattered(rings.0, rings.1), Vec::new())
    } else {
        let Diff { moved, moves, .. } = diff(rings.0, rings.1);
        (moved, moves)
    };
    Prepared { spec, ring, targets, moved, moves }
}

/// A ring, and which of its members serve.
pub type Serving<'a> = (&'a Ring, &'a dyn Fn(usize) -> bool);

/// The share of requests that go elsewhere when their ring keys come from another part of them: old
/// and new keys know nothing of each other, so a request stays where it was by chance alone.
pub fn scattered(before: Serving<'_>, after: Serving<'_>) -> f64 {
    let shares = |(ring, serves): Serving<'_>| -> HashMap<Arc<str>, f64> {
        let names = ring.members().iter().map(|m| m.name.clone());
        names.zip(ring.shares(serves)).collect()
    };
    let (before, after) = (shares(before), shares(after));
    let stays: f64 = before.iter().map(|(name, share)| share * after.get(name).unwrap_or(&0.0)).sum();
    1.0 - stays
}

impl Births {
    /// A new node; the counters of one with its name go on.
    fn node(&self, spec: &NodeSpec, before: Option<&Node>) -> Arc<Node> {
        let blocks = before.map_or_else(
            || (0..self.workers).map(|_| NodeBlock::default()).collect(),
            |node| node.blocks.clone(),
        );
        let load = before.map(|node| node.load.clone()).unwrap_or_default();
        Arc::new(Node {
            id: self.ids.next(),
            name: spec.name.clone(),
            address: spec.address.clone(),
            weight: spec.weight,
            zone: spec.zone.clone(),
            evidence: Evidence::new(self.bell.clone()),
            blocks,
            load,
        })
    }

    /// The entries of a reloaded pool. A node with another weight or zone is new to its
    /// connections, but what was known about the server at its address is still known: `renamed`
    /// is told its old and its new identity.
    pub(super) fn carry(
        &self,
        before: &[Entry],
        prepared: &Prepared,
        renamed: &mut dyn FnMut(NodeId, NodeId),
    ) -> Vec<Entry> {
        let by_name: HashMap<_, _> = before.iter().map(|e| (e.node.name.clone(), e)).collect();
        let entry = |(spec, targets): (&NodeSpec, &Arc<[Target]>)| {
            let Some(old) = by_name.get(&spec.name) else {
                return new_entry(self.node(spec, None), targets.clone());
            };
            let node = &old.node;
            if node.address != spec.address {
                return new_entry(self.node(spec, Some(node)), targets.clone());
            }
            if node.weight == spec.weight && node.zone == spec.zone {
                return (*old).clone();
            }
            // Its detector starts anew too, so doubts and merits in between are gone.
            let health = if old.health.is_out() { Health::Ejected } else { Health::Healthy };
            let node_after = self.node(spec, Some(node));
            let entry = Entry { node: node_after, health, slow: None, misconfigured: None, ..(*old).clone() };
            renamed(node.id, entry.node.id);
            entry
        };
        prepared.spec.nodes.iter().zip(&prepared.targets).map(entry).collect()
    }
}

/// The SCAN ordinals: names keep theirs, new ones follow in sorted order.
pub(super) fn ordinals(before: &[Arc<str>], nodes: &[Entry]) -> Arc<[Arc<str>]> {
    let known: HashSet<_> = before.iter().collect();
    let names = nodes.iter().map(|e| &e.node.name);
    let mut new: Vec<_> = names.filter(|name| !known.contains(name)).cloned().collect();
    new.sort();
    before.iter().cloned().chain(new).collect()
}

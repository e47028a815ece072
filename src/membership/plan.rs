//! (topology, ledger, change) -> the next topology, or why not. Pure: what is planned here is put
//! in force by the task in the room's main file, and an offline plan asks the same functions.
//!
//! Laws: a step is at most one epoch, and one only if some key's owner or action changes; of the
//! pool's weight at most `eject_max` is away, and never the last node; a node that leaves moves
//! only its own keys; when all are back, each key is where it was.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::build::{Births, Prepared, scattered};
use crate::{
    ring::{self, diff},
    topology::{Cause, Change, Entry, Health, NodeId, OnEjected, Placement, PoolSpec, Topology},
};

/// What the planner remembers of a pool beside its topology. One entry per ejected node at most.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How the ring in force was built.
    pub(super) ring: ring::Settings,
    out: BTreeMap<NodeId, Out>,
    turn: u64,
}

/// Why a node is ejected, and since which turn.
#[derive(Clone, Debug)]
struct Out {
    turn: u64,
    cause: Cause,
    evidence: Arc<str>,
}

impl Ledger {
    /// The ledger of a pool that was built from this.
    pub fn new(spec: &PoolSpec) -> Ledger {
        Ledger { ring: spec.ring.clone(), out: BTreeMap::new(), turn: 0 }
    }

    /// How many nodes it remembers.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no node is ejected.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

/// What comes of a change.
#[derive(Debug)]
pub enum Outcome {
    /// The next topology.
    Publish(Box<Step>),
    /// The change changes nothing: it is about a node that left, or came twice.
    Nothing,
    /// It is not done.
    Refused {
        /// In words for the operator.
        why: String,
    },
}

/// One step of a pool.
#[derive(Debug)]
pub struct Step {
    /// To be published.
    pub next: Topology,
    /// To be remembered.
    pub ledger: Ledger,
    /// To be told.
    pub events: Vec<Event>,
}

/// What an operator is told of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The node's keys go elsewhere, or are refused.
    Ejected {
        /// Its name.
        node: Arc<str>,
        /// As a label.
        cause: Cause,
        /// As a sentence.
        evidence: Arc<str>,
    },
    /// The node should be ejected and stays: `eject_max` fails open.
    Held {
        /// Its name.
        node: Arc<str>,
        /// As a label.
        cause: Cause,
        /// As a sentence, the reason to keep it included.
        evidence: Arc<str>,
    },
    /// An ejected node owns again although it did not prove itself: a reload left too few others.
    Readmitted {
        /// Its name.
        node: Arc<str>,
    },
    /// The node owns its share again.
    Restored {
        /// Its name.
        node: Arc<str>,
        /// As a sentence.
        evidence: Arc<str>,
    },
    /// The node proved itself and never left, thanks to `eject_max`.
    Recovered {
        /// Its name.
        node: Arc<str>,
    },
    /// The node can't serve as configured, or can again.
    Misconfigured {
        /// Its name.
        node: Arc<str>,
        /// What is wrong.
        what: Option<Arc<str>>,
    },
    /// The operator's new configuration is in force.
    Reloaded {
        /// Which nodes came, left or changed.
        evidence: Arc<str>,
    },
}

/// Plans a change of one node. A [`Change::Reload`] is planned by [`reload`], once its ring is
/// built.
pub fn plan(now: &Topology, ledger: &Ledger, change: &Change) -> Outcome {
    let Some((id, at)) = node_of(change).and_then(|id| now.position(id).map(|at| (id, at))) else {
        return Outcome::Nothing;
    };
    let entry = &now.nodes[at];
    match change {
        Change::Suspect { .. } => turn(now, ledger, at, &[Health::Healthy], Health::Suspect),
        Change::Clear { .. } => turn(now, ledger, at, &[Health::Suspect], Health::Healthy),
        Change::Probation { .. } => turn(now, ledger, at, &[Health::Ejected], Health::Probation),
        Change::Relapse { .. } => turn(now, ledger, at, &[Health::Probation], Health::Ejected),
        Change::Eject { cause, evidence, .. } => {
            let mut ledger = ledger.clone();
            ledger.turn += 1;
            let out = Out { turn: ledger.turn, cause: *cause, evidence: evidence.as_str().into() };
            ledger.out.entry(id).or_insert(out);
            turn(now, &ledger, at, &[Health::Healthy, Health::Suspect], Health::Ejected)
        }
        Change::Restore { evidence, .. } => {
            let step = turn(now, ledger, at, &[Health::Ejected, Health::Probation], Health::Healthy);
            restored(step, entry, evidence)
        }
        Change::Misconfigured { what, .. } if entry.misconfigured != *what => {
            let told = Event::Misconfigured { node: entry.node.name.clone(), what: what.clone() };
            revise(now, ledger, at, vec![told], |entry| entry.misconfigured.clone_from(what))
        }
        Change::Resolved { targets, .. } if entry.targets != *targets => {
            revise(now, ledger, at, Vec::new(), |entry| entry.targets = targets.clone())
        }
        Change::Misconfigured { .. } | Change::Resolved { .. } | Change::Reload { .. } => Outcome::Nothing,
    }
}

fn node_of(change: &Change) -> Option<NodeId> {
    match change {
        Change::Suspect { node, .. }
        | Change::Clear { node, .. }
        | Change::Eject { node, .. }
        | Change::Probation { node, .. }
        | Change::Relapse { node, .. }
        | Change::Restore { node, .. }
        | Change::Misconfigured { node, .. }
        | Change::Resolved { node, .. } => Some(*node),
        Change::Reload { .. } => None,
    }
}

/// A new revision in which one entry reads differently and no key moves.
fn revise(
    now: &Topology,
    ledger: &Ledger,
    at: usize,
    events: Vec<Event>,
    edit: impl FnOnce(&mut Entry),
) -> Outcome {
    let mut nodes = now.nodes.to_vec();
    edit(&mut nodes[at]);
    let next = Topology { revision: now.revision + 1, nodes: nodes.into(), ..now.clone() };
    Outcome::Publish(Box::new(Step { next, ledger: ledger.clone(), events }))
}

/// A node's health turns, if it is what the change takes it for; placement follows.
fn turn(now: &Topology, ledger: &Ledger, at: usize, from: &[Health], to: Health) -> Outcome {
    if !from.contains(&now.nodes[at].health) {
        return Outcome::Nothing;
    }
    let mut nodes = now.nodes.to_vec();
    nodes[at].health = to;
    settle(&mut nodes, now.health.eject_max, ledger);
    let mut events = told(&now.nodes, &nodes, ledger);
    let entry = &nodes[at];
    let is_held = entry.placement == Placement::Owns && from.contains(&Health::Healthy);
    if let Some(out) = ledger.out.get(&entry.node.id).filter(|_| is_held && to == Health::Ejected) {
        let evidence = format!("{}; {}", out.evidence, held_because(&nodes, now.health.eject_max));
        let node = entry.node.name.clone();
        events.push(Event::Held { node, cause: out.cause, evidence: evidence.into() });
    }
    let moves = now.nodes.iter().zip(&nodes).any(|(a, b)| a.placement != b.placement);
    let next = Topology {
        epoch: now.epoch + u64::from(moves),
        revision: now.revision + 1,
        nodes: nodes.into(),
        ..now.clone()
    };
    Outcome::Publish(Box::new(Step { next, ledger: ledger.clone(), events }))
}

/// Who went away, and who owns again without having been restored. Only who is away now or was can be
/// told of, a few of perhaps many thousands: names of no others are looked up.
fn told(before: &[Entry], after: &[Entry], ledger: &Ledger) -> Vec<Event> {
    let is_away = |e: &&Entry| e.placement == Placement::Away;
    let away: HashSet<&str> = before.iter().filter(is_away).map(|e| &*e.node.name).collect();
    let mut events = Vec::new();
    for entry in after {
        let was_away = || away.contains(&*entry.node.name);
        let node = || entry.node.name.clone();
        match (entry.placement, entry.health) {
            (Placement::Owns, Health::Ejected | Health::Probation) if was_away() => {
                events.push(Event::Readmitted { node: node() });
            }
            (Placement::Away, _) if !was_away() => {
                if let Some(Out { cause, evidence, .. }) = ledger.out.get(&entry.node.id).cloned() {
                    events.push(Event::Ejected { node: node(), cause, evidence });
                }
            }
            _ => {}
        }
    }
    events
}

fn held_because(nodes: &[Entry], eject_max: f64) -> String {
    let owners = nodes.iter().filter(|e| e.placement == Placement::Owns).count();
    match owners {
        1 => "kept, as the last node of the pool is never ejected".to_owned(),
        _ => format!("kept, as more than {:.0} % of the pool's weight would be out", eject_max * 100.0),
    }
}

/// A step that brings a node back forgets why it was out, and says that it is back.
fn restored(outcome: Outcome, was: &Entry, evidence: &str) -> Outcome {
    let Outcome::Publish(mut step) = outcome else { return outcome };
    step.ledger.out.remove(&was.node.id);
    let node = was.node.name.clone();
    let event = match was.placement {
        Placement::Away => Event::Restored { node, evidence: evidence.into() },
        Placement::Owns => Event::Recovered { node },
    };
    step.events.insert(0, event);
    Outcome::Publish(step)
}

/// Gives each node its placement. Those that should be out are put away one by one, first those
/// that are away, then in the order of their ejection, as long as the rest keeps enough weight.
fn settle(nodes: &mut [Entry], eject_max: f64, ledger: &Ledger) {
    let total: u64 = nodes.iter().map(|e| u64::from(e.node.weight)).sum();
    // A third of three is one, whatever the rounding of 0.333.. x 3 says.
    let out_max = eject_max * total as f64 + 1e-9;
    let mut out: Vec<usize> = (0..nodes.len())
        .filter(|i| match nodes[*i].health {
            Health::Healthy | Health::Suspect => false,
            Health::Ejected => true,
            // One that was kept and answers again is not put away so late.
            Health::Probation => nodes[*i].placement == Placement::Away,
        })
        .collect();
    // Cached: the ledger is asked once for each, not once for each comparison.
    out.sort_by_cached_key(|i| {
        let entry = &nodes[*i];
        (entry.placement == Placement::Owns, ledger.out.get(&entry.node.id).map(|o| o.turn))
    });
    for entry in nodes.iter_mut() {
        entry.placement = Placement::Owns;
    }
    let (mut away, mut owners) = (0, nodes.len());
    for i in out {
        let with = away + u64::from(nodes[i].node.weight);
        if owners > 1 && with as f64 <= out_max {
            nodes[i].placement = Placement::Away;
            (away, owners) = (with, owners - 1);
        }
    }
}

/// Plans a reload. Nodes whose name, address, weight and zone stay the same stay the same nodes:
/// their connections, states and evidence are not touched.
pub fn reload(
    now: &Topology,
    ledger: &Ledger,
    prepared: &Prepared,
    births: &Births,
    max_share: f64,
    yes: bool,
) -> Outcome {
    if prepared.moved > max_share && !yes {
        let why = format!(
            "pool {}: this would move {:.1} % of the key space, more than reload.max_share ({:.1} %): \
             if that is meant, raise reload.max_share for this reload",
            now.pool,
            prepared.moved * 100.0,
            max_share * 100.0
        );
        return Outcome::Refused { why };
    }
    let spec = &prepared.spec;
    let mut ledger = ledger.clone();
    ledger.ring = spec.ring.clone();
    let mut nodes = births.carry(&now.nodes, prepared, &mut |before, after| {
        if let Some(out) = ledger.out.remove(&before) {
            ledger.out.insert(after, out);
        }
    });
    let ids: HashSet<NodeId> = nodes.iter().map(|e| e.node.id).collect();
    ledger.out.retain(|id, _| ids.contains(id));
    settle(&mut nodes, spec.health.eject_max, &ledger);
    let is_same = same_nodes(&now.nodes, &nodes);
    let has_moved = !is_same || prepared.moved > 0.0 || other_action(now, &nodes, spec);
    if is_same && !has_moved && is_unchanged(now, prepared) {
        return Outcome::Nothing;
    }
    let mut events = told(&now.nodes, &nodes, &ledger);
    events.insert(0, Event::Reloaded { evidence: differences(&now.nodes, &nodes).into() });
    let next = Topology {
        pool: now.pool.clone(),
        epoch: now.epoch + u64::from(has_moved),
        revision: now.revision + 1,
        ring: prepared.ring.clone(),
        ordinals: super::build::ordinals(&now.ordinals, &nodes),
        nodes: nodes.into(),
        policy: spec.policy.clone(),
        health: Arc::new(spec.health.clone()),
    };
    Outcome::Publish(Box::new(Step { next, ledger, events }))
}

/// `came: n3; left: n1; changed: n2`, as far as there are any; long lists are cut.
fn differences(before: &[Entry], after: &[Entry]) -> String {
    const SHOWN: usize = 20;
    let ids = |nodes: &[Entry]| -> BTreeMap<Arc<str>, NodeId> {
        nodes.iter().map(|e| (e.node.name.clone(), e.node.id)).collect()
    };
    let (before, after) = (ids(before), ids(after));
    let of = |word: &str, names: Vec<&Arc<str>>| {
        let shown: Vec<&str> = names.iter().take(SHOWN).map(|n| &***n).collect();
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        (!shown.is_empty()).then(|| format!("{word}: {}{more}", shown.join(", ")))
    };
    let came = after.keys().filter(|n| !before.contains_key(*n)).collect();
    let left = before.keys().filter(|n| !after.contains_key(*n)).collect();
    let changed = after.iter().filter(|(n, id)| before.get(*n).is_some_and(|old| old != *id));
    let all = [of("came", came), of("left", left), of("changed", changed.map(|(n, _)| n).collect())];
    let all: Vec<String> = all.into_iter().flatten().collect();
    if all.is_empty() { "the same nodes".to_owned() } else { all.join("; ") }
}

/// Whether the same nodes are there, in whatever order, each with the same placement.
fn same_nodes(before: &[Entry], after: &[Entry]) -> bool {
    let identities = |nodes: &[Entry]| {
        let mut all: Vec<_> = nodes.iter().map(|e| (e.node.id, e.placement == Placement::Owns)).collect();
        all.sort_unstable();
        all
    };
    identities(before) == identities(after)
}

/// Whether keys of a node that is away are treated in another way from now on.
fn other_action(now: &Topology, nodes: &[Entry], spec: &PoolSpec) -> bool {
    let is_away = |e: &Entry| e.placement == Placement::Away;
    now.policy.on_ejected != spec.policy.on_ejected && nodes.iter().any(is_away)
}

fn is_unchanged(now: &Topology, prepared: &Prepared) -> bool {
    Arc::ptr_eq(&now.ring, &prepared.ring)
        && now.policy == prepared.spec.policy
        && *now.health == prepared.spec.health
}

/// The share of the key space whose owner or action differs between two topologies of a pool.
/// Takes milliseconds for large rings: not for the control loop.
pub fn moved(before: &Topology, after: &Topology) -> f64 {
    let owns = |topology: &Topology, i: usize| topology.nodes[i].placement == Placement::Owns;
    if before.policy.http.key != after.policy.http.key {
        let (a, b) = (|i| owns(before, i), |i| owns(after, i));
        return scattered((&before.ring, &a), (&after.ring, &b));
    }
    if after.policy.on_ejected == OnEjected::Rehash {
        let (a, b) = (|i| owns(before, i), |i| owns(after, i));
        if Arc::ptr_eq(&before.ring, &after.ring) {
            return after.ring.moved(a, b);
        }
        return diff((&before.ring, &a), (&after.ring, &b)).moved;
    }
    if !Arc::ptr_eq(&before.ring, &after.ring) {
        return diff((&before.ring, &|_| true), (&after.ring, &|_| true)).moved;
    }
    // Nobody else gets the keys of a node that is away: they are refused, or served again.
    let shares = after.ring.shares(|_| true);
    (0..shares.len()).filter(|i| owns(before, *i) != owns(after, *i)).map(|i| shares[i]).sum()
}

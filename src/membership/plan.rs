//! (topology, ledger, change) -> the next topology, or why not. Pure: what is planned here is put
//! in force by the task in the room's main file, and an offline plan asks the same functions.
//!
//! Laws: a step is at most one epoch, and one only if some key's owner or action changes; of the
//! pool's weight at most `eject_max` does not serve, and never the last node; a node that leaves
//! moves only its own keys; what moves is within the warmth budget; when all are back, each key is
//! where it was.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    build::{Births, Prepared, scattered},
    order::mark,
    settle::{Rules, settle},
    warmth::Spending,
};
use crate::{
    ring::{self, diff},
    topology::{Cause, Change, Data, Entry, Health, NodeId, Order, Placement, Policy, PoolSpec, Topology},
};

/// What the planner remembers of a pool beside its topology. One entry per ejected node at most.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How the ring in force was built.
    pub(super) ring: ring::Settings,
    /// What ringway's own decisions moved lately.
    pub(super) spending: Spending,
    out: BTreeMap<NodeId, Out>,
    returning: BTreeMap<NodeId, Back>,
    /// What operators want, by the names of nodes.
    orders: BTreeMap<Arc<str>, Order>,
    turn: u64,
}

/// Why a node is ejected, and since which turn.
#[derive(Clone, Debug)]
struct Out {
    turn: u64,
    since: Instant,
    cause: Cause,
    evidence: Arc<str>,
}

/// Since which turn a node is back, and with what.
#[derive(Clone, Debug)]
struct Back {
    turn: u64,
    data: Data,
    evidence: Arc<str>,
}

impl Ledger {
    /// The ledger of a pool that was built from this.
    pub fn new(spec: &PoolSpec) -> Ledger {
        Ledger {
            ring: spec.ring.clone(),
            spending: Spending::default(),
            out: BTreeMap::new(),
            returning: BTreeMap::new(),
            orders: BTreeMap::new(),
            turn: 0,
        }
    }

    /// How many nodes it remembers.
    pub fn len(&self) -> usize {
        self.out.len() + self.returning.len()
    }

    /// Whether no node is ejected, or waits to return.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty() && self.returning.is_empty()
    }

    /// Remembers what is wanted of a node from now on.
    pub(super) fn order(&mut self, node: &Arc<str>, order: Option<Order>) {
        match order {
            Some(order) => drop(self.orders.insert(node.clone(), order)),
            None => drop(self.orders.remove(node)),
        }
    }

    /// A node that waits to return need not wait; whether it did.
    pub(super) fn go_on(&mut self, node: NodeId) -> bool {
        match self.returning.get_mut(&node) {
            Some(back) => {
                back.data = Data::Same;
                true
            }
            None => false,
        }
    }

    /// Since when a node is ejected.
    pub(super) fn ejected_since(&self, node: NodeId) -> Option<Instant> {
        self.out.get(&node).map(|out| out.since)
    }

    /// In which turn a node was ejected.
    pub(super) fn ejected_in(&self, node: NodeId) -> Option<u64> {
        self.out.get(&node).map(|out| out.turn)
    }

    /// In which turn a node that is not in its place again came back.
    pub(super) fn returned_in(&self, node: NodeId) -> Option<u64> {
        self.returning.get(&node).map(|back| back.turn)
    }

    /// Whether a node that came back has nothing of what it had.
    pub(super) fn returns_cold(&self, node: NodeId) -> bool {
        self.returning.get(&node).is_some_and(|back| back.data.is_cold())
    }

    /// Forgets who is in its place again. When the budget may let something go on, if something waits.
    pub(super) fn settled(&mut self, nodes: &[Entry], policy: &Policy, time: Instant) -> Option<Instant> {
        let is_back = |e: &Entry| matches!(e.health, Health::Healthy | Health::Suspect);
        // Who is out by hand waits for the operator.
        let is_away = |e: &&Entry| e.placement == Placement::Away && is_back(e) && e.order.is_none();
        let away: HashSet<NodeId> = nodes.iter().filter(is_away).map(|e| e.node.id).collect();
        self.returning.retain(|id, _| away.contains(id));
        let held = || nodes.iter().filter(|e| e.placement == Placement::Held);
        let ends = held().filter_map(|e| Some(self.ejected_since(e.node.id)? + policy.hold_down));
        let hold_ends = ends.filter(|end| *end > time).min();
        let waits = !away.is_empty() || held().next().is_some();
        let budget = if waits { self.spending.next(policy.warmth.window, time) } else { None };
        hold_ends.into_iter().chain(budget).min()
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
    /// The node is ejected, and its keys wait for the warmth budget.
    Held {
        /// Its name.
        node: Arc<str>,
        /// As a label.
        cause: Cause,
        /// As a sentence.
        evidence: Arc<str>,
    },
    /// The keys of a node that was held go elsewhere now.
    Released {
        /// Its name.
        node: Arc<str>,
        /// Why it is ejected, as a sentence.
        evidence: Arc<str>,
    },
    /// The node proved itself, and waits for the warmth budget: it has nothing of what it had.
    Waits {
        /// Its name.
        node: Arc<str>,
        /// What it came back with.
        data: Data,
        /// As a sentence.
        evidence: Arc<str>,
    },
    /// The node should be ejected and stays: `eject_max` fails open.
    Kept {
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
        /// What it came back with.
        data: Data,
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
    /// An operator wants something of the node, or nothing any more.
    Ordered {
        /// Its name.
        node: Arc<str>,
        /// What is wanted.
        order: Option<Order>,
    },
    /// The operator's new configuration is in force.
    Reloaded {
        /// Which nodes came, left or changed.
        evidence: Arc<str>,
    },
}

/// Plans a change of one node. A [`Change::Reload`] is planned by [`reload`], once its ring is
/// built.
pub fn plan(now: &Topology, ledger: &Ledger, change: &Change, time: Instant) -> Outcome {
    let Some((id, at)) = node_of(change).and_then(|id| now.position(id).map(|at| (id, at))) else {
        return Outcome::Nothing;
    };
    let entry = &now.nodes[at];
    let turns = |from: &[Health], to| turn(now, ledger.clone(), (at, from, to), time);
    match change {
        Change::Suspect { .. } => turns(&[Health::Healthy], Health::Suspect),
        Change::Clear { .. } => turns(&[Health::Suspect], Health::Healthy),
        Change::Probation { .. } => turns(&[Health::Ejected], Health::Probation),
        Change::Relapse { .. } => turns(&[Health::Probation], Health::Ejected),
        Change::Eject { cause, evidence, .. } => {
            let mut ledger = ledger.clone();
            ledger.turn += 1;
            let out =
                Out { turn: ledger.turn, since: time, cause: *cause, evidence: evidence.as_str().into() };
            ledger.out.entry(id).or_insert(out);
            ledger.returning.remove(&id);
            turn(now, ledger, (at, &[Health::Healthy, Health::Suspect], Health::Ejected), time)
        }
        Change::Restore { data, evidence, .. } => {
            let mut ledger = ledger.clone();
            ledger.turn += 1;
            ledger.out.remove(&id);
            let back = Back { turn: ledger.turn, data: *data, evidence: evidence.as_str().into() };
            ledger.returning.insert(id, back);
            turn(now, ledger, (at, &[Health::Ejected, Health::Probation], Health::Healthy), time)
        }
        Change::Misconfigured { what, .. } if entry.misconfigured != *what => {
            let told = Event::Misconfigured { node: entry.node.name.clone(), what: what.clone() };
            revise(now, ledger, at, vec![told], |entry| entry.misconfigured.clone_from(what))
        }
        Change::Resolved { targets, .. } if entry.targets != *targets => {
            revise(now, ledger, at, Vec::new(), |entry| entry.targets = targets.clone())
        }
        Change::Misconfigured { .. }
        | Change::Resolved { .. }
        | Change::Order { .. }
        | Change::Reload { .. } => Outcome::Nothing,
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
        Change::Order { .. } | Change::Reload { .. } => None,
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
fn turn(
    now: &Topology,
    mut ledger: Ledger,
    (at, from, to): (usize, &[Health], Health),
    time: Instant,
) -> Outcome {
    if !from.contains(&now.nodes[at].health) {
        return Outcome::Nothing;
    }
    let mut nodes = now.nodes.to_vec();
    nodes[at].health = to;
    settle(&mut nodes, &rules(now, time), &mut ledger);
    let mut events = told(&now.nodes, &nodes, &ledger);
    let entry = &nodes[at];
    let name = || entry.node.name.clone();
    match (to, now.nodes[at].placement, entry.placement) {
        (Health::Ejected, Placement::Owns, Placement::Owns) => {
            if let Some(out) = ledger.out.get(&entry.node.id).filter(|_| from.contains(&Health::Healthy)) {
                let evidence =
                    format!("{}; {}", out.evidence, kept_because(entry, &nodes, now.health.eject_max));
                events.push(Event::Kept { node: name(), cause: out.cause, evidence: evidence.into() });
            }
        }
        (Health::Healthy, Placement::Owns, Placement::Owns) if !from.contains(&Health::Suspect) => {
            events.insert(0, Event::Recovered { node: name() });
        }
        (Health::Healthy, Placement::Away, Placement::Away) if entry.order.is_none() => {
            events.extend(ledger.returning.get(&entry.node.id).map(|Back { data, evidence, .. }| {
                Event::Waits { node: name(), data: *data, evidence: evidence.clone() }
            }));
        }
        _ => {}
    }
    Outcome::Publish(Box::new(step(now, nodes, ledger, events, time)))
}

/// The next topology of the same ring, with these nodes: an epoch if one of them has another placement.
pub(super) fn step(
    now: &Topology,
    nodes: Vec<Entry>,
    mut ledger: Ledger,
    events: Vec<Event>,
    time: Instant,
) -> Step {
    let moves = now.nodes.iter().zip(&nodes).any(|(a, b)| a.placement != b.placement);
    let next = Topology {
        epoch: now.epoch + u64::from(moves),
        revision: now.revision + 1,
        budget_due: ledger.settled(&nodes, &now.policy, time),
        nodes: nodes.into(),
        ..now.clone()
    };
    Step { next, ledger, events }
}

pub(super) fn rules(now: &Topology, time: Instant) -> Rules<'_> {
    Rules { eject_max: now.health.eject_max, policy: &now.policy, time }
}

/// The warmth budget may let something go on that waited for it.
pub fn budget(now: &Topology, ledger: &Ledger, time: Instant) -> Outcome {
    let (mut ledger, mut nodes) = (ledger.clone(), now.nodes.to_vec());
    settle(&mut nodes, &rules(now, time), &mut ledger);
    let events = told(&now.nodes, &nodes, &ledger);
    let step = step(now, nodes, ledger, events, time);
    if step.next.epoch == now.epoch && step.next.budget_due == now.budget_due {
        return Outcome::Nothing;
    }
    Outcome::Publish(Box::new(step))
}

/// Who went away, who waits, and who owns again. Only who does not serve now or did not before can be
/// told of, a few of perhaps many thousands: names of no others are looked up.
pub(super) fn told(before: &[Entry], after: &[Entry], ledger: &Ledger) -> Vec<Event> {
    let is_out = |e: &&Entry| e.placement != Placement::Owns;
    let out: HashMap<&str, Placement> =
        before.iter().filter(is_out).map(|e| (&*e.node.name, e.placement)).collect();
    let mut events = Vec::new();
    for entry in after {
        let was = || out.get(&*entry.node.name).copied().unwrap_or(Placement::Owns);
        if entry.placement == Placement::Owns && (out.is_empty() || was() == Placement::Owns) {
            continue;
        }
        let node = entry.node.name.clone();
        let why = ledger.out.get(&entry.node.id).cloned();
        events.extend(match (was(), entry.placement, entry.health) {
            (Placement::Away | Placement::Held, Placement::Owns, Health::Ejected | Health::Probation)
                if entry.order.is_none() =>
            {
                Some(Event::Readmitted { node })
            }
            (Placement::Away | Placement::Held, Placement::Owns, _) => {
                let back = ledger.returning.get(&entry.node.id);
                back.map(|Back { data, evidence, .. }| Event::Restored {
                    node,
                    data: *data,
                    evidence: evidence.clone(),
                })
            }
            (Placement::Owns | Placement::Held, Placement::Away, _)
                if entry.order.is_some_and(Order::is_out) =>
            {
                None
            }
            (Placement::Owns, Placement::Away, _) => {
                why.map(|Out { cause, evidence, .. }| Event::Ejected { node, cause, evidence })
            }
            (Placement::Owns, Placement::Held, _) => {
                why.map(|Out { cause, evidence, .. }| Event::Held { node, cause, evidence })
            }
            (Placement::Held, Placement::Away, _) => {
                why.map(|Out { evidence, .. }| Event::Released { node, evidence })
            }
            _ => None,
        });
    }
    events
}

fn kept_because(entry: &Entry, nodes: &[Entry], eject_max: f64) -> String {
    if entry.order == Some(Order::Pin) {
        return "kept, as an operator has pinned it".to_owned();
    }
    let owners = nodes.iter().filter(|e| e.placement == Placement::Owns).count();
    match owners {
        1 => "kept, as the last node of the pool is never ejected".to_owned(),
        _ => format!("kept, as more than {:.0} % of the pool's weight would be out", eject_max * 100.0),
    }
}

/// What a reload may do.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    /// Share of the key space that it may move, 0.0..=1.0.
    pub max_share: f64,
    /// It may move more.
    pub yes: bool,
    /// When it is planned.
    pub time: Instant,
}

/// Plans a reload. Nodes whose name, address, weight and zone stay the same stay the same nodes:
/// their connections, states and evidence are not touched.
pub fn reload(
    now: &Topology,
    ledger: &Ledger,
    prepared: &Prepared,
    births: &Births,
    may: &Permit,
) -> Outcome {
    let Permit { max_share, yes, time } = *may;
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
        if let Some(back) = ledger.returning.remove(&before) {
            ledger.returning.insert(after, back);
        }
    });
    let ids: HashSet<NodeId> = nodes.iter().map(|e| e.node.id).collect();
    ledger.out.retain(|id, _| ids.contains(id));
    ledger.orders.retain(|name, _| nodes.iter().any(|entry| entry.node.name == *name));
    mark(&mut nodes, &ledger.orders);
    let rules = Rules { eject_max: spec.health.eject_max, policy: &spec.policy, time };
    settle(&mut nodes, &rules, &mut ledger);
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
        budget_due: ledger.settled(&nodes, &spec.policy, time),
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
        let mut all: Vec<_> = nodes.iter().map(|e| (e.node.id, e.placement)).collect();
        all.sort_unstable();
        all
    };
    identities(before) == identities(after)
}

/// Whether keys of a node that does not serve are treated in another way from now on.
fn other_action(now: &Topology, nodes: &[Entry], spec: &PoolSpec) -> bool {
    let any = |placement| nodes.iter().any(|e| e.placement == placement);
    (now.policy.on_ejected != spec.policy.on_ejected && any(Placement::Away))
        || (now.policy.warmth.held != spec.policy.warmth.held && any(Placement::Held))
}

fn is_unchanged(now: &Topology, prepared: &Prepared) -> bool {
    Arc::ptr_eq(&now.ring, &prepared.ring)
        && now.policy == prepared.spec.policy
        && *now.health == prepared.spec.health
}

/// The share of the key space whose owner or action differs between two topologies of a pool.
/// Takes milliseconds for large rings: not for the control loop.
pub fn moved(before: &Topology, after: &Topology) -> f64 {
    let (a, b) = (|i| before.holds(i), |i| after.holds(i));
    if before.policy.http.key != after.policy.http.key {
        return scattered((&before.ring, &a), (&after.ring, &b));
    }
    if !Arc::ptr_eq(&before.ring, &after.ring) {
        return diff((&before.ring, &a), (&after.ring, &b)).moved;
    }
    // Who keeps its share and serves it no more, or again: the action changes and not the owner.
    let serves = |topology: &Topology, i: usize| topology.nodes[i].placement == Placement::Owns;
    let other = |i: &usize| a(*i) && b(*i) && serves(before, *i) != serves(after, *i);
    let changed: Vec<usize> = (0..after.nodes.len()).filter(other).collect();
    let moved = after.ring.moved(a, b);
    if changed.is_empty() {
        return moved;
    }
    let shares = after.ring.shares(b);
    moved + changed.iter().map(|i| shares[*i]).sum::<f64>()
}

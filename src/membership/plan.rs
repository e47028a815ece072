//! (topology, ledger, change) -> the next topology, or why not. Pure: what is planned here is put
//! in force by the task in the room's main file, and an offline plan asks the same functions.
//!
//! Laws: a step is at most one epoch, and one only if some key's owner or action changes; of the
//! pool's weight at most `eject_max` does not serve, and never the last node; a node that leaves
//! moves only its own keys; what moves is within the warmth budget; when all are back, each key is
//! where it was.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    build::{Births, Prepared},
    debt::{examples, gains, not_swept, owed},
    gutter::{is_gutter_of, unswept_until},
    ledger::{Back, Ledger, Out},
    order::mark,
    settle::{Rules, settle},
};
use crate::topology::{
    Admission, Basis, Cause, Change, Data, Entry, Health, LEVELS, NodeId, OnEjected, Order, Placement,
    Policy, PoolSpec, Slow, Topology, WaitReason, WhileHeld,
};

/// What comes of a change.
#[derive(Debug)]
pub enum Outcome {
    /// The next topology.
    Publish(Box<Step>),
    /// Nothing is published, and this is remembered.
    Remember(Box<Ledger>),
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
        /// What the verdict rests on.
        basis: Basis,
    },
    /// The node is ejected, and its keys wait for the warmth budget.
    Held {
        /// Its name.
        node: Arc<str>,
        /// As a label.
        cause: Cause,
        /// As a sentence.
        evidence: Arc<str>,
        /// What the verdict rests on.
        basis: Basis,
    },
    /// The keys of a node that was held go elsewhere now.
    Released {
        /// Its name.
        node: Arc<str>,
        /// Why it is ejected, as a sentence.
        evidence: Arc<str>,
    },
    /// The keys of a node that was held stay with it for good: a reload says so.
    Stays {
        /// Its name.
        node: Arc<str>,
    },
    /// The node proved itself, and waits: it has nothing of what it had and the warmth budget is spent, or
    /// what it has is old.
    Waits {
        /// Its name.
        node: Arc<str>,
        /// For what.
        reason: WaitReason,
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
        /// What the verdict rests on.
        basis: Basis,
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
    /// The node is much slower than the others, or is not any more.
    Slow {
        /// Its name.
        node: Arc<str>,
        /// How slow.
        slow: Option<Slow>,
    },
    /// An operator wants something of the node, or nothing any more.
    Ordered {
        /// Its name.
        node: Arc<str>,
        /// What is wanted.
        order: Option<Order>,
        /// The order that was in force.
        was: Option<Order>,
    },
    /// A node that is back begins to take its keys.
    Starts {
        /// Its name.
        node: Arc<str>,
        /// What it proved itself with; none when an operator let it back.
        evidence: Option<Arc<str>>,
    },
    /// A node that is back was cleaned of what is old.
    Cleaned {
        /// Its name.
        node: Arc<str>,
        /// What was done.
        how: Arc<str>,
        /// It had keys, and has none any more.
        emptied: bool,
    },
    /// A node that is back took more of its keys, or is about to.
    Admits {
        /// Its name.
        node: Arc<str>,
        /// How far it has come.
        to: Admission,
    },
    /// Keys of nodes that are away go elsewhere in the pool that serves them, or nowhere.
    Gutter {
        /// Why.
        evidence: Arc<str>,
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
        Change::Eject { cause, evidence, basis, .. } => {
            let mut ledger = ledger.clone();
            ledger.leaves(id, (*cause, evidence, *basis), time);
            turn(now, ledger, (at, &[Health::Healthy, Health::Suspect], Health::Ejected), time)
        }
        Change::Restore { data, evidence, .. } => {
            let mut ledger = ledger.clone();
            ledger.comes_back(id, *data, evidence, time);
            turn(now, ledger, (at, &[Health::Ejected, Health::Probation], Health::Healthy), time)
        }
        Change::Cleaned { below, leftovers, emptied, how, .. } => {
            let mut ledger = ledger.clone();
            if !ledger.cleaned(id, *below) {
                return Outcome::Nothing;
            }
            if *leftovers {
                ledger.unswept(id, unswept_until(&now.policy, time));
            }
            let (node, how) = (entry.node.name.clone(), how.clone());
            let told = Event::Cleaned { node, how, emptied: *emptied };
            go_on(now, ledger, vec![told], time)
        }
        Change::NotCleaned { .. } => {
            let mut ledger = ledger.clone();
            if !ledger.not_cleaned(id, time) {
                return Outcome::Nothing;
            }
            go_on(now, ledger, Vec::new(), time)
        }
        Change::Swept { .. } => swept(now, ledger.clone(), id, time),
        Change::Misconfigured { what, .. } if entry.misconfigured != *what => {
            let told = Event::Misconfigured { node: entry.node.name.clone(), what: what.clone() };
            revise(now, ledger, at, vec![told], |entry| entry.misconfigured.clone_from(what))
        }
        Change::Slow { slow, .. } if slow.is_some() != entry.slow.is_some() => {
            let told = Event::Slow { node: entry.node.name.clone(), slow: *slow };
            revise(now, ledger, at, vec![told], |entry| {
                entry.slow = *slow;
                entry.health = match (entry.health, slow) {
                    (Health::Healthy, Some(_)) => Health::Suspect,
                    (Health::Suspect, None) => Health::Healthy,
                    (health, _) => health,
                };
            })
        }
        Change::Resolved { targets, .. } if entry.targets != *targets => {
            revise(now, ledger, at, Vec::new(), |entry| entry.targets = targets.clone())
        }
        Change::Misconfigured { .. }
        | Change::Slow { .. }
        | Change::Resolved { .. }
        | Change::Order { .. }
        | Change::Reload { .. } => Outcome::Nothing,
    }
}

/// Others have nothing of a node's any more.
fn swept(now: &Topology, mut ledger: Ledger, id: NodeId, time: Instant) -> Outcome {
    if !ledger.swept(id, &now.policy) {
        return Outcome::Nothing;
    }
    // Remembered whether anything comes of it or not.
    match go_on(now, ledger.clone(), Vec::new(), time) {
        Outcome::Nothing => Outcome::Remember(Box::new(ledger)),
        outcome => outcome,
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
        | Change::Cleaned { node, .. }
        | Change::NotCleaned { node, .. }
        | Change::Swept { node, .. }
        | Change::Misconfigured { node, .. }
        | Change::Slow { node, .. }
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
    if to == Health::Healthy {
        nodes[at].slow = None;
    }
    settle(&mut nodes, &rules(now, time), &mut ledger);
    let mut events = told(&now.nodes, &nodes, &ledger);
    let step = step(now, nodes, ledger, Vec::new(), time);
    let Step { next, ledger, .. } = step;
    let nodes = &next.nodes;
    let entry = &nodes[at];
    let name = || entry.node.name.clone();
    match (to, now.nodes[at].placement, entry.placement) {
        (Health::Ejected, Placement::Owns, Placement::Owns)
        | (Health::Ejected, Placement::Starting(_), Placement::Starting(_)) => {
            if let Some(out) = ledger.out(entry.node.id).filter(|_| from.contains(&Health::Healthy)) {
                let evidence =
                    format!("{}; {}", out.evidence, kept_because(entry, nodes, now.health.eject_max));
                events.push(Event::Kept {
                    node: name(),
                    cause: out.cause,
                    evidence: evidence.into(),
                    basis: out.basis,
                });
            }
        }
        (Health::Healthy, Placement::Owns, Placement::Owns) if !from.contains(&Health::Suspect) => {
            events.insert(0, Event::Recovered { node: name() });
        }
        (Health::Healthy, Placement::Away, Placement::Away) if entry.order.is_none() => {
            let wait = next.waits.iter().find(|wait| wait.node == entry.node.id);
            let reason = wait.map_or(WaitReason::Budget, |wait| wait.reason);
            events.extend(ledger.back(entry.node.id).map(|Back { data, evidence, .. }| Event::Waits {
                node: name(),
                reason,
                data: *data,
                evidence: evidence.clone(),
            }));
        }
        _ => {}
    }
    Outcome::Publish(Box::new(Step { next, ledger, events }))
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
    let (waits, budget_due) = ledger.settled(&nodes, &now.policy, time);
    let next = Topology {
        epoch: now.epoch + u64::from(moves),
        revision: now.revision + 1,
        waits,
        budget_due,
        nodes: nodes.into(),
        ..now.clone()
    };
    Step { next, ledger, events }
}

pub(super) fn rules(now: &Topology, time: Instant) -> Rules<'_> {
    Rules { eject_max: now.health.eject_max, policy: &now.policy, time }
}

/// The warmth budget may let something go on that waited for it, or a node that starts may take more.
pub fn budget(now: &Topology, ledger: &Ledger, time: Instant) -> Outcome {
    go_on(now, ledger.clone(), Vec::new(), time)
}

/// Nothing changed but what is remembered, or the time.
fn go_on(now: &Topology, mut ledger: Ledger, mut events: Vec<Event>, time: Instant) -> Outcome {
    let mut nodes = now.nodes.to_vec();
    settle(&mut nodes, &rules(now, time), &mut ledger);
    events.extend(told(&now.nodes, &nodes, &ledger));
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
        if entry.placement == Placement::Owns && (out.is_empty() || was() == Placement::Owns)
            || entry.placement == was()
        {
            continue;
        }
        let node = entry.node.name.clone();
        let why = ledger.out(entry.node.id).cloned();
        events.extend(match (was(), entry.placement, entry.health) {
            (Placement::Away | Placement::Held, Placement::Owns, Health::Ejected | Health::Probation)
                if entry.order.is_none() =>
            {
                Some(Event::Readmitted { node })
            }
            (Placement::Away | Placement::Held, Placement::Starting(_), _) => Some(Event::Starts {
                node,
                evidence: ledger.back(entry.node.id).map(|back| back.evidence.clone()),
            }),
            (Placement::Starting(_), Placement::Starting(to), _) => Some(Event::Admits { node, to }),
            (was, Placement::Owns, _) => match (ledger.back(entry.node.id), was) {
                (Some(Back { data, evidence, .. }), _) => {
                    Some(Event::Restored { node, data: *data, evidence: evidence.clone() })
                }
                // An operator let it back, and that was told when it began to start.
                (None, Placement::Starting(_)) => {
                    Some(Event::Admits { node, to: Admission { admitted: LEVELS, fence: LEVELS } })
                }
                (None, _) => None,
            },
            (Placement::Owns | Placement::Held | Placement::Starting(_), Placement::Away, _)
                if entry.order.is_some_and(Order::is_out) =>
            {
                None
            }
            (Placement::Owns | Placement::Starting(_), Placement::Away, _) => {
                why.map(|Out { cause, evidence, basis, .. }| Event::Ejected { node, cause, evidence, basis })
            }
            (Placement::Owns | Placement::Starting(_), Placement::Held, _) => {
                why.map(|Out { cause, evidence, basis, .. }| Event::Held { node, cause, evidence, basis })
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
    let owners = nodes.iter().filter(|e| e.placement.serves()).count();
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
        ledger.renamed(before, after);
    });
    if let Some(why) = owed(now, &ledger, &nodes, &spec.policy) {
        return Outcome::Refused { why };
    }
    if let Some(why) = not_swept(now, &ledger, prepared, time) {
        return Outcome::Refused { why };
    }
    ledger.retain(&nodes);
    gains(now, &mut ledger, (prepared, &nodes), time);
    mark(&mut nodes, ledger.orders());
    let rules = Rules { eject_max: spec.health.eject_max, policy: &spec.policy, time };
    settle(&mut nodes, &rules, &mut ledger);
    let is_same = same_nodes(&now.nodes, &nodes);
    let has_moved = !is_same || prepared.moved > 0.0 || other_action(now, &nodes, spec);
    if is_same && !has_moved && is_unchanged(now, prepared) {
        return Outcome::Nothing;
    }
    let mut events = told(&now.nodes, &nodes, &ledger);
    if !spec.policy.moves_keys() {
        for event in &mut events {
            if let Event::Released { node, .. } = event {
                *event = Event::Stays { node: node.clone() };
            }
        }
    }
    events.extend(asked_anew(&now.nodes, &nodes));
    events.insert(0, Event::Reloaded { evidence: differences(&now.nodes, &nodes).into() });
    let (waits, budget_due) = ledger.settled(&nodes, &spec.policy, time);
    let next = Topology {
        pool: now.pool.clone(),
        epoch: now.epoch + u64::from(has_moved),
        revision: now.revision + 1,
        gutter: now.gutter.clone().filter(|gutter| is_gutter_of(&spec.policy, gutter)),
        waits,
        budget_due,
        ring: prepared.ring.clone(),
        ordinals: super::build::ordinals(&now.ordinals, &nodes),
        nodes: nodes.into(),
        policy: spec.policy.clone(),
        health: Arc::new(spec.health.clone()),
    };
    Outcome::Publish(Box::new(Step { next, ledger, events }))
}

/// Of whom nothing is known to be wrong any more: a new detector says it again if it is so.
fn asked_anew(before: &[Entry], after: &[Entry]) -> Vec<Event> {
    let was_wrong = before.iter().filter(|e| e.misconfigured.is_some()).map(|e| &e.node.name);
    let is_not = |name: &Arc<str>| after.iter().find(|e| e.node.name == *name && e.misconfigured.is_none());
    let told = |e: &Entry| Event::Misconfigured { node: e.node.name.clone(), what: None };
    was_wrong.filter_map(is_not).map(told).collect()
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

/// Whether keys of a node that does not serve, or not all of its own, are treated in another way from now on.
fn other_action(now: &Topology, nodes: &[Entry], spec: &PoolSpec) -> bool {
    let (old, new) = (&*now.policy, &*spec.policy);
    let pool = |p: &Policy| p.failover.as_ref().filter(|_| p.fails_over()).map(|f| f.pool.clone());
    let held = |p: &Policy, key: &[u8]| match p.on_ejected_for(key) {
        OnEjected::Fail => WhileHeld::Fail,
        OnEjected::Miss => WhileHeld::Miss,
        OnEjected::Rehash | OnEjected::Failover => p.warmth.held,
    };
    // Of a node that starts, keys that do not move are its own already, and of the others some are not.
    let mover = |p: &Policy, key: &[u8]| Some(p.on_ejected_for(key)).filter(|on_ejected| on_ejected.moves());
    let is_other = |placement: Placement| match placement {
        Placement::Owns => false,
        Placement::Away => {
            pool(old) != pool(new)
                || examples(old, new).any(|key| old.on_ejected_for(key) != new.on_ejected_for(key))
        }
        Placement::Held => examples(old, new).any(|key| held(old, key) != held(new, key)),
        Placement::Starting(_) => {
            pool(old) != pool(new) || examples(old, new).any(|key| mover(old, key) != mover(new, key))
        }
    };
    // Thousands of nodes have few placements.
    let mut seen: Vec<Placement> = nodes.iter().map(|e| e.placement).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.into_iter().any(is_other)
}

fn is_unchanged(now: &Topology, prepared: &Prepared) -> bool {
    Arc::ptr_eq(&now.ring, &prepared.ring)
        && now.policy == prepared.spec.policy
        && *now.health == prepared.spec.health
}

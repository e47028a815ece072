//! (topology, ledger, news of a node) -> the next topology, or why not. Pure: what is planned here is put
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
    debts::End,
    event::{Event, What},
    gutter::is_gutter_of,
    ledger::Ledger,
    order::mark,
    owed::{examples, gains, not_swept, owed},
    settle::{Rules, settle},
};
use crate::topology::{
    Admission, Because, Entry, Failed, Health, LEVELS, News, NodeId, OnEjected, Opinion, Order, Placement,
    Policy, PoolSpec, Topology, WaitReason, WhileHeld,
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

/// Plans what comes of news of a node.
pub fn plan(now: &Topology, ledger: &Ledger, (node, news): (NodeId, &News), time: Instant) -> Outcome {
    let Some(at) = now.position(node) else { return Outcome::Nothing };
    let mut ledger = ledger.clone();
    match news {
        News::Judged(opinion) => judged(now, ledger, (at, opinion), time),
        News::Cleaned { below, leftovers, emptied, how } => {
            let starts = ledger.cleaned(node, *below);
            if *leftovers {
                ledger.debts.others_took(node, &now.policy, End::Swept, time);
            }
            let cleaned = What::Cleaned { how: how.clone(), emptied: *emptied };
            match starts {
                true => remembered(now, ledger, vec![cleaned.of(&now.nodes[at])], time),
                // It left meanwhile, and what others took for it before they have nevertheless.
                false if *leftovers => remembered(now, ledger, Vec::new(), time),
                false => Outcome::Nothing,
            }
        }
        News::NotCleaned => {
            let is_needed = !now.nodes.iter().any(|entry| entry.placement == Placement::Owns);
            match ledger.not_cleaned(node, time, is_needed) {
                true => remembered(now, ledger, Vec::new(), time),
                false => Outcome::Nothing,
            }
        }
        News::Stripping if ledger.strips(node) => remembered(now, ledger, Vec::new(), time),
        News::Sweeping if ledger.debts.still_swept(node, &now.policy, time) => {
            looked_for(now, ledger, at, time)
        }
        News::Swept { turn } if ledger.debts.swept(node, *turn) => looked_for(now, ledger, at, time),
        News::NotSwept { turn } if ledger.debts.not_swept(node, *turn) => looked_for(now, ledger, at, time),
        News::Resolved(targets) if now.nodes[at].targets != *targets => {
            let mut nodes = now.nodes.to_vec();
            nodes[at].targets = targets.clone();
            let next = Topology { revision: now.revision + 1, nodes: nodes.into(), ..now.clone() };
            Outcome::Publish(Box::new(Step { next, ledger, events: Vec::new() }))
        }
        News::Stripping | News::Sweeping | News::Swept { .. } | News::NotSwept { .. } | News::Resolved(_) => {
            Outcome::Nothing
        }
    }
}

/// What is known of data is remembered whether anything comes of it now or not.
fn remembered(now: &Topology, ledger: Ledger, events: Vec<Event>, time: Instant) -> Outcome {
    match go_on(now, ledger.clone(), events, time) {
        Outcome::Nothing => Outcome::Remember(Box::new(ledger)),
        outcome => outcome,
    }
}

/// More is known of what others have of a node's keys. While it has them all itself that moves nothing; that
/// it is done for some can wait to be published until it is for all: of thousands it is told one by one.
fn looked_for(now: &Topology, ledger: Ledger, at: usize, time: Instant) -> Outcome {
    if now.nodes[at].placement == Placement::Owns && ledger.debts.is_any_due() {
        return Outcome::Remember(Box::new(ledger));
    }
    remembered(now, ledger, Vec::new(), time)
}

/// What is thought of a node is put in force, whatever was thought before; placements follow.
fn judged(now: &Topology, mut ledger: Ledger, (at, opinion): (usize, &Opinion), time: Instant) -> Outcome {
    let before = &now.nodes[at];
    let Opinion { health, slow, wrong, because } = opinion;
    if (before.health, before.slow, &before.misconfigured) == (*health, *slow, wrong) {
        return Outcome::Nothing;
    }
    let (was_out, is_out) = (before.health.is_out(), health.is_out());
    match because {
        Because::Failed(failed) if is_out && !was_out => ledger.leaves(before.node.id, failed, time),
        Because::Returned(back) if was_out && !is_out => ledger.comes_back(before.node.id, back, time),
        _ => {}
    }
    let mut nodes = now.nodes.to_vec();
    let misconfigured = wrong.clone();
    nodes[at] = Entry { health: *health, slow: *slow, misconfigured, ..before.clone() };
    settle(&mut nodes, &rules(now, time), &mut ledger);
    let mut events = Vec::new();
    let is_at = |placement| nodes[at].placement == placement;
    let recovers = was_out && !is_out && before.placement == Placement::Owns && is_at(Placement::Owns);
    if recovers {
        events.push(What::Recovered.of(before));
    }
    // Of one that has its keys again it is told with that.
    let is_restored = before.placement != Placement::Owns && is_at(Placement::Owns);
    let is_wrong = wrong.is_some() && !is_restored;
    if before.misconfigured != *wrong && (is_wrong || wrong.is_none()) || recovers && is_wrong {
        events.push(What::Misconfigured(wrong.clone()).of(before));
    }
    // Of one that is out it counts that it fails, unless it is out for another reason.
    let fails = (was_out || is_out) && !before.order.is_some_and(Order::is_out);
    if before.slow.is_some() != slow.is_some() && !fails || recovers && slow.is_some() {
        events.push(What::Slow(*slow).of(before));
    }
    events.extend(told(&now.nodes, &nodes, &ledger));
    let mut step = step(now, nodes, ledger, events, time);
    let told = unmoved(&step, before, at);
    step.events.extend(told);
    Outcome::Publish(Box::new(step))
}

/// What is told of a node that is out or back from now on, and has its placement still.
fn unmoved(Step { next, ledger, .. }: &Step, before: &Entry, at: usize) -> Option<Event> {
    let entry = &next.nodes[at];
    let id = entry.node.id;
    let is_at = |is: fn(Placement) -> bool| is(before.placement) && is(entry.placement);
    match (before.health.is_out(), entry.health.is_out()) {
        // One that answers again by now, as that it failed was not heard, is not put away so late.
        (false, true)
            if entry.health == Health::Ejected
                && (is_at(|p| p == Placement::Owns) || is_at(|p| matches!(p, Placement::Starting(_)))) =>
        {
            let Failed { cause, evidence, basis } = ledger.out(id)?.why.clone();
            let because = kept_because(entry, &next.nodes, next.health.eject_max);
            let evidence = format!("{evidence}; {because}").into();
            Some(What::Kept(Failed { cause, evidence, basis }).of(entry))
        }
        // Of one whose keys go elsewhere it is told with that.
        (true, false)
            if entry.order.is_none()
                && (entry.placement == Placement::Held || is_at(|p| p == Placement::Away)) =>
        {
            let wait = next.waits.iter().find(|wait| wait.node == id);
            let reason = wait.map_or(WaitReason::Budget, |wait| wait.reason);
            Some(What::Waits(reason, ledger.back(id)?.with.clone()).of(entry))
        }
        _ => None,
    }
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
        leftovers: ledger.debts.leftovers(&now.leftovers),
        nodes: nodes.into(),
        ..now.clone()
    };
    Step { next, ledger, events }
}

pub(super) fn rules(now: &Topology, time: Instant) -> Rules<'_> {
    Rules { eject_max: now.health.eject_max, policy: &now.policy, ring: &now.ring, time }
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
    let Topology { epoch, budget_due, leftovers, .. } = &step.next;
    if (*epoch, *budget_due, leftovers) == (now.epoch, now.budget_due, &now.leftovers) {
        return Outcome::Nothing;
    }
    Outcome::Publish(Box::new(step))
}

/// Who went away, who waits, and who owns again. Only who does not serve now or did not before can be
/// told of, a few of perhaps many thousands: names of no others are looked up.
pub(super) fn told(before: &[Entry], after: &[Entry], ledger: &Ledger) -> Vec<Event> {
    let is_out = |e: &&Entry| e.placement != Placement::Owns;
    let out: HashMap<&str, &Entry> = before.iter().filter(is_out).map(|e| (&*e.node.name, e)).collect();
    let mut events = Vec::new();
    for entry in after {
        if entry.placement == Placement::Owns && out.is_empty() {
            continue;
        }
        let old = out.get(&*entry.node.name);
        let was = old.map_or(Placement::Owns, |old| old.placement);
        if entry.placement != was {
            let was_out = old.is_some_and(|old| old.health.is_out());
            events.extend(placed((was, was_out), entry, ledger).map(|what| what.of(entry)));
            events.extend(still_doubted(entry));
        }
    }
    events
}

/// What is wrong with a node that has its keys again: that it was out is over, and this is not.
fn still_doubted(entry: &Entry) -> Vec<Event> {
    if entry.placement != Placement::Owns || entry.health.is_out() {
        return Vec::new();
    }
    let wrong = entry.misconfigured.clone().map(|wrong| What::Misconfigured(Some(wrong)));
    let slow = entry.slow.map(|slow| What::Slow(Some(slow)));
    wrong.into_iter().chain(slow).map(|what| what.of(entry)).collect()
}

/// What is told of a node with another placement than before.
fn placed((was, was_out): (Placement, bool), entry: &Entry, ledger: &Ledger) -> Option<What> {
    let (out, back) = (ledger.out(entry.node.id), ledger.back(entry.node.id));
    let released = || {
        let waits = || back.map(|_| "it is back, and waits until what it has has expired".into());
        out.map(|out| out.why.evidence.clone()).or_else(waits).map(What::Released)
    };
    match (was, entry.placement) {
        (Placement::Away | Placement::Held, Placement::Starting(_)) if entry.health.is_out() => {
            Some(What::Readmitted("nobody else is left: its keys are refused until it answers and is clean"))
        }
        (Placement::Away | Placement::Held, Placement::Starting(_)) => {
            Some(What::Starts(back.map(|back| back.with.evidence.clone())))
        }
        (Placement::Starting(_), Placement::Starting(to)) => Some(What::Admits(to)),
        // Who has all its keys does not start.
        (Placement::Owns, Placement::Starting(_)) => None,
        (Placement::Away | Placement::Held, Placement::Owns)
            if entry.health.is_out() && entry.order.is_none() =>
        {
            Some(What::Readmitted("too few others are left"))
        }
        (was, Placement::Owns) => match (back, was) {
            (Some(back), _) => Some(What::Restored(back.with.clone())),
            // An operator let it back, and that was told when it began to start.
            (None, Placement::Starting(_)) => {
                Some(What::Admits(Admission { admitted: LEVELS, fence: LEVELS }))
            }
            (None, _) => None,
        },
        (_, Placement::Away) if entry.order.is_some_and(Order::is_out) => None,
        // It was told that it failed when it did, and nobody had its keys since.
        (Placement::Starting(to), Placement::Away) if was_out && to.admitted == 0 => released(),
        (Placement::Held, Placement::Away) => released(),
        (_, Placement::Away) => out.map(|out| What::Ejected(out.why.clone())).or_else(released),
        (_, Placement::Held) => out.map(|out| What::Held(out.why.clone())),
    }
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

/// Why so many nodes can't be at other addresses at once: no key moves, but what their servers have is left
/// behind. The first one is, whatever its share, as servers are replaced one by one; and one that fails
/// leaves nothing behind that is served.
pub fn leaves_too_much(now: &Topology, spec: &PoolSpec, max_share: f64) -> Option<String> {
    let addresses: HashMap<_, _> = spec.nodes.iter().map(|node| (&node.name, &node.address)).collect();
    let is_left = |e: &Entry| {
        let serves = matches!(e.placement, Placement::Owns | Placement::Starting(_)) && !e.health.is_out();
        serves && addresses.get(&e.node.name).is_some_and(|address| **address != e.node.address)
    };
    let left: Vec<f64> =
        now.nodes.iter().zip(now.shares()).filter(|(e, _)| is_left(e)).map(|(_, share)| share).collect();
    let share = left.iter().sum::<f64>();
    (left.len() > 1 && share > max_share).then(|| {
        format!(
            "pool {}: {} nodes that serve would be at other addresses, and leave {:.1} % of the key space behind at \
             once, more than reload.max_share ({:.1} %): change them one by one, or raise reload.max_share for this \
             reload",
            now.pool,
            left.len(),
            share * 100.0,
            max_share * 100.0
        )
    })
}

/// Why a reload would have too much of the key space served by others, or by nobody who has it.
fn too_much(now: &Topology, prepared: &Prepared, max_share: f64) -> Option<String> {
    if prepared.moved <= max_share {
        return leaves_too_much(now, &prepared.spec, max_share);
    }
    Some(format!(
        "pool {}: this would move {:.1} % of the key space, more than reload.max_share ({:.1} %): if that is meant, \
         raise reload.max_share for this reload",
        now.pool,
        prepared.moved * 100.0,
        max_share * 100.0
    ))
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
    let spec = &prepared.spec;
    if let Some(why) = too_much(now, prepared, max_share).filter(|_| !yes) {
        return Outcome::Refused { why };
    }
    // Asked of the nodes as they are called now: one that gets another weight is called anew below.
    let unswept = not_swept(now, ledger, prepared, time);
    let mut ledger = ledger.clone();
    ledger.ring = spec.ring.clone();
    let mut nodes = births.carry(&now.nodes, prepared, &mut |before, after| {
        ledger.renamed(before, after);
    });
    if let Some(why) = owed(now, &ledger, &nodes, &spec.policy).or(unswept) {
        return Outcome::Refused { why };
    }
    gains(now, &mut ledger, (prepared, &nodes), time);
    ledger.retain(&now.nodes, &nodes);
    ledger.shortens(&now.policy, &spec.policy, time);
    mark(&mut nodes, ledger.orders());
    let (eject_max, policy, ring) = (spec.health.eject_max, &*spec.policy, &*prepared.ring);
    settle(&mut nodes, &Rules { eject_max, policy, ring, time }, &mut ledger);
    let is_same = same_nodes(&now.nodes, &nodes);
    let has_moved = !is_same || prepared.moved > 0.0 || other_action(now, &nodes, spec);
    if is_same && !has_moved && is_unchanged(now, prepared) {
        return Outcome::Nothing;
    }
    let mut events = told(&now.nodes, &nodes, &ledger);
    if !spec.policy.moves_keys() {
        for event in &mut events {
            if let What::Released(_) = event.what {
                event.what = What::Stays;
            }
        }
    }
    events.extend(asked_anew(&now.nodes, &nodes));
    events.insert(0, What::Reloaded(differences(&now.nodes, &nodes).into()).of_pool());
    let (waits, budget_due) = ledger.settled(&nodes, &spec.policy, time);
    let next = Topology {
        pool: now.pool.clone(),
        epoch: now.epoch + u64::from(has_moved),
        revision: now.revision + 1,
        gutter: now.gutter.clone().filter(|gutter| is_gutter_of(&spec.policy, gutter)),
        waits,
        budget_due,
        leftovers: ledger.debts.leftovers(&now.leftovers),
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
    let was_wrong: HashMap<&str, &Entry> = before
        .iter()
        .filter(|e| e.misconfigured.is_some() || e.slow.is_some())
        .map(|e| (&*e.node.name, e))
        .collect();
    if was_wrong.is_empty() {
        return Vec::new();
    }
    let mut events = Vec::new();
    for entry in after {
        let Some(was) = was_wrong.get(&*entry.node.name) else { continue };
        if was.misconfigured.is_some() && entry.misconfigured.is_none() {
            events.push(What::Misconfigured(None).of(entry));
        }
        // Of one that is out it counts that it is.
        if was.slow.is_some() && entry.slow.is_none() && !entry.health.is_out() {
            events.push(What::Slow(None).of(entry));
        }
    }
    events
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

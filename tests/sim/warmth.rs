//! The warmth budget, kept a second time from what was published: what moves is what the topologies before
//! and after a step say that nodes have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringway::topology::{
    Admission, Because, Entry, LEVELS, NodeId, OnEjected, Order, Placement, Rule, Topology,
};
use tokio::time::Instant;

use crate::{
    laws::{Back, Breach, Case, Law, Reason, holds},
    planner::is_away,
};

/// What moved lately by ringway's own decision.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    spent: Vec<Spent>,
    /// Who was not there when it was asked first: it leaves at nobody's expense.
    never_there: BTreeSet<NodeId>,
    /// Who takes its keys at the budget's expense: those below this level are paid for, since then.
    taking: BTreeMap<Arc<str>, (u32, Instant)>,
}

#[derive(Debug)]
struct Spent {
    at: Instant,
    share: f64,
    is_ejection: bool,
}

/// Keys that a cold node takes.
#[derive(Debug)]
struct Take {
    name: Arc<str>,
    from: u32,
    to: u32,
    share: f64,
}

/// A step of a slow start.
const STEP: u32 = LEVELS / 16;

impl Spending {
    /// Who fails, or is under an order, takes nothing at the budget's expense.
    pub(crate) fn watch(&mut self, case: &Case<'_>) {
        let name = |e: &Entry| is_own(case, e).then(|| e.node.name.clone());
        let own: BTreeSet<Arc<str>> = case.after.nodes.iter().filter_map(name).collect();
        self.taking.retain(|name, _| own.contains(name));
    }

    /// Judges what moved in this step. `back` says what those came back with that wait.
    pub(crate) fn step(&mut self, case: &Case<'_>, back: &BTreeMap<Arc<str>, Back>) -> Result<(), Breach> {
        let (warmth, time) = (case.after.policy.warmth, case.time);
        match case.turned() {
            Some((node, Because::Failed(failed))) if failed.basis.rule == Rule::FirstProbe => {
                self.never_there.insert(node);
            }
            Some((node, Because::Returned(_))) => {
                self.never_there.remove(&node);
            }
            _ => {}
        }
        self.spent.retain(|spent| spent.at + warmth.window > time);
        if !case.after.policy.moves_keys() || warmth.share >= 1.0 {
            self.taking.clear();
            return Ok(());
        }
        let leave = self.leave(case);
        let spent: f64 = self.spent.iter().map(|s| s.share).sum();
        let sum: f64 = leave.iter().sum();
        let is_first = leave.len() == 1 && !self.spent.iter().any(|s| s.is_ejection);
        let most = warmth.share + 1e-6;
        holds(Law::Budget, leave.is_empty() || is_first || spent + sum <= most, || {
            format!("{sum:.3} of the keys leave although {spent:.3} was spent, {} may be", warmth.share)
        })?;
        let new = |share: f64, is_ejection| Spent { at: time, share, is_ejection };
        self.spent.extend(leave.into_iter().map(|share| new(share, true)));
        let takes = self.takes(case, back);
        let spent = spent + sum;
        let sum: f64 = takes.iter().map(|take| take.share).sum();
        let is_step = |take: &Take| take.to - take.from <= STEP || case.after.policy.slow_start.is_zero();
        let is_least = self.spent.is_empty() && takes.len() == 1 && takes.iter().all(is_step);
        holds(Law::Budget, takes.is_empty() || is_least || spent + sum <= most, || {
            format!("{takes:?} return cold although {spent:.3} was spent, {} may be", warmth.share)
        })?;
        for Take { name, to, share, .. } in takes {
            self.spent.push(new(share, false));
            self.taking.insert(name, (to, time));
        }
        Ok(())
    }

    /// The shares of those that leave by ringway's own decision.
    fn leave(&self, case: &Case<'_>) -> Vec<f64> {
        let leaves = |entry: &&Entry| {
            let is_known = !self.never_there.contains(&entry.node.id);
            // Most keys of one that has just begun to start are elsewhere anyhow.
            let had = !matches!(placement_before(case, entry), Placement::Away | Placement::Starting(_));
            is_known && had && is_away(entry) && !by_hand(entry)
        };
        let leavers: Vec<&Entry> = case.after.nodes.iter().filter(leaves).collect();
        leavers.into_iter().map(|entry| share_below(case, entry, LEVELS)).collect()
    }

    /// What cold nodes take by ringway's own decision.
    fn takes(&mut self, case: &Case<'_>, back: &BTreeMap<Arc<str>, Back>) -> Vec<Take> {
        let nodes = &case.after.nodes;
        let owns = |e: &Entry| e.placement == Placement::Owns && placement_before(case, e) == Placement::Owns;
        // Somebody has to have each key.
        let is_last_resort = !nodes.iter().any(owns);
        let weight = |which: &dyn Fn(&Entry) -> bool| -> f64 {
            nodes.iter().filter(|e| which(e)).map(|e| f64::from(e.node.weight)).sum()
        };
        let out = weight(&|e| !e.placement.serves());
        let out_max = case.after.health.eject_max * weight(&|_| true) - 1e-6;
        let mut takes = Vec::new();
        for entry in nodes.iter() {
            let name = &entry.node.name;
            let (was, to) = (placement_before(case, entry), entry.placement.holds_below());
            let paid = self.taking.remove(name);
            if !is_own(case, entry) || is_last_resort || !entry.placement.serves() {
                continue;
            }
            let is_cold = back.get(name).is_some_and(|back| back.is_cold(case.after));
            let old = case.before.nodes.iter().find(|e| e.node.name == *name);
            let was_by_hand = old.is_some_and(by_hand);
            let from = match paid {
                Some((paid, at)) if at + case.after.policy.warmth.window > case.time => {
                    was.holds_below().max(paid)
                }
                Some(_) => was.holds_below(),
                None if was != Placement::Away || !is_cold || was_by_hand => continue,
                // Whether the guard or the budget had it back depends on who was asked first: in doubt it
                // cost nothing.
                None if out + f64::from(entry.node.weight) > out_max => to,
                None => 0,
            };
            let share = share_below(case, entry, to) - share_below(case, entry, from);
            if to > from && share > 1e-9 {
                takes.push(Take { name: name.clone(), from, to, share });
            }
            if entry.placement != Placement::Owns {
                self.taking.insert(name.clone(), paid.unwrap_or((to, case.time)));
            }
        }
        takes
    }
}

/// Whether a node is well, and what it takes is ringway's own decision.
fn is_own(case: &Case<'_>, entry: &Entry) -> bool {
    let is_ordered = matches!(&case.reason, Reason::Order(name) if *name == entry.node.name);
    !is_ordered && entry.order.is_none() && !entry.health.is_out()
}

fn by_hand(entry: &Entry) -> bool {
    entry.order.is_some_and(Order::is_out)
}

/// Where a node of the topology after a step was before. Another address is another node, which a reload
/// brought: what that moves is the operator's decision.
fn placement_before(case: &Case<'_>, entry: &Entry) -> Placement {
    let is_same = |e: &&Entry| e.node.name == entry.node.name && e.node.address == entry.node.address;
    case.before.nodes.iter().find(is_same).map_or(Placement::Owns, |e| e.placement)
}

/// What a node has of the key space when it has its keys below this level, and all others are where they
/// were.
fn share_below(case: &Case<'_>, entry: &Entry, below: u32) -> f64 {
    let as_before = |e: &Entry| match e.node.id == entry.node.id {
        true => {
            let placement = Placement::Starting(Admission { admitted: below, fence: below });
            Entry { placement, ..e.clone() }
        }
        false => Entry { placement: placement_before(case, e), ..e.clone() },
    };
    let nodes = case.after.nodes.iter().map(as_before).collect();
    let at = case.after.position(entry.node.id).expect("it is one of them");
    let share = Topology { nodes, ..case.after.clone() }.shares()[at];
    match case.after.policy.on_ejected {
        OnEjected::Rehash => share,
        // None of the pool has another's keys.
        _ => share * f64::from(below) / f64::from(LEVELS),
    }
}

//! The warmth budget, kept a second time from what was published.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ringway::topology::{Because, Entry, NodeId, Order, Placement, Rule};
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
}

#[derive(Debug)]
struct Spent {
    at: Instant,
    share: f64,
    is_ejection: bool,
}

/// Who moved in a step at the budget's expense.
#[derive(Debug, Default)]
struct Movers {
    leave: Vec<f64>,
    /// Its share, and whether the guard would have had it back whatever the budget says.
    come: Vec<(f64, bool)>,
}

impl Spending {
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
            return Ok(());
        }
        let movers = movers(case, back, &self.never_there);
        let spent: f64 = self.spent.iter().map(|s| s.share).sum();
        let leave: f64 = movers.leave.iter().sum();
        let is_first = movers.leave.len() == 1 && !self.spent.iter().any(|s| s.is_ejection);
        let most = warmth.share + 1e-6;
        holds(Law::Budget, movers.leave.is_empty() || is_first || spent + leave <= most, || {
            format!("{leave:.3} of the keys leave although {spent:.3} was spent, {} may be", warmth.share)
        })?;
        self.spent.extend(movers.leave.iter().map(|share| Spent {
            at: time,
            share: *share,
            is_ejection: true,
        }));
        let mut so_far = spent + leave;
        for (share, is_forced) in movers.come {
            let fits = so_far == 0.0 || so_far + share <= most;
            holds(Law::Budget, fits || is_forced, || {
                format!("{share:.3} of the keys return cold although {so_far:.3} was spent")
            })?;
            // Whether the guard or the budget had it back depends on who was asked first: in doubt it cost
            // nothing.
            if fits && !is_forced {
                so_far += share;
                self.spent.push(Spent { at: time, share, is_ejection: false });
            }
        }
        Ok(())
    }
}

/// Who leaves, and who returns cold, by ringway's own decision.
fn movers(case: &Case<'_>, back: &BTreeMap<Arc<str>, Back>, never_there: &BTreeSet<NodeId>) -> Movers {
    let before: BTreeMap<&str, &Entry> = case.before.nodes.iter().map(|e| (&*e.node.name, e)).collect();
    let was_away = |e: &Entry| before.get(&*e.node.name).is_some_and(|old| is_away(old));
    let by_hand = |e: &Entry| e.order.is_some_and(Order::is_out);
    let nodes = &case.after.nodes;
    let weight = |which: &dyn Fn(&Entry) -> bool| -> f64 {
        nodes.iter().filter(|e| which(e)).map(|e| f64::from(e.node.weight)).sum()
    };
    let (total, holders) = (weight(&|_| true), weight(&|e| !was_away(e)));
    let out = weight(&|e| !e.placement.serves());
    let mut movers = Movers::default();
    for entry in nodes.iter() {
        let own = f64::from(entry.node.weight);
        // Most keys of one that has just begun to start are elsewhere anyhow.
        let was_starting =
            before.get(&*entry.node.name).is_some_and(|old| matches!(old.placement, Placement::Starting(_)));
        let is_known = !never_there.contains(&entry.node.id);
        if is_known && !was_away(entry) && !was_starting && is_away(entry) && !by_hand(entry) {
            movers.leave.push(own / holders);
        }
        let is_back = !entry.health.is_out();
        let is_cold = back.get(&entry.node.name).is_some_and(|back| back.is_cold(case.after));
        let was_by_hand = before.get(&*entry.node.name).is_some_and(|old| by_hand(old));
        let is_ordered = matches!(case.reason, Reason::Order(ref name) if *name == entry.node.name);
        let own_decision = !is_ordered && entry.order != Some(Order::Pin);
        if was_away(entry) && !is_away(entry) && is_back && is_cold && !was_by_hand && own_decision {
            let is_forced = out + own > case.after.health.eject_max * total - 1e-6;
            movers.come.push((own / (holders + own), is_forced));
        }
    }
    movers
}

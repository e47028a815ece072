//! Who serves, given what is thought of each node: the guard of `eject_max` first, then the warmth
//! budget. Pure.

use std::{cmp::Reverse, collections::BTreeSet};

use tokio::time::Instant;

use super::{
    debts::End,
    ledger::Ledger,
    start::{STEP, Start},
    warmth::Shares,
};
use crate::{
    ring::Ring,
    topology::{Admission, Entry, Health, LEVELS, NodeId, OnReturn, Order, Placement, Policy},
};

/// What placements obey.
pub(super) struct Rules<'a> {
    pub(super) eject_max: f64,
    pub(super) policy: &'a Policy,
    /// Whose members are the nodes, in the same order.
    pub(super) ring: &'a Ring,
    pub(super) time: Instant,
}

/// Gives each node its placement. What an operator wants comes first. Those that should be out are put
/// away one by one, first those that are away, then those that are held, then in the order of their
/// ejection, as long as the rest keeps enough weight. Those that are back and cold come back one by one, as
/// long as the budget lasts; the guard goes before the budget.
pub(super) fn settle(nodes: &mut [Entry], rules: &Rules<'_>, ledger: &mut Ledger) {
    let before: Vec<Placement> = nodes.iter().map(|e| e.placement).collect();
    let total = weight(nodes, |_| true);
    // A third of three is one, whatever the rounding of 0.333.. x 3 says.
    let out_max = rules.eject_max * total as f64 + 1e-9;
    nodes.iter_mut().for_each(|entry| entry.placement = Placement::Owns);
    let useless = weight(nodes, |i| is_refused(&nodes[i], before[i]));
    let useful = (0..nodes.len()).filter(|i| !is_refused(&nodes[*i], before[*i])).count();
    let (mut away, mut owners) = (useless, useful.max(1));
    // An operator's word goes before guard and budget, and not before somebody has to own.
    for entry in nodes.iter_mut().filter(|entry| entry.order.is_some_and(Order::is_out)) {
        if owners > 1 {
            (away, owners) = (away + u64::from(entry.node.weight), owners - 1);
            entry.placement = Placement::Away;
        }
    }
    let mut goes = |entry: &Entry, is_stale: bool| {
        let with = away + u64::from(entry.node.weight);
        let may = owners > 1 && (is_stale || with as f64 <= out_max);
        if may {
            (away, owners) = (with, owners - 1);
        }
        may
    };
    let mut shares = Shares::new(rules.ring, rules.policy, &before);
    let stale = nodes.iter().zip(&before).map(|(entry, was)| is_stale(entry, *was, rules.policy, ledger));
    let stale: Vec<bool> = stale.collect();
    for i in leavers(nodes, &before, &stale, ledger) {
        if goes(&nodes[i], stale[i]) {
            nodes[i].placement = leave((i, nodes[i].node.id), before[i], &mut shares, rules, ledger);
        }
    }
    for i in 0..nodes.len() {
        let id = nodes[i].node.id;
        let is_new = nodes[i].placement == Placement::Owns && was_out(id, before[i], ledger);
        let waits = || ledger.waits(id, rules.policy, rules.time);
        if is_new && nodes[i].order.is_none() && waits() && goes(&nodes[i], false) {
            // Keys that it had go as those of one that fails: not while others may have older values of them.
            nodes[i].placement = leave((i, id), before[i], &mut shares, rules, ledger);
        }
    }
    let warmth = &rules.policy.warmth;
    let first = first_step(rules.policy);
    // Those that come back cold have paid for their first step.
    let mut paid: BTreeSet<usize> = BTreeSet::new();
    for i in returners(nodes, &before, ledger, rules) {
        let fits = shares.fits((i, first), &mut ledger.spending, warmth, rules.time);
        if !fits && goes(&nodes[i], false) {
            nodes[i].placement = Placement::Away;
        } else {
            shares.pays((i, 0, first), &mut ledger.spending, warmth, rules.time);
            paid.insert(i);
        }
    }
    for i in starters(nodes, &before, ledger) {
        let has_paid = paid.contains(&i);
        nodes[i].placement = start((i, &nodes[i]), (before[i], has_paid), &mut shares, rules, ledger);
    }
    if !nodes.iter().any(|entry| entry.placement == Placement::Owns) {
        last_resort(nodes, rules, ledger);
    }
}

/// Whether others took writes for a node that fails, and can't be cleaned: nobody needs it so much that it
/// would serve that.
fn is_stale(entry: &Entry, was: Placement, policy: &Policy, ledger: &Ledger) -> bool {
    let is_out = was == Placement::Away || was == Placement::Held && ledger.debts.has_missed(entry.node.id);
    is_out && entry.health.is_out() && policy.moves_keys() && policy.on_return != OnReturn::Serve
}

/// Who may own its keys and did not own all of them before, in the order in which they came back.
fn starters(nodes: &[Entry], before: &[Placement], ledger: &Ledger) -> Vec<usize> {
    let is_new = |i: &usize| nodes[*i].placement == Placement::Owns && before[*i] != Placement::Owns;
    let mut starting: Vec<usize> = (0..nodes.len()).filter(is_new).collect();
    starting.sort_by_cached_key(|i| ledger.returned_in(nodes[*i].node.id));
    starting
}

/// Up to which level a node takes its keys when it comes back.
fn first_step(policy: &Policy) -> u32 {
    if policy.slow_start.is_zero() { LEVELS } else { STEP }
}

/// Whether a node that was there before has to be received before it has its keys.
fn was_out(id: NodeId, before: Placement, ledger: &Ledger) -> bool {
    match before {
        Placement::Away => true,
        Placement::Held => ledger.debts.has_missed(id),
        // It has none of its keys, and begins only now.
        Placement::Starting(_) => ledger.start(id).is_none(),
        Placement::Owns => false,
    }
}

/// Whether a node is back and can't be cleaned: it serves nothing, for nobody knows how long, so that the
/// guard counts it as out.
pub(super) fn is_refused(entry: &Entry, before: Placement) -> bool {
    let is_bare = matches!(before, Placement::Starting(to) if to.admitted == 0);
    let is_back = !entry.health.is_out() && !entry.order.is_some_and(Order::is_out);
    is_bare && is_back && entry.misconfigured.is_some()
}

/// Nobody owns, and some start.
fn last_resort(nodes: &mut [Entry], rules: &Rules<'_>, ledger: &mut Ledger) {
    // What nobody has who starts would have no owner at all: the one that has come furthest takes it.
    let starting = (0..nodes.len()).filter(|i| nodes[*i].placement.serves());
    if let Some(i) = starting.max_by_key(|i| (!nodes[*i].health.is_out(), nodes[*i].placement, Reverse(*i))) {
        let is_dead = nodes[i].health.is_out();
        let id = nodes[i].node.id;
        let is_clean = match ledger.start(id) {
            Some(start) => start.is_clean(),
            None => !ledger.debts.has_missed(id) || rules.policy.on_return == OnReturn::Serve,
        };
        nodes[i].placement = match (nodes[i].placement, is_clean) {
            // Nobody can clean it now, and what it has may be old.
            (starting, false) if is_dead => starting,
            // All keys wait until it is clean.
            (Placement::Starting(to), false) => {
                let start = ledger.start(id).map(|start| start.at_least(LEVELS));
                ledger.set_start(id, start);
                Placement::Starting(Admission { fence: LEVELS, ..to })
            }
            _ => {
                ledger.set_start(id, None);
                Placement::Owns
            }
        };
    }
}

/// Where the keys are of a node that fails, or may not have them yet, and had them, or some of them, until
/// now.
fn leave(
    (at, id): (usize, NodeId),
    before: Placement,
    shares: &mut Shares<'_>,
    rules: &Rules<'_>,
    ledger: &mut Ledger,
) -> Placement {
    let Rules { policy, time, .. } = *rules;
    let stays = ledger.stays(id, policy, time).is_some();
    let has_leftovers = ledger.debts.heirs_until(id, policy, time).is_some();
    let is_first = ledger.is_first(id);
    let mut fits = |below| shares.ejects((at, below), &mut ledger.spending, &policy.warmth, time);
    match before {
        Placement::Away => Placement::Away,
        _ if !policy.moves_keys() => Placement::Away,
        Placement::Starting(_) if has_leftovers => Placement::Held,
        // It has none of its keys.
        Placement::Starting(to) if to.admitted == 0 => Placement::Away,
        Placement::Starting(to) if fits(to.admitted) => Placement::Away,
        // Most of its keys are elsewhere anyhow.
        Placement::Starting(to) if to.share() < 0.5 => Placement::Away,
        Placement::Starting(_) => Placement::Held,
        _ if stays => Placement::Held,
        // It was never there: nobody's keys go cold that were warm.
        _ if is_first => Placement::Away,
        _ if fits(LEVELS) => Placement::Away,
        _ => Placement::Held,
    }
}

/// How a node that may own its keys again takes them back. One that comes back cold has paid for its first
/// step.
fn start(
    (at, entry): (usize, &Entry),
    (before, has_paid): (Placement, bool),
    shares: &mut Shares<'_>,
    rules: &Rules<'_>,
    ledger: &mut Ledger,
) -> Placement {
    let (id, policy) = (entry.node.id, rules.policy);
    let is_back = !entry.health.is_out();
    let has_leftovers = ledger.debts.heirs_until(id, policy, rules.time).is_some();
    let start = match before {
        // It never gave its keys to anybody.
        Placement::Owns => return Placement::Owns,
        _ if !policy.moves_keys() => return Placement::Owns,
        Placement::Held if !ledger.debts.has_missed(id) => {
            if !is_back || policy.on_return == OnReturn::Serve || !ledger.brings_other(id, policy) {
                return Placement::Owns;
            }
            // It is received like one whose keys others have had.
            ledger.debts.misses_writes(id, rules.time);
            None
        }
        // It fails, and the guard wants what it serves; the rest of its keys may be old there.
        Placement::Starting(to) if !is_back && policy.on_return != OnReturn::Serve => {
            return Placement::Starting(Admission { fence: to.admitted, ..to });
        }
        // Nobody else is there. It has none of its keys until it answers and is clean.
        _ if !is_back && policy.on_return != OnReturn::Serve => {
            return Placement::Starting(Admission { admitted: 0, fence: 0 });
        }
        // The guard wants it, as it is.
        _ if !is_back => return Placement::Owns,
        Placement::Starting(_) if ledger.start(id).is_some() => ledger.start(id).copied(),
        _ => {
            let end = match policy.on_return {
                OnReturn::Flush => Some(End::Swept),
                OnReturn::Ttl => Some(End::Expired),
                // Of a quarantine it is said when it is cleaned.
                OnReturn::Quarantine | OnReturn::Serve => None,
            };
            end.into_iter().for_each(|end| ledger.debts.others_took(id, policy, end, rules.time));
            None
        }
    };
    let mut start =
        start.unwrap_or_else(|| begin((at, entry), (before, has_paid, has_leftovers), shares, rules, ledger));
    if !has_leftovers {
        start.lets_go(rules.time);
    }
    // The guard may have wanted it before its time.
    let has_expired = || ledger.is_bounded(id) && ledger.expires(id, policy, rules.time).is_none();
    if policy.on_return == OnReturn::Ttl && has_expired() {
        start.cleaned(LEVELS);
    }
    let placement = take((at, entry), &mut start, before, shares, rules, ledger);
    ledger.set_start(id, (placement != Placement::Owns).then_some(start));
    placement
}

/// How a node begins to take its keys back.
fn begin(
    (at, entry): (usize, &Entry),
    (before, has_paid, has_leftovers): (Placement, bool, bool),
    shares: &mut Shares<'_>,
    rules: &Rules<'_>,
    ledger: &mut Ledger,
) -> Start {
    let (id, policy) = (entry.node.id, rules.policy);
    let is_clean = match policy.on_return {
        OnReturn::Serve => true,
        // Those that took its writes have to be cleaned, too.
        OnReturn::Quarantine => false,
        OnReturn::Flush => ledger.is_bare(id),
        // One that may have more than what has expired is emptied.
        OnReturn::Ttl => false,
    };
    let start = Start::new(rules.time, is_clean).at_least(match before {
        // Others have what is newest.
        Placement::Away => 0,
        _ if has_leftovers => LEVELS,
        // What it had nobody has had since.
        Placement::Starting(to) => to.fence,
        Placement::Owns | Placement::Held => 0,
    });
    let is_cold = || entry.order.is_none() && ledger.returns_cold(id, policy);
    match before {
        Placement::Away if has_paid => start.pays_from(first_step(policy)),
        // The guard had it back before its turn.
        Placement::Away if is_cold() => {
            let first = first_step(policy);
            shares.pays((at, 0, first), &mut ledger.spending, &policy.warmth, rules.time);
            start.pays_from(first)
        }
        Placement::Starting(to) if is_cold() => start.pays_from(to.fence),
        _ => start,
    }
}

/// What a node has that starts: no more than there is room for in the warmth budget, where it is cold.
fn take(
    (at, entry): (usize, &Entry),
    start: &mut Start,
    before: Placement,
    shares: &mut Shares<'_>,
    rules: &Rules<'_>,
    ledger: &mut Ledger,
) -> Placement {
    let Rules { policy, time, .. } = *rules;
    let (free, wanted) = start.asks(before, policy, time);
    let is_cold = start.is_cold() && entry.order.is_none() && ledger.returns_cold(entry.node.id, policy);
    let most = match wanted > free && is_cold {
        true => shares.takes((at, free, wanted), &mut ledger.spending, &policy.warmth, time),
        false => LEVELS,
    };
    let placement = start.placement(before, policy, time, most);
    let (from, to) = start.takes(placement.holds_below(), wanted, time);
    if is_cold {
        shares.pays((at, from, to), &mut ledger.spending, &policy.warmth, time);
        if start.is_short() && policy.on_return != OnReturn::Serve {
            // They take writes for it for longer than it would need without the budget.
            let end = if policy.on_return == OnReturn::Ttl { End::Expired } else { End::Swept };
            ledger.debts.others_take_on(entry.node.id, policy, end, time + policy.warmth.window);
        }
    }
    placement
}

fn weight(nodes: &[Entry], which: impl Fn(usize) -> bool) -> u64 {
    (0..nodes.len()).filter(|i| which(*i)).map(|i| u64::from(nodes[i].node.weight)).sum()
}

/// Who should be out, in the order in which they are put out. What an operator has pinned leaves no more, and
/// comes in when it has nothing old.
fn leavers(nodes: &[Entry], before: &[Placement], stale: &[bool], ledger: &Ledger) -> Vec<usize> {
    let mut out: Vec<usize> = (0..nodes.len())
        .filter(|i| match nodes[*i].order {
            None => true,
            Some(Order::Pin) => stale[*i],
            Some(_) => false,
        })
        .filter(|i| match nodes[*i].health {
            Health::Healthy | Health::Suspect => false,
            Health::Ejected => true,
            // One that was kept and answers again is not put away so late.
            Health::Probation => !before[*i].serves(),
        })
        .collect();
    // Cached: the ledger is asked once for each, not once for each comparison.
    out.sort_by_cached_key(|i| {
        let rank = match before[*i] {
            Placement::Away => 0,
            Placement::Held if stale[*i] => 1,
            // It has none of its keys, and others that are held have theirs.
            Placement::Starting(to) if to.admitted == 0 => 2,
            Placement::Held => 3,
            Placement::Owns | Placement::Starting(_) => 4,
        };
        (rank, ledger.ejected_in(nodes[*i].node.id))
    });
    out
}

/// Who is back, cold and not yet in its place, in the order of their returns.
fn returners(nodes: &[Entry], before: &[Placement], ledger: &Ledger, rules: &Rules<'_>) -> Vec<usize> {
    let Rules { policy, time, .. } = *rules;
    // Who had its keys all along waits for nothing.
    if !policy.moves_keys() {
        return Vec::new();
    }
    let is_back = |i: &usize| !nodes[*i].health.is_out();
    let mut back: Vec<usize> = (0..nodes.len())
        .filter(|i| before[*i] == Placement::Away && is_back(i) && nodes[*i].order.is_none())
        .filter(|i| ledger.returns_cold(nodes[*i].node.id, policy))
        // What it may not have yet costs nothing yet.
        .filter(|i| !ledger.waits(nodes[*i].node.id, policy, time))
        .collect();
    back.sort_by_cached_key(|i| ledger.returned_in(nodes[*i].node.id));
    back
}

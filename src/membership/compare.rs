//! WHAT MOVED: two topologies of a pool compared, which takes milliseconds for large rings and is for no
//! control loop. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::build::scattered;
use crate::{
    ring::{Diff, diff},
    topology::{Entry, LEVELS, Move, OnEjected, Placement, Topology, common_bands},
};

/// Whose a part was, and whose it is.
type Pair = (Option<Arc<str>>, Option<Arc<str>>);

/// What is another's in one of two topologies than in the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// From whom to whom; none of keys that are scattered.
    pub moves: Vec<Move>,
    /// The share of the key space that is another's: the sum of the moves, where they are told.
    pub moved: f64,
    /// Whether the shares are estimates: see [`Diff::sampled`].
    pub sampled: bool,
}

/// What moves between two topologies of a pool. A gutter is `pool NAME`; who is held, or away where keys do
/// not move, has its keys still.
pub fn compare(before: &Topology, after: &Topology) -> Compared {
    if before.policy.http.key != after.policy.http.key {
        return Compared { moved: moved(before, after), ..Compared::default() };
    }
    let mut shares: BTreeMap<Pair, f64> = BTreeMap::new();
    let mut sampled = false;
    for (from, to) in common_bands(before, after) {
        let width = f64::from(to - from) / f64::from(LEVELS);
        let (a, b) = (|i| before.holds_at(i, from), |i| after.holds_at(i, from));
        let diff = diff((&before.ring, &a), (&after.ring, &b));
        sampled |= diff.sampled;
        for (pair, share) in renamed(before, after, from, diff) {
            *shares.entry(pair).or_default() += width * share;
        }
    }
    let moves = shares.into_iter().map(|((from, to), share)| Move { from, to, share });
    let moves: Vec<Move> = moves.filter(|m| m.share > 0.0).collect();
    // The sum of nothing is a negative zero.
    let moved = moves.iter().map(|m| m.share).fold(0.0, |a, b| a + b);
    Compared { moves, moved, sampled }
}

/// What moved between two topologies of a pool, by pair of nodes. Takes milliseconds for large rings: not for
/// the control loop.
pub fn moves(before: &Topology, after: &Topology) -> Vec<Move> {
    compare(before, after).moves
}

/// What differs at one level by the rings, told by who serves: a gutter has the keys of those that are away.
fn renamed(before: &Topology, after: &Topology, level: u32, diff: Diff) -> Vec<(Pair, f64)> {
    let (was, is) = (failed_over(before, level), failed_over(after, level));
    if was.is_empty() && is.is_empty() {
        return diff.moves.into_iter().map(|m| ((m.from, m.to), m.share)).collect();
    }
    let name = |names: &HashMap<Arc<str>, Arc<str>>, node: Option<Arc<str>>| {
        node.map(|node| names.get(&node).cloned().unwrap_or(node))
    };
    let mut gone: HashMap<Arc<str>, f64> = HashMap::new();
    let mut all = Vec::new();
    for m in diff.moves {
        if let Some(from) = &m.from {
            *gone.entry(from.clone()).or_default() += m.share;
        }
        all.push(((name(&was, m.from), name(&is, m.to)), m.share));
    }
    // Whose a key is by the ring need not change for that.
    let shares = before.ring.shares(|i| before.holds_at(i, level));
    for (entry, share) in before.nodes.iter().zip(shares) {
        let node = &entry.node.name;
        let stays = (share - gone.get(node).copied().unwrap_or_default()).max(0.0);
        all.push(((name(&was, Some(node.clone())), name(&is, Some(node.clone()))), stays));
    }
    all.retain(|((from, to), _)| from != to);
    all
}

/// Nodes whose keys of this level a gutter serves, and what the gutter is called. Who is held has its keys,
/// and nobody serves them.
fn failed_over(topology: &Topology, level: u32) -> HashMap<Arc<str>, Arc<str>> {
    let Some(gutter) = topology.gutter.as_ref().filter(|_| topology.policy.on_ejected == OnEjected::Failover)
    else {
        return HashMap::new();
    };
    let pool: Arc<str> = format!("pool {}", gutter.pool).into();
    let is_out =
        |i: &usize| !topology.serves_at(*i, level) && topology.nodes[*i].placement != Placement::Held;
    let out = (0..topology.nodes.len()).filter(is_out);
    out.map(|i| (topology.nodes[i].node.name.clone(), pool.clone())).collect()
}

/// The share of the key space whose owner or action differs between two topologies of a pool.
/// Takes milliseconds for large rings: not for the control loop.
pub fn moved(before: &Topology, after: &Topology) -> f64 {
    treated(before, after).1
}

/// The share of the key space that is another's, and that whose owner or action differs: what [`compare`]
/// says of it, at a tenth of its price as a rule.
pub(super) fn treated(before: &Topology, after: &Topology) -> (f64, f64) {
    if before.policy.http.key != after.policy.http.key {
        let (a, b) = (|i| before.holds(i), |i| after.holds(i));
        let moved = scattered((&before.ring, &a), (&after.ring, &b));
        return (moved, moved);
    }
    let of_band = |(from, to): (u32, u32)| {
        let width = f64::from(to - from) / f64::from(LEVELS);
        let (moved, treated) = treated_at(before, after, from);
        (width * moved, width * treated)
    };
    common_bands(before, after)
        .into_iter()
        .map(of_band)
        .fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
}

/// The same of the keys of one level.
fn treated_at(before: &Topology, after: &Topology, level: u32) -> (f64, f64) {
    let (a, b) = (|i| before.holds_at(i, level), |i| after.holds_at(i, level));
    if !Arc::ptr_eq(&before.ring, &after.ring) {
        let moved = diff((&before.ring, &a), (&after.ring, &b)).moved;
        return (moved, moved);
    }
    // Who keeps its share and serves it no more, or again: the action changes and not the owner.
    let serves = |topology: &Topology, i: usize| topology.serves_at(i, level);
    let other = |i: &usize| a(*i) && b(*i) && serves(before, *i) != serves(after, *i);
    let changed: Vec<usize> = (0..after.nodes.len()).filter(other).collect();
    if changed.is_empty() {
        let moved = after.ring.moved(a, b);
        return (moved, moved);
    }
    // What it gains or loses in the same step has moved, and counts once.
    let Diff { moved, moves, .. } = diff((&before.ring, &a), (&after.ring, &b));
    let shares = before.ring.shares(a);
    let keeps = |i: usize| {
        let name = &after.nodes[i].node.name;
        let lost: f64 = moves.iter().filter(|m| m.from.as_ref() == Some(name)).map(|m| m.share).sum();
        (shares[i] - lost).max(0.0)
    };
    // A gutter has the keys of some of them.
    let (was, is) = (failed_over(before, level), failed_over(after, level));
    let name = |i: usize| &after.nodes[i].node.name;
    let over = changed.iter().filter(|i| was.contains_key(name(**i)) != is.contains_key(name(**i)));
    let over: f64 = over.map(|i| keeps(*i)).sum();
    (moved + over, moved + changed.into_iter().map(keeps).sum::<f64>())
}

/// The share of the key space that its nodes have and do not serve, and nobody else does: keys that are held,
/// that do not move, or that wait to be cleaned.
pub fn unserved(topology: &Topology) -> f64 {
    unserved_of(topology, |_| true)
}

/// The part of it that is served as soon as nodes that answer are clean, which is a matter of milliseconds as
/// a rule: requests wait for it.
pub fn fenced(topology: &Topology) -> f64 {
    unserved_of(topology, |entry| {
        let is_fenced = matches!(entry.placement, Placement::Starting(to) if to.is_fenced());
        is_fenced && !entry.health.is_out() && entry.misconfigured.is_none()
    })
}

fn unserved_of(topology: &Topology, counts: impl Fn(&Entry) -> bool) -> f64 {
    let of_band = |(from, to): (u32, u32)| {
        let over = failed_over(topology, from);
        let is_refused = |i: usize| {
            let entry = &topology.nodes[i];
            // Keys that do not move are a starting node's at once.
            let is_late = topology.policy.moves_keys() || !entry.placement.serves();
            counts(entry) && is_late && !topology.serves_at(i, from) && !over.contains_key(&entry.node.name)
        };
        let shares = topology.ring.shares(|i| topology.holds_at(i, from));
        let refused: f64 = shares.iter().enumerate().filter(|(i, _)| is_refused(*i)).map(|s| s.1).sum();
        refused * f64::from(to - from) / f64::from(LEVELS)
    };
    common_bands(topology, topology).into_iter().map(of_band).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::tests::{Planned, spec},
        topology::{Admission, Policy},
    };

    /// The topology with other placements for some nodes.
    fn with(topology: &Topology, placements: &[(usize, Placement)]) -> Topology {
        let mut nodes = topology.nodes.to_vec();
        placements.iter().for_each(|(at, placement)| nodes[*at].placement = *placement);
        Topology { nodes: nodes.into(), ..topology.clone() }
    }

    /// A node that gains keys in the step in which it serves its own again has each counted once: what moves
    /// is the sum of the pairs, and what is treated in another way is that and its own.
    #[test]
    fn what_is_gained_counts_once() {
        let first = Planned::new(&spec(&[1; 4], 0.5)).topology;
        let own = first.shares();
        let before = with(&first, &[(1, Placement::Away), (2, Placement::Held)]);
        let kept = before.shares()[2];
        let after = with(&before, &[(3, Placement::Away), (2, Placement::Owns)]);
        let compared = compare(&before, &after);
        let sum: f64 = compared.moves.iter().map(|m| m.share).sum();
        assert!((compared.moved - sum).abs() < 1e-9 && sum < 0.6, "{compared:?}");
        assert!((sum - before.shares()[3]).abs() < 1e-9, "all that n3 had, and nothing else");
        let (went, all) = treated(&before, &after);
        assert!((went - sum).abs() < 1e-9 && (all - sum - kept).abs() < 1e-9, "{went} {all}");
        assert!(unserved(&first) == 0.0 && unserved(&after) == 0.0);
        assert!((unserved(&before) - kept).abs() < 1e-9 && kept > own[2]);
    }

    /// Where keys do not move, those of a node that is away are served by nobody, and moved to nobody.
    #[test]
    fn what_does_not_move() {
        let mut fails = spec(&[1; 4], 0.5);
        fails.policy = Arc::new(Policy { on_ejected: OnEjected::Fail, ..Policy::default() });
        let before = Planned::new(&fails).topology;
        let after = with(&before, &[(1, Placement::Away)]);
        let share = before.shares()[1];
        assert_eq!(compare(&before, &after), Compared::default());
        assert!((unserved(&after) - share).abs() < 1e-9);
        let (went, all) = treated(&before, &after);
        assert!(went == 0.0 && (all - share).abs() < 1e-9);
    }

    /// A node that starts has what it has taken, and keys that are being cleaned are served by nobody.
    #[test]
    fn who_starts() {
        let first = Planned::new(&spec(&[1; 4], 0.5)).topology;
        let away = with(&first, &[(1, Placement::Away)]);
        let half = Admission { admitted: LEVELS / 4, fence: LEVELS / 2 };
        let starts = with(&away, &[(1, Placement::Starting(half))]);
        let share = first.shares()[1];
        assert!((compare(&away, &starts).moved - share / 2.0).abs() < 1e-9);
        assert!((unserved(&starts) - share / 4.0).abs() < 1e-9);
    }
}

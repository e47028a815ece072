//! WHAT MOVED: two topologies of a pool compared, which takes milliseconds for large rings and is for no control
//! loop. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::build::scattered;
use crate::{
    ring::{Diff, diff},
    topology::{LEVELS, Move, OnEjected, Placement, Topology, common_bands},
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

/// What moves between two topologies of a pool. A gutter is `pool NAME`; who is held, or away where keys do not move,
/// has its keys still.
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
    let moved = moves.iter().map(|m| m.share).sum();
    Compared { moves, moved, sampled }
}

/// What moved between two topologies of a pool, by pair of nodes. Takes milliseconds for large rings: not for the
/// control loop.
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

/// Nodes whose keys of this level a gutter serves, and what the gutter is called. Who is held has its keys, and nobody
/// serves them.
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
    if before.policy.http.key != after.policy.http.key {
        let (a, b) = (|i| before.holds(i), |i| after.holds(i));
        return scattered((&before.ring, &a), (&after.ring, &b));
    }
    let of_band = |(from, to): (u32, u32)| {
        let width = f64::from(to - from) / f64::from(LEVELS);
        width * moved_at(before, after, from)
    };
    common_bands(before, after).into_iter().map(of_band).sum()
}

/// The same of the keys of one level.
fn moved_at(before: &Topology, after: &Topology, level: u32) -> f64 {
    let (a, b) = (|i| before.holds_at(i, level), |i| after.holds_at(i, level));
    if !Arc::ptr_eq(&before.ring, &after.ring) {
        return diff((&before.ring, &a), (&after.ring, &b)).moved;
    }
    // Who keeps its share and serves it no more, or again: the action changes and not the owner.
    let serves = |topology: &Topology, i: usize| topology.serves_at(i, level);
    let other = |i: &usize| a(*i) && b(*i) && serves(before, *i) != serves(after, *i);
    let changed: Vec<usize> = (0..after.nodes.len()).filter(other).collect();
    if changed.is_empty() {
        return after.ring.moved(a, b);
    }
    // What it gains or loses in the same step has moved, and counts once.
    let Diff { moved, moves, .. } = diff((&before.ring, &a), (&after.ring, &b));
    let shares = before.ring.shares(a);
    let keeps = |i: usize| {
        let name = &after.nodes[i].node.name;
        let lost: f64 = moves.iter().filter(|m| m.from.as_ref() == Some(name)).map(|m| m.share).sum();
        (shares[i] - lost).max(0.0)
    };
    moved + changed.into_iter().map(keeps).sum::<f64>()
}

/// The share of the key space that its nodes have and do not serve, and nobody else does: keys that are held, that do not
/// move, or that wait to be cleaned.
pub fn unserved(topology: &Topology) -> f64 {
    let of_band = |(from, to): (u32, u32)| {
        let over = failed_over(topology, from);
        let is_refused = |i: usize| {
            let entry = &topology.nodes[i];
            // Keys that do not move are a starting node's at once.
            let is_late = topology.policy.moves_keys() || !entry.placement.serves();
            is_late && !topology.serves_at(i, from) && !over.contains_key(&entry.node.name)
        };
        let shares = topology.ring.shares(|i| topology.holds_at(i, from));
        let refused: f64 = shares.iter().enumerate().filter(|(i, _)| is_refused(*i)).map(|s| s.1).sum();
        refused * f64::from(to - from) / f64::from(LEVELS)
    };
    common_bands(topology, topology).into_iter().map(of_band).sum()
}

//! WHAT MOVED: two topologies of a pool compared, which takes milliseconds for large rings and is for no control
//! loop. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::build::scattered;
use crate::{
    ring::diff,
    topology::{LEVELS, Move, OnEjected, Placement, Topology, common_bands},
};

/// Whose a part was, and whose it is.
type Pair = (Option<Arc<str>>, Option<Arc<str>>);

/// What moved between two topologies of a pool, by pair of nodes. Takes milliseconds for large rings: not for the
/// control loop.
pub fn moves(before: &Topology, after: &Topology) -> Vec<Move> {
    let mut shares: BTreeMap<Pair, f64> = BTreeMap::new();
    for (from, to) in common_bands(before, after) {
        let (a, b) = (|i| before.holds_at(i, from), |i| after.holds_at(i, from));
        let width = f64::from(to - from) / f64::from(LEVELS);
        for m in diff((&before.ring, &a), (&after.ring, &b)).moves {
            *shares.entry((m.from, m.to)).or_default() += width * m.share;
        }
        for (from, to, share) in failed_over(before, after, from) {
            *shares.entry((Some(from), Some(to))).or_default() += width * share;
        }
    }
    shares.into_iter().map(|((from, to), share)| Move { from, to, share }).collect()
}

/// What goes from nodes of this pool to its gutter, and back, of the keys of one level. Whose a key is by the ring
/// does not change with that.
fn failed_over(before: &Topology, after: &Topology, level: u32) -> Vec<(Arc<str>, Arc<str>, f64)> {
    let is_over = after.policy.on_ejected == OnEjected::Failover;
    if !is_over || !Arc::ptr_eq(&before.ring, &after.ring) {
        return Vec::new();
    }
    let Some(gutter) = after.gutter.as_ref().or(before.gutter.as_ref()) else { return Vec::new() };
    let pool: Arc<str> = format!("pool {}", gutter.pool).into();
    // Who is held has its keys, and nobody serves them.
    let is_out = |topology: &Topology, i: usize| {
        !topology.serves_at(i, level) && topology.nodes[i].placement != Placement::Held
    };
    let shares = after.ring.shares(|_| true);
    let move_of = |(i, share): (usize, f64)| {
        let node = after.nodes[i].node.name.clone();
        match (is_out(before, i), is_out(after, i)) {
            (false, true) => Some((node, pool.clone(), share)),
            (true, false) => Some((pool.clone(), node, share)),
            _ => None,
        }
    };
    shares.into_iter().enumerate().filter_map(move_of).collect()
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
    let moved = after.ring.moved(a, b);
    if changed.is_empty() {
        return moved;
    }
    let shares = after.ring.shares(b);
    moved + changed.iter().map(|i| shares[*i]).sum::<f64>()
}

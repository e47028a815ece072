//! What a worker keeps for the nodes of a pool follows the pool's topologies: each node's side is
//! carried from one to the next, whatever the pool speaks.

use std::{cell::LazyCell, collections::HashMap, rc::Rc, sync::Arc};

use crate::topology::{Entry, Health, NodeId, Order, Policy, Topology};

/// What one worker keeps for one node.
pub(super) trait Side {
    /// The node's identity.
    fn id(&self) -> NodeId;
    /// Takes over what a new topology says of the node, and of how it is spoken to.
    fn update(&self, entry: &Entry, policy: &Arc<Policy>);
}

/// How a node leaves the set of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It works: what it was sent it may answer, then its connections close.
    Retire,
    /// It does not: its connections are reset, or the kernel would send old bytes when a partition
    /// heals.
    Evict,
}

/// A node that owns nothing any more.
pub(super) struct Departure<'a, S> {
    pub(super) side: &'a Rc<S>,
    pub(super) leaving: Leaving,
    /// It is not in the pool any more either.
    pub(super) is_gone: bool,
}

/// The sides of a topology's nodes, those of its gutter behind its own, in their order: those that were
/// there, brought up to date, and new ones.
pub(super) fn carry<S: Side>(
    old: &[Rc<S>],
    topology: &Topology,
    make: impl Fn(&Entry, &Arc<Policy>) -> Rc<S>,
) -> Vec<Rc<S>> {
    // Nearly always each node stands where it stood.
    let by_id =
        LazyCell::new(|| -> HashMap<NodeId, &Rc<S>> { old.iter().map(|side| (side.id(), side)).collect() });
    let known = |at: usize, id: NodeId| match old.get(at) {
        Some(side) if side.id() == id => Some(side),
        _ => by_id.get(&id).copied(),
    };
    let side_of = |(at, entry): (usize, &Entry)| match (known(at, entry.node.id), topology.policy_at(at)) {
        (Some(side), policy) => {
            side.update(entry, policy);
            Rc::clone(side)
        }
        (None, policy) => make(entry, policy),
    };
    topology.entries().enumerate().map(side_of).collect()
}

/// Who of those that were there owns nothing in this topology.
pub(super) fn departures<'a, S: Side>(old: &'a [Rc<S>], topology: &Topology) -> Vec<Departure<'a, S>> {
    let by_id = LazyCell::new(|| -> HashMap<NodeId, &Entry> {
        topology.entries().map(|entry| (entry.node.id, entry)).collect()
    });
    let departure = |(at, side): (usize, &'a Rc<S>)| {
        let entry = match topology.entries().nth(at) {
            Some(entry) if entry.node.id == side.id() => Some(entry),
            _ => by_id.get(&side.id()).copied(),
        };
        let leaving = match entry {
            None => Leaving::Retire,
            Some(e) if e.placement.serves() => return None,
            Some(e) if e.order == Some(Order::Eject) => Leaving::Evict,
            // Of one that is drained what is in flight has its time, whatever probes say of it.
            Some(e) if e.health == Health::Healthy || e.order == Some(Order::Drain) => Leaving::Retire,
            Some(_) => Leaving::Evict,
        };
        Some(Departure { side, leaving, is_gone: entry.is_none() })
    };
    old.iter().enumerate().filter_map(departure).collect()
}

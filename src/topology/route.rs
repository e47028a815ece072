//! Where a key goes: the first candidate, or whoever serves in its place. Pure, and nothing here
//! allocates.

use std::{sync::Arc, time::Duration};

use super::{Entry, NodeId, OnEjected, Order, Placement, Policy, Topology, WaitReason, WhileHeld};
use crate::ring::finalise;

/// Levels of a node's keys: each has one by a second hash, and a node that is back takes the low ones
/// first.
pub const LEVELS: u32 = 1 << 16;

/// The level of a key with this ring hash, below [`LEVELS`]. It has nothing to do with where on the ring
/// the key is, so that each level holds the same part of each node's share.
pub fn level(hash: u64) -> u32 {
    (finalise(hash ^ 0x5bd1_e995_9d1c_a3f7) >> 48) as u32
}

/// How far a node that is back has taken its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Admission {
    /// It serves its keys of the levels below this.
    pub admitted: u32,
    /// Requests for its keys from `admitted` up to here wait while those keys are cleaned; equal to
    /// `admitted` when none are.
    pub fence: u32,
}

impl Admission {
    /// The share of its keys that it serves, 0.0..=1.0.
    pub fn share(self) -> f64 {
        f64::from(self.admitted) / f64::from(LEVELS)
    }

    /// Whether keys are being cleaned.
    pub fn is_fenced(self) -> bool {
        self.fence > self.admitted
    }
}

impl Placement {
    /// The word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Placement::Owns => "owns",
            Placement::Starting(_) => "starting",
            Placement::Away => "away",
            Placement::Held => "held",
        }
    }

    /// The share of its keys that it serves, 0.0..=1.0.
    pub fn admitted(self) -> f64 {
        match self {
            Placement::Owns => 1.0,
            Placement::Starting(admission) => admission.share(),
            Placement::Away | Placement::Held => 0.0,
        }
    }

    /// Whether the node serves keys of its own, all or some.
    #[inline]
    pub fn serves(self) -> bool {
        matches!(self, Placement::Owns | Placement::Starting(_))
    }

    /// Its keys below this level are its own; the others are walked past.
    pub fn holds_below(self) -> u32 {
        match self {
            Placement::Owns | Placement::Held => LEVELS,
            Placement::Starting(admission) => admission.fence,
            Placement::Away => 0,
        }
    }
}

/// Where a key goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this node, an index for [`Topology::entry`]: one of the gutter's pool is behind all of this one's.
    Send(usize),
    /// Nowhere yet: what this node has of it is being cleaned, which takes an instant.
    Wait(usize),
    /// Nowhere: its owner (an index into [`Topology::nodes`]) is away, and its keys do not move.
    Fail(usize),
    /// Nowhere: its owner is away, and reads of its keys find nothing.
    Miss(usize),
    /// Nowhere: no node of the pool owns anything.
    NoOwner,
}

impl Topology {
    /// Where this key, which has this ring hash, goes: the first candidate, or the first one that is
    /// not away when the policy for the key is `rehash`. Allocates nothing.
    #[inline(always)]
    pub fn route(&self, hash: u64, key: &[u8]) -> Route {
        let first = self.ring.first(hash);
        match self.nodes[first].placement {
            Placement::Owns => Route::Send(first),
            _ => self.route_around((hash, key), self.policy.on_ejected_for(key), first),
        }
    }

    /// The same for a key for which this happens when its node is ejected. Only for pools that do not fail
    /// over: the gutter's ring has a hash of its own.
    pub fn route_by(&self, hash: u64, on_ejected: OnEjected) -> Route {
        self.route_around((hash, &[]), on_ejected, self.ring.first(hash))
    }

    /// The node of an index of [`Route`]: the pool's own come first, then those of its gutter.
    ///
    /// # Panics
    /// When there is none: indices are of one topology only.
    #[inline]
    pub fn entry(&self, at: usize) -> &Entry {
        match self.nodes.get(at) {
            Some(entry) => entry,
            None => self.gutter_entry(at),
        }
    }

    #[cold]
    fn gutter_entry(&self, at: usize) -> &Entry {
        let gutter = self.gutter.as_ref().map_or(&[][..], |gutter| &gutter.nodes);
        &gutter[at - self.nodes.len()]
    }

    /// All nodes that [`Topology::entry`] knows, in the order of their indices.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.nodes.iter().chain(self.gutter.iter().flat_map(|gutter| gutter.nodes.iter()))
    }

    /// Whether an index is that of a node of the gutter.
    #[inline]
    pub fn is_gutter(&self, at: usize) -> bool {
        at >= self.nodes.len()
    }

    /// The policy by which the node of an index is spoken to.
    #[inline]
    pub fn policy_at(&self, at: usize) -> &Arc<Policy> {
        match &self.gutter {
            Some(gutter) if self.is_gutter(at) => &gutter.policy,
            _ => &self.policy,
        }
    }

    /// How long what is written to the node of an index lives at most.
    #[inline]
    pub fn ttl_max_at(&self, at: usize) -> Option<Duration> {
        if !self.is_gutter(at) {
            return self.policy.ttl_max;
        }
        let of_gutter = self.gutter.as_ref().and_then(|gutter| gutter.policy.ttl_max);
        self.policy.failover.as_ref().map(|f| f.ttl_max).into_iter().chain(of_gutter).min()
    }

    /// Where a key goes that another pool serves while its node is away.
    fn route_over(&self, hash: u64, key: &[u8], first: usize) -> Route {
        match self.nodes[first].placement {
            Placement::Owns => return Route::Send(first),
            Placement::Held => return self.route_held(first),
            Placement::Starting(admission) if level(hash) < admission.admitted => return Route::Send(first),
            Placement::Starting(admission) if level(hash) < admission.fence => return Route::Wait(first),
            Placement::Starting(_) | Placement::Away => {}
        }
        let Some(gutter) = &self.gutter else { return Route::Fail(first) };
        match gutter.route(gutter.ring.hash(key), key) {
            // A gutter has no gutter, so this is a node of its own.
            Route::Send(at) => Route::Send(self.nodes.len() + at),
            // It is cleaned itself, which takes an instant; a miss there is one here.
            Route::Wait(_) => Route::Wait(first),
            Route::Miss(_) => Route::Miss(first),
            Route::Fail(_) | Route::NoOwner => Route::Fail(first),
        }
    }

    /// What becomes of a key whose node keeps it though it is ejected.
    fn route_held(&self, at: usize) -> Route {
        match self.policy.warmth.held {
            WhileHeld::Fail => Route::Fail(at),
            WhileHeld::Miss => Route::Miss(at),
        }
    }

    /// Where a key goes whose first candidate may not serve it.
    #[cold]
    fn route_around(&self, (hash, key): (u64, &[u8]), on_ejected: OnEjected, first: usize) -> Route {
        let holder = match (self.nodes[first].placement, on_ejected) {
            (Placement::Owns, _) => return Route::Send(first),
            (_, OnEjected::Failover) => return self.route_over(hash, key, first),
            // Nobody else serves them.
            (Placement::Starting(_), OnEjected::Fail | OnEjected::Miss) => return Route::Send(first),
            (Placement::Away | Placement::Held, OnEjected::Fail) => return Route::Fail(first),
            (Placement::Away | Placement::Held, OnEjected::Miss) => return Route::Miss(first),
            (_, OnEjected::Rehash) => {
                let level = level(hash);
                self.ring.first_where(hash, |i| level < self.nodes[i].placement.holds_below())
            }
        };
        let Some(at) = holder else { return Route::NoOwner };
        match self.nodes[at].placement {
            Placement::Starting(admission) if level(hash) >= admission.admitted => Route::Wait(at),
            Placement::Owns | Placement::Starting(_) => Route::Send(at),
            Placement::Away | Placement::Held => self.route_held(at),
        }
    }

    /// Whether a node has its keys of this level, be they served or refused, going by what the pool does
    /// with the keys of ejected nodes where no prefix says otherwise.
    pub fn holds_at(&self, at: usize, level: u32) -> bool {
        self.policy.on_ejected != OnEjected::Rehash || level < self.nodes[at].placement.holds_below()
    }

    /// The same for any of its keys.
    pub fn holds(&self, at: usize) -> bool {
        self.holds_at(at, 0)
    }

    /// The share of the key space that each node has, be it served or refused. The shares sum to 1, or to
    /// 0 when nobody has anything.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares = vec![0.0; self.nodes.len()];
        for (from, to) in bands(&[self]) {
            let width = f64::from(to - from) / f64::from(LEVELS);
            let of_band = self.ring.shares(|i| self.holds_at(i, from));
            shares.iter_mut().zip(of_band).for_each(|(sum, share)| *sum += width * share);
        }
        shares
    }

    /// Why requests for the keys of a node are refused; `None` when it serves them.
    #[inline]
    pub fn refusal(&self, at: usize) -> Option<&'static str> {
        if self.is_gutter(at) {
            return None;
        }
        match self.nodes[at].placement {
            Placement::Owns | Placement::Starting(_) => None,
            Placement::Away if self.nodes[at].order.is_some_and(Order::is_out) => {
                Some("taken out by hand, and these keys do not move")
            }
            Placement::Away
                if self.policy.fails_over() && !self.gutter.as_ref().is_some_and(|g| g.serves()) =>
            {
                Some("ejected, and no node of its gutter pool serves these keys")
            }
            Placement::Away if self.waits_for_word(at) => {
                Some("back without a key, and waits for an operator")
            }
            Placement::Away => Some("ejected, and these keys do not move"),
            Placement::Held => Some("ejected, and its keys do not move yet"),
        }
    }

    fn waits_for_word(&self, at: usize) -> bool {
        let id = self.nodes[at].node.id;
        self.waits.iter().any(|wait| wait.node == id && wait.reason == WaitReason::Word)
    }

    /// Where a key with this ring hash goes when no node shall have more than its bound of the
    /// requests in flight, by the pool's `bounded_load`: as [`Topology::route_by`], and past nodes that
    /// are full. `loads` says how many requests a node (an index into [`Topology::nodes`]) has in
    /// flight over all workers; a load that changes meanwhile makes the bound inexact by as much,
    /// which is harmless. When all nodes are full the key goes where [`Topology::route_by`] says.
    pub fn route_bounded(&self, hash: u64, on_ejected: OnEjected, loads: impl Fn(usize) -> u32) -> Route {
        let route = self.route_by(hash, on_ejected);
        let (Route::Send(_), Some(bound)) = (route, self.policy.http.bounded_load) else { return route };
        self.ring
            .first_bounded(hash, bound, |i| self.serves_at(i, level(hash)), loads)
            .map_or(Route::NoOwner, Route::Send)
    }

    /// The index, for [`Topology::entry`], of the node with this identity, be it the gutter's.
    pub fn position_over(&self, id: NodeId) -> Option<usize> {
        self.entries().position(|e| e.node.id == id)
    }

    /// The index of the pool's own node with this identity.
    pub fn position(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|e| e.node.id == id)
    }

    /// Whether a node serves keys of this level.
    pub fn serves_at(&self, at: usize, level: u32) -> bool {
        match self.nodes[at].placement {
            Placement::Owns => true,
            Placement::Starting(admission) => level < admission.admitted,
            Placement::Away | Placement::Held => false,
        }
    }

    /// The nodes that a key with this ring hash is walked past to get to this node: each may hold an old
    /// value of it when it is back.
    pub fn passed(&self, hash: u64, to: usize) -> impl Iterator<Item = usize> + '_ {
        let passed = if self.is_gutter(to) { 1 } else { usize::MAX };
        self.ring.candidates(hash).take_while(move |at| *at != to).take(passed)
    }

    /// Whether any node owns keys and is not known to be out of order. The last owners of a pool
    /// are never taken from the ring, so owning alone says nothing.
    pub fn serves(&self) -> bool {
        self.nodes.iter().any(|e| e.placement.serves() && !e.health.is_out())
    }
}

/// The levels, cut where some node of these topologies stops to hold its keys, or to serve them: within a
/// band each node has all of its keys or none, and serves all of them or none.
pub(super) fn bands(topologies: &[&Topology]) -> Vec<(u32, u32)> {
    let entries = topologies.iter().flat_map(|topology| topology.nodes.iter());
    let cut = |placement: Placement| match placement {
        Placement::Starting(to) => [to.admitted, to.fence],
        _ => [placement.holds_below(); 2],
    };
    let mut cuts: Vec<u32> = entries.flat_map(|entry| cut(entry.placement)).chain([0, LEVELS]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The levels, cut so that within a band each node of both topologies has all of its keys or none.
pub fn common_bands(before: &Topology, after: &Topology) -> Vec<(u32, u32)> {
    bands(&[before, after])
}

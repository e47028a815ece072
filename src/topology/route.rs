//! Where a key goes: the first candidate, or whoever serves in its place. Pure, and nothing here
//! allocates.

use super::{Health, NodeId, OnEjected, Order, Placement, Topology, WhileHeld};
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
    fn holds_below(self) -> u32 {
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
    /// To this node, an index into [`Topology::nodes`].
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
            _ => self.route_around(hash, self.policy.on_ejected_for(key), first),
        }
    }

    /// The same for a key for which this happens when its node is ejected.
    pub fn route_by(&self, hash: u64, on_ejected: OnEjected) -> Route {
        self.route_around(hash, on_ejected, self.ring.first(hash))
    }

    /// Where a key goes whose first candidate may not serve it.
    #[cold]
    fn route_around(&self, hash: u64, on_ejected: OnEjected, first: usize) -> Route {
        let holder = match (self.nodes[first].placement, on_ejected) {
            (Placement::Owns, _) => return Route::Send(first),
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
            Placement::Away | Placement::Held => match self.policy.warmth.held {
                WhileHeld::Fail => Route::Fail(at),
                WhileHeld::Miss => Route::Miss(at),
            },
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
        match self.nodes[at].placement {
            Placement::Owns | Placement::Starting(_) => None,
            Placement::Away if self.nodes[at].order.is_some_and(Order::is_out) => {
                Some("taken out by hand, and these keys do not move")
            }
            Placement::Away => Some("ejected, and these keys do not move"),
            Placement::Held => Some("ejected, and its keys do not move yet"),
        }
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

    /// The index of the node with this identity.
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
        self.ring.candidates(hash).take_while(move |at| *at != to)
    }

    /// Whether any node owns keys and is not known to be out of order. The last owners of a pool
    /// are never taken from the ring, so owning alone says nothing.
    pub fn serves(&self) -> bool {
        self.nodes
            .iter()
            .any(|e| e.placement.serves() && !matches!(e.health, Health::Ejected | Health::Probation))
    }
}

/// The levels, cut where some node of these topologies stops to hold its keys: within a band each node
/// has all of its keys or none.
pub(super) fn bands(topologies: &[&Topology]) -> Vec<(u32, u32)> {
    let entries = topologies.iter().flat_map(|topology| topology.nodes.iter());
    let mut cuts: Vec<u32> = entries.map(|entry| entry.placement.holds_below()).chain([0, LEVELS]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The levels, cut so that within a band each node of both topologies has all of its keys or none.
pub fn common_bands(before: &Topology, after: &Topology) -> Vec<(u32, u32)> {
    bands(&[before, after])
}

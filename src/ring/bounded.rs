//! BOUNDED LOAD: a node that has its bound of the requests in flight is walked past, so that one
//! hot key can't drown its owner. HAProxy's `hash-balance-factor`, after Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
//!
//! A node's cap is its weight's share of the requests in flight, the new one included, times the
//! factor, rounded up. HAProxy rounds the sum and hands out its remainder in the order of its list
//! of servers; rounding each cap instead needs no order, and allows a node at most one more.

use super::Ring;

/// How much more than its share a node may have, in hundredths: 125 is a quarter more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundedLoad(u32);

impl BoundedLoad {
    /// A bound of this many hundredths; `None` for 100 and less, which would leave no room for the
    /// shares of a ring, and for more than 100,000.
    pub fn new(hundredths: u32) -> Option<BoundedLoad> {
        (101..=100_000).contains(&hundredths).then_some(BoundedLoad(hundredths))
    }

    /// The factor in hundredths.
    pub fn hundredths(self) -> u32 {
        self.0
    }

    /// How many requests a node may have in flight: of `in_flight`, those on all nodes and the new
    /// one, the share of `weight` in `weights`, times the factor, rounded up. At least 1.
    pub fn cap(self, in_flight: u64, weight: u32, weights: u64) -> u64 {
        let slots = u128::from(in_flight) * u128::from(self.0) * u128::from(weight);
        let cap = slots.div_ceil(100 * u128::from(weights.max(1)));
        u64::try_from(cap).unwrap_or(u64::MAX).max(1)
    }
}

impl Ring {
    /// The first candidate that `serves` and has fewer requests in flight than its cap, by
    /// `loads`; the first that serves when there is none. Nodes that do not serve have no share.
    /// Allocates nothing.
    pub fn first_bounded(
        &self,
        hash: u64,
        bound: BoundedLoad,
        serves: impl Fn(usize) -> bool,
        loads: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let first = self.first_where(hash, &serves)?;
        // No cap is below one, so the sums are not needed for a node that has nothing to do.
        if loads(first) == 0 {
            return Some(first);
        }
        let (mut in_flight, mut weights) = (1, 0);
        for (i, member) in self.members().iter().enumerate().filter(|(i, _)| serves(*i)) {
            in_flight += u64::from(loads(i));
            weights += u64::from(member.weight);
        }
        let has_room =
            |i: usize| u64::from(loads(i)) < bound.cap(in_flight, self.members()[i].weight, weights);
        self.first_where(hash, |i| serves(i) && has_room(i)).or(Some(first))
    }
}

//! BOUNDED LOAD: a node that has its bound of the requests in flight is walked past, so that one
//! hot key can't drown its owner. HAProxy's `hash-balance-factor`, after Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2016).
//!
//! A node's cap is its weight's share of the requests in flight, the new one included, times the
//! factor, rounded up. HAProxy rounds the sum and hands out its remainder in the order of its list
//! of servers; rounding each cap needs no order, and differs from that by one at most. The caps
//! together are more than what is in flight, so that there is always a node with room.

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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::ring::{Member, Settings};

    fn ring(weights: &[u32]) -> Ring {
        let member = |(i, weight): (usize, &u32)| Member { name: format!("n{i}").into(), weight: *weight };
        let members: Vec<Member> = weights.iter().enumerate().map(member).collect();
        Ring::build(&Settings::default(), &members)
    }

    /// Weights, and as many loads.
    fn loaded() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
        (1usize..10)
            .prop_flat_map(|n| (prop::collection::vec(1u32..5, n), prop::collection::vec(0u32..50, n)))
    }

    fn bound() -> impl Strategy<Value = BoundedLoad> {
        (101u32..400).prop_map(|n| BoundedLoad::new(n).expect("it is above 1"))
    }

    fn sum(of: &[u32]) -> u64 {
        of.iter().map(|n| u64::from(*n)).sum()
    }

    /// The slots of a server, as HAProxy gives them: the sum rounded up, its whole shares first, then
    /// the remainder in the order of the list.
    fn haproxy_slots(in_flight: u64, factor: u64, weights: &[u32], i: usize) -> u64 {
        let (all, own, before) = (sum(weights), u64::from(weights[i]), sum(&weights[..i]));
        let slots = (in_flight * factor).div_ceil(100);
        let rest = slots % all;
        (own * (slots / all) + (before + own) * rest / all - before * rest / all).max(1)
    }

    proptest! {
        /// A request goes to the first candidate with room; there is always one, so no node is above
        /// its cap after an admission.
        #[test]
        fn the_first_candidate_with_room((weights, loads) in loaded(), bound in bound(), hash: u64) {
            let ring = ring(&weights);
            let cap = |i: usize| bound.cap(sum(&loads) + 1, weights[i], sum(&weights));
            let chosen = ring.first_bounded(hash, bound, |_| true, |i| loads[i]);
            let wanted = ring.candidates(hash).find(|i| u64::from(loads[*i]) < cap(*i));
            prop_assert!(wanted.is_some());
            prop_assert_eq!(chosen, wanted);
        }

        /// From an idle pool on, whatever comes and ends, nobody is above its cap when it admits.
        #[test]
        fn no_admission_exceeds_its_cap(
            weights in prop::collection::vec(1u32..5, 1..8),
            bound in bound(),
            steps in prop::collection::vec((any::<u64>(), any::<bool>()), 1..80),
        ) {
            let ring = ring(&weights);
            let mut loads = vec![0u32; weights.len()];
            for (hash, ends) in steps {
                if ends {
                    let i = hash as usize % loads.len();
                    loads[i] = loads[i].saturating_sub(1);
                    continue;
                }
                let chosen = ring.first_bounded(hash, bound, |_| true, |i| loads[i]).expect("all serve");
                loads[chosen] += 1;
                prop_assert!(u64::from(loads[chosen]) <= bound.cap(sum(&loads), weights[chosen], sum(&weights)));
            }
        }

        /// A bound that is wide enough moves nothing, whatever the loads.
        #[test]
        fn a_wide_bound_moves_nothing((weights, loads) in loaded(), hash: u64) {
            let ring = ring(&weights);
            let wide = BoundedLoad::new(100_000).expect("it is above 1");
            prop_assert_eq!(ring.first_bounded(hash, wide, |_| true, |i| loads[i]), Some(ring.first(hash)));
        }

        /// Nodes that do not serve take nothing and have no share: the others are bounded as if these
        /// were not there.
        #[test]
        fn absent_nodes_have_no_share((weights, loads) in loaded(), bound in bound(), away: usize, hash: u64) {
            let (ring, away) = (ring(&weights), away % weights.len());
            let zeroed = |of: &[u32]| {
                let keep = |(i, n): (usize, &u32)| if i == away { 0 } else { *n };
                of.iter().enumerate().map(keep).collect::<Vec<u32>>()
            };
            let (their_loads, their_weights) = (zeroed(&loads), zeroed(&weights));
            let cap = |i: usize| bound.cap(sum(&their_loads) + 1, weights[i], sum(&their_weights));
            let wanted = ring.candidates(hash).find(|i| *i != away && u64::from(loads[*i]) < cap(*i));
            prop_assert_eq!(ring.first_bounded(hash, bound, |i| i != away, |i| loads[i]), wanted);
        }

        /// A cap differs from HAProxy's slots by one at most.
        #[test]
        fn caps_are_those_of_haproxy(weights in prop::collection::vec(1u32..50, 1..10), bound in bound(), in_flight in 1u64..2_000) {
            for (i, weight) in weights.iter().enumerate() {
                let cap = bound.cap(in_flight, *weight, sum(&weights));
                let theirs = haproxy_slots(in_flight, bound.hundredths().into(), &weights, i);
                prop_assert!(cap.abs_diff(theirs) <= 1, "{} {}", cap, theirs);
            }
        }
    }

    /// Caps by hand: a factor of 1.25 among four equal nodes, and what no float would get right.
    #[test]
    fn caps_by_hand() {
        let bound = |n| BoundedLoad::new(n).expect("it is above 1");
        for (factor, in_flight, weight, weights, cap) in [
            (125, 1, 1, 4, 1),
            (125, 3, 1, 4, 1),
            (125, 4, 1, 4, 2),
            (125, 8, 1, 4, 3),
            (125, 100, 1, 4, 32),
            (125, 100, 3, 4, 94),
            (110, 10, 1, 1, 11),
            (125, u64::MAX, u32::MAX, 1, u64::MAX),
        ] {
            assert_eq!(bound(factor).cap(in_flight, weight, weights), cap, "{factor} {in_flight}");
        }
        assert_eq!([0, 100, 100_001].map(BoundedLoad::new), [None; 3]);
    }

    /// Loads that change while they are read can leave no node with room: then the first candidate
    /// has it. When nobody serves, nobody has it.
    #[test]
    fn all_full_and_all_away() {
        let ring = ring(&[1, 1, 1]);
        let bound = BoundedLoad::new(125).expect("it is above 1");
        let asked = Cell::new(0);
        let rising = |_: usize| {
            asked.set(asked.get() + 1);
            asked.get()
        };
        let hash = ring.hash(b"k");
        assert_eq!(ring.first_bounded(hash, bound, |_| true, |i| 1_000 * rising(i)), Some(ring.first(hash)));
        assert_eq!(ring.first_bounded(hash, bound, |_| false, |_| 0), None);
    }

    /// One key that all clients want is shared: its owner has its cap, and each next candidate too.
    #[test]
    fn a_hot_key_is_shared() {
        let ring = ring(&[1; 10]);
        let bound = BoundedLoad::new(150).expect("it is above 1");
        let hash = ring.hash(b"hot");
        let mut loads = [0u32; 10];
        for _ in 0..1_000 {
            loads[ring.first_bounded(hash, bound, |_| true, |i| loads[i]).expect("all serve")] += 1;
        }
        assert_eq!(loads.iter().max(), Some(&150));
        assert_eq!(loads[ring.first(hash)], 150);
    }
}

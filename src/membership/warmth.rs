//! THE WARMTH BUDGET. A key whose owner changes is cold there: the more of them at once, the more
//! of the load falls on what the cache stands in front of. So ringway's own decisions may move only
//! so much of a pool's key space in a window of time. Pure: it counts, `plan` asks it.
//!
//! | wish | granted when |
//! |---|---|
//! | the first ejection of a window | always, whatever its share: its keys are lost already |
//! | a further ejection | it fits into what is left |
//! | a step in which a node takes keys that are cold there: the return of one without `slow_start` is one step | it fits into what is left, or nothing is spent |
//! | the return of a node that has its data | always, and it spends nothing |
//!
//! What moves is counted as the ring has it, by those who hold keys before the step. A step of a start is
//! paid when the keys are taken from the others, which is before they are cleaned.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::start::STEP;
use crate::{
    ring::Ring,
    topology::{LEVELS, OnEjected, Placement, Policy, Warmth},
};

/// Nodes that do not fit and are asked in one step: those behind them wait for their turn, so that thousands
/// that wait cost no more than these.
const ASKED: usize = 32;

/// What nodes have of the key space, by their placements before a step.
#[derive(Debug)]
pub(super) struct Shares<'a> {
    ring: &'a Ring,
    /// Each node's keys below this level are its own.
    holds_below: Vec<u32>,
    /// Where this differs between nodes, in between 0 and all.
    cuts: Vec<u32>,
    /// How many did not fit.
    refused: usize,
}

impl<'a> Shares<'a> {
    pub(super) fn new(ring: &'a Ring, policy: &Policy, before: &[Placement]) -> Shares<'a> {
        let holds_below = |placement: &Placement| match policy.on_ejected {
            OnEjected::Rehash => placement.holds_below(),
            // None of the pool has another's keys.
            OnEjected::Fail | OnEjected::Miss | OnEjected::Failover => LEVELS,
        };
        let holds_below: Vec<u32> = before.iter().map(holds_below).collect();
        let is_cut = |below: &u32| (1..LEVELS).contains(below);
        let mut cuts: Vec<u32> = holds_below.iter().copied().filter(is_cut).collect();
        cuts.sort_unstable();
        cuts.dedup();
        Shares { ring, holds_below, cuts, refused: 0 }
    }

    /// The share of the key space that is a node's keys of these levels, if it has them.
    pub(super) fn between(&self, at: usize, from: u32, to: u32) -> f64 {
        let ends = self.cuts.iter().copied().filter(|cut| (from + 1..to).contains(cut)).chain([to]);
        let (mut from, mut share) = (from, 0.0);
        for end in ends {
            share += self.density(at, from) * f64::from(end.saturating_sub(from)) / f64::from(LEVELS);
            from = end;
        }
        share
    }

    /// What a node would have of the key space if all were as at this level.
    fn density(&self, at: usize, level: u32) -> f64 {
        self.ring.share_of(at, |i| level < self.holds_below[i])
    }

    /// How far a node may take its keys, from this level on and up to that one, for so much of the key space:
    /// in whole steps.
    fn reach(&self, at: usize, (from, to): (u32, u32), room: f64) -> u32 {
        let (mut level, mut spent) = (from, 0.0);
        let mut known: Option<(u32, f64)> = None;
        while level < to {
            let next = step_after(level, to);
            let is_even = known.is_some_and(|(end, _)| next <= end);
            let cost = match known {
                Some((_, density)) if is_even => density * f64::from(next - level) / f64::from(LEVELS),
                _ => {
                    // Of levels up to the next cut one is as another.
                    let end = self.cuts.iter().copied().find(|cut| *cut > level).unwrap_or(LEVELS);
                    known = Some((end, self.density(at, level)));
                    self.between(at, level, next)
                }
            };
            spent += cost;
            if spent > room + ROUNDING {
                break;
            }
            level = next;
        }
        level
    }

    /// Whether a node may be ejected now that has its keys below this level; that it was is noted.
    pub(super) fn ejects(
        &mut self,
        (at, below): (usize, u32),
        spending: &mut Spending,
        warmth: &Warmth,
        now: Instant,
    ) -> bool {
        if warmth.share >= 1.0 {
            return true;
        }
        spending.forget(warmth.window, now);
        let is_first = !spending.0.iter().any(|spent| spent.is_ejection);
        if !is_first && self.refused >= ASKED {
            return false;
        }
        let share = self.between(at, 0, below);
        let may = is_first || share <= spending.left(warmth) + ROUNDING;
        if may {
            spending.0.push_back(Spent { at: now, share, is_ejection: true });
        }
        self.refused += usize::from(!may);
        may
    }

    /// Up to which level a node that is cold may take its keys now, from this level on and no further than to
    /// that one: in whole steps, of which it may have the first when nothing is spent.
    pub(super) fn takes(
        &mut self,
        (at, from, to): (usize, u32, u32),
        spending: &mut Spending,
        warmth: &Warmth,
        now: Instant,
    ) -> u32 {
        if warmth.share >= 1.0 {
            return to;
        }
        spending.forget(warmth.window, now);
        if self.refused >= ASKED {
            return from;
        }
        let reached = match self.reach(at, (from, to), spending.left(warmth)) {
            reached if reached == from && spending.0.is_empty() => step_after(from, to),
            reached => reached,
        };
        self.refused += usize::from(reached == from);
        reached
    }

    /// Whether a node that is cold may take all its keys below this level now.
    pub(super) fn fits(
        &mut self,
        (at, below): (usize, u32),
        spending: &mut Spending,
        warmth: &Warmth,
        now: Instant,
    ) -> bool {
        spending.forget(warmth.window, now);
        spending.0.is_empty() || self.takes((at, 0, below), spending, warmth, now) == below
    }

    /// Notes that a node takes its keys of these levels, which are cold there.
    pub(super) fn pays(
        &self,
        (at, from, to): (usize, u32, u32),
        spending: &mut Spending,
        warmth: &Warmth,
        now: Instant,
    ) {
        if warmth.share < 1.0 && from < to {
            let share = self.between(at, from, to);
            spending.0.push_back(Spent { at: now, share, is_ejection: false });
        }
    }
}

/// Where the step ends that begins at this level.
fn step_after(level: u32, to: u32) -> u32 {
    ((level / STEP + 1) * STEP).min(to)
}

/// What was spent lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Spending(VecDeque<Spent>);

#[derive(Clone, Copy, Debug)]
struct Spent {
    at: Instant,
    share: f64,
    is_ejection: bool,
}

/// Sums of shares are rounded; a quarter and a quarter is a half.
const ROUNDING: f64 = 1e-9;

impl Spending {
    /// When the oldest spending of the window is forgotten, and something that waits may fit.
    pub(super) fn next(&self, window: Duration, now: Instant) -> Option<Instant> {
        self.0.iter().map(|s| s.at + window).find(|at| *at > now)
    }

    fn left(&self, warmth: &Warmth) -> f64 {
        warmth.share - self.0.iter().map(|s| s.share).sum::<f64>()
    }

    fn forget(&mut self, window: Duration, now: Instant) {
        self.0.retain(|spent| spent.at + window > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::tests::{Planned, spec},
        ring::{Member, Settings},
        topology::{Admission, Entry, Topology, WhileHeld},
    };

    const WINDOW: Duration = Duration::from_secs(60);

    fn warmth(share: f64) -> Warmth {
        Warmth { share, window: WINDOW, held: WhileHeld::Fail }
    }

    /// Nodes of which all have exactly what they weigh, of 16.
    fn ring(weights: &[u32]) -> Ring {
        assert_eq!(weights.iter().sum::<u32>(), 16);
        let member = |(i, weight): (usize, &u32)| Member { name: format!("n{i}").into(), weight: *weight };
        let members: Vec<Member> = weights.iter().enumerate().map(member).collect();
        Ring::build(&Settings { placement: crate::ring::Placement::Modula, ..Settings::default() }, &members)
    }

    /// The first ejection of a window acts whatever its share; those that follow have to fit, until
    /// the window is over.
    #[test]
    fn the_first_ejection_acts() {
        let (mut spending, start, quarter) = (Spending::default(), Instant::now(), warmth(0.25));
        let ring = ring(&[8, 2, 2, 1, 1, 1, 1]);
        let mut shares = Shares::new(&ring, &Policy::default(), &[Placement::Owns; 7]);
        let mut ejects =
            |at, spending: &mut Spending, now| shares.ejects((at, LEVELS), spending, &quarter, now);
        assert!(ejects(0, &mut spending, start));
        assert!(!ejects(1, &mut spending, start + WINDOW / 2));
        assert_eq!(spending.next(WINDOW, start + WINDOW / 2), Some(start + WINDOW));
        assert!(ejects(1, &mut spending, start + WINDOW));
        assert!(ejects(2, &mut spending, start + WINDOW * 3 / 2), "a quarter together");
        assert!(!ejects(3, &mut spending, start + WINDOW * 3 / 2));
        assert_eq!(spending.next(WINDOW, start + WINDOW * 3), None, "nothing is spent any more");
    }

    /// Cold nodes take what fits, and one step of any size when nothing is spent; an ejection before them
    /// counts, and the first ejection acts even after them.
    #[test]
    fn returns_spend() {
        let (mut spending, now, quarter) = (Spending::default(), Instant::now(), warmth(0.25));
        let ring = ring(&[8, 2, 2, 1, 1, 1, 1]);
        let mut shares = Shares::new(&ring, &Policy::default(), &[Placement::Away; 7]);
        (shares.holds_below[3..]).fill(LEVELS);
        let out = shares.between(0, 0, LEVELS);
        assert!((0.5..0.9).contains(&out), "it has what others before it do not take: {out}");
        let halved = warmth(out / 2.0);
        assert_eq!(shares.takes((0, 0, LEVELS), &mut spending, &halved, now), LEVELS / 2);
        shares.pays((0, 0, LEVELS / 2), &mut spending, &halved, now);
        assert_eq!(shares.takes((0, LEVELS / 2, LEVELS), &mut spending, &halved, now), LEVELS / 2);
        let later = now + WINDOW;
        let tiny = warmth(out / 100.0);
        assert_eq!(shares.takes((0, 0, LEVELS), &mut spending, &tiny, later), STEP);
        assert_eq!(shares.takes((0, STEP + 7, LEVELS), &mut spending, &tiny, later), 2 * STEP);
        shares.pays((0, 0, STEP), &mut spending, &tiny, later);
        assert_eq!(shares.takes((0, STEP, LEVELS), &mut spending, &tiny, later), STEP);
        assert!(shares.ejects((3, LEVELS), &mut spending, &quarter, later), "the first ejection");
        assert!(!shares.ejects((5, LEVELS), &mut spending, &quarter, later));
    }

    /// With the whole key space as budget nothing ever waits, and nothing is noted.
    #[test]
    fn all_of_it() {
        let (mut spending, now, all) = (Spending::default(), Instant::now(), warmth(1.0));
        let ring = ring(&[8, 8]);
        let mut shares = Shares::new(&ring, &Policy::default(), &[Placement::Owns, Placement::Away]);
        assert!((0..9).all(|_| shares.ejects((0, LEVELS), &mut spending, &all, now)));
        assert_eq!(shares.takes((1, 0, LEVELS), &mut spending, &all, now), LEVELS);
        shares.pays((1, 0, LEVELS), &mut spending, &all, now);
        assert_eq!(spending.next(WINDOW, now), None);
    }

    /// Of thousands that wait only the first few are asked in a step.
    #[test]
    fn who_waits_costs_little() {
        let (mut spending, now, none) = (Spending::default(), Instant::now(), warmth(0.1));
        let ring = ring(&[8, 4, 4]);
        let mut shares = Shares::new(&ring, &Policy::default(), &[Placement::Owns; 3]);
        assert!(shares.ejects((0, LEVELS), &mut spending, &none, now));
        let asked = |shares: &mut Shares<'_>, spending: &mut Spending| {
            (0..1000).for_each(|_| assert!(!shares.ejects((1, LEVELS), spending, &none, now)));
            (0..1000).for_each(|_| assert_eq!(shares.takes((1, 0, LEVELS), spending, &none, now), 0));
            shares.refused
        };
        assert_eq!(asked(&mut shares, &mut spending), ASKED);
        let later = now + WINDOW;
        assert!(shares.ejects((1, LEVELS), &mut spending, &none, later), "the first of a window acts");
    }

    /// What a node has, or would have, is what the topology says of it, be others away or on their way back.
    #[test]
    fn shares_are_exact() {
        use Placement::{Away, Held, Owns, Starting};
        let start = |admitted, fence| Starting(Admission { admitted, fence });
        let mut uneven = spec(&[1, 1, 2, 1, 3], 0.5);
        for placement in [crate::ring::Placement::Vnode { points: 40 }, crate::ring::Placement::Modula] {
            uneven.ring.placement = placement;
            let pool = Planned::new(&uneven);
            for placements in [
                [Owns, Owns, Owns, Owns, Owns],
                [Away, Owns, Held, Away, Owns],
                [Away, Owns, start(LEVELS / 8, LEVELS / 4), Away, start(LEVELS / 2, LEVELS / 2)],
                [Away, Away, Away, Away, start(0, LEVELS / 16)],
            ] {
                let with = |placements: &[Placement]| {
                    let nodes = pool.topology.nodes.iter().zip(placements);
                    let nodes = nodes.map(|(e, p)| Entry { placement: *p, ..e.clone() }).collect();
                    Topology { nodes, ..pool.topology.clone() }
                };
                let topology = with(&placements);
                let shares = Shares::new(&topology.ring, &topology.policy, &placements);
                let has = |at: usize, below| {
                    let mut own = placements;
                    own[at] = start(below, below);
                    with(&own).shares()[at]
                };
                for at in 0..placements.len() {
                    for (from, to) in
                        [(0, LEVELS), (0, LEVELS / 3), (LEVELS / 16, LEVELS / 2), (7, 8), (9, 9)]
                    {
                        let (is, should) = (shares.between(at, from, to), has(at, to) - has(at, from));
                        assert!((is - should).abs() < 1e-9, "{is} of {should}: {at} {placements:?}");
                    }
                    let room = shares.between(at, 0, LEVELS) * 0.61;
                    let reached = shares.reach(at, (0, LEVELS), room);
                    let is_room = |below| shares.between(at, 0, below) <= room + ROUNDING;
                    assert_eq!(reached % STEP, 0);
                    assert!(is_room(reached) && !is_room(reached + STEP), "{reached}: {at} {placements:?}");
                }
            }
        }
    }
}

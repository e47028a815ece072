//! THE WARMTH BUDGET. A key whose owner changes is cold there: the more of them at once, the more
//! of the load falls on what the cache stands in front of. So ringway's own decisions may move only
//! so much of a pool's key space in a window of time. Pure: it counts, `plan` asks it.
//!
//! | wish | granted when |
//! |---|---|
//! | the first ejection of a window | always, whatever its share: its keys are lost already |
//! | a further ejection | it fits into what is left |
//! | the return of a node that is cold | it fits into what is left, or nothing is spent |
//! | the return of a node that has its data | always, and it spends nothing |
//!
//! A node's share is counted by its weight among those that hold keys: what is really moved is
//! within the ring's balance of it, and known only after rings were compared.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::topology::Warmth;

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
    /// Whether a node with this share may be ejected now; that it was is noted.
    pub(super) fn ejects(&mut self, share: f64, warmth: &Warmth, now: Instant) -> bool {
        self.forget(warmth.window, now);
        let is_first = !self.0.iter().any(|s| s.is_ejection);
        self.spend(is_first, Spent { at: now, share, is_ejection: true }, warmth)
    }

    /// Whether a cold node with this share may have it back now; that it has is noted.
    pub(super) fn returns(&mut self, share: f64, warmth: &Warmth, now: Instant) -> bool {
        self.forget(warmth.window, now);
        self.spend(self.0.is_empty(), Spent { at: now, share, is_ejection: false }, warmth)
    }

    /// When the oldest spending of the window is forgotten, and something that waits may fit.
    pub(super) fn next(&self, window: Duration, now: Instant) -> Option<Instant> {
        self.0.iter().map(|s| s.at + window).find(|at| *at > now)
    }

    fn spend(&mut self, always: bool, new: Spent, warmth: &Warmth) -> bool {
        if warmth.share >= 1.0 {
            return true;
        }
        let spent: f64 = self.0.iter().map(|s| s.share).sum();
        let may = always || spent + new.share <= warmth.share + ROUNDING;
        if may {
            self.0.push_back(new);
        }
        may
    }

    fn forget(&mut self, window: Duration, now: Instant) {
        while self.0.front().is_some_and(|s| s.at + window <= now) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::WhileHeld;

    const WINDOW: Duration = Duration::from_secs(60);

    fn warmth(share: f64) -> Warmth {
        Warmth { share, window: WINDOW, held: WhileHeld::Fail }
    }

    /// The first ejection of a window acts whatever its share, the next ones fit or wait, and what
    /// was spent is forgotten when its window is over.
    #[test]
    fn the_first_ejection_acts() {
        let (mut spending, start) = (Spending::default(), Instant::now());
        let quarter = warmth(0.25);
        assert!(spending.ejects(0.5, &quarter, start));
        assert!(!spending.ejects(0.1, &quarter, start + WINDOW / 2));
        assert_eq!(spending.next(WINDOW, start + WINDOW / 2), Some(start + WINDOW));
        assert!(spending.ejects(0.1, &quarter, start + WINDOW));
        assert!(spending.ejects(0.15, &quarter, start + WINDOW * 3 / 2), "a quarter together");
        assert!(!spending.ejects(0.01, &quarter, start + WINDOW * 3 / 2));
        assert_eq!(spending.next(WINDOW, start + WINDOW * 3), None, "nothing is spent any more");
    }

    /// A return spends as an ejection does, and waits for what was spent before; it does not take
    /// the place of the first ejection.
    #[test]
    fn returns_spend() {
        let (mut spending, now) = (Spending::default(), Instant::now());
        let quarter = warmth(0.25);
        assert!(spending.returns(0.5, &quarter, now), "nothing was spent");
        assert!(!spending.returns(0.1, &quarter, now));
        assert!(spending.ejects(0.3, &quarter, now), "the first ejection");
        assert!(!spending.ejects(0.1, &quarter, now));
    }

    /// With the whole key space as budget nothing ever waits, and nothing is noted.
    #[test]
    fn all_of_it() {
        let (mut spending, now) = (Spending::default(), Instant::now());
        assert!((0..9).all(|_| spending.ejects(0.25, &warmth(1.0), now)));
        assert_eq!(spending.next(WINDOW, now), None);
    }
}

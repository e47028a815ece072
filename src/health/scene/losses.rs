//! What one node left unanswered while it went on answering the rest: what a way that loses packets looks
//! like. Pure, a few numbers.

use std::time::Duration;

use tokio::time::Instant;

/// What was lost within this time is "now".
const WITHIN: Duration = Duration::from_secs(3);
/// And within this time it was lost again and again.
const MIXED_WITHIN: Duration = Duration::from_secs(10);

/// Two nodes that lose something within this time of each other do so together.
const AT_ONCE: Duration = Duration::from_millis(250);

/// The losses of a node.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// The last one.
    last: Option<Instant>,
    /// The last two before which something was answered, the younger one first.
    turns: [Option<Instant>; 2],
    /// Requests that were answered by then.
    answered: u64,
    /// A probe was answered since.
    heard: bool,
}

impl Losses {
    /// Something was not answered; so many requests were, until now.
    pub(super) fn lost(&mut self, now: Instant, answered: u64) {
        if self.last.is_none() || self.heard || answered > self.answered {
            self.turns = [Some(now), self.turns[0]];
        }
        (self.last, self.answered, self.heard) = (Some(now), answered, false);
    }

    /// A probe was answered.
    pub(super) fn heard(&mut self) {
        self.heard = true;
    }

    /// Whether it loses some and answers some, again and again. A node that stood still once does not.
    pub(super) fn is_mixed(&self, now: Instant) -> bool {
        self.is_recent(now)
            && self.turns[1].is_some_and(|at| now.saturating_duration_since(at) < MIXED_WITHIN)
    }

    /// Whether something was lost lately.
    pub(super) fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|at| now.saturating_duration_since(at) < WITHIN)
    }

    /// Whether it lost something together with one that has been failing since then.
    pub(super) fn is_beside(&self, now: Instant, since: Instant) -> bool {
        self.is_recent(now) && self.last.is_some_and(|at| at + AT_ONCE >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers between losses make a mixture, in whatever way they are heard; a stall is none, however much
    /// it leaves unanswered, and what is long past is not now.
    #[test]
    fn a_stall_is_no_mixture() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stall = Losses::default();
        (0..10).for_each(|i| stall.lost(at(i * 100), 7));
        assert!(!stall.is_mixed(at(900)) && stall.is_beside(at(900), at(1100)));
        assert!(!stall.is_beside(at(900), at(1200)), "another one, later");
        for by_probe in [true, false] {
            let mut lossy = Losses::default();
            lossy.lost(at(0), 7);
            if by_probe {
                lossy.heard();
            }
            lossy.lost(at(100), if by_probe { 7 } else { 8 });
            assert!(lossy.is_mixed(at(200)));
            assert!(!lossy.is_mixed(at(100) + WITHIN));
            lossy.lost(at(0) + MIXED_WITHIN, if by_probe { 7 } else { 8 });
            assert!(!lossy.is_mixed(at(0) + MIXED_WITHIN));
        }
    }
}

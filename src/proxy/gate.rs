//! How fast the workers make connections to one node: a few at once, then one after the other. A node that is
//! back has other work than to greet everybody in the same instant. Each pause is a little different, so that
//! many workers and many proxies do not come together either. Pure but for the dice.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

/// A token bucket that lends: whoever comes when it is empty gets the next token, and is told how long that
/// takes.
#[derive(Debug)]
pub(crate) struct Gate {
    /// When it is full again.
    full_at: Cell<Option<Instant>>,
    burst: u32,
    every: Duration,
}

impl Gate {
    /// The part that one of so many workers has of `burst` at once and then one in `every`; each may have two
    /// at once, however many they are.
    pub(crate) fn new(burst: u32, every: Duration, workers: usize) -> Gate {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        Gate {
            full_at: Cell::new(None),
            burst: (burst / workers).max(2),
            every: every.saturating_mul(workers),
        }
    }

    /// Takes a token; how long to wait for it.
    pub(crate) fn pass(&self, now: Instant) -> Duration {
        let full_at = self.full_at.get().filter(|at| *at > now).unwrap_or(now);
        self.full_at.set(Some(full_at + self.every));
        (full_at - now).saturating_sub(self.every * (self.burst - 1))
    }
}

/// A token that somebody has and does not use yet: dropped, it goes back. Who has waited for it forgets this.
#[derive(Debug)]
pub(crate) struct Token<'a>(pub(crate) &'a Gate);

impl Drop for Token<'_> {
    fn drop(&mut self) {
        let Gate { full_at, every, .. } = self.0;
        full_at.set(full_at.get().and_then(|at| at.checked_sub(*every)));
    }
}

/// A pause between three and five quarters of this one.
pub(crate) fn spread(pause: Duration) -> Duration {
    let dice = RandomState::new().hash_one(()) as f64 / u64::MAX as f64;
    pause.mul_f64(0.75 + dice / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many pass at once, those behind them one by one; what was not used for a while is there again, and
    /// no more than that.
    #[test]
    fn a_burst_and_then_one_by_one() {
        let ms = Duration::from_millis;
        let gate = Gate::new(3, ms(10), 1);
        let start = Instant::now();
        let waits: Vec<Duration> = (0..6).map(|_| gate.pass(start)).collect();
        assert_eq!(waits, [0, 0, 0, 10, 20, 30].map(ms));
        assert_eq!(gate.pass(start + ms(40)), ms(0), "all tokens that were lent are given back");
        assert_eq!(gate.pass(start + ms(40)), ms(10));
        let later = start + Duration::from_secs(3600);
        let waits: Vec<Duration> = (0..4).map(|_| gate.pass(later)).collect();
        assert_eq!(waits, [0, 0, 0, 10].map(ms));
    }

    /// A token that was not used is there for the next.
    #[test]
    fn what_is_not_used_goes_back() {
        let ms = Duration::from_millis;
        let gate = Gate::new(2, ms(10), 1);
        let start = Instant::now();
        let take = || (gate.pass(start), Token(&gate));
        let (waits, tokens): (Vec<Duration>, Vec<Token<'_>>) = (0..5).map(|_| take()).unzip();
        assert_eq!(waits, [0, 0, 10, 20, 30].map(ms));
        drop(tokens);
        assert_eq!(gate.pass(start), ms(0));
        drop(Token(&gate));
        assert_eq!([gate.pass(start), gate.pass(start), gate.pass(start)], [0, 0, 10].map(ms));
    }

    /// Workers share what passes: together they let as many through as one would alone, but for two each.
    #[test]
    fn workers_share_it() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        for (workers, at_once, later) in [(1, 128, 100), (4, 128, 100), (5, 125, 100), (100, 200, 100)] {
            let gates: Vec<Gate> = (0..workers).map(|_| Gate::new(128, ms(1), workers)).collect();
            let mut waits: Vec<Duration> =
                gates.iter().flat_map(|gate| (0..400).map(|_| gate.pass(start))).collect();
            waits.sort_unstable();
            let within = |pause: Duration| waits.iter().filter(|wait| **wait <= pause).count();
            assert_eq!(within(ms(0)), at_once, "{workers} workers");
            assert_eq!(within(ms(100)) - at_once, later, "{workers} workers, in the first 100 ms");
        }
    }

    /// Pauses differ, and stay near what they are meant to be.
    #[test]
    fn pauses_are_spread() {
        let pauses: Vec<Duration> = (0..100).map(|_| spread(Duration::from_secs(1))).collect();
        assert!(pauses.iter().all(|p| (750..=1250).contains(&p.as_millis())), "{pauses:?}");
        assert!(pauses.windows(2).any(|w| w[0].abs_diff(w[1]) > Duration::from_millis(100)));
    }
}

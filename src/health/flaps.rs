//! How often a node comes and goes, and how long it has to behave before it is believed. Pure.

use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::topology::HealthSettings;

/// A wait is shorter by this part at most, at random: not all proxies shall try a node in the same second.
const JITTER: f64 = 0.2;

/// How often a node came and went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flaps {
    /// Ejections, each within `flap_window` of the return before it.
    count: u32,
    returned: Option<Instant>,
    is_out: bool,
    /// What is under way does not count.
    is_excused: bool,
    /// What its waits are spread by.
    seed: u64,
}

impl Flaps {
    /// Nothing seen yet.
    pub(super) fn new(seed: u64) -> Flaps {
        Flaps { seed, ..Flaps::default() }
    }

    /// It is ejected, again or after a long time.
    pub(super) fn left(&mut self, now: Instant, window: Duration) {
        let is_again = self.returned.is_some_and(|at| now - at < window);
        self.count = if is_again { self.count.saturating_add(1) } else { 0 };
        self.is_out = true;
    }

    /// It is back.
    pub(super) fn returned(&mut self, now: Instant) {
        self.returned = Some(now).filter(|_| !self.is_excused);
        (self.is_out, self.is_excused) = (false, false);
    }

    /// It is, or was until now, out by hand: that it failed and came back meanwhile is its operator's doing,
    /// and no coming and going of its own.
    pub(super) fn excuse(&mut self) {
        match self.is_out {
            true => self.is_excused = true,
            false => self.returned = None,
        }
    }

    /// How long its good probes do not count: twice as long each time, less a part at random that stays the
    /// same for this wait.
    pub(super) fn wait(self, settings: &HealthSettings) -> Duration {
        if self.count == 0 {
            return Duration::ZERO;
        }
        let doubled = settings.interval.saturating_mul(1 << self.count.min(20));
        let part = xxh3_64_with_seed(&self.count.to_le_bytes(), self.seed) as f64 / u64::MAX as f64;
        doubled.min(settings.flap_max).mul_f64(1.0 - JITTER * part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restart while it is out by hand is none, be it noticed that it is back before or after it is let in
    /// again.
    #[test]
    fn what_an_operator_does_is_none() {
        let (settings, start) = (HealthSettings::default(), Instant::now());
        let mut flaps = Flaps::new(7);
        let mut failure = |excused: [bool; 2]| {
            flaps.left(start, settings.flap_window);
            excused[0].then(|| flaps.excuse());
            let wait = flaps.wait(&settings);
            flaps.returned(start);
            excused[1].then(|| flaps.excuse());
            !wait.is_zero()
        };
        assert!(!failure([true, false]));
        assert!(!failure([false, true]), "the first was not its own");
        assert!(!failure([false, false]), "nor was the second");
        assert!(failure([false, false]));
    }

    /// Waits double up to the cap, shorter by a fifth at most; those of different seeds differ, those of one
    /// do not.
    #[test]
    fn waits_are_spread() {
        let settings = HealthSettings::default();
        let start = Instant::now();
        let waits = |seed| -> Vec<f64> {
            let mut flaps = Flaps::new(seed);
            let mut all = Vec::new();
            for _ in 0..8 {
                flaps.returned(start);
                flaps.left(start, settings.flap_window);
                all.push(flaps.wait(&settings).as_secs_f64());
            }
            all
        };
        for seed in 0..100 {
            for (wait, doubled) in waits(seed).into_iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0])
            {
                assert!((0.8 * doubled..=doubled).contains(&wait), "{wait} of {doubled}");
            }
        }
        assert_eq!(waits(1), waits(1));
        let mut last: Vec<f64> = (0..100).map(|seed| waits(seed)[6]).collect();
        last.sort_unstable_by(f64::total_cmp);
        assert!(last[10] < 52.0 && last[90] > 56.0, "{last:?}");
    }
}

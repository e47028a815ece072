//! How late the control runtime runs. A probe that was measured by a late clock proves nothing
//! about its node.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often lateness is measured.
const TICK: Duration = Duration::from_millis(10);

/// A lateness above this makes what was measured meanwhile void.
pub const LAG_MAX: Duration = Duration::from_millis(50);

/// Lags that are remembered: a probe looks back seconds at most.
const REMEMBERED: usize = 256;

/// Knows when the runtime that runs [`Lag::run`] was late.
#[derive(Clone, Debug)]
pub struct Lag(Arc<Mutex<Seen>>);

#[derive(Debug)]
struct Seen {
    /// The last tick; none while nobody measures, and then nothing is late.
    ticked: Option<Instant>,
    lags: VecDeque<(Instant, Instant)>,
}

impl Seen {
    /// Notes a tick at this moment, and the lag if it was late.
    fn tick(&mut self, now: Instant) {
        if let Some(late) = self.late(now) {
            if self.lags.len() == REMEMBERED {
                self.lags.pop_front();
            }
            self.lags.push_back(late);
        }
        self.ticked = Some(now);
    }

    /// The lag that lasts at this moment, if the tick is overdue.
    fn late(&self, now: Instant) -> Option<(Instant, Instant)> {
        let ticked = self.ticked?;
        (now.duration_since(ticked) > TICK + LAG_MAX).then_some((ticked, now))
    }
}

impl Lag {
    /// Nothing measured yet.
    pub fn new() -> Lag {
        Lag(Arc::new(Mutex::new(Seen { ticked: None, lags: VecDeque::new() })))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here can be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures for ever. To be run on the runtime that is measured, once.
    pub async fn run(self) {
        self.seen().tick(Instant::now());
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.seen().tick(Instant::now());
        }
    }

    /// Whether the runtime was late by more than [`LAG_MAX`] somewhere between these moments. A
    /// lag that is not over, because the tick has not run yet, is seen too.
    pub fn overlapped(&self, started: Instant, ended: Instant) -> bool {
        let seen = self.seen();
        let open = seen.late(Instant::now());
        seen.lags.iter().chain(&open).any(|(from, to)| *from < ended && started < *to)
    }

    /// How long the runtime stood still since this moment: the longest lag, and all together.
    pub fn since(&self, from: Instant) -> (Duration, Duration) {
        let now = Instant::now();
        let seen = self.seen();
        let open = seen.late(now);
        let within = |(start, end): &(Instant, Instant)| end.saturating_duration_since((*start).max(from));
        let lags = seen.lags.iter().chain(&open).map(within);
        lags.fold((Duration::ZERO, Duration::ZERO), |(longest, all), lag| (longest.max(lag), all + lag))
    }
}

impl Default for Lag {
    fn default() -> Lag {
        Lag::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lag voids what overlapped it, not what ended before or began after; it is seen before the
    /// late tick has run as well as afterwards.
    #[tokio::test(start_paused = true)]
    async fn a_lag_voids_what_it_overlapped() {
        let lag = Lag::new();
        let measuring = tokio::spawn(lag.clone().run());
        let start = Instant::now();
        tokio::time::sleep(TICK * 10).await;
        let before = Instant::now();
        assert!(!lag.overlapped(start, before), "ticks in time are no lag");
        // As if the last tick had been long ago.
        let stall = Duration::from_millis(200);
        {
            let mut seen = lag.seen();
            seen.ticked = seen.ticked.map(|t| t - stall);
            assert!(seen.lags.is_empty());
        }
        assert!(lag.overlapped(before - stall / 2, before), "not over yet");
        tokio::time::sleep(TICK * 2).await;
        let after = Instant::now();
        assert!(lag.overlapped(before - stall / 2, before), "over");
        assert!(!lag.overlapped(after, after + TICK));
        assert!(!lag.overlapped(start - stall * 3, start - stall * 2));
        measuring.abort();
    }

    /// Lags are added up from a moment on, one that began before it from then on only.
    #[tokio::test(start_paused = true)]
    async fn lags_add_up() {
        let (lag, start) = (Lag::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for tick in [0, 10, 400, 410, 520, 530] {
            lag.seen().tick(at(tick));
        }
        tokio::time::advance(Duration::from_millis(535)).await;
        let ms = Duration::from_millis;
        assert_eq!(lag.since(start), (ms(390), ms(500)));
        assert_eq!(lag.since(at(300)), (ms(110), ms(210)));
        assert_eq!(lag.since(at(525)), (ms(0), ms(0)));
    }

    /// Only so many lags are remembered.
    #[test]
    fn lags_are_bounded() {
        let lag = Lag::new();
        let start = Instant::now();
        for i in 0..2 * REMEMBERED as u32 {
            lag.seen().tick(start + Duration::from_millis(100) * (i + 1));
        }
        assert_eq!(lag.seen().lags.len(), REMEMBERED);
    }
}

//! WHAT A NODE DID LATELY. Its counters, summed over all workers and read every fifth of `health.window` ->
//! how many of its requests failed, and whether it is slower than the rest of its pool. Pure: no clock, no
//! task.
//!
//! A node is *slow* when its p99 over the window is above `slow_factor` times the pool's median (of the
//! nodes' p99s), and above `slow_floor`, in the window as a whole and in most of its fifths: one pause is not
//! slowness. It stays slow until that is so in fewer than two of them. The median of an even number is the
//! lower one, so that of two nodes one can be slow; where most nodes are slow none is: then the fault is
//! elsewhere.

use std::{collections::VecDeque, time::Duration};

use crate::{
    metrics::{Class, Histogram, Outcome},
    topology::{Failure, HealthSettings, Node, Slow},
};

/// Parts of a window.
pub(super) const SLICES: u32 = 5;
/// In how many of them a node has to be slow to be called so, and to be called so still.
const SLOW_SLICES: (usize, usize) = (3, 2);
/// Failures that count towards the rate: what becomes of requests, doubts left aside. A lost connection is
/// one, however many requests were in flight; one that is not made is not a request. Of bytes that are not
/// the protocol the probe judges.
const OF_REQUESTS: [Failure; 4] = [Failure::Timeout, Failure::Lost, Failure::Reset, Failure::Status];

/// A node's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Requests that have ended, scripts and commands for all nodes left out.
    pub requests: u64,
    /// Failures of requests.
    pub failed: u64,
    /// Replies by the buckets of [`Histogram`]; none while there were no requests.
    pub latency: Vec<u64>,
}

/// Requests and failures within the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
}

/// How fast a node answers, compared with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It, or the pool, has too few requests to tell.
    Unknown,
    /// As the others.
    Usual,
    /// Much slower.
    Slow(Slow),
}

/// What happened between two readings.
#[derive(Clone, Debug, Default)]
struct Slice {
    rate: Rate,
    latency: Vec<u32>,
}

/// The last readings of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    last: Option<Reading>,
    slices: VecDeque<Slice>,
    slow: bool,
}

impl Reading {
    /// Reads a node's counters. They are written meanwhile, so that one may be a few requests ahead of
    /// another.
    pub(super) fn of(node: &Node) -> Reading {
        let count = |class: Class| -> u64 {
            let blocks = node.blocks.iter();
            let outcomes = [Outcome::Ok, Outcome::Error, Outcome::Timeout, Outcome::Lost];
            blocks
                .map(|b| outcomes.map(|o| b.requests[class as usize][o as usize].value()).iter().sum::<u64>())
                .sum()
        };
        let requests = count(Class::Read) + count(Class::Write);
        let mut latency = Vec::new();
        if requests > 0 {
            latency.resize(Histogram::BUCKETS, 0);
            for block in node.blocks.iter() {
                latency.iter_mut().zip(block.latency.buckets()).for_each(|(sum, (_, n))| *sum += n);
            }
        }
        let failed = OF_REQUESTS.into_iter().map(|kind| node.evidence.failures(kind)).sum();
        Reading { requests, failed, latency }
    }
}

impl Window {
    /// Takes in the next reading.
    pub(super) fn push(&mut self, reading: Reading) {
        let since = |before: &Reading| {
            let rate = Rate {
                requests: reading.requests.saturating_sub(before.requests),
                failed: reading.failed.saturating_sub(before.failed),
            };
            if rate.requests == 0 {
                return Slice { rate, latency: Vec::new() };
            }
            let old = |i: usize| before.latency.get(i).copied().unwrap_or_default();
            let new = |(i, n): (usize, &u64)| u32::try_from(n.saturating_sub(old(i))).unwrap_or(u32::MAX);
            Slice { rate, latency: reading.latency.iter().enumerate().map(new).collect() }
        };
        let slice = self.last.as_ref().map(since);
        self.last = Some(reading);
        if self.slices.len() == SLICES as usize {
            self.slices.pop_front();
        }
        self.slices.extend(slice);
    }

    /// Requests and failures.
    pub(super) fn rate(&self) -> Rate {
        self.slices.iter().fold(Rate::default(), |sum, slice| Rate {
            requests: sum.requests + slice.rate.requests,
            failed: sum.failed + slice.rate.failed,
        })
    }

    /// The p99 of the replies, if there are so many.
    fn p99(&self, volume: u64) -> Option<Duration> {
        let mut sums = vec![0; Histogram::BUCKETS];
        for slice in &self.slices {
            sums.iter_mut().zip(&slice.latency).for_each(|(sum, n)| *sum += u64::from(*n));
        }
        p99(&sums).filter(|_| sums.iter().sum::<u64>() >= volume)
    }

    /// How fast it was says nothing of it: its replies were late on the way.
    pub(super) fn forget_pace(&mut self) {
        self.slices.iter_mut().for_each(|slice| slice.latency.clear());
        self.slow = false;
    }

    /// Whether it is slow with this p99 under this bound.
    fn judge(&mut self, p99: Duration, bound: Duration) -> bool {
        let is_slow = |slice: &&Slice| {
            let counts: Vec<u64> = slice.latency.iter().map(|n| u64::from(*n)).collect();
            self::p99(&counts).is_some_and(|p99| p99 > bound)
        };
        let needed = if self.slow { SLOW_SLICES.1 } else { SLOW_SLICES.0 };
        self.slow = (self.slow || p99 > bound) && self.slices.iter().filter(is_slow).count() >= needed;
        self.slow
    }
}

/// Which of a pool's nodes are slow, in their order.
pub(super) fn paces<'a>(
    windows: impl Iterator<Item = &'a mut Window>,
    settings: &HealthSettings,
) -> Vec<Pace> {
    let windows: Vec<&mut Window> = windows.collect();
    if settings.slow_factor == 0.0 {
        return vec![Pace::Usual; windows.len()];
    }
    let p99s: Vec<Option<Duration>> = windows.iter().map(|w| w.p99(settings.volume)).collect();
    let mut known: Vec<Duration> = p99s.iter().flatten().copied().collect();
    known.sort_unstable();
    if known.len() < 2 {
        return vec![Pace::Unknown; windows.len()];
    }
    let median = known[(known.len() - 1) / 2];
    let bound = median.mul_f64(settings.slow_factor).max(settings.slow_floor);
    let pace = |(window, p99): (&mut Window, Option<Duration>)| match p99 {
        None => Pace::Unknown,
        Some(p99) if window.judge(p99, bound) => Pace::Slow(Slow { p99, median, bound }),
        Some(_) => Pace::Usual,
    };
    windows.into_iter().zip(p99s).map(pace).collect()
}

/// The bound below which 99 of 100 of these replies lie; none of none.
fn p99(counts: &[u64]) -> Option<Duration> {
    let total: u64 = counts.iter().sum();
    // Of 100 replies the 99th.
    let rank = (total * 99).div_ceil(100);
    let mut below = 0;
    let at = counts.iter().position(|n| {
        below += n;
        below >= rank && *n > 0
    })?;
    Some(Duration::from_micros(Histogram::bound(at).min(u64::from(u32::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::NodeBlock;

    const MS: u64 = 1_000;

    /// A pool of nodes that answer as they are told.
    struct Pool {
        blocks: Vec<NodeBlock>,
        windows: Vec<Window>,
        settings: HealthSettings,
    }

    impl Pool {
        fn of(nodes: usize) -> Pool {
            let mut pool = Pool {
                blocks: (0..nodes).map(|_| NodeBlock::default()).collect(),
                windows: vec![Window::default(); nodes],
                settings: HealthSettings::default(),
            };
            pool.read();
            pool
        }

        fn read(&mut self) {
            for (block, window) in self.blocks.iter().zip(&mut self.windows) {
                let latency: Vec<u64> = block.latency.buckets().map(|b| b.1).collect();
                window.push(Reading { requests: latency.iter().sum(), failed: 0, latency });
            }
        }

        /// So many replies of each node take so long; then one fifth of the window is over.
        fn slice(&mut self, replies: &[&[(u64, u64)]]) -> Vec<Pace> {
            for (block, replies) in self.blocks.iter().zip(replies) {
                for (count, us) in *replies {
                    (0..*count).for_each(|_| block.latency.record(u32::try_from(*us).expect("short")));
                }
            }
            self.read();
            paces(self.windows.iter_mut(), &self.settings)
        }

        fn slices(&mut self, times: usize, replies: &[&[(u64, u64)]]) -> Vec<Pace> {
            (0..times).map(|_| self.slice(replies)).last().expect("at least one")
        }
    }

    fn is_slow(pace: &Pace) -> bool {
        matches!(pace, Pace::Slow(_))
    }

    const QUICK: &[(u64, u64)] = &[(1000, MS)];
    const SLOW: &[(u64, u64)] = &[(1000, 50 * MS)];
    /// Two of a hundred replies are late.
    const TAIL: &[(u64, u64)] = &[(980, MS), (20, 50 * MS)];

    /// A node that answers in 50 ms where the others need 1 ms is slow in three fifths of a window, also when
    /// only its tail is; it is not any more once four fifths are quick.
    #[test]
    fn an_outlier_is_found_and_let_go() {
        for slow in [SLOW, TAIL] {
            let mut pool = Pool::of(4);
            assert_eq!(pool.slices(2, &[QUICK, slow, QUICK, QUICK])[1], Pace::Usual);
            let paces = pool.slice(&[QUICK, slow, QUICK, QUICK]);
            assert_eq!(paces.iter().map(is_slow).collect::<Vec<_>>(), [false, true, false, false]);
            let Pace::Slow(Slow { p99, median, bound }) = paces[1] else { panic!("{paces:?}") };
            assert!(p99 >= Duration::from_millis(50) && p99 < Duration::from_millis(65), "{p99:?}");
            assert!(median >= Duration::from_millis(1) && median < Duration::from_millis(2), "{median:?}");
            assert_eq!(bound, Duration::from_millis(20), "the floor, as five times the median is less");
            pool.slices(5, &[QUICK, slow, QUICK, QUICK]);
            assert!(is_slow(&pool.slices(3, &[QUICK; 4])[1]), "two fifths are slow still");
            assert_eq!(pool.slice(&[QUICK; 4])[1], Pace::Usual);
        }
    }

    /// What was late on the way says nothing, then or later: a node that is slow has to show that anew.
    #[test]
    fn what_was_late_on_the_way() {
        let mut pool = Pool::of(4);
        assert!(is_slow(&pool.slices(5, &[QUICK, SLOW, QUICK, QUICK])[1]));
        pool.windows.iter_mut().for_each(Window::forget_pace);
        assert_eq!(paces(pool.windows.iter_mut(), &pool.settings), [Pace::Unknown; 4]);
        assert_eq!(pool.slices(2, &[QUICK, SLOW, QUICK, QUICK])[1], Pace::Usual);
        assert!(is_slow(&pool.slice(&[QUICK, SLOW, QUICK, QUICK])[1]));
    }

    /// One pause, however long and however many it met, is not slowness.
    #[test]
    fn one_pause_is_no_slowness() {
        let mut pool = Pool::of(3);
        pool.slices(5, &[QUICK; 3]);
        assert_eq!(pool.slice(&[&[(10_000, 400 * MS)], QUICK, QUICK])[0], Pace::Usual);
        assert_eq!(pool.slices(5, &[QUICK; 3])[0], Pace::Usual);
    }

    /// Where all are slow, or most of them, nobody is: it is this proxy, its link or the load.
    #[test]
    fn where_all_are_slow_nobody_is() {
        for nodes in [&[SLOW; 4][..], &[SLOW, SLOW, SLOW, QUICK]] {
            let mut pool = Pool::of(4);
            assert!(!pool.slices(5, nodes).iter().any(is_slow));
        }
        let mut pool = Pool::of(2);
        assert_eq!(
            pool.slices(5, &[SLOW, QUICK]).iter().filter(|p| is_slow(p)).count(),
            1,
            "of two, one can be"
        );
        let mut pool = Pool::of(1);
        assert_eq!(pool.slices(5, &[SLOW]), [Pace::Unknown]);
    }

    /// Below the floor nobody is slow, whatever the factor; above it the factor counts.
    #[test]
    fn floor_and_factor() {
        let mut pool = Pool::of(3);
        assert_eq!(pool.slices(5, &[&[(1000, 15 * MS)], &[(1000, 100)], &[(1000, 100)]])[0], Pace::Usual);
        let mut pool = Pool::of(3);
        let busy: &[(u64, u64)] = &[(1000, 20 * MS)];
        assert_eq!(pool.slices(5, &[&[(1000, 80 * MS)], busy, busy])[0], Pace::Usual);
        let mut pool = Pool::of(3);
        assert!(is_slow(&pool.slices(5, &[&[(1000, 200 * MS)], busy, busy])[0]));
        let mut pool = Pool::of(3);
        pool.settings.slow_factor = 0.0;
        assert_eq!(pool.slices(5, &[&[(1000, 200 * MS)], busy, busy])[0], Pace::Usual, "switched off");
    }

    /// A few requests say nothing, of a node or of a pool.
    #[test]
    fn few_requests_say_nothing() {
        let few: &[(u64, u64)] = &[(19, 50 * MS)];
        let mut pool = Pool::of(3);
        assert_eq!(pool.slices(5, &[few, QUICK, QUICK])[0], Pace::Unknown);
        let mut pool = Pool::of(3);
        assert_eq!(pool.slices(5, &[SLOW, &[(19, MS)], &[(19, MS)]]), [Pace::Unknown; 3]);
        let enough: &[(u64, u64)] = &[(20, 50 * MS)];
        let mut pool = Pool::of(3);
        assert!(is_slow(&pool.slices(5, &[enough, QUICK, QUICK])[0]));
    }

    /// The rate is that of the last window: older failures are forgotten, and nothing is known of the time
    /// before the first reading.
    #[test]
    fn the_rate_is_of_the_last_window() {
        let mut window = Window::default();
        let mut reading = Reading::default();
        let mut push = |window: &mut Window, requests, failed| {
            (reading.requests, reading.failed) = (reading.requests + requests, reading.failed + failed);
            window.push(reading.clone());
        };
        push(&mut window, 1_000_000, 1_000_000);
        assert_eq!(window.rate(), Rate::default(), "what was before the first reading is not known");
        push(&mut window, 100, 60);
        push(&mut window, 100, 0);
        assert_eq!(window.rate(), Rate { requests: 200, failed: 60 });
        (0..4).for_each(|_| push(&mut window, 10, 0));
        assert_eq!(window.rate(), Rate { requests: 140, failed: 0 });
    }

    /// The p99 is the bound of the bucket in which the 99th of a hundred lies.
    #[test]
    fn the_p99_of_a_few() {
        let of = |replies: &[(u64, u32)]| {
            let histogram = Histogram::default();
            for (count, us) in replies {
                (0..*count).for_each(|_| histogram.record(*us));
            }
            p99(&histogram.buckets().map(|b| b.1).collect::<Vec<_>>()).map(|p| p.as_micros())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(1, 100)]), Some(112));
        assert_eq!(of(&[(99, 100), (1, 10_000)]), Some(112));
        assert_eq!(of(&[(98, 100), (2, 10_000)]), Some(10_240));
    }
}

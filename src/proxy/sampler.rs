//! Which replies are sampled: each request, each byte and each microsecond in which a node is waited for is as
//! likely to be hit as any other. With a reply only three numbers are counted down; what follows is rare.

use std::cell::Cell;

use super::{dispatch, link::Link, pipeline::Expect};
use crate::topology::{Sample, Weight};

/// What one sample stands for, on average: requests, bytes, and microseconds.
const MEANS: [i64; 3] = [128, 256 * 1024, 8192];

/// Points that one request passes step by step; if there are more, the rest is passed at once.
const STEPS_MAX: i64 = 16;

/// What is left of each until the next sample.
#[derive(Debug)]
pub(crate) struct Countdown {
    requests: Cell<i64>,
    bytes: Cell<i64>,
    held_us: Cell<i64>,
    random: Cell<u64>,
}

impl Countdown {
    /// One that begins somewhere, by the seed.
    pub(crate) fn new(seed: u64) -> Countdown {
        let random = Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let countdown =
            Countdown { requests: Cell::new(0), bytes: Cell::new(0), held_us: Cell::new(0), random };
        let lefts = MEANS.map(|mean| countdown.below(mean));
        countdown.set(lefts);
        countdown
    }

    fn set(&self, [requests, bytes, held_us]: [i64; 3]) {
        self.requests.set(requests);
        self.bytes.set(bytes);
        self.held_us.set(held_us);
    }

    /// A request is over. Whether it is a sample.
    #[inline(always)]
    pub(crate) fn hits(&self, bytes: usize, held_us: u32) -> bool {
        let requests = self.requests.get() - 1;
        let bytes = self.bytes.get() - bytes as i64;
        let held_us = self.held_us.get() - i64::from(held_us);
        self.set([requests, bytes, held_us]);
        (requests | bytes | held_us) < 0
    }

    /// What the sample stands for; counts down anew.
    fn take(&self) -> Weight {
        let lefts = [self.requests.get(), self.bytes.get(), self.held_us.get()];
        let mut weights = [0; 3];
        let next = std::array::from_fn(|i| {
            let (mean, mut left) = (MEANS[i], lefts[i]);
            // Points that lie this far apart on average, whoever passes them: a large reply passes many.
            let passed = ((-left).max(0) / mean - STEPS_MAX).max(0);
            left += passed * mean;
            weights[i] = passed * mean;
            while left < 0 {
                left += mean / 2 + self.below(mean);
                weights[i] += mean;
            }
            left
        });
        self.set(next);
        let [requests, bytes, held_us] = weights.map(|weight| weight as u64);
        Weight { requests, bytes, held_us }
    }

    /// A number from 0 to below this: xorshift64, whose seed is never 0.
    fn below(&self, bound: i64) -> i64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        (random % bound as u64) as i64
    }
}

/// Notes the request whose reply was hit.
#[cold]
pub(crate) fn hit(link: &Link, expect: &Expect, request: Option<&[u8]>) {
    let weight = link.countdown.take();
    note(link, expect, request, weight);
}

/// Notes a request that does not come to an end: the node has been waited for so long.
#[cold]
pub(crate) fn overdue(link: &Link, expect: &Expect, request: Option<&[u8]>, waited_us: u32) {
    note(link, expect, request, Weight { held_us: waited_us.into(), ..Weight::default() });
}

fn note(link: &Link, expect: &Expect, request: Option<&[u8]>, weight: Weight) {
    let session = &expect.session;
    let pool = &session.pool;
    let bound = pool.bound_now();
    if !bound.topology.policy.hot_keys {
        return;
    }
    let pick = link.countdown.below(i64::from(u32::MAX)) as usize;
    let key = request.and_then(|request| dispatch::sampled_key(&bound, &pool.worker, request, pick));
    let peer = session.state.borrow().client.peer;
    let sample = Sample { node: link.node.id, client: session.id, peer, key, weight };
    pool.handle.samples.note(pool.worker.index, sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs so many requests of these bytes and times through a countdown; what the samples of each kind stand for.
    fn sampled(kinds: &[(usize, u32, usize)], rounds: usize) -> Vec<Weight> {
        let countdown = Countdown::new(7);
        let mut sums = vec![Weight::default(); kinds.len()];
        for _ in 0..rounds {
            for (i, (bytes, held_us, times)) in kinds.iter().enumerate() {
                for _ in 0..*times {
                    if countdown.hits(*bytes, *held_us) {
                        let weight = countdown.take();
                        sums[i].requests += weight.requests;
                        sums[i].bytes += weight.bytes;
                        sums[i].held_us += weight.held_us;
                    }
                }
            }
        }
        sums
    }

    /// What samples stand for is what there was: a key with one large reply among many small ones has its part of
    /// the bytes and of the time, and not of the requests.
    #[test]
    fn samples_stand_for_what_there_was() {
        let kinds = [(100, 50, 99), (2_000_000, 30_000, 1)];
        let rounds = 2000;
        let sums = sampled(&kinds, rounds);
        for ((bytes, held_us, times), sum) in kinds.iter().zip(&sums) {
            let all = (rounds * times) as f64;
            let near = |sampled: u64, real: f64, noise: f64| (sampled as f64 - real).abs() <= noise * real;
            assert!(near(sum.requests, all, 0.5), "{sum:?} of {all}");
            let is_large = *bytes > 1_000_000;
            let noise = if is_large { 0.1 } else { 0.5 };
            assert!(near(sum.bytes, all * *bytes as f64, noise), "{sum:?}");
            assert!(near(sum.held_us, all * f64::from(*held_us), noise), "{sum:?}");
        }
    }

    /// Requests that come in the rhythm of the countdown are not preferred: pauses differ.
    #[test]
    fn a_rhythm_is_not_preferred() {
        let sums = sampled(&[(1, 0, 1), (1, 0, 127)], 10_000);
        let share = sums[0].requests as f64 / (sums[0].requests + sums[1].requests) as f64;
        assert!((0.004..0.014).contains(&share), "{share}");
    }
}

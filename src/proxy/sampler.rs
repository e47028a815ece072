//! Which replies are sampled. A request is hit with a chance in proportion to its size: so much for being
//! one, its bytes, and the time in which the node was waited for, in one number that is counted down with
//! each reply. What a sample stands for is that divided by its chance, so that shares of requests, of bytes
//! and of time are true on average (Horvitz and Thompson, 1952). What follows a hit is rare.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use super::{dispatch, link::Link, pipeline::Expect};
use crate::topology::{Sample, Weight};

/// From one hit to the next, on average, in units of size. A byte is one unit.
const MEAN: i64 = 256 * 1024;
/// Units of a request and of a microsecond: of requests without bytes and waiting one of 256 is hit, and a
/// node that is waited for all the time fifteen times a second.
const REQUEST: i64 = 1024;
const MICROSECOND: i64 = 4;
/// Points that one request passes step by step; if there are more, the rest is passed at once.
const STEPS_MAX: i64 = 16;

/// What a request cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// Bytes, of its own and of its reply.
    pub(crate) bytes: usize,
    /// How long the node was waited for, in microseconds.
    pub(crate) held_us: u32,
}

impl Cost {
    /// What it adds to the size of a request.
    #[inline(always)]
    pub(crate) fn extra(self) -> i64 {
        self.bytes as i64 + MICROSECOND * i64::from(self.held_us)
    }

    fn size(self) -> i64 {
        REQUEST + self.extra()
    }

    /// Nothing, if that is so.
    #[inline(always)]
    pub(crate) fn unless(self, is_so: bool) -> Cost {
        if is_so { Cost::default() } else { self }
    }

    /// So many bytes more.
    pub(crate) fn and(self, bytes: usize) -> Cost {
        Cost { bytes: self.bytes + bytes, ..self }
    }
}

/// What is left until the next hit.
#[derive(Debug)]
pub(crate) struct Countdown {
    left: Cell<i64>,
    random: Cell<u64>,
}

impl Countdown {
    /// One that begins somewhere, by the seed.
    pub(crate) fn new(seed: u64) -> Countdown {
        let random = Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let countdown = Countdown { left: Cell::new(0), random };
        countdown.left.set(countdown.below(MEAN));
        countdown
    }

    /// A request of these bytes, and of so much more, is over. Whether it is hit.
    #[inline(always)]
    pub(crate) fn hits(&self, bytes: usize, extra: i64) -> bool {
        let left = self.left.get() - (REQUEST + bytes as i64 + extra);
        self.left.set(left);
        left < 0
    }

    /// The same, but one that is hit is not counted yet: it is to be looked at more closely.
    #[inline(always)]
    pub(crate) fn passes(&self, bytes: usize, extra: i64) -> bool {
        let left = self.left.get() - (REQUEST + bytes as i64 + extra);
        if left >= 0 {
            self.left.set(left);
        }
        left >= 0
    }

    /// What the request that was hit stands for; counts down anew.
    fn take(&self, cost: Cost) -> Weight {
        let mut left = self.left.get();
        // Points that lie this far apart on average, whoever passes them: a large reply passes many.
        let mut passed = ((-left).max(0) / MEAN - STEPS_MAX).max(0);
        left += passed * MEAN;
        while left < 0 {
            left += MEAN / 2 + self.below(MEAN);
            passed += 1;
        }
        self.left.set(left);
        let requests = (passed * MEAN) as f64 / cost.size() as f64;
        Weight { requests, bytes: requests * cost.bytes as f64, held_us: requests * f64::from(cost.held_us) }
    }

    /// A number from 0 to below this: xorshift64, whose seed is never 0.
    pub(crate) fn below(&self, bound: i64) -> i64 {
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
pub(crate) fn hit(link: &Link, expect: &Expect, request: Option<&[u8]>, cost: Cost) {
    let weight = link.countdown.take(cost);
    note(link, expect, request, (weight, None));
}

/// Notes a request whose reply does not come in time.
#[cold]
pub(crate) fn overdue(link: &Link, expect: &Expect, request: Option<&[u8]>, now_us: u32) {
    let under_way = Duration::from_micros(now_us.wrapping_sub(expect.sent_us).into());
    // Workers compare by this, whenever each of them looks.
    let since = Instant::now().checked_sub(under_way);
    note(link, expect, request, (Weight::default(), since));
}

fn note(link: &Link, expect: &Expect, request: Option<&[u8]>, (weight, overdue): (Weight, Option<Instant>)) {
    let session = &expect.session;
    let pool = &session.pool;
    let bound = pool.bound_now();
    if !bound.topology.policy.hot_keys {
        return;
    }
    let pick = link.countdown.below(i64::from(u32::MAX)) as usize;
    let key = request.and_then(|request| dispatch::sampled_key(&bound, &pool.worker, request, pick));
    let peer = session.state.borrow().client.peer();
    let sample = Sample { node: link.node.id, client: session.id, peer, key, weight, overdue };
    pool.handle.samples.note(pool.worker.index, sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs so many requests of these bytes and times through a countdown; what the samples of each kind
    /// stand for.
    fn sampled(kinds: &[(usize, u32, usize)], rounds: usize) -> Vec<Weight> {
        let countdown = Countdown::new(7);
        let mut sums = vec![Weight::default(); kinds.len()];
        for _ in 0..rounds {
            for (i, (bytes, held_us, times)) in kinds.iter().enumerate() {
                let cost = Cost { bytes: *bytes, held_us: *held_us };
                for _ in 0..*times {
                    if countdown.hits(0, cost.extra()) {
                        let weight = countdown.take(cost);
                        sums[i].requests += weight.requests;
                        sums[i].bytes += weight.bytes;
                        sums[i].held_us += weight.held_us;
                    }
                }
            }
        }
        sums
    }

    /// What samples stand for is what there was: a key with one large reply among many small ones has its
    /// part of the bytes and of the time, and not of the requests.
    #[test]
    fn samples_stand_for_what_there_was() {
        let kinds = [(100, 50, 99), (2_000_000, 30_000, 1), (50, 0, 20)];
        let rounds = 2000;
        for ((bytes, held_us, times), sum) in kinds.iter().zip(sampled(&kinds, rounds)) {
            let all = (rounds * times) as f64;
            for (sampled, real) in [
                (sum.requests, all),
                (sum.bytes, all * *bytes as f64),
                (sum.held_us, all * f64::from(*held_us)),
            ] {
                assert!((sampled - real).abs() <= 0.2 * real, "{sum:?} of {all} of {bytes}");
            }
        }
    }

    /// Requests that come in a rhythm are not preferred: pauses differ.
    #[test]
    fn a_rhythm_is_not_preferred() {
        let sums = sampled(&[(1, 0, 1), (1, 0, 255)], 20_000);
        let share = sums[0].requests / (sums[0].requests + sums[1].requests);
        assert!((0.002..0.007).contains(&share), "{share}");
    }
}

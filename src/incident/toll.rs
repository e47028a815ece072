//! WHAT AN INCIDENT COST its pool: how many requests clients were refused and until when, and what became of
//! the hit rate. Pure: counters and times in, figures out. They are the whole pool's, as its clients know no
//! nodes; incidents of one pool that overlap share them.

use std::{collections::VecDeque, sync::Arc};

use serde::Serialize;

use crate::{
    metrics::{Class, Outcome, PoolBlock},
    topology::{Entry, Topology},
};

/// How often counters are read, in milliseconds.
const TALLY_PAUSE_MS: u64 = 1_000;
/// The time before the first doubt, and the time after the end, whose hit rates are told, in milliseconds.
const WINDOW_MS: u64 = 10_000;
/// Requests may have been refused so long before the doubt was told, in milliseconds.
const TOLD_WITHIN_MS: u64 = 500;
/// Fewer reads show no hit rate.
const READS_MIN: u64 = 20;

/// What an incident cost, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Toll {
    /// Requests of the pool's clients that were refused from the first doubt to the end, for want of a node,
    /// of its answer or of room; a part of one that is split counts by itself.
    pub requests_refused: u64,
    /// From the fault, [`super::Incident::fault_ms`], to the last of them, in milliseconds.
    pub last_refused_ms: Option<u64>,
    /// What became of the pool's hit rate.
    pub hit_rate: HitRate,
}

/// Of the reads of a pool those that found something, 0.0..=1.0; none where there were too few reads, or
/// where the protocol does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct HitRate {
    /// In the ten seconds before the first doubt.
    pub before: Option<f64>,
    /// In the worst second, from the first doubt until ten seconds after the end.
    pub lowest: Option<f64>,
    /// In the ten seconds after the end; none before they are over.
    pub after: Option<f64>,
}

/// A pool's counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Tally {
    at_ms: u64,
    refused: u64,
    /// When the last was refused, by the clock.
    refused_ms: u64,
    reads: u64,
    misses: u64,
}

impl Tally {
    fn hit_rate_since(&self, before: &Tally) -> Option<f64> {
        let reads = self.reads.saturating_sub(before.reads);
        // Workers count meanwhile: a miss may be seen before its read is.
        let misses = self.misses.saturating_sub(before.misses).min(reads);
        let rate = (reads - misses) as f64 / reads.max(1) as f64;
        (reads >= READS_MIN).then(|| (rate * 1e4).round() / 1e4)
    }
}

/// The counters of a pool, and what they were in the last seconds.
#[derive(Debug)]
pub(super) struct Account {
    blocks: Arc<[PoolBlock]>,
    nodes: Arc<[Entry]>,
    tells_misses: bool,
    tallies: VecDeque<Tally>,
}

impl Account {
    pub(super) fn new(topology: &Topology, blocks: Arc<[PoolBlock]>) -> Account {
        let mut account = Account {
            blocks,
            nodes: topology.nodes.clone(),
            tells_misses: topology.policy.tells_misses(),
            tallies: VecDeque::new(),
        };
        // What comes before the first look is not lost to an incident of the first second.
        account.tallies.push_back(account.read(0));
        account
    }

    /// Its nodes are these from now on.
    pub(super) fn follow(&mut self, topology: &Topology) {
        self.nodes = topology.nodes.clone();
    }

    /// The counters now.
    pub(super) fn read(&self, at_ms: u64) -> Tally {
        let refused = self.blocks.iter().map(PoolBlock::refused).sum();
        let refused_ms = self.blocks.iter().map(PoolBlock::refused_ms).max().unwrap_or_default();
        let (mut reads, mut misses) = (0, 0);
        if self.tells_misses {
            // What asked no node is counted by the pool alone.
            misses = self.blocks.iter().map(|block| block.misses.value()).sum();
            reads = misses;
            for block in self.nodes.iter().flat_map(|entry| entry.node.blocks.iter()) {
                misses += block.misses.value();
                reads += block.requests[Class::Read as usize][Outcome::Ok as usize].value();
            }
        }
        Tally { at_ms, refused, refused_ms, reads, misses }
    }

    /// Reads the counters, if it is time to.
    pub(super) fn tally(&mut self, at_ms: u64) -> Option<Tally> {
        // The clock was set back: what it said before says nothing of what comes.
        if self.tallies.back().is_some_and(|last| at_ms < last.at_ms) {
            self.tallies.clear();
        }
        if self.tallies.back().is_some_and(|last| at_ms < last.at_ms + TALLY_PAUSE_MS) {
            return None;
        }
        let tally = self.read(at_ms);
        self.tallies.push_back(tally);
        while self.tallies.front().is_some_and(|first| first.at_ms + WINDOW_MS < at_ms) {
            self.tallies.pop_front();
        }
        Some(tally)
    }

    /// Something is doubted from now on.
    pub(super) fn cost(&self, at_ms: u64) -> Cost {
        let last = self.tallies.back().copied().unwrap_or_else(|| self.read(at_ms));
        let before = self.tallies.front().and_then(|first| last.hit_rate_since(first));
        let hit_rate = HitRate { before, ..HitRate::default() };
        let toll = Toll { hit_rate, ..Toll::default() };
        let is_before = |tally: &&Tally| tally.at_ms + TOLD_WITHIN_MS <= at_ms;
        let begin = self.tallies.iter().rfind(is_before).copied().unwrap_or(last);
        Cost { fault_ms: at_ms, begin, slice: last, end: None, is_counted: false, is_settled: false, toll }
    }
}

/// What an incident has cost until now.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    /// When the fault began, as far as is known.
    pub(super) fault_ms: u64,
    /// The counters before the first doubt.
    begin: Tally,
    /// Where the second begins whose hit rate is looked at.
    slice: Tally,
    /// The counters when it ended.
    end: Option<Tally>,
    /// All refusals are counted.
    is_counted: bool,
    /// Nothing is to be added any more.
    pub(super) is_settled: bool,
    pub(super) toll: Toll,
}

impl Cost {
    /// Takes in what the counters are now.
    pub(super) fn add(&mut self, now: Tally) {
        if let Some(rate) = now.hit_rate_since(&self.slice) {
            let lowest = self.toll.hit_rate.lowest.map_or(rate, |lowest| lowest.min(rate));
            self.toll.hit_rate.lowest = Some(lowest);
            self.slice = now;
        }
        if !self.is_counted {
            self.toll.requests_refused = now.refused.saturating_sub(self.begin.refused);
            let last = now.refused_ms.saturating_sub(self.fault_ms);
            self.toll.last_refused_ms = (self.toll.requests_refused > 0).then_some(last);
            // Workers see the last epoch a moment after it is told: the next tally counts, too.
            self.is_counted = self.end.is_some();
        }
        if let Some(end) = &mut self.end {
            // The clock was set back since: its ten seconds begin anew.
            end.at_ms = end.at_ms.min(now.at_ms);
        }
        if let Some(end) = self.end.filter(|end| now.at_ms >= end.at_ms + WINDOW_MS) {
            self.toll.hit_rate.after = now.hit_rate_since(&end);
            self.is_settled = true;
        }
    }

    /// The incident is over.
    pub(super) fn end(&mut self, now: Tally) {
        self.add(now);
        self.end = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(at_ms: u64, reads: u64, misses: u64) -> Tally {
        Tally { at_ms, reads, misses, ..Tally::default() }
    }

    /// A cost that began in the tenth second, after `reads` of which `misses` found nothing.
    fn cost(reads: u64, misses: u64) -> Cost {
        let account = Account {
            blocks: Arc::new([]),
            nodes: Arc::new([]),
            tells_misses: true,
            tallies: [tally(0, 0, 0), tally(9_500, reads, misses)].into(),
        };
        account.cost(10_000)
    }

    /// The hit rate is told of the time before, of the worst second, which may come after the end, and of the
    /// time after.
    #[test]
    fn the_hit_rate_before_during_and_after() {
        let mut cost = cost(1000, 50);
        assert_eq!(cost.toll.hit_rate.before, Some(0.95));
        cost.add(tally(10_500, 1100, 90));
        cost.add(tally(11_500, 1200, 110));
        assert_eq!(cost.toll.hit_rate.lowest, Some(0.6));
        cost.end(tally(12_000, 1210, 110));
        cost.add(tally(12_500, 1300, 180));
        assert_eq!(cost.toll.hit_rate.lowest, Some(0.3), "seventy of a hundred since the last second");
        assert_eq!((cost.toll.hit_rate.after, cost.is_settled), (None, false));
        cost.add(tally(22_000, 2210, 210));
        assert_eq!((cost.toll.hit_rate.after, cost.is_settled), (Some(0.9), true));
    }

    /// A few reads show no rate; seconds in which there were few are looked at together.
    #[test]
    fn few_reads_show_nothing() {
        let mut cost = cost(READS_MIN - 1, 0);
        assert_eq!(cost.toll.hit_rate.before, None);
        cost.add(tally(11_000, READS_MIN + 9, 10));
        assert_eq!(cost.toll.hit_rate.lowest, None);
        cost.add(tally(12_000, 2 * READS_MIN - 1, 15));
        assert_eq!(cost.toll.hit_rate.lowest, Some(0.25));
        cost.end(tally(12_500, 2 * READS_MIN, 15));
        cost.add(tally(22_500, 2 * READS_MIN, 15));
        assert_eq!(cost.toll.hit_rate.after, None);
    }

    /// Refusals count from the tally before the first doubt to the first one after the end, and the last of
    /// them is told from the fault on, be it that it came a moment earlier.
    #[test]
    fn refusals_and_the_last_of_them() {
        let refused = |at_ms, refused, refused_ms| Tally { at_ms, refused, refused_ms, ..Tally::default() };
        let mut cost = cost(0, 0);
        cost.begin.refused = 5;
        cost.add(refused(10_200, 5, 3_000));
        assert_eq!((cost.toll.requests_refused, cost.toll.last_refused_ms), (0, None));
        cost.add(refused(10_400, 7, 9_999));
        assert_eq!((cost.toll.requests_refused, cost.toll.last_refused_ms), (2, Some(0)));
        cost.end(refused(11_000, 12, 10_412));
        assert_eq!((cost.toll.requests_refused, cost.toll.last_refused_ms), (7, Some(412)));
        cost.add(refused(11_500, 13, 11_003));
        assert_eq!((cost.toll.requests_refused, cost.toll.last_refused_ms), (8, Some(1003)));
        cost.add(refused(30_000, 99, 29_000));
        assert_eq!(cost.toll.requests_refused, 8, "what comes later is not its");
        let mut cost = self::cost(0, 0);
        cost.fault_ms = 9_600;
        cost.add(refused(10_400, 7, 9_999));
        assert_eq!(cost.toll.last_refused_ms, Some(399), "it hung before it was doubted");
    }

    /// A clock that is set back by an hour keeps no incident from being counted and settled.
    #[test]
    fn the_clock_is_set_back() {
        let hour = 3_600_000;
        let mut account = Account {
            blocks: Arc::new([PoolBlock::default()]),
            nodes: Arc::new([]),
            tells_misses: true,
            tallies: VecDeque::new(),
        };
        assert!(account.tally(hour + 1_000).is_some());
        let mut cost = account.cost(hour + 1_500);
        assert!(account.tally(2_000).is_some() && account.tallies.len() == 1, "it is counted on");
        cost.end(Tally { at_ms: hour + 3_000, ..Tally::default() });
        cost.add(tally(4_000, 0, 0));
        assert!(!cost.is_settled);
        cost.add(tally(14_000, 0, 0));
        assert!(cost.is_settled, "ten seconds later");
    }

    /// What was refused a moment before the doubt was told belongs to it, though a tally came in between.
    #[test]
    fn a_tally_between_refusal_and_doubt() {
        let tally = |at_ms, refused| Tally { at_ms, refused, ..Tally::default() };
        let account = Account {
            blocks: Arc::new([]),
            nodes: Arc::new([]),
            tells_misses: true,
            tallies: [tally(8_990, 3), tally(9_990, 5)].into(),
        };
        let mut cost = account.cost(10_000);
        cost.end(tally(11_000, 9));
        assert_eq!(cost.toll.requests_refused, 6);
    }

    /// Of the past ten seconds are kept, one tally for each.
    #[test]
    fn the_past_is_bounded() {
        let mut account = Account {
            blocks: Arc::new([PoolBlock::default()]),
            nodes: Arc::new([]),
            tells_misses: true,
            tallies: VecDeque::new(),
        };
        let taken = (0..300).filter(|i| account.tally(i * 200).is_some()).count();
        assert_eq!((taken, account.tallies.len()), (60, 11));
        account.blocks[0].misses.add(30);
        account.blocks[0].refuse(crate::metrics::Reason::NoOwner);
        account.blocks[0].refuse(crate::metrics::Reason::Command);
        let now = account.read(60_000);
        assert_eq!((now.reads, now.misses, now.refused), (30, 30, 1));
        assert!(now.refused_ms > 1_700_000_000_000);
    }
}

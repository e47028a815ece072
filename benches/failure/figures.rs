//! What came of a fault: counted from the requests of the load.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use crate::{
    fault::Moments,
    harness::load::{End, Op, Report},
    nodes::VICTIM,
};

/// How many kinds of errors are told.
const COMPLAINTS: usize = 4;

/// The figures of one fault behind one proxy.
pub(crate) struct Figures {
    pub(crate) requests: usize,
    pub(crate) failed_reads: usize,
    pub(crate) failed_writes: usize,
    /// Reads of what was never written to the key.
    pub(crate) wrong: usize,
    /// Reads of what is older than the last write that was acknowledged, or was shown.
    pub(crate) stale: usize,
    /// Requests that were refused because a node did not answer in time, as ringway says it.
    pub(crate) timed_out: usize,
    /// From the fault to the last error.
    pub(crate) last_error: Option<Duration>,
    /// Keys that were not the failed node's, of which data was missed or old from the fault on, and all
    /// that were not.
    pub(crate) moved: (usize, usize),
    /// GETs that gave a value, of all: before the fault, until its end, and afterwards.
    pub(crate) hits: [f64; 3],
    /// The same second by second from the fault on.
    pub(crate) hits_by_second: Vec<f64>,
    /// Failed requests that were sent after the end of the fault.
    pub(crate) failed_after: usize,
    pub(crate) longest: Duration,
    /// What 99 % of the requests for the other nodes' keys took at most during the fault.
    pub(crate) others_p99: Duration,
    /// What was said of errors, for people.
    pub(crate) complaints: String,
}

impl Figures {
    pub(crate) fn of(report: &Report, at: Moments, homes: &HashMap<String, usize>) -> Figures {
        let ops = &report.ops;
        let failed = |op: &&Op| matches!(op.end, End::Failed(_));
        let is_other = |op: &Op| homes.get(&*op.key) != Some(&VICTIM);
        let count = |wanted: &dyn Fn(&Op) -> bool| ops.iter().filter(|op| wanted(op)).count();
        let moved: HashSet<&str> = ops
            .iter()
            .filter(|op| op.sent >= at.fault && is_other(op))
            .filter(|op| matches!(op.end, End::Missed | End::Stale))
            .map(|op| &*op.key)
            .collect();
        let end = ops.iter().map(ended).max().unwrap_or(at.back);
        let begin = ops.iter().map(|op| op.sent).min().unwrap_or(at.fault);
        let seconds = (end - at.fault).as_secs();
        let second = |n: u64| at.fault + Duration::from_secs(n);
        Figures {
            requests: ops.len(),
            failed_reads: report.failed(false).len(),
            failed_writes: report.failed(true).len(),
            wrong: count(&|op| matches!(op.end, End::Wrong(_))),
            stale: count(&|op| op.end == End::Stale),
            timed_out: count(&|op| matches!(&op.end, End::Failed(text) if text.contains("no reply within"))),
            last_error: ops
                .iter()
                .filter(failed)
                .map(|op| ended(op).saturating_duration_since(at.fault))
                .max(),
            moved: (moved.len(), homes.values().filter(|&&home| home != VICTIM).count()),
            hits: [(begin, at.fault), (at.fault, at.back), (at.back, end)].map(|span| hit_rate(ops, span)),
            hits_by_second: (0..seconds).map(|n| hit_rate(ops, (second(n), second(n + 1)))).collect(),
            failed_after: ops.iter().filter(failed).filter(|op| op.sent >= at.back).count(),
            longest: report.slowest(|_| true),
            others_p99: p99(ops.iter().filter(|op| is_other(op) && (at.fault..at.back).contains(&op.sent))),
            complaints: complaints(ops, at.fault),
        }
    }
}

fn ended(op: &Op) -> Instant {
    op.sent + op.took
}

/// Of the GETs that were sent in a span, the share that gave a value, an old one too.
fn hit_rate(ops: &[Op], (from, to): (Instant, Instant)) -> f64 {
    let reads = || ops.iter().filter(|op| !op.write && (from..to).contains(&op.sent));
    let hits = reads().filter(|op| matches!(op.end, End::Good | End::Stale)).count();
    hits as f64 / reads().count() as f64
}

fn p99<'a>(ops: impl Iterator<Item = &'a Op>) -> Duration {
    let mut all: Vec<Duration> = ops.map(|op| op.took).collect();
    all.sort_unstable();
    all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// The most frequent errors with their counts, and when errors and old values came.
fn complaints(ops: &[Op], fault: Instant) -> String {
    let mut counts: HashMap<(bool, &str), usize> = HashMap::new();
    for op in ops {
        match &op.end {
            End::Failed(text) | End::Wrong(text) => {
                *counts.entry((op.write, text.trim_end())).or_default() += 1
            }
            _ => {}
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let verb = |write: bool| if write { "SET" } else { "GET" };
    let lines =
        counts.iter().take(COMPLAINTS).map(|((write, text), n)| format!("\n  {n} {}: {text}", verb(*write)));
    let failed = by_second(ops, fault, |op| matches!(op.end, End::Failed(_)));
    let stale = by_second(ops, fault, |op| op.end == End::Stale);
    let lines: String = lines.collect();
    format!(
        "{} kinds of errors{lines}\n  failed, by second: {failed}\n  stale, by second: {stale}",
        counts.len()
    )
}

/// How many requests there were of a kind in each second from the fault on that had any.
fn by_second(ops: &[Op], fault: Instant, wanted: impl Fn(&Op) -> bool) -> String {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for op in ops.iter().filter(|op| wanted(op)) {
        *counts.entry(ended(op).saturating_duration_since(fault).as_secs() + 1).or_default() += 1;
    }
    counts.iter().map(|(second, count)| format!("{second}: {count}")).collect::<Vec<_>>().join(", ")
}

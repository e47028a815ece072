//! The blocks that the hot path adds to. Each block has one writer, a data worker or the thread that
//! accepts, so an add is a plain load and store; readers may see a sum that is a few requests old.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::clock;

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds. Only the block's one writer may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A gauge with one writer.
#[derive(Debug, Default)]
pub struct Level(AtomicI64);

impl Level {
    /// Adds, or takes away. Only the block's one writer may.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// What kind of command a request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Only reads.
    Read,
    /// May write.
    Write,
    /// A script, or another command that may take long.
    Slow,
    /// Asked of every node.
    All,
    /// Answered by ringway itself, or refused before a node was chosen.
    Local,
}

impl Class {
    /// All, in the order of their discriminants.
    pub const ALL: [Class; 5] = [Class::Read, Class::Write, Class::Slow, Class::All, Class::Local];

    /// The label.
    pub fn word(self) -> &'static str {
        match self {
            Class::Read => "read",
            Class::Write => "write",
            Class::Slow => "slow",
            Class::All => "all_nodes",
            Class::Local => "local",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// A reply that is no error.
    Ok,
    /// An error reply from a node.
    Error,
    /// ringway refused it.
    Refused,
    /// No reply in time.
    Timeout,
    /// The connection to the node was lost.
    Lost,
}

impl Outcome {
    /// All, in the order of their discriminants.
    pub const ALL: [Outcome; 5] =
        [Outcome::Ok, Outcome::Error, Outcome::Refused, Outcome::Timeout, Outcome::Lost];

    /// The label.
    pub fn word(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Refused => "refused",
            Outcome::Timeout => "timeout",
            Outcome::Lost => "lost",
        }
    }
}

/// Why ringway refused a request or closed a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The command table does not know the command, or its arguments can't be right.
    Command,
    /// Switched off by `deny_commands`, or not offered by a proxy.
    Denied,
    /// Its keys live on several nodes.
    CrossNode,
    /// The owner is away and `on_ejected` is `fail`, or no node owns anything.
    NoOwner,
    /// The node's connection broke and the request may have been applied.
    MaybeApplied,
    /// No reply in time.
    Timeout,
    /// A bound of the node's pipeline, of parked requests or of memory was full.
    Overload,
    /// The client has not authenticated.
    Auth,
    /// The client's bytes are not the protocol, or break a limit; in HTTP pools so does a reply.
    Protocol,
    /// `limits.clients` was reached.
    Clients,
    /// The client does not read its replies.
    SlowClient,
}

impl Reason {
    /// All, in the order of their discriminants.
    pub const ALL: [Reason; 11] = [
        Reason::Command,
        Reason::Denied,
        Reason::CrossNode,
        Reason::NoOwner,
        Reason::MaybeApplied,
        Reason::Timeout,
        Reason::Overload,
        Reason::Auth,
        Reason::Protocol,
        Reason::Clients,
        Reason::SlowClient,
    ];

    /// The label.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Denied => "denied",
            Reason::CrossNode => "cross_node",
            Reason::NoOwner => "no_owner",
            Reason::MaybeApplied => "maybe_applied",
            Reason::Timeout => "timeout",
            Reason::Overload => "overload",
            Reason::Auth => "auth",
            Reason::Protocol => "protocol",
            Reason::Clients => "clients",
            Reason::SlowClient => "slow_client",
        }
    }

    /// Whether a client may be refused for it that did nothing wrong: for want of a node, of its answer, or
    /// of room.
    pub fn is_no_clients_fault(self) -> bool {
        matches!(self, Reason::NoOwner | Reason::MaybeApplied | Reason::Timeout | Reason::Overload)
    }
}

/// Sub-buckets per power of two.
const LINEAR_BITS: u32 = 2;
/// Powers of two that are told apart: up to 2^26 us, a bit more than a minute.
const POWERS: u32 = 26;
/// Buckets of a histogram.
const BUCKETS: usize = ((POWERS - LINEAR_BITS + 1) << LINEAR_BITS) as usize;

/// A log-linear histogram of microseconds with one writer: four buckets for each power of two.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Count; BUCKETS],
    sum: Count,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: std::array::from_fn(|_| Count::default()), sum: Count::default() }
    }
}

impl Histogram {
    /// How many buckets there are.
    pub const BUCKETS: usize = BUCKETS;

    /// Records one duration. Only the block's one writer may.
    #[inline]
    pub fn record(&self, us: u32) {
        self.record_many(us, 1);
    }

    /// Records so many equal ones. Only the block's one writer may.
    #[inline]
    pub fn record_many(&self, us: u32, count: u64) {
        self.buckets[Histogram::bucket(us)].add(count);
        self.sum.add(u64::from(us) * count);
    }

    fn bucket(us: u32) -> usize {
        let linear = 1 << LINEAR_BITS;
        if us < linear {
            return us as usize;
        }
        let power = us.ilog2();
        let within = (us >> (power - LINEAR_BITS)) - linear;
        ((((power - LINEAR_BITS + 1) << LINEAR_BITS) + within) as usize).min(BUCKETS - 1)
    }

    /// The sum of all durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum.value()
    }

    /// A bucket's exclusive upper bound in microseconds; that of the last one is `u64::MAX`.
    pub fn bound(bucket: usize) -> u64 {
        let linear = 1u64 << LINEAR_BITS;
        let (row, within) = (bucket as u64 >> LINEAR_BITS, bucket as u64 & (linear - 1));
        match row {
            _ if bucket >= BUCKETS - 1 => u64::MAX,
            0 => within + 1,
            _ => (linear + within + 1) << (row - 1),
        }
    }

    /// Each bucket's bound, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(i, count)| (Histogram::bound(i), count.value()))
    }
}

/// What one worker counts for one node.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct NodeBlock {
    /// Replies to requests sent to this node, by class and outcome; a request that is split or
    /// repeated counts at each node that it went to.
    pub requests: [[Count; Outcome::ALL.len()]; Class::ALL.len()],
    /// From append to the pipeline until the reply, reads and writes.
    pub latency: Histogram,
    /// Bytes written to the node.
    pub bytes_out: Count,
    /// Bytes read from the node.
    pub bytes_in: Count,
    /// Requests that the node owes a reply.
    pub in_flight: Level,
    /// Connections that are open.
    pub connections: Level,
    /// Connections made.
    pub connects: Count,
    /// Requests sent a second time.
    pub retries: Count,
    /// Requests for its keys that another node got in its place.
    pub substituted: Count,
    /// Requests for its keys that no node got, as they stay with it while it is out.
    pub unserved: Count,
    /// Reads that found nothing there; one of several keys when none of them was there.
    pub misses: Count,
    /// Writes whose time to live could not be bounded.
    pub unbounded: Count,
}

/// What one worker, or the thread that accepts, counts for one pool.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PoolBlock {
    /// Requests of clients, by class and outcome: each exactly once.
    pub requests: [[Count; Outcome::ALL.len()]; Class::ALL.len()],
    /// Refusals by reason, sessions closed included.
    pub refusals: [Count; Reason::ALL.len()],
    /// When the last was that no client is at fault for, in milliseconds since 1970.
    refused_ms: AtomicU64,
    /// Sessions that are open.
    pub sessions: Level,
    /// Sessions accepted.
    pub accepted: Count,
    /// Bytes read from clients.
    pub bytes_in: Count,
    /// Bytes written to clients.
    pub bytes_out: Count,
    /// Requests that wait for the topology to point somewhere.
    pub parked: Level,
    /// Reads that were answered with nothing and asked no node, as theirs was away.
    pub misses: Count,
}

impl PoolBlock {
    /// Counts a refusal. Only the block's one writer may.
    #[cold]
    pub fn refuse(&self, reason: Reason) {
        self.refusals[reason as usize].add(1);
        if reason.is_no_clients_fault() {
            self.refused_ms.store(clock::unix_ms(), Relaxed);
        }
    }

    /// Refusals that no client is at fault for.
    pub fn refused(&self) -> u64 {
        let reasons = Reason::ALL.into_iter().filter(|reason| reason.is_no_clients_fault());
        reasons.map(|reason| self.refusals[reason as usize].value()).sum()
    }

    /// When the last of them was, in milliseconds since 1970; 0 when there was none.
    pub fn refused_ms(&self) -> u64 {
        self.refused_ms.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every duration lands in the first bucket whose bound is above it, and bounds rise.
    #[test]
    fn a_duration_lands_below_its_bound() {
        let bounds: Vec<u64> = Histogram::default().buckets().map(|b| b.0).collect();
        assert!(bounds.is_sorted());
        for us in (0..2000).chain([4095, 4096, 65_535, 1_000_000, 50_000_000, u32::MAX]) {
            let histogram = Histogram::default();
            histogram.record(us);
            let hit = histogram.buckets().position(|b| b.1 == 1);
            assert_eq!(hit, bounds.iter().position(|b| u64::from(us) < *b), "{us}");
            assert_eq!(histogram.sum_us(), u64::from(us));
        }
    }
}

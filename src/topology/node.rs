//! A node's identity, and the evidence about it: the only interior mutability that is reachable
//! from a snapshot.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{Notify, futures::Notified};

use super::ErrorReply;
use crate::{clock, metrics::NodeBlock, net::Address};

/// Identity of a node for the life of the process: a node keeps it while its name, address, weight
/// and zone stay the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A member of a ring.
#[derive(Debug)]
pub struct Node {
    /// Identity within this process.
    pub id: NodeId,
    /// Identity in the ring and in everything that an operator sees.
    pub name: Arc<str>,
    /// As configured.
    pub address: Address,
    /// Units of share.
    pub weight: u32,
    /// Failure domain, if given.
    pub zone: Option<Arc<str>>,
    /// What traffic saw of it.
    pub evidence: Evidence,
    /// Traffic counters, one block per data worker. They belong to the name, so they are handed
    /// on when the address changes.
    pub blocks: Arc<[NodeBlock]>,
    /// What bounded load looks at. Handed on as the counters are.
    pub load: Arc<Load>,
}

/// Requests that a node has in flight, over all workers: one count that they share, for pools with a
/// `bounded_load`. There each request asks it of every node; the sum of what each worker counts for itself
/// would be as many cache lines, for each of the nodes, as there are workers.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load(AtomicU32);

impl Load {
    /// A request goes to the node; each ends with [`Load::ended`].
    #[inline]
    pub fn began(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// One that began has ended.
    #[inline]
    pub fn ended(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// How many have begun and not ended.
    #[inline]
    pub fn value(&self) -> u32 {
        self.0.load(Relaxed)
    }
}

/// What a node came back with, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// The same process: it has what it had, what was written elsewhere meanwhile aside.
    Same,
    /// Another process, without a key.
    Empty,
    /// Another process, with keys: from its disk, or it is another server.
    Other,
    /// None: it was emptied, as `on_return` says.
    Flushed,
    /// It does not say.
    Unknown,
}

impl Data {
    /// The word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Data::Same => "same",
            Data::Empty => "empty",
            Data::Other => "other",
            Data::Flushed => "flushed",
            Data::Unknown => "unknown",
        }
    }

    /// Whether its keys are to be fetched anew, as far as is known.
    pub fn is_cold(self) -> bool {
        matches!(self, Data::Empty | Data::Flushed | Data::Unknown)
    }
}

/// How much slower a node is than the rest of its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Of 100 requests to it, 99 take less.
    pub p99: Duration,
    /// The median of that over the nodes of the pool.
    pub median: Duration,
    /// Above this it was called slow.
    pub bound: Duration,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let Slow { p99, median, bound } = *self;
        write!(f, "its p99 is {:.1} ms, the pool's median {:.1} ms", ms(p99), ms(median))?;
        write!(f, ", and it is called slow above {:.1} ms", ms(bound))
    }
}

/// A kind of failure that traffic can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Failure {
    /// The connection was refused: nobody listens there.
    Refused,
    /// No connection within `connect_timeout`, or no route.
    ConnectTimeout,
    /// A connection with requests in flight was lost: the node closed it, or nothing came through any more.
    /// Counted once for a connection, however many requests were in flight.
    Lost,
    /// The same, and it was reset: the node's process ended, or something on the way cut it off.
    Reset,
    /// A request was owed a reply and nothing came for `request_timeout`. Counted per request.
    Timeout,
    /// Bytes that are not the protocol.
    Protocol,
    /// The node refused our credentials or database.
    Handshake,
    /// A reply with one of the pool's `failure_statuses`. Counted per request.
    Status,
}

impl Failure {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [Failure; 8] = [
        Failure::Refused,
        Failure::ConnectTimeout,
        Failure::Lost,
        Failure::Reset,
        Failure::Timeout,
        Failure::Protocol,
        Failure::Handshake,
        Failure::Status,
    ];

    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Failure::Refused => "refused",
            Failure::ConnectTimeout => "connect_timeout",
            Failure::Lost => "lost",
            Failure::Reset => "reset",
            Failure::Timeout => "timeout",
            Failure::Protocol => "protocol",
            Failure::Handshake => "handshake",
            Failure::Status => "status",
        }
    }
}

/// What traffic saw of a node since it has been in the pool. Failures are rare, so they are
/// shared counters; a success writes only when it ends a streak.
#[derive(Debug, Default)]
pub struct Evidence {
    streak: AtomicU32,
    /// The kind of the last failure.
    last: AtomicU32,
    failures: [AtomicU64; Failure::ALL.len()],
    doubts: [AtomicU64; Failure::ALL.len()],
    replies: [AtomicU64; ErrorReply::ALL.len()],
    /// When the last of them came, in seconds since the Unix epoch.
    said_at: [AtomicU64; ErrorReply::ALL.len()],
    probes: AtomicU64,
    /// The last probe failed.
    fails_probes: AtomicBool,
    /// Rings at the end of each probe.
    answered: Notify,
    bell: Arc<Notify>,
}

impl Evidence {
    /// Evidence that rings this bell at each failure.
    pub fn new(bell: Arc<Notify>) -> Evidence {
        Evidence { bell, ..Evidence::default() }
    }

    /// A good reply came.
    #[inline]
    pub fn good(&self) {
        if self.streak.load(Relaxed) != 0 {
            // Two workers may race here and lose a failure of the other: harmless, a node that
            // really fails fails again.
            self.streak.store(0, Relaxed);
        }
    }

    /// `count` failures of one kind; rings the bell of control.
    pub fn failed(&self, kind: Failure, count: u32) {
        self.last.store(kind as u32, Relaxed);
        self.streak.fetch_add(count, Relaxed);
        self.failures[kind as usize].fetch_add(u64::from(count), Relaxed);
        self.bell.notify_one();
    }

    /// Something failed that may be the fault of what was asked, and not the node's: it counts towards
    /// nothing, and rings the bell, so that the node is probed.
    pub fn doubted(&self, kind: Failure) {
        self.doubts[kind as usize].fetch_add(1, Relaxed);
        self.bell.notify_one();
    }

    /// The node said this of itself in a reply. Rings the bell with `ring` alone: a node may say it with
    /// each reply, and control needs to hear it once.
    pub fn said(&self, kind: ErrorReply, ring: bool) {
        self.said_at[kind as usize].store(clock::unix().as_secs(), Relaxed);
        self.replies[kind as usize].fetch_add(1, Relaxed);
        if ring {
            self.bell.notify_one();
        }
    }

    /// A probe has ended that counts: well or not, or it could not be made.
    pub fn probed(&self, is_well: Option<bool>) {
        if let Some(is_well) = is_well {
            self.fails_probes.store(!is_well, Relaxed);
        }
        self.probes.fetch_add(1, Relaxed);
        self.answered.notify_waiters();
    }

    /// Whether the last probe failed.
    pub fn fails_probes(&self) -> bool {
        self.fails_probes.load(Relaxed)
    }

    /// Returns at the end of the next probe, from the moment on at which it is called.
    pub fn answered(&self) -> Notified<'_> {
        self.answered.notified()
    }

    /// Probes that counted, since it has been in the pool.
    pub fn probes(&self) -> u64 {
        self.probes.load(Relaxed)
    }

    /// Failures in a row, over all workers, since the last good reply.
    pub fn streak(&self) -> u32 {
        self.streak.load(Relaxed)
    }

    /// The kind of the last failure, if failures go on: no good reply has come since.
    pub fn last(&self) -> Option<Failure> {
        let kind = Failure::ALL.get(self.last.load(Relaxed) as usize).copied();
        kind.filter(|_| self.streak() > 0)
    }

    /// Failures of one kind since the node has been in the pool, those among them that are only a reason to
    /// doubt it.
    pub fn count(&self, kind: Failure) -> u64 {
        self.failures(kind) + self.doubts(kind)
    }

    /// Failures of one kind that say something of the node.
    pub fn failures(&self, kind: Failure) -> u64 {
        self.failures[kind as usize].load(Relaxed)
    }

    /// Those of one kind that may be the fault of what was asked.
    pub fn doubts(&self, kind: Failure) -> u64 {
        self.doubts[kind as usize].load(Relaxed)
    }

    /// Replies in which the node said this of itself, since it has been in the pool.
    pub fn replies(&self, kind: ErrorReply) -> u64 {
        self.replies[kind as usize].load(Relaxed)
    }

    /// Seconds since the node said this of itself the last time; none if it never did.
    pub fn since_said(&self, kind: ErrorReply) -> Option<u64> {
        let at = self.said_at[kind as usize].load(Relaxed);
        (at > 0).then(|| clock::unix().as_secs().saturating_sub(at))
    }

    /// Forgets the streak: the node is starting anew.
    pub fn reset_streak(&self) {
        self.streak.store(0, Relaxed);
    }
}

/// How long a suspect node's timed-out requests wait for a verdict before they are refused.
pub const VERDICT_GRACE: Duration = Duration::from_millis(100);

//! THE BORDER. Everything that crosses between the data plane and the control plane is declared
//! here and nowhere else: the snapshot that goes down, the evidence that goes up, the changes
//! that membership is asked for, and the settings of a pool that the hot path obeys.

mod change;
mod http;
mod node;
mod route;
mod samples;
mod spec;
mod written;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

pub use change::{
    Basis, Because, Cause, Change, Failed, Inbox, News, Opinion, Ordered, ReloadMode, Returned, Rule, SeenBy,
    Transition, Wanted,
};
pub use http::{Forwarded, HttpLimits, HttpProbe, HttpSettings, NodeProtocol};
pub use node::{Data, Evidence, Failure, Load, Node, NodeId, Slow, VERDICT_GRACE};
pub use route::{Admission, LEVELS, Route, common_bands, level};
pub use samples::{Sample, SampledKey, Samples, Weight};
pub use spec::{
    CustomCommand, Failover, HealthSettings, Limits, NodeAuth, NodeSpec, OnEjected, OnReturn,
    PROTOCOL_VERSIONS, Policy, PoolSpec, PrefixPolicy, Secret, Warmth, WhileHeld,
};
pub use written::{NotedWrites, WriteNotes, Written, write_notes};

use crate::{net::Target, ring::Ring};
pub use crate::{protocol::ErrorReply, ring::Move};

/// What the detector says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Answers.
    Healthy,
    /// Failed lately, not often enough to be ejected.
    Suspect,
    /// Failed: only probes go there, unless `eject_max` keeps it in the ring.
    Ejected,
    /// Answers probes again, not yet long enough to own keys.
    Probation,
}

impl Health {
    /// All of them.
    pub const ALL: [Health; 4] = [Health::Healthy, Health::Suspect, Health::Ejected, Health::Probation];

    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Suspect => "suspect",
            Health::Ejected => "ejected",
            Health::Probation => "probation",
        }
    }

    /// Whether it failed, and has not proved itself since.
    pub fn is_out(self) -> bool {
        matches!(self, Health::Ejected | Health::Probation)
    }
}

/// Whether a node serves the keys that the ring gives it. Decided by membership alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    /// Serves its share of the ring.
    Owns,
    /// Is back and takes its share in steps.
    Starting(Admission),
    /// Stays in the ring and is walked past.
    Away,
    /// Is ejected and keeps its keys, which nobody serves: for `hold_down`, or because the warmth budget
    /// is spent.
    Held,
}

/// What an operator wants of a node, whatever is thought of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// It gives up its keys, and finishes what is in flight.
    Drain,
    /// It gives up its keys at once.
    Eject,
    /// It is never ejected.
    Pin,
}

impl Order {
    /// The word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Order::Drain => "drain",
            Order::Eject => "eject",
            Order::Pin => "pin",
        }
    }

    /// The command that takes it back.
    pub fn opposite(self) -> &'static str {
        match self {
            Order::Drain => "undrain",
            Order::Eject => "restore",
            Order::Pin => "unpin",
        }
    }

    /// Whether it keeps a node out.
    pub fn is_out(self) -> bool {
        matches!(self, Order::Drain | Order::Eject)
    }
}

/// Why a node waits for its keys, or its keys for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The warmth budget is spent.
    Budget,
    /// The node is expected back: `hold_down`.
    HoldDown,
    /// Others may still have what they took for it when it was away before.
    Leftovers,
    /// What it had before it left may not have expired yet: `on_return: ttl`.
    Ttl,
    /// It is back, and what is old of its keys could not be deleted yet.
    Cleaning,
    /// It is `durable` and came back without a key: an operator's word.
    Word,
    /// It comes and goes: its good probes do not count yet. Shown, and no matter of the topology's.
    Flaps,
}

impl WaitReason {
    /// What is waited for, in words.
    pub fn text(self) -> &'static str {
        match self {
            WaitReason::Budget => "the warmth budget",
            WaitReason::HoldDown => "its return (hold_down)",
            WaitReason::Leftovers => "what others have of its last absence to be deleted, or to expire",
            WaitReason::Ttl => "what it had to expire (on_return: ttl)",
            WaitReason::Cleaning => "its old keys to be deleted",
            WaitReason::Flaps => "it comes and goes: that its probes count again",
            WaitReason::Word => {
                "an operator: it is durable, and what it had is lost (`ringway restore` takes it as it is)"
            }
        }
    }
}

/// A node that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// Who.
    pub node: NodeId,
    /// For what.
    pub reason: WaitReason,
    /// When it may be over; `None` when that is not known.
    pub due: Option<Instant>,
}

/// Other nodes of the pool may have old copies of a node's keys, which are to be deleted there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leftovers {
    /// Whose keys.
    pub node: NodeId,
    /// Another number each time that others may have some anew: what was deleted before says nothing then.
    pub turn: u64,
}

/// One node of a topology: who it is, and what is thought of it in this revision.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who it is; shared from revision to revision, so that counts survive.
    pub node: Arc<Node>,
    /// The detector's opinion.
    pub health: Health,
    /// Membership's decision.
    pub placement: Placement,
    /// What an operator wants of it, if anything.
    pub order: Option<Order>,
    /// Where to dial, in order of preference; empty while its name does not resolve.
    pub targets: Arc<[Target]>,
    /// What is wrong with its configuration (it is a replica, asks for a password ...), if anything.
    pub misconfigured: Option<Arc<str>>,
    /// It is much slower than the others.
    pub slow: Option<Slow>,
}

/// The immutable snapshot of one pool: nodes, their states, the ring and the policy change
/// together or not at all.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The pool's name.
    pub pool: Arc<str>,
    /// Rises by one when some key's owner or action changes, and only then.
    pub epoch: u64,
    /// Rises by one with every publish.
    pub revision: u64,
    /// Placement. Its member `i` is `nodes[i]`.
    pub ring: Arc<Ring>,
    /// The nodes, in ring order.
    pub nodes: Arc<[Entry]>,
    /// The pool's settings that the hot path obeys.
    pub policy: Arc<Policy>,
    /// When its nodes are ejected and restored: here, so that a reload reaches the detectors.
    pub health: Arc<HealthSettings>,
    /// The pool that serves the keys of ejected nodes where they fail over, as it is now. Its nodes follow
    /// this one's in [`Topology::entry`]. `None` while there is no such pool.
    pub gutter: Option<Arc<Topology>>,
    /// When something may go on that waits for the warmth budget, or for the end of `hold_down`; `None`
    /// when nothing waits.
    pub budget_due: Option<Instant>,
    /// Which nodes wait, and for what.
    pub waits: Arc<[Wait]>,
    /// Of whose keys others are to be looked through for old copies.
    pub leftovers: Arc<[Leftovers]>,
    /// Node names in the order of their SCAN ordinals; a name keeps its ordinal while the process
    /// lives, also after it left the pool.
    pub ordinals: Arc<[Arc<str>]>,
}

type Current = Arc<ArcSwap<Topology>>;

/// The one end that may publish. Not `Clone`: made once per pool and moved into membership. The pool ends
/// with it.
pub struct TopologyWriter {
    current: Current,
    revision: watch::Sender<u64>,
}

/// An end that may read, for anyone.
#[derive(Clone)]
pub struct TopologyReader {
    current: Current,
    revision: watch::Receiver<u64>,
}

/// A reader's cached snapshot: a load costs about a nanosecond while nothing changed.
pub type TopologyCache = arc_swap::Cache<Current, Arc<Topology>>;

/// Makes the two ends for one pool.
pub fn channel(first: Topology) -> (TopologyWriter, TopologyReader) {
    let (revision, seen) = watch::channel(first.revision);
    let current = Arc::new(ArcSwap::from_pointee(first));
    (TopologyWriter { current: current.clone(), revision }, TopologyReader { current, revision: seen })
}

impl TopologyWriter {
    /// The snapshot in force.
    pub fn current(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// Puts the next snapshot in force.
    ///
    /// # Panics
    /// When the revision does not rise by one, or the epoch falls or jumps: a bug of the planner.
    pub fn publish(&self, next: Topology) {
        let now = self.current.load();
        assert_eq!(next.revision, now.revision + 1, "a publish is one revision");
        assert!(next.epoch == now.epoch || next.epoch == now.epoch + 1, "a publish is at most one epoch");
        let revision = next.revision;
        self.current.store(Arc::new(next));
        self.revision.send_replace(revision);
    }
}

impl TopologyReader {
    /// The snapshot in force.
    pub fn load(&self) -> Arc<Topology> {
        self.current.load_full()
    }

    /// A cached reader for a hot path. An idle one must be refreshed now and then, or it keeps an
    /// old snapshot alive.
    pub fn cache(&self) -> TopologyCache {
        arc_swap::Cache::new(self.current.clone())
    }

    /// A receiver that is marked changed at each publish from now on, and ends with the pool.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.revision.clone();
        changes.mark_unchanged();
        changes
    }
}

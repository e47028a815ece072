//! What membership can be asked for. Everyone who wants the ring changed sends one of these.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::{Data, Failure, Health, NodeId, Order, PoolSpec, Slow, Topology};
use crate::net::Target;

/// Why a node was ejected: the metric's label and the log's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody listens at its address.
    Refused,
    /// It can't be reached.
    ConnectTimeout,
    /// Its connections break.
    Lost,
    /// It does not answer in time.
    Timeout,
    /// It answers with something that is not the protocol.
    Protocol,
    /// Its name does not resolve.
    Unresolved,
    /// It can't serve as configured: credentials, database, role.
    Misconfigured,
    /// It reads its data from disk and serves nothing meanwhile.
    Loading,
    /// It answers with a status or a body that says that it does not serve.
    Status,
    /// A key that is written, read and deleted there to try it is refused, or comes back as another.
    Unwritable,
    /// Another process answers in its place than the one that served.
    Replaced,
    /// Too many of its requests fail, if not in a row.
    FailureRate,
    /// It is much slower than the other nodes of its pool.
    Slow,
}

impl From<Failure> for Cause {
    fn from(kind: Failure) -> Cause {
        match kind {
            Failure::Refused => Cause::Refused,
            Failure::ConnectTimeout => Cause::ConnectTimeout,
            Failure::Lost | Failure::Reset => Cause::Lost,
            Failure::Timeout => Cause::Timeout,
            Failure::Protocol => Cause::Protocol,
            Failure::Handshake => Cause::Misconfigured,
            Failure::Status => Cause::Status,
        }
    }
}

impl Cause {
    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Refused => "refused",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::Lost => "lost",
            Cause::Timeout => "timeout",
            Cause::Protocol => "protocol",
            Cause::Unresolved => "unresolved",
            Cause::Misconfigured => "misconfigured",
            Cause::Loading => "loading",
            Cause::Status => "status",
            Cause::Unwritable => "unwritable",
            Cause::Replaced => "replaced",
            Cause::FailureRate => "failure_rate",
            Cause::Slow => "slow",
        }
    }
}

/// By which rule a node was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Its first probe failed with certainty: it was not there when it was asked first.
    FirstProbe,
    /// A failure that leaves no doubt, after a sign before it.
    Certain,
    /// `health.failures` requests in a row failed.
    Failures,
    /// `health.fall` probes in a row failed.
    Fall,
    /// `health.failure_rate` of the requests in `health.window` failed.
    FailureRate,
    /// It was slow, and `health.slow_eject` is on.
    SlowEject,
}

/// Who saw that a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenBy {
    /// Requests of clients.
    Traffic,
    /// A probe.
    Probe,
}

/// What an ejection rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The rule.
    pub rule: Rule,
    /// Who saw what decided.
    pub seen_by: SeenBy,
}

/// Why a node is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// As a label.
    pub cause: Cause,
    /// As a person would say it.
    pub evidence: Arc<str>,
    /// What the verdict rests on.
    pub basis: Basis,
}

/// How a node that was out proved itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    /// What it came back with.
    pub data: Data,
    /// Of what was written elsewhere meanwhile, all is known: what is old there need not take all else with
    /// it.
    pub is_exact: bool,
    /// As a person would say it.
    pub evidence: Arc<str>,
}

/// Why a node is thought to serve, or not to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It has been so since it is watched.
    Nothing,
    /// It failed, and is out.
    Failed(Failed),
    /// It was out, and is back.
    Returned(Returned),
}

/// All that the detector thinks of a node. To say it twice changes nothing, and who missed what was said
/// before misses nothing that counts now.
#[derive(Clone, Debug, PartialEq)]
pub struct Opinion {
    /// Whether it answers.
    pub health: Health,
    /// It is much slower than the others: then it is at least suspect.
    pub slow: Option<Slow>,
    /// What is wrong with its configuration.
    pub wrong: Option<Arc<str>>,
    /// Why it is in or out.
    pub because: Because,
}

/// What is told of one node.
#[derive(Clone, Debug)]
pub enum News {
    /// What is thought of it.
    Judged(Opinion),
    /// It is back, and what it has of its keys below this level is as new as elsewhere, and no other node has
    /// them any more.
    Cleaned {
        /// The level.
        below: u32,
        /// Others may still have what they took for it.
        leftovers: bool,
        /// It had keys, and has none any more.
        emptied: bool,
        /// What was done, in words.
        how: Arc<str>,
    },
    /// It is back, and could not be cleaned now: its keys do not wait for it.
    NotCleaned,
    /// It is back, and is being cleaned, which takes so long that its keys do not wait for it.
    Stripping,
    /// Others are still to be looked through for old copies of its keys, and nobody has given that up.
    Sweeping,
    /// Others have no old copies of its keys any more.
    Swept {
        /// As of this [`turn`](super::Leftovers::turn).
        turn: u64,
    },
    /// Others could not be looked through for these, and that is given up.
    NotSwept {
        /// As of this turn.
        turn: u64,
    },
    /// Its name resolves to this now.
    Resolved(Arc<[Target]>),
}

/// One thing that membership may do to a pool.
#[derive(Debug)]
pub enum Change {
    /// Something is known of a node.
    News {
        /// The pool's name.
        pool: Arc<str>,
        /// Which node.
        node: NodeId,
        /// What.
        news: News,
    },
    /// The operator wants this of a node. Answers with the topologies before and after it.
    Order {
        /// The pool's name.
        pool: Arc<str>,
        /// The node's name.
        node: Arc<str>,
        /// What is wanted.
        wanted: Wanted,
        /// It is only to be said what would come of it.
        dry: bool,
        /// What came of it, or why nothing did.
        answer: oneshot::Sender<Result<Ordered, String>>,
    },
    /// The operator wants the pool to be like this. Answers with what was done, or why not.
    Reload {
        /// The pool as it shall be.
        spec: Arc<PoolSpec>,
        /// Whether it is done, and may move more than `reload.max_share` of the key space.
        mode: ReloadMode,
        /// The share of the key space that moved, or the refusal.
        answer: oneshot::Sender<Result<f64, String>>,
    },
}

impl Topology {
    /// What membership is told of one of its nodes.
    pub fn news(&self, node: NodeId, news: News) -> Change {
        Change::News { pool: self.pool.clone(), node, news }
    }
}

/// How a reload is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadMode {
    /// It is only asked whether it would be done.
    Weigh {
        /// Whether servers that come and have keys may be emptied.
        flush_new: bool,
    },
    /// It is done, however much it moves: that was weighed.
    Do {
        /// The same.
        flush_new: bool,
    },
}

/// What an operator says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This is wanted from now on, in the place of what was wanted before.
    Order(Order),
    /// This is wanted no more. What is taken back with [`Order::Eject`] also lets a node go on that waits for
    /// the warmth budget.
    TakenBack(Order),
}

/// What came, or would come, of an order.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// What was in force.
    pub before: Arc<Topology>,
    /// What is in force now, or would be.
    pub after: Arc<Topology>,
}

/// What was, and what is or would be: of one type, so that nothing else tells which is which.
#[derive(Clone, Copy, Debug)]
pub struct Transition<T> {
    /// What was in force.
    pub before: T,
    /// What came after it.
    pub after: T,
}

/// Where changes are sent. Bounded: a sender waits.
pub type Inbox = mpsc::Sender<Change>;

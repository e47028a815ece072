//! What an operator is told of a step. Plain data.

use std::sync::Arc;

use crate::topology::{Admission, Entry, Failed, Order, Returned, Slow, WaitReason};

/// One thing that is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The node's name; none when it is about the whole pool.
    pub node: Option<Arc<str>>,
    /// What became of it.
    pub what: What,
}

/// What became of a node, or of a pool.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// The node's keys go elsewhere, or are refused.
    Ejected(Failed),
    /// The node is ejected, and its keys wait: for it, for the warmth budget, for leftovers.
    Held(Failed),
    /// The keys of a node that is out, which nobody had, go elsewhere now; why it is ejected, as a sentence.
    Released(Arc<str>),
    /// The keys of a node that was held stay with it for good: a reload says so.
    Stays,
    /// The node proved itself, and waits: it has nothing of what it had and the warmth budget is spent, or
    /// what it has is old.
    Waits(WaitReason, Returned),
    /// The node should be ejected and stays: `eject_max` fails open. The reason to keep it is in the
    /// evidence.
    Kept(Failed),
    /// An ejected node has its keys again although it did not prove itself: too few others are left. As a
    /// sentence.
    Readmitted(&'static str),
    /// The node owns its share again.
    Restored(Returned),
    /// The node proved itself and never left, thanks to `eject_max`.
    Recovered,
    /// What is wrong with the node's configuration, or nothing any more.
    Misconfigured(Option<Arc<str>>),
    /// How much slower the node is than the others, or that it is not any more.
    Slow(Option<Slow>),
    /// What an operator wants of the node, or nothing any more; and the order that was in force.
    Ordered(Option<Order>, Option<Order>),
    /// A node that is back begins to take its keys; what it proved itself with, none when an operator let it
    /// back.
    Starts(Option<Arc<str>>),
    /// A node that is back was cleaned of what is old.
    Cleaned {
        /// What was done.
        how: Arc<str>,
        /// It had keys, and has none any more.
        emptied: bool,
    },
    /// A node that is back took more of its keys, or is about to: how far it has come.
    Admits(Admission),
    /// Keys of nodes that are away go elsewhere in the pool that serves them, or nowhere; why.
    Gutter(Arc<str>),
    /// The operator's new configuration is in force; which nodes came, left or changed.
    Reloaded(Arc<str>),
}

impl What {
    /// Told of a node.
    pub(super) fn of(self, entry: &Entry) -> Event {
        Event { node: Some(entry.node.name.clone()), what: self }
    }

    /// Told of a pool.
    pub(super) fn of_pool(self) -> Event {
        Event { node: None, what: self }
    }
}

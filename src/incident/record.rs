//! What is recorded of an incident, and what membership tells of it. Plain data.

use std::sync::Arc;

use serde::Serialize;

use super::{Diagnosis, Toll};
use crate::topology::{Basis, Cause, Data, Move, Rule, SeenBy, WaitReason};

/// One incident.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    /// Its number, from 1, since the process started.
    pub id: u64,
    /// The pool; none when it is about this process.
    pub pool: Option<Arc<str>>,
    /// The node; none when it is about this process.
    pub node: Option<Arc<str>>,
    /// Where the node is.
    pub address: Option<String>,
    /// Its zone, if it has one.
    pub zone: Option<Arc<str>>,
    /// When it was ejected, or found to be slow or misconfigured, in milliseconds since 1970.
    pub opened_ms: u64,
    /// When the fault began, as far as was seen: of a node that gives no answer when it was heard of last
    /// before the first doubt, else the first doubt.
    pub fault_ms: u64,
    /// When it served as before.
    pub closed_ms: Option<u64>,
    /// From the first doubt to the ejection, in milliseconds; `None` when there was no doubt before.
    pub doubted_for_ms: Option<u64>,
    /// Why, as a label.
    pub cause: Option<Cause>,
    /// Why, as a sentence.
    pub evidence: Arc<str>,
    /// Who saw what decided; none of what is no ejection.
    pub seen_by: Option<SeenBy>,
    /// The rule by which it was ejected.
    pub rule: Option<Rule>,
    /// Where the fault is, the likeliest first. Revised while it goes on.
    pub diagnoses: Vec<Diagnosis>,
    /// The largest share of the key space that one of its epochs moved; none moves with keys that are held,
    /// or that stay with their node.
    pub moved: f64,
    /// Why its keys were held when it left, if they were.
    pub held: Option<Held>,
    /// Who got its keys when they moved first, the largest parts first.
    pub moves: Vec<Move>,
    /// What the node came back with.
    pub data: Option<Data>,
    /// Whether it was emptied of that before it served again.
    pub emptied: bool,
    /// Requests at this node that failed since the first doubt.
    pub requests_failed: u64,
    /// Requests for its keys that others served meanwhile.
    pub requests_substituted: u64,
    /// Requests for its keys that were refused, or found nothing, as they stayed with it while it was out.
    pub requests_unserved: u64,
    /// What it cost the pool; none when it is about this process.
    pub toll: Option<Toll>,
    /// What happened, in order.
    pub timeline: Vec<Step>,
}

/// One line of an incident.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The epoch that was in force afterwards.
    pub epoch: u64,
    /// One word.
    pub what: &'static str,
    /// A sentence, if there is more to say.
    pub text: Arc<str>,
    /// The share of the key space that moved.
    pub moved: f64,
}

/// Why keys of a node that is out wait with it, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Held {
    /// What is waited for.
    pub reason: WaitReason,
    /// Milliseconds until it may be over, as far as that is known.
    pub due_in_ms: Option<u64>,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.text())?;
        match self.due_in_ms {
            Some(due) => write!(f, ", next in {:.0} s", (due as f64 / 1e3).max(1.0)),
            None => Ok(()),
        }
    }
}

/// What membership tells of a node, beside what two topologies show.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// An incident begins, with this word: `ejected`, `kept`.
    Opens(&'static str, Cause, Arc<str>, Option<Basis>),
    /// The same for a node whose keys are held, and why they are.
    OpensHeld(Cause, Arc<str>, Option<Basis>, Held),
    /// It goes on: `released`, `waits`.
    Goes(&'static str, Arc<str>),
    /// The node was cleaned, in these words, and if so emptied.
    Cleaned(Arc<str>, bool),
    /// Nothing is wrong with the node any more: it ends, unless the node was ejected for something, or should
    /// have been.
    Clears(&'static str, Arc<str>),
    /// It ends: `restored`, `recovered`, `readmitted`.
    Ends(&'static str, Option<Data>, Arc<str>),
}

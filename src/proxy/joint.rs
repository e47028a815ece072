//! A request that several nodes answer, and how their replies become one: pure.

use std::{cell::Cell, rc::Rc};

use super::{link::Link, pool::Bound};
use crate::{
    metrics::Outcome,
    protocol::resp::{
        self, Version,
        rule::{Gather, Split},
        scan,
    },
    protocol::{
        memcache,
        merge::{self, Merged},
    },
    topology::NodeId,
};

/// A request that went to several nodes, or whose reply has to be rewritten.
#[derive(Debug)]
pub(crate) struct Joint {
    pub(crate) kind: JointKind,
    /// Keys of the whole request.
    pub(crate) keys: usize,
    pub(crate) parts: Vec<Part>,
    /// The topology under which it was sent: it says who owns what a node answers.
    pub(crate) bound: Rc<Bound>,
    /// The whole request, where it is needed once the replies are there: one that teaches the nodes
    /// something is remembered when all have accepted it.
    pub(crate) request: Option<Box<[u8]>>,
    /// Parts from the first on that are known to be done: with many, each reply would have all of them
    /// looked at.
    pub(crate) done: Cell<usize>,
}

/// How the parts become one reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum JointKind {
    Split(Split),
    Gather(Gather),
    /// memcached's retrieval of several keys.
    Values,
    /// A memcached command for all nodes, and whether its client asked for no reply.
    Everywhere(memcache::plan::Gather, bool),
    /// `SCAN` at the node with this ordinal; then comes the next one, if any.
    Scan {
        ordinal: u16,
        next: Option<u16>,
    },
}

/// One node's part of a request.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) link: Rc<Link>,
    /// The node's index in the topology under which it was sent.
    pub(crate) index: usize,
    /// Which of the request's keys it answers.
    pub(crate) positions: Vec<u32>,
    pub(crate) reply: Vec<u8>,
    pub(crate) done: Option<Outcome>,
}

/// What a session needs to know to merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeContext {
    pub(crate) version: Version,
    pub(crate) per_key_errors: bool,
}

impl Part {
    pub(crate) fn new(bound: &Bound, index: usize) -> Part {
        Part { link: bound.links[index].clone(), index, positions: Vec::new(), reply: Vec::new(), done: None }
    }
}

impl Joint {
    /// Whether all its parts are.
    pub(super) fn is_done(&self) -> bool {
        let rest = self.parts.get(self.done.get()..).unwrap_or_default();
        let done = self.done.get() + rest.iter().take_while(|p| p.done.is_some()).count();
        self.done.set(done);
        done == self.parts.len()
    }

    /// Bytes of its parts.
    pub(super) fn held(&self) -> usize {
        self.parts.iter().map(|p| p.reply.len()).sum()
    }

    /// Takes a piece of a part's reply; gives how many bytes more are kept aside.
    pub(super) fn deliver(&mut self, part: u32, piece: &[u8], done: Option<Outcome>) -> isize {
        let Some(part) = self.parts.get_mut(part as usize).filter(|p| p.done.is_none()) else { return 0 };
        if part.reply.is_empty() {
            // Nearly always it is all of it.
            part.reply = piece.to_vec();
        } else {
            part.reply.extend_from_slice(piece);
        }
        part.done = done;
        piece.len() as isize
    }

    pub(super) fn merge(&self, context: MergeContext, out: &mut Vec<u8>) -> Outcome {
        let parts: Vec<merge::Part<'_>> = self
            .parts
            .iter()
            .map(|p| merge::Part { node: &p.link.node.name, reply: &p.reply, positions: &p.positions })
            .collect();
        let owns = |part: usize, key: &[u8]| self.bound.owns(self.parts[part].index, key);
        let merged = match self.kind {
            JointKind::Split(kind) => {
                resp::merge::split(kind, self.keys, &parts, context.per_key_errors, out)
            }
            JointKind::Gather(kind) => {
                let first = self.parts.first().filter(|_| kind == Gather::Random);
                let pick = first.map_or(0, |part| part.link.countdown.below(i64::MAX) as u64);
                resp::merge::gather(kind, &parts, context.version, &owns, pick, out)
            }
            JointKind::Values => {
                let request = self.request.as_deref().unwrap_or_default();
                memcache::merge::values(request, &parts, false, out)
            }
            JointKind::Everywhere(gather, silent) => {
                let start = out.len();
                let merged = memcache::merge::all(gather, &parts, out);
                if silent {
                    out.truncate(start);
                }
                merged
            }
            JointKind::Scan { ordinal, next } => {
                scan::reply(parts[0].reply, parts[0].node, ordinal, next, &|key| owns(0, key), out)
            }
        };
        let failed = self.parts.iter().filter_map(|p| p.done).find(|o| *o != Outcome::Ok);
        if merged == Merged::Whole
            && let (JointKind::Gather(_), Some(lesson), Some(link)) =
                (self.kind, &self.request, self.bound.links.first())
        {
            let was_asked = |id: NodeId| self.parts.iter().any(|part| part.link.node.id == id);
            let nodes = self.bound.topology.entries().map(|entry| entry.node.id);
            link.scripts.note(lesson, nodes.filter(|id| !was_asked(*id)).collect());
        }
        match merged {
            Merged::Failed => failed.unwrap_or(Outcome::Error),
            Merged::Whole | Merged::Partly => Outcome::Ok,
        }
    }
}

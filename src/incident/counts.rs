//! What became of the requests that were for a node, as its counters say.

use std::{collections::HashMap, sync::Arc};

use crate::{
    metrics::{Count, NodeBlock, Outcome},
    topology::{Health, Node, NodeId, Topology},
};

/// What the counters said of the nodes that a publish is the first to doubt, when it was about to be made:
/// its incident is told of later, and what comes in between is part of it.
#[derive(Debug, Default)]
pub struct Readings(HashMap<NodeId, Counts>);

impl Readings {
    /// Reads them, between what is and what is about to be.
    pub fn between(before: &Topology, after: &Topology) -> Readings {
        if Arc::ptr_eq(&before.nodes, &after.nodes) {
            return Readings::default();
        }
        let is_same = |i: usize, id| before.nodes.get(i).is_some_and(|old| old.node.id == id);
        let place = |i, id| if is_same(i, id) { Some(i) } else { before.position(id) };
        let was_well = |i, id| place(i, id).is_some_and(|at| before.nodes[at].health == Health::Healthy);
        let all = after.nodes.iter().enumerate().filter(|(_, entry)| entry.health != Health::Healthy);
        let doubted = all.filter(|(i, entry)| was_well(*i, entry.node.id));
        Readings(doubted.map(|(_, entry)| (entry.node.id, Counts::at_doubt(&entry.node))).collect())
    }

    /// What was read of a node, or what is to be read of it now.
    pub(super) fn of(&self, node: &Node) -> Counts {
        self.0.get(&node.id).copied().unwrap_or_else(|| Counts::at_doubt(node))
    }
}

/// Requests, over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Those at the node that failed: refused by it or for it, lost, or too late.
    pub(super) failed: u64,
    /// Those for its keys that others served.
    pub(super) substituted: u64,
    /// Those for its keys that nobody was asked for.
    pub(super) unserved: u64,
}

impl Counts {
    /// Since the node has been in the pool.
    pub(super) fn of(node: &Node) -> Counts {
        const FAILED: [Outcome; 3] = [Outcome::Refused, Outcome::Timeout, Outcome::Lost];
        let of = |class: &[Count; Outcome::ALL.len()]| -> u64 {
            FAILED.iter().map(|outcome| class[*outcome as usize].value()).sum()
        };
        let sum =
            |count: fn(&NodeBlock) -> &Count| node.blocks.iter().map(|block| count(block).value()).sum();
        Counts {
            failed: node.blocks.iter().flat_map(|block| block.requests.iter()).map(of).sum(),
            substituted: sum(|block| &block.substituted),
            unserved: sum(|block| &block.unserved),
        }
    }

    /// What an incident begins with: of those that failed in a row, which the doubt is about, some are
    /// counted already.
    fn at_doubt(node: &Node) -> Counts {
        let counts = Counts::of(node);
        let failed = counts.failed.saturating_sub(node.evidence.streak().into());
        Counts { failed, ..counts }
    }

    /// What came in between.
    pub(super) fn since(self, before: Counts) -> Counts {
        Counts {
            failed: self.failed.saturating_sub(before.failed),
            substituted: self.substituted.saturating_sub(before.substituted),
            unserved: self.unserved.saturating_sub(before.unserved),
        }
    }
}

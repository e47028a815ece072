//! What became of the requests that were for a node, as its counters say.

use crate::{
    metrics::{Count, NodeBlock, Outcome},
    topology::Node,
};

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

    /// The same without so many of those that failed.
    pub(super) fn without_failed(self, count: u32) -> Counts {
        Counts { failed: self.failed.saturating_sub(u64::from(count)), ..self }
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

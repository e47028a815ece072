//! WHAT HEALTH KNOWS of the writes that others took for a node that is away, as far as it knows it exactly: a
//! model of `src/health/quarantine.rs`, which is about sockets and clocks as well. Cleaning rests on it.

use std::collections::{BTreeMap, BTreeSet};

use ringway::topology::{Data, NodeId, OnReturn, Placement, Policy, Topology};

use crate::values::KeyId;

/// A node that could not be cleaned key by key so often is emptied.
const TRIES: u32 = 3;

#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    logs: BTreeMap<NodeId, Log>,
    /// How often nodes could not be cleaned since they left.
    failed: BTreeMap<NodeId, u32>,
}

#[derive(Debug, Default)]
struct Log {
    /// Who took the write, and the key.
    keys: BTreeSet<(NodeId, KeyId)>,
    /// There was more.
    is_cut: bool,
}

/// Whether the pool's writes are noted.
pub(crate) fn is_noted(policy: &Policy) -> bool {
    policy.on_return == OnReturn::Quarantine && policy.sole_writer
}

impl Quarantine {
    /// A node took a write for one that is away, or has one in its sockets when it leaves.
    pub(crate) fn note(&mut self, away: NodeId, taken_by: NodeId, key: KeyId, policy: &Policy) {
        if !is_noted(policy) {
            return;
        }
        let log = self.logs.entry(away).or_default();
        if !log.is_cut {
            log.keys.insert((taken_by, key));
            log.is_cut = log.keys.len() > policy.quarantine_max;
        }
    }

    /// It is not known what was written elsewhere for a node.
    pub(crate) fn cut(&mut self, node: NodeId) {
        self.logs.insert(node, Log { keys: BTreeSet::new(), is_cut: true });
    }

    /// Nodes that own all their keys have nothing old.
    pub(crate) fn follow(&mut self, topology: &Topology) {
        if self.logs.is_empty() && self.failed.is_empty() && is_noted(&topology.policy) {
            return;
        }
        let away = topology.nodes.iter().filter(|e| e.placement != Placement::Owns).map(|e| e.node.id);
        let away: BTreeSet<NodeId> = away.collect();
        self.logs.retain(|id, _| away.contains(id));
        self.failed.retain(|id, _| away.contains(id));
        if !is_noted(&topology.policy) {
            away.into_iter().for_each(|id| self.cut(id));
        }
    }

    /// Whether all that a node has is to go.
    pub(crate) fn is_inexact(&self, node: NodeId) -> bool {
        let is_cut = self.logs.get(&node).is_some_and(|log| log.is_cut);
        is_cut || self.failed.get(&node).is_some_and(|failed| *failed >= TRIES)
    }

    /// Whether it is known what is old of one that came back with this.
    pub(crate) fn is_known(&self, node: NodeId, data: Data, policy: &Policy) -> bool {
        is_noted(policy) && matches!(data, Data::Same | Data::Empty) && !self.is_inexact(node)
    }

    /// What was written elsewhere for a node, and where.
    pub(crate) fn written(&self, node: NodeId) -> Vec<(NodeId, KeyId)> {
        self.logs.get(&node).into_iter().flat_map(|log| &log.keys).copied().collect()
    }

    /// This of it is deleted.
    pub(crate) fn is_clean_of(&mut self, node: NodeId, is_gone: impl Fn(KeyId) -> bool) {
        if let Some(log) = self.logs.get_mut(&node) {
            log.keys.retain(|(_, key)| !is_gone(*key));
        }
    }

    /// All that was old is deleted.
    pub(crate) fn is_clean(&mut self, node: NodeId) {
        self.logs.remove(&node);
    }

    /// It could not be cleaned.
    pub(crate) fn failed(&mut self, node: NodeId) {
        *self.failed.entry(node).or_default() += 1;
    }
}

//! Who owns a key, asked twice: of the topology, as the hot path asks it, and of the ring's order of
//! preference and the nodes' placements.

use std::sync::Arc;

use ringway::{
    ring::{Candidates, Ring},
    topology::{NodeId, OnEjected, Placement, Policy, Route, Topology, WhileHeld, level},
};

use crate::values::KeyId;

/// What becomes of a request for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send(NodeId),
    Wait(NodeId),
    Refuse(NodeId),
    Miss(NodeId),
    Nobody,
}

impl Action {
    /// Whose share the key is in.
    pub(crate) fn holder(self) -> Option<NodeId> {
        match self {
            Action::Send(id) | Action::Wait(id) | Action::Refuse(id) | Action::Miss(id) => Some(id),
            Action::Nobody => None,
        }
    }
}

/// Keys of a pool, so chosen that each node is the first candidate of some of each kind.
#[derive(Debug)]
pub(crate) struct Keys {
    ring: Arc<Ring>,
    keys: Vec<Key>,
    /// Each node has keys of each kind: a node's change is seen in them.
    pub(crate) is_complete: bool,
}

#[derive(Debug)]
struct Key {
    id: KeyId,
    text: String,
    hash: u64,
    /// The first candidate.
    first: usize,
}

/// What should become of a key of this level that another pool has while its first candidate is away.
fn over(topology: &Topology, (text, level_here): (&str, u32), first: usize) -> Action {
    let id = topology.nodes[first].node.id;
    let held = |held: WhileHeld| if held == WhileHeld::Miss { Action::Miss(id) } else { Action::Refuse(id) };
    match topology.nodes[first].placement {
        Placement::Held => return held(topology.policy.warmth.held),
        Placement::Starting(to) if level_here < to.admitted => return Action::Send(id),
        Placement::Starting(to) if level_here < to.fence => return Action::Wait(id),
        Placement::Owns | Placement::Away | Placement::Starting(_) => {}
    }
    let Some(gutter) = &topology.gutter else { return Action::Refuse(id) };
    let hash = gutter.ring.hash(text.as_bytes());
    let holds = |i: &usize| match gutter.nodes[*i].placement {
        Placement::Owns | Placement::Held => true,
        Placement::Starting(to) => level(hash) < to.fence,
        Placement::Away => false,
    };
    let Some(entry) = gutter.ring.candidates(hash).find(holds).map(|i| &gutter.nodes[i]) else {
        return Action::Refuse(id);
    };
    match entry.placement {
        Placement::Held => held(gutter.policy.warmth.held),
        Placement::Starting(to) if level(hash) >= to.admitted => Action::Wait(id),
        Placement::Owns | Placement::Starting(_) | Placement::Away => Action::Send(entry.node.id),
    }
}

fn id(kind: usize, i: usize) -> KeyId {
    (kind as u64) << 32 | i as u64
}

/// The text of any key.
pub(crate) fn text(id: KeyId) -> String {
    format!("{}key:{}", KINDS[(id >> 32) as usize], id & 0xffff_ffff)
}

/// What keys begin with; the others are for a policy of their own.
pub(crate) const KINDS: [&str; 2] = ["", "s:"];
/// Keys in a small pool, about.
const KEYS: usize = 40;
/// Of each node and kind at least.
const PER_NODE: usize = 2;
/// How many keys are tried for one that is wanted: a node with a hundredth of its fair share is met.
const TRIES: usize = 200;

impl Keys {
    /// Keys for a ring that was built by whoever asks, not by the planner; some of them with each prefix
    /// that the policy has.
    pub(crate) fn new(ring: Arc<Ring>, policy: &Policy) -> Keys {
        let count = ring.members().len();
        let kinds = if policy.prefixes.is_empty() { 1 } else { KINDS.len() };
        let per_node = PER_NODE.max(KEYS / count / kinds);
        let mut keys = Vec::with_capacity(count * per_node * kinds);
        let mut is_complete = true;
        for kind in 0..kinds {
            let (mut found, mut left) = (vec![0; count], count * per_node);
            for i in 0..count * per_node * TRIES {
                let text = text(id(kind, i));
                let hash = ring.hash(text.as_bytes());
                let first = ring.first(hash);
                if found[first] < per_node {
                    (found[first], left) = (found[first] + 1, left - 1);
                    keys.push(Key { id: id(kind, i), text, hash, first });
                }
                if left == 0 {
                    break;
                }
            }
            is_complete &= found.iter().all(|n| *n > 0);
        }
        Keys { ring, is_complete, keys }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Which key it is, whatever ring there is.
    pub(crate) fn id(&self, key: usize) -> KeyId {
        self.keys[key].id
    }

    /// Its first candidate.
    pub(crate) fn first(&self, key: usize) -> usize {
        self.keys[key].first
    }

    pub(crate) fn hash(&self, key: usize) -> u64 {
        self.keys[key].hash
    }

    /// Where the topology has a key.
    pub(crate) fn route(&self, topology: &Topology, key: usize) -> Route {
        let Key { hash, text, .. } = &self.keys[key];
        topology.route(*hash, text.as_bytes())
    }

    /// The level of any key.
    pub(crate) fn level(&self, id: KeyId) -> u32 {
        level(self.ring.hash(text(id).as_bytes()))
    }

    /// What becomes of a key by this topology.
    pub(crate) fn action(&self, topology: &Topology, key: usize) -> Action {
        let id = |i: usize| topology.entry(i).node.id;
        match self.route(topology, key) {
            Route::Send(i) => Action::Send(id(i)),
            Route::Wait(i) => Action::Wait(id(i)),
            Route::Fail(i) => Action::Refuse(id(i)),
            Route::Miss(i) => Action::Miss(id(i)),
            Route::NoOwner => Action::Nobody,
        }
    }

    /// What should become of it: the first candidate that is not away, or has come so far in its start, has
    /// it; and the first of all where its keys do not move.
    pub(crate) fn expected(&self, topology: &Topology, key: usize) -> Action {
        let Key { hash, first, text, .. } = &self.keys[key];
        let level = level(*hash);
        let policy = &topology.policy;
        // Worlds have one prefix at most.
        let prefix = policy.prefixes.iter().find(|p| text.as_bytes().starts_with(&p.prefix));
        let on_ejected = prefix.map_or(policy.on_ejected, |p| p.on_ejected);
        let holds = |i: &usize| match topology.nodes[*i].placement {
            Placement::Owns | Placement::Held => true,
            Placement::Starting(to) => level < to.fence,
            Placement::Away => false,
        };
        if on_ejected == OnEjected::Failover && topology.nodes[*first].placement != Placement::Owns {
            return over(topology, (text, level), *first);
        }
        let moves = on_ejected == OnEjected::Rehash;
        let holder = match moves && !holds(first) {
            true => self.candidates(key).find(holds),
            false => Some(*first),
        };
        let Some(entry) = holder.map(|i| &topology.nodes[i]) else { return Action::Nobody };
        let id = entry.node.id;
        let misses = match entry.placement {
            Placement::Owns => return Action::Send(id),
            Placement::Starting(to) if moves && level >= to.admitted => return Action::Wait(id),
            Placement::Starting(_) => return Action::Send(id),
            Placement::Held if moves => policy.warmth.held == WhileHeld::Miss,
            Placement::Held | Placement::Away => on_ejected == OnEjected::Miss,
        };
        if misses { Action::Miss(id) } else { Action::Refuse(id) }
    }

    fn candidates(&self, key: usize) -> Candidates<'_> {
        self.ring.candidates(self.keys[key].hash)
    }
}

//! LEFTOVERS. What substitutes took while a node was away is deleted on them once it is back, in pools that
//! do not serve old data, where it is not known key by key: its next absence would bring it up again. So is what
//! nodes have of keys that a reload has given to others. A key is left over on a node that does not own it, whoever
//! is away. Keys are asked for piece by piece, with pauses: the node has other work.

use tokio::time::{Duration, sleep};

use super::probe::{Question, leftovers};
use crate::{
    metrics::table::{LEFTOVERS, LEFTOVERS_FAILED},
    topology::{NodeId, OnReturn, Placement, Route, Topology, TopologyReader},
};

/// Until a node that may not be asked now is asked once more.
const AGAIN: Duration = Duration::from_secs(5);
/// How often that is tried.
const TRIES: u32 = 12;

/// For whom others were looked through.
#[derive(Debug)]
pub(super) struct Swept {
    pub(super) nodes: Vec<NodeId>,
    /// Who could not be looked through.
    pub(super) skipped: Vec<NodeId>,
    /// Who was away.
    pub(super) away: Vec<NodeId>,
    /// The keys of one of these are held: it may be tried again when they are not any more.
    pub(super) waits: bool,
}

/// Why a node was not looked through.
#[derive(Debug, thiserror::Error)]
enum Skipped {
    #[error("it is away")]
    Away,
    #[error("its keys are held")]
    Held,
    #[error("{0}")]
    Failed(String),
}

/// Waits until one of these nodes, which are back, has its keys again, then deletes what all have of other
/// nodes'. Says for which of them that was.
pub(super) async fn after_returns(reader: TopologyReader, returned: Vec<NodeId>) -> Swept {
    let mut changes = reader.changes();
    let nodes = loop {
        let topology = reader.load();
        // One that is ejected again and held has its keys: others may not take them before this is done.
        let has_keys = |node: &NodeId| {
            let placement = topology.position(*node).map(|at| topology.nodes[at].placement);
            placement.is_none_or(|placement| matches!(placement, Placement::Owns | Placement::Held))
        };
        let ready: Vec<NodeId> = returned.iter().copied().filter(has_keys).collect();
        if !ready.is_empty() || changes.changed().await.is_err() {
            break ready;
        }
    };
    // What is in flight may still write there.
    let in_flight = reader.load().policy.request_timeout;
    sleep(in_flight).await;
    let topology = reader.load();
    let others = topology.nodes.iter().filter(|entry| nodes != [entry.node.id]);
    let others: Vec<_> = others.map(|entry| (entry.node.id, entry.node.name.clone())).collect();
    let pool = topology.pool.clone();
    drop(topology);
    let (mut skipped, mut away, mut waits) = (Vec::new(), Vec::new(), false);
    for (other, name) in others {
        match insist(&reader, other).await {
            Ok(()) => {}
            Err(Skipped::Away) => away.push(other),
            Err(Skipped::Held) => {
                skipped.push(other);
                waits = true;
            }
            Err(Skipped::Failed(why)) => {
                skipped.push(other);
                tracing::warn!(%pool, node = &*name, why, "leftovers can't be deleted: given up");
                let labels = [("pool", pool.to_string()), ("node", name.to_string())];
                ::metrics::counter!(LEFTOVERS_FAILED.name, &labels).increment(1);
            }
        }
    }
    Swept { nodes, skipped, away, waits }
}

/// Deletes what a node has and does not own, and tries that several times.
async fn insist(reader: &TopologyReader, node: NodeId) -> Result<(), Skipped> {
    let mut tried = 1;
    loop {
        match sweep(reader, node).await {
            Err(Skipped::Failed(why)) if tried < TRIES => {
                tried += 1;
                tracing::debug!(why, "leftovers can't be deleted now");
                sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}

/// Deletes what one node has and does not own.
async fn sweep(reader: &TopologyReader, node: NodeId) -> Result<(), Skipped> {
    let topology = reader.load();
    let Some(at) = topology.position(node) else { return Ok(()) };
    match topology.nodes[at].placement {
        _ if topology.policy.on_return == OnReturn::Serve => return Ok(()),
        Placement::Away => return Err(Skipped::Away),
        Placement::Held => return Err(Skipped::Held),
        Placement::Owns | Placement::Starting(_) => {}
    }
    let question = Question {
        address: topology.nodes[at].node.address.clone(),
        targets: topology.nodes[at].targets.clone(),
        policy: topology.policy.clone(),
        timeout: topology.health.timeout,
        anew: true,
        who: false,
        flush: false,
        deep: None,
    };
    let (pool, name) = (topology.pool.clone(), topology.nodes[at].node.name.clone());
    drop(topology);
    // Asked anew for each key: another node may leave meanwhile, and its keys are no leftovers then.
    let is_left = |key: &[u8]| {
        let topology = reader.load();
        topology.position(node).is_some_and(|at| is_leftover(&topology, at, key))
    };
    let deleted = leftovers(&question, &is_left).await.map_err(Skipped::Failed)?;
    if deleted > 0 {
        ::metrics::counter!(LEFTOVERS.name, "pool" => pool.to_string(), "node" => name.to_string())
            .increment(deleted);
        tracing::info!(%pool, node = &*name, deleted, "keys that are other nodes' are deleted");
    }
    Ok(())
}

/// Whether a key is neither this node's own nor one that it serves for another.
fn is_leftover(topology: &Topology, at: usize, key: &[u8]) -> bool {
    let hash = topology.ring.hash(key);
    topology.ring.first(hash) != at && topology.route(hash, key) != Route::Send(at)
}

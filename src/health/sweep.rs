//! LEFTOVERS. What substitutes took while a node was away is deleted on them once it is back, in pools that
//! do not serve old data, where it is not known key by key: its next absence would bring it up again. A
//! key is left over on a node that does not own it, whoever is away. Keys are asked for piece by piece, with
//! pauses: the node has other work.

use tokio::time::{Duration, sleep};

use super::probe::{Question, leftovers};
use crate::{
    metrics::table::LEFTOVERS,
    topology::{NodeId, OnReturn, Placement, Route, Topology, TopologyReader},
};

/// Until a node that may not be asked now is asked once more.
const AGAIN: Duration = Duration::from_secs(5);
/// How often that is tried.
const TRIES: u32 = 12;

/// Waits until a node that is back owns its keys again, then deletes what the others have of other nodes'.
pub(super) async fn after_return(reader: TopologyReader, node: NodeId) {
    let mut changes = reader.changes();
    loop {
        let topology = reader.load();
        match topology.position(node).map(|at| topology.nodes[at].placement) {
            None => return,
            Some(Placement::Owns) => break,
            Some(Placement::Starting(_) | Placement::Away | Placement::Held) => {}
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
    let others: Vec<NodeId> =
        reader.load().nodes.iter().map(|e| e.node.id).filter(|id| *id != node).collect();
    for other in others {
        for _ in 0..TRIES {
            match sweep(&reader, other).await {
                Ok(()) => break,
                Err(why) => {
                    tracing::debug!(why, "leftovers can't be deleted now");
                    sleep(AGAIN).await;
                }
            }
        }
    }
}

/// Deletes what one node has and does not own.
async fn sweep(reader: &TopologyReader, node: NodeId) -> Result<(), String> {
    let topology = reader.load();
    let Some(at) = topology.position(node) else { return Ok(()) };
    if topology.policy.on_return == OnReturn::Serve || !topology.nodes[at].placement.serves() {
        return Ok(());
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
    let deleted = leftovers(&question, &is_left).await?;
    if deleted > 0 {
        ::metrics::counter!(LEFTOVERS.name, "pool" => pool.to_string(), "node" => name.to_string())
            .increment(deleted);
        tracing::info!(%pool, node = &*name, deleted, "leftovers of nodes that were away are deleted");
    }
    Ok(())
}

/// Whether a key is neither this node's own nor one that it serves for another.
fn is_leftover(topology: &Topology, at: usize, key: &[u8]) -> bool {
    let hash = topology.ring.hash(key);
    topology.ring.first(hash) != at && topology.route(hash, key) != Route::Send(at)
}

//! LEFTOVERS. What substitutes took while a node was away is deleted on them once it is back, in pools that
//! do not serve old data, where it is not known key by key: its next absence would bring it up again. So is
//! what nodes have of keys that a reload has given to others. A key is left over on a node that does not own
//! it, whoever is away. Keys are asked for piece by piece, with pauses: the node has other work. Nodes are
//! looked through side by side, and as long as it takes: the keys of who is back are not given to others
//! before. For whom that is to be done membership says.

use std::{collections::HashSet, panic::resume_unwind, sync::Arc};

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Duration, sleep},
};

use super::probe::{Question, leftovers};
use crate::{
    metrics::table::{LEFTOVERS, LEFTOVERS_FAILED},
    topology::{Entry, Leftovers, NodeId, OnReturn, Placement, Route, Topology, TopologyReader},
};

/// Until a node that may not be asked now is asked once more.
const AGAIN: Duration = Duration::from_secs(5);
/// How often that is tried.
const TRIES: u32 = 12;
/// Nodes that are looked through at once.
const AT_ONCE: usize = 8;
/// How often it is told that it goes on.
pub(super) const TELL: Duration = Duration::from_secs(30);

/// For whom others were looked through.
#[derive(Debug)]
pub(super) struct Swept {
    pub(super) leftovers: Vec<Leftovers>,
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

/// For whom others can be looked through now, to the end. It is waited for those who are back to have their
/// keys: one that is ejected again and held has them, as others may not take them before this is done. And
/// for those whose keys are held to have, or lose, these: they can't be looked through before.
pub(super) fn due(topology: &Topology) -> Vec<Leftovers> {
    if topology.leftovers.is_empty() {
        return Vec::new();
    }
    let at = |is: fn(Placement) -> bool| -> HashSet<NodeId> {
        topology.nodes.iter().filter(|e| is(e.placement)).map(|e| e.node.id).collect()
    };
    let held = at(|placement| placement == Placement::Held);
    let have_keys = at(|placement| matches!(placement, Placement::Owns | Placement::Held));
    let is_due = |left: &&Leftovers| have_keys.contains(&left.node) && held.iter().all(|id| *id == left.node);
    topology.leftovers.iter().filter(is_due).copied().collect()
}

/// Deletes what nodes have of others' keys, for these, which are back; to its end, whoever returns meanwhile.
pub(super) async fn look_through(reader: TopologyReader, leftovers: Vec<Leftovers>) -> Swept {
    // What is in flight may still write there.
    let in_flight = reader.load().policy.request_timeout;
    sleep(in_flight).await;
    let topology = reader.load();
    let is_other = |entry: &&Entry| leftovers.iter().any(|left| left.node != entry.node.id);
    let others = topology.nodes.iter().filter(is_other);
    let others: Vec<_> = others.map(|entry| (entry.node.id, entry.node.name.clone())).collect();
    let pool = topology.pool.clone();
    drop(topology);
    let (mut skipped, mut away, mut waits) = (Vec::new(), Vec::new(), false);
    let (mut looks, permits) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (other, name) in others {
        let (reader, permits) = (reader.clone(), permits.clone());
        looks.spawn(async move {
            // It is never closed.
            let _permit = permits.acquire().await;
            (other, name, insist(&reader, other).await)
        });
    }
    while let Some(looked) = looks.join_next().await {
        // None of them is aborted.
        let (other, name, looked) = looked.unwrap_or_else(|error| resume_unwind(error.into_panic()));
        match looked {
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
    Swept { leftovers, skipped, away, waits }
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
    let entry = &topology.nodes[at];
    let timeout = topology.health.timeout;
    let question = Question::anew(&entry.node.address, &entry.targets, &topology.policy, timeout);
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::{Barrier, Notify},
        time::timeout,
    };

    use super::*;
    use crate::topology::{Evidence, HealthSettings, Node, Policy, channel};

    /// Nodes are looked through side by side: each of these answers when all were asked.
    #[tokio::test]
    async fn side_by_side() {
        const NODES: usize = 4;
        let (mut entries, all) = (Vec::new(), Arc::new(Barrier::new(NODES)));
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        for i in 0..NODES {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
            let target = crate::net::Target::Tcp(listener.local_addr().expect("it is bound"));
            let all = all.clone();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("it is asked");
                let n = stream.read(&mut [0; 256]).await.expect("it is asked");
                assert!(n > 0);
                all.wait().await;
                stream.write_all(b"*2\r\n$1\r\n0\r\n*0\r\n").await.expect("it is heard");
            });
            let first = &one.nodes[0].node;
            let node = Node {
                id: NodeId(20 + i as u64),
                name: format!("n{i}").into(),
                address: first.address.clone(),
                weight: 1,
                zone: None,
                evidence: Evidence::default(),
                blocks: Arc::new([]),
                load: Arc::default(),
            };
            entries.push(Entry { node: Arc::new(node), targets: Arc::new([target]), ..one.nodes[0].clone() });
        }
        let policy = Policy { on_return: OnReturn::Quarantine, ..(*one.policy).clone() };
        let topology = Topology { nodes: entries.into(), policy: Arc::new(policy), ..one };
        let (_writer, reader) = channel(topology);
        let left = Leftovers { node: NodeId(99), turn: 1 };
        let swept = look_through(reader, vec![left]);
        let swept = timeout(Duration::from_secs(20), swept).await.expect("all answer");
        assert_eq!(swept.leftovers, [left]);
        assert!(swept.skipped.is_empty() && swept.away.is_empty() && !swept.waits, "{swept:?}");
    }
}

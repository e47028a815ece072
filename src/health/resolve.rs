//! Asks again where host names point, and tells membership when the answer changed. A name that
//! does not resolve keeps the targets that it had.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinSet, time::sleep};

use crate::{
    net::{Address, Target, resolve},
    topology::{Change, Entry, Inbox, NodeId, TopologyReader},
};

/// Between two rounds, when nothing hurries.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Between two rounds at least, however many connections are lost.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

/// How long a resolver may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names asked for at once: each takes a thread while it is looked up.
const RESOLVES_AT_ONCE: usize = 16;

type Found = (NodeId, io::Result<Arc<[Target]>>);

fn has_a_name(entry: &Entry) -> bool {
    matches!(entry.node.address, Address::Tcp { .. }) && entry.node.address.literal().is_none()
}

/// Resolves the names of one pool, at the interval and when `hurry` is rung, until membership
/// ends.
pub(super) async fn run(reader: TopologyReader, inbox: Inbox, hurry: Arc<Notify>) {
    let mut unknown = HashSet::new();
    loop {
        let topology = reader.load();
        unknown.retain(|id| topology.position(*id).is_some());
        let mut names = topology.nodes.iter().filter(|e| has_a_name(e));
        let mut rounds: JoinSet<Found> = JoinSet::new();
        loop {
            while rounds.len() < RESOLVES_AT_ONCE
                && let Some(entry) = names.next()
            {
                let node = entry.node.clone();
                rounds.spawn(async move { (node.id, resolve(&node.address, RESOLVE_TIMEOUT).await) });
            }
            let Some(found) = rounds.join_next().await else { break };
            let Some(change) = found.ok().and_then(|found| judge(&reader, &mut unknown, found)) else {
                continue;
            };
            if inbox.send(change).await.is_err() {
                return;
            }
        }
        sleep(RESOLVE_PAUSE).await;
        tokio::select! {
            () = hurry.notified() => {}
            () = sleep(RESOLVE_INTERVAL - RESOLVE_PAUSE) => {}
            () = inbox.closed() => return,
        }
    }
}

/// What is to be said about an answer of the resolver.
fn judge(reader: &TopologyReader, unknown: &mut HashSet<NodeId>, found: Found) -> Option<Change> {
    let (id, answer) = found;
    let topology = reader.load();
    let (pool, entry) = (&topology.pool, &topology.nodes[topology.position(id)?]);
    let (node, address) = (&entry.node.name, &entry.node.address);
    match answer {
        Ok(targets) if !targets.is_empty() => {
            if unknown.remove(&id) {
                tracing::info!(%pool, %node, %address, "the name resolves again");
            }
            let is_new = targets != entry.targets;
            is_new.then(|| Change::Resolved { pool: pool.clone(), node: id, targets })
        }
        answer => {
            if unknown.insert(id) {
                let error = answer.err().map_or_else(|| "no addresses".to_owned(), |e| e.to_string());
                tracing::warn!(%pool, %node, %address, error, "the name does not resolve, its old addresses stay");
            }
            None
        }
    }
}

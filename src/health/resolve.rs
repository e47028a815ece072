//! Asks again where host names point, and tells membership when the answer changed. A name that
//! does not resolve keeps the targets that it had.

use std::{collections::HashSet, io, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Lookup, Scene};
use crate::{
    net::{Address, Target, is_denied, resolve},
    topology::{Change, Entry, Inbox, News, NodeId, TopologyReader},
};

/// Between two rounds, when nothing hurries.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);

/// Between two rounds at least, however many connections are lost.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

/// The same while a node waits for its first address, as the resolver does not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// How long a resolver may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names asked for at once: each takes a thread while it is looked up.
const RESOLVES_AT_ONCE: usize = 16;

/// Whose name was looked up, when the resolver was asked, and what it said.
type Found = (NodeId, Instant, io::Result<Arc<[Target]>>);

/// Whether its address is a name that may come to mean another place.
pub(super) fn has_a_name(entry: &Entry) -> bool {
    matches!(entry.node.address, Address::Tcp { .. }) && entry.node.address.literal().is_none()
}

/// Resolves the names of one pool, at the interval and when `hurry` is rung, until membership
/// ends. Whoever asks the scene learns what the resolver said.
pub(super) async fn run(reader: TopologyReader, inbox: Inbox, hurry: Arc<Notify>, scene: Scene) {
    let mut unknown = HashSet::new();
    loop {
        let topology = reader.load();
        unknown.retain(|id| topology.position(*id).is_some());
        let mut names = topology.nodes.iter().filter(|e| has_a_name(e));
        let mut rounds: JoinSet<Found> = JoinSet::new();
        // Somebody waits for a resolver that does not answer.
        let mut is_missed = false;
        loop {
            while rounds.len() < RESOLVES_AT_ONCE
                && let Some(entry) = names.next()
            {
                let node = entry.node.clone();
                rounds.spawn(async move {
                    let asked = Instant::now();
                    (node.id, asked, resolve(&node.address, RESOLVE_TIMEOUT).await)
                });
            }
            let Some(found) = rounds.join_next().await else { break };
            let Ok((id, asked, answer)) = found else { continue };
            let Some(entry) = topology.position(id).map(|at| &topology.nodes[at]) else { continue };
            let lookup = lookup(&answer);
            scene.looked_up(asked, &(topology.pool.clone(), entry.node.name.clone()), lookup);
            is_missed |= lookup == Lookup::Unanswered && entry.targets.is_empty();
            let Some(change) = judge(&reader, &mut unknown, (id, answer)) else { continue };
            if inbox.send(change).await.is_err() {
                return;
            }
        }
        sleep(RESOLVE_PAUSE).await;
        let pause = if is_missed { RETRY_PAUSE } else { RESOLVE_INTERVAL } - RESOLVE_PAUSE;
        tokio::select! {
            () = hurry.notified() => {}
            () = sleep(pause) => {}
            () = inbox.closed() => return,
        }
    }
}

/// What an answer says of the resolver.
fn lookup(answer: &io::Result<Arc<[Target]>>) -> Lookup {
    match answer {
        Ok(targets) if !targets.is_empty() => Lookup::Found,
        Ok(_) => Lookup::Denied,
        Err(error) if is_denied(error) => Lookup::Denied,
        Err(_) => Lookup::Unanswered,
    }
}

/// What is to be said about an answer of the resolver.
fn judge(
    reader: &TopologyReader,
    unknown: &mut HashSet<NodeId>,
    found: (NodeId, io::Result<Arc<[Target]>>),
) -> Option<Change> {
    let (id, answer) = found;
    let topology = reader.load();
    let (pool, entry) = (&topology.pool, &topology.nodes[topology.position(id)?]);
    let (node, address) = (&entry.node.name, &entry.node.address);
    match answer {
        Ok(targets) if !targets.is_empty() => {
            if unknown.remove(&id) {
                tracing::info!(%pool, %node, %address, "the name resolves again");
            }
            if targets == entry.targets {
                return None;
            }
            let listed =
                |targets: &[Target]| targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let (addresses, before) = (listed(&targets), listed(&entry.targets));
            tracing::warn!(%pool, %node, %address, addresses, before, "the name resolves to other addresses");
            Some(topology.news(id, News::Resolved(targets)))
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::sync::mpsc;

    use super::*;
    use crate::topology::{Evidence, HealthSettings, Node, TopologyWriter, channel};

    /// A pool of one node whose address is this name.
    fn pool(name: &str) -> (TopologyWriter, TopologyReader) {
        let mut topology = crate::health::tests::topology(
            (Ipv4Addr::LOCALHOST, 1).into(),
            HealthSettings::default(),
            &Arc::new(Notify::new()),
        );
        let node = Node {
            id: NodeId(7),
            name: "n1".into(),
            address: Address::Tcp { host: name.into(), port: 6379 },
            weight: 1,
            zone: None,
            evidence: Evidence::default(),
            blocks: Arc::new([]),
            load: Arc::default(),
        };
        let entry = Entry { node: Arc::new(node), ..topology.nodes[0].clone() };
        topology.nodes = Arc::new([entry]);
        channel(topology)
    }

    fn targets(port: u16) -> Arc<[Target]> {
        Arc::new([Target::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))])
    }

    /// A name is asked for, and what it says goes to membership; it ends with membership.
    #[tokio::test]
    async fn a_name_is_resolved() {
        let (_writer, reader) = pool("localhost");
        let (inbox, mut changes) = mpsc::channel(4);
        let resolving = tokio::spawn(run(reader, inbox, Arc::new(Notify::new()), Scene::default()));
        let patience = Duration::from_secs(20);
        let change = tokio::time::timeout(patience, changes.recv()).await.expect("an answer in time");
        let Some(Change::News { node: NodeId(7), news: News::Resolved(found), .. }) = change else {
            panic!("{change:?}")
        };
        assert!(found.iter().all(|t| matches!(t, Target::Tcp(a) if a.port() == 6379)), "{found:?}");
        drop(changes);
        tokio::time::timeout(patience, resolving).await.expect("it ends").expect("it does not panic");
    }

    /// Only another answer is a change; a failure keeps what is known and is noted until it passes.
    #[test]
    fn only_another_answer_is_a_change() {
        let (_writer, reader) = pool("n1.example.internal");
        let mut unknown = HashSet::new();
        let mut judge = |answer| (judge(&reader, &mut unknown, (NodeId(7), answer)).is_some(), unknown.len());
        assert_eq!(judge(Ok(targets(1))), (false, 0), "as it is");
        assert_eq!(judge(Ok(targets(2))), (true, 0));
        assert_eq!(judge(Err(io::ErrorKind::NotFound.into())), (false, 1));
        assert_eq!(judge(Ok(Arc::new([]))), (false, 1));
        assert_eq!(judge(Ok(targets(1))), (false, 0));
        let mut none = HashSet::new();
        let gone = (NodeId(8), Ok(targets(2)));
        assert!(super::judge(&reader, &mut none, gone).is_none(), "the node left meanwhile");
    }

    /// Only names are asked for: an address that is a number means one place for ever.
    #[test]
    fn numbers_are_not_names() {
        for (address, expected) in
            [("localhost", true), ("127.0.0.1", false), ("::1", false), ("10.example", true)]
        {
            let (_writer, reader) = pool(address);
            assert_eq!(has_a_name(&reader.load().nodes[0]), expected, "{address}");
        }
    }
}

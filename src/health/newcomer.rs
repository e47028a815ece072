//! NEWCOMERS. A server that a reload puts in, as a new node or at another address, may have keys: it was in
//! the pool before, comes from another, or is meant for something else and the address is a slip. What it has
//! of the keys that become its own may be old, and nobody knows of which. So where a pool does not serve old
//! data a newcomer is emptied before it owns keys, as it is when it comes back, if the operator has said that
//! this may be; a durable pool is told of what it has. One that does not answer is not put in unasked either:
//! the address may be a slip, and who had its keys would delete them.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::{
    Life,
    probe::{self, Question},
};
use crate::{
    net::{Address, Target},
    protocol::Protocol,
    topology::{NodeSpec, OnReturn, Policy},
};

/// Asking or emptying a newcomer takes this at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// A node that no reload has had yet, and where it is.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The node.
    pub spec: NodeSpec,
    /// Where to dial.
    pub targets: Arc<[Target]>,
    /// Where the node was until now, if it has its keys: a process that is there as well has what it had.
    pub was: Option<Arc<[Target]>>,
}

/// How newcomers are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reception {
    /// It is only asked whether they answer, and whether they have keys that would be deleted.
    Look,
    /// They are emptied where they have to be. One that can't be reached is ejected by its first probe, and
    /// emptied when it comes.
    Empty,
}

/// Receives a newcomer before it owns keys.
///
/// # Errors
/// It does not answer, or has keys, and they would be deleted or can't be: in words for the operator.
pub async fn receive(
    pool: &str,
    policy: &Arc<Policy>,
    newcomer: &Newcomer,
    reception: Reception,
) -> Result<(), String> {
    let Newcomer { spec, targets, was } = newcomer;
    if policy.protocol == Protocol::Http || spec.address == Address::Embedded {
        return Ok(());
    }
    let is_silent = |why: &str| {
        let (address, node) = (&spec.address, &*spec.name);
        tracing::debug!(pool, node, why, "a new node can't be asked what it has");
        match reception {
            Reception::Look => Err(format!(
                "pool {pool}: the server at {address}, which is to be node {node}, does not answer as it should: {why}. Start \
                 it first, or leave it out; with reload: {{flush_new: true}} it is put in, and has no keys before it answers"
            )),
            Reception::Empty => Ok(()),
        }
    };
    if targets.is_empty() {
        return is_silent("its name does not resolve");
    }
    let question = Question::anew(&spec.address, targets, policy, PATIENCE);
    let node = &*spec.name;
    let life = match probe::life(&question, Instant::now() + PATIENCE).await {
        Ok(life) => life,
        Err(why) => return is_silent(&why),
    };
    let keys = life.as_ref().and_then(|life| life.keys).unwrap_or_default();
    if keys == 0 || is_there(was.as_ref(), &question, life.as_ref()).await {
        return Ok(());
    }
    if policy.on_return == OnReturn::Serve {
        if policy.durable {
            let why = "a durable pool serves what its nodes have, and nothing is known of these keys";
            tracing::warn!(pool, node, keys, why, "a new node has keys");
        }
        return Ok(());
    }
    let address = &spec.address;
    if reception == Reception::Look {
        return Err(format!(
            "pool {pool}: the server at {address}, which is to be node {node}, has {keys} keys. They may be old, and would \
             be deleted: if it is the right server, empty it or write reload: {{flush_new: true}}; with on_return: serve \
             they would be served"
        ));
    }
    match probe::empty(&question, Instant::now() + PATIENCE).await {
        Ok(_) => {
            let why = "nobody knows how old they are; on_return: serve would serve them";
            tracing::warn!(pool, node, keys, why, "a server that is new had keys and was emptied");
            Ok(())
        }
        Err(why) => Err(format!(
            "pool {pool}: the server at {address}, which is to be node {node}, has {keys} keys, which may be old, and it \
             can't be emptied: {why}; empty it, or write on_return: serve"
        )),
    }
}

/// Whether the process that answers is also where the node was: then it has what the node had. Of memcached
/// nobody can tell: in containers each has the same process id, and many the same start.
async fn is_there(was: Option<&Arc<[Target]>>, now: &Question, life: Option<&Life>) -> bool {
    if now.policy.protocol != Protocol::Redis {
        return false;
    }
    let (Some(targets), Some(life)) = (was.filter(|was| !was.is_empty()), life) else { return false };
    let before = Question { targets: targets.clone(), ..now.clone() };
    let answered = probe::life(&before, Instant::now() + PATIENCE).await;
    matches!(answered, Ok(Some(before)) if before.is_same(life))
}

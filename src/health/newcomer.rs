//! NEWCOMERS. A node that a reload adds may have keys: it was in the pool before, or comes from another. What it
//! has of the keys that become its own is old, and nobody knows of which. So where a pool does not serve old data
//! a newcomer is emptied before it owns keys, as it is when it comes back; a durable pool is told of what it has.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::probe::{self, Question};
use crate::{
    net::{Address, Target},
    protocol::Protocol,
    topology::{NodeSpec, OnReturn, Policy},
};

/// Emptying a newcomer takes this at most. One that can't be reached is ejected by its first probe, and
/// emptied when it comes.
const PATIENCE: Duration = Duration::from_secs(1);

/// A node that no reload has had yet, and where it is.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// The node.
    pub spec: NodeSpec,
    /// Where to dial.
    pub targets: Arc<[Target]>,
}

/// Receives a newcomer before it owns keys.
///
/// # Errors
/// It has keys and can't be emptied, or they are not known: in words for the operator.
pub async fn receive(pool: &str, policy: &Arc<Policy>, newcomer: &Newcomer) -> Result<(), String> {
    let Newcomer { spec, targets } = newcomer;
    if policy.protocol == Protocol::Http || spec.address == Address::Embedded || targets.is_empty() {
        return Ok(());
    }
    let question = Question {
        address: spec.address.clone(),
        targets: targets.clone(),
        policy: policy.clone(),
        timeout: PATIENCE,
        anew: true,
        who: false,
        flush: false,
        deep: None,
    };
    let until = Instant::now() + PATIENCE;
    let node = &*spec.name;
    let keys = match probe::keys(&question, until).await {
        Ok(keys) => keys.unwrap_or_default(),
        Err(why) => {
            tracing::debug!(pool, node, why, "a new node can't be asked what it has");
            return Ok(());
        }
    };
    if keys == 0 {
        return Ok(());
    }
    if policy.on_return == OnReturn::Serve {
        if policy.durable {
            let why = "a durable pool serves what its nodes have, and nothing is known of these keys";
            tracing::warn!(pool, node, keys, why, "a new node has keys");
        }
        return Ok(());
    }
    match probe::empty(&question, until).await {
        Ok(_) => {
            let why = "nobody knows how old they are; on_return: serve would serve them";
            tracing::warn!(pool, node, keys, why, "a new node had keys and was emptied");
            Ok(())
        }
        Err(why) => Err(format!(
            "pool {pool}: node {node} is new and has {keys} keys, which may be old, and it can't be emptied: {why}; \
             empty it, or write on_return: serve"
        )),
    }
}

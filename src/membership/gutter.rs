//! GUTTERS. A pool whose keys fail over follows the pool that serves them meanwhile. Pure.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    event::What,
    ledger::Ledger,
    plan::{Outcome, Step},
};
use crate::topology::{Health, Placement, Policy, Topology};

/// Whether a pool is the one that serves the keys of another's ejected nodes.
pub fn is_gutter_of(policy: &Policy, gutter: &Topology) -> bool {
    policy.fails_over() && policy.failover.as_ref().is_some_and(|f| f.pool == gutter.pool)
}

/// Plans what comes of a change of the pool that serves the keys of ejected nodes; `None` when it is gone.
pub fn follow(now: &Topology, ledger: &Ledger, gutter: Option<Arc<Topology>>, time: Instant) -> Outcome {
    let epoch = |gutter: &Option<Arc<Topology>>| gutter.as_ref().map(|gutter| gutter.epoch);
    if now.gutter.as_ref().map(Arc::as_ptr) == gutter.as_ref().map(Arc::as_ptr) {
        return Outcome::Nothing;
    }
    let is_used = now.nodes.iter().any(|e| matches!(e.placement, Placement::Away | Placement::Starting(_)));
    let moves = is_used && epoch(&now.gutter) != epoch(&gutter);
    let events = match (&gutter, moves) {
        (_, false) => Vec::new(),
        (None, true) => vec![What::Gutter("its gutter pool is gone".into()).of_pool()],
        (Some(gutter), true) => {
            let evidence = format!("gutter pool {} is at its epoch {}", gutter.pool, gutter.epoch);
            vec![What::Gutter(evidence.into()).of_pool()]
        }
    };
    let next =
        Topology { epoch: now.epoch + u64::from(moves), revision: now.revision + 1, gutter, ..now.clone() };
    let mut ledger = ledger.clone();
    let well = next.gutter.as_ref().is_none_or(|gutter| !stands(gutter));
    if well && now.gutter.as_ref().is_some_and(|gutter| stands(gutter)) {
        let ttl_max = now.policy.failover.as_ref().map(|f| f.ttl_max);
        ttl_max.into_iter().for_each(|ttl_max| ledger.debts.gutter_goes_on(ttl_max, time));
    }
    if well {
        ledger.debts.gutter_is_well(&next.nodes);
    }
    Outcome::Publish(Box::new(Step { next, ledger, events }))
}

/// Whether some node that serves may stand still, so that it is not emptied when it goes on.
fn stands(gutter: &Topology) -> bool {
    gutter.nodes.iter().any(|e| e.placement.serves() && e.health != Health::Healthy)
}

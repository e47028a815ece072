//! GUTTERS, and what is left of an absence. A pool whose keys fail over follows the pool that serves them
//! meanwhile; and what that one, or neighbours, took for a node may be there for a while after its return.
//! Pure.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    event::What,
    ledger::Ledger,
    plan::{Outcome, Step},
};
use crate::topology::{Health, OnReturn, Placement, Policy, Topology};

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
        ttl_max.into_iter().for_each(|ttl_max| ledger.gutter_goes_on(ttl_max, time));
    }
    if well {
        ledger.gutter_is_well(&next.nodes);
    }
    Outcome::Publish(Box::new(Step { next, ledger, events }))
}

/// Whether some node that serves may stand still, so that it is not emptied when it goes on.
fn stands(gutter: &Topology) -> bool {
    gutter.nodes.iter().any(|e| e.placement.serves() && e.health != Health::Healthy)
}

/// So long after it was last told that they are looked through others may have what they took for a node:
/// longer than a node that can't be looked through is tried.
const SWEEP_MAX: Duration = Duration::from_secs(120);

/// Remembers that a reload has what is written, to the gutter or to the pool's own nodes, live for a shorter
/// time than what is there.
pub(super) fn shortens(before: &Policy, after: &Policy, ledger: &mut Ledger, time: Instant) {
    if let (Some(before), Some(after)) = (&before.failover, &after.failover)
        && before.pool == after.pool
        && before.ttl_max > after.ttl_max
    {
        ledger.lives_longer(time + before.ttl_max);
    }
    let is_shorter = after.ttl_max.is_some_and(|after| before.ttl_max.is_none_or(|before| before > after));
    if is_shorter && after.minds_old_copies() {
        ledger.lives_longer(time + sweep_max(before));
        if after.on_return == OnReturn::Ttl {
            ledger.unbounded();
        }
    }
}

/// How long nodes of the pool may have what is another's.
pub(super) fn sweep_max(policy: &Policy) -> Duration {
    match policy.on_return {
        OnReturn::Ttl => policy.ttl_max.unwrap_or(SWEEP_MAX),
        _ => policy.ttl_max.unwrap_or(SWEEP_MAX).min(SWEEP_MAX),
    }
}

/// Until when they may as long as it is not told again that they are looked through.
pub(super) fn sweeps_until(policy: &Policy, time: Instant) -> Instant {
    time + sweep_max(policy).min(SWEEP_MAX)
}

/// Until when others may have what they took for a node that is back, when it is not deleted key by key.
pub(super) fn unswept_until(policy: &Policy, time: Instant) -> Instant {
    let of_gutter = policy.failover.as_ref().filter(|_| policy.fails_over()).map(|f| f.ttl_max);
    let of_pool = Some(sweep_max(policy)).filter(|_| policy.rehashes());
    // Its last keys come back that much later, and others are not looked at before.
    time + policy.slow_start + of_gutter.into_iter().chain(of_pool).max().unwrap_or(SWEEP_MAX)
}

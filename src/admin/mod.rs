//! HTTP routes for operators, on the control runtime: each answers from a read of the topology and of
//! the counters; orders for nodes alone change anything, and membership decides about them. What takes time
//! is rendered off the control loop.

mod dashboard;
mod keeping;
mod orders;
mod routes;
mod serve;
mod view;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{clock, membership, metrics::PoolBlock, topology::TopologyReader};

pub use keeping::Keeping;
pub use routes::router;
pub use serve::serve;

/// One pool, as far as operators may look into it.
#[derive(Clone)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Its topology.
    pub topology: TopologyReader,
    /// What the data workers count for it.
    pub blocks: Arc<[PoolBlock]>,
}

/// What came of a reload.
#[derive(Clone, Debug, Serialize)]
pub struct LastReload {
    /// When it was, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Why it was refused; empty when it is in force.
    pub refused: Vec<String>,
    /// It was refused for the pools that are named there, and all else is in force; else the old settings
    /// stay.
    pub in_part: bool,
    /// What only a restart puts in force.
    pub needs_restart: Vec<&'static str>,
}

/// What the routes answer from. Clones share everything.
#[derive(Clone)]
pub struct AdminState {
    /// The pools, in the order of the configuration.
    pub pools: Arc<ArcSwap<Vec<Pool>>>,
    /// Who takes orders for nodes, and knows what happened to them.
    pub membership: membership::Handle,
    /// What the control plane counts: see [`crate::metrics::facade`].
    pub recorder: PrometheusHandle,
    /// Tells this run of the process from the one before: epochs start anew.
    pub boot_id: Arc<str>,
    /// When the process started, in seconds since the Unix epoch.
    pub started: f64,
    /// Whether the next process will know what this one does.
    pub keeping: Arc<Keeping>,
    draining: Arc<AtomicBool>,
    last_reload: Arc<ArcSwapOption<LastReload>>,
    /// One page is rendered at a time: it may take a core for as long as it is large.
    rendering: Arc<Semaphore>,
}

impl AdminState {
    /// The state of a process that starts now.
    pub fn new(
        pools: Vec<Pool>,
        membership: membership::Handle,
        recorder: PrometheusHandle,
        boot_id: Arc<str>,
    ) -> AdminState {
        AdminState {
            pools: Arc::new(ArcSwap::from_pointee(pools)),
            membership,
            recorder,
            boot_id,
            started: clock::unix().as_secs_f64(),
            keeping: Arc::default(),
            draining: Arc::default(),
            last_reload: Arc::default(),
            rendering: Arc::new(Semaphore::new(1)),
        }
    }

    /// From now on `/readyz` says that this process is going away.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// From now on this is what came of the last reload.
    pub fn reloaded(&self, last: LastReload) {
        self.last_reload.store(Some(Arc::new(last)));
    }

    /// What came of the last reload, if there was one.
    pub fn last_reload(&self) -> Option<Arc<LastReload>> {
        self.last_reload.load_full()
    }

    /// Whether this process is going away.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

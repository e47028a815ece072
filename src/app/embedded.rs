//! The embedded nodes of all pools, on a thread of their own, so that their work is not mistaken
//! for a control plane that lags.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{AppError, thread::Thread};
use crate::{
    embedded::{Embedded, Settings, Speaks},
    net::{Address, Target},
    protocol::Protocol,
    topology::PoolSpec,
};

/// What runs.
#[derive(Default)]
pub(super) struct EmbeddedNodes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    thread: Option<Thread>,
    /// By pool and node.
    nodes: HashMap<(Arc<str>, Arc<str>), Embedded>,
}

impl EmbeddedNodes {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the embedded nodes of a pool that do not run yet.
    pub(super) fn start(&self, spec: &PoolSpec) -> Result<(), AppError> {
        let inner = &mut *self.lock();
        for node in spec.nodes.iter().filter(|n| n.address == Address::Embedded) {
            let key = (spec.name.clone(), node.name.clone());
            if inner.nodes.contains_key(&key) {
                continue;
            }
            if inner.thread.is_none() {
                inner.thread = Some(Thread::start("embedded")?);
            }
            let Some(thread) = &inner.thread else { continue };
            let _inside = thread.handle().enter();
            let speaks = match spec.policy.protocol {
                Protocol::Memcached => Speaks::Memcached,
                Protocol::Redis | Protocol::Http => Speaks::Redis,
            };
            let settings = Settings { name: node.name.to_string(), speaks, ..Settings::default() };
            let started = Embedded::start(settings).map_err(|error| AppError::Embedded {
                pool: spec.name.to_string(),
                node: node.name.to_string(),
                error,
            })?;
            inner.nodes.insert(key, started);
        }
        Ok(())
    }

    /// Stops the embedded nodes that these pools do not have.
    pub(super) fn keep(&self, pools: &[PoolSpec]) {
        let wanted = |pool: &str, name: &str| {
            let nodes = pools.iter().find(|p| &*p.name == pool).map(|p| &p.nodes);
            nodes.is_some_and(|n| n.iter().any(|n| &*n.name == name && n.address == Address::Embedded))
        };
        self.lock().nodes.retain(|(pool, node), _| wanted(pool, node));
    }

    /// Where an embedded node listens.
    pub(super) fn target(&self, pool: &str, node: &str) -> Option<Target> {
        let inner = self.lock();
        let found = inner.nodes.iter().find(|((p, n), _)| &**p == pool && &**n == node);
        found.map(|(_, embedded)| Target::Tcp(embedded.address()))
    }

    /// Stops all.
    pub(super) fn stop(&self) {
        let mut inner = self.lock();
        inner.nodes.clear();
        if let Some(thread) = inner.thread.take() {
            thread.stop();
        }
    }
}

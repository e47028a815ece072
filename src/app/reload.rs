//! Taking over a new configuration while clients stay connected. A bad one changes nothing.

use std::sync::Arc;

use super::{App, AppError};
use crate::{config::Settings, topology::PoolSpec};

/// What a reload did.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The share of its key space that moved, by pool that was there before.
    pub moved: Vec<(Arc<str>, f64)>,
    /// What was not done, and why.
    pub refused: Vec<String>,
    /// What only a restart can change.
    pub needs_restart: Vec<&'static str>,
}

impl App {
    /// Puts new settings in force, pool by pool.
    ///
    /// # Errors
    /// [`AppError`] when a listener or an embedded node can't be started; then nothing changed.
    pub async fn reload(&self, settings: Settings) -> Result<Reloaded, AppError> {
        let before = self.lock().settings.clone();
        let mut done = Reloaded { needs_restart: needs_restart(&before, &settings), ..Reloaded::default() };
        let mut bound = Vec::new();
        for spec in &settings.pools {
            let state = self.lock();
            let open = state.pools.iter().find(|p| p.handle.name == spec.name);
            bound.push(self.listen(spec, open.map_or(&[], |p| &p.listeners))?);
            drop(state);
            self.embedded.start(spec)?;
        }
        self.membership.set_max_share(settings.reload.max_share).await;
        let mut pools = Vec::new();
        for (spec, listeners) in settings.pools.iter().zip(bound) {
            let old = before.pools.iter().find(|p| p.name == spec.name);
            let spec = Arc::new(spec.clone());
            let Some(old) = old else {
                self.open(&spec, listeners);
                pools.push(PoolSpec::clone(&spec));
                continue;
            };
            if old.policy.protocol != spec.policy.protocol {
                done.refused.push(other_protocol(&spec, old));
                pools.push(old.clone());
                continue;
            }
            match self.membership.reload(spec.clone(), false).await {
                Ok(moved) => {
                    done.moved.push((spec.name.clone(), moved));
                    self.relisten(&spec, listeners);
                    pools.push(PoolSpec::clone(&spec));
                }
                Err(why) => {
                    done.refused.push(why);
                    pools.push(old.clone());
                }
            }
        }
        self.close_missing(&settings.pools);
        self.embedded.keep(&pools);
        let workers = before.workers;
        let (admin, buffered_bytes) = (before.admin, before.buffered_bytes);
        self.lock().settings = Settings { workers, admin, buffered_bytes, pools, ..settings };
        self.show_pools();
        Ok(done)
    }

    fn relisten(&self, spec: &PoolSpec, listeners: Vec<(crate::net::ListenAddress, crate::net::Listener)>) {
        let mut state = self.lock();
        let Some(pool) = state.pools.iter_mut().find(|p| p.handle.name == spec.name) else { return };
        for (asked, listener) in listeners {
            self.accept(pool, asked, listener);
        }
        let (stay, go): (Vec<_>, Vec<_>) =
            pool.listeners.drain(..).partition(|l| spec.listen.contains(&l.asked));
        pool.listeners = stay;
        drop(state);
        for listening in go {
            listening.stop();
        }
    }

    fn close_missing(&self, pools: &[PoolSpec]) {
        let mut state = self.lock();
        let (stay, go): (Vec<_>, Vec<_>) =
            state.pools.drain(..).partition(|open| pools.iter().any(|p| p.name == open.handle.name));
        state.pools = stay;
        drop(state);
        for pool in go {
            self.close(pool);
        }
    }
}

/// Its sessions and connections speak the old one.
fn other_protocol(spec: &PoolSpec, old: &PoolSpec) -> String {
    let (word, was) = (spec.policy.protocol.word(), old.policy.protocol.word());
    format!("pool {}: it speaks {was} and can't change to {word}; give the new pool another name", spec.name)
}

fn needs_restart(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let changed = [
        ("workers", before.workers != after.workers),
        ("admin.listen", before.admin != after.admin),
        ("buffered_bytes", before.buffered_bytes != after.buffered_bytes),
        ("incidents", before.incidents != after.incidents),
    ];
    changed.into_iter().filter(|c| c.1).map(|c| c.0).collect()
}

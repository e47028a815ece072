//! Taking over a new configuration while clients stay connected: all of it or nothing, but for pools of which
//! only the attempt tells that they can't have it.

use std::sync::Arc;

use super::{
    App, AppError,
    pools::{Bound, Listening, OpenPool},
};
use crate::{
    config::Settings,
    net::Listener,
    topology::{NodeSpec, PoolSpec, ReloadMode},
};

/// What a reload did.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// The share of its key space that moved, by pool that was there before.
    pub moved: Vec<(Arc<str>, f64)>,
    /// What was not done, and why.
    pub refused: Vec<String>,
    /// Only the pools that are named there stay as they were, and the rest is in force.
    pub in_part: bool,
    /// What only a restart can change.
    pub needs_restart: Vec<&'static str>,
}

impl App {
    /// Puts new settings in force: all of them, or, when anything is refused, none. What is refused when it
    /// is tried holds back its pool alone.
    ///
    /// # Errors
    /// [`AppError`] when a listener or an embedded node can't be started; then nothing changed.
    pub async fn reload(&self, settings: Settings) -> Result<Reloaded, AppError> {
        let before = self.lock().settings.clone();
        let mut done = Reloaded { needs_restart: needs_restart(&before, &settings), ..Reloaded::default() };
        // The file says itself how much it may move.
        self.membership.set_max_share(settings.reload.max_share).await;
        done.refused = self.refusals(&before, &settings).await;
        let bound = if done.refused.is_empty() { self.bind_all(&settings) } else { Ok(Vec::new()) };
        let bound = match (bound, done.refused.is_empty()) {
            (Ok(bound), true) => bound,
            (bound, _) => {
                self.membership.set_max_share(before.reload.max_share).await;
                self.embedded.keep(&before.pools);
                return bound.map(|_| done);
            }
        };
        let flush_new = settings.reload.flush_new;
        let mut pools = Vec::new();
        for (spec, listeners) in settings.pools.iter().zip(bound) {
            let old = before.pools.iter().find(|p| p.name == spec.name);
            let spec = Arc::new(spec.clone());
            let Some(old) = old else {
                self.open(&spec, listeners);
                pools.push(PoolSpec::clone(&spec));
                continue;
            };
            match self.membership.reload(spec.clone(), ReloadMode::Do { flush_new }).await {
                Ok(moved) => {
                    done.moved.push((spec.name.clone(), moved));
                    self.relisten(&spec, listeners);
                    pools.push(PoolSpec::clone(&spec));
                }
                // A new node of it can't be emptied, which is known only when it is tried.
                Err(why) => {
                    done.refused.push(why);
                    done.in_part = true;
                    pools.push(old.clone());
                }
            }
        }
        for old in before.pools.iter().filter(|old| settings.pools.iter().all(|new| new.name != old.name)) {
            let new = settings.pools.iter().find(|new| is_renamed(old, new)).map(|new| &*new.name);
            let what = "its clients are disconnected, and what was known of its nodes is forgotten";
            tracing::warn!(pool = &*old.name, goes_on_as = new, what, "a pool is not in the new file");
        }
        self.close_missing(&settings.pools);
        self.embedded.keep(&pools);
        let (workers, coalesce, state_file) = (before.workers, before.coalesce, before.state_file);
        let (admin, buffered_bytes, incidents) = (before.admin, before.buffered_bytes, before.incidents);
        self.lock().settings =
            Settings { workers, coalesce, state_file, admin, buffered_bytes, incidents, pools, ..settings };
        self.pools_changed();
        Ok(done)
    }

    /// Why the new settings are not put in force; none when they may be.
    async fn refusals(&self, before: &Settings, after: &Settings) -> Vec<String> {
        let mut refused = Vec::new();
        for old in &before.pools {
            let share = after.reload.max_share;
            let Some(spec) = after.pools.iter().find(|p| p.name == old.name) else {
                if share < 1.0 && !after.pools.iter().any(|new| is_renamed(old, new)) {
                    refused.push(missing(old, share));
                }
                continue;
            };
            if old.policy.protocol != spec.policy.protocol {
                refused.push(other_protocol(spec, old));
                continue;
            }
            let mode = ReloadMode::Weigh { flush_new: after.reload.flush_new };
            let weighed = self.membership.reload(Arc::new(spec.clone()), mode).await;
            refused.extend(weighed.err());
        }
        refused
    }

    /// Binds what is missing, and starts embedded nodes.
    fn bind_all(&self, settings: &Settings) -> Result<Vec<Bound>, AppError> {
        let mut bound = Vec::new();
        for spec in &settings.pools {
            let state = self.lock();
            let open = state.pools.iter().find(|p| p.handle.name == spec.name);
            let is_gone = |p: &&OpenPool| settings.pools.iter().all(|new| new.name != p.handle.name);
            let going: Vec<&Listening> =
                state.pools.iter().filter(is_gone).flat_map(|p| p.listeners.iter()).collect();
            bound.push(self.listen(spec, open.map_or(&[], |p| &p.listeners), &going)?);
            drop(state);
            self.embedded.start(spec)?;
        }
        Ok(bound)
    }

    fn relisten(&self, spec: &PoolSpec, listeners: Bound) {
        let mut state = self.lock();
        let Some(pool) = state.pools.iter_mut().find(|p| p.handle.name == spec.name) else { return };
        for (asked, listener) in listeners {
            self.accept(pool, asked, listener);
        }
        let (stay, go): (Vec<_>, Vec<_>) =
            pool.listeners.drain(..).partition(|l| spec.listen.contains(&l.asked));
        for open in &stay {
            // One that was removed takes a restart: nobody knows what the umask was.
            let opened = spec.policy.socket_mode.map_or(Ok(()), |mode| Listener::open_to(&open.asked, mode));
            if let Err(error) = opened {
                tracing::warn!(pool = &*spec.name, address = %open.asked, %error, "can't change the socket's mode");
            }
        }
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

/// Whether a pool that is not there any more goes on under another name: with its listeners, nodes and
/// placement.
fn is_renamed(old: &PoolSpec, new: &PoolSpec) -> bool {
    let members = |spec: &PoolSpec| spec.nodes.iter().map(NodeSpec::member).collect::<Vec<_>>();
    old.listen == new.listen && old.ring == new.ring && members(old) == members(new)
}

/// Leaving it out may be a slip, and cuts its clients off.
fn missing(old: &PoolSpec, share: f64) -> String {
    format!(
        "pool {}: it is not in the new file, and without it 100 % of its key space would go, more than \
         reload.max_share ({:.1} %): if that is meant, write reload.max_share: 100% for this reload",
        old.name,
        share * 100.0
    )
}

/// Its sessions and connections speak the old one.
fn other_protocol(spec: &PoolSpec, old: &PoolSpec) -> String {
    let (word, was) = (spec.policy.protocol.word(), old.policy.protocol.word());
    format!("pool {}: it speaks {was} and can't change to {word}; give the new pool another name", spec.name)
}

fn needs_restart(before: &Settings, after: &Settings) -> Vec<&'static str> {
    let changed = [
        ("workers", before.workers != after.workers),
        ("coalesce", before.coalesce != after.coalesce),
        ("admin.listen", before.admin != after.admin),
        ("buffered_bytes", before.buffered_bytes != after.buffered_bytes),
        ("state_file", before.state_file != after.state_file),
        ("incidents", before.incidents != after.incidents),
    ];
    changed.into_iter().filter(|c| c.1).map(|c| c.0).collect()
}

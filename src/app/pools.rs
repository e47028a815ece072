//! Opening and closing pools: listeners, topology, health, and what the admin port shows of them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
};

use super::{App, AppError, bind};
use crate::{
    admin, health,
    membership::{self, Absences, Births, absences, first_topology, recall},
    net::{Address, ListenAddress, Listener, Spare, Target, resolve},
    proxy::{self, Order, PoolHandle, Registry},
    topology::{self, NodeSpec, PoolSpec, Samples},
};

/// How long a start waits for the names of nodes; one that does not resolve by then is ejected
/// until it does.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a listener that closes may take to accept who waits already.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(1);

fn names(absences: &Absences) -> String {
    absences.keys().map(|name| &**name).collect::<Vec<_>>().join(", ")
}

/// Listeners, each with the address that was asked for.
pub(super) type Bound = Vec<(ListenAddress, Listener)>;

/// A pool that runs.
pub(super) struct OpenPool {
    pub(super) handle: Arc<PoolHandle>,
    pub(super) listeners: Vec<Listening>,
    health: AbortHandle,
    /// Has what is to be known of it in the state file.
    follower: AbortHandle,
}

/// A listener that accepts.
pub(super) struct Listening {
    /// As configured.
    pub(super) asked: ListenAddress,
    /// Where it listens.
    pub(super) address: ListenAddress,
    /// Accepts on the same socket, for a pool that takes it over.
    spare: Option<Spare>,
    stop: oneshot::Sender<()>,
    stopped: std::sync::mpsc::Receiver<()>,
}

impl Listening {
    /// Accepts who waits already, then closes.
    pub(super) fn stop(self) {
        drop(self.stop);
        // A thread that is gone has closed it.
        let _ = self.stopped.recv_timeout(SWEEP_TIMEOUT);
    }
}

impl App {
    /// Binds the listeners of a pool that `open` lacks. What a pool that goes listens on is taken over.
    pub(super) fn listen(
        &self,
        spec: &PoolSpec,
        open: &[Listening],
        going: &[&Listening],
    ) -> Result<Bound, AppError> {
        let missing = spec.listen.iter().filter(|asked| !open.iter().any(|l| l.asked == **asked));
        let who = format!("pool {}", spec.name);
        let listener = |asked: &ListenAddress| {
            // One that was handed over is taken anew from where it is kept.
            let going = going.iter().find(|l| l.asked == *asked && !self.handed.has(asked));
            let spare = going.and_then(|l| l.spare.as_ref());
            let _inside = self.accepting.handle().enter();
            match spare.and_then(|spare| spare.listener().ok()) {
                Some(listener) => Ok(listener),
                None => {
                    let listener = bind(&self.accepting, &self.handed, &who, asked)?;
                    // The file of one that was handed over is its owner's.
                    let mode = spec.policy.socket_mode.filter(|_| !listener.is_handed());
                    let opened = mode.map_or(Ok(()), |mode| Listener::open_to(asked, mode));
                    let failed = |error| AppError::Listen { who: who.clone(), address: asked.clone(), error };
                    opened.map(|()| listener).map_err(failed)
                }
            }
        };
        missing.map(|asked| Ok((asked.clone(), listener(asked)?))).collect()
    }

    /// Opens a pool whose listeners are bound.
    pub(super) fn open(&self, spec: &Arc<PoolSpec>, listeners: Bound) {
        let bell = Arc::new(Notify::new());
        let mut state = self.lock();
        state.next_pool += 1;
        let workers = state.settings.workers;
        let births = Births { ids: self.ids.clone(), workers, bell: bell.clone() };
        let targets = self.locate(spec);
        let by_name: HashMap<&str, &Arc<[Target]>> =
            spec.nodes.iter().map(|n| &*n.name).zip(&targets).collect();
        let found =
            |node: &NodeSpec| by_name.get(&*node.name).map_or_else(|| Arc::from([]), |t| Arc::clone(t));
        let mut first = first_topology(spec, &births, found);
        let id = state.next_pool;
        let absences = self.state_file.begin(&spec.name, id);
        if !absences.is_empty() {
            let nodes = names(&absences);
            tracing::info!(
                pool = &*spec.name,
                nodes,
                "not in their place when ringway ended, or ordered so, or others had old copies of their keys"
            );
        }
        recall(&mut first, &absences);
        let (writer, reader) = topology::channel(first);
        let (writes, noted) = topology::write_notes();
        let handle = Arc::new(PoolHandle {
            name: spec.name.clone(),
            protocol: spec.policy.protocol,
            id,
            reader: reader.clone(),
            blocks: PoolHandle::blocks(workers),
            sessions: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            run_id: self.run_id.clone(),
            scripts: Arc::default(),
            registry: Registry::default(),
            writes,
            samples: Samples::new(workers),
            graces: PoolHandle::graces(workers),
            given: PoolHandle::given(workers),
        });
        let follower = self.control.handle().spawn(self.state_file.clone().follow(id, reader.clone()));
        let blocks = handle.blocks.clone();
        let pool = membership::Pool { writer, spec: spec.clone(), bell: bell.clone(), blocks };
        let (membership, scene) = (self.membership.clone(), self.scene.clone());
        let (graces, samples) = (handle.graces.clone(), handle.samples.clone());
        let returns = health::Returns { noted, graces, samples };
        let health = self.control.handle().spawn(proxy::essential(async move {
            let inbox = membership.inbox();
            membership.add(pool).await;
            drop(membership);
            health::run(reader, bell, inbox, scene, returns).await;
        }));
        let mut open = OpenPool {
            handle,
            listeners: Vec::new(),
            health: health.abort_handle(),
            follower: follower.abort_handle(),
        };
        for (asked, listener) in listeners {
            self.accept(&mut open, asked, listener);
        }
        state.pools.push(open);
    }

    /// Says which nodes the next process will take for nodes that have been in their place.
    pub(super) fn warn_of_absences(&self) {
        let state = self.lock();
        for pool in state.pools.iter().filter(|_| state.settings.state_file.is_none()) {
            let absences = absences(&pool.handle.reader.load(), &Absences::new());
            if !absences.is_empty() {
                let (pool, nodes) = (&*pool.handle.name, names(&absences));
                tracing::warn!(
                    pool,
                    nodes,
                    "not in their place, or ordered so, or others have old copies of their keys, and the next ringway will not know it: set state_file"
                );
            }
        }
    }

    /// Accepts on one more listener of a pool.
    pub(super) fn accept(&self, pool: &mut OpenPool, asked: ListenAddress, listener: Listener) {
        let (address, spare) = (listener.address(), listener.spare());
        let (stop, stopping) = oneshot::channel();
        let (end, stopped) = std::sync::mpsc::channel();
        let accepting = proxy::accept(listener, pool.handle.clone(), self.workers.clone(), stopping);
        self.accepting.spawn(async move {
            accepting.await;
            // Nobody may be waiting.
            let _ = end.send(());
        });
        pool.listeners.push(Listening { asked, address, spare, stop, stopped });
    }

    /// Closes a pool: no new clients, those that are there are served to the end of what they
    /// asked.
    pub(super) fn close(&self, pool: OpenPool) {
        for listening in pool.listeners {
            listening.stop();
        }
        pool.health.abort();
        let (id, name) = (pool.handle.id, pool.handle.name.clone());
        self.workers.tell(|| Order::Close(id));
        pool.follower.abort();
        self.state_file.forget(&name, id);
        let membership = self.membership.clone();
        self.control.spawn(async move { membership.remove(name).await });
    }

    /// Tells the admin port which pools there are.
    pub(super) fn show_pools(&self) {
        let show = |p: &OpenPool| admin::Pool {
            name: p.handle.name.clone(),
            topology: p.handle.reader.clone(),
            blocks: p.handle.blocks.clone(),
        };
        let shown: Vec<_> = self.lock().pools.iter().map(show).collect();
        self.admin.pools.store(Arc::new(shown));
    }

    /// Where the nodes of a new pool are.
    fn locate(&self, spec: &PoolSpec) -> Vec<Arc<[Target]>> {
        let (sender, found) = std::sync::mpsc::channel();
        for (i, node) in spec.nodes.iter().enumerate() {
            let (sender, address) = (sender.clone(), node.address.clone());
            let embedded = self.embedded.target(&spec.name, &node.name);
            self.accepting.spawn(async move {
                let targets = match (address, embedded) {
                    (Address::Embedded, target) => target.into_iter().collect(),
                    (address, _) => resolve(&address, RESOLVE_TIMEOUT).await.unwrap_or_default(),
                };
                // The receiver waits for all.
                let _ = sender.send((i, targets));
            });
        }
        drop(sender);
        let mut all: Vec<Arc<[Target]>> = vec![Arc::from([]); spec.nodes.len()];
        for (i, targets) in found {
            all[i] = targets;
        }
        all
    }
}

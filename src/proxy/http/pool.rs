//! What one worker keeps for one HTTP pool: the topology it is bound to, its links to the nodes and
//! its sessions.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use super::{link::Link, session::Session};
use crate::{
    metrics::PoolBlock,
    proxy::{
        PoolHandle, facts,
        rebind::{self, Departure, Leaving},
        worker::Worker,
    },
    topology::{Entry, Placement, Policy, Topology, TopologyCache},
};

/// A topology with one link per node, in its order.
pub(super) struct Bound {
    pub(super) topology: Arc<Topology>,
    pub(super) links: Vec<Rc<Link>>,
    /// Every node serves all of its keys.
    pub(super) is_whole: bool,
}

impl Bound {
    fn new(topology: Arc<Topology>, links: Vec<Rc<Link>>) -> Bound {
        let is_whole = topology.nodes.iter().all(|entry| entry.placement == Placement::Owns);
        Bound { topology, links, is_whole }
    }
}

/// One worker's part of a pool.
pub(crate) struct HttpPool {
    pub(crate) handle: Arc<PoolHandle>,
    pub(super) worker: Rc<Worker>,
    cache: RefCell<TopologyCache>,
    bound: RefCell<Rc<Bound>>,
    sessions: RefCell<HashMap<u64, Rc<Session>>>,
    /// Connections that were handed over from one protocol to another.
    pub(super) tunnels: Cell<usize>,
    swept_us: Cell<u32>,
}

/// Between two looks at all sessions and idle connections.
const SWEEP_US: u32 = 100_000;

impl HttpPool {
    pub(crate) fn new(worker: Rc<Worker>, handle: Arc<PoolHandle>) -> HttpPool {
        let topology = handle.reader.load();
        let links = topology.nodes.iter().map(|e| Link::new(e, worker.index)).collect();
        HttpPool {
            cache: RefCell::new(handle.reader.cache()),
            handle,
            worker,
            bound: RefCell::new(Rc::new(Bound::new(topology, links))),
            sessions: RefCell::default(),
            tunnels: Cell::default(),
            swept_us: Cell::default(),
        }
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// This worker's counters.
    pub(super) fn block(&self) -> &PoolBlock {
        &self.handle.blocks[self.worker.index]
    }

    pub(super) fn enter(&self, session: &Rc<Session>) {
        self.sessions.borrow_mut().insert(session.id, session.clone());
    }

    pub(super) fn forget(&self, id: u64) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.remove(&id);
        facts::shrink(&mut sessions);
    }

    /// The topology in force, bound.
    pub(super) fn bound(&self) -> Rc<Bound> {
        let mut cache = self.cache.borrow_mut();
        let topology = cache.load();
        let bound = self.bound.borrow();
        if Arc::ptr_eq(topology, &bound.topology) {
            return bound.clone();
        }
        let topology = topology.clone();
        drop((bound, cache));
        self.rebind(topology)
    }

    /// Takes over a new topology as soon as it is there, for those who wait for it.
    pub(crate) fn follow(&self) {
        self.bound();
    }

    fn rebind(&self, topology: Arc<Topology>) -> Rc<Bound> {
        let old = self.bound.borrow().clone();
        let make = |entry: &Entry, _: &Arc<Policy>| Link::new(entry, self.worker.index);
        let links = rebind::carry(&old.links, &topology, make);
        let bound = Rc::new(Bound::new(topology, links));
        *self.bound.borrow_mut() = bound.clone();
        if old.topology.policy.http != bound.topology.policy.http {
            bound.links.iter().for_each(|link| link.forget());
        }
        for Departure { side: link, leaving, .. } in rebind::departures(&old.links, &bound.topology) {
            link.leave(leaving);
        }
        bound
    }

    /// Looks after timeouts, idle connections and the snapshot; called at each tick of the worker.
    pub(crate) fn tick(&self, now_us: u32) {
        let bound = self.bound();
        if now_us.wrapping_sub(self.swept_us.get()) < SWEEP_US {
            return;
        }
        self.swept_us.set(now_us);
        let policy = &bound.topology.policy;
        bound.links.iter().for_each(|link| link.tidy(policy.http.idle_connections));
        for session in self.sessions.borrow().values() {
            session.check(now_us, &policy.http.limits);
        }
    }

    /// Its clients finish what they asked for, and go.
    pub(crate) fn end_sessions(&self) {
        self.sessions.borrow().values().for_each(|session| session.end());
    }

    /// Whether nobody uses it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.borrow().is_empty() && self.tunnels.get() == 0
    }

    /// The pool is gone and has no sessions any more: closes its connections.
    pub(crate) fn close(&self) {
        self.bound.borrow().links.iter().for_each(|link| link.leave(Leaving::Retire));
    }
}

//! What one worker keeps for one pool: the topology it is bound to, and its links to the nodes.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, Release},
        },
    },
    time::Duration,
};

use super::{
    clock::us,
    connect,
    dialect::SharedDecoder,
    dispatch, facts,
    flow::OUT_HIGH,
    link::Link,
    pipeline::{Content, Expect, Pipeline, Queued},
    rebind::{self, Departure, Leaving},
    scripts::Scripts,
    session::Session,
    worker::Worker,
};
use crate::{
    metrics::{Class, PoolBlock},
    protocol::{
        Protocol, memcache,
        resp::{frame::FrameLimits, table::Table},
    },
    topology::{
        Entry, OnReturn, Placement, Policy, Route, Samples, Topology, TopologyCache, TopologyReader,
        WriteNotes, Written,
    },
};

/// A pool as all workers and the control plane share it.
pub struct PoolHandle {
    /// Its name.
    pub name: Arc<str>,
    /// What its clients and nodes speak, as long as it lives.
    pub protocol: Protocol,
    /// Distinguishes it from an earlier pool of the same name.
    pub id: u64,
    /// The topology in force.
    pub reader: TopologyReader,
    /// Counters, one block per worker, and one for the thread that accepts.
    pub blocks: Arc<[PoolBlock]>,
    /// Sessions that are open, over all workers.
    pub sessions: AtomicUsize,
    /// Of these, those that each worker was given, served or not yet.
    pub given: Arc<[AtomicUsize]>,
    /// Requests in flight of an HTTP pool, over all workers; other pools bound them for each session.
    pub requests: AtomicUsize,
    /// Tells one start of the process from the next.
    pub run_id: Arc<str>,
    /// What clients loaded, for each new connection to a node.
    pub scripts: Arc<Scripts>,
    /// Who is connected, for `CLIENT LIST`.
    pub registry: super::facts::Registry,
    /// Where writes are noted that nodes take for others.
    pub writes: WriteNotes,
    /// What nodes are asked for, by sample.
    pub samples: Samples,
    /// For each worker the revision before which nothing is in flight any more, as far as somebody waits
    /// for it; [`PoolHandle::UNUSED`] for one that does not serve the pool.
    pub graces: Arc<[AtomicU64]>,
}

impl PoolHandle {
    /// The grace of a worker that has never served the pool.
    pub const UNUSED: u64 = u64::MAX;

    /// The counters of so many workers and of the thread that accepts: a block has one writer.
    pub fn blocks(workers: usize) -> Arc<[PoolBlock]> {
        (0..=workers).map(|_| PoolBlock::default()).collect()
    }

    /// The counters of the thread that accepts.
    pub(super) fn door(&self) -> &PoolBlock {
        &self.blocks[self.given.len()]
    }

    /// Clients that were given to so many workers: none.
    pub fn given(workers: usize) -> Arc<[AtomicUsize]> {
        (0..workers).map(|_| AtomicUsize::new(0)).collect()
    }

    /// The graces of so many workers.
    pub fn graces(workers: usize) -> Arc<[AtomicU64]> {
        (0..workers).map(|_| AtomicU64::new(PoolHandle::UNUSED)).collect()
    }
}

/// A client's place in its pool and with the worker that it was given to. It is free again when this is
/// dropped, whatever became of the client.
pub struct Place {
    pub(super) pool: Arc<PoolHandle>,
    pub(super) worker: usize,
}

impl Place {
    /// Takes one, and tells how many the pool had before.
    pub fn take(pool: &Arc<PoolHandle>, worker: usize) -> (Place, usize) {
        pool.given[worker].fetch_add(1, Relaxed);
        let before = pool.sessions.fetch_add(1, Relaxed);
        (Place { pool: pool.clone(), worker }, before)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.given[self.worker].fetch_sub(1, Relaxed);
        self.pool.sessions.fetch_sub(1, Relaxed);
    }
}

/// A topology with what a worker needs to obey it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) topology: Arc<Topology>,
    pub(crate) table: Arc<Table>,
    /// One link per node of the topology, in its order, then one per node of its gutter.
    pub(crate) links: Vec<Rc<Link>>,
    /// What the policy says, as each request needs it.
    pub(crate) terms: Terms,
    /// Requests wait for keys that are being cleaned, which takes an instant; not for ever.
    patient: Cell<bool>,
}

/// The part of a policy that is looked at with each request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// Whether clients must give a password.
    pub(crate) guarded: bool,
    /// Bounds of a request.
    pub(crate) frame: FrameLimits,
    /// The same for memcached's protocol.
    pub(crate) memcache: memcache::Limits,
    /// How long a client waits at most, by the class of its command, in microseconds.
    pub(crate) patience_us: [u32; Class::ALL.len()],
    /// How often a request that only reads is sent again.
    pub(crate) tries: u8,
    /// Whether every node serves all of its keys.
    pub(crate) is_whole: bool,
    /// The same, and a request that is plain breaks no limit.
    pub(crate) is_plain: bool,
    /// Whether writes that a node takes for another are noted: somebody is away, and will be cleaned of
    /// them.
    pub(crate) notes_writes: bool,
    /// Whether what is written to some nodes may live for a bounded time only.
    pub(crate) bounds_life: bool,
}

/// How long a client waits at most for a command of this class.
fn patience(policy: &Policy, class: Class) -> Duration {
    match class {
        Class::Slow | Class::All => policy.deadline.max(policy.slow_timeout),
        Class::Read | Class::Write | Class::Local => policy.deadline,
    }
}

impl Terms {
    fn of(topology: &Topology) -> Terms {
        let policy = &*topology.policy;
        let is_exact = policy.on_return == OnReturn::Quarantine && policy.sole_writer;
        let patience_us = Class::ALL.map(|class| us(patience(policy, class)));
        let is_whole = topology.nodes.iter().all(|e| e.placement == Placement::Owns);
        let frame = FrameLimits {
            bulk_bytes: policy.limits.bulk_bytes,
            request_bytes: policy.limits.request_bytes,
            args_max: policy.limits.args_max,
        };
        Terms {
            guarded: policy.client_auth.is_some(),
            frame,
            memcache: memcache::Limits {
                value_bytes: policy.limits.bulk_bytes,
                line_bytes: memcache::Limits::LINE_BYTES,
                request_bytes: policy.limits.request_bytes,
                args_max: policy.limits.args_max,
            },
            patience_us,
            tries: policy.retries.min(u32::from(u8::MAX)) as u8,
            is_whole,
            is_plain: is_whole && frame.permit_plain(),
            notes_writes: is_exact,
            bounds_life: policy.ttl_max.is_some() || policy.fails_over(),
        }
    }
}

impl Bound {
    pub(crate) fn new(topology: Arc<Topology>, table: Arc<Table>, links: Vec<Rc<Link>>) -> Bound {
        let terms = Terms::of(&topology);
        Bound { topology, table, links, terms, patient: Cell::new(true) }
    }

    /// Whether a request may wait for keys that are being cleaned.
    pub(crate) fn may_wait(&self) -> bool {
        self.patient.get()
    }

    /// Notes that this node takes a write of a key that others come before.
    pub(crate) fn note_write(&self, handle: &PoolHandle, hash: u64, key: &[u8], index: usize) {
        let taken_by = self.topology.entry(index).node.id;
        for passed in self.topology.passed(hash, index) {
            let away = self.topology.nodes[passed].node.id;
            handle.writes.note(Written { away, taken_by, key: key.into() });
        }
    }

    /// Whether this node owns this key.
    pub(crate) fn owns(&self, index: usize, key: &[u8]) -> bool {
        self.topology.route(self.topology.ring.hash(key), key) == Route::Send(index)
    }
}

/// What one session may have under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// Bytes of replies that wait for the client. Beyond it the pipeline that brings more waits too.
    pub(crate) held: usize,
    /// Bytes for one client, read or not, with which no pipeline has to wait for it.
    pub(crate) calm: usize,
    /// Bytes of replies that are asked for at once, by their usual size. A node builds its replies
    /// before anybody reads them, so that a deep pipeline of large values would keep it from all
    /// others; and what is under way has to fit into `held`, or others' replies wait behind it.
    pub(crate) asked: usize,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// How long a client may take nothing of what it is owed, in microseconds.
    pub(crate) stall_us: u32,
    /// How long it may ask for nothing; for ever when it is 0.
    pub(crate) idle_us: u32,
}

/// One worker's part of a pool.
pub(crate) struct WorkerPool {
    pub(crate) handle: Arc<PoolHandle>,
    pub(crate) worker: Rc<Worker>,
    /// What its sessions read requests with, when they hold no part of one.
    pub(crate) decoder: SharedDecoder,
    cache: RefCell<TopologyCache>,
    bound: RefCell<Rc<Bound>>,
    pub(crate) sessions: RefCell<HashMap<u64, Rc<Session>>>,
    /// Links to nodes that are not in the pool any more, while something is under way there.
    leaving: RefCell<Vec<Rc<Link>>>,
    per_key_errors: Cell<bool>,
    bounds: Cell<Bounds>,
    /// Sessions wait for another topology.
    pub(crate) waiting: Cell<bool>,
    grace: RefCell<Option<Grace>>,
    /// What waits for nodes, as it stands in the process's account and in the gauge.
    accounted: Cell<Queued>,
}

/// What was in flight when a topology was bound that waits for it to end.
struct Grace {
    revision: u64,
    marks: Vec<(Rc<Pipeline>, u64)>,
    since_us: u32,
}

/// How long requests wait for keys that are being cleaned. Control takes much less, or gives up sooner.
const PATIENCE_US: u32 = 2_000_000;

impl WorkerPool {
    pub(crate) fn new(worker: Rc<Worker>, handle: Arc<PoolHandle>) -> WorkerPool {
        let topology = handle.reader.load();
        let make =
            |entry: &Entry, policy: &Arc<Policy>| Link::new(entry, policy, worker.index, &handle.scripts);
        let links = rebind::carry(&[], &topology, make);
        let table = dispatch::table(&topology.policy);
        let bound = Bound::new(topology, table, links);
        let pool = WorkerPool {
            decoder: SharedDecoder::of(handle.protocol),
            cache: RefCell::new(handle.reader.cache()),
            handle,
            worker,
            bound: RefCell::new(Rc::new(bound)),
            sessions: RefCell::default(),
            leaving: RefCell::default(),
            per_key_errors: Cell::default(),
            bounds: Cell::default(),
            waiting: Cell::default(),
            grace: RefCell::default(),
            accounted: Cell::default(),
        };
        let revision = pool.bound.borrow().topology.revision;
        pool.handle.graces[pool.worker.index].store(revision, Release);
        pool.obey(&pool.bound.borrow().topology.policy);
        pool
    }

    /// Takes over what is asked for with every reply.
    fn obey(&self, policy: &Policy) {
        self.per_key_errors.set(policy.per_key_errors);
        let limits = &policy.limits;
        let (held, depth) = (limits.session_bytes_max, limits.pipeline_depth);
        let (stall_us, idle_us) = (limits.stall_us(), limits.idle_us());
        let (calm, asked) = (OUT_HIGH.min(held / 2), held / 4);
        let before = self.bounds.replace(Bounds { held, calm, asked, depth, stall_us, idle_us });
        if before.idle_us != idle_us {
            self.sessions.borrow().values().for_each(|session| session.watch_idle());
        }
    }

    /// Whether a split MGET with a failed part answers an error for each of its keys.
    #[inline]
    pub(crate) fn per_key_errors(&self) -> bool {
        self.per_key_errors.get()
    }

    /// What one session may have under way.
    #[inline]
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds.get()
    }

    /// A session has ended.
    pub(crate) fn forget_session(&self, id: u64) {
        let mut sessions = self.sessions.borrow_mut();
        sessions.remove(&id);
        facts::shrink(&mut sessions);
    }

    /// How long a client waits at most for a command of this class.
    pub(crate) fn patience(&self, class: Class) -> Duration {
        patience(&self.policy(), class)
    }

    /// The policy that is bound.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.bound.borrow().topology.policy.clone()
    }

    /// This worker's counters.
    #[inline]
    pub(crate) fn block(&self) -> &PoolBlock {
        &self.handle.blocks[self.worker.index]
    }

    /// What is bound, be it that a newer topology is in force.
    pub(crate) fn bound_now(&self) -> Rc<Bound> {
        self.bound.borrow().clone()
    }

    /// The topology in force, bound. A new one is bound first: requests that waited for nodes
    /// which left are sent to the new owners before anything else is.
    #[inline]
    pub(crate) fn bound(self: &Rc<Self>) -> Rc<Bound> {
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

    fn rebind(self: &Rc<Self>, topology: Arc<Topology>) -> Rc<Bound> {
        let old = self.bound.borrow().clone();
        let (index, scripts) = (self.worker.index, &self.handle.scripts);
        let make = |entry: &Entry, policy: &Arc<Policy>| Link::new(entry, policy, index, scripts);
        let links = rebind::carry(&old.links, &topology, make);
        let table = if Arc::ptr_eq(&old.topology.policy, &topology.policy) {
            old.table.clone()
        } else {
            dispatch::table(&topology.policy)
        };
        let bound = Rc::new(Bound::new(topology, table, links));
        *self.bound.borrow_mut() = bound.clone();
        self.obey(&bound.topology.policy);
        let how = |p: &Policy| (p.auth.clone(), p.db, p.connections_per_node, connect::user_timeout(p));
        let own = bound.topology.nodes.len();
        if how(&old.topology.policy) != how(&bound.topology.policy) {
            bound.links.iter().take(own).for_each(|link| link.renew());
        }
        if let (Some(old), Some(new)) = (&old.topology.gutter, &bound.topology.gutter)
            && how(&old.policy) != how(&new.policy)
        {
            bound.links.iter().skip(own).for_each(|link| link.renew());
        }
        // Collected before any is sent on, so that each sees all links in their new state.
        let mut moved: Vec<(Expect, Vec<u8>)> = Vec::new();
        for Departure { side: link, leaving, is_gone } in rebind::departures(&old.links, &bound.topology) {
            link.leave(leaving, &mut moved);
            if is_gone {
                self.leaving.borrow_mut().push(link.clone());
            }
        }
        for (expect, bytes) in moved {
            dispatch::send_again(&bound, expect, &bytes);
        }
        self.begin_grace(&bound);
        self.let_go_on();
        bound
    }

    /// Somebody waits until what was sent under earlier topologies is answered.
    fn begin_grace(&self, bound: &Bound) {
        let topology = &bound.topology;
        let is_fenced =
            |e: &Entry| matches!(e.placement, Placement::Starting(admission) if admission.is_fenced());
        if !topology.nodes.iter().any(is_fenced) {
            self.grace.take();
            return;
        }
        // What can write neither to a node that is cleaned, nor a key of it elsewhere, is not waited for.
        // While others are away, keys of theirs are its own for now.
        let may_hold =
            |i: usize| is_fenced(&topology.nodes[i]) || topology.nodes[i].placement == Placement::Owns;
        let holder = |hash: u64| topology.ring.first_where(hash, may_hold);
        let is_its_key = |hash: u64| holder(hash).is_some_and(|i| is_fenced(&topology.nodes[i]));
        let mut marks = Vec::new();
        for link in bound.links.iter().chain(self.leaving.borrow().iter()) {
            let is_its_own = topology.nodes.iter().any(|e| e.node.id == link.node.id && is_fenced(e));
            let concerns = |expect: &Expect, content: Content<'_>| {
                dispatch::may_write(bound, expect, content, &|hash| is_its_own || is_its_key(hash))
            };
            link.marks(&concerns, &mut marks);
        }
        let (revision, since_us) = (bound.topology.revision, self.worker.clock.now_us());
        self.grace.replace(Some(Grace { revision, marks, since_us }));
        self.end_grace(since_us);
    }

    fn end_grace(&self, now_us: u32) {
        let mut grace = self.grace.borrow_mut();
        let Some(pending) = &mut *grace else { return };
        pending.marks.retain(|(pipeline, mark)| !pipeline.has_passed(*mark));
        if pending.marks.is_empty() {
            // What was noted before is seen by whoever sees this.
            self.handle.graces[self.worker.index].store(pending.revision, Release);
        }
        if now_us.wrapping_sub(pending.since_us) >= PATIENCE_US {
            self.bound.borrow().patient.set(false);
            drop(grace);
            self.let_go_on();
        }
    }

    /// Sessions that waited for another topology look again.
    fn let_go_on(&self) {
        if self.waiting.take() {
            self.bound.borrow().links.iter().for_each(|link| link.disperse());
            for session in self.sessions.borrow().values() {
                session.go_on();
            }
        }
    }

    /// Looks after pipelines, deadlines and the snapshot; called at each tick of the worker.
    pub(crate) fn tick(self: &Rc<Self>, now_us: u32) {
        let bound = self.bound();
        self.end_grace(now_us);
        let mut queued: Queued = bound.links.iter().map(|link| link.tick(now_us)).sum();
        if self.waiting.get() {
            let sessions = self.sessions.borrow();
            let waiting = sessions.values().filter(|session| session.state.borrow().waits).count();
            queued.parked += waiting;
            self.waiting.set(waiting > 0);
        }
        if self.leaving.borrow().is_empty() {
            return self.account(queued);
        }
        let mut moved = Vec::new();
        self.leaving.borrow_mut().retain(|link| {
            queued += link.tick(now_us);
            if link.is_stalled() {
                // It hangs and has left: nothing more can come of its connections.
                link.leave(Leaving::Evict, &mut moved);
            }
            !link.is_over()
        });
        self.account(queued);
        for (expect, bytes) in moved {
            dispatch::send_again(&bound, expect, &bytes);
        }
    }

    /// Takes so much more into the account of what waits for nodes, so that others meet it at once. The next
    /// tick says what came of it.
    #[cold]
    pub(crate) fn charge(&self, bytes: usize) {
        let mut accounted = self.accounted.get();
        let held = accounted.bytes.saturating_add(bytes);
        let _ = self.worker.memory.settle(&mut accounted.bytes, held);
        self.accounted.set(accounted);
    }

    /// Brings the account of what waits for nodes up to date.
    fn account(&self, queued: Queued) {
        let mut accounted = self.accounted.get();
        self.block().parked.add(queued.parked as i64 - accounted.parked as i64);
        accounted.parked = queued.parked;
        // Who passes the limit is refused by `Pipeline::append`.
        let _ = self.worker.memory.settle(&mut accounted.bytes, queued.bytes);
        self.accounted.set(accounted);
    }

    /// The pool is gone and has no sessions any more: closes its connections.
    pub(crate) fn close(&self) {
        let mut nobodys = Vec::new();
        for link in self.bound.borrow().links.iter().chain(self.leaving.borrow().iter()) {
            link.leave(Leaving::Retire, &mut nobodys);
        }
        // Nobody ticks it any more.
        self.account(Queued::default());
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.account(Queued::default());
    }
}

//! A data worker: one thread, one runtime, its own pipelines. It shares snapshots, evidence and
//! counters with the rest of the process, and no locks.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::spawn_local,
    time::{MissedTickBehavior, interval},
};

use super::{
    clock::Clock,
    facts,
    pool::{PoolHandle, WorkerPool},
    session::Session,
    wheel::{TICK_US, Wheel},
};
use crate::{net::StdStream, protocol::resp::frame::RequestDecoder};

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers that wait for the next session that needs one.
const SPARE_MAX: usize = 256;

/// What a worker is told.
pub enum Order {
    /// Serve this client.
    Serve {
        /// The pool whose listener took it.
        pool: Arc<PoolHandle>,
        /// The connection.
        stream: StdStream,
        /// The session's number, unique in the process.
        id: u64,
    },
    /// The pool is gone: end its sessions.
    Close(u64),
    /// Finish what is in flight, then stop.
    Drain,
}

/// The process's account of bytes that are buffered for clients.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    limit: usize,
}

/// Changes smaller than this are not written to the account.
const ACCOUNT_STEP: usize = 64 * 1024;

impl Memory {
    /// An account with this limit.
    pub fn new(limit: usize) -> Memory {
        Memory { used: AtomicUsize::new(0), limit }
    }

    /// Brings a session's entry up to date; false when the limit is passed.
    pub(crate) fn settle(&self, accounted: &mut usize, held: usize) -> bool {
        if held.abs_diff(*accounted) < ACCOUNT_STEP && (held != 0 || *accounted == 0) {
            return true;
        }
        let before = self.used.fetch_add(held.wrapping_sub(*accounted), Relaxed);
        let used = before.wrapping_add(held).wrapping_sub(*accounted);
        *accounted = held;
        used <= self.limit
    }
}

/// The worker.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) clock: Clock,
    pub(crate) memory: Arc<Memory>,
    /// Everything is read into this; a connection has bytes of its own only while it holds part
    /// of a request.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) decoder: RefCell<RequestDecoder>,
    /// Positions of a request's keys.
    pub(crate) keys: RefCell<Vec<u32>>,
    /// Sessions that have something to write.
    pub(crate) dirty: RefCell<Vec<Rc<Session>>>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// Sessions to look at, each with the time that it was put in for.
    wheel: RefCell<Wheel<(Weak<Session>, u32)>>,
    pools: RefCell<HashMap<u64, Rc<WorkerPool>>>,
    /// Pools that go when their last session has.
    closed: RefCell<Vec<u64>>,
}

impl Worker {
    fn new(index: usize, memory: Arc<Memory>) -> Worker {
        Worker {
            index,
            clock: Clock::new(),
            memory,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            decoder: RefCell::default(),
            keys: RefCell::default(),
            dirty: RefCell::default(),
            spare: RefCell::default(),
            wheel: RefCell::new(Wheel::new(0)),
            pools: RefCell::default(),
            closed: RefCell::default(),
        }
    }

    /// Writes all sessions that have something to write.
    pub(crate) fn flush_dirty(&self) {
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        for session in dirty.drain(..) {
            session.flush();
        }
        let mut list = self.dirty.borrow_mut();
        if list.is_empty() {
            *list = dirty;
        }
    }

    /// A buffer to write into.
    pub(crate) fn spare_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back, unless it is larger than `keep`.
    pub(crate) fn give_back(&self, buffer: Vec<u8>, keep: usize) {
        let mut spare = self.spare.borrow_mut();
        if buffer.capacity() > 0 && buffer.capacity() <= keep && spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }

    /// Looks at a session after this time; gives when that is.
    pub(crate) fn watch(&self, session: &Rc<Session>, after_us: u32) -> u32 {
        let now_us = self.clock.now_us();
        let due_us = now_us.wrapping_add(after_us);
        self.wheel.borrow_mut().insert(now_us, after_us, (Rc::downgrade(session), due_us));
        due_us
    }

    fn tick(&self) {
        let now_us = self.clock.refresh();
        self.drop_closed();
        let pools: Vec<_> = self.pools.borrow().values().cloned().collect();
        for pool in pools {
            pool.tick(now_us);
        }
        let mut due = Vec::new();
        self.wheel.borrow_mut().due(now_us, &mut due);
        for (session, due_us) in due {
            if let Some(session) = session.upgrade() {
                session.check(now_us, due_us);
            }
        }
        self.flush_dirty();
    }

    fn pool(self: &Rc<Self>, handle: &Arc<PoolHandle>) -> Rc<WorkerPool> {
        if let Some(pool) = self.pools.borrow().get(&handle.id) {
            return pool.clone();
        }
        let pool = Rc::new(WorkerPool::new(self.clone(), handle.clone()));
        self.pools.borrow_mut().insert(handle.id, pool.clone());
        spawn_local(follow(Rc::downgrade(&pool)));
        pool
    }

    fn serve(self: &Rc<Self>, handle: &Arc<PoolHandle>, stream: StdStream, id: u64) {
        let pool = self.pool(handle);
        let (peer, local) = (stream.peer(), stream.local());
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(pool = %handle.name, peer, %error, "can't serve a client");
                handle.sessions.fetch_sub(1, Relaxed);
                return;
            }
        };
        let (read, write) = stream.into_split();
        let client = facts::client_state(&pool, id, peer, local);
        let session = Session::new(&pool, id, write, client);
        pool.sessions.borrow_mut().insert(id, session.clone());
        pool.handle.registry.enter(&session.state.borrow().client);
        pool.block().sessions.add(1);
        pool.block().accepted.add(1);
        spawn_local(async move {
            session.run(read).await;
            pool.sessions.borrow_mut().remove(&id);
            pool.handle.registry.leave(id);
            pool.block().sessions.add(-1);
            pool.handle.sessions.fetch_sub(1, Relaxed);
        });
    }

    fn end_sessions(&self, which: impl Fn(u64) -> bool) {
        for (_, pool) in self.pools.borrow().iter().filter(|(id, _)| which(**id)) {
            for session in pool.sessions.borrow().values() {
                session.end();
            }
        }
    }

    /// Lets go of closed pools that nobody uses any more.
    fn drop_closed(&self) {
        self.closed.borrow_mut().retain(|id| {
            let mut pools = self.pools.borrow_mut();
            let used = pools.get(id).is_some_and(|pool| !pool.sessions.borrow().is_empty());
            if !used && let Some(pool) = pools.remove(id) {
                pool.close();
            }
            used
        });
    }

    fn is_empty(&self) -> bool {
        self.pools.borrow().values().all(|p| p.sessions.borrow().is_empty())
    }
}

/// Binds each new topology as it is published, so that requests which wait for a verdict go on
/// without waiting for another request.
async fn follow(pool: Weak<WorkerPool>) {
    let Some(mut changes) = pool.upgrade().map(|p| p.handle.reader.changes()) else { return };
    while changes.changed().await.is_ok() {
        let Some(pool) = pool.upgrade() else { return };
        pool.worker.clock.refresh();
        pool.bound();
        pool.worker.flush_dirty();
    }
}

/// Runs a worker until it is told to drain and has, or its orders end.
pub async fn run(index: usize, memory: Arc<Memory>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let worker = Rc::new(Worker::new(index, memory));
    let mut ticks = interval(Duration::from_micros(u64::from(TICK_US)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        // Both arms are cancel-safe: a tick or an order that is not taken is taken next time.
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(Order::Serve { pool, stream, id }) => worker.serve(&pool, stream, id),
                Some(Order::Close(id)) => {
                    worker.closed.borrow_mut().push(id);
                    worker.end_sessions(|pool| pool == id);
                }
                Some(Order::Drain) => {
                    draining = true;
                    worker.end_sessions(|_| true);
                }
            },
            _ = ticks.tick() => worker.tick(),
        }
        if draining && worker.is_empty() {
            return;
        }
    }
}

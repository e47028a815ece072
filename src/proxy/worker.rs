//! A data worker: one thread, one runtime, its own pipelines. It shares snapshots, evidence and
//! counters with the rest of the process, and no locks.

use std::{
    cell::{Cell, RefCell},
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
    coalesce,
    dialect::Decoder,
    essential::essential,
    facts, http,
    pool::{Place, PoolHandle, WorkerPool},
    serving::{Follower, Serving},
    session::Session,
    wheel::{TICK_US, Wheel},
    window::Space,
};
use crate::net::StdStream;

/// Bytes that are read at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Buffers that wait for the next session that needs one, and how large they may be.
const SPARE_MAX: usize = 256;
const SPARE_BYTES: usize = 64 * 1024;
/// The same for large replies: a buffer is made for so much at once, and may grow to twice that.
const LARGE_MAX: usize = 8;
const LARGE_BYTES: usize = 1 << 20;
/// Memory of a window that is larger is not kept for the next session.
const SPACE_BYTES_MAX: usize = 64 * 1024;
/// Sessions that come due in one tick, for which memory is kept.
const DUE_KEEP: usize = 1024;
/// Between two times at which memory that nobody needs is freed.
const TRIM_US: u32 = 1_000_000;
/// A tick that is so late, in microseconds, tells of a thread, or of a machine, that stood still.
const LATE_US: u32 = 100_000;

/// What a worker is told.
pub enum Order {
    /// Serve this client.
    Serve {
        /// Its place in the pool whose listener took it.
        place: Place,
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
    closed: AtomicUsize,
}

/// Changes smaller than this are not written to the account.
const ACCOUNT_STEP: usize = 64 * 1024;

impl Memory {
    /// An account with this limit.
    pub fn new(limit: usize) -> Memory {
        Memory { used: AtomicUsize::new(0), limit, closed: AtomicUsize::new(0) }
    }

    /// Bytes that are held, and how many may be.
    pub fn used(&self) -> (usize, usize) {
        (self.used.load(Relaxed), self.limit)
    }

    /// Sessions that were closed because they would have passed the limit.
    pub fn closed(&self) -> usize {
        self.closed.load(Relaxed)
    }

    /// Whether no more may be held.
    pub(crate) fn is_used_up(&self) -> bool {
        self.used.load(Relaxed) > self.limit
    }

    /// Whether so much more would be more than may be held.
    pub(crate) fn would_pass(&self, bytes: usize) -> bool {
        self.used.load(Relaxed).saturating_add(bytes) > self.limit
    }

    /// A session is closed for it.
    pub(crate) fn close_one(&self) {
        self.closed.fetch_add(1, Relaxed);
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

/// Memory that waits for the next one who needs some.
#[derive(Debug)]
struct Spare<T> {
    pieces: Vec<T>,
    /// The fewest that were here since it was trimmed: nobody has needed those.
    idle: usize,
}

impl<T> Default for Spare<T> {
    fn default() -> Spare<T> {
        Spare { pieces: Vec::new(), idle: 0 }
    }
}

impl<T: Default> Spare<T> {
    #[inline]
    fn take(&mut self) -> T {
        let piece = self.pieces.pop().unwrap_or_default();
        self.idle = self.idle.min(self.pieces.len());
        piece
    }

    #[inline]
    fn give(&mut self, piece: T, most: usize) {
        if self.pieces.len() < most {
            self.pieces.push(piece);
        }
    }

    /// Frees half of what nobody has needed since the last time.
    fn trim(&mut self) {
        self.pieces.truncate(self.pieces.len() - self.idle.div_ceil(2));
        self.idle = self.pieces.len();
    }
}

/// What a pool knows of a session that there is. It is forgotten when this is dropped, also by a panic: a
/// pool that is closed waits for its sessions.
struct Seat {
    pool: Rc<WorkerPool>,
    id: u64,
    _place: Place,
}

impl Seat {
    fn new(pool: &Rc<WorkerPool>, session: &Rc<Session>, place: Place) -> Seat {
        let client = &session.state.borrow().client;
        pool.sessions.borrow_mut().insert(client.id, session.clone());
        pool.handle.registry.enter(client);
        pool.block().sessions.add(1);
        pool.block().accepted.add(1);
        Seat { pool: pool.clone(), id: client.id, _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.forget_session(self.id);
        self.pool.handle.registry.leave(self.id);
        self.pool.block().sessions.add(-1);
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
    /// Positions of a request's keys.
    pub(crate) keys: RefCell<Vec<u32>>,
    /// What requests that are sampled are read with.
    pub(crate) sampling: RefCell<Option<Decoder>>,
    /// The part of a request that goes to one node.
    pub(crate) frame: RefCell<Vec<u8>>,
    /// Sessions that have something to write.
    pub(crate) dirty: RefCell<Vec<Rc<Session>>>,
    spare: RefCell<Spare<Vec<u8>>>,
    spare_large: RefCell<Spare<Vec<u8>>>,
    spare_spaces: RefCell<Spare<Box<Space>>>,
    /// Sessions to look at, each with the time that it was put in for.
    wheel: RefCell<Wheel<(Weak<Session>, u32)>>,
    trimmed_us: Cell<u32>,
    ticked_us: Cell<u32>,
    /// By how much the tick that runs is late, if that is worth mentioning.
    pub(crate) late_us: Cell<u32>,
    /// By how much all such ticks were late.
    stood: Cell<Duration>,
    /// Sessions that the wheel gave out, in memory that is used again.
    due: RefCell<Vec<(Weak<Session>, u32)>>,
    /// By the number of each.
    pools: RefCell<Vec<(u64, Serving)>>,
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
            keys: RefCell::default(),
            sampling: RefCell::default(),
            frame: RefCell::default(),
            dirty: RefCell::default(),
            spare: RefCell::default(),
            spare_large: RefCell::default(),
            spare_spaces: RefCell::default(),
            wheel: RefCell::new(Wheel::new(0)),
            trimmed_us: Cell::new(0),
            ticked_us: Cell::new(0),
            late_us: Cell::new(0),
            stood: Cell::default(),
            due: RefCell::default(),
            pools: RefCell::default(),
            closed: RefCell::default(),
        }
    }

    /// A task of this worker has something to do.
    #[inline]
    pub(crate) fn begin_batch(&self) {
        coalesce::worked();
        self.clock.begin_batch();
    }

    /// Writes all sessions that have something to write.
    pub(crate) fn flush_dirty(&self) {
        if self.dirty.borrow().is_empty() {
            return;
        }
        let mut dirty = std::mem::take(&mut *self.dirty.borrow_mut());
        for session in dirty.drain(..) {
            session.flush();
        }
        let mut list = self.dirty.borrow_mut();
        if list.is_empty() {
            *list = dirty;
        }
    }

    /// A buffer to write about so many bytes into. A large one is worth keeping for the next: new
    /// memory costs a page fault for every few thousand bytes.
    #[inline]
    pub(crate) fn spare_buffer(&self, bytes: usize) -> Vec<u8> {
        if bytes <= SPARE_BYTES {
            return self.spare.borrow_mut().take();
        }
        let mut buffer = self.spare_large.borrow_mut().take();
        buffer.reserve(bytes.min(LARGE_BYTES));
        buffer
    }

    /// Takes an empty buffer back.
    #[inline]
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        match buffer.capacity() {
            0 => {}
            1..=SPARE_BYTES => self.spare.borrow_mut().give(buffer, SPARE_MAX),
            _ if buffer.capacity() <= 2 * LARGE_BYTES => {
                self.spare_large.borrow_mut().give(buffer, LARGE_MAX);
            }
            _ => {}
        }
    }

    /// Memory for a window.
    #[inline]
    pub(crate) fn spare_space(&self) -> Box<Space> {
        self.spare_spaces.borrow_mut().take()
    }

    /// Takes the memory of a window back.
    #[inline]
    pub(crate) fn give_back_space(&self, space: Box<Space>) {
        if space.bytes() <= SPACE_BYTES_MAX {
            self.spare_spaces.borrow_mut().give(space, SPARE_MAX);
        }
    }

    /// Looks at a session at this time.
    pub(crate) fn watch(&self, session: &Rc<Session>, due_us: u32) {
        let now_us = self.clock.now_us();
        let after_us = due_us.wrapping_sub(now_us);
        self.wheel.borrow_mut().insert(now_us, after_us, (Rc::downgrade(session), due_us));
    }

    /// How long this thread has stood still in all, of which the next tick may be the first to tell. Nothing
    /// was heard of a node meanwhile, and it may have stood still as well: that time is not its own.
    pub(crate) fn stood_still(&self) -> Duration {
        let late_us = late_us(self.clock.refresh(), self.ticked_us.get());
        self.stood.get() + Duration::from_micros(late_us.into())
    }

    fn tick(&self) {
        let now_us = self.clock.refresh();
        let ticked_us = self.ticked_us.replace(now_us);
        coalesce::measure(now_us.wrapping_sub(ticked_us));
        let late_us = late_us(now_us, ticked_us);
        self.late_us.set(late_us);
        self.stood.set(self.stood.get() + Duration::from_micros(late_us.into()));
        self.drop_closed();
        if now_us.wrapping_sub(self.trimmed_us.get()) >= TRIM_US {
            self.trimmed_us.set(now_us);
            self.spare.borrow_mut().trim();
            self.spare_large.borrow_mut().trim();
            self.spare_spaces.borrow_mut().trim();
        }
        let nth = |n: usize| self.pools.borrow().get(n).map(|(_, pool)| pool.clone());
        for pool in (0..).map_while(nth) {
            pool.tick(now_us);
        }
        let mut due = self.due.take();
        self.wheel.borrow_mut().due(now_us, &mut due);
        for (session, due_us) in due.drain(..) {
            if let Some(session) = session.upgrade() {
                session.check(now_us, due_us);
            }
        }
        if due.capacity() <= DUE_KEEP {
            self.due.replace(due);
        }
        self.flush_dirty();
    }

    fn pool(self: &Rc<Self>, handle: &Arc<PoolHandle>) -> Serving {
        if let Some((_, pool)) = self.pools.borrow().iter().find(|(id, _)| *id == handle.id) {
            return pool.clone();
        }
        let pool = Serving::new(self, handle);
        self.pools.borrow_mut().push((handle.id, pool.clone()));
        spawn_local(essential(follow(pool.downgrade())));
        pool
    }

    fn serve(self: &Rc<Self>, place: Place, stream: StdStream, id: u64) {
        let pool = match self.pool(&place.pool) {
            Serving::Framed(pool) => pool,
            Serving::Http(pool) => return http::start(&pool, place, stream, id),
        };
        let client = facts::client_state(&pool, id, &stream);
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(pool = %place.pool.name, peer = ?client.peer(), %error, "can't serve a client");
                return;
            }
        };
        let session = Session::new(&pool, id, stream, client);
        let seat = Seat::new(&pool, &session, place);
        spawn_local(async move {
            session.run().await;
            drop(seat);
        });
    }

    fn end_sessions(&self, which: impl Fn(u64) -> bool) {
        let pools = self.pools.borrow();
        pools.iter().filter(|(id, _)| which(*id)).for_each(|(_, pool)| pool.end_sessions());
    }

    /// Lets go of closed pools that nobody uses any more.
    fn drop_closed(&self) {
        self.closed.borrow_mut().retain(|id| {
            let mut pools = self.pools.borrow_mut();
            let Some(at) = pools.iter().position(|(pool, _)| pool == id) else { return false };
            let used = !pools[at].1.is_empty();
            if !used {
                pools.swap_remove(at).1.close();
            }
            used
        });
    }

    fn is_empty(&self) -> bool {
        self.pools.borrow().iter().all(|(_, pool)| pool.is_empty())
    }
}

/// How late the tick is that follows one at that time, if that is worth mentioning.
fn late_us(now_us: u32, ticked_us: u32) -> u32 {
    let late_us = now_us.wrapping_sub(ticked_us).saturating_sub(TICK_US);
    if late_us < LATE_US { 0 } else { late_us }
}

/// Binds each new topology as it is published, so that requests which wait for a verdict go on
/// without waiting for another request.
async fn follow(pool: Follower) {
    let Some(mut changes) = pool.upgrade().map(|p| p.handle().reader.changes()) else { return };
    let Some(worker) = pool.upgrade().map(|p| p.worker().clone()) else { return };
    while changes.changed().await.is_ok() {
        let Some(pool) = pool.upgrade() else { return };
        worker.clock.refresh();
        pool.follow();
        worker.flush_dirty();
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
                Some(Order::Serve { place, stream, id }) => worker.serve(place, stream, id),
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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{
        net::Stream,
        protocol::Protocol,
        proxy::tests::{play, pool, topology},
        topology::{Policy, channel, write_notes},
    };

    /// A session that ends in a panic leaves nothing behind that its pool would wait for.
    #[test]
    fn a_panic_frees_the_seat() {
        play(async {
            let (_writer, reader) = channel(topology(&[], Policy::default()));
            let (writes, _noted) = write_notes();
            let handle = pool(reader, Protocol::Redis, 1, writes);
            let worker = Rc::new(Worker::new(0, Arc::new(Memory::new(1 << 30))));
            let Serving::Framed(pool) = worker.pool(&handle) else { panic!("it is a Redis pool") };
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let stream = Stream::Tcp(TcpStream::connect(address).await.expect("a connection"));
            let stream = stream.into_std().expect("a socket");
            let client = facts::client_state(&pool, 7, &stream);
            let session = Session::new(&pool, 7, stream.attach().expect("a socket"), client);
            let seat = Seat::new(&pool, &session, Place::take(&handle, 0).0);
            let counts = || (worker.is_empty(), pool.block().sessions.value(), handle.sessions.load(Relaxed));
            assert_eq!(counts(), (false, 1, 1));
            let ended = spawn_local(async move {
                let _seat = seat;
                panic!("a bug");
            });
            assert!(ended.await.is_err_and(|error| error.is_panic()));
            assert_eq!(counts(), (true, 0, 0));
        });
    }
}

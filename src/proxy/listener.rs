//! Accepts clients and hands each to the worker with the fewest sessions, so that load is even
//! when there are few of them (the kernel's SO_REUSEPORT hashes, and leaves workers idle).

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    sync::{
        mpsc,
        oneshot::{self, error::TryRecvError},
    },
    time::sleep,
};

use super::{Place, PoolHandle, worker::Order};
use crate::{
    metrics::Reason,
    net::{Listener, Reserve, Stream},
};

/// The ways to the workers.
#[derive(Clone)]
pub struct Workers {
    orders: Arc<[mpsc::UnboundedSender<Order>]>,
    next: Arc<AtomicUsize>,
    ids: Arc<AtomicU64>,
    reserve: Arc<Reserve>,
}

/// First and longest pause after an accept that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl Workers {
    /// The ways to these workers, for clients that leave this to others.
    pub fn new(orders: Vec<mpsc::UnboundedSender<Order>>, reserve: Arc<Reserve>) -> Workers {
        Workers { orders: orders.into(), next: Arc::default(), ids: Arc::new(AtomicU64::new(1)), reserve }
    }

    /// Tells every worker.
    pub fn tell(&self, order: impl Fn() -> Order) {
        for worker in self.orders.iter() {
            // A worker that is gone needs no orders.
            let _ = worker.send(order());
        }
    }

    /// A place with the worker that was given the fewest clients of the pool, and how many the pool had
    /// before; ties go round. One that stands still was given those that wait for it, and one that is gone is
    /// given none.
    fn place(&self, pool: &Arc<PoolHandle>) -> (Place, usize) {
        let turn = self.next.fetch_add(1, Relaxed);
        let count = self.orders.len();
        let lives = |i: &usize| !self.orders[*i].is_closed();
        let load = |i: &usize| pool.given[*i].load(Relaxed);
        let worker = (0..count).map(|i| (turn + i) % count).filter(lives).min_by_key(load).unwrap_or(0);
        Place::take(pool, worker)
    }

    /// Hands a client to the worker with which it has its place.
    fn hand(&self, place: Place, stream: Stream) -> io::Result<()> {
        let (stream, id) = (stream.into_std()?, self.ids.fetch_add(1, Relaxed));
        self.orders[place.worker]
            .send(Order::Serve { place, stream, id })
            .map_err(|_| io::Error::other("the worker is gone"))
    }
}

/// Accepts the clients of one pool until it is told to stop; who waits in the kernel's queue then
/// is taken before the listener closes, since closing it would reset them, or left there for the next
/// process if the socket is not ours alone. Out of descriptors is met by a pause, and told once.
pub async fn accept(
    listener: Listener,
    pool: Arc<PoolHandle>,
    workers: Workers,
    mut stop: oneshot::Receiver<()>,
) {
    let mut pause = PAUSE.0;
    let mut stopping = false;
    loop {
        if listener.is_handed() && !matches!(stop.try_recv(), Err(TryRecvError::Empty)) {
            return;
        }
        // Accepting is cancel-safe.
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = std::future::ready(()), if stopping => return,
            _ = &mut stop, if !stopping => {
                // Who waits in a socket that others have, too, is left to them.
                if listener.is_handed() {
                    return;
                }
                stopping = true;
                continue;
            }
        };
        match accepted {
            Ok(stream) => {
                pause = PAUSE.0;
                admit(stream, &pool, &workers).await;
            }
            Err(_) if stopping => return,
            Err(error) => {
                if pause == PAUSE.0 {
                    tracing::warn!(pool = %pool.name, %error, "can't accept clients; raise the limit of open files if it is that");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn admit(mut stream: Stream, pool: &Arc<PoolHandle>, workers: &Workers) {
    let limit = pool.reader.load().policy.limits.clients;
    let (place, before) = workers.place(pool);
    if before >= limit || !workers.reserve.takes(&stream) {
        drop(place);
        pool.door().refuse(Reason::Clients);
        // A client that does not take it at once does without.
        let words = pool.reader.load().policy.protocol.too_many_clients();
        let _ = tokio::time::timeout(Duration::from_millis(10), stream.write_all(words)).await;
        return;
    }
    if let Err(error) = workers.hand(place, stream) {
        tracing::warn!(pool = %pool.name, %error, "can't hand a client to a worker");
    }
}

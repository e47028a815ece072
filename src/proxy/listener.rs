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
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{PoolHandle, worker::Order};
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

    /// Hands a client to the worker that serves the fewest of the pool; ties go round.
    fn hand(&self, pool: &Arc<PoolHandle>, stream: Stream) -> io::Result<()> {
        let stream = stream.into_std()?;
        let turn = self.next.fetch_add(1, Relaxed);
        let count = self.orders.len();
        let load = |i: &usize| pool.blocks[*i].sessions.value();
        let worker = (0..count).map(|i| (turn + i) % count).min_by_key(load).unwrap_or(0);
        let id = self.ids.fetch_add(1, Relaxed);
        self.orders[worker]
            .send(Order::Serve { pool: pool.clone(), stream, id })
            .map_err(|_| io::Error::other("the worker is gone"))
    }
}

/// Accepts the clients of one pool until it is told to stop; who waits in the kernel's queue then
/// is taken before the listener closes, since closing it would reset them. Out of descriptors is
/// met by a pause, and told once.
pub async fn accept(
    listener: Listener,
    pool: Arc<PoolHandle>,
    workers: Workers,
    mut stop: oneshot::Receiver<()>,
) {
    let mut pause = PAUSE.0;
    let mut stopping = false;
    loop {
        // Accepting is cancel-safe.
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = std::future::ready(()), if stopping => return,
            _ = &mut stop, if !stopping => {
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
    if pool.sessions.fetch_add(1, Relaxed) >= limit || !workers.reserve.takes(&stream) {
        pool.sessions.fetch_sub(1, Relaxed);
        pool.blocks[0].refuse(Reason::Clients);
        // A client that does not take it at once does without.
        let words = pool.reader.load().policy.protocol.too_many_clients();
        let _ = tokio::time::timeout(Duration::from_millis(10), stream.write_all(words)).await;
        return;
    }
    if let Err(error) = workers.hand(pool, stream) {
        pool.sessions.fetch_sub(1, Relaxed);
        tracing::warn!(pool = %pool.name, %error, "can't hand a client to a worker");
    }
}

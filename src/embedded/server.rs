//! The driver: sockets, the clock, and the tasks that join them to the node.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    net::{ListenAddress, Listener, Stream},
    protocol::resp::frame::FrameLimits,
};

use super::{
    Settings,
    session::{Fate, Node, Session, limits},
    store::Store,
};

/// How often expired keys are swept, and how many entries a sweep looks at.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const SWEEP_VISITS: usize = 10_000;

/// After a failed accept (no descriptors left, say) the listener rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How long a stop waits for replies to be written.
const GRACE: Duration = Duration::from_secs(1);

/// Room for reading.
const READ_BYTES: usize = 16 * 1024;

/// Input above the largest request that is still read: room for the lines around its arguments.
const INPUT_SLACK: usize = 1 << 18;

/// A buffer larger than this is given back when it is empty.
const KEEP_BYTES: usize = 1 << 20;

/// An embedded node that runs. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Embedded {
    address: SocketAddr,
    stop: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Embedded {
    /// Starts a node on the runtime of the caller, whichever kind it is.
    ///
    /// # Errors
    /// The operating system's: a taken port, no descriptors left.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn start(mut settings: Settings) -> io::Result<Embedded> {
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
        let listener = Listener::bind(&ListenAddress::Tcp(asked))?;
        let ListenAddress::Tcp(address) = listener.address() else {
            return Err(io::Error::other("the embedded node listens on tcp only"));
        };
        settings.port = address.port();
        let (stop, stopped) = watch::channel(());
        let shared = Shared { limits: limits(settings.bytes_max), node: Mutex::new(node(settings)) };
        let task = tokio::spawn(listen(listener, Arc::new(shared), stopped));
        Ok(Embedded { address, stop, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no more clients, requests that have arrived are answered, then all is closed. When
    /// this returns the port is free and the keys are gone.
    pub async fn stop(self) {
        drop(self.stop);
        // It ends by itself; that it was aborted with its runtime is an end too.
        let _ = self.task.await;
    }
}

/// What the tasks of a node share.
#[derive(Debug)]
struct Shared {
    limits: FrameLimits,
    node: Mutex<Node>,
}

impl Shared {
    /// The node. Nobody holds it across an await.
    fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The standard library seeds each of its hash maps at random: the one source of it at hand.
fn random(salt: u64) -> u64 {
    RandomState::new().hash_one(salt)
}

fn node(settings: Settings) -> Node {
    Node {
        store: Store::new(settings.bytes_max, random(0)),
        run_id: format!("{:016x}{:016x}{:08x}", random(1), random(2), random(3) as u32),
        started_ms: now_ms(),
        sessions: 0,
        sessions_ever: 0,
        requests: 0,
        settings,
    }
}

/// Unix time in milliseconds, as expiries count it.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Accepts clients and sweeps, until the stop; then lets the sessions end.
async fn listen(listener: Listener, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let mut sessions = JoinSet::new();
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let clients_max = shared.node().settings.clients_max;
    loop {
        // All arms are cancel-safe: what they wait for stays where it is.
        tokio::select! {
            _ = stopped.changed() => break,
            _ = sweep.tick() => shared.node().store.sweep(now_ms(), SWEEP_VISITS),
            Some(_) = sessions.join_next() => shared.node().sessions = sessions.len(),
            accepted = listener.accept() => match accepted {
                Ok(stream) if sessions.len() >= clients_max => refuse(stream),
                Ok(stream) => {
                    let mut node = shared.node();
                    node.sessions_ever += 1;
                    node.sessions = sessions.len() + 1;
                    let session = Session::new(node.sessions_ever, shared.limits);
                    sessions.spawn(serve(stream, session, Arc::clone(&shared), stopped.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
        }
    }
    drop(listener);
    // The sessions that are left after the grace are aborted with the set.
    let _ = timeout(GRACE, async { while sessions.join_next().await.is_some() {} }).await;
}

/// Says why a client is not served, if its socket takes it at once.
fn refuse(stream: Stream) {
    if let Stream::Tcp(stream) = stream {
        // A client that can't be told sees the close.
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
    }
}

/// One session: reads and writes at the same time, so that a client may send all its requests
/// before it reads the first reply.
async fn serve(stream: Stream, mut session: Session, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let (mut reader, mut writer) = stream.into_split();
    let input_max = shared.limits.request_bytes + INPUT_SLACK;
    let mut input = BytesMut::new();
    let (mut out, mut sent) = (Vec::new(), 0);
    let mut needs = 1;
    let mut reading = true;
    loop {
        if out.is_empty() && needs <= input.len() {
            let batch = session.answer(&mut shared.node(), &input, &mut out, now_ms());
            input.advance(batch.used);
            needs = batch.needs;
            if input.is_empty() && input.capacity() > KEEP_BYTES {
                input = BytesMut::new();
            }
        }
        let open = reading && session.fate() == Fate::Open;
        if out.is_empty() && !open {
            break;
        }
        let room = open && input.len() < input_max;
        if room {
            input.reserve(READ_BYTES.max(needs.saturating_sub(input.len()).min(KEEP_BYTES)));
        }
        // All arms are cancel-safe: a read or write that did not happen has moved nothing.
        tokio::select! {
            _ = stopped.changed(), if reading => reading = false,
            read = reader.read_buf(&mut input), if room => match read {
                Ok(0) => reading = false,
                Ok(_) => {}
                Err(_) => return,
            },
            written = writer.write(&out[sent..]), if !out.is_empty() => match written {
                Ok(0) | Err(_) => return,
                Ok(n) => sent += n,
            },
        }
        if sent == out.len() {
            sent = 0;
            if out.capacity() > KEEP_BYTES { out = Vec::new() } else { out.clear() }
        }
    }
    // The client may be gone already.
    let _ = writer.shutdown().await;
}

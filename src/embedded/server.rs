//! The driver: sockets, the clock, and the tasks that join them to the node.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    clock,
    net::{ListenAddress, Listener, Stream},
    protocol::{Protocol, resp::frame::FrameLimits},
};

use super::{
    Settings, Speaks, memcache,
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

    /// Stops: no more clients, requests that were read are answered, then all is closed. When
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
        memcache: memcache::State::default(),
        settings,
    }
}

/// Unix time in milliseconds, as expiries count it.
fn now_ms() -> i64 {
    i64::try_from(clock::unix_ms()).unwrap_or(i64::MAX)
}

/// Accepts clients and sweeps, until the stop; then lets the sessions end.
async fn listen(listener: Listener, shared: Arc<Shared>, mut stopped: watch::Receiver<()>) {
    let mut sessions = JoinSet::new();
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (clients_max, speaks) = {
        let node = shared.node();
        (node.settings.clients_max, node.settings.speaks)
    };
    loop {
        // All arms are cancel-safe: what they wait for stays where it is.
        tokio::select! {
            _ = stopped.changed() => break,
            _ = sweep.tick() => {
                let node = &mut *shared.node();
                memcache::flush_if_due(node, now_ms());
                node.store.sweep(now_ms(), SWEEP_VISITS);
            }
            Some(_) = sessions.join_next() => shared.node().sessions = sessions.len(),
            accepted = listener.accept() => match accepted {
                Ok(stream) if sessions.len() >= clients_max => refuse(stream, speaks),
                Ok(stream) => {
                    let mut node = shared.node();
                    node.sessions_ever += 1;
                    node.sessions = sessions.len() + 1;
                    let session = Session::new(node.sessions_ever, shared.limits, speaks);
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
fn refuse(stream: Stream, speaks: Speaks) {
    if let Stream::Tcp(stream) = stream {
        // A client that can't be told sees the close.
        let words = match speaks {
            Speaks::Redis => Protocol::Redis.too_many_clients(),
            Speaks::Memcached => Protocol::Memcached.too_many_clients(),
        };
        let _ = stream.try_write(words);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpStream;

    use super::*;
    use crate::protocol::resp::write;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn start(settings: Settings) -> Embedded {
        Embedded::start(settings).expect("a free port")
    }

    /// Sends bytes and reads what is expected, no less.
    async fn say(stream: &mut TcpStream, bytes: &str, expected: &str) {
        let mut said = vec![0; expected.len()];
        timeout(PATIENCE, async {
            stream.write_all(bytes.as_bytes()).await.expect("the node reads");
            stream.read_exact(&mut said).await.expect("the node answers");
        })
        .await
        .expect("in time");
        assert_eq!(said.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    }

    /// A fresh connection that gets this answer, as soon as there is one.
    async fn until_said(node: SocketAddr, bytes: &str, expected: &str) {
        let begun = Instant::now();
        loop {
            let mut said = vec![0; expected.len()];
            if let Ok(mut stream) = TcpStream::connect(node).await
                && stream.write_all(bytes.as_bytes()).await.is_ok()
                && stream.read_exact(&mut said).await.is_ok()
                && said == expected.as_bytes()
            {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "never said {expected:?} to {bytes:?}");
            tokio::task::yield_now().await;
        }
    }

    /// A request written a byte at a time is answered, and the sessions of a node see the same keys.
    #[tokio::test]
    async fn sessions_share_the_keys() {
        let node = start(Settings::default());
        let mut one = TcpStream::connect(node.address()).await.expect("it listens");
        let mut other = TcpStream::connect(node.address()).await.expect("it listens");
        for byte in "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\nhi\r".chars() {
            say(&mut one, &byte.to_string(), "").await;
        }
        say(&mut one, "\n", "+OK\r\n").await;
        say(&mut other, "GET a\r\n", "$2\r\nhi\r\n").await;
    }

    /// A client may write all of a large pipeline before it reads: neither side waits for the
    /// other for ever.
    #[tokio::test]
    async fn a_pipeline_larger_than_the_sockets_passes() {
        let node = start(Settings::default());
        let mut stream = TcpStream::connect(node.address()).await.expect("it listens");
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for i in 0..5000 {
            let text = format!("{i:08192}");
            write::request(&mut requests, ["ECHO", &text]);
            write::bulk(&mut replies, text.as_bytes());
        }
        let mut said = vec![0; replies.len()];
        timeout(PATIENCE, async {
            stream.write_all(&requests).await.expect("it reads on while its replies wait");
            stream.read_exact(&mut said).await.expect("it answers");
        })
        .await
        .expect("in time");
        assert!(said == replies, "the replies are not those of the requests, in order");
    }

    /// One client too many is told so, and a place that becomes free is given away.
    #[tokio::test]
    async fn clients_are_bounded() {
        let node = start(Settings { clients_max: 1, ..Settings::default() });
        let mut first = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut first, "PING\r\n", "+PONG\r\n").await;
        let mut second = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut second, "", "-ERR max number of clients reached\r\n").await;
        drop((first, second));
        until_said(node.address(), "PING\r\n", "+PONG\r\n").await;
    }

    /// A node that speaks memcached shares its items between sessions, and tells one client too many so in
    /// memcached's words.
    #[tokio::test]
    async fn a_memcached_node() {
        let settings = Settings { clients_max: 2, speaks: Speaks::Memcached, ..Settings::default() };
        let node = start(settings);
        let mut one = TcpStream::connect(node.address()).await.expect("it listens");
        let mut other = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut one, "set a 0 0 1\r\nx\r\n", "STORED\r\n").await;
        say(&mut other, "get a\r\n", "VALUE a 0 1\r\nx\r\nEND\r\n").await;
        let mut third = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut third, "", "ERROR Too many open connections\r\n").await;
        say(&mut one, "quit\r\n", "").await;
        assert_eq!(one.read(&mut [0; 8]).await.expect("a clean end"), 0);
        until_said(node.address(), "mn\r\n", "MN\r\n").await;
    }

    /// Expired keys go even if nobody asks for them.
    #[tokio::test]
    async fn expired_keys_are_swept() {
        let node = start(Settings::default());
        let mut stream = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut stream, "PSETEX a 1 x\r\nSET b 1\r\n", "+OK\r\n+OK\r\n").await;
        until_said(node.address(), "DBSIZE\r\n", ":1\r\n").await;
    }

    /// After a stop the port is free and the keys are gone; sessions see the end of their stream.
    #[tokio::test]
    async fn a_node_stops_and_starts_again() {
        let node = start(Settings::default());
        let mut stream = TcpStream::connect(node.address()).await.expect("it listens");
        say(&mut stream, "SET a 1\r\n", "+OK\r\n").await;
        let port = node.address().port();
        let begun = Instant::now();
        timeout(PATIENCE, node.stop()).await.expect("it stops");
        assert!(begun.elapsed() < GRACE, "an idle session was aborted instead of ended");
        assert_eq!(stream.read(&mut [0; 8]).await.expect("a clean end"), 0);
        let again = start(Settings { port, ..Settings::default() });
        let mut stream = TcpStream::connect(again.address()).await.expect("it listens");
        say(&mut stream, "GET a\r\n", "$-1\r\n").await;
    }

    /// A client that never reads does not hold up a stop.
    #[tokio::test]
    async fn a_stop_is_bounded() {
        let node = start(Settings::default());
        let mut stream = TcpStream::connect(node.address()).await.expect("it listens");
        let mut requests = Vec::new();
        for _ in 0..5000 {
            write::request(&mut requests, ["ECHO", &"x".repeat(8192)]);
        }
        timeout(PATIENCE, stream.write_all(&requests)).await.expect("in time").expect("it reads");
        timeout(PATIENCE, node.stop()).await.expect("it stops all the same");
    }

    /// A node that is dropped stops too.
    #[tokio::test]
    async fn a_dropped_node_stops() {
        let node = start(Settings::default());
        let address = node.address();
        drop(node);
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_ok() {
            assert!(begun.elapsed() < PATIENCE, "it still listens");
            tokio::task::yield_now().await;
        }
    }
}

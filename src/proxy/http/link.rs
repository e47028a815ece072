//! One worker's connections to one node: those that wait for a request, and who waits for one.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ::http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Mutex, Notify},
    task::spawn_local,
    time::{Instant, sleep},
};

use super::{
    body::Outgoing,
    spawner::Spawner,
    waiting::Waiting,
    wire::{Meter, Wire},
};
use crate::{
    metrics::NodeBlock,
    net::Target,
    protocol::resp::Version,
    proxy::{
        connect::{self, ConnectError},
        gate::{Gate, spread},
        rebind::{Leaving, Side},
    },
    topology::{Entry, HttpLimits, Node, NodeId, NodeProtocol, Policy},
};

/// Connections that a worker makes to one node at once, and the pause before each further one, while the node
/// is new or was in trouble.
const CONNECTS: (u32, Duration) = (128, Duration::from_millis(1));
/// So long after the trouble.
const CAREFUL: Duration = Duration::from_secs(5);

/// hyper refuses a smaller bound of what it reads ahead.
const READ_MIN: usize = 8 * 1024;
/// hyper's own bound of header fields, which costs nothing.
const HEADERS_MAX: usize = 100;

/// The link.
pub(super) struct Link {
    pub(super) node: Arc<Node>,
    worker_index: usize,
    targets: RefCell<Arc<[Target]>>,
    /// HTTP/1.1 connections that carry no request, the one that was used last at the end: those
    /// that are not needed grow old, and the node closes them.
    idle: RefCell<Vec<Connection>>,
    /// The HTTP/2 connection that all requests share.
    shared: RefCell<Option<Connection>>,
    /// Held while that one is made.
    sharing: Mutex<()>,
    /// Connections that there are, or that are being made.
    open: Cell<usize>,
    waiting: Waiting<Turn>,
    /// Holds back those that connect, until then.
    gate: Gate,
    careful_until: Cell<Instant>,
    /// It owns keys.
    is_owner: Cell<bool>,
    /// Rings when the node is ejected.
    evicted: Notify,
}

/// What somebody who waited for a connection gets.
enum Turn {
    Connection(Connection),
    /// The right to make one.
    Slot(Slot),
}

/// A connection to a node.
pub(super) struct Connection {
    sender: Sender,
    /// It carried a request before: the node may be about to close it.
    pub(super) is_reused: bool,
    /// That it was lost is counted.
    pub(super) is_lost: Rc<Cell<bool>>,
    resets: Arc<AtomicBool>,
}

enum Sender {
    H1(http1::SendRequest<Outgoing>),
    H2(http2::SendRequest<Outgoing>),
}

/// Which connection a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// One that is there, or else a new one.
    Any,
    /// The same, for a request that can't be repeated: one that the node has closed must be known
    /// to be closed.
    Sure,
    /// A new one.
    Fresh,
}

/// How a request went.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Handshake(hyper::Error),
    /// The node left while somebody waited.
    #[error("it left")]
    Left,
}

impl Connection {
    pub(super) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(_))
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender) => sender.is_closed(),
        }
    }

    /// Waits until it takes a request; false when it takes none any more.
    async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::H1(sender) => sender.is_ready() || sender.ready().await.is_ok(),
            Sender::H2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and waits for the head of its reply.
    pub(super) async fn send(&mut self, request: Request<Outgoing>) -> Sent {
        match &mut self.sender {
            Sender::H1(sender) => sender.try_send_request(request).await,
            Sender::H2(sender) => sender.try_send_request(request).await,
        }
    }

    /// What the kernel still has to send is thrown away when the connection closes, or a node that
    /// hangs would be given it later.
    pub(super) fn reset_on_close(&self) {
        self.resets.store(true, Relaxed);
    }
}

/// The right to have one connection more; none once it was given away.
struct Slot(Option<Rc<Link>>);

impl Slot {
    fn of(link: &Rc<Link>) -> Slot {
        Slot(Some(link.clone()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(link) = self.0.take() else { return };
        if let Some(Turn::Slot(mut unwanted)) = link.waiting.give(Turn::Slot(Slot::of(&link))) {
            unwanted.0 = None;
            link.open.set(link.open.get() - 1);
        }
    }
}

impl Side for Link {
    fn id(&self) -> NodeId {
        self.node.id
    }

    fn update(&self, entry: &Entry, _: &Arc<Policy>) {
        *self.targets.borrow_mut() = entry.targets.clone();
        self.is_owner.set(entry.placement.serves());
    }
}

impl Link {
    pub(super) fn new(entry: &Entry, worker_index: usize) -> Rc<Link> {
        Rc::new(Link {
            node: entry.node.clone(),
            worker_index,
            targets: RefCell::new(entry.targets.clone()),
            idle: RefCell::default(),
            shared: RefCell::default(),
            sharing: Mutex::new(()),
            open: Cell::new(0),
            waiting: Waiting::default(),
            is_owner: Cell::new(entry.placement.serves()),
            gate: Gate::new(CONNECTS.0, CONNECTS.1),
            careful_until: Cell::new(Instant::now() + CAREFUL),
            evicted: Notify::new(),
        })
    }

    /// This worker's counters for the node.
    pub(super) fn block(&self) -> &NodeBlock {
        &self.node.blocks[self.worker_index]
    }

    /// The node as messages name it.
    pub(super) fn describe(&self) -> String {
        format!("node {} ({})", self.node.name, self.node.address)
    }

    /// Returns when the node is ejected, from the moment on at which it is called.
    pub(super) fn evicted(&self) -> impl Future<Output = ()> + '_ {
        self.evicted.notified()
    }

    /// A connection that takes a request. Waits its turn when there are as many as there may be.
    pub(super) async fn connection(
        self: &Rc<Self>,
        policy: &Policy,
        pick: Pick,
    ) -> Result<Connection, NoConnection> {
        let fresh = pick == Pick::Fresh;
        if policy.http.node_protocol == NodeProtocol::H2 {
            return self.shared(policy, fresh).await;
        }
        if !fresh && let Some(connection) = self.reuse(pick).await {
            return Ok(connection);
        }
        if self.open.get() < policy.http.limits.connections_per_node_max {
            self.open.set(self.open.get() + 1);
            return self.connect(Slot::of(self), policy).await;
        }
        // The oldest makes room, if none of them will do.
        if fresh && !self.idle.borrow().is_empty() {
            self.idle.borrow_mut().remove(0);
        }
        match self.waiting.join().await {
            Ok(Turn::Connection(connection)) => Ok(connection),
            Ok(Turn::Slot(slot)) => self.connect(slot, policy).await,
            Err(_) => Err(NoConnection::Left),
        }
    }

    /// One that is there and takes a request.
    async fn reuse(&self, pick: Pick) -> Option<Connection> {
        if pick == Pick::Sure && !self.idle.borrow().is_empty() {
            // The runtime asks the kernel before it goes on here, and connections that have ended
            // learn of it.
            tokio::task::yield_now().await;
        }
        loop {
            let mut connection = self.idle.borrow_mut().pop()?;
            if connection.is_ready().await {
                return Some(connection);
            }
        }
    }

    async fn shared(self: &Rc<Self>, policy: &Policy, fresh: bool) -> Result<Connection, NoConnection> {
        if fresh {
            self.shared.take();
        }
        let _one_at_a_time = self.sharing.lock().await;
        let known = self.shared.borrow().as_ref().and_then(Connection::share);
        if let Some(mut connection) = known
            && connection.is_ready().await
        {
            return Ok(connection);
        }
        self.open.set(self.open.get() + 1);
        let connection = self.connect(Slot::of(self), policy).await?;
        *self.shared.borrow_mut() = connection.share();
        Ok(connection)
    }

    async fn connect(self: &Rc<Self>, slot: Slot, policy: &Policy) -> Result<Connection, NoConnection> {
        let wait = self.pause();
        if !wait.is_zero() {
            sleep(spread(wait)).await;
        }
        let targets = self.targets.borrow().clone();
        let stream =
            connect::reach(&targets, policy, Version::Resp2).await.inspect_err(|_| self.trouble())?;
        let resets = Arc::new(AtomicBool::new(false));
        let meter =
            Meter::Node { node: self.node.clone(), worker: self.worker_index, resets: resets.clone() };
        let io = TokioIo::new(Wire::new(stream, meter));
        let limits = &policy.http.limits;
        let sender = match policy.http.node_protocol {
            NodeProtocol::H1 => {
                let (sender, connection) = h1(limits).handshake(io).await.map_err(NoConnection::Handshake)?;
                spawn_local(self.clone().drive(connection.with_upgrades(), slot));
                Sender::H1(sender)
            }
            NodeProtocol::H2 => {
                let mut builder = http2::Builder::new(Spawner);
                builder.max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
                let (sender, connection) = builder.handshake(io).await.map_err(NoConnection::Handshake)?;
                spawn_local(self.clone().drive(connection, slot));
                Sender::H2(sender)
            }
        };
        Ok(Connection { sender, is_reused: false, is_lost: Rc::default(), resets })
    }

    /// How long the next connection is held back.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        if now < self.careful_until.get() { self.gate.pass(now) } else { Duration::ZERO }
    }

    /// Drives a connection to its end. How it ended is told by the request that was under way.
    async fn drive<T>(self: Rc<Self>, connection: impl Future<Output = T>, slot: Slot) {
        self.block().connects.add(1);
        self.block().connections.add(1);
        connection.await;
        self.block().connections.add(-1);
        drop(slot);
    }

    /// A connection could not be made, or broke.
    pub(super) fn trouble(&self) {
        self.careful_until.set(Instant::now() + CAREFUL);
    }

    /// Takes a connection back that has carried its request.
    pub(super) fn give_back(&self, mut connection: Connection) {
        if connection.is_h2() || connection.is_closed() || !self.is_owner.get() {
            return;
        }
        connection.is_reused = true;
        if let Some(Turn::Connection(unwanted)) = self.waiting.give(Turn::Connection(connection)) {
            self.idle.borrow_mut().push(unwanted);
        }
    }

    /// The node owns nothing any more. What is under way ends as it would; at an ejection whoever
    /// waits for the node is told.
    pub(super) fn leave(&self, leaving: Leaving) {
        self.is_owner.set(false);
        self.forget();
        self.waiting.clear();
        if leaving == Leaving::Evict {
            self.evicted.notify_waiters();
        }
    }

    /// Closes the connections that carry no request: new ones will be made in another way.
    pub(super) fn forget(&self) {
        self.idle.take();
        self.shared.take();
    }

    /// Lets go of connections that the node has closed, and of more than are kept.
    pub(super) fn tidy(&self, keep: usize) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|connection| !connection.is_closed());
        let surplus = idle.len().saturating_sub(keep);
        idle.drain(..surplus);
    }
}

impl Connection {
    /// Another handle to an HTTP/2 connection.
    fn share(&self) -> Option<Connection> {
        match &self.sender {
            Sender::H1(_) => None,
            Sender::H2(sender) => Some(Connection {
                sender: Sender::H2(sender.clone()),
                is_reused: true,
                is_lost: self.is_lost.clone(),
                resets: self.resets.clone(),
            }),
        }
    }
}

fn h1(limits: &HttpLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(limits.header_bytes.max(READ_MIN));
    if limits.headers_max != HEADERS_MAX {
        builder.max_headers(limits.headers_max);
    }
    builder
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        task::{Context, Waker},
    };

    use tokio::time::advance;

    use super::*;
    use crate::{proxy::tests::topology, topology::HttpSettings};

    fn pauses(link: &Link, count: usize) -> Vec<Duration> {
        (0..count).map(|_| link.pause()).collect()
    }

    /// 20,000 who gave up waiting cost no stack when a connection ends, and what it held is free again.
    #[tokio::test]
    async fn who_gave_up_waiting_is_passed_over() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut http = HttpSettings::default();
        http.limits.connections_per_node_max = 1;
        let policy = Policy { http: Arc::new(http), ..Policy::default() };
        let link = Link::new(&topology(&[("a", nowhere)], policy.clone()).nodes[0], 0);
        link.open.set(1);
        let slot = Slot::of(&link);
        let mut waiting: Vec<_> =
            (0..20_000).map(|_| Box::pin(link.connection(&policy, Pick::Any))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.iter_mut().all(|request| request.as_mut().poll(&mut cx).is_pending()));
        drop(waiting);
        assert_eq!(link.waiting.len(), 20_000, "nobody came after them");
        drop(slot);
        assert_eq!((link.waiting.len(), link.open.get(), Rc::strong_count(&link)), (0, 0, 1));
    }

    /// A node that is new or was in trouble is greeted by 128 at once and by one each millisecond after them; one
    /// that has been well for five seconds by as many as come.
    #[tokio::test(start_paused = true)]
    async fn a_node_in_trouble_is_not_stormed() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let link = Link::new(&topology(&[("a", nowhere)], Policy::default()).nodes[0], 0);
        let ms = Duration::from_millis;
        let one_by_one: Vec<Duration> = (1..=100).map(ms).collect();
        let is_careful = |link: &Link| {
            assert!(pauses(link, 128).iter().all(Duration::is_zero), "as many at once");
            assert_eq!(pauses(link, 100), one_by_one);
        };
        is_careful(&link);
        advance(CAREFUL).await;
        assert!(pauses(&link, 1000).iter().all(Duration::is_zero), "it is well");
        link.trouble();
        is_careful(&link);
        advance(CAREFUL - ms(1)).await;
        assert!(!pauses(&link, 129)[128].is_zero(), "it was in trouble a moment ago");
        link.trouble();
        advance(CAREFUL - ms(1)).await;
        assert!(!pauses(&link, 129)[128].is_zero(), "new trouble counts anew");
        advance(ms(1)).await;
        assert!(pauses(&link, 1000).iter().all(Duration::is_zero), "it is well again");
    }
}

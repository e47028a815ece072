//! One worker's connections to one node: those that wait for a request, and who waits for one.

use std::{
    cell::{Cell, RefCell},
    future::{Future, pending},
    mem::forget,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Notify, Semaphore},
    task::spawn_local,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    evidence::Happened,
    outgoing::Outgoing,
    shared::{Place, Shared},
    spawner::Spawner,
    told::Told,
    trailing::Trailing,
    waiting::Waiting,
    wire::{Meter, Passing, Wire},
};
use crate::{
    metrics::NodeBlock,
    net::Target,
    protocol::{http::Fault, resp::Version},
    proxy::{
        connect,
        gate::{Gate, Token, spread},
        rebind::{Leaving, Side},
    },
    topology::{Entry, Failure, HttpLimits, Node, NodeId, NodeProtocol, Policy},
};

/// Connections that all workers together make to one node at once, and the pause before each further one,
/// while the node is new, is back or was in trouble. It is new at the start of the process as well, when all
/// clients come back in the same instant: more than the node's backlog holds would be lost, and would look
/// like its failure.
const CONNECTS: (u32, Duration) = (128, Duration::from_millis(1));
/// A worker's part is this one at least, however many there are: all requests of an HTTP/2 client come to
/// one.
const PARTS_MAX: usize = 8;
/// The part of the time which a client still has for that a node which does not fail is spared at most.
const PAUSE_PART: u32 = 4;
/// Dials at once for requests that share a connection with nobody.
const ALONE_MAX: usize = 8;
/// So long after the trouble.
const CAREFUL: Duration = Duration::from_secs(5);

/// What an HTTP/2 node may send of one reply before its client has taken it; and of all replies together as
/// much as all requests may have, so that those which are not taken do not keep others from moving.
const STREAM_WINDOW: u32 = 128 * 1024;
/// No connection has more (RFC 9113, 6.9.1).
const CONNECTION_WINDOW_MAX: u32 = (1 << 31) - 1;

/// hyper refuses a smaller bound of what it reads ahead.
pub(super) const READ_MIN: usize = 8 * 1024;
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
    /// The HTTP/2 connections, which requests share.
    pub(super) shared: Shared,
    /// Dials for requests that are to have a connection of their own: those that shared one which was closed
    /// over one of them come all at once.
    alone: Semaphore,
    /// Connections that there are, or that are being made.
    pub(super) open: Cell<usize>,
    waiting: Waiting<Turn>,
    /// Who is held back, and takes a connection that comes free meanwhile.
    held: Waiting<Connection>,
    /// Holds back those that connect, until then.
    gate: Gate,
    careful_until: Cell<Instant>,
    /// It owns keys.
    pub(super) is_owner: Cell<bool>,
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
    /// That it resets streams and answers none is counted.
    pub(super) has_reset: Rc<Cell<bool>>,
    /// Further requests had better have another.
    is_doubted: Rc<Cell<bool>>,
    /// Requests that share it, over HTTP/2.
    taken: Rc<Cell<usize>>,
    /// This request's among them.
    _place: Option<Place>,
    /// Replies that came over it.
    replies: Rc<Cell<u64>>,
    passing: Arc<Passing>,
    trailing: Arc<Trailing>,
}

enum Sender {
    H1(http1::SendRequest<Outgoing>),
    H2(http2::SendRequest<Outgoing>, Rc<Told>),
}

/// Which connection a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// One that is there, or else a new one.
    Any,
    /// The same, for a request that can't be repeated: one that the node has closed must be known
    /// to be closed.
    Sure,
    /// A new one. Over HTTP/2 that is one that others share, as long as no request has failed over it.
    Fresh,
    /// Over HTTP/2 one that no other request has: it is this one, or another, that the node closed a
    /// connection over.
    Alone,
}

/// How a request went.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Outgoing>>>;

/// Why there is no connection. One dial may have many who ask.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum NoConnection {
    /// It can't be made; with the node's failure, or none when that is this process's own trouble.
    #[error("{1}")]
    Unreachable(Option<Failure>, Rc<str>),
    /// All that there may be were busy for as long as the client waits.
    #[error("no connection came free in time")]
    Busy,
    /// It was not made for as long as the client waits.
    #[error("no connection was made in time")]
    Late,
    /// The node left while somebody waited.
    #[error("it left")]
    Left,
}

impl NoConnection {
    fn handshake(fault: &Fault) -> NoConnection {
        let kind = match fault {
            Fault::Garbage(_) | Fault::TooLarge(_) | Fault::Reset(_) => Failure::Protocol,
            Fault::Broken(_) | Fault::Leaving(_) | Fault::Refused(_) => Failure::Lost,
        };
        NoConnection::Unreachable(Some(kind), fault.text().into())
    }

    /// What happened to those who wait for it.
    pub(super) fn happened(&self) -> Happened {
        match self {
            NoConnection::Left => Happened::Left,
            NoConnection::Busy => Happened::Full,
            NoConnection::Late => Happened::Late,
            NoConnection::Unreachable(kind, _) => Happened::Unreachable(*kind),
        }
    }

    /// The connection was made, and over HTTP/2 the node said nothing.
    fn silent(patience: Duration) -> NoConnection {
        let text = format!("it takes connections, and sent no SETTINGS within {} ms", patience.as_millis());
        NoConnection::Unreachable(Some(Failure::Timeout), text.into())
    }
}

impl Connection {
    pub(super) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::H2(..))
    }

    /// What the node tells of it, over HTTP/2.
    pub(super) fn told(&self) -> Option<Rc<Told>> {
        match &self.sender {
            Sender::H1(_) => None,
            Sender::H2(_, told) => Some(told.clone()),
        }
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::H1(sender) => sender.is_closed(),
            Sender::H2(sender, _) => sender.is_closed(),
        }
    }

    /// Whether further requests may go over it.
    pub(super) fn is_good(&self) -> bool {
        !self.is_closed() && !self.is_doubted.get()
    }

    /// Waits until it takes a request; false when it takes none any more.
    async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::H1(sender) => sender.is_ready() || sender.ready().await.is_ok(),
            Sender::H2(sender, _) => sender.ready().await.is_ok(),
        }
    }

    /// Requests that share it.
    pub(super) fn taken(&self) -> usize {
        self.taken.get()
    }

    /// Another handle to an HTTP/2 connection, with a place for one more request, if the node takes one more
    /// beside those that it has.
    pub(super) fn share(&self, link: &Rc<Link>) -> Option<Connection> {
        let Sender::H2(sender, told) = &self.sender else { return None };
        (self.taken.get() < told.streams_max()).then(|| Connection {
            sender: Sender::H2(sender.clone(), told.clone()),
            is_reused: self.is_reused,
            is_lost: self.is_lost.clone(),
            has_reset: self.has_reset.clone(),
            is_doubted: self.is_doubted.clone(),
            taken: self.taken.clone(),
            _place: Some(Place::new(link, &self.taken)),
            replies: self.replies.clone(),
            passing: self.passing.clone(),
            trailing: self.trailing.clone(),
        })
    }

    /// Sends a request and waits for the head of its reply.
    pub(super) async fn send(&mut self, request: Request<Outgoing>) -> Sent {
        let sent = match &mut self.sender {
            Sender::H1(sender) => sender.try_send_request(request).await,
            Sender::H2(sender, _) => sender.try_send_request(request).await,
        };
        self.replies.set(self.replies.get() + u64::from(sent.is_ok()));
        sent
    }

    /// How many bytes have come over it.
    pub(super) fn read(&self) -> u64 {
        self.passing.read()
    }

    /// How many replies have come over it.
    pub(super) fn replies(&self) -> u64 {
        self.replies.get()
    }

    /// What the kernel still has to send is thrown away when the connection closes, or a node that
    /// hangs would be given it later.
    pub(super) fn reset_on_close(&self) {
        self.passing.reset_on_close();
    }

    /// Where a request leaves trailers for it; over HTTP/2 they are frames like others.
    pub(super) fn trailing(&self) -> Option<Arc<Trailing>> {
        (!self.is_h2()).then(|| self.trailing.clone())
    }

    /// It does not do what it should: the next requests go over another.
    pub(super) fn doubt(&self) {
        self.is_doubted.set(true);
    }
}

/// The right to have one connection more; none once it was given away.
pub(super) struct Slot(Option<Rc<Link>>);

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(link) = self.0.take() else { return };
        if let Some(Turn::Slot(mut unwanted)) = link.waiting.give(Turn::Slot(Slot(Some(link.clone())))) {
            unwanted.0 = None;
            link.open.set(link.open.get() - 1);
            link.turn();
        }
    }
}

impl Side for Link {
    fn id(&self) -> NodeId {
        self.node.id
    }

    fn update(&self, entry: &Entry, _: &Arc<Policy>) {
        *self.targets.borrow_mut() = entry.targets.clone();
        let is_owner = entry.placement.serves();
        if !self.is_owner.replace(is_owner) && is_owner {
            // It is back, and all who wait for it come.
            self.trouble();
        }
    }
}

impl Link {
    pub(super) fn new(entry: &Entry, worker_index: usize) -> Rc<Link> {
        Rc::new(Link {
            node: entry.node.clone(),
            worker_index,
            targets: RefCell::new(entry.targets.clone()),
            idle: RefCell::default(),
            shared: Shared::default(),
            open: Cell::new(0),
            waiting: Waiting::default(),
            alone: Semaphore::new(ALONE_MAX),
            held: Waiting::default(),
            is_owner: Cell::new(entry.placement.serves()),
            gate: Gate::new(CONNECTS.0, CONNECTS.1, entry.node.blocks.len().min(PARTS_MAX)),
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

    /// A connection that takes a request. Waits its turn when there are as many as there may be, and at most
    /// `until`.
    pub(super) async fn connection(
        self: &Rc<Self>,
        policy: &Arc<Policy>,
        pick: Pick,
        until: Instant,
    ) -> Result<Connection, NoConnection> {
        if policy.http.node_protocol == NodeProtocol::H2 {
            if pick != Pick::Alone {
                return self.share(policy, until).await;
            }
            let made = async {
                // Who dials for all decides what a failure says of the node.
                let _turn = self.alone.acquire().await.map_err(|_| NoConnection::Left)?;
                self.greet(self.slot(), policy).await
            };
            return timeout_at(until, made).await.unwrap_or(Err(NoConnection::Late));
        }
        let fresh = pick == Pick::Fresh;
        if !fresh && let Some(connection) = self.reuse(pick).await {
            return Ok(connection);
        }
        let slot = if self.open.get() < policy.http.limits.connections_per_node_max {
            self.slot()
        } else {
            // The oldest makes room, if none of them will do.
            if fresh && !self.idle.borrow().is_empty() {
                self.idle.borrow_mut().remove(0);
            }
            match timeout_at(until, self.waiting.join()).await {
                Ok(Ok(Turn::Connection(connection))) => return Ok(connection),
                Ok(Ok(Turn::Slot(slot))) => slot,
                Ok(Err(_)) => return Err(NoConnection::Left),
                Err(_) => return Err(NoConnection::Busy),
            }
        };
        let made = async {
            match self.hold_back(pick, until).await? {
                Some(connection) => Ok(connection),
                None => self.connect(slot, policy).await,
            }
        };
        timeout_at(until, made).await.unwrap_or(Err(NoConnection::Late))
    }

    pub(super) fn slot(self: &Rc<Self>) -> Slot {
        self.open.set(self.open.get() + 1);
        Slot(Some(self.clone()))
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

    /// Makes a connection. What keeps it from coming is evidence, once for all who wait for it.
    pub(super) async fn connect(
        self: &Rc<Self>,
        slot: Slot,
        policy: &Policy,
    ) -> Result<Connection, NoConnection> {
        self.greet(slot, policy).await.inspect_err(|error| {
            self.trouble();
            self.met(error.happened());
        })
    }

    async fn greet(self: &Rc<Self>, slot: Slot, policy: &Policy) -> Result<Connection, NoConnection> {
        let targets = self.targets.borrow().clone();
        let stream = connect::reach(&targets, policy, Version::Resp2)
            .await
            .map_err(|error| NoConnection::Unreachable(error.kind, error.to_string().into()))?;
        let passing = Arc::<Passing>::default();
        let trailing = Arc::<Trailing>::default();
        let meter = Meter::Node {
            node: self.node.clone(),
            worker: self.worker_index,
            passing: passing.clone(),
            trailing: trailing.clone(),
        };
        let io = TokioIo::new(Wire::new(stream, meter));
        let limits = &policy.http.limits;
        let refused = |error: hyper::Error| NoConnection::handshake(&Fault::of(&error));
        let sender = match policy.http.node_protocol {
            NodeProtocol::H1 => {
                let (sender, connection) = h1(limits).handshake(io).await.map_err(refused)?;
                spawn_local(self.clone().drive(connection.with_upgrades(), slot));
                Sender::H1(sender)
            }
            NodeProtocol::H2 => {
                let told = Rc::new(Told::default());
                let made = h2(limits, Spawner(told.moved.clone())).handshake(io).await;
                let (sender, connection) = made.map_err(refused)?;
                told.begin(connection);
                let (link, driven) = (self.clone(), told.clone());
                spawn_local(async move { link.drive(driven.drive(), slot).await });
                // A kernel takes connections for a node that hangs, and for one that is busy: it has as long
                // as for a reply.
                let patience = policy.request_timeout;
                let settled = timeout(patience, told.settled()).await;
                settled
                    .map_err(|_| NoConnection::silent(patience))?
                    .map_err(|fault| NoConnection::handshake(&fault))?;
                Sender::H2(sender, told)
            }
        };
        Ok(Connection {
            sender,
            is_reused: false,
            is_lost: Rc::default(),
            has_reset: Rc::default(),
            is_doubted: Rc::default(),
            taken: Rc::default(),
            _place: None,
            replies: Rc::default(),
            passing,
            trailing,
        })
    }

    /// How long the next connection is held back.
    pub(super) fn pause(&self) -> Duration {
        let now = Instant::now();
        if now < self.careful_until.get() { self.gate.pass(now) } else { Duration::ZERO }
    }

    /// Returns when a connection may be made, or with one that came free before.
    async fn hold_back(&self, pick: Pick, until: Instant) -> Result<Option<Connection>, NoConnection> {
        let mut pause = self.pause();
        if self.node.evidence.streak() == 0 {
            pause = pause.min(until.saturating_duration_since(Instant::now()) / PAUSE_PART);
        }
        if pause.is_zero() {
            return Ok(None);
        }
        let token = Token(&self.gate);
        let free = async { if pick == Pick::Fresh { pending().await } else { self.held.join().await } };
        // What was given is looked at first, or it would be dropped, and closed, with the place.
        tokio::select! {
            biased;
            given = free => given.map(Some).map_err(|_| NoConnection::Left),
            () = sleep(spread(pause)) => {
                forget(token);
                Ok(None)
            }
        }
    }

    /// Drives a connection to its end. How it ended is told by the request that was under way.
    async fn drive<T>(self: Rc<Self>, connection: impl Future<Output = T>, slot: Slot) {
        self.block().connects.add(1);
        self.block().connections.add(1);
        connection.await;
        self.block().connections.add(-1);
        drop(slot);
    }

    /// This happened to a request: what it says of the node is counted.
    pub(super) fn met(&self, happened: Happened) {
        happened.says().of(&self.node.evidence);
    }

    /// A connection broke that had no reason to.
    pub(super) fn broke(&self, happened: Happened) {
        self.trouble();
        self.met(happened);
    }

    /// A connection could not be made, or broke: for a while those that connect are held back.
    pub(super) fn trouble(&self) {
        self.careful_until.set(Instant::now() + CAREFUL);
    }

    /// Takes a connection back that has carried its request.
    pub(super) fn give_back(&self, mut connection: Connection) {
        if connection.is_h2() || connection.is_closed() || !self.is_owner.get() {
            return;
        }
        connection.is_reused = true;
        if let Some(Turn::Connection(unwanted)) = self.waiting.give(Turn::Connection(connection))
            && let Some(unwanted) = self.held.give(unwanted)
        {
            self.idle.borrow_mut().push(unwanted);
        }
    }

    /// The node owns nothing any more. What is under way ends as it would; at an ejection whoever
    /// waits for the node is told.
    pub(super) fn leave(&self, leaving: Leaving) {
        self.is_owner.set(false);
        self.forget();
        self.waiting.clear();
        self.held.clear();
        self.shared.leave();
        if leaving == Leaving::Evict {
            self.evicted.notify_waiters();
        }
    }

    /// Closes the connections that carry no request: new ones will be made in another way.
    pub(super) fn forget(&self) {
        self.idle.take();
        self.shared.forget();
    }

    /// Lets go of connections that the node has closed, and of more than are kept.
    pub(super) fn tidy(self: &Rc<Self>, keep: usize) {
        {
            let mut idle = self.idle.borrow_mut();
            idle.retain(|connection| !connection.is_closed());
            let surplus = idle.len().saturating_sub(keep);
            idle.drain(..surplus);
        }
        self.shared.tidy(keep);
        self.turn();
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

fn h2(limits: &HttpLimits, spawner: Spawner) -> http2::Builder<Spawner> {
    let requests = u32::try_from(limits.requests_max).unwrap_or(u32::MAX);
    let window = STREAM_WINDOW.saturating_mul(requests).min(CONNECTION_WINDOW_MAX);
    let mut builder = http2::Builder::new(spawner);
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_send_buf_size(STREAM_WINDOW as usize)
        // By this is known that its settings came, which say how many.
        .initial_max_send_streams(0)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
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
    use crate::{
        proxy::tests::{play, topology},
        topology::{HttpSettings, Placement},
    };

    fn pauses(link: &Link, count: usize) -> Vec<Duration> {
        (0..count).map(|_| link.pause()).collect()
    }

    /// 20,000 who gave up waiting cost no stack when a connection ends, and what it held is free again.
    #[tokio::test]
    async fn who_gave_up_waiting_is_passed_over() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut http = HttpSettings::default();
        http.limits.connections_per_node_max = 1;
        let policy = Arc::new(Policy { http: Arc::new(http), ..Policy::default() });
        let link = Link::new(&topology(&[("a", nowhere)], Policy::default()).nodes[0], 0);
        let until = Instant::now() + CAREFUL;
        let slot = link.slot();
        let mut waiting: Vec<_> =
            (0..20_000).map(|_| Box::pin(link.connection(&policy, Pick::Any, until))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.iter_mut().all(|request| request.as_mut().poll(&mut cx).is_pending()));
        drop(waiting);
        assert_eq!(link.waiting.len(), 20_000, "nobody came after them");
        drop(slot);
        assert_eq!((link.waiting.len(), link.open.get(), Rc::strong_count(&link)), (0, 0, 1));
    }

    /// What comes of dials for one request each says nothing of the node: of many that shared a connection
    /// none is a failure more. No more than a few of them are made at once.
    #[test]
    fn dials_for_one_are_no_evidence() {
        play(async {
            let closed =
                std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
            let http = HttpSettings { node_protocol: NodeProtocol::H2, ..HttpSettings::default() };
            let policy = Arc::new(Policy { http: Arc::new(http), ..Policy::default() });
            let link = Link::new(&topology(&[("a", closed)], Policy::default()).nodes[0], 0);
            let until = Instant::now() + CAREFUL;
            let refused = |made| matches!(made, Err(NoConnection::Unreachable(Some(Failure::Refused), _)));
            assert!(refused(link.connection(&policy, Pick::Alone, until).await));
            assert_eq!(link.node.evidence.streak(), 0);
            let mut cx = Context::from_waker(Waker::noop());
            let mut alone: Vec<_> =
                (0..3 * ALONE_MAX).map(|_| Box::pin(link.connection(&policy, Pick::Alone, until))).collect();
            alone.iter_mut().for_each(|dial| drop(dial.as_mut().poll(&mut cx)));
            assert!(link.open.get() <= ALONE_MAX, "{} at once", link.open.get());
            drop(alone);
            assert!(refused(link.connection(&policy, Pick::Any, until).await));
            assert_eq!(link.node.evidence.streak(), 1);
        });
    }

    /// Requests that an HTTP/2 node has no connection for wait for one dial, which answers all of them: at an
    /// address that is silent the last waits no longer than the first, and that it is silent is known once.
    #[test]
    fn one_dial_answers_all() {
        play(async {
            let silent =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has a free port");
            silent.listen(0).expect("it is bound");
            let address = silent.local_addr().ok().and_then(|a| a.as_socket()).expect("an address");
            let _full = std::net::TcpStream::connect(address).expect("there is room for one");
            let http = HttpSettings { node_protocol: NodeProtocol::H2, ..HttpSettings::default() };
            let connect_timeout = Duration::from_millis(300);
            let policy = Arc::new(Policy { connect_timeout, http: Arc::new(http), ..Policy::default() });
            let link = Link::new(&topology(&[("a", address)], Policy::default()).nodes[0], 0);
            let (since, until) = (Instant::now(), Instant::now() + CAREFUL);
            let ask = |_| {
                let (link, policy) = (link.clone(), policy.clone());
                spawn_local(async move { link.connection(&policy, Pick::Any, until).await.err() })
            };
            for waiting in (0..20).map(ask).collect::<Vec<_>>() {
                let error = waiting.await.expect("it does not panic");
                let is_late =
                    matches!(error, Some(NoConnection::Unreachable(Some(Failure::ConnectTimeout), _)));
                assert!(is_late, "{error:?}");
            }
            assert!(since.elapsed() < 5 * connect_timeout, "{:?}", since.elapsed());
            assert_eq!((link.node.evidence.streak(), link.open.get()), (1, 0));
            let late = link.connection(&policy, Pick::Any, Instant::now() + connect_timeout / 3).await;
            assert!(matches!(late, Err(NoConnection::Late)), "the client waits for less than that");
        });
    }

    /// Who is held back takes the connection that comes free meanwhile, and its token is there for the next;
    /// who wants a new one waits for that.
    #[test]
    fn who_is_held_back_takes_what_comes_free() {
        play(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let policy = Arc::new(Policy::default());
            let link = Link::new(&topology(&[("a", address)], Policy::default()).nodes[0], 0);
            let until = Instant::now() + CAREFUL;
            let made = link.connection(&policy, Pick::Any, until).await.expect("one is made at once");
            let debt = pauses(&link, 3000).pop().expect("the last");
            let mut cx = Context::from_waker(Waker::noop());
            let mut fresh = Box::pin(link.connection(&policy, Pick::Fresh, until));
            let mut held = Box::pin(link.connection(&policy, Pick::Any, until));
            assert!(fresh.as_mut().poll(&mut cx).is_pending() && held.as_mut().poll(&mut cx).is_pending());
            assert_eq!(link.open.get(), 3, "both are to make one");
            link.give_back(made);
            assert!(fresh.as_mut().poll(&mut cx).is_pending());
            let given = held.await.expect("it came free");
            assert!(given.is_reused && Instant::now() < until - CAREFUL / 2);
            drop(fresh);
            assert_eq!(link.open.get(), 1, "neither has made one");
            assert!(link.pause() <= debt + Duration::from_millis(1), "both have given back their tokens");
        });
    }

    /// However many come, and however many workers there are: a node that does not fail is spared for a part
    /// of the time that they have, one that does for all of it.
    #[tokio::test(start_paused = true)]
    async fn care_for_a_healthy_node_costs_nobody_a_request() {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        for workers in [16, 64] {
            let mut entry = topology(&[("a", nowhere)], Policy::default()).nodes[0].clone();
            let node = Arc::get_mut(&mut entry.node).expect("nobody else has it");
            node.blocks = (0..workers).map(|_| NodeBlock::default()).collect();
            let link = Link::new(&entry, 0);
            let waits = pauses(&link, 100);
            assert!(waits[15].is_zero() && waits[99] <= Duration::from_millis(700), "{waits:?}");
            pauses(&link, 10_000);
            let (since, until) = (Instant::now(), Instant::now() + Duration::from_secs(2));
            assert!(matches!(link.hold_back(Pick::Any, until).await, Ok(None)));
            assert!(since.elapsed() <= Duration::from_millis(626), "{:?}", since.elapsed());
            link.node.evidence.failed(Failure::Refused, 1);
            let until = Instant::now() + Duration::from_secs(2);
            assert!(timeout_at(until, link.hold_back(Pick::Any, until)).await.is_err(), "it is in trouble");
        }
    }

    /// A node that is new or was in trouble is greeted by 128 at once and by one each millisecond after them;
    /// one that has been well for five seconds by as many as come.
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
        let mut entry = topology(&[("a", nowhere)], Policy::default()).nodes[0].clone();
        link.update(&entry, &Arc::default());
        assert!(pauses(&link, 1000).iter().all(Duration::is_zero), "it was there all the time");
        link.leave(Leaving::Retire);
        link.update(&entry, &Arc::default());
        advance(CAREFUL - ms(1)).await;
        assert!(!pauses(&link, 129)[128].is_zero(), "it is back");
        entry.placement = Placement::Away;
        advance(ms(1)).await;
        link.update(&entry, &Arc::default());
        assert!(pauses(&link, 1000).iter().all(Duration::is_zero), "it goes");
    }
}

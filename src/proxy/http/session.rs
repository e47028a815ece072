//! One client connection: which version of HTTP it speaks, its timeouts and its end.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use ::http::Request;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;

use super::{
    pool::HttpPool,
    serve,
    spawner::Streams,
    trailing::Trailing,
    wire::{Activity, Meter, Wire},
};
use crate::{
    metrics::Reason,
    net::{StdStream, Stream},
    proxy::pool::Place,
    topology::HttpLimits,
};

/// What an HTTP/2 connection begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests that one HTTP/2 connection may have in flight.
const STREAMS_MAX: u32 = 250;
/// hyper's own bound of header fields, which costs nothing.
const HEADERS_MAX: usize = 100;
/// What an HTTP/2 client may send of one body before a node has taken it, and what is held for it of one
/// reply; and of all its bodies together: as much as all its requests may have, so that bodies that wait do
/// not keep others from moving.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX;

/// A client's place among the pool's clients. It is held by whoever has the connection.
pub(super) struct Seat {
    pool: Rc<HttpPool>,
    _place: Place,
}

impl Seat {
    fn new(pool: &Rc<HttpPool>, place: Place) -> Seat {
        pool.block().sessions.add(1);
        pool.block().accepted.add(1);
        Seat { pool: pool.clone(), _place: place }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pool.block().sessions.add(-1);
    }
}

/// A session among those of its pool. It is forgotten when this is dropped, also by a panic: a pool that is
/// closed waits for its sessions.
struct Entry(Rc<Session>);

impl Entry {
    fn new(session: &Rc<Session>) -> Entry {
        session.pool.enter(session);
        Entry(session.clone())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.pool.forget(self.0.id);
    }
}

/// What the client was last seen doing.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Bytes that had passed, and when they had.
    passed: u64,
    since_us: u32,
    /// The head that it has been sending, by its number, and since when.
    head: Option<(u64, u32)>,
}

/// The session.
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) peer: Option<SocketAddr>,
    pub(super) pool: Rc<HttpPool>,
    pub(super) seat: Rc<Seat>,
    activity: Arc<Activity>,
    /// Requests in flight.
    active: Cell<u32>,
    /// Bodies that nodes wait for which have answered already.
    starved: Cell<u32>,
    served: Cell<u64>,
    /// Of them those that came though it is to end.
    late: Cell<u32>,
    /// Bytes that had been read when the last request was whole.
    read_mark: Cell<u64>,
    seen: Cell<Seen>,
    is_h2: Cell<bool>,
    /// Its requests, over HTTP/2.
    streams: Streams,
    /// It is to finish what is in flight, then to close.
    is_ending: Cell<bool>,
    /// It is to close at once.
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Serves a client to its end.
pub(crate) fn start(pool: &Rc<HttpPool>, place: Place, stream: StdStream, id: u64) {
    let seat = Rc::new(Seat::new(pool, place));
    let peer = stream.peer();
    let stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(pool = %pool.handle.name, ?peer, %error, "can't serve a client");
            return;
        }
    };
    let activity = Arc::<Activity>::default();
    let session = Rc::new(Session {
        id,
        peer,
        pool: pool.clone(),
        seat,
        streams: Streams::of(&activity),
        activity,
        active: Cell::default(),
        starved: Cell::default(),
        served: Cell::default(),
        late: Cell::default(),
        read_mark: Cell::default(),
        seen: Cell::new(Seen { since_us: pool.worker.clock.now_us(), ..Seen::default() }),
        is_h2: Cell::default(),
        is_ending: Cell::default(),
        is_cut: Cell::default(),
        waker: RefCell::default(),
    });
    let entry = Entry::new(&session);
    tokio::task::spawn_local(async move {
        session.run(stream).await;
        drop(entry);
    });
}

impl Session {
    async fn run(self: Rc<Self>, stream: Stream) {
        let mut conversation = pin!(self.clone().converse(stream));
        poll_fn(|cx| {
            self.attend(cx);
            if self.is_cut.get() { Poll::Ready(()) } else { conversation.as_mut().poll(cx) }
        })
        .await;
    }

    /// Notes whom to wake when the session is told something.
    fn attend(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    async fn converse(self: Rc<Self>, stream: Stream) {
        let (worker, activity) = (self.pool.worker.index, self.activity.clone());
        let meter = Meter::Client { pool: self.pool.handle.clone(), worker, activity };
        let mut wire = Wire::new(stream, meter);
        let is_told = |seen: &[u8]| !PREFACE.starts_with(seen) || seen.len() == PREFACE.len();
        let Some(beginning) = self.unless_ending(wire.peek(is_told)).await.and_then(Result::ok) else {
            return;
        };
        let is_h2 = beginning.starts_with(PREFACE);
        self.is_h2.set(is_h2);
        if is_h2 {
            wire.watch_heads(PREFACE.len());
        }
        let limits = self.pool.bound().topology.policy.http.limits.clone();
        let ended = if is_h2 { self.h2(wire, &limits).await } else { self.h1(wire, &limits).await };
        if let Err(error) = ended
            && (error.is_parse() || error.is_parse_too_large())
        {
            // hyper has answered it with its status.
            self.pool.block().refuse(Reason::Protocol);
        }
    }

    async fn h1(self: &Rc<Self>, wire: Wire, limits: &HttpLimits) -> hyper::Result<()> {
        // Not `pipeline_flush`: with it hyper queues a reply without a bound.
        let mut builder = http1::Builder::new();
        builder.max_buf_size(limits.header_bytes);
        if limits.headers_max != HEADERS_MAX {
            builder.max_headers(limits.headers_max);
        }
        let service = service_fn(|request| self.clone().answer(request));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service).with_upgrades());
        self.until_ended(connection.as_mut(), |connection| connection.graceful_shutdown()).await
    }

    async fn h2(self: &Rc<Self>, wire: Wire, limits: &HttpLimits) -> hyper::Result<()> {
        let mut builder = http2::Builder::new(self.streams.clone());
        builder
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .enable_connect_protocol()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
        let session = self.clone();
        let service = service_fn(move |request| session.clone().answer(request));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
        self.until_ended(connection.as_mut(), |connection| connection.graceful_shutdown()).await
    }

    /// Drives a connection, and tells it once when it is to end.
    async fn until_ended<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
    ) -> C::Output {
        let mut is_told = false;
        poll_fn(|cx| {
            if self.is_ending.get() && !is_told {
                is_told = true;
                shut_down(connection.as_mut());
            }
            connection.as_mut().poll(cx)
        })
        .await
    }

    /// What this comes to; `None` when the session is told to end before.
    async fn unless_ending<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|cx| if self.is_ending.get() { Poll::Ready(None) } else { work.as_mut().poll(cx).map(Some) })
            .await
    }

    async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
    ) -> Result<::http::Response<super::body::Reply>, Infallible> {
        Ok(serve(&self, request).await)
    }

    /// A request is whole.
    pub(super) fn request_began(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
        self.read_mark.set(self.activity.read());
        if self.is_ending.get() && self.is_h2.get() {
            self.late.set(self.late.get() + 1);
            // More cannot have been under way when GOAWAY came: the client does not heed it.
            if self.late.get() > STREAMS_MAX {
                self.cut(None);
            }
        }
    }

    /// Its reply is, or will never be.
    pub(super) fn request_ended(&self) {
        self.active.set(self.active.get() - 1);
        // What was read of its body is no part of the next request's head.
        self.read_mark.set(self.activity.read());
        self.seen.set(Seen { since_us: self.pool.worker.clock.now_us(), ..self.seen.get() });
    }

    /// Where a reply leaves trailers for this connection.
    pub(super) fn trailing(&self) -> Arc<Trailing> {
        self.activity.trailing.clone()
    }

    /// Requests since it was accepted.
    pub(super) fn served(&self) -> u64 {
        self.served.get()
    }

    /// A node that has answered waits for more of a body, or does not any more.
    pub(super) fn starve(&self, begins: bool) {
        self.starved.set(if begins { self.starved.get() + 1 } else { self.starved.get() - 1 });
    }

    /// Finishes what is in flight, then closes.
    pub(super) fn end(&self) {
        self.is_ending.set(true);
        self.wake();
    }

    /// Over HTTP/2 a reply that is not taken costs its stream alone, and blocks no other.
    fn reset_stalled(&self, timeout: Duration) {
        for _ in 0..self.streams.reset_stalled(timeout) {
            self.pool.block().refuse(Reason::SlowClient);
        }
    }

    fn cut(&self, reason: Option<Reason>) {
        self.is_cut.set(true);
        if let Some(reason) = reason {
            self.pool.block().refuse(reason);
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The number of the head that it is sending. Over HTTP/1 that is whatever comes while there is no
    /// request; over HTTP/2 frames of other kinds come then, and heads come beside other requests.
    fn head(&self, is_idle: bool) -> Option<u64> {
        if self.is_h2.get() {
            let heads = self.activity.heads();
            (heads % 2 == 1).then_some(heads)
        } else {
            (is_idle && self.activity.read() > self.read_mark.get()).then(|| self.served())
        }
    }

    /// Looks whether the client keeps to its times: the head of a request within `header_timeout`
    /// from its first byte, and no pause longer than `idle_timeout`, be it between requests, within a
    /// body or in taking a reply.
    pub(super) fn check(&self, now_us: u32, limits: &HttpLimits) {
        self.reset_stalled(limits.idle_timeout);
        let mut seen = self.seen.get();
        let passed = self.activity.passed();
        let is_idle = self.active.get() == 0;
        let head = self.head(is_idle);
        if passed != seen.passed {
            seen.passed = passed;
            // Over HTTP/2 pings and other frames pass beside requests, and are none.
            if !(self.is_h2.get() && is_idle && head.is_none()) {
                seen.since_us = now_us;
            }
        }
        seen.head = head.map(|id| seen.head.filter(|(old, _)| *old == id).unwrap_or((id, now_us)));
        self.seen.set(seen);
        let is_over = |since_us: u32, timeout: Duration| {
            u128::from(now_us.wrapping_sub(since_us)) >= timeout.as_micros()
        };
        let is_quiet = is_over(seen.since_us, limits.idle_timeout);
        let owes = self.starved.get() > 0 || self.activity.is_blocked();
        if seen.head.is_some_and(|(_, since)| is_over(since, limits.header_timeout)) {
            self.cut(Some(Reason::SlowClient));
        } else if is_quiet && is_idle {
            self.cut(None);
        } else if is_quiet && owes {
            self.cut(Some(Reason::SlowClient));
        }
    }
}

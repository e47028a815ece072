//! Bodies of replies on their way, and what a request's body and its timeouts know of each other: frame by
//! frame, never held whole, each under the bounds of its exchange.
//! hyper asks for the next frame when the other side has taken the last one, so that a slow reader
//! slows the writer down.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{
    lease::{Lease, Ticket},
    session::Session,
    spawner::{PIECE_MAX, Stream},
    trailing::Trailing,
};

/// Why an exchange does not go on, other than that its connection fails before a reply: a body that ends
/// before its end, or what its node will not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Offence {
    /// The client's request is larger than `body_bytes`.
    #[error("the body is larger than http.limits.body_bytes")]
    TooLarge,
    /// The client's connection broke, or what came is not a body.
    #[error("the client's body broke off")]
    Client,
    /// The client sent nothing of it for `idle_timeout`.
    #[error("nothing of the body came within http.limits.idle_timeout")]
    Slow,
    /// The node closes its connection over the request.
    #[error("the node closes its connection over this request")]
    Refused,
    /// The node has no WebSockets to offer.
    #[error("it takes no WebSocket within HTTP/2 (RFC 8441)")]
    NoWebSocket,
    /// The node's connection broke, or it hangs.
    #[error("the node's body broke off")]
    Node,
}

/// What a client's request and its timeouts know of each other.
pub(super) struct Exchange {
    session: Rc<Session>,
    /// The most that a body may have.
    bytes_max: Option<u64>,
    /// When the node last took something.
    moved: Cell<Instant>,
    /// How long this thread had stood still then.
    stood: Cell<Duration>,
    /// When the client last sent something.
    heard: Cell<Instant>,
    /// The client has to send before the node can go on.
    is_starved: Cell<bool>,
    /// Since when.
    starved: Cell<Instant>,
    /// The head of the reply is there: nobody waits for it who could end this.
    is_answered: Cell<bool>,
    /// Nothing of the body is left.
    is_sent: Cell<bool>,
    offence: Cell<Option<Offence>>,
}

impl Exchange {
    pub(super) fn new(session: Rc<Session>, bytes_max: Option<u64>, has_body: bool) -> Rc<Exchange> {
        let (now, stood) = (Instant::now(), session.pool.worker.stood_still());
        Rc::new(Exchange {
            session,
            bytes_max,
            moved: Cell::new(now),
            stood: Cell::new(stood),
            heard: Cell::new(now),
            is_starved: Cell::new(false),
            starved: Cell::new(now),
            is_answered: Cell::new(false),
            is_sent: Cell::new(!has_body),
            offence: Cell::new(None),
        })
    }

    /// A node is asked now, whatever the one before waited for.
    pub(super) fn begin(&self) {
        self.starve(false);
        self.moves(Instant::now());
    }

    /// The node takes something.
    pub(super) fn moves(&self, now: Instant) {
        self.moved.set(now);
        self.stood.set(self.session.pool.worker.stood_still());
    }

    /// The client sends something.
    pub(super) fn hears(&self, now: Instant) {
        self.heard.set(now);
    }

    /// When the client last sent something: its patience runs from there.
    pub(super) fn heard(&self) -> Instant {
        self.heard.get()
    }

    /// Time in which this thread stood still since the node last took something.
    fn stood(&self) -> Duration {
        self.session.pool.worker.stood_still().saturating_sub(self.stood.get())
    }

    /// When the node has had `timeout` without taking or giving anything, or the client has waited for
    /// `deadline`; `None` while it is the client's turn.
    pub(super) fn due(&self, timeout: Duration, deadline: Duration) -> Option<Instant> {
        self.node_due(timeout).map(|due| due.min(self.heard.get() + deadline))
    }

    /// When the node has had `timeout` since it last took something, time in which this thread stood still
    /// not counted; `None` while it is the client's turn.
    pub(super) fn node_due(&self, timeout: Duration) -> Option<Instant> {
        (!self.is_starved.get()).then(|| self.moved.get() + timeout + self.stood())
    }

    /// When the client has sent nothing for `timeout` though it is its turn; `None` while it is not.
    pub(super) fn client_due(&self, timeout: Duration) -> Option<Instant> {
        self.is_starved.get().then(|| self.starved.get() + timeout + self.stood())
    }

    /// The node has answered: from here on the session ends a body that stands still.
    pub(super) fn answered(&self) {
        self.is_answered.set(true);
        if self.is_starved.get() {
            self.session.starve(true);
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.is_sent.get()
    }

    /// Whether nothing of the body is left.
    pub(super) fn sends(&self, is_sent: bool) {
        self.is_sent.set(is_sent);
    }

    pub(super) fn offence(&self) -> Option<Offence> {
        self.offence.get()
    }

    /// It is the body that fails.
    pub(super) fn offends(&self, offence: Offence) {
        self.offence.set(Some(offence));
    }

    /// Whether a body of so many bytes has too many.
    pub(super) fn is_above(&self, bytes: u64) -> bool {
        self.bytes_max.is_some_and(|max| bytes > max)
    }

    /// Whether the client has to send before the node can go on.
    pub(super) fn starve(&self, is_starved: bool) {
        if self.is_starved.replace(is_starved) == is_starved {
            return;
        }
        self.starved.set(Instant::now());
        if self.is_answered.get() {
            self.session.starve(is_starved);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.starve(false);
    }
}

/// Whether nothing comes behind this frame; behind trailers hyper does not ask.
pub(super) fn is_last<E>(frame: Option<&Result<Frame<Bytes>, E>>, body: &Incoming) -> bool {
    let has_trailers = matches!(frame, Some(Ok(frame)) if frame.is_trailers());
    frame.is_none() || has_trailers || body.is_end_stream()
}

/// A frame, unless it is one of trailers that goes another way: then the body ends.
pub(super) fn left(
    frame: Option<Result<Frame<Bytes>, Offence>>,
    trailing: Option<&Trailing>,
) -> Option<Result<Frame<Bytes>, Offence>> {
    if let (Some(Ok(frame)), Some(trailing)) = (&frame, trailing)
        && let Some(trailers) = frame.trailers_ref()
    {
        trailing.leave(trailers);
        return None;
    }
    frame
}

/// A reply's body, towards a client.
#[expect(clippy::large_enum_variant, reason = "nearly every reply is a node's")]
pub(super) enum Reply {
    /// ringway's own words, or none.
    Text(Bytes),
    /// A node's.
    Node(FromNode),
}

/// What a node sends.
pub(super) struct FromNode {
    body: Incoming,
    /// What is left of the piece that came last.
    rest: Bytes,
    /// The node has this long for each next piece.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// How long this thread had stood still when the timer was set.
    stood: Duration,
    /// The timer runs for the piece that is asked for.
    is_timed: bool,
    /// The client's, over HTTP/2.
    stream: Option<Rc<Stream>>,
    /// Where its trailers go, when the client's connection takes them and not as a frame.
    trailing: Option<Arc<Trailing>>,
    lease: Lease,
    ticket: Ticket,
}

impl Reply {
    pub(super) fn text(text: String) -> Reply {
        Reply::Text(text.into())
    }

    /// What comes behind the body of a node is left there for the client's connection.
    pub(super) fn leave_trailers(&mut self, trailing: Arc<Trailing>) {
        if let Reply::Node(node) = self {
            node.trailing = Some(trailing);
        }
    }

    pub(super) fn of_node(body: Incoming, patience: Duration, mut lease: Lease, ticket: Ticket) -> Reply {
        if body.is_end_stream() {
            lease.finish();
        }
        Reply::Node(FromNode {
            body,
            rest: Bytes::new(),
            patience,
            timer: None,
            stood: Duration::ZERO,
            is_timed: false,
            stream: Stream::current(),
            trailing: None,
            lease,
            ticket,
        })
    }
}

impl FromNode {
    /// The next piece for the client. Over HTTP/2 it is short, so that one which a slow client does not take
    /// says that it takes nothing.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Offence>>> {
        if self.rest.is_empty() {
            let frame = ready!(self.poll_frame(cx));
            match frame {
                Some(Ok(frame)) if frame.is_data() && self.stream.is_some() => {
                    self.rest = frame.into_data().unwrap_or_default();
                }
                frame => return Poll::Ready(frame),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE_MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Offence>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                ready!(self.poll_timer(cx));
                self.ticket.outcome = self.lease.went_quiet();
                return Poll::Ready(Some(Err(Offence::Node)));
            }
            Poll::Ready(frame) => frame,
        };
        self.is_timed = false;
        if is_last(frame.as_ref(), &self.body) && !matches!(frame, Some(Err(_))) {
            self.lease.finish();
        }
        match frame {
            None => Poll::Ready(None),
            Some(Ok(frame)) => Poll::Ready(left(Some(Ok(frame)), self.trailing.as_deref())),
            Some(Err(error)) => {
                self.ticket.outcome = self.lease.broke(&error);
                Poll::Ready(Some(Err(Offence::Node)))
            }
        }
    }

    /// Ready when the node has had its time for this piece, from the last one on and from when it last took
    /// something of the request; while it waits for the client, it is the session that looks after the time.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (patience, worker) = (self.patience, &self.ticket.session.pool.worker);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        if !std::mem::replace(&mut self.is_timed, true) {
            self.stood = worker.stood_still();
            timer.as_mut().reset(Instant::now() + patience);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            let before = std::mem::replace(&mut self.stood, worker.stood_still());
            let due = timer.deadline() + self.stood.saturating_sub(before);
            let now = Instant::now();
            let due = self.lease.exchange.node_due(patience).map_or(now + patience, |moved| due.max(moved));
            if due <= now {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Offence;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Offence>>> {
        match self.get_mut() {
            Reply::Text(text) if text.is_empty() => Poll::Ready(None),
            Reply::Text(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Reply::Node(node) => {
                let polled = node.poll_piece(cx);
                node.stream.iter().for_each(|stream| stream.gave(polled.is_ready()));
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Text(text) => text.is_empty(),
            Reply::Node(node) => node.rest.is_empty() && node.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Text(text) => SizeHint::with_exact(text.len() as u64),
            Reply::Node(node) => node.body.size_hint(),
        }
    }
}

//! A request's body, towards a node, and once more towards another where the first has not looked at the
//! request: what was taken of it is kept for that long, as far as it is small.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::{
    body::{Exchange, Offence, is_last, left},
    trailing::Trailing,
};

/// What is kept of a body until its node has answered. A larger one is begun once.
const KEPT_MAX: usize = 64 * 1024;
/// The same of its pieces: each has its price, however small.
const PIECES_MAX: usize = 256;

/// A client's body.
pub(super) struct Source {
    body: RefCell<Incoming>,
    exchange: Rc<Exchange>,
    /// Bytes that came.
    bytes: Cell<u64>,
    /// Nothing comes any more.
    has_ended: Cell<bool>,
    /// All that was taken of it; none when that was too much, or is not kept.
    kept: RefCell<Option<Vec<Bytes>>>,
    /// Pieces of that which the node has that it goes to now.
    given: Cell<usize>,
    /// Nodes that it went to. Who had it before gets nothing more of it.
    turn: Cell<u32>,
    /// Its node may hand the request back.
    keeps: Cell<bool>,
}

impl Source {
    pub(super) fn new(body: Incoming, exchange: &Rc<Exchange>) -> Rc<Source> {
        Rc::new(Source {
            body: RefCell::new(body),
            exchange: exchange.clone(),
            bytes: Cell::new(0),
            has_ended: Cell::new(false),
            kept: RefCell::new(Some(Vec::new())),
            given: Cell::new(0),
            turn: Cell::new(0),
            keeps: Cell::new(false),
        })
    }

    /// Whether all of it is here, or is still to come.
    pub(super) fn is_whole(&self) -> bool {
        self.kept.borrow().is_some()
    }

    /// Its length is not known in advance.
    pub(super) fn is_chunked(&self) -> bool {
        !self.is_end() && self.size().exact().is_none()
    }

    /// Towards a node, which may hand it back if `keeps`.
    pub(super) fn go(self: &Rc<Self>, keeps: bool, trailing: Option<Arc<Trailing>>) -> Outgoing {
        self.turn.set(self.turn.get() + 1);
        self.given.set(0);
        self.keeps.set(keeps);
        self.exchange.sends(self.is_end());
        Outgoing::Streamed { source: self.clone(), turn: self.turn.get(), trailing }
    }

    /// The node answers, and hands nothing back any more.
    pub(super) fn release(&self) {
        self.keeps.set(false);
        if self.given.get() == self.pieces() {
            self.kept.take();
        }
    }

    fn pieces(&self) -> usize {
        self.kept.borrow().as_ref().map_or(0, Vec::len)
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let Some(pieces) = &mut *kept else { return };
        match frame.data_ref() {
            Some(data)
                if self.keeps.get() && self.bytes.get() <= KEPT_MAX as u64 && pieces.len() < PIECES_MAX =>
            {
                pieces.push(data.clone());
                self.given.set(pieces.len());
            }
            _ => *kept = None,
        }
    }

    /// What the node before was given, and this one was not yet.
    fn again(&self) -> Option<Bytes> {
        let kept = self.kept.borrow();
        let piece = kept.as_ref()?.get(self.given.get())?;
        self.given.set(self.given.get() + 1);
        Some(piece.clone())
    }

    fn is_end(&self) -> bool {
        self.given.get() >= self.pieces() && (self.has_ended.get() || self.body.borrow().is_end_stream())
    }

    fn size(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let again = kept.iter().flatten().skip(self.given.get()).map(|piece| piece.len() as u64).sum::<u64>();
        let rest = self.body.borrow().size_hint();
        rest.exact().map_or(rest, |rest| SizeHint::with_exact(rest + again))
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Offence>>> {
        let exchange = &self.exchange;
        let now = Instant::now();
        exchange.moves(now);
        if let Some(piece) = self.again() {
            exchange.starve(false);
            exchange.sends(self.is_end());
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.has_ended.get() {
            exchange.sends(true);
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut *self.body.borrow_mut()).poll_frame(cx);
        exchange.starve(polled.is_pending());
        let frame = ready!(polled);
        exchange.hears(now);
        let offence = match &frame {
            Some(Ok(frame)) => {
                self.bytes.set(self.bytes.get() + frame.data_ref().map_or(0, |data| data.len() as u64));
                self.keep(frame);
                exchange.is_above(self.bytes.get()).then_some(Offence::TooLarge)
            }
            Some(Err(_)) => Some(Offence::Client),
            None => None,
        };
        if let Some(offence) = offence {
            exchange.offends(offence);
            return Poll::Ready(Some(Err(offence)));
        }
        let is_last = is_last(frame.as_ref(), &self.body.borrow());
        self.has_ended.set(is_last);
        exchange.sends(is_last);
        Poll::Ready(frame.map(|f| f.map_err(|_| Offence::Client)))
    }
}

/// A request's body, towards a node.
pub(super) enum Outgoing {
    Empty,
    Streamed {
        source: Rc<Source>,
        turn: u32,
        /// Where its trailers go, when the node's connection does not take them as a frame.
        trailing: Option<Arc<Trailing>>,
    },
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Offence;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Offence>>> {
        let Outgoing::Streamed { source, turn, trailing } = self.get_mut() else {
            return Poll::Ready(None);
        };
        if source.turn.get() != *turn {
            // It is another's meanwhile.
            return Poll::Ready(Some(Err(Offence::Node)));
        }
        let frame = ready!(source.poll(cx));
        Poll::Ready(left(frame, trailing.as_deref()))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Empty => true,
            Outgoing::Streamed { source, .. } => source.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Empty => SizeHint::with_exact(0),
            Outgoing::Streamed { source, .. } => source.size(),
        }
    }
}

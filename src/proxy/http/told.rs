//! What a node tells of one HTTP/2 connection beside its replies: what it offers, and why it ends.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::{body::Outgoing, spawner::Spawner, wire::Wire};
use crate::protocol::http::Fault;

/// So long after its requests have failed a connection has told why, or it never does.
const END_WAIT: Duration = Duration::from_millis(100);
/// The first thing that a node says are its settings (RFC 9113, 3.4); who waits for longer is offered nothing.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

/// The connection as hyper drives it.
pub(super) type Driven = http2::Connection<TokioIo<Wire>, Outgoing, Spawner>;

/// What is known.
#[derive(Default)]
pub(super) struct Told {
    /// As long as it is driven.
    connection: RefCell<Option<Driven>>,
    /// Rings when one of the connection's tasks has moved.
    pub(super) moved: Rc<Notify>,
    is_over: Cell<bool>,
    blame: RefCell<Option<Rc<str>>>,
    over: Notify,
}

impl Told {
    /// Drives the connection to its end.
    pub(super) async fn drive(&self, connection: Driven) {
        *self.connection.borrow_mut() = Some(connection);
        let ended = poll_fn(|cx| match &mut *self.connection.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        });
        let result = ended.await;
        self.connection.take();
        *self.blame.borrow_mut() = result.err().as_ref().and_then(Fault::blame).map(Rc::from);
        self.is_over.set(true);
        self.over.notify_waiters();
    }

    /// What the node found wrong with what it was sent, if that is why the connection broke.
    pub(super) async fn blame(&self) -> Option<Rc<str>> {
        let over = self.over.notified();
        if !self.is_over.get() {
            // What is never told is no blame.
            let _ = timeout(END_WAIT, over).await;
        }
        self.blame.borrow().clone()
    }

    /// Whether it takes WebSockets (RFC 8441, 3); nothing when it is over. Waits for its settings, if it has said
    /// nothing yet.
    pub(super) async fn takes_websockets(&self, is_heard: bool) -> Option<bool> {
        let until = Instant::now() + SETTINGS_WAIT;
        let offer = || self.connection.borrow().as_ref().map(Driven::is_extended_connect_protocol_enabled);
        loop {
            let moved = self.moved.notified();
            let takes = offer();
            if takes != Some(false) || is_heard || timeout_at(until, moved).await.is_err() {
                return takes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that is over says nothing of what its node offers: another is asked.
    #[tokio::test]
    async fn what_is_over_offers_nothing_and_denies_nothing() {
        for is_heard in [false, true] {
            assert_eq!(Told::default().takes_websockets(is_heard).await, None);
        }
    }
}

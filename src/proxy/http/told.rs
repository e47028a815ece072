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
use tokio::{sync::Notify, time::timeout};

use super::{outgoing::Outgoing, spawner::Spawner, wire::Wire};
use crate::protocol::http::Fault;

/// So long after its requests have failed a connection has told why, or it never does.
const END_WAIT: Duration = Duration::from_millis(100);

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
    /// Why it broke.
    fault: RefCell<Option<Fault>>,
    over: Notify,
}

impl Told {
    /// It is made.
    pub(super) fn begin(&self, connection: Driven) {
        *self.connection.borrow_mut() = Some(connection);
    }

    /// Drives the connection to its end.
    pub(super) async fn drive(&self) {
        let ended = poll_fn(|cx| match &mut *self.connection.borrow_mut() {
            Some(connection) => Pin::new(connection).poll(cx),
            None => Poll::Ready(Ok(())),
        });
        let error = ended.await.err();
        self.connection.take();
        *self.blame.borrow_mut() = error.as_ref().and_then(Fault::blame).map(Rc::from);
        *self.fault.borrow_mut() = error.as_ref().map(Fault::of);
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

    fn of_connection<T>(&self, what: impl FnOnce(&Driven) -> T) -> Option<T> {
        self.connection.borrow().as_ref().map(what)
    }

    /// Returns when the node has said its settings, the first thing that it says (RFC 9113, 3.4).
    ///
    /// # Errors
    /// The connection ended before.
    pub(super) async fn settled(&self) -> Result<(), Fault> {
        loop {
            let (moved, over) = (self.moved.notified(), self.over.notified());
            if self.streams_max() > 0 {
                return Ok(());
            }
            if self.is_over.get() {
                let closed = || Fault::Broken("the connection ended before the node's SETTINGS".to_owned());
                return Err(self.fault.borrow().clone().unwrap_or_else(closed));
            }
            tokio::select! {
                () = moved => {}
                () = over => {}
            }
        }
    }

    /// How many requests the node takes at once, by its last word; none before the first, and none when it is
    /// over.
    pub(super) fn streams_max(&self) -> usize {
        self.of_connection(Driven::current_max_send_streams).unwrap_or_default()
    }

    /// Whether it takes WebSockets (RFC 8441, 3); nothing when it is over.
    pub(super) fn takes_websockets(&self) -> Option<bool> {
        self.of_connection(Driven::is_extended_connect_protocol_enabled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that is over says nothing of what its node offers: another is asked.
    #[test]
    fn what_is_over_offers_nothing_and_denies_nothing() {
        let told = Told::default();
        assert_eq!((told.takes_websockets(), told.streams_max()), (None, 0));
    }
}

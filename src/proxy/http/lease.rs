//! What a request holds while it is under way: its place among the pool's requests, and a node's
//! connection. Both are given back, and counted, when they are dropped.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed};

use tokio::task::spawn_local;

use super::{
    attempt::{Failed, failed},
    body::Exchange,
    evidence::{Happened, Unreadable},
    link::{Connection, Link},
    session::Session,
};
use crate::{
    metrics::{Class, Outcome},
    protocol::http::Fault,
    topology::{Failure, HttpSettings},
};

/// A client's request, counted once when it has ended.
pub(super) struct Ticket {
    pub(super) session: Rc<Session>,
    pub(super) class: Class,
    pub(super) outcome: Outcome,
}

impl Ticket {
    /// A request begins.
    pub(super) fn new(session: Rc<Session>) -> Ticket {
        session.pool.handle.requests.fetch_add(1, Relaxed);
        session.request_began();
        Ticket { session, class: Class::Local, outcome: Outcome::Refused }
    }

    /// Requests of the pool that are under way, this one included.
    pub(super) fn requests(&self) -> usize {
        self.session.pool.handle.requests.load(Relaxed)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let pool = &self.session.pool;
        pool.block().requests[self.class as usize][self.outcome as usize].add(1);
        pool.handle.requests.fetch_sub(1, Relaxed);
        self.session.request_ended();
    }
}

/// A request at a node, with the connection that it was sent over.
pub(super) struct Lease {
    pub(super) link: Rc<Link>,
    pub(super) connection: Option<Connection>,
    pub(super) exchange: Rc<Exchange>,
    class: Class,
    pub(super) outcome: Outcome,
    is_finished: bool,
    /// The request may be what the node takes offence at.
    is_suspect: bool,
    /// It counts for the node's load; one that began before the pool had a `bounded_load` does not.
    is_load: bool,
}

impl Lease {
    /// A request goes to a node; with a `bounded_load` the other workers need to know.
    pub(super) fn new(
        link: &Rc<Link>,
        exchange: &Rc<Exchange>,
        class: Class,
        is_suspect: bool,
        http: &HttpSettings,
    ) -> Lease {
        link.block().in_flight.add(1);
        let is_load = http.bounded_load.is_some();
        if is_load {
            link.node.load.began();
        }
        Lease {
            link: link.clone(),
            connection: None,
            exchange: exchange.clone(),
            class,
            outcome: Outcome::Lost,
            is_finished: false,
            is_suspect,
            is_load,
        }
    }

    /// All of the reply is there.
    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// The reply is one that ringway does not read.
    pub(super) fn unreadable(&mut self, what: Unreadable) -> Failed {
        self.connection.iter().for_each(Connection::doubt);
        let happened = Happened::Unreadable(what);
        self.link.met(happened);
        self.outcome = Outcome::Error;
        failed(&self.link, happened, false, what)
    }

    /// A reply that has begun does not go on. That is no evidence: the node has answered, and a stream of
    /// events may be quiet for long. One that hangs answers no other request either, and no probe.
    pub(super) fn went_quiet(&mut self) -> Outcome {
        self.outcome = Outcome::Timeout;
        self.outcome
    }

    /// The exchange failed. A connection that broke is counted once, and not at all when it was an idle one
    /// that the node may have been closing while the request was under way. What a node tells of one exchange
    /// says nothing of the node, as long as it answers others.
    pub(super) fn fault(&mut self, fault: &Fault, was_closing: bool) -> Happened {
        if !fault.is_of_one() {
            self.connection.iter().for_each(Connection::doubt);
        }
        self.outcome = Outcome::Lost;
        let happened = match fault {
            // Behind a reply's head: the trailers.
            Fault::Garbage(_) | Fault::TooLarge(_) => Happened::Garbage,
            Fault::Broken(_) => {
                let is_first = self.connection.as_ref().is_none_or(|c| !c.is_lost.replace(true));
                if was_closing {
                    return Happened::Stale;
                }
                let happened = Happened::Lost(if fault.is_reset() { Failure::Reset } else { Failure::Lost });
                if is_first {
                    self.lost(happened);
                }
                return happened;
            }
            Fault::Reset(_) if self.resets_all() => Happened::ResetsAll,
            Fault::Reset(_) => Happened::Reset,
            Fault::Leaving(_) | Fault::Refused(_) => Happened::Stale,
        };
        self.link.met(happened);
        happened
    }

    /// Whether the node has answered nothing over a connection that others may share. Told once for a
    /// connection.
    fn resets_all(&self) -> bool {
        let is_first = |c: &Connection| c.replies() == 0 && !c.has_reset.replace(true);
        !self.is_suspect && self.connection.as_ref().is_none_or(is_first)
    }

    /// Its connection broke. Over HTTP/2 it may have been over what a client sent, which says nothing of the
    /// node.
    fn lost(&self, happened: Happened) {
        let Some(told) = self.connection.as_ref().and_then(Connection::told) else {
            self.link.broke(happened);
            return;
        };
        let link = self.link.clone();
        spawn_local(async move {
            if told.blame().await.is_none() {
                link.broke(happened);
            }
        });
    }

    /// The connection failed within the reply.
    pub(super) fn broke(&mut self, error: &hyper::Error) -> Outcome {
        self.fault(&Fault::of(error), false);
        self.outcome
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let block = self.link.block();
        block.in_flight.add(-1);
        if self.is_load {
            self.link.node.load.ended();
        }
        block.requests[self.class as usize][self.outcome as usize].add(1);
        // A connection in the middle of something is of no use to anybody: dropped, it closes.
        if let Some(connection) = self.connection.take()
            && self.is_finished
            && self.exchange.is_sent()
        {
            self.link.give_back(connection);
        }
    }
}

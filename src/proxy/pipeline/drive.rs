//! The task of a pipeline: it makes the connection, serves it until it ends, and makes another one
//! while somebody waits.

use std::{mem::forget, rc::Rc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    super::{
        connect::{self, ConnectError, Connection},
        gate::{Token, spread},
        link::Link,
    },
    End, Pipeline, State,
};
use crate::topology::{Failure, Health};

/// The task of a pipeline: connects, serves until the connection ends, and again while somebody
/// waits.
pub(super) async fn drive(pipeline: Rc<Pipeline>, link: Rc<Link>) {
    loop {
        let standing = link.standing.borrow().clone();
        // One large request runs no script.
        let lessons = (!pipeline.is_streamed()).then_some((&*link.scripts, link.node.id));
        // A large request has its connection to itself: it is not held up by others that connect, nor holds
        // them up.
        let wait = if pipeline.own().is_some() { Duration::ZERO } else { link.gate.pass(Instant::now()) };
        if !wait.is_zero() {
            // Who gives up has borrowed nothing, so that the gate owes no more than those wait for who are
            // there.
            let token = Token(&link.gate);
            tokio::select! {
                () = sleep(spread(wait)) => forget(token),
                () = pipeline.given_up() => return,
            }
        }
        let attempt = connect::connect(&standing.targets, &standing.policy, pipeline.version, lessons);
        let connected = tokio::select! {
            connected = attempt => connected,
            () = pipeline.given_up() => return,
        };
        match connected {
            Ok(io) => serve(&pipeline, &link, io).await,
            Err(error) => pipeline.connect_failed(&error, &link),
        }
        let Some(pause) = pipeline.next_attempt() else { return };
        tokio::select! {
            () = sleep(spread(pause)) => {}
            () = pipeline.given_up() => return,
        }
    }
}

async fn serve(pipeline: &Rc<Pipeline>, link: &Rc<Link>, mut io: Connection) {
    {
        let mut core = pipeline.core.borrow_mut();
        if core.state == State::Over {
            return;
        }
        core.state = State::Ready;
        core.progress_us = pipeline.worker.clock.refresh();
        (core.failing_us, core.heard) = (None, false);
    }
    link.block().connects.add(1);
    link.block().connections.add(1);
    let end = std::future::poll_fn(|cx| pipeline.poll(cx, &mut io, link)).await;
    link.block().connections.add(-1);
    tracing::debug!(node = %link.node.name, ?end, "connection ended");
    if matches!(end, End::Evicted | End::Protocol(_) | End::Refused(_)) {
        // The node is still there: what it has not read yet must not be executed behind what is sent again.
        io.write.reset_on_close();
    }
    if !matches!(end, End::Evicted) {
        pipeline.ended(&end, link);
        pipeline.worker.flush_dirty();
    }
}

impl Pipeline {
    /// Waits until there is no reason to connect any more.
    async fn given_up(&self) {
        loop {
            {
                let mut core = self.core.borrow_mut();
                if core.state == State::Over {
                    return;
                }
                if core.queue.is_empty() {
                    core.state = State::Idle;
                    return;
                }
            }
            self.nudge.notified().await;
        }
    }

    fn connect_failed(&self, error: &ConnectError, link: &Link) {
        let now_us = self.worker.clock.refresh();
        match error.kind {
            Some(kind) => link.node.evidence.failed(kind, 1),
            None if link.may_warn(now_us) => {
                tracing::warn!(node = %link.node.name, %error, "can't connect, and the node is not to blame")
            }
            None => {}
        }
        tracing::debug!(node = %link.node.name, address = %link.node.address, %error, "can't connect");
        let mut core = self.core.borrow_mut();
        if core.state == State::Over {
            return;
        }
        core.failing_us.get_or_insert(now_us);
        core.attempts += 1;
        core.attempt_us = now_us;
        // Kept in the ring though it is out of order: nobody will take its place, so do not wait.
        if link.standing.borrow().health == Health::Ejected || error.kind == Some(Failure::Handshake) {
            self.refuse_all(link, &mut core);
            drop(core);
            self.worker.flush_dirty();
        }
    }

    /// The pause before the next attempt to connect; `None` when nobody waits.
    fn next_attempt(&self) -> Option<Duration> {
        let mut core = self.core.borrow_mut();
        if core.state == State::Over {
            return None;
        }
        if core.queue.is_empty() {
            core.state = State::Idle;
            return None;
        }
        core.state = State::Connecting;
        Some(core.backoff())
    }
}

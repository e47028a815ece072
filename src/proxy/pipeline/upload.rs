//! A request that is streamed, on a pipeline of its own: its session adds to it as its bytes come from the
//! client. It is not kept whole and never repeated, and a client that stops in the middle of it is not
//! waited for without end.

use std::rc::Rc;

use super::{Core, Pipeline};
use crate::{
    metrics::{Outcome, Reason},
    proxy::session::Session,
    topology::Policy,
};

/// A client that sends less than this of a large request within `limits.stall_timeout` has stalled.
const PART_BYTES: usize = 32 * 1024;

/// A streamed request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upload {
    /// Where its key is on the ring.
    pub(super) hash: u64,
    /// Since when the client's next part is waited for, and how much of it came.
    since_us: u32,
    came: usize,
}

impl Pipeline {
    /// Lets `feeder` add to the request that it appends next, with [`Pipeline::feed`]; its key has this
    /// hash.
    pub(crate) fn open(&self, feeder: Rc<Session>, hash: u64) {
        *self.feeder.borrow_mut() = Some(feeder);
        self.upload.set(Some(Upload { hash, since_us: self.worker.clock.now_us(), came: 0 }));
    }

    /// Whether its one request is streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        self.upload.get().is_some()
    }

    /// Adds to the open request; `last` closes it.
    pub(crate) fn feed(&self, bytes: &[u8], last: bool) {
        let now_us = self.worker.clock.now_us();
        if let Some(mut upload) = self.upload.get() {
            upload.came += bytes.len();
            if upload.came >= PART_BYTES {
                (upload.since_us, upload.came) = (now_us, 0);
            }
            self.upload.set(Some(upload));
        }
        let mut core = self.core.borrow_mut();
        if core.queue.unwritten().is_empty() {
            // Until now it was the client's turn.
            core.progress_us = now_us;
        }
        core.queue.extend_last(bytes);
        drop(core);
        if last {
            self.feeder.borrow_mut().take();
        }
        self.wake();
    }

    /// The open request will never be complete: nothing but a reset ends it, and the node can't have
    /// executed it.
    pub(crate) fn abandon(&self) {
        self.feeder.borrow_mut().take();
        drop(self.close());
    }

    /// Whether the client has to send before the node can go on.
    pub(super) fn is_starved(&self, core: &Core) -> bool {
        core.queue.unwritten().is_empty() && self.feeder.borrow().is_some()
    }

    /// Whether the client has stopped in the middle of its request. No time counts in which it is the node's
    /// turn, or in which this thread stood still.
    pub(super) fn has_client_stalled(&self, now_us: u32, policy: &Policy) -> bool {
        let Some(upload) = self.upload.get() else { return false };
        let core = self.core.borrow();
        if core.queue.is_empty() || !self.is_starved(&core) {
            self.upload.set(Some(Upload { since_us: now_us, came: 0, ..upload }));
            return false;
        }
        let waited_us = now_us.wrapping_sub(upload.since_us);
        let late_us = self.worker.late_us.get().min(waited_us);
        self.upload.set(Some(Upload { since_us: upload.since_us.wrapping_add(late_us), ..upload }));
        waited_us - late_us >= policy.limits.stall_us()
    }

    /// Tells that client, and resets the connection.
    #[cold]
    pub(super) fn cut_off(&self, policy: &Policy) {
        self.feeder.borrow_mut().take();
        let limit = policy.limits.stall_timeout.as_millis();
        let text = format!(
            "ERR less than {PART_BYTES} bytes of a large request came within {limit} ms \
             (limits.stall_timeout); it was not applied"
        );
        for (expect, _, _) in self.close() {
            expect.session.fail(&expect, &text, Reason::SlowClient, Outcome::Refused);
            expect.session.hang_up();
        }
    }

    /// Nothing more is taken of a streamed request: its session must not wait until it is.
    pub(super) fn dismiss_feeder(&self) {
        let feeder = self.feeder.borrow_mut().take();
        if let Some(feeder) = feeder {
            feeder.wake();
        }
    }
}

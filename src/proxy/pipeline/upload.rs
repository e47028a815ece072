//! A request that is streamed, on a pipeline of its own: its session adds to it as its bytes come from the
//! client. It is not kept whole and never repeated, and a client that stops in the middle of it is not
//! waited for without end.

use std::rc::Rc;

use super::{Content, Core, Expect, Pipeline};
use crate::{
    metrics::{Outcome, Reason},
    proxy::{dispatch, inflight::Fate, session::Session},
    topology::{NodeId, Policy},
};

/// A client that sends less than this of a large request within `limits.stall_timeout` has stalled.
const PART_BYTES: usize = 32 * 1024;

/// A streamed request.
#[derive(Debug)]
pub(super) struct Upload {
    key: Box<[u8]>,
    /// Since when the client's next part is waited for, and how much of it came.
    since_us: u32,
    came: usize,
}

impl Upload {
    /// What is known of a request, given the bytes of it that are still there.
    pub(super) fn content<'a>(upload: &'a Option<Upload>, bytes: &'a [u8]) -> Content<'a> {
        upload.as_ref().map_or(Content::Bytes(bytes), |upload| Content::Streamed(&upload.key))
    }
}

impl Pipeline {
    /// Lets `feeder` add to the request that it appends next, with [`Pipeline::feed`]; this is its key.
    pub(crate) fn open(&self, feeder: Rc<Session>, key: &[u8]) {
        *self.feeder.borrow_mut() = Some(feeder);
        let upload = Upload { key: key.into(), since_us: self.worker.clock.now_us(), came: 0 };
        *self.upload.borrow_mut() = Some(upload);
    }

    /// Empties the queue.
    pub(super) fn take_queue(&self, core: &mut Core) -> Vec<(Expect, Fate, Vec<u8>)> {
        let has_begun = core.queue.head_has_begun();
        let mut taken = core.queue.take();
        if let Some((expect, Fate::Unsent, _)) = taken.first_mut().filter(|_| has_begun) {
            expect.broken_off = expect.broken_off.saturating_add(1);
        }
        // Of a streamed request the written bytes are forgotten: without its end it may look as if all were
        // written.
        if self.feeder.borrow().is_some() {
            let written = taken.iter_mut().filter(|(_, fate, _)| *fate == Fate::MaybeApplied);
            written.for_each(|(_, fate, _)| *fate = Fate::Broken);
        }
        taken
    }

    /// A request was in flight here when this node was evicted, or the connection broke.
    pub(crate) fn note_in_doubt(&self, expect: &Expect, fate: Fate, bytes: &[u8], node: NodeId) {
        if !expect.read_only && fate == Fate::MaybeApplied {
            dispatch::note_in_doubt(expect, Upload::content(&self.upload.borrow(), bytes), node);
        }
    }

    /// Whether its one request is streamed.
    pub(crate) fn is_streamed(&self) -> bool {
        self.upload.borrow().is_some()
    }

    /// Adds to the open request; `last` closes it.
    pub(crate) fn feed(&self, bytes: &[u8], last: bool) {
        let now_us = self.worker.clock.now_us();
        if let Some(upload) = &mut *self.upload.borrow_mut() {
            upload.came += bytes.len();
            if upload.came >= PART_BYTES {
                (upload.since_us, upload.came) = (now_us, 0);
            }
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
        let Some(upload) = &mut *self.upload.borrow_mut() else { return false };
        let core = self.core.borrow();
        if core.queue.is_empty() || !self.is_starved(&core) {
            (upload.since_us, upload.came) = (now_us, 0);
            return false;
        }
        let waited_us = now_us.wrapping_sub(upload.since_us);
        let late_us = self.worker.late_us.get().min(waited_us);
        upload.since_us = upload.since_us.wrapping_add(late_us);
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

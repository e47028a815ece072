//! How much one session may have under way: by the usual size of its replies, and by what its
//! client has not read. The client is the one that waits, and the pipeline that brought too much.

use std::rc::Rc;

use super::{
    pipeline::{Expect, Pipeline},
    pool::Bounds,
    session::{LARGE_REPLY, Session, State},
};
use crate::metrics::{Outcome, Reason};

/// Replies that a client has not read beyond which no more of its requests are dispatched.
pub(super) const OUT_HIGH: usize = 1 << 20;
/// What a reply is taken for before one was seen, in bytes: a session begins with few requests in
/// flight and gets more as its replies turn out to be small.
pub(super) const REPLY_GUESS: u32 = 1 << 20;

/// Whether the one that delivers replies may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Go on.
    Ok,
    /// The client holds more than it should.
    Pause(Behind),
}

/// A reply that came, and how many bytes the client may hold after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The request.
    pub(super) seq: u64,
    /// Of what the client could read, once the reply's turn has come.
    pub(super) unread: usize,
    /// Kept aside, before its turn.
    pub(super) aside: usize,
}

impl State {
    /// Takes the size of a reply into the average: a larger one at once, smaller ones by and by.
    #[inline]
    pub(super) fn learn_reply(&mut self) {
        let size = std::mem::take(&mut self.piece_bytes);
        self.reply_bytes = size.max(self.reply_bytes - self.reply_bytes / 8 + size / 8);
    }

    /// Requests that may be in flight: fewer when the replies are large.
    pub(super) fn depth(&self, bounds: Bounds) -> usize {
        bounds.depth.min((bounds.asked / (self.reply_bytes as usize + 1)).max(1))
    }

    /// Whether a session that stalled may go on: not at every chance, or it would read in crumbs.
    pub(super) fn may_go_on(&self, bounds: Bounds) -> bool {
        !self.waits
            && self.held() < OUT_HIGH / 2
            && self.window.len() <= self.depth(bounds) / 2
            && (!self.drain || self.window.is_empty())
    }

    /// Bytes held for the client.
    pub(super) fn held(&self) -> usize {
        self.unread() + self.window.aside()
    }

    /// Bytes that the client could read.
    pub(super) fn unread(&self) -> usize {
        self.out.len() - self.written
    }

    /// Whether whoever brought that reply has to wait: at the head for the client, and before its
    /// turn for those that are ahead.
    pub(super) fn is_behind(&self, behind: Behind) -> bool {
        if self.window.head_seq() >= behind.seq {
            self.unread() > behind.unread
        } else {
            self.window.aside() > behind.aside
        }
    }

    /// The pipelines that may go on. One whose turn has come must, however much is kept aside: the
    /// head may wait for it.
    pub(super) fn unblocked(&mut self) -> Vec<Rc<Pipeline>> {
        let (head, little) = (self.window.head_seq(), self.window.aside() < OUT_HIGH / 2);
        let (reads, broken) = (self.unread() < OUT_HIGH / 2, self.broken);
        let free = |seq: u64| broken || (reads && (little || head >= seq));
        let Some(mut blocked) = self.blocked.take() else { return Vec::new() };
        let freed = blocked.0.extract_if(.., |(_, seq)| free(*seq)).map(|(pipeline, _)| pipeline).collect();
        self.blocked = Some(blocked).filter(|blocked| !blocked.0.is_empty());
        freed
    }
}

impl Session {
    /// A piece of a reply, of which `left` bytes are known to follow.
    pub(crate) fn deliver(
        self: &Rc<Self>,
        expect: &Expect,
        piece: &[u8],
        done: Option<Outcome>,
        left: u64,
    ) -> Flow {
        let state = &mut *self.state.borrow_mut();
        if state.broken {
            return Flow::Ok;
        }
        self.furnish(state, piece.len().saturating_add(left as usize));
        self.receive(state, expect, piece, done);
        self.received(state, expect.seq, left)
    }

    /// Sees to it that there is a buffer for what is written to the client, and about so many bytes come.
    #[inline]
    pub(super) fn furnish(&self, state: &mut State, bytes: usize) {
        if state.out.capacity() == 0 {
            state.out = self.pool.worker.spare_buffer(bytes);
        }
    }

    /// Takes a piece of a reply in.
    #[inline(always)]
    pub(super) fn receive(&self, state: &mut State, expect: &Expect, piece: &[u8], done: Option<Outcome>) {
        state.piece_bytes = state.piece_bytes.saturating_add(piece.len() as u32);
        let ended = state.window.deliver(expect.seq, expect.part, piece, done, &mut state.out);
        let Some(outcome) = done else { return };
        state.learn_reply();
        if let Some(class) = ended {
            self.pool.block().requests[class as usize][outcome as usize].add(1);
        }
        // What is behind the head can't be written, whatever has come of it.
        if state.window.head_seq() >= expect.seq && state.window.is_ripe() {
            self.settle(state);
        }
    }

    /// Pieces were taken in, the last of them of the reply to `seq`, of which `left` bytes follow.
    #[inline]
    pub(super) fn received(self: &Rc<Self>, state: &mut State, seq: u64, left: u64) -> Flow {
        self.mark_dirty();
        if state.held() <= self.pool.bounds().calm { Flow::Ok } else { self.press(state, seq, left) }
    }

    /// The client holds much after a piece of the reply to `seq`, of which `left` bytes follow.
    #[cold]
    fn press(&self, state: &mut State, seq: u64, left: u64) -> Flow {
        self.bound_merge(state, seq);
        let held = self.pool.bounds().held;
        // What is left of a large reply does not fit anyway.
        let limit = if left > LARGE_REPLY { OUT_HIGH } else { held };
        let behind = Behind { seq, unread: limit, aside: limit.min(held / 2) };
        if state.is_behind(behind) { Flow::Pause(behind) } else { Flow::Ok }
    }

    /// A merge needs all its parts, so nobody can be made to wait for the client: one that would
    /// hold more than the session may is refused.
    fn bound_merge(&self, state: &mut State, seq: u64) {
        let limit = self.pool.bounds().held;
        if state.window.aside() <= limit || state.window.head_seq() != seq {
            return;
        }
        let line =
            self.error_line(&format!("ERR the reply is larger than limits.session_bytes_max, {limit} bytes"));
        if state.window.replace(seq, &line, Outcome::Refused) {
            self.pool.block().refuse(Reason::Overload);
            self.settle(state);
        }
    }

    /// Makes `pipeline` wait until this client has read; false when it need not.
    pub(crate) fn block(self: &Rc<Self>, pipeline: &Rc<Pipeline>, behind: Behind) -> bool {
        self.flush();
        let mut state = self.state.borrow_mut();
        if state.broken || !state.is_behind(behind) {
            return false;
        }
        state.blocked.get_or_insert_default().0.push((pipeline.clone(), behind.seq));
        true
    }

    /// `pipeline` does not wait any more: its connection is gone.
    pub(crate) fn release(&self, pipeline: &Pipeline) {
        let mut state = self.state.borrow_mut();
        let Some(blocked) = &mut state.blocked else { return };
        blocked.0.retain(|(other, _)| !std::ptr::eq(&raw const **other, pipeline));
        if blocked.0.is_empty() {
            state.blocked = None;
        }
    }

    /// Another topology is in force, or is not waited for any longer, or it is its turn; whether it waited.
    pub(crate) fn go_on(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if !std::mem::take(&mut state.waits) {
            return false;
        }
        state.stalled = false;
        drop(state);
        self.wake();
        true
    }
}

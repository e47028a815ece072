//! What a session does by the clock: the deadline of its oldest request, a client that takes nothing of what
//! it is owed, one that asks for nothing.

use std::rc::Rc;

use super::{
    clock::{FAR_US, us},
    pipeline::MAYBE,
    pool::Bounds,
    session::{Session, State},
    window::Slot,
};
use crate::metrics::{Outcome, Reason};

impl Session {
    /// Watches the deadline of the head, and the client that takes nothing. Called by the wheel,
    /// with the time for which it was put in.
    pub(crate) fn check(self: &Rc<Self>, now_us: u32, due_us: u32) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.broken || state.watched != Some(due_us) {
            return;
        }
        state.watched = None;
        let Bounds { stall_us, idle_us, .. } = self.pool.bounds();
        if state.taken_us.is_some_and(|since| now_us.wrapping_sub(since) > stall_us) {
            self.pool.block().refuse(Reason::SlowClient);
            state.broken = true;
        }
        while let Some(&Slot { due_us, class, may_write, .. }) = state.window.head_due() {
            if (now_us.wrapping_sub(due_us) as i32) < 0 {
                break;
            }
            let seq = state.window.head_seq();
            let applied = if may_write { MAYBE } else { "" };
            let waited = self.pool.patience(class).as_millis();
            let line = self.error_line(&format!("ERR no reply within the deadline of {waited} ms{applied}"));
            if !state.window.replace(seq, &line, Outcome::Timeout) {
                state.broken = true;
                break;
            }
            self.pool.block().refuse(Reason::Timeout);
            self.settle(state);
        }
        let next = state.window.head_due().map(|due| due.due_us.wrapping_sub(now_us));
        // The head's reply may have begun, and then those behind it have to be looked at again.
        let is_owed = !state.out.is_empty() || !state.window.is_empty() || state.waits;
        let turn = state.waits.then(|| self.turn_left(state, now_us)).flatten();
        let looks = [
            next,
            is_owed.then_some(stall_us),
            turn.filter(|left| *left > 0),
            self.leaving_left(state, now_us, is_owed, stall_us),
            self.idle_left(state, now_us, is_owed, idle_us),
        ];
        if let Some(after_us) = looks.into_iter().flatten().min().filter(|_| !state.broken) {
            self.watch(state, after_us);
        }
        drop(guard);
        if turn == Some(0) {
            // It is refused.
            self.go_on();
        }
        self.mark_dirty();
    }

    /// How much longer it may wait for a connection of its own; none when it does not wait for one.
    fn turn_left(&self, state: &State, now_us: u32) -> Option<u32> {
        let waited_us = now_us.wrapping_sub(state.turn_since_us?);
        Some(us(self.pool.policy().deadline).saturating_sub(waited_us))
    }

    /// It has to wait for a connection of its own; false when it has waited for as long as it may.
    #[cold]
    pub(crate) fn may_stand(self: &Rc<Self>, state: &mut State) -> bool {
        let now_us = self.pool.worker.clock.now_us();
        state.turn_since_us.get_or_insert(now_us);
        let left_us = self.turn_left(state, now_us).unwrap_or_default();
        if left_us > 0 {
            self.watch(state, left_us);
        }
        left_us > 0
    }

    /// A client that is to leave and has sent half a request has as long for the rest as one that reads
    /// slowly has.
    fn leaving_left(&self, state: &mut State, now_us: u32, is_owed: bool, stall_us: u32) -> Option<u32> {
        if !state.leaving || is_owed {
            return None;
        }
        let stood = now_us.wrapping_sub(state.moved_us);
        state.broken |= stood >= stall_us;
        Some(stall_us.saturating_sub(stood))
    }

    /// When the client will have been idle for as long as it may; none when it may for ever. One that is idle
    /// longer is disconnected without a word, as Redis and memcached do it.
    fn idle_left(&self, state: &mut State, now_us: u32, is_owed: bool, idle_us: u32) -> Option<u32> {
        if idle_us == 0 {
            return None;
        }
        if is_owed {
            state.moved_us = now_us;
        }
        let idle = now_us.wrapping_sub(state.moved_us);
        if idle >= idle_us {
            tracing::debug!(pool = %self.pool.handle.name, session = self.id, "closed: idle for limits.idle_timeout");
            state.broken = true;
        }
        Some(idle_us.saturating_sub(idle).min(FAR_US))
    }

    /// Has the wheel look whether the client is idle, where that is asked for.
    pub(crate) fn watch_idle(self: &Rc<Self>) {
        let idle_us = self.pool.bounds().idle_us;
        if idle_us != 0 {
            self.watch(&mut self.state.borrow_mut(), idle_us.min(FAR_US));
        }
    }

    /// Has the wheel look at this session after this time, if it does not look sooner.
    #[inline]
    pub(crate) fn watch(self: &Rc<Self>, state: &mut State, after_us: u32) {
        self.watch_until(state, self.pool.worker.clock.now_us().wrapping_add(after_us));
    }

    /// The same with the time itself, on the worker's clock.
    #[inline]
    pub(crate) fn watch_until(self: &Rc<Self>, state: &mut State, due_us: u32) {
        if state.watched.is_none_or(|at| (due_us.wrapping_sub(at) as i32) < 0) {
            self.pool.worker.watch(self, due_us);
            state.watched = Some(due_us);
        }
    }
}

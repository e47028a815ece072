//! How a pipeline ends in good order: it takes no more, answers what it owes, and what must come after that
//! waits for it.

use super::{Expect, Pipeline, State};
use crate::{
    proxy::{
        dispatch::{self, NOBODY},
        line::Own,
    },
    topology::NodeId,
};

impl Pipeline {
    /// Takes no new requests; closes when the last one is answered.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.wake();
        self.nudge.notify_one();
    }

    /// Retires; its sessions send nothing elsewhere before it has answered them.
    pub(crate) fn step_aside(&self) {
        self.core.borrow().queue.tags().for_each(|expect| expect.session.drain_first());
        self.retire();
    }

    /// Whether it is closed for good.
    pub(crate) fn is_over(&self) -> bool {
        let core = self.core.borrow();
        core.state == State::Over
            || (self.retired.get() && core.state == State::Idle && core.queue.is_empty())
    }

    /// Its node serves no more, and works: it takes no new requests and closes when the last one is answered.
    /// Gives back requests of which nothing was written. Those of sessions that wait for a reply here stay
    /// aside until that is there, and these sessions send nothing elsewhere before; a streamed one stays, for
    /// its session adds to it here.
    pub(crate) fn leave(&self) -> Vec<(Expect, Vec<u8>)> {
        let mut moved = Vec::new();
        if !self.is_streamed() {
            let core = &mut *self.core.borrow_mut();
            let (stay, go) = core.part();
            let left = core.queue.len();
            (core.overdue, core.refused) = (core.overdue.min(left), core.refused.min(left));
            self.aside.borrow_mut().extend(stay);
            moved = go;
            self.count_in_flight(core);
        }
        self.step_aside();
        if self.is_over() {
            moved.extend(self.aside.take());
        }
        moved
    }

    /// Resets the connection if nobody wants any more what it still brings, as a client is gone or was
    /// refused, and nothing in it is a write: else the node would send all of it, be it gigabytes. That says
    /// nothing of the node.
    pub(crate) fn drop_unwanted(&self, node: NodeId) {
        let is_unwanted = |expect: &Expect| {
            let only_asks = expect.read_only || self.own == Some(Own::Retrieval);
            only_asks && expect.seq != NOBODY && !expect.session.awaits(expect)
        };
        let is_wanted = {
            let queue = &self.core.borrow().queue;
            queue.is_empty() || !self.aside.borrow().is_empty() || !queue.tags().all(is_unwanted)
        };
        if is_wanted {
            return;
        }
        for (expect, fate, bytes) in self.close() {
            // A `gat` is not only read.
            self.note_in_doubt(&expect, fate, &bytes, node);
        }
    }

    /// Whether nobody waits any more for what it still owes, be it that it hangs, and something stayed aside.
    pub(crate) fn may_release(&self) -> bool {
        let core = self.core.borrow();
        core.refused == core.queue.len() && !self.aside.borrow().is_empty()
    }

    /// What stayed aside goes where the topology points.
    pub(crate) fn release(&self) {
        for (expect, bytes) in self.aside.take() {
            dispatch::send_again(&expect.session.pool.bound_now(), expect, &bytes);
        }
    }
}

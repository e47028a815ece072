//! What follows from the end of a connection: what the node said last is heard, what may be repeated waits
//! for the next connection, the rest is refused.

use std::{
    future::Future,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    task::yield_now,
};

use super::{Core, End, Pipeline};
use crate::{
    metrics::{Outcome, Reason},
    proxy::{
        connect::Connection,
        dialect::Replies,
        dispatch::NOBODY,
        inflight::Fate,
        link::{Link, in_doubt, overtaken},
        sampler::Cost,
    },
    topology::Failure,
};

/// Reads of what a node said that takes nothing any more.
const LAST_READS_MAX: usize = 256;

impl Pipeline {
    /// Nothing can be written any more. A node that does not want what is written says so and closes: that
    /// may lie there unread, and is seen after one more look at the sockets.
    #[cold]
    pub(super) fn hear_out(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        io: &mut Connection,
        link: &Rc<Link>,
        end: End,
    ) -> Poll<End> {
        let before = self.core.borrow_mut().unwritable.take();
        let Some(end) = before else {
            self.core.borrow_mut().unwritable = Some(end);
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        };
        let mut scratch = self.worker.scratch.borrow_mut();
        for _ in 0..LAST_READS_MAX {
            let mut buffer = ReadBuf::new(&mut scratch);
            if self.core.borrow().blocked_by.is_some() {
                break;
            }
            match Pin::new(&mut io.read).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    link.block().bytes_in.add(buffer.filled().len() as u64);
                    if let Err(end) = self.received(buffer.filled(), link) {
                        return Poll::Ready(end);
                    }
                }
                _ => break,
            }
        }
        Poll::Ready(end)
    }

    /// Whether a lost connection costs a read none of its tries: it had not said anything, and that
    /// has not gone on for longer than a verdict takes.
    fn is_patient(&self, core: &mut Core, link: &Link) -> bool {
        if core.heard || link.standing.borrow().policy.retries == 0 {
            return false;
        }
        let now_us = self.worker.clock.now_us();
        core.attempts += 1;
        core.attempt_us = now_us;
        let since = *core.fruitless_us.get_or_insert(now_us);
        !self.gave_up(since)
    }

    /// The connection is gone: what may be repeated waits for the next one, the rest is refused.
    pub(super) fn ended(&self, end: &End, link: &Link) {
        let (taken, free, is_renounced) = {
            let mut core = self.core.borrow_mut();
            core.scanner = Replies::of(self.protocol);
            (core.early, core.begun, core.unwritable) = (Vec::new(), Cost::default(), None);
            let mut taken = self.take_queue(&mut core);
            if let End::Refused(line) = end {
                core.refuse_head(&mut taken, line, link.block());
            }
            core.count_lost(&taken, link.block());
            (core.overdue, core.refused, core.stalled_us) = (0, 0, None);
            if let Some(session) = core.blocked_by.take() {
                session.release(self);
            }
            let is_renounced = core.renounced.replace(u64::MAX) == core.queue.done();
            (taken, self.is_patient(&mut core, link), is_renounced)
        };
        let (word, kind) = match end {
            End::Protocol(text) => {
                (format!("sent something that is not a reply ({text})"), Failure::Protocol)
            }
            End::Reset => ("connection lost".to_owned(), Failure::Reset),
            _ => ("connection lost".to_owned(), Failure::Lost),
        };
        // A node that closes because of what it was asked does nothing wrong.
        let is_blamed = !is_renounced && !matches!(end, End::Refused(_));
        if is_blamed && (taken.iter().any(|t| t.1 != Fate::Unsent) || kind == Failure::Protocol) {
            link.node.evidence.failed(kind, 1);
        }
        let overtaken = overtaken(&taken);
        for ((mut expect, fate, bytes), overtaken) in taken.into_iter().zip(overtaken) {
            self.note_in_doubt(&expect, fate, &bytes, link.node.id);
            let is_limit = expect.seq == NOBODY;
            if !is_limit && !expect.session.awaits(&expect) {
                continue;
            }
            let is_again = if is_limit {
                // Whatever became of the write: to be sent twice does no harm.
                let age_us = self.worker.clock.now_us().wrapping_sub(expect.sent_us);
                u128::from(age_us) < link.standing.borrow().policy.deadline.as_micros()
            } else {
                !overtaken && self.is_repeatable(&mut expect, fate, free)
            };
            if is_again {
                if fate == Fate::MaybeApplied {
                    link.block().retries.add(1);
                }
                self.core.borrow_mut().queue.push(expect, &bytes);
            } else if is_limit {
                link.block().unbounded.add(1);
            } else {
                let text = format!("{}: {word}{}", link.describe(), in_doubt(&expect, fate));
                expect.session.fail(&expect, &text, Reason::MaybeApplied, Outcome::Lost);
            }
        }
        self.count_in_flight(&mut self.core.borrow_mut());
        self.dismiss_feeder();
    }
}

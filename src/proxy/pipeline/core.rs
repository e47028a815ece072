//! The state of a pipeline and what follows from it without a socket: handing out replies, and
//! which requests are overdue or may go another way.

use std::{cell::Cell, collections::HashSet, rc::Rc, time::Duration};

use super::{
    super::{
        dialect::Replies,
        dispatch::NOBODY,
        flow::{Behind, Flow},
        inflight::{Fate, InFlight},
        link::Link,
        sampler::{self, Cost},
        session::{LARGE_REPLY, Session},
    },
    End, Expect, State,
};
use crate::{
    metrics::{Class, NodeBlock, Outcome},
    topology::Policy,
};

/// No server sends a longer string, so this is no reply.
const REPLY_BYTES_MAX: u64 = 4 << 30;
/// A reply that comes before its request was written is one line.
const EARLY_BYTES_MAX: usize = 4096;
/// First and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Requests of which nothing was written, each with its bytes, in order.
pub(super) type Unsent = Vec<(Expect, Vec<u8>)>;

/// What waits in pipelines: its bytes, and the requests that wait for a connection, or for a verdict on their
/// node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) bytes: usize,
    pub(crate) parked: usize,
}

impl std::ops::AddAssign for Queued {
    fn add_assign(&mut self, other: Queued) {
        *self = Queued { bytes: self.bytes + other.bytes, parked: self.parked + other.parked };
    }
}

impl std::iter::Sum for Queued {
    fn sum<I: Iterator<Item = Queued>>(all: I) -> Queued {
        all.fold(Queued::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// Why a pipeline takes no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// A bound is reached.
    Overload,
    /// What all clients together may hold in memory is used up.
    Memory,
    /// Too many requests have a connection of their own.
    Crowded,
    /// The node can't be connected to.
    Unreachable,
}

impl Full {
    /// What is said when the account has no room.
    pub(crate) const USED_UP: &str = "buffered_bytes is used up by what waits for nodes and clients";

    /// Why, as a refusal says it.
    pub(crate) fn why(self, link: &Link) -> &'static str {
        match self {
            Full::Overload => "too many requests wait for it",
            Full::Memory => Full::USED_UP,
            Full::Crowded => "too many large requests are on their way to it",
            Full::Unreachable => link.why_unreachable(),
        }
    }
}

/// What changes while a pipeline lives.
pub(super) struct Core {
    pub(super) state: State,
    pub(super) queue: InFlight<Expect>,
    pub(super) scanner: Replies,
    /// What the head has cost until now, when some of its reply was handed out.
    pub(super) begun: Cost,
    /// A reply that came before its request was written whole: it waits until that is.
    pub(super) early: Vec<u8>,
    /// Why nothing can be written any more, while what the node said last is still to be heard.
    pub(super) unwritable: Option<End>,
    /// How many requests were done when the node said that it reads no further.
    pub(super) renounced: Cell<u64>,
    /// Requests that stand in the gauge of those in flight.
    pub(super) counted: usize,
    /// Last byte from the node, or when it began to owe a reply.
    pub(super) progress_us: u32,
    /// Entries at the head that were counted as timed out.
    pub(super) overdue: usize,
    /// How many of them were refused to their clients.
    pub(super) refused: usize,
    /// Since when the head is overdue.
    pub(super) stalled_us: Option<u32>,
    /// Since when connecting fails.
    pub(super) failing_us: Option<u32>,
    /// Whether this connection has said anything yet.
    pub(super) heard: bool,
    /// Since when connections break before they say anything, as they do while a node is dying.
    pub(super) fruitless_us: Option<u32>,
    pub(super) attempts: u32,
    pub(super) attempt_us: u32,
    /// The client that must read before more replies are read.
    pub(super) blocked_by: Option<Rc<Session>>,
}

impl Core {
    /// The pause before the next attempt to connect.
    pub(super) fn backoff(&self) -> Duration {
        match self.attempts {
            0 => Duration::ZERO,
            n => (BACKOFF.0 * (1 << n.min(6))).min(BACKOFF.1),
        }
    }

    /// Gives each reply of a chunk, whole or not, to its session. `held_us` is how long the node was waited
    /// for before it came. Tells whether any is whole, and the last session that has more than it should, and
    /// of what.
    pub(super) fn hand_out(
        &mut self,
        chunk: &[u8],
        (now_us, held_us): (u32, u32),
        link: &Link,
        answered: &mut bool,
        slow: &mut Option<(Rc<Session>, Behind)>,
    ) -> Result<(), End> {
        let block = link.block();
        let mut rest = chunk;
        // The first reply is what was waited for.
        let mut first = std::mem::take(&mut self.begun);
        first.held_us = first.held_us.saturating_add(held_us);
        loop {
            let (left, done) = self.hand_out_plain(rest, now_us, first.unless(*answered).extra(), link, slow);
            rest = left;
            *answered |= done > 0;
            if rest.is_empty() {
                return Ok(());
            }
            let Some((expect, len)) = self.queue.written_front() else {
                return self.unasked(rest);
            };
            let awaits = expect.awaits;
            let scan = self.scanner.advance(rest, awaits).map_err(End::Protocol)?;
            let (piece, behind) = rest.split_at(scan.used);
            rest = behind;
            if !scan.done {
                self.begun = first.unless(*answered).and(piece.len());
                return self.hand_out_piece(piece, slow).map_err(End::Protocol);
            }
            let outcome = if self.scanner.is_error() {
                self.complained(expect, piece, link, now_us);
                Outcome::Error
            } else {
                Outcome::Ok
            };
            let bytes = piece.len() + len;
            let first = first.unless(*answered);
            if link.countdown.hits(bytes, first.extra()) {
                sampler::hit(link, expect, self.queue.front_bytes(), first.and(bytes));
            }
            let found_nothing = expect.class == Class::Read && self.scanner.found_nothing(piece);
            let is_swallowed = self.scanner.is_swallowed(awaits) && expect.session.forget(expect);
            let piece = if is_swallowed { &[] } else { piece };
            if let Flow::Pause(behind) = expect.session.deliver(expect, piece, Some(outcome), 0) {
                *slow = Some((expect.session.clone(), behind));
            }
            *answered = true;
            block.latency.record(now_us.wrapping_sub(expect.sent_us));
            if self.overdue > 0 {
                // It was counted when its time was over.
                self.overdue -= 1;
                self.refused = self.refused.saturating_sub(1);
            } else {
                block.requests[expect.class as usize][outcome as usize].add(1);
                if found_nothing {
                    block.misses.add(1);
                }
            }
            self.queue.pop();
        }
    }

    /// Gives whole replies that are no errors to those who wait for them, as long as one follows the other:
    /// nearly all are such. What is the same for all that go to one session is done once for them. `extra` is
    /// what the first has cost beside its bytes. Gives what is left of the chunk, and how many there were.
    #[inline(never)]
    fn hand_out_plain<'c>(
        &mut self,
        chunk: &'c [u8],
        now_us: u32,
        mut extra: i64,
        link: &Link,
        slow: &mut Option<(Rc<Session>, Behind)>,
    ) -> (&'c [u8], usize) {
        // What is overdue is counted already.
        if self.overdue > 0 {
            return (chunk, 0);
        }
        let block = link.block();
        let (mut rest, mut done, mut asked) = (chunk, 0, 0);
        // How many were sent at one time.
        let (mut sent_us, mut count) = (0, 0);
        let mut written = self.queue.written();
        let mut next = written.next();
        while !rest.is_empty()
            && let Some((head, _)) = next
        {
            let (session, before) = (&head.session, done);
            let state = &mut *session.state.borrow_mut();
            if state.broken {
                break;
            }
            session.furnish(state, rest.len());
            let mut seq = head.seq;
            while let Some((expect, len)) = next
                && Rc::ptr_eq(session, &expect.session)
                && let Some(end) = self.scanner.plain(rest, expect.awaits)
                && link.countdown.passes(len + end, extra)
            {
                let (piece, behind) = rest.split_at(end);
                (rest, extra, seq) = (behind, 0, expect.seq);
                block.requests[expect.class as usize][Outcome::Ok as usize].add(1);
                if expect.class == Class::Read && self.scanner.found_nothing(piece) {
                    block.misses.add(1);
                }
                if expect.sent_us != sent_us {
                    block.latency.record_many(now_us.wrapping_sub(sent_us), count);
                    (sent_us, count) = (expect.sent_us, 0);
                }
                count += 1;
                session.receive(state, expect, piece, Some(Outcome::Ok));
                (done, asked) = (done + 1, asked + len);
                next = written.next();
            }
            if done == before {
                break;
            }
            if let Flow::Pause(behind) = session.received(state, seq, 0) {
                *slow = Some((session.clone(), behind));
            }
        }
        drop(written);
        block.latency.record_many(now_us.wrapping_sub(sent_us), count);
        self.queue.pop_many(done, asked);
        (rest, done)
    }

    /// Bytes that no request awaits which was written whole. They may be what the node says to the one that
    /// it has read the beginning of.
    #[cold]
    fn unasked(&mut self, rest: &[u8]) -> Result<(), End> {
        let first = self.early.first().unwrap_or(&rest[0]);
        let is_early = self.queue.head_has_begun()
            && self.scanner.may_be_early(*first)
            && self.early.len() + rest.len() <= EARLY_BYTES_MAX;
        if !is_early {
            let text = rest[..rest.len().min(32)].escape_ascii();
            return Err(End::Protocol(format!("bytes without a request: {text}")));
        }
        self.early.extend_from_slice(rest);
        match self.scanner.early_end(&self.early) {
            Some(len) => Err(End::Refused(self.early[..len].to_vec())),
            None => Ok(()),
        }
    }

    /// An error reply: does the node say something of itself? Not in what a script returns, which says
    /// what its author wants.
    #[cold]
    fn complained(&self, expect: &Expect, reply: &[u8], link: &Link, now_us: u32) {
        if self.scanner.ends_connection(reply) {
            self.renounced.set(self.queue.done() + 1);
        }
        if expect.seq == NOBODY {
            link.block().unbounded.add(1);
            if link.may_warn(now_us) {
                let (pool, reply) = (&*expect.session.pool.handle.name, reply.escape_ascii().to_string());
                let (node, why) = (&*link.node.name, "PEXPIRE with LT is Redis 7.0's");
                tracing::warn!(pool, node, reply, why, "the time to live of a write is not bounded");
            }
        }
        if matches!(expect.class, Class::Read | Class::Write)
            && let Some(kind) = self.scanner.said(reply)
        {
            link.said(kind, now_us);
        }
    }

    /// Gives the head's session a piece of its reply, of which more will come.
    fn hand_out_piece(
        &mut self,
        piece: &[u8],
        slow: &mut Option<(Rc<Session>, Behind)>,
    ) -> Result<(), String> {
        let left = self.scanner.outstanding();
        if left > REPLY_BYTES_MAX {
            return Err(format!("a reply of {left} bytes"));
        }
        let Some(expect) = self.queue.front() else { return Ok(()) };
        // With others behind it, it is taken in as far as the session may hold it.
        let is_shared = left > LARGE_REPLY && self.others_wait();
        let left = if is_shared { LARGE_REPLY } else { left };
        if let Flow::Pause(behind) = expect.session.deliver(expect, piece, None, left) {
            *slow = Some((expect.session.clone(), behind));
        }
        Ok(())
    }

    /// What waits in it.
    pub(super) fn queued(&self) -> Queued {
        let is_parked = self.state != State::Ready || self.stalled_us.is_some();
        let parked = if is_parked { self.queue.len().saturating_sub(self.refused) } else { 0 };
        Queued { bytes: self.queue.bytes(), parked }
    }

    /// The node has refused the head before it had read it: that is its reply, whoever repeats it.
    #[cold]
    pub(super) fn refuse_head(
        &mut self,
        taken: &mut Vec<(Expect, Fate, Vec<u8>)>,
        line: &[u8],
        block: &NodeBlock,
    ) {
        if taken.is_empty() {
            return;
        }
        let (head, _, _) = taken.remove(0);
        if head.seq == NOBODY {
            block.unbounded.add(1);
            return;
        }
        if self.overdue > 0 {
            // It was counted when its time was over.
            self.overdue -= 1;
        } else {
            block.requests[head.class as usize][Outcome::Error as usize].add(1);
        }
        // Nothing is read any more that would have to wait for its client.
        let _ = head.session.deliver(&head, line, Some(Outcome::Error), 0);
    }

    /// Counts requests that were sent and will get no reply; those that are overdue are counted already.
    pub(super) fn count_lost(&self, taken: &[(Expect, Fate, Vec<u8>)], block: &NodeBlock) {
        for (expect, fate, _) in taken.iter().skip(self.overdue) {
            if *fate != Fate::Unsent {
                block.requests[expect.class as usize][Outcome::Lost as usize].add(1);
            }
        }
    }

    /// Whether other sessions' requests stand behind the head.
    pub(super) fn others_wait(&self) -> bool {
        let head = self.queue.front().map(|e| e.session.id);
        self.queue.tags().any(|e| Some(e.session.id) != head)
    }

    /// The head holds up the others, and its reply may never come: it is sampled as it is.
    #[cold]
    pub(super) fn charge_head(&self, now_us: u32, link: &Link) {
        let Some((head, _)) = self.queue.written_front() else { return };
        sampler::overdue(link, head, self.queue.front_bytes(), now_us);
    }

    /// Takes out requests that may go another way: nothing of them was written, nor of any other
    /// request of their session.
    pub(super) fn take_movable(&mut self) -> Unsent {
        let (stay, go) = self.part();
        for (expect, bytes) in stay {
            self.queue.push(expect, &bytes);
        }
        go
    }

    /// Takes out requests of which nothing was written: first those of sessions with another one that was,
    /// then those of others. What bounds the life of keys that were written stays behind their write.
    pub(super) fn part(&mut self) -> (Unsent, Unsent) {
        let mut taken = self.queue.take_unwritten();
        let limits = taken.iter().take_while(|(e, _)| e.seq == NOBODY).count();
        for (expect, bytes) in taken.drain(..limits) {
            self.queue.push(expect, &bytes);
        }
        let bound: HashSet<u64> = self.queue.tags().map(|e| e.session.id).collect();
        taken.into_iter().partition(|(e, _)| bound.contains(&e.session.id))
    }

    /// This thread stood still for so long. Nothing was heard of the node meanwhile, and it may have stood
    /// still as well: that time is not its own.
    pub(super) fn forgive(&mut self, now_us: u32, late_us: u32) {
        let since_us = now_us.wrapping_sub(self.progress_us);
        self.progress_us = self.progress_us.wrapping_add(late_us.min(since_us));
    }

    /// Counts entries that became overdue: no progress for their timeout, and sent that long ago. Gives back
    /// how many of them are evidence.
    pub(super) fn count_overdue(&mut self, now_us: u32, policy: &Policy, block: &NodeBlock) -> u32 {
        let Some(head) = self.queue.front() else {
            self.stalled_us = None;
            return 0;
        };
        let slow = is_slow(head);
        let timeout = timeout(head, policy).as_micros() as u32;
        if now_us.wrapping_sub(self.progress_us) < timeout {
            return 0;
        }
        self.stalled_us.get_or_insert(now_us);
        let before = self.overdue;
        let ripe =
            |e: &&Expect| now_us.wrapping_sub(e.sent_us) >= self::timeout(e, policy).as_micros() as u32;
        self.overdue = self.queue.tags().take_while(ripe).count().max(before);
        for expect in self.queue.tags().take(self.overdue).skip(before) {
            block.requests[expect.class as usize][Outcome::Timeout as usize].add(1);
        }
        // A script that takes long says nothing of the node's health, nor do those behind it.
        let counts = |e: &&Expect| !slow && !is_slow(e);
        self.queue.tags().take(self.overdue).skip(before).filter(counts).count() as u32
    }
}

/// Whether it may rightly take long.
fn is_slow(expect: &Expect) -> bool {
    expect.class == Class::Slow || expect.class == Class::All
}

/// How long its reply may take.
pub(super) fn timeout(expect: &Expect, policy: &Policy) -> Duration {
    if is_slow(expect) { policy.slow_timeout } else { policy.request_timeout }
}

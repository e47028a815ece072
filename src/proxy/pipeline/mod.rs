//! One connection to a node, shared by many sessions: requests go out in batches, replies come
//! back in the same order and go straight to the sessions. The queue outlives its connection: what
//! was not sent, or only reads, waits in it for the next one or for a new owner.

mod core;
mod drive;
mod end;
mod leave;
mod lost;
mod upload;

use std::{
    cell::{Cell, RefCell, RefMut},
    future::Future,
    pin::{Pin, pin},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    task::yield_now,
};

pub(crate) use self::core::{Full, Queued};
use self::{
    core::{Core, Unsent, timeout},
    end::End,
    upload::Upload,
};
use super::{
    coalesce,
    connect::Connection,
    dialect::Replies,
    dispatch::NOBODY,
    essential::essential,
    inflight::{Fate, InFlight},
    line::Own,
    link::{Link, count_unbounded, repeatable},
    sampler::Cost,
    session::Session,
    worker::Worker,
};
use crate::{
    metrics::{Class, Outcome, Reason},
    protocol::{Protocol, memcache::Awaits, resp::Version},
    topology::{Failure, Policy, VERDICT_GRACE},
};

/// What a refusal adds when the node may have executed a write.
pub(crate) const MAYBE: &str = "; the command may have been applied";
/// Requests that one pipeline may hold; more are refused.
const REQUESTS_MAX: usize = 1 << 16;
/// Bytes that one pipeline may hold; more are refused.
const BYTES_MAX: usize = 64 << 20;
/// So many it may hold whatever others do. For more the account is asked before it is copied.
pub(crate) const BYTES_MIN: usize = 256 << 10;
/// Reads in a row before other tasks get their turn.
const READS_MAX: usize = 8;

/// Who waits for a reply, and what may be done when it does not come.
#[derive(Clone, Debug)]
pub(crate) struct Expect {
    pub(crate) session: Rc<Session>,
    pub(crate) seq: u64,
    pub(crate) part: u32,
    /// When it was appended, on the worker's clock.
    pub(crate) sent_us: u32,
    pub(crate) class: Class,
    /// Safe to repeat.
    pub(crate) read_only: bool,
    /// Meant for this node, whoever owns what.
    pub(crate) pinned: bool,
    /// What its reply may be.
    pub(crate) awaits: Awaits,
    /// How often it may still be repeated.
    pub(crate) tries: u8,
    /// How often its connection ended while it was being written.
    pub(crate) broken_off: u8,
}

/// What is known of a request in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'a> {
    /// All of it.
    Bytes(&'a [u8]),
    /// It is streamed: its key.
    Streamed(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection, nothing to send.
    Idle,
    /// A connection is being made, perhaps after a pause.
    Connecting,
    /// Connected.
    Ready,
    /// Gone for good.
    Over,
}

/// The pipeline.
pub(crate) struct Pipeline {
    core: RefCell<Core>,
    link: Weak<Link>,
    worker: Rc<Worker>,
    protocol: Protocol,
    pub(crate) version: Version,
    waker: RefCell<Option<Waker>>,
    /// Whether its task was woken and did not run yet.
    scheduled: Cell<bool>,
    /// Whether what is not written has waited for what else is ready.
    gathered: Cell<bool>,
    /// Closes when its queue is empty.
    retired: Cell<bool>,
    /// One request has it to itself.
    own: Option<Own>,
    /// A session still adds to its last request.
    feeder: RefCell<Option<Rc<Session>>>,
    /// Its one request is streamed: not kept whole, never repeated.
    upload: RefCell<Option<Upload>>,
    /// Requests that wait, unsent, until those before them are answered.
    aside: RefCell<Unsent>,
    /// Tells a task that is connecting or pausing to look again.
    nudge: Notify,
}

impl Pipeline {
    pub(crate) fn new(link: &Rc<Link>, worker: &Rc<Worker>, version: Version) -> Rc<Pipeline> {
        let protocol = link.standing.borrow().policy.protocol;
        Pipeline::make(Rc::downgrade(link), worker, protocol, version, None)
    }

    /// One that a request is to have to itself.
    pub(crate) fn private(link: &Rc<Link>, worker: &Rc<Worker>, version: Version, own: Own) -> Rc<Pipeline> {
        let protocol = link.standing.borrow().policy.protocol;
        Pipeline::make(Rc::downgrade(link), worker, protocol, version, Some(own))
    }

    fn make(
        link: Weak<Link>,
        worker: &Rc<Worker>,
        protocol: Protocol,
        version: Version,
        own: Option<Own>,
    ) -> Rc<Pipeline> {
        let core = Core {
            state: State::Idle,
            queue: InFlight::default(),
            scanner: Replies::of(protocol),
            begun: Cost::default(),
            early: Vec::new(),
            unwritable: None,
            renounced: Cell::new(u64::MAX),
            counted: 0,
            progress_us: 0,
            overdue: 0,
            refused: 0,
            stalled_us: None,
            failing_us: None,
            heard: false,
            fruitless_us: None,
            attempts: 0,
            attempt_us: 0,
            blocked_by: None,
        };
        Rc::new(Pipeline {
            core: RefCell::new(core),
            link,
            worker: worker.clone(),
            protocol,
            version,
            waker: RefCell::default(),
            scheduled: Cell::new(false),
            gathered: Cell::new(false),
            retired: Cell::new(false),
            own,
            feeder: RefCell::default(),
            upload: RefCell::default(),
            aside: RefCell::default(),
            nudge: Notify::new(),
        })
    }

    /// Another pipeline of the same kind.
    pub(crate) fn fresh(&self) -> Rc<Pipeline> {
        Pipeline::make(self.link.clone(), &self.worker, self.protocol, self.version, None)
    }

    /// What for a request has it to itself; none when it is shared.
    pub(crate) fn own(&self) -> Option<Own> {
        self.own
    }

    /// Appends a request; it is written when the pipeline's task runs, with all others of this
    /// turn.
    ///
    /// # Errors
    /// [`Full`]: nothing was appended.
    #[inline(always)]
    pub(crate) fn append(self: &Rc<Self>, expect: Expect, bytes: &[u8], link: &Rc<Link>) -> Result<(), Full> {
        let core = &mut *self.core.borrow_mut();
        if core.queue.len() >= REQUESTS_MAX || core.queue.bytes() + bytes.len() > BYTES_MAX.max(bytes.len()) {
            return Err(Full::Overload);
        }
        // What bounds the life of a key that was written is taken whatever waits.
        if core.queue.bytes() + bytes.len() > BYTES_MIN && expect.seq != NOBODY {
            if core.refused > 0 {
                // It hangs, and its clients were told: more would wait for nothing, and take memory from
                // others.
                return Err(Full::Overload);
            }
            if self.worker.memory.is_used_up() {
                return Err(Full::Memory);
            }
            if bytes.len() > BYTES_MIN {
                // Others are not to wait for the next tick to hear of it.
                expect.session.pool.charge(bytes.len());
            }
        }
        if core.state == State::Ready {
            self.wake();
        } else {
            self.prepare(core, link)?;
        }
        if core.queue.is_empty() {
            core.progress_us = self.worker.clock.now_us();
        }
        core.queue.push(expect, bytes);
        Ok(())
    }

    /// Its queue, for one more request, where nothing stands in the way of that: it is connected, and not
    /// full. What is appended is written when its task runs.
    #[inline(always)]
    pub(crate) fn open_queue(&self, now_us: u32) -> Option<RefMut<'_, InFlight<Expect>>> {
        let mut core = self.core.borrow_mut();
        let queue = &core.queue;
        if core.state != State::Ready || queue.len() >= REQUESTS_MAX || queue.bytes() > BYTES_MIN {
            return None;
        }
        self.wake();
        if queue.is_empty() {
            core.progress_us = now_us;
        }
        Some(RefMut::map(core, |core| &mut core.queue))
    }

    /// Sees to it that there will be a connection.
    fn prepare(self: &Rc<Self>, core: &mut Core, link: &Rc<Link>) -> Result<(), Full> {
        if core.failing_us.is_some_and(|since| self.gave_up(since)) {
            if core.state != State::Idle || !self.may_try(core) {
                return Err(Full::Unreachable);
            }
            core.failing_us = None;
        }
        match core.state {
            State::Ready | State::Connecting => {}
            State::Over => return Err(Full::Unreachable),
            State::Idle => {
                core.state = State::Connecting;
                tokio::task::spawn_local(essential(drive::drive(self.clone(), link.clone())));
            }
        }
        Ok(())
    }

    fn gave_up(&self, since_us: u32) -> bool {
        self.worker.clock.now_us().wrapping_sub(since_us) >= VERDICT_GRACE.as_micros() as u32
    }

    /// Whether the pause after the last failed attempt is over.
    fn may_try(&self, core: &Core) -> bool {
        let waited = self.worker.clock.now_us().wrapping_sub(core.attempt_us);
        u128::from(waited) >= core.backoff().as_micros()
    }

    #[inline]
    fn wake(&self) {
        if !self.scheduled.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether it waits for a reply that does not come.
    pub(crate) fn is_stalled(&self) -> bool {
        self.core.borrow().stalled_us.is_some()
    }

    /// Stands behind the last request in it of which this is true; none when there is none.
    pub(crate) fn mark(&self, concerns: &dyn Fn(&Expect, Content<'_>) -> bool) -> Option<u64> {
        let queue = &self.core.borrow().queue;
        let upload = self.upload.borrow();
        let content = |bytes| Upload::content(&upload, bytes);
        let behind = queue.newest_first().position(|(expect, bytes)| concerns(expect, content(bytes)))?;
        Some(queue.done() + (queue.len() - behind) as u64)
    }

    /// Whether all that stood before a mark is answered. Requests that were taken back make it wait for as
    /// many that came later.
    pub(crate) fn has_passed(&self, mark: u64) -> bool {
        let core = self.core.borrow();
        core.state == State::Over || core.queue.is_empty() || core.queue.done() >= mark
    }

    /// Bytes that are not written yet.
    pub(crate) fn backlog(&self) -> usize {
        self.core.borrow().queue.unwritten().len()
    }

    /// Resets the connection and gives back all requests with their fates.
    pub(crate) fn reset(&self) -> Vec<(Expect, Fate, Vec<u8>)> {
        let taken = self.close();
        if let Some(link) = self.link.upgrade() {
            self.core.borrow().count_lost(&taken, link.block());
        }
        self.dismiss_feeder();
        taken
    }

    /// The same for requests that say nothing of the node.
    fn close(&self) -> Vec<(Expect, Fate, Vec<u8>)> {
        let mut core = self.core.borrow_mut();
        core.state = State::Over;
        let mut taken = self.take_queue(&mut core);
        self.count_in_flight(&mut core);
        drop(core);
        taken.extend(self.aside.take().into_iter().map(|(expect, bytes)| (expect, Fate::Unsent, bytes)));
        self.wake();
        self.nudge.notify_one();
        taken
    }

    /// Brings the gauge up to date: once per turn, not once per request.
    fn count_in_flight(&self, core: &mut Core) {
        let change = core.queue.len() as i64 - core.counted as i64;
        if change != 0
            && let Some(link) = self.link.upgrade()
        {
            core.counted = core.queue.len();
            link.block().in_flight.add(change);
        }
    }

    /// Whether a request may be sent once more, and with `free` at no cost; forgets what came of its
    /// reply.
    pub(crate) fn is_repeatable(&self, expect: &mut Expect, fate: Fate, free: bool) -> bool {
        !self.is_streamed() && repeatable(expect, fate, free) && expect.session.forget(expect)
    }

    /// A client reads again.
    pub(crate) fn unblock(&self) {
        let mut core = self.core.borrow_mut();
        if core.blocked_by.take().is_some() {
            core.progress_us = self.worker.clock.now_us();
            drop(core);
            self.wake();
        }
    }

    /// Looks for requests that have timed out, and for a verdict that does not come. Gives what waits in it.
    pub(crate) fn tick(self: &Rc<Self>, now_us: u32, policy: &Policy) -> Queued {
        let Some(link) = self.link.upgrade().filter(|_| !self.is_quiet()) else { return Queued::default() };
        if self.has_client_stalled(now_us, policy) {
            self.cut_off(policy);
            return Queued::default();
        }
        let mut refused = Vec::new();
        {
            let core = &mut *self.core.borrow_mut();
            self.count_in_flight(core);
            match core.state {
                State::Ready if core.blocked_by.is_none() && !self.is_starved(core) => {
                    core.forgive(now_us, self.worker.late_us.get());
                    let failed = core.count_overdue(now_us, policy, link.block());
                    if failed > 0 {
                        core.charge_head(now_us, &link);
                        link.node.evidence.failed(Failure::Timeout, failed);
                    }
                    let grace = VERDICT_GRACE.as_micros() as u32;
                    if core.stalled_us.is_some_and(|since| now_us.wrapping_sub(since) >= grace) {
                        // They keep their place in the queue: a late reply finds nobody.
                        refused.extend(core.queue.tags().take(core.overdue).skip(core.refused).cloned());
                        core.refused = core.overdue;
                    }
                }
                State::Connecting if core.failing_us.is_some_and(|since| self.gave_up(since)) => {
                    self.refuse_all(&link, core);
                }
                _ => {}
            }
        }
        for expect in refused {
            let waited = timeout(&expect, policy).as_millis();
            let applied = if expect.read_only { "" } else { MAYBE };
            let text = format!("{}: no reply within {waited} ms{applied}", link.describe());
            expect.session.fail(&expect, &text, Reason::Timeout, Outcome::Timeout);
        }
        self.core.borrow().queued()
    }

    /// Whether there is nothing to look after: nothing is owed, nor stands in the gauge.
    fn is_quiet(&self) -> bool {
        let core = self.core.borrow();
        core.queue.is_empty() && core.counted == 0 && core.stalled_us.is_none()
    }

    /// Nobody can connect: what waits is refused.
    fn refuse_all(&self, link: &Link, core: &mut Core) {
        let taken = core.queue.take();
        self.count_in_flight(core);
        let is_asked = |expect: &&Expect| expect.seq != NOBODY && expect.session.awaits(expect);
        link.block().unserved.add(taken.iter().map(|t| &t.0).filter(is_asked).count() as u64);
        count_unbounded(&taken, link.block());
        for (expect, _, _) in taken {
            let text = format!("{}: {}", link.describe(), link.why_unreachable());
            expect.session.fail(&expect, &text, Reason::NoOwner, Outcome::Refused);
        }
        self.nudge.notify_one();
    }

    /// One turn of a connected pipeline: writes all, reads what is there, hands it out.
    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, io: &mut Connection, link: &Rc<Link>) -> Poll<End> {
        if !self.waker.borrow().as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.waker.replace(Some(cx.waker().clone()));
        }
        self.scheduled.set(false);
        self.worker.begin_batch();
        if self.core.borrow().state == State::Over {
            return Poll::Ready(End::Evicted);
        }
        if let Err(end) = self.poll_write(cx, io, link) {
            return self.hear_out(cx, io, link, end);
        }
        if let Err(end) = self.early(link) {
            return Poll::Ready(end);
        }
        let end = self.poll_reads(cx, io, link);
        self.count_in_flight(&mut self.core.borrow_mut());
        self.worker.flush_dirty();
        match end {
            Some(end) => Poll::Ready(end),
            None if self.retired.get() && self.core.borrow().queue.is_empty() => Poll::Ready(End::Retired),
            None => Poll::Pending,
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, io: &mut Connection, link: &Link) -> Result<(), End> {
        let feeder = self.feeder.borrow().clone();
        let mut core = self.core.borrow_mut();
        if !core.queue.unwritten().is_empty() && self.gathers(cx) {
            return Ok(());
        }
        while !core.queue.unwritten().is_empty() {
            match Pin::new(&mut io.write).poll_write(cx, core.queue.unwritten()) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    core.queue.wrote(n);
                    link.block().bytes_out.add(n as u64);
                    if self.own.is_some() {
                        // A large request takes its time, and the node is not late while it takes it.
                        core.progress_us = self.worker.clock.now_us();
                    }
                    if self.is_streamed() {
                        core.queue.forget_written();
                    }
                }
                Poll::Ready(Ok(_)) => return Err(End::Lost),
                Poll::Ready(Err(error)) => return Err(End::of(&error)),
                Poll::Pending => break,
            }
        }
        drop(core);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        Ok(())
    }

    /// Whether the first write waits for one more look at the sockets: what other clients have sent meanwhile
    /// goes out with it.
    fn gathers(&self, cx: &mut Context<'_>) -> bool {
        if self.is_streamed() || self.gathered.replace(true) {
            self.gathered.set(false);
            return false;
        }
        // A task that yields is polled again after the sockets were looked at, which no waker of its own
        // would do.
        let _ = pin!(yield_now()).poll(cx);
        true
    }

    /// Hands out the reply that came before its request was written, once that is.
    fn early(self: &Rc<Self>, link: &Rc<Link>) -> Result<(), End> {
        let early = {
            let mut core = self.core.borrow_mut();
            if core.blocked_by.is_some() || core.early.is_empty() || !core.queue.head_is_written() {
                return Ok(());
            }
            std::mem::take(&mut core.early)
        };
        self.received(&early, link)
    }

    fn poll_reads(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        io: &mut Connection,
        link: &Rc<Link>,
    ) -> Option<End> {
        let mut scratch = self.worker.scratch.borrow_mut();
        for n in 0..READS_MAX {
            if self.core.borrow().blocked_by.is_some() || n > 0 && io.read.poll_more(cx).is_pending() {
                return None;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut io.read).poll_read(cx, &mut buffer) {
                Poll::Pending => return None,
                Poll::Ready(Err(error)) => return Some(End::of(&error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Some(End::Lost),
                Poll::Ready(Ok(())) => {
                    link.block().bytes_in.add(buffer.filled().len() as u64);
                    if let Err(end) = self.received(buffer.filled(), link) {
                        return Some(end);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        None
    }

    /// Cuts replies from a chunk and gives each to its session.
    fn received(self: &Rc<Self>, chunk: &[u8], link: &Rc<Link>) -> Result<(), End> {
        let now_us = self.worker.clock.now_us();
        let mut answered = false;
        let mut slow = None;
        let cut = {
            let core = &mut *self.core.borrow_mut();
            debug_assert!(core.blocked_by.is_none(), "nothing is handed out while a client is waited for");
            let held_us = now_us.wrapping_sub(std::mem::replace(&mut core.progress_us, now_us));
            (core.heard, core.fruitless_us, core.attempts) = (true, None, 0);
            let done = core.queue.done();
            let cut = core.hand_out(chunk, (now_us, held_us), link, &mut answered, &mut slow);
            coalesce::replied(core.queue.done() - done, self.protocol);
            core.stalled_us = None;
            cut
        };
        if answered {
            link.node.evidence.good();
        }
        cut?;
        // The session is written to first, and that may let pipelines go on which waited for it.
        if let Some((session, slow)) = slow
            && session.block(self, slow)
        {
            let core = &mut *self.core.borrow_mut();
            core.blocked_by = Some(session);
            core.queue.tags().for_each(|expect| expect.session.drain_first());
            if let Some(fresh) = link.detach(self) {
                for (expect, bytes) in core.take_movable() {
                    if let Err(full) = fresh.append(expect.clone(), &bytes, link) {
                        let text = format!("{}: {}", link.describe(), full.why(link));
                        expect.session.fail(&expect, &text, Reason::Overload, Outcome::Refused);
                    }
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("version", &self.version).finish_non_exhaustive()
    }
}

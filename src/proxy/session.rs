//! One client: read, decode, dispatch, and the replies in order, written once per batch.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    dispatch::{self, Dispatched},
    input::Input,
    pipeline::{Expect, MAYBE, Pipeline},
    pool::{Bound, Bounds, WorkerPool},
    window::{MergeContext, Window},
    worker::Memory,
};
use crate::{
    metrics::{Class, Outcome, Reason},
    net::{ReadHalf, WriteHalf},
    protocol::resp::{
        frame::{FrameLimits, Request, Step},
        local::ClientState,
        write,
    },
    topology::Policy,
};

/// Reads in a row before other tasks get their turn.
const READS_MAX: usize = 8;
/// Replies that a client has not read beyond which no more of its requests are dispatched.
const OUT_HIGH: usize = 1 << 20;
/// What a reply is taken for before one was seen, in bytes: a session begins with few requests in
/// flight and gets more as its replies turn out to be small.
const REPLY_GUESS: usize = 1 << 20;
/// A reply with more than this still to come waits at its node for the client, not in memory.
pub(crate) const LARGE_REPLY: u64 = 4 << 20;
/// A client that takes nothing of what it is owed for this long is disconnected.
const STALL_US: u32 = 10_000_000;
/// A buffer larger than this is not kept for the next session.
const KEEP_BYTES: usize = 64 * 1024;

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
    seq: u64,
    /// Of what the client could read, once the reply's turn has come.
    unread: usize,
    /// Kept aside, before its turn.
    aside: usize,
}

/// What changes while a session lives.
pub(crate) struct State {
    pub(crate) window: Window,
    out: Vec<u8>,
    written: usize,
    /// Closed with the session, though requests in flight still know it.
    write: Option<WriteHalf>,
    pub(crate) client: Box<ClientState>,
    /// No request is dispatched before the window is empty.
    pub(crate) drain: bool,
    /// No more requests are read; closes when all is answered and written.
    pub(crate) ending: bool,
    /// What has arrived is still read, then it ends.
    leaving: bool,
    /// Gone: replies are dropped.
    broken: bool,
    /// Requests wait for room in the window.
    stalled: bool,
    /// How large its replies are, on a moving average, and what came of the present one.
    reply_bytes: usize,
    piece_bytes: usize,
    /// Since when the client takes nothing of what it is owed; none when it is owed nothing.
    taken_us: Option<u32>,
    /// When the worker's wheel looks at it next; its other entries in the wheel are void.
    watched: Option<u32>,
    /// Bytes that were read and not dispatched, and what stands in the process's account of
    /// buffered bytes.
    pending: usize,
    accounted: usize,
    /// The pipelines that wait for this client to read, each with the request whose reply it
    /// brought.
    blocked: Vec<(Rc<Pipeline>, u64)>,
}

/// The session.
pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) pool: Rc<WorkerPool>,
    pub(crate) state: RefCell<State>,
    waker: Cell<Option<Waker>>,
    dirty: Cell<bool>,
    drain_first: Cell<bool>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(pool: &Rc<WorkerPool>, id: u64, write: WriteHalf, client: ClientState) -> Rc<Session> {
        let state = State {
            window: Window::default(),
            out: Vec::new(),
            written: 0,
            write: Some(write),
            client: Box::new(client),
            drain: false,
            ending: false,
            leaving: false,
            broken: false,
            stalled: false,
            reply_bytes: REPLY_GUESS,
            piece_bytes: 0,
            taken_us: None,
            watched: None,
            pending: 0,
            accounted: 0,
            blocked: Vec::new(),
        };
        Rc::new(Session {
            id,
            pool: pool.clone(),
            state: RefCell::new(state),
            waker: Cell::default(),
            dirty: Cell::new(false),
            drain_first: Cell::new(false),
        })
    }

    /// Serves the client until it leaves.
    pub(crate) async fn run(self: Rc<Self>, mut read: ReadHalf) {
        let mut input = Input::default();
        std::future::poll_fn(|cx| self.poll(cx, &mut read, &mut input)).await;
        input.abandon();
        let mut state = self.state.borrow_mut();
        state.broken = true;
        state.client_account(0, &self.pool.worker.memory);
        let blocked = std::mem::take(&mut state.blocked);
        (state.window, state.out, state.written, state.write) = (Window::default(), Vec::new(), 0, None);
        state.pending = 0;
        drop(state);
        blocked.iter().for_each(|(pipeline, _)| pipeline.unblock());
    }

    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut ReadHalf, input: &mut Input) -> Poll<()> {
        let waker = self.waker.take().filter(|w| w.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        let worker = &self.pool.worker;
        worker.clock.refresh();
        self.flush();
        let finished = self.poll_reads(cx, read, input);
        worker.flush_dirty();
        let state = self.state.borrow();
        let all_written = state.written == state.out.len();
        let over = state.broken || (state.ending && state.window.is_empty() && all_written);
        if over || finished { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads and dispatches; true when the connection is gone.
    fn poll_reads(self: &Rc<Self>, cx: &mut Context<'_>, read: &mut ReadHalf, input: &mut Input) -> bool {
        if !input.is_empty() && !self.state.borrow().ending {
            self.process(input, &[]);
        }
        let mut scratch = self.pool.worker.scratch.borrow_mut();
        for _ in 0..READS_MAX {
            if self.state.borrow().ending || !input.wants_more() {
                return false;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *read).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    let mut state = self.state.borrow_mut();
                    state.ending |= state.leaving && input.is_empty() && !input.is_streaming();
                    return false;
                }
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    if input.is_streaming() {
                        // The rest of its request will never come.
                        return true;
                    }
                    // A client may close its sending side and still wait for replies.
                    let mut state = self.state.borrow_mut();
                    input.end();
                    state.ending = input.is_empty() || !state.stalled;
                    return state.window.is_empty() && state.written == state.out.len();
                }
                Poll::Ready(Ok(())) => {
                    self.pool.block().bytes_in.add(buffer.filled().len() as u64);
                    self.process(input, buffer.filled());
                }
            }
        }
        cx.waker().wake_by_ref();
        false
    }

    /// Dispatches all whole requests of what was left over and this chunk, as far as there is
    /// room.
    fn process(self: &Rc<Self>, input: &mut Input, chunk: &[u8]) {
        let bound = self.pool.bound();
        if let Some(done) = input.feed_bulk(chunk) {
            if done {
                self.bulk_arrived(&bound.topology.policy);
            }
            self.mark_dirty();
            return;
        }
        if input.is_empty() {
            let mut decoder = self.pool.worker.decoder.borrow_mut();
            let used = self.dispatch_all(&bound, &mut decoder, chunk, input);
            if used < chunk.len() {
                input.keep(&chunk[used..], &mut decoder);
            }
        } else {
            input.extend(chunk);
            let (bytes, start, mut decoder) = input.take();
            let used = self.dispatch_all(&bound, &mut decoder, &bytes[start..], input);
            input.put_back(bytes, start + used, decoder);
        }
        let mut state = self.state.borrow_mut();
        if input.has_ended() && !state.stalled {
            state.ending = true;
        }
        let limits = &bound.topology.policy.limits;
        // One request that is not whole yet has a bound of its own.
        let limit = if state.stalled { limits.session_bytes_max } else { limits.request_bytes };
        if input.len() > limit.max(limits.session_bytes_max) {
            self.close_with(
                &mut state,
                Reason::SlowClient,
                "ERR limits.session_bytes_max is used up by what this session has sent and not read",
            );
        }
        state.pending = input.len();
        drop(state);
        self.mark_dirty();
    }

    /// Decodes and dispatches until bytes, room or patience end; gives how many bytes are done.
    fn dispatch_all(
        self: &Rc<Self>,
        bound: &Rc<Bound>,
        decoder: &mut crate::protocol::resp::frame::RequestDecoder,
        bytes: &[u8],
        input: &mut Input,
    ) -> usize {
        let policy = &bound.topology.policy;
        let mut used = 0;
        let mut state = self.state.borrow_mut();
        state.stalled = false;
        while used < bytes.len() && !state.ending {
            if self.is_full(&mut state) {
                state.stalled = true;
                break;
            }
            let stranger = policy.client_auth.is_some() && !state.client.authenticated;
            let limits = if stranger { FrameLimits::UNAUTHENTICATED } else { dispatch::frame_limits(policy) };
            let rest = &bytes[used..];
            let (request, len) = match decoder.decode(rest, &limits) {
                Ok(Step::Request(n)) => (Request::new(&rest[..n], decoder.spans()), n),
                Ok(Step::Inline(n)) => (Request::new(decoder.inline(), decoder.spans()), n),
                Ok(Step::Skip(n)) => {
                    used += n;
                    continue;
                }
                Ok(Step::Partial(needed)) => {
                    if input.may_stream(needed) {
                        let begun = dispatch::begin_bulk(self, &mut state, bound, decoder, rest);
                        used += input.begin(begun, rest, decoder);
                        state.stalled = input.is_streaming();
                    }
                    break;
                }
                Err(error) => {
                    self.close_with(&mut state, Reason::Protocol, &format!("ERR {error}"));
                    used = bytes.len();
                    break;
                }
            };
            match dispatch::dispatch(self, &mut state, bound, &request) {
                Dispatched::Done => used += len,
                Dispatched::DrainFirst => {
                    state.drain = true;
                    decoder.reset();
                }
            }
        }
        used
    }

    /// A streamed request is complete: now its deadline begins.
    fn bulk_arrived(self: &Rc<Self>, policy: &Policy) {
        let mut state = self.state.borrow_mut();
        let deadline_us = policy.deadline.as_micros().min(1 << 30) as u32;
        let due_us = self.pool.worker.clock.now_us().wrapping_add(deadline_us);
        if let Some(slot) = state.window.last() {
            slot.due_us = due_us;
        }
        state.stalled = true;
        self.watch(&mut state, deadline_us);
    }

    fn is_full(&self, state: &mut State) -> bool {
        if self.drain_first.take() {
            state.drain = true;
        }
        if state.drain && state.window.is_empty() {
            state.drain = false;
        }
        let depth = state.depth(self.pool.bounds());
        if state.window.len() >= depth {
            self.settle(state);
        }
        state.drain || state.window.len() >= depth || state.held() >= OUT_HIGH
    }

    /// Answers an error and closes once it is written.
    fn close_with(&self, state: &mut State, reason: Reason, text: &str) {
        if state.ending {
            return;
        }
        let mut line = Vec::new();
        write::error(&mut line, text);
        self.pool.block().refusals[reason as usize].add(1);
        state.window.ready(Class::Local, 0, line, Outcome::Refused);
        state.ending = true;
        tracing::debug!(pool = %self.pool.handle.name, session = self.id, reason = reason.word(), text, "session closed");
    }

    /// Keeps the process's account of buffered bytes, and closes a session that would break it.
    fn account(&self, state: &mut State) {
        let held = state.pending + state.held();
        if !state.client_account(held, &self.pool.worker.memory) && held > KEEP_BYTES && !state.broken {
            self.pool.block().refusals[Reason::Overload as usize].add(1);
            tracing::debug!(pool = %self.pool.handle.name, session = self.id, "closed: buffered_bytes is used up");
            state.broken = true;
        }
    }

    /// A piece of a reply, of which `left` bytes are known to follow.
    #[inline]
    pub(crate) fn deliver(
        self: &Rc<Self>,
        expect: &Expect,
        piece: &[u8],
        done: Option<Outcome>,
        left: u64,
    ) -> Flow {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.broken {
            return Flow::Ok;
        }
        if state.out.capacity() == 0 {
            state.out = self.pool.worker.spare_buffer();
        }
        state.window.deliver(expect.seq, expect.part, piece, done, &mut state.out);
        state.piece_bytes += piece.len();
        if done.is_some() {
            state.learn_reply();
            self.settle(state);
        }
        self.mark_dirty();
        self.bound_merge(state, expect.seq);
        let held = self.pool.bounds().held;
        // What is left of a large reply does not fit anyway.
        let limit = if left > LARGE_REPLY { OUT_HIGH } else { held };
        let behind = Behind { seq: expect.seq, unread: limit, aside: limit.min(held / 2) };
        if state.is_behind(behind) { Flow::Pause(behind) } else { Flow::Ok }
    }

    /// A merge needs all its parts, so nobody can be made to wait for the client: one that would
    /// hold more than the session may is refused.
    fn bound_merge(&self, state: &mut State, seq: u64) {
        let limit = self.pool.bounds().held;
        if state.window.aside() <= limit || state.window.head_seq() != seq {
            return;
        }
        let line = format!("-ERR the reply is larger than limits.session_bytes_max, {limit} bytes\r\n");
        if state.window.replace(seq, line.as_bytes(), Outcome::Refused) {
            self.pool.block().refusals[Reason::Overload as usize].add(1);
            self.settle(state);
        }
    }

    #[inline]
    fn settle(&self, state: &mut State) {
        let block = self.pool.block();
        let context =
            MergeContext { version: state.client.version, per_key_errors: self.pool.per_key_errors() };
        let count = |class: Class, outcome: Outcome| block.requests[class as usize][outcome as usize].add(1);
        state.window.settle(context, &mut state.out, count);
    }

    /// A part of a request will get no reply.
    pub(crate) fn fail(self: &Rc<Self>, expect: &Expect, text: &str, reason: Reason, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        if state.broken || !state.window.awaits(expect.seq, expect.part) {
            return;
        }
        let mut line = Vec::new();
        write::error(&mut line, text);
        self.pool.block().refusals[reason as usize].add(1);
        if state.window.fail(expect.seq, expect.part, &line, outcome) {
            self.settle(&mut state);
        } else {
            // Half of a reply is written: nothing can be said any more.
            state.broken = true;
        }
        drop(state);
        self.mark_dirty();
    }

    /// Forgets what came of a reply that will be asked for again; false when the client has part
    /// of it.
    pub(crate) fn forget(&self, expect: &Expect) -> bool {
        self.state.borrow_mut().window.forget(expect.seq, expect.part)
    }

    /// Whether the reply is still wanted.
    pub(crate) fn awaits(&self, expect: &Expect) -> bool {
        let mut state = self.state.borrow_mut();
        !state.broken && state.window.awaits(expect.seq, expect.part)
    }

    /// Its requests went through a pipeline that others must not use any more: those on their way
    /// come first, then the next.
    pub(crate) fn drain_first(&self) {
        self.drain_first.set(true);
    }

    /// Makes `pipeline` wait until this client has read; false when it need not.
    pub(crate) fn block(self: &Rc<Self>, pipeline: &Rc<Pipeline>, behind: Behind) -> bool {
        self.flush();
        let mut state = self.state.borrow_mut();
        if state.broken || !state.is_behind(behind) {
            return false;
        }
        state.blocked.push((pipeline.clone(), behind.seq));
        true
    }

    /// `pipeline` does not wait any more: its connection is gone.
    pub(crate) fn release(&self, pipeline: &Pipeline) {
        self.state.borrow_mut().blocked.retain(|(blocked, _)| !std::ptr::eq(&raw const **blocked, pipeline));
    }

    /// Puts the session on the worker's list of those that are written after this batch.
    pub(crate) fn mark_dirty(self: &Rc<Self>) {
        if !self.dirty.replace(true) {
            self.pool.worker.dirty.borrow_mut().push(self.clone());
        }
    }

    /// Wakes the session's task.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// Writes what is there, and lets go on whoever waited for it.
    pub(crate) fn flush(self: &Rc<Self>) {
        self.dirty.set(false);
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        self.settle(state);
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            state.write_out(&mut Context::from_waker(waker), self);
        }
        self.waker.set(waker);
        self.account(state);
        if !state.out.is_empty() {
            self.watch(state, STALL_US);
        }
        let freed = state.held() < OUT_HIGH / 2;
        let unblock = state.unblocked();
        let room = state.window.len() <= state.depth(self.pool.bounds()) / 2
            && (!state.drain || state.window.is_empty());
        let resume = state.stalled && freed && room;
        let over = state.broken || (state.ending && state.window.is_empty() && state.out.is_empty());
        unblock.iter().for_each(|pipeline| pipeline.unblock());
        if resume || over {
            self.wake();
        }
    }

    /// Watches the deadline of the head, and the client that takes nothing. Called by the wheel,
    /// with the time for which it was put in.
    pub(crate) fn check(self: &Rc<Self>, now_us: u32, due_us: u32) {
        let mut guard = self.state.borrow_mut();
        let state = &mut *guard;
        if state.broken || state.watched != Some(due_us) {
            return;
        }
        state.watched = None;
        if state.taken_us.is_some_and(|since| now_us.wrapping_sub(since) > STALL_US) {
            self.pool.block().refusals[Reason::SlowClient as usize].add(1);
            state.broken = true;
        }
        let waited = self.pool.policy().deadline.as_millis();
        while let Some((due_us, class)) = state.window.head_due() {
            if (now_us.wrapping_sub(due_us) as i32) < 0 {
                break;
            }
            let seq = state.window.head_seq();
            let applied = if class == Class::Read { "" } else { MAYBE };
            let line = format!("-ERR no reply within the deadline of {waited} ms{applied}\r\n");
            if !state.window.replace(seq, line.as_bytes(), Outcome::Timeout) {
                state.broken = true;
                break;
            }
            self.pool.block().refusals[Reason::Timeout as usize].add(1);
            self.settle(state);
        }
        let next = state.window.head_due().map(|(due_us, _)| due_us.wrapping_sub(now_us));
        let next = if state.out.is_empty() { next } else { Some(next.unwrap_or(STALL_US).min(STALL_US)) };
        if let Some(after_us) = next.filter(|_| !state.broken) {
            self.watch(state, after_us);
        }
        drop(guard);
        self.mark_dirty();
    }

    /// Has the wheel look at this session after this time, if it does not look sooner.
    #[inline]
    pub(crate) fn watch(self: &Rc<Self>, state: &mut State, after_us: u32) {
        let due_us = self.pool.worker.clock.now_us().wrapping_add(after_us);
        if state.watched.is_none_or(|at| (due_us.wrapping_sub(at) as i32) < 0) {
            state.watched = Some(self.pool.worker.watch(self, after_us));
        }
    }

    /// Serves what has arrived, then closes.
    pub(crate) fn end(&self) {
        self.state.borrow_mut().leaving = true;
        self.wake();
    }
}

impl State {
    /// Takes the size of a reply into the average: a larger one at once, smaller ones by and by.
    #[inline]
    fn learn_reply(&mut self) {
        let size = std::mem::take(&mut self.piece_bytes);
        self.reply_bytes = size.max(self.reply_bytes - self.reply_bytes / 8 + size / 8);
    }

    /// Requests that may be in flight: fewer when the replies are large.
    fn depth(&self, bounds: Bounds) -> usize {
        bounds.depth.min((bounds.asked / (self.reply_bytes + 1)).max(1))
    }

    /// Bytes held for the client.
    fn held(&self) -> usize {
        self.unread() + self.window.aside()
    }

    /// Bytes that the client could read.
    fn unread(&self) -> usize {
        self.out.len() - self.written
    }

    /// Whether whoever brought that reply has to wait: at the head for the client, and before its
    /// turn for those that are ahead.
    fn is_behind(&self, behind: Behind) -> bool {
        if self.window.head_seq() >= behind.seq {
            self.unread() > behind.unread
        } else {
            self.window.aside() > behind.aside
        }
    }

    /// The pipelines that may go on. One whose turn has come must, however much is kept aside: the
    /// head may wait for it.
    fn unblocked(&mut self) -> Vec<Rc<Pipeline>> {
        if self.blocked.is_empty() {
            return Vec::new();
        }
        let (head, little) = (self.window.head_seq(), self.window.aside() < OUT_HIGH / 2);
        let (reads, broken) = (self.unread() < OUT_HIGH / 2, self.broken);
        let free = |seq: u64| broken || (reads && (little || head >= seq));
        let blocked = std::mem::take(&mut self.blocked).into_iter();
        let (freed, waiting): (Vec<_>, Vec<_>) = blocked.partition(|(_, seq)| free(*seq));
        self.blocked = waiting;
        freed.into_iter().map(|(pipeline, _)| pipeline).collect()
    }

    fn client_account(&mut self, held: usize, memory: &Memory) -> bool {
        memory.settle(&mut self.accounted, held)
    }

    fn write_out(&mut self, cx: &mut Context<'_>, session: &Session) {
        while self.written < self.out.len() && !self.broken {
            let Some(write) = &mut self.write else { break };
            match Pin::new(write).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.written += n;
                    self.taken_us = Some(session.pool.worker.clock.now_us());
                    session.pool.block().bytes_out.add(n as u64);
                }
                Poll::Ready(_) => self.broken = true,
                Poll::Pending => {
                    self.taken_us.get_or_insert(session.pool.worker.clock.now_us());
                    break;
                }
            }
        }
        if self.written == self.out.len() {
            self.taken_us = None;
            let mut out = std::mem::take(&mut self.out);
            out.clear();
            self.written = 0;
            session.pool.worker.give_back(out, KEEP_BYTES);
        } else if self.written > OUT_HIGH {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }
}

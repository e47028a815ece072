//! One client: read, decode, dispatch, and the replies in order, written once per batch.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    clock::{FAR_US, us},
    dialect::{Begun, Broke, Cut, Decoder, Dialect},
    flow::{OUT_HIGH, REPLY_GUESS},
    input::{Input, Waiting},
    joint::MergeContext,
    pipeline::{Expect, Pipeline},
    pool::{Bound, WorkerPool},
    window::Window,
    worker::Memory,
};
use crate::{
    metrics::{Class, Outcome, Reason},
    net::Stream,
    protocol::resp::local::ClientState,
    topology::Policy,
};

/// Reads in a row before other tasks get their turn.
const READS_MAX: usize = 8;
/// A reply with more than this still to come waits at its node for the client, not in memory.
pub(crate) const LARGE_REPLY: u64 = 4 << 20;
/// What waits of a client that has not logged in and does not read: twice the largest request that it may
/// send.
const STRANGER_BYTES: usize = 512 * 1024;
/// A buffer larger than this is not kept for the next session.
const KEEP_BYTES: usize = 64 * 1024;

/// What changes while a session lives.
pub(crate) struct State {
    pub(crate) window: Window,
    pub(super) out: Vec<u8>,
    pub(super) written: usize,
    /// Closed with the session, though requests in flight still know it.
    stream: Option<Stream>,
    pub(crate) client: Arc<ClientState>,
    /// No request is dispatched before the window is empty.
    pub(crate) drain: bool,
    /// No more requests are read; closes when all is answered and written.
    pub(crate) ending: bool,
    /// What has arrived is still read, then it ends.
    pub(super) leaving: bool,
    /// Gone: replies are dropped.
    pub(super) broken: bool,
    /// Requests wait for room in the window.
    pub(super) stalled: bool,
    /// They wait for another topology, or for their turn to be streamed.
    pub(super) waits: bool,
    /// Since when they wait for a connection of their own.
    pub(crate) turn_since_us: Option<u32>,
    /// Keys that retrievals of many asked for since nothing was under way.
    pub(crate) keys_asked: u32,
    /// How large its replies are, on a moving average, and what came of the present one.
    pub(super) reply_bytes: u32,
    pub(super) piece_bytes: u32,
    /// Since when the client takes nothing of what it is owed; none when it is owed nothing.
    pub(super) taken_us: Option<u32>,
    /// When bytes last went from or to the client.
    pub(super) moved_us: u32,
    /// When the worker's wheel looks at it next; its other entries in the wheel are void.
    pub(super) watched: Option<u32>,
    /// Bytes that were read and not dispatched, and what stands in the process's account of
    /// buffered bytes.
    pending: usize,
    accounted: usize,
    /// There when a pipeline waits.
    pub(super) blocked: Option<Box<Blocked>>,
}

/// The pipelines that wait for a client to read, each with the request whose reply it brought.
#[derive(Default)]
pub(super) struct Blocked(pub(super) Vec<(Rc<Pipeline>, u64)>);

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
    pub(crate) fn new(
        pool: &Rc<WorkerPool>,
        id: u64,
        stream: Stream,
        client: Arc<ClientState>,
    ) -> Rc<Session> {
        let state = State {
            window: Window::default(),
            out: Vec::new(),
            written: 0,
            stream: Some(stream),
            client,
            drain: false,
            ending: false,
            leaving: false,
            broken: false,
            stalled: false,
            waits: false,
            turn_since_us: None,
            keys_asked: 0,
            reply_bytes: REPLY_GUESS,
            piece_bytes: 0,
            taken_us: None,
            moved_us: pool.worker.clock.now_us(),
            watched: None,
            pending: 0,
            accounted: 0,
            blocked: None,
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

    /// An error of ours as this session's protocol says it; the text's first word is Redis's code.
    #[cold]
    pub(crate) fn error_line(&self, text: &str) -> Vec<u8> {
        let mut line = Vec::new();
        self.pool.handle.protocol.write_error(&mut line, text);
        line
    }

    /// Serves the client until it leaves.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut input = Input::default();
        self.watch_idle();
        std::future::poll_fn(|cx| self.poll(cx, &mut input)).await;
        input.abandon();
        let mut state = self.state.borrow_mut();
        state.broken = true;
        state.client_account(0, &self.pool.worker.memory);
        let blocked = state.blocked.take();
        (state.window, state.out, state.written, state.stream) = (Window::default(), Vec::new(), 0, None);
        state.pending = 0;
        drop(state);
        blocked.iter().flat_map(|blocked| &blocked.0).for_each(|(pipeline, _)| pipeline.unblock());
    }

    fn poll(self: &Rc<Self>, cx: &mut Context<'_>, input: &mut Input) -> Poll<()> {
        let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| cx.waker().clone())));
        let worker = &self.pool.worker;
        worker.begin_batch();
        if !self.state.borrow().out.is_empty() {
            self.flush();
        }
        let finished = self.poll_reads(cx, input);
        worker.flush_dirty();
        let state = self.state.borrow();
        let all_written = state.written == state.out.len();
        let over = state.broken || (state.ending && state.window.is_empty() && all_written);
        if over || finished { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Reads and dispatches; true when the connection is gone.
    fn poll_reads(self: &Rc<Self>, cx: &mut Context<'_>, input: &mut Input) -> bool {
        if !input.is_empty() && !self.state.borrow().ending {
            self.process(input, &[]);
        }
        let mut scratch = self.pool.worker.scratch.borrow_mut();
        for n in 0..READS_MAX {
            let mut state = self.state.borrow_mut();
            if state.ending || !input.wants_more() {
                return false;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            let Some(stream) = &mut state.stream else { return true };
            let is_drained = n > 0 && stream.poll_more(cx).is_pending();
            match if is_drained { Poll::Pending } else { Pin::new(stream).poll_read(cx, &mut buffer) } {
                Poll::Pending => {
                    state.ending |= state.leaving && input.is_empty() && !input.is_streaming();
                    return false;
                }
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return state.sending_side_closed(input),
                Poll::Ready(Ok(())) => {
                    state.moved_us = self.pool.worker.clock.now_us();
                    drop(state);
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
        let chunk = input.unskipped(chunk);
        match input.feed_bulk(chunk) {
            Ok(None) => {}
            Ok(Some(done)) => {
                match done {
                    true => self.bulk_arrived(&bound.topology.policy),
                    false => self.bulk_goes_on(),
                }
                return self.mark_dirty();
            }
            Err(broke) => {
                self.bulk_broke(&mut self.state.borrow_mut(), &broke);
                return self.mark_dirty();
            }
        }
        if let Some(mut waiting) = input.take(chunk) {
            let Waiting { bytes, done, decoder } = &mut *waiting;
            *done += self.decode(&bound, decoder, &bytes[*done..], input);
            input.put_back(waiting);
        } else {
            let (used, begun) = self.pool.decoder.lend(|decoder| self.decode(&bound, decoder, chunk, input));
            if used < chunk.len() {
                let decoder = begun.unwrap_or_else(|| Decoder::of(self.pool.handle.protocol));
                input.keep(&chunk[used..], decoder);
            } else {
                debug_assert!(begun.is_none(), "a part of a request is held with its bytes");
            }
        }
        let mut state = self.state.borrow_mut();
        if input.has_ended() && !state.stalled {
            state.ending = true;
        }
        let limits = &bound.topology.policy.limits;
        // One request that is not whole yet, or waits while nothing more is read, has a bound of its own.
        let is_queue = state.stalled && !input.is_held();
        let limit = if is_queue { limits.session_bytes_max } else { limits.request_bytes };
        let (limit, what) = if state.is_stranger(&bound) {
            (STRANGER_BYTES, "what a client may hold that has not logged in")
        } else {
            (limit.max(limits.session_bytes_max), "limits.session_bytes_max")
        };
        if input.len() > limit {
            let text = format!("ERR {what} is used up by what this session has sent and not read");
            self.close_with(&mut state, Reason::SlowClient, &self.error_line(&text));
        }
        state.pending = input.len();
        // A session that only waits for replies is flushed when they come.
        let only_waits = state.out.is_empty() && !state.window.is_empty() && !state.window.is_ripe();
        if !only_waits || state.stalled || state.pending != 0 || state.accounted != 0 {
            drop(state);
            self.mark_dirty();
        }
    }

    /// Decodes and dispatches until bytes, room or patience end; gives how many bytes are done.
    fn decode(
        self: &Rc<Self>,
        bound: &Rc<Bound>,
        decoder: &mut Decoder,
        bytes: &[u8],
        input: &mut Input,
    ) -> usize {
        match decoder {
            Decoder::Resp(decoder) => self.dispatch_all(bound, decoder, bytes, input),
            Decoder::Memcached(decoder) => self.dispatch_all(bound, decoder, bytes, input),
        }
    }

    fn dispatch_all<D: Dialect>(
        self: &Rc<Self>,
        bound: &Rc<Bound>,
        decoder: &mut D,
        bytes: &[u8],
        input: &mut Input,
    ) -> usize {
        let mut used = 0;
        let mut state = self.state.borrow_mut();
        (state.stalled, state.waits) = (false, false);
        state.drain |= self.drain_first.take();
        let depth = state.depth(self.pool.bounds());
        if state.window.is_bare() {
            state.window.furnish(self.pool.worker.spare_space());
        }
        while used < bytes.len() && !state.ending {
            input.go_on();
            if self.is_full(&mut state, depth) {
                state.stalled = true;
                input.wait_with(if state.drain { &bytes[used..] } else { &[] });
                break;
            }
            let rest = &bytes[used..];
            match decoder.send_plain(self, &mut state, bound, rest, depth) {
                0 => {}
                sent => {
                    used += sent;
                    continue;
                }
            }
            match decoder.cut(self, &mut state, bound, rest) {
                Cut::Done(n) => used += n,
                Cut::Skip(n, beyond) => used += n + input.skip(beyond, rest.len() - n),
                Cut::DrainFirst => {
                    state.drain = true;
                    decoder.reset();
                }
                Cut::Wait => {
                    (state.stalled, state.waits) = (true, true);
                    input.wait_with(rest);
                    self.pool.waiting.set(true);
                    decoder.reset();
                    break;
                }
                Cut::Partial(needed) => {
                    if input.may_stream(needed, rest.len()) {
                        let begun = decoder.begin(self, &mut state, bound, rest);
                        state.drain |= matches!(begun, Begun::Later);
                        state.waits |= matches!(begun, Begun::Full);
                        self.pool.waiting.set(self.pool.waiting.get() | state.waits);
                        match input.begin(begun, rest) {
                            Ok(done) => used += done,
                            Err(broke) => self.bulk_broke(&mut state, &broke),
                        }
                        state.stalled = input.is_streaming();
                    }
                    break;
                }
                Cut::Broken(line) => {
                    self.close_with(&mut state, Reason::Protocol, &line);
                    used = bytes.len();
                    break;
                }
            }
        }
        if !state.waits {
            state.turn_since_us = None;
        }
        used
    }

    /// What was streamed is no request: the only one in the window is refused, and the session ends.
    fn bulk_broke(&self, state: &mut State, Broke(line): &Broke) {
        self.pool.block().refuse(Reason::Protocol);
        let seq = state.window.head_seq();
        state.broken |= !state.window.fail(seq, 0, line, Outcome::Refused);
        state.ending = true;
    }

    /// More of a streamed request has come: for as long as that goes on it has no deadline.
    fn bulk_goes_on(&self) {
        let mut state = self.state.borrow_mut();
        if let Some(slot) = state.window.last() {
            slot.due_us = self.pool.worker.clock.now_us().wrapping_add(FAR_US);
        }
    }

    /// A streamed request is complete: now its deadline begins.
    fn bulk_arrived(self: &Rc<Self>, policy: &Policy) {
        let mut state = self.state.borrow_mut();
        let deadline_us = us(policy.deadline);
        let due_us = self.pool.worker.clock.now_us().wrapping_add(deadline_us);
        if let Some(slot) = state.window.last() {
            slot.due_us = due_us;
        }
        state.stalled = true;
        self.watch(&mut state, deadline_us);
    }

    #[inline(always)]
    fn is_full(&self, state: &mut State, depth: usize) -> bool {
        state.drain &= !state.window.is_empty();
        if state.window.len() >= depth {
            self.settle(state);
        }
        state.drain || state.window.len() >= depth || state.held() >= OUT_HIGH
    }

    /// Answers an error and closes once it is written.
    fn close_with(&self, state: &mut State, reason: Reason, line: &[u8]) {
        if state.ending {
            return;
        }
        self.pool.block().refuse(reason);
        state.window.ready(Class::Local, 0, line, Outcome::Refused);
        state.ending = true;
        let text = line.trim_ascii().escape_ascii();
        tracing::debug!(pool = %self.pool.handle.name, session = self.id, reason = reason.word(), %text, "session closed");
    }

    /// Keeps the process's account of buffered bytes, and closes a session that would break it.
    fn account(&self, state: &mut State) {
        let held = state.pending + state.held();
        if !state.client_account(held, &self.pool.worker.memory) && held > KEEP_BYTES && !state.broken {
            self.pool.worker.memory.close_one();
            self.pool.block().refuse(Reason::Overload);
            tracing::debug!(pool = %self.pool.handle.name, session = self.id, "closed: buffered_bytes is used up");
            state.broken = true;
        }
    }

    pub(super) fn settle(&self, state: &mut State) {
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
        let line = self.error_line(text);
        self.pool.block().refuse(reason);
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
        if state.window.is_ripe() {
            self.settle(state);
        }
        if let Some(waker) = self.waker.take() {
            state.write_out(&mut Context::from_waker(&waker), self);
            self.waker.set(Some(waker));
        }
        self.account(state);
        if let Some(space) = state.window.clear_out() {
            self.pool.worker.give_back_space(space);
        }
        if !state.out.is_empty() {
            self.watch(state, self.pool.bounds().stall_us);
        }
        if state.blocked.is_some() {
            state.unblocked().iter().for_each(|pipeline| pipeline.unblock());
        }
        let resume = state.stalled && state.may_go_on(self.pool.bounds());
        let over = state.broken || (state.ending && state.window.is_empty() && state.out.is_empty());
        if resume {
            // It says again that it stalls when it does; else each flush would wake it for nothing.
            state.stalled = false;
        }
        if resume || over {
            self.wake();
        }
    }

    /// What it was told is the last thing: it ends once that is written.
    pub(crate) fn hang_up(self: &Rc<Self>) {
        self.state.borrow_mut().ending = true;
        self.mark_dirty();
    }

    /// Serves what has arrived, then closes. For the rest of a request of which a part has arrived it waits
    /// for as long as more of it comes.
    pub(crate) fn end(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        state.leaving = true;
        self.watch(&mut state, self.pool.bounds().stall_us);
        drop(state);
        self.wake();
    }
}

impl State {
    /// Whether the client has yet to log in.
    #[inline]
    pub(crate) fn is_stranger(&self, bound: &Bound) -> bool {
        bound.terms.guarded && !self.client.authenticated
    }

    fn client_account(&mut self, held: usize, memory: &Memory) -> bool {
        memory.settle(&mut self.accounted, held)
    }

    /// A client may close its sending side and still wait for replies, also to requests that wait for their
    /// turn. True when nothing is left to do for it.
    fn sending_side_closed(&mut self, input: &mut Input) -> bool {
        input.end();
        if input.abandon() && !self.window.is_empty() {
            // All before that request was answered when it began.
            self.window.unpush();
        }
        self.ending = input.is_empty() || !self.stalled;
        self.ending && self.window.is_empty() && self.written == self.out.len()
    }

    fn write_out(&mut self, cx: &mut Context<'_>, session: &Session) {
        while self.written < self.out.len() && !self.broken {
            let Some(stream) = &mut self.stream else { break };
            match Pin::new(stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.written += n;
                    self.moved_us = session.pool.worker.clock.now_us();
                    self.taken_us = Some(self.moved_us);
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
            session.pool.worker.give_back(out);
        } else if self.written > OUT_HIGH {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }
}

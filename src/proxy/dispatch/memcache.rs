//! memcached: the line says what becomes of a request. Each request that goes to a node gets one
//! reply there, whatever its client asked for.

use std::{borrow::Cow, rc::Rc};

use super::{
    super::{
        clock::FAR_US,
        dialect::{Begun, Cut, Dialect, Rest, is_silent},
        facts,
        joint::JointKind,
        pipeline::Expect,
        pool::Bound,
        session::{Session, State},
    },
    Dispatched, PartPlan, Refused, Sending, Several,
    again::Again,
    append, keep_small,
    plain::Batch,
    retrieve::{self, write_part},
};
use crate::{
    clock,
    metrics::{Class, Outcome, Reason},
    protocol::memcache::{
        All, Awaits, Code, DecodeError, Limits, Local, One, Plan, Request, RequestDecoder, Step, life,
        login::{Login, login},
        plan::Gather,
        request::{PLAIN_GET, plain_get},
    },
    topology::SampledKey,
};

/// For requests that were within their bounds when they came.
const UNLIMITED: Limits = Limits {
    value_bytes: usize::MAX >> 1,
    line_bytes: usize::MAX,
    request_bytes: usize::MAX,
    args_max: usize::MAX,
};

/// What memcached says to a retrieval when nothing is there.
pub(super) const NOTHING: &[u8] = b"END\r\n";

impl Dialect for RequestDecoder {
    #[inline(never)]
    fn cut(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Cut {
        let is_stranger = state.is_stranger(bound);
        let limits = if is_stranger { &Limits::UNAUTHENTICATED } else { &bound.terms.memcache };
        match self.decode(bytes, limits) {
            Ok(Step::Request(n)) => match dispatch(session, state, bound, &self.request(&bytes[..n])) {
                Dispatched::Wait => Cut::Wait,
                Dispatched::DrainFirst => Cut::DrainFirst,
                Dispatched::Done => Cut::Done(n),
            },
            Ok(Step::Large { line, value }) => {
                // It is refused, which nothing has to be waited for.
                dispatch(session, state, bound, &self.request(&bytes[..line]));
                // Nobody who knows the password has sent this.
                state.ending |= is_stranger;
                Cut::Skip(line, value)
            }
            Ok(Step::Partial(needed)) => Cut::Partial(needed),
            Err(error @ (DecodeError::Binary | DecodeError::Line(_))) => Cut::Broken(error.line().to_vec()),
        }
    }

    #[inline(never)]
    fn send_plain(
        &mut self,
        session: &Rc<Session>,
        state: &mut State,
        bound: &Rc<Bound>,
        bytes: &[u8],
        depth: usize,
    ) -> usize {
        let Some(batch) = Batch::new(session, state, bound).filter(|_| !self.is_partial()) else { return 0 };
        let mut done = 0;
        while state.window.len() < depth
            && let rest = &bytes[done..]
            && let Some(key) = plain_get(rest)
            && let frame = &rest[..PLAIN_GET.len() + key.len() + 2]
            && batch.send(&mut state.window, key, true, Awaits::GET, frame)
        {
            done += frame.len();
        }
        if done > 0 {
            batch.watch(state);
        }
        done
    }

    fn begin(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Begun {
        if state.is_stranger(bound) {
            return Begun::No;
        }
        let Some((request, needed)) = self.head(bytes) else {
            // A line as long as this has to be whole first. Meanwhile nothing stands in its way, or it would
            // count as what waits behind others.
            return if state.window.is_empty() { Begun::No } else { Begun::Later };
        };
        let Plan::One(one) = request.plan() else { return Begun::No };
        if !state.window.is_empty() {
            return Begun::Later;
        }
        // Its deadline begins when it has arrived; a client that sends slowly hurts nobody. Until then each
        // piece moves it.
        let due_us = session.pool.worker.clock.now_us().wrapping_add(FAR_US);
        let to = sending(session, bound, false, due_us, one.awaits);
        let Ok(index) = to.owner(&one.key) else { return Begun::No };
        if to.ttl_max(index).is_some() {
            return Begun::No;
        }
        let mut first = Vec::new();
        one.sent.write(&mut first);
        let end = [bytes[bytes.len() - 2], bytes[bytes.len() - 1]];
        let pipeline = match to.stream(state, index, &one.key, &first) {
            Ok(pipeline) => pipeline,
            Err(begun) => return begun,
        };
        self.reset();
        Begun::Yes(pipeline, Rest::Value { left: needed - bytes.len(), end })
    }

    fn reset(&mut self) {
        RequestDecoder::reset(self);
    }
}

pub(super) fn sending<'a>(
    session: &'a Rc<Session>,
    bound: &'a Rc<Bound>,
    read_only: bool,
    due_us: u32,
    awaits: Awaits,
) -> Sending<'a> {
    let class = if read_only { Class::Read } else { Class::Write };
    Sending { session, bound, class, read_only, due_us, awaits }
}

/// Sends a request on its way.
#[inline]
fn dispatch(
    session: &Rc<Session>,
    state: &mut State,
    bound: &Rc<Bound>,
    request: &Request<'_>,
) -> Dispatched {
    if state.is_stranger(bound) {
        enter(session, state, bound, request);
        return Dispatched::Done;
    }
    match request.plan() {
        Plan::One(one) => return self::one(session, state, bound, &one),
        Plan::Keys(keys) => return retrieve::keys(session, state, bound, request, keys),
        Plan::All(all) => self::all(session, state, bound, all),
        Plan::Local(local) => self::local(session, state, bound, local),
        Plan::Refuse { line, close } => {
            session.pool.block().refuse(Reason::Command);
            state.window.ready(Class::Local, 0, &line, Outcome::Refused);
            state.ending |= close;
        }
        Plan::Nothing => session.pool.block().refuse(Reason::Command),
        Plan::Quit => state.ending = true,
    }
    Dispatched::Done
}

pub(super) fn due_us(session: &Session, bound: &Bound, class: Class) -> u32 {
    session.pool.worker.clock.now_us().wrapping_add(bound.terms.patience_us[class as usize])
}

#[inline]
fn one(session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, one: &One<'_>) -> Dispatched {
    let class = if one.read_only { Class::Read } else { Class::Write };
    let to = sending(session, bound, one.read_only, due_us(session, bound, class), one.awaits);
    let sent = to.owner(&one.key).and_then(|index| match one.sent.as_it_is() {
        Some(whole) if to.ttl_max(index).is_none() => to.forward(state, whole, index),
        _ => {
            let frame = &mut *session.pool.worker.frame.borrow_mut();
            frame.clear();
            one.sent.write(frame);
            let sent = to.forward(state, &bounded(&to, index, frame), index);
            keep_small(frame);
            sent
        }
    });
    match sent {
        Ok(()) => session.watch_until(state, to.due_us),
        Err(refused) if refused.waits && bound.may_wait() => return Dispatched::Wait,
        Err(refused) => not_sent(&to, state, refused, one.miss()),
    }
    Dispatched::Done
}

/// A request whose items live no longer than they may at the node at this index.
#[cold]
pub(super) fn bounded<'a>(to: &Sending<'_>, index: usize, frame: &'a [u8]) -> Cow<'a, [u8]> {
    let Some(ttl_max) = to.ttl_max(index) else { return Cow::Borrowed(frame) };
    let ttl_s = ttl_max.as_secs().clamp(1, u64::from(u32::MAX)) as u32;
    life::bounded(frame, ttl_s, clock::unix().as_secs())
}

/// What is not sent is refused, or a retrieval finds nothing.
#[cold]
pub(super) fn not_sent(
    to: &Sending<'_>,
    state: &mut State,
    refused: Refused,
    miss: Option<Cow<'static, [u8]>>,
) {
    match miss {
        Some(nothing) if refused.may_miss => {
            to.session.pool.block().misses.add(1);
            state.window.ready(to.class, to.due_us, &nothing, Outcome::Ok);
        }
        _ => {
            to.session.pool.block().refuse(refused.reason);
            let line = if is_silent(to.awaits) { Vec::new() } else { to.session.error_line(&refused.text) };
            state.window.ready(to.class, 0, &line, Outcome::Refused);
        }
    }
}

fn all(session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, all: All<'_>) {
    let due_us = due_us(session, bound, Class::All);
    let read_only = all.gather != Gather::Flush;
    let to = Sending { session, bound, class: Class::All, read_only, due_us, awaits: all.awaits };
    let command = match all.gather {
        Gather::Flush => "flush_all",
        Gather::Stats => "stats nodes",
    };
    let sent = to.serving(all.gather == Gather::Flush, command).and_then(|serving| {
        let parts = serving.into_iter().map(PartPlan::of).collect();
        let write = |_: &[u32], out: &mut Vec<u8>| all.sent.write(out);
        let kind = JointKind::Everywhere(all.gather, is_silent(all.awaits));
        // Each node's own reply is merged, whatever the client wants of it.
        let to = Sending { awaits: all.awaits.quiet(false), ..to };
        to.joint(state, Several { kind, keys: 0, parts, pinned: true }, write, |_| None).map(drop)
    });
    match sent {
        Ok(()) => session.watch_until(state, due_us),
        Err(refused) => not_sent(&to, state, refused, None),
    }
}

#[cold]
fn local(session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, local: Local) {
    let mut reply = Vec::new();
    facts::answer_memcached(session, bound, local, &mut reply);
    state.window.ready(Class::Local, due_us(session, bound, Class::Local), &reply, Outcome::Ok);
}

/// Before the login there is nothing but the login.
#[cold]
fn enter(session: &Rc<Session>, state: &mut State, bound: &Bound, request: &Request<'_>) {
    let secret = bound.topology.policy.client_auth.as_ref().map_or(&[][..], |s| &s.0);
    let at = secret.iter().position(|b| *b == b':').unwrap_or(secret.len());
    let (user, password) = (&secret[..at], secret.get(at + 1..).unwrap_or_default());
    match login(request, user, password) {
        Login::Accepted(line) => {
            facts::authenticated(session, state);
            state.window.ready(Class::Local, 0, line, Outcome::Ok);
        }
        Login::Refused(line) => {
            session.pool.block().refuse(Reason::Auth);
            state.window.ready(Class::Local, 0, line, Outcome::Refused);
        }
    }
}

/// Calls `note` with each key of a request; false when it can't be read, or was not kept whole.
pub(super) fn each_key(bytes: &[u8], note: &mut dyn FnMut(&[u8])) -> bool {
    let mut decoder = RequestDecoder::default();
    let Ok(Step::Request(n)) = decoder.decode(bytes, &UNLIMITED) else { return false };
    match decoder.request(&bytes[..n]).plan() {
        Plan::One(one) => note(&one.key),
        Plan::Keys(keys) => (0..keys.len()).for_each(|i| note(keys.key(i))),
        _ => return false,
    }
    true
}

/// One of the keys of a request.
pub(super) fn sampled_key(decoder: &mut RequestDecoder, bytes: &[u8], pick: usize) -> Option<SampledKey> {
    decoder.reset();
    let Ok(Step::Request(n)) = decoder.decode(bytes, &UNLIMITED) else { return None };
    match decoder.request(&bytes[..n]).plan() {
        Plan::One(one) => Some(SampledKey::of(&one.key)),
        Plan::Keys(keys) => Some(SampledKey::of(keys.key(pick % keys.len().max(1)))),
        _ => None,
    }
}

/// Sends a request once more, to whom the topology points at now.
pub(super) fn reroute(
    bound: &Rc<Bound>,
    session: &Rc<Session>,
    expect: &Expect,
    bytes: &[u8],
) -> Result<(), Refused> {
    let unreadable = || Refused::new(Reason::Protocol, "ERR a request that can't be read again".to_owned());
    let mut decoder = RequestDecoder::default();
    let step = decoder.decode(bytes, &UNLIMITED).map_err(|_| unreadable())?;
    let (Step::Request(n), version) = (step, session.state.borrow().client.version) else {
        return Err(unreadable());
    };
    let request = decoder.request(&bytes[..n]);
    let to = Sending { class: expect.class, ..sending(session, bound, expect.read_only, 0, expect.awaits) };
    let (sent, miss) = match request.plan() {
        Plan::One(one) => {
            let sent = to
                .owner(&one.key)
                .and_then(|index| append(bound, index, version, expect.clone(), &bounded(&to, index, bytes)));
            (sent, one.miss())
        }
        Plan::Keys(keys) => {
            let parts = to.parts((0..keys.len()).map(|i| keys.key(i)))?;
            let write = |positions: &[u32], out: &mut Vec<u8>| write_part(&to, &keys, positions, out);
            let kind = JointKind::Values;
            let again = Again { kind, keys: keys.len(), parts, frame: bytes, write: &write };
            (to.redirect(expect, again).map(drop), Some(Cow::Borrowed(NOTHING)))
        }
        _ => return Err(unreadable()),
    };
    match (sent, miss) {
        (Err(refused), Some(nothing)) if refused.may_miss => {
            session.pool.block().misses.add(1);
            // What was sent does not say any more that the client asked for silence.
            let nothing = if expect.awaits.swallows(Code::Miss) { Cow::Borrowed(&b""[..]) } else { nothing };
            session.deliver(expect, &nothing, Some(Outcome::Ok), 0);
            Ok(())
        }
        (sent, _) => sent,
    }
}

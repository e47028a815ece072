//! Redis: the command table says what becomes of a request.

use std::{
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use super::{
    super::{
        clock::FAR_US,
        dialect::{Begun, Cut, Dialect, Rest},
        facts,
        input::BULK_LANE,
        joint::JointKind,
        pipeline::{Expect, Pipeline},
        pool::Bound,
        scripts::Scripts,
        session::{Session, State},
        window::Reply,
    },
    Dispatched, Lane, PartPlan, Parts, Privates, Refused, Sending, Several,
    again::{Again, append_again},
    large,
    plain::Batch,
    refuse,
};
use crate::{
    metrics::{Class, Outcome, Reason},
    protocol::memcache::Awaits,
    protocol::resp::{
        Version,
        commands::{self, Command},
        frame::{FrameLimits, Plain, Request, RequestDecoder, Scanner, Start, Step},
        local::{self, After},
        miss,
        rule::{Gather, Local, Rule, Split},
        scan::{self, Cursor},
        table::{Refusal, RefusalKind, Table},
        write,
    },
    topology::{Policy, Route, SampledKey},
};

/// The table of a policy that changes nothing: one for all pools, as it takes more memory than the
/// rest of a small pool.
static BUILT_IN: LazyLock<Arc<Table>> =
    LazyLock::new(|| Arc::new(Table::new(&[], &[""; 0]).expect("the built-in table is sound")));

/// The command table that a policy asks for.
pub(crate) fn table(policy: &Policy) -> Arc<Table> {
    if policy.commands.is_empty() && policy.deny.is_empty() {
        return BUILT_IN.clone();
    }
    // The configuration was checked with the same table.
    Table::new(&policy.commands, &policy.deny).map(Arc::new).unwrap_or_else(|error| {
        tracing::error!(%error, "the pool's commands are ignored");
        BUILT_IN.clone()
    })
}

/// Bytes of a request that goes to all nodes, as each gets one of its own, and those that have a reason to be
/// larger.
const ALL_BYTES_MAX: usize = 1 << 20;
const MAY_BE_LARGE: [&str; 3] = ["script|load", "function|load", "function|restore"];

/// Sends a request on its way.
#[inline]
fn dispatch(
    session: &Rc<Session>,
    state: &mut State,
    bound: &Rc<Bound>,
    request: &Request<'_>,
) -> Dispatched {
    let command = match bound.table.lookup(request) {
        Ok(command) => command,
        Err(refusal) => {
            no_command(session, state, refusal);
            return Dispatched::Done;
        }
    };
    if bound.terms.guarded && !state.client.authenticated && !allowed_before_auth(command.rule) {
        refuse(session, state, Class::Local, Refused::new(Reason::Auth, local::NOAUTH.to_owned()));
        return Dispatched::Done;
    }
    let class = class(command);
    let patience_us = bound.terms.patience_us[class as usize];
    let due_us = session.pool.worker.clock.now_us().wrapping_add(patience_us);
    let to =
        Sending { session, bound, class, read_only: command.read_only, due_us, awaits: Awaits::default() };
    let asked = Asked { to, command };
    let is_large = request.frame.len() > BULK_LANE;
    if is_large && let Some(instead) = asked.is_held_up(state, request) {
        return instead;
    }
    let sent = match command.rule {
        Rule::Keyed if is_large => asked.keyed_alone(state, request),
        Rule::Keyed => asked.keyed(state, request),
        Rule::Split(kind) => asked.split(state, request, kind),
        Rule::All(kind) => asked.all(state, request, kind),
        Rule::Scan => asked.scan(state, request),
        Rule::Local(kind) => return asked.local(state, request, kind),
        Rule::Refuse(text) => Err(Refused::new(Reason::Denied, format!("ERR {text}"))),
    };
    match sent {
        Ok(()) => session.watch_until(state, due_us),
        Err(refused) if refused.waits && bound.may_wait() => return Dispatched::Wait,
        Err(refused) => match refused.may_miss.then(|| asked.nothing(state, request, 1)).flatten() {
            Some(nothing) => {
                session.pool.block().misses.add(1);
                state.window.ready(class, due_us, &nothing, Outcome::Ok);
            }
            None => refuse(session, state, class, refused),
        },
    }
    Dispatched::Done
}

#[cold]
fn no_command(session: &Session, state: &mut State, refusal: Refusal) {
    let reason = match refusal.kind {
        RefusalKind::Http => {
            session.pool.block().refuse(Reason::Protocol);
            state.ending = true;
            return;
        }
        RefusalKind::Denied | RefusalKind::NotOffered => Reason::Denied,
        _ => Reason::Command,
    };
    refuse(session, state, Class::Local, Refused::new(reason, refusal.text));
}

fn allowed_before_auth(rule: Rule) -> bool {
    matches!(rule, Rule::Local(kind) if local::allowed_before_auth(kind))
}

fn class(command: &Command) -> Class {
    match command.rule {
        Rule::All(_) | Rule::Scan => Class::All,
        Rule::Local(_) | Rule::Refuse(_) => Class::Local,
        Rule::Keyed | Rule::Split(_) => match command.class {
            commands::Class::Read => Class::Read,
            commands::Class::Write => Class::Write,
            commands::Class::Slow => Class::Slow,
            commands::Class::All | commands::Class::Local => Class::Local,
        },
    }
}

/// A command that has to be sent.
pub(super) struct Asked<'a> {
    pub(super) to: Sending<'a>,
    pub(super) command: &'a Command,
}

impl Asked<'_> {
    pub(super) fn keys(&self, request: &Request<'_>, keys: &mut Vec<u32>) -> Result<(), Refused> {
        keys.clear();
        self.command
            .keys(request, self.to.bound.topology.nodes.len(), keys)
            .map_err(|r| Refused::new(Reason::Command, r.text))
    }

    #[inline]
    fn keyed(&self, state: &mut State, request: &Request<'_>) -> Result<(), Refused> {
        let index = self.one_owner(request)?;
        match self.to.ttl_max(index) {
            None => self.to.forward(state, request.frame, index),
            Some(ttl_max) => self.forward_bounded(state, request, index, ttl_max),
        }
    }

    /// The node of a request that goes to one.
    #[inline(always)]
    pub(super) fn one_owner(&self, request: &Request<'_>) -> Result<usize, Refused> {
        match self.command.only_key() {
            Some(at) => self.to.owner(request.arg(at)),
            None => self.common_owner(request),
        }
    }

    /// Passes a write on whose keys live for a bounded time: in one command where that can be.
    #[cold]
    fn forward_bounded(
        &self,
        state: &mut State,
        request: &Request<'_>,
        index: usize,
        ttl_max: Duration,
    ) -> Result<(), Refused> {
        if let Some(frame) = bounded_set(request, ttl_max) {
            return self.to.forward(state, &frame, index);
        }
        self.to.forward(state, request.frame, index)?;
        self.limit_lives(state.client.version, index, (request, ttl_max), &[]);
        Ok(())
    }

    /// Bounds how long the keys live that a request just wrote to the node at this index.
    #[cold]
    pub(super) fn limit_lives(
        &self,
        version: Version,
        index: usize,
        (request, ttl_max): (&Request<'_>, Duration),
        privates: &[(usize, Rc<Pipeline>)],
    ) {
        let mut keys = Vec::new();
        if self.keys(request, &mut keys).is_ok() {
            let keys = keys.iter().map(|key| request.arg(*key as usize));
            keys.for_each(|key| self.to.limit_life(version, index, (key, ttl_max), privates));
        }
    }

    /// The same for the keys of a request that went out in parts.
    fn limit_parts(&self, version: Version, request: &Request<'_>, privates: &[(usize, Rc<Pipeline>)]) {
        let mut keys = Vec::new();
        if !self.to.bound.terms.bounds_life || self.to.read_only || self.keys(request, &mut keys).is_err() {
            return;
        }
        for key in keys.iter().map(|key| request.arg(*key as usize)) {
            let topology = &self.to.bound.topology;
            if let Route::Send(index) = topology.route(topology.ring.hash(key), key)
                && let Some(ttl_max) = self.to.ttl_max(index)
            {
                self.to.limit_life(version, index, (key, ttl_max), privates);
            }
        }
    }

    /// The one node that owns all keys of a request. One without keys goes to the owner of the
    /// empty key.
    fn common_owner(&self, request: &Request<'_>) -> Result<usize, Refused> {
        let keys = &mut *self.to.session.pool.worker.keys.borrow_mut();
        self.keys(request, keys)?;
        let Some((first, rest)) = keys.split_first() else { return self.to.owner(b"") };
        let index = self.to.owner(request.arg(*first as usize))?;
        for key in rest {
            let other = self.to.owner(request.arg(*key as usize))?;
            if other != index {
                return Err(self.crosses(index, other));
            }
        }
        Ok(index)
    }

    fn crosses(&self, one: usize, other: usize) -> Refused {
        let node = |at| &self.to.bound.topology.entry(at).node.name;
        let (name, a, b) = (&self.command.name, node(one), node(other));
        let hint = match self.to.bound.topology.ring.settings().hash_tag {
            Some((open, close)) => {
                let (open, close) = (open as char, close as char);
                format!("; give them a common hash tag, as in {open}user1{close}:a {open}user1{close}:b")
            }
            None => "; set ring.hash_tag to keep keys together".to_owned(),
        };
        Refused::new(Reason::CrossNode, format!("CROSSSLOT keys of {name} live on nodes {a} and {b}{hint}"))
    }

    /// The reply as if nothing were there, for a command that only reads.
    #[cold]
    fn nothing(&self, state: &State, request: &Request<'_>, keys: usize) -> Option<Vec<u8>> {
        miss::nothing(&self.command.name, request, keys, state.client.version)
    }

    pub(super) fn parts(&self, request: &Request<'_>, keys: &[u32], kind: Split) -> Result<Parts, Refused> {
        let mut parts = self.to.parts(keys.iter().map(|key| request.arg(*key as usize)))?;
        if request.frame.len() > BULK_LANE {
            large::part_lanes(request, kind, &mut parts);
        }
        Ok(parts)
    }

    fn split(&self, state: &mut State, request: &Request<'_>, kind: Split) -> Result<(), Refused> {
        let mut keys = std::mem::take(&mut *self.to.session.pool.worker.keys.borrow_mut());
        let planned = self.keys(request, &mut keys).and_then(|()| self.parts(request, &keys, kind));
        let count = keys.len();
        *self.to.session.pool.worker.keys.borrow_mut() = keys;
        let parts = planned?;
        let per_key = kind == Split::Values && self.to.bound.topology.policy.per_key_errors;
        let away = parts.iter().find(|part| self.to.is_away(part.index));
        let is_answered =
            |part: &PartPlan| per_key || part.may_miss && self.nothing(state, request, 1).is_some();
        let refused = away.filter(|part| !is_answered(part)).and_then(|part| {
            self.to.refuse_away(part.index).map(|refused| Refused { may_miss: part.may_miss, ..refused })
        });
        let sent = match (parts.as_slice(), refused) {
            (_, Some(refused)) => Err(refused),
            ([part], None) if away.is_none() && part.lane == Lane::Shared => {
                self.to.forward(state, request.frame, part.index).map(|()| Privates::new())
            }
            _ => {
                let write = |positions: &[u32], out: &mut Vec<u8>| frame(request, kind, positions, out);
                let version = state.client.version;
                let nothing = |p: &[u32]| miss::nothing(&self.command.name, request, p.len(), version);
                let several = Several { kind: JointKind::Split(kind), keys: count, parts, pinned: false };
                self.to.joint(state, several, write, nothing)
            }
        };
        let privates = sent?;
        state.drain |= !privates.is_empty();
        self.limit_parts(state.client.version, request, &privates);
        Ok(())
    }

    fn all(&self, state: &mut State, request: &Request<'_>, kind: Gather) -> Result<(), Refused> {
        let len = request.frame.len();
        if len > ALL_BYTES_MAX && !MAY_BE_LARGE.contains(&&*self.command.name) {
            let name = &self.command.name;
            let text =
                format!("ERR {name} goes to all nodes, so it takes at most {ALL_BYTES_MAX} bytes here");
            return Err(Refused::new(Reason::Command, text));
        }
        let serving = self.to.serving(kind.needs_all(), &self.command.name)?;
        let lane = if len > BULK_LANE { Lane::Private } else { Lane::Shared };
        let parts: Parts =
            serving.into_iter().map(|index| PartPlan { lane, ..PartPlan::of(index) }).collect();
        let write = |_: &[u32], out: &mut Vec<u8>| out.extend_from_slice(request.frame);
        // A copy for each node, one to make them from, and the one that is remembered.
        self.to.has_room(len.saturating_mul(parts.len() + 2))?;
        let kind = JointKind::Gather(kind);
        let several = Several { kind, keys: 0, parts, pinned: true };
        let privates = self.to.joint(state, several, write, |_| None)?;
        state.drain |= !privates.is_empty();
        if Scripts::concerns(request) {
            // Nothing of it is written before this turn is over.
            self.to.session.pool.handle.scripts.forget(request);
            if let Some(Reply::Joint(joint)) = state.window.last().map(|slot| &mut slot.reply) {
                joint.request = Some(request.frame.into());
            }
        }
        Ok(())
    }

    /// One page of a walk over all nodes, one after the other.
    fn scan(&self, state: &mut State, request: &Request<'_>) -> Result<(), Refused> {
        let refused = |text: String| Refused::new(Reason::Command, text);
        let cursor = Cursor::decode(request.arg(1)).map_err(|text| refused(text.to_owned()))?;
        let topology = &self.to.bound.topology;
        let index_of = |ordinal: u16| {
            let name = topology.ordinals.get(usize::from(ordinal))?;
            topology.nodes.iter().position(|e| e.node.name == *name)
        };
        let from = |first: u16| (first..topology.ordinals.len() as u16).find(|o| index_of(*o).is_some());
        let start = cursor.inner == 0 && cursor.ordinal == 0;
        let ordinal = if start { from(0) } else { Some(cursor.ordinal) };
        let index = ordinal.and_then(index_of).ok_or_else(|| refused(scan::unknown(cursor)))?;
        let ordinal = ordinal.unwrap_or(0);
        let entry = &topology.nodes[index];
        if !entry.placement.serves() {
            return Err(Refused::new(Reason::NoOwner, scan::away(&entry.node.name)));
        }
        let kind = JointKind::Scan { ordinal, next: from(ordinal + 1) };
        let write = |_: &[u32], out: &mut Vec<u8>| scan::request(request, cursor.inner, out);
        let parts = vec![PartPlan::of(index)];
        self.to.joint(state, Several { kind, keys: 0, parts, pinned: true }, write, |_| None).map(drop)
    }

    fn local(&self, state: &mut State, request: &Request<'_>, kind: Local) -> Dispatched {
        if matches!(kind, Local::Hello | Local::Reset) && !state.window.is_empty() {
            // A change of version changes connections: what is under way comes first.
            return Dispatched::DrainFirst;
        }
        // It may be said back, and stands there twice before it goes out.
        if let Err(refused) = self.to.has_room(request.frame.len() * 2) {
            refuse(self.to.session, state, Class::Local, refused);
            return Dispatched::Done;
        }
        let mut reply = Vec::new();
        let after = facts::answer(self.to.session, state, self.to.bound, request, kind, &mut reply);
        let outcome = if reply.first() == Some(&b'-') { Outcome::Error } else { Outcome::Ok };
        state.window.ready(Class::Local, self.to.due_us, &reply, outcome);
        if after == After::Close {
            state.ending = true;
        }
        Dispatched::Done
    }
}

/// A `SET` that says nothing of how long its key lives, with a bound; none of other commands.
pub(super) fn bounded_set(request: &Request<'_>, ttl_max: Duration) -> Option<Vec<u8>> {
    const SAYS: [&[u8]; 5] = [b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL"];
    let is_said = |arg: &[u8]| SAYS.iter().any(|word| arg.eq_ignore_ascii_case(word));
    if request.len() < 3
        || !request.arg(0).eq_ignore_ascii_case(b"SET")
        || request.args().skip(3).any(is_said)
    {
        return None;
    }
    let ms = ttl_max.as_millis().to_string();
    let args: Vec<&[u8]> = request.args().chain([&b"PX"[..], ms.as_bytes()]).collect();
    let mut frame = Vec::new();
    write::request(&mut frame, &args);
    Some(frame)
}

/// The request that one node gets: the same command with its keys only.
fn frame(request: &Request<'_>, kind: Split, positions: &[u32], out: &mut Vec<u8>) {
    let width = if kind == Split::Pairs { 2 } else { 1 };
    write::array(out, 1 + positions.len() * width);
    write::bulk(out, request.arg(0));
    for position in positions {
        let first = 1 + *position as usize * width;
        out.extend_from_slice(request.raw(first, first + width - 1));
    }
}

impl Dialect for RequestDecoder {
    #[inline(never)]
    fn cut(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Cut {
        let stranger = bound.terms.guarded && !state.client.authenticated;
        let limits = if stranger { &FrameLimits::UNAUTHENTICATED } else { &bound.terms.frame };
        let (request, len) = match self.decode(bytes, limits) {
            Ok(Step::Request(n)) => (Request::new(&bytes[..n], self.spans()), n),
            Ok(Step::Inline(n)) => (Request::new(self.inline(), self.spans()), n),
            Ok(Step::Skip(n)) => return Cut::Done(n),
            Ok(Step::Partial(needed)) => return Cut::Partial(needed),
            Err(error) => return Cut::Broken(session.error_line(&format!("ERR {error}"))),
        };
        match dispatch(session, state, bound, &request) {
            Dispatched::Done => Cut::Done(len),
            Dispatched::DrainFirst => Cut::DrainFirst,
            Dispatched::Wait => Cut::Wait,
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
        let known = |bytes: &[u8]| {
            let start = Start::of(bytes)?;
            Some((start, bound.table.plain(&start)?))
        };
        let Some((mut start, mut read_only)) = known(bytes) else { return 0 };
        let mut rest = bytes;
        for _ in state.window.len()..depth {
            if !start.begins(rest) {
                let Some(other) = known(rest) else { break };
                (start, read_only) = other;
            }
            let Some(Plain { key, frame, rest: behind }) = start.request(rest) else { break };
            if !batch.send(&mut state.window, key, read_only, Awaits::default(), frame) {
                break;
            }
            rest = behind;
        }
        let done = bytes.len() - rest.len();
        if done > 0 {
            batch.watch(state);
        }
        done
    }

    fn begin(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Begun {
        let request = Request::new(bytes, self.spans());
        let guarded = bound.topology.policy.client_auth.is_some();
        if self.spans().is_empty() || (guarded && !state.client.authenticated) {
            return Begun::No;
        }
        let Ok(command) = bound.table.lookup_head(&request, self.announced()) else { return Begun::No };
        let Some(key) = command.only_key().filter(|k| command.rule == Rule::Keyed && *k < request.len())
        else {
            return Begun::No;
        };
        if !state.window.is_empty() {
            return Begun::Later;
        }
        // Its deadline begins when it has arrived; a client that sends slowly hurts nobody. Until then each
        // piece moves it.
        let due_us = session.pool.worker.clock.now_us().wrapping_add(FAR_US);
        let to = Sending {
            session,
            bound,
            class: class(command),
            read_only: false,
            due_us,
            awaits: Awaits::default(),
        };
        let Ok(index) = to.owner(request.arg(key)) else { return Begun::No };
        if to.ttl_max(index).is_some() {
            // What bounds it goes behind the whole of it.
            return Begun::No;
        }
        let mut rest = Rest::Resp(Scanner::default());
        let pipeline = match to.stream(state, index, request.arg(key), bytes) {
            Ok(pipeline) => pipeline,
            Err(begun) => return begun,
        };
        self.reset();
        match rest.advance(bytes) {
            Ok(_) => Begun::Yes(pipeline, rest),
            Err(broke) => Begun::Broke(pipeline, broke),
        }
    }

    fn reset(&mut self) {
        RequestDecoder::reset(self);
    }
}

/// Calls `note` with each key of a request; false when it can't be read, or was not kept whole.
pub(super) fn each_key(table: &Table, bytes: &[u8], note: &mut dyn FnMut(&[u8])) -> bool {
    let mut decoder = RequestDecoder::default();
    if !matches!(decoder.decode(bytes, &FrameLimits::NONE), Ok(Step::Request(_))) {
        return false;
    }
    let request = Request::new(bytes, decoder.spans());
    let Ok(command) = table.lookup(&request) else { return false };
    let mut keys = Vec::new();
    // Where its keys are does not depend on how many nodes there are.
    let is_known = command.keys(&request, 1, &mut keys).is_ok();
    keys.iter().for_each(|key| note(request.arg(*key as usize)));
    is_known
}

/// One of the keys of a request.
pub(super) fn sampled_key(
    bound: &Bound,
    decoder: &mut RequestDecoder,
    keys: &mut Vec<u32>,
    bytes: &[u8],
    pick: usize,
) -> Option<SampledKey> {
    decoder.reset();
    if !matches!(decoder.decode(bytes, &FrameLimits::NONE), Ok(Step::Request(_))) {
        return None;
    }
    let request = Request::new(bytes, decoder.spans());
    let command = bound.table.lookup(&request).ok()?;
    if let Some(at) = command.only_key() {
        return (at < request.len()).then(|| SampledKey::of(request.arg(at)));
    }
    keys.clear();
    // Where its keys are does not depend on how many nodes there are.
    command.keys(&request, 1, keys).ok()?;
    let at = keys.get(pick % keys.len().max(1))?;
    Some(SampledKey::of(request.arg(*at as usize)))
}

/// Sends a request once more, to whom the topology points at now.
pub(super) fn reroute(
    bound: &Rc<Bound>,
    session: &Rc<Session>,
    expect: &Expect,
    bytes: &[u8],
) -> Result<(), Refused> {
    let mut decoder = RequestDecoder::default();
    decoder
        .decode(bytes, &FrameLimits::NONE)
        .map_err(|e| Refused::new(Reason::Protocol, format!("ERR {e}")))?;
    let request = Request::new(bytes, decoder.spans());
    let command = bound.table.lookup(&request).map_err(|r| Refused::new(Reason::Command, r.text))?;
    let to = Sending {
        session,
        bound,
        class: expect.class,
        read_only: expect.read_only,
        due_us: 0,
        awaits: expect.awaits,
    };
    let asked = Asked { to, command };
    let version = session.state.borrow().client.version;
    let nothing = |refused: Refused, keys: usize| match refused
        .may_miss
        .then(|| miss::nothing(&command.name, &request, keys, version))
        .flatten()
    {
        Some(nothing) => {
            session.pool.block().misses.add(1);
            session.deliver(expect, &nothing, Some(Outcome::Ok), 0);
            Ok(())
        }
        None => Err(refused),
    };
    if let Rule::Split(kind) = command.rule {
        let mut keys = Vec::new();
        asked.keys(&request, &mut keys)?;
        let parts = asked.parts(&request, &keys, kind)?;
        let write = |positions: &[u32], out: &mut Vec<u8>| frame(&request, kind, positions, out);
        let (kind, is_one) = (JointKind::Split(kind), parts.len() == 1);
        let again = Again { kind, keys: keys.len(), parts, frame: bytes, write: &write };
        let sent = to.redirect(expect, again);
        return match sent {
            Ok(privates) => {
                asked.limit_parts(version, &request, &privates);
                Ok(())
            }
            Err(refused) if is_one => nothing(refused, keys.len()),
            Err(refused) => Err(refused),
        };
    }
    match asked.one_owner(&request) {
        Ok(index) => {
            let ttl_max = to.ttl_max(index);
            if let Some(frame) = ttl_max.and_then(|ttl_max| bounded_set(&request, ttl_max)) {
                return append_again(bound, index, version, expect.clone(), &frame).map(drop);
            }
            let privates = append_again(bound, index, version, expect.clone(), bytes)?;
            if let Some(ttl_max) = ttl_max {
                asked.limit_lives(version, index, (&request, ttl_max), &privates);
            }
            Ok(())
        }
        Err(refused) => nothing(refused, 1),
    }
}

//! Plan -> nodes: one, split, or all; or a refusal. The only place that decides where a request
//! goes.

use std::{
    rc::Rc,
    sync::{Arc, LazyLock},
};

use super::{
    facts,
    input::Begun,
    link::Link,
    pipeline::{Expect, Full},
    pool::Bound,
    scripts::Scripts,
    session::{Session, State},
    window::{Joint, JointKind, Part, Reply, Slot},
};
use crate::{
    metrics::{Class, Outcome, Reason},
    protocol::resp::{
        commands::{self, Command},
        frame::{FrameLimits, Request, RequestDecoder},
        local::{self, After},
        rule::{Gather, Local, Rule, Split},
        scan::{self, Cursor},
        table::{Refusal, RefusalKind, Table},
        write,
    },
    topology::{Placement, Policy, Route},
};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// It is on its way, or answered.
    Done,
    /// It may only be dispatched when all before it is answered.
    DrainFirst,
}

/// The buffer in which parts are written is kept up to this size.
const FRAME_KEEP_BYTES: usize = 256 * 1024;

/// A refusal: why, and what the client is told.
#[derive(Debug)]
struct Refused(Reason, String);

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

/// What the parts of one request have in common.
struct Sending<'a> {
    session: &'a Rc<Session>,
    bound: &'a Rc<Bound>,
    command: &'a Command,
    class: Class,
    due_us: u32,
}

/// Sends a request on its way.
#[inline]
pub(crate) fn dispatch(
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
        refuse(session, state, Refused(Reason::Auth, local::NOAUTH.to_owned()));
        return Dispatched::Done;
    }
    let class = class(command);
    let patience_us = bound.terms.patience_us[class as usize];
    let due_us = session.pool.worker.clock.now_us().wrapping_add(patience_us);
    let sending = Sending { session, bound, command, class, due_us };
    let sent = match command.rule {
        Rule::Keyed => sending.keyed(state, request),
        Rule::Split(kind) => sending.split(state, request, kind),
        Rule::All(kind) => sending.all(state, request, kind),
        Rule::Scan => sending.scan(state, request),
        Rule::Local(kind) => return sending.local(state, request, kind),
        Rule::Refuse(text) => Err(Refused(Reason::Denied, format!("ERR {text}"))),
    };
    match sent {
        Ok(()) => session.watch_until(state, due_us),
        Err(refused) => refuse(session, state, refused),
    }
    Dispatched::Done
}

#[cold]
fn no_command(session: &Session, state: &mut State, refusal: Refusal) {
    let reason = match refusal.kind {
        RefusalKind::Http => {
            session.pool.block().refusals[Reason::Protocol as usize].add(1);
            state.ending = true;
            return;
        }
        RefusalKind::Denied | RefusalKind::NotOffered => Reason::Denied,
        _ => Reason::Command,
    };
    refuse(session, state, Refused(reason, refusal.text));
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

#[cold]
fn refuse(session: &Session, state: &mut State, Refused(reason, text): Refused) {
    let mut line = Vec::new();
    write::error(&mut line, &text);
    session.pool.block().refusals[reason as usize].add(1);
    state.window.ready(Class::Local, 0, &line, Outcome::Refused);
}

impl Sending<'_> {
    fn node(&self, index: usize) -> String {
        let node = &self.bound.topology.nodes[index].node;
        format!("node {} ({})", node.name, node.address)
    }

    /// The node that serves a key.
    #[inline]
    fn owner(&self, key: &[u8]) -> Result<usize, Refused> {
        match self.bound.topology.route(self.bound.topology.ring.hash(key)) {
            Route::Send(index) => Ok(index),
            Route::Fail(index) | Route::Miss(index) => Err(self.away(index).unwrap_or_else(|| self.nobody())),
            Route::NoOwner => Err(self.nobody()),
        }
    }

    fn nobody(&self) -> Refused {
        let text = format!("ERR pool {} has no node that serves", self.bound.topology.pool);
        Refused(Reason::NoOwner, text)
    }

    fn keys(&self, request: &Request<'_>, keys: &mut Vec<u32>) -> Result<(), Refused> {
        keys.clear();
        self.command
            .keys(request, self.bound.topology.nodes.len(), keys)
            .map_err(|r| Refused(Reason::Command, r.text))
    }

    #[inline]
    fn keyed(&self, state: &mut State, request: &Request<'_>) -> Result<(), Refused> {
        let index = match self.command.only_key() {
            Some(at) => self.owner(request.arg(at))?,
            None => self.common_owner(request)?,
        };
        self.forward(state, request.frame, index)
    }

    /// The one node that owns all keys of a request. One without keys goes to the owner of the
    /// empty key.
    fn common_owner(&self, request: &Request<'_>) -> Result<usize, Refused> {
        let keys = &mut *self.session.pool.worker.keys.borrow_mut();
        self.keys(request, keys)?;
        let Some((first, rest)) = keys.split_first() else { return self.owner(b"") };
        let index = self.owner(request.arg(*first as usize))?;
        for key in rest {
            let other = self.owner(request.arg(*key as usize))?;
            if other != index {
                return Err(self.crosses(index, other));
            }
        }
        Ok(index)
    }

    fn crosses(&self, one: usize, other: usize) -> Refused {
        let nodes = &self.bound.topology.nodes;
        let (name, a, b) = (&self.command.name, &nodes[one].node.name, &nodes[other].node.name);
        let hint = match self.bound.topology.ring.settings().hash_tag {
            Some((open, close)) => {
                let (open, close) = (open as char, close as char);
                format!("; give them a common hash tag, as in {open}user1{close}:a {open}user1{close}:b")
            }
            None => "; set ring.hash_tag to keep keys together".to_owned(),
        };
        Refused(Reason::CrossNode, format!("CROSSSLOT keys of {name} live on nodes {a} and {b}{hint}"))
    }

    fn expect(&self, seq: u64, part: u32, pinned: bool) -> Expect {
        Expect {
            session: self.session.clone(),
            seq,
            part,
            sent_us: self.session.pool.worker.clock.now_us(),
            class: self.class,
            read_only: self.command.read_only,
            pinned,
            tries: self.bound.terms.tries,
        }
    }

    #[inline(always)]
    fn append(&self, state: &State, index: usize, expect: Expect, frame: &[u8]) -> Result<(), Refused> {
        append(self.bound, index, state.client.version, expect, frame)
    }

    /// Passes a request on as it is.
    #[inline(always)]
    fn forward(&self, state: &mut State, frame: &[u8], index: usize) -> Result<(), Refused> {
        let reply = Reply::Waiting;
        let seq = state.window.push(Slot { class: self.class, due_us: self.due_us, reply });
        self.append(state, index, self.expect(seq, 0, false), frame).inspect_err(|_| state.window.unpush())
    }

    fn split(&self, state: &mut State, request: &Request<'_>, kind: Split) -> Result<(), Refused> {
        let mut keys = std::mem::take(&mut *self.session.pool.worker.keys.borrow_mut());
        let planned = self.keys(request, &mut keys).and_then(|()| self.parts(request, &keys));
        let count = keys.len();
        *self.session.pool.worker.keys.borrow_mut() = keys;
        let parts = planned?;
        let per_key = kind == Split::Values && self.bound.topology.policy.per_key_errors;
        let away = parts.iter().find_map(|(index, _)| self.away(*index));
        match (parts.as_slice(), away) {
            (_, Some(refused)) if !per_key => Err(refused),
            ([(index, _)], None) => self.forward(state, request.frame, *index),
            _ => {
                let write = |positions: &[u32], out: &mut Vec<u8>| frame(request, kind, positions, out);
                self.joint(state, JointKind::Split(kind), count, parts, false, write)
            }
        }
    }

    /// Where a key is, though it may be refused there: its owner is away and its keys do not move.
    fn place(&self, key: &[u8]) -> Result<usize, Refused> {
        match self.bound.topology.route(self.bound.topology.ring.hash(key)) {
            Route::Send(index) | Route::Fail(index) | Route::Miss(index) => Ok(index),
            Route::NoOwner => self.owner(key),
        }
    }

    /// The refusal of a node that is away.
    fn away(&self, index: usize) -> Option<Refused> {
        let is_away = self.bound.topology.nodes[index].placement == Placement::Away;
        let text = || format!("ERR {}: ejected, and this pool's keys do not move", self.node(index));
        is_away.then(|| Refused(Reason::NoOwner, text()))
    }

    /// The keys of a request by the node where they are, each with its place among the keys.
    fn parts(&self, request: &Request<'_>, keys: &[u32]) -> Result<Vec<(usize, Vec<u32>)>, Refused> {
        let mut parts: Vec<(usize, Vec<u32>)> = Vec::new();
        for (position, key) in keys.iter().enumerate() {
            let index = self.place(request.arg(*key as usize))?;
            match parts.iter_mut().find(|p| p.0 == index) {
                Some(part) => part.1.push(position as u32),
                None => parts.push((index, vec![position as u32])),
            }
        }
        Ok(parts)
    }

    /// Sends several parts and opens a slot for them. A part that can't be sent fails by itself.
    /// `write` writes the request of a part, by the positions of its keys.
    fn joint(
        &self,
        state: &mut State,
        kind: JointKind,
        keys: usize,
        parts: Vec<(usize, Vec<u32>)>,
        pinned: bool,
        write: impl Fn(&[u32], &mut Vec<u8>),
    ) -> Result<(), Refused> {
        let seq = state.window.push(Slot { class: self.class, due_us: self.due_us, reply: Reply::Waiting });
        let frame = &mut *self.session.pool.worker.frame.borrow_mut();
        let mut joint = Joint {
            kind,
            keys,
            parts: Vec::with_capacity(parts.len()),
            bound: self.bound.clone(),
            lesson: None,
        };
        for (part, (index, positions)) in parts.into_iter().enumerate() {
            frame.clear();
            write(&positions, frame);
            let sent = match self.away(index).filter(|_| !pinned) {
                Some(refused) => Err(refused),
                None => self.append(state, index, self.expect(seq, part as u32, pinned), frame),
            };
            let mut part = Part { positions, ..Part::new(self.bound, index) };
            if let Err(Refused(reason, text)) = sent {
                self.session.pool.block().refusals[reason as usize].add(1);
                write::error(&mut part.reply, &text);
                part.done = Some(Outcome::Refused);
            }
            joint.parts.push(part);
        }
        if frame.capacity() > FRAME_KEEP_BYTES {
            *frame = Vec::new();
        }
        state.window.join(seq, joint);
        Ok(())
    }

    fn all(&self, state: &mut State, request: &Request<'_>, kind: Gather) -> Result<(), Refused> {
        let serving = self.serving(kind.needs_all())?;
        let parts = serving.into_iter().map(|index| (index, Vec::new())).collect();
        let write = |_: &[u32], out: &mut Vec<u8>| out.extend_from_slice(request.frame);
        self.joint(state, JointKind::Gather(kind), 0, parts, true, write)?;
        if Scripts::concerns(request)
            && let Some(Reply::Joint(joint)) = state.window.last().map(|slot| &mut slot.reply)
        {
            joint.lesson = Some(request.frame.into());
        }
        Ok(())
    }

    /// The nodes that serve; refused when all are needed and one is away.
    fn serving(&self, needs_all: bool) -> Result<Vec<usize>, Refused> {
        let nodes = &self.bound.topology.nodes;
        let (serving, away): (Vec<usize>, Vec<usize>) =
            (0..nodes.len()).partition(|i| nodes[*i].placement == Placement::Owns);
        match away.first() {
            Some(index) if needs_all => {
                let text =
                    format!("ERR {}: ejected, and {} needs all nodes", self.node(*index), self.command.name);
                Err(Refused(Reason::NoOwner, text))
            }
            _ if serving.is_empty() => Err(self.nobody()),
            _ => Ok(serving),
        }
    }

    /// One page of a walk over all nodes, one after the other.
    fn scan(&self, state: &mut State, request: &Request<'_>) -> Result<(), Refused> {
        let refused = |text: String| Refused(Reason::Command, text);
        let cursor = Cursor::decode(request.arg(1)).map_err(|text| refused(text.to_owned()))?;
        let topology = &self.bound.topology;
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
        if entry.placement != Placement::Owns {
            return Err(Refused(Reason::NoOwner, scan::away(&entry.node.name)));
        }
        let kind = JointKind::Scan { ordinal, next: from(ordinal + 1) };
        let write = |_: &[u32], out: &mut Vec<u8>| scan::request(request, cursor.inner, out);
        self.joint(state, kind, 0, vec![(index, Vec::new())], true, write)
    }

    fn local(&self, state: &mut State, request: &Request<'_>, kind: Local) -> Dispatched {
        if matches!(kind, Local::Hello | Local::Reset) && !state.window.is_empty() {
            // A change of version changes connections: what is under way comes first.
            return Dispatched::DrainFirst;
        }
        let mut reply = Vec::new();
        let after = facts::answer(self.session, state, self.bound, request, kind, &mut reply);
        let outcome = if reply.first() == Some(&b'-') { Outcome::Error } else { Outcome::Ok };
        state.window.ready(Class::Local, self.due_us, &reply, outcome);
        if after == After::Close {
            state.ending = true;
        }
        Dispatched::Done
    }
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

#[inline(always)]
fn append(
    bound: &Rc<Bound>,
    index: usize,
    version: crate::protocol::resp::Version,
    expect: Expect,
    frame: &[u8],
) -> Result<(), Refused> {
    let link: &Rc<Link> = &bound.links[index];
    let session = &expect.session;
    let pipeline = link.pipeline(&session.pool.worker, &bound.topology.policy, version, session.id);
    pipeline.append(expect, frame, link).map_err(|full| not_taken(link, full))
}

#[cold]
fn not_taken(link: &Link, full: Full) -> Refused {
    let (reason, why) = match full {
        Full::Overload => (Reason::Overload, "too many requests wait for it"),
        Full::Unreachable => (Reason::NoOwner, "no connection"),
    };
    Refused(reason, format!("{}: {why}", link.describe()))
}

/// Begins to stream a large request whose owner is known already.
pub(crate) fn begin_bulk(
    session: &Rc<Session>,
    state: &mut State,
    bound: &Rc<Bound>,
    decoder: &RequestDecoder,
    bytes: &[u8],
) -> Begun {
    let request = Request::new(bytes, decoder.spans());
    let policy = &bound.topology.policy;
    if decoder.spans().is_empty() || (policy.client_auth.is_some() && !state.client.authenticated) {
        return Begun::No;
    }
    let Ok(command) = bound.table.lookup_head(&request, decoder.announced()) else { return Begun::No };
    let Some(key) = command.only_key().filter(|k| command.rule == Rule::Keyed && *k < request.len()) else {
        return Begun::No;
    };
    if !state.window.is_empty() {
        state.drain = true;
        return Begun::Later;
    }
    // Its deadline begins when it has arrived; a client that sends slowly hurts nobody.
    let due_us = session.pool.worker.clock.now_us().wrapping_add(1 << 30);
    let sending = Sending { session, bound, command, class: class(command), due_us };
    let Ok(index) = sending.owner(request.arg(key)) else { return Begun::No };
    let link = &bound.links[index];
    let pipeline = link.private(&session.pool.worker, policy, state.client.version);
    let reply = Reply::Waiting;
    let seq = state.window.push(Slot { class: sending.class, due_us, reply });
    let expect = Expect { tries: 0, read_only: false, ..sending.expect(seq, 0, true) };
    pipeline.open(session.clone());
    if pipeline.append(expect, bytes, link).is_err() {
        state.window.unpush();
        return Begun::No;
    }
    state.drain = true;
    Begun::Yes(pipeline)
}

/// Sends a request that waited for a node which is no owner any more to the owner that the
/// topology points at now.
pub(crate) fn send_again(bound: &Rc<Bound>, expect: Expect, bytes: &[u8]) {
    let session = expect.session.clone();
    if !session.awaits(&expect) {
        return;
    }
    if let Err(Refused(reason, text)) = reroute(bound, &session, &expect, bytes) {
        session.fail(&expect, &text, reason, Outcome::Refused);
    }
}

fn reroute(bound: &Rc<Bound>, session: &Rc<Session>, expect: &Expect, bytes: &[u8]) -> Result<(), Refused> {
    let lost = || Refused(Reason::NoOwner, "ERR the node that was asked is ejected".to_owned());
    let mut decoder = RequestDecoder::default();
    let limits = FrameLimits { bulk_bytes: usize::MAX >> 1, request_bytes: usize::MAX, args_max: usize::MAX };
    if expect.pinned || decoder.decode(bytes, &limits).is_err() {
        return Err(lost());
    }
    let request = Request::new(bytes, decoder.spans());
    let command = bound.table.lookup(&request).map_err(|r| Refused(Reason::Command, r.text))?;
    let sending = Sending { session, bound, command, class: expect.class, due_us: 0 };
    let version = session.state.borrow().client.version;
    if let Rule::Split(kind) = command.rule {
        let mut keys = Vec::new();
        sending.keys(&request, &mut keys)?;
        let parts = sending.parts(&request, &keys)?;
        if let Some(refused) = parts.iter().find_map(|(index, _)| sending.away(*index)) {
            return Err(refused);
        }
        if let [(index, _)] = parts.as_slice() {
            return append(bound, *index, version, expect.clone(), bytes);
        }
        let frames: Vec<_> = parts
            .iter()
            .map(|(_, positions)| {
                let mut bytes = Vec::new();
                frame(&request, kind, positions, &mut bytes);
                bytes
            })
            .collect();
        let joined =
            session.state.borrow_mut().window.divide(expect.seq, expect.part, kind, bound, keys.len(), parts);
        for ((part, index), frame) in joined.into_iter().zip(frames) {
            let expect = Expect { part, ..expect.clone() };
            if let Err(Refused(reason, text)) = append(bound, index, version, expect.clone(), &frame) {
                session.fail(&expect, &text, reason, Outcome::Refused);
            }
        }
        return Ok(());
    }
    let index = match command.only_key() {
        Some(at) => sending.owner(request.arg(at))?,
        None => sending.common_owner(&request)?,
    };
    append(bound, index, version, expect.clone(), bytes)
}

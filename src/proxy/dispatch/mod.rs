//! Plan -> nodes: one, split, or all; or a refusal. The only place that decides where a request
//! goes. What a request means is the business of its protocol's file; where it goes is decided here,
//! the same for each.

mod again;
mod large;
mod memcache;
mod plain;
mod resp;
mod retrieve;

use std::{rc::Rc, time::Duration};

pub(crate) use resp::table;

use super::{
    dialect::{Begun, Decoder, is_silent},
    joint::{Joint, JointKind, Part},
    line::Own,
    link::Link,
    pipeline::{BYTES_MIN, Content, Expect, Full, Pipeline},
    pool::Bound,
    session::{Session, State},
    window::{Reply, Slot},
    worker::Worker,
};
use crate::{
    metrics::{Class, Outcome, Reason},
    protocol::{
        Protocol,
        memcache::Awaits,
        resp::{Version, write},
    },
    topology::{NodeId, OnReturn, Route, SampledKey, Written},
};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dispatched {
    /// It is on its way, or answered.
    Done,
    /// It may only be dispatched when all before it is answered.
    DrainFirst,
    /// It may only be dispatched under another topology, which is a matter of an instant.
    Wait,
}

/// Nodes of a request that is split, and keys for each, for which there is room at first.
const PARTS_GUESS: usize = 8;
const KEYS_GUESS: usize = 8;

/// The buffer in which parts are written is kept up to this size.
const FRAME_KEEP_BYTES: usize = 256 * 1024;

/// Gives the worker's buffer for frames back when it has grown.
fn keep_small(frame: &mut Vec<u8>) {
    if frame.capacity() > FRAME_KEEP_BYTES {
        *frame = Vec::new();
    }
}

/// The number of a request whose reply nobody waits for.
pub(crate) const NOBODY: u64 = u64::MAX;

/// A refusal: why, and what the client is told.
#[derive(Debug)]
struct Refused {
    reason: Reason,
    text: String,
    /// The key's owner is away, and what reads of its keys find may be nothing.
    may_miss: bool,
    /// It is a matter of an instant: asked again, it may be granted.
    waits: bool,
}

impl Refused {
    fn new(reason: Reason, text: String) -> Refused {
        Refused { reason, text, may_miss: false, waits: false }
    }
}

#[cold]
fn refuse(session: &Session, state: &mut State, class: Class, refused: Refused) {
    let line = session.error_line(&refused.text);
    session.pool.block().refuse(refused.reason);
    state.window.ready(class, 0, &line, Outcome::Refused);
}

/// The keys of a part, by their places among the request's keys, its node, and whether reads of them find
/// nothing there.
struct PartPlan {
    index: usize,
    positions: Vec<u32>,
    may_miss: bool,
    lane: Lane,
}

/// What a part goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lane {
    /// The connection that all sessions share.
    #[default]
    Shared,
    /// One that its request has to itself, with other parts for the same node.
    Private,
}

impl PartPlan {
    /// What goes to a node without any key.
    fn of(index: usize) -> PartPlan {
        PartPlan { index, positions: Vec::new(), may_miss: false, lane: Lane::Shared }
    }
}

type Parts = Vec<PartPlan>;

/// Connections that a request has to itself, each with the index of its node.
type Privates = Vec<(usize, Rc<Pipeline>)>;

/// A request that goes out in parts.
struct Several {
    kind: JointKind,
    /// Keys of the whole request.
    keys: usize,
    parts: Parts,
    /// Meant for these nodes, whoever owns what.
    pinned: bool,
}

/// What the parts of one request have in common.
#[derive(Clone, Copy)]
struct Sending<'a> {
    session: &'a Rc<Session>,
    bound: &'a Rc<Bound>,
    class: Class,
    /// Safe to repeat.
    read_only: bool,
    due_us: u32,
    /// What the reply may be.
    awaits: Awaits,
}

impl Sending<'_> {
    fn node(&self, index: usize) -> String {
        let node = &self.bound.topology.entry(index).node;
        format!("node {} ({})", node.name, node.address)
    }

    /// The node that serves a key.
    #[inline(always)]
    fn owner(&self, key: &[u8]) -> Result<usize, Refused> {
        let topology = &*self.bound.topology;
        let hash = topology.ring.hash(key);
        match topology.route(hash, key) {
            Route::Send(index) => {
                if !self.bound.terms.is_whole {
                    self.note_substitute(hash, key, index);
                }
                Ok(index)
            }
            astray => Err(self.no_owner(astray)),
        }
    }

    /// Some node does not serve: this one may do it in its place, and then it may have an old value of a
    /// key that is written here.
    #[cold]
    fn note_substitute(&self, hash: u64, key: &[u8], index: usize) {
        let first = self.bound.topology.ring.first(hash);
        if first == index {
            return;
        }
        self.bound.links[first].block().substituted.add(1);
        if self.bound.terms.notes_writes && !self.read_only {
            self.bound.note_write(&self.session.pool.handle, hash, key, index);
        }
    }

    #[cold]
    fn no_owner(&self, route: Route) -> Refused {
        match route {
            Route::Send(index) | Route::Fail(index) => self.refuse_away(index),
            Route::Miss(index) => {
                self.refuse_away(index).map(|refused| Refused { may_miss: true, ..refused })
            }
            Route::Wait(index) => Some(self.cleaned(index)),
            Route::NoOwner => None,
        }
        .unwrap_or_else(|| self.nobody())
    }

    /// The refusal of a key that is not yet clean where it belongs.
    #[cold]
    fn cleaned(&self, index: usize) -> Refused {
        let text = format!("ERR {}: it is back, and this key is not clean there yet", self.node(index));
        Refused { reason: Reason::NoOwner, text, may_miss: false, waits: true }
    }

    /// Where a key is, though it may be refused there: its owner is away and its keys do not move. With
    /// it whether reads of it find nothing.
    #[inline(always)]
    fn place(&self, key: &[u8]) -> Result<(usize, bool), Refused> {
        let topology = &*self.bound.topology;
        let hash = topology.ring.hash(key);
        match topology.route(hash, key) {
            Route::Send(index) => {
                if !self.bound.terms.is_whole {
                    self.note_substitute(hash, key, index);
                }
                Ok((index, false))
            }
            Route::Fail(index) => Ok((index, false)),
            Route::Miss(index) => Ok((index, true)),
            Route::Wait(index) => Err(self.cleaned(index)),
            Route::NoOwner => Err(self.nobody()),
        }
    }

    fn nobody(&self) -> Refused {
        let text = format!("ERR pool {} has no node that serves", self.bound.topology.pool);
        Refused::new(Reason::NoOwner, text)
    }

    /// The refusal of a node that is away, counted; `None` when it serves.
    #[inline(always)]
    fn refuse_away(&self, index: usize) -> Option<Refused> {
        let why = self.bound.topology.refusal(index)?;
        Some(self.ejected(index, why))
    }

    /// Whether a node is away; nothing is refused for it.
    fn is_away(&self, index: usize) -> bool {
        self.bound.topology.refusal(index).is_some()
    }

    #[cold]
    fn ejected(&self, index: usize, why: &str) -> Refused {
        self.bound.links[index].block().unserved.add(1);
        let text = format!("ERR {}: {why}", self.node(index));
        Refused::new(Reason::NoOwner, text)
    }

    /// The keys of a request by the node where they are, each with its place among the keys.
    fn parts<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<Parts, Refused> {
        let mut parts: Parts = Vec::with_capacity(PARTS_GUESS.min(self.bound.topology.nodes.len()));
        for (position, key) in keys.enumerate() {
            let (index, may_miss) = self.place(key)?;
            let part =
                parts.iter().position(|p| p.index == index && p.may_miss == may_miss).unwrap_or_else(|| {
                    let positions = Vec::with_capacity(KEYS_GUESS);
                    parts.push(PartPlan { index, positions, may_miss, lane: Lane::Shared });
                    parts.len() - 1
                });
            parts[part].positions.push(position as u32);
        }
        Ok(parts)
    }

    fn expect(&self, seq: u64, part: u32, pinned: bool) -> Expect {
        Expect {
            session: self.session.clone(),
            seq,
            part,
            sent_us: self.session.pool.worker.clock.now_us(),
            class: self.class,
            read_only: self.read_only,
            pinned,
            awaits: self.awaits,
            tries: self.bound.terms.tries,
            broken_off: 0,
        }
    }

    #[inline(always)]
    fn append(&self, state: &State, index: usize, expect: Expect, frame: &[u8]) -> Result<(), Refused> {
        append(self.bound, index, state.client.version, expect, frame)
    }

    /// The same over a connection that the request has to itself: the one for this node among `privates`.
    #[cold]
    fn append_private(
        &self,
        state: &State,
        index: usize,
        expect: Expect,
        frame: &[u8],
        privates: &mut Privates,
    ) -> Result<(), Refused> {
        let link = &self.bound.links[index];
        let at = privates.iter().position(|(of, _)| *of == index).unwrap_or_else(|| {
            let pool = &self.session.pool;
            // Only memcached has requests that are large for what they ask; Redis's are for what they bring.
            let own = if pool.handle.protocol == Protocol::Memcached { Own::Retrieval } else { Own::Upload };
            privates.push((index, link.private(&pool.worker, state.client.version, own)));
            privates.len() - 1
        });
        privates[at].1.append(expect, frame, link).map_err(|full| not_taken(link, full))
    }

    /// Whether a request may have a connection of its own to each of these nodes now; else its session is
    /// told when to ask again, and refused in the end.
    fn has_turn(&self, state: &mut State, nodes: &[usize], own: Own) -> Result<bool, Refused> {
        let links = nodes.iter().map(|index| &self.bound.links[*index]);
        if let Some(full) = links.clone().find(|link| !link.is_turn(self.session, own)) {
            if self.session.may_stand(state) {
                full.line(own).stand(self.session);
                return Ok(false);
            }
            full.line(own).leave(self.session);
            state.turn_since_us = None;
            return Err(not_taken(full, Full::Crowded));
        }
        links.for_each(|link| link.line(own).leave(self.session));
        state.turn_since_us = None;
        Ok(true)
    }

    #[inline]
    fn slot(&self) -> Slot {
        let silent = is_silent(self.awaits);
        let may_write = !self.read_only;
        Slot { class: self.class, may_write, due_us: self.due_us, silent, reply: Reply::Waiting }
    }

    /// Passes a request on as it is.
    #[inline(always)]
    fn forward(&self, state: &mut State, frame: &[u8], index: usize) -> Result<(), Refused> {
        let seq = state.window.push(self.slot());
        self.append(state, index, self.expect(seq, 0, false), frame).inspect_err(|_| state.window.unpush())
    }

    /// Whether there is room for so many bytes beside those of the request, if they are worth asking for.
    fn has_room(&self, bytes: usize) -> Result<(), Refused> {
        if bytes > BYTES_MIN && self.session.pool.worker.memory.would_pass(bytes) {
            return Err(Refused::new(Reason::Overload, format!("ERR {}", Full::USED_UP)));
        }
        Ok(())
    }

    /// Sends several parts and opens a slot for them. A part that can't be sent fails by itself.
    /// `write` writes the request of a part, by the positions of its keys; `miss` gives its reply when
    /// they find nothing because their node is away. Gives the connections that parts have to themselves.
    fn joint(
        &self,
        state: &mut State,
        Several { kind, keys, parts, pinned }: Several,
        write: impl Fn(&[u32], &mut Vec<u8>),
        miss: impl Fn(&[u32]) -> Option<Vec<u8>>,
    ) -> Result<Privates, Refused> {
        // Each part is answered, and the client may want to hear nothing all the same.
        let silent = matches!(kind, JointKind::Everywhere(_, true));
        let seq = state.window.push(Slot { silent, ..self.slot() });
        let frame = &mut *self.session.pool.worker.frame.borrow_mut();
        let mut joint = Joint {
            kind,
            keys,
            parts: Vec::with_capacity(parts.len()),
            bound: self.bound.clone(),
            request: None,
            done: Default::default(),
        };
        let mut privates = Privates::new();
        for (part, PartPlan { index, positions, may_miss, lane }) in parts.into_iter().enumerate() {
            frame.clear();
            write(&positions, frame);
            let sent = match self.refuse_away(index) {
                Some(refused) => Err(refused),
                None => {
                    let expect = self.expect(seq, part as u32, pinned);
                    match lane {
                        Lane::Shared => self.append(state, index, expect, frame),
                        Lane::Private => self.append_private(state, index, expect, frame, &mut privates),
                    }
                }
            };
            let mut part = Part { positions, ..Part::new(self.bound, index) };
            if let Err(refused) = sent {
                if let Some(nothing) = may_miss.then(|| miss(&part.positions)).flatten() {
                    self.session.pool.block().misses.add(1);
                    (part.reply, part.done) = (nothing, Some(Outcome::Ok));
                    joint.parts.push(part);
                    continue;
                }
                self.session.pool.block().refuse(refused.reason);
                part.reply = self.session.error_line(&refused.text);
                part.done = Some(Outcome::Refused);
            }
            joint.parts.push(part);
        }
        keep_small(frame);
        state.window.join(seq, joint);
        Ok(privates)
    }

    /// The nodes that serve; refused when all are needed, for this command, and one is away.
    fn serving(&self, needs_all: bool, command: &str) -> Result<Vec<usize>, Refused> {
        let nodes = &self.bound.topology.nodes;
        let (serving, away): (Vec<usize>, Vec<usize>) =
            (0..nodes.len()).partition(|i| nodes[*i].placement.serves());
        match away.first() {
            Some(index) if needs_all => {
                let text = format!("ERR {}: ejected, and {command} needs all nodes", self.node(*index));
                Err(Refused::new(Reason::NoOwner, text))
            }
            _ if serving.is_empty() => Err(self.nobody()),
            _ => Ok(serving),
        }
    }

    /// How long what this writes to the node at this index lives at most.
    #[inline(always)]
    fn ttl_max(&self, index: usize) -> Option<Duration> {
        if !self.bound.terms.bounds_life || self.read_only {
            return None;
        }
        self.bound.topology.ttl_max_at(index)
    }

    /// Bounds how long a key lives that was just written to the node at this index: on the same
    /// connection, right behind the write. Keys that expire sooner, or are not there, stay as they are.
    fn limit_life(
        &self,
        version: Version,
        index: usize,
        (key, ttl_max): (&[u8], Duration),
        privates: &[(usize, Rc<Pipeline>)],
    ) {
        let mut frame = Vec::new();
        let ms = ttl_max.as_millis().to_string();
        write::request(&mut frame, &[b"PEXPIRE", key, ms.as_bytes(), b"LT"]);
        // It may be sent twice: it only shortens a life.
        let expect = Expect { class: Class::Write, read_only: true, ..self.expect(NOBODY, 0, true) };
        let sent = match privates.iter().find(|(of, _)| *of == index) {
            Some((_, private)) => private.append(expect, &frame, &self.bound.links[index]).is_ok(),
            None => append(self.bound, index, version, expect, &frame).is_ok(),
        };
        if !sent {
            self.bound.links[index].block().unbounded.add(1);
        }
    }

    /// Begins to stream a large request for this key, of which these are the first bytes, to the node at
    /// this index.
    fn stream(
        &self,
        state: &mut State,
        index: usize,
        key: &[u8],
        bytes: &[u8],
    ) -> Result<Rc<Pipeline>, Begun> {
        let link = &self.bound.links[index];
        let (worker, version) = (&self.session.pool.worker, state.client.version);
        match self.has_turn(state, &[index], Own::Upload) {
            Ok(true) => {}
            Ok(false) => return Err(Begun::Full),
            Err(refused) => {
                self.session.pool.block().refuse(refused.reason);
                let line = self.session.error_line(&refused.text);
                let seq = state.window.push(self.slot());
                state.window.fail(seq, 0, &line, Outcome::Refused);
                // Nothing is sent: what comes of it is passed over.
                return Ok(Pipeline::private(link, worker, version, Own::Upload));
            }
        }
        let pipeline = link.private(worker, version, Own::Upload);
        let seq = state.window.push(self.slot());
        let expect = Expect { tries: 0, read_only: false, ..self.expect(seq, 0, true) };
        pipeline.open(self.session.clone(), key);
        if pipeline.append(expect, bytes, link).is_err() {
            state.window.unpush();
            return Err(Begun::No);
        }
        state.drain = true;
        Ok(pipeline)
    }
}

#[inline(always)]
fn append(
    bound: &Rc<Bound>,
    index: usize,
    version: Version,
    expect: Expect,
    frame: &[u8],
) -> Result<(), Refused> {
    let link: &Rc<Link> = &bound.links[index];
    let session = &expect.session;
    let lane = session.id;
    let policy = bound.topology.policy_at(index);
    let pipeline = link.pipeline(&session.pool.worker, policy, version, lane);
    pipeline.append(expect, frame, link).map_err(|full| not_taken(link, full))
}

#[cold]
fn not_taken(link: &Link, full: Full) -> Refused {
    let reason = match full {
        Full::Overload | Full::Memory | Full::Crowded => Reason::Overload,
        Full::Unreachable => {
            link.block().unserved.add(1);
            Reason::NoOwner
        }
    };
    Refused::new(reason, format!("{}: {}", link.describe(), full.why(link)))
}

/// A request was in flight at a node that is evicted, or whose connection broke: a write may have been
/// applied there, or may yet be.
#[cold]
pub(crate) fn note_in_doubt(expect: &Expect, content: Content<'_>, node: NodeId) {
    let pool = &expect.session.pool;
    let policy = pool.policy();
    if policy.on_return != OnReturn::Quarantine || !policy.sole_writer {
        return;
    }
    let writes = &pool.handle.writes;
    let mut note = |key: &[u8]| writes.note(Written { away: node, taken_by: node, key: key.into() });
    let bytes = match content {
        Content::Streamed(key) => return note(key),
        Content::Bytes(bytes) => bytes,
    };
    let is_known = match policy.protocol {
        Protocol::Memcached => memcache::each_key(bytes, &mut note),
        Protocol::Redis => resp::each_key(&pool.bound_now().table, bytes, &mut note),
        Protocol::Http => true,
    };
    if !is_known {
        writes.miss();
    }
}

/// Whether a request in flight may write a key of which this is true of its hash. A script goes by the keys
/// that it declares.
pub(crate) fn may_write(
    bound: &Bound,
    expect: &Expect,
    content: Content<'_>,
    concerns: &dyn Fn(u64) -> bool,
) -> bool {
    if expect.read_only || expect.seq == NOBODY {
        return false;
    }
    let ring = &bound.topology.ring;
    let bytes = match content {
        Content::Streamed(key) => return concerns(ring.hash(key)),
        Content::Bytes(bytes) => bytes,
    };
    let (mut any, mut keys) = (false, 0);
    let mut look = |key: &[u8]| {
        keys += 1;
        any |= concerns(ring.hash(key));
    };
    let is_known = match bound.topology.policy.protocol {
        Protocol::Memcached => memcache::each_key(bytes, &mut look),
        Protocol::Redis => resp::each_key(&bound.table, bytes, &mut look),
        Protocol::Http => false,
    };
    // One without keys goes to the owner of the empty key, or to all nodes.
    any || !is_known || (keys == 0 && (expect.class == Class::All || concerns(ring.hash(b""))))
}

/// One of the keys of a request, by a number that picks it; none when there is none, or it can't be read.
pub(crate) fn sampled_key(bound: &Bound, worker: &Worker, bytes: &[u8], pick: usize) -> Option<SampledKey> {
    let protocol = bound.topology.policy.protocol;
    let mut decoder = worker.sampling.borrow_mut();
    if !decoder.as_ref().is_some_and(|decoder| decoder.speaks(protocol)) {
        *decoder = Some(Decoder::of(protocol));
    }
    match decoder.as_mut()? {
        Decoder::Resp(decoder) => {
            resp::sampled_key(bound, decoder, &mut worker.keys.borrow_mut(), bytes, pick)
        }
        Decoder::Memcached(decoder) => memcache::sampled_key(decoder, bytes, pick),
    }
}

/// Sends a request that waited for a node which is no owner any more to the owner that the
/// topology points at now.
pub(crate) fn send_again(bound: &Rc<Bound>, expect: Expect, bytes: &[u8]) {
    let session = expect.session.clone();
    if !session.awaits(&expect) {
        return;
    }
    let sent = if expect.pinned {
        Err(Refused::new(Reason::NoOwner, "ERR the node that was asked is ejected".to_owned()))
    } else {
        match bound.topology.policy.protocol {
            Protocol::Memcached => memcache::reroute(bound, &session, &expect, bytes),
            Protocol::Redis | Protocol::Http => resp::reroute(bound, &session, &expect, bytes),
        }
    };
    if let Err(refused) = sent {
        session.fail(&expect, &refused.text, refused.reason, Outcome::Refused);
    }
}

//! memcached's retrievals of several keys: divided by node, in lines that keep nobody else waiting.
//!
//! memcached goes through a line anew for each two dozen of its keys, so that a long one takes it time that
//! grows with the square of the length, and then nothing else on that connection is answered. And a `gat`
//! that it has not read whole after 2048 bytes is no line to it: it closes the connection. So no line is
//! longer than the bounds here, and a node's part that does not fit into one of them goes over a connection
//! of its own, in short lines. How many keys one line may name at all is `limits.args_max`.

use std::{borrow::Cow, rc::Rc};

use super::{
    super::{
        joint::JointKind,
        line::Own,
        pool::Bound,
        session::{Session, State},
        window::Reply,
    },
    Dispatched, Lane, PartPlan, Parts, Refused, Sending, Several,
    memcache::{NOTHING, bounded, due_us, not_sent, sending},
};
use crate::{
    metrics::Class,
    protocol::memcache::{Keys, Limits, Request},
    topology::Route,
};

/// What one line may ask of a node while others wait behind it.
const LINE_KEYS_MAX: usize = 4096;
const LINE_BYTES_MAX: usize = 64 * 1024;
/// A line that memcached reads in any pieces whatever it says, with room for an expiration time that is
/// written anew.
const SHORT_BYTES_MAX: usize = Limits::LINE_BYTES - 32;
/// Keys of one session that are asked for at once, unless one line names more.
const ASKED_MAX: u32 = 16 * 1024;

/// Sends a retrieval on its way.
pub(super) fn keys(
    session: &Rc<Session>,
    state: &mut State,
    bound: &Rc<Bound>,
    request: &Request<'_>,
    keys: Keys<'_>,
) -> Dispatched {
    let class = if keys.read_only { Class::Read } else { Class::Write };
    let to = sending(session, bound, keys.read_only, due_us(session, bound, class), Keys::AWAITS);
    if state.window.is_empty() {
        state.keys_asked = 0;
    }
    let asked = state.keys_asked.saturating_add(u32::try_from(keys.len()).unwrap_or(u32::MAX));
    if asked > ASKED_MAX && state.keys_asked > 0 {
        return Dispatched::DrainFirst;
    }
    let parts = to.parts((0..keys.len()).map(|i| keys.key(i))).map(|parts| lines(&keys, parts));
    let is_large = parts.as_ref().is_ok_and(|parts| parts.iter().any(|part| part.lane == Lane::Private));
    if is_large && !state.window.is_empty() {
        return Dispatched::DrainFirst;
    }
    let private = parts.as_deref().ok().filter(|_| is_large);
    match private.map_or(Ok(true), |parts| has_turn(&to, state, parts)) {
        Ok(true) => {}
        Ok(false) => return Dispatched::Wait,
        Err(refused) => {
            not_sent(&to, state, refused, None);
            return Dispatched::Done;
        }
    }
    state.keys_asked = asked;
    let sent = parts.and_then(|parts| match parts.as_slice() {
        [part] if !to.is_away(part.index) => {
            to.forward(state, &line(&to, &keys, part, request.frame), part.index)
        }
        _ => {
            let write = |positions: &[u32], out: &mut Vec<u8>| write_part(&to, &keys, positions, out);
            let miss = |_: &[u32]| Some(NOTHING.to_vec());
            let several = Several { kind: JointKind::Values, keys: keys.len(), parts, pinned: false };
            to.joint(state, several, write, miss)?;
            remember(state, request.frame);
            // What follows must not overtake it on another connection.
            state.drain |= is_large;
            Ok(())
        }
    });
    match sent {
        Ok(()) => session.watch_until(state, to.due_us),
        Err(refused) if refused.waits && bound.may_wait() => return Dispatched::Wait,
        Err(refused) => not_sent(&to, state, refused, Some(Cow::Borrowed(NOTHING))),
    }
    Dispatched::Done
}

/// Whether the parts that need a connection of their own may have one.
fn has_turn(to: &Sending<'_>, state: &mut State, parts: &[PartPlan]) -> Result<bool, Refused> {
    let own = parts.iter().filter(|part| part.lane == Lane::Private && !to.is_away(part.index));
    let mut nodes: Vec<usize> = own.map(|part| part.index).collect();
    nodes.sort_unstable();
    nodes.dedup();
    if nodes.is_empty() { Ok(true) } else { to.has_turn(state, &nodes, Own::Retrieval) }
}

/// How long a line may be for others to wait behind it.
fn whole_bytes_max(keys: &Keys<'_>) -> usize {
    if keys.read_only { LINE_BYTES_MAX } else { SHORT_BYTES_MAX }
}

/// The parts of a retrieval with each within one line.
fn lines(keys: &Keys<'_>, parts: Parts) -> Parts {
    let lane = |part: &PartPlan| {
        let is_large =
            part.positions.len() > LINE_KEYS_MAX || keys.line_bytes(&part.positions) > LINE_BYTES_MAX;
        if is_large { Lane::Private } else { Lane::Shared }
    };
    let fits = |part: &PartPlan| {
        lane(part) == Lane::Shared && keys.line_bytes(&part.positions) <= whole_bytes_max(keys)
    };
    if parts.iter().all(fits) {
        return parts;
    }
    let mut lines = Parts::new();
    for part in parts {
        if fits(&part) {
            lines.push(part);
            continue;
        }
        let mut rest = part.positions.as_slice();
        while !rest.is_empty() {
            let (positions, behind) = rest.split_at(keys.fitting(rest, SHORT_BYTES_MAX));
            let positions = positions.to_vec();
            lines.push(PartPlan { positions, lane: lane(&part), ..part });
            rest = behind;
        }
    }
    lines
}

/// All of a retrieval for one node: as its client wrote it, where that is its words and nothing else.
fn line<'a>(to: &Sending<'_>, keys: &Keys<'_>, part: &PartPlan, frame: &'a [u8]) -> Cow<'a, [u8]> {
    if frame.len() <= whole_bytes_max(keys) && frame.len() == keys.line_bytes(&part.positions) {
        return bounded(to, part.index, frame);
    }
    let mut line = Vec::new();
    write_part(to, keys, &part.positions, &mut line);
    Cow::Owned(line)
}

/// The part of a retrieval that goes to the node of its first key.
pub(super) fn write_part(to: &Sending<'_>, keys: &Keys<'_>, positions: &[u32], out: &mut Vec<u8>) {
    keys.write(positions, out);
    if !to.bound.terms.bounds_life || to.read_only {
        return;
    }
    let key = positions.first().map_or(&[][..], |at| keys.key(*at as usize));
    let topology = &to.bound.topology;
    if let Route::Send(index) = topology.route(topology.ring.hash(key), key) {
        *out = bounded(to, index, out).into_owned();
    }
}

/// The merge goes by the client's own line.
fn remember(state: &mut State, frame: &[u8]) {
    if let Some(Reply::Joint(joint)) = state.window.last().map(|slot| &mut slot.reply) {
        joint.request = Some(frame.into());
    }
}

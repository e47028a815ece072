//! Redis requests above [`BULK_LANE`] that are not streamed (scripts, `MSET`, `SADD` with large arguments):
//! each has a connection to itself, as streamed ones have. What its node thinks of it, which may have a limit
//! of its own and closes, breaks nobody else's requests, and nobody waits behind it.

use std::rc::Rc;

use super::{
    super::{input::BULK_LANE, line::Own, session::State},
    Dispatched, Lane, Parts, Refused, not_taken, refuse,
    resp::{Asked, bounded_set},
};
use crate::protocol::resp::{
    frame::Request,
    rule::{Rule, Split},
};

/// Which parts of a large request are large themselves.
pub(super) fn part_lanes(request: &Request<'_>, kind: Split, parts: &mut Parts) {
    let width = if kind == Split::Pairs { 2 } else { 1 };
    for part in parts {
        let bytes = |position: &u32| {
            let first = 1 + *position as usize * width;
            request.raw(first, first + width - 1).len()
        };
        if part.positions.iter().map(bytes).sum::<usize>() > BULK_LANE {
            part.lane = Lane::Private;
        }
    }
}

impl Asked<'_> {
    /// What happens instead while a large request may not be sent: all before it in its session must be
    /// answered, and its nodes have room for its connections.
    #[cold]
    pub(super) fn is_held_up(&self, state: &mut State, request: &Request<'_>) -> Option<Dispatched> {
        // Whoever can't be asked is refused where the request would be sent.
        let nodes = self.private_nodes(request).ok().filter(|nodes| !nodes.is_empty())?;
        if !state.window.is_empty() {
            return Some(Dispatched::DrainFirst);
        }
        match self.to.has_turn(state, &nodes, Own::Upload) {
            Ok(true) => None,
            Ok(false) => Some(Dispatched::Wait),
            Err(refused) => {
                refuse(self.to.session, state, self.to.class, refused);
                Some(Dispatched::Done)
            }
        }
    }

    /// The nodes to which it has a connection to itself.
    fn private_nodes(&self, request: &Request<'_>) -> Result<Vec<usize>, Refused> {
        match self.command.rule {
            Rule::Keyed => Ok(vec![self.one_owner(request)?]),
            Rule::Split(kind) => {
                let mut keys = Vec::new();
                self.keys(request, &mut keys)?;
                let parts = self.parts(request, &keys, kind)?.into_iter();
                let private = parts.filter(|part| part.lane == Lane::Private && !self.to.is_away(part.index));
                let mut nodes: Vec<usize> = private.map(|part| part.index).collect();
                nodes.sort_unstable();
                nodes.dedup();
                Ok(nodes)
            }
            Rule::All(kind) => self.to.serving(kind.needs_all(), &self.command.name),
            Rule::Scan | Rule::Local(_) | Rule::Refuse(_) => Ok(Vec::new()),
        }
    }

    /// Passes a large request on over a connection of its own; what bounds the lives of its keys goes
    /// behind it there.
    #[cold]
    pub(super) fn keyed_alone(&self, state: &mut State, request: &Request<'_>) -> Result<(), Refused> {
        let index = self.one_owner(request)?;
        let ttl_max = self.to.ttl_max(index);
        let bounded = ttl_max.and_then(|ttl_max| bounded_set(request, ttl_max));
        let (link, version) = (&self.to.bound.links[index], state.client.version);
        let private = link.private(&self.to.session.pool.worker, version, Own::Upload);
        let seq = state.window.push(self.to.slot());
        let frame = bounded.as_deref().unwrap_or(request.frame);
        if let Err(full) = private.append(self.to.expect(seq, 0, false), frame, link) {
            state.window.unpush();
            return Err(not_taken(link, full));
        }
        // What follows must not overtake it on another connection.
        state.drain = true;
        if let Some(ttl_max) = ttl_max.filter(|_| bounded.is_none()) {
            self.limit_lives(version, index, (request, ttl_max), &[(index, Rc::clone(&private))]);
        }
        Ok(())
    }
}

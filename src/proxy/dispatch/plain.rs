//! Requests of one key, when all nodes serve: what else a request may depend on is looked at once for a batch
//! of them, and what is left is the way from the key to its node. A request that meets any obstacle is not
//! sent from here but goes the way of all others.

use std::rc::Rc;

use super::super::{
    link::Link,
    pipeline::Expect,
    pool::Bound,
    session::{Session, State},
    window::{Reply, Slot, Window},
};
use crate::{metrics::Class, protocol::memcache::Awaits, protocol::resp::Version, topology::Topology};

/// What the requests of a batch have in common.
pub(super) struct Batch<'a> {
    session: &'a Rc<Session>,
    topology: &'a Topology,
    links: &'a [Rc<Link>],
    bounds_life: bool,
    tries: u8,
    version: Version,
    lane: usize,
    now_us: u32,
    due_us: u32,
}

impl<'a> Batch<'a> {
    /// None when each request has to be looked at by itself.
    #[inline]
    pub(super) fn new(session: &'a Rc<Session>, state: &State, bound: &'a Bound) -> Option<Batch<'a>> {
        if !bound.terms.is_plain || state.is_stranger(bound) {
            return None;
        }
        let now_us = session.pool.worker.clock.now_us();
        let connections = bound.topology.policy.connections_per_node;
        Some(Batch {
            session,
            topology: &bound.topology,
            links: &bound.links,
            bounds_life: bound.terms.bounds_life,
            tries: bound.terms.tries,
            version: state.client.version,
            lane: if connections == 1 { 0 } else { session.id as usize % connections },
            now_us,
            // Of reads and writes alike.
            due_us: now_us.wrapping_add(bound.terms.patience_us[Class::Read as usize]),
        })
    }

    /// Sends a request on to the owner of its key; false when nothing was done.
    #[inline(always)]
    pub(super) fn send(
        &self,
        window: &mut Window,
        key: &[u8],
        read_only: bool,
        awaits: Awaits,
        frame: &[u8],
    ) -> bool {
        if self.bounds_life && !read_only {
            return false;
        }
        let ring = &self.topology.ring;
        let Some(link) = self.links.get(ring.first(ring.hash(key))) else { return false };
        let Some(pipeline) = link.lane(self.version, self.lane) else { return false };
        let Some(mut queue) = pipeline.open_queue(self.now_us) else { return false };
        let class = if read_only { Class::Read } else { Class::Write };
        let slot =
            Slot { class, may_write: !read_only, due_us: self.due_us, silent: false, reply: Reply::Waiting };
        let expect = Expect {
            session: self.session.clone(),
            seq: window.push(slot),
            part: 0,
            sent_us: self.now_us,
            class,
            read_only,
            pinned: false,
            awaits,
            tries: self.tries,
            broken_off: 0,
        };
        queue.push(expect, frame);
        true
    }

    /// Some were sent: their deadline is watched.
    #[inline]
    pub(super) fn watch(&self, state: &mut State) {
        self.session.watch_until(state, self.due_us);
    }
}

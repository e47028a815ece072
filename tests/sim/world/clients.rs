//! What clients ask for, and what they are told.

use super::*;
use crate::values::Write;

/// Requests in a tick.
const REQUESTS: usize = 2;

impl World {
    /// Some clients ask for something.
    pub(super) fn clients(&mut self) -> Result<(), Breach> {
        if !self.minds_old() {
            return Ok(());
        }
        for _ in 0..REQUESTS {
            let key = self.dice.roll(self.laws.keys.len() as u64) as usize;
            let what = self.dice.roll(10);
            let keys = self.laws.keys.clone();
            let Route::Send(at) = keys.route(&self.topology, key) else { continue };
            let id = keys.id(key);
            if what < 5 {
                self.read(at, id)?;
            } else {
                self.write((at, key), id, what == 9);
            }
        }
        Ok(())
    }

    /// Whether old values are to be looked for.
    pub(super) fn minds_old(&self) -> bool {
        self.topology.policy.on_return != OnReturn::Serve && !self.book.is_closed
    }

    fn read(&mut self, at: usize, id: KeyId) -> Result<(), Breach> {
        let now = self.now;
        let body = self.body(at);
        let Some(version) = body.answers().then(|| body.store.version(id, now)).flatten() else {
            return Ok(());
        };
        self.stats.hits += 1;
        let name = &self.topology.entry(at).node.name;
        let named = |b: Breach| Breach { text: format!("node {name} is asked: {}", b.text), ..b };
        self.book.given(id, version).map_err(named)
    }

    fn write(&mut self, (at, key): (usize, usize), id: KeyId, is_delete: bool) {
        let topology = self.topology.clone();
        let policy = &topology.policy;
        let write = Write { key: id, version: self.book.next(), is_delete, ttl: topology.ttl_max_at(at) };
        let taken_by = topology.entry(at).node.id;
        for passed in topology.passed(self.laws.keys.hash(key), at) {
            self.cleaners.quarantine.note(topology.nodes[passed].node.id, taken_by, id, policy);
        }
        self.tell(|| format!("{write:?} is sent to {}", topology.entry(at).node.name));
        let now = self.now;
        self.stats.gutter_writes += u64::from(topology.is_gutter(at));
        let body = self.body_mut(at);
        if body.is_sent(write, policy.request_timeout, now) {
            self.book.told(write);
        }
    }

    /// What any client could be given now, whatever it asked for.
    pub(super) fn look_for_old(&self) -> Result<(), Breach> {
        if !self.minds_old() {
            return Ok(());
        }
        let keys = &self.laws.keys;
        for key in 0..keys.len() {
            let Route::Send(at) = keys.route(&self.topology, key) else { continue };
            let body = self.body(at);
            if let Some(version) = body.store.version(keys.id(key), self.now).filter(|_| body.answers()) {
                let name = &self.topology.entry(at).node.name;
                let named = |b: Breach| Breach { text: format!("node {name} serves: {}", b.text), ..b };
                self.book.may_be(keys.id(key), version).map_err(named)?;
            }
        }
        Ok(())
    }
}

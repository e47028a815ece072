//! VALUES. What clients wrote, and what servers have of it. A client that is given an older value than one
//! that some client was given before, or was told is written, has been taken back in time.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::laws::{Breach, Law, holds};

/// A key, whatever ring there is.
pub(crate) type KeyId = u64;

/// What clients want of a key: a new value, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) key: KeyId,
    /// The later the greater.
    pub(crate) version: u64,
    pub(crate) is_delete: bool,
    /// How long it lives.
    pub(crate) ttl: Option<Duration>,
}

/// What a server has.
#[derive(Debug, Default)]
pub(crate) struct Store {
    values: BTreeMap<KeyId, Value>,
    /// What it was sent and has not done, and whether that has arrived: it does it when it goes on, whoever
    /// waits for it.
    owed: Vec<(Write, bool)>,
}

#[derive(Clone, Copy, Debug)]
struct Value {
    version: u64,
    until: Option<Instant>,
}

/// What lies in its sockets at most.
const OWED_MAX: usize = 50;

impl Store {
    pub(crate) fn write(&mut self, write: Write, now: Instant) {
        let Write { key, version, is_delete, ttl } = write;
        match is_delete {
            true => drop(self.values.remove(&key)),
            false => drop(self.values.insert(key, Value { version, until: ttl.map(|ttl| now + ttl) })),
        }
    }

    pub(crate) fn version(&self, key: KeyId, now: Instant) -> Option<u64> {
        let value = self.values.get(&key)?;
        value.until.is_none_or(|until| until > now).then_some(value.version)
    }

    /// It is sent this, and does not do it now.
    pub(crate) fn owes(&mut self, write: Write, has_arrived: bool) {
        if self.owed.len() < OWED_MAX {
            self.owed.push((write, has_arrived));
        }
    }

    /// What was on the way to it arrives.
    pub(crate) fn arrives(&mut self) {
        self.owed.iter_mut().for_each(|(_, has_arrived)| *has_arrived = true);
    }

    /// Connections to it are reset: what is on the way is lost, what lies in its sockets is not.
    pub(crate) fn is_reset(&mut self) {
        self.owed.retain(|(_, has_arrived)| *has_arrived);
    }

    /// It does what it was sent; whether there was something.
    pub(crate) fn goes_on(&mut self, now: Instant) -> bool {
        let owed = std::mem::take(&mut self.owed);
        let is_some = !owed.is_empty();
        owed.into_iter().for_each(|(write, _)| self.write(write, now));
        is_some
    }

    /// Its process ends; whether what it had is on its disk.
    pub(crate) fn ends(&mut self, is_saved: bool) {
        self.owed.clear();
        if !is_saved {
            self.values.clear();
        }
    }

    /// The keys that are written when it goes on.
    pub(crate) fn owed(&self) -> impl Iterator<Item = KeyId> {
        self.owed.iter().map(|(write, _)| write.key)
    }

    pub(crate) fn delete(&mut self, key: KeyId) {
        self.values.remove(&key);
    }

    /// Deletes those of which this is true; how many.
    pub(crate) fn delete_if(&mut self, is_to_go: impl Fn(KeyId) -> bool) -> u64 {
        let before = self.values.len();
        self.values.retain(|key, _| !is_to_go(*key));
        (before - self.values.len()) as u64
    }

    pub(crate) fn clear(&mut self) {
        self.values.clear();
    }
}

/// What clients know.
#[derive(Debug, Default)]
pub(crate) struct Book {
    last: u64,
    known: BTreeMap<KeyId, u64>,
    /// Something happened after which old values are to be expected, as the documentation says.
    pub(crate) is_closed: bool,
}

impl Book {
    /// The version of the next write.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A client was told that this is written.
    pub(crate) fn told(&mut self, write: Write) {
        self.known.insert(write.key, write.version);
    }

    /// A client would be given this now.
    pub(crate) fn may_be(&self, key: KeyId, version: u64) -> Result<(), Breach> {
        let known = self.known.get(&key).copied().unwrap_or_default();
        holds(Law::Old, self.is_closed || version >= known, || {
            format!("key {key} is {version}, and was {known} before")
        })
    }

    /// A client is given this.
    pub(crate) fn given(&mut self, key: KeyId, version: u64) -> Result<(), Breach> {
        self.may_be(key, version)?;
        self.known.insert(key, version);
        Ok(())
    }
}

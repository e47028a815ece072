//! KEY -> ORDER OF NODES. Pure: no clock, no I/O, no async, no locks, no allocation on lookup.
//!
//! A [`Ring`] is built from [`Settings`] and [`Member`]s and never changes. It knows nothing of
//! health: a node that is away stays in it, and whoever asks walks past it. From this follow the
//! laws, which are tested as properties in `laws.rs`:
//!
//! * A node that leaves moves only its own keys, and its return restores the exact map.
//! * A node that joins a `vnode` ring takes only what becomes its own.
//! * The candidates of a key are distinct, the first one is the owner, and every member that has a
//!   place is among them.
//! * In `vnode` and `maglev` the order of the members decides nothing.
//! * Shares follow the weights: with 160 points one is off by 8 % as a rule, and by less than 40 %.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod bounded;
mod diff;
#[cfg(test)]
mod golden;
mod hash;
mod ketama;
#[cfg(test)]
mod laws;
mod maglev;
mod modula;
mod settings;
mod table;
mod vnode;
mod walk;

pub use bounded::BoundedLoad;
pub use diff::{Diff, Move, diff};
pub use hash::{HashKind, finalise, tagged};
pub use ketama::twemproxy_name;
pub use maglev::is_prime;
pub use settings::{CharSign, ENTRIES_MAX, Member, Placement, Settings, entries, warnings};
pub use walk::Candidates;

use std::sync::Arc;

use table::{Places, Table};
use xxhash_rust::xxh3::xxh3_64;

/// After this many members refused in a row, a walk asks whether any member is accepted at all, so
/// that a pool of which nobody serves does not cost a walk round the whole ring.
const PATIENCE: usize = 64;

/// The ring: who owns a key, and who would if the owner were away.
///
/// A member is known by its index in the list that the ring was built from.
#[derive(Debug)]
pub struct Ring {
    settings: Settings,
    members: Arc<[Member]>,
    table: Table,
    /// Members that have a place in the table.
    placed: usize,
    /// The default hash in a placement that takes it as it is: nothing else needs to be asked.
    is_plain: bool,
    /// At which positions members stand, where their names do not say so.
    places: Option<Places>,
}

impl Ring {
    /// Builds the ring. The work grows with [`entries`]: some 0.2 s for 10,000 members of 160
    /// points, so not on a hot path.
    ///
    /// # Panics
    /// When there are more than [`ENTRIES_MAX`] entries, or `maglev` has a number of slots that is
    /// not a prime: the configuration refuses both.
    pub fn build(settings: &Settings, members: &[Member]) -> Ring {
        assert!(entries(settings, members) <= ENTRIES_MAX, "the configuration bounds a ring's entries");
        let table = match settings.placement {
            Placement::Vnode { points } => Table::Circle(vnode::build(points, members)),
            Placement::Ketama => Table::Circle(ketama::build(members)),
            Placement::Modula => Table::Slots(modula::build(members)),
            Placement::Maglev { slots } => {
                assert!(is_prime(slots), "the configuration sees to it that maglev's slots are a prime");
                Table::Slots(maglev::build(slots, members))
            }
        };
        let mut has_place = vec![false; members.len()];
        (0..table.len()).for_each(|p| has_place[table.owner(p)] = true);
        let placed = has_place.iter().filter(|&&has| has).count();
        let is_plain = settings.hash == HashKind::Xxh3_64 && !settings.placement.compatible();
        let is_told = matches!(settings.placement, Placement::Vnode { .. });
        let places = (!is_told).then(|| Places::new(&table, members.len()));
        Ring { settings: settings.clone(), members: members.into(), table, placed, is_plain, places }
    }

    /// The ring hash of a key: its hash tag, if it has one, through the key hash.
    ///
    /// `vnode` and `maglev` take 64 bits, spread by [`finalise`] if the hash has fewer. `ketama` and
    /// `modula` take the low 32 bits as they are; like twemproxy they take 0 for an empty key.
    #[inline(always)]
    pub fn hash(&self, key: &[u8]) -> u64 {
        let key = tagged(key, self.settings.hash_tag);
        if self.is_plain { xxh3_64(key) } else { self.hash_as_set(key) }
    }

    /// The same as the settings say, of what is hashed of a key.
    fn hash_as_set(&self, key: &[u8]) -> u64 {
        if key.is_empty() && self.settings.placement.compatible() {
            return 0;
        }
        self.spread(self.settings.hash.hash(key, self.settings.char_sign))
    }

    /// A key hash as a ring hash.
    #[inline]
    fn spread(&self, hash: u64) -> u64 {
        if self.settings.placement.compatible() {
            u64::from(hash as u32)
        } else if self.settings.hash.bits() < 64 {
            finalise(hash)
        } else {
            hash
        }
    }

    /// The first candidate for a ring hash: the owner when all members serve.
    ///
    /// # Panics
    /// When the ring has no members: such a pool is refused by the configuration.
    #[inline]
    pub fn first(&self, hash: u64) -> usize {
        self.table.first(hash)
    }

    /// The first candidate that `accept`s: the walk goes clockwise past the others, once round.
    #[inline]
    pub fn first_where(&self, hash: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let mut last = usize::MAX;
        let mut refused = 0;
        for position in self.table.walk(self.table.locate(hash)) {
            let owner = self.table.owner(position);
            if owner == last {
                continue;
            }
            if accept(owner) {
                return Some(owner);
            }
            last = owner;
            refused += 1;
            if refused == PATIENCE && !(0..self.members.len()).any(&accept) {
                return None;
            }
        }
        None
    }

    /// All candidates for a ring hash, in order of preference, each once.
    pub fn candidates(&self, hash: u64) -> Candidates<'_> {
        Candidates::new(&self.table, self.table.locate(hash), self.placed)
    }

    /// The share of the key space that each member owns when only those serve that `serves` names.
    /// The shares sum to 1, or to 0 when nobody serves. Exact as far as the hash is uniform.
    pub fn shares(&self, serves: impl Fn(usize) -> bool) -> Vec<f64> {
        diff::shares(self, &serves)
    }

    /// The share of the key space that one member owns when it serves, and of the others those that `serves`
    /// names: what [`Ring::shares`] says of it, for the price of its own places.
    pub fn share_of(&self, member: usize, serves: impl Fn(usize) -> bool) -> f64 {
        diff::share_of(self, member, &serves)
    }

    /// The share of the key space whose owner changes when those serve that `after` names instead of
    /// those that `before` names: what [`diff`] says, at a tenth of its price.
    pub fn moved(&self, before: impl Fn(usize) -> bool, after: impl Fn(usize) -> bool) -> f64 {
        diff::moved(self, &before, &after)
    }

    /// What the ring was built from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The members, in the order of their indexes.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Bytes that the ring holds, names included.
    pub fn bytes(&self) -> usize {
        let names: usize = self.members.iter().map(|m| m.name.len()).sum();
        size_of::<Ring>()
            + self.table.bytes()
            + self.places.as_ref().map_or(0, Places::bytes)
            + size_of_val(&*self.members)
            + names
    }
}

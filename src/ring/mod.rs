//! KEY -> ORDER OF NODES. Pure: no clock, no I/O, no async, no locks, no allocation on lookup.

use std::sync::Arc;

/// How keys are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The rule that gives nodes their places.
    pub placement: Placement,
    /// The hash of a key.
    pub hash: HashKind,
    /// How C's `char` behaves in the hashes and placements that inherited it.
    pub char_sign: CharSign,
    /// Opening and closing byte: only what stands between them is hashed.
    pub hash_tag: Option<(u8, u8)>,
}

/// The rule that gives nodes their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// ringway's own virtual nodes.
    Vnode {
        /// Points per unit of weight.
        points: u32,
    },
    /// twemproxy's continuum.
    Ketama,
    /// Google's Maglev table.
    Maglev {
        /// Size of the table, a prime.
        slots: u32,
    },
    /// Hash modulo the sum of weights.
    Modula,
}

impl Placement {
    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            Placement::Vnode { .. } => "vnode",
            Placement::Ketama => "ketama",
            Placement::Maglev { .. } => "maglev",
            Placement::Modula => "modula",
        }
    }
}

impl HashKind {
    /// The configuration's word.
    pub fn word(self) -> &'static str {
        "xxh3_64"
    }
}

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// XXH3, 64 bits, seed 0.
    Xxh3_64,
}

/// How C's `char` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharSign {
    /// Signed, as on x86.
    X86,
    /// Unsigned, as on ARM.
    Arm,
}

/// A member as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Ring identity.
    pub name: Arc<str>,
    /// Units of share, at least 1.
    pub weight: u32,
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    settings: Settings,
    members: Vec<Member>,
}

impl Ring {
    /// Builds.
    pub fn build(settings: &Settings, members: &[Member]) -> Ring {
        Ring { settings: settings.clone(), members: members.to_vec() }
    }
    /// As configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    /// The share of the hash space that each member has, when only those that `accept` serve.
    pub fn shares(&self, accept: impl Fn(usize) -> bool) -> Vec<f64> {
        let weight = |i: usize| if accept(i) { f64::from(self.members[i].weight) } else { 0.0 };
        let all: f64 = (0..self.members.len()).map(weight).sum();
        (0..self.members.len()).map(|i| if all > 0.0 { weight(i) / all } else { 0.0 }).collect()
    }
    /// The ring hash of a key: its hash tag, if it has one, through the key hash.
    pub fn hash(&self, _key: &[u8]) -> u64 {
        0
    }
    /// The first candidate.
    pub fn first(&self, _hash: u64) -> usize {
        0
    }
    /// The first candidate that `accept`s.
    pub fn first_where(&self, _hash: u64, _accept: impl Fn(usize) -> bool) -> Option<usize> {
        None
    }
}

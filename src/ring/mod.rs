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
    points: Vec<(u64, usize)>,
    members: Vec<Member>,
}

impl Ring {
    /// Builds.
    pub fn build(settings: &Settings, members: &[Member]) -> Ring {
        let Placement::Vnode { points: n } = settings.placement else {
            return Ring { points: Vec::new(), members: members.to_vec() };
        };
        let mut points: Vec<(u64, usize)> = Vec::new();
        for (i, m) in members.iter().enumerate() {
            for p in 0..n * m.weight {
                points.push((xxhash_rust::xxh3::xxh3_64_with_seed(m.name.as_bytes(), u64::from(p)), i));
            }
        }
        points.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| members[a.1].name.cmp(&members[b.1].name)));
        Ring { points, members: members.to_vec() }
    }
    /// The ring hash of a key: its hash tag, if it has one, through the key hash.
    pub fn hash(&self, key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64(key)
    }
    /// The first candidate.
    pub fn first(&self, hash: u64) -> usize {
        self.first_where(hash, |_| true).unwrap_or(0)
    }
    /// The first candidate that `accept`s.
    pub fn first_where(&self, hash: u64, accept: impl Fn(usize) -> bool) -> Option<usize> {
        let at = self.points.partition_point(|p| p.0 < hash);
        self.points[at..].iter().chain(&self.points[..at]).map(|p| p.1).find(|i| accept(*i))
    }
    /// Share of each member when only those that serve own.
    pub fn shares(&self, serves: impl Fn(usize) -> bool) -> Vec<f64> {
        let mut shares = vec![0.0; self.members.len()];
        let mut last = self.points.last().map_or(0, |p| p.0);
        for (at, _) in &self.points {
            if let Some(owner) = self.first_where(*at, &serves) {
                shares[owner] += (at.wrapping_sub(last)) as f64 / 2f64.powi(64);
            }
            last = *at;
        }
        shares
    }
}

/// What differs between two rings.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Share of the key space with another owner.
    pub moved: f64,
}

/// A ring and which of its members serve.
pub type Side<'a> = (&'a Ring, &'a dyn Fn(usize) -> bool);

/// Compares by name.
pub fn diff(a: Side<'_>, b: Side<'_>) -> Diff {
    let mut at: Vec<u64> = a.0.points.iter().chain(&b.0.points).map(|p| p.0).collect();
    at.sort_unstable();
    at.dedup();
    let mut last = at.last().copied().unwrap_or(0);
    let mut moved = 0.0;
    for h in at {
        let x = a.0.first_where(h, a.1).map(|i| &a.0.members[i].name);
        let y = b.0.first_where(h, b.1).map(|i| &b.0.members[i].name);
        if x != y {
            moved += h.wrapping_sub(last) as f64 / 2f64.powi(64);
        }
        last = h;
    }
    Diff { moved }
}

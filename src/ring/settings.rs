//! WHAT A RING IS MADE FROM: its settings, its members, and what is odd about them.

use std::sync::Arc;

use super::{HashKind, Ring, vnode};

/// How keys are placed. Two rings with equal settings and equal members are the same ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The rule that gives nodes their places.
    pub placement: Placement,
    /// The hash of a key.
    pub hash: HashKind,
    /// How C's `char` behaves in the hashes that inherited it.
    pub char_sign: CharSign,
    /// Opening and closing byte: only what stands between them is hashed.
    pub hash_tag: Option<(u8, u8)>,
}

impl Settings {
    /// Points per unit of weight of `vnode`.
    pub const POINTS: u32 = 160;
    /// Slots of `maglev`, a prime.
    pub const SLOTS: u32 = 65_537;
    /// The hash of a key.
    pub const HASH: HashKind = HashKind::Xxh3_64;
    /// How C's `char` behaves.
    pub const CHAR_SIGN: CharSign = CharSign::X86;
    /// Opening and closing byte of the hash tag: Redis Cluster's.
    pub const HASH_TAG: (u8, u8) = (b'{', b'}');
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            placement: Placement::Vnode { points: Settings::POINTS },
            hash: Settings::HASH,
            char_sign: Settings::CHAR_SIGN,
            hash_tag: Some(Settings::HASH_TAG),
        }
    }
}

/// The rule that gives nodes their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// ringway's own virtual nodes.
    Vnode {
        /// Points per unit of weight, at least 1.
        points: u32,
    },
    /// twemproxy's continuum.
    Ketama,
    /// Google's Maglev table.
    Maglev {
        /// Size of the table, a prime ([`is_prime`](super::is_prime)).
        slots: u32,
    },
    /// Hash modulo the sum of weights.
    Modula,
}

impl Placement {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Placement::Vnode { .. } => "vnode",
            Placement::Ketama => "ketama",
            Placement::Maglev { .. } => "maglev",
            Placement::Modula => "modula",
        }
    }

    /// Whether keys are placed by 32 bits of their hash as it is, as twemproxy does.
    pub(super) fn compatible(self) -> bool {
        matches!(self, Placement::Ketama | Placement::Modula)
    }
}

/// How C's `char` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CharSign {
    /// Signed, as on x86.
    X86,
    /// Unsigned, as on ARM.
    Arm,
}

impl CharSign {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            CharSign::X86 => "x86",
            CharSign::Arm => "arm",
        }
    }
}

/// A member as the ring sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Ring identity: no two members of a ring share one.
    pub name: Arc<str>,
    /// Units of share, at least 1.
    pub weight: u32,
}

/// The most [`entries`] that a ring may have: some 10,000 nodes of ten times the usual points,
/// 270 MB.
pub const ENTRIES_MAX: u64 = 1 << 24;

/// How many entries the ring of these members has: points or slots. The configuration refuses more
/// than [`ENTRIES_MAX`]; memory and the time of a build grow with it.
pub fn entries(settings: &Settings, members: &[Member]) -> u64 {
    match settings.placement {
        Placement::Vnode { points } => {
            members.iter().fold(0, |sum: u64, m| sum.saturating_add(vnode::count(points, m)))
        }
        Placement::Ketama => members.len() as u64 * u64::from(Settings::POINTS),
        Placement::Maglev { slots } => u64::from(slots),
        Placement::Modula => members.iter().map(|m| u64::from(m.weight)).sum(),
    }
}

/// Points per unit of weight below which a share is off by more than a sixth, as a rule.
const POINTS_FEW: u32 = 40;

/// Slots per node below which Maglev's shares are off by more than a hundredth, after its authors.
const SLOTS_PER_NODE_FEW: u64 = 100;

/// How many names a warning lists.
const NAMES_MAX: usize = 5;

/// What a person should know before using these settings, one sentence each. Builds the ring, so
/// this is for checks, not for a hot path.
pub fn warnings(settings: &Settings, members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    let (hash, bits) = (settings.hash.word(), settings.hash.bits());
    match settings.placement {
        Placement::Vnode { points } if points < POINTS_FEW => found.push(format!(
            "points: {points}: nodes of equal weight get very unequal shares, use {} or more",
            Settings::POINTS
        )),
        Placement::Maglev { slots } if u64::from(slots) < SLOTS_PER_NODE_FEW * members.len() as u64 => {
            found.push(format!(
                "slots: {slots} are few for {} nodes: shares will be uneven, use a prime above {}",
                members.len(),
                SLOTS_PER_NODE_FEW * members.len() as u64
            ));
        }
        _ => {}
    }
    if settings.placement == Placement::Ketama && bits < 32 && members.len() > 1 {
        found.push(format!(
            "PRACTICALLY ALL KEYS GO TO ONE NODE: hash: {hash} gives {bits} bits and placement: ketama \
             needs 32. It is obeyed, because twemproxy does so; use hash: crc32a or fnv1a_64 for a new pool"
        ));
    } else {
        found.extend(without_share(settings, members));
    }
    found
}

/// Names the members that own no key although all serve.
fn without_share(settings: &Settings, members: &[Member]) -> Option<String> {
    let shares = Ring::build(settings, members).shares(|_| true);
    let mut idle = members.iter().zip(shares).filter(|(_, share)| *share == 0.0).map(|(m, _)| &*m.name);
    let first: Vec<&str> = idle.by_ref().take(NAMES_MAX).collect();
    if first.is_empty() {
        return None;
    }
    let more = match idle.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "no key belongs to {}{more}: with placement: {} and these weights the share rounds to nothing",
        first.join(", "),
        settings.placement.word()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member = |(i, &weight)| Member { name: format!("n{i}").into(), weight };
        weights.iter().enumerate().map(member).collect()
    }

    fn with(placement: Placement, hash: HashKind) -> Settings {
        Settings { placement, hash, ..Settings::default() }
    }

    /// The defaults, and every placement with a hash that suits it, are nothing to warn about.
    #[test]
    fn silent_on_what_is_usual() {
        let three = members(&[1, 2, 1]);
        assert_eq!(warnings(&Settings::default(), &three), [""; 0]);
        for placement in [Placement::Ketama, Placement::Modula, Placement::Maglev { slots: 65537 }] {
            assert_eq!(warnings(&with(placement, HashKind::Fnv1a64), &three), [""; 0]);
        }
        assert_eq!(warnings(&with(Placement::Ketama, HashKind::Crc32), &members(&[1])), [""; 0]);
    }

    /// A hash of few bits with ketama is warned about loudly, and only there.
    #[test]
    fn few_bits_on_a_continuum() {
        for hash in [HashKind::Crc32, HashKind::Crc16Cluster] {
            let found = warnings(&with(Placement::Ketama, hash), &members(&[1, 1]));
            assert_eq!(found.len(), 1);
            assert!(found[0].contains("ALL KEYS GO TO ONE NODE") && found[0].contains(hash.word()));
            assert_eq!(warnings(&with(Placement::Modula, hash), &members(&[1, 1])), [""; 0]);
        }
    }

    /// Members whose share rounds to nothing are named, a few of them.
    #[test]
    fn members_without_a_share() {
        let found = warnings(&with(Placement::Ketama, HashKind::Md5), &members(&[1, 1000]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("no key belongs to n0:"), "{found:?}");
        let found = warnings(&with(Placement::Maglev { slots: 3 }, HashKind::Xxh64), &members(&[1; 10]));
        assert!(found[0].starts_with("slots: 3 are few for 10 nodes"), "{found:?}");
        assert!(found[1].starts_with("no key belongs to n3, n4, n5, n6, n7 and 2 more:"), "{found:?}");
    }

    /// A ring of few points is warned about.
    #[test]
    fn few_points() {
        let found = warnings(&with(Placement::Vnode { points: 1 }, Settings::HASH), &members(&[1, 1]));
        assert!(found[0].starts_with("points: 1:"), "{found:?}");
    }

    /// Entries are counted without building, also where they could not be built.
    #[test]
    fn entries_are_counted() {
        let two = members(&[3, u32::MAX]);
        let count = |placement| entries(&with(placement, Settings::HASH), &two);
        assert_eq!(count(Placement::Vnode { points: 2 }), 2 * (3 + u64::from(u32::MAX)));
        assert_eq!(count(Placement::Ketama), 320);
        assert_eq!(count(Placement::Maglev { slots: 7 }), 7);
        assert_eq!(count(Placement::Modula), 3 + u64::from(u32::MAX));
        assert!(count(Placement::Vnode { points: u32::MAX }) > ENTRIES_MAX);
    }
}

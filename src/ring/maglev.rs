//! `maglev`: Google's table (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, listing 1), with the permutations and the weights of Envoy.
//!
//! The nodes take turns, in the order of their names; in its turn a node takes the first free slot
//! of its own permutation. A node of half the greatest weight skips every other turn. Away nodes
//! keep their slots and are walked past.

use xxhash_rust::xxh64::xxh64;

use super::{Member, table::Slots};

/// One node while the table is filled.
struct Filler {
    member: u32,
    weight: u64,
    /// Slots it has a right to so far, times the greatest weight.
    used: u64,
    /// The next slot of its permutation.
    slot: u64,
    skip: u64,
}

/// Builds the slots; their number must be a prime, or a permutation would not reach all of them.
pub(super) fn build(slots: u32, members: &[Member]) -> Slots {
    const FREE: u32 = u32::MAX;
    let size = u64::from(slots);
    let mut fillers: Vec<Filler> = (0..).zip(members).map(|(i, m)| Filler::new(i, m, size)).collect();
    fillers.sort_by_key(|f| &members[f.member as usize].name);
    let Some(heaviest) = fillers.iter().map(|f| f.weight).max() else {
        return Slots::new(Vec::new(), 64);
    };
    let mut owners = vec![FREE; slots as usize];
    let mut free = owners.len();
    let mut turn = 0;
    while free > 0 {
        turn += 1;
        for filler in &mut fillers {
            if free == 0 || turn * filler.weight < filler.used {
                continue;
            }
            filler.used += heaviest;
            while owners[filler.slot as usize] != FREE {
                filler.step(size);
            }
            owners[filler.slot as usize] = filler.member;
            free -= 1;
        }
    }
    Slots::new(owners, 64)
}

impl Filler {
    fn new(member: u32, of: &Member, size: u64) -> Filler {
        let name = of.name.as_bytes();
        Filler {
            member,
            weight: u64::from(of.weight),
            used: 0,
            slot: xxh64(name, 0) % size,
            skip: xxh64(name, 1) % (size - 1) + 1,
        }
    }

    fn step(&mut self, size: u64) {
        self.slot = (self.slot + self.skip) % size;
    }
}

/// Whether `n` is a prime: what the number of slots must be.
pub fn is_prime(n: u32) -> bool {
    n >= 2 && (2..).take_while(|&d: &u32| u64::from(d).pow(2) <= u64::from(n)).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Primes are told from the others, at both ends of the range too.
    #[test]
    fn primes() {
        let small: Vec<u32> = (0..40).filter(|&n| is_prime(n)).collect();
        assert_eq!(small, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
        assert!(is_prime(65537) && is_prime(4294967291));
        assert!(!is_prime(65536) && !is_prime(4294967295) && !is_prime(65521 * 65521));
    }
}

//! THE ORDER OF PREFERENCE: the owners met on the way round, each once.

use super::table::Table;

/// Bits that remember which members were met. A member beyond them shares a bit with others.
const SEEN_BITS: usize = 1024;

/// Members in order of preference, each once. Allocates nothing.
///
/// Meant for the first few: among more than 1,024 members a repeated one is told by looking back
/// over the walk, which takes longer the further the walk has come.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    table: &'a Table,
    start: usize,
    walked: usize,
    /// Members that have a place and were not met yet.
    left: usize,
    seen: [u64; SEEN_BITS / 64],
}

impl<'a> Candidates<'a> {
    /// From this position on; `placed` members have a place.
    pub(super) fn new(table: &'a Table, start: usize, placed: usize) -> Candidates<'a> {
        Candidates { table, start, walked: 0, left: placed, seen: [0; SEEN_BITS / 64] }
    }

    /// The owner of the position this many steps from the start.
    fn owner(&self, steps: usize) -> usize {
        let p = self.start + steps;
        self.table.owner(if p < self.table.len() { p } else { p - self.table.len() })
    }

    /// Whether this owner was not met within the first `steps` steps.
    fn is_new(&mut self, owner: usize, steps: usize) -> bool {
        let bit = owner % SEEN_BITS;
        let (word, mask) = (&mut self.seen[bit / 64], 1 << (bit % 64));
        if *word & mask == 0 {
            *word |= mask;
            return true;
        }
        (0..steps).all(|before| self.owner(before) != owner)
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.left > 0 && self.walked < self.table.len() {
            let steps = self.walked;
            self.walked += 1;
            let owner = self.owner(steps);
            if self.is_new(owner, steps) {
                self.left -= 1;
                return Some(owner);
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Candidates<'_> {}
impl std::iter::FusedIterator for Candidates<'_> {}

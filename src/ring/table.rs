//! The one structure behind all placements: a circle of positions, each with an owner.
//!
//! `vnode` and `ketama` sort points ([`Circle`]), `maglev` and `modula` fill slots ([`Slots`]).
//! Either way a hash falls on a position, and the order of preference is the walk from there.

/// Positions and their owners.
#[derive(Debug)]
pub(super) enum Table {
    /// A hash belongs to the first point at or after it.
    Circle(Circle),
    /// A hash belongs to the slot that is its remainder.
    Slots(Slots),
}

/// Two tables of the same geometry divide the same hashes, so they can be compared range by range.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Geometry {
    /// Points on a circle of this many bits.
    Circle(u32),
    /// This many slots for hashes of this many bits.
    Slots(usize, u32),
}

impl Table {
    /// The position that a hash falls on. 0 when there is none.
    #[inline]
    pub(super) fn locate(&self, hash: u64) -> usize {
        match self {
            Table::Circle(circle) => circle.locate(hash),
            Table::Slots(slots) => slots.locate(hash),
        }
    }

    /// The owner of a position.
    ///
    /// # Panics
    /// When there is no such position.
    #[inline]
    pub(super) fn owner(&self, position: usize) -> usize {
        match self {
            Table::Circle(circle) => circle.points[position].owner as usize,
            Table::Slots(slots) => slots.owners[position] as usize,
        }
    }

    /// The owner of the position that a hash falls on.
    ///
    /// # Panics
    /// When there is no position.
    #[inline]
    pub(super) fn first(&self, hash: u64) -> usize {
        match self {
            Table::Circle(circle) => {
                circle.find(hash).map_or(circle.points[0], |(_, point)| point).owner as usize
            }
            Table::Slots(slots) => slots.owners[slots.locate(hash)] as usize,
        }
    }

    /// How many positions there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Table::Circle(circle) => circle.points.len(),
            Table::Slots(slots) => slots.owners.len(),
        }
    }

    /// The positions from `start` on, once round.
    #[inline]
    pub(super) fn walk(&self, start: usize) -> impl Iterator<Item = usize> {
        (start..self.len()).chain(0..start)
    }

    pub(super) fn geometry(&self) -> Geometry {
        match self {
            Table::Circle(circle) => Geometry::Circle(circle.bits),
            Table::Slots(slots) => Geometry::Slots(slots.owners.len(), slots.bits),
        }
    }

    /// The number of hashes there are.
    pub(super) fn space(&self) -> u128 {
        match self {
            Table::Circle(circle) => 1 << circle.bits,
            Table::Slots(slots) => 1 << slots.bits,
        }
    }

    /// All hashes, as ranges of hashes with the same position: where each ends (exclusive) and its
    /// position. The hashes of a slot lie scattered; they are laid out here as one range, at the
    /// same place in every table of the same geometry.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u128, usize)> {
        let last = match self {
            Table::Circle(circle) if !circle.points.is_empty() => Some((self.space(), 0)),
            _ => None,
        };
        (0..self.len()).map(|p| (self.end(p), p)).chain(last)
    }

    /// Where the range of a position ends (exclusive). A circle's first position has what lies behind
    /// the last one too.
    fn end(&self, p: usize) -> u128 {
        match self {
            Table::Circle(circle) => circle.position(p) + 1,
            Table::Slots(slots) => {
                let count = slots.owners.len() as u128;
                let (each, rest) = (self.space() / count, self.space() % count);
                each * (p as u128 + 1) + rest.min(p as u128 + 1)
            }
        }
    }

    /// How many hashes fall on a position.
    pub(super) fn width(&self, p: usize) -> u128 {
        let before = p.checked_sub(1);
        let own = self.end(p) - before.map_or(0, |before| self.end(before));
        match self {
            Table::Circle(circle) if p == 0 => own + self.space() - self.end(circle.points.len() - 1),
            _ => own,
        }
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Table::Circle(circle) => {
                size_of_val(&*circle.points) + size_of_val(&*circle.low) + size_of_val(&*circle.starts)
            }
            Table::Slots(slots) => size_of_val(&*slots.owners),
        }
    }
}

/// At which positions each member stands.
#[derive(Debug)]
pub(super) struct Places {
    /// The positions, those of one member behind those of the one before.
    all: Box<[u32]>,
    /// Where each member's end.
    ends: Box<[u32]>,
}

impl Places {
    pub(super) fn new(table: &Table, members: usize) -> Places {
        let mut ends = vec![0; members];
        (0..table.len()).for_each(|p| ends[table.owner(p)] += 1);
        let mut sum = 0;
        for end in &mut ends {
            // From its count to where it begins.
            sum += std::mem::replace(end, sum);
        }
        let mut all = vec![0; table.len()];
        for p in 0..table.len() {
            let end = &mut ends[table.owner(p)];
            all[*end as usize] = p as u32;
            *end += 1;
        }
        Places { all: all.into(), ends: ends.into() }
    }

    /// A member's, in ascending order.
    pub(super) fn of(&self, member: usize) -> &[u32] {
        let from = member.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[from as usize..self.ends[member] as usize]
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.all) + size_of_val(&*self.ends)
    }
}

/// Slots that take hashes by their remainder.
#[derive(Debug)]
pub(super) struct Slots {
    owners: Box<[u32]>,
    bits: u32,
}

impl Slots {
    /// Slots for hashes of `bits` bits.
    pub(super) fn new(owners: Vec<u32>, bits: u32) -> Slots {
        Slots { owners: owners.into(), bits }
    }

    #[inline]
    fn locate(&self, hash: u64) -> usize {
        hash.checked_rem(self.owners.len() as u64).unwrap_or(0) as usize
    }
}

/// Sorted points, with an index on the top bits that narrows the search to a few of them.
///
/// A lookup in a large ring is bound by cache misses, and this layout makes one: the index is small
/// enough to stay near, and the top half of a point lies next to its owner. The low halves are read
/// only to settle a tie.
#[derive(Debug)]
pub(super) struct Circle {
    points: Box<[Point]>,
    /// The low halves of the positions; empty when hashes have 32 bits.
    low: Box<[u32]>,
    /// For each value of the top bits the first point that is not below it.
    starts: Box<[u32]>,
    /// Shifts a hash so that only the bits that index `starts` remain.
    narrow: u32,
    bits: u32,
}

/// The index has at most 2^18 buckets, 1 MiB: about one point each up to 1,000 nodes of 160 points.
/// With a larger one a lookup among 10,000 nodes that waits for the one before took twice as long,
/// for it misses the cache twice.
const INDEX_BITS_MAX: u32 = 18;

#[derive(Clone, Copy, Debug)]
struct Point {
    high: u32,
    owner: u32,
}

impl Circle {
    /// Sorts points (a hash of `bits` bits, 32 or 64, and a rank); points on the same hash stand in
    /// the order of their ranks. `owners[rank]` is the owner.
    pub(super) fn new(mut points: Vec<(u64, u32)>, owners: &[u32], bits: u32) -> Circle {
        points.sort_unstable();
        let index_bits = points.len().next_power_of_two().ilog2().clamp(1, INDEX_BITS_MAX);
        let narrow = 64 - index_bits;
        let mut starts = vec![0; 1 << index_bits];
        let mut next = 0;
        for (p, &(hash, _)) in points.iter().enumerate() {
            let bucket = (hash << (64 - bits) >> narrow) as usize;
            while next <= bucket {
                starts[next] = p as u32;
                next += 1;
            }
        }
        starts[next..].fill(points.len() as u32);
        let wide = bits == 64;
        let low = if wide { points.iter().map(|&(hash, _)| hash as u32).collect() } else { Box::default() };
        let high = |hash: u64| if wide { (hash >> 32) as u32 } else { hash as u32 };
        let points =
            points.iter().map(|&(hash, rank)| Point { high: high(hash), owner: owners[rank as usize] });
        Circle { points: points.collect(), low, starts: starts.into(), narrow, bits }
    }

    #[inline]
    fn locate(&self, hash: u64) -> usize {
        self.find(hash).map_or(0, |(p, _)| p)
    }

    /// The first point at or after a hash, with its position; none when only the first of all is.
    #[inline(always)]
    fn find(&self, hash: u64) -> Option<(usize, Point)> {
        let hash = hash << (64 - self.bits);
        let (high, low) = ((hash >> 32) as u32, hash as u32);
        let mut p = self.starts[(hash >> self.narrow) as usize] as usize;
        while let Some(point) = self.points.get(p) {
            if point.high > high || point.high == high && self.low(p) >= low {
                return Some((p, *point));
            }
            p += 1;
        }
        None
    }

    #[inline]
    fn low(&self, p: usize) -> u32 {
        self.low.get(p).copied().unwrap_or(0)
    }

    /// The hash that a point stands on.
    fn position(&self, p: usize) -> u128 {
        let high = self.points[p].high;
        u128::from(if self.bits == 64 { u64::from(high) << 32 | u64::from(self.low[p]) } else { high.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Points that crowd some places of the circle, and share hashes now and then.
    fn points(bits: u32) -> impl Strategy<Value = Vec<(u64, u32)>> {
        let hash = prop_oneof![
            any::<u64>().prop_map(move |h| h >> (64 - bits)),
            (0u64..50).prop_map(move |h| (u64::MAX >> (64 - bits)) - h),
            (0u64..50).prop_map(|h| h),
            (0u64..50).prop_map(move |h| (1 << (bits - 1)) + h),
        ];
        prop::collection::vec((hash, 0u32..20), 1..80)
    }

    /// The plain meaning of a circle: the first point, by hash and then by rank, at or after.
    fn plain(points: &[(u64, u32)], hash: u64) -> u32 {
        let mut sorted = points.to_vec();
        sorted.sort();
        sorted.iter().find(|&&(at, _)| at >= hash).unwrap_or(&sorted[0]).1
    }

    proptest! {
        /// The index narrows the search and never decides: every hash, on, before and after each
        /// point, finds the owner that a plain search finds.
        #[test]
        fn narrowed_search_is_the_plain_search(
            (bits, points) in prop_oneof![Just(32u32), Just(64)].prop_flat_map(|b| (Just(b), points(b))),
            hashes in prop::collection::vec(any::<u64>(), 20),
        ) {
            let owners: Vec<u32> = (0..20).collect();
            let table = Table::Circle(Circle::new(points.clone(), &owners, bits));
            let max = u64::MAX >> (64 - bits);
            let near = points.iter().flat_map(|&(h, _)| [h.saturating_sub(1), h, h.saturating_add(1).min(max)]);
            for hash in near.chain(hashes.iter().map(|h| h >> (64 - bits))).chain([0, max]) {
                prop_assert_eq!(table.owner(table.locate(hash)) as u32, plain(&points, hash));
            }
        }

        /// The ranges cover all hashes once, in order, and agree with the search at their edges.
        #[test]
        fn ranges_agree_with_the_search(
            (bits, points) in prop_oneof![Just(32u32), Just(64)].prop_flat_map(|b| (Just(b), points(b))),
        ) {
            let owners: Vec<u32> = (0..20).collect();
            let table = Table::Circle(Circle::new(points, &owners, bits));
            let mut from = 0;
            for (end, position) in table.ranges() {
                prop_assert!(end >= from);
                if end > from {
                    prop_assert_eq!(table.locate(from as u64), position);
                    prop_assert_eq!(table.locate((end - 1) as u64), position);
                }
                from = end;
            }
            prop_assert_eq!(from, table.space());
        }
    }

    /// The ranges of slots are as wide as the slots are likely.
    #[test]
    fn slots_are_as_wide_as_their_remainders() {
        let table = Table::Slots(Slots::new(vec![0, 1, 2], 32));
        let ends: Vec<u128> = table.ranges().map(|(end, _)| end).collect();
        assert_eq!(ends, [1431655766, 2863311531, 4294967296]);
        assert_eq!([5, 6, 7].map(|hash| table.owner(table.locate(hash))), [2, 0, 1]);
    }

    /// A table without positions has no ranges, and looking into it does not panic.
    #[test]
    fn empty_tables() {
        for table in
            [Table::Circle(Circle::new(Vec::new(), &[], 64)), Table::Slots(Slots::new(Vec::new(), 64))]
        {
            assert_eq!(table.locate(7), 0);
            assert_eq!(table.ranges().count(), 0);
            assert_eq!(table.walk(0).count(), 0);
        }
    }
}

//! WHO OWNS HOW MUCH, and how much changes hands between two rings. Not for a hot path.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Placement, Ring, table::Table, vnode};

/// Hashes of so few bits are counted one by one: they are not spread evenly over any ring.
const COUNTABLE_BITS: u32 = 16;

/// Keys that are asked for where two rings can't be compared hash by hash.
const SAMPLES: u64 = 1_000_000;

/// A predicate over the members of a ring: whether the member serves.
type Serves<'a> = &'a dyn Fn(usize) -> bool;

/// The part of the key space whose owner changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Its share of the key space, 0 to 1.
    pub moved: f64,
    /// The same by pair of old and new owner, the largest first.
    pub moves: Vec<Move>,
    /// Whether the shares come from a million pseudo-random keys, because the two rings place or
    /// hash keys too differently to be compared range by range. Otherwise they are exact.
    ///
    /// Where the rings have different hash tags, half of these keys carry the one and half the
    /// other: the share is that of tagged keys, the worst case.
    pub sampled: bool,
}

/// A part of the key space that goes from one owner to another. `None` is nobody.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Move {
    /// The name of the old owner.
    pub from: Option<Arc<str>>,
    /// The name of the new owner.
    pub to: Option<Arc<str>>,
    /// The share of the key space that moves, 0 to 1.
    pub share: f64,
}

/// What changes hands from an old ring, of which some members serve, to a new one. Members are the
/// same when their names are.
pub fn diff(old: (&Ring, Serves), new: (&Ring, Serves)) -> Diff {
    let mut tally = Tally::new(old.0, new.0);
    let (old, new) = (Owners::new(old.0, old.1), Owners::new(new.0, new.1));
    let (a, b) = (&old.ring.settings, &new.ring.settings);
    let same_hash = (a.hash, a.char_sign, a.hash_tag) == (b.hash, b.char_sign, b.hash_tag);
    let sampled = if same_hash && a.hash.bits() <= COUNTABLE_BITS {
        for hash in 0..1 << a.hash.bits() {
            tally.add(old.of_key_hash(hash), new.of_key_hash(hash), 1);
        }
        false
    } else if same_hash && old.ring.table.geometry() == new.ring.table.geometry() {
        merge(&old, &new, &mut tally);
        false
    } else {
        sample(&old, &new, &mut tally);
        true
    };
    tally.finish(sampled)
}

/// The share of the key space whose owner changes when other members of the same ring serve: what
/// [`diff`] says of it, in one pass that keeps nothing.
pub(super) fn moved(ring: &Ring, before: Serves, after: Serves) -> f64 {
    if ring.settings.hash.bits() <= COUNTABLE_BITS {
        return diff((ring, before), (ring, after)).moved;
    }
    let table = &ring.table;
    let serves: Vec<[bool; 2]> = (0..ring.members.len()).map(|i| [before(i), after(i)]).collect();
    // As in `Owners`: from the last position back, each takes over from the one behind it.
    let first = |when: usize| (0..table.len()).map(|p| table.owner(p)).find(|&owner| serves[owner][when]);
    let (mut old, mut new) = (first(0), first(1));
    let mut width = 0;
    for position in (0..table.len()).rev() {
        let owner = table.owner(position);
        let [then, now] = serves[owner];
        old = if then { Some(owner) } else { old };
        new = if now { Some(owner) } else { new };
        if old != new {
            width += table.width(position);
        }
    }
    width as f64 / table.space() as f64
}

/// The share of the key space that each member owns when only those serve that `serves` names.
pub(super) fn shares(ring: &Ring, serves: Serves) -> Vec<f64> {
    let owners = Owners::new(ring, serves);
    let mut widths = vec![0u128; ring.members.len()];
    let mut add = |owner: Option<usize>, width: u128| {
        if let Some(owner) = owner {
            widths[owner] += width;
        }
    };
    let bits = ring.settings.hash.bits();
    let total = if bits <= COUNTABLE_BITS {
        (0..1 << bits).for_each(|hash| add(owners.of_key_hash(hash), 1));
        1 << bits
    } else {
        let mut from = 0;
        for (end, position) in ring.table.ranges() {
            add(owners.at(position), end - from);
            from = end;
        }
        ring.table.space()
    };
    widths.into_iter().map(|width| width as f64 / total as f64).collect()
}

/// The share of the key space that one member owns when it serves, and of the others those that `serves`
/// names.
pub(super) fn share_of(ring: &Ring, member: usize, serves: Serves) -> f64 {
    if ring.settings.hash.bits() <= COUNTABLE_BITS {
        return shares(ring, &|i| i == member || serves(i))[member];
    }
    let table = &ring.table;
    let mut width = 0;
    for place in places(ring, member) {
        width += table.width(place);
        // It takes over from those before it that do not serve.
        let before = (0..place).rev().chain((place + 1..table.len()).rev());
        let is_passed_on = |p: &usize| table.owner(*p) != member && !serves(table.owner(*p));
        width += before.take_while(is_passed_on).map(|p| table.width(p)).sum::<u128>();
    }
    width as f64 / table.space() as f64
}

/// Where a member stands, without a look at all positions of a large ring.
fn places(ring: &Ring, member: usize) -> Vec<usize> {
    let table = &ring.table;
    let is_own = |p: &usize| table.owner(*p) == member;
    let (&Placement::Vnode { points }, None) = (&ring.settings.placement, &ring.places) else {
        let places = ring.places.iter().flat_map(|places| places.of(member));
        return places.map(|p| *p as usize).collect();
    };
    let hashes = vnode::points(points, &ring.members[member]);
    // On one hash others may stand before it.
    let mut places: Vec<usize> =
        hashes.filter_map(|hash| table.walk(table.locate(hash)).find(is_own)).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The owner of every position of a ring when only some members serve.
struct Owners<'a> {
    ring: &'a Ring,
    by_position: Vec<Option<u32>>,
}

impl<'a> Owners<'a> {
    fn new(ring: &'a Ring, serves: Serves) -> Owners<'a> {
        let serves: Vec<bool> = (0..ring.members.len()).map(serves).collect();
        let table: &Table = &ring.table;
        let serving = |position| Some(table.owner(position)).filter(|&owner| serves[owner]);
        // From the last position back, so that each takes over from the one behind it; what stands
        // behind the last one is found by going round.
        let mut owner = (0..table.len()).find_map(serving).map(|owner| owner as u32);
        let mut by_position = vec![None; table.len()];
        for (position, slot) in by_position.iter_mut().enumerate().rev() {
            owner = serving(position).map(|owner| owner as u32).or(owner);
            *slot = owner;
        }
        Owners { ring, by_position }
    }

    fn at(&self, position: usize) -> Option<usize> {
        self.by_position.get(position).copied().flatten().map(|owner| owner as usize)
    }

    fn of_hash(&self, hash: u64) -> Option<usize> {
        self.at(self.ring.table.locate(hash))
    }

    fn of_key_hash(&self, hash: u64) -> Option<usize> {
        self.of_hash(self.ring.spread(hash))
    }
}

/// Walks both rings' ranges side by side.
fn merge(old: &Owners, new: &Owners, tally: &mut Tally) {
    let (mut olds, mut news) = (old.ring.table.ranges(), new.ring.table.ranges());
    let nobody = (old.ring.table.space(), usize::MAX);
    let mut next_old = || olds.next().unwrap_or(nobody);
    let mut next_new = || news.next().unwrap_or(nobody);
    let (mut a, mut b) = (next_old(), next_new());
    let mut from = 0;
    while from < nobody.0 {
        let end = a.0.min(b.0);
        tally.add(old.at(a.1), new.at(b.1), end - from);
        from = end;
        if a.0 == end {
            a = next_old();
        }
        if b.0 == end {
            b = next_new();
        }
    }
}

/// Asks both rings for the owners of many keys: random bytes, the same ones every time, in hash
/// tags where the rings differ in these.
fn sample(old: &Owners, new: &Owners, tally: &mut Tally) {
    let tags = (old.ring.settings.hash_tag, new.ring.settings.hash_tag);
    for n in 0..SAMPLES {
        let mut key = (u128::from(super::finalise(n)) << 64 | u128::from(super::finalise(!n))).to_le_bytes();
        let tag = if n % 2 == 0 { tags.0 } else { tags.1 };
        if let (true, Some((open, close))) = (tags.0 != tags.1, tag) {
            (key[3], key[12]) = (open, close);
        }
        tally.add(old.of_hash(old.ring.hash(&key)), new.of_hash(new.ring.hash(&key)), 1);
    }
}

/// Adds up what was seen of the key space, by pair of owners.
struct Tally {
    names: Vec<Arc<str>>,
    /// Each ring's member as an index into `names`.
    old: Vec<usize>,
    new: Vec<usize>,
    widths: BTreeMap<(Option<usize>, Option<usize>), u128>,
    total: u128,
}

impl Tally {
    fn new(old: &Ring, new: &Ring) -> Tally {
        let mut names = Vec::new();
        let mut known: HashMap<Arc<str>, usize> = HashMap::new();
        let mut index = |ring: &Ring| -> Vec<usize> {
            let name = |m: &super::Member| {
                *known.entry(m.name.clone()).or_insert_with(|| {
                    names.push(m.name.clone());
                    names.len() - 1
                })
            };
            ring.members.iter().map(name).collect()
        };
        let (old, new) = (index(old), index(new));
        Tally { names, old, new, widths: BTreeMap::new(), total: 0 }
    }

    /// A part of the key space this wide has these owners, by index in the old and the new ring.
    fn add(&mut self, old: Option<usize>, new: Option<usize>, width: u128) {
        self.total += width;
        let (from, to) = (old.map(|i| self.old[i]), new.map(|i| self.new[i]));
        if from != to && width > 0 {
            *self.widths.entry((from, to)).or_default() += width;
        }
    }

    fn finish(self, sampled: bool) -> Diff {
        let share = |width: u128| width as f64 / self.total as f64;
        let name = |i: Option<usize>| i.map(|i| self.names[i].clone());
        let moved = share(self.widths.values().sum());
        let mut moves: Vec<Move> = self
            .widths
            .iter()
            .map(|(&(from, to), &width)| Move { from: name(from), to: name(to), share: share(width) })
            .collect();
        moves.sort_by(|a, b| {
            b.share.total_cmp(&a.share).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to)))
        });
        Diff { moved, moves, sampled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{HashKind, Member, Settings};

    fn members(count: usize) -> Vec<Member> {
        (0..count).map(|i| Member { name: format!("node-{i}").into(), weight: 1 }).collect()
    }

    fn all(_: usize) -> bool {
        true
    }

    /// Rings that place keys by different rules are compared by a million keys: of four nodes about
    /// a quarter of the keys stay.
    #[test]
    fn different_rules_are_sampled() {
        let vnode = Ring::build(&Settings::default(), &members(4));
        let maglev = Settings { placement: Placement::Maglev { slots: 65537 }, ..Settings::default() };
        let change = diff((&vnode, &all), (&Ring::build(&maglev, &members(4)), &all));
        assert!(change.sampled);
        assert!((change.moved - 0.75).abs() < 0.05, "{}", change.moved);
        assert_eq!(change.moves.len(), 12);
        assert!(change.moves.is_sorted_by(|a, b| a.share >= b.share));
    }

    /// A new hash tag is judged by keys that carry the old or the new one.
    #[test]
    fn another_hash_tag_is_sampled() {
        let ring = |hash_tag| Ring::build(&Settings { hash_tag, ..Settings::default() }, &members(4));
        let change = diff((&ring(Some((b'{', b'}'))), &all), (&ring(Some((b'<', b'>'))), &all));
        assert!(change.sampled);
        assert!((change.moved - 0.75).abs() < 0.05, "{}", change.moved);
    }

    /// Hashes of few bits are counted one by one, also between different rules.
    #[test]
    fn few_bits_are_counted() {
        let of = |placement| Settings { placement, hash: HashKind::Crc32, ..Settings::default() };
        let old = Ring::build(&of(Placement::Modula), &members(4));
        let new = Ring::build(&of(Placement::Maglev { slots: 251 }), &members(4));
        let change = diff((&old, &all), (&new, &all));
        let differs = |hash: &u64| old.first(old.spread(*hash)) != new.first(new.spread(*hash));
        let moved = (0..1 << 15).filter(differs).count();
        assert!(!change.sampled && moved > 0);
        assert_eq!(change.moved, moved as f64 / f64::from(1 << 15));
    }

    /// A member keeps its identity through a new place in the list, and loses it with its name.
    #[test]
    fn names_are_identities() {
        let mut changed = members(3);
        changed.rotate_left(1);
        let old = Ring::build(&Settings::default(), &members(3));
        assert_eq!(diff((&old, &all), (&Ring::build(&Settings::default(), &changed), &all)).moves, []);
        changed[2].name = "other".into();
        let new = Ring::build(&Settings::default(), &changed);
        let renamed = diff((&old, &all), (&new, &all));
        assert!(
            renamed
                .moves
                .iter()
                .all(|m| m.from.as_deref() == Some("node-0") || m.to.as_deref() == Some("other"))
        );
        let share = old.shares(all)[0];
        assert!(renamed.moved > share && renamed.moved < share + new.shares(all)[2]);
    }

    /// Away members of a maglev table cost their slots, exactly.
    #[test]
    fn slots_are_merged_exactly() {
        let settings = Settings { placement: Placement::Maglev { slots: 13 }, ..Settings::default() };
        let ring = Ring::build(&settings, &members(3));
        let slots = (0..13).filter(|&slot| ring.first(slot) == 1).count();
        let change = diff((&ring, &all), (&ring, &|i| i != 1));
        assert!(!change.sampled);
        assert!((change.moved - slots as f64 / 13.0).abs() < 1e-12);
    }
}

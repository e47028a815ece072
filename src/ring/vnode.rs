//! `vnode`, ringway's own placement, version 1: a node's points depend on its own name and its own
//! weight, on nothing else.
//!
//! Point `i` of a node is `xxh3_64(name, seed = i)` for `i` in `0..points * weight`. Points on the
//! same hash stand in the order of their nodes' names. This formula is for ever (the golden vectors
//! are in `tests/data/vnode1.json`); another one would be another word in the configuration.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Member, table::Circle};

/// Builds the circle.
pub(super) fn build(points: u32, members: &[Member]) -> Circle {
    let mut by_name: Vec<u32> = (0..members.len() as u32).collect();
    by_name.sort_by_key(|&i| &members[i as usize].name);
    let total: u64 = members.iter().map(|m| count(points, m)).sum();
    let mut all = Vec::with_capacity(total as usize);
    for (rank, &i) in by_name.iter().enumerate() {
        let member = &members[i as usize];
        all.extend(self::points(points, member).map(|hash| (hash, rank as u32)));
    }
    Circle::new(all, &by_name, 64)
}

/// The points of a member.
pub(super) fn points(points: u32, member: &Member) -> impl Iterator<Item = u64> {
    (0..count(points, member)).map(|seed| xxh3_64_with_seed(member.name.as_bytes(), seed))
}

/// How many points a member has.
pub(super) fn count(points: u32, member: &Member) -> u64 {
    u64::from(points) * u64::from(member.weight)
}

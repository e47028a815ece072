//! `ketama`, twemproxy's continuum, bit for bit while all nodes serve: its MD5 points, its weights
//! in single precision, its names.
//!
//! Three differences, all on purpose: twemproxy renumbers the points when it ejects a node, which
//! moves keys between the survivors, and ringway walks clockwise past a node that is away; points
//! on the same hash stand in the order of the configuration, where twemproxy leaves them to `qsort`
//! (glibc's keeps the order, too); and twemproxy cuts a name at some 260 bytes.

use super::{Member, hash::ketama_point, table::Circle};

/// Points of a node whose weight is the average.
const POINTS: f32 = 160.0;

/// Points from one MD5 digest.
const POINTS_PER_DIGEST: usize = 4;

/// Builds the circle.
pub(super) fn build(members: &[Member]) -> Circle {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    let mut points = Vec::new();
    for (i, member) in members.iter().enumerate() {
        for digest in 0..digests(member.weight, total, members.len()) {
            let label = format!("{}-{digest}", member.name);
            points.extend(
                (0..POINTS_PER_DIGEST).map(|w| (u64::from(ketama_point(label.as_bytes(), w)), i as u32)),
            );
        }
    }
    let in_order: Vec<u32> = (0..members.len() as u32).collect();
    Circle::new(points, &in_order, 32)
}

/// How many digests a node has. The arithmetic is twemproxy's, step by step in single precision:
/// equal weights give 39 digests instead of 40 for some numbers of nodes (25, 47, 50, 55 ...).
fn digests(weight: u32, total: u64, nodes: usize) -> u32 {
    let share = weight as f32 / total as f32;
    let exact = share * POINTS / POINTS_PER_DIGEST as f32 * nodes as f32;
    (f64::from(exact) + 1e-10) as f32 as u32
}

/// The name that twemproxy gives a server without one, for an address as in its configuration
/// without the weight: `host:port`, or only `host` when the port is 11211 (as libmemcached does),
/// or the path of a Unix socket with a colon at its end (a slip of its parser).
///
/// A pool that was unnamed in twemproxy keeps its placement when its nodes get these names.
pub fn twemproxy_name(address: &str) -> String {
    if address.starts_with('/') {
        return format!("{address}:");
    }
    address.strip_suffix(":11211").unwrap_or(address).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A digest gives the points that twemproxy's own test expects.
    #[test]
    fn points_of_a_digest() {
        assert_eq!(ketama_point(b"server1-8", 0), 3853726576);
        assert_eq!(ketama_point(b"server1-8", 3), 2667054752);
    }

    /// The numbers of nodes at which single precision takes four points from each node are
    /// twemproxy's.
    #[test]
    fn single_precision_loses_a_digest() {
        let short: Vec<usize> = (1..=128).filter(|&n| digests(1, n as u64, n) == 39).collect();
        assert_eq!(short, [25, 47, 50, 55, 61, 71, 94, 100, 107, 109, 110, 115, 122]);
        assert!((1..=128).all(|n| [39, 40].contains(&digests(1, n as u64, n))));
    }

    /// Names of servers without a name are as in twemproxy's statistics.
    #[test]
    fn names_of_the_unnamed() {
        assert_eq!(twemproxy_name("10.0.0.1:6379"), "10.0.0.1:6379");
        assert_eq!(twemproxy_name("cache.example:11211"), "cache.example");
        assert_eq!(twemproxy_name("/run/redis.sock"), "/run/redis.sock:");
    }
}

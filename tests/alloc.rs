//! What must not allocate does not: a test binary of its own, because it counts every allocation.

use std::sync::Arc;

use ringway::ring::{HashKind, Member, Placement, Ring, Settings};

/// Hashing a key and finding its owner, the next one that serves and its first three candidates
/// allocates nothing, in every placement.
#[test]
fn a_lookup_allocates_nothing() {
    let members: Vec<Member> =
        (0..100).map(|i| Member { name: Arc::from(format!("node-{i}")), weight: 1 + i % 3 }).collect();
    let placements = [
        Placement::Vnode { points: 160 },
        Placement::Ketama,
        Placement::Maglev { slots: 65_537 },
        Placement::Modula,
    ];
    for placement in placements {
        for hash in HashKind::ALL.iter().copied() {
            let ring = Ring::build(&Settings { placement, hash, ..Settings::default() }, &members);
            let counted = allocation_counter::measure(|| {
                for key in 0..1000u32 {
                    let place = ring.hash(&key.to_le_bytes());
                    let first = ring.first(place);
                    assert!(ring.first_where(place, |i| i != first).is_some_and(|other| other != first));
                    assert_eq!(ring.candidates(place).take(3).next(), Some(first));
                }
            });
            assert_eq!(counted.count_total, 0, "{placement:?} {hash:?}");
        }
    }
}

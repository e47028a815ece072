//! The ring by size: a lookup, a lookup with the key's hash, a build; and the bytes that it holds.

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::{
    ring::{BoundedLoad, Member, Placement, Ring, Settings, finalise},
    topology::Load,
};

/// Sizes of the fleet.
const NODES: [usize; 4] = [10, 100, 1_000, 10_000];

/// Keys that are asked for in turn: so many that the largest ring is touched all over.
const KEYS: usize = 1 << 20;

fn members(count: usize) -> Vec<Member> {
    (0..count).map(|i| Member { name: format!("cache-{i:05}.example.internal").into(), weight: 1 }).collect()
}

fn ring(placement: Placement, count: usize) -> Ring {
    Ring::build(&Settings { placement, ..Settings::default() }, &members(count))
}

fn placements() -> [Placement; 3] {
    [Settings::default().placement, Placement::Ketama, Placement::Maglev { slots: Settings::SLOTS }]
}

/// What a lookup costs when the next one does not wait for it, as in a batch of requests, and when
/// it does.
fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("first");
    for placement in placements() {
        for count in NODES {
            let ring = ring(placement, count);
            println!("{} {count} nodes: {} bytes", placement.word(), ring.bytes());
            let hashes: Vec<u64> = (0..KEYS as u64).map(|n| ring.hash(&finalise(n).to_le_bytes())).collect();
            let mut n = 0;
            group.bench_function(BenchmarkId::new(placement.word(), count), |b| {
                b.iter(|| {
                    n = (n + 1) % KEYS;
                    ring.first(black_box(hashes[n]))
                })
            });
            let mut last = 0;
            group.bench_function(BenchmarkId::new(format!("{} in series", placement.word()), count), |b| {
                b.iter(|| {
                    n = (n + 1) % KEYS;
                    // The owner's lowest bits choose the next key, so nothing overlaps.
                    last = ring.first(hashes[n ^ (last & 7)]);
                    last
                })
            });
        }
    }
    group.finish();
}

/// The whole way from a key to its owner.
fn hash_and_lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("hash and first");
    let keys: Vec<String> = (0..KEYS).map(|n| format!("user:{}:profile", n * 7919)).collect();
    for count in NODES {
        let ring = ring(Settings::default().placement, count);
        let mut n = 0;
        group.bench_function(BenchmarkId::new("vnode", count), |b| {
            b.iter(|| {
                n = (n + 1) % KEYS;
                ring.first(ring.hash(black_box(keys[n].as_bytes())))
            })
        });
    }
    group.finish();
}

/// A lookup with bounded load, all nodes busy, and another worker that sends requests meanwhile.
fn bounded_lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("first bounded");
    let bound = BoundedLoad::new(125).expect("it is above 1");
    for count in [10, 50, 1_000] {
        let ring = ring(Settings::default().placement, count);
        let hashes: Vec<u64> = (0..KEYS as u64).map(|n| ring.hash(&finalise(n).to_le_bytes())).collect();
        let loads: Vec<Load> = (0..count).map(|_| Load::default()).collect();
        loads.iter().for_each(Load::began);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other_worker = || {
                for hash in hashes.iter().cycle().take_while(|_| !is_over.load(Relaxed)) {
                    let load = &loads[ring.first(*hash)];
                    load.began();
                    load.ended();
                }
            };
            scope.spawn(other_worker);
            let mut n = 0;
            group.bench_function(BenchmarkId::new("vnode", count), |b| {
                b.iter(|| {
                    n = (n + 1) % KEYS;
                    ring.first_bounded(black_box(hashes[n]), bound, |_| true, |i| loads[i].value())
                })
            });
            is_over.store(true, Relaxed);
        });
    }
    group.finish();
}

/// What a change of membership costs the control plane.
fn builds(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for placement in placements() {
        for count in NODES {
            let members = members(count);
            let settings = Settings { placement, ..Settings::default() };
            group.bench_function(BenchmarkId::new(placement.word(), count), |b| {
                b.iter(|| Ring::build(&settings, black_box(&members)))
            });
        }
    }
    group.finish();
}

/// What the warmth budget asks before a node leaves or comes back, while half of the others are away: what
/// this one has of the key space.
fn shares(c: &mut Criterion) {
    let mut group = c.benchmark_group("share of one");
    for placement in placements() {
        for count in NODES {
            let ring = ring(placement, count);
            let mut n = 0;
            group.bench_function(BenchmarkId::new(placement.word(), count), |b| {
                b.iter(|| {
                    n = (n + 1) % count;
                    ring.share_of(n, |i| i % 2 == 0)
                })
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookups, hash_and_lookup, bounded_lookups, builds, shares);
criterion_main!(benches);

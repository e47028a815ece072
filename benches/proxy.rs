//! The small steps of the hot path beside ring and framing: the topology's cached load, one more
//! duration in a histogram, and replies that become one.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::{
    membership::{Births, IdSource, first_topology},
    metrics::Histogram,
    net::Address,
    protocol::resp::{
        Version,
        merge::{Part, gather, split},
        rule::{Gather, Split},
        write,
    },
    ring,
    topology::{HealthSettings, NodeSpec, Policy, PoolSpec, Topology, channel},
};

/// Nodes of the topology, and parts of a reply.
const NODES: usize = 4;
/// Keys of the request whose replies are merged.
const KEYS: usize = 10;
const VALUE: &[u8] = &[b'x'; 64];

fn topology() -> Topology {
    let node = |i: usize| NodeSpec {
        name: format!("n{i}").into(),
        address: Address::Tcp { host: "127.0.0.1".to_owned(), port: 1 },
        weight: 1,
        zone: None,
    };
    let spec = PoolSpec {
        name: "cache".into(),
        listen: Vec::new(),
        ring: ring::Settings::default(),
        policy: Arc::new(Policy::default()),
        health: HealthSettings::default(),
        nodes: (0..NODES).map(node).collect(),
    };
    let births = Births { ids: IdSource::default(), workers: 1, bell: Arc::default() };
    first_topology(&spec, &births, |_| Arc::from([]))
}

/// What a request pays to know the topology: while it stays, through the reader's cache and without
/// it; and when each load finds a new one, the publish included.
fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topology");
    let (writer, reader) = channel(topology());
    let mut cache = reader.cache();
    group.bench_function("cached load", |bencher| bencher.iter(|| black_box(cache.load()).epoch));
    group.bench_function("full load", |bencher| bencher.iter(|| black_box(reader.load()).epoch));
    group.bench_function("publish and cached load", |bencher| {
        bencher.iter(|| {
            let now = writer.current();
            writer.publish(Topology { revision: now.revision + 1, ..Topology::clone(&now) });
            black_box(cache.load()).revision
        });
    });
    group.finish();
}

fn histogram(criterion: &mut Criterion) {
    let histogram = Histogram::default();
    let mut us = 1;
    criterion.bench_function("histogram/add", |bencher| {
        bencher.iter(|| {
            // Other buckets in turn, as latencies are.
            us = us * 5 % 65_521;
            histogram.record(black_box(us));
        });
    });
}

/// Replies of four nodes to one request of ten keys, or to one that asks them all.
fn merges(criterion: &mut Criterion) {
    let positions: Vec<Vec<u32>> = (0..NODES)
        .map(|node| (0..KEYS as u32).filter(|key| *key as usize % NODES == node).collect())
        .collect();
    let values = |count: usize| {
        let mut reply = Vec::new();
        write::array(&mut reply, count);
        (0..count).for_each(|_| write::bulk(&mut reply, VALUE));
        reply
    };
    let arrays: Vec<Vec<u8>> = positions.iter().map(|keys| values(keys.len())).collect();
    let same = |reply: &[u8]| vec![reply.to_vec(); NODES];
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(1));
    let kinds = [
        ("mget_10", Split::Values, arrays),
        ("mset_10", Split::Pairs, same(b"+OK\r\n")),
        ("del_10", Split::Count, same(b":2\r\n")),
    ];
    let mut out = Vec::new();
    for (name, kind, replies) in &kinds {
        let parts = parts(replies, &positions);
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(split(*kind, KEYS, black_box(&parts), false, &mut out))
            });
        });
    }
    let sizes = same(b":123456\r\n");
    let parts = parts(&sizes, &positions);
    group.bench_function("dbsize", |bencher| {
        bencher.iter(|| {
            out.clear();
            gather(Gather::Sum, black_box(&parts), Version::Resp2, &|_, _| true, 0, &mut out)
        });
    });
    group.finish();
}

fn parts<'a>(replies: &'a [Vec<u8>], positions: &'a [Vec<u32>]) -> Vec<Part<'a>> {
    let part = |(reply, positions): (&'a Vec<u8>, &'a Vec<u32>)| Part { node: "n1", reply, positions };
    replies.iter().zip(positions).map(part).collect()
}

criterion_group!(benches, loads, histogram, merges);
criterion_main!(benches);

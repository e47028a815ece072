//! Cutting requests and replies: time per frame, in batches as a session or pipeline reads them.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::protocol::resp::{
    frame::{FrameLimits, RequestDecoder, Scanner, Step},
    write,
};

const LIMITS: FrameLimits = FrameLimits { bulk_bytes: 512 << 20, request_bytes: 1 << 30, args_max: 1 << 20 };

/// Frames in one batch.
const BATCH: usize = 100;

fn batch(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..BATCH {
        write::request(&mut bytes, args);
    }
    bytes
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(BATCH as u64));
    let key: &[u8] = b"user:0000000042:session";
    let mget: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(std::iter::repeat_n(key, 10)).collect();
    for (name, bytes) in [
        ("get", batch(&[b"GET", key])),
        ("set_100_bytes", batch(&[b"SET", key, &[b'x'; 100]])),
        ("mget_10", batch(&mget)),
        ("inline_get", b"GET user:0000000042:session\r\n".repeat(BATCH)),
    ] {
        let mut decoder = RequestDecoder::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(bytes.as_slice());
                while let Ok(Step::Request(n) | Step::Inline(n)) = decoder.decode(rest, &LIMITS) {
                    black_box(decoder.spans());
                    rest = &rest[n..];
                }
                assert!(rest.is_empty(), "all of the batch is read");
            });
        });
    }
}

fn replies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut bulk = Vec::new();
    write::bulk(&mut bulk, &[b'x'; 100]);
    let mut array = Vec::new();
    write::array(&mut array, 10);
    array.extend(bulk.repeat(10));
    for (name, reply) in [("ok", b"+OK\r\n".to_vec()), ("bulk_100_bytes", bulk), ("array_10", array)] {
        let bytes = reply.repeat(BATCH);
        let mut scanner = Scanner::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(bytes.as_slice());
                while let Ok(scan) = scanner.advance(rest)
                    && scan.done
                {
                    rest = &rest[scan.used..];
                }
                assert!(rest.is_empty(), "all of the batch is read");
            });
        });
    }
}

criterion_group!(benches, requests, replies);
criterion_main!(benches);

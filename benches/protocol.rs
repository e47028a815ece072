//! Cutting requests and replies: time per frame, in batches as a session or pipeline reads them; and
//! finding a request's command and its keys. Of HTTP, which hyper cuts, what is done with a head.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderName, HeaderValue, Request as HttpRequest, request::Parts};
use ringway::protocol::{
    http::{KeyRule, KeySource, Pattern, fields, prepare, ring_key},
    memcache::{self, Awaits},
    resp::{
        frame::{FrameLimits, Request, RequestDecoder, Scanner, Step},
        table::Table,
        write,
    },
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

/// What stands between a request that is cut and the ring: its command's entry and its keys.
fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keys");
    let table = Table::new(&[], &[] as &[&str]).expect("the built-in table is sound");
    let key: &[u8] = b"user:0000000042:session";
    let mget: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(std::iter::repeat_n(key, 10)).collect();
    for (name, args) in [
        ("get", &[b"GET", key][..]),
        ("set_in_lower_case", &[b"set", key, b"value", b"ex", b"60"]),
        ("mget_10", &mget),
        ("eval_2_keys", &[b"EVAL", b"return 1", b"2", key, key, b"arg"]),
        ("xread", &[b"XREAD", b"COUNT", b"2", b"STREAMS", key, b"0-0"]),
    ] {
        let mut bytes = Vec::new();
        write::request(&mut bytes, args);
        let mut decoder = RequestDecoder::default();
        assert!(matches!(decoder.decode(&bytes, &LIMITS), Ok(Step::Request(_))), "it is one request");
        let request = Request::new(&bytes, decoder.spans());
        let mut found = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                found.clear();
                let command = table.lookup(black_box(&request)).expect("it is offered");
                command.keys(&request, 4, &mut found).expect("its keys can be found");
                assert!(!found.is_empty(), "it has keys");
            });
        });
    }
}

/// memcached: cutting a request and planning it, and finding the end of a reply.
fn memcached(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memcached");
    group.throughput(Throughput::Elements(BATCH as u64));
    let limits = memcache::Limits {
        value_bytes: 1 << 20,
        line_bytes: 2048,
        request_bytes: 1 << 24,
        args_max: 1 << 20,
    };
    let value = "x".repeat(100);
    for (name, request) in [
        ("get", "get user:0000000042:session\r\n".to_owned()),
        ("set_100_bytes", format!("set user:0000000042:session 0 0 100\r\n{value}\r\n")),
        ("mg", "mg user:0000000042:session v f k q\r\n".to_owned()),
    ] {
        let bytes = request.repeat(BATCH);
        let mut decoder = memcache::RequestDecoder::default();
        group.bench_function(format!("plan_{name}"), |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(bytes.as_bytes());
                while let Ok(memcache::Step::Request(n)) = decoder.decode(rest, &limits) {
                    black_box(decoder.request(&rest[..n]).plan());
                    rest = &rest[n..];
                }
                assert!(rest.is_empty(), "all of the batch is read");
            });
        });
    }
    let replies = format!("VALUE user:0000000042:session 0 100\r\n{value}\r\nEND\r\n").repeat(BATCH);
    group.bench_function("scan_value", |bencher| {
        let mut scanner = memcache::ReplyScanner::default();
        bencher.iter(|| {
            let mut rest = black_box(replies.as_bytes());
            while let (false, Ok(scan)) = (rest.is_empty(), scanner.advance(rest, Awaits::GET)) {
                rest = &rest[scan.used..];
            }
            assert!(rest.is_empty(), "all of the batch is read");
        });
    });
}

/// The head of a browser's request.
fn page() -> Parts {
    let fields = [
        ("host", "www.example.com"),
        ("connection", "keep-alive"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br"),
        ("cookie", "theme=dark; session=0123456789abcdef; consent=yes"),
    ];
    let request = HttpRequest::get("/articles/0000000042/comments?page=3");
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).expect("a request").into_parts().0
}

/// HTTP: bringing a request's head into its one form, finding its ring key by each kind of rule, and taking
/// out of a reply's head what is its connection's own.
fn http_heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http");
    group.bench_function("prepare", |bencher| {
        bencher.iter_batched_ref(
            page,
            |head| prepare(black_box(head)).expect("it may be forwarded"),
            BatchSize::SmallInput,
        );
    });
    let head = page();
    let host = head.headers.get("host").and_then(|host| host.to_str().ok());
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let client = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    let pattern = Pattern::new("^/articles/([0-9]+)/").expect("a pattern");
    for (name, from) in [
        ("path_and_query", KeySource::PathAndQuery),
        ("path", KeySource::Path),
        ("header", KeySource::Header(HeaderName::from_static("user-agent"))),
        ("cookie", KeySource::Cookie("session".to_owned())),
        ("host_and_path", KeySource::HostAndPath),
        ("client_address", KeySource::ClientAddress),
        ("pattern", KeySource::Capture(pattern)),
    ] {
        let rule = KeyRule { from, ..KeyRule::default() };
        group.bench_function(format!("key_{name}"), |bencher| {
            bencher.iter(|| {
                let key = ring_key(&rule, host, black_box(path), &head.headers, client);
                assert!(!key.expect("it has one").is_empty(), "it is not empty");
            });
        });
    }
    let mut reply = http::HeaderMap::new();
    for (name, value) in [
        ("server", "nginx"),
        ("content-type", "text/html"),
        ("content-length", "64"),
        ("connection", "keep-alive"),
        ("etag", "\"5f0-63b\""),
    ] {
        reply.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    group.bench_function("strip_reply", |bencher| {
        bencher.iter_batched_ref(
            || reply.clone(),
            |headers| {
                fields::strip(black_box(headers));
                fields::frame(headers, Some(64));
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, requests, replies, keys, memcached, http_heads);
criterion_main!(benches);

//! memcached's protocol: streams of requests and of replies, cut anywhere, give what they give in
//! one piece, and merging replies of any bytes says one whole thing.
//!
//! The first byte says which reply is awaited, and how large the chunks are; the rest is the stream.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::protocol::memcache::{
    Awaits, DecodeError, Limits, Plan, ReplyError, ReplyScanner, RequestDecoder, Step,
    merge::{self, Part},
    plan::Gather,
};

const LIMITS: Limits = Limits { value_bytes: 1 << 12, line_bytes: 2048, request_bytes: 1 << 14, args_max: 64 };

const AWAITED: [Awaits; 8] = [
    Awaits::GET,
    Awaits::MG,
    Awaits::STORE,
    Awaits::MS,
    Awaits::MA,
    Awaits::COUNT,
    Awaits::STATS,
    Awaits::LINE,
];

/// All requests of a stream, with what becomes of each, and the error that ended it.
fn requests(stream: &[u8], chunk: usize) -> (Vec<(usize, String)>, Option<DecodeError>) {
    let mut decoder = RequestDecoder::default();
    let (mut buffer, mut found, mut passed) = (Vec::new(), Vec::new(), 0);
    for chunk in stream.chunks(chunk) {
        buffer.extend_from_slice(chunk);
        loop {
            let here = buffer.len().min(passed);
            buffer.drain(..here);
            passed -= here;
            if passed > 0 {
                break;
            }
            let used = match decoder.decode(&buffer, &LIMITS) {
                Ok(Step::Partial(needs)) => {
                    assert!(needs > buffer.len(), "it has what it asks for");
                    break;
                }
                Ok(step @ (Step::Request(n) | Step::Large { line: n, .. })) => {
                    assert!(!decoder.is_partial(), "what is whole leaves nothing behind");
                    if let Step::Large { value, .. } = step {
                        passed = value as usize;
                    }
                    let plan = decoder.request(&buffer[..n]).plan();
                    if let Plan::One(one) = &plan {
                        let mut sent = Vec::new();
                        one.sent.write(&mut sent);
                        alone(&sent);
                        common(&sent);
                    }
                    found.push((n, format!("{plan:?}")));
                    n
                }
                Err(error) => return (found, Some(error)),
            };
            assert!(used > 0, "it stands still");
            buffer.drain(..used);
        }
    }
    (found, None)
}

/// What goes to a node is one request there too, and one that it answers.
fn alone(sent: &[u8]) {
    let mut decoder = RequestDecoder::default();
    assert_eq!(decoder.decode(sent, &LIMITS), Ok(Step::Request(sent.len())));
    match decoder.request(sent).plan() {
        Plan::One(one) => assert!(!one.awaits.is_quiet(), "the node would keep silent"),
        other => panic!("{other:?}"),
    }
}

/// It is read alike by all servers: it is a line of words with one blank between them, and what stands where
/// flags stand begins as one.
fn common(sent: &[u8]) {
    let line_feed = sent.iter().position(|b| *b == b'\n').expect("a line");
    let line = sent[..line_feed].strip_suffix(b"\r").unwrap_or(&sent[..line_feed]);
    assert!(!line.contains(&0));
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    assert!(words.iter().all(|word| !word.is_empty()), "{}", line.escape_ascii());
    let first_flag = match words[0] {
        b"ms" => 3,
        b"mg" | b"md" | b"ma" | b"me" => 2,
        name => {
            assert!(name.starts_with(b"g") || words.last() != Some(&&b"noreply"[..]), "{}", line.escape_ascii());
            return;
        }
    };
    assert!(words[first_flag.min(words.len())..].iter().all(|word| word[0].is_ascii_digit() || (65..123).contains(&word[0])));
}

/// Where the replies of a stream end, and the error that ended it.
fn ends(stream: &[u8], chunk: usize, awaits: Awaits) -> (Vec<usize>, Option<ReplyError>) {
    let (mut scanner, mut found, mut at) = (ReplyScanner::default(), Vec::new(), 0);
    while at < stream.len() {
        let end = stream.len().min(at + chunk);
        match scanner.advance(&stream[at..end], awaits) {
            Ok(scan) => {
                assert!(scan.used > 0, "it stands still");
                assert!(scan.done || scan.used == end - at, "it left bytes that belong to a reply");
                at += scan.used;
                if scan.done {
                    found.push(at);
                }
            }
            Err(error) => return (found, Some(error)),
        }
    }
    (found, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, stream)) = data.split_first() else { return };
    let (awaits, chunk) = (AWAITED[usize::from(*first % 8)], usize::from(*first / 8) + 1);
    let all = stream.len().max(1);
    for chunk in [1, chunk] {
        assert_eq!(requests(stream, chunk), requests(stream, all));
        assert_eq!(ends(stream, chunk, awaits), ends(stream, all, awaits));
    }
    let parts = [0, 1].map(|i| Part { node: "n", reply: stream, positions: [&[1u32][..], &[0]][i] });
    for gather in [Gather::Flush, Gather::Stats] {
        let mut out = Vec::new();
        let _ = merge::all(gather, &parts, &mut out);
        assert!(out.ends_with(b"\r\n"));
    }
    let mut out = Vec::new();
    let _ = merge::values(b"get a b\r\n", &parts, false, &mut out);
    let scan = ReplyScanner::default().advance(&out, Awaits::GET).expect("a merged reply is a reply");
    assert!(scan.done && scan.used == out.len(), "one whole reply");
});

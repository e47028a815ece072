//! What a real memcached answered, held against what ringway says itself.

use super::{Awaits, Code, DIFFERENCES, Limits, Plan, ReplyScanner, RequestDecoder, Scan, Step, local};
use crate::protocol::numbers::Numbers;

/// One request and all that was answered to it.
pub(crate) struct Case {
    /// Each section had a server of its own.
    pub(crate) section: String,
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Vec<u8>,
    pub(crate) closed: bool,
}

/// The recording without its sections that need a login; tests/data/memcached.py explains the form.
pub(crate) fn cases() -> Vec<Case> {
    let mut found: Vec<Case> = Vec::new();
    let mut section = "";
    for line in include_str!("../../../tests/data/memcached-replies.txt").lines() {
        if line == "= auth" {
            break;
        }
        if let Some(name) = line.strip_prefix("= ") {
            section = name;
        } else if let Some(request) = line.strip_prefix("> ") {
            let (request, section) = (unescape(request), section.to_owned());
            found.push(Case { section, request, answer: Vec::new(), closed: false });
        } else if let Some(case) = found.last_mut() {
            if let Some(answer) = line.strip_prefix("< ") {
                case.answer = unescape(answer);
            } else if line == "!" {
                case.closed = true;
            }
        }
    }
    found
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return out,
            [b'\\', b'r', after @ ..] => {
                out.push(b'\r');
                after
            }
            [b'\\', b'n', after @ ..] => {
                out.push(b'\n');
                after
            }
            [b'\\', b'\\', after @ ..] => {
                out.push(b'\\');
                after
            }
            [b'\\', b'x', h, l, after @ ..] => {
                let digit = |b: u8| (b as char).to_digit(16).expect("hexadecimal") as u8;
                out.push(digit(*h) << 4 | digit(*l));
                after
            }
            [b'\\', b'{', after @ ..] => {
                let colon = after.iter().position(|b| *b == b':').expect("a colon");
                let count: usize =
                    std::str::from_utf8(&after[..colon]).expect("text").parse().expect("a count");
                out.extend(std::iter::repeat_n(after[colon + 1], count));
                &after[colon + 3..]
            }
            [byte, after @ ..] => {
                out.push(*byte);
                after
            }
        }
    }
}

const LIMITS: Limits = Limits {
    value_bytes: 1 << 20,
    line_bytes: Limits::LINE_BYTES,
    request_bytes: 1 << 22,
    args_max: 1 << 20,
};

/// What ringway answers to a stream without any node, and whether it closes the session; `None`
/// when a node would be asked.
fn answered(stream: &[u8]) -> Option<(Vec<u8>, bool)> {
    let (mut decoder, mut out, mut at) = (RequestDecoder::default(), Vec::new(), 0);
    let numbers = Numbers::default();
    loop {
        let used = match decoder.decode(&stream[at..], &LIMITS) {
            Ok(Step::Partial(_)) => return Some((out, false)),
            Ok(step @ (Step::Request(n) | Step::Large { line: n, .. })) => {
                match decoder.request(&stream[at..at + n]).plan() {
                    Plan::One(_) | Plan::Keys(_) | Plan::All(_) => return None,
                    Plan::Local(kind) => {
                        let facts = || local::Facts { now: std::time::Duration::ZERO, numbers: &numbers };
                        local::answer(kind, facts, &mut out);
                    }
                    Plan::Refuse { line, close } => {
                        out.extend_from_slice(&line);
                        if close {
                            return Some((out, true));
                        }
                    }
                    Plan::Nothing => {}
                    Plan::Quit => return Some((out, true)),
                }
                let beyond = if let Step::Large { value, .. } = step { value as usize } else { 0 };
                n + beyond.min(stream.len() - at - n)
            }
            Err(error) => {
                out.extend_from_slice(error.line());
                return Some((out, true));
            }
        };
        at += used;
    }
}

/// What ringway answers itself is what memcached answers, byte for byte, but for what is listed.
#[test]
fn own_answers_are_memcacheds() {
    let mut compared = 0;
    for Case { request, answer, closed, .. } in cases() {
        let Some(own) = answered(&request) else { continue };
        let name = request.split(|b| matches!(b, b' ' | b'\r')).next().unwrap_or_default();
        let long = request.len() > Limits::LINE_BYTES && request.ends_with(b"\n");
        let listed = DIFFERENCES.iter().any(|(what, _)| what.as_bytes() == name) || long;
        let text = request.escape_ascii().to_string();
        let (own, recorded) =
            ((own.0.escape_ascii().to_string(), own.1), (answer.escape_ascii().to_string(), closed));
        if !listed {
            assert_eq!(own, recorded, "{text}");
            compared += 1;
        }
    }
    assert!(compared > 120, "{compared}");
}

/// What memcached answers to a request for a node is a reply that ringway expects and does not
/// swallow; where memcached says nothing, the client asked for silence. A miss is what ringway would
/// say in its place.
#[test]
fn replies_are_expected() {
    let mut compared = 0;
    for Case { request, answer, .. } in cases() {
        let mut decoder = RequestDecoder::default();
        if decoder.decode(&request, &LIMITS) != Ok(Step::Request(request.len())) {
            continue;
        }
        let text = request.escape_ascii().to_string();
        let awaits = match decoder.request(&request).plan() {
            Plan::One(one) => {
                let spoken = answer.starts_with(b"EN");
                if let Some(miss) = one.miss().filter(|_| spoken) {
                    assert_eq!(miss.escape_ascii().to_string(), answer.escape_ascii().to_string(), "{text}");
                }
                let mut sent = Vec::new();
                one.sent.write(&mut sent);
                let silenced = sent.windows(10).any(|w| w == b" noreply\r\n");
                assert!(!silenced || &*one.key == b"noreply", "{text}");
                one.awaits
            }
            Plan::Keys(_) => Awaits::GET,
            Plan::All(all) => all.awaits,
            _ => continue,
        };
        compared += 1;
        if answer.is_empty() {
            assert!(awaits.is_quiet(), "{text}");
            continue;
        }
        let mut scanner = ReplyScanner::default();
        assert_eq!(scanner.advance(&answer, awaits), Ok(Scan { used: answer.len(), done: true }), "{text}");
        assert_eq!(scanner.code(), Code::of(&answer), "{text}");
        let newer = request.starts_with(b"ma c N0 J13 v q");
        assert_eq!(awaits.swallows(scanner.code()), newer, "{text}");
    }
    assert!(compared > 150, "{compared}");
    assert_eq!(answered(b"mn\r\n"), Some((b"MN\r\n".to_vec(), false)));
}

/// What users read of the differences is what is listed.
#[test]
fn the_docs_have_all_differences() {
    let docs = include_str!("../../../docs/memcached.md");
    let section = docs.split("\n## ").find(|section| section.starts_with("Differences from memcached"));
    let rows = section.expect("a section").lines().filter(|line| line.starts_with("| ")).skip(1);
    let listed = DIFFERENCES.iter().map(|(what, how)| format!("| {what} | {how} |"));
    assert_eq!(rows.collect::<Vec<_>>(), listed.collect::<Vec<_>>());
}

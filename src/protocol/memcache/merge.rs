//! How the replies of several nodes become one. Values are copied as they are, cas ids included.

use super::{
    Code,
    plan::Gather,
    reply::Block,
    write::{END, error_text, server_error},
};
pub use crate::protocol::merge::{Merged, Part};

/// Why a part has no end.
#[derive(Clone, Copy, Debug)]
enum Fault<'a> {
    /// It is, or ends with, an error of this text.
    Said(&'a [u8]),
    /// It is not what this command answers.
    Shape,
}

/// Merges the parts of a retrieval: the values in the order of the client's keys, a key that is
/// named twice being answered twice, then `END`.
///
/// `request` is the client's own line. Behind the values of a request with a failed part stands
/// `SERVER_ERROR` in place of `END`, alone when all parts failed; with `miss_when_failed` the keys
/// of a failed part are misses instead.
pub fn values(request: &[u8], parts: &[Part<'_>], miss_when_failed: bool, out: &mut Vec<u8>) -> Merged {
    let keys = Keys::of(request);
    let mut places: Vec<&[u8]> = vec![&[]; keys.spans.len()];
    let mut faults: Vec<(usize, Fault<'_>)> = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if let Err(fault) = place(part, &keys, &mut places) {
            faults.push((i, fault));
        }
    }
    let failed = faults.len() == parts.len() && places.iter().all(|bytes| bytes.is_empty());
    if let Some((i, fault)) = faults.first()
        && (!miss_when_failed || parts.is_empty())
    {
        places.iter().for_each(|bytes| out.extend_from_slice(bytes));
        refuse(out, &parts[*i], *fault, faults.len(), parts.len(), "parts of the request");
        return if failed { Merged::Failed } else { Merged::Partly };
    }
    places.iter().for_each(|bytes| out.extend_from_slice(bytes));
    out.extend_from_slice(END);
    if faults.is_empty() { Merged::Whole } else { Merged::Partly }
}

/// The keys of a retrieval.
struct Keys<'a> {
    spans: Vec<&'a [u8]>,
}

impl<'a> Keys<'a> {
    fn of(request: &'a [u8]) -> Keys<'a> {
        let line = request.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.split(|b| *b == 0).next().unwrap_or_default();
        let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
        let skipped = usize::from(words.next().is_some_and(|name| matches!(name, b"gat" | b"gats")));
        Keys { spans: words.skip(skipped).collect() }
    }
}

/// Puts each value of a part where the client asked for it. A node answers in the order of the
/// keys, leaving out what it does not have.
fn place<'a>(part: &Part<'a>, keys: &Keys<'_>, places: &mut [&'a [u8]]) -> Result<(), Fault<'a>> {
    let mut positions = part.positions.iter();
    let mut rest = part.reply;
    while let Some(block) = Block::at(rest) {
        let at = positions.find(|at| keys.spans.get(**at as usize).is_some_and(|key| *key == block.key));
        let place = at.and_then(|at| places.get_mut(*at as usize)).ok_or(Fault::Shape)?;
        *place = block.bytes;
        rest = &rest[block.bytes.len()..];
    }
    match rest {
        END => Ok(()),
        _ => Err(said(rest)),
    }
}

fn said(reply: &[u8]) -> Fault<'_> {
    error_text(reply).map_or(Fault::Shape, Fault::Said)
}

/// Merges the replies of all nodes: `OK` of all, or their counters added up; the first error, with
/// its node's name, when there is one.
pub fn all(gather: Gather, parts: &[Part<'_>], out: &mut Vec<u8>) -> Merged {
    let mut faults = Vec::new();
    let mut sums = Sums::default();
    for (i, part) in parts.iter().enumerate() {
        let good = match gather {
            Gather::Flush => part.reply == b"OK\r\n",
            Gather::Stats => Code::of(part.reply) != Code::Error && sums.add(part.reply),
        };
        if !good {
            faults.push((i, said(part.reply)));
        }
    }
    match (faults.first(), gather) {
        (Some((i, fault)), _) => {
            refuse(out, &parts[*i], *fault, faults.len(), parts.len(), "nodes");
            return Merged::Failed;
        }
        (None, _) if parts.is_empty() => {
            server_error(out, "no node was asked");
            return Merged::Failed;
        }
        (None, Gather::Flush) => out.extend_from_slice(b"OK\r\n"),
        (None, Gather::Stats) => sums.write(parts.len(), out),
    }
    Merged::Whole
}

/// Says what failed, with the node's name unless the text has it already, as ours do.
fn refuse(out: &mut Vec<u8>, part: &Part<'_>, fault: Fault<'_>, failed: usize, all: usize, of: &str) {
    let text = match fault {
        Fault::Said(text) => text,
        Fault::Shape => b"a reply without the shape of this command's",
    };
    let node = format!("node {}", part.node);
    let named = text.windows(node.len()).any(|w| w == node.as_bytes());
    let node = if named { String::new() } else { format!("{node}: ") };
    let note = format!(" ({failed} of {all} {of} failed)");
    server_error(out, [node.as_bytes(), text, note.as_bytes()].concat());
}

/// Numbers of `stats` whose sum means nothing, although they are numbers: the first node's stands
/// for all.
const NOT_ADDED: &[&str] = &[
    "pid",
    "uptime",
    "time",
    "version",
    "libevent",
    "pointer_size",
    "accepting_conns",
    "hash_power_level",
    "hash_is_expanding",
    "slab_reassign_running",
    "lru_crawler_running",
    "time_in_listen_disabled_us_max",
];

/// Counters by name, in the order in which they came.
#[derive(Default)]
struct Sums<'a> {
    lines: Vec<(&'a [u8], Sum<'a>)>,
}

enum Sum<'a> {
    Text(&'a [u8]),
    Count(u64),
    /// Microseconds, written as seconds.
    Micros(u64),
}

impl<'a> Sum<'a> {
    fn of(name: &[u8], value: &'a [u8]) -> Sum<'a> {
        if NOT_ADDED.iter().any(|known| known.as_bytes() == name) {
            return Sum::Text(value);
        }
        match super::number::plain(value, u64::MAX) {
            Some(n) => Sum::Count(n),
            None => micros(value).map_or(Sum::Text(value), Sum::Micros),
        }
    }

    fn add(&mut self, other: &Sum<'_>) {
        match (self, other) {
            (Sum::Count(a), Sum::Count(b)) | (Sum::Micros(a), Sum::Micros(b)) => *a = a.saturating_add(*b),
            _ => {}
        }
    }
}

/// Seconds with six decimals, as memcached writes the processor time that it used.
fn micros(value: &[u8]) -> Option<u64> {
    let (seconds, decimals) = value.split_at(value.iter().position(|b| *b == b'.')?);
    let decimals = decimals.get(1..).filter(|d| d.len() == 6)?;
    let seconds = super::number::plain(seconds, u64::from(u32::MAX))?;
    Some(seconds * 1_000_000 + super::number::plain(decimals, 999_999)?)
}

impl<'a> Sums<'a> {
    /// Adds one node's; false for what is no reply to `stats`.
    fn add(&mut self, reply: &'a [u8]) -> bool {
        let Some(lines) = reply.strip_suffix(END) else { return false };
        for line in lines.split_inclusive(|b| *b == b'\n') {
            let Some(line) = line.strip_prefix(b"STAT ").and_then(|l| l.strip_suffix(b"\r\n")) else {
                return false;
            };
            let (name, value) = line.split_at(line.iter().position(|b| *b == b' ').unwrap_or(line.len()));
            let sum = Sum::of(name, value.get(1..).unwrap_or_default());
            match self.lines.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.add(&sum),
                None => self.lines.push((name, sum)),
            }
        }
        true
    }

    fn write(&self, nodes: usize, out: &mut Vec<u8>) {
        for (name, sum) in &self.lines {
            out.extend_from_slice(b"STAT ");
            out.extend_from_slice(name);
            out.push(b' ');
            match sum {
                Sum::Text(text) => out.extend_from_slice(text),
                Sum::Count(n) => out.extend_from_slice(n.to_string().as_bytes()),
                Sum::Micros(n) => {
                    out.extend_from_slice(format!("{}.{:06}", n / 1_000_000, n % 1_000_000).as_bytes());
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(format!("STAT ringway_nodes {nodes}\r\n").as_bytes());
        out.extend_from_slice(END);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part<'a>(node: &'a str, reply: &'a str, positions: &'a [u32]) -> Part<'a> {
        Part { node, reply: reply.as_bytes(), positions }
    }

    fn values_of(request: &str, parts: &[Part<'_>], miss: bool) -> (String, Merged) {
        let mut out = Vec::new();
        let merged = values(request.as_bytes(), parts, miss, &mut out);
        (String::from_utf8(out).expect("text"), merged)
    }

    /// Values come back in the client's order, doubled keys twice, misses left out, cas ids kept.
    #[test]
    fn values_in_the_clients_order() {
        let parts = [
            part("n", "VALUE c 0 1 7\r\nC\r\nVALUE a 5 5 8\r\nEND\r\n\r\nEND\r\n", &[3, 0, 4]),
            part("m", "VALUE b 0 0 9\r\n\r\nVALUE b 0 0 9\r\n\r\nEND\r\n", &[1, 2]),
        ];
        let expected = "VALUE a 5 5 8\r\nEND\r\n\r\nVALUE b 0 0 9\r\n\r\nVALUE b 0 0 9\r\n\r\nVALUE c 0 1 7\r\nC\r\nEND\r\n";
        assert_eq!(values_of("gets a b b c d\r\n", &parts, false), (expected.into(), Merged::Whole));
        assert_eq!(values_of("gats 10 a b b c d\n", &parts, false), (expected.into(), Merged::Whole));
        let odd = [part("n", "VALUE \r 0 1\r\nx\r\nEND\r\n", &[0, 1])];
        let expected = "VALUE \r 0 1\r\nx\r\nEND\r\n";
        assert_eq!(values_of("get a \r\0 z\r\n", &odd, false), (expected.into(), Merged::Whole));
        let misses = [part("n", "END\r\n", &[0]), part("m", "END\r\n", &[1])];
        assert_eq!(values_of("get a b\r\n", &misses, false), ("END\r\n".into(), Merged::Whole));
    }

    /// With a failed part the values that there are, then an error that names the node; the error
    /// alone when nothing came; misses where they are wanted.
    #[test]
    fn values_with_a_failed_part() {
        let good = part("n", "VALUE a 0 1\r\nx\r\nEND\r\n", &[0]);
        let of = |bad: &str, miss| values_of("get a b\r\n", &[good, part("m", bad, &[1])], miss);
        for (bad, text) in [
            ("SERVER_ERROR out of memory\r\n", "node m: out of memory"),
            ("SERVER_ERROR node m (10.0.0.1:11211): away\r\n", "node m (10.0.0.1:11211): away"),
            ("STORED\r\n", "node m: a reply without the shape of this command's"),
            ("VALUE z 0 1\r\nx\r\nEND\r\n", "node m: a reply without the shape of this command's"),
            ("", "node m: a reply without the shape of this command's"),
        ] {
            let expected =
                format!("VALUE a 0 1\r\nx\r\nSERVER_ERROR {text} (1 of 2 parts of the request failed)\r\n");
            assert_eq!(of(bad, false), (expected, Merged::Partly));
            assert_eq!(of(bad, true), ("VALUE a 0 1\r\nx\r\nEND\r\n".into(), Merged::Partly));
        }
        assert_eq!(
            of("VALUE b 0 1\r\ny\r\nSERVER_ERROR no\r\n", false).0,
            "VALUE a 0 1\r\nx\r\nVALUE b 0 1\r\ny\r\nSERVER_ERROR node m: no (1 of 2 parts of the request failed)\r\n"
        );
        let all = [part("n", "SERVER_ERROR no\r\n", &[0]), part("m", "ERROR\r\n", &[1])];
        assert_eq!(
            values_of("get a b\r\n", &all, false),
            ("SERVER_ERROR node n: no (2 of 2 parts of the request failed)\r\n".into(), Merged::Failed)
        );
    }

    /// All nodes are flushed, or the answer names one that was not.
    #[test]
    fn a_flush_of_all() {
        let of = |b: &str| {
            let mut out = Vec::new();
            let merged = all(Gather::Flush, &[part("n", "OK\r\n", &[]), part("m", b, &[])], &mut out);
            (String::from_utf8(out).expect("text"), merged)
        };
        assert_eq!(of("OK\r\n"), ("OK\r\n".into(), Merged::Whole));
        let expected = "SERVER_ERROR node m: flush_all not allowed (1 of 2 nodes failed)\r\n";
        assert_eq!(of("CLIENT_ERROR flush_all not allowed\r\n"), (expected.into(), Merged::Failed));
        assert_eq!(all(Gather::Flush, &[], &mut Vec::new()), Merged::Failed);
    }

    /// Counters are added up, what is no counter is the first node's, and what only one node knows
    /// is there too.
    #[test]
    fn stats_of_all() {
        let parts = [
            part(
                "n",
                "STAT pid 5\r\nSTAT rusage_user 1.900000\r\nSTAT cmd_get 3\r\nSTAT version 1.6.18\r\nEND\r\n",
                &[],
            ),
            part(
                "m",
                "STAT pid 6\r\nSTAT rusage_user 0.200001\r\nSTAT cmd_get 4\r\nSTAT new 1\r\nEND\r\n",
                &[],
            ),
        ];
        let mut out = Vec::new();
        assert_eq!(all(Gather::Stats, &parts, &mut out), Merged::Whole);
        let expected = "STAT pid 5\r\nSTAT rusage_user 2.100001\r\nSTAT cmd_get 7\r\nSTAT version 1.6.18\r\nSTAT new 1\r\n\
                        STAT ringway_nodes 2\r\nEND\r\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        for bad in ["ERROR\r\n", "STAT a 1\r\n", "OK\r\nEND\r\n", ""] {
            assert_eq!(all(Gather::Stats, &[parts[0], part("m", bad, &[])], &mut Vec::new()), Merged::Failed);
        }
    }

    proptest! {
        /// However keys are spread over nodes, the merged answer is the one that a single node
        /// would have given.
        #[test]
        fn a_split_get_is_the_whole_one(owners in prop::collection::vec((0usize..4, 0usize..6), 1..40)) {
            let (mut replies, mut positions) = (vec![String::new(); 4], vec![Vec::new(); 4]);
            let (mut request, mut whole) = ("get".to_owned(), String::new());
            for (i, (owner, key)) in owners.iter().enumerate() {
                request += &format!(" {owner}{key}");
                positions[*owner].push(i as u32);
                if *key > 1 {
                    let block = format!("VALUE {owner}{key} 0 {key}\r\n{}\r\n", &"abcdef"[..*key]);
                    replies[*owner] += &block;
                    whole += &block;
                }
            }
            replies.iter_mut().for_each(|r| *r += "END\r\n");
            let parts: Vec<Part<'_>> = (0..4).map(|i| part("n", &replies[i], &positions[i])).collect();
            prop_assert_eq!(values_of(&(request + "\r\n"), &parts, false), (whole + "END\r\n", Merged::Whole));
        }

        /// No replies of nodes make a merge panic.
        #[test]
        fn any_replies(replies in prop::collection::vec(prop::collection::vec(prop::sample::select(
            "VALUE,END,STAT, , ,\r\n,\r\n,a,b,0,1,2,x,SERVER_ERROR".split(',').collect::<Vec<_>>()), 0..24), 0..4)) {
            let replies: Vec<String> = replies.iter().map(|r| r.concat()).collect();
            let parts: Vec<Part<'_>> = replies.iter().map(|r| part("n", r, &[0, 1, 9])).collect();
            for miss in [false, true] {
                let _ = values_of("get a b\r\n", &parts, miss);
            }
            for gather in [Gather::Flush, Gather::Stats] {
                all(gather, &parts, &mut Vec::new());
            }
        }
    }
}

//! Where the keys of a request are: the key specifications that servers publish with `COMMAND`
//! (<https://redis.io/docs/latest/develop/reference/key-specs/>), read as Redis reads them.
//!
//! A request that is malformed, so that its keys can't be found, can't be executed by a server
//! either: it has no keys here, and the node that gets it says what is wrong in its own words.

use super::frame::Request;

/// One key specification: a run of keys, and how the command uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeySpec {
    /// `RO`, `access`, ... as in `COMMAND`.
    pub(super) flags: Vec<&'static str>,
    pub(super) begin: Begin,
    pub(super) find: Find,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At this argument.
    Index(usize),
    /// Behind this word, searched from an argument on; a negative one counts from the end, and
    /// the search goes towards the front.
    Keyword(&'static str, i64),
    /// The specification can't say.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    /// Up to `last`, counted from the first key; a negative one counts from the end of the
    /// request, or of its part `1 / limit` when there is a limit.
    Range {
        /// The last key.
        last: i64,
        /// From one key to the next.
        step: usize,
        /// Only this part of what is left; 0 and 1 mean all.
        limit: i64,
    },
    /// As many as an argument says. Positions are relative to where the search began.
    Count {
        /// Where the number of keys is.
        at: usize,
        /// Where the first key is.
        first: usize,
        /// From one key to the next.
        step: usize,
    },
    /// The specification can't say.
    Unknown,
}

impl KeySpec {
    /// Reads `RW,access index:1 range:0:1:0`, a specification of `commands.tsv`.
    pub(super) fn parse(text: &'static str) -> Option<KeySpec> {
        let mut parts = text.split(' ');
        let flags = parts.next()?.split(',').collect();
        let begin: Vec<&str> = parts.next()?.split(':').collect();
        let begin = match begin[..] {
            ["index", at] => Begin::Index(at.parse().ok()?),
            ["keyword", word, from] => Begin::Keyword(word, from.parse().ok()?),
            ["unknown"] => Begin::Unknown,
            _ => return None,
        };
        let find: Vec<&str> = parts.next()?.split(':').collect();
        let find = match find[..] {
            ["range", last, step, limit] => Find::Range {
                last: last.parse().ok()?,
                step: step.parse().ok().filter(|step| *step > 0)?,
                limit: limit.parse().ok()?,
            },
            ["keynum", at, first, step] => Find::Count {
                at: at.parse().ok()?,
                first: first.parse().ok()?,
                step: step.parse().ok().filter(|step| *step > 0)?,
            },
            ["unknown"] => Find::Unknown,
            _ => return None,
        };
        Some(KeySpec { flags, begin, find })
    }

    /// Whether what it describes are keys; the channels of `SPUBLISH` are not.
    pub(super) fn is_key(&self) -> bool {
        !self.flags.contains(&"not_key")
    }

    /// The position, when it describes one key that always stands at the same place.
    pub(super) fn one_place(&self) -> Option<usize> {
        match (self.begin, self.find) {
            (Begin::Index(at), Find::Range { last: 0, .. }) => Some(at),
            _ => None,
        }
    }

    /// Whether a request without keys here is whole: the keyword of an option may be missing.
    pub(super) fn is_optional(&self) -> bool {
        !matches!(self.begin, Begin::Index(_))
    }

    /// The positions of its keys; none when the request does not fit.
    pub(super) fn positions(&self, request: &Request<'_>) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.run(request).unwrap_or((1, 0, 1));
        (first..last + 1).step_by(step)
    }

    /// First, last and step, within the request.
    fn run(&self, request: &Request<'_>) -> Option<(usize, usize, usize)> {
        let count = request.len() as i64;
        let start = self.start(request)?;
        let (first, last, step) = match self.find {
            Find::Range { last, step, .. } if last >= 0 => (start as i64, start as i64 + last, step),
            Find::Range { last, step, limit } if limit > 1 => {
                (start as i64, start as i64 + (count - start as i64) / limit + last, step)
            }
            Find::Range { last, step, .. } => (start as i64, count + last, step),
            Find::Count { at, first, step } => {
                let keys = number(request.arg(start + at)).filter(|keys| *keys > 0)?;
                let first = (start + first) as i64;
                (first, (keys - 1).checked_mul(step as i64)?.checked_add(first)?, step)
            }
            Find::Unknown => return None,
        };
        (first >= 1 && first <= last && last < count).then_some((first as usize, last as usize, step))
    }

    /// Where the search begins. A keyword in the last argument has nothing behind it.
    fn start(&self, request: &Request<'_>) -> Option<usize> {
        match self.begin {
            Begin::Index(at) => Some(at),
            Begin::Keyword(word, from) => {
                let is_word = |at: &usize| request.arg(*at).eq_ignore_ascii_case(word.as_bytes());
                let last = request.len().saturating_sub(1);
                if from >= 0 {
                    (from as usize..last).find(is_word).map(|at| at + 1)
                } else {
                    let from = request.len().checked_sub(from.unsigned_abs() as usize)?;
                    (2..=from.min(last)).rev().find(is_word).map(|at| at + 1)
                }
            }
            Begin::Unknown => None,
        }
    }
}

/// A count of keys. More is understood than by servers (`+1`, `01`): a request that another
/// server could accept must not be sent to the wrong node.
fn number(arg: &[u8]) -> Option<i64> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::resp::table::tests::with_request;

    fn positions(spec: &'static str, request: &str) -> Vec<usize> {
        let spec = KeySpec::parse(spec).expect("a specification");
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        with_request(&words, |request| spec.positions(request).collect())
    }

    /// Each kind of specification finds the keys that it describes, and none in a malformed
    /// request.
    #[test]
    fn a_table_of_specifications() {
        for (spec, request, expected) in [
            ("RO index:1 range:0:1:0", "get a", &[1][..]),
            ("RO index:1 range:0:1:0", "get", &[]),
            ("RO index:1 range:-1:1:0", "mget a b c", &[1, 2, 3]),
            ("OW index:1 range:-1:2:0", "mset a 1 b 2", &[1, 3]),
            ("RW index:1 range:-2:1:0", "blpop a b 0", &[1, 2]),
            ("RW index:1 range:1:1:0", "rename a b", &[1, 2]),
            ("RO index:1 keynum:0:1:1", "zunion 2 a b weights", &[2, 3]),
            ("OW index:1 keynum:0:1:2", "msetex 2 a 1 b 2 ex 5", &[2, 4]),
            ("RO index:1 keynum:0:1:1", "zunion 3 a b", &[]),
            ("RO index:1 keynum:0:1:1", "zunion 0 a b", &[]),
            ("RO index:1 keynum:0:1:1", "zunion -1 a b", &[]),
            ("RO index:1 keynum:0:1:1", "zunion x a b", &[]),
            ("RO index:1 keynum:0:1:2", "zunion 9223372036854775807 a b", &[]),
            ("RO keyword:STREAMS:1 range:-1:1:2", "xread streams a b 1 2", &[2, 3]),
            ("RO keyword:STREAMS:1 range:-1:1:2", "xread count 1 streams a 1", &[4]),
            ("RO keyword:STREAMS:1 range:-1:1:2", "xread count 1 a 1", &[]),
            ("OW keyword:STORE:6 range:0:1:0", "georadius k 1 2 3 m store d", &[7]),
            ("OW keyword:STORE:6 range:0:1:0", "georadius k 1 2 3 m store", &[]),
            ("RW keyword:KEYS:-2 range:-1:1:0", "migrate h 1 x 0 9 keys a b", &[7, 8]),
            ("RW keyword:KEYS:-2 range:-1:1:0", "migrate", &[]),
            ("RO unknown unknown", "sort a by b*", &[]),
        ] {
            assert_eq!(positions(spec, request), expected, "{spec} in {request:?}");
        }
    }

    /// What is no specification is not read as one.
    #[test]
    fn malformed_specifications() {
        for text in ["", "RO", "RO index:1", "RO index:x range:0:1:0", "RO index:1 range:0:0:0", "RO a b"] {
            assert_eq!(KeySpec::parse(text), None, "{text:?}");
        }
    }
}

//! SCAN over all nodes, one after the other. The cursor that a client holds carries the node:
//! outer = inner x 1024 + ordinal, where the ordinal stands for a node's name as long as the pool
//! knows that name.
//!
//! Clients that keep a cursor in a double lose bits above 2^53, so an inner cursor of 2^43 and
//! more is refused; Redis's are smaller than its table, Kvrocks's and Dragonfly's may not be.

use super::frame::Request;
use super::merge::Merged;
use super::value::Value;
use super::write;

/// How many nodes a cursor can tell apart.
pub const ORDINALS: u16 = 1 << ORDINAL_BITS;

const ORDINAL_BITS: u32 = 10;
const INNER_BITS: u32 = 43;

/// What is said to a cursor that is none. Redis's own words.
pub const INVALID: &str = "ERR invalid cursor";

/// Where a walk stands: the node's own cursor, and which node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// What the node is asked with.
    pub inner: u64,
    /// Which node, below [`ORDINALS`].
    pub ordinal: u16,
}

impl Cursor {
    /// Where a walk begins, and, in a reply, that it is over.
    pub const START: Cursor = Cursor { inner: 0, ordinal: 0 };

    /// Reads a client's cursor. At [`Cursor::START`] the first ordinal in use is the caller's to
    /// choose.
    ///
    /// # Errors
    /// [`INVALID`]: not a number, or none that we gave out.
    pub fn decode(arg: &[u8]) -> Result<Cursor, &'static str> {
        // Redis takes a leading plus, leading zeros, and nothing at all for 0.
        let digits = arg.strip_prefix(b"+").unwrap_or(arg);
        if digits.is_empty() && !arg.is_empty() {
            return Err(INVALID);
        }
        let outer = digits
            .iter()
            .try_fold(0u64, |n, d| {
                let d = d.is_ascii_digit().then(|| u64::from(d - b'0'))?;
                n.checked_mul(10)?.checked_add(d)
            })
            .ok_or(INVALID)?;
        let cursor = Cursor { inner: outer >> ORDINAL_BITS, ordinal: (outer % u64::from(ORDINALS)) as u16 };
        if cursor.inner >> INNER_BITS == 0 { Ok(cursor) } else { Err(INVALID) }
    }

    /// The number that a client gets; `None` when it does not fit in 2^53.
    pub fn encode(self) -> Option<u64> {
        let fits = self.inner >> INNER_BITS == 0 && self.ordinal < ORDINALS;
        fits.then_some(self.inner << ORDINAL_BITS | u64::from(self.ordinal))
    }
}

/// The text for a cursor whose ordinal stands for no node: some keys would be passed over.
pub fn unknown(cursor: Cursor) -> String {
    format!("{INVALID}: node number {} is not in the pool, start again with 0", cursor.ordinal)
}

/// The text for a cursor whose node does not serve now: some keys would be passed over.
pub fn away(node: &str) -> String {
    format!("{INVALID}: node {node} is away, start again with 0")
}

/// Writes the request with the node's own cursor in place of the client's.
pub fn request(request: &Request<'_>, inner: u64, out: &mut Vec<u8>) {
    let inner = inner.to_string();
    write::request(
        out,
        request.args().enumerate().map(|(i, arg)| if i == 1 { inner.as_bytes() } else { arg }),
    );
}

/// Writes a node's reply with the client's next cursor in place of the node's, and without the
/// keys that the node does not own.
///
/// `next_ordinal` is the next node to walk after this one, in rising order, if there is one.
pub fn reply(
    reply: &[u8],
    node: &str,
    ordinal: u16,
    next_ordinal: Option<u16>,
    owns: &dyn Fn(&[u8]) -> bool,
    out: &mut Vec<u8>,
) -> Merged {
    let value = Value::parse(reply).filter(|(_, used)| *used == reply.len()).map(|(value, _)| value);
    if value.is_some_and(|v| v.error().is_some()) {
        out.extend_from_slice(reply);
        return Merged::Failed;
    }
    let Some((inner, keys)) = value.and_then(|v| page(v, owns)) else {
        write::error(out, format!("ERR node {node}: a reply without the shape of this command's"));
        return Merged::Failed;
    };
    let next = match (inner, next_ordinal) {
        (0, None) => Cursor::START,
        (0, Some(next)) => Cursor { inner: 0, ordinal: next },
        (inner, _) => Cursor { inner, ordinal },
    };
    let Some(outer) = next.encode() else {
        write::error(
            out,
            format!("ERR node {node}: its cursor {inner} is too large to carry the node's number too"),
        );
        return Merged::Failed;
    };
    write::array(out, 2);
    write::bulk(out, outer.to_string().as_bytes());
    write::array(out, keys.len());
    keys.iter().for_each(|raw| out.extend_from_slice(raw));
    Merged::Whole
}

/// The node's next cursor, and the bytes of the keys that are its own.
fn page<'a>(value: Value<'a>, owns: &dyn Fn(&[u8]) -> bool) -> Option<(u64, Vec<&'a [u8]>)> {
    let Value::Array(mut pair) = value else { return None };
    if pair.left() != 2 {
        return None;
    }
    let (Some((_, Value::Bulk(inner))), Some((_, Value::Array(keys)))) = (pair.next(), pair.next()) else {
        return None;
    };
    let inner = std::str::from_utf8(inner).ok()?.parse().ok()?;
    let keys = keys.bulks()?;
    Some((inner, keys.into_iter().filter(|(_, key)| owns(key)).map(|(raw, _)| raw).collect()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::resp::frame::{FrameLimits, RequestDecoder};

    /// Cursors are read as Redis reads them, and none is taken that we did not give out.
    #[test]
    fn a_table_of_cursors() {
        for (arg, expected) in [
            ("0", Ok(Cursor::START)),
            ("", Ok(Cursor::START)),
            ("+0", Ok(Cursor::START)),
            ("00", Ok(Cursor::START)),
            ("3", Ok(Cursor { inner: 0, ordinal: 3 })),
            ("1024", Ok(Cursor { inner: 1, ordinal: 0 })),
            ("9007199254740991", Ok(Cursor { inner: (1 << 43) - 1, ordinal: 1023 })),
            ("9007199254740992", Err(INVALID)),
            ("18446744073709551615", Err(INVALID)),
            ("18446744073709551616", Err(INVALID)),
            ("-1", Err(INVALID)),
            ("+", Err(INVALID)),
            (" 1", Err(INVALID)),
            ("1a", Err(INVALID)),
        ] {
            assert_eq!(Cursor::decode(arg.as_bytes()), expected, "{arg:?}");
        }
        assert_eq!(Cursor { inner: 1 << 43, ordinal: 0 }.encode(), None);
        assert_eq!(unknown(Cursor { inner: 5, ordinal: 7 }).split(',').count(), 2);
        assert!(away("n2").starts_with("ERR invalid cursor: node n2 is away"));
    }

    /// Only the cursor of a request is changed.
    #[test]
    fn a_request_gets_the_inner_cursor() -> Result<(), Box<dyn std::error::Error>> {
        let mut bytes = Vec::new();
        write::request(&mut bytes, ["scan", "10241", "MATCH", "10241", "COUNT", "7"]);
        let limits = FrameLimits { bulk_bytes: 100, request_bytes: 1000, args_max: 10 };
        let mut decoder = RequestDecoder::default();
        decoder.decode(&bytes, &limits)?;
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        request(&Request::new(&bytes, decoder.spans()), 10, &mut out);
        write::request(&mut expected, ["scan", "10", "MATCH", "10241", "COUNT", "7"]);
        assert_eq!(out, expected);
        Ok(())
    }

    /// A page's cursor stays with its node, goes on to the next, or ends; keys of others are
    /// dropped; what is no page is an error.
    #[test]
    fn a_table_of_pages() {
        let of = |bytes: &str, next| {
            let mut out = Vec::new();
            let merged = reply(bytes.as_bytes(), "n", 2, next, &|key| key != b"no", &mut out);
            (String::from_utf8(out).expect("text"), merged)
        };
        let good = |text: &str| (text.to_owned(), Merged::Whole);
        let keys = "*2\r\n$2\r\nk1\r\n$2\r\nno\r\n";
        let kept = "*1\r\n$2\r\nk1\r\n";
        assert_eq!(
            of(&format!("*2\r\n$1\r\n5\r\n{keys}"), Some(4)),
            good(&format!("*2\r\n$4\r\n5122\r\n{kept}"))
        );
        assert_eq!(
            of(&format!("*2\r\n$1\r\n0\r\n{keys}"), Some(4)),
            good(&format!("*2\r\n$1\r\n4\r\n{kept}"))
        );
        assert_eq!(of(&format!("*2\r\n$1\r\n0\r\n{keys}"), None), good(&format!("*2\r\n$1\r\n0\r\n{kept}")));
        assert_eq!(of("-ERR syntax error\r\n", None), ("-ERR syntax error\r\n".into(), Merged::Failed));
        let (text, merged) = of("*2\r\n$13\r\n8796093022208\r\n*0\r\n", None);
        assert!(text.starts_with("-ERR node n: its cursor 8796093022208 is too large"), "{text}");
        assert_eq!(merged, Merged::Failed);
        for bad in [
            "",
            "*0\r\n",
            "+OK\r\n",
            "*2\r\n$1\r\nx\r\n*0\r\n",
            "*2\r\n:0\r\n*0\r\n",
            "*2\r\n$1\r\n0\r\n$1\r\n0\r\n",
            "*2\r\n$1\r\n0\r\n*1\r\n:1\r\n",
            "*3\r\n$1\r\n0\r\n*0\r\n*0\r\n",
            "*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n:x\r\n",
            "*2\r\n$1\r\n0\r\n*0\r\n+\r\n",
        ] {
            let (text, merged) = of(bad, None);
            assert!(text.starts_with("-ERR node n: a reply without the shape"), "{bad:?}: {text}");
            assert_eq!(merged, Merged::Failed);
        }
    }

    /// A node of the model: its keys in pages of one, under cursors of its own.
    fn model_page(keys: &[u32], inner: u64) -> String {
        let at = (inner / 3) as usize;
        let next = if at + 1 < keys.len() { (at as u64 + 1) * 3 } else { 0 };
        let page =
            keys.get(at).map_or("*0\r\n".into(), |k| format!("*1\r\n${}\r\n{k}\r\n", k.to_string().len()));
        format!("*2\r\n${}\r\n{next}\r\n{page}", next.to_string().len())
    }

    proptest! {
        /// A cursor comes back as it went out, below 2^53.
        #[test]
        fn cursors_come_back(inner in 0u64..1 << 43, ordinal in 0u16..ORDINALS) {
            let cursor = Cursor { inner, ordinal };
            let outer = cursor.encode().expect("fits");
            prop_assert!(outer < 1 << 53);
            prop_assert_eq!(Cursor::decode(outer.to_string().as_bytes()), Ok(cursor));
        }

        /// A walk from 0 to 0 meets every key that its node owns exactly once, and no other.
        #[test]
        fn a_walk_meets_each_key_once(
            nodes in prop::collection::btree_map(0u16..ORDINALS, prop::collection::btree_set(0u32..1000, 0..6), 1..5),
        ) {
            let nodes: BTreeMap<u16, Vec<u32>> =
                nodes.into_iter().map(|(o, keys)| (o, keys.into_iter().collect())).collect();
            let owns = |ordinal: u16, key: u32| key % 2 == u32::from(ordinal) % 2;
            let mut wanted: Vec<(u16, u32)> = Vec::new();
            for (o, keys) in &nodes {
                wanted.extend(keys.iter().filter(|k| owns(*o, **k)).map(|k| (*o, *k)));
            }
            let (mut cursor, mut met) = (Cursor::START, Vec::new());
            for _ in 0..100 {
                if cursor == Cursor::START {
                    cursor.ordinal = *nodes.keys().next().expect("a node");
                }
                let at = cursor.ordinal;
                let next = nodes.range(at + 1..).next().map(|(o, _)| *o);
                let mut out = Vec::new();
                let page = model_page(&nodes[&at], cursor.inner);
                let owned = |key: &[u8]| owns(at, std::str::from_utf8(key).expect("text").parse().expect("a number"));
                prop_assert_eq!(reply(page.as_bytes(), "n", at, next, &owned, &mut out), Merged::Whole);
                let Some((Value::Array(mut pair), _)) = Value::parse(&out) else { panic!("no page") };
                let (Some((_, Value::Bulk(outer))), Some((_, Value::Array(keys)))) = (pair.next(), pair.next()) else {
                    panic!("no page")
                };
                for (_, key) in keys {
                    let Value::Bulk(key) = key else { panic!("no key") };
                    met.push((at, std::str::from_utf8(key).expect("text").parse().expect("a number")));
                }
                cursor = Cursor::decode(outer).expect("our own");
                if cursor == Cursor::START {
                    prop_assert_eq!(met, wanted);
                    return Ok(());
                }
            }
            prop_assert!(false, "the walk does not end");
        }
    }
}

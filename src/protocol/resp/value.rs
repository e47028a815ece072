//! A view of one whole reply, RESP2 or RESP3: what it is, and its elements, all within the bytes.
//!
//! Nothing here recurses and nothing is copied. [`Scanner`] decides where a value ends, here too,
//! so the two can't disagree.

use super::frame::{Scanner, number};

/// One value of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `+text`
    Simple(&'a [u8]),
    /// `-text`
    Error(&'a [u8]),
    /// `:n`
    Integer(i64),
    /// `$n`, a bulk string.
    Bulk(&'a [u8]),
    /// RESP3's `_`, or a bulk string, array or map of a negative length.
    Null,
    /// `*n`
    Array(Elements<'a>),
    /// `~n`
    Set(Elements<'a>),
    /// `>n`
    Push(Elements<'a>),
    /// `%n`: keys and values in turn.
    Map(Elements<'a>),
    /// `,text`, the number as it was written.
    Double(&'a [u8]),
    /// `#t` or `#f`
    Bool(bool),
    /// `=n`, its three letters of format and the colon included.
    Verbatim(&'a [u8]),
    /// `(text`, the number as it was written.
    BigNumber(&'a [u8]),
    /// `!n`, an error as a bulk string.
    BlobError(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value at the start of these bytes, and how many of them it takes, attributes before it
    /// included. `None` when it is not whole, or not RESP.
    pub fn parse(bytes: &'a [u8]) -> Option<(Value<'a>, usize)> {
        let used = end(bytes)?;
        Some((Value::of(&bytes[..used])?, used))
    }

    /// The value that these bytes are, exactly.
    fn of(mut whole: &'a [u8]) -> Option<Value<'a>> {
        loop {
            let (kind, head) = whole.split_first()?;
            let line = head.iter().position(|b| *b == b'\n')?;
            let (text, rest) = (&head[..line], &head[line + 1..]);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if *kind != b'|' {
                return Value::of_kind(*kind, text, rest);
            }
            let Some(n) = count(text) else { return Some(Value::Null) };
            whole = rest;
            for _ in 0..n.checked_mul(2)? {
                whole = &whole[end(whole)?..];
            }
        }
    }

    fn of_kind(kind: u8, text: &'a [u8], rest: &'a [u8]) -> Option<Value<'a>> {
        let line = match kind {
            b'+' => Value::Simple(text),
            b'-' => Value::Error(text),
            b':' => Value::Integer(number(text.strip_prefix(b"+").unwrap_or(text))?),
            b',' => Value::Double(text),
            b'(' => Value::BigNumber(text),
            b'_' => Value::Null,
            b'#' => match text {
                b"t" => Value::Bool(true),
                b"f" => Value::Bool(false),
                _ => return None,
            },
            _ => {
                let Some(n) = count(text) else { return Some(Value::Null) };
                return Value::of_length(kind, n, rest);
            }
        };
        Some(line)
    }

    fn of_length(kind: u8, n: u64, rest: &'a [u8]) -> Option<Value<'a>> {
        let body = || rest.get(..usize::try_from(n).ok()?);
        let elements = Elements { rest, left: n };
        Some(match kind {
            b'$' => Value::Bulk(body()?),
            b'=' => Value::Verbatim(body()?),
            b'!' => Value::BlobError(body()?),
            b'*' => Value::Array(elements),
            b'~' => Value::Set(elements),
            b'>' => Value::Push(elements),
            b'%' => Value::Map(Elements { rest, left: n.checked_mul(2)? }),
            _ => return None,
        })
    }

    /// The text of an error, without the byte that marks it.
    pub fn error(&self) -> Option<&'a [u8]> {
        match self {
            Value::Error(text) | Value::BlobError(text) => Some(text),
            _ => None,
        }
    }
}

/// Where the value at the start of these bytes ends.
fn end(bytes: &[u8]) -> Option<usize> {
    let scan = Scanner::default().advance(bytes).ok()?;
    scan.done.then_some(scan.used)
}

/// A length or count as [`Scanner`] reads it, `None` for a negative one.
fn count(text: &[u8]) -> Option<u64> {
    if text.first() == Some(&b'-') {
        return None;
    }
    let mut digits = text.iter().filter(|b| b.is_ascii_digit());
    digits.try_fold(0u64, |n, d| n.checked_mul(10)?.checked_add(u64::from(d - b'0')))
}

/// The elements of an array, a set, a push or a map, one after the other: each as its bytes and
/// as what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements<'a> {
    rest: &'a [u8],
    left: u64,
}

impl Elements<'_> {
    /// How many are left.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl<'a> Elements<'a> {
    /// All of them, each as its bytes and its contents, if all are bulk strings.
    pub fn bulks(self) -> Option<Vec<(&'a [u8], &'a [u8])>> {
        let left = self.left;
        let bulk = |(raw, value)| if let Value::Bulk(text) = value { Some((raw, text)) } else { None };
        let all: Vec<_> = self.map_while(bulk).collect();
        (all.len() as u64 == left).then_some(all)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = (&'a [u8], Value<'a>);

    /// Ends early at an element that is not RESP within (`:x`): a caller that must have them all
    /// counts them.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (value, used) = Value::parse(self.rest)?;
        let (raw, rest) = self.rest.split_at(used);
        self.rest = rest;
        Some((raw, value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A value and all below it, as text, to be compared with what it was made from.
    fn shown(value: Value<'_>) -> String {
        let all = |e: Elements<'_>| e.map(|(_, v)| shown(v)).collect::<Vec<_>>().join(" ");
        match value {
            Value::Array(e) => format!("[{}]", all(e)),
            Value::Set(e) => format!("~[{}]", all(e)),
            Value::Push(e) => format!(">[{}]", all(e)),
            Value::Map(e) => format!("%[{}]", all(e)),
            Value::Simple(t) => format!("+{}", t.escape_ascii()),
            Value::Error(t) => format!("-{}", t.escape_ascii()),
            Value::Bulk(t) => format!("{:?}", t.escape_ascii().to_string()),
            Value::Double(t) => format!(",{}", t.escape_ascii()),
            Value::BigNumber(t) => format!("({}", t.escape_ascii()),
            Value::Verbatim(t) => format!("={}", t.escape_ascii()),
            Value::BlobError(t) => format!("!{}", t.escape_ascii()),
            Value::Integer(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Null => "null".to_owned(),
        }
    }

    /// Every kind of both versions is read as what it is, and ends where it ends.
    #[test]
    fn a_table_of_values() {
        for (bytes, meaning) in [
            ("+OK\r\n", "+OK"),
            ("-ERR no\r\n", "-ERR no"),
            (":-7\r\n", "-7"),
            (":+7\r\n", "7"),
            ("$5\r\na\r\nbc\r\n", r#""a\\r\\nbc""#),
            ("$0\r\n\r\n", r#""""#),
            ("$-1\r\n", "null"),
            ("*-1\r\n", "null"),
            ("|-1\r\n", "null"),
            ("_\r\n", "null"),
            ("*0\r\n", "[]"),
            ("*3\r\n:1\r\n*1\r\n$1\r\na\r\n$-1\r\n", r#"[1 ["a"] null]"#),
            ("~2\r\n+a\r\n+b\r\n", "~[+a +b]"),
            (">1\r\n+a\r\n", ">[+a]"),
            ("%2\r\n+a\r\n:1\r\n+b\r\n*0\r\n", "%[+a 1 +b []]"),
            (",1.50\r\n", ",1.50"),
            ("#t\r\n", "true"),
            ("#f\r\n", "false"),
            ("=6\r\ntxt:ab\r\n", "=txt:ab"),
            ("(12345678901234567890\r\n", "(12345678901234567890"),
            ("!6\r\nERR no\r\n", "!ERR no"),
            ("|1\r\n+ttl\r\n*1\r\n:3\r\n$1\r\na\r\n", r#""a""#),
            ("*1\r\n|1\r\n+k\r\n|1\r\n+x\r\n+y\r\n+v\r\n:1\r\n", "[1]"),
        ] {
            let with_more = [bytes.as_bytes(), b"+NEXT\r\n"].concat();
            let (value, used) = Value::parse(&with_more).expect("whole");
            assert_eq!((shown(value).as_str(), used), (meaning, bytes.len()), "{bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(Value::parse(&bytes.as_bytes()[..cut]), None, "{bytes:?} cut at {cut}");
            }
        }
        for bad in ["", "?\r\n", ":x\r\n", "#x\r\n", "$x\r\n", ":99999999999999999999\r\n"] {
            assert_eq!(Value::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    /// A value as deep as a megabyte of headers is read without a stack of that depth.
    #[test]
    fn depth_costs_no_stack() {
        for head in ["*1\r\n", "|0\r\n", "|1\r\n"] {
            let mut deep = head.repeat(250_000).into_bytes();
            deep.extend(b":1\r\n".repeat(if head == "|1\r\n" { 500_001 } else { 1 }));
            let (_, used) = Value::parse(&deep).expect("whole");
            assert_eq!(used, deep.len());
        }
    }

    fn value() -> impl Strategy<Value = (Vec<u8>, String)> {
        let text = "[a-z ]{0,6}";
        let leaf = prop_oneof![
            text.prop_map(|t| (format!("+{t}\r\n").into_bytes(), format!("+{t}"))),
            any::<i64>().prop_map(|n| (format!(":{n}\r\n").into_bytes(), n.to_string())),
            prop::collection::vec(any::<u8>(), 0..12).prop_map(|b| {
                let bytes = [format!("${}\r\n", b.len()).as_bytes(), &b, b"\r\n"].concat();
                (bytes, format!("{:?}", b.escape_ascii().to_string()))
            }),
            Just((b"_\r\n".to_vec(), "null".to_owned())),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            let kind = prop::sample::select(vec![("*", ""), ("~", "~"), (">", ">"), ("%", "%")]);
            (kind, prop::collection::vec((inner.clone(), inner), 0..3)).prop_map(|((kind, mark), pairs)| {
                let parts: Vec<_> = pairs.into_iter().flat_map(|(a, b)| [a, b]).collect();
                let n = if kind == "%" { parts.len() / 2 } else { parts.len() };
                let mut bytes = format!("{kind}{n}\r\n").into_bytes();
                parts.iter().for_each(|p| bytes.extend_from_slice(&p.0));
                let words: Vec<&str> = parts.iter().map(|p| p.1.as_str()).collect();
                (bytes, format!("{mark}[{}]", words.join(" ")))
            })
        })
    }

    proptest! {
        /// What was written is read, and its elements' bytes are the bytes that were written.
        #[test]
        fn what_was_written_is_read((bytes, meaning) in value(), rest in prop::collection::vec(any::<u8>(), 0..6)) {
            let all = [&bytes[..], &rest].concat();
            let (value, used) = Value::parse(&all).expect("whole");
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(shown(value), meaning);
            if let Value::Array(e) | Value::Set(e) | Value::Push(e) | Value::Map(e) = value {
                let raw: Vec<u8> = e.flat_map(|(raw, _)| raw.to_vec()).collect();
                prop_assert!(bytes.ends_with(&raw));
            }
        }

        /// No bytes make it panic, and it ends a value where the scanner ends it.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(prop_oneof![
            prop::sample::select(b"*$|%~:+-#_\r\n\r\n".to_vec()), b'0'..=b'3', any::<u8>()
        ], 0..60)) {
            let scan = Scanner::default().advance(&bytes);
            if let Some((value, used)) = Value::parse(&bytes) {
                prop_assert_eq!(scan, Ok(crate::protocol::resp::frame::Scan { used, done: true }));
                shown(value);
            }
        }
    }
}

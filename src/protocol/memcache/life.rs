//! How long an item lives, bounded: the expiration times in a request's line, as memcached reads them.

use std::borrow::Cow;

use super::{Limits, number::signed, request::META_WORDS_MAX};

/// Above this an expiration time is a time since 1970, as in memcached (`REALTIME_MAXDELTA`).
const RELATIVE_MAX_S: i64 = 60 * 60 * 24 * 30;

/// A request whose items live at most `ttl_s` seconds; `now_s` is the time since 1970. A request that says
/// nothing about how long items live is given back as it is.
pub fn bounded(frame: &[u8], ttl_s: u32, now_s: u64) -> Cow<'_, [u8]> {
    let line_feed = frame.iter().position(|b| *b == b'\n').unwrap_or(frame.len());
    // Another carriage return may be part of a word.
    let end = line_feed - usize::from(frame[..line_feed].ends_with(b"\r"));
    let (line, rest) = frame.split_at(end);
    let life = Life { ttl_s: i64::from(ttl_s), now_s: i64::try_from(now_s).unwrap_or(i64::MAX) };
    let mut words = line.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let Some(verb) = words.next() else { return Cow::Borrowed(frame) };
    let (time_at, flags_at): (Option<usize>, Option<usize>) = match verb {
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" => (Some(3), None),
        b"touch" => (Some(2), None),
        b"gat" | b"gats" => (Some(1), None),
        b"ms" => (None, Some(3)),
        b"mg" | b"md" | b"ma" => (None, Some(2)),
        _ => return Cow::Borrowed(frame),
    };
    let mut out = verb.to_vec();
    let (mut is_said, mut count, mut head_bytes) = (false, 1, 0);
    for (at, word) in words.enumerate().map(|(at, word)| (at + 1, word)) {
        count += 1;
        if flags_at == Some(at) {
            head_bytes = out.len();
        }
        out.push(b' ');
        let flag = word.first().filter(|_| flags_at.is_some_and(|first| at >= first));
        match flag {
            // The time to live, and that of an item which is made where there was none.
            Some(flag @ (b'T' | b'N')) => {
                is_said |= *flag == b'T';
                out.push(*flag);
                out.extend_from_slice(&life.bound(&word[1..]));
            }
            _ if time_at == Some(at) => out.extend_from_slice(&life.bound(word)),
            _ => out.extend_from_slice(word),
        }
    }
    if verb == b"ms" && !is_said {
        out.extend_from_slice(b" T");
        out.extend_from_slice(&life.bound(b"0"));
        count += 1;
    }
    // Of a line that is too long the node would not take the value, but read it as commands: a doubled flag
    // it refuses with its value.
    if verb == b"ms" && (count > META_WORDS_MAX || out.len() > Limits::LINE_BYTES - 2) && head_bytes > 0 {
        out.truncate(head_bytes);
        out.extend_from_slice(b" T1 T1");
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

struct Life {
    ttl_s: i64,
    now_s: i64,
}

impl Life {
    /// An expiration time that is no later than it may be. What is no number is refused by the node.
    fn bound(&self, text: &[u8]) -> Vec<u8> {
        let Some(time) = signed(text) else { return text.to_vec() };
        let left = match time {
            // It never expires.
            0 => i64::MAX,
            // It has expired.
            ..0 => return text.to_vec(),
            1..=RELATIVE_MAX_S => time,
            _ => time.saturating_sub(self.now_s),
        };
        if left <= self.ttl_s {
            return text.to_vec();
        }
        let latest = if self.ttl_s <= RELATIVE_MAX_S { self.ttl_s } else { self.now_s + self.ttl_s };
        latest.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each request that may give an item its time to live, before and after; the rest of it is untouched.
    #[test]
    fn a_table_of_requests() {
        const NOW: u64 = 1_800_000_000;
        for (request, expected) in [
            ("set k 5 0 1\r\nx\r\n", "set k 5 60 1\r\nx\r\n"),
            ("set k 0 59 1 noreply\r\nx\r\n", "set k 0 59 1 noreply\r\nx\r\n"),
            ("set k 0 61 1\r\nx\r\n", "set k 0 60 1\r\nx\r\n"),
            ("set k 0 -1 1\r\nx\r\n", "set k 0 -1 1\r\nx\r\n"),
            ("add k 0 2592000 1\r\nx\r\n", "add k 0 60 1\r\nx\r\n"),
            ("set k\rl 0 0 1\r\nx\r\n", "set k\rl 0 60 1\r\nx\r\n"),
            ("ms k\rl 1\r\nx\r\n", "ms k\rl 1 T60\r\nx\r\n"),
            (
                "ms k 1 a b c d e f g h i j k l m n o\r\nx\r\n",
                "ms k 1 a b c d e f g h i j k l m n o T60\r\nx\r\n",
            ),
            ("ms k 1 a b c d e f g h i j k l m n o p\r\nx\r\n", "ms k 1 T1 T1\r\nx\r\n"),
            ("replace k 0 1800000030 1\r\nx\r\n", "replace k 0 1800000030 1\r\nx\r\n"),
            ("cas k 0 1800000061 1 77\r\nx\r\n", "cas k 0 60 1 77\r\nx\r\n"),
            ("set k 0 2592001 1\r\nx\r\n", "set k 0 2592001 1\r\nx\r\n"),
            ("set k 0 soon 1\r\nx\r\n", "set k 0 soon 1\r\nx\r\n"),
            ("append k 0 0 1\r\nx\r\n", "append k 0 60 1\r\nx\r\n"),
            ("touch k 0\r\n", "touch k 60\r\n"),
            ("gat 0 a b\r\n", "gat 60 a b\r\n"),
            ("gats 10 a\r\n", "gats 10 a\r\n"),
            ("ms k 1\r\nx\r\n", "ms k 1 T60\r\nx\r\n"),
            ("ms k 1 T0 c\r\nx\r\n", "ms k 1 T60 c\r\nx\r\n"),
            ("ms T0 1 T30\r\nx\r\n", "ms T0 1 T30\r\nx\r\n"),
            ("mg k v N0 T5\r\n", "mg k v N60 T5\r\n"),
            ("ma k N3600 J13\r\n", "ma k N60 J13\r\n"),
            ("md k I T0\r\n", "md k I T60\r\n"),
            ("ms k 1 E5 S1 c\r\nx\r\n", "ms k 1 E5 S1 c T60\r\nx\r\n"),
            ("md k x E9 T0\r\n", "md k x E9 T60\r\n"),
            ("incr k 1\r\n", "incr k 1\r\n"),
            ("get T0 0\r\n", "get T0 0\r\n"),
        ] {
            let bound = bounded(request.as_bytes(), 60, NOW);
            assert_eq!(String::from_utf8_lossy(&bound), expected, "{request:?}");
        }
        let long = bounded(b"set k 0 0 1\r\nx\r\n", 40 * 86_400, NOW);
        assert_eq!(&*long, format!("set k 0 {} 1\r\nx\r\n", NOW + 40 * 86_400).as_bytes());
    }
}

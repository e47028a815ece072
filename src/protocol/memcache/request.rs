//! Cutting requests: a line, and the value behind it where the command has one. It resumes where
//! it stopped. The law: decode(split anywhere) = decode(whole).
//!
//! As in memcached, a line ends at its line feed, one carriage return in front of that is dropped,
//! words are separated by blanks alone, and what stands behind a NUL is not read. Which lines have
//! a value behind them, and how long it is, is decided here, in the order of memcached's own checks:
//! after most errors memcached takes the value for the next line.

use super::{
    KEY_BYTES_MAX, number, search,
    verb::Verb,
    write::{BAD_CHUNK, BAD_FORMAT, ERROR, FLAGS_TOO_LONG, TOO_LARGE, TOO_MANY_KEYS},
};

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One value, in bytes. A larger one is refused and read past, as memcached does with what is
    /// larger than its own limit.
    pub value_bytes: usize,
    /// A line, in bytes; memcached's own limit is [`Limits::LINE_BYTES`].
    pub line_bytes: usize,
    /// A whole request, which may be a `get` of many keys, in bytes; at most 4 GiB.
    pub request_bytes: usize,
    /// Words of a retrieval, which is refused when it has more. No other line has room for many.
    pub args_max: usize,
}

impl Limits {
    /// How many bytes memcached reads without finding a line feed before it gives up.
    pub const LINE_BYTES: usize = 2048;

    /// What a client may send before it has logged in: a login, the value of which is a line of an authfile,
    /// and nothing else of use. memcached itself holds no more than its read buffer has room for, of 16 KiB,
    /// and then closes.
    pub const UNAUTHENTICATED: Limits = Limits {
        value_bytes: Limits::LINE_BYTES,
        line_bytes: Limits::LINE_BYTES,
        request_bytes: 2 * Limits::LINE_BYTES + 4,
        args_max: Limits::LINE_BYTES,
    };
}

/// What closes the session: nothing behind it could be read right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first byte is that of the binary protocol.
    #[error("a request of memcached's binary protocol")]
    Binary,
    /// A line without an end.
    #[error("a line longer than {0} bytes")]
    Line(usize),
}

impl DecodeError {
    /// What is said before the session is closed; memcached itself says nothing about long lines.
    pub fn line(self) -> &'static [u8] {
        match self {
            DecodeError::Binary => {
                b"CLIENT_ERROR ringway speaks memcached's text and meta protocols, not the binary one\r\n"
            }
            DecodeError::Line(_) => b"",
        }
    }
}

/// What a decoder found at the start of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One whole request of this many bytes.
    Request(usize),
    /// One whole request of `line` bytes, the value of which is above the limit: it is refused. The `value`
    /// bytes behind it are passed over, by whoever reads this stream: they may come much later, and the
    /// decoder keeps nothing of them.
    Large {
        /// Bytes of the line.
        line: usize,
        /// Bytes behind it, the end of the line behind the value included.
        value: u64,
    },
    /// Not whole yet: the request has at least this many bytes in all.
    Partial(usize),
}

/// Where a word stands, relative to the start of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    #[inline]
    pub(super) fn of(self, frame: &[u8]) -> &[u8] {
        &frame[self.start as usize..(self.start + self.len) as usize]
    }
}

/// What is wrong with a request, as far as its framing tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    Words,
    Format,
    Flags,
    Large,
    Chunk,
    Many,
}

impl Fault {
    /// The line to say; empty for none.
    pub(super) fn line(self) -> &'static [u8] {
        match self {
            Fault::None => b"",
            Fault::Words => ERROR,
            Fault::Format => BAD_FORMAT,
            Fault::Flags => FLAGS_TOO_LONG,
            Fault::Large => TOO_LARGE,
            Fault::Chunk => BAD_CHUNK,
            Fault::Many => TOO_MANY_KEYS,
        }
    }
}

/// How a line goes on.
enum Framing {
    /// A value of this many bytes follows; `odd` for a line that newer servers would read in
    /// another way.
    Value { len: u32, odd: bool },
    /// It is all, and wrong.
    Wrong(Fault),
}

/// memcached reads this many words of a line; only a `get` goes on behind them.
const WORDS_MAX: usize = 23;

/// What a [`plain_get`] begins with.
pub const PLAIN_GET: &[u8; 4] = b"get ";

/// The key of a `get` of one key at the start of these bytes, if all of it is there and nothing stands
/// beside it; two bytes more end it.
#[inline(always)]
pub fn plain_get(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.first_chunk() != Some(PLAIN_GET) {
        return None;
    }
    let end = search::word_end(bytes, PLAIN_GET.len());
    let key = &bytes[PLAIN_GET.len()..end];
    let is_plain = bytes[end..].first_chunk() == Some(b"\r\n") && (1..=KEY_BYTES_MAX).contains(&key.len());
    is_plain.then_some(key)
}

/// Cuts requests. Between [`Step::Partial`] and the next call, the same bytes must be given again
/// with more behind them.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    /// Bytes of a line known to hold no line feed.
    scanned: usize,
    /// Bytes of a request whose line was read; 0 before that.
    needed: usize,
    pub(super) verb: Verb,
    pub(super) fault: Fault,
    /// The length of the key of a `get` that needs no words; 0 otherwise.
    pub(super) small: usize,
    /// Whether the line is nothing but its words with one blank between them, and each memcached knows the
    /// first.
    pub(super) plain: bool,
    pub(super) words: Vec<Span>,
}

impl RequestDecoder {
    /// Forgets a request that was read in part.
    pub fn reset(&mut self) {
        (self.scanned, self.needed) = (0, 0);
    }

    /// Whether it stopped in the middle of a request.
    pub fn is_partial(&self) -> bool {
        self.scanned != 0 || self.needed != 0
    }

    /// Looks for one request at the start of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`]; the stream can't be read on after it.
    #[inline]
    pub fn decode(&mut self, bytes: &[u8], limits: &Limits) -> Result<Step, DecodeError> {
        if !self.is_partial()
            && let Some(len) = self.small_get(bytes)
        {
            return Ok(Step::Request(len));
        }
        // A decoder that serves several streams must not carry one's error into the next.
        self.step(bytes, limits).inspect_err(|_| self.reset())
    }

    /// The request of which the line is whole and the value is not, after [`Step::Partial`], and how
    /// many bytes it has in all.
    pub fn head<'a>(&'a self, bytes: &'a [u8]) -> Option<(Request<'a>, usize)> {
        (self.needed > 0).then_some((Request { frame: bytes, decoder: self }, self.needed))
    }

    /// The request of the last [`Step::Request`] or [`Step::Large`], over exactly its bytes.
    #[inline]
    pub fn request<'a>(&'a self, bytes: &'a [u8]) -> Request<'a> {
        Request { frame: bytes, decoder: self }
    }

    /// The length of a `get` of one key that is whole, as nearly all requests are.
    #[inline]
    fn small_get(&mut self, bytes: &[u8]) -> Option<usize> {
        let key = plain_get(bytes)?;
        (self.verb, self.small) = (Verb::Get, key.len());
        Some(PLAIN_GET.len() + key.len() + 2)
    }

    fn step(&mut self, bytes: &[u8], limits: &Limits) -> Result<Step, DecodeError> {
        if self.needed == 0 {
            if bytes.first() == Some(&0x80) {
                return Err(DecodeError::Binary);
            }
            // Words are looked for once more only when the line is known to be whole.
            let whole = self.scanned == 0 || search::line_feed(bytes, self.scanned).is_some();
            let line_feed = if whole { self.split(bytes, limits.args_max) } else { None };
            let line = line_feed.unwrap_or(bytes.len());
            if line > limits.line_bytes && line > line_bytes_max(bytes, limits) {
                return Err(DecodeError::Line(line_bytes_max(bytes, limits)));
            }
            let Some(line_feed) = line_feed else {
                self.scanned = bytes.len();
                return Ok(Step::Partial(bytes.len() + 1));
            };
            self.scanned = 0;
            if let Some(step) = self.line(bytes, line_feed, limits) {
                return Ok(step);
            }
        }
        if bytes.len() < self.needed {
            return Ok(Step::Partial(self.needed));
        }
        let whole = std::mem::take(&mut self.needed);
        if !bytes[..whole].ends_with(b"\r\n") && self.fault == Fault::None {
            self.fault = Fault::Chunk;
        }
        Ok(Step::Request(whole))
    }

    /// Reads a line that ends at `line_feed`; none when a value belongs to it that has to come first.
    fn line(&mut self, bytes: &[u8], line_feed: usize, limits: &Limits) -> Option<Step> {
        let line = line_feed + 1;
        self.verb = self.words.first().map_or(Verb::Unknown, |span| Verb::of(span.of(bytes)));
        (self.fault, self.small) = (Fault::None, 0);
        self.plain &= self.words.first().is_none_or(|span| span.of(bytes) != b"bget");
        if self.words.len() > limits.args_max && matches!(self.verb, Verb::Get | Verb::Gat) {
            self.fault = Fault::Many;
        }
        if !self.verb.has_value() {
            return Some(Step::Request(line));
        }
        let framing = if self.verb == Verb::Ms { self.meta_set(bytes) } else { self.store(bytes) };
        match framing {
            Framing::Wrong(fault) => {
                self.fault = fault;
                Some(Step::Request(line))
            }
            Framing::Value { len, odd } => {
                if odd {
                    self.fault = Fault::Format;
                }
                let needed = line + len as usize + 2;
                if len as usize > limits.value_bytes || needed > limits.request_bytes.min(u32::MAX as usize) {
                    self.fault = Fault::Large;
                    return Some(Step::Large { line, value: u64::from(len) + 2 });
                }
                self.needed = needed;
                None
            }
        }
    }

    /// Finds the words of the line at the start, and its line feed. Of a retrieval that has more than it may
    /// have, one word more.
    fn split(&mut self, bytes: &[u8], args_max: usize) -> Option<usize> {
        self.words.clear();
        self.plain = true;
        let mut words_max = WORDS_MAX;
        let (mut start, mut at) = (0, 0);
        loop {
            at = search::word_end(bytes, at);
            let line_feed = match *bytes.get(at)? {
                b' ' => None,
                b'\n' => Some(at),
                b'\r' if at > 0 && *bytes.get(at + 1)? == b'\n' => Some(at + 1),
                0 => {
                    self.plain = false;
                    Some(search::line_feed(bytes, at)?)
                }
                // Other control characters are part of a word.
                _ => {
                    at += 1;
                    continue;
                }
            };
            if at > start {
                self.words.push(Span { start: start as u32, len: (at - start) as u32 });
                if self.words.len() >= words_max {
                    let is_many = self.words.len() > args_max;
                    if is_many || !matches!(Verb::of(self.words[0].of(bytes)), Verb::Get | Verb::Gat) {
                        self.plain = false;
                        return line_feed.or_else(|| search::line_feed(bytes, at));
                    }
                    words_max = args_max.saturating_add(1);
                }
            } else {
                self.plain = false;
            }
            if line_feed.is_some() {
                return line_feed;
            }
            at += 1;
            start = at;
        }
    }

    /// `set k flags exptime bytes [noreply]`, `cas k flags exptime bytes unique [noreply]`.
    fn store(&self, bytes: &[u8]) -> Framing {
        let cas = usize::from(self.verb == Verb::Cas);
        let word = |i: usize| self.words[i].of(bytes);
        if !(5 + cas..=6 + cas).contains(&self.words.len()) {
            return Framing::Wrong(Fault::Words);
        }
        if word(1).len() > KEY_BYTES_MAX {
            return Framing::Wrong(Fault::Format);
        }
        let unique = |text| cas == 0 || number::plain(text, u64::MAX).is_some();
        if let Some(len) = number::plain(word(4), VALUE_BYTES_MAX)
            && number::plain(word(2), u64::from(u32::MAX)).is_some()
            && number::plain_signed(word(3))
            && unique(word(4 + cas))
        {
            return Framing::Value { len: len as u32, odd: false };
        }
        let read = || {
            number::unsigned(word(2))?;
            number::signed(word(3))?;
            let len = number::signed(word(4))?;
            if cas == 1 {
                number::unsigned(word(5))?;
            }
            value_bytes(len)
        };
        read().map_or(Framing::Wrong(Fault::Format), |len| Framing::Value { len, odd: true })
    }

    /// `ms k bytes flags...`
    fn meta_set(&self, bytes: &[u8]) -> Framing {
        let word = |i: usize| self.words[i].of(bytes);
        match self.words.len() {
            0 | 1 => return Framing::Wrong(Fault::Words),
            _ if word(1).len() > KEY_BYTES_MAX => return Framing::Wrong(Fault::Format),
            2 => return Framing::Wrong(Fault::Format),
            // What its flags say is of no use to whoever sends too many.
            n if n > META_WORDS_MAX => return Framing::Wrong(Fault::Flags),
            _ => {}
        }
        match number::plain(word(2), VALUE_BYTES_MAX) {
            Some(len) => Framing::Value { len: len as u32, odd: false },
            None => match number::signed(word(2)).and_then(value_bytes) {
                Some(len) => Framing::Value { len, odd: true },
                None => Framing::Wrong(Fault::Format),
            },
        }
    }
}

/// Words of a meta command, its name included: memcached counts the end of the line as one of 20. From
/// 1.6.40 on it takes one more; no command has so many flags.
pub(super) const META_WORDS_MAX: usize = 19;

/// The longest value that a line can announce.
const VALUE_BYTES_MAX: u64 = i32::MAX as u64 - 2;

/// A length as memcached keeps it: cut to 32 bits.
fn value_bytes(len: i64) -> Option<u32> {
    u32::try_from(len as i32).ok().filter(|len| u64::from(*len) <= VALUE_BYTES_MAX)
}

/// How long this line may be: any length for a retrieval, which may name many keys.
#[cold]
fn line_bytes_max(bytes: &[u8], limits: &Limits) -> usize {
    let blanks = bytes.iter().take(100).take_while(|b| **b == b' ').count();
    let many =
        [&b"get "[..], b"gets ", b"gat ", b"gats "].iter().any(|name| bytes[blanks..].starts_with(name));
    if many { limits.request_bytes.min(u32::MAX as usize) } else { limits.line_bytes }
}

/// One whole request: its bytes, and its words within them.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The bytes as the client sent them.
    pub frame: &'a [u8],
    pub(super) decoder: &'a RequestDecoder,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = (0..self.len()).map(|i| self.word(i).escape_ascii().to_string());
        f.debug_list().entries(words).finish()
    }
}

impl<'a> Request<'a> {
    /// How many words the line has, the command's name included; 0 for a blank line.
    #[inline]
    pub fn len(&self) -> usize {
        if self.decoder.small > 0 { 2 } else { self.decoder.words.len() }
    }

    /// Whether the line is blank.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word at this position; empty when there is none.
    #[inline]
    pub fn word(&self, i: usize) -> &'a [u8] {
        match (self.decoder.small, i) {
            (0, _) => self.decoder.words.get(i).map_or(&[], |span| span.of(self.frame)),
            (_, 0) => b"get",
            (len, 1) => &self.frame[4..4 + len],
            _ => &[],
        }
    }

    /// The value behind the line; empty when it has none.
    pub fn value(&self) -> &'a [u8] {
        let line = search::line_feed(self.frame, 0).map_or(self.frame.len(), |at| at + 1);
        self.frame.get(line..self.frame.len().saturating_sub(2)).unwrap_or(&[])
    }

    /// The command's name as a label: `unknown` for what memcached doesn't know.
    pub fn name(&self) -> &'a [u8] {
        if self.decoder.verb == Verb::Unknown { b"unknown" } else { self.word(0) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Plan, *};

    const LIMITS: Limits =
        Limits { value_bytes: 1000, line_bytes: 2048, request_bytes: 10_000, args_max: 40 };

    type Found = (Vec<(Vec<u8>, String)>, Option<DecodeError>);

    /// All requests of a stream that arrives in these chunks, as a session reads it, with what is
    /// planned for each.
    fn requests<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Found {
        let mut decoder = RequestDecoder::default();
        let (mut buffer, mut found, mut passed) = (Vec::new(), Vec::new(), 0);
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            loop {
                let here = buffer.len().min(passed);
                buffer.drain(..here);
                passed -= here;
                if passed > 0 {
                    break;
                }
                let used = match decoder.decode(&buffer, &LIMITS) {
                    Ok(Step::Partial(needed)) => {
                        assert!(needed > buffer.len(), "it has what it asks for");
                        break;
                    }
                    Ok(step @ (Step::Request(n) | Step::Large { line: n, .. })) => {
                        assert!(!decoder.is_partial(), "what is whole leaves nothing behind");
                        if let Step::Large { value, .. } = step {
                            passed = value as usize;
                        }
                        let request = decoder.request(&buffer[..n]);
                        found.push((buffer[..n].to_vec(), format!("{:?}", request.plan())));
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

    fn frames(bytes: &[u8]) -> Vec<String> {
        requests([bytes]).0.iter().map(|(frame, _)| frame.escape_ascii().to_string()).collect()
    }

    /// Where requests end: a value belongs to its line unless memcached would not have read it.
    #[test]
    fn a_table_of_frames() {
        for (bytes, expected) in [
            ("get a\r\nget b\n", &["get a\\r\\n", "get b\\n"][..]),
            ("set a 0 0 1\r\nx\r\nget a\r\n", &["set a 0 0 1\\r\\nx\\r\\n", "get a\\r\\n"]),
            ("set a 0 0 2\n\r\n\r\n", &["set a 0 0 2\\n\\r\\n\\r\\n"]),
            ("set a 0 0 0\r\n\r\n", &["set a 0 0 0\\r\\n\\r\\n"]),
            ("set a 0 0 x\r\nx\r\n", &["set a 0 0 x\\r\\n", "x\\r\\n"]),
            ("set a 0 0 1\r\nxyz\r\n", &["set a 0 0 1\\r\\nxyz", "\\r\\n"]),
            ("ms a 1 !\r\nx\r\nmn\r\n", &["ms a 1 !\\r\\nx\\r\\n", "mn\\r\\n"]),
            ("ms a x\r\nx\r\n", &["ms a x\\r\\n", "x\\r\\n"]),
            ("cas a 0 0 1 5\r\nx\r\n", &["cas a 0 0 1 5\\r\\nx\\r\\n"]),
            ("cas a 0 0 1\r\nx\r\n", &["cas a 0 0 1\\r\\n", "x\\r\\n"]),
            ("set a 0 0 +1\r\nx\r\nmn\r\n", &["set a 0 0 +1\\r\\nx\\r\\n", "mn\\r\\n"]),
            ("set a 0 0 4294967297\r\nx\r\nmn\r\n", &["set a 0 0 4294967297\\r\\nx\\r\\n", "mn\\r\\n"]),
            ("\r\n\n", &["\\r\\n", "\\n"]),
        ] {
            assert_eq!(frames(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    /// A value above the limit is refused, read past, and nothing behind it is lost.
    #[test]
    fn large_values_are_read_past() {
        for line in
            ["set a 0 0 1001\r\n", "set a 0 0 1001 noreply\r\n", "ms a 1001 q\r\n", "cas a 0 0 1001 1\r\n"]
        {
            let stream = [line.as_bytes(), &[b'x'; 1001], b"\r\nget b\r\n"].concat();
            let (found, error) = requests([&stream[..]]);
            assert_eq!((found.len(), error), (2, None), "{line}");
            let quiet = line.contains("noreply");
            assert_eq!(found[0].1 == "Nothing", quiet, "{line} {}", found[0].1);
            assert_eq!(found[1].0, b"get b\r\n");
        }
    }

    /// Lines have an end, but for retrievals; the binary protocol is no text.
    #[test]
    fn what_closes_the_session() {
        let long = |head: &str, n: usize| [head.as_bytes(), &vec![b'x'; n]].concat();
        for (stream, expected) in [
            (long("", 2048), None),
            (long("", 2049), Some(DecodeError::Line(2048))),
            (long("get ", 2049), None),
            (long("  gats 0 ", 5000), None),
            (long("getx ", 2049), Some(DecodeError::Line(2048))),
            (long("get ", 10_000), Some(DecodeError::Line(10_000))),
            (b"\x80\x00".to_vec(), Some(DecodeError::Binary)),
            (b"get a\r\n\x80".to_vec(), Some(DecodeError::Binary)),
        ] {
            assert_eq!(requests([&stream[..]]).1, expected, "{}", stream.escape_ascii());
            assert_eq!(requests(stream.chunks(1)).1, expected, "{}", stream.escape_ascii());
            let ended = [&stream[..], b"\r\n"].concat();
            if expected.is_some() {
                assert_eq!(requests([&ended[..]]).1, expected, "{}", stream.escape_ascii());
            }
        }
    }

    /// A retrieval has as many words as it may; with more it is one request all the same, and is refused as a
    /// whole. Other lines are not counted.
    #[test]
    fn many_words() {
        let refusal = Plan::Refuse { line: TOO_MANY_KEYS.into(), close: false };
        let is_refusal = |plan: &str| plan == format!("{refusal:?}");
        for (verb, words, is_refused) in [
            ("get", 40, false),
            ("get", 41, true),
            ("gats 0", 40, false),
            ("gats 0", 41, true),
            ("get", 400, true),
            ("md", 41, false),
            ("flush_all", 50, false),
        ] {
            let keys = words - verb.split(' ').count();
            let stream = format!("{verb}{} \0 a\r\nget b\r\n", " a".repeat(keys));
            let (found, error) = requests([stream.as_bytes()]);
            assert_eq!((found.len(), error), (2, None), "{stream}");
            assert_eq!(is_refusal(&found[0].1), is_refused, "{stream} {}", found[0].1);
            assert_eq!(found[1].0, b"get b\r\n");
            assert_eq!(requests(stream.as_bytes().chunks(1)).0, found);
        }
        let mut few = RequestDecoder::default();
        let limits = Limits { args_max: 2, ..LIMITS };
        for (line, is_refused) in [("get a b\r\n", true), ("get  a\r\n", false), ("touch a 0\r\n", false)] {
            assert_eq!(few.decode(line.as_bytes(), &limits), Ok(Step::Request(line.len())));
            assert_eq!(is_refusal(&format!("{:?}", few.request(line.as_bytes()).plan())), is_refused);
        }
    }

    /// After an error the decoder reads the next stream as if nothing had been.
    #[test]
    fn an_error_leaves_nothing_behind() {
        let mut decoder = RequestDecoder::default();
        assert_eq!(decoder.decode(&[b'x'; 2000], &LIMITS), Ok(Step::Partial(2001)));
        assert_eq!(decoder.decode(&[b'x'; 3000], &LIMITS), Err(DecodeError::Line(2048)));
        assert_eq!(decoder.decode(b"get a\r\n", &LIMITS), Ok(Step::Request(7)));
        assert_eq!(decoder.decode(b"set a 0 0 5\r\nab", &LIMITS), Ok(Step::Partial(20)));
        assert!(decoder.is_partial());
        decoder.reset();
        assert_eq!(decoder.decode(b"mn\r\n", &LIMITS), Ok(Step::Request(4)));
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let word = prop::sample::select(
            "get gets gat set add cas append ms mg md ma me mn delete incr touch flush_all stats verbosity noreply a \
             b k 0 1 2 5 -1 +1 q v b2 N0 O1 \r \n \r\n \r\n \r\n x Zm9v 4294967297 1001"
                .split(' ')
                .map(|w| w.as_bytes().to_vec())
                .collect::<Vec<_>>(),
        );
        let piece = prop_oneof![8 => word, 1 => prop::collection::vec(any::<u8>(), 0..4)];
        prop::collection::vec((piece, any::<bool>()), 0..60).prop_map(|pieces| {
            pieces
                .into_iter()
                .flat_map(|(mut w, blank)| {
                    if blank || !w.ends_with(b"\n") {
                        w.push(b' ');
                    }
                    w
                })
                .collect()
        })
    }

    proptest! {
        /// decode(split anywhere) = decode(whole), and nothing panics, for streams that look like
        /// requests.
        #[test]
        fn requests_split_anywhere(bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let whole = requests([&bytes[..]]);
            prop_assert_eq!(&requests(bytes.chunks(1)), &whole);
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            prop_assert_eq!(requests(at.windows(2).map(|w| &bytes[w[0]..w[1]])), whole);
        }

        /// The same for any bytes.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(requests(bytes.chunks(1)), requests([&bytes[..]]));
        }
    }
}

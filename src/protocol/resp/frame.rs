//! Cutting RESP streams into requests and replies. Both sides resume where they stopped, so a
//! stream that arrives byte by byte is scanned once. The law: decode(split anywhere) =
//! decode(whole).
//!
//! Requests follow Redis's own reader (`networking.c`): arrays of bulk strings, or inline lines;
//! its error texts too. Replies follow the RESP3 specification, of which RESP2 is a part.

use super::write;

/// Where one argument of a request stands, relative to the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

/// One whole request: its bytes, and its arguments within them.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The bytes as they go to a node: an array of bulk strings.
    pub frame: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Request<'a> {
    /// A request over bytes and spans that belong together.
    pub fn new(frame: &'a [u8], spans: &'a [Span]) -> Request<'a> {
        Request { frame, spans }
    }

    /// How many arguments there are, the command's name included. Never 0 for a decoded request.
    #[expect(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at this position; empty when there is none.
    #[inline]
    pub fn arg(&self, i: usize) -> &'a [u8] {
        self.spans.get(i).map_or(&[], |s| &self.frame[s.start as usize..(s.start + s.len) as usize])
    }

    /// The same bytes without their first `n` arguments: the request inside `COMMAND GETKEYS`.
    pub fn without(&self, n: usize) -> Request<'a> {
        Request { frame: self.frame, spans: self.spans.get(n..).unwrap_or(&[]) }
    }

    /// All arguments.
    pub fn args(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let frame = self.frame;
        self.spans.iter().map(move |s| &frame[s.start as usize..(s.start + s.len) as usize])
    }
}

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    /// One argument, in bytes.
    pub bulk_bytes: usize,
    /// The whole request, in bytes; at most 4 GiB.
    pub request_bytes: usize,
    /// Arguments.
    pub args_max: usize,
}

impl FrameLimits {
    /// What a client may send before it has authenticated, as in Redis.
    pub const UNAUTHENTICATED: FrameLimits =
        FrameLimits { bulk_bytes: 16_384, request_bytes: 1 << 18, args_max: 10 };
}

/// A header line or inline request longer than this is refused, as in Redis.
const LINE_MAX: usize = 64 * 1024;

/// Bytes that are not the protocol, or break a limit. The text is what Redis says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The count after `*` is not a number or too large.
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// Too many arguments for a client that has not authenticated.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulk,
    /// The length after `$` is not a number, negative or too large.
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// Too long an argument for a client that has not authenticated.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulk,
    /// Something else stands where an argument must begin.
    #[error("Protocol error: expected '$', got '{}'", printable(*.0))]
    ExpectedBulk(u8),
    /// No line break after an argument.
    #[error("Protocol error: expected CRLF after a bulk string")]
    ExpectedLineBreak,
    /// A count line without an end.
    #[error("Protocol error: too big mbulk count string")]
    CountLine,
    /// A length line without an end.
    #[error("Protocol error: too big bulk count string")]
    LengthLine,
    /// An inline request without an end.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// Quotes that do not close.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// The request as a whole is larger than `request_bytes`.
    #[error("Protocol error: request larger than {0} bytes")]
    RequestBytes(usize),
    /// A reply that begins with an unknown byte.
    #[error("a reply begins with '{}'", printable(*.0))]
    ReplyKind(u8),
    /// A reply whose length or count is not a number.
    #[error("a reply has a malformed length")]
    ReplyLength,
}

fn printable(byte: u8) -> char {
    if byte.is_ascii_graphic() || byte == b' ' { byte as char } else { '?' }
}

/// What a decoder found at the start of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One whole request of this many bytes; it stands in the input.
    Request(usize),
    /// One inline request of this many bytes; rewritten, it stands in [`RequestDecoder::inline`].
    Inline(usize),
    /// This many bytes without a request in them (an empty line, an empty array).
    Skip(usize),
    /// Not whole yet: the frame has at least this many bytes in all.
    Partial(usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Start,
    Header,
    Body(u32),
}

/// Cuts requests. Between [`Step::Partial`] and the next call, the same bytes must be given again
/// with more behind them.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    at: At,
    /// Bytes of the frame that need no second look.
    scanned: usize,
    /// Arguments still to come.
    missing: u32,
    spans: Vec<Span>,
    inline: Vec<u8>,
}

impl RequestDecoder {
    /// The arguments of the request that was found last, or so far.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The last inline request, rewritten as an array of bulk strings.
    pub fn inline(&self) -> &[u8] {
        &self.inline
    }

    /// How many arguments the request has that is being read; 0 before its count is known.
    pub fn announced(&self) -> usize {
        self.spans.len() + self.missing as usize
    }

    /// Whether it stopped in the middle of a request.
    pub fn is_partial(&self) -> bool {
        self.at != At::Start || self.scanned != 0
    }

    /// Forgets a request that was read in part.
    pub fn reset(&mut self) {
        self.at = At::Start;
        self.scanned = 0;
        self.missing = 0;
    }

    /// Looks for one request at the start of `bytes`.
    ///
    /// # Errors
    /// [`FrameError`]; the stream can't be read on after it.
    #[inline]
    pub fn decode(&mut self, bytes: &[u8], limits: &FrameLimits) -> Result<Step, FrameError> {
        // A decoder that serves several streams must not carry one's error into the next.
        self.step(bytes, limits).inspect_err(|_| self.reset())
    }

    #[inline]
    fn step(&mut self, bytes: &[u8], limits: &FrameLimits) -> Result<Step, FrameError> {
        if self.at == At::Start {
            match bytes.first() {
                None => return Ok(Step::Partial(1)),
                Some(b'*') => match self.count(bytes, limits)? {
                    Some(0) => return Ok(Step::Skip(std::mem::take(&mut self.scanned))),
                    Some(_) => {}
                    None => return Ok(Step::Partial(bytes.len() + 1)),
                },
                Some(_) => return self.inline_line(bytes),
            }
        }
        self.arguments(bytes, limits)
    }

    /// Reads `*N`: how many arguments follow, 0 for none, or `None` for not there yet.
    fn count(&mut self, bytes: &[u8], limits: &FrameLimits) -> Result<Option<u32>, FrameError> {
        let Some((line, end)) = self.line(bytes, 1) else {
            return if bytes.len() > LINE_MAX { Err(FrameError::CountLine) } else { Ok(None) };
        };
        let n = number(line).ok_or(FrameError::MultibulkLength)?;
        self.scanned = end;
        if n <= 0 {
            return Ok(Some(0));
        }
        if n as u64 > limits.args_max as u64 {
            let small = limits.args_max == FrameLimits::UNAUTHENTICATED.args_max;
            return Err(if small {
                FrameError::UnauthenticatedMultibulk
            } else {
                FrameError::MultibulkLength
            });
        }
        self.spans.clear();
        self.missing = n as u32;
        self.at = At::Header;
        Ok(Some(self.missing))
    }

    fn arguments(&mut self, bytes: &[u8], limits: &FrameLimits) -> Result<Step, FrameError> {
        loop {
            match self.at {
                At::Start => return Ok(Step::Partial(bytes.len() + 1)),
                At::Header => {
                    match bytes.get(self.scanned) {
                        None => return Ok(Step::Partial(self.scanned + 4)),
                        Some(b'$') => {}
                        Some(other) => return Err(FrameError::ExpectedBulk(*other)),
                    }
                    let Some((line, end)) = self.line(bytes, self.scanned + 1) else {
                        if bytes.len() - self.scanned > LINE_MAX {
                            return Err(FrameError::LengthLine);
                        }
                        return Ok(Step::Partial(bytes.len() + 1));
                    };
                    let len = number(line).filter(|n| *n >= 0).ok_or(FrameError::BulkLength)?;
                    if len as u64 > limits.bulk_bytes as u64 {
                        let small = limits.bulk_bytes == FrameLimits::UNAUTHENTICATED.bulk_bytes;
                        return Err(if small {
                            FrameError::UnauthenticatedBulk
                        } else {
                            FrameError::BulkLength
                        });
                    }
                    if end + len as usize + 2 > limits.request_bytes.min(u32::MAX as usize) {
                        return Err(FrameError::RequestBytes(limits.request_bytes));
                    }
                    self.scanned = end;
                    self.at = At::Body(len as u32);
                }
                At::Body(len) => {
                    let end = self.scanned + len as usize;
                    match bytes.get(end..end + 2) {
                        None => return Ok(Step::Partial(end + 2)),
                        Some(b"\r\n") => {}
                        Some(_) => return Err(FrameError::ExpectedLineBreak),
                    }
                    self.spans.push(Span { start: self.scanned as u32, len });
                    self.scanned = end + 2;
                    self.missing -= 1;
                    if self.missing == 0 {
                        self.at = At::Start;
                        return Ok(Step::Request(std::mem::take(&mut self.scanned)));
                    }
                    self.at = At::Header;
                }
            }
        }
    }

    /// The text of the line that begins at `from`, and where the next one begins.
    fn line<'b>(&self, bytes: &'b [u8], from: usize) -> Option<(&'b [u8], usize)> {
        // Lines are a few bytes: a plain loop beats a call.
        let rest = bytes.get(from..)?;
        let end = rest.iter().take(LINE_MAX).position(|b| *b == b'\r')?;
        rest.get(end + 1)?;
        Some((&rest[..end], from + end + 2))
    }

    fn inline_line(&mut self, bytes: &[u8]) -> Result<Step, FrameError> {
        let Some(end) = bytes[self.scanned..].iter().position(|b| *b == b'\n').map(|i| i + self.scanned)
        else {
            if bytes.len() > LINE_MAX {
                return Err(FrameError::InlineLine);
            }
            self.scanned = bytes.len();
            return Ok(Step::Partial(bytes.len() + 1));
        };
        self.scanned = 0;
        let line = &bytes[..end];
        let args = split_inline(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(FrameError::Quotes)?;
        if args.is_empty() {
            return Ok(Step::Skip(end + 1));
        }
        self.inline.clear();
        write::request(&mut self.inline, &args);
        self.spans.clear();
        let mut at = self.inline.len();
        for arg in args.iter().rev() {
            at -= arg.len() + 2;
            self.spans.push(Span { start: at as u32, len: arg.len() as u32 });
            at -= 3 + decimal_digits(arg.len());
        }
        self.spans.reverse();
        Ok(Step::Inline(end + 1))
    }
}

fn decimal_digits(n: usize) -> usize {
    n.checked_ilog10().map_or(1, |d| d as usize + 1)
}

/// A decimal number as Redis reads it: no sign but `-`, no leading zeros.
pub fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [] | [b'0', _, ..] => return None,
        [b'0'] if negative => return None,
        _ => {}
    }
    let mut n = 0i64;
    for d in digits {
        let d = d.wrapping_sub(b'0');
        if d > 9 {
            return None;
        }
        n = n.checked_mul(10)?.checked_sub(i64::from(d))?;
    }
    if negative { Some(n) } else { n.checked_neg() }
}

/// Splits an inline request as Redis's `sdssplitargs` does: white space, "..." with escapes,
/// '...' with `\'`. `None` for quotes that do not close or are followed by text.
fn split_inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut args = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Some(args);
        }
        let mut arg = Vec::new();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'"' => rest = quoted(rest, &mut arg)?,
                b'\'' => rest = single_quoted(rest, &mut arg)?,
                0 | b' ' | b'\n' | b'\r' | b'\t' => break,
                _ => arg.push(byte),
            }
        }
        args.push(arg);
    }
}

/// After a closing quote only white space or the end may stand.
fn after_quote(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

fn quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'x', h, l, after @ ..] if h.is_ascii_hexdigit() && l.is_ascii_hexdigit() => {
                let digit = |b: u8| (b as char).to_digit(16).unwrap_or(0) as u8;
                arg.push(digit(*h) << 4 | digit(*l));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [b'"', after @ ..] => return after_quote(after),
            [byte, after @ ..] => {
                arg.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                arg.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return after_quote(after),
            [byte, after @ ..] => {
                arg.push(*byte);
                rest = after;
            }
            [] => return None,
        }
    }
}

/// How far a scanner got in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes of the chunk that belong to this value.
    pub used: usize,
    /// Whether the value ends there. If not, all of the chunk was used.
    pub done: bool,
}

/// Set in the count of digits once the carriage return behind them was read.
const RETURNED: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Kind,
    Line,
    Number { kind: u8, n: i64, negative: bool, digits: u8 },
    Body(u64),
}

/// Finds where a value ends, a chunk at a time, in constant memory: each byte can be passed on at
/// once. It reads replies, and requests too, which are arrays of bulk strings.
#[derive(Clone, Debug)]
pub struct Scanner {
    reading: Reading,
    /// Values that still have to begin, nested ones included.
    values: u64,
    between: bool,
    first: u8,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner { reading: Reading::Kind, values: 1, between: true, first: 0 }
    }
}

impl Scanner {
    /// The first byte of the value that is being read, or was read last: `-` tells an error.
    pub fn first(&self) -> u8 {
        self.first
    }

    /// Whether it stands between two values.
    pub fn is_between(&self) -> bool {
        self.between
    }

    /// Bytes that must still come, as far as is known.
    pub fn outstanding(&self) -> u64 {
        match self.reading {
            Reading::Body(left) => left,
            _ => 1,
        }
    }

    /// Reads on. After a whole value it stands ready for the next one.
    ///
    /// # Errors
    /// [`FrameError::ReplyKind`] and [`FrameError::ReplyLength`]; the stream can't be read on.
    #[inline]
    pub fn advance(&mut self, chunk: &[u8]) -> Result<Scan, FrameError> {
        let mut at = 0;
        while at < chunk.len() {
            match self.reading {
                Reading::Kind => {
                    let kind = chunk[at];
                    at += 1;
                    if self.between {
                        self.first = kind;
                        self.between = false;
                    }
                    self.reading = match kind {
                        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Reading::Line,
                        b'$' | b'*' | b'%' | b'~' | b'=' | b'!' | b'>' | b'|' => {
                            Reading::Number { kind, n: 0, negative: false, digits: 0 }
                        }
                        other => return Err(FrameError::ReplyKind(other)),
                    };
                    self.values -= 1;
                }
                Reading::Line => match chunk[at..].iter().position(|b| *b == b'\n') {
                    None => return Ok(Scan { used: chunk.len(), done: false }),
                    Some(i) => {
                        at += i + 1;
                        if self.value_ended() {
                            return Ok(Scan { used: at, done: true });
                        }
                    }
                },
                Reading::Number { .. } => {
                    at += 1;
                    if self.digit(chunk[at - 1])? && self.value_ended() {
                        return Ok(Scan { used: at, done: true });
                    }
                }
                Reading::Body(left) => {
                    let here = left.min((chunk.len() - at) as u64);
                    at += here as usize;
                    self.reading = Reading::Body(left - here);
                    if left == here && self.value_ended() {
                        return Ok(Scan { used: at, done: true });
                    }
                }
            }
        }
        Ok(Scan { used: at, done: false })
    }

    /// A value without parts ended: is the whole one at its end? Stands ready for the next.
    fn value_ended(&mut self) -> bool {
        self.reading = Reading::Kind;
        if self.values == 0 {
            self.values = 1;
            self.between = true;
            return true;
        }
        false
    }

    /// One byte of a length or count line; true when that line was all of the value.
    fn digit(&mut self, byte: u8) -> Result<bool, FrameError> {
        let Reading::Number { kind, n, negative, digits } = self.reading else {
            return Ok(false);
        };
        match byte {
            b'0'..=b'9' if digits < 18 => {
                let n = n * 10 + i64::from(byte - b'0');
                self.reading = Reading::Number { kind, n, negative, digits: digits + 1 };
                Ok(false)
            }
            b'-' if digits == 0 && !negative => {
                self.reading = Reading::Number { kind, n, negative: true, digits };
                Ok(false)
            }
            b'\r' if (1..=18).contains(&digits) => {
                self.reading = Reading::Number { kind, n, negative, digits: digits | RETURNED };
                Ok(false)
            }
            b'\n' if digits > RETURNED => self.count_read(kind, n as u64, negative),
            _ => Err(FrameError::ReplyLength),
        }
    }

    fn count_read(&mut self, kind: u8, n: u64, negative: bool) -> Result<bool, FrameError> {
        let more = match kind {
            _ if negative => 0,
            b'$' | b'=' | b'!' => {
                self.reading = Reading::Body(n + 2);
                return Ok(false);
            }
            b'%' => n * 2,
            // An attribute stands before its value and does not count as one.
            b'|' => n * 2 + 1,
            _ => n,
        };
        self.values = self.values.checked_add(more).ok_or(FrameError::ReplyLength)?;
        self.reading = Reading::Kind;
        Ok(self.values == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { bulk_bytes: 1 << 20, request_bytes: 1 << 22, args_max: 1024 };

    /// All requests of a stream that arrives in these chunks, as a session reads it.
    fn requests(chunks: &[&[u8]]) -> Result<Vec<Vec<Vec<u8>>>, FrameError> {
        let mut decoder = RequestDecoder::default();
        let (mut buffer, mut found) = (Vec::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            loop {
                let used = match decoder.decode(&buffer, &LIMITS)? {
                    Step::Partial(_) => break,
                    Step::Skip(n) => n,
                    Step::Request(n) => {
                        let request = Request::new(&buffer[..n], decoder.spans());
                        found.push(request.args().map(<[u8]>::to_vec).collect());
                        n
                    }
                    Step::Inline(n) => {
                        let request = Request::new(decoder.inline(), decoder.spans());
                        found.push(request.args().map(<[u8]>::to_vec).collect());
                        n
                    }
                };
                buffer.drain(..used);
            }
        }
        Ok(found)
    }

    fn words(args: &[&str]) -> Vec<Vec<u8>> {
        args.iter().map(|a| a.as_bytes().to_vec()).collect()
    }

    /// Each malformed or odd request gets the answer that Redis gives.
    #[test]
    #[expect(clippy::type_complexity, reason = "a table of requests")]
    fn a_table_of_requests() {
        let big = vec![b'x'; LINE_MAX + 2];
        let cases: &[(&[u8], Result<Vec<Vec<Vec<u8>>>, FrameError>)] = &[
            (b"*1\r\n$4\r\nPING\r\n", Ok(vec![words(&["PING"])])),
            (b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", Ok(vec![words(&["GET", ""])])),
            (b"PING\r\n", Ok(vec![words(&["PING"])])),
            (b"  set  a \"x\\x41\\n\" 'it\\'s'\n", Ok(vec![words(&["set", "a", "xA\n", "it's"])])),
            (b"get \"\"\r\n", Ok(vec![words(&["get", ""])])),
            (b"\r\n\n*0\r\n*-1\r\nPING\r\n", Ok(vec![words(&["PING"])])),
            (b"get \"a\r\n", Err(FrameError::Quotes)),
            (b"get \"a\"b\r\n", Err(FrameError::Quotes)),
            (b"*1000000000\r\n", Err(FrameError::MultibulkLength)),
            (b"*x\r\n", Err(FrameError::MultibulkLength)),
            (b"*01\r\n", Err(FrameError::MultibulkLength)),
            (b"*99999999999999999999\r\n", Err(FrameError::MultibulkLength)),
            (b"*1\r\n$-1\r\n", Err(FrameError::BulkLength)),
            (b"*1\r\n$536870912\r\n", Err(FrameError::BulkLength)),
            (b"*1\r\n:1\r\n", Err(FrameError::ExpectedBulk(b':'))),
            (b"*1\r\n$1\r\nabc", Err(FrameError::ExpectedLineBreak)),
            (&big, Err(FrameError::InlineLine)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(&requests(&[bytes]), expected, "{}", bytes.escape_ascii());
        }
        let long = [&b"*"[..], &vec![b'1'; LINE_MAX + 1]].concat();
        assert_eq!(requests(&[&long]), Err(FrameError::CountLine));
        let long = [&b"*1\r\n$"[..], &vec![b'1'; LINE_MAX + 1]].concat();
        assert_eq!(requests(&[&long]), Err(FrameError::LengthLine));
    }

    /// After an error the decoder reads the next stream as if nothing had been.
    #[test]
    fn an_error_leaves_nothing_behind() {
        let mut decoder = RequestDecoder::default();
        for bad in [&b"*2\r\n$3\r\nGET\r\n$-1\r\n"[..], b"*2\r\n$3\r\nGET\r\nx", b"get \"\n", b"*x\r\n"] {
            assert!(decoder.decode(bad, &LIMITS).is_err());
            assert_eq!(decoder.decode(b"*1\r\n$4\r\nPING\r\n", &LIMITS), Ok(Step::Request(14)));
            assert_eq!(decoder.spans().len(), 1);
        }
    }

    /// A client that has not authenticated gets small limits, and is told so.
    #[test]
    fn strangers_get_small_limits() {
        let decode = |bytes: &[u8]| RequestDecoder::default().decode(bytes, &FrameLimits::UNAUTHENTICATED);
        assert_eq!(decode(b"*11\r\n"), Err(FrameError::UnauthenticatedMultibulk));
        assert_eq!(decode(b"*2\r\n$16385\r\n"), Err(FrameError::UnauthenticatedBulk));
    }

    /// Values of every RESP3 kind end where they end, nested, negative and attributed ones too.
    #[test]
    fn a_table_of_replies() {
        for reply in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":-5\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "$0\r\n\r\n",
            "$3\r\na\r\n\r\n",
            "*0\r\n",
            "_\r\n",
            "#t\r\n",
            ",1.5\r\n",
            "(123\r\n",
            "=5\r\ntxt:a\r\n",
            "!3\r\nERR\r\n",
            "%0\r\n",
            "%1\r\n+a\r\n*2\r\n:1\r\n$-1\r\n",
            "~2\r\n+a\r\n+b\r\n",
            "|1\r\n+k\r\n+v\r\n:7\r\n",
            "*2\r\n*0\r\n*1\r\n*1\r\n$2\r\nhi\r\n",
            ">2\r\n+a\r\n+b\r\n",
        ] {
            let mut scanner = Scanner::default();
            let bytes = [reply.as_bytes(), b"+NEXT\r\n"].concat();
            assert_eq!(scanner.advance(&bytes), Ok(Scan { used: reply.len(), done: true }), "{reply:?}");
            assert_eq!(scanner.first(), reply.as_bytes()[0]);
            assert!(scanner.is_between());
            let mut split = Scanner::default();
            for (i, byte) in reply.bytes().enumerate() {
                let done = i + 1 == reply.len();
                assert_eq!(split.advance(&[byte]), Ok(Scan { used: 1, done }), "{reply:?} at {i}");
            }
        }
        for (bad, error) in [
            ("?\r\n", FrameError::ReplyKind(b'?')),
            ("$x\r\n", FrameError::ReplyLength),
            ("*\r\n", FrameError::ReplyLength),
            ("$1\r2\r\n", FrameError::ReplyLength),
            ("$1\n", FrameError::ReplyLength),
            ("$1234567890123456789\r\n", FrameError::ReplyLength),
            ("HTTP/1.1 400", FrameError::ReplyKind(b'H')),
        ] {
            assert_eq!(Scanner::default().advance(bad.as_bytes()), Err(error), "{bad:?}");
        }
    }

    proptest! {
        /// decode(split anywhere) = decode(whole), and it finds the arguments that were written.
        #[test]
        fn requests_split_anywhere(
            script in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut bytes = Vec::new();
            for args in &script {
                write::request(&mut bytes, args);
            }
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(requests(&chunks).expect("valid"), script);
        }

        /// No bytes make a decoder or a scanner panic, and cuts do not change what is found.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200)) {
            let whole = requests(&[&bytes]);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(whole, requests(&single));
            let (mut a, mut b) = (Scanner::default(), Scanner::default());
            let first = a.advance(&bytes);
            let mut used = 0;
            for byte in &bytes {
                match b.advance(&[*byte]) {
                    Ok(Scan { done: true, .. }) => {
                        prop_assert_eq!(first.clone(), Ok(Scan { used: used + 1, done: true }));
                        return Ok(());
                    }
                    Ok(_) => used += 1,
                    Err(e) => {
                        prop_assert_eq!(first.clone(), Err(e));
                        return Ok(());
                    }
                }
            }
            prop_assert_eq!(first, Ok(Scan { used, done: false }));
        }
    }
}

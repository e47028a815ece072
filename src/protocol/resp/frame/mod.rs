//! Cutting RESP streams into requests and replies. Both sides resume where they stopped, so a
//! stream that arrives byte by byte is scanned once. The law: decode(split anywhere) =
//! decode(whole).
//!
//! Requests follow Redis's own reader (`networking.c`): arrays of bulk strings, or inline lines;
//! its error texts too. Replies follow the RESP3 specification, of which RESP2 is a part.

mod inline;
mod plain;
mod scanner;

use super::write;
use inline::split_inline;
pub use plain::{Plain, Start};
pub(super) use scanner::strings;
pub use scanner::{Scan, Scanner, holds_nothing};

/// Where one argument of a request stands, relative to the start of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Stands for `len` bytes from `start` on, if a line break is behind them: where that ends.
    #[inline(always)]
    fn place(&mut self, bytes: &[u8], start: usize, len: usize) -> Option<usize> {
        let end = start + len;
        if bytes.get(end..)?.first_chunk() != Some(b"\r\n") {
            return None;
        }
        *self = Span { start: start as u32, len: len as u32 };
        Some(end + 2)
    }
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

    /// The command's name as one word, its first byte lowest, and its length. None when it is longer
    /// than eight bytes, or so near the end of the request that eight can't be read at once.
    #[inline(always)]
    pub(super) fn name(&self) -> Option<(u64, u32)> {
        let Span { start, len } = *self.spans.first()?;
        let word = u64::from_le_bytes(*self.frame.get(start as usize..)?.first_chunk()?);
        // What stands behind the name is cut off.
        let unused = 64u32.checked_sub(8 * len).filter(|unused| *unused < 64)?;
        Some((word & (u64::MAX >> unused), len))
    }

    /// The bytes of the arguments from `first`, which is 1 or more, to `last`, their headers included:
    /// as they stand in the frame of another request.
    pub fn raw(&self, first: usize, last: usize) -> &'a [u8] {
        let end = |span: &Span| (span.start + span.len) as usize + 2;
        match (self.spans.get(first.wrapping_sub(1)), self.spans.get(last)) {
            (Some(before), Some(last)) => self.frame.get(end(before)..end(last)).unwrap_or(&[]),
            _ => &[],
        }
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
    /// For what has been let in already.
    pub const NONE: FrameLimits =
        FrameLimits { bulk_bytes: usize::MAX >> 1, request_bytes: usize::MAX, args_max: usize::MAX };
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
    /// A line of a reply that ends without a carriage return.
    #[error("a line of a reply ends without a carriage return")]
    ReplyLine,
    /// No line break behind a string of a reply.
    #[error("a string in a reply ends without a line break")]
    ReplyStringEnd,
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

/// The header of one argument.
enum Header {
    /// The argument's length, and where it begins.
    Whole { len: u32, end: usize },
    /// The frame has at least this many bytes in all.
    Partial(usize),
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
    #[inline(always)]
    pub fn decode(&mut self, bytes: &[u8], limits: &FrameLimits) -> Result<Step, FrameError> {
        if !self.is_partial()
            && let Some(len) = self.small(bytes, limits)
        {
            return Ok(Step::Request(len));
        }
        // A decoder that serves several streams must not carry one's error into the next.
        self.step(bytes, limits).inspect_err(|_| self.reset())
    }

    /// The length of a request that is small and whole, as nearly all are: counts and lengths have
    /// at most four digits. What is anything else is left to the reader that resumes.
    #[inline]
    fn small(&mut self, bytes: &[u8], limits: &FrameLimits) -> Option<usize> {
        let (count, name, at) = match short_start(bytes) {
            Some(start) => start,
            None => {
                let (count, at) = short_header(b'*', bytes)?;
                let (name, head) = short_header(b'$', bytes.get(at..)?)?;
                (count, name, at + head)
            }
        };
        if count > limits.args_max || limits.bulk_bytes < 10_000 {
            return None;
        }
        self.spans.resize(count, Span::default());
        let (first, rest) = self.spans.split_first_mut()?;
        let mut at = first.place(bytes, at, name)?;
        for span in rest {
            let (len, head) = short_header(b'$', bytes.get(at..)?)?;
            at = span.place(bytes, at + head, len)?;
        }
        (at <= limits.request_bytes).then_some(at)
    }

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
        // Redis takes any byte for the line feed; a proxy and its nodes must not read the same bytes in
        // two ways, so here nothing else is one.
        let n = number(line).filter(|_| bytes[end - 1] == b'\n').ok_or(FrameError::MultibulkLength)?;
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
        // What is known is written back only where the bytes end.
        let mut at = self.scanned;
        let mut body = if let At::Body(len) = self.at { Some(len) } else { None };
        while self.missing > 0 {
            let len = match body.take() {
                Some(len) => len,
                None => match self.header(bytes, at, limits)? {
                    Header::Whole { len, end } => {
                        at = end;
                        len
                    }
                    Header::Partial(needed) => {
                        (self.at, self.scanned) = (At::Header, at);
                        return Ok(Step::Partial(needed));
                    }
                },
            };
            let end = at + len as usize;
            match bytes.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(FrameError::ExpectedLineBreak),
                None => {
                    (self.at, self.scanned) = (At::Body(len), at);
                    return Ok(Step::Partial(end + 2));
                }
            }
            self.spans.push(Span { start: at as u32, len });
            at = end + 2;
            self.missing -= 1;
        }
        (self.at, self.scanned) = (At::Start, 0);
        Ok(Step::Request(at))
    }

    /// Reads `$N` at `at`.
    fn header(&self, bytes: &[u8], at: usize, limits: &FrameLimits) -> Result<Header, FrameError> {
        let (len, end) = match bytes.get(at..) {
            Some([b'$', rest @ ..]) => match self.line(bytes, at + 1) {
                None if rest.len() >= LINE_MAX => return Err(FrameError::LengthLine),
                None => return Ok(Header::Partial(bytes.len() + 1)),
                Some((line, end)) => {
                    let whole = number(line).filter(|_| bytes[end - 1] == b'\n');
                    let len = whole.and_then(|n| usize::try_from(n).ok());
                    (len.ok_or(FrameError::BulkLength)?, end)
                }
            },
            Some([other, ..]) => return Err(FrameError::ExpectedBulk(*other)),
            _ => return Ok(Header::Partial(at + 4)),
        };
        if len > limits.bulk_bytes {
            let small = limits.bulk_bytes == FrameLimits::UNAUTHENTICATED.bulk_bytes;
            return Err(if small { FrameError::UnauthenticatedBulk } else { FrameError::BulkLength });
        }
        if end + len + 2 > limits.request_bytes.min(u32::MAX as usize) {
            return Err(FrameError::RequestBytes(limits.request_bytes));
        }
        Ok(Header::Whole { len: len as u32, end })
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

/// Reads the first eight bytes of a request of up to nine arguments, whose name has up to nine bytes,
/// at once: `*N` and `$M` with their line breaks. Gives N, M and where the name begins; None for
/// what begins in another way.
#[inline(always)]
fn short_start(bytes: &[u8]) -> Option<(usize, usize, usize)> {
    const SHAPE: u64 = u64::from_le_bytes(*b"*\0\r\n$\0\r\n");
    const DIGITS: u64 = 0xff << 8 | 0xff << 40;
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    let digit = |at: u32| ((word >> (8 * at)) as u8).wrapping_sub(b'0') as usize;
    let (count, name) = (digit(1), digit(5));
    (word & !DIGITS == SHAPE && count <= 9 && name <= 9).then_some((count, name, 8))
}

/// Reads `$N` or `*N` and its line break from the first eight bytes of a header, when N has up to
/// four digits, as nearly all have: N, and where the next line begins. None for what takes a closer
/// look.
#[inline]
fn short_header(kind: u8, bytes: &[u8]) -> Option<(usize, usize)> {
    const LINE_BREAK: u16 = u16::from_le_bytes(*b"\r\n");
    let word = u64::from_le_bytes(*bytes.first_chunk()?);
    if word as u8 != kind {
        return None;
    }
    if let Some(len) = two_digits((word >> 8) as u32) {
        return Some((len, 5));
    }
    let digit = |at: u32| ((word >> (8 * at)) as u8).wrapping_sub(b'0') as usize;
    let ends = |at: u32| (word >> (8 * at)) as u16 == LINE_BREAK;
    let [a, b, c, d] = [digit(1), digit(2), digit(3), digit(4)];
    if a > 9 {
        None
    } else if ends(2) {
        Some((a, 4))
    } else if a == 0 || b > 9 {
        None
    } else if ends(3) {
        Some((a * 10 + b, 5))
    } else if c > 9 {
        None
    } else if ends(4) {
        Some((a * 100 + b * 10 + c, 6))
    } else if d <= 9 && ends(5) {
        Some((a * 1000 + b * 100 + c * 10 + d, 7))
    } else {
        None
    }
}

/// A number of two digits with a line break behind it, as most lengths are.
#[inline(always)]
fn two_digits(line: u32) -> Option<usize> {
    // What is left are the digits' values, if they are digits and nothing else is different.
    let digits = line ^ u32::from_le_bytes(*b"00\r\n");
    // Six more than a digit has no more than four bits; six more than ten has.
    let are_digits = (digits | digits.wrapping_add(0x0606)) & !0x0f0f == 0;
    let (tens, ones) = (digits & 0xf, digits >> 8);
    (are_digits && tens != 0).then_some((tens * 10 + ones) as usize)
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
            (b"*1\rX$4\r\nPING\r\n", Err(FrameError::MultibulkLength)),
            (b"*3\r$$4\r\nMGET\r\n", Err(FrameError::MultibulkLength)),
            (b"*1\r\n$4\rXPING\r\n", Err(FrameError::BulkLength)),
            (b"*1\r\n$20000\rX", Err(FrameError::BulkLength)),
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
            ("+OK\n", FrameError::ReplyLine),
            ("+\n", FrameError::ReplyLine),
            ("*1\r\n:1\n", FrameError::ReplyLine),
            ("$1\r\nxy\n", FrameError::ReplyStringEnd),
            ("$1\r\nx\ry", FrameError::ReplyStringEnd),
            ("*1\r\n$1\r\nxyz\r\n", FrameError::ReplyStringEnd),
        ] {
            assert_eq!(Scanner::default().advance(bad.as_bytes()), Err(error.clone()), "{bad:?}");
            let mut split = Scanner::default();
            let last = bad.bytes().map(|byte| split.advance(&[byte])).find(Result::is_err);
            assert_eq!(last, Some(Err(error)), "{bad:?} byte by byte");
        }
    }

    /// An array holds nothing when it is null, or nothing is in it but nulls of either version. An empty one
    /// is a value.
    #[test]
    fn an_array_of_nulls_holds_nothing() {
        for (array, expected) in [
            ("*-1\r\n", true),
            ("*1\r\n$-1\r\n", true),
            ("*3\r\n$-1\r\n$-1\r\n$-1\r\n", true),
            ("*2\r\n_\r\n_\r\n", true),
            ("*0\r\n", false),
            ("*2\r\n$-1\r\n$1\r\na\r\n", false),
            ("*2\r\n$5\r\n$-1\r\n\r\n$-1\r\n", false),
            ("*1\r\n:0\r\n", false),
            ("*", false),
        ] {
            assert_eq!(holds_nothing(array.as_bytes()), expected, "{array:?}");
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

//! Where a value ends, in a stream that arrives in any pieces.

use super::{FrameError, short_header};

/// How far a scanner got in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes of the chunk that belong to this value.
    pub used: usize,
    /// Whether the value ends there. If not, all of the chunk was used.
    pub done: bool,
}

/// How long the value at the start is, when it is a string, a status or a number and all of it is
/// there, as with nearly all replies.
#[inline(always)]
fn whole_value(chunk: &[u8]) -> Option<usize> {
    match chunk.first()? {
        b'$' => whole_string(chunk),
        b'+' | b'-' | b':' => {
            let end = chunk.iter().position(|b| *b == b'\n')?;
            (chunk[end - 1] == b'\r').then_some(end + 1)
        }
        _ => None,
    }
}

#[inline(always)]
fn whole_string(chunk: &[u8]) -> Option<usize> {
    match short_header(b'$', chunk) {
        Some((len, head)) => {
            let end = head + len;
            (chunk.get(end..)?.first_chunk() == Some(b"\r\n")).then_some(end + 2)
        }
        None => chunk.starts_with(NULL_STRING).then_some(NULL_STRING.len()),
    }
}

/// The end of a value of another kind; none of an error.
#[inline(never)]
fn whole_other(chunk: &[u8], kind: u8) -> Option<usize> {
    match kind {
        b'*' => strings(chunk, |_, _| Some(())),
        b'-' => None,
        _ => whole_value(chunk),
    }
}

/// Some bytes of a string, of which `left` are to come: its last two must be a line break. Redis's own
/// clients do not look; but a reader that does not either would take a shifted stream for replies.
fn breaks_behind(bytes: &[u8], left: u64) -> Result<(), FrameError> {
    for (behind, expected) in [(2, b'\r'), (1, b'\n')] {
        if left >= behind
            && let Some(byte) = usize::try_from(left - behind).ok().and_then(|i| bytes.get(i))
            && *byte != expected
        {
            return Err(FrameError::ReplyStringEnd);
        }
    }
    Ok(())
}

/// RESP2's string that is not there.
const NULL_STRING: &[u8] = b"$-1\r\n";

/// The strings of an array, nulls included, with their lengths; None when it has anything else in it
/// or is not all there.
#[inline]
pub(in crate::protocol::resp) fn strings<'a>(
    chunk: &'a [u8],
    mut found: impl FnMut(usize, &'a [u8]) -> Option<()>,
) -> Option<usize> {
    let (count, mut at) = short_header(b'*', chunk)?;
    for place in 0..count {
        let rest = chunk.get(at..)?;
        let len = whole_string(rest)?;
        found(place, rest.get(..len)?)?;
        at += len;
    }
    Some(at)
}

/// Whether an array that is all there has nothing in it but nulls: the reply to a `MGET` none of whose keys
/// is there. One without elements is a value that is empty.
pub fn holds_nothing(array: &[u8]) -> bool {
    if array == b"*-1\r\n" {
        return true;
    }
    let Some(head) = array.iter().position(|b| *b == b'\n') else { return false };
    let mut rest = &array[head + 1..];
    while let Some(after) = rest.strip_prefix(NULL_STRING).or_else(|| rest.strip_prefix(NULL)) {
        if after.is_empty() {
            return true;
        }
        rest = after;
    }
    false
}

/// RESP3's value that is not there.
const NULL: &[u8] = b"_\r\n";

/// Set in the count of digits once the carriage return behind them was read.
const RETURNED: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Kind,
    /// A line, and whether its last byte so far was a carriage return.
    Line {
        returned: bool,
    },
    Number {
        kind: u8,
        n: i64,
        negative: bool,
        digits: u8,
    },
    /// A string and its line break: bytes of both that are to come.
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
    /// The [`FrameError`]s about replies; the stream can't be read on.
    #[inline(always)]
    pub fn advance(&mut self, chunk: &[u8]) -> Result<Scan, FrameError> {
        match whole_value(chunk) {
            Some(used) if self.between => {
                self.first = chunk[0];
                Ok(Scan { used, done: true })
            }
            _ => self.advance_slowly(chunk),
        }
    }

    /// The end of the value at the start of these bytes, if it is there whole, no error, and none with parts
    /// but strings; nothing is read with that.
    #[inline(always)]
    pub fn plain(&self, bytes: &[u8]) -> Option<usize> {
        if !self.between {
            return None;
        }
        // Most are strings, and what begins as one can be nothing else.
        match bytes.first()? {
            b'$' => whole_string(bytes),
            kind => whole_other(bytes, *kind),
        }
    }

    fn advance_slowly(&mut self, chunk: &[u8]) -> Result<Scan, FrameError> {
        // Most arrays are whole too, and of strings. Only a chunk that begins one is looked at twice.
        let array = if self.between { strings(chunk, |_, _| Some(())) } else { None };
        match array {
            Some(used) => {
                self.first = b'*';
                Ok(Scan { used, done: true })
            }
            None => self.read_on(chunk),
        }
    }

    fn read_on(&mut self, chunk: &[u8]) -> Result<Scan, FrameError> {
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
                        b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => Reading::Line { returned: false },
                        b'$' | b'*' | b'%' | b'~' | b'=' | b'!' | b'>' | b'|' => {
                            Reading::Number { kind, n: 0, negative: false, digits: 0 }
                        }
                        other => return Err(FrameError::ReplyKind(other)),
                    };
                    self.values -= 1;
                }
                Reading::Line { returned } => match chunk[at..].iter().position(|b| *b == b'\n') {
                    None => {
                        self.reading = Reading::Line { returned: chunk.ends_with(b"\r") };
                        return Ok(Scan { used: chunk.len(), done: false });
                    }
                    Some(i) => {
                        if !(if i == 0 { returned } else { chunk[at + i - 1] == b'\r' }) {
                            return Err(FrameError::ReplyLine);
                        }
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
                    breaks_behind(&chunk[at..at + here as usize], left)?;
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

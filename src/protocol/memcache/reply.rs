//! Where a reply ends, in a stream that arrives in any pieces, and whether it can be one to the
//! request at all. Values are passed over, never held.

use super::{
    Awaits, Code,
    awaits::Grammar,
    number::plain,
    search::{line_feed, word_end},
};

/// How far a scanner got in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Bytes of the chunk that belong to this reply.
    pub used: usize,
    /// Whether the reply ends there. If not, all of the chunk was used.
    pub done: bool,
}

/// Bytes that are no reply to what was asked: the connection is mixed up, or no memcached's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// Another word than any that may answer.
    #[error("a reply begins with '{0}'")]
    Word(String),
    /// A value whose length is not a number.
    #[error("a reply has a malformed length")]
    Length,
    /// No line break behind a value.
    #[error("a value in a reply ends without a line break")]
    ValueEnd,
    /// A line without an end.
    #[error("a reply has a line longer than {LINE_MAX} bytes")]
    Line,
}

/// The longest line of a reply, in bytes: many times what memcached writes.
const LINE_MAX: usize = 64 * 1024;
/// The longest word that begins a line, with its carriage return: a counter has 20 digits.
const WORD_MAX: usize = 21;
/// Digits of the longest value's length.
const LENGTH_DIGITS_MAX: u8 = 10;

/// What stands behind the first word of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Nothing: the line ends the reply.
    Last,
    /// More lines.
    More,
    /// A value whose length is the word at this place, then more lines.
    Block,
    /// A value whose length is the first word, then the end.
    Value,
}

impl Role {
    /// Which word of the line is the length.
    fn length_at(self) -> u8 {
        match self {
            Role::Block => 3,
            Role::Value => 1,
            Role::Last | Role::More => u8::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The first word of a line.
    Word,
    /// The rest of a line: the word that it stands in, and the length as far as it was read.
    Rest { role: Role, word: u8, length: u64, digits: u8 },
    /// A value and its line break.
    Body { left: u64, last: bool },
}

/// Finds where a reply ends, a chunk at a time, in constant memory: each byte can be passed on at
/// once.
#[derive(Clone, Debug)]
pub struct ReplyScanner {
    reading: Reading,
    word: [u8; WORD_MAX],
    word_len: u8,
    /// Bytes of the line that is being read.
    line: usize,
    code: Code,
    error: bool,
    between: bool,
}

impl Default for ReplyScanner {
    fn default() -> ReplyScanner {
        ReplyScanner {
            reading: Reading::Word,
            word: [0; WORD_MAX],
            word_len: 0,
            line: 0,
            code: Code::Unread,
            error: false,
            between: true,
        }
    }
}

impl ReplyScanner {
    /// What the reply that is being read, or was read last, says with its first word.
    #[inline]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether it ended with an error line; values may stand in front of that.
    #[inline]
    pub fn is_error(&self) -> bool {
        self.error
    }

    /// Whether it stands between two replies.
    #[inline]
    pub fn is_between(&self) -> bool {
        self.between
    }

    /// Bytes that must still come, as far as is known.
    pub fn outstanding(&self) -> u64 {
        match self.reading {
            Reading::Body { left, last: true } => left,
            Reading::Body { left, last: false } => left + b"END\r\n".len() as u64,
            _ => 1,
        }
    }

    /// Reads on. After a whole reply it stands ready for the next one. `awaits` must be the same
    /// for all chunks of a reply.
    ///
    /// # Errors
    /// [`ReplyError`]; the stream can't be read on.
    #[inline]
    pub fn advance(&mut self, chunk: &[u8], awaits: Awaits) -> Result<Scan, ReplyError> {
        if self.between
            && let Some((used, code)) = whole(chunk, awaits.grammar)
        {
            (self.code, self.error) = (code, false);
            return Ok(Scan { used, done: true });
        }
        self.read_on(chunk, awaits.grammar)
    }

    /// The end of the reply at the start of these bytes, if it is there whole, no error, and one that its
    /// client wants to hear; nothing is read with that.
    #[inline]
    pub fn plain(&self, bytes: &[u8], awaits: Awaits) -> Option<usize> {
        let (end, code) = whole(bytes, awaits.grammar).filter(|_| self.between)?;
        (!awaits.swallows(code)).then_some(end)
    }

    fn read_on(&mut self, chunk: &[u8], grammar: Grammar) -> Result<Scan, ReplyError> {
        if self.between && !chunk.is_empty() {
            *self = ReplyScanner { between: false, ..ReplyScanner::default() };
        }
        let mut at = 0;
        while at < chunk.len() {
            let ended = match self.reading {
                Reading::Body { left, last } => {
                    let here = left.min((chunk.len() - at) as u64) as usize;
                    self.body(&chunk[at..at + here], left, last)?;
                    at += here;
                    self.reading == Reading::Word && last
                }
                _ => {
                    at += 1;
                    self.line += 1;
                    if self.line > LINE_MAX {
                        return Err(ReplyError::Line);
                    }
                    self.byte(chunk[at - 1], grammar)?
                }
            };
            if ended {
                self.between = true;
                return Ok(Scan { used: at, done: true });
            }
        }
        Ok(Scan { used: at, done: false })
    }

    /// Some bytes of a value, of which `left` are to come: its last two must be a line break.
    fn body(&mut self, bytes: &[u8], left: u64, last: bool) -> Result<(), ReplyError> {
        for (behind, expected) in [(2, b'\r'), (1, b'\n')] {
            if left >= behind
                && let Some(byte) = usize::try_from(left - behind).ok().and_then(|i| bytes.get(i))
                && *byte != expected
            {
                return Err(ReplyError::ValueEnd);
            }
        }
        let left = left - bytes.len() as u64;
        self.reading = if left == 0 { Reading::Word } else { Reading::Body { left, last } };
        Ok(())
    }

    /// One byte of a line; true when the reply ends with it.
    fn byte(&mut self, byte: u8, grammar: Grammar) -> Result<bool, ReplyError> {
        match &mut self.reading {
            Reading::Word if matches!(byte, b' ' | b'\n') => {
                let role = self.role(grammar)?;
                self.reading = Reading::Rest { role, word: 1, length: 0, digits: 0 };
                if byte == b'\n' { self.line_ended() } else { Ok(false) }
            }
            Reading::Word => match self.word.get_mut(usize::from(self.word_len)) {
                Some(place) => {
                    *place = byte;
                    self.word_len += 1;
                    Ok(false)
                }
                // Any line will do, and only its end is of interest.
                None if grammar == Grammar::Line => Ok(false),
                None => Err(self.unexpected()),
            },
            Reading::Rest { .. } if byte == b'\n' => self.line_ended(),
            Reading::Rest { role, word, length, digits } => {
                match byte {
                    b' ' => *word = word.saturating_add(1),
                    b'\r' => {}
                    b'0'..=b'9' if *word == role.length_at() && *digits < LENGTH_DIGITS_MAX => {
                        *length = *length * 10 + u64::from(byte - b'0');
                        *digits += 1;
                    }
                    _ if *word == role.length_at() => return Err(ReplyError::Length),
                    _ => {}
                }
                Ok(false)
            }
            Reading::Body { .. } => Ok(false),
        }
    }

    fn line_ended(&mut self) -> Result<bool, ReplyError> {
        let Reading::Rest { role, length, digits, .. } = self.reading else { return Ok(false) };
        (self.word_len, self.line) = (0, 0);
        self.reading = Reading::Word;
        match role {
            Role::Last => return Ok(true),
            Role::More => {}
            Role::Block | Role::Value if digits == 0 => return Err(ReplyError::Length),
            Role::Block | Role::Value => {
                self.reading = Reading::Body { left: length + 2, last: role == Role::Value };
            }
        }
        Ok(false)
    }

    /// What the first word of a line means, now that it is whole.
    fn role(&mut self, grammar: Grammar) -> Result<Role, ReplyError> {
        let word = &self.word[..usize::from(self.word_len)];
        let word = word.strip_suffix(b"\r").unwrap_or(word);
        let role = role(grammar, word).ok_or_else(|| self.unexpected())?;
        let code = Code::of(word);
        self.error = code == Code::Error;
        if self.code == Code::Unread {
            self.code = if code == Code::Unread { Code::Other } else { code };
        }
        Ok(role)
    }

    fn unexpected(&self) -> ReplyError {
        let word = &self.word[..usize::from(self.word_len)];
        ReplyError::Word(word.strip_suffix(b"\r").unwrap_or(word).escape_ascii().to_string())
    }
}

fn role(grammar: Grammar, word: &[u8]) -> Option<Role> {
    match (grammar, word) {
        (_, b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR")
        | (Grammar::Line, _)
        | (Grammar::Get | Grammar::Stats, b"END")
        | (Grammar::Store, b"STORED" | b"NOT_STORED" | b"EXISTS" | b"NOT_FOUND")
        | (Grammar::Delete, b"DELETED" | b"NOT_FOUND")
        | (Grammar::Count, b"NOT_FOUND")
        | (Grammar::Touch, b"TOUCHED" | b"NOT_FOUND")
        | (Grammar::Ok, b"OK")
        | (Grammar::Version, b"VERSION")
        | (Grammar::Mg, b"HD" | b"EN")
        | (Grammar::Ms | Grammar::Md | Grammar::Ma, b"HD" | b"EX" | b"NF" | b"NS")
        | (Grammar::Me, b"ME" | b"EN")
        | (Grammar::Mn, b"MN") => Some(Role::Last),
        (Grammar::Get, b"VALUE") => Some(Role::Block),
        (Grammar::Stats, b"STAT") => Some(Role::More),
        (Grammar::Mg | Grammar::Ma, b"VA") => Some(Role::Value),
        (Grammar::Count, digits) if plain(digits, u64::MAX).is_some() => Some(Role::Last),
        _ => None,
    }
}

/// How long the reply at the start is and what it says, when it is a frequent one and all of it is
/// there. Anything else is left to the reader that resumes.
#[inline]
fn whole(chunk: &[u8], grammar: Grammar) -> Option<(usize, Code)> {
    match grammar {
        Grammar::Get => blocks_end(chunk),
        Grammar::Store => chunk.starts_with(b"STORED\r\n").then_some((8, Code::Other)),
        Grammar::Mg | Grammar::Ms | Grammar::Md => match chunk {
            [b'H', b'D', b'\r', b'\n', ..] => Some((4, Code::Done)),
            [b'E', b'N', b'\r', b'\n', ..] if grammar == Grammar::Mg => Some((4, Code::Miss)),
            [b'V', b'A', b' ', ..] if grammar == Grammar::Mg => {
                let end = word_end(chunk, 3);
                let length = plain(chunk.get(3..end)?, u64::from(u32::MAX))? as usize;
                let start = match chunk.get(end..end + 2)? {
                    b"\r\n" => end + 2,
                    [b' ', _] => line_feed(chunk, end)? + 1,
                    _ => return None,
                };
                value_ends(chunk, start + length).then_some((start + length + 2, Code::Value))
            }
            _ => None,
        },
        _ => None,
    }
}

fn blocks_end(chunk: &[u8]) -> Option<(usize, Code)> {
    let mut at = 0;
    while let Some(block) = Block::at(&chunk[at..]) {
        at += block.bytes.len();
    }
    let code = if at == 0 { Code::Miss } else { Code::Value };
    chunk[at..].starts_with(b"END\r\n").then_some((at + 5, code))
}

#[inline]
fn value_ends(chunk: &[u8], at: usize) -> bool {
    chunk.get(at..at + 2) == Some(b"\r\n")
}

/// One `VALUE` line and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) key: &'a [u8],
    /// All of it, the line breaks too.
    pub(super) bytes: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block at the start, if there is a whole one.
    #[inline]
    pub(super) fn at(bytes: &'a [u8]) -> Option<Block<'a>> {
        if !bytes.starts_with(b"VALUE ") {
            return None;
        }
        let blank = |from: usize| {
            let mut at = word_end(bytes, from);
            // Other control characters are part of a key.
            while *bytes.get(at)? != b' ' {
                if bytes[at] == b'\n' {
                    return None;
                }
                at = word_end(bytes, at + 1);
            }
            Some(at)
        };
        let key_end = blank(6)?;
        let flags_end = blank(key_end + 1)?;
        let length_end = word_end(bytes, flags_end + 1);
        let length = plain(bytes.get(flags_end + 1..length_end)?, u64::from(u32::MAX))? as usize;
        let start = match bytes.get(length_end..length_end + 2)? {
            b"\r\n" => length_end + 2,
            [b' ', _] => line_feed(bytes, length_end)? + 1,
            _ => return None,
        };
        let end = start + length + 2;
        value_ends(bytes, end - 2).then(|| Block { key: &bytes[6..key_end], bytes: &bytes[..end] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(chunks: &[&[u8]], awaits: Awaits) -> Result<(usize, bool, Code, bool), ReplyError> {
        let mut scanner = ReplyScanner::default();
        let mut used = 0;
        for chunk in chunks {
            let scan = scanner.advance(chunk, awaits)?;
            used += scan.used;
            if scan.done {
                assert!(scanner.is_between());
                return Ok((used, true, scanner.code(), scanner.is_error()));
            }
            assert_eq!(scan.used, chunk.len(), "it left bytes that belong to the reply");
            assert!(scanner.outstanding() > 0);
        }
        Ok((used, false, scanner.code(), scanner.is_error()))
    }

    /// Each reply ends where it ends, in one piece and byte by byte, with the next one behind it.
    #[test]
    fn a_table_of_replies() {
        for (awaits, reply, code) in [
            (Awaits::GET, "END\r\n", Code::Miss),
            (Awaits::GET, "VALUE a 0 5\r\nhello\r\nEND\r\n", Code::Value),
            (Awaits::GET, "VALUE a 0 5 77\r\nEND\r\n\r\nVALUE b 4294967295 0 1\r\n\r\nEND\r\n", Code::Value),
            (Awaits::GET, "VALUE a\rb 0 1\r\nx\r\nEND\r\n", Code::Value),
            (Awaits::GET, "SERVER_ERROR out of memory\r\n", Code::Error),
            (Awaits::GET, "VALUE a 0 1\r\nx\r\nSERVER_ERROR no\r\n", Code::Value),
            (Awaits::STORE, "STORED\r\n", Code::Other),
            (Awaits::STORE, "NOT_STORED\r\n", Code::Other),
            (Awaits::STORE, "EXISTS\r\n", Code::Other),
            (Awaits::STORE, "ERROR\r\n", Code::Error),
            (Awaits::DELETE, "DELETED\r\n", Code::Other),
            (Awaits::COUNT, "18446744073709551615\r\n", Code::Other),
            (Awaits::COUNT, "NOT_FOUND\r\n", Code::Other),
            (Awaits::TOUCH, "TOUCHED\r\n", Code::Other),
            (Awaits::OK, "OK\r\n", Code::Other),
            (Awaits::STATS, "STAT pid 1\r\nSTAT libevent 2.1 x\r\nEND\r\n", Code::Other),
            (Awaits::STATS, "END\r\n", Code::Miss),
            (Awaits::VERSION, "VERSION 1.6.18\r\n", Code::Other),
            (Awaits::MG, "EN\r\n", Code::Miss),
            (Awaits::MG, "EN ka Oabc\r\n", Code::Miss),
            (Awaits::MG, "HD\r\n", Code::Done),
            (Awaits::MG, "HD t-1 f0\r\n", Code::Done),
            (Awaits::MG, "VA 5\r\nhello\r\n", Code::Value),
            (Awaits::MG, "VA 2 s2 f7 W\r\n\r\n\r\n", Code::Value),
            (Awaits::MG, "VA 0\r\n\r\n", Code::Value),
            (Awaits::MS, "HD c3\r\n", Code::Done),
            (Awaits::MS, "NS\r\n", Code::Other),
            (Awaits::MD, "NF O1\r\n", Code::Other),
            (Awaits::MA, "VA 2 t-1\r\n13\r\n", Code::Value),
            (Awaits::MA, "HD\r\n", Code::Done),
            (Awaits::ME, "ME a exp=-1 la=0 cas=1 fetch=no cls=1 size=63\r\n", Code::Other),
            (Awaits::ME, "EN\r\n", Code::Miss),
            (Awaits::MN, "MN\r\n", Code::Other),
            (Awaits::LINE, "a line of any kind, however long its words are\r\n", Code::Other),
            (Awaits::LINE, "averylongwordwithoutanyblank\r\n", Code::Other),
            (Awaits::VERSION, "VERSION 1\n", Code::Other),
        ] {
            let error = reply.contains("ERROR");
            let expected = Ok((reply.len(), true, code, error));
            let next = [reply.as_bytes(), b"VALUE next"].concat();
            assert_eq!(scan(&[&next], awaits), expected, "{reply:?}");
            let single: Vec<&[u8]> = reply.as_bytes().chunks(1).collect();
            assert_eq!(scan(&single, awaits), expected, "{reply:?}");
            for cut in 0..reply.len() {
                let (a, b) = reply.as_bytes().split_at(cut);
                assert_eq!(scan(&[a, b], awaits), expected, "{reply:?} cut at {cut}");
            }
        }
    }

    /// What can't answer the request is an error that names what came.
    #[test]
    fn a_table_of_mixed_up_replies() {
        let word = |w: &str| ReplyError::Word(w.to_owned());
        for (awaits, reply, expected) in [
            (Awaits::GET, "STORED\r\n", word("STORED")),
            (Awaits::GET, "EN\r\n", word("EN")),
            (Awaits::GET, "VALUE a 0 1\r\nx\r\nSTORED\r\n", word("STORED")),
            (Awaits::GET, "VALUE a 0 x\r\n", ReplyError::Length),
            (Awaits::GET, "VALUE a 0\r\n", ReplyError::Length),
            (Awaits::GET, "VALUE a 0 \r\n", ReplyError::Length),
            (Awaits::GET, "VALUE a 0 -1\r\n", ReplyError::Length),
            (Awaits::GET, "VALUE a 0 99999999999\r\n", ReplyError::Length),
            (Awaits::GET, "VALUE a 0 1\r\nxyz\r\nEND\r\n", ReplyError::ValueEnd),
            (Awaits::GET, "HTTP/1.1 400 Bad Request\r\n", word("HTTP/1.1")),
            (Awaits::STORE, "END\r\n", word("END")),
            (Awaits::STORE, "\r\n", word("")),
            (Awaits::COUNT, "5x\r\n", word("5x")),
            (Awaits::MG, "VALUE a 0 1\r\nx\r\nEND\r\n", word("VALUE")),
            (Awaits::MG, "VA x\r\n", ReplyError::Length),
            (Awaits::MG, "VA\r\n", ReplyError::Length),
            (Awaits::MG, "VA 1\r\nxyz", ReplyError::ValueEnd),
            (Awaits::MG, "VA 1\u{1}\nx\r\n", ReplyError::Length),
            (Awaits::MG, "VA 1\t\nx\r\n", ReplyError::Length),
            (Awaits::MS, "VA 1\r\nx\r\n", word("VA")),
            (Awaits::VERSION, "+PONG\r\n", word("+PONG")),
            (Awaits::MN, "OK\r\n", word("OK")),
            (
                Awaits::GET,
                "\u{1}\u{2}\u{3}abcdefghijklmnopqrstuvwxyz",
                word("\\x01\\x02\\x03abcdefghijklmnopqr"),
            ),
        ] {
            assert_eq!(scan(&[reply.as_bytes()], awaits), Err(expected.clone()), "{reply:?}");
            let single: Vec<&[u8]> = reply.as_bytes().chunks(1).collect();
            assert_eq!(scan(&single, awaits), Err(expected), "{reply:?}");
        }
        let long = [b"SERVER_ERROR ".to_vec(), vec![b'x'; LINE_MAX]].concat();
        assert_eq!(scan(&[&long], Awaits::GET), Err(ReplyError::Line));
    }

    /// It knows how much of a large value is to come, and holds none of it.
    #[test]
    fn what_is_outstanding() {
        let mut scanner = ReplyScanner::default();
        let mut advance = |bytes: &[u8]| {
            let scan = scanner.advance(bytes, Awaits::GET).expect("a reply");
            (scan.done, scanner.outstanding())
        };
        assert_eq!(advance(b"VALUE a 0 1000000\r\n"), (false, 1_000_002 + 5));
        assert_eq!(advance(&[b'x'; 999_999]), (false, 3 + 5));
        assert_eq!(advance(b"x\r"), (false, 1 + 5));
        assert_eq!(advance(b"\nEND\r\n"), (true, 1));
    }

    proptest! {
        /// No bytes make the scanner panic, and cuts do not change what it finds.
        #[test]
        fn any_bytes(
            pieces in prop::collection::vec(prop_oneof![
                8 => prop::sample::select("VALUE,VA,END,EN,HD,STAT,STORED, , , ,\r\n,\r\n,\r\n,a,0,1,2,5,x,SERVER_ERROR,MN,NF"
                    .split(',').map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>()),
                1 => prop::collection::vec(any::<u8>(), 0..4),
            ], 0..40),
            grammar in 0usize..15,
        ) {
            let awaits = [Awaits::LINE, Awaits::GET, Awaits::GET, Awaits::STORE, Awaits::DELETE, Awaits::COUNT, Awaits::TOUCH,
                Awaits::OK, Awaits::STATS, Awaits::VERSION, Awaits::MG, Awaits::MS, Awaits::MA, Awaits::ME, Awaits::MN][grammar];
            let bytes = pieces.concat();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(scan(&[&bytes], awaits), scan(&single, awaits));
        }
    }
}

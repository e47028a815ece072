//! The flags of meta commands, read as memcached 1.6.18 reads them: all commands know the same ones.

use super::items::expiry;
use crate::protocol::memcache::{Request, base64, number};

/// A refusal: the whole line.
pub(super) type Line = &'static [u8];

const BAD_FORMAT: Line = b"CLIENT_ERROR bad command line format\r\n";
const BAD_TOKEN: Line = b"CLIENT_ERROR bad token in command line format\r\n";
const BAD_KEY: Line = b"CLIENT_ERROR error decoding key\r\n";
const BAD_MODE: Line = b"CLIENT_ERROR incorrect length for M token\r\n";
const BAD_INITIAL: Line = b"CLIENT_ERROR invalid numeric initial value\r\n";
const BAD_DELTA: Line = b"CLIENT_ERROR invalid numeric delta value\r\n";
const DUPLICATE: Line = b"CLIENT_ERROR duplicate flag\r\n";
const INVALID: Line = b"CLIENT_ERROR invalid flag\r\n";

/// What the flags of a request ask for.
#[derive(Debug, Default)]
pub(super) struct Flags {
    pub(super) value: bool,
    /// `I`
    pub(super) is_stale: bool,
    /// `b`
    pub(super) is_binary: bool,
    /// `u`: that it was asked for is not noted.
    pub(super) is_unseen: bool,
    /// Whether what is shown is from before the request was noted.
    pub(super) is_noted_later: bool,
    /// `T`: the new expiry.
    pub(super) ttl: Option<Option<i64>>,
    /// `N`: the expiry of an item that is made because there is none.
    pub(super) vivify: Option<Option<i64>>,
    /// `R`: whoever asks for an item that expires before this is told to fetch it anew.
    pub(super) recache: Option<i64>,
    /// `C`
    pub(super) cas: Option<u64>,
    /// `F`
    pub(super) flags: u32,
    /// `D`
    pub(super) delta: Option<u64>,
    /// `J`
    pub(super) initial: u64,
    /// `M`
    pub(super) mode: Option<u8>,
}

/// The words of a request that are flags, the first of which stands at `first`.
pub(super) fn words<'a>(request: &Request<'a>, first: usize) -> impl Iterator<Item = &'a [u8]> {
    let request = *request;
    (first..request.len()).map(move |i| request.word(i))
}

impl Flags {
    /// Reads the flags. What is wrong with one is told after the others were looked at, but for a flag
    /// that is doubled or that there is not.
    pub(super) fn read(request: &Request<'_>, first: usize, now_ms: i64) -> Result<Flags, Line> {
        let mut flags = Flags::default();
        let (mut wrong, mut text) = (false, BAD_FORMAT);
        let mut seen = [false; 127];
        for word in words(request, first) {
            let (flag, token) = (word[0], &word[1..]);
            match seen.get_mut(usize::from(flag)) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(DUPLICATE),
            }
            let known = match flag {
                b'b' => base64::decode(request.word(1)).map(|_| flags.is_binary = true).ok_or(BAD_KEY),
                // A number of flags that is wrong has no text of its own.
                b'F' => number::unsigned(token).map(|n| flags.flags = n as u32).ok_or(text),
                b'M' if token.len() != 1 => Err(BAD_MODE),
                _ => flags.one(flag, token, now_ms).ok_or(INVALID)?,
            };
            if let Err(why) = known {
                (wrong, text) = (true, why);
            }
        }
        if wrong { Err(text) } else { Ok(flags) }
    }

    /// Takes one flag; `None` when there is no such flag.
    fn one(&mut self, flag: u8, token: &[u8], now_ms: i64) -> Option<Result<(), Line>> {
        let seconds = || number::signed(token).map(|n| expiry(n, now_ms)).ok_or(BAD_TOKEN);
        let number = |why| number::unsigned(token).ok_or(why);
        self.is_noted_later |= matches!(flag, b'N' | b'T' | b'R' | b'l' | b'h');
        Some(match flag {
            b'N' => seconds().map(|at| self.vivify = Some(at)),
            b'T' => seconds().map(|at| self.ttl = Some(at)),
            b'R' => seconds().map(|at| self.recache = at),
            b'C' => number(BAD_TOKEN).map(|n| self.cas = Some(n)),
            b'J' => number(BAD_INITIAL).map(|n| self.initial = n),
            b'D' => number(BAD_DELTA).map(|n| self.delta = Some(n)),
            b'M' => {
                self.mode = token.first().copied();
                Ok(())
            }
            b'v' => {
                self.value = true;
                Ok(())
            }
            b'I' => {
                self.is_stale = true;
                Ok(())
            }
            b'u' => {
                self.is_unseen = true;
                Ok(())
            }
            b'l' | b'O' | b'P' | b'L' | b'k' | b's' | b't' | b'c' | b'f' | b'h' | b'q' => Ok(()),
            _ => return None,
        })
    }
}

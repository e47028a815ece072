//! Requests as nearly all are: a command, its key, and at most seven arguments behind that, with short
//! headers, and all of it there. Cut in one pass and without a note of where each argument is; whatever else
//! a request may be is the decoder's.

use super::{FrameLimits, short_header, two_digits};

/// How such a request begins, up to the end of its command's name. Requests that follow each other mostly
/// begin alike, so what is known of a beginning holds for them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first eight bytes: how many arguments there are, and how long the name is.
    word: u64,
    /// The part of the next eight that is the name.
    mask: u64,
    /// The name, as one word with the first byte lowest, and its length of up to eight.
    pub(in crate::protocol::resp) name: (u64, u32),
    /// How many arguments the request has, the name included; two at least.
    pub args: usize,
}

/// Such a request, at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain<'a> {
    /// The first argument behind the name.
    pub key: &'a [u8],
    /// All of it.
    pub frame: &'a [u8],
    /// What follows it.
    pub rest: &'a [u8],
}

/// More arguments, and longer ones, than a plain request has, and more bytes than these are.
const ARGS: usize = 9;
const BULK_BYTES: usize = 9_999;
const REQUEST_BYTES: usize = ARGS * (BULK_BYTES + 16);

impl FrameLimits {
    /// Whether every plain request is within them.
    pub fn permit_plain(&self) -> bool {
        self.args_max >= ARGS && self.bulk_bytes >= BULK_BYTES && self.request_bytes >= REQUEST_BYTES
    }
}

/// Where the name of a plain request's command is.
const NAME_AT: usize = 8;

impl Start {
    /// How these bytes begin; none when it takes a closer look.
    #[inline]
    pub fn of(bytes: &[u8]) -> Option<Start> {
        const SHAPE: u64 = u64::from_le_bytes(*b"*\0\r\n$\0\r\n");
        let word = u64::from_le_bytes(*bytes.first_chunk()?);
        let digit = |at: u32| ((word >> (8 * at)) as u8).wrapping_sub(b'0');
        let (args, len) = (digit(1), digit(5));
        let is_plain = word & !(0xff << 8 | 0xff << 40) == SHAPE
            && (2..=ARGS as u8).contains(&args)
            && (1..=8).contains(&len);
        let name = u64::from_le_bytes(*bytes.get(NAME_AT..)?.first_chunk()?);
        if !is_plain {
            return None;
        }
        let mask = u64::MAX >> (64 - 8 * u32::from(len));
        Some(Start { word, mask, name: (name & mask, len.into()), args: args.into() })
    }

    /// Whether these bytes begin so.
    #[inline(always)]
    pub fn begins(&self, bytes: &[u8]) -> bool {
        bytes.first_chunk().is_some_and(|words| {
            let words = u128::from_le_bytes(*words);
            words as u64 == self.word && (words >> 64) as u64 & self.mask == self.name.0
        })
    }

    /// The request that begins so at the start of these bytes; none when it takes a closer look.
    #[inline(always)]
    pub fn request<'a>(&self, bytes: &'a [u8]) -> Option<Plain<'a>> {
        let (at, key_len) = next_argument(bytes, NAME_AT + self.name.1 as usize)?;
        let mut end = at + key_len;
        for _ in 2..self.args {
            let (at, len) = next_argument(bytes, end)?;
            end = at + len;
        }
        let (frame, rest) = bytes.split_at_checked(end + 2)?;
        if !frame.ends_with(b"\r\n") {
            return None;
        }
        Some(Plain { key: frame.get(at..at + key_len)?, frame, rest })
    }
}

/// Where the argument begins that follows one which ends here, and its length.
#[inline(always)]
fn next_argument(bytes: &[u8], end: usize) -> Option<(usize, usize)> {
    const SHAPE: u64 = u64::from_le_bytes(*b"\r\n$\0\0\0\0\0");
    let rest = bytes.get(end..)?;
    let word = u64::from_le_bytes(*rest.first_chunk()?);
    if word & 0xff_ffff != SHAPE {
        return None;
    }
    match two_digits((word >> 24) as u32) {
        Some(len) => Some((end + 7, len)),
        None => short_header(b'$', &rest[2..]).map(|(len, head)| (end + 2 + head, len)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{FrameLimits, Request, RequestDecoder, Step},
        *,
    };

    /// What the decoder says of these bytes, when they begin with a whole request.
    fn decoded(bytes: &[u8]) -> Option<(usize, Vec<Vec<u8>>)> {
        let mut decoder = RequestDecoder::default();
        let Ok(Step::Request(len)) = decoder.step(bytes, &FrameLimits::NONE) else { return None };
        let request = Request::new(&bytes[..len], decoder.spans());
        Some((len, request.args().map(<[u8]>::to_vec).collect()))
    }

    /// Whatever is a plain request is the same request to the decoder.
    fn agrees(bytes: &[u8]) -> bool {
        let Some(start) = Start::of(bytes) else { return false };
        assert!(start.begins(bytes));
        let Some(plain) = start.request(bytes) else { return false };
        let (len, args) = decoded(bytes).expect("it is a request");
        let mut name = [0; 8];
        name[..args[0].len()].copy_from_slice(&args[0]);
        assert_eq!((plain.frame, plain.rest), bytes.split_at(len));
        assert_eq!((start.args, plain.key), (args.len(), &args[1][..]));
        assert_eq!(start.name, (u64::from_le_bytes(name), args[0].len() as u32));
        assert!(len <= REQUEST_BYTES && args.len() <= ARGS);
        assert!(args.iter().all(|arg| arg.len() <= BULK_BYTES));
        true
    }

    /// Bytes begin like others when their first argument is the same, and as many follow it.
    #[test]
    fn what_begins_alike() {
        let get = Start::of(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n").expect("it is plain");
        for (bytes, is_alike) in [
            (&b"*2\r\n$3\r\nGET\r\n$2\r\nbc\r\n"[..], true),
            (b"*2\r\n$3\r\nget\r\n$2\r\nbc\r\n", false),
            (b"*2\r\n$3\r\nTTL\r\n$2\r\nbc\r\n", false),
            (b"*3\r\n$3\r\nGET\r\n$2\r\nbc\r\n", false),
            (b"*2\r\n$4\r\nGETX\r\n$2\r\nbc\r\n", false),
            (b"*2\r\n$3\r\nGET\r\n", false),
        ] {
            assert_eq!(get.begins(bytes), is_alike, "{}", bytes.escape_ascii());
        }
    }

    /// What clients send most is plain, and what is not whole, or has no key, is not.
    #[test]
    fn a_table_of_requests() {
        let value = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9999\r\n{}\r\n", "x".repeat(9999));
        for (bytes, is_plain) in [
            ("*2\r\n$3\r\nGET\r\n$16\r\n0123456789abcdef\r\n", true),
            ("*2\r\n$3\r\nget\r\n$2\r\nab\r\n*2\r\n", true),
            ("*2\r\n$8\r\nSMEMBERS\r\n$100\r\n", false),
            ("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n$2\r\nEX\r\n$2\r\n10\r\n", true),
            (&value, true),
            ("*2\r\n$3\r\nGET\r\n$05\r\n01234\r\n", false),
            ("*2\r\n$3\r\nGET\r\n$16\r\n0123456789abcdefX\r\n", false),
            ("*2\r\n$3\r\nGET\r\n$16\r\n0123456789abcdef\r", false),
            ("*2\r\n$3\r\nGETX\r\n$2\r\nab\r\n", false),
            ("*2\r\n$9\r\nRANDOMKEY\r\n$2\r\nab\r\n", false),
            ("*1\r\n$4\r\nPING\r\n", false),
            ("*2\r\n$0\r\n\r\n$2\r\nab\r\n", false),
            ("*2\r\n$3\r\nGET\r\n$-1\r\nxx", false),
        ] {
            assert_eq!(agrees(bytes.as_bytes()), is_plain, "{}", bytes.escape_debug());
        }
        let few = FrameLimits { args_max: ARGS - 1, ..FrameLimits::NONE };
        assert!(FrameLimits::NONE.permit_plain() && !few.permit_plain());
    }

    proptest! {
        /// Any bytes that look a little like a request.
        #[test]
        fn as_the_decoder(
            pieces in prop::collection::vec(
                prop_oneof![
                    "[*$][0-9]{1,5}\r\n",
                    "[a-zA-Z0-9$*]{0,12}\r\n",
                    "[*$][0-9\r\n:]{0,3}",
                ],
                0..10,
            ),
        ) {
            agrees(pieces.concat().as_bytes());
        }

        /// Requests of any arguments, whole and cut off anywhere.
        #[test]
        fn whole_requests(args in prop::collection::vec("[a-z\r\n]{0,120}", 1..11), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            super::super::write::request(&mut bytes, &args);
            bytes.extend_from_slice(b"*1\r\n$4\r\n");
            let is_plain = (2..10).contains(&args.len()) && (1..=8).contains(&args[0].len());
            prop_assert_eq!(agrees(&bytes), is_plain);
            agrees(&bytes[..cut.index(bytes.len())]);
        }
    }
}

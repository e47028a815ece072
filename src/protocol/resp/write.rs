//! Writing RESP: the few shapes that ringway itself says.

use std::io::Write;

use super::Version;

/// A length or count line: `*3\r\n`, `$5\r\n`.
pub fn header(out: &mut Vec<u8>, kind: u8, n: usize) {
    if let digit @ 0..10 = n as u64 {
        return out.extend_from_slice(&[kind, b'0' + digit as u8, b'\r', b'\n']);
    }
    out.push(kind);
    digits(out, n as u64);
    out.extend_from_slice(b"\r\n");
}

fn digits(out: &mut Vec<u8>, mut n: u64) {
    let mut text = [0u8; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        text[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

/// `+text`. The text has no line breaks.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `-text`, its first word being the error code. Line breaks become spaces, as Redis does it.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    out.extend(text.as_ref().iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
    out.extend_from_slice(b"\r\n");
}

/// `:n`.
pub fn integer(out: &mut Vec<u8>, n: i64) {
    // Writing to a vector can't fail.
    let _ = write!(out, ":{n}\r\n");
}

/// A bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The head of an array of `n` elements.
pub fn array(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n);
}

/// The head of a map of `n` pairs: an array of twice as many elements in RESP2.
pub fn map(out: &mut Vec<u8>, version: Version, n: usize) {
    match version {
        Version::Resp2 => header(out, b'*', n * 2),
        Version::Resp3 => header(out, b'%', n),
    }
}

/// The head of a set of `n` elements: an array in RESP2.
pub fn set(out: &mut Vec<u8>, version: Version, n: usize) {
    header(out, if version == Version::Resp2 { b'*' } else { b'~' }, n);
}

/// Nothing there: the null bulk string of RESP2, the null of RESP3.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"$-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// Text that Redis sends as a verbatim string to RESP3 clients, and in bulk to others.
pub fn verbatim(out: &mut Vec<u8>, version: Version, text: &str) {
    match version {
        Version::Resp2 => bulk(out, text.as_bytes()),
        Version::Resp3 => {
            header(out, b'=', text.len() + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A request: an array of bulk strings.
pub fn request<A: AsRef<[u8]>>(
    out: &mut Vec<u8>,
    args: impl IntoIterator<Item = A, IntoIter: ExactSizeIterator>,
) {
    let args = args.into_iter();
    array(out, args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

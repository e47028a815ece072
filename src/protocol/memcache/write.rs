//! The lines that ringway itself says, to clients and to nodes.

/// For what memcached does not know.
pub(super) const ERROR: &[u8] = b"ERROR\r\n";
pub(super) const BAD_FORMAT: &[u8] = b"CLIENT_ERROR bad command line format\r\n";
/// The value is not as long as its line says.
pub const BAD_CHUNK: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
pub(super) const BAD_DELETE: &[u8] =
    b"CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n";
pub(super) const BAD_DELTA: &[u8] = b"CLIENT_ERROR invalid numeric delta argument\r\n";
pub(super) const BAD_EXPTIME: &[u8] = b"CLIENT_ERROR invalid exptime argument\r\n";
pub(super) const TOO_LARGE: &[u8] = b"SERVER_ERROR object too large for cache\r\n";
/// A retrieval that names more than it may.
pub(super) const TOO_MANY_KEYS: &[u8] = b"CLIENT_ERROR more keys than limits.args_max allows in one line\r\n";
pub(super) const FLAGS_TOO_LONG: &[u8] = b"CLIENT_ERROR options flags too long\r\n";
pub(super) const FLAGS_ARE_TOO_LONG: &[u8] = b"CLIENT_ERROR options flags are too long\r\n";
pub(super) const DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR duplicate flag\r\n";
pub(super) const INVALID_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
pub(super) const INVALID_OR_DUPLICATE_FLAG: &[u8] = b"CLIENT_ERROR invalid or duplicate flag\r\n";
/// What stands behind the last value, or alone when there is none.
pub(super) const END: &[u8] = b"END\r\n";

/// Asks a node for its version: a probe that memcached always answers, see [`super::Awaits::VERSION`].
pub const VERSION: &[u8] = b"version\r\n";

/// The words of an error line.
const KINDS: [&[u8]; 3] = [b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR"];

/// `SERVER_ERROR text`. Line breaks in it become blanks.
pub fn server_error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    error(out, b"SERVER_ERROR ", text.as_ref());
}

/// `CLIENT_ERROR text`. Line breaks in it become blanks.
pub fn client_error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    error(out, b"CLIENT_ERROR ", text.as_ref());
}

fn error(out: &mut Vec<u8>, kind: &[u8], text: &[u8]) {
    out.extend_from_slice(kind);
    out.extend(text.iter().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { *b }));
    out.extend_from_slice(b"\r\n");
}

/// The text of an error line, without its kind and its end; `None` when it is none.
pub fn error_text(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| *b == b'\n').unwrap_or(line.len());
    let line = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
    let rest = KINDS.iter().find_map(|kind| line.strip_prefix(*kind))?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix(b" ") }
}

/// The login that memcached with an authfile wants first from ringway; see [`super::login`] for
/// what clients say to ringway. The answer is [`super::Awaits::STORE`].
pub fn login(out: &mut Vec<u8>, user: &[u8], password: &[u8]) {
    out.extend_from_slice(format!("set auth 0 0 {}\r\n", user.len() + 1 + password.len()).as_bytes());
    for piece in [user, b" ", password, b"\r\n"] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error is one line, whatever its text, and is read back as it was.
    #[test]
    fn errors_are_one_line() {
        let mut out = Vec::new();
        server_error(&mut out, "a\r\nb");
        assert_eq!(out, b"SERVER_ERROR a  b\r\n");
        assert_eq!(error_text(&out), Some(&b"a  b"[..]));
        assert_eq!(error_text(b"ERROR\r\n"), Some(&b""[..]));
        assert_eq!(error_text(b"CLIENT_ERROR x\r\nmore"), Some(&b"x"[..]));
        for other in [&b"STORED\r\n"[..], b"ERRORS\r\n", b"", b"END\r\n"] {
            assert_eq!(error_text(other), None);
        }
    }
}

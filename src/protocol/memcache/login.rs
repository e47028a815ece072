//! The login of memcached's authfile: the first thing on a connection is a `set` of any key whose
//! value is `user password`. Everything else is refused until then.

use super::{Request, request::Fault};
use crate::protocol::secret::same;

/// What a request before the login comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// It was the login. The line to say.
    Accepted(&'static [u8]),
    /// It was not, or a wrong one. The line to say.
    Refused(&'static [u8]),
}

const UNAUTHENTICATED: Login = Login::Refused(b"CLIENT_ERROR unauthenticated\r\n");

/// Judges a request before the login. `noreply` silences nothing here, as in memcached.
pub fn login(request: &Request<'_>, user: &[u8], password: &[u8]) -> Login {
    if request.word(0) != b"set" {
        return UNAUTHENTICATED;
    }
    match request.decoder.fault {
        Fault::None => {}
        Fault::Chunk => return Login::Refused(b"CLIENT_ERROR bad command line termination\r\n"),
        _ => return UNAUTHENTICATED,
    }
    let value = request.value().split(|b| *b == 0).next().unwrap_or_default();
    let mut words = value.split(|b| *b == b' ').filter(|word| !word.is_empty());
    let (Some(given_user), Some(given_password)) = (words.next(), words.next()) else {
        return Login::Refused(b"CLIENT_ERROR bad authentication token format\r\n");
    };
    // Both are compared, so that the time does not tell which of them was wrong.
    if same(given_user, user) & same(given_password, password) {
        Login::Accepted(b"STORED\r\n")
    } else {
        Login::Refused(b"CLIENT_ERROR authentication failure\r\n")
    }
}

/// Whether a node's reply to [`super::write::login`] lets ringway in.
pub fn is_accepted(reply: &[u8]) -> bool {
    reply == b"STORED\r\n"
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, RequestDecoder, Step, write};
    use super::*;

    fn judged(bytes: &[u8]) -> Login {
        let mut decoder = RequestDecoder::default();
        let step = decoder.decode(bytes, &Limits::UNAUTHENTICATED);
        let Ok(Step::Request(n) | Step::Large { line: n, .. }) = step else { panic!("a request") };
        login(&decoder.request(&bytes[..n]), b"user", b"secret")
    }

    /// Only the very user and password are let in, in the words of memcached.
    #[test]
    fn a_table_of_logins() {
        for (request, expected) in [
            ("set x 0 0 11\r\nuser secret\r\n", Ok("STORED")),
            ("set x 5 100 11 noreply\r\nuser secret\r\n", Ok("STORED")),
            ("set x 0 0 16\r\nuser secret more\r\n", Ok("STORED")),
            ("set x 0 0 10\r\nuser wrong\r\n", Err("CLIENT_ERROR authentication failure")),
            ("set x 0 0 10\r\nuse secret\r\n", Err("CLIENT_ERROR authentication failure")),
            ("set x 0 0 4\r\nuser\r\n", Err("CLIENT_ERROR bad authentication token format")),
            ("set x 0 0 4\r\nuser secret\r\n", Err("CLIENT_ERROR bad command line termination")),
            ("set x 0 0 x\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("set x 0 0 2049\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("add x 0 0 500000000\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("add x 0 0 11\r\nuser secret\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("get a\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("version\r\n", Err("CLIENT_ERROR unauthenticated")),
            ("\r\n", Err("CLIENT_ERROR unauthenticated")),
        ] {
            let line = |text: &str| format!("{text}\r\n");
            match judged(request.as_bytes()) {
                Login::Accepted(said) => {
                    assert_eq!(expected.map(line), Ok(String::from_utf8_lossy(said).into()), "{request:?}")
                }
                Login::Refused(said) => {
                    assert_eq!(
                        expected.map_err(line),
                        Err(String::from_utf8_lossy(said).into()),
                        "{request:?}"
                    );
                }
            }
        }
    }

    /// What ringway says to a node, ringway itself would accept.
    #[test]
    fn both_sides_agree() {
        let mut out = Vec::new();
        write::login(&mut out, b"user", b"secret");
        assert_eq!(judged(&out), Login::Accepted(b"STORED\r\n"));
        assert!(is_accepted(b"STORED\r\n") && !is_accepted(b"CLIENT_ERROR authentication failure\r\n"));
    }
}

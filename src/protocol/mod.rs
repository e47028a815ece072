//! BYTES <-> MEANING. Pure and sans-I/O: this room never sees a socket, a node or a clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod http;
pub mod memcache;
pub mod merge;
pub mod numbers;
pub mod resp;
mod secret;

/// What a pool's clients and nodes speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// RESP2 and RESP3, as Redis and Valkey speak them.
    #[default]
    Redis,
    /// memcached's text and meta protocols.
    Memcached,
    /// HTTP/1.1 and HTTP/2.
    Http,
}

impl Protocol {
    /// All, with the configuration's words.
    pub const ALL: [(&'static str, Protocol); 3] =
        [("redis", Protocol::Redis), ("memcached", Protocol::Memcached), ("http", Protocol::Http)];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        Protocol::ALL[self as usize].0
    }

    /// Writes an error of ours as the protocol has it. The text's first word is Redis's error code;
    /// memcached has one of its own for what is not the client's fault.
    pub fn write_error(self, out: &mut Vec<u8>, text: &str) {
        match self {
            Protocol::Redis | Protocol::Http => resp::write::error(out, text),
            Protocol::Memcached => {
                let text = text.split_once(' ').filter(|(code, _)| is_code(code)).map_or(text, |t| t.1);
                out.extend_from_slice(b"SERVER_ERROR ");
                out.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { b }));
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

fn is_code(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_uppercase())
}

//! BYTES <-> MEANING. Pure and sans-I/O: this room never sees a socket, a node or a clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod base64;
mod error_reply;
pub mod http;
pub mod memcache;
pub mod merge;
pub mod numbers;
pub mod resp;
mod secret;

pub use error_reply::ErrorReply;

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
                memcache::write::server_error(out, text);
            }
        }
    }

    /// What a client hears that is one too many, before its connection closes: the servers' own words.
    pub fn too_many_clients(self) -> &'static [u8] {
        match self {
            Protocol::Redis => b"-ERR max number of clients reached\r\n",
            Protocol::Memcached => b"ERROR Too many open connections\r\n",
            Protocol::Http => {
                b"HTTP/1.1 503 Service Unavailable\r\n\
                  proxy-status: ringway; error=connection_limit_reached; details=\"limits.clients are connected\"\r\n\
                  content-length: 0\r\nconnection: close\r\n\r\n"
            }
        }
    }
}

fn is_code(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_uppercase())
}

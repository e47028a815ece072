//! BYTES <-> MEANING. Pure and sans-I/O: this room never sees a socket, a node or a clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

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
}

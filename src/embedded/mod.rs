//! The embedded node: a small Redis or memcached in this process, on loopback. It exists so that the
//! first command works without a server, and tests have a quick node. Strings only, nothing on disk.
//!
//! What comes in: requests as [`crate::protocol`] cuts them. What may not: anything of the proxy;
//! to the proxy this is a node like any other. Replies are those of Redis 7.0, byte for byte, but
//! for what must differ (`INFO`, ids, the order of `SCAN` and `KEYS`) and what is left out:
//! `INCRBYFLOAT` reads no hexadecimal numbers and ends at 2^127.
//!
//! The store, the commands and the session are pure and take the time as a parameter; `server`
//! owns the sockets and the clock.

mod commands;
mod extended;
mod memcache;
mod server;
mod session;
mod store;

pub use server::Embedded;

/// What an embedded node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// RESP.
    Redis,
    /// memcached's text and meta protocols.
    Memcached,
}

/// How an embedded node is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name, as `INFO` shows it.
    pub name: String,
    /// Bytes that keys and values may take, about; the least recently used make room.
    pub bytes_max: usize,
    /// Connections at a time; one more is refused.
    pub clients_max: usize,
    /// What it speaks.
    pub speaks: Speaks,
    /// The loopback port; 0 lets the kernel choose.
    pub port: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            name: "embedded".to_owned(),
            bytes_max: 64 << 20,
            clients_max: 10_000,
            speaks: Speaks::Redis,
            port: 0,
        }
    }
}

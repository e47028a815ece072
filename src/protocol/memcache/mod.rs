//! memcached's text and meta protocols, as memcached 1.6.18 speaks them: cutting requests, what
//! becomes of each, cutting replies, what ringway answers itself, and how the replies of several
//! nodes become one. Newer meta flags pass: the node decides about them.
//!
//! The mechanism that all of it serves: *every request that goes to a node gets exactly one reply
//! there.* So the text protocol's `noreply` and the meta flag `q` are cut out of the bytes that go
//! to a node ([`Sent`]), and what memcached would not have said is swallowed when it
//! arrives ([`Awaits::swallows`]). Since a session's replies are in the order of its requests, `mn`
//! needs no node: it is a fence by its place.
//!
//! Text replies do not describe themselves, so each request tells what it [`Awaits`]. A reply that
//! can't be an answer to it is an error of the connection, never an answer.
//!
//! A line that memcached and a newer memcached might read differently never reaches a node: it is refused, or
//! written anew ([`sent`]). [`DIFFERENCES`] lists where ringway says something else than memcached 1.6.18,
//! and why.

pub mod awaits;
pub mod base64;
pub mod life;
pub mod local;
pub mod login;
pub mod merge;
pub mod number;
pub mod plan;
#[cfg(test)]
pub(crate) mod recorded;
pub mod reply;
pub mod request;
mod search;
pub mod sent;
mod verb;
pub mod write;

pub use awaits::{Awaits, Code};
pub use plan::{All, Keys, Local, One, Plan};
pub use reply::{ReplyError, ReplyScanner, Scan};
pub use request::{DecodeError, Limits, Request, RequestDecoder, Step};
pub use sent::Sent;

/// The memcached whose commands and answers ringway follows.
pub const MEMCACHED_VERSION: &str = "1.6.18";

/// The longest key, in bytes as it is spelled.
pub const KEY_BYTES_MAX: usize = 250;

/// Where ringway does not say what memcached 1.6.18 says, and why. The first word is that of the
/// request, or a word for what is wrong with it. docs/memcached.md has the same table.
pub const DIFFERENCES: &[(&str, &str)] = &[
    ("version", "names ringway too; clients read the three numbers in front"),
    ("stats", "ringway's own numbers; what concerns one server's memory is refused by name"),
    ("shutdown", "a client of a proxy stops nothing"),
    ("slabs", "concerns the memory of one server"),
    ("lru", "concerns the memory of one server"),
    ("lru_crawler", "concerns the memory of one server"),
    ("cache_memlimit", "concerns the memory of one server"),
    ("extstore", "concerns the disks of one server"),
    ("watch", "would turn a shared connection into a log"),
    ("refresh_certs", "concerns the certificates of one server"),
    ("debugtime", "for memcached's own tests"),
    ("misbehave", "for memcached's own tests"),
    ("ma q", "an item that N creates is not announced: newer servers hide it too, 1.6.18 did not"),
    (
        "odd numbers",
        "of a line with a value, a sign, a blank, more than 32 bits (of a time 31) or ten digits (of a cas id 20) are refused: newer servers read them differently",
    ),
    (
        "long lines",
        "above 2048 bytes they close the session without a word, also when they come in one piece",
    ),
    (
        "many keys",
        "a retrieval of more words than limits.args_max is refused; a gat may be longer than 2048 bytes",
    ),
    ("long keys in get", "answers of requests in front of it are kept; 1.6.18 drops those not yet sent"),
    (
        "large values",
        "above ringway's own limit the item that was there before stays, and the refusal comes at the line",
    ),
    (
        "bad data chunk",
        "named before a bad flag of the same ms; behind a value above 1 MiB it ends the session",
    ),
    ("cas ids", "of different nodes are not comparable"),
    ("0x80", "refused at the start of any request, not only of the first"),
    (
        "login",
        "before it each request gets one answer, not each line, and one with a value above 2048 bytes ends the session",
    ),
];

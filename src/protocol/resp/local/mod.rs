//! What ringway answers itself, without asking a node. Pure: the clock, the other sessions and
//! all numbers come through [`Facts`]. The texts are those of Redis 7.0; where an answer can't be
//! byte for byte Redis's, [`EXCEPTIONS`] says why.

mod client;
mod config;
mod login;

use std::time::Duration;

pub use client::ClientState;

use super::frame::{Request, number};
use super::info::{self, Numbers};
use super::rule::Local;
use super::{Version, write};

/// What is said to a client that must authenticate first.
pub const NOAUTH: &str = "NOAUTH Authentication required.";

/// Arguments of a request that ringway answers itself, and its bytes: nobody asks for more, and the worker
/// serves nobody else while it answers.
const ARGS_MAX: usize = 1024;
const BYTES_MAX: usize = 64 << 10;

/// Answers that differ from a Redis server's, and why.
pub const EXCEPTIONS: &[(&str, &str)] = &[
    ("ACL", "ringway knows one user, default; subcommands other than WHOAMI have no meaning here"),
    ("CLIENT CAPA", "accepted as newer servers do; ringway never redirects"),
    ("CLIENT HELP", "lists what ringway offers"),
    ("CLIENT ID", "a session of ringway's, not a connection of the server's"),
    ("CLIENT INFO", "a session has no descriptor and no query buffer of its own"),
    ("CLIENT LIST", "the sessions of ringway, not the connections of the server"),
    ("CLIENT NO-TOUCH", "accepted as newer servers do; nodes are not told, since connections are shared"),
    ("CLIENT REPLY", "only ON: every request gets its reply, or replies could not be told apart"),
    ("CLIENT SETINFO", "accepted as newer servers do, since clients send it at connect"),
    ("CLIENT SETNAME", "a name is bounded"),
    ("CLIENT TRACKING", "only OFF: invalidations of a shared connection would reach the wrong client"),
    ("COMMAND", "lists what ringway offers, with its own flags; requests and replies are bounded"),
    ("CONFIG GET", "ringway's own settings, one database, nothing saved; patterns are bounded"),
    ("HELLO", "id is the session's, version that of the Redis whose commands the table holds"),
    ("INFO", "ringway's own numbers"),
    ("RESET", "ends NO-EVICT and NO-TOUCH too, as newer servers do"),
    ("SELECT", "there is one database; the nodes' own is chosen by the pool's settings"),
    ("TIME", "the clock of ringway's machine"),
];

/// What a pool lets clients see and asks of them. Not `Debug`: it holds a password.
#[derive(Clone, Default)]
pub struct Settings {
    /// What clients must say in AUTH; `None` when anyone may come in.
    pub password: Option<Vec<u8>>,
    /// The port that clients reach, 0 for a Unix socket.
    pub port: u16,
    /// Sessions that may be open at once.
    pub sessions_max: u64,
    /// The largest argument of a request, in bytes.
    pub bulk_bytes: u64,
}

/// What answers are made of, besides the request and its session.
pub trait Facts {
    /// What the pool has set.
    fn settings(&self) -> &Settings;
    /// The time since the Unix epoch.
    fn now(&self) -> Duration;
    /// The pool's other sessions, by id, each as its [`ClientState::line`]. This session may be
    /// among them.
    fn sessions(&self) -> Vec<(u64, String)>;
    /// The numbers of INFO.
    fn numbers(&self) -> Numbers;
    /// Answers COMMAND and its subcommands.
    fn command(&self, request: &Request<'_>, version: Version, out: &mut Vec<u8>);
}

/// What becomes of the session after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// It goes on.
    Continue,
    /// It is closed once the answer is written.
    Close,
}

/// Whether a client may ask this before it has authenticated; all else gets [`NOAUTH`].
pub fn allowed_before_auth(kind: Local) -> bool {
    matches!(kind, Local::Auth | Local::Hello | Local::Quit | Local::Reset)
}

/// Appends the answer. The client's version and login may be others afterwards.
pub fn answer(
    kind: Local,
    request: &Request<'_>,
    client: &mut ClientState,
    facts: &dyn Facts,
    out: &mut Vec<u8>,
) -> After {
    if exceeds(kind, request) {
        too_large(request, out);
        return After::Continue;
    }
    match (kind, request.len()) {
        (Local::Ping, 1) => write::simple(out, "PONG"),
        (Local::Ping | Local::Echo, 2) => write::bulk(out, request.arg(1)),
        (Local::Ping, _) => wrong_arity(out, "ping"),
        (Local::Echo, _) => wrong_arity(out, "echo"),
        (Local::Quit, _) => {
            write::simple(out, "OK");
            return After::Close;
        }
        (Local::Reset, 1) => {
            client.reset(facts.settings().password.is_some());
            write::simple(out, "RESET");
        }
        (Local::Reset, _) => wrong_arity(out, "reset"),
        (Local::Time, 1) => time(facts.now(), out),
        (Local::Time, _) => wrong_arity(out, "time"),
        (Local::Select, 2) => select(request.arg(1), out),
        (Local::Select, _) => wrong_arity(out, "select"),
        (Local::Auth, _) => login::auth(request, client, facts.settings(), out),
        (Local::Hello, _) => login::hello(request, client, facts.settings(), out),
        (Local::Client, _) => client::answer(request, client, facts, out),
        (Local::Command, _) => facts.command(request, client.version, out),
        (Local::Info, _) => {
            let sections: Vec<&[u8]> = request.args().skip(1).collect();
            write::verbatim(out, client.version, &info::text(&facts.numbers(), &sections));
        }
        (Local::ConfigGet, 0..=2) => wrong_arity(out, "config|get"),
        (Local::ConfigGet, _) => config::answer(request, client.version, facts.settings(), out),
        (Local::AclWhoami, 2) => write::bulk(out, b"default"),
        (Local::AclWhoami, _) => wrong_arity(out, "acl|whoami"),
    }
    After::Continue
}

/// Whether a request is larger than any that has a meaning. What is only said back may be as large as it
/// likes.
fn exceeds(kind: Local, request: &Request<'_>) -> bool {
    let is_said_back = match kind {
        Local::Ping | Local::Echo => true,
        // Keys of the request are all that it is told.
        Local::Command => {
            let what = request.args().nth(1).unwrap_or_default();
            [&b"GETKEYS"[..], b"GETKEYSANDFLAGS"].iter().any(|name| what.eq_ignore_ascii_case(name))
        }
        _ => false,
    };
    !is_said_back && (request.len() > ARGS_MAX || request.frame.len() > BYTES_MAX)
}

#[cold]
fn too_large(request: &Request<'_>, out: &mut Vec<u8>) {
    let name = String::from_utf8_lossy(request.arg(0)).to_ascii_uppercase();
    let text = format!("ERR {name} takes at most {ARGS_MAX} arguments and {BYTES_MAX} bytes here");
    write::error(out, text);
}

fn wrong_arity(out: &mut Vec<u8>, command: &str) {
    write::error(out, format!("ERR wrong number of arguments for '{command}' command"));
}

fn time(now: Duration, out: &mut Vec<u8>) {
    write::array(out, 2);
    write::bulk(out, now.as_secs().to_string().as_bytes());
    write::bulk(out, now.subsec_micros().to_string().as_bytes());
}

fn select(db: &[u8], out: &mut Vec<u8>) {
    match number(db) {
        Some(0) => write::simple(out, "OK"),
        Some(n) if i32::try_from(n).is_ok() => write::error(out, "ERR DB index is out of range"),
        Some(_) => write::error(
            out,
            format!("ERR value is out of range, value must between {} and {}", i32::MIN, i32::MAX),
        ),
        None => write::error(out, "ERR value is not an integer or out of range"),
    }
}

#[cfg(test)]
mod tests;

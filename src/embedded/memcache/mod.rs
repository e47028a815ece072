//! What the embedded node answers when it speaks memcached: the text commands here, the meta commands
//! beside it, over the same store as its Redis commands. Which requests are whole and well formed is
//! decided by [`crate::protocol::memcache`], as for the proxy; what is silent, too. Replies are those of
//! memcached 1.6.18, byte for byte, but for numbers that are its own (`stats`, `version`, `me`). Where
//! memcached decides by who else holds an item, this one always takes the usual way: whether a counter
//! that becomes shorter is filled up with blanks, and whether a changed item is still claimed or stale.

mod meta;

use std::io::Write;

use super::{
    session::{Fate, Node},
    store::Full,
};
pub(super) use crate::protocol::memcache::Step;
use crate::protocol::memcache::{Code, Local, One, Plan, Request, RequestDecoder, number, plan::Gather};

/// What memcached keeps of an item beside key, value and expiry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memo {
    pub(super) flags: u32,
    pub(super) cas: u64,
    /// When it was last asked for, Unix time in milliseconds.
    used_ms: i64,
    /// Somebody asked for it.
    is_fetched: bool,
    /// It was invalidated, and is still shown.
    is_stale: bool,
    /// Somebody was told to fetch it anew.
    is_claimed: bool,
}

/// What a node keeps for memcached beside its items.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The last id of a value.
    cas: u64,
    /// When all items go, Unix time in milliseconds.
    flush_at_ms: Option<i64>,
}

/// Expiration times above this are Unix times.
const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;
/// memcached's own limit of an item, key and header included.
pub(super) const VALUE_MAX: usize = 1024 * 1024;
/// A number has no more digits.
const DIGITS_MAX: usize = 20;

const STORED: &[u8] = b"STORED\r\n";
const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
const EXISTS: &[u8] = b"EXISTS\r\n";
const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
const NOT_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";

/// Cuts one request from the start of the input and answers it: what the decoder says of it.
pub(super) fn step(
    decoder: &mut RequestDecoder,
    limits: &crate::protocol::memcache::Limits,
    (node, fate): (&mut Node, &mut Fate),
    input: &[u8],
    (now_ms, out): (i64, &mut Vec<u8>),
) -> Option<Step> {
    match decoder.decode(input, limits) {
        Ok(Step::Request(len)) => {
            run(node, fate, &decoder.request(&input[..len]), now_ms, out);
            Some(Step::Request(len))
        }
        Ok(step) => Some(step),
        Err(error) => {
            out.extend_from_slice(error.line());
            *fate = Fate::Closing;
            None
        }
    }
}

fn run(node: &mut Node, fate: &mut Fate, request: &Request<'_>, now_ms: i64, out: &mut Vec<u8>) {
    node.requests += 1;
    node.store.begin_request();
    if node.memcache.flush_at_ms.is_some_and(|at| at <= now_ms) {
        node.store.clear();
        node.memcache.flush_at_ms = None;
    }
    match request.plan() {
        Plan::One(one) => {
            let start = out.len();
            command(node, &one, request, now_ms, out);
            if one.awaits.swallows(Code::of(&out[start..])) {
                out.truncate(start);
            }
        }
        Plan::Keys(keys) => {
            (0..keys.len()).for_each(|i| value(node, keys.key(i), request, now_ms, out));
            out.extend_from_slice(b"END\r\n");
        }
        Plan::All(all) if all.gather == Gather::Flush => {
            flush(node, request, now_ms);
            if !all.awaits.is_quiet() {
                out.extend_from_slice(b"OK\r\n");
            }
        }
        Plan::All(_) | Plan::Local(Local::Stats) => stats(node, now_ms, out),
        Plan::Local(Local::Version) => out.extend_from_slice(b"VERSION 1.6.18-ringway-embedded\r\n"),
        Plan::Local(Local::Verbosity) => out.extend_from_slice(b"OK\r\n"),
        Plan::Local(Local::Fence) => out.extend_from_slice(b"MN\r\n"),
        Plan::Local(Local::End) => out.extend_from_slice(b"END\r\n"),
        Plan::Refuse { line, close } => {
            out.extend_from_slice(&line);
            if close {
                *fate = Fate::Closing;
            }
        }
        Plan::Nothing => {}
        Plan::Quit => *fate = Fate::Closing,
    }
}

fn command(node: &mut Node, one: &One<'_>, request: &Request<'_>, now_ms: i64, out: &mut Vec<u8>) {
    let key = &one.key[..];
    match request.word(0) {
        b"get" | b"gets" | b"bget" | b"gat" | b"gats" => {
            value(node, key, request, now_ms, out);
            out.extend_from_slice(b"END\r\n");
        }
        b"delete" => {
            let was_there = node.store.remove(key, now_ms);
            out.extend_from_slice(if was_there { b"DELETED\r\n" } else { NOT_FOUND });
        }
        b"touch" => {
            let is_there = touch(node, key, exptime(request.word(2)), now_ms);
            out.extend_from_slice(if is_there { b"TOUCHED\r\n" } else { NOT_FOUND });
        }
        name @ (b"incr" | b"decr") => {
            let delta = number::unsigned(request.word(2)).unwrap_or_default();
            match count(node, key, name == b"incr", delta, now_ms) {
                Ok(number) => out.extend_from_slice(format!("{number}\r\n").as_bytes()),
                Err(line) => out.extend_from_slice(line),
            }
        }
        [b'm', _] => meta::command(node, key, request, now_ms, out),
        name => out.extend_from_slice(store(node, key, name, request, now_ms)),
    }
}

/// `VALUE key flags bytes [cas]`, if it is there. The commands with an expiration time set that then, and
/// show also what is gone by it.
fn value(node: &mut Node, key: &[u8], request: &Request<'_>, now_ms: i64, out: &mut Vec<u8>) {
    let name = request.word(0);
    let Some(entry) = node.store.entry(key, now_ms) else { return };
    let memo = entry.memo;
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    // Writing to a vector can't fail.
    let _ = write!(out, " {} {}", memo.flags, entry.value().len());
    if name.ends_with(b"s") {
        let _ = write!(out, " {}", memo.cas);
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(entry.value());
    out.extend_from_slice(b"\r\n");
    if name.starts_with(b"gat") {
        node.store.expire(key, exptime(request.word(1)).at_ms(now_ms));
    }
    fetched(node, key, now_ms);
}

/// Notes that somebody asked for an item.
fn fetched(node: &mut Node, key: &[u8], now_ms: i64) {
    if let Some(memo) = node.store.memo(key) {
        (memo.is_fetched, memo.used_ms) = (true, now_ms);
    }
}

/// `set`, `add`, `replace`, `append`, `prepend`, `cas`.
fn store(node: &mut Node, key: &[u8], name: &[u8], request: &Request<'_>, now_ms: i64) -> &'static [u8] {
    let there = node.store.entry(key, now_ms).map(|e| e.memo);
    let item = New {
        value: request.value(),
        flags: number::unsigned(request.word(2)).and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        exptime: exptime(request.word(3)),
    };
    let done = match (name, there) {
        (b"add", Some(_)) => return NOT_STORED,
        (b"replace" | b"append" | b"prepend", None) => return NOT_STORED,
        (b"cas", None) => return NOT_FOUND,
        (b"cas", Some(memo)) if number::unsigned(request.word(5)) != Some(memo.cas) => return EXISTS,
        (b"append", Some(_)) => join(node, key, item.value, true, now_ms),
        (b"prepend", Some(_)) => join(node, key, item.value, false, now_ms),
        _ => put(node, key, &item, now_ms),
    };
    if done.is_ok() { STORED } else { NO_MEMORY }
}

/// A value to be stored.
struct New<'a> {
    value: &'a [u8],
    flags: u32,
    exptime: Exptime,
}

/// Stores a value in place of any that was there.
fn put(node: &mut Node, key: &[u8], new: &New<'_>, now_ms: i64) -> Result<(), Full> {
    node.store.resize(key, new.value.len(), now_ms)?.copy_from_slice(new.value);
    node.store.expire(key, new.exptime.at_ms(now_ms));
    let cas = node.memcache.next_cas();
    if let Some(memo) = node.store.memo(key) {
        *memo = Memo { flags: new.flags, cas, used_ms: now_ms, ..Memo::default() };
    }
    Ok(())
}

/// Puts more behind a value, or in front of it. Flags and expiry stay.
fn join(node: &mut Node, key: &[u8], more: &[u8], is_behind: bool, now_ms: i64) -> Result<(), Full> {
    let had = node.store.entry(key, now_ms).map_or(0, |e| e.value().len());
    let value = node.store.resize(key, had + more.len(), now_ms)?;
    if is_behind {
        value[had..].copy_from_slice(more);
    } else {
        value.copy_within(..had, more.len());
        value[..more.len()].copy_from_slice(more);
    }
    renew(node, key, now_ms);
    Ok(())
}

/// A value that was changed has another id, and is not stale any more.
fn renew(node: &mut Node, key: &[u8], now_ms: i64) {
    let cas = node.memcache.next_cas();
    if let Some(memo) = node.store.memo(key) {
        *memo = Memo { flags: memo.flags, cas, used_ms: now_ms, ..Memo::default() };
    }
}

/// Adds to a number, or subtracts from it as far as 0. It takes the room that it has: a shorter one is
/// filled up with blanks.
fn count(node: &mut Node, key: &[u8], up: bool, delta: u64, now_ms: i64) -> Result<u64, &'static [u8]> {
    let Some(entry) = node.store.entry(key, now_ms) else { return Err(NOT_FOUND) };
    let text = entry.value();
    let number = if text.len() > DIGITS_MAX { None } else { number::unsigned(text) };
    let number = number.ok_or(NOT_NUMERIC)?;
    let number = if up { number.wrapping_add(delta) } else { number.saturating_sub(delta) };
    let digits = number.to_string();
    let had = text.len();
    let len = digits.len().max(had);
    let value = node.store.resize(key, len, now_ms).map_err(|_| NO_MEMORY)?;
    value.fill(b' ');
    value[..digits.len()].copy_from_slice(digits.as_bytes());
    if len > had {
        // There it is a new item.
        renew(node, key, now_ms);
    } else if let Some(memo) = node.store.memo(key) {
        memo.cas = node.memcache.next_cas();
    }
    Ok(number)
}

fn touch(node: &mut Node, key: &[u8], exptime: Exptime, now_ms: i64) -> bool {
    let is_there = node.store.entry(key, now_ms).is_some();
    if is_there {
        node.store.expire(key, exptime.at_ms(now_ms));
        fetched(node, key, now_ms);
    }
    is_there
}

/// It takes an id of a value, as memcached's does: those below it are gone.
fn flush(node: &mut Node, request: &Request<'_>, now_ms: i64) {
    node.memcache.next_cas();
    match number::signed(request.word(1)).map(Exptime).and_then(|e| e.at_ms(now_ms)) {
        Some(at) if at >= now_ms => node.memcache.flush_at_ms = Some(at),
        _ => node.store.clear(),
    }
}

/// An expiration time as clients give it: 0 for never, seconds from now, or above 30 days a Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exptime(i64);

fn exptime(word: &[u8]) -> Exptime {
    Exptime(number::signed(word).unwrap_or_default())
}

impl Exptime {
    /// Unix time in milliseconds; `None` for never.
    fn at_ms(self, now_ms: i64) -> Option<i64> {
        match self.0 {
            0 => None,
            ..0 => Some(now_ms - 1),
            1..=RELATIVE_MAX => Some(now_ms + self.0 * 1000),
            _ => Some(self.0.saturating_mul(1000)),
        }
    }
}

impl State {
    fn next_cas(&mut self) -> u64 {
        self.cas += 1;
        self.cas
    }
}

/// The numbers that say who it is and how full.
fn stats(node: &Node, now_ms: i64, out: &mut Vec<u8>) {
    let mut stat = |name: &str, value: i128| {
        // Writing to a vector can't fail.
        let _ = write!(out, "STAT {name} {value}\r\n");
    };
    let store = &node.store;
    stat("pid", i128::from(std::process::id()));
    stat("uptime", i128::from((now_ms - node.started_ms) / 1000));
    stat("time", i128::from(now_ms / 1000));
    stat("curr_connections", node.sessions as i128);
    stat("total_connections", i128::from(node.sessions_ever));
    stat("curr_items", store.len() as i128);
    stat("bytes", store.bytes() as i128);
    stat("limit_maxbytes", store.bytes_max() as i128);
    stat("evictions", i128::from(store.counts().evicted));
    out.extend_from_slice(b"END\r\n");
}

//! The meta commands `mg`, `ms`, `md`, `ma` and `me`, with the flags of memcached 1.6.18
//! (doc/protocol.txt there).

use std::io::Write;

use super::{
    flags::{Flags, Line, words},
    items::{Delta, Items, Memo, Mode, New, Stored, Uncounted, item_bytes, seconds_left},
    text::{NO_MEMORY, NOT_NUMERIC},
};
use crate::protocol::{
    base64::encode,
    memcache::{Request, base64},
};

const BAD_FORMAT: Line = b"CLIENT_ERROR bad command line format\r\n";
const BAD_FLAG: Line = b"CLIENT_ERROR invalid or duplicate flag\r\n";
const BAD_MODE: Line = b"CLIENT_ERROR invalid mode for ms M token\r\n";
const BAD_COUNT_MODE: Line = b"CLIENT_ERROR invalid mode for ma M token\r\n";
const BAD_OPAQUE: Line = b"CLIENT_ERROR opaque token too long\r\n";
const NO_MEMORY_FOR_NEW: Line = b"SERVER_ERROR Out of memory allocating new item\r\n";

/// An opaque is no longer, its letter included.
const OPAQUE_BYTES_MAX: usize = 32;

/// Runs one; its key is decoded.
pub(super) fn command(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) {
    let begin = out.len();
    let said = match request.word(0) {
        b"mg" => get(items, key, request, out),
        b"ms" => set(items, key, request, out),
        b"md" => delete(items, key, request, out),
        b"ma" => arithmetic(items, key, request, out),
        _ => debug(items, key, request, out),
    };
    if let Err(line) = said {
        out.truncate(begin);
        out.extend_from_slice(line);
    }
}

/// What is given back whatever comes of a request: its opaque and its key.
fn echo(word: &[u8], key: &[u8], is_binary: bool, out: &mut Vec<u8>) -> Result<(), Line> {
    match word[0] {
        b'O' if word.len() > OPAQUE_BYTES_MAX => return Err(BAD_OPAQUE),
        b'O' => {
            out.push(b' ');
            out.extend_from_slice(word);
        }
        b'k' => {
            out.extend_from_slice(b" k");
            write_key(key, is_binary, out);
            if is_binary {
                out.extend_from_slice(b" b");
            }
        }
        _ => {}
    }
    Ok(())
}

fn write_key(key: &[u8], is_binary: bool, out: &mut Vec<u8>) {
    if is_binary { encode(key, out) } else { out.extend_from_slice(key) }
}

/// ` t` and the seconds that are left, -1 for no end.
fn write_ttl(expires_at: Option<i64>, now_ms: i64, out: &mut Vec<u8>) {
    let left = expires_at.map_or(-1, |at| seconds_left(at, now_ms));
    // Writing to a vector can't fail.
    let _ = write!(out, " t{left}");
}

fn get(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), Line> {
    let flags = Flags::read(request, 2, items.now_ms)?;
    let mut is_new = false;
    if items.memo(key).is_none() && flags.vivify.is_some() {
        is_new = items.store(Mode::Set, &New { key, ..New::default() }) == Ok(Stored::Yes);
    }
    if !flags.is_unseen && !flags.is_noted_later {
        items.fetched(key);
    }
    let now_ms = items.now_ms;
    let Some(entry) = items.node.store.entry(key, now_ms) else {
        out.extend_from_slice(b"EN");
        words(request, 2).try_for_each(|word| echo(word, key, flags.is_binary, out))?;
        out.extend_from_slice(b"\r\n");
        return Ok(());
    };
    let (memo, value) = (entry.memo, entry.value());
    let mut shown = Shown { memo, expires_at: entry.expires_at(), is_new, wins: false };
    // Writing to a vector can't fail.
    let _ = if flags.value { write!(out, "VA {}", value.len()) } else { write!(out, "HD") };
    let done = words(request, 2).try_for_each(|word| match word[0] {
        b's' => {
            let _ = write!(out, " s{}", value.len());
            Ok(())
        }
        _ => shown.flag(word, &flags, (key, now_ms), out),
    });
    if done.is_ok() {
        let wins = shown.wins || (memo.is_stale && !memo.is_claimed);
        for (is_said, mark) in [(memo.is_claimed, b" Z"), (memo.is_stale, b" X"), (wins, b" W")] {
            out.extend_from_slice(if is_said { mark } else { b"" });
        }
        out.extend_from_slice(b"\r\n");
        if flags.value {
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        shown.wins = wins;
    }
    items.node.store.expire(key, shown.expires_at);
    done?;
    if let Some(memo) = items.node.store.memo(key) {
        memo.is_claimed |= shown.wins;
    }
    if flags.is_noted_later && !flags.is_unseen {
        items.fetched(key);
    }
    Ok(())
}

/// An item while `mg` shows it: flags act in their order, so that `t` in front of `T` shows the old time.
struct Shown {
    memo: Memo,
    expires_at: Option<i64>,
    /// It was made by this request.
    is_new: bool,
    /// Whoever asked is to fetch it anew.
    wins: bool,
}

impl Shown {
    fn flag(
        &mut self,
        word: &[u8],
        flags: &Flags,
        (key, now_ms): (&[u8], i64),
        out: &mut Vec<u8>,
    ) -> Result<(), Line> {
        let memo = &self.memo;
        // Writing to a vector can't fail.
        let _ = match word[0] {
            b'T' => {
                self.expires_at = flags.ttl.unwrap_or_default();
                Ok(())
            }
            b'N' if self.is_new => {
                (self.expires_at, self.wins) = (flags.vivify.unwrap_or_default(), true);
                Ok(())
            }
            b'R' => {
                // In whole seconds, so that what was just given the same time is not due.
                let left = |at| seconds_left(at, now_ms);
                let is_due =
                    self.expires_at.zip(flags.recache).is_some_and(|(at, limit)| left(at) < left(limit));
                self.wins |= is_due && !self.is_new && !memo.is_claimed;
                Ok(())
            }
            b't' => {
                write_ttl(self.expires_at, now_ms, out);
                Ok(())
            }
            b'c' => write!(out, " c{}", memo.cas),
            b'f' => write!(out, " f{}", memo.flags),
            b'l' => write!(out, " l{}", (now_ms - memo.used_ms) / 1000),
            b'h' => write!(out, " h{}", u8::from(memo.is_fetched)),
            _ => return echo(word, key, memo.is_binary, out),
        };
        Ok(())
    }
}

fn set(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), Line> {
    let flags = Flags::read(request, 3, items.now_ms)?;
    let mode = match flags.mode {
        None | Some(b'S') => Mode::Set,
        Some(b'E') => Mode::Add,
        Some(b'A') => Mode::Append,
        Some(b'P') => Mode::Prepend,
        Some(b'R') => Mode::Replace,
        Some(_) => return Err(BAD_MODE),
    };
    let swaps = flags.cas.is_some() && matches!(mode, Mode::Set | Mode::Replace);
    let mode = if swaps { Mode::Cas } else { mode };
    if words(request, 3).any(|word| word[0] == b'O' && word.len() > OPAQUE_BYTES_MAX) {
        return Err(BAD_OPAQUE);
    }
    let new = New {
        key,
        value: request.value(),
        flags: flags.flags,
        expires_at: flags.ttl.unwrap_or_default(),
        cas: flags.cas.unwrap_or_default(),
        may_be_stale: flags.is_stale,
        is_binary: flags.is_binary,
    };
    let stored = items.store(mode, &new).map_err(|unfit| {
        // An old value would be taken for this one.
        items.remove(key);
        unfit.line()
    })?;
    let mut cas = 0;
    out.extend_from_slice(match stored {
        Stored::Yes => {
            cas = items.node.store.memo(key).map_or(0, |memo| memo.cas);
            b"HD"
        }
        Stored::No => b"NS",
        Stored::Exists => b"EX",
        Stored::NotFound => b"NF",
    });
    for word in words(request, 3) {
        match word[0] {
            // Writing to a vector can't fail.
            b'c' => drop(write!(out, " c{cas}")),
            _ => echo(word, key, flags.is_binary, out)?,
        }
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn delete(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), Line> {
    let flags = Flags::read(request, 2, items.now_ms).map_err(|_| BAD_FLAG)?;
    let begin = out.len();
    out.extend_from_slice(b"HD");
    words(request, 2).try_for_each(|word| echo(word, key, flags.is_binary, out))?;
    out.extend_from_slice(b"\r\n");
    let code = match items.memo(key) {
        None => b"NF",
        Some(memo) if flags.cas.is_some_and(|cas| cas != memo.cas) => b"EX",
        Some(_) if flags.is_stale => {
            if let Some(ttl) = flags.ttl {
                items.node.store.expire(key, ttl);
            }
            items.invalidate(key);
            b"HD"
        }
        Some(_) => {
            items.remove(key);
            b"HD"
        }
    };
    out[begin..begin + 2].copy_from_slice(code);
    Ok(())
}

fn arithmetic(
    items: &mut Items<'_>,
    key: &[u8],
    request: &Request<'_>,
    out: &mut Vec<u8>,
) -> Result<(), Line> {
    let flags = Flags::read(request, 2, items.now_ms).map_err(|_| BAD_FLAG)?;
    let is_up = match flags.mode {
        None | Some(b'I' | b'+') => true,
        Some(b'D' | b'-') => false,
        Some(_) => return Err(BAD_COUNT_MODE),
    };
    let delta = Delta { is_up, by: flags.delta.unwrap_or(1), cas: flags.cas.unwrap_or_default() };
    let (code, number, is_new) = match items.count(key, delta) {
        Ok(number) => (b"HD", Some(number), false),
        Err(Uncounted::NotFound) if flags.vivify.is_some() => {
            let digits = flags.initial.to_string();
            let new = New { key, value: digits.as_bytes(), ..New::default() };
            items.store(Mode::Add, &new).map_err(|_| NO_MEMORY_FOR_NEW)?;
            (b"HD", Some(flags.initial), true)
        }
        Err(Uncounted::NotFound) => (b"NF", None, false),
        Err(Uncounted::Exists) => (b"EX", None, false),
        Err(Uncounted::NotNumeric) => return Err(NOT_NUMERIC),
        Err(Uncounted::NoMemory) => return Err(NO_MEMORY),
    };
    let now_ms = items.now_ms;
    let there = items.node.store.entry(key, now_ms).filter(|_| number.is_some());
    let (cas, mut expires_at) = there.map_or((0, None), |e| (e.memo.cas, e.expires_at()));
    let digits = number.map(|n| n.to_string()).unwrap_or_default();
    let shows = flags.value && number.is_some();
    // Writing to a vector can't fail.
    let _ = if shows { write!(out, "VA {}", digits.len()) } else { out.write_all(code) };
    let done = words(request, 2).try_for_each(|word| {
        match word[0] {
            b'c' if number.is_some() => drop(write!(out, " c{cas}")),
            b't' if number.is_some() => write_ttl(expires_at, now_ms, out),
            b'T' => expires_at = flags.ttl.unwrap_or_default(),
            b'N' if is_new => expires_at = flags.vivify.unwrap_or_default(),
            _ => return echo(word, key, flags.is_binary, out),
        }
        Ok(())
    });
    if number.is_some() {
        items.node.store.expire(key, expires_at);
    }
    done?;
    out.extend_from_slice(b"\r\n");
    if shows {
        let _ = write!(out, "{digits}\r\n");
    }
    Ok(())
}

/// `me`: what is known of an item.
fn debug(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) -> Result<(), Line> {
    if request.word(2) == b"b" && base64::decode(request.word(1)).is_none() {
        return Err(BAD_FORMAT);
    }
    let now_ms = items.now_ms;
    let Some(entry) = items.node.store.entry(key, now_ms) else {
        out.extend_from_slice(b"EN\r\n");
        return Ok(());
    };
    let memo = entry.memo;
    // memcached counts from the expiry.
    let expiry = entry.expires_at().map_or(-1, |at| -seconds_left(at, now_ms));
    let (idle, bytes) = ((now_ms - memo.used_ms) / 1000, item_bytes(key, memo.flags, entry.value().len()));
    let fetched = if memo.is_fetched { "yes" } else { "no" };
    out.extend_from_slice(b"ME ");
    write_key(key, memo.is_binary, out);
    // Writing to a vector can't fail. There are no classes of memory here.
    let _ = write!(out, " exp={expiry} la={idle} cas={} fetch={fetched} cls=1 size={bytes}\r\n", memo.cas);
    Ok(())
}

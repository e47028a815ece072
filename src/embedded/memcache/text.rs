//! The text commands. Their words and values are well formed: [`crate::protocol::memcache`] has refused
//! the others.

use std::io::Write;

use super::items::{Delta, Items, Mode, New, Stored, Uncounted, expiry_of};
use crate::{
    embedded::session,
    protocol::memcache::{Request, number},
};

const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
pub(super) const NOT_NUMERIC: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
pub(super) const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory\r\n";

/// Runs a command of one key.
pub(super) fn command(items: &mut Items<'_>, key: &[u8], request: &Request<'_>, out: &mut Vec<u8>) {
    match request.word(0) {
        b"get" | b"gets" | b"bget" | b"gat" | b"gats" => values(items, std::iter::once(key), request, out),
        b"delete" => out.extend_from_slice(if items.remove(key) { b"DELETED\r\n" } else { NOT_FOUND }),
        b"touch" => {
            let is_there = items.touch(key, expiry_of(request.word(2), items.now_ms));
            out.extend_from_slice(if is_there { b"TOUCHED\r\n" } else { NOT_FOUND });
        }
        name @ (b"incr" | b"decr") => count(items, key, name == b"incr", request, out),
        name => out.extend_from_slice(store(items, key, name, request)),
    }
}

/// `VALUE key flags bytes [cas]` for each key that is there. The commands with an expiration time set it
/// then, and show once more what is gone by it.
pub(super) fn values<'a>(
    items: &mut Items<'_>,
    keys: impl Iterator<Item = &'a [u8]>,
    request: &Request<'_>,
    out: &mut Vec<u8>,
) {
    let name = request.word(0);
    let (with_cas, touches) = (name.ends_with(b"s"), name.starts_with(b"gat"));
    // A key may be asked for many times, so that the cap does not bound the reply.
    let bytes_max = session::limits(items.node.settings.bytes_max).request_bytes;
    let begin = out.len();
    for key in keys {
        let Some(entry) = items.node.store.entry(key, items.now_ms) else { continue };
        let (memo, value) = (entry.memo, entry.value());
        if out.len() - begin + value.len() > bytes_max {
            out.truncate(begin);
            return out.extend_from_slice(b"SERVER_ERROR out of memory writing get response\r\n");
        }
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(key);
        // Writing to a vector can't fail.
        let _ = write!(out, " {} {}", memo.flags, value.len());
        if with_cas {
            let _ = write!(out, " {}", memo.cas);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
        if touches {
            items.touch(key, expiry_of(request.word(1), items.now_ms));
        } else {
            items.fetched(key);
        }
    }
    out.extend_from_slice(b"END\r\n");
}

fn store(items: &mut Items<'_>, key: &[u8], name: &[u8], request: &Request<'_>) -> &'static [u8] {
    let mode = match name {
        b"add" => Mode::Add,
        b"replace" => Mode::Replace,
        b"append" => Mode::Append,
        b"prepend" => Mode::Prepend,
        b"cas" => Mode::Cas,
        _ => Mode::Set,
    };
    let new = New {
        key,
        value: request.value(),
        flags: number::unsigned(request.word(2)).unwrap_or_default() as u32,
        expires_at: expiry_of(request.word(3), items.now_ms),
        cas: if mode == Mode::Cas { number::unsigned(request.word(5)).unwrap_or_default() } else { 0 },
        ..New::default()
    };
    match items.store(mode, &new) {
        Ok(Stored::Yes) => b"STORED\r\n",
        Ok(Stored::No) => b"NOT_STORED\r\n",
        Ok(Stored::Exists) => b"EXISTS\r\n",
        Ok(Stored::NotFound) => NOT_FOUND,
        Err(unfit) => {
            // An old value would be taken for this one.
            if mode == Mode::Set {
                items.remove(key);
            }
            unfit.line()
        }
    }
}

fn count(items: &mut Items<'_>, key: &[u8], is_up: bool, request: &Request<'_>, out: &mut Vec<u8>) {
    let by = number::unsigned(request.word(2)).unwrap_or_default();
    match items.count(key, Delta { is_up, by, cas: 0 }) {
        // Writing to a vector can't fail.
        Ok(number) => drop(write!(out, "{number}\r\n")),
        Err(Uncounted::NotFound | Uncounted::Exists) => out.extend_from_slice(NOT_FOUND),
        Err(Uncounted::NotNumeric) => out.extend_from_slice(NOT_NUMERIC),
        Err(Uncounted::NoMemory) => out.extend_from_slice(NO_MEMORY),
    }
}

//! The meta commands `mg`, `ms`, `md`, `ma` and `me`, with the flags of memcached 1.6.18
//! (doc/protocol.txt there).

use std::io::Write;

use super::{Exptime, New, count, join, put};
use crate::{
    embedded::{session::Node, store::Full},
    protocol::memcache::{Request, number},
};

const INVALID_FLAG: &[u8] = b"CLIENT_ERROR invalid flag\r\n";
const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format\r\n";
const INVALID_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ms\r\n";
const INVALID_MA_MODE: &[u8] = b"CLIENT_ERROR invalid mode for ma\r\n";
const NO_MEMORY: &[u8] = b"SERVER_ERROR out of memory storing object\r\n";
const NOT_NUMERIC: &[u8] = super::NOT_NUMERIC;

/// What a request's flags ask for.
#[derive(Default)]
struct Asked {
    value: bool,
    stale: bool,
    ttl: Option<Exptime>,
    /// `N`: make an item that is not there.
    vivify: Option<Exptime>,
    /// `R`: whoever asks when less is left is told to fetch it anew.
    recache: Option<i64>,
    cas: Option<u64>,
    flags: u32,
    delta: u64,
    initial: u64,
    mode: Option<u8>,
}

/// Runs one; its key is decoded.
pub(super) fn command(node: &mut Node, key: &[u8], request: &Request<'_>, now_ms: i64, out: &mut Vec<u8>) {
    let name = request.word(0);
    let first = if name == b"ms" { 3 } else { 2 };
    let asked = match Asked::read(name, request, first) {
        Ok(asked) => asked,
        Err(line) => return out.extend_from_slice(line),
    };
    let said = Said { request, first, key };
    match name {
        b"mg" => get(node, &said, &asked, now_ms, out),
        b"ms" => set(node, &said, &asked, now_ms, out),
        b"md" => delete(node, &said, &asked, now_ms, out),
        b"ma" => arithmetic(node, &said, &asked, now_ms, out),
        _ => debug(node, &said, now_ms, out),
    }
}

impl Asked {
    fn read(name: &[u8], request: &Request<'_>, first: usize) -> Result<Asked, &'static [u8]> {
        let known: &[u8] = match name {
            b"mg" => b"bcfhklNORqstTvEI",
            b"ms" => b"bcCFIkOqTMN",
            b"md" => b"bCIkOqT",
            b"ma" => b"bCcNJDTMqtvkO",
            _ => b"b",
        };
        let mut asked = Asked::default();
        for word in (first..request.len()).map(|i| request.word(i)) {
            let (flag, token) = (word[0], &word[1..]);
            if !known.contains(&flag) {
                return Err(INVALID_FLAG);
            }
            let seconds = || number::signed(token).ok_or(BAD_TOKEN);
            let number = || number::unsigned(token).ok_or(BAD_TOKEN);
            match flag {
                b'v' => asked.value = true,
                b'I' => asked.stale = true,
                b'T' => asked.ttl = Some(Exptime(seconds()?)),
                b'N' => asked.vivify = Some(Exptime(seconds()?)),
                b'R' => asked.recache = Some(seconds()?),
                b'C' => asked.cas = Some(number()?),
                b'F' => asked.flags = u32::try_from(number()?).map_err(|_| BAD_TOKEN)?,
                b'D' => asked.delta = number()?,
                b'J' => asked.initial = number()?,
                b'M' => asked.mode = Some(*token.first().ok_or(BAD_TOKEN)?),
                _ => {}
            }
        }
        if name == b"ma" && !request_has(request, first, b'D') {
            asked.delta = 1;
        }
        Ok(asked)
    }
}

fn request_has(request: &Request<'_>, first: usize, flag: u8) -> bool {
    (first..request.len()).any(|i| request.word(i).first() == Some(&flag))
}

/// The request as replies repeat it.
struct Said<'a> {
    request: &'a Request<'a>,
    /// The first flag.
    first: usize,
    /// Decoded.
    key: &'a [u8],
}

impl Said<'_> {
    fn flags(&self) -> impl Iterator<Item = &[u8]> {
        (self.first..self.request.len()).map(|i| self.request.word(i))
    }

    /// A line with what is given back whatever came of it: opaque and key, in the order of the flags.
    fn line(&self, code: &[u8], out: &mut Vec<u8>) {
        self.line_with(code, None, out);
    }

    /// The same, and where it is asked for the id of the value, if there is one.
    fn line_with(&self, code: &[u8], cas: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(code);
        for flag in self.flags() {
            match (flag[0], cas) {
                // Writing to a vector can't fail.
                (b'c', Some(cas)) => drop(write!(out, " c{cas}")),
                _ => self.echo(flag, out),
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn echo(&self, flag: &[u8], out: &mut Vec<u8>) {
        match flag[0] {
            b'O' => {
                out.push(b' ');
                out.extend_from_slice(flag);
            }
            b'k' => {
                out.extend_from_slice(b" k");
                out.extend_from_slice(self.request.word(1));
                if request_has(self.request, self.first, b'b') {
                    out.extend_from_slice(b" b");
                }
            }
            _ => {}
        }
    }
}

fn get(node: &mut Node, said: &Said<'_>, asked: &Asked, now_ms: i64, out: &mut Vec<u8>) {
    let key = said.key;
    let is_new = node.store.entry(key, now_ms).is_none();
    if is_new {
        let Some(exptime) = asked.vivify else { return said.line(b"EN", out) };
        let new = New { value: b"", flags: 0, exptime };
        if put(node, key, &new, now_ms).is_err() {
            return out.extend_from_slice(NO_MEMORY);
        }
    }
    let before = node.store.entry(key, now_ms).and_then(|e| e.expires_at());
    if let Some(ttl) = asked.ttl {
        node.store.expire(key, ttl.at_ms(now_ms));
    }
    let Some(entry) = node.store.entry(key, now_ms) else { return said.line(b"EN", out) };
    let (memo, expires_at) = (entry.memo, entry.expires_at());
    let left = |at: i64| (at - now_ms).div_euclid(1000).max(0);
    let is_due = asked.recache.is_some_and(|limit| before.is_some_and(|at| left(at) < limit));
    let wins = is_new || (!memo.is_claimed && (is_due || memo.is_stale));
    let len = entry.value().len();
    // Writing to a vector can't fail.
    let _ = if asked.value { write!(out, "VA {len}") } else { write!(out, "HD") };
    for flag in said.flags() {
        let _ = match flag[0] {
            b's' => write!(out, " s{len}"),
            b't' => match expires_at {
                None => write!(out, " t-1"),
                Some(at) => write!(out, " t{}", left(at + 999)),
            },
            b'c' => write!(out, " c{}", memo.cas),
            b'f' => write!(out, " f{}", memo.flags),
            b'l' => write!(out, " l{}", (now_ms - memo.used_ms) / 1000),
            b'h' => write!(out, " h{}", u8::from(memo.is_fetched)),
            _ => {
                said.echo(flag, out);
                Ok(())
            }
        };
    }
    for (is_said, mark) in [(memo.is_claimed, b" Z"), (memo.is_stale, b" X"), (wins, b" W")] {
        if is_said {
            out.extend_from_slice(mark);
        }
    }
    out.extend_from_slice(b"\r\n");
    if asked.value {
        out.extend_from_slice(entry.value());
        out.extend_from_slice(b"\r\n");
    }
    if let Some(memo) = node.store.memo(key) {
        memo.is_claimed |= wins;
        (memo.is_fetched, memo.used_ms) = (true, now_ms);
    }
}

fn set(node: &mut Node, said: &Said<'_>, asked: &Asked, now_ms: i64, out: &mut Vec<u8>) {
    let key = said.key;
    let there = node.store.entry(key, now_ms).map(|e| e.memo);
    let exptime = asked.ttl.unwrap_or(Exptime(0));
    let new = New { value: said.request.value(), flags: asked.flags, exptime };
    let mode = asked.mode.map_or(b'S', |mode| mode.to_ascii_uppercase());
    if !b"SEAPR".contains(&mode) {
        return out.extend_from_slice(INVALID_MODE);
    }
    let is_older = there.is_some_and(|memo| asked.cas.is_some_and(|cas| cas < memo.cas));
    let done = match (mode, there) {
        (b'E', Some(_)) | (b'R' | b'A' | b'P', None) => return said.line(b"NS", out),
        (_, None) if asked.cas.is_some() => return said.line(b"NF", out),
        (_, Some(memo)) if asked.cas.is_some_and(|cas| cas != memo.cas) && !(asked.stale && is_older) => {
            return said.line(b"EX", out);
        }
        (b'A', Some(_)) => join(node, key, new.value, true, now_ms),
        (b'P', Some(_)) => join(node, key, new.value, false, now_ms),
        _ => put(node, key, &new, now_ms),
    };
    let Ok(()) = done else { return out.extend_from_slice(NO_MEMORY) };
    if asked.stale
        && is_older
        && let Some(memo) = node.store.memo(key)
    {
        memo.is_stale = true;
    }
    let cas = node.store.memo(key).map(|memo| memo.cas);
    said.line_with(b"HD", cas, out);
}

fn delete(node: &mut Node, said: &Said<'_>, asked: &Asked, now_ms: i64, out: &mut Vec<u8>) {
    let key = said.key;
    let Some(memo) = node.store.entry(key, now_ms).map(|e| e.memo) else { return said.line(b"NF", out) };
    if asked.cas.is_some_and(|cas| cas != memo.cas) {
        return said.line(b"EX", out);
    }
    if asked.stale {
        if let Some(ttl) = asked.ttl {
            node.store.expire(key, ttl.at_ms(now_ms));
        }
        let cas = node.memcache.next_cas();
        if let Some(memo) = node.store.memo(key) {
            (memo.is_stale, memo.is_claimed, memo.cas) = (true, false, cas);
        }
    } else {
        node.store.remove(key, now_ms);
    }
    said.line(b"HD", out);
}

fn arithmetic(node: &mut Node, said: &Said<'_>, asked: &Asked, now_ms: i64, out: &mut Vec<u8>) {
    let key = said.key;
    let up = match asked.mode {
        None | Some(b'I' | b'i' | b'+') => true,
        Some(b'D' | b'd' | b'-') => false,
        Some(_) => return out.extend_from_slice(INVALID_MA_MODE),
    };
    let there = node.store.entry(key, now_ms).map(|e| e.memo);
    let number = match (there, asked.vivify) {
        (None, None) => return said.line(b"NF", out),
        (None, Some(exptime)) => {
            let text = asked.initial.to_string();
            put(node, key, &New { value: text.as_bytes(), flags: 0, exptime }, now_ms)
                .map(|()| asked.initial)
                .map_err(|Full| NO_MEMORY)
        }
        (Some(memo), _) if asked.cas.is_some_and(|cas| cas != memo.cas) => return said.line(b"EX", out),
        (Some(_), _) => count(node, key, up, asked.delta, now_ms),
    };
    let number = match number {
        Ok(number) => number,
        Err(NOT_NUMERIC) => return out.extend_from_slice(NOT_NUMERIC),
        Err(line) => return out.extend_from_slice(line),
    };
    if let (Some(ttl), Some(_)) = (asked.ttl, there) {
        node.store.expire(key, ttl.at_ms(now_ms));
    }
    let Some(entry) = node.store.entry(key, now_ms) else { return said.line(b"NF", out) };
    let (memo, expires_at) = (entry.memo, entry.expires_at());
    let digits = number.to_string();
    // Writing to a vector can't fail.
    let _ = if asked.value { write!(out, "VA {}", digits.len()) } else { write!(out, "HD") };
    for flag in said.flags() {
        let _ = match flag[0] {
            b't' => match expires_at {
                None => write!(out, " t-1"),
                Some(at) => write!(out, " t{}", (at - now_ms + 999).div_euclid(1000).max(0)),
            },
            b'c' => write!(out, " c{}", memo.cas),
            _ => {
                said.echo(flag, out);
                Ok(())
            }
        };
    }
    out.extend_from_slice(b"\r\n");
    if asked.value {
        let _ = write!(out, "{digits}\r\n");
    }
}

/// `me`: what is known of an item.
fn debug(node: &mut Node, said: &Said<'_>, now_ms: i64, out: &mut Vec<u8>) {
    let Some(entry) = node.store.entry(said.key, now_ms) else { return out.extend_from_slice(b"EN\r\n") };
    let memo = entry.memo;
    let left = entry.expires_at().map_or(-1, |at| (at - now_ms) / 1000);
    let (idle, len) = ((now_ms - memo.used_ms) / 1000, entry.value().len());
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(said.request.word(1));
    let fetched = if memo.is_fetched { "yes" } else { "no" };
    // Writing to a vector can't fail.
    let _ = write!(out, " exp={left} la={idle} cas={} fetch={fetched} cls=1 size={len}\r\n", memo.cas);
}

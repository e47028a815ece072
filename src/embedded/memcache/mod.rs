//! What the embedded node answers when it speaks memcached, over the same store as its Redis commands.
//! Which requests are whole and well formed is decided by [`crate::protocol::memcache`], as for the proxy;
//! what is silent, too. Replies are those of memcached 1.6.18, byte for byte, but for the exceptions that
//! the tests list.

mod flags;
mod items;
mod meta;
#[cfg(test)]
mod tests;
mod text;

use std::{fmt::Display, io::Write};

use super::session::{Fate, Node};
pub(super) use crate::protocol::memcache::Step;
use crate::protocol::memcache::{
    Code, Limits, Local, MEMCACHED_VERSION, Plan, Request, RequestDecoder, number, plan::Gather,
};
use items::{ITEM_BYTES_MAX, Items};
pub(super) use items::{Memo, State};

/// What a request may measure. A value above the first is refused, as there.
pub(super) fn limits(request_bytes: usize) -> Limits {
    Limits { value_bytes: ITEM_BYTES_MAX, line_bytes: Limits::LINE_BYTES, request_bytes, args_max: 1 << 20 }
}

/// Cuts one request from the start of the input and answers it: what the decoder says of it.
pub(super) fn step(
    decoder: &mut RequestDecoder,
    limits: &Limits,
    (node, fate): (&mut Node, &mut Fate),
    input: &[u8],
    (now_ms, out): (i64, &mut Vec<u8>),
) -> Option<Step> {
    match decoder.decode(input, limits) {
        Ok(step @ (Step::Request(len) | Step::Large { line: len, .. })) => {
            node.requests += 1;
            node.store.begin_request();
            flush_if_due(node, now_ms);
            run(&mut Items { node, now_ms }, fate, &decoder.request(&input[..len]), out);
            Some(step)
        }
        Ok(step) => Some(step),
        Err(error) => {
            out.extend_from_slice(error.line());
            *fate = Fate::Closing;
            None
        }
    }
}

/// Does what a `flush_all` has put off until now.
pub(super) fn flush_if_due(node: &mut Node, now_ms: i64) {
    Items { node, now_ms }.flush_if_due();
}

fn run(items: &mut Items<'_>, fate: &mut Fate, request: &Request<'_>, out: &mut Vec<u8>) {
    // What concerns the inside of a real memcached is not known here.
    // The proxy does not offer it, and asks its nodes for it when it looks for what is left over.
    if request.word(0) == b"lru_crawler" && request.word(1) == b"metadump" {
        return metadump(items, out);
    }
    if !request.is_offered() {
        return out.extend_from_slice(b"ERROR\r\n");
    }
    if let Some(key) = request.replaced_by_large() {
        // An old value would be taken for the one that is refused.
        items.remove(&key);
    }
    let begin = out.len();
    match request.plan() {
        Plan::One(one) => {
            match request.word(0) {
                [b'm', _] => meta::command(items, &one.key, request, out),
                _ => text::command(items, &one.key, request, out),
            }
            if one.awaits.swallows(Code::of(&out[begin..])) {
                out.truncate(begin);
            }
        }
        Plan::Keys(keys) => text::values(items, (0..keys.len()).map(|i| keys.key(i)), request, out),
        Plan::All(all) if all.gather == Gather::Flush => {
            items.flush(number::signed(request.word(1)).unwrap_or_default());
            out.extend_from_slice(if all.awaits.is_quiet() { b"" } else { b"OK\r\n" });
        }
        // `stats nodes` is of the proxy.
        Plan::All(_) => out.extend_from_slice(b"ERROR\r\n"),
        Plan::Local(Local::Stats) => stats(items.node, items.now_ms, out),
        // Writing to a vector can't fail.
        Plan::Local(Local::Version) => drop(write!(out, "VERSION {MEMCACHED_VERSION}\r\n")),
        Plan::Local(Local::Verbosity) => out.extend_from_slice(b"OK\r\n"),
        Plan::Local(Local::Fence) => out.extend_from_slice(b"MN\r\n"),
        Plan::Local(Local::End) => out.extend_from_slice(b"END\r\n"),
        Plan::Refuse { line, close } => {
            out.extend_from_slice(&line);
            *fate = if close { Fate::Closing } else { Fate::Open };
        }
        Plan::Nothing => {}
        Plan::Quit => *fate = Fate::Closing,
    }
}

/// All keys, as they are in a URL.
fn metadump(items: &Items<'_>, out: &mut Vec<u8>) {
    for entry in items.node.store.live(items.now_ms) {
        let key = percent_encoding::percent_encode(entry.key(), percent_encoding::NON_ALPHANUMERIC);
        let expires = entry.expires_at().map_or(-1, |at_ms| at_ms / 1000);
        // Writing to a vector can't fail.
        let _ =
            write!(out, "key={key} exp={expires} cas={} size={}\r\n", entry.memo.cas, entry.value().len());
    }
    out.extend_from_slice(b"END\r\n");
}

/// The numbers that say who it is and how full.
fn stats(node: &Node, now_ms: i64, out: &mut Vec<u8>) {
    let mut stat = |name: &str, value: &dyn Display| {
        // Writing to a vector can't fail.
        let _ = write!(out, "STAT {name} {value}\r\n");
    };
    let store = &node.store;
    stat("pid", &std::process::id());
    stat("uptime", &((now_ms - node.started_ms).max(0) / 1000));
    stat("time", &(now_ms / 1000));
    stat("version", &MEMCACHED_VERSION);
    stat("pointer_size", &usize::BITS);
    stat("max_connections", &node.settings.clients_max);
    stat("curr_connections", &node.sessions);
    stat("total_connections", &node.sessions_ever);
    stat("cmd_total", &node.requests);
    stat("limit_maxbytes", &store.bytes_max());
    stat("bytes", &store.bytes());
    stat("curr_items", &store.len());
    stat("evictions", &store.counts().evicted);
    stat("ringway_embedded", &1);
    out.extend_from_slice(b"END\r\n");
}

//! Keys, whatever they hold: `DEL`, `EXISTS`, `SCAN` and the like.

use crate::protocol::resp::write;

use super::{Call, Outcome, Refusal};
use crate::protocol::resp::glob;

pub(super) fn del(call: &mut Call<'_>) -> Outcome {
    let (request, now_ms) = (call.request, call.now_ms);
    let gone = request.args().skip(1).filter(|key| call.store().remove(key, now_ms)).count();
    call.reply_integer(gone as i64)
}

pub(super) fn exists(call: &mut Call<'_>) -> Outcome {
    let request = call.request;
    let there = request.args().skip(1).filter(|key| call.value(key).is_some()).count();
    call.reply_integer(there as i64)
}

pub(super) fn kind(call: &mut Call<'_>) -> Outcome {
    let there = call.value(call.arg(1)).is_some();
    write::simple(call.out, if there { "string" } else { "none" });
    Ok(())
}

pub(super) fn dbsize(call: &mut Call<'_>) -> Outcome {
    let len = call.store().len();
    call.reply_integer(len as i64)
}

pub(super) fn flush(call: &mut Call<'_>) -> Outcome {
    match call.len() {
        1 => {}
        2 if matches!(call.word(1).as_slice(), b"SYNC" | b"ASYNC") => {}
        _ => return Err(Refusal::SYNTAX),
    }
    call.store().clear();
    call.reply_ok()
}

pub(super) fn randomkey(call: &mut Call<'_>) -> Outcome {
    match call.node.store.random_key(call.now_ms) {
        Some(key) => write::bulk(call.out, key),
        None => write::null(call.out, call.client.version),
    }
    Ok(())
}

/// The lone star matches all keys, the empty one too.
fn is_chosen(pattern: &[u8], key: &[u8]) -> bool {
    pattern == b"*" || glob::matches(pattern, key, false)
}

pub(super) fn keys(call: &mut Call<'_>) -> Outcome {
    let pattern = call.request.arg(1);
    let chosen = || call.node.store.live(call.now_ms).map(|e| e.key()).filter(|key| is_chosen(pattern, key));
    write::array(call.out, chosen().count());
    for key in chosen() {
        write::bulk(call.out, key);
    }
    Ok(())
}

/// Entries that one `SCAN` visits when it does not say.
const SCAN_COUNT: usize = 10;

pub(super) fn scan(call: &mut Call<'_>) -> Outcome {
    let cursor = cursor(call.arg(1)).ok_or(Refusal::text("ERR invalid cursor"))?;
    let (mut pattern, mut count, mut wants_strings) = (&b"*"[..], SCAN_COUNT, true);
    let mut i = 2;
    while i < call.len() {
        let more = i + 1 < call.len();
        match call.word(i).as_slice() {
            b"COUNT" if more => {
                let n = call.integer(i + 1)?;
                if n < 1 {
                    return Err(Refusal::SYNTAX);
                }
                count = usize::try_from(n).unwrap_or(usize::MAX);
            }
            b"MATCH" if more => pattern = call.arg(i + 1),
            b"TYPE" if more => wants_strings = call.word(i + 1) == b"STRING",
            _ => return Err(Refusal::SYNTAX),
        }
        i += 2;
    }
    let (next, visited) = call.node.store.scan(cursor, count);
    let is_wanted = |key: &&[u8]| wants_strings && is_chosen(pattern, key);
    let found: Vec<&[u8]> =
        visited.filter(|e| !e.is_expired(call.now_ms)).map(|e| e.key()).filter(is_wanted).collect();
    write::array(call.out, 2);
    write::bulk(call.out, next.to_string().as_bytes());
    write::array(call.out, found.len());
    for key in found {
        write::bulk(call.out, key);
    }
    Ok(())
}

/// A cursor as C's `strtoul` reads it: a sign is allowed, nothing at all is 0.
fn cursor(text: &[u8]) -> Option<usize> {
    let (negative, digits) = match super::c_text(text) {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return (digits.len() == super::c_text(text).len()).then_some(0);
    }
    let mut n = 0u64;
    for byte in digits {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        n = n.checked_mul(10)?.checked_add(digit)?;
    }
    usize::try_from(if negative { n.wrapping_neg() } else { n }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cursor is read as Redis reads it.
    #[test]
    fn a_table_of_cursors() {
        for (text, expected) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("17", Some(17)),
            ("+17", Some(17)),
            ("-1", Some(usize::MAX)),
            ("18446744073709551615", Some(usize::MAX)),
            ("18446744073709551616", None),
            ("-", None),
            ("x", None),
            ("1x", None),
            (" 1", None),
            ("7\0x", Some(7)),
        ] {
            assert_eq!(cursor(text.as_bytes()), expected, "{text:?}");
        }
    }
}

//! Strings: `GET`, `SET` and their family.

use crate::protocol::resp::write;

use super::{
    super::{session, store},
    Call, Outcome, Refusal,
    lifetime::{Condition, Lifetime, Of, Options, deadline},
};

/// The largest string that Redis makes.
const STRING_MAX: i64 = 512 << 20;

pub(super) fn get(call: &mut Call<'_>) -> Outcome {
    call.reply_value(call.arg(1));
    Ok(())
}

pub(super) fn set(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.arg(1), call.arg(2));
    let options = Options::read(call, 3, Of::Set)?;
    let deadline = options.deadline(call)?;
    if options.wants_old {
        call.reply_value(key);
    }
    let there = call.value(key).is_some();
    let acts = match options.condition {
        Condition::Always => true,
        Condition::Absent => !there,
        Condition::Present => there,
    };
    if acts {
        call.put(key, value)?;
        if options.lifetime != Lifetime::Keep {
            call.store().expire(key, deadline);
        }
    }
    if !options.wants_old {
        if acts {
            return call.reply_ok();
        }
        write::null(call.out, call.version());
    }
    Ok(())
}

pub(super) fn setnx(call: &mut Call<'_>) -> Outcome {
    let key = call.arg(1);
    if call.value(key).is_some() {
        return call.reply_integer(0);
    }
    call.put_new(key, call.arg(2))?;
    call.reply_integer(1)
}

pub(super) fn setex(call: &mut Call<'_>) -> Outcome {
    set_until(call, Lifetime::Ex)
}

pub(super) fn psetex(call: &mut Call<'_>) -> Outcome {
    set_until(call, Lifetime::Px)
}

fn set_until(call: &mut Call<'_>, lifetime: Lifetime) -> Outcome {
    let deadline = deadline(call, lifetime, 2)?;
    call.put(call.arg(1), call.arg(3))?;
    let key = call.arg(1);
    call.store().expire(key, Some(deadline));
    call.reply_ok()
}

pub(super) fn getset(call: &mut Call<'_>) -> Outcome {
    call.reply_value(call.arg(1));
    call.put_new(call.arg(1), call.arg(2))
}

pub(super) fn getdel(call: &mut Call<'_>) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    if call.reply_value(key) {
        call.store().remove(key, now_ms);
    }
    Ok(())
}

pub(super) fn getex(call: &mut Call<'_>) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    let options = Options::read(call, 2, Of::GetEx)?;
    if !call.reply_value(key) {
        return Ok(());
    }
    match options.deadline(call)? {
        Some(at) if at <= now_ms => drop(call.store().remove(key, now_ms)),
        Some(at) => call.store().expire(key, Some(at)),
        None if options.lifetime == Lifetime::Persist => call.store().expire(key, None),
        None => {}
    }
    Ok(())
}

pub(super) fn strlen(call: &mut Call<'_>) -> Outcome {
    let len = call.value(call.arg(1)).map_or(0, <[u8]>::len);
    call.reply_integer(len as i64)
}

pub(super) fn append(call: &mut Call<'_>) -> Outcome {
    let old = call.value(call.arg(1)).map_or(0, <[u8]>::len);
    write_at(call, old, call.arg(2))
}

pub(super) fn setrange(call: &mut Call<'_>) -> Outcome {
    let (key, patch) = (call.arg(1), call.arg(3));
    let offset = call.integer(2)?;
    if offset < 0 {
        return Err(Refusal::text("ERR offset is out of range"));
    }
    if patch.is_empty() {
        return strlen(call);
    }
    let old = call.value(key).map_or(0, <[u8]>::len) as i64;
    if offset.saturating_add(patch.len() as i64) > STRING_MAX || old > STRING_MAX {
        return Err(Refusal::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
    }
    write_at(call, offset as usize, patch)
}

/// Writes bytes into the value of a key and replies with its length.
fn write_at(call: &mut Call<'_>, offset: usize, patch: &[u8]) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    let old = call.value(key).map_or(0, <[u8]>::len);
    let end = offset + patch.len();
    let len = end.max(old);
    call.store().resize(key, len, now_ms)?[offset..end].copy_from_slice(patch);
    call.reply_integer(len as i64)
}

pub(super) fn getrange(call: &mut Call<'_>) -> Outcome {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let value = call.node.store.entry(call.request.arg(1), call.now_ms).map_or(&[][..], |e| e.value());
    write::bulk(call.out, part(value, start, end));
    Ok(())
}

/// The part of a text between two positions, both included, that count from the end if negative.
fn part(text: &[u8], start: i64, end: i64) -> &[u8] {
    let len = text.len() as i64;
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let from_end = |n: i64| if n < 0 { n.saturating_add(len).max(0) } else { n };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    if start > end { &[] } else { &text[start as usize..=end as usize] }
}

pub(super) fn mget(call: &mut Call<'_>) -> Outcome {
    let request = call.request;
    let keys = || request.args().skip(1);
    // A key may be asked for many times, so that the cap does not bound the reply.
    let bytes_max = session::limits(call.node.settings.bytes_max).request_bytes;
    let bytes = keys().fold(0usize, |sum, key| sum.saturating_add(call.value(key).map_or(0, <[u8]>::len)));
    if bytes > bytes_max {
        return Err(Refusal::from(format!("ERR reply larger than {bytes_max} bytes")));
    }
    write::array(call.out, request.len() - 1);
    for key in keys() {
        call.reply_value(key);
    }
    Ok(())
}

pub(super) fn mset(call: &mut Call<'_>) -> Outcome {
    put_pairs(call)?;
    call.reply_ok()
}

pub(super) fn msetnx(call: &mut Call<'_>) -> Outcome {
    check_pairs(call)?;
    let request = call.request;
    if (1..request.len()).step_by(2).any(|i| call.value(request.arg(i)).is_some()) {
        return call.reply_integer(0);
    }
    put_pairs(call)?;
    call.reply_integer(1)
}

fn check_pairs(call: &Call<'_>) -> Outcome {
    if call.len() % 2 == 1 { Ok(()) } else { Err(Refusal::arity(call.name)) }
}

fn put_pairs(call: &mut Call<'_>) -> Outcome {
    check_pairs(call)?;
    let request = call.request;
    let pairs = || (1..request.len()).step_by(2).map(|i| (request.arg(i), request.arg(i + 1)));
    // All or nothing: what fits together finds room, for a request does not evict its own keys.
    let bytes = pairs().fold(0usize, |sum, (k, v)| sum.saturating_add(store::cost(k, v.len())));
    if bytes > call.store().bytes_max() {
        return Err(Refusal::from(store::Full));
    }
    pairs().try_for_each(|(key, value)| call.put_new(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions count from either end, and what lies outside is left out.
    #[test]
    fn a_table_of_parts() {
        for (start, end, expected) in [
            (0, 3, "This"),
            (-3, -1, "ing"),
            (0, -1, "This is a string"),
            (10, 100, "string"),
            (-1, -5, ""),
            (5, 2, ""),
            (i64::MIN, i64::MAX, "This is a string"),
            (i64::MIN, i64::MIN, "T"),
            (16, 20, ""),
        ] {
            assert_eq!(part(b"This is a string", start, end), expected.as_bytes(), "{start} {end}");
        }
        assert_eq!(part(b"", 0, -1), b"");
    }
}

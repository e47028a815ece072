//! Counters: the `INCR` family.

use crate::protocol::resp::{frame, write};

use super::{
    super::extended::{Extended, NotFinite},
    Call, Outcome, Refusal,
};

pub(super) fn incr(call: &mut Call<'_>) -> Outcome {
    add(call, 1)
}

pub(super) fn decr(call: &mut Call<'_>) -> Outcome {
    add(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_>) -> Outcome {
    let n = call.integer(2)?;
    add(call, n)
}

pub(super) fn decrby(call: &mut Call<'_>) -> Outcome {
    let n = call.integer(2)?.checked_neg();
    add(call, n.ok_or(Refusal::text("ERR decrement would overflow"))?)
}

fn add(call: &mut Call<'_>, n: i64) -> Outcome {
    let key = call.arg(1);
    let old = match call.value(key) {
        Some(value) => frame::number(value).ok_or(Refusal::NOT_INTEGER)?,
        None => 0,
    };
    let new = old.checked_add(n).ok_or(Refusal::text("ERR increment or decrement would overflow"))?;
    call.put(key, new.to_string().as_bytes())?;
    call.reply_integer(new)
}

pub(super) fn incrbyfloat(call: &mut Call<'_>) -> Outcome {
    let (key, by) = (call.arg(1), call.arg(2));
    let old = Extended::parse(call.value(key).unwrap_or(b"0"));
    // A text that is no number is told before one that is too large.
    let sum = match (old, Extended::parse(by)) {
        (Err(NotFinite::Malformed), _) | (_, Err(NotFinite::Malformed)) => Err(NotFinite::Malformed),
        (old, by) => old.and_then(|old| old.plus(by?)),
    };
    let text = sum.map_err(|error| match error {
        NotFinite::Malformed => Refusal::text("ERR value is not a valid float"),
        NotFinite::TooLarge => Refusal::text("ERR increment would produce NaN or Infinity"),
    })?;
    let text = text.text();
    call.put(key, text.as_bytes())?;
    write::bulk(call.out, text.as_bytes());
    Ok(())
}

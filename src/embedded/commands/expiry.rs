//! When keys expire: the `EXPIRE` and the `TTL` family.

use super::{Call, Outcome, Refusal};

/// In which unit a command counts, in milliseconds.
#[derive(Clone, Copy)]
enum Unit {
    Seconds,
    Milliseconds,
}

pub(super) fn expire(call: &mut Call<'_>) -> Outcome {
    let begin = call.now_ms;
    expire_from(call, begin, Unit::Seconds)
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Outcome {
    let begin = call.now_ms;
    expire_from(call, begin, Unit::Milliseconds)
}

pub(super) fn expireat(call: &mut Call<'_>) -> Outcome {
    expire_from(call, 0, Unit::Seconds)
}

pub(super) fn pexpireat(call: &mut Call<'_>) -> Outcome {
    expire_from(call, 0, Unit::Milliseconds)
}

/// Which of the conditions of `EXPIRE` were given.
#[derive(Clone, Copy, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn read(call: &Call<'_>) -> Result<Conditions, Refusal> {
        let mut given = Conditions::default();
        for i in 3..call.len() {
            match call.word(i).as_slice() {
                b"NX" => given.nx = true,
                b"XX" => given.xx = true,
                b"GT" => given.gt = true,
                b"LT" => given.lt = true,
                _ => {
                    let text = [b"ERR Unsupported option ", super::c_text(call.arg(i))].concat();
                    return Err(Refusal(text.into()));
                }
            }
        }
        if given.nx && (given.xx || given.gt || given.lt) {
            return Err(Refusal::text("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if given.gt && given.lt {
            return Err(Refusal::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(given)
    }

    /// Whether the expiry may be changed. A key without one lives longer than any other.
    fn allow(self, old: Option<i64>, new: i64) -> bool {
        let longer = old.is_some_and(|old| new > old);
        let shorter = old.is_none_or(|old| new < old);
        (!self.nx || old.is_none())
            && (!self.xx || old.is_some())
            && (!self.gt || longer)
            && (!self.lt || shorter)
    }
}

fn expire_from(call: &mut Call<'_>, begin_ms: i64, unit: Unit) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    let conditions = Conditions::read(call)?;
    let number = call.integer(2)?;
    let in_ms = match unit {
        Unit::Seconds => number.checked_mul(1000),
        Unit::Milliseconds => Some(number),
    };
    let at = in_ms.and_then(|ms| ms.checked_add(begin_ms));
    let at = at.ok_or_else(|| Refusal::expire_time(call.name))?;
    let Some(entry) = call.store().entry(key, now_ms) else {
        return call.reply_integer(0);
    };
    if !conditions.allow(entry.expires_at(), at) {
        return call.reply_integer(0);
    }
    if at <= now_ms {
        call.store().remove(key, now_ms);
    } else {
        call.store().expire(key, Some(at));
    }
    call.reply_integer(1)
}

pub(super) fn persist(call: &mut Call<'_>) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    let expires = call.store().entry(key, now_ms).is_some_and(|e| e.expires_at().is_some());
    call.store().expire(key, None);
    call.reply_integer(i64::from(expires))
}

pub(super) fn ttl(call: &mut Call<'_>) -> Outcome {
    let begin = call.now_ms;
    reply_time(call, begin, Unit::Seconds)
}

pub(super) fn pttl(call: &mut Call<'_>) -> Outcome {
    let begin = call.now_ms;
    reply_time(call, begin, Unit::Milliseconds)
}

pub(super) fn expiretime(call: &mut Call<'_>) -> Outcome {
    reply_time(call, 0, Unit::Seconds)
}

pub(super) fn pexpiretime(call: &mut Call<'_>) -> Outcome {
    reply_time(call, 0, Unit::Milliseconds)
}

/// The time of expiry counted from a beginning; -1 for never, -2 for no such key.
fn reply_time(call: &mut Call<'_>, begin_ms: i64, unit: Unit) -> Outcome {
    let (key, now_ms) = (call.arg(1), call.now_ms);
    let Some(entry) = call.store().entry(key, now_ms) else {
        return call.reply_integer(-2);
    };
    let Some(at) = entry.expires_at() else {
        return call.reply_integer(-1);
    };
    let left = (at - begin_ms).max(0);
    call.reply_integer(match unit {
        // Rounded, as Redis does it.
        Unit::Seconds => left.saturating_add(500) / 1000,
        Unit::Milliseconds => left,
    })
}

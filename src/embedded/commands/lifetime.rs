//! The options of `SET` and `GETEX`: conditions, and until when the value lives.

use super::{Call, Refusal};

/// When `SET` does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Condition {
    /// Never.
    #[default]
    Always,
    /// `NX`: unless the key is absent.
    Absent,
    /// `XX`: unless it is there.
    Present,
}

/// What is said about the expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Nothing.
    #[default]
    Unsaid,
    /// `KEEPTTL`.
    Keep,
    /// `PERSIST`.
    Persist,
    /// `EX`: in so many seconds.
    Ex,
    /// `PX`: in so many milliseconds.
    Px,
    /// `EXAT`: at this Unix time in seconds.
    ExAt,
    /// `PXAT`: at this Unix time in milliseconds.
    PxAt,
}

/// Which command the options belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// `SET`.
    Set,
    /// `GETEX`.
    GetEx,
}

/// The options of one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    pub(super) condition: Condition,
    pub(super) lifetime: Lifetime,
    /// Where the lifetime's number stands.
    pub(super) number_at: usize,
    /// `GET`: reply with the old value.
    pub(super) wants_old: bool,
}

impl Options {
    /// Reads the options that begin at this argument.
    pub(super) fn read(call: &Call<'_>, from: usize, of: Of) -> Result<Options, Refusal> {
        let mut options = Options::default();
        let mut i = from;
        while i < call.len() {
            let more = i + 1 < call.len();
            let lifetime = match call.word(i).as_slice() {
                b"NX" if of == Of::Set && options.condition != Condition::Present => {
                    options.condition = Condition::Absent;
                    Lifetime::Unsaid
                }
                b"XX" if of == Of::Set && options.condition != Condition::Absent => {
                    options.condition = Condition::Present;
                    Lifetime::Unsaid
                }
                b"GET" if of == Of::Set => {
                    options.wants_old = true;
                    Lifetime::Unsaid
                }
                b"KEEPTTL" if of == Of::Set => Lifetime::Keep,
                b"PERSIST" if of == Of::GetEx => Lifetime::Persist,
                b"EX" if more => Lifetime::Ex,
                b"PX" if more => Lifetime::Px,
                b"EXAT" if more => Lifetime::ExAt,
                b"PXAT" if more => Lifetime::PxAt,
                _ => return Err(Refusal::SYNTAX),
            };
            if lifetime != Lifetime::Unsaid {
                // The same word again is allowed, and the last one counts.
                if options.lifetime != Lifetime::Unsaid && options.lifetime != lifetime {
                    return Err(Refusal::SYNTAX);
                }
                options.lifetime = lifetime;
                if !matches!(lifetime, Lifetime::Keep | Lifetime::Persist) {
                    i += 1;
                    options.number_at = i;
                }
            }
            i += 1;
        }
        Ok(options)
    }

    /// The Unix time in milliseconds at which the value shall expire, if a number was given.
    pub(super) fn deadline(&self, call: &Call<'_>) -> Result<Option<i64>, Refusal> {
        match self.lifetime {
            Lifetime::Unsaid | Lifetime::Keep | Lifetime::Persist => Ok(None),
            said => deadline(call, said, self.number_at).map(Some),
        }
    }
}

/// The deadline that the number at this argument means.
pub(super) fn deadline(call: &Call<'_>, lifetime: Lifetime, at: usize) -> Result<i64, Refusal> {
    let number = call.integer(at)?;
    let in_ms = match lifetime {
        Lifetime::Ex | Lifetime::ExAt => number.checked_mul(1000),
        _ => Some(number),
    };
    let begin = if matches!(lifetime, Lifetime::Ex | Lifetime::Px) { call.now_ms } else { 0 };
    in_ms
        .filter(|ms| *ms > 0)
        .and_then(|ms| ms.checked_add(begin))
        .ok_or_else(|| Refusal::expire_time(call.name))
}

//! What memcached does with items: the operations that its text and its meta commands spell in two ways.

use crate::{
    embedded::{session::Node, store::Full},
    protocol::memcache::number,
};

/// What memcached keeps of an item beside key, value and expiry.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::embedded) struct Memo {
    pub(super) flags: u32,
    pub(super) cas: u64,
    /// When it was last asked for, Unix time in milliseconds.
    pub(super) used_ms: i64,
    /// Somebody asked for it.
    pub(super) is_fetched: bool,
    /// It was invalidated, and is still shown.
    pub(super) is_stale: bool,
    /// Somebody was told to fetch it anew.
    pub(super) is_claimed: bool,
    /// Its key was spelled in base64.
    pub(super) is_binary: bool,
}

/// What a node keeps for memcached beside its items.
#[derive(Debug, Default)]
pub(in crate::embedded) struct State {
    /// The last id of a value.
    cas: u64,
    /// When all items go, Unix time in milliseconds.
    flush_at_ms: Option<i64>,
}

/// memcached's own bound of an item, with key and header.
pub(super) const ITEM_BYTES_MAX: usize = 1 << 20;

/// memcached's header of an item: its struct, the cas id, the NUL behind the key and the line's end
/// behind the value.
const HEADER_BYTES: usize = 48 + 8 + 1 + 2;

/// Expiration times above this many seconds are Unix times.
const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;

/// What an item takes in memcached.
pub(super) fn item_bytes(key: &[u8], flags: u32, value_bytes: usize) -> usize {
    let flags_bytes = if flags == 0 { 0 } else { 4 };
    HEADER_BYTES + key.len() + flags_bytes + value_bytes
}

/// An expiration time as clients give it: 0 for never, seconds from now, above 30 days a Unix time, and
/// below 0 the past. The store's expiry, which is the last millisecond of the item.
pub(super) fn expiry(seconds: i64, now_ms: i64) -> Option<i64> {
    // memcached keeps it in 32 bits.
    let first_without = match i64::from(seconds as i32) {
        0 => return None,
        ..0 => 0,
        seconds @ 1..=RELATIVE_MAX => now_ms + seconds * 1000,
        seconds => seconds * 1000,
    };
    Some(first_without - 1)
}

/// The same for a word that was found to be a number.
pub(super) fn expiry_of(word: &[u8], now_ms: i64) -> Option<i64> {
    expiry(number::signed(word).unwrap_or_default(), now_ms)
}

/// Seconds until an expiry, a begun one counted whole: an item shows the time that it was just given.
pub(super) fn seconds_left(expires_at: i64, now_ms: i64) -> i64 {
    (expires_at + 1 - now_ms + 999).div_euclid(1000).max(0)
}

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// Only in place of the value with this id.
    Cas,
}

/// A value to be stored.
#[derive(Debug, Default)]
pub(super) struct New<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) flags: u32,
    pub(super) expires_at: Option<i64>,
    /// The id that the old value must have; 0 for any.
    pub(super) cas: u64,
    /// An older id will do, and the value is stale then.
    pub(super) may_be_stale: bool,
    pub(super) is_binary: bool,
}

/// What came of storing a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    Yes,
    No,
    /// There is another value.
    Exists,
    /// There is none, and one is needed.
    NotFound,
}

/// Why a value can't be stored, whatever is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    TooLarge,
    NoMemory,
}

impl From<Full> for Unfit {
    fn from(Full: Full) -> Unfit {
        Unfit::NoMemory
    }
}

impl Unfit {
    /// What is said of it.
    pub(super) fn line(self) -> &'static [u8] {
        match self {
            Unfit::TooLarge => b"SERVER_ERROR object too large for cache\r\n",
            Unfit::NoMemory => b"SERVER_ERROR out of memory storing object\r\n",
        }
    }
}

/// Why a counter did not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uncounted {
    NotFound,
    NotNumeric,
    /// It has another id.
    Exists,
    NoMemory,
}

/// How far a counter goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delta {
    pub(super) is_up: bool,
    pub(super) by: u64,
    /// The id that the counter must have; 0 for any.
    pub(super) cas: u64,
}

/// The items of a node, at a time.
pub(super) struct Items<'a> {
    pub(super) node: &'a mut Node,
    pub(super) now_ms: i64,
}

impl Items<'_> {
    /// What is kept of an item, if it is there.
    pub(super) fn memo(&mut self, key: &[u8]) -> Option<Memo> {
        self.node.store.entry(key, self.now_ms).map(|entry| entry.memo)
    }

    /// Notes that somebody asked for an item.
    pub(super) fn fetched(&mut self, key: &[u8]) {
        if let Some(memo) = self.node.store.memo(key) {
            (memo.is_fetched, memo.used_ms) = (true, self.now_ms);
        }
    }

    /// Removes an item; says whether it was there.
    pub(super) fn remove(&mut self, key: &[u8]) -> bool {
        self.node.store.remove(key, self.now_ms)
    }

    /// Gives an item another expiry; says whether it is there.
    pub(super) fn touch(&mut self, key: &[u8], expires_at: Option<i64>) -> bool {
        let is_there = self.memo(key).is_some();
        if is_there {
            self.fetched(key);
            self.node.store.expire(key, expires_at);
        }
        is_there
    }

    /// Stores a value as `mode` has it.
    pub(super) fn store(&mut self, mode: Mode, new: &New<'_>) -> Result<Stored, Unfit> {
        if item_bytes(new.key, new.flags, new.value.len()) > ITEM_BYTES_MAX {
            return Err(Unfit::TooLarge);
        }
        let there = self.node.store.entry(new.key, self.now_ms).map(|e| (e.memo, e.expires_at()));
        let Some((old, expires_at)) = there else {
            return match mode {
                Mode::Set | Mode::Add => self.put(new, Memo::default()),
                Mode::Cas => Ok(Stored::NotFound),
                Mode::Replace | Mode::Append | Mode::Prepend => Ok(Stored::No),
            };
        };
        let is_same = new.cas != 0 && new.cas == old.cas;
        match mode {
            Mode::Add => Ok(Stored::No),
            Mode::Cas if new.may_be_stale && 0 < new.cas && new.cas < old.cas => {
                let marks = Memo { is_stale: true, is_claimed: old.is_claimed, ..Memo::default() };
                self.put(&New { expires_at, ..*new }, marks)
            }
            Mode::Cas if !is_same => Ok(Stored::Exists),
            Mode::Append | Mode::Prepend if new.cas != 0 && !is_same => Ok(Stored::Exists),
            Mode::Append => Ok(self.join(new, true)),
            Mode::Prepend => Ok(self.join(new, false)),
            Mode::Set | Mode::Replace | Mode::Cas => self.put(new, Memo::default()),
        }
    }

    /// Stores a value in place of any that was there.
    fn put(&mut self, new: &New<'_>, marks: Memo) -> Result<Stored, Unfit> {
        self.node.store.resize(new.key, new.value.len(), self.now_ms)?.copy_from_slice(new.value);
        self.node.store.expire(new.key, new.expires_at);
        self.renew(new.key, Memo { flags: new.flags, is_binary: new.is_binary, ..marks });
        Ok(Stored::Yes)
    }

    /// Puts more behind a value, or in front of it. Flags and expiry stay; what no longer fits is not
    /// stored.
    fn join(&mut self, new: &New<'_>, is_behind: bool) -> Stored {
        let (key, more) = (new.key, new.value);
        let Some(entry) = self.node.store.entry(key, self.now_ms) else { return Stored::No };
        let (had, flags) = (entry.value().len(), entry.memo.flags);
        if item_bytes(key, flags, had + more.len()) > ITEM_BYTES_MAX {
            return Stored::No;
        }
        let Ok(value) = self.node.store.resize(key, had + more.len(), self.now_ms) else { return Stored::No };
        if is_behind {
            value[had..].copy_from_slice(more);
        } else {
            value.copy_within(..had, more.len());
            value[..more.len()].copy_from_slice(more);
        }
        self.renew(key, Memo { flags, ..Memo::default() });
        Stored::Yes
    }

    /// Makes an item anew, with an id that no other had.
    fn renew(&mut self, key: &[u8], marks: Memo) {
        let cas = self.next_cas();
        if let Some(memo) = self.node.store.memo(key) {
            *memo = Memo { cas, used_ms: self.now_ms, ..marks };
        }
    }

    /// Adds to a number, or subtracts from it as far as 0. One that becomes shorter keeps its length: it
    /// is filled up with blanks.
    pub(super) fn count(&mut self, key: &[u8], delta: Delta) -> Result<u64, Uncounted> {
        let entry = self.node.store.entry(key, self.now_ms).ok_or(Uncounted::NotFound)?;
        let (memo, text) = (entry.memo, entry.value());
        if text.is_empty() {
            return Err(Uncounted::NotNumeric);
        }
        if delta.cas != 0 && delta.cas != memo.cas {
            return Err(Uncounted::Exists);
        }
        let number = number::unsigned(text).ok_or(Uncounted::NotNumeric)?;
        let number =
            if delta.is_up { number.wrapping_add(delta.by) } else { number.saturating_sub(delta.by) };
        let digits = number.to_string();
        let had = text.len();
        let len = digits.len().max(had);
        let value = self.node.store.resize(key, len, self.now_ms).map_err(|Full| Uncounted::NoMemory)?;
        value.fill(b' ');
        value[..digits.len()].copy_from_slice(digits.as_bytes());
        // A longer one is a new item there, which nobody has asked for.
        self.renew(key, if len > had { Memo { flags: memo.flags, ..Memo::default() } } else { memo });
        Ok(number)
    }

    /// Shows an item as invalid from now on, until somebody stores it anew.
    pub(super) fn invalidate(&mut self, key: &[u8]) {
        let cas = self.next_cas();
        if let Some(memo) = self.node.store.memo(key) {
            (memo.is_stale, memo.is_claimed, memo.cas) = (true, false, cas);
        }
    }

    /// `flush_all`: all items go, now or later; the last word counts. What goes at once takes an id, as
    /// in memcached, where the ids below it are gone.
    pub(super) fn flush(&mut self, seconds: i64) {
        self.node.memcache.flush_at_ms = None;
        // There it is the last second of the items that is kept.
        let last_ms = expiry(seconds, self.now_ms).map_or(0, |at| at + 1 - 1000);
        let is_past = seconds > RELATIVE_MAX && last_ms < self.node.started_ms;
        if last_ms > self.now_ms {
            self.node.memcache.flush_at_ms = Some(last_ms);
            return;
        }
        self.next_cas();
        // A time before its start is none for memcached.
        if !is_past {
            self.node.store.clear();
        }
    }

    /// Does what a `flush_all` has put off until now.
    pub(super) fn flush_if_due(&mut self) {
        if self.node.memcache.flush_at_ms.is_some_and(|at| at <= self.now_ms) {
            self.node.memcache.flush_at_ms = None;
            self.node.store.clear();
        }
    }

    fn next_cas(&mut self) -> u64 {
        self.node.memcache.cas += 1;
        self.node.memcache.cas
    }
}

//! Keys and values in memory, with expiry and a cap. Pure: it never asks for the time.
//!
//! The entries stand in one dense vector; a removed one is replaced by the last. `SCAN` walks it
//! downwards: a key that stays only ever moves to a lower place, so the walk meets it. Random
//! samples for eviction and the sweep for expired keys use the same vector.

use std::{collections::HashMap, sync::Arc};

use super::memcache::Memo;

/// What an entry costs beside its key and value, about.
const OVERHEAD: usize = 152;

/// How many entries are looked at to find one to evict.
const SAMPLE: usize = 5;

/// The value does not fit under the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// One key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    key: Arc<[u8]>,
    value: Vec<u8>,
    /// Unix time in milliseconds.
    expires_at: Option<i64>,
    /// The request that used it last.
    used: u64,
    /// What memcached's commands keep with it.
    pub(super) memo: Memo,
}

impl Entry {
    /// The key.
    pub(super) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value.
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    /// When it expires, Unix time in milliseconds.
    pub(super) fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// Whether it has expired.
    pub(super) fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_at.is_some_and(|at| now_ms > at)
    }
}

/// What the store has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Keys that have an expiry.
    pub(super) expires: usize,
    /// Keys that expired.
    pub(super) expired: u64,
    /// Keys that made room for others.
    pub(super) evicted: u64,
}

/// The keys of one node.
#[derive(Debug)]
pub(super) struct Store {
    entries: Vec<Entry>,
    places: HashMap<Arc<[u8]>, usize>,
    bytes: usize,
    bytes_max: usize,
    counts: Counts,
    /// The number of the request that runs.
    request: u64,
    /// Where the next sweep begins; it goes downwards too.
    sweep_from: usize,
    random: u64,
}

/// What one entry takes of the cap.
pub(super) fn cost(key: &[u8], value_bytes: usize) -> usize {
    key.len().saturating_add(value_bytes).saturating_add(OVERHEAD)
}

impl Store {
    /// An empty store with a cap; the seed is for samples.
    pub(super) fn new(bytes_max: usize, seed: u64) -> Store {
        Store {
            entries: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
            bytes_max,
            counts: Counts::default(),
            request: 0,
            sweep_from: 0,
            random: seed | 1,
        }
    }

    /// Notes that a request begins: what it uses is not evicted by itself.
    pub(super) fn begin_request(&mut self) {
        self.request += 1;
    }

    /// Keys, those included that have expired and are not swept yet.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that keys and values take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The cap in bytes.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What was counted.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// All entries that have not expired, in no order.
    pub(super) fn live(&self, now_ms: i64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| !e.is_expired(now_ms))
    }

    /// The entry of a key. An expired one is removed on the way.
    pub(super) fn entry(&mut self, key: &[u8], now_ms: i64) -> Option<&Entry> {
        let at = self.find(key, now_ms)?;
        self.entries[at].used = self.request;
        Some(&self.entries[at])
    }

    fn find(&mut self, key: &[u8], now_ms: i64) -> Option<usize> {
        let at = *self.places.get(key)?;
        if self.entries[at].is_expired(now_ms) {
            self.remove_at(at);
            self.counts.expired += 1;
            return None;
        }
        Some(at)
    }

    /// The value of a key as `len` bytes to be written: what was there stays, cut or filled up
    /// with zeros, and its expiry too. Others make room.
    ///
    /// # Errors
    /// [`Full`]: it does not fit, and nothing has changed.
    pub(super) fn resize(&mut self, key: &[u8], len: usize, now_ms: i64) -> Result<&mut [u8], Full> {
        if cost(key, len) > self.bytes_max {
            return Err(Full);
        }
        let grows = match self.find(key, now_ms) {
            Some(at) => {
                self.entries[at].used = self.request;
                len.saturating_sub(self.entries[at].value.len())
            }
            None => cost(key, len),
        };
        while self.bytes + grows > self.bytes_max {
            self.evict_one()?;
        }
        let at = match self.places.get(key) {
            Some(at) => *at,
            None => {
                let key: Arc<[u8]> = Arc::from(key);
                self.bytes += cost(&key, 0);
                self.places.insert(Arc::clone(&key), self.entries.len());
                self.entries.push(Entry {
                    key,
                    value: Vec::new(),
                    expires_at: None,
                    used: self.request,
                    memo: Memo::default(),
                });
                self.entries.len() - 1
            }
        };
        let value = &mut self.entries[at].value;
        self.bytes = self.bytes - value.len() + len;
        value.resize(len, 0);
        // Growing doubles the room; what shrank must not keep it.
        if value.capacity() > 2 * len + OVERHEAD {
            value.shrink_to_fit();
        }
        Ok(value)
    }

    /// What memcached's commands keep with a key, if it is there.
    pub(super) fn memo(&mut self, key: &[u8]) -> Option<&mut Memo> {
        let at = *self.places.get(key)?;
        Some(&mut self.entries[at].memo)
    }

    /// Gives a key that is there an expiry, or takes it away.
    pub(super) fn expire(&mut self, key: &[u8], at_ms: Option<i64>) {
        if let Some(place) = self.places.get(key) {
            let entry = &mut self.entries[*place];
            self.counts.expires -= usize::from(entry.expires_at.is_some());
            self.counts.expires += usize::from(at_ms.is_some());
            entry.expires_at = at_ms;
        }
    }

    /// Removes a key; says whether it was there.
    pub(super) fn remove(&mut self, key: &[u8], now_ms: i64) -> bool {
        let at = self.find(key, now_ms);
        at.is_some_and(|at| {
            self.remove_at(at);
            true
        })
    }

    /// Removes all keys.
    pub(super) fn clear(&mut self) {
        self.entries = Vec::new();
        self.places = HashMap::new();
        self.bytes = 0;
        self.counts.expires = 0;
    }

    /// Visits up to `count` entries from a cursor on; 0 begins. Returns the next cursor, 0 at the
    /// end. A key that is there from the first call to the last is visited.
    pub(super) fn scan(&self, cursor: usize, count: usize) -> (usize, impl Iterator<Item = &Entry>) {
        let from = if cursor == 0 { self.entries.len() } else { cursor.min(self.entries.len()) };
        let to = from.saturating_sub(count);
        (to, self.entries[to..from].iter())
    }

    /// Some key that has not expired.
    pub(super) fn random_key(&mut self, now_ms: i64) -> Option<&[u8]> {
        // Each turn but the last removes an entry.
        while !self.entries.is_empty() {
            let at = self.random_place();
            if !self.entries[at].is_expired(now_ms) {
                return Some(&self.entries[at].key);
            }
            self.remove_at(at);
            self.counts.expired += 1;
        }
        None
    }

    /// Looks at up to `visits` entries, where the last sweep stopped, and removes the expired.
    pub(super) fn sweep(&mut self, now_ms: i64, visits: usize) {
        if self.counts.expires == 0 {
            return;
        }
        for _ in 0..visits.min(self.entries.len()) {
            if self.sweep_from == 0 || self.sweep_from > self.entries.len() {
                self.sweep_from = self.entries.len();
            }
            let Some(at) = self.sweep_from.checked_sub(1) else { return };
            self.sweep_from = at;
            if self.entries[at].is_expired(now_ms) {
                self.remove_at(at);
                self.counts.expired += 1;
            }
        }
    }

    fn remove_at(&mut self, at: usize) {
        let gone = self.entries.swap_remove(at);
        self.places.remove(&gone.key);
        self.bytes -= cost(&gone.key, gone.value.len());
        self.counts.expires -= usize::from(gone.expires_at.is_some());
        if let Some(moved) = self.entries.get(at)
            && let Some(place) = self.places.get_mut(&moved.key)
        {
            *place = at;
        }
    }

    /// Removes the least recently used of a sample, never what the running request uses.
    fn evict_one(&mut self) -> Result<(), Full> {
        if self.entries.is_empty() {
            return Err(Full);
        }
        let sample: [usize; SAMPLE] = std::array::from_fn(|_| self.random_place());
        let sampled = sample.into_iter().min_by_key(|at| self.entries[*at].used);
        let is_free = |at: &usize| self.entries[*at].used != self.request;
        let victim = sampled.filter(is_free).or_else(|| (0..self.entries.len()).find(is_free));
        self.remove_at(victim.ok_or(Full)?);
        self.counts.evicted += 1;
        Ok(())
    }

    /// A place among the entries, of which there are some. The generator is Marsaglia's xorshift64.
    fn random_place(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.entries.len() as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn set(store: &mut Store, key: &[u8], value: &[u8], now_ms: i64) -> Result<(), Full> {
        store.begin_request();
        store.resize(key, value.len(), now_ms)?.copy_from_slice(value);
        Ok(())
    }

    fn holds(store: &mut Store, key: &[u8], now_ms: i64) -> bool {
        store.entry(key, now_ms).is_some()
    }

    /// A key lives up to and with its last millisecond.
    #[test]
    fn a_key_expires_after_its_time() {
        let mut store = Store::new(1 << 20, 1);
        set(&mut store, b"a", b"1", 0).expect("fits");
        store.expire(b"a", Some(10));
        assert!(holds(&mut store, b"a", 10));
        assert!(!holds(&mut store, b"a", 11));
        assert_eq!((store.len(), store.bytes(), store.counts().expired), (0, 0, 1));
    }

    /// A sweep removes expired keys that nobody asks for, and looks at no more than it may.
    #[test]
    fn the_sweep_is_bounded_and_gets_round() {
        let mut store = Store::new(1 << 20, 1);
        for i in 0..100u32 {
            let key = i.to_be_bytes();
            set(&mut store, &key, b"v", 0).expect("fits");
            store.expire(&key, (i % 2 == 0).then_some(5));
        }
        store.sweep(6, 10);
        assert!((90..=99).contains(&store.len()), "{}", store.len());
        // An entry that moves down past the sweep is met on the next round.
        for _ in 0..20 {
            store.sweep(6, 10);
        }
        assert_eq!((store.len(), store.counts().expires), (50, 0));
    }

    /// The cap holds after each write, and the keys in use are those that stay.
    #[test]
    fn the_least_recently_used_make_room() {
        let mut store = Store::new(100 * cost(b"key-0000", 10), 7);
        for i in 0..1000 {
            set(&mut store, format!("key-{i:04}").as_bytes(), &[0; 10], 0).expect("fits");
            store.begin_request();
            assert!(holds(&mut store, b"key-0000", 0), "evicted at {i} though just used");
            assert!(store.bytes() <= store.bytes_max());
        }
        assert_eq!((store.len(), store.counts().evicted), (100, 900));
    }

    /// What can never fit is refused and changes nothing.
    #[test]
    fn a_value_above_the_cap_is_refused() {
        let mut store = Store::new(1000, 1);
        set(&mut store, b"a", b"old", 0).expect("fits");
        assert_eq!(set(&mut store, b"a", &[0; 1000], 0), Err(Full));
        assert_eq!(set(&mut store, b"b", &[0; 1000], 0), Err(Full));
        assert_eq!(store.entry(b"a", 0).map(|e| e.value().to_vec()), Some(b"old".to_vec()));
    }

    /// A request never evicts what it has just written: it is refused instead.
    #[test]
    fn a_request_spares_its_own_keys() {
        let mut store = Store::new(3 * cost(b"a", 0), 1);
        set(&mut store, b"old", b"", 0).expect("fits");
        store.begin_request();
        for key in [b"a", b"b", b"c"] {
            store.resize(key, 0, 0).expect("the old key makes room");
        }
        assert_eq!(store.resize(b"d", 0, 0).err(), Some(Full));
        assert_eq!(store.len(), 3);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Set(u8, u8),
        Remove(u8),
        Expire(u8, i64),
        Sweep(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (any::<u8>(), 0..50u8).prop_map(|(k, n)| Op::Set(k, n)),
            3 => any::<u8>().prop_map(Op::Remove),
            1 => (any::<u8>(), 0..20i64).prop_map(|(k, t)| Op::Expire(k, t)),
            1 => (0..40usize).prop_map(Op::Sweep),
        ]
    }

    fn apply(store: &mut Store, op: &Op, now_ms: i64) {
        match op {
            Op::Set(k, n) => set(store, &[*k], &vec![*n; *n as usize], now_ms).expect("fits"),
            Op::Remove(k) => {
                store.remove(&[*k], now_ms);
            }
            Op::Expire(k, t) => store.expire(&[*k], Some(now_ms + t)),
            Op::Sweep(n) => store.sweep(now_ms, *n),
        }
    }

    proptest! {
        /// Whatever happens between the steps of a scan, each key that stays is returned.
        #[test]
        fn a_scan_returns_every_key_that_stays(
            stay in prop::collection::btree_set(any::<u8>(), 1..60),
            before in prop::collection::vec(op(), 0..200),
            between in prop::collection::vec(op(), 0..400),
            count in 1..20usize,
        ) {
            let mut store = Store::new(1 << 20, 3);
            for op in &before {
                apply(&mut store, op, 0);
            }
            for key in &stay {
                set(&mut store, &[*key], b"here", 0).expect("fits");
                store.expire(&[*key], None);
            }
            let touches = |op: &&Op| !matches!(op, Op::Remove(k) | Op::Expire(k, _) if stay.contains(k));
            let mut script = between.iter().filter(touches);
            let (mut cursor, mut seen, mut now_ms) = (0, BTreeSet::new(), 0);
            for step in 0.. {
                prop_assert!(step < 1000, "the scan does not end");
                let (next, found) = store.scan(cursor, count);
                let found: Vec<u8> = found.map(|e| e.key()[0]).collect();
                prop_assert!(found.len() <= count, "{} visited instead of {count}", found.len());
                seen.extend(found);
                cursor = next;
                if cursor == 0 {
                    break;
                }
                now_ms += 1;
                for op in script.by_ref().take(10) {
                    apply(&mut store, op, now_ms);
                }
            }
            prop_assert!(stay.is_subset(&seen), "{:?}", stay.difference(&seen).collect::<Vec<_>>());
        }

        /// The store holds what a plain map holds, and its sums are those of its entries.
        #[test]
        fn the_store_is_a_map(script in prop::collection::vec(op(), 0..300)) {
            let mut store = Store::new(1 << 20, 9);
            let mut map: BTreeMap<u8, (Vec<u8>, Option<i64>)> = BTreeMap::new();
            for (step, op) in script.iter().enumerate() {
                let now_ms = step as i64;
                map.retain(|_, (_, until)| until.is_none_or(|t| t >= now_ms));
                match op {
                    Op::Set(k, n) => map.entry(*k).or_default().0 = vec![*n; *n as usize],
                    Op::Remove(k) => drop(map.remove(k)),
                    // The store is told only of keys that are there.
                    Op::Expire(k, t) => match map.get_mut(k) {
                        Some(value) => value.1 = Some(now_ms + t),
                        None => continue,
                    },
                    Op::Sweep(_) => {}
                }
                apply(&mut store, op, now_ms);
                let live: BTreeMap<u8, (Vec<u8>, Option<i64>)> =
                    store.live(now_ms).map(|e| (e.key()[0], (e.value().to_vec(), e.expires_at()))).collect();
                prop_assert_eq!(&live, &map);
                let sum: usize = store.entries.iter().map(|e| cost(&e.key, e.value.len())).sum();
                prop_assert_eq!(store.bytes(), sum);
                let expires = store.entries.iter().filter(|e| e.expires_at.is_some()).count();
                prop_assert_eq!(store.counts().expires, expires);
            }
        }
    }
}

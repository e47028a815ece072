//! WHAT A NODE IS BUSY WITH: from samples, the keys and the clients with the largest parts of its requests,
//! of their bytes and of the time in which it was waited for. Pure: samples and times in, shares out.
//!
//! Space-saving (Metwally, Agrawal and El Abbadi, "Efficient computation of frequent and top-k elements in
//! data streams", 2005): so many counters, and what is new takes over the smallest. A count is too high by at
//! most that, and whoever has a larger part than one in so many is there. Counts decay, so that shares are of
//! the last seconds.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde::Serialize;
use tokio::time::Instant;

use super::slow_log::Slowest;
use crate::topology::{Sample, SampledKey, Weight};

/// Counters of one list: whatever has more than 1/32 is in it.
const COUNTERS: usize = 32;
/// After so long a count is half of what it was.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// Of each measure so many are told.
const TOLD: usize = 10;
/// Requests that are overdue within this time wait for the same one: the one that was under way first.
const STALL: Duration = Duration::from_secs(1);
/// So many stalls are remembered, for so long.
const STALLS: usize = 3;
const REMEMBERED: Duration = Duration::from_secs(600);
/// So many samples tell whether a key is rare.
const KNOWN: f64 = 10.0;
/// What is lighter, in samples, is forgotten.
const SAMPLES_MIN: f64 = 0.05;

/// A part of something, as far as samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// The part, 0.0..=1.0.
    pub share: f64,
    /// The real one is, 19 times of 20, not farther away than this.
    pub error: f64,
}

/// One key or client, and its part of what its node is asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heavy {
    /// The key, or the client's address and number. What is not text is replaced, what is long is cut.
    pub name: String,
    /// Its part of the requests.
    pub requests: Share,
    /// Of the bytes, of requests and replies.
    pub bytes: Share,
    /// Of the time in which the node was waited for.
    pub time: Share,
    /// In how many samples of that time it was met, those of earlier counted less.
    pub times: f64,
}

/// What a node is busy with.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Business {
    /// Requests per second, as estimated by samples.
    pub requests_per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// The keys with the largest parts, the largest first.
    pub keys: Vec<Heavy>,
    /// The clients with the largest parts.
    pub clients: Vec<Heavy>,
}

/// The key, or the client, that holds a node the most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holder {
    /// As [`Heavy::name`].
    pub name: String,
    /// Its part of the requests, 0.0..=1.0.
    pub requests: f64,
    /// Of the bytes.
    pub bytes: f64,
    /// Of the time in which the node was waited for.
    pub time: f64,
    /// In how many samples of that time it was met, as [`Heavy::times`].
    pub times: f64,
    /// For how much of each second the node was waited for because of it: more than 1.0 when several waited.
    pub held: f64,
    /// Its part of the requests at the pool's other nodes, on average.
    pub elsewhere: f64,
    /// The node says so itself: time is what it logged as slow.
    pub is_logged: bool,
}

/// The key that a node was asked for when it stood still.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stalls {
    /// As [`Heavy::name`].
    pub name: String,
    /// How often it was that key, of how many times.
    pub times: (usize, usize),
    /// Its part of the requests, 0.0..=1.0.
    pub requests: f64,
}

/// The measures, in the order of [`Weight`].
const MEASURES: usize = 3;

/// The lists of one node.
#[derive(Debug)]
pub(super) struct Lists {
    keys: [List<SampledKey>; MEASURES],
    clients: [List<Client>; MEASURES],
    decayed: Instant,
    /// Oldest first.
    stalls: VecDeque<Stall>,
    /// It has answered something since the last.
    answered: bool,
}

/// A time in which requests were overdue, and the one that was sent first.
#[derive(Clone, Copy, Debug)]
struct Stall {
    at: Instant,
    since: std::time::Instant,
    key: Option<SampledKey>,
}

#[derive(Clone, Copy, Debug)]
struct Client {
    id: u64,
    peer: Option<SocketAddr>,
}

/// The counters of one measure.
#[derive(Debug)]
struct List<T> {
    counters: Vec<Counter<T>>,
    /// What all samples stand for, and the sum of the squares of that.
    total: f64,
    squares: f64,
}

#[derive(Clone, Debug)]
struct Counter<T> {
    id: u64,
    what: T,
    weight: f64,
    /// By how much that may be too high.
    over: f64,
    samples: f64,
}

impl<T> Default for List<T> {
    fn default() -> List<T> {
        List { counters: Vec::new(), total: 0.0, squares: 0.0 }
    }
}

impl<T: Copy> List<T> {
    fn add(&mut self, id: u64, what: T, weight: f64) {
        self.add_other(weight);
        if let Some(counter) = self.counters.iter_mut().find(|counter| counter.id == id) {
            (counter.weight, counter.samples) = (counter.weight + weight, counter.samples + 1.0);
            return;
        }
        if self.counters.len() < COUNTERS {
            self.counters.push(Counter { id, what, weight, over: 0.0, samples: 1.0 });
            return;
        }
        let smallest = self.counters.iter_mut().min_by(|a, b| a.weight.total_cmp(&b.weight));
        if let Some(smallest) = smallest {
            let over = smallest.weight;
            *smallest = Counter { id, what, weight: over + weight, over, samples: 1.0 };
        }
    }

    /// Counts what is not looked for.
    fn add_other(&mut self, weight: f64) {
        (self.total, self.squares) = (self.total + weight, self.squares + weight * weight);
    }

    fn decay(&mut self, factor: f64) {
        (self.total, self.squares) = (self.total * factor, self.squares * factor * factor);
        for counter in &mut self.counters {
            counter.weight *= factor;
            counter.over *= factor;
            counter.samples *= factor;
        }
        self.counters.retain(|counter| counter.samples >= SAMPLES_MIN);
    }

    /// As many samples of equal weight tell as much (Kish's effective sample size).
    fn samples(&self) -> f64 {
        self.total * self.total / self.squares.max(f64::MIN_POSITIVE)
    }

    fn find(&self, id: u64) -> Option<&Counter<T>> {
        self.counters.iter().find(|counter| counter.id == id)
    }

    /// The middle of what the counter may be, and how far the truth may be from it: the counter's own error,
    /// and that of sampling.
    fn share(&self, id: u64) -> Share {
        let Some(counter) = self.find(id).filter(|_| self.total > 0.0) else { return Share::default() };
        let share = ((counter.weight - counter.over / 2.0) / self.total).clamp(0.0, 1.0);
        let samples = self.samples();
        let sampling = 1.96 * (share * (1.0 - share) / samples.max(1.0)).sqrt();
        // Where all samples agree they still are few.
        let few = 3.0 / samples.max(3.0);
        let error = counter.over / 2.0 / self.total + sampling.max(few);
        let rounded = |part: f64| (part * 1e4).round() / 1e4;
        Share { share: rounded(share), error: rounded(error.min(1.0)) }
    }
}

impl Lists {
    pub(super) fn new(now: Instant) -> Lists {
        Lists {
            keys: Default::default(),
            clients: Default::default(),
            decayed: now,
            stalls: VecDeque::new(),
            answered: false,
        }
    }

    /// Takes a sample in.
    pub(super) fn add(&mut self, now: Instant, sample: &Sample) {
        self.decay(now);
        if let Some(since) = sample.overdue {
            // It waits, and perhaps for another: that is no part of what the node did.
            self.stalls(now, since, sample.key);
            return;
        }
        self.answered = true;
        let client = Client { id: sample.client, peer: sample.peer };
        for (i, weight) in measures(&sample.weight).into_iter().enumerate().filter(|(_, w)| *w > 0.0) {
            match sample.key {
                Some(key) => self.keys[i].add(key.hash(), key, weight),
                None => self.keys[i].add_other(weight),
            }
            self.clients[i].add(client.id, client, weight);
        }
    }

    /// However long a node stands still, until it answers again it is one time.
    fn stalls(&mut self, now: Instant, since: std::time::Instant, key: Option<SampledKey>) {
        let has_answered = std::mem::take(&mut self.answered);
        match self.stalls.back_mut() {
            Some(last) if now < last.at + STALL || !has_answered => {
                if since < last.since {
                    (last.key, last.since) = (key, since);
                }
            }
            _ => {
                if self.stalls.len() == STALLS {
                    self.stalls.pop_front();
                }
                self.stalls.push_back(Stall { at: now, since, key });
            }
        }
    }

    /// The key that it was asked for most often when it stood still, if it was the same more than once.
    pub(super) fn stalled_by(&self, now: Instant) -> Option<Stalls> {
        let lately: Vec<&Stall> = self.stalls.iter().filter(|stall| now < stall.at + REMEMBERED).collect();
        let count = |key: &SampledKey| {
            lately.iter().filter(|stall| stall.key.is_some_and(|other| other.hash() == key.hash())).count()
        };
        let key = lately.iter().filter_map(|stall| stall.key).max_by_key(count)?;
        let times = (count(&key), lately.len());
        // Where little was answered nothing is known to be rare.
        let is_known = self.keys[0].samples() >= KNOWN;
        let requests = if is_known { self.keys[0].share(key.hash()).share } else { 1.0 };
        (times.0 > 1).then(|| Stalls { name: key_name(&key), times, requests })
    }

    /// Counts fade as time goes by, in steps.
    pub(super) fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.decayed);
        if passed < HALF_LIFE / 20 {
            return;
        }
        self.decayed = now;
        let factor = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.keys.iter_mut().for_each(|list| list.decay(factor));
        self.clients.iter_mut().for_each(|list| list.decay(factor));
    }

    /// Whether nothing is in them any more.
    pub(super) fn is_empty(&self) -> bool {
        self.stalls.is_empty() && self.clients.iter().all(|list| list.counters.is_empty())
    }

    /// Requests per second, as estimated.
    pub(super) fn rate(&self) -> f64 {
        per_second(self.clients[0].total)
    }

    /// The key and the client that hold it the most; the client with its number.
    pub(super) fn holders(&self) -> (Option<Holder>, Option<(u64, Holder)>) {
        (hold(&self.keys, key_name).map(|(_, key)| key), hold(&self.clients, client_name))
    }

    /// The key that the node was slow at the most, with its parts of requests and bytes as samples tell.
    pub(super) fn logged(&self, slowest: &Slowest) -> Holder {
        let [requests, bytes] = [0, 1].map(|i| self.keys[i].share(slowest.key.hash()).share);
        let Slowest { key, time, held, times } = slowest;
        let (name, time, held, times) = (key_name(key), *time, *held, *times);
        Holder { name, requests, bytes, time, times, held, elsewhere: 0.0, is_logged: true }
    }

    /// A client's part of the requests.
    pub(super) fn requests_of(&self, client: u64) -> f64 {
        self.clients[0].share(client).share
    }

    pub(super) fn business(&self) -> Business {
        Business {
            requests_per_second: self.rate().round(),
            bytes_per_second: per_second(self.clients[1].total).round(),
            keys: tell(&self.keys, key_name),
            clients: tell(&self.clients, client_name),
        }
    }
}

/// In the long run a decayed sum is what comes in within a mean life.
fn per_second(total: f64) -> f64 {
    total * std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64()
}

fn measures(weight: &Weight) -> [f64; MEASURES] {
    [weight.requests, weight.bytes, weight.held_us]
}

fn tell<T: Copy>(lists: &[List<T>; MEASURES], name: impl Fn(&T) -> String) -> Vec<Heavy> {
    let mut told: Vec<(u64, T)> = Vec::new();
    for list in lists {
        let mut counters: Vec<&Counter<T>> = list.counters.iter().collect();
        counters.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        for counter in counters.into_iter().take(TOLD) {
            if told.iter().all(|(id, _)| *id != counter.id) {
                told.push((counter.id, counter.what));
            }
        }
    }
    let heavy = |(id, what): &(u64, T)| Heavy {
        name: name(what),
        requests: lists[0].share(*id),
        bytes: lists[1].share(*id),
        time: lists[2].share(*id),
        times: lists[2].find(*id).map_or(0.0, |counter| (counter.samples * 10.0).round() / 10.0),
    };
    let mut all: Vec<Heavy> = told.iter().map(heavy).collect();
    let largest = |heavy: &Heavy| heavy.requests.share.max(heavy.bytes.share).max(heavy.time.share);
    all.sort_by(|a, b| largest(b).total_cmp(&largest(a)));
    all.truncate(TOLD);
    all
}

fn hold<T: Copy>(lists: &[List<T>; MEASURES], name: impl Fn(&T) -> String) -> Option<(u64, Holder)> {
    let by_weight = |a: &&Counter<T>, b: &&Counter<T>| a.weight.total_cmp(&b.weight);
    let first =
        |list: &List<T>| list.counters.iter().max_by(by_weight).map(|counter| (counter.id, counter.what));
    let (id, what) = first(&lists[2]).or_else(|| first(&lists[0]))?;
    let [requests, bytes, time] = [0, 1, 2].map(|i| lists[i].share(id).share);
    let (times, held_us) = lists[2].find(id).map_or((0.0, 0.0), |counter| (counter.samples, counter.weight));
    let held = per_second(held_us) / 1e6;
    Some((id, Holder { name: name(&what), requests, bytes, time, times, held, ..Holder::default() }))
}

pub(super) fn key_name(key: &SampledKey) -> String {
    let text = String::from_utf8_lossy(key.bytes());
    let cut = if key.is_cut() { "..." } else { "" };
    // It goes into terminals and logs.
    let shown = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    shown.chain(cut.chars()).collect()
}

fn client_name(client: &Client) -> String {
    match client.peer {
        Some(peer) => format!("{peer} (session {})", client.id),
        None => format!("session {}", client.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NodeId;

    fn sample(key: &str, client: u64, weight: (u32, u32, u32)) -> Sample {
        let (requests, bytes, held_us) = (weight.0.into(), weight.1.into(), weight.2.into());
        let key = Some(SampledKey::of(key.as_bytes()));
        let weight = Weight { requests, bytes, held_us };
        Sample { node: NodeId(1), client, peer: None, key, weight, overdue: None }
    }

    fn find<'a>(heavies: &'a [Heavy], name: &str) -> &'a Heavy {
        heavies.iter().find(|heavy| heavy.name == name).unwrap_or_else(|| panic!("{name}: {heavies:?}"))
    }

    /// A key with a fifth of the requests among thousands of others is told with that share, and the truth is
    /// within the error; one that is large has its share of the bytes.
    #[tokio::test(start_paused = true)]
    async fn heavy_keys_among_many() {
        let now = Instant::now();
        let mut lists = Lists::new(now);
        for i in 0..5000 {
            lists.add(now, &sample(&format!("cold:{i}"), i % 7, (128, 0, 0)));
            if i % 4 == 0 {
                lists.add(now, &sample("hot", 1000 + i, (128, 0, 0)));
            }
            if i % 100 == 0 {
                lists.add(now, &sample("large", 1, (0, 1 << 20, 900)));
                lists.add(now, &sample("small", 1, (0, 1 << 18, 100)));
            }
        }
        let business = lists.business();
        let hot = find(&business.keys, "hot");
        assert!((hot.requests.share - 0.2).abs() <= hot.requests.error, "{hot:?}");
        assert!(hot.requests.error < 0.05 && hot.bytes.share == 0.0, "{hot:?}");
        let large = find(&business.keys, "large");
        assert!(
            (large.bytes.share - 0.8).abs() <= large.bytes.error && large.bytes.error < 0.15,
            "{large:?}"
        );
        assert!((large.time.share - 0.9).abs() <= large.time.error && large.times == 50.0, "{large:?}");
        assert_eq!(business.keys[0].name, "large");
        let (key, client) = lists.holders();
        let key = key.expect("there is one");
        assert_eq!((key.name.as_str(), key.times, key.requests), ("large", 50.0, 0.0));
        assert!((key.time - 0.9).abs() < 0.01 && (key.held - 0.003).abs() < 0.001, "{key:?}");
        let (id, client) = client.expect("there is one");
        assert_eq!((id, client.time), (1, 1.0));
        assert!((lists.requests_of(1) - 0.11).abs() < 0.03, "{}", lists.requests_of(1));
        assert!(business.keys.len() <= TOLD && business.clients.len() <= TOLD);
    }

    /// Whatever has more than its part of the counters is among them, however the others come, and no count
    /// is too low: the law of space-saving.
    #[tokio::test(start_paused = true)]
    async fn nothing_heavy_is_missed() {
        let now = Instant::now();
        let mut list: List<u64> = List::default();
        let mut real = std::collections::HashMap::new();
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few are frequent, many are not.
            let key = (random >> 33) % (1 + (random >> 20) % 3000);
            *real.entry(key).or_insert(0.0) += 1.0;
            list.add(key, key, 1.0);
        }
        let least = 20_000.0 / COUNTERS as f64;
        for (key, count) in real.iter().filter(|(_, count)| **count > least) {
            assert!(list.find(*key).is_some(), "{key}: {count}");
        }
        for counter in &list.counters {
            let count = real[&counter.id];
            assert!(counter.weight >= count && counter.weight - counter.over <= count, "{counter:?}");
        }
        assert!(now.elapsed().is_zero());
    }

    /// What is not asked for any more fades, and the rate with it.
    #[tokio::test(start_paused = true)]
    async fn the_past_fades() {
        let start = Instant::now();
        let mut lists = Lists::new(start);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            (0..8).for_each(|_| lists.add(now, &sample("old", 1, (125, 1000, 0))));
        }
        let rate = lists.rate();
        assert!((900.0..1100.0).contains(&rate), "{rate}");
        for second in 60..90 {
            let now = start + Duration::from_secs(second);
            (0..8).for_each(|_| lists.add(now, &sample("new", 2, (125, 1000, 0))));
        }
        let business = lists.business();
        assert_eq!((business.keys[0].name.as_str(), business.clients[0].name.as_str()), ("new", "session 2"));
        assert!(find(&business.keys, "old").requests.share < 0.2, "{business:?}");
        lists.decay(start + Duration::from_secs(600));
        assert!(lists.is_empty() && lists.rate() < 0.1);
    }

    /// Of requests that are overdue together the one that was sent first is what holds the node; a key that
    /// did so twice is told.
    #[tokio::test(start_paused = true)]
    async fn what_holds_a_node_that_stands_still() {
        let start = Instant::now();
        let mut lists = Lists::new(start);
        let zero = std::time::Instant::now();
        let stall = |lists: &mut Lists, after_s, key, sent_ms| {
            let now = start + Duration::from_secs(after_s);
            if after_s > 30 {
                lists.add(now, &sample("other", 1, (100, 100, 0)));
            }
            let overdue = Some(zero + Duration::from_millis(1000 * after_s + sent_ms));
            lists.add(now, &Sample { overdue, ..sample(key, 1, (0, 0, 400_000)) });
            lists.stalled_by(now)
        };
        (0..10).for_each(|_| lists.add(start, &sample("other", 1, (100, 100, 0))));
        assert_eq!(stall(&mut lists, 0, "victim:1", 20), None);
        assert_eq!(stall(&mut lists, 0, "giant", 10), None);
        assert_eq!(
            stall(&mut lists, 30, "giant", 10),
            None,
            "nothing was answered since: it is the same time"
        );
        assert_eq!(stall(&mut lists, 40, "giant", 10).expect("it did twice").times, (2, 2));
        assert_eq!(stall(&mut lists, 40, "victim:2", 20).expect("it was sent later").name, "giant");
        assert_eq!(stall(&mut lists, 60, "victim:3", 20).expect("two of three").times, (2, 3));
        assert_eq!(stall(&mut lists, 90, "victim:4", 20), None, "one of three");
    }

    /// Names fit into a line, whatever is in the key.
    #[test]
    fn names_are_printable() {
        assert_eq!(key_name(&SampledKey::of(b"a\r\n\x1b\xff")), "a\u{fffd}\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(key_name(&SampledKey::of(&[b'k'; 60])), format!("{}...", "k".repeat(48)));
        let client = Client { id: 7, peer: Some(([10, 0, 0, 1], 555).into()) };
        assert_eq!(client_name(&client), "10.0.0.1:555 (session 7)");
    }
}

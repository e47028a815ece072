//! Load that knows what it wrote: every reply is held against what its key may hold. Each client
//! is a closed loop on a connection of its own, with keys that no other client writes.

use std::{
    collections::HashSet,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Client, SOON, client::text, encode, until};

/// What a load does.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Clients, each a thread with a connection.
    pub(crate) clients: usize,
    /// Keys of one client.
    pub(crate) keys: usize,
    /// Writes among a hundred requests.
    pub(crate) writes: u64,
    /// Between a reply and the next request.
    pub(crate) pause: Duration,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { clients: 50, keys: 20, writes: 10, pause: Duration::from_millis(2) }
    }
}

/// A running load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<Op>>>,
    preloaded: usize,
}

/// One request and how it ended.
pub(crate) struct Op {
    /// Its key.
    pub(crate) key: Arc<str>,
    /// SET, or GET.
    pub(crate) write: bool,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// Until its reply.
    pub(crate) took: Duration,
    /// How it ended.
    pub(crate) end: End,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `+OK`, or a value that the key may hold.
    Good,
    /// No value where one was written: its data is gone.
    Missed,
    /// No value, and since a `Missed` none was written.
    Absent,
    /// A value of this key that is older than the last one acknowledged or shown.
    Stale,
    /// Anything that was never written to this key.
    Wrong(String),
    /// An error reply, or a connection that broke.
    Failed(String),
}

/// What a load saw.
pub(crate) struct Report {
    /// All requests after the preload, client by client.
    pub(crate) ops: Vec<Op>,
    /// Requests of the preload, all of them good.
    pub(crate) preloaded: usize,
}

impl Load {
    /// Writes every key once, and goes on from there. Returns when each key is written.
    pub(crate) fn start(address: &str, plan: &Plan) -> Load {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let ready = Arc::new(Barrier::new(plan.clients + 1));
        let threads = (0..plan.clients).map(|id| {
            let (stop, done, ready) = (stop.clone(), done.clone(), ready.clone());
            let mut user = User::new(address, id, plan);
            thread::spawn(move || {
                user.preload();
                ready.wait();
                while !stop.load(Relaxed) {
                    user.step();
                    done.fetch_add(1, Relaxed);
                }
                user.ops
            })
        });
        let threads = threads.collect();
        ready.wait();
        Load { stop, done, threads, preloaded: plan.clients * plan.keys }
    }

    /// Waits until this many further requests have ended.
    pub(crate) fn run(&self, requests: usize) {
        let target = self.done.load(Relaxed) + requests;
        until(3 * SOON, "the load goes on", || self.done.load(Relaxed) >= target);
    }

    /// Ends it; every request has its reply.
    pub(crate) fn stop(self) -> Report {
        self.stop.store(true, Relaxed);
        let ops = self.threads.into_iter().flat_map(|t| t.join().expect("a client of the load panicked"));
        Report { ops: ops.collect(), preloaded: self.preloaded }
    }
}

impl Report {
    /// Requests that failed, reads or writes.
    pub(crate) fn failed(&self, write: bool) -> Vec<&Op> {
        self.ops.iter().filter(|op| op.write == write && matches!(op.end, End::Failed(_))).collect()
    }

    /// Keys of which a request ended so.
    pub(crate) fn keys(&self, end: &End) -> HashSet<&str> {
        self.ops.iter().filter(|op| op.end == *end).map(|op| &*op.key).collect()
    }

    /// The longest wait among some requests.
    pub(crate) fn slowest(&self, of: impl Fn(&Op) -> bool) -> Duration {
        self.ops.iter().filter(|op| of(op)).map(|op| op.took).max().unwrap_or_default()
    }

    /// No reply was another key's, or a value that was never written.
    pub(crate) fn assert_nothing_wrong(&self) {
        let wrong: Vec<_> = self.ops.iter().filter(|op| matches!(op.end, End::Wrong(_))).collect();
        assert!(wrong.is_empty(), "{} wrong values, the first: {}", wrong.len(), describe(wrong[0]));
    }

    /// No request failed, and nothing was wrong, missed or stale.
    pub(crate) fn assert_all_good(&self) {
        let bad: Vec<_> = self.ops.iter().filter(|op| op.end != End::Good).collect();
        assert!(bad.is_empty(), "{} of {} not good: {}", bad.len(), self.ops.len(), describe_all(&bad));
    }
}

/// One request, for messages.
pub(crate) fn describe(op: &Op) -> String {
    let verb = if op.write { "SET" } else { "GET" };
    format!("{verb} {} after {:?}: {:?}", op.key, op.took, op.end)
}

/// The first few of some requests, for messages.
pub(crate) fn describe_all(ops: &[&Op]) -> String {
    ops.iter().take(8).map(|op| describe(op)).collect::<Vec<_>>().join("; ")
}

/// The value of a key's `n`th write: no two are alike, and their sizes differ.
fn value(key: &str, n: u64) -> String {
    let padding = ["", "-short", &"-long".repeat(300)][(n % 3) as usize].to_owned();
    format!("{key}={n}{padding}")
}

struct Key {
    name: Arc<str>,
    /// The last write that was acknowledged, or that a GET has shown since.
    low: u64,
    /// The last write that was tried.
    high: u64,
    /// Whether its data is known to be gone.
    gone: bool,
}

struct User {
    address: String,
    client: Client,
    keys: Vec<Key>,
    plan: Plan,
    random: u64,
    ops: Vec<Op>,
}

impl User {
    fn new(address: &str, id: usize, plan: &Plan) -> User {
        let key = |i| Key { name: format!("u{id}-k{i}").into(), low: 0, high: 0, gone: false };
        User {
            address: address.to_owned(),
            client: Client::connect(address),
            keys: (0..plan.keys).map(key).collect(),
            plan: plan.clone(),
            random: 0x9e37_79b9_7f4a_7c15 ^ (id as u64 + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9),
            ops: Vec::new(),
        }
    }

    fn preload(&mut self) {
        for i in 0..self.keys.len() {
            self.request(i, true);
        }
        assert!(self.ops.iter().all(|op| op.end == End::Good), "preload: {}", describe(&self.ops[0]));
        self.ops.clear();
    }

    fn step(&mut self) {
        // xorshift
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let write = (self.random >> 32) % 100 < self.plan.writes;
        self.request((self.random % self.keys.len() as u64) as usize, write);
        thread::sleep(self.plan.pause);
    }

    fn request(&mut self, index: usize, write: bool) {
        let key = &mut self.keys[index];
        if write {
            key.high += 1;
        }
        let request = match write {
            true => encode(&["SET", &key.name, &value(&key.name, key.high)]),
            false => encode(&["GET", &key.name]),
        };
        let sent = Instant::now();
        let reply = self.client.send(request).and_then(|()| self.client.reply());
        let took = sent.elapsed();
        let end = match reply {
            Ok(reply) if reply.starts_with(b"-") => End::Failed(text(&reply)),
            Ok(reply) if write => key.wrote(&reply),
            Ok(reply) => key.read(&reply),
            Err(error) => {
                until(SOON, "the client connects again", || match Client::try_connect(&self.address) {
                    Ok(client) => {
                        self.client = client;
                        true
                    }
                    Err(_) => false,
                });
                End::Failed(format!("connection: {error}"))
            }
        };
        self.ops.push(Op { key: key.name.clone(), write, sent, took, end });
    }
}

impl Key {
    fn wrote(&mut self, reply: &[u8]) -> End {
        if reply != b"+OK\r\n" {
            return End::Wrong(text(reply));
        }
        (self.low, self.gone) = (self.high, false);
        End::Good
    }

    fn read(&mut self, reply: &[u8]) -> End {
        if reply == b"$-1\r\n" {
            let was_gone = std::mem::replace(&mut self.gone, true);
            return if was_gone { End::Absent } else { End::Missed };
        }
        let reply = text(reply);
        let body = reply.split_once("\r\n").map_or("", |r| r.1).trim_end_matches("\r\n");
        let number = body.strip_prefix(&*self.name).and_then(|rest| {
            let rest = rest.strip_prefix('=')?;
            rest.split('-').next()?.parse::<u64>().ok()
        });
        match number {
            Some(n) if n <= self.high && body == value(&self.name, n) => {
                let is_stale = n < self.low;
                (self.low, self.gone) = (self.low.max(n), false);
                if is_stale { End::Stale } else { End::Good }
            }
            _ => End::Wrong(reply.chars().take(120).collect()),
        }
    }
}

//! The work, as a table: each row is one load that every proxy carries in its turn.

use std::borrow::Cow;

use crate::{
    load::{Ask, Pace, Wire, Work},
    peers::Peer,
};

/// One load.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    ask: Ask,
    size: &'static Size,
    pub(crate) connections: usize,
    rhythm: Rhythm,
    /// Whether system calls are counted.
    pub(crate) counts_calls: bool,
}

/// Values of one size, and how they are written first.
pub(crate) struct Size {
    letter: u8,
    value_bytes: usize,
    keys: u64,
    /// Requests in flight on a connection while the keys are written.
    pub(crate) fill_depth: usize,
}

/// When requests are sent.
#[derive(Clone, Copy)]
enum Rhythm {
    /// In batches of so many, each when the one before has its replies.
    Batches(usize),
    /// So many a second.
    Rate(f64),
    /// Half of what twemproxy carried in the first row.
    HalfOfTwemproxy,
}

/// The same values, so few that they are quickly written one by one.
pub(crate) const FEW: Size = Size { letter: b'f', value_bytes: 64, keys: 1000, fill_depth: 1 };
pub(crate) const SMALL: Size = Size { letter: b's', value_bytes: 64, keys: 100_000, fill_depth: 64 };
pub(crate) const MEDIUM: Size = Size { letter: b'm', value_bytes: 64 << 10, keys: 1000, fill_depth: 1 };
/// Bodies of 16 KiB.
const PAGES: Size = Size { letter: b'p', value_bytes: 16 << 10, keys: 1000, fill_depth: 1 };
const LARGE: Size = Size { letter: b'l', value_bytes: 1 << 20, keys: 100, fill_depth: 1 };

const MIXED: Ask = Ask::Mixed { sets_percent: 10 };

/// The rows of a protocol.
pub(crate) fn rows(wire: Wire) -> &'static [Row] {
    match wire {
        Wire::Redis => &ROWS,
        Wire::Memcached => &MEMCACHED,
        Wire::Http => &HTTP,
    }
}

const MEMCACHED: [Row; 3] = [
    Row::new("64 B, 50 connections", MIXED, &SMALL, 50, Rhythm::Batches(1)).with_calls(),
    Row::new("64 B, 50 connections, depth 16", MIXED, &SMALL, 50, Rhythm::Batches(16)).with_calls(),
    Row::new("64 B, 8 connections, depth 128", MIXED, &SMALL, 8, Rhythm::Batches(128)).with_calls(),
];

const HTTP: [Row; 2] = [
    Row::new("GET, 64 B, 50 connections", MIXED, &FEW, 50, Rhythm::Batches(1)).with_calls(),
    Row::new("GET, 16 KiB, 50 connections", MIXED, &PAGES, 50, Rhythm::Batches(1)).with_calls(),
];

/// The rows of Redis; the first one gives twemproxy's maximum.
pub(crate) const ROWS: [Row; 9] = [
    Row::new("64 B, 50 connections", MIXED, &SMALL, 50, Rhythm::Batches(1)).with_calls(),
    Row::new("64 B, 50 connections, depth 16", MIXED, &SMALL, 50, Rhythm::Batches(16)).with_calls(),
    Row::new("64 B, 8 connections, depth 128", MIXED, &SMALL, 8, Rhythm::Batches(128)).with_calls(),
    Row::new("MGET of 10, 50 connections", Ask::Mget(10), &SMALL, 50, Rhythm::Batches(1)),
    Row::new("MSET of 10, 50 connections", Ask::Mset(10), &SMALL, 50, Rhythm::Batches(1)),
    Row::new("64 KiB, 8 connections", MIXED, &MEDIUM, 8, Rhythm::Batches(1)),
    Row::new("1 MiB, 4 connections", MIXED, &LARGE, 4, Rhythm::Batches(1)),
    Row::new("64 B, 1,000 connections, 10,000/s", MIXED, &SMALL, 1000, Rhythm::Rate(10_000.0)),
    Row::new("64 B, 50 connections, open loop", MIXED, &SMALL, 50, Rhythm::HalfOfTwemproxy),
];

/// So much for a worker, by the number of workers.
pub(crate) const AT_A_RATE: [Row; 2] = [
    Row::new("64 B, 50 connections and 20,000/s for each worker", MIXED, &SMALL, 50, Rhythm::Rate(20_000.0)),
    Row::new("64 B, 100 connections, 40,000/s", MIXED, &SMALL, 100, Rhythm::Rate(40_000.0)),
];

impl Row {
    const fn new(
        name: &'static str,
        ask: Ask,
        size: &'static Size,
        connections: usize,
        rhythm: Rhythm,
    ) -> Row {
        Row { name, ask, size, connections, rhythm, counts_calls: false }
    }

    const fn with_calls(self) -> Row {
        Row { counts_calls: true, ..self }
    }

    /// What a peer is asked.
    pub(crate) fn work(&self, peer: Peer, wire: Wire) -> Work {
        self.size.work(peer, wire).ask(self.ask)
    }

    /// Whether it needs to know half of twemproxy's maximum.
    pub(crate) fn is_relative(&self) -> bool {
        matches!(self.rhythm, Rhythm::HalfOfTwemproxy)
    }

    /// Whether its requests come at a fixed rate.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.rhythm, Rhythm::Batches(_))
    }

    pub(crate) fn pace(&self, half: f64) -> Pace {
        match self.rhythm {
            Rhythm::Batches(depth) => Pace::Closed { depth },
            Rhythm::Rate(per_second) => Pace::Open { per_second },
            Rhythm::HalfOfTwemproxy => Pace::Open { per_second: half },
        }
    }

    /// Its name, with the rate where that is only known now.
    pub(crate) fn title(&self, half: f64) -> Cow<'static, str> {
        match self.is_relative() {
            true => format!("{} at {half:.0}/s", self.name).into(),
            false => self.name.into(),
        }
    }
}

impl Size {
    /// Its keys in a peer's own space, asked for in turn to write them.
    pub(crate) fn work(&self, peer: Peer, wire: Wire) -> Work {
        // Pages are the same for everybody, and nobody writes them.
        let whose = if wire == Wire::Http { b'x' } else { peer.letter() };
        Work::new(
            [whose, self.letter, if wire == Wire::Http { b'-' } else { b':' }],
            self.keys,
            self.value_bytes,
        )
        .over(wire)
    }

    /// The sizes of some rows, each once.
    pub(crate) fn of(rows: &[&Row]) -> Vec<&'static Size> {
        let mut sizes: Vec<&'static Size> = Vec::new();
        for row in rows {
            if sizes.iter().all(|size| size.letter != row.size.letter) {
                sizes.push(row.size);
            }
        }
        sizes
    }
}

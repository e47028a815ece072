//! WHAT NODES ARE ASKED FOR, by sample. Now and then a worker notes whose reply has just come: which key,
//! which client, and what it stands for in requests, bytes and time. Control takes the notes and finds out
//! what a node is busy with. A note that finds no room is lost: shares are estimated, and nothing waits.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use xxhash_rust::xxh3::xxh3_64;

use super::NodeId;

/// Samples that may wait, for each worker.
const SAMPLES: usize = 2048;

/// Bytes of a key that are kept.
const KEPT: usize = 48;

/// A key, as far as it is kept; longer ones are told apart by their hashes.
#[derive(Clone, Copy, Debug)]
pub struct SampledKey {
    hash: u64,
    len: u32,
    kept: [u8; KEPT],
}

/// One request whose reply came, or does not come, and what it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The node.
    pub node: NodeId,
    /// The session.
    pub client: u64,
    /// Where it comes from; none behind a unix socket.
    pub peer: Option<SocketAddr>,
    /// One of its keys; none when it has none or can't be read any more.
    pub key: Option<SampledKey>,
    /// What it stands for.
    pub weight: Weight,
    /// Since when it has been under way, when its reply does not come in time.
    pub overdue: Option<Instant>,
}

/// What a sample stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weight {
    /// Requests.
    pub requests: f64,
    /// Bytes, of requests and replies.
    pub bytes: f64,
    /// Microseconds in which the node was waited for.
    pub held_us: f64,
}

/// The samples of a pool that nobody has taken yet. Clones share them; each worker has its own part.
#[derive(Clone, Debug)]
pub struct Samples(Arc<[Mutex<Vec<Sample>>]>);

impl SampledKey {
    /// A key.
    pub fn of(key: &[u8]) -> SampledKey {
        let mut kept = [0; KEPT];
        let len = key.len().min(KEPT);
        kept[..len].copy_from_slice(&key[..len]);
        SampledKey { hash: xxh3_64(key), len: u32::try_from(key.len()).unwrap_or(u32::MAX), kept }
    }

    /// Tells it from others.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Its beginning.
    pub fn bytes(&self) -> &[u8] {
        &self.kept[..KEPT.min(self.len as usize)]
    }

    /// Whether that is not all.
    pub fn is_cut(&self) -> bool {
        self.len as usize > KEPT
    }
}

impl Samples {
    /// Room for so many workers.
    pub fn new(workers: usize) -> Samples {
        Samples((0..workers).map(|_| Mutex::default()).collect())
    }

    /// Notes a sample of this worker. Never waits; memory is taken once.
    pub fn note(&self, worker: usize, sample: Sample) {
        let Some(Ok(mut samples)) = self.0.get(worker).map(|part| part.try_lock()) else { return };
        if samples.capacity() == 0 {
            samples.reserve_exact(SAMPLES);
        }
        if samples.len() < SAMPLES {
            samples.push(sample);
        }
    }

    /// Takes all that are there.
    pub fn take(&self, into: &mut Vec<Sample>) {
        for part in self.0.iter() {
            // A note is whole or not there.
            into.append(&mut part.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(key: &[u8]) -> Sample {
        let key = Some(SampledKey::of(key));
        Sample { node: NodeId(1), client: 2, peer: None, key, weight: Weight::default(), overdue: None }
    }

    /// Samples of all workers are taken once; those beyond the bound are lost.
    #[test]
    fn samples_are_taken_once() {
        let samples = Samples::new(2);
        (0..3 * SAMPLES).for_each(|_| samples.note(0, sample(b"a")));
        samples.note(1, sample(b"b"));
        samples.note(2, sample(b"nobody's"));
        let mut taken = Vec::new();
        samples.take(&mut taken);
        assert_eq!(taken.len(), SAMPLES + 1);
        samples.take(&mut taken);
        assert_eq!(taken.len(), SAMPLES + 1);
    }

    /// Of a long key the beginning is kept, and those that begin alike differ.
    #[test]
    fn long_keys_are_cut() {
        let long = [b'x'; KEPT + 1];
        let (a, b) = (SampledKey::of(&long), SampledKey::of(&[&long[..], b"y"].concat()));
        assert_eq!((a.bytes(), a.is_cut()), (&long[..KEPT], true));
        assert!(a.bytes() == b.bytes() && a.hash() != b.hash());
        let short = SampledKey::of(b"\xffk");
        assert_eq!((short.bytes(), short.is_cut()), (&b"\xffk"[..], false));
    }
}

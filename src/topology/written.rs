//! WRITES IN ANOTHER'S PLACE. While a node is away others take writes for it, and what it has of those
//! keys is old. Workers note each such write before it is sent; control remembers it until the node is
//! cleaned. Notes that find no room are counted: then nothing exact is known any more, and the node has
//! to be emptied.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use super::NodeId;

/// Notes that may wait to be remembered.
const NOTES: usize = 1 << 16;

/// A key that was written at one node while another one, before it in the key's order of preference, was
/// away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The node that was away.
    pub away: NodeId,
    /// The node that took the write; the same when the write was in flight there when the node left, or its
    /// connection broke.
    pub taken_by: NodeId,
    /// The key.
    pub key: Box<[u8]>,
}

/// The end that workers have. Clones share it.
#[derive(Clone, Debug)]
pub struct WriteNotes {
    sender: mpsc::Sender<Written>,
    missed: Arc<AtomicU64>,
}

/// The end that control has.
#[derive(Debug)]
pub struct NotedWrites {
    receiver: mpsc::Receiver<Written>,
    missed: Arc<AtomicU64>,
}

/// Makes the two ends for one pool.
pub fn write_notes() -> (WriteNotes, NotedWrites) {
    let (sender, receiver) = mpsc::channel(NOTES);
    let missed = Arc::default();
    (WriteNotes { sender, missed: Arc::clone(&missed) }, NotedWrites { receiver, missed })
}

impl WriteNotes {
    /// Notes a write. Never waits.
    pub fn note(&self, written: Written) {
        if self.sender.try_send(written).is_err() {
            self.miss();
        }
    }

    /// A write could not be noted.
    pub fn miss(&self) {
        self.missed.fetch_add(1, Relaxed);
    }
}

impl NotedWrites {
    /// Waits for notes; those that are there go into `into`. Cancel-safe. Gives 0 when none will come.
    pub async fn next(&mut self, into: &mut Vec<Written>) -> usize {
        self.receiver.recv_many(into, 1024).await
    }

    /// A note that is there already.
    pub fn here(&mut self) -> Option<Written> {
        self.receiver.try_recv().ok()
    }

    /// How many notes found no room so far.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}

//! What ringway knows of itself when a client asks, in whatever protocol.

use std::time::Duration;

/// What ringway knows of itself when it is asked.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// The pool's name.
    pub pool: String,
    /// The port that clients reached, 0 for a Unix socket.
    pub port: u16,
    /// Tells one start of the process from the next.
    pub run_id: String,
    /// Since the process started.
    pub uptime: Duration,
    /// Sessions that are open.
    pub sessions: u64,
    /// Sessions that may be open at once.
    pub sessions_max: u64,
    /// Sessions accepted so far.
    pub accepted: u64,
    /// Requests so far, refused ones included.
    pub requests: u64,
    /// Requests refused so far.
    pub refusals: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes written to clients.
    pub bytes_out: u64,
    /// The topology's epoch.
    pub epoch: u64,
    /// The pool's nodes.
    pub nodes: Vec<NodeNumbers>,
}

/// What is said of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeNumbers {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// Its state, as one word.
    pub state: &'static str,
    /// The part of the key space that it owns, from 0 to 1.
    pub share: f64,
}

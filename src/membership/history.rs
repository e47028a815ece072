//! What became of a pool, epoch by epoch: who had which keys, and why that changed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::topology::{Cause, Data, Route, Topology};

/// Lines that are kept.
const LINES: usize = 1000;
/// Nodes of all the topologies that are kept, together: some megabytes.
const NODES: usize = 100_000;

/// One line of the history.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Record {
    /// The pool.
    pub pool: Arc<str>,
    /// The epoch that began.
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// `ejected`, `held`, `released`, `stays`, `starts`, `admits`, `restored`, `readmitted`, `ordered`,
    /// `gutter` or `reloaded`.
    pub what: &'static str,
    /// Which node, unless it is about the whole pool.
    pub node: Option<Arc<str>>,
    /// Why, as a label.
    pub cause: Option<Cause>,
    /// Why, as a sentence.
    pub evidence: Arc<str>,
    /// What the node came back with.
    pub data: Option<Data>,
    /// The share of the key space that moved in this epoch.
    pub moved: f64,
}

/// Where a key lived for some epochs.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Lived {
    /// The first of them.
    pub epoch: u64,
    /// When that began, in milliseconds since 1970; none for what was before the first change that is
    /// remembered.
    pub since_ms: Option<u64>,
    /// Its node.
    pub node: Option<Arc<str>>,
    /// What became of its requests: `served`, `cleaned`, `refused`, `missed` or `nobody`.
    pub requests: &'static str,
    /// Why it came there.
    pub why: Arc<str>,
}

/// The last changes of ownership, oldest first. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    lines: VecDeque<Arc<Record>>,
    pasts: VecDeque<Past>,
    /// Nodes of all of them.
    nodes: usize,
}

/// A topology that was in force.
#[derive(Debug)]
struct Past {
    topology: Arc<Topology>,
    since_ms: Option<u64>,
    why: Arc<str>,
}

impl History {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered, oldest first.
    pub fn all(&self) -> Vec<Arc<Record>> {
        self.book().lines.iter().cloned().collect()
    }

    /// An epoch began at this time, for these reasons.
    pub(super) fn push(
        &self,
        (before, after): (&Arc<Topology>, &Arc<Topology>),
        unix_ms: u64,
        records: Vec<Record>,
    ) {
        let told = |r: &Record| match &r.node {
            Some(node) => format!("node {node} {}: {}", r.what, r.evidence),
            None => format!("{}: {}", r.what, r.evidence),
        };
        let why = records.iter().map(told).collect::<Vec<_>>().join("; ").into();
        let mut book = self.book();
        if !book.pasts.iter().any(|past| past.topology.pool == after.pool) {
            let (topology, why) = (before.clone(), "as it was before".into());
            book.keep(Past { topology, since_ms: None, why });
        }
        book.keep(Past { topology: after.clone(), since_ms: Some(unix_ms), why });
        book.lines.extend(records.into_iter().map(Arc::new));
        while book.lines.len() > LINES {
            book.lines.pop_front();
        }
    }

    /// Where a key lived, oldest first; epochs that changed nothing about it are not told apart.
    pub fn of_key(&self, now: &Topology, key: &[u8]) -> Vec<Lived> {
        let book = self.book();
        let mut lived: Vec<Lived> = Vec::new();
        for past in book.pasts.iter().filter(|past| past.topology.pool == now.pool) {
            let (node, requests) = place(&past.topology, key);
            if lived.last().is_some_and(|last| last.node == node && last.requests == requests) {
                continue;
            }
            let (epoch, since_ms, why) = (past.topology.epoch, past.since_ms, past.why.clone());
            lived.push(Lived { epoch, since_ms, node, requests, why });
        }
        if lived.is_empty() {
            let (node, requests) = place(now, key);
            let why = "nothing has changed since the start".into();
            lived.push(Lived { epoch: now.epoch, since_ms: None, node, requests, why });
        }
        lived
    }
}

impl Book {
    fn keep(&mut self, past: Past) {
        self.nodes += past.topology.nodes.len();
        self.pasts.push_back(past);
        while self.pasts.len() > LINES || self.nodes > NODES && self.pasts.len() > 2 {
            let Some(past) = self.pasts.pop_front() else { return };
            self.nodes -= past.topology.nodes.len();
        }
    }
}

fn place(topology: &Topology, key: &[u8]) -> (Option<Arc<str>>, &'static str) {
    let (at, requests) = match topology.route(topology.ring.hash(key), key) {
        Route::Send(at) => (at, "served"),
        Route::Wait(at) => (at, "cleaned"),
        Route::Fail(at) => (at, "refused"),
        Route::Miss(at) => (at, "missed"),
        Route::NoOwner => return (None, "nobody"),
    };
    let name = &topology.entry(at).node.name;
    match topology.gutter.as_ref().filter(|_| topology.is_gutter(at)) {
        Some(gutter) => (Some(format!("{}/{name}", gutter.pool).into()), requests),
        None => (Some(name.clone()), requests),
    }
}

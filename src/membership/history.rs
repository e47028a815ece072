//! What became of a pool, epoch by epoch: who had which keys, and why that changed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::topology::{Cause, Data, Route, Topology, Transition};

/// Lines, and topologies, that are kept of one pool.
const LINES: usize = 1000;
/// Nodes of all the topologies that are kept of one pool, together: some megabytes.
const NODES: usize = 100_000;
/// The same of all pools: beyond it the pool with the most forgets.
const NODES_OF_ALL: usize = 1_000_000;

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
    /// By pool: one that flaps makes no other forget.
    pools: HashMap<Arc<str>, Past>,
    /// Nodes of all of them.
    nodes: usize,
}

/// What was of one pool.
#[derive(Debug, Default)]
struct Past {
    lines: VecDeque<Arc<Record>>,
    topologies: VecDeque<Was>,
    /// Nodes of all of them.
    nodes: usize,
    /// There was more before.
    is_cut: bool,
}

/// A topology that was in force.
#[derive(Debug)]
struct Was {
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
        let mut all: Vec<Arc<Record>> =
            self.book().pools.values().flat_map(|past| past.lines.iter().cloned()).collect();
        all.sort_by_key(|record| record.unix_ms);
        all
    }

    /// An epoch began at this time, for these reasons.
    pub(super) fn push(
        &self,
        Transition { before, after }: Transition<&Arc<Topology>>,
        unix_ms: u64,
        records: Vec<Record>,
    ) {
        let told = |r: &Record| match &r.node {
            Some(node) => format!("node {node} {}: {}", r.what, r.evidence),
            None => format!("{}: {}", r.what, r.evidence),
        };
        let why = records.iter().map(told).collect::<Vec<_>>().join("; ").into();
        let book = &mut *self.book();
        let past = book.pools.entry(after.pool.clone()).or_default();
        let held = past.nodes;
        if past.topologies.is_empty() {
            let (topology, why) = (before.clone(), "as it was before".into());
            past.keep(Was { topology, since_ms: None, why });
        }
        past.keep(Was { topology: after.clone(), since_ms: Some(unix_ms), why });
        past.lines.extend(records.into_iter().map(Arc::new));
        while past.lines.len() > LINES {
            past.lines.pop_front();
        }
        book.nodes = book.nodes + past.nodes - held;
        book.bound(NODES_OF_ALL);
    }

    /// Forgets a pool.
    pub(super) fn forget(&self, pool: &str) {
        let book = &mut *self.book();
        if let Some(past) = book.pools.remove(pool) {
            book.nodes -= past.nodes;
        }
    }

    /// Where a key lived, oldest first; epochs that changed nothing about it are not told apart.
    pub fn of_key(&self, now: &Topology, key: &[u8]) -> Vec<Lived> {
        let book = self.book();
        let mut lived: Vec<Lived> = Vec::new();
        let past = book.pools.get(&now.pool);
        for was in past.iter().flat_map(|past| past.topologies.iter()) {
            let (node, requests) = place(&was.topology, key);
            if lived.last().is_some_and(|last| last.node == node && last.requests == requests) {
                continue;
            }
            let (epoch, since_ms, why) = (was.topology.epoch, was.since_ms, was.why.clone());
            lived.push(Lived { epoch, since_ms, node, requests, why });
        }
        if let Some(first) = lived.first_mut().filter(|_| past.is_some_and(|past| past.is_cut)) {
            // It need not have come there in that epoch.
            (first.since_ms, first.why) = (None, "older changes are forgotten".into());
        }
        if lived.is_empty() {
            let (node, requests) = place(now, key);
            let why = "nothing has changed since the start".into();
            lived.push(Lived { epoch: now.epoch, since_ms: None, node, requests, why });
        }
        lived
    }
}

impl Past {
    fn keep(&mut self, was: Was) {
        self.nodes += was.topology.nodes.len();
        self.topologies.push_back(was);
        while self.topologies.len() > LINES || self.nodes > NODES && self.topologies.len() > 2 {
            self.forget();
        }
    }

    /// Forgets the oldest topology.
    fn forget(&mut self) {
        if let Some(was) = self.topologies.pop_front() {
            self.nodes -= was.topology.nodes.len();
            self.is_cut = true;
        }
    }
}

impl Book {
    /// Has the pools with the most forget until there are no more nodes than these, or nobody has two
    /// topologies.
    fn bound(&mut self, nodes_max: usize) {
        while self.nodes > nodes_max {
            let long = self.pools.values_mut().filter(|past| past.topologies.len() > 2);
            let Some(past) = long.max_by_key(|past| past.nodes) else { return };
            let held = past.nodes;
            past.forget();
            self.nodes = self.nodes + past.nodes - held;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::tests::{Planned, spec},
        topology::Placement,
    };

    fn pool(name: &str) -> Topology {
        let mut spec = spec(&[1; 3], 0.5);
        spec.name = name.into();
        Planned::new(&spec).topology
    }

    /// So many epochs in which the first node goes and comes.
    fn flap(history: &History, first: &Topology, epochs: u64) {
        let mut before = Arc::new(first.clone());
        for epoch in 1..=epochs {
            let mut nodes = before.nodes.to_vec();
            nodes[0].placement = if epoch % 2 == 1 { Placement::Away } else { Placement::Owns };
            let after =
                Arc::new(Topology { epoch: before.epoch + 1, nodes: nodes.into(), ..(*before).clone() });
            history.push(Transition { before: &before, after: &after }, epoch, Vec::new());
            before = after;
        }
    }

    /// A pool that flaps makes no other forget; what it forgets itself is said, and not that nothing was.
    #[test]
    fn each_pool_has_its_own() {
        let (history, [a, b, quiet]) = (History::default(), ["a", "b", "quiet"].map(pool));
        let key = (0..)
            .map(|i: u32| format!("key:{i}"))
            .find(|key| place(&a, key.as_bytes()).0.as_deref() == Some("n0"));
        let key = key.expect("n0 has keys");
        flap(&history, &a, 1);
        flap(&history, &b, 3 * LINES as u64);
        let lived = history.of_key(&a, key.as_bytes());
        assert_eq!((lived.len(), &*lived[0].why), (2, "as it was before"));
        let lived = history.of_key(&b, key.as_bytes());
        assert_eq!(
            (lived.len(), &*lived[0].why, lived[0].since_ms),
            (LINES, "older changes are forgotten", None)
        );
        let lived = history.of_key(&quiet, key.as_bytes());
        assert_eq!((lived.len(), &*lived[0].why), (1, "nothing has changed since the start"));
    }

    /// Of a pool that is gone nothing is kept, and one of the same name begins anew.
    #[test]
    fn a_pool_that_is_gone() {
        let (history, [a, b]) = (History::default(), ["a", "b"].map(pool));
        flap(&history, &a, 20);
        flap(&history, &b, 20);
        history.forget("a");
        assert_eq!(history.book().nodes, 21 * 3);
        let lived = history.of_key(&a, b"key");
        assert_eq!((lived.len(), &*lived[0].why), (1, "nothing has changed since the start"));
    }

    /// Of all pools together so much is kept, and the one with the most forgets first.
    #[test]
    fn all_pools_are_bounded() {
        let (history, [a, b]) = (History::default(), ["a", "b"].map(pool));
        flap(&history, &a, 20);
        flap(&history, &b, 200);
        let mut book = history.book();
        let kept = |book: &Book| -> usize { book.pools.values().map(|past| past.nodes).sum() };
        assert_eq!((book.nodes, kept(&book)), (222 * 3, 222 * 3));
        book.bound(300);
        assert_eq!((book.nodes, kept(&book), book.pools["a"].nodes), (300, 300, 63));
        book.bound(0);
        assert_eq!((book.nodes, kept(&book)), (12, 12), "two of each are kept");
    }
}

//! What the planner remembers of a pool beside its topology: why nodes are out, what they came back
//! with, how far they have started, and what operators want. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{start::Start, warmth::Spending};
use crate::{
    ring,
    topology::{Cause, Data, Entry, Health, NodeId, OnReturn, Order, Placement, Policy, PoolSpec},
};

/// What is remembered of a pool. One entry per node that is out or on its way back at most.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How the ring in force was built.
    pub(super) ring: ring::Settings,
    /// What ringway's own decisions moved lately.
    pub(super) spending: Spending,
    known: HashMap<NodeId, Known>,
    /// What operators want, by the names of nodes.
    orders: BTreeMap<Arc<str>, Order>,
    turn: u64,
}

/// What is remembered of a node.
#[derive(Clone, Debug, Default)]
struct Known {
    out: Option<Out>,
    back: Option<Back>,
    start: Option<Start>,
}

/// Why a node is ejected, and since which turn.
#[derive(Clone, Debug)]
pub(super) struct Out {
    turn: u64,
    since: Instant,
    pub(super) cause: Cause,
    pub(super) evidence: Arc<str>,
}

/// Since which turn a node is back, and with what.
#[derive(Clone, Debug)]
pub(super) struct Back {
    turn: u64,
    pub(super) data: Data,
    pub(super) evidence: Arc<str>,
    /// An operator said that it need not wait for the budget.
    is_waived: bool,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.out.is_none() && self.back.is_none() && self.start.is_none()
    }
}

impl Ledger {
    /// The ledger of a pool that was built from this.
    pub fn new(spec: &PoolSpec) -> Ledger {
        Ledger {
            ring: spec.ring.clone(),
            spending: Spending::default(),
            known: HashMap::new(),
            orders: BTreeMap::new(),
            turn: 0,
        }
    }

    /// How many nodes it remembers.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no node is ejected, or on its way back.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// A node is ejected; why, if it was not before.
    pub(super) fn leaves(&mut self, node: NodeId, cause: Cause, evidence: &str, since: Instant) {
        self.turn += 1;
        let turn = self.turn;
        let known = self.known.entry(node).or_default();
        known.out.get_or_insert_with(|| Out { turn, since, cause, evidence: evidence.into() });
        (known.back, known.start) = (None, None);
    }

    /// A node proved itself, and this is what it has.
    pub(super) fn comes_back(&mut self, node: NodeId, data: Data, evidence: &str) {
        self.turn += 1;
        let back = Back { turn: self.turn, data, evidence: evidence.into(), is_waived: false };
        let known = self.known.entry(node).or_default();
        (known.out, known.back) = (None, Some(back));
    }

    /// Why a node is out.
    pub(super) fn out(&self, node: NodeId) -> Option<&Out> {
        self.known.get(&node)?.out.as_ref()
    }

    /// What a node that is not in its place again came back with.
    pub(super) fn back(&self, node: NodeId) -> Option<&Back> {
        self.known.get(&node)?.back.as_ref()
    }

    /// How far a node has started.
    pub(super) fn start(&self, node: NodeId) -> Option<&Start> {
        self.known.get(&node)?.start.as_ref()
    }

    /// A node starts, or has.
    pub(super) fn set_start(&mut self, node: NodeId, start: Option<Start>) {
        if start.is_some() || self.known.contains_key(&node) {
            self.known.entry(node).or_default().start = start;
        }
    }

    /// A node's keys below this level are clean; whether it starts at all.
    pub(super) fn cleaned(&mut self, node: NodeId, below: u32) -> bool {
        let start = self.known.get_mut(&node).and_then(|known| known.start.as_mut());
        start.map(|start| start.cleaned(below)).is_some()
    }

    /// A node could not be cleaned at this time; whether it starts at all.
    pub(super) fn not_cleaned(&mut self, node: NodeId, time: Instant) -> bool {
        let start = self.known.get_mut(&node).and_then(|known| known.start.as_mut());
        start.map(|start| start.not_cleaned(time)).is_some()
    }

    /// Remembers what is wanted of a node from now on.
    pub(super) fn order(&mut self, node: &Arc<str>, order: Option<Order>) {
        match order {
            Some(order) => drop(self.orders.insert(node.clone(), order)),
            None => drop(self.orders.remove(node)),
        }
    }

    /// What is wanted of nodes, by their names.
    pub(super) fn orders(&self) -> &BTreeMap<Arc<str>, Order> {
        &self.orders
    }

    /// A node that waits to return need not wait; whether it did.
    pub(super) fn go_on(&mut self, node: NodeId) -> bool {
        let back = self.known.get_mut(&node).and_then(|known| known.back.as_mut());
        back.map(|back| back.is_waived = true).is_some()
    }

    /// Since when a node is ejected.
    pub(super) fn ejected_since(&self, node: NodeId) -> Option<Instant> {
        self.out(node).map(|out| out.since)
    }

    /// In which turn a node was ejected.
    pub(super) fn ejected_in(&self, node: NodeId) -> Option<u64> {
        self.out(node).map(|out| out.turn)
    }

    /// In which turn a node that is not in its place again came back.
    pub(super) fn returned_in(&self, node: NodeId) -> Option<u64> {
        self.back(node).map(|back| back.turn)
    }

    /// Whether a node that came back has nothing of what it had, or soon has not.
    pub(super) fn returns_cold(&self, node: NodeId, policy: &Policy) -> bool {
        let is_emptied = policy.on_return == OnReturn::Quarantine && !policy.sole_writer;
        self.back(node).is_some_and(|back| !back.is_waived && (back.data.is_cold() || is_emptied))
    }

    /// A node has another identity from now on.
    pub(super) fn renamed(&mut self, before: NodeId, after: NodeId) {
        if let Some(known) = self.known.remove(&before) {
            self.known.insert(after, known);
        }
    }

    /// Forgets nodes that are not among these.
    pub(super) fn retain(&mut self, nodes: &[Entry]) {
        let ids: HashSet<NodeId> = nodes.iter().map(|e| e.node.id).collect();
        self.known.retain(|id, _| ids.contains(id));
        if !self.orders.is_empty() {
            let names: HashSet<&str> = nodes.iter().map(|e| &*e.node.name).collect();
            self.orders.retain(|name, _| names.contains(&**name));
        }
    }

    /// Forgets who is in its place again. When something may go on by itself, if something waits.
    pub(super) fn settled(&mut self, nodes: &[Entry], policy: &Policy, time: Instant) -> Option<Instant> {
        if self.known.is_empty() {
            return None;
        }
        let is_back = |e: &Entry| matches!(e.health, Health::Healthy | Health::Suspect);
        // Who is out by hand waits for the operator.
        let is_away = |e: &&Entry| e.placement == Placement::Away && is_back(e) && e.order.is_none();
        let away: HashSet<NodeId> = nodes.iter().filter(is_away).map(|e| e.node.id).collect();
        let is_starting = |e: &&Entry| matches!(e.placement, Placement::Starting(_));
        let starting: HashSet<NodeId> = nodes.iter().filter(is_starting).map(|e| e.node.id).collect();
        for (id, known) in &mut self.known {
            if !starting.contains(id) {
                known.start = None;
                if !away.contains(id) {
                    known.back = None;
                }
            }
        }
        self.known.retain(|_, known| !known.is_empty());
        let held = || nodes.iter().filter(|e| e.placement == Placement::Held);
        let ends = held().filter_map(|e| Some(self.ejected_since(e.node.id)? + policy.hold_down));
        let hold_ends = ends.filter(|end| *end > time).min();
        let waits = !away.is_empty() || held().next().is_some();
        let budget = if waits { self.spending.next(policy.warmth.window, time) } else { None };
        let steps = nodes.iter().filter(is_starting);
        let steps = steps.filter_map(|e| self.start(e.node.id)?.next(e.placement, policy, time)).min();
        hold_ends.into_iter().chain(budget).chain(steps).min()
    }
}

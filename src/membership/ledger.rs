//! What the planner remembers of a pool beside its topology: why nodes are out, what they came back
//! with, how far they have started, and what operators want. Pure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{debts::Debts, start::Start, warmth::Spending};
use crate::{
    ring,
    topology::{
        Data, Entry, Failed, NodeId, OnReturn, Order, Placement, Policy, PoolSpec, Returned, Rule, Topology,
        Wait, WaitReason,
    },
};

/// What is remembered of a pool. One entry per node that is out or on its way back at most.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// How the ring in force was built.
    pub(super) ring: ring::Settings,
    /// What ringway's own decisions moved lately.
    pub(super) spending: Spending,
    /// Who may have old copies of whose keys.
    pub(super) debts: Debts,
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
    pub(super) why: Failed,
}

/// Since which turn a node is back, and with what.
#[derive(Clone, Debug)]
pub(super) struct Back {
    turn: u64,
    pub(super) with: Returned,
    /// The node was there before it was out.
    is_known: bool,
    /// Since when it was out.
    out_since: Option<Instant>,
    /// It was out by hand since: nobody knows what was done to it.
    was_ordered: bool,
    /// An operator said that it need not wait for the budget.
    is_waived: bool,
    /// An operator said that it is to serve with what it has.
    is_accepted: bool,
    at: Instant,
}

impl Known {
    fn is_empty(&self) -> bool {
        let Known { out, back, start } = self;
        out.is_none() && back.is_none() && start.is_none()
    }
}

impl Ledger {
    /// The ledger of a pool that was built from this.
    pub fn new(spec: &PoolSpec) -> Ledger {
        Ledger {
            ring: spec.ring.clone(),
            spending: Spending::default(),
            debts: Debts::default(),
            known: HashMap::new(),
            orders: BTreeMap::new(),
            turn: 0,
        }
    }

    /// The pool begins with nodes that are not in their place, and with others that may have old copies of a
    /// node's keys: what the process before this one knew.
    pub fn recall(&mut self, first: &Topology, time: Instant) {
        self.debts.recall(&first.leftovers, &first.policy, time);
        for entry in first.nodes.iter() {
            self.order(&entry.node.name, entry.order);
            if entry.placement == Placement::Away {
                self.debts.misses_writes(entry.node.id, time);
            }
        }
    }

    /// How many nodes it remembers.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no node is ejected, or on its way back.
    pub fn is_empty(&self) -> bool {
        self.known.values().all(|known| known.out.is_none() && known.back.is_none() && known.start.is_none())
    }

    /// A node is ejected; why, if it was not before.
    pub(super) fn leaves(&mut self, node: NodeId, why: &Failed, since: Instant) {
        self.turn += 1;
        let turn = self.turn;
        let known = self.known.entry(node).or_default();
        known.out.get_or_insert_with(|| Out { turn, since, why: why.clone() });
        (known.back, known.start) = (None, None);
    }

    /// A node proved itself, and this is what it has.
    pub(super) fn comes_back(&mut self, node: NodeId, with: &Returned, at: Instant) {
        self.turn += 1;
        let is_known = !self.is_first(node);
        let back = Back {
            turn: self.turn,
            with: with.clone(),
            is_known,
            out_since: self.out(node).map(|out| out.since),
            was_ordered: false,
            is_waived: false,
            is_accepted: false,
            at,
        };
        let known = self.known.entry(node).or_default();
        (known.out, known.back) = (None, Some(back));
    }

    /// Whether a node was not there when it was asked first.
    pub(super) fn is_first(&self, node: NodeId) -> bool {
        self.out(node).is_some_and(|out| out.why.basis.rule == Rule::FirstProbe)
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

    /// A reload puts one policy in the place of another. When what is written lives for a shorter time than
    /// what is there nothing is known any more of the age of what nodes have that wait for it to expire.
    pub(super) fn shortens(&mut self, before: &Policy, after: &Policy, time: Instant) {
        if !self.debts.shortens(before, after, time) || after.on_return != OnReturn::Ttl {
            return;
        }
        let backs = self.known.values_mut().filter_map(|known| known.back.as_mut());
        let same = backs.filter(|back| back.with.data == Data::Same);
        same.for_each(|back| back.with.data = Data::Unknown);
    }

    /// A node could not be cleaned at this time, and nobody else serves its keys; whether it starts at all.
    pub(super) fn not_cleaned(&mut self, node: NodeId, time: Instant, is_needed: bool) -> bool {
        let start = self.known.get_mut(&node).and_then(|known| known.start.as_mut());
        start.map(|start| start.not_cleaned(time, is_needed)).is_some()
    }

    /// A node is being cleaned for long; whether it starts at all, and that is new.
    pub(super) fn strips(&mut self, node: NodeId) -> bool {
        let start = self.known.get_mut(&node).and_then(|known| known.start.as_mut());
        start.is_some_and(Start::strips)
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

    /// A node that waits to return need not wait for the budget; whether it did. Nor for a word, if that is
    /// one.
    pub(super) fn go_on(&mut self, node: NodeId, is_word: bool) -> bool {
        let Some(back) = self.known.get_mut(&node).and_then(|known| known.back.as_mut()) else {
            return false;
        };
        let before = (back.is_waived, back.is_accepted);
        (back.is_waived, back.is_accepted) = (true, back.is_accepted || is_word);
        before != (back.is_waived, back.is_accepted)
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
        let is_emptied = |back: &Back| {
            let is_known = policy.sole_writer && back.with.data == Data::Same && back.with.is_exact;
            match policy.on_return {
                OnReturn::Quarantine => !is_known,
                // Others were emptied before they came back.
                OnReturn::Flush => policy.keeps_keys(),
                // What has expired by then needs no deleting.
                OnReturn::Ttl => !self.is_bounded(node),
                OnReturn::Serve => false,
            }
        };
        self.back(node).is_some_and(|back| !back.is_waived && (back.with.data.is_cold() || is_emptied(back)))
    }

    /// Whether a node whose keys waited for it came back as another process with data: nobody knows how old
    /// that is, unless it is what the pool holds its keys for.
    pub(super) fn brings_other(&self, node: NodeId, policy: &Policy) -> bool {
        let is_expected =
            |back: &Back| back.out_since.is_some_and(|since| back.at < since + policy.hold_down);
        self.back(node).is_some_and(|back| back.with.data == Data::Other && !is_expected(back))
    }

    /// Whether a node that is back has nothing, for sure.
    pub(super) fn is_bare(&self, node: NodeId) -> bool {
        let is_bare =
            |back: &Back| matches!(back.with.data, Data::Flushed | Data::Empty) && !back.was_ordered;
        self.back(node).is_some_and(is_bare)
    }

    /// Whether all that a node that is back had lives for as long as `ttl_max` says, for sure: health says so
    /// of one that has what it had. What was done to one that an operator took out nobody knows.
    pub(super) fn is_bounded(&self, node: NodeId) -> bool {
        let is_bounded = |back: &Back| {
            matches!(back.with.data, Data::Same | Data::Flushed | Data::Empty) && !back.was_ordered
        };
        self.back(node).is_some_and(is_bounded)
    }

    /// Whether a node that is to keep what it has came back without it, and nobody said that it is to serve.
    pub(super) fn is_lost(&self, node: NodeId, policy: &Policy) -> bool {
        let is_lost = |back: &Back| back.is_known && !back.is_accepted && back.with.data == Data::Empty;
        policy.durable && self.back(node).is_some_and(is_lost)
    }

    /// Whether a node that is back has to wait, whatever the budget says.
    pub(super) fn waits(&self, node: NodeId, policy: &Policy, time: Instant) -> bool {
        self.expires(node, policy, time).is_some() || self.is_lost(node, policy)
    }

    /// Until when the keys of an ejected node do not move, whatever the budget says, and why.
    pub(super) fn stays(
        &self,
        node: NodeId,
        policy: &Policy,
        time: Instant,
    ) -> Option<(WaitReason, Instant)> {
        let held = self.out(node).map(|out| out.since + policy.hold_down).filter(|until| *until > time);
        let held = held.map(|until| (WaitReason::HoldDown, until));
        let left = self.debts.heirs_until(node, policy, time).map(|until| (WaitReason::Leftovers, until));
        held.into_iter().chain(left).max_by_key(|(_, until)| *until)
    }

    /// Until when a node that is back has old values that have not expired.
    pub(super) fn expires(&self, node: NodeId, policy: &Policy, time: Instant) -> Option<Instant> {
        let ttl_max = policy.ttl_max.filter(|_| policy.on_return == OnReturn::Ttl && policy.moves_keys())?;
        let (since, back) = (self.debts.missed_since(node)?, self.back(node));
        let has_nothing = back.is_some_and(|back| back.with.data == Data::Empty);
        // One that stood still applies what lay in its socket when it goes on, and those keys live from then
        // on.
        let since = back.map_or(since, |back| since.max(back.at));
        Some(since + ttl_max).filter(|until| !has_nothing && *until > time)
    }

    /// A node has another identity from now on.
    pub(super) fn renamed(&mut self, before: NodeId, after: NodeId) {
        self.debts.renamed(before, after);
        if let Some(known) = self.known.remove(&before) {
            self.known.insert(after, known);
        }
    }

    /// A reload puts these in the place of those: forgets who is gone.
    pub(super) fn retain(&mut self, before: &[Entry], nodes: &[Entry]) {
        let ids = |nodes: &[Entry]| -> HashSet<NodeId> { nodes.iter().map(|e| e.node.id).collect() };
        let (known, ids) = (ids(before), ids(nodes));
        if !ids.is_subset(&known) {
            self.debts.look_again();
        }
        self.known.retain(|id, _| ids.contains(id));
        self.debts.retain(&ids);
        if !self.orders.is_empty() {
            let names: HashSet<&str> = nodes.iter().map(|e| &*e.node.name).collect();
            self.orders.retain(|name, _| names.contains(&**name));
        }
    }

    /// Remembers who left, and forgets who is in its place again. Who waits, and when something may go on by
    /// itself.
    pub(super) fn settled(
        &mut self,
        nodes: &[Entry],
        policy: &Policy,
        time: Instant,
    ) -> (Arc<[Wait]>, Option<Instant>) {
        self.debts.settled(nodes, policy, time);
        if self.known.is_empty() && self.debts.is_empty() {
            return (Arc::default(), None);
        }
        let waits =
            |e: &&Entry| matches!(e.placement, Placement::Away | Placement::Held) && !e.health.is_out();
        let waiting: HashSet<NodeId> = nodes.iter().filter(waits).map(|e| e.node.id).collect();
        let is_starting = |e: &&Entry| matches!(e.placement, Placement::Starting(_));
        let starting: HashSet<NodeId> = nodes.iter().filter(is_starting).map(|e| e.node.id).collect();
        let ordered = nodes.iter().filter(|e| e.order.is_some_and(Order::is_out));
        for id in ordered.map(|e| e.node.id) {
            let back = self.known.get_mut(&id).and_then(|known| known.back.as_mut());
            back.into_iter().for_each(|back| back.was_ordered = true);
        }
        for (id, known) in &mut self.known {
            if !starting.contains(id) {
                known.start = None;
                if !waiting.contains(id) {
                    known.back = None;
                }
            }
        }
        self.known.retain(|_, known| !known.is_empty());
        let waits: Arc<[Wait]> = nodes
            .iter()
            // Who is out by hand waits for the operator.
            .filter(|e| {
                let waits = |start: &Start| start.is_short() || start.waits(time).is_some();
                let waits = || self.start(e.node.id).is_some_and(waits);
                match e.placement {
                    Placement::Owns => false,
                    Placement::Held => true,
                    Placement::Away => e.order.is_none() && waiting.contains(&e.node.id),
                    Placement::Starting(_) => waits(),
                }
            })
            .map(|e| self.wait(e, policy, time))
            .collect();
        let steps = nodes.iter().filter(is_starting);
        let next = |e: &Entry| {
            let step = self.start(e.node.id).and_then(|start| start.next(e.placement, policy, time));
            step.into_iter().chain(self.expires(e.node.id, policy, time)).min()
        };
        let steps = steps.filter_map(next).min();
        let due = waits.iter().filter_map(|wait| wait.due).chain(steps).min();
        (waits, due)
    }

    /// What a node waits for that is held, or back and not in its place.
    fn wait(&self, entry: &Entry, policy: &Policy, time: Instant) -> Wait {
        let node = entry.node.id;
        if self.is_lost(node, policy) {
            return Wait { node, reason: WaitReason::Word, due: None };
        }
        let of_budget = || self.spending.next(policy.warmth.window, time);
        if let Placement::Starting(_) = entry.placement {
            return match self.start(node).and_then(|start| start.waits(time)) {
                Some(due) => Wait { node, reason: WaitReason::Cleaning, due },
                None => Wait { node, reason: WaitReason::Budget, due: of_budget() },
            };
        }
        let stays = match entry.placement {
            Placement::Held => self.stays(node, policy, time),
            _ => self.expires(node, policy, time).map(|until| (WaitReason::Ttl, until)),
        };
        let (reason, due) = match stays {
            Some((reason, until)) => (reason, Some(until)),
            None => (WaitReason::Budget, of_budget()),
        };
        // One that is back and held has its keys when what it has has expired, whatever they wait for else.
        let is_back = entry.placement == Placement::Held && !entry.health.is_out();
        let expires = self.expires(node, policy, time).filter(|_| is_back);
        Wait { node, reason, due: due.into_iter().chain(expires).min() }
    }
}

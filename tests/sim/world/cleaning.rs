//! Nodes that are back are cleaned, and others of what they took for them: a model of what health does about
//! old data (`src/health/cleaning.rs`, `sweep.rs`), on servers that fail meanwhile.

use super::*;
use crate::{keys::text, quarantine::Quarantine};

/// From a try to clean a node to telling that its keys need not wait for one that takes long.
const REPEAT: Duration = Duration::from_millis(500);
/// Until a node that can't be looked through now is tried once more, and how often that is done.
const AGAIN: Duration = Duration::from_secs(5);
const TRIES: u32 = 12;
/// How often it is told that it goes on.
const TELL: Duration = Duration::from_secs(30);

/// What is known, and done, about old data.
#[derive(Debug, Default)]
pub(super) struct Cleaners {
    pub(super) quarantine: Quarantine,
    /// Who is being cleaned, and whether it left meanwhile.
    cleaning: BTreeMap<NodeId, bool>,
    /// Who is being stripped, which takes long.
    stripped: BTreeSet<NodeId>,
    /// Nodes that are back, while others may have what they took for them.
    unswept: BTreeSet<NodeId>,
    /// Those for which it was not done as others were held.
    postponed: BTreeSet<NodeId>,
    sweep: Option<Sweep>,
}

/// Others are looked through.
#[derive(Debug)]
struct Sweep {
    nodes: Vec<NodeId>,
    /// Those of them that have returned once more since.
    again: BTreeSet<NodeId>,
    /// Who is still to be looked through, when, and how often that was tried.
    left: Vec<(NodeId, Instant, u32)>,
    skipped: Vec<NodeId>,
    away: Vec<NodeId>,
    waits: bool,
    told: Instant,
}

/// What has to be done to a node before it may own more of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// What is known to be old is deleted, here and where it was written.
    Delete,
    Nothing,
    Empty,
    /// All that others may have had is deleted.
    Strip,
}

impl Cleaners {
    /// A node is ejected: what is done to it is no matter of the next time that it is back.
    pub(super) fn leaves(&mut self, node: NodeId) {
        self.cleaning.entry(node).and_modify(|left| *left = true);
    }

    /// A node is back, and others may have what they took for it.
    pub(super) fn sweeps_after(&mut self, node: NodeId) {
        self.unswept.insert(node);
        self.returns(node);
    }

    /// What was looked through before says nothing of what others took for it since.
    pub(super) fn returns(&mut self, node: NodeId) {
        if let Some(sweep) = self.sweep.as_mut().filter(|sweep| sweep.nodes.contains(&node)) {
            sweep.again.insert(node);
        }
    }

    /// Whether others may have what they took for a node.
    pub(super) fn is_unswept(&self) -> bool {
        !self.unswept.is_empty() || !self.postponed.is_empty()
    }
}

impl World {
    /// Another topology is in force.
    pub(super) fn follow(&mut self, before: &Topology) -> Result<(), Breach> {
        let after = self.topology.clone();
        for (at, entry) in after.nodes.iter().enumerate() {
            if entry.placement == Placement::Owns {
                continue;
            }
            let (id, body) = (entry.node.id, &mut self.bodies[self.body_at[at]]);
            // What it has in its sockets counts as written elsewhere.
            let was_owner = before.position(id).is_some_and(|at| before.nodes[at].placement.serves());
            if was_owner {
                body.store.owed().for_each(|key| self.cleaners.quarantine.note(id, id, key, &after.policy));
            }
            // What it came back without it may have by now.
            if let (Placement::Starting(to), Some(patient)) = (entry.placement, &mut body.patient)
                && to.admitted > 0
            {
                patient.back = patient.back.filter(|back| !matches!(back, Data::Empty | Data::Flushed));
            }
            if !entry.placement.serves() {
                body.store.is_reset();
                body.patient.iter_mut().for_each(Patient::disconnect);
            }
        }
        self.cleaners.quarantine.follow(&after);
        let is_new = |e: &Entry| before.position(e.node.id).is_none();
        if !Arc::ptr_eq(&before.ring, &after.ring) || after.nodes.iter().any(is_new) {
            self.sweep_all();
        }
        if !after.nodes.iter().any(|e| e.placement == Placement::Held) {
            let postponed = std::mem::take(&mut self.cleaners.postponed);
            self.cleaners.unswept.extend(postponed);
        }
        self.clean_who_waits();
        self.begin_sweep();
        self.look_for_old()
    }

    /// Whoever starts behind a fence is cleaned, after a grace for what is in flight.
    fn clean_who_waits(&mut self) {
        let topology = self.topology.clone();
        let starts = |id| topology.nodes.iter().any(|e| e.node.id == id && is_starting(e));
        self.cleaners.cleaning.iter_mut().for_each(|(id, left)| *left |= !starts(*id));
        let is_fenced = |e: &&Entry| matches!(e.placement, Placement::Starting(to) if to.is_fenced());
        for entry in topology.nodes.iter().filter(is_fenced) {
            let node = entry.node.id;
            if let Vacant(place) = self.cleaners.cleaning.entry(node) {
                place.insert(false);
                let grace = self.dice.between(Duration::ZERO, Duration::from_millis(100));
                self.send(self.now + grace, Event::Clean { node, began: None });
            } else if self.cleaners.stripped.contains(&node) {
                // It waits again for what takes long.
                self.send(self.now + REPEAT, Event::Stripped(node));
            }
        }
    }

    /// The keys of a node that is stripped need not wait.
    pub(super) fn strips_on(&mut self, node: NodeId) -> Result<(), Breach> {
        if !self.cleaners.stripped.contains(&node) {
            return Ok(());
        }
        self.hand_over((node, News::Stripping), None)
    }

    pub(super) fn clean(&mut self, node: NodeId, began: Option<Instant>) -> Result<(), Breach> {
        let at = self.topology.position(node);
        let placement = at.map(|at| self.topology.nodes[at].placement);
        let has_left = self.cleaners.cleaning.get(&node).is_some_and(|left| *left);
        if let (None, Some(at), Some(Placement::Starting(_)), false) = (began, at, placement, has_left) {
            let is_strip = self.work(at) == Work::Strip;
            let longest = Duration::from_millis(if is_strip || self.dice.chance(10) { 4000 } else { 300 });
            let ends = self.now + self.dice.between(Duration::ZERO, longest);
            self.send(ends, Event::Clean { node, began: Some(self.now) });
            if is_strip {
                self.cleaners.stripped.insert(node);
                return self.hand_over((node, News::Stripping), Some(self.now));
            }
            return Ok(());
        }
        self.cleaners.cleaning.remove(&node);
        self.cleaners.stripped.remove(&node);
        let began = began.unwrap_or(self.now);
        let news = match (at, placement) {
            (Some(at), Some(Placement::Starting(to))) if !has_left => self.cleaned(at, to.fence, began),
            _ => News::NotCleaned,
        };
        self.hand_over((node, news), Some(began))
    }

    /// A cleaning ends that began then: is it done?
    fn cleaned(&mut self, at: usize, fence: u32, began: Instant) -> News {
        let (node, i) = (self.topology.nodes[at].node.id, self.body_at[at]);
        let work = self.work(at);
        // Its own part is done first, then what others have of its keys is deleted there.
        let own_part = began + (self.now - began) / 2;
        let body = &self.bodies[i];
        let was_well = body.is_well() && body.since <= began || body.since > own_part;
        let done = match work {
            _ if !was_well => None,
            Work::Delete => self.delete_old(at, fence),
            Work::Nothing => Some(true),
            Work::Empty => {
                self.bodies[i].is_emptied(&self.topology.policy);
                self.stats.emptied += 1;
                Some(true)
            }
            Work::Strip => {
                let policy = self.topology.policy.clone();
                let moves = |key| policy.on_ejected_for(text(key).as_bytes()).moves();
                self.bodies[i].store.delete_if(moves);
                self.stats.stripped += 1;
                Some(true)
            }
        };
        let Some(leftovers) = done else {
            self.cleaners.quarantine.failed(node);
            return News::NotCleaned;
        };
        if leftovers && self.topology.policy.rehashes() {
            self.cleaners.sweeps_after(node);
            self.begin_sweep();
        }
        let below = if work == Work::Delete { fence } else { LEVELS };
        let keys = self.laws.keys.clone();
        match work {
            Work::Delete => self.cleaners.quarantine.is_clean_of(node, |key| keys.level(key) < fence),
            _ => self.cleaners.quarantine.is_clean(node),
        }
        let emptied = work == Work::Empty;
        News::Cleaned { below, leftovers, emptied, how: "as it should be".into() }
    }

    fn work(&self, at: usize) -> Work {
        let (node, i) = (self.topology.nodes[at].node.id, self.body_at[at]);
        let policy = &self.topology.policy;
        let data = self.brings(i);
        match data {
            _ if self.cleaners.quarantine.is_known(node, data, policy) => Work::Delete,
            Data::Empty => Work::Nothing,
            _ if policy.keeps_keys() => Work::Strip,
            _ => Work::Empty,
        }
    }

    /// Deletes what is known to be old of a node, there and where it was written; whether some of it may be
    /// left. None if somebody does not answer who should.
    fn delete_old(&mut self, at: usize, fence: u32) -> Option<bool> {
        let topology = self.topology.clone();
        let keys = self.laws.keys.clone();
        let node = topology.nodes[at].node.id;
        let mut leftovers = false;
        for (taken_by, key) in self.cleaners.quarantine.written(node) {
            if keys.level(key) >= fence {
                continue;
            }
            self.bodies[self.body_at[at]].store.delete(key);
            let Some(other) = topology.position_over(taken_by).filter(|other| *other != at) else { continue };
            let entry = topology.entry(other);
            if entry.placement.serves() && !entry.health.is_out() {
                let body = self.body_mut(other);
                if !body.answers() {
                    return None;
                }
                body.store.delete(key);
            } else if entry.placement == Placement::Away && !topology.is_gutter(other) {
                self.cleaners.quarantine.note(taken_by, taken_by, key, &topology.policy);
            } else {
                leftovers = true;
            }
            self.stats.deleted += 1;
        }
        Some(leftovers)
    }

    /// Nodes may have what was theirs before a reload.
    fn sweep_all(&mut self) {
        if !self.topology.policy.minds_old_copies() {
            return;
        }
        let topology = self.topology.clone();
        let away = topology.nodes.iter().filter(|e| is_away(e));
        away.for_each(|e| self.cleaners.quarantine.cut(e.node.id));
        self.cleaners.unswept.extend(topology.nodes.iter().map(|e| e.node.id));
        self.cleaners.sweep = None;
    }

    /// Others are looked through for what they took for nodes that have their keys again.
    pub(super) fn begin_sweep(&mut self) {
        if self.cleaners.sweep.is_some() || self.cleaners.unswept.is_empty() {
            return;
        }
        let topology = self.topology.clone();
        let has_keys = |node: &&NodeId| {
            let placement = topology.position(**node).map(|at| topology.nodes[at].placement);
            placement.is_none_or(|placement| matches!(placement, Placement::Owns | Placement::Held))
        };
        let nodes: Vec<NodeId> = self.cleaners.unswept.iter().filter(has_keys).copied().collect();
        if nodes.is_empty() {
            return;
        }
        let begins = self.now + topology.policy.request_timeout;
        let others = topology.nodes.iter().map(|e| e.node.id).filter(|id| nodes != [*id]);
        let longest = Duration::from_secs(self.dice.pick(&[0, 1, 20]));
        let mut left: Vec<_> = Vec::new();
        for other in others {
            left.push((other, begins + self.dice.between(Duration::ZERO, longest), 1));
        }
        let (again, skipped, away, told) = (BTreeSet::new(), Vec::new(), Vec::new(), self.now);
        let sweep = Sweep { nodes, again, left, skipped, away, waits: false, told };
        self.cleaners.sweep = Some(sweep);
        self.send(begins, Event::Sweep);
    }

    pub(super) fn sweep(&mut self) -> Result<(), Breach> {
        let Some(mut sweep) = self.cleaners.sweep.take() else { return Ok(()) };
        let (due, later): (Vec<_>, Vec<_>) = sweep.left.iter().partition(|(_, at, _)| *at <= self.now);
        sweep.left = later;
        for (node, _, tried) in due {
            match self.look_through(node) {
                Looked::Through => {}
                Looked::Away => sweep.away.push(node),
                Looked::Held => {
                    sweep.skipped.push(node);
                    sweep.waits = true;
                }
                Looked::Failed if tried < TRIES => sweep.left.push((node, self.now + AGAIN, tried + 1)),
                Looked::Failed => {
                    sweep.skipped.push(node);
                    // It is given up, and told so.
                    self.book.is_closed = true;
                }
            }
        }
        let Some(next) = sweep.left.iter().map(|(_, at, _)| *at).min() else { return self.end_sweep(sweep) };
        let tells = self.now >= sweep.told + TELL;
        sweep.told = if tells { self.now } else { sweep.told };
        self.send(next.min(sweep.told + TELL), Event::Sweep);
        self.cleaners.sweep = Some(sweep);
        let unswept = if tells { self.cleaners.unswept.clone() } else { BTreeSet::new() };
        unswept.into_iter().try_for_each(|node| self.hand_over((node, News::Sweeping), None))
    }

    /// Deletes what a node has and does not own.
    fn look_through(&mut self, node: NodeId) -> Looked {
        let topology = self.topology.clone();
        let Some(at) = topology.position(node) else { return Looked::Through };
        match topology.nodes[at].placement {
            Placement::Away => return Looked::Away,
            Placement::Held => return Looked::Held,
            Placement::Owns | Placement::Starting(_) => {}
        }
        let body = &mut self.bodies[self.body_at[at]];
        if !body.answers() {
            return Looked::Failed;
        }
        let is_left = |key: KeyId| {
            let text = text(key);
            let hash = topology.ring.hash(text.as_bytes());
            let route = topology.route(hash, text.as_bytes());
            topology.ring.first(hash) != at && route != Route::Send(at)
        };
        if self.planner.0 != Some(Sabotage::SweepsInName) {
            self.stats.swept += body.store.delete_if(is_left);
        }
        Looked::Through
    }

    fn end_sweep(&mut self, sweep: Sweep) -> Result<(), Breach> {
        let Sweep { nodes, again, mut skipped, away, mut waits, .. } = sweep;
        let topology = self.topology.clone();
        self.cleaners.unswept.retain(|node| !nodes.contains(node) || again.contains(node));
        for node in away {
            match topology.position(node).map(|at| topology.nodes[at].placement) {
                None => {}
                // It was cleaned of what was written elsewhere, and not of this.
                Some(Placement::Owns | Placement::Held) => {
                    skipped.push(node);
                    waits = true;
                }
                // It is emptied on its way back.
                Some(Placement::Away | Placement::Starting(_)) => self.cleaners.quarantine.cut(node),
            }
        }
        let is_done = |node: &NodeId| skipped.iter().all(|skipped| skipped == node);
        let nodes = nodes.into_iter().filter(|node| !again.contains(node));
        let (done, open): (Vec<NodeId>, Vec<NodeId>) = nodes.partition(is_done);
        if waits {
            self.cleaners.postponed.extend(open);
        }
        if !topology.nodes.iter().any(|e| e.placement == Placement::Held) {
            let postponed = std::mem::take(&mut self.cleaners.postponed);
            self.cleaners.unswept.extend(postponed);
        }
        self.begin_sweep();
        done.into_iter().try_for_each(|node| self.hand_over((node, News::Swept), Some(self.now)))
    }
}

/// What came of looking through a node.
enum Looked {
    Through,
    Away,
    Held,
    Failed,
}

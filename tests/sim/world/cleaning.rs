//! Nodes that are back are cleaned, and others of what they took for them: a model of what health does about
//! old data (`src/health/cleaning.rs`, `sweep.rs`), on servers that fail meanwhile.

use ringway::topology::{Leftovers, Wait, WaitReason};

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
    sweep: Option<Sweep>,
    /// Of whom it was told what came of a sweep.
    done: Vec<Leftovers>,
    /// It will be told that others are looked through still.
    tells: bool,
}

/// Others are looked through.
#[derive(Debug)]
struct Sweep {
    leftovers: Vec<Leftovers>,
    /// Who is still to be looked through, when, and how often that was tried.
    left: Vec<(NodeId, Instant, u32)>,
    skipped: Vec<NodeId>,
    away: Vec<NodeId>,
    waits: bool,
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
            self.forget();
        }
        self.clean_who_waits();
        self.cleaners.done.retain(|left| after.leftovers.contains(left));
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

    /// A reload moved keys: it is not known any more what nodes have that are away.
    fn forget(&mut self) {
        if !self.topology.policy.minds_old_copies() {
            return;
        }
        let topology = self.topology.clone();
        let away = topology.nodes.iter().filter(|e| is_away(e));
        away.for_each(|e| self.cleaners.quarantine.cut(e.node.id));
    }

    /// Others are looked through for what they took for nodes that have their keys again.
    pub(super) fn begin_sweep(&mut self) {
        let topology = self.topology.clone();
        if !topology.leftovers.is_empty() && !self.cleaners.tells {
            self.cleaners.tells = true;
            self.send(self.now + TELL, Event::Guard);
        }
        if self.cleaners.sweep.is_some() {
            return;
        }
        let at = |id: NodeId| topology.position(id).map(|at| topology.nodes[at].placement);
        let is_due = |left: &&Leftovers| {
            let has_keys = matches!(at(left.node), Some(Placement::Owns | Placement::Held));
            let is_other = |e: &Entry| e.placement == Placement::Held && e.node.id != left.node;
            has_keys && !topology.nodes.iter().any(is_other) && !self.cleaners.done.contains(left)
        };
        let leftovers: Vec<Leftovers> = topology.leftovers.iter().filter(is_due).copied().collect();
        if leftovers.is_empty() {
            return;
        }
        let begins = self.now + topology.policy.request_timeout;
        let is_other = |id: &NodeId| leftovers.iter().any(|left| left.node != *id);
        let others = topology.nodes.iter().map(|e| e.node.id).filter(is_other);
        let longest = Duration::from_secs(self.dice.pick(&[0, 1, 20]));
        let mut left: Vec<_> = Vec::new();
        for other in others {
            left.push((other, begins + self.dice.between(Duration::ZERO, longest), 1));
        }
        let sweep = Sweep { leftovers, left, skipped: Vec::new(), away: Vec::new(), waits: false };
        self.cleaners.sweep = Some(sweep);
        self.send(begins, Event::Sweep);
    }

    /// Others are looked through still, or will be.
    pub(super) fn guard(&mut self) -> Result<(), Breach> {
        let topology = self.topology.clone();
        let held = |wait: &&Wait| {
            topology.position(wait.node).is_some_and(|at| topology.nodes[at].placement == Placement::Held)
        };
        let guards = |left: &&Leftovers| {
            let mut held = topology.waits.iter().filter(held);
            // Those that are held for what each may have of the other wait for nothing else.
            let is_stuck = held.clone().any(|wait| wait.node == left.node)
                && held.all(|wait| wait.reason == WaitReason::Leftovers);
            let placement = topology.position(left.node).map(|at| topology.nodes[at].placement);
            placement.is_some_and(|placement| placement != Placement::Away)
                && (self.cleaners.sweep.is_some() || !is_stuck)
                && !self.cleaners.done.contains(left)
        };
        let guarded: Vec<NodeId> = topology.leftovers.iter().filter(guards).map(|left| left.node).collect();
        self.cleaners.tells = !topology.leftovers.is_empty();
        if self.cleaners.tells {
            self.send(self.now + TELL, Event::Guard);
        }
        guarded.into_iter().try_for_each(|node| self.hand_over((node, News::Sweeping), None))
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
        self.send(next, Event::Sweep);
        self.cleaners.sweep = Some(sweep);
        Ok(())
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
        let Sweep { leftovers, mut skipped, away, mut waits, .. } = sweep;
        let topology = self.topology.clone();
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
        let is_done = |left: &Leftovers| skipped.iter().all(|skipped| *skipped == left.node);
        let (done, mut open): (Vec<Leftovers>, Vec<Leftovers>) = leftovers.into_iter().partition(is_done);
        if waits {
            open.clear();
        }
        self.cleaners.done.extend(done.iter().chain(&open));
        self.begin_sweep();
        let done = done.into_iter().map(|Leftovers { node, turn }| (node, News::Swept { turn }));
        let open = open.into_iter().map(|Leftovers { node, turn }| (node, News::NotSwept { turn }));
        done.chain(open).try_for_each(|news| self.hand_over(news, Some(self.now)))
    }
}

/// What came of looking through a node.
enum Looked {
    Through,
    Away,
    Held,
    Failed,
}

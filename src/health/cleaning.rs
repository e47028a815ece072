//! Nodes that are back are cleaned: when their keys are fenced off and nothing is in flight any more, what
//! is old is deleted, and membership is told.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::sleep_until,
};

use super::{
    quarantine::{self, Cleaned, Done, Quarantine},
    sweep::{self, Sweeping, Swept},
};
use crate::topology::{
    Change, Data, LEVELS, News, NodeId, NotedWrites, OnReturn, Placement, Topology, TopologyReader, Wait,
    WaitReason, Written,
};

/// Cleans the nodes of one pool that are back, and others of what they took for these.
pub(super) struct Cleaner {
    reader: TopologyReader,
    /// What was written elsewhere for nodes that are away.
    pub(super) quarantine: Quarantine,
    /// What each worker has in flight.
    in_flight: Arc<[AtomicU64]>,
    /// Waits for what is in flight, for nodes that are to be cleaned; false when it took too long.
    graces: JoinSet<(NodeId, bool)>,
    cleanings: JoinSet<Cleaned>,
    /// For whom each of both works.
    tasks: HashMap<Id, NodeId>,
    /// Deletes leftovers of the nodes that are back, all at once.
    sweeps: JoinSet<Swept>,
    /// Nodes that are back, while others may have what they took for them.
    unswept: HashSet<NodeId>,
    /// How far that is.
    sweeping: Sweeping,
    /// Those for which it was not done as others were held.
    postponed: HashSet<NodeId>,
    /// What was last followed.
    followed: Option<Arc<Topology>>,
}

/// What is over, or due.
pub(super) enum Ended {
    Grace(Result<(Id, (NodeId, bool)), JoinError>),
    Cleaning(Result<(Id, Cleaned), JoinError>),
    Sweep(Result<Swept, JoinError>),
    /// It is to be told that others are looked through still.
    Pause,
}

/// What is to be told of a node that was cleaned, or was not.
#[derive(Default)]
pub(super) struct Told {
    pub(super) node: Option<NodeId>,
    /// It has nothing now.
    pub(super) is_emptied: bool,
    pub(super) changes: Vec<Change>,
}

impl Cleaner {
    pub(super) fn new(reader: TopologyReader, in_flight: Arc<[AtomicU64]>) -> Cleaner {
        Cleaner {
            reader,
            quarantine: Quarantine::default(),
            in_flight,
            graces: JoinSet::new(),
            cleanings: JoinSet::new(),
            tasks: HashMap::new(),
            sweeps: JoinSet::new(),
            unswept: HashSet::new(),
            sweeping: Sweeping::default(),
            postponed: HashSet::new(),
            followed: None,
        }
    }

    /// What ends next. It loses nothing when it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Ended {
        let guards_keys = self.guards_keys();
        tokio::select! {
            Some(waited) = self.graces.join_next_with_id() => Ended::Grace(waited),
            Some(cleaned) = self.cleanings.join_next_with_id() => Ended::Cleaning(cleaned),
            Some(swept) = self.sweeps.join_next() => Ended::Sweep(swept),
            () = sleep_until(self.sweeping.told_at()), if guards_keys => Ended::Pause,
            else => std::future::pending().await,
        }
    }

    /// Others took writes for nodes that are away.
    pub(super) fn remember(&mut self, notes: impl IntoIterator<Item = Written>) {
        self.quarantine.remember(notes, &self.reader.load());
    }

    /// Follows the topology, to which a node may have come: nodes behind a fence are cleaned, and what others
    /// have of keys that moved is looked for.
    pub(super) fn follow(&mut self, topology: &Arc<Topology>, missed: u64, has_come: bool) -> Vec<Change> {
        self.quarantine.follow(topology, missed);
        for node in self.quarantine.due(topology) {
            let (graces, revision) = (self.in_flight.clone(), topology.revision);
            let waiter = self.graces.spawn(async move { (node, quarantine::grace(&graces, revision).await) });
            self.tasks.insert(waiter.id(), node);
        }
        // What others took for nodes while these were served as they were was not looked for.
        let minds = topology.policy.on_return != OnReturn::Serve;
        let is_other = self.followed.replace(topology.clone()).is_some_and(|before| {
            has_come
                || !Arc::ptr_eq(&before.ring, &topology.ring)
                || minds && before.policy.on_return == OnReturn::Serve
        });
        if is_other {
            self.sweep_all(topology);
        } else if self.may_go_on(topology) {
            self.sweep_again();
        }
        let waited_for = self.quarantine.waited_for(topology);
        waited_for.into_iter().map(|node| topology.news(node, News::Stripping)).collect()
    }

    /// Nothing is in flight any more that could write to keys which a node waits for.
    pub(super) fn begin_cleaning(
        &mut self,
        waited: Result<(Id, (NodeId, bool)), JoinError>,
        noted: &mut NotedWrites,
        brings: impl Fn(NodeId) -> Data,
    ) -> Vec<Change> {
        let (node, is_over) = match waited {
            Ok((id, waited)) => {
                self.tasks.remove(&id);
                waited
            }
            Err(error) => return self.lost(&error),
        };
        let topology = self.reader.load();
        if !is_over {
            self.quarantine.rest(node);
            let name = topology.position(node).map(|at| topology.nodes[at].node.name.clone());
            let why = "requests that may write its keys are in flight for long";
            tracing::warn!(pool = %topology.pool, node = name.as_deref(), why, "a node that is back waits");
            return vec![topology.news(node, News::NotCleaned)];
        }
        self.quarantine.remember(std::iter::from_fn(|| noted.here()), &topology);
        self.quarantine.follow(&topology, noted.missed());
        if self.quarantine.has_left(node) {
            // It was waited for what was in flight before another return than this one.
            self.quarantine.dropped(node);
            return vec![topology.news(node, News::NotCleaned)];
        }
        match self.quarantine.plan(&topology, node, brings(node)) {
            Some(cleaning) => {
                let is_long = cleaning.is_long();
                let cleaner = self.cleanings.spawn(quarantine::clean(cleaning));
                self.tasks.insert(cleaner.id(), node);
                if is_long {
                    // Nobody writes these keys there before it is told that they are clean, fenced off or
                    // not.
                    self.quarantine.strips(node);
                    return vec![topology.news(node, News::Stripping)];
                }
            }
            None => self.quarantine.dropped(node),
        }
        Vec::new()
    }

    /// What came of a cleaning.
    pub(super) fn end_cleaning(&mut self, ended: Result<(Id, Cleaned), JoinError>) -> Told {
        let mut cleaned = match ended {
            Ok((id, cleaned)) => {
                self.tasks.remove(&id);
                cleaned
            }
            Err(error) => return Told { changes: self.lost(&error), ..Told::default() },
        };
        let topology = self.reader.load();
        if self.quarantine.has_left(cleaned.node) {
            cleaned.done = Err("it left meanwhile".to_owned());
        }
        self.quarantine.ended(&topology, &cleaned);
        let (pool, node) = (topology.pool.clone(), cleaned.node);
        let mut is_emptied = false;
        let news = match cleaned.done {
            Ok(done) => {
                let is_empty = matches!(done, Done::Emptied(_) | Done::Stripped(_) | Done::WasEmpty);
                let below = if is_empty { LEVELS } else { cleaned.below };
                let leftovers = is_empty || cleaned.leftovers;
                // What is in a gutter is not looked for: it lives for a bounded time.
                if leftovers && topology.policy.rehashes() {
                    self.sweep_after(node);
                }
                is_emptied = matches!(done, Done::Emptied(_) | Done::WasEmpty);
                tell_loss(&topology, node, done);
                let emptied = matches!(done, Done::Emptied(_));
                News::Cleaned { below, leftovers, emptied, how: done.to_string().into() }
            }
            Err(why) => {
                // Of one that was given up it is said once what is wrong with it.
                if self.quarantine.refusal(node).is_none() {
                    let name = topology.position(node).map(|at| topology.nodes[at].node.name.clone());
                    tracing::warn!(%pool, node = name.as_deref(), why, "a node that is back can't be cleaned now");
                }
                News::NotCleaned
            }
        };
        Told { node: Some(node), is_emptied, changes: vec![topology.news(node, news)] }
    }

    /// A task that cleaned, or was about to, ended in a panic: its node must not wait for it.
    fn lost(&mut self, error: &JoinError) -> Vec<Change> {
        let Some(node) = self.tasks.remove(&error.id()) else { return Vec::new() };
        tracing::error!(%error, "cleaning a node failed inside ringway; it is tried again");
        self.quarantine.rest(node);
        vec![self.reader.load().news(node, News::NotCleaned)]
    }

    /// A node is back: does anything have to be done about what others took for it, before it is cleaned?
    pub(super) fn look_through_others(&mut self, topology: &Topology, node: NodeId) {
        match topology.policy.on_return {
            OnReturn::Flush => self.sweep_after(node),
            // What was looked through before says nothing of what they took since.
            OnReturn::Ttl => self.sweeping.returns(node),
            OnReturn::Quarantine | OnReturn::Serve => {}
        }
    }

    /// Deletes what others took for a node, once it owns its keys.
    pub(super) fn sweep_after(&mut self, node: NodeId) {
        self.unswept.insert(node);
        self.sweeping.returns(node);
        self.sweep();
    }

    /// Deletes what nodes have of keys that were theirs before a reload. Who is away is emptied when it is
    /// back.
    pub(super) fn sweep_all(&mut self, topology: &Topology) {
        if !topology.policy.minds_old_copies() {
            return;
        }
        self.quarantine.forget(topology);
        self.unswept.extend(topology.nodes.iter().map(|entry| entry.node.id));
        // What is under way is for a ring that was.
        self.sweeping.ends();
        self.sweep();
    }

    fn sweep(&mut self) {
        // Who has returned since is looked for afterwards, or one that flaps would have it begin anew for
        // ever.
        if self.sweeping.is_looking() {
            return;
        }
        // What one that is over has found was found under another ring, maybe.
        self.sweeps = JoinSet::new();
        if !self.unswept.is_empty() {
            let (returned, looks_for) = (self.unswept.iter().copied().collect(), self.sweeping.begins());
            self.sweeps.spawn(sweep::after_returns(self.reader.clone(), returned, looks_for));
        }
    }

    /// Whether others have to be looked through before keys may be given to them: that is told from time to
    /// time.
    pub(super) fn guards_keys(&self) -> bool {
        self.sweeping.is_looking() || !self.postponed.is_empty() || !self.unswept.is_empty()
    }

    /// Others are still looked through, or will be when their keys are not held any more: the keys of those
    /// who are back are not to be given to them, however long it takes.
    pub(super) fn still_sweeps(&mut self) -> Vec<Change> {
        self.sweeping.tells();
        let topology = self.reader.load();
        // That of one which still takes its keys back begins when it has them.
        let starts = |node: &NodeId| {
            let entry = topology.position(*node).map(|at| &topology.nodes[at]);
            entry.is_some_and(|entry| matches!(entry.placement, Placement::Starting(_)))
        };
        let looked = self.unswept.iter().filter(|node| self.sweeping.is_looking() || starts(node));
        // Those that are held for what each may have of the other would wait for ever.
        let is_stuck = |node: &NodeId| is_stuck(&topology, *node);
        let postponed = self.postponed.iter().filter(|node| !self.unswept.contains(node) && !is_stuck(node));
        looked.chain(postponed).map(|node| topology.news(*node, News::Sweeping)).collect()
    }

    /// Others were looked through for what they took for nodes that are back.
    pub(super) fn end_sweep(&mut self, ended: Result<Swept, JoinError>) -> Vec<Change> {
        let swept = match ended {
            Ok(swept) => swept,
            Err(error) => {
                // One that was aborted was replaced.
                if error.is_panic() {
                    tracing::error!(%error, "deleting leftovers failed inside ringway");
                    self.unswept.clear();
                    self.sweeping.ends();
                }
                return Vec::new();
            }
        };
        let Swept { nodes, mut skipped, away, mut waits } = swept;
        let again = self.sweeping.ends();
        self.unswept.retain(|node| !nodes.contains(node) || again.contains(node));
        if nodes.is_empty() {
            // The pool is gone.
            return Vec::new();
        }
        let topology = self.reader.load();
        for node in away {
            let placement = topology.position(node).map(|at| topology.nodes[at].placement);
            match placement {
                None => {}
                // It was cleaned of what was written elsewhere, and not of this.
                Some(Placement::Owns | Placement::Held) => {
                    skipped.push(node);
                    waits = true;
                }
                // It is emptied on its way back.
                Some(Placement::Away | Placement::Starting(_)) => self.quarantine.cut(node),
            }
        }
        // Of who could not be asked nothing is known: for all others it is waited as long as that takes at
        // most.
        let is_done = |node: &NodeId| skipped.iter().all(|skipped| skipped == node);
        let nodes = nodes.into_iter().filter(|node| !again.contains(node));
        let (done, open): (Vec<NodeId>, Vec<NodeId>) = nodes.partition(is_done);
        if waits {
            self.postponed.extend(open);
        }
        // Who was held may have been let go while others were looked through.
        if self.may_go_on(&topology) {
            self.unswept.extend(self.postponed.drain());
        }
        self.sweep();
        done.into_iter().map(|node| topology.news(node, News::Swept)).collect()
    }

    /// Whether what was put off as keys were held need not wait any more.
    pub(super) fn may_go_on(&self, topology: &Topology) -> bool {
        !self.postponed.is_empty() && !topology.nodes.iter().any(|e| e.placement == Placement::Held)
    }

    /// What could not be looked through as keys were held can be now.
    pub(super) fn sweep_again(&mut self) {
        self.unswept.extend(self.postponed.drain());
        self.sweep();
    }
}

/// Whether a node's keys are held for leftovers while nobody's are held for anything else, which would have
/// an end.
fn is_stuck(topology: &Topology, node: NodeId) -> bool {
    let is_held = |wait: &&Wait| {
        topology.position(wait.node).is_some_and(|at| topology.nodes[at].placement == Placement::Held)
    };
    let mut held = topology.waits.iter().filter(is_held);
    let is_for_leftovers = |wait: &Wait| wait.reason == WaitReason::Leftovers;
    held.clone().any(|wait| wait.node == node) && held.all(is_for_leftovers)
}

/// Says that a node lost keys, and why.
fn tell_loss(topology: &Topology, node: NodeId, done: Done) {
    let (keys, what) = match done {
        Done::Emptied(Some(keys @ 1..)) => (keys, "a node that is back was emptied"),
        Done::Stripped(keys @ 1..) => {
            (keys, "of a node that is back all keys were deleted that others had meanwhile")
        }
        _ => return,
    };
    let why = match (topology.policy.on_return, topology.policy.sole_writer) {
        (OnReturn::Flush, _) => "on_return is flush",
        (OnReturn::Ttl, _) => "not all that it had is known to have been written with this ttl_max in force",
        (_, false) => "sole_writer: true would keep what is not old, if nobody else writes to it",
        (_, true) => "it is another process than before, or not all is known that was written elsewhere",
    };
    let (pool, name) =
        (&topology.pool, topology.position(node).map(|at| topology.nodes[at].node.name.clone()));
    tracing::warn!(%pool, node = name.as_deref(), keys, why, "{what}");
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc, time::Duration};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        health::{Lag, Scene, Ward},
        topology::{
            Admission, Entry, HealthSettings, OnReturn, Placement, Policy, Topology, channel, write_notes,
        },
    };

    async fn fails<T>() -> T {
        panic!("a bug")
    }

    /// A task that panics, be it that it waits or that it cleans, leaves no node behind its fence: membership
    /// is told that nothing came of it, and the node is due again, though not at once.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_fences_nobody() {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let placement = Placement::Starting(Admission { admitted: 0, fence: LEVELS });
        let nodes = one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect();
        let fenced = Topology { nodes, ..one };
        let node = fenced.nodes[0].node.id;
        let (_writer, reader) = channel(fenced.clone());
        let (_, mut noted) = write_notes();
        let mut cleaner = Cleaner::new(reader, Arc::new([]));
        let is_given_up = |cleaner: &mut Cleaner, changes: &[Change]| {
            let [Change::News { node: id, news: News::NotCleaned, .. }] = changes else {
                panic!("{changes:?}")
            };
            assert_eq!(*id, node);
            assert!(cleaner.tasks.is_empty());
        };

        assert_eq!(cleaner.quarantine.due(&fenced), [node]);
        let waiter = cleaner.graces.spawn(fails());
        cleaner.tasks.insert(waiter.id(), node);
        let waited = cleaner.graces.join_next_with_id().await.expect("there is one");
        let changes = cleaner.begin_cleaning(waited, &mut noted, |_| Data::Unknown);
        is_given_up(&mut cleaner, &changes);

        assert_eq!(cleaner.quarantine.due(&fenced), [], "not at once");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cleaner.quarantine.due(&fenced), [node], "it is due again");
        let cleaning = cleaner.cleanings.spawn(fails());
        cleaner.tasks.insert(cleaning.id(), node);
        let cleaned = cleaner.cleanings.join_next_with_id().await.expect("there is one");
        let changes = cleaner.end_cleaning(cleaned).changes;
        is_given_up(&mut cleaner, &changes);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cleaner.quarantine.due(&fenced), [node], "it is due again");
    }

    /// Who was away while leftovers were looked for is emptied on its way back; who is in its place again by
    /// then has what it had, so that for all others it is looked again, at once if nobody's keys are held.
    #[tokio::test]
    async fn who_was_away_meanwhile() {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        for (placement, is_cut) in [(Placement::Away, true), (Placement::Owns, false)] {
            let one =
                super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
            let nodes = one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect();
            let topology = Topology { nodes, ..one };
            let (away, other) = (topology.nodes[0].node.id, NodeId(99));
            let (_writer, reader) = channel(topology.clone());
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            let swept = Swept { nodes: vec![other], skipped: vec![], away: vec![away], waits: false };
            let told = cleaner.end_sweep(Ok(swept));
            assert_eq!(told.len(), usize::from(is_cut), "{told:?}");
            assert_eq!(cleaner.quarantine.is_cut(away), is_cut);
            assert_eq!(cleaner.unswept.contains(&other), !is_cut, "it is looked again");
        }
    }

    /// Whoever returns while others are looked through is looked for afterwards: what was done is not done
    /// again, and it is told that it goes on. Who returns once more than it is looked for is not done.
    #[tokio::test]
    async fn what_was_looked_through_is_done() {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let (writer, reader) = channel(one.clone());
        let mut cleaner = Cleaner::new(reader, Arc::new([]));
        // Gone from the pool, so that it is not waited for.
        let [first, second] = [NodeId(98), NodeId(99)];
        cleaner.sweep_after(first);
        let begun = async {
            while !cleaner.sweeping.is_looking() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it begins");
        cleaner.sweep_after(second);
        assert_eq!(cleaner.sweeps.len(), 1, "it goes on");
        assert_eq!(cleaner.still_sweeps().len(), 2);
        let swept = |nodes| Swept { nodes, skipped: vec![], away: vec![], waits: false };
        let told = cleaner.end_sweep(Ok(swept(vec![first])));
        assert!(
            matches!(&told[..], [Change::News { node, news: News::Swept, .. }] if *node == first),
            "{told:?}"
        );
        assert_eq!(cleaner.unswept.iter().copied().collect::<Vec<_>>(), [second]);

        let begun = async {
            while !cleaner.sweeping.is_looking() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it begins");
        cleaner.sweep_after(second);
        assert_eq!(cleaner.end_sweep(Ok(swept(vec![second]))).len(), 0, "it is back once more");
        assert!(cleaner.unswept.contains(&second));

        // A reload moves keys, and what was found before speaks for the ring that was.
        let over = cleaner.sweeps.spawn(async move { swept(vec![second]) });
        while !over.is_finished() {
            tokio::task::yield_now().await;
        }
        cleaner.sweeping.ends();
        cleaner.sweep();
        assert_eq!(cleaner.sweeps.len(), 1, "what is over is not heard any more");
        drop(writer);
    }

    /// What is known of a node that is away is not known of another identity of it, and not any more when a
    /// reload moves keys: that has others looked through, too.
    #[tokio::test]
    async fn what_is_not_known_any_more() {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let policy = Policy { sole_writer: true, on_return: OnReturn::Quarantine, ..(*one.policy).clone() };
        let placed = |placement, revision, one: &Topology| Topology {
            nodes: one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect(),
            policy: Arc::new(policy.clone()),
            revision,
            ..one.clone()
        };
        let node = one.nodes[0].node.id;
        let ward = |topology: &Topology| {
            let (writer, reader) = channel(topology.clone());
            let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
            ward.admit(&write_notes().1);
            (ward, writer)
        };
        let away = placed(Placement::Away, 2, &one);
        assert!(ward(&away).0.cleaner.quarantine.is_cut(node), "it was another one before");

        let (mut ward, writer) = ward(&placed(Placement::Owns, 1, &one));
        writer.publish(away.clone());
        ward.admit(&write_notes().1);
        assert!(
            !ward.cleaner.quarantine.is_cut(node) && ward.cleaner.unswept.is_empty(),
            "it left before its eyes"
        );
        let other =
            super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        writer.publish(Topology { ring: other.ring, revision: 3, ..away });
        ward.admit(&write_notes().1);
        assert!(
            ward.cleaner.quarantine.is_cut(node) && ward.cleaner.unswept.contains(&node),
            "the ring is another one"
        );
    }

    /// What could not be looked through, as keys were held, is told to be open still, also while nobody
    /// looks; but not of those that are held for what each may have of the other, which would never end.
    #[tokio::test]
    async fn what_is_put_off_is_told() {
        use Placement::{Held, Owns};
        use WaitReason::{HoldDown, Leftovers};
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let second = |node: &crate::topology::Node| crate::topology::Node {
            id: NodeId(8),
            name: "n1".into(),
            address: node.address.clone(),
            weight: 1,
            zone: None,
            evidence: crate::topology::Evidence::default(),
            load: Arc::default(),
            blocks: Arc::new([]),
        };
        let first = one.nodes[0].clone();
        let other = Entry { node: Arc::new(second(&first.node)), ..first.clone() };
        let (first_id, other_id) = (first.node.id, other.node.id);
        for (placements, reasons, expected) in [
            ([Owns, Held], [None, Some(HoldDown)], 1),
            ([Owns, Held], [None, Some(Leftovers)], 1),
            ([Held, Held], [Some(Leftovers), Some(HoldDown)], 1),
            ([Held, Held], [Some(Leftovers), Some(Leftovers)], 0),
        ] {
            let nodes = [&first, &other].into_iter().zip(placements);
            let nodes = nodes.map(|(entry, placement)| Entry { placement, ..entry.clone() }).collect();
            let waits = [first_id, other_id].into_iter().zip(reasons);
            let waits = waits.filter_map(|(node, reason)| Some(Wait { node, reason: reason?, due: None }));
            let topology = Topology { nodes, waits: waits.collect(), ..one.clone() };
            let (_writer, reader) = channel(topology);
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            assert!(!cleaner.guards_keys());
            let (skipped, away) = (vec![other_id], vec![]);
            cleaner.unswept.insert(first_id);
            cleaner.end_sweep(Ok(Swept { nodes: vec![first_id], skipped, away, waits: true }));
            assert!(cleaner.guards_keys(), "{placements:?}");
            assert_eq!(cleaner.still_sweeps().len(), expected, "{placements:?} {reasons:?}");
        }
    }

    /// While a node takes its keys back nobody is looked through for it yet, and what others have is guarded
    /// all the same.
    #[tokio::test]
    async fn who_starts_is_guarded() {
        use crate::topology::Admission;
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let id = one.nodes[0].node.id;
        let half = Placement::Starting(Admission { admitted: LEVELS / 2, fence: LEVELS / 2 });
        for (placement, expected) in [(half, 1), (Placement::Away, 0)] {
            let nodes = one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect();
            let (_writer, reader) = channel(Topology { nodes, ..one.clone() });
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            cleaner.unswept.insert(id);
            assert!(cleaner.guards_keys());
            assert_eq!(cleaner.still_sweeps().len(), expected, "{placement:?}");
        }
    }

    /// What others took while nodes were served as they were is looked for when that ends, and not before.
    #[tokio::test]
    async fn what_serve_left_is_looked_for() {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let policy = |on_return| Arc::new(crate::topology::Policy { on_return, ..(*one.policy).clone() });
        let (writer, reader) = channel(Topology { policy: policy(OnReturn::Serve), ..one.clone() });
        let mut cleaner = Cleaner::new(reader, Arc::new([]));
        for (revision, on_return, is_looked) in [(2, OnReturn::Serve, false), (3, OnReturn::Flush, true)] {
            cleaner.follow(&cleaner.reader.load(), 0, false);
            writer.publish(Topology { revision, policy: policy(on_return), ..one.clone() });
            cleaner.follow(&cleaner.reader.load(), 0, false);
            assert_eq!(cleaner.unswept.is_empty(), !is_looked, "{on_return:?}");
        }
    }
}

//! Nodes that are back are cleaned: when their keys are fenced off and nothing is in flight any more, what
//! is old is deleted, and membership is told.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    quarantine::{self, Cleaned, Done, Quarantine},
    sweep::{self, Swept, TELL},
};
use crate::topology::{
    Change, Data, LEVELS, Leftovers, News, NodeId, NotedWrites, OnReturn, Placement, Topology,
    TopologyReader, Wait, WaitReason, Written,
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
    /// Of whom, and those of which it was told what came of that.
    looks_for: Vec<Leftovers>,
    done: Vec<Leftovers>,
    /// When it was last told that it goes on.
    told: Instant,
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
            looks_for: Vec::new(),
            done: Vec::new(),
            told: Instant::now(),
            followed: None,
        }
    }

    /// What ends next. It loses nothing when it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Ended {
        let guards_keys = !self.reader.load().leftovers.is_empty();
        tokio::select! {
            Some(waited) = self.graces.join_next_with_id() => Ended::Grace(waited),
            Some(cleaned) = self.cleanings.join_next_with_id() => Ended::Cleaning(cleaned),
            Some(swept) = self.sweeps.join_next() => Ended::Sweep(swept),
            () = sleep_until(self.told + TELL), if guards_keys => Ended::Pause,
            else => std::future::pending().await,
        }
    }

    /// Others took writes for nodes that are away.
    pub(super) fn remember(&mut self, notes: impl IntoIterator<Item = Written>) {
        self.quarantine.remember(notes, &self.reader.load());
    }

    /// Follows the topology, to which a node may have come: nodes behind a fence are cleaned, and others of
    /// what is left over. When keys moved it is not known any more what nodes have that are away.
    pub(super) fn follow(&mut self, topology: &Arc<Topology>, missed: u64, has_come: bool) -> Vec<Change> {
        self.quarantine.follow(topology, missed);
        for node in self.quarantine.due(topology) {
            let (graces, revision) = (self.in_flight.clone(), topology.revision);
            let waiter = self.graces.spawn(async move { (node, quarantine::grace(&graces, revision).await) });
            self.tasks.insert(waiter.id(), node);
        }
        // While nodes were served as they were nothing was noted.
        let minds = topology.policy.on_return != OnReturn::Serve;
        let is_other = self.followed.replace(topology.clone()).is_some_and(|before| {
            has_come
                || !Arc::ptr_eq(&before.ring, &topology.ring)
                || minds && before.policy.on_return == OnReturn::Serve
        });
        if is_other && topology.policy.minds_old_copies() {
            self.quarantine.forget(topology);
        }
        self.done.retain(|left| topology.leftovers.contains(left));
        self.sweep();
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

    /// Looks through others for those of whose keys they may have old copies.
    fn sweep(&mut self) {
        if !self.sweeps.is_empty() {
            return;
        }
        let mut due = sweep::due(&self.reader.load());
        due.retain(|left| !self.done.contains(left));
        if !due.is_empty() {
            self.looks_for.clone_from(&due);
            self.sweeps.spawn(sweep::look_through(self.reader.clone(), due));
        }
    }

    /// Others are still looked through, or will be when their keys are not held any more: the keys of those
    /// who are back are not to be given to them, however long it takes.
    pub(super) fn still_sweeps(&mut self) -> Vec<Change> {
        self.told = Instant::now();
        let topology = self.reader.load();
        let guards = |left: &&Leftovers| {
            let placement = topology.position(left.node).map(|at| topology.nodes[at].placement);
            match placement {
                // It gave its keys up by an operator's word.
                None | Some(Placement::Away) => false,
                // That of one which still takes its keys back begins when it has them.
                Some(Placement::Starting(_)) => true,
                // Those that are held for what each may have of the other would wait for ever.
                Some(Placement::Owns | Placement::Held) => {
                    !self.sweeps.is_empty() || !is_stuck(&topology, left.node)
                }
            }
        };
        let guarded = topology.leftovers.iter().filter(|left| !self.done.contains(left)).filter(guards);
        guarded.map(|left| topology.news(left.node, News::Sweeping)).collect()
    }

    /// Others were looked through for what they took for nodes that are back.
    pub(super) fn end_sweep(&mut self, ended: Result<Swept, JoinError>) -> Vec<Change> {
        let topology = self.reader.load();
        let looked_for = std::mem::take(&mut self.looks_for);
        let (done, open) = match ended {
            Ok(swept) => self.looked_through(&topology, swept),
            Err(error) => {
                tracing::error!(%error, "deleting leftovers failed inside ringway");
                (Vec::new(), looked_for)
            }
        };
        self.done.extend(done.iter().chain(&open));
        self.sweep();
        let swept = done.into_iter().map(|Leftovers { node, turn }| (node, News::Swept { turn }));
        let open = open.into_iter().map(|Leftovers { node, turn }| (node, News::NotSwept { turn }));
        swept.chain(open).map(|(node, news)| topology.news(node, news)).collect()
    }

    /// For whom that is done, and for whom it is given up. For all others it is done once more.
    fn looked_through(&mut self, topology: &Topology, swept: Swept) -> (Vec<Leftovers>, Vec<Leftovers>) {
        let Swept { leftovers, mut skipped, away, mut waits } = swept;
        for node in away {
            match topology.position(node).map(|at| topology.nodes[at].placement) {
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
        let is_done = |left: &Leftovers| skipped.iter().all(|skipped| *skipped == left.node);
        let (done, mut open): (Vec<Leftovers>, Vec<Leftovers>) = leftovers.into_iter().partition(is_done);
        if waits {
            open.clear();
        }
        (done, open)
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

    /// A pool of one node with this placement, of whose keys others may have old copies, as far as it says.
    fn with_leftovers(placement: Placement, leftovers: &[Leftovers]) -> Topology {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let nodes = one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect();
        Topology { nodes, leftovers: leftovers.into(), ..one }
    }

    fn left(node: NodeId) -> Leftovers {
        Leftovers { node, turn: 7 }
    }

    /// Who was away while leftovers were looked for is emptied on its way back; who is in its place again by
    /// then has what it had, so that for all others it is looked again: that is not told to be done.
    #[tokio::test]
    async fn who_was_away_meanwhile() {
        for (placement, is_cut) in [(Placement::Away, true), (Placement::Owns, false)] {
            let topology = with_leftovers(placement, &[]);
            let (away, other) = (topology.nodes[0].node.id, NodeId(99));
            let (_writer, reader) = channel(topology.clone());
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            let leftovers = vec![left(other)];
            let swept = Swept { leftovers, skipped: vec![], away: vec![away], waits: false };
            let told = cleaner.end_sweep(Ok(swept));
            assert_eq!(told.len(), usize::from(is_cut), "{told:?}");
            assert_eq!(cleaner.quarantine.is_cut(away), is_cut);
        }
    }

    /// For whom it is due others are looked through, once, until it is due for it anew; and while that goes
    /// on nobody else has it begin again.
    #[tokio::test]
    async fn what_is_due_is_looked_for() {
        let one = with_leftovers(Placement::Owns, &[]);
        let node = one.nodes[0].node.id;
        let (writer, reader) = channel(one.clone());
        let mut cleaner = Cleaner::new(reader, Arc::new([]));
        let follow = |cleaner: &mut Cleaner, revision, leftovers: &[Leftovers]| {
            writer.publish(Topology { revision, leftovers: leftovers.into(), ..one.clone() });
            cleaner.follow(&writer.current(), 0, false);
            cleaner.looks_for.clone()
        };
        assert_eq!(follow(&mut cleaner, 2, &[]), []);
        assert_eq!(follow(&mut cleaner, 3, &[left(node)]), [left(node)]);
        let anew = Leftovers { turn: 8, ..left(node) };
        assert_eq!(follow(&mut cleaner, 4, &[anew]), [left(node)], "it goes on");
        let swept = |left| Swept { leftovers: vec![left], skipped: vec![], away: vec![], waits: false };
        let ends = |cleaner: &mut Cleaner, left| {
            cleaner.sweeps = JoinSet::new();
            let told = cleaner.end_sweep(Ok(swept(left)));
            let [Change::News { node: of, news: News::Swept { turn }, .. }] = told[..] else {
                panic!("{told:?}")
            };
            assert_eq!(Leftovers { node: of, turn }, left);
            cleaner.looks_for.clone()
        };
        assert_eq!(ends(&mut cleaner, left(node)), [anew], "it is due anew");
        assert_eq!(ends(&mut cleaner, anew), [], "it is done, be it not heard yet");
        assert_eq!(follow(&mut cleaner, 5, &[anew]), []);
        assert_eq!(follow(&mut cleaner, 6, &[left(node)]), [left(node)]);
        cleaner.sweeps = JoinSet::new();
        cleaner.sweeps.spawn(fails());
        let ended = cleaner.sweeps.join_next().await.expect("there is one");
        let told = cleaner.end_sweep(ended);
        assert!(matches!(told[..], [Change::News { news: News::NotSwept { turn: 7 }, .. }]), "{told:?}");
    }

    /// What is known of a node that is away is not known of another identity of it, and not any more when a
    /// reload moves keys.
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
        assert!(!ward.cleaner.quarantine.is_cut(node), "it left before its eyes");
        let other =
            super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        writer.publish(Topology { ring: other.ring, revision: 3, ..away });
        ward.admit(&write_notes().1);
        assert!(ward.cleaner.quarantine.is_cut(node), "the ring is another one");
    }

    /// While keys are held nobody is looked through for others; what is put off for that is told to be open
    /// still, but not of those that are held for what each may have of the other, which would never end.
    #[tokio::test]
    async fn what_is_put_off_is_told() {
        use Placement::{Held, Owns};
        use WaitReason::{HoldDown, Leftovers};
        let one = with_leftovers(Owns, &[]);
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
        for (placements, reasons, due, guarded) in [
            ([Owns, Owns], [None, None], 2, 2),
            ([Owns, Held], [None, Some(HoldDown)], 1, 2),
            ([Owns, Held], [None, Some(Leftovers)], 1, 1),
            ([Held, Held], [Some(Leftovers), Some(HoldDown)], 0, 2),
            ([Held, Held], [Some(Leftovers), Some(Leftovers)], 0, 0),
        ] {
            let nodes = [&first, &other].into_iter().zip(placements);
            let nodes = nodes.map(|(entry, placement)| Entry { placement, ..entry.clone() }).collect();
            let waits = [first_id, other_id].into_iter().zip(reasons);
            let waits = waits.filter_map(|(node, reason)| Some(Wait { node, reason: reason?, due: None }));
            let leftovers = Arc::new([left(first_id), left(other_id)]);
            let topology = Topology { nodes, waits: waits.collect(), leftovers, ..one.clone() };
            assert_eq!(sweep::due(&topology).len(), due, "{placements:?} {reasons:?}");
            let (_writer, reader) = channel(topology);
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            assert_eq!(cleaner.still_sweeps().len(), guarded, "{placements:?} {reasons:?}");
        }
    }

    /// While a node takes its keys back nobody is looked through for it yet, and what others have is guarded
    /// all the same; of one that gave them up by an operator's word it is not.
    #[tokio::test]
    async fn who_starts_is_guarded() {
        let half = Placement::Starting(Admission { admitted: LEVELS / 2, fence: LEVELS / 2 });
        for (placement, expected) in [(half, 1), (Placement::Away, 0)] {
            let topology = with_leftovers(placement, &[]);
            let leftovers = Arc::new([left(topology.nodes[0].node.id)]);
            let topology = Topology { leftovers, ..topology };
            assert_eq!(sweep::due(&topology), []);
            let (_writer, reader) = channel(topology);
            let mut cleaner = Cleaner::new(reader, Arc::new([]));
            assert_eq!(cleaner.still_sweeps().len(), expected, "{placement:?}");
        }
    }
}

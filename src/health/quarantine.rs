//! QUARANTINE. A node that is back has old values of the keys that were written elsewhere while it was
//! away, and whoever took those writes keeps them: at the next absence they would come up again. So both
//! are deleted before the node owns those keys. Membership fences them off, so that nobody serves them and no
//! write slips in between; when nothing is in flight any more that was sent before, this room cleans and
//! says so. Where the writes are not known exactly, the node is emptied instead; and where some of its keys
//! stay with it whatever happens, it is stripped of all others, which takes a while, so that these go on
//! elsewhere meanwhile.
//!
//! Exact is what was noted since the node left, as long as this ringway is the pool's only writer, is the
//! one that saw the node leave, found room for every note, and the node is the process that it was.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire},
    },
};

use tokio::time::{Duration, Instant, sleep};

use super::probe::{self, Question};
use crate::topology::{
    Data, Entry, Health, NodeId, NotedWrites, OnReturn, Placement, Samples, Topology, Written, level,
};

/// How long is waited for what is in flight, and how long cleaning may take: requests wait meanwhile.
const GRACE: Duration = Duration::from_millis(700);
const CLEANING: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(1);
/// From a try to the next; membership lets one begin after a second.
const REST: Duration = Duration::from_millis(900);
/// Beyond what probes take: requests that wait for a verdict, a control that is late.
const VERDICT: Duration = Duration::from_secs(5);
/// A node that could not be cleaned key by key so often is emptied.
const TRIES: u32 = 3;
/// From telling that keys need not wait for a node that is stripped to telling it again.
const REPEAT: Duration = Duration::from_millis(500);

/// What health is given by a pool's workers: to clean nodes that are back, and to know what they are busy
/// with.
#[derive(Debug)]
pub struct Returns {
    /// The writes that nodes take for others.
    pub noted: NotedWrites,
    /// The revisions before which nothing is in flight, worker by worker.
    pub graces: Arc<[AtomicU64]>,
    /// What nodes are asked for.
    pub samples: Samples,
}

/// What is known of the writes that nodes took for others.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    logs: HashMap<NodeId, Log>,
    /// Of nodes that serve.
    doubts: HashMap<NodeId, Doubts>,
    missed: u64,
    /// Nodes that are being cleaned, and whether they left meanwhile.
    busy: HashMap<NodeId, bool>,
    /// How often nodes could not be cleaned since they are back.
    failed: HashMap<NodeId, u32>,
    /// Why nodes can't be cleaned that were tried often enough.
    refused: HashMap<NodeId, Arc<str>>,
    /// Until when those are not tried again that could not be cleaned.
    rests: HashMap<NodeId, Instant>,
    /// Nodes that are being stripped, and when it was last told that their keys need not wait.
    stripped: HashMap<NodeId, Instant>,
}

/// What was in flight at a node that serves when a connection to it broke.
#[derive(Debug)]
struct Doubts {
    /// When one broke last.
    at: Instant,
    /// The node was not well since: until it is, it may leave for that, be the verdict withheld for long or
    /// refused.
    is_open: bool,
    log: Log,
}

impl Doubts {
    /// Whether the node serves on in spite of it.
    fn are_over(&self, topology: &Topology, now: Instant) -> bool {
        !self.is_open && self.at + verdict_max(topology) < now
    }
}

/// What was written elsewhere while a node is away.
#[derive(Debug, Default)]
struct Log {
    /// Who took the write, and the key.
    keys: HashSet<(NodeId, Box<[u8]>)>,
    /// There was more.
    is_cut: bool,
}

/// What has to be done to a node before it may own more of its keys.
#[derive(Debug)]
pub(super) struct Cleaning {
    pub(super) node: NodeId,
    pub(super) below: u32,
    /// Somebody who took writes for it can't be asked now, and is not this pool's to be cleaned later.
    leftovers: bool,
    work: Vec<(Question, Work)>,
}

#[derive(Debug)]
enum Work {
    /// There is nothing to do.
    Nothing,
    Empty,
    /// All that others may have had is deleted.
    Strip,
    Delete(Vec<Box<[u8]>>),
}

impl Cleaning {
    /// Whether it takes longer than requests can wait.
    pub(super) fn is_long(&self) -> bool {
        self.work.iter().any(|(_, work)| matches!(work, Work::Strip))
    }
}

/// What came of a cleaning.
#[derive(Debug)]
pub(super) struct Cleaned {
    pub(super) node: NodeId,
    pub(super) below: u32,
    /// Others may still have what they took for it.
    pub(super) leftovers: bool,
    /// What was done, or why it was not.
    pub(super) done: Result<Done, String>,
}

/// How a node was cleaned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// So many keys were deleted, here and where they were written.
    Deleted(usize),
    /// It was emptied, of so many keys if it said how many.
    Emptied(Option<u64>),
    /// So many keys were deleted: all that others may have had. Those that stay with it are kept.
    Stripped(u64),
    /// It came back empty; those that took its writes are not cleaned.
    WasEmpty,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Deleted(0) => f.write_str("nothing of it was written elsewhere"),
            Done::Deleted(n) => write!(f, "{n} copies of keys that were written elsewhere are deleted"),
            Done::WasEmpty => f.write_str("it has nothing"),
            Done::Emptied(keys) => {
                let keys = keys.map_or_else(String::new, |keys| format!(" of {keys} keys"));
                write!(f, "it is emptied{keys}, as it is not known exactly what is old")
            }
            Done::Stripped(keys) => write!(
                f,
                "{keys} keys of it that others had meanwhile are deleted, as it is not known exactly what is old; \
                 those that stay with it are kept"
            ),
        }
    }
}

impl Log {
    /// Remembers a write, if there are not too many.
    fn add(&mut self, taken_by: NodeId, key: Box<[u8]>, room: usize) {
        if self.is_cut {
            return;
        }
        self.keys.insert((taken_by, key));
        if self.keys.len() > room {
            *self = Log { keys: HashSet::new(), is_cut: true };
        }
    }
}

impl Quarantine {
    /// Remembers notes.
    pub(super) fn remember(&mut self, notes: impl IntoIterator<Item = Written>, topology: &Topology) {
        let room = topology.policy.quarantine_max;
        for Written { away, taken_by, key } in notes {
            let owner = owner(topology, away).filter(|_| away == taken_by);
            if let Some(owner) = owner {
                let now = Instant::now();
                let new = || Doubts { at: now, is_open: false, log: Log::default() };
                let doubts = self.doubts.entry(away).or_insert_with(new);
                if doubts.are_over(topology, now) {
                    *doubts = new();
                }
                (doubts.at, doubts.is_open) = (now, owner.health != Health::Healthy);
                doubts.log.add(taken_by, key, room);
            } else {
                self.logs.entry(away).or_default().add(taken_by, key, room);
            }
        }
    }

    /// What was in flight when a node's connections broke counts as written elsewhere if it left for that.
    fn confirm_doubts(&mut self, topology: &Topology) {
        let (room, now, logs) = (topology.policy.quarantine_max, Instant::now(), &mut self.logs);
        self.doubts.retain(|id, doubts| {
            let owner = owner(topology, *id);
            let is_well = owner.is_some_and(|entry| entry.health == Health::Healthy);
            doubts.is_open &= !is_well;
            if doubts.are_over(topology, now) || topology.position(*id).is_none() {
                return false;
            }
            doubts.is_open |= !is_well;
            if owner.is_some() {
                return true;
            }
            let log = logs.entry(*id).or_default();
            log.is_cut |= doubts.log.is_cut;
            doubts.log.keys.drain().for_each(|(taken_by, key)| log.add(taken_by, key, room));
            false
        });
    }

    /// Follows the topology: nodes that own all their keys have nothing old, and notes that were missed
    /// are missed for all others.
    pub(super) fn follow(&mut self, topology: &Topology, missed: u64) {
        if !self.busy.is_empty() {
            let is_starting = |e: &&Entry| matches!(e.placement, Placement::Starting(_));
            let starting: HashSet<NodeId> =
                topology.nodes.iter().filter(is_starting).map(|e| e.node.id).collect();
            self.busy.iter_mut().for_each(|(id, left)| *left |= !starting.contains(id));
        }
        let away: HashSet<NodeId> = topology
            .nodes
            .iter()
            .filter(|entry| entry.placement != Placement::Owns)
            .map(|entry| entry.node.id)
            .collect();
        self.logs.retain(|id, _| away.contains(id));
        self.confirm_doubts(topology);
        // Another return is another matter.
        let is_starting = |id: &NodeId| {
            let at = topology.position(*id);
            at.is_some_and(|at| matches!(topology.nodes[at].placement, Placement::Starting(_)))
        };
        self.rests.retain(|id, _| is_starting(id));
        self.refused.retain(|id, _| is_starting(id));
        self.failed.retain(|id, _| is_starting(id));
        let policy = &topology.policy;
        let is_noted = policy.on_return == OnReturn::Quarantine && policy.sole_writer;
        if std::mem::replace(&mut self.missed, missed) != missed || !is_noted {
            away.into_iter().for_each(|id| self.cut(id));
        }
    }

    /// It is not known what was written elsewhere for a node.
    pub(super) fn cut(&mut self, node: NodeId) {
        self.logs.insert(node, Log { keys: HashSet::new(), is_cut: true });
    }

    /// Whether that is so.
    pub(super) fn is_cut(&self, node: NodeId) -> bool {
        self.logs.get(&node).is_some_and(|log| log.is_cut)
    }

    /// Whether all that a node has is deleted when it is cleaned, as what is known is not enough, or was of
    /// no use.
    pub(super) fn is_inexact(&self, node: NodeId) -> bool {
        self.is_cut(node) || self.failed.get(&node).is_some_and(|failed| *failed >= TRIES)
    }

    /// Of nodes that are away it is not known any more what they have.
    pub(super) fn forget(&mut self, topology: &Topology) {
        let away = topology.nodes.iter().filter(|entry| entry.placement == Placement::Away);
        away.for_each(|entry| self.cut(entry.node.id));
    }

    /// The nodes that are to be cleaned and are not yet.
    pub(super) fn due(&mut self, topology: &Topology) -> Vec<NodeId> {
        let is_fenced = |placement| matches!(placement, Placement::Starting(to) if to.is_fenced());
        let now = Instant::now();
        self.rests.retain(|_, until| *until > now);
        let rests = &self.rests;
        let fenced =
            topology.nodes.iter().filter(|e| is_fenced(e.placement) && !rests.contains_key(&e.node.id));
        let mut due = Vec::new();
        for id in fenced.map(|entry| entry.node.id) {
            self.busy.entry(id).or_insert_with(|| {
                due.push(id);
                false
            });
        }
        due
    }

    /// A node leaves. What is written elsewhere from now on is no matter of a cleaning that is under way.
    pub(super) fn leaves(&mut self, node: NodeId) {
        self.failed.remove(&node);
        if let Some(left) = self.busy.get_mut(&node) {
            *left = true;
        }
    }

    /// Whether a node left after its cleaning was found due: it may be back already, and is cleaned anew.
    pub(super) fn has_left(&self, node: NodeId) -> bool {
        self.busy.get(&node).is_some_and(|left| *left)
    }

    /// What is to be done to a node that came back with this; `None` when it is not to be cleaned any more.
    pub(super) fn plan(&mut self, topology: &Topology, node: NodeId, data: Data) -> Option<Cleaning> {
        let at = topology.position(node)?;
        let Placement::Starting(to) = topology.nodes[at].placement else { return None };
        let policy = &topology.policy;
        let is_known = policy.on_return == OnReturn::Quarantine
            && policy.sole_writer
            && matches!(data, Data::Same | Data::Empty)
            && !self.is_inexact(node);
        if !is_known {
            let what = match data {
                Data::Empty => Work::Nothing,
                _ if policy.keeps_keys() => Work::Strip,
                _ => Work::Empty,
            };
            let work = vec![(question(topology, at), what)];
            return Some(Cleaning { node, below: to.fence, leftovers: true, work });
        }
        let mut by_node: HashMap<usize, Vec<Box<[u8]>>> = HashMap::new();
        let (mut later, mut leftovers) = (Vec::new(), false);
        for (taken_by, key) in self.below(topology, node, to.fence) {
            by_node.entry(at).or_default().push(key.clone());
            match topology.position_over(*taken_by).filter(|other| *other != at) {
                None => {}
                Some(other) if is_reached(topology.entry(other)) => {
                    by_node.entry(other).or_default().push(key.clone());
                }
                // Its own pool cleans it, and knows nothing of these keys.
                Some(other) if topology.is_gutter(other) => leftovers = true,
                // It is not cleaned when it answers again: it has not left.
                Some(other) if topology.entry(other).placement != Placement::Away => leftovers = true,
                // It is away now, and has an old value when it is back.
                Some(_) => later.push(Written { away: *taken_by, taken_by: *taken_by, key: key.clone() }),
            }
        }
        self.remember(later, topology);
        let work = by_node.into_iter().map(|(other, mut keys)| {
            keys.sort_unstable();
            keys.dedup();
            (question(topology, other), Work::Delete(keys))
        });
        Some(Cleaning { node, below: to.fence, leftovers, work: work.collect() })
    }

    fn below(
        &self,
        topology: &Topology,
        node: NodeId,
        below: u32,
    ) -> impl Iterator<Item = &(NodeId, Box<[u8]>)> {
        let keys = self.logs.get(&node).into_iter().flat_map(|log| &log.keys);
        keys.filter(move |(_, key)| level(topology.ring.hash(key)) < below)
    }

    /// A cleaning ended.
    pub(super) fn ended(&mut self, topology: &Topology, cleaned: &Cleaned) {
        self.complain(cleaned);
        // One that left meanwhile is cleaned anew as soon as it is back, and nothing refused that.
        let has_left = self.has_left(cleaned.node);
        self.dropped(cleaned.node);
        if cleaned.done.is_err() && !has_left {
            self.rests.insert(cleaned.node, Instant::now() + REST);
            *self.failed.entry(cleaned.node).or_default() += 1;
        }
        let Some(log) = self.logs.get_mut(&cleaned.node) else { return };
        match cleaned.done {
            Err(_) => {}
            Ok(Done::Emptied(_) | Done::Stripped(_) | Done::WasEmpty) => *log = Log::default(),
            Ok(Done::Deleted(_)) => {
                log.keys.retain(|(_, key)| level(topology.ring.hash(key)) >= cleaned.below);
            }
        }
    }

    /// Remembers why a node can't be cleaned, when all was tried.
    fn complain(&mut self, Cleaned { node, done, .. }: &Cleaned) {
        let is_tried = self.failed.get(node).is_some_and(|failed| *failed >= TRIES);
        match done {
            Ok(_) => drop(self.refused.remove(node)),
            // It is cleaned anew, and nothing refused it.
            Err(_) if self.has_left(*node) => {}
            Err(why) if is_tried => {
                let why =
                    format!("its old keys can't be deleted, so that it gets none of its own: {why}").into();
                drop(self.refused.insert(*node, why));
            }
            Err(_) => {}
        }
    }

    /// Why a node that is back can't be cleaned, if that was tried often enough.
    pub(super) fn refusal(&self, node: NodeId) -> Option<Arc<str>> {
        self.refused.get(&node).cloned()
    }

    /// A cleaning came to nothing.
    pub(super) fn dropped(&mut self, node: NodeId) {
        self.busy.remove(&node);
        self.stripped.remove(&node);
    }

    /// A cleaning begins that takes longer than requests can wait: membership is told that they need not.
    pub(super) fn strips(&mut self, node: NodeId) {
        self.stripped.insert(node, Instant::now());
    }

    /// The nodes that are being stripped, and whose keys wait again.
    pub(super) fn waited_for(&mut self, topology: &Topology) -> Vec<NodeId> {
        let now = Instant::now();
        let is_fenced = |id: NodeId| {
            let placement = topology.position(id).map(|at| topology.nodes[at].placement);
            matches!(placement, Some(Placement::Starting(to)) if to.is_fenced())
        };
        let due = self.stripped.iter_mut().filter(|(id, told)| **told + REPEAT <= now && is_fenced(**id));
        due.map(|(id, told)| {
            *told = now;
            *id
        })
        .collect()
    }

    /// A cleaning failed, and is tried again in a while.
    pub(super) fn rest(&mut self, node: NodeId) {
        self.dropped(node);
        self.rests.insert(node, Instant::now() + REST);
    }
}

/// A node, if it has all its keys.
fn owner(topology: &Topology, node: NodeId) -> Option<&Entry> {
    let at = topology.position(node)?;
    Some(&topology.nodes[at]).filter(|entry| entry.placement == Placement::Owns)
}

/// How long after a connection broke its node may be ejected for that, though it seemed to be well.
fn verdict_max(topology: &Topology) -> Duration {
    let health = &topology.health;
    VERDICT + health.window.max(health.interval * health.fall + health.timeout)
}

/// Whether a node serves and answers, as far as is known.
fn is_reached(entry: &Entry) -> bool {
    entry.placement.serves() && !entry.health.is_out()
}

fn question(topology: &Topology, at: usize) -> Question {
    let entry = topology.entry(at);
    Question::anew(&entry.node.address, &entry.targets, topology.policy_at(at), CLEANING)
}

/// Waits until every worker has nothing in flight from before this revision; false when that takes too
/// long.
pub(super) async fn grace(graces: &[AtomicU64], revision: u64) -> bool {
    let until = Instant::now() + GRACE;
    while graces.iter().any(|grace| grace.load(Acquire) < revision) {
        if Instant::now() > until {
            return false;
        }
        sleep(GLANCE).await;
    }
    true
}

/// Cleans.
pub(super) async fn clean(cleaning: Cleaning) -> Cleaned {
    let Cleaning { node, below, leftovers, work } = cleaning;
    let until = Instant::now() + CLEANING;
    let mut done = Done::Deleted(0);
    for (question, work) in work {
        let result = match &work {
            Work::Nothing => Ok(Done::WasEmpty),
            Work::Empty => probe::empty(&question, until).await.map(Done::Emptied),
            Work::Strip => {
                let moves = |key: &[u8]| question.policy.on_ejected_for(key).moves();
                probe::leftovers(&question, &moves).await.map(Done::Stripped)
            }
            Work::Delete(keys) => probe::delete(&question, keys, until).await.map(|()| match done {
                Done::Deleted(before) => Done::Deleted(before + keys.len()),
                Done::Emptied(_) | Done::Stripped(_) | Done::WasEmpty => done,
            }),
        };
        match result {
            Ok(now) => done = now,
            Err(why) => return Cleaned { node, below, leftovers, done: Err(why) },
        }
    }
    Cleaned { node, below, leftovers, done: Ok(done) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::sync::Notify;

    use super::*;
    use crate::topology::{
        Admission, Evidence, HealthSettings, LEVELS, Node, OnEjected, Policy, PrefixPolicy,
    };

    /// A pool of one node with this placement.
    fn topology(placement: Placement) -> Topology {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let one = super::super::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let nodes = one.nodes.iter().map(|entry| Entry { placement, ..entry.clone() }).collect();
        Topology { nodes, ..one }
    }

    /// A cleaning is for one return: when the node leaves meanwhile, be it back already or not, what came
    /// of it does not count, and it is due again.
    #[test]
    fn a_cleaning_is_for_one_return() {
        let fenced = topology(Placement::Starting(Admission { admitted: 0, fence: 4096 }));
        let (node, mut quarantine) = (fenced.nodes[0].node.id, Quarantine::default());
        assert_eq!(quarantine.due(&fenced), [node]);
        quarantine.follow(&fenced, 0);
        assert!(quarantine.due(&fenced).is_empty() && !quarantine.has_left(node), "one at a time");
        quarantine.leaves(node);
        assert!(quarantine.due(&fenced).is_empty() && quarantine.has_left(node));
        quarantine.dropped(node);
        assert_eq!(quarantine.due(&fenced), [node]);
        assert!(!quarantine.has_left(node));
        quarantine.follow(&topology(Placement::Away), 0);
        assert!(quarantine.has_left(node), "an operator took it out");
        // It is back before the next try would be due, and need not wait for that.
        let done = Err("no".to_owned());
        quarantine.ended(&fenced, &Cleaned { node, below: 4096, leftovers: false, done });
        assert_eq!(quarantine.due(&fenced), [node]);
    }

    /// A pool of two nodes, of which the first is or was away, and the second takes its writes.
    fn two(placements: [Placement; 2], health: Health, sole_writer: bool) -> Topology {
        let one = topology(placements[0]);
        let first = one.nodes[0].clone();
        let node = Node {
            id: TAKER,
            name: "n2".into(),
            address: first.node.address.clone(),
            weight: 1,
            zone: None,
            evidence: Evidence::default(),
            blocks: Arc::new([]),
            load: Arc::default(),
        };
        let second = Entry { node: Arc::new(node), placement: placements[1], health, ..first.clone() };
        let policy = Policy { on_return: OnReturn::Quarantine, sole_writer, ..(*one.policy).clone() };
        Topology { nodes: Arc::new([first, second]), policy: Arc::new(policy), ..one }
    }

    const TAKER: NodeId = NodeId(8);
    const FENCED: Placement = Placement::Starting(Admission { admitted: 0, fence: LEVELS });

    fn written(topology: &Topology) -> [Written; 1] {
        [Written { away: topology.nodes[0].node.id, taken_by: TAKER, key: b"k".as_slice().into() }]
    }

    /// What is done to the first node, in one letter for each piece of work.
    fn planned(quarantine: &mut Quarantine, topology: &Topology) -> (String, bool) {
        let node = topology.nodes[0].node.id;
        let plan = quarantine.plan(topology, node, Data::Same).expect("it is to be cleaned");
        let letter = |(_, work): &(Question, Work)| match work {
            Work::Nothing => 'n',
            Work::Empty => 'e',
            Work::Strip => 's',
            Work::Delete(_) => 'd',
        };
        (plan.work.iter().map(letter).collect(), plan.leftovers)
    }

    /// Whoever took writes and does not answer, though it has its keys, is no reason to wait: what it has is
    /// left over, and looked for when it answers again.
    #[test]
    fn takers_that_do_not_answer() {
        use Health::{Ejected, Healthy};
        use Placement::{Away, Held, Owns};
        for (placement, health, wanted) in [
            (Owns, Healthy, ("dd", false)),
            (Held, Ejected, ("d", true)),
            (Owns, Ejected, ("d", true)),
            (Away, Ejected, ("d", false)),
        ] {
            let (before, now) = (two([Away, Owns], Healthy, true), two([FENCED, placement], health, true));
            let mut quarantine = Quarantine::default();
            quarantine.follow(&before, 0);
            quarantine.remember(written(&before), &before);
            quarantine.follow(&now, 0);
            let (work, leftovers) = planned(&mut quarantine, &now);
            assert_eq!((&*work, leftovers), wanted, "{placement:?} {health:?}");
        }
    }

    /// What was written while nothing was noted, as the pool had other writers then, is not known.
    #[test]
    fn notes_from_the_beginning_only() {
        use Placement::{Away, Owns};
        let mut quarantine = Quarantine::default();
        quarantine.follow(&two([Away, Owns], Health::Healthy, false), 0);
        quarantine.follow(&two([Away, Owns], Health::Healthy, true), 0);
        let now = two([FENCED, Owns], Health::Healthy, true);
        quarantine.follow(&now, 0);
        assert_eq!(planned(&mut quarantine, &now).0, "e");
        quarantine.follow(&two([Owns, Owns], Health::Healthy, true), 0);
        quarantine.follow(&now, 0);
        assert_eq!(planned(&mut quarantine, &now).0, "", "it owned its keys since");
    }

    /// What was in flight when a connection to a node broke counts as written elsewhere when the node is
    /// ejected soon after, and does not when it serves on: not even at an absence that comes later.
    #[tokio::test(start_paused = true)]
    async fn what_was_in_flight_when_a_connection_broke() {
        use Placement::{Away, Owns};
        for (later, expected) in [(1, "d"), (60, "")] {
            let owning = two([Owns, Owns], Health::Healthy, true);
            let node = owning.nodes[0].node.id;
            let mut quarantine = Quarantine::default();
            quarantine.follow(&owning, 0);
            quarantine
                .remember([Written { away: node, taken_by: node, key: b"k".as_slice().into() }], &owning);
            quarantine.follow(&owning, 0);
            tokio::time::advance(Duration::from_secs(later)).await;
            quarantine.follow(&two([Away, Owns], Health::Healthy, true), 0);
            let fenced = two([FENCED, Owns], Health::Healthy, true);
            quarantine.follow(&fenced, 0);
            assert_eq!(planned(&mut quarantine, &fenced).0, expected, "{later} s later");
        }
    }

    /// However late a node is ejected that was not well since, be it that its verdict was withheld or
    /// refused: what was in flight counts. It does not when the node has been well meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_verdict_that_comes_late() {
        use Health::{Ejected, Healthy, Suspect};
        for (noted, then, expected) in [
            (Healthy, &[Suspect][..], "d"),
            (Suspect, &[], "d"),
            (Ejected, &[Ejected], "d"),
            (Suspect, &[Suspect, Healthy], ""),
        ] {
            let of = |health, placement| {
                let two = two([placement, Placement::Owns], Healthy, true);
                let [first, second] = &*two.nodes else { panic!("they are two") };
                let nodes = Arc::new([Entry { health, ..first.clone() }, second.clone()]);
                Topology { nodes, ..two.clone() }
            };
            let noted_by = of(noted, Placement::Owns);
            let node = noted_by.nodes[0].node.id;
            let mut quarantine = Quarantine::default();
            quarantine.follow(&of(Healthy, Placement::Owns), 0);
            let note = Written { away: node, taken_by: node, key: b"k".as_slice().into() };
            quarantine.remember([note], &noted_by);
            for health in then {
                quarantine.follow(&of(*health, Placement::Owns), 0);
            }
            tokio::time::advance(Duration::from_secs(600)).await;
            quarantine.follow(&of(Ejected, Placement::Away), 0);
            let fenced = of(Healthy, FENCED);
            quarantine.follow(&fenced, 0);
            assert_eq!(planned(&mut quarantine, &fenced).0, expected, "{noted:?}, then {then:?}");
        }
    }

    /// Where some keys stay with their node it is never emptied, and its other keys do not wait while it is
    /// stripped: that is told again when they do, though not at each glance.
    #[tokio::test(start_paused = true)]
    async fn who_keeps_some_is_stripped() {
        let fenced = two([FENCED, Placement::Owns], Health::Healthy, false);
        let prefix = PrefixPolicy { prefix: b"s:".as_slice().into(), on_ejected: OnEjected::Fail };
        let policy = Policy { prefixes: vec![prefix], ..(*fenced.policy).clone() };
        let fenced = Topology { policy: Arc::new(policy), ..fenced };
        let (node, mut quarantine) = (fenced.nodes[0].node.id, Quarantine::default());
        quarantine.follow(&fenced, 0);
        assert_eq!(quarantine.due(&fenced), [node]);
        let plan = quarantine.plan(&fenced, node, Data::Same).expect("it is to be cleaned");
        assert!(plan.is_long() && plan.leftovers, "{plan:?}");
        quarantine.strips(node);
        assert_eq!(quarantine.waited_for(&fenced), [], "it was told just now");
        tokio::time::advance(REPEAT).await;
        let open = Placement::Starting(Admission { admitted: 0, fence: 0 });
        assert_eq!(quarantine.waited_for(&two([open, Placement::Owns], Health::Healthy, false)), []);
        assert_eq!(quarantine.waited_for(&fenced), [node]);
        assert_eq!(quarantine.waited_for(&fenced), []);
        let done = Ok(Done::Stripped(1));
        quarantine.ended(&fenced, &Cleaned { node, below: LEVELS, leftovers: true, done });
        tokio::time::advance(REPEAT).await;
        assert_eq!((quarantine.waited_for(&fenced), quarantine.due(&fenced)), (vec![], vec![node]));
    }

    /// A node that can't be cleaned key by key is emptied after some tries.
    #[test]
    fn emptied_in_the_end() {
        let now = two([FENCED, Placement::Owns], Health::Healthy, true);
        let node = now.nodes[0].node.id;
        let mut quarantine = Quarantine::default();
        quarantine.remember(written(&now), &now);
        for _ in 0..TRIES {
            assert_eq!(planned(&mut quarantine, &now).0, "dd");
            let done = Err("no".to_owned());
            quarantine.ended(&now, &Cleaned { node, below: LEVELS, leftovers: false, done });
            quarantine.follow(&now, 0);
        }
        assert_eq!(planned(&mut quarantine, &now), ("e".to_owned(), true));
    }

    /// A node that can't be emptied either is said to be so, until it is, or is out again; that it left while
    /// it was cleaned is no refusal.
    #[test]
    fn who_refuses_is_named() {
        let fenced = two([FENCED, Placement::Owns], Health::Healthy, true);
        let node = fenced.nodes[0].node.id;
        let no = || Cleaned { node, below: LEVELS, leftovers: false, done: Err("NOPERM".to_owned()) };
        let ends: [fn(&mut Quarantine, &Topology, Cleaned); 2] = [
            |quarantine, now, no| quarantine.ended(now, &Cleaned { done: Ok(Done::Emptied(None)), ..no }),
            |quarantine, _, _| {
                quarantine.follow(&two([Placement::Away, Placement::Owns], Health::Ejected, true), 0);
            },
        ];
        for end in ends {
            let mut quarantine = Quarantine::default();
            for _ in 0..TRIES {
                quarantine.ended(&fenced, &no());
                assert_eq!(quarantine.refusal(node), None);
            }
            assert_eq!(quarantine.due(&fenced), []);
            quarantine.busy.insert(node, true);
            quarantine.ended(&fenced, &no());
            assert_eq!(quarantine.refusal(node), None, "it had left");
            assert_eq!(quarantine.failed[&node], TRIES, "nor is that a try");
            quarantine.ended(&fenced, &no());
            let why = quarantine.refusal(node).expect("it is given up");
            assert!(why.ends_with("NOPERM"), "{why}");
            end(&mut quarantine, &fenced, no());
            assert_eq!(quarantine.refusal(node), None);
        }
    }

    /// What could not be done before a node left is no try of another return: it is cleaned key by key again.
    #[test]
    fn each_return_has_its_tries() {
        let fenced = two([FENCED, Placement::Owns], Health::Healthy, true);
        let away = two([Placement::Away, Placement::Owns], Health::Ejected, true);
        let node = fenced.nodes[0].node.id;
        let ends: [fn(&mut Quarantine, &Topology, NodeId); 2] =
            [|quarantine, away, _| quarantine.follow(away, 0), |quarantine, _, node| quarantine.leaves(node)];
        for end in ends {
            let mut quarantine = Quarantine::default();
            for _ in 0..TRIES {
                let done = Err("no".to_owned());
                quarantine.ended(&fenced, &Cleaned { node, below: LEVELS, leftovers: false, done });
            }
            assert!(quarantine.is_inexact(node));
            end(&mut quarantine, &away, node);
            quarantine.follow(&fenced, 0);
            assert!(!quarantine.is_inexact(node));
        }
    }
}

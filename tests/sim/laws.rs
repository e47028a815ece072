//! THE LAWS of a step: what must hold of each topology that is published, given the one before it and the
//! reason. Nothing here is taken from the planner: budget and orders are kept a second time.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ringway::{
    membership::Event,
    ring::{Member, Placement as Points, Ring},
    topology::{
        Because, Data, Entry, LEVELS, News, NodeId, OnReturn, Order, Placement, PoolSpec, Topology, Wait,
        WaitReason,
    },
};
use tokio::time::Instant;

use crate::{
    conduct::{guard, orders, told, works},
    keys::{Action, Keys},
    planner::is_away,
    warmth::Spending,
};

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// One owner per key and epoch.
    OneOwner,
    /// Revisions and epochs rise by one, epochs only when an owner or action changes.
    Epochs,
    /// No more than `eject_max` is out, no less than may be, and somebody owns.
    Guard,
    /// What moves is within the warmth budget.
    Budget,
    /// Only who failed, is ordered out, or waits to return cold does not serve; no other key moves.
    Survivors,
    /// Each key is where the ring and the placements say: who returns has what it had.
    Map,
    /// A node serves no key that was not cleaned of what is old, where it has to be.
    Clean,
    /// No client is given an older value than one that was given before, or was told is written.
    Old,
    /// A node that is healthy again owns again.
    Returns,
    /// What waits has a date, and when it comes something is done.
    GoesOn,
    /// What an operator ordered holds.
    Orders,
    /// Each change of a placement is told, once.
    Told,
    /// A node that comes and goes waits longer, within a bound.
    Flaps,
    /// A node that fails is found in time.
    Found,
    /// A node is not ejected at the first doubtful sign, and never without one.
    Patience,
    /// Where there is one fault, it is what the diagnosis says.
    Diagnosed,
    /// What the detector says is what the topology shows, and to say it twice changes nothing.
    Heard,
    /// The program panics.
    Panic,
}

/// A law that was broken, and how.
#[derive(Clone, Debug)]
pub(crate) struct Breach {
    pub(crate) law: Law,
    pub(crate) text: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.text)
    }
}

/// Breaks this law unless it holds. The text is made only then.
pub(crate) fn holds(law: Law, it: bool, text: impl FnOnce() -> String) -> Result<(), Breach> {
    if it { Ok(()) } else { Err(Breach { law, text: text() }) }
}

/// Why a topology was published.
#[derive(Debug)]
pub(crate) enum Reason<'a> {
    /// News of a node; when the cleaning began that it is of.
    News(NodeId, &'a News, Option<Instant>),
    Budget,
    /// The pool that serves the keys of nodes that are away has another topology.
    Gutter,
    Order(Arc<str>),
    Reload {
        spec: &'a PoolSpec,
        moved: f64,
    },
}

/// A step to be judged.
pub(crate) struct Case<'a> {
    pub(crate) before: &'a Topology,
    pub(crate) after: &'a Topology,
    pub(crate) events: &'a [Event],
    pub(crate) reason: Reason<'a>,
    pub(crate) time: Instant,
    /// What operators want, by the names of nodes.
    pub(crate) orders: &'a BTreeMap<Arc<str>, Order>,
}

impl Case<'_> {
    /// The node that is out or back from now on, and why.
    pub(crate) fn turned(&self) -> Option<(NodeId, &Because)> {
        let Reason::News(node, News::Judged(opinion), _) = self.reason else { return None };
        let was_out = self.before.nodes[self.before.position(node)?].health.is_out();
        (was_out != opinion.health.is_out()).then_some((node, &opinion.because))
    }
}

/// What is known of the steps so far.
pub(crate) struct Laws {
    pub(crate) keys: Arc<Keys>,
    /// What becomes of each key, by epoch; the first epoch is 1.
    epochs: Vec<(Arc<Keys>, Arc<[Action]>)>,
    spending: Spending,
    /// What those came back with that returned and do not own yet.
    back: BTreeMap<Arc<str>, Back>,
    /// Nodes that start, since when, and below which level they have been cleaned since.
    starts: BTreeMap<Arc<str>, (Instant, u32)>,
    /// Nodes for which others have taken writes since they owned their keys, and since when.
    owing: BTreeMap<Arc<str>, Instant>,
}

/// What a node came back with, and whether an operator said that it need not wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Back {
    data: Data,
    is_exact: bool,
    is_waived: bool,
    at: Instant,
}

impl Back {
    /// Whether what it has is nothing, or soon will be, and it is to wait for the budget.
    pub(crate) fn is_cold(self, topology: &Topology) -> bool {
        let policy = &topology.policy;
        let is_known = policy.sole_writer && self.data == Data::Same && self.is_exact;
        let is_emptied = match policy.on_return {
            OnReturn::Quarantine => !is_known,
            // Others were emptied before they came back.
            OnReturn::Flush => policy.keeps_keys(),
            // Of what may live longer than is known nothing is left when it has waited.
            OnReturn::Ttl => self.data == Data::Other,
            OnReturn::Serve => false,
        };
        !self.is_waived && (self.data.is_cold() || is_emptied)
    }
}

/// A ring as the specification wants it.
fn ring_of(spec: &PoolSpec) -> Arc<Ring> {
    let member = |n: &ringway::topology::NodeSpec| Member { name: n.name.clone(), weight: n.weight };
    Arc::new(Ring::build(&spec.ring, &spec.nodes.iter().map(member).collect::<Vec<_>>()))
}

impl Laws {
    pub(crate) fn new(spec: &PoolSpec, first: &Topology) -> Laws {
        let keys = Arc::new(Keys::new(ring_of(spec), &spec.policy));
        let table = table(&keys, first);
        Laws {
            epochs: vec![(keys.clone(), table)],
            keys,
            spending: Spending::default(),
            back: BTreeMap::new(),
            starts: BTreeMap::new(),
            owing: BTreeMap::new(),
        }
    }

    /// What the first topology of this ring did with each key, if all serve: the map to return to.
    pub(crate) fn is_whole(&self, topology: &Topology) -> bool {
        let send = |k: usize| self.keys.action(topology, k);
        (0..self.keys.len()).all(|k| send(k) == self.keys.expected(topology, k))
    }

    /// A client writes a key by a snapshot that it has, the newest or not.
    pub(crate) fn write(&self, by: &Topology, throw: u64) -> Result<(), Breach> {
        let Some((keys, table)) = self.epochs.get(by.epoch as usize - 1) else {
            return holds(Law::OneOwner, false, || format!("nobody published epoch {}", by.epoch));
        };
        let key = throw as usize % keys.len();
        let action = keys.action(by, key);
        holds(Law::OneOwner, action == table[key], || {
            format!("in epoch {} key {key} is for {:?} and for {action:?}", by.epoch, table[key])
        })
    }

    /// Judges a step.
    pub(crate) fn step(&mut self, case: &Case<'_>) -> Result<(), Breach> {
        let Case { before, after, reason, .. } = case;
        if let Some((node, Because::Returned(back))) = case.turned()
            && let Some(at) = after.position(node)
        {
            let back = Back { data: back.data, is_exact: back.is_exact, is_waived: false, at: case.time };
            self.back.insert(after.nodes[at].node.name.clone(), back);
        }
        if let Reason::Reload { .. } = reason {
            let shorter = before.policy.ttl_max.zip(after.policy.ttl_max).is_some_and(|(old, new)| old > new);
            if shorter && after.policy.on_return == OnReturn::Ttl {
                // What it has may live longer than is said now.
                let same = self.back.values_mut().filter(|back| back.data == Data::Same);
                same.for_each(|back| back.data = Data::Unknown);
            }
            // One with another address is another server.
            let address = |t: &Topology, name: &str| {
                t.nodes.iter().find(|e| &*e.node.name == name).map(|e| e.node.address.clone())
            };
            self.back.retain(|name, _| address(before, name) == address(after, name));
            self.starts.retain(|name, _| address(before, name) == address(after, name));
        }
        if let Reason::Order(name) = reason
            && !case.orders.contains_key(name)
            && let Some(back) = self.back.get_mut(name)
        {
            back.is_waived = true;
        }
        self.owners(case)?;
        orders(case)?;
        guard(case)?;
        self.justified(case)?;
        self.clean(case)?;
        self.spending.watch(case);
        if same_placements(before, after) {
            self.goes_on(case)?;
        } else {
            self.spending.step(case, &self.back)?;
            told(case)?;
            self.forget(case);
            self.goes_on(case)?;
        }
        Ok(())
    }

    /// A node was cleaned, by a cleaning that began then, and no placement is another for that yet.
    pub(crate) fn cleaned(&mut self, name: &str, below: u32, began: Instant) {
        if let Some((since, clean)) = self.starts.get_mut(name).filter(|(since, _)| began >= *since) {
            (*since, *clean) = (*since, below.max(*clean));
        }
    }

    /// Who has keys again, or left again, does not wait to return.
    fn forget(&mut self, case: &Case<'_>) {
        for entry in case.after.nodes.iter() {
            let waits = matches!(entry.placement, Placement::Away | Placement::Held);
            if !waits || entry.health.is_out() {
                self.back.remove(&entry.node.name);
            }
        }
    }

    /// One owner per key and epoch, epochs only for a change of owner, each key where the ring says.
    fn owners(&mut self, case: &Case<'_>) -> Result<(), Breach> {
        let Case { before, after, .. } = case;
        let rises = after.epoch.checked_sub(before.epoch).is_some_and(|n| n <= 1);
        holds(Law::Epochs, after.revision == before.revision + 1 && rises, || {
            format!(
                "from epoch {} revision {} to {} {}",
                before.epoch, before.revision, after.epoch, after.revision
            )
        })?;
        let is_same_ring = Arc::ptr_eq(&before.ring, &after.ring);
        let is_same_gutter = gutter_epoch(before) == gutter_epoch(after);
        if is_same_ring
            && is_same_gutter
            && same_placements(before, after)
            && Arc::ptr_eq(&before.policy, &after.policy)
        {
            return holds(Law::Epochs, before.epoch == after.epoch, || {
                format!("epoch {} differs in nothing from the one before", after.epoch)
            });
        }
        let old = self.epochs.last().map(|(_, table)| table.clone()).unwrap_or_default();
        let new = table(&self.keys, after);
        let first_change = (0..old.len()).find(|k| old[*k] != new[*k]);
        if let Some(k) = first_change {
            holds(Law::OneOwner, after.epoch == before.epoch + 1, || {
                format!("in epoch {} key {k} is for {:?} and for {:?}", after.epoch, old[k], new[k])
            })?;
        } else if let Reason::Reload { moved, .. } = case.reason {
            // Where keys do not move any more, a node that was held is away, which may be the same to them.
            // Of a node that starts too few may be among these.
            let is_exact = self.keys.is_complete && !after.nodes.iter().any(is_starting);
            let is_explained = moved > 0.0 || !same_placements(before, after) || !is_exact;
            holds(Law::Epochs, before.epoch == after.epoch || is_explained, || {
                format!("epoch {}: a reload that changes no owner", after.epoch)
            })?;
        } else {
            // A step of a start is a sixteenth of a node's keys: too few to be among these for certain.
            let is_explained = !self.keys.is_complete || starts(before, after) || after.gutter.is_some();
            holds(Law::Epochs, before.epoch == after.epoch || is_explained, || {
                format!("epoch {} changes no owner and no action", after.epoch)
            })?;
        }
        self.survivors(case, &old, &new)?;
        if let Reason::Reload { spec, .. } = case.reason
            && !same_members(before, after)
        {
            self.keys = Arc::new(Keys::new(ring_of(spec), &spec.policy));
            // Clients with the snapshot of before still have the keys of before.
            let is_known = before.epoch == after.epoch;
            holds(Law::Epochs, !is_known, || "a ring was changed within an epoch".to_owned())?;
        }
        self.map(case)?;
        if before.epoch != after.epoch {
            let new = table(&self.keys, after);
            self.epochs.push((self.keys.clone(), new));
        }
        Ok(())
    }

    /// Each key is where the ring and the placements say.
    fn map(&self, case: &Case<'_>) -> Result<(), Breach> {
        for k in 0..self.keys.len() {
            let (is, should) = (self.keys.action(case.after, k), self.keys.expected(case.after, k));
            holds(Law::Map, is == should, || {
                format!("epoch {}: key {k} is for {is:?}, and should be for {should:?}", case.after.epoch)
            })?;
            let is_somebody = is != Action::Nobody || !case.after.nodes.iter().any(works);
            holds(Law::Guard, is_somebody, || format!("epoch {}: nobody has key {k}", case.after.epoch))?;
        }
        Ok(())
    }

    /// A key moves only from a node whose placement changed, or to one.
    fn survivors(&self, case: &Case<'_>, old: &[Action], new: &[Action]) -> Result<(), Breach> {
        let Case { before, after, reason, .. } = case;
        if let Reason::Reload { spec, .. } = reason
            && (!matches!(spec.ring.placement, Points::Vnode { .. })
                || before.policy.on_ejected != after.policy.on_ejected)
        {
            return Ok(());
        }
        if let Reason::Gutter = reason {
            let is_over = |k: usize| after.nodes[self.keys.first(k)].placement != Placement::Owns;
            let stray = (0..old.len()).find(|k| old[*k] != new[*k] && !is_over(*k));
            return holds(Law::Survivors, stray.is_none(), || {
                format!("epoch {}: key {stray:?} goes elsewhere, and its node owns it", after.epoch)
            });
        }
        let changed = |action: Action| action.holder().is_none_or(|id| has_changed(id, before, after));
        for (k, (old, new)) in old.iter().zip(new).enumerate() {
            let stays = old.holder() == new.holder();
            // What the gutter has of a node that is away goes with the node.
            let first = before.nodes.get(self.keys.first(k));
            let then = after.nodes.get(after.ring.first(self.keys.hash(k)));
            let is_over = |e: &Entry| e.placement != Placement::Owns && has_changed(e.node.id, before, after);
            let goes = first.into_iter().chain(then).any(is_over);
            holds(Law::Survivors, stays || changed(*old) || changed(*new) || goes, || {
                format!("epoch {}: key {k} goes from {old:?} to {new:?}, which are as they were", after.epoch)
            })?;
        }
        Ok(())
    }

    /// Who does not serve has a reason.
    fn justified(&self, case: &Case<'_>) -> Result<(), Breach> {
        if let Reason::Gutter = case.reason {
            // Nobody's placement is looked at.
            return holds(Law::Survivors, same_placements(case.before, case.after), || {
                "a gutter has another node placed".to_owned()
            });
        }
        for entry in case.after.nodes.iter().filter(|e| e.placement != Placement::Owns) {
            let name = &entry.node.name;
            let failed = entry.health.is_out();
            if let Placement::Starting(_) = entry.placement {
                // Of one that was held while it started, others have had keys.
                let owned = |e: &Entry| match e.placement {
                    Placement::Owns => true,
                    Placement::Held => !self.owing.contains_key(name) && !self.brings_other(name),
                    Placement::Away | Placement::Starting(_) => false,
                };
                let owned = case.before.nodes.iter().any(|e| e.node.id == entry.node.id && owned(e));
                // One that fails while it starts may be kept as it is.
                let started =
                    |e: &Entry| e.node.name == *name && matches!(e.placement, Placement::Starting(_));
                let is_kept = failed && case.before.nodes.iter().any(started);
                holds(Law::Survivors, (!failed || is_kept) && !owned, || {
                    format!("node {name} is {:?} and starts, it owned: {owned}", entry.health)
                })?;
                continue;
            }
            if failed || entry.order.is_some_and(Order::is_out) {
                continue;
            }
            let lives = self.lives(name, case);
            // The keys of one that failed as it took them back may wait longer than it fails.
            let is_held =
                |e: &Entry| e.placement == Placement::Held && lives && self.owing.contains_key(name);
            // One that was kept as it was has to wait now that it is back.
            let was_kept = |e: &Entry| is_starting(e) && !works(e) && lives;
            let waited = |e: &Entry| e.node.name == *name && (is_away(e) || is_held(e) || was_kept(e));
            let waited = case.before.nodes.iter().any(waited);
            holds(Law::Survivors, waited && (is_away(entry) || is_held(entry)), || {
                format!("node {name} is {:?} and was put out", entry.health)
            })?;
            let is_cold = self.back.get(name).is_some_and(|back| back.is_cold(case.after));
            holds(Law::Returns, is_cold || lives, || {
                format!("node {name} is {:?} again, has its data, and is kept out", entry.health)
            })?;
        }
        Ok(())
    }

    /// Whether what a node has may not have expired.
    fn lives(&self, name: &str, case: &Case<'_>) -> bool {
        let (policy, back) = (&case.after.policy, self.back.get(name));
        let has_any = back.is_none_or(|back| back.data != Data::Empty);
        let ttl_max =
            policy.ttl_max.filter(|_| policy.on_return == OnReturn::Ttl && policy.moves_keys() && has_any);
        let since = self.owing.get(name).copied().into_iter().chain(back.map(|back| back.at)).max();
        ttl_max.zip(since).is_some_and(|(ttl_max, since)| case.time < since + ttl_max)
    }

    /// A node that is back serves only keys that were cleaned since, where that is needed.
    fn clean(&mut self, case: &Case<'_>) -> Result<(), Breach> {
        let Case { before, after, reason, time, .. } = case;
        let cleaned = match reason {
            Reason::News(node, News::Cleaned { below, .. }, Some(began)) => Some((*node, *below, *began)),
            _ => None,
        };
        let whole = after.nodes.iter().filter(|e| e.placement == Placement::Owns).count();
        for entry in after.nodes.iter() {
            let (name, id) = (&entry.node.name, entry.node.id);
            let admitted = match entry.placement {
                Placement::Owns => LEVELS,
                Placement::Starting(to) => to.admitted,
                Placement::Away | Placement::Held => {
                    self.starts.remove(name);
                    if is_away(entry) && after.policy.moves_keys() {
                        self.owing.entry(name.clone()).or_insert(*time);
                    }
                    continue;
                }
            };
            let is_same = |e: &&Entry| e.node.name == *name && e.node.address == entry.node.address;
            let was_out = |e: &Entry| match e.placement {
                Placement::Owns => false,
                Placement::Away => is_away(e),
                // Within hold_down it has what it has.
                Placement::Held => {
                    let is_other = self.brings_other(name) && after.policy.hold_down.is_zero();
                    self.owing.contains_key(name) || is_other || entry.placement != Placement::Owns
                }
                // It failed, was kept as it was, and is back.
                Placement::Starting(_) => !works(e) && works(entry),
            };
            if let Some(old) = before.nodes.iter().find(is_same).filter(|old| was_out(old)) {
                let was_held = old.placement == Placement::Held;
                // From now on it is one whose keys others may have.
                if was_held && matches!(entry.placement, Placement::Starting(_)) {
                    self.owing.entry(name.clone()).or_insert(*time);
                }
                let clean = if self.needs_cleaning(name, was_held, after) { 0 } else { LEVELS };
                self.starts.insert(name.clone(), (*time, clean));
            }
            if entry.placement == Placement::Owns {
                self.owing.remove(name);
            }
            let Some((since, clean)) = self.starts.get_mut(name) else { continue };
            if let Some((_, below, _)) = cleaned.filter(|(node, _, began)| *node == id && began >= since) {
                *clean = below.max(*clean);
            }
            let is_last = whole == 1 && entry.placement == Placement::Owns;
            holds(Law::Clean, is_last || admitted <= *clean, || {
                format!("node {name} serves levels below {admitted}, and was cleaned below {clean}")
            })?;
            if entry.placement == Placement::Owns {
                self.starts.remove(name);
            }
        }
        Ok(())
    }

    /// Whether a node came back as another process with data.
    fn brings_other(&self, name: &str) -> bool {
        self.back.get(name).is_some_and(|back| back.data == Data::Other)
    }

    /// Whether a node that begins to start has to be cleaned.
    fn needs_cleaning(&self, name: &str, was_held: bool, topology: &Topology) -> bool {
        let policy = &topology.policy;
        match policy.on_return {
            _ if !(self.owing.contains_key(name) || was_held && self.brings_other(name)) => false,
            OnReturn::Serve => false,
            OnReturn::Quarantine => true,
            OnReturn::Ttl => {
                let data = self.back.get(name).map(|back| back.data);
                !matches!(data, Some(Data::Flushed | Data::Empty | Data::Same))
            }
            OnReturn::Flush => {
                let data = self.back.get(name).map(|back| back.data);
                !matches!(data, Some(Data::Flushed | Data::Empty))
            }
        }
    }

    /// What waits has a date that is to come and not too far away.
    fn goes_on(&self, case: &Case<'_>) -> Result<(), Breach> {
        let after = case.after;
        let is_long = |e: &Entry| {
            let mut waits = after.waits.iter().filter(|wait| wait.node == e.node.id);
            waits.any(|wait| wait.reason == WaitReason::Cleaning && wait.due.is_none())
        };
        if let Reason::Gutter = case.reason {
            // It waits as it did before.
            return holds(Law::GoesOn, case.before.budget_due == after.budget_due, || {
                "the date is another one".to_owned()
            });
        }
        let waiting = after.nodes.iter().find(|e| match e.placement {
            Placement::Owns => false,
            Placement::Held => true,
            // Who cleans it tells when it goes on.
            // One that is kept though it fails goes on when it answers.
            Placement::Starting(_) if e.health.is_out() => false,
            // Nor one for which that takes long.
            Placement::Starting(to) => !to.is_fenced() && !is_long(e),
            Placement::Away => e.order.is_none() && !e.health.is_out(),
        });
        let Some(waiting) = waiting else { return Ok(()) };
        let name = &waiting.node.name;
        let policy = &after.policy;
        let ttl_max = policy.ttl_max.unwrap_or_default();
        let longest =
            policy.warmth.window.max(policy.hold_down).max(policy.slow_start).max(ttl_max).max(AGAIN);
        // Leftovers are looked for as long as that is tried, and not before all keys are back.
        let is_swept = |wait: &Wait| wait.reason == WaitReason::Leftovers;
        let sweep = if after.waits.iter().any(is_swept) {
            SWEEP_MAX + policy.slow_start + policy.warmth.window
        } else {
            longest
        };
        let longest = longest.max(sweep) + Duration::from_millis(1);
        let is_dated = after.budget_due.is_some_and(|due| due > case.time && due <= case.time + longest);
        holds(Law::GoesOn, is_dated, || {
            let due = after.budget_due.map(|due| due.saturating_duration_since(case.time));
            format!("node {name} is {:?}, {:?} and waits, due in {due:?}", waiting.placement, waiting.health)
        })
    }
}

fn table(keys: &Keys, topology: &Topology) -> Arc<[Action]> {
    (0..keys.len()).map(|k| keys.action(topology, k)).collect()
}

fn same_placements(before: &Topology, after: &Topology) -> bool {
    before.nodes.len() == after.nodes.len()
        && before
            .nodes
            .iter()
            .zip(after.nodes.iter())
            .all(|(a, b)| a.placement == b.placement && a.node.id == b.node.id)
}

fn gutter_epoch(topology: &Topology) -> Option<u64> {
    topology.gutter.as_ref().map(|gutter| gutter.epoch)
}

fn same_members(before: &Topology, after: &Topology) -> bool {
    before.ring.members() == after.ring.members()
}

fn is_starting(entry: &Entry) -> bool {
    matches!(entry.placement, Placement::Starting(_))
}

/// Whether the start of some node went on.
fn starts(before: &Topology, after: &Topology) -> bool {
    let mut nodes = before.nodes.iter().zip(after.nodes.iter());
    nodes.any(|(a, b)| a.placement != b.placement && (is_starting(a) || is_starting(b)))
}

/// Whether a node came, left, or has another placement.
fn has_changed(id: NodeId, before: &Topology, after: &Topology) -> bool {
    let placement = |t: &Topology| t.position_over(id).map(|at| t.entry(at).placement);
    placement(before) != placement(after)
}

/// Until a node that could not be cleaned is cleaned again, at most.
const AGAIN: Duration = Duration::from_secs(30);

/// How long leftovers are looked for.
const SWEEP_MAX: Duration = Duration::from_secs(120);

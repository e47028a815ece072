//! THE RECORD. One incident for each time that a node fails: from the first doubt to the end, what
//! was seen, what was decided, in which epoch, how much moved, and what it cost. Pure but for its one
//! lock: whoever tells it gives the time.
//!
//! An incident is opened by an ejection, be it obeyed, held or refused, by a node that serves although it is
//! slow or its configuration is wrong, and by a fault of this process. It is closed when the node serves as
//! before or has left its pool, or the fault is over. Doubts that come to nothing are none. Each has its
//! diagnosis.

mod counts;
mod diagnosis;
mod file;
mod record;
mod scale;
mod sentence;
mod toll;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use counts::Counts;
pub use counts::Readings;
pub use diagnosis::{Diagnosis, Place, Subject, What, diagnose, diagnose_trouble};
pub use file::{FileSettings, IncidentWriter};
pub use record::{Held, Incident, Step, Told};
use toll::{Account, Cost};
pub use toll::{HitRate, Toll};

use crate::{
    health::{Fault, Trouble},
    metrics::PoolBlock,
    topology::{Basis, Cause, Data, Entry, Failure, Health, Move, Node, Topology},
};

/// Incidents that are kept. What is over goes first, so that one that goes on is not lost sight of.
const KEPT: usize = 1000;
/// A weaker diagnosis does not take the place of another.
const CONFIDENCE_MIN: f64 = 0.5;
/// Nodes that are named as having got its keys.
const MOVES: usize = 20;
/// Steps of one incident that are kept: a node that flaps within one must not grow without end.
const STEPS: usize = 200;

/// The incidents of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Incidents(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    last: u64,
    /// By their numbers, as all that refers to one.
    kept: BTreeMap<u64, Incident>,
    /// What had to go before all was known of it: to be written as it was.
    dropped: Vec<Incident>,
    doubts: HashMap<Whose, Doubt>,
    /// Incidents of this process that go on.
    troubles: BTreeMap<Fault, u64>,
    /// The counters of each pool.
    accounts: HashMap<Arc<str>, Account>,
    /// What is over and may still cost something.
    settling: BTreeMap<u64, Settling>,
}

/// An incident that is over, while its last figures are awaited.
#[derive(Debug)]
struct Settling {
    pool: Arc<str>,
    cost: Option<Cost>,
}

/// A pool and a node of it.
pub type Whose = (Arc<str>, Arc<str>);

/// An incident of a node that goes on.
#[derive(Clone, Debug)]
pub struct OpenIncident {
    /// Which node.
    pub whose: Whose,
    /// Where it is.
    pub address: String,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Why it was opened.
    pub cause: Option<Cause>,
}

/// A doubt, or the incident that came of it.
#[derive(Debug)]
struct Doubt {
    since_ms: u64,
    node: Arc<Node>,
    /// Traffic saw it: what it saw last.
    seen: Option<Failure>,
    /// What its counters were before.
    before: Counts,
    cost: Option<Cost>,
    incident: Option<u64>,
}

impl Doubt {
    /// How long the node had given no answer when it was doubted, if it is for want of one, in milliseconds.
    /// That was waited for before anything was said of it.
    fn silence_ms(&self, cause: Cause, topology: &Topology) -> u64 {
        let silence = match (self.seen, cause) {
            (Some(Failure::Timeout), _) => topology.policy.request_timeout,
            (Some(Failure::ConnectTimeout), _) => topology.policy.connect_timeout,
            (None, Cause::Timeout | Cause::ConnectTimeout) => topology.health.timeout,
            _ => return 0,
        };
        u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)
    }

    /// What its node's counters say since.
    fn counts(&self) -> Counts {
        Counts::of(&self.node).since(self.before)
    }
}

impl Incident {
    fn count(&mut self, counts: Counts) {
        self.requests_failed = counts.failed;
        self.requests_substituted = counts.substituted;
        self.requests_unserved = counts.unserved;
    }
}

impl Incidents {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here can be left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that are kept, the newest first.
    pub fn all(&self) -> Vec<Incident> {
        self.book().kept.values().rev().cloned().collect()
    }

    /// The incidents of nodes that go on.
    pub fn open(&self) -> Vec<OpenIncident> {
        let book = self.book();
        let find = |(whose, doubt): (&Whose, &Doubt)| {
            let incident = book.kept.get(&doubt.incident?)?;
            Some(OpenIncident {
                whose: whose.clone(),
                address: incident.address.clone().unwrap_or_default(),
                zone: incident.zone.clone(),
                cause: incident.cause,
            })
        };
        book.doubts.iter().filter_map(find).collect()
    }

    /// Puts a diagnosis in the place of what was thought before, unless it is none or weak. Gives it when it
    /// says something else than the one before.
    pub fn diagnosed(&self, at_ms: u64, whose: &Whose, diagnoses: Vec<Diagnosis>) -> Option<Diagnosis> {
        let first = diagnoses.first().filter(|first| first.confidence >= CONFIDENCE_MIN)?.clone();
        let mut book = self.book();
        let incident = book.incident(whose)?;
        let before = incident.diagnoses.first().map(|before| (before.place, before.what));
        incident.diagnoses = diagnoses;
        if before == Some((first.place, first.what)) {
            return None;
        }
        if before.is_some() {
            let epoch = incident.timeline.last().map_or(0, |step| step.epoch);
            let stamp = Stamp { at_ms, epoch, moved: 0.0 };
            book.step(whose, &stamp, "diagnosed", first.text.clone());
        }
        Some(first)
    }

    /// Opens an incident for each fault of this process that is new, tells what became of those that go on,
    /// and closes those that are over. Gives those that were opened, and those that were closed.
    pub fn troubles(&self, at_ms: u64, troubles: &[Trouble]) -> (Vec<Incident>, Vec<Incident>) {
        let mut book = self.book();
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for trouble in troubles {
            let known = book.troubles.get(&trouble.fault).copied();
            let id = known.unwrap_or_else(|| book.open_trouble(at_ms, trouble));
            let Some(incident) = book.by_id(id) else { continue };
            for node in &trouble.withheld {
                let text = format!("{node} is not ejected for it");
                let is_told = incident.timeline.iter().any(|step| *step.text == *text);
                if !is_told && incident.timeline.len() < STEPS {
                    incident.timeline.push(Step {
                        at_ms,
                        epoch: 0,
                        what: "withheld",
                        text: text.into(),
                        moved: 0.0,
                    });
                }
            }
            if known.is_none() {
                opened.push(incident.clone());
            }
        }
        let is_over = |fault: &Fault| troubles.iter().all(|trouble| trouble.fault != *fault);
        let over: Vec<Fault> = book.troubles.keys().copied().filter(is_over).collect();
        for fault in over {
            let Some(incident) = book.troubles.remove(&fault).and_then(|id| book.by_id(id)) else { continue };
            incident.closed_ms = Some(at_ms);
            let text = match fault {
                Fault::Memory => "there is room again",
                _ => "what was withheld is judged anew",
            };
            let text = text.into();
            incident.timeline.push(Step { at_ms, epoch: 0, what: "over", text, moved: 0.0 });
            closed.push(incident.clone());
        }
        (opened, closed)
    }

    /// Notes that there is a pool, with what is counted of it.
    pub fn pool_comes(&self, topology: &Topology, blocks: Arc<[PoolBlock]>) {
        self.book().accounts.insert(topology.pool.clone(), Account::new(topology, blocks));
    }

    /// Notes that a pool was taken away.
    pub fn pool_gone(&self, at_ms: u64, pool: &str) {
        let mut book = self.book();
        let gone: Vec<Whose> = book.doubts.keys().filter(|whose| &*whose.0 == pool).cloned().collect();
        let stamp = Stamp { at_ms, epoch: 0, moved: 0.0 };
        gone.iter().for_each(|whose| book.leave(&stamp, whose, "a reload took its pool away"));
        book.accounts.remove(pool);
    }

    /// Looks at the counters of pools; to be called several times a second. Gives the incidents of which all
    /// is known now: ten seconds after their end.
    pub fn tally(&self, at_ms: u64) -> Vec<Incident> {
        let book = &mut *self.book();
        for (pool, account) in &mut book.accounts {
            let Some(tally) = account.tally(at_ms) else { continue };
            let doubts = book.doubts.iter_mut().filter(|(whose, _)| whose.0 == *pool);
            let open = doubts.map(|(_, doubt)| (doubt.incident, Some(doubt.counts()), doubt.cost.as_mut()));
            let over = book.settling.iter_mut().filter(|(_, over)| over.pool == *pool);
            let over = over.map(|(id, over)| (Some(*id), None, over.cost.as_mut()));
            for (id, counts, mut cost) in open.chain(over) {
                cost.iter_mut().for_each(|cost| cost.add(tally));
                let Some(incident) = id.and_then(|id| book.kept.get_mut(&id)) else { continue };
                counts.into_iter().for_each(|counts| incident.count(counts));
                incident.toll = cost.map(|cost| cost.toll.clone()).or(incident.toll.take());
            }
        }
        let accounts = &book.accounts;
        let is_known = |(_, over): &(u64, Settling)| {
            let is_settled = over.cost.as_ref().is_none_or(|cost| cost.is_settled);
            is_settled || !accounts.contains_key(&over.pool)
        };
        let (known, settling): (BTreeMap<_, _>, _) =
            std::mem::take(&mut book.settling).into_iter().partition(is_known);
        book.settling = settling;
        book.settled(known.into_keys())
    }

    /// What had to go, as there were too many, before all was known of it; to be asked after each note.
    pub fn dropped(&self) -> Vec<Incident> {
        std::mem::take(&mut self.book().dropped)
    }

    /// The process ends: gives the incidents that are over and of which not all is known yet, and those that
    /// go on, each with a last step that says so.
    pub fn settle(&self, at_ms: u64) -> Vec<Incident> {
        let book = &mut *self.book();
        let all = std::mem::take(&mut book.settling);
        let mut known = std::mem::take(&mut book.dropped);
        known.extend(book.settled(all.into_keys()));
        let going: Vec<(u64, Option<Counts>)> = book
            .doubts
            .values()
            .filter_map(|doubt| Some((doubt.incident?, Some(doubt.counts()))))
            .chain(book.troubles.values().map(|id| (*id, None)))
            .collect();
        let before = known.len();
        for (id, counts) in going {
            let Some(incident) = book.by_id(id) else { continue };
            counts.into_iter().for_each(|counts| incident.count(counts));
            let epoch = incident.timeline.last().map_or(0, |step| step.epoch);
            let text = "ringway ends, and this goes on".into();
            incident.timeline.push(Step { at_ms, epoch, what: "open", text, moved: 0.0 });
            known.push(incident.clone());
        }
        known[before..].sort_by_key(|incident| incident.id);
        known
    }

    /// Notes a publish: what was read right before it; `told` is what membership said of nodes, by name;
    /// `moved` the share of the key space that moved.
    pub fn note(
        &self,
        at_ms: u64,
        (before, after, readings): (&Topology, &Topology, &Readings),
        told: &[(Arc<str>, Told)],
        (moved, moves): (f64, &[Move]),
    ) {
        let mut book = self.book();
        let stamp = Stamp { at_ms, epoch: after.epoch, moved };
        if !Arc::ptr_eq(&before.nodes, &after.nodes) {
            book.healths(&stamp, before, after, readings);
            if let Some(account) = book.accounts.get_mut(&after.pool) {
                account.follow(after);
            }
        }
        for (name, told) in told {
            let Some(entry) = after.nodes.iter().find(|e| e.node.name == *name) else { continue };
            let whose = (after.pool.clone(), name.clone());
            match told {
                Told::Opens(what, cause, evidence, basis) => {
                    book.open(&stamp, (after, entry, readings), (*cause, evidence, *basis));
                    book.step(&whose, &stamp, what, evidence.clone());
                }
                Told::OpensHeld(cause, evidence, basis, held) => {
                    // What others moved in the same epoch is not its.
                    let stamp = Stamp { moved: 0.0, ..stamp };
                    book.open(&stamp, (after, entry, readings), (*cause, evidence, *basis));
                    let text = format!("{evidence}; its keys wait for {held}");
                    book.step(&whose, &stamp, "held", text.into());
                    if let Some(incident) = book.incident(&whose) {
                        incident.held = incident.held.or(Some(*held));
                    }
                }
                Told::Goes(what, text) => book.step(&whose, &stamp, what, text.clone()),
                Told::Cleaned(how, emptied) => {
                    book.step(&whose, &stamp, "cleaned", how.clone());
                    if let Some(incident) = book.incident(&whose) {
                        incident.emptied |= *emptied;
                    }
                }
                Told::Clears(what, text) => {
                    book.step(&whose, &stamp, what, text.clone());
                    if book.incident(&whose).is_some_and(|incident| incident.rule.is_none()) {
                        book.close(&stamp, &whose, None);
                    }
                }
                Told::Ends(what, data, text) => {
                    book.step(&whose, &stamp, what, text.clone());
                    book.close(&stamp, &whose, *data);
                }
            }
        }
        for name in told.iter().map(|(name, _)| name).filter(|_| !moves.is_empty()) {
            book.moves(&(after.pool.clone(), name.clone()), moves);
        }
        book.gone(&stamp, before, after);
    }
}

/// When, and in which epoch.
struct Stamp {
    at_ms: u64,
    epoch: u64,
    moved: f64,
}

impl Book {
    /// What the detectors think of nodes, as far as it changed.
    fn healths(&mut self, stamp: &Stamp, before: &Topology, after: &Topology, readings: &Readings) {
        let was = |i: usize, entry: &Entry| match before.nodes.get(i) {
            Some(old) if old.node.id == entry.node.id => Some(old.health),
            _ => before.nodes.iter().find(|e| e.node.id == entry.node.id).map(|e| e.health),
        };
        for (i, entry) in after.nodes.iter().enumerate() {
            let Some(old) = was(i, entry).filter(|old| *old != entry.health) else { continue };
            let whose = (after.pool.clone(), entry.node.name.clone());
            // What moved belongs to the ejection or the return that comes with it.
            let stamp = Stamp { moved: 0.0, ..*stamp };
            match (old, entry.health) {
                (Health::Healthy, Health::Suspect) => {
                    let doubt = self.doubt(&stamp, &whose.0, &entry.node, readings);
                    self.doubts.entry(whose).or_insert(doubt);
                }
                (Health::Suspect, Health::Healthy) if self.incident(&whose).is_none() => {
                    self.doubts.remove(&whose);
                }
                (_, Health::Probation) => self.step(&whose, &stamp, "probation", "it answers a probe".into()),
                (Health::Probation, Health::Ejected) => {
                    self.step(&whose, &stamp, "relapse", "a probe failed again".into());
                }
                _ => {}
            }
        }
    }

    fn doubt(&self, stamp: &Stamp, pool: &str, node: &Arc<Node>, readings: &Readings) -> Doubt {
        Doubt {
            since_ms: stamp.at_ms,
            node: node.clone(),
            seen: node.evidence.last(),
            before: readings.of(node),
            cost: self.accounts.get(pool).map(|account| account.cost(stamp.at_ms)),
            incident: None,
        }
    }

    /// Who got a node's keys, if that is not known yet.
    fn moves(&mut self, whose: &Whose, moves: &[Move]) {
        let Some(incident) = self.incident(whose).filter(|incident| incident.moves.is_empty()) else {
            return;
        };
        let own = moves.iter().filter(|m| m.from.as_ref() == Some(&whose.1));
        incident.moves = own.cloned().collect();
        incident.moves.sort_by(|a, b| b.share.total_cmp(&a.share));
        incident.moves.truncate(MOVES);
    }

    fn open(
        &mut self,
        stamp: &Stamp,
        (topology, entry, readings): (&Topology, &Entry, &Readings),
        (cause, evidence, basis): (Cause, &Arc<str>, Option<Basis>),
    ) {
        let whose = (topology.pool.clone(), entry.node.name.clone());
        let new = self.doubt(stamp, &whose.0, &entry.node, readings);
        let doubt = self.doubts.entry(whose.clone()).or_insert(new);
        if let Some(id) = doubt.incident {
            // One that was slow, or misconfigured, and is ejected: that weighs more.
            if let Some(incident) = self.by_id(id) {
                (incident.cause, incident.evidence) = (Some(cause), evidence.clone());
                (incident.seen_by, incident.rule) = (basis.map(|b| b.seen_by), basis.map(|b| b.rule));
            }
            return;
        }
        self.last += 1;
        doubt.incident = Some(self.last);
        let since = doubt.since_ms;
        let fault_ms = since.saturating_sub(doubt.silence_ms(cause, topology));
        doubt.cost.iter_mut().for_each(|cost| cost.fault_ms = fault_ms);
        let doubted = (since < stamp.at_ms).then(|| stamp.at_ms - since);
        let mut incident = Incident {
            id: self.last,
            pool: Some(whose.0.clone()),
            node: Some(whose.1.clone()),
            address: Some(entry.node.address.to_string()),
            zone: entry.node.zone.clone(),
            opened_ms: stamp.at_ms,
            fault_ms,
            closed_ms: None,
            doubted_for_ms: doubted,
            cause: Some(cause),
            evidence: evidence.clone(),
            seen_by: basis.map(|b| b.seen_by),
            rule: basis.map(|b| b.rule),
            diagnoses: Vec::new(),
            moved: 0.0,
            held: None,
            moves: Vec::new(),
            data: None,
            emptied: false,
            requests_failed: 0,
            requests_substituted: 0,
            requests_unserved: 0,
            toll: doubt.cost.as_ref().map(|cost| cost.toll.clone()),
            timeline: Vec::new(),
        };
        if doubted.is_some() {
            let text = match entry.slow {
                Some(slow) => slow.to_string().into(),
                None => "something failed: it is probed at once".into(),
            };
            let epoch = stamp.epoch.saturating_sub(1);
            incident.timeline.push(Step { at_ms: since, epoch, what: "suspect", text, moved: 0.0 });
        }
        self.keep(stamp.at_ms, incident);
    }

    fn keep(&mut self, at_ms: u64, incident: Incident) {
        if self.kept.len() == KEPT {
            self.make_room(at_ms);
        }
        self.kept.insert(incident.id, incident);
    }

    /// Drops the oldest that is over and was written, or else that is over, or else the oldest of all.
    fn make_room(&mut self, at_ms: u64) {
        let over = || self.kept.values().filter(|incident| incident.closed_ms.is_some());
        let written = over().find(|incident| !self.settling.contains_key(&incident.id));
        let goes = written.or_else(|| over().next()).or_else(|| self.kept.values().next());
        let Some(mut incident) = goes.map(|incident| incident.id).and_then(|id| self.kept.remove(&id)) else {
            return;
        };
        let was_settling = self.settling.remove(&incident.id).is_some();
        if incident.closed_ms.is_none() {
            let whose = incident.pool.clone().zip(incident.node.clone());
            let doubt = whose.and_then(|whose| self.doubts.get(&whose));
            doubt.into_iter().for_each(|doubt| incident.count(doubt.counts()));
            let epoch = incident.timeline.last().map_or(0, |step| step.epoch);
            let text =
                format!("it goes on, and is not followed any more: {KEPT} younger ones go on, too").into();
            incident.timeline.push(Step { at_ms, epoch, what: "dropped", text, moved: 0.0 });
        } else if !was_settling {
            return;
        }
        self.dropped.push(incident);
    }

    /// An incident of this process. Its number.
    fn open_trouble(&mut self, at_ms: u64, trouble: &Trouble) -> u64 {
        self.last += 1;
        let evidence: Arc<str> = trouble.evidence.join("; ").into();
        let diagnosis = diagnose_trouble(trouble);
        let step = Step { at_ms, epoch: 0, what: "opened", text: evidence.clone(), moved: 0.0 };
        self.troubles.insert(trouble.fault, self.last);
        let incident = Incident {
            id: self.last,
            pool: None,
            node: None,
            address: None,
            zone: None,
            opened_ms: at_ms,
            fault_ms: at_ms,
            closed_ms: None,
            doubted_for_ms: None,
            cause: None,
            evidence,
            diagnoses: vec![diagnosis],
            seen_by: None,
            rule: None,
            moves: Vec::new(),
            moved: 0.0,
            held: None,
            data: None,
            emptied: false,
            requests_failed: 0,
            requests_substituted: 0,
            requests_unserved: 0,
            toll: None,
            timeline: vec![step],
        };
        self.keep(at_ms, incident);
        self.last
    }

    fn incident(&mut self, whose: &Whose) -> Option<&mut Incident> {
        let id = self.doubts.get(whose)?.incident?;
        self.by_id(id)
    }

    fn by_id(&mut self, id: u64) -> Option<&mut Incident> {
        self.kept.get_mut(&id)
    }

    fn step(&mut self, whose: &Whose, stamp: &Stamp, what: &'static str, text: Arc<str>) {
        let Some(incident) = self.incident(whose) else { return };
        incident.moved = incident.moved.max(stamp.moved);
        if incident.timeline.len() < STEPS {
            let Stamp { at_ms, epoch, moved } = *stamp;
            incident.timeline.push(Step { at_ms, epoch, what, text, moved });
        }
    }

    fn close(&mut self, stamp: &Stamp, whose: &Whose, data: Option<Data>) {
        let Some(doubt) = self.doubts.remove(whose) else { return };
        let Some(id) = doubt.incident else { return };
        let counts = doubt.counts();
        let end = self.accounts.get(&whose.0).map(|account| account.read(stamp.at_ms));
        let cost = doubt.cost.zip(end).map(|(mut cost, end)| {
            cost.end(end);
            cost
        });
        let Some(incident) = self.by_id(id) else { return };
        incident.closed_ms = Some(stamp.at_ms);
        incident.data = data;
        incident.count(counts);
        incident.toll = cost.as_ref().map(|cost| cost.toll.clone());
        self.settling.insert(id, Settling { pool: whose.0.clone(), cost });
    }

    /// Those of which nothing more will be known.
    fn settled(&self, over: impl Iterator<Item = u64>) -> Vec<Incident> {
        over.filter_map(|id| self.kept.get(&id).cloned()).collect()
    }

    /// Closes what is about nodes that have left, and forgets what was doubted of those that are others from
    /// now on.
    fn gone(&mut self, stamp: &Stamp, before: &Topology, after: &Topology) {
        // Only a reload does that, and only it brings these settings anew.
        if Arc::ptr_eq(&before.health, &after.health) || self.doubts.is_empty() {
            return;
        }
        let here: HashMap<&str, &Entry> = after.nodes.iter().map(|e| (&*e.node.name, e)).collect();
        let why = |(whose, doubt): (&Whose, &Doubt)| {
            let (pool, node) = whose;
            let why = match here.get(&**node) {
                _ if *pool != after.pool => None,
                None => Some("a reload took it out of the pool"),
                Some(now) if now.node.address != doubt.node.address => {
                    Some("a reload put another server in its place")
                }
                // Its detector begins anew, and doubts it again if it has reason to.
                Some(now) if now.node.id != doubt.node.id && !now.health.is_out() => {
                    doubt.incident.is_none().then_some("a reload changed it")
                }
                Some(_) => None,
            };
            Some((whose.clone(), why?))
        };
        let gone: Vec<(Whose, &str)> = self.doubts.iter().filter_map(why).collect();
        gone.iter().for_each(|(whose, why)| self.leave(stamp, whose, why));
    }

    fn leave(&mut self, stamp: &Stamp, whose: &Whose, text: &str) {
        self.step(whose, stamp, "left", text.into());
        self.close(stamp, whose, None);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn trouble() -> Trouble {
        let since = tokio::time::Instant::now();
        Trouble {
            fault: Fault::Memory,
            since,
            evidence: vec!["it is used up".to_owned()],
            withheld: BTreeSet::new(),
        }
    }

    /// An incident is found by its number also when older ones are forgotten, and what was forgotten is not
    /// there.
    #[test]
    fn incidents_are_found_by_number() {
        let incidents = Incidents::default();
        for at_ms in 0..=KEPT as u64 {
            assert_eq!(incidents.troubles(at_ms, &[trouble()]).0.len(), 1);
            assert_eq!(incidents.troubles(at_ms, &[]).1.len(), 1, "the same one is over");
        }
        let mut book = incidents.book();
        assert_eq!((book.kept.len(), book.last), (KEPT, KEPT as u64 + 1));
        for id in [0, 1, KEPT as u64 + 2] {
            assert!(book.by_id(id).is_none(), "{id}");
        }
        for id in 2..=KEPT as u64 + 1 {
            assert_eq!(book.by_id(id).map(|incident| incident.id), Some(id));
        }
    }

    /// What goes on stays as long as there is something that is over. What has to go is given to be written,
    /// if it was not: with a last step that says so, as it goes on.
    #[test]
    fn what_goes_on_stays() {
        let incidents = Incidents::default();
        let lasting = Trouble { fault: Fault::Starved, ..trouble() };
        incidents.troubles(0, std::slice::from_ref(&lasting));
        for at_ms in 0..=KEPT as u64 {
            incidents.troubles(at_ms, &[trouble(), lasting.clone()]);
            incidents.troubles(at_ms, std::slice::from_ref(&lasting));
        }
        assert_eq!(incidents.dropped(), [], "they were given when they ended");
        let mut book = incidents.book();
        assert!(book.by_id(1).is_some_and(|incident| incident.closed_ms.is_none()));
        let open = book.kept[&1].clone();
        let next = |book: &mut Book| {
            book.last += 1;
            book.keep(7, Incident { id: book.last, ..open.clone() });
        };
        let first = book.last;
        (1..KEPT).for_each(|_| next(&mut book));
        assert!(book.kept.contains_key(&1) && book.dropped.is_empty());
        // The youngest of them is over, and its last figures are awaited.
        let last = book.last;
        book.kept.get_mut(&last).expect("it is there").closed_ms = Some(8);
        book.settling.insert(last, Settling { pool: "cache".into(), cost: None });
        (0..2).for_each(|_| next(&mut book));
        assert!(book.settling.is_empty());
        let dropped: Vec<_> = book.dropped.iter().map(|incident| (incident.id, incident.closed_ms)).collect();
        assert_eq!(dropped, [(last, Some(8)), (1, None)]);
        let step = book.dropped[1].timeline.last().map(|step| (step.what, step.at_ms));
        assert_eq!(step, Some(("dropped", 7)));
        assert!(book.kept.contains_key(&(first + 1)));
    }

    /// What goes on when the process ends is given as it is, open, with a step that says so, behind what is
    /// over.
    #[test]
    fn what_is_open_at_the_end() {
        let incidents = Incidents::default();
        incidents.troubles(1, &[trouble()]);
        let all = incidents.settle(7);
        assert_eq!((all.len(), all[0].closed_ms), (1, None));
        assert_eq!(all[0].timeline.last().map(|step| (step.what, step.at_ms)), Some(("open", 7)));
    }
}

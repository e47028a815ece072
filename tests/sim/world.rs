//! THE WORLD: the real detectors and the real planner over servers that fail, in virtual time, one event
//! after the other and without a socket. After each event the laws are asked.

mod acts;
mod cleaning;
mod clients;
mod end;
mod gutter;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque, btree_map::Entry::Vacant},
    sync::Arc,
    time::Duration,
};

use ringway::{
    health::Observation,
    membership::{
        Births, Event as Told, IdSource, Ledger, Outcome, Permit, Prepared, Step, first_topology, plan,
        prepare,
    },
    net::Address,
    topology::{
        Because, Cause, Data, Entry, Health, LEVELS, News, NodeId, NodeSpec, OnReturn, Opinion, Order,
        Placement, Policy, PoolSpec, Route, Topology,
    },
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    body::{Body, DELAY, Heard, Patient},
    diagnoses::{Clinic, Ill, REMEMBERED},
    dice::Dice,
    laws::{Breach, Case, Law, Laws, Reason, holds},
    planner::{Planner, Sabotage, Watcher, is_away},
    scenario::{Act, Reload, Scenario, Truth, name, node},
    stats::Stats,
    values::{Book, KeyId},
};
use cleaning::Cleaners;

/// How often traffic is looked at while something is wrong, and while nothing is.
const TICK: Duration = Duration::from_millis(100);
const TICK_CALM: Duration = Duration::from_millis(400);
/// Data workers, each with a snapshot of its own age.
const WORKERS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next act of the scenario.
    Act,
    /// Traffic.
    Tick,
    /// A probe of this body begins or ends, if the appointment still counts.
    Probe { body: usize, turn: u32 },
    /// News reach membership.
    Deliver,
    /// Something may go on that waited.
    Budget,
    /// A reload is prepared.
    Reload,
    /// The cleaning of a node that is back begins, or ends.
    Clean { node: NodeId, began: Option<Instant> },
    /// The keys of a node that is stripped wait again.
    Stripped(NodeId),
    /// Nodes are looked through for what they took for others.
    Sweep,
    /// It is told that others are looked through still.
    Guard,
}

pub(crate) struct World {
    scenario: Scenario,
    dice: Dice,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    sent: u64,
    acts_done: usize,
    planner: Planner,
    births: Births,
    ledger: Ledger,
    topology: Arc<Topology>,
    /// As configured now.
    spec: PoolSpec,
    prepared: Option<Prepared>,
    bodies: Vec<Body>,
    /// Which body is the topology's node at an index.
    body_at: Vec<usize>,
    workers: Vec<Arc<Topology>>,
    /// When news of nodes reach membership, and when a cleaning began that they tell of.
    inbox: VecDeque<(Instant, (NodeId, News), Option<Instant>)>,
    cleaners: Cleaners,
    /// The pool that serves the keys of nodes that are away.
    gutter: Option<Box<World>>,
    /// What clients know.
    book: Book,
    orders: BTreeMap<Arc<str>, Order>,
    laws: Laws,
    /// Who names the fault, where there is one only.
    clinic: Option<Clinic>,
    pub(crate) stats: Stats,
    /// What happened, if anyone wants to read it.
    pub(crate) story: Option<Vec<String>>,
}

/// A world in which a law was broken.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) after: Duration,
    pub(crate) breach: Breach,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> World {
        let mut dice = Dice::new(seed);
        let scenario = Scenario::new(&mut dice);
        World::of((dice, scenario), sabotage, IdSource::default(), Instant::now())
    }

    /// A pool of a process that begins at this moment, and what befalls it.
    fn of(
        (dice, mut scenario): (Dice, Scenario),
        sabotage: Option<Sabotage>,
        ids: IdSource,
        start: Instant,
    ) -> World {
        let gutter = scenario.gutter.take().map(|gutter| {
            let mut gutter = World::of((dice.clone(), *gutter), None, ids.clone(), start);
            // Its own clients are those of the pool that it serves for.
            gutter.book.is_closed = true;
            Box::new(gutter)
        });
        let spec = scenario.spec.clone();
        let births = Births { ids, workers: 1, bell: Arc::new(Notify::new()) };
        let topology = first_topology(&spec, &births, |_| Arc::new([]));
        let topology = Arc::new(Topology { gutter: gutter.as_ref().map(|g| g.topology.clone()), ..topology });
        let mut world = World {
            dice,
            start,
            now: start,
            queue: BinaryHeap::new(),
            sent: 0,
            acts_done: 0,
            planner: Planner(sabotage),
            births,
            ledger: Ledger::new(&spec),
            bodies: spec.nodes.iter().map(|_| Body::new(start)).collect(),
            body_at: Vec::new(),
            workers: vec![topology.clone(); WORKERS],
            inbox: VecDeque::new(),
            cleaners: Cleaners::default(),
            gutter,
            book: Book::default(),
            orders: BTreeMap::new(),
            laws: Laws::new(&spec, &topology),
            clinic: scenario.single.map(|_| Clinic::new(sabotage)),
            stats: Stats::default(),
            story: None,
            prepared: None,
            topology,
            spec,
            scenario,
        };
        world.admit();
        world.send(start, Event::Tick);
        world.next_act();
        world
    }

    /// Lives through the scenario, and then until all is well again.
    pub(crate) fn run(&mut self, seed: u64) -> Result<(), Failure> {
        let failed = |world: &World, breach| Failure { seed, after: world.now - world.start, breach };
        let of_gutter = self.gutter.as_ref().map(|gutter| gutter.scenario.end);
        let end = self.start + self.scenario.end.max(of_gutter.unwrap_or_default());
        while self.now < end {
            self.next().map_err(|breach| failed(self, breach))?;
        }
        self.heal().map_err(|breach| failed(self, breach))?;
        self.recover().map_err(|breach| failed(self, breach))?;
        if let Some(gutter) = &self.gutter {
            self.stats.add(&gutter.stats);
        }
        self.stats.worlds = 1;
        self.stats.nodes = self.bodies.len() as u64;
        self.stats.virtual_ms = (self.now - self.start).as_millis() as u64;
        self.stats.epochs = self.topology.epoch - 1;
        Ok(())
    }

    fn send(&mut self, at: Instant, event: Event) {
        self.sent += 1;
        self.queue.push(Reverse((at.max(self.now), self.sent, event)));
    }

    fn next(&mut self) -> Result<(), Breach> {
        if self.is_gutters_turn() {
            return self.next_of_gutter();
        }
        let Some(Reverse((at, _, event))) = self.queue.pop() else {
            return holds(Law::GoesOn, false, || "nothing will ever happen again".to_owned());
        };
        self.now = at;
        self.stats.events += 1;
        match event {
            Event::Act => self.act(),
            Event::Tick => self.tick(),
            Event::Probe { body, turn } => self.probe(body, turn),
            Event::Deliver => self.deliver(),
            Event::Budget => self.budget(),
            Event::Reload => self.reload(),
            Event::Clean { node, began } => self.clean(node, began),
            Event::Stripped(node) => self.strips_on(node),
            Event::Sweep => self.sweep(),
            Event::Guard => self.guard(),
        }
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        let after = self.now - self.start;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>10.3} s  {}", after.as_secs_f64(), text()));
        }
    }

    // Traffic.

    fn tick(&mut self) -> Result<(), Breach> {
        let load = self.scenario.load;
        let mut is_calm = self.inbox.is_empty();
        for at in 0..self.body_at.len() {
            let i = self.body_at[at];
            let entry = &self.topology.nodes[at];
            let evidence = &entry.node.evidence;
            let body = &mut self.bodies[i];
            is_calm &= body.is_well() && entry.health == Health::Healthy;
            body.time_out(evidence, self.now);
            if entry.placement.serves() && self.dice.chance(load) {
                body.ask(evidence, &self.topology.policy, self.now);
            }
            if !is_calm {
                self.listen(i)?;
                self.standing(at)?;
            }
        }
        self.clients()?;
        for worker in 0..WORKERS {
            if self.dice.chance(60) {
                self.workers[worker] = self.topology.clone();
            }
            let key = self.dice.roll(u64::MAX);
            self.laws.write(&self.workers[worker], key)?;
            self.stats.writes += 1;
        }
        self.send(self.now + if is_calm { TICK_CALM } else { TICK }, Event::Tick);
        Ok(())
    }

    /// The bell rang for a body, perhaps.
    fn listen(&mut self, i: usize) -> Result<(), Breach> {
        let Some(at) = self.position(i) else { return Ok(()) };
        let topology = self.topology.clone();
        let Some(patient) = &mut self.bodies[i].patient else { return Ok(()) };
        let Some(seen) = patient.news(&topology.nodes[at].node.evidence) else { return Ok(()) };
        self.hear(i, &seen, None);
        self.observe(i, seen)?;
        let now = self.now;
        if let Some(due) = self.bodies[i].patient.as_mut().and_then(|p| p.hurried(now)) {
            self.appoint(i, due);
        }
        Ok(())
    }

    /// What must hold at any time of one node.
    fn standing(&mut self, at: usize) -> Result<(), Breach> {
        let body = &self.bodies[self.body_at[at]];
        let entry = &self.topology.nodes[at];
        let Some(patient) = &body.patient else { return Ok(()) };
        let says = patient.watcher.detector().health();
        holds(Law::Heard, !self.inbox.is_empty() || entry.health == says, || {
            format!("node {}: the detector says {says:?}, shown is {:?}", entry.node.name, entry.health)
        })?;
        let named = |b: Breach| Breach { text: format!("node {}: {}", entry.node.name, b.text), ..b };
        body.is_in_time(self.now).map_err(named)
    }

    // Probes and opinions.

    fn appoint(&mut self, i: usize, at: Instant) {
        if let Some(patient) = &self.bodies[i].patient {
            let turn = patient.turn;
            self.send(at, Event::Probe { body: i, turn });
        }
    }

    fn probe(&mut self, i: usize, turn: u32) -> Result<(), Breach> {
        let is_meant = self.bodies[i].patient.as_ref().is_some_and(|p| p.turn == turn);
        if !is_meant {
            return Ok(());
        }
        if let Some((seen, met)) = self.bodies[i].end_probe(self.now) {
            self.stats.probes += 1;
            self.hear(i, &seen, Some(met));
            let is_out = |world: &World| {
                let patient = world.bodies[i].patient.as_ref();
                patient.is_some_and(|patient| patient.watcher.detector().health().is_out())
            };
            if matches!(seen, Observation::Good { .. }) {
                self.answers(i);
            }
            let (was_out, data) = (is_out(self), self.offers(i));
            let owned =
                self.position(i).is_some_and(|at| self.topology.nodes[at].placement == Placement::Owns);
            self.observe(i, seen)?;
            let is_back = was_out && !is_out(self);
            if let Some(patient) = &mut self.bodies[i].patient {
                // What it came back with is not forgotten before it has all its keys.
                if is_back || owned {
                    patient.serves(is_back.then_some(data));
                }
                let due = patient.appointment(&mut self.dice, self.now);
                self.appoint(i, due);
            }
        } else {
            let policy = &self.topology.policy;
            let ends = self.bodies[i].begin_probe(policy, &mut self.dice, self.now);
            ends.into_iter().for_each(|at| self.appoint(i, at));
        }
        Ok(())
    }

    /// Whoever is to name the fault hears what was seen.
    fn hear(&self, i: usize, seen: &Observation, met: Option<Heard>) {
        if let (Some(clinic), Some(at)) = (&self.clinic, self.position(i)) {
            let whose = (&self.topology.pool, &self.topology.nodes[at].node.name);
            clinic.hear(self.now, whose, seen, met);
        }
    }

    /// A verdict is to eject a node: the fault is named.
    fn diagnose(&mut self, i: usize, cause: Cause) -> Result<(), Breach> {
        let body = &self.bodies[i];
        let is_dark = body.patient.as_ref().is_some_and(|patient| patient.dark > 0);
        let ill =
            Ill { truth: body.truth, is_cut: body.is_cut, is_pure: !body.was_other(REMEMBERED), is_dark };
        let (Some(clinic), Some(at)) = (&self.clinic, self.position(i)) else { return Ok(()) };
        let entry = &self.topology.nodes[at];
        self.stats.diagnoses +=
            u64::from(clinic.ejected(self.now, &self.topology.pool, entry, cause, ill)?);
        Ok(())
    }

    fn observe(&mut self, i: usize, mut seen: Observation) -> Result<(), Breach> {
        if let Observation::Good { data, .. } = &mut seen {
            *data = self.offers(i);
        }
        let (now, body) = (self.now, &mut self.bodies[i]);
        let settled = now - body.since > Duration::from_secs(1);
        let is_ill = !body.is_well() || !settled;
        let Some(patient) = &mut body.patient else { return Ok(()) };
        let (id, before) = (patient.id, patient.watcher.detector().health());
        let Some(mut opinion) = patient.watcher.step(now, seen) else { return Ok(()) };
        if before.is_out() && !opinion.health.is_out() && self.cleaners.quarantine.is_inexact(id) {
            opinion = patient.watcher.returns_inexact();
        }
        let named = |b: Breach| Breach { text: format!("node n{i}: {}", b.text), ..b };
        patient.judge(before, &opinion, is_ill, now).map_err(named)?;
        holds(Law::Patience, self.scenario.single.is_none_or(|ill| ill == i), || {
            format!("node n{i}: {opinion:?}, and n{:?} alone has a fault", self.scenario.single)
        })?;
        let is_flapping = patient.is_flapping();
        self.stats.judged(before, opinion.health, is_flapping);
        self.tell(|| format!("n{i} is {opinion:?}"));
        if let Opinion { health: Health::Ejected, because: Because::Failed(failed), .. } = &opinion
            && !before.is_out()
        {
            self.diagnose(i, failed.cause)?;
            self.cleaners.leaves(id);
        }
        self.hand_over((id, News::Judged(opinion)), None)
    }

    /// What a node that is back is said to have come back with.
    fn offers(&self, i: usize) -> Data {
        let patient = self.bodies[i].patient.as_ref();
        let is_flushed = patient.is_some_and(|patient| patient.is_flushed);
        let is_bounded = patient.is_some_and(|patient| patient.bounded.is_some());
        match self.brings(i) {
            _ if is_flushed => Data::Flushed,
            Data::Same if self.topology.policy.on_return == OnReturn::Ttl && !is_bounded => Data::Unknown,
            data => data,
        }
    }

    /// What it came back with, or what became of it since.
    fn brings(&self, i: usize) -> Data {
        let body = &self.bodies[i];
        let back = body.patient.as_ref().and_then(|patient| patient.back);
        match () {
            () if !self.scenario.says_who => Data::Unknown,
            () if body.is_same() => back.unwrap_or(Data::Same),
            () if body.has_data() => Data::Other,
            () => Data::Empty,
        }
    }

    /// A node answers, and may be emptied in passing before it is back.
    fn answers(&mut self, i: usize) {
        let policy = self.topology.policy.clone();
        let is_away = self.position(i).is_some_and(|at| is_away(&self.topology.nodes[at]));
        let body = &mut self.bodies[i];
        body.is_met(&policy);
        let returns = body.patient.as_ref().is_some_and(|p| p.watcher.detector().returns_next());
        if returns && is_away && policy.on_return == OnReturn::Flush && !policy.keeps_keys() {
            body.is_emptied(&policy);
            body.patient.iter_mut().for_each(|patient| patient.is_flushed = true);
        }
    }

    /// News go to membership, which may be busy. The order stays. What was thought of a node before may be
    /// lost on the way: what is thought now is the whole of it.
    fn hand_over(&mut self, news: (NodeId, News), began: Option<Instant>) -> Result<(), Breach> {
        let is_judged = |news: &News| matches!(news, News::Judged(_));
        let is_old = |old: &(NodeId, News)| old.0 == news.0 && is_judged(&old.1);
        if is_judged(&news.1) && self.inbox.iter().any(|(_, old, _)| is_old(old)) && self.dice.chance(50) {
            self.inbox.retain(|(_, old, _)| !is_old(old));
        }
        if self.inbox.is_empty() && self.dice.chance(80) {
            return self.news((news.0, &news.1), began);
        }
        let earliest = self.inbox.back().map_or(self.now, |(at, ..)| *at);
        let at = earliest.max(self.now + self.dice.between(Duration::ZERO, DELAY / 2)).min(self.now + DELAY);
        self.inbox.push_back((at, news, began));
        self.send(at, Event::Deliver);
        Ok(())
    }

    fn deliver(&mut self) -> Result<(), Breach> {
        match self.inbox.pop_front() {
            Some((_, (node, news), began)) => self.news((node, &news), began),
            None => Ok(()),
        }
    }

    // Membership, as its task does it.

    fn news(&mut self, news: (NodeId, &News), began: Option<Instant>) -> Result<(), Breach> {
        let (node, what) = news;
        match self.planner.plan(&self.topology, &self.ledger, news, self.now) {
            Outcome::Publish(step) => {
                let before = self.topology.clone();
                let is_out = |topology: &Topology, at: usize| topology.nodes[at].health.is_out();
                if let Some(at) = before.position(node)
                    && is_out(&before, at)
                    && !is_out(&step.next, at)
                {
                    before.nodes[at].node.evidence.reset_streak();
                }
                self.publish(*step, Reason::News(node, what, began))?;
            }
            Outcome::Remember(ledger) => {
                self.ledger = *ledger;
                if let (News::Cleaned { below, .. }, Some(began), Some(at)) =
                    (what, began, self.topology.position(node))
                {
                    self.laws.cleaned(&self.topology.nodes[at].node.name, *below, began);
                }
            }
            Outcome::Nothing | Outcome::Refused { .. } => {}
        }
        let (News::Judged(opinion), Some(at)) = (what, self.topology.position(node)) else { return Ok(()) };
        let is = self.topology.nodes[at].health;
        holds(Law::Heard, is == opinion.health, || format!("it is {is:?}, and was said to be {opinion:?}"))?;
        let again = plan(&self.topology, &self.ledger, news, self.now);
        holds(Law::Heard, matches!(again, Outcome::Nothing), || format!("said twice it is more: {opinion:?}"))
    }

    fn budget(&mut self) -> Result<(), Breach> {
        let Some(due) = self.topology.budget_due.filter(|due| *due <= self.now) else { return Ok(()) };
        self.tell(|| "the budget is looked at".to_owned());
        if let Outcome::Publish(step) = self.planner.budget(&self.topology, &self.ledger, self.now) {
            self.publish(*step, Reason::Budget)?;
        }
        holds(Law::GoesOn, self.topology.budget_due.is_none_or(|due| due > self.now), || {
            format!("what was due {:?} ago waits on", self.now - due)
        })
    }

    fn publish(&mut self, step: Step, reason: Reason<'_>) -> Result<(), Breach> {
        let Step { next, ledger, events } = step;
        let before = std::mem::replace(&mut self.topology, Arc::new(next));
        self.ledger = ledger;
        let after = self.topology.clone();
        self.stats.published(&before, &after, &events);
        if self.story.is_some() {
            self.tell(|| shown(&before, &after, &reason, &events));
        }
        let (time, orders) = (self.now, &self.orders);
        self.laws.step(&Case { before: &before, after: &after, events: &events, reason, time, orders })?;
        if before.budget_due != after.budget_due
            && let Some(due) = after.budget_due
        {
            // A timer is never early and often a little late.
            let late = self.dice.between(Duration::ZERO, DELAY);
            self.send(due + late, Event::Budget);
        }
        if !Arc::ptr_eq(&before.health, &after.health) {
            // As every reload does.
            self.admit();
        }
        self.follow(&before)
    }

    /// Watches the nodes of the topology and no others.
    fn admit(&mut self) {
        let topology = self.topology.clone();
        self.body_at =
            topology.nodes.iter().map(|e| number(&e.node.name).expect("it was named here")).collect();
        for (i, body) in self.bodies.iter_mut().enumerate() {
            if !self.body_at.contains(&i) {
                body.patient = None;
            }
        }
        for (at, entry) in topology.nodes.iter().enumerate() {
            let i = self.body_at[at];
            let known = self.bodies[i].patient.as_mut().filter(|p| p.id == entry.node.id);
            if let Some(patient) = known {
                patient.configure(&topology.health, &topology.policy);
                continue;
            }
            if self.topology.epoch > 1 && entry.placement != Placement::Owns {
                // It was away under another identity.
                self.cleaners.quarantine.cut(entry.node.id);
            }
            let sabotage = self.planner.0;
            let watcher = Watcher::new(topology.health.clone(), entry.health, self.now, sabotage);
            let mut patient = Patient::new(entry.node.id, watcher, topology.health.clone(), self.now);
            // No appointment of a patient who was there before counts for this one.
            patient.turn = self.sent as u32;
            // Servers that come have nothing, and who has another identity is met anew.
            patient.bounded = topology.policy.ttl_max.filter(|_| topology.epoch == 1);
            self.bodies[i].patient = Some(patient);
            if let Some(clinic) = &self.clinic {
                clinic.admit(&topology.pool, entry);
            }
            self.appoint(i, self.now);
        }
    }

    fn position(&self, i: usize) -> Option<usize> {
        let id = self.bodies[i].patient.as_ref()?.id;
        // In a pool without reloads it is where it always was.
        if self.topology.nodes.get(i).is_some_and(|e| e.node.id == id) {
            return Some(i);
        }
        self.topology.position(id)
    }
}

/// The number in a node's name.
fn number(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.parse().ok()
}

fn is_starting(entry: &Entry) -> bool {
    matches!(entry.placement, Placement::Starting(_))
}

/// A step for the story.
fn shown(before: &Topology, after: &Topology, reason: &Reason<'_>, events: &[Told]) -> String {
    let why = match reason {
        Reason::News(node, news, _) => format!("{node:?}: {news:?}"),
        Reason::Budget => "the budget".to_owned(),
        Reason::Gutter => "its gutter".to_owned(),
        Reason::Order(name) => format!("an order for {name}"),
        Reason::Reload { moved, .. } => format!("a reload that moves {moved:.3}"),
    };
    let states = after.nodes.iter().map(|e| {
        let order = e.order.map_or("", Order::word);
        format!("{} {:?} {:?} {order}", e.node.name, e.health, e.placement)
    });
    let unlike = states.filter(|text| !text.ends_with("Healthy Owns ")).collect::<Vec<_>>().join(", ");
    format!("epoch {} -> {} by {why}: {events:?}; [{unlike}]", before.epoch, after.epoch)
}

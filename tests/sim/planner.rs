//! The real planner and detector, and saboteurs: each does one thing wrong, so that it can be seen that the
//! laws would notice.

use std::{sync::Arc, time::Duration};

use ringway::{
    health::{Detector, Observation},
    membership::{self, Births, Ledger, Outcome, Permit, Prepared, Step, What},
    ring::{self, Ring},
    topology::{
        Admission, Because, Entry, Health, HealthSettings, News, NodeId, OnReturn, Opinion, Order, Placement,
        Policy, Topology, Warmth,
    },
};
use tokio::time::Instant;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// An owner changes within an epoch.
    HidesAnEpoch,
    /// Two epochs for one step.
    SkipsAnEpoch,
    /// An epoch in which nothing changes.
    BumpsForNothing,
    IgnoresEjectMax,
    /// Keeps nodes in that may go.
    KeepsTooMany,
    IgnoresTheBudget,
    /// Lets cold nodes take what they have begun to take, whatever is spent.
    StartsForFree,
    /// Puts out the neighbour of a node that failed.
    MovesASurvivor,
    /// The ring is built anew without those that are away, as it is where points are shared out among
    /// those that serve.
    RebuildsTheRing,
    /// What comes back has other places than it had.
    RestoresToAnotherMap,
    NeverRestores,
    /// A node that waits has no date.
    ForgetsWhoWaits,
    /// The date comes, and nothing is done.
    SleepsOver,
    /// The date comes, and another date is given.
    PutsOff,
    /// A doubt that was unfounded stays.
    DropsVerdicts,
    /// A node that was put out by hand comes back by itself.
    ForgetsOrders,
    /// Ejects what an operator has pinned.
    IgnoresPins,
    /// Says nothing of an ejection.
    KeepsSilent,
    /// The detector takes each ejection for the first.
    ForgetsFlaps,
    /// The detector lets a node that flaps wait without bound.
    WaitsWithoutBound,
    /// The detector does not believe a node that is back.
    NeverForgives,
    /// The detector does not hear of failures.
    IsDeaf,
    /// The detector does not wait for a second sign.
    IsHasty,
    /// A node that is back owns its keys before they are cleaned.
    OwnsUnclean,
    /// Lets keys stay with a node that has old values of them.
    ForgetsDebts,
    /// Whatever is wrong with a node, the path to it is blamed.
    BlamesThePath,
    /// A probe that meets silence is told as one that was refused.
    TakesSilenceForRefusal,
    /// Does not hear that others may have what they took for a node that is back.
    ForgetsLeftovers,
    /// Takes what the gutter has for expired at once.
    TrustsTheGutter,
    /// Takes what a node has for expired at once.
    HurriesExpiry,
    /// Others are told to have been looked through, and were not.
    SweepsInName,
}

/// The planner as membership calls it, or a saboteur.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planner(pub(crate) Option<Sabotage>);

impl Planner {
    fn is(self, sabotage: Sabotage) -> bool {
        self.0 == Some(sabotage)
    }

    pub(crate) fn plan(
        self,
        now: &Topology,
        ledger: &Ledger,
        (node, news): (NodeId, &News),
        time: Instant,
    ) -> Outcome {
        let turn = turn(now, node, news);
        if self.is(Sabotage::DropsVerdicts) && matches!(turn, Some((Health::Suspect, Health::Healthy, _))) {
            return Outcome::Nothing;
        }
        let news = match news {
            News::Cleaned { below, emptied, how, .. } if self.is(Sabotage::ForgetsLeftovers) => {
                &News::Cleaned { below: *below, leftovers: false, emptied: *emptied, how: how.clone() }
            }
            news => news,
        };
        let is_ejection = turn.is_some_and(|(was, is, _)| !was.is_out() && is == Health::Ejected);
        let outcome = membership::plan(&self.blinkered(now, is_ejection), ledger, (node, news), time);
        self.corrupted(now, outcome, turn)
    }

    pub(crate) fn budget(self, now: &Topology, ledger: &Ledger, time: Instant) -> Outcome {
        if self.is(Sabotage::SleepsOver) {
            return Outcome::Nothing;
        }
        if self.is(Sabotage::PutsOff) {
            let budget_due = Some(time + now.policy.warmth.window);
            let next = Topology { revision: now.revision + 1, budget_due, ..now.clone() };
            return Outcome::Publish(Box::new(Step { next, ledger: ledger.clone(), events: Vec::new() }));
        }
        let outcome = membership::budget(&self.blinkered(now, false), ledger, time);
        self.corrupted(now, outcome, None)
    }

    pub(crate) fn order(
        self,
        now: &Topology,
        ledger: &Ledger,
        wanted: (&str, Option<Order>),
        time: Instant,
    ) -> Result<Option<Box<Step>>, String> {
        membership::order(now, ledger, wanted, time)
    }

    pub(crate) fn reload(
        self,
        now: &Topology,
        ledger: &Ledger,
        prepared: &Prepared,
        births: &Births,
        may: &Permit,
    ) -> Outcome {
        let mut seen = now.clone();
        if self.is(Sabotage::ForgetsDebts) {
            seen.policy = Arc::new(Policy { on_return: OnReturn::Serve, ..(*now.policy).clone() });
        }
        membership::reload(&seen, ledger, prepared, births, may)
    }

    /// The topology as a saboteur wants the planner to see it.
    fn blinkered(self, now: &Topology, is_ejection: bool) -> Topology {
        let mut seen = now.clone();
        match self.0 {
            Some(Sabotage::IgnoresEjectMax) => {
                seen.health = Arc::new(HealthSettings { eject_max: 1.0, ..(*now.health).clone() });
            }
            Some(Sabotage::KeepsTooMany) if is_ejection && now.policy.warmth.share >= 1.0 => {
                let eject_max = now.health.eject_max / 2.0;
                seen.health = Arc::new(HealthSettings { eject_max, ..(*now.health).clone() });
            }
            Some(Sabotage::IgnoresTheBudget) => {
                let warmth = Warmth { share: 1.0, ..now.policy.warmth };
                seen.policy = Arc::new(Policy { warmth, ..(*now.policy).clone() });
            }
            Some(Sabotage::StartsForFree) if !now.nodes.iter().any(waits) => {
                let warmth = Warmth { share: 1.0, ..now.policy.warmth };
                seen.policy = Arc::new(Policy { warmth, ..(*now.policy).clone() });
            }
            Some(Sabotage::HurriesExpiry) if now.policy.on_return == OnReturn::Ttl => {
                let ttl_max = Some(Duration::from_millis(1));
                seen.policy = Arc::new(Policy { ttl_max, ..(*now.policy).clone() });
            }
            Some(Sabotage::TrustsTheGutter) => {
                let mut policy = (*now.policy).clone();
                policy.failover.iter_mut().for_each(|f| f.ttl_max = Duration::from_millis(1));
                seen.policy = Arc::new(policy);
            }
            Some(Sabotage::IgnoresPins) => {
                let free = |e: &Entry| Entry { order: e.order.filter(|o| o.is_out()), ..e.clone() };
                seen.nodes = now.nodes.iter().map(free).collect();
            }
            Some(Sabotage::ForgetsOrders) => {
                let free = |e: &Entry| Entry { order: e.order.filter(|o| !o.is_out()), ..e.clone() };
                seen.nodes = now.nodes.iter().map(free).collect();
            }
            _ => {}
        }
        seen
    }

    fn corrupted(self, now: &Topology, outcome: Outcome, turn: Option<Turn<'_>>) -> Outcome {
        let Outcome::Publish(mut step) = outcome else { return outcome };
        let Some(sabotage) = self.0 else { return Outcome::Publish(step) };
        step.next.health = now.health.clone();
        step.next.policy = now.policy.clone();
        let nodes = step.next.nodes.iter().zip(now.nodes.iter());
        step.next.nodes = nodes.map(|(e, before)| Entry { order: before.order, ..e.clone() }).collect();
        corrupt(sabotage, now, &mut step, turn);
        Outcome::Publish(step)
    }
}

/// What was thought of a node's health, and is, and why.
type Turn<'a> = (Health, Health, &'a Because);

fn turn<'a>(now: &Topology, node: NodeId, news: &'a News) -> Option<Turn<'a>> {
    let News::Judged(opinion) = news else { return None };
    Some((now.nodes[now.position(node)?].health, opinion.health, &opinion.because))
}

fn corrupt(sabotage: Sabotage, now: &Topology, step: &mut Step, turn: Option<Turn<'_>>) {
    let moves = step.next.epoch != now.epoch;
    let came_back = |e: &Entry, before: &Entry| is_away(before) && !is_away(e);
    let returns = step.next.nodes.iter().zip(now.nodes.iter()).any(|(e, before)| came_back(e, before));
    match sabotage {
        Sabotage::HidesAnEpoch => step.next.epoch = now.epoch,
        Sabotage::SkipsAnEpoch if moves => step.next.epoch += 1,
        Sabotage::BumpsForNothing if matches!(turn, Some((Health::Healthy, Health::Suspect, _))) => {
            step.next.epoch = now.epoch + 1;
        }
        Sabotage::MovesASurvivor if turn.is_some_and(|turn| turn.1 == Health::Ejected) && moves => {
            let mut nodes = step.next.nodes.to_vec();
            let fine = |e: &&mut Entry| e.health == Health::Healthy && !is_away(e);
            if let Some(neighbour) = nodes.iter_mut().find(fine) {
                neighbour.placement = Placement::Away;
            }
            step.next.nodes = nodes.into();
        }
        Sabotage::RebuildsTheRing if moves && !returns => {
            let mut members = now.ring.members().to_vec();
            for (member, entry) in members.iter_mut().zip(step.next.nodes.iter()) {
                member.weight = if is_away(entry) { 1 } else { member.weight * 2 };
            }
            step.next.ring = Arc::new(Ring::build(now.ring.settings(), &members));
        }
        Sabotage::RestoresToAnotherMap if returns && is_vnode(now) => {
            let mut members = now.ring.members().to_vec();
            let nodes = step.next.nodes.iter().zip(now.nodes.iter());
            for (member, _) in members.iter_mut().zip(nodes).filter(|(_, (e, b))| came_back(e, b)) {
                member.weight *= 2;
            }
            step.next.ring = Arc::new(Ring::build(now.ring.settings(), &members));
        }
        Sabotage::NeverRestores if returns && returns_warm(now, turn) => {
            let stays = |(e, before): (&Entry, &Entry)| Entry { placement: before.placement, ..e.clone() };
            step.next.nodes = step.next.nodes.iter().zip(now.nodes.iter()).map(stays).collect();
            step.next.epoch = now.epoch;
        }
        Sabotage::OwnsUnclean => {
            let owns = |e: &Entry| match e.placement {
                Placement::Starting(Admission { fence, .. }) => Entry {
                    placement: Placement::Starting(Admission { admitted: fence, fence }),
                    ..e.clone()
                },
                _ => e.clone(),
            };
            step.next.nodes = step.next.nodes.iter().map(owns).collect();
        }
        Sabotage::ForgetsWhoWaits => step.next.budget_due = None,
        Sabotage::KeepsSilent => step.events.retain(|event| !matches!(event.what, What::Ejected(_))),
        _ => {}
    }
}

/// Whether a node is back with what it had, so that it has nothing to wait for.
fn returns_warm(now: &Topology, turn: Option<Turn<'_>>) -> bool {
    let Some((before, after, Because::Returned(back))) = turn else { return false };
    before.is_out() && !after.is_out() && !back.data.is_cold() && now.policy.on_return == OnReturn::Serve
}

/// Whether a node that changes moves only its own keys, also where the ring is built anew.
fn is_vnode(topology: &Topology) -> bool {
    matches!(topology.ring.settings().placement, ring::Placement::Vnode { .. })
}

/// Whether a node is out, or waits to return.
fn waits(entry: &Entry) -> bool {
    matches!(entry.placement, Placement::Away | Placement::Held) || entry.health.is_out()
}

pub(crate) fn is_away(entry: &Entry) -> bool {
    entry.placement == Placement::Away
}

/// The detector of one node, or a saboteur.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    detector: Detector,
    settings: Arc<HealthSettings>,
    sabotage: Option<Sabotage>,
}

impl Watcher {
    pub(crate) fn new(
        settings: Arc<HealthSettings>,
        known: Health,
        now: Instant,
        sabotage: Option<Sabotage>,
    ) -> Watcher {
        let settings = match sabotage {
            Some(Sabotage::WaitsWithoutBound) => {
                let flap_max = settings.interval * 100_000;
                Arc::new(HealthSettings { flap_max, ..(*settings).clone() })
            }
            Some(Sabotage::IsHasty) => Arc::new(HealthSettings { fall: 1, ..(*settings).clone() }),
            _ => settings,
        };
        Watcher { detector: Detector::new(settings.clone(), known, 0, now), settings, sabotage }
    }

    pub(crate) fn detector(&self) -> &Detector {
        &self.detector
    }

    /// It is back, and not all is known of what was written elsewhere meanwhile.
    pub(crate) fn returns_inexact(&mut self) -> Opinion {
        self.detector.returns_inexact();
        self.detector.opinion()
    }

    pub(crate) fn configure(&mut self, settings: Arc<HealthSettings>) {
        if self.sabotage.is_none() {
            self.detector.configure(settings.clone());
        }
        self.settings = settings;
    }

    pub(crate) fn step(&mut self, now: Instant, seen: Observation) -> Option<Opinion> {
        let is_failure = !matches!(seen, Observation::Good { .. });
        if self.sabotage == Some(Sabotage::IsDeaf) && is_failure {
            return None;
        }
        let is_out = self.detector.health().is_out();
        if self.sabotage == Some(Sabotage::NeverForgives) && is_out && !is_failure {
            return None;
        }
        let opinion = self.detector.step(now, seen);
        let is_ejected = !is_out && self.detector.health().is_out();
        if self.sabotage == Some(Sabotage::ForgetsFlaps) && is_ejected {
            self.detector = Detector::new(self.settings.clone(), Health::Ejected, 0, now);
        }
        opinion
    }
}

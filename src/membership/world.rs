//! A seeded world: detectors and planner against nodes that die, hang and return at random, in
//! virtual time and without a socket. A seed that fails is a bug report.

use tokio::time::Instant;

use super::tests::{Planned, assert_guarded, frugal, owners, spec};
use super::*;
use crate::{
    health::{Detector, Observation, Traffic},
    topology::{Cause, Data, Failure, Health, HealthSettings, Placement},
};

/// What a node really does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Truth {
    Up,
    /// Nobody listens.
    Dead,
    /// Connects and does not answer.
    Hung,
}

/// A stream of numbers from a seed.
struct Dice(u64, u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.1 += 1;
        xxhash_rust::xxh3::xxh3_64_with_seed(&self.1.to_le_bytes(), self.0) % sides
    }
}

struct Body {
    truth: Truth,
    since: Instant,
    /// It died since it last owned: what it had is gone.
    is_empty: bool,
    detector: Detector,
    counts: [u64; Failure::ALL.len()],
    /// Traffic holds a connection to it.
    is_connected: bool,
    /// The probe's own connection stands.
    is_linked: bool,
    /// The next probe begins.
    due: Instant,
    /// The running probe began, and times out.
    probing: Option<(Instant, Instant)>,
    /// Requests that it owes a reply time out at these moments.
    owed: Vec<Instant>,
}

struct World {
    seed: u64,
    dice: Dice,
    now: Instant,
    pool: Planned,
    bodies: Vec<Body>,
    settings: HealthSettings,
    /// Requests per node and tick, in percent; 0 is an idle pool.
    load: u64,
}

/// Of the warmth budget.
const WINDOW: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(10);
const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);
/// A connection has at most so many requests under way.
const OWED_MAX: usize = 50;

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(seed, 0);
        let count = 2 + dice.roll(5) as usize;
        let weights: Vec<u32> = (0..count).map(|_| 1 + dice.roll(3) as u32).collect();
        let spec = spec(&weights, [0.34, 0.5, 1.0][dice.roll(3) as usize]);
        let spec = frugal(spec, [0.25, 0.5, 1.0][dice.roll(3) as usize], WINDOW);
        let (pool, now) = (Planned::new(&spec), Instant::now());
        let body = |_| Body {
            truth: Truth::Up,
            since: now,
            is_empty: false,
            detector: Detector::new(pool.topology.health.clone(), Health::Healthy, now),
            counts: [0; Failure::ALL.len()],
            is_connected: false,
            is_linked: false,
            due: now,
            probing: None,
            owed: Vec::new(),
        };
        let bodies = (0..count).map(body).collect();
        let load = [0, 5, 60][dice.roll(3) as usize];
        World { seed, dice, now, pool, bodies, settings: spec.health, load }
    }

    /// Fate: the first node always lives, each other one turns about once in ten seconds.
    fn turn_fates(&mut self) {
        for i in 1..self.bodies.len() {
            if self.dice.roll(1000) != 0 {
                continue;
            }
            let truth = [Truth::Up, Truth::Dead, Truth::Hung][self.dice.roll(3) as usize];
            self.turn(i, truth);
        }
    }

    fn turn(&mut self, i: usize, truth: Truth) {
        let body = &mut self.bodies[i];
        if body.truth == truth {
            return;
        }
        let evidence = &self.pool.topology.nodes[i].node.evidence;
        if truth == Truth::Dead {
            body.is_empty = true;
            if body.is_connected && !body.owed.is_empty() {
                evidence.failed(Failure::Lost, 1);
            }
            body.is_connected = false;
            body.owed.clear();
            // An idle probe sees its connection close.
            if body.is_linked && body.probing.is_none() {
                body.due = self.now;
            }
        } else if body.truth == Truth::Hung {
            // It wakes up and answers what is still asked.
            body.owed.clear();
        }
        (body.truth, body.since) = (truth, self.now);
    }

    fn traffic(&mut self) {
        for (i, body) in self.bodies.iter_mut().enumerate() {
            let entry = &self.pool.topology.nodes[i];
            let evidence = &entry.node.evidence;
            let late = body.owed.iter().filter(|t| **t <= self.now).count();
            body.owed.retain(|t| *t > self.now);
            if late > 0 {
                evidence.failed(Failure::Timeout, late as u32);
            }
            if entry.placement != Placement::Owns || self.dice.roll(100) >= self.load {
                continue;
            }
            match body.truth {
                Truth::Dead => evidence.failed(Failure::Refused, 1),
                Truth::Up => {
                    body.is_connected = true;
                    evidence.good();
                }
                Truth::Hung if body.owed.len() < OWED_MAX => {
                    body.is_connected = true;
                    body.owed.push(self.now + REQUEST_TIMEOUT);
                }
                Truth::Hung => {}
            }
        }
    }

    fn bell(&mut self) {
        for i in 0..self.bodies.len() {
            let node = self.pool.topology.nodes[i].node.clone();
            let body = &mut self.bodies[i];
            let counts = Failure::ALL.map(|kind| node.evidence.count(kind));
            let new: [u64; Failure::ALL.len()] = std::array::from_fn(|k| counts[k] - body.counts[k]);
            body.counts = counts;
            if new.iter().sum::<u64>() == 0 {
                continue;
            }
            let streak = node.evidence.streak();
            self.observe(i, Observation::Traffic(Traffic { new, streak }));
            if self.bodies[i].detector.health() == Health::Suspect {
                self.bodies[i].due = self.now;
            }
        }
    }

    fn probes(&mut self) {
        for i in 0..self.bodies.len() {
            let body = &mut self.bodies[i];
            if body.probing.is_none() && body.due <= self.now {
                body.is_linked &= !body.detector.wants_new_connection();
                body.probing = Some((self.now, self.now + self.settings.timeout));
            }
            let Some((started, until)) = body.probing else { continue };
            let after_loss = body.is_linked;
            let seen = match body.truth {
                Truth::Up => Observation::Good { started },
                Truth::Dead => {
                    Observation::Failed { cause: Cause::Refused, after_loss, text: "refused".into() }
                }
                Truth::Hung if until <= self.now => {
                    Observation::Failed { cause: Cause::Timeout, after_loss: false, text: "silent".into() }
                }
                Truth::Hung => continue,
            };
            body.is_linked = body.truth == Truth::Up;
            body.probing = None;
            self.observe(i, seen);
            let body = &mut self.bodies[i];
            body.due = self.now + body.detector.pause().mul_f64(0.9 + self.dice.roll(20) as f64 / 100.0);
        }
    }

    fn observe(&mut self, i: usize, seen: Observation) {
        let Some(verdict) = self.bodies[i].detector.step(self.now, seen) else { return };
        let node = self.pool.topology.nodes[i].node.clone();
        let data = if self.bodies[i].is_empty { Data::Empty } else { Data::Same };
        let change = verdict.into_change(&self.pool.topology.pool, node.id, data);
        let is_return = matches!(change, Change::Restore { .. });
        self.bodies[i].is_empty &= !is_return;
        self.pool.time = self.now;
        assert!(self.pool.change(&change).is_some(), "seed {}: {change:?} came out of order", self.seed);
        if is_return {
            node.evidence.reset_streak();
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.traffic();
        self.bell();
        self.probes();
        self.pool.time = self.now;
        if self.pool.topology.budget_due.is_some_and(|at| at <= self.now) {
            self.pool.budget();
        }
        assert_guarded(&self.pool.topology);
        for (i, body) in self.bodies.iter().enumerate() {
            let entry = &self.pool.topology.nodes[i];
            assert_eq!(entry.health, body.detector.health(), "seed {}: node {i}", self.seed);
            let lasted = self.now - body.since;
            let seen = (self.seed, i, body.truth, lasted, entry.health, entry.placement);
            match body.truth {
                Truth::Up if lasted > self.back_within() => {
                    assert_eq!(
                        (entry.health, entry.placement),
                        (Health::Healthy, Placement::Owns),
                        "{seen:?}"
                    );
                }
                Truth::Dead if lasted > TICK * 15 => assert!(self.is_out(i), "{seen:?}"),
                Truth::Hung if lasted > self.out_within() => assert!(self.is_out(i), "{seen:?}"),
                _ => {}
            }
        }
        assert_eq!(self.pool.topology.nodes[0].placement, Placement::Owns, "seed {}", self.seed);
    }

    /// A running probe that fails, then `rise` good ones.
    fn back_within(&self) -> Duration {
        let waits = WINDOW * self.bodies.len() as u32;
        self.settings.timeout + self.settings.interval.mul_f64(1.1) * (self.settings.rise + 1) + waits
    }

    /// Nobody uses it: a pause, then `fall` probes that time out, with short pauses.
    fn out_within(&self) -> Duration {
        self.settings.interval.mul_f64(1.2) + (self.settings.timeout + TICK * 12) * self.settings.fall
    }

    /// Away, or kept because of `eject_max` for certain.
    fn is_out(&self, i: usize) -> bool {
        let nodes = &self.pool.topology.nodes;
        let total: u32 = nodes.iter().map(|e| e.node.weight).sum();
        let away = nodes.iter().filter(|e| e.placement != Placement::Owns);
        let away: u32 = away.map(|e| e.node.weight).sum();
        let owners = nodes.iter().filter(|e| e.placement == Placement::Owns).count();
        let with = f64::from(away + nodes[i].node.weight);
        let is_kept = owners == 1 || with > self.settings.eject_max * f64::from(total);
        let is_probed_well = nodes[i].health == Health::Ejected;
        is_probed_well && (nodes[i].placement != Placement::Owns || is_kept)
    }
}

/// Whatever nodes do: the guard holds at every moment, a node that never fails never leaves, a dead
/// one is out within a moment and a hung one within its bound unless `eject_max` keeps it, one
/// that lives owns again within its bound, and at the end the map is what it was.
#[test]
fn nodes_die_hang_and_return() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let first = owners(&world.pool.topology);
        for _ in 0..4000 {
            world.turn_fates();
            world.tick();
        }
        for i in 0..world.bodies.len() {
            world.turn(i, Truth::Up);
        }
        let rest = world.back_within().as_millis() / TICK.as_millis() + 2;
        for _ in 0..rest {
            world.tick();
        }
        assert_eq!(owners(&world.pool.topology), first, "seed {seed}");
        assert!(world.pool.ledger.is_empty(), "seed {seed}");
    }
}

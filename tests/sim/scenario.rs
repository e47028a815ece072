//! Seed -> a pool, and what befalls it: its size, its settings, who fails when and how, what operators
//! do meanwhile.

use std::{ops::Range, sync::Arc, time::Duration};

use ringway::{
    net::Address,
    ring,
    topology::{
        Failover, HealthSettings, NodeSpec, OnEjected, OnReturn, Order, Policy, PoolSpec, PrefixPolicy,
        Warmth, WhileHeld,
    },
};

use crate::{dice::Dice, keys::KINDS};

/// What a server really does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Truth {
    Up,
    /// Nobody listens.
    Dead,
    /// Connects and does not answer.
    Hung,
    /// Answers that it reads its data.
    Loading,
    /// Answers this late.
    Slow(Duration),
}

/// What befalls the pool. Servers are known by the number in their name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The server turns.
    Turn(usize, Truth),
    /// The server can't be reached, or can again.
    Cut(usize, bool),
    /// An operator wants something of a node, or nothing any more.
    Order(usize, Option<Order>),
    /// A new configuration.
    Reload(Reload),
}

/// What a new configuration has that the old one had not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reload {
    /// One node more.
    Join,
    /// One node fewer.
    Leave(usize),
    /// The node's weight.
    Weight(usize, u32),
    /// `eject_max`.
    EjectMax(f64),
    /// The node's address: another server, which is well.
    Address(usize),
    /// `warmth.share`.
    Share(f64),
    /// `warmth.held`.
    Held(WhileHeld),
    /// `on_ejected`.
    OnEjected(OnEjected),
    /// `hold_down`.
    HoldDown(Duration),
    /// `ttl_max`, where lives are bounded.
    TtlMax(Duration),
    /// `failover.ttl_max`, where there is a gutter.
    GutterTtl(Duration),
}

/// A seed, unfolded.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) spec: PoolSpec,
    /// In order of time.
    pub(crate) acts: Vec<(Duration, Act)>,
    /// When faults stop for good.
    pub(crate) end: Duration,
    /// How likely a node that serves is asked within a tick, in percent; 0 is an idle pool.
    pub(crate) load: u64,
    /// Nodes tell who they are, as Redis and memcached do and HTTP nodes do not.
    pub(crate) says_who: bool,
    /// The one server that has a fault, if there is only one fault.
    pub(crate) single: Option<usize>,
    /// What befalls the pool that serves the keys of nodes that are away, if there is one.
    pub(crate) gutter: Option<Box<Scenario>>,
}

impl Scenario {
    pub(crate) fn new(dice: &mut Dice) -> Scenario {
        let count = size(dice);
        let spec = spec(dice, count);
        let mut acts = Vec::new();
        let span = spec.health.interval * (20 + dice.roll(30) as u32);
        let single = faults(dice, &spec, span, &mut acts);
        if dice.chance(30) {
            orders(dice, count, span, &mut acts);
        }
        if dice.chance(25) {
            // The share that two rings of `modula` differ in is sampled, which takes too long here.
            let members = spec.ring.placement != ring::Placement::Modula;
            reloads(dice, (&spec, members), span, &mut acts);
        }
        acts.sort_by_key(|(at, _)| *at);
        let end = acts.last().map_or(span, |(at, _)| span.max(*at + spec.health.interval));
        let load = dice.pick(&[0, 10, 50, 100]);
        let gutter = spec.policy.fails_over().then(|| Box::new(Scenario::gutter(dice, span)));
        Scenario { spec, acts, end, load, says_who: dice.chance(80), single, gutter }
    }

    /// A few nodes that serve for others, or one.
    fn gutter(dice: &mut Dice, span: Duration) -> Scenario {
        let mut spec = spec(dice, 1 + dice.clone().roll(3) as usize);
        let mut policy = Policy::clone(&spec.policy);
        policy.on_ejected = OnEjected::Rehash;
        policy.on_return = dice.pick(&[OnReturn::Quarantine, OnReturn::Flush]);
        (policy.failover, policy.prefixes, policy.sole_writer) = (None, Vec::new(), false);
        (spec.name, spec.policy) = ("gutter".into(), Arc::new(policy));
        let mut acts = Vec::new();
        if dice.chance(60) {
            faults(dice, &spec, span, &mut acts);
        }
        acts.sort_by_key(|(at, _)| *at);
        let end = acts.last().map_or(span, |(at, _)| span.max(*at + spec.health.interval));
        let load = dice.pick(&[0, 10, 50, 100]);
        Scenario { spec, acts, end, load, says_who: dice.chance(80), single: None, gutter: None }
    }
}

/// Small pools mostly; one in 500 has hundreds of nodes.
fn size(dice: &mut Dice) -> usize {
    match dice.roll(1000) {
        0..2 => 100 + dice.roll(401) as usize,
        2..20 => 30 + dice.roll(70) as usize,
        20..150 => 9 + dice.roll(22) as usize,
        _ => 5 + dice.roll(4) as usize,
    }
}

pub(crate) fn name(i: usize) -> Arc<str> {
    format!("n{i}").into()
}

pub(crate) fn node(i: usize, weight: u32) -> NodeSpec {
    let address = Address::Tcp { host: format!("10.0.{}.{}", i / 250, 1 + i % 250), port: 6379 };
    NodeSpec { name: name(i), address, weight, zone: None }
}

fn spec(dice: &mut Dice, count: usize) -> PoolSpec {
    let heaviest = dice.pick(&[1, 1, 3]);
    let nodes = (0..count).map(|i| node(i, 1 + dice.roll(heaviest) as u32)).collect();
    let placement = match dice.roll(20) {
        0 => ring::Placement::Modula,
        // Primes.
        1..4 => ring::Placement::Maglev { slots: if count < 50 { 1009 } else { 10_007 } },
        _ => ring::Placement::Vnode { points: 16 },
    };
    let interval = Duration::from_millis(dice.pick(&[250, 500, 1000, 1000]));
    let probes = HealthSettings {
        interval,
        timeout: interval / 2,
        fall: dice.pick(&[2, 3, 3]),
        rise: dice.pick(&[1, 2, 2, 3]),
        failures: dice.pick(&[2, 3, 3, 5]),
        ..HealthSettings::default()
    };
    let health = HealthSettings {
        eject_max: dice.pick(&[0.2, 0.34, 0.5, 0.5, 1.0]),
        flap_window: interval * dice.pick(&[10, 60]),
        flap_max: interval * dice.pick(&[0, 3, 10, 20]),
        ..probes
    };
    let warmth = Warmth {
        share: dice.pick(&[0.05, 0.25, 0.25, 0.5, 1.0]),
        window: interval * dice.pick(&[2, 5, 10, 30]),
        held: dice.pick(&[WhileHeld::Fail, WhileHeld::Miss]),
    };
    let on_ejected = match dice.roll(10) {
        0 => OnEjected::Fail,
        1 => OnEjected::Miss,
        2 | 3 => OnEjected::Failover,
        _ => OnEjected::Rehash,
    };
    let keys_move = on_ejected.moves();
    let ttl_max = interval * dice.pick(&[3, 10, 30]);
    let failover = (on_ejected == OnEjected::Failover).then(|| Failover { pool: "gutter".into(), ttl_max });
    let on_return = match dice.roll(6) {
        _ if !keys_move => OnReturn::Serve,
        0 => OnReturn::Flush,
        1 | 2 => OnReturn::Quarantine,
        3 => OnReturn::Ttl,
        _ => OnReturn::Serve,
    };
    let ttl_max = interval * dice.pick(&[2, 5, 15]);
    let is_bounded = on_return == OnReturn::Ttl || dice.chance(15);
    let policy = Policy {
        on_ejected,
        hold_down: if keys_move { interval * dice.pick(&[0, 0, 0, 3]) } else { Duration::ZERO },
        prefixes: if dice.chance(15) { vec![prefix(dice)] } else { Vec::new() },
        failover,
        on_return,
        ttl_max: is_bounded.then_some(ttl_max),
        sole_writer: dice.chance(50),
        quarantine_max: dice.pick(&[10, 100_000]),
        slow_start: interval * dice.pick(&[0, 0, 2, 10]),
        warmth,
        ..Policy::default()
    };
    PoolSpec {
        name: "cache".into(),
        listen: Vec::new(),
        ring: ring::Settings { placement, ..ring::Settings::default() },
        policy: Arc::new(policy),
        health,
        nodes,
    }
}

/// Some keys have a policy of their own.
fn prefix(dice: &mut Dice) -> PrefixPolicy {
    let on_ejected = dice.pick(&[OnEjected::Rehash, OnEjected::Fail, OnEjected::Miss]);
    PrefixPolicy { prefix: KINDS[1].as_bytes().into(), on_ejected }
}

/// Faults of some servers, each with its end. One pool in four has one fault and no more, whose server is
/// returned.
fn faults(
    dice: &mut Dice,
    spec: &PoolSpec,
    span: Duration,
    acts: &mut Vec<(Duration, Act)>,
) -> Option<usize> {
    let count = spec.nodes.len() as u64;
    if dice.chance(25) {
        let i = dice.roll(count) as usize;
        fault(dice, spec, i, span / 4, acts);
        return Some(i);
    }
    for _ in 0..1 + dice.roll(6) {
        let at = dice.between(Duration::ZERO, span);
        match dice.roll(10) {
            // A rack, or all: cut off, or dead; perhaps the others when those are just back.
            0 => {
                let most = if dice.chance(40) { count } else { 1 + dice.roll(count) } as usize;
                let until = at + lasts(dice, spec);
                rack(dice, 0..most, (at, until), acts);
                if dice.chance(50) {
                    let at = until + dice.between(Duration::ZERO, spec.health.interval * 6);
                    let until = at + lasts(dice, spec);
                    rack(dice, most..count as usize, (at, until), acts);
                }
            }
            // Some servers of a large pool, one soon after the other.
            1..3 => {
                for _ in 0..1 + dice.roll(1 + count / 5) {
                    let i = dice.roll(count) as usize;
                    let at = at + dice.between(Duration::ZERO, spec.health.interval * 4);
                    fault(dice, spec, i, at, acts);
                }
            }
            _ => {
                let i = dice.roll(count) as usize;
                fault(dice, spec, i, at, acts);
            }
        }
    }
    None
}

/// These servers have the same fault at once.
fn rack(
    dice: &mut Dice,
    which: Range<usize>,
    (at, until): (Duration, Duration),
    acts: &mut Vec<(Duration, Act)>,
) {
    let is_cut = dice.chance(60);
    for i in which {
        let (off, on) = if is_cut {
            (Act::Cut(i, true), Act::Cut(i, false))
        } else {
            (Act::Turn(i, Truth::Dead), Act::Turn(i, Truth::Up))
        };
        acts.extend([(at, off), (until, on)]);
    }
}

/// How long a fault lasts: often it is over before anyone was sure.
fn lasts(dice: &mut Dice, spec: &PoolSpec) -> Duration {
    let interval = spec.health.interval;
    match dice.roll(3) {
        0 => dice.between(interval / 50, interval),
        _ => dice.between(interval, interval * 15),
    }
}

fn fault(dice: &mut Dice, spec: &PoolSpec, i: usize, at: Duration, acts: &mut Vec<(Duration, Act)>) {
    let until = at + lasts(dice, spec);
    let truth = match dice.roll(10) {
        0..2 => Truth::Dead,
        2 => {
            // It starts with its data, which takes a while.
            let loads = at + (until - at) / 2;
            acts.extend([(at, Act::Turn(i, Truth::Dead)), (loads, Act::Turn(i, Truth::Loading))]);
            acts.push((until, Act::Turn(i, Truth::Up)));
            return;
        }
        3..5 => Truth::Hung,
        5..7 => Truth::Slow(dice.between(Duration::from_millis(5), spec.health.interval)),
        7 => {
            acts.extend([(at, Act::Cut(i, true)), (until, Act::Cut(i, false))]);
            return;
        }
        _ => return flap(dice, spec, i, at, acts),
    };
    acts.extend([(at, Act::Turn(i, truth)), (until, Act::Turn(i, Truth::Up))]);
}

/// The server comes and goes.
fn flap(dice: &mut Dice, spec: &PoolSpec, i: usize, mut at: Duration, acts: &mut Vec<(Duration, Act)>) {
    let interval = spec.health.interval;
    let truth = dice.pick(&[Truth::Dead, Truth::Dead, Truth::Hung]);
    let (away, here) = (dice.between(interval / 4, interval * 2), dice.between(interval / 4, interval * 6));
    for _ in 0..2 + dice.roll(6) {
        acts.push((at, Act::Turn(i, truth)));
        acts.push((at + away, Act::Turn(i, Truth::Up)));
        at += away + here;
    }
}

fn orders(dice: &mut Dice, count: usize, span: Duration, acts: &mut Vec<(Duration, Act)>) {
    for _ in 0..1 + dice.roll(3) {
        let (i, at) = (dice.roll(count as u64) as usize, dice.between(Duration::ZERO, span));
        let order = dice.pick(&[Order::Drain, Order::Eject, Order::Pin]);
        acts.push((at, Act::Order(i, Some(order))));
        // Some are never taken back.
        if dice.chance(75) {
            let until = at + dice.between(Duration::ZERO, span / 2);
            acts.push((until, Act::Order(i, None)));
        }
    }
}

/// New configurations, with other `members` or with other settings alone.
fn reloads(
    dice: &mut Dice,
    (spec, members): (&PoolSpec, bool),
    span: Duration,
    acts: &mut Vec<(Duration, Act)>,
) {
    let fails_over = spec.policy.fails_over();
    for _ in 0..1 + dice.roll(3) {
        let i = dice.roll(spec.nodes.len() as u64) as usize;
        let life = dice.between(Duration::from_millis(500), Duration::from_secs(20));
        let reload = match dice.roll(13) {
            0 if members => Reload::Join,
            1 if members => Reload::Leave(i),
            2 if members => Reload::Weight(i, 1 + dice.roll(4) as u32),
            3 => Reload::Address(i),
            4 => Reload::Held(dice.pick(&[WhileHeld::Fail, WhileHeld::Miss])),
            5..8 if fails_over => Reload::GutterTtl(life),
            5..8 => Reload::OnEjected(dice.pick(&[OnEjected::Rehash, OnEjected::Fail, OnEjected::Miss])),
            8 => Reload::HoldDown(dice.between(Duration::ZERO, Duration::from_secs(3))),
            10 | 11 => Reload::TtlMax(life),
            9 => Reload::Share(dice.pick(&[0.1, 0.25, 0.5, 1.0])),
            _ => Reload::EjectMax(dice.pick(&[0.2, 0.34, 0.5, 1.0])),
        };
        acts.push((dice.between(Duration::ZERO, span), Act::Reload(reload)));
    }
}

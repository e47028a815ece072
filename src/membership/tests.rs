mod counted;
mod doubts;
mod leftovers;
mod returns;

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    protocol::http::{KeyRule, KeySource},
    ring,
    topology::{
        Basis, Because, Cause, Data, Failed, Failure, Health, HealthSettings, HttpSettings, OnEjected,
        Opinion, Order, Placement, Policy, Returned, Route, Rule, SeenBy, Warmth, WhileHeld, channel,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);
/// What an ejection rests on that is like any other.
const BASIS: Basis = Basis { rule: Rule::Certain, seen_by: SeenBy::Traffic };

/// Why a node is out.
fn gone() -> Because {
    Because::Failed(Failed { cause: Cause::Refused, evidence: "it is gone".into(), basis: BASIS })
}

/// How a node that was out proved itself.
fn back(data: Data) -> Because {
    Because::Returned(Returned { data, is_exact: true, evidence: "it is back".into() })
}

/// A node of a test's pool: `n3` weighs 2 and listens on port 7003.
pub(super) fn node(i: usize, weight: u32) -> NodeSpec {
    NodeSpec {
        name: format!("n{i}").into(),
        address: Address::Tcp { host: "127.0.0.1".into(), port: 7000 + i as u16 },
        weight,
        zone: None,
    }
}

/// A pool of nodes with these weights.
pub(super) fn spec(weights: &[u32], eject_max: f64) -> PoolSpec {
    PoolSpec {
        name: "cache".into(),
        listen: Vec::new(),
        ring: ring::Settings {
            placement: ring::Placement::Vnode { points: 20 },
            hash: ring::HashKind::Xxh3_64,
            char_sign: ring::CharSign::X86,
            hash_tag: None,
        },
        policy: Arc::new(Policy { warmth: all_at_once(), ..Policy::default() }),
        health: HealthSettings { eject_max, flap_max: Duration::ZERO, ..HealthSettings::default() },
        nodes: weights.iter().enumerate().map(|(i, w)| node(i, *w)).collect(),
    }
}

/// No budget: what these tests look at does not wait.
fn all_at_once() -> Warmth {
    Warmth { share: 1.0, ..Warmth::default() }
}

/// The same pool under a warmth budget.
pub(super) fn frugal(mut spec: PoolSpec, share: f64, window: Duration) -> PoolSpec {
    let warmth = Warmth { share, window, held: WhileHeld::Fail };
    spec.policy = Arc::new(Policy { warmth, ..(*spec.policy).clone() });
    spec
}

/// Which node (by name) serves each of many keys.
pub(super) fn owners(topology: &Topology) -> Vec<Option<Arc<str>>> {
    let key = |i: u32| {
        topology.route(topology.ring.hash(format!("key:{i}").as_bytes()), format!("key:{i}").as_bytes())
    };
    let name = |route| match route {
        Route::Send(i) => Some(topology.nodes[i].node.name.clone()),
        Route::Wait(_) | Route::Fail(_) | Route::Miss(_) | Route::NoOwner => None,
    };
    (0..300).map(key).map(name).collect()
}

/// Panics unless the guard holds: not too much is away, and somebody owns.
pub(super) fn assert_guarded(topology: &Topology) {
    let weight = |away: bool| -> u32 {
        let of_kind = |e: &&crate::topology::Entry| (e.placement != Placement::Owns) == away;
        topology.nodes.iter().filter(of_kind).map(|e| e.node.weight).sum()
    };
    let (away, owns) = (weight(true), weight(false));
    let out_max = topology.health.eject_max * f64::from(away + owns);
    assert!(f64::from(away) <= out_max + 1e-6, "{away} of {} is away", away + owns);
    assert!(owns > 0, "nobody owns");
}

/// A pool that is planned but not run.
pub(super) struct Planned {
    pub(super) births: Births,
    pub(super) ledger: Ledger,
    pub(super) topology: Topology,
    /// When the next change is planned.
    pub(super) time: tokio::time::Instant,
}

impl Planned {
    pub(super) fn new(spec: &PoolSpec) -> Planned {
        let births = Births { ids: IdSource::default(), workers: 1, bell: Arc::new(Notify::new()) };
        let topology = first_topology(spec, &births, |n| n.address.literal().into_iter().collect());
        Planned { births, ledger: Ledger::new(spec), topology, time: tokio::time::Instant::now() }
    }

    pub(super) fn id(&self, name: &str) -> NodeId {
        let entry = self.topology.nodes.iter().find(|e| &*e.node.name == name);
        entry.expect("the node is in the pool").node.id
    }

    pub(super) fn entry(&self, name: &str) -> &crate::topology::Entry {
        &self.topology.nodes[self.topology.position(self.id(name)).expect("it is there")]
    }

    /// Puts an outcome in force; what was told, if anything was published.
    pub(super) fn apply(&mut self, outcome: Outcome) -> Option<Vec<Event>> {
        let step = match outcome {
            Outcome::Publish(step) => step,
            Outcome::Remember(ledger) => {
                self.ledger = *ledger;
                return None;
            }
            _ => return None,
        };
        assert_eq!(step.next.revision, self.topology.revision + 1);
        assert!(step.next.epoch - self.topology.epoch <= 1);
        self.ledger = step.ledger;
        self.topology = step.next;
        Some(step.events)
    }

    /// Something is known of a node.
    pub(super) fn news(&mut self, name: &str, news: News) -> Option<Vec<Event>> {
        let node = self.id(name);
        self.apply(plan(&self.topology, &self.ledger, (node, &news), self.time))
    }

    /// This is thought of its health, and nothing else of it.
    pub(super) fn judge(&mut self, name: &str, health: Health, because: Because) -> Option<Vec<Event>> {
        self.news(name, News::Judged(Opinion { health, slow: None, wrong: None, because }))
    }

    /// Others were looked through for old copies of its keys.
    pub(super) fn swept(&mut self, name: &str) -> Option<Vec<Event>> {
        let id = self.id(name);
        let left = self.topology.leftovers.iter().find(|left| left.node == id);
        let turn = left.expect("others may have some").turn;
        self.news(name, News::Swept { turn })
    }

    /// The budget is looked at again.
    pub(super) fn budget(&mut self) -> Option<Vec<Event>> {
        self.apply(budget(&self.topology, &self.ledger, self.time))
    }

    pub(super) fn eject(&mut self, name: &str) -> Option<Vec<Event>> {
        self.judge(name, Health::Ejected, gone())
    }

    fn restore(&mut self, name: &str) -> Option<Vec<Event>> {
        self.restore_with(name, Data::Same)
    }

    pub(super) fn restore_with(&mut self, name: &str, data: Data) -> Option<Vec<Event>> {
        self.judge(name, Health::Healthy, back(data))
    }

    pub(super) fn prepare(&self, spec: PoolSpec) -> Prepared {
        let targets = spec.nodes.iter().map(|n| n.address.literal().into_iter().collect()).collect();
        prepare(&self.topology, &self.ledger, Arc::new(spec), targets)
    }

    pub(super) fn reload(&mut self, spec: PoolSpec) -> Option<Vec<Event>> {
        let prepared = self.prepare(spec);
        let permit = Permit { max_share: 0.0, yes: true, time: self.time };
        self.apply(reload(&self.topology, &self.ledger, &prepared, &self.births, &permit))
    }
}

fn names(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| {
        let node = event.node.as_deref().unwrap_or_default();
        let word = match &event.what {
            What::Ejected(_) => "ejected",
            What::Held(_) => "held",
            What::Released(_) => "released",
            What::Stays => "stays",
            What::Waits(..) => "waits",
            What::Kept(_) => "kept",
            What::Readmitted(_) => "readmitted",
            What::Starts(_) => "starts",
            What::Cleaned { .. } => "cleaned",
            What::Restored(_) => "restored",
            What::Recovered => "recovered",
            What::Gutter(_) => return "gutter".to_owned(),
            What::Reloaded(_) => return "reloaded".to_owned(),
            What::Ordered(order, _) => {
                return format!("ordered {node}: {}", order.map_or("none", Order::word));
            }
            What::Admits(to) => return format!("admits {node}: {} to {}", to.admitted, to.fence),
            What::Misconfigured(what) => return format!("misconfigured {node}: {}", what.is_some()),
            What::Slow(slow) => return format!("slow {node}: {}", slow.is_some()),
        };
        format!("{word} {node}")
    };
    events.iter().map(word).collect()
}

/// Why a node is kept that should be ejected.
fn kept_as(event: &Event) -> &str {
    match &event.what {
        What::Kept(failed) => &failed.evidence,
        other => panic!("{other:?}"),
    }
}

pub(super) fn told(events: Option<Vec<Event>>) -> Vec<String> {
    names(&events.expect("a publish"))
}

/// An ejection is one epoch that moves the node's share and nothing else; the return is one epoch
/// that restores the exact map.
#[test]
fn out_and_back_is_two_epochs() {
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    let first = pool.topology.clone();
    assert_eq!(told(pool.eject("n1")), ["ejected n1"]);
    assert_eq!((pool.topology.epoch, pool.topology.revision), (2, 2));
    for (before, after) in owners(&first).iter().zip(owners(&pool.topology)) {
        match before.as_deref() {
            Some("n1") => assert_ne!(after.as_deref(), Some("n1")),
            _ => assert_eq!(before, &after),
        }
    }
    let share = first.ring.shares(|_| true)[1];
    assert!((moved(&first, &pool.topology) - share).abs() < 1e-9);
    assert!(pool.eject("n1").is_none(), "twice is nothing");
    assert_eq!(told(pool.restore("n1")), ["restored n1"]);
    assert_eq!(pool.topology.epoch, 3);
    assert_eq!(owners(&pool.topology), owners(&first));
    assert!(pool.ledger.is_empty());
    assert!(moved(&first, &pool.topology) == 0.0);
}

/// Doubts, probation, a relapse, a new address and a misconfiguration are revisions, not epochs.
#[test]
fn what_moves_no_key_is_no_epoch() {
    let mut pool = Planned::new(&spec(&[1, 1], 0.5));
    let what: Option<Arc<str>> = Some("it is a replica".into());
    let elsewhere: Arc<[Target]> = Arc::new([Target::Unix("/run/x".into())]);
    let judged = |health, wrong: &Option<Arc<str>>| {
        let (slow, wrong, because) = (None, wrong.clone(), Because::Nothing);
        News::Judged(Opinion { health, slow, wrong, because })
    };
    for (news, expected) in [
        (judged(Health::Suspect, &None), &[][..]),
        (judged(Health::Suspect, &what), &["misconfigured n0: true"]),
        (News::Resolved(elsewhere.clone()), &[]),
        (judged(Health::Healthy, &what), &[]),
    ] {
        assert_eq!(told(pool.news("n0", news.clone())), expected, "{news:?}");
        assert!(pool.news("n0", news.clone()).is_none(), "twice is nothing: {news:?}");
    }
    assert_eq!(pool.entry("n0").misconfigured, what);
    assert_eq!(pool.entry("n0").targets, elsewhere);
    assert_eq!((pool.topology.epoch, pool.topology.revision), (1, 5));
    pool.eject("n0");
    assert!(pool.judge("n0", Health::Probation, gone()).is_some());
    assert!(pool.judge("n0", Health::Ejected, gone()).is_some());
    assert_eq!((pool.topology.epoch, pool.entry("n0").health), (2, Health::Ejected));
    let stranger = (NodeId(999), &judged(Health::Suspect, &None));
    assert!(matches!(plan(&pool.topology, &pool.ledger, stranger, pool.time), Outcome::Nothing));
}

/// A slow node is suspect and marked as slow, in one revision, until it is not. One that fails is told as
/// that, and shown as slow only if it is out for it; when it is back it is not slow.
#[test]
fn a_slow_node_is_marked() {
    let mut pool = Planned::new(&spec(&[1, 1, 1], 0.5));
    let ms = Duration::from_millis;
    let slow = Some(crate::topology::Slow { p99: ms(60), median: ms(2), bound: ms(20) });
    let judged = |health, slow, because| News::Judged(Opinion { health, slow, wrong: None, because });
    let (is, is_not) =
        (judged(Health::Suspect, slow, Because::Nothing), judged(Health::Healthy, None, Because::Nothing));
    assert_eq!(told(pool.news("n0", is.clone())), ["slow n0: true"]);
    assert!(pool.news("n0", is.clone()).is_none(), "twice is nothing");
    assert_eq!((pool.entry("n0").health, pool.entry("n0").slow), (Health::Suspect, slow));
    assert_eq!(told(pool.news("n0", is_not)), ["slow n0: false"]);
    assert_eq!((pool.entry("n0").health, pool.entry("n0").slow), (Health::Healthy, None));
    for out in [slow, None] {
        pool.news("n0", is.clone());
        assert_eq!(told(pool.news("n0", judged(Health::Ejected, out, gone()))), ["ejected n0"]);
        assert_eq!(pool.entry("n0").slow, out);
        assert_eq!(told(pool.restore("n0")), ["restored n0"]);
        assert_eq!((pool.entry("n0").health, pool.entry("n0").slow), (Health::Healthy, None));
    }
    assert_eq!((pool.topology.epoch, pool.entry("n0").placement), (5, Placement::Owns));
}

/// `eject_max` fails open and says so; when others return, the one that was kept goes; the last
/// node stays whatever `eject_max` says.
#[test]
fn the_guard_fails_open() {
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    pool.eject("n0");
    pool.eject("n1");
    let epoch = pool.topology.epoch;
    let events = pool.eject("n2").expect("its health turns");
    assert_eq!(names(&events), ["kept n2"]);
    assert!(kept_as(&events[0]).contains("50 %"), "{events:?}");
    assert_eq!(pool.topology.epoch, epoch, "no key moved");
    assert_eq!(pool.entry("n2").health, Health::Ejected);
    assert_eq!(told(pool.restore("n0")), ["restored n0", "ejected n2"]);
    assert_eq!(pool.topology.epoch, epoch + 1, "both in one epoch");
    assert_eq!(told(pool.eject("n3")), ["kept n3"]);
    assert_eq!(told(pool.restore("n3")), ["recovered n3"]);

    let mut all = Planned::new(&spec(&[1, 1], 1.0));
    all.eject("n0");
    let events = all.eject("n1").expect("its health turns");
    assert!(kept_as(&events[0]).contains("last node"), "{events:?}");
    assert!(all.topology.nodes.iter().any(|e| e.placement == Placement::Owns), "one owns, though it fails");
    assert_eq!(told(Planned::new(&spec(&[1], 0.5)).eject("n0")), ["kept n0"]);
    assert_eq!(told(Planned::new(&spec(&[1, 1], 0.0)).eject("n0")), ["kept n0"]);
}

/// Where ejected keys do not move, an ejection is an epoch all the same: their action changes, and
/// the share is what is refused.
#[test]
fn fail_counts_what_is_refused() {
    let mut fail = spec(&[1, 1, 2], 0.5);
    fail.policy = Arc::new(Policy { on_ejected: OnEjected::Fail, ..Policy::default() });
    let mut pool = Planned::new(&fail);
    let first = pool.topology.clone();
    pool.eject("n2");
    assert_eq!(pool.topology.epoch, 2);
    assert!((moved(&first, &pool.topology) - first.ring.shares(|_| true)[2]).abs() < 1e-9);
    // Rehash from now on: the keys that were refused get an owner.
    assert_eq!(told(pool.reload(spec(&[1, 1, 2], 0.5))), ["reloaded"]);
    assert_eq!(pool.topology.epoch, 3);
}

/// Ring keys that come from another part of requests move nearly all of them, though the ring is the
/// same: such a reload is an epoch, and wants to be meant.
#[test]
fn another_ring_key_moves_requests() {
    let mut keyed = spec(&[1, 1, 1, 1], 0.5);
    let key = KeyRule { from: KeySource::Path, ..KeyRule::default() };
    let http = HttpSettings { key, ..HttpSettings::default() };
    keyed.policy = Arc::new(Policy { http: Arc::new(http), warmth: all_at_once(), ..Policy::default() });
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    let (first, prepared) = (pool.topology.clone(), pool.prepare(keyed.clone()));
    assert!((0.7..0.8).contains(&prepared.moved), "three of four go elsewhere: {}", prepared.moved);
    let permit = Permit { max_share: 0.1, yes: false, time: pool.time };
    let refused = reload(&pool.topology, &pool.ledger, &prepared, &pool.births, &permit);
    assert!(matches!(&refused, Outcome::Refused { why } if why.contains("key space")), "{refused:?}");
    assert_eq!(told(pool.reload(keyed)), ["reloaded"]);
    assert_eq!(pool.topology.epoch, 2);
    assert!(Arc::ptr_eq(&first.ring, &pool.topology.ring));
    assert!((moved(&first, &pool.topology) - prepared.moved).abs() < 1e-9);
}

/// With bounded load a key goes on from a node that is full to the next one that serves, and
/// without it, or from a node that is away under `fail`, nowhere else.
#[test]
fn full_nodes_are_walked_past() {
    let policy = |on_ejected, bounded_load| {
        let http = HttpSettings { bounded_load, ..HttpSettings::default() };
        Arc::new(Policy { on_ejected, http: Arc::new(http), ..Policy::default() })
    };
    let bound = ring::BoundedLoad::new(125);
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    pool.topology.policy = policy(OnEjected::Fail, bound);
    let hash = pool.topology.ring.hash(b"k");
    let order: Vec<usize> = pool.topology.ring.candidates(hash).collect();
    let full = |i: usize| if i == order[0] { 9 } else { 0 };
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, |_| 0),
        Route::Send(order[0])
    );
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Send(order[1])
    );
    pool.eject(&format!("n{}", order[1]));
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Send(order[2])
    );
    pool.topology.policy = policy(OnEjected::Fail, None);
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Send(order[0])
    );
    pool.eject(&format!("n{}", order[0]));
    pool.topology.policy = policy(OnEjected::Fail, bound);
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Fail(order[0])
    );
    pool.topology.policy = policy(OnEjected::Rehash, bound);
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Send(order[2])
    );
    let full = |i: usize| if i == order[2] { 9 } else { 0 };
    assert_eq!(
        pool.topology.route_bounded(hash, pool.topology.policy.on_ejected, full),
        Route::Send(order[3])
    );
}

/// A reload of the same is nothing; one of other limits is a revision; the ring is not built anew
/// in either.
#[test]
fn a_reload_that_moves_nothing() {
    let mut pool = Planned::new(&spec(&[1, 1], 0.5));
    let ring = pool.topology.ring.clone();
    assert!(pool.reload(spec(&[1, 1], 0.5)).is_none());
    assert_eq!(told(pool.reload(spec(&[1, 1], 0.4))), ["reloaded"]);
    assert_eq!((pool.topology.epoch, pool.topology.revision), (1, 2));
    assert!(Arc::ptr_eq(&ring, &pool.topology.ring));
    assert_eq!(pool.topology.health.eject_max, 0.4);
}

/// Nodes that stay are the same nodes after a reload; a new address is a new node with the old
/// counters; a new weight is a new node too, but what was known of the server stays known.
#[test]
fn a_reload_touches_only_what_changed() {
    let mut pool = Planned::new(&spec(&[1, 1, 1], 0.5));
    pool.eject("n2");
    let before = pool.topology.clone();
    let mut next = spec(&[1, 1, 2], 0.5);
    next.nodes[1].address = Address::Tcp { host: "127.0.0.1".into(), port: 7999 };
    next.nodes.push(node(3, 1));
    let events = pool.reload(next).expect("a publish");
    let [Event { what: What::Reloaded(evidence), .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(&**evidence, "came: n3; changed: n1, n2");
    assert_eq!(pool.topology.epoch, before.epoch + 1);
    let now = &pool.topology;
    assert!(Arc::ptr_eq(&now.nodes[0].node, &before.nodes[0].node));
    assert_ne!(now.nodes[1].node.id, before.nodes[1].node.id);
    assert!(Arc::ptr_eq(&now.nodes[1].node.blocks, &before.nodes[1].node.blocks));
    assert_eq!(now.nodes[1].health, Health::Healthy);
    assert_ne!(now.nodes[2].node.id, before.nodes[2].node.id);
    assert_eq!((now.nodes[2].health, now.nodes[2].placement), (Health::Ejected, Placement::Away));
    assert_eq!(pool.ledger.len(), 1);
    assert_eq!(told(pool.restore("n2")), ["restored n2"]);
    assert!(pool.ledger.is_empty());
}

/// A node with a new weight meets a detector that starts anew: no doubt and no probation is left
/// behind that nobody would ever end.
#[test]
fn a_new_weight_ends_doubts() {
    let mut pool = Planned::new(&spec(&[1, 1, 1], 0.5));
    pool.eject("n2");
    pool.judge("n2", Health::Probation, gone()).expect("it was ejected");
    pool.judge("n1", Health::Suspect, Because::Nothing).expect("it was healthy");
    pool.reload(spec(&[1, 2, 2], 0.5));
    assert_eq!(pool.entry("n1").health, Health::Healthy);
    assert_eq!(pool.entry("n2").health, Health::Ejected);
}

/// Names keep their ordinals while the process lives, new ones follow in sorted order.
#[test]
fn ordinals_stay() {
    let mut unsorted = spec(&[1, 1], 0.5);
    unsorted.nodes.reverse();
    let mut pool = Planned::new(&unsorted);
    let ordinals = |pool: &Planned| pool.topology.ordinals.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(ordinals(&pool), ["n0", "n1"]);
    let mut other = spec(&[], 0.5);
    other.nodes = vec![node(9, 1), node(1, 1), node(5, 1)];
    pool.reload(other);
    assert_eq!(ordinals(&pool), ["n0", "n1", "n5", "n9"]);
    pool.reload(spec(&[1, 1], 0.5));
    assert_eq!(ordinals(&pool), ["n0", "n1", "n5", "n9"]);
}

/// A reload that leaves only ejected nodes gives them their keys back: somebody has to try.
#[test]
fn a_reload_keeps_the_guard() {
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    pool.eject("n0");
    pool.eject("n1");
    let told = told(pool.reload(spec(&[1, 1], 0.5)));
    assert_eq!(told, ["reloaded", "readmitted n1"], "the first that left stays away");
    assert_guarded(&pool.topology);
}

/// A reload that puts the nodes into another order, or another one before them, tells of no ejection
/// that it did not bring: who was away is known by name, not by place.
#[test]
fn a_reload_in_another_order_tells_nothing_twice() {
    let mut pool = Planned::new(&spec(&[1, 1, 1, 1], 0.5));
    pool.eject("n0");
    pool.eject("n2");
    let mut next = spec(&[1, 1, 1, 1], 0.5);
    next.nodes.reverse();
    next.nodes.insert(0, node(7, 1));
    assert_eq!(told(pool.reload(next)), ["reloaded"]);
    let away = |name: &str| pool.entry(name).placement == Placement::Away;
    assert_eq!(["n7", "n3", "n2", "n1", "n0"].map(away), [false, false, true, false, true]);
}

/// Servers are replaced one by one: all of them at once would leave what they have behind, though no key
/// moves. Who is away has left it behind.
#[test]
fn servers_are_replaced_one_by_one() {
    let spec = spec(&[1; 4], 0.5);
    let elsewhere = |names: &[&str]| {
        let mut spec = spec.clone();
        let moved = spec.nodes.iter_mut().filter(|node| names.contains(&&*node.name));
        moved.for_each(|node| node.address = format!("other:{}", 1).parse().expect("an address"));
        spec
    };
    let refusal = |pool: &Planned, names: &[&str], max_share| {
        let permit = Permit { max_share, yes: false, time: pool.time };
        match reload(&pool.topology, &pool.ledger, &pool.prepare(elsewhere(names)), &pool.births, &permit) {
            Outcome::Refused { why } => Some(why),
            _ => None,
        }
    };
    let mut pool = Planned::new(&spec);
    assert_eq!(refusal(&pool, &["n1"], 0.1), None);
    let why = refusal(&pool, &["n1", "n2"], 0.1).expect("they would be empty at once");
    assert!(why.starts_with("pool cache: 2 nodes that serve would be at other addresses"), "{why}");
    assert_eq!(refusal(&pool, &["n1", "n2"], 1.0), None, "it is meant");
    pool.eject("n1");
    assert_eq!(refusal(&pool, &["n1", "n2"], 0.1), None, "one of them serves nothing");
}

/// A reload that moves more than was agreed is refused with its share, and done when it is meant.
#[test]
fn a_reload_that_moves_much_is_refused() {
    let pool = Planned::new(&spec(&[1, 1], 0.5));
    let prepared = pool.prepare(spec(&[1, 1, 1], 0.5));
    assert!(prepared.moved > 0.15, "{}", prepared.moved);
    let ask = |max_share, yes| {
        let permit = Permit { max_share, yes, time: pool.time };
        reload(&pool.topology, &pool.ledger, &prepared, &pool.births, &permit)
    };
    let Outcome::Refused { why } = ask(0.1, false) else { panic!("it moves a third") };
    assert!(
        why.contains("cache") && why.contains("10.0 %") && why.contains("raise reload.max_share"),
        "{why}"
    );
    assert!(matches!(ask(0.1, true), Outcome::Publish(_)));
    assert!(matches!(ask(0.9, false), Outcome::Publish(_)));
}

/// The first node that fails gives up its keys at once; the next one keeps them, refused, until the
/// window is over, and then gives them up without being asked.
#[test]
fn an_avalanche_waits() {
    let window = Duration::from_secs(60);
    let mut pool = Planned::new(&frugal(spec(&[1; 8], 0.5), 0.25, window));
    let first = owners(&pool.topology);
    assert_eq!(told(pool.eject("n1")), ["ejected n1"]);
    assert_eq!(told(pool.eject("n2")), ["held n2"], "an eighth and a seventh");
    let (before, epoch) = (owners(&pool.topology), pool.topology.epoch);
    assert_eq!(epoch, 3, "what becomes of its keys has changed");
    for (now, then) in before.iter().zip(&first) {
        match then.as_deref() {
            // Some of them had gone to n2.
            Some("n1") => {}
            Some("n2") => assert_eq!(now, &None, "refused, and not moved"),
            _ => assert_eq!(now, then),
        }
    }
    let at = pool.topology.budget_due.expect("something waits");
    assert_eq!(at, pool.time + window);
    assert_eq!(pool.budget(), None, "it is not time yet");
    pool.time = at;
    assert_eq!(told(pool.budget()), ["released n2"]);
    assert_eq!((pool.topology.epoch, pool.topology.budget_due), (epoch + 1, None));
    assert!(owners(&pool.topology).iter().all(Option::is_some));
    for name in ["n1", "n2"] {
        assert_eq!(told(pool.restore(name)), [format!("restored {name}")], "warm, so it spends nothing");
    }
    assert_eq!(owners(&pool.topology), first);
    assert!(pool.ledger.is_empty());
}

/// A node that is held and answers again has its keys at once: they never went anywhere.
#[test]
fn who_is_held_returns_at_once() {
    let mut pool = Planned::new(&frugal(spec(&[1; 4], 0.5), 0.25, Duration::from_secs(60)));
    let first = owners(&pool.topology);
    pool.eject("n1");
    assert_eq!(told(pool.eject("n2")), ["held n2"]);
    assert_eq!(told(pool.restore_with("n2", Data::Empty)), ["restored n2"]);
    assert_eq!(pool.topology.budget_due, None);
    assert_eq!(told(pool.restore("n1")), ["restored n1"]);
    assert_eq!(owners(&pool.topology), first);
}

/// A node that comes back empty waits while the budget is spent; one that is suspect meanwhile waits
/// on, one that fails again has nothing to come back to.
#[test]
fn a_cold_return_waits() {
    let window = Duration::from_secs(60);
    let mut pool = Planned::new(&frugal(spec(&[1; 4], 0.5), 0.25, window));
    let first = owners(&pool.topology);
    pool.eject("n1");
    let away = owners(&pool.topology);
    pool.time += window / 2;
    assert_eq!(told(pool.restore_with("n1", Data::Empty)), ["waits n1"]);
    assert_eq!((owners(&pool.topology), pool.topology.epoch), (away.clone(), 2));
    for health in [Health::Suspect, Health::Healthy] {
        assert_eq!(told(pool.judge("n1", health, back(Data::Empty))), [""; 0], "it was told that it waits");
        assert_eq!(owners(&pool.topology), away);
    }
    assert_eq!(told(pool.eject("n1")), [""; 0], "it is away already");
    assert_eq!(told(pool.restore_with("n1", Data::Unknown)), ["waits n1"]);
    pool.time = pool.topology.budget_due.expect("it waits");
    assert_eq!(told(pool.budget()), ["restored n1"]);
    assert_eq!(owners(&pool.topology), first);
    assert!(pool.ledger.is_empty());
}

/// The guard goes before the budget: who waits to return returns at once when another node has to go
/// and the guard has no room for both.
#[test]
fn the_guard_goes_before_the_budget() {
    let mut pool = Planned::new(&frugal(spec(&[1; 4], 0.25), 0.25, Duration::from_secs(60)));
    pool.eject("n1");
    assert_eq!(told(pool.restore_with("n1", Data::Empty)), ["waits n1"]);
    assert_eq!(told(pool.eject("n2")), ["restored n1", "held n2"]);
    assert_guarded(&pool.topology);
}

/// A node that is expected back has its keys wait for it, and for no longer; then they move within the
/// budget. One that is back in time has moved nothing.
#[test]
fn a_node_that_is_expected_back() {
    let hold = Duration::from_secs(10);
    let mut patient = frugal(spec(&[1; 8], 0.5), 0.25, Duration::from_secs(60));
    patient.policy = Arc::new(Policy { hold_down: hold, ..(*patient.policy).clone() });
    let mut pool = Planned::new(&patient);
    let first = owners(&pool.topology);
    assert_eq!(told(pool.eject("n1")), ["held n1"]);
    assert_eq!(pool.topology.budget_due, Some(pool.time + hold));
    pool.time += hold / 2;
    assert_eq!(pool.budget(), None);
    assert_eq!(told(pool.restore_with("n1", Data::Empty)), ["restored n1"]);
    assert_eq!((owners(&pool.topology), pool.topology.budget_due), (first, None));
    assert_eq!(told(pool.eject("n2")), ["held n2"]);
    pool.time += hold / 2;
    assert_eq!(told(pool.eject("n3")), ["held n3"]);
    pool.time += hold / 2;
    assert_eq!(told(pool.budget()), ["released n2"], "it has waited, n3 has not");
    pool.time += hold / 2;
    assert_eq!(pool.budget().map(|told| names(&told)), Some(Vec::new()), "now n3 waits for the budget");
    assert_eq!(pool.entry("n3").placement, Placement::Held);
    pool.time = pool.topology.budget_due.expect("it waits");
    assert_eq!(told(pool.budget()), ["released n3"]);
}

/// Where keys do not move there is nothing to budget; a reload with a larger budget lets go.
#[test]
fn what_the_budget_is_not_for() {
    let window = Duration::from_secs(60);
    let mut fails = frugal(spec(&[1; 8], 0.5), 0.25, window);
    fails.policy = Arc::new(Policy { on_ejected: OnEjected::Fail, ..(*fails.policy).clone() });
    let mut pool = Planned::new(&fails);
    for name in ["n1", "n2", "n3"] {
        assert_eq!(told(pool.eject(name)), [format!("ejected {name}")]);
    }
    let mut pool = Planned::new(&frugal(spec(&[1; 8], 0.5), 0.25, window));
    for (name, what) in [("n1", "ejected"), ("n2", "held"), ("n3", "held")] {
        assert_eq!(told(pool.eject(name)), [format!("{what} {name}")]);
    }
    let events = told(pool.reload(frugal(spec(&[1; 8], 0.5), 1.0, window)));
    assert_eq!(events, ["reloaded", "released n2", "released n3"]);
}

impl Planned {
    /// An operator's order; what was told, if anything was published.
    pub(super) fn order(&mut self, name: &str, wanted: Option<Order>) -> Result<Vec<String>, String> {
        match order(&self.topology, &self.ledger, (name, wanted), self.time)? {
            None => Ok(Vec::new()),
            Some(step) => Ok(names(&self.apply(Outcome::Publish(step)).unwrap_or_default())),
        }
    }
}

/// An operator's word goes before guard and budget and spends nothing; said twice it changes nothing; it
/// outlives a reload; and what was ordered is taken back to the exact map.
#[test]
fn orders_are_obeyed() {
    let frugal_spec = || frugal(spec(&[1; 4], 0.25), 0.25, Duration::from_secs(60));
    let mut pool = Planned::new(&frugal_spec());
    let first = owners(&pool.topology);
    let drained = pool.order("n1", Some(Order::Drain));
    assert_eq!(drained, Ok(vec!["ordered n1: drain".to_owned()]));
    assert_eq!((pool.topology.epoch, pool.entry("n1").placement), (2, Placement::Away));
    assert_eq!(pool.order("n1", Some(Order::Drain)), Ok(Vec::new()));
    assert!(pool.order("n2", Some(Order::Eject)).is_ok_and(|told| told == ["ordered n2: eject"]));
    assert_eq!(pool.entry("n2").placement, Placement::Away, "neither guard nor budget");
    assert_eq!(told(pool.eject("n3")), ["kept n3"], "the guard counts who is out by hand");
    assert_eq!(told(pool.restore("n3")), ["recovered n3"]);
    pool.reload(frugal(spec(&[1, 1, 2, 1], 0.25), 0.25, Duration::from_secs(60)));
    assert_eq!(pool.entry("n2").placement, Placement::Away, "another weight, and still out by hand");
    pool.reload(frugal_spec());
    for name in ["n1", "n2"] {
        assert_eq!(pool.order(name, None), Ok(vec![format!("ordered {name}: none")]));
    }
    assert_eq!(owners(&pool.topology), first);
    assert_eq!(pool.order("n1", None), Ok(Vec::new()));
    assert!(pool.ledger.is_empty());
}

/// A node that fails and recovers while it is out by hand waits for the operator, and not for the budget.
#[test]
fn who_is_out_by_hand_waits_for_nothing_else() {
    let mut pool = Planned::new(&frugal(spec(&[1; 4], 0.5), 0.25, Duration::from_secs(60)));
    pool.eject("n2");
    pool.order("n1", Some(Order::Drain)).expect("fine");
    assert_eq!(told(pool.eject("n1")), [""; 0]);
    assert_eq!(told(pool.restore_with("n1", Data::Empty)), [""; 0]);
    assert_eq!(pool.topology.budget_due, None);
    assert_eq!(pool.order("n1", None), Ok(["ordered n1: none", "restored n1"].map(str::to_owned).to_vec()));
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
}

/// A node that is pinned stays whatever is thought of it; the last owner stays whatever is ordered; a node
/// that fails is not restored by hand; one that waits for the budget is.
#[test]
fn what_orders_can_and_cannot() {
    let mut pool = Planned::new(&frugal(spec(&[1, 1, 1], 1.0), 0.25, Duration::from_secs(60)));
    pool.order("n1", Some(Order::Pin)).expect("fine");
    let events = pool.eject("n1").expect("its health turns");
    assert!(kept_as(&events[0]).contains("pinned"), "{events:?}");
    assert_eq!(told(pool.eject("n2")), ["ejected n2"]);
    assert!(pool.order("n2", None).is_err_and(|why| why.contains("it is ejected because it fails")));
    assert_eq!(told(pool.restore_with("n2", Data::Empty)), ["waits n2"]);
    assert_eq!(pool.order("n2", None), Ok(vec!["ordered n2: none".to_owned(), "restored n2".to_owned()]));
    pool.order("n0", Some(Order::Drain)).expect("fine");
    pool.order("n2", Some(Order::Drain)).expect("fine");
    assert!(pool.order("n1", Some(Order::Eject)).is_err_and(|why| why.contains("is the last of pool cache")));
    assert!(pool.order("n9", None).is_err_and(|why| why.contains("there is no node n9")));
    assert_eq!(pool.order("n1", None), Ok(vec!["ordered n1: none".to_owned()]), "now its health counts");
}

/// One thing that happens to a pool in the property below.
fn steps() -> impl Strategy<Value = Vec<(u8, usize)>> {
    proptest::collection::vec((0u8..9, 0usize..8), 1..60)
}

proptest! {
    /// Whatever is thought of nodes, and whatever was not heard of it: an epoch rises by one at most and only
    /// if a placement or a node changed, the guard holds, an ejection never moves a survivor's keys, the
    /// ledger is bounded, and when all nodes are back, so is the map.
    #[test]
    fn the_laws_of_a_pool(
        weights in proptest::collection::vec(1u32..4, 1..7),
        eject_max in prop_oneof![Just(0.0), Just(1.0 / 3.0), Just(0.5), Just(1.0)],
        steps in steps(),
    ) {
        let mut pool = Planned::new(&spec(&weights, eject_max));
        for (what, which) in steps {
            let before = pool.topology.clone();
            let name = before.nodes[which % before.nodes.len()].node.name.clone();
            let health = match what {
                0 => Health::Suspect,
                1 | 2 => Health::Healthy,
                3..=5 => Health::Ejected,
                6 | 7 => Health::Probation,
                _ => {
                    let mut other = weights.clone();
                    other[which % weights.len()] += 1;
                    let grown = before.nodes.iter().map(|e| e.node.weight).eq(weights.iter().copied());
                    pool.reload(spec(if grown { &other } else { &weights }, eject_max));
                    prop_assert_eq!(pool.topology.epoch, before.epoch + 1);
                    assert_guarded(&pool.topology);
                    continue;
                }
            };
            let because = if health.is_out() { gone() } else { back(Data::Empty) };
            let was_out = pool.entry(&name).health.is_out();
            let events = pool.judge(&name, health, because.clone());
            prop_assert_eq!(pool.entry(&name).health, health, "whatever it was before");
            prop_assert!(pool.judge(&name, health, because).is_none(), "twice is nothing");
            assert_guarded(&pool.topology);
            prop_assert!(pool.ledger.len() <= pool.topology.nodes.len());
            let (old, new) = (owners(&before), owners(&pool.topology));
            if pool.topology.epoch == before.epoch {
                prop_assert_eq!(old, new);
            } else if health == Health::Ejected && !was_out {
                let gone: BTreeSet<_> = before.nodes.iter().zip(pool.topology.nodes.iter())
                    .filter(|(a, b)| a.placement != b.placement)
                    .map(|(a, _)| a.node.name.clone())
                    .collect();
                prop_assert_eq!(gone.len(), 1);
                for (a, b) in old.iter().zip(&new) {
                    let a = a.as_ref().expect("somebody owns");
                    prop_assert!(gone.contains(a) || Some(a) == b.as_ref());
                }
                prop_assert!(events.is_some());
            }
        }
        pool.reload(spec(&weights, eject_max));
        for i in 0..weights.len() {
            pool.restore(&format!("n{i}"));
        }
        prop_assert_eq!(owners(&pool.topology), owners(&Planned::new(&spec(&weights, eject_max)).topology));
        prop_assert!(pool.ledger.is_empty());
    }
}

/// A running membership over one pool.
struct Run {
    handle: Handle,
    reader: crate::topology::TopologyReader,
    task: tokio::task::JoinHandle<()>,
}

impl Run {
    async fn start(spec: PoolSpec) -> Run {
        let ids = IdSource::default();
        let embedded: Embedded = Arc::new(|_, node| Some(Target::Unix(format!("/{}", node.name).into())));
        let settings = Settings {
            workers: 2,
            max_share: 0.1,
            ids: ids.clone(),
            embedded,
            scene: Scene::default(),
            incident_file: None,
        };
        let (membership, handle) = Membership::new(settings);
        let bell = Arc::new(Notify::new());
        let births = Births { ids, workers: 2, bell: bell.clone() };
        let (writer, reader) =
            channel(first_topology(&spec, &births, |n| n.address.literal().into_iter().collect()));
        let task = tokio::spawn(membership.run());
        handle.add(Pool { writer, spec: Arc::new(spec), bell, blocks: Arc::new([]) }).await;
        Run { handle, reader, task }
    }

    async fn send(&self, change: Change) {
        self.handle.inbox().send(change).await.expect("membership runs");
    }

    /// This is thought of the health of a node.
    async fn judge(&self, pool: &str, node: NodeId, health: Health, because: Because) {
        let opinion = Opinion { health, slow: None, wrong: None, because };
        self.send(Change::News { pool: pool.into(), node, news: News::Judged(opinion) }).await;
    }

    /// Waits until the history is this long.
    async fn history(&self, len: usize) -> Vec<Arc<Record>> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let records = self.handle.history().all();
            if records.len() >= len {
                return records;
            }
            assert!(tokio::time::Instant::now() < until, "{records:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A reload whose ring can't be built, which a configuration never lets through, is refused with what was
/// wrong, and the next one is done.
#[tokio::test]
async fn a_build_that_panics_says_why() {
    let run = Run::start(spec(&[1, 1], 0.5)).await;
    let mut odd = spec(&[1, 1], 0.5);
    odd.ring.placement = crate::ring::Placement::Maglev { slots: 4 };
    let why = run
        .handle
        .reload(Arc::new(odd), ReloadMode::Weigh { flush_new: true })
        .await
        .expect_err("four is no prime");
    assert!(
        why.starts_with("pool cache: building it failed inside ringway") && why.contains("prime"),
        "{why}"
    );
    assert!(
        run.handle.reload(Arc::new(spec(&[1, 2], 0.5)), ReloadMode::Do { flush_new: true }).await.is_ok()
    );
}

/// What is sent to the inbox is published and remembered with its cause and share; changes for
/// pools that are not there are nothing; a restored node's streak is forgotten.
#[tokio::test]
async fn changes_are_published_and_told() {
    let run = Run::start(spec(&[1, 1, 2], 0.5)).await;
    let entry = run.reader.load().nodes[2].clone();
    entry.node.evidence.failed(Failure::Timeout, 3);
    let failed = Failed { cause: Cause::Timeout, evidence: "3 requests in a row".into(), basis: BASIS };
    for pool in ["other", "cache", "cache"] {
        run.judge(pool, entry.node.id, Health::Ejected, Because::Failed(failed.clone())).await;
    }
    let records = run.history(1).await;
    assert_eq!(run.reader.load().epoch, 2);
    let record = &records[0];
    assert_eq!((record.epoch, record.what, record.cause), (2, "ejected", Some(Cause::Timeout)));
    assert_eq!((record.node.as_deref(), &*record.evidence), (Some("n2"), "3 requests in a row"));
    assert!((0.2..0.8).contains(&record.moved), "{}", record.moved);
    assert_eq!(entry.node.evidence.streak(), 3);
    run.judge("cache", entry.node.id, Health::Healthy, back(Data::Same)).await;
    let records = run.history(2).await;
    assert_eq!((records[1].what, records[1].moved), ("restored", record.moved));
    let incidents = run.handle.incidents().all();
    let incident = &incidents[0];
    let node = incident.node.as_deref();
    assert_eq!(
        (incidents.len(), incident.id, node, incident.cause),
        (1, 1, Some("n2"), Some(Cause::Timeout))
    );
    let steps: Vec<(&str, u64)> = incident.timeline.iter().map(|step| (step.what, step.epoch)).collect();
    assert_eq!(steps, [("ejected", 2), ("restored", 3)]);
    assert_eq!((incident.moved, incident.data), (record.moved, Some(Data::Same)));
    assert!(incident.closed_ms.is_some_and(|closed| closed >= incident.opened_ms));
    assert_eq!(entry.node.evidence.streak(), 0);
    run.task.abort();
}

/// A reload answers with its share or its refusal; literal addresses, embedded nodes and nodes
/// that stay have their targets at once.
#[tokio::test]
async fn reloads_are_answered() {
    let run = Run::start(spec(&[1, 1], 0.5)).await;
    let mut next = spec(&[1, 1, 1], 0.5);
    next.nodes.push(NodeSpec { address: Address::Embedded, ..node(3, 1) });
    let next = Arc::new(next);
    let why = run
        .handle
        .reload(next.clone(), ReloadMode::Weigh { flush_new: true })
        .await
        .expect_err("it moves half");
    assert!(why.contains("max_share"), "{why}");
    assert_eq!(run.reader.load().revision, 1);
    let moved =
        run.handle.reload(next.clone(), ReloadMode::Do { flush_new: true }).await.expect("it is meant");
    assert!((0.3..0.7).contains(&moved), "{moved}");
    let topology = run.reader.load();
    assert_eq!((topology.epoch, topology.nodes.len()), (2, 4));
    assert_eq!(topology.nodes[2].targets.to_vec(), [Target::Tcp(([127, 0, 0, 1], 7002).into())]);
    assert_eq!(topology.nodes[3].targets.to_vec(), [Target::Unix("/n3".into())]);
    assert_eq!(run.handle.reload(next, ReloadMode::Do { flush_new: true }).await, Ok(0.0));
    run.handle.set_max_share(1.0).await;
    let back = Arc::new(spec(&[1, 1], 0.5));
    run.handle
        .reload(back.clone(), ReloadMode::Weigh { flush_new: true })
        .await
        .expect("the new limit is in force");
    run.handle.reload(back.clone(), ReloadMode::Do { flush_new: true }).await.expect("it was weighed");
    for (broken, word) in
        [(PoolSpec { name: "other".into(), ..spec(&[1], 0.5) }, "no such pool"), (spec(&[], 0.5), "no nodes")]
    {
        let why =
            run.handle.reload(Arc::new(broken), ReloadMode::Do { flush_new: true }).await.expect_err(word);
        assert!(why.contains(word), "{why}");
    }
    run.handle.remove("cache".into()).await;
    run.handle
        .reload(back, ReloadMode::Do { flush_new: true })
        .await
        .expect_err("the pool is not governed any more");
    run.task.abort();
}

/// Changes go on while a reload is prepared, and the reload keeps what they did.
#[tokio::test]
async fn a_reload_does_not_hold_changes_up() {
    let run = Run::start(spec(&[1, 1, 1, 1], 0.5)).await;
    let node = run.reader.load().nodes[0].node.id;
    let (answer, answered) = oneshot::channel();
    let next = Arc::new(spec(&[1, 1, 1, 1, 1], 0.5));
    run.send(Change::Reload { spec: next, mode: ReloadMode::Do { flush_new: true }, answer }).await;
    run.judge("cache", node, Health::Ejected, gone()).await;
    answered.await.expect("an answer").expect("it is done");
    run.history(2).await;
    let topology = run.reader.load();
    assert_eq!((topology.epoch, topology.nodes.len()), (3, 5));
    assert_eq!(topology.nodes[0].placement, Placement::Away);
    run.task.abort();
}

/// Membership ends with its last handle, and health with membership's inbox.
#[tokio::test]
async fn it_ends_with_its_handles() {
    let Run { handle, task, .. } = Run::start(spec(&[1], 0.5)).await;
    let inbox = handle.inbox();
    drop(handle);
    tokio::time::timeout(PATIENCE, task).await.expect("it ends").expect("it does not panic");
    assert!(inbox.is_closed());
}

/// Each event has its counter, with the labels that an operator filters by.
#[tokio::test]
async fn events_are_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let shown = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let run = Run::start(spec(&[1, 1], 0.5)).await;
    let nodes = run.reader.load().nodes.clone();
    for entry in nodes.iter() {
        run.judge("cache", entry.node.id, Health::Ejected, gone()).await;
    }
    run.judge("cache", nodes[0].node.id, Health::Healthy, back(Data::Same)).await;
    run.history(3).await;
    let text = shown.render();
    for line in [
        r#"ringway_ejections_total{pool="cache",node="n0",cause="refused"} 1"#,
        r#"ringway_ejections_total{pool="cache",node="n1",cause="refused"} 1"#,
        r#"ringway_ejections_refused_total{pool="cache",node="n1",cause="refused"} 1"#,
        r#"ringway_restores_total{pool="cache",node="n0"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is missing from:\n{text}");
    }
    let moved = text.lines().find_map(|l| l.strip_prefix("ringway_moved_share_sum{pool=\"cache\"} "));
    assert!(moved.and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.5), "{text}");
    run.task.abort();
}

/// The history forgets the oldest lines first.
#[tokio::test]
async fn the_history_is_bounded() {
    let run = Run::start(spec(&[1, 1], 0.5)).await;
    let node = run.reader.load().nodes[0].node.id;
    for _ in 0..550 {
        run.judge("cache", node, Health::Ejected, gone()).await;
        run.judge("cache", node, Health::Healthy, back(Data::Empty)).await;
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    let last = loop {
        let records = run.handle.history().all();
        assert!(records.len() <= 1000);
        match records.last() {
            Some(last) if last.epoch == 1101 => break records,
            _ => assert!(tokio::time::Instant::now() < until, "{}", records.len()),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    assert_eq!((last.len(), last[0].epoch), (1000, 102));
    run.task.abort();
}

/// A real redis-server that ends with the test.
struct Redis {
    port: u16,
    child: std::process::Child,
    directory: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    fn spawn(port: u16, directory: &tempfile::TempDir) -> std::process::Child {
        std::process::Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .current_dir(directory.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("redis-server is installed")
    }

    async fn start() -> Redis {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = free.local_addr().expect("it is bound").port();
        drop(free);
        let directory = tempfile::tempdir().expect("a directory");
        let redis = Redis { port, child: Redis::spawn(port, &directory), directory };
        let until = tokio::time::Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(tokio::time::Instant::now() < until, "redis-server did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        redis
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
    }

    fn again(&mut self) {
        self.child = Redis::spawn(self.port, &self.directory);
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = std::process::Command::new("kill").args([signal, &id]).status().expect("kill is there");
        assert!(status.success());
    }
}

/// Real servers, nobody using them: one that is killed and one that is stopped leave the ring with
/// their causes, both come back by themselves, and the map is what it was.
#[tokio::test]
async fn real_nodes_die_hang_and_return() {
    let mut servers = [Redis::start().await, Redis::start().await, Redis::start().await];
    let mut spec = spec(&[1, 1, 1], 0.5);
    for (node, server) in spec.nodes.iter_mut().zip(&servers) {
        node.address = Address::Tcp { host: "127.0.0.1".into(), port: server.port };
    }
    spec.health.interval = Duration::from_millis(60);
    spec.health.timeout = Duration::from_millis(100);
    let run = Run::start(spec).await;
    let bell = Arc::new(Notify::new());
    let lag = crate::health::Lag::new();
    let measuring = tokio::spawn(lag.clone().run());
    let health = tokio::spawn(crate::health::run(
        run.reader.clone(),
        bell,
        run.handle.inbox(),
        Scene::new(lag),
        crate::health::Returns {
            noted: crate::topology::write_notes().1,
            graces: Arc::new([]),
            samples: crate::topology::Samples::new(0),
        },
    ));
    let mut changes = run.reader.changes();
    let mut until = async |what: &str, done: &dyn Fn(&Topology) -> bool| {
        let wait = changes.wait_for(|_| done(&run.reader.load()));
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{what}: {:?}", run.handle.history().all());
    };
    let healthy = |i: usize| {
        move |t: &Topology| (t.nodes[i].health, t.nodes[i].placement) == (Health::Healthy, Placement::Owns)
    };
    let all = |t: &Topology| (0..3).all(|i| healthy(i)(t));
    let first = owners(&run.reader.load());
    servers[0].kill();
    until("a killed node goes", &|t| t.nodes[0].placement == Placement::Away).await;
    servers[0].again();
    until("it comes back", &all).await;
    servers[1].signal("-STOP");
    until("a stopped node goes", &|t| t.nodes[1].placement == Placement::Away).await;
    servers[1].signal("-CONT");
    until("it comes back too", &all).await;
    assert_eq!(owners(&run.reader.load()), first);
    let records = run.history(4).await;
    let cause =
        |node: &str, cause| records.iter().any(|r| r.node.as_deref() == Some(node) && r.cause == Some(cause));
    assert!(cause("n0", Cause::Refused) && cause("n1", Cause::Timeout), "{records:?}");
    health.abort();
    measuring.abort();
    run.task.abort();
}

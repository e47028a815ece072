//! What is owed for nodes that come back, on paths that are rare: nobody else left, orders and reloads in
//! between, failures while it still starts.

use super::*;
use crate::topology::{Admission, LEVELS, OnReturn, WaitReason, level};

pub(super) fn pool(weights: &[u32], edit: impl FnOnce(&mut Policy)) -> PoolSpec {
    let mut spec = spec(weights, 0.5);
    let mut policy = (*spec.policy).clone();
    policy.on_return = OnReturn::Quarantine;
    edit(&mut policy);
    spec.policy = Arc::new(policy);
    spec
}

/// All its keys wait until it is clean.
pub(super) const FENCED: Placement = Placement::Starting(Admission { admitted: 0, fence: LEVELS });

pub(super) fn cleaned(pool: &mut Planned, name: &str, leftovers: bool) {
    pool.news(name, News::Cleaned { below: LEVELS, leftovers, emptied: false, how: "".into() });
}

pub(super) fn placements(pool: &Planned) -> Vec<Placement> {
    pool.topology.nodes.iter().map(|entry| entry.placement).collect()
}

pub(super) fn is_waited_for(pool: &Planned, name: &str) -> bool {
    let at = pool.topology.position(pool.id(name)).expect("it is there");
    let key = |i: u32| format!("key:{i}");
    (0..100).map(key).all(|key| {
        let hash = pool.topology.ring.hash(key.as_bytes());
        pool.topology.route(hash, key.as_bytes()) == Route::Wait(at)
    })
}

/// A node that is not clean yet does not serve, though nobody else is left who could: all keys wait until it
/// is.
#[test]
fn the_last_one_is_cleaned_first() {
    for dies_first in [true, false] {
        let mut pool = Planned::new(&pool(&[1, 1], |p| p.sole_writer = true));
        pool.eject("n0");
        if dies_first {
            pool.eject("n1");
            pool.restore("n0");
        } else {
            pool.restore("n0");
            pool.eject("n1");
        }
        assert!(is_waited_for(&pool, "n0"), "{:?}", placements(&pool));
        pool.news("n0", News::NotCleaned);
        assert!(is_waited_for(&pool, "n0"), "there is still nobody else");
        cleaned(&mut pool, "n0", false);
        assert_eq!(placements(&pool), [Placement::Owns, Placement::Away]);
    }
}

/// A node that fails while it still starts has the keys that it had taken back held, as long as others have
/// old values of them.
#[test]
fn leftovers_of_one_that_starts() {
    let mut pool = Planned::new(&pool(&[1; 4], |p| p.slow_start = Duration::from_secs(16)));
    pool.eject("n1");
    pool.restore("n1");
    cleaned(&mut pool, "n1", true);
    pool.time += Duration::from_millis(14_500);
    pool.budget();
    let is_taken = |key: &String| {
        let hash = pool.topology.ring.hash(key.as_bytes());
        pool.topology.ring.first(hash) == 1 && level(hash) < LEVELS / 2
    };
    let key = (0..).map(|i| format!("key:{i}")).find(is_taken).expect("one of them");
    let hash = pool.topology.ring.hash(key.as_bytes());
    assert_eq!(pool.topology.route(hash, key.as_bytes()), Route::Send(1));
    assert_eq!(told(pool.eject("n1")), ["held n1"]);
    assert_eq!(pool.topology.route(hash, key.as_bytes()), Route::Fail(1));
    assert_eq!(told(pool.swept("n1")), ["released n1"]);
}

/// As long as others are looked through, however long that takes, they may have old values: a node that fails
/// is held. When nobody says so any more it has been given up after a while.
#[test]
fn leftovers_that_take_long() {
    let mut pool = with_leftovers();
    let sweeping = |pool: &mut Planned| {
        pool.time += Duration::from_secs(100);
        pool.news("n1", News::Sweeping);
    };
    (0..10).for_each(|_| sweeping(&mut pool));
    pool.time += Duration::from_secs(100);
    assert_eq!(told(pool.eject("n1")), ["held n1"]);
    sweeping(&mut pool);
    pool.time += Duration::from_secs(100);
    assert!(pool.budget().is_none_or(|step| told(Some(step)).is_empty()), "it is held for longer");
    assert_eq!(pool.entry("n1").placement, Placement::Held);
    pool.time += Duration::from_secs(21);
    assert_eq!(told(pool.budget()), ["released n1"]);
    // Of a node of which others have nothing it says nothing.
    sweeping(&mut pool);
    pool.restore("n1");
    assert_eq!(pool.entry("n1").health, Health::Healthy);
}

/// A pool in which a node is back, and others have old values of its keys.
fn with_leftovers() -> Planned {
    let mut pool = Planned::new(&pool(&[1; 4], |_| {}));
    pool.eject("n1");
    pool.restore("n1");
    cleaned(&mut pool, "n1", true);
    pool
}

/// A drain waits for leftovers, too; to take the node out at once is the operator's word.
#[test]
fn leftovers_and_orders() {
    let mut pool = with_leftovers();
    pool.time += Duration::from_secs(1);
    let why = pool.order("n1", Some(Order::Drain)).expect_err("others have old values");
    assert!(
        why.contains("node n1: other nodes may have old values of its keys") && why.contains("120 s"),
        "{why}"
    );
    pool.swept("n1");
    pool.order("n1", Some(Order::Drain)).expect("nothing is left over");
}

/// Nor is a node drained whose keys are held for them.
#[test]
fn who_is_held_is_not_drained() {
    let mut pool = with_leftovers();
    assert_eq!(told(pool.eject("n1")), ["held n1"]);
    pool.order("n1", Some(Order::Drain)).expect_err("others have old values");
    assert_eq!(pool.entry("n1").placement, Placement::Held);
}

/// A node that fails while it starts and is kept, as too many others are out, keeps what it served and gets
/// no more: it is cleaned when it answers again.
#[test]
fn a_starter_that_is_kept() {
    let mut spec = pool(&[1; 4], |p| (p.sole_writer, p.slow_start) = (true, Duration::from_secs(16)));
    spec.health.eject_max = 0.25;
    let mut pool = Planned::new(&spec);
    pool.eject("n0");
    pool.restore("n0");
    let below = LEVELS / 16;
    pool.news("n0", News::Cleaned { below, leftovers: false, emptied: false, how: "".into() });
    pool.eject("n1");
    assert_eq!(told(pool.eject("n0")).last().map(String::as_str), Some("kept n0"));
    let kept = pool.entry("n0").placement;
    assert!(matches!(kept, Placement::Starting(to) if to.admitted == below && !to.is_fenced()), "{kept:?}");
    pool.restore("n0");
    let back = pool.entry("n0").placement;
    assert!(matches!(back, Placement::Starting(to) if to.admitted == 0 && to.is_fenced()), "{back:?}");
}

/// What was written to a gutter lives as long as was allowed then, whatever a reload allows from now on: so
/// long a node that is back is held if it fails again.
#[test]
fn a_gutter_whose_lives_get_shorter() {
    let over = |seconds| {
        pool(&[1; 4], |p| {
            let ttl_max = Duration::from_secs(seconds);
            p.failover = Some(crate::topology::Failover { pool: "gutter".into(), ttl_max });
            p.on_ejected = OnEjected::Failover;
        })
    };
    for after in [600, 60, 30] {
        let mut pool = Planned::new(&over(600));
        pool.eject("n1");
        pool.reload(over(after));
        pool.time += Duration::from_secs(1);
        pool.restore("n1");
        cleaned(&mut pool, "n1", true);
        pool.time += Duration::from_secs(590);
        assert_eq!(told(pool.eject("n1")), ["held n1"], "{after}");
    }
    let mut longer = Planned::new(&over(30));
    longer.reload(over(60));
    longer.eject("n1");
    longer.restore("n1");
    cleaned(&mut longer, "n1", true);
    longer.time += Duration::from_secs(61);
    assert_eq!(told(longer.eject("n1")), ["ejected n1"]);
}

/// Where keys fail over, nodes of the pool have old values of what a reload moved all the same: another
/// reload waits for their deletion, and a failure does not, as the gutter has none.
#[test]
fn a_reload_of_a_pool_with_a_gutter() {
    let over = |p: &mut Policy| {
        let failover = crate::topology::Failover { pool: "gutter".into(), ttl_max: Duration::from_secs(60) };
        (p.on_ejected, p.failover) = (OnEjected::Failover, Some(failover));
    };
    let (three, four) = (pool(&[1; 3], over), pool(&[1; 4], over));
    let mut pool = Planned::new(&three);
    pool.reload(four);
    let permit = Permit { max_share: 1.0, yes: true, time: pool.time };
    let back = |pool: &Planned| {
        reload(&pool.topology, &pool.ledger, &pool.prepare(three.clone()), &pool.births, &permit)
    };
    assert!(matches!(back(&pool), Outcome::Refused { why } if why.contains("node n3's now")));
    pool.swept("n3");
    assert!(matches!(back(&pool), Outcome::Publish(_)));
    let mut fails = Planned {
        ledger: pool.ledger.clone(),
        births: pool.births.clone(),
        topology: pool.topology.clone(),
        time: pool.time,
    };
    assert_eq!(told(fails.eject("n3")), ["ejected n3"]);
}

/// Who comes back and waits for its time to pass, and is wanted before, is cleaned like others.
#[test]
fn the_guard_wants_it_before_its_time() {
    let minute = Some(Duration::from_secs(60));
    let mut pool = Planned::new(&pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, minute)));
    pool.eject("n0");
    assert_eq!(told(pool.restore("n0")), ["waits n0"]);
    pool.eject("n1");
    pool.eject("n2");
    assert!(
        matches!(pool.entry("n0").placement, Placement::Starting(to) if to.is_fenced()),
        "{:?}",
        placements(&pool)
    );
    // In the end it has nothing old, cleaned or not.
    pool.time += Duration::from_secs(61);
    pool.budget();
    assert_eq!(pool.entry("n0").placement, Placement::Owns);
}

/// Waiting helps against what expires for sure. Who may have more, or was out by hand, is cleaned when it has
/// waited.
#[test]
fn what_may_not_expire() {
    let minute = Some(Duration::from_secs(60));
    for (data, is_sure) in [(Data::Same, true), (Data::Unknown, false), (Data::Other, false)] {
        let mut pool = Planned::new(&pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, minute)));
        pool.eject("n0");
        assert_eq!(told(pool.restore_with("n0", data)), ["waits n0"]);
        pool.time += Duration::from_secs(61);
        pool.budget();
        assert_eq!(pool.entry("n0").placement, if is_sure { Placement::Owns } else { FENCED }, "{data:?}");
        cleaned(&mut pool, "n0", true);
        assert_eq!(pool.entry("n0").placement, Placement::Owns);
    }
    let mut drained = Planned::new(&pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, minute)));
    drained.order("n0", Some(Order::Drain)).expect("others own");
    drained.time += Duration::from_secs(61);
    drained.order("n0", None).expect("it may come back");
    assert_eq!(drained.entry("n0").placement, FENCED);
}

/// What a node does not get yet is not paid for, and what a node has got back is when it fails again.
#[test]
fn the_budget_of_returns() {
    let window = Duration::from_secs(60);
    let ttl = |p: &mut Policy| (p.on_return, p.ttl_max) = (OnReturn::Ttl, Some(Duration::from_secs(600)));
    let mut even = frugal(pool(&[1; 10], ttl), 0.25, window);
    even.ring.placement = ring::Placement::Vnode { points: 400 };
    let mut waits = Planned::new(&even);
    waits.eject("n0");
    waits.time += window;
    assert_eq!(told(waits.restore_with("n0", Data::Unknown)), ["waits n0"]);
    assert_eq!(told(waits.eject("n1")), ["ejected n1"]);
    assert_eq!(told(waits.eject("n2")), ["ejected n2"], "a ninth and an eighth are no quarter");

    let slow = |p: &mut Policy| (p.on_return, p.slow_start) = (OnReturn::Serve, Duration::from_secs(600));
    let mut even = frugal(pool(&[1; 8], slow), 0.22, window);
    even.ring.placement = ring::Placement::Vnode { points: 400 };
    let mut starts = Planned::new(&even);
    let all = ["n0", "n1", "n2", "n3"];
    for name in all {
        starts.eject(name);
        starts.time += window;
        starts.budget();
    }
    all.into_iter().for_each(|name| drop(starts.restore(name)));
    starts.time += Duration::from_secs(550);
    starts.budget();
    let before = holders(&starts);
    let said: Vec<String> = all.into_iter().flat_map(|name| told(starts.eject(name))).collect();
    assert_eq!(said, ["ejected n0", "held n1", "held n2", "held n3"]);
    let moved = before.iter().zip(holders(&starts)).filter(|(before, after)| *before != after).count();
    assert!(moved < before.len() / 4, "{moved} of {} keys moved at once", before.len());
}

/// Who serves each of many keys, or would if it did not wait.
fn holders(pool: &Planned) -> Vec<usize> {
    let topology = &pool.topology;
    let key = |i: u32| format!("key:{i}");
    let holder = |key: String| match topology.route(topology.ring.hash(key.as_bytes()), key.as_bytes()) {
        Route::Send(at) | Route::Wait(at) | Route::Fail(at) | Route::Miss(at) => at,
        Route::NoOwner => usize::MAX,
    };
    (0..2000).map(key).map(holder).collect()
}

/// An incident ends when its node is back, whoever let it.
#[test]
fn an_order_does_not_leave_it_open() {
    let mut pool = Planned::new(&pool(&[1; 4], |p| p.on_return = OnReturn::Serve));
    let incidents = crate::incident::Incidents::default();
    let note = |pool: &mut Planned, act: fn(&mut Planned) -> Vec<Event>| {
        let before = pool.topology.clone();
        let events = act(pool);
        let told =
            |event: &Event| Some((event.node.clone()?, telling::telling(&pool.topology, event).incident?));
        let told: Vec<_> = events.iter().filter_map(told).collect();
        incidents.note(
            pool.topology.revision,
            (&before, &pool.topology, &Default::default()),
            &told,
            (0.0, &[]),
        );
    };
    fn ordered(pool: &mut Planned, wanted: Option<Order>) -> Vec<Event> {
        let step = order(&pool.topology, &pool.ledger, ("n1", wanted), pool.time);
        pool.apply(Outcome::Publish(step.expect("it can be").expect("it is not so"))).expect("it is done")
    }
    note(&mut pool, |pool| pool.eject("n1").expect("it was there"));
    note(&mut pool, |pool| ordered(pool, Some(Order::Drain)));
    note(&mut pool, |pool| pool.restore("n1").expect("it was out"));
    assert!(incidents.all()[0].closed_ms.is_none());
    note(&mut pool, |pool| ordered(pool, None));
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
    assert!(incidents.all()[0].closed_ms.is_some(), "{:?}", incidents.all()[0].timeline);
}

/// A durable node that loses its data while it is drained is not served when the drain is over, until it is
/// said.
#[test]
fn a_durable_node_that_was_drained() {
    let durable = |p: &mut Policy| {
        (p.on_return, p.durable, p.on_ejected) = (OnReturn::Serve, true, OnEjected::Fail);
    };
    let mut pool = Planned::new(&pool(&[1; 4], durable));
    pool.order("n1", Some(Order::Drain)).expect("others serve");
    pool.eject("n1");
    pool.restore_with("n1", Data::Empty);
    pool.order("n1", None).expect("it is taken back");
    assert_eq!(pool.entry("n1").placement, Placement::Away, "what it had is lost");
    pool.order("n1", None).expect("it is said");
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
}

/// Another weight is another identity, whose detector asks anew what is wrong with it.
#[test]
fn what_was_wrong_is_asked_anew() {
    let mut pool = Planned::new(&spec(&[1, 1, 1], 0.5));
    let (slow, wrong, because) = (None, Some("it is a replica".into()), Because::Nothing);
    pool.news("n1", News::Judged(Opinion { health: Health::Healthy, slow, wrong, because }));
    assert_eq!(told(pool.reload(spec(&[1, 2, 1], 0.5))), ["reloaded", "misconfigured n1: false"]);
    assert_eq!(pool.entry("n1").misconfigured, None);
}

/// `restore` of a node that waits is said once.
#[test]
fn a_word_is_said_once() {
    let minute = Some(Duration::from_secs(60));
    let mut pool = Planned::new(&pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, minute)));
    pool.eject("n0");
    pool.restore("n0");
    pool.order("n0", None).expect("it is not ejected");
    let revision = pool.topology.revision;
    pool.order("n0", None).expect("it is so");
    assert_eq!(pool.topology.revision, revision);
    assert_eq!(pool.entry("n0").placement, Placement::Away, "what it has has not expired");
}

/// A node that fails, and for whose keys others took writes, is taken back by nobody before it answers and is
/// clean: not by an operator who pins it, nor for the guard, when a drain or a reload leaves too few others.
#[test]
fn who_fails_is_not_taken_back() {
    let out = |pool: &Planned| pool.entry("n1").placement == Placement::Away;
    let mut pinned = Planned::new(&pool(&[1; 4], |_| {}));
    pinned.eject("n1");
    pinned.order("n1", Some(Order::Pin)).expect("it may be pinned");
    assert!(out(&pinned), "{:?}", placements(&pinned));
    assert_eq!(told(pinned.restore_with("n1", Data::Same)), ["starts n1"], "it does not wait for the budget");
    assert_eq!(pinned.entry("n1").placement, FENCED);
    cleaned(&mut pinned, "n1", false);
    assert_eq!(pinned.entry("n1").placement, Placement::Owns);
    assert_eq!(told(pinned.eject("n1")), ["kept n1"], "from now on it stays");

    let mut drained = Planned::new(&pool(&[1; 4], |p| p.warmth.share = 1.0));
    drained.eject("n1");
    drained.eject("n2");
    drained.order("n3", Some(Order::Drain)).expect("n0 is left");
    assert!(out(&drained) && drained.entry("n2").placement == Placement::Away, "{:?}", placements(&drained));

    let mut left = Planned::new(&pool(&[1; 4], |p| p.warmth.share = 1.0));
    left.eject("n1");
    left.eject("n2");
    let mut fewer = pool(&[1; 4], |p| p.warmth.share = 1.0);
    fewer.nodes.retain(|node| &*node.name != "n3");
    left.reload(fewer);
    assert!(out(&left) && left.entry("n2").placement == Placement::Away, "{:?}", placements(&left));
}

/// When it is the last one it has no keys either, as long as it fails: all are refused.
#[test]
fn who_fails_and_is_left_alone_owns_nothing() {
    let mut pool = Planned::new(&pool(&[1; 2], |_| {}));
    pool.eject("n1");
    let mut alone = self::pool(&[1; 2], |_| {});
    alone.nodes.retain(|node| &*node.name == "n1");
    assert_eq!(told(pool.reload(alone)), ["reloaded", "readmitted n1"], "no operator let it back");
    let none = Placement::Starting(Admission { admitted: 0, fence: 0 });
    assert_eq!(placements(&pool), [none]);
    pool.restore("n1");
    assert!(is_waited_for(&pool, "n1"), "{:?}", placements(&pool));
    cleaned(&mut pool, "n1", false);
    assert_eq!(placements(&pool), [Placement::Owns]);
}

/// A node whose keys waited for it, and that comes back as another process with data, has what was saved some
/// time ago: it is cleaned, unless the pool holds its keys for just that.
#[test]
fn who_waited_and_restarted_is_cleaned() {
    for (hold_down, is_cleaned) in [(Duration::ZERO, true), (Duration::from_secs(60), false)] {
        let mut pool = Planned::new(&pool(&[1; 4], |p| (p.warmth.share, p.hold_down) = (0.25, hold_down)));
        pool.eject("n0");
        pool.eject("n1");
        assert_eq!(pool.entry("n1").placement, Placement::Held);
        pool.time += Duration::from_secs(1);
        pool.restore_with("n1", Data::Other);
        assert_eq!(pool.entry("n1").placement, if is_cleaned { FENCED } else { Placement::Owns });
    }
}

/// Whatever the pool does with nodes that return, such a node is received in full: it is emptied, not waited
/// for, with `ttl`; with `serve` it has its keys at once, as they never moved.
#[test]
fn who_waited_and_restarted_in_other_pools() {
    for (on_return, expected) in [(OnReturn::Ttl, FENCED), (OnReturn::Serve, Placement::Owns)] {
        let mut pool = Planned::new(&pool(&[1; 4], |p| {
            (p.warmth.share, p.on_return, p.ttl_max) = (0.25, on_return, Some(Duration::from_secs(60)));
        }));
        pool.eject("n0");
        pool.eject("n1");
        assert_eq!(pool.entry("n1").placement, Placement::Held);
        pool.time += Duration::from_secs(1);
        pool.restore_with("n1", Data::Other);
        assert_eq!(pool.entry("n1").placement, expected, "{on_return:?}");
    }
}

/// A node that is to be emptied is cold, whatever it has: it waits for the warmth budget.
#[test]
fn who_is_to_be_emptied_is_cold() {
    for (data, is_exact, is_cold) in [
        (Data::Other, true, true),
        (Data::Unknown, true, true),
        (Data::Same, false, true),
        (Data::Same, true, false),
    ] {
        let mut pool = Planned::new(&pool(&[1; 4], |p| (p.warmth.share, p.sole_writer) = (0.25, true)));
        pool.eject("n1");
        pool.time += Duration::from_secs(1);
        let evidence = "it is back".into();
        pool.judge("n1", Health::Healthy, Because::Returned(Returned { data, is_exact, evidence }));
        assert_eq!(pool.entry("n1").placement == Placement::Away, is_cold, "{:?}", placements(&pool));
    }
}

/// That such a node goes at last, when somebody else is there, is no second ejection and no matter of the
/// budget: the next one that fails is the first of its window.
#[test]
fn who_had_no_keys_spends_nothing() {
    let window = Duration::from_secs(60);
    let of = |weights: &[u32]| frugal(pool(weights, |_| {}), 0.25, window);
    let mut pool = Planned::new(&of(&[1; 2]));
    pool.eject("n1");
    let mut alone = of(&[1; 2]);
    alone.nodes.retain(|node| &*node.name == "n1");
    pool.reload(alone);
    pool.time += window;
    let mut joined = of(&[1; 5]);
    joined.nodes.retain(|node| &*node.name != "n0");
    assert_eq!(told(pool.reload(joined)), ["reloaded", "released n1"]);
    assert_eq!(pool.entry("n1").placement, Placement::Away);
    pool.swept("n2");
    assert_eq!(told(pool.eject("n2")), ["ejected n2"], "a third of the keys, and the first in this window");
}

/// A node that can't be cleaned is tried again soon at first and ever later then, which is told; nobody's
/// keys wait for it meanwhile. When it was cleaned, or is another one, it is quick again, and so is one
/// without which nobody serves.
#[test]
fn tries_grow_rarer() {
    let mut spec = pool(&[1; 3], |p| p.sole_writer = true);
    spec.health.eject_max = 1.0;
    let mut pool = Planned::new(&spec);
    let fails = |pool: &mut Planned| {
        pool.news("n1", News::NotCleaned);
        assert_eq!(pool.entry("n1").placement, Placement::Starting(Admission { admitted: 0, fence: 0 }));
        let wait = pool.topology.waits.iter().find(|wait| wait.node == pool.id("n1")).copied();
        let wait = wait.expect("it is told");
        let due = wait.due.expect("it is known when");
        assert_eq!((wait.reason, pool.topology.budget_due), (WaitReason::Cleaning, wait.due));
        let pause = due - pool.time;
        pool.time = due;
        pool.budget();
        assert_eq!(pool.entry("n1").placement, FENCED);
        assert!(pool.topology.waits.is_empty());
        pause.as_secs()
    };
    for _ in 0..2 {
        pool.eject("n1");
        pool.restore("n1");
        let pauses: Vec<u64> = (0..10).map(|_| fails(&mut pool)).collect();
        assert_eq!(pauses, [1, 1, 1, 2, 4, 8, 16, 30, 30, 30]);
    }
    for name in ["n0", "n2"] {
        pool.eject(name);
    }
    assert!(is_waited_for(&pool, "n1"));
    pool.news("n1", News::NotCleaned);
    assert_eq!(pool.topology.budget_due, Some(pool.time + Duration::from_secs(1)));
}

/// The keys of a node that is cleaned for long do not wait for it, until that is over: no epoch comes of it
/// meanwhile.
#[test]
fn who_is_stripped_is_not_waited_for() {
    let prefix =
        crate::topology::PrefixPolicy { prefix: b"s:".as_slice().into(), on_ejected: OnEjected::Fail };
    let mut pool = Planned::new(&pool(&[1; 3], |p| p.prefixes = vec![prefix]));
    pool.eject("n1");
    pool.restore("n1");
    assert_eq!(pool.entry("n1").placement, FENCED);
    pool.news("n1", News::Stripping);
    let open = Placement::Starting(Admission { admitted: 0, fence: 0 });
    let epoch = pool.topology.epoch;
    for _ in 0..100 {
        pool.time += Duration::from_secs(1);
        pool.budget();
        pool.judge("n0", Health::Suspect, Because::Nothing);
        pool.judge("n0", Health::Healthy, Because::Nothing);
    }
    assert_eq!((pool.entry("n1").placement, pool.topology.epoch), (open, epoch));
    let waits: Vec<_> = pool.topology.waits.iter().map(|wait| (wait.reason, wait.due)).collect();
    assert_eq!(waits, [(WaitReason::Cleaning, None)]);
    pool.news("n1", News::NotCleaned);
    pool.time += Duration::from_secs(1);
    pool.budget();
    assert_eq!(pool.entry("n1").placement, FENCED, "it is tried again");
    pool.news("n1", News::Stripping);
    cleaned(&mut pool, "n1", false);
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
}

/// That it could not be cleaned is remembered also when something else is due sooner.
#[test]
fn who_starts_slowly_is_tried_again() {
    let prefix =
        crate::topology::PrefixPolicy { prefix: b"s:".as_slice().into(), on_ejected: OnEjected::Fail };
    let slowly = |p: &mut Policy| (p.prefixes, p.slow_start) = (vec![prefix], Duration::from_secs(1));
    let mut pool = Planned::new(&pool(&[1; 3], slowly));
    pool.eject("n1");
    pool.restore("n1");
    pool.news("n1", News::Stripping);
    pool.news("n1", News::NotCleaned);
    assert_eq!(pool.entry("n1").placement.admitted(), 0.0);
    for _ in 0..11 {
        pool.time += Duration::from_millis(100);
        pool.budget();
    }
    assert!(matches!(pool.entry("n1").placement, Placement::Starting(to) if to.is_fenced()));
}

/// Where what was written expires, a node of which that is not known is emptied, and comes back within the
/// budget.
#[test]
fn who_is_emptied_in_the_end_spends() {
    let frugal = frugal(
        pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, Some(Duration::from_secs(10)))),
        0.25,
        Duration::from_secs(60),
    );
    for (data, is_cold) in [(Data::Other, true), (Data::Same, false)] {
        let mut pool = Planned::new(&frugal);
        pool.eject("n1");
        pool.restore_with("n1", data);
        pool.time += Duration::from_secs(11);
        pool.budget();
        assert_eq!(pool.entry("n1").placement == Placement::Away, is_cold, "{data:?}");
    }
}

/// The last node that serves is not taken out by hand though another one is back, if that can't be cleaned.
#[test]
fn who_cannot_be_cleaned_takes_nobodys_place() {
    let mut pool = Planned::new(&pool(&[1; 2], |p| p.sole_writer = true));
    pool.eject("n1");
    pool.restore("n1");
    pool.news("n1", News::NotCleaned);
    let wrong = |wrong| Opinion { health: Health::Healthy, slow: None, wrong, because: Because::Nothing };
    pool.news("n1", News::Judged(wrong(Some("it can't be emptied".into()))));
    let why = pool.order("n0", Some(Order::Drain)).expect_err("nobody else serves");
    assert!(why.contains("node n0 is the last of pool cache"), "{why}");
    pool.news("n1", News::Judged(wrong(None)));
    pool.order("n0", Some(Order::Drain)).expect("it may be cleaned by now");
}

/// Where all fail, the last one that has its keys stays, and not one that had just begun to take them back.
#[test]
fn the_last_one_has_its_keys() {
    let window = Duration::from_secs(60);
    let mut spec = frugal(pool(&[1; 3], |p| p.sole_writer = true), 0.25, window);
    spec.health.eject_max = 1.0;
    let mut pool = Planned::new(&spec);
    pool.eject("n0");
    pool.restore("n0");
    for name in ["n1", "n2", "n0"] {
        pool.eject(name);
    }
    for _ in 0..4 {
        let owns = pool.topology.nodes.iter().filter(|e| e.placement == Placement::Owns).count();
        assert_eq!((owns, pool.entry("n0").placement), (1, Placement::Away), "{:?}", placements(&pool));
        pool.time += window;
        pool.budget();
    }
}

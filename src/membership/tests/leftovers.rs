//! What others have of a node's keys that took them, and what a node has that may be old: nobody reads
//! either, on paths on which it fails as it takes its keys back.

use super::{
    returns::{FENCED, cleaned, is_waited_for, placements, pool},
    *,
};
use crate::topology::{Admission, Failover, LEVELS, OnReturn};

/// A node with most of its keys back, of which others have old values.
fn one_that_starts(edit: impl FnOnce(&mut Policy)) -> Planned {
    let mut pool = Planned::new(&pool(&[1; 4], |p| {
        p.slow_start = Duration::from_secs(16);
        edit(p);
    }));
    pool.eject("n1");
    pool.restore_with("n1", Data::Other);
    if pool.entry("n1").placement == Placement::Away {
        pool.time = pool.topology.budget_due.expect("it has expired then");
        pool.budget();
    }
    cleaned(&mut pool, "n1", true);
    pool.time += Duration::from_millis(14_500);
    pool.budget();
    pool
}

/// A node that failed as it took its keys back, and is back while others have old values of them, takes all
/// at once: until it is clean nobody has any, however often that is tried.
#[test]
fn nobody_has_old_values_of_one_that_starts_anew() {
    let mut pool = one_that_starts(|_| {});
    pool.eject("n1");
    pool.restore_with("n1", Data::Other);
    assert_eq!(pool.entry("n1").placement, FENCED);
    pool.news("n1", News::NotCleaned);
    assert_eq!(pool.entry("n1").placement, FENCED);
    assert!(pool.topology.budget_due.is_some(), "it is tried again");
    cleaned(&mut pool, "n1", true);
    assert_eq!(pool.entry("n1").placement, Placement::Owns);

    let mut pool = one_that_starts(|_| {});
    pool.eject("n1");
    pool.restore_with("n1", Data::Other);
    pool.swept("n1");
    pool.news("n1", News::NotCleaned);
    assert_eq!(pool.entry("n1").placement.admitted(), 0.0);
    assert_ne!(
        pool.entry("n1").placement,
        FENCED,
        "nobody has any, and they go elsewhere until it is tried again"
    );
}

/// The same of one that was kept as it was while it failed.
#[test]
fn who_was_kept_as_it_started_starts_whole() {
    let mut pool = one_that_starts(|_| {});
    for name in ["n2", "n3", "n1"] {
        pool.eject(name);
    }
    assert!(matches!(pool.entry("n1").placement, Placement::Starting(to) if to.admitted > LEVELS / 2));
    pool.restore_with("n1", Data::Other);
    assert_eq!(pool.entry("n1").placement, FENCED);
}

/// Where what a node has is to expire it waits with its keys held, as long as others have old values of those
/// that it had; and then they go where the warmth budget lets them.
#[test]
fn who_waits_with_its_keys_held() {
    let ttl_max = Duration::from_secs(60);
    let mut pool = one_that_starts(|p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, Some(ttl_max)));
    pool.eject("n1");
    assert_eq!(pool.entry("n1").placement, Placement::Held);
    pool.time += Duration::from_secs(30);
    assert_eq!(told(pool.restore_with("n1", Data::Same)), ["waits n1"]);
    assert_eq!(pool.entry("n1").placement, Placement::Held);
    let back = pool.time;
    let due = pool.topology.budget_due.expect("others have none any more then");
    assert!(due < back + ttl_max);
    pool.time = due;
    assert_eq!(told(pool.budget()), ["released n1"]);
    assert_eq!(pool.entry("n1").placement, Placement::Away);
    pool.time = back + ttl_max;
    assert_eq!(told(pool.budget()), ["starts n1"]);
}

/// What a node has that waits for it to expire may live longer than a reload says: it is emptied when it has
/// waited.
#[test]
fn a_shorter_life_is_not_believed_of_who_waits() {
    let of = |seconds| {
        pool(&[1; 4], |p| (p.on_return, p.ttl_max) = (OnReturn::Ttl, Some(Duration::from_secs(seconds))))
    };
    let mut pool = Planned::new(&of(60));
    pool.eject("n1");
    pool.restore_with("n1", Data::Same);
    pool.time += Duration::from_secs(2);
    assert_eq!(told(pool.reload(of(1))), ["reloaded", "starts n1"]);
    assert_eq!(pool.entry("n1").placement, FENCED);
    cleaned(&mut pool, "n1", true);
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
    // Others took what lives for a minute.
    pool.time += Duration::from_secs(50);
    pool.eject("n1");
    assert_eq!(pool.entry("n1").placement, Placement::Held);
}

/// One that was kept as it started has what it had when it is back, and nobody else any of it; what is clean
/// is what it has: a key that others took meanwhile is none of that.
#[test]
fn who_was_kept_as_it_started_goes_on_from_there() {
    let mut pool = one_that_starts(|p| p.sole_writer = true);
    pool.swept("n1");
    for name in ["n2", "n3", "n1"] {
        pool.eject(name);
    }
    let Placement::Starting(had) = pool.entry("n1").placement else { panic!("{:?}", placements(&pool)) };
    assert!(had.admitted > LEVELS / 2 && had.admitted < LEVELS, "{had:?}");
    pool.restore("n1");
    let fenced = Placement::Starting(Admission { admitted: 0, fence: had.admitted });
    assert_eq!(pool.entry("n1").placement, fenced);
    let below = had.admitted;
    pool.news("n1", News::Cleaned { below, leftovers: false, emptied: false, how: "".into() });
    assert_eq!(pool.entry("n1").placement, Placement::Starting(Admission { fence: below, ..had }));
}

/// One for which all keys waited, as nobody else was there, has them all when it is clean, whoever is there
/// by then.
#[test]
fn the_last_one_takes_all_that_waited() {
    let mut pool = Planned::new(&pool(&[1, 1], |p| {
        (p.sole_writer, p.slow_start) = (true, Duration::from_secs(16));
    }));
    pool.eject("n0");
    pool.restore("n0");
    pool.eject("n1");
    assert!(is_waited_for(&pool, "n0"), "{:?}", placements(&pool));
    pool.restore("n1");
    assert_eq!(pool.entry("n0").placement, FENCED);
    cleaned(&mut pool, "n0", false);
    assert_eq!(pool.entry("n0").placement, Placement::Owns);
}

/// Where keys do not move nobody waits for anything to expire.
#[test]
fn who_kept_its_keys_waits_for_nothing() {
    let mut pool = Planned::new(&pool(&[1; 4], |p| {
        (p.on_ejected, p.on_return, p.ttl_max) =
            (OnEjected::Miss, OnReturn::Ttl, Some(Duration::from_secs(60)));
    }));
    pool.eject("n1");
    assert_eq!(told(pool.restore("n1")), ["restored n1"]);
}

/// A pool of four whose keys fail over to another, of one node.
fn with_gutter() -> (Planned, Planned) {
    let over = Failover { pool: "gutter".into(), ttl_max: Duration::from_secs(60) };
    let of_pool = pool(&[1; 4], |p| (p.on_ejected, p.failover) = (OnEjected::Failover, Some(over)));
    let (mut planned, mut gutter) = (Planned::new(&of_pool), Planned::new(&pool(&[1], |_| {})));
    gutter.topology.pool = "gutter".into();
    follows(&mut planned, &gutter);
    (planned, gutter)
}

fn follows(pool: &mut Planned, gutter: &Planned) {
    let outcome = follow(&pool.topology, &pool.ledger, Some(Arc::new(gutter.topology.clone())), pool.time);
    pool.apply(outcome);
}

/// What lies in the sockets of a gutter's node that stands still, and is kept, is written when it goes on,
/// and lives from then on: until it has expired the keys for which it may be are held when their node fails
/// again.
#[test]
fn a_gutter_that_stood_still() {
    for stands in [false, true] {
        let (mut pool, mut gutter) = with_gutter();
        pool.eject("n1");
        if stands {
            gutter.eject("n0");
            follows(&mut pool, &gutter);
        }
        pool.restore_with("n1", Data::Other);
        cleaned(&mut pool, "n1", true);
        assert_eq!(pool.entry("n1").placement, Placement::Owns);
        pool.time += Duration::from_secs(100);
        gutter.restore("n0");
        follows(&mut pool, &gutter);
        pool.time += Duration::from_secs(50);
        let expected = if stands { ["held n1"] } else { ["ejected n1"] };
        assert_eq!(told(pool.eject("n1")), expected);
    }
}

/// What a gutter has of the keys of a node that is away, and that a reload gives to another, is not read when
/// that fails.
#[test]
fn a_reload_takes_keys_from_a_gutter() {
    let (mut pool, _gutter) = with_gutter();
    let mut without = super::returns::pool(&[1; 4], |_| {});
    without.policy = pool.topology.policy.clone();
    without.nodes.retain(|node| &*node.name != "n1");
    pool.eject("n1");
    assert!(pool.prepare(without.clone()).moved > 0.1, "they go from the gutter");
    pool.reload(without);
    assert_eq!(told(pool.eject("n2")), ["held n2"]);
}

/// Nor what it has of the keys of a node in whose place a reload puts another server.
#[test]
fn a_server_comes_in_the_place_of_one_that_failed_over() {
    let (mut pool, _gutter) = with_gutter();
    let mut other = super::returns::pool(&[1; 4], |_| {});
    other.policy = pool.topology.policy.clone();
    let moved = other.nodes.iter_mut().filter(|node| &*node.name == "n1");
    moved.for_each(|node| node.address = "other:1".parse().expect("an address"));
    pool.eject("n1");
    pool.reload(other);
    assert_eq!(pool.entry("n1").placement, Placement::Owns);
    assert_eq!(told(pool.eject("n1")), ["held n1"]);
    pool.time += Duration::from_secs(61);
    assert_eq!(told(pool.budget()), ["released n1"]);
}

/// What others have of the keys of a node that leaves the pool are old copies of its heirs' keys.
#[test]
fn who_leaves_leaves_it_to_its_heirs() {
    for has_leftovers in [true, false] {
        let mut pool = Planned::new(&pool(&[1; 4], |_| {}));
        pool.eject("n1");
        pool.restore("n1");
        cleaned(&mut pool, "n1", has_leftovers);
        // Nobody says that it is looked for, so that it may leave.
        pool.time += Duration::from_secs(121);
        let mut without = super::returns::pool(&[1; 4], |_| {});
        without.nodes.retain(|node| &*node.name != "n1");
        pool.reload(without);
        assert_eq!(pool.topology.leftovers.is_empty(), !has_leftovers);
        assert_eq!(told(pool.eject("n2")), [if has_leftovers { "held n2" } else { "ejected n2" }]);
    }
}

/// A node that leaves while it is emptied is not heard to be clean, but what others took for it before they
/// have nevertheless: nothing else would tell of it any more.
#[test]
fn what_others_took_for_one_that_leaves_again() {
    let mut pool = Planned::new(&pool(&[1; 4], |_| {}));
    pool.eject("n1");
    pool.restore("n1");
    pool.eject("n1");
    assert!(pool.topology.leftovers.is_empty());
    cleaned(&mut pool, "n1", true);
    assert_eq!(pool.topology.leftovers.len(), 1);
    assert_eq!(pool.entry("n1").placement, Placement::Away);
}

/// For whom others are to be looked through is published when that is news; for whom it is done is told with
/// the next publish, or when it is done for all.
#[test]
fn what_is_to_be_looked_for_is_published() {
    let mut pool = Planned::new(&pool(&[1; 3], |_| {}));
    let joined = super::returns::pool(&[1, 1, 1, 1], |_| {});
    pool.reload(joined);
    pool.eject("n1");
    pool.restore("n1");
    cleaned(&mut pool, "n1", true);
    assert_eq!(pool.topology.leftovers.len(), 2);
    assert!(pool.swept("n1").is_none());
    assert_eq!(pool.topology.leftovers.len(), 2);
    assert!(pool.swept("n3").is_some());
    assert!(pool.topology.leftovers.is_empty());
}

/// A reload that gives some of a node's keys to another, or takes them from it, waits until nobody has old
/// values of them: also when what changes is the weight of the very node that got them, and when another
/// server has come in its place since.
#[test]
fn a_weight_there_and_back() {
    let with = |weight: u32| super::returns::pool(&[1, 1, 1, weight], |_| {});
    let moved = |mut spec: PoolSpec| {
        spec.nodes[3].address = Address::Tcp { host: "10.0.0.99".into(), port: 6379 };
        spec
    };
    let refusal = |pool: &Planned, spec: PoolSpec| {
        let permit = Permit { max_share: 1.0, yes: true, time: pool.time };
        match reload(&pool.topology, &pool.ledger, &pool.prepare(spec), &pool.births, &permit) {
            Outcome::Refused { why } => Some(why),
            _ => None,
        }
    };
    let heavier = || {
        let mut pool = Planned::new(&with(1));
        pool.reload(with(2));
        pool
    };
    let (mut pool, mut other) = (heavier(), heavier());
    let why = refusal(&pool, with(1)).expect("n0 to n2 have what is n3's now");
    assert!(why.contains("old values of keys that are node n3's now"), "{why}");
    other.reload(moved(with(2)));
    assert!(refusal(&other, moved(with(1))).is_some(), "they have it, whatever n3 is");
    other.swept("n3");
    assert_eq!(refusal(&other, moved(with(1))), None);
    pool.swept("n3");
    assert_eq!(refusal(&pool, with(1)), None);
    pool.reload(with(1));
    // Now n3 has what is the others' again.
    let why = refusal(&pool, with(2)).expect("it has old values of their keys");
    assert!(why.contains("node n0's now") || why.contains("node n1's") || why.contains("node n2's"), "{why}");
    ["n0", "n1", "n2"].iter().for_each(|name| drop(pool.swept(name)));
    assert_eq!(refusal(&pool, with(2)), None);
}

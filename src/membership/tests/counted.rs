//! What the warmth budget counts: what the ring says that moves, and each step of a slow start.

use super::{
    returns::{cleaned, pool},
    *,
};
use crate::topology::{Admission, LEVELS, OnReturn, WaitReason};

/// A pool that counts what moves: nodes as even as many points make them.
fn counted(count: usize, share: f64, edit: impl FnOnce(&mut Policy)) -> Planned {
    let window = Duration::from_secs(60);
    let mut spec = frugal(pool(&vec![1; count], |p| p.on_return = OnReturn::Serve), share, window);
    edit(Arc::make_mut(&mut spec.policy));
    spec.ring.placement = ring::Placement::Vnode { points: 400 };
    Planned::new(&spec)
}

/// What moves is counted as the ring has it, not by weight: of nodes that weigh the same a large one waits
/// where small ones do not.
#[test]
fn shares_are_those_of_the_ring() {
    let mut spec = frugal(pool(&[1; 20], |_| {}), 0.15, Duration::from_secs(60));
    spec.ring.placement = ring::Placement::Vnode { points: 1 };
    let mut pool = Planned::new(&spec);
    let shares = pool.topology.shares();
    let mut by_share: Vec<usize> = (0..shares.len()).collect();
    by_share.sort_by(|a, b| shares[*a].total_cmp(&shares[*b]));
    let name = |at: usize| format!("n{}", by_share[at]);
    assert!(
        shares[by_share[19]] > 0.15 && shares[by_share[..3].iter().copied().max().expect("three")] < 0.05
    );
    assert_eq!(told(pool.eject(&name(0))), [format!("ejected {}", name(0))], "the first one");
    assert_eq!(told(pool.eject(&name(19))), [format!("held {}", name(19))]);
    assert_eq!(told(pool.eject(&name(1))), [format!("ejected {}", name(1))]);
}

/// Whatever returns cold, at once or in steps, and however long these take: in no window does more move than
/// the budget has, and in the end all are back.
#[test]
fn no_window_moves_more() {
    let window = Duration::from_secs(60);
    for slow_start in [Duration::ZERO, window / 2, window * 4, window * 40] {
        let mut pool = counted(12, 0.25, |p| p.slow_start = slow_start);
        let first = owners(&pool.topology);
        let out: Vec<String> = (0..6).map(|i| format!("n{i}")).collect();
        for name in &out {
            pool.eject(name);
            pool.time += window * 2;
        }
        let mut moves = Vec::new();
        let mut step = |pool: &mut Planned, act: &mut dyn FnMut(&mut Planned)| {
            let before = pool.topology.clone();
            act(pool);
            moves.push((pool.time, moved(&before, &pool.topology)));
        };
        let start = pool.time;
        for name in &out {
            step(&mut pool, &mut |pool| drop(pool.restore_with(name, Data::Empty)));
            pool.time += Duration::from_secs(1);
        }
        while let Some(due) = pool.topology.budget_due {
            pool.time = due.max(pool.time);
            step(&mut pool, &mut |pool| drop(pool.budget()));
            assert!(pool.time < start + window * 400, "it goes on");
        }
        assert_eq!(owners(&pool.topology), first);
        for (until, _) in &moves {
            let in_window = |at: &&(tokio::time::Instant, f64)| at.0 <= *until && at.0 + window > *until;
            let sum: f64 = moves.iter().filter(in_window).map(|(_, moved)| moved).sum();
            assert!(sum <= 0.25 + 1e-6, "{sum} at {:?} with {slow_start:?}", *until - start);
        }
        let took = pool.time - start;
        let whole = moves.iter().map(|(_, moved)| moved).sum::<f64>();
        assert!(whole > 0.45, "{whole}");
        let longest = slow_start + window * 6;
        assert!(took < longest, "{took:?} of {longest:?}");
    }
}

/// Steps that are further apart than a window count when they are taken: then a node that fails may have to
/// wait, and not when nothing moves.
#[test]
fn steps_count_when_they_are_taken() {
    let window = Duration::from_secs(60);
    let held = |minutes: u32| {
        let mut pool = counted(20, 0.12, |p| p.slow_start = window * 8);
        for name in ["n0", "n1", "n2"] {
            pool.eject(name);
            pool.time += window * 2;
        }
        for name in ["n0", "n1", "n2"] {
            assert_eq!(
                told(pool.restore_with(name, Data::Empty)),
                [format!("starts {name}")],
                "a sixteenth each"
            );
        }
        let until = pool.time + window * minutes + window / 6;
        while let Some(due) = pool.topology.budget_due.filter(|due| *due <= until) {
            pool.time = due;
            pool.budget();
        }
        pool.time = until;
        assert_eq!(told(pool.eject("n10")), ["ejected n10"]);
        told(pool.eject("n11")) == ["held n11"]
    };
    assert!(held(4), "they are amid it");
    assert!(!held(10), "they have been back for long");
}

/// A cold node that has more than the budget takes it over several windows, each time what fits, and says
/// that it waits; an operator may have it wait no longer. What it has fenced is paid once.
#[test]
fn a_start_waits_for_room() {
    let window = Duration::from_secs(60);
    let starts = |on_return, slow_start| {
        let mut pool = counted(3, 0.1, |p| {
            (p.on_return, p.slow_start, p.sole_writer) = (on_return, Duration::from_secs(slow_start), true);
        });
        pool.eject("n0");
        pool.time += window * 2;
        assert_eq!(told(pool.restore_with("n0", Data::Empty)), ["starts n0"]);
        pool
    };
    let level = |pool: &Planned| pool.entry("n0").placement.holds_below();
    let goes_on = |pool: &mut Planned, until: tokio::time::Instant| {
        while let Some(due) = pool.topology.budget_due.filter(|due| *due <= until) {
            pool.time = due;
            pool.budget();
        }
        pool.time = until;
    };
    let mut pool = starts(OnReturn::Serve, 16);
    let (share, start) = (pool.topology.ring.shares(|_| true)[0], pool.time);
    let steps = (0.1 / (share / 16.0)) as u32;
    for windows in 1..4 {
        goes_on(&mut pool, start + window * windows - Duration::from_secs(1));
        assert_eq!(level(&pool), LEVELS / 16 * steps * windows, "{steps} steps of {share} in a window");
        let wait = pool.topology.waits.first().map(|wait| (wait.reason, wait.due > Some(pool.time)));
        assert_eq!(wait, Some((WaitReason::Budget, true)));
    }
    goes_on(&mut pool, start + window * 4);
    assert_eq!((level(&pool), pool.topology.budget_due), (LEVELS, None));

    let mut pool = starts(OnReturn::Serve, 16);
    let start = pool.time;
    goes_on(&mut pool, start + window / 2);
    assert!(level(&pool) < LEVELS / 2);
    assert_eq!(pool.order("n0", None).expect("it may"), ["ordered n0: none", "restored n0"]);

    // It can't be cleaned at first.
    let mut pool = starts(OnReturn::Quarantine, 1);
    assert_eq!(
        pool.entry("n0").placement,
        Placement::Starting(Admission { admitted: 0, fence: LEVELS / 16 })
    );
    for _ in 0..3 {
        pool.news("n0", News::NotCleaned);
        assert_eq!(level(&pool), 0);
        let until = pool.time + Duration::from_millis(1500);
        goes_on(&mut pool, until);
        assert_eq!(level(&pool), LEVELS / 16 * steps, "what it has paid for it pays once");
    }
    cleaned(&mut pool, "n0", false);
    let until = pool.time + window / 2;
    goes_on(&mut pool, until);
    assert_eq!(level(&pool), LEVELS / 16 * steps);
}

/// Where keys do not move there is nothing to wait for.
#[test]
fn who_had_its_keys_all_along_waits_for_nothing() {
    let mut pool = counted(4, 0.25, |p| p.on_ejected = OnEjected::Fail);
    for name in ["n0", "n1"] {
        pool.eject(name);
    }
    for name in ["n0", "n1"] {
        assert_eq!(told(pool.restore_with(name, Data::Empty)), [format!("restored {name}")]);
    }
}

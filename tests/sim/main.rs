//! The failure lifecycle in worlds that come from seeds: real detectors, real planner, virtual time, no
//! sockets. Each world is a pool of 5 to 500 nodes that die, hang, flap, are cut off and become slow, with
//! operators who drain, pin and reload meanwhile; after each step the laws in `laws.rs` are asked.
//!
//! A seed that breaks a law is a bug report:
//!
//!     RINGWAY_SEED=123 cargo test --test sim      that world alone, with its story
//!     RINGWAY_SEEDS=100000 cargo test --test sim  more worlds than usual

mod body;
mod conduct;
mod diagnoses;
mod dice;
mod keys;
mod laws;
mod planner;
mod quarantine;
mod scenario;
mod stats;
mod values;
mod warmth;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
};

use laws::{Breach, Law};
use planner::Sabotage;
use stats::Stats;
use world::{Failure, World};

/// Worlds in a usual run.
const SEEDS: u64 = 10_000;
/// Within so many seeds each sabotage is noticed.
const SEEDS_TO_NOTICE: u64 = 1_000;
/// Broken laws that are shown.
const SHOWN: usize = 5;
/// Lines of a story that are shown.
const STORY: usize = 80;

fn live(seed: u64, sabotage: Option<Sabotage>) -> Result<Stats, Failure> {
    let run = || {
        let mut world = World::new(seed, sabotage);
        world.run(seed).map(|()| world.stats)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let breach = Breach { law: Law::Panic, text: text.unwrap_or_default() };
        Err(Failure { seed, after: std::time::Duration::ZERO, breach })
    })
}

/// Lives through worlds on all processors; stops a little after the first failures.
fn live_all(seeds: u64) -> (Stats, Vec<Failure>) {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        let (mut stats, mut failures) = (Stats::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds || failed.load(Relaxed) >= SHOWN as u64 {
                return (stats, failures);
            }
            match live(seed, None) {
                Ok(world) => stats.add(&world),
                Err(failure) => {
                    failed.fetch_add(1, Relaxed);
                    failures.push(failure);
                }
            }
        }
    };
    let (mut stats, mut failures) = (Stats::default(), Vec::new());
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(2, usize::from);
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for one in all {
            let (some, broken) = one.join().expect("panics of a world are caught");
            stats.add(&some);
            failures.extend(broken);
        }
    });
    failures.sort_by_key(|failure| failure.seed);
    (stats, failures)
}

/// A failure as a bug report: what broke, how to see it again, and the end of its story.
fn report(failure: &Failure) -> String {
    let Failure { seed, after, breach } = failure;
    let mut world = World::new(*seed, None);
    world.story = Some(Vec::new());
    let _ = catch_unwind(AssertUnwindSafe(|| world.run(*seed)));
    let story = world.story.unwrap_or_default();
    let last = &story[story.len().saturating_sub(STORY)..];
    format!(
        "seed {seed}, after {after:?}: {breach}\nagain: RINGWAY_SEED={seed} cargo test --test sim\n{}\n",
        last.join("\n")
    )
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text}, and should be a number")))
}

/// In all worlds all laws hold, and all that can happen to a pool happens in some of them.
#[test]
fn the_laws_hold() {
    if let Some(seed) = number("RINGWAY_SEED") {
        let mut world = World::new(seed, None);
        world.story = Some(Vec::new());
        let outcome = world.run(seed);
        println!("{}", world.story.unwrap_or_default().join("\n"));
        assert!(outcome.is_ok(), "{outcome:?}");
        return;
    }
    let seeds = number("RINGWAY_SEEDS").unwrap_or(SEEDS);
    let (stats, failures) = live_all(seeds);
    println!("{stats}");
    let reports: Vec<String> = failures.iter().take(SHOWN).map(report).collect();
    assert!(reports.is_empty(), "\n{}", reports.join("\n"));
    assert!(seeds < SEEDS || stats.never().is_empty(), "never happened: {:?}", stats.never());
}

/// The first law that breaks under this sabotage is this one, within a thousand seeds.
#[track_caller]
fn notices(sabotage: Sabotage, law: Law) {
    let failure = (0..SEEDS_TO_NOTICE).find_map(|seed| live(seed, Some(sabotage)).err());
    let Some(failure) = failure else { panic!("{sabotage:?} is not noticed in {SEEDS_TO_NOTICE} seeds") };
    println!("{sabotage:?}: {failure:?}");
    assert_eq!(failure.breach.law, law, "{sabotage:?}: {failure:?}");
}

/// An owner that changes within an epoch is noticed.
#[test]
fn one_owner_per_key_and_epoch() {
    notices(Sabotage::HidesAnEpoch, Law::OneOwner);
}

/// An epoch that is left out is noticed.
#[test]
fn epochs_rise_by_one() {
    notices(Sabotage::SkipsAnEpoch, Law::Epochs);
}

/// An epoch in which nothing changes is noticed.
#[test]
fn epochs_rise_for_a_reason() {
    notices(Sabotage::BumpsForNothing, Law::Epochs);
}

/// A planner that puts out more than `eject_max` is noticed.
#[test]
fn eject_max_is_kept() {
    notices(Sabotage::IgnoresEjectMax, Law::Guard);
}

/// A planner that keeps nodes which may go is noticed.
#[test]
fn the_guard_keeps_no_more_than_it_must() {
    notices(Sabotage::KeepsTooMany, Law::Guard);
}

/// A planner that moves more than the warmth budget is noticed.
#[test]
fn the_budget_is_kept() {
    notices(Sabotage::IgnoresTheBudget, Law::Budget);
    notices(Sabotage::StartsForFree, Law::Budget);
}

/// A planner that puts out a node which did not fail is noticed.
#[test]
fn survivors_serve_on() {
    notices(Sabotage::MovesASurvivor, Law::Survivors);
}

/// A ring that is built anew for those that are left is noticed: it moves keys between them.
#[test]
fn survivors_keep_their_keys() {
    notices(Sabotage::RebuildsTheRing, Law::Survivors);
}

/// A node that gets other keys at its return than it had is noticed.
#[test]
fn a_return_restores_the_exact_map() {
    notices(Sabotage::RestoresToAnotherMap, Law::Map);
}

/// A node that proved itself and stays out is noticed.
#[test]
fn who_is_healthy_again_returns() {
    notices(Sabotage::NeverRestores, Law::Returns);
}

/// A detector that believes no node which is back is noticed.
#[test]
fn who_answers_again_is_believed() {
    notices(Sabotage::NeverForgives, Law::Returns);
}

/// Dates that are put off without end are noticed.
#[test]
fn nobody_waits_for_ever() {
    notices(Sabotage::PutsOff, Law::Returns);
}

/// A verdict that comes to nothing is noticed.
#[test]
fn each_verdict_is_heard() {
    notices(Sabotage::DropsVerdicts, Law::Heard);
}

/// A node that waits without a date to go on is noticed.
#[test]
fn what_waits_has_a_date() {
    notices(Sabotage::ForgetsWhoWaits, Law::GoesOn);
}

/// A date at which nothing is done is noticed.
#[test]
fn what_waits_goes_on() {
    notices(Sabotage::SleepsOver, Law::GoesOn);
}

/// A node that comes back although an operator put it out is noticed.
#[test]
fn who_is_out_by_hand_stays_out() {
    notices(Sabotage::ForgetsOrders, Law::Orders);
}

/// A node that is ejected although an operator pinned it is noticed.
#[test]
fn who_is_pinned_stays_in() {
    notices(Sabotage::IgnoresPins, Law::Orders);
}

/// An ejection that nobody is told of is noticed.
#[test]
fn each_change_is_told() {
    notices(Sabotage::KeepsSilent, Law::Told);
}

/// A detector that takes each ejection of a node that flaps for the first is noticed.
#[test]
fn who_flaps_waits() {
    notices(Sabotage::ForgetsFlaps, Law::Flaps);
}

/// A detector that lets a node which flaps wait longer than `flap_max` is noticed.
#[test]
fn no_wait_is_without_bound() {
    notices(Sabotage::WaitsWithoutBound, Law::Flaps);
}

/// A detector that does not hear of failures is noticed.
#[test]
fn who_fails_is_found() {
    notices(Sabotage::IsDeaf, Law::Found);
}

/// A node that owns keys again of which it may have old values is noticed.
#[test]
fn who_is_back_is_cleaned_first() {
    notices(Sabotage::OwnsUnclean, Law::Clean);
    notices(Sabotage::ForgetsDebts, Law::Clean);
}

/// What others took for a node and have still is noticed at its next absence.
#[test]
fn nobody_is_taken_back_in_time() {
    notices(Sabotage::ForgetsLeftovers, Law::Old);
    notices(Sabotage::SweepsInName, Law::Old);
    notices(Sabotage::HurriesExpiry, Law::Old);
    notices(Sabotage::TrustsTheGutter, Law::Old);
}

/// A single fault is named for what it is when its node is ejected, and no other diagnosis is half as sure.
#[test]
fn a_single_fault_is_named() {
    notices(Sabotage::BlamesThePath, Law::Diagnosed);
    notices(Sabotage::TakesSilenceForRefusal, Law::Diagnosed);
}

/// A detector that ejects at the first doubtful sign is noticed.
#[test]
fn one_doubtful_sign_ejects_nobody() {
    notices(Sabotage::IsHasty, Law::Patience);
}

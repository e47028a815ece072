//! HOW A NODE TAKES ITS KEYS BACK: in steps over `slow_start`, each step cleaned first where the pool does
//! not serve old data. While a step is cleaned its keys wait: nobody serves them, so that no write can
//! slip in between. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::{Admission, LEVELS, Placement, Policy};

/// Steps in which a node takes its share over `slow_start`. Each is at least one epoch.
const STEPS: u32 = 16;
/// The levels of one.
pub(super) const STEP: u32 = LEVELS / STEPS;

/// Until a node that could not be cleaned is cleaned again: at first, and at most. Its keys wait a moment
/// each time, so that one which refuses for long is asked ever less often.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// So many tries follow each other quickly: then all that can be done was tried, and each pause is twice the
/// last one.
const QUICK_TRIES: u32 = 3;

/// The start of a node that is back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    since: Instant,
    /// Its keys below this level are clean.
    clean: u32,
    /// It is not cleaned before this.
    after: Option<Instant>,
    /// Its keys below this level are with nobody else, and go nowhere else before they are clean.
    least: u32,
    /// How often it could not be cleaned.
    failed: u32,
    /// It is being cleaned, which takes so long that its keys do not wait for it.
    is_long: bool,
    /// Its keys are cold there: what it takes is at the expense of the warmth budget.
    is_cold: bool,
    /// Its keys below this level are paid for, or were with nobody else, since this time.
    paid: (u32, Instant),
    /// It may have more by the time, and the warmth budget has no room for it.
    is_short: bool,
}

impl Start {
    /// A node starts now; whether it has to be cleaned.
    pub(super) fn new(since: Instant, is_clean: bool) -> Start {
        let clean = if is_clean { LEVELS } else { 0 };
        let (after, paid) = (None, (0, since));
        Start {
            since,
            clean,
            after,
            least: 0,
            failed: 0,
            is_long: false,
            is_cold: false,
            paid,
            is_short: false,
        }
    }

    /// Its keys are cold there, and it has to pay for those that it takes from this level on.
    pub(super) fn pays_from(self, level: u32) -> Start {
        Start { is_cold: true, paid: (level, self.since), ..self }
    }

    /// Whether its keys are cold there.
    pub(super) fn is_cold(&self) -> bool {
        self.is_cold
    }

    /// What it has to pay for now: from which level on, whatever is left, and to which one, if anything is.
    /// What it paid for and gave back a window ago it pays again.
    pub(super) fn asks(&mut self, before: Placement, policy: &Policy, time: Instant) -> (u32, u32) {
        let (paid, at) = self.paid;
        if let Placement::Starting(to) = before
            && to.fence < paid
            && at + policy.warmth.window <= time
        {
            self.paid = (to.fence, time);
        }
        let wanted = self.placement(before, policy, time, LEVELS).holds_below();
        (self.paid.0.max(self.least), wanted)
    }

    /// It takes its keys up to this level, and would have had those up to that one; the levels that it has
    /// not paid for.
    pub(super) fn takes(&mut self, to: u32, wanted: u32, time: Instant) -> (u32, u32) {
        let from = self.paid.0;
        if to > from {
            self.paid = (to, time);
        }
        self.is_short = to < wanted;
        (from, to)
    }

    /// Whether it waits for the warmth budget.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// It takes its keys below this level at once, and nobody else has any of them before.
    pub(super) fn at_least(self, least: u32) -> Start {
        Start { least: self.least.max(least), ..self }
    }

    /// Others have no older values of its keys: while it can't be cleaned, or that takes long, these go on
    /// there.
    pub(super) fn lets_go(&mut self, time: Instant) {
        if self.waits(time).is_some() {
            self.least = 0;
        }
    }

    /// Whether all of its keys are clean.
    pub(super) fn is_clean(&self) -> bool {
        self.clean >= LEVELS
    }

    pub(super) fn cleaned(&mut self, below: u32) {
        self.clean = self.clean.max(below);
        (self.failed, self.is_long) = (0, false);
    }

    /// It could not be cleaned at this time. Where nobody else could serve its keys they wait for it anyhow,
    /// and it is tried again soon.
    pub(super) fn not_cleaned(&mut self, time: Instant, is_needed: bool) {
        self.failed += 1;
        let doubled =
            if is_needed || self.least > 0 { 0 } else { self.failed.saturating_sub(QUICK_TRIES).min(5) };
        self.after = Some(time + (AGAIN * (1 << doubled)).min(AGAIN_MAX));
        self.is_long = false;
    }

    /// It is being cleaned for long from now on; whether that is new.
    pub(super) fn strips(&mut self) -> bool {
        !std::mem::replace(&mut self.is_long, true)
    }

    /// Whether it waits to be cleaned while its keys do not, and until when at most, as far as that is known.
    pub(super) fn waits(&self, time: Instant) -> Option<Option<Instant>> {
        let again = self.after.filter(|after| *after > time);
        if self.is_long { Some(None) } else { again.map(Some) }
    }

    /// Where a node is that was there before, and may have its keys below a level at most.
    pub(super) fn placement(
        &self,
        before: Placement,
        policy: &Policy,
        time: Instant,
        most: u32,
    ) -> Placement {
        let due = self.due(policy, time).min(most);
        let admitted = due.min(self.clean);
        if admitted >= LEVELS {
            return Placement::Owns;
        }
        let may_clean = !self.is_long && self.after.is_none_or(|after| after <= time);
        let fence = match before {
            // They wait until it is clean, however often that is tried.
            _ if self.least > 0 => due,
            // What is being cleaned stays what it is until it is clean.
            Placement::Starting(now) if now.fence > self.clean && may_clean => now.fence,
            _ if due > self.clean && may_clean => due,
            _ => admitted,
        };
        Placement::Starting(Admission { admitted, fence })
    }

    /// How much it may have by the time.
    fn due(&self, policy: &Policy, time: Instant) -> u32 {
        (STEP * self.steps(policy, time)).max(self.least)
    }

    fn steps(&self, policy: &Policy, time: Instant) -> u32 {
        if policy.slow_start.is_zero() {
            return STEPS;
        }
        let passed = time.saturating_duration_since(self.since).as_secs_f64();
        let steps = passed / policy.slow_start.as_secs_f64() * f64::from(STEPS);
        1 + (steps as u32).min(STEPS - 1)
    }

    /// When it may take more without anybody telling.
    pub(super) fn next(&self, placement: Placement, policy: &Policy, time: Instant) -> Option<Instant> {
        let Placement::Starting(admission) = placement else { return None };
        let again = self.waits(time).flatten();
        if admission.is_fenced() {
            // Of one that is to be cleaned because nobody else is left.
            return again;
        }
        let steps = self.steps(policy, time);
        let step = (steps < STEPS).then(|| {
            // A hair later, or rounding has it look a moment too soon and find nothing to do.
            let part = f64::from(steps) / f64::from(STEPS);
            self.since + policy.slow_start.mul_f64(part) + Duration::from_millis(1)
        });
        again.into_iter().chain(step).min()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        membership::{
            PoolSpec,
            tests::{Planned, owners, spec, told},
        },
        topology::{Data, News, OnEjected, OnReturn, Order, PrefixPolicy, Route, level},
    };

    fn pool(on_return: OnReturn, slow_start: Duration) -> Planned {
        let mut spec: PoolSpec = spec(&[1, 1, 1, 1], 0.5);
        let policy = (*spec.policy).clone();
        spec.policy = Arc::new(Policy { on_return, slow_start, sole_writer: true, ..policy });
        Planned::new(&spec)
    }

    fn cleaned(pool: &mut Planned, below: u32) -> Vec<String> {
        told(pool.news("n1", News::Cleaned { below, leftovers: false, emptied: false, how: "".into() }))
    }

    /// Where each of many keys goes.
    fn routes(pool: &Planned) -> Vec<Route> {
        let topology = &pool.topology;
        let key = |i: u32| format!("key:{i}");
        (0..2000).map(key).map(|k| topology.route(topology.ring.hash(k.as_bytes()), k.as_bytes())).collect()
    }

    /// A node takes its keys in sixteen steps, each one epoch that moves a sixteenth of them and no
    /// others, by time alone; the last one restores the exact map.
    #[test]
    fn a_slow_start() {
        let mut pool = pool(OnReturn::Serve, Duration::from_secs(16));
        let (first, start) = (owners(&pool.topology), pool.time);
        let whole = routes(&pool);
        pool.eject("n1");
        let without = routes(&pool);
        assert_eq!(told(pool.restore_with("n1", Data::Empty)), ["starts n1"]);
        for step in 1..16 {
            let admitted = LEVELS / 16 * step;
            assert_eq!(pool.entry("n1").placement.admitted(), f64::from(step) / 16.0);
            let due = pool.topology.budget_due.expect("it goes on by itself");
            for (i, route) in routes(&pool).into_iter().enumerate() {
                let hash = pool.topology.ring.hash(format!("key:{i}").as_bytes());
                let is_taken = level(hash) < admitted;
                assert_eq!(route, if is_taken { whole[i] } else { without[i] }, "key:{i}");
            }
            assert!(due > start + Duration::from_secs(u64::from(step)) && due > pool.time);
            assert!(pool.budget().is_none(), "not before its time");
            let before = pool.topology.clone();
            pool.time = due;
            assert_eq!(told(pool.budget()).len(), 1);
            let moved = crate::membership::moved(&before, &pool.topology);
            let share = pool.topology.ring.shares(|_| true)[1];
            assert!((moved - share / 16.0).abs() < 1e-9, "{moved} of {share}");
        }
        assert_eq!((owners(&pool.topology), pool.topology.budget_due), (first, None));
        assert!(pool.ledger.is_empty());
    }

    /// A node that has to be cleaned serves no key before it was: its keys wait, and when it can't be
    /// cleaned they go on elsewhere until it is tried again.
    #[test]
    fn cleaned_first() {
        let mut pool = pool(OnReturn::Quarantine, Duration::ZERO);
        let whole = routes(&pool);
        pool.eject("n1");
        let without = routes(&pool);
        assert_eq!(told(pool.restore_with("n1", Data::Same)), ["starts n1"]);
        let waits = |routes: Vec<Route>| {
            let expected = |own| if own == Route::Send(1) { Route::Wait(1) } else { own };
            assert_eq!(routes, whole.iter().map(|r| expected(*r)).collect::<Vec<_>>());
        };
        waits(routes(&pool));
        assert_eq!(pool.topology.budget_due, None, "nothing but the cleaning moves it");
        told(pool.news("n1", News::NotCleaned));
        assert_eq!(routes(&pool), without);
        pool.time = pool.topology.budget_due.expect("it is tried again");
        told(pool.budget());
        waits(routes(&pool));
        assert_eq!(cleaned(&mut pool, LEVELS), ["cleaned n1", "restored n1"]);
        assert_eq!(routes(&pool), whole);
    }

    /// With both, each step is cleaned before it is taken; one that was emptied needs it only once.
    #[test]
    fn steps_are_cleaned() {
        let mut pool = pool(OnReturn::Quarantine, Duration::from_secs(16));
        pool.eject("n1");
        pool.restore_with("n1", Data::Same);
        let step = LEVELS / 16;
        let at = |pool: &Planned| pool.entry("n1").placement;
        assert_eq!(at(&pool), Placement::Starting(Admission { admitted: 0, fence: step }));
        // Time passes, and what is being cleaned stays what it is.
        pool.time += Duration::from_secs(5);
        assert!(pool.budget().is_none());
        cleaned(&mut pool, step);
        assert_eq!(at(&pool), Placement::Starting(Admission { admitted: step, fence: 6 * step }));
        cleaned(&mut pool, LEVELS);
        assert_eq!(at(&pool), Placement::Starting(Admission { admitted: 6 * step, fence: 6 * step }));
        pool.time += Duration::from_secs(16);
        assert_eq!(told(pool.budget()), ["restored n1"]);
    }

    /// A node that fails again while it starts is away at once, and starts anew.
    #[test]
    fn it_fails_again() {
        let mut pool = pool(OnReturn::Quarantine, Duration::from_secs(16));
        pool.eject("n1");
        let without = routes(&pool);
        pool.restore_with("n1", Data::Same);
        cleaned(&mut pool, LEVELS / 16);
        assert_eq!(told(pool.eject("n1")), ["ejected n1"]);
        assert_eq!(routes(&pool), without);
        pool.restore_with("n1", Data::Same);
        let again = Admission { admitted: 0, fence: LEVELS / 16 };
        assert_eq!(pool.entry("n1").placement, Placement::Starting(again));
    }

    /// Keys whose prefix says so are refused or found missing while their node is away, the longest
    /// prefix decides, and they are back with the first step: nobody else has them.
    #[test]
    fn prefixes_decide() {
        let mut pool = pool(OnReturn::Serve, Duration::from_secs(16));
        let prefix = |text: &str, on_ejected| PrefixPolicy { prefix: text.as_bytes().into(), on_ejected };
        let mut policy = (*pool.topology.policy).clone();
        policy.prefixes = vec![
            prefix("s:", OnEjected::Fail),
            prefix("s:page:", OnEjected::Miss),
            prefix("s:page:x", OnEjected::Rehash),
        ];
        pool.topology.policy = Arc::new(policy);
        let route = |pool: &Planned, kind: &str| {
            let ring = &pool.topology.ring;
            let key = (0..).map(|i| format!("{kind}{i}")).find(|k| ring.first(ring.hash(k.as_bytes())) == 1);
            let key = key.expect("some key is its own");
            pool.topology.route(ring.hash(key.as_bytes()), key.as_bytes())
        };
        pool.eject("n1");
        assert_eq!(route(&pool, "s:"), Route::Fail(1));
        assert_eq!(route(&pool, "s:page:"), Route::Miss(1));
        for kind in ["t:", "s:page:x"] {
            assert!(matches!(route(&pool, kind), Route::Send(other) if other != 1), "{kind}");
        }
        pool.restore_with("n1", Data::Empty);
        assert_eq!((route(&pool, "s:"), route(&pool, "s:page:")), (Route::Send(1), Route::Send(1)));
    }

    /// The end of a start that an operator began is told as any other epoch is.
    #[test]
    fn a_start_by_hand_is_told_to_its_end() {
        let mut pool = pool(OnReturn::Quarantine, Duration::ZERO);
        pool.order("n1", Some(Order::Drain)).expect("others own");
        let told = pool.order("n1", None).expect("it may come back");
        assert_eq!(told, ["ordered n1: none", "starts n1"]);
        assert_eq!(cleaned(&mut pool, LEVELS), ["cleaned n1", "admits n1: 65536 to 65536"]);
        assert!(pool.ledger.is_empty());
    }

    /// A reload that has keys stay, or move, is an epoch while a node starts: others have some of its keys.
    #[test]
    fn a_reload_amid_a_start() {
        let mut pool = pool(OnReturn::Serve, Duration::from_secs(16));
        let mut spec: PoolSpec = spec(&[1, 1, 1, 1], 0.5);
        let prefix = PrefixPolicy { prefix: b"s:".as_slice().into(), on_ejected: OnEjected::Rehash };
        let policy = Policy { prefixes: vec![prefix], ..(*pool.topology.policy).clone() };
        pool.topology.policy = Arc::new(policy.clone());
        pool.eject("n1");
        pool.restore_with("n1", Data::Empty);
        let (before, epoch) = (routes(&pool), pool.topology.epoch);
        spec.policy = Arc::new(Policy { on_ejected: OnEjected::Fail, ..policy });
        assert_eq!(told(pool.reload(spec)), ["reloaded"]);
        assert_ne!(routes(&pool), before);
        assert_eq!(pool.topology.epoch, epoch + 1);
    }

    /// Nodes that start have only some of their keys, so when all others leave they have them all.
    #[test]
    fn somebody_has_each_key() {
        let mut pool = pool(OnReturn::Serve, Duration::from_secs(16));
        for name in ["n0", "n1"] {
            pool.eject(name);
        }
        for name in ["n0", "n1"] {
            pool.restore_with(name, Data::Empty);
        }
        pool.eject("n2");
        pool.eject("n3");
        assert!(!routes(&pool).contains(&Route::NoOwner));
    }
}

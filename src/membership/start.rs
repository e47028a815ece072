//! HOW A NODE TAKES ITS KEYS BACK: in steps over `slow_start`, each step cleaned first where the pool does
//! not serve old data. While a step is cleaned its keys wait: nobody serves them, so that no write can
//! slip in between. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::topology::{Admission, LEVELS, Placement, Policy};

/// Steps in which a node takes its share over `slow_start`. Each is at least one epoch.
const STEPS: u32 = 16;

/// Until a node that could not be cleaned is cleaned again.
const AGAIN: Duration = Duration::from_secs(1);

/// The start of a node that is back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    since: Instant,
    /// Its keys below this level are clean.
    clean: u32,
    /// It is not cleaned before this.
    after: Option<Instant>,
}

impl Start {
    /// A node starts now; whether it has to be cleaned.
    pub(super) fn new(since: Instant, is_clean: bool) -> Start {
        Start { since, clean: if is_clean { LEVELS } else { 0 }, after: None }
    }

    pub(super) fn cleaned(&mut self, below: u32) {
        self.clean = self.clean.max(below);
    }

    pub(super) fn not_cleaned(&mut self, time: Instant) {
        self.after = Some(time + AGAIN);
    }

    /// Where a node is that was there before.
    pub(super) fn placement(&self, before: Placement, policy: &Policy, time: Instant) -> Placement {
        let due = self.due(policy, time);
        let admitted = due.min(self.clean);
        if admitted >= LEVELS {
            return Placement::Owns;
        }
        let may_clean = self.after.is_none_or(|after| after <= time);
        let fence = match before {
            // What is being cleaned stays what it is until it is clean.
            Placement::Starting(now) if now.fence > self.clean && may_clean => now.fence,
            _ if due > self.clean && may_clean => due,
            _ => admitted,
        };
        Placement::Starting(Admission { admitted, fence })
    }

    /// How much it may have by the time.
    fn due(&self, policy: &Policy, time: Instant) -> u32 {
        LEVELS / STEPS * self.steps(policy, time)
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
        if admission.is_fenced() {
            return None;
        }
        let again = self.after.filter(|after| *after > time);
        let steps = self.steps(policy, time);
        let step = (steps < STEPS).then(|| {
            // A hair later, or rounding has it look a moment too soon and find nothing to do.
            let part = f64::from(steps) / f64::from(STEPS);
            self.since + policy.slow_start.mul_f64(part) + Duration::from_millis(1)
        });
        again.into_iter().chain(step).min()
    }
}

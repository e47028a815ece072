//! The process itself: whether it has descriptors and memory, and gets to run.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    super::{
        memory::{Buffers, Room},
        withhold::Fault,
    },
    Scene, WINDOW, before,
};
use crate::{metrics::Process, net::Reserve};

/// How often the process is looked after.
const PAUSE: Duration = Duration::from_secs(1);

/// For whom this process has descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Descriptors {
    Some,
    NoneForClients,
    None,
}

impl Scene {
    /// Looks after the process itself for ever: whether it has descriptors and memory, and gets to run.
    pub async fn look_after_process(self, buffers: impl Fn() -> Buffers, reserve: Arc<Reserve>) {
        let (mut room, mut refused) = (Room::default(), 0);
        let limit = Process::read().max_fds;
        let mut ticks = interval(PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let before = std::mem::replace(&mut refused, reserve.refused());
            let descriptors = if !Process::has_a_descriptor() {
                Descriptors::None
            } else if refused > before {
                Descriptors::NoneForClients
            } else {
                Descriptors::Some
            };
            self.process(now, descriptors, limit);
            self.short(Fault::Memory, now, room.look(now, buffers(), Process::memory()));
        }
    }

    /// What was found out about the process.
    fn process(&self, now: Instant, descriptors: Descriptors, limit: Option<u64>) {
        let (_, stalled) = self.lag.since(before(now, WINDOW / 2));
        let mut seen = self.seen();
        seen.no_descriptors = descriptors == Descriptors::None;
        let wrong = match descriptors {
            Descriptors::Some => None,
            Descriptors::None => Some("no descriptor can be opened"),
            Descriptors::NoneForClients => {
                Some("clients are refused: what is left is for nodes, probes and the admin port")
            }
        };
        if let Some(wrong) = wrong {
            let limit =
                limit.map_or_else(String::new, |limit| format!(", the limit of open files is {limit}"));
            seen.trouble(Fault::Descriptors, now, vec![format!("{wrong}{limit}")]);
        } else {
            seen.troubles.remove(&Fault::Descriptors);
        }
        if stalled >= WINDOW / 4 {
            let sign = format!("this process did not run for {} ms of the last 5 s", stalled.as_millis());
            seen.trouble(Fault::Starved, now, vec![sign]);
        } else if stalled <= WINDOW / 10 && !seen.withheld.values().any(|fault| *fault == Fault::Starved) {
            seen.troubles.remove(&Fault::Starved);
        }
    }

    /// Something is short for these reasons; for none, it is not.
    pub(super) fn short(&self, fault: Fault, now: Instant, wrong: Vec<String>) {
        let mut seen = self.seen();
        if wrong.is_empty() {
            seen.troubles.remove(&fault);
        } else {
            seen.trouble(fault, now, wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process without descriptors, or that does not get to run, is in trouble until it is not.
    #[tokio::test(start_paused = true)]
    async fn the_process_is_looked_after() {
        let scene = crate::health::scene::tests::scene(1);
        let is_short = || scene.sight(Instant::now(), &"cache".into(), &"n1".into()).own.no_descriptors;
        for (descriptors, evidence) in [
            (Descriptors::None, "no descriptor can be opened, the limit of open files is 64"),
            (
                Descriptors::NoneForClients,
                "clients are refused: what is left is for nodes, probes and the admin port, the limit of open files is 64",
            ),
        ] {
            scene.process(Instant::now(), Descriptors::Some, Some(64));
            scene.process(Instant::now(), descriptors, Some(64));
            let troubles = scene.troubles(Instant::now());
            assert_eq!(troubles[0].evidence, [evidence]);
            assert_eq!(is_short(), descriptors == Descriptors::None);
        }
        scene.process(Instant::now(), Descriptors::Some, Some(64));
        assert_eq!(scene.troubles(Instant::now()), []);
    }
}

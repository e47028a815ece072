//! What happened in all worlds together: proof that there was something to judge.

use std::{fmt, time::Duration};

use ringway::{
    membership::{Event, What},
    topology::{Health, Topology},
};

macro_rules! stats {
    ($($name:ident)*) => {
        /// Counts over worlds.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Stats {
            $(pub(crate) $name: u64,)*
            /// The longest time from the end of all faults until all was well.
            pub(crate) slowest: Duration,
        }

        impl Stats {
            pub(crate) fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
                self.slowest = self.slowest.max(other.slowest);
            }

            /// What never happened.
            pub(crate) fn never(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name)),*].into_iter().filter(|s| s.1 == 0).map(|s| s.0).collect()
            }
        }

        impl fmt::Display for Stats {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $(write!(f, "{} {}, ", self.$name, stringify!($name))?;)*
                write!(f, "slowest recovery {:?}", self.slowest)
            }
        }
    };
}

stats! {
    worlds nodes events virtual_ms probes writes turns
    suspects clears verdicts_eject relapses flaps diagnoses
    epochs ejected held released waits kept readmitted starts admits cleaned restored recovered
    hits deleted emptied stripped swept gutter_writes followed
    orders orders_refused reloads reloads_refused
}

impl Stats {
    /// What is thought of a node's health, and was before.
    pub(crate) fn judged(&mut self, before: Health, after: Health, is_flapping: bool) {
        match (before, after) {
            (Health::Healthy, Health::Suspect) => self.suspects += 1,
            (Health::Suspect, Health::Healthy) => self.clears += 1,
            (Health::Healthy | Health::Suspect, Health::Ejected) => {
                self.verdicts_eject += 1;
                self.flaps += u64::from(is_flapping);
            }
            (Health::Probation, Health::Ejected) => self.relapses += 1,
            _ => {}
        }
    }

    pub(crate) fn published(&mut self, _before: &Topology, _after: &Topology, events: &[Event]) {
        for event in events {
            match event.what {
                What::Ejected(_) => self.ejected += 1,
                What::Held(_) => self.held += 1,
                What::Released(_) => self.released += 1,
                What::Waits(..) => self.waits += 1,
                What::Kept(_) => self.kept += 1,
                What::Readmitted(_) => self.readmitted += 1,
                What::Starts(_) => self.starts += 1,
                What::Admits(_) => self.admits += 1,
                What::Cleaned { .. } => self.cleaned += 1,
                What::Restored(_) => self.restored += 1,
                What::Recovered => self.recovered += 1,
                _ => {}
            }
        }
    }

    pub(crate) fn recovery(&mut self, after: Duration) {
        self.slowest = self.slowest.max(after);
    }
}

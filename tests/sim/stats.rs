//! What happened in all worlds together: proof that there was something to judge.

use std::{fmt, time::Duration};

use ringway::{health::Verdict, membership::Event, topology::Topology};

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
    orders orders_refused reloads reloads_refused
}

impl Stats {
    pub(crate) fn verdict(&mut self, verdict: &Verdict, is_flapping: bool) {
        match verdict {
            Verdict::Suspect => self.suspects += 1,
            Verdict::Clear => self.clears += 1,
            Verdict::Eject { .. } => {
                self.verdicts_eject += 1;
                self.flaps += u64::from(is_flapping);
            }
            Verdict::Relapse => self.relapses += 1,
            Verdict::Probation | Verdict::Restore { .. } | Verdict::Misconfigured(_) | Verdict::Slow(_) => {}
        }
    }

    pub(crate) fn published(&mut self, _before: &Topology, _after: &Topology, events: &[Event]) {
        for event in events {
            match event {
                Event::Ejected { .. } => self.ejected += 1,
                Event::Held { .. } => self.held += 1,
                Event::Released { .. } => self.released += 1,
                Event::Waits { .. } => self.waits += 1,
                Event::Kept { .. } => self.kept += 1,
                Event::Readmitted { .. } => self.readmitted += 1,
                Event::Starts { .. } => self.starts += 1,
                Event::Admits { .. } => self.admits += 1,
                Event::Cleaned { .. } => self.cleaned += 1,
                Event::Restored { .. } => self.restored += 1,
                Event::Recovered { .. } => self.recovered += 1,
                _ => {}
            }
        }
    }

    pub(crate) fn recovery(&mut self, after: Duration) {
        self.slowest = self.slowest.max(after);
    }
}

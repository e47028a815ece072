//! What is done to one of the nodes, and when.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use clap::ValueEnum;

use crate::nodes::Nodes;

/// How long a killed node stays away, and a slow one slow.
const AWAY: Duration = Duration::from_secs(5);
/// How long a stopped node hangs.
const HANGS: Duration = Duration::from_secs(10);
/// A flapping node is dead for so long and alive for so long.
const FLAP: Duration = Duration::from_secs(1);
const FLAPS: usize = 5;
/// What a slow node takes longer to answer.
pub(crate) const DELAY: Duration = Duration::from_millis(50);

/// What happens to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Fault {
    Kill,
    Hang,
    Restart,
    Flap,
    Slow,
}

/// When it happened.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    /// The fault.
    pub(crate) fault: Instant,
    /// The end of it: from now on the node can answer as before.
    pub(crate) back: Instant,
}

impl Fault {
    pub(crate) const ALL: [Fault; 5] = [Fault::Kill, Fault::Hang, Fault::Restart, Fault::Flap, Fault::Slow];

    /// Its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::Hang => "hang",
            Fault::Restart => "restart",
            Fault::Flap => "flap",
            Fault::Slow => "slow",
        }
    }

    /// Its table's title.
    pub(crate) fn title(self) -> String {
        match self {
            Fault::Kill => format!("`kill -9`, started again without data after {AWAY:?}"),
            Fault::Hang => format!("`SIGSTOP`, `SIGCONT` after {HANGS:?}"),
            Fault::Restart => "`kill -9`, started again at once, without data".to_owned(),
            Fault::Flap => {
                format!("dead for {FLAP:?} and alive for {FLAP:?}, {FLAPS} times, without data each time")
            }
            Fault::Slow => format!("every reply {DELAY:?} later, for {AWAY:?}"),
        }
    }

    /// How long the return is watched.
    pub(crate) fn after(self) -> Duration {
        Duration::from_secs(if self == Fault::Slow { 3 } else { 8 })
    }

    /// Does it.
    pub(crate) fn happen(self, nodes: &mut Nodes) -> Moments {
        let fault = Instant::now();
        match self {
            Fault::Kill => {
                nodes.victim().kill();
                sleep(AWAY);
                nodes.victim().restart_empty();
            }
            Fault::Hang => {
                nodes.victim().stop();
                sleep(HANGS);
                let back = Instant::now();
                nodes.victim().cont();
                return Moments { fault, back };
            }
            Fault::Restart => {
                nodes.victim().kill();
                nodes.victim().restart_empty();
            }
            Fault::Flap => {
                for flap in 1..=FLAPS {
                    nodes.victim().kill();
                    sleep(FLAP);
                    nodes.victim().restart_empty();
                    if flap < FLAPS {
                        sleep(FLAP);
                    }
                }
            }
            Fault::Slow => {
                nodes.delay(DELAY);
                sleep(AWAY);
                nodes.delay(Duration::ZERO);
            }
        }
        Moments { fault, back: Instant::now() }
    }
}

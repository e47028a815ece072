//! A load generator for Redis, memcached and HTTP: many connections on one thread, in a closed loop or at a
//! fixed rate, with every reply held against what its keys must hold. A wrong, missing or late reply ends the
//! run. At a fixed rate a latency counts from the moment at which the request was meant to be sent,
//! so a stall is seen by every request that it delays (no coordinated omission).

mod drive;
mod session;
mod wire;
mod work;

use std::{error::Error, net::SocketAddr, thread, time::Duration};

use hdrhistogram::Histogram;
use rustix::thread::{CpuSet, sched_setaffinity};

#[allow(unused_imports, reason = "not every bench has more than Redis")]
pub(crate) use wire::Wire;
pub(crate) use work::{Ask, Work};

/// Why a run ended early: a sentence for people.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// One run.
pub(crate) struct Plan<'a> {
    /// Where the connections go.
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) work: &'a Work,
    pub(crate) pace: Pace,
    pub(crate) length: Length,
    /// The cores that the generator's thread may use; none: any.
    pub(crate) cores: &'a [usize],
}

/// When requests are sent.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends `depth` requests at once, and the next ones when all of these have
    /// their replies.
    Closed { depth: usize },
    /// One on each connection in turn, as soon as fewer than `in_flight` wait for their replies.
    InTurn { in_flight: u64 },
    /// At even intervals, over the connections in turn, whether earlier ones have replies or not.
    Open { per_second: f64 },
}

/// How long a run lasts.
#[derive(Clone, Copy)]
pub(crate) enum Length {
    /// A warm-up that does not count, then what does.
    Time { warm_up: Duration, measured: Duration },
    /// So many requests, all of which count.
    Requests(u64),
}

/// The two ends of what counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    Begin,
    End,
}

/// What a run saw.
pub(crate) struct Report {
    /// Requests whose replies came between the two edges.
    pub(crate) requests: u64,
    /// Requests of the whole run, its warm-up among them.
    pub(crate) all_requests: u64,
    /// From edge to edge.
    pub(crate) elapsed: Duration,
    /// Nanoseconds. At a fixed rate: of the requests that were meant to be sent between the edges.
    pub(crate) latency: Histogram<u64>,
}

impl Report {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds within which this share of the requests had their replies.
    pub(crate) fn latency_us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Runs a plan to its end on a thread of its own; `at_edge` is called there, at each of the two
/// edges.
///
/// # Errors
/// A connection that fails, a reply that is not exactly the one that was due, or none in time.
pub(crate) fn run(plan: &Plan<'_>, at_edge: &mut (dyn FnMut(Edge) + Send)) -> Result<Report, Failure> {
    let work = || {
        pin(plan.cores)?;
        drive::Drive::start(plan)?.run(at_edge)
    };
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(outcome) => outcome,
        Err(_) => Err("the load generator panicked".into()),
    })
}

fn pin(cores: &[usize]) -> Result<(), Failure> {
    if !cores.is_empty() {
        let mut set = CpuSet::new();
        cores.iter().for_each(|&core| set.set(core));
        sched_setaffinity(None, &set)?;
    }
    Ok(())
}

//! The measurements, in turn: round by round each row with each peer, so that what the machine does
//! meanwhile meets all of them alike.

use std::{path::PathBuf, time::Duration};

use crate::{
    fleet::{Fleet, Place, Server},
    load::{self, Edge, Failure, Length, Pace, Plan, Wire, Work},
    meter::{Cpu, SystemCalls, rss_kib},
    options::Options,
    peers::Peer,
    rows::{Row, Size, rows},
};

/// Requests a second at a relative rate, where twemproxy is absent.
const HALF_WITHOUT_TWEMPROXY: f64 = 20_000.0;
/// Of a measurement's seconds, what it runs before they begin.
const WARM_UP_SHARE: f64 = 0.2;

/// What was measured once.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Microseconds of CPU time for a request, user and system.
    pub(crate) cpu_us: f64,
    /// Those in user space.
    pub(crate) user_us: f64,
    pub(crate) per_second: f64,
    /// Microseconds at the 50th, 99th and 99.9th percentile.
    pub(crate) latency_us: [f64; 3],
    pub(crate) rss_kib: f64,
}

/// What was measured, by row and peer.
pub(crate) struct Results {
    pub(crate) peers: Vec<Peer>,
    pub(crate) rows: Vec<Cells>,
    /// Half of twemproxy's maximum, requests a second.
    pub(crate) half: f64,
}

/// A row's results, a cell for each peer.
pub(crate) struct Cells {
    pub(crate) row: &'static Row,
    /// By peer, then by round.
    pub(crate) samples: Vec<Vec<Sample>>,
    /// System calls per request, by peer.
    pub(crate) calls: Vec<Option<f64>>,
}

/// Measures all rows that are asked for with all peers that are there.
pub(crate) fn run(
    fleet: &Fleet,
    options: &Options,
    programs: &[(Peer, PathBuf)],
) -> Result<Results, Failure> {
    let rows: Vec<&'static Row> =
        rows(fleet.wire).iter().filter(|row| Options::wants(&options.row, row.name)).collect();
    let peers: Vec<Peer> = programs.iter().map(|program| program.0).collect();
    let cells = |&row: &&'static Row| Cells {
        row,
        samples: vec![Vec::new(); peers.len()],
        calls: vec![None; peers.len()],
    };
    let mut results = Results { rows: rows.iter().map(cells).collect(), peers, half: HALF_WITHOUT_TWEMPROXY };
    if rows.is_empty() {
        return Ok(results);
    }
    let mut servers = Vec::new();
    for (peer, program) in programs {
        let server = peer.start(program, fleet, 1, Place::Measured)?;
        for size in Size::of(&rows).into_iter().filter(|_| fleet.wire != Wire::Http) {
            fill(fleet, &server, &size.work(*peer, fleet.wire), size.fill_depth)
                .map_err(|e| said(*peer, "filling", &e))?;
        }
        servers.push(server);
    }
    let turns = Turns { fleet, options, servers: &servers };
    if rows.iter().any(|row| row.is_relative()) {
        turns.find_half(&mut results)?;
    }
    for round in 0..options.rounds as usize {
        turns.round(round, &mut results)?;
    }
    turns.count_calls(&mut results)?;
    Ok(results)
}

struct Turns<'a> {
    fleet: &'a Fleet,
    options: &'a Options,
    servers: &'a [Server],
}

impl Turns<'_> {
    /// Each row with each peer once. Who begins changes with row and round.
    fn round(&self, round: usize, results: &mut Results) -> Result<(), Failure> {
        let count = self.servers.len();
        for (r, cells) in results.rows.iter_mut().enumerate() {
            for turn in 0..count {
                let i = (round + r + turn) % count;
                let peer = results.peers[i];
                let pace = cells.row.pace(results.half);
                let sample =
                    measure(self.fleet, &self.servers[i], peer, cells.row, pace, self.options.seconds)?;
                let (title, name) = (cells.row.title(results.half), peer.name());
                eprintln!(
                    "round {}: {name:19} {title}: {:.2} µs, {:.0}/s",
                    round + 1,
                    sample.cpu_us,
                    sample.per_second
                );
                cells.samples[i].push(sample);
            }
        }
        Ok(())
    }

    /// Half of what twemproxy carries in the first row.
    fn find_half(&self, results: &mut Results) -> Result<(), Failure> {
        if let Some(i) = results.peers.iter().position(|&peer| peer == Peer::Twemproxy) {
            let first = &rows(self.fleet.wire)[0];
            let (pace, seconds) = (first.pace(0.0), self.options.seconds);
            let sample = measure(self.fleet, &self.servers[i], Peer::Twemproxy, first, pace, seconds)?;
            results.half = (sample.per_second / 2.0 / 100.0).round() * 100.0;
        }
        Ok(())
    }

    /// Runs of their own, because counting costs time.
    fn count_calls(&self, results: &mut Results) -> Result<(), Failure> {
        for cells in results.rows.iter_mut().filter(|cells| cells.row.counts_calls) {
            for (i, server) in self.servers.iter().enumerate() {
                let Some(counter) = SystemCalls::count(server.pid()) else { continue };
                let work = cells.row.work(results.peers[i], self.fleet.wire);
                let length =
                    Length::Time { warm_up: Duration::ZERO, measured: seconds(self.options.seconds / 2.0) };
                let pace = cells.row.pace(results.half);
                let plan = plan(self.fleet, server, &work, cells.row.connections, pace, length);
                let report =
                    load::run(&plan, &mut |_| {}).map_err(|e| said(results.peers[i], cells.row.name, &e))?;
                cells.calls[i] = counter.end().map(|calls| calls / report.all_requests as f64);
            }
        }
        Ok(())
    }
}

fn seconds(n: f64) -> Duration {
    Duration::from_secs_f64(n)
}

pub(crate) fn plan<'a>(
    fleet: &'a Fleet,
    server: &Server,
    work: &'a Work,
    connections: usize,
    pace: Pace,
    length: Length,
) -> Plan<'a> {
    Plan { address: server.address, connections, work, pace, length, cores: &fleet.cores.others }
}

/// Writes all keys of a size through a proxy.
pub(crate) fn fill(fleet: &Fleet, server: &Server, work: &Work, depth: usize) -> Result<(), Failure> {
    let pace = Pace::Closed { depth };
    load::run(&plan(fleet, server, work, 4, pace, Length::Requests(work.keys())), &mut |_| {})?;
    Ok(())
}

/// One measurement.
pub(crate) fn measure(
    fleet: &Fleet,
    server: &Server,
    peer: Peer,
    row: &Row,
    pace: Pace,
    measured: f64,
) -> Result<Sample, Failure> {
    let work = row.work(peer, fleet.wire);
    let length = Length::Time { warm_up: seconds(measured * WARM_UP_SHARE), measured: seconds(measured) };
    let plan = plan(fleet, server, &work, row.connections, pace, length);
    let (mut readings, mut rss) = (Vec::new(), Ok(0.0));
    let report = load::run(&plan, &mut |edge| {
        readings.push(Cpu::read(server.pid()));
        if edge == Edge::End {
            rss = rss_kib(server.pid());
        }
    })
    .map_err(|e| said(peer, row.name, &e))?;
    let (Some(Ok(end)), Some(Ok(begin))) = (readings.pop(), readings.pop()) else {
        return Err(format!("{}: its CPU time can not be read", peer.name()).into());
    };
    let (all, user) = end.since(&begin);
    let requests = report.requests.max(1) as f64;
    Ok(Sample {
        cpu_us: all / requests,
        user_us: user / requests,
        per_second: report.per_second(),
        latency_us: [0.5, 0.99, 0.999].map(|quantile| report.latency_us(quantile)),
        rss_kib: rss?,
    })
}

/// A failure with its place.
pub(crate) fn said(peer: Peer, during: &str, failure: &Failure) -> Failure {
    format!("{}: {during}: {failure}", peer.name()).into()
}

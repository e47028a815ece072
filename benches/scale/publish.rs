//! Topologies published 100 times a second under load, beside the same load without: pairs of runs in
//! turn, each ratio made within its pair. A publish is a real reload: the file is replaced, SIGHUP
//! sent, the text read and planned. In the runs without, the file is replaced just the same.

use std::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    fill,
    fleet::{Fleet, Place},
    load::{self, Failure, Length, Pace, Plan, Report},
    meter::Cpu,
    mixed,
    options::Options,
    subject::{Ports, Subject, pool},
    table::{markdown, median, spread},
};

const KEYS: u64 = 10_000;
const CONNECTIONS: usize = 50;
const EVERY: Duration = Duration::from_millis(10);
const WARM_UP: Duration = Duration::from_millis(500);

/// What a publish changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The pool's policy: a revision, no key moves.
    Policy,
    /// The weight of a node: an epoch, a few keys move and the node's connection is made anew.
    Weight,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Kind::Policy => "the policy (a revision, no key moves)",
            Kind::Weight => "a node's weight (an epoch, 2 % of the keys move)",
        }
    }

    /// The configuration in its two forms.
    fn text(self, fleet: &Fleet, ports: Ports, is_second: bool) -> String {
        let deadline = if is_second && self == Kind::Policy { "20001ms" } else { "20s" };
        let weight = |i: usize| if i == 0 && is_second && self == Kind::Weight { 9 } else { 8 };
        let nodes = fleet.nodes.iter().enumerate();
        let nodes = nodes.map(|(i, a)| format!("name: n{i}, address: '{a}', weight: {}", weight(i)));
        ports.head(1) + &pool("scale", &format!("127.0.0.1:{}", ports.pool), deadline, nodes)
    }
}

/// One run.
struct Sample {
    latency_us: [f64; 3],
    cpu_us: f64,
    worker_us: f64,
    /// Epochs and revisions a second.
    rates: [f64; 2],
}

/// What is held against what: a name, and how it is read.
type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 5] = [
    ("p50, ms", |s| s.latency_us[0] / 1000.0),
    ("p99, ms", |s| s.latency_us[1] / 1000.0),
    ("p99.9, ms", |s| s.latency_us[2] / 1000.0),
    ("CPU of the worker per request, µs", |s| s.worker_us),
    ("CPU of all threads per request, µs", |s| s.cpu_us),
];

pub(crate) fn run(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    fill(fleet, &fleet.nodes, KEYS)?;
    let mut text = String::new();
    for kind in [Kind::Policy, Kind::Weight] {
        let ports = Ports::free()?;
        let first = kind.text(fleet, ports, false);
        let subject = Subject::start(fleet, &options.ringway, ports, &first, Place::Measured)?;
        let second = kind.text(fleet, ports, true);
        let texts = [first, second];
        let mut samples = [Vec::new(), Vec::new()];
        for pair in 0..options.pairs as usize {
            for turn in 0..2 {
                let with = (pair + turn) % 2 == 1;
                let sample = sample(fleet, options, &subject, &texts, with)?;
                eprintln!(
                    "pair {}: {}publishes of {}: p99.9 {:.2} ms, {:.2} µs, {:.1} revisions/s",
                    pair + 1,
                    if with { "" } else { "no " },
                    kind.title(),
                    sample.latency_us[2] / 1000.0,
                    sample.cpu_us,
                    sample.rates[1]
                );
                samples[usize::from(with)].push(sample);
            }
        }
        table(&mut text, kind, options, &samples);
    }
    Ok(text)
}

fn table(text: &mut String, kind: Kind, options: &Options, [without, with]: &[Vec<Sample>; 2]) {
    let row = |(name, figure): &Figure| {
        let middle = |all: &[Sample]| format!("{:.2}", median(all.iter().map(figure).collect()));
        let ratios = without.iter().zip(with).map(|(without, with)| figure(with) / figure(without));
        vec![(*name).to_owned(), middle(without), middle(with), spread(ratios.collect())]
    };
    let rows: Vec<Vec<String>> = FIGURES.iter().map(row).collect();
    let title = format!(
        "Publishes that change {}; {:.0} requests a second on {CONNECTIONS} connections, {} pairs",
        kind.title(),
        options.rate,
        options.pairs
    );
    markdown(text, &title, "figure", &["without", "with", "with / without (least to most)"], &rows);
    let rate = |n: usize| median(with.iter().map(|sample| sample.rates[n]).collect());
    let _ = writeln!(text, "\nAchieved: {:.1} revisions and {:.1} epochs a second.", rate(1), rate(0));
}

/// One run, with or without publishes.
fn sample(
    fleet: &Fleet,
    options: &Options,
    subject: &Subject,
    texts: &[String; 2],
    with: bool,
) -> Result<Sample, Failure> {
    let work = mixed(KEYS);
    let plan = Plan {
        address: subject.server.address,
        connections: CONNECTIONS,
        work: &work,
        pace: Pace::Open { per_second: options.rate },
        length: Length::Time { warm_up: WARM_UP, measured: Duration::from_secs_f64(options.seconds) },
        cores: &fleet.cores.others,
    };
    let before = subject.epoch()?;
    let start = Instant::now();
    let over = AtomicBool::new(false);
    let mut readings = Vec::new();
    let (report, published) = thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(subject, texts, with, &over));
        let report = load::run(&plan, &mut |_| readings.push(reading(subject)));
        over.store(true, Relaxed);
        (report, publishing.join())
    });
    let report: Report = report?;
    published.map_err(|_| "the publisher panicked")??;
    let elapsed = start.elapsed().as_secs_f64();
    let after = subject.epoch()?;
    let (Some(Ok((end, worker_end))), Some(Ok((begin, worker_begin)))) = (readings.pop(), readings.pop())
    else {
        return Err("its CPU time can not be read".into());
    };
    let requests = report.requests.max(1) as f64;
    Ok(Sample {
        latency_us: [0.5, 0.99, 0.999].map(|quantile| report.latency_us(quantile)),
        cpu_us: end.since(&begin).0 / requests,
        worker_us: (worker_end - worker_begin) / requests,
        rates: [0, 1].map(|n| (after[n] - before[n]) as f64 / elapsed),
    })
}

/// CPU time of all threads, and microseconds of the worker's.
fn reading(subject: &Subject) -> Result<(Cpu, f64), Failure> {
    Ok((Cpu::read(subject.pid())?, subject.workers_us()?))
}

/// Replaces the file at even intervals, and says so if publishes are wanted.
fn publish(subject: &Subject, texts: &[String; 2], with: bool, over: &AtomicBool) -> Result<(), Failure> {
    let mut due = Instant::now();
    let mut turn = 0;
    while !over.load(Relaxed) {
        turn += 1;
        subject.write_config(&texts[turn % 2])?;
        if with {
            subject.hang_up()?;
        }
        due += EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

//! As many connections as the limit of descriptors leaves: what one costs ringway and the kernel, how
//! fast they come, and on paper what 100,000 would take.

use std::{
    fmt::Write,
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::{
    fill,
    fleet::{Fleet, Place},
    keys_of,
    load::{self, Ask, Edge, Failure, Length, Pace, Plan},
    meter::Cpu,
    options::Options,
    subject::{Ports, Subject, ask, pool},
    table::markdown,
};

/// Descriptors that ringway and the generator need for other things than clients.
const DESCRIPTORS_KEPT: u64 = 300;
/// Connections whose coming is measured: so few that their client does not look for a free port for
/// longer than the rest takes, as it does when half of its ports are used.
const ACCEPTED: usize = 5000;
const QUICK: usize = 2000;
const CONNECTIONS_MAX: u64 = 100_000;
const KEYS: u64 = 1000;
/// Connections are used one after another rather than all at once, or it would be a burst.
const USED_AT_ONCE: u64 = 16;
const IDLE: Duration = Duration::from_secs(5);
/// What is extrapolated to.
const ON_PAPER: f64 = 100_000.0;

/// What was seen at one moment.
struct Moment {
    rss_kib: f64,
    kernel_kib: f64,
    idle_ms: f64,
    descriptors: usize,
}

impl Moment {
    fn now(subject: &Subject) -> Result<Moment, Failure> {
        Ok(Moment {
            rss_kib: subject.settled_kib()?,
            kernel_kib: kernel_kib()?,
            idle_ms: subject.cpu_ms_per_second(IDLE)?,
            descriptors: subject.descriptors()?,
        })
    }
}

pub(crate) fn run(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    fill(fleet, &fleet.nodes, KEYS)?;
    let ports = Ports::free()?;
    let nodes = fleet.nodes.iter().enumerate();
    let nodes = nodes.map(|(i, address)| format!("name: n{i}, address: '{address}'"));
    let text = ports.head(1) + &pool("scale", &format!("127.0.0.1:{}", ports.pool), "20s", nodes);
    let subject = Subject::start(fleet, &options.ringway, ports, &text, Place::Measured)?;
    let most = fleet.descriptors.saturating_sub(DESCRIPTORS_KEPT).min(CONNECTIONS_MAX) as usize;
    let count = if options.quick { most.min(QUICK) } else { most };
    let work = keys_of(KEYS).ask(Ask::Mixed { sets_percent: 0 });
    let plan = Plan {
        address: subject.server.address,
        connections: count,
        work: &work,
        pace: Pace::InTurn { in_flight: USED_AT_ONCE },
        length: Length::Requests(count as u64),
        cores: &fleet.cores.others,
    };
    let accepted = accept(&subject)?;
    let before = Moment::now(&subject)?;
    let mut moments = Vec::new();
    load::run(&plan, &mut |_: Edge| moments.push(Moment::now(&subject)))?;
    let [open, used] = <[_; 2]>::try_from(moments).map_err(|_| "a run has two edges")?;
    let (open, used) = (open?, used?);
    thread::sleep(Duration::from_secs(2));
    let after = Moment::now(&subject)?;
    Ok(report(count, &[before, open, used, after], accepted))
}

/// Connections that one thread makes in a second, and what each costs ringway: microseconds of CPU.
fn accept(subject: &Subject) -> Result<(f64, f64), Failure> {
    let (before, start) = (Cpu::read(subject.pid())?, Instant::now());
    let clients: Vec<TcpStream> =
        (0..ACCEPTED).map(|_| TcpStream::connect(subject.server.address)).collect::<Result<_, _>>()?;
    let per_second = ACCEPTED as f64 / start.elapsed().as_secs_f64();
    // The last one is served when it is answered.
    ask(subject.server.address, b"GET scale\r\n")?;
    let cost_us = Cpu::read(subject.pid())?.since(&before).0 / ACCEPTED as f64;
    drop(clients);
    thread::sleep(Duration::from_secs(1));
    Ok((per_second, cost_us))
}

/// Memory of the kernel that is not to be had back, and that of TCP's buffers.
fn kernel_kib() -> Result<f64, Failure> {
    let words = |text: &str, line: &str, word: usize| -> Option<f64> {
        let line = text.lines().find(|candidate| candidate.starts_with(line))?;
        line.split_whitespace().nth(word)?.parse().ok()
    };
    let memory = fs::read_to_string("/proc/meminfo")?;
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let slab = words(&memory, "SUnreclaim:", 1).ok_or("the kernel has slabs")?;
    // In pages of 4 KiB, the last word of its line.
    let buffers = words(&sockets, "TCP:", 10).unwrap_or(0.0) * 4.0;
    Ok(slab + buffers)
}

fn report(count: usize, moments: &[Moment; 4], (per_second, accept_us): (f64, f64)) -> String {
    let each = count as f64;
    let mut text = String::new();
    let [before, _, used, _] = moments;
    let row = |name: &str, m: &Moment| {
        vec![
            name.to_owned(),
            format!("{:.1}", m.rss_kib / 1024.0),
            format!("{:.2}", (m.rss_kib - before.rss_kib) / each),
            format!("{:.2}", (m.kernel_kib - before.kernel_kib) / each),
            format!("{:.1}", m.idle_ms),
            m.descriptors.to_string(),
        ]
    };
    let names = ["none yet", "open, idle", "each used for one GET", "all closed again"];
    let rows: Vec<Vec<String>> = names.iter().zip(moments).map(|(name, moment)| row(name, moment)).collect();
    let columns =
        ["RSS, MiB", "KiB each", "kernel, KiB each (both ends)", "CPU when idle, ms/s", "descriptors"];
    markdown(&mut text, &format!("{count} connections, one worker"), "connections", &columns, &rows);
    let _ = writeln!(
        text,
        "\n{ACCEPTED} connections came at {per_second:.0} a second from one thread that makes them one by one; \
         each cost ringway {accept_us:.1} µs of CPU, so a core takes at most {:.0} a second.",
        1e6 / accept_us
    );
    let gib = |kib: f64| kib * ON_PAPER / f64::from(1 << 20);
    let (own, kernel) =
        ((used.rss_kib - before.rss_kib) / each, (used.kernel_kib - before.kernel_kib) / each);
    let _ = writeln!(
        text,
        "\nOn paper, 100,000 connections (each once used, nothing buffered; linear): {:.2} GiB of ringway and \
         {:.2} GiB of kernel for both ends on this machine; {:.0} s of one core to accept; 100,000 \
         descriptors and those to nodes (raise LimitNOFILE; here {:.0} % of it are there), `limits.clients` \
         above its 10,000; one client address has 28,232 ports, so they come from at least {:.0} addresses.",
        gib(own),
        gib(kernel),
        accept_us * ON_PAPER / 1e6,
        each * 100.0 / ON_PAPER,
        (ON_PAPER / 28_232.0).ceil()
    );
    text
}

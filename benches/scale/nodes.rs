//! One pool with ever more nodes: what it costs to hold them, to probe them and to route between
//! them, how soon one that dies is out, and what ends first. The nodes of a pool share a few real
//! redis-servers, which to ringway makes no difference: each node has its own place in the ring, its
//! own probes and its own connections.

use std::{
    fmt::Write,
    io::{BufRead, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use ringway::ring::{Member, Ring, Settings};

use crate::{
    fill,
    fleet::{Fleet, Place, Server, free_ports, redis_arguments},
    keys_of,
    load::{self, Failure, Length, Pace, Plan},
    meter::Cpu,
    mixed,
    options::Options,
    subject::{Ports, Subject, pool},
    table::{markdown, median},
};

/// So few that with 10,000 nodes some have none: each that has one takes a descriptor.
const KEYS: u64 = 5000;
/// Keys that are asked for until descriptors end.
const KEYS_TO_THE_END: usize = 50_000;
/// How long the deaths of many nodes are watched.
const DEATHS_MAX: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(5);
const RUN: Length = Length::Time { warm_up: Duration::from_millis(300), measured: Duration::from_secs(2) };

/// Servers that can be killed: of the last node, and of each fourth one.
struct Mortals {
    one: Server,
    quarter: Server,
}

/// A row of the table.
struct Row {
    nodes: usize,
    cells: Vec<String>,
    notes: String,
}

pub(crate) fn run(fleet: &Fleet, options: &Options, redis: &Path) -> Result<String, Failure> {
    fill(fleet, &fleet.nodes, KEYS)?;
    let mut rows = Vec::new();
    for nodes in [4, 100, 1000, 10_000].into_iter().filter(|&n| n < options.nodes).chain([options.nodes]) {
        let row = row(fleet, options, redis, nodes)?;
        eprintln!("{nodes} nodes: {}", row.cells.join(" | "));
        rows.push(row);
    }
    let columns = [
        "ring build, ms",
        "start, ms",
        "RSS, MiB",
        "CPU when idle, ms/s",
        "descriptors when idle",
        "after each key was used",
        "CPU per request beyond that, µs",
        "at depth 16",
        "/metrics, MiB",
        "its time, ms",
        "reload that moves nothing, ms",
        "one node dies: epoch after, ms",
        "a quarter dies: all out after, s",
    ];
    let mut text = String::new();
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| std::iter::once(row.nodes.to_string()).chain(row.cells.iter().cloned()).collect())
        .collect();
    let title = format!("One pool, one worker, {KEYS} keys of 64 B, 50 connections");
    markdown(&mut text, &title, "nodes", &columns, &table);
    let _ = writeln!(text);
    for row in rows.iter().filter(|row| !row.notes.is_empty()) {
        let _ = writeln!(text, "- {}", row.notes);
    }
    let _ = writeln!(text, "- {}", the_end(fleet, options)?);
    Ok(text)
}

fn row(fleet: &Fleet, options: &Options, redis: &Path, nodes: usize) -> Result<Row, Failure> {
    let mortals = Mortals { one: mortal(fleet, redis)?, quarter: mortal(fleet, redis)? };
    fill(fleet, &[mortals.one.address, mortals.quarter.address], KEYS)?;
    let address = |i: usize| match i {
        i if i + 1 == nodes => mortals.one.address,
        i if i % 4 == 0 => mortals.quarter.address,
        i => fleet.nodes[i % fleet.nodes.len()],
    };
    let ports = Ports::free()?;
    let subject = Subject::start(
        fleet,
        &options.ringway,
        ports,
        &text(ports, 1, nodes, "20s", address),
        Place::Measured,
    )?;
    std::thread::sleep(Duration::from_secs(2));
    let mut cells = vec![build_ms(nodes), ms(subject.started_in)];
    cells.push(format!("{:.1}", subject.settled_kib()? / 1024.0));
    let idle_ms = subject.cpu_ms_per_second(IDLE)?;
    cells.push(format!("{idle_ms:.1}"));
    cells.push(subject.descriptors()?.to_string());
    touch(fleet, &subject)?;
    cells.push(subject.descriptors()?.to_string());
    for depth in [1, 16] {
        cells.push(format!("{:.2}", cpu_us(fleet, &subject, depth, idle_ms)?));
    }
    let (page, took) = subject.page("/metrics")?;
    cells.extend([format!("{:.2}", page.len() as f64 / f64::from(1 << 20)), ms(took)]);
    let start = Instant::now();
    subject.write_config(&text(ports, 1, nodes, "20001ms", address))?;
    subject.hang_up()?;
    cells.push(ms(subject.logged("pool reloaded", 1, start, DEATHS_MAX)?.1));
    let notes = deaths(&subject, mortals, nodes, &mut cells)?;
    Ok(Row { nodes, cells, notes })
}

/// Kills the server of one node, then that of a quarter of them.
fn deaths(
    subject: &Subject,
    mortals: Mortals,
    nodes: usize,
    cells: &mut Vec<String>,
) -> Result<String, Failure> {
    let before = subject.count_logged("node ejected")?;
    let start = Instant::now();
    drop(mortals.one);
    let (count, took) = subject.logged("node ejected", before + 1, start, DEATHS_MAX)?;
    cells.push(if count > before { ms(took) } else { "-".to_owned() });
    let wanted = count + (0..nodes - 1).filter(|i| i % 4 == 0).count();
    let (cpu, start) = (Cpu::read(subject.pid())?, Instant::now());
    drop(mortals.quarter);
    let (out, took) = subject.logged("node ejected", wanted, start, DEATHS_MAX)?;
    let cpu_s = Cpu::read(subject.pid())?.since(&cpu).0 / 1e6;
    cells.push(if out >= wanted { format!("{:.2}", took.as_secs_f64()) } else { "-".to_owned() });
    let (out, wanted) = (out - count, wanted - count);
    Ok(format!(
        "{nodes} nodes, a quarter dies: {out} of {wanted} out after {:.2} s, {cpu_s:.2} s of CPU with what idling takes",
        took.as_secs_f64()
    ))
}

/// One GET for each of many keys by a client of each of two workers: how many are refused, and why.
fn the_end(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    let ports = Ports::free()?;
    let address = |i: usize| fleet.nodes[i % fleet.nodes.len()];
    let nodes = options.nodes;
    let text = text(ports, 2, nodes, "20s", address);
    let subject = Subject::start(fleet, &options.ringway, ports, &text, Place::Measured)?;
    std::thread::sleep(Duration::from_secs(2));
    let clients: Vec<TcpStream> =
        (0..2).map(|_| TcpStream::connect(subject.server.address)).collect::<Result<_, _>>()?;
    let (mut refused, mut first) = (0, String::new());
    for mut client in clients.iter() {
        let mut replies = BufReader::new(client);
        for batch in 0..KEYS_TO_THE_END / 100 {
            let requests: String = (0..100).map(|i| format!("GET end:{}\r\n", batch * 100 + i)).collect();
            client.write_all(requests.as_bytes())?;
            for _ in 0..100 {
                let mut line = String::new();
                replies.read_line(&mut line)?;
                if line.starts_with('-') {
                    refused += 1;
                    if first.is_empty() {
                        first = line.trim_end().to_owned();
                    }
                }
            }
        }
    }
    let descriptors = subject.descriptors()?;
    let why = if first.is_empty() { String::new() } else { format!(", the first with `{first}`") };
    Ok(format!(
        "{nodes} nodes, two workers, {KEYS_TO_THE_END} keys asked for on each, a limit of {} descriptors: \
         {descriptors} are open, {refused} requests were refused{why}",
        fleet.descriptors
    ))
}

fn text(
    ports: Ports,
    workers: usize,
    nodes: usize,
    deadline: &str,
    address: impl Fn(usize) -> SocketAddr,
) -> String {
    let lines = (0..nodes).map(|i| format!("name: cache-{i:05}.example.internal, address: '{}'", address(i)));
    ports.head(workers) + &pool("scale", &format!("127.0.0.1:{}", ports.pool), deadline, lines)
}

fn mortal(fleet: &Fleet, redis: &Path) -> Result<Server, Failure> {
    let port = free_ports(1)?[0];
    fleet.run(redis, &redis_arguments(port), port, Place::Others)
}

fn build_ms(nodes: usize) -> String {
    let members: Vec<Member> = (0..nodes)
        .map(|i| Member { name: format!("cache-{i:05}.example.internal").into(), weight: 1 })
        .collect();
    let build = || {
        let start = Instant::now();
        std::hint::black_box(Ring::build(&Settings::default(), &members));
        start.elapsed().as_secs_f64() * 1000.0
    };
    format!("{:.2}", median((0..5).map(|_| build()).collect()))
}

/// Asks for each key once, so that the connections to their owners are there.
fn touch(fleet: &Fleet, subject: &Subject) -> Result<(), Failure> {
    load::run(
        &Plan {
            address: subject.server.address,
            connections: 4,
            work: &keys_of(KEYS),
            pace: Pace::Closed { depth: 16 },
            length: Length::Requests(KEYS),
            cores: &fleet.cores.others,
        },
        &mut |_| {},
    )?;
    Ok(())
}

/// CPU time of ringway for a request in a closed loop, beyond what it uses when it is idle.
fn cpu_us(fleet: &Fleet, subject: &Subject, depth: usize, idle_ms: f64) -> Result<f64, Failure> {
    let work = mixed(KEYS);
    let mut readings = Vec::new();
    let plan = Plan {
        address: subject.server.address,
        connections: 50,
        work: &work,
        pace: Pace::Closed { depth },
        length: RUN,
        cores: &fleet.cores.others,
    };
    let report = load::run(&plan, &mut |_| readings.push(Cpu::read(subject.pid())))?;
    let (Some(Ok(end)), Some(Ok(begin))) = (readings.pop(), readings.pop()) else {
        return Err("its CPU time can not be read".into());
    };
    let idle_us = idle_ms * 1000.0 * report.elapsed.as_secs_f64();
    Ok((end.since(&begin).0 - idle_us) / report.requests.max(1) as f64)
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1000.0)
}

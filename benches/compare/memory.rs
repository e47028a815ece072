//! What connections cost in memory: while they are idle, when each was used once, and what is left
//! of them after a burst. Each measurement has a process of its own, so that none finds what another
//! one left.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Place, Server},
    load::{self, Ask, Edge, Failure, Length, Pace, Work},
    meter::rss_kib,
    options::Options,
    peers::Peer,
    rows::{FEW, MEDIUM},
    table::{markdown, median},
    turns::{fill, plan, said},
};

const CONNECTIONS_MAX: u64 = 10_000;
/// Descriptors that a program needs for other things than clients.
const DESCRIPTORS_KEPT: u64 = 200;
/// Memory does not vary as time does.
const ROUNDS_MAX: u32 = 2;
/// Connections are used one after another rather than all at once, or it would be a burst.
const USED_AT_ONCE: u64 = 16;
/// Memory has settled when it stays the same for so long; after so much longer that is given up.
const SETTLED: Duration = Duration::from_millis(500);
const SETTLED_MAX: Duration = Duration::from_secs(5);
/// After a burst.
const AFTER_BURST: Duration = Duration::from_secs(60);

/// HAProxy needs two descriptors for a client.
fn connections(fleet: &Fleet) -> u64 {
    (fleet.descriptors / 2).saturating_sub(DESCRIPTORS_KEPT).clamp(1, CONNECTIONS_MAX)
}

/// Memory for each idle and for each once-used connection.
pub(crate) fn idle(
    fleet: &Fleet,
    options: &Options,
    programs: &[(Peer, PathBuf)],
) -> Result<String, Failure> {
    let mut text = String::new();
    if !Options::wants(&options.row, "idle connections") {
        return Ok(text);
    }
    let mut found = vec![Vec::new(); programs.len()];
    for round in 0..options.rounds.min(ROUNDS_MAX) as usize {
        for turn in 0..programs.len() {
            let i = (round + turn) % programs.len();
            let (peer, program) = &programs[i];
            let server = peer.start(program, fleet, 1, Place::Measured)?;
            let per_connection =
                grow(fleet, &server, *peer).map_err(|e| said(*peer, "idle connections", &e))?;
            let [idle, used] = per_connection;
            eprintln!("round {}: {:19} {idle:.2} KiB idle, {used:.2} KiB used", round + 1, peer.name());
            found[i].push(per_connection);
        }
    }
    let row = |name: &str, n: usize| {
        let cell = |all: &Vec<[f64; 2]>| format!("{:.2}", median(all.iter().map(|pair| pair[n]).collect()));
        std::iter::once(name.to_owned()).chain(found.iter().map(cell)).collect()
    };
    let title = format!("Resident memory for each of {} connections, KiB", connections(fleet));
    let columns: Vec<&str> = programs.iter().map(|(peer, _)| peer.name()).collect();
    markdown(&mut text, &title, "connections", &columns, &[row("idle", 0), row("used for one GET", 1)]);
    Ok(text)
}

/// KiB for an idle and for a once-used connection of a new process.
fn grow(fleet: &Fleet, server: &Server, peer: Peer) -> Result<[f64; 2], Failure> {
    let count = connections(fleet);
    fill(fleet, server, &FEW.work(peer, fleet.wire), FEW.fill_depth)?;
    let before = settled(server)?;
    let work = FEW.work(peer, fleet.wire).ask(Ask::Mixed { sets_percent: 0 });
    let [idle, used] = at_edges(fleet, server, &work, Pace::InTurn { in_flight: USED_AT_ONCE })?;
    Ok([idle, used].map(|kib| (kib - before) / count as f64))
}

/// Opens all connections and sends one request on each: KiB before that, and after it.
fn at_edges(fleet: &Fleet, server: &Server, work: &Work, pace: Pace) -> Result<[f64; 2], Failure> {
    let count = connections(fleet);
    let plan = plan(fleet, server, work, count as usize, pace, Length::Requests(count));
    let mut readings = Vec::new();
    load::run(&plan, &mut |_: Edge| readings.push(settled(server)))?;
    let [begin, end] = readings.try_into().map_err(|_| "a run has two edges")?;
    Ok([begin?, end?])
}

/// Resident memory in KiB, when it no longer changes.
fn settled(server: &Server) -> Result<f64, Failure> {
    let start = Instant::now();
    let (mut last, mut since) = (rss_kib(server.pid())?, start);
    while since.elapsed() < SETTLED && start.elapsed() < SETTLED_MAX {
        thread::sleep(Duration::from_millis(20));
        let now = rss_kib(server.pid())?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}

/// What ringway holds before, during and after a burst: each connection gets one value of 64 KiB,
/// all at once, and closes.
pub(crate) fn burst(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    let mut text = String::new();
    if !options.burst {
        return Ok(text);
    }
    let peer = Peer::Ringway;
    let server = peer.start(&peer.program(&options.programs)?, fleet, 1, Place::Measured)?;
    let new = settled(&server)?;
    fill(fleet, &server, &MEDIUM.work(peer, fleet.wire), MEDIUM.fill_depth)?;
    let start = settled(&server)?;
    let work = MEDIUM.work(peer, fleet.wire).ask(Ask::Mixed { sets_percent: 0 });
    let [open, moved] =
        at_edges(fleet, &server, &work, Pace::Closed { depth: 1 }).map_err(|e| said(peer, "burst", &e))?;
    eprintln!("burst: all connections are closed, a minute passes");
    thread::sleep(AFTER_BURST);
    let after = rss_kib(server.pid())?;
    let mib = |kib: f64| format!("{:.1}", kib / 1024.0);
    let cells = vec![
        connections(fleet).to_string(),
        mib(new),
        mib(start),
        mib(open),
        mib(moved),
        mib(after),
        format!("{:.2}", after / start),
    ];
    let columns = [
        "new process",
        "start",
        "connections open",
        "each got 64 KiB",
        "60 s after they closed",
        "60 s after / start",
    ];
    let title = "ringway's resident memory around a burst, MiB";
    markdown(&mut text, title, "connections", &columns, &[cells]);
    Ok(text)
}

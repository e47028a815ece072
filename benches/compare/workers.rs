//! ringway with two workers beside ringway with one: throughput where cores allow, and what a request
//! costs. Neither is bound to a core.

use std::path::Path;

use crate::{
    fleet::{Fleet, Place, Server},
    load::Failure,
    options::Options,
    peers::Peer,
    rows::{AT_A_RATE, ROWS, Row, SMALL},
    table::{markdown, median, spread},
    turns::{Sample, fill, measure},
};

/// What one worker carries and what two do: the same load, without pipelining and at depth 16, and as much
/// for each of them, at a rate that leaves the cores room.
const MEASURED: [[&Row; 2]; 3] = [[&ROWS[0]; 2], [&ROWS[1]; 2], [&AT_A_RATE[0], &AT_A_RATE[1]]];

/// Measures both in turn.
pub(crate) fn run(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    let mut text = String::new();
    if !Options::wants(&options.row, "two workers") {
        return Ok(text);
    }
    let program = Peer::Ringway.program(&options.programs)?;
    let servers = [start(fleet, &program, 1)?, start(fleet, &program, 2)?];
    let mut rows = Vec::new();
    for pair in MEASURED {
        let mut samples = [Vec::new(), Vec::new()];
        for round in 0..options.rounds as usize {
            for turn in 0..servers.len() {
                let i = (round + turn) % servers.len();
                let row = pair[i];
                let pace = row.pace(0.0);
                let sample = measure(fleet, &servers[i], Peer::Ringway, row, pace, options.seconds)?;
                eprintln!(
                    "round {}: workers {} {}: {:.2} µs, {:.0}/s",
                    round + 1,
                    i + 1,
                    row.name,
                    sample.cpu_us,
                    sample.per_second
                );
                samples[i].push(sample);
            }
        }
        rows.push(cells(pair[0], &samples));
    }
    let columns = [
        "µs per request, one worker",
        "two workers",
        "two / one (least to most)",
        "requests a second, one worker",
        "two workers",
        "two / one (least to most)",
    ];
    markdown(&mut text, "ringway with two workers, on any core", "work", &columns, &rows);
    Ok(text)
}

fn start(fleet: &Fleet, program: &Path, workers: usize) -> Result<Server, Failure> {
    let server = Peer::Ringway.start(program, fleet, workers, Place::Anywhere)?;
    fill(fleet, &server, &SMALL.work(Peer::Ringway, fleet.wire), SMALL.fill_depth)?;
    Ok(server)
}

fn cells(row: &Row, [one, two]: &[Vec<Sample>; 2]) -> Vec<String> {
    let mut cells = vec![row.name.to_owned()];
    for (figure, digits) in [((|s| s.cpu_us) as fn(&Sample) -> f64, 2), (|s| s.per_second, 0)] {
        let middle = |all: &[Sample]| format!("{:.digits$}", median(all.iter().map(figure).collect()));
        let ratios = one.iter().zip(two).map(|(one, two)| figure(two) / figure(one));
        cells.extend([middle(one), middle(two), spread(ratios.collect())]);
    }
    cells
}

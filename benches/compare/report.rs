//! The tables: for each figure one, a row for each work, a column for each peer.

use std::fmt::Write;

use crate::{
    peers::Peer,
    table::{markdown, median, spread},
    turns::{Cells, Results, Sample},
};

/// A figure of a sample.
type Figure = fn(&Sample) -> f64;

const CPU: Figure = |sample| sample.cpu_us;
const PER_SECOND: Figure = |sample| sample.per_second;
const P99: Figure = |sample| sample.latency_us[1];
const P999: Figure = |sample| sample.latency_us[2];

/// All tables of the rows.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    if results.rows.is_empty() {
        return text;
    }
    if results.rows.iter().any(|cells| cells.row.is_relative()) {
        let rate = match results.peers.contains(&Peer::Twemproxy) {
            true => "half of what twemproxy carried in the first row",
            false => "fixed, because twemproxy is not there",
        };
        let _ = writeln!(text, "\nThe open loop's rate on 50 connections is {rate}.");
    }
    let peers: Vec<&str> = results.peers.iter().map(|peer| peer.name()).collect();
    let rounds = results.rows[0].samples[0].len();
    let note = format!("median of {rounds} round{}", if rounds == 1 { "" } else { "s" });
    let all = |_: &Cells| true;
    let open = |cells: &Cells| cells.row.is_open();
    let closed = |cells: &Cells| !cells.row.is_open();
    let figure = |figure: Figure, digits: usize| {
        move |cells: &Cells, i: usize| Some(format!("{:.digits$}", median_of(cells, i, figure)))
    };
    let title = format!("CPU of the proxy, µs per request, {note}");
    table(&mut text, results, &title, &peers, all, figure(CPU, 2));
    let title = "Of these in user space, µs per request";
    table(&mut text, results, title, &peers, all, figure(|sample| sample.user_us, 2));
    ratios(&mut text, results, "CPU per request", all, CPU);
    let title = format!("Requests a second, {note}");
    table(&mut text, results, &title, &peers, closed, figure(PER_SECOND, 0));
    ratios(&mut text, results, "Requests a second", closed, PER_SECOND);
    let title = format!("Latency at p50 / p99 / p99.9, ms, {note}");
    table(&mut text, results, &title, &peers, all, |cells, i| {
        let at = |n: usize| median(cells.samples[i].iter().map(|s| s.latency_us[n] / 1000.0).collect());
        Some(format!("{:.2} / {:.2} / {:.2}", at(0), at(1), at(2)))
    });
    ratios(&mut text, results, "Latency at p99", open, P99);
    ratios(&mut text, results, "Latency at p99.9", open, P999);
    let title = "System calls per request (perf, a run of its own)";
    let calls = |cells: &Cells| cells.row.counts_calls;
    table(&mut text, results, title, &peers, calls, |cells, i| Some(format!("{:.2}", cells.calls[i]?)));
    let title = "Resident memory at the end of a row, MiB (each process lives through all rows)";
    table(&mut text, results, title, &peers, all, figure(|sample| sample.rss_kib / 1024.0, 1));
    text
}

/// ringway's figure as a part of each other peer's, of which only those of the same round are held
/// against one another.
fn ratios(text: &mut String, results: &Results, what: &str, wanted: fn(&Cells) -> bool, figure: Figure) {
    let Some(ours) = results.peers.iter().position(|&peer| peer == Peer::Ringway) else { return };
    let others: Vec<usize> = (0..results.peers.len()).filter(|&i| i != ours).collect();
    let columns: Vec<String> =
        others.iter().map(|&i| format!("ringway / {}", results.peers[i].name())).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let title = format!("{what}, ringway's part of each: median of the rounds (least to most)");
    table(text, results, &title, &columns, wanted, |cells, column| {
        let theirs = &cells.samples[others[column]];
        let pairs = cells.samples[ours].iter().zip(theirs);
        Some(spread(pairs.map(|(a, b)| figure(a) / figure(b)).collect()))
    });
}

fn table(
    text: &mut String,
    results: &Results,
    title: &str,
    columns: &[&str],
    wanted: fn(&Cells) -> bool,
    cell: impl Fn(&Cells, usize) -> Option<String>,
) {
    let rows: Vec<Vec<String>> = results
        .rows
        .iter()
        .filter(|cells| wanted(cells))
        .map(|cells| {
            let name = cells.row.title(results.half).into_owned();
            let columns = (0..columns.len()).map(|i| cell(cells, i).unwrap_or_else(|| "-".to_owned()));
            std::iter::once(name).chain(columns).collect()
        })
        .collect();
    markdown(text, title, "work", columns, &rows);
}

fn median_of(cells: &Cells, peer: usize, figure: Figure) -> f64 {
    median(cells.samples[peer].iter().map(figure).collect())
}

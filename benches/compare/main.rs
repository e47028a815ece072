//! ringway beside twemproxy, predixy, Envoy, HAProxy, nginx and no proxy at all, in each of its protocols,
//! under the same work on this machine: `cargo bench --bench compare`, and `-- --help` for what it takes. It
//! starts all that it needs and prints tables in Markdown. Its map: `rows` is the work, `peers` who does it,
//! `turns` who is measured when, `meter` how, `report` the tables; `memory` and `workers` are rows of another
//! shape; the load generator is `load`.

mod fleet;
#[path = "../load/mod.rs"]
mod load;
mod machine;
mod memory;
mod meter;
mod options;
mod peers;
mod report;
mod rows;
mod table;
mod turns;
mod workers;

use std::{path::PathBuf, process::ExitCode};

use fleet::Fleet;
use load::{Failure, Wire};
use options::Options;
use peers::Peer;

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --test` run this as well, and measure nothing.
    let has = |wanted: &str| std::env::args().any(|word| word == wanted);
    if !has("--bench") || has("--test") {
        eprintln!("compare measures under `cargo bench --bench compare` only");
        return ExitCode::SUCCESS;
    }
    let options = Options::read();
    if options.is_meant_for_another() {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("compare: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let mut text = String::new();
    let mut say = |part: String| {
        println!("{part}");
        text += &part;
        options.markdown.as_ref().map_or(Ok(()), |path| std::fs::write(path, &text))
    };
    let wires = [(Wire::Redis, "redis"), (Wire::Memcached, "memcached"), (Wire::Http, "http")];
    for (wire, name) in wires {
        if Options::wants(&options.only, name) {
            say(format!("\n## {name}\n"))?;
            of(wire, options, &mut say)?;
        }
    }
    Ok(())
}

/// Everything of one protocol.
fn of(
    wire: Wire,
    options: &Options,
    say: &mut dyn FnMut(String) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let node = Peer::direct(wire).program(&options.programs)?;
    let mut programs: Vec<(Peer, PathBuf)> = Vec::new();
    let mut absent = Vec::new();
    for &peer in Peer::of(wire) {
        if peer != Peer::Ringway && !Options::wants(&options.peer, peer.name()) {
            continue;
        }
        match peer.program(&options.programs) {
            Ok(path) => programs.push((peer, path)),
            Err(remedy) if peer == Peer::Ringway => return Err(remedy.into()),
            Err(remedy) => absent.push(format!("{}: {remedy}", peer.name())),
        }
    }
    let mut fleet = Fleet::start(&node, wire)?;
    fleet.extra = options.with.iter().map(|line| format!("{line}\n")).collect();
    let named: Vec<machine::Program<'_>> =
        programs.iter().map(|(peer, path)| (peer.name(), path.as_path(), peer.version_option())).collect();
    say(machine::header(&fleet, &named, &absent))?;
    say(report::tables(&turns::run(&fleet, options, &programs)?))?;
    if wire == Wire::Redis {
        say(memory::idle(&fleet, options, &programs)?)?;
        say(workers::run(&fleet, options)?)?;
        say(memory::burst(&fleet, options)?)?;
    }
    Ok(())
}

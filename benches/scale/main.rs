//! How far ringway goes and what breaks first: a ring of 10,000 nodes, 1,000 pools, as many
//! connections as one process may have, 100 topologies a second under load. `cargo bench --bench
//! scale`, and `-- --help` for what it takes. It starts all that it needs and prints tables in
//! Markdown; the fleet of processes and the load generator are those of `compare`. Its map: each part
//! is a file, `subject` is the ringway that is measured.

mod connections;
#[path = "../compare/fleet.rs"]
#[expect(dead_code, reason = "what is measured has its core")]
mod fleet;
#[path = "../load/mod.rs"]
#[expect(dead_code, reason = "one kind of work is enough here")]
mod load;
#[path = "../compare/machine.rs"]
mod machine;
#[path = "../compare/meter.rs"]
#[expect(dead_code, reason = "system calls are not counted here")]
mod meter;
mod nodes;
mod options;
mod pools;
mod publish;
mod subject;
#[path = "../compare/table.rs"]
mod table;

use std::{path::Path, process::ExitCode};

use fleet::{Fleet, find};
use load::{Ask, Failure, Length, Pace, Plan, Work};
use options::{Options, Part};

/// Bytes of a value.
const VALUE_BYTES: usize = 64;

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --test` run this as well, and measure nothing.
    let has = |wanted: &str| std::env::args().any(|word| word == wanted);
    if !has("--bench") || has("--test") {
        eprintln!("scale measures under `cargo bench --bench scale` only");
        return ExitCode::SUCCESS;
    }
    let options = Options::read();
    if options.is_meant_for_another() {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("scale: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let redis = find("redis-server").ok_or("redis-server is absent: apt-get install redis-server")?;
    let fleet = Fleet::start(&redis, load::Wire::Redis)?;
    let mut text = String::new();
    let mut say = |part: String| {
        println!("{part}");
        text += &part;
        options.markdown.as_ref().map_or(Ok(()), |path| std::fs::write(path, &text))
    };
    let programs =
        [("ringway", options.ringway.as_path(), "--version"), ("redis-server", redis.as_path(), "--version")];
    let words = std::env::args().skip(1).filter(|word| word != "--bench").collect::<Vec<_>>().join(" ");
    say(format!("`cargo bench --bench scale -- {words}`\n\n"))?;
    say(machine::header(&fleet, &programs, &[]))?;
    for part in Part::ALL.into_iter().filter(|&part| options.wants(part)) {
        eprintln!("part {}", part.word());
        say(measure(part, &fleet, options, &redis)
            .map_err(|failure| format!("{}: {failure}", part.word()))?)?;
    }
    Ok(())
}

fn measure(part: Part, fleet: &Fleet, options: &Options, redis: &Path) -> Result<String, Failure> {
    match part {
        Part::Nodes => nodes::run(fleet, options, redis),
        Part::Pools => pools::run(fleet, options),
        Part::Connections => connections::run(fleet, options),
        Part::Publish => publish::run(fleet, options),
    }
}

/// GET and SET 90/10 over so many keys.
fn mixed(keys: u64) -> Work {
    keys_of(keys).ask(Ask::Mixed { sets_percent: 10 })
}

/// So many keys, to be written one by one.
fn keys_of(keys: u64) -> Work {
    Work::new(*b"sc:", keys, VALUE_BYTES)
}

/// Writes all keys to each of these nodes: whoever owns a key has it, also while owners change.
fn fill(fleet: &Fleet, nodes: &[std::net::SocketAddr], keys: u64) -> Result<(), Failure> {
    let work = keys_of(keys);
    for &address in nodes {
        let plan = Plan {
            address,
            connections: 4,
            work: &work,
            pace: Pace::Closed { depth: 64 },
            length: Length::Requests(keys),
            cores: &fleet.cores.others,
        };
        load::run(&plan, &mut |_| {})?;
    }
    Ok(())
}

//! Nodes that fail behind ringway, twemproxy and Envoy, and what clients notice: `cargo bench --bench
//! failure`, and `-- --help` for what it takes. It starts all that it needs and prints tables in
//! Markdown. Its map: `fault` is what is done to a node, `subject` behind which proxies, `nodes` the
//! nodes and the way to them, `trial` one fault behind one proxy, `figures` what came of it, `report` the
//! tables and whether ringway's aims are met. Programs and their configurations are those of `compare`,
//! nodes and the load, which knows what each key must hold, those of the tests.

mod delay;
mod fault;
mod figures;
#[path = "../compare/fleet.rs"]
#[expect(dead_code, reason = "nodes are the tests', which can be killed")]
mod fleet;
#[path = "../../tests/it/harness/mod.rs"]
#[expect(dead_code, unused_imports, reason = "tests need more")]
mod harness;
#[path = "../load/mod.rs"]
#[expect(dead_code, unused_imports, reason = "only its words are used: its load ends with the first error")]
mod load;
#[path = "../compare/machine.rs"]
#[expect(dead_code, reason = "nothing has a core to itself")]
mod machine;
mod nodes;
mod options;
#[path = "../compare/peers.rs"]
#[expect(dead_code, reason = "not all of them take nodes out")]
mod peers;
mod report;
mod subject;
#[path = "../compare/table.rs"]
#[expect(dead_code, reason = "nothing is measured twice")]
mod table;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use fault::Fault;
use figures::Figures;
use fleet::Fleet;
use load::{Failure, Wire};
use options::Options;
use peers::Peer;
use subject::{SUBJECTS, Subject};

fn main() -> ExitCode {
    // `cargo test --benches` and `cargo bench -- --test` run this as well, and measure nothing.
    let has = |wanted: &str| std::env::args().any(|word| word == wanted);
    if !has("--bench") || has("--test") {
        eprintln!("failure measures under `cargo bench --bench failure` only");
        return ExitCode::SUCCESS;
    }
    let options = Options::read();
    if options.is_meant_for_another() {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("failure: {failure}");
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
    let (programs, absent) = programs(options);
    let mut fleet = Fleet::without_nodes(Wire::Redis)?;
    let node = Peer::direct(Wire::Redis);
    let redis = node.program(&options.programs)?;
    let mut named: Vec<machine::Program<'_>> =
        programs.iter().map(|(peer, path)| (peer.name(), path.as_path(), peer.version_option())).collect();
    named.push(("redis-server", &redis, node.version_option()));
    say(machine::versions(&fleet, &named, &absent))?;
    let mut all = Vec::new();
    for fault in Fault::ALL.into_iter().filter(|&fault| options.wants(fault)) {
        let mut rows: Vec<(&Subject, Figures)> = Vec::new();
        for subject in SUBJECTS.iter().filter(|subject| options.wants_peer(subject.name)) {
            let Some(program) = program(&programs, subject) else { continue };
            let figures = trial::run(&mut fleet, subject, program, fault)
                .map_err(|failure| format!("{}, {}: {failure}", fault.word(), subject.name))?;
            eprintln!("{}, {}: {}", fault.word(), subject.name, figures.complaints);
            rows.push((subject, figures));
        }
        say(report::of(fault, &rows))?;
        all.extend(rows.into_iter().map(|(subject, figures)| (fault, subject, figures)));
    }
    say(report::aims(&all))?;
    Ok(())
}

/// The programs that are there, and what is absent.
fn programs(options: &Options) -> (Vec<(Peer, PathBuf)>, Vec<String>) {
    let (mut there, mut absent) = (Vec::new(), Vec::new());
    for peer in [Peer::Ringway, Peer::Twemproxy, Peer::Envoy] {
        match peer.program(&options.programs) {
            Ok(path) => there.push((peer, path)),
            Err(remedy) => absent.push(format!("{}: {remedy}", peer.name())),
        }
    }
    (there, absent)
}

fn program<'a>(programs: &'a [(Peer, PathBuf)], subject: &Subject) -> Option<&'a Path> {
    programs.iter().find(|(peer, _)| *peer == subject.peer).map(|(_, path)| path.as_path())
}

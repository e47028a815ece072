//! `check`: everything that is wrong with a configuration, or what it amounts to.

use std::{
    io::{ErrorKind, Write},
    path::PathBuf,
};

use clap::Args;

use super::{EXIT_USAGE, Stop, load, say};
use crate::{
    config::{Settings, Source, to_yaml},
    membership::{Remembered, unreadable},
    protocol::Protocol,
    ring::{Member, Ring},
    topology::{NodeSpec, PROTOCOL_VERSIONS, PoolSpec, Warmth, WhileHeld},
};

const EXAMPLES: &str = "\
Errors go to stderr, one per line, as file:line:column: key: message; the exit code is then 2. \
Warnings go there, too, and leave the exit code 0.

Examples:
  ringway check ringway.yaml
  ringway check ringway.yaml --print            every setting in force, defaults included";

/// Arguments of `check`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The configuration [default: the one that ringway ships with]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as `serve` takes it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Print every setting in force as a configuration; passwords are left out
    #[arg(long)]
    print: bool,
}

/// Checks, and prints what the configuration amounts to.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let file = arguments.config.as_ref().or(arguments.file.as_ref());
    let source = file.map_or(Source::Shipped, |file| Source::File(file.clone()));
    let loaded = load(&source)?;
    let settings = &loaded.settings;
    if arguments.print {
        write!(out, "{}", to_yaml(settings))?;
    } else {
        let nodes: usize = settings.pools.iter().map(|p| p.nodes.len()).sum();
        let counts = [(settings.pools.len(), "pool"), (nodes, "node"), (settings.workers, "worker")];
        let [pools, nodes, workers] =
            counts.map(|(n, word)| format!("{n} {word}{}", if n == 1 { "" } else { "s" }));
        writeln!(out, "{source} is fine: {pools}, {nodes}, {workers}, admin on {}", settings.admin.listen)?;
        for spec in &settings.pools {
            pool(spec, settings, out)?;
        }
    }
    out.flush()?;
    files(settings)?;
    loaded.warnings.iter().for_each(|warning| say(&warning.to_string()));
    Ok(())
}

/// Files that ringway is to keep: it does not start with a state file that it can't read, and forgets what it
/// can't write.
fn files(settings: &Settings) -> Result<(), Stop> {
    if let Some(path) = &settings.state_file {
        let read = std::fs::read(path).and_then(|text| Remembered::read(&text));
        match read {
            // Who keeps it may be another user.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                let path = path.display();
                say(&format!("warning: state_file: {path} can't be read by this user: {error}"));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Stop::Failed(unreadable(path, &error), EXIT_USAGE));
            }
            _ => {}
        }
    }
    let files = [("state_file", &settings.state_file), ("incidents.file", &settings.incidents.file)];
    for (key, path) in files {
        let Some(path) = path else { continue };
        let mut beside = path.clone().into_os_string();
        beside.push(format!(".check.{}", std::process::id()));
        // Nothing less tells whether a file can be made there.
        let made = std::fs::File::create_new(&beside).and_then(|_| std::fs::remove_file(&beside));
        if let Err(error) = made {
            let (path, why) = (
                path.display(),
                match error.kind() {
                    ErrorKind::NotFound => "its directory is not there".to_owned(),
                    _ => error.to_string(),
                },
            );
            say(&format!("warning: {key}: {path} can't be written by this user: {why}"));
        }
    }
    Ok(())
}

/// How many connections one node will see, and why as many.
fn connections(spec: &PoolSpec, workers: usize) -> String {
    let per_node = spec.policy.connections_per_node;
    match spec.policy.protocol {
        Protocol::Redis => format!(
            "{} ({workers} workers x {PROTOCOL_VERSIONS} protocol versions x {per_node} connections_per_node)",
            workers * PROTOCOL_VERSIONS * per_node
        ),
        Protocol::Memcached => {
            format!("{} ({workers} workers x {per_node} connections_per_node)", workers * per_node)
        }
        Protocol::Http => {
            let max = spec.policy.http.limits.connections_per_node_max;
            format!("{} ({workers} workers x {max} connections_per_node_max)", workers * max)
        }
    }
}

/// What the warmth budget does to whoever fails second within its window, if no two nodes fit into it
/// together.
fn second_failure(spec: &PoolSpec, ring: &Ring) -> Option<String> {
    let Warmth { share, window, held } = spec.policy.warmth;
    // The last of a pool stays in any case.
    let can_happen = spec.nodes.len() > 2 && spec.policy.moves_keys() && held == WhileHeld::Fail;
    if !can_happen || share >= 1.0 || least_of_two(ring) <= share + 1e-9 {
        return None;
    }
    let miss = match spec.policy.tells_misses() {
        true => ", and `warmth: {held: miss}` has reads of them find nothing",
        false => "",
    };
    let seconds = window.as_secs_f64();
    Some(format!(
        "warmth: a second node that fails within {seconds} s has its keys refused for the rest of that time, as any two \
         nodes have more than warmth.share ({:.0} %); a larger one moves them at once{miss}",
        share * 100.0
    ))
}

/// How much of the key space moves at least when two nodes fail, one after the other: the second has got keys
/// of the first.
fn least_of_two(ring: &Ring) -> f64 {
    let shares = ring.shares(|_| true);
    let mut smallest: Vec<usize> = (0..shares.len()).collect();
    smallest.sort_by(|a, b| shares[*a].total_cmp(&shares[*b]));
    // A larger one is in no smaller pair but by chance.
    smallest.truncate(FIRSTS);
    let with = |first: usize| {
        let others = ring.shares(|i| i != first).into_iter().enumerate().filter(|(i, _)| *i != first);
        shares[first] + others.map(|(_, share)| share).fold(1.0, f64::min)
    };
    smallest.into_iter().map(with).fold(1.0, f64::min)
}

/// Of so many of the smallest nodes it is asked what moves when they fail first.
const FIRSTS: usize = 4;

/// One pool: its listeners, its ring, what each node owns and how many connections it will see.
fn pool(spec: &PoolSpec, settings: &Settings, out: &mut impl Write) -> Result<(), Stop> {
    let listen: Vec<String> = spec.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "\npool {}: {} on {}", spec.name, spec.policy.protocol.word(), listen.join(", "))?;
    writeln!(out, "  ring: {}, hash {}", spec.ring.placement.word(), spec.ring.hash.word())?;
    writeln!(
        out,
        "  connections to each node: up to {}, and one for probes",
        connections(spec, settings.workers)
    )?;
    let members: Vec<Member> = spec.nodes.iter().map(NodeSpec::member).collect();
    let ring = Ring::build(&spec.ring, &members);
    if let Some(line) = second_failure(spec, &ring) {
        writeln!(out, "  {line}")?;
    }
    let shares = ring.shares(|_| true);
    let longest = |text: fn(&NodeSpec) -> usize| spec.nodes.iter().map(text).max().unwrap_or(0);
    let name = longest(|n| n.name.chars().count()).max("node".len());
    let address = longest(|n| n.address.to_string().chars().count()).max("address".len());
    writeln!(out, "  {:name$}  {:address$}  weight   share", "node", "address")?;
    for (node, share) in spec.nodes.iter().zip(shares) {
        let at = node.address.to_string();
        let zone = node.zone.as_ref().map(|z| format!("  zone {z}")).unwrap_or_default();
        writeln!(
            out,
            "  {:name$}  {at:address$}  {:6}  {:5.2}%{zone}",
            node.name,
            node.weight,
            share * 100.0
        )?;
    }
    Ok(())
}

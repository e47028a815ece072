//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// One thing that is made large.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Part {
    Nodes,
    Pools,
    Connections,
    Publish,
}

impl Part {
    pub(crate) const ALL: [Part; 4] = [Part::Nodes, Part::Pools, Part::Connections, Part::Publish];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Part::Nodes => "nodes",
            Part::Pools => "pools",
            Part::Connections => "connections",
            Part::Publish => "publish",
        }
    }
}

/// Measures how far ringway goes, and prints tables in Markdown.
#[derive(Parser)]
#[command(name = "scale", bin_name = "cargo bench --bench scale --")]
pub(crate) struct Options {
    /// Only this part; may be repeated.
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Pairs of runs, without and with publishes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pairs: u32,
    /// Seconds that count of one run of a pair.
    #[arg(long, default_value_t = 6.0)]
    pub(crate) seconds: f64,
    /// Requests a second while topologies are published.
    #[arg(long, default_value_t = 10_000.0)]
    pub(crate) rate: f64,
    /// Nodes of the largest ring.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) nodes: usize,
    /// Pools of the process with the most pools.
    #[arg(long, default_value_t = 1000)]
    pub(crate) pools: usize,
    /// Short: 1 pair of 1 s, 1,000 nodes, 100 pools, 2,000 connections, to see that it works.
    #[arg(long)]
    pub(crate) quick: bool,
    /// The ringway to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ringway"))]
    pub(crate) ringway: PathBuf,
    /// Also writes what it prints to this file.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
    /// `cargo bench NAME` hands the name to every bench.
    #[arg(hide = true)]
    name: Option<String>,
}

impl Options {
    /// The command line's, with `--quick` worked in.
    pub(crate) fn read() -> Options {
        let mut options = Options::parse();
        if options.quick {
            (options.pairs, options.seconds) = (1, 1.0);
            (options.nodes, options.pools) = (1000, 100);
        }
        options
    }

    /// Whether another bench is asked for.
    pub(crate) fn is_meant_for_another(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !"scale".contains(name.as_str()))
    }

    pub(crate) fn wants(&self, part: Part) -> bool {
        self.part.is_empty() || self.part.contains(&part)
    }
}

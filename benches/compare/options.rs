//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::peers::Programs;

/// Measures ringway and what it is compared with, side by side, and prints tables in Markdown.
#[derive(Parser)]
#[command(name = "compare", bin_name = "cargo bench --bench compare --")]
pub(crate) struct Options {
    /// How often each row is measured with each program.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seconds that count of one measurement.
    #[arg(long, default_value_t = 1.2)]
    pub(crate) seconds: f64,
    /// Only redis, memcached or http; may be repeated.
    #[arg(long)]
    pub(crate) only: Vec<String>,
    /// Only rows whose name contains this; may be repeated.
    #[arg(long)]
    pub(crate) row: Vec<String>,
    /// Only ringway and programs whose name contains this; may be repeated.
    #[arg(long)]
    pub(crate) peer: Vec<String>,
    /// A further line of ringway's configuration, as `coalesce: false`; may be repeated.
    #[arg(long)]
    pub(crate) with: Vec<String>,
    /// Short: 1 round of 0.4 s, to see that it works.
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) programs: Programs,
    /// Also what ringway holds a minute after a burst.
    #[arg(long)]
    pub(crate) burst: bool,
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
            (options.rounds, options.seconds) = (1, 0.4);
        }
        let predixy = &mut options.programs.predixy;
        *predixy = predixy.take().or_else(|| Some(std::env::var_os("PREDIXY")?.into()));
        options
    }

    /// Whether another bench is asked for.
    pub(crate) fn is_meant_for_another(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !"compare".contains(name.as_str()))
    }

    /// Whether a name is asked for by one of some words; by none of them it is when there is none.
    pub(crate) fn wants(words: &[String], name: &str) -> bool {
        let has = |word: &String| name.to_lowercase().contains(&word.to_lowercase());
        words.is_empty() || words.iter().any(has)
    }
}

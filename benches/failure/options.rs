//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::{fault::Fault, peers::Programs};

/// Lets nodes fail behind ringway and what it is compared with, and prints tables in Markdown.
#[derive(Parser)]
#[command(name = "failure", bin_name = "cargo bench --bench failure --")]
pub(crate) struct Options {
    /// Only this fault; may be repeated.
    #[arg(long, value_enum)]
    only: Vec<Fault>,
    /// Only proxies whose name contains this; may be repeated.
    #[arg(long)]
    peer: Vec<String>,
    #[command(flatten)]
    pub(crate) programs: Programs,
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
    pub(crate) fn read() -> Options {
        Options::parse()
    }

    /// Whether another bench is asked for.
    pub(crate) fn is_meant_for_another(&self) -> bool {
        self.name.as_ref().is_some_and(|name| !"failure".contains(name.as_str()))
    }

    pub(crate) fn wants(&self, fault: Fault) -> bool {
        self.only.is_empty() || self.only.contains(&fault)
    }

    pub(crate) fn wants_peer(&self, name: &str) -> bool {
        let has = |word: &String| name.to_lowercase().contains(&word.to_lowercase());
        self.peer.is_empty() || self.peer.iter().any(has)
    }
}

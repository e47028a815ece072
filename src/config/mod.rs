//! TEXT -> SETTINGS. The only room that knows YAML; the other rooms do not know that it exists.
//!
//! A text becomes a tree of which every value knows its line (`tree`), of which sections take
//! their keys (`section`), through the readers of single words (`units`). Nothing stops at the
//! first error: a reader of the messages sees all of them. A configuration that is wrong anywhere
//! is not obeyed anywhere.

mod commands;
mod finding;
mod http;
mod placement;
mod pool;
mod protocols;
mod resolve;
mod secret;
mod section;
mod tree;
mod twemproxy;
mod units;
mod write;

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

pub use finding::{Errors, Finding, Mark, Severity};
pub use placement::ring_of;
pub use twemproxy::from_twemproxy;
pub use units::share;
pub use write::to_yaml;

use crate::{net::ListenAddress, topology::PoolSpec};
use secret::Surroundings;

/// The configuration that ringway ships with, and serves when it is given none.
pub const SHIPPED: &str = include_str!("../../config.yaml");
/// Its name in messages.
const SHIPPED_NAME: &str = "the shipped config.yaml";
/// A file above this is no configuration; 10,000 nodes take one of 1 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Logs, signals, the admin port and its clients, files that are read for a moment.
const OWN_DESCRIPTORS: usize = 32;
/// What the runtime of a worker has open.
const OWN_DESCRIPTORS_OF_A_WORKER: usize = 4;

/// A whole configuration, resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Threads of the data plane.
    pub workers: usize,
    /// Whether a busy one pauses, to find more at once.
    pub coalesce: bool,
    /// How long a drain waits for what is in flight.
    pub drain_timeout: Duration,
    /// How long before that `/readyz` says that the process goes, while clients are served as before.
    pub drain_delay: Duration,
    /// What all sessions together may hold in memory.
    pub buffered_bytes: usize,
    /// What a reload may do.
    pub reload: Reload,
    /// The admin port.
    pub admin: Admin,
    /// Where incidents are written.
    pub incidents: IncidentLog,
    /// Where it is kept which nodes are not in their place, for the next start.
    pub state_file: Option<PathBuf>,
    /// In the order of the text, at least one.
    pub pools: Vec<PoolSpec>,
}

/// What a reload may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// A reload that moves more than this share of a pool's key space, 0.0..=1.0, wants a
    /// confirmation.
    pub max_share: f64,
    /// Whether a changed file is reloaded without being asked to.
    pub watch: bool,
    /// Whether a server may be emptied that a reload puts in and that has keys.
    pub flush_new: bool,
}

/// Where incidents are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncidentLog {
    /// The file; `None` for memory alone.
    pub file: Option<PathBuf>,
    /// Bytes after which it is set aside.
    pub file_bytes_max: u64,
}

impl Default for IncidentLog {
    fn default() -> IncidentLog {
        IncidentLog { file: None, file_bytes_max: 16 << 20 }
    }
}

/// The admin port.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub listen: ListenAddress,
}

/// A configuration that can be obeyed.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// What is perhaps not meant, in the order of the text.
    pub warnings: Vec<Finding>,
}

/// Where a configuration comes from, and comes from again at a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// [`SHIPPED`].
    Shipped,
    /// A file.
    File(PathBuf),
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: resolve::cores(),
            coalesce: true,
            drain_timeout: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
            buffered_bytes: 1 << 30,
            reload: Reload::default(),
            admin: Admin::default(),
            incidents: IncidentLog::default(),
            state_file: None,
            pools: Vec::new(),
        }
    }
}

impl Settings {
    /// Descriptors that are wanted beside those of clients.
    pub fn descriptors_wanted(&self) -> u64 {
        let pools: usize = self.pools.iter().map(|pool| pool.descriptors_wanted(self.workers)).sum();
        (OWN_DESCRIPTORS + OWN_DESCRIPTORS_OF_A_WORKER * self.workers + pools) as u64
    }
}

impl Default for Reload {
    fn default() -> Reload {
        Reload { max_share: 0.1, watch: false, flush_new: false }
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: ListenAddress::Tcp(([127, 0, 0, 1], 9400).into()) }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Shipped => f.write_str(SHIPPED_NAME),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

impl Source {
    /// Reads and resolves it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Errors> {
        match self {
            Source::Shipped => load_str(SHIPPED, SHIPPED_NAME, Path::new("")),
            Source::File(path) => load(path),
        }
    }

    /// A number that changes when its text does, for a watch. Secrets in files of their own are
    /// not part of it.
    ///
    /// # Errors
    /// The text cannot be read, or is too large for a configuration.
    pub fn fingerprint(&self) -> Result<u64, String> {
        match self {
            Source::Shipped => Ok(xxhash_rust::xxh3::xxh3_64(SHIPPED.as_bytes())),
            Source::File(path) => bytes(path).map(|b| xxhash_rust::xxh3::xxh3_64(&b)),
        }
    }
}

/// Reads and resolves a file. Relative paths in it start at its directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let origin = path.display().to_string();
    let text =
        bytes(path).map_err(|m| (Mark::default(), m)).and_then(|b| String::from_utf8(b).map_err(not_text));
    match text {
        Ok(text) => load_str(&text, &origin, path.parent().unwrap_or(Path::new(""))),
        Err((mark, message)) => {
            let finding = Finding {
                origin: origin.into(),
                mark,
                path: String::new(),
                message,
                severity: Severity::Error,
            };
            Err(Errors { findings: vec![finding], left_out: 0 })
        }
    }
}

/// Resolves a text, called `origin` in messages. Relative paths in it start at `directory`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_str(text: &str, origin: &str, directory: &Path) -> Result<Loaded, Errors> {
    let variable = |name: &str| std::env::var_os(name);
    resolve::resolve(text, origin, &Surroundings { directory: directory.to_owned(), variable: &variable })
}

/// A file's bytes, when it can be a configuration.
fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |e: io::Error| format!("cannot be read: {}", secret::reason(&e));
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("is larger than 16 MiB, so it is no configuration".to_owned());
    }
    Ok(bytes)
}

fn not_text(error: std::string::FromUtf8Error) -> (Mark, String) {
    let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = 1 + valid.iter().filter(|b| **b == b'\n').count();
    let start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let column = 1 + String::from_utf8_lossy(&valid[start..]).chars().count();
    (Mark { line, column }, "is not UTF-8 text".to_owned())
}

#[cfg(test)]
mod tests;

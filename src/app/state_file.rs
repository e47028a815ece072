//! THE STATE FILE (`state_file`): which nodes are not in their place, and what operators want, for the ringway that
//! is started next. Written by a thread of its own, for which nobody waits: a disk that takes nothing, or does not
//! answer, costs a warning.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::AppError;
use crate::{
    membership::{Absences, absences},
    topology::TopologyReader,
};

/// What the file is a version of.
const VERSION: u32 = 1;
/// After this a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    pools: BTreeMap<Arc<str>, Absences>,
}

/// What is to be in the file. Without a file nothing is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct StateFile(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    kept: Mutex<Kept>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    /// What the process before this one left behind, for pools that have not begun yet.
    left: BTreeMap<Arc<str>, Absences>,
    pools: BTreeMap<Arc<str>, Absences>,
    is_written: bool,
    is_writing: bool,
    is_over: bool,
}

impl StateFile {
    /// Reads what the process before this one left behind, and keeps the file from now on.
    pub(super) fn open(path: Option<PathBuf>) -> Result<StateFile, AppError> {
        let Some(path) = path else { return Ok(StateFile::default()) };
        let left = read(&path).map_err(|error| AppError::State { path: path.clone(), error })?;
        // What is there stays until its pool has begun.
        let kept = Mutex::new(Kept { pools: left.clone(), left, ..Kept::default() });
        let shared = Arc::new(Shared { path, kept, bell: Condvar::new() });
        let writer = shared.clone();
        thread::Builder::new()
            .name("ringway-state".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| AppError::Thread { what: "state".to_owned(), error })?;
        Ok(StateFile(Some(shared)))
    }

    /// What was left behind of a pool that begins now; nothing when it is asked again.
    pub(super) fn recall(&self, pool: &str) -> Absences {
        let left = self.0.as_ref().and_then(|shared| shared.kept().left.remove(pool));
        left.unwrap_or_default()
    }

    /// Keeps what is to be known of a pool, until the pool ends.
    pub(super) async fn follow(self, reader: TopologyReader) {
        let Some(shared) = self.0 else { return };
        let mut changes = reader.changes();
        loop {
            let topology = reader.load();
            shared.keep(&topology.pool, |before| absences(&topology, before));
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// A pool is not there any more.
    pub(super) fn forget(&self, pool: &str) {
        if let Some(shared) = &self.0 {
            shared.keep(&Arc::from(pool), |_| Absences::new());
        }
    }

    /// Waits until all is written, this long at most.
    pub(super) fn close(&self, patience: Duration) {
        let Some(shared) = &self.0 else { return };
        let mut kept = shared.kept();
        kept.is_over = true;
        shared.bell.notify_all();
        let waits = |kept: &mut Kept| !kept.is_written || kept.is_writing;
        // What is not written by then is not.
        drop(shared.bell.wait_timeout_while(kept, patience, waits));
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nobody leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, pool: &Arc<str>, of: impl FnOnce(&Absences) -> Absences) {
        let mut kept = self.kept();
        let nothing = Absences::new();
        let before = kept.pools.get(pool).unwrap_or(&nothing);
        let absences = of(before);
        if *before == absences {
            return;
        }
        match absences.is_empty() {
            true => drop(kept.pools.remove(pool)),
            false => drop(kept.pools.insert(pool.clone(), absences)),
        }
        kept.is_written = false;
        self.bell.notify_all();
    }

    fn run(&self) {
        let mut is_failing = false;
        let mut kept = self.kept();
        loop {
            while kept.is_written {
                if kept.is_over {
                    return;
                }
                kept = self.bell.wait(kept).unwrap_or_else(PoisonError::into_inner);
            }
            // What changes while it is written has it written once more.
            (kept.is_written, kept.is_writing) = (true, true);
            let contents = Contents { version: VERSION, pools: kept.pools.clone() };
            drop(kept);
            let written = write(&self.path, &contents);
            kept = self.kept();
            kept.is_writing = false;
            self.bell.notify_all();
            if let Err(error) = written {
                kept.is_written = false;
                if !is_failing {
                    let path = self.path.display();
                    tracing::warn!(%path, %error, "can't write the state file: a ringway that is started now would not know which nodes were away");
                }
                if kept.is_over {
                    return;
                }
                is_failing = true;
                let (again, _) = self.bell.wait_timeout(kept, AGAIN).unwrap_or_else(PoisonError::into_inner);
                kept = again;
            } else {
                is_failing = false;
            }
        }
    }
}

fn read(path: &Path) -> io::Result<BTreeMap<Arc<str>, Absences>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let contents: Contents = serde_json::from_slice(&text)?;
    if contents.version != VERSION {
        let text =
            format!("it is of version {}, and this ringway writes version {VERSION}", contents.version);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(contents.pools)
}

/// Puts a new file in the place of the old one: whoever reads sees one of them whole.
fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // A new ringway may be started beside the old one.
    beside.push(format!(".{}", std::process::id()));
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(contents)?)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Absence;

    /// What was kept last is in the file when it was closed, also when the file was just being written; and the next
    /// process reads it, pool by pool and once.
    #[test]
    fn what_was_kept_last_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        let pool: Arc<str> = "cache".into();
        let known =
            |i: usize| -> Absences { [(format!("n{i}").into(), Absence { away: true, order: None })].into() };
        for round in 0..30 {
            let file = StateFile::open(Some(path.clone())).expect("it can be read");
            let left = file.recall(&pool);
            assert_eq!(left, if round == 0 { Absences::new() } else { known(2 * round - 1) });
            assert_eq!(file.recall(&pool), Absences::new(), "asked again");
            let shared = file.0.as_ref().expect("there is a file");
            shared.keep(&pool, |_| known(2 * round));
            // The first is on its way by now, every other time.
            while round % 2 == 1 && !shared.kept().is_writing && !shared.kept().is_written {
                thread::yield_now();
            }
            shared.keep(&pool, |_| known(2 * round + 1));
            file.close(Duration::from_secs(20));
            assert_eq!(read(&path).expect("it is there")[&pool], known(2 * round + 1), "round {round}");
        }
        let names: Vec<_> =
            fs::read_dir(dir.path()).expect("it is there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["state.json"], "nothing is left beside it");
    }
}

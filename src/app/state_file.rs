//! THE STATE FILE (`state_file`): which nodes are not in their place, and what operators want, for the
//! ringway that is started next. Written by a thread of its own, for which nobody waits: a disk that takes
//! nothing, or does not answer, costs a warning. One process at a time keeps it, known by a lock on a file
//! beside it: one that is started beside another reads it, and writes it from when that has ended.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::AppError;
use crate::{
    admin::Keeping,
    membership::{Absences, Remembered, absences},
    metrics::tell_state_file,
    topology::TopologyReader,
};

/// After this a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be in the file. Without a file nothing is kept.
#[derive(Clone, Debug, Default)]
pub(super) struct StateFile(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    keeping: Arc<Keeping>,
    kept: Mutex<Kept>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    /// What the process before this one left behind, for pools that have not begun yet.
    left: BTreeMap<Arc<str>, Absences>,
    pools: BTreeMap<Arc<str>, Absences>,
    /// Which pool is heard of all that have had its name.
    heard: HashMap<Arc<str>, u64>,
    is_written: bool,
    /// The thread runs.
    is_running: bool,
    is_over: bool,
}

impl StateFile {
    /// Reads what the process before this one left behind.
    pub(super) fn open(path: Option<PathBuf>, keeping: Arc<Keeping>) -> Result<StateFile, AppError> {
        let Some(path) = path else { return Ok(StateFile::default()) };
        let left = read(&path).map_err(|error| AppError::State { path: path.clone(), error })?;
        // What is there stays until its pool has begun.
        let kept = Mutex::new(Kept { pools: left.clone(), left, ..Kept::default() });
        Ok(StateFile(Some(Arc::new(Shared { path, keeping, kept, bell: Condvar::new() }))))
    }

    /// Keeps the file from now on.
    pub(super) fn start(&self) -> Result<(), AppError> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let writer = shared.clone();
        shared.kept().is_running = true;
        let thread = thread::Builder::new().name("ringway-state".to_owned()).spawn(move || writer.run());
        thread.map(drop).map_err(|error| AppError::Thread { what: "state".to_owned(), error })
    }

    /// A pool begins, known by a number of its own: what was left behind of it. Nothing when another one has
    /// had its name before, of which nothing is heard any more.
    pub(super) fn begin(&self, pool: &Arc<str>, id: u64) -> Absences {
        let Some(shared) = &self.0 else { return Absences::new() };
        let left = {
            let mut kept = shared.kept();
            kept.heard.insert(pool.clone(), id);
            kept.left.remove(pool)
        };
        if left.is_none() {
            shared.keep((pool, id), |_| Absences::new());
        }
        left.unwrap_or_default()
    }

    /// Keeps what is to be known of a pool, until the pool is not heard any more.
    pub(super) async fn follow(self, id: u64, reader: TopologyReader) {
        let Some(shared) = self.0 else { return };
        let mut changes = reader.changes();
        loop {
            let topology = reader.load();
            let is_heard = shared.keep((&topology.pool, id), |before| absences(&topology, before));
            if !is_heard || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// A pool is not there any more, and nothing is heard of it, whatever it says yet.
    pub(super) fn forget(&self, pool: &Arc<str>, id: u64) {
        let Some(shared) = &self.0 else { return };
        if shared.keep((pool, id), |_| Absences::new()) {
            shared.kept().heard.remove(pool);
        }
    }

    /// Waits until all is written, or can't be, this long at most.
    pub(super) fn close(&self, patience: Duration) {
        let Some(shared) = &self.0 else { return };
        let mut kept = shared.kept();
        kept.is_over = true;
        shared.bell.notify_all();
        // What is not written by then is not.
        drop(shared.bell.wait_timeout_while(kept, patience, |kept| kept.is_running));
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nobody leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is to be known of a pool, if that is heard; whether it is.
    fn keep(&self, (pool, id): (&Arc<str>, u64), of: impl FnOnce(&Absences) -> Absences) -> bool {
        let mut kept = self.kept();
        if kept.heard.get(pool) != Some(&id) {
            return false;
        }
        let nothing = Absences::new();
        let before = kept.pools.get(pool).unwrap_or(&nothing);
        let absences = of(before);
        if *before == absences {
            return true;
        }
        match absences.is_empty() {
            true => drop(kept.pools.remove(pool)),
            false => drop(kept.pools.insert(pool.clone(), absences)),
        }
        kept.is_written = false;
        self.keeping.asks();
        self.bell.notify_all();
        true
    }

    fn run(&self) {
        let mut lock = None;
        self.write_changes(&mut lock);
        // Whoever is started now finds it free.
        drop(lock);
        self.kept().is_running = false;
        self.bell.notify_all();
    }

    /// Writes what changes until it is over.
    fn write_changes(&self, lock: &mut Option<File>) {
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
            kept.is_written = true;
            let contents = Remembered::of(kept.pools.clone());
            let asked = self.keeping.asked();
            drop(kept);
            let written = take(&self.path, lock).and_then(|()| write(&self.path, &contents));
            kept = self.kept();
            tell_state_file(written.is_err());
            if let Err(error) = written {
                self.keeping.fails(error.to_string());
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
                self.keeping.wrote(asked);
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
    Ok(Remembered::read(&text)?.pools)
}

/// Takes the lock, if it is not had: it is on a file of its own, as the other one is a new one each time.
fn take(path: &Path, lock: &mut Option<File>) -> io::Result<()> {
    if lock.is_some() {
        return Ok(());
    }
    let beside = beside(path, "lock");
    // It may be another user's, from a start by hand: to lock it is enough that it can be read.
    let file = File::create(&beside).or_else(|error| File::open(&beside).map_err(|_| error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let text = "another ringway keeps it, and this one does when that has ended";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        // Not every file system knows locks.
        Ok(()) | Err(TryLockError::Error(_)) => *lock = Some(file),
    }
    Ok(())
}

/// Puts a new file in the place of the old one: whoever reads sees one of them whole, also after a power cut.
fn write(path: &Path, contents: &Remembered) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    let new = beside(path, &std::process::id().to_string());
    let contents = serde_json::to_vec(contents)?;
    let put = || {
        let mut file = File::create(&new)?;
        file.write_all(&contents)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    put().inspect_err(|_| {
        // What is left of it is of no use; a disk that is full has room for others then.
        let _ = fs::remove_file(&new);
    })?;
    match File::open(directory(path)).and_then(|directory| directory.sync_all()) {
        // Not every file system does that, nor every user may: then it is in place as soon as the system
        // writes it.
        Err(error) if matches!(error.kind(), InvalidInput | Unsupported | PermissionDenied) => Ok(()),
        result => result,
    }
}

/// `FILE.WORD`
fn beside(path: &Path, word: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".");
    beside.push(word);
    beside.into()
}

/// Where a file is.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::Absence;

    fn away(i: usize) -> Absences {
        [(format!("n{i}").into(), Absence { away: true, ..Absence::default() })].into()
    }

    fn started(path: &Path) -> StateFile {
        let file = StateFile::open(Some(path.to_owned()), Arc::default()).expect("it can be read");
        file.start().expect("a thread");
        file
    }

    fn shared(file: &StateFile) -> &Shared {
        file.0.as_ref().expect("there is a file")
    }

    /// What was kept last is in the file when it was closed, also when the file was just being written; and
    /// the next process reads it, pool by pool and once.
    #[test]
    fn what_was_kept_last_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        let pool: Arc<str> = "cache".into();
        for round in 0..30 {
            let file = started(&path);
            let left = file.begin(&pool, 1);
            assert_eq!(left, if round == 0 { Absences::new() } else { away(2 * round - 1) });
            assert_eq!(file.begin(&pool, 2), Absences::new(), "asked again");
            let shared = shared(&file);
            shared.keep((&pool, 2), |_| away(2 * round));
            // The first is on its way by now, every other time.
            while round % 2 == 1 && !shared.kept().is_written {
                thread::yield_now();
            }
            shared.keep((&pool, 2), |_| away(2 * round + 1));
            file.close(Duration::from_secs(20));
            assert_eq!(read(&path).expect("it is there")[&pool], away(2 * round + 1), "round {round}");
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).expect("it is there").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["state.json", "state.json.lock"], "nothing else is left beside it");
    }

    /// One process keeps the file. Who is started beside it reads it and leaves it alone, and has its own in
    /// it as soon as the first one has ended; one that ends before that keeps nobody.
    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        let pool: Arc<str> = "cache".into();
        let patience = Duration::from_secs(20);
        let until = |is: &dyn Fn() -> bool| {
            let end = std::time::Instant::now() + patience;
            while !is() {
                assert!(std::time::Instant::now() < end, "it does not become so");
                thread::sleep(Duration::from_millis(5));
            }
        };
        let (first, second, third) = (started(&path), started(&path), started(&path));
        until(&|| path.exists());
        // Whichever was quicker.
        let files = [&first, &second, &third];
        for (i, file) in files.into_iter().enumerate() {
            file.begin(&pool, 1);
            shared(file).keep((&pool, 1), |_| away(i));
        }
        let known = || read(&path).expect("it is whole").get(&pool).cloned();
        until(&|| known().is_some());
        let keeper = (0..3).find(|i| known() == Some(away(*i))).expect("it is one of them");
        let [other, last] = [(keeper + 1) % 3, (keeper + 2) % 3];
        let before = std::time::Instant::now();
        files[other].close(patience);
        assert!(before.elapsed() < patience / 2, "it can't write, and need not be waited for");
        assert_eq!(known(), Some(away(keeper)));
        shared(files[keeper]).keep((&pool, 1), |_| away(7));
        files[keeper].close(patience);
        until(&|| known() == Some(away(last)));
        files[last].close(patience);
    }

    /// A pool that was closed is not heard any more, whatever it says yet, and does not speak for one that
    /// was opened under its name since.
    #[test]
    fn who_was_closed_is_not_heard() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state.json");
        let pool: Arc<str> = "cache".into();
        let file = started(&path);
        let pools = || shared(&file).kept().pools.clone();
        file.begin(&pool, 1);
        assert!(shared(&file).keep((&pool, 1), |_| away(1)));
        file.forget(&pool, 1);
        assert!(!shared(&file).keep((&pool, 1), |_| away(1)));
        assert!(pools().is_empty());

        file.begin(&pool, 2);
        assert!(shared(&file).keep((&pool, 2), |_| away(2)));
        file.begin(&pool, 3);
        assert!(pools().is_empty(), "it is another one");
        assert!(shared(&file).keep((&pool, 3), |_| away(3)));
        file.forget(&pool, 2);
        assert_eq!(pools()[&pool], away(3));
        file.close(Duration::from_secs(20));
    }

    /// A file without a directory before its name is where the process is.
    #[test]
    fn where_it_is() {
        assert_eq!(directory(Path::new("state.json")), Path::new("."));
        assert_eq!(directory(Path::new("/var/lib/state.json")), Path::new("/var/lib"));
    }
}

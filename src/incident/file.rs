//! The file of incidents: one JSON object a line, each written when its incident has ended. Full, it
//! becomes `FILE.1` and a new one is begun. A disk that takes nothing, or does not answer, costs lines and
//! one warning: they are written by a thread of their own, for which nobody waits.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use metrics::counter;
use tokio::sync::oneshot;

use super::Incident;
use crate::metrics::table::INCIDENTS_UNWRITTEN;

/// Incidents that may wait for the disk; those that come then are not written.
const WAITING_MAX: usize = 1000;

/// Where incidents are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The file; what is in it stays.
    pub path: PathBuf,
    /// Bytes after which it is set aside.
    pub bytes_max: u64,
}

/// The end of the file's thread where incidents are handed in.
#[derive(Debug)]
pub struct IncidentWriter {
    jobs: mpsc::Sender<Job>,
    /// Incidents that wait for the disk.
    waiting: Arc<AtomicUsize>,
    is_dropping: bool,
}

/// What the thread is to do.
#[derive(Debug)]
enum Job {
    Write(Vec<Incident>),
    /// All that was handed in before is written: this is told.
    Tell(oneshot::Sender<()>),
}

impl IncidentWriter {
    /// Starts the thread, which ends when this is dropped and all is written.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(settings: FileSettings) -> io::Result<IncidentWriter> {
        let (jobs, todo) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (mut file, left) = (IncidentFile { settings, is_failing: false }, waiting.clone());
        let run = move || {
            file.look();
            for job in todo {
                match job {
                    Job::Write(incidents) => {
                        file.append(&incidents);
                        left.fetch_sub(incidents.len(), Relaxed);
                    }
                    // Whoever asked may have gone.
                    Job::Tell(done) => drop(done.send(())),
                }
            }
        };
        thread::Builder::new().name("ringway-incidents".to_owned()).spawn(run)?;
        Ok(IncidentWriter { jobs, waiting, is_dropping: false })
    }

    /// Has these written. Never waits: when too many wait for the disk these are counted and not written.
    pub fn write(&mut self, mut incidents: Vec<Incident>) {
        if incidents.is_empty() {
            return;
        }
        let room = WAITING_MAX.saturating_sub(self.waiting.load(Relaxed));
        let unwritten = incidents.len().saturating_sub(room);
        incidents.truncate(room);
        let is_full = unwritten > 0;
        if is_full {
            counter!(INCIDENTS_UNWRITTEN.name).increment(unwritten as u64);
            if !self.is_dropping {
                tracing::warn!(
                    "the file of incidents does not answer; they are kept in memory, see /v1/incidents"
                );
            }
        }
        if !incidents.is_empty() {
            self.waiting.fetch_add(incidents.len(), Relaxed);
            // The thread runs as long as this.
            let _ = self.jobs.send(Job::Write(incidents));
        }
        self.is_dropping = is_full;
    }

    /// Has this told when all that was handed in is written.
    pub fn settle(&self, done: oneshot::Sender<()>) {
        // The thread runs as long as this.
        let _ = self.jobs.send(Job::Tell(done));
    }
}

/// The file.
#[derive(Debug)]
struct IncidentFile {
    settings: FileSettings,
    is_failing: bool,
}

impl IncidentFile {
    /// Whether it could be written, as far as can be seen without writing: a typo is better found at the
    /// start.
    fn look(&mut self) {
        let path = &self.settings.path;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let seen = match fs::metadata(path) {
            Ok(_) => OpenOptions::new().append(true).open(path).map(|_| ()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                parent.map_or(Ok(()), |parent| fs::read_dir(parent).map(|_| ()))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = seen {
            self.fails(&error);
        }
    }

    fn fails(&mut self, error: &io::Error) {
        if !self.is_failing {
            self.is_failing = true;
            let path = self.settings.path.display();
            tracing::warn!(%path, %error, "can't write incidents; they are kept in memory, see /v1/incidents");
        }
    }

    /// Appends a line for each. Waits for the disk.
    fn append(&mut self, incidents: &[Incident]) {
        let mut lines = Vec::new();
        for incident in incidents {
            // A struct of numbers and texts always has a JSON form.
            if serde_json::to_writer(&mut lines, incident).is_ok() {
                lines.push(b'\n');
            }
        }
        match self.write(&lines) {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!(path = %self.settings.path.display(), "incidents are written again");
            }
            Ok(()) => {}
            Err(error) => {
                counter!(INCIDENTS_UNWRITTEN.name).increment(incidents.len() as u64);
                self.fails(&error);
            }
        }
    }

    fn write(&self, lines: &[u8]) -> io::Result<()> {
        let FileSettings { path, bytes_max } = &self.settings;
        let size = fs::metadata(path).map_or(0, |meta| meta.len());
        if size > 0 && size + lines.len() as u64 > *bytes_max {
            fs::rename(path, aside(path))?;
        }
        let mut file: File = OpenOptions::new().create(true).append(true).open(path)?;
        let before = file.metadata()?.len();
        file.write_all(lines).inspect_err(|_| {
            // Half a line would be read as a broken one.
            let _ = file.set_len(before);
        })
    }
}

/// `FILE.1`
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::Command,
    };

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn incident() -> Incident {
        let trouble = crate::health::Trouble {
            fault: crate::health::Fault::Memory,
            evidence: vec!["it is used up".to_owned()],
            withheld: std::collections::BTreeSet::new(),
            since: tokio::time::Instant::now(),
        };
        super::super::Incidents::default().troubles(1, &[trouble]).0.swap_remove(0)
    }

    /// A disk that does not answer, here a FIFO that nobody reads, keeps nobody: so many incidents wait for
    /// it, the others are counted. When it answers what waited is written.
    #[test]
    fn a_disk_that_hangs() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("incidents.json");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo is there").success());
        let settings = FileSettings { path: path.clone(), bytes_max: 1 << 20 };
        metrics::with_local_recorder(&recorder, || {
            let mut writer = IncidentWriter::start(settings).expect("a thread");
            (2..WAITING_MAX).for_each(|_| writer.write(vec![incident()]));
            writer.write(vec![incident(); 4]);
            (0..3).for_each(|_| writer.write(vec![incident()]));
            let page = recorder.handle().render();
            assert!(page.contains(&format!("{} 5\n", INCIDENTS_UNWRITTEN.name)), "{page}");
        });
        // The writer is gone, its thread goes on. It opens the FIFO anew each time: with an end of it that
        // stays, none of those meets a reader that is about to leave.
        let fifo = OpenOptions::new().read(true).write(true).open(&path).expect("it can be read");
        let lines = BufReader::new(fifo).lines().take(WAITING_MAX).filter(Result::is_ok).count();
        assert_eq!(lines, WAITING_MAX);
    }
}

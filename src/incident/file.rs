//! The file of incidents: one JSON object a line, each written when its incident has ended. Full, it
//! becomes `FILE.1` and a new one is begun. A disk that takes nothing costs lines and one warning.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::Incident;

/// Where incidents are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// The file; what is in it stays.
    pub path: PathBuf,
    /// Bytes after which it is set aside.
    pub bytes_max: u64,
}

/// The file.
#[derive(Debug)]
pub struct IncidentFile {
    settings: FileSettings,
    is_failing: bool,
}

impl IncidentFile {
    /// The file with these settings; it is opened when there is something to write.
    pub fn new(settings: FileSettings) -> IncidentFile {
        IncidentFile { settings, is_failing: false }
    }

    /// Appends a line for each. Waits for the disk: not for a control loop.
    pub fn append(&mut self, incidents: &[Incident]) {
        let mut lines = Vec::new();
        for incident in incidents {
            // A struct of numbers and texts always has a JSON form.
            if serde_json::to_writer(&mut lines, incident).is_ok() {
                lines.push(b'\n');
            }
        }
        let path = self.settings.path.display();
        match self.write(&lines) {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!(%path, "incidents are written again");
            }
            Ok(()) => {}
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!(%path, %error, "can't write incidents; they are kept in memory, see /v1/incidents");
            }
            Err(_) => {}
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

//! What the operating system knows of this process, from Linux's /proc. Elsewhere the numbers are
//! missing, and the page goes without them.

use std::fs;

/// CPU time is counted in these per second in /proc, on every architecture that Rust's standard
/// library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process, as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system CPU time in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// Their limit.
    pub max_fds: Option<u64>,
}

impl Process {
    /// Reads /proc/self.
    pub fn read() -> Process {
        let file = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        Process {
            cpu_seconds: file("stat").and_then(|text| cpu_seconds(&text)),
            resident_bytes: file("status").and_then(|text| resident_bytes(&text)),
            // The directory's own descriptor is one of them.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|d| d.count().saturating_sub(1) as u64),
            max_fds: file("limits").and_then(|text| max_fds(&text)),
        }
    }

    /// Whether it has a descriptor left. Asked where reading the numbers would need one itself.
    pub fn has_a_descriptor() -> bool {
        // EMFILE, ENFILE.
        !fs::File::open("/").is_err_and(|error| matches!(error.raw_os_error(), Some(23 | 24)))
    }
}

/// Fields 14 and 15 of proc_pid_stat(5), utime and stime; the second field, a name in brackets,
/// may hold spaces and brackets.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The soft limit; none when it is `unlimited`.
fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of /proc are read by their fields, a process name that looks like fields
    /// included, and what is missing is missing.
    #[test]
    fn texts_of_proc() {
        let stat = "7 (a) S 1 (b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("7 (a) R 1"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
        let limits = "Limit   Soft  Hard  Units\nMax open files   1024   4096   files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files  unlimited  unlimited  files\n"), None);
    }

    /// On Linux all numbers of this very process are there, and a new descriptor is counted.
    #[test]
    #[cfg(target_os = "linux")]
    fn this_process() {
        let before = Process::read();
        assert!(before.resident_bytes.is_some_and(|b| b > 1 << 20), "{before:?}");
        assert!(before.cpu_seconds.is_some() && before.max_fds.is_some(), "{before:?}");
        assert!(before.open_fds.is_some_and(|n| n >= 3), "{before:?}");
    }
}

//! What the operating system knows of this process, from Linux's /proc. Elsewhere the numbers are
//! missing, and the page goes without them.

use std::fs;

use rustix::io::Errno;

/// CPU time is counted in these per second in /proc, on every architecture that Rust's standard
/// library supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// The first version of control groups says so much, or a bit less, for no limit; the second says `max`.
const UNLIMITED_BYTES: u64 = 1 << 60;

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

/// The process's memory, as far as it is known and limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Resident bytes.
    pub resident: Option<u64>,
    /// How many its control groups allow.
    pub limit: Option<u64>,
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

    /// What it has of memory, and may have.
    pub fn memory() -> Footprint {
        let resident = fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limits = limit_files(&groups).into_iter().filter_map(|file| {
            let text = fs::read_to_string(file).ok()?;
            text.trim().parse::<u64>().ok().filter(|limit| *limit < UNLIMITED_BYTES)
        });
        Footprint { resident, limit: limits.min() }
    }

    /// Whether it has a descriptor left. Asked where reading the numbers would need one itself.
    pub fn has_a_descriptor() -> bool {
        let is_out = |error| matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE));
        !fs::File::open("/").is_err_and(is_out)
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

/// The files that may limit the memory of a process with this /proc/self/cgroup, in both versions: those of
/// its group, and of all above it. Within a container they are at the root, whatever the path is.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rfind('/') {
                Some(at) => path = &path[..at],
                None => break,
            }
        }
    }
    files
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

    /// Limits of memory are looked for in the group of a process and in those above it, in both versions.
    #[test]
    fn files_of_control_groups() {
        assert_eq!(
            limit_files("0::/a.slice/b.service\n"),
            [
                "/sys/fs/cgroup/a.slice/b.service/memory.max",
                "/sys/fs/cgroup/a.slice/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            limit_files("9:name=systemd:/\n5:cpu,memory:/docker/x\n0::/\n"),
            [
                "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(limit_files("garbage\n"), Vec::<String>::new());
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

//! What a process costs, from outside: CPU time and memory from /proc, system calls from perf.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{fleet::find, load::Failure};

/// CPU time of all threads of a process up to now.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    /// User and system time.
    pub(crate) all_ns: u64,
    /// The kernel samples in which of both a process is, so only their proportion is used.
    user_ticks: u64,
    system_ticks: u64,
}

impl Cpu {
    pub(crate) fn read(pid: u32) -> Result<Cpu, Failure> {
        let mut all_ns = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            all_ns += number(text.split_whitespace().next())?;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15, counted behind the name, which may hold spaces.
        let (_, rest) = stat.rsplit_once(')').ok_or("a process has a name")?;
        let mut fields = rest.split_whitespace().skip(11);
        let (user_ticks, system_ticks) = (number(fields.next())?, number(fields.next())?);
        Ok(Cpu { all_ns, user_ticks, system_ticks })
    }

    /// Microseconds since an earlier reading: all of them, and those in user space.
    pub(crate) fn since(&self, earlier: &Cpu) -> (f64, f64) {
        let all = (self.all_ns - earlier.all_ns) as f64 / 1000.0;
        let user = (self.user_ticks - earlier.user_ticks) as f64;
        let system = (self.system_ticks - earlier.system_ticks) as f64;
        (all, all * user / (user + system).max(1.0))
    }
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("a process has memory")?;
    Ok(number(line.split_whitespace().nth(1))? as f64)
}

fn number(word: Option<&str>) -> Result<u64, Failure> {
    Ok(word.ok_or("/proc has less than it should")?.parse()?)
}

/// perf, counting the system calls of a process.
pub(crate) struct SystemCalls {
    perf: Child,
}

impl SystemCalls {
    /// Begins to count; none where perf is absent or may not count.
    pub(crate) fn count(pid: u32) -> Option<SystemCalls> {
        let perf = Command::new(find("perf")?)
            .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut counter = SystemCalls { perf };
        let start = Instant::now();
        while !counter.is_attached() {
            if counter.perf.try_wait().ok()?.is_some() || start.elapsed() > Duration::from_secs(5) {
                return None;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Some(counter)
    }

    /// Whether perf has its events open.
    fn is_attached(&self) -> bool {
        let Ok(open) = fs::read_dir(format!("/proc/{}/fd", self.perf.id())) else { return false };
        let targets = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let wanted = PathBuf::from("anon_inode:[perf_event]");
        targets.into_iter().any(|target| target == wanted)
    }

    /// The count.
    pub(crate) fn end(mut self) -> Option<f64> {
        kill_process(Pid::from_child(&self.perf), Signal::INT).ok()?;
        let text = io::read_to_string(self.perf.stderr.take()?).ok()?;
        text.lines().find(|line| line.contains("sys_enter"))?.split(',').next()?.parse().ok()
    }
}

impl Drop for SystemCalls {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}

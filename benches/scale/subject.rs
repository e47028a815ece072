//! The ringway that is measured: started with a configuration, looked at from outside, reloaded.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    fleet::{Fleet, Place, Server, free_ports},
    load::Failure,
    meter::{Cpu, rss_kib},
};

/// How long an answer of the process may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Memory has settled when it stays the same for so long; after so much longer that is given up.
const SETTLED: Duration = Duration::from_millis(500);
const SETTLED_MAX: Duration = Duration::from_secs(10);

/// A running ringway.
pub(crate) struct Subject {
    pub(crate) server: Server,
    /// From its spawn to its first reply of a node.
    pub(crate) started_in: Duration,
    admin: SocketAddr,
    config: PathBuf,
    log: PathBuf,
}

/// Two ports: of the pool that is asked first, and of the admin port.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) pool: u16,
    pub(crate) admin: u16,
}

impl Ports {
    pub(crate) fn free() -> Result<Ports, Failure> {
        let [pool, admin] = free_ports(2)?[..] else { return Err("two ports were asked for".into()) };
        Ok(Ports { pool, admin })
    }

    /// The part of a configuration that is not about pools. Nothing that a busy machine reaches ends a
    /// request, and a reload may move what it wants.
    pub(crate) fn head(self, workers: usize) -> String {
        let admin = self.admin;
        format!(
            "workers: {workers}\nadmin: {{listen: '127.0.0.1:{admin}'}}\nreload: {{max_share: \
             100%}}\npools:\n"
        )
    }
}

/// One pool of a configuration.
pub(crate) fn pool(name: &str, listen: &str, deadline: &str, nodes: impl Iterator<Item = String>) -> String {
    let nodes: String = nodes.map(|line| format!("      - {{{line}}}\n")).collect();
    format!(
        "  {name}:\n    listen: '{listen}'\n    request_timeout: 10s\n    deadline: {deadline}\n    \
         limits: {{clients: 1000000}}\n    nodes:\n{nodes}"
    )
}

impl Subject {
    /// Starts one, and waits until its first pool has asked a node.
    pub(crate) fn start(
        fleet: &Fleet,
        program: &std::path::Path,
        ports: Ports,
        text: &str,
        place: Place,
    ) -> Result<Subject, Failure> {
        let port = ports.pool;
        let config = fleet.file(&format!("{port}.yaml"), text)?;
        let log = config.with_file_name(format!("{port}.log"));
        let start = Instant::now();
        let words = ["serve", "--config", &config.display().to_string()].map(str::to_owned);
        let server = fleet.run(program, &words, port, place)?;
        let reply = ask(server.address, b"GET scale\r\n")?;
        if reply.starts_with('-') {
            return Err(format!("the first reply is {reply}").into());
        }
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.admin));
        Ok(Subject { server, started_in: start.elapsed(), admin, config, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Replaces its configuration, at once or not at all.
    pub(crate) fn write_config(&self, text: &str) -> Result<(), Failure> {
        let next = self.config.with_extension("next");
        fs::write(&next, text)?;
        Ok(fs::rename(&next, &self.config)?)
    }

    /// Tells it to read its configuration again.
    pub(crate) fn hang_up(&self) -> Result<(), Failure> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or("a process has a number")?;
        Ok(kill_process(pid, Signal::HUP)?)
    }

    /// What its log says so often, `wanted` times, and how long that took; none after the patience.
    pub(crate) fn logged(
        &self,
        what: &str,
        wanted: usize,
        since: Instant,
        patience: Duration,
    ) -> Result<(usize, Duration), Failure> {
        loop {
            let count = fs::read_to_string(&self.log)?.matches(what).count();
            if count >= wanted || since.elapsed() > patience {
                return Ok((count, since.elapsed()));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often its log says this by now.
    pub(crate) fn count_logged(&self, what: &str) -> Result<usize, Failure> {
        Ok(fs::read_to_string(&self.log)?.matches(what).count())
    }

    /// A page of its admin port, and how long it took.
    pub(crate) fn page(&self, path: &str) -> Result<(String, Duration), Failure> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(self.admin)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: scale\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let took = start.elapsed();
        let (head, body) = text.split_once("\r\n\r\n").ok_or("an answer has a head")?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{path}: {head}").into());
        }
        Ok((body.to_owned(), took))
    }

    /// Epoch and revision of its first pool.
    pub(crate) fn epoch(&self) -> Result<[u64; 2], Failure> {
        let page: serde_json::Value = serde_json::from_str(&self.page("/v1/topology")?.0)?;
        let number = |name: &str| page["pools"][0][name].as_u64().ok_or("a topology has numbers");
        Ok([number("epoch")?, number("revision")?])
    }

    /// Milliseconds of CPU time that it uses in a second, measured over this time.
    pub(crate) fn cpu_ms_per_second(&self, over: Duration) -> Result<f64, Failure> {
        let (before, start) = (Cpu::read(self.pid())?, Instant::now());
        thread::sleep(over);
        let used_us = Cpu::read(self.pid())?.since(&before).0;
        Ok(used_us / 1000.0 / start.elapsed().as_secs_f64())
    }

    /// Microseconds of CPU time of its data workers up to now.
    pub(crate) fn workers_us(&self) -> Result<f64, Failure> {
        let mut ns = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.starts_with("ringway-worker") {
                let text = fs::read_to_string(task.join("schedstat"))?;
                ns += text.split_whitespace().next().ok_or("a thread has run")?.parse::<u64>()?;
            }
        }
        Ok(ns as f64 / 1000.0)
    }

    pub(crate) fn descriptors(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    pub(crate) fn threads(&self) -> Result<usize, Failure> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.pid()))?.count())
    }

    /// Resident memory in KiB, when it no longer changes.
    pub(crate) fn settled_kib(&self) -> Result<f64, Failure> {
        let start = Instant::now();
        let (mut last, mut since) = (rss_kib(self.pid())?, start);
        while since.elapsed() < SETTLED && start.elapsed() < SETTLED_MAX {
            thread::sleep(Duration::from_millis(20));
            let now = rss_kib(self.pid())?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}

/// One request, and the first line of its reply.
pub(crate) fn ask(address: SocketAddr, request: &[u8]) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(request)?;
    let mut bytes = [0; 256];
    let n = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..n]).lines().next().unwrap_or_default().to_owned())
}

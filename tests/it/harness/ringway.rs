//! The built program, run as its users run it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Client, SOON, client::text, signal, until};

/// `ringway serve`. It dies with this value; when the test fails, what it said is shown.
pub(crate) struct Ringway {
    child: Child,
    dir: TempDir,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

/// The built program.
pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_ringway")
}

/// Runs the program to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(program()).args(args).stdin(Stdio::null()).output().expect("ringway is built")
}

impl Ringway {
    /// Serves a configuration; returns when its listeners are there.
    pub(crate) fn serve(config: impl ToString) -> Ringway {
        Ringway::serve_through(config, &[program()])
    }

    /// Serves through a wrapper, such as `sh -c 'ulimit -n 64; exec "$@"' sh program`.
    pub(crate) fn serve_through(config: impl ToString, command: &[&str]) -> Ringway {
        let mut ringway = Ringway::spawn(config, command);
        ringway.admin();
        ringway.address();
        ringway
    }

    /// Starts it and does not wait for anything.
    pub(crate) fn spawn(config: impl ToString, command: &[&str]) -> Ringway {
        Ringway::spawn_with(config, command, Stdio::null())
    }

    /// The same with something as its standard input.
    pub(crate) fn spawn_with(config: impl ToString, command: &[&str], stdin: Stdio) -> Ringway {
        let dir = tempfile::tempdir().expect("a directory for the configuration");
        let path = dir.path().join("ringway.yaml");
        std::fs::write(&path, config.to_string()).expect("the configuration can be written");
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .args(["serve", "--config"])
            .arg(&path)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ringway is built");
        let stdout = collect(child.stdout.take().expect("it is piped"));
        let stderr = collect(child.stderr.take().expect("it is piped"));
        Ringway { child, dir, stdout, stderr }
    }

    /// The configuration file.
    pub(crate) fn config_path(&self) -> String {
        self.dir.path().join("ringway.yaml").display().to_string()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said so far, logs and banner.
    pub(crate) fn said(&self) -> String {
        let lock = |text: &Mutex<String>| text.lock().unwrap_or_else(PoisonError::into_inner).clone();
        format!("{}{}", lock(&self.stdout), lock(&self.stderr))
    }

    /// The addresses on which pool `cache` listens, in the order of the configuration.
    pub(crate) fn addresses(&mut self) -> Vec<String> {
        self.announced("pool cache listens on ", 1)
    }

    /// The first of them.
    pub(crate) fn address(&mut self) -> String {
        self.addresses().swap_remove(0)
    }

    pub(crate) fn admin(&mut self) -> String {
        self.announced("admin listens on http://", 1).swap_remove(0)
    }

    /// Waits for `count` lines of the banner with this beginning, and gives what follows it.
    pub(crate) fn announced(&mut self, beginning: &str, count: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let said = self.said();
            let after = |line: &str| {
                let rest = line.split_once(beginning)?.1;
                rest.split_whitespace().next().map(str::to_owned)
            };
            let found: Vec<String> = said.lines().filter_map(after).collect();
            if found.len() >= count && said.ends_with('\n') {
                return found;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("ringway ended with {status} before it said {beginning:?}");
            }
            assert!(start.elapsed() < SOON, "ringway did not say {beginning:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection to pool `cache`.
    pub(crate) fn client(&mut self) -> Client {
        Client::connect(&self.address())
    }

    /// Itself and a connection to pool `cache`.
    pub(crate) fn into_client(mut self) -> (Ringway, Client) {
        let client = self.client();
        (self, client)
    }

    /// `GET path` on the admin port: status and body.
    pub(crate) fn http(&mut self, path: &str) -> (u16, String) {
        let address = self.admin();
        let mut stream = TcpStream::connect(&address).expect("the admin port listens");
        stream.set_read_timeout(Some(SOON)).expect("sockets take timeouts");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the admin port reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the admin port answers");
        let answer = text(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a head has a status");
        (status, body.to_owned())
    }

    /// The sum of the series of a metric that have all of these labels; 0 when there are none.
    pub(crate) fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> f64 {
        sum(&self.http("/metrics").1, name, labels)
    }

    /// Waits until a metric is this: the log and the counters of a change come after the change.
    pub(crate) fn wait_metric(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name} {labels:?} is {value}");
        until(SOON, &what, || self.metric(name, labels) == value);
    }

    /// `/v1/topology`.
    pub(crate) fn topology(&mut self) -> Value {
        serde_json::from_str(&self.http("/v1/topology").1).expect("the topology is JSON")
    }

    /// Pool `cache` of the topology.
    pub(crate) fn pool(&mut self) -> Value {
        let mut topology = self.topology();
        let pools = topology["pools"].as_array_mut().expect("pools are a list");
        let at = pools.iter().position(|p| p["name"] == "cache").expect("the pool is there");
        pools.swap_remove(at)
    }

    /// One node of pool `cache`.
    pub(crate) fn node(&mut self, name: &str) -> Value {
        let mut pool = self.pool();
        let nodes = pool["nodes"].as_array_mut().expect("nodes are a list");
        let at = nodes.iter().position(|n| n["name"] == name).expect("the node is there");
        nodes.swap_remove(at)
    }

    /// The epoch of pool `cache`.
    pub(crate) fn epoch(&mut self) -> u64 {
        self.pool()["epoch"].as_u64().expect("an epoch is a number")
    }

    /// Whether a node serves its keys.
    pub(crate) fn owns(&mut self, name: &str) -> bool {
        self.node(name)["placement"] == "owns"
    }

    /// Waits until each of these nodes has been asked once: none of them is new any more.
    pub(crate) fn wait_probed(&mut self, names: &[&str]) {
        for name in names {
            until(SOON, &format!("{name} is probed"), || {
                self.metric("ringway_node_probes_total", &[("node", name)]) > 0.0
            });
        }
    }

    /// Waits until a node is out of the ring.
    pub(crate) fn wait_away(&mut self, name: &str) {
        until(SOON, &format!("{name} is away"), || !self.owns(name));
    }

    /// Waits until a node has its share again and is trusted.
    pub(crate) fn wait_back(&mut self, name: &str) {
        until(SOON, &format!("{name} is back"), || {
            let node = self.node(name);
            node["placement"] == "owns" && node["health"] == "healthy"
        });
    }

    /// Writes another configuration, sends SIGHUP and waits for the outcome: `ok`, `invalid`,
    /// `refused` or `partly`, the metric's label.
    pub(crate) fn reload(&mut self, config: impl ToString) -> String {
        const OUTCOMES: [&str; 4] = ["ok", "invalid", "refused", "partly"];
        let mut counts = || OUTCOMES.map(|o| self.metric("ringway_reloads_total", &[("outcome", o)]));
        let before = counts();
        std::fs::write(self.config_path(), config.to_string()).expect("the file can be written");
        signal("HUP", self.pid());
        let mut outcome = None;
        until(SOON, "the reload is counted", || {
            let mut counts = || OUTCOMES.map(|o| self.metric("ringway_reloads_total", &[("outcome", o)]));
            let now = counts();
            outcome = (0..OUTCOMES.len()).find(|&i| now[i] > before[i]);
            outcome.is_some()
        });
        OUTCOMES[outcome.expect("it was found")].to_owned()
    }

    /// SIGTERM: how it ended, and after what time.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        signal("TERM", self.pid());
        self.wait()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let mut status = None;
        until(2 * SOON, "ringway ends", || {
            status = self.child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        (status.expect("it ended"), start.elapsed())
    }
}

impl Drop for Ringway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let path = self.config_path();
            eprintln!("--- {path}\n{}", std::fs::read_to_string(&path).unwrap_or_default());
            eprintln!("--- ringway said\n{}---", self.said());
        }
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let to = text.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            to.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    text
}

/// The sum of the series with this name and all of these labels on a page of `/metrics`.
pub(crate) fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let series = page.lines().filter(|line| {
        let rest = line.strip_prefix(name).unwrap_or("-");
        let wanted = |(label, value): &(&str, &str)| line.contains(&format!("{label}=\"{value}\""));
        rest.starts_with(['{', ' ']) && labels.iter().all(wanted)
    });
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

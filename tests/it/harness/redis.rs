//! A real redis-server of its own for each test that wants one.

use std::{
    collections::HashMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{Client, SOON, signal};

/// A redis-server without persistence. It dies with this value.
pub(crate) struct Redis {
    child: Child,
    dir: TempDir,
    ip: String,
    port: u16,
    extra: Vec<String>,
    password: Option<String>,
}

/// An address in 127/8 that no other server of this process has. A server on it can be killed and
/// started again on its port: outgoing connections take their ports on 127.0.0.1, so none of them
/// can sit on it meanwhile.
pub(crate) fn loopback() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (next, pid) = (NEXT.fetch_add(1, Relaxed), std::process::id());
    format!("127.{}.{}.{}", 1 + pid % 200, 1 + next / 200 % 200, 1 + next % 200)
}

impl Redis {
    /// A plain one.
    pub(crate) fn start() -> Redis {
        Redis::with(&[])
    }

    /// One with further arguments, as on its command line.
    pub(crate) fn with(extra: &[&str]) -> Redis {
        let ip = loopback();
        let listener = TcpListener::bind((ip.as_str(), 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let password = extra.iter().position(|a| *a == "--requirepass").map(|i| extra[i + 1].to_owned());
        let dir = tempfile::tempdir().expect("a directory for the server");
        let extra: Vec<String> = extra.iter().map(|&a| a.to_owned()).collect();
        let child = spawn(&dir, &ip, port, &extra);
        let mut redis = Redis { child, dir, ip, port, extra, password };
        redis.wait();
        redis
    }

    /// Several plain ones.
    pub(crate) fn several(count: usize) -> Vec<Redis> {
        (0..count).map(|_| Redis::start()).collect()
    }

    /// `ip:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }

    /// A connection of the test's own, authenticated.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.address());
        if let Some(password) = &self.password {
            assert_eq!(client.cmd(&["AUTH", password]), "+OK\r\n");
        }
        client
    }

    /// One command on a connection of its own.
    pub(crate) fn cmd(&self, args: &[&str]) -> String {
        self.client().cmd(args)
    }

    /// SIGKILL. Returns when the process is gone and its sockets are closed.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the server can be killed");
        self.child.wait().expect("the server can be waited for");
    }

    /// SIGSTOP: the kernel goes on accepting connections and bytes, the server does nothing.
    pub(crate) fn stop(&self) {
        signal("STOP", self.child.id());
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        signal("CONT", self.child.id());
    }

    /// Starts it again on the same port after a kill, without data.
    pub(crate) fn restart_empty(&mut self) {
        self.child = spawn(&self.dir, &self.ip, self.port, &self.extra);
        self.wait();
    }

    fn wait(&mut self) {
        let start = Instant::now();
        loop {
            let answer = Client::try_connect(&self.address()).and_then(|mut c| {
                c.set_timeout(Duration::from_secs(5));
                c.try_cmd(&["PING"])
            });
            if answer.is_ok_and(|a| a.starts_with(b"+PONG") || a.starts_with(b"-NOAUTH")) {
                return;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("redis-server on {} ended with {status}", self.address());
            }
            assert!(start.elapsed() < SOON, "redis-server on {} does not answer", self.address());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(dir: &TempDir, ip: &str, port: u16, extra: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", ip, "--save", "", "--appendonly", "no"])
        .args(["--protected-mode", "no", "--daemonize", "no", "--loglevel", "warning"])
        .arg("--dir")
        .arg(dir.path())
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed (tests/run installs it)")
}

impl Drop for Redis {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which node holds each key: asked of the nodes, not of ringway. The value is an index into
/// `nodes`.
pub(crate) fn owners(nodes: &[Redis]) -> HashMap<String, usize> {
    let mut map = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for key in node.client().list(&["KEYS", "*"]) {
            let before = map.insert(key.clone(), index);
            assert_eq!(before, None, "{key} is on two nodes");
        }
    }
    map
}

//! A real memcached of its own for each test that wants one.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{SOON, redis::loopback, signal};

/// A memcached. It dies with this value.
pub(crate) struct Memcached {
    child: Child,
    ip: String,
    port: u16,
    extra: Vec<String>,
}

impl Memcached {
    /// A plain one.
    pub(crate) fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// One with further arguments, as on its command line.
    pub(crate) fn with(extra: &[&str]) -> Memcached {
        let ip = loopback();
        let listener = TcpListener::bind((ip.as_str(), 0)).expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let extra: Vec<String> = extra.iter().map(|&a| a.to_owned()).collect();
        let child = spawn(&ip, port, &extra);
        let mut memcached = Memcached { child, ip, port, extra };
        memcached.wait();
        memcached
    }

    /// Several plain ones.
    pub(crate) fn several(count: usize) -> Vec<Memcached> {
        (0..count).map(|_| Memcached::start()).collect()
    }

    /// `ip:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.ip, self.port)
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
        self.child = spawn(&self.ip, self.port, &self.extra);
        self.wait();
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("memcached on {} ended with {status}", self.address());
            }
            assert!(start.elapsed() < SOON, "memcached on {} does not answer", self.address());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(ip: &str, port: u16, extra: &[String]) -> Child {
    Command::new("memcached")
        .args(["-l", ip, "-p", &port.to_string(), "-U", "0", "-u", "nobody", "-t", "1"])
        .args(extra)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("memcached is installed (tests/run installs it)")
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that shows the exact bytes.
pub(crate) struct Wire(TcpStream);

impl Wire {
    /// Connects to `ip:port`.
    pub(crate) fn connect(address: &str) -> Wire {
        let stream = TcpStream::connect(address).expect("a memcached listens there");
        stream.set_nodelay(true).expect("the socket takes an option");
        stream.set_read_timeout(Some(SOON)).expect("the socket takes a timeout");
        Wire(stream)
    }

    /// Writes bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).expect("the other side reads");
    }

    /// All bytes up to the answer of the fence `mn`, which is sent now; without that answer.
    pub(crate) fn fenced(&mut self) -> String {
        self.send("mn\r\n");
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        while !bytes.ends_with(b"MN\r\n") {
            let n = self.0.read(&mut chunk).expect("an answer in time");
            assert!(n > 0, "closed after {}", bytes.escape_ascii());
            bytes.extend_from_slice(&chunk[..n]);
        }
        bytes.truncate(bytes.len() - 4);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What is answered to these bytes.
    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.send(bytes);
        self.fenced()
    }

    /// All bytes until the other side closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = self.0.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

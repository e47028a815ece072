//! A real memcached of its own for each test that wants one.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    ops::{Deref, DerefMut},
    process::Command,
};

use super::{SOON, server::Server};

/// A memcached. It dies with this value.
pub(crate) struct Memcached(Server);

impl Deref for Memcached {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for Memcached {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

impl Memcached {
    /// A plain one.
    pub(crate) fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// One with further arguments, as on its command line.
    pub(crate) fn with(extra: &[&str]) -> Memcached {
        Memcached::of("memcached", extra)
    }

    /// The one that `RINGWAY_TEST_MEMCACHED` names: a newer one than is installed, perhaps.
    pub(crate) fn other() -> Option<Memcached> {
        let program = std::env::var("RINGWAY_TEST_MEMCACHED").ok().filter(|program| !program.is_empty())?;
        Some(Memcached::of(&program, &[]))
    }

    fn of(program: &str, extra: &[&str]) -> Memcached {
        let program = program.to_owned();
        let extra: Vec<String> = extra.iter().map(|&a| a.to_owned()).collect();
        let command = move |ip: &str, port: u16| {
            let mut command = Command::new(&program);
            command
                .args(["-l", ip, "-p", &port.to_string(), "-U", "0", "-u", "nobody", "-t", "1"])
                .args(&extra);
            command
        };
        Memcached(Server::start(command, |address| TcpStream::connect(address).is_ok()))
    }

    /// Several plain ones.
    pub(crate) fn several(count: usize) -> Vec<Memcached> {
        (0..count).map(|_| Memcached::start()).collect()
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

    /// One line, and no byte behind it.
    pub(crate) fn line(&mut self) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n") {
            let mut byte = [0];
            let n = self.0.read(&mut byte).expect("a line in time");
            assert!(n > 0, "closed after {}", bytes.escape_ascii());
            bytes.extend_from_slice(&byte);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends no more; what is answered can still be read.
    pub(crate) fn end(&mut self) {
        self.0.shutdown(Shutdown::Write).expect("a connection can end");
    }

    /// All bytes until the other side closes.
    pub(crate) fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = self.0.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

//! A real server process on loopback, whatever it speaks.

use std::{
    net::TcpListener,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::{SOON, signal};

/// Makes the command that serves at an ip and a port.
type Launch = Box<dyn Fn(&str, u16) -> Command + Send + Sync>;

/// How often a server is started anew that ends at once.
const TRIES: usize = 3;

/// The process. It dies with this value.
pub(crate) struct Server {
    child: Child,
    ip: String,
    port: u16,
    command: Launch,
    answers: fn(&str) -> bool,
}

/// An address in 127/8 that no other server of this process has. A server on it can be killed and
/// started again on its port: outgoing connections take their ports on 127.0.0.1, so none of them
/// can sit on it meanwhile.
pub(crate) fn loopback() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (next, pid) = (NEXT.fetch_add(1, Relaxed), std::process::id());
    format!("127.{}.{}.{}", 1 + pid % 200, 1 + next / 200 % 200, 1 + next % 200)
}

impl Server {
    /// Starts what `command` makes of an ip and a port; returns when `answers` says that the one at
    /// `ip:port` does.
    pub(crate) fn start(
        command: impl Fn(&str, u16) -> Command + Send + Sync + 'static,
        answers: fn(&str) -> bool,
    ) -> Server {
        let mut command: Launch = Box::new(command);
        for _ in 0..TRIES {
            let ip = loopback();
            let listener = TcpListener::bind((ip.as_str(), 0)).expect("loopback has a free port");
            let port = listener.local_addr().expect("it is bound").port();
            drop(listener);
            let child = spawn(command(&ip, port));
            let mut server = Server { child, ip, port, command, answers };
            match server.ready() {
                Ok(()) => return server,
                // Somebody else may have taken the port in between.
                Err(_) => command = std::mem::replace(&mut server.command, Box::new(|_, _| unreachable!())),
            }
        }
        panic!("a server ended {TRIES} times as soon as it was started");
    }

    /// The same at an address that the test has chosen.
    pub(crate) fn start_at(
        ip: String,
        port: u16,
        command: impl Fn(&str, u16) -> Command + Send + Sync + 'static,
        answers: fn(&str) -> bool,
    ) -> Server {
        let child = spawn(command(&ip, port));
        let mut server = Server { child, ip, port, command: Box::new(command), answers };
        server.wait();
        server
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
        self.child = spawn((self.command)(&self.ip, self.port));
        self.wait();
    }

    /// Starts it again on the same port after a kill, and does not wait until it serves.
    pub(crate) fn restart_unready(&mut self) {
        self.child = spawn((self.command)(&self.ip, self.port));
    }

    fn wait(&mut self) {
        let ready = self.ready();
        ready.unwrap_or_else(|status| panic!("the server on {} ended with {status}", self.address()));
    }

    /// Waits until it answers; how it ended if it did.
    fn ready(&mut self) -> Result<(), ExitStatus> {
        let start = Instant::now();
        while !(self.answers)(&self.address()) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(status);
            }
            assert!(start.elapsed() < SOON, "the server on {} does not answer", self.address());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn spawn(mut command: Command) -> Child {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; tests/run installs it"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! A real twemproxy (Debian's nutcracker), to show beside ringway what it does.

use std::{
    net::TcpStream,
    ops::{Deref, DerefMut},
    process::Command,
};

use tempfile::TempDir;

use super::{Redis, server::Server};

/// A twemproxy in front of redis-servers. It dies with this value.
pub(crate) struct Twemproxy {
    server: Server,
    dir: TempDir,
}

impl Deref for Twemproxy {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Twemproxy {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Twemproxy {
    /// One that takes nodes out after three failures and tries them again half a second later.
    pub(crate) fn start(nodes: &[Redis]) -> Twemproxy {
        let server = |(i, node): (usize, &Redis)| format!("    - {}:1 n{i}\n", node.address());
        let servers: String = nodes.iter().enumerate().map(server).collect();
        Twemproxy::with(format!(
            "  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  auto_eject_hosts: true\n  \
             server_failure_limit: 3\n  server_retry_timeout: 500\n  timeout: 200\n  servers:\n{servers}"
        ))
    }

    /// One with a pool `cache` that has these lines and `listen`.
    pub(crate) fn with(lines: String) -> Twemproxy {
        let dir = tempfile::tempdir().expect("a directory for its configuration");
        let path = dir.path().join("nutcracker.yml");
        let command = move |ip: &str, port: u16| {
            let config = format!("cache:\n  listen: {ip}:{port}\n{lines}");
            std::fs::write(&path, config).expect("its configuration can be written");
            let mut command = Command::new("nutcracker");
            // Its statistics would take a fixed port on all addresses; nobody else has this ip.
            let statistics = if port == u16::MAX { port - 1 } else { port + 1 };
            command.arg("--conf-file").arg(&path).args(["--stats-addr", ip]);
            command.args(["--stats-port", &statistics.to_string()]);
            command
        };
        Twemproxy { server: Server::start(command, |address| TcpStream::connect(address).is_ok()), dir }
    }

    /// Its configuration.
    pub(crate) fn config_path(&self) -> String {
        self.dir.path().join("nutcracker.yml").display().to_string()
    }
}

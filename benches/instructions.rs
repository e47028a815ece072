//! User-space instructions for a request, counted by callgrind: exact where times are noise. Each
//! load is run with N and with 2N requests, and the difference divided by N, so that what starting
//! and stopping cost falls out. All threads count but ringway's first one, which only starts the
//! others, and calibrates a clock for as long as that takes.
//!
//! ```text
//! cargo bench --bench instructions                      the table
//! cargo bench --bench instructions -- --check FILE      fails above a bound of FILE
//! cargo bench --bench instructions -- --twemproxy       the same loads through nutcracker
//! ```

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Redis-servers behind the proxy, as many memcacheds and as many nginxes.
const NODES: usize = 4;
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 64;
/// A process under callgrind starts slowly.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent: each connection writes `depth` requests, and when all have, all read their replies.
struct Load {
    name: &'static str,
    ask: Ask,
    connections: usize,
    depth: usize,
    rounds: usize,
}

/// What one request is.
enum Ask {
    /// Nine of ten requests are a GET, the tenth is a SET.
    Mixed,
    /// The same to memcached: `get` and `set`.
    Items,
    /// MGET of ten keys.
    Mget,
    /// MSET of ten keys.
    Mset,
    /// GET of a page of so many bytes over HTTP/1.1.
    Page(usize),
}

const LOADS: [Load; 9] = [
    Load { name: "no-pipelining", ask: Ask::Mixed, connections: 50, depth: 1, rounds: 400 },
    Load { name: "depth-16", ask: Ask::Mixed, connections: 50, depth: 16, rounds: 50 },
    Load { name: "depth-128", ask: Ask::Mixed, connections: 8, depth: 128, rounds: 50 },
    Load { name: "mget-10", ask: Ask::Mget, connections: 50, depth: 1, rounds: 100 },
    Load { name: "mset-10", ask: Ask::Mset, connections: 50, depth: 1, rounds: 100 },
    Load { name: "memcached", ask: Ask::Items, connections: 50, depth: 1, rounds: 400 },
    Load { name: "memcached-16", ask: Ask::Items, connections: 50, depth: 16, rounds: 50 },
    Load { name: "http-64", ask: Ask::Page(64), connections: 50, depth: 1, rounds: 100 },
    Load { name: "http-16k", ask: Ask::Page(16 << 10), connections: 50, depth: 1, rounds: 100 },
];

/// What the nodes of a load are: the order in which they have their ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Redis,
    Memcached,
    Http,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Protocol::Redis => "redis",
            Protocol::Memcached => "memcached",
            Protocol::Http => "http",
        }
    }
}

impl Ask {
    fn protocol(&self) -> Protocol {
        match self {
            Ask::Mixed | Ask::Mget | Ask::Mset => Protocol::Redis,
            Ask::Items => Protocol::Memcached,
            Ask::Page(_) => Protocol::Http,
        }
    }

    fn page_bytes(&self) -> Option<usize> {
        match self {
            Ask::Page(bytes) => Some(*bytes),
            _ => None,
        }
    }
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|a| a == "--bench") {
        println!("instructions are counted by `cargo bench --bench instructions`");
        return ExitCode::SUCCESS;
    }
    let twemproxy = arguments.iter().any(|a| a == "--twemproxy");
    let bounds = arguments.iter().position(|a| a == "--check").and_then(|at| arguments.get(at + 1));
    let only = arguments.iter().position(|a| a == "--only").and_then(|at| arguments.get(at + 1));
    let keep = arguments.iter().position(|a| a == "--keep").and_then(|at| arguments.get(at + 1));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ports = free_ports(3 * NODES + 2);
    let nodes: Vec<&[u16]> = ports[2..].chunks(NODES).collect();
    let mut processes: Vec<Process> = nodes[0].iter().map(|port| redis(*port, directory.path())).collect();
    processes.extend(nodes[1].iter().map(|port| memcached(*port)));
    processes.push(nginx(nodes[2], directory.path()));
    ports[2..].iter().for_each(|port| drop(connect(*port)));
    let mut too_many = false;
    println!("| load | requests | instructions per request |\n|---|---|---|");
    for load in LOADS.iter().filter(|l| only.is_none_or(|o| l.name == o)) {
        if twemproxy && load.ask.protocol() == Protocol::Http {
            continue;
        }
        let once = count(load, 1, &ports, directory.path(), twemproxy, keep);
        let twice = count(load, 2, &ports, directory.path(), twemproxy, keep);
        let requests = (load.connections * load.depth * load.rounds) as u64;
        let each = twice.checked_sub(once).expect("twice the requests take more") / requests;
        assert!(once > 0 && each > 0, "callgrind counted nothing");
        println!("| {} | {requests} | {each} |", load.name);
        let Some(file) = bounds else { continue };
        let bound = bound(Path::new(file), load.name).expect("each load has a bound");
        if each > bound {
            eprintln!("{}: {each} instructions per request, the bound is {bound}", load.name);
            too_many = true;
        }
    }
    if too_many { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn bound(file: &Path, load: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).expect("the file of bounds");
    text.lines().find_map(|line| line.strip_prefix(load)?.trim().parse().ok())
}

fn free_ports(count: usize) -> Vec<u16> {
    let bound: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    bound.iter().map(|l| l.local_addr().expect("bound").port()).collect()
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true).expect("a socket");
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "nobody listens on {port}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(command: &mut Command) -> Process {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Process(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

fn redis(port: u16, directory: &Path) -> Process {
    let port = port.to_string();
    let quiet = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    start(Command::new("redis-server").args(["--port", &port]).args(quiet).current_dir(directory))
}

fn memcached(port: u16) -> Process {
    let port = port.to_string();
    start(Command::new("memcached").args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &port]))
}

/// One nginx in the place of all HTTP nodes.
fn nginx(ports: &[u16], directory: &Path) -> Process {
    let listen: String = ports.iter().map(|port| format!("    listen 127.0.0.1:{port};\n")).collect();
    let pages: String = LOADS.iter().filter_map(|load| load.ask.page_bytes()).map(page).collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n  access_log off;\n  keepalive_timeout 1h;\n  \
         keepalive_requests 1000000000;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  \
         fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
         server {{\n{listen}{pages}    location = / {{ return 204; }}\n  }}\n}}\n"
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, text).expect("a temporary file");
    // Debian puts it where only root looks.
    let debian = Path::new("/usr/sbin/nginx");
    let program = if debian.exists() { debian } else { Path::new("nginx") };
    start(Command::new(program).arg("-p").arg(directory).arg("-c").arg(file))
}

/// What nginx answers with so many bytes; it takes no longer word than 4 KiB.
fn page(bytes: usize) -> String {
    let word = bytes.min(1 << 10);
    let body = "$x".to_owned() + &word.to_string();
    format!(
        "    set {body} {};\n    location /{bytes}/ {{ return 200 \"{}\"; }}\n",
        "x".repeat(word),
        format!("${{x{word}}}").repeat(bytes / word)
    )
}

/// Instructions of a proxy that lives for this load.
fn count(
    load: &Load,
    times: usize,
    ports: &[u16],
    directory: &Path,
    twemproxy: bool,
    keep: Option<&String>,
) -> u64 {
    let out = keep.map_or_else(|| directory.join("callgrind.out"), PathBuf::from);
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    if twemproxy {
        nutcracker(&mut command, ports, directory, load.ask.protocol())
    } else {
        ringway(&mut command, ports, directory, load.ask.protocol())
    }
    // Of the run before.
    (1..64).for_each(|thread| drop(std::fs::remove_file(thread_file(&out, thread))));
    let mut proxy = start(&mut command);
    let mut sessions: Vec<TcpStream> = (0..load.connections).map(|_| connect(ports[0])).collect();
    match load.ask.protocol() {
        Protocol::Redis => preset(&mut sessions[0], set, "+OK\r\n"),
        Protocol::Memcached => preset(&mut sessions[0], set_item, "STORED\r\n"),
        Protocol::Http => {}
    }
    run(load, times, &mut sessions);
    drop(sessions);
    let pid = proxy.0.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.is_ok_and(|s| s.success()), "the proxy is gone before its end");
    proxy.0.wait().expect("the proxy ends");
    let first = if twemproxy { 1 } else { 2 };
    (first..).map_while(|thread| totals(&thread_file(&out, thread))).sum()
}

fn thread_file(out: &Path, thread: usize) -> PathBuf {
    PathBuf::from(format!("{}-{thread:02}", out.display()))
}

fn ringway(command: &mut Command, ports: &[u16], directory: &Path, protocol: Protocol) {
    let (first, protocol) = (2 + NODES * protocol as usize, protocol.word());
    let node = |i| format!("      - {{name: n{i}, address: '127.0.0.1:{}'}}\n", ports[first + i]);
    let nodes: String = (0..NODES).map(node).collect();
    let text = format!(
        "workers: 1\nadmin: {{listen: '127.0.0.1:{}'}}\npools:\n  instructions:\n    listen: 127.0.0.1:{}\n    \
         protocol: {protocol}\n    request_timeout: 30s\n    deadline: 60s\n    \
         connect_timeout: 30s\n    health: {{timeout: 30s, interval: 30s}}\n    nodes:\n{nodes}",
        ports[1], ports[0]
    );
    let file = directory.join("ringway.yaml");
    std::fs::write(&file, text).expect("a temporary file");
    command.arg(env!("CARGO_BIN_EXE_ringway")).args(["serve", "--config"]).arg(file);
}

fn nutcracker(command: &mut Command, ports: &[u16], directory: &Path, protocol: Protocol) {
    let first = 2 + NODES * protocol as usize;
    let servers: String =
        (0..NODES).map(|i| format!("   - 127.0.0.1:{}:1 n{i}\n", ports[first + i])).collect();
    let text = format!(
        "instructions:\n  listen: 127.0.0.1:{}\n  redis: {}\n  hash: fnv1a_64\n  hash_tag: '{{}}'\n  \
         distribution: ketama\n  timeout: 60000\n  servers:\n{servers}",
        ports[0],
        protocol == Protocol::Redis
    );
    let file = directory.join("nutcracker.yml");
    std::fs::write(&file, text).expect("a temporary file");
    let stats = ports[1].to_string();
    // Debian puts it where only root looks.
    let debian = Path::new("/usr/sbin/nutcracker");
    let program = if debian.exists() { debian } else { Path::new("nutcracker") };
    command.arg(program).args(["-a", "127.0.0.1", "-s", &stats, "-c"]).arg(file);
}

fn key(i: usize) -> String {
    format!("key:{:012}", i % KEYS)
}

fn request(bytes: &mut Vec<u8>, args: &[&str]) {
    bytes.extend(format!("*{}\r\n", args.len()).bytes());
    args.iter().for_each(|arg| bytes.extend(format!("${}\r\n{arg}\r\n", arg.len()).bytes()));
}

fn set(bytes: &mut Vec<u8>, key: &str, value: &str) {
    request(bytes, &["SET", key, value]);
}

fn set_item(bytes: &mut Vec<u8>, key: &str, value: &str) {
    bytes.extend(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).bytes());
}

/// Gives every key its value.
fn preset(session: &mut TcpStream, set: fn(&mut Vec<u8>, &str, &str), answer: &str) {
    let value = "x".repeat(VALUE_BYTES);
    for first in (0..KEYS).step_by(1000) {
        let mut bytes = Vec::new();
        (first..first + 1000).for_each(|i| set(&mut bytes, &key(i), &value));
        session.write_all(&bytes).expect("the proxy takes requests");
        let mut reply = vec![0; 1000 * answer.len()];
        session.read_exact(&mut reply).expect("the proxy answers");
        assert!(reply == answer.repeat(1000).as_bytes(), "{}", reply.escape_ascii());
    }
}

/// Writes the request of this number and its reply.
fn ask(kind: &Ask, number: usize, request_bytes: &mut Vec<u8>, reply: &mut Vec<u8>) {
    let value = "x".repeat(VALUE_BYTES);
    let hit = format!("${VALUE_BYTES}\r\n{value}\r\n");
    let keys: Vec<String> = (0..10).map(|i| key((number * 10 + i) * 7919)).collect();
    match kind {
        Ask::Mixed if number % 10 == 9 => {
            set(request_bytes, &key(number * 7919), &value);
            reply.extend(b"+OK\r\n");
        }
        Ask::Mixed => {
            request(request_bytes, &["GET", &key(number * 7919)]);
            reply.extend(hit.bytes());
        }
        Ask::Items if number % 10 == 9 => {
            set_item(request_bytes, &key(number * 7919), &value);
            reply.extend(b"STORED\r\n");
        }
        Ask::Items => {
            let key = key(number * 7919);
            request_bytes.extend(format!("get {key}\r\n").bytes());
            reply.extend(format!("VALUE {key} 0 {VALUE_BYTES}\r\n{value}\r\nEND\r\n").bytes());
        }
        Ask::Mget => {
            let mut args = vec!["MGET"];
            args.extend(keys.iter().map(String::as_str));
            request(request_bytes, &args);
            reply.extend(b"*10\r\n");
            (0..10).for_each(|_| reply.extend(hit.bytes()));
        }
        Ask::Mset => {
            let mut args = vec!["MSET"];
            keys.iter().for_each(|key| args.extend([key.as_str(), value.as_str()]));
            request(request_bytes, &args);
            reply.extend(b"+OK\r\n");
        }
        Ask::Page(bytes) => {
            let head = format!("GET /{bytes}/{} HTTP/1.1\r\nHost: pages\r\n\r\n", key(number * 7919));
            request_bytes.extend(head.bytes());
            reply.resize(reply.len() + bytes, b'x');
        }
    }
}

fn run(load: &Load, times: usize, sessions: &mut [TcpStream]) {
    let mut next = 0;
    for _ in 0..load.rounds * times {
        let mut expected = Vec::new();
        for session in sessions.iter_mut() {
            let (mut bytes, mut replies) = (Vec::new(), Vec::new());
            for _ in 0..load.depth {
                ask(&load.ask, next, &mut bytes, &mut replies);
                next += 1;
            }
            session.write_all(&bytes).expect("the proxy takes requests");
            expected.push(replies);
        }
        for (session, expected) in sessions.iter_mut().zip(expected) {
            if load.ask.protocol() == Protocol::Http {
                pass_head(session);
            }
            let mut reply = vec![0; expected.len()];
            session.read_exact(&mut reply).expect("the proxy answers");
            assert!(reply == expected, "{}", reply.escape_ascii());
        }
    }
}

/// Reads to the end of an HTTP reply's head, which has a date.
fn pass_head(session: &mut TcpStream) {
    let mut end = [0; 4];
    while end != *b"\r\n\r\n" {
        end.rotate_left(1);
        session.read_exact(&mut end[3..]).expect("the proxy answers");
    }
}

/// What callgrind counted in a thread; none when there was no such thread.
fn totals(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    Some(total.unwrap_or_else(|| panic!("no totals in {}", file.display())))
}

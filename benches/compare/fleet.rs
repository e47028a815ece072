//! Processes: all that the bench starts, on which core, with its files in one directory. All of it
//! ends with the bench, however that ends.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Resource, getrlimit, setrlimit},
    thread::sched_getaffinity,
};
use tempfile::TempDir;

use crate::load::{Failure, Wire};

/// Nodes behind each proxy.
pub(crate) const NODES: usize = 4;
/// How long a program may take until it listens.
const START_MAX: Duration = Duration::from_secs(15);

/// Where a process may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The last core, which only what is measured uses.
    Measured,
    /// The others.
    Others,
    /// Any.
    Anywhere,
}

/// The machine's cores, divided.
pub(crate) struct Cores {
    /// None when there is only one.
    pub(crate) measured: Option<usize>,
    /// Those of the generator and the nodes.
    pub(crate) others: Vec<usize>,
}

/// The nodes, and the directory.
pub(crate) struct Fleet {
    pub(crate) cores: Cores,
    /// What the nodes speak.
    pub(crate) wire: Wire,
    pub(crate) nodes: Vec<SocketAddr>,
    /// Descriptors that one process may have.
    pub(crate) descriptors: u64,
    /// Further lines of ringway's configuration.
    pub(crate) extra: String,
    running: Vec<Server>,
    dir: TempDir,
}

/// A running program. It is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Fleet {
    /// One whose nodes are others' to start.
    pub(crate) fn without_nodes(wire: Wire) -> Result<Fleet, Failure> {
        let dir = tempfile::Builder::new().prefix("ringway-bench-").tempdir()?;
        end_on_signals(dir.path().to_owned())?;
        let (cores, descriptors) = (Cores::divide()?, raise_descriptors());
        Ok(Fleet {
            cores,
            wire,
            nodes: Vec::new(),
            descriptors,
            extra: String::new(),
            running: Vec::new(),
            dir,
        })
    }

    /// Starts the nodes.
    pub(crate) fn start(node: &Path, wire: Wire) -> Result<Fleet, Failure> {
        let mut fleet = Fleet::without_nodes(wire)?;
        for port in free_ports(NODES)? {
            let arguments = fleet.node_arguments(port)?;
            let server = fleet.run(node, &arguments, port, Place::Others)?;
            fleet.nodes.push(server.address);
            fleet.running.push(server);
        }
        Ok(fleet)
    }

    /// The arguments of a node: it keeps nothing on disk and refuses no client.
    pub(crate) fn node_arguments(&self, port: u16) -> Result<Vec<String>, Failure> {
        let port_text = port.to_string();
        let words: Vec<&str> = match self.wire {
            Wire::Redis => return Ok(redis_arguments(port)),
            Wire::Memcached => {
                let options = ["-l", "127.0.0.1", "-p", &port_text, "-t", "1", "-c", "15000", "-m", "512"];
                // Root may not run it without a user, and then it is root all the same.
                [&options[..], &["-u", "root"]].concat()
            }
            Wire::Http => {
                let config = self.file(&format!("{port}.conf"), &nginx_node(port))?;
                return Ok(self.nginx_arguments(&config.display().to_string()));
            }
        };
        Ok(words.into_iter().map(str::to_owned).collect())
    }

    /// The arguments of an nginx with this configuration.
    pub(crate) fn nginx_arguments(&self, config: &str) -> Vec<String> {
        let dir = format!("{}/", self.dir.path().display());
        ["-p", &dir, "-c", config].map(str::to_owned).into()
    }

    /// Writes a file for a program.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.dir.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Runs a program, and returns when it listens on its port.
    pub(crate) fn run(
        &self,
        program: &Path,
        arguments: &[String],
        port: u16,
        place: Place,
    ) -> Result<Server, Failure> {
        let log_path = self.dir.path().join(format!("{port}.log"));
        let log = File::create(&log_path)?;
        let child = self
            .command(program, place)
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut server = Server { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) };
        let start = Instant::now();
        while TcpStream::connect(server.address).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || start.elapsed() > START_MAX {
                let said = fs::read_to_string(&log_path).unwrap_or_default();
                return Err(format!("{} does not listen ({ended:?}):\n{said}", program.display()).into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// A command that dies with this process and runs on its cores, as far as util-linux is there.
    fn command(&self, program: &Path, place: Place) -> Command {
        let mut words = dies_with_this();
        let cores: Vec<usize> = match place {
            Place::Measured => self.cores.measured.into_iter().collect(),
            Place::Others => self.cores.others.clone(),
            Place::Anywhere => Vec::new(),
        };
        if !cores.is_empty() && find("taskset").is_some() {
            let list = cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            words.extend(["taskset".to_owned(), "-c".to_owned(), list]);
        }
        let Some(first) = words.first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(&words[1..]).arg(program);
        command
    }
}

/// What stands before a program so that it dies with this process, however that ends.
pub(crate) fn dies_with_this() -> Vec<String> {
    let is_there = find("setpriv").is_some();
    if is_there { ["setpriv", "--pdeathsig", "KILL"].map(str::to_owned).into() } else { Vec::new() }
}

impl Cores {
    fn divide() -> Result<Cores, Failure> {
        let set = sched_getaffinity(None)?;
        let mut others: Vec<usize> =
            (0..rustix::thread::CpuSet::MAX_CPU).filter(|&i| set.is_set(i)).collect();
        let measured = if others.len() > 1 { others.pop() } else { None };
        Ok(Cores { measured, others })
    }
}

/// The arguments of a redis-server that keeps nothing and refuses no client.
pub(crate) fn redis_arguments(port: u16) -> Vec<String> {
    let port = port.to_string();
    let options = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let more = ["--maxclients", "15000", "--loglevel", "warning"];
    options.iter().chain(&more).map(|&word| word.to_owned()).collect()
}

/// nginx in one process, with connections that nobody closes.
pub(crate) const NGINX: &str = "daemon off;
master_process off;
pid nginx.pid;
error_log stderr crit;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
";

/// A node that answers with the path and filling: 64 bytes, or 16 KiB for paths with a `p` in second
/// place.
fn nginx_node(port: u16) -> String {
    let (x47, x1024, x1007) = ("x".repeat(47), "x".repeat(1024), "x".repeat(1007));
    let many = "${kib}".repeat(15);
    format!(
        "{NGINX}  server {{\n    listen 127.0.0.1:{port};\n    set $kib {x1024};\n    location ~ ^/.p {{ return 200 \
         \"${{uri}}{x1007}{many}\"; }}\n    location / {{ return 200 \"${{uri}}{x47}\"; }}\n  }}\n}}\n"
    )
}

/// Ports that nobody uses now: all are held until the last one is known.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect::<std::io::Result<_>>()?)
}

/// A program's path; Debian keeps some where only root looks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Takes all the descriptors that this process may have; the programs inherit the limit.
fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// On Ctrl-C and SIGTERM: the directory goes, the programs die with this process.
fn end_on_signals(dir: PathBuf) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut term) = signal(SignalKind::terminate()) else { return };
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            let _ = fs::remove_dir_all(&dir);
            std::process::exit(130);
        });
    });
    Ok(())
}

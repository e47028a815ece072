//! `ringway serve`: start, say where, follow signals, stop.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{interval, sleep},
};

use super::{
    App,
    log::{Log, fatal},
    reload::Reloaded,
};
use crate::{
    admin::LastReload,
    cli::Serve,
    clock,
    config::{Settings, Source},
    metrics::count_reload,
    net::{Address, HandedSockets, ListenAddress},
    protocol::Protocol,
    topology::PoolSpec,
};

/// How often a watched file is looked at. Its content is compared: a file that is swapped by a
/// link, as mounted configuration is, sends no other sign.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Runs until a signal ends it.
pub fn serve(serve: Serve) -> ExitCode {
    let Serve { loaded, source, log: format, log_level } = serve;
    // Before there is a second thread.
    let handed = HandedSockets::take();
    let mut log = Log::start(format, &log_level);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_descriptors();
    // Signals are taken from the beginning: one that comes early waits.
    let started = Builder::new_current_thread().enable_all().build();
    let (runtime, signals) = match started.and_then(|r| r.block_on(async { Signals::take() }).map(|s| (r, s)))
    {
        Ok(started) => started,
        Err(error) => {
            fatal(format, &format!("can't follow signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let handed = match handed {
        Ok(handed) => handed,
        Err(error) => {
            fatal(format, &format!("can't use what was handed over to listen on (LISTEN_FDS): {error}"));
            return ExitCode::FAILURE;
        }
    };
    let app = match App::start(loaded.settings.clone(), handed) {
        Ok(app) => app,
        Err(error) => {
            fatal(format, &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    // Nobody has to read it.
    let _ = std::io::stdout().write_all(banner(&app, &loaded.settings, &source).as_bytes());
    tell_supervisor(NotifyState::Ready);
    let is_finished = runtime.block_on(async {
        let mut signals = signals;
        follow(&mut signals, &app, &source, &mut log).await;
        linger(&mut signals, app.announce_drain()).await;
        drain(&mut signals, app).await
    });
    if is_finished {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped at drain_timeout, or a further signal, with sessions that were not finished");
    }
    ExitCode::SUCCESS
}

/// Tells whoever started the process, if it wants to know (sd_notify(3)).
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "can't tell who started ringway how it is (NOTIFY_SOCKET)");
    }
}

/// Takes as many descriptors as the process may have: the soft limit is there for programs that use `select`.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current, maximum, "can't raise the soft limit of open files to the hard one");
    }
}

/// What a person sees first.
fn banner(app: &App, settings: &Settings, source: &Source) -> String {
    let mut text = format!("ringway {} with {source}\n", env!("CARGO_PKG_VERSION"));
    let (mut tries, mut tried) = (String::new(), Vec::new());
    for (pool, address) in app.addresses() {
        let spec = settings.pools.iter().find(|p| p.name == pool);
        let nodes = spec.map_or(0, |p: &PoolSpec| p.nodes.len());
        let is_embedded = |p: &PoolSpec| p.nodes.iter().any(|n| n.address == Address::Embedded);
        let note = if spec.is_some_and(is_embedded) { "; embedded ones keep strings, in memory" } else { "" };
        let protocol = spec.map_or(Protocol::Redis, |p| p.policy.protocol);
        text += &format!("pool {pool} listens on {address} ({}, {nodes} nodes{note})\n", protocol.word());
        if !tried.contains(&protocol)
            && let ListenAddress::Tcp(address) = address
        {
            tried.push(protocol);
            tries += &format!("     {}\n", a_try(protocol, address));
        }
    }
    let admin = app.admin_address();
    text += &format!("admin listens on http://{admin}\ndashboard http://{admin}/\n");
    tries += &format!("     curl http://{admin}/v1/topology\n");
    text + "try:" + &tries["try:".len()..]
}

/// A command that shows that a pool with this protocol works.
fn a_try(protocol: Protocol, at: SocketAddr) -> String {
    // Not every program takes the address that stands for all of them.
    let (local, host) = match at {
        SocketAddr::V4(_) => (IpAddr::from(Ipv4Addr::LOCALHOST), at.ip()),
        SocketAddr::V6(_) => (IpAddr::from(Ipv6Addr::LOCALHOST), at.ip()),
    };
    let ip = if host.is_unspecified() { local } else { host };
    let (at, port) = (SocketAddr::new(ip, at.port()), at.port());
    match protocol {
        Protocol::Redis if ip == Ipv4Addr::LOCALHOST => format!("redis-cli -p {port} set a 1"),
        Protocol::Redis => format!("redis-cli -h {ip} -p {port} set a 1"),
        Protocol::Memcached => {
            format!("printf 'set a 0 0 1\\r\\n1\\r\\nget a\\r\\nquit\\r\\n' | nc {ip} {port}")
        }
        Protocol::Http => format!("curl -i http://{at}/"),
    }
}

/// What the process is told from outside.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Rotating scripts send them to all that logs: they must not end the process.
    _ignored: [Signal; 2],
}

impl Signals {
    fn take() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            _ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }

    /// Waits for one that ends the process.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns when it is time to stop.
async fn follow(signals: &mut Signals, app: &App, source: &Source, log: &mut Log) {
    let mut looks = interval(WATCH_INTERVAL);
    let mut seen = source.fingerprint().ok();
    loop {
        // Signals are kept until they are taken, and a look that is missed comes again.
        tokio::select! {
            _ = signals.interrupt.recv() => return,
            _ = signals.terminate.recv() => return,
            _ = signals.hangup.recv() => reload(app, source).await,
            _ = looks.tick() => {
                log.tell_dropped();
                let now = source.fingerprint().ok();
                if app.watches() && now.is_some() && now != seen {
                    reload(app, source).await;
                }
                seen = now.or(seen);
            }
        }
    }
}

/// Ends; whether what was in flight was finished. A further signal does not wait for that.
async fn drain(signals: &mut Signals, app: App) -> bool {
    tell_supervisor(NotifyState::Stopping);
    tracing::info!("draining: no new clients, what is in flight is finished");
    let is_urged = Arc::new(AtomicBool::new(false));
    let urged = is_urged.clone();
    let mut stopping = spawn_blocking(move || app.stop(&urged));
    loop {
        tokio::select! {
            ended = &mut stopping => return ended.unwrap_or(false),
            () = signals.end() => {
                tracing::info!("a further signal: what is in flight is not waited for");
                is_urged.store(true, Relaxed);
            }
        }
    }
}

/// Serves on for a while, in which whoever asks `/readyz` learns to send clients elsewhere; a second signal
/// ends it.
async fn linger(signals: &mut Signals, delay: Duration) {
    if delay.is_zero() {
        return;
    }
    tracing::info!(
        ?delay,
        "going away: /readyz says so, and clients are served as before until the drain begins"
    );
    tokio::select! {
        () = sleep(delay) => {}
        () = signals.end() => {}
    }
}

async fn reload(app: &App, source: &Source) {
    let loaded = match source.load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            let why = errors.findings.iter().map(ToString::to_string).collect();
            return refused(app, "invalid", Reloaded { refused: why, ..Reloaded::default() });
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match app.reload(loaded.settings).await {
        Ok(done) => {
            for (pool, moved) in &done.moved {
                tracing::info!(%pool, moved = format!("{moved:.6}"), "reloaded");
            }
            for key in &done.needs_restart {
                tracing::warn!("{key} changed: only a restart puts it in force");
            }
            if !done.refused.is_empty() {
                return refused(app, if done.in_part { "partly" } else { "refused" }, done);
            }
            count_reload("ok");
            app.reloaded(done);
        }
        Err(error) => {
            refused(app, "invalid", Reloaded { refused: vec![error.to_string()], ..Reloaded::default() });
        }
    }
}

/// A reload comes to nothing, or not to all: says why, here and to who asks the admin port.
fn refused(app: &App, outcome: &'static str, done: Reloaded) {
    count_reload(outcome);
    let what = match done.in_part {
        true => "reload refused in part, the old settings of this pool stay and all others are in force",
        false => "reload refused, the old settings stay",
    };
    for why in &done.refused {
        tracing::error!("{what}: {why}");
    }
    app.reloaded(done);
}

impl App {
    /// Tells the admin port what came of a reload.
    fn reloaded(&self, done: Reloaded) {
        let at_ms = clock::unix_ms();
        let Reloaded { refused, in_part, needs_restart, .. } = done;
        self.admin.reloaded(LastReload { at_ms, refused, in_part, needs_restart });
    }

    /// Whether the configuration's file is watched.
    fn watches(&self) -> bool {
        self.lock().settings.reload.watch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What to try fits the protocol and reaches the listener, also one on all addresses.
    #[test]
    fn a_table_of_tries() {
        for (protocol, at, expected) in [
            (Protocol::Redis, "127.0.0.1:6380", "redis-cli -p 6380 set a 1"),
            (Protocol::Redis, "0.0.0.0:6380", "redis-cli -p 6380 set a 1"),
            (Protocol::Redis, "127.0.0.2:6380", "redis-cli -h 127.0.0.2 -p 6380 set a 1"),
            (Protocol::Redis, "[::]:6380", "redis-cli -h ::1 -p 6380 set a 1"),
            (Protocol::Http, "0.0.0.0:8080", "curl -i http://127.0.0.1:8080/"),
            (Protocol::Http, "[::1]:8080", "curl -i http://[::1]:8080/"),
        ] {
            assert_eq!(a_try(protocol, at.parse().expect("an address")), expected);
        }
        let memcached = a_try(Protocol::Memcached, "0.0.0.0:11311".parse().expect("an address"));
        assert!(memcached.ends_with("\\r\\nquit\\r\\n' | nc 127.0.0.1 11311"), "{memcached}");
    }
}

//! The only room that knows all others: it builds them, hands each its end of each channel, and
//! takes them down in order.
//!
//! Threads: one for the control plane, one that accepts, one per data worker, and one for the
//! embedded nodes if there are any. If control stops, clients are still accepted and served.

mod embedded;
mod log;
mod pools;
mod reload;
mod serve;
mod state_file;
mod thread;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use crate::{
    admin::{self, AdminState, Keeping},
    clock,
    config::Settings,
    health::{Buffers, Lag, Scene},
    incident::FileSettings,
    membership::{self, Membership},
    metrics,
    net::{HandedSockets, ListenAddress, Listener, Reserve},
    proxy::{self, Memory, Order, Workers},
};
use embedded::EmbeddedNodes;
use pools::OpenPool;
pub use reload::Reloaded;
pub use serve::serve;
use state_file::StateFile;
use thread::Thread;

/// Why ringway did not start, or could not take a change.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A port is taken, a directory is missing, no permission.
    #[error("{who}: can't listen on {address}: {error}{}", remedy(.error, .address))]
    Listen {
        /// `pool NAME` or `admin`.
        who: String,
        /// Where.
        address: ListenAddress,
        /// What the system says.
        error: io::Error,
    },
    /// No thread or runtime.
    #[error("can't start the {what} thread: {error}")]
    Thread {
        /// Which.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// The state file can't be read.
    #[error("{}", membership::unreadable(.path, .error))]
    State {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        error: io::Error,
    },
    /// An embedded node did not start.
    #[error("pool {pool}: can't start the embedded node {node}: {error}")]
    Embedded {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
        /// What the system says.
        error: io::Error,
    },
}

/// What to do about an address that can't be had.
fn remedy(error: &io::Error, address: &ListenAddress) -> String {
    let what = match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, ListenAddress::Tcp(at)) => {
            format!(
                "stop who listens there (`ss -ltnp 'sport = :{}'` names it), or write another address",
                at.port()
            )
        }
        (io::ErrorKind::AddrInUse, ListenAddress::Unix(_)) => {
            "stop who listens there, or write another path".to_owned()
        }
        (io::ErrorKind::AddrNotAvailable, _) => "this machine has no such address".to_owned(),
        (io::ErrorKind::PermissionDenied, ListenAddress::Tcp(at)) if at.port() < 1024 => {
            "ports below 1024 take the capability CAP_NET_BIND_SERVICE".to_owned()
        }
        (io::ErrorKind::NotFound, ListenAddress::Unix(_)) => "its directory is not there".to_owned(),
        _ => return String::new(),
    };
    format!("; {what}")
}

/// A running ringway.
pub struct App {
    control: Thread,
    accepting: Thread,
    embedded: Arc<EmbeddedNodes>,
    workers: Workers,
    reserve: Arc<Reserve>,
    /// Open before the first client came.
    own_descriptors: u64,
    worker_threads: Vec<Thread>,
    membership: membership::Handle,
    ids: membership::IdSource,
    admin: AdminState,
    admin_address: ListenAddress,
    admin_stop: Option<oneshot::Sender<()>>,
    /// Ends when the admin port has given its last answer.
    admin_ended: Mutex<std::sync::mpsc::Receiver<()>>,
    scene: Scene,
    run_id: Arc<str>,
    state_file: StateFile,
    /// Sockets of whoever started the process.
    handed: HandedSockets,
    /// The pools and the settings that are in force.
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    pools: Vec<OpenPool>,
    next_pool: u64,
}

impl App {
    /// Starts everything; when it returns, all listeners listen, on sockets that were handed over where there
    /// are such.
    ///
    /// # Errors
    /// The first [`AppError`]; nothing is left behind.
    pub fn start(settings: Settings, handed: HandedSockets) -> Result<App, AppError> {
        // From here on `uptime` counts.
        proxy::started();
        let recorder = metrics::facade();
        let keeping = Arc::<Keeping>::default();
        let state_file = StateFile::open(settings.state_file.clone(), keeping.clone())?;
        let control = Thread::start("control")?;
        let accepting = Thread::start("accept")?;
        let embedded = Arc::new(EmbeddedNodes::default());
        let memory = Arc::new(Memory::new(settings.buffered_bytes));
        let (worker_threads, orders) = start_workers(&settings, &memory)?;
        let found = embedded.clone();
        let ids = membership::IdSource::default();
        let lag = Lag::new();
        let scene = Scene::new(lag.clone());
        let (task, membership) = Membership::new(membership::Settings {
            scene: scene.clone(),
            workers: settings.workers,
            max_share: settings.reload.max_share,
            ids: ids.clone(),
            embedded: Arc::new(move |pool, node| found.target(pool, &node.name)),
            incident_file: settings
                .incidents
                .file
                .clone()
                .map(|path| FileSettings { path, bytes_max: settings.incidents.file_bytes_max }),
        });
        control.spawn(task.run());
        control.spawn(lag.run());
        let reserve = Arc::<Reserve>::default();
        control.spawn(scene.clone().look_after_process(move || buffers(&memory), reserve.clone()));
        let run_id = run_id();
        let mut admin = AdminState::new(Vec::new(), membership.clone(), recorder, run_id.clone());
        admin.keeping = keeping;
        let listener = bind(&control, &handed, "admin", &settings.admin.listen)?;
        let admin_address = listener.address();
        let (admin_stop, admin_ended) = serve_admin(&control, listener, admin.clone());
        let app = App {
            control,
            accepting,
            embedded,
            workers: Workers::new(orders, reserve.clone()),
            reserve,
            own_descriptors: metrics::Process::read().open_fds.unwrap_or_default(),
            worker_threads,
            membership,
            ids,
            admin,
            admin_address,
            admin_stop: Some(admin_stop),
            admin_ended: Mutex::new(admin_ended),
            scene,
            run_id,
            state_file,
            handed,
            state: Mutex::new(State { settings: settings.clone(), pools: Vec::new(), next_pool: 0 }),
        };
        let mut listening = Vec::new();
        for spec in &settings.pools {
            listening.push(app.listen(spec, &[], &[])?);
            app.embedded.start(spec)?;
        }
        for (spec, listeners) in settings.pools.iter().zip(listening) {
            app.open(&Arc::new(spec.clone()), listeners);
        }
        // A start that came to nothing has written nothing.
        app.state_file.start()?;
        app.pools_changed();
        Ok(app)
    }

    /// What follows from other pools, or others of their settings.
    fn pools_changed(&self) {
        self.keep_descriptors();
        self.show_pools();
        self.warn_of_unused_sockets();
    }

    /// Says which sockets that were handed over nobody accepts on: clients wait in them.
    fn warn_of_unused_sockets(&self) {
        let state = self.lock();
        let listeners = || state.pools.iter().flat_map(|pool| &pool.listeners);
        let used: Vec<&ListenAddress> =
            listeners().map(|l| &l.address).chain([&self.admin_address]).collect();
        for address in self.handed.addresses().filter(|address| !used.contains(address)) {
            tracing::warn!(%address, "a socket was handed over for it, and no pool listens there: clients wait in vain");
        }
    }

    /// Has clients leave as many descriptors as all else may want.
    fn keep_descriptors(&self) {
        let wanted = self.lock().settings.descriptors_wanted();
        if let Some(max) = metrics::Process::read().max_fds {
            self.reserve.keep(max, self.own_descriptors, wanted);
            tracing::info!(
                descriptors = max,
                clients = self.reserve.ceiling(),
                "files and sockets that may be open at once, and from where on clients are refused"
            );
        }
    }

    /// Where the pools listen, in the order of the configuration, with the ports that the kernel
    /// chose.
    pub fn addresses(&self) -> Vec<(Arc<str>, ListenAddress)> {
        let state = self.lock();
        let of = |pool: &OpenPool| -> Vec<_> {
            pool.listeners.iter().map(|l| (pool.handle.name.clone(), l.address.clone())).collect()
        };
        state.pools.iter().flat_map(of).collect()
    }

    /// Where the admin port listens.
    pub fn admin_address(&self) -> &ListenAddress {
        &self.admin_address
    }

    /// The runtime of the control plane.
    pub fn control(&self) -> &Handle {
        self.control.handle()
    }

    /// Says that the process is going away, and serves on; how long for.
    pub fn announce_drain(&self) -> Duration {
        self.admin.drain();
        self.lock().settings.drain_delay
    }

    /// Stops: no new clients, what is in flight is answered, all is closed. Gives whether that was
    /// done within `drain_timeout`, and before somebody was in a hurry.
    pub fn stop(mut self, is_urged: &AtomicBool) -> bool {
        self.admin.drain();
        let deadline = Instant::now() + self.lock().settings.drain_timeout;
        // Clients that wait to be accepted are taken first: closing a listener resets them.
        let stopping: Vec<_> = self.lock().pools.iter_mut().flat_map(|p| p.listeners.drain(..)).collect();
        for listening in stopping {
            listening.stop();
        }
        self.workers.tell(|| Order::Drain);
        let joined: Vec<bool> =
            self.worker_threads.drain(..).map(|t| t.join_until(deadline, is_urged)).collect();
        let in_time = joined.iter().all(|in_time| *in_time);
        self.warn_of_absences();
        self.settle();
        self.state_file.close(SETTLE_MAX);
        drop(self.admin_stop.take());
        // Ends when the sender is dropped.
        let _ = self.admin_ended.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(ADMIN_STOP);
        self.control.stop();
        self.embedded.stop();
        self.accepting.stop();
        in_time
    }

    /// Waits until the incidents that are over are written down.
    fn settle(&self) {
        let (end, ended) = std::sync::mpsc::channel();
        let membership = self.membership.clone();
        self.control.spawn(async move {
            membership.settle().await;
            // Nobody may be waiting any more.
            let _ = end.send(());
        });
        // A disk that takes nothing must not keep the process.
        let _ = ended.recv_timeout(SETTLE_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the admin port until the sender is dropped; the receiver ends when its last answer is given.
fn serve_admin(
    control: &Thread,
    listener: Listener,
    admin: AdminState,
) -> (oneshot::Sender<()>, std::sync::mpsc::Receiver<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (end, ended) = std::sync::mpsc::channel();
    control.spawn(async move {
        let stopped = async {
            // A dropped sender means the same.
            let _ = stopped.await;
        };
        admin::serve(listener, admin, stopped).await;
        drop(end);
    });
    (stop, ended)
}

/// How long the admin port may take to finish its last answers.
const ADMIN_STOP: Duration = Duration::from_millis(200);

fn buffers(memory: &Memory) -> Buffers {
    let (used, limit) = memory.used();
    Buffers { used: used as u64, limit: limit as u64, closed: memory.closed() as u64 }
}

/// How long the last incidents, and the state, may take to be written.
const SETTLE_MAX: Duration = Duration::from_millis(500);

/// The threads of the data plane, and the ways to them.
fn start_workers(
    settings: &Settings,
    memory: &Arc<Memory>,
) -> Result<(Vec<Thread>, Vec<mpsc::UnboundedSender<Order>>), AppError> {
    let (mut threads, mut orders) = (Vec::new(), Vec::new());
    for index in 0..settings.workers {
        let (sender, receiver) = mpsc::unbounded_channel::<Order>();
        threads.push(Thread::worker(index, memory.clone(), settings.coalesce, receiver)?);
        orders.push(sender);
    }
    Ok((threads, orders))
}

/// Listens, on the socket that was handed over for it if there is one.
fn bind(
    on: &Thread,
    handed: &HandedSockets,
    who: &str,
    address: &ListenAddress,
) -> Result<Listener, AppError> {
    let _inside = on.handle().enter();
    let listener = match handed.listener(address) {
        Ok(None) => Listener::bind(address),
        Ok(Some(listener)) => Ok(listener),
        Err(error) => Err(error),
    };
    listener.map_err(|error| AppError::Listen { who: who.to_owned(), address: address.clone(), error })
}

/// 40 hexadecimal digits, as Redis's run_id has: they tell one start from the next.
fn run_id() -> Arc<str> {
    let now = clock::unix();
    let seed = now.as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
    let word = |i: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&now.as_nanos().to_le_bytes(), seed ^ i);
    format!("{:016x}{:016x}{:08x}", word(1), word(2), word(3) as u32).into()
}

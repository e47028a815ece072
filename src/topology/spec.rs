//! A pool as its operator wants it: what a configuration resolves to, what membership builds a
//! topology from, and the part of it that the hot path obeys.

use std::{fmt, sync::Arc, time::Duration};

use super::HttpSettings;
pub use crate::protocol::resp::table::CustomCommand;
use crate::{
    net::{Address, ListenAddress},
    protocol::Protocol,
    ring,
};

/// One pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Where clients connect.
    pub listen: Vec<ListenAddress>,
    /// How keys are placed.
    pub ring: ring::Settings,
    /// What the hot path obeys.
    pub policy: Arc<Policy>,
    /// When a node is ejected and restored.
    pub health: HealthSettings,
    /// Its nodes, in the order of the configuration.
    pub nodes: Vec<NodeSpec>,
}

/// One node of a pool, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// Its identity in the ring.
    pub name: Arc<str>,
    /// Where it is.
    pub address: Address,
    /// Units of share, at least 1.
    pub weight: u32,
    /// Failure domain.
    pub zone: Option<Arc<str>>,
}

impl NodeSpec {
    /// The node as the ring sees it.
    pub fn member(&self) -> ring::Member {
        ring::Member { name: self.name.clone(), weight: self.weight }
    }
}

/// What happens to the keys of an ejected node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnEjected {
    /// The next candidate on the ring owns them.
    Rehash,
    /// Their requests are refused at once.
    Fail,
    /// Reads find nothing, other requests are refused at once.
    Miss,
    /// Another pool serves them meanwhile, and bounds how long they live.
    Failover,
}

impl OnEjected {
    /// All of them.
    pub const ALL: [OnEjected; 4] =
        [OnEjected::Rehash, OnEjected::Fail, OnEjected::Miss, OnEjected::Failover];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            OnEjected::Rehash => "rehash",
            OnEjected::Fail => "fail",
            OnEjected::Miss => "miss",
            OnEjected::Failover => "failover",
        }
    }

    /// Whether somebody else serves the keys.
    pub fn moves(self) -> bool {
        matches!(self, OnEjected::Rehash | OnEjected::Failover)
    }
}

/// The pool that serves the keys of ejected nodes where `on_ejected` is `failover`: a gutter pool, as
/// in "Scaling Memcache at Facebook" (NSDI 2013), section 3.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Its name.
    pub pool: Arc<str>,
    /// What is written there lives so long at most.
    pub ttl_max: Duration,
}

/// What happens to the keys with this prefix when their node is ejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixPolicy {
    /// How the keys begin.
    pub prefix: Box<[u8]>,
    /// What happens to them.
    pub on_ejected: OnEjected,
}

/// What becomes of the data of a node that was away while others took writes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnReturn {
    /// It serves what it has, old or not.
    Serve,
    /// What was written elsewhere is deleted on it before it owns keys again, or all of it where that is
    /// not known exactly.
    Quarantine,
    /// It is emptied before it owns keys again.
    Flush,
    /// It owns keys again when all that it had has expired: `ttl_max` after it is back.
    Ttl,
}

impl OnReturn {
    /// All of them.
    pub const ALL: [OnReturn; 4] = [OnReturn::Serve, OnReturn::Quarantine, OnReturn::Flush, OnReturn::Ttl];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            OnReturn::Serve => "serve",
            OnReturn::Quarantine => "quarantine",
            OnReturn::Flush => "flush",
            OnReturn::Ttl => "ttl",
        }
    }
}

/// What becomes of requests for keys that wait, with their ejected node, for its return or the warmth budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhileHeld {
    /// They are refused at once.
    Fail,
    /// Reads find nothing, other requests are refused at once.
    Miss,
}

impl WhileHeld {
    /// All of them.
    pub const ALL: [WhileHeld; 2] = [WhileHeld::Fail, WhileHeld::Miss];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            WhileHeld::Fail => "fail",
            WhileHeld::Miss => "miss",
        }
    }
}

/// How much of a pool's key space ringway's own decisions may move, and in what time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warmth {
    /// Share of the key space, 0.0..=1.0; at 1.0 there is no bound.
    pub share: f64,
    /// In any window of this length.
    pub window: Duration,
    /// What becomes of the keys of a node that has to wait for its ejection.
    pub held: WhileHeld,
}

/// A secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Arc<[u8]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// How ringway authenticates towards nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAuth {
    /// ACL user; `None` sends the password alone.
    pub user: Option<String>,
    /// Password.
    pub password: Secret,
}

/// Bounds of one pool's data plane. Bytes and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub clients: usize,
    /// One argument.
    pub bulk_bytes: usize,
    /// One request.
    pub request_bytes: usize,
    /// Arguments of one request; words of one of memcached's retrievals.
    pub args_max: usize,
    /// Requests of one session in flight; more wait.
    pub pipeline_depth: usize,
    /// What one session may hold in memory, requests and replies together.
    pub session_bytes_max: usize,
    /// A client that takes nothing of what it is owed for so long, or stops so long in the middle of a
    /// request that is streamed, is disconnected.
    pub stall_timeout: Duration,
    /// So is one that asks for nothing for so long; zero lets it stay.
    pub idle_timeout: Duration,
}

impl Limits {
    /// [`Limits::stall_timeout`] in microseconds.
    pub(crate) fn stall_us(&self) -> u32 {
        micros(self.stall_timeout)
    }

    /// [`Limits::idle_timeout`] in microseconds.
    pub(crate) fn idle_us(&self) -> u32 {
        micros(self.idle_timeout)
    }
}

/// As a worker's clock counts, which wraps round after 71 minutes.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// The settings of a pool that the hot path obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What clients and nodes speak.
    pub protocol: Protocol,
    /// A node that owes a reply and makes no progress this long has timed out.
    pub request_timeout: Duration,
    /// A connection that is not made within this has failed.
    pub connect_timeout: Duration,
    /// `request_timeout` for scripts and whole-keyspace commands.
    pub slow_timeout: Duration,
    /// What a client waits at most, from decode.
    pub deadline: Duration,
    /// What happens to the keys of an ejected node.
    pub on_ejected: OnEjected,
    /// Where it is something else, by the first bytes of the keys; the longest prefix decides.
    pub prefixes: Vec<PrefixPolicy>,
    /// Who serves the keys of ejected nodes where it is `failover`.
    pub failover: Option<Failover>,
    /// What is written to the pool's nodes lives so long at most.
    pub ttl_max: Option<Duration>,
    /// Nobody but this ringway writes to the pool's nodes.
    pub sole_writer: bool,
    /// Keys that are remembered as written elsewhere while their nodes are away; beyond it those nodes
    /// are emptied when they return.
    pub quarantine_max: usize,
    /// How long a node that is back takes to have its whole share again; zero gives it all at once.
    pub slow_start: Duration,
    /// How long the keys of an ejected node wait for its return before they move.
    pub hold_down: Duration,
    /// What the nodes have must outlive them: no key moves, nothing is deleted.
    pub durable: bool,
    /// What becomes of the data of a node that returns.
    pub on_return: OnReturn,
    /// How fast keys may move.
    pub warmth: Warmth,
    /// How often a read-only request is sent again.
    pub retries: u32,
    /// Connections to one node from one worker and protocol version.
    pub connections_per_node: usize,
    /// Credentials towards nodes.
    pub auth: Option<NodeAuth>,
    /// Database selected on each connection to a node.
    pub db: u32,
    /// Password that clients must give.
    pub client_auth: Option<Secret>,
    /// Commands switched off, upper case; a subcommand is written `CONFIG|SET`.
    pub deny: Vec<String>,
    /// Commands that the built-in table lacks.
    pub commands: Vec<CustomCommand>,
    /// A split MGET with a failed part answers an error for each of its keys, not one for all.
    pub per_key_errors: bool,
    /// Whether it is noted by sample which keys and clients a node is busy with.
    pub hot_keys: bool,
    /// The mode of the files of unix sockets that it listens on; what the umask leaves if there is none.
    pub socket_mode: Option<u32>,
    /// Bounds.
    pub limits: Limits,
    /// What an HTTP pool obeys; the defaults in other pools.
    pub http: Arc<HttpSettings>,
}

/// When a node is ejected and restored.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthSettings {
    /// Between two probes of one node.
    pub interval: Duration,
    /// A probe that takes longer has failed.
    pub timeout: Duration,
    /// Failed probes in a row that eject.
    pub fall: u32,
    /// Good probes in a row that restore.
    pub rise: u32,
    /// Failed requests in a row, over all workers, that eject.
    pub failures: u32,
    /// Share of a pool's weight that may be out at once, 0.0..=1.0.
    pub eject_max: f64,
    /// Ejections of one node within this of its last return make it wait: each doubles the time until its
    /// good probes count again.
    pub flap_window: Duration,
    /// The longest such wait; zero switches it off.
    pub flap_max: Duration,
    /// A probe of a Redis or memcached node also writes, reads and deletes a key.
    pub deep: bool,
    /// Over this time the two rules below look at requests.
    pub window: Duration,
    /// A node with fewer requests in it is not judged by them.
    pub volume: u64,
    /// Share of the requests that failed, 0.0..=1.0, from which on a node is ejected; zero switches it off.
    pub failure_rate: f64,
    /// A p99 of more than so many times the pool's median makes a node slow; zero switches it off.
    pub slow_factor: f64,
    /// Below this no p99 is slow.
    pub slow_floor: Duration,
    /// Slow nodes are ejected, not only suspect.
    pub slow_eject: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            clients: 10_000,
            bulk_bytes: 512 << 20,
            request_bytes: 1 << 30,
            args_max: 1 << 20,
            pipeline_depth: 10_000,
            session_bytes_max: 64 << 20,
            stall_timeout: Duration::from_secs(10),
            idle_timeout: Duration::ZERO,
        }
    }
}

impl Default for Warmth {
    fn default() -> Warmth {
        Warmth { share: 0.25, window: Duration::from_secs(60), held: WhileHeld::Fail }
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            protocol: Protocol::Redis,
            request_timeout: Duration::from_millis(400),
            connect_timeout: Duration::from_millis(250),
            slow_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(2),
            on_ejected: OnEjected::Rehash,
            prefixes: Vec::new(),
            failover: None,
            ttl_max: None,
            sole_writer: false,
            quarantine_max: 100_000,
            slow_start: Duration::ZERO,
            hold_down: Duration::ZERO,
            durable: false,
            on_return: OnReturn::Serve,
            warmth: Warmth::default(),
            retries: 1,
            connections_per_node: 1,
            auth: None,
            db: 0,
            client_auth: None,
            deny: Vec::new(),
            commands: Vec::new(),
            per_key_errors: false,
            hot_keys: true,
            socket_mode: None,
            limits: Limits::default(),
            http: Arc::default(),
        }
    }
}

/// RESP2 and RESP3: a session that speaks RESP3 needs nodes that do.
pub const PROTOCOL_VERSIONS: usize = 2;

impl PoolSpec {
    /// Descriptors that its listeners and its nodes may want while all goes well: one for each probe, the
    /// lasting connections of each worker, and one more for a large value.
    pub fn descriptors_wanted(&self, workers: usize) -> usize {
        let of_a_worker = match self.policy.protocol {
            Protocol::Redis => PROTOCOL_VERSIONS * (self.policy.connections_per_node + 1),
            Protocol::Memcached => self.policy.connections_per_node + 1,
            Protocol::Http => self.policy.http.idle_connections,
        };
        self.listen.len() + self.nodes.len() * (1 + workers * of_a_worker)
    }
}

impl Policy {
    /// What happens to this key when its node is ejected.
    pub fn on_ejected_for(&self, key: &[u8]) -> OnEjected {
        let meant = self.prefixes.iter().filter(|p| key.starts_with(&p.prefix));
        meant.max_by_key(|p| p.prefix.len()).map_or(self.on_ejected, |p| p.on_ejected)
    }

    /// Whether replies say that nothing was found.
    pub fn tells_misses(&self) -> bool {
        self.protocol != Protocol::Http
    }

    /// Whether any keys of an ejected node go to others.
    pub fn moves_keys(&self) -> bool {
        self.on_ejected.moves() || self.prefixes.iter().any(|p| p.on_ejected.moves())
    }

    /// Whether any keys stay with their node when it is ejected: nobody else ever has them.
    pub fn keeps_keys(&self) -> bool {
        !self.on_ejected.moves() || self.prefixes.iter().any(|p| !p.on_ejected.moves())
    }

    /// Whether keys of ejected nodes go to another pool.
    pub fn fails_over(&self) -> bool {
        let is_failover = |on_ejected| on_ejected == OnEjected::Failover;
        is_failover(self.on_ejected) || self.prefixes.iter().any(|p| is_failover(p.on_ejected))
    }

    /// Whether some keys go to other nodes of the pool when theirs is ejected.
    pub fn rehashes(&self) -> bool {
        let rehashes = |on_ejected| on_ejected == OnEjected::Rehash;
        rehashes(self.on_ejected) || self.prefixes.iter().any(|p| rehashes(p.on_ejected))
    }

    /// Whether nodes that had a key before may get it again, and must not have what it was: when a reload
    /// moves keys they are deleted where they were.
    pub fn minds_old_copies(&self) -> bool {
        self.protocol != Protocol::Http && self.on_return != OnReturn::Serve && self.moves_keys()
    }

    /// What a pool that speaks this obeys unless it is told otherwise. An HTTP node may ask another
    /// one before it answers, so that it is given more time.
    pub fn of(protocol: Protocol) -> Policy {
        let policy = Policy { protocol, ..Policy::default() };
        match protocol {
            Protocol::Redis | Protocol::Memcached => Policy { on_return: OnReturn::Quarantine, ..policy },
            Protocol::Http => Policy {
                request_timeout: Duration::from_secs(30),
                deadline: Duration::from_secs(60),
                ..policy
            },
        }
    }
}

impl Default for HealthSettings {
    fn default() -> HealthSettings {
        HealthSettings {
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            fall: 3,
            rise: 2,
            failures: 3,
            eject_max: 0.5,
            flap_window: Duration::from_secs(5 * 60),
            flap_max: Duration::from_secs(60),
            deep: false,
            window: Duration::from_secs(10),
            volume: 100,
            failure_rate: 0.5,
            slow_factor: 5.0,
            slow_floor: Duration::from_millis(20),
            slow_eject: false,
        }
    }
}

//! What ringway's own answers are made of: the clock, the sessions, the numbers. Filled here, so
//! that the protocol room stays pure.

use std::{
    cell::{LazyCell, OnceCell},
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use super::{
    pool::{Bound, PoolHandle, WorkerPool},
    session::{Session, State},
};
use crate::{
    clock,
    net::StdStream,
    protocol::memcache,
    protocol::resp::{
        Version, command_reply,
        frame::Request,
        info::{NodeNumbers, Numbers},
        local::{self, After, ClientState, Facts, Settings},
        rule::Local,
    },
};

/// The sessions of a pool over all workers. Touched when a client comes, leaves or names itself,
/// never for a request to a node.
#[derive(Debug, Default)]
pub struct Registry(Mutex<HashMap<u64, Arc<ClientState>>>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<ClientState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn enter(&self, client: &Arc<ClientState>) {
        self.lock().insert(client.id, client.clone());
    }

    pub(crate) fn leave(&self, id: u64) {
        let mut clients = self.lock();
        clients.remove(&id);
        shrink(&mut clients);
    }
}

/// Gives back what a map of sessions needed when there were many more of them.
pub(crate) fn shrink<T>(map: &mut HashMap<u64, T>) {
    if map.capacity() > 64 && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

/// The state of a client that has just come.
pub(crate) fn client_state(pool: &Rc<WorkerPool>, id: u64, stream: &StdStream) -> Arc<ClientState> {
    let password_wanted = pool.bound().topology.policy.client_auth.is_some();
    Arc::new(ClientState::new(id, stream.peer(), stream.local(), clock::unix().as_secs(), password_wanted))
}

/// Answers a request that no node sees.
pub(crate) fn answer(
    session: &Rc<Session>,
    state: &mut State,
    bound: &Rc<Bound>,
    request: &Request<'_>,
    kind: Local,
    out: &mut Vec<u8>,
) -> After {
    let port = state.client.local().map_or(0, |address| address.port());
    let facts = Answering { session, bound, settings: OnceCell::new(), port };
    let mut client = ClientState::clone(&state.client);
    let after = local::answer(kind, request, &mut client, &facts, out);
    if matches!(kind, Local::Client | Local::Hello | Local::Auth | Local::Reset) {
        state.client = Arc::new(client);
        session.pool.handle.registry.enter(&state.client);
    }
    after
}

/// Answers a memcached command that no node sees.
pub(crate) fn answer_memcached(
    session: &Rc<Session>,
    bound: &Rc<Bound>,
    local: memcache::Local,
    out: &mut Vec<u8>,
) {
    let numbers =
        LazyCell::new(|| Answering { session, bound, settings: OnceCell::new(), port: 0 }.numbers());
    memcache::local::answer(local, || memcache::local::Facts { now: clock::unix(), numbers: &numbers }, out);
}

/// The client has given its password.
pub(crate) fn authenticated(session: &Rc<Session>, state: &mut State) {
    let mut client = ClientState::clone(&state.client);
    client.authenticated = true;
    state.client = Arc::new(client);
    session.pool.handle.registry.enter(&state.client);
}

struct Answering<'a> {
    session: &'a Rc<Session>,
    bound: &'a Rc<Bound>,
    settings: OnceCell<Settings>,
    port: u16,
}

/// When the process started: whoever starts it asks this first.
pub fn started() -> Instant {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

impl Facts for Answering<'_> {
    fn settings(&self) -> &Settings {
        let policy = &self.bound.topology.policy;
        self.settings.get_or_init(|| Settings {
            password: policy.client_auth.as_ref().map(|s| s.0.to_vec()),
            port: self.port,
            sessions_max: policy.limits.clients as u64,
            bulk_bytes: policy.limits.bulk_bytes as u64,
        })
    }

    fn now(&self) -> Duration {
        clock::unix()
    }

    fn sessions(&self) -> Vec<(u64, String)> {
        let now = clock::unix();
        self.session.pool.handle.registry.lock().iter().map(|(id, client)| (*id, client.line(now))).collect()
    }

    fn numbers(&self) -> Numbers {
        let topology = &self.bound.topology;
        let handle: &PoolHandle = &self.session.pool.handle;
        let shares = topology.shares();
        let sum = |value: &dyn Fn(&crate::metrics::PoolBlock) -> u64| handle.blocks.iter().map(value).sum();
        Numbers {
            pool: handle.name.to_string(),
            port: self.port,
            run_id: handle.run_id.to_string(),
            uptime: started().elapsed(),
            sessions: sum(&|b| b.sessions.value().max(0) as u64),
            sessions_max: topology.policy.limits.clients as u64,
            accepted: sum(&|b| b.accepted.value()),
            requests: sum(&|b| b.requests.iter().flatten().map(|c| c.value()).sum()),
            refusals: sum(&|b| b.refusals.iter().map(|c| c.value()).sum()),
            bytes_in: sum(&|b| b.bytes_in.value()),
            bytes_out: sum(&|b| b.bytes_out.value()),
            epoch: topology.epoch,
            nodes: topology
                .nodes
                .iter()
                .zip(shares)
                .map(|(entry, share)| NodeNumbers {
                    name: entry.node.name.to_string(),
                    address: entry.node.address.to_string(),
                    state: entry.health.word(),
                    share,
                })
                .collect(),
        }
    }

    fn command(&self, request: &Request<'_>, version: Version, out: &mut Vec<u8>) {
        command_reply::answer(&self.bound.table, request, version, out);
    }
}

//! One worker's part of a pool, whatever the pool speaks: framed protocols share sessions, dispatch
//! and pipelines, HTTP has its driver.

use std::{
    rc::{Rc, Weak},
    sync::Arc,
};

use super::{
    http::HttpPool,
    pool::{PoolHandle, WorkerPool},
    worker::Worker,
};
use crate::protocol::Protocol;

/// The part.
#[derive(Clone)]
pub(super) enum Serving {
    Framed(Rc<WorkerPool>),
    Http(Rc<HttpPool>),
}

/// The same for who must not keep it alive.
pub(super) enum Follower {
    Framed(Weak<WorkerPool>),
    Http(Weak<HttpPool>),
}

impl Follower {
    pub(super) fn upgrade(&self) -> Option<Serving> {
        match self {
            Follower::Framed(pool) => pool.upgrade().map(Serving::Framed),
            Follower::Http(pool) => pool.upgrade().map(Serving::Http),
        }
    }
}

impl Serving {
    pub(super) fn new(worker: &Rc<Worker>, handle: &Arc<PoolHandle>) -> Serving {
        match handle.protocol {
            Protocol::Redis | Protocol::Memcached => {
                Serving::Framed(Rc::new(WorkerPool::new(worker.clone(), handle.clone())))
            }
            Protocol::Http => Serving::Http(Rc::new(HttpPool::new(worker.clone(), handle.clone()))),
        }
    }

    pub(super) fn downgrade(&self) -> Follower {
        match self {
            Serving::Framed(pool) => Follower::Framed(Rc::downgrade(pool)),
            Serving::Http(pool) => Follower::Http(Rc::downgrade(pool)),
        }
    }

    pub(super) fn handle(&self) -> &Arc<PoolHandle> {
        match self {
            Serving::Framed(pool) => &pool.handle,
            Serving::Http(pool) => &pool.handle,
        }
    }

    pub(super) fn worker(&self) -> &Rc<Worker> {
        match self {
            Serving::Framed(pool) => &pool.worker,
            Serving::Http(pool) => pool.worker(),
        }
    }

    /// Binds a topology that has just been published.
    pub(super) fn follow(&self) {
        match self {
            Serving::Framed(pool) => drop(pool.bound()),
            Serving::Http(pool) => pool.follow(),
        }
    }

    /// Looks after what is due.
    pub(super) fn tick(&self, now_us: u32) {
        match self {
            Serving::Framed(pool) => pool.tick(now_us),
            Serving::Http(pool) => pool.tick(now_us),
        }
    }

    /// Its clients get what they asked for, and no more.
    pub(super) fn end_sessions(&self) {
        match self {
            Serving::Framed(pool) => pool.sessions.borrow().values().for_each(|session| session.end()),
            Serving::Http(pool) => pool.end_sessions(),
        }
    }

    /// Whether it has no clients.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Serving::Framed(pool) => pool.sessions.borrow().is_empty(),
            Serving::Http(pool) => pool.is_empty(),
        }
    }

    /// Closes its connections to nodes.
    pub(super) fn close(&self) {
        match self {
            Serving::Framed(pool) => pool.close(),
            Serving::Http(pool) => pool.close(),
        }
    }
}

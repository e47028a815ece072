//! A node's HTTP/2 connections, which requests share: as many at once over each as the node takes (RFC 9113,
//! 5.1.2). Those beyond wait here, and not within hyper, where their time would be the node's: until a place
//! comes free, or a further connection is made.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::spawn_local,
    time::{Instant, sleep, timeout_at},
};

use super::{
    link::{Connection, Link, NoConnection},
    waiting::Waiting,
};
use crate::{
    proxy::{essential::essential, gate::spread},
    topology::Policy,
};

/// So long after a further connection could not be made nobody tries to make one, as long as there is
/// another.
const FURTHER_PAUSE: Duration = Duration::from_secs(1);

/// The connections.
#[derive(Default)]
pub(super) struct Shared {
    /// Those that take requests, the oldest first.
    good: RefCell<Vec<Connection>>,
    /// That one is being made.
    is_dialling: Cell<bool>,
    /// Who waits for a place: one dial answers all of them.
    waiting: Waiting<Result<Connection, NoConnection>>,
    /// What the last of them came with.
    policy: RefCell<Option<Arc<Policy>>>,
    /// When a further one could not be made.
    failed: Cell<Option<Instant>>,
}

/// A request's place among those that share a connection.
pub(super) struct Place {
    link: Rc<Link>,
    taken: Rc<Cell<usize>>,
}

impl Place {
    pub(super) fn new(link: &Rc<Link>, taken: &Rc<Cell<usize>>) -> Place {
        taken.set(taken.get() + 1);
        Place { link: link.clone(), taken: taken.clone() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - 1);
        self.link.turn();
    }
}

impl Shared {
    /// A handle to one that has room.
    fn room(&self, link: &Rc<Link>) -> Option<Connection> {
        self.sweep();
        self.good.borrow().iter().find_map(|connection| connection.share(link))
    }

    /// Lets go of those that take no further requests.
    fn sweep(&self) {
        self.good.borrow_mut().retain(Connection::is_good);
    }

    /// What one more may be made with: there is none, or there may be more.
    fn may_dial(&self, open: usize) -> Option<Arc<Policy>> {
        let policy = self.policy.borrow().clone()?;
        let is_paused = || self.failed.get().is_some_and(|at| at.elapsed() < FURTHER_PAUSE);
        let has_none = self.good.borrow().is_empty();
        let may = has_none || (open < policy.http.limits.connections_per_node_max && !is_paused());
        (may && !self.is_dialling.get()).then_some(policy)
    }

    /// Further requests have others.
    pub(super) fn forget(&self) {
        self.good.take();
    }

    /// Sends everybody away.
    pub(super) fn leave(&self) {
        self.waiting.clear();
    }

    /// Lets go of connections without a request, but for so many, and for one at least.
    pub(super) fn tidy(&self, keep: usize) {
        self.sweep();
        let mut idle = 0;
        self.good.borrow_mut().retain(|connection| {
            idle += usize::from(connection.taken() == 0);
            connection.taken() > 0 || idle <= keep.max(1)
        });
    }
}

impl Link {
    /// A place at an HTTP/2 connection, made if there is none that will do.
    pub(super) async fn share(
        self: &Rc<Self>,
        policy: &Arc<Policy>,
        until: Instant,
    ) -> Result<Connection, NoConnection> {
        let shared = &self.shared;
        if !shared.waiting.is_wanted()
            && let Some(connection) = shared.room(self)
        {
            return Ok(connection);
        }
        *shared.policy.borrow_mut() = Some(policy.clone());
        let turn = shared.waiting.join();
        self.turn();
        match timeout_at(until, turn).await {
            Ok(turn) => turn.unwrap_or(Err(NoConnection::Left)),
            Err(_) if shared.good.borrow().is_empty() => Err(NoConnection::Late),
            Err(_) => Err(NoConnection::Busy),
        }
    }

    /// Those who wait get what has come free; for those who still wait a further connection is made, if there
    /// may be one.
    pub(super) fn turn(self: &Rc<Self>) {
        self.serve();
        if self.shared.waiting.is_wanted()
            && let Some(policy) = self.shared.may_dial(self.open.get())
        {
            self.shared.is_dialling.set(true);
            // A task: who asked first may go away, and the others wait for the same.
            spawn_local(essential(self.clone().dial(policy)));
        }
    }

    fn serve(self: &Rc<Self>) {
        let shared = &self.shared;
        while shared.waiting.is_wanted()
            && let Some(connection) = shared.room(self)
        {
            // Somebody waits, and takes it.
            drop(shared.waiting.give(Ok(connection)));
        }
    }

    /// Makes a connection. That there is none at all is the answer to all who wait. It is given up when the
    /// node is ejected: one that hung and is back is dialled anew.
    async fn dial(self: Rc<Self>, policy: Arc<Policy>) {
        let shared = &self.shared;
        let slot = self.slot();
        let evicted = self.evicted();
        let made = async {
            let pause = self.pause();
            if !pause.is_zero() {
                sleep(spread(pause)).await;
            }
            self.connect(slot, &policy).await
        };
        let made = tokio::select! {
            biased;
            () = evicted => None,
            made = made => Some(made),
        };
        shared.is_dialling.set(false);
        let Some(made) = made else { return self.turn() };
        shared.failed.set(made.is_err().then(Instant::now));
        match made {
            Ok(connection) => {
                shared.good.borrow_mut().push(connection);
                self.serve();
                // Who comes from now on finds it used.
                shared.good.borrow_mut().iter_mut().for_each(|connection| connection.is_reused = true);
                if !self.is_owner.get() {
                    shared.forget();
                }
            }
            Err(error) => {
                shared.sweep();
                while shared.good.borrow().is_empty() && shared.waiting.give(Err(error.clone())).is_none() {}
            }
        }
        self.turn();
    }
}

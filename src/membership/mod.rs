//! WHO IS IN THE RING. The one task that publishes topologies: it takes changes from one inbox,
//! plans each, puts the result in force and tells why. It decides nothing itself, `plan` does, and
//! waits for nothing slow: rings are built and names resolved beside it.

mod absence;
mod build;
mod compare;
mod debts;
mod event;
mod gutter;
mod history;
mod ledger;
mod order;
mod owed;
mod plan;
mod record;
mod settle;
mod start;
mod telling;
mod warmth;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::{Id, JoinError, JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};

pub use absence::{Absence, Absences, Remembered, absences, recall, unreadable};
pub use build::{Births, IdSource, Prepared, Serving, first_topology, prepare, scattered};
pub use compare::{Compared, compare, fenced, moved, moves, unserved};
pub use event::{Event, What};
pub use gutter::{follow, is_gutter_of};
pub use history::{History, Lived, Record};
pub use ledger::Ledger;
pub use order::order;
pub use plan::{Outcome, Permit, Step, budget, leaves_too_much, plan, reload};

use crate::{
    clock,
    health::{Business, Newcomer, Reception, Scene, receive},
    incident::{FileSettings, Incidents, Readings},
    metrics::PoolBlock,
    net::{Address, Target, resolve},
    topology::{
        Change, Entry, Evidence, Inbox, News, NodeId, NodeSpec, Ordered, PoolSpec, ReloadMode, Topology,
        TopologyWriter, Wanted,
    },
};

/// Changes that may wait; more wait at their senders.
const INBOX: usize = 1024;

/// How long a reload waits for the names of new nodes. One that does not resolve by then is
/// ejected until it does.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the embedded node of a pool (first argument) listens, if it runs.
pub type Embedded = Arc<dyn Fn(&str, &NodeSpec) -> Option<Target> + Send + Sync>;

/// What membership needs to know of the process.
#[derive(Clone)]
pub struct Settings {
    /// Data workers.
    pub workers: usize,
    /// Share of a pool's key space that a reload may move without being told `yes`, 0.0..=1.0.
    pub max_share: f64,
    /// The process's one source of identities.
    pub ids: IdSource,
    /// Finds embedded nodes.
    pub embedded: Embedded,
    /// What all pools see at the same time: incidents are located with it.
    pub scene: Scene,
    /// Where incidents are written when they have ended.
    pub incident_file: Option<FileSettings>,
}

/// A pool that is given to membership.
pub struct Pool {
    /// The one end that may publish.
    pub writer: TopologyWriter,
    /// What the writer's topology was built from.
    pub spec: Arc<PoolSpec>,
    /// What the pool's evidence rings.
    pub bell: Arc<Notify>,
    /// What is counted of it.
    pub blocks: Arc<[PoolBlock]>,
}

enum Control {
    Add(Box<Pool>),
    Remove(Arc<str>),
    MaxShare(f64),
    Settle(oneshot::Sender<()>),
}

/// How the rest of the program reaches membership, which ends when the last one is dropped.
#[derive(Clone)]
pub struct Handle {
    inbox: Inbox,
    control: mpsc::Sender<Control>,
    history: History,
    incidents: Incidents,
    scene: Scene,
}

impl Handle {
    /// Where changes are sent.
    pub fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// The last changes of ownership.
    pub fn history(&self) -> History {
        self.history.clone()
    }

    /// What happened to nodes.
    pub fn incidents(&self) -> Incidents {
        self.incidents.clone()
    }

    /// What the nodes of a pool are busy with, by their names; those that are not are left out.
    pub fn business(&self, pool: &str) -> Vec<(Arc<str>, Business)> {
        self.scene.business(Instant::now(), pool)
    }

    /// The nodes of a pool that wait as they come and go, and until when.
    pub fn flapping(&self, pool: &str) -> HashMap<Arc<str>, Instant> {
        self.scene.flapping(Instant::now(), pool)
    }

    /// The nodes of a pool that are not in their place, and of which it is not known exactly what is old of
    /// what they have: where that is asked, all of it goes.
    pub fn inexact(&self, pool: &str) -> HashSet<Arc<str>> {
        self.scene.inexact(pool)
    }

    /// Gives membership one pool more.
    pub async fn add(&self, pool: Pool) {
        self.tell(Control::Add(Box::new(pool))).await;
    }

    /// Takes a pool away; its last topology stays in force for who still reads it.
    pub async fn remove(&self, pool: Arc<str>) {
        self.tell(Control::Remove(pool)).await;
    }

    /// Puts another `reload.max_share` in force.
    pub async fn set_max_share(&self, share: f64) {
        self.tell(Control::MaxShare(share)).await;
    }

    /// Writes down the incidents that are over and whose last figures are still awaited, as the process ends.
    pub async fn settle(&self) {
        let (done, settled) = oneshot::channel();
        self.tell(Control::Settle(done)).await;
        // Membership ends with the process, and then nothing is left to be written.
        let _ = settled.await;
    }

    /// Asks for something of a node, or with `dry` what would come of it.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn order(
        &self,
        pool: Arc<str>,
        node: Arc<str>,
        wanted: Wanted,
        dry: bool,
    ) -> Result<Ordered, String> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| "membership has ended".to_owned();
        let change = Change::Order { pool, node, wanted, dry, answer };
        self.inbox.send(change).await.map_err(|e| gone(e.to_string()))?;
        answered.await.map_err(|e| gone(e.to_string()))?
    }

    /// Asks for a reload of one pool, or whether it would be done, and waits for what came of it: the share
    /// that moved, or would.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn reload(&self, spec: Arc<PoolSpec>, mode: ReloadMode) -> Result<f64, String> {
        let (answer, answered) = oneshot::channel();
        let gone = |_| "membership has ended".to_owned();
        self.inbox.send(Change::Reload { spec, mode, answer }).await.map_err(|e| gone(e.to_string()))?;
        answered.await.map_err(|e| gone(e.to_string()))?
    }

    async fn tell(&self, control: Control) {
        // Membership ends with the process, and then nothing is left to be told.
        let _ = self.control.send(control).await;
    }
}

/// The task's state.
pub struct Membership {
    settings: Settings,
    pools: HashMap<Arc<str>, Governed>,
    inbox: mpsc::Receiver<Change>,
    control: mpsc::Receiver<Control>,
    preparing: JoinSet<Reloading>,
    untold: mpsc::Sender<record::Untold>,
    teller: Option<mpsc::Receiver<record::Untold>>,
    history: History,
    incidents: Incidents,
}

/// One pool.
struct Governed {
    writer: TopologyWriter,
    ledger: Ledger,
    births: Births,
    /// The reload that is being prepared.
    preparing: Option<Id>,
}

/// A reload whose slow part is done.
struct Reloading {
    name: Arc<str>,
    /// Nothing, when building it failed inside ringway; then it was not received either.
    prepared: Option<Prepared>,
    /// Whether the nodes that it adds may own keys.
    received: Result<(), String>,
    mode: ReloadMode,
    answer: oneshot::Sender<Result<f64, String>>,
}

impl Membership {
    /// Membership over no pools yet, and how to reach it.
    pub fn new(settings: Settings) -> (Membership, Handle) {
        let (inbox_end, inbox) = mpsc::channel(INBOX);
        let (control_end, control) = mpsc::channel(16);
        let (untold, teller) = mpsc::channel(record::UNTOLD);
        let (history, incidents) = (History::default(), Incidents::default());
        let handle = Handle {
            inbox: inbox_end,
            control: control_end,
            history: history.clone(),
            incidents: incidents.clone(),
            scene: settings.scene.clone(),
        };
        let membership = Membership {
            settings,
            pools: HashMap::new(),
            inbox,
            control,
            preparing: JoinSet::new(),
            untold,
            teller: Some(teller),
            history,
            incidents,
        };
        (membership, handle)
    }

    /// Runs until every [`Handle`] is dropped.
    pub async fn run(mut self) {
        if let Some(teller) = self.teller.take() {
            let file = self.settings.incident_file.clone().and_then(record::open);
            let (incidents, scene) = (self.incidents.clone(), self.settings.scene.clone());
            let keeper = record::Keeper { incidents, scene, file, versions: HashMap::new(), revised: 0 };
            tokio::spawn(record::tell(teller, self.history.clone(), keeper));
        }
        loop {
            let budget_due = self.budget_due();
            // Channels and sets lose nothing when another arm wins. Control goes first: a pool that
            // was added is there for the change that follows.
            tokio::select! {
                biased;
                control = self.control.recv() => match control {
                    Some(control) => self.control(control).await,
                    None => return,
                },
                Some(done) = self.preparing.join_next() => self.prepared(done).await,
                Some(change) = self.inbox.recv() => self.change(change).await,
                () = sleep_until_some(budget_due) => self.budgets().await,
            }
        }
    }

    /// When the first pool's warmth budget may let something go on.
    fn budget_due(&self) -> Option<Instant> {
        self.pools.values().filter_map(|pool| pool.writer.current().budget_due).min()
    }

    /// Lets go on what waited for its pool's warmth budget.
    async fn budgets(&mut self) {
        let time = Instant::now();
        let is_due = |pool: &&mut Governed| pool.writer.current().budget_due.is_some_and(|at| at <= time);
        let mut published = Vec::new();
        for pool in self.pools.values_mut().filter(is_due) {
            let now = pool.writer.current();
            if let Outcome::Publish(step) = budget(&now, &pool.ledger, time) {
                published.push(pool.publish(now, *step));
            }
        }
        for step in published {
            self.done(step).await;
        }
    }

    async fn control(&mut self, control: Control) {
        match control {
            Control::Add(pool) => {
                let Pool { writer, spec, bell, blocks } = *pool;
                self.incidents.pool_comes(&writer.current(), blocks);
                let Settings { ids, workers, .. } = self.settings.clone();
                let births = Births { ids, workers, bell };
                let (mut ledger, time) = (Ledger::new(&spec), Instant::now());
                let first = writer.current();
                ledger.recall(&first, time);
                let mut governed = Governed { writer, ledger, births, preparing: None };
                // Not all that is recalled fits what there is now.
                let settled = match budget(&first, &governed.ledger, time) {
                    Outcome::Publish(step) => Some(governed.publish(first, *step)),
                    _ => None,
                };
                self.pools.insert(spec.name.clone(), governed);
                if let Some(step) = settled {
                    self.done(step).await;
                }
                self.find_gutter(&spec.name).await;
                self.follow(&spec.name).await;
            }
            Control::Remove(name) => {
                self.pools.remove(&name);
                self.incidents.pool_gone(clock::unix_ms(), &name);
                self.follow(&name).await;
                // The teller runs as long as this task.
                let _ = self.untold.send(record::Untold::Gone(name)).await;
            }
            Control::MaxShare(share) => self.settings.max_share = share,
            Control::Settle(done) => {
                // The teller runs as long as this task.
                let _ = self.untold.send(record::Untold::Settle(done)).await;
            }
        }
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::Reload { spec, mode, answer } => self.start_reload(spec, mode, answer),
            Change::Order { pool, node, wanted, dry, answer } => {
                let result = self.order(&pool, (&node, wanted), dry).await;
                // Whoever asked may have gone.
                let _ = answer.send(result);
            }
            Change::News { pool, node, news } => self.news(&pool, (node, &news)).await,
        }
    }

    /// Something is known of a node.
    async fn news(&mut self, pool: &str, (node, news): (NodeId, &News)) {
        let Some(pool) = self.pools.get_mut(pool) else { return };
        let now = pool.writer.current();
        match plan(&now, &pool.ledger, (node, news), Instant::now()) {
            Outcome::Publish(step) => {
                let is_out = |topology: &Topology| {
                    topology.position(node).is_some_and(|at| topology.nodes[at].health.is_out())
                };
                if is_out(&now) && !is_out(&step.next) {
                    let back = now.position(node).map(|at| &now.nodes[at].node.evidence);
                    back.into_iter().for_each(Evidence::reset_streak);
                }
                let published = pool.publish(now, *step);
                self.done(published).await;
            }
            Outcome::Remember(ledger) => pool.ledger = *ledger,
            Outcome::Nothing | Outcome::Refused { .. } => {}
        }
    }

    /// An operator wants something of a node.
    async fn order(
        &mut self,
        pool: &str,
        (node, wanted): (&str, Wanted),
        dry: bool,
    ) -> Result<Ordered, String> {
        let governed = self.pools.get_mut(pool).ok_or_else(|| format!("there is no pool {pool}"))?;
        let before = governed.writer.current();
        let planned = match order::wanted(&before, node, wanted)? {
            Some(order) => self::order(&before, &governed.ledger, (node, order), Instant::now())?,
            None => None,
        };
        let Some(step) = planned else { return Ok(Ordered { after: before.clone(), before }) };
        if dry {
            return Ok(Ordered { before, after: Arc::new(step.next) });
        }
        let published = governed.publish(before.clone(), *step);
        let after = published.after.clone();
        self.done(published).await;
        Ok(Ordered { before, after })
    }

    /// Begins the slow part of a reload beside the loop.
    fn start_reload(
        &mut self,
        spec: Arc<PoolSpec>,
        mode: ReloadMode,
        answer: oneshot::Sender<Result<f64, String>>,
    ) {
        let name = spec.name.clone();
        let refusal = match self.pools.get(&name) {
            None => Some(format!("pool {name}: there is no such pool")),
            Some(_) if spec.nodes.is_empty() => Some(format!("pool {name}: it has no nodes")),
            Some(pool) if pool.preparing.is_some() => {
                Some(format!("pool {name}: another reload is under way, try again"))
            }
            Some(_) => None,
        };
        if let Some(why) = refusal {
            // Whoever asked may have gone.
            let _ = answer.send(Err(why));
            return;
        }
        let Some(pool) = self.pools.get_mut(&name) else { return };
        let (now, ledger) = (pool.writer.current(), pool.ledger.clone());
        let embedded = self.settings.embedded.clone();
        let task = self.preparing.spawn(async move {
            let targets = locate(&now, &spec, &embedded).await;
            let newcomers = newcomers((&now, &ledger), &spec, &targets);
            let name = spec.name.clone();
            let prepared = spawn_blocking(move || prepare(&now, &ledger, spec, targets)).await;
            let reception = match mode {
                ReloadMode::Weigh { flush_new: true } => None,
                // A server that did not answer when it was weighed may answer now.
                ReloadMode::Weigh { flush_new: false } | ReloadMode::Do { flush_new: false } => {
                    Some(Reception::Look)
                }
                ReloadMode::Do { flush_new: true } => Some(Reception::Empty),
            };
            let (prepared, received) = match (prepared, reception) {
                (Err(error), _) => (None, Err(broken(&name, error))),
                (Ok(prepared), None) => (Some(prepared), Ok(())),
                (Ok(prepared), Some(reception)) => {
                    let received = receive_all(&prepared.spec, newcomers, reception).await;
                    (Some(prepared), received)
                }
            };
            Reloading { name, prepared, received, mode, answer }
        });
        pool.preparing = Some(task.id());
    }

    /// A reload is ready to be planned.
    async fn prepared(&mut self, done: Result<Reloading, JoinError>) {
        let Reloading { name, prepared, received, mode, answer } = match done {
            Ok(reloading) => reloading,
            Err(error) => {
                tracing::error!(%error, "a reload failed inside ringway");
                let id = Some(error.id());
                self.pools.values_mut().filter(|p| p.preparing == id).for_each(|p| p.preparing = None);
                return;
            }
        };
        let Some(pool) = self.pools.get_mut(&name) else {
            // Whoever asked may have gone.
            let _ = answer.send(Err(format!("pool {name}: it was removed meanwhile")));
            return;
        };
        pool.preparing = None;
        let prepared = match (received, prepared) {
            (Ok(()), Some(prepared)) => prepared,
            (received, _) => {
                let why = received.err().unwrap_or_else(|| format!("pool {name}: it was not built"));
                // Whoever asked may have gone.
                let _ = answer.send(Err(why));
                return;
            }
        };
        let now = pool.writer.current();
        let yes = matches!(mode, ReloadMode::Do { .. });
        let permit = Permit { max_share: self.settings.max_share, yes, time: Instant::now() };
        let outcome = reload(&now, &pool.ledger, &prepared, &pool.births, &permit);
        let result = match outcome {
            Outcome::Publish(_) if !yes => Ok(prepared.moved),
            Outcome::Publish(step) => {
                let published = pool.publish(now, *step);
                self.done(published).await;
                self.find_gutter(&name).await;
                Ok(prepared.moved)
            }
            Outcome::Nothing | Outcome::Remember(_) => Ok(0.0),
            Outcome::Refused { why } => Err(why),
        };
        // Whoever asked may have gone.
        let _ = answer.send(result);
    }

    /// A step is in force: those for which the pool is a gutter follow it.
    async fn done(&mut self, published: record::Published) {
        let pool = published.after.pool.clone();
        self.tell(published).await;
        self.follow(&pool).await;
    }

    /// Gives a pool that fails over the pool that it fails over to.
    async fn find_gutter(&mut self, pool: &str) {
        let Some(now) = self.pools.get(pool).map(|governed| governed.writer.current()) else { return };
        let gutter = self.pools.values().map(|governed| governed.writer.current());
        let gutter = gutter.into_iter().find(|gutter| is_gutter_of(&now.policy, gutter));
        self.give(pool, gutter).await;
    }

    /// The pools for which this one is the gutter follow it, or do without.
    async fn follow(&mut self, gutter: &str) {
        let is_of = |now: &Topology| {
            now.policy.fails_over() && now.policy.failover.as_ref().is_some_and(|f| &*f.pool == gutter)
        };
        let followers: Vec<Arc<str>> = self
            .pools
            .iter()
            .filter(|(_, governed)| is_of(&governed.writer.current()))
            .map(|(name, _)| name.clone())
            .collect();
        let now = self.pools.get(gutter).map(|governed| governed.writer.current());
        for name in followers {
            self.give(&name, now.clone()).await;
        }
    }

    async fn give(&mut self, pool: &str, gutter: Option<Arc<Topology>>) {
        let Some(governed) = self.pools.get_mut(pool) else { return };
        let now = governed.writer.current();
        if let Outcome::Publish(step) = follow(&now, &governed.ledger, gutter, Instant::now()) {
            let published = governed.publish(now, *step);
            self.tell(published).await;
        }
    }

    async fn tell(&self, published: record::Published) {
        // The teller runs as long as this task.
        let _ = self.untold.send(record::Untold::Step(Box::new(published))).await;
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Governed {
    fn publish(&mut self, before: Arc<Topology>, step: Step) -> record::Published {
        let Step { next, ledger, events } = step;
        self.ledger = ledger;
        let readings = Readings::between(&before, &next);
        self.writer.publish(next);
        record::Published { before, after: self.writer.current(), events, readings }
    }
}

/// A build that panicked, in words for who asked for it.
fn broken(pool: &str, error: JoinError) -> String {
    let payload = error.try_into_panic().ok();
    let text = payload.as_ref().and_then(|payload| {
        payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
    });
    let why = text.unwrap_or("it was given up");
    let why = format!("pool {pool}: building it failed inside ringway, and it stays as it was: {why}");
    tracing::error!("{why}");
    why
}

/// The nodes that a reload adds, and those at another address.
fn newcomers(
    (now, ledger): (&Topology, &Ledger),
    spec: &PoolSpec,
    targets: &[Arc<[Target]>],
) -> Vec<Newcomer> {
    let known: HashMap<&str, &Entry> = now.nodes.iter().map(|e| (&*e.node.name, e)).collect();
    let newcomer = |(spec, targets): (&NodeSpec, &Arc<[Target]>)| {
        let old = known.get(&*spec.name);
        if old.is_some_and(|old| old.node.address == spec.address) {
            return None;
        }
        // What others took writes for has old values, whoever it is.
        let was = old.filter(|old| owed::is_in_its_place(old, ledger)).map(|old| old.targets.clone());
        Some(Newcomer { spec: spec.clone(), targets: targets.clone(), was })
    };
    spec.nodes.iter().zip(targets).filter_map(newcomer).collect()
}

/// Receives them all, side by side.
async fn receive_all(spec: &PoolSpec, newcomers: Vec<Newcomer>, reception: Reception) -> Result<(), String> {
    let mut receiving = JoinSet::new();
    for newcomer in newcomers {
        let (pool, policy) = (spec.name.clone(), spec.policy.clone());
        receiving.spawn(async move { receive(&pool, &policy, &newcomer, reception).await });
    }
    let mut received = Ok(());
    while let Some(one) = receiving.join_next().await {
        // A task that panicked is no reason to take the node as it is.
        let one =
            one.unwrap_or_else(|e| Err(format!("pool {}: receiving a new node failed: {e}", spec.name)));
        received = received.and(one);
    }
    received
}

/// Where the nodes of a reloaded pool are. Those that stay keep what is known.
async fn locate(now: &Topology, spec: &PoolSpec, embedded: &Embedded) -> Vec<Arc<[Target]>> {
    let mut found: Vec<Arc<[Target]>> = spec.nodes.iter().map(|_| Arc::new([]) as _).collect();
    let mut asked = JoinSet::new();
    let by_name: HashMap<&str, &Entry> = now.nodes.iter().map(|e| (&*e.node.name, e)).collect();
    for (i, node) in spec.nodes.iter().enumerate() {
        let known = by_name.get(&*node.name).filter(|e| e.node.address == node.address);
        if let Some(entry) = known {
            found[i] = entry.targets.clone();
        } else if node.address == Address::Embedded {
            found[i] = embedded(&spec.name, node).into_iter().collect();
        } else {
            let address = node.address.clone();
            asked.spawn(async move { (i, resolve(&address, RESOLVE_TIMEOUT).await) });
        }
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok((i, Ok(targets))) = answer {
            found[i] = targets;
        }
    }
    found
}

#[cfg(test)]
mod tests;

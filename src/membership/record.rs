//! What became of a pool, told: a log line, a metric, a line of the history, a step of an incident.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use metrics::{counter, histogram};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::Level;

use super::{
    compare::{moves, treated},
    event::{Event, What},
    history::{History, Record},
    telling::{Telling, held, telling},
};
use crate::{
    clock,
    health::Scene,
    incident::{
        Diagnosis, FileSettings, Incident, IncidentWriter, Incidents, Readings, Subject, Told, Whose,
        diagnose,
    },
    metrics::table::{DIAGNOSES, MOVED_SHARE, WAITS},
    topology::{Cause, Data, Placement, Returned, Topology, Transition, Wait},
};

/// Steps that may wait to be told before membership waits for them.
pub(super) const UNTOLD: usize = 256;

/// What is to be told.
#[derive(Debug)]
pub(super) enum Untold {
    /// A step.
    Step(Box<Published>),
    /// A pool is gone: what was of it is forgotten, so that one of the same name begins anew.
    Gone(Arc<str>),
    /// Nothing more comes of what is over: it is written down, and this is told.
    Settle(oneshot::Sender<()>),
}

/// A step that was published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) before: Arc<Topology>,
    pub(super) after: Arc<Topology>,
    pub(super) events: Vec<Event>,
    pub(super) readings: Readings,
}

/// How often incidents that go on are looked at again.
const REVISE_PAUSE: Duration = Duration::from_millis(200);

/// Diagnoses that are made anew at once.
const REVISIONS_MAX: usize = 64;

/// Tells steps in their order, until membership ends, and revises diagnoses meanwhile. Shares are computed
/// on a blocking thread, after the publish: an ejection does not wait for its own statistics.
pub(super) async fn tell(mut steps: mpsc::Receiver<Untold>, history: History, mut keeper: Keeper) {
    let mut revisions = interval(REVISE_PAUSE);
    revisions.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Nothing is lost when the other arm wins.
        tokio::select! {
            biased;
            step = steps.recv() => match step {
                Some(Untold::Step(step)) => tell_one(*step, &history, &mut keeper).await,
                Some(Untold::Gone(pool)) => history.forget(&pool),
                Some(Untold::Settle(done)) => {
                    let known = keeper.incidents.settle(clock::unix_ms());
                    keeper.write(known);
                    match &keeper.file {
                        Some(file) => file.settle(done),
                        // Whoever asked may have gone.
                        None => drop(done.send(())),
                    }
                }
                None => return,
            },
            _ = revisions.tick() => keeper.revise(),
        }
    }
}

async fn tell_one(step: Published, history: &History, keeper: &mut Keeper) {
    let Published { before, after, events, readings } = step;
    let is_epoch = before.epoch != after.epoch;
    let gives = |event: &Event| matches!(event.what, What::Ejected(_) | What::Released(_));
    let is_given = events.iter().any(gives);
    let ((went, share), given) = match is_epoch {
        true => {
            let (before, after) = (before.clone(), after.clone());
            let compared = spawn_blocking(move || {
                let given = if is_given { moves(&before, &after) } else { Vec::new() };
                (treated(&before, &after), given)
            });
            compared.await.unwrap_or_default()
        }
        false => ((0.0, 0.0), Vec::new()),
    };
    if is_epoch {
        histogram!(MOVED_SHARE.name, "pool" => after.pool.to_string()).record(share);
    }
    let (mut located, mut records, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        let telling = telling(&after, &event);
        let diagnoses = keeper.locate(&after, &event, &telling);
        log(&after, &event, &telling, (share, diagnoses.first()));
        count(&after.pool, &event, &telling);
        records.extend(line(&after, &event, &telling, share));
        let Some(node) = event.node else { continue };
        if telling.is_fault {
            located.push(((after.pool.clone(), node.clone()), diagnoses));
        }
        told.extend(telling.incident.map(|told| (node, told)));
    }
    if is_epoch {
        history.push(Transition { before: &before, after: &after }, clock::unix_ms(), records);
    }
    told.extend(other_reasons(&before, &after));
    // What is only treated in another way, as keys that are held, has not moved.
    keeper.incidents.note(clock::unix_ms(), (&before, &after, &readings), &told, (went, &given));
    for (whose, diagnoses) in located {
        keeper.diagnosed(&whose, diagnoses);
    }
    let dropped = keeper.incidents.dropped();
    keeper.write(dropped);
}

/// The incidents, what they are located with, and the file that they are written to.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub(super) incidents: Incidents,
    pub(super) scene: Scene,
    pub(super) file: Option<IncidentWriter>,
    /// What was known of a node when it was looked at last.
    pub(super) versions: HashMap<Whose, u64>,
    /// How often one was looked at again.
    pub(super) revised: usize,
}

impl Keeper {
    /// Where the fault is that an event tells of.
    fn locate(&self, after: &Topology, event: &Event, telling: &Telling) -> Vec<Diagnosis> {
        let Some(node) = event.node.as_ref().filter(|_| telling.is_fault) else { return Vec::new() };
        let Some(entry) = after.nodes.iter().find(|entry| entry.node.name == *node) else {
            return Vec::new();
        };
        let address = entry.node.address.to_string();
        let zone = entry.node.zone.as_deref();
        let subject = Subject { node, address: &address, zone, cause: telling.cause };
        diagnose(&subject, &self.scene.sight(Instant::now(), &after.pool, node))
    }

    fn diagnosed(&mut self, whose: &Whose, diagnoses: Vec<Diagnosis>) {
        if let Some(first) = self.incidents.diagnosed(clock::unix_ms(), whose, diagnoses) {
            count_diagnosis(&whose.0, &first);
        }
    }

    /// Looks again at what goes on: probes have learnt more, or a fault of this process has begun or ended.
    fn revise(&mut self) {
        let (opened, closed) =
            self.incidents.troubles(clock::unix_ms(), &self.scene.troubles(Instant::now()));
        for incident in &opened {
            let Some(diagnosis) = incident.diagnoses.first() else { continue };
            count_diagnosis("", diagnosis);
            let (id, evidence) = (incident.id, &*incident.evidence);
            tracing::error!(
                incident = id,
                evidence,
                diagnosis = &*diagnosis.text,
                "this proxy is at fault; nodes are not ejected for it"
            );
        }
        for incident in &closed {
            tracing::info!(incident = incident.id, "this proxy is no longer at fault");
        }
        let mut open = self.incidents.open();
        let whose: HashSet<&Whose> = open.iter().map(|incident| &incident.whose).collect();
        self.versions.retain(|old, _| whose.contains(old));
        // Each look goes over all nodes: where thousands fail at once, some at a time, and the others next.
        let first = self.revised % open.len().max(1);
        open.rotate_left(first);
        let mut looks = 0;
        for incident in open {
            let (pool, node) = &incident.whose;
            let version = self.scene.version(pool, node);
            if self.versions.get(&incident.whose) == Some(&version) {
                continue;
            }
            if looks == REVISIONS_MAX {
                break;
            }
            looks += 1;
            self.versions.insert(incident.whose.clone(), version);
            let subject = Subject {
                node,
                address: &incident.address,
                zone: incident.zone.as_deref(),
                cause: incident.cause,
            };
            let diagnoses = diagnose(&subject, &self.scene.sight(Instant::now(), pool, node));
            self.diagnosed(&incident.whose, diagnoses);
        }
        self.revised = self.revised.wrapping_add(looks);
        let known = self.incidents.tally(clock::unix_ms());
        self.write([closed, known, self.incidents.dropped()].concat());
    }

    fn write(&mut self, closed: Vec<Incident>) {
        if let Some(file) = &mut self.file {
            file.write(closed);
        }
    }
}

/// The writer of a file of incidents.
pub(super) fn open(settings: FileSettings) -> Option<IncidentWriter> {
    let started = IncidentWriter::start(settings);
    let warn = |error: &std::io::Error| tracing::warn!(%error, "incidents are kept in memory alone: no thread to write them");
    started.inspect_err(warn).ok()
}

fn count_diagnosis(pool: &str, diagnosis: &Diagnosis) {
    let (pool, place, what) = (pool.to_owned(), diagnosis.place.word(), diagnosis.what.word());
    counter!(DIAGNOSES.name, "pool" => pool, "place" => place, "what" => what).increment(1);
}

/// Nodes that go on to wait, and for something else.
fn other_reasons(before: &Topology, after: &Topology) -> Vec<(Arc<str>, Told)> {
    let other =
        |wait: &&Wait| before.waits.iter().any(|old| old.node == wait.node && old.reason != wait.reason);
    let told = |wait: &Wait| {
        let entry = after.nodes.iter().find(|entry| entry.node.id == wait.node)?;
        let name = entry.node.name.clone();
        let waits = if entry.placement == Placement::Held { "its keys wait" } else { "it waits" };
        let text = format!("{waits} for {} now", held(after, Some(&name))?);
        Some((name, Told::Goes("waits", text.into())))
    };
    after.waits.iter().filter(other).filter_map(told).collect()
}

fn log(after: &Topology, event: &Event, telling: &Telling, (moved, diagnosis): (f64, Option<&Diagnosis>)) {
    let (pool, epoch, node) = (&*after.pool, after.epoch, event.node.as_deref());
    let Telling { log: (level, words), order, .. } = *telling;
    let (cause, data) = (telling.cause.map(Cause::word), telling.data.map(Data::word));
    let (evidence, waits_for) = (telling.evidence.as_deref(), telling.waits_for.as_deref());
    let revision = event.node.is_none().then_some(after.revision);
    let moved = telling.moves.then(|| format!("{moved:.6}"));
    let diagnosis = telling.is_fault.then(|| diagnosis.map_or("none yet", |diagnosis| &*diagnosis.text));
    macro_rules! say {
        ($say:ident) => {
            tracing::$say!(
                pool, epoch, revision, node, cause, order, data, evidence, waits_for, moved, diagnosis,
                "{words}"
            )
        };
    }
    // Of one without a key it was said before.
    if let What::Restored(Returned { data: Data::Other | Data::Unknown, .. }) = event.what
        && after.policy.durable
    {
        let why = "what was written since its last save is lost, or it is another server";
        tracing::error!(pool, epoch, node, data, evidence, why, "a durable node is not what it was");
    }
    match level {
        Level::ERROR => say!(error),
        Level::WARN => say!(warn),
        Level::INFO => say!(info),
        _ => say!(debug),
    }
}

fn count(pool: &str, event: &Event, telling: &Telling) {
    if let Some(what) = telling.waits {
        counter!(WAITS.name, "pool" => pool.to_owned(), "what" => what).increment(1);
    }
    if let (Some(metric), Some(node)) = (telling.counter, &event.node) {
        let mut labels = vec![("pool", pool.to_owned()), ("node", node.to_string())];
        labels.extend(telling.cause.map(|cause| ("cause", cause.word().to_owned())));
        counter!(metric.name, &labels).increment(1);
    }
}

fn line(after: &Topology, event: &Event, telling: &Telling, moved: f64) -> Option<Record> {
    let Telling { line, cause, data, .. } = *telling;
    let evidence = telling.evidence.clone().or(telling.order.map(Arc::from)).unwrap_or_default();
    let (pool, epoch, unix_ms, node) =
        (after.pool.clone(), after.epoch, clock::unix_ms(), event.node.clone());
    Some(Record { pool, epoch, unix_ms, what: line?, node, cause, evidence, data, moved })
}

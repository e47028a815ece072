//! What became of a pool, told: a log line, a metric, a line of the history, a step of an incident.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use metrics::{counter, histogram};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    compare::{moves, treated},
    history::{History, Record},
    plan::Event,
};
use crate::{
    health::Scene,
    incident::{
        Diagnosis, FileSettings, Held, Incident, IncidentWriter, Incidents, Subject, Told, Whose, diagnose,
    },
    metrics::table::{DIAGNOSES, EJECTIONS, EJECTIONS_REFUSED, MOVED_SHARE, RESTORES, WAITS},
    topology::{Cause, Data, Health, Order, Placement, Topology, Wait, WaitReason},
};

/// Steps that may wait to be told before membership waits for them.
pub(super) const UNTOLD: usize = 256;

/// What is to be told.
#[derive(Debug)]
pub(super) enum Untold {
    /// A step.
    Step(Box<Published>),
    /// Nothing more comes of what is over: it is written down, and this is told.
    Settle(oneshot::Sender<()>),
}

/// A step that was published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) before: Arc<Topology>,
    pub(super) after: Arc<Topology>,
    pub(super) events: Vec<Event>,
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
                Some(Untold::Settle(done)) => {
                    let known = keeper.incidents.settle(now_ms());
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
    let Published { before, after, events } = step;
    let is_epoch = before.epoch != after.epoch;
    let gives = |event: &Event| matches!(event, Event::Ejected { .. } | Event::Released { .. });
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
    let mut located = Vec::new();
    for event in &events {
        let diagnoses = keeper.locate(&after, event);
        log(&after, event, share, diagnoses.first());
        count(&after.pool, event);
        located.extend(subject_of(event).map(|(node, _)| ((after.pool.clone(), node.clone()), diagnoses)));
    }
    if is_epoch {
        let records = events.iter().filter_map(|event| line(&after, event, share)).collect();
        history.push((&before, &after), now_ms(), records);
    }
    let mut told: Vec<_> = events.iter().filter_map(|event| for_incident(&after, event)).collect();
    told.extend(other_reasons(&before, &after));
    // What is only treated in another way, as keys that are held, has not moved.
    keeper.incidents.note(now_ms(), (&before, &after), &told, (went, &given));
    for (whose, diagnoses) in located {
        keeper.diagnosed(&whose, diagnoses);
    }
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
    fn locate(&self, after: &Topology, event: &Event) -> Vec<Diagnosis> {
        let Some((node, cause)) = subject_of(event) else { return Vec::new() };
        let Some(entry) = after.nodes.iter().find(|entry| entry.node.name == *node) else {
            return Vec::new();
        };
        let address = entry.node.address.to_string();
        let zone = entry.node.zone.as_deref();
        let subject = Subject { node, address: &address, zone, cause };
        diagnose(&subject, &self.scene.sight(Instant::now(), &after.pool, node))
    }

    fn diagnosed(&mut self, whose: &Whose, diagnoses: Vec<Diagnosis>) {
        if let Some(first) = self.incidents.diagnosed(now_ms(), whose, diagnoses) {
            count_diagnosis(&whose.0, &first);
        }
    }

    /// Looks again at what goes on: probes have learnt more, or a fault of this process has begun or ended.
    fn revise(&mut self) {
        let (opened, closed) = self.incidents.troubles(now_ms(), &self.scene.troubles(Instant::now()));
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
        let known = self.incidents.tally(now_ms());
        self.write([closed, known].concat());
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

/// The node whose fault is to be located, and what it was taken for.
fn subject_of(event: &Event) -> Option<(&Arc<str>, Option<Cause>)> {
    match event {
        Event::Ejected { node, cause, .. }
        | Event::Held { node, cause, .. }
        | Event::Kept { node, cause, .. } => Some((node, Some(*cause))),
        Event::Misconfigured { node, what: Some(_) } => Some((node, None)),
        Event::Slow { node, slow: Some(_) } => Some((node, Some(Cause::Slow))),
        _ => None,
    }
}

fn count_diagnosis(pool: &str, diagnosis: &Diagnosis) {
    let (pool, place, what) = (pool.to_owned(), diagnosis.place.word(), diagnosis.what.word());
    counter!(DIAGNOSES.name, "pool" => pool, "place" => place, "what" => what).increment(1);
}

/// What an incident has of an event.
pub(super) fn for_incident(after: &Topology, event: &Event) -> Option<(Arc<str>, Told)> {
    let serves = |node: &Arc<str>| {
        let works = |health| matches!(health, Health::Healthy | Health::Suspect);
        let entry = after.nodes.iter().find(|entry| entry.node.name == *node);
        entry.is_some_and(|entry| entry.placement == Placement::Owns && works(entry.health))
    };
    Some(match event {
        Event::Ejected { node, cause, evidence, basis } => {
            (node.clone(), Told::Opens("ejected", *cause, evidence.clone(), Some(*basis)))
        }
        Event::Held { node, cause, evidence, basis } => match held(after, node) {
            Some(held) => (node.clone(), Told::OpensHeld(*cause, evidence.clone(), Some(*basis), held)),
            None => (node.clone(), Told::Opens("held", *cause, evidence.clone(), Some(*basis))),
        },
        Event::Kept { node, cause, evidence, basis } => {
            (node.clone(), Told::Opens("kept", *cause, evidence.clone(), Some(*basis)))
        }
        Event::Released { node, .. } => {
            (node.clone(), Told::Goes("released", "its keys need not wait any more".into()))
        }
        Event::Stays { node } => {
            (node.clone(), Told::Goes("stays", "a reload says that its keys stay with it".into()))
        }
        Event::Waits { node, reason, .. } => {
            let text = match held(after, node) {
                Some(held) => format!("it is back, and waits for {held}"),
                None => format!("it is back, and waits for {}", reason.text()),
            };
            (node.clone(), Told::Goes("waits", text.into()))
        }
        Event::Restored { node, data, evidence } => {
            (node.clone(), Told::Ends("restored", Some(*data), evidence.clone()))
        }
        Event::Recovered { node } => {
            (node.clone(), Told::Ends("recovered", None, "it answers again, and never left".into()))
        }
        Event::Readmitted { node } => {
            (node.clone(), Told::Goes("readmitted", "a reload left too few others".into()))
        }
        Event::Ordered { node, order, was } => {
            let text = match (order, was) {
                (Some(Order::Drain), _) => "an operator drains it".to_owned(),
                (Some(Order::Eject), _) => "an operator takes it out".to_owned(),
                (Some(Order::Pin), _) => "an operator keeps it in".to_owned(),
                (None, Some(was)) => format!("an operator takes back: {}", was.word()),
                (None, None) => "an operator lets it go on".to_owned(),
            };
            (node.clone(), Told::Goes("ordered", text.into()))
        }
        Event::Starts { node, .. } => (node.clone(), Told::Goes("starts", "it takes its keys back".into())),
        Event::Cleaned { node, how, emptied } => (node.clone(), Told::Cleaned(how.clone(), *emptied)),
        Event::Misconfigured { node, what: Some(what) } if serves(node) => {
            (node.clone(), Told::Opens("misconfigured", Cause::Misconfigured, what.clone(), None))
        }
        Event::Misconfigured { node, what: None } if serves(node) => {
            (node.clone(), Told::Ends("configured", None, "nothing is wrong with it any more".into()))
        }
        Event::Slow { node, slow: Some(slow) } if serves(node) => {
            (node.clone(), Told::Opens("slow", Cause::Slow, slow.to_string().into(), None))
        }
        Event::Slow { node, slow: None } if serves(node) => {
            (node.clone(), Told::Ends("usual", None, "it is as fast as the others again".into()))
        }
        Event::Admits { .. }
        | Event::Misconfigured { .. }
        | Event::Slow { .. }
        | Event::Gutter { .. }
        | Event::Reloaded { .. } => return None,
    })
}

/// What a node waits for, or its keys.
fn held(topology: &Topology, node: &str) -> Option<Held> {
    let id = topology.nodes.iter().find(|entry| &*entry.node.name == node)?.node.id;
    let wait = topology.waits.iter().find(|wait| wait.node == id)?;
    let left = wait.due.map(|due| due.saturating_duration_since(Instant::now()).as_millis());
    Some(Held { reason: wait.reason, due_in_ms: left.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)) })
}

/// Nodes that go on to wait, and for something else.
fn other_reasons(before: &Topology, after: &Topology) -> Vec<(Arc<str>, Told)> {
    let other =
        |wait: &&Wait| before.waits.iter().any(|old| old.node == wait.node && old.reason != wait.reason);
    let told = |wait: &Wait| {
        let entry = after.nodes.iter().find(|entry| entry.node.id == wait.node)?;
        let name = entry.node.name.clone();
        let waits = if entry.placement == Placement::Held { "its keys wait" } else { "it waits" };
        let text = format!("{waits} for {} now", held(after, &name)?);
        Some((name, Told::Goes("waits", text.into())))
    };
    after.waits.iter().filter(other).filter_map(told).collect()
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn log(after: &Topology, event: &Event, moved: f64, diagnosis: Option<&Diagnosis>) {
    let (pool, epoch) = (&*after.pool, after.epoch);
    let diagnosis = diagnosis.map_or("none yet", |diagnosis| &*diagnosis.text);
    let moved = format!("{moved:.6}");
    match event {
        Event::Ejected { node, cause, evidence, .. } => {
            let (node, cause, evidence) = (&**node, cause.word(), &**evidence);
            tracing::warn!(pool, epoch, node, cause, evidence, moved, diagnosis, "node ejected");
        }
        Event::Held { node, cause, evidence, .. } => {
            let waits_for = held(after, node).map_or_else(String::new, |held| held.to_string());
            let (node, cause, evidence) = (&**node, cause.word(), &**evidence);
            tracing::error!(
                pool,
                epoch,
                node,
                cause,
                evidence,
                waits_for,
                diagnosis,
                "node ejected, keys held"
            );
        }
        Event::Released { node, evidence } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = &**evidence, moved, "keys no longer held");
        }
        Event::Stays { node } => {
            let evidence = "a reload says that they do not move";
            tracing::warn!(pool, epoch, node = &**node, evidence, "keys stay with an ejected node");
        }
        Event::Gutter { evidence } => {
            tracing::warn!(pool, epoch, evidence = &**evidence, moved, "keys of nodes that are away move");
        }
        Event::Kept { node, cause, evidence, .. } => {
            let cause = cause.word();
            let (node, evidence) = (&**node, &**evidence);
            tracing::error!(pool, epoch, node, cause, evidence, diagnosis, "node not ejected");
        }
        Event::Readmitted { node } => {
            let evidence = "the others are too few since the reload";
            tracing::error!(pool, epoch, node = &**node, evidence, moved, "node readmitted, though ejected");
        }
        Event::Waits { .. } | Event::Restored { .. } => log_return(after, event, &moved),
        Event::Recovered { node } => {
            tracing::info!(pool, epoch, node = &**node, "node recovered without having left");
        }
        Event::Ordered { node, order, was } => {
            let order = command(*order, *was);
            tracing::warn!(pool, epoch, node = &**node, order, moved, "an operator's order for a node");
        }
        Event::Starts { node, evidence } => {
            let evidence = evidence.as_deref().unwrap_or("an operator let it back");
            tracing::info!(pool, epoch, node = &**node, evidence, moved, "node starts");
        }
        Event::Cleaned { node, how, .. } => {
            tracing::info!(pool, epoch, node = &**node, how = &**how, "node cleaned of what is old");
        }
        Event::Admits { node, to } => {
            let (node, share, is_fenced) = (&**node, format!("{:.4}", to.share()), to.is_fenced());
            tracing::debug!(pool, epoch, node, share, is_fenced, moved, "node takes more of its keys");
        }
        Event::Misconfigured { .. } | Event::Slow { .. } => log_doubt((pool, epoch), event, diagnosis),
        Event::Reloaded { evidence } => {
            let revision = after.revision;
            tracing::info!(pool, epoch, revision, evidence = &**evidence, moved, "pool reloaded");
        }
    }
}

/// What a node that is back brings, and whether it serves.
fn log_return(after: &Topology, event: &Event, moved: &str) {
    let (pool, epoch) = (&*after.pool, after.epoch);
    match event {
        Event::Waits { node, reason, data, evidence } => {
            let (node, data, evidence, next) = (&**node, data.word(), &**evidence, budget_due(after));
            let waits_for = reason.text();
            if *reason == WaitReason::Word {
                tracing::error!(pool, epoch, node, data, evidence, waits_for, "a durable node is not served");
            } else {
                tracing::info!(pool, epoch, node, data, evidence, waits_for, next, "node is back and waits");
            }
        }
        Event::Restored { node, data: is, evidence } => {
            let (node, data, evidence) = (&**node, is.word(), &**evidence);
            // Of one without a key it was said before.
            if after.policy.durable && matches!(is, Data::Other | Data::Unknown) {
                let why = "what was written since its last save is lost, or it is another server";
                tracing::error!(pool, epoch, node, data, evidence, why, "a durable node is not what it was");
            }
            tracing::info!(pool, epoch, node, data, evidence, moved, "node restored");
        }
        _ => {}
    }
}

/// The command that was given: what is wanted now, or what took back what was.
fn command(order: Option<Order>, was: Option<Order>) -> &'static str {
    match (order, was) {
        (Some(order), _) => order.word(),
        // `restore` alone lets a node go on that is under no order.
        (None, was) => was.unwrap_or(Order::Eject).opposite(),
    }
}

/// What is wrong with a node that serves all the same.
fn log_doubt((pool, epoch): (&str, u64), event: &Event, diagnosis: &str) {
    match event {
        Event::Misconfigured { node, what: Some(what) } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = &**what, "node misconfigured");
        }
        Event::Misconfigured { node, what: None } => {
            tracing::info!(pool, epoch, node = &**node, "node no longer misconfigured");
        }
        Event::Slow { node, slow: Some(slow) } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = %slow, diagnosis, "node slow");
        }
        Event::Slow { node, slow: None } => {
            tracing::info!(pool, epoch, node = &**node, "node no longer slow");
        }
        _ => {}
    }
}

/// `next in 34 s`.
fn budget_due(topology: &Topology) -> String {
    let left = topology.budget_due.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64());
    left.map_or_else(String::new, |left| format!("in {left:.0} s"))
}

fn count(pool: &str, event: &Event) {
    let pool = pool.to_owned();
    match event {
        Event::Ejected { node, cause, .. } | Event::Held { node, cause, .. } => {
            if matches!(event, Event::Held { .. }) {
                counter!(WAITS.name, "pool" => pool.clone(), "what" => "ejection").increment(1);
            }
            counter!(EJECTIONS.name, "pool" => pool, "node" => node.to_string(), "cause" => cause.word())
                .increment(1);
        }
        Event::Waits { .. } => {
            counter!(WAITS.name, "pool" => pool, "what" => "return").increment(1);
        }
        Event::Kept { node, cause, .. } => {
            counter!(EJECTIONS_REFUSED.name, "pool" => pool, "node" => node.to_string(), "cause" => cause.word()).increment(1);
        }
        Event::Restored { node, .. } => {
            counter!(RESTORES.name, "pool" => pool, "node" => node.to_string()).increment(1);
        }
        Event::Readmitted { .. }
        | Event::Released { .. }
        | Event::Stays { .. }
        | Event::Starts { .. }
        | Event::Cleaned { .. }
        | Event::Admits { .. }
        | Event::Ordered { .. }
        | Event::Recovered { .. }
        | Event::Misconfigured { .. }
        | Event::Slow { .. }
        | Event::Gutter { .. }
        | Event::Reloaded { .. } => {}
    }
}

fn line(after: &Topology, event: &Event, moved: f64) -> Option<Record> {
    let (what, node, cause, evidence) = match event {
        Event::Ejected { node, cause, evidence, .. } => {
            ("ejected", Some(node), Some(*cause), evidence.clone())
        }
        Event::Readmitted { node } => ("readmitted", Some(node), None, "too few others".into()),
        Event::Held { node, cause, evidence, .. } => ("held", Some(node), Some(*cause), evidence.clone()),
        Event::Released { node, evidence } => ("released", Some(node), None, evidence.clone()),
        Event::Stays { node } => ("stays", Some(node), None, "its keys do not move any more".into()),
        Event::Restored { node, evidence, .. } => ("restored", Some(node), None, evidence.clone()),
        Event::Ordered { node, order, was } => ("ordered", Some(node), None, command(*order, *was).into()),
        Event::Starts { node, evidence } => {
            let evidence = evidence.clone().unwrap_or_else(|| "an operator let it back".into());
            ("starts", Some(node), None, evidence)
        }
        Event::Admits { node, to } => {
            let doing = if to.is_fenced() { ", more of them are being cleaned" } else { "" };
            let text = format!("it serves {:.1} % of its keys{doing}", to.share() * 100.0);
            ("admits", Some(node), None, text.into())
        }
        Event::Reloaded { evidence } => ("reloaded", None, None, evidence.clone()),
        Event::Gutter { evidence } => ("gutter", None, None, evidence.clone()),
        Event::Kept { .. }
        | Event::Waits { .. }
        | Event::Cleaned { .. }
        | Event::Recovered { .. }
        | Event::Misconfigured { .. }
        | Event::Slow { .. } => return None,
    };
    let data = match event {
        Event::Restored { data, .. } => Some(*data),
        _ => None,
    };
    let unix_ms = now_ms();
    let (pool, node) = (after.pool.clone(), node.cloned());
    Some(Record { pool, epoch: after.epoch, unix_ms, what, node, cause, evidence, data, moved })
}

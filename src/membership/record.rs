//! What became of a pool, told: a log line, a metric, a line of the history, a step of an incident.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use metrics::{counter, histogram};
use tokio::{sync::mpsc, task::spawn_blocking, time::Instant};

use super::{
    history::{History, Record},
    plan::{Event, moved},
};
use crate::{
    incident::{Incident, IncidentFile, Incidents, Told},
    metrics::table::{EJECTIONS, EJECTIONS_REFUSED, MOVED_SHARE, RESTORES, WAITS},
    topology::{Order, Topology},
};

/// Steps that may wait to be told before membership waits for them.
pub(super) const UNTOLD: usize = 256;

/// A step that was published.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) before: Arc<Topology>,
    pub(super) after: Arc<Topology>,
    pub(super) events: Vec<Event>,
}

/// Tells steps in their order, until membership ends. Shares are computed on a blocking thread,
/// after the publish: an ejection does not wait for its own statistics.
pub(super) async fn tell(mut steps: mpsc::Receiver<Published>, history: History, mut incidents: Keeper) {
    while let Some(step) = steps.recv().await {
        let Published { before, after, events } = step;
        let is_epoch = before.epoch != after.epoch;
        let share = match is_epoch {
            true => {
                let (before, after) = (before.clone(), after.clone());
                spawn_blocking(move || moved(&before, &after)).await.unwrap_or(0.0)
            }
            false => 0.0,
        };
        if is_epoch {
            histogram!(MOVED_SHARE.name, "pool" => after.pool.to_string()).record(share);
        }
        for event in &events {
            log(&after, event, share);
            count(&after.pool, event);
        }
        if is_epoch {
            let records = events.iter().filter_map(|event| line(&after, event, share)).collect();
            history.push((&before, &after), now_ms(), records);
        }
        let told: Vec<_> = events.iter().filter_map(for_incident).collect();
        let closed = incidents.incidents.note(now_ms(), (&before, &after), &told, share);
        incidents.write(closed).await;
    }
}

/// The incidents, and the file that they are written to.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    pub(super) incidents: Incidents,
    pub(super) file: Option<IncidentFile>,
}

impl Keeper {
    /// Writes them on a blocking thread.
    async fn write(&mut self, closed: Vec<Incident>) {
        if closed.is_empty() {
            return;
        }
        let Some(mut file) = self.file.take() else { return };
        let written = spawn_blocking(move || {
            file.append(&closed);
            file
        });
        self.file = written.await.ok();
    }
}

/// What an incident has of an event.
fn for_incident(event: &Event) -> Option<(Arc<str>, Told)> {
    Some(match event {
        Event::Ejected { node, cause, evidence } => {
            (node.clone(), Told::Opens("ejected", *cause, evidence.clone()))
        }
        Event::Held { node, cause, evidence } => {
            (node.clone(), Told::Opens("held", *cause, evidence.clone()))
        }
        Event::Kept { node, cause, evidence } => {
            (node.clone(), Told::Opens("kept", *cause, evidence.clone()))
        }
        Event::Released { node, .. } => {
            (node.clone(), Told::Goes("released", "its keys need not wait any more".into()))
        }
        Event::Waits { node, .. } => {
            (node.clone(), Told::Goes("waits", "it is back and cold: the warmth budget is spent".into()))
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
        Event::Ordered { node, order } => {
            let text = order.map_or("an operator takes an order back", |order| match order {
                Order::Drain => "an operator drains it",
                Order::Eject => "an operator takes it out",
                Order::Pin => "an operator keeps it in",
            });
            (node.clone(), Told::Goes("ordered", text.into()))
        }
        Event::Starts { node, .. } => (node.clone(), Told::Goes("starts", "it takes its keys back".into())),
        Event::Cleaned { node, how } => (node.clone(), Told::Goes("cleaned", how.clone())),
        Event::Admits { .. } | Event::Misconfigured { .. } | Event::Slow { .. } | Event::Reloaded { .. } => {
            return None;
        }
    })
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

fn log(after: &Topology, event: &Event, moved: f64) {
    let (pool, epoch) = (&*after.pool, after.epoch);
    let moved = format!("{moved:.6}");
    match event {
        Event::Ejected { node, cause, evidence } => {
            let cause = cause.word();
            tracing::warn!(pool, epoch, node = &**node, cause, evidence = &**evidence, moved, "node ejected");
        }
        Event::Held { node, cause, evidence } => {
            let (node, cause, evidence, next) = (&**node, cause.word(), &**evidence, budget_due(after));
            tracing::error!(pool, epoch, node, cause, evidence, next, "node ejected, keys held");
        }
        Event::Released { node, evidence } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = &**evidence, moved, "keys no longer held");
        }
        Event::Waits { node, data, evidence } => {
            let (node, data, evidence, next) = (&**node, data.word(), &**evidence, budget_due(after));
            tracing::info!(pool, epoch, node, data, evidence, next, "node is back and waits: warmth budget");
        }
        Event::Kept { node, cause, evidence } => {
            let cause = cause.word();
            tracing::error!(pool, epoch, node = &**node, cause, evidence = &**evidence, "node not ejected");
        }
        Event::Readmitted { node } => {
            let evidence = "the others are too few since the reload";
            tracing::error!(pool, epoch, node = &**node, evidence, moved, "node readmitted, though ejected");
        }
        Event::Restored { node, data, evidence } => {
            let (node, data, evidence) = (&**node, data.word(), &**evidence);
            tracing::info!(pool, epoch, node, data, evidence, moved, "node restored");
        }
        Event::Recovered { node } => {
            tracing::info!(pool, epoch, node = &**node, "node recovered without having left");
        }
        Event::Ordered { node, order } => {
            let order = order.map_or("none", Order::word);
            tracing::warn!(pool, epoch, node = &**node, order, moved, "an operator's order for a node");
        }
        Event::Starts { node, evidence } => {
            let evidence = evidence.as_deref().unwrap_or("an operator let it back");
            tracing::info!(pool, epoch, node = &**node, evidence, moved, "node starts");
        }
        Event::Cleaned { node, how } => {
            tracing::info!(pool, epoch, node = &**node, how = &**how, "node cleaned of what is old");
        }
        Event::Admits { node, to } => {
            let (node, share, is_fenced) = (&**node, format!("{:.4}", to.share()), to.is_fenced());
            tracing::debug!(pool, epoch, node, share, is_fenced, moved, "node takes more of its keys");
        }
        Event::Misconfigured { node, what: Some(what) } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = &**what, "node misconfigured");
        }
        Event::Misconfigured { node, what: None } => {
            tracing::info!(pool, epoch, node = &**node, "node no longer misconfigured");
        }
        Event::Slow { node, slow: Some(slow) } => {
            tracing::warn!(pool, epoch, node = &**node, evidence = %slow, "node slow");
        }
        Event::Slow { node, slow: None } => {
            tracing::info!(pool, epoch, node = &**node, "node no longer slow");
        }
        Event::Reloaded { evidence } => {
            let revision = after.revision;
            tracing::info!(pool, epoch, revision, evidence = &**evidence, moved, "pool reloaded");
        }
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
        | Event::Starts { .. }
        | Event::Cleaned { .. }
        | Event::Admits { .. }
        | Event::Ordered { .. }
        | Event::Recovered { .. }
        | Event::Misconfigured { .. }
        | Event::Slow { .. }
        | Event::Reloaded { .. } => {}
    }
}

fn line(after: &Topology, event: &Event, moved: f64) -> Option<Record> {
    let (what, node, cause, evidence) = match event {
        Event::Ejected { node, cause, evidence } => ("ejected", Some(node), Some(*cause), evidence.clone()),
        Event::Readmitted { node } => ("readmitted", Some(node), None, "too few others".into()),
        Event::Held { node, cause, evidence } => ("held", Some(node), Some(*cause), evidence.clone()),
        Event::Released { node, evidence } => ("released", Some(node), None, evidence.clone()),
        Event::Restored { node, evidence, .. } => ("restored", Some(node), None, evidence.clone()),
        Event::Ordered { node, order } => {
            ("ordered", Some(node), None, order.map_or("none", Order::word).into())
        }
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

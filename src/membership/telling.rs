//! HOW EACH EVENT IS TOLD: one table of what the log, the counters, the history and an incident have of it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Level;

use super::event::{Event, What};
use crate::{
    incident::{Held, Told},
    metrics::table::{EJECTIONS, EJECTIONS_REFUSED, Metric, RESTORES},
    topology::{Cause, Data, Failed, Order, Placement, Returned, Topology, WaitReason},
};

/// What is told of one event.
pub(super) struct Telling {
    /// How loud the log says it, and its first words.
    pub(super) log: (Level, &'static str),
    /// The word of its line in the history; none of what is no matter of epochs.
    pub(super) line: Option<&'static str>,
    /// Why, as a label.
    pub(super) cause: Option<Cause>,
    /// Why, as a sentence.
    pub(super) evidence: Option<Arc<str>>,
    /// What the node came back with.
    pub(super) data: Option<Data>,
    /// The command that was given.
    pub(super) order: Option<&'static str>,
    /// What is waited for.
    pub(super) waits_for: Option<String>,
    /// It moves keys, or may.
    pub(super) moves: bool,
    /// It tells of a fault, which is to be located.
    pub(super) is_fault: bool,
    /// What counts it, by pool, node and cause.
    pub(super) counter: Option<&'static Metric>,
    /// What waits for the warmth budget from now on.
    pub(super) waits: Option<&'static str>,
    /// What an incident has of it.
    pub(super) incident: Option<Told>,
}

impl Telling {
    fn new(level: Level, words: &'static str) -> Telling {
        Telling {
            log: (level, words),
            line: None,
            cause: None,
            evidence: None,
            data: None,
            order: None,
            waits_for: None,
            moves: false,
            is_fault: false,
            counter: None,
            waits: None,
            incident: None,
        }
    }

    /// Of a node that failed: its incident begins with this word.
    fn of_failed(self, word: &'static str, failed: &Failed) -> Telling {
        let Failed { cause, evidence, basis } = failed;
        let incident = Some(Told::Opens(word, *cause, evidence.clone(), Some(*basis)));
        Telling { cause: Some(*cause), is_fault: true, incident, ..self }.because(evidence)
    }

    fn of_return(self, with: &Returned) -> Telling {
        Telling { data: Some(with.data), ..self }.because(&with.evidence)
    }

    fn because(self, evidence: &Arc<str>) -> Telling {
        Telling { evidence: Some(evidence.clone()), ..self }
    }

    /// Its incident goes on.
    fn goes(self, word: &'static str, text: impl Into<Arc<str>>) -> Telling {
        Telling { incident: Some(Told::Goes(word, text.into())), ..self }
    }

    /// A line in the history of an epoch that moves keys.
    fn moves(self, word: &'static str) -> Telling {
        Telling { line: Some(word), moves: true, ..self }
    }
}

/// The table.
pub(super) fn telling(after: &Topology, event: &Event) -> Telling {
    let new = Telling::new;
    match &event.what {
        What::Ejected(failed) => {
            let told = new(Level::WARN, "node ejected").moves("ejected").of_failed("ejected", failed);
            Telling { counter: Some(&EJECTIONS), ..told }
        }
        What::Held(failed) => {
            let told = new(Level::ERROR, "node ejected, keys held").of_failed("held", failed);
            let held = held(after, event.node.as_deref());
            let Failed { cause, evidence, basis } = failed.clone();
            let opens = held.map(|held| Told::OpensHeld(cause, evidence, Some(basis), held));
            let waits_for = held.map(|held| held.to_string());
            let (counter, waits) = (Some(&EJECTIONS), Some("ejection"));
            Telling {
                line: Some("held"),
                incident: opens.or(told.incident),
                waits_for,
                counter,
                waits,
                ..told
            }
        }
        What::Released(evidence) => new(Level::WARN, "keys no longer held")
            .moves("released")
            .because(evidence)
            .goes("released", "its keys need not wait any more"),
        What::Stays => {
            let text: Arc<str> = "a reload says that its keys stay with it".into();
            let told = new(Level::WARN, "keys stay with an ejected node").because(&text);
            Telling { line: Some("stays"), ..told }.goes("stays", text)
        }
        What::Kept(failed) => {
            let told = new(Level::ERROR, "node not ejected").of_failed("kept", failed);
            Telling { counter: Some(&EJECTIONS_REFUSED), ..told }
        }
        What::Readmitted(text) => new(Level::ERROR, "node readmitted, though ejected")
            .moves("readmitted")
            .because(&(*text).into())
            .goes("readmitted", *text),
        What::Ordered(order, was) => {
            let command = command(*order, *was);
            let told = new(Level::WARN, "an operator's order for a node").moves("ordered");
            Telling { order: Some(command), ..told }.goes("ordered", ordered(*order, *was))
        }
        What::Gutter(evidence) => {
            new(Level::WARN, "keys of nodes that are away move").moves("gutter").because(evidence)
        }
        What::Reloaded(evidence) => new(Level::INFO, "pool reloaded").moves("reloaded").because(evidence),
        What::Waits(..)
        | What::Starts(_)
        | What::Admits(_)
        | What::Cleaned { .. }
        | What::Restored(_)
        | What::Recovered => of_back(after, event),
        What::Misconfigured(_) | What::Slow(_) => of_server(after, event),
    }
}

/// What becomes of a node that is back.
fn of_back(after: &Topology, event: &Event) -> Telling {
    let new = Telling::new;
    match &event.what {
        What::Waits(reason, with) => {
            let log = match reason {
                WaitReason::Word => (Level::ERROR, "a durable node is not served"),
                _ => (Level::INFO, "node is back and waits"),
            };
            let held = held(after, event.node.as_deref());
            let waits_for = held.map_or_else(|| reason.text().to_owned(), |held| held.to_string());
            let told = new(log.0, log.1)
                .of_return(with)
                .goes("waits", format!("it is back, and waits for {waits_for}"));
            Telling { waits_for: Some(waits_for), waits: Some("return"), ..told }
        }
        What::Starts(evidence) => {
            let by_hand = || "an operator let it back".into();
            let evidence = evidence.clone().unwrap_or_else(by_hand);
            let told = new(Level::INFO, "node starts").moves("starts");
            told.because(&evidence).goes("starts", "it takes its keys back")
        }
        What::Admits(to) => {
            let doing = if to.is_fenced() { ", more of them are being cleaned" } else { "" };
            let text = format!("it serves {:.1} % of its keys{doing}", to.share() * 100.0);
            new(Level::DEBUG, "node takes more of its keys").moves("admits").because(&text.into())
        }
        What::Cleaned { how, emptied } => {
            let told = new(Level::INFO, "node cleaned of what is old").because(how);
            Telling { incident: Some(Told::Cleaned(how.clone(), *emptied)), ..told }
        }
        What::Restored(with) => {
            let told = new(Level::INFO, "node restored").moves("restored").of_return(with);
            let incident = Some(Told::Ends("restored", Some(with.data), with.evidence.clone()));
            Telling { counter: Some(&RESTORES), incident, ..told }
        }
        _ => {
            let incident = Some(Told::Ends("recovered", None, "it answers again, and never left".into()));
            Telling { incident, ..new(Level::INFO, "node recovered without having left") }
        }
    }
}

/// What is wrong with a node that may serve all the same.
fn of_server(after: &Topology, event: &Event) -> Telling {
    let new = Telling::new;
    let entry = after.nodes.iter().find(|entry| Some(&entry.node.name) == event.node.as_ref());
    let serves = entry.is_some_and(|entry| entry.placement == Placement::Owns && !entry.health.is_out());
    let is_doubted = entry.is_some_and(|entry| entry.misconfigured.is_some() || entry.slow.is_some());
    // Whoever is out meanwhile, by hand, has no other end to it.
    let ends = |word, text: &str| match is_doubted {
        true => Some(Told::Goes(word, text.into())),
        false => Some(Told::Clears(word, text.into())),
    };
    let opens = |word, cause, text: &Arc<str>| match serves {
        true => Some(Told::Opens(word, cause, text.clone(), None)),
        false => Some(Told::Goes(word, text.clone())),
    };
    match &event.what {
        What::Misconfigured(Some(what)) => {
            let incident = opens("misconfigured", Cause::Misconfigured, what);
            let told = new(Level::WARN, "node misconfigured").because(what);
            Telling { is_fault: true, incident, ..told }
        }
        What::Misconfigured(None) => {
            let incident = ends("configured", "nothing is wrong with it any more");
            Telling { incident, ..new(Level::INFO, "node no longer misconfigured") }
        }
        What::Slow(Some(slow)) => {
            let text = slow.to_string().into();
            let incident = opens("slow", Cause::Slow, &text);
            let told = new(Level::WARN, "node slow").because(&text);
            Telling { is_fault: true, cause: Some(Cause::Slow), incident, ..told }
        }
        _ => {
            let incident = ends("usual", "it is as fast as the others again");
            Telling { incident, ..new(Level::INFO, "node no longer slow") }
        }
    }
}

/// What a node waits for, or its keys.
pub(super) fn held(topology: &Topology, node: Option<&str>) -> Option<Held> {
    let id = topology.nodes.iter().find(|entry| Some(&*entry.node.name) == node)?.node.id;
    let wait = topology.waits.iter().find(|wait| wait.node == id)?;
    let left = wait.due.map(|due| due.saturating_duration_since(Instant::now()).as_millis());
    Some(Held { reason: wait.reason, due_in_ms: left.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)) })
}

/// The command that was given: what is wanted now, or what took back what was.
fn command(order: Option<Order>, was: Option<Order>) -> &'static str {
    match (order, was) {
        (Some(order), _) => order.word(),
        // `restore` alone lets a node go on that is under no order.
        (None, was) => was.unwrap_or(Order::Eject).opposite(),
    }
}

/// The same as a sentence.
fn ordered(order: Option<Order>, was: Option<Order>) -> String {
    match (order, was) {
        (Some(Order::Drain), _) => "an operator drains it".to_owned(),
        (Some(Order::Eject), _) => "an operator takes it out".to_owned(),
        (Some(Order::Pin), _) => "an operator keeps it in".to_owned(),
        (None, Some(was)) => format!("an operator takes back: {}", was.word()),
        (None, None) => "an operator lets it go on".to_owned(),
    }
}

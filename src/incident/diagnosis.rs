//! What is seen -> where the fault is. Pure: a [`Sighting`] in, a ranked list of diagnoses out, each with its
//! confidence, the sentence that a person would write, and what it rests on.
//!
//! Each sign gives weight to what would explain it, and takes weight from what it contradicts; a fault that
//! explains several nodes at once takes weight from those that explain one. The confidence in a diagnosis is
//! its part of all weight, doubt included. tests/data/diagnoses.txt has scenarios and what they are taken
//! for.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::scale::Scale;
use crate::{
    health::{Fault, Holder, Lateness, Sighting, Symptom, Trouble},
    topology::{Cause, Failure},
};

/// Where a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The node itself.
    Node,
    /// The way to it.
    Path,
    /// Its zone.
    Zone,
    /// This process, its machine or its link.
    Proxy,
    /// A key that the node is asked for.
    Key,
    /// A client that asks it.
    Client,
}

/// What it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Nobody listens: the process is gone.
    Gone,
    /// It was restarted, or another server is in its place.
    Replaced,
    /// It takes connections and answers nothing.
    Hung,
    /// It answers too late.
    Slow,
    /// It answers some requests and is held by others.
    Busy,
    /// It takes connections and closes them.
    Closing,
    /// It takes no more clients.
    Full,
    /// It refuses our credentials, or database.
    Auth,
    /// It speaks something else.
    Protocol,
    /// It reads its data.
    Loading,
    /// It answers that it does not serve.
    Errors,
    /// It is a replica.
    Replica,
    /// Its name does not resolve.
    Unresolved,
    /// Nothing comes back.
    Unreachable,
    /// Something on the way says no.
    Rejected,
    /// Some of it is lost on the way.
    Lossy,
    /// Most of it fails at once.
    Down,
    /// The way out of this machine.
    Link,
    /// It does not get to run.
    Starved,
    /// It has no descriptor left.
    Descriptors,
    /// It has no memory left.
    Memory,
    /// Its resolver.
    Dns,
    /// Each request for it takes long.
    Giant,
    /// Most requests are for it.
    Hot,
    /// A node that is asked for it stands still.
    Stall,
    /// It asks for too much.
    Flood,
}

/// One explanation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Where.
    pub place: Place,
    /// What.
    pub what: What,
    /// How sure, 0.0..=1.0. All of an incident sum to less than one.
    pub confidence: f64,
    /// As a person would say it.
    pub text: Arc<str>,
    /// What it rests on.
    pub evidence: Vec<Arc<str>>,
}

/// Which node it is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub node: &'a str,
    /// Where it is.
    pub address: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Why it was ejected, if it was.
    pub cause: Option<Cause>,
}

impl Place {
    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            Place::Node => "node",
            Place::Path => "path",
            Place::Zone => "zone",
            Place::Proxy => "proxy",
            Place::Key => "key",
            Place::Client => "client",
        }
    }
}

impl What {
    /// The word for metrics and messages.
    pub fn word(self) -> &'static str {
        match self {
            What::Gone => "gone",
            What::Replaced => "replaced",
            What::Hung => "hung",
            What::Slow => "slow",
            What::Busy => "busy",
            What::Closing => "closing",
            What::Full => "full",
            What::Auth => "auth",
            What::Protocol => "protocol",
            What::Loading => "loading",
            What::Errors => "errors",
            What::Replica => "replica",
            What::Unresolved => "unresolved",
            What::Unreachable => "unreachable",
            What::Rejected => "rejected",
            What::Lossy => "lossy",
            What::Down => "down",
            What::Link => "link",
            What::Starved => "starved",
            What::Descriptors => "descriptors",
            What::Memory => "memory",
            What::Dns => "dns",
            What::Giant => "giant",
            What::Hot => "hot",
            What::Stall => "stall",
            What::Flood => "flood",
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (confidence {:.2})", self.text, self.confidence)
    }
}

/// Where the fault of a node is, the likeliest first; nothing when there is too little to go by.
pub fn diagnose(subject: &Subject<'_>, seen: &Sighting) -> Vec<Diagnosis> {
    let mut scale = Scale::default();
    let view = View::of(seen);
    by_cause(&mut scale, subject.cause);
    by_last_probe(&mut scale, &view);
    by_silence(&mut scale, &view);
    by_traffic(&mut scale, &view);
    by_company(&mut scale, &view);
    by_holders(&mut scale, &view, subject.cause);
    by_ourselves(&mut scale, &view);
    scale.read(subject, seen)
}

/// Where a fault of this process is.
pub fn diagnose_trouble(trouble: &Trouble) -> Diagnosis {
    let (what, text) = match trouble.fault {
        Fault::Link => {
            (What::Link, "this proxy: its link is cut, most nodes of all pools are silent at once")
        }
        Fault::Lossy => (
            What::Lossy,
            "this proxy: its link loses packets, most nodes of all pools leave requests unanswered and answer others",
        ),
        Fault::Dns => (What::Dns, "this proxy: its resolver does not answer, no name resolves"),
        Fault::Starved => (What::Starved, "this proxy: it does not get to run, so its own clock is late"),
        Fault::Descriptors => (What::Descriptors, "this proxy: it has no file descriptor left"),
        Fault::Memory => (What::Memory, "this proxy: it has no memory left for what its clients are owed"),
    };
    Diagnosis {
        place: Place::Proxy,
        what,
        confidence: 0.95,
        text: text.into(),
        evidence: trouble.evidence.iter().map(|line| line.as_str().into()).collect(),
    }
}

/// A sighting, sorted for the questions below.
struct View<'a> {
    seen: &'a Sighting,
    /// The last probe since it fails.
    last: Option<Symptom>,
    /// Probes since the last that was answered.
    tail: &'a [Symptom],
}

impl<'a> View<'a> {
    fn of(seen: &'a Sighting) -> View<'a> {
        let answers = |symptom: &Symptom| matches!(symptom, Symptom::Good | Symptom::Busy);
        let from = seen.probes.iter().rposition(answers).map_or(0, |at| at + 1);
        let fresh = seen.fresh.min(seen.probes.len());
        let last = seen.probes[seen.probes.len() - fresh..].last().copied();
        View { seen, last, tail: &seen.probes[from..] }
    }

    fn traffic(&self, kind: Failure) -> u64 {
        self.seen.failures[kind as usize]
    }

    fn probes(&self, symptom: Symptom) -> usize {
        self.tail.iter().filter(|met| **met == symptom).count()
    }
}

/// What the detector took it for: little, and enough when nothing else is known.
fn by_cause(scale: &mut Scale, cause: Option<Cause>) {
    use Place::{Node, Path};
    let (place, what) = match cause {
        None => return,
        Some(Cause::Refused) => (Node, What::Gone),
        Some(Cause::ConnectTimeout) => (Path, What::Unreachable),
        Some(Cause::Lost) => (Node, What::Closing),
        Some(Cause::Timeout) => (Node, What::Hung),
        Some(Cause::Protocol) => (Node, What::Protocol),
        Some(Cause::Unresolved) => (Node, What::Unresolved),
        Some(Cause::Misconfigured) => (Node, What::Auth),
        Some(Cause::Loading) => (Node, What::Loading),
        Some(Cause::Replaced) => (Node, What::Replaced),
        // It answers its probes, and not what it is asked.
        Some(Cause::Status | Cause::FailureRate | Cause::Unwritable) => (Node, What::Errors),
        Some(Cause::Slow) => (Node, What::Slow),
    };
    // These were measured or tried, and no probe says more.
    let is_shown =
        matches!(cause, Some(Cause::FailureRate | Cause::Unwritable | Cause::Replaced | Cause::Slow));
    let sign = match cause {
        Some(Cause::Slow) => "its p99 is far above its pool's".to_owned(),
        cause => cause.map_or_else(String::new, |cause| format!("the verdict on it was {}", cause.word())),
    };
    scale.add(place, what, if is_shown { 6.0 } else { 1.0 }, sign);
}

/// What an answer says, and be it a refusal, needs no inference.
fn by_last_probe(scale: &mut Scale, view: &View<'_>) {
    let said = |what: &str| match &view.seen.said {
        Some(said) => format!("the last probe {what}: {said}"),
        None => format!("the last probe {what}"),
    };
    let Some(last) = view.last else { return };
    let (what, sign) = match last {
        Symptom::Refused => {
            // A firewall that refuses new connections swallows what goes over old ones; a process that ends
            // resets them.
            let swallowed = view.tail.iter().take_while(|met| **met == Symptom::Silent).count() == 1;
            if swallowed && lost(view) + view.traffic(Failure::Refused) == 0 {
                let sign = "a connection fell silent without an end, and new ones are refused";
                scale.add(Place::Path, What::Rejected, 9.0, sign);
                scale.explain_away(0.1, |_, what| what == What::Hung);
                scale.add(Place::Node, What::Gone, 2.0, said("was refused"));
                return;
            }
            (What::Gone, said("was refused"))
        }
        Symptom::Busy => (What::Busy, "it answers that a script holds it".to_owned()),
        Symptom::Lost => (What::Closing, said("lost its new connection")),
        Symptom::Garbage => (What::Protocol, said("got something else")),
        Symptom::Auth => (What::Auth, said("was turned away")),
        Symptom::Loading => (What::Loading, said("met a node that loads")),
        Symptom::Full => (What::Full, said("was turned away")),
        Symptom::Status => (What::Errors, said("was answered with an error")),
        Symptom::Unresolved => (What::Unresolved, said("could not be made")),
        Symptom::Good | Symptom::Ours | Symptom::Silent | Symptom::NoConnection | Symptom::Unreachable => {
            return;
        }
    };
    scale.add(Place::Node, what, 10.0, sign);
    // What was silent before was the same thing seen from afar.
    scale.explain_away(0.2, |_, other| matches!(other, What::Hung | What::Unreachable));
}

/// What kind of silence it is.
fn by_silence(scale: &mut Scale, view: &View<'_>) {
    let (silent, dark) = (view.probes(Symptom::Silent), view.probes(Symptom::NoConnection));
    match view.last {
        Some(Symptom::Unreachable) => {
            let said = view.seen.said.as_deref().unwrap_or("no route");
            scale.add(Place::Path, What::Rejected, 10.0, format!("the way to it says no: {said}"));
        }
        // The standing connection may fall silent once, whatever is wrong; new ones tell.
        Some(Symptom::NoConnection) if silent < 2 => {
            scale.add(Place::Path, What::Unreachable, 7.0, format!("{dark} times nothing answered a dial"));
            scale.explain_away(0.3, |_, what| what == What::Hung);
        }
        Some(Symptom::NoConnection) => {
            let sign = "it took connections without a word before, and takes none now";
            scale.add(Place::Node, What::Hung, 7.0, sign);
        }
        Some(Symptom::Silent) if silent + dark > 1 => {
            let sign = format!("{silent} probes were connected and not answered");
            scale.add(Place::Node, What::Hung, 7.0, sign);
        }
        Some(Symptom::Silent) => {
            scale.add(Place::Node, What::Hung, 4.0, "a probe was not answered");
            scale.add(Place::Path, What::Unreachable, 1.0, "a probe was not answered");
        }
        _ => {}
    }
    match view.seen.late {
        Lateness::Each(late) => {
            let sign = format!("each answer comes, {} ms too late", late.as_millis());
            scale.add(Place::Node, What::Slow, 14.0, sign);
            scale.explain_away(0.3, |_, what| matches!(what, What::Hung | What::Busy | What::Unreachable));
        }
        Lateness::AtOnce(late) if view.last.is_none_or(|last| last != Symptom::Busy) => {
            let sign = format!("what it owed came at once, {} ms late", late.as_millis());
            scale.add(Place::Node, What::Hung, 5.0, sign);
        }
        Lateness::AtOnce(_) | Lateness::Never => {}
    }
    by_mixture(scale, view);
}

/// Some get through and some do not.
fn by_mixture(scale: &mut Scale, view: &View<'_>) {
    let probes = &view.seen.probes;
    let Some(first_dark) = probes.iter().position(|met| *met == Symptom::NoConnection) else { return };
    let through = |met: &&Symptom| matches!(met, Symptom::Good | Symptom::Silent | Symptom::Lost);
    let got_through = probes[first_dark..].iter().filter(through).count();
    let is_mixed = got_through > 0 && (probes.contains(&Symptom::Good) || view.seen.answered > 0);
    if is_mixed || got_through > 1 {
        let dark = probes.iter().filter(|met| **met == Symptom::NoConnection).count();
        let sign = format!("{dark} of {} dials were not answered, the others were in between", probes.len());
        scale.add(Place::Path, What::Lossy, 12.0, sign);
        // A node that is slow or hangs is dialled all the same: its kernel answers that.
        let is_part = |what| matches!(what, What::Hung | What::Slow | What::Unreachable | What::Closing);
        scale.explain_away(0.25, |_, what| is_part(what));
    }
}

/// What requests met.
fn by_traffic(scale: &mut Scale, view: &View<'_>) {
    let seen = view.seen;
    let (late, reset) = (view.traffic(Failure::Timeout), view.traffic(Failure::Reset));
    if late > 0 && view.last.is_none() {
        scale.add(Place::Node, What::Hung, 3.0, format!("{late} requests were not answered"));
        scale.add(Place::Path, What::Unreachable, 0.5, "");
    }
    let is_answered = matches!(view.last, Some(Symptom::Good));
    let fell_silent = seen.probes[seen.probes.len() - seen.fresh.min(seen.probes.len())..]
        .iter()
        .any(|met| met.is_silence());
    if is_answered && late > 0 && !fell_silent {
        let sign = format!("{late} requests were not answered, probes are");
        scale.add(Place::Node, What::Busy, 5.0, sign);
        scale.explain_away(0.3, |_, what| what == What::Hung);
    }
    // A probe that began while it stood still is late, too.
    if let (true, Some(took), Some(usual)) = (is_answered && !fell_silent, seen.round_trip, seen.usual)
        && took.as_millis() >= 50
        && took > usual * 10
    {
        let sign =
            format!("a probe takes {} ms, {} ms elsewhere", took.as_millis(), usual.as_millis().max(1));
        scale.add(Place::Node, What::Slow, 8.0, sign);
        scale.explain_away(0.2, |_, what| matches!(what, What::Hung | What::Busy));
    }
    if view.traffic(Failure::ConnectTimeout) > 0 && view.last.is_none() {
        let sign = "requests found no connection in time";
        scale.add(Place::Path, What::Unreachable, 4.0, sign);
    }
    let is_near = |last| matches!(last, Symptom::Refused | Symptom::Lost);
    if view.traffic(Failure::Refused) > 0 && view.last.is_none_or(is_near) {
        // A process that ends resets the connections that it has not accepted yet.
        scale.explain_away(0.1, |_, what| what == What::Closing);
        scale.add(Place::Node, What::Gone, 8.0, "requests were refused a connection");
    }
    let closed = view.traffic(Failure::Lost);
    if closed + reset > 0 && view.last.is_none() {
        let sign = format!("of connections with requests in flight {closed} were closed and {reset} reset");
        scale.add(Place::Node, What::Closing, 1.0, sign);
    }
    if reset > 0 && view.last == Some(Symptom::Refused) {
        // Who closes in good order stops of its own will, or is told to.
        scale.add(
            Place::Node,
            What::Gone,
            1.0,
            format!("{reset} connections with requests in flight were reset"),
        );
    }
    let told = [
        (Failure::Protocol, What::Protocol, "requests were answered with something else"),
        (Failure::Handshake, What::Auth, "connections of traffic were turned away"),
        (Failure::Status, What::Errors, "requests were answered with failures"),
    ];
    for (kind, what, sign) in told {
        if view.traffic(kind) > 0 {
            let weight = if view.last.is_none_or(|last| last == Symptom::Good) { 5.0 } else { 1.0 };
            scale.add(Place::Node, what, weight, sign);
        }
    }
    if let (Some(wrong), true) = (&seen.wrong, view.tail.is_empty()) {
        scale.add(Place::Node, What::Replica, 8.0, wrong.clone());
    }
}

/// What the others show at the same time.
fn by_company(scale: &mut Scale, view: &View<'_>) {
    let seen = view.seen;
    let is_dark = matches!(view.last, Some(Symptom::NoConnection | Symptom::Unreachable));
    if is_dark && seen.host.nodes > seen.host.failing {
        let sign = format!("{} of its host's other nodes answer", seen.host.nodes - seen.host.failing);
        let what = if view.last == Some(Symptom::NoConnection) { What::Unreachable } else { What::Rejected };
        scale.add(Place::Path, what, 3.0, sign);
    }
    if scale.is_empty() {
        return;
    }
    let (zone, pool) = (seen.zone, seen.pool);
    let (failing, all) = (zone.failing + 1, zone.nodes + 1);
    let outside = (pool.nodes.saturating_sub(zone.nodes), pool.failing.saturating_sub(zone.failing));
    if zone.nodes > 0 && failing > 1 && 2 * failing > all && outside.0 > 0 && 2 * outside.1 < outside.0 {
        let sign =
            format!("{failing} of the zone's {all} nodes fail, {} of {} elsewhere", outside.1, outside.0);
        scale.explain_away(0.3, |place, _| matches!(place, Place::Node | Place::Path));
        scale.add(Place::Zone, What::Down, 14.0, sign);
    }
}

/// A key or a client that holds the node may make it slow, or keep it from answering for a while; a node that
/// answers nothing at all has another fault, whatever it was busy with.
fn by_holders(scale: &mut Scale, view: &View<'_>, cause: Option<Cause>) {
    let seen = view.seen;
    let is_load = match view.last {
        None | Some(Symptom::Good | Symptom::Busy) => true,
        // Something long may hold it now; after three probes it is not that.
        Some(Symptom::Silent) => seen.answered > 0 || seen.stalls.is_some() && view.tail.len() < 3,
        Some(_) => false,
    };
    let may_be_load = matches!(cause, None | Some(Cause::Timeout | Cause::Slow | Cause::FailureRate));
    if scale.is_empty() || !is_load || !may_be_load {
        return;
    }
    // It holds the node, by time, and far more than by the number of its requests.
    let holds = |it: &&Holder| it.time >= HOLDS && it.times >= TIMES_MIN && it.held >= HELD_MIN;
    let is_busier = seen.busier.is_some_and(|busier| busier >= BUSIER);
    let is_much = |it: &&Holder| it.requests >= HOLDS && is_busier;
    let explain = |scale: &mut Scale| {
        scale.explain_away(0.2, |place, what| {
            let is_seen_as =
                matches!(what, What::Slow | What::Busy | What::Hung | What::Unreachable | What::Errors);
            is_seen_as && matches!(place, Place::Node | Place::Path)
        });
    };
    let (key, client) = (seen.key.as_ref(), seen.client.as_ref());
    if let Some(key) = key.filter(holds).filter(|it| is_heavy(it)) {
        explain(scale);
        scale.add(Place::Key, What::Giant, 14.0, sign("the key", key));
        return;
    }
    // One that asks all nodes alike has no quarrel with this one.
    let here_only = |it: &&Holder| it.elsewhere <= it.requests / 2.0;
    let is_costly = |it: &&Holder| it.time.max(it.bytes) >= COSTLY * it.requests;
    let floods = |it: &&Holder| {
        let is_dear = is_heavy(it) || is_costly(it) && here_only(it);
        holds(it) && is_dear || is_much(it) && here_only(it)
    };
    // By chance it would not be the same key again.
    if let Some(stalls) = seen.stalls.as_ref().filter(|it| it.requests <= RARE) {
        explain(scale);
        let (times, of) = stalls.times;
        let sign =
            format!("{times} of the last {of} times that it stood still it was asked for {}", stalls.name);
        scale.add(Place::Key, What::Stall, 13.0, sign);
        return;
    }
    if let Some(client) = client.filter(floods) {
        explain(scale);
        scale.add(Place::Client, What::Flood, 13.0, sign("the client", client));
        return;
    }
    if let Some(key) = key.filter(holds).filter(is_much) {
        explain(scale);
        let busier = seen.busier.unwrap_or_default();
        scale.add(Place::Key, What::Hot, 11.0, sign("the key", key));
        scale.add(Place::Key, What::Hot, 1.0, format!("it gets {busier:.1} times the requests of others"));
    }
}

/// Whether one request for it takes so much longer than one for anything else. Where all wait behind it, and
/// ask again only when they were answered, its part of the requests is large, too.
fn is_heavy(it: &Holder) -> bool {
    let (own, others) = (it.time * (1.0 - it.requests), it.requests * (1.0 - it.time));
    own >= HEAVY * others && it.time - it.requests >= HEAVIER
}

/// What a holder has, in words.
fn sign(what: &str, it: &Holder) -> String {
    let [requests, bytes, time] =
        [it.requests, it.bytes, it.time].map(|part| format!("{:.0} %", part * 100.0));
    let of = if it.is_logged { "that its slow log tells of" } else { "in which it is waited for" };
    format!(
        "{what} {} has {requests} of its requests, {bytes} of their bytes, and {time} of the time {of}",
        it.name
    )
}

/// A holder has half of something; so many samples of it; and so much of each second.
const HOLDS: f64 = 0.5;
const TIMES_MIN: f64 = 4.0;
const HELD_MIN: f64 = 0.1;
/// A request for a heavy one takes so many times as long as another, and its part of the time is larger by so
/// much than that of the requests, whatever samples err; a costly one has so much more of time or bytes.
const HEAVY: f64 = 2.5;
const HEAVIER: f64 = 0.2;
const COSTLY: f64 = 1.5;
/// A key is asked for rarely.
const RARE: f64 = 0.1;
/// A node that is busier than the others gets so many times their requests.
const BUSIER: f64 = 2.0;

/// What this process has to do with it.
fn by_ourselves(scale: &mut Scale, view: &View<'_>) {
    let seen = view.seen;
    let is_silence = view.last.map_or_else(|| unanswered(view) > 0, Symptom::is_silence);
    if seen.own.link && is_silence {
        scale.explain_away(0.2, |_, _| true);
        let sign = format!("{} of the process's {} other nodes are silent", seen.all.silent, seen.all.nodes);
        scale.add(Place::Proxy, What::Link, 16.0, sign);
    }
    let losing = seen.losing;
    let loses = view.tail.iter().any(|met| met.is_silence()) || is_silence || unanswered(view) > 0;
    if !seen.own.link && loses && losing.failing > 0 && 2 * (losing.failing + 1) > losing.nodes + 1 {
        // What looks like one node's fault, or like that of what it was asked for, is everyone's.
        scale.explain_away(0.15, |_, _| true);
        let sign = format!(
            "{} of the {} other nodes behind this proxy's link leave requests unanswered and answer others, too",
            losing.failing, losing.nodes
        );
        scale.add(Place::Proxy, What::Lossy, 16.0, sign);
    }
    let stalled = seen.own.stalled.as_millis();
    if stalled >= 2000 && is_silence {
        scale.explain_away(0.3, |_, _| true);
        scale.add(Place::Proxy, What::Starved, 9.0, format!("this process stood still for {stalled} ms"));
    }
    if seen.own.no_descriptors && view.last == Some(Symptom::Ours) {
        scale.explain_away(0.2, |_, _| true);
        scale.add(Place::Proxy, What::Descriptors, 10.0, "this process has no descriptor left");
    }
    let names = seen.names;
    if view.last == Some(Symptom::Unresolved) && seen.unanswered && names.failing == names.nodes {
        let sign = format!("the resolver answers for no name, the {} of other nodes among them", names.nodes);
        scale.explain_away(0.4, |_, _| true);
        scale.add(Place::Proxy, What::Dns, 12.0, sign);
    }
}

/// Connections that broke with requests in flight.
fn lost(view: &View<'_>) -> u64 {
    view.traffic(Failure::Lost) + view.traffic(Failure::Reset)
}

/// Requests that nothing came back for.
fn unanswered(view: &View<'_>) -> u64 {
    view.traffic(Failure::Timeout) + view.traffic(Failure::ConnectTimeout)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::{Group, Own, Stalls};

    const TABLE: &str = include_str!("../../tests/data/diagnoses.txt");

    fn number<T: std::str::FromStr>(text: &str) -> T {
        text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
    }

    fn group(text: &str) -> Group {
        let parts: Vec<usize> = text.split('/').map(number).collect();
        Group { nodes: parts[0], failing: parts[1], silent: parts.get(2).copied().unwrap_or(parts[1]) }
    }

    fn symptom(word: &str) -> Symptom {
        match word {
            "good" => Symptom::Good,
            "busy" => Symptom::Busy,
            "refused" => Symptom::Refused,
            "unreachable" => Symptom::Unreachable,
            "dark" => Symptom::NoConnection,
            "silent" => Symptom::Silent,
            "lost" => Symptom::Lost,
            "garbage" => Symptom::Garbage,
            "auth" => Symptom::Auth,
            "loading" => Symptom::Loading,
            "full" => Symptom::Full,
            "status" => Symptom::Status,
            "unresolved" => Symptom::Unresolved,
            "ours" => Symptom::Ours,
            other => panic!("{other} is no symptom"),
        }
    }

    fn cause(word: &str) -> Option<Cause> {
        let all = [
            Cause::Refused,
            Cause::ConnectTimeout,
            Cause::Lost,
            Cause::Timeout,
            Cause::Protocol,
            Cause::Unresolved,
            Cause::Misconfigured,
            Cause::Loading,
            Cause::Replaced,
            Cause::Status,
            Cause::Slow,
            Cause::FailureRate,
        ];
        let found = all.into_iter().find(|cause| cause.word() == word);
        assert!(found.is_some() || word == "-", "{word} is no cause");
        found
    }

    fn ms(text: &str) -> Duration {
        Duration::from_millis(number(text))
    }

    /// `REQUESTS/BYTES/TIME`, in percent, then the time held in a second and the part elsewhere.
    fn holder(name: &str, text: &str) -> Holder {
        let parts: Vec<f64> = text.split('/').map(number).collect();
        let [requests, bytes, time] = [0, 1, 2].map(|i| parts[i] / 100.0);
        let held = parts.get(3).copied().unwrap_or(0.5);
        let elsewhere = parts.get(4).map_or(0.0, |part| part / 100.0);
        let (name, times) = (name.to_owned(), 20.0);
        Holder { name, requests, bytes, time, times, held, elsewhere, is_logged: false }
    }

    fn sighting(signs: &str) -> Sighting {
        let mut seen = Sighting::default();
        for sign in signs.split_whitespace() {
            let (name, value) = sign.split_once('=').unwrap_or((sign, ""));
            match name {
                "probes" => {
                    // Those behind the bar came after the first failure.
                    let (old, fresh) = value.split_once('|').unwrap_or(("", value));
                    let all = |text: &str| -> Vec<Symptom> {
                        text.split(',').filter(|word| !word.is_empty()).map(symptom).collect()
                    };
                    seen.fresh = all(fresh).len();
                    seen.probes = [all(old), all(fresh)].concat();
                }
                "traffic" => {
                    for part in value.split(',') {
                        let (kind, count) = part.split_once(':').expect("KIND:COUNT");
                        let at = Failure::ALL.iter().position(|k| k.word() == kind).expect("a kind");
                        seen.failures[at] = number(count);
                    }
                }
                "late-each" => seen.late = Lateness::Each(ms(value)),
                "late-at-once" => seen.late = Lateness::AtOnce(ms(value)),
                "answered" => seen.answered = number(value),
                "takes" => {
                    let (own, usual) = value.split_once('/').expect("OWN/USUAL");
                    (seen.round_trip, seen.usual) = (Some(ms(own)), Some(ms(usual)));
                }
                "pool" => seen.pool = group(value),
                "host" => seen.host = group(value),
                "zone" => seen.zone = group(value),
                "all" => seen.all = group(value),
                "names" => seen.names = group(value),
                "unanswered" => seen.unanswered = true,
                "losing" => seen.losing = group(value),
                "stalled" => seen.own = Own { stalled: ms(value), ..seen.own },
                "link" => seen.own = Own { link: true, ..seen.own },
                "no-descriptors" => seen.own = Own { no_descriptors: true, ..seen.own },
                "key" => seen.key = Some(holder("user:1", value)),
                "client" => seen.client = Some(holder("10.0.0.9:5 (session 7)", value)),
                "stalls" => {
                    let (times, requests) = value.split_once('/').expect("TIMES/REQUESTS");
                    let (times, requests) = ((number(times), 3), number::<f64>(requests) / 100.0);
                    seen.stalls = Some(Stalls { name: "report:1".to_owned(), times, requests });
                }
                "busier" => seen.busier = Some(number(value)),
                "wrong" => seen.wrong = Some(value.into()),
                other => panic!("{other} is no sign"),
            }
        }
        seen
    }

    /// The table: each scenario is taken for what it is, no rival has more than half of that confidence, and
    /// what is healthy is taken for nothing.
    #[test]
    fn the_table() {
        let (mut faults, mut controls, mut wrong) = (0, 0, Vec::new());
        for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let [name, was, signs, expected]: [&str; 4] =
                line.split(';').map(str::trim).collect::<Vec<_>>().try_into().expect("four columns");
            let subject =
                Subject { node: "n2", address: "10.0.0.2:6379", zone: Some("z1"), cause: cause(was) };
            let told = diagnose(&subject, &sighting(signs));
            if expected == "-" {
                controls += 1;
                if !told.is_empty() {
                    wrong.push(format!("{name}: {told:?}"));
                }
                continue;
            }
            faults += 1;
            let first = told.first().map(|d| format!("{} {}", d.place.word(), d.what.word()));
            let is_clear = match &told[..] {
                [first, second, ..] => second.confidence <= first.confidence / 2.0,
                _ => true,
            };
            if first.as_deref() != Some(expected) || !is_clear || told[0].confidence < 0.6 {
                wrong.push(format!("{name}: expected {expected}, got {told:#?}"));
            }
            for one in &told {
                assert!(!one.text.is_empty() && one.confidence < 1.0, "{name}: {one:?}");
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(faults >= 25 && controls >= 5, "{faults} scenarios and {controls} controls");
    }

    /// A diagnosis reads as a person would say it, and rests on something.
    #[test]
    fn a_diagnosis_is_a_sentence() {
        let subject =
            Subject { node: "n2", address: "10.0.0.2:6379", zone: None, cause: Some(Cause::Refused) };
        let told = diagnose(&subject, &sighting("probes=refused traffic=lost:1,refused:1"));
        assert_eq!(
            told[0].to_string(),
            "node n2: its process is gone, nobody listens on 10.0.0.2:6379 (confidence 0.97)"
        );
        assert!(told[0].evidence.len() > 1, "{told:?}");
    }
}

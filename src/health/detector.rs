//! What is seen of one node -> what is thought of it. Pure: no clock, no socket, no task. It is a function of
//! the detector's state, and told whole whenever it is another one than before.
//!
//! | state | seen | verdict |
//! |---|---|---|
//! | fresh (assumed healthy, not asked yet) | a *certain* failure of the first probe | ejected at once: it was not there at the start |
//! | fresh, healthy | anything else that fails, by probe or by traffic | suspect: probes follow fast |
//! | fresh, healthy | replies that say that the node can't serve now (`-LOADING`, `-NOAUTH` ...) | suspect, unless a probe denied it lately |
//! | fresh, healthy | HTTP: what one request may be to blame for (no reply in time, bytes that are no reply) | the same |
//! | healthy | its connection lost, and the new one fails with certainty | ejected at once |
//! | suspect | a certain failure, whoever meets it | ejected: it is not the first sign |
//! | suspect | `failures` requests in a row failed, failed probes among them | ejected |
//! | suspect | `fall` probes in a row failed | ejected |
//! | fresh, healthy, suspect | of at least `volume` requests within `window`, `failure_rate` or more failed | ejected |
//! | fresh, healthy | far slower than the rest of the pool over `window` | suspect until it is not, whatever probes say |
//! | the same, with `slow_eject` | it still is at the next look | ejected |
//! | suspect | a good probe that began after the last sign | cleared |
//! | ejected | a good probe, unless it flaps and has to wait | probation, or restored when `rise` is 1 |
//! | probation | `rise` good probes in a row | restored |
//! | probation | a failed probe | relapsed |
//!
//! A node *flaps* when it is ejected within `flap_window` of its return. Each time in a row doubles how long
//! its good probes do not count, from twice the `interval` up to `flap_max`, less a fifth at most at random.
//!
//! *Certain* is what needs no second opinion about what happened, only about whether it lasts:
//! nobody listens, the name does not resolve, our credentials are refused, its data is loading.
//! Timeouts and statuses are counted instead, and of probes whatever fails.
//!
//! What a node says of itself in error replies decides nothing, nor does what one request of HTTP met, as a
//! page that takes long takes long at every node: it is a reason to ask at once, and what the probe meets
//! counts. When the probe is answered well, the same replies are no reason again for one
//! `interval`: a replica without its primary goes on saying so.
//!
//! Being slow is a fact of its own beside the state: probes may be quick at a node whose requests are slow,
//! so a good probe does not clear it. It goes when the node's requests are as quick as the others' again. One
//! that gets too few requests to tell is believed when a probe is answered below the bound above which it was
//! called slow; and so is one that was ejected for it, as it gets none: slower answers are not good ones.
//!
//! A lost connection is a sign and no more, however many requests were in flight: it does not
//! count towards `failures`, the reconnect decides. Nor does one that brought bytes which are not the
//! protocol: the probe decides. An idle connection that closes is not even a
//! sign. While a node is ejected, what traffic sees of it (under `eject_max`) changes nothing.

use std::{fmt::Write, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    flaps::Flaps,
    window::{Pace, Rate},
};
use crate::topology::{
    Basis, Because, Cause, Data, ErrorReply, Failed, Failure, Health, HealthSettings, Opinion, Returned,
    Rule, SeenBy, Slow,
};

/// One thing that was seen of a node.
#[derive(Clone, Debug)]
pub enum Observation {
    /// A probe was answered.
    Good {
        /// When the probe began: an answer to an older question clears nothing.
        started: Instant,
        /// How long the node took for the answer, the way to it and back included.
        took: Duration,
        /// What the node has, compared with what it had when it last served.
        data: Data,
    },
    /// A probe failed.
    Failed {
        /// How.
        cause: Cause,
        /// The probe's own standing connection was lost, and this is what the new one met.
        after_loss: bool,
        /// What a person would say of it.
        text: String,
    },
    /// Traffic failed.
    Traffic(Traffic),
    /// What is wrong with its configuration, or `None`: said after each probe that can tell.
    Wrong(Option<Arc<str>>),
    /// What became of the requests of the last window.
    Rate(Rate),
    /// How fast it was in the last window, compared with the others.
    Pace(Pace),
}

/// What traffic saw since the last sample.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// New failures, in the order of [`Failure::ALL`].
    pub new: [u64; Failure::ALL.len()],
    /// New replies in which the node said something of itself, in the order of [`ErrorReply::ALL`].
    pub said: [u64; ErrorReply::ALL.len()],
    /// New failures that may be the fault of what was asked.
    pub doubts: u64,
    /// Failures in a row now, over all workers.
    pub streak: u32,
}

/// The detector of one node.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: Arc<HealthSettings>,
    state: State,
    tally: Tally,
    wrong: Option<Arc<str>>,
    because: Because,
    flaps: Flaps,
    slow: Option<Slowness>,
    /// What was thought of it before the last ejection.
    before: Option<Box<Before>>,
    /// Until when error replies are no sign: a probe has just denied what they say.
    denied_until: Option<Instant>,
}

/// What an ejection that is not carried out leaves as it was.
#[derive(Clone, Debug)]
struct Before {
    because: Because,
    flaps: Flaps,
    slow: Option<Slowness>,
}

/// It is slow, or was when it was ejected for it.
#[derive(Clone, Copy, Debug)]
struct Slowness {
    /// As it was found.
    what: Slow,
    /// Above this it was called slow last.
    bound: Duration,
    /// It has too few requests to tell whether it still is.
    is_stale: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Fresh,
    Healthy,
    Suspect(Doubt),
    Ejected { since: Instant },
    Probation { good: u32 },
}

/// Why a node is suspect.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The last sign.
    since: Instant,
    /// Probes failed in a row.
    probes: u32,
    /// A connection broke or could not be made: only a new one proves anything.
    connection: bool,
    /// Nothing failed for sure: the node said something of itself, or a request may have been to blame.
    said_only: bool,
}

impl Doubt {
    fn new(since: Instant) -> Doubt {
        Doubt { since, probes: 0, connection: false, said_only: false }
    }
}

/// The part of traffic's streak that counts towards `failures`.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Failures of the streak that were seen here. The shared streak may run ahead of the counts
    /// for an instant, never the other way for long.
    seen: u32,
    /// Those of them that count.
    counted: u32,
}

impl Tally {
    fn add(&mut self, new: u32, counted: u32, streak: u32) {
        if u64::from(self.seen) + u64::from(new) > u64::from(streak) {
            // A good reply came in between: only the latest can be of this streak.
            *self = Tally { seen: streak.min(new), counted: streak.min(counted) };
        } else {
            self.seen += new;
            self.counted += counted;
        }
    }
}

impl Traffic {
    fn of(&self, kind: Failure) -> u32 {
        u32::try_from(self.new[kind as usize]).unwrap_or(u32::MAX)
    }

    fn sum(&self, kinds: &[Failure]) -> u32 {
        kinds.iter().fold(0, |sum, kind| sum.saturating_add(self.of(*kind)))
    }

    /// The counted kind that was seen most.
    fn main_kind(&self) -> Failure {
        COUNTED.into_iter().max_by_key(|kind| self.of(*kind)).unwrap_or(Failure::Timeout)
    }

    /// Whether requests or connections failed.
    fn has_failures(&self) -> bool {
        self.new.iter().any(|n| *n > 0)
    }

    /// Whether the node said that it can't serve, or may have failed a request.
    pub fn is_doubtful(&self) -> bool {
        self.doubts > 0
            || ErrorReply::ALL.into_iter().any(|kind| kind.is_doubtful() && self.said[kind as usize] > 0)
    }

    /// `2 timeout, 1 lost`.
    fn words(&self) -> String {
        let mut text = String::new();
        for kind in Failure::ALL.into_iter().filter(|kind| self.of(*kind) > 0) {
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a string can't fail.
            let _ = write!(text, "{comma}{} {}", self.of(kind), kind.word());
        }
        text
    }
}

/// Failures of traffic that count towards `failures`. A lost connection is decided by the
/// reconnect, refused credentials by the probe, which has the same, and so are bytes that are not the
/// protocol: what one client asked may have brought them, and a server that speaks another protocol says so
/// to a probe.
const COUNTED: [Failure; 4] = [Failure::Timeout, Failure::ConnectTimeout, Failure::Refused, Failure::Status];

/// Failures of traffic after which only a new connection proves anything.
const OF_CONNECTION: [Failure; 6] = [
    Failure::Lost,
    Failure::Reset,
    Failure::Refused,
    Failure::ConnectTimeout,
    Failure::Protocol,
    Failure::Handshake,
];

/// The shortest pause between probes of a suspect node, unless `interval` is shorter.
const FAST_PROBE_MIN: Duration = Duration::from_millis(50);

/// Needs no second opinion about what happened, only about whether it lasts.
pub(super) fn is_certain(cause: Cause) -> bool {
    use Cause::{Loading, Misconfigured, Refused, Replaced, Unresolved};
    matches!(cause, Refused | Unresolved | Misconfigured | Loading | Replaced)
}

impl Detector {
    /// The detector of a node of which this much is known; a healthy one is fresh. What two nodes, or two
    /// proxies, shall not do in the same instant is spread by the seed.
    pub fn new(settings: Arc<HealthSettings>, known: Health, seed: u64, now: Instant) -> Detector {
        let state = if known.is_out() { State::Ejected { since: now } } else { State::Fresh };
        Detector {
            settings,
            state,
            tally: Tally::default(),
            wrong: None,
            because: Because::Nothing,
            flaps: Flaps::new(seed),
            slow: None,
            before: None,
            denied_until: None,
        }
    }

    /// Puts other settings in force; what was counted so far stays.
    pub fn configure(&mut self, settings: Arc<HealthSettings>) {
        self.settings = settings;
    }

    /// What it thinks of the node.
    pub fn opinion(&self) -> Opinion {
        Opinion {
            health: self.health(),
            slow: self.slow.map(|slow| slow.what),
            wrong: self.wrong.clone(),
            because: self.because.clone(),
        }
    }

    /// Whether it thinks that the node answers.
    pub fn health(&self) -> Health {
        match self.state {
            State::Fresh | State::Healthy if self.slow.is_some() => Health::Suspect,
            State::Fresh | State::Healthy => Health::Healthy,
            State::Suspect(_) => Health::Suspect,
            State::Ejected { .. } => Health::Ejected,
            State::Probation { .. } => Health::Probation,
        }
    }

    /// It is back, and not all is known of what was written elsewhere meanwhile.
    pub fn returns_inexact(&mut self) {
        if let Because::Returned(back) = &mut self.because {
            back.is_exact = false;
        }
    }

    /// Until when its good probes do not count, as it comes and goes.
    pub fn flaps_until(&self) -> Option<Instant> {
        let State::Ejected { since } = self.state else { return None };
        let wait = self.flaps.wait(&self.settings);
        (!wait.is_zero()).then(|| since + wait)
    }

    /// How long to wait from the end of one probe until the next.
    pub fn pause(&self) -> Duration {
        let interval = self.settings.interval;
        match self.state {
            State::Fresh => Duration::ZERO,
            State::Suspect(_) => interval.min(FAST_PROBE_MIN.max(interval / 10)),
            State::Healthy | State::Ejected { .. } | State::Probation { .. } => interval,
        }
    }

    /// Whether the next good probe restores the node.
    pub fn returns_next(&self) -> bool {
        match self.state {
            State::Fresh | State::Healthy | State::Suspect(_) => false,
            State::Ejected { .. } => self.settings.rise <= 1,
            State::Probation { good } => good + 1 >= self.settings.rise,
        }
    }

    /// Whether the next probe has to make a new connection to prove anything.
    pub fn wants_new_connection(&self) -> bool {
        match self.state {
            State::Fresh | State::Healthy => false,
            State::Suspect(doubt) => doubt.connection,
            State::Ejected { .. } | State::Probation { .. } => true,
        }
    }

    /// It fails, or is back, while it is out by hand: whoever took it out did that.
    pub fn excuse(&mut self) {
        self.flaps.excuse();
    }

    /// The verdict to eject it was not carried out: it is suspect since this moment, and nothing counts
    /// against it yet.
    pub fn reprieve(&mut self, since: Instant) {
        if matches!(self.state, State::Ejected { .. })
            && let Some(before) = self.before.take()
        {
            self.state = State::Suspect(Doubt { connection: true, ..Doubt::new(since) });
            self.tally = Tally::default();
            let Before { because, flaps, slow } = *before;
            (self.because, self.flaps, self.slow) = (because, flaps, slow);
        }
    }

    /// One thing more was seen. Gives what is thought of the node now, if that is something else than before.
    pub fn step(&mut self, now: Instant, seen: Observation) -> Option<Opinion> {
        let before = self.opinion();
        match (seen, self.state) {
            (Observation::Wrong(what), _) => self.wrong = what,
            (Observation::Rate(rate), _) => self.rate(now, rate),
            (Observation::Pace(pace), _) => self.pace(now, pace),
            (seen, State::Fresh) => self.fresh(now, seen),
            (seen, State::Healthy) => self.healthy(now, seen),
            (seen, State::Suspect(doubt)) => self.suspect(now, doubt, seen),
            (seen, State::Ejected { since }) => self.ejected(now, since, seen),
            (seen, State::Probation { good }) => self.probation(now, good, seen),
        }
        let after = self.opinion();
        (after != before).then_some(after)
    }

    /// What became of the requests of the last window.
    fn rate(&mut self, now: Instant, Rate { requests, failed }: Rate) {
        let HealthSettings { volume, failure_rate, window, .. } = *self.settings;
        let is_failing = failure_rate > 0.0
            && requests >= volume.max(1)
            && failed as f64 >= failure_rate * requests as f64;
        if is_failing && !self.health().is_out() {
            let within = window.as_secs_f64();
            let evidence = format!("{failed} of {requests} requests within {within} s failed");
            self.eject(now, Cause::FailureRate, evidence, (Rule::FailureRate, SeenBy::Traffic));
        }
    }

    /// How fast it was in the last window.
    fn pace(&mut self, now: Instant, pace: Pace) {
        if self.health().is_out() {
            return;
        }
        match (pace, &mut self.slow) {
            (Pace::Slow(what), None) => {
                self.slow = Some(Slowness { what, bound: what.bound, is_stale: false });
            }
            (Pace::Slow(what), Some(slow)) => {
                (slow.bound, slow.is_stale) = (what.bound, false);
                if self.settings.slow_eject {
                    let within = self.settings.window.as_secs_f64();
                    let evidence = format!("it is slow over {within} s: {what}");
                    self.eject(now, Cause::Slow, evidence, (Rule::SlowEject, SeenBy::Traffic));
                }
            }
            (Pace::Unknown, Some(slow)) => slow.is_stale = true,
            // Doubts that it has for another reason are cleared first.
            (Pace::Usual, Some(_)) if !matches!(self.state, State::Suspect(_)) => self.slow = None,
            (Pace::Unknown | Pace::Usual, _) => {}
        }
    }

    /// Whether an answer to a probe comes as slowly as that for which the node was ejected.
    fn is_slow_still(&self, took: Duration) -> bool {
        self.slow.is_some_and(|slow| took > slow.bound)
    }

    fn fresh(&mut self, now: Instant, seen: Observation) {
        match seen {
            Observation::Failed { cause, text, .. } if is_certain(cause) => self.eject(
                now,
                cause,
                format!("the first probe failed: {text}"),
                (Rule::FirstProbe, SeenBy::Probe),
            ),
            _ => self.healthy(now, seen),
        }
    }

    fn healthy(&mut self, now: Instant, seen: Observation) {
        match seen {
            Observation::Good { took, .. } => self.clear(took),
            Observation::Failed { cause, after_loss: true, text } if is_certain(cause) => self.eject(
                now,
                cause,
                format!("its connection was lost, and then: {text}"),
                (Rule::Certain, SeenBy::Probe),
            ),
            Observation::Failed { cause, text, .. } => self.probe_failed(now, Doubt::new(now), cause, &text),
            Observation::Traffic(traffic) if !traffic.has_failures() => self.said(now, &traffic),
            Observation::Traffic(traffic) => {
                let gone = traffic.of(Failure::Refused);
                let signs = gone.saturating_add(traffic.sum(&[Failure::Lost, Failure::Reset]));
                self.traffic_failed(now, Doubt::new(now), traffic, gone > 0 && signs > 1);
            }
            Observation::Wrong(_) | Observation::Rate(_) | Observation::Pace(_) => {}
        }
    }

    fn suspect(&mut self, now: Instant, doubt: Doubt, seen: Observation) {
        match seen {
            Observation::Good { started, took, .. } if started >= doubt.since => {
                self.clear(took);
                if doubt.said_only {
                    self.denied_until = Some(now + self.settings.interval);
                }
            }
            Observation::Failed { cause, text, .. } if is_certain(cause) => self.eject(
                now,
                cause,
                format!("it was suspect, and then: {text}"),
                (Rule::Certain, SeenBy::Probe),
            ),
            Observation::Failed { cause, text, .. } => self.probe_failed(now, doubt, cause, &text),
            Observation::Traffic(traffic) if traffic.has_failures() => {
                self.traffic_failed(now, doubt, traffic, traffic.of(Failure::Refused) > 0);
            }
            _ => {}
        }
    }

    /// A probe was answered well, within this time.
    fn clear(&mut self, took: Duration) {
        self.state = State::Healthy;
        if self.slow.is_some_and(|slow| slow.is_stale && took <= slow.bound) {
            self.slow = None;
        }
    }

    /// Replies in which the node said something of itself, or doubts, and nothing failed for sure.
    fn said(&mut self, now: Instant, traffic: &Traffic) {
        let is_denied = self.denied_until.is_some_and(|until| now < until);
        if traffic.is_doubtful() && !is_denied {
            // A standing connection of the probe may be older than what is wrong.
            self.state = State::Suspect(Doubt { connection: true, said_only: true, ..Doubt::new(now) });
        }
    }

    fn ejected(&mut self, now: Instant, since: Instant, seen: Observation) {
        let Observation::Good { started, took, data } = seen else { return };
        let counts = started >= since + self.flaps.wait(&self.settings);
        if self.is_slow_still(took) || !counts {
            return;
        }
        match self.settings.rise {
            0 | 1 => self.restore(now, 1, data),
            _ => self.state = State::Probation { good: 1 },
        }
    }

    fn probation(&mut self, now: Instant, good: u32, seen: Observation) {
        match seen {
            Observation::Good { took, .. } if self.is_slow_still(took) => {
                self.state = State::Ejected { since: now };
            }
            Observation::Good { data, .. } if good + 1 >= self.settings.rise => {
                self.restore(now, good + 1, data);
            }
            Observation::Good { .. } => self.state = State::Probation { good: good + 1 },
            Observation::Failed { .. } => self.state = State::Ejected { since: now },
            _ => {}
        }
    }

    /// A failed probe of a node that may serve on: enough to eject it?
    fn probe_failed(&mut self, now: Instant, doubt: Doubt, cause: Cause, text: &str) {
        let probes = doubt.probes + 1;
        let requests = self.tally.counted;
        if probes >= self.settings.fall {
            let evidence = format!("{probes} probes in a row failed, the last: {text}");
            return self.eject(now, cause, evidence, (Rule::Fall, SeenBy::Probe));
        }
        if requests > 0 && requests + probes >= self.settings.failures {
            let evidence = format!("{} in a row failed, the last: {text}", in_words(requests, probes));
            return self.eject(now, cause, evidence, (Rule::Failures, SeenBy::Probe));
        }
        self.state = State::Suspect(Doubt { since: now, probes, said_only: false, ..doubt });
    }

    /// Failed traffic of a node that may serve on: enough to eject it? `gone` says that nobody
    /// listens there any more.
    fn traffic_failed(&mut self, now: Instant, doubt: Doubt, seen: Traffic, gone: bool) {
        self.tally.add(seen.sum(&Failure::ALL), seen.sum(&COUNTED), seen.streak);
        let requests = self.tally.counted;
        if gone {
            let evidence = format!("traffic lost it and was refused then: {}", seen.words());
            return self.eject(now, Cause::Refused, evidence, (Rule::Certain, SeenBy::Traffic));
        }
        let probes = doubt.probes;
        if requests > 0 && requests.saturating_add(probes) >= self.settings.failures {
            let words = seen.words();
            let evidence = format!("{} in a row failed, the last: {words}", in_words(requests, probes));
            return self.eject(now, seen.main_kind().into(), evidence, (Rule::Failures, SeenBy::Traffic));
        }
        let connection = doubt.connection || seen.sum(&OF_CONNECTION) > 0;
        self.state = State::Suspect(Doubt { since: now, probes, connection, said_only: false });
    }

    fn eject(&mut self, now: Instant, cause: Cause, mut evidence: String, (rule, seen_by): (Rule, SeenBy)) {
        self.state = State::Ejected { since: now };
        let before = Before { because: self.because.clone(), flaps: self.flaps, slow: self.slow };
        self.before = Some(Box::new(before));
        if cause != Cause::Slow {
            self.slow = None;
        }
        self.flaps.left(now, self.settings.flap_window);
        let wait = self.flaps.wait(&self.settings);
        if !wait.is_zero() {
            // Writing to a string can't fail.
            let _ = write!(
                evidence,
                "; it comes and goes, so its probes count again in {:.1} s",
                wait.as_secs_f64()
            );
        }
        let (evidence, basis) = (evidence.into(), Basis { rule, seen_by });
        self.because = Because::Failed(Failed { cause, evidence, basis });
    }

    fn restore(&mut self, now: Instant, good: u32, data: Data) {
        self.state = State::Healthy;
        self.flaps.returned(now);
        self.tally = Tally::default();
        self.slow = None;
        let evidence = format!("{good} probes in a row were answered").into();
        self.because = Because::Returned(Returned { data, is_exact: true, evidence });
    }
}

/// `3 requests`, `2 requests and 1 probe`.
fn in_words(requests: u32, probes: u32) -> String {
    let of = |count: u32, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    match probes {
        0 => of(requests, "request"),
        _ => format!("{} and {}", of(requests, "request"), of(probes, "probe")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Arc<HealthSettings> {
        Arc::new(HealthSettings::default())
    }

    fn failed(cause: Cause) -> Observation {
        Observation::Failed { cause, after_loss: false, text: "it failed".into() }
    }

    fn refused_after_loss() -> Observation {
        Observation::Failed { cause: Cause::Refused, after_loss: true, text: "refused".into() }
    }

    fn traffic(kinds: &[(Failure, u64)], streak: u32) -> Observation {
        let mut seen = Traffic { streak, ..Traffic::default() };
        for (kind, count) in kinds {
            seen.new[*kind as usize] = *count;
        }
        Observation::Traffic(seen)
    }

    /// A detector, and a clock that goes on by a millisecond at each step.
    struct Run(Detector, Instant);

    impl Run {
        fn fresh() -> Run {
            let now = Instant::now();
            Run(Detector::new(settings(), Health::Healthy, 0, now), now)
        }

        fn healthy() -> Run {
            let mut run = Run::fresh();
            assert_eq!(run.good(), None);
            run
        }

        /// What is thought of its health now, if anything is thought that was not before.
        fn see(&mut self, seen: Observation) -> Option<Health> {
            self.1 += Duration::from_millis(1);
            let opinion = self.0.step(self.1, seen)?;
            assert_eq!(opinion, self.0.opinion());
            Some(opinion.health)
        }

        fn good(&mut self) -> Option<Health> {
            self.answered_in(1)
        }

        /// A probe is answered after so many milliseconds.
        fn answered_in(&mut self, ms: u64) -> Option<Health> {
            let (started, took) = (self.1, Duration::from_millis(ms));
            self.see(Observation::Good { started, took, data: Data::Same })
        }

        fn cause(&mut self, seen: Observation) -> Option<Cause> {
            self.see(seen).filter(|health| *health == Health::Ejected)?;
            Some(self.failed().cause)
        }

        /// Why it is out.
        fn failed(&self) -> Failed {
            match self.0.opinion().because {
                Because::Failed(failed) => failed,
                other => panic!("{other:?}"),
            }
        }
    }

    /// A node that is not there when ringway starts is ejected by the first probe, for each of the
    /// certain failures; a slow one gets its `fall` probes.
    #[test]
    fn an_absent_node_is_out_at_the_start() {
        use Cause::{Loading, Misconfigured, Refused, Replaced, Unresolved};
        for cause in [Refused, Unresolved, Misconfigured, Loading, Replaced] {
            assert_eq!(Run::fresh().cause(failed(cause)), Some(cause));
        }
        let mut run = Run::fresh();
        assert_eq!(run.see(failed(Cause::Timeout)), Some(Health::Suspect));
        assert_eq!(run.see(failed(Cause::Timeout)), None);
        assert_eq!(run.cause(failed(Cause::Timeout)), Some(Cause::Timeout));
    }

    /// A refused connection right after a loss ejects at once, whether the probe or traffic met
    /// either of the two.
    #[test]
    fn refused_after_a_loss_ejects_at_once() {
        let mut run = Run::healthy();
        assert_eq!(run.cause(refused_after_loss()), Some(Cause::Refused));
        let mut run = Run::healthy();
        assert_eq!(run.see(traffic(&[(Failure::Lost, 1)], 1)), Some(Health::Suspect));
        assert_eq!(run.cause(failed(Cause::Refused)), Some(Cause::Refused));
        let mut run = Run::healthy();
        assert_eq!(run.see(traffic(&[(Failure::Lost, 1)], 1)), Some(Health::Suspect));
        assert_eq!(run.cause(traffic(&[(Failure::Refused, 1)], 2)), Some(Cause::Refused));
        for lost in [Failure::Lost, Failure::Reset] {
            let mut run = Run::healthy();
            assert_eq!(run.cause(traffic(&[(Failure::Refused, 1), (lost, 1)], 2)), Some(Cause::Refused));
        }
    }

    /// Without a loss before it one refusal is only a sign; the second in a row ejects.
    #[test]
    fn a_first_refusal_is_a_sign() {
        for first in [failed(Cause::Refused), traffic(&[(Failure::Refused, 1)], 1)] {
            for second in [failed(Cause::Refused), traffic(&[(Failure::Refused, 1)], 2)] {
                let mut run = Run::healthy();
                assert_eq!(run.see(first.clone()), Some(Health::Suspect));
                assert_eq!(run.cause(second), Some(Cause::Refused));
            }
            let mut run = Run::healthy();
            run.see(first.clone());
            assert_eq!(run.good(), Some(Health::Healthy));
            assert_eq!(run.see(failed(Cause::Refused)), Some(Health::Suspect));
        }
    }

    /// What was said in replies: of each kind, so often.
    fn said(kinds: &[(ErrorReply, u64)]) -> Observation {
        let mut seen = Traffic::default();
        for (kind, count) in kinds {
            seen.said[*kind as usize] = *count;
        }
        Observation::Traffic(seen)
    }

    /// A node that says that it can't serve is asked at once, on a new connection, and the probe decides;
    /// one that is full, busy or a replica is not even suspect, however often it says so.
    #[test]
    fn what_a_node_says_is_asked_about() {
        use ErrorReply::*;
        for kind in [Loading, MasterDown, NoAuth, ClusterDown] {
            let mut run = Run::healthy();
            assert_eq!(run.see(said(&[(kind, 1000)])), Some(Health::Suspect), "{kind:?}");
            assert!(run.0.wants_new_connection());
            assert_eq!(run.cause(failed(Cause::Loading)), Some(Cause::Loading), "the probe says so, too");
            let mut run = Run::healthy();
            run.see(said(&[(kind, 1)]));
            assert_eq!(run.see(said(&[(kind, 1000)])), None);
            assert_eq!(run.good(), Some(Health::Healthy), "{kind:?}: the probe says otherwise");
        }
        let mut run = Run::healthy();
        assert_eq!(run.see(said(&[(Busy, 1000), (ReadOnly, 1000), (OutOfMemory, 1000)])), None);
        assert_eq!(run.0.health(), Health::Healthy);
    }

    /// What a request of HTTP may be to blame for is asked about at once, ejects nobody however often it
    /// happens, and adds to no row of failures; the probes after it do what probes do.
    #[test]
    fn doubts_are_asked_about() {
        let doubts = |doubts: u64| Observation::Traffic(Traffic { doubts, ..Traffic::default() });
        let mut run = Run::healthy();
        for _ in 0..5 {
            assert_eq!(run.see(doubts(1000)), Some(Health::Suspect));
            assert!(run.0.wants_new_connection() && run.0.pause() < HealthSettings::default().interval);
            assert_eq!(run.see(doubts(1000)), None);
            assert_eq!(run.good(), Some(Health::Healthy), "the probe denies it");
            assert_eq!(run.see(doubts(1000)), None, "for one interval");
            run.1 += HealthSettings::default().interval;
        }
        run.see(doubts(2));
        let fall = HealthSettings::default().fall;
        let failed: Vec<_> = (0..fall).map(|_| run.see(failed(Cause::Timeout))).collect();
        assert_eq!(failed.last(), Some(&Some(Health::Ejected)));
        assert!(failed[..failed.len() - 1].iter().all(Option::is_none), "they have counted for nothing");
    }

    /// A node that goes on saying what a probe denied is asked again after an interval, not with each reply;
    /// what fails meanwhile is a sign as ever.
    #[test]
    fn what_a_probe_denied_is_not_asked_again_at_once() {
        let mut run = Run::healthy();
        let down = || said(&[(ErrorReply::MasterDown, 5)]);
        run.see(down());
        assert_eq!(run.good(), Some(Health::Healthy));
        assert_eq!(run.see(down()), None);
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 1)), Some(Health::Suspect));
        assert_eq!(run.good(), Some(Health::Healthy));
        run.1 += HealthSettings::default().interval;
        assert_eq!(run.see(down()), Some(Health::Suspect));
    }

    fn slow() -> Slow {
        let ms = Duration::from_millis;
        Slow { p99: ms(60), median: ms(2), bound: ms(20) }
    }

    impl Run {
        fn pace(&mut self, pace: Pace) -> Option<Health> {
            self.see(Observation::Pace(pace))
        }

        fn with(change: impl FnOnce(&mut HealthSettings)) -> Run {
            let mut run = Run::healthy();
            let mut settings = HealthSettings::default();
            change(&mut settings);
            run.0.configure(Arc::new(settings));
            run
        }
    }

    /// A slow node is suspect however well its probes are answered, until its requests are as quick as the
    /// others'; it is said once, and it is not ejected.
    #[test]
    fn a_slow_node_is_suspect_until_it_is_not() {
        let mut run = Run::healthy();
        assert_eq!(run.pace(Pace::Usual), None);
        assert_eq!(run.pace(Pace::Slow(slow())), Some(Health::Suspect));
        for p99 in 60..80 {
            assert_eq!(run.good(), None);
            let p99 = Duration::from_millis(p99);
            assert_eq!(run.pace(Pace::Slow(Slow { p99, ..slow() })), None);
            assert_eq!(run.0.opinion().slow, Some(slow()), "as it was found");
        }
        assert_eq!(run.0.pause(), HealthSettings::default().interval, "faster probes would tell nothing");
        assert_eq!(run.pace(Pace::Usual), Some(Health::Healthy));
        assert_eq!(run.0.health(), Health::Healthy);
    }

    /// Without requests nobody knows whether it is slow: a quick answer to a probe says that it is not, a
    /// slow one does not.
    #[test]
    fn a_slow_node_without_requests_is_believed_when_its_probe_is_quick() {
        let mut run = Run::healthy();
        run.pace(Pace::Slow(slow()));
        assert_eq!(run.pace(Pace::Unknown), None);
        assert_eq!(run.answered_in(21), None);
        assert_eq!(run.0.health(), Health::Suspect);
        assert_eq!(run.answered_in(20), Some(Health::Healthy));
        run.pace(Pace::Slow(slow()));
        run.pace(Pace::Unknown);
        run.pace(Pace::Slow(slow()));
        assert_eq!(run.answered_in(1), None, "it has requests again, and they are slow");
    }

    /// A slow node that fails as well is ejected for that as ever; doubts come and go beside the slowness
    /// without a word, and when it is back it is not slow.
    #[test]
    fn a_slow_node_may_fail_as_well() {
        let mut run = Run::healthy();
        run.pace(Pace::Slow(slow()));
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 1)), None, "it is suspect already");
        assert!(run.0.pause() < HealthSettings::default().interval);
        assert_eq!(run.pace(Pace::Usual), None, "the other doubt comes first");
        assert_eq!(run.good(), None, "it is slow still");
        assert_eq!(run.pace(Pace::Usual), Some(Health::Healthy));
        run.pace(Pace::Slow(slow()));
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 3)], 4)), Some(Cause::Timeout));
        assert_eq!(run.pace(Pace::Slow(slow())), None, "what the window still has is old");
        assert_eq!(run.answered_in(50), Some(Health::Probation), "it did not leave for being slow");
        assert_eq!(run.answered_in(50), Some(Health::Healthy));
        assert_eq!(run.0.health(), Health::Healthy);
    }

    /// With `slow_eject` a node that is slow at two looks is ejected, and comes back when its probes are
    /// quick: slower answers keep it out.
    #[test]
    fn a_slow_node_is_ejected_by_option() {
        let mut run = Run::with(|s| s.slow_eject = true);
        assert_eq!(run.pace(Pace::Slow(slow())), Some(Health::Suspect));
        assert_eq!(run.cause(Observation::Pace(Pace::Slow(slow()))), Some(Cause::Slow));
        for _ in 0..20 {
            assert_eq!(run.answered_in(50), None);
        }
        assert_eq!(run.answered_in(5), Some(Health::Probation));
        assert_eq!(run.answered_in(50), Some(Health::Ejected));
        assert_eq!(run.answered_in(5), Some(Health::Probation));
        assert_eq!(run.answered_in(5), Some(Health::Healthy));
        assert_eq!(run.0.health(), Health::Healthy);
    }

    /// Half of a hundred requests that failed eject, with good ones between them; fewer requests, or a
    /// smaller share of failures, do not, nor does the rule when it is off.
    #[test]
    fn a_failure_rate_ejects() {
        let rate = |failed, requests| Observation::Rate(Rate { requests, failed });
        assert_eq!(Run::healthy().cause(rate(50, 100)), Some(Cause::FailureRate));
        assert_eq!(Run::fresh().cause(rate(300, 400)), Some(Cause::FailureRate));
        for (failed, requests) in [(49, 100), (99, 99), (4_999, 10_000), (0, 0)] {
            let mut run = Run::healthy();
            assert_eq!(run.see(rate(failed, requests)), None, "{failed} of {requests}");
            assert_eq!(run.0.health(), Health::Healthy);
        }
        assert_eq!(Run::with(|s| s.failure_rate = 0.0).see(rate(100, 100)), None);
        let mut suspect = Run::healthy();
        suspect.see(traffic(&[(Failure::Timeout, 1)], 1));
        assert_eq!(suspect.cause(rate(60, 100)), Some(Cause::FailureRate));
        assert_eq!(&*suspect.failed().evidence, "60 of 100 requests within 10 s failed");
        assert_eq!(suspect.see(rate(60, 100)), None, "it is out");
    }

    /// However many connections are lost, a node that answers afterwards is cleared, and the next
    /// probe after a loss makes a new connection.
    #[test]
    fn losses_alone_never_eject() {
        let mut run = Run::healthy();
        assert!(!run.0.wants_new_connection());
        assert_eq!(run.see(traffic(&[(Failure::Lost, 40)], 40)), Some(Health::Suspect));
        assert!(run.0.wants_new_connection());
        assert_eq!(run.see(traffic(&[(Failure::Lost, 60)], 100)), None);
        assert_eq!(run.good(), Some(Health::Healthy));
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 101)), Some(Health::Suspect));
        assert!(!run.0.wants_new_connection(), "a timeout is asked about on the standing connection");
        assert_eq!(run.good(), Some(Health::Healthy));
    }

    /// Timeouts count per request over all workers: `failures` in a row eject, also across a clear
    /// by a probe; a good reply in between starts anew.
    #[test]
    fn timeouts_in_a_row_eject() {
        let mut run = Run::healthy();
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 5)], 5)), Some(Cause::Timeout));
        let mut run = Run::healthy();
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 2)], 2)), Some(Health::Suspect));
        assert_eq!(run.good(), Some(Health::Healthy));
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 1)], 3)), Some(Cause::Timeout));
        let mut run = Run::healthy();
        for _ in 0..10 {
            run.see(traffic(&[(Failure::Timeout, 1)], 1));
            assert_eq!(run.0.health(), Health::Suspect);
        }
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 2)), None);
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 1)], 3)), Some(Cause::Timeout));
    }

    /// A streak that runs ahead of the counts (both are read while workers write) loses nothing.
    #[test]
    fn a_streak_ahead_of_its_counts_is_counted_in_full() {
        let mut run = Run::healthy();
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 2)), Some(Health::Suspect));
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 3)), None);
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 1)], 3)), Some(Cause::Timeout));
    }

    /// Failed probes and failed requests add up: a hung node costs its clients fewer errors.
    #[test]
    fn probes_and_requests_add_up() {
        let mut run = Run::healthy();
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 1)), Some(Health::Suspect));
        assert_eq!(run.see(failed(Cause::Timeout)), None);
        assert_eq!(run.cause(failed(Cause::Timeout)), Some(Cause::Timeout));
    }

    /// An answer to a question that was asked before the last sign clears nothing.
    #[test]
    fn an_old_answer_clears_nothing() {
        let mut run = Run::healthy();
        let started = run.1;
        run.see(traffic(&[(Failure::Timeout, 1)], 1));
        assert_eq!(run.see(Observation::Good { started, took: Duration::ZERO, data: Data::Same }), None);
        assert_eq!(run.0.health(), Health::Suspect);
        assert_eq!(run.good(), Some(Health::Healthy));
    }

    /// A suspect node is asked fast, the others at the interval, a fresh one at once.
    #[test]
    fn pauses_follow_the_state() {
        let mut run = Run::fresh();
        assert_eq!(run.0.pause(), Duration::ZERO);
        run.good();
        assert_eq!(run.0.pause(), Duration::from_secs(1));
        run.see(failed(Cause::Timeout));
        assert_eq!(run.0.pause(), Duration::from_millis(100));
        run.0.configure(Arc::new(HealthSettings {
            interval: Duration::from_millis(20),
            ..HealthSettings::default()
        }));
        assert_eq!(run.0.pause(), Duration::from_millis(20));
    }

    /// The way back is probes only: probation, a relapse, probation again, restored after `rise`;
    /// what traffic sees meanwhile changes nothing.
    #[test]
    fn the_way_back() {
        let mut run = Run::healthy();
        run.see(refused_after_loss());
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 9)], 9)), None);
        assert_eq!(run.see(failed(Cause::Refused)), None);
        assert_eq!(run.good(), Some(Health::Probation));
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 9)], 18)), None);
        assert_eq!(run.see(failed(Cause::Timeout)), Some(Health::Ejected));
        assert_eq!(run.good(), Some(Health::Probation));
        assert_eq!(run.good(), Some(Health::Healthy));
        assert_eq!(run.see(traffic(&[(Failure::Timeout, 1)], 19)), Some(Health::Suspect));
    }

    /// A verdict that is not carried out leaves a suspect node, with which everything begins anew: a good
    /// probe clears it, new failures eject it, and that it came and went is not counted.
    #[test]
    fn a_reprieve_begins_anew() {
        let mut run = Run::healthy();
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 3)], 3)), Some(Cause::Timeout));
        run.0.reprieve(run.1);
        assert_eq!(run.0.health(), Health::Suspect);
        assert_eq!(run.good(), Some(Health::Healthy));
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 3)], 6)), Some(Cause::Timeout));
        run.0.reprieve(run.1);
        for _ in 0..2 {
            assert_eq!(run.see(failed(Cause::Timeout)), None);
        }
        assert_eq!(run.see(failed(Cause::Timeout)), Some(Health::Ejected));
        assert_eq!(&*run.failed().evidence, "3 probes in a row failed, the last: it failed");
    }

    /// Nor does it say that a node which was called slow is not any more, be it that it hung.
    #[test]
    fn a_reprieve_of_a_slow_node() {
        let mut run = Run::healthy();
        run.pace(Pace::Slow(slow()));
        let before = run.0.opinion();
        assert_eq!(run.cause(traffic(&[(Failure::Timeout, 3)], 3)), Some(Cause::Timeout));
        assert_eq!(run.0.opinion().slow, None, "it hangs");
        run.0.reprieve(run.1);
        assert_eq!(run.0.opinion(), before);
        assert_eq!(run.good(), None);
        assert_eq!(run.pace(Pace::Usual), Some(Health::Healthy));
    }

    /// With `rise` 1 the first good probe restores; with `fall` 1 the first failed one ejects.
    #[test]
    fn the_shortest_ways() {
        let now = Instant::now();
        let short = Arc::new(HealthSettings { rise: 1, fall: 1, ..HealthSettings::default() });
        let mut run = Run(Detector::new(short, Health::Healthy, 0, now), now);
        assert_eq!(run.cause(failed(Cause::Timeout)), Some(Cause::Timeout));
        assert_eq!(run.good(), Some(Health::Healthy));
    }

    /// What is wrong with a node's configuration is said once per change.
    #[test]
    fn what_is_wrong_is_said_once() {
        let mut run = Run::healthy();
        let what: Option<Arc<str>> = Some("a replica".into());
        assert_eq!(run.see(Observation::Wrong(None)), None);
        assert_eq!(run.see(Observation::Wrong(what.clone())), Some(Health::Healthy));
        assert_eq!(run.0.opinion().wrong, what);
        assert_eq!(run.see(Observation::Wrong(what)), None);
        assert_eq!(run.see(Observation::Wrong(None)), Some(Health::Healthy));
        assert_eq!(run.0.opinion().wrong, None);
    }

    fn observations() -> impl Strategy<Value = (u8, u8, u8)> {
        (0u8..6, 0..Failure::ALL.len() as u8, 0u8..4)
    }

    /// A node that is ejected again soon after its return waits, twice as long each time and not above the
    /// cap; the evidence says so; one that behaved for long begins anew.
    #[test]
    fn a_node_that_flaps_waits() {
        let mut run = Run::healthy();
        let eject = |run: &mut Run| {
            assert_eq!(run.see(refused_after_loss()), Some(Health::Ejected));
            run.failed().evidence
        };
        let back_after = |run: &mut Run| {
            let since = run.1;
            while run.good() != Some(Health::Healthy) {
                run.1 += Duration::from_millis(100);
            }
            (run.1 - since).as_secs_f64()
        };
        assert!(!eject(&mut run).contains("comes and goes"));
        assert_eq!(run.0.flaps_until(), None);
        assert!(back_after(&mut run) < 1.0);
        for doubled in [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let evidence = eject(&mut run);
            let said = evidence.rsplit_once("count again in ").and_then(|(_, rest)| rest.strip_suffix(" s"));
            let said: f64 = said.and_then(|said| said.parse().ok()).expect("the evidence says it");
            assert!((0.8 * doubled..=doubled).contains(&said), "{evidence}");
            let until = run.0.flaps_until().expect("it waits");
            assert!(((until - run.1).as_secs_f64() - said).abs() < 0.1, "it is known until when");
            // Two probes, and the steps of this test.
            assert!((said..said + 0.4).contains(&back_after(&mut run)), "{said}");
            assert_eq!(run.0.flaps_until(), None);
        }
        run.1 += Duration::from_secs(5 * 60);
        assert!(!eject(&mut run).contains("comes and goes"), "it behaved for long");
        assert!(back_after(&mut run) < 1.0);
    }

    proptest! {
        /// Whatever is seen: a node is out only for a failure that is told, comes back by probation only,
        /// what is thought is told when it changes and only then, and `rise` good probes always bring one
        /// back.
        #[test]
        fn opinions_follow_each_other(seen in proptest::collection::vec(observations(), 1..200)) {
            let mut run = Run::fresh();
            let mut streak = 0;
            for (what, kind, count) in seen {
                let before = run.0.health();
                let opinion = match what {
                    0 | 1 => { streak = 0; run.good() }
                    2 => run.see(failed(Cause::from(Failure::ALL[kind as usize]))),
                    3 => run.see(refused_after_loss()),
                    _ => {
                        streak += u32::from(count);
                        run.see(traffic(&[(Failure::ALL[kind as usize], count.into())], streak))
                    }
                };
                let after = run.0.health();
                prop_assert_eq!(opinion, (before != after).then_some(after));
                let is_a_step = match (before, after) {
                    (Health::Ejected, Health::Probation) | (Health::Probation, Health::Ejected) => true,
                    (Health::Ejected, after) => after == Health::Ejected,
                    (Health::Probation, after) => after != Health::Suspect,
                    (Health::Healthy | Health::Suspect, after) => after != Health::Probation,
                };
                prop_assert!(is_a_step, "{:?} to {:?}", before, after);
                let because = run.0.opinion().because;
                prop_assert_eq!(matches!(because, Because::Failed(_)), after.is_out());
                if what == 0 {
                    prop_assert!(after != Health::Suspect);
                }
            }
            // However often it flapped.
            run.1 += HealthSettings::default().flap_max;
            for _ in 0..2 {
                run.good();
            }
            prop_assert_eq!(run.0.health(), Health::Healthy);
        }
    }
}

//! What is known of one node: what traffic and probes met lately, and since when it fails.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Lateness, WINDOW, losses::Losses};
use crate::{
    health::{
        Late, Symptom,
        heavy::Lists,
        resolve::has_a_name,
        slow_log::{Slow, SlowLog},
        withhold::{Charge, Lookup, Shows},
    },
    metrics::Outcome,
    net::Target,
    topology::{Cause, Entry, Failure, Node},
};

/// Probes and failures that are kept of a node.
const KEPT: usize = 32;

/// Linux sends again what is not acknowledged for 200 ms and a round trip, at the earliest.
const SENT_AGAIN: Duration = Duration::from_millis(190);

/// What is known of one node.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) node: Arc<Node>,
    /// Where it is: an ip address, or what it is called.
    pub(super) host: String,
    pub(super) is_remote: bool,
    pub(super) has_a_name: bool,
    /// Nobody knows where it is.
    pub(super) is_nowhere: bool,
    /// What the resolver was asked last, and what it said.
    pub(super) lookup: Option<(Instant, Lookup)>,
    pub(super) failures: VecDeque<(Instant, [u64; Failure::ALL.len()])>,
    /// The shortest time in which a probe was answered there.
    quickest: Option<Duration>,
    /// What went unanswered between answers.
    pub(super) losses: Losses,
    /// When each began and ended, and what it met.
    pub(super) probes: VecDeque<(Instant, Instant, Symptom)>,
    pub(super) said: Option<Arc<str>>,
    pub(super) wrong: Option<Arc<str>>,
    pub(super) lates: VecDeque<Late>,
    pub(super) round_trip: Option<Duration>,
    /// Since when it fails, and how many requests it had answered by then.
    pub(super) failing: Option<(Instant, u64)>,
    /// When it began to fail, also when it does not any more.
    pub(super) failed: Option<Instant>,
    /// Its last failure was silence.
    pub(super) is_silent: bool,
    /// Its last answer.
    pub(super) heard: Option<Instant>,
    /// Its last answer that was no refusal, which something on the way may have given in its place.
    pub(super) spoke: Option<Instant>,
    /// Requests that it had answered at the last look.
    pub(super) answered: u64,
    /// Until when it has to wait, as it comes and goes.
    pub(super) flaps_until: Option<Instant>,
    /// It is not in its place, and it is not known exactly what is old of what it has.
    pub(super) is_inexact: bool,
    /// Rises with everything that is learnt.
    pub(super) version: u64,
    /// What it is busy with; none when it is not.
    pub(super) lists: Option<Box<Lists>>,
    /// What it says that it was slow at; none when it was not asked lately.
    pub(super) slow_log: Option<Box<SlowLog>>,
}

impl Chart {
    pub(super) fn of(entry: &Entry) -> Chart {
        let (host, is_remote) = place(entry);
        Chart {
            host,
            is_remote,
            has_a_name: has_a_name(entry),
            is_nowhere: entry.targets.is_empty(),
            lookup: None,
            quickest: None,
            losses: Losses::default(),
            failures: VecDeque::new(),
            probes: VecDeque::new(),
            said: None,
            wrong: None,
            lates: VecDeque::new(),
            round_trip: None,
            failing: None,
            failed: None,
            is_silent: false,
            heard: None,
            spoke: None,
            flaps_until: None,
            is_inexact: false,
            answered: answered(&entry.node),
            node: entry.node.clone(),
            version: 1,
            lists: None,
            slow_log: None,
        }
    }

    /// It is somewhere else, or it became known where it is.
    pub(super) fn moved(&mut self, entry: &Entry) {
        (self.host, self.is_remote) = place(entry);
        self.is_nowhere = entry.targets.is_empty();
        self.quickest = None;
        self.version += 1;
    }

    /// A probe was answered, in this time: what the kernel had to send again was lost before.
    pub(super) fn answers(&mut self, now: Instant, took: Duration) {
        let quickest = *self.quickest.get_or_insert(took);
        self.quickest = Some(quickest.min(took));
        if took >= SENT_AGAIN && took >= 3 * quickest {
            self.losses.lost(now, answered(&self.node));
        }
        self.losses.heard();
    }

    /// Whether its name has not been resolved yet.
    pub(super) fn awaits_its_name(&self) -> bool {
        self.is_nowhere && self.has_a_name
    }

    /// Whether the resolver does not answer for its name.
    pub(super) fn is_unanswered(&self) -> bool {
        self.lookup.is_some_and(|(_, found)| found == Lookup::Unanswered)
    }

    /// What a verdict of this cause accuses it of. One that is ejected for the rate at which requests fail is
    /// accused of silence when most of them were not answered.
    pub(super) fn charge(&self, now: Instant, cause: Cause) -> Charge {
        let recent = self.recent(now);
        let unanswered = recent[Failure::Timeout as usize] + recent[Failure::ConnectTimeout as usize];
        match cause {
            Cause::Timeout | Cause::ConnectTimeout => Charge::Silence,
            Cause::Refused | Cause::Lost => Charge::Refusal,
            Cause::FailureRate if 2 * unanswered > recent.iter().sum() => Charge::Losses,
            _ => Charge::Answer,
        }
    }

    /// What it is busy with, as of now.
    pub(super) fn lists(&mut self, now: Instant) -> Option<&Lists> {
        self.lists.as_mut()?.decay(now);
        if self.lists.as_ref().is_some_and(|lists| lists.is_empty()) {
            self.lists = None;
        }
        self.lists.as_deref()
    }

    /// It said what it was slow at.
    pub(super) fn logged(&mut self, now: Instant, log: &[Slow]) {
        self.version += 1;
        self.slow_log.take_if(|log| log.is_over(now));
        self.slow_log.get_or_insert_default().take(now, log);
    }

    /// It fails. Whether it did not before.
    pub(super) fn fails(&mut self, now: Instant, is_silent: bool) -> bool {
        self.version += 1;
        self.is_silent = is_silent;
        if is_silent {
            self.losses.lost(now, answered(&self.node));
        }
        let is_first = self.failing.is_none();
        if is_first {
            self.failing = Some((now, answered(&self.node)));
            self.failed = Some(now);
        }
        is_first
    }

    /// What it shows to one that is accused of this since then.
    pub(super) fn shows(&self, since: Instant, charge: Charge) -> Shows {
        let answer = if charge == Charge::Refusal { self.spoke } else { self.heard };
        match (answer, self.failing) {
            (Some(at), _) if at >= since => Shows::Answer,
            (_, Some(_)) if self.is_silent => Shows::Silence,
            (_, Some(_)) if charge == Charge::Refusal => Shows::Refusal,
            _ => Shows::Nothing,
        }
    }

    /// Whether a probe ended since the node failed first.
    pub(super) fn is_fresh(&self, probe: &(Instant, Instant, Symptom)) -> bool {
        self.failed.is_some_and(|since| probe.1 >= since)
    }

    /// Failures of traffic within the window.
    pub(super) fn recent(&self, now: Instant) -> [u64; Failure::ALL.len()] {
        let mut sum = [0; Failure::ALL.len()];
        for (_, new) in self.failures.iter().filter(|(at, _)| now - *at < WINDOW) {
            for (sum, new) in sum.iter_mut().zip(new) {
                *sum += new;
            }
        }
        sum
    }

    pub(super) fn lateness(&self, now: Instant) -> Lateness {
        // What came before was owed from an earlier failure, which is over.
        let since = self.failed.unwrap_or(now);
        let is_of_now = |late: &&Late| now - late.came < WINDOW && late.came >= since;
        let mut recent: Vec<&Late> = self.lates.iter().filter(is_of_now).collect();
        recent.sort_by_key(|late| late.given_up);
        let (Some(first), Some(last)) = (recent.first(), recent.last()) else { return Lateness::Never };
        let late = last.came - last.given_up;
        // Two that were given up one after the other and came together waited for the same thing.
        let apart = last.given_up - first.given_up;
        if recent.len() > 1 && last.came.saturating_duration_since(first.came) > apart / 2 {
            return Lateness::Each(late);
        }
        Lateness::AtOnce(late)
    }
}

/// The host of a node, an ip address or what it is called, and whether a link leads there.
fn place(entry: &Entry) -> (String, bool) {
    let ip = entry.targets.iter().find_map(|target| match target {
        Target::Tcp(address) => Some(address.ip()),
        Target::Unix(_) => None,
    });
    let host = ip.map_or_else(|| entry.node.address.to_string(), |ip| ip.to_string());
    (host, ip.is_some_and(|ip| !ip.is_loopback()))
}

pub(super) fn push<T>(kept: &mut VecDeque<T>, one: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// Requests that a node answered, be it with an error.
pub(super) fn answered(node: &Node) -> u64 {
    let of = |outcome| {
        let blocks = node.blocks.iter().flat_map(|block| block.requests.iter());
        blocks.map(|class| class[outcome as usize].value()).sum::<u64>()
    };
    of(Outcome::Ok) + of(Outcome::Error)
}

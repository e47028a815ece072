//! One server as it really is, and what its pool's watch knows of it: the traffic that meets it, the probe
//! that asks it, the detector that judges. No law of its own is here but those of the detector's verdicts.

use std::{mem::discriminant, sync::Arc, time::Duration};

use ringway::{
    health::{Late, Observation, Symptom, Traffic},
    topology::{
        Because, Cause, Data, Evidence, Failed, Failure, Health, HealthSettings, NodeId, Opinion, Policy,
    },
};
use tokio::time::Instant;

use crate::{
    dice::Dice,
    laws::{Breach, Law, holds},
    planner::Watcher,
    scenario::Truth,
    values::{Store, Write},
};

/// A verdict is in force so long after it was found, at most.
pub(crate) const DELAY: Duration = Duration::from_millis(30);
/// From the start of a probe to the next at least.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(20);
/// A connection has at most so many requests under way.
const OWED_MAX: usize = 50;

/// How long, and for how many, late answers are waited.
const LATE_PATIENCE: Duration = Duration::from_secs(10);
const LATES: usize = 4;

/// What a probe met.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// When it began.
    pub(crate) started: Instant,
    pub(crate) symptom: Symptom,
    /// Answers to earlier ones that came meanwhile.
    pub(crate) late: Vec<Late>,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) truth: Truth,
    pub(crate) is_cut: bool,
    /// It is as it is now since then.
    pub(crate) since: Instant,
    /// What it was ill of before, whether it was cut off, and until when.
    ills: Vec<(Truth, bool, Instant)>,
    /// Counts its starts.
    process: u32,
    /// It has what it had, from its disk.
    has_data: bool,
    pub(crate) store: Store,
    /// While it is in the pool.
    pub(crate) patient: Option<Patient>,
}

/// What is known of a server that is in the pool.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) id: NodeId,
    pub(crate) watcher: Watcher,
    settings: Arc<HealthSettings>,
    born: Instant,
    evidence_seen: [u64; Failure::ALL.len()],
    /// Traffic has a connection.
    is_connected: bool,
    /// Requests that it owes a reply time out at these moments.
    owed: Vec<Instant>,
    /// The probe's connection stands.
    is_linked: bool,
    /// It broke since the last probe.
    is_lost: bool,
    /// It stood when the server died, which is then noticed at once.
    was_linked: bool,
    /// When probes were given up whose answers may come yet.
    given_up: Vec<Instant>,
    /// Answers that nobody waits for any more: some are still to come.
    lates: Vec<Late>,
    /// Dials that nothing answered since it turned.
    pub(crate) dark: usize,
    /// Which appointment counts.
    pub(crate) turn: u32,
    /// What comes of the probe that runs.
    probing: Option<Met>,
    started: Instant,
    /// The process that it was when it last served, and that answered last.
    served: Option<u32>,
    life: Option<u32>,
    /// What it came back with, until it serves.
    pub(crate) back: Option<Data>,
    /// The process that answered last.
    met: Option<u32>,
    /// It was emptied since it served.
    pub(crate) is_flushed: bool,
    /// All that it has lives so long at most, as far as is known.
    pub(crate) bounded: Option<Duration>,
    flaps: Flaps,
    /// What failed since its return.
    signs: u64,
}

#[derive(Clone, Copy, Debug)]
enum Met {
    Good,
    Failed(Cause),
}

/// How often it came and went, counted a second time.
#[derive(Debug, Default)]
struct Flaps {
    count: u32,
    wait: Duration,
    returned: Option<Instant>,
    /// Ejected or relapsed.
    out: Option<Instant>,
}

impl Body {
    pub(crate) fn new(now: Instant) -> Body {
        Body {
            truth: Truth::Up,
            is_cut: false,
            since: now,
            ills: Vec::new(),
            process: 0,
            has_data: true,
            store: Store::default(),
            patient: None,
        }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.truth == Truth::Up && !self.is_cut
    }

    /// It turns. Whether its probe is to be looked at again.
    pub(crate) fn turn(&mut self, truth: Truth, dice: &mut Dice, now: Instant) -> bool {
        if self.truth == truth {
            return false;
        }
        if truth == Truth::Dead {
            self.process += 1;
            self.has_data = dice.chance(30);
            self.store.ends(self.has_data);
        }
        self.remember(now);
        (self.truth, self.since) = (truth, now);
        self.goes_on(now);
        true
    }

    pub(crate) fn cut(&mut self, is_cut: bool, now: Instant) -> bool {
        if self.is_cut == is_cut {
            return false;
        }
        self.remember(now);
        (self.is_cut, self.since) = (is_cut, now);
        self.goes_on(now);
        true
    }

    /// What it was sent arrives, and is done.
    fn goes_on(&mut self, now: Instant) {
        if !self.is_cut {
            self.store.arrives();
        }
        if self.answers() {
            self.has_data |= self.store.goes_on(now);
        }
    }

    /// Whether it answers requests, be it late.
    pub(crate) fn answers(&self) -> bool {
        !self.is_cut && matches!(self.truth, Truth::Up | Truth::Slow(_))
    }

    /// It is emptied.
    pub(crate) fn is_emptied(&mut self, policy: &Policy) {
        self.store.clear();
        self.patient.iter_mut().for_each(|patient| patient.bounded = policy.ttl_max);
    }

    /// It answers a probe. Another process was never emptied, and what it has was not written under our eyes.
    pub(crate) fn is_met(&mut self, policy: &Policy) {
        let (process, is_empty) = (self.process, !self.has_data);
        let Some(patient) = &mut self.patient else { return };
        let is_same = patient.met == Some(process);
        patient.met = Some(process);
        patient.is_flushed &= is_same;
        if !is_same && process > 0 {
            patient.bounded = policy.ttl_max.filter(|_| is_empty);
        }
    }

    /// It is sent a write; whether whoever sent it is told that it is done.
    pub(crate) fn is_sent(&mut self, write: Write, timeout: Duration, now: Instant) -> bool {
        match self.truth {
            _ if self.is_cut => self.store.owes(write, false),
            Truth::Hung => self.store.owes(write, true),
            Truth::Up | Truth::Slow(_) => {
                self.store.write(write, now);
                self.has_data |= !write.is_delete;
                return !matches!(self.truth, Truth::Slow(late) if late >= timeout);
            }
            Truth::Dead | Truth::Loading => {}
        }
        false
    }

    fn remember(&mut self, now: Instant) {
        if !self.is_well() {
            self.ills.push((self.truth, self.is_cut, now));
        }
        if let Some(patient) = &mut self.patient {
            patient.dark = 0;
        }
    }

    /// Whether it was ill of something else within this time before it became ill.
    pub(crate) fn was_other(&self, within: Duration) -> bool {
        let is_same = |truth: Truth, is_cut: bool| {
            is_cut == self.is_cut && (is_cut || discriminant(&truth) == discriminant(&self.truth))
        };
        let is_recent = |until: Instant| until + within > self.since;
        self.ills.iter().any(|(truth, is_cut, until)| is_recent(*until) && !is_same(*truth, *is_cut))
    }

    /// What it came back with, if it is the same as when it served.
    pub(crate) fn is_same(&self) -> bool {
        self.patient.as_ref().is_some_and(|p| p.served.is_some() && p.served == p.life)
    }

    pub(crate) fn has_data(&self) -> bool {
        self.has_data
    }

    /// What its clients' connections notice when it turned.
    pub(crate) fn shock(&mut self, evidence: &Evidence, is_busy: bool, now: Instant) {
        let (truth, is_cut) = (self.truth, self.is_cut);
        let Some(patient) = &mut self.patient else { return };
        if truth == Truth::Dead && !is_cut {
            if patient.is_connected && (is_busy || !patient.owed.is_empty()) {
                evidence.failed(Failure::Lost, 1);
            }
            patient.is_connected = false;
            patient.owed.clear();
            patient.given_up.clear();
            patient.was_linked = patient.is_linked;
            if patient.is_linked {
                (patient.is_linked, patient.is_lost) = (false, true);
            }
        } else if truth == Truth::Up && !is_cut {
            // What it was asked meanwhile is answered.
            patient.owed.clear();
            let given_up = patient.given_up.drain(..).filter(|given_up| now - *given_up < LATE_PATIENCE);
            patient.lates.extend(given_up.map(|given_up| Late { given_up, came: now }));
        }
    }

    /// When its running probe ends now, or is to begin, after it turned.
    pub(crate) fn look_again(&mut self, policy: &Policy, dice: &mut Dice, now: Instant) -> Option<Instant> {
        let fate = self.fate(policy, dice);
        let patient = self.patient.as_mut()?;
        match &mut patient.probing {
            Some(probing) => {
                let (after, met) = fate;
                let ends = match met {
                    Met::Failed(Cause::Timeout | Cause::ConnectTimeout) => (patient.started + after).max(now),
                    Met::Good | Met::Failed(_) => now + after,
                };
                *probing = met;
                patient.turn += 1;
                Some(ends)
            }
            // Its own connection broke.
            None if patient.is_lost => Some(patient.hurry(now)),
            None => None,
        }
    }

    /// What comes of a probe, and after what time, if nothing turns meanwhile.
    fn fate(&self, policy: &Policy, dice: &mut Dice) -> (Duration, Met) {
        let Some(patient) = &self.patient else { return (Duration::ZERO, Met::Good) };
        let timeout = patient.settings.timeout;
        let quick = dice.between(Duration::from_micros(100), Duration::from_millis(2));
        if self.is_cut {
            return match patient.is_linked {
                true => (timeout, Met::Failed(Cause::Timeout)),
                false => (timeout.min(policy.connect_timeout), Met::Failed(Cause::ConnectTimeout)),
            };
        }
        match self.truth {
            Truth::Up => (quick, Met::Good),
            Truth::Slow(late) if late < timeout => (late, Met::Good),
            Truth::Slow(_) | Truth::Hung => (timeout, Met::Failed(Cause::Timeout)),
            Truth::Dead => (quick, Met::Failed(Cause::Refused)),
            Truth::Loading => (quick, Met::Failed(Cause::Loading)),
        }
    }

    /// A probe begins; when it ends, if nothing turns meanwhile.
    pub(crate) fn begin_probe(&mut self, policy: &Policy, dice: &mut Dice, now: Instant) -> Option<Instant> {
        let patient = self.patient.as_mut()?;
        // It makes a connection of its own then, which is no loss of the old one.
        patient.is_linked &= !patient.watcher.detector().wants_new_connection();
        let (after, met) = self.fate(policy, dice);
        let patient = self.patient.as_mut()?;
        (patient.probing, patient.started) = (Some(met), now);
        patient.turn += 1;
        Some(now + after)
    }

    /// The running probe has ended, if one runs; what it met.
    pub(crate) fn end_probe(&mut self, now: Instant) -> Option<(Observation, Heard)> {
        let (truth, is_cut, process) = (self.truth, self.is_cut, self.process);
        let patient = self.patient.as_mut()?;
        let met = patient.probing.take()?;
        let after_loss = std::mem::take(&mut patient.is_lost);
        let symptom = match met {
            Met::Good => Symptom::Good,
            Met::Failed(Cause::Refused) => Symptom::Refused,
            Met::Failed(Cause::ConnectTimeout) => Symptom::NoConnection,
            Met::Failed(Cause::Loading) => Symptom::Loading,
            Met::Failed(_) => Symptom::Silent,
        };
        match (symptom, truth) {
            (Symptom::NoConnection, _) => patient.dark += 1,
            (Symptom::Silent, Truth::Slow(late)) if !is_cut => {
                patient.lates.push(Late { given_up: now, came: patient.started + late });
            }
            (Symptom::Silent, _) if patient.given_up.len() < LATES => patient.given_up.push(now),
            _ => {}
        }
        let seen = match met {
            Met::Good => {
                (patient.is_linked, patient.life) = (true, Some(process));
                let (started, took) = (patient.started, Duration::from_millis(1));
                // Whoever knows the policy says what it has.
                Observation::Good { started, took, data: Data::Unknown }
            }
            Met::Failed(cause) => {
                patient.is_linked &= !is_cut && cause == Cause::Timeout;
                patient.signs += 1;
                Observation::Failed { cause, after_loss, text: cause.word().to_owned() }
            }
        };
        let late;
        (late, patient.lates) = patient.lates.drain(..).partition(|late| late.came <= now);
        Some((seen, Heard { started: patient.started, symptom, late }))
    }

    /// A client asks for something.
    pub(crate) fn ask(&mut self, evidence: &Evidence, policy: &Policy, now: Instant) {
        let (truth, is_cut) = (self.truth, self.is_cut);
        let Some(patient) = &mut self.patient else { return };
        let late = match truth {
            _ if is_cut && !patient.is_connected => return evidence.failed(Failure::ConnectTimeout, 1),
            _ if is_cut => None,
            Truth::Dead => return evidence.failed(Failure::Refused, 1),
            // An answer is an answer, whatever it says.
            Truth::Up | Truth::Loading => Some(Duration::ZERO),
            Truth::Slow(late) => Some(late).filter(|late| *late < policy.request_timeout),
            Truth::Hung => None,
        };
        patient.is_connected = true;
        match late {
            Some(_) => evidence.good(),
            None if patient.owed.len() < OWED_MAX => patient.owed.push(now + policy.request_timeout),
            None => {}
        }
    }

    /// Requests that waited too long.
    pub(crate) fn time_out(&mut self, evidence: &Evidence, now: Instant) {
        let Some(patient) = &mut self.patient else { return };
        let all = patient.owed.len();
        patient.owed.retain(|at| *at > now);
        if all > patient.owed.len() {
            evidence.failed(Failure::Timeout, (all - patient.owed.len()) as u32);
        }
    }

    /// Whether it is found or has returned in time.
    pub(crate) fn is_in_time(&self, now: Instant) -> Result<(), Breach> {
        let Some(patient) = &self.patient else { return Ok(()) };
        let since = self.since.max(patient.born);
        let health = patient.watcher.detector().health();
        let HealthSettings { interval, timeout, fall, rise, .. } = *patient.settings;
        let (pause, slack) = (interval.mul_f64(1.1) + PROBE_PAUSE_MIN, DELAY + Duration::from_millis(10));
        let text = || {
            let lasted = now - since;
            format!("{:?}, cut off: {}, for {lasted:?}, and is {health:?}", self.truth, self.is_cut)
        };
        if self.is_well() {
            let out = patient.flaps.out.map_or(since, |out| out + patient.flaps.wait);
            let back_by = out.max(since + timeout) + (pause + slack) * (rise + 1);
            let law = if patient.flaps.count == 0 { Law::Returns } else { Law::Flaps };
            return holds(law, now <= back_by || health == Health::Healthy, text);
        }
        let fast = (interval / 10).max(Duration::from_millis(50)).mul_f64(1.1) + slack;
        let within = match self.truth {
            Truth::Slow(_) if !self.is_cut => return Ok(()),
            Truth::Dead if !self.is_cut && patient.was_linked => PROBE_PAUSE_MIN + slack,
            Truth::Dead | Truth::Loading if !self.is_cut => pause + fast * 2,
            _ => pause + (timeout + fast) * fall,
        };
        let is_found = matches!(health, Health::Ejected);
        holds(Law::Found, now <= since + within || is_found, text)
    }
}

impl Patient {
    pub(crate) fn new(id: NodeId, watcher: Watcher, settings: Arc<HealthSettings>, now: Instant) -> Patient {
        Patient {
            id,
            watcher,
            settings,
            born: now,
            evidence_seen: Default::default(),
            is_connected: false,
            owed: Vec::new(),
            is_linked: false,
            is_lost: false,
            was_linked: false,
            given_up: Vec::new(),
            lates: Vec::new(),
            dark: 0,
            turn: 0,
            probing: None,
            started: now,
            served: None,
            life: None,
            back: None,
            met: None,
            is_flushed: false,
            bounded: None,
            flaps: Flaps::default(),
            signs: 0,
        }
    }

    pub(crate) fn configure(&mut self, settings: &Arc<HealthSettings>, policy: &Policy) {
        // What was written before may live longer.
        self.bounded = policy.ttl_max.filter(|now| self.bounded.is_some_and(|before| before <= *now));
        if !Arc::ptr_eq(&self.settings, settings) {
            self.settings = settings.clone();
            self.watcher.configure(settings.clone());
        }
    }

    /// It gave up its keys: connections are reset.
    pub(crate) fn disconnect(&mut self) {
        self.is_connected = false;
        self.owed.clear();
    }

    /// When the next probe begins.
    pub(crate) fn appointment(&mut self, dice: &mut Dice, now: Instant) -> Instant {
        self.turn += 1;
        let tenths = 0.9 + dice.roll(2001) as f64 / 10_000.0;
        now + self.watcher.detector().pause().max(PROBE_PAUSE_MIN).mul_f64(tenths)
    }

    /// When it begins, now that it is wanted at once.
    fn hurry(&mut self, now: Instant) -> Instant {
        self.turn += 1;
        now.max(self.started + PROBE_PAUSE_MIN)
    }

    /// After traffic was seen: a suspect node is probed at once.
    pub(crate) fn hurried(&mut self, now: Instant) -> Option<Instant> {
        let is_suspect = self.watcher.detector().health() == Health::Suspect;
        (is_suspect && self.probing.is_none()).then(|| self.hurry(now))
    }

    /// What traffic saw since the last look, if it saw a failure.
    pub(crate) fn news(&mut self, evidence: &Evidence) -> Option<Observation> {
        let counts = Failure::ALL.map(|kind| evidence.count(kind));
        let new: [u64; Failure::ALL.len()] = std::array::from_fn(|i| counts[i] - self.evidence_seen[i]);
        self.evidence_seen = counts;
        let sum: u64 = new.iter().sum();
        self.signs += sum;
        let traffic = Traffic { new, streak: evidence.streak(), ..Traffic::default() };
        (sum > 0).then_some(Observation::Traffic(traffic))
    }

    /// It serves, or is about to with what it came back with: who serves is who a later return is compared
    /// with.
    pub(crate) fn serves(&mut self, back: Option<Data>) {
        self.back = back;
        if !self.watcher.detector().health().is_out() {
            self.served = self.life;
            self.is_flushed = false;
        }
    }

    /// What is thought of it now, and was before: was that patient, and does a node that flaps wait as long
    /// as it should?
    pub(crate) fn judge(
        &mut self,
        before: Health,
        opinion: &Opinion,
        is_ill: bool,
        now: Instant,
    ) -> Result<(), Breach> {
        let settings = &self.settings;
        match (before, opinion.health, &opinion.because) {
            (Health::Healthy | Health::Suspect, Health::Ejected, Because::Failed(Failed { cause, .. })) => {
                holds(Law::Patience, is_ill, || format!("{cause:?}, and nothing is wrong with it"))?;
                let doubtful = matches!(cause, Cause::Timeout | Cause::ConnectTimeout | Cause::Lost);
                let needed = u64::from(settings.fall.min(settings.failures));
                holds(Law::Patience, !doubtful || self.signs >= needed, || {
                    format!("ejected, {cause:?}, after {} signs of {needed}", self.signs)
                })?;
                let is_again = self.flaps.returned.is_some_and(|at| now - at < settings.flap_window);
                self.flaps.count = if is_again { self.flaps.count + 1 } else { 0 };
                self.flaps.wait = match self.flaps.count {
                    0 => Duration::ZERO,
                    n => settings.interval.saturating_mul(1 << n.min(20)).min(settings.flap_max),
                };
                self.flaps.out = Some(now);
            }
            (Health::Probation, Health::Ejected, _) => self.flaps.out = Some(now),
            (Health::Ejected | Health::Probation, after, _) => {
                let is_back = after == Health::Healthy;
                if !is_back || settings.rise <= 1 {
                    let out = self.flaps.out.unwrap_or(self.born);
                    // It is shorter by a fifth at most.
                    let is_due = self.started >= out + self.flaps.wait.mul_f64(0.8);
                    holds(Law::Flaps, is_due, || {
                        let waited = self.started.saturating_duration_since(out);
                        format!("ejection {} in a row, and waited {waited:?} only", self.flaps.count)
                    })?;
                }
                if is_back {
                    (self.flaps.returned, self.signs) = (Some(now), 0);
                }
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn is_flapping(&self) -> bool {
        !self.flaps.wait.is_zero()
    }
}

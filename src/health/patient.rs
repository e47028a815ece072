//! What is known of one node that is watched: its detector, who it is, and what it came back with.

use std::{sync::Arc, time::Duration};

use tokio::{task::AbortHandle, time::Instant};

use super::{Call, Detector, Life, Probe, Traffic, probe::Answer, window::Window};
use crate::{
    net::Target,
    topology::{Cause, Data, ErrorReply, Evidence, Failure, OnReturn, Opinion, Policy},
};

/// One watched node.
pub(super) struct Patient {
    /// The node's.
    pub(super) name: Arc<str>,
    /// Where it is.
    pub(super) targets: Arc<[Target]>,
    /// What is thought of it.
    pub(super) detector: Detector,
    /// What membership was told of that.
    pub(super) told: Opinion,
    /// Failures and error replies that traffic had seen at the last look.
    pub(super) counts: [u64; Failure::ALL.len()],
    pub(super) said: [u64; ErrorReply::ALL.len()],
    pub(super) doubts: u64,
    /// What traffic saw lately.
    pub(super) window: Window,
    /// Who it was when it last served, and who it is.
    pub(super) served: Option<Life>,
    pub(super) life: Option<Life>,
    /// It was emptied since it served, perhaps by a probe that was void.
    pub(super) flushed: bool,
    /// All that it has lives so long at most, as it was empty once and all was written with this `ttl_max` or
    /// a shorter one since; none where that is not known.
    pub(super) bounded: Option<Duration>,
    /// What it came back with, until it serves.
    pub(super) back: Option<Data>,
    /// How often it was asked.
    pub(super) asked: u64,
    /// When the last probe began.
    pub(super) started: Instant,
    /// How its next probe is hurried, and the probe.
    pub(super) call: Arc<Call>,
    pub(super) task: AbortHandle,
}

impl Patient {
    /// What a node that is back came back with.
    fn data(&self) -> Data {
        match (&self.served, &self.life) {
            (_, None) => Data::Unknown,
            (Some(before), Some(now)) if before.is_same(now) => Data::Same,
            (_, Some(Life { keys: Some(0), .. })) => Data::Empty,
            (_, Some(_)) => Data::Other,
        }
    }

    /// It serves, or is about to with what it came back with: it is the one that a later return is compared
    /// with.
    pub(super) fn serves(&mut self, back: Option<Data>) {
        self.back = back;
        if !self.detector.health().is_out() {
            self.served.clone_from(&self.life);
            self.flushed = false;
        }
    }

    /// The same until it serves again: what it came back with, or what became of it since.
    pub(super) fn brings(&self) -> Data {
        match (self.data(), self.back) {
            (Data::Same, Some(back)) => back,
            (data, _) => data,
        }
    }

    /// It serves some of its keys: what it came back without it may have by now.
    pub(super) fn serves_some(&mut self) {
        self.back = self.back.filter(|back| !matches!(back, Data::Empty | Data::Flushed));
    }

    /// What it is said to have come back with. Where old values are to expire, and it is not known that they
    /// do, nobody knows what it has.
    pub(super) fn offers(&self, policy: &Policy) -> Data {
        match self.brings() {
            _ if self.flushed => Data::Flushed,
            Data::Same if policy.on_return == OnReturn::Ttl && self.bounded.is_none() => Data::Unknown,
            data => data,
        }
    }

    /// What a probe has met, and done.
    pub(super) fn met(&mut self, probe: &Probe, policy: &Policy) {
        self.meets(probe.life.as_ref(), policy);
        if probe.flushed {
            self.flushed = true;
            self.emptied(policy);
        }
    }

    /// Who answered a new connection. Another process was never emptied, and what it has was not written
    /// under our eyes.
    fn meets(&mut self, life: Option<&Life>, policy: &Policy) {
        let Some(life) = life else { return };
        let is_same = self.life.as_ref().is_some_and(|before| before.is_same(life));
        self.flushed &= is_same;
        self.bounded = match life.keys {
            Some(0) => policy.ttl_max,
            _ => self.bounded.filter(|_| is_same),
        };
        self.life = Some(life.clone());
    }

    /// Who answers well may be another than who served, and nobody was refused in between: it was restarted
    /// behind something that takes connections in its place, or the name or address leads to another server
    /// now. What it has may be old, so it serves no more, and is received like one that comes back.
    pub(super) fn compare(&self, probe: &mut Probe, policy: &Policy) {
        let minds = policy.on_return != OnReturn::Serve || policy.durable;
        let (Some(before), Some(now)) = (&self.served, &self.life) else { return };
        let serves = matches!(probe.answer, Answer::Serves(_)) && !self.detector.health().is_out();
        if !minds || !serves || before.is_same(now) {
            return;
        }
        let targets: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        let who = |Life { process, started, .. }: &Life| match started {
            Some(started) => format!("{process} of {started}"),
            None => process.clone(),
        };
        let (at, now, before) = (targets.join(", "), who(now), who(before));
        let text = format!("{at}: another process answers, {now} and not {before}");
        probe.answer = Answer::Failed { cause: Cause::Replaced, after_loss: true, text };
    }

    /// It has nothing now.
    pub(super) fn emptied(&mut self, policy: &Policy) {
        self.bounded = policy.ttl_max;
    }

    /// This is in force from now on: what was written before may live longer.
    pub(super) fn obeys(&mut self, policy: &Policy) {
        self.bounded = policy.ttl_max.filter(|now| self.bounded.is_some_and(|before| before <= *now));
    }

    /// What traffic saw since the last sample, if it saw a failure or was told of one.
    pub(super) fn news(&mut self, evidence: &Evidence) -> Option<Traffic> {
        let counts = Failure::ALL.map(|kind| evidence.failures(kind));
        let new = std::array::from_fn(|i| counts[i] - self.counts[i]);
        self.counts = counts;
        let replies = ErrorReply::ALL.map(|kind| evidence.replies(kind));
        let said = std::array::from_fn(|i| replies[i] - self.said[i]);
        self.said = replies;
        let all = Failure::ALL.iter().map(|kind| evidence.doubts(*kind)).sum();
        let doubts = all - std::mem::replace(&mut self.doubts, all);
        let traffic = Traffic { new, said, doubts, streak: evidence.streak() };
        (new.iter().any(|n| *n > 0) || traffic.is_doubtful()).then_some(traffic)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        health::{Lag, Observation, Scene, Ward},
        topology::{HealthSettings, Topology, channel, write_notes},
    };

    fn life(process: &str, keys: u64) -> Life {
        Life { process: process.into(), started: None, keys: Some(keys) }
    }

    /// That all a node has expires is known of one that was empty once, is the same process since, and has
    /// been written to with no longer lives than those in force; of any other its data is not known.
    #[tokio::test]
    async fn what_expires_for_sure() {
        let address = (std::net::Ipv4Addr::LOCALHOST, 1).into();
        let one =
            crate::health::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let ttl = |seconds: Option<u64>| Policy {
            on_return: OnReturn::Ttl,
            ttl_max: seconds.map(Duration::from_secs),
            ..(*one.policy).clone()
        };
        let (minute, hour) = (ttl(Some(60)), ttl(Some(3600)));
        let fresh = || {
            let (_writer, reader) = channel(one.clone());
            let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
            ward.admit(&write_notes().1);
            let (_, mut patient) = ward.patients.drain().next().expect("there is one");
            patient.meets(Some(&life("a", 0)), &minute);
            patient.serves(None);
            patient
        };
        let is_known = |patient: &Patient, policy: &Policy| patient.offers(policy) == Data::Same;

        let mut patient = fresh();
        patient.meets(Some(&life("a", 9)), &minute);
        assert!(is_known(&patient, &minute));
        patient.obeys(&hour);
        assert!(is_known(&patient, &hour), "it lives no longer than that");
        patient.obeys(&minute);
        assert_eq!(patient.offers(&minute), Data::Unknown, "it may live for an hour");
        patient.emptied(&minute);
        assert!(is_known(&patient, &minute));
        patient.obeys(&ttl(None));
        patient.obeys(&minute);
        assert_eq!(patient.offers(&minute), Data::Unknown, "some was written without a bound");

        let mut restarted = fresh();
        restarted.meets(Some(&life("b", 9)), &minute);
        restarted.serves(None);
        assert_eq!(restarted.offers(&minute), Data::Unknown, "what it was restarted with");
        let serve = Policy { on_return: OnReturn::Serve, ..minute.clone() };
        assert!(is_known(&restarted, &serve), "where that is not asked");
    }

    /// A pool of one node, and who watches it.
    fn one_watched() -> (Topology, Ward) {
        let address = (std::net::Ipv4Addr::LOCALHOST, 1).into();
        let one =
            crate::health::tests::topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
        let (_, reader) = channel(one.clone());
        let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
        ward.admit(&write_notes().1);
        (one, ward)
    }

    /// A node that came back with nothing, and has taken some keys since, has these when it is back once
    /// more.
    #[tokio::test]
    async fn who_serves_some_has_some() {
        let (one, mut ward) = one_watched();
        let (_, mut patient) = ward.patients.drain().next().expect("there is one");
        for (back, then) in
            [(Data::Empty, Data::Same), (Data::Flushed, Data::Same), (Data::Other, Data::Other)]
        {
            patient.meets(Some(&life("a", 0)), &one.policy);
            patient.serves(Some(back));
            assert_eq!(patient.brings(), back);
            patient.serves_some();
            assert_eq!(patient.brings(), then);
        }
    }

    /// The same when it fails before a probe has seen it in its place.
    #[tokio::test]
    async fn who_fails_at_once_has_some() {
        let (one, mut ward) = one_watched();
        let (id, mut patient) = ward.patients.drain().next().expect("there is one");
        patient.meets(Some(&life("a", 0)), &one.policy);
        patient.serves(Some(Data::Empty));
        let traffic = Traffic { new: [3; Failure::ALL.len()], streak: 30, ..Traffic::default() };
        patient.detector.step(Instant::now(), Observation::Traffic(traffic));
        assert!(patient.detector.health().is_out());
        ward.patients.insert(id, patient);
        assert!(ward.tell(&one, id).is_some());
        assert_eq!(ward.patients[&id].brings(), Data::Same);
    }
}

//! Verdicts that may not stand, as the fault may be this proxy's own, are kept back and judged again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Held, JUDGE_PAUSE, Judgement, Ward,
    detector::is_certain,
    patient::Patient,
    probe::{Answer, Probe},
    scene::Asking,
    window::Window,
};
use crate::topology::{
    Because, Change, Data, Health, News, NodeId, Opinion, Order, Placement, SeenBy, Topology,
};

impl Ward {
    /// What membership is to be told of nodes of which something was seen. Verdicts that may not stand, or
    /// not yet, are kept back.
    pub(super) fn judge(&mut self, seen: impl IntoIterator<Item = NodeId>) -> Vec<Change> {
        let (now, topology) = (Instant::now(), self.reader.load());
        let mut changes = Vec::new();
        for id in seen {
            self.accuse(now, &topology, id);
            changes.extend(self.tell(&topology, id));
        }
        changes
    }

    /// Keeps back the verdict on a node, if there is one that may not stand.
    fn accuse(&mut self, now: Instant, topology: &Topology, id: NodeId) {
        let Some(patient) = self.patients.get(&id) else { return };
        let Opinion { health: Health::Ejected, because: Because::Failed(failed), .. } =
            patient.detector.opinion()
        else {
            return;
        };
        if patient.told.health.is_out() || self.held.contains_key(&id) {
            return;
        }
        let (whose, cause) = ((topology.pool.clone(), patient.name.clone()), failed.cause);
        let seen_by = failed.basis.seen_by;
        let fault = match self.scene.judge(
            now,
            &whose,
            cause,
            Asking { asked: Duration::ZERO, patience: topology.health.timeout },
        ) {
            Judgement::Stands => return,
            Judgement::Ask | Judgement::Moot => None,
            Judgement::Withheld(fault) => {
                self.scene.withhold(now, &whose, fault);
                Some(fault)
            }
        };
        patient.call.hurry.notify_one();
        if self.held.is_empty() {
            self.judge_at = now + JUDGE_PAUSE;
        }
        self.held.insert(id, Held { cause, seen_by, since: now, fault, stands: false });
    }

    /// What is thought of a node, if membership was told something else. While a verdict is kept back it is
    /// suspect, and else as it was.
    pub(super) fn tell(&mut self, topology: &Topology, id: NodeId) -> Option<Change> {
        let patient = self.patients.get_mut(&id)?;
        let mut opinion = patient.detector.opinion();
        if self.held.contains_key(&id) {
            opinion = Opinion { health: Health::Suspect, wrong: opinion.wrong, ..patient.told.clone() };
        }
        // Of what is wrong with its configuration a probe saw more than this.
        opinion.wrong = opinion.wrong.or_else(|| self.cleaner.quarantine.refusal(id));
        if opinion == patient.told {
            return None;
        }
        let (was_out, is_out) = (patient.told.health.is_out(), opinion.health.is_out());
        if is_out && !was_out {
            self.cleaner.quarantine.leaves(id);
            let entry = topology.position(id).map(|at| &topology.nodes[at]);
            // The probe that would have seen it in its place may not have been heard yet.
            if entry.is_some_and(|entry| entry.placement.admitted() > 0.0) {
                patient.serves_some();
            }
            if entry.and_then(|entry| entry.order).is_some_and(Order::is_out) {
                patient.detector.excuse();
            }
        }
        if is_out || was_out {
            // Whoever shows nodes is to know which of them have to wait as they come and go.
            self.scene.flaps(&(topology.pool.clone(), patient.name.clone()), patient.detector.flaps_until());
        }
        patient.told = opinion.clone();
        Some(topology.news(id, News::Judged(opinion)))
    }

    /// What a node that a probe brought back came with, or what one has that was asked; orders tell
    /// beforehand what becomes of it.
    pub(super) fn receive(
        &self,
        topology: &Topology,
        (id, patient): (NodeId, &mut Patient),
        back: Option<Data>,
    ) {
        let entry = topology.position(id).map(|at| &topology.nodes[at]);
        let owns = entry.is_some_and(|entry| entry.placement == Placement::Owns);
        let is_inexact = self.cleaner.quarantine.is_inexact(id);
        // Until it is back it is compared with the one that served, and what it came back with is not
        // forgotten before it has all its keys.
        if back.is_some() || owns {
            patient.serves(back);
        }
        if back.is_some() {
            // What it did before it left says nothing of it now.
            patient.window = Window::default();
            if entry.and_then(|entry| entry.order).is_some_and(Order::is_out) {
                patient.detector.excuse();
            }
            if is_inexact {
                patient.detector.returns_inexact();
            }
        }
        let is_other = !matches!(patient.offers(&topology.policy), Data::Same | Data::Empty);
        self.scene.brings(&(topology.pool.clone(), patient.name.clone()), !owns && (is_inexact || is_other));
    }

    /// What a probe means for the verdict on its node, if one is kept back; whether that stands now.
    pub(super) fn hear_of_held(
        &mut self,
        id: NodeId,
        patient: &mut Patient,
        probe: &Probe,
        whose: &(Arc<str>, Arc<str>),
    ) -> bool {
        let Some(held) = self.held.get_mut(&id) else { return false };
        let since = match &probe.answer {
            Answer::Serves(_) if held.fault.is_none() && held.seen_by == SeenBy::Traffic => {
                held.stands = true;
                return true;
            }
            Answer::Serves(_) => probe.started,
            // What it does now leaves no doubt, whatever it was accused of: it is judged for that.
            Answer::Failed { cause, .. } if is_certain(*cause) && *cause != held.cause => Instant::now(),
            _ => return false,
        };
        self.held.remove(&id);
        patient.detector.reprieve(since);
        self.scene.release(whose);
        false
    }

    /// Judges again what waits, and gives what is to be told. When a fault of ours is over, the node gets a
    /// fresh start: what was seen of it meanwhile proves nothing.
    pub(super) fn judge_again(&mut self) -> Vec<Change> {
        let now = Instant::now();
        self.judge_at = now + JUDGE_PAUSE;
        let topology = self.reader.load();
        let patience = topology.health.timeout;
        let (scene, patients) = (&self.scene, &mut self.patients);
        let mut judged = Vec::new();
        self.held.retain(|id, held| {
            let Some(patient) = patients.get_mut(id) else { return false };
            let whose = (topology.pool.clone(), patient.name.clone());
            let judgement = match held.stands {
                true => Judgement::Stands,
                false => scene.judge(now, &whose, held.cause, Asking { asked: now - held.since, patience }),
            };
            match judgement {
                Judgement::Ask => true,
                Judgement::Withheld(fault) => {
                    if held.fault.replace(fault) != Some(fault) {
                        scene.withhold(now, &whose, fault);
                    }
                    true
                }
                judgement => {
                    if judgement == Judgement::Moot || held.fault.is_some() {
                        patient.detector.reprieve(now);
                        patient.call.hurry.notify_one();
                        scene.release(&whose);
                    }
                    judged.push(*id);
                    false
                }
            }
        });
        judged.into_iter().filter_map(|id| self.tell(&topology, id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        sync::{Notify, mpsc},
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        health::{Fault, Lag, Observation, Scene, Symptom, Traffic, tests::topology, watch},
        net::{Address, Target},
        topology::{Cause, Entry, Evidence, Failure, HealthSettings, Node, Samples, channel, write_notes},
    };

    /// What is told of the health of nodes.
    fn healths(told: Vec<Change>) -> Vec<Health> {
        let health = |change| match change {
            Change::News { news: News::Judged(opinion), .. } => opinion.health,
            other => panic!("{other:?}"),
        };
        told.into_iter().map(health).collect()
    }

    /// The detector of a node pronounces its verdict, and it is judged.
    fn accused(ward: &mut Ward, node: NodeId, seen: Traffic) -> Vec<Health> {
        let detector = &mut ward.patients.get_mut(&node).expect("it is watched").detector;
        detector.step(Instant::now(), Observation::Traffic(seen));
        assert_eq!(detector.health(), Health::Ejected);
        healths(ward.judge([node]))
    }

    fn silence() -> Traffic {
        let mut silence = Traffic { streak: 3, ..Traffic::default() };
        silence.new[Failure::Timeout as usize] = 3;
        silence
    }

    /// Where nodes are that nobody knew at first is known to whoever judges as soon as their names resolve:
    /// they are behind a link then.
    #[tokio::test(start_paused = true)]
    async fn late_names_are_behind_the_link() {
        let bell = Arc::new(Notify::new());
        let mut first = topology((Ipv4Addr::LOCALHOST, 1).into(), HealthSettings::default(), &bell);
        let found = first.nodes[0].clone();
        let named = |i: u8| {
            let node = Node {
                id: NodeId(i.into()),
                name: format!("n{i}").into(),
                address: Address::Tcp { host: format!("n{i}.example"), port: 6379 },
                weight: 1,
                zone: None,
                evidence: Evidence::default(),
                blocks: Arc::new([]),
                load: Arc::default(),
            };
            Entry { node: Arc::new(node), targets: Arc::new([]), ..found.clone() }
        };
        first.nodes = Arc::new([named(1), named(2)]);
        let (writer, reader) = channel(first);
        let pool = reader.load().pool.clone();
        let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
        let (_notes, noted) = write_notes();
        ward.admit(&noted);
        let mut next = (*writer.current()).clone();
        next.revision += 1;
        let target = |i: u8| Target::Tcp(([10, 0, 0, i], 6379).into());
        let found = |(entry, i): (&Entry, u8)| Entry { targets: Arc::new([target(i)]), ..entry.clone() };
        next.nodes = next.nodes.iter().zip(1..).map(found).collect();
        writer.publish(next);
        ward.admit(&noted);
        let silence = silence();
        for name in ["n1", "n2"] {
            ward.scene.traffic(Instant::now(), &(pool.clone(), name.into()), &silence);
        }
        let told = accused(&mut ward, NodeId(1), silence);
        assert_eq!(told, [Health::Suspect]);
        assert_eq!(ward.held[&NodeId(1)].fault, Some(Fault::Link));
        // What is said of it meanwhile says nothing else.
        assert_eq!(healths(ward.judge([NodeId(1)])), []);
    }

    /// A verdict that is put off until others were asked: a node that answers its probe shows that the way is
    /// open, so that what its requests met stands, and is told before the probe counts. One whose connections
    /// are refused now is judged for that. Where the verdict is withheld, or rests on probes, an answer is
    /// the end of it.
    #[tokio::test(start_paused = true)]
    async fn what_the_accused_says_itself() {
        for (by_traffic, fault, refuses, expected) in [
            (true, None, false, vec![Health::Ejected]),
            (false, None, false, vec![]),
            (true, Some(Fault::Lossy), false, vec![]),
            (true, None, true, vec![Health::Ejected]),
            (true, Some(Fault::Lossy), true, vec![Health::Ejected]),
        ] {
            let bell = Arc::new(Notify::new());
            let address = (Ipv4Addr::LOCALHOST, 1).into();
            let (_writer, reader) = channel(topology(address, HealthSettings::default(), &bell));
            let pool = reader.load().pool.clone();
            let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
            let (_notes, noted) = write_notes();
            ward.admit(&noted);
            let id = *ward.patients.keys().next().expect("it is watched");
            let seen_by = if by_traffic { SeenBy::Traffic } else { SeenBy::Probe };
            let now = Instant::now();
            ward.held.insert(id, Held { cause: Cause::Timeout, seen_by, since: now, fault, stands: false });
            assert_eq!(accused(&mut ward, id, silence()), [Health::Suspect]);
            let mut patient = ward.patients.remove(&id).expect("it is watched");
            let whose = (pool, patient.name.clone());
            let refused =
                || Answer::Failed { cause: Cause::Refused, after_loss: false, text: "refused".into() };
            let answer = if refuses { refused() } else { Answer::Serves(None) };
            let (took, symptom) = (Duration::ZERO, Symptom::Good);
            let (life, late) = (None, Vec::new());
            let probe = Probe { started: now, ended: now, answer, took, life, flushed: false, symptom, late };
            let stands = ward.hear_of_held(id, &mut patient, &probe, &whose);
            assert_eq!(stands, by_traffic && fault.is_none() && !refuses);
            if refuses {
                let text = "refused".into();
                let seen = Observation::Failed { cause: Cause::Refused, after_loss: false, text };
                patient.detector.step(now, seen);
            }
            ward.patients.insert(id, patient);
            let mut told = healths(ward.judge([id]));
            told.extend(healths(ward.judge_again()));
            told.retain(|health| health.is_out());
            assert_eq!(told, expected, "by traffic: {by_traffic}, {fault:?}, refuses: {refuses}");
            assert!(ward.held.is_empty());
        }
    }

    /// A verdict that waits is judged again in time, however often something else happens in its pool.
    #[tokio::test(start_paused = true)]
    async fn a_verdict_waits_for_no_silence() {
        let bell = Arc::new(Notify::new());
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let (_writer, reader) = channel(topology(address, HealthSettings::default(), &bell));
        let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
        let (notes, noted) = write_notes();
        ward.admit(&noted);
        let (cause, node) = (Cause::Timeout, NodeId(7));
        let seen_by = SeenBy::Traffic;
        let since = Instant::now();
        ward.held.insert(node, Held { cause, seen_by, since, fault: None, stands: false });
        assert_eq!(accused(&mut ward, node, silence()), [Health::Suspect]);
        let (inbox, mut changes) = mpsc::channel(16);
        let told = (noted, Samples::new(0));
        let rung = bell.clone();
        let ringing = tokio::spawn(async move {
            loop {
                rung.notify_one();
                sleep(JUDGE_PAUSE / 4).await;
            }
        });
        let watching = tokio::spawn(async move { watch(ward, told, &bell, &inbox).await });
        let ejected = async {
            loop {
                let change = changes.recv().await.expect("it is watched");
                if healths(vec![change]) == [Health::Ejected] {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(1), ejected).await.expect("the verdict is judged again");
        watching.abort();
        ringing.abort();
        drop(notes);
    }
}

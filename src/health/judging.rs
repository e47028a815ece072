//! Verdicts that may not stand, as the fault may be this proxy's own, are kept back and judged again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Held, JUDGE_PAUSE, Judgement, Ward};
use crate::topology::Change;

impl Ward {
    /// Keeps back the verdicts that may not stand, or not yet; gives the other changes.
    pub(super) fn judge(&mut self, changes: Vec<Change>) -> Vec<Change> {
        if changes.iter().all(|change| !matches!(change, Change::Eject { .. })) {
            return changes;
        }
        let patience = self.reader.load().health.timeout;
        let now = Instant::now();
        let mut stand = Vec::new();
        for change in changes {
            let Change::Eject { pool, node, cause, .. } = &change else {
                stand.push(change);
                continue;
            };
            let Some(patient) = self.patients.get(node) else { continue };
            let whose = (pool.clone(), patient.name.clone());
            let fault = match self.scene.judge(now, &whose, *cause, (Duration::ZERO, patience)) {
                Judgement::Stands => {
                    stand.push(change);
                    continue;
                }
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
            stand.push(Change::Suspect { pool: pool.clone(), node: *node });
            self.held.insert(*node, Held { cause: *cause, since: now, fault, change });
        }
        stand
    }

    /// Judges again what waits, and gives what may go on. When a fault of ours is over, the node gets a fresh
    /// start: what was seen of it meanwhile proves nothing.
    pub(super) fn judge_again(&mut self) -> Vec<Change> {
        let now = Instant::now();
        self.judge_at = now + JUDGE_PAUSE;
        let topology = self.reader.load();
        let patience = topology.health.timeout;
        let (scene, patients) = (&self.scene, &mut self.patients);
        let mut stand = Vec::new();
        self.held.retain(|id, held| {
            let Some(patient) = patients.get_mut(id) else { return false };
            let whose = (topology.pool.clone(), patient.name.clone());
            match scene.judge(now, &whose, held.cause, (now - held.since, patience)) {
                Judgement::Ask => true,
                Judgement::Withheld(fault) => {
                    if held.fault.replace(fault) != Some(fault) {
                        scene.withhold(now, &whose, fault);
                    }
                    true
                }
                judgement if judgement == Judgement::Moot || held.fault.is_some() => {
                    patient.detector.reprieve(now);
                    patient.call.hurry.notify_one();
                    scene.release(&whose);
                    false
                }
                _ => {
                    stand.push(*id);
                    true
                }
            }
        });
        stand.iter().filter_map(|id| self.held.remove(id)).map(|held| held.change).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use tokio::{
        sync::{Notify, mpsc},
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{
        health::{Fault, Lag, Scene, Traffic, tests::topology, watch},
        net::{Address, Target},
        topology::{
            Basis, Cause, Entry, Evidence, Failure, HealthSettings, Node, NodeId, Rule, Samples, SeenBy,
            channel, write_notes,
        },
    };

    /// Where nodes are that nobody knew at first is known to whoever judges as soon as their names resolve: they are
    /// behind a link then.
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
        let mut silence = Traffic::default();
        silence.new[Failure::Timeout as usize] = 3;
        for name in ["n1", "n2"] {
            ward.scene.traffic(Instant::now(), &(pool.clone(), name.into()), &silence);
        }
        let (cause, node) = (Cause::Timeout, NodeId(1));
        let basis = Basis { rule: Rule::Failures, seen_by: SeenBy::Traffic };
        let eject = Change::Eject { pool, node, cause, evidence: "it is silent".into(), basis };
        let told = ward.judge(vec![eject]);
        assert!(matches!(told[..], [Change::Suspect { node: NodeId(1), .. }]), "{told:?}");
        assert_eq!(ward.held[&node].fault, Some(Fault::Link));
    }

    /// A verdict that waits is judged again in time, however often something else happens in its pool.
    #[tokio::test(start_paused = true)]
    async fn a_verdict_waits_for_no_silence() {
        let bell = Arc::new(Notify::new());
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        let (_writer, reader) = channel(topology(address, HealthSettings::default(), &bell));
        let pool = reader.load().pool.clone();
        let mut ward = Ward::new(reader, Scene::new(Lag::new()), Arc::default(), Arc::new([]));
        let (notes, noted) = write_notes();
        ward.admit(&noted);
        let (cause, node) = (Cause::Timeout, NodeId(7));
        let basis = Basis { rule: Rule::Failures, seen_by: SeenBy::Traffic };
        let change = Change::Eject { pool, node, cause, evidence: "it is silent".into(), basis };
        ward.held.insert(node, Held { change, cause, since: Instant::now(), fault: None });
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
                // Its own probes, which are refused, give other verdicts.
                let change = changes.recv().await.expect("it is watched");
                if matches!(change, Change::Eject { cause: Cause::Timeout, .. }) {
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

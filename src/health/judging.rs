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
                Judgement::Ask => None,
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
                Judgement::Stands if held.fault.is_some() => {
                    patient.detector.reprieve(now);
                    patient.call.hurry.notify_one();
                    scene.release(&whose);
                    false
                }
                Judgement::Stands => {
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
        health::{Lag, Scene, tests::topology, watch},
        topology::{Basis, Cause, HealthSettings, NodeId, Rule, Samples, SeenBy, channel, write_notes},
    };

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

//! Verdicts that may not stand, as the fault may be this proxy's own, are kept back and judged again.

use std::time::Duration;

use tokio::time::Instant;

use super::{Held, Judgement, Ward};
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
            stand.push(Change::Suspect { pool: pool.clone(), node: *node });
            self.held.insert(*node, Held { cause: *cause, since: now, fault, change });
        }
        stand
    }

    /// Judges again what waits, and gives what may go on. When a fault of ours is over, the node gets a fresh
    /// start: what was seen of it meanwhile proves nothing.
    pub(super) fn judge_again(&mut self) -> Vec<Change> {
        let now = Instant::now();
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

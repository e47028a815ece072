//! DIAGNOSES. In a world with one fault the real scene is told what probes and traffic meet, and when the
//! node is ejected the first diagnosis has to name the fault, with no rival half as sure.

use std::sync::Arc;

use ringway::{
    health::{Answer, Observation, Probe, Scene, Symptom},
    incident::{Diagnosis, Place, Subject, What, diagnose},
    topology::{Cause, Entry},
};
use tokio::time::{Duration, Instant};

use crate::{
    body::Heard,
    laws::{Breach, Law, holds},
    planner::Sabotage,
    scenario::Truth,
};

/// A node that was ill of something else so shortly before shows signs of both faults.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(10);

/// What the diagnoses rest on, and who spoils them.
#[derive(Debug, Default)]
pub(crate) struct Clinic {
    scene: Scene,
    sabotage: Option<Sabotage>,
}

/// How a node is when it is ejected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ill {
    pub(crate) truth: Truth,
    pub(crate) is_cut: bool,
    /// It has been ill of nothing else lately.
    pub(crate) is_pure: bool,
    /// It was dialled since, and nothing answered.
    pub(crate) is_dark: bool,
}

impl Clinic {
    pub(crate) fn new(sabotage: Option<Sabotage>) -> Clinic {
        Clinic { scene: Scene::default(), sabotage }
    }

    pub(crate) fn admit(&self, pool: &Arc<str>, entry: &Entry) {
        self.scene.admit(pool, entry);
    }

    /// What was seen of a node, by traffic or by a probe that met this.
    pub(crate) fn hear(
        &self,
        now: Instant,
        whose: (&Arc<str>, &Arc<str>),
        seen: &Observation,
        met: Option<Heard>,
    ) {
        let whose = (whose.0.clone(), whose.1.clone());
        if let Observation::Traffic(traffic) = seen {
            self.scene.traffic(now, &whose, traffic);
        }
        let Some(Heard { started, symptom, late }) = met else { return };
        let symptom = match self.sabotage {
            Some(Sabotage::TakesSilenceForRefusal) if symptom.is_silence() => Symptom::Refused,
            _ => symptom,
        };
        let answer = match seen {
            Observation::Failed { cause, after_loss, text } => {
                Answer::Failed { cause: *cause, after_loss: *after_loss, text: text.clone() }
            }
            _ => Answer::Serves(None),
        };
        let probe = Probe {
            started,
            ended: now,
            answer,
            took: now - started,
            life: None,
            flushed: false,
            symptom,
            late,
        };
        self.scene.probe(&whose, &probe);
    }

    /// A node is ejected: is the fault named?
    pub(crate) fn ejected(
        &self,
        now: Instant,
        pool: &Arc<str>,
        entry: &Entry,
        cause: Cause,
        ill: Ill,
    ) -> Result<bool, Breach> {
        let right: &[(Place, What)] = match ill.truth {
            _ if !ill.is_pure => return Ok(false),
            // A node that hangs is dialled all the same; on a connection that stands a path that swallows all
            // is like it.
            _ if ill.is_cut && ill.is_dark => &[(Place::Path, What::Unreachable)],
            _ if ill.is_cut => &[(Place::Path, What::Unreachable), (Place::Node, What::Hung)],
            Truth::Dead => &[(Place::Node, What::Gone)],
            Truth::Loading => &[(Place::Node, What::Loading)],
            Truth::Hung => &[(Place::Node, What::Hung)],
            Truth::Slow(_) => &[(Place::Node, What::Hung), (Place::Node, What::Slow)],
            Truth::Up => return Ok(false),
        };
        let name = &entry.node.name;
        let address = entry.node.address.to_string();
        let subject = Subject { node: name, address: &address, zone: None, cause: Some(cause) };
        let mut all: Vec<Diagnosis> = diagnose(&subject, &self.scene.sight(now, pool, name));
        if self.sabotage == Some(Sabotage::BlamesThePath) {
            all.iter_mut().for_each(|diagnosis| diagnosis.place = Place::Path);
        }
        let is_right = |d: &Diagnosis| right.contains(&(d.place, d.what));
        let first = all.first();
        holds(Law::Diagnosed, first.is_some_and(is_right), || {
            format!("node {name} has {ill:?}, {cause:?}, and the diagnosis is {all:?}")
        })?;
        let sure = first.map_or(0.0, |first| first.confidence);
        let rival = all.iter().find(|d| !is_right(d) && d.confidence > sure / 2.0);
        holds(Law::Diagnosed, rival.is_none(), || {
            format!("node {name} has {ill:?}, {cause:?}, and {rival:?} comes near {first:?}")
        })?;
        Ok(true)
    }
}

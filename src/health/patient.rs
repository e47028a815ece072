//! What is known of one node that is watched: its detector, who it is, and what it came back with.

use std::sync::Arc;

use tokio::{task::AbortHandle, time::Instant};

use super::{Call, Detector, Life, Traffic, window::Window};
use crate::{
    net::Target,
    topology::{Data, ErrorReply, Evidence, Failure, Opinion},
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
    /// What traffic saw lately.
    pub(super) window: Window,
    /// Who it was when it last served, and who it is.
    pub(super) served: Option<Life>,
    pub(super) life: Option<Life>,
    /// It was emptied since it served, perhaps by a probe that was void.
    pub(super) flushed: bool,
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

    /// It serves, or is about to with what it came back with: it is the one that a later return is compared with.
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

    /// Who answered a new connection. Another process was never emptied.
    pub(super) fn meets(&mut self, life: Option<&Life>) {
        let Some(life) = life else { return };
        self.flushed &= self.life.as_ref().is_some_and(|before| before.is_same(life));
        self.life = Some(life.clone());
    }

    /// What traffic saw since the last sample, if it saw a failure or was told of one.
    pub(super) fn news(&mut self, evidence: &Evidence) -> Option<Traffic> {
        let counts = Failure::ALL.map(|kind| evidence.count(kind));
        let new = std::array::from_fn(|i| counts[i] - self.counts[i]);
        self.counts = counts;
        let replies = ErrorReply::ALL.map(|kind| evidence.replies(kind));
        let said = std::array::from_fn(|i| replies[i] - self.said[i]);
        self.said = replies;
        let traffic = Traffic { new, said, streak: evidence.streak() };
        (new.iter().any(|n| *n > 0) || traffic.is_doubtful()).then_some(traffic)
    }
}

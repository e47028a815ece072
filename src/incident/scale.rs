//! Explanations and their weights: what is told of them, and how sure it is. Pure.

use std::sync::Arc;

use super::{Diagnosis, Place, Subject, What, sentence::sentence};
use crate::health::Sighting;

/// The weight that always goes to none of them.
const DOUBT: f64 = 0.5;
/// A diagnosis has at least so much weight, or there is none.
const WEIGHT_MIN: f64 = 3.0;
/// Rivals below this confidence are not told.
const CONFIDENCE_MIN: f64 = 0.05;
/// Those that are told.
const TOLD: usize = 3;

/// Explanations and their weights.
#[derive(Default)]
pub(super) struct Scale(Vec<Weight>);

struct Weight {
    place: Place,
    what: What,
    weight: f64,
    evidence: Vec<Arc<str>>,
}

impl Scale {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, place: Place, what: What, weight: f64, sign: impl Into<Arc<str>>) {
        let sign = sign.into();
        let at = self.0.iter().position(|w| (w.place, w.what) == (place, what)).unwrap_or_else(|| {
            self.0.push(Weight { place, what, weight: 0.0, evidence: Vec::new() });
            self.0.len() - 1
        });
        self.0[at].weight += weight;
        if !sign.is_empty() {
            self.0[at].evidence.push(sign);
        }
    }

    /// What is explained by something else weighs less.
    pub(super) fn explain_away(&mut self, factor: f64, is_explained: impl Fn(Place, What) -> bool) {
        for weight in self.0.iter_mut().filter(|w| is_explained(w.place, w.what)) {
            weight.weight *= factor;
        }
    }

    pub(super) fn read(mut self, subject: &Subject<'_>, seen: &Sighting) -> Vec<Diagnosis> {
        self.0.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        if self.0.first().is_none_or(|first| first.weight < WEIGHT_MIN) {
            return Vec::new();
        }
        let all: f64 = self.0.iter().map(|w| w.weight).sum::<f64>() + DOUBT;
        let told = self.0.into_iter().map(|w| Diagnosis {
            place: w.place,
            what: w.what,
            confidence: (w.weight / all * 100.0).round() / 100.0,
            text: sentence(subject, seen, w.place, w.what).into(),
            evidence: w.evidence,
        });
        told.filter(|d| d.confidence >= CONFIDENCE_MIN).take(TOLD).collect()
    }
}

//! When faults stop: all that is well again must be in its place within a bound, and stay there.

use super::*;

/// A node that is well is cleaned within this, step by step.
const CLEANED_WITHIN: Duration = Duration::from_secs(80);

impl World {
    pub(super) fn heal(&mut self) -> Result<(), Breach> {
        self.tell(|| "faults stop".to_owned());
        for i in 0..self.bodies.len() {
            self.cut(i, false)?;
            self.turn(i, Truth::Up)?;
        }
        if let Some(gutter) = &mut self.gutter {
            gutter.now = self.now;
            gutter.heal()?;
        }
        self.follow_gutter()
    }

    /// Whoever is not ordered out owns again within a bound, and then nothing happens any more.
    pub(super) fn recover(&mut self) -> Result<(), Breach> {
        let healed = self.now;
        let of_gutter = self.gutter.as_ref().map(|gutter| gutter.back_within());
        let deadline = healed + self.back_within().max(of_gutter.unwrap_or_default());
        while !self.is_settled() {
            self.next()?;
            holds(Law::Returns, self.now <= deadline, || {
                let waits = |e: &&Entry| e.placement != Placement::Owns;
                let who: Vec<_> = self.topology.nodes.iter().filter(waits).map(|e| &e.node.name).collect();
                format!("all is well for {:?}, and {who:?} do not serve", self.now - healed)
            })?;
        }
        self.stats.recovery(self.now - healed);
        let epoch = self.topology.epoch;
        let calm = self.now + self.spec.health.interval * 3;
        while self.now < calm {
            self.next()?;
        }
        holds(Law::Returns, self.is_settled() && self.topology.epoch == epoch, || {
            format!("all is well, and epoch {} came after {epoch}", self.topology.epoch)
        })?;
        // What a node came back with that is out by hand is remembered until it is let back.
        let is_out = |e: &Entry| e.order.is_some_and(Order::is_out);
        let is_forgotten = self.ledger.is_empty() || self.topology.nodes.iter().any(is_out);
        holds(Law::Returns, is_forgotten, || "nobody is out, and the ledger is not empty".to_owned())?;
        holds(Law::Map, self.laws.is_whole(&self.topology), || "a key is not where it was".to_owned())
    }

    fn is_settled(&self) -> bool {
        let is_in_place = |e: &Entry| e.placement == Placement::Owns || e.order.is_some_and(Order::is_out);
        let nodes = &self.topology.nodes;
        let of_leftovers =
            |news: &News| matches!(news, News::Sweeping | News::Swept { .. } | News::NotSwept { .. });
        self.gutter.as_ref().is_none_or(|gutter| gutter.is_settled())
            && self.inbox.iter().all(|(_, (_, news), _)| of_leftovers(news))
            && self.prepared.is_none()
            && nodes.iter().all(|e| e.health == Health::Healthy && is_in_place(e))
    }

    /// The last wait of one that flaps, its probes, and for each that is cold a window, or one for each step
    /// in which it takes its keys.
    fn back_within(&self) -> Duration {
        let health = &self.spec.health;
        let probes = (health.interval * 2) * (health.rise + 2) + health.timeout;
        let policy = &self.spec.policy;
        let steps = if policy.slow_start.is_zero() { 1 } else { 16 };
        let windows = policy.warmth.window * (self.bodies.len() as u32 * steps + 1);
        let start = policy.slow_start + policy.ttl_max.unwrap_or_default() * 2 + CLEANED_WITHIN;
        probes + health.flap_max + policy.hold_down + windows + start + DELAY * 4
    }
}

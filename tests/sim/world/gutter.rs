//! The pool that serves the keys of nodes that are away: a world of its own, in the same time.

use ringway::membership::{follow, is_gutter_of};

use super::*;

impl World {
    /// Whether what happens next happens to the gutter.
    pub(super) fn is_gutters_turn(&self) -> bool {
        let due = |world: &World| world.queue.peek().map(|Reverse((at, ..))| *at);
        self.gutter.as_ref().is_some_and(|gutter| due(gutter) < due(self))
    }

    pub(super) fn next_of_gutter(&mut self) -> Result<(), Breach> {
        let Some(gutter) = &mut self.gutter else { return Ok(()) };
        if self.story.is_some() {
            gutter.story.get_or_insert_default();
        }
        let happened = gutter.next();
        self.now = gutter.now;
        if let (Some(told), Some(story)) = (&mut gutter.story, &mut self.story) {
            story.extend(told.drain(..).map(|line| format!("{line} (gutter)")));
        }
        happened?;
        self.follow_gutter()
    }

    /// The gutter has another topology.
    pub(super) fn follow_gutter(&mut self) -> Result<(), Breach> {
        let gutter = self.gutter.as_ref().map(|gutter| gutter.topology.clone());
        let gutter = gutter.filter(|gutter| is_gutter_of(&self.topology.policy, gutter));
        match follow(&self.topology, &self.ledger, gutter, self.now) {
            Outcome::Publish(step) => {
                self.stats.followed += 1;
                self.publish(*step, Reason::Gutter)
            }
            _ => Ok(()),
        }
    }

    /// The server of an index, be it the gutter's.
    pub(super) fn body(&self, at: usize) -> &Body {
        match (&self.gutter, at.checked_sub(self.topology.nodes.len())) {
            (Some(gutter), Some(at)) => gutter.body(at),
            _ => &self.bodies[self.body_at[at]],
        }
    }

    pub(super) fn body_mut(&mut self, at: usize) -> &mut Body {
        match (&mut self.gutter, at.checked_sub(self.topology.nodes.len())) {
            (Some(gutter), Some(at)) => gutter.body_mut(at),
            _ => &mut self.bodies[self.body_at[at]],
        }
    }
}

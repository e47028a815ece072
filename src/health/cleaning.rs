//! Nodes that are back are cleaned: when their keys are fenced off and nothing is in flight any more, what
//! is old is deleted, and membership is told.

use tokio::task::JoinError;

use super::{
    Patient, Ward,
    quarantine::{self, Cleaned, Done},
    sweep,
};
use crate::topology::{Change, Data, LEVELS, NodeId, NotedWrites};

impl Ward {
    /// Nothing is in flight any more that could write to keys which a node waits for.
    pub(super) fn begin_cleaning(
        &mut self,
        waited: Result<(NodeId, bool), JoinError>,
        noted: &mut NotedWrites,
    ) -> Vec<Change> {
        let Ok((node, is_over)) = waited else { return Vec::new() };
        let topology = self.reader.load();
        if !is_over {
            self.quarantine.dropped(node);
            tracing::warn!(pool = %topology.pool, "a node that is back waits: requests are in flight for long");
            return vec![Change::NotCleaned { pool: topology.pool.clone(), node }];
        }
        self.quarantine.remember(std::iter::from_fn(|| noted.here()), &topology);
        self.quarantine.follow(&topology, noted.missed());
        if self.quarantine.has_left(node) {
            // It was waited for what was in flight before another return than this one.
            self.quarantine.dropped(node);
            return vec![Change::NotCleaned { pool: topology.pool.clone(), node }];
        }
        let data = self.patients.get(&node).map_or(Data::Unknown, Patient::brings);
        match self.quarantine.plan(&topology, node, data) {
            Some(cleaning) => drop(self.cleanings.spawn(quarantine::clean(cleaning))),
            None => self.quarantine.dropped(node),
        }
        Vec::new()
    }

    /// What came of a cleaning.
    pub(super) fn end_cleaning(&mut self, ended: Result<Cleaned, JoinError>) -> Vec<Change> {
        let Ok(mut cleaned) = ended else { return Vec::new() };
        let topology = self.reader.load();
        if self.quarantine.has_left(cleaned.node) {
            cleaned.done = Err("it left meanwhile".to_owned());
        }
        self.quarantine.ended(&topology, &cleaned);
        let (pool, node) = (topology.pool.clone(), cleaned.node);
        match cleaned.done {
            Ok(done) => {
                let is_empty = matches!(done, Done::Emptied | Done::WasEmpty);
                let below = if is_empty { LEVELS } else { cleaned.below };
                if is_empty {
                    self.sweep_after(node);
                }
                vec![Change::Cleaned { pool, node, below, how: done.to_string().into() }]
            }
            Err(why) => {
                let name = topology.position(node).map(|at| topology.nodes[at].node.name.clone());
                tracing::warn!(%pool, node = name.as_deref(), why, "a node that is back can't be cleaned now");
                vec![Change::NotCleaned { pool, node }]
            }
        }
    }

    /// Deletes what others took for a node, once it owns its keys.
    pub(super) fn sweep_after(&mut self, node: NodeId) {
        // What is under way is for a topology that was.
        self.sweeps.abort_all();
        self.sweeps.spawn(sweep::after_return(self.reader.clone(), node));
    }
}

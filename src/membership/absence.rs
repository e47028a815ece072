//! WHAT THE NEXT PROCESS HAS TO KNOW. Who begins with nothing takes every node that answers for one that has been in its
//! place all along. So what is not is said here, in a form that a file can keep: a pool that begins with it holds such
//! nodes off until they are clean, and operators' orders are obeyed on. Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::topology::{Entry, Health, Order, Placement, Topology};

/// What is to be remembered of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// Others have its keys, or some of them, or it has not been cleaned since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    /// What an operator wants of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// The nodes of a pool of which something is to be remembered, by their names.
pub type Absences = BTreeMap<Arc<str>, Absence>;

/// What is to be remembered of a pool.
pub fn absences(topology: &Topology) -> Absences {
    let of = |entry: &Entry| {
        let away = matches!(entry.placement, Placement::Away | Placement::Starting(_));
        Absence { away, order: entry.order }
    };
    let all = topology.nodes.iter().map(|entry| (entry.node.name.clone(), of(entry)));
    all.filter(|(_, absence)| *absence != Absence::default()).collect()
}

/// Puts nodes where they were: those that were away are out until they have proved themselves, and are then received
/// like any that was away.
pub fn recall(topology: &mut Topology, absences: &Absences) {
    if absences.is_empty() {
        return;
    }
    let recalled = |entry: &Entry| {
        let Some(absence) = absences.get(&entry.node.name) else { return entry.clone() };
        let order = absence.order;
        let mut entry = Entry { order, ..entry.clone() };
        if absence.away {
            entry.placement = Placement::Away;
            // Who is out by hand may be in the best of health.
            if !order.is_some_and(Order::is_out) {
                entry.health = Health::Ejected;
            }
        }
        entry
    };
    topology.nodes = topology.nodes.iter().map(recalled).collect();
}

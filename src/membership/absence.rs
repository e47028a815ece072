//! WHAT THE NEXT PROCESS HAS TO KNOW. Who begins with nothing takes every node that answers for one that has
//! been in its place all along. So what is not is said here, in a form that a file can keep: a pool that
//! begins with it holds such nodes off until they are clean, and operators' orders are obeyed on. Pure.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::topology::{Entry, Health, Leftovers, NodeId, Order, Placement, Topology};

/// What is to be remembered of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// Others have had its keys, or some of them, and it has not been cleaned since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub away: bool,
    /// Others may have old copies of its keys, and have not been looked through since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leftovers: bool,
    /// What an operator wants of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// The nodes of a pool of which something is to be remembered, by their names.
pub type Absences = BTreeMap<Arc<str>, Absence>;

/// What the file that keeps them is a version of.
const VERSION: u32 = 1;

/// What is in that file (`state_file`): pool by pool.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    version: u32,
    /// The pools of which something is to be remembered.
    pub pools: BTreeMap<Arc<str>, Absences>,
}

impl Remembered {
    /// What is to be written of these pools.
    pub fn of(pools: BTreeMap<Arc<str>, Absences>) -> Remembered {
        Remembered { version: VERSION, pools }
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// It is something else, or of another version.
    pub fn read(text: &[u8]) -> io::Result<Remembered> {
        let read: Remembered = serde_json::from_slice(text)?;
        if read.version != VERSION {
            let text =
                format!("it is of version {}, and this ringway writes version {VERSION}", read.version);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(read)
    }
}

/// Why ringway does not start with a state file that it can't read, and how it does. Without what it says,
/// nodes that were away would be taken as they are, with old values; to empty all of a cache instead would be
/// worse.
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    format!(
        "state_file {path}: can't read it: {error}; it says which nodes were away and may have old data. Mend it, or set it \
         aside (`mv {path} {path}.bad`): then first empty the nodes that were away or drained, as all are taken as they are"
    )
}

/// What is to be remembered of a pool, of which this was before. Where no keys move nobody else has any.
pub fn absences(topology: &Topology, before: &Absences) -> Absences {
    let left: HashSet<NodeId> = topology.leftovers.iter().map(|left| left.node).collect();
    let of = |entry: &Entry| {
        let away = match entry.placement {
            Placement::Owns => false,
            Placement::Away | Placement::Starting(_) => true,
            // One that had its keys keeps them; one that was not clean is no cleaner for it.
            Placement::Held => before.get(&entry.node.name).is_some_and(|absence| absence.away),
        };
        Absence {
            away: away && topology.policy.moves_keys(),
            leftovers: left.contains(&entry.node.id) && topology.policy.minds_old_copies(),
            order: entry.order,
        }
    };
    let all = topology.nodes.iter().map(|entry| (entry.node.name.clone(), of(entry)));
    all.filter(|(_, absence)| *absence != Absence::default()).collect()
}

/// Puts nodes where they were: those that were away are out until they have proved themselves, and are then
/// received like any that was away. For those of whose keys others may have old copies these are looked
/// through.
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
    let is_left = |e: &&Entry| absences.get(&e.node.name).is_some_and(|absence| absence.leftovers);
    let left = topology.nodes.iter().filter(|_| topology.policy.minds_old_copies()).filter(is_left);
    let mut left: Vec<Leftovers> = left.map(|e| Leftovers { node: e.node.id, turn: 0 }).collect();
    left.sort_unstable();
    topology.leftovers = left.into();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        membership::tests::{Planned, owners, spec},
        topology::{Data, News, OnEjected, OnReturn, Policy},
    };

    /// A pool whose next process knows this.
    fn recalled(weights: &[u32], known: &[(&str, Absence)]) -> Planned {
        let mut spec = spec(weights, 0.5);
        let policy = (*spec.policy).clone();
        spec.policy = Arc::new(Policy { on_return: OnReturn::Quarantine, sole_writer: true, ..policy });
        let mut pool = Planned::new(&spec);
        let absences = known.iter().map(|(node, absence)| (Arc::from(*node), *absence)).collect();
        recall(&mut pool.topology, &absences);
        let time = pool.time;
        pool.ledger.recall(&pool.topology, time);
        pool.budget();
        pool
    }

    const AWAY: Absence = Absence { away: true, leftovers: false, order: None };

    fn serves(pool: &Planned, node: &str) -> bool {
        owners(&pool.topology).iter().any(|owner| owner.as_deref() == Some(node))
    }

    fn cleaned() -> News {
        News::Cleaned { below: crate::topology::LEVELS, leftovers: false, emptied: true, how: "".into() }
    }

    /// Who was away serves nothing before it is clean, also where nobody else is left to serve.
    #[test]
    fn who_was_away_is_cleaned_first() {
        for weights in [&[1][..], &[1, 1], &[1, 1, 1]] {
            let names: Vec<String> = (0..weights.len()).map(|i| format!("n{i}")).collect();
            let known: Vec<(&str, Absence)> = names.iter().map(|name| (&**name, AWAY)).collect();
            let mut pool = recalled(weights, &known);
            for name in &names {
                assert!(!serves(&pool, name), "{name} of {}", names.len());
                pool.restore_with(name, Data::Unknown);
                assert!(!serves(&pool, name), "{name} of {} is not clean", names.len());
                pool.news(name, cleaned());
                assert!(serves(&pool, name), "{name} of {}", names.len());
            }
        }
    }

    /// What others may have of a node's keys is looked for by the next process, too, and until that is done
    /// they are not given to these. What is looked for no more, or minded no more, is not remembered.
    #[test]
    fn leftovers_are_looked_for_on() {
        let left = Absence { leftovers: true, ..Absence::default() };
        let mut pool = recalled(&[1, 1, 1], &[("n1", left)]);
        let known: Absences = [("n1".into(), left)].into();
        assert_eq!(absences(&pool.topology, &Absences::new()), known);
        assert!(serves(&pool, "n1"));
        let serve = Arc::new(Policy { on_return: OnReturn::Serve, ..(*pool.topology.policy).clone() });
        let minds_none = Topology { policy: serve, ..pool.topology.clone() };
        assert_eq!(absences(&minds_none, &known), Absences::new());
        pool.eject("n1");
        assert_eq!(pool.entry("n1").placement, Placement::Held);
        pool.swept("n1");
        assert_eq!(pool.entry("n1").placement, Placement::Away);
        assert_eq!(absences(&pool.topology, &known), [("n1".into(), AWAY)].into());
    }

    /// An order is carried out without anybody telling something; of the last node it can't be.
    #[test]
    fn orders_are_carried_out() {
        let drained = Absence { order: Some(Order::Drain), ..AWAY };
        let pool = recalled(&[1, 1, 1], &[("n1", drained)]);
        assert_eq!(pool.entry("n1").placement, Placement::Away);
        assert_eq!(absences(&pool.topology, &Absences::new()), [("n1".into(), drained)].into());
        let ordered = Absence { away: false, ..drained };
        assert_eq!(recalled(&[1, 1], &[("n1", ordered)]).entry("n1").placement, Placement::Away);
        let mut pool = recalled(&[1], &[("n0", drained)]);
        assert!(
            matches!(pool.entry("n0").placement, Placement::Starting(to) if to.is_fenced()),
            "it is to be cleaned"
        );
        pool.news("n0", cleaned());
        assert_eq!(pool.entry("n0").placement, Placement::Owns);
    }

    /// A node that is held keeps what it had: it was away if it was so before. Where no keys move nobody is.
    #[test]
    fn what_is_remembered() {
        let mut pool = recalled(&[1, 1, 1], &[("n1", AWAY)]);
        let known: Absences = [("n1".into(), AWAY)].into();
        assert_eq!(absences(&pool.topology, &Absences::new()), known);
        let hold = |topology: &mut Topology| {
            let held = |e: &Entry| Entry { placement: Placement::Held, ..e.clone() };
            topology.nodes = topology.nodes.iter().map(held).collect();
        };
        hold(&mut pool.topology);
        assert_eq!(absences(&pool.topology, &known), known);
        assert_eq!(absences(&pool.topology, &Absences::new()), Absences::new());
        let mut pool = recalled(&[1, 1, 1], &[("n1", AWAY)]);
        let policy = (*pool.topology.policy).clone();
        pool.topology.policy = Arc::new(Policy { on_ejected: OnEjected::Fail, ..policy });
        assert_eq!(absences(&pool.topology, &known), Absences::new());
    }
}

//! WHAT A RELOAD OWES. A node for which others took writes has old values until it is cleaned on its way
//! back: a reload after which its keys stay with it would have it serve them as they are, so it has to wait
//! for that. And who had keys that a reload moves has them still: should their new owner fail, or lose them
//! to another reload, these would be read, so they are deleted first. Pure.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use super::{build::Prepared, ledger::Ledger};
use crate::topology::{Entry, NodeId, OnReturn, Placement, Policy, Topology};

/// Why keys can't stay with their nodes yet, as this policy wants; `None` when they can. The nodes are those
/// that stay in the pool, placed as they are now.
pub(super) fn owed(now: &Topology, ledger: &Ledger, nodes: &[Entry], policy: &Policy) -> Option<String> {
    if now.policy.on_return == OnReturn::Serve || !any_stays(&now.policy, policy) {
        return None;
    }
    let owes = |e: &&Entry| !is_in_its_place(e, ledger);
    let mut owing = nodes.iter().filter(owes);
    let first = &owing.next()?.node.name;
    let which = match owing.count() {
        0 => format!("node {first} is not back"),
        more => format!("node {first} and {more} more are not back"),
    };
    Some(format!(
        "pool {}: {which} in its place, and others have taken writes for its keys, which can't stay with it before \
         (on_ejected): reload again when it is, leave it out, or put on_return: serve in force first",
        now.pool
    ))
}

/// Whether any keys that go elsewhere now when their node is ejected would not.
fn any_stays(before: &Policy, after: &Policy) -> bool {
    examples(before, after)
        .any(|key| before.on_ejected_for(key).moves() && !after.on_ejected_for(key).moves())
}

/// Why a reload can't take keys from their owners yet: others may have old values of them, and could be the
/// ones who get them. `None` when it can.
pub(super) fn not_swept(
    now: &Topology,
    ledger: &Ledger,
    prepared: &Prepared,
    time: Instant,
) -> Option<String> {
    if !prepared.spec.policy.minds_old_copies() || prepared.moves.is_empty() {
        return None;
    }
    let here: HashSet<&str> = now.nodes.iter().map(|e| &*e.node.name).collect();
    // Who is new is emptied first.
    let to_old = prepared.moves.iter().filter(|m| m.to.as_deref().is_some_and(|to| here.contains(to)));
    let givers: HashSet<&str> = to_old.filter_map(|m| m.from.as_deref()).collect();
    let gives = now.nodes.iter().filter(|e| givers.contains(&*e.node.name));
    let (name, until) = gives
        .filter_map(|e| Some((&e.node.name, ledger.debts.copies_until(e.node.id, time)?)))
        .max_by_key(|(_, u)| *u)?;
    Some(format!(
        "pool {}: other nodes may have old values of keys that are node {name}'s now and would not be any more: reload \
         again when these are deleted, or have expired, in {} s at most, or put on_return: serve in force first",
        now.pool,
        (until - time).as_secs() + 1
    ))
}

/// Remembers of whose keys others have old values from now on: of those to whom the reload gives any, and of
/// those that come in the place of a node for which others took writes.
pub(super) fn gains(
    now: &Topology,
    ledger: &mut Ledger,
    (prepared, nodes): (&Prepared, &[Entry]),
    time: Instant,
) {
    let policy = &prepared.spec.policy;
    let before: HashMap<&str, &Entry> = now.nodes.iter().map(|e| (&*e.node.name, e)).collect();
    for entry in nodes {
        // What others have of a node's keys they have whatever server is behind its name.
        if let Some(old) = before.get(&*entry.node.name).filter(|old| old.node.address != entry.node.address)
        {
            ledger.debts.succeeds(old.node.id, entry.node.id);
        }
    }
    if !policy.minds_old_copies() {
        return;
    }
    let stays: HashSet<&str> = nodes.iter().map(|e| &*e.node.name).collect();
    // Who leaves takes what it has along, and not what others have of its keys.
    let leaves_some = |name: &str| before.get(name).is_some_and(|e| ledger.debts.others_have_some(e.node.id));
    let is_left = |name: &str| stays.contains(name) || leaves_some(name);
    let of_those = prepared.moves.iter().filter(|m| m.from.as_deref().is_some_and(is_left));
    let takers: HashSet<&str> = of_those.filter_map(|m| m.to.as_deref()).collect();
    let comes_for = |entry: &Entry, ledger: &Ledger| {
        let old = before.get(&*entry.node.name);
        old.is_some_and(|old| old.node.address != entry.node.address && !is_in_its_place(old, ledger))
    };
    if let Some(over) = now.policy.failover.as_ref().filter(|_| now.policy.fails_over()) {
        // The gutter has what it took for those whose keys these were, be they there still or not.
        let is_out = |name: &str| before.get(name).is_some_and(|e| e.placement != Placement::Owns);
        let of_those = prepared.moves.iter().filter(|m| m.from.as_deref().is_some_and(is_out));
        let takers: HashSet<&str> = of_those.filter_map(|m| m.to.as_deref()).collect();
        let has_any = |e: &&Entry| takers.contains(&*e.node.name) || comes_for(e, ledger);
        let takers: Vec<NodeId> = nodes.iter().filter(has_any).map(|e| e.node.id).collect();
        takers.into_iter().for_each(|id| ledger.debts.gutter_took(id, time + over.ttl_max));
    }
    // While nodes were served as they were nobody looked for what others had taken for them.
    let all = now.policy.on_return == OnReturn::Serve;
    let gaining = nodes.iter().filter(|e| all || takers.contains(&*e.node.name) || comes_for(e, ledger));
    let gaining: Vec<NodeId> = gaining.map(|e| e.node.id).collect();
    gaining.into_iter().for_each(|id| ledger.debts.others_had(id, policy, time));
}

/// Whether nobody else has taken writes for a node since it had all its keys.
pub(super) fn is_in_its_place(entry: &Entry, ledger: &Ledger) -> bool {
    match entry.placement {
        Placement::Owns => true,
        Placement::Held => !ledger.debts.has_missed(entry.node.id),
        Placement::Away | Placement::Starting(_) => false,
    }
}

/// Keys of which each has the same policies as many others, and together as all: of those for which the same
/// two prefixes decide the longer one is an example.
pub(super) fn examples<'a>(before: &'a Policy, after: &'a Policy) -> impl Iterator<Item = &'a [u8]> {
    before.prefixes.iter().chain(&after.prefixes).map(|p| &*p.prefix).chain([&[][..]])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        membership::{
            Outcome, Permit, PoolSpec, reload,
            tests::{Planned, spec, told},
        },
        topology::{Data, OnEjected, PrefixPolicy},
    };

    fn pool(on_ejected: OnEjected, on_return: OnReturn, prefixes: &[(&str, OnEjected)]) -> PoolSpec {
        let mut spec = spec(&[1, 1, 1, 1], 0.5);
        let prefix = |(prefix, on_ejected): &(&str, OnEjected)| PrefixPolicy {
            prefix: prefix.as_bytes().into(),
            on_ejected: *on_ejected,
        };
        let prefixes = prefixes.iter().map(prefix).collect();
        spec.policy = Arc::new(Policy { on_ejected, on_return, prefixes, ..(*spec.policy).clone() });
        spec
    }

    fn refusal(pool: &Planned, spec: PoolSpec) -> Option<String> {
        let permit = Permit { max_share: 1.0, yes: true, time: pool.time };
        match reload(&pool.topology, &pool.ledger, &pool.prepare(spec), &pool.births, &permit) {
            Outcome::Refused { why } => Some(why),
            _ => None,
        }
    }

    /// While a node is away, or is being cleaned, its keys can't be told to stay with it: it has old values.
    /// They can when it is back or leaves, and where old values are served anyhow.
    #[test]
    fn keys_stay_when_their_node_is_clean() {
        use OnEjected::{Fail, Miss, Rehash};
        use OnReturn::{Quarantine, Serve};
        let mut planned = Planned::new(&pool(Rehash, Quarantine, &[]));
        assert_eq!(refusal(&planned, pool(Fail, Serve, &[])), None, "all are there");
        planned.eject("n1");
        let why = refusal(&planned, pool(Fail, Serve, &[])).expect("n1 is away");
        assert!(why.starts_with("pool cache: node n1 is not back in its place"), "{why}");
        assert!(refusal(&planned, pool(Miss, Serve, &[])).is_some());
        let mut without = pool(Fail, Serve, &[]);
        without.nodes.retain(|node| &*node.name != "n1");
        assert_eq!(refusal(&planned, without), None, "it leaves");
        assert_eq!(refusal(&planned, pool(Rehash, Serve, &[])), None, "its keys go on elsewhere");
        planned.restore_with("n1", Data::Same);
        assert!(planned.entry("n1").placement != Placement::Owns, "it is cleaned");
        assert!(refusal(&planned, pool(Fail, Serve, &[])).is_some());
        planned.reload(pool(Rehash, Serve, &[]));
        assert_eq!(refusal(&planned, pool(Fail, Serve, &[])), None, "the operator takes what it has");
    }

    /// The same goes for some of the keys.
    #[test]
    fn some_keys_stay() {
        use OnEjected::{Fail, Rehash};
        let of = |on_ejected, prefixes: &[_]| pool(on_ejected, OnReturn::Quarantine, prefixes);
        for (before, after, is_owed) in [
            (of(Rehash, &[]), of(Rehash, &[("s:", Fail)]), true),
            (of(Rehash, &[]), of(Fail, &[("s:", Rehash)]), true),
            (of(Fail, &[("s:", Rehash)]), of(Fail, &[("s:", Rehash), ("s:a", Fail)]), true),
            (of(Fail, &[("s:", Rehash), ("s:a", Fail)]), of(Fail, &[("s:", Rehash)]), false),
            (of(Rehash, &[("s:", Fail)]), of(Rehash, &[]), false),
            (of(Rehash, &[("s:", Fail)]), of(Rehash, &[("s:", Fail), ("t:", Rehash)]), false),
        ] {
            let mut planned = Planned::new(&before);
            planned.eject("n1");
            let refused = refusal(&planned, after.clone());
            assert_eq!(refused.is_some(), is_owed, "{:?} to {:?}", before.policy, after.policy);
        }
    }

    /// Keys that wait for the warmth budget are with their node: they stay there, and are not told to be let
    /// go.
    #[test]
    fn held_keys_stay() {
        let mut frugal = pool(OnEjected::Rehash, OnReturn::Serve, &[]);
        let policy = Arc::make_mut(&mut frugal.policy);
        policy.warmth.share = 0.25;
        let mut planned = Planned::new(&frugal);
        planned.eject("n1");
        assert_eq!(told(planned.eject("n2")), ["held n2"]);
        let mut fails = frugal.clone();
        Arc::make_mut(&mut fails.policy).on_ejected = OnEjected::Fail;
        assert_eq!(told(planned.reload(fails)), ["reloaded", "stays n2"]);
        assert_eq!(told(planned.restore_with("n2", Data::Same)), ["restored n2"]);
    }

    /// What others have of keys from while nodes were served as they were is minded when they are not any
    /// more.
    #[test]
    fn what_serve_left_behind() {
        use OnEjected::Rehash;
        use OnReturn::{Quarantine, Serve};
        let heavier = |on_return| {
            let mut spec = pool(Rehash, on_return, &[]);
            spec.nodes[0].weight = 2;
            spec
        };
        let mut planned = Planned::new(&pool(Rehash, Serve, &[]));
        assert_eq!(refusal(&planned, heavier(Serve)), None);
        planned.reload(pool(Rehash, Quarantine, &[]));
        assert_eq!(planned.topology.leftovers.len(), 4, "it is to be looked for");
        let why = refusal(&planned, heavier(Quarantine)).expect("nobody has looked yet");
        assert!(why.starts_with("pool cache: other nodes may have old values of keys"), "{why}");
        assert_eq!(refusal(&planned, heavier(Serve)), None);
    }
}

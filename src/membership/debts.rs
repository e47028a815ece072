//! THE LEDGER OF DEBTS: who may have old copies of whose keys, since when or until when, and how that ends.
//! Where keys move others take writes for a node that is away, so it has old copies itself until it is
//! cleaned; and those that took them have old copies once it is back, as have those from whom a reload took
//! keys, until these are deleted there, or have expired. Pure.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::topology::{Entry, Leftovers, NodeId, OnReturn, Placement, Policy};

/// What is owed to the nodes of a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Debts {
    /// By the node whose keys these are.
    of: HashMap<NodeId, Owed>,
    /// Until then others may have what was written when it was allowed to live longer.
    longer_until: Option<Instant>,
    /// Nodes for which the gutter has taken writes since all of its nodes were well, or shortly before.
    in_gutter: HashSet<NodeId>,
    /// Counts what others may have.
    turn: u64,
}

/// Who may have old copies of one node's keys.
#[derive(Clone, Debug, Default)]
struct Owed {
    /// It has, itself, of what others have taken since then: until it is clean and has all its keys.
    missed: Option<Instant>,
    /// Other nodes of the pool have.
    others: Option<Others>,
    /// The gutter has: nobody looks there, so until they have expired.
    gutter: Option<Instant>,
}

/// What other nodes of a pool may have of one node's keys.
#[derive(Clone, Copy, Debug)]
struct Others {
    /// They have none any more then, or nobody knows better.
    until: Instant,
    turn: u64,
    /// They are to be looked through, and nobody has given that up.
    is_due: bool,
}

/// How it ends that others have old copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// These are looked for and deleted.
    Swept,
    /// In time, by themselves.
    Expired,
}

/// So long after it was last told that they are looked through others may have what they took for a node:
/// longer than a node that can't be looked through is tried.
const SWEEP_MAX: Duration = Duration::from_secs(120);

/// How long nodes of the pool may have what is another's.
fn sweep_max(policy: &Policy) -> Duration {
    match policy.on_return {
        OnReturn::Ttl => policy.ttl_max.unwrap_or(SWEEP_MAX),
        _ => policy.ttl_max.unwrap_or(SWEEP_MAX).min(SWEEP_MAX),
    }
}

impl Owed {
    fn others_until(&self) -> Option<Instant> {
        self.others.map(|others| others.until)
    }
}

impl Debts {
    /// The process before this one did not come to look through others for these.
    pub(super) fn recall(&mut self, leftovers: &[Leftovers], policy: &Policy, time: Instant) {
        for Leftovers { node, turn } in leftovers {
            let others = Others { until: time + sweep_max(policy), turn: *turn, is_due: true };
            self.of.entry(*node).or_default().others = Some(others);
        }
    }

    /// A node gives up its keys: from now on others take its writes.
    pub(super) fn misses_writes(&mut self, node: NodeId, time: Instant) {
        let owed = self.of.entry(node).or_default();
        if owed.missed.is_none() {
            owed.missed = Some(time);
            // What others serve for it from now on is not deleted, be it old or new.
            if let Some(others) = &mut owed.others {
                self.turn += 1;
                others.turn = self.turn;
            }
        }
    }

    /// Others took writes for a node that comes back, and it is not known key by key which.
    pub(super) fn others_took(&mut self, node: NodeId, policy: &Policy, end: End, time: Instant) {
        // Its last keys come back that much later, and others are not looked at before.
        let time = time + policy.slow_start;
        if policy.rehashes() {
            self.others_have(node, end, time + sweep_max(policy));
        }
        if let Some(over) = policy.failover.as_ref().filter(|_| policy.fails_over()) {
            self.gutter_took(node, time + over.ttl_max);
        }
    }

    /// Others take writes for a node that starts, for longer than was said. They are looked through once it
    /// has its keys, so that this is no new turn.
    pub(super) fn others_take_on(&mut self, node: NodeId, policy: &Policy, end: End, time: Instant) {
        let until = self.at_least(time + policy.slow_start + sweep_max(policy));
        let others = self.of.get_mut(&node).and_then(|owed| owed.others.as_mut());
        let Some(others) = others.filter(|_| policy.rehashes()) else {
            return self.others_took(node, policy, end, time);
        };
        others.until = others.until.max(until);
        if let Some(over) = policy.failover.as_ref().filter(|_| policy.fails_over()) {
            self.gutter_took(node, time + policy.slow_start + over.ttl_max);
        }
    }

    /// The gutter took writes for a node, or others of what is its own now; these have expired then.
    pub(super) fn gutter_took(&mut self, node: NodeId, until: Instant) {
        let until = self.at_least(until);
        let owed = self.of.entry(node).or_default();
        owed.gutter = owed.gutter.max(Some(until));
    }

    /// A reload gave a node keys of others, who have them still.
    pub(super) fn others_had(&mut self, node: NodeId, policy: &Policy, time: Instant) {
        self.others_have(node, End::Swept, time + sweep_max(policy));
    }

    fn others_have(&mut self, node: NodeId, end: End, until: Instant) {
        let until = self.at_least(until);
        self.turn += 1;
        let owed = self.of.entry(node).or_default();
        let before = owed.others;
        owed.others = Some(Others {
            until: before.map_or(until, |before| before.until.max(until)),
            turn: self.turn,
            is_due: end == End::Swept || before.is_some_and(|before| before.is_due),
        });
    }

    fn at_least(&self, until: Instant) -> Instant {
        self.longer_until.map_or(until, |longer| longer.max(until))
    }

    /// A reload has what is written, to the gutter or to the pool's own nodes, live for a shorter time than
    /// what is there; whether that is so of the pool's own.
    pub(super) fn shortens(&mut self, before: &Policy, after: &Policy, time: Instant) -> bool {
        let mut lives_until = |longest| self.longer_until = self.longer_until.max(Some(time + longest));
        if let (Some(before), Some(after)) = (&before.failover, &after.failover)
            && before.pool == after.pool
            && before.ttl_max > after.ttl_max
        {
            lives_until(before.ttl_max);
        }
        let is_shorter =
            after.ttl_max.is_some_and(|after| before.ttl_max.is_none_or(|before| before > after));
        let own = is_shorter && after.minds_old_copies();
        if own {
            lives_until(sweep_max(before));
        }
        own
    }

    /// Nodes of the gutter go on that stood still: what lies in their sockets they write now, and it lives
    /// from now on.
    pub(super) fn gutter_goes_on(&mut self, ttl_max: Duration, time: Instant) {
        self.in_gutter.clone().into_iter().for_each(|node| self.gutter_took(node, time + ttl_max));
    }

    /// All nodes of the gutter are well: nothing lies in their sockets.
    pub(super) fn gutter_is_well(&mut self, nodes: &[Entry]) {
        let is_over = |id| nodes.iter().any(|e| e.node.id == id && e.placement != Placement::Owns);
        self.in_gutter.retain(|id| is_over(*id));
    }

    /// Others of the pool are looked through for copies of a node's keys, however long that takes; whether
    /// they may have any.
    pub(super) fn still_swept(&mut self, node: NodeId, policy: &Policy, time: Instant) -> bool {
        let others = self.of.get_mut(&node).and_then(|owed| owed.others.as_mut());
        let until = time + sweep_max(policy).min(SWEEP_MAX);
        others.map(|others| others.until = others.until.max(until)).is_some()
    }

    /// Others of the pool have no copies of a node's keys any more, unless they may have some anew since this
    /// turn; whether that was not known.
    pub(super) fn swept(&mut self, node: NodeId, turn: u64) -> bool {
        let others = self.of.get_mut(&node).map(|owed| &mut owed.others);
        others.and_then(|others| others.take_if(|others| others.turn == turn)).is_some()
    }

    /// They can't be looked through, and nobody tries that any more: for a while they may have some; whether
    /// that was not known.
    pub(super) fn not_swept(&mut self, node: NodeId, turn: u64) -> bool {
        let others = self.of.get_mut(&node).and_then(|owed| owed.others.as_mut());
        let others = others.filter(|others| others.turn == turn && others.is_due);
        others.map(|others| others.is_due = false).is_some()
    }

    /// Others are other ones than those that were looked through.
    pub(super) fn look_again(&mut self) {
        self.turn += 1;
        let others = self.of.values_mut().filter_map(|owed| owed.others.as_mut());
        others.for_each(|others| others.turn = self.turn);
    }

    /// Of whose keys others are to be looked through, if that is something else than before.
    pub(super) fn leftovers(&self, before: &Arc<[Leftovers]>) -> Arc<[Leftovers]> {
        let due = |(node, owed): (&NodeId, &Owed)| {
            let others = owed.others.filter(|others| others.is_due)?;
            Some(Leftovers { node: *node, turn: others.turn })
        };
        let mut leftovers: Vec<Leftovers> = self.of.iter().filter_map(due).collect();
        leftovers.sort_unstable();
        if **before == *leftovers { before.clone() } else { leftovers.into() }
    }

    /// Whether others of the pool may have old copies of a node's keys, as far as anybody looked.
    pub(super) fn others_have_some(&self, node: NodeId) -> bool {
        self.of.get(&node).is_some_and(|owed| owed.others.is_some())
    }

    /// Whether others are to be looked through for any node.
    pub(super) fn is_any_due(&self) -> bool {
        self.of.values().any(|owed| owed.others.is_some_and(|others| others.is_due))
    }

    /// Since when others have taken writes for a node, which has not been clean and in its place since.
    pub(super) fn missed_since(&self, node: NodeId) -> Option<Instant> {
        self.of.get(&node)?.missed
    }

    /// Whether they have.
    pub(super) fn has_missed(&self, node: NodeId) -> bool {
        self.missed_since(node).is_some()
    }

    /// Whether nobody has old copies of anything.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Until when anybody else may have old copies of a node's keys.
    pub(super) fn copies_until(&self, node: NodeId, time: Instant) -> Option<Instant> {
        let owed = self.of.get(&node)?;
        owed.others_until().max(owed.gutter).filter(|until| *until > time)
    }

    /// Until when those may who would get its keys if it failed.
    pub(super) fn heirs_until(&self, node: NodeId, policy: &Policy, time: Instant) -> Option<Instant> {
        let owed = self.of.get(&node)?;
        let others = owed.others_until().filter(|_| policy.rehashes());
        let gutter = owed.gutter.filter(|_| policy.fails_over());
        others.max(gutter).filter(|until| *until > time)
    }

    /// A node has another identity from now on.
    pub(super) fn renamed(&mut self, before: NodeId, after: NodeId) {
        if self.in_gutter.remove(&before) {
            self.in_gutter.insert(after);
        }
        if let Some(owed) = self.of.remove(&before) {
            self.of.insert(after, owed);
        }
    }

    /// Another server comes in a node's place: what the one before it missed is not its own, and what others
    /// have of the node's keys they have still.
    pub(super) fn succeeds(&mut self, before: NodeId, after: NodeId) {
        let Some(old) = self.of.get(&before) else { return };
        let heir = Owed { missed: None, ..old.clone() };
        if heir.others.is_some() || heir.gutter.is_some() {
            self.of.insert(after, heir);
        }
    }

    /// Nodes that are not among these are gone, with all that they were owed.
    pub(super) fn retain(&mut self, nodes: &HashSet<NodeId>) {
        self.of.retain(|id, _| nodes.contains(id));
        self.in_gutter.retain(|id| nodes.contains(id));
    }

    /// Nodes are in these places: those that are away miss writes, those that own all their keys have missed
    /// none any more; and what has expired is nobody's debt.
    pub(super) fn settled(&mut self, nodes: &[Entry], policy: &Policy, time: Instant) {
        for entry in nodes.iter().filter(|e| e.placement == Placement::Away) {
            self.misses_writes(entry.node.id, time);
        }
        if self.of.is_empty() {
            return;
        }
        if policy.fails_over() {
            let is_over = |e: &&Entry| matches!(e.placement, Placement::Away | Placement::Starting(_));
            self.in_gutter.extend(nodes.iter().filter(is_over).map(|e| e.node.id));
        }
        for entry in nodes.iter().filter(|e| e.placement == Placement::Owns) {
            self.of.get_mut(&entry.node.id).into_iter().for_each(|owed| owed.missed = None);
        }
        self.of.retain(|_, Owed { missed, others, gutter }| {
            *others = others.filter(|others| others.is_due || others.until > time);
            *gutter = gutter.filter(|until| *until > time);
            missed.is_some() || others.is_some() || gutter.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Failover, OnEjected, PrefixPolicy};

    const NODE: NodeId = NodeId(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// Keys that go to neighbours, to a gutter for 300 s, or some to each.
    fn policy(on_ejected: OnEjected, others: Option<OnEjected>) -> Policy {
        let prefix = |on_ejected| PrefixPolicy { prefix: b"s:".as_slice().into(), on_ejected };
        Policy {
            on_ejected,
            prefixes: others.into_iter().map(prefix).collect(),
            on_return: OnReturn::Quarantine,
            failover: Some(Failover { pool: "gutter".into(), ttl_max: 300 * SECOND }),
            ..Policy::default()
        }
    }

    /// What others of the pool took ends when they were looked through, or a while after nobody does that any
    /// more; what a gutter took when it has expired, and not before. A pool may have both.
    #[test]
    fn each_debt_has_its_own_end() {
        use OnEjected::{Failover, Rehash};
        let both = policy(Failover, Some(Rehash));
        for (policy, owed, swept) in [
            (policy(Rehash, None), Some(120), None),
            (policy(Failover, None), Some(300), Some(300)),
            (both.clone(), Some(300), Some(300)),
        ] {
            let (mut debts, time) = (Debts::default(), Instant::now());
            debts.others_took(NODE, &policy, End::Swept, time);
            let until = |debts: &Debts| {
                let (copies, heirs) =
                    (debts.copies_until(NODE, time), debts.heirs_until(NODE, &policy, time));
                assert_eq!(copies, heirs);
                copies.map(|until| (until - time).as_secs())
            };
            assert_eq!(until(&debts), owed);
            let turn = due(&debts).first().map_or(0, |left| left.turn);
            assert_eq!(debts.swept(NODE, turn), policy.rehashes());
            assert!(!debts.swept(NODE, turn), "that is known");
            assert_eq!(until(&debts), swept);
        }
        // It is looked for longer than what the gutter has can live.
        let (mut debts, time) = (Debts::default(), Instant::now());
        debts.others_took(NODE, &both, End::Swept, time);
        let later = time + 290 * SECOND;
        assert!(debts.still_swept(NODE, &both, later));
        assert_eq!(debts.copies_until(NODE, later), Some(later + SWEEP_MAX));
        let end = later + SWEEP_MAX;
        debts.settled(&[], &both, end);
        assert_eq!(debts.copies_until(NODE, end), None, "nobody says so any more");
        let [left] = due(&debts)[..] else { panic!("it is to be done all the same") };
        assert!(debts.not_swept(NODE, left.turn) && !debts.not_swept(NODE, left.turn));
        debts.settled(&[], &both, end);
        assert!(debts.is_empty() && !debts.still_swept(NODE, &both, end), "it is given up");
    }

    fn due(debts: &Debts) -> Vec<Leftovers> {
        debts.leftovers(&Arc::default()).to_vec()
    }

    /// What was looked through before says nothing of what others have anew: as they took more, as they serve
    /// the node's keys once more, or as they are others.
    #[test]
    fn each_turn_is_looked_for() {
        let rehash = policy(OnEjected::Rehash, None);
        let anew: [fn(&mut Debts, &Policy, Instant); 4] = [
            |debts, policy, time| debts.others_took(NODE, policy, End::Expired, time),
            |debts, policy, time| debts.others_had(NODE, policy, time),
            |debts, _, time| debts.misses_writes(NODE, time),
            |debts, _, _| debts.look_again(),
        ];
        for anew in anew {
            let (mut debts, time) = (Debts::default(), Instant::now());
            debts.others_took(NODE, &rehash, End::Swept, time);
            let first = due(&debts);
            anew(&mut debts, &rehash, time);
            let second = due(&debts);
            assert!(first[0].turn < second[0].turn, "{first:?} {second:?}");
            assert!(!debts.swept(NODE, first[0].turn) && !debts.not_swept(NODE, first[0].turn));
            assert!(debts.swept(NODE, second[0].turn));
            assert!(due(&debts).is_empty());
        }
    }

    /// Who waits for the warmth budget begins no new turn each time that it is asked: others may have what
    /// they take for it for longer, and nothing else is new.
    #[test]
    fn what_others_take_for_longer_is_the_same_turn() {
        let rehash = policy(OnEjected::Rehash, None);
        let (mut debts, time) = (Debts::default(), Instant::now());
        debts.others_take_on(NODE, &rehash, End::Swept, time);
        let first = due(&debts);
        assert_eq!(first.len(), 1, "nobody had said so");
        let until = debts.copies_until(NODE, time).expect("others have some");
        debts.others_take_on(NODE, &rehash, End::Swept, time + SECOND);
        assert_eq!((due(&debts), debts.copies_until(NODE, time)), (first.clone(), Some(until + SECOND)));
        assert!(debts.swept(NODE, first[0].turn));
    }

    /// What expires is not looked for.
    #[test]
    fn what_expires_is_let_expire() {
        let (mut debts, time) = (Debts::default(), Instant::now());
        debts.others_took(NODE, &policy(OnEjected::Rehash, None), End::Expired, time);
        assert!(due(&debts).is_empty() && debts.copies_until(NODE, time).is_some());
    }

    /// Who would be asked next if the node failed is all that counts for its keys; for a reload, which may
    /// give them to anybody, all do.
    #[test]
    fn who_is_asked_next() {
        use OnEjected::{Failover, Rehash};
        let (mut debts, time) = (Debts::default(), Instant::now());
        debts.others_had(NODE, &policy(Rehash, None), time);
        assert!(debts.heirs_until(NODE, &policy(Rehash, None), time).is_some());
        assert_eq!(debts.heirs_until(NODE, &policy(Failover, None), time), None);
        assert!(debts.copies_until(NODE, time).is_some());
    }

    /// What was written when it was allowed to live longer does, whatever is in force since.
    #[test]
    fn lives_that_get_shorter() {
        let long = policy(OnEjected::Failover, None);
        let mut short = long.clone();
        short.failover.iter_mut().for_each(|over| over.ttl_max = 10 * SECOND);
        let (mut debts, time) = (Debts::default(), Instant::now());
        assert!(!debts.shortens(&short, &long, time) && !debts.shortens(&long, &short, time));
        debts.others_took(NODE, &short, End::Swept, time + SECOND);
        assert_eq!(debts.copies_until(NODE, time), Some(time + 300 * SECOND));
    }

    /// A debt is a node's under whatever identity it has, and goes with the node.
    #[test]
    fn debts_follow_their_node() {
        let (mut debts, time, rehash) = (Debts::default(), Instant::now(), policy(OnEjected::Rehash, None));
        debts.misses_writes(NODE, time);
        debts.others_had(NODE, &rehash, time);
        debts.renamed(NODE, NodeId(2));
        assert_eq!((debts.missed_since(NODE), debts.missed_since(NodeId(2))), (None, Some(time)));
        assert!(debts.copies_until(NodeId(2), time).is_some());
        debts.retain(&HashSet::from([NODE]));
        assert!(debts.is_empty());
    }
}

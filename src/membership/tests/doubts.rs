//! What is wrong with a node that may serve all the same, before and after it was out: when its incident
//! ends.

use super::*;
use crate::{
    incident::{Incidents, Readings},
    topology::{OnReturn, Slow},
};

/// What is wrong with its configuration, and how slow it is.
type Doubts = (Option<Arc<str>>, Option<Slow>);

/// A pool, and what is told of it.
struct Case {
    pool: Planned,
    incidents: Incidents,
    /// Requests that nobody serves between a step and when it is told.
    late: u64,
}

impl Case {
    fn unserved(&self, requests: u64) {
        let entry = self.pool.topology.nodes.iter().find(|entry| &*entry.node.name == "n1");
        entry.expect("it is there").node.blocks[0].unserved.add(requests);
    }

    fn note(&mut self, step: impl FnOnce(&mut Planned) -> Option<Vec<Event>>) -> &mut Case {
        let before = self.pool.topology.clone();
        let events = step(&mut self.pool).unwrap_or_default();
        let after = self.pool.topology.clone();
        let told = events
            .iter()
            .filter_map(|event| Some((event.node.clone()?, telling::telling(&after, event).incident?)));
        let told: Vec<_> = told.collect();
        let readings = Readings::between(&before, &after);
        self.unserved(self.late);
        self.incidents.note(after.revision, (&before, &after, &readings), &told, (0.0, &[]));
        self
    }

    fn judged(&mut self, health: Health, doubts: &Doubts, because: Because) -> &mut Case {
        let (wrong, slow) = doubts.clone();
        self.note(|pool| pool.news("n1", News::Judged(Opinion { health, slow, wrong, because })))
    }

    fn ordered(&mut self, wanted: Option<Order>) -> &mut Case {
        self.note(|pool| {
            let step = order(&pool.topology, &pool.ledger, ("n1", wanted), pool.time);
            pool.apply(Outcome::Publish(step.expect("it can be").expect("it is not so")))
        })
    }

    fn reloaded(&mut self, spec: PoolSpec) -> &mut Case {
        self.note(|pool| pool.reload(spec))
    }

    fn open(&self) -> Vec<Option<Cause>> {
        let all = self.incidents.all();
        all.iter().filter(|i| i.closed_ms.is_none()).map(|i| i.cause).collect()
    }
}

/// What is wrong with a node ends for itself, be the node out by hand meanwhile, or failed and unable to
/// tell; and that it was out does not end what is wrong with it still.
#[test]
fn doubts_over_an_absence() {
    let ms = Duration::from_millis;
    let is_slow = Some(Slow { p99: ms(60), median: ms(2), bound: ms(20) });
    let is_wrong: Option<Arc<str>> = Some("it is a replica".into());
    let case = |eject_max| {
        let (pool, incidents) = (Planned::new(&spec(&[1; 3], eject_max)), Default::default());
        Case { pool, incidents, late: 0 }
    };
    let none: Doubts = (None, None);
    for (doubts, cause) in [((is_wrong.clone(), None), Cause::Misconfigured), ((None, is_slow), Cause::Slow)]
    {
        let doubted = if doubts.1.is_some() { Health::Suspect } else { Health::Healthy };
        // Mended while it was drained.
        let mut drained = case(0.5);
        drained.judged(doubted, &doubts, Because::Nothing).ordered(Some(Order::Drain));
        assert_eq!(drained.open(), [Some(cause)]);
        drained.judged(Health::Healthy, &none, Because::Nothing);
        assert_eq!(drained.open(), [], "{cause:?}");
        // It failed meanwhile.
        let mut failed = case(0.5);
        failed.judged(doubted, &doubts, Because::Nothing).ordered(Some(Order::Drain));
        failed.judged(Health::Ejected, &none, gone()).judged(Health::Healthy, &none, back(Data::Same));
        failed.ordered(None);
        assert_eq!(failed.open(), [], "{cause:?}");
        // It became so while it was drained.
        let mut since = case(0.5);
        since.ordered(Some(Order::Drain)).judged(doubted, &doubts, Because::Nothing);
        assert_eq!(since.open(), []);
        assert_eq!(since.ordered(None).open(), [Some(cause)]);
        // It was so before it failed, or is since, be it out or kept.
        for (eject_max, before) in [(0.5, &none), (0.5, &doubts), (0.0, &none), (0.0, &doubts)] {
            let mut back_with = case(eject_max);
            back_with.judged(doubted, before, Because::Nothing);
            back_with.judged(Health::Ejected, before, gone());
            assert_eq!(back_with.open(), [Some(Cause::Refused)]);
            back_with.judged(doubted, &doubts, back(Data::Same));
            assert_eq!(back_with.open(), [Some(cause)], "{eject_max}, {before:?}");
            assert_eq!(back_with.judged(Health::Healthy, &none, Because::Nothing).open(), []);
        }
    }
    // Of two doubts one is left.
    let mut two = case(0.5);
    two.judged(Health::Suspect, &(is_wrong.clone(), is_slow), Because::Nothing);
    two.judged(Health::Healthy, &(is_wrong, None), Because::Nothing);
    assert_eq!(two.open().len(), 1);
    assert_eq!(two.judged(Health::Healthy, &none, Because::Nothing).open(), []);
}

/// What becomes of requests between an ejection and when it is told is part of its incident; what was before
/// is not.
#[test]
fn what_comes_before_it_is_told_counts() {
    let pool = Planned::new(&spec(&[1; 3], 0.5));
    let mut case = Case { pool, incidents: Incidents::default(), late: 7 };
    case.unserved(100);
    case.judged(Health::Ejected, &(None, None), gone()).unserved(2);
    assert_eq!(case.incidents.settle(9)[0].requests_unserved, 9);
}

/// A node that is back and can't be cleaned serves nothing: the guard counts it as out, and lets it in when
/// it can be.
#[test]
fn who_is_not_cleaned_is_out() {
    let mut spec = spec(&[1; 3], 0.4);
    spec.policy = Arc::new(Policy { on_return: OnReturn::Quarantine, ..(*spec.policy).clone() });
    for is_refused in [true, false] {
        let mut pool = Planned::new(&spec);
        pool.eject("n1");
        pool.restore("n1");
        pool.news("n1", News::NotCleaned);
        let (health, slow, because) = (Health::Healthy, None, back(Data::Same));
        let wrong = Some("its old keys can't be deleted".into()).filter(|_| is_refused);
        pool.news("n1", News::Judged(Opinion { health, slow, wrong, because }));
        let expected = if is_refused { "kept n2" } else { "ejected n2" };
        assert_eq!(told(pool.eject("n2")), [expected]);
        pool.judge("n1", health, back(Data::Same));
        assert_eq!(pool.entry("n2").placement, Placement::Away);
    }
}

/// A reload that gives a node another identity ends that it is slow, and what was doubted of it: its detector
/// begins anew. What it failed for goes on, unless another server is in its place.
#[test]
fn doubts_over_a_reload() {
    let ms = Duration::from_millis;
    let is_slow = Some(Slow { p99: ms(60), median: ms(2), bound: ms(20) });
    let (slow, none): (Doubts, Doubts) = ((None, is_slow), (None, None));
    let case = || {
        let (pool, incidents) = (Planned::new(&spec(&[1; 3], 0.5)), Incidents::default());
        Case { pool, incidents, late: 0 }
    };
    let with = |edit: fn(&mut NodeSpec)| {
        let mut spec = spec(&[1; 3], 0.5);
        edit(&mut spec.nodes[1]);
        spec
    };
    let edits: [fn(&mut NodeSpec); 2] = [|node| node.weight = 2, |node| node.zone = Some("b".into())];
    for edit in edits {
        let mut slowed = case();
        slowed.judged(Health::Suspect, &slow, Because::Nothing);
        assert_eq!(slowed.open(), [Some(Cause::Slow)]);
        assert_eq!(slowed.reloaded(with(edit)).open(), []);

        let mut doubted = case();
        doubted.judged(Health::Suspect, &none, Because::Nothing).reloaded(with(edit));
        doubted.judged(Health::Ejected, &none, gone());
        let all = doubted.incidents.all();
        assert_eq!((all.len(), all[0].doubted_for_ms), (1, None), "that was another doubt");

        let mut failed = case();
        failed.judged(Health::Ejected, &none, gone()).reloaded(with(edit));
        assert_eq!(failed.open(), [Some(Cause::Refused)]);
        failed.judged(Health::Healthy, &none, back(Data::Same));
        assert_eq!(failed.open(), []);
    }
    let mut replaced = case();
    replaced.judged(Health::Ejected, &none, gone());
    replaced.reloaded(with(|node| node.address = Address::Tcp { host: "127.0.0.1".into(), port: 9 }));
    assert_eq!(replaced.open(), []);
    let all = replaced.incidents.all();
    assert_eq!(all[0].timeline.last().map(|step| step.what), Some("left"));
}

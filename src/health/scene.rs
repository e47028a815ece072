//! What all pools of the process see of their nodes at the same time, and how the process itself is doing:
//! a fault is located by comparing. The watches of all pools write to it, on the control runtime; verdicts
//! are judged by it, and incidents are located with it. Bounded by the nodes, a few numbers for each.

mod chart;
mod losses;
mod process;
mod verdicts;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use chart::{Chart, answered, push};
pub(super) use verdicts::Asking;

use super::{
    Answer, Business, Holder, Lag, Probe, Stalls, Symptom, Traffic, heavy::Lists, slow_log::Slow,
    withhold::Fault,
};
use crate::topology::{Entry, Failure, NodeId, Sample};

/// What happened within this time is "now".
pub const WINDOW: Duration = Duration::from_secs(10);

/// What a person would want to know of a node and of everything around it, to say where the fault is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sighting {
    /// What traffic saw fail within [`WINDOW`], in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// What probes met within [`WINDOW`], oldest first.
    pub probes: Vec<Symptom>,
    /// How many of them, the last, ended since it failed first.
    pub fresh: usize,
    /// What the last probe that failed said.
    pub said: Option<Arc<str>>,
    /// What is wrong with its configuration although it serves.
    pub wrong: Option<Arc<str>>,
    /// Answers that came when nobody waited for them any more.
    pub late: Lateness,
    /// Requests that it answered since the first failure.
    pub answered: u64,
    /// What a probe of it takes when it is answered.
    pub round_trip: Option<Duration>,
    /// The median of that over the pool's other nodes.
    pub usual: Option<Duration>,
    /// The pool's other nodes.
    pub pool: Group,
    /// Nodes on its host, of any pool, itself not counted.
    pub host: Group,
    /// Nodes of its zone in its pool, itself not counted; none when it has no zone.
    pub zone: Group,
    /// All other nodes of the process.
    pub all: Group,
    /// Other nodes of the process that have names, and those of them for which the resolver does not answer.
    pub names: Group,
    /// It does not answer for this node's name either.
    pub unanswered: bool,
    /// The other nodes behind the same link, and those of them that lose some requests and answer others;
    /// none when these are all on one host.
    pub losing: Group,
    /// This process.
    pub own: Own,
    /// The key that holds it the most, as far as samples tell.
    pub key: Option<Holder>,
    /// The client that holds it the most.
    pub client: Option<Holder>,
    /// The key that it was asked for when it stood still, if it was the same more than once.
    pub stalls: Option<Stalls>,
    /// Requests that it gets for each that the pool's other nodes get, in the middle; none when they get
    /// none.
    pub busier: Option<f64>,
}

/// How late answers came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lateness {
    /// None came.
    #[default]
    Never,
    /// All at once: it stood still and went on.
    AtOnce(Duration),
    /// One by one, each as late as this: it is slow.
    Each(Duration),
}

/// How some nodes do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many.
    pub nodes: usize,
    /// Those that fail now.
    pub failing: usize,
    /// Those of them that are silent.
    pub silent: usize,
}

/// How this process does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// How long it did not get to run within [`WINDOW`].
    pub stalled: Duration,
    /// It has no descriptor left.
    pub no_descriptors: bool,
    /// Verdicts are withheld for its link.
    pub link: bool,
}

/// A fault of this process while it lasts.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Which.
    pub fault: Fault,
    /// Since when.
    pub since: Instant,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Nodes, as `pool/node`, whose ejection is or was withheld for it.
    pub withheld: BTreeSet<String>,
}

/// The scene. Clones share it.
#[derive(Clone, Debug)]
pub struct Scene {
    seen: Arc<Mutex<Seen>>,
    lag: Lag,
    asked: Arc<watch::Sender<u64>>,
}

impl Default for Scene {
    fn default() -> Scene {
        Scene::new(Lag::new())
    }
}

/// A pool and a node of it.
pub type Whose = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
struct Seen {
    charts: HashMap<Whose, Chart>,
    troubles: BTreeMap<Fault, Trouble>,
    /// What was last seen to be wrong with the link, and when.
    cut: Option<(Fault, Instant)>,
    /// When all nodes were asked last, for the sake of one.
    asked: Option<Instant>,
    /// When the counters of traffic were looked at last.
    looked: Option<Instant>,
    /// Who is withheld now, and for what.
    withheld: HashMap<Whose, Fault>,
    no_descriptors: bool,
}

impl Scene {
    /// Nothing seen yet, by a process whose lateness is measured by this.
    pub fn new(lag: Lag) -> Scene {
        Scene { seen: Arc::default(), lag, asked: Arc::new(watch::channel(0).0) }
    }

    /// The process's lateness.
    pub fn lag(&self) -> &Lag {
        &self.lag
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // Nothing in here can be left half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marked changed when all nodes shall be asked at once.
    pub(super) fn asks(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    /// A node is watched from now on.
    pub fn admit(&self, pool: &Arc<str>, entry: &Entry) {
        let chart = Chart::of(entry);
        let whose = (pool.clone(), entry.node.name.clone());
        let mut seen = self.seen();
        // Nothing is withheld of a node that was there under its name.
        seen.withheld.remove(&whose);
        seen.charts.insert(whose, chart);
    }

    /// A node is somewhere else than before, or where it is has become known.
    pub(super) fn moved(&self, pool: &Arc<str>, entry: &Entry) {
        if let Some(chart) = self.seen().charts.get_mut(&(pool.clone(), entry.node.name.clone())) {
            chart.moved(entry);
        }
    }

    /// A node is watched no more.
    pub(super) fn leave(&self, pool: &Arc<str>, name: &Arc<str>, id: NodeId) {
        let mut seen = self.seen();
        let whose = (pool.clone(), name.clone());
        if seen.charts.get(&whose).is_some_and(|chart| chart.node.id == id) {
            seen.charts.remove(&whose);
            seen.withheld.remove(&whose);
        }
    }

    /// Traffic saw failures.
    pub fn traffic(&self, now: Instant, whose: &Whose, traffic: &Traffic) {
        let mut seen = self.seen();
        let Some(chart) = seen.charts.get_mut(whose) else { return };
        push(&mut chart.failures, (now, traffic.new));
        let silence = traffic.new[Failure::Timeout as usize] + traffic.new[Failure::ConnectTimeout as usize];
        let is_first = chart.fails(now, silence > 0);
        if is_first {
            seen.look(now);
        }
    }

    /// Workers sampled what they asked a node for.
    pub(super) fn sampled(&self, now: Instant, whose: &Whose, samples: &[Sample]) {
        let mut seen = self.seen();
        let Some(chart) = seen.charts.get_mut(whose) else { return };
        chart.version += 1;
        let lists = chart.lists.get_or_insert_with(|| Box::new(Lists::new(now)));
        samples.iter().for_each(|sample| lists.add(now, sample));
    }

    /// A node said what it was slow at.
    pub(super) fn slow_log(&self, now: Instant, whose: &Whose, log: &[Slow]) {
        if let Some(chart) = self.seen().charts.get_mut(whose) {
            chart.logged(now, log);
        }
    }

    /// What the nodes of a pool are busy with, by their names; those that are not are left out.
    pub fn business(&self, now: Instant, pool: &str) -> Vec<(Arc<str>, Business)> {
        let mut seen = self.seen();
        let charts = seen.charts.iter_mut().filter(|((of, _), _)| **of == *pool);
        let mut all: Vec<(Arc<str>, Business)> = charts
            .filter_map(|((_, name), chart)| Some((name.clone(), chart.lists(now)?.business())))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// A node that comes and goes has to wait until then, or does not.
    pub(super) fn flaps(&self, whose: &Whose, until: Option<Instant>) {
        if let Some(chart) = self.seen().charts.get_mut(whose) {
            chart.flaps_until = until;
        }
    }

    /// Whether it is not known exactly what is old of what a node has that is not in its place.
    pub(super) fn brings(&self, whose: &Whose, is_inexact: bool) {
        if let Some(chart) = self.seen().charts.get_mut(whose) {
            chart.is_inexact = is_inexact;
        }
    }

    /// The nodes of a pool of which that is so.
    pub fn inexact(&self, pool: &str) -> HashSet<Arc<str>> {
        let seen = self.seen();
        let of_pool = seen.charts.iter().filter(|((of, _), chart)| **of == *pool && chart.is_inexact);
        of_pool.map(|((_, node), _)| node.clone()).collect()
    }

    /// The nodes of a pool that have to wait as they come and go, and until when.
    pub fn flapping(&self, now: Instant, pool: &str) -> HashMap<Arc<str>, Instant> {
        let seen = self.seen();
        let of_pool = seen.charts.iter().filter(|((of, _), _)| **of == *pool);
        let until = |(whose, chart): (&Whose, &Chart)| Some((whose.1.clone(), chart.flaps_until?));
        of_pool.filter_map(until).filter(|(_, until)| *until > now).collect()
    }

    /// A probe ended, and counts.
    pub fn probe(&self, whose: &Whose, probe: &Probe) {
        let mut seen = self.seen();
        let Some(chart) = seen.charts.get_mut(whose) else { return };
        chart.version += 1;
        push(&mut chart.probes, (probe.started, probe.ended, probe.symptom));
        for late in &probe.late {
            push(&mut chart.lates, *late);
        }
        match &probe.answer {
            Answer::Serves(wrong) => {
                chart.wrong.clone_from(wrong);
                (chart.heard, chart.spoke) = (Some(probe.ended), Some(probe.ended));
                chart.round_trip = Some(probe.ended - probe.started);
                chart.answers(probe.ended, probe.took);
                // Traffic may have seen more meanwhile.
                if chart.failing.is_some_and(|(since, _)| since <= probe.started) {
                    chart.failing = None;
                }
            }
            Answer::Failed { text, .. } => {
                chart.said = Some(text.as_str().into());
                if !probe.symptom.is_silence() && probe.symptom != Symptom::Unresolved {
                    chart.heard = Some(probe.ended);
                }
                if probe.symptom.is_speech() {
                    chart.spoke = Some(probe.ended);
                }
                if chart.fails(probe.ended, probe.symptom.is_silence()) {
                    seen.look(probe.ended);
                }
            }
            Answer::Void(_) => {}
        }
    }

    /// Rises whenever something is learnt of a node; 0 when it is not known.
    pub fn version(&self, pool: &Arc<str>, node: &Arc<str>) -> u64 {
        self.seen().charts.get(&(pool.clone(), node.clone())).map_or(0, |chart| chart.version)
    }

    /// What is to be seen of a node; nothing when it is not known.
    pub fn sight(&self, now: Instant, pool: &Arc<str>, node: &Arc<str>) -> Sighting {
        let (_, stalled) = self.lag.since(before(now, WINDOW));
        let mut seen = self.seen();
        let whose = (pool.clone(), node.clone());
        let ((key, client), busier) = seen.holders(now, &whose);
        let Some(chart) = seen.charts.get(&whose) else { return Sighting::default() };
        let others = |is_of: &dyn Fn(&Whose, &Chart) -> bool| {
            seen.group(|other, chart| *other != whose && is_of(other, chart))
        };
        let zone = chart.node.zone.as_ref();
        let names = seen.names(|other| *other != whose);
        let losing = match chart.is_remote {
            true => seen.behind_link(now, |other| *other != whose),
            false => Group::default(),
        };
        Sighting {
            failures: chart.recent(now),
            probes: chart.probes.iter().filter(|p| now - p.1 < WINDOW).map(|p| p.2).collect(),
            fresh: chart.probes.iter().filter(|p| now - p.1 < WINDOW && chart.is_fresh(p)).count(),
            said: chart.said.clone(),
            wrong: chart.wrong.clone(),
            late: chart.lateness(now),
            answered: chart.failing.map_or(0, |(_, before)| answered(&chart.node).saturating_sub(before)),
            round_trip: chart.round_trip,
            usual: seen.usual(&whose),
            pool: others(&|other, _| other.0 == whose.0),
            host: others(&|_, of| of.host == chart.host),
            zone: others(&|other, of| zone.is_some() && other.0 == whose.0 && of.node.zone.as_ref() == zone),
            all: others(&|_, _| true),
            names,
            unanswered: chart.is_unanswered(),
            losing,
            key,
            client,
            stalls: chart.lists.as_ref().and_then(|lists| lists.stalled_by(now)),
            busier,
            own: Own {
                stalled,
                no_descriptors: seen.no_descriptors,
                link: seen.troubles.contains_key(&Fault::Link),
            },
        }
    }
}

impl Seen {
    /// Looks at the counters of traffic: a node that answered more requests than at the last look was heard,
    /// at the latest then for all that is known.
    fn look(&mut self, now: Instant) {
        let last = self.looked.replace(now);
        for chart in self.charts.values_mut() {
            let answered = answered(&chart.node);
            if answered > chart.answered {
                (chart.heard, chart.spoke) = (chart.heard.max(last), chart.spoke.max(last));
            }
            chart.answered = answered;
        }
    }

    fn group(&self, is_of: impl Fn(&Whose, &Chart) -> bool) -> Group {
        let mut group = Group::default();
        for (_, chart) in self.charts.iter().filter(|(whose, chart)| is_of(whose, chart)) {
            group.nodes += 1;
            group.failing += usize::from(chart.failing.is_some());
            group.silent += usize::from(chart.failing.is_some() && chart.is_silent);
        }
        group
    }

    /// The key and the client that hold a node the most, and how much busier it is than the pool's others.
    fn holders(&mut self, now: Instant, whose: &Whose) -> ((Option<Holder>, Option<Holder>), Option<f64>) {
        let of_pool = self.charts.iter_mut().filter(|(other, _)| other.0 == whose.0);
        let mut others = Vec::new();
        let (mut own, mut slowest) = (None, None);
        for (other, chart) in of_pool {
            if other == whose {
                slowest = chart.slow_log.as_ref().and_then(|log| log.slowest(now));
            }
            let lists = chart.lists(now);
            if other == whose {
                own = lists;
            } else {
                others.push(lists);
            }
        }
        let Some(own) = own else { return ((None, None), None) };
        let mut rates: Vec<f64> = others.iter().map(|lists| lists.map_or(0.0, Lists::rate)).collect();
        rates.sort_unstable_by(f64::total_cmp);
        let usual = rates.get(rates.len() / 2).copied().filter(|rate| *rate > 0.0);
        let (key, client) = own.holders();
        // What the node knows is no estimate, and holds for requests of others as well.
        let key = slowest.map(|slowest| own.logged(&slowest)).or(key);
        let client = client.map(|(id, client)| {
            let all: f64 = others.iter().flatten().map(|lists| lists.requests_of(id)).sum();
            Holder { elsewhere: all / others.len().max(1) as f64, ..client }
        });
        ((key, client), usual.map(|usual| own.rate() / usual))
    }

    /// What a probe takes at the pool's other nodes, in the middle.
    fn usual(&self, whose: &Whose) -> Option<Duration> {
        let others = self.charts.iter().filter(|(other, _)| other.0 == whose.0 && **other != *whose);
        let mut all: Vec<Duration> = others.filter_map(|(_, chart)| chart.round_trip).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }

    fn trouble(&mut self, fault: Fault, now: Instant, evidence: Vec<String>) -> &mut Trouble {
        self.troubles.entry(fault).or_insert_with(|| Trouble {
            fault,
            since: now,
            evidence,
            withheld: BTreeSet::new(),
        })
    }
}

fn before(now: Instant, span: Duration) -> Instant {
    now.checked_sub(span).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        health::{Judgement, LINK_GRACE, Late, Lookup, tests::topology},
        net::Address,
        topology::{Cause, Evidence, HealthSettings, Node, SampledKey, Weight},
    };

    fn whose(name: &str) -> Whose {
        ("cache".into(), name.into())
    }

    /// What a node logs that it is slow at goes before what samples make of it, which tell how often it is
    /// asked for.
    #[tokio::test(start_paused = true)]
    async fn what_a_node_logs_is_known() {
        let scene = scene(1);
        let (now, cache) = (Instant::now(), "cache".into());
        let sample = |key: &str, requests, held_us| Sample {
            node: NodeId(1),
            client: 1,
            peer: None,
            key: Some(SampledKey::of(key.as_bytes())),
            weight: Weight { requests, bytes: 100.0, held_us },
            overdue: None,
        };
        scene.sampled(now, &whose("n1"), &[sample("victim", 900.0, 9e5), sample("giant", 100.0, 4e5)]);
        let key = |at| scene.sight(at, &cache, &"n1".into()).key.expect("there is one");
        assert_eq!((key(now).name.as_str(), key(now).is_logged), ("victim", false));
        let version = scene.version(&cache, &"n1".into());
        for ids in [0..1, 1..7] {
            let log: Vec<Slow> = ids.map(|id| Slow::new(id, Duration::from_millis(20), "giant")).collect();
            scene.slow_log(now, &whose("n1"), &log);
        }
        let giant = key(now);
        assert_eq!((giant.name.as_str(), giant.is_logged, giant.times), ("giant", true, 6.0));
        assert!((giant.requests - 0.1).abs() < 0.01 && giant.time == 1.0, "{giant:?}");
        assert!(scene.version(&cache, &"n1".into()) > version, "it is diagnosed anew");
    }

    /// A scene of nodes n1, n2 ... on hosts of their own.
    pub(super) fn scene(nodes: u64) -> Scene {
        let scene = Scene::default();
        for i in 1..=nodes {
            let address: SocketAddr = format!("10.0.0.{i}:6379").parse().expect("an address");
            let one = topology(address, HealthSettings::default(), &Arc::new(Notify::new()));
            let mut entry = one.nodes[0].clone();
            entry.node = Arc::new(Node {
                id: NodeId(i),
                name: format!("n{i}").into(),
                address: Address::Tcp { host: address.ip().to_string(), port: 6379 },
                weight: 1,
                zone: None,
                evidence: Evidence::default(),
                blocks: Arc::new([]),
                load: Arc::default(),
            });
            scene.admit(&"cache".into(), &entry);
        }
        scene
    }

    fn probe(scene: &Scene, name: &str, symptom: Symptom) {
        let now = Instant::now();
        let answer = match symptom {
            Symptom::Good => Answer::Serves(None),
            _ => Answer::Failed { cause: Cause::Timeout, after_loss: false, text: "no answer".into() },
        };
        let (life, late) = (None, Vec::new());
        let took = Duration::ZERO;
        let probe = Probe { started: now, ended: now, answer, took, life, flushed: false, symptom, late };
        scene.probe(&whose(name), &probe);
    }

    /// A node that falls silent is judged by what the others show since: they are asked, and their answers
    /// let the verdict stand; their silence withholds it, which is a trouble until the last is released.
    #[tokio::test(start_paused = true)]
    async fn others_are_heard_before_a_verdict() {
        for (symptom, expected) in
            [(Symptom::Good, Judgement::Stands), (Symptom::Silent, Judgement::Withheld(Fault::Link))]
        {
            let scene = scene(4);
            let asks = scene.asks();
            let mut timeouts = Traffic::default();
            timeouts.new[Failure::Timeout as usize] = 3;
            scene.traffic(Instant::now(), &whose("n1"), &timeouts);
            tokio::time::advance(Duration::from_millis(1)).await;
            let judged = |asked| {
                let times = Asking { asked, patience: Duration::from_millis(500) };
                scene.judge(Instant::now(), &whose("n1"), Cause::Timeout, times)
            };
            assert_eq!(judged(Duration::ZERO), Judgement::Ask);
            assert!(asks.has_changed().expect("the scene is there"));
            ["n2", "n3"].iter().for_each(|name| probe(&scene, name, symptom));
            assert_eq!(judged(Duration::from_millis(1)), expected);
            if expected == Judgement::Stands {
                continue;
            }
            for name in ["n1", "n2"] {
                scene.withhold(Instant::now(), &whose(name), Fault::Link);
            }
            let trouble = scene.troubles(Instant::now()).swap_remove(0);
            assert_eq!(trouble.withheld.len(), 2);
            assert_eq!(trouble.evidence, ["3 of 4 nodes on other machines are silent, of all pools"]);
            assert!(scene.sight(Instant::now(), &"cache".into(), &"n3".into()).own.link);
            scene.release(&whose("n1"));
            tokio::time::advance(LINK_GRACE).await;
            assert_eq!(scene.troubles(Instant::now()).len(), 1);
            scene.release(&whose("n2"));
            assert_eq!(scene.troubles(Instant::now()), []);
        }
    }

    fn time_out(scene: &Scene, name: &str) {
        let mut timeouts = Traffic::default();
        timeouts.new[Failure::Timeout as usize] = 2;
        scene.traffic(Instant::now(), &whose(name), &timeouts);
    }

    /// A link that loses packets is its own fault, whether a node is accused of silence or of the part of its
    /// requests that fail; what was lost meanwhile proves nothing, and it is over when nothing is lost any
    /// more. A node that loses them alone is accused rightly, and so is one that is accused of what it
    /// answered.
    #[tokio::test(start_paused = true)]
    async fn a_lossy_link_withholds() {
        let loses = |scene: &Scene, names: &[&str]| {
            for name in names {
                time_out(scene, name);
                probe(scene, name, Symptom::Good);
                time_out(scene, name);
                probe(scene, name, Symptom::Good);
            }
        };
        // What comes when it was sent a second time was lost the first time.
        let late = |scene: &Scene, name: &str| {
            for took in [1, 205, 1, 205].map(Duration::from_millis) {
                let mut seen = scene.seen();
                let chart = seen.charts.get_mut(&whose(name)).expect("it is there");
                chart.answers(Instant::now(), took);
            }
        };
        let judged = |scene: &Scene, cause| {
            let times = Asking { asked: Duration::ZERO, patience: Duration::from_millis(500) };
            scene.judge(Instant::now(), &whose("n1"), cause, times)
        };
        for cause in [Cause::Timeout, Cause::ConnectTimeout, Cause::FailureRate] {
            let alone = scene(4);
            loses(&alone, &["n1"]);
            tokio::time::advance(Duration::from_millis(1)).await;
            ["n2", "n3", "n4"].iter().for_each(|name| probe(&alone, name, Symptom::Good));
            assert_eq!(judged(&alone, cause), Judgement::Stands, "{cause:?}");
            assert_eq!(alone.doubtful(Instant::now(), "cache", Duration::ZERO).len(), 0);
            let scene = scene(4);
            loses(&scene, &["n1", "n2"]);
            late(&scene, "n3");
            assert_eq!(judged(&scene, cause), Judgement::Withheld(Fault::Lossy), "{cause:?}");
            scene.withhold(Instant::now(), &whose("n1"), Fault::Lossy);
            let evidence = scene.troubles(Instant::now()).swap_remove(0).evidence;
            assert_eq!(
                evidence,
                ["3 of 4 nodes on other machines left something unanswered within 3 s, of all pools"]
            );
            let losing = scene.sight(Instant::now(), &"cache".into(), &"n1".into()).losing;
            assert_eq!(losing, Group { nodes: 3, failing: 2, silent: 0 });
            assert_eq!(scene.doubtful(Instant::now(), "cache", Duration::ZERO).len(), 4);
            assert_eq!(judged(&scene, Cause::Refused), Judgement::Stands);
            scene.release(&whose("n1"));
            tokio::time::advance(Duration::from_millis(1500)).await;
            ["n1", "n2", "n3"].iter().for_each(|name| late(&scene, name));
            assert_eq!(scene.troubles(Instant::now()).len(), 1, "it goes on");
            tokio::time::advance(Duration::from_secs(6)).await;
            assert_eq!(scene.troubles(Instant::now()), []);
        }
    }

    /// Of a node whose requests fail by something else than silence the rate says enough.
    #[tokio::test(start_paused = true)]
    async fn a_rate_of_answers_stands() {
        let scene = scene(3);
        ["n1", "n2", "n3"].iter().for_each(|name| {
            time_out(&scene, name);
            probe(&scene, name, Symptom::Good);
            time_out(&scene, name);
        });
        let mut answers = Traffic::default();
        answers.new[Failure::Status as usize] = 9;
        scene.traffic(Instant::now(), &whose("n1"), &answers);
        let judged = scene.judge(
            Instant::now(),
            &whose("n1"),
            Cause::FailureRate,
            Asking { asked: Duration::ZERO, patience: Duration::from_millis(500) },
        );
        assert_eq!(judged, Judgement::Stands);
    }

    /// A node that nobody can find is judged by what the resolver says; where it is found, nothing is left of
    /// the verdict, and it stands behind the link from then on.
    #[tokio::test(start_paused = true)]
    async fn names_are_judged() {
        let scene = Scene::default();
        let mut entries = Vec::new();
        for i in 1..=2 {
            let one = topology(([10, 0, 0, i], 6379).into(), HealthSettings::default(), &Arc::default());
            let mut entry = one.nodes[0].clone();
            entry.node = Arc::new(Node {
                id: NodeId(i.into()),
                name: format!("n{i}").into(),
                address: Address::Tcp { host: format!("n{i}.example"), port: 6379 },
                weight: 1,
                zone: None,
                evidence: Evidence::default(),
                blocks: Arc::new([]),
                load: Arc::default(),
            });
            entries.push(entry.clone());
            entry.targets = Arc::new([]);
            scene.admit(&"cache".into(), &entry);
        }
        let judged = |name, cause| {
            let times = Asking { asked: Duration::ZERO, patience: Duration::from_millis(500) };
            scene.judge(Instant::now(), &whose(name), cause, times)
        };
        let says = |name, found| scene.looked_up(Instant::now(), &whose(name), found);
        assert_eq!(judged("n1", Cause::Unresolved), Judgement::Ask);
        says("n1", Lookup::Unanswered);
        says("n2", Lookup::Unanswered);
        // Requests for it fail as they find no connection.
        for cause in [Cause::Unresolved, Cause::ConnectTimeout] {
            assert_eq!(judged("n1", cause), Judgement::Withheld(Fault::Dns));
        }
        scene.withhold(Instant::now(), &whose("n1"), Fault::Dns);
        let trouble = scene.troubles(Instant::now()).swap_remove(0);
        assert_eq!(trouble.evidence, ["the resolver does not answer for 2 of 2 names"]);
        assert!(scene.sight(Instant::now(), &"cache".into(), &"n1".into()).unanswered);
        says("n2", Lookup::Denied);
        assert_eq!(judged("n1", Cause::Unresolved), Judgement::Stands, "it does answer");
        assert_eq!(judged("n2", Cause::Unresolved), Judgement::Stands);
        says("n1", Lookup::Found);
        assert_eq!(judged("n1", Cause::Unresolved), Judgement::Moot);
        scene.release(&whose("n1"));
        assert_eq!(scene.troubles(Instant::now()), []);
        ["n1", "n2"].iter().for_each(|name| time_out(&scene, name));
        assert_eq!(judged("n1", Cause::Refused), Judgement::Stands);
        entries.iter().for_each(|entry| scene.moved(&"cache".into(), entry));
        assert_eq!(judged("n1", Cause::Unresolved), Judgement::Moot);
        assert_eq!(judged("n1", Cause::Timeout), Judgement::Withheld(Fault::Link));
    }

    /// What others of the pool, the host and the process show is counted without the node itself, and a good
    /// probe ends a failure.
    #[tokio::test(start_paused = true)]
    async fn the_others_are_counted() {
        let scene = scene(4);
        ["n1", "n2", "n3"].iter().for_each(|name| probe(&scene, name, Symptom::NoConnection));
        let sight = || scene.sight(Instant::now(), &"cache".into(), &"n1".into());
        assert_eq!(sight().pool, Group { nodes: 3, failing: 2, silent: 2 });
        assert_eq!((sight().all, sight().host), (sight().pool, Group::default()));
        assert_eq!((sight().probes, sight().fresh), (vec![Symptom::NoConnection], 1));
        tokio::time::advance(Duration::from_millis(1)).await;
        probe(&scene, "n2", Symptom::Good);
        assert_eq!(sight().pool, Group { nodes: 3, failing: 1, silent: 1 });
        scene.leave(&"cache".into(), &"n3".into(), NodeId(3));
        assert_eq!(sight().pool, Group { nodes: 2, failing: 0, silent: 0 });
        tokio::time::advance(WINDOW).await;
        assert_eq!(sight().probes, []);
    }

    /// Late answers that come together are of a node that stood still, those that come one by one of a slow
    /// one, in whatever order they are told; those of a failure that is over say nothing of this one.
    #[tokio::test(start_paused = true)]
    async fn lateness_is_told_apart() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let lateness = |pairs: &[(u64, u64)]| {
            let scene = scene(1);
            let late = |(given_up, came): &(u64, u64)| Late { given_up: at(*given_up), came: at(*came) };
            let mut seen = scene.seen();
            let chart = seen.charts.get_mut(&whose("n1")).expect("it is there");
            chart.lates.extend(pairs.iter().map(late));
            chart.failed = Some(at(250));
            chart.lateness(at(2000))
        };
        let ms = Duration::from_millis;
        assert_eq!(lateness(&[]), Lateness::Never);
        assert_eq!(lateness(&[(300, 1000)]), Lateness::AtOnce(ms(700)));
        assert_eq!(lateness(&[(700, 1001), (300, 1002)]), Lateness::AtOnce(ms(301)));
        assert_eq!(lateness(&[(300, 700), (700, 1100)]), Lateness::Each(ms(400)));
        // One stall is no slowness because there was another before it.
        assert_eq!(lateness(&[(100, 200), (300, 1000), (700, 1001)]), Lateness::AtOnce(ms(301)));
        assert_eq!(lateness(&[(100, 200)]), Lateness::Never);
    }
}

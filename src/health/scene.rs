//! What all pools of the process see of their nodes at the same time, and how the process itself is doing:
//! a fault is located by comparing. The watches of all pools write to it, on the control runtime; verdicts are
//! judged by it, and incidents are located with it. Bounded by the nodes, a few numbers for each.

mod process;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Answer, Business, Holder, Lag, Late, Probe, Stalls, Symptom, Traffic,
    heavy::Lists,
    withhold::{Accusation, Fault, Judgement, LINK_GRACE, Shows, Witness, judge},
};
use crate::{
    metrics::Outcome,
    net::Target,
    topology::{Cause, Entry, Failure, Node, NodeId, Sample},
};

/// What happened within this time is "now".
pub const WINDOW: Duration = Duration::from_secs(10);

/// A stop of this process is looked for as far back as a request or a probe may have been waiting.
const STALL_WINDOW: Duration = Duration::from_millis(500);

/// An answer is no older when it speaks for the link.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Nodes that begin to fail within this time of each other fail together.
const TOGETHER: Duration = Duration::from_secs(30);

/// Probes and failures that are kept of a node.
const KEPT: usize = 32;

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
    /// Other nodes of the process that have names, and those of them that do not resolve.
    pub names: Group,
    /// This process.
    pub own: Own,
    /// The key that holds it the most, as far as samples tell.
    pub key: Option<Holder>,
    /// The client that holds it the most.
    pub client: Option<Holder>,
    /// The key that it was asked for when it stood still, if it was the same more than once.
    pub stalls: Option<Stalls>,
    /// Requests that it gets for each that the pool's other nodes get, in the middle; none when they get none.
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
    /// When the link was last seen to be cut.
    cut: Option<Instant>,
    /// When the counters of traffic were looked at last.
    looked: Option<Instant>,
    /// Who is withheld now, and for what.
    withheld: HashMap<Whose, Fault>,
    no_descriptors: bool,
}

/// What is known of one node.
#[derive(Debug)]
struct Chart {
    node: Arc<Node>,
    /// Where it is: an ip address, or what it is called.
    host: String,
    is_remote: bool,
    has_a_name: bool,
    failures: VecDeque<(Instant, [u64; Failure::ALL.len()])>,
    /// When each began and ended, and what it met.
    probes: VecDeque<(Instant, Instant, Symptom)>,
    said: Option<Arc<str>>,
    wrong: Option<Arc<str>>,
    lates: VecDeque<Late>,
    round_trip: Option<Duration>,
    /// Since when it fails, and how many requests it had answered by then.
    failing: Option<(Instant, u64)>,
    /// When it began to fail, also when it does not any more.
    failed: Option<Instant>,
    /// Its last failure was silence.
    is_silent: bool,
    /// Its last answer.
    heard: Option<Instant>,
    /// Requests that it had answered at the last look.
    answered: u64,
    /// Rises with everything that is learnt.
    version: u64,
    /// What it is busy with; none when it is not.
    lists: Option<Box<Lists>>,
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

    /// A node is watched from now on, or is somewhere else.
    pub fn admit(&self, pool: &Arc<str>, entry: &Entry) {
        let chart = Chart::of(entry);
        self.seen().charts.insert((pool.clone(), entry.node.name.clone()), chart);
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
                chart.heard = Some(probe.ended);
                chart.round_trip = Some(probe.ended - probe.started);
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
                if chart.fails(probe.ended, probe.symptom.is_silence()) {
                    seen.look(probe.ended);
                }
            }
            Answer::Void(_) => {}
        }
    }

    /// Whether a verdict on a node may stand. `asked` is how long the others have been asked already, `patience`
    /// what a probe may take.
    pub(super) fn judge(
        &self,
        now: Instant,
        whose: &Whose,
        cause: Cause,
        (asked, patience): (Duration, Duration),
    ) -> Judgement {
        let (stalled, _) = self.lag.since(before(now, STALL_WINDOW));
        let mut seen = self.seen();
        seen.look(now);
        let Some(chart) = seen.charts.get(whose) else { return Judgement::Stands };
        let began = chart.failing.map_or(now, |(since, _)| since);
        let since = began.max(before(now, HEARD_WITHIN));
        let cut = seen.cut.map(|at| now.saturating_duration_since(at));
        let accused = Accusation { cause, is_remote: chart.is_remote, stalled, asked, patience, cut };
        // One that is silent for long has troubles of its own.
        let is_old = |chart: &Chart| chart.failing.is_some_and(|(since, _)| since + TOGETHER < began);
        let remote = seen.charts.iter().filter(|(_, chart)| chart.is_remote && !is_old(chart));
        let witnesses: Vec<Witness<'_>> = remote
            .map(|(other, chart)| Witness {
                host: &chart.host,
                shows: if other == whose { Shows::Silence } else { chart.shows(since) },
            })
            .collect();
        let now_alone = judge(&Accusation { cut: None, ..accused }, witnesses.iter().copied());
        let judgement = judge(&accused, witnesses);
        if now_alone == Judgement::Withheld(Fault::Link) {
            seen.cut = Some(now);
        }
        if judgement == Judgement::Ask && asked.is_zero() {
            self.asked.send_modify(|turn| *turn += 1);
        }
        judgement
    }

    /// A verdict is withheld.
    pub(super) fn withhold(&self, now: Instant, whose: &Whose, fault: Fault) {
        let mut seen = self.seen();
        let group = seen.group(|_, chart| chart.is_remote);
        let (_, stalled) = self.lag.since(before(now, WINDOW));
        let evidence = match fault {
            Fault::Link => vec![format!(
                "{} of {} nodes on other machines are silent, of all pools",
                group.silent, group.nodes
            )],
            Fault::Starved => {
                vec![format!("this process did not run for {} ms of the last 10 s", stalled.as_millis())]
            }
            Fault::Descriptors | Fault::Memory => Vec::new(),
        };
        seen.withheld.insert(whose.clone(), fault);
        let trouble = seen.trouble(fault, now, evidence);
        trouble.withheld.insert(format!("{}/{}", whose.0, whose.1));
    }

    /// A verdict is withheld no more.
    pub(super) fn release(&self, whose: &Whose) {
        self.seen().withheld.remove(whose);
    }

    /// What is wrong with the process now.
    pub fn troubles(&self, now: Instant) -> Vec<Trouble> {
        let mut seen = self.seen();
        let is_cut = seen.cut.is_some_and(|at| now < at + LINK_GRACE);
        if !is_cut && seen.withheld.values().all(|fault| *fault != Fault::Link) {
            seen.troubles.remove(&Fault::Link);
        }
        seen.troubles.values().cloned().collect()
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
        let names = seen.charts.iter().filter(|(other, chart)| **other != whose && chart.has_a_name);
        let unresolved = |chart: &Chart| chart.probes.back().is_some_and(|p| p.2 == Symptom::Unresolved);
        let names = names.fold(Group::default(), |group, (_, chart)| Group {
            nodes: group.nodes + 1,
            failing: group.failing + usize::from(unresolved(chart)),
            silent: 0,
        });
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
                chart.heard = chart.heard.max(last);
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
        let mut own = None;
        for (other, chart) in of_pool {
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

impl Chart {
    fn of(entry: &Entry) -> Chart {
        let ip = entry.targets.iter().find_map(|target| match target {
            Target::Tcp(address) => Some(address.ip()),
            Target::Unix(_) => None,
        });
        Chart {
            host: ip.map_or_else(|| entry.node.address.to_string(), |ip| ip.to_string()),
            is_remote: ip.is_some_and(|ip| !ip.is_loopback()),
            has_a_name: super::resolve::has_a_name(entry),
            failures: VecDeque::new(),
            probes: VecDeque::new(),
            said: None,
            wrong: None,
            lates: VecDeque::new(),
            round_trip: None,
            failing: None,
            failed: None,
            is_silent: false,
            heard: None,
            answered: answered(&entry.node),
            node: entry.node.clone(),
            version: 1,
            lists: None,
        }
    }

    /// What it is busy with, as of now.
    fn lists(&mut self, now: Instant) -> Option<&Lists> {
        self.lists.as_mut()?.decay(now);
        if self.lists.as_ref().is_some_and(|lists| lists.is_empty()) {
            self.lists = None;
        }
        self.lists.as_deref()
    }

    /// It fails. Whether it did not before.
    fn fails(&mut self, now: Instant, is_silent: bool) -> bool {
        self.version += 1;
        self.is_silent = is_silent;
        let is_first = self.failing.is_none();
        if is_first {
            self.failing = Some((now, answered(&self.node)));
            self.failed = Some(now);
        }
        is_first
    }

    /// What it shows to one that is accused of failing since then.
    fn shows(&self, since: Instant) -> Shows {
        match (self.heard, self.failing) {
            (Some(heard), _) if heard >= since => Shows::Answer,
            (_, Some(_)) if self.is_silent => Shows::Silence,
            _ => Shows::Nothing,
        }
    }

    /// Whether a probe ended since the node failed first.
    fn is_fresh(&self, probe: &(Instant, Instant, Symptom)) -> bool {
        self.failed.is_some_and(|since| probe.1 >= since)
    }

    /// Failures of traffic within the window.
    fn recent(&self, now: Instant) -> [u64; Failure::ALL.len()] {
        let mut sum = [0; Failure::ALL.len()];
        for (_, new) in self.failures.iter().filter(|(at, _)| now - *at < WINDOW) {
            for (sum, new) in sum.iter_mut().zip(new) {
                *sum += new;
            }
        }
        sum
    }

    fn lateness(&self, now: Instant) -> Lateness {
        // What came before was owed from an earlier failure, which is over.
        let since = self.failed.unwrap_or(now);
        let is_of_now = |late: &&Late| now - late.came < WINDOW && late.came >= since;
        let mut recent: Vec<&Late> = self.lates.iter().filter(is_of_now).collect();
        recent.sort_by_key(|late| late.given_up);
        let (Some(first), Some(last)) = (recent.first(), recent.last()) else { return Lateness::Never };
        let late = last.came - last.given_up;
        // Two that were given up one after the other and came together waited for the same thing.
        let apart = last.given_up - first.given_up;
        if recent.len() > 1 && last.came.saturating_duration_since(first.came) > apart / 2 {
            return Lateness::Each(late);
        }
        Lateness::AtOnce(late)
    }
}

fn before(now: Instant, span: Duration) -> Instant {
    now.checked_sub(span).unwrap_or(now)
}

fn push<T>(kept: &mut VecDeque<T>, one: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// Requests that a node answered, be it with an error.
fn answered(node: &Node) -> u64 {
    let of = |outcome| {
        let blocks = node.blocks.iter().flat_map(|block| block.requests.iter());
        blocks.map(|class| class[outcome as usize].value()).sum::<u64>()
    };
    of(Outcome::Ok) + of(Outcome::Error)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use tokio::sync::Notify;

    use super::*;
    use crate::{
        health::tests::topology,
        net::Address,
        topology::{Evidence, HealthSettings, NodeId},
    };

    fn whose(name: &str) -> Whose {
        ("cache".into(), name.into())
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

    /// A node that falls silent is judged by what the others show since: they are asked, and their answers let
    /// the verdict stand; their silence withholds it, which is a trouble until the last is released.
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
                let times = (asked, Duration::from_millis(500));
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

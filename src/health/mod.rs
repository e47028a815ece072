//! EVIDENCE -> VERDICT. One detector and one probe per node, fed by what traffic counts and by
//! what the probe meets. What a detector thinks of its node goes to membership whole, whenever that is
//! something else than was told last; membership alone decides what comes of it. Runs on the control
//! runtime and touches nothing of the hot path but its counters.

mod cleaning;
mod detector;
mod flaps;
mod heavy;
mod judging;
mod lag;
mod memory;
mod newcomer;
mod patient;
mod probe;
mod quarantine;
mod resolve;
mod scene;
mod slow_log;
mod sweep;
mod window;
mod withhold;

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use detector::{Detector, Observation, Traffic};
pub use heavy::{Business, Heavy, Holder, Share, Stalls};
pub use lag::{LAG_MAX, Lag};
pub use memory::Buffers;
pub use newcomer::{Newcomer, Reception, receive};
pub use probe::{Answer, Late, Life, Probe, Prober, Question, Symptom};
pub use quarantine::Returns;
pub use resolve::RESOLVE_INTERVAL;
pub use scene::{Group, Lateness, Own, Scene, Sighting, Trouble, WINDOW, Whose};
pub use window::{Pace, Rate};
use window::{Reading, SLICES, Window};
pub use withhold::{
    ASK_MAX, Accusation, Charge, Fault, Judgement, LINK_GRACE, Lookup, NAMES_ASK_MAX, STALL_MIN, Shows,
    Witness, judge, judge_name,
};

use crate::topology::{
    Cause, Change, Data, Entry, ErrorReply, Failure, Health, Inbox, NodeId, NotedWrites, OnReturn, Placement,
    Samples, SeenBy, Topology, TopologyReader,
};
use cleaning::{Cleaner, Ended, Told};
use patient::Patient;
use slow_log::Slow;

/// Probes of one pool that run at once: the nodes may be thousands, our descriptors are not.
const PROBES_AT_ONCE: usize = 256;

/// From the start of a probe to the next at least, whatever traffic sees meanwhile.
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(20);

/// How often a verdict that waits is judged again.
const JUDGE_PAUSE: Duration = Duration::from_millis(20);

/// How often the samples of workers are taken.
const SAMPLES_PAUSE: Duration = Duration::from_millis(500);

/// From a probe of a node whose verdict waits to the next.
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// From a probe that a late clock made void until it is repeated.
const REPEAT_PAUSE: Duration = Duration::from_millis(50);

/// Watches one pool until membership is gone. Dropping it ends everything that it started, which
/// is how a pool that was removed ceases to be watched. `bell` is the one that the pool's
/// [`Evidence`](crate::topology::Evidence) rings.
pub async fn run(reader: TopologyReader, bell: Arc<Notify>, inbox: Inbox, scene: Scene, returns: Returns) {
    let resolve_again = Arc::new(Notify::new());
    let Returns { noted, graces, samples } = returns;
    tokio::select! {
        () = resolve::run(reader.clone(), inbox.clone(), resolve_again.clone(), scene.clone()) => {}
        () = watch(Ward::new(reader, scene, resolve_again, graces), (noted, samples), &bell, &inbox) => {}
    }
}

async fn watch(mut ward: Ward, told: (NotedWrites, Samples), bell: &Notify, inbox: &Inbox) {
    let (mut noted, samples) = told;
    let mut sampled = interval(SAMPLES_PAUSE);
    sampled.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut published = ward.reader.changes();
    let mut asks = ward.scene.asks();
    ward.admit(&noted);
    // Until no worker is left that could note anything.
    let (mut notes, mut may_note) = (Vec::new(), true);
    loop {
        let waits = !ward.held.is_empty();
        // Each arm is cancel-safe: a bell that is not heard stays rung, a revision that is not
        // seen stays unseen, a probe that is not taken stays in its set.
        let changes = tokio::select! {
            () = bell.notified() => {
                ward.take_samples(&samples);
                let seen = ward.sample();
                ward.judge(seen)
            }
            Ok(()) = published.changed() => ward.admit(&noted),
            ended = ward.cleaner.next() => ward.clean(ended, &mut noted),
            n = noted.next(&mut notes), if may_note => {
                may_note = n > 0;
                ward.cleaner.remember(notes.drain(..));
                Vec::new()
            }
            () = inbox.closed() => return,
            Some(ended) = ward.rounds.join_next() => {
                let heard = ward.hear(ended);
                ward.judge(heard)
            }
            Ok(()) = asks.changed() => {
                ward.patients.values().for_each(|patient| patient.call.hurry.notify_one());
                Vec::new()
            }
            () = sleep_until(ward.judge_at), if waits => ward.judge_again(),
            _ = sampled.tick() => {
                ward.take_samples(&samples);
                ward.read_slow_logs();
                Vec::new()
            }
            Some(read) = ward.slow_logs.join_next() => {
                ward.slow_log_read(read);
                Vec::new()
            }
            () = sleep_until(ward.looks_at) => {
                ward.look();
                Vec::new()
            }
            Some(readings) = ward.looks.join_next() => {
                let weighed = ward.weigh(readings);
                ward.judge(weighed)
            }
        };
        for change in changes {
            if inbox.send(change).await.is_err() {
                return;
            }
        }
    }
}

/// The nodes of one pool that are watched.
struct Ward {
    reader: TopologyReader,
    scene: Scene,
    /// Verdicts that wait, or are withheld.
    held: HashMap<NodeId, Held>,
    /// When they are judged again: a time and no pause, which whatever else happens would begin anew.
    judge_at: Instant,
    resolve_again: Arc<Notify>,
    permits: Arc<Semaphore>,
    patients: HashMap<NodeId, Patient>,
    rounds: JoinSet<Round>,
    cleaner: Cleaner,
    /// When the windows are read next, and how long they are.
    looks_at: Instant,
    window: Duration,
    looks: JoinSet<Vec<(NodeId, Reading)>>,
    /// Reads the logs of nodes in doubt, and of which.
    slow_logs: JoinSet<(NodeId, Result<Vec<Slow>, String>)>,
    reading: HashSet<NodeId>,
}

/// A verdict of which nobody is told yet. Its detector has pronounced it.
struct Held {
    cause: Cause,
    seen_by: SeenBy,
    since: Instant,
    /// Why it is withheld; none while others are asked.
    fault: Option<Fault>,
    /// Nobody else need be asked: the node answered itself, so that the way is open, and it is what requests
    /// met that counts.
    stands: bool,
}

/// How a waiting probe is hurried.
#[derive(Default)]
struct Call {
    hurry: Notify,
    anew: AtomicBool,
    /// The node is back if it answers.
    returns: AtomicBool,
}

/// A task that waited and probed.
struct Round {
    id: NodeId,
    prober: Prober,
    probe: Option<Probe>,
}

/// When a probe is to begin.
struct Appointment {
    due: Instant,
    /// Not before this, even when hurried.
    earliest: Instant,
}

impl Ward {
    fn new(
        reader: TopologyReader,
        scene: Scene,
        resolve_again: Arc<Notify>,
        in_flight: Arc<[AtomicU64]>,
    ) -> Ward {
        let cleaner = Cleaner::new(reader.clone(), in_flight);
        Ward {
            reader,
            scene,
            held: HashMap::new(),
            judge_at: Instant::now(),
            resolve_again,
            permits: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            patients: HashMap::new(),
            rounds: JoinSet::new(),
            cleaner,
            looks_at: Instant::now(),
            window: Duration::ZERO,
            looks: JoinSet::new(),
            slow_logs: JoinSet::new(),
            reading: HashSet::new(),
        }
    }

    /// Follows the topology: nodes that came are watched, nodes that left are not.
    fn admit(&mut self, noted: &NotedWrites) -> Vec<Change> {
        let topology = self.reader.load();
        let mut has_come = false;
        for entry in topology.nodes.iter() {
            match self.patients.get_mut(&entry.node.id) {
                Some(patient) => {
                    patient.detector.configure(topology.health.clone());
                    patient.obeys(&topology.policy);
                    if matches!(entry.placement, Placement::Starting(to) if to.admitted > 0) {
                        patient.serves_some();
                    }
                    if !Arc::ptr_eq(&patient.targets, &entry.targets) {
                        patient.targets = entry.targets.clone();
                        self.scene.moved(&topology.pool, entry);
                        // Who answers there?
                        patient.call.hurry.notify_one();
                    }
                }
                None => {
                    has_come = true;
                    self.admit_one(&topology, entry);
                }
            }
        }
        let changes = self.cleaner.follow(&topology, noted.missed(), has_come);
        // All nodes of the topology are watched now, so most publishes, which take no node away, need no
        // second look.
        if self.patients.len() == topology.nodes.len() {
            return changes;
        }
        let here: HashSet<NodeId> = topology.nodes.iter().map(|e| e.node.id).collect();
        let (scene, held) = (&self.scene, &mut self.held);
        self.patients.retain(|id, patient| {
            let stays = here.contains(id);
            if !stays {
                patient.task.abort();
                held.remove(id);
                scene.leave(&topology.pool, &patient.name, *id);
            }
            stays
        });
        changes
    }

    fn admit_one(&mut self, topology: &Topology, entry: &Entry) {
        let now = Instant::now();
        let call = Arc::new(Call::default());
        let appointment = Appointment { due: now, earliest: now };
        let task = self.send(entry.node.id, Prober::default(), call.clone(), appointment);
        let detector = Detector::new(topology.health.clone(), entry.health, seed(&entry.node.name, 0), now);
        let patient = Patient {
            name: entry.node.name.clone(),
            targets: entry.targets.clone(),
            told: detector.opinion(),
            detector,
            counts: [0; Failure::ALL.len()],
            said: [0; ErrorReply::ALL.len()],
            doubts: 0,
            window: Window::default(),
            served: None,
            life: None,
            flushed: false,
            bounded: None,
            back: None,
            asked: 0,
            started: now,
            call,
            task,
        };
        if entry.placement != Placement::Owns {
            // It was away under another identity.
            self.cleaner.quarantine.cut(entry.node.id);
        }
        self.scene.admit(&topology.pool, entry);
        self.patients.insert(entry.node.id, patient);
    }

    fn send(&mut self, id: NodeId, prober: Prober, call: Arc<Call>, at: Appointment) -> AbortHandle {
        let (reader, permits) = (self.reader.clone(), self.permits.clone());
        self.rounds.spawn(round(reader, permits, id, prober, call, at))
    }

    /// The bell rang: of whom did traffic see something?
    fn sample(&mut self) -> Vec<NodeId> {
        let topology = self.reader.load();
        let now = Instant::now();
        let mut seen = Vec::new();
        for entry in topology.nodes.iter() {
            let Some(patient) = self.patients.get_mut(&entry.node.id) else { continue };
            let Some(traffic) = patient.news(&entry.node.evidence) else { continue };
            self.scene.traffic(now, &(topology.pool.clone(), patient.name.clone()), &traffic);
            patient.detector.step(now, Observation::Traffic(traffic));
            seen.push(entry.node.id);
            patient.call.anew.store(patient.detector.wants_new_connection(), Relaxed);
            if patient.detector.health() == Health::Suspect {
                patient.call.hurry.notify_one();
            }
            let is_lost = [Failure::Lost, Failure::Reset].iter().any(|kind| traffic.new[*kind as usize] > 0);
            if is_lost && resolve::has_a_name(entry) {
                self.resolve_again.notify_one();
            }
        }
        seen
    }

    /// Something of what the cleaner does is over.
    fn clean(&mut self, ended: Ended, noted: &mut NotedWrites) -> Vec<Change> {
        let Told { node, is_emptied, changes } = match ended {
            Ended::Grace(waited) => {
                let patients = &self.patients;
                let brings = |node| patients.get(&node).map_or(Data::Unknown, Patient::brings);
                return self.cleaner.begin_cleaning(waited, noted, brings);
            }
            Ended::Cleaning(cleaned) => self.cleaner.end_cleaning(cleaned),
            Ended::Sweep(swept) => return self.cleaner.end_sweep(swept),
            Ended::Pause => return self.cleaner.still_sweeps(),
        };
        let topology = self.reader.load();
        // What is wrong with it is over before it has its keys.
        let told = node.and_then(|node| self.tell(&topology, node));
        let emptied = node.filter(|_| is_emptied).and_then(|node| self.patients.get_mut(&node));
        emptied.into_iter().for_each(|patient| patient.emptied(&topology.policy));
        told.into_iter().chain(changes).collect()
    }

    /// What are nodes busy with?
    fn take_samples(&self, samples: &Samples) {
        let mut taken = Vec::new();
        samples.take(&mut taken);
        if taken.is_empty() {
            return;
        }
        let pool = self.reader.load().pool.clone();
        taken.sort_by_key(|sample| sample.node);
        for samples in taken.chunk_by(|a, b| a.node == b.node) {
            let Some(patient) = self.patients.get(&samples[0].node) else { continue };
            self.scene.sampled(Instant::now(), &(pool.clone(), patient.name.clone()), samples);
        }
    }

    /// A fifth of the window is over: the counters are read, beside the control loop, as there may be many.
    fn look(&mut self) {
        let topology = self.reader.load();
        if self.window != topology.health.window {
            self.window = topology.health.window;
            self.patients.values_mut().for_each(|patient| patient.window = Window::default());
        }
        self.looks_at = Instant::now() + self.window / SLICES;
        if self.looks.is_empty() {
            let read = |entry: &Entry| (entry.node.id, Reading::of(&entry.node));
            self.looks.spawn_blocking(move || topology.nodes.iter().map(read).collect());
        }
    }

    /// The counters were read: what became of requests, and who is slow? Gives those of whom something else
    /// is thought now.
    fn weigh(&mut self, readings: Result<Vec<(NodeId, Reading)>, JoinError>) -> Vec<NodeId> {
        let readings = readings.unwrap_or_else(|error| {
            tracing::error!(%error, "reading counters failed inside ringway");
            Vec::new()
        });
        let (topology, now) = (self.reader.load(), Instant::now());
        let mut patients: HashMap<NodeId, &mut Patient> =
            self.patients.iter_mut().map(|(id, patient)| (*id, patient)).collect();
        let mut seen: Vec<(NodeId, &mut Patient)> = Vec::with_capacity(patients.len());
        for (id, reading) in readings {
            let Some(patient) = patients.remove(&id) else { continue };
            patient.window.push(reading);
            seen.push((id, patient));
        }
        let doubtful = self.scene.doubtful(now, &topology.pool, self.window / SLICES);
        seen.retain_mut(|(_, patient)| {
            let counts = !doubtful.contains(&patient.name);
            if !counts {
                patient.window = Window::default();
            }
            counts
        });
        // What is lost is sent again, and late; nobody is slow for that.
        if self.scene.is_lossy(now) {
            let remote = self.scene.remote(&topology.pool);
            let late = seen.iter_mut().filter(|(_, patient)| remote.contains(&patient.name));
            late.for_each(|(_, patient)| patient.window.forget_pace());
        }
        let paces = window::paces(seen.iter_mut().map(|(_, patient)| &mut patient.window), &topology.health);
        let step = |((id, patient), pace): ((NodeId, &mut Patient), Pace)| {
            let observations = [Observation::Rate(patient.window.rate()), Observation::Pace(pace)];
            let opinions = observations.map(|observation| patient.detector.step(now, observation));
            opinions.iter().any(Option::is_some).then_some(id)
        };
        seen.into_iter().zip(paces).filter_map(step).collect()
    }

    /// A probe ended: what does it mean, and when is the next? Gives whom it was about.
    fn hear(&mut self, ended: Result<Round, JoinError>) -> Option<NodeId> {
        let round = match ended {
            Ok(round) => round,
            Err(error) => {
                self.revive(&error);
                return None;
            }
        };
        let mut patient = self.patients.remove(&round.id)?;
        let now = Instant::now();
        let mut pause = REPEAT_PAUSE;
        if let Some(mut probe) = round.probe {
            patient.started = probe.started;
            // Who answered is no question of time, and is asked once for a connection.
            patient.met(&probe, &self.reader.load().policy);
            if !self.scene.lag().overlapped(probe.started, probe.ended) {
                let topology = self.reader.load();
                patient.compare(&mut probe, &topology.policy);
                let whose = (topology.pool.clone(), patient.name.clone());
                self.scene.probe(&whose, &probe);
                let own = topology.position(round.id).map(|at| &topology.nodes[at].node);
                own.into_iter().for_each(|node| node.evidence.probed(probe.is_well()));
                let stands = self.hear_of_held(round.id, &mut patient, &probe, &whose);
                let is_gone = matches!(probe.answer, Answer::Failed { after_loss: true, .. })
                    || matches!(probe.answer, Answer::Failed { cause: Cause::Refused, .. });
                if is_gone
                    && topology.position(round.id).is_some_and(|at| resolve::has_a_name(&topology.nodes[at]))
                {
                    self.resolve_again.notify_one();
                }
                let data = patient.offers(&topology.policy);
                let was_out = patient.detector.health().is_out();
                // What it answers before anybody was told that it is out does not bring it back.
                for observation in observations(&patient.name, probe, data).into_iter().filter(|_| !stands) {
                    patient.detector.step(now, observation);
                }
                let is_back = was_out && !patient.detector.health().is_out();
                self.receive(&topology, (round.id, &mut patient), is_back.then_some(data));
                pause = patient.detector.pause().max(PROBE_PAUSE_MIN);
                if self.held.contains_key(&round.id) {
                    pause = pause.min(HELD_PAUSE);
                }
            }
        }
        patient.asked += 1;
        patient.call.returns.store(patient.detector.returns_next(), Relaxed);
        patient.call.anew.store(patient.detector.wants_new_connection(), Relaxed);
        let at = Appointment {
            due: now + jittered(pause, &patient.name, patient.asked),
            earliest: patient.started + PROBE_PAUSE_MIN,
        };
        patient.task = self.send(round.id, round.prober, patient.call.clone(), at);
        self.patients.insert(round.id, patient);
        Some(round.id)
    }

    /// A probe that panicked must not leave its node unwatched. One that was aborted belongs to a
    /// node that left.
    fn revive(&mut self, error: &JoinError) {
        let lost = self.patients.iter().find(|(_, p)| p.task.id() == error.id());
        let Some((id, call)) = lost.map(|(id, p)| (*id, p.call.clone())) else { return };
        tracing::error!(%error, "a probe failed inside ringway");
        let due = Instant::now() + Duration::from_secs(1);
        let task = self.send(id, Prober::default(), call, Appointment { due, earliest: due });
        if let Some(patient) = self.patients.get_mut(&id) {
            patient.task = task;
        }
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        let pool = self.reader.load().pool.clone();
        for (id, patient) in &self.patients {
            self.scene.leave(&pool, &patient.name, *id);
        }
    }
}

/// What a probe tells the detector; nothing if it could not be made.
fn observations(node: &str, probe: Probe, data: Data) -> Vec<Observation> {
    match probe.answer {
        Answer::Serves(wrong) => {
            let Probe { started, took, .. } = probe;
            vec![Observation::Wrong(wrong), Observation::Good { started, took, data }]
        }
        Answer::Failed { cause, after_loss, text } => {
            let wrong =
                (cause == Cause::Misconfigured).then(|| Observation::Wrong(Some(text.as_str().into())));
            wrong.into_iter().chain([Observation::Failed { cause, after_loss, text }]).collect()
        }
        Answer::Void(why) => {
            tracing::warn!(node, why, "a probe could not be made: limits of this machine");
            Vec::new()
        }
    }
}

/// Waits for its time, or until it is hurried by traffic or by its own connection that breaks;
/// then probes.
async fn round(
    reader: TopologyReader,
    permits: Arc<Semaphore>,
    id: NodeId,
    mut prober: Prober,
    call: Arc<Call>,
    at: Appointment,
) -> Round {
    let hurried = async {
        tokio::select! {
            () = call.hurry.notified() => {}
            () = prober.broken() => {}
        }
        sleep_until(at.earliest).await;
    };
    tokio::select! {
        () = hurried => {}
        () = sleep_until(at.due) => {}
    }
    let Ok(_permit) = permits.acquire().await else {
        // The semaphore is never closed.
        return pending().await;
    };
    let topology = reader.load();
    let Some(position) = topology.position(id) else {
        return Round { id, prober, probe: None };
    };
    // One that is kept in the ring, or held, has its own keys and nobody else's.
    let is_away = topology.nodes[position].placement == Placement::Away;
    // Where some keys stay with it, all others are deleted one by one.
    let flushes = topology.policy.on_return == OnReturn::Flush && !topology.policy.keeps_keys();
    let question = Question {
        address: topology.nodes[position].node.address.clone(),
        targets: topology.nodes[position].targets.clone(),
        policy: topology.policy.clone(),
        timeout: topology.health.timeout,
        anew: call.anew.load(Relaxed),
        who: true,
        flush: flushes && is_away && call.returns.load(Relaxed),
        deep: topology.health.deep.then(|| probe::key(&topology.pool, &topology.nodes[position].node.name)),
    };
    // A probe takes half a second at worst; it must not keep an old snapshot alive that long.
    drop(topology);
    let probe = prober.probe(&question).await;
    Round { id, prober, probe: Some(probe) }
}

/// A pause between nine and eleven tenths of this one: the probes of many nodes, and those of many
/// proxies, shall not meet.
fn jittered(pause: Duration, node: &str, turn: u64) -> Duration {
    let tenth = seed(node, turn) as f64 / u64::MAX as f64 / 5.0;
    pause.mul_f64(0.9 + tenth)
}

/// Another number for each node, turn and process. Processes in containers may all have the same id.
fn seed(node: &str, turn: u64) -> u64 {
    xxh3_64_with_seed(node.as_bytes(), probe::process() ^ turn)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use super::*;
    use crate::{
        net::{Address, Target},
        ring::{self, Ring},
        topology::{
            Admission, Because, Evidence, HealthSettings, News, Node, Opinion, Policy, TopologyWriter,
            channel, write_notes,
        },
    };

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A node that answers PING and ROLE until it is stopped.
    struct Responder {
        address: SocketAddr,
        task: Option<tokio::task::JoinHandle<()>>,
    }

    impl Responder {
        async fn bind(port: u16) -> TcpListener {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free")
        }

        async fn start() -> Responder {
            let listener = Responder::bind(0).await;
            let address = listener.local_addr().expect("it is bound");
            Responder { address, task: Some(tokio::spawn(Responder::serve(listener))) }
        }

        async fn again(&mut self) {
            let listener = Responder::bind(self.address.port()).await;
            self.task = Some(tokio::spawn(Responder::serve(listener)));
        }

        async fn serve(listener: TcpListener) {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(Responder::session(stream));
            }
        }

        async fn session(mut stream: TcpStream) {
            let mut buffer = [0; 256];
            while let Ok(n) = stream.read(&mut buffer).await {
                let reply: &[u8] = match &buffer[..n] {
                    [] => return,
                    ping if ping.ends_with(b"PING\r\n") => b"+PONG\r\n",
                    _ => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
                };
                if stream.write_all(reply).await.is_err() {
                    return;
                }
            }
        }

        async fn stop(&mut self) {
            if let Some(task) = self.task.take() {
                task.abort();
                // Aborted is how it ends.
                let _ = task.await;
            }
        }
    }

    /// A pool of one node, `n1`.
    pub(super) fn topology(address: SocketAddr, settings: HealthSettings, bell: &Arc<Notify>) -> Topology {
        let node = Node {
            id: NodeId(7),
            name: "n1".into(),
            address: Address::Tcp { host: address.ip().to_string(), port: address.port() },
            weight: 1,
            zone: None,
            evidence: Evidence::new(bell.clone()),
            blocks: Arc::new([]),
            load: Arc::default(),
        };
        let entry = Entry {
            node: Arc::new(node),
            health: Health::Healthy,
            order: None,
            placement: Placement::Owns,
            targets: Arc::new([Target::Tcp(address)]),
            misconfigured: None,
            slow: None,
        };
        let ring = ring::Settings {
            placement: ring::Placement::Vnode { points: 4 },
            hash: ring::HashKind::Xxh3_64,
            char_sign: ring::CharSign::X86,
            hash_tag: None,
        };
        Topology {
            budget_due: None,
            leftovers: Arc::default(),
            gutter: None,
            waits: Arc::default(),
            pool: "cache".into(),
            epoch: 1,
            revision: 1,
            ring: Arc::new(Ring::build(&ring, &[ring::Member { name: "n1".into(), weight: 1 }])),
            nodes: Arc::new([entry]),
            policy: Arc::new(Policy::default()),
            health: Arc::new(settings),
            ordinals: Arc::new(["n1".into()]),
        }
    }

    /// A watched pool of one node.
    struct Scene {
        node: Responder,
        writer: TopologyWriter,
        changes: mpsc::Receiver<Change>,
        watching: tokio::task::JoinHandle<()>,
    }

    impl Scene {
        async fn start(settings: HealthSettings) -> Scene {
            let node = Responder::start().await;
            let bell = Arc::new(Notify::new());
            let (writer, reader) = channel(topology(node.address, settings, &bell));
            let (inbox, changes) = mpsc::channel(16);
            let watching = tokio::spawn(async move {
                let lag = Lag::new();
                let measuring = tokio::spawn(lag.clone().run());
                let returns =
                    Returns { noted: write_notes().1, graces: Arc::new([]), samples: Samples::new(0) };
                run(reader, bell, inbox, crate::health::Scene::new(lag), returns).await;
                measuring.abort();
            });
            Scene { node, writer, changes, watching }
        }

        fn evidence(&self) -> Arc<Node> {
            self.writer.current().nodes[0].node.clone()
        }

        /// What is thought of a node now, and of which.
        async fn opinion(&mut self) -> (NodeId, Opinion) {
            let change = tokio::time::timeout(PATIENCE, self.changes.recv()).await.expect("a word in time");
            match change.expect("health runs") {
                Change::News { node, news: News::Judged(opinion), .. } => (node, opinion),
                other => panic!("{other:?}"),
            }
        }

        /// The next one, but for doubts: those depend on who notices first.
        async fn next(&mut self) -> (NodeId, Opinion) {
            loop {
                let (node, opinion) = self.opinion().await;
                if opinion.because != Because::Nothing {
                    return (node, opinion);
                }
            }
        }

        /// The next one says that the node failed.
        async fn fails(&mut self, node: NodeId, cause: Cause) {
            let (who, Opinion { health, because, .. }) = self.next().await;
            assert_eq!((who, health), (node, Health::Ejected));
            let Because::Failed(failed) = because else { panic!("{because:?}") };
            assert_eq!(failed.cause, cause);
        }
    }

    fn quick() -> HealthSettings {
        HealthSettings {
            interval: Duration::from_millis(60),
            timeout: Duration::from_secs(2),
            ..HealthSettings::default()
        }
    }

    /// A node that goes away while nobody uses it is ejected as refused, long before the next probe
    /// was due: the probe's own connection tells.
    #[tokio::test]
    async fn an_idle_node_that_goes_is_noticed_at_once() {
        let slow = HealthSettings { interval: Duration::from_secs(3600), ..quick() };
        let mut scene = Scene::start(slow).await;
        let node = scene.evidence();
        // A loss that was none brings a probe, and with it a standing connection, for certain.
        node.evidence.failed(Failure::Lost, 1);
        while scene.opinion().await.1.health != Health::Healthy {}
        scene.node.stop().await;
        scene.fails(NodeId(7), Cause::Refused).await;
        scene.watching.abort();
    }

    /// Away, absent, back: eject, probation, restore, in this order.
    #[tokio::test]
    async fn a_node_goes_and_comes_back() {
        let mut scene = Scene::start(quick()).await;
        scene.node.stop().await;
        scene.fails(NodeId(7), Cause::Refused).await;
        scene.node.again().await;
        let mut opinion = scene.next().await.1;
        assert_eq!(opinion.health, Health::Probation);
        // A late clock on a busy machine may void a probe, but the order stays.
        while opinion.health.is_out() {
            opinion = scene.next().await.1;
        }
        assert_eq!(opinion.health, Health::Healthy);
        assert!(matches!(opinion.because, Because::Returned(_)), "{opinion:?}");
        scene.watching.abort();
    }

    /// Timeouts that traffic counts eject a node although its probes are answered, and the bell is
    /// heard at once, not at the next probe.
    #[tokio::test]
    async fn the_bell_is_heard() {
        let slow = HealthSettings { interval: Duration::from_secs(3600), ..quick() };
        let mut scene = Scene::start(slow).await;
        scene.evidence().evidence.failed(Failure::Timeout, 3);
        scene.fails(NodeId(7), Cause::Timeout).await;
        scene.watching.abort();
    }

    /// A probe that a late clock measured says nothing, whether it failed or not, and is repeated;
    /// the same probe counts when the clock was in time.
    #[tokio::test]
    async fn a_void_probe_says_nothing() {
        for is_late in [true, false] {
            let bell = Arc::new(Notify::new());
            let address = (Ipv4Addr::LOCALHOST, 1).into();
            let (_writer, reader) = channel(topology(address, quick(), &bell));
            let lag = Lag::new();
            let measuring = tokio::spawn(lag.clone().run());
            tokio::task::yield_now().await;
            let mut ward =
                Ward::new(reader, crate::health::Scene::new(lag), Arc::new(Notify::new()), Arc::new([]));
            ward.admit(&write_notes().1);
            // Nothing else runs on this thread meanwhile: a stall.
            std::thread::sleep(if is_late { LAG_MAX * 2 } else { Duration::ZERO });
            let now = Instant::now();
            let probe = Probe {
                life: None,
                flushed: false,
                took: Duration::ZERO,
                symptom: Symptom::Refused,
                late: Vec::new(),
                started: now - Duration::from_millis(5),
                ended: now,
                answer: Answer::Failed { cause: Cause::Refused, after_loss: false, text: "refused".into() },
            };
            let ended = Round { id: NodeId(7), prober: Prober::default(), probe: Some(probe) };
            let heard = ward.hear(Ok(ended));
            let changes = ward.judge(heard);
            assert_eq!(changes.len(), usize::from(!is_late), "{changes:?}");
            assert_eq!(ward.patients[&NodeId(7)].detector.health() == Health::Ejected, !is_late);
            assert_eq!(ward.rounds.len(), 2, "the next probe is under way");
            measuring.abort();
        }
    }

    /// A node that leaves the pool is not probed any more, one that comes is probed at once.
    #[tokio::test]
    async fn probes_follow_the_topology() {
        let mut scene = Scene::start(quick()).await;
        let mut absent = Responder::start().await;
        absent.stop().await;
        let mut next = topology(absent.address, quick(), &Arc::new(Notify::new()));
        next.revision += 1;
        let mut entry = next.nodes[0].clone();
        let node = Node {
            id: NodeId(8),
            name: "n1".into(),
            address: entry.node.address.clone(),
            weight: 1,
            zone: None,
            evidence: Evidence::default(),
            blocks: Arc::new([]),
            load: Arc::default(),
        };
        entry.node = Arc::new(node);
        next.nodes = Arc::new([entry]);
        scene.writer.publish(next);
        scene.node.stop().await;
        scene.fails(NodeId(8), Cause::Refused).await;
        scene.watching.abort();
    }

    /// It ends when nobody takes its verdicts any more.
    #[tokio::test]
    async fn it_ends_with_membership() {
        let Scene { watching, changes, .. } = Scene::start(quick()).await;
        drop(changes);
        tokio::time::timeout(PATIENCE, watching).await.expect("it ends").expect("it does not panic");
    }

    /// Pauses of one node differ from turn to turn and stay within a tenth.
    #[test]
    fn pauses_are_jittered() {
        let pauses: Vec<_> = (0..100).map(|turn| jittered(Duration::from_secs(1), "n1", turn)).collect();
        assert!(pauses.iter().all(|p| (900..=1100).contains(&p.as_millis())));
        assert!(pauses.windows(2).any(|w| w[0].abs_diff(w[1]) > Duration::from_millis(50)));
    }

    /// Another process that answers well in the place of the one that served is an absence, though nobody was
    /// refused: also when it was first seen by a probe that was void. Where nodes serve what they have it is
    /// none.
    #[tokio::test]
    async fn who_answers_is_another() {
        for (on_return, durable, expected) in [
            (OnReturn::Quarantine, false, Some(Data::Other)),
            (OnReturn::Serve, true, Some(Data::Other)),
            (OnReturn::Serve, false, None),
        ] {
            let bell = Arc::new(Notify::new());
            let settings = HealthSettings { rise: 1, flap_max: Duration::ZERO, ..HealthSettings::default() };
            let mut first = topology((Ipv4Addr::LOCALHOST, 1).into(), settings, &bell);
            let policy = Policy { on_return, durable, ..(*first.policy).clone() };
            first.policy = Arc::new(policy.clone());
            let (_writer, reader) = channel(first);
            let mut ward =
                Ward::new(reader, crate::health::Scene::new(Lag::new()), Arc::default(), Arc::new([]));
            ward.admit(&write_notes().1);
            let life = |process: &str| Life { process: process.into(), started: Some(5), keys: Some(3) };
            let hear = |ward: &mut Ward, life: Option<Life>| {
                let (now, took, late) = (Instant::now(), Duration::ZERO, Vec::new());
                let (answer, symptom) = (Answer::Serves(None), Symptom::Good);
                let probe =
                    Probe { life, flushed: false, took, symptom, late, started: now, ended: now, answer };
                let round = Round { id: NodeId(7), prober: Prober::default(), probe: Some(probe) };
                let heard = ward.hear(Ok(round));
                ward.judge(heard)
                    .into_iter()
                    .map(|change| match change {
                        Change::News { news: News::Judged(opinion), .. } => opinion.because,
                        other => panic!("{other:?}"),
                    })
                    .next()
            };
            hear(&mut ward, Some(life("a")));
            assert_eq!(hear(&mut ward, Some(life("a"))), None, "{on_return:?}: it is the same");
            if expected.is_some() {
                // As a void probe leaves it.
                let patient = ward.patients.get_mut(&NodeId(7)).expect("it is watched");
                patient.life = Some(life("b"));
            }
            let because = hear(&mut ward, expected.is_none().then(|| life("b")));
            let Some(data) = expected else {
                assert_eq!(because, None);
                continue;
            };
            let Some(Because::Failed(failed)) = because else { panic!("{on_return:?}: {because:?}") };
            assert_eq!(failed.cause, Cause::Replaced);
            assert!(failed.evidence.contains("127.0.0.1:1: another process answers, b of 5 and not a of 5"));
            let back = hear(&mut ward, None);
            let Some(Because::Returned(back)) = back else { panic!("{on_return:?}: {back:?}") };
            assert_eq!(back.data, data, "{on_return:?}");
            assert_eq!(hear(&mut ward, Some(life("b"))), None, "it is who serves now");
        }
    }

    /// What a node came back with is what it has until it serves: a second return of the same process says no
    /// other.
    #[tokio::test]
    async fn a_second_return() {
        let bell = Arc::new(Notify::new());
        let settings = HealthSettings { rise: 1, flap_max: Duration::ZERO, ..HealthSettings::default() };
        let (writer, reader) = channel(topology((Ipv4Addr::LOCALHOST, 1).into(), settings, &bell));
        let mut ward = Ward::new(reader, crate::health::Scene::new(Lag::new()), Arc::default(), Arc::new([]));
        ward.admit(&write_notes().1);
        let hear = |ward: &mut Ward, process: Option<&str>| {
            let answer = match process {
                Some(_) => Answer::Serves(None),
                None => Answer::Failed { cause: Cause::Refused, after_loss: true, text: "refused".into() },
            };
            let life = process.map(|process| Life { process: process.into(), started: None, keys: Some(3) });
            let (now, symptom, late) = (Instant::now(), Symptom::Refused, Vec::new());
            let took = Duration::ZERO;
            let probe = Probe { life, flushed: false, took, symptom, late, started: now, ended: now, answer };
            let heard = ward.hear(Ok(Round { id: NodeId(7), prober: Prober::default(), probe: Some(probe) }));
            ward.judge(heard).into_iter().find_map(|change| match change {
                Change::News {
                    news: News::Judged(Opinion { because: Because::Returned(back), .. }), ..
                } => Some(back.data),
                _ => None,
            })
        };
        let fails = |ward: &mut Ward| assert_eq!([hear(ward, None), hear(ward, None)], [None, None]);
        hear(&mut ward, Some("a"));
        fails(&mut ward);
        let mut next = (*writer.current()).clone();
        next.revision += 1;
        let away = |e: &Entry| Entry { placement: Placement::Away, health: Health::Ejected, ..e.clone() };
        next.nodes = next.nodes.iter().map(away).collect();
        writer.publish(next);
        assert_eq!(hear(&mut ward, Some("b")), Some(Data::Other));
        fails(&mut ward);
        assert_eq!(hear(&mut ward, Some("b")), Some(Data::Other), "it has not served since");
        let mut next = (*writer.current()).clone();
        next.revision += 1;
        let placement = Placement::Starting(Admission { admitted: 0, fence: 4096 });
        next.nodes =
            next.nodes.iter().map(|e| Entry { placement, health: Health::Healthy, ..e.clone() }).collect();
        writer.publish(next);
        hear(&mut ward, Some("b"));
        assert_eq!(ward.patients[&NodeId(7)].brings(), Data::Other, "it is not clean yet");
    }
}

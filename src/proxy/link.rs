//! One worker's connections to one node: a pipeline for each protocol version and lane.

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashSet,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{
    dispatch::NOBODY,
    gate::Gate,
    inflight::Fate,
    line::{Line, Own},
    pipeline::{Content, Expect, MAYBE, Pipeline, Queued},
    rebind::{Leaving, Side},
    sampler::Countdown,
    scripts::Scripts,
    session::Session,
    worker::Worker,
};
use crate::{
    metrics::{NodeBlock, Outcome, Reason},
    net::Target,
    protocol::resp::Version,
    topology::{Entry, ErrorReply, Health, Node, NodeId, Policy},
};

/// Between two warnings of one kind, in microseconds.
const WARN_EVERY_US: u32 = 10_000_000;

/// Between two rings of control's bell because of what a node says of itself, in microseconds.
const RING_EVERY_US: u32 = 20_000;

/// Connections that all workers together make to one node at once, and the pause before each further one.
const CONNECTS: (u32, Duration) = (16, Duration::from_millis(10));

/// Requests that one worker streams to one node at once, and large retrievals, each on a connection of its
/// own: others wait, for a node has connections for many more than those who send or ask for so much.
const UPLOADS_MAX: usize = 32;
const RETRIEVALS_MAX: usize = 32;

/// How often a request is sent again whose connection ended while it was being written.
const BROKEN_OFF_MAX: u8 = 2;

/// What the topology in force says of a node and of how it is spoken to, as far as its pipelines care. Nobody
/// else keeps any of it, so that a reload reaches connections that exist. A node that left keeps what was
/// said last.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) targets: Arc<[Target]>,
    pub(crate) health: Health,
    pub(crate) policy: Arc<Policy>,
}

impl Standing {
    fn of(entry: &Entry, policy: &Arc<Policy>) -> Standing {
        Standing { targets: entry.targets.clone(), health: entry.health, policy: policy.clone() }
    }
}

/// The link.
pub(crate) struct Link {
    pub(crate) node: Arc<Node>,
    pub(crate) standing: RefCell<Standing>,
    worker_index: usize,
    pub(crate) scripts: Arc<Scripts>,
    /// By version, then by lane.
    lanes: [RefCell<Vec<Rc<Pipeline>>>; 2],
    /// Holds back those that connect.
    pub(crate) gate: Gate,
    /// When something that repeats itself was last warned about.
    warned_us: Cell<Option<u32>>,
    /// When control's bell was last rung because of a reply.
    rang_us: Cell<Option<u32>>,
    /// Which replies are sampled.
    pub(crate) countdown: Countdown,
    /// Pipelines that take no new requests but still wait for replies.
    leaving: RefCell<Vec<Rc<Pipeline>>>,
    /// Sessions that wait for their turn to have a connection of their own, by what for.
    lines: [Line; 2],
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("node", &self.node.name).finish_non_exhaustive()
    }
}

impl Side for Link {
    fn id(&self) -> NodeId {
        self.node.id
    }

    fn update(&self, entry: &Entry, policy: &Arc<Policy>) {
        let before = self.standing.replace(Standing::of(entry, policy));
        // Who is where the node is no more is not the node.
        let has_left = |target: &Target| !entry.targets.contains(target);
        if !Arc::ptr_eq(&before.targets, &entry.targets) && before.targets.iter().any(has_left) {
            self.renew();
        }
    }
}

impl Link {
    pub(crate) fn new(
        entry: &Entry,
        policy: &Arc<Policy>,
        worker_index: usize,
        scripts: &Arc<Scripts>,
    ) -> Rc<Link> {
        Rc::new(Link {
            node: entry.node.clone(),
            standing: RefCell::new(Standing::of(entry, policy)),
            worker_index,
            scripts: scripts.clone(),
            lanes: Default::default(),
            gate: Gate::new(CONNECTS.0, CONNECTS.1, entry.node.blocks.len()),
            warned_us: Cell::new(None),
            rang_us: Cell::new(None),
            countdown: Countdown::new(entry.node.id.0 << 16 | worker_index as u64),
            leaving: RefCell::default(),
            lines: [Line::new(Own::Upload, UPLOADS_MAX), Line::new(Own::Retrieval, RETRIEVALS_MAX)],
        })
    }

    /// This worker's counters for the node.
    #[inline]
    pub(crate) fn block(&self) -> &NodeBlock {
        &self.node.blocks[self.worker_index]
    }

    /// The pipeline of a lane, made if there is none.
    #[inline(always)]
    pub(crate) fn pipeline(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        policy: &Policy,
        version: Version,
        lane: u64,
    ) -> Ref<'_, Rc<Pipeline>> {
        let lane =
            if policy.connections_per_node == 1 { 0 } else { lane as usize % policy.connections_per_node };
        self.lane(version, lane).unwrap_or_else(|| {
            self.open_lanes(&self.lanes[version as usize], lane, || Pipeline::new(self, worker, version))
        })
    }

    /// The pipeline of a lane, if there is one.
    #[inline(always)]
    pub(crate) fn lane(&self, version: Version, lane: usize) -> Option<Ref<'_, Rc<Pipeline>>> {
        Ref::filter_map(self.lanes[version as usize].borrow(), |lanes| lanes.get(lane)).ok()
    }

    /// The pipeline of a lane that has none yet.
    #[cold]
    fn open_lanes<'a>(
        &self,
        lanes: &'a RefCell<Vec<Rc<Pipeline>>>,
        lane: usize,
        make: impl FnMut() -> Rc<Pipeline>,
    ) -> Ref<'a, Rc<Pipeline>> {
        lanes.borrow_mut().resize_with(lane + 1, make);
        Ref::map(lanes.borrow(), |lanes| &lanes[lane])
    }

    /// A pipeline of a session's own, for a request that would hold up the others.
    pub(crate) fn private(self: &Rc<Self>, worker: &Rc<Worker>, version: Version, own: Own) -> Rc<Pipeline> {
        let pipeline = Pipeline::private(self, worker, version, own);
        pipeline.retire();
        self.leaving.borrow_mut().push(pipeline.clone());
        pipeline
    }

    /// Whether it is this session's turn to have a connection of its own.
    pub(crate) fn is_turn(&self, session: &Session, own: Own) -> bool {
        let line = self.line(own);
        line.is_turn(session, self.busy(line))
    }

    /// Where sessions wait for that.
    pub(crate) fn line(&self, own: Own) -> &Line {
        &self.lines[own as usize]
    }

    /// Requests of a line that are under way.
    fn busy(&self, line: &Line) -> usize {
        let leaving = self.leaving.borrow();
        leaving.iter().filter(|p| p.own() == Some(line.own) && !p.is_over()).count()
    }

    /// Everybody looks again: nobody stands in a line any more.
    pub(crate) fn disperse(&self) {
        self.lines.iter().for_each(Line::disperse);
    }

    /// Takes a pipeline out of its lane: the requests in it are answered, others get the new one that
    /// is given back.
    pub(crate) fn detach(&self, pipeline: &Rc<Pipeline>) -> Option<Rc<Pipeline>> {
        let lanes = &mut *self.lanes[pipeline.version as usize].borrow_mut();
        let at = lanes.iter().position(|p| Rc::ptr_eq(p, pipeline))?;
        let fresh = pipeline.fresh();
        lanes[at] = fresh.clone();
        pipeline.retire();
        self.leaving.borrow_mut().push(pipeline.clone());
        Some(fresh)
    }

    /// Connections are to be made or shared in another way: requests under way are answered where
    /// they are, what follows them gets new pipelines.
    pub(crate) fn renew(&self) {
        for lanes in &self.lanes {
            for pipeline in lanes.take() {
                pipeline.step_aside();
                self.leaving.borrow_mut().push(pipeline);
            }
        }
    }

    /// The node owns nothing any more. Requests that may be sent elsewhere go into `moved`; the
    /// others are refused, or wait for their replies when it retires.
    pub(crate) fn leave(&self, leaving: Leaving, moved: &mut Vec<(Expect, Vec<u8>)>) {
        let mut all: Vec<_> = std::mem::take(&mut *self.leaving.borrow_mut());
        for lanes in &self.lanes {
            all.append(&mut lanes.borrow_mut());
        }
        for pipeline in all {
            match leaving {
                Leaving::Evict => self.evict(&pipeline, moved),
                Leaving::Retire => {
                    moved.extend(pipeline.leave());
                    if !pipeline.is_over() {
                        self.leaving.borrow_mut().push(pipeline);
                    }
                }
            }
        }
    }

    fn evict(&self, pipeline: &Rc<Pipeline>, moved: &mut Vec<(Expect, Vec<u8>)>) {
        let taken = pipeline.reset();
        count_unbounded(&taken, self.block());
        for (mut expect, fate, bytes) in taken {
            // Whoever asked may have given up, and the node may execute it all the same.
            pipeline.note_in_doubt(&expect, fate, &bytes, self.node.id);
            if !expect.session.awaits(&expect) {
                continue;
            }
            if pipeline.is_repeatable(&mut expect, fate, false) {
                moved.push((expect, bytes));
            } else {
                let text = format!("{}: ejected{}", self.describe(), in_doubt(&expect, fate));
                expect.session.fail(&expect, &text, Reason::MaybeApplied, Outcome::Lost);
            }
        }
    }

    /// All its pipelines in which something is under way of which this is true, each with a mark behind it.
    pub(crate) fn marks(
        &self,
        concerns: &dyn Fn(&Expect, Content<'_>) -> bool,
        into: &mut Vec<(Rc<Pipeline>, u64)>,
    ) {
        for pipelines in self.lanes.iter().chain([&self.leaving]) {
            let marked = |p: &Rc<Pipeline>| p.mark(concerns).map(|mark| (p.clone(), mark));
            into.extend(pipelines.borrow().iter().filter_map(marked));
        }
    }

    /// The node said this of itself. Control is to hear of it while it thinks well of the node.
    pub(crate) fn said(&self, kind: ErrorReply, now_us: u32) {
        let is_due = || self.rang_us.get().is_none_or(|at| now_us.wrapping_sub(at) >= RING_EVERY_US);
        let ring = kind.is_doubtful() && self.standing.borrow().health == Health::Healthy && is_due();
        if ring {
            self.rang_us.set(Some(now_us));
        }
        self.node.evidence.said(kind, ring);
    }

    /// Whether enough time has passed since the last warning.
    pub(crate) fn may_warn(&self, now_us: u32) -> bool {
        let quiet = self.warned_us.get().is_none_or(|at| now_us.wrapping_sub(at) >= WARN_EVERY_US);
        if quiet {
            self.warned_us.set(Some(now_us));
        }
        quiet
    }

    /// Why it can't be reached.
    pub(crate) fn why_unreachable(&self) -> &'static str {
        if self.standing.borrow().targets.is_empty() { "its name does not resolve" } else { "no connection" }
    }

    /// The node as messages name it.
    pub(crate) fn describe(&self) -> String {
        format!("ERR node {} ({})", self.node.name, self.node.address)
    }

    /// Whether a pipeline that is leaving waits for replies that do not come.
    pub(crate) fn is_stalled(&self) -> bool {
        self.leaving.borrow().iter().any(|p| p.is_stalled())
    }

    /// Whether nothing is under way any more.
    pub(crate) fn is_over(&self) -> bool {
        self.leaving.borrow().is_empty() && self.lanes.iter().all(|l| l.borrow().is_empty())
    }

    /// Looks after timeouts. Gives what waits for the node.
    pub(crate) fn tick(&self, now_us: u32) -> Queued {
        let queued = self.tick_pipelines(now_us, &self.standing.borrow().policy);
        if !self.leaving.borrow().is_empty() {
            let due: Vec<_> = self.leaving.borrow().iter().filter(|p| p.may_release()).cloned().collect();
            due.iter().for_each(|pipeline| pipeline.release());
            self.leaving.borrow().iter().for_each(|pipeline| pipeline.drop_unwanted(self.node.id));
            self.leaving.borrow_mut().retain(|p| !p.is_over());
        }
        let lines = self.lines.iter().filter(|line| !line.is_empty());
        lines.for_each(|line| line.call_next(self.busy(line)));
        queued
    }

    fn tick_pipelines(&self, now_us: u32, policy: &Policy) -> Queued {
        let mut queued = Queued::default();
        for pipelines in self.lanes.iter().chain([&self.leaving]) {
            // One after the other: what a pipeline does may change the list.
            let nth = |n: usize| pipelines.borrow().get(n).cloned();
            for pipeline in (0..).map_while(nth) {
                queued += pipeline.tick(now_us, policy);
            }
        }
        queued
    }
}

/// Of requests that are lost, counts what was to bound the life of keys that may have been written.
pub(crate) fn count_unbounded(taken: &[(Expect, Fate, Vec<u8>)], block: &NodeBlock) {
    // What stands at the start follows a write that is gone.
    let mut was_applied = true;
    for (expect, fate, _) in taken {
        if expect.seq != NOBODY {
            was_applied = *fate == Fate::MaybeApplied && !expect.read_only;
        } else if was_applied && *fate == Fate::Unsent {
            block.unbounded.add(1);
        }
    }
}

/// What the refusal of a request that is lost adds.
pub(crate) fn in_doubt(expect: &Expect, fate: Fate) -> &'static str {
    match fate {
        Fate::MaybeApplied if !expect.read_only => MAYBE,
        Fate::Unsent if expect.broken_off > BROKEN_OFF_MAX => {
            " in the middle of it, as before; it was not applied"
        }
        _ => "",
    }
}

/// Which requests stand before a write of the same session that may have been applied: a read among
/// them that the same node answered again would see what its session wrote after it.
pub(crate) fn overtaken<B>(taken: &[(Expect, Fate, B)]) -> Vec<bool> {
    let mut writers = HashSet::new();
    let mut flags: Vec<bool> = taken
        .iter()
        .rev()
        .map(|(expect, fate, _)| {
            let overtaken = writers.contains(&expect.session.id);
            if *fate == Fate::MaybeApplied && !expect.read_only {
                writers.insert(expect.session.id);
            }
            overtaken
        })
        .collect();
    flags.reverse();
    flags
}

/// Whether a request whose connection broke may be sent again, and counts the try unless it is
/// `free`.
pub(crate) fn repeatable(expect: &mut Expect, fate: Fate, free: bool) -> bool {
    match fate {
        // What ends each connection to which it is written is not to go round all nodes.
        Fate::Unsent => expect.broken_off <= BROKEN_OFF_MAX,
        Fate::MaybeApplied if expect.read_only && free => true,
        Fate::MaybeApplied if expect.read_only && expect.tries > 0 => {
            expect.tries -= 1;
            true
        }
        Fate::MaybeApplied | Fate::Broken => false,
    }
}

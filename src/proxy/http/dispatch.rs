//! Where a request goes, and where it goes next when a node fails it. A topology decides, and after
//! a failure the next one: a request waits for the verdict on its node, for as long as that may
//! take. Only one that reads may be asked of the next candidate when there is no verdict: what it
//! finds there is a page that is cached twice, or none, and never another page.

use std::{pin::pin, rc::Rc};

use tokio::time::{Instant, timeout_at};

use super::{
    attempt::{Answered, Failed, Onward, attempt},
    body::Offence,
    evidence::{Happened, Next},
    link::{Link, Pick},
    pool::{Bound, HttpPool},
    refuse::Refusal,
};
use crate::{
    metrics::{Class, PoolBlock},
    protocol::http::Repeat,
    topology::{NodeId, OnEjected, Route, Topology, VERDICT_GRACE, level},
};

/// However things go, a request is not sent more often.
const ATTEMPTS_MAX: u32 = 8;

/// Where a request's key is on the ring, and what happens to it when its node is ejected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) hash: u64,
    pub(super) on_ejected: OnEjected,
}

/// What a request has met so far.
struct Course {
    hash: u64,
    on_ejected: OnEjected,
    repeat: Repeat,
    /// How often it may still be sent when a node may have seen it.
    tries: u32,
    /// Nodes that failed it: an owner that has had its verdict's time, and who stood in for it.
    passed: Vec<NodeId>,
    /// Connections that are there are not to be trusted.
    fresh: bool,
}

/// Sends a request to the owner of its key.
///
/// # Errors
/// What the client is told: nobody answered it.
pub(super) async fn dispatch(
    pool: &Rc<HttpPool>,
    onward: &mut Onward,
    place: Place,
    class: Class,
) -> Result<Answered, Refusal> {
    let tries = pool.bound().topology.policy.retries;
    let repeat = onward.intent.repeat;
    let Place { hash, on_ejected } = place;
    let mut course = Course { hash, on_ejected, repeat, tries, passed: Vec::new(), fresh: false };
    for attempts in 0.. {
        let bound = pool.bound();
        let link = course.link(&bound)?;
        if attempts > 0 {
            link.block().retries.add(1);
        }
        let policy = &bound.topology.policy;
        let pick = course.pick(onward);
        let failed = match attempt(onward, &link, policy, class, pick).await {
            Ok(answered) => return Ok(answered),
            Err(failed) => failed,
        };
        let stands_in = course.owner(&bound.topology) != Some(link.node.id);
        let goes_on =
            attempts + 1 < ATTEMPTS_MAX && course.goes_on(pool, onward, (&link, stands_in), &failed).await;
        if !goes_on {
            return Err(refusal(&failed, repeat));
        }
    }
    unreachable!("the attempts are counted")
}

impl Course {
    /// Whom to ask.
    fn link(&self, bound: &Bound) -> Result<Rc<Link>, Refusal> {
        let topology = &bound.topology;
        let load = |i: usize| topology.nodes[i].node.load.value();
        let route = topology.route_bounded(self.hash, self.on_ejected, load);
        let at = match route {
            Route::Send(at) => at,
            Route::Fail(at) | Route::Miss(at) => {
                let why = topology.refusal(at).unwrap_or("away");
                bound.links[at].block().unserved.add(1);
                let text = format!("{}: {why}", bound.links[at].describe());
                return Err(Refusal::no_owner(text));
            }
            // HTTP nodes are not cleaned.
            Route::Wait(_) | Route::NoOwner => {
                return Err(Refusal::no_owner("no node of the pool owns anything"));
            }
        };
        let is_passed = |at: usize| self.passed.contains(&topology.nodes[at].node.id);
        let serves = |at: usize| topology.serves_at(at, level(self.hash)) && !is_passed(at);
        let next = match topology.policy.http.bounded_load {
            _ if !is_passed(at) => None,
            Some(bound) => topology.ring.first_bounded(self.hash, bound, serves, load),
            None => topology.ring.first_where(self.hash, serves),
        };
        let at = next.unwrap_or(at);
        self.note_substitute(bound, at);
        Ok(bound.links[at].clone())
    }

    /// Some node does not serve, and this one may do it in its place.
    fn note_substitute(&self, bound: &Bound, at: usize) {
        let topology = &bound.topology;
        if bound.is_whole {
            return;
        }
        let first = topology.ring.first(self.hash);
        if first != at && !topology.serves_at(first, level(self.hash)) {
            bound.links[first].block().substituted.add(1);
        }
    }

    fn pick(&self, onward: &Onward) -> Pick {
        match onward.is_repeatable() {
            _ if self.fresh => Pick::Fresh,
            true => Pick::Any,
            false => Pick::Sure,
        }
    }

    /// After a failure: whether the request is sent once more. Waits for a verdict where one is due: a node
    /// that only stood in for the key's owner, because that one had failed or had too much to do, is passed
    /// without one.
    async fn goes_on(
        &mut self,
        pool: &Rc<HttpPool>,
        onward: &Onward,
        (link, stands_in): (&Link, bool),
        failed: &Failed,
    ) -> bool {
        let next = failed.happened.next();
        let may_repeat = failed.is_unsent || onward.is_repeatable();
        match next {
            Next::Ends => return false,
            _ if !may_repeat => return false,
            Next::Moves => return failed.is_unsent || self.spend(),
            // No sign of anything: that connection was about to be closed.
            Next::Anew => {
                self.fresh = true;
                return true;
            }
            Next::Verdict | Next::Again | Next::Probe => {}
        }
        if !failed.is_unsent && !self.spend() {
            return false;
        }
        self.fresh = true;
        let nodes = pool.bound().links.len();
        let may_pass = self.repeat == Repeat::Safe
            && self.on_ejected == OnEjected::Rehash
            && self.passed.len() + 1 < nodes;
        let heard = onward.exchange.heard();
        let (moved, passes) = match next {
            Next::Probe => {
                let may_pass = may_pass || (stands_in && self.passed.len() + 1 < nodes);
                match self.learns(pool, link, (stands_in, may_pass), heard).await {
                    Learned::Moves => (true, false),
                    Learned::Fails => (false, may_pass),
                    Learned::Nothing => (false, false),
                }
            }
            _ if stands_in => (false, self.passed.len() + 1 < nodes),
            _ => (self.moves(pool, link.node.id, heard).await, may_pass),
        };
        if !moved && passes {
            self.passed.push(link.node.id);
        }
        moved || passes || (!stands_in && next == Next::Again && self.repeat != Repeat::Never)
    }

    /// Takes one try, if there is one.
    fn spend(&mut self) -> bool {
        let has_one = self.tries > 0;
        self.tries = self.tries.saturating_sub(1);
        has_one
    }

    /// Who owns the key.
    fn owner(&self, topology: &Topology) -> Option<NodeId> {
        match topology.route_by(self.hash, self.on_ejected) {
            Route::Send(at) => Some(topology.nodes[at].node.id),
            Route::Fail(_) | Route::Miss(_) | Route::Wait(_) | Route::NoOwner => None,
        }
    }

    /// Waits until the key has another owner than this node; false when there is no such verdict in
    /// time.
    async fn moves(&self, pool: &Rc<HttpPool>, from: NodeId, heard: Instant) -> bool {
        let mut changes = pool.handle.reader.changes();
        let has_moved = || self.owner(&pool.bound().topology) != Some(from);
        let deadline = pool.bound().topology.policy.deadline;
        let until = (Instant::now() + VERDICT_GRACE).min(heard + deadline);
        let _parked = Parked::new(pool.block());
        let verdict = timeout_at(until, async {
            while !has_moved() {
                if changes.changed().await.is_err() {
                    return false;
                }
            }
            true
        });
        verdict.await.unwrap_or(false)
    }

    /// Waits until the key has another owner than this node, which let a request time out, or a probe of it
    /// has ended: for as long as a probe may take to begin and to end, and as the client waits. A node that
    /// answers one is slow with this request, as the next one would be.
    async fn learns(
        &self,
        pool: &Rc<HttpPool>,
        link: &Link,
        (stands_in, may_pass): (bool, bool),
        heard: Instant,
    ) -> Learned {
        let (evidence, from) = (&link.node.evidence, link.node.id);
        let probes = evidence.probes();
        let mut changes = pool.handle.reader.changes();
        let (timeout, deadline) = {
            let topology = &pool.bound().topology;
            (topology.health.timeout, topology.policy.deadline)
        };
        let until = (Instant::now() + timeout + 2 * VERDICT_GRACE).min(heard + deadline);
        let _parked = Parked::new(pool.block());
        let learned = timeout_at(until, async {
            loop {
                let mut answered = pin!(evidence.answered());
                // From here on no end of a probe is missed.
                answered.as_mut().enable();
                let fails = evidence.fails_probes();
                if !stands_in && self.owner(&pool.bound().topology) != Some(from) {
                    return Learned::Moves;
                }
                if fails && may_pass {
                    return Learned::Fails;
                }
                if !fails && evidence.probes() != probes {
                    return Learned::Nothing;
                }
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return Learned::Nothing },
                    () = &mut answered => {}
                }
            }
        });
        learned.await.unwrap_or(Learned::Nothing)
    }
}

/// What became known of a node that let a request time out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Learned {
    /// The key has another owner.
    Moves,
    /// It does not answer probes either.
    Fails,
    /// It answers probes, or none has ended in time.
    Nothing,
}

/// A request that waits for a verdict; its client may go away meanwhile.
struct Parked<'a>(&'a PoolBlock);

impl Parked<'_> {
    fn new(block: &PoolBlock) -> Parked<'_> {
        block.parked.add(1);
        Parked(block)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.add(-1);
    }
}

/// What the client is told of the last failure.
fn refusal(failed: &Failed, repeat: Repeat) -> Refusal {
    let (status, kind, reason, outcome) = failed.happened.told();
    let maybe = !failed.is_unsent && repeat != Repeat::Safe;
    let text = match failed.happened {
        Happened::Offence(Offence::Slow) => Offence::Slow.to_string(),
        Happened::Offence(_) => failed.text.clone(),
        _ if maybe => format!("{}; the request may have been applied", failed.text),
        _ => failed.text.clone(),
    };
    Refusal { status, kind, reason, outcome, text: text.into() }
}

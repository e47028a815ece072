//! Where a request goes, and where it goes next when a node fails it. A topology decides, and after
//! a failure the next one: a request waits for the verdict on its node, for as long as that may
//! take. Only one that reads may be asked of the next candidate when there is no verdict: what it
//! finds there is a page that is cached twice, or none, and never another page.

use std::rc::Rc;

use ::http::StatusCode;
use tokio::time::{Instant, timeout_at};

use super::{
    attempt::{Answered, Failed, Kind, Onward, attempt},
    body::Offence,
    link::{Link, Pick},
    pool::{Bound, HttpPool},
    refuse::Refusal,
};
use crate::{
    metrics::{Class, Outcome, PoolBlock, Reason},
    protocol::http::Repeat,
    topology::{Failure, NodeId, OnEjected, Route, Topology, VERDICT_GRACE, level},
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
        let may_repeat = failed.is_unsent || onward.is_repeatable();
        match failed.kind {
            Kind::Full | Kind::Late | Kind::Offence(_) => return false,
            _ if !may_repeat => return false,
            Kind::Left => return failed.is_unsent || self.spend(),
            // No sign of anything: that connection was about to be closed.
            Kind::Stale => {
                self.fresh = true;
                return true;
            }
            Kind::Unreachable(None) => return false,
            Kind::Unreachable(Some(_)) | Kind::Lost | Kind::Garbage | Kind::Timeout => {}
        }
        if !failed.is_unsent && !self.spend() {
            return false;
        }
        self.fresh = true;
        if stands_in {
            self.passed.push(link.node.id);
            return self.passed.len() < pool.bound().links.len();
        }
        let moved = self.moves(pool, link.node.id, onward.exchange.heard()).await;
        let may_pass = self.repeat == Repeat::Safe
            && self.on_ejected == OnEjected::Rehash
            && self.passed.len() + 1 < pool.bound().links.len();
        if !moved && may_pass {
            self.passed.push(link.node.id);
        }
        moved || may_pass || (failed.kind == Kind::Lost && self.repeat != Repeat::Never)
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
    let (bad, late) = (StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT);
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (status, kind, reason, outcome) = match failed.kind {
        Kind::Offence(Offence::TooLarge) => {
            return Refusal::bad(StatusCode::PAYLOAD_TOO_LARGE, failed.text.clone());
        }
        Kind::Offence(Offence::Slow) => {
            let text = Offence::Slow.to_string();
            let refusal = Refusal::bad(StatusCode::REQUEST_TIMEOUT, text);
            return Refusal { reason: Reason::SlowClient, ..refusal };
        }
        Kind::Offence(Offence::NoWebSocket) => {
            return Refusal::bad(StatusCode::NOT_IMPLEMENTED, failed.text.clone());
        }
        Kind::Offence(_) => return Refusal::bad(StatusCode::BAD_REQUEST, failed.text.clone()),
        Kind::Full => return Refusal::overload(failed.text.clone()),
        Kind::Unreachable(Some(Failure::ConnectTimeout)) => {
            (late, "connection_timeout", Reason::NoOwner, Outcome::Timeout)
        }
        Kind::Unreachable(Some(Failure::Timeout)) | Kind::Timeout => {
            (late, "http_response_timeout", Reason::Timeout, Outcome::Timeout)
        }
        Kind::Late => (late, "connection_timeout", Reason::Timeout, Outcome::Timeout),
        Kind::Unreachable(Some(Failure::Refused)) => {
            (bad, "connection_refused", Reason::NoOwner, Outcome::Refused)
        }
        Kind::Unreachable(Some(_)) => (bad, "http_protocol_error", Reason::NoOwner, Outcome::Refused),
        Kind::Unreachable(None) => (unavailable, "proxy_internal_error", Reason::Overload, Outcome::Refused),
        Kind::Stale | Kind::Lost => (bad, "connection_terminated", Reason::MaybeApplied, Outcome::Lost),
        Kind::Garbage => (bad, "http_protocol_error", Reason::MaybeApplied, Outcome::Lost),
        Kind::Left => (unavailable, "destination_unavailable", Reason::NoOwner, Outcome::Lost),
    };
    let maybe = !failed.is_unsent && repeat != Repeat::Safe;
    let text = format!("{}{}", failed.text, if maybe { "; the request may have been applied" } else { "" });
    Refusal { status, kind, reason, outcome, text: text.into() }
}

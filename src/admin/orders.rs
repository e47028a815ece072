//! What operators want of nodes: `POST /v1/pools/POOL/nodes/NODE/ORDER`, with `?dry_run=true` to be told
//! what would come of it. A page in a browser of the same machine must not be able to send one: the Host
//! has to be an address or `localhost`, and an Origin the same host.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{AdminState, routes::refuse};
use crate::{
    membership::{self, Compared},
    topology::{Entry, Health, Move, OnReturn, Order, Ordered, Placement, Policy, Topology, Wanted},
};

/// What came, or would come, of an order.
#[derive(Serialize)]
struct Done {
    pool: String,
    node: String,
    order: String,
    dry_run: bool,
    /// Nothing had to be done.
    unchanged: bool,
    epoch: u64,
    /// The share of the key space that moves: the sum of the moves.
    moved: f64,
    moves: Vec<Move>,
    /// The share of the key space that nobody serves afterwards.
    unserved: f64,
    /// The part of it for which requests wait until the nodes that take it are clean: milliseconds as a rule.
    fenced: f64,
    /// Nodes that serve afterwards and answer, as far as is known.
    serving: usize,
    /// All of the pool.
    nodes: usize,
    /// What is thought of the node.
    health: Option<Health>,
    /// The order that was in force until now, and is not any more.
    replaced: Option<Order>,
    /// What becomes of what the node has, if it is away or was.
    data: Option<String>,
    /// Why the next process will not know of the order, if it is done and can't be written.
    unkept: Option<Arc<String>>,
    /// Whose placement is another for it.
    others: Vec<Other>,
}

/// A node that is not named by the order, and has another placement for it.
#[derive(Serialize)]
struct Other {
    node: String,
    health: Health,
    before: &'static str,
    after: &'static str,
    /// The share of its keys that it serves afterwards, if it answers.
    admitted: f64,
    /// The share of the key space that it has afterwards.
    share: f64,
    data: Option<String>,
}

/// What two topologies differ in.
struct Differences {
    unchanged: bool,
    moved: f64,
    moves: Vec<Move>,
    unserved: f64,
    fenced: f64,
    others: Vec<Other>,
}

/// The words, and what they stand for.
const ORDERS: [(&str, Wanted); 6] = [
    ("drain", Wanted::Order(Order::Drain)),
    ("undrain", Wanted::TakenBack(Order::Drain)),
    ("eject", Wanted::Order(Order::Eject)),
    ("restore", Wanted::TakenBack(Order::Eject)),
    ("pin", Wanted::Order(Order::Pin)),
    ("unpin", Wanted::TakenBack(Order::Pin)),
];

/// Obeys an order.
pub(super) async fn order(
    State(state): State<AdminState>,
    Path((pool, node, word)): Path<(String, String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Err(why) = check_origin(&headers) {
        return refuse(StatusCode::FORBIDDEN, why.to_owned());
    }
    let Some((_, wanted)) = ORDERS.into_iter().find(|(known, _)| *known == word) else {
        let words: Vec<&str> = ORDERS.iter().map(|o| o.0).collect();
        return refuse(StatusCode::NOT_FOUND, format!("`{word}` is not one of {}", words.join(", ")));
    };
    let dry_run = match uri.query() {
        None | Some("" | "dry_run=false") => false,
        Some("dry_run=true") => true,
        Some(query) => return refuse(StatusCode::BAD_REQUEST, format!("`{query}` is not dry_run=true")),
    };
    let asked = state.membership.order(pool.as_str().into(), node.as_str().into(), wanted, dry_run);
    let ordered = match asked.await {
        Ok(ordered) => ordered,
        Err(why) if is_unknown(&state, &pool, &node) => return refuse(StatusCode::NOT_FOUND, why),
        Err(why) => return refuse(StatusCode::CONFLICT, why),
    };
    let replaced = replaced(&ordered, &node);
    let (epoch, order) = (ordered.after.epoch, word);
    let health = entry(&ordered.after, &node).map(|entry| entry.health);
    let inexact = state.membership.inexact(&pool);
    let data = fate(&ordered, &node, &inexact);
    let all = &ordered.after.nodes;
    let is_well = |e: &&Entry| e.placement.serves() && !e.health.is_out();
    let (serving, nodes) = (all.iter().filter(is_well).count(), all.len());
    let named = node.clone();
    let compared = tokio::task::spawn_blocking(move || differences(&ordered, &named, &inexact));
    let compared = compared.await;
    let unkept = if dry_run { None } else { state.keeping.settled().await };
    match compared {
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("done, and not told: {error}")),
        Ok(Differences { unchanged, moved, moves, unserved, fenced, others }) => Json(Done {
            pool,
            node,
            order,
            dry_run,
            unchanged,
            epoch,
            moved,
            moves,
            unserved,
            fenced,
            serving,
            nodes,
            health,
            replaced,
            data,
            unkept,
            others,
        })
        .into_response(),
    }
}

/// Whether there is no such pool, or no such node in it.
fn is_unknown(state: &AdminState, pool: &str, node: &str) -> bool {
    let pools = state.pools.load();
    let pool = pools.iter().find(|known| &*known.name == pool);
    pool.is_none_or(|pool| entry(&pool.topology.load(), node).is_none())
}

fn entry<'a>(topology: &'a Topology, node: &str) -> Option<&'a Entry> {
    topology.nodes.iter().find(|entry| &*entry.node.name == node)
}

/// The order that another one took the place of.
fn replaced(ordered: &Ordered, node: &str) -> Option<Order> {
    let order = |topology: &Topology| topology.nodes.iter().find(|e| &*e.node.name == node)?.order;
    let (before, after) = (order(&ordered.before), order(&ordered.after));
    before.filter(|before| after.is_some_and(|after| after != *before))
}

/// What becomes of what a node has: now, if it comes back, or when it does, if it goes. Of those in the list
/// it is not known exactly what is old.
fn fate(ordered: &Ordered, node: &str, inexact: &HashSet<Arc<str>>) -> Option<String> {
    let (before, after) = (entry(&ordered.before, node)?, entry(&ordered.after, node)?);
    let policy = &ordered.after.policy;
    if !policy.moves_keys() {
        return None;
    }
    let what = cleaning(policy, inexact.contains(node));
    let is_out = after.health.is_out();
    match (before.placement.serves(), after.placement) {
        (true, Placement::Away) if is_exact(policy) => Some(format!(
            "when it is back {what}; if it is restarted meanwhile, or ringway is, {}",
            cleaning(policy, true)
        )),
        (true, Placement::Away) => Some(format!("when it is back {what}")),
        (true, Placement::Held) => None,
        (false, Placement::Owns) if is_out && before.placement == Placement::Away => Some(
            "it fails, so nothing is deleted on it now: what it has is served, old or not, as soon as it answers"
                .to_owned(),
        ),
        // Its keys have stayed with it.
        (false, Placement::Owns) if is_out => None,
        (false, Placement::Owns | Placement::Starting(_)) if !is_out => Some(what.to_owned()),
        // It comes in by the order, and not yet.
        (false, Placement::Away) if is_out && after.order == Some(Order::Pin) => {
            Some(format!("it fails, and stays out until it answers; then {what}"))
        }
        // It waits for its turn.
        (false, Placement::Away) if !is_out && before.order.is_some() && after.order.is_none() => {
            Some(format!("when its turn comes {what}"))
        }
        _ if is_out && before.placement != after.placement => {
            Some(format!("it fails, and serves nothing that may be old before it answers; then {what}"))
        }
        _ => None,
    }
}

/// Whether it is noted what is written elsewhere.
fn is_exact(policy: &Policy) -> bool {
    policy.on_return == OnReturn::Quarantine && policy.sole_writer
}

/// What is done with what a node that is back has, where it is not known exactly what of it is old, or is.
fn cleaning(policy: &Policy, is_inexact: bool) -> &'static str {
    match policy.on_return {
        OnReturn::Serve => "it serves what it has, old or not: on_return is serve",
        OnReturn::Flush if policy.keeps_keys() => {
            "its keys that others had meanwhile are deleted first, those that stay with it are kept: on_return is flush"
        }
        OnReturn::Flush => "it is emptied first: on_return is flush",
        OnReturn::Ttl => {
            "it waits until what it had has expired, and is emptied where more may be left: on_return is ttl"
        }
        OnReturn::Quarantine if policy.sole_writer && is_inexact && policy.keeps_keys() => {
            "its keys that others had meanwhile are deleted first, those that stay with it are kept: it is another process \
             than before, or not all is known that was written elsewhere, as after a restart of ringway"
        }
        OnReturn::Quarantine if policy.sole_writer && is_inexact => {
            "it is emptied first, as it is another process than before, or not all is known that was written elsewhere, as \
             after a restart of ringway"
        }
        OnReturn::Quarantine if policy.sole_writer => {
            "what was written elsewhere meanwhile is deleted on it first"
        }
        OnReturn::Quarantine if policy.keeps_keys() => {
            "its keys that others had meanwhile are deleted first, as without sole_writer: true nobody knows which are \
             old, those that stay with it are kept: on_return is quarantine"
        }
        OnReturn::Quarantine => {
            "it is emptied first, as without sole_writer: true nobody knows what is old: on_return is quarantine"
        }
    }
}

/// What the two topologies differ in, beside the node that the order names. Takes milliseconds for large
/// rings.
fn differences(ordered: &Ordered, named: &str, inexact: &HashSet<Arc<str>>) -> Differences {
    let Ordered { before, after } = ordered;
    let Compared { moves, moved, .. } = membership::compare(before, after);
    let shares = after.shares();
    let changed = after.nodes.iter().zip(shares).filter_map(|(now, share)| {
        let was = before.nodes.iter().find(|e| e.node.id == now.node.id)?;
        let is_other = was.placement != now.placement && &*now.node.name != named;
        is_other.then(|| Other {
            node: now.node.name.to_string(),
            health: now.health,
            before: was.placement.word(),
            after: now.placement.word(),
            admitted: now.placement.admitted(),
            share,
            data: fate(ordered, &now.node.name, inexact),
        })
    });
    let others = changed.collect();
    let (unserved, fenced) = (membership::unserved(after), membership::fenced(after));
    Differences { unchanged: before.revision == after.revision, moved, moves, unserved, fenced, others }
}

/// A browser sends the Host that its page asked for, and where the page is from.
fn check_origin(headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text(header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| match port.parse::<u16>() {
        Ok(_) => name,
        Err(_) => host,
    });
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if name != "localhost" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err("the Host is neither an address nor localhost: orders are not taken by name");
    }
    match headers.get(header::ORIGIN) {
        None => Ok(()),
        Some(_) if text(header::ORIGIN) == Some(&format!("http://{host}")) => Ok(()),
        Some(_) => Err("the Origin is another host: orders are not taken from its pages"),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    /// What becomes of a node's data follows from whether it answers: what fails can't be cleaned, and is
    /// either not served before it was, or is served as it is, and then that is said.
    #[test]
    fn fates() {
        let admission =
            |admitted| Placement::Starting(crate::topology::Admission { admitted, fence: admitted });
        let pinned = Some(Order::Pin);
        for (before, health, (after, order), says) in [
            (
                Placement::Owns,
                Health::Healthy,
                (Placement::Away, None),
                Some("when it is back it is emptied first"),
            ),
            (Placement::Away, Health::Healthy, (admission(0), None), Some("it is emptied first")),
            (
                Placement::Away,
                Health::Ejected,
                (Placement::Owns, None),
                Some("what it has is served, old or not"),
            ),
            (
                Placement::Away,
                Health::Ejected,
                (admission(0), None),
                Some("that may be old before it answers"),
            ),
            (
                Placement::Away,
                Health::Probation,
                (Placement::Held, None),
                Some("that may be old before it answers"),
            ),
            (
                Placement::Away,
                Health::Ejected,
                (Placement::Away, pinned),
                Some("stays out until it answers; then it is"),
            ),
            (Placement::Held, Health::Ejected, (Placement::Owns, None), None),
            (Placement::Owns, Health::Ejected, (Placement::Owns, pinned), None),
        ] {
            let topology = |placement, order| {
                let mut topology = crate::admin::tests::topology("p", &["a", "b", "c"]);
                let mut nodes = topology.nodes.to_vec();
                (nodes[1].placement, nodes[1].health, nodes[1].order) = (placement, health, order);
                topology.nodes = nodes.into();
                let policy = Policy { on_return: OnReturn::Quarantine, ..Policy::default() };
                topology.policy = std::sync::Arc::new(policy);
                std::sync::Arc::new(topology)
            };
            let ordered = Ordered { before: topology(before, None), after: topology(after, order) };
            let told = fate(&ordered, "b", &HashSet::new());
            match says {
                Some(says) => {
                    assert!(told.as_ref().is_some_and(|t| t.contains(says)), "{before:?} {after:?}: {told:?}")
                }
                None => assert_eq!(told, None, "{before:?} {after:?}"),
            }
            let others = differences(&ordered, "a", &HashSet::new()).others;
            assert_eq!(others.len(), usize::from(before != after));
            assert!(others.iter().all(|o| o.node == "b" && o.after == after.word() && o.health == health));
            assert!(differences(&ordered, "b", &HashSet::new()).others.is_empty());
        }
    }

    /// A node of which it is not known exactly what is old is emptied, or loses what others had, and that is
    /// said beforehand; before it goes, that it may come to that.
    #[test]
    fn what_is_not_known_is_told() {
        let topology = |placement, policy: &Policy| {
            let mut topology = crate::admin::tests::topology("p", &["a", "b", "c"]);
            let mut nodes = topology.nodes.to_vec();
            nodes[1].placement = placement;
            (topology.nodes, topology.policy) = (nodes.into(), Arc::new(policy.clone()));
            Arc::new(topology)
        };
        let exact = Policy { on_return: OnReturn::Quarantine, sole_writer: true, ..Policy::default() };
        let fenced =
            Placement::Starting(crate::topology::Admission { admitted: 0, fence: crate::topology::LEVELS });
        let told = |(before, after), policy: &Policy, known: &[&str]| {
            let inexact = known.iter().map(|node| Arc::from(*node)).collect();
            let ordered = Ordered { before: topology(before, policy), after: topology(after, policy) };
            fate(&ordered, "b", &inexact).expect("it has a fate")
        };
        let back = (Placement::Away, fenced);
        assert!(told(back, &exact, &["a"]).starts_with("what was written elsewhere meanwhile is deleted"));
        assert!(told(back, &exact, &["b"]).starts_with("it is emptied first, as it is another process"));
        let goes = told((Placement::Owns, Placement::Away), &exact, &[]);
        assert!(
            goes.contains("; if it is restarted meanwhile, or ringway is, it is emptied first"),
            "{goes}"
        );
        let serve = Policy { on_return: OnReturn::Serve, ..exact };
        assert!(told(back, &serve, &["b"]).contains("on_return is serve"));
        let ordered = Ordered { before: topology(Placement::Away, &serve), after: topology(fenced, &serve) };
        let differences = differences(&ordered, "b", &HashSet::new());
        assert!(differences.fenced > 0.1, "requests wait for it, and nobody refuses them");
        assert!((differences.unserved - differences.fenced).abs() < 1e-9);
    }

    /// Orders come from this machine's programs, not from pages that a browser shows.
    #[test]
    fn origins() {
        for (host, origin, may) in [
            ("127.0.0.1:9400", None, true),
            ("[::1]:9400", None, true),
            ("localhost:9400", None, true),
            ("10.0.0.5", Some("http://10.0.0.5"), true),
            ("127.0.0.1:9400", Some("http://127.0.0.1:9400"), true),
            ("127.0.0.1:9400", Some("http://evil.example"), false),
            ("127.0.0.1:9400", Some("null"), false),
            ("rebound.example:9400", None, false),
            ("", None, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            assert_eq!(check_origin(&headers).is_ok(), may, "{host} {origin:?}");
        }
    }
}

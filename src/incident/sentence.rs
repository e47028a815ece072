//! A diagnosis as a person would write it. Pure: words only.

use super::{Place, Subject, What};
use crate::health::{Holder, Sighting};

/// What a person would write.
pub(super) fn sentence(subject: &Subject<'_>, seen: &Sighting, place: Place, what: What) -> String {
    let Subject { node, address, zone, .. } = subject;
    let host = address.rsplit_once(':').map_or(*address, |(host, _)| host);
    let wrong = seen.wrong.as_deref().unwrap_or("it is a replica");
    match (place, what) {
        (_, What::Gone) => format!("node {node}: its process is gone, nobody listens on {address}"),
        (_, What::Replaced) => format!("node {node}: another process is at {address} than the one that served"),
        (_, What::Hung) => format!("node {node}: it hangs, {address} takes connections and answers nothing"),
        (_, What::Slow) => format!("node {node}: it is slow, its answers come too late"),
        (_, What::Busy) => format!("node {node}: something long holds it up, a script or a heavy command"),
        (_, What::Closing) => format!("node {node}: it closes connections instead of answering"),
        (_, What::Full) => format!("node {node}: it takes no more clients, its limit is reached"),
        (_, What::Auth) => format!("node {node}: it turns us away, see this pool's auth and db"),
        (_, What::Protocol) => {
            format!("node {node}: something else listens on {address}, it does not speak the pool's protocol")
        }
        (_, What::Loading) => format!("node {node}: it has started and is loading its data"),
        (_, What::Errors) => format!("node {node}: it answers that it does not serve"),
        (_, What::Replica) => format!("node {node}: {wrong}"),
        (_, What::Unresolved) => format!("node {node}: the name in {address} does not resolve"),
        (_, What::Unreachable) if seen.host.nodes > seen.host.failing => format!(
            "the path to node {node}: nothing comes back from {address}, though {host} answers elsewhere: a firewall drops it"
        ),
        (_, What::Unreachable) => format!(
            "the path to node {node}: nothing comes back from {address}: {host} is down, or the path drops everything"
        ),
        (_, What::Rejected) => format!(
            "the path to node {node}: something on the way to {address} rejects connections, as a firewall does"
        ),
        (Place::Proxy, What::Lossy) => {
            "this proxy: its link loses packets, most nodes of all pools leave requests unanswered and answer others"
                .to_owned()
        }
        (_, What::Lossy) => {
            format!("the path to node {node}: it loses packets, some get through to {address}")
        }
        (Place::Zone, _) | (_, What::Down) => {
            format!("zone {}: most of its nodes fail at once", zone.unwrap_or_default())
        }
        (_, What::Link) => {
            "this proxy: its link is cut, most nodes of all pools are silent at once".to_owned()
        }
        (_, What::Starved) => "this proxy: it does not get to run, so its own clock is late".to_owned(),
        (_, What::Descriptors) => "this proxy: it has no file descriptor left".to_owned(),
        (_, What::Giant) => format!(
            "key {}: it holds node {node}, for {:.0} % of its time with {:.0} % of its requests",
            name(&seen.key),
            part(&seen.key, |it| it.time),
            part(&seen.key, |it| it.requests)
        ),
        (_, What::Hot) => format!(
            "key {}: it is hot, {:.0} % of the requests of node {node} are for it",
            name(&seen.key),
            part(&seen.key, |it| it.requests)
        ),
        (_, What::Stall) => format!(
            "key {}: node {node} stands still when it is asked for it",
            seen.stalls.as_ref().map_or("", |stalls| &*stalls.name)
        ),
        (_, What::Flood) => format!(
            "client {}: it floods node {node}, for {:.0} % of its time with {:.0} % of its requests",
            name(&seen.client),
            part(&seen.client, |it| it.time),
            part(&seen.client, |it| it.requests)
        ),
        (_, What::Memory) => "this proxy: it has no memory left for what its clients are owed".to_owned(),
        (_, What::Dns) => "this proxy: its resolver does not answer, no name resolves".to_owned(),
    }
}

fn name(holder: &Option<Holder>) -> &str {
    holder.as_ref().map_or("", |holder| &*holder.name)
}

/// In percent.
fn part(holder: &Option<Holder>, of: impl Fn(&Holder) -> f64) -> f64 {
    holder.as_ref().map_or(0.0, of) * 100.0
}

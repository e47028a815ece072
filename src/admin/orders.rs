//! What operators want of nodes: `POST /v1/pools/POOL/nodes/NODE/ORDER`, with `?dry_run=true` to be told
//! what would come of it. A page in a browser of the same machine must not be able to send one: the Host
//! has to be an address or `localhost`, and an Origin the same host.

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{AdminState, routes::refuse};
use crate::{
    membership,
    topology::{Move, OnReturn, Order, Ordered, Topology, Wanted},
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
    /// The share of the key space that moves.
    moved: f64,
    moves: Vec<Move>,
    /// The order that was in force until now, and is not any more.
    replaced: Option<Order>,
    /// What becomes of what the node has, if it is away or was.
    data: Option<String>,
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
        Err(why) => return refuse(StatusCode::CONFLICT, why),
    };
    let (replaced, data) = (replaced(&ordered, &node), fate(&ordered, &node));
    let compared = tokio::task::spawn_blocking(move || moves(&ordered));
    match compared.await {
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("done, and not told: {error}")),
        Ok((unchanged, epoch, moved, moves)) => {
            let order = word;
            Json(Done { pool, node, order, dry_run, unchanged, epoch, moved, moves, replaced, data })
                .into_response()
        }
    }
}

/// The order that another one took the place of.
fn replaced(ordered: &Ordered, node: &str) -> Option<Order> {
    let order = |topology: &Topology| topology.nodes.iter().find(|e| &*e.node.name == node)?.order;
    let (before, after) = (order(&ordered.before), order(&ordered.after));
    before.filter(|before| after.is_some_and(|after| after != *before))
}

/// What becomes of what the node has: now, if it comes back, or when it does, if it goes.
fn fate(ordered: &Ordered, node: &str) -> Option<String> {
    let serves = |topology: &Topology| {
        let entry = topology.nodes.iter().find(|e| &*e.node.name == node)?;
        Some(entry.placement.serves())
    };
    let policy = &ordered.after.policy;
    let when = match (serves(&ordered.before)?, serves(&ordered.after)?) {
        (true, false) => "when it is back ",
        (false, true) => "",
        _ => return None,
    };
    let what = match policy.on_return {
        _ if !policy.moves_keys() => return None,
        OnReturn::Serve => "it serves what it has, old or not: on_return is serve",
        OnReturn::Flush => "it is emptied first: on_return is flush",
        OnReturn::Ttl => "it waits until what it had has expired: on_return is ttl",
        OnReturn::Quarantine if policy.sole_writer => {
            "what was written elsewhere meanwhile is deleted on it first"
        }
        OnReturn::Quarantine => {
            "it is emptied first, as without sole_writer: true nobody knows what is old: on_return is quarantine"
        }
    };
    Some(format!("{when}{what}"))
}

/// What the two topologies differ in. Takes milliseconds for large rings.
fn moves(ordered: &Ordered) -> (bool, u64, f64, Vec<Move>) {
    let Ordered { before, after } = ordered;
    let (moved, parts) = (membership::moved(before, after), membership::moves(before, after));
    (before.revision == after.revision, after.epoch, moved, parts)
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

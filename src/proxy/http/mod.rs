//! THE HTTP DRIVER. hyper reads and writes on both sides; a request is brought into its one form,
//! goes to the owner of its key as any other pool's request does, and its reply is handed through.
//!
//! ```text
//! client --> session: hyper --> prepare, ring key --> dispatch: owner(key) --> attempt: link --> node
//! client <-- session: hyper <------ reply, frame by frame <------------------- lease <----------- node
//! ```

mod attempt;
mod body;
mod dispatch;
mod evidence;
mod lease;
mod link;
mod outgoing;
mod pool;
mod refuse;
mod session;
mod shared;
mod spawner;
mod told;
mod trailing;
mod tunnel;
mod waiting;
mod wire;

use std::rc::Rc;

use ::http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::{
    body::{Body, Incoming},
    upgrade::OnUpgrade,
};

use self::{
    attempt::{Answered, Onward},
    body::{Exchange, Reply},
    lease::Ticket,
    refuse::Refusal,
    session::Session,
};
pub(crate) use self::{pool::HttpPool, session::start};
use crate::{
    metrics::{Class, Outcome},
    protocol::http::{Repeat, fields, prepare, ring_key},
    topology::{Forwarded, HttpSettings, Policy, Topology},
};

/// Answers one request: its reply from the owner of its key, or why there is none.
async fn serve(session: &Rc<Session>, mut request: Request<Incoming>) -> Response<Reply> {
    let mut ticket = Ticket::new(session.clone());
    let policy = session.pool.bound().topology.policy.clone();
    let is_h2 = request.version() == Version::HTTP_2;
    let trailers = &policy.http.trailers;
    let takes_trailers =
        request.version() == Version::HTTP_11 && fields::lists(request.headers(), &header::TE, "trailers");
    let is_connect = request.method() == Method::CONNECT;
    let client = hyper::upgrade::on(&mut request);
    let answered = forward(session, &policy, request, &mut ticket).await;
    let mut response = match answered.and_then(|answered| tunnel::agreed(answered, is_connect)) {
        Ok(answered) => {
            let mut response = reply(answered, (client, is_connect), &policy, ticket);
            if takes_trailers
                && !response.body().is_end_stream()
                && response.body().size_hint().exact().is_none()
            {
                fields::announce(response.headers_mut(), trailers);
                response.body_mut().leave_trailers(session.trailing());
            }
            response
        }
        Err(refusal) => {
            session.pool.block().refuse(refusal.reason);
            ticket.outcome = refusal.outcome;
            refusal.reply()
        }
    };
    if policy.http.limits.requests_per_connection.is_some_and(|max| session.served() >= max) {
        if is_h2 {
            session.end();
        } else if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// Sends a request on, and gives what the owner of its key answers.
async fn forward(
    session: &Rc<Session>,
    policy: &Policy,
    request: Request<Incoming>,
    ticket: &mut Ticket,
) -> Result<Answered, Refusal> {
    let limits = &policy.http.limits;
    if ticket.requests() > limits.requests_max {
        return Err(Refusal::overload("http.limits.requests_max requests are in flight"));
    }
    let (mut head, body) = request.into_parts();
    if head.headers.len() > limits.headers_max {
        // hyper has looked where it can; in HTTP/2 it bounds the bytes alone.
        let text = format!(
            "the head has {} fields, and http.limits.headers_max is {}",
            head.headers.len(),
            limits.headers_max
        );
        return Err(Refusal::bad(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text));
    }
    let version = head.version;
    let mut intent = prepare(&mut head).map_err(Refusal::of_request)?;
    let length = body.size_hint().exact();
    if let (Some(length), Some(max)) = (length, limits.body_bytes)
        && length > max
    {
        let text = format!("the body has {length} bytes, and http.limits.body_bytes is {max}");
        return Err(Refusal::bad(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    if intent.is_within {
        head.headers.insert(header::SEC_WEBSOCKET_KEY, tunnel::key());
    }
    fields::frame(&mut head.headers, length);
    let body = (!body.is_end_stream()).then_some(body);
    if body.is_some() {
        intent.upgrade = None;
    }
    let place = place(&session.pool.bound().topology, session, &head)?;
    introduce(&mut head.headers, &policy.http, session, version);
    ticket.class = if intent.repeat == Repeat::Safe { Class::Read } else { Class::Write };
    ticket.outcome = Outcome::Lost;
    let exchange = Exchange::new(session.clone(), limits.body_bytes, body.is_some());
    let mut onward = Onward::new(head, body, intent, exchange);
    dispatch::dispatch(&session.pool, &mut onward, place, ticket.class).await
}

/// Where the key of a request is.
fn place(topology: &Topology, session: &Session, head: &Parts) -> Result<dispatch::Place, Refusal> {
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
    let client = session.peer.map(|peer| peer.ip());
    let key = ring_key(&topology.policy.http.key, host, path, &head.headers, client)
        .map_err(|none| Refusal::bad(StatusCode::BAD_REQUEST, none.to_string()))?;
    Ok(dispatch::Place { hash: topology.ring.hash(&key), on_ejected: topology.policy.on_ejected_for(&key) })
}

/// Tells the node who asks, and through whom.
fn introduce(headers: &mut HeaderMap, http: &HttpSettings, session: &Session, version: Version) {
    match http.forwarded {
        Forwarded::Off => {}
        Forwarded::XForwardedFor => fields::add_x_forwarded(headers, session.peer),
        Forwarded::Forwarded => fields::add_forwarded(headers, session.peer),
    }
    if http.via {
        fields::add_via(headers, version);
    }
}

/// The reply as the client gets it.
fn reply(
    answered: Answered,
    (client, is_connect): (OnUpgrade, bool),
    policy: &Policy,
    mut ticket: Ticket,
) -> Response<Reply> {
    let (mut response, mut lease) = answered;
    ticket.outcome = lease.outcome;
    let node = hyper::upgrade::on(&mut response);
    let (mut head, body) = response.into_parts();
    // hyper writes the version that the client speaks, and would take 1.0 for a wish to close.
    head.version = Version::HTTP_11;
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = head.headers.get(header::UPGRADE).cloned();
        fields::strip(&mut head.headers);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if is_connect {
            // Within HTTP/2 that is a success, and the proof of the other side is the connection (RFC 8441,
            // 5).
            head.status = StatusCode::OK;
            head.headers.remove(header::CONNECTION);
            head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        } else if let Some(protocol) = protocol {
            head.headers.insert(header::UPGRADE, protocol);
        }
        // The connection is the tunnel's from here on; over HTTP/2 it keeps its place among those that share
        // one.
        lease.connection.take_if(|connection| !connection.is_h2());
        tunnel::open(client, node, lease, ticket);
        return Response::from_parts(head, Reply::text(String::new()));
    }
    fields::strip(&mut head.headers);
    if !body.is_end_stream() {
        fields::frame(&mut head.headers, body.size_hint().exact());
    }
    Response::from_parts(head, Reply::of_node(body, policy.request_timeout, lease, ticket))
}

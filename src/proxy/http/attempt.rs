//! One request at one node: a connection, the request over it, the head of the reply, and what it
//! means when one of them does not come.

use std::{pin::pin, rc::Rc, sync::Arc};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header, request::Parts};
use hyper::{body::Incoming, client::conn::TrySendError, ext::Protocol};
use tokio::time::{Instant, sleep_until};

use super::{
    body::{Exchange, Offence},
    evidence::{Happened, Says, Unreadable},
    lease::Lease,
    link::{Connection, Link, NoConnection, Pick, READ_MIN},
    outgoing::{Outgoing, Source},
    tunnel,
};
use crate::{
    metrics::{Class, Outcome},
    net::Address,
    protocol::http::{Fault, Intent, Repeat, fields},
    topology::Policy,
};

/// A request, ready to be sent as often as it may be.
pub(super) struct Onward {
    method: Method,
    /// Path and query.
    target: Uri,
    headers: HeaderMap,
    /// The client's, whatever a node was told.
    host: Option<HeaderValue>,
    /// What a WebSocket's other side is proved by.
    key: Option<HeaderValue>,
    /// A node closed a connection over it, or over another that shared it.
    is_suspect: bool,
    body: Option<Rc<Source>>,
    pub(super) intent: Intent,
    pub(super) exchange: Rc<Exchange>,
}

/// Why an attempt has no reply.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) happened: Happened,
    /// The node can't have seen the request, and all of it is here.
    pub(super) is_unsent: bool,
    pub(super) text: String,
}

/// The reply's head, and what is held until its body has ended.
pub(super) type Answered = (Response<Incoming>, Lease);

impl Onward {
    pub(super) fn new(head: Parts, body: Option<Incoming>, intent: Intent, exchange: Rc<Exchange>) -> Onward {
        let host = head.headers.get(header::HOST).cloned();
        let key = head.headers.get(header::SEC_WEBSOCKET_KEY).cloned();
        let body = body.map(|body| Source::new(body, &exchange));
        Onward {
            method: head.method,
            target: head.uri,
            headers: head.headers,
            host,
            key,
            is_suspect: false,
            body,
            intent,
            exchange,
        }
    }

    /// Whether all of it is here.
    fn is_whole(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_whole())
    }

    /// Whether it may be sent a second time, should the node have seen it.
    pub(super) fn is_repeatable(&self) -> bool {
        self.intent.repeat != Repeat::Never && self.body.is_none()
    }

    /// The request for this node; one that is repeatable stays here, too, and so does one that the node may
    /// hand back without having looked at it.
    fn take(&mut self, link: &Link, policy: &Policy, connection: &Connection) -> Request<Outgoing> {
        let is_h2 = connection.is_h2();
        let stays = self.is_repeatable() || is_h2;
        let headers = if stays { self.headers.clone() } else { std::mem::take(&mut self.headers) };
        let is_chunked = self.body.as_ref().is_some_and(|body| body.is_chunked());
        let trailing = if is_chunked { connection.trailing() } else { None };
        let body = self.body.as_ref().map_or(Outgoing::Empty, |body| body.go(is_h2, trailing));
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = headers;
        let headers = request.headers_mut();
        if !policy.http.keep_host || !headers.contains_key(header::HOST) {
            headers.insert(header::HOST, host(&link.node.address));
        }
        if self.intent.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if is_h2 {
            let host = headers.remove(header::HOST);
            headers.remove(header::SEC_WEBSOCKET_KEY);
            *request.uri_mut() = absolute(&self.target, host.as_ref());
            if self.intent.wants_websocket() {
                // RFC 8441, 5.
                *request.method_mut() = Method::CONNECT;
                request.extensions_mut().insert(Protocol::from_static("websocket"));
            }
        } else {
            self.ask_connection(headers);
            if is_chunked {
                // hyper takes a GET without a length for one without a body.
                headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                fields::announce(headers, &policy.http.trailers);
            }
            *request.uri_mut() = self.target.clone();
        }
        request
    }

    /// What concerns the connection to the node alone.
    fn ask_connection(&self, headers: &mut HeaderMap) {
        if let Some(protocols) = &self.intent.upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, protocols.clone());
        } else if self.intent.trailers {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }

    /// Takes back what was not sent.
    fn put_back(&mut self, request: Request<Outgoing>) {
        self.headers = request.into_parts().0.headers;
        for name in [header::TE, header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING] {
            self.headers.remove(name);
        }
        // The node's own, or none: over HTTP/2 it is a part of the URI.
        self.headers.remove(header::HOST);
        self.headers.extend(self.key.clone().map(|key| (header::SEC_WEBSOCKET_KEY, key)));
        self.headers.extend(self.host.clone().map(|host| (header::HOST, host)));
    }
}

/// The Host of a node at this address.
fn host(address: &Address) -> HeaderValue {
    let text = match address {
        Address::Tcp { .. } => address.to_string(),
        Address::Unix(_) | Address::Embedded => "localhost".to_owned(),
    };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("localhost"))
}

/// The target with its host, as HTTP/2 wants it; one that does not fit stays as it is, and hyper
/// refuses it.
fn absolute(target: &Uri, host: Option<&HeaderValue>) -> Uri {
    let mut parts = target.clone().into_parts();
    parts.scheme = Some(::http::uri::Scheme::HTTP);
    parts.authority = host.and_then(|host| host.as_bytes().try_into().ok());
    Uri::from_parts(parts).unwrap_or_else(|_| target.clone())
}

/// Sends a request to a node and waits for the head of the reply. The node's evidence is counted.
///
/// # Errors
/// [`Failed`]; with `is_unsent` the request is whole again.
pub(super) async fn attempt(
    onward: &mut Onward,
    link: &Rc<Link>,
    policy: &Arc<Policy>,
    class: Class,
    pick: Pick,
) -> Result<Answered, Failed> {
    let pick = if onward.is_suspect { Pick::Alone } else { pick };
    let exchange = onward.exchange.clone();
    let mut lease = Lease::new(link, &exchange, class, onward.is_suspect, &policy.http);
    let mut evicted = pin!(link.evicted());
    let until = exchange.heard() + policy.deadline;
    // A connection that is being made when this ends is given up: nothing was sent over it.
    let connection = tokio::select! {
        biased;
        connection = link.connection(policy, pick, until) => connection.map_err(|error| unconnected(link, &error)),
        () = &mut evicted => Err(failed(link, Happened::Left, true, "ejected")),
    };
    let mut connection = connection.inspect_err(|_| lease.outcome = Outcome::Refused)?;
    if let Some(denied) = denied(onward, &connection, link) {
        lease.outcome = Outcome::Refused;
        return Err(denied);
    }
    exchange.begin();
    let started = Instant::now();
    let request = onward.take(link, policy, &connection);
    let (replies, read) = (connection.replies(), connection.read());
    // Cancelled, the connection is dropped, and closes.
    let sent = tokio::select! {
        biased;
        sent = connection.send(request) => sent,
        () = &mut evicted => {
            connection.reset_on_close();
            return Err(failed(link, Happened::Left, false, "ejected"));
        }
        late = overdue(&exchange, policy) => {
            connection.reset_on_close();
            if late == Late::Client {
                lease.outcome = Outcome::Error;
                return Err(failed(link, Happened::Offence(Offence::Slow), false, Offence::Slow));
            }
            if connection.replies() == replies {
                connection.doubt();
            }
            let due = exchange.due(policy.request_timeout, policy.deadline * 2);
            let is_due = due.is_some_and(|due| due <= Instant::now());
            let happened = if is_due { Happened::TimedOut } else { Happened::Overdue };
            link.met(happened);
            lease.outcome = Outcome::Timeout;
            return Err(failed(link, happened, false, "no reply in time"));
        }
    };
    lease.connection = Some(connection);
    match sent {
        Ok(response) => {
            exchange.answered();
            onward.body.iter().for_each(|body| body.release());
            let waited = started.elapsed().as_micros();
            link.block().latency.record(u32::try_from(waited).unwrap_or(u32::MAX));
            judge(onward, policy, response, lease)
        }
        Err(error) => {
            let read = lease.connection.as_ref().map_or(0, Connection::read).wrapping_sub(read);
            Err(unanswered(onward, policy, (lease, read), error).await)
        }
    }
}

/// Why the request can't be sent over this connection, if the node has not over it what the request is about.
fn denied(onward: &Onward, connection: &Connection, link: &Link) -> Option<Failed> {
    let told = connection.told().filter(|_| onward.intent.wants_websocket())?;
    match told.takes_websockets() {
        Some(true) => None,
        Some(false) => {
            Some(failed(link, Happened::Offence(Offence::NoWebSocket), false, Offence::NoWebSocket))
        }
        None => Some(failed(link, Happened::Stale, true, "its connection ended before the request")),
    }
}

/// The request has no reply, but so many bytes were read: what that means.
async fn unanswered(
    onward: &mut Onward,
    policy: &Policy,
    (mut lease, read): (Lease, u64),
    mut error: TrySendError<Request<Outgoing>>,
) -> Failed {
    let unsent = error.take_message();
    let is_unsent = unsent.is_some();
    if let Some(request) = unsent {
        onward.put_back(request);
    }
    let fault = Fault::of(error.error());
    if matches!(fault, Fault::TooLarge(_)) {
        let limits = &policy.http.limits;
        // hyper does not say of which bound it is; the one of bytes is met when so many are there.
        let is_long = read >= u64::try_from(limits.header_bytes.max(READ_MIN)).unwrap_or(u64::MAX);
        return lease.unreadable(match is_long {
            true => Unreadable::Bytes(limits.header_bytes),
            false => Unreadable::Fields(limits.headers_max),
        });
    }
    let told = lease.connection.as_ref().and_then(Connection::told);
    let told = told.filter(|_| !is_unsent && matches!(fault, Fault::Broken(_)));
    if let Some(told) = told
        && let Some(blame) = told.blame().await
    {
        return blamed(onward, lease, &fault, &blame);
    }
    broken(onward, lease, is_unsent, &fault)
}

/// Whom the other side has waited for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Node,
    Client,
}

/// Returns when the node has had its time, the client has waited long enough, or the node has for the
/// client's body.
async fn overdue(exchange: &Exchange, policy: &Policy) -> Late {
    let idle_timeout = policy.http.limits.idle_timeout;
    loop {
        let now = Instant::now();
        // While one is waited for it may become the other's turn, and that one's time be the shorter.
        let until = match exchange.due(policy.request_timeout, policy.deadline) {
            Some(due) if due <= now => return Late::Node,
            Some(due) => due.min(now + idle_timeout),
            None => match exchange.client_due(idle_timeout) {
                Some(due) if due <= now => return Late::Client,
                due => due.unwrap_or(now).min(now + policy.request_timeout),
            },
        };
        sleep_until(until).await;
    }
}

pub(super) fn failed(
    link: &Link,
    happened: Happened,
    is_unsent: bool,
    what: impl std::fmt::Display,
) -> Failed {
    Failed { happened, is_unsent, text: format!("{}: {what}", link.describe()) }
}

/// There is no connection.
fn unconnected(link: &Link, error: &NoConnection) -> Failed {
    failed(link, error.happened(), true, error)
}

/// The connection failed before a reply.
fn broken(onward: &Onward, mut lease: Lease, is_unsent: bool, fault: &Fault) -> Failed {
    if let Some(offence) = onward.exchange.offence() {
        lease.outcome = Outcome::Error;
        return failed(&lease.link, Happened::Offence(offence), false, offence);
    }
    let was_closing = is_unsent || lease.connection.as_ref().is_some_and(|c: &Connection| c.is_reused);
    let happened = lease.fault(fault, was_closing);
    let is_unsent = is_unsent || (fault.is_unprocessed() && onward.is_whole());
    failed(&lease.link, happened, is_unsent, fault.text())
}

/// The node closed the connection over what it was sent: over this request, if no other was there. Those that
/// only shared the connection are sent again.
fn blamed(onward: &mut Onward, mut lease: Lease, fault: &Fault, blame: &str) -> Failed {
    lease.fault(fault, true);
    if std::mem::replace(&mut onward.is_suspect, true) {
        lease.outcome = Outcome::Error;
        return failed(
            &lease.link,
            Happened::Offence(Offence::Refused),
            false,
            format!("{}: {blame}", Offence::Refused),
        );
    }
    failed(&lease.link, Happened::Stale, false, blame)
}

/// Whether what came is a reply to what was asked, and what it says of the node.
fn judge(
    onward: &Onward,
    policy: &Policy,
    mut response: Response<Incoming>,
    mut lease: Lease,
) -> Result<Answered, Failed> {
    let is_h2 = lease.connection.as_ref().is_some_and(Connection::is_h2);
    if is_h2 && onward.intent.wants_websocket() && response.status() == StatusCode::OK {
        tunnel::switch(&mut response, onward.key.as_ref());
    }
    let status = response.status();
    let is_switch = status == StatusCode::SWITCHING_PROTOCOLS;
    let is_plain = fields::is_plain(response.headers());
    if !is_plain {
        return Err(lease.unreadable(Unreadable::Coding));
    }
    if is_switch && onward.intent.upgrade.is_none() {
        let what = "it switches protocols unasked";
        let happened = lease.fault(&Fault::Garbage(what.to_owned()), false);
        return Err(failed(&lease.link, happened, false, what));
    }
    Says::of_head(policy.http.failure_statuses.contains(&status.as_u16())).of(&lease.link.node.evidence);
    lease.outcome = if status.is_server_error() { Outcome::Error } else { Outcome::Ok };
    Ok((response, lease))
}

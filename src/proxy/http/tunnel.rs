//! A connection that client and node agreed to speak another protocol over, WebSocket for one: from
//! the reply 101 on its bytes pass as they are. Of a client's HTTP/2 connection it is one stream.

use std::{
    hash::{BuildHasher, RandomState},
    pin::pin,
    rc::Rc,
};

use ::http::{HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::{io::copy_bidirectional, task::spawn_local};

use super::{
    attempt::Answered,
    lease::{Lease, Ticket},
    refuse::Refusal,
    session::Seat,
};
use crate::{
    metrics::{Outcome, Reason},
    protocol::base64,
};

/// The key of a WebSocket that is asked for within HTTP/2, where there is none: 16 bytes that nobody can
/// foretell (RFC 6455, 4.1).
pub(super) fn key() -> HeaderValue {
    let dice = || RandomState::new().hash_one(()).to_be_bytes();
    let mut text = Vec::with_capacity(24);
    base64::encode(&[dice(), dice()].concat(), &mut text);
    // Base64 can stand in a header.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// What a WebSocket's key is answered with (RFC 6455, 1.3).
fn proof(key: &HeaderValue) -> Option<HeaderValue> {
    let hash = Sha1::new().chain_update(key.as_bytes()).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let mut text = Vec::with_capacity(28);
    base64::encode(&hash.finalize(), &mut text);
    HeaderValue::from_bytes(&text).ok()
}

/// Makes of a node's 200 to a WebSocket within HTTP/2 what it is over HTTP/1.1 (RFC 8441, 5).
pub(super) fn switch(response: &mut Response<Incoming>, key: Option<&HeaderValue>) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(proof) = key.and_then(proof) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    }
}

/// A reply as one to a client that asked for a tunnel within HTTP/2: for it any success means that the tunnel
/// is there.
///
/// # Errors
/// The node answered with a success, and has not agreed to anything.
pub(super) fn agreed(answered: Answered, is_connect: bool) -> Result<Answered, Refusal> {
    let status = answered.0.status();
    if !is_connect || !status.is_success() {
        return Ok(answered);
    }
    let text = format!("{}: it answers {status} where a WebSocket is asked for", answered.1.link.describe());
    let (kind, reason, outcome) = ("http_protocol_error", Reason::MaybeApplied, Outcome::Error);
    Err(Refusal { status: StatusCode::BAD_GATEWAY, kind, reason, outcome, text: text.into() })
}

/// Passes bytes until one side closes or the node is ejected. The tunnel holds what its request held.
pub(super) fn open(client: OnUpgrade, node: OnUpgrade, lease: Lease, ticket: Ticket) {
    let pool = ticket.session.pool.clone();
    let seat: Rc<Seat> = ticket.session.seat.clone();
    pool.tunnels.set(pool.tunnels.get() + 1);
    spawn_local(async move {
        let link = lease.link.clone();
        let mut evicted = pin!(link.evicted());
        let pass = async {
            let (Ok(client), Ok(node)) = (client.await, node.await) else { return };
            // How it ends is the business of the two who speak.
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await;
        };
        tokio::select! {
            () = pass => {}
            () = &mut evicted => {}
        }
        drop((lease, ticket, seat));
        pool.tunnels.set(pool.tunnels.get() - 1);
    });
}

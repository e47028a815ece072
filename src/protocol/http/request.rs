//! WHICH REQUESTS ARE FORWARDED, and what is known of each. A request that two servers could take
//! for different ones, or that a gateway can't serve, is refused with its status and why (RFC 9110,
//! RFC 9112).

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header, request::Parts, uri::Authority};

use super::fields;

/// How often a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It only reads: any node may be asked (RFC 9110, 9.2.1).
    Safe,
    /// Twice is as good as once, at the node that owns its key (RFC 9110, 9.2.2).
    Idempotent,
    /// Once.
    Never,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// How often it may be sent, its body left aside.
    pub repeat: Repeat,
    /// The protocols that the client would rather speak on this connection.
    pub upgrade: Option<HeaderValue>,
    /// It asked for that within HTTP/2, and its connection goes on beside (RFC 8441).
    pub is_within: bool,
    /// The client takes trailers.
    pub trailers: bool,
}

impl Intent {
    /// Whether a WebSocket is among what the client would rather speak. Of other protocols a server may leave
    /// the offer as it is (RFC 9110, 7.8), a WebSocket is what the client came for.
    pub fn wants_websocket(&self) -> bool {
        let is_it = |p: &[u8]| p.trim_ascii().eq_ignore_ascii_case(b"websocket");
        self.upgrade.as_ref().is_some_and(|offer| offer.as_bytes().split(|b| *b == b',').any(is_it))
    }
}

/// Why a request is refused before any node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// `CONNECT`: a gateway to the nodes of a ring is no tunnel to anywhere.
    #[error("CONNECT is not served: this is a gateway to its own nodes")]
    Connect,
    /// Within HTTP/2 there is WebSocket (RFC 8441), and no other protocol.
    #[error("no protocol but WebSocket is served within HTTP/2")]
    Protocol,
    /// HTTP/1.1 asks for exactly one Host (RFC 9112, 3.2).
    #[error("the request has no Host, or more than one")]
    HostCount,
    /// It is not a host with or without a port, or not the one of the request's target.
    #[error("the Host of the request is not a host, or not that of its target")]
    HostForm,
    /// A target that is neither a path nor an http URL without user and password.
    #[error("the target of the request is neither a path nor an http URL")]
    Target,
    /// A transfer coding that is not undone here (RFC 9112, 6.1).
    #[error("no transfer coding but `chunked`, once, is served")]
    TransferCoding,
    /// An expectation but `100-continue` (RFC 9110, 10.1.1).
    #[error("no expectation but `100-continue` can be met")]
    Expectation,
}

impl Refused {
    /// The status that says it.
    pub fn status(self) -> StatusCode {
        match self {
            Refused::Connect | Refused::Protocol | Refused::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Refused::HostCount | Refused::HostForm | Refused::Target => StatusCode::BAD_REQUEST,
            Refused::Expectation => StatusCode::EXPECTATION_FAILED,
        }
    }
}

/// Brings a request's head into its one form for forwarding, and says what it is about: the target
/// is path and query, what concerns only the client's connection is gone, and Host is the host
/// that the client means, if it names one.
///
/// # Errors
/// [`Refused`]: it must not be forwarded.
pub fn prepare(head: &mut Parts) -> Result<Intent, Refused> {
    let is_within = is_websocket(head)?;
    if is_within {
        // What the same is over HTTP/1.1 (RFC 8441, 5).
        head.method = Method::GET;
    }
    if !fields::is_plain(&head.headers) {
        return Err(Refused::TransferCoding);
    }
    check_expectation(&mut head.headers)?;
    settle_host(head)?;
    fields::join_cookies(&mut head.headers);
    let wants_upgrade = head.version == Version::HTTP_11 && fields::says(&head.headers, "upgrade");
    let upgrade =
        if wants_upgrade { head.headers.get(header::UPGRADE).filter(|p| is_offered(p)) } else { None };
    let upgrade = if is_within { Some(HeaderValue::from_static("websocket")) } else { upgrade.cloned() };
    let trailers = fields::lists(&head.headers, &header::TE, "trailers");
    fields::strip(&mut head.headers);
    Ok(Intent { repeat: repeat(&head.method), upgrade, is_within, trailers })
}

/// Whether it asks for a WebSocket within HTTP/2; for other protocols, or for a tunnel to somewhere, it is
/// refused.
fn is_websocket(head: &Parts) -> Result<bool, Refused> {
    if head.method != Method::CONNECT {
        return Ok(false);
    }
    match head.extensions.get::<hyper::ext::Protocol>() {
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case("websocket") => Ok(true),
        Some(_) => Err(Refused::Protocol),
        None => Err(Refused::Connect),
    }
}

/// An upgrade to HTTP/2 in clear text is not taken: the node would speak it with the client past
/// every check (RFC 9113 has dropped it).
fn is_offered(protocols: &HeaderValue) -> bool {
    let is_h2 = |p: &[u8]| p.trim_ascii().get(..2).is_some_and(|p| p.eq_ignore_ascii_case(b"h2"));
    !protocols.as_bytes().split(|b| *b == b',').any(is_h2)
}

fn repeat(method: &Method) -> Repeat {
    match () {
        () if method.is_safe() => Repeat::Safe,
        () if method.is_idempotent() => Repeat::Idempotent,
        () => Repeat::Never,
    }
}

/// The client's `100-continue` is met here, when the node's connection asks for the body.
fn check_expectation(headers: &mut HeaderMap) -> Result<(), Refused> {
    match headers.remove(header::EXPECT) {
        Some(expected) if !expected.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Refused::Expectation)
        }
        _ => Ok(()),
    }
}

/// The host of an absolute target goes before the Host field (RFC 9112, 3.2.2); in HTTP/2 both have
/// to be the same (RFC 9113, 8.3.1).
fn settle_host(head: &mut Parts) -> Result<(), Refused> {
    let mut hosts = head.headers.get_all(header::HOST).into_iter();
    let (host, other) = (hosts.next(), hosts.next());
    if other.is_some() {
        return Err(Refused::HostCount);
    }
    let Some(authority) = head.uri.authority() else {
        return match host {
            None if head.version == Version::HTTP_10 => Ok(()),
            None => Err(Refused::HostCount),
            Some(host) if is_host(host) => target(head, None),
            Some(_) => Err(Refused::HostForm),
        };
    };
    let is_http = head.uri.scheme_str().is_none_or(|s| s == "http" || s == "https");
    if !is_http || authority.as_str().contains('@') {
        return Err(Refused::Target);
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err(Refused::HostForm);
    }
    let differs = |host: &HeaderValue| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
    if head.version == Version::HTTP_2 && host.is_some_and(differs) {
        return Err(Refused::HostForm);
    }
    let named = HeaderValue::from_str(authority.as_str()).map_err(|_| Refused::Target)?;
    target(head, Some(named))
}

/// Path and query alone are the target, `*` of `OPTIONS` included.
fn target(head: &mut Parts, host: Option<HeaderValue>) -> Result<(), Refused> {
    if let Some(host) = host {
        head.headers.insert(header::HOST, host);
    }
    // `*` asks about the server as a whole (RFC 9112, 3.2.4).
    if head.uri.path() == "*" && head.method != Method::OPTIONS {
        return Err(Refused::Target);
    }
    if head.uri.authority().is_none() && head.uri.path_and_query().is_some() {
        return Ok(());
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = path.ok_or(Refused::Target)?.into();
    Ok(())
}

/// A host with or without a port, or nothing (RFC 9110, 7.2).
fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b".-_:".contains(b);
    if bytes.iter().all(plain) {
        return true;
    }
    !bytes.contains(&b'@') && Authority::try_from(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;

    fn head(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    /// Each request that must not pass is refused with the status of the specification.
    #[test]
    fn refusals() {
        type Fields = &'static [(&'static str, &'static str)];
        let table: [(&str, &str, Version, Fields, Refused); 15] = [
            ("GET", "*", Version::HTTP_11, &[("host", "a")], Refused::Target),
            ("CONNECT", "a:1", Version::HTTP_11, &[("host", "a")], Refused::Connect),
            ("GET", "/", Version::HTTP_11, &[], Refused::HostCount),
            ("GET", "/", Version::HTTP_11, &[("host", "a"), ("host", "a")], Refused::HostCount),
            ("GET", "/", Version::HTTP_11, &[("host", "a b")], Refused::HostForm),
            ("GET", "/", Version::HTTP_11, &[("host", "me@a")], Refused::HostForm),
            ("GET", "/", Version::HTTP_11, &[("host", "a/b")], Refused::HostForm),
            ("GET", "http://a/", Version::HTTP_2, &[("host", "b")], Refused::HostForm),
            ("GET", "ftp://a/", Version::HTTP_11, &[("host", "a")], Refused::Target),
            ("GET", "http://me@a/", Version::HTTP_11, &[("host", "a")], Refused::Target),
            (
                "GET",
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                Refused::TransferCoding,
            ),
            (
                "GET",
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "identity")],
                Refused::TransferCoding,
            ),
            (
                "GET",
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Refused::TransferCoding,
            ),
            (
                "GET",
                "/",
                Version::HTTP_11,
                &[("host", "a"), ("transfer-encoding", "xchunked")],
                Refused::TransferCoding,
            ),
            ("PUT", "/", Version::HTTP_11, &[("host", "a"), ("expect", "200-ok")], Refused::Expectation),
        ];
        for (method, target, version, fields, refused) in table {
            let mut head = head(method, target, version, fields);
            assert_eq!(prepare(&mut head), Err(refused), "{method} {target} {fields:?}");
        }
    }

    /// The target becomes path and query, and Host the host that was meant.
    #[test]
    fn targets() {
        for (target, version, host, wanted, wanted_host) in [
            ("/a?b", Version::HTTP_11, Some("h:1"), "/a?b", Some("h:1")),
            ("/a", Version::HTTP_11, Some(""), "/a", Some("")),
            ("/a", Version::HTTP_11, Some("[::1]:80"), "/a", Some("[::1]:80")),
            ("*", Version::HTTP_11, Some("h"), "*", Some("h")),
            ("/a", Version::HTTP_10, None, "/a", None),
            ("http://x:2/a?b", Version::HTTP_11, Some("h"), "/a?b", Some("x:2")),
            ("http://x", Version::HTTP_11, Some("x"), "/", Some("x")),
            ("https://x/a", Version::HTTP_2, None, "/a", Some("x")),
            ("http://X/a", Version::HTTP_2, Some("x"), "/a", Some("X")),
        ] {
            let fields: Vec<_> = host.map(|host| ("host", host)).into_iter().collect();
            let method = if target == "*" { "OPTIONS" } else { "GET" };
            let mut head = head(method, target, version, &fields);
            prepare(&mut head).expect(target);
            assert_eq!(head.uri.to_string(), wanted);
            let host = head.headers.get(header::HOST).map(|h| h.to_str().expect("text"));
            assert_eq!(host, wanted_host, "{target}");
        }
    }

    /// What a request wants of its connection is known, and gone from its head.
    #[test]
    fn wishes() {
        let websocket: &[_] =
            &[("host", "h"), ("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        let mut upgrade = head("GET", "/", Version::HTTP_11, websocket);
        assert_eq!(
            prepare(&mut upgrade).expect("fine").upgrade.as_ref().map(HeaderValue::as_bytes),
            Some(&b"websocket"[..])
        );
        assert_eq!(upgrade.headers.len(), 1, "{:?}", upgrade.headers);
        for (offer, connection) in [("h2c", "upgrade"), ("websocket, H2C", "upgrade"), ("websocket", "close")]
        {
            let fields = [("host", "h"), ("connection", connection), ("upgrade", offer)];
            let mut head = head("GET", "/", Version::HTTP_11, &fields);
            assert_eq!(prepare(&mut head).expect("fine").upgrade, None, "{offer}");
            assert_eq!(head.headers.len(), 1, "{:?}", head.headers);
        }
        let fields = [("host", "h"), ("te", "deflate;q=0.5, Trailers"), ("expect", "100-Continue")];
        let mut trailers = head("PUT", "/", Version::HTTP_11, &fields);
        let intent = prepare(&mut trailers).expect("fine");
        assert_eq!((intent.repeat, intent.trailers), (Repeat::Idempotent, true));
        assert_eq!(trailers.headers.len(), 1, "{:?}", trailers.headers);
    }

    /// A WebSocket within HTTP/2 becomes what it is over HTTP/1.1; no other protocol does.
    #[test]
    fn websockets_within_http2() {
        let ask = |protocol: &'static str| {
            let mut head = head("CONNECT", "http://h:1/chat?room=7", Version::HTTP_2, &[]);
            head.extensions.insert(hyper::ext::Protocol::from_static(protocol));
            prepare(&mut head).map(|intent| (head.method, head.uri.to_string(), intent))
        };
        let (method, target, intent) = ask("websocket").expect("it is served");
        assert_eq!((method, target.as_str()), (Method::GET, "/chat?room=7"));
        assert_eq!((intent.is_within, intent.repeat), (true, Repeat::Safe));
        assert_eq!(intent.upgrade, Some(HeaderValue::from_static("websocket")));
        assert_eq!(ask("connect-udp").map(|_| ()), Err(Refused::Protocol));
    }

    /// Methods that read, that may be repeated, and all others.
    #[test]
    fn repeats() {
        let of = |method: &str| repeat(&Method::from_bytes(method.as_bytes()).expect("a method"));
        assert!(["GET", "HEAD", "OPTIONS", "TRACE"].iter().all(|m| of(m) == Repeat::Safe));
        assert!(["PUT", "DELETE"].iter().all(|m| of(m) == Repeat::Idempotent));
        assert!(["POST", "PATCH", "PURGE", "get"].iter().all(|m| of(m) == Repeat::Never));
    }
}

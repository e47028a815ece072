//! The settings of an HTTP pool that no other pool has.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use ::http::HeaderName;

use crate::{protocol::http::KeyRule, ring::BoundedLoad};

/// What an HTTP pool obeys beside the rest of its [`Policy`](super::Policy).
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Where the ring key of a request comes from.
    pub key: KeyRule,
    /// How much more than its share of the requests in flight a node may have before some go to
    /// the next candidate. `None`: as many as come.
    pub bounded_load: Option<BoundedLoad>,
    /// What nodes are spoken to in.
    pub node_protocol: NodeProtocol,
    /// Nodes see the Host that the client sent, or else their own address.
    pub keep_host: bool,
    /// How nodes are told of the client.
    pub forwarded: Forwarded,
    /// Requests get a Via field (RFC 9110, 7.6.3).
    pub via: bool,
    /// Trailers that whoever sends them need not have announced: ringway announces them where that is wanted.
    pub trailers: Vec<HeaderName>,
    /// Replies with these statuses count as failures of the node: some of 502, 503 and 504. They
    /// go to the client all the same.
    pub failure_statuses: Vec<u16>,
    /// How a node is asked whether it serves.
    pub probe: HttpProbe,
    /// Connections to one node that one worker keeps while they carry no request.
    pub idle_connections: usize,
    /// Bounds.
    pub limits: HttpLimits,
}

/// The version of HTTP towards nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeProtocol {
    /// HTTP/1.1.
    #[default]
    H1,
    /// HTTP/2 with prior knowledge, without TLS (h2c).
    H2,
}

/// The header field that tells nodes of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// None is added; what the client sent passes.
    #[default]
    Off,
    /// `X-Forwarded-For`, `-Proto` and `-Host`: the client's address is appended to what is there.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): an element is appended to what is there.
    Forwarded,
}

/// A probe of an HTTP node: `GET path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// What is asked for: path and query, beginning with `/`.
    pub path: String,
    /// The Host that is sent; `None` sends the node's address.
    pub host: Option<String>,
    /// The statuses of a node that serves.
    pub status: RangeInclusive<u16>,
    /// What the body of a node that serves contains, within its first 64 KiB.
    pub body: Option<Arc<[u8]>>,
}

/// Bounds of an HTTP pool's data plane. Bytes, counts and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// The head of one request or reply: its first line and its header fields.
    pub header_bytes: usize,
    /// Header fields of one request or reply.
    pub headers_max: usize,
    /// The body of one request; `None` for no bound, since bodies are never held whole.
    pub body_bytes: Option<u64>,
    /// Requests of one client's connection before it is closed; `None` for no bound.
    pub requests_per_connection: Option<u64>,
    /// A client's connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// The head of a request is there within this, from its first byte.
    pub header_timeout: Duration,
    /// Requests of the pool that are in flight at once, over all clients and workers; further ones
    /// are refused.
    pub requests_max: usize,
    /// Connections from one worker to one node; requests beyond them wait.
    pub connections_per_node_max: usize,
}

impl Default for HttpSettings {
    fn default() -> HttpSettings {
        HttpSettings {
            key: KeyRule::default(),
            bounded_load: None,
            node_protocol: NodeProtocol::default(),
            keep_host: true,
            forwarded: Forwarded::default(),
            via: true,
            trailers: Vec::new(),
            failure_statuses: Vec::new(),
            probe: HttpProbe::default(),
            idle_connections: 32,
            limits: HttpLimits::default(),
        }
    }
}

impl Default for HttpProbe {
    fn default() -> HttpProbe {
        HttpProbe { path: "/".to_owned(), host: None, status: 200..=399, body: None }
    }
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            header_bytes: 64 << 10,
            headers_max: 100,
            body_bytes: None,
            requests_per_connection: None,
            idle_timeout: Duration::from_secs(60),
            header_timeout: Duration::from_secs(10),
            requests_max: 10_000,
            connections_per_node_max: 1_000,
        }
    }
}

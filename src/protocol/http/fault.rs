//! WHAT WENT WRONG on a connection to a node, as hyper and its HTTP/2 tell it.

use std::{error::Error, io};

use h2::Reason;

/// How a connection, or one exchange over it, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node's bytes are not HTTP, or not the version of it that was asked for.
    Garbage(String),
    /// The head of a reply has more fields, or more bytes, than are read of one.
    TooLarge(String),
    /// The connection broke.
    Broken(String),
    /// The node takes no further requests over this connection, and has not looked at this one: HTTP/2's
    /// GOAWAY (RFC 9113, 6.8).
    Leaving(String),
    /// The node has not looked at this request: HTTP/2's REFUSED_STREAM (RFC 9113, 8.7).
    Refused(String),
    /// The node gave up this exchange alone, the others over the connection go on.
    Reset(String),
}

impl Fault {
    /// What an error of hyper's client means.
    pub fn of(error: &hyper::Error) -> Fault {
        let mut text = error.to_string();
        // A request that waited for room among the streams of a connection that ended; hyper has no other
        // sign of it.
        let is_gone = text.starts_with("dispatch task is gone");
        let mut is_io = false;
        let mut told: fn(String) -> Fault = Fault::Garbage;
        let mut source: Option<&(dyn Error + 'static)> = error.source();
        while let Some(cause) = source {
            // hyper reports bad chunks as errors of this kind.
            let is_broken =
                |e: &io::Error| !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
            is_io |= cause.downcast_ref().is_some_and(is_broken);
            told = cause.downcast_ref().and_then(told_by).unwrap_or(told);
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        let is_closed = error.is_closed() || error.is_canceled() || error.is_incomplete_message();
        let is_wrong = error.is_parse() || error.is_user();
        if error.is_parse_too_large() {
            return Fault::TooLarge(text);
        }
        if is_gone || (!is_wrong && (is_io || is_closed)) { Fault::Broken(text) } else { told(text) }
    }

    /// What the node found wrong with what it was sent, when it closed an HTTP/2 connection over that: its
    /// own troubles and ordinary ends are none.
    pub fn blame(error: &hyper::Error) -> Option<String> {
        let told = error.source()?.downcast_ref::<h2::Error>()?;
        let is_blame = told.is_go_away()
            && told.is_remote()
            && !matches!(told.reason(), Some(Reason::NO_ERROR | Reason::INTERNAL_ERROR));
        is_blame.then(|| told.to_string())
    }

    /// Whether the connection was reset, rather than closed. hyper keeps no more of it than the text.
    pub fn is_reset(&self) -> bool {
        matches!(self, Fault::Broken(text) if ["reset by peer", "Broken pipe"].iter().any(|how| text.contains(how)))
    }

    /// The node says that it has not looked at the request: any may be sent again.
    pub fn is_unprocessed(&self) -> bool {
        matches!(self, Fault::Leaving(_) | Fault::Refused(_))
    }

    /// It concerns this exchange and not its connection.
    pub fn is_of_one(&self) -> bool {
        matches!(self, Fault::Refused(_) | Fault::Reset(_))
    }

    /// As a person would say it.
    pub fn text(&self) -> &str {
        match self {
            Fault::Garbage(text)
            | Fault::TooLarge(text)
            | Fault::Broken(text)
            | Fault::Leaving(text)
            | Fault::Refused(text)
            | Fault::Reset(text) => text,
        }
    }
}

/// What a node told in a frame. With GOAWAY only those streams fail in this way that the node names as not
/// looked at, or that were not opened yet; the others go on.
fn told_by(error: &h2::Error) -> Option<fn(String) -> Fault> {
    match error.reason() {
        _ if !error.is_remote() => None,
        _ if error.is_go_away() => Some(Fault::Leaving),
        Some(Reason::REFUSED_STREAM) => Some(Fault::Refused),
        _ => Some(Fault::Reset),
    }
}

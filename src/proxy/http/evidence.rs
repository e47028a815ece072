//! WHAT HAPPENED to a request -> what that says of its node, whether the request may go on to the next one,
//! and what the client is told. Pure; those who see it happen only name it.
//!
//! The law: what one client asks for is never what ejects a node. A page that takes longer than
//! `request_timeout`, or one whose head ringway does not read, does so at every node, and being asked for
//! three times it would take out three of them. So whatever may be the request's fault is a doubt at most:
//! the node is probed at once, by a known page over another connection, and the probe decides.

use ::http::StatusCode;

use super::body::Offence;
use crate::{
    metrics::{Outcome, Reason},
    topology::{Evidence, Failure},
};

/// Why a request has no reply from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// No connection could be made; `None` when that is this process's own trouble.
    Unreachable(Option<Failure>),
    /// No connection came free.
    Full,
    /// No connection was made for as long as the client waits.
    Late,
    /// The connection broke that an earlier request had left open, or the node says that it has not looked at
    /// the request.
    Stale,
    /// A new connection broke. It is told of the node once for a connection.
    Lost(Failure),
    /// What came is not a reply.
    Garbage,
    /// The reply is one that ringway does not read.
    Unreadable(Unreadable),
    /// HTTP/2: the node gave up this exchange, over a connection over which it answers others.
    Reset,
    /// The same, over one over which it answers nothing. It is told of the node once for a connection.
    ResetsAll,
    /// Nothing came for `request_timeout`.
    TimedOut,
    /// Nothing came for as long as the client waits, and the node has had less than its time.
    Overdue,
    /// The node was ejected.
    Left,
    /// It is the client's request that does not go on.
    Offence(Offence),
}

/// Which bound of ringway's own keeps it from reading a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    /// It has too many fields.
    #[error("its reply has more header fields than http.limits.headers_max, {0}")]
    Fields(usize),
    /// Its head is too long.
    #[error("the head of its reply is larger than http.limits.header_bytes, {0}")]
    Bytes(usize),
    /// A transfer coding other than `chunked`.
    #[error("an unknown transfer coding")]
    Coding,
}

/// What it says of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// It answers.
    Good,
    /// It fails, whatever it was asked for.
    Fails(Failure),
    /// It, or what it was asked for: a probe decides.
    Doubt(Failure),
    /// Nothing.
    Nothing,
}

/// Where the request may go from there, as far as it may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nowhere.
    Ends,
    /// To the same node, over a new connection: nothing was tried yet.
    Anew,
    /// Where the next topology says.
    Moves,
    /// Where the verdict on its node says; without one a request that reads passes the node.
    Verdict,
    /// The same, and without a verdict any other goes to the same node once more.
    Again,
    /// Where the verdict on its node says; a request that reads passes the node after a failed probe, and
    /// only then: what takes long here takes long there.
    Probe,
}

/// What the client is told: the status, the error of RFC 9209, 2.3, and how it is counted.
pub(super) type Told = (StatusCode, &'static str, Reason, Outcome);

impl Says {
    /// What the head of a reply says: whether its status is one of the pool's `failure_statuses`.
    pub(super) fn of_head(is_failure: bool) -> Says {
        if is_failure { Says::Fails(Failure::Status) } else { Says::Good }
    }

    /// Has it counted.
    pub(super) fn of(self, evidence: &Evidence) {
        match self {
            Says::Good => evidence.good(),
            Says::Fails(kind) => evidence.failed(kind, 1),
            Says::Doubt(kind) => evidence.doubted(kind),
            Says::Nothing => {}
        }
    }
}

impl Happened {
    /// What it says of the node.
    pub(super) fn says(self) -> Says {
        match self {
            Happened::Garbage | Happened::ResetsAll | Happened::Unreachable(Some(Failure::Protocol)) => {
                Says::Doubt(Failure::Protocol)
            }
            Happened::TimedOut => Says::Doubt(Failure::Timeout),
            Happened::Unreachable(Some(kind)) | Happened::Lost(kind) => Says::Fails(kind),
            Happened::Unreachable(None)
            | Happened::Full
            | Happened::Late
            | Happened::Stale
            | Happened::Unreadable(_)
            | Happened::Reset
            | Happened::Overdue
            | Happened::Left
            | Happened::Offence(_) => Says::Nothing,
        }
    }

    /// Where the request may go from there.
    pub(super) fn next(self) -> Next {
        match self {
            Happened::Unreachable(None)
            | Happened::Full
            | Happened::Late
            | Happened::Unreadable(_)
            | Happened::Overdue
            | Happened::Offence(_) => Next::Ends,
            Happened::Stale => Next::Anew,
            Happened::Left => Next::Moves,
            Happened::Unreachable(Some(_)) | Happened::Garbage | Happened::Reset | Happened::ResetsAll => {
                Next::Verdict
            }
            Happened::Lost(_) => Next::Again,
            Happened::TimedOut => Next::Probe,
        }
    }

    /// What the client is told.
    pub(super) fn told(self) -> Told {
        use {Happened::*, Reason as Why};
        let (bad, late) = (StatusCode::BAD_GATEWAY, StatusCode::GATEWAY_TIMEOUT);
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let request = |status| (status, "http_request_error", Why::Protocol, Outcome::Refused);
        match self {
            Unreachable(Some(Failure::ConnectTimeout)) => {
                (late, "connection_timeout", Why::NoOwner, Outcome::Timeout)
            }
            Unreachable(Some(Failure::Timeout)) | TimedOut | Overdue => {
                (late, "http_response_timeout", Why::Timeout, Outcome::Timeout)
            }
            Late => (late, "connection_timeout", Why::Timeout, Outcome::Timeout),
            Unreachable(Some(Failure::Refused)) => {
                (bad, "connection_refused", Why::NoOwner, Outcome::Refused)
            }
            Unreachable(Some(_)) => (bad, "http_protocol_error", Why::NoOwner, Outcome::Refused),
            Unreachable(None) => (unavailable, "proxy_internal_error", Why::Overload, Outcome::Refused),
            Full => (unavailable, "connection_limit_reached", Why::Overload, Outcome::Refused),
            Stale | Lost(_) => (bad, "connection_terminated", Why::MaybeApplied, Outcome::Lost),
            Garbage | Reset | ResetsAll => (bad, "http_protocol_error", Why::MaybeApplied, Outcome::Lost),
            Unreadable(self::Unreadable::Coding) => {
                (bad, "http_response_transfer_coding", Why::Protocol, Outcome::Error)
            }
            Unreadable(_) => (bad, "http_response_header_section_size", Why::Protocol, Outcome::Error),
            Left => (unavailable, "destination_unavailable", Why::NoOwner, Outcome::Lost),
            Offence(super::body::Offence::Slow) => {
                (StatusCode::REQUEST_TIMEOUT, "http_request_error", Why::SlowClient, Outcome::Refused)
            }
            Offence(super::body::Offence::TooLarge) => request(StatusCode::PAYLOAD_TOO_LARGE),
            Offence(super::body::Offence::NoWebSocket) => request(StatusCode::NOT_IMPLEMENTED),
            Offence(_) => request(StatusCode::BAD_REQUEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Happened::*, *};

    /// The table: whatever one client's request may be to blame for ejects nobody, and a reply that ringway
    /// does not read is asked of nobody else.
    #[test]
    #[rustfmt::skip]
    fn what_it_says_of_the_node_where_the_request_goes_and_what_the_client_is_told() {
        use Failure::{ConnectTimeout, Protocol, Refused, Timeout};
        let fails = Says::Fails;
        let rows = [
            (Unreachable(Some(Refused)), fails(Refused), Next::Verdict, 502, "connection_refused", "no_owner"),
            (Unreachable(Some(ConnectTimeout)), fails(ConnectTimeout), Next::Verdict, 504, "connection_timeout", "no_owner"),
            (Unreachable(Some(Timeout)), fails(Timeout), Next::Verdict, 504, "http_response_timeout", "timeout"),
            (Unreachable(Some(Protocol)), Says::Doubt(Protocol), Next::Verdict, 502, "http_protocol_error", "no_owner"),
            (Unreachable(None), Says::Nothing, Next::Ends, 503, "proxy_internal_error", "overload"),
            (Full, Says::Nothing, Next::Ends, 503, "connection_limit_reached", "overload"),
            (Late, Says::Nothing, Next::Ends, 504, "connection_timeout", "timeout"),
            (Stale, Says::Nothing, Next::Anew, 502, "connection_terminated", "maybe_applied"),
            (Lost(Failure::Lost), fails(Failure::Lost), Next::Again, 502, "connection_terminated", "maybe_applied"),
            (Lost(Failure::Reset), fails(Failure::Reset), Next::Again, 502, "connection_terminated", "maybe_applied"),
            (Garbage, Says::Doubt(Protocol), Next::Verdict, 502, "http_protocol_error", "maybe_applied"),
            (Unreadable(super::Unreadable::Fields(100)), Says::Nothing, Next::Ends, 502, "http_response_header_section_size", "protocol"),
            (Unreadable(super::Unreadable::Bytes(65536)), Says::Nothing, Next::Ends, 502, "http_response_header_section_size", "protocol"),
            (Unreadable(super::Unreadable::Coding), Says::Nothing, Next::Ends, 502, "http_response_transfer_coding", "protocol"),
            (Reset, Says::Nothing, Next::Verdict, 502, "http_protocol_error", "maybe_applied"),
            (ResetsAll, Says::Doubt(Protocol), Next::Verdict, 502, "http_protocol_error", "maybe_applied"),
            (TimedOut, Says::Doubt(Timeout), Next::Probe, 504, "http_response_timeout", "timeout"),
            (Overdue, Says::Nothing, Next::Ends, 504, "http_response_timeout", "timeout"),
            (Left, Says::Nothing, Next::Moves, 503, "destination_unavailable", "no_owner"),
            (Offence(super::Offence::TooLarge), Says::Nothing, Next::Ends, 413, "http_request_error", "protocol"),
            (Offence(super::Offence::Client), Says::Nothing, Next::Ends, 400, "http_request_error", "protocol"),
            (Offence(super::Offence::Slow), Says::Nothing, Next::Ends, 408, "http_request_error", "slow_client"),
            (Offence(super::Offence::Refused), Says::Nothing, Next::Ends, 400, "http_request_error", "protocol"),
            (Offence(super::Offence::NoWebSocket), Says::Nothing, Next::Ends, 501, "http_request_error", "protocol"),
        ];
        for (happened, says, next, status, error, reason) in rows {
            let (as_status, as_error, as_reason, _) = happened.told();
            assert_eq!((happened.says(), happened.next()), (says, next), "{happened:?}");
            assert_eq!((as_status.as_u16(), as_error, as_reason.word()), (status, error, reason), "{happened:?}");
        }
    }

    /// A doubt is seen, rings the bell, and adds to no streak; a failure adds to it, and a good reply ends
    /// it.
    #[test]
    fn what_is_counted() {
        let evidence = Evidence::default();
        Says::Doubt(Failure::Timeout).of(&evidence);
        assert_eq!((evidence.streak(), evidence.count(Failure::Timeout)), (0, 1));
        assert_eq!((evidence.failures(Failure::Timeout), evidence.doubts(Failure::Timeout)), (0, 1));
        Says::of_head(true).of(&evidence);
        assert_eq!((evidence.streak(), evidence.failures(Failure::Status)), (1, 1));
        Says::Nothing.of(&evidence);
        assert_eq!(evidence.streak(), 1);
        Says::of_head(false).of(&evidence);
        assert_eq!((evidence.streak(), evidence.count(Failure::Status)), (0, 1));
    }
}

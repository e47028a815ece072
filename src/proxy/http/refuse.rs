//! What ringway itself answers: a status, a line of text, and a Proxy-Status field (RFC 9209) that
//! says what went wrong in words which programs know.

use std::borrow::Cow;

use ::http::{HeaderValue, Response, StatusCode, header};

use super::body::Reply;
use crate::{
    metrics::{Outcome, Reason},
    protocol::http::Refused,
};

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// The error type of RFC 9209, 2.3.
    pub(super) kind: &'static str,
    pub(super) reason: Reason,
    pub(super) outcome: Outcome,
    /// As a person would say it.
    pub(super) text: Cow<'static, str>,
}

const PROXY_STATUS: &str = "proxy-status";

impl Refusal {
    /// The client's request can't be served, by anybody.
    pub(super) fn of_request(refused: Refused) -> Refusal {
        Refusal::bad(refused.status(), refused.to_string())
    }

    /// The same, with another status.
    pub(super) fn bad(status: StatusCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        let kind = "http_request_error";
        Refusal { status, kind, reason: Reason::Protocol, outcome: Outcome::Refused, text: text.into() }
    }

    /// A bound is reached.
    pub(super) fn overload(text: impl Into<Cow<'static, str>>) -> Refusal {
        let kind = "connection_limit_reached";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Refusal { status, kind, reason: Reason::Overload, outcome: Outcome::Refused, text: text.into() }
    }

    /// Nobody owns the key now.
    pub(super) fn no_owner(text: impl Into<Cow<'static, str>>) -> Refusal {
        let kind = "destination_unavailable";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Refusal { status, kind, reason: Reason::NoOwner, outcome: Outcome::Refused, text: text.into() }
    }

    /// The reply that says so.
    pub(super) fn reply(self) -> Response<Reply> {
        // Texts name nodes and addresses: what can't stand in quotes is left out.
        let is_plain = |c: &char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\');
        let plain: String = self.text.chars().filter(is_plain).collect();
        let status = format!("ringway; error={}; details=\"{plain}\"", self.kind);
        let mut response = Response::new(Reply::text(format!("ringway: {}\n", self.text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Ok(value) = HeaderValue::from_str(&status) {
            headers.insert(PROXY_STATUS, value);
        }
        response
    }
}

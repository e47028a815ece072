//! The dashboard: one page for people, which asks the other routes for what it shows. It loads nothing from
//! elsewhere, and its policy forbids it to.

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

const PAGE: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
const SCRIPT: &str = include_str!("dashboard/page.js");

/// Nothing but what this process serves; a style in an element is how wide a bar is.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether who asks wants to look at a page, as browsers do.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/html"))
}

/// The page.
pub(super) fn page() -> Response {
    part("text/html; charset=utf-8", PAGE)
}

/// How it looks.
pub(super) async fn style() -> Response {
    part("text/css; charset=utf-8", STYLE)
}

/// What it does.
pub(super) async fn script() -> Response {
    part("text/javascript; charset=utf-8", SCRIPT)
}

fn part(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "accept"),
    ];
    (headers, text).into_response()
}

//! `http`: what only HTTP pools have.

use std::{ops::RangeInclusive, sync::Arc};

use ::http::{HeaderName, uri::Authority};

use super::{
    section::{Field, Section},
    units::{duration, number, size, switch, word},
};
use crate::{
    protocol::http::{KeyRule, KeySource, Missing, Pattern, fields},
    topology::{Forwarded, HttpLimits, HttpProbe, HttpSettings, NodeProtocol},
};

const HOUR_MS: u64 = 3_600_000;

/// Sources of the ring key that need no more than their word.
const KEYS: [(&str, KeySource); 4] = [
    ("path_and_query", KeySource::PathAndQuery),
    ("path", KeySource::Path),
    ("host_and_path", KeySource::HostAndPath),
    ("client_address", KeySource::ClientAddress),
];
const MISSING: [(&str, Missing); 2] =
    [("path_and_query", Missing::PathAndQuery), ("refuse", Missing::Refuse)];
const NODE_PROTOCOLS: [(&str, NodeProtocol); 2] = [("h1", NodeProtocol::H1), ("h2", NodeProtocol::H2)];
const FORWARDED: [(&str, Forwarded); 3] = [
    ("none", Forwarded::Off),
    ("x_forwarded_for", Forwarded::XForwardedFor),
    ("forwarded", Forwarded::Forwarded),
];
/// The statuses that say of a node, not of a request, that it failed.
const FAILURE_STATUSES: [(&str, u16); 3] = [("502", 502), ("503", 503), ("504", 504)];

/// The configuration's word for a source of the ring key, and what it needs beside the word.
pub(super) fn key_words(source: &KeySource) -> (&'static str, Option<String>) {
    match source {
        KeySource::Path => ("path", None),
        KeySource::PathAndQuery => ("path_and_query", None),
        KeySource::HostAndPath => ("host_and_path", None),
        KeySource::ClientAddress => ("client_address", None),
        KeySource::Header(name) => ("header", Some(name.as_str().to_owned())),
        KeySource::Cookie(name) => ("cookie", Some(name.clone())),
        KeySource::Capture(pattern) => ("pattern", Some(pattern.as_str().to_owned())),
    }
}

/// The configuration's word for what happens without a ring key.
pub(super) fn missing_word(missing: Missing) -> &'static str {
    match missing {
        Missing::PathAndQuery => "path_and_query",
        Missing::Refuse => "refuse",
    }
}

/// The configuration's word for the version of HTTP towards nodes.
pub(super) fn node_protocol_word(protocol: NodeProtocol) -> &'static str {
    match protocol {
        NodeProtocol::H1 => "h1",
        NodeProtocol::H2 => "h2",
    }
}

/// The configuration's word for how nodes are told of the client.
pub(super) fn forwarded_word(forwarded: Forwarded) -> &'static str {
    match forwarded {
        Forwarded::Off => "none",
        Forwarded::XForwardedFor => "x_forwarded_for",
        Forwarded::Forwarded => "forwarded",
    }
}

/// Statuses as [`statuses`] reads them.
pub(super) fn statuses_text(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

/// Reads `http`.
pub(super) fn http(mut section: Section<'_>) -> HttpSettings {
    let mut h = HttpSettings::default();
    let mut rule = KeyRule::default();
    if let Some(from) = section.take("key").and_then(key) {
        rule.from = from;
    }
    section.read("missing_key", &mut rule.missing, |t| word(&MISSING, t));
    h.key = rule;
    section.read("node_protocol", &mut h.node_protocol, |t| word(&NODE_PROTOCOLS, t));
    section.read("keep_host", &mut h.keep_host, switch);
    section.read("forwarded", &mut h.forwarded, |t| word(&FORWARDED, t));
    section.read("via", &mut h.via, switch);
    if let Some(field) = section.take("trailers") {
        h.trailers = trailers(&field);
    }
    if let Some(field) = section.take("failure_statuses") {
        h.failure_statuses = failure_statuses(&field);
    }
    section.read("idle_connections", &mut h.idle_connections, number(0..=10_000));
    h.probe = section.inner("probe").map(probe).unwrap_or_default();
    h.limits = section.inner("limits").map(limits).unwrap_or_default();
    if h.idle_connections > h.limits.connections_per_node_max {
        let place = section.place_of("idle_connections");
        section.report().warn(&place, "is above limits.connections_per_node_max, so it can never be reached");
    }
    section.finish();
    h
}

/// A word, or a section with one of `header`, `cookie` and `pattern`.
fn key(field: Field<'_>) -> Option<KeySource> {
    if !field.is_section() {
        return field.parse(|text| {
            word(&KEYS, text).map_err(|e| format!("{e}, and not a section with header, cookie or pattern"))
        });
    }
    let mut section = field.section()?;
    let (report, place) = (section.report(), section.place().clone());
    let fields = [section.take("header"), section.take("cookie"), section.take("pattern")];
    section.finish();
    match fields {
        [Some(header), None, None] => header.parse(header_name).map(KeySource::Header),
        [None, Some(cookie), None] => cookie.parse(cookie_name).map(KeySource::Cookie),
        [None, None, Some(pattern)] => {
            pattern.parse(|t| Pattern::new(t).map_err(|e| e.to_string())).map(KeySource::Capture)
        }
        _ => {
            report.error(&place, "wants one of header, cookie and pattern");
            None
        }
    }
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is not the name of a header"))
}

/// A cookie's name has the characters of a header's (RFC 6265, 4.1.1), in either case.
fn cookie_name(text: &str) -> Result<String, String> {
    match header_name(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("`{text}` is not the name of a cookie")),
    }
}

fn trailers(field: &Field<'_>) -> Vec<HeaderName> {
    if !field.is_list() {
        field.error("is not a list; write [NAME, ...]");
        return Vec::new();
    }
    let name = |text: &str| match header_name(text)? {
        name if fields::may_trail(&name) => Ok(name),
        name => Err(format!("`{name}` can't be a trailer: what it says is needed before the body")),
    };
    field.items().iter().filter_map(|item| item.parse(name)).collect()
}

fn failure_statuses(field: &Field<'_>) -> Vec<u16> {
    if !field.is_list() {
        field.error("is not a list; write [502, 503, 504]");
        return Vec::new();
    }
    let mut statuses: Vec<u16> =
        field.items().iter().filter_map(|item| item.parse(|t| word(&FAILURE_STATUSES, t))).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn probe(mut section: Section<'_>) -> HttpProbe {
    let mut p = HttpProbe::default();
    section.read("path", &mut p.path, path);
    section.read("host", &mut p.host, |t| match t.parse::<Authority>() {
        Ok(host) if !t.contains('@') => Ok(Some(host.to_string())),
        _ => Err(format!("`{t}` is not a host, with or without a port")),
    });
    section.read("status", &mut p.status, statuses);
    section.read("body", &mut p.body, |t| match t {
        "" => Err("is empty; leave it out to take any body".to_owned()),
        _ => Ok(Some(Arc::from(t.as_bytes()))),
    });
    section.finish();
    p
}

/// Path and query, as they stand in a request.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not a path; write one that begins with / and has %20 for a space"))
}

/// One status, or the first and the last of several.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |t: &str| number(100..=599)(t.trim());
    match (status(first), status(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` is not a range of statuses; write 200 or 200-399")),
    }
}

fn limits(mut section: Section<'_>) -> HttpLimits {
    let mut l = HttpLimits::default();
    // Below 8 KiB hyper has no room for its own reads.
    section.read("header_bytes", &mut l.header_bytes, size(8 << 10..=16 << 20));
    section.read("headers_max", &mut l.headers_max, number(1..=10_000));
    section.read("body_bytes", &mut l.body_bytes, |t| size(1..=1 << 50)(t).map(|n| Some(n as u64)));
    section.read("requests_per_connection", &mut l.requests_per_connection, |t| {
        number(1..=1_000_000_000)(t).map(Some)
    });
    section.read("idle_timeout", &mut l.idle_timeout, duration(1..=HOUR_MS));
    section.read("header_timeout", &mut l.header_timeout, duration(1..=HOUR_MS));
    section.read("requests_max", &mut l.requests_max, number(1..=10_000_000));
    section.read("connections_per_node_max", &mut l.connections_per_node_max, number(1..=100_000));
    section.finish();
    l
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{finding::Report, tree};

    fn read(text: &str) -> Result<(HttpSettings, Vec<String>), String> {
        let report = Report::new("f");
        let node = tree::parse(text, &report).expect("is YAML");
        let settings = http(Section::root(&node, &report).expect("is a map"));
        let warnings = report.finish().map_err(|e| e.to_string())?;
        Ok((settings, warnings.iter().map(ToString::to_string).collect()))
    }

    /// Every word is read as what prints it.
    #[test]
    fn words() {
        for (text, source) in KEYS {
            assert_eq!(key_words(&source), (text, None));
            assert_eq!(read(&format!("key: {text}")).map(|r| r.0.key.from), Ok(source));
        }
        for text in ["{header: x-user}", "{cookie: SID}", "{pattern: '^/([^/]+)'}"] {
            let source = read(&format!("key: {text}")).expect("fine").0.key.from;
            let (word, argument) = key_words(&source);
            let argument = argument.expect("it has one");
            assert_eq!(text.replace('\'', ""), format!("{{{word}: {argument}}}"));
        }
        let (m, n, f) = (MISSING, NODE_PROTOCOLS, FORWARDED);
        assert!(m.iter().all(|(word, value)| missing_word(*value) == *word));
        assert!(n.iter().all(|(word, value)| node_protocol_word(*value) == *word));
        assert!(f.iter().all(|(word, value)| forwarded_word(*value) == *word));
        for (text, range) in [("200", 200..=200), ("200-399", 200..=399), ("100 - 599", 100..=599)] {
            assert_eq!(statuses(text), Ok(range.clone()), "{text}");
            assert_eq!(statuses_text(&range), text.replace(' ', ""));
        }
    }

    /// docs/http.md has a row for each source of the ring key, and no other.
    #[test]
    fn documented_keys() {
        let docs = include_str!("../../docs/http.md");
        let part = docs.split("\n## ").find(|p| p.starts_with("The ring key")).expect("it has this heading");
        let rows: Vec<&str> = part.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect();
        let mut words: Vec<&str> = KEYS.iter().map(|(word, _)| *word).collect();
        words.extend(["{header: NAME}", "{cookie: NAME}", "{pattern: REGEX}"]);
        let sorted = |mut list: Vec<&'static str>| {
            list.sort_unstable();
            list
        };
        // The heading of the table is code, too.
        assert_eq!(sorted(rows[1..].to_vec()), sorted(words));
    }

    /// A wrong value is refused with what could stand there.
    #[test]
    fn refused() {
        for (text, want) in [
            ("key: uri", "key: `uri` is not one of path_and_query, path, host_and_path, client_address, and"),
            ("key: [path]", "is a list where one value is wanted"),
            ("key: {header: x, cookie: y}", "key: wants one of header, cookie and pattern"),
            ("key: {heder: x}", "key.heder: unknown key; did you mean `header`?"),
            ("key: {header: 'a b'}", "key.header: `a b` is not the name of a header"),
            ("key: {cookie: 'a;'}", "key.cookie: `a;` is not the name of a cookie"),
            ("key: {pattern: '('}", "key.pattern: `(` is not a regular expression"),
            ("key: {pattern: '^/'}", "key.pattern: `^/` has 0 groups"),
            ("missing_key: 404", "not one of path_and_query, refuse"),
            ("node_protocol: h3", "not one of h1, h2"),
            ("keep_host: no", "neither true nor false"),
            ("forwarded: true", "not one of none, x_forwarded_for, forwarded"),
            ("via: us", "neither true nor false"),
            ("trailers: x-sum", "trailers: is not a list; write [NAME, ...]"),
            ("trailers: ['a b']", "trailers[0]: `a b` is not the name of a header"),
            ("trailers: [x-sum, Content-Length]", "trailers[1]: `content-length` can't be a trailer"),
            ("failure_statuses: 502", "is not a list; write [502, 503, 504]"),
            ("failure_statuses: [500]", "failure_statuses[0]: `500` is not one of 502, 503, 504"),
            ("idle_connections: many", "is not a whole number"),
            ("probe: {path: health}", "probe.path: `health` is not a path"),
            ("probe: {path: '/a b'}", "is not a path"),
            ("probe: {path: '/#top'}", "is not a path"),
            ("probe: {host: 'a b'}", "probe.host: `a b` is not a host"),
            ("probe: {host: 'me@h'}", "is not a host"),
            ("probe: {status: 2xx}", "probe.status: `2xx` is not a range of statuses; write 200 or 200-399"),
            ("probe: {status: 399-200}", "is not a range"),
            ("probe: {status: 99}", "is not a range"),
            ("probe: {body: ''}", "probe.body: is empty"),
            ("limits: {header_bytes: 4KiB}", "limits.header_bytes: `4KiB` is outside 8KiB to 16MiB"),
            ("limits: {headers_max: 0}", "outside 1 to 10000"),
            ("limits: {body_bytes: none}", "limits.body_bytes: `none` is not a size"),
            ("limits: {requests_per_connection: 0}", "outside 1 to 1000000000"),
            ("limits: {idle_timeout: 0s}", "outside 1ms to 1h"),
            ("limits: {header_timeout: 10}", "its unit is missing"),
            ("limits: {requests_max: 0}", "outside 1 to"),
            ("limits: {connections_per_node_max: 0}", "outside 1 to"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{error}");
        }
    }

    /// More connections to keep than there may be are doubted.
    #[test]
    fn doubted() {
        let (_, warnings) = read("limits: {connections_per_node_max: 5}").expect("obeyed");
        assert!(warnings[0].contains("idle_connections: is above limits"), "{warnings:?}");
    }
}

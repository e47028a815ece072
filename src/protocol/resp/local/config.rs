//! CONFIG GET: the few settings of Redis that clients and benchmarks ask for, as they hold here.

use super::Settings;
use crate::protocol::resp::frame::Request;
use crate::protocol::resp::{Version, glob, write};

fn table(settings: &Settings) -> [(&'static str, String); 12] {
    let text = str::to_owned;
    [
        ("appendonly", text("no")),
        ("databases", text("1")),
        ("maxclients", settings.sessions_max.to_string()),
        ("maxmemory", text("0")),
        ("maxmemory-policy", text("noeviction")),
        ("notify-keyspace-events", text("")),
        ("port", settings.port.to_string()),
        ("proto-max-bulk-len", settings.bulk_bytes.to_string()),
        ("replica-read-only", text("yes")),
        ("save", text("")),
        ("slave-read-only", text("yes")),
        ("timeout", text("0")),
    ]
}

/// Answers with what any of the patterns matches, each setting once. A name without a wildcard
/// comes back in the letters in which it was asked for, as in Redis.
pub(super) fn answer(request: &Request<'_>, version: Version, settings: &Settings, out: &mut Vec<u8>) {
    let table = table(settings);
    let patterns: Vec<&[u8]> = request.args().skip(2).collect();
    if patterns.iter().any(|pattern| pattern.len() > glob::BYTES_MAX) {
        return write::error(out, glob::TOO_LONG);
    }
    let found: Vec<(&[u8], &str)> =
        table.iter().filter_map(|(name, value)| Some((asked(name, &patterns)?, value.as_str()))).collect();
    write::map(out, version, found.len());
    for (name, value) in found {
        write::bulk(out, name);
        write::bulk(out, value.as_bytes());
    }
}

/// The name under which a setting is answered, if a pattern asks for it.
fn asked<'a>(name: &'a str, patterns: &[&'a [u8]]) -> Option<&'a [u8]> {
    patterns.iter().find_map(|pattern| {
        if pattern.iter().any(|b| b"[*?".contains(b)) {
            glob::matches(pattern, name.as_bytes(), true).then_some(name.as_bytes())
        } else {
            pattern.eq_ignore_ascii_case(name.as_bytes()).then_some(*pattern)
        }
    })
}

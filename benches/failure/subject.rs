//! Who has nodes that fail: proxies, and ringway in each of the ways in which it can treat old data.

use crate::peers::Peer;

/// One row of the tables.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) peer: Peer,
    /// Lines of ringway's pool; the rest is its default.
    pub(crate) lines: &'static [&'static str],
    /// Whether it promises that no old value is read.
    pub(crate) forgets: bool,
}

/// A node that comes back empty would wait for the warmth budget for up to a minute.
const UNBUDGETED: &str = "warmth: {share: 100%}";

pub(crate) const SUBJECTS: &[Subject] = &[
    ringway("ringway, `quarantine`", &[UNBUDGETED, "on_return: quarantine", "sole_writer: true"], true),
    ringway("ringway, `flush`", &[UNBUDGETED, "on_return: flush"], true),
    ringway("ringway, `serve`", &[UNBUDGETED, "on_return: serve"], false),
    Subject { name: "twemproxy", peer: Peer::Twemproxy, lines: &[], forgets: false },
    Subject { name: "Envoy", peer: Peer::Envoy, lines: &[], forgets: false },
];

const fn ringway(name: &'static str, lines: &'static [&'static str], forgets: bool) -> Subject {
    Subject { name, peer: Peer::Ringway, lines, forgets }
}

//! One table of everything that `/metrics` shows: docs/metrics.md and the page itself are held to
//! it by tests. Names follow Prometheus: base units, `_total` on counters.

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from zero at the start of the process.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// The word of the exposition format.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Who holds a metric's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Blocks of the hot path and the topology, read at each scrape.
    View,
    /// The operating system, read at each scrape; a number that it does not give is left out.
    Process,
    /// The control plane, through the `metrics` facade; a series appears with its first event.
    Facade,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What one of it is.
    pub unit: &'static str,
    /// Its labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// One sentence, without a full stop.
    pub help: &'static str,
    /// Who holds its numbers.
    pub source: Source,
}

macro_rules! table {
    ($($name:ident = $source:ident $kind:ident $text:literal [$($label:literal)*] $unit:literal: $help:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`: ", $help, ".")]
            pub const $name: Metric = Metric {
                name: $text,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
                source: Source::$source,
            };
        )*

        /// Every metric, in the order in which the page shows them.
        pub const TABLE: &[Metric] = &[$($name),*];
    };
}

table! {
    REQUESTS = View Counter "ringway_requests_total" ["pool" "class" "outcome"] "requests":
        "Requests of clients, each counted exactly once, by class of command and how it ended";
    REFUSALS = View Counter "ringway_refusals_total" ["pool" "reason"] "refusals":
        "Requests that ringway refused and sessions that it closed, by reason";
    SESSIONS = View Gauge "ringway_sessions" ["pool"] "sessions":
        "Client connections that are open";
    SESSIONS_ACCEPTED = View Counter "ringway_sessions_accepted_total" ["pool"] "sessions":
        "Client connections accepted";
    CLIENT_RECEIVED = View Counter "ringway_client_received_bytes_total" ["pool"] "bytes":
        "Bytes read from clients";
    CLIENT_SENT = View Counter "ringway_client_sent_bytes_total" ["pool"] "bytes":
        "Bytes written to clients";
    PARKED = View Gauge "ringway_parked_requests" ["pool"] "requests":
        "Requests that wait for a verdict on their node or for the next epoch";
    AWAY_MISSES = View Counter "ringway_away_misses_total" ["pool"] "requests":
        "Reads that ringway answered with nothing as their node was away (on_ejected: miss)";
    SERVES = View Gauge "ringway_pool_serves" ["pool"] "boolean":
        "1 while some node that owns keys does not fail: what /readyz asks of each pool";
    EPOCH = View Gauge "ringway_epoch" ["pool"] "epochs":
        "Rises by one when some key changes its owner, and only then";
    REVISION = View Gauge "ringway_revision" ["pool"] "revisions":
        "Rises by one with every published topology";
    NODE_REQUESTS = View Counter "ringway_node_requests_total" ["pool" "node" "class" "outcome"] "requests":
        "Requests sent to a node, by class of command and how they ended: one that is split or repeated counts at each node";
    NODE_DURATION = View Histogram "ringway_node_request_duration_seconds" ["pool" "node"] "seconds":
        "Time from the handing over of a request to the node's connection until its reply";
    NODE_SENT = View Counter "ringway_node_sent_bytes_total" ["pool" "node"] "bytes":
        "Bytes written to a node";
    NODE_RECEIVED = View Counter "ringway_node_received_bytes_total" ["pool" "node"] "bytes":
        "Bytes read from a node";
    NODE_IN_FLIGHT = View Gauge "ringway_node_in_flight" ["pool" "node"] "requests":
        "Requests that a node owes a reply";
    NODE_CONNECTIONS = View Gauge "ringway_node_connections" ["pool" "node"] "connections":
        "Connections to a node that are open";
    NODE_CONNECTS = View Counter "ringway_node_connects_total" ["pool" "node"] "connections":
        "Connections made to a node";
    NODE_RETRIES = View Counter "ringway_node_retries_total" ["pool" "node"] "requests":
        "Requests sent to a node a second time";
    NODE_SUBSTITUTED = View Counter "ringway_node_substituted_requests_total" ["pool" "node"] "requests":
        "Requests for keys of a node that others served in its place";
    NODE_UNSERVED = View Counter "ringway_node_unserved_requests_total" ["pool" "node"] "requests":
        "Requests for keys of a node that were refused, or found nothing, as they stayed with it while it was out";
    NODE_MISSES = View Counter "ringway_node_misses_total" ["pool" "node"] "requests":
        "Reads that found nothing at a node: nil, END or EN; one of several keys when none of them was there";
    NODE_PROBES = View Counter "ringway_node_probes_total" ["pool" "node"] "probes":
        "Probes of a node that ended and counted, whatever they met";
    NODE_UNBOUNDED = View Counter "ringway_node_unbounded_writes_total" ["pool" "node"] "writes":
        "Writes whose time to live was not bounded (ttl_max): by a Redis before 7.0, or as the node failed in between";
    NODE_FAILURES = View Counter "ringway_node_failures_total" ["pool" "node" "kind"] "failures":
        "Failures that traffic saw of a node, by kind: a lost connection counts once, a timeout once per request";
    NODE_ERROR_REPLIES = View Counter "ringway_node_error_replies_total" ["pool" "node" "reply"] "replies":
        "Error replies in which a node said something of itself, those of scripts left out";
    NODE_HEALTH = View Gauge "ringway_node_health" ["pool" "node" "state"] "boolean":
        "1 for the state that the detector gives a node, 0 for the others";
    NODE_OWNS = View Gauge "ringway_node_owns" ["pool" "node"] "boolean":
        "1 while a node serves its share of the ring, 0 while it is away";
    NODE_HELD = View Gauge "ringway_node_held" ["pool" "node"] "boolean":
        "Whether a node is ejected and its keys do not move yet";
    NODE_ORDERED = View Gauge "ringway_node_ordered" ["pool" "node"] "boolean":
        "Whether an operator's order is in force for a node: drain, eject or pin";
    NODE_SHARE = View Gauge "ringway_node_share" ["pool" "node"] "ratio":
        "Share of the key space that a node holds: a pool's shares sum to 1, or are all 0 when no node owns anything";
    NODE_MISCONFIGURED = View Gauge "ringway_node_misconfigured" ["pool" "node"] "boolean":
        "1 while a node answers but can't serve as configured (password, role, database)";
    NODE_SLOW = View Gauge "ringway_node_slow" ["pool" "node"] "boolean":
        "1 while a node's p99 is far above the pool's median (health.slow_factor, slow_floor)";
    EJECTIONS = Facade Counter "ringway_ejections_total" ["pool" "node" "cause"] "ejections":
        "Nodes taken out of the ring, by cause";
    RESTORES = Facade Counter "ringway_restores_total" ["pool" "node"] "restores":
        "Nodes given their share back";
    EJECTIONS_REFUSED = Facade Counter "ringway_ejections_refused_total" ["pool" "node" "cause"] "ejections":
        "Ejections that eject_max did not allow: the node stays in the ring";
    DIAGNOSES = Facade Counter "ringway_diagnoses_total" ["pool" "place" "what"] "diagnoses":
        "Diagnoses of incidents: where the fault is and what it is; one that is revised counts again, one of this process has no pool";
    WAITS = Facade Counter "ringway_warmth_waits_total" ["pool" "what"] "waits":
        "Ejections and returns of nodes whose keys had to wait for the warmth budget";
    STATE_UNWRITTEN = Facade Gauge "ringway_state_file_unwritten" [] "boolean":
        "1 while the state file can't be written: a ringway that is started now would not know which nodes were away";
    INCIDENTS_UNWRITTEN = Facade Counter "ringway_incidents_unwritten_total" [] "incidents":
        "Incidents that were not written to incidents.file: the disk took nothing, or too many waited for it";
    LOG_DROPPED = Facade Counter "ringway_log_lines_dropped_total" [] "lines":
        "Lines of the log that were dropped, as too many waited for whoever reads it";
    LEFTOVERS = Facade Counter "ringway_leftovers_deleted_total" ["pool" "node"] "keys":
        "Keys deleted on a node that held them for one that was away, in pools that do not serve old data";
    LEFTOVERS_FAILED = Facade Counter "ringway_leftovers_failed_total" ["pool" "node"] "tries":
        "Times that keys left over on a node could not be deleted, though it was tried for a minute";
    RELOADS = Facade Counter "ringway_reloads_total" ["outcome"] "reloads":
        "Reloads of the configuration: ok, invalid, refused with all of the file, or partly in force";
    MOVED_SHARE = Facade Histogram "ringway_moved_share" ["pool"] "ratio":
        "Share of the key space that changed its owner, one sample for each epoch";
    COALESCED_WAITS = Facade Counter "ringway_coalesced_waits_total" [] "waits":
        "Times that a busy worker paused before it looked at its sockets, so that it found more there at once";
    BUILD_INFO = Process Gauge "ringway_build_info" ["version"] "boolean":
        "Always 1: the version is in the label";
    START_TIME = Process Gauge "process_start_time_seconds" [] "seconds":
        "When the process started, since the Unix epoch";
    CPU = Process Counter "process_cpu_seconds_total" [] "seconds":
        "User and system CPU time";
    RESIDENT = Process Gauge "process_resident_memory_bytes" [] "bytes":
        "Resident memory";
    OPEN_FDS = Process Gauge "process_open_fds" [] "descriptors":
        "Open file descriptors";
    MAX_FDS = Process Gauge "process_max_fds" [] "descriptors":
        "Limit of open file descriptors";
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../docs/metrics.md");

    /// docs/metrics.md lists the table's metrics, each once, with its kind, labels and unit, and
    /// no other.
    #[test]
    fn the_docs_are_the_table() {
        let cell = |text: &str| text.replace('`', "").trim().to_owned();
        let mut documented: Vec<Vec<String>> = DOCS
            .lines()
            .filter(|line| line.starts_with("| `ringway_") || line.starts_with("| `process_"))
            .map(|line| line.split('|').skip(1).take(4).map(cell).collect())
            .collect();
        let row =
            |m: &Metric| [m.name, m.kind.word(), &m.labels.join(", "), m.unit].map(str::to_owned).to_vec();
        let mut expected: Vec<Vec<String>> = TABLE.iter().map(row).collect();
        documented.sort();
        expected.sort();
        assert_eq!(documented, expected);
    }

    /// Every metric that a rule or an example in the docs names is in the table.
    #[test]
    fn rules_name_what_there_is() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let names =
            DOCS.split(|c| !word(c)).filter(|w| w.starts_with("ringway_") || w.starts_with("process_"));
        for name in names {
            let of = |m: &&Metric| {
                let suffixes: &[&str] =
                    if m.kind == Kind::Histogram { &["", "_bucket", "_sum", "_count"] } else { &[""] };
                suffixes.iter().any(|suffix| name.strip_suffix(suffix) == Some(m.name))
            };
            assert!(TABLE.iter().any(|m| of(&m)), "{name} is not in the table");
        }
    }

    /// Whatever the source gives the facade under a name of ours is in the table, with that kind.
    #[test]
    fn the_facade_gets_names_of_the_table() {
        let mut rooms = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(path) = rooms.pop() {
            if path.is_dir() {
                let entries = path.read_dir().expect("src can be read");
                rooms.extend(entries.map(|entry| entry.expect("src can be read").path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("source is text");
            for kind in [Kind::Counter, Kind::Gauge, Kind::Histogram] {
                for call in text.split(&format!("{}!(", kind.word())).skip(1) {
                    let Some(name) = call.trim_start().strip_prefix("\"ringway_") else { continue };
                    let name = format!("ringway_{}", name.split('"').next().unwrap_or_default());
                    let known = TABLE
                        .iter()
                        .any(|m| (m.name, m.kind, m.source) == (name.as_str(), kind, Source::Facade));
                    assert!(known, "{}: {name} is no {} of the table", path.display(), kind.word());
                }
            }
        }
    }

    /// Names are unique, counters alone end with `_total`, a base unit stands in the name, and a
    /// help text is one sentence.
    #[test]
    fn names_keep_the_conventions() {
        for (i, metric) in TABLE.iter().enumerate() {
            let name = metric.name;
            assert!(TABLE[..i].iter().all(|m| m.name != name), "{name} twice");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            let in_name = ["seconds", "bytes"].contains(&metric.unit);
            assert!(!in_name || name.trim_end_matches("_total").ends_with(metric.unit), "{name}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{name}");
        }
    }
}

//! The recorder behind the `metrics` facade, for what the control plane counts: rare events whose
//! labels are known only when they happen. Never for the hot path: it locks, and a histogram
//! keeps its samples until somebody drains them.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::table::{
    INCIDENTS_UNWRITTEN, Kind, LOG_DROPPED, MOVED_SHARE, RELOADS, STATE_UNWRITTEN, Source, TABLE,
};

/// Upper bounds of the share that an epoch moved.
const SHARE_BOUNDS: [f64; 8] = [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0];

/// How a reload can end: the values of [`RELOADS`]'s label.
pub const RELOAD_OUTCOMES: [&str; 4] = ["ok", "invalid", "refused", "partly"];

/// The facade's numbers. The first call installs the recorder for the process, so it comes before
/// the first event; where the program that embeds ringway has installed another one, that one gets
/// the events and this one stays empty.
pub fn facade() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = recorder();
            let handle = recorder.handle();
            if ::metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed: /metrics lacks the control plane's");
            }
            handle
        })
        .clone()
}

/// Counts a reload of the configuration; the outcome is one of [`RELOAD_OUTCOMES`].
pub fn count_reload(outcome: &'static str) {
    ::metrics::counter!(RELOADS.name, "outcome" => outcome).increment(1);
}

/// Says whether the state file can't be written.
pub fn tell_state_file(is_unwritten: bool) {
    ::metrics::gauge!(STATE_UNWRITTEN.name).set(f64::from(u8::from(is_unwritten)));
}

/// Says how many lines of the log were dropped in all.
pub fn lines_dropped(lines: u64) {
    ::metrics::counter!(LOG_DROPPED.name).absolute(lines);
}

/// A recorder that knows the table.
fn recorder() -> PrometheusRecorder {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(MOVED_SHARE.name.to_owned()), &SHARE_BOUNDS)
        .expect("there are bounds")
        .build_recorder();
    ::metrics::with_local_recorder(&recorder, describe);
    recorder
}

fn describe() {
    for metric in TABLE.iter().filter(|m| m.source == Source::Facade) {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => ::metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => ::metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    // A counter that is born with its first event hides that event from `increase()`.
    for outcome in RELOAD_OUTCOMES {
        ::metrics::counter!(RELOADS.name, "outcome" => outcome).increment(0);
    }
    ::metrics::counter!(INCIDENTS_UNWRITTEN.name).increment(0);
    ::metrics::counter!(LOG_DROPPED.name).increment(0);
    tell_state_file(false);
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::table::{
            COALESCED_WAITS, DIAGNOSES, EJECTIONS, EJECTIONS_REFUSED, LEFTOVERS, LEFTOVERS_FAILED, RESTORES,
            WAITS,
        },
        *,
    };

    /// The facade's page after one event of each kind.
    pub(in crate::metrics) fn page_with_every_event() -> String {
        let recorder = recorder();
        let handle = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            ::metrics::counter!(EJECTIONS.name, "pool" => "p", "node" => "n", "cause" => "lost").increment(2);
            ::metrics::counter!(RESTORES.name, "pool" => "p", "node" => "n").increment(1);
            ::metrics::counter!(DIAGNOSES.name, "pool" => "p", "place" => "node", "what" => "gone")
                .increment(1);
            ::metrics::counter!(EJECTIONS_REFUSED.name, "pool" => "p", "node" => "n").increment(1);
            ::metrics::counter!(WAITS.name, "pool" => "p", "what" => "return").increment(1);
            ::metrics::counter!(COALESCED_WAITS.name).increment(1);
            ::metrics::counter!(INCIDENTS_UNWRITTEN.name).increment(1);
            ::metrics::counter!(LEFTOVERS_FAILED.name, "pool" => "p", "node" => "n").increment(1);
            ::metrics::counter!(LEFTOVERS.name, "pool" => "p", "node" => "n").increment(1);
            ::metrics::histogram!(MOVED_SHARE.name, "pool" => "p").record(0.2);
        });
        handle.render()
    }

    /// What the control plane records is shown under the table's names, with its help and type,
    /// and a moved share falls into the bucket of its size.
    #[test]
    fn events_are_shown_by_the_table() {
        let page = page_with_every_event();
        for metric in TABLE.iter().filter(|m| m.source == Source::Facade) {
            assert!(page.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{page}");
            assert!(page.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.word())), "{page}");
        }
        for line in [
            "ringway_ejections_total{pool=\"p\",node=\"n\",cause=\"lost\"} 2\n",
            "ringway_reloads_total{outcome=\"invalid\"} 0\n",
            "ringway_moved_share_bucket{pool=\"p\",le=\"0.1\"} 0\n",
            "ringway_moved_share_bucket{pool=\"p\",le=\"0.25\"} 1\n",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}

//! THE LOG. Lines go to stderr by way of a thread of its own: a pipe that nobody reads, or a disk that is
//! full, costs lines, which are counted, and stops nothing.

use std::io::{IsTerminal, Write};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::{cli::LogFormat, metrics::lines_dropped};

/// Lines that wait to be written; those that come beyond are dropped.
const LINES_MAX: usize = 10_000;

/// Writes what waits when it is dropped, for a second at most.
pub(super) struct Log {
    counter: ErrorCounter,
    told: usize,
    _writes: WorkerGuard,
}

impl Log {
    pub(super) fn start(format: LogFormat, level: &str) -> Log {
        let filter = EnvFilter::try_new(directives(level)).unwrap_or_else(|_| EnvFilter::new("info"));
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_MAX)
            .thread_name("ringway-log")
            .finish(std::io::stderr());
        let counter = writer.error_counter();
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(writer);
        // A second start in one process keeps the first one's log.
        let _ = match format {
            LogFormat::Human => log.with_target(false).try_init(),
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
        };
        Log { counter, told: 0, _writes: guard }
    }

    /// Says how many lines were dropped since it was asked last; to be called from time to time.
    pub(super) fn tell_dropped(&mut self) {
        let dropped = self.counter.dropped_lines();
        if dropped > self.told {
            lines_dropped(dropped as u64);
            tracing::warn!(lines = dropped - self.told, "lines of the log were dropped: nobody read them");
            self.told = dropped;
        }
    }
}

/// Says why ringway does not start, as the log is asked for.
pub(super) fn fatal(format: LogFormat, why: &str) {
    match format {
        // Nobody may be there to hear it.
        LogFormat::Human => drop(writeln!(std::io::stderr(), "ringway: {why}")),
        LogFormat::Json => tracing::error!("{why}"),
    }
}

/// A level as it is filtered by: any client can have the HTTP/2 library warn, as often as it connects, so
/// that this says no more than errors unless it is asked for by name.
fn directives(level: &str) -> String {
    if level.contains("h2") || level.eq_ignore_ascii_case("off") {
        return level.to_owned();
    }
    format!("{level},h2=error")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Warnings of the HTTP/2 library are not logged unless they are asked for.
    #[test]
    fn who_is_heard() {
        for (level, expected) in [
            ("info", "info,h2=error"),
            ("ringway=debug", "ringway=debug,h2=error"),
            ("off", "off"),
            ("info,h2=debug", "info,h2=debug"),
        ] {
            assert_eq!(directives(level), expected);
            assert!(EnvFilter::try_new(directives(level)).is_ok());
        }
    }
}

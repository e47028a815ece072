//! COALESCING: how a busy worker saves work by looking at its sockets less often, as network cards coalesce
//! interrupts. Where replies come one close upon the other, each look finds one or two of them, and costs a wake,
//! a read and a write each time, here and in the nodes and clients that are woken in turn. A worker that answers
//! more than [`BUSY`] requests a second therefore pauses for [`PAUSE`] once its work is done, and then finds what
//! has come meanwhile all together. One that answers fewer waits for nothing but its sockets.

use std::{cell::Cell, time::Duration};

use crate::metrics::table::COALESCED_WAITS;

/// Replies of nodes a second from which on a worker is busy: on average one comes every 20 µs, so that a pause finds
/// several.
const BUSY: u64 = 50_000;
/// How long it pauses. The kernel adds its timer slack, 50 µs for a thread that has not asked for less: 70 to 80 µs
/// are the best of what was measured, see docs/performance.md.
const PAUSE: Duration = Duration::from_micros(20);

thread_local! {
    /// A worker has its thread to itself.
    static PACE: Pace = const { Pace::new() };
}

/// How busy a worker is.
#[derive(Debug)]
struct Pace {
    /// Replies of nodes since the rate was looked at.
    replies: Cell<u64>,
    busy: Cell<bool>,
    /// Whether anything was done since the thread waited last: nobody pauses twice for nothing.
    worked: Cell<bool>,
}

impl Pace {
    const fn new() -> Pace {
        Pace { replies: Cell::new(0), busy: Cell::new(false), worked: Cell::new(false) }
    }

    fn measure(&self, within_us: u32) {
        let replies = self.replies.replace(0);
        self.busy.set(replies * 1_000_000 > BUSY * u64::from(within_us));
    }

    fn pauses(&self) -> bool {
        self.worked.replace(false) && self.busy.get()
    }
}

/// The worker of this thread does something.
#[inline]
pub(super) fn worked() {
    PACE.with(|pace| pace.worked.set(true));
}

/// So many replies came from a node.
#[inline]
pub(super) fn replied(count: u64) {
    PACE.with(|pace| pace.replies.set(pace.replies.get() + count));
}

/// Looks at how many replies came in this time, for all of which the worker is busy or not until the next look.
pub(super) fn measure(within_us: u32) {
    PACE.with(|pace| pace.measure(within_us));
}

/// What the runtime of a worker does each time before it waits.
pub fn before_wait() -> impl Fn() + Send + Sync + 'static {
    let waits = ::metrics::counter!(COALESCED_WAITS.name);
    move || {
        if PACE.with(Pace::pauses) {
            std::thread::sleep(PAUSE);
            waits.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::{
        runtime::{Builder, LocalOptions},
        time::sleep,
    };

    use super::*;

    /// Busy is who answered more than so many a second since the last look, however long ago that was; it pauses
    /// once for each time that it did something.
    #[test]
    fn busy_is_a_rate() {
        for (replies, within_us, busy) in [
            (0, 10_000, false),
            (499, 10_000, false),
            (501, 10_000, true),
            (600, 20_000, false),
            (1, 0, true),
        ] {
            let pace = Pace::new();
            pace.replies.set(replies);
            pace.measure(within_us);
            assert!(!pace.pauses(), "{replies} in {within_us}: nothing was done");
            pace.worked.set(true);
            assert_eq!((pace.pauses(), pace.pauses()), (busy, false), "{replies} in {within_us}");
            pace.measure(10_000);
            pace.worked.set(true);
            assert!(!pace.pauses(), "nothing came since");
        }
    }

    /// The runtime of a worker pauses while it is busy, and not when it is no more or has nothing to do.
    #[test]
    fn a_busy_runtime_pauses() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = recorder.handle();
        let pauses = || {
            page.render()
                .lines()
                .filter_map(|l| l.strip_prefix(COALESCED_WAITS.name)?.trim().parse::<u64>().ok())
                .sum::<u64>()
        };
        let mut builder = Builder::new_current_thread();
        builder.enable_all().on_thread_park(::metrics::with_local_recorder(&recorder, before_wait));
        let runtime = builder.build_local(LocalOptions::default()).expect("a runtime");
        runtime.block_on(async {
            let turns = async |replies: u64, works: bool| {
                let before = pauses();
                for _ in 0..10 {
                    replied(replies);
                    measure(10_000);
                    if works {
                        worked();
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                pauses() - before
            };
            assert_eq!(turns(1_000, true).await, 10);
            assert_eq!(turns(1_000, false).await, 0, "idle");
            assert_eq!(turns(100, true).await, 0, "not busy");
        });
    }
}

//! COALESCING: how a busy worker saves work by looking at its sockets less often, as network cards coalesce
//! interrupts. Where replies come one close upon the other, each look finds one or two of them, and costs a
//! wake, a read and a write each time, here and in the nodes and clients that are woken in turn. A worker
//! that answers 50,000 requests a second therefore pauses once its work is done, and then finds what has come
//! meanwhile all together. One that answers fewer waits for nothing but its sockets.

use std::{cell::Cell, time::Duration};

use crate::{metrics::table::COALESCED_WAITS, protocol::Protocol};

/// To how many replies a second a worker pauses, and for how long. 50,000 are one every 20 µs, so that a
/// pause finds several. The kernel adds its timer slack, 50 µs for a thread that has not asked for less. What
/// other lengths bring is in docs/performance.md.
const BUSY: (u64, Duration) = (50_000, Duration::from_micros(20));
/// The same where all replies come each in a segment of its own, also those of a pipeline. So many come of
/// pipelines only, whose last reply counts and comes milliseconds after the first request. A worker that
/// serves others as well does not have them wait for so long.
const BUSY_WITH_SINGLE: (u64, Duration) = (200_000, Duration::from_micros(150));

thread_local! {
    /// A worker has its thread to itself.
    static PACE: Pace = const { Pace::new() };
}

/// How busy a worker is.
#[derive(Debug)]
struct Pace {
    /// Replies of nodes since the rate was looked at.
    replies: Cell<u64>,
    /// Those among them that nodes send one by one.
    single: Cell<u64>,
    /// How long it pauses, if it does.
    pause: Cell<Option<Duration>>,
    /// Whether anything was done since the thread waited last: nobody pauses twice for nothing.
    worked: Cell<bool>,
}

impl Pace {
    const fn new() -> Pace {
        Pace { replies: Cell::new(0), single: Cell::new(0), pause: Cell::new(None), worked: Cell::new(false) }
    }

    #[inline]
    fn replied(&self, count: u64, are_single: bool) {
        self.replies.set(self.replies.get() + count);
        if are_single {
            self.single.set(self.single.get() + count);
        }
    }

    fn measure(&self, within_us: u32) {
        let (all, single) = (self.replies.replace(0), self.single.replace(0));
        let of = |replies: u64, (rate, pause): (u64, Duration)| {
            (replies * 1_000_000 > rate * u64::from(within_us)).then_some(pause)
        };
        let longer = of(single, BUSY_WITH_SINGLE).filter(|_| single == all);
        self.pause.set(longer.or_else(|| of(all, BUSY)));
    }

    fn pause(&self) -> Option<Duration> {
        self.pause.get().filter(|_| self.worked.replace(false))
    }
}

/// The worker of this thread does something.
#[inline]
pub(super) fn worked() {
    PACE.with(|pace| pace.worked.set(true));
}

/// So many replies came from a node of this protocol. memcached sends each by itself.
#[inline]
pub(super) fn replied(count: u64, protocol: Protocol) {
    PACE.with(|pace| pace.replied(count, protocol == Protocol::Memcached));
}

/// Looks at how many replies came in this time, for all of which the worker pauses or not until the next
/// look.
pub(super) fn measure(within_us: u32) {
    PACE.with(|pace| pace.measure(within_us));
}

/// What the runtime of a worker does each time before it waits.
pub fn before_wait() -> impl Fn() + Send + Sync + 'static {
    let waits = ::metrics::counter!(COALESCED_WAITS.name);
    move || {
        if let Some(pause) = PACE.with(Pace::pause) {
            std::thread::sleep(pause);
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

    /// Busy is who answered more than so many a second since the last look, however long ago that was; it
    /// pauses once for each time that it did something.
    #[test]
    fn busy_is_a_rate() {
        for (replies, are_single, within_us, pause_us) in [
            (0, true, 10_000, 0),
            (499, true, 10_000, 0),
            (501, true, 10_000, 20),
            (600, false, 20_000, 0),
            (1, false, 0, 20),
            (1_999, true, 10_000, 20),
            (2_001, true, 10_000, 150),
            (9_000, false, 10_000, 20),
        ] {
            let pace = Pace::new();
            pace.replied(replies, are_single);
            pace.measure(within_us);
            assert_eq!(pace.pause(), None, "{replies} in {within_us}: nothing was done");
            pace.worked.set(true);
            let expected = (pause_us > 0).then(|| Duration::from_micros(pause_us));
            assert_eq!((pace.pause(), pace.pause()), (expected, None), "{replies} in {within_us}");
            pace.measure(10_000);
            pace.worked.set(true);
            assert_eq!(pace.pause(), None, "nothing came since");
        }
        let mixed = Pace::new();
        mixed.replied(9_000, true);
        mixed.replied(100, false);
        mixed.measure(10_000);
        mixed.worked.set(true);
        assert_eq!(mixed.pause(), Some(BUSY.1), "others are served, too");
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
                    replied(replies, Protocol::Redis);
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

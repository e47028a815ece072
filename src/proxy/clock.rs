//! A worker's clock: read once per batch, in microseconds that wrap round after 71 minutes. Only
//! differences are meaningful.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// The longest time ahead that is told from one that is past. What is due later is looked at sooner.
pub(crate) const FAR_US: u32 = 1 << 30;

/// A duration on this clock, [`FAR_US`] at most.
pub(crate) fn us(duration: Duration) -> u32 {
    duration.as_micros().min(u128::from(FAR_US)) as u32
}

/// Batches in a row for which one reading is good, when the thread finds work without sleeping.
const BATCHES: u8 = 8;

thread_local! {
    /// Batches for which the last reading is still good. A worker has its thread to itself.
    static GOOD_FOR: Cell<u8> = const { Cell::new(0) };
}

/// The thread of a worker has slept: its clock is read anew for the next batch. The runtime calls this
/// for each time that it waits, so that what is ready at once shares one reading.
pub fn woke() {
    GOOD_FOR.set(0);
}

#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    now_us: Cell<u32>,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { start: Instant::now(), now_us: Cell::new(0) }
    }

    /// Reads the time.
    pub(crate) fn refresh(&self) -> u32 {
        let now_us = self.start.elapsed().as_micros() as u32;
        self.now_us.set(now_us);
        GOOD_FOR.set(BATCHES);
        now_us
    }

    /// A batch begins: reads the time, unless that has just been done for another one.
    #[inline]
    pub(crate) fn begin_batch(&self) {
        match GOOD_FOR.get().checked_sub(1) {
            Some(left) => GOOD_FOR.set(left),
            None => {
                self.refresh();
            }
        }
    }

    /// The time when it was read last.
    #[inline]
    pub(crate) fn now_us(&self) -> u32 {
        self.now_us.get()
    }
}

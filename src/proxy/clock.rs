//! A worker's clock: read once per batch, in microseconds that wrap round after 71 minutes. Only
//! differences are meaningful.

use std::{cell::Cell, time::Instant};

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
        now_us
    }

    /// The time when it was read last.
    #[inline]
    pub(crate) fn now_us(&self) -> u32 {
        self.now_us.get()
    }
}

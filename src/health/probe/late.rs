//! Answers that come when the probe has given up: a node that gives them is slow, one that does not hangs.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::Link;

/// How long a late answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Late answers that are kept until the next probe ends, and links that are waited on at once.
const KEPT: usize = 4;

/// An answer that came when nobody waited for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// When the probe had given it up.
    pub given_up: Instant,
    /// When it came.
    pub came: Instant,
}

/// The late answers of one prober.
#[derive(Clone, Debug, Default)]
pub(super) struct Lates(Arc<Mutex<Vec<Late>>>);

impl Lates {
    /// Waits beside the probes for what a link still owes. The link is closed afterwards.
    pub(super) fn wait_for(&self, mut link: Link) {
        if Arc::strong_count(&self.0) > KEPT {
            return;
        }
        let (lates, given_up) = (self.0.clone(), Instant::now());
        tokio::spawn(async move {
            if timeout(PATIENCE, link.answered()).await.unwrap_or(false) {
                let mut lates = lates.lock().unwrap_or_else(PoisonError::into_inner);
                if lates.len() < KEPT {
                    lates.push(Late { given_up, came: Instant::now() });
                }
            }
        });
    }

    /// What came since the last look.
    pub(super) fn take(&self) -> Vec<Late> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

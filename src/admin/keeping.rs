//! How the state file is doing: whether what is to be known by the next process is written, and why not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::time::sleep;

/// How long an order's answer waits for what it changed to be written.
const PATIENCE: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(5);

/// Written by whoever keeps the state file, read by who answers operators. Without a state file nothing is
/// asked for.
#[derive(Debug, Default)]
pub struct Keeping {
    /// Changes that are to be in the file.
    asked: AtomicU64,
    /// Those that are.
    written: AtomicU64,
    trouble: ArcSwapOption<String>,
}

impl Keeping {
    /// Something is to be written.
    pub fn asks(&self) {
        self.asked.fetch_add(1, Relaxed);
    }

    /// Changes that are to be written by now, for [`Keeping::wrote`].
    pub fn asked(&self) -> u64 {
        self.asked.load(Relaxed)
    }

    /// As many changes are written.
    pub fn wrote(&self, changes: u64) {
        self.written.store(changes, Relaxed);
        self.trouble.store(None);
    }

    /// Nothing can be written now, for this reason.
    pub fn fails(&self, why: String) {
        self.trouble.store(Some(Arc::new(why)));
    }

    /// Why nothing can be written, if that is so.
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// Waits until all is written; why it is not, if it can't be, or takes too long.
    pub(super) async fn settled(&self) -> Option<Arc<String>> {
        let mut left = PATIENCE;
        while self.written.load(Relaxed) < self.asked() {
            if let Some(why) = self.trouble() {
                return Some(why);
            }
            let Some(less) = left.checked_sub(GLANCE) else {
                return Some(Arc::new("the disk does not answer".to_owned()));
            };
            left = less;
            sleep(GLANCE).await;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written, and what is not asked for, is told at once; what can't be written with the reason,
    /// and what takes too long as such.
    #[tokio::test(start_paused = true)]
    async fn what_is_told() {
        let keeping = Keeping::default();
        let told = async || keeping.settled().await.map(|why| why.to_string());
        assert_eq!(told().await, None);
        keeping.asks();
        assert_eq!(told().await.as_deref(), Some("the disk does not answer"));
        keeping.fails("no space".to_owned());
        assert_eq!(told().await.as_deref(), Some("no space"));
        let asked = keeping.asked();
        keeping.asks();
        keeping.wrote(asked);
        assert_eq!(told().await.as_deref(), Some("the disk does not answer"), "one change is missing");
        keeping.wrote(keeping.asked());
        assert_eq!((told().await, keeping.trouble()), (None, None));
    }
}

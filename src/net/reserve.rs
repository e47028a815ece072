//! Descriptors that clients leave to others. Without any a proxy can't ask its nodes how they are, nor be
//! asked itself: clients alone must not bring that about.

use std::{
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::Stream;

/// How far clients may go.
#[derive(Debug)]
pub struct Reserve {
    /// The first descriptor that is none for a client.
    ceiling: AtomicUsize,
    refused: AtomicU64,
}

impl Default for Reserve {
    /// Nothing is kept.
    fn default() -> Reserve {
        Reserve { ceiling: AtomicUsize::new(usize::MAX), refused: AtomicU64::new(0) }
    }
}

impl Reserve {
    /// Of `max` descriptors that this process may have, and of which it had `used` before the first client,
    /// so many are not for clients; half of the others at most.
    pub fn keep(&self, max: u64, used: u64, wanted: u64) {
        let ceiling = max - wanted.min(max.saturating_sub(used) / 2);
        self.ceiling.store(usize::try_from(ceiling).unwrap_or(usize::MAX), Relaxed);
    }

    /// The most that all may have together before clients are refused.
    pub fn ceiling(&self) -> usize {
        self.ceiling.load(Relaxed)
    }

    /// Whether this client may stay. The kernel gives the lowest descriptor that is free (POSIX), so that its
    /// number tells how many are in use.
    pub fn takes(&self, client: &Stream) -> bool {
        let fd = match client {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.as_raw_fd(),
        };
        self.takes_number(usize::try_from(fd).unwrap_or(0))
    }

    fn takes_number(&self, fd: usize) -> bool {
        let may = fd < self.ceiling();
        if !may {
            self.refused.fetch_add(1, Relaxed);
        }
        may
    }

    /// Clients that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wanted is kept, half of what was free at most.
    #[test]
    fn ceilings() {
        let reserve = Reserve::default();
        assert!(reserve.takes_number(1 << 30));
        let many = u64::MAX;
        for (max, used, wanted, ceiling) in [
            (1000, 20, 100, 900),
            (1000, 20, 900, 510),
            (48, 30, 100, 39),
            (10, 20, 5, 10),
            (many, 20, 7, usize::MAX - 7),
        ] {
            reserve.keep(max, used, wanted);
            assert_eq!(reserve.ceiling(), ceiling, "{wanted} of {max}");
        }
        reserve.keep(100, 0, 10);
        assert_eq!([89, 90, 91].map(|fd| reserve.takes_number(fd)), [true, false, false]);
        assert_eq!(reserve.refused(), 2);
    }
}

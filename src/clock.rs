//! The time of day, as the world outside counts it. What is compared or waited for inside takes a monotonic
//! clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970; none where the machine's clock says that it is before that.
pub fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The same in milliseconds.
pub fn unix_ms() -> u64 {
    u64::try_from(unix().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are the same time: after this was written, and one not before the other.
    #[test]
    fn the_time_of_day() {
        let (first, ms) = (unix(), unix_ms());
        assert!(first > Duration::from_secs(1_700_000_000), "{first:?}");
        assert!((first.as_millis()..=unix().as_millis()).contains(&u128::from(ms)));
    }
}

//! WHETHER THIS PROCESS HAS ROOM: for what its sessions hold (`buffered_bytes`), and below the limit that the
//! system sets its memory. Pure: numbers and times in, what is wrong out.

use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::Footprint;

/// Part of a limit from which there is no room, and below which there is again.
const FULL: (f64, f64) = (0.95, 0.8);
/// The same of the system's limit, at which the process would be killed.
const NEAR: (f64, f64) = (0.9, 0.85);
/// A session that was closed for want of room tells so for so long.
const CLOSED_LATELY: Duration = Duration::from_secs(5);

/// What sessions hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes that are held.
    pub used: u64,
    /// `buffered_bytes`.
    pub limit: u64,
    /// Sessions that were closed for want of room.
    pub closed: u64,
}

/// What was seen of the memory until now.
#[derive(Debug, Default)]
pub(super) struct Room {
    closed: u64,
    closed_at: Option<Instant>,
    is_full: bool,
    is_near: bool,
}

impl Room {
    /// Takes in what there is now: held buffers, resident bytes and the system's limit. Gives what is wrong.
    pub(super) fn look(
        &mut self,
        now: Instant,
        buffers: Buffers,
        Footprint { resident, limit }: Footprint,
    ) -> Vec<String> {
        if buffers.closed > self.closed {
            (self.closed, self.closed_at) = (buffers.closed, Some(now));
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let mut wrong = Vec::new();
        let lately = self.closed_at.is_some_and(|at| now < at + CLOSED_LATELY);
        self.is_full = lately || is_above(self.is_full, FULL, buffers.used, buffers.limit);
        if self.is_full {
            let Buffers { used, limit, closed } = buffers;
            wrong.push(format!(
                "sessions hold {} MiB of buffered_bytes, {} MiB, and {closed} were closed for want of room",
                mib(used),
                mib(limit)
            ));
        }
        self.is_near = resident.zip(limit).is_some_and(|(resident, limit)| {
            let is_near = is_above(self.is_near, NEAR, resident, limit);
            if is_near {
                wrong.push(format!(
                    "this process has {} MiB of memory, and the limit of its control group is {} MiB",
                    mib(resident),
                    mib(limit)
                ));
            }
            is_near
        });
        wrong
    }
}

#[expect(clippy::cast_precision_loss, reason = "a part of 2^53 bytes is exact enough")]
fn is_above(was: bool, (from, to): (f64, f64), used: u64, limit: u64) -> bool {
    used as f64 >= limit.max(1) as f64 * if was { to } else { from }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn buffers(used: u64, closed: u64) -> Buffers {
        Buffers { used: used * MIB, limit: 100 * MIB, closed }
    }

    /// There is no room from 95 % on until less than 80 % are used, nor for a while after a session was
    /// closed.
    #[test]
    fn buffers_fill_and_empty() {
        let mut room = Room::default();
        let start = Instant::now();
        for (after_ms, used, closed, is_wrong) in [
            (0, 94, 0, false),
            (1, 95, 0, true),
            (2, 80, 0, true),
            (3, 79, 0, false),
            (4, 94, 0, false),
            (5, 10, 1, true),
            (5004, 10, 1, true),
            (5005, 10, 1, false),
        ] {
            let now = start + Duration::from_millis(after_ms);
            let wrong = room.look(now, buffers(used, closed), Footprint::default());
            assert_eq!(!wrong.is_empty(), is_wrong, "{used} {closed}: {wrong:?}");
        }
    }

    /// The system's limit is told before it is reached; where there is none nothing is.
    #[test]
    fn the_systems_limit() {
        let mut room = Room::default();
        let mut look =
            |resident, limit| room.look(Instant::now(), buffers(0, 0), Footprint { resident, limit });
        assert_eq!(look(Some(89 * MIB), Some(100 * MIB)), Vec::<String>::new());
        assert_eq!(
            look(Some(90 * MIB), Some(100 * MIB)),
            ["this process has 90 MiB of memory, and the limit of its control group is 100 MiB"]
        );
        assert_eq!(look(Some(85 * MIB), Some(100 * MIB)).len(), 1);
        assert_eq!(look(Some(84 * MIB), Some(100 * MIB)).len(), 0);
        assert_eq!(look(Some(1 << 40), None).len(), 0);
    }
}

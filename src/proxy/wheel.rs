//! A coarse timing wheel: when to look at something again. Entries are looked at a little late,
//! never early; what is due further away than the wheel reaches is looked at sooner and put back
//! by its owner.

/// Time between two slots, in microseconds.
pub(crate) const TICK_US: u32 = 10_000;

const SLOTS: usize = 512;
/// Entries for which each slot has memory, so that a quiet wheel never asks for more.
const SLOT_KEEP: usize = 4;

/// The wheel of one worker.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// The slot that is due next, and the time at which it is.
    next: usize,
    next_us: u32,
}

impl<T> Wheel<T> {
    /// A wheel that starts at this time.
    pub(crate) fn new(now_us: u32) -> Wheel<T> {
        let slots = std::iter::repeat_with(|| Vec::with_capacity(SLOT_KEEP)).take(SLOTS).collect();
        Wheel { slots, next: 0, next_us: now_us.wrapping_add(TICK_US) }
    }

    /// Puts an entry in, due in `after_us` from `now_us`.
    pub(crate) fn insert(&mut self, now_us: u32, after_us: u32, entry: T) {
        // The wheel may stand a little behind now, so that time is counted in.
        let until_next = self.next_us.wrapping_sub(now_us) as i32;
        let ticks =
            ((i64::from(after_us) - i64::from(until_next)).max(0) as u64).div_ceil(u64::from(TICK_US));
        let at = (self.next + (ticks as usize).min(SLOTS - 1)) % SLOTS;
        self.slots[at].push(entry);
    }

    /// Takes out what is due.
    pub(crate) fn due(&mut self, now_us: u32, out: &mut Vec<T>) {
        let mut turned = 0;
        while (now_us.wrapping_sub(self.next_us) as i32) >= 0 && turned < SLOTS {
            let slot = &mut self.slots[self.next];
            out.append(slot);
            // After a burst each slot would hold on to the most that it ever had.
            slot.shrink_to(SLOT_KEEP);
            self.next = (self.next + 1) % SLOTS;
            self.next_us = self.next_us.wrapping_add(TICK_US);
            turned += 1;
        }
        if turned == SLOTS {
            self.next_us = now_us.wrapping_add(TICK_US);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// An entry within reach comes out once, not early and at most two ticks late, also when
        /// the clock wraps round and when nobody looked for a while.
        #[test]
        fn never_early(start in any::<u32>(), entries in prop::collection::vec((0u32..4_000_000, 0u32..300_000), 1..50)) {
            let mut wheel = Wheel::new(start);
            let mut now = start;
            let mut waiting = Vec::new();
            let mut out = Vec::new();
            for (i, (after, pause)) in entries.into_iter().enumerate() {
                wheel.insert(now, after, i);
                waiting.push((i, now.wrapping_add(after)));
                now = now.wrapping_add(pause);
                wheel.due(now, &mut out);
                for found in out.drain(..) {
                    let at = waiting.iter().position(|w| w.0 == found).expect("once");
                    let (_, due) = waiting.swap_remove(at);
                    prop_assert!(now.wrapping_sub(due) as i32 >= 0, "early");
                }
                for (_, due) in &waiting {
                    prop_assert!((now.wrapping_sub(*due) as i32) < 2 * TICK_US as i32, "late");
                }
            }
        }
    }
}

//! Who waits for one of a node's connections, first come first served. Somebody who goes away in the meantime
//! leaves a dead place behind; those are passed over, and never more than as many again as wait.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
};

use tokio::sync::oneshot;

/// Below this nobody looks for dead places.
const SWEEP_MIN: usize = 64;

/// The queue.
pub(super) struct Waiting<T> {
    places: RefCell<VecDeque<oneshot::Sender<T>>>,
    /// At this length dead places are taken out.
    sweep_at: Cell<usize>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { places: RefCell::default(), sweep_at: Cell::new(SWEEP_MIN) }
    }
}

impl<T> Waiting<T> {
    /// The last place. What comes of it is an error when the queue is emptied first.
    pub(super) fn join(&self) -> oneshot::Receiver<T> {
        let mut places = self.places.borrow_mut();
        if places.len() >= self.sweep_at.get() {
            places.retain(|place| !place.is_closed());
            self.sweep_at.set((2 * places.len()).max(SWEEP_MIN));
        }
        let (place, turn) = oneshot::channel();
        places.push_back(place);
        turn
    }

    /// Whether somebody waits.
    pub(super) fn is_wanted(&self) -> bool {
        let mut places = self.places.borrow_mut();
        while places.pop_front_if(|place| place.is_closed()).is_some() {}
        !places.is_empty()
    }

    /// Gives it to the first who still waits; it comes back when nobody does. A loop, whatever `T` does when
    /// it is dropped: thousands may have gone away, and each level of a recursion takes stack.
    pub(super) fn give(&self, mut what: T) -> Option<T> {
        loop {
            let first = self.places.borrow_mut().pop_front();
            let Some(first) = first else { return Some(what) };
            match first.send(what) {
                Ok(()) => return None,
                Err(back) => what = back,
            }
        }
    }

    /// Sends everybody away.
    pub(super) fn clear(&self) {
        // What the places do when they are dropped may come back here.
        drop(self.places.take());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first who still waits gets it; those who went away do not.
    #[test]
    fn the_first_who_is_there_is_served() {
        let waiting = Waiting::default();
        let (gone, mut first, mut second) = (waiting.join(), waiting.join(), waiting.join());
        drop(gone);
        assert_eq!(waiting.give(1), None);
        assert_eq!((first.try_recv(), second.try_recv().is_err()), (Ok(1), true));
        assert_eq!((waiting.give(2), second.try_recv()), (None, Ok(2)));
        assert_eq!(waiting.give(3), Some(3), "nobody waits");
    }

    /// Who comes and goes leaves nothing that grows, however many still wait.
    #[test]
    fn dead_places_do_not_pile_up() {
        let waiting = Waiting::<()>::default();
        let mut there = Vec::new();
        for living in [0, 1000] {
            there.resize_with(living, || waiting.join());
            let most = (0..20_000).map(|_| {
                drop(waiting.join());
                waiting.len()
            });
            let bound = 2 * living.max(SWEEP_MIN);
            assert!(most.max() <= Some(bound), "{living} wait");
        }
        waiting.clear();
        assert!(there.iter_mut().all(|turn| turn.try_recv().is_err()));
    }
}

//! Who waits until fewer requests have a connection of their own at one node. So many have one at once; the
//! others stand in a line and are called in the order in which they came.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::{Rc, Weak},
};

use super::session::Session;

/// Requests that have a connection to themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// One that is streamed to its node.
    Upload,
    /// A retrieval of so many keys that others would have to wait for it.
    Retrieval,
}

/// The line for one kind of them.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) own: Own,
    most: usize,
    waiting: RefCell<VecDeque<Weak<Session>>>,
    /// Whose turn it is.
    called: RefCell<Vec<u64>>,
}

impl Line {
    pub(crate) fn new(own: Own, most: usize) -> Line {
        Line { own, most, waiting: RefCell::default(), called: RefCell::default() }
    }

    /// Whether it is this session's turn while so many are under way.
    pub(crate) fn is_turn(&self, session: &Session, busy: usize) -> bool {
        let called = self.called.borrow();
        called.contains(&session.id) || self.waiting.borrow().is_empty() && called.len() + busy < self.most
    }

    /// It goes, and the line forgets it.
    pub(crate) fn leave(&self, session: &Session) {
        self.called.borrow_mut().retain(|id| *id != session.id);
        self.waiting.borrow_mut().retain(|waits| !is(waits, session));
    }

    /// It is told when it is its turn.
    pub(crate) fn stand(&self, session: &Rc<Session>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waits| is(waits, session)) {
            waiting.push_back(Rc::downgrade(session));
        }
    }

    /// Whether nobody waits or was called.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty() && self.called.borrow().is_empty()
    }

    /// Calls the next ones. Who was called before and did not come is not waited for.
    pub(crate) fn call_next(&self, busy: usize) {
        self.called.borrow_mut().clear();
        for _ in busy..self.most {
            let Some(next) = self.waiting.borrow_mut().pop_front() else { return };
            if let Some(session) = next.upgrade().filter(|session| session.go_on()) {
                self.called.borrow_mut().push(session.id);
            }
        }
    }

    /// Everybody looks again: nobody stands in it any more.
    pub(crate) fn disperse(&self) {
        self.waiting.take();
    }
}

fn is(waits: &Weak<Session>, session: &Session) -> bool {
    std::ptr::eq(waits.as_ptr(), session)
}

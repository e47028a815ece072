//! The replies that one session is owed, in the order of its requests: pure. The head's reply
//! goes straight to the client's buffer; one that overtakes it is kept aside.

use std::{
    cell::Cell,
    mem::{forget, replace},
    rc::Rc,
};

use super::{
    joint::{Joint, JointKind, MergeContext, Part},
    pool::Bound,
};
use crate::metrics::{Class, Outcome};

/// One request and what is known of its reply.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) class: Class,
    /// Whether a node that does not answer may have written something.
    pub(crate) may_write: bool,
    /// When the client has waited long enough, on the worker's clock.
    pub(crate) due_us: u32,
    /// Its client asked for no reply: it is told nothing of ours either.
    pub(crate) silent: bool,
    pub(crate) reply: Reply,
}

/// What is known of a reply.
#[derive(Debug, Default)]
pub(crate) enum Reply {
    /// One node's reply, to be passed on untouched. Nothing of it has come.
    #[default]
    Waiting,
    /// It is known, and its turn has not come: it stands on the window's shelf.
    Shelved { at: u32, len: u32, outcome: Outcome },
    /// One node's reply that comes in pieces, or has no place on the shelf.
    Pieces(Box<Pieces>),
    /// The replies of several nodes, to become one.
    Joint(Box<Joint>),
}

/// A reply that is passed on untouched.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// What came before its turn, or before it was whole.
    aside: Vec<u8>,
    done: Option<Outcome>,
    /// The client has part of it.
    began: bool,
}

/// The window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Bytes of a reply that are held until it is whole.
    hold: u32,
    /// Replies that stand on the shelf.
    shelved: u32,
    /// The number of the head, and of the slot that is opened next.
    base: u64,
    next: u64,
    space: Option<Box<Space>>,
    /// Bytes kept aside.
    aside: usize,
}

/// The memory of a window. A session that waits for nothing needs none, so it goes from session to
/// session.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// A ring of a power of two: slot `n` is at `n` modulo its length.
    slots: Vec<Slot>,
    /// Replies that are known before their turn, one behind the other.
    shelf: Vec<u8>,
}

/// A reply is held until it is whole or larger than this: half of one can't be taken back from the
/// client when its node dies, and then its session could only be closed.
const HOLD_BYTES: u32 = 16 * 1024;
/// Bytes of the shelf. Replies for which there is no place have memory of their own. Tests have a
/// short one, so that they come to its end.
const SHELF_BYTES: usize = if cfg!(test) { 64 } else { 32 * 1024 };
/// Slots that a ring begins with.
const SLOTS_MIN: usize = 16;

impl Space {
    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.shelf.capacity()
    }

    #[inline]
    fn at(&mut self, seq: u64) -> Option<&mut Slot> {
        let mask = self.slots.len().wrapping_sub(1);
        self.slots.get_mut(seq as usize & mask)
    }

    /// Doubles the ring, in which the slots from `base` to `next` are taken.
    #[cold]
    fn grow(&mut self, base: u64, next: u64) {
        let larger = (self.slots.len() * 2).max(SLOTS_MIN);
        let new = || Slot {
            class: Class::Local,
            may_write: false,
            due_us: 0,
            silent: false,
            reply: Reply::Waiting,
        };
        let mut slots: Vec<Slot> = std::iter::repeat_with(new).take(larger).collect();
        for seq in base..next {
            if let Some(slot) = self.at(seq) {
                std::mem::swap(slot, &mut slots[seq as usize & (larger - 1)]);
            }
        }
        self.slots = slots;
    }
}

impl Default for Window {
    fn default() -> Window {
        Window { hold: HOLD_BYTES, shelved: 0, base: 0, next: 0, space: None, aside: 0 }
    }
}

impl Window {
    /// A window in which every reply begins with its first byte.
    #[cfg(test)]
    pub(crate) fn without_hold() -> Window {
        Window { hold: 0, ..Window::default() }
    }

    /// Whether it has no memory of its own yet.
    #[inline]
    pub(crate) fn is_bare(&self) -> bool {
        self.space.is_none()
    }

    /// Gives it memory that another window has used.
    pub(crate) fn furnish(&mut self, space: Box<Space>) {
        debug_assert!(self.is_bare());
        self.space = Some(space);
    }

    /// Takes its memory out, if it is empty.
    #[inline]
    pub(crate) fn clear_out(&mut self) -> Option<Box<Space>> {
        if self.is_empty() { self.space.take() } else { None }
    }

    /// Opens a slot and gives its number.
    #[inline(always)]
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        let (base, seq) = (self.base, self.next);
        let space = self.space.get_or_insert_default();
        if (seq - base) as usize == space.slots.len() {
            space.grow(base, seq);
        }
        if let Some(vacant) = space.at(seq) {
            let Slot { class, may_write, due_us, silent, reply } = slot;
            (vacant.class, vacant.may_write) = (class, may_write);
            (vacant.due_us, vacant.silent) = (due_us, silent);
            // Nothing is lost with what stood there: it is done, and has given its bytes up.
            forget(replace(&mut vacant.reply, reply));
        }
        self.next += 1;
        seq
    }

    /// Takes back the slot that was opened last.
    pub(crate) fn unpush(&mut self) {
        self.next -= 1;
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.next - self.base) as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.next == self.base
    }

    /// Bytes kept aside.
    #[inline]
    pub(crate) fn aside(&self) -> usize {
        self.aside
    }

    /// When the head's deadline is; none once its reply has begun, for then the node's progress
    /// and the client's are watched.
    pub(crate) fn head_due(&mut self) -> Option<&Slot> {
        let slot = self.slot(self.base)?;
        let began = matches!(&slot.reply, Reply::Pieces(pieces) if pieces.began && pieces.done.is_none());
        (!began).then_some(slot)
    }

    /// The slot that was opened last.
    pub(crate) fn last(&mut self) -> Option<&mut Slot> {
        self.slot(self.next.wrapping_sub(1))
    }

    /// The number of the head.
    #[inline]
    pub(crate) fn head_seq(&self) -> u64 {
        self.base
    }

    /// The slot with this number, if it was not answered yet.
    #[inline]
    pub(crate) fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        if seq.wrapping_sub(self.base) >= self.next - self.base {
            return None;
        }
        self.space.as_mut()?.at(seq)
    }

    /// Whether a part of this request is still waited for.
    pub(crate) fn awaits(&mut self, seq: u64, part: u32) -> bool {
        self.slot(seq).is_some_and(|slot| match &slot.reply {
            Reply::Waiting => true,
            Reply::Pieces(pieces) => pieces.done.is_none(),
            Reply::Joint(joint) => joint.parts.get(part as usize).is_some_and(|p| p.done.is_none()),
            Reply::Shelved { .. } => false,
        })
    }

    /// A piece of a node's reply came; `done` is set with its last piece. What is nobody's any
    /// more is dropped. Gives the class of the request if that was all of it, and it is done.
    #[inline(always)]
    pub(crate) fn deliver(
        &mut self,
        seq: u64,
        part: u32,
        piece: &[u8],
        done: Option<Outcome>,
        out: &mut Vec<u8>,
    ) -> Option<Class> {
        let is_head = seq == self.base;
        if seq.wrapping_sub(self.base) >= self.next - self.base {
            return None;
        }
        let space = self.space.as_mut()?;
        let shelf = space.shelf.len();
        let slot = space.at(seq)?;
        match (done, &slot.reply) {
            // Nearly every reply comes whole.
            (Some(_), Reply::Waiting) if is_head => {
                let class = slot.class;
                out.extend_from_slice(piece);
                self.base += 1;
                Some(class)
            }
            (Some(outcome), Reply::Waiting) if shelf + piece.len() <= SHELF_BYTES => {
                let known = Reply::Shelved { at: shelf as u32, len: piece.len() as u32, outcome };
                forget(replace(&mut slot.reply, known));
                space.shelf.extend_from_slice(piece);
                self.shelved += 1;
                self.aside += piece.len();
                None
            }
            _ => {
                self.deliver_piece(seq, part, piece, done, out);
                None
            }
        }
    }

    #[inline(never)]
    fn deliver_piece(&mut self, seq: u64, part: u32, piece: &[u8], done: Option<Outcome>, out: &mut Vec<u8>) {
        let (is_head, hold) = (seq == self.base, self.hold as usize);
        let Some(slot) = self.slot(seq) else { return };
        if matches!(slot.reply, Reply::Waiting) {
            slot.reply = Reply::Pieces(Box::default());
        }
        let kept = match &mut slot.reply {
            Reply::Waiting | Reply::Shelved { .. } => 0,
            Reply::Joint(joint) => joint.deliver(part, piece, done),
            Reply::Pieces(pieces) => pieces.deliver(piece, done, is_head, hold, out),
        };
        self.aside = self.aside.wrapping_add_signed(kept);
    }

    /// Makes a reply known, whatever came of it before.
    fn know(&mut self, seq: u64, line: &[u8], outcome: Outcome) {
        let Some(space) = &mut self.space else { return };
        let shelf = space.shelf.len();
        let Some(slot) = space.at(seq) else { return };
        let line = if slot.silent { &[] } else { line };
        let freed = slot.reply.held();
        if shelf + line.len() <= SHELF_BYTES {
            slot.reply = Reply::Shelved { at: shelf as u32, len: line.len() as u32, outcome };
            space.shelf.extend_from_slice(line);
            self.shelved += 1;
        } else {
            let pieces = Pieces { aside: line.to_vec(), done: Some(outcome), began: false };
            slot.reply = Reply::Pieces(Box::new(pieces));
        }
        self.aside = self.aside + line.len() - freed;
    }

    /// A part of a request ended without a reply: `line` is the error that the client gets.
    /// False when its reply had begun, so that the client can only be disconnected.
    pub(crate) fn fail(&mut self, seq: u64, part: u32, line: &[u8], outcome: Outcome) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        match &mut slot.reply {
            Reply::Shelved { .. } => {}
            Reply::Pieces(pieces) if pieces.done.is_some() => {}
            Reply::Pieces(pieces) if pieces.began => return false,
            Reply::Waiting | Reply::Pieces(_) => self.know(seq, line, outcome),
            Reply::Joint(joint) => {
                if let Some(part) = joint.parts.get_mut(part as usize).filter(|p| p.done.is_none()) {
                    let freed = std::mem::replace(&mut part.reply, line.to_vec()).len();
                    part.done = Some(outcome);
                    self.aside = self.aside + line.len() - freed;
                }
            }
        }
        true
    }

    /// The connection broke in the middle of a reply that will be asked for again: forgets the
    /// piece. False when it was passed on already.
    pub(crate) fn forget(&mut self, seq: u64, part: u32) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        let piece = match &mut slot.reply {
            Reply::Waiting | Reply::Shelved { .. } => return true,
            // It is known, and is not asked for again.
            Reply::Pieces(pieces) if pieces.done.is_some() => return true,
            Reply::Pieces(pieces) if pieces.began => return false,
            Reply::Pieces(pieces) => &mut pieces.aside,
            Reply::Joint(joint) => match joint.parts.get_mut(part as usize) {
                Some(part) if part.done.is_none() => &mut part.reply,
                _ => return true,
            },
        };
        let freed = std::mem::take(piece).len();
        self.aside -= freed;
        true
    }

    /// Replaces a slot that waits by a known reply: its deadline passed. False when its reply had
    /// begun.
    pub(crate) fn replace(&mut self, seq: u64, line: &[u8], outcome: Outcome) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        match &slot.reply {
            Reply::Shelved { .. } => {}
            Reply::Pieces(pieces) if pieces.began && pieces.done.is_none() => return false,
            _ => self.know(seq, line, outcome),
        }
        true
    }

    /// Whether the head can be written, or begun with.
    #[inline]
    pub(crate) fn is_ripe(&mut self) -> bool {
        let (seq, hold) = (self.base, self.hold as usize);
        self.slot(seq).is_some_and(|slot| slot.reply.is_ripe(hold))
    }

    /// Writes what is complete at the head, and begins with what is next; `count` is told how each
    /// request ended.
    #[inline]
    pub(crate) fn settle(
        &mut self,
        context: MergeContext,
        out: &mut Vec<u8>,
        mut count: impl FnMut(Class, Outcome),
    ) {
        let Some(space) = &mut self.space else { return };
        while self.base != self.next {
            let mask = space.slots.len().wrapping_sub(1);
            let Some(slot) = space.slots.get_mut(self.base as usize & mask) else { return };
            if let Reply::Shelved { at, len, outcome } = slot.reply {
                let (at, len) = (at as usize, len as usize);
                count(slot.class, outcome);
                out.extend_from_slice(&space.shelf[at..at + len]);
                self.aside -= len;
                self.shelved -= 1;
                if self.shelved == 0 {
                    space.shelf.clear();
                }
                self.base += 1;
                continue;
            }
            if !slot.reply.is_ripe(self.hold as usize) {
                return;
            }
            let outcome = match &mut slot.reply {
                Reply::Waiting | Reply::Shelved { .. } => return,
                Reply::Pieces(pieces) => {
                    self.aside -= pieces.aside.len();
                    out.append(&mut pieces.aside);
                    pieces.aside = Vec::new();
                    pieces.began = true;
                    match pieces.done {
                        Some(outcome) => outcome,
                        None => return,
                    }
                }
                Reply::Joint(joint) => {
                    self.aside -= joint.held();
                    joint.merge(context, out)
                }
            };
            count(slot.class, outcome);
            slot.reply = Reply::Waiting;
            self.base += 1;
        }
    }

    /// The owners of a part's keys are several now: the part becomes several. Gives the number and
    /// the node of each.
    pub(crate) fn divide(
        &mut self,
        (seq, part): (u64, u32),
        kind: JointKind,
        bound: &Rc<Bound>,
        keys: usize,
        parts: Vec<(usize, Vec<u32>)>,
        frame: &[u8],
    ) -> Vec<(u32, usize)> {
        let Some(slot) = self.slot(seq) else { return Vec::new() };
        if matches!(slot.reply, Reply::Waiting | Reply::Pieces(_)) {
            let whole = Part { positions: (0..keys as u32).collect(), ..Part::new(bound, 0) };
            let (parts, request) = (vec![whole], Some(frame.into()));
            let joint = Joint { kind, keys, parts, bound: bound.clone(), request, done: Cell::default() };
            slot.reply = Reply::Joint(Box::new(joint));
        }
        let Reply::Joint(joint) = &mut slot.reply else { return Vec::new() };
        let places = std::mem::take(&mut joint.parts[part as usize].positions);
        let mut numbered = Vec::new();
        for (i, (index, positions)) in parts.into_iter().enumerate() {
            let positions = positions.iter().map(|p| places[*p as usize]).collect();
            let new = Part { positions, ..Part::new(bound, index) };
            if i == 0 {
                joint.parts[part as usize] = new;
                numbered.push((part, index));
            } else {
                joint.parts.push(new);
                numbered.push((joint.parts.len() as u32 - 1, index));
            }
        }
        numbered
    }

    /// The request of this number was sent in parts. What was refused of them is known already.
    pub(crate) fn join(&mut self, seq: u64, joint: Joint) {
        let kept = joint.held();
        if let Some(slot) = self.slot(seq) {
            slot.reply = Reply::Joint(Box::new(joint));
            self.aside += kept;
        }
    }

    /// A reply that is known at once.
    pub(crate) fn ready(&mut self, class: Class, due_us: u32, bytes: &[u8], outcome: Outcome) {
        let seq = self.push(Slot { class, may_write: false, due_us, silent: false, reply: Reply::Waiting });
        self.know(seq, bytes, outcome);
    }
}

impl Reply {
    /// Whether it can be written, or begun with, once it is the head's; `hold` is how much of one is
    /// held until it is whole.
    #[inline(always)]
    fn is_ripe(&self, hold: usize) -> bool {
        match self {
            Reply::Waiting => false,
            Reply::Shelved { .. } => true,
            Reply::Pieces(pieces) => pieces.done.is_some() || pieces.aside.len() > hold,
            Reply::Joint(joint) => joint.is_done(),
        }
    }

    /// Bytes of it that are kept aside, but for the shelf's.
    fn held(&self) -> usize {
        match self {
            Reply::Waiting | Reply::Shelved { .. } => 0,
            Reply::Pieces(pieces) => pieces.aside.len(),
            Reply::Joint(joint) => joint.held(),
        }
    }
}

impl Pieces {
    /// Takes a piece; gives how many bytes more are kept aside.
    fn deliver(
        &mut self,
        piece: &[u8],
        done: Option<Outcome>,
        is_head: bool,
        hold: usize,
        out: &mut Vec<u8>,
    ) -> isize {
        if self.done.is_some() {
            return 0;
        }
        self.done = done;
        let is_held = done.is_none() && !self.began && self.aside.len() + piece.len() <= hold;
        if !is_head || is_held {
            self.aside.extend_from_slice(piece);
            return piece.len() as isize;
        }
        let kept = self.aside.len();
        out.append(&mut self.aside);
        out.extend_from_slice(piece);
        self.began = true;
        -(kept as isize)
    }
}

//! The replies that one session is owed, in the order of its requests: pure. The head's reply
//! goes straight to the client's buffer; one that overtakes it is kept aside.

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use super::pool::Bound;
use crate::{
    metrics::{Class, Outcome},
    protocol::resp::{
        Version,
        merge::{self, Merged},
        rule::{Gather, Split},
        scan,
    },
};

/// One request and what is known of its reply.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) class: Class,
    /// When the client has waited long enough, on the worker's clock.
    pub(crate) due_us: u32,
    pub(crate) reply: Reply,
}

/// What is known of a reply.
#[derive(Debug)]
pub(crate) enum Reply {
    /// One node's reply, passed on untouched. `aside` is what came before its turn.
    Forward { aside: Vec<u8>, done: Option<Outcome>, began: bool },
    /// The replies of several nodes, to become one.
    Joint(Box<Joint>),
    /// Known already.
    Ready(Vec<u8>, Outcome),
}

/// A request that went to several nodes, or whose reply has to be rewritten.
#[derive(Debug)]
pub(crate) struct Joint {
    pub(crate) kind: JointKind,
    /// Keys of the whole request.
    pub(crate) keys: usize,
    pub(crate) parts: Vec<Part>,
    /// The topology under which it was sent: it says who owns what a node answers.
    pub(crate) bound: Rc<Bound>,
    /// A command that teaches the nodes something, to be remembered when all have accepted it.
    pub(crate) lesson: Option<Box<[u8]>>,
}

/// How the parts become one reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum JointKind {
    Split(Split),
    Gather(Gather),
    /// `SCAN` at the node with this ordinal; then comes the next one, if any.
    Scan {
        ordinal: u16,
        next: Option<u16>,
    },
}

/// One node's part of a request.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) node: Arc<str>,
    /// The node's index in the topology under which it was sent.
    pub(crate) index: usize,
    /// Which of the request's keys it answers.
    pub(crate) positions: Vec<u32>,
    pub(crate) reply: Vec<u8>,
    pub(crate) done: Option<Outcome>,
}

/// The window.
#[derive(Debug)]
pub(crate) struct Window {
    /// Bytes of a reply that are held until it is whole.
    hold: usize,
    base: u64,
    slots: VecDeque<Slot>,
    /// Bytes kept aside.
    aside: usize,
}

/// What a session needs to know to merge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MergeContext {
    pub(crate) version: Version,
    pub(crate) per_key_errors: bool,
}

impl Default for Window {
    fn default() -> Window {
        Window { hold: HOLD_BYTES, base: 0, slots: VecDeque::new(), aside: 0 }
    }
}

impl Window {
    /// A window in which every reply begins with its first byte.
    #[cfg(test)]
    pub(crate) fn without_hold() -> Window {
        Window { hold: 0, ..Window::default() }
    }

    /// Opens a slot and gives its number.
    #[inline]
    pub(crate) fn push(&mut self, slot: Slot) -> u64 {
        self.slots.push_back(slot);
        self.base + self.slots.len() as u64 - 1
    }

    /// Takes back the slot that was opened last.
    pub(crate) fn unpush(&mut self) {
        self.slots.pop_back();
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes kept aside.
    pub(crate) fn aside(&self) -> usize {
        self.aside
    }

    /// When the head's deadline is; none once its reply has begun, for then the node's progress
    /// and the client's are watched.
    pub(crate) fn head_due(&self) -> Option<(u32, Class)> {
        let began = |slot: &&Slot| !matches!(slot.reply, Reply::Forward { began: true, done: None, .. });
        self.slots.front().filter(began).map(|slot| (slot.due_us, slot.class))
    }

    /// The slot that was opened last.
    pub(crate) fn last(&mut self) -> Option<&mut Slot> {
        self.slots.back_mut()
    }

    /// The number of the head.
    pub(crate) fn head_seq(&self) -> u64 {
        self.base
    }

    /// The slot with this number, if it was not answered yet.
    #[inline]
    pub(crate) fn slot(&mut self, seq: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(seq.checked_sub(self.base)?).ok()?)
    }

    /// Whether a part of this request is still waited for.
    pub(crate) fn awaits(&mut self, seq: u64, part: u32) -> bool {
        self.slot(seq).is_some_and(|slot| match &slot.reply {
            Reply::Forward { done, .. } => done.is_none(),
            Reply::Joint(joint) => joint.parts.get(part as usize).is_some_and(|p| p.done.is_none()),
            Reply::Ready(..) => false,
        })
    }

    /// A piece of a node's reply came; `done` is set with its last piece. What is nobody's any
    /// more is dropped.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        seq: u64,
        part: u32,
        piece: &[u8],
        done: Option<Outcome>,
        out: &mut Vec<u8>,
    ) {
        let (is_head, hold) = (seq == self.base, self.hold);
        let Some(slot) = self.slot(seq) else { return };
        match &mut slot.reply {
            Reply::Forward { done: Some(_), .. } | Reply::Ready(..) => {}
            Reply::Forward { aside, began, done: d } if is_head => {
                if done.is_none() && !*began && aside.len() + piece.len() <= hold {
                    aside.extend_from_slice(piece);
                    self.aside += piece.len();
                    return;
                }
                let kept = aside.len();
                out.append(aside);
                out.extend_from_slice(piece);
                *began = true;
                *d = done;
                self.aside -= kept;
            }
            Reply::Forward { aside, done: d, .. } => {
                aside.extend_from_slice(piece);
                *d = done;
                self.aside += piece.len();
            }
            Reply::Joint(joint) => {
                let Some(part) = joint.parts.get_mut(part as usize).filter(|p| p.done.is_none()) else {
                    return;
                };
                part.reply.extend_from_slice(piece);
                part.done = done;
                self.aside += piece.len();
            }
        }
    }

    /// A part of a request ended without a reply: `text` is the error line that the client gets.
    /// False when its reply had begun, so that the client can only be disconnected.
    pub(crate) fn fail(&mut self, seq: u64, part: u32, line: &[u8], outcome: Outcome) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        let mut freed = 0;
        let mut kept = 0;
        let whole = match &mut slot.reply {
            Reply::Ready(..) | Reply::Forward { done: Some(_), .. } => true,
            Reply::Forward { began: true, .. } => false,
            Reply::Forward { aside, .. } => {
                freed = aside.len();
                kept = line.len();
                slot.reply = Reply::Ready(line.to_vec(), outcome);
                true
            }
            Reply::Joint(joint) => {
                if let Some(part) = joint.parts.get_mut(part as usize).filter(|p| p.done.is_none()) {
                    freed = part.reply.len();
                    kept = line.len();
                    part.reply = line.to_vec();
                    part.done = Some(outcome);
                }
                true
            }
        };
        self.aside = self.aside + kept - freed;
        whole
    }

    /// The connection broke in the middle of a reply that will be asked for again: forgets the
    /// piece. False when it was passed on already.
    pub(crate) fn forget(&mut self, seq: u64, part: u32) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        let piece = match &mut slot.reply {
            Reply::Forward { began: true, .. } => return false,
            Reply::Forward { aside, .. } => aside,
            Reply::Joint(joint) => match joint.parts.get_mut(part as usize) {
                Some(part) => &mut part.reply,
                None => return true,
            },
            Reply::Ready(..) => return true,
        };
        let freed = std::mem::take(piece).len();
        self.aside -= freed;
        true
    }

    /// Replaces a slot that waits by a known reply: its deadline passed. False when its reply had
    /// begun.
    pub(crate) fn replace(&mut self, seq: u64, line: &[u8], outcome: Outcome) -> bool {
        let Some(slot) = self.slot(seq) else { return true };
        let freed = match &slot.reply {
            Reply::Forward { began: true, done: None, .. } => return false,
            Reply::Forward { aside, .. } => aside.len(),
            Reply::Joint(joint) => joint.parts.iter().map(|p| p.reply.len()).sum(),
            Reply::Ready(..) => return true,
        };
        slot.reply = Reply::Ready(line.to_vec(), outcome);
        self.aside = self.aside - freed + line.len();
        true
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
        while let Some(slot) = self.slots.front_mut() {
            let outcome = match &mut slot.reply {
                Reply::Forward { aside, done, began } => {
                    let whole_or_large = done.is_some() || aside.len() > self.hold;
                    if !aside.is_empty() && whole_or_large {
                        self.aside -= aside.len();
                        out.append(aside);
                        *aside = Vec::new();
                        *began = true;
                    }
                    match done {
                        Some(outcome) => *outcome,
                        None => return,
                    }
                }
                Reply::Joint(joint) => {
                    if joint.parts.iter().any(|p| p.done.is_none()) {
                        return;
                    }
                    self.aside -= joint.parts.iter().map(|p| p.reply.len()).sum::<usize>();
                    joint.merge(context, out)
                }
                Reply::Ready(bytes, outcome) => {
                    self.aside = self.aside.saturating_sub(bytes.len());
                    out.append(bytes);
                    *outcome
                }
            };
            count(slot.class, outcome);
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.capacity() > KEEP_SLOTS && self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// The owners of a part's keys are several now: the part becomes several. Gives the number and
    /// the node of each.
    pub(crate) fn divide(
        &mut self,
        seq: u64,
        part: u32,
        kind: Split,
        bound: &Rc<Bound>,
        keys: usize,
        parts: Vec<(usize, Vec<u32>)>,
    ) -> Vec<(u32, usize)> {
        let Some(slot) = self.slot(seq) else { return Vec::new() };
        if matches!(slot.reply, Reply::Forward { .. }) {
            let whole = Part { positions: (0..keys as u32).collect(), ..Part::new(bound, 0) };
            let joint = Joint {
                kind: JointKind::Split(kind),
                keys,
                parts: vec![whole],
                bound: bound.clone(),
                lesson: None,
            };
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

    /// A reply that is known at once: written now when nothing stands before it.
    pub(crate) fn ready(&mut self, class: Class, due_us: u32, bytes: Vec<u8>, outcome: Outcome) {
        self.aside += bytes.len();
        self.push(Slot { class, due_us, reply: Reply::Ready(bytes, outcome) });
    }
}

/// A reply is held until it is whole or larger than this: half of one can't be taken back from the
/// client when its node dies, and then its session could only be closed.
const HOLD_BYTES: usize = 16 * 1024;

/// A window that had more slots than this is given back when it is empty.
const KEEP_SLOTS: usize = 16;

impl Part {
    pub(crate) fn new(bound: &Bound, index: usize) -> Part {
        let node = bound.topology.nodes[index].node.name.clone();
        Part { node, index, positions: Vec::new(), reply: Vec::new(), done: None }
    }
}

impl Joint {
    fn merge(&self, context: MergeContext, out: &mut Vec<u8>) -> Outcome {
        let parts: Vec<merge::Part<'_>> = self
            .parts
            .iter()
            .map(|p| merge::Part { node: &p.node, reply: &p.reply, positions: &p.positions })
            .collect();
        let owns = |part: usize, key: &[u8]| self.bound.owns(self.parts[part].index, key);
        let merged = match self.kind {
            JointKind::Split(kind) => merge::split(kind, self.keys, &parts, context.per_key_errors, out),
            JointKind::Gather(kind) => {
                let pick = self.parts.first().map_or(0, |p| p.reply.as_ptr() as u64 >> 4);
                merge::gather(kind, &parts, context.version, &owns, pick, out)
            }
            JointKind::Scan { ordinal, next } => {
                scan::reply(parts[0].reply, parts[0].node, ordinal, next, &|key| owns(0, key), out)
            }
        };
        let failed = self.parts.iter().filter_map(|p| p.done).find(|o| *o != Outcome::Ok);
        if merged == Merged::Whole
            && let (Some(lesson), Some(link)) = (&self.lesson, self.bound.links.first())
        {
            link.scripts.note(lesson);
        }
        match merged {
            Merged::Failed => failed.unwrap_or(Outcome::Error),
            Merged::Whole | Merged::Partly => Outcome::Ok,
        }
    }
}

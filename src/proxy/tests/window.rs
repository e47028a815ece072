//! The window against a model: whatever comes in whatever order, replies come out in the order of
//! the requests, one each, byte for byte.

use proptest::prelude::*;

use super::*;
use crate::{
    metrics::{Class, Outcome},
    protocol::resp::{Version, merge, rule::Split},
    proxy::joint::{Joint, JointKind, MergeContext, Part},
    proxy::window::{Reply, Slot, Window},
};

const NODES: [&str; 3] = ["a", "b", "c"];
const CONTEXT: MergeContext = MergeContext { version: Version::Resp2, per_key_errors: false };

fn forward() -> Slot {
    let reply = Reply::Waiting;
    Slot { class: Class::Read, may_write: false, due_us: 0, silent: false, reply }
}

fn joint(bound: &Rc<Bound>, parts: &[ModelPart], keys: usize) -> Slot {
    let part = |p: &ModelPart| Part { positions: p.positions.clone(), ..Part::new(bound, p.node) };
    let parts = parts.iter().map(part).collect();
    let joint = Joint {
        kind: JointKind::Split(Split::Values),
        keys,
        parts,
        bound: bound.clone(),
        request: None,
        done: Default::default(),
    };
    Slot {
        class: Class::Read,
        may_write: false,
        due_us: 0,
        silent: false,
        reply: Reply::Joint(Box::new(joint)),
    }
}

fn settle(window: &mut Window, out: &mut Vec<u8>) -> usize {
    let mut ended = 0;
    window.settle(CONTEXT, out, |_, _| ended += 1);
    ended
}

/// The head's reply goes straight out, piece by piece; what overtakes it waits.
#[test]
fn the_head_goes_straight_out() {
    let (mut window, mut out) = (Window::without_hold(), Vec::new());
    let (one, two) = (window.push(forward()), window.push(forward()));
    window.deliver(two, 0, b":2\r\n", Some(Outcome::Ok), &mut out);
    assert_eq!((settle(&mut window, &mut out), window.aside()), (0, 4));
    window.deliver(one, 0, b":", None, &mut out);
    assert_eq!(out, b":");
    window.deliver(one, 0, b"1\r\n", Some(Outcome::Ok), &mut out);
    assert_eq!((settle(&mut window, &mut out), window.aside()), (2, 0));
    assert_eq!(out, b":1\r\n:2\r\n");
    assert!(window.is_empty());
}

/// A small reply is held until it is whole, so that it can be asked for again; a large one begins.
#[test]
fn small_replies_are_held() {
    let (mut window, mut out) = (Window::default(), Vec::new());
    let (one, two) = (window.push(forward()), window.push(forward()));
    window.deliver(one, 0, b"$5\r\nhe", None, &mut out);
    assert_eq!((settle(&mut window, &mut out), window.aside(), out.len()), (0, 6, 0));
    assert!(window.forget(one, 0));
    assert_eq!(window.aside(), 0);
    window.deliver(one, 0, b"$5\r\nh", None, &mut out);
    window.deliver(one, 0, b"ello\r\n", Some(Outcome::Ok), &mut out);
    assert_eq!((settle(&mut window, &mut out), window.aside()), (1, 0));
    assert_eq!(out, b"$5\r\nhello\r\n");
    out.clear();
    window.deliver(two, 0, &[b'x'; 10_000], None, &mut out);
    assert!(out.is_empty());
    window.deliver(two, 0, &[b'x'; 10_000], None, &mut out);
    assert_eq!((out.len(), window.aside()), (20_000, 0));
    assert!(!window.forget(two, 0));
}

/// Once the head's reply has begun it can be neither failed, replaced nor asked again, and it has
/// no deadline any more.
#[test]
fn a_reply_that_has_begun() {
    let (mut window, mut out) = (Window::without_hold(), Vec::new());
    let seq = window.push(forward());
    assert_eq!(window.head_due().map(|slot| slot.due_us), Some(0));
    window.deliver(seq, 0, b"$5\r\nhe", None, &mut out);
    assert!(window.head_due().is_none());
    assert!(!window.fail(seq, 0, b"-ERR x\r\n", Outcome::Lost));
    assert!(!window.replace(seq, b"-ERR x\r\n", Outcome::Timeout));
    assert!(!window.forget(seq, 0));
    assert!(window.awaits(seq, 0));
    window.deliver(seq, 0, b"llo\r\n", Some(Outcome::Ok), &mut out);
    assert_eq!(settle(&mut window, &mut out), 1);
    assert_eq!(out, b"$5\r\nhello\r\n");
}

/// What is late, unknown or answered already changes nothing.
#[test]
fn late_and_unknown() {
    let (mut window, mut out) = (Window::default(), Vec::new());
    let first = window.push(forward());
    assert!(window.replace(first, b"-ERR late\r\n", Outcome::Timeout));
    settle(&mut window, &mut out);
    let bound = bound(&NODES);
    let waits = window.push(forward());
    let parts = [ModelPart::new(0, vec![0]), ModelPart::new(1, vec![1])];
    let split = window.push(joint(&bound, &parts, 2));
    window.ready(Class::Local, 0, b"+PONG\r\n", Outcome::Ok);
    let ready = split + 1;
    out.clear();
    for (seq, part) in [(first, 0), (split, 2), (split, u32::MAX), (ready, 0), (99, 0), (u64::MAX, 7)] {
        window.deliver(seq, part, b"junk", Some(Outcome::Ok), &mut out);
        assert!(window.fail(seq, part, b"-ERR junk\r\n", Outcome::Lost));
        assert!(window.forget(seq, part));
        assert!(!window.awaits(seq, part), "{seq} {part}");
    }
    assert!(window.replace(ready, b"-ERR junk\r\n", Outcome::Timeout));
    assert_eq!((settle(&mut window, &mut out), window.aside()), (0, 7));
    assert!(window.deliver(waits, 0, b":1\r\n", Some(Outcome::Ok), &mut out).is_some());
    window.deliver(split, 1, b"*1\r\n:3\r\n", Some(Outcome::Ok), &mut out);
    window.deliver(split, 1, b"junk", Some(Outcome::Ok), &mut out);
    window.deliver(split, 0, b"*1\r\n:2\r\n", Some(Outcome::Ok), &mut out);
    assert_eq!((settle(&mut window, &mut out), window.aside()), (2, 0));
    assert_eq!(out, b":1\r\n*2\r\n:2\r\n:3\r\n+PONG\r\n");
}

/// A slot that is taken back was never there.
#[test]
fn unpush() {
    let (mut window, mut out) = (Window::default(), Vec::new());
    let first = window.push(forward());
    window.push(forward());
    window.unpush();
    let second = window.push(forward());
    assert_eq!(second, first + 1);
    window.deliver(second, 0, b":2\r\n", Some(Outcome::Ok), &mut out);
    assert!(window.deliver(first, 0, b":1\r\n", Some(Outcome::Ok), &mut out).is_some());
    assert_eq!(settle(&mut window, &mut out), 1);
    assert_eq!(out, b":1\r\n:2\r\n");
}

#[derive(Clone, Debug)]
struct ModelPart {
    node: usize,
    positions: Vec<u32>,
    /// Bytes of its reply that came.
    at: usize,
    /// The error line that stands for its reply.
    failed: Option<Vec<u8>>,
}

impl ModelPart {
    fn new(node: usize, positions: Vec<u32>) -> ModelPart {
        ModelPart { node, positions, at: 0, failed: None }
    }

    fn reply(&self, seq: u64) -> Vec<u8> {
        let mut reply = Vec::new();
        write::array(&mut reply, self.positions.len());
        self.positions.iter().for_each(|p| write::bulk(&mut reply, format!("{seq}.{p}").as_bytes()));
        reply
    }

    fn is_over(&self, seq: u64) -> bool {
        self.failed.is_some() || self.at == self.reply(seq).len()
    }

    fn held(&self) -> usize {
        self.failed.as_ref().map_or(self.at, Vec::len)
    }
}

#[derive(Debug)]
enum Kind {
    Forward,
    Joint,
    Known(Vec<u8>),
}

#[derive(Debug)]
struct ModelSlot {
    kind: Kind,
    parts: Vec<ModelPart>,
    keys: usize,
}

struct Model {
    bound: Rc<Bound>,
    window: Window,
    slots: Vec<ModelSlot>,
    /// The number of the head.
    head: usize,
    out: Vec<u8>,
    expected: Vec<u8>,
    ended: usize,
}

impl Model {
    fn new(bound: &Rc<Bound>) -> Model {
        let (out, expected) = (Vec::new(), Vec::new());
        let (bound, window) = (bound.clone(), Window::without_hold());
        Model { bound, window, slots: Vec::new(), head: 0, out, expected, ended: 0 }
    }

    fn open(&mut self, kind: u8, keys: usize) {
        let seq = self.slots.len() as u64;
        let all: Vec<u32> = (0..keys as u32).collect();
        let (kind, parts) = match kind % 3 {
            0 => (Kind::Forward, vec![ModelPart::new(0, all)]),
            1 => {
                let (odd, even) = all.iter().partition(|p| *p % 2 == 1);
                (Kind::Joint, vec![ModelPart::new(0, even), ModelPart::new(1, odd)])
            }
            _ => (Kind::Known(b"+PONG\r\n".to_vec()), Vec::new()),
        };
        match &kind {
            Kind::Forward => assert_eq!(self.window.push(forward()), seq),
            Kind::Joint => assert_eq!(self.window.push(joint(&self.bound, &parts, keys)), seq),
            Kind::Known(line) => self.window.ready(Class::Local, 0, line, Outcome::Ok),
        }
        self.slots.push(ModelSlot { kind, parts, keys });
    }

    fn began(&self, seq: usize) -> bool {
        let slot = &self.slots[seq];
        seq == self.head && matches!(slot.kind, Kind::Forward) && slot.parts[0].at > 0
    }

    /// Whether the part can still get a reply.
    fn awaits(&self, seq: usize, part: usize) -> bool {
        let slot = &self.slots[seq];
        let open = seq >= self.head && !matches!(slot.kind, Kind::Known(_));
        open && slot.parts.get(part).is_some_and(|p| !p.is_over(seq as u64))
    }

    fn deliver(&mut self, seq: usize, part: usize, size: usize) {
        if !self.awaits(seq, part) {
            self.window.deliver(seq as u64, part as u32, b"late", Some(Outcome::Ok), &mut self.out);
            assert!(self.window.forget(seq as u64, part as u32), "it is not asked for again");
            return;
        }
        let part_model = &mut self.slots[seq].parts[part];
        let reply = part_model.reply(seq as u64);
        let piece = &reply[part_model.at..reply.len().min(part_model.at + size)];
        part_model.at += piece.len();
        let done = (part_model.at == reply.len()).then_some(Outcome::Ok);
        let ended = self.window.deliver(seq as u64, part as u32, piece, done, &mut self.out);
        self.ended += usize::from(ended.is_some());
    }

    fn fail(&mut self, seq: usize, part: usize) {
        let line = format!("-ERR {seq} failed\r\n").into_bytes();
        let (awaits, began) = (self.awaits(seq, part), self.began(seq));
        let whole = self.window.fail(seq as u64, part as u32, &line, Outcome::Lost);
        assert_eq!(whole, !(awaits && began));
        if awaits && !began {
            let slot = &mut self.slots[seq];
            match slot.kind {
                Kind::Forward => slot.kind = Kind::Known(line),
                _ => slot.parts[part].failed = Some(line),
            }
        }
    }

    fn replace_head(&mut self) {
        if self.head < self.slots.len() {
            let line = format!("-ERR {} late\r\n", self.head).into_bytes();
            let began = self.began(self.head);
            assert_eq!(self.window.head_due().is_none(), began);
            assert_eq!(self.window.replace(self.head as u64, &line, Outcome::Timeout), !began);
            if !began {
                self.slots[self.head].kind = Kind::Known(line);
            }
        }
    }

    /// The connection broke: the piece is forgotten, and the part may become two.
    fn ask_again(&mut self, seq: usize, part: usize, divide: bool) {
        if !self.awaits(seq, part) {
            return;
        }
        let began = self.began(seq);
        assert_eq!(self.window.forget(seq as u64, part as u32), !began);
        let slot = &mut self.slots[seq];
        if began {
            return;
        }
        slot.parts[part].at = 0;
        let positions = slot.parts[part].positions.clone();
        if !divide || positions.len() < 2 {
            return;
        }
        let half = positions.len() / 2;
        let shares: Vec<u32> = (0..positions.len() as u32).collect();
        let parts = vec![(1, shares[..half].to_vec()), (2, shares[half..].to_vec())];
        let new = self.window.divide(
            (seq as u64, part as u32),
            JointKind::Split(Split::Values),
            &self.bound,
            positions.len(),
            parts,
            b"",
        );
        assert_eq!(new, [(part as u32, 1), (slot.parts.len() as u32, 2)]);
        slot.kind = Kind::Joint;
        slot.parts[part] = ModelPart::new(1, positions[..half].to_vec());
        slot.parts.push(ModelPart::new(2, positions[half..].to_vec()));
    }

    /// Settles both, and compares.
    fn settle(&mut self) {
        self.ended += settle(&mut self.window, &mut self.out);
        while let Some(slot) = self.slots.get(self.head) {
            let seq = self.head as u64;
            match &slot.kind {
                Kind::Known(line) => self.expected.extend_from_slice(line),
                _ if slot.parts.iter().any(|p| !p.is_over(seq)) => break,
                Kind::Forward => self.expected.extend(slot.parts[0].reply(seq)),
                Kind::Joint => self.merged(seq),
            }
            self.head += 1;
        }
        assert_eq!(self.window.head_seq(), self.head as u64);
        assert_eq!(self.window.len(), self.slots.len() - self.head);
        let begun = self.slots.get(self.head).filter(|_| self.began(self.head));
        let begun =
            begun.map_or(Vec::new(), |s| s.parts[0].reply(self.head as u64)[..s.parts[0].at].to_vec());
        let expected = [self.expected.as_slice(), &begun].concat();
        assert_eq!(self.out.escape_ascii().to_string(), expected.escape_ascii().to_string());
        let held = |slot: &ModelSlot| match &slot.kind {
            Kind::Known(line) => line.len(),
            _ => slot.parts.iter().map(ModelPart::held).sum(),
        };
        let kept: usize = self.slots[self.head..].iter().map(held).sum();
        assert_eq!(self.window.aside(), kept - begun.len());
    }

    fn merged(&mut self, seq: u64) {
        let slot = &self.slots[seq as usize];
        let replies: Vec<Vec<u8>> =
            slot.parts.iter().map(|p| p.failed.clone().unwrap_or_else(|| p.reply(seq))).collect();
        let parts: Vec<_> = slot
            .parts
            .iter()
            .zip(&replies)
            .map(|(p, reply)| merge::Part { node: NODES[p.node], reply, positions: &p.positions })
            .collect();
        if replies.iter().all(|r| r[0] == b'*') {
            let whole = ModelPart::new(0, (0..slot.keys as u32).collect());
            self.expected.extend(whole.reply(seq));
        } else {
            merge::split(Split::Values, slot.keys, &parts, false, &mut self.expected);
        }
    }

    fn finish(&mut self) {
        for seq in 0..self.slots.len() {
            for part in 0..self.slots[seq].parts.len() {
                if self.awaits(seq, part) {
                    self.deliver(seq, part, usize::MAX / 2);
                }
            }
            self.settle();
        }
        assert_eq!((self.head, self.ended), (self.slots.len(), self.slots.len()));
        assert_eq!(self.window.aside(), 0);
        assert!(self.window.is_empty());
    }
}

proptest! {
    /// Replies in any order and any pieces, failures, deadlines, second attempts and divided parts:
    /// one reply each, in order, byte for byte, and the account of what is kept is exact.
    #[test]
    fn as_the_model_says(
        steps in prop::collection::vec((0u8..16, any::<prop::sample::Index>(), 0usize..3, 1usize..12), 1..200)
    ) {
        let mut model = Model::new(&bound(&NODES));
        for (what, which, part, size) in steps {
            let seq = which.index(model.slots.len().max(1)).min(model.slots.len().saturating_sub(1));
            match what {
                0..=3 => model.open(what, 2 + size % 4),
                _ if model.slots.is_empty() => {}
                _ if matches!(model.slots[seq].kind, Kind::Forward) && part > 0 => {}
                4..=10 => model.deliver(seq, part, size),
                11 => model.fail(seq, part),
                12 => model.replace_head(),
                13 => model.ask_again(seq, part, false),
                _ => model.ask_again(seq, part, true),
            }
            model.settle();
        }
        model.finish();
    }
}

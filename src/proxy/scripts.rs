//! Scripts and functions that clients loaded through ringway. Each new connection to a node gives
//! them to it before the first request, so that a node which was restarted, was away or is new
//! knows them before it owns keys, and `EVALSHA` and `FCALL` go on working after a move.
//!
//! What was loaded past ringway, or before it started, is not known here, and may be newer. So a node keeps
//! the libraries that it has, unless it was not asked when one was loaded.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    protocol::resp::{
        frame::{FrameLimits, Request, RequestDecoder},
        write,
    },
    topology::NodeId,
};

/// Bytes that are remembered; the oldest are forgotten first.
const BYTES_MAX: usize = 1 << 20;
/// Scripts and libraries that are remembered.
const LESSONS_MAX: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Script,
    Function,
}

#[derive(Debug)]
struct Lesson {
    kind: Kind,
    /// The library's name; none of a script.
    name: Vec<u8>,
    code: Vec<u8>,
    /// Nodes that were not asked when it was loaded: they may have an older library of this name.
    missed: Vec<NodeId>,
}

impl Lesson {
    /// Appends the request that teaches it. That it is there already is an error that nobody sees.
    fn write(&self, node: NodeId, out: &mut Vec<u8>) {
        match self.kind {
            Kind::Script => write::request(out, &[&b"SCRIPT"[..], b"LOAD", &self.code]),
            Kind::Function if self.missed.contains(&node) => {
                write::request(out, &[&b"FUNCTION"[..], b"LOAD", b"REPLACE", &self.code]);
            }
            Kind::Function => write::request(out, &[&b"FUNCTION"[..], b"LOAD", &self.code]),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    lessons: VecDeque<Lesson>,
    /// Of each change there is a new one.
    generation: u64,
}

/// The requests that teach a node everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lessons {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: usize,
    generation: u64,
}

/// What a pool's clients loaded. Touched when something is loaded or a connection is made, never
/// for other requests.
#[derive(Debug, Default)]
pub struct Scripts(Mutex<Known>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a command that goes to all nodes has to do with scripts or functions.
    pub(crate) fn concerns(request: &Request<'_>) -> bool {
        ["SCRIPT", "FUNCTION"].iter().any(|word| request.arg(0).eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Forgets what a `SCRIPT` or `FUNCTION` command is about to take away, or to put something in the place
    /// of: before any node has it, so that no connection which is made meanwhile brings it back. What is
    /// restored has names that can't be read here.
    pub(crate) fn forget(&self, request: &Request<'_>) {
        let word = |i: usize| request.arg(i).to_ascii_uppercase();
        let kind = match (&word(0)[..], &word(1)[..]) {
            (b"SCRIPT", b"FLUSH") => Kind::Script,
            (b"FUNCTION", b"FLUSH" | b"RESTORE" | b"DELETE") => Kind::Function,
            _ => return,
        };
        let name = (word(1) == b"DELETE").then(|| request.arg(2));
        let known = &mut *self.lock();
        known.lessons.retain(|l| l.kind != kind || name.is_some_and(|name| name != l.name));
        known.generation += 1;
    }

    /// Takes note of a `SCRIPT` or `FUNCTION` command that all nodes have accepted but those that were not
    /// asked.
    pub(crate) fn note(&self, frame: &[u8], missed: Vec<NodeId>) {
        let mut decoder = RequestDecoder::default();
        if decoder.decode(frame, &FrameLimits::NONE).is_err() {
            return;
        }
        let request = Request::new(frame, decoder.spans());
        let word = |i: usize| request.arg(i).to_ascii_uppercase();
        match (&word(0)[..], &word(1)[..]) {
            (b"SCRIPT", b"LOAD") => self.learn(Kind::Script, &[], request.arg(2), missed),
            (b"FUNCTION", b"LOAD") => {
                let code = request.arg(request.len() - 1);
                if let Some(name) = library(code) {
                    self.learn(Kind::Function, name, code, missed);
                }
            }
            _ => {}
        }
    }

    fn learn(&self, kind: Kind, name: &[u8], code: &[u8], missed: Vec<NodeId>) {
        let known = &mut *self.lock();
        let is_same =
            |l: &Lesson| l.kind == kind && if kind == Kind::Script { l.code == code } else { l.name == name };
        known.lessons.retain(|l| !is_same(l));
        // One that has no room is no reason to forget all others.
        if code.len() <= BYTES_MAX {
            known.lessons.push_back(Lesson { kind, name: name.to_vec(), code: code.to_vec(), missed });
        }
        while known.lessons.len() > LESSONS_MAX
            || known.lessons.iter().map(|l| l.code.len()).sum::<usize>() > BYTES_MAX
        {
            known.lessons.pop_front();
        }
        known.generation += 1;
    }

    /// What teaches this node everything.
    pub(crate) fn lessons(&self, node: NodeId) -> Lessons {
        let known = self.lock();
        let mut bytes = Vec::new();
        known.lessons.iter().for_each(|lesson| lesson.write(node, &mut bytes));
        Lessons { bytes, count: known.lessons.len(), generation: known.generation }
    }

    /// The node was taught this; false when it is not all any more that there is to know.
    pub(crate) fn taught(&self, node: NodeId, lessons: &Lessons) -> bool {
        let known = &mut *self.lock();
        let is_all = known.generation == lessons.generation;
        if is_all {
            known.lessons.iter_mut().for_each(|lesson| lesson.missed.retain(|id| *id != node));
        }
        is_all
    }
}

/// The library's name in the first line of a function library: `#!lua name=mylib`.
fn library(code: &[u8]) -> Option<&[u8]> {
    let line = code.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    line.split(u8::is_ascii_whitespace).find_map(|word| word.strip_prefix(b"name="))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    /// A request that all nodes were asked and have accepted but these.
    fn pass(scripts: &Scripts, args: &[&str], missed: &[NodeId]) {
        let mut frame = Vec::new();
        write::request(&mut frame, args);
        let mut decoder = RequestDecoder::default();
        decoder.decode(&frame, &FrameLimits::NONE).expect("a request");
        scripts.forget(&Request::new(&frame, decoder.spans()));
        scripts.note(&frame, missed.to_vec());
    }

    fn taught(scripts: &Scripts, node: NodeId) -> String {
        String::from_utf8(scripts.lessons(node).bytes).expect("text")
    }

    /// What was loaded is taught once each; a library replaces its older self; a flush forgets, and so does
    /// what is restored.
    #[test]
    fn lessons_follow_the_commands() {
        let scripts = Scripts::default();
        let note = |args: &[&str]| pass(&scripts, args, &[]);
        let count = || scripts.lessons(NODE).count;
        note(&["script", "load", "return 1"]);
        note(&["SCRIPT", "LOAD", "return 1"]);
        note(&["FUNCTION", "LOAD", "#!lua name=lib\nold"]);
        note(&["FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nnew"]);
        note(&["FUNCTION", "LOAD", "no library"]);
        assert_eq!(count(), 2);
        assert!(taught(&scripts, NODE).contains("return 1"));
        assert!(taught(&scripts, NODE).contains("LOAD\r\n$18\r\n#!lua name=lib\nnew"));
        note(&["FUNCTION", "DELETE", "other"]);
        note(&["SCRIPT", "FLUSH", "ASYNC"]);
        assert!(!taught(&scripts, NODE).contains("return 1"));
        note(&["FUNCTION", "DELETE", "lib"]);
        assert_eq!(count(), 0);
        for gone in [&["FUNCTION", "FLUSH"][..], &["FUNCTION", "RESTORE", "payload", "APPEND"]] {
            note(&["SCRIPT", "LOAD", "return 1"]);
            note(&["FUNCTION", "LOAD", "#!lua name=lib\nnew"]);
            note(gone);
            assert_eq!(count(), 1, "{gone:?}");
        }
    }

    /// A node keeps the library that it has, which may be newer: only one that was not asked when it was
    /// loaded has it replaced, once.
    #[test]
    fn a_library_is_replaced_where_it_was_missed() {
        let scripts = Scripts::default();
        let away = NodeId(2);
        pass(&scripts, &["FUNCTION", "LOAD", "#!lua name=lib\nold"], &[]);
        pass(&scripts, &["FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nnew"], &[away]);
        assert!(!taught(&scripts, NODE).contains("REPLACE"));
        assert!(taught(&scripts, away).contains("REPLACE"));
        let lessons = scripts.lessons(away);
        pass(&scripts, &["SCRIPT", "LOAD", "return 1"], &[away]);
        assert!(!scripts.taught(away, &lessons), "there is more by now");
        assert!(taught(&scripts, away).contains("REPLACE"));
        assert!(scripts.taught(away, &scripts.lessons(away)));
        assert!(!taught(&scripts, away).contains("REPLACE"));
        let lessons = scripts.lessons(NODE);
        pass(&scripts, &["FUNCTION", "DELETE", "lib"], &[]);
        assert!(!scripts.taught(NODE, &lessons), "there is less by now");
    }

    /// The oldest are forgotten when there is too much to remember.
    #[test]
    fn memory_is_bounded() {
        let scripts = Scripts::default();
        for i in 0..40 {
            pass(&scripts, &["SCRIPT", "LOAD", &format!("return {i} --{}", "x".repeat(100_000))], &[]);
        }
        assert_eq!(scripts.lessons(NODE).count, 10);
        assert!(taught(&scripts, NODE).contains("return 39 "));
        pass(&scripts, &["SCRIPT", "LOAD", &format!("return 1 --{}", "x".repeat(BYTES_MAX))], &[]);
        assert_eq!(scripts.lessons(NODE).count, 10, "one without room takes nobody else's");
    }
}

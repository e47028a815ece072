//! Scripts and functions that clients loaded through ringway. Each new connection to a node gives
//! them to it before the first request, so that a node which was restarted, was away or is new
//! knows them before it owns keys, and `EVALSHA` and `FCALL` go on working after a move.
//!
//! What was loaded past ringway, or before it started, is not known here.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::protocol::resp::{
    frame::{FrameLimits, Request, RequestDecoder},
    write,
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
    /// The library's name, or the script itself.
    name: Vec<u8>,
    frame: Vec<u8>,
}

/// What a pool's clients loaded. Touched when something is loaded or a connection is made, never
/// for other requests.
#[derive(Debug, Default)]
pub struct Scripts(Mutex<VecDeque<Lesson>>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Lesson>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a command that goes to all nodes has to do with scripts or functions.
    pub(crate) fn concerns(request: &Request<'_>) -> bool {
        ["SCRIPT", "FUNCTION"].iter().any(|word| request.arg(0).eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Takes note of a `SCRIPT` or `FUNCTION` command that all nodes have accepted.
    pub(crate) fn note(&self, frame: &[u8]) {
        let mut decoder = RequestDecoder::default();
        if decoder.decode(frame, &FrameLimits::NONE).is_err() {
            return;
        }
        let request = Request::new(frame, decoder.spans());
        let word = |i: usize| request.arg(i).to_ascii_uppercase();
        match (&word(0)[..], &word(1)[..]) {
            (b"SCRIPT", b"LOAD") => {
                self.learn(Kind::Script, request.arg(2), &[b"SCRIPT", b"LOAD"], request.arg(2))
            }
            (b"FUNCTION", b"LOAD") => {
                let code = request.arg(request.len() - 1);
                if let Some(name) = library(code) {
                    self.learn(Kind::Function, name, &[b"FUNCTION", b"LOAD", b"REPLACE"], code);
                }
            }
            (b"SCRIPT", b"FLUSH") => self.lock().retain(|l| l.kind != Kind::Script),
            (b"FUNCTION", b"FLUSH") => self.lock().retain(|l| l.kind != Kind::Function),
            (b"FUNCTION", b"DELETE") => {
                self.lock().retain(|l| l.kind != Kind::Function || l.name != request.arg(2));
            }
            _ => {}
        }
    }

    fn learn(&self, kind: Kind, name: &[u8], words: &[&[u8]], code: &[u8]) {
        let mut frame = Vec::new();
        write::array(&mut frame, words.len() + 1);
        words.iter().for_each(|word| write::bulk(&mut frame, word));
        write::bulk(&mut frame, code);
        let mut lessons = self.lock();
        lessons.retain(|l| l.kind != kind || l.name != name);
        lessons.push_back(Lesson { kind, name: name.to_vec(), frame });
        while lessons.len() > LESSONS_MAX || lessons.iter().map(|l| l.frame.len()).sum::<usize>() > BYTES_MAX
        {
            lessons.pop_front();
        }
    }

    /// The requests that teach a node everything, and how many there are.
    pub(crate) fn lessons(&self) -> (Vec<u8>, usize) {
        let lessons = self.lock();
        (lessons.iter().flat_map(|l| l.frame.iter().copied()).collect(), lessons.len())
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

    fn note(scripts: &Scripts, args: &[&str]) {
        let mut frame = Vec::new();
        write::request(&mut frame, args);
        scripts.note(&frame);
    }

    fn taught(scripts: &Scripts) -> String {
        String::from_utf8(scripts.lessons().0).expect("text")
    }

    /// What was loaded is taught once each; a library replaces its older self; a flush forgets.
    #[test]
    fn lessons_follow_the_commands() {
        let scripts = Scripts::default();
        note(&scripts, &["script", "load", "return 1"]);
        note(&scripts, &["SCRIPT", "LOAD", "return 1"]);
        note(&scripts, &["FUNCTION", "LOAD", "#!lua name=lib\nold"]);
        note(&scripts, &["FUNCTION", "LOAD", "REPLACE", "#!lua name=lib\nnew"]);
        note(&scripts, &["FUNCTION", "LOAD", "no library"]);
        assert_eq!(scripts.lessons().1, 2);
        assert!(taught(&scripts).contains("return 1"));
        assert!(taught(&scripts).contains("REPLACE\r\n$18\r\n#!lua name=lib\nnew"));
        note(&scripts, &["FUNCTION", "DELETE", "other"]);
        note(&scripts, &["SCRIPT", "FLUSH", "ASYNC"]);
        assert!(!taught(&scripts).contains("return 1"));
        note(&scripts, &["FUNCTION", "DELETE", "lib"]);
        assert_eq!(scripts.lessons(), (Vec::new(), 0));
    }

    /// The oldest are forgotten when there is too much to remember.
    #[test]
    fn memory_is_bounded() {
        let scripts = Scripts::default();
        for i in 0..40 {
            note(&scripts, &["SCRIPT", "LOAD", &format!("return {i} --{}", "x".repeat(100_000))]);
        }
        let (bytes, count) = scripts.lessons();
        assert!(bytes.len() <= BYTES_MAX && count == 10, "{count}");
        assert!(taught(&scripts).contains("return 39 "));
    }
}

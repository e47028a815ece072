//! What a session has read and not dispatched yet: the beginning of a request, requests that wait
//! for room, or a large request that is being streamed to its node.

use std::rc::Rc;

use super::pipeline::Pipeline;
use crate::protocol::resp::frame::{RequestDecoder, Scanner};

/// A request that is larger than this gets a connection of its own, and is not held whole.
pub(crate) const BULK_LANE: usize = 1 << 20;
/// Bytes of a streamed request that may wait for the node.
const BACKLOG_MAX: usize = 256 * 1024;

/// The input of one session.
#[derive(Default)]
pub(crate) struct Input {
    pending: Vec<u8>,
    /// Bytes at the start of `pending` that are done.
    done: usize,
    decoder: RequestDecoder,
    bulk: Option<Bulk>,
    /// A large request is to be streamed once all before it is answered: reading pauses.
    hold: bool,
    ended: bool,
}

/// A request on its way through.
pub(crate) struct Bulk {
    pub(crate) pipeline: Rc<Pipeline>,
    scanner: Scanner,
}

/// What became of an attempt to stream a request.
pub(crate) enum Begun {
    /// It can't be streamed: it has to arrive whole first.
    No,
    /// It has to wait until the window is empty.
    Later,
    /// Its beginning was sent.
    Yes(Rc<Pipeline>),
}

impl Input {
    pub(crate) fn is_empty(&self) -> bool {
        self.done == self.pending.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len() - self.done
    }

    /// Whether reading on makes sense.
    pub(crate) fn wants_more(&self) -> bool {
        !self.ended && !self.hold && self.bulk.as_ref().is_none_or(|b| b.pipeline.backlog() < BACKLOG_MAX)
    }

    /// The client sends no more.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Keeps what was left of a chunk, with the decoder's progress in it.
    pub(crate) fn keep(&mut self, rest: &[u8], decoder: &mut RequestDecoder) {
        self.pending.extend_from_slice(rest);
        std::mem::swap(&mut self.decoder, decoder);
        decoder.reset();
    }

    pub(crate) fn extend(&mut self, chunk: &[u8]) {
        self.pending.extend_from_slice(chunk);
    }

    /// Takes out what waits, to look at it: bytes, where they begin, and the decoder's progress.
    pub(crate) fn take(&mut self) -> (Vec<u8>, usize, RequestDecoder) {
        self.hold = false;
        let start = std::mem::take(&mut self.done);
        (std::mem::take(&mut self.pending), start, std::mem::take(&mut self.decoder))
    }

    /// Puts back what still waits, of which the bytes before `done` do not.
    pub(crate) fn put_back(&mut self, mut bytes: Vec<u8>, done: usize, decoder: RequestDecoder) {
        if done == bytes.len() {
            return;
        }
        // Moved seldom enough that a long queue costs no more than its length.
        let moves = done > bytes.len() / 2;
        self.done = if moves { 0 } else { done };
        if moves {
            bytes.drain(..done);
        }
        self.pending = bytes;
        self.decoder = decoder;
    }

    /// Whether a request of at least this many bytes should be streamed.
    pub(crate) fn may_stream(&self, needed: usize) -> bool {
        needed > BULK_LANE && self.bulk.is_none()
    }

    /// Whether a large request is on its way, or about to be.
    pub(crate) fn is_streaming(&self) -> bool {
        self.bulk.is_some() || self.hold
    }

    /// Notes what became of an attempt to stream; gives how many bytes of `rest` are done.
    pub(crate) fn begin(&mut self, begun: Begun, rest: &[u8], decoder: &mut RequestDecoder) -> usize {
        match begun {
            Begun::No => 0,
            Begun::Later => {
                self.hold = true;
                0
            }
            Begun::Yes(pipeline) => {
                let mut scanner = Scanner::default();
                // The decoder has read this far, so the scanner can't fail here.
                let _ = scanner.advance(rest);
                decoder.reset();
                self.bulk = Some(Bulk { pipeline, scanner });
                rest.len()
            }
        }
    }

    /// Passes a chunk on to the streamed request. `None` when there is none; else whether the
    /// request ended in it. What follows the request is kept.
    pub(crate) fn feed_bulk(&mut self, chunk: &[u8]) -> Option<bool> {
        let bulk = self.bulk.as_mut()?;
        let (used, done) = match bulk.scanner.advance(chunk) {
            Ok(scan) => (scan.used, scan.done),
            // Not a request any more: the node sees the same bytes and refuses them.
            Err(_) => (chunk.len(), false),
        };
        bulk.pipeline.feed(&chunk[..used], done);
        if done {
            self.bulk = None;
            self.pending.extend_from_slice(&chunk[used..]);
        }
        Some(done)
    }

    /// The client is gone: a request that it did not finish can't be finished.
    pub(crate) fn abandon(&mut self) {
        if let Some(bulk) = self.bulk.take() {
            bulk.pipeline.abandon();
        }
    }
}

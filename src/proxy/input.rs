//! What a session has read and not dispatched yet: the beginning of a request, requests that wait
//! for room, or a large request that is being streamed to its node.

use std::rc::Rc;

use super::pipeline::Pipeline;
use crate::protocol::resp::frame::{FrameError, RequestDecoder, Scan, Scanner};

/// A request that is larger than this gets a connection of its own, and is not held whole.
pub(crate) const BULK_LANE: usize = 1 << 20;
/// Bytes of a streamed request that may wait for the node.
const BACKLOG_MAX: usize = 256 * 1024;

/// The input of one session. Most of the time it is empty, and takes next to no memory then.
#[derive(Default)]
pub(crate) struct Input {
    /// There when it holds something.
    waiting: Option<Box<Waiting>>,
    bulk: Option<Box<Bulk>>,
    /// A large request is to be streamed once all before it is answered: reading pauses.
    hold: bool,
    ended: bool,
}

/// Bytes that wait.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) bytes: Vec<u8>,
    /// Bytes at the start that are done.
    pub(crate) done: usize,
    /// How far the first request has been read.
    pub(crate) decoder: RequestDecoder,
}

/// A request on its way through.
struct Bulk {
    pipeline: Rc<Pipeline>,
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
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |w| w.bytes.len() - w.done)
    }

    /// Whether reading on makes sense.
    #[inline]
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
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes.extend_from_slice(rest);
        std::mem::swap(&mut waiting.decoder, decoder);
        decoder.reset();
    }

    /// Takes out what waits, with this behind it, to look at it.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Box<Waiting> {
        self.hold = false;
        let mut waiting = self.waiting.take().unwrap_or_default();
        waiting.bytes.extend_from_slice(chunk);
        waiting
    }

    /// Puts back what still waits.
    pub(crate) fn put_back(&mut self, mut waiting: Box<Waiting>) {
        if waiting.done == waiting.bytes.len() {
            return;
        }
        // Moved seldom enough that a long queue costs no more than its length.
        if waiting.done > waiting.bytes.len() / 2 {
            waiting.bytes.drain(..waiting.done);
            waiting.done = 0;
        }
        self.waiting = Some(waiting);
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
    ///
    /// # Errors
    /// What is streamed is no request: see [`Input::feed_bulk`].
    pub(crate) fn begin(
        &mut self,
        begun: Begun,
        rest: &[u8],
        decoder: &mut RequestDecoder,
    ) -> Result<usize, FrameError> {
        match begun {
            Begun::No => Ok(0),
            Begun::Later => {
                self.hold = true;
                Ok(0)
            }
            Begun::Yes(pipeline) => {
                decoder.reset();
                let mut bulk = Box::new(Bulk { pipeline, scanner: Scanner::default() });
                let scanned = bulk.scanner.advance(rest);
                self.bulk = Some(bulk);
                scanned.map(|_| rest.len()).map_err(|_| {
                    self.abandon();
                    FrameError::BulkLength
                })
            }
        }
    }

    /// Passes a chunk on to the streamed request. `None` when there is none; else whether the
    /// request ended in it. What follows the request is kept.
    ///
    /// # Errors
    /// It is not a request any more: its connection is reset, for where it ends nobody knows, and
    /// what comes after it must not reach the node unread.
    pub(crate) fn feed_bulk(&mut self, chunk: &[u8]) -> Result<Option<bool>, FrameError> {
        let Some(bulk) = &mut self.bulk else { return Ok(None) };
        let Ok(Scan { used, done }) = bulk.scanner.advance(chunk) else {
            self.abandon();
            return Err(FrameError::BulkLength);
        };
        bulk.pipeline.feed(&chunk[..used], done);
        if done {
            self.bulk = None;
            if used < chunk.len() {
                self.keep(&chunk[used..], &mut RequestDecoder::default());
            }
        }
        Ok(Some(done))
    }

    /// The client is gone: a request that it did not finish can't be finished.
    pub(crate) fn abandon(&mut self) {
        if let Some(bulk) = self.bulk.take() {
            bulk.pipeline.abandon();
        }
    }
}

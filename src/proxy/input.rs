//! What a session has read and not dispatched yet: the beginning of a request, requests that wait
//! for room, or a large request that is being streamed to its node.

use std::rc::Rc;

use super::{
    dialect::{Begun, Broke, Decoder, Rest},
    pipeline::Pipeline,
};
use crate::protocol::resp::frame::Scan;

/// A request that is larger than this gets a connection of its own, and is not held whole.
pub(crate) const BULK_LANE: usize = 1 << 20;
/// As much of it must be there before it is given one, half of what is read at once: a request that was
/// only announced costs its node nothing.
const BEGIN_BYTES: usize = 32 * 1024;
/// Bytes of a streamed request that may wait for the node.
const BACKLOG_MAX: usize = 256 * 1024;

/// The input of one session. Most of the time it is empty, and takes next to no memory then.
#[derive(Default)]
pub(crate) struct Input {
    /// There when it holds something.
    waiting: Option<Box<Waiting>>,
    bulk: Option<Box<Bulk>>,
    /// Bytes to come that are passed over: of a value that was refused.
    skip: u64,
    /// A large request is to be sent once all before it is answered, and it is its turn: reading pauses.
    hold: bool,
    ended: bool,
}

/// Bytes that wait.
pub(crate) struct Waiting {
    pub(crate) bytes: Vec<u8>,
    /// Bytes at the start that are done.
    pub(crate) done: usize,
    /// How far the first request has been read.
    pub(crate) decoder: Decoder,
}

/// A request on its way through.
struct Bulk {
    pipeline: Rc<Pipeline>,
    rest: Rest,
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

    /// Passes over so many bytes, of which so many are here: how many of those are done.
    pub(crate) fn skip(&mut self, count: u64, here: usize) -> usize {
        let done = count.min(here as u64);
        self.skip = count - done;
        done as usize
    }

    /// What is left of a chunk without the bytes at its start that are passed over.
    #[inline]
    pub(crate) fn unskipped<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        if self.skip == 0 {
            return chunk;
        }
        let done = self.skip(self.skip, chunk.len());
        &chunk[done..]
    }

    /// Keeps what was left of a chunk, with the decoder's progress in it.
    pub(crate) fn keep(&mut self, rest: &[u8], decoder: Decoder) {
        self.waiting = Some(Box::new(Waiting { bytes: rest.to_vec(), done: 0, decoder }));
    }

    /// Takes out what waits, with this behind it, to look at it.
    pub(crate) fn take(&mut self, chunk: &[u8]) -> Option<Box<Waiting>> {
        let mut waiting = self.waiting.take()?;
        waiting.bytes.extend_from_slice(chunk);
        Some(waiting)
    }

    /// Puts back what still waits.
    pub(crate) fn put_back(&mut self, mut waiting: Box<Waiting>) {
        if waiting.done == waiting.bytes.len() {
            debug_assert!(!waiting.decoder.is_partial(), "a part of a request is held with its bytes");
            return;
        }
        // Moved seldom enough that a long queue costs no more than its length.
        if waiting.done > waiting.bytes.len() / 2 {
            waiting.bytes.drain(..waiting.done);
            waiting.done = 0;
        }
        self.waiting = Some(waiting);
    }

    /// Whether a request of at least `needed` bytes, of which so many are there, should be streamed.
    pub(crate) fn may_stream(&self, needed: usize, there: usize) -> bool {
        needed > BULK_LANE && there >= BEGIN_BYTES && self.bulk.is_none()
    }

    /// Whether a large request is on its way, or about to be.
    pub(crate) fn is_streaming(&self) -> bool {
        self.bulk.is_some() || self.hold
    }

    /// Requests wait for nodes, and not for their client: reading pauses if much is there.
    pub(crate) fn wait_with(&mut self, requests: &[u8]) {
        self.hold |= requests.len() > BULK_LANE;
    }

    /// What waited is looked at again.
    #[inline]
    pub(crate) fn go_on(&mut self) {
        self.hold = false;
    }

    /// Whether reading pauses for a request that waits.
    pub(crate) fn is_held(&self) -> bool {
        self.hold
    }

    /// Notes what became of an attempt to stream; gives how many bytes of `rest` are done.
    ///
    /// # Errors
    /// What is streamed is no request: see [`Input::feed_bulk`].
    pub(crate) fn begin(&mut self, begun: Begun, rest: &[u8]) -> Result<usize, Broke> {
        match begun {
            Begun::No => Ok(0),
            Begun::Later | Begun::Full => {
                self.hold = true;
                Ok(0)
            }
            Begun::Yes(pipeline, scan) => {
                self.bulk = Some(Box::new(Bulk { pipeline, rest: scan }));
                Ok(rest.len())
            }
            Begun::Broke(pipeline, broke) => {
                pipeline.abandon();
                Err(broke)
            }
        }
    }

    /// Passes a chunk on to the streamed request. `None` when there is none; else whether the
    /// request ended in it. What follows the request is kept.
    ///
    /// # Errors
    /// It is not a request any more: its connection is reset, for where it ends nobody knows, and
    /// what comes after it must not reach the node unread.
    pub(crate) fn feed_bulk(&mut self, chunk: &[u8]) -> Result<Option<bool>, Broke> {
        let Some(bulk) = &mut self.bulk else { return Ok(None) };
        let Scan { used, done } = bulk.rest.advance(chunk).inspect_err(|_| bulk.pipeline.abandon())?;
        bulk.pipeline.feed(&chunk[..used], done);
        if done {
            let decoder = bulk.rest.decoder();
            self.bulk = None;
            if used < chunk.len() {
                self.keep(&chunk[used..], decoder);
            }
        }
        Ok(Some(done))
    }

    /// The client sends no more: a request that it did not finish can't be finished. True when there was one
    /// on its way.
    pub(crate) fn abandon(&mut self) -> bool {
        let bulk = self.bulk.take();
        bulk.inspect(|bulk| bulk.pipeline.abandon()).is_some()
    }
}

//! What differs between the protocols that ringway frames itself: how a session's bytes become
//! requests. Windows, pipelines and merging are one mechanism for all.

use std::rc::Rc;

use super::{
    pipeline::Pipeline,
    pool::Bound,
    session::{Session, State},
};
use crate::protocol::{
    Protocol,
    resp::frame::{self, RequestDecoder},
};

/// What was found at the start of a session's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// So many bytes are done: a request that is on its way or answered, or nothing.
    Done(usize),
    /// A request that may only be dispatched when all before it is answered.
    DrainFirst,
    /// A request of at least so many bytes, not all of which are there.
    Partial(usize),
    /// No request: this line is the last that the session is told.
    Broken(Vec<u8>),
}

/// What became of an attempt to stream a large request.
pub(crate) enum Begun {
    /// It can't be streamed: it has to arrive whole first.
    No,
    /// It has to wait until the window is empty.
    Later,
    /// Its beginning was sent.
    Yes(Rc<Pipeline>, Rest),
    /// Its beginning was sent, and turned out to be no request.
    Broke(Rc<Pipeline>, Broke),
}

/// How the rest of a streamed request is told from what follows it.
pub(crate) enum Rest {
    /// An array of bulk strings, scanned as it passes.
    Resp(frame::Scanner),
}

/// A streamed request turned out to be none.
#[derive(Debug)]
pub(crate) struct Broke(pub(crate) String);

impl Rest {
    /// Takes in a chunk: how much of it belongs to the request, and whether that is its end.
    pub(crate) fn advance(&mut self, chunk: &[u8]) -> Result<frame::Scan, Broke> {
        match self {
            Rest::Resp(scanner) => {
                scanner.advance(chunk).map_err(|_| Broke(format!("ERR {}", frame::FrameError::BulkLength)))
            }
        }
    }

    /// A decoder for what follows.
    pub(crate) fn decoder(&self) -> Decoder {
        match self {
            Rest::Resp(_) => Decoder::of(Protocol::Redis),
        }
    }
}

/// One protocol's way from bytes to requests.
pub(crate) trait Dialect {
    /// Cuts one request from the start of the bytes, and dispatches it.
    fn cut(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Cut;

    /// Begins to stream a large request whose owner is known already.
    fn begin(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Begun;

    /// Forgets what it has read of a request.
    fn reset(&mut self);
}

/// The decoder of one protocol, with how far it has read.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// Redis.
    Resp(RequestDecoder),
}

impl Decoder {
    /// A decoder for this protocol.
    pub(crate) fn of(protocol: Protocol) -> Decoder {
        match protocol {
            Protocol::Redis | Protocol::Memcached | Protocol::Http => Decoder::Resp(RequestDecoder::default()),
        }
    }

    /// Another decoder of the same protocol, that has read nothing.
    pub(crate) fn fresh(&self) -> Decoder {
        match self {
            Decoder::Resp(_) => Decoder::of(Protocol::Redis),
        }
    }
}

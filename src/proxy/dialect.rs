//! What differs between the protocols that ringway frames itself: how a session's bytes become
//! requests. Windows, pipelines and merging are one mechanism for all.

use std::{cell::RefCell, rc::Rc};

use super::{
    pipeline::Pipeline,
    pool::Bound,
    session::{Session, State},
};
use crate::protocol::{
    ErrorReply, Protocol,
    memcache::{self, Awaits, Code},
    resp::{
        self,
        frame::{self, RequestDecoder, Scan},
    },
};

/// What was found at the start of a session's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// So many bytes are done: a request that is on its way or answered, or nothing.
    Done(usize),
    /// The same, and so many bytes behind them, which may not be there yet, are no request.
    Skip(usize, u64),
    /// A request that may only be dispatched when all before it is answered.
    DrainFirst,
    /// A request that may only be dispatched when it is its turn, or under another topology.
    Wait,
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
    /// It has to wait until fewer are streamed to its node.
    Full,
    /// Its beginning was sent.
    Yes(Rc<Pipeline>, Rest),
    /// Its beginning was sent, and turned out to be no request.
    Broke(Rc<Pipeline>, Broke),
}

/// How the rest of a streamed request is told from what follows it.
pub(crate) enum Rest {
    /// An array of bulk strings, scanned as it passes.
    Resp(frame::Scanner),
    /// So many bytes, the last two of which end the line behind a value; with those that came last.
    Value {
        /// Bytes to come.
        left: usize,
        /// The last two bytes so far.
        end: [u8; 2],
    },
}

/// A streamed request turned out to be none: this line is the last that its session is told.
#[derive(Debug)]
pub(crate) struct Broke(pub(crate) Vec<u8>);

impl Rest {
    /// Takes in a chunk: how much of it belongs to the request, and whether that is its end.
    pub(crate) fn advance(&mut self, chunk: &[u8]) -> Result<frame::Scan, Broke> {
        match self {
            Rest::Resp(scanner) => scanner.advance(chunk).map_err(|_| {
                let mut line = Vec::new();
                resp::write::error(&mut line, format!("ERR {}", frame::FrameError::BulkLength));
                Broke(line)
            }),
            Rest::Value { left, end } => {
                let used = chunk.len().min(*left);
                *left -= used;
                for byte in &chunk[used.saturating_sub(2)..used] {
                    *end = [end[1], *byte];
                }
                match (*left, &*end) {
                    (0, b"\r\n") => Ok(frame::Scan { used, done: true }),
                    (0, _) => Err(Broke(memcache::write::BAD_CHUNK.to_vec())),
                    _ => Ok(frame::Scan { used, done: false }),
                }
            }
        }
    }

    /// A decoder for what follows.
    pub(crate) fn decoder(&self) -> Decoder {
        match self {
            Rest::Resp(_) => Decoder::of(Protocol::Redis),
            Rest::Value { .. } => Decoder::of(Protocol::Memcached),
        }
    }
}

/// One protocol's way from bytes to requests.
pub(crate) trait Dialect {
    /// Cuts one request from the start of the bytes, and dispatches it.
    fn cut(&mut self, session: &Rc<Session>, state: &mut State, bound: &Rc<Bound>, bytes: &[u8]) -> Cut;

    /// Sends plain requests at the start of the bytes on, as long as one follows the other and there is
    /// room for them in the window; gives how many bytes are done.
    fn send_plain(
        &mut self,
        session: &Rc<Session>,
        state: &mut State,
        bound: &Rc<Bound>,
        bytes: &[u8],
        depth: usize,
    ) -> usize;

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
    /// memcached.
    Memcached(memcache::RequestDecoder),
}

impl Decoder {
    /// A decoder for this protocol.
    pub(crate) fn of(protocol: Protocol) -> Decoder {
        match protocol {
            Protocol::Memcached => Decoder::Memcached(memcache::RequestDecoder::default()),
            Protocol::Redis | Protocol::Http => Decoder::Resp(RequestDecoder::default()),
        }
    }

    /// Whether it is one of this protocol.
    pub(crate) fn speaks(&self, protocol: Protocol) -> bool {
        matches!(self, Decoder::Memcached(_)) == (protocol == Protocol::Memcached)
    }

    /// Another decoder of the same protocol, that has read nothing.
    fn fresh(&self) -> Decoder {
        match self {
            Decoder::Resp(_) => Decoder::of(Protocol::Redis),
            Decoder::Memcached(_) => Decoder::of(Protocol::Memcached),
        }
    }

    /// Whether it stopped in the middle of a request.
    #[inline]
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Decoder::Resp(decoder) => decoder.is_partial(),
            Decoder::Memcached(decoder) => decoder.is_partial(),
        }
    }
}

/// The decoder with which sessions read that are at the start of a request, which is nearly always: an idle
/// session needs none of its own then. One that stopped in the middle of a request knows something of its
/// session, and never comes back here.
#[derive(Debug)]
pub(crate) struct SharedDecoder(RefCell<Decoder>);

impl SharedDecoder {
    /// One for this protocol.
    pub(crate) fn of(protocol: Protocol) -> SharedDecoder {
        SharedDecoder(RefCell::new(Decoder::of(protocol)))
    }

    /// Lends it out for as long as `read` takes. With what that gives, the decoder itself, if `read` left it
    /// in the middle of a request: it belongs to that session now.
    #[inline]
    pub(crate) fn lend<T>(&self, read: impl FnOnce(&mut Decoder) -> T) -> (T, Option<Decoder>) {
        let decoder = &mut *self.0.borrow_mut();
        let read = read(decoder);
        if !decoder.is_partial() {
            return (read, None);
        }
        let fresh = decoder.fresh();
        (read, Some(std::mem::replace(decoder, fresh)))
    }
}

/// Where the replies of a node end.
#[derive(Debug)]
pub(crate) enum Replies {
    /// They describe themselves.
    Resp(frame::Scanner),
    /// They are read by what their request awaits.
    Memcached(memcache::ReplyScanner),
}

impl Replies {
    /// A scanner at the start of a connection.
    pub(crate) fn of(protocol: Protocol) -> Replies {
        match protocol {
            Protocol::Memcached => Replies::Memcached(memcache::ReplyScanner::default()),
            Protocol::Redis | Protocol::Http => Replies::Resp(frame::Scanner::default()),
        }
    }

    /// Reads on in a reply to what `awaits` says.
    #[inline(always)]
    pub(crate) fn advance(&mut self, bytes: &[u8], awaits: Awaits) -> Result<Scan, String> {
        match self {
            Replies::Resp(scanner) => scanner.advance(bytes).map_err(|e| e.to_string()),
            Replies::Memcached(scanner) => match scanner.advance(bytes, awaits) {
                Ok(scan) => Ok(Scan { used: scan.used, done: scan.done }),
                Err(error) => Err(error.to_string()),
            },
        }
    }

    /// The end of the reply to what `awaits` says at the start of these bytes, if it is there whole, no
    /// error, and one that its client wants to hear: what nearly all are. Nothing is read with that.
    #[inline(always)]
    pub(crate) fn plain(&self, bytes: &[u8], awaits: Awaits) -> Option<usize> {
        match self {
            Replies::Resp(scanner) => scanner.plain(bytes),
            Replies::Memcached(scanner) => scanner.plain(bytes, awaits),
        }
    }

    /// Whether the reply that ended is an error.
    #[inline]
    pub(crate) fn is_error(&self) -> bool {
        match self {
            Replies::Resp(scanner) => matches!(scanner.first(), b'-' | b'!'),
            Replies::Memcached(scanner) => scanner.is_error(),
        }
    }

    /// Whether the reply that ended with this piece says that nothing is there. One that arrives in several
    /// pieces is taken for a value, which is rare with so short a one.
    #[inline(always)]
    pub(crate) fn found_nothing(&self, piece: &[u8]) -> bool {
        // Most replies are values.
        (piece.len() <= b"$-1\r\n".len() || piece[0] == b'*') && self.holds_nothing(piece)
    }

    #[inline(never)]
    fn holds_nothing(&self, piece: &[u8]) -> bool {
        match (self, piece) {
            (Replies::Resp(_), b"$-1\r\n" | b"_\r\n") => true,
            (Replies::Resp(_), [b'*', ..]) => frame::holds_nothing(piece),
            (Replies::Memcached(_), piece) => matches!(piece, b"END\r\n" | b"EN\r\n"),
            _ => false,
        }
    }

    /// What an error reply that ended with this piece says of its node. One that arrives in several
    /// pieces is not looked at: the next one will do.
    pub(crate) fn said(&self, piece: &[u8]) -> Option<ErrorReply> {
        let protocol = match self {
            Replies::Resp(_) => Protocol::Redis,
            Replies::Memcached(_) => Protocol::Memcached,
        };
        ErrorReply::read(protocol, piece)
    }

    /// Whether the client of the reply that ended asked not to be told of it.
    #[inline]
    pub(crate) fn is_swallowed(&self, awaits: Awaits) -> bool {
        match self {
            Replies::Resp(_) => false,
            Replies::Memcached(scanner) => awaits.swallows(scanner.code()),
        }
    }

    /// Bytes that are known to follow.
    pub(crate) fn outstanding(&self) -> u64 {
        match self {
            Replies::Resp(scanner) => scanner.outstanding(),
            Replies::Memcached(scanner) => scanner.outstanding(),
        }
    }

    /// Whether bytes that begin with this one may be an answer to a request that the node has not read whole:
    /// memcached gives one when a value is too large for it, Redis an error when anything is.
    pub(crate) fn may_be_early(&self, first: u8) -> bool {
        match self {
            Replies::Resp(_) => first == b'-',
            Replies::Memcached(_) => true,
        }
    }

    /// Where such an answer ends, if the node reads no further behind it. memcached takes the rest of the
    /// request all the same.
    pub(crate) fn early_end(&self, early: &[u8]) -> Option<usize> {
        match self {
            Replies::Resp(_) => early.windows(2).position(|end| end == b"\r\n").map(|at| at + 2),
            Replies::Memcached(_) => None,
        }
    }

    /// Whether an error reply says that its request was no request to the node, which then closes.
    pub(crate) fn ends_connection(&self, reply: &[u8]) -> bool {
        matches!(self, Replies::Resp(_)) && reply.starts_with(b"-ERR Protocol error")
    }
}

/// Whether the client of a request wants to hear nothing of it, errors included.
#[inline]
pub(crate) fn is_silent(awaits: Awaits) -> bool {
    awaits.swallows(Code::Error)
}

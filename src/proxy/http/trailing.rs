//! Trailers over HTTP/1.1. hyper writes only those that the head has named, and when a body's trailers come
//! its head has gone. So the body leaves them here and ends, and the connection that hyper writes it to puts
//! them where they belong (RFC 9112, 7.1.2): between the last chunk and the empty line that ends the message.

use std::{
    io::{self, IoSlice},
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    task::{Poll, ready},
};

use ::http::HeaderMap;
use bytes::{Buf, Bytes};

use crate::protocol::http::fields;

/// What ends a chunked message without trailers.
const END: &[u8] = b"0\r\n\r\n";
/// The empty line of it, that trailers stand before.
const EMPTY_LINE: usize = 2;
/// hyper hands over no more pieces at once.
const PIECES_MAX: usize = 64;

/// Where a body leaves its trailers for its connection. `Send`, as an upgraded connection is.
#[derive(Debug, Default)]
pub(super) struct Trailing {
    is_there: AtomicBool,
    lines: Mutex<Bytes>,
}

impl Trailing {
    /// The message whose last frame these are ends now. What may not stand behind a body is left out.
    pub(super) fn leave(&self, trailers: &HeaderMap) {
        let mut lines = Vec::new();
        for (name, value) in trailers.iter().filter(|(name, _)| fields::may_trail(name)) {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(piece);
            }
        }
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines.into();
        self.is_there.store(true, Release);
    }

    fn take(&self) -> Option<Bytes> {
        if !self.is_there.load(Acquire) {
            return None;
        }
        self.is_there.store(false, Release);
        Some(std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What a connection does with them.
#[derive(Debug, Default)]
pub(super) struct Splice {
    /// Bytes of hyper's that go before them.
    before: usize,
    lines: Bytes,
}

impl Splice {
    /// Writes something of `bufs`, all that hyper has, by `write`, with trailers in their place, and says how
    /// much of `bufs` has gone.
    pub(super) fn put(
        &mut self,
        trailing: &Trailing,
        bufs: &[IoSlice<'_>],
        mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        // hyper writes right after a body has ended, before it begins another message, so that the end of
        // what it has is the end of that body. Where it is not, hyper has not chunked it, and there is no
        // place for trailers.
        if let Some(lines) = trailing.take()
            && ends(bufs)
        {
            self.before = bufs.iter().map(|buf| buf.len()).sum::<usize>() - EMPTY_LINE;
            self.lines = lines;
        }
        if self.lines.is_empty() {
            return write(bufs);
        }
        if self.before > 0 {
            let mut part = [IoSlice::new(&[]); PIECES_MAX];
            let count = first(bufs, self.before, &mut part);
            let written = ready!(write(&part[..count]))?;
            self.before -= written;
            return Poll::Ready(Ok(written));
        }
        while !self.lines.is_empty() {
            let written = ready!(write(&[IoSlice::new(&self.lines)]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.lines.advance(written);
        }
        write(bufs)
    }
}

/// Whether these bytes end with the end of a chunked message. What stands before it, if it has not gone, is
/// another line: a head may end in `length: 0`.
fn ends(bufs: &[IoSlice<'_>]) -> bool {
    let mut last = bufs.iter().rev().flat_map(|buf| buf.iter().rev().copied());
    last.by_ref().take(END.len()).eq(END.iter().rev().copied()) && matches!(last.next(), None | Some(b'\n'))
}

/// The first bytes of `bufs`, `count` at most, as pieces in `part`: how many pieces.
fn first<'a>(bufs: &'a [IoSlice<'_>], count: usize, part: &mut [IoSlice<'a>]) -> usize {
    let (mut left, mut pieces) = (count, 0);
    for (buf, piece) in bufs.iter().zip(part) {
        if left == 0 {
            break;
        }
        let some = &buf[..buf.len().min(left)];
        left -= some.len();
        *piece = IoSlice::new(some);
        pieces += 1;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderName, HeaderValue};

    use super::*;

    fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        fields.iter().map(pair).collect()
    }

    /// Writes pieces as hyper does, again and again until all have gone, over a connection that takes `most`
    /// bytes at a time and is full every other time; what the connection has had.
    fn written(splice: &mut Splice, trailing: &Trailing, pieces: &[&[u8]], most: usize) -> String {
        let (mut out, mut is_full) = (Vec::new(), false);
        let mut left: Vec<&[u8]> = pieces.to_vec();
        while !left.is_empty() {
            let bufs: Vec<IoSlice<'_>> = left.iter().map(|piece| IoSlice::new(piece)).collect();
            let put = splice.put(trailing, &bufs, |bufs| {
                is_full = !is_full;
                if is_full {
                    return Poll::Pending;
                }
                let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
                let some = &all[..all.len().min(most)];
                out.extend_from_slice(some);
                Poll::Ready(Ok(some.len()))
            });
            let Poll::Ready(put) = put else { continue };
            let mut gone = put.expect("it takes bytes");
            while let Some(first) = left.first_mut() {
                let some = gone.min(first.len());
                *first = &first[some..];
                gone -= some;
                if !first.is_empty() {
                    break;
                }
                left.remove(0);
            }
        }
        String::from_utf8(out).expect("text")
    }

    /// However hyper divides a message, and however little a connection takes at a time, its trailers stand
    /// before the empty line at its end, once, and the next message is as it was.
    #[test]
    fn trailers_stand_before_the_end() {
        let message = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let wanted = message.replace("\r\n0\r\n\r\n", "\r\n0\r\nx-sum: 7\r\nx-sum: 8\r\nx-b: \r\n\r\n");
        let left = trailers(&[("x-sum", "7"), ("x-sum", "8"), ("content-length", "3"), ("x-b", "")]);
        for most in 1..=message.len() + 40 {
            for cut in 0..=message.len() {
                let (head, rest) = message.as_bytes().split_at(cut);
                let (mut splice, trailing) = (Splice::default(), Trailing::default());
                // What has gone before the trailers came is gone; what waits is the whole rest.
                let early =
                    written(&mut splice, &trailing, &[&head[..cut.min(message.len() - END.len())]], most);
                trailing.leave(&left);
                let late = [&head[early.len()..], &b""[..], rest];
                let out = early + &written(&mut splice, &trailing, &late, most);
                assert_eq!(out, wanted, "cut at {cut}, {most} at a time");
                let next = written(&mut splice, &trailing, &[message.as_bytes()], most);
                assert_eq!(next, message, "the next message");
            }
        }
    }

    /// A message that is not chunked has no place for them, and neither has the one behind it.
    #[test]
    fn no_place_no_trailers() {
        let (mut splice, trailing) = (Splice::default(), Trailing::default());
        for message in ["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "content-length: 0\r\n\r\n", ""] {
            trailing.leave(&trailers(&[("x-sum", "7")]));
            let pieces: &[&[u8]] = if message.is_empty() { &[b"x"] } else { &[message.as_bytes()] };
            let out = written(&mut splice, &trailing, pieces, 5);
            assert_eq!(out, if message.is_empty() { "x" } else { message });
            assert_eq!(written(&mut splice, &trailing, &[END], 5), "0\r\n\r\n");
        }
        // Nothing that may stand there is as good as nothing.
        trailing.leave(&trailers(&[("host", "h")]));
        assert_eq!(written(&mut splice, &trailing, &[END], 5), "0\r\n\r\n");
    }
}

//! A connection as hyper reads and writes it: what passes is counted on the way.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::trailing::{Splice, Trailing};
use crate::{net::Stream, protocol::http::HeadScan, proxy::PoolHandle, topology::Node};

/// How a client's connection moves, for who looks after its timeouts. One thread writes.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Bytes read since it was accepted.
    read: AtomicU64,
    /// Bytes written.
    written: AtomicU64,
    /// Over HTTP/2, beginnings and ends of heads, added up.
    heads: AtomicU64,
    /// The client takes nothing more for now.
    is_blocked: AtomicBool,
    /// Trailers of a reply, on their way to it.
    pub(super) trailing: Arc<Trailing>,
}

impl Activity {
    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Bytes that passed, in both directions.
    pub(super) fn passed(&self) -> u64 {
        self.read().wrapping_add(self.written())
    }

    /// Over HTTP/2, how many heads have begun and ended, added up: it is odd within one.
    pub(super) fn heads(&self) -> u64 {
        self.heads.load(Relaxed)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Relaxed)
    }
}

/// What passes over a node's connection, and how it is to end. One thread writes.
#[derive(Debug, Default)]
pub(super) struct Passing {
    /// Bytes read since it was made.
    read: AtomicU64,
    resets: AtomicBool,
}

impl Passing {
    pub(super) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// It is reset when it closes.
    pub(super) fn reset_on_close(&self) {
        self.resets.store(true, Relaxed);
    }
}

/// Who is at the other end, and where that is counted. `Send`, as an upgraded connection is.
pub(super) enum Meter {
    Client {
        pool: Arc<PoolHandle>,
        worker: usize,
        activity: Arc<Activity>,
    },
    /// With trailers of a request, on their way to it.
    Node {
        node: Arc<Node>,
        worker: usize,
        passing: Arc<Passing>,
        trailing: Arc<Trailing>,
    },
}

impl Meter {
    fn read(&self, n: usize) {
        let n = n as u64;
        match self {
            Meter::Client { pool, worker, activity } => {
                pool.blocks[*worker].bytes_in.add(n);
                activity.read.store(activity.read() + n, Relaxed);
            }
            Meter::Node { node, worker, passing, .. } => {
                node.blocks[*worker].bytes_in.add(n);
                passing.read.store(passing.read() + n, Relaxed);
            }
        }
    }

    fn written(&self, result: &Poll<io::Result<usize>>) {
        let n = match result {
            Poll::Ready(Ok(n)) => *n as u64,
            _ => 0,
        };
        match self {
            Meter::Client { pool, worker, activity } => {
                pool.blocks[*worker].bytes_out.add(n);
                activity.written.store(activity.written() + n, Relaxed);
                activity.is_blocked.store(result.is_pending(), Relaxed);
            }
            Meter::Node { node, worker, .. } => node.blocks[*worker].bytes_out.add(n),
        }
    }

    fn trailing(&self) -> &Trailing {
        match self {
            Meter::Client { activity, .. } => &activity.trailing,
            Meter::Node { trailing, .. } => trailing,
        }
    }
}

/// The connection.
pub(super) struct Wire {
    stream: Stream,
    /// What was read before hyper got it.
    ahead: Vec<u8>,
    /// A client's heads, where it speaks HTTP/2.
    heads: Option<HeadScan>,
    meter: Meter,
    splice: Splice,
}

impl Wire {
    pub(super) fn new(stream: Stream, meter: Meter) -> Wire {
        Wire { stream, ahead: Vec::new(), heads: None, meter, splice: Splice::default() }
    }

    /// Reads until `enough` says so of what came, or the connection ends; hyper reads it again.
    pub(super) async fn peek(&mut self, enough: impl Fn(&[u8]) -> bool) -> io::Result<&[u8]> {
        let mut seen = Vec::new();
        while !enough(&seen) {
            if tokio::io::AsyncReadExt::read_buf(self, &mut seen).await? == 0 {
                break;
            }
        }
        self.ahead = seen;
        Ok(&self.ahead)
    }

    /// Looks for the heads of HTTP/2 in all that comes behind so many bytes of what was read ahead.
    pub(super) fn watch_heads(&mut self, behind: usize) {
        self.heads = Some(HeadScan::default());
        let ahead = std::mem::take(&mut self.ahead);
        self.note_heads(&ahead[behind..]);
        self.ahead = ahead;
    }

    fn note_heads(&mut self, bytes: &[u8]) {
        if let (Some(heads), Meter::Client { activity, .. }) = (&mut self.heads, &self.meter) {
            activity.heads.store(heads.feed(bytes), Relaxed);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Meter::Node { passing, .. } = &self.meter
            && passing.resets.load(Relaxed)
        {
            self.stream.reset_on_close();
        }
    }
}

/// Pieces that are no longer together are written in one.
const JOINED_MAX: usize = 1024;

/// Copies short pieces together: for the kernel one piece is cheaper than a list of them.
fn join<'a>(bufs: &[IoSlice<'_>], joined: &'a mut [u8; JOINED_MAX]) -> Option<&'a [u8]> {
    let mut len = 0;
    for buf in bufs {
        joined.get_mut(len..len + buf.len())?.copy_from_slice(buf);
        len += buf.len();
    }
    Some(&joined[..len])
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if !wire.ahead.is_empty() {
            let n = wire.ahead.len().min(buf.remaining());
            buf.put_slice(&wire.ahead[..n]);
            wire.ahead.drain(..n);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut wire.stream).poll_read(cx, buf);
        let n = buf.filled().len() - before;
        if n > 0 {
            wire.meter.read(n);
            wire.note_heads(&buf.filled()[before..]);
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Wire { stream, meter, splice, .. } = self.get_mut();
        splice.put(meter.trailing(), bufs, |bufs| {
            let result = match bufs {
                [only] => Pin::new(&mut *stream).poll_write(cx, only),
                _ => match join(bufs, &mut [0; JOINED_MAX]) {
                    Some(bytes) => Pin::new(&mut *stream).poll_write(cx, bytes),
                    None => Pin::new(&mut *stream).poll_write_vectored(cx, bufs),
                },
            };
            meter.written(&result);
            result
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

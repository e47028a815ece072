//! One connection of the load: what waits to be sent, and which requests wait for their replies, in
//! their order.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{self, SocketAddr},
    time::{Duration, Instant},
};

use mio::net::TcpStream;

use super::{
    Failure,
    work::{Request, Work},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A longer buffer of requests is given back when it has been sent.
const KEPT_BYTES: usize = 64 << 10;

pub(super) struct Session {
    pub(super) stream: TcpStream,
    out: Vec<u8>,
    written: usize,
    waiting: VecDeque<Waiting>,
    /// Bytes of the first waiting request's reply that were read and were right.
    right: usize,
    /// The head of that reply, as far as it was read; nothing when it is over.
    head: Vec<u8>,
    /// Whether that head is over.
    in_body: bool,
}

/// No head is longer.
const HEAD_MAX: usize = 16 << 10;

/// A request that has no reply yet.
#[derive(Clone, Copy)]
struct Waiting {
    request: Request,
    /// When it was meant to be sent.
    due: Instant,
}

impl Session {
    pub(super) fn connect(address: SocketAddr) -> Result<Session, Failure> {
        let stream = net::TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
            .map_err(|error| format!("connecting to {address}: {error}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream);
        Ok(Session {
            stream,
            out: Vec::new(),
            written: 0,
            waiting: VecDeque::new(),
            right: 0,
            head: Vec::new(),
            in_body: false,
        })
    }

    /// Requests without a reply.
    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a request to what will be sent.
    pub(super) fn push(&mut self, work: &Work, request: Request, due: Instant) {
        work.encode(request, &mut self.out);
        self.waiting.push_back(Waiting { request, due });
    }

    /// Sends what the socket takes; the rest goes when it is writable again.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("sending: {error}").into()),
            }
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > KEPT_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }

    /// Reads once. `done` is told of each request whose reply is complete: when it was due, and when
    /// the reply was read. Whether there may be more to read.
    pub(super) fn read(
        &mut self,
        work: &Work,
        buffers: &mut Buffers,
        mut done: impl FnMut(Instant, Instant),
    ) -> Result<bool, Failure> {
        let n = match self.stream.read(&mut buffers.read) {
            Ok(0) => return Err("the connection was closed".into()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(format!("reading: {error}").into()),
        };
        let now = Instant::now();
        let mut bytes = &buffers.read[..n];
        while !bytes.is_empty() {
            let Some(&first) = self.waiting.front() else {
                return Err(format!("{} came unasked", shown(bytes)).into());
            };
            if work.has_heads() && !self.in_body {
                bytes = self.read_head(work, bytes)?;
                continue;
            }
            let reply = work.reply(first.request, &mut buffers.scratch);
            let Some(used) = matching(&reply, self.right, bytes) else {
                let (asked, after) = (work.describe(first.request), self.right);
                let wanted = shown(reply[0]);
                return Err(
                    format!("{asked}: {wanted} was due, after {after} bytes {} came", shown(bytes)).into()
                );
            };
            self.right += used;
            bytes = &bytes[used..];
            if self.right == reply.iter().map(|piece| piece.len()).sum::<usize>() {
                (self.right, self.in_body) = (0, false);
                self.waiting.pop_front();
                done(first.due, now);
            }
        }
        Ok(n == buffers.read.len())
    }
}

impl Session {
    /// Reads on in a head; what stands behind it.
    fn read_head<'a>(&mut self, work: &Work, bytes: &'a [u8]) -> Result<&'a [u8], Failure> {
        const END: &[u8] = b"\r\n\r\n";
        let had = self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_MAX)]);
        let from = had.saturating_sub(END.len() - 1);
        let Some(at) = self.head[from..].windows(END.len()).position(|window| window == END) else {
            return if self.head.len() < HEAD_MAX { Ok(&[]) } else { Err("a head without an end".into()) };
        };
        let end = from + at + END.len();
        work.check_head(&self.head[..end])?;
        self.head.clear();
        self.in_body = true;
        Ok(&bytes[end - had..])
    }
}

/// What all sessions of a thread share.
pub(super) struct Buffers {
    read: Vec<u8>,
    scratch: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Buffers {
        Buffers { read: vec![0; 256 << 10], scratch: Vec::new() }
    }
}

/// How many of the bytes go on with a reply of which `skip` bytes are there; none if one of them
/// differs.
fn matching(reply: &[&[u8]], mut skip: usize, mut bytes: &[u8]) -> Option<usize> {
    let all = bytes.len();
    for piece in reply {
        let Some(due) = piece.get(skip..) else {
            skip -= piece.len();
            continue;
        };
        skip = 0;
        let n = due.len().min(bytes.len());
        if due[..n] != bytes[..n] {
            return None;
        }
        bytes = &bytes[n..];
    }
    Some(all - bytes.len())
}

/// The beginning of some bytes, for messages.
fn shown(bytes: &[u8]) -> String {
    let rest = if bytes.len() > 80 { "..." } else { "" };
    format!("\"{}{rest}\"", bytes[..bytes.len().min(80)].escape_ascii())
}

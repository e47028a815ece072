//! A plain HTTP/1.1 client that shows what it gets, and a node that answers when it is told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use super::{SOON, server::loopback};

/// A connection that is kept open.
pub(crate) struct Browser {
    stream: TcpStream,
    ahead: Vec<u8>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// The head, as it came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Page {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of the first field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Browser {
    /// Connects to `ip:port`.
    pub(crate) fn connect(address: &str) -> Browser {
        Browser::over(TcpStream::connect(address).expect("somebody listens there"))
    }

    /// The same from an address of this machine.
    pub(crate) fn connect_from(ip: &str, address: &str) -> Browser {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket can be made");
        let parse = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
        socket.bind(&parse(&format!("{ip}:0"))).expect("it is an address of this machine");
        socket.connect(&parse(address)).expect("somebody listens there");
        Browser::over(socket.into())
    }

    fn over(stream: TcpStream) -> Browser {
        stream.set_nodelay(true).expect("sockets take options");
        stream.set_read_timeout(Some(SOON)).expect("sockets take timeouts");
        Browser { stream, ahead: Vec::new() }
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the other side reads");
    }

    /// `GET path`.
    pub(crate) fn get(&mut self, path: &str) -> Page {
        self.ask("GET", path, "", b"").expect("an answer")
    }

    /// A request with further lines in its head, each ended, and a body; `None` when the connection
    /// ended before a whole reply.
    pub(crate) fn ask(&mut self, method: &str, path: &str, lines: &str, body: &[u8]) -> Option<Page> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: web.test\r\n{lines}").into_bytes();
        if !body.is_empty() {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.stream.write_all(&request).ok()?;
        self.page(method == "HEAD")
    }

    /// The next reply.
    pub(crate) fn page(&mut self, is_bare: bool) -> Option<Page> {
        loop {
            let end = self.until(|bytes| bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4))?;
            let head = String::from_utf8_lossy(&self.ahead.drain(..end).collect::<Vec<_>>()).into_owned();
            let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
            let mut page = Page { status, head, body: Vec::new() };
            if status == 100 {
                continue;
            }
            let is_bare = is_bare || status == 101 || status == 204 || status == 304;
            if let Some(length) = page.field("content-length").filter(|_| !is_bare) {
                let length = length.parse().expect("a length");
                self.until(|bytes| (bytes.len() >= length).then_some(length))?;
                page.body = self.ahead.drain(..length).collect();
            } else if page.field("transfer-encoding").is_some() && !is_bare {
                page.body = self.chunks()?;
            } else if !is_bare {
                self.stream.read_to_end(&mut self.ahead).ok()?;
                page.body = std::mem::take(&mut self.ahead);
            }
            return Some(page);
        }
    }

    /// The data of a chunked body; its trailers, if there are any, stand behind a blank line.
    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16).expect("a size");
            if size == 0 {
                break;
            }
            self.until(|bytes| (bytes.len() >= size + 2).then_some(0))?;
            body.extend(self.ahead.drain(..size));
            self.ahead.drain(..2);
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(body);
            }
            body.extend_from_slice(format!("\n{line}").as_bytes());
        }
    }

    fn line(&mut self) -> Option<String> {
        let end = self.until(|bytes| bytes.windows(2).position(|w| w == b"\r\n"))?;
        let line = self.ahead.drain(..end + 2).take(end).collect();
        Some(String::from_utf8(line).expect("text"))
    }

    fn until(&mut self, found: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        loop {
            if let Some(at) = found(&self.ahead) {
                return Some(at);
            }
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(n @ 1..) => self.ahead.extend_from_slice(&chunk[..n]),
                Ok(_) => return None,
                Err(error) => {
                    assert!(!matches!(error.kind(), std::io::ErrorKind::WouldBlock), "no answer in time");
                    return None;
                }
            }
        }
    }

    /// What comes until the other side closes.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        // A reset is an end like another.
        let _ = self.stream.read_to_end(&mut self.ahead);
        self.ahead
    }

    /// Exactly so many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        self.until(|bytes| (bytes.len() >= count).then_some(count)).expect("so many bytes");
        self.ahead.drain(..count).collect()
    }
}

/// How a [`Stage`] answers: it gets the bytes of each request's head, and the connection.
type Act = dyn Fn(&[u8], &mut Actor) + Send + Sync;

/// A node's side of a connection. What came with the head is read first.
pub(crate) struct Actor {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Actor {
    /// Closes both directions.
    pub(crate) fn close(&self) {
        // Somebody else may have been faster.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl Read for Actor {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        if self.ahead.is_empty() {
            return self.stream.read(bytes);
        }
        let count = self.ahead.len().min(bytes.len());
        bytes[..count].copy_from_slice(&self.ahead[..count]);
        self.ahead.drain(..count);
        Ok(count)
    }
}

impl Write for Actor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// A node that does as it is told with each request whose head is whole, one after the other on each
/// connection.
pub(crate) struct Stage {
    address: String,
    seen: Arc<AtomicUsize>,
    is_well: Arc<AtomicBool>,
}

impl Stage {
    /// Starts one.
    pub(crate) fn start(act: impl Fn(&[u8], &mut Actor) + Send + Sync + 'static) -> Stage {
        let listener = TcpListener::bind((loopback().as_str(), 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (act, seen): (Arc<Act>, _) = (Arc::new(act), Arc::new(AtomicUsize::new(0)));
        let is_well = Arc::new(AtomicBool::new(true));
        let (counter, well) = (seen.clone(), is_well.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (act, counter, well) = (act.clone(), counter.clone(), well.clone());
                thread::spawn(move || perform(stream, &*act, &counter, &well));
            }
        });
        Stage { address, seen, is_well }
    }

    /// From now on it answers probes so.
    pub(crate) fn is_well(&self, is_well: bool) {
        self.is_well.store(is_well, Relaxed);
    }

    /// `ip:port`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Requests that it was sent, probes left aside.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Relaxed)
    }
}

fn perform(stream: TcpStream, act: &Act, seen: &AtomicUsize, is_well: &AtomicBool) {
    let mut actor = Actor { stream, ahead: Vec::new() };
    loop {
        while let Some(at) = actor.ahead.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = actor.ahead.drain(..at + 4).collect();
            if head.windows(19).any(|w| w.eq_ignore_ascii_case(b"user-agent: ringway")) {
                let status = if is_well.load(Relaxed) { "200 OK" } else { "503 Service Unavailable" };
                let _ = write!(actor, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            seen.fetch_add(1, Relaxed);
            act(&head, &mut actor);
        }
        let mut chunk = [0; 4096];
        match actor.stream.read(&mut chunk) {
            Ok(n @ 1..) => actor.ahead.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
}

/// A gate that many wait at until it opens.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody through, from now on.
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open, within reason.
    pub(crate) fn pass(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_timeout_while(open, SOON, |open| !*open));
    }
}

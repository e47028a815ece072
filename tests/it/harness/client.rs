//! A blocking RESP client that shows the exact bytes of each reply.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::Duration,
};

/// A client never waits longer than this for a reply.
const TIMEOUT: Duration = Duration::from_secs(30);

/// No reply of a test is longer.
const BULK_MAX: i64 = 1 << 30;

trait Socket: Read + Write + Send {
    fn again(&self) -> io::Result<Box<dyn Socket>>;
    fn timeout(&self, limit: Duration) -> io::Result<()>;
    fn finish(&self) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn again(&self) -> io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
    fn timeout(&self, limit: Duration) -> io::Result<()> {
        self.set_nodelay(true)?;
        self.set_write_timeout(Some(limit))?;
        self.set_read_timeout(Some(limit))
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Socket for UnixStream {
    fn again(&self) -> io::Result<Box<dyn Socket>> {
        Ok(Box::new(self.try_clone()?))
    }
    fn timeout(&self, limit: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(limit))?;
        self.set_read_timeout(Some(limit))
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// One connection.
pub(crate) struct Client {
    reader: BufReader<Box<dyn Socket>>,
    writer: Box<dyn Socket>,
}

impl Client {
    /// Connects to `ip:port` or `unix:/path`.
    pub(crate) fn connect(address: &str) -> Client {
        Client::try_connect(address).unwrap_or_else(|e| panic!("can't connect to {address}: {e}"))
    }

    /// Connects, or says why not.
    pub(crate) fn try_connect(address: &str) -> io::Result<Client> {
        let socket: Box<dyn Socket> = match address.strip_prefix("unix:") {
            Some(path) => Box::new(UnixStream::connect(path)?),
            None => Box::new(TcpStream::connect(address)?),
        };
        socket.timeout(TIMEOUT)?;
        Ok(Client { reader: BufReader::with_capacity(1 << 16, socket.again()?), writer: socket })
    }

    /// Waits at most this long from now on.
    pub(crate) fn set_timeout(&self, limit: Duration) {
        self.writer.timeout(limit).expect("the socket takes a timeout");
    }

    /// Writes bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.writer.write_all(bytes.as_ref())
    }

    /// A second handle that only writes, for another thread.
    pub(crate) fn sender(&self) -> impl Write + Send + use<> {
        self.writer.again().expect("the socket has a second handle")
    }

    /// Says that no more requests come; replies may.
    pub(crate) fn finish(&self) {
        self.writer.finish().expect("the socket can be shut down");
    }

    /// The exact bytes of one reply.
    pub(crate) fn reply(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        self.read_frame(&mut reply)?;
        Ok(reply)
    }

    fn read_frame(&mut self, reply: &mut Vec<u8>) -> io::Result<()> {
        let start = reply.len();
        self.reader.read_until(b'\n', reply)?;
        let line = &reply[start..];
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed after {:?}", text(line)),
            ));
        }
        let count: i64 = text(&line[1..line.len() - 2]).parse().unwrap_or(-1);
        match line[0] {
            b'$' | b'=' | b'!' if count > BULK_MAX => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("an impossible length: {:?}", text(line)),
            )),
            b'$' | b'=' | b'!' if count >= 0 => {
                let (body, length) = (reply.len(), count as usize);
                reply.resize(body + length + 2, 0);
                self.reader.read_exact(&mut reply[body..])
            }
            b'*' | b'~' | b'>' if count > 0 => self.read_frames(count, reply),
            b'%' => self.read_frames(2 * count, reply),
            b'|' => self.read_frames(2 * count + 1, reply),
            b'+' | b'-' | b':' | b'$' | b'*' | b'~' | b'>' | b'_' | b'#' | b',' | b'(' => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {:?}", text(line)))),
        }
    }

    fn read_frames(&mut self, count: i64, reply: &mut Vec<u8>) -> io::Result<()> {
        (0..count).try_for_each(|_| self.read_frame(reply))
    }

    /// Sends one command and gives the exact bytes of its reply.
    pub(crate) fn try_cmd(&mut self, args: &[&str]) -> io::Result<Vec<u8>> {
        self.send(encode(args))?;
        self.reply()
    }

    /// Sends one command and gives its reply as text, line ends included.
    pub(crate) fn cmd(&mut self, args: &[&str]) -> String {
        let reply = self.try_cmd(args).unwrap_or_else(|e| panic!("{args:?}: {e}"));
        text(&reply)
    }

    /// Sends one command and gives the texts of its reply, one for each element, nested ones flat.
    pub(crate) fn list(&mut self, args: &[&str]) -> Vec<String> {
        let reply = self.cmd(args);
        assert!(!reply.starts_with('-'), "{args:?}: {reply}");
        elements(&reply)
    }

    /// What the other side still says until it closes.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => Ok(text(&rest)),
            // A close with unread input is a reset; what came before it counts.
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(text(&rest)),
            Err(e) => Err(e),
        }
    }
}

/// Bytes as text, for messages and comparisons.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The leaves of a reply of lines without line ends in its values.
pub(crate) fn elements(reply: &str) -> Vec<String> {
    let mut lines = reply.split("\r\n");
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        match line.as_bytes().first() {
            Some(b'$') if line != "$-1" => found.extend(lines.next().map(str::to_owned)),
            Some(b'$' | b'_') => found.push("(nil)".to_owned()),
            Some(b'*' | b'%' | b'~') | None => {}
            Some(_) => found.push(line[1..].to_owned()),
        }
    }
    found
}

/// A command as clients send it.
pub(crate) fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

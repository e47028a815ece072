//! Streams over TCP or a unix socket behind one type, and how they are dialled and accepted.

use std::{
    fs::Permissions,
    io::{self, IoSlice},
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix},
};

use super::{ListenAddress, Target};

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

/// The half of a connection that is read.
#[derive(Debug)]
pub enum ReadHalf {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over a unix socket.
    Unix(unix::OwnedReadHalf),
}

/// The half of a connection that is written.
#[derive(Debug)]
pub enum WriteHalf {
    /// Over TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// Over a unix socket.
    Unix(unix::OwnedWriteHalf),
}

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// Over TCP; whether whoever started the process has the socket, too.
    Tcp(TcpListener, bool),
    /// Over a unix socket; its file is removed when the listener is dropped, if it is ours.
    Unix(UnixListener, Option<SocketFile>),
}

/// A listening socket that nobody accepts on through this end.
#[derive(Debug)]
pub struct Spare(OwnedFd);

impl Spare {
    /// A listener on it: clients that wait there go to whoever accepts first.
    ///
    /// # Errors
    /// The operating system's: out of descriptors.
    pub fn listener(&self) -> io::Result<Listener> {
        let listener = std::net::TcpListener::from(self.0.try_clone()?);
        TcpListener::from_std(listener).map(|listener| Listener::Tcp(listener, false))
    }
}

/// A socket file that goes away with its owner.
#[derive(Debug)]
pub struct SocketFile(std::path::PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing to be done about a file that is gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Whether a failure to connect is this process's own, and says nothing of the other side: no
/// descriptors, no local ports, no memory.
pub fn is_ours(error: &io::Error) -> bool {
    const OURS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    let is_of_ours = |errno: Errno| OURS.contains(&errno);
    error.kind() == io::ErrorKind::AddrNotAvailable || Errno::from_io_error(error).is_some_and(is_of_ours)
}

/// Idle time before the first keepalive probe of a connection to a node.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The same for a client, the time between two probes, and how many go unanswered before it is gone: what
/// redis-server has.
const CLIENT_KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(300), Duration::from_secs(100), 3);

/// Dials a node: TCP_NODELAY, keepalive, and TCP_USER_TIMEOUT so that a path that drops packets
/// is noticed by the kernel too.
///
/// # Errors
/// The operating system's.
pub async fn dial(target: &Target, user_timeout: Duration) -> io::Result<Stream> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(user_timeout))?;
            Ok(Stream::Tcp(stream))
        }
        Target::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}

impl Stream {
    /// Whether a read that follows another one may bring something; if not, the task is woken when it
    /// may. Cheaper than a read in vain.
    #[inline]
    pub fn poll_more(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What is wrong with the connection is told by the next read.
        match self {
            Stream::Tcp(s) => s.poll_read_ready(cx).map(drop),
            Stream::Unix(s) => s.poll_read_ready(cx).map(drop),
        }
    }

    /// Splits into halves that may live apart.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Tcp(r), WriteHalf::Tcp(w))
            }
            Stream::Unix(s) => {
                let (r, w) = s.into_split();
                (ReadHalf::Unix(r), WriteHalf::Unix(w))
            }
        }
    }

    /// Makes the coming close a reset: what the kernel still holds is thrown away, not sent later.
    pub fn reset_on_close(&self) {
        if let Stream::Tcp(stream) = self {
            // A socket that can't be told is closed the ordinary way.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Detaches the stream from its runtime, to be handed to another one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn into_std(self) -> io::Result<StdStream> {
        match self {
            Stream::Tcp(s) => s.into_std().map(StdStream::Tcp),
            Stream::Unix(s) => s.into_std().map(StdStream::Unix),
        }
    }
}

/// A connection that belongs to no runtime.
#[derive(Debug)]
pub enum StdStream {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl StdStream {
    /// Attaches the stream to the runtime of the caller.
    ///
    /// # Errors
    /// The operating system's.
    pub fn attach(self) -> io::Result<Stream> {
        match self {
            StdStream::Tcp(s) => TcpStream::from_std(s).map(Stream::Tcp),
            StdStream::Unix(s) => UnixStream::from_std(s).map(Stream::Unix),
        }
    }

    /// Our end; none for a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            StdStream::Tcp(s) => s.local_addr().ok(),
            StdStream::Unix(_) => None,
        }
    }

    /// The peer; none for a unix socket, or when it is gone already.
    pub fn peer(&self) -> Option<SocketAddr> {
        match self {
            StdStream::Tcp(s) => s.peer_addr().ok(),
            StdStream::Unix(_) => None,
        }
    }
}

impl ReadHalf {
    /// As [`Stream::poll_more`].
    #[inline]
    pub fn poll_more(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            ReadHalf::Tcp(half) => half.as_ref().poll_read_ready(cx).map(drop),
            ReadHalf::Unix(half) => half.as_ref().poll_read_ready(cx).map(drop),
        }
    }
}

impl WriteHalf {
    /// Gives the half up and makes the coming close, that of the other half, a reset: what the
    /// kernel still holds is thrown away, not sent later.
    pub fn reset_on_close(self) {
        if let WriteHalf::Tcp(half) = self {
            // A socket that can't be told is closed the ordinary way.
            let _ = SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
            // Dropped, it would first end the stream in good order.
            half.forget();
        }
    }
}

/// As much as a socket nearly always takes at once.
const SMALL_WRITE: usize = 16 * 1024;

/// Writes a few bytes without asking the runtime first to wake the task when it can. None when the
/// socket is full, and for more bytes: half of them would be written, and that tried again in vain.
#[inline]
fn at_once(buf: &[u8], write: impl FnOnce(&[u8]) -> io::Result<usize>) -> Option<Poll<io::Result<usize>>> {
    if buf.len() > SMALL_WRITE {
        return None;
    }
    match write(buf) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        written => Some(Poll::Ready(written)),
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            WriteHalf::Tcp(half) => {
                at_once(buf, |b| half.try_write(b)).unwrap_or_else(|| Pin::new(half).poll_write(cx, buf))
            }
            WriteHalf::Unix(half) => {
                at_once(buf, |b| half.try_write(b)).unwrap_or_else(|| Pin::new(half).poll_write(cx, buf))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            WriteHalf::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Stream::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => {
                at_once(buf, |b| s.try_write(b)).unwrap_or_else(|| Pin::new(s).poll_write(cx, buf))
            }
            Stream::Unix(s) => {
                at_once(buf, |b| s.try_write(b)).unwrap_or_else(|| Pin::new(s).poll_write(cx, buf))
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Stream::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Stream::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

impl Listener {
    /// Listens. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// The operating system's: a taken port, a missing directory, no permission.
    pub fn bind(address: &ListenAddress) -> io::Result<Listener> {
        match address {
            ListenAddress::Tcp(address) => {
                let domain = socket2::Domain::for_address(*address);
                let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                socket.set_nonblocking(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                Listener::over_tcp(socket.into(), false)
            }
            ListenAddress::Unix(path) => {
                let abandoned = std::os::unix::net::UnixStream::connect(path)
                    .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
                if abandoned {
                    std::fs::remove_file(path)?;
                }
                UnixListener::bind(path).map(|l| Listener::Unix(l, Some(SocketFile(path.clone()))))
            }
        }
    }

    /// On a socket that listens and does not block; whether another process has it, too.
    pub(super) fn over_tcp(socket: std::net::TcpListener, is_handed: bool) -> io::Result<Listener> {
        let (time, interval, retries) = CLIENT_KEEPALIVE;
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
        // Connections that it accepts take it over.
        SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        TcpListener::from_std(socket).map(|listener| Listener::Tcp(listener, is_handed))
    }

    /// On a unix socket of another process that listens and does not block.
    pub(super) fn over_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        UnixListener::from_std(socket).map(|listener| Listener::Unix(listener, None))
    }

    /// Whether another process has the socket, too: who waits in it when this one closes is not lost.
    pub fn is_handed(&self) -> bool {
        match self {
            Listener::Tcp(_, is_handed) => *is_handed,
            Listener::Unix(_, file) => file.is_none(),
        }
    }

    /// Gives a unix socket's file this mode: whoever may write to it may connect.
    ///
    /// # Errors
    /// The operating system's: the file is another's, or gone.
    pub fn open_to(address: &ListenAddress, mode: u32) -> io::Result<()> {
        match address {
            ListenAddress::Tcp(_) => Ok(()),
            ListenAddress::Unix(path) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
        }
    }

    /// The same socket once more, for whoever takes it over; none of a unix socket, whose file goes with its
    /// listener.
    pub fn spare(&self) -> Option<Spare> {
        match self {
            Listener::Tcp(listener, _) => listener.as_fd().try_clone_to_owned().ok().map(Spare),
            Listener::Unix(..) => None,
        }
    }

    /// Waits for a client.
    ///
    /// # Errors
    /// The operating system's; out of descriptors is one that passes.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                // A client that is gone already is noticed at the first read.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Listener::Unix(listener, _) => listener.accept().await.map(|(s, _)| Stream::Unix(s)),
        }
    }

    /// Where it listens: with port 0 in the settings, the port that the kernel chose.
    pub fn address(&self) -> ListenAddress {
        match self {
            Listener::Tcp(listener, _) => listener
                .local_addr()
                .map_or_else(|_| ListenAddress::Tcp(SocketAddr::from(([0, 0, 0, 0], 0))), ListenAddress::Tcp),
            Listener::Unix(_, Some(file)) => ListenAddress::Unix(file.0.clone()),
            Listener::Unix(listener, None) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                ListenAddress::Unix(path.unwrap_or(std::path::Path::new("")).to_owned())
            }
        }
    }
}

/// Connections that the kernel keeps for us until they are accepted.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that vanishes without a word is noticed by the kernel, as redis-server has it.
    #[tokio::test]
    async fn accepted_connections_are_kept_alive() {
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = Listener::bind(&any).expect("a port");
        let ListenAddress::Tcp(address) = listener.address() else { panic!("not TCP") };
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_client, accepted) = (client.expect("connected"), accepted.expect("accepted"));
        let Stream::Tcp(stream) = &accepted else { panic!("not TCP") };
        let socket = SockRef::from(stream);
        assert!(socket.keepalive().expect("an option"));
        let (time, interval, retries) = CLIENT_KEEPALIVE;
        assert_eq!(socket.tcp_keepalive_time().expect("an option"), time);
        assert_eq!(socket.tcp_keepalive_interval().expect("an option"), interval);
        assert_eq!(socket.tcp_keepalive_retries().expect("an option"), retries);
    }
}

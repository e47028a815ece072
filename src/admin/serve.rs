//! The admin port's connections. Whoever connects may be slow or hostile: connections, headers
//! and the time of an exchange are bounded, and when there are many, who stands still makes room.

use std::{
    collections::VecDeque,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::{AbortHandle, JoinSet, yield_now},
    time::{Instant, sleep},
};

use super::{AdminState, router};
use crate::net::Listener;

/// Connections at once. For one more, the oldest that stands still has to go; while none does, it waits in
/// the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Who has begun to take an answer, and has taken nothing of it for so long, stands still.
const STALL: Duration = Duration::from_secs(2);
/// From accept until the request's headers are there.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept until the answer is written: a client that reads slowly is cut off.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's headers, and what is buffered of an answer.
const BUFFER_BYTES: usize = 16 << 10;
/// Pause after an accept that failed, which is most often for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What exchanges may take to end after `shutdown`.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the routes until `shutdown`, then lets exchanges end and returns within
/// a second.
pub async fn serve(listener: Listener, state: AdminState, shutdown: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router(state));
    let mut connections = JoinSet::new();
    let mut guests = VecDeque::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // All arms are cancel-safe: an accept or a join that lost the race happens in the next turn.
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => guests.retain(|guest: &Guest| !guest.task.is_finished()),
            () = sleep(STALL), if !has_room(&guests) => {}
            accepted = listener.accept(), if has_room(&guests) => match accepted {
                Ok(stream) => {
                    make_room(&mut guests);
                    let progress = Arc::new(Progress::new());
                    let task = connections.spawn(exchange(stream, service.clone(), progress.clone()));
                    guests.push_back(Guest { task, progress });
                    // What it has sent by now is read before somebody takes its place.
                    yield_now().await;
                }
                Err(error) => pause(&error).await,
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    // What has not ended by then is dropped with the set.
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await;
}

/// One connection.
struct Guest {
    task: AbortHandle,
    progress: Arc<Progress>,
}

/// How far an exchange is.
struct Progress {
    began: Instant,
    /// Whether a whole request has come.
    asked: AtomicBool,
    /// When something of the answer was written last: milliseconds from the beginning, and one more. 0 while
    /// it is being made.
    moved: AtomicU64,
}

impl Progress {
    fn new() -> Progress {
        Progress { began: Instant::now(), asked: AtomicBool::new(false), moved: AtomicU64::new(0) }
    }

    fn moves(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.moved.store(ms + 1, Relaxed);
    }

    fn has_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    /// Whether nothing is waited for but its client.
    fn stands_still(&self) -> bool {
        match self.moved.load(Relaxed) {
            0 => !self.has_asked(),
            moved => self.began.elapsed() > Duration::from_millis(moved) + STALL,
        }
    }
}

fn has_room(guests: &VecDeque<Guest>) -> bool {
    guests.len() < CONNECTIONS_MAX || guests.iter().any(|guest| guest.progress.stands_still())
}

/// Whoever says nothing, or does not read, must not keep a liveness probe from its answer.
fn make_room(guests: &mut VecDeque<Guest>) {
    let silent = || guests.iter().position(|guest| !guest.progress.has_asked());
    let still = || guests.iter().position(|guest| guest.progress.stands_still());
    if guests.len() >= CONNECTIONS_MAX
        && let Some(at) = silent().or_else(still)
        && let Some(guest) = guests.remove(at)
    {
        guest.task.abort();
    }
}

/// One request and its answer. A scraper comes back every few seconds: a connection that is kept
/// would only take a place.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: TowerToHyperService<axum::Router>,
    progress: Arc<Progress>,
) {
    let stream = Watched { stream, progress: progress.clone() };
    let service = service_fn(move |request| {
        progress.asked.store(true, Relaxed);
        service.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(EXCHANGE_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an exchange on the admin port broke"),
        Err(_) => tracing::debug!("a client of the admin port was too slow"),
    }
}

/// A connection whose writes are noted.
struct Watched<S> {
    stream: S,
    progress: Arc<Progress>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.progress.moves();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "the admin port can't accept a connection: trying again");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{SocketAddr, TcpStream},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
        task::JoinHandle,
    };

    use super::{super::tests::state, *};
    use crate::net::ListenAddress;

    const ASK: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A server on a port of its own, what stops it, and its task.
    fn start() -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        start_with(1)
    }

    /// The same with so many nodes to tell of.
    fn start_with(nodes: usize) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = Listener::bind(&any).expect("loopback has a free port");
        let ListenAddress::Tcp(address) = listener.address() else { panic!("it is TCP") };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, state(nodes), async {
            let _ = stopped.await;
        }));
        (address, stop, task)
    }

    fn connect(address: SocketAddr, say: &[u8]) -> tokio::net::TcpStream {
        let mut stream = TcpStream::connect(address).expect("the kernel accepts");
        stream.write_all(say).expect("it fits the socket's buffer");
        stream.set_nonblocking(true).expect("it is a socket");
        tokio::net::TcpStream::from_std(stream).expect("there is a runtime")
    }

    async fn all(mut stream: tokio::net::TcpStream) -> String {
        let mut text = String::new();
        // A reset after the answer is an end too.
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    /// A client on a socket gets its answer and then the end of the connection.
    #[tokio::test]
    async fn one_exchange_on_a_socket() {
        let (address, stop, task) = start();
        let answer = all(connect(address, ASK)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        stop.send(()).expect("it serves");
        task.await.expect("it returns");
        assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    }

    /// A client that never ends its headers is closed after the time-out, unanswered.
    #[tokio::test(start_paused = true)]
    async fn slow_headers_are_cut_off() {
        let (address, _stop, _task) = start();
        let start = Instant::now();
        let answer = all(connect(address, b"GET /healthz HTTP/1.1\r\nHost:")).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        assert!(start.elapsed() >= HEADERS_TIMEOUT && start.elapsed() < EXCHANGE_TIMEOUT);
    }

    /// Clients that say nothing, or begin and go no further, keep nobody from an answer, however many they
    /// are.
    #[tokio::test(start_paused = true)]
    async fn silent_clients_make_room() {
        let (address, _stop, _task) = start();
        let start = Instant::now();
        let begun = |i: usize| if i.is_multiple_of(2) { &b""[..] } else { b"GET / HTTP/1.1\r\n" };
        let silent: Vec<_> = (0..3 * CONNECTIONS_MAX).map(|i| connect(address, begun(i))).collect();
        let answer = all(connect(address, ASK)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(start.elapsed() < HEADERS_TIMEOUT, "it waited {:?}", start.elapsed());
        drop(silent);
    }

    /// Nor do clients that ask for something long and do not read it: they have a few seconds.
    #[tokio::test]
    async fn clients_that_do_not_read_make_room() {
        let (address, _stop, _task) = start_with(200);
        let asking = |_| -> io::Result<socket2::Socket> {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.set_recv_buffer_size(2048)?;
            socket.connect(&address.into())?;
            socket.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
            Ok(socket)
        };
        let deaf: io::Result<Vec<_>> = (0..CONNECTIONS_MAX).map(asking).collect();
        let deaf = deaf.expect("the kernel accepts");
        let answer = tokio::time::timeout(EXCHANGE_TIMEOUT / 2, all(connect(address, ASK))).await;
        assert!(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 OK")));
        drop(deaf);
    }

    /// A client that does not read a long answer is cut off.
    #[tokio::test(start_paused = true)]
    async fn slow_readers_are_cut_off() {
        let (mut client, server) = tokio::io::duplex(256);
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it fits");
        let start = Instant::now();
        let progress = Arc::new(Progress::new());
        let served = exchange(server, TowerToHyperService::new(router(state(1))), progress);
        tokio::time::timeout(EXCHANGE_TIMEOUT * 2, served).await.expect("the time of an exchange is bounded");
        assert!(start.elapsed() >= EXCHANGE_TIMEOUT);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("the connection is closed");
        assert!(got.starts_with(b"HTTP/1.1 200 OK") && got.len() <= 256);
    }

    /// A silent client does not keep the server from stopping.
    #[tokio::test(start_paused = true)]
    async fn stopping_is_bounded() {
        let (address, stop, task) = start();
        let silent = connect(address, b"GET / HTTP/1.1\r\n");
        assert!(all(connect(address, ASK)).await.contains("200 OK"), "the silent one was accepted first");
        let start = Instant::now();
        stop.send(()).expect("it serves");
        task.await.expect("it returns");
        assert!(start.elapsed() <= SHUTDOWN_TIMEOUT * 2, "it took {:?}", start.elapsed());
        drop(silent);
    }
}

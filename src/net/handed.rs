//! Sockets that the process was given to listen on, as systemd gives them (sd_listen_fds(3)). Whoever gave
//! them keeps them, so that clients wait in them while no process is there.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use listenfd::ListenFd;
use socket2::{Socket, Type};

use super::{ListenAddress, Listener};

/// The sockets, each with the address that it is bound to.
#[derive(Debug, Default)]
pub struct HandedSockets(Vec<(ListenAddress, Socket)>);

impl HandedSockets {
    /// Takes those that the environment names (`LISTEN_FDS`, `LISTEN_PID`), once for a process. It changes
    /// the environment: to be called while there is one thread.
    ///
    /// # Errors
    /// One of them is no stream socket that listens.
    pub fn take() -> io::Result<HandedSockets> {
        let mut named = ListenFd::from_env();
        let mut taken = Vec::new();
        for i in 0..named.len() {
            // The crate tells families apart by what it is asked for.
            let tcp = named.take_tcp_listener(i);
            let socket = match tcp {
                Ok(socket) => socket.map(OwnedFd::from),
                Err(_) => named.take_unix_listener(i)?.map(OwnedFd::from),
            };
            taken.extend(socket.map(Socket::from));
        }
        taken
            .into_iter()
            .map(|socket| Ok((bound(&socket)?, socket)))
            .collect::<io::Result<_>>()
            .map(HandedSockets)
    }

    /// Where they are bound.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.0.iter().map(|(address, _)| address)
    }

    /// Whether there is one for this address.
    pub fn has(&self, asked: &ListenAddress) -> bool {
        self.socket(asked).is_ok_and(|socket| socket.is_some())
    }

    /// The one that is bound to an address, or else one that takes those who connect there, too.
    fn socket(&self, asked: &ListenAddress) -> io::Result<Option<&Socket>> {
        if let Some((_, socket)) = self.0.iter().find(|(bound, _)| bound == asked) {
            return Ok(Some(socket));
        }
        for (bound, socket) in &self.0 {
            if is_of_both(bound, asked) && !socket.only_v6()? {
                return Ok(Some(socket));
            }
        }
        Ok(None)
    }

    /// A listener on the one that is for this address; none if there is none. To be called in a runtime.
    ///
    /// # Errors
    /// The operating system's: out of descriptors.
    pub fn listener(&self, asked: &ListenAddress) -> io::Result<Option<Listener>> {
        let Some(socket) = self.socket(asked)? else { return Ok(None) };
        let socket = socket.try_clone()?;
        socket.set_nonblocking(true)?;
        match asked {
            ListenAddress::Tcp(_) => Listener::over_tcp(socket.into(), true),
            ListenAddress::Unix(_) => Listener::over_unix(OwnedFd::from(socket).into()),
        }
        .map(Some)
    }
}

/// Where a socket is bound that listens.
fn bound(socket: &Socket) -> io::Result<ListenAddress> {
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
        return Err(refused("a socket that was handed over does not listen (Accept=no, ListenStream=)"));
    }
    let address = socket.local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(ListenAddress::Tcp(address)),
        (None, Some(path)) => Ok(ListenAddress::Unix(path.to_owned())),
        (None, None) => Err(refused("a socket that was handed over has no address that pools can listen on")),
    }
}

/// Whether a socket that is bound here takes those of the other family, too, as is asked: one for all
/// addresses of both is bound to `[::]`.
fn is_of_both(bound: &ListenAddress, asked: &ListenAddress) -> bool {
    let (ListenAddress::Tcp(bound), ListenAddress::Tcp(asked)) = (bound, asked) else { return false };
    let is_any = |address: &SocketAddr| address.ip().is_unspecified();
    bound.is_ipv6() && is_any(bound) && is_any(asked) && bound.port() == asked.port()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(socket: impl Into<OwnedFd>) -> io::Result<HandedSockets> {
        let socket = Socket::from(socket.into());
        Ok(HandedSockets(vec![(bound(&socket)?, socket)]))
    }

    /// A socket is used for what it is bound to, again and again, and goes on when a listener ends; the file
    /// of a unix socket stays.
    #[tokio::test]
    async fn a_socket_outlives_its_listeners() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let unix = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = ListenAddress::Tcp(tcp.local_addr().expect("it is bound"));
        for (sockets, asked) in [(handed(tcp), address), (handed(unix), ListenAddress::Unix(path.clone()))] {
            let sockets = sockets.expect("it listens");
            assert_eq!(sockets.addresses().collect::<Vec<_>>(), [&asked]);
            for _ in 0..2 {
                let listener = sockets.listener(&asked).expect("a descriptor").expect("it is for it");
                assert!(listener.is_handed() && listener.address() == asked);
            }
            let other = ListenAddress::Tcp(([127, 0, 0, 1], 1).into());
            assert!(sockets.listener(&other).expect("nothing to fail").is_none());
        }
        assert!(path.exists());
    }

    /// What does not listen is refused.
    #[test]
    fn a_connection_is_no_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        assert_eq!(handed(client).expect_err("it is a connection").kind(), io::ErrorKind::InvalidInput);
    }

    /// Of a socket for each family each is taken for its own.
    #[tokio::test]
    async fn a_socket_for_each_family() {
        let socket = |domain, address: &str| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::STREAM, None)?;
            if domain == socket2::Domain::IPV6 {
                socket.set_only_v6(true)?;
            }
            let address: SocketAddr = address.parse().map_err(io::Error::other)?;
            socket.bind(&address.into())?;
            socket.listen(1)?;
            Ok(socket)
        };
        let Ok(six) = socket(socket2::Domain::IPV6, "[::]:0") else { return };
        let port = six.local_addr().expect("it is bound").as_socket().expect("TCP").port();
        let asked: ListenAddress = format!("0.0.0.0:{port}").parse().expect("an address");
        let mut sockets = handed(six).expect("it listens");
        assert!(!sockets.has(&asked), "nobody comes over IPv4 there");
        let four = socket(socket2::Domain::IPV4, &format!("0.0.0.0:{port}")).expect("another family");
        sockets.0.push((asked.clone(), four));
        let listener = sockets.listener(&asked).expect("a descriptor").expect("it is for it");
        assert_eq!(listener.address(), asked);
    }

    /// A socket for all addresses is for those of IPv4, too.
    #[test]
    fn all_addresses() {
        let of = |text: &str| text.parse::<ListenAddress>().expect("an address");
        for (bound, asked, is_one) in [
            ("[::]:7", "0.0.0.0:7", true),
            ("[::]:7", "0.0.0.0:8", false),
            ("[::]:7", "127.0.0.1:7", false),
            ("0.0.0.0:7", "[::]:7", false),
            ("unix:/a", "unix:/b", false),
        ] {
            assert_eq!(is_of_both(&of(bound), &of(asked)), is_one, "{bound} for {asked}");
        }
    }
}

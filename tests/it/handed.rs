//! Sockets that ringway was given to listen on, as systemd gives them, and what it tells systemd.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use crate::harness::{Config, Redis, Ringway, SOON, ringway::program, until};

/// Makes the standard input the first descriptor that is handed over, for this very process.
const HAND_OVER: &str = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";

/// A ringway that is given this socket.
fn given(socket: &TcpListener, config: &Config) -> Ringway {
    let socket = OwnedFd::from(socket.try_clone().expect("a descriptor"));
    Ringway::spawn_with(config, &["sh", "-c", HAND_OVER, "sh", program()], socket.into())
}

/// Asks in a new connection each time, until it is told to stop: how many were answered, and how many were
/// cut off.
fn ask(address: &str, stop: &AtomicBool) -> (usize, usize) {
    let (mut answered, mut cut) = (0, 0);
    while !stop.load(SeqCst) {
        let mut client = TcpStream::connect(address).expect("nobody is refused");
        client.set_read_timeout(Some(SOON)).expect("a socket takes that");
        let mut reply = Vec::new();
        let told = client.write_all(b"GET a\r\nQUIT\r\n").and_then(|()| client.read_to_end(&mut reply));
        match told {
            Ok(_) if reply == b"$1\r\n1\r\n+OK\r\n" => answered += 1,
            Ok(_) if reply.is_empty() => cut += 1,
            Err(error) if [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()) => {
                cut += 1
            }
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&reply)),
        }
    }
    (answered, cut)
}

/// While ringway is started anew clients wait in the socket of whoever starts it: nobody is refused, and only
/// who has just come to the old one is cut off.
#[test]
fn a_restart_refuses_nobody() {
    let nodes = Redis::several(2);
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("it is bound").to_string();
    let config = Config::of(&nodes).listen(&address);
    let mut ringway = given(&socket, &config);
    assert_eq!(ringway.client().cmd(&["SET", "a", "1"]), "+OK\r\n");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stop) = (address.clone(), stop.clone());
            thread::spawn(move || ask(&address, &stop))
        })
        .collect();
    let restarts = 3;
    for _ in 0..restarts {
        until(SOON, "some are served", || ringway.metric("ringway_sessions_accepted_total", &[]) > 50.0);
        assert!(ringway.terminate().0.success());
        // Nobody accepts until the next one does.
        ringway = given(&socket, &config);
    }
    until(SOON, "some are served", || ringway.metric("ringway_sessions_accepted_total", &[]) > 50.0);
    stop.store(true, SeqCst);
    for client in clients {
        let (answered, cut) = client.join().expect("nobody is refused");
        assert!(answered > 20 && cut <= restarts, "{answered} were answered, {cut} cut off");
    }
    assert!(!ringway.said().contains("in vain"), "{}", ringway.said());
}

/// A socket for which no pool is there is told; the pool has a port of its own then.
#[test]
fn a_socket_for_nobody_is_told() {
    let node = Redis::start();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("it is bound").to_string();
    let mut ringway = given(&socket, &Config::of([&node]));
    assert_eq!(ringway.client().cmd(&["PING"]), "+PONG\r\n");
    until(SOON, "it is told", || ringway.said().contains("clients wait in vain"));
    assert!(ringway.said().contains(&address), "{}", ringway.said());
}

/// What is no listening socket ends the start with what is wrong.
#[test]
fn what_is_no_socket_is_refused() {
    let node = Redis::start();
    let command = ["sh", "-c", HAND_OVER, "sh", program()];
    let mut ringway = Ringway::spawn_with(Config::of([&node]), &command, Stdio::null());
    assert_eq!(ringway.wait().0.code(), Some(1));
    assert!(
        ringway.said().contains("can't use what was handed over to listen on (LISTEN_FDS)"),
        "{}",
        ringway.said()
    );
}

/// Who started it is told when it serves, and when it ends.
#[test]
fn who_started_it_is_told() {
    let node = Redis::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a socket takes that");
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let mut ringway = Ringway::serve_through(Config::of([&node]), &["env", &variable, program()]);
    let told = || {
        let mut buffer = [0; 100];
        let length = socket.recv(&mut buffer).expect("it is told");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    assert!(ringway.terminate().0.success());
    assert_eq!(told(), "STOPPING=1");
}

//! Nodes that do not keep to the protocol.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::server::loopback;

/// What a fake node does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Answers with what is no reply.
    Garbage,
    /// Answers each time twice.
    TooMany,
    /// Reads and never answers.
    Silent,
    /// Begins a reply and closes.
    Half,
    /// Closes at once.
    Closing,
    /// Announces a reply of an impossible length.
    HugeLength,
}

/// A listener with bad manners.
pub(crate) struct Fake {
    address: String,
    stop: Arc<AtomicBool>,
}

impl Fake {
    /// Starts one on an address of its own.
    pub(crate) fn start(manner: Manner) -> Fake {
        let listener = TcpListener::bind((loopback().as_str(), 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                thread::spawn(move || converse(stream, manner));
            }
        });
        Fake { address, stop }
    }

    /// `ip:port`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }
}

fn converse(mut stream: TcpStream, manner: Manner) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    if manner == Manner::Closing {
        return None;
    }
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).ok()? > 0 {
        match manner {
            Manner::Garbage => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").ok()?,
            Manner::TooMany => stream.write_all(b"+PONG\r\n+PONG\r\n").ok()?,
            Manner::HugeLength => stream.write_all(b"$99999999999999\r\n").ok()?,
            Manner::Silent => {}
            Manner::Half => return stream.write_all(b"$10\r\nabc").ok().and(None),
            Manner::Closing => return None,
        }
    }
    Some(())
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes the listener, so that it sees the end.
        let _ = TcpStream::connect(&self.address);
    }
}

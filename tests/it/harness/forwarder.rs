//! A way to a node that is longer than it was, or that breaks.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use super::server::loopback;

/// Passes bytes on between its address and a node's; what the node says comes late.
pub(crate) struct Forwarder {
    address: String,
    node: Arc<Mutex<String>>,
    delay_ms: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Forwarder {
    /// Starts one before the node at `ip:port`, without a delay.
    pub(crate) fn start(node: &str) -> Forwarder {
        let listener = TcpListener::bind((loopback().as_str(), 0)).expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (delay_ms, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let node = Arc::new(Mutex::new(node.to_owned()));
        let (delay, stopped, leads_to) = (delay_ms.clone(), stop.clone(), node.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                if stopped.load(Relaxed) {
                    return;
                }
                let node = leads_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(node)) else { continue };
                let both = || Some((near.try_clone().ok()?, far.try_clone().ok()?));
                let Some((to, from)) = both() else { continue };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                thread::spawn(move || pass(near, far, &AtomicU64::new(0)));
                let delay = delay.clone();
                thread::spawn(move || pass(from, to, &delay));
            }
        });
        Forwarder { address, node, delay_ms, stop }
    }

    /// `ip:port`.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// New connections lead to the node at `ip:port` from now on.
    pub(crate) fn lead_to(&self, node: &str) {
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = node.to_owned();
    }

    /// From now on each piece of what the node says comes so much later, and those behind it.
    pub(crate) fn delay(&self, by: Duration) {
        self.delay_ms.store(by.as_millis().try_into().expect("a short time"), Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, delay_ms: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        thread::sleep(Duration::from_millis(delay_ms.load(Relaxed)));
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // Either side may be gone already.
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // Wakes the listener, so that it sees the end.
        let _ = TcpStream::connect(&self.address);
    }
}

//! A relay of bytes to a node, whose replies it can deliver later: each as much later as the next, so it
//! is far away and not narrow.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Builder,
    sync::mpsc,
    time::{Instant, sleep_until},
};

use crate::load::Failure;

/// A running relay; it ends with the process.
pub(crate) struct Forwarder {
    pub(crate) address: SocketAddr,
    delay_us: Arc<AtomicU64>,
}

impl Forwarder {
    pub(crate) fn start(to: SocketAddr) -> Result<Forwarder, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let (address, delay_us) = (listener.local_addr()?, Arc::new(AtomicU64::new(0)));
        let delay = delay_us.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay(client, to, delay.clone()));
                }
            });
        });
        Ok(Forwarder { address, delay_us })
    }

    /// What is read from the node from now on is delivered so much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.delay_us.store(by.as_micros() as u64, Relaxed);
    }
}

async fn relay(client: TcpStream, to: SocketAddr, delay: Arc<AtomicU64>) -> io::Result<()> {
    let node = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let ((mut requests, to_client), (replies, mut to_node)) = (client.into_split(), node.into_split());
    tokio::spawn(deliver(replies, to_client, delay));
    io::copy(&mut requests, &mut to_node).await?;
    Ok(())
}

/// Bytes, and when they are due.
type Parcel = (Instant, Vec<u8>);

async fn deliver(mut replies: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Arc<AtomicU64>) {
    let (sender, mut parcels) = mpsc::unbounded_channel::<Parcel>();
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = replies.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_micros(delay.load(Relaxed));
            if sender.send((due, buffer[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    while let Some((due, bytes)) = parcels.recv().await {
        sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

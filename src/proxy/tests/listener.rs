//! Who gets a client that comes.

use super::*;
use crate::{
    metrics::Reason,
    net::{ListenAddress, Listener},
    proxy::{Workers, accept},
    topology::Limits,
};

/// Clients are shared out evenly among workers also while one of them stands still, and a worker that is gone
/// gets none.
#[test]
fn each_worker_gets_its_part() {
    play(async {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let (_writer, reader) = channel(topology(&[("a", nowhere)], Policy::default()));
        let pool = pool(reader, Protocol::Redis, 2, write_notes().0);
        let (to_one, mut one) = mpsc::unbounded_channel();
        let (to_other, mut other) = mpsc::unbounded_channel();
        let workers = Workers::new(vec![to_one, to_other], Arc::default());
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = Listener::bind(&any).expect("a port");
        let ListenAddress::Tcp(address) = listener.address() else { panic!("not TCP") };
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        spawn_local(accept(listener, pool.clone(), workers, stopped));
        let mut clients = Vec::new();
        let (mut waiting, mut served) = (Vec::new(), Vec::new());
        for at in 0..8 {
            clients.push(TcpStream::connect(address).await.expect("a connection"));
            until("it is taken", || pool.sessions.load(Relaxed) == at + 1).await;
            // The first worker stands still: its clients wait in its queue.
            while let Ok(order) = other.try_recv() {
                pool.blocks[1].sessions.add(1);
                served.push(order);
            }
        }
        while let Ok(order) = one.try_recv() {
            waiting.push(order);
        }
        assert_eq!((waiting.len(), served.len()), (4, 4));
        // Its clients are free again with it.
        drop((one, waiting));
        until("its clients are gone", || pool.sessions.load(Relaxed) == 4).await;
        for at in 0..8 {
            clients.push(TcpStream::connect(address).await.expect("a connection"));
            until("it is taken", || pool.sessions.load(Relaxed) == at + 5).await;
        }
        while let Ok(order) = other.try_recv() {
            served.push(order);
        }
        assert_eq!(served.len(), 12);
    });
}

/// A client that finds `limits.clients` reached is counted by the thread that accepts, not in a worker's
/// block, which has another writer.
#[test]
fn who_is_refused_is_counted_at_the_door() {
    play(async {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
        let limits = Limits { clients: 1, ..Limits::default() };
        let (_writer, reader) = channel(topology(&[("a", nowhere)], Policy { limits, ..Policy::default() }));
        let pool = pool(reader, Protocol::Redis, 1, write_notes().0);
        let (to_worker, _orders) = mpsc::unbounded_channel();
        let workers = Workers::new(vec![to_worker], Arc::default());
        let any = ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = Listener::bind(&any).expect("a port");
        let ListenAddress::Tcp(address) = listener.address() else { panic!("not TCP") };
        let (_stop, stopped) = tokio::sync::oneshot::channel();
        spawn_local(accept(listener, pool.clone(), workers, stopped));
        let _first = TcpStream::connect(address).await.expect("a connection");
        until("it is taken", || pool.sessions.load(Relaxed) == 1).await;
        let _second = TcpStream::connect(address).await.expect("a connection");
        let refused = |at: usize| pool.blocks[at].refusals[Reason::Clients as usize].value();
        until("it is refused", || refused(1) == 1).await;
        assert_eq!((refused(0), pool.blocks.len()), (0, 2));
    });
}

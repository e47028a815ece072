//! A connection that client and node agreed to speak another protocol over, WebSocket for one: from
//! the reply 101 on its bytes pass as they are.

use std::{pin::pin, rc::Rc};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional, task::spawn_local};

use super::{
    lease::{Lease, Ticket},
    session::Seat,
};

/// Passes bytes until one side closes or the node is ejected. The tunnel holds what its request held.
pub(super) fn open(client: OnUpgrade, node: OnUpgrade, lease: Lease, ticket: Ticket) {
    let pool = ticket.session.pool.clone();
    let seat: Rc<Seat> = ticket.session.seat.clone();
    pool.tunnels.set(pool.tunnels.get() + 1);
    spawn_local(async move {
        let link = lease.link.clone();
        let mut evicted = pin!(link.evicted());
        let pass = async {
            let (Ok(client), Ok(node)) = (client.await, node.await) else { return };
            // How it ends is the business of the two who speak.
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await;
        };
        tokio::select! {
            () = pass => {}
            () = &mut evicted => {}
        }
        drop((lease, ticket, seat));
        pool.tunnels.set(pool.tunnels.get() - 1);
    });
}

//! Four redis-servers, one of which fails, and the way to it.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use crate::{
    delay::Forwarder,
    fault::Fault,
    fleet::{NODES, dies_with_this},
    harness::{Redis, owners},
    load::Failure,
};

/// Which of them fails.
pub(crate) const VICTIM: usize = 1;

/// The nodes.
pub(crate) struct Nodes {
    servers: Vec<Redis>,
    /// In front of the one that fails, where it is to be slow.
    forwarder: Option<Forwarder>,
}

impl Nodes {
    pub(crate) fn start(fault: Fault) -> Result<Nodes, Failure> {
        let servers: Vec<Redis> = (0..NODES).map(|_| Redis::through(&dies_with_this(), &[])).collect();
        let forwarder = match fault {
            Fault::Slow => Some(Forwarder::start(servers[VICTIM].address().parse()?)?),
            _ => None,
        };
        Ok(Nodes { servers, forwarder })
    }

    /// Where a proxy finds them.
    pub(crate) fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let mut all: Vec<SocketAddr> =
            self.servers.iter().map(|node| node.address().parse()).collect::<Result<_, _>>()?;
        if let Some(forwarder) = &self.forwarder {
            all[VICTIM] = forwarder.address;
        }
        Ok(all)
    }

    /// The one that fails.
    pub(crate) fn victim(&mut self) -> &mut Redis {
        &mut self.servers[VICTIM]
    }

    /// From now on its replies come so much later.
    pub(crate) fn delay(&self, by: Duration) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.delay(by);
        }
    }

    /// Which node has which key.
    pub(crate) fn homes(&self) -> HashMap<String, usize> {
        owners(&self.servers)
    }

    pub(crate) fn flush(&self) {
        self.servers.iter().for_each(|node| {
            node.cmd(&["FLUSHALL"]);
        });
    }
}

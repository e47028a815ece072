//! THE HOT PATH. Reads the topology, writes evidence and counters; no locks per request, no
//! configuration, nothing that waits for the control plane.
//!
//! ```text
//! client --> session: read, decode --> dispatch: owner(key) --> pipeline: one write per turn --> node
//! client <-- session: in order, one write per batch <------- pipeline: one read per turn <----- node
//! ```
//!
//! A worker is one thread. Its sessions and pipelines are tasks of one runtime that run in the
//! order in which they were woken: a pipeline that was woken by the first request appended to it
//! runs after every client that was ready in the same turn, so requests batch by themselves; a busy
//! worker has longer turns (`coalesce`).

mod clock;
mod coalesce;
mod connect;
mod dialect;
mod dispatch;
mod essential;
mod facts;
mod flow;
mod gate;
mod http;
mod inflight;
mod input;
mod joint;
mod line;
mod link;
mod listener;
mod pipeline;
mod pool;
mod rebind;
mod sampler;
mod scripts;
mod serving;
mod session;
#[cfg(test)]
mod tests;
mod watch;
mod wheel;
mod window;
mod worker;

pub use clock::woke;
pub use coalesce::before_wait;
pub use essential::essential;
pub use facts::{Registry, started};
pub use listener::{Workers, accept};
pub use pool::{Place, PoolHandle};
pub use scripts::Scripts;
pub use worker::{Memory, Order, run};

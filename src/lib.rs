//! # ringway: the map
//!
//! A client talks to ringway as if it were one big cache server. ringway maps each key onto a
//! virtual-node hash ring, forwards the command to the node that owns the key, watches its nodes,
//! gives the share of a failed one to the others, and gives it back.
//!
//! ## The rooms, in layer order
//! Each room's first sentence says what is in it and what may not come in; `tests/it/tidy.rs`
//! holds the table of who may use whom.
//!
//! | room | from -> to |
//! |---|---|
//! | [`ring`] | key -> order of nodes. Pure |
//! | [`protocol`] | bytes <-> meaning. Pure, sans-I/O |
//! | [`clock`] | the time of day |
//! | [`net`] | addresses, dialling, resolving, listening |
//! | [`metrics`] | what is counted, and how it is shown: one table |
//! | [`topology`] | the border: everything that crosses between the data plane and the control plane |
//! | [`proxy`] | the hot path: session -> dispatch -> pipeline |
//! | [`health`] | evidence -> verdict |
//! | [`incident`] | what happened to nodes: from the first doubt to the return |
//! | [`membership`] | who is in the ring. The one writer |
//! | [`admin`] | HTTP routes over a read of the topology, and orders for nodes |
//! | [`embedded`] | the in-process node; to the proxy a node like any other |
//! | [`config`] | text -> settings |
//! | [`cli`] | one file per command: offline, or asking a running ringway over its admin port |
//! | [`app`] | builds all rooms, hands each its end of each channel, reloads and drains |
//!
//! Around them: `main.rs` is a page; `config.yaml` is what is served when nothing else is given;
//! `docs/` says what users may rely on, and tests hold its tables to the source; `tests/it` runs
//! whole processes against real servers; `tests/sim` lives through ten thousand worlds of failing
//! nodes in virtual time; `fuzz/` has a target for each parser of bytes from outside.
//!
//! ## The border
//! One snapshot goes down ([`topology::Topology`], behind one `ArcSwap` per pool), evidence goes
//! up ([`topology::Evidence`], atomics), and so do samples of what nodes are asked for
//! ([`topology::Samples`], which a worker never waits for). The hot path never waits for control, and control
//! never waits for the hot path; if control stops, the last snapshot serves on.
//!
//! ## Life of a request: `MGET a b c` over two nodes
//! [`proxy`]'s listener hands the socket to a data worker. The session reads into the worker's
//! buffer, [`protocol::resp`] cuts one whole request and its command table says: split by key,
//! merge in key order. Dispatch asks the topology for the owner of a, b and c, appends one part
//! to the pipeline of each of the two nodes, and the pipelines note what reply they expect.
//! Replies are cut from each node's stream, matched with the head of the pipeline's FIFO and put
//! into the session's window; when the head of the window is complete it is merged and written,
//! once per batch. Each step is bounded, and a full bound answers with a refusal.
//!
//! ## Life of a failure: node n2 dies with requests in flight
//! The pipeline sees the error and splits what is in flight: not wholly written is *unsent*, the
//! rest *may have been applied*. Unsent and read-only requests are parked, for a bounded time, until
//! the topology points somewhere; the others are refused at once. The evidence is counted and the
//! bell rung;
//! [`health`] probes, asks whether the fault is this proxy's own, and tells [`membership`] all that it thinks
//! of the node ([`topology::Opinion`]: said twice it changes nothing); which plans the next topology (or
//! refuses: `eject_max`; or lets the keys wait: the warmth budget), publishes it as a new epoch with a cause
//! and the share that moved, and parked requests go to the new owners; [`incident`] says where the fault is.
//! Probes go on, and workers note what substitutes are told in the node's place. After `rise` good probes the
//! node's keys are fenced off: requests for them wait until what was in flight is answered and what is old is
//! deleted. Then it owns exactly what it owned before, at once or in steps.
//!
//! ## Invariants
//! * One reply per request, in the order of the requests, from an owner of the key.
//! * A node that is away moves only its own keys; its return restores the exact map.
//! * A request that may have been applied is never sent a second time unless it only reads.
//! * Nothing queues without a bound: sessions, frames, windows, pipelines, parked requests, waits.
//! * Nobody reads what a node had before it was away, unless the pool says `serve`.
//! * Every change of owner is one epoch, with a cause.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod embedded;
pub mod health;
pub mod incident;
pub mod membership;
pub mod metrics;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod ring;
pub mod topology;

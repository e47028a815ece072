//! BYTES <-> MEANING. Pure and sans-I/O: this room never sees a socket, a node or a clock.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod resp;

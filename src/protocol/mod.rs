//! BYTES <-> MEANING. Pure and sans-I/O: this room never sees a socket, a node or a clock.
pub mod resp;

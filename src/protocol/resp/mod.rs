//! RESP2 and RESP3, as Redis and Valkey speak them: framing, the command table, what ringway
//! answers itself, and how the replies of several nodes become one.

pub mod command_reply;
pub mod commands;
pub mod frame;
pub mod glob;
mod hand;
pub mod info;
mod keys;
pub mod local;
pub mod merge;
pub mod miss;
mod name;
mod offer;
pub mod rule;
pub mod scan;
pub mod table;
pub mod value;
pub mod write;

/// Which version of the protocol a session or a pipeline speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// RESP2, what a connection starts with.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

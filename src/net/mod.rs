//! Addresses, dialling, resolving and listening. Depends on nothing of ours.

mod address;
mod handed;
mod reserve;
mod stream;

pub use address::{Address, ListenAddress, ParseError, Target, is_denied, resolve};
pub use handed::HandedSockets;
pub use reserve::Reserve;
pub use stream::{Listener, ReadHalf, Spare, StdStream, Stream, WriteHalf, dial, is_ours};

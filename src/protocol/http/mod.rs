//! What an HTTP request means to a ring, and what may pass from one connection to another. hyper
//! frames HTTP; only the meaning is here.

mod fault;
pub mod fields;
mod h2;
mod key;
mod request;

pub use fault::Fault;
pub use h2::HeadScan;
pub use key::{KeyRule, KeySource, Missing, NoKey, Pattern, PatternError, ring_key};
pub use request::{Intent, Refused, Repeat, prepare};

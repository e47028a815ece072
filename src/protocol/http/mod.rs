//! What an HTTP request means to a ring. hyper frames HTTP; only the meaning is here.

mod key;

pub use key::{KeyRule, KeySource, Missing, NoKey, Pattern, PatternError, ring_key};

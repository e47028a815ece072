//! What is counted, and how it is shown. Hot numbers live in blocks with one writer each and are
//! summed when somebody scrapes; the rest goes through the `metrics` facade. Depends on nothing
//! of ours.

mod block;

pub use block::{Class, Count, Histogram, Level, NodeBlock, Outcome, PoolBlock, Reason};

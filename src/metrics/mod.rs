//! What is counted, and how it is shown. Hot numbers live in blocks with one writer each and are
//! summed when somebody scrapes; the rest goes through the `metrics` facade. Depends on nothing
//! of ours.

mod block;
mod facade;
mod process;
mod render;
pub mod table;

pub use block::{Class, Count, Histogram, Level, NodeBlock, Outcome, PoolBlock, Reason};
pub use facade::{RELOAD_OUTCOMES, count_reload, facade, lines_dropped, tell_state_file};
pub use process::{Footprint, Process};
pub use render::{NodeView, PoolView, ProcessView, render};

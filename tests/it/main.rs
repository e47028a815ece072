//! Whole processes and real servers.

mod embedded;

//! Whole-process tests.

mod cli;

//! Whole-process tests, with real servers.

mod cli;
mod commands;
mod embedded;
mod local;

//! Whole-process tests, with real servers.

mod commands;
mod local;

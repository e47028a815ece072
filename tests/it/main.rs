//! The whole of ringway against the programs of the real world.
mod cli;
mod commands;

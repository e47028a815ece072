//! The whole of ringway against the programs of the real world.
mod commands;

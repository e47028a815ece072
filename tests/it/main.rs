//! ringway against real servers.

mod local;

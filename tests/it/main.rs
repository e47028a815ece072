//! The tests of the whole program: the built `ringway` in front of real servers.

mod basics;
mod cli;
mod clients;
mod commands;
mod differential;
mod embedded;
mod failure;
mod harness;
mod http;
mod http_bad;
mod incident;
mod limits;
mod local;
mod memcached;
mod memcached_scripts;
mod metrics;
mod miss;
mod orders;
mod promises;
mod proof;
mod reload;
mod scripts;
mod stale;
mod stalled;
mod tidy;
mod warmth;

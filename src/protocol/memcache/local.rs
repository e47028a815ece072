//! What ringway answers itself, without asking a node. Pure: the clock and all numbers come
//! through [`Facts`].

use std::{io::Write, time::Duration};

use super::{MEMCACHED_VERSION, plan::Local, write::END};
use crate::protocol::numbers::Numbers;

/// What answers are made of, besides the request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The time since the Unix epoch.
    pub now: Duration,
    /// ringway's own numbers.
    pub numbers: &'a Numbers,
}

/// Appends the answer. The numbers are asked for only by `stats`.
pub fn answer<'a>(local: Local, facts: impl FnOnce() -> Facts<'a>, out: &mut Vec<u8>) {
    match local {
        Local::Version => version(out),
        Local::Verbosity => out.extend_from_slice(b"OK\r\n"),
        Local::Stats => stats(&facts(), out),
        Local::Fence => out.extend_from_slice(b"MN\r\n"),
        Local::End => out.extend_from_slice(END),
    }
}

/// Clients read three numbers and decide by them what they may ask for: those of the memcached
/// that ringway follows stand in front.
fn version(out: &mut Vec<u8>) {
    // Writing to a vector can't fail.
    let _ = write!(out, "VERSION {MEMCACHED_VERSION}+ringway-{}\r\n", env!("CARGO_PKG_VERSION"));
}

/// The names that dashboards know from memcached, for what means the same here; ringway's own
/// names for the rest.
fn stats(facts: &Facts<'_>, out: &mut Vec<u8>) {
    let n = facts.numbers;
    let mut stat = |name: &str, value: &dyn std::fmt::Display| {
        let _ = write!(out, "STAT {name} {value}\r\n");
    };
    stat("pid", &std::process::id());
    stat("uptime", &n.uptime.as_secs());
    stat("time", &facts.now.as_secs());
    stat("version", &format_args!("{MEMCACHED_VERSION}+ringway-{}", env!("CARGO_PKG_VERSION")));
    stat("pointer_size", &usize::BITS);
    stat("max_connections", &n.sessions_max);
    stat("curr_connections", &n.sessions);
    stat("total_connections", &n.accepted);
    stat("cmd_total", &n.requests);
    stat("bytes_read", &n.bytes_in);
    stat("bytes_written", &n.bytes_out);
    stat("ringway_pool", &word(&n.pool));
    stat("ringway_epoch", &n.epoch);
    stat("ringway_refusals", &n.refusals);
    stat("ringway_nodes", &n.nodes.len());
    for node in &n.nodes {
        let name = word(&node.name);
        stat(&format!("ringway_node_{name}_state"), &node.state);
        stat(&format!("ringway_node_{name}_address"), &word(&node.address));
        stat(&format!("ringway_node_{name}_share"), &format_args!("{:.4}", node.share));
    }
    out.extend_from_slice(END);
}

/// A name as one word.
fn word(name: &str) -> String {
    name.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::numbers::NodeNumbers;

    fn said(local: Local) -> String {
        let node = NodeNumbers { name: "n 1".into(), address: "h:1".into(), state: "healthy", share: 0.25 };
        let numbers =
            Numbers { pool: "p".into(), requests: 7, epoch: 42, nodes: vec![node], ..Numbers::default() };
        let mut out = Vec::new();
        answer(local, || Facts { now: Duration::from_secs(1_700_000_000), numbers: &numbers }, &mut out);
        String::from_utf8(out).expect("text")
    }

    /// Three numbers stand where clients read them.
    #[test]
    fn a_version_that_clients_can_read() {
        let text = said(Local::Version);
        let version = text.strip_prefix("VERSION ").and_then(|v| v.strip_suffix("\r\n")).expect("a version");
        let (numbers, ours) = version.split_once('+').expect("ours too");
        assert_eq!(numbers.split('.').filter(|n| n.parse::<u32>().is_ok()).count(), 3);
        assert!(ours.starts_with("ringway-"));
    }

    /// Every line is a name and a value, each a word, and the names that dashboards need are there.
    #[test]
    fn stats_can_be_parsed() {
        let text = said(Local::Stats);
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        let (end, stats) = lines.split_last().expect("an end");
        assert_eq!(*end, "END");
        for line in stats {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 3 && words[0] == "STAT" && !words.contains(&""), "{line:?}");
        }
        for expected in [
            "STAT cmd_total 7\r\n",
            "STAT time 1700000000\r\n",
            "STAT ringway_epoch 42\r\n",
            "STAT ringway_node_n_1_state healthy\r\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in {text}");
        }
    }

    /// The rest are one line each.
    #[test]
    fn the_rest() {
        assert_eq!(said(Local::Fence), "MN\r\n");
        assert_eq!(said(Local::Verbosity), "OK\r\n");
        assert_eq!(said(Local::End), "END\r\n");
    }
}

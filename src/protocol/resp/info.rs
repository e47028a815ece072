//! What INFO says. ringway's own numbers under the names that clients of Redis parse, and a
//! section of its own. There is no `# Keyspace`: ringway holds no keys.

use std::fmt::Write;

pub use crate::protocol::numbers::{NodeNumbers, Numbers};

/// The Redis whose commands and answers ringway follows; INFO and HELLO say so.
pub const REDIS_VERSION: &str = "7.0.15";

type Section = (&'static str, fn(&Numbers, &mut String) -> std::fmt::Result);

/// In the order in which they are said.
const SECTIONS: &[Section] = &[
    ("Server", server),
    ("Clients", clients),
    ("Stats", stats),
    ("Replication", |_, text| text.write_str("role:master\r\nconnected_slaves:0\r\n")),
    ("Ringway", ringway),
];

/// The text for these sections: all when none is named, none for a name that is not known.
pub fn text(numbers: &Numbers, sections: &[&[u8]]) -> String {
    let asked = |name: &str| {
        sections.iter().any(|s| {
            [name, "all", "everything", "default"].iter().any(|n| s.eq_ignore_ascii_case(n.as_bytes()))
        })
    };
    let all = sections.is_empty();
    let mut text = String::new();
    for (name, write) in SECTIONS.iter().filter(|(name, _)| all || asked(name)) {
        let blank = if text.is_empty() { "" } else { "\r\n" };
        // Writing to a string can't fail.
        let _ = write!(text, "{blank}# {name}\r\n");
        let _ = write(numbers, &mut text);
    }
    text
}

fn server(n: &Numbers, text: &mut String) -> std::fmt::Result {
    write!(text, "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n")?;
    write!(text, "ringway_version:{}\r\n", env!("CARGO_PKG_VERSION"))?;
    write!(text, "arch_bits:{}\r\nprocess_id:{}\r\n", usize::BITS, std::process::id())?;
    write!(text, "run_id:{}\r\ntcp_port:{}\r\n", n.run_id, n.port)?;
    let seconds = n.uptime.as_secs();
    write!(text, "uptime_in_seconds:{seconds}\r\nuptime_in_days:{}\r\n", seconds / 86_400)
}

fn clients(n: &Numbers, text: &mut String) -> std::fmt::Result {
    write!(text, "connected_clients:{}\r\nmaxclients:{}\r\n", n.sessions, n.sessions_max)
}

fn stats(n: &Numbers, text: &mut String) -> std::fmt::Result {
    write!(text, "total_connections_received:{}\r\n", n.accepted)?;
    write!(text, "total_commands_processed:{}\r\n", n.requests)?;
    write!(text, "total_net_input_bytes:{}\r\ntotal_net_output_bytes:{}\r\n", n.bytes_in, n.bytes_out)
}

fn ringway(n: &Numbers, text: &mut String) -> std::fmt::Result {
    write!(text, "pool:{}\r\nepoch:{}\r\nrefusals:{}\r\n", n.pool, n.epoch, n.refusals)?;
    write!(text, "nodes:{}\r\n", n.nodes.len())?;
    for (i, node) in n.nodes.iter().enumerate() {
        let NodeNumbers { name, address, state, share } = node;
        write!(text, "node{i}:name={name},address={address},state={state},share={share:.4}\r\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sections: &[&str]) -> String {
        let node = NodeNumbers { name: "a".into(), address: "h:1".into(), state: "healthy", share: 0.25 };
        let numbers = Numbers { pool: "cache".into(), epoch: 42, nodes: vec![node], ..Numbers::default() };
        text(&numbers, &sections.iter().map(|s| s.as_bytes()).collect::<Vec<_>>())
    }

    /// Every line is what clients split at: `name:value`, a heading, or the blank between sections.
    #[test]
    fn clients_can_parse_it() {
        let text = of(&[]);
        assert!(text.starts_with("# Server\r\nredis_version:7.0.15\r\n") && text.ends_with("\r\n"));
        for line in text.split_terminator("\r\n") {
            let heading = line.strip_prefix("# ").is_some_and(|name| !name.is_empty());
            let pair = line.split_once(':').is_some_and(|(name, _)| !name.contains(char::is_whitespace));
            assert!(line.is_empty() || heading || pair, "{line:?}");
        }
        assert!(text.contains("node0:name=a,address=h:1,state=healthy,share=0.2500\r\n"));
        assert!(!text.contains("Keyspace"));
    }

    /// Sections are named in any case, several at once; an unknown one is empty.
    #[test]
    fn sections_by_name() {
        assert_eq!(of(&["replication"]), "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n");
        assert_eq!(of(&["keyspace"]), "");
        let two = of(&["RINGWAY", "clients"]);
        assert!(
            two.starts_with("# Clients\r\n")
                && two.contains("\r\n\r\n# Ringway\r\npool:cache\r\nepoch:42\r\n")
        );
        for all in ["all", "everything", "Default"] {
            assert_eq!(of(&[all]), of(&[]));
        }
    }
}

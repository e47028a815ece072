//! What a proxy does with each command: the rules of our own beside the servers' data. A command
//! without a rule here is forwarded by its keys; one without keys needs a rule.

use super::rule::{Gather, Local, Rule, Split};

const BLOCKS: &str = "it waits on a connection that other clients share; poll instead";
const TRANSACTION: &str =
    "a transaction needs a connection of its own; a script (EVAL) over keys of one node does the same";
const CHANNELS: &str = "publish and subscribe need a connection of their own; connect to a node for them";
const SHARED: &str = "it changes the state of a connection, and clients share the connections to nodes";
const ONE_NODE: &str = "it concerns one node and not the pool; connect to that node for it";
const DATABASE: &str = "it names another database; a pool has one";
const INTERNAL: &str = "it is a server's own, for replication or its tests";
/// What a server without cluster mode says; so clients see that this is none.
const CLUSTER: &str = "ERR This instance has cluster support disabled";

/// The rule for a command or subcommand, by its name in lower case. The rule of `config` counts
/// for those of its subcommands that have none.
pub(super) fn rule(name: &str) -> Option<Rule> {
    let named = |name: &str| RULES.iter().find(|(n, _)| *n == name).map(|(_, rule)| *rule);
    named(name).or_else(|| named(name.split_once('|')?.0))
}

/// Commands whose time depends on the script, on the whole key space or on another server.
pub(super) const SLOW: &[&str] = &[
    "eval",
    "evalsha",
    "eval_ro",
    "evalsha_ro",
    "fcall",
    "fcall_ro",
    "flushall",
    "flushdb",
    "keys",
    "migrate",
];

/// Commands that only read, although servers do not call them `readonly`.
pub(super) const READS: &[&str] = &["function|dump", "function|list", "script|exists", "script|show"];

/// Every rule that is not "by its keys", and those for commands without keys that any node can
/// answer: they go to the node that owns the empty key.
pub(super) const RULES: &[(&str, Rule)] = &[
    // Several keys, on several nodes.
    ("mget", Rule::Split(Split::Values)),
    ("mset", Rule::Split(Split::Pairs)),
    ("del", Rule::Split(Split::Count)),
    ("unlink", Rule::Split(Split::Count)),
    ("exists", Rule::Split(Split::Count)),
    ("touch", Rule::Split(Split::Count)),
    // Every node.
    ("dbsize", Rule::All(Gather::Sum)),
    ("flushall", Rule::All(Gather::Ok)),
    ("flushdb", Rule::All(Gather::Ok)),
    ("keys", Rule::All(Gather::Keys)),
    ("randomkey", Rule::All(Gather::Random)),
    ("scan", Rule::Scan),
    ("script", Rule::Keyed),
    ("script|exists", Rule::All(Gather::Every)),
    ("script|flush", Rule::All(Gather::Ok)),
    ("script|kill", Rule::All(Gather::Any)),
    ("script|load", Rule::All(Gather::Same)),
    ("script|debug", Rule::Refuse(SHARED)),
    ("function", Rule::Keyed),
    ("function|delete", Rule::All(Gather::Ok)),
    ("function|flush", Rule::All(Gather::Ok)),
    ("function|kill", Rule::All(Gather::Any)),
    ("function|load", Rule::All(Gather::Same)),
    ("function|restore", Rule::All(Gather::Ok)),
    ("function|stats", Rule::Refuse(ONE_NODE)),
    // Any node.
    ("lolwut", Rule::Keyed),
    ("memory|help", Rule::Keyed),
    ("object", Rule::Keyed),
    ("xgroup", Rule::Keyed),
    ("xinfo", Rule::Keyed),
    // Answered here.
    ("acl|whoami", Rule::Local(Local::AclWhoami)),
    ("auth", Rule::Local(Local::Auth)),
    ("client|capa", Rule::Local(Local::Client)),
    ("client|getname", Rule::Local(Local::Client)),
    ("client|help", Rule::Local(Local::Client)),
    ("client|id", Rule::Local(Local::Client)),
    ("client|info", Rule::Local(Local::Client)),
    ("client|list", Rule::Local(Local::Client)),
    ("client|no-evict", Rule::Local(Local::Client)),
    ("client|no-touch", Rule::Local(Local::Client)),
    ("client|reply", Rule::Local(Local::Client)),
    ("client|setinfo", Rule::Local(Local::Client)),
    ("client|setname", Rule::Local(Local::Client)),
    ("client|tracking", Rule::Local(Local::Client)),
    ("command", Rule::Local(Local::Command)),
    ("config|get", Rule::Local(Local::ConfigGet)),
    ("echo", Rule::Local(Local::Echo)),
    ("hello", Rule::Local(Local::Hello)),
    ("info", Rule::Local(Local::Info)),
    ("ping", Rule::Local(Local::Ping)),
    ("quit", Rule::Local(Local::Quit)),
    ("reset", Rule::Local(Local::Reset)),
    ("select", Rule::Local(Local::Select)),
    ("time", Rule::Local(Local::Time)),
    // Not offered: they wait.
    ("blmove", Rule::Refuse(BLOCKS)),
    ("blmpop", Rule::Refuse(BLOCKS)),
    ("blpop", Rule::Refuse(BLOCKS)),
    ("brpop", Rule::Refuse(BLOCKS)),
    ("brpoplpush", Rule::Refuse(BLOCKS)),
    ("bzmpop", Rule::Refuse(BLOCKS)),
    ("bzpopmax", Rule::Refuse(BLOCKS)),
    ("bzpopmin", Rule::Refuse(BLOCKS)),
    ("wait", Rule::Refuse(BLOCKS)),
    ("waitaof", Rule::Refuse(BLOCKS)),
    // Not offered: transactions.
    ("discard", Rule::Refuse(TRANSACTION)),
    ("exec", Rule::Refuse(TRANSACTION)),
    ("multi", Rule::Refuse(TRANSACTION)),
    ("unwatch", Rule::Refuse(TRANSACTION)),
    ("watch", Rule::Refuse(TRANSACTION)),
    // Not offered: channels.
    ("psubscribe", Rule::Refuse(CHANNELS)),
    ("publish", Rule::Refuse(CHANNELS)),
    ("pubsub", Rule::Refuse(CHANNELS)),
    ("punsubscribe", Rule::Refuse(CHANNELS)),
    ("spublish", Rule::Refuse(CHANNELS)),
    ("ssubscribe", Rule::Refuse(CHANNELS)),
    ("subscribe", Rule::Refuse(CHANNELS)),
    ("sunsubscribe", Rule::Refuse(CHANNELS)),
    ("unsubscribe", Rule::Refuse(CHANNELS)),
    // Not offered: they change a shared connection, or another client's.
    ("client", Rule::Refuse(SHARED)),
    // Not offered: another database.
    ("move", Rule::Refuse(DATABASE)),
    ("swapdb", Rule::Refuse(DATABASE)),
    // Not offered: cluster mode.
    ("asking", Rule::Refuse(CLUSTER)),
    ("cluster", Rule::Refuse(CLUSTER)),
    ("clusterscan", Rule::Refuse(CLUSTER)),
    ("readonly", Rule::Refuse(CLUSTER)),
    ("readwrite", Rule::Refuse(CLUSTER)),
    // Not offered: one node.
    ("acl", Rule::Refuse(ONE_NODE)),
    ("bgrewriteaof", Rule::Refuse(ONE_NODE)),
    ("bgsave", Rule::Refuse(ONE_NODE)),
    ("commandlog", Rule::Refuse(ONE_NODE)),
    ("config", Rule::Refuse(ONE_NODE)),
    ("debug", Rule::Refuse(ONE_NODE)),
    ("failover", Rule::Refuse(ONE_NODE)),
    ("lastsave", Rule::Refuse(ONE_NODE)),
    ("latency", Rule::Refuse(ONE_NODE)),
    ("memory|doctor", Rule::Refuse(ONE_NODE)),
    ("memory|malloc-stats", Rule::Refuse(ONE_NODE)),
    ("memory|purge", Rule::Refuse(ONE_NODE)),
    ("memory|stats", Rule::Refuse(ONE_NODE)),
    ("module", Rule::Refuse(ONE_NODE)),
    ("monitor", Rule::Refuse(ONE_NODE)),
    ("replicaof", Rule::Refuse(ONE_NODE)),
    ("role", Rule::Refuse(ONE_NODE)),
    ("save", Rule::Refuse(ONE_NODE)),
    ("shutdown", Rule::Refuse(ONE_NODE)),
    ("slaveof", Rule::Refuse(ONE_NODE)),
    ("slowlog", Rule::Refuse(ONE_NODE)),
    // Not offered: between servers.
    ("pfdebug", Rule::Refuse(INTERNAL)),
    ("pfselftest", Rule::Refuse(INTERNAL)),
    ("psync", Rule::Refuse(INTERNAL)),
    ("replconf", Rule::Refuse(INTERNAL)),
    ("restore-asking", Rule::Refuse(INTERNAL)),
    ("sync", Rule::Refuse(INTERNAL)),
];

#[cfg(test)]
mod tests {
    use super::super::local::EXCEPTIONS;
    use super::*;

    const DOCS: &str = include_str!("../../../docs/redis.md");

    /// The part of docs/redis.md under a heading.
    fn section(heading: &str) -> &'static str {
        let (_, rest) = DOCS.split_once(&format!("# {heading}\n")).expect("it has this heading");
        rest.split("\n#").next().unwrap_or(rest)
    }

    /// What the documentation calls a command.
    fn documented(name: &str) -> String {
        format!("`{}`", name.to_uppercase().replace('|', " "))
    }

    /// docs/redis.md names each command that is not simply forwarded, under the heading of what
    /// becomes of it.
    #[test]
    fn the_documentation_has_every_rule() {
        for (name, rule) in RULES {
            let heading = match rule {
                Rule::Keyed => continue,
                Rule::Split(_) => "Split by key",
                Rule::All(_) | Rule::Scan => "All nodes",
                Rule::Local(_) => "Answered here",
                Rule::Refuse(_) => "Refused",
            };
            let word = documented(name);
            assert!(section(heading).contains(&word), "{word} is missing under {heading}");
        }
    }

    /// docs/redis.md says which commands for all nodes are refused while one is away.
    #[test]
    fn the_documentation_says_what_needs_all_nodes() {
        let part = section("All nodes").split_once("While a node is away").map_or("", |(_, rest)| rest);
        let refused = part.split("The others").next().unwrap_or_default();
        for (name, rule) in RULES {
            let Rule::All(gather) = rule else { continue };
            assert_eq!(refused.contains(&documented(name)), gather.needs_all(), "{name}");
        }
    }

    /// docs/redis.md lists every exception to byte-for-byte parity.
    #[test]
    fn the_documentation_has_every_exception() {
        let table = section("Where the bytes differ from a server's");
        for (name, _) in EXCEPTIONS {
            let word = documented(name);
            assert!(table.contains(&word), "{word} is missing");
        }
    }
}

//! The configuration of a ringway under test: one pool on kernel-chosen ports.

use std::fmt;

use super::{Redis, nginx::Nginx};

/// Names of nodes, in order.
pub(crate) const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A configuration file with one pool, `cache`.
#[derive(Clone)]
pub(crate) struct Config {
    top: Vec<String>,
    /// Text in the place of `pools:`, with a pool in front of the one under test.
    pools: String,
    listen: String,
    pool: Vec<String>,
    nodes: Vec<(String, String)>,
}

impl Config {
    /// A pool of these nodes, named a, b, c ...
    pub(crate) fn of<'a>(nodes: impl IntoIterator<Item = &'a Redis>) -> Config {
        let empty = Config {
            top: Vec::new(),
            pools: "pools:".into(),
            listen: "127.0.0.1:0".into(),
            pool: Vec::new(),
            nodes: Vec::new(),
        };
        nodes.into_iter().zip(NAMES).fold(empty, |config, (node, name)| config.node(name, &node.address()))
    }

    /// A pool of HTTP nodes, named a, b, c ...
    pub(crate) fn web<'a>(nodes: impl IntoIterator<Item = &'a Nginx>) -> Config {
        let config = Config::of([]).pool("protocol: http");
        nodes.into_iter().zip(NAMES).fold(config, |config, (node, name)| config.node(name, &node.address()))
    }

    /// One more node. What follows the address, such as `, weight: 2`, goes into the file too.
    pub(crate) fn node(mut self, name: &str, address: &str) -> Config {
        self.nodes.push((name.to_owned(), address.to_owned()));
        self
    }

    /// With another address for a node.
    pub(crate) fn moved(mut self, name: &str, address: &str) -> Config {
        self.nodes.iter_mut().filter(|n| n.0 == name).for_each(|n| n.1 = address.to_owned());
        self
    }

    /// A line of the file's top level, such as `drain_timeout: 2s`.
    pub(crate) fn top(mut self, line: &str) -> Config {
        self.top.push(line.to_owned());
        self
    }

    /// Another pool in front of this one: the text of `pools:` and of it.
    pub(crate) fn before(mut self, pools: &str) -> Config {
        self.pools = pools.to_owned();
        self
    }

    /// A line of the pool, such as `on_ejected: fail`.
    pub(crate) fn pool(mut self, line: &str) -> Config {
        self.pool.push(line.to_owned());
        self
    }

    /// Where clients connect instead of a kernel-chosen port.
    pub(crate) fn listen(mut self, listen: &str) -> Config {
        self.listen = listen.to_owned();
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.top.iter().any(|line| line.starts_with("workers:")) {
            writeln!(f, "workers: 2")?;
        }
        if !self.top.iter().any(|line| line.starts_with("admin:")) {
            writeln!(f, "admin: {{listen: \"127.0.0.1:0\"}}")?;
        }
        self.top.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "{}\n  cache:\n    listen: {}", self.pools, self.listen)?;
        if !self.pool.iter().any(|line| line.starts_with("warmth:")) {
            // What is not about the budget does not wait for it.
            writeln!(f, "    warmth: {{share: 100%}}")?;
        }
        self.pool.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, "    nodes:")?;
        self.nodes.iter().try_for_each(|(name, at)| writeln!(f, "      - {{name: {name}, address: {at}}}"))
    }
}

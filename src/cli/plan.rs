//! `plan`: what a new configuration would move, before it is in force. Offline it compares two files;
//! told of a running ringway it knows who is away there, and what is asked a second.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Args;
use serde_json::Value;

use super::{ConfigArgument, Stop, admin, load};
use crate::{
    config::{Source, share},
    membership::scattered,
    ring::{Member, Ring, diff},
    topology::{OnEjected, PoolSpec},
};

/// The exit code when more would move than may.
const EXIT_TOO_MUCH: u8 = 3;
/// Requests are counted for so long.
const COUNTED: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Forced moves are those that the change asks for: keys of a node that leaves, comes, or has another
weight. All others are collateral: with vnode there are none. Nothing is changed by asking. The exit
code is 3 when a pool would move more than --max-share.

Examples:
  ringway plan --config ringway.yaml new.yaml
  ringway plan --config ringway.yaml new.yaml --pool cache --max-share 10%
  ringway plan --config ringway.yaml new.yaml --admin 127.0.0.1:9400   with who is away, and live rates";

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The configuration that is to come
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Only this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// The admin address of a ringway that runs with the present configuration
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// More than this share of a pool's keys is too much
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share)]
    max_share: f64,
}

/// Prints what would move, pool by pool.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let (source, new) = (arguments.config.source(), Source::File(arguments.new.clone()));
    let (before, after) = (load(&source)?.settings.pools, load(&new)?.settings.pools);
    let live = arguments.admin.as_deref().map(Live::read).transpose()?;
    let wanted = |name: &str| arguments.pool.as_deref().is_none_or(|pool| pool == name);
    let names: Vec<&Arc<str>> = before.iter().chain(&after).map(|p| &p.name).collect();
    if let Some(pool) = arguments.pool.as_deref().filter(|pool| names.iter().all(|n| &***n != *pool)) {
        return Err(Stop::Failed(
            format!("error: neither configuration has a pool `{pool}`"),
            super::EXIT_USAGE,
        ));
    }
    writeln!(out, "{source} -> {new}")?;
    let mut too_much = Vec::new();
    for old in before.iter().filter(|p| wanted(&p.name)) {
        match after.iter().find(|p| p.name == old.name) {
            None => writeln!(out, "pool {}: goes, with its {} nodes", old.name, old.nodes.len())?,
            Some(new) => {
                let moved = pool(old, new, live.as_ref(), out)?;
                if moved > arguments.max_share {
                    too_much.push(&*old.name);
                }
            }
        }
    }
    for new in after.iter().filter(|p| wanted(&p.name) && before.iter().all(|old| old.name != p.name)) {
        writeln!(out, "pool {}: comes, with {} nodes", new.name, new.nodes.len())?;
    }
    out.flush()?;
    if too_much.is_empty() {
        return Ok(());
    }
    let max = arguments.max_share * 100.0;
    let message = format!("pool {}: more than {max} % of the keys would move", too_much.join(", "));
    Err(Stop::Failed(message, EXIT_TOO_MUCH))
}

/// One pool that is in both. The share of its key space that moves.
fn pool(old: &PoolSpec, new: &PoolSpec, live: Option<&Live>, out: &mut impl Write) -> Result<f64, Stop> {
    let away = live.and_then(|l| l.away.get(&*old.name)).cloned().unwrap_or_default();
    let moves_away = |spec: &PoolSpec| spec.policy.on_ejected == OnEjected::Rehash;
    let rings = [ring(old), ring(new)];
    let serves = |spec: &PoolSpec, ring: &Ring, i: usize| {
        !moves_away(spec) || away.iter().all(|name| **name != *ring.members()[i].name)
    };
    let (a, b) = (|i| serves(old, &rings[0], i), |i| serves(new, &rings[1], i));
    writeln!(out, "\npool {}: {}", old.name, nodes(old, new))?;
    for name in &away {
        writeln!(out, "  node {name} is away now, and is taken for away afterwards, too")?;
    }
    if old.policy.http.key != new.policy.http.key {
        let moved = scattered((&rings[0], &a), (&rings[1], &b));
        writeln!(out, "  {} of the requests move: another part of them is the key", percent(moved))?;
        return Ok(moved);
    }
    let diff = diff((&rings[0], &a), (&rings[1], &b));
    let changed = changed(old, new);
    let is_forced = |name: &Option<Arc<str>>| name.as_ref().is_none_or(|name| changed.contains(&**name));
    let forced: f64 = diff
        .moves
        .iter()
        .filter(|m| is_forced(&m.from) || is_forced(&m.to))
        .map(|m| m.share)
        .fold(0.0, |a, b| a + b);
    let about = if diff.sampled { "about " } else { "" };
    writeln!(
        out,
        "  {about}{} of the key space moves: {} forced, {} collateral",
        percent(diff.moved),
        percent(forced),
        percent((diff.moved - forced).max(0.0))
    )?;
    for part in &diff.moves {
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("nobody").to_owned();
        writeln!(out, "  {:>8}  {} -> {}", percent(part.share), name(&part.from), name(&part.to))?;
    }
    if let Some(rate) = live.and_then(|l| l.rates.get(&*old.name)) {
        let going = rate * diff.moved;
        writeln!(
            out,
            "  {rate:.0} requests a second now: about {going:.0} of them would find a cold node at first"
        )?;
    }
    Ok(diff.moved)
}

fn ring(spec: &PoolSpec) -> Ring {
    let members: Vec<Member> = spec.nodes.iter().map(|n| n.member()).collect();
    Ring::build(&spec.ring, &members)
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// Names of nodes that are in one configuration only, or with another weight.
fn changed<'a>(old: &'a PoolSpec, new: &'a PoolSpec) -> HashSet<&'a str> {
    let weights = |spec: &'a PoolSpec| -> HashMap<&'a str, u32> {
        spec.nodes.iter().map(|n| (&*n.name, n.weight)).collect()
    };
    let (old, new) = (weights(old), weights(new));
    let differs = |name: &&&str| old.get(**name) != new.get(**name);
    old.keys().chain(new.keys()).filter(differs).copied().collect()
}

/// `3 nodes -> 4; comes: d`.
fn nodes(old: &PoolSpec, new: &PoolSpec) -> String {
    let names = |spec: &PoolSpec| -> BTreeMap<Arc<str>, (String, u32)> {
        spec.nodes.iter().map(|n| (n.name.clone(), (n.address.to_string(), n.weight))).collect()
    };
    let (before, after) = (names(old), names(new));
    let of = |word: &str, names: Vec<&str>| {
        if names.is_empty() { String::new() } else { format!("; {word}: {}", names.join(", ")) }
    };
    let goes = before.keys().filter(|n| !after.contains_key(*n)).map(|n| &**n).collect();
    let comes = after.keys().filter(|n| !before.contains_key(*n)).map(|n| &**n).collect();
    let kept = || before.iter().filter_map(|(name, was)| Some((&**name, was, after.get(name)?)));
    let weighs = kept().filter(|(_, a, b)| a.1 != b.1).map(|k| k.0).collect();
    let moves = kept().filter(|(_, a, b)| a.0 != b.0).map(|k| k.0).collect();
    let ring = if old.ring == new.ring { "" } else { "; another placement" };
    format!(
        "{} nodes -> {}{}{}{}{}{ring}",
        before.len(),
        after.len(),
        of("comes", comes),
        of("goes", goes),
        of("other weight", weighs),
        of("other address, no key moves for it", moves)
    )
}

/// What a running ringway says of its pools, by name.
struct Live {
    away: HashMap<String, Vec<String>>,
    /// Requests a second.
    rates: HashMap<String, f64>,
}

impl Live {
    fn read(address: &str) -> Result<Live, Stop> {
        let topology: Value = admin::get_json(address, "/v1/topology")?;
        let mut away = HashMap::new();
        for pool in topology["pools"].as_array().into_iter().flatten() {
            let is_out = |node: &&Value| node["placement"] == "away";
            let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
            let nodes = pool["nodes"].as_array().into_iter().flatten();
            away.insert(name(pool), nodes.filter(is_out).map(name).collect());
        }
        let first = requests(&admin::get(address, "/metrics")?);
        thread::sleep(COUNTED);
        let second = requests(&admin::get(address, "/metrics")?);
        let rate = |(pool, count): (String, f64)| {
            let before = first.get(&pool).copied().unwrap_or(count);
            (pool, (count - before).max(0.0) / COUNTED.as_secs_f64())
        };
        Ok(Live { away, rates: second.into_iter().map(rate).collect() })
    }
}

/// Requests that nodes were sent, by pool, on a page of metrics.
fn requests(page: &str) -> HashMap<String, f64> {
    let mut sums = HashMap::new();
    for line in page.lines().filter(|l| l.starts_with("ringway_node_requests_total{")) {
        let pool = line.split("pool=\"").nth(1).and_then(|rest| rest.split('"').next());
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
        if let (Some(pool), Some(count)) = (pool, count) {
            *sums.entry(pool.to_owned()).or_insert(0.0) += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests are added up by pool.
    #[test]
    fn requests_by_pool() {
        let page = "ringway_node_requests_total{pool=\"a\",node=\"x\",class=\"read\"} 3\n\
                    ringway_node_requests_total{pool=\"a\",node=\"y\",class=\"read\"} 4\n\
                    ringway_node_requests_total{pool=\"b\",node=\"x\",class=\"read\"} 5\n\
                    ringway_requests_total{pool=\"a\"} 9\n";
        assert_eq!(requests(page), HashMap::from([("a".to_owned(), 7.0), ("b".to_owned(), 5.0)]));
    }
}

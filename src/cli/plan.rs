//! `plan`: what a new configuration would move, before it is in force: against a running ringway, of which it
//! is asked who serves what and what is asked of whom, or offline against another file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    path::PathBuf,
    sync::Arc,
};

use clap::Args;

use super::{
    Stop, load,
    running::{self, Rates, Running, topology},
};
use crate::{
    config::{Source, share},
    membership::{Compared, compare, leaves_too_much, moved},
    protocol::http::{KeyRule, KeySource},
    topology::{Entry, HttpSettings, Move, OnReturn, Placement, Policy, PoolSpec, Topology, Transition},
};

/// The exit code when more would move than may, or than a reload moves.
const EXIT_TOO_MUCH: u8 = 3;

const EXAMPLES: &str = "\
NEW is compared with what runs: the ringway at --admin, or at the admin address of NEW, says how it places \
keys, who is out, held or starting, and what its nodes are asked for. With --config OLD two files are \
compared, and nobody is asked; with both it is said where OLD is not what runs.

Forced moves are those that the change asks for: keys of a node that leaves, comes, or has another \
weight. All others are collateral: with vnode there are none. Expected misses are the reads that find \
something now, at the nodes that give keys away. Nothing is changed by asking. The exit code is 3 when \
a reload would refuse NEW for what it moves, or a pool would move more than --max-share, so that \
`ringway plan new.yaml && systemctl reload ringway` stops there.

Examples:
  ringway plan new.yaml                                  against the ringway that runs
  ringway plan new.yaml --admin 127.0.0.1:9400 --pool cache --max-share 10%
  ringway plan new.yaml --config ringway.yaml            offline";

/// Arguments of `plan`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Compare with this configuration instead of what runs
    #[arg(long, value_name = "OLD")]
    config: Option<PathBuf>,
    /// The configuration that is to come
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Only this pool
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// The admin address of the ringway to compare with [default: that of NEW]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// More than this share of a pool's keys is too much
    #[arg(long, value_name = "SHARE", default_value = "100%", value_parser = share)]
    max_share: f64,
}

/// What NEW is compared with.
struct Old {
    /// Who says so.
    source: String,
    pools: Vec<Running>,
    /// What is asked of whom; none of a file.
    rates: Option<Rates>,
}

/// Prints what would move, pool by pool.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let new = Source::File(arguments.new.clone());
    let loaded = load(&new)?.settings;
    let old = old(arguments, &loaded.admin.listen.to_string())?;
    let (before, after, reload_max) = (&old.pools, loaded.pools, loaded.reload.max_share);
    let wanted = |name: &str| arguments.pool.as_deref().is_none_or(|pool| pool == name);
    let mut names = before.iter().map(|p| &p.name).chain(after.iter().map(|p| &p.name));
    if let Some(pool) = arguments.pool.as_deref().filter(|pool| names.all(|n| &**n != *pool)) {
        return Err(Stop::Failed(
            format!("error: neither configuration has a pool `{pool}`"),
            super::EXIT_USAGE,
        ));
    }
    writeln!(out, "{} -> {new}", old.source)?;
    if let (Some(file), Some(_)) = (&arguments.config, &old.rates) {
        differences(&Source::File(file.clone()), before, out)?;
    }
    let (mut too_much, mut refused) = (Vec::new(), Vec::new());
    for running in before.iter().filter(|p| wanted(&p.name)) {
        match after.iter().find(|p| p.name == running.name) {
            None => {
                let nodes = running.spec.nodes.len();
                writeln!(out, "\npool {}: goes, with its {nodes} nodes and all of its keys", running.name)?;
                if is_refused(1.0, reload_max, out)? {
                    refused.push(&*running.name);
                }
                if arguments.max_share < 1.0 {
                    too_much.push(&*running.name);
                }
            }
            Some(new) => {
                let moved = pool(running, (new, loaded.reload.flush_new), old.rates.as_ref(), out)?;
                let left = leaves_too_much(&topology(&running.spec, &running.placements), new, reload_max);
                if let Some(why) = &left {
                    writeln!(out, "  a reload refuses this: {why}")?;
                }
                if is_refused(moved, reload_max, out)? || left.is_some() {
                    refused.push(&*running.name);
                }
                if moved > arguments.max_share {
                    too_much.push(&*running.name);
                }
            }
        }
    }
    for new in after.iter().filter(|p| wanted(&p.name) && before.iter().all(|old| old.name != p.name)) {
        writeln!(out, "\npool {}: comes, with {} nodes", new.name, new.nodes.len())?;
    }
    out.flush()?;
    let mut why = Vec::new();
    if !too_much.is_empty() {
        let max = arguments.max_share * 100.0;
        why.push(format!("pool {}: more than {max} % of the keys would move", too_much.join(", ")));
    }
    if !refused.is_empty() {
        let pools = refused.join(", ");
        why.push(format!(
            "pool {pools}: a reload refuses NEW; write a larger reload.max_share there if that is meant"
        ));
    }
    if why.is_empty() { Ok(()) } else { Err(Stop::Failed(why.join("\n"), EXIT_TOO_MUCH)) }
}

/// Whether it is more than NEW's own bound lets a reload move; says so.
fn is_refused(moved: f64, max: f64, out: &mut impl Write) -> Result<bool, Stop> {
    if moved > max {
        let max = percent(max);
        writeln!(out, "  a reload refuses this: it is more than reload.max_share ({max}) of NEW")?;
    }
    Ok(moved > max)
}

fn old(arguments: &Arguments, default: &str) -> Result<Old, Stop> {
    let address = match (&arguments.admin, &arguments.config) {
        (Some(address), _) => address,
        (None, None) => default,
        (None, Some(file)) => {
            let source = Source::File(file.clone());
            let pools = load(&source)?.settings.pools.into_iter().map(of_file).collect();
            return Ok(Old { source: source.to_string(), pools, rates: None });
        }
    };
    let pools = running::pools(address).map_err(|stop| match (stop, &arguments.admin) {
        (Stop::Failed(why, code), None) => {
            Stop::Failed(format!("{why}; --config OLD compares two files"), code)
        }
        (stop, _) => stop,
    })?;
    Ok(Old { source: format!("what runs at {address}"), pools, rates: Some(running::rates(address)?) })
}

/// A pool of a file, in which everyone serves.
fn of_file(spec: PoolSpec) -> Running {
    let http_key = http_key(&spec.policy);
    Running { name: spec.name.clone(), spec, http_key, placements: HashMap::new() }
}

fn http_key(policy: &Policy) -> Option<String> {
    (!policy.tells_misses()).then(|| policy.http.key.from.to_string())
}

/// Says where a file is not what runs.
fn differences(source: &Source, running: &[Running], out: &mut impl Write) -> Result<(), Stop> {
    let pools = load(source)?.settings.pools;
    for running in running {
        let Some(file) = pools.iter().find(|pool| pool.name == running.name) else {
            writeln!(out, "{source} is not what runs: it has no pool {}", running.name)?;
            continue;
        };
        let place = |spec: &PoolSpec| {
            let mut nodes: Vec<_> =
                spec.nodes.iter().map(|n| (n.name.clone(), n.address.to_string(), n.weight)).collect();
            nodes.sort();
            nodes
        };
        if (place(file), &file.ring) != (place(&running.spec), &running.spec.ring) {
            let name = &running.name;
            writeln!(out, "{source} is not what runs: pool {name}: {}", nodes(file, &running.spec))?;
        }
    }
    for file in pools.iter().filter(|pool| running.iter().all(|r| r.name != pool.name)) {
        writeln!(out, "{source} is not what runs: pool {} is not there", file.name)?;
    }
    Ok(())
}

/// One pool that is in both. The share of its key space that moves.
fn pool(
    old: &Running,
    (new, flush_new): (&PoolSpec, bool),
    rates: Option<&Rates>,
    out: &mut impl Write,
) -> Result<f64, Stop> {
    writeln!(out, "\npool {}: {}", old.name, nodes(&old.spec, new))?;
    // One that is away is received by the reload when it answers, at whatever address.
    let (before, mut after) = (topology(&old.spec, &old.placements), topology(new, &old.placements));
    states(old, new, out)?;
    if old.http_key != http_key(&new.policy) {
        // As both rules are only told by their words, any other one stands for the old.
        let from = match new.policy.http.key.from {
            KeySource::Path => KeySource::PathAndQuery,
            _ => KeySource::Path,
        };
        let http = HttpSettings {
            key: KeyRule { from, ..before.policy.http.key.clone() },
            ..HttpSettings::default()
        };
        let before = Topology {
            policy: Arc::new(Policy { http: Arc::new(http), ..(*before.policy).clone() }),
            ..before
        };
        let moved = moved(&before, &after);
        writeln!(out, "  {} of the requests move: another part of them is the key", percent(moved))?;
        return Ok(moved);
    }
    // The same rule, though only one of them is more than its words.
    after.policy = Arc::new(Policy { http: before.policy.http.clone(), ..(*after.policy).clone() });
    let compared = compare(&before, &after);
    let changed = changed(&old.spec, new);
    let is_forced = |name: &Option<Arc<str>>| name.as_ref().is_none_or(|name| changed.contains(&**name));
    let forced = compared.moves.iter().filter(|m| is_forced(&m.from) || is_forced(&m.to)).map(|m| m.share);
    let forced = forced.fold(0.0, |a, b| a + b);
    let about = if compared.sampled { "about " } else { "" };
    writeln!(
        out,
        "  {about}{} of the key space moves: {} forced, {} collateral",
        percent(compared.moved),
        percent(forced),
        percent((compared.moved - forced).max(0.0))
    )?;
    let mut moves: Vec<&Move> = compared.moves.iter().collect();
    moves.sort_by(|a, b| b.share.total_cmp(&a.share));
    for part in moves {
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("nobody").to_owned();
        writeln!(out, "  {:>8}  {} -> {}", percent(part.share), name(&part.from), name(&part.to))?;
    }
    servers(Transition { before: &before, after: &after }, new, flush_new, out)?;
    if let Some(rates) = rates {
        misses(Transition { before: &before, after: &after }, new, &compared, rates, out)?;
    }
    Ok(compared.moved)
}

/// The placements that nodes have afterwards: one at another address is another one.
fn remaining(old: &Running, new: &PoolSpec) -> HashMap<Arc<str>, Placement> {
    let address = |name: &str| old.spec.nodes.iter().find(|n| &*n.name == name).map(|n| &n.address);
    let stay = new.nodes.iter().filter(|node| address(&node.name) == Some(&node.address));
    stay.filter_map(|node| Some((node.name.clone(), *old.placements.get(&node.name)?))).collect()
}

/// Who does not serve all of its keys.
fn states(old: &Running, new: &PoolSpec, out: &mut impl Write) -> Result<(), Stop> {
    let stay = remaining(old, new);
    let mut all: Vec<_> = old.placements.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    for (name, placement) in all {
        let is = match placement {
            Placement::Owns => continue,
            Placement::Away => "is away now".to_owned(),
            Placement::Held => "is held now: its keys stay with it, and nobody serves them".to_owned(),
            Placement::Starting(to) => format!("starts now, with {:.0} % of its keys", to.share() * 100.0),
        };
        let then = match (stay.contains_key(name), placement) {
            (false, _) if new.nodes.iter().any(|node| node.name == *name) => {
                ", and its server at the new address has its keys when it answers"
            }
            (false, _) => "",
            (true, Placement::Away) => ", and is taken for away afterwards, too",
            (true, Placement::Held) => ", and is taken for held afterwards, too",
            (true, _) => ", and is taken for as far afterwards",
        };
        writeln!(out, "  node {name} {is}{then}")?;
    }
    Ok(())
}

/// Servers that come in, as new nodes or at another address of one: what becomes of what they have.
fn servers(
    Transition { before, after }: Transition<&Topology>,
    new: &PoolSpec,
    flush_new: bool,
    out: &mut impl Write,
) -> Result<(), Stop> {
    let is_served = new.policy.on_return == OnReturn::Serve || !new.policy.tells_misses();
    let keys = match (is_served, flush_new) {
        (true, _) => "what its server has is served as it is",
        (false, true) => "what its server has is deleted (reload.flush_new)",
        (false, false) => "a reload refuses it if its server has keys or does not answer (reload.flush_new)",
    };
    let whole = topology(new, &HashMap::new());
    for (entry, share) in after.nodes.iter().zip(whole.shares()) {
        let (name, address) = (&entry.node.name, &entry.node.address);
        match before.nodes.iter().find(|e| e.node.name == *name).map(|e| &e.node.address) {
            None => writeln!(out, "  node {name} comes: {keys}")?,
            Some(was) if was != address => writeln!(
                out,
                "  node {name} is at {address} then: {} of the key space may be cold, unless the same process answers \
                 there; {keys}",
                percent(share)
            )?,
            Some(_) => {}
        }
    }
    Ok(())
}

/// What would be asked for where it is not.
fn misses(
    Transition { before, after }: Transition<&Topology>,
    new: &PoolSpec,
    compared: &Compared,
    rates: &Rates,
    out: &mut impl Write,
) -> Result<(), Stop> {
    let rate =
        |node: &str| rates.get(&(before.pool.to_string(), node.to_owned())).copied().unwrap_or_default();
    let requests: f64 = before.nodes.iter().map(|e| rate(&e.node.name).requests).sum();
    if !new.policy.tells_misses() {
        let going = requests * compared.moved;
        writeln!(
            out,
            "  {requests:.0} requests a second now: about {going:.0} of them would come to another node, which may \
             have to fetch what they ask for"
        )?;
        return Ok(());
    }
    let hits = before.nodes.iter().map(|e| rate(&e.node.name).hits.max(0.0)).fold(0.0, |a, b| a + b);
    let extra = extra_misses(Transition { before, after }, compared, &|node| rate(node).hits.max(0.0));
    writeln!(
        out,
        "  {requests:.0} requests a second now, {hits:.0} of them reads that find something: about {extra:.0} extra misses a \
         second at first"
    )?;
    Ok(())
}

/// Of the reads that find something at a node, those for the part of its keys that it gives to another.
fn extra_misses(
    Transition { before, after }: Transition<&Topology>,
    compared: &Compared,
    hits: &dyn Fn(&str) -> f64,
) -> f64 {
    let shares = before.shares();
    let names = before.nodes.iter().map(|e| &e.node.name);
    let shares: HashMap<&Arc<str>, f64> = names.zip(shares).collect();
    // What nobody serves is refused, and not missed.
    let held = after.nodes.iter().filter(|e| e.placement == Placement::Held);
    let held: HashSet<&Arc<str>> = held.map(|e| &e.node.name).collect();
    let served = compared.moves.iter().filter(|m| m.to.as_ref().is_some_and(|to| !held.contains(to)));
    let of = |m: &Move| {
        let from = m.from.as_ref()?;
        let share = shares.get(from).copied().filter(|share| *share > 0.0)?;
        Some(hits(from) * (m.share / share).min(1.0))
    };
    // Another server has nothing of what its node had.
    let is_left = |e: &&Entry| {
        let then = after.nodes.iter().find(|then| then.node.name == e.node.name);
        e.placement != Placement::Away && then.is_some_and(|then| then.node.address != e.node.address)
    };
    let left = before.nodes.iter().filter(is_left).map(|e| hits(&e.node.name));
    served.filter_map(of).chain(left).fold(0.0, |a, b| a + b)
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
        of("other address", moves)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{HealthSettings, NodeSpec};

    fn spec(nodes: &[&str], policy: Policy) -> PoolSpec {
        let node = |name: &&str| NodeSpec {
            name: (**name).into(),
            address: "h:1".parse().expect("an address"),
            weight: 1,
            zone: None,
        };
        PoolSpec {
            name: "cache".into(),
            listen: Vec::new(),
            ring: crate::ring::Settings::default(),
            policy: Arc::new(policy),
            health: HealthSettings::default(),
            nodes: nodes.iter().map(node).collect(),
        }
    }

    /// What is missed is what was found at those who give keys away, and only their part of it: nothing where
    /// nothing is found, be it written or always missed.
    #[test]
    fn misses_come_of_hits() {
        let (old, new) = (spec(&["a", "b"], Policy::default()), spec(&["a", "b", "c"], Policy::default()));
        let nobody = HashMap::new();
        let (before, after) = (topology(&old, &nobody), topology(&new, &nobody));
        let compared = compare(&before, &after);
        let part = |node: &str| {
            let given: f64 =
                compared.moves.iter().filter(|m| m.from.as_deref() == Some(node)).map(|m| m.share).sum();
            let at = before.nodes.iter().position(|e| &*e.node.name == node).expect("it is there");
            given / before.shares()[at]
        };
        let extra = |hits: &dyn Fn(&str) -> f64| {
            extra_misses(Transition { before: &before, after: &after }, &compared, hits)
        };
        assert_eq!(extra(&|_| 0.0), 0.0);
        let only_a = extra(&|node| if node == "a" { 1000.0 } else { 0.0 });
        assert!((only_a - 1000.0 * part("a")).abs() < 1e-6 && only_a > 100.0, "{only_a}");
        let both = extra(&|_| 1000.0);
        assert!((both - 1000.0 * (part("a") + part("b"))).abs() < 1e-6, "{both}");
    }

    /// Whose keys a gutter serves gives up those of the gutter, who is held its own, and who starts those
    /// that it has.
    #[test]
    fn gutters_held_and_starting() {
        let moves = |policy: &Policy, placement: Placement| -> Vec<String> {
            let (old, new) = (spec(&["a", "b"], policy.clone()), spec(&["a", "b", "c"], policy.clone()));
            let placements: HashMap<Arc<str>, Placement> = HashMap::from([("b".into(), placement)]);
            let compared = compare(&topology(&old, &placements), &topology(&new, &placements));
            let sum: f64 = compared.moves.iter().map(|m| m.share).sum();
            assert!((sum - compared.moved).abs() < 1e-9 && compared.moved > 0.1);
            let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("nobody").to_owned();
            compared.moves.iter().map(|m| format!("{} -> {}", name(&m.from), name(&m.to))).collect()
        };
        let rehash = Policy::default();
        let failover = crate::topology::Failover { pool: "g".into(), ttl_max: std::time::Duration::ZERO };
        let over = Policy {
            on_ejected: crate::topology::OnEjected::Failover,
            failover: Some(failover),
            ..Policy::default()
        };
        assert_eq!(moves(&rehash, Placement::Owns), ["a -> c", "b -> c"]);
        assert_eq!(moves(&rehash, Placement::Away), ["a -> c"]);
        assert_eq!(moves(&rehash, Placement::Held), ["a -> c", "b -> c"]);
        assert_eq!(moves(&over, Placement::Away), ["a -> c", "pool g -> c"]);
        assert_eq!(moves(&over, Placement::Held), ["a -> c", "b -> c"]);
    }
}

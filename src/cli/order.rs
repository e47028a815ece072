//! `drain`, `undrain`, `eject`, `restore`, `pin`, `unpin`: what an operator wants of a node of a running
//! ringway. Without `--yes` they say what would come of it, and do nothing.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::Value;

use super::{
    Stop, admin,
    status::{waits_for, way_out},
};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
drain    gives up a node's keys and finishes what is in flight; for maintenance
undrain  takes that back
eject    gives up a node's keys at once: requests in flight are cut off
restore  takes that back; a node that waits for the warmth budget need not wait
pin      keeps a node in the ring, whatever is thought of it; unpin takes that back

Each takes back its own order only. Without --yes it is only said what would move, and what would become of \
the node's data. An order holds until it is taken back, with a state_file over restarts of ringway, too; \
saying it twice changes nothing.

Examples:
  ringway drain cache-3 --pool cache              what would move
  ringway drain cache-3 --pool cache --yes --wait
  ringway undrain cache-3 --pool cache --yes";

/// Arguments of each of them.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The node's name
    #[arg(value_name = "NODE")]
    node: String,
    /// The pool; wanted when there are several
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// The admin address of the ringway
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    admin: String,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Return when nothing is in flight at the node any more, or when it serves again
    #[arg(long, requires = "yes")]
    wait: bool,
    /// How long --wait waits, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "wait")]
    timeout: u64,
}

/// Sends the order with this word.
pub(super) fn run(word: &str, arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let Arguments { node, admin: address, yes, .. } = arguments;
    let pool = match &arguments.pool {
        Some(pool) => pool.clone(),
        None => admin::only_pool(address)?,
    };
    let path = format!(
        "/v1/pools/{}/nodes/{}/{word}?dry_run={}",
        admin::escaped(pool.as_bytes()),
        admin::escaped(node.as_bytes()),
        !yes
    );
    let done = admin::post_json(address, &path)?;
    tell(word, arguments, &pool, &done, out)?;
    if arguments.wait { wait(word, arguments, &pool, out) } else { Ok(()) }
}

fn tell(
    word: &str,
    arguments: &Arguments,
    pool: &str,
    done: &Value,
    out: &mut impl Write,
) -> Result<(), Stop> {
    let (node, yes) = (&arguments.node, arguments.yes);
    if done["unchanged"] == true {
        return Ok(writeln!(out, "{word} {node} of {pool}: it is so already")?);
    }
    let (moved, epoch) = (done["moved"].as_f64().unwrap_or_default(), &done["epoch"]);
    let (moves, is) = if yes { ("moved", "is") } else { ("would move", "would be") };
    writeln!(
        out,
        "{word} {node} of {pool}: {:.2} % of the key space {moves}; epoch {epoch} {is} in force",
        moved * 100.0
    )?;
    for part in done["moves"].as_array().into_iter().flatten() {
        let name = |key: &str| part[key].as_str().unwrap_or("nobody").to_owned();
        let share = part["share"].as_f64().unwrap_or_default() * 100.0;
        writeln!(out, "  {share:>6.2} %  {} -> {}", name("from"), name("to"))?;
    }
    let would = |is: &'static str, would_be: &'static str| if yes { is } else { would_be };
    for other in done["others"].as_array().into_iter().flatten() {
        writeln!(out, "  {}", other_node(other, would("is", "would be")))?;
        if let Some(data) = other["data"].as_str() {
            writeln!(out, "    its data: {data}")?;
        }
    }
    let share = |key: &str| done[key].as_f64().unwrap_or_default() * 100.0;
    let fenced = share("fenced");
    if fenced >= 0.005 {
        let (waits, what) =
            (would("waits", "would wait"), "some milliseconds until it is clean, and is served then");
        writeln!(out, "  {fenced:.2} % of the key space {waits} for {what}")?;
    }
    let unserved = share("unserved") - fenced;
    if unserved >= 0.005 {
        writeln!(out, "  {unserved:.2} % of the key space {} served by nobody", would("is", "would be"))?;
    }
    if let (Some(serving), Some(all)) = (done["serving"].as_u64(), done["nodes"].as_u64())
        && serving < all
    {
        writeln!(out, "  {serving} of {all} nodes {} and answer", would("serve", "would serve"))?;
    }
    if let Some(replaced) = done["replaced"].as_str() {
        writeln!(out, "  in the place of {replaced}")?;
    }
    if let Some(data) = done["data"].as_str() {
        writeln!(out, "  its data: {data}")?;
    }
    if let Some(why) = done["unkept"].as_str() {
        writeln!(
            out,
            "  not kept: state_file can't be written ({why}), so that a ringway that is started now does not know of it"
        )?;
    }
    if !yes {
        writeln!(out, "nothing is done; say --yes to do it")?;
    }
    Ok(out.flush()?)
}

/// A node that the order does not name, and that has another placement for it.
fn other_node(other: &Value, is: &str) -> String {
    let text = |key: &str| other[key].as_str().unwrap_or("?");
    let fails = matches!(text("health"), "ejected" | "probation");
    let serves = matches!(text("after"), "owns" | "starting");
    let share = other["share"].as_f64().unwrap_or_default() * 100.0;
    let (node, before, after) = (text("node"), text("before"), text("after"));
    match (fails, serves) {
        (true, true) => format!(
            "node {node} fails and {is} taken back, as too few others are left: {before} -> {after}, with {share:.2} % of the \
             key space; requests for them fail until it answers"
        ),
        (true, false) => format!("node {node} fails: {before} -> {after}"),
        (false, _) => format!("node {node}: {before} -> {after}, with {share:.2} % of the key space"),
    }
}

/// Waits for the end of an order, and tells how far it is.
fn wait(word: &str, arguments: &Arguments, pool: &str, out: &mut impl Write) -> Result<(), Stop> {
    let leaves = matches!(word, "drain" | "eject");
    let start = Instant::now();
    let mut last = String::new();
    loop {
        let topology = admin::get_json(&arguments.admin, "/v1/topology")?;
        let pools = topology["pools"].as_array().into_iter().flatten();
        let nodes =
            pools.filter(|p| p["name"] == *pool).flat_map(|p| p["nodes"].as_array().into_iter().flatten());
        let Some(node) = nodes.into_iter().find(|n| n["name"] == *arguments.node) else {
            return Ok(writeln!(out, "{} has left the pool", arguments.node)?);
        };
        let in_flight = node["in_flight"].as_i64().unwrap_or_default();
        let owns = node["placement"] == "owns";
        let is_done = if leaves { !owns && in_flight == 0 } else { owns };
        let state = match leaves {
            true => format!("{in_flight} requests in flight"),
            false => format!(
                "{}, {}, with {:.0} % of its keys{}",
                node["health"].as_str().unwrap_or("?"),
                node["placement"].as_str().unwrap_or("?"),
                node["admitted"].as_f64().unwrap_or_default() * 100.0,
                waits_for(node).map_or_else(String::new, |(_, what)| format!("; {what}"))
            ),
        };
        if is_done {
            return Ok(writeln!(out, "done after {:.1} s", start.elapsed().as_secs_f64())?);
        }
        if state != last {
            let due = node["wait"]["due_s"].as_f64().filter(|_| !leaves);
            let due = due.map_or_else(String::new, |due| format!(", next in {due:.0} s"));
            let way_out = way_out(pool, node).filter(|_| !leaves);
            let way_out = way_out.map_or_else(String::new, |way_out| format!("; {way_out}"));
            writeln!(out, "  {state}{due}{way_out}")?;
            out.flush()?;
            last = state;
        }
        if start.elapsed() > Duration::from_secs(arguments.timeout) {
            let message = format!("error: not done within {} s: {last}", arguments.timeout);
            return Err(Stop::Failed(message, 1));
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A node that fails and is taken back is told as such, with what it has.
    #[test]
    fn others_are_told() {
        let other = |health: &str, before: &str, after: &str| {
            let share = if after == "away" { 0.0 } else { 0.4803 };
            json!({"node": "n2", "health": health, "before": before, "after": after, "share": share})
        };
        let back = other_node(&other("ejected", "away", "owns"), "would be");
        assert!(
            back.starts_with("node n2 fails and would be taken back, as too few others are left: away -> owns, with 48.03 % of"),
            "{back}"
        );
        assert_eq!(other_node(&other("ejected", "held", "away"), "is"), "node n2 fails: held -> away");
        let well = "node n2: away -> starting, with 48.03 % of the key space";
        assert_eq!(other_node(&other("healthy", "away", "starting"), "is"), well);
    }
}

//! `status`: how a running ringway is, on one screen.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::{Stop, admin, incident::list};

/// Something is not as it should be.
const EXIT_UNWELL: u8 = 4;

/// Incidents that are shown.
const INCIDENTS: usize = 5;

const EXAMPLES: &str = "\
Ends with 0 when all nodes serve as they should, with 4 when one does not or refused a write within the last minute, \
a pool is degraded, an order is in force, the last reload was refused or left something that only a restart puts in \
force, and with 1 when nobody answers.

Examples:
  ringway status
  ringway status --pool cache
  ringway status --admin 10.0.0.5:9400 || echo look at it";

/// Arguments of `status`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// One pool; all when it is not given
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// The admin address of the ringway
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    admin: String,
}

/// Prints how the pools and their nodes are.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let page = admin::get_json(&arguments.admin, "/v1/topology")?;
    let is_wanted = |pool: &&Value| arguments.pool.as_deref().is_none_or(|name| pool["name"] == name);
    let pools: Vec<&Value> = page["pools"].as_array().into_iter().flatten().filter(is_wanted).collect();
    if let (Some(name), true) = (&arguments.pool, pools.is_empty()) {
        let message = format!("error: {} has no pool `{name}`", arguments.admin);
        return Err(Stop::Failed(message, super::EXIT_USAGE));
    }
    let draining = if page["draining"] == true { ", draining" } else { "" };
    writeln!(out, "ringway {} at {}{draining}", text(&page, "version"), arguments.admin)?;
    let mut unwell = Vec::new();
    let refused: Vec<&str> =
        page["last_reload"]["refused"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let in_part = page["last_reload"]["in_part"] == true;
    let stays = if in_part {
        "in part, this pool is as before and the rest is in force"
    } else {
        "the settings before it are in force"
    };
    for why in &refused {
        writeln!(out, "the last reload was refused, {stays}: {why}")?;
    }
    if !refused.is_empty() {
        unwell.push("the last reload".to_owned());
    }
    let waits = page["last_reload"]["needs_restart"].as_array().into_iter().flatten();
    let waits: Vec<&str> = waits.filter_map(Value::as_str).collect();
    // Of a file that was refused nothing is in force.
    if !waits.is_empty() && (refused.is_empty() || in_part) {
        let keys = waits.join(", ");
        writeln!(out, "the file says otherwise than what is in force until a restart: {keys}")?;
        unwell.push("what waits for a restart".to_owned());
    }
    if let Some(why) = page["state_file_error"].as_str() {
        let what = "a ringway that is started now does not know who is away, nor of orders";
        writeln!(out, "state_file can't be written ({why}): {what}")?;
        unwell.push("state_file".to_owned());
    }
    for one in pools {
        pool(one, &mut unwell, out)?;
    }
    let page = admin::get_json(&arguments.admin, "/v1/incidents")?;
    let is_here = |incident: &&Value| {
        arguments.pool.as_deref().is_none_or(|name| incident["pool"] == name || incident["pool"].is_null())
    };
    let incidents = page["incidents"].as_array().into_iter().flatten().filter(is_here);
    let last: Vec<&Value> = incidents.take(INCIDENTS).collect();
    if !last.is_empty() {
        writeln!(out, "\nlast incidents (`ringway incident ID` tells one)")?;
        list(&last, out)?;
    }
    if unwell.is_empty() {
        return Ok(());
    }
    out.flush()?;
    unwell.dedup();
    Err(Stop::Failed(format!("not as it should be: {}", unwell.join(", ")), EXIT_UNWELL))
}

fn pool(pool: &Value, unwell: &mut Vec<String>, out: &mut impl Write) -> Result<(), Stop> {
    let name = text(pool, "name");
    let nodes: Vec<&Value> = pool["nodes"].as_array().into_iter().flatten().collect();
    let serving = nodes.iter().filter(|node| is_well(node)).count();
    writeln!(
        out,
        "\npool {name}: epoch {}, {serving} of {} nodes serve as they should, on_ejected {}",
        pool["epoch"],
        nodes.len(),
        text(pool, "on_ejected")
    )?;
    if let Some(why) = pool["degraded"].as_str() {
        writeln!(out, "  degraded: {why}")?;
        unwell.push(format!("pool {name}"));
    }
    if pool["serves"] != true {
        writeln!(out, "  no node of it serves")?;
        unwell.push(format!("pool {name}"));
    }
    let width = nodes.iter().map(|node| text(node, "name").len()).max().unwrap_or_default();
    for node in nodes {
        let share = node["share"].as_f64().unwrap_or_default() * 100.0;
        let (name_of_node, address) = (text(node, "name"), text(node, "address"));
        writeln!(
            out,
            "  {name_of_node:<width$}  {:<9}  {:<8}  {share:>6.2} %  {address}{}",
            text(node, "health"),
            text(node, "placement"),
            remarks(name, node)
        )?;
        if !is_well(node) {
            unwell.push(format!("{name}/{name_of_node}"));
        }
    }
    Ok(())
}

fn is_well(node: &Value) -> bool {
    node["health"] == "healthy"
        && node["placement"] == "owns"
        && ["order", "misconfigured", "slow", "refuses_writes"].iter().all(|key| node[key].is_null())
}

/// What else there is to say of a node.
fn remarks(pool: &str, node: &Value) -> String {
    let mut all = Vec::new();
    if let Some(order) = node["order"].as_str() {
        all.push(format!("by order: {order}"));
    }
    if let Some(admitted) = node["admitted"].as_f64().filter(|_| node["placement"] == "starting") {
        all.push(format!("with {:.0} % of its keys", admitted * 100.0));
    }
    if let Some((reason, what)) = waits_for(node) {
        let next = if matches!(reason, "flaps" | "cleaning") { "tried again" } else { "next" };
        let due = node["wait"]["due_s"].as_f64();
        let due = due.map_or_else(String::new, |due| format!(", {next} in {due:.0} s"));
        all.push(format!("{what}{due}"));
        all.extend(way_out(pool, node));
    }
    if node["leftovers"] == true && node["wait"]["reason"] != "leftovers" {
        all.push("old copies of its keys are still to be deleted on others".to_owned());
    }
    // A replica is told by its probe, too.
    let wrong = ["misconfigured", "refuses_writes"].iter().find_map(|key| node[key].as_str());
    all.extend(wrong.into_iter().chain(node["slow"].as_str()).map(str::to_owned));
    if all.is_empty() { String::new() } else { format!("  ({})", all.join("; ")) }
}

/// What an operator may do who would rather not wait for a node.
pub(super) fn way_out(pool: &str, node: &Value) -> Option<String> {
    let order = |word: &str| format!("`ringway {word} {} --pool {pool} --yes`", text(node, "name"));
    match (node["wait"]["reason"].as_str()?, node["placement"].as_str()?) {
        ("budget" | "hold_down", "held") => Some(format!("{} moves its keys at once", order("eject"))),
        ("budget", "away") => Some(format!("{} lets it back at once", order("restore"))),
        ("budget", "starting") => Some(format!("{} has it wait no longer", order("restore"))),
        _ => None,
    }
}

/// What a node waits for, or its keys: the reason's word, and as a person would say it.
pub(super) fn waits_for(node: &Value) -> Option<(&str, &str)> {
    let reason = node["wait"]["reason"].as_str()?;
    let what = match reason {
        "budget" if node["placement"] == "held" => "held by the warmth budget",
        "budget" if node["placement"] == "starting" => "takes its keys as the warmth budget has room",
        "budget" => "others serve until the warmth budget has room",
        "hold_down" => "its keys wait for its return (hold_down)",
        "leftovers" => "its keys wait until what others have of them is gone",
        "ttl" => "waits until what it has has expired",
        "cleaning" => "waits until its old keys are deleted",
        "flaps" => "flaps",
        "word" => "durable, and back without a key: waits for `ringway restore`",
        other => other,
    };
    Some((reason, what))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each node is a line that says what it waits for, and who is not well is named at the end.
    #[test]
    fn a_pool() {
        let node = |name: &str, more: Value| {
            let mut node = json!({"name": name, "address": "10.0.0.1:6379", "health": "healthy",
                "placement": "owns", "share": 0.25, "admitted": 1.0, "order": null, "wait": null,
                "misconfigured": null, "slow": null});
            more.as_object().into_iter().flatten().for_each(|(key, value)| node[key] = value.clone());
            node
        };
        let held =
            json!({"health": "ejected", "placement": "held", "wait": {"reason": "budget", "due_s": 34.2}});
        let flaps =
            json!({"health": "ejected", "placement": "away", "wait": {"reason": "flaps", "due_s": 33.9}});
        let starts =
            json!({"placement": "starting", "admitted": 0.25, "wait": {"reason": "budget", "due_s": 8.0}});
        let page = json!({"name": "cache", "epoch": 7, "on_ejected": "rehash", "serves": true,
            "degraded": "c fails and stays in the ring",
            "nodes": [node("a", json!({"leftovers": true})), node("bb", held), node("c", json!({"order": "drain"})), node("d", flaps),
                node("e", starts)]});
        let (mut unwell, mut out) = (Vec::new(), Vec::new());
        assert!(pool(&page, &mut unwell, &mut out).is_ok());
        let expected = "\npool cache: epoch 7, 1 of 5 nodes serve as they should, on_ejected rehash\n  \
            degraded: c fails and stays in the ring\n  \
            a   healthy    owns       25.00 %  10.0.0.1:6379  (old copies of its keys are still to be deleted on others)\n  \
            bb  ejected    held       25.00 %  10.0.0.1:6379  (held by the warmth budget, next in 34 s; `ringway eject bb --pool cache --yes` moves its keys at once)\n  \
            c   healthy    owns       25.00 %  10.0.0.1:6379  (by order: drain)\n  \
            d   ejected    away       25.00 %  10.0.0.1:6379  (flaps, tried again in 34 s)\n  \
            e   healthy    starting   25.00 %  10.0.0.1:6379  (with 25 % of its keys; takes its keys as the warmth budget has room, next in 8 s; `ringway restore e --pool cache --yes` has it wait no longer)\n";
        assert_eq!(String::from_utf8_lossy(&out), expected);
        assert_eq!(unwell, ["pool cache", "cache/bb", "cache/c", "cache/d", "cache/e"]);
    }
}

//! `incident`: what has happened to nodes, as a person would tell it. Asks a running ringway.

use std::io::Write;

use clap::Args;
use serde_json::Value;

use super::{Stop, admin};

const EXAMPLES: &str = "\
Without a number: one line for each incident, the newest first. With one: its timeline.

Examples:
  ringway incident
  ringway incident 3
  ringway incident --admin 10.0.0.5:9400 --json | jq '.[0]'";

/// Faults that begin within so long of each other are told together, in milliseconds.
const AT_ONCE_MS: u64 = 5_000;
/// So many of them are named.
const BESIDE: usize = 10;

/// Arguments of `incident`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The incident's number
    #[arg(value_name = "ID")]
    id: Option<u64>,
    /// The admin address of the ringway
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    admin: String,
    /// Print the JSON that the admin port gives
    #[arg(long)]
    json: bool,
}

/// Prints one incident, or all.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let page = admin::get_json(&arguments.admin, "/v1/incidents")?;
    let all: Vec<&Value> = page["incidents"].as_array().into_iter().flatten().collect();
    let Some(id) = arguments.id else {
        return match arguments.json {
            true => Ok(writeln!(out, "{:#}", page["incidents"])?),
            false => list(&all, out),
        };
    };
    let found = all.iter().find(|incident| incident["id"] == id);
    let Some(incident) = found else {
        let message = format!("error: {} keeps no incident {id}; it has {}", arguments.admin, all.len());
        return Err(Stop::Failed(message, 1));
    };
    if arguments.json { Ok(writeln!(out, "{incident:#}")?) } else { timeline(incident, &all, out) }
}

/// One line for each of these.
pub(super) fn list(all: &[&Value], out: &mut impl Write) -> Result<(), Stop> {
    if all.is_empty() {
        writeln!(out, "no incident since the start")?;
    }
    for incident in all {
        let state = match incident["closed_ms"].as_u64() {
            Some(closed) => {
                // As its timeline counts: from the first doubt.
                let begin =
                    incident["timeline"][0]["at_ms"].as_u64().unwrap_or(number(incident, "opened_ms"));
                format!("over after {}", span(closed.saturating_sub(begin)))
            }
            None => "goes on".to_owned(),
        };
        let (id, opened) = (number(incident, "id"), utc(number(incident, "opened_ms")));
        let who = match incident["node"].as_str() {
            Some(node) => {
                format!("{}/{node}  {}{}", text(incident, "pool"), outcome(incident), text(incident, "cause"))
            }
            None => "this proxy".to_owned(),
        };
        let first = &incident["diagnoses"][0];
        let diagnosis = match first["place"].as_str() {
            Some(place) => format!("{place} {}", text(first, "what")),
            None => "not located".to_owned(),
        };
        writeln!(out, "{id:>4}  {opened}  {who}  {diagnosis}  {state}")?;
    }
    Ok(())
}

/// What came of the verdict, where it was one: only a node that was ejected at once costs its keys nothing
/// more.
fn outcome(incident: &Value) -> &'static str {
    let steps = || incident["timeline"].as_array().into_iter().flatten();
    let words = ["ejected", "held", "kept"];
    let first = steps().find_map(|step| words.into_iter().find(|word| step["what"] == *word));
    match first {
        Some("ejected") => "ejected, ",
        Some("held") => "held, ",
        Some("kept") => "kept, ",
        _ => "",
    }
}

fn timeline(incident: &Value, all: &[&Value], out: &mut impl Write) -> Result<(), Stop> {
    let (pool, node, address) = (text(incident, "pool"), text(incident, "node"), text(incident, "address"));
    let opened = number(incident, "opened_ms");
    let id = number(incident, "id");
    match incident["node"].as_str() {
        Some(_) => {
            writeln!(out, "incident {id}: node {node} ({address}) of pool {pool}")?;
            writeln!(out, "  {}: {}", text(incident, "cause"), text(incident, "evidence"))?;
        }
        None => writeln!(out, "incident {id}: this proxy\n  {}", text(incident, "evidence"))?,
    }
    if let (Some(by), Some(rule)) = (incident["seen_by"].as_str(), incident["rule"].as_str()) {
        let rule = match rule {
            "first_probe" => "a certain failure of its first probe",
            "certain" => "a certain failure after another sign",
            "failures" => "health.failures requests in a row",
            "fall" => "health.fall probes in a row",
            "failure_rate" => "health.failure_rate of its requests",
            "slow_eject" => "health.slow_eject",
            other => other,
        };
        writeln!(out, "  seen by {by}; the rule: {rule}")?;
    }
    let moves = incident["moves"].as_array().into_iter().flatten();
    let part = |m: &Value| {
        let share = m["share"].as_f64().unwrap_or_default() * 100.0;
        format!("{share:.2} % to {}", m["to"].as_str().unwrap_or("nobody"))
    };
    let parts: Vec<String> = moves.map(part).collect();
    if !parts.is_empty() {
        writeln!(out, "  its keys went: {}", parts.join(", "))?;
    }
    located(incident, out)?;
    beside(incident, all, out)?;
    let steps = incident["timeline"].as_array().into_iter().flatten();
    let begin = steps.clone().next().map_or(opened, |step| number(step, "at_ms"));
    writeln!(out, "  {}", utc(begin))?;
    for step in steps {
        let moved = step["moved"].as_f64().filter(|share| *share > 0.0);
        let moved =
            moved.map_or(String::new(), |share| format!("; {:.2} % of the key space moved", share * 100.0));
        let after = span(number(step, "at_ms").saturating_sub(begin));
        let (epoch, what) = (number(step, "epoch"), text(step, "what"));
        let epoch = if epoch == 0 { " ".repeat(10) } else { format!("epoch {epoch:<4}") };
        writeln!(out, "  +{after:<9} {epoch} {what:<10} {}{moved}", text(step, "text"))?;
    }
    let so_far = match incident["closed_ms"].as_u64() {
        None => "it goes on".to_owned(),
        Some(closed) => {
            let emptied = if incident["emptied"] == true { ", and was emptied" } else { "" };
            let data = incident["data"].as_str();
            let data = data.map_or(String::new(), |d| format!("; it came back with data: {d}{emptied}"));
            format!("over after {}{data}", span(closed.saturating_sub(begin)))
        }
    };
    writeln!(out, "  {so_far}")?;
    if incident["node"].is_string() {
        let [failed, others, nobody] =
            ["failed", "substituted", "unserved"].map(|what| number(incident, &format!("requests_{what}")));
        let told = format!("failed at it: {failed}, served by others: {others}, by nobody: {nobody}");
        writeln!(out, "  requests for its keys: {told}")?;
    }
    toll(&incident["toll"], out)
}

/// What it cost the pool.
fn toll(toll: &Value, out: &mut impl Write) -> Result<(), Stop> {
    if toll.is_null() {
        return Ok(());
    }
    let last = toll["last_refused_ms"].as_u64();
    let last = last.map_or(String::new(), |ms| format!(", the last {} after the fault began", span(ms)));
    let rates = ["before", "lowest", "after"].map(|when| toll["hit_rate"][when].as_f64());
    let words = ["before", "at its lowest", "after"].iter().zip(rates);
    let told: Vec<String> =
        words.filter_map(|(word, rate)| Some(format!("{:.1} % {word}", rate? * 100.0))).collect();
    let rates = if told.is_empty() { String::new() } else { format!("; hit rate {}", told.join(", ")) };
    let refused = number(toll, "requests_refused");
    writeln!(out, "  clients of the pool were refused {refused} requests{last}{rates}")?;
    Ok(())
}

/// Where the fault is, what that rests on, and what else it may be.
fn located(incident: &Value, out: &mut impl Write) -> Result<(), Stop> {
    for (i, diagnosis) in incident["diagnoses"].as_array().into_iter().flatten().enumerate() {
        let word = if i == 0 { "where" } else { "or" };
        let confidence = diagnosis["confidence"].as_f64().unwrap_or_default();
        writeln!(out, "  {word}: {} (confidence {confidence:.2})", text(diagnosis, "text"))?;
        if i == 0 {
            let mut signs = diagnosis["evidence"].as_array().into_iter().flatten().filter_map(Value::as_str);
            signs.try_for_each(|sign| writeln!(out, "    - {sign}"))?;
        }
    }
    Ok(())
}

/// What else began at the same time: one cause may have several incidents.
fn beside(incident: &Value, all: &[&Value], out: &mut impl Write) -> Result<(), Stop> {
    let began = number(incident, "fault_ms");
    let is_beside = |other: &&&Value| {
        other["id"] != incident["id"] && number(other, "fault_ms").abs_diff(began) <= AT_ONCE_MS
    };
    let told = |other: &&Value| {
        let id = number(other, "id");
        match other["node"].as_str() {
            Some(node) => format!("{}/{node} ({id})", text(other, "pool")),
            None => format!("this proxy ({id})"),
        }
    };
    let mut others: Vec<String> = all.iter().rev().filter(is_beside).map(told).collect();
    let more = others.split_off(others.len().min(BESIDE)).len();
    if more > 0 {
        others.push(format!("{more} more"));
    }
    if !others.is_empty() {
        writeln!(out, "  at the same time: {}", others.join(", "))?;
    }
    Ok(())
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// `850 ms`, `12.3 s`, `7 min`, `3.5 h`.
fn span(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=119_999 => format!("{:.1} s", ms as f64 / 1e3),
        120_000..=7_199_999 => format!("{} min", ms / 60_000),
        _ => format!("{:.1} h", ms as f64 / 3.6e6),
    }
}

/// `2026-11-26 22:31:05.123 UTC`. The calendar is Howard Hinnant's `civil_from_days`.
pub(super) fn utc(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hours, minutes, seconds) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{:03} UTC", in_day % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times are shown in UTC, leap years included, and spans in a unit that fits.
    #[test]
    fn times() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_400_000, "2000-02-29 00:00:00.000 UTC"),
            (1_740_787_199_999, "2025-02-28 23:59:59.999 UTC"),
            (1_795_732_265_123, "2026-11-26 22:31:05.123 UTC"),
        ] {
            assert_eq!(utc(ms), shown);
        }
        for (ms, shown) in [(999, "999 ms"), (12_345, "12.3 s"), (430_000, "7 min"), (12_600_000, "3.5 h")] {
            assert_eq!(span(ms), shown);
        }
    }

    /// What began within seconds of an incident is told with it, the first of many by name.
    #[test]
    fn at_the_same_time() {
        let of = |id: u64, fault_ms: u64, node: Option<&str>| serde_json::json!({"id": id, "fault_ms": fault_ms, "pool": "cache", "node": node});
        let told = |incident: &Value, all: &[Value]| {
            let mut out = Vec::new();
            assert!(beside(incident, &all.iter().rev().collect::<Vec<_>>(), &mut out).is_ok());
            String::from_utf8(out).expect("text")
        };
        let mut all = vec![of(1, 4_000, Some("a")), of(2, 10_000, Some("b")), of(3, 12_000, None)];
        all.extend([of(4, 15_000, Some("d")), of(5, 15_001, Some("e"))]);
        assert_eq!(told(&all[0], &all), "", "it was alone");
        assert_eq!(told(&all[1], &all), "  at the same time: this proxy (3), cache/d (4)\n");
        let many: Vec<Value> = (0..13).map(|id| of(id, 0, Some("n"))).collect();
        assert!(told(&many[0], &many).ends_with("cache/n (10), 2 more\n"), "{}", told(&many[0], &many));
    }
}

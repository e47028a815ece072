//! The admin port's numbers against what really happened.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{
    Config, Load, Redis, Ringway, SOON, encode, load::Plan, prometheus::Prometheus, ringway::sum, until,
};

/// A worker that has much to do coalesces, one that has little does not, nor does any that is not to.
#[test]
fn a_busy_worker_coalesces() {
    let node = Redis::start();
    let pipeline = encode(&["GET", "nothing"]).repeat(2000);
    for coalesces in [true, false] {
        let mut ringway = Ringway::serve(Config::of([&node]).top(&format!("coalesce: {coalesces}")));
        let waits = |ringway: &mut Ringway| ringway.metric("ringway_coalesced_waits_total", &[]);
        let mut client = ringway.client();
        (0..200).for_each(|_| assert_eq!(client.cmd(&["GET", "nothing"]), "$-1\r\n"));
        assert_eq!(waits(&mut ringway), 0.0, "a request at a time is little");
        let mut turn = |ringway: &mut Ringway| {
            client.send(&pipeline).expect("it is taken");
            (0..2000).for_each(|_| assert_eq!(client.reply().expect("a reply"), b"$-1\r\n"));
            waits(ringway) > 0.0
        };
        if coalesces {
            until(SOON, "it coalesces", || turn(&mut ringway));
        } else {
            assert!(!(0..50).any(|_| turn(&mut ringway)));
        }
    }
}

/// After a kill under load each request was counted exactly once, the shares sum to 1, and the
/// ejection has its cause.
#[test]
fn numbers_add_up_after_a_kill_under_load() {
    let mut nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    load.run(500);
    nodes[3].kill();
    ringway.wait_away("d");
    load.run(2000);
    let report = load.stop();
    let page = ringway.http("/metrics").1;
    let total = |labels: &[(&str, &str)]| sum(&page, "ringway_requests_total", labels) as usize;

    assert_eq!(total(&[("pool", "cache")]), report.ops.len() + report.preloaded);
    let writes = report.ops.iter().filter(|op| op.write).count() + report.preloaded;
    assert_eq!(total(&[("class", "write")]), writes);
    assert_eq!(total(&[("class", "read")]), report.ops.len() + report.preloaded - writes);
    let failed = report.failed(true).len() + report.failed(false).len();
    assert_eq!(total(&[]) - total(&[("outcome", "ok")]), failed);
    assert!((sum(&page, "ringway_node_share", &[]) - 1.0).abs() < 1e-6);
    assert_eq!(sum(&page, "ringway_node_share", &[("node", "d")]), 0.0);
    assert_eq!(sum(&page, "ringway_ejections_total", &[]), 1.0);
    assert_eq!(sum(&page, "ringway_ejections_total", &[("node", "d"), ("cause", "refused")]), 1.0);
    assert_eq!(sum(&page, "ringway_epoch", &[]), ringway.epoch() as f64);
    assert_eq!(sum(&page, "ringway_sessions_accepted_total", &[]), 20.0);
    assert_eq!(sum(&page, "ringway_node_in_flight", &[]), 0.0);
    assert_eq!(sum(&page, "ringway_parked_requests", &[]), 0.0);
}

/// A client's errors, refusals and local answers are counted in their own series.
#[test]
fn each_way_to_end_is_counted() {
    let nodes = Redis::several(2);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    client.cmd(&["SET", "a", "1"]);
    client.cmd(&["LPUSH", "a", "x"]);
    client.cmd(&["MULTI"]);
    client.cmd(&["NOSUCH"]);
    client.cmd(&["PING"]);
    client.cmd(&["DBSIZE"]);
    client.cmd(&["EVAL", "return 1", "0"]);
    let page = ringway.http("/metrics").1;
    let one = |labels: &[(&str, &str)]| sum(&page, "ringway_requests_total", labels);
    assert_eq!(one(&[]), 7.0, "{page}");
    assert_eq!(one(&[("class", "write"), ("outcome", "error")]), 1.0);
    assert_eq!(one(&[("outcome", "refused")]), 2.0);
    assert_eq!(one(&[("class", "all_nodes"), ("outcome", "ok")]), 1.0);
    assert_eq!(one(&[("class", "slow")]), 1.0);
    assert_eq!(sum(&page, "ringway_refusals_total", &[("reason", "denied")]), 1.0);
    assert_eq!(sum(&page, "ringway_refusals_total", &[("reason", "command")]), 1.0);
    assert!(sum(&page, "ringway_client_received_bytes_total", &[]) > 100.0);
    assert!(sum(&page, "ringway_node_sent_bytes_total", &[]) > 50.0);
    assert!(sum(&page, "ringway_node_request_duration_seconds_count", &[]) >= 4.0);
}

/// The rules that are shipped are those of the documentation, and Prometheus takes them.
#[test]
fn rules_are_those_of_the_docs() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(root.join("docs/metrics.md")).expect("there are docs");
    let path = root.join("deploy/prometheus/ringway.rules.yaml");
    let rules = std::fs::read_to_string(&path).expect("there are rules");
    let begin = docs.find("groups:").expect("the docs have rules");
    let end = begin + docs[begin..].find("```").expect("they end");
    let shipped = &rules[rules.find("groups:").expect("it has groups")..];
    assert_eq!(shipped, &docs[begin..end]);
    let output = Command::new("promtool").args(["check", "rules"]).arg(&path).output();
    let output = output.expect("promtool is installed (tests/run installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The shipped alerts fire for what they are about: a ringway that is dead, or crashes again and again, too.
#[test]
fn alerts_fire() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/alerts.yaml");
    let output = Command::new("promtool").args(["test", "rules"]).arg(tests).output();
    let output = output.expect("promtool is installed (tests/run installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Prometheus understands each query of the shipped dashboard, each asks for metrics that there are, and
/// after traffic and a node's death those have an answer that have one at all.
#[test]
fn the_dashboard_shows_something() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(root.join("docs/metrics.md")).expect("there are docs");
    let dashboard = std::fs::read_to_string(root.join("deploy/grafana/ringway.json")).expect("it is shipped");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels").iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let events = dashboard["annotations"]["list"].as_array().expect("a list").iter();
    let queries: Vec<String> = targets.chain(events).map(query).collect();
    assert!(queries.len() > 30, "{}", queries.len());
    let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    for name in queries.iter().flat_map(|query| query.split(is_part)) {
        let name = name.trim_end_matches("_bucket").trim_end_matches("_sum");
        let is_metric = name.starts_with("ringway_") || name.starts_with("process_");
        assert!(!is_metric || docs.contains(&format!("`{name}`")), "{name} is not documented");
    }
    let mut nodes = Redis::several(3);
    let (mut ringway, mut client) = Ringway::serve(Config::of(&nodes)).into_client();
    let prometheus = Prometheus::of(&ringway.admin());
    nodes[0].kill();
    ringway.wait_away("a");
    // A rate takes two samples, and requests between them.
    let mut unanswered = queries;
    until(SOON, "queries have an answer", || {
        client.cmd(&["MSET", "a", "1", "b", "2", "c", "3"]);
        client.cmd(&["MGET", "a", "b", "c", "d"]);
        unanswered.retain(|query| {
            let samples = prometheus.query(query).unwrap_or_else(|why| panic!("{query}: {why}"));
            let may_be_none = query.contains("> 0") || query.contains("changes(");
            samples.is_empty() && !may_be_none
        });
        unanswered.is_empty()
    });
}

/// A panel's query as Grafana would ask it.
fn query(target: &Value) -> String {
    let query = target["expr"].as_str().expect("each has a query");
    [("$__rate_interval", "4s"), ("$__interval", "4s"), ("$instance", ".*"), ("$pool", ".*")]
        .iter()
        .fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

/// How long it has been up counts from its start, whoever asks when: exporters tell restarts by it.
#[test]
fn uptime_counts_from_the_start() {
    let node = Redis::start();
    let mut ringway = Ringway::serve(Config::of([&node]));
    let started = ringway.metric("process_start_time_seconds", &[]);
    let now = || std::time::UNIX_EPOCH.elapsed().expect("it is later").as_secs_f64();
    until(SOON, "it has been up for a while", || now() > started + 2.5);
    let info = ringway.client().cmd(&["INFO", "server"]);
    let uptime = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:"));
    let uptime: f64 = uptime.and_then(|n| n.trim().parse().ok()).expect("a number");
    assert!(uptime >= 2.0 && uptime <= now() - started + 1.0, "{uptime}");
}

/// The live page is what Prometheus wants, after traffic, a reload and an ejection.
#[test]
fn promtool_finds_nothing_to_say() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes);
    let (mut ringway, mut client) = Ringway::serve(&config).into_client();
    client.cmd(&["MSET", "a", "1", "b", "2", "c", "3"]);
    assert_eq!(ringway.reload(&config), "ok");
    nodes[0].kill();
    ringway.wait_away("a");
    let page = ringway.http("/metrics").1;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (tests/run installs it)");
    promtool.stdin.take().expect("it is piped").write_all(page.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

/// Health, readiness, an unknown path and a wrong method are answered as they should be.
#[test]
fn the_admin_port_answers() {
    let nodes = Redis::several(2);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    assert_eq!(ringway.http("/healthz").0, 200);
    assert_eq!(ringway.http("/readyz").0, 200);
    assert_eq!(ringway.http("/nothing").0, 404);
    let topology = ringway.topology();
    let shares = topology["pools"][0]["nodes"].as_array().expect("a list").iter();
    let total: f64 = shares.map(|n| n["share"].as_f64().expect("a number")).sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
}

//! Incidents: what is recorded of a failure, where it can be read, and what a bad disk does to it.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Config, Load, Redis, Ringway, SOON, load::Plan, owners, ringway::run, until};

const BRISK: &str = "health: {interval: 100ms, timeout: 1s}";

/// The incidents, the newest first.
fn incidents(ringway: &mut Ringway) -> Vec<Value> {
    let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    page["incidents"].as_array().expect("a list").clone()
}

/// Lets a load go on for so long.
fn run_for(load: &Load, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        load.run(100);
    }
}

/// Waits until the one line of the file is this incident.
fn is_written(ringway: &Ringway, incident: &Value) {
    let path = std::path::Path::new(&ringway.config_path()).with_file_name("incidents.json");
    until(SOON, "it is written", || std::fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let line: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("it is there")).expect("one line");
    assert_eq!(&line, incident);
}

/// The words of an incident's timeline.
fn words(incident: &Value) -> Vec<String> {
    let steps = incident["timeline"].as_array().expect("a list").iter();
    steps.map(|step| step["what"].as_str().expect("a word").to_owned()).collect()
}

fn kill_and_restore(ringway: &mut Ringway, node: &mut Redis, name: &str) {
    let restores = ringway.metric("ringway_restores_total", &[("node", name)]);
    node.kill();
    ringway.wait_away(name);
    node.restart_empty();
    ringway.wait_metric("ringway_restores_total", &[("node", name)], restores + 1.0);
}

/// It says who saw the failure, by which rule the node was ejected, and who got its keys.
fn is_founded(incident: &Value) {
    assert!(["traffic", "probe"].iter().any(|by| incident["seen_by"] == *by), "{incident}");
    assert_eq!(incident["rule"], "certain", "{incident}");
    let moves = incident["moves"].as_array().expect("a list");
    assert!(moves.len() == 2 && moves.iter().all(|m| m["from"] == "b"), "{incident}");
}

/// A node that is killed and comes back is one incident: with its cause, its epochs, what moved and what
/// failed, over the admin port, told by `ringway incident`, and as a line of the file.
#[test]
fn a_failure_is_told() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).top("incidents: {file: incidents.json}");
    let mut ringway = Ringway::serve(config);
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let ask = |more: &[&str]| {
        let said = run(&[&["incident", "--admin", &admin], more].concat());
        (said.status.code(), String::from_utf8_lossy(&said.stdout).into_owned())
    };
    assert_eq!(ask(&[]), (Some(0), "no incident since the start\n".to_owned()));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    run_for(&load, Duration::from_secs(3));
    nodes[1].kill();
    ringway.wait_away("b");
    until(SOON, "it is recorded", || !incidents(&mut ringway).is_empty());
    let (code, out) = ask(&[]);
    assert!(code == Some(0) && out.contains("cache/b  ejected, refused  node gone  goes on"), "{out}");
    run_for(&load, Duration::from_secs(2));
    nodes[1].restart_empty();
    ringway.wait_metric("ringway_restores_total", &[("node", "b")], 1.0);
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    until(SOON, "its cost is known", || {
        load.run(100);
        incidents(&mut ringway)[0]["toll"]["hit_rate"]["after"].is_number()
    });
    load.stop();

    let all = incidents(&mut ringway);
    let incident = &all[0];
    assert_eq!(
        (all.len(), incident["id"].as_u64(), incident["cause"].as_str()),
        (1, Some(1), Some("refused"))
    );
    assert_eq!((incident["node"].as_str(), incident["data"].as_str()), (Some("b"), Some("empty")));
    assert!(incident["moved"].as_f64().is_some_and(|share| (0.1..0.6).contains(&share)), "{incident}");
    assert!(incident["requests_substituted"].as_u64() > Some(50), "{incident}");
    // Workers may not have seen the last epoch yet when it is told.
    let substituted = ringway.metric("ringway_node_substituted_requests_total", &[("node", "b")]) as u64;
    let told = incident["requests_substituted"].as_u64().expect("a number");
    assert!((told..told + 500).contains(&substituted), "{told} of {substituted}");
    is_founded(incident);
    let steps = words(incident);
    let rest: Vec<&str> = steps.iter().map(String::as_str).filter(|w| *w != "suspect").collect();
    assert_eq!(rest, ["ejected", "probation", "starts", "cleaned", "restored"], "{incident}");
    let toll = &incident["toll"];
    let rates = ["before", "lowest", "after"].map(|when| toll["hit_rate"][when].as_f64().expect("a rate"));
    assert!(rates[0] > 0.99 && rates[1] < 0.97 && rates[2] > rates[1], "keys were lost: {incident}");
    let misses = ringway.metric("ringway_node_misses_total", &[]);
    assert!(misses > 20.0, "{misses}");
    let (code, out) = ask(&["1"]);
    assert_eq!(code, Some(0), "{out}");
    for part in [
        "node b (",
        "; the rule: a certain failure after another sign",
        "  its keys went: ",
        "  where: node b: its process is gone, nobody listens on ",
        "epoch 2    ejected",
        "epoch 4    restored",
        "% of the key space",
        "came back with data: empty",
        "  requests for its keys: failed at it: ",
        "  clients of the pool were refused ",
        "; hit rate 100.0 % before, ",
        " % at its lowest, ",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert_eq!(ask(&["7"]).0, Some(1), "there is no seventh");
    is_written(&ringway, incident);
}

/// What clients were refused is told as they saw it, and when the last was, on the way out as well: an
/// incident whose last figures are still awaited is written when ringway stops.
#[test]
fn refusals_are_told() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).pool("on_ejected: fail");
    let mut ringway = Ringway::serve(config.top("incidents: {file: incidents.json}"));
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    load.run(300);
    let start = Instant::now();
    nodes[1].kill();
    ringway.wait_away("b");
    load.run(1000);
    nodes[1].restart_empty();
    ringway.wait_back("b");
    let lasted = start.elapsed().as_millis() as u64;
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    let report = load.stop();
    let seen = report.failed(true).len() + report.failed(false).len();
    assert!(seen > 100, "{seen}");
    let mut toll = Value::Null;
    until(SOON, &format!("all {seen} are counted"), || {
        toll = incidents(&mut ringway)[0]["toll"].clone();
        toll["requests_refused"] == seen
    });
    assert!(toll["last_refused_ms"].as_u64().is_some_and(|ms| (50..=lasted).contains(&ms)), "{toll}");
    let path = std::path::Path::new(&ringway.config_path()).with_file_name("incidents.json");
    assert!(!path.exists(), "its hit rate after the return is not known yet");
    assert!(ringway.terminate().0.success());
    let line = std::fs::read_to_string(&path).expect("it was written");
    let line: Value = serde_json::from_str(&line).expect("one line");
    assert_eq!(line["toll"], toll);
}

/// A node that hangs has done so before anybody could doubt it: the last refusal is told from then on.
#[test]
fn a_hang_begins_before_it_is_doubted() {
    let nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).pool("request_timeout: 400ms");
    let mut ringway = Ringway::serve(config);
    let load = Load::start(&ringway.address(), &Plan { clients: 20, ..Plan::default() });
    load.run(300);
    nodes[1].stop();
    ringway.wait_away("b");
    nodes[1].cont();
    ringway.wait_back("b");
    load.stop();
    let mut incident = Value::Null;
    until(SOON, "it is over, and its refusals are counted", || {
        incident = incidents(&mut ringway)[0].clone();
        incident["closed_ms"].is_number() && incident["toll"]["last_refused_ms"].is_number()
    });
    let last = incident["toll"]["last_refused_ms"].as_u64().expect("a number");
    assert!((380..3_000).contains(&last), "requests that hung were refused after 400 ms: {incident}");
    let number = |key: &str| incident[key].as_u64().expect("a number");
    assert!(number("fault_ms") + 400 <= number("opened_ms"), "{incident}");
}

/// The file is set aside when it is full; where nothing can be written there is one warning, and the
/// ring heals as before.
#[test]
fn the_file_is_bounded_and_may_fail() {
    let mut nodes = Redis::several(2);
    let config =
        Config::of(&nodes).pool(BRISK).top("incidents: {file: x/incidents.json, file_bytes_max: 64KiB}");
    let mut ringway = Ringway::serve(config);
    for _ in 0..2 {
        kill_and_restore(&mut ringway, &mut nodes[0], "a");
    }
    let warned = "can't write incidents; they are kept in memory, see /v1/incidents";
    until(SOON, "it warns", || ringway.said().contains(warned));
    until(SOON, "both are over", || incidents(&mut ringway).iter().all(|i| i["closed_ms"].is_number()));
    ringway.wait_metric("ringway_incidents_unwritten_total", &[], 2.0);
    assert_eq!(ringway.said().matches(warned).count(), 1, "{}", ringway.said());
    let directory = std::path::Path::new(&ringway.config_path()).with_file_name("x");
    std::fs::create_dir(&directory).expect("a directory");
    std::fs::write(directory.join("incidents.json"), "x".repeat(64 << 10)).expect("a full file");
    kill_and_restore(&mut ringway, &mut nodes[0], "a");
    until(SOON, "it is written again", || ringway.said().contains("incidents are written again"));
    let aside = std::fs::metadata(directory.join("incidents.json.1")).expect("it was set aside").len();
    let new = std::fs::read_to_string(directory.join("incidents.json")).expect("a new one");
    assert_eq!((aside, new.lines().count()), (64 << 10, 1), "{new}");
}

/// What is held, waits and is let go is told in the incident; a node that leaves the pool closes it.
#[test]
fn what_waited_is_told() {
    let mut nodes = Redis::several(4);
    let config = Config::of(&nodes).pool(BRISK);
    let mut ringway = Ringway::serve(config.clone().pool("warmth: {share: 25%, window: 3s}"));
    ringway.wait_probed(&["a", "b", "c", "d"]);
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[2].kill();
    ringway.wait_away("c");
    let mut held = Value::Null;
    until(SOON, "c is an incident", || {
        held = incidents(&mut ringway)[0].clone();
        held["node"] == "c"
    });
    assert_eq!((&held["held"]["reason"], &held["moved"]), (&"budget".into(), &0.0.into()), "{held}");
    assert!(held["held"]["due_in_ms"].as_u64().is_some_and(|ms| (1..=3_000).contains(&ms)), "{held}");
    let step =
        held["timeline"].as_array().expect("a list").iter().find(|s| s["what"] == "held").expect("a step");
    let why = "; its keys wait for the warmth budget, next in ";
    assert!(step["text"].as_str().is_some_and(|text| text.contains(why)), "{step}");
    until(SOON, "the log says so", || {
        ringway.said().lines().any(|l| l.contains("keys held") && l.contains("the warmth budget, next in "))
    });
    until(SOON, "c is let go", || ringway.node("c")["placement"] == "away");
    nodes[2].restart_empty();
    ringway.wait_back("c");
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    let steps = words(&incidents(&mut ringway)[0]);
    let order = ["held", "released", "restored"].map(|word| steps.iter().position(|step| step == word));
    assert!(order.is_sorted() && order[0].is_some(), "{steps:?}");
    assert!(incidents(&mut ringway)[0]["moved"].as_f64().is_some_and(|share| share > 0.1), "then they moved");
    let [a, _, c, d] = [0, 1, 2, 3].map(|i| nodes[i].address());
    let three = Config::of([]).node("a", &a).node("c", &c).node("d", &d).pool(BRISK);
    assert_eq!(ringway.reload(three.top("reload: {max_share: 100%}")), "ok");
    until(SOON, "b's is over", || incidents(&mut ringway)[1]["closed_ms"].is_number());
    assert_eq!(words(&incidents(&mut ringway)[1]).last().map(String::as_str), Some("left"));
}

/// A reload that takes a whole pool away closes its incidents, and they are written like others.
#[test]
fn an_incident_ends_with_its_pool() {
    let mut nodes = Redis::several(2);
    let gone = format!(
        "pools:\n  gone:\n    listen: 127.0.0.1:0\n    {BRISK}\n    nodes: [{{name: x, address: \"{}\"}}]",
        nodes[1].address()
    );
    let one =
        Config::of(&nodes[..1]).top("incidents: {file: incidents.json}").top("reload: {max_share: 100%}");
    let mut ringway = Ringway::serve(one.clone().before(&gone));
    nodes[1].kill();
    until(SOON, "x is an incident", || incidents(&mut ringway).len() == 1);
    assert_eq!(ringway.reload(one), "ok");
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    let incident = incidents(&mut ringway).swap_remove(0);
    assert_eq!(
        (&incident["pool"], words(&incident).last().map(String::as_str)),
        (&"gone".into(), Some("left"))
    );
    is_written(&ringway, &incident);
}

/// Where a key has lived is told epoch by epoch with the reasons, also of keys that are not text; what
/// concerned other keys is not.
#[test]
fn a_key_has_a_history() {
    let mut nodes = Redis::several(3);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool("health: {interval: 100ms, timeout: 1s}"));
    let mut client = ringway.client();
    let keys: Vec<String> = (0..50).map(|i| format!("key/{i} é%")).collect();
    keys.iter().for_each(|key| assert_eq!(client.cmd(&["SET", key, "v"]), "+OK\r\n"));
    let map = owners(&nodes);
    let of = |node: usize| keys.iter().find(|key| map[*key] == node).expect("each has some").clone();
    let (moved, stays) = (of(1), of(0));
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let ask = |key: &str| {
        let said = run(&["locate", "--history", "--admin", &admin, key]);
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    assert!(ask(&moved).contains("before                      b            served   nothing has changed"));
    nodes[1].kill();
    ringway.wait_away("b");
    nodes[1].restart_empty();
    ringway.wait_back("b");
    until(SOON, "it is told", || ask(&moved).contains("node b restored: "));
    let told = ask(&moved);
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    assert!(lines[0].ends_with(" in pool cache") && lines[1].contains("epoch 1 "), "{told}");
    assert!(lines[2].contains("epoch 2 ") && lines[2].contains("served   node b ejected: "), "{told}");
    assert!(lines[3].contains("cleaned  node b starts: ") && lines[4].contains(" b  "), "{told}");
    assert_eq!(ask(&stays).lines().count(), 2, "it has not moved: {}", ask(&stays));
    let (status, page) = ringway.http("/v1/pools/cache/keys/%FF%00");
    assert!(status == 200 && page.contains("\"candidates\""), "{page}");
    assert_eq!(ringway.http("/v1/pools/none/keys/a").0, 404);
}

/// A pool that a reload takes away, so that its incident is written at once, beside the pool under test.
fn with_another(node: &Redis) -> String {
    let pools = "pools:\n  gone:\n    listen: 127.0.0.1:0\n    health: {interval: 100ms, timeout: 1s}\n";
    format!("{pools}    nodes: [{{name: x, address: \"{}\"}}]", node.address())
}

/// A disk that does not answer, here a FIFO that nobody reads, keeps neither incidents from being seen nor
/// nodes from being ejected, nor the process from ending.
#[test]
fn a_disk_that_hangs_stops_nothing() {
    let mut nodes = Redis::several(3);
    let dir = tempfile::tempdir().expect("a directory");
    let fifo = dir.path().join("incidents.json");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
    let top = format!("incidents: {{file: {}}}", fifo.display());
    let two = Config::of(&nodes[..2]).pool(BRISK).top(&top).top("reload: {max_share: 100%}");
    let mut ringway = Ringway::serve(two.clone().before(&with_another(&nodes[2])));
    nodes[2].kill();
    until(SOON, "x is an incident", || incidents(&mut ringway).len() == 1);
    assert_eq!(ringway.reload(two), "ok");
    until(SOON, "it is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    for (at, name) in [(0, "a"), (1, "b"), (0, "a")] {
        kill_and_restore(&mut ringway, &mut nodes[at], name);
    }
    until(SOON, "they are told", || incidents(&mut ringway).len() == 4);
    let (status, took) = ringway.terminate();
    assert!(status.success() && took < Duration::from_secs(8), "{status} after {took:?}");
}

/// An incident that goes on when ringway ends is written, as one that is open, and so is one that ended a
/// moment before; that a node was emptied of what it came back with is said.
#[test]
fn what_is_open_is_written_at_the_end() {
    let mut nodes = Redis::several(3);
    let config = Config::of(&nodes).pool(BRISK).top("incidents: {file: incidents.json}");
    let mut ringway = Ringway::serve(config);
    (0..30).for_each(|i| assert_eq!(ringway.client().cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n"));
    nodes[0].stop();
    ringway.wait_away("a");
    nodes[0].cont();
    ringway.wait_back("a");
    until(SOON, "a's is over", || incidents(&mut ringway)[0]["closed_ms"].is_number());
    nodes[1].kill();
    ringway.wait_away("b");
    until(SOON, "b is an incident", || incidents(&mut ringway).len() == 2);
    assert!(ringway.terminate().0.success());
    let path = std::path::Path::new(&ringway.config_path()).with_file_name("incidents.json");
    let text = std::fs::read_to_string(path).expect("it is written");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [a, b] = &lines[..] else { panic!("two lines: {text}") };
    assert_eq!((&a["node"], &a["data"], &a["emptied"]), (&"a".into(), &"same".into(), &true.into()), "{a}");
    assert_eq!((&b["node"], &b["closed_ms"]), (&"b".into(), &Value::Null), "{b}");
    assert_eq!(words(b).last().map(String::as_str), Some("open"), "{b}");
}

/// A disk that is full costs the lines that it can't take, one warning, and leaves no half line behind; they
/// are counted, and when there is room incidents are written again.
#[test]
fn a_full_disk() {
    let Some(mut ringway) = on_a_small_disk() else { return };
    let disk = std::path::PathBuf::from(format!("/proc/{}/root/mnt", ringway.0.pid()));
    let (ringway, nodes) = (&mut ringway.0, &mut ringway.1);
    // A line that is there, and then room for half a page: what does not fit must not be half written.
    let file = disk.join("incidents.json");
    std::fs::write(&file, format!("{{\"before\": \"{}\"}}\n", "x".repeat(2_000))).expect("there is room");
    let before = std::fs::read(&file).expect("it is there");
    let filler = disk.join("filler");
    let mut all = std::fs::File::create(&filler).expect("there is room");
    while std::io::Write::write_all(&mut all, &[0; 4096]).is_ok() {}
    let flap = |ringway: &mut Ringway, nodes: &mut [Redis]| {
        // Long evidence: many times out and back within one page would fit otherwise.
        for _ in 0..4 {
            kill_and_restore(ringway, &mut nodes[0], "a");
        }
    };
    flap(ringway, nodes);
    let unwritten = |ringway: &mut Ringway| ringway.metric("ringway_incidents_unwritten_total", &[]);
    until(2 * SOON, "some are not written", || unwritten(ringway) > 0.0);
    until(SOON, "it warns", || ringway.said().contains("can't write incidents"));
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.as_bytes().starts_with(&before) && text.ends_with('\n'), "no half line: {text}");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{text}");
    std::fs::remove_file(&filler).expect("it can be removed");
    drop(all);
    kill_and_restore(ringway, &mut nodes[0], "a");
    until(2 * SOON, "they are written again", || ringway.said().contains("incidents are written again"));
    assert_eq!(ringway.said().matches("can't write incidents").count(), 1);
}

/// A ringway of two nodes whose incidents go to a disk of 64 KiB that it alone sees; `None` where there can
/// be none.
fn on_a_small_disk() -> Option<(Ringway, Vec<Redis>)> {
    let mount = "mount -t tmpfs -o size=64k none /mnt";
    let tried = std::process::Command::new("unshare").args(["-m", "sh", "-c", mount]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        crate::harness::skipped("no disk can be mounted here");
        return None;
    }
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("health: {interval: 100ms, timeout: 1s, flap_max: 100ms}");
    let config = config.top("incidents: {file: /mnt/incidents.json}");
    let run = format!("{mount} && exec \"$@\"");
    let command = ["unshare", "-m", "sh", "-c", &run, "sh", crate::harness::ringway::program()];
    Some((Ringway::serve_through(config, &command), nodes))
}

/// What is wrong with a node that is drained for it ends when it is mended, though the node is still out.
#[test]
fn who_is_mended_while_it_is_drained() {
    let nodes = Redis::several(3);
    let mut ringway = Ringway::serve(Config::of(&nodes).pool(BRISK));
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    assert_eq!(nodes[1].cmd(&["REPLICAOF", "127.0.0.1", "1"]), "+OK\r\n");
    until(SOON, "it opens", || incidents(&mut ringway).iter().any(|i| i["cause"] == "misconfigured"));
    let output = run(&["drain", "b", "--admin", &admin, "--yes", "--wait"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(nodes[1].cmd(&["REPLICAOF", "NO", "ONE"]), "+OK\r\n");
    until(SOON, "it ends", || !incidents(&mut ringway)[0]["closed_ms"].is_null());
    assert_eq!(words(&incidents(&mut ringway)[0]).last().map(String::as_str), Some("configured"));
    assert_eq!(ringway.node("b")["placement"], "away");
}

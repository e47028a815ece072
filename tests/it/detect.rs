//! Time to detect: from a node's fault to the epoch in which it is out, with the settings that ringway has
//! by itself. Each test prints a line for the report.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::harness::{Config, Load, Redis, Ringway, SOON, load::Plan, until};

/// How often each is measured.
const RUNS: usize = 5;
/// The machine may be busy with other tests: the best run keeps to the bound, the median to twice the bound
/// and all of them to so many times the bound.
const SLACK: u32 = 4;
/// The defaults of `health.interval`, `health.fall`, `health.timeout` and `request_timeout`.
const INTERVAL: Duration = Duration::from_secs(1);
const FALL: u32 = 3;
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
const REQUEST_TIMEOUT: Duration = Duration::from_millis(400);

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_millis() as u64
}

/// Lets a node fail and return, again and again, each time another one, so that none is known to flap. Gives
/// what passed from each fault to the ejection, both by the wall clock: when ringway says that it opened
/// the incident, and with which cause.
fn times(
    ringway: &mut Ringway,
    nodes: &mut [Redis],
    fault: fn(&mut Redis),
    end: fn(&mut Redis),
) -> Vec<(Duration, String)> {
    let mut all = Vec::new();
    for (run, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate().take(RUNS) {
        let at_ms = now_ms();
        fault(&mut nodes[run]);
        let mut opened = Value::Null;
        until(SOON, "it is recorded", || {
            let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
            opened = page["incidents"][0].clone();
            page["incidents"].as_array().is_some_and(|all| all.len() > run)
        });
        assert_eq!(opened["node"], name, "{opened}");
        let out_ms = opened["opened_ms"].as_u64().expect("a number");
        let cause = opened["cause"].as_str().expect("a word").to_owned();
        all.push((Duration::from_millis(out_ms.saturating_sub(at_ms)), cause));
        end(&mut nodes[run]);
        ringway.wait_back(name);
    }
    all
}

/// Prints the line of the report, past the harness that keeps what tests print, and holds the times against
/// the bound.
fn judge(what: &str, times: &[(Duration, String)], cause: &str, bound: Duration) {
    let mut sorted: Vec<Duration> = times.iter().map(|time| time.0).collect();
    sorted.sort_unstable();
    let (best, median, worst) = (sorted[0], sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
    let runs = sorted.len();
    let line = format!(
        "time to detect: {what}: {best:?} to {worst:?}, median {median:?} of {runs} (bound {bound:?})\n"
    );
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
    assert!(times.iter().all(|time| time.1 == cause), "{times:?}");
    assert!(best <= bound, "{line}");
    assert!(median <= 2 * bound, "{line}");
    assert!(worst <= SLACK * bound, "{line}");
}

fn kill(node: &mut Redis) {
    node.kill();
}

fn stop(node: &mut Redis) {
    node.stop();
}

fn start(node: &mut Redis) {
    node.restart_empty();
}

fn cont(node: &mut Redis) {
    node.cont();
}

/// Under load a killed node is out 50 ms after the kill, and one that hangs 100 ms after
/// `request_timeout`.
#[test]
fn under_load() {
    let mut nodes = Redis::several(RUNS + 1);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan::default());
    load.run(1000);
    let killed = times(&mut ringway, &mut nodes, kill, start);
    load.stop().assert_nothing_wrong();
    judge("killed, under load", &killed, "refused", Duration::from_millis(50));

    let mut nodes = Redis::several(RUNS + 1);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let load = Load::start(&ringway.address(), &Plan::default());
    load.run(1000);
    let hung = times(&mut ringway, &mut nodes, stop, cont);
    load.stop().assert_nothing_wrong();
    let bound = REQUEST_TIMEOUT + Duration::from_millis(100);
    judge("hung, under load", &hung, "timeout", bound);
}

/// Without a request probes find both within `interval` x `fall` + `timeout`.
#[test]
fn without_traffic() {
    let bound = INTERVAL * FALL + PROBE_TIMEOUT;
    let mut nodes = Redis::several(RUNS + 1);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let killed = times(&mut ringway, &mut nodes, kill, start);
    judge("killed, without traffic", &killed, "refused", bound);
    let mut nodes = Redis::several(RUNS + 1);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let hung = times(&mut ringway, &mut nodes, stop, cont);
    judge("hung, without traffic", &hung, "timeout", bound);
}

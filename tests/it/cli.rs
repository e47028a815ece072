//! The program as a person or a script runs it.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
};

use crate::harness::{Config, Redis, Ringway, SOON, until};

fn ringway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(arguments);
    command
}

/// Runs to the end: exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    told(ringway(arguments).output().expect("the program runs"))
}

fn told(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("prints text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs with this stdin, which may be longer than a pipe holds.
fn run_with(arguments: &[&str], stdin: Vec<u8>) -> (Option<i32>, String, String) {
    let mut command = ringway(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let mut pipe = child.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || pipe.write_all(&stdin));
    let told = told(child.wait_with_output().expect("the program ends"));
    // A program that stopped reading has said why on stderr.
    let _ = writer.join().expect("the writer ends");
    told
}

/// A configuration file that lives as long as the directory beside it.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ringway.yaml");
    fs::write(&path, text).expect("writable");
    (dir, path)
}

fn check(text: &str) -> (Option<i32>, String, String) {
    let (_dir, path) = file(text);
    run(&["check", "--config", path.to_str().expect("a plain path")])
}

const TWO_POOLS: &str = "
workers: 3
pools:
  cache:
    listen: [127.0.0.1:6380, unix:/tmp/x.sock]
    connections_per_node: 2
    nodes: [{name: a, address: 'redis.example:6379', zone: z1}, {name: b, address: '127.0.0.1:7', weight: 2}]
  store:
    listen: 0.0.0.0:6381
    on_ejected: fail
    nodes: [{name: only, address: embedded}]
";

/// `check` of the shipped configuration is fine and says what it amounts to.
#[test]
fn check_shipped() {
    let (code, out, err) = run(&["check"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("the shipped config.yaml is fine: 2 pools, 6 nodes, "), "{out}");
    assert!(out.contains("admin on 127.0.0.1:9400\n\npool cache: redis on 127.0.0.1:6380\n"), "{out}");
    assert!(out.contains("\npool memcached: memcached on 127.0.0.1:11311\n"), "{out}");
}

/// `check` takes its file as `plan` and `import` take theirs, and as `serve` does.
#[test]
fn check_a_file() {
    let (_dir, path) = file(TWO_POOLS);
    let path = path.to_str().expect("a plain path");
    let (bare, named) = (run(&["check", path]), run(&["check", "--config", path]));
    assert_eq!(bare.0, Some(0), "{bare:?}");
    assert_eq!(bare, named);
    assert_eq!(run(&["check", path, "--config", path]).0, Some(2));
    assert_eq!(run(&["check", "/nowhere/at/all"]).0, Some(2));
}

/// What a second failure within the budget's window comes to is said where no two nodes fit into the budget.
#[test]
fn check_tells_of_a_second_failure() {
    let told = |nodes: usize, more: &str| {
        let nodes: Vec<String> =
            (0..nodes).map(|i| format!("{{name: n{i}, address: 'h:{}'}}", i + 1)).collect();
        let text = format!("pools: {{p: {{listen: '127.0.0.1:1', {more} nodes: [{}]}}}}", nodes.join(", "));
        let (code, out, err) = check(&text);
        assert_eq!(code, Some(0), "{err}");
        out.lines().find(|line| line.contains("warmth:")).map(str::to_owned)
    };
    let four = told(4, "").expect("a quarter and a third of the rest");
    assert!(four.contains("a second node that fails within 60 s has its keys refused"), "{four}");
    assert!(four.contains("warmth.share (25 %)") && four.contains("`warmth: {held: miss}`"), "{four}");
    let web = told(4, "protocol: http,").expect("the same");
    assert!(!web.contains("held: miss"), "HTTP has no miss: {web}");
    for (nodes, more) in [
        (2, ""),
        (10, ""),
        (4, "warmth: {held: miss},"),
        (4, "warmth: {share: 60%},"),
        (4, "on_ejected: fail,"),
    ] {
        assert_eq!(told(nodes, more), None, "{nodes} {more}");
    }
}

/// `check` says which files ringway could not write here, and refuses a state file with which ringway would
/// not start.
#[test]
fn check_tells_of_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("state.json");
    let with = |state: &str| {
        let files = format!("state_file: {state}\nincidents: {{file: /proc/ringway-incidents.json}}\n");
        check(&format!(
            "{files}pools: {{p: {{listen: '127.0.0.1:1', nodes: [{{name: a, address: 'h:1'}}]}}}}"
        ))
    };
    let (code, _, err) = with("/nowhere/at/all/state.json");
    assert_eq!(code, Some(0), "{err}");
    let why = "warning: state_file: /nowhere/at/all/state.json can't be written by this user: its directory is not there";
    assert!(err.contains(why), "{err}");
    assert!(err.contains("warning: incidents.file: /proc/ringway-incidents.json can't be written"), "{err}");
    let path = state.to_str().expect("a plain path");
    let (code, _, err) = with(path);
    assert!(code == Some(0) && !err.contains("state_file"), "{err}");
    assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0, "nothing is left there");
    fs::write(&state, "").expect("it can be written");
    let (code, _, err) = with(path);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains(&format!("state_file {path}: can't read it: ")), "{err}");
    assert!(err.contains(&format!("`mv {path} {path}.bad`")), "{err}");
}

/// Each example that is shipped is fine, and has nothing to warn about.
#[test]
fn check_examples() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let mut checked = Vec::new();
    for entry in fs::read_dir(directory).expect("there are examples") {
        let path = entry.expect("readable").path();
        let (code, out, err) = run(&["check", "--config", path.to_str().expect("a plain path")]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{path:?}");
        assert!(out.contains(" is fine: 1 pool, "), "{out}");
        checked.push((path.file_name().expect("a file").to_owned(), out));
    }
    checked.sort();
    let names: Vec<_> = checked.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["http-cache.yaml", "object-store.yaml"]);
    assert!(checked[0].1.contains("\npool web: http on 0.0.0.0:8080\n"), "{checked:?}");
    assert!(
        checked[1].1.contains(" workers x 200 connections_per_node_max), and one for probes"),
        "{checked:?}"
    );
}

/// `check` prints pools, shares, the connection budget and, on stderr, the warnings.
#[test]
fn check_says_what_it_amounts_to() {
    let (code, out, err) = check(TWO_POOLS);
    assert_eq!(code, Some(0), "{err}");
    for want in [
        "2 pools, 3 nodes, 3 workers",
        "pool cache: redis on 127.0.0.1:6380, unix:/tmp/x.sock",
        "ring: vnode, hash xxh3_64",
        "connections to each node: up to 12 (3 workers x 2 protocol versions x 2 connections_per_node)",
        "zone z1",
    ] {
        assert!(out.contains(want), "wants {want} in {out}");
    }
    let shares: f64 =
        out.lines().filter_map(|l| l.split_once('%')?.0.split_whitespace().last()?.parse::<f64>().ok()).sum();
    assert!((shares - 200.0).abs() < 0.1, "each pool's shares sum to 100 %: {shares} in {out}");
    assert!(err.contains("ringway.yaml:9:13: warning: pools.store.listen: can be reached"), "{err}");
    assert!(err.contains("warning: pools.store.nodes[0].name: is the only node"), "{err}");
}

/// `check` of a bad file prints every error, each with file, line and key, and exits with 2.
#[test]
fn check_bad() {
    let (code, out, err) = check("workers: 0\npools:\n  p:\n    request_timeout: 4 parsecs\n    nodes: []\n");
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 4, "{err}");
    assert!(lines[0].ends_with("ringway.yaml:1:10: workers: `0` is outside 1 to 1024"), "{err}");
    assert!(
        lines[2].ends_with(
            "ringway.yaml:4:22: pools.p.request_timeout: `4 parsecs` is not a duration; write 400ms, 2s or 5m"
        ),
        "{err}"
    );
    let (code, _, err) = run(&["check", "--config", "/nowhere/ringway.yaml"]);
    assert_eq!(
        (code, err.as_str()),
        (Some(2), "/nowhere/ringway.yaml: cannot be read: there is no such file\n")
    );
}

/// `check --print` writes a configuration that is the same configuration again.
#[test]
fn check_print() {
    let (_dir, path) = file(TWO_POOLS);
    let (code, first, _) = run(&["check", "--print", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(code, Some(0));
    assert!(first.contains("request_timeout: 400ms"), "{first}");
    let (_dir, path) = file(&first);
    let (_, second, _) = run(&["check", "--print", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(first, second);
}

/// `serve` refuses a bad configuration before it opens anything.
#[test]
fn serve_bad() {
    let (_dir, path) = file("pools: {}\n");
    for arguments in [&["serve", "--config"][..], &["--config"]] {
        let (code, out, err) = run(&[arguments, &[path.to_str().expect("a plain path")]].concat());
        assert_eq!((code, out.as_str()), (Some(2), ""));
        assert!(err.ends_with("ringway.yaml:1:8: pools: has no pools; name at least one\n"), "{err}");
    }
}

/// `locate` prints key, hash, owner and the next candidates, the same each time, for one key as
/// for 100,000 from stdin.
#[test]
fn locate_many() {
    let keys: String = (0..100_000).map(|i| format!("key:{i}\n")).collect();
    let (code, out, err) = run_with(&["locate", "--pool", "cache", "-"], keys.clone().into_bytes());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let mut owned: HashMap<&str, usize> = HashMap::new();
    for (key, line) in keys.lines().zip(out.lines()) {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!((fields.len(), fields[0], fields[1].len()), (5, key, 16), "{line}");
        let candidates: HashSet<&str> = fields[2..].iter().copied().collect();
        assert_eq!(candidates, HashSet::from(["a", "b", "c"]), "{line}");
        *owned.entry(fields[2]).or_default() += 1;
    }
    assert_eq!(out.lines().count(), 100_000);
    assert!(owned.len() == 3 && owned.values().all(|n| *n > 20_000), "{owned:?}");
    let again = run_with(&["locate", "--pool", "cache", "--stdin"], keys.into_bytes()).1;
    assert!(out == again, "the same keys have the same lines");
    let (_, one, _) = run(&["locate", "--pool", "cache", "--next", "0", "key:7", "key:8"]);
    let short =
        |i: usize| out.lines().nth(i).and_then(|l| l.rsplitn(3, '\t').last()).expect("a line").to_owned();
    assert_eq!(one, format!("{}\n{}\n", short(7), short(8)));
}

/// With several pools `locate` wants to know which.
#[test]
fn locate_pool() {
    let (_dir, path) = file(TWO_POOLS);
    let config = path.to_str().expect("a plain path");
    let (code, _, err) = run(&["locate", "--config", config, "k"]);
    assert!(code == Some(2) && err.contains("write --pool") && err.contains("has cache, store"), "{err}");
    let (code, _, err) = run(&["locate", "--config", config, "--pool", "x", "k"]);
    assert!(code == Some(2) && err.contains("there is no pool `x`"), "{err}");
    let (code, out, _) = run(&["locate", "--config", config, "--pool", "store", "k"]);
    assert!(code == Some(0) && out.trim_end().ends_with("\tonly"), "{out}");
    assert_eq!(run(&["locate", "--config", config]).0, Some(2), "no key at all is wrong usage");
}

/// Behind the owner of a key `locate` names who has it while that is away: nobody where keys do not move, and
/// nodes of the gutter where they fail over.
#[test]
fn locate_by_what_happens() {
    let config = "\
pools:
  p:
    listen: 127.0.0.1:7001
    on_ejected: failover
    failover: {pool: g, ttl_max: 60s}
    prefixes: [{prefix: 'f:', on_ejected: fail}]
    on_return: serve
    nodes: [{name: p1, address: 127.0.0.1:1}, {name: p2, address: 127.0.0.1:2}]
  g:
    listen: 127.0.0.1:7002
    on_return: serve
    nodes: [{name: g1, address: 127.0.0.1:3}, {name: g2, address: 127.0.0.1:4}]
";
    let (_dir, path) = file(config);
    let config = path.to_str().expect("a plain path");
    let (code, out, err) = run(&["locate", "--config", config, "--pool", "p", "k", "f:k"]);
    assert_eq!(code, Some(0), "{err}");
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').skip(2).collect()).collect();
    assert!(lines[0].len() == 3 && lines[0][0].starts_with('p') && lines[0][1].starts_with("g/g"), "{out}");
    assert_eq!(lines[1].len(), 1, "{out}");
}

/// A reader that goes away early ends the program quietly.
#[test]
fn closed_pipe() {
    let keys: Vec<u8> = b"some key\n".repeat(200_000);
    let mut command = ringway(&["locate", "--pool", "cache", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    drop(child.stdout.take());
    let mut pipe = child.stdin.take().expect("a pipe");
    let writer = thread::spawn(move || pipe.write_all(&keys));
    let output = child.wait_with_output().expect("the program ends");
    assert!(writer.join().expect("the writer ends").is_err(), "the program did not read to the end");
    assert_eq!(told(output), (Some(0), String::new(), String::new()));
}

/// Help teaches by example, and its pages, scripts and version are there.
#[test]
fn pages() {
    let (code, out, _) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for want in ["Examples:", "redis-cli -p 6380", "check", "locate", "completions", "man"] {
        assert!(out.contains(want), "wants {want} in {out}");
    }
    let version = format!("ringway {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), (Some(0), version, String::new()));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).1.contains("locate"), "{shell}");
    }
    let (_, page, _) = run(&["man"]);
    assert!(page.contains(".TH ringway 1") && page.contains("SUBCOMMANDS"), "{page}");
    assert!(run(&["man", "locate"]).1.contains("candidates"), "a command has a page");
    assert_eq!(run(&["man", "nothing"]).0, Some(2));
}

/// Wrong usage is told and exits with 2.
#[test]
fn wrong_usage() {
    for arguments in [
        &["dance"][..],
        &["--log", "loud"],
        &["serve", "--log-level", "ringway=loud"],
        &["--log-level", "loud"],
        &["completions"],
    ] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains("error"), "{err}");
    }
}

/// `plan` says what a new configuration moves, by pair of nodes; with vnode nothing moves but what has
/// to, and more than was agreed is told by the exit code.
#[test]
fn plan() {
    let pool = |ring: &str, nodes: &[&str]| {
        let nodes: Vec<String> =
            nodes.iter().map(|n| format!("{{name: {n}, address: '127.0.0.1:7'}}")).collect();
        let nodes = nodes.join(", ").replace("127.0.0.1:7", "h:1");
        format!("pools: {{cache: {{listen: '127.0.0.1:1', ring: {ring}, nodes: [{nodes}]}}}}\n")
    };
    let plan = |old: String, new: String, more: &[&str]| {
        let ((_a, old), (_b, new)) = (file(&old), file(&new));
        let paths = [old.to_str().expect("a plain path"), new.to_str().expect("a plain path")];
        run(&[&["plan", "--config", paths[0], paths[1]], more].concat())
    };
    let share = |out: &str, word: &str| -> f64 {
        let text = out.lines().find(|l| l.contains("of the key space moves")).expect("the summary");
        let before = text.split(word).next().expect("the word is there").trim_end();
        before
            .trim_end_matches('%')
            .trim()
            .rsplit([' ', ','])
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a share")
    };
    let (three, four) = (["a", "b", "c"], ["a", "b", "c", "d"]);
    let (code, out, err) = plan(pool("{}", &three), pool("{}", &four), &[]);
    assert_eq!(code, Some(3), "a reload refuses it: {out}");
    assert_eq!(
        err,
        "pool cache: a reload refuses NEW; write a larger reload.max_share there if that is meant\n"
    );
    let meant = |pool: String| format!("reload: {{max_share: 60%}}\n{pool}");
    let (code, _, err) = plan(pool("{}", &three), meant(pool("{}", &four)), &[]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("pool cache: 3 nodes -> 4; comes: d"), "{out}");
    assert!((15.0..35.0).contains(&share(&out, "of the key")), "{out}");
    assert_eq!(share(&out, "collateral"), 0.0, "{out}");
    assert!(["a -> d", "b -> d", "c -> d"].iter().all(|pair| out.contains(pair)), "{out}");
    let (code, out, err) =
        plan(pool("{}", &four), meant(pool("{}", &three)), &["--max-share", "10%", "--pool", "cache"]);
    assert_eq!((code, out.contains("goes: d")), (Some(3), true), "{out}");
    assert_eq!(err, "pool cache: more than 10 % of the keys would move\n");
    let (code, out, _) =
        plan(pool("{placement: maglev}", &three), meant(pool("{placement: maglev}", &four)), &[]);
    assert!(code == Some(0) && share(&out, "collateral") > 0.0, "{out}");
    let (code, out, _) = plan(pool("{}", &three), pool("{}", &three), &["--max-share", "0%"]);
    assert_eq!((code, share(&out, "of the key")), (Some(0), 0.0), "{out}");
    let (code, _, err) = plan(pool("{}", &three), pool("{}", &three), &["--pool", "x"]);
    assert!(code == Some(2) && err.contains("neither configuration has a pool `x`"), "{err}");
    let (code, _, err) = plan(pool("{}", &three), pool("{}", &three), &["--admin", "127.0.0.1:1"]);
    assert!(code == Some(1) && err.contains("the admin port 127.0.0.1:1: Connection refused"), "{err}");
    let (_dir, new) = file(&format!("admin: {{listen: '127.0.0.1:2'}}\n{}", pool("{}", &three)));
    let (code, _, err) = run(&["plan", new.to_str().expect("a plain path")]);
    assert!(
        code == Some(1) && err.contains("127.0.0.1:2: Connection refused"),
        "NEW says whom to ask: {err}"
    );
    assert!(err.contains("--config OLD compares two files"), "{err}");
}

/// Requests of a client on a connection of its own, again and again, until it is dropped.
struct Repeats(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Repeats {
    fn start(
        mut client: crate::harness::Client,
        request: impl Fn(u32) -> [String; 3] + Send + 'static,
    ) -> Repeats {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            for i in 0.. {
                if seen.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let words = request(i % 100);
                let words: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.is_empty()).collect();
                client.cmd(&words);
            }
        });
        Repeats(stop, Some(thread))
    }
}

impl Drop for Repeats {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

/// A file that is edited in place is compared with what runs: its true share is told, more than may move is
/// refused by the exit code, and a file that is not what runs is said to be another. Misses that would come
/// are those of reads that find something.
#[test]
fn plan_against_what_runs() {
    let nodes = Redis::several(4);
    let config = Config::of(&nodes[..3]);
    let mut ringway = Ringway::serve(config.clone());
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let path = ringway.config_path();
    std::fs::write(&path, config.clone().node("d", &nodes[3].address()).to_string()).expect("a file");
    let (code, out, err) = run(&["plan", &path, "--admin", &admin, "--max-share", "1%"]);
    assert!(
        code == Some(3) && err.contains("pool cache: more than 1 % of the keys would move"),
        "{out}{err}"
    );
    assert!(out.contains("pool cache: 3 nodes -> 4; comes: d") && out.contains("a -> d"), "{out}");
    assert!(
        out.contains("a reload refuses this: it is more than reload.max_share (10.00 %) of NEW"),
        "{out}"
    );
    let (code, out, _) = run(&["plan", &path, "--config", &path, "--admin", &admin, "--max-share", "1%"]);
    assert_eq!(code, Some(3), "the process is asked, not the file: {out}");
    assert!(out.contains("is not what runs: pool cache: 4 nodes -> 3; goes: d"), "{out}");
    let (code, out, _) = run(&["plan", &path, "--config", &path, "--max-share", "1%"]);
    assert!(code == Some(0) && out.contains("0.00 % of the key space moves"), "{out}");
    let (_dir, moved) = file(&config.clone().moved("b", &nodes[3].address()).to_string());
    let (_, out, _) = run(&["plan", moved.to_str().expect("a plain path"), "--admin", &admin]);
    assert!(out.contains(&format!("node b is at {} then: ", nodes[3].address())), "{out}");
    assert!(
        out.contains("a reload refuses it if its server has keys or does not answer (reload.flush_new)"),
        "{out}"
    );
    assert!(out.contains("0.00 % of the key space moves") && !out.contains("refuses this"), "{out}");
    assert!(!out.contains("-0"), "{out}");
    let all = config.clone().moved("b", "127.0.0.1:2").moved("c", "127.0.0.1:3");
    let (_dir, moved) = file(&all.to_string());
    let (code, out, _) = run(&["plan", moved.to_str().expect("a plain path"), "--admin", &admin]);
    assert!(code == Some(3) && out.contains("2 nodes that serve would be at other addresses"), "{out}");
    let misses = |request: fn(u32) -> [String; 3], client| -> f64 {
        let _load = Repeats::start(client, request);
        let (_, out, _) = run(&["plan", &path, "--admin", &admin]);
        let line = out.lines().find(|l| l.contains("requests a second now")).expect("a rate").to_owned();
        let first = line.trim().split(' ').next().and_then(|n| n.parse::<f64>().ok());
        assert!(first.is_some_and(|n| n > 10.0), "there is a load: {line}");
        let about = line.split("about ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        about.expect("a number of misses")
    };
    let set = |i: u32| ["SET".to_owned(), format!("key:{i}"), "v".to_owned()];
    let found = |i: u32| ["GET".to_owned(), format!("key:{i}"), String::new()];
    let missed = |i: u32| ["GET".to_owned(), format!("none:{i}"), String::new()];
    assert_eq!(misses(set, ringway.client()), 0.0, "what is written is not missed");
    // Workers count while the page is written: a read may be on it, and its miss not yet.
    assert!(misses(missed, ringway.client()) <= 2.0, "what is not there is missed already");
    assert!(misses(found, ringway.client()) > 10.0);
}

/// `ringway status` tells how nodes are, ends with 0 when all is well and with 4, naming who is not, when
/// not.
#[test]
fn status() {
    let mut nodes = Redis::several(3);
    let mut ringway = Ringway::serve(
        Config::of(&nodes).pool("health: {interval: 100ms, eject_max: 40%}").pool("hold_down: 1h"),
    );
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let status = |more: &[&str]| run(&[&["status", "--admin", &admin], more].concat());
    until(SOON, "all is well", || status(&[]).0 == Some(0));
    let (_, out, err) = status(&[]);
    assert!(out.contains("3 of 3 nodes serve as they should") && err.is_empty(), "{out}{err}");
    nodes[0].kill();
    nodes[1].kill();
    until(SOON, "both are known to fail", || {
        ["a", "b"].iter().all(|name| ringway.node(name)["health"] == "ejected")
    });
    let (code, out, err) = status(&["--pool", "cache"]);
    assert_eq!(code, Some(4), "{out}{err}");
    for part in [
        "its keys wait for its return (hold_down), next in 36",
        "eject_max (40 %) lets no more out",
        "refused",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(err.contains("not as it should be: pool cache, cache/a, cache/b"), "{err}");
    assert_eq!(status(&["--pool", "none"]).0, Some(2));
}

//! ringway is started again while nodes are not in their place: with a `state_file` it knows that, and nobody
//! reads what others have written since.

use std::path::Path;

use crate::{
    absences::{Asker, KEYS, Node, WAYS, config, read, write},
    harness::{
        Config, Redis, Ringway, SOON,
        memcached::Memcached,
        ringway::{program, run},
        until,
    },
};

/// Waits until the file tells of a node, or tells nothing of it.
fn wait_kept(file: &Path, node: &str, is_there: bool) {
    until(SOON, &format!("the state file tells of {node}: {is_there}"), || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        !text.is_empty() && text.contains(&format!("\"{node}\"")) == is_there
    });
}

/// The same configuration in a new process, after this one was ended, or killed.
fn again(mut ringway: Ringway, config: &Config, is_killed: bool) -> Ringway {
    if !is_killed {
        ringway.terminate();
    }
    drop(ringway);
    Ringway::serve(config)
}

/// A node hangs, others take its writes, ringway is started anew, and the node goes on, once more afterwards.
fn over_a_restart(nodes: &[Node], protocol: &str, way: &[&str], is_killed: bool) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state.json");
    let config = config(nodes, protocol, way).top(&format!("state_file: {}", file.display()));
    let mut ringway = Ringway::serve(&config);
    let mut asker = Asker::of(nodes, &mut ringway);
    let mut last = vec![0; KEYS];
    write(&mut asker, &mut last, 1);
    for absence in 1..=2 {
        let at = |what: &str| format!("{protocol}, {way:?}, absence {absence}, {what}");
        nodes[1].stop();
        ringway.wait_away("b");
        wait_kept(&file, "b", true);
        write(&mut asker, &mut last, 2);
        ringway = again(ringway, &config, is_killed);
        assert!(!ringway.owns("b"), "{}", at("after the restart"));
        asker = Asker::of(nodes, &mut ringway);
        read(&mut asker, &last, &at("after the restart"));
        write(&mut asker, &mut last, 3);
        nodes[1].cont();
        until(SOON, &at("it is back"), || {
            read(&mut asker, &last, &at("on its return"));
            ringway.owns("b")
        });
        read(&mut asker, &last, &at("when it is back"));
        wait_kept(&file, "b", false);
    }
}

/// Redis, each way but `ttl`, which waits for the same time again.
#[test]
fn redis() {
    for (way, is_killed) in WAYS.into_iter().take(3).zip([true, false, true]) {
        let nodes: Vec<Node> = Redis::several(3).into_iter().map(Node::Redis).collect();
        over_a_restart(&nodes, "redis", way, is_killed);
    }
}

/// memcached, and a node that waits until what it had has expired.
#[test]
fn memcached() {
    for (way, is_killed) in [(WAYS[1], true), (WAYS[3], false)] {
        let nodes: Vec<Node> = Memcached::several(3).into_iter().map(Node::Memcached).collect();
        over_a_restart(&nodes, "memcached", way, is_killed);
    }
}

/// What others took for a node that is back was not deleted there yet when ringway was killed: the next one
/// looks for it, and when the node fails before that is done its keys are held, so that nobody reads it.
#[test]
fn leftovers_are_looked_for_by_the_next_one() {
    let nodes: Vec<Node> = Redis::several(3).into_iter().map(Node::Redis).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state.json");
    // So long others are not looked through, as a write may still be under way.
    let config = config(&nodes, "redis", WAYS[0]).pool("request_timeout: 9s");
    let config = config.top(&format!("state_file: {}", file.display()));
    let mut ringway = Ringway::serve(&config);
    let mut asker = Asker::of(&nodes, &mut ringway);
    let mut last = vec![0; KEYS];
    write(&mut asker, &mut last, 1);
    nodes[1].stop();
    ringway.wait_away("b");
    write(&mut asker, &mut last, 1);
    nodes[1].cont();
    until(SOON, "it is back", || ringway.owns("b"));
    write(&mut asker, &mut last, 1);
    until(SOON, "what is left is kept", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains(r#""b":{"leftovers":true}"#))
    });
    ringway = again(ringway, &config, true);
    ringway.wait_probed(&["a", "b", "c"]);
    assert_eq!(ringway.metric("ringway_leftovers_deleted_total", &[]), 0.0);
    let mut asker = Asker::of(&nodes, &mut ringway);
    nodes[1].stop();
    until(SOON, "it is found", || ringway.node("b")["health"] == "ejected");
    assert_eq!(ringway.node("b")["placement"], "held");
    read(&mut asker, &last, "when it has failed again");
    assert_eq!(ringway.node("b")["placement"], "away", "nobody has any more of it");
    assert!(ringway.metric("ringway_leftovers_deleted_total", &[]) > 10.0);
    nodes[1].cont();
}

/// What an order would do, as it is said without `--yes`.
fn preview(ringway: &mut Ringway, order: &str) -> String {
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let words: Vec<&str> = order.split(' ').chain(["--admin", &admin]).collect();
    let told = run(&words);
    assert!(told.status.success(), "{told:?}");
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// What an operator said is obeyed by the next process; what is taken back is cleaned before it serves.
#[test]
fn orders_last() {
    let nodes: Vec<Node> = Redis::several(3).into_iter().map(Node::Redis).collect();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state.json");
    let config = config(&nodes, "redis", WAYS[2]).top(&format!("state_file: {}", file.display()));
    let mut ringway = Ringway::serve(&config);
    let mut asker = Asker::of(&nodes, &mut ringway);
    let mut last = vec![0; KEYS];
    write(&mut asker, &mut last, 1);
    let tell = |ringway: &mut Ringway, word: &str, node: &str| {
        let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
        let told = run(&[word, node, "--yes", "--wait", "--admin", &admin]);
        assert!(told.status.success(), "{told:?}");
    };
    let said = preview(&mut ringway, "drain b");
    assert!(
        said.contains("is deleted on it first; if it is restarted meanwhile, or ringway is, it is emptied"),
        "{said}"
    );
    tell(&mut ringway, "drain", "b");
    assert!(
        preview(&mut ringway, "undrain b")
            .contains("its data: what was written elsewhere meanwhile is deleted")
    );
    tell(&mut ringway, "pin", "c");
    write(&mut asker, &mut last, 2);
    ringway = again(ringway, &config, false);
    let order = |ringway: &mut Ringway, node: &str| ringway.node(node)["order"].as_str().map(str::to_owned);
    ringway.wait_probed(&["a", "b", "c"]);
    assert_eq!(order(&mut ringway, "b").as_deref(), Some("drain"));
    assert_eq!(order(&mut ringway, "c").as_deref(), Some("pin"));
    assert!(!ringway.owns("b"), "it is drained");
    let mut asker = Asker::of(&nodes, &mut ringway);
    read(&mut asker, &last, "after the restart");
    // What is said beforehand is what becomes of it: the one who knew what is old has gone.
    until(SOON, "it is told that b is emptied", || {
        preview(&mut ringway, "undrain b").contains("it is emptied first, as")
    });
    let said = preview(&mut ringway, "undrain b");
    assert!(said.contains("would wait for some milliseconds until it is clean"), "{said}");
    assert!(!said.contains("served by nobody"), "{said}");
    tell(&mut ringway, "undrain", "b");
    until(SOON, "it is told what was done", || {
        ringway.said().contains("a node that is back was emptied pool=cache node=\"b\"")
    });
    read(&mut asker, &last, "when it is back");
    tell(&mut ringway, "unpin", "c");
    wait_kept(&file, "c", false);
    // Until others were looked through for what they took for it.
    wait_kept(&file, "b", false);
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "{\"version\":1,\"pools\":{}}");
}

/// A file that is none of ringway's is not taken for one that says nothing; one that can't be written costs a
/// warning.
#[test]
fn files_that_are_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("state.json");
    let node = Redis::start();
    for text in ["", "{}", "{\"version\":2,\"pools\":{}}", "[1"] {
        std::fs::write(&path, text).expect("it can be written");
        let config = Config::of([&node]).top(&format!("state_file: {}", path.display()));
        let mut ringway = Ringway::spawn(&config, &[program()]);
        let (status, _) = ringway.wait();
        let said = ringway.said();
        assert!(!status.success(), "{text}: {said}");
        let expected = format!("state_file {}: can't read it", path.display());
        until(SOON, "it is told", || ringway.said().contains(&expected));
    }
    let other = Redis::start();
    let config = Config::of([&node, &other]).top("state_file: no/such/directory/state.json");
    let mut ringway = Ringway::serve(&config);
    until(SOON, "it is told", || ringway.said().contains("can't write the state file"));
    ringway.wait_metric("ringway_state_file_unwritten", &[], 1.0);
    ringway.wait_probed(&["a", "b"]);
    let admin = ringway.announced("admin listens on http://", 1).swap_remove(0);
    let ask = |words: &[&str]| {
        let told = run(&[words, &["--admin", &admin]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (told.status.code(), text(&told.stdout), text(&told.stderr))
    };
    let (code, out, err) = ask(&["status"]);
    assert_eq!(code, Some(4), "{out}{err}");
    assert!(out.contains("state_file can't be written (No such file"), "{out}");
    assert!(err.contains("not as it should be: state_file"), "{err}");
    assert!(!ask(&["drain", "b"]).1.contains("not kept"), "nothing is done");
    let (code, out, err) = ask(&["drain", "b", "--yes"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("not kept: state_file can't be written (No such file"), "{out}");
    let directory = Path::new(&ringway.config_path()).with_file_name("no").join("such/directory");
    std::fs::create_dir_all(&directory).expect("it can be made");
    wait_kept(&directory.join("state.json"), "b", true);
    ringway.wait_metric("ringway_state_file_unwritten", &[], 0.0);
    let (_, out, _) = ask(&["undrain", "b", "--yes"]);
    assert!(!out.contains("not kept"), "{out}");
    assert_eq!(ringway.client().cmd(&["SET", "k", "v"]), "+OK\r\n");
    assert!(ringway.terminate().0.success());
}

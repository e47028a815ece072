//! Clients as people use them, at their default settings, in front of four nodes.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::harness::{
    Config, Redis, Ringway,
    client::text,
    memcached::{Memcached, Wire},
    ringway::program,
};

/// Where the interpreters' packages are.
fn environment() -> PathBuf {
    let at = env::var_os("RINGWAY_TEST_ENV")
        .expect("the clients of other languages are not installed: run tests/run, or set RINGWAY_TEST_ENV");
    PathBuf::from(at)
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Four nodes, ringway, and its host and port.
fn four() -> (Vec<Redis>, Ringway, String, String) {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let address = ringway.address();
    let (host, port) = address.split_once(':').expect("host:port");
    (nodes, ringway, host.to_owned(), port.to_owned())
}

/// Runs a program to its end; gives what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; tests/run installs it"));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

/// redis-py works at its defaults, with RESP2 and RESP3, pipelines, scripts and asyncio.
#[test]
fn redis_py_works() {
    let (_nodes, _ringway, host, port) = four();
    let python = environment().join("venv/bin/python");
    let said = run(Command::new(python).arg(script("redis_py.py")).args([&host, &port]));
    assert!(said.ends_with("ok\n"), "{said}");
}

/// ioredis works at its defaults, with pipelines, scripts and a scan stream.
#[test]
fn ioredis_works() {
    let (_nodes, _ringway, host, port) = four();
    let modules = environment().join("node");
    let said = run(Command::new("node").arg(script("ioredis.mjs")).arg(modules).args([&host, &port]));
    assert!(said.ends_with("ok\n"), "{said}");
}

/// node-redis works with RESP2 and RESP3.
#[test]
fn node_redis_works() {
    let (_nodes, _ringway, host, port) = four();
    let modules = environment().join("node");
    let said = run(Command::new("node").arg(script("node-redis.mjs")).arg(modules).args([&host, &port]));
    assert!(said.ends_with("ok\n"), "{said}");
}

/// The Rust client works: plain commands, pipelines, and many tasks on one multiplexed connection.
#[test]
fn the_rust_client_works() -> redis::RedisResult<()> {
    let (_nodes, _ringway, host, port) = four();
    for protocol in ["", "?protocol=resp3"] {
        let client = redis::Client::open(format!("redis://{host}:{port}/{protocol}"))?;
        let mut connection = client.get_connection()?;
        let keys: Vec<String> = (0..100).map(|i| format!("key:{i}")).collect();
        let mut mset = redis::cmd("MSET");
        for (i, key) in keys.iter().enumerate() {
            mset.arg(key).arg(i);
        }
        let () = mset.query(&mut connection)?;
        let values: Vec<usize> = redis::cmd("MGET").arg(&keys).query(&mut connection)?;
        assert_eq!(values, (0..100).collect::<Vec<_>>());
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("INCR").arg(key);
        }
        let values: Vec<usize> = pipeline.query(&mut connection)?;
        assert_eq!(values, (1..101).collect::<Vec<_>>());
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let connection = client.get_multiplexed_async_connection().await?;
            let tasks = (0..200).map(|i| {
                let mut connection = connection.clone();
                tokio::spawn(async move {
                    let key = format!("task:{i}");
                    let () = redis::cmd("SET").arg(&key).arg(i).query_async(&mut connection).await?;
                    redis::cmd("GET").arg(&key).query_async::<usize>(&mut connection).await
                })
            });
            for (i, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
                assert_eq!(task.await.expect("the task ends")?, i);
            }
            redis::RedisResult::Ok(())
        })?;
    }
    Ok(())
}

/// redis-cli works: commands as arguments, from stdin, `--scan` and RESP3.
#[test]
fn redis_cli_works() {
    let (_nodes, _ringway, host, port) = four();
    let cli = |args: &[&str]| run(Command::new("redis-cli").args(["-h", &host, "-p", &port]).args(args));
    assert_eq!(cli(&["SET", "a", "1"]), "OK\n");
    assert_eq!(cli(&["-3", "GET", "a"]), "1\n");
    for i in 0..50 {
        assert_eq!(cli(&["SET", &format!("key:{i}"), "x"]), "OK\n");
    }
    let scanned = cli(&["--scan", "--pattern", "key:*"]);
    let found: std::collections::HashSet<&str> = scanned.lines().collect();
    assert_eq!(found.len(), 50);
    assert!(cli(&["INFO"]).contains("redis_version:"));
}

/// redis-benchmark runs its loads to the end and sees no error.
#[test]
fn redis_benchmark_works() {
    let (_nodes, mut ringway, host, port) = four();
    let said = run(Command::new("redis-benchmark")
        .args([
            "-h",
            &host,
            "-p",
            &port,
            "-t",
            "ping,set,get,incr,lpush,lrange_100,mset",
            "-n",
            "4000",
            "-r",
            "1000",
        ])
        .args(["-P", "16", "-q"]));
    assert!(!said.to_lowercase().contains("error"), "{said}");
    assert!(said.contains("MSET (10 keys)"), "{said}");
    let refused = ringway.metric("ringway_requests_total", &[("outcome", "refused")]);
    assert!(refused <= 1.0, "it asks for CONFIG GET at most: {refused}");
}

/// Four memcacheds, ringway, and its host and port.
fn four_memcacheds() -> (Vec<Memcached>, Ringway, String, String) {
    let nodes = Memcached::several(4);
    let empty = Config::of([]).pool("protocol: memcached");
    let names = ["a", "b", "c", "d"];
    let config =
        nodes.iter().zip(names).fold(empty, |config, (node, name)| config.node(name, &node.address()));
    let mut ringway = Ringway::serve(config);
    let address = ringway.address();
    let (host, port) = address.split_once(':').expect("host:port");
    (nodes, ringway, host.to_owned(), port.to_owned())
}

/// pymemcache works at its defaults, which write without waiting for replies.
#[test]
fn pymemcache_works() {
    let (_nodes, _ringway, host, port) = four_memcacheds();
    let python = environment().join("venv/bin/python");
    let said = run(Command::new(python).arg(script("pymemcache_client.py")).args([&host, &port]));
    assert!(said.ends_with("ok\n"), "{said}");
}

/// libmemcached's own tools copy a file in and read it back.
#[test]
fn libmemcacheds_tools_work() {
    let (_nodes, _ringway, host, port) = four_memcacheds();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("notes");
    std::fs::write(&file, "some text").expect("it can be written");
    let servers = format!("--servers={host}:{port}");
    run(Command::new("memccp").arg(&servers).arg(&file));
    assert_eq!(run(Command::new("memccat").args([&servers, "notes"])).trim_end(), "some text");
    run(Command::new("memcrm").args([&servers, "notes"]));
    assert_eq!(Wire::connect(&format!("{host}:{port}")).ask("get notes\r\n"), "END\r\n");
}

/// A Rust client of memcached works: single keys, several at once, counters, and what it swaps.
#[test]
fn the_rust_client_of_memcached_works() -> Result<(), memcache::MemcacheError> {
    let nodes = Memcached::several(3);
    let config = Config::of([]).pool("protocol: memcached");
    let config = nodes.iter().zip(["a", "b", "c"]).fold(config, |c, (n, name)| c.node(name, &n.address()));
    let mut ringway = Ringway::serve(config);
    let client = memcache::connect(format!("memcache://{}?protocol=ascii", ringway.address()))?;
    let keys: Vec<String> = (0..100).map(|i| format!("key:{i}")).collect();
    for (i, key) in keys.iter().enumerate() {
        client.set(key, i as u64, 0)?;
    }
    let named: Vec<&str> = keys.iter().map(String::as_str).collect();
    let values: std::collections::HashMap<String, u64> = client.gets(&named)?;
    assert!(keys.iter().enumerate().all(|(i, key)| values[key] == i as u64), "{values:?}");
    assert_eq!(client.increment("key:9", 5)?, 14);
    assert_eq!(client.decrement("key:9", 4)?, 10);
    client.append("key:1", "x")?;
    assert_eq!(client.get::<String>("key:1")?.as_deref(), Some("1x"));
    let held: std::collections::HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&["key:2"])?;
    let cas = held["key:2"].2.expect("it was asked for");
    assert!(client.cas("key:2", "new", 0, cas)?);
    assert!(!client.cas("key:2", "newer", 0, cas)?);
    assert!(client.delete("key:3")?);
    assert_eq!(client.get::<String>("key:3")?, None);
    assert!(client.touch("key:4", 1000)?);
    client.flush()?;
    assert_eq!(client.get::<String>("key:5")?, None);
    Ok(())
}

/// What libmemcached's own name for a server is: the host alone on memcached's own port.
fn name_in_ketama(server: &str) -> String {
    let address = server.split('/').next().unwrap_or_default();
    address.strip_suffix(":11211").unwrap_or(address).to_owned()
}

/// The name of each key's server, as libmemcached has it.
fn libmemcacheds_owners(ketama: &Path, servers: &[String], keys: &str) -> Vec<String> {
    let mut command = Command::new(ketama);
    let said = run_with(command.args(servers), keys);
    said.lines().map(|line| name_in_ketama(&servers[line.parse::<usize>().expect("a position")])).collect()
}

/// The name of each key's node, as `ringway locate` has it.
fn ringways_owners(dir: &Path, servers: &[String], keys: &str) -> Vec<String> {
    let empty = Config::of([]).pool("protocol: memcached").pool("ring: {placement: ketama, hash: md5}");
    let config = servers.iter().fold(empty, |config, server| {
        let weight = server.split_once('/').map_or("1", |(_, weight)| weight);
        config.node(&format!("'{}'", name_in_ketama(server)), &format!("'127.0.0.1:7', weight: {weight}"))
    });
    let path = dir.join("ringway.yaml");
    std::fs::write(&path, config.to_string()).expect("a file");
    let mut command = Command::new(program());
    let said = run_with(command.args(["locate", "--next", "0", "--config"]).arg(&path).arg("-"), keys);
    said.lines().map(|line| line.split('\t').nth(2).unwrap_or_default().to_owned()).collect()
}

/// What a command that succeeds prints when it is given this.
fn run_with(command: &mut Command, stdin: &str) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program can be run");
    let mut pipe = child.stdin.take().expect("it is piped");
    std::thread::scope(|scope| {
        // A program that stops reading has failed, which its exit code says.
        scope.spawn(move || drop(pipe.write_all(stdin.as_bytes())));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{command:?}");
        String::from_utf8(output.stdout).expect("text")
    })
}

/// `ketama` with MD5 puts each key where libmemcached's weighted ketama puts it, whose names of servers
/// leave out memcached's own port: with weights, and at the numbers of servers at which single precision
/// takes points away.
#[test]
fn libmemcached_agrees_about_ketama() {
    let dir = tempfile::tempdir().expect("a directory");
    let ketama = dir.path().join("ketama");
    run(Command::new("cc").arg("-o").arg(&ketama).arg(script("ketama.c")).arg("-lmemcached"));
    let list = |servers: &[&str]| servers.iter().map(|&server| server.to_owned()).collect::<Vec<_>>();
    let equal = |count: usize| (0..count).map(|i| format!("10.0.{}.1:11211", i)).collect::<Vec<_>>();
    let weighted = |count: usize| {
        (0..count).map(|i| format!("cache-{i}:{}/{}", 11210 + i % 3, 1 + i * 7 % 10)).collect::<Vec<_>>()
    };
    let keys: String = (0..5000).map(|i| format!("user:{}:{i}\n", i * 7919)).collect();
    for servers in [
        equal(1),
        equal(3),
        list(&["10.0.0.1:11211", "10.0.0.1:11212", "cache.example:11213", "b:1/3", "a:11211/2"]),
        list(&["a:11211/1", "b:11211/1000", "c:11212/65535"]),
        list(&["localhost:11211", "localhost:1121", "localhost:21121", "127.0.0.1:11211"]),
        equal(25),
        equal(26),
        equal(47),
        weighted(13),
        weighted(100),
    ] {
        let theirs = libmemcacheds_owners(&ketama, &servers, &keys);
        let ours = ringways_owners(dir.path(), &servers, &keys);
        assert_eq!((ours.len(), theirs.len()), (5000, 5000), "{servers:?}");
        for (key, (ours, theirs)) in keys.lines().zip(ours.iter().zip(&theirs)) {
            assert_eq!(ours, theirs, "{key} of {} servers {servers:?}", servers.len());
        }
    }
}

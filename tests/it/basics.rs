//! Commands through ringway: one key, several, all nodes, and what ringway answers itself.

use std::{collections::HashSet, io::Write, thread};

use crate::harness::{Client, Config, Redis, Ringway, SOON, encode, owners, until};

/// Four nodes, ringway, and a client.
fn four() -> (Vec<Redis>, Ringway, Client) {
    let nodes = Redis::several(4);
    let mut ringway = Ringway::serve(Config::of(&nodes));
    let client = ringway.client();
    (nodes, ringway, client)
}

/// Some keys of each node, found by asking the nodes; the keys exist.
fn keys_by_node(client: &mut Client, nodes: &[Redis]) -> Vec<Vec<String>> {
    let names: Vec<String> = (0..200).map(|i| format!("key:{i}")).collect();
    for name in &names {
        assert_eq!(client.cmd(&["SET", name, name]), "+OK\r\n");
    }
    let owners = owners(nodes);
    assert_eq!(owners.len(), names.len());
    let mut by_node = vec![Vec::new(); nodes.len()];
    names.into_iter().for_each(|name| by_node[owners[&name]].push(name));
    assert!(by_node.iter().all(|keys| keys.len() >= 5), "each of four nodes owns some of 200 keys");
    by_node
}

fn bulk(value: &str) -> String {
    format!("${}\r\n{value}\r\n", value.len())
}

/// One key of every type is written, read and deleted through ringway, and each key is on exactly
/// one node.
#[test]
fn forwards_single_keys() {
    let (nodes, _ringway, mut client) = four();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert_eq!(client.cmd(&["INCRBY", "a", "41"]), ":42\r\n");
    assert_eq!(client.cmd(&["GET", "a"]), "$2\r\n42\r\n");
    assert_eq!(client.cmd(&["GET", "none"]), "$-1\r\n");
    assert_eq!(client.cmd(&["RPUSH", "l", "x", "y"]), ":2\r\n");
    assert_eq!(client.cmd(&["LRANGE", "l", "0", "-1"]), "*2\r\n$1\r\nx\r\n$1\r\ny\r\n");
    assert_eq!(client.cmd(&["HSET", "h", "f", "v"]), ":1\r\n");
    assert_eq!(client.cmd(&["HGETALL", "h"]), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(client.cmd(&["ZADD", "z", "1.5", "m"]), ":1\r\n");
    assert_eq!(client.cmd(&["LPUSH", "a", "x"]).split(' ').next(), Some("-WRONGTYPE"));
    assert_eq!(owners(&nodes).len(), 4);
    assert_eq!(client.cmd(&["DEL", "a"]), ":1\r\n");
    assert_eq!(client.cmd(&["SET", "", "empty"]), "+OK\r\n");
    assert_eq!(client.cmd(&["GET", ""]), bulk("empty"));
}

/// MGET over four nodes answers in the client's order, with nil for what is not there and the same
/// key twice where it was asked twice.
#[test]
fn merges_mget_in_the_clients_order() {
    let (nodes, _ringway, mut client) = four();
    let by_node = keys_by_node(&mut client, &nodes);
    let mut asked: Vec<&str> = vec!["MGET"];
    for i in 0..5 {
        by_node.iter().rev().for_each(|keys| asked.push(&keys[i]));
        asked.push("not there");
    }
    asked.push(&by_node[0][0]);
    let values: String =
        asked[1..].iter().map(|&k| if k == "not there" { "$-1\r\n".to_owned() } else { bulk(k) }).collect();
    assert_eq!(client.cmd(&asked), format!("*{}\r\n{values}", asked.len() - 1));
}

/// MSET writes each pair to the pair's own node; DEL, UNLINK, EXISTS and TOUCH count over nodes.
#[test]
fn splits_writes_and_counts() {
    let (nodes, _ringway, mut client) = four();
    let by_node = keys_by_node(&mut client, &nodes);
    let keys: Vec<&str> = by_node.iter().flat_map(|keys| keys[..4].iter().map(String::as_str)).collect();
    let before = owners(&nodes);
    let mut mset = vec!["MSET"];
    keys.iter().for_each(|&key| mset.extend([key, "new"]));
    assert_eq!(client.cmd(&mset), "+OK\r\n");
    assert_eq!(owners(&nodes), before, "no key went to another node");
    for &key in &keys {
        assert_eq!(client.cmd(&["GET", key]), bulk("new"));
    }
    let with = |verb: &'static str, keys: &[&str]| -> String { client.cmd(&[&[verb], keys].concat()) };
    let mut with = with;
    assert_eq!(with("EXISTS", &[&keys[..], &keys[..2], &["nope"]].concat()), ":18\r\n");
    assert_eq!(with("TOUCH", &keys), ":16\r\n");
    assert_eq!(with("DEL", &keys[..7]), ":7\r\n");
    assert_eq!(with("UNLINK", &keys), ":9\r\n");
    assert_eq!(with("EXISTS", &keys), ":0\r\n");
}

/// A split command with a wrong number of arguments is refused as Redis refuses it, and the
/// connection stays.
#[test]
fn refuses_half_a_pair() {
    let (_nodes, _ringway, mut client) = four();
    assert_eq!(client.cmd(&["MSET", "a", "1", "b"]), "-ERR wrong number of arguments for 'mset' command\r\n");
    assert_eq!(client.cmd(&["MGET"]), "-ERR wrong number of arguments for 'mget' command\r\n");
    assert_eq!(client.cmd(&["GET", "a"]), "$-1\r\n");
}

/// A command whose keys live on two nodes is refused with CROSSSLOT, both nodes' names and the
/// hash-tag remedy; the same command with a hash tag works.
#[test]
fn refuses_keys_of_two_nodes() {
    let (nodes, _ringway, mut client) = four();
    let by_node = keys_by_node(&mut client, &nodes);
    for (x, y) in [(0, 1), (3, 2)] {
        let refusal = client.cmd(&["RENAME", &by_node[x][0], &by_node[y][0]]);
        assert!(refusal.starts_with("-CROSSSLOT"), "{refusal}");
        for node in [x, y] {
            let name = crate::harness::config::NAMES[node];
            let named = refusal.split(|c: char| !c.is_alphanumeric()).any(|word| word == name);
            assert!(named, "{refusal} names node {name}");
        }
        assert!(refusal.contains('{'), "{refusal} shows a hash tag");
    }
    let eval = client.cmd(&["EVAL", "return 1", "2", &by_node[0][0], &by_node[1][0]]);
    assert!(eval.starts_with("-CROSSSLOT"), "{eval}");
    assert_eq!(client.cmd(&["RENAME", &by_node[0][0], &by_node[0][1]]), "+OK\r\n");
    assert_eq!(client.cmd(&["SADD", "{u}:1", "x", "y"]), ":2\r\n");
    assert_eq!(client.cmd(&["SADD", "{u}:2", "y"]), ":1\r\n");
    assert_eq!(client.cmd(&["SINTERSTORE", "{u}:3", "{u}:1", "{u}:2"]), ":1\r\n");
}

/// Keys with the same hash tag share a node, whatever stands around it; empty braces are no tag.
#[test]
fn hash_tags_keep_keys_together() {
    let (nodes, _ringway, mut client) = four();
    for i in 0..50 {
        client.cmd(&["SET", &format!("{{user}}:{i}"), "x"]);
        client.cmd(&["SET", &format!("{i}:{{user}}"), "x"]);
    }
    assert_eq!(owners(&nodes).values().collect::<HashSet<_>>().len(), 1);
    for i in 0..50 {
        client.cmd(&["SET", &format!("{{}}:{i}"), "x"]);
    }
    assert!(owners(&nodes).values().collect::<HashSet<_>>().len() > 1);
}

/// Inline commands are understood, quotes and several blanks included.
#[test]
fn understands_inline_commands() {
    let (_nodes, _ringway, mut client) = four();
    client
        .send("SET  greeting \"hello \\x41\"\r\nGET greeting\r\n\r\nEXISTS greeting 'not there'\n")
        .expect("sent");
    let replies: Vec<_> = (0..3).map(|_| client.reply().expect("each has a reply")).collect();
    assert_eq!(replies, [&b"+OK\r\n"[..], b"$7\r\nhello A\r\n", b":1\r\n"]);
    client.send("GET \"unbalanced\r\n").expect("sent");
    let refusal = client.rest().expect("an error and a close, as Redis does");
    assert_eq!(refusal, "-ERR Protocol error: unbalanced quotes in request\r\n");
}

/// A client may write 100,000 commands before it reads a reply; the replies come in order, one
/// for each.
#[test]
fn a_deep_pipeline_is_answered_in_order() {
    let (_nodes, _ringway, mut client) = four();
    const COUNT: usize = 100_000;
    let mut batch = Vec::new();
    for i in 0..COUNT {
        batch.extend(match i % 4 {
            0 => encode(&["PING", &i.to_string()]),
            1 => encode(&["SET", &format!("k{}", i % 1000), &i.to_string()]),
            2 => encode(&["GET", &format!("k{}", (i - 1) % 1000)]),
            _ => encode(&["ECHO", &i.to_string()]),
        });
    }
    // From another thread, and reading begins only when all is written or no more is taken.
    let mut sender = client.sender();
    let writer = thread::spawn(move || sender.write_all(&batch));
    until(SOON, "the batch is written", || writer.is_finished());
    writer.join().expect("the writer ends").expect("ringway takes all of it");
    for i in 0..COUNT {
        let reply = client.reply().expect("each has a reply");
        let expected = match i % 4 {
            1 => "+OK\r\n".to_owned(),
            2 => bulk(&(i - 1).to_string()),
            _ => bulk(&i.to_string()),
        };
        assert_eq!(String::from_utf8_lossy(&reply), expected, "reply {i}");
    }
}

/// A request that arrives byte by byte is the request that it is.
#[test]
fn a_request_may_arrive_byte_by_byte() {
    let (_nodes, _ringway, mut client) = four();
    let batch =
        [encode(&["SET", "slow", "value"]), encode(&["MGET", "slow", "x"]), b"PING\r\n".to_vec()].concat();
    for byte in batch {
        client.send([byte]).expect("sent");
    }
    let replies: Vec<u8> = (0..3).flat_map(|_| client.reply().expect("each has a reply")).collect();
    assert_eq!(String::from_utf8_lossy(&replies), "+OK\r\n*2\r\n$5\r\nvalue\r\n$-1\r\n+PONG\r\n");
}

/// Half a request and a close harm nobody: the session ends, nothing is written.
#[test]
fn half_a_request_then_close_is_nothing() {
    let (nodes, mut ringway, mut other) = four();
    for _ in 0..20 {
        let mut client = ringway.client();
        client.send("*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$100\r\nabc").expect("sent");
    }
    until(SOON, "the sessions end", || ringway.metric("ringway_sessions", &[("pool", "cache")]) == 1.0);
    assert_eq!(other.cmd(&["GET", "half"]), "$-1\r\n");
    assert!(owners(&nodes).is_empty());
}

/// A client that has shut its sending side still gets every reply, and then the end.
#[test]
fn half_closed_clients_get_their_replies() {
    let (_nodes, _ringway, mut client) = four();
    let batch: Vec<u8> = (0..1000).flat_map(|i| encode(&["SET", &format!("k{i}"), "v"])).collect();
    client.send(&batch).expect("sent");
    client.finish();
    assert_eq!(client.rest().expect("replies, then the end"), "+OK\r\n".repeat(1000));
}

/// Commands that ringway does not know are refused like Redis refuses them, and the connection
/// stays.
#[test]
fn unknown_commands_keep_the_connection() {
    let (_nodes, _ringway, mut client) = four();
    let refusal = client.cmd(&["FROBNICATE", "a", "b"]);
    assert!(refusal.starts_with("-ERR unknown command 'FROBNICATE'"), "{refusal}");
    assert_eq!(client.cmd(&["PING"]), "+PONG\r\n");
}

/// What a proxy can't offer yet is refused by name; nothing changes for the connection.
#[test]
fn refuses_what_it_does_not_offer_by_name() {
    let (_nodes, _ringway, mut client) = four();
    let refused: [&[&str]; 13] = [
        &["MULTI"],
        &["EXEC"],
        &["WATCH", "a"],
        &["SUBSCRIBE", "c"],
        &["PSUBSCRIBE", "c*"],
        &["BLPOP", "l", "0"],
        &["MONITOR"],
        &["DEBUG", "SLEEP", "0"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CLIENT", "REPLY", "OFF"],
        &["CLIENT", "TRACKING", "ON"],
        &["SHUTDOWN"],
        &["REPLICAOF", "NO", "ONE"],
    ];
    for args in refused {
        let refusal = client.cmd(args);
        assert!(refusal.starts_with('-'), "{args:?}: {refusal}");
        assert!(refusal.to_uppercase().contains(args[0]), "{args:?}: {refusal} names it");
    }
    assert_eq!(client.cmd(&["SELECT", "1"]), "-ERR DB index is out of range\r\n");
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
}

/// Handshakes and questions about the server are answered by ringway, each as clients expect it.
#[test]
fn answers_what_clients_ask_first() {
    let (_nodes, _ringway, mut client) = four();
    assert_eq!(client.cmd(&["PING"]), "+PONG\r\n");
    assert_eq!(client.cmd(&["PING", "hi"]), bulk("hi"));
    assert_eq!(client.cmd(&["SELECT", "0"]), "+OK\r\n");
    assert_eq!(client.cmd(&["CLIENT", "SETINFO", "LIB-NAME", "test"]), "+OK\r\n");
    assert_eq!(client.cmd(&["CLIENT", "SETNAME", "me"]), "+OK\r\n");
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("me"));
    assert!(client.cmd(&["CLIENT", "ID"]).starts_with(':'));
    assert!(client.cmd(&["CLIENT", "INFO"]).contains("name=me"));
    assert!(client.cmd(&["INFO"]).contains("\r\nredis_version:7."));
    assert!(client.cmd(&["CONFIG", "GET", "maxmemory"]).starts_with('*'));
    assert!(client.cmd(&["COMMAND", "COUNT"]).starts_with(':'));
    assert_eq!(client.list(&["COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"]), ["a", "b"]);
    assert_eq!(client.list(&["TIME"]).len(), 2);
    let hello = client.list(&["HELLO", "2"]);
    assert!(hello.windows(2).any(|w| w == ["proto", "2"]), "{hello:?}");
    let hello = client.cmd(&["HELLO", "3", "SETNAME", "three"]);
    assert!(hello.starts_with('%'), "{hello}");
    assert_eq!(client.cmd(&["CLIENT", "GETNAME"]), bulk("three"));
    assert!(client.cmd(&["HELLO", "4"]).starts_with("-NOPROTO"));
    assert_eq!(client.cmd(&["RESET"]), "+RESET\r\n");
    assert_eq!(client.cmd(&["QUIT"]), "+OK\r\n");
    assert_eq!(client.rest().expect("QUIT closes"), "");
}

/// A RESP3 client gets the nodes' RESP3 replies, merged ones included, beside a RESP2 client.
#[test]
fn both_protocols_side_by_side() {
    let (_nodes, mut ringway, mut two) = four();
    let mut three = ringway.client();
    assert!(three.cmd(&["HELLO", "3"]).starts_with('%'));
    two.cmd(&["HSET", "h", "f", "v"]);
    assert_eq!(two.cmd(&["HGETALL", "h"]), "*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(three.cmd(&["HGETALL", "h"]), "%1\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(three.cmd(&["GET", "none"]), "_\r\n");
    assert_eq!(three.cmd(&["MGET", "n1", "n2", "n3"]), "*3\r\n_\r\n_\r\n_\r\n");
    assert_eq!(two.cmd(&["MGET", "n1", "n2", "n3"]), "*3\r\n$-1\r\n$-1\r\n$-1\r\n");
}

/// Of several STORE and STOREDIST the last one is where GEORADIUS writes: its owner has to be the source's.
#[test]
fn georadius_stores_where_the_last_one_says() {
    let (nodes, _ringway, mut client) = four();
    let by_node = keys_by_node(&mut client, &nodes);
    let ([source, near, ..], far) = (&by_node[0][..], &by_node[1][0]) else { panic!("it has five") };
    [source, near, far].iter().for_each(|key| assert_eq!(client.cmd(&["DEL", key]), ":1\r\n"));
    assert_eq!(client.cmd(&["GEOADD", source, "13.361389", "38.115556", "x"]), ":1\r\n");
    let mut radius = |options: &[&str]| {
        let one = client.cmd(&[&["GEORADIUS", source, "15", "37", "200", "km"], options].concat());
        let member = client.cmd(&[&["GEORADIUSBYMEMBER", source, "x", "200", "km"], options].concat());
        assert_eq!(one, member.replace("georadiusbymember", "georadius"));
        one
    };
    for (word, other) in [("STORE", "STORE"), ("STORE", "STOREDIST"), ("STOREDIST", "STORE")] {
        assert_eq!(radius(&[word, far, other, near]), ":1\r\n", "{word} {other}");
        let refusal = radius(&[word, near, other, far]);
        assert!(refusal.starts_with("-CROSSSLOT"), "{word} {other}: {refusal}");
    }
    let owners = owners(&nodes);
    assert_eq!((owners.get(near), owners.get(far)), (Some(&0), None));
}

/// DBSIZE, KEYS, RANDOMKEY, FLUSHALL and SCRIPT LOAD are for all nodes, and EVALSHA works wherever
/// its key lives.
#[test]
fn whole_keyspace_commands_ask_every_node() {
    let (nodes, _ringway, mut client) = four();
    let by_node = keys_by_node(&mut client, &nodes);
    assert_eq!(client.cmd(&["DBSIZE"]), ":200\r\n");
    let mut keys = client.list(&["KEYS", "*"]);
    keys.sort();
    let mut expected = by_node.concat();
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(client.list(&["KEYS", "key:7"]), ["key:7"]);
    // Each node's turn comes: of 400 dice of four sides.
    let mut turns = [0; 4];
    for _ in 0..400 {
        let key = client.list(&["RANDOMKEY"]).swap_remove(0);
        turns[by_node.iter().position(|keys| keys.contains(&key)).expect("a key that is there")] += 1;
    }
    assert!(turns.iter().all(|n| *n > 40), "{turns:?}");
    let sha = client.list(&["SCRIPT", "LOAD", "return KEYS[1]"]).swap_remove(0);
    for keys in &by_node {
        assert_eq!(client.cmd(&["EVALSHA", &sha, "1", &keys[0]]), bulk(&keys[0]));
    }
    assert_eq!(client.list(&["SCRIPT", "EXISTS", &sha, "0".repeat(40).as_str()]), ["1", "0"]);
    assert_eq!(client.cmd(&["SCRIPT", "FLUSH"]), "+OK\r\n");
    assert!(client.cmd(&["EVALSHA", &sha, "1", "a"]).starts_with("-NOSCRIPT"));
    assert_eq!(client.cmd(&["FLUSHALL"]), "+OK\r\n");
    assert!(owners(&nodes).is_empty());
    assert_eq!(client.list(&["RANDOMKEY"]), ["(nil)"]);
}

/// SCAN from zero to zero returns every key that stays, while others are added and removed.
#[test]
fn scan_covers_every_key_that_stays() {
    let (nodes, mut ringway, mut client) = four();
    let expected: HashSet<String> = keys_by_node(&mut client, &nodes).concat().into_iter().collect();
    let mut other = ringway.client();
    let (mut cursor, mut found, mut rounds) = ("0".to_owned(), HashSet::new(), 0);
    loop {
        let mut reply = client.list(&["SCAN", &cursor, "COUNT", "10"]);
        cursor = reply.remove(0);
        found.extend(reply);
        let name = format!("added:{rounds}");
        other.cmd(&["SET", &name, "x"]);
        if rounds % 2 == 1 {
            other.cmd(&["DEL", &name]);
        }
        rounds += 1;
        assert!(rounds < 2000, "SCAN ends");
        if cursor == "0" {
            break;
        }
    }
    let lost: Vec<_> = expected.difference(&found).collect();
    assert!(lost.is_empty(), "not returned: {lost:?}");
    assert!(rounds > 4, "a walk over four nodes takes several calls");
    let filtered = client.list(&["SCAN", "0", "MATCH", "key:1", "COUNT", "1000"]);
    assert!(filtered[1..].iter().all(|k| k == "key:1"));
    assert!(client.cmd(&["SCAN", "nonsense"]).starts_with('-'));
}

/// `deny_commands` switches commands and subcommands off, and nothing else.
#[test]
fn denied_commands_are_refused() {
    let nodes = Redis::several(2);
    let config = Config::of(&nodes).pool("deny_commands: [FLUSHALL, KEYS, \"SCRIPT|FLUSH\"]");
    let (_ringway, mut client) = Ringway::serve(config).into_client();
    for args in [&["FLUSHALL"][..], &["flushall"], &["KEYS", "*"], &["SCRIPT", "FLUSH"]] {
        let refusal = client.cmd(args);
        assert!(refusal.starts_with('-') && refusal.contains("deny_commands"), "{args:?}: {refusal}");
    }
    assert!(client.cmd(&["SCRIPT", "LOAD", "return 1"]).starts_with('$'));
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
}

/// A command that only the configuration knows is forwarded by its key.
#[test]
fn custom_commands_are_forwarded_by_their_key() {
    let nodes = Redis::several(4);
    let config = Config::of(&nodes).pool("commands: {JSON.GET: {first_key: 1, read_only: true}}");
    let (_ringway, mut client) = Ringway::serve(config).into_client();
    // A plain Redis does not know it, and says so itself.
    let refusal = client.cmd(&["JSON.GET", "doc"]);
    assert!(
        refusal.starts_with("-ERR unknown command 'JSON.GET', with args beginning with: 'doc'"),
        "{refusal}"
    );
    let asked = nodes.iter().filter(|n| n.cmd(&["INFO", "errorstats"]).contains("errorstat_ERR:count=1"));
    assert_eq!(asked.count(), 1, "one node was asked");
}

/// ringway authenticates towards nodes as the configured user and selects the configured database.
#[test]
fn authenticates_and_selects_towards_nodes() {
    let node = Redis::start();
    assert_eq!(node.cmd(&["ACL", "SETUSER", "app", "on", ">s3cret", "~*", "+@all"]), "+OK\r\n");
    assert_eq!(node.cmd(&["CONFIG", "SET", "requirepass", "other"]), "+OK\r\n");
    let secret = tempfile::NamedTempFile::new().expect("a file for the secret");
    std::fs::write(secret.path(), "s3cret\n").expect("it can be written");
    let auth = format!("auth: {{user: app, password_file: {}}}", secret.path().display());
    let (_ringway, mut client) = Ringway::serve(Config::of([&node]).pool(&auth).pool("db: 3")).into_client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert!(client.cmd(&["HELLO", "3"]).starts_with('%'));
    assert_eq!(client.cmd(&["GET", "a"]), bulk("1"));
    let mut direct = Client::connect(&node.address());
    assert_eq!(direct.cmd(&["AUTH", "other"]), "+OK\r\n");
    assert_eq!(direct.cmd(&["GET", "a"]), "$-1\r\n");
    assert_eq!(direct.cmd(&["SELECT", "3"]), "+OK\r\n");
    assert_eq!(direct.cmd(&["GET", "a"]), bulk("1"));
    let users = direct.cmd(&["CLIENT", "LIST"]);
    assert!(users.contains("user=app"), "{users}");
}

/// A node with one password and no user is served too.
#[test]
fn authenticates_with_a_password_alone() {
    let node = Redis::with(&["--requirepass", "hunter2"]);
    let secret = tempfile::NamedTempFile::new().expect("a file for the secret");
    std::fs::write(secret.path(), "hunter2").expect("it can be written");
    let auth = format!("auth: {{password_file: {}}}", secret.path().display());
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node]).pool(&auth)).into_client();
    assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert!(!ringway.said().contains("hunter2"), "a secret is never printed");
    assert!(!ringway.http("/v1/topology").1.contains("hunter2"));
}

/// With `client_auth`, a client is let in by AUTH or HELLO AUTH, in Redis's own words.
#[test]
fn clients_must_authenticate() {
    let node = Redis::start();
    let secret = tempfile::NamedTempFile::new().expect("a file for the secret");
    std::fs::write(secret.path(), "open sesame").expect("it can be written");
    let auth = format!("client_auth: {{password_file: {}}}", secret.path().display());
    let (mut ringway, mut client) = Ringway::serve(Config::of([&node]).pool(&auth)).into_client();
    let plain = Redis::with(&["--requirepass", "open sesame"]);
    let mut model = Client::connect(&plain.address());
    let script: [&[&str]; 9] = [
        &["GET", "a"],
        &["PING"],
        &["AUTH", "wrong"],
        &["AUTH", "nobody", "open sesame"],
        &["HELLO", "3"],
        &["HELLO", "2", "AUTH", "default", "wrong"],
        &["AUTH", "open sesame"],
        &["GET", "a"],
        &["AUTH"],
    ];
    for args in script {
        assert_eq!(client.cmd(args), model.cmd(args), "{args:?}");
    }
    let mut other = ringway.client();
    assert!(other.cmd(&["HELLO", "3", "AUTH", "default", "open sesame"]).starts_with('%'));
    assert_eq!(other.cmd(&["SET", "a", "1"]), "+OK\r\n");
    assert_eq!(other.cmd(&["RESET"]), "+RESET\r\n");
    assert!(other.cmd(&["GET", "a"]).starts_with("-NOAUTH"), "RESET forgets it");
    let mut third = ringway.client();
    assert!(third.cmd(&["GET", "a"]).starts_with("-NOAUTH"), "each connection on its own");
}

/// A pool listens on a second port and on a Unix socket, and a node may be behind one.
#[test]
fn listens_on_several_addresses_and_unix_sockets() {
    let dir = tempfile::tempdir().expect("a directory for sockets");
    let node_socket = dir.path().join("node.sock").display().to_string();
    let (tcp, unix) = (Redis::start(), Redis::with(&["--unixsocket", &node_socket]));
    let front = format!("unix:{}", dir.path().join("front.sock").display());
    let config = Config::of([&tcp])
        .node("b", &format!("unix:{node_socket}"))
        .listen(&format!("[\"127.0.0.1:0\", \"127.0.0.1:0\", \"{front}\"]"));
    let mut ringway = Ringway::serve(config);
    let addresses = ringway.announced("pool cache listens on ", 3);
    assert_eq!(addresses[2], front);
    let mut clients: Vec<Client> = addresses.iter().map(|a| Client::connect(a)).collect();
    for i in 0..100 {
        assert_eq!(clients[i % 3].cmd(&["SET", &format!("k{i}"), "v"]), "+OK\r\n");
        assert_eq!(clients[(i + 1) % 3].cmd(&["GET", &format!("k{i}")]), bulk("v"));
    }
    let map = owners(&[tcp, unix]);
    assert!((1..100).contains(&map.values().filter(|&&n| n == 1).count()), "both nodes own keys");
    let (status, _) = ringway.terminate();
    assert!(status.success());
    assert!(!dir.path().join("front.sock").exists(), "the socket's file goes with ringway");
}

/// Two clients are served by two workers, each with its own connection to a node, and a RESP3
/// client adds one.
#[test]
fn clients_are_spread_over_workers() {
    let node = Redis::start();
    let mut ringway = Ringway::serve(Config::of([&node]));
    let mut clients = [ringway.client(), ringway.client()];
    for client in &mut clients {
        assert_eq!(client.cmd(&["SET", "a", "1"]), "+OK\r\n");
    }
    assert_eq!(ringway.metric("ringway_node_connections", &[]), 2.0);
    let mut three = ringway.client();
    assert!(three.cmd(&["HELLO", "3"]).starts_with('%'));
    assert_eq!(three.cmd(&["GET", "a"]), bulk("1"));
    assert_eq!(ringway.metric("ringway_node_connections", &[]), 3.0);
}

//! The command table against real servers: redis-server, and valkey-server where `VALKEY_SERVER`
//! names it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use redis::{Connection, Value};
use ringway::protocol::resp::{
    Version, command_reply,
    frame::{FrameLimits, Request, RequestDecoder, Step},
    table::Table,
    write,
};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/protocol/resp/commands.tsv");

/// A server of its own on a socket in a directory of its own; it ends with this value.
struct RedisServer {
    process: Child,
    directory: tempfile::TempDir,
}

impl RedisServer {
    fn start(program: &str) -> RedisServer {
        let directory = tempfile::tempdir().expect("a directory");
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(directory.path().join("socket"))
            .arg("--dir")
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs it"));
        RedisServer { process, directory }
    }

    fn connect(&self, version: Version) -> Connection {
        let protocol = if version == Version::Resp3 { "?protocol=resp3" } else { "" };
        let url = format!("redis+unix://{}/socket{protocol}", self.directory.path().display());
        let client = redis::Client::open(url).expect("an address");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(e) => assert!(Instant::now() < deadline, "no server: {e}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing to do about either.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The servers to compare with, by their word in the table.
fn programs() -> Vec<(&'static str, String)> {
    let mut programs = vec![("redis", "redis-server".to_owned())];
    match env::var("VALKEY_SERVER") {
        Ok(program) => programs.push(("valkey", program)),
        Err(_) => eprintln!("VALKEY_SERVER is not set: compared with redis-server alone"),
    }
    programs
}

fn ask(server: &mut Connection, args: &[&str]) -> Value {
    let mut command = redis::cmd(args[0]);
    command.arg(&args[1..]);
    command
        .query(server)
        .unwrap_or_else(|e| Value::SimpleString(format!("error: {}", e.detail().unwrap_or(""))))
}

/// Gives a request of these arguments.
fn with_request<T>(words: &[&str], f: impl FnOnce(&Request<'_>) -> T) -> T {
    let mut bytes = Vec::new();
    write::request(&mut bytes, words);
    let limits = FrameLimits { bulk_bytes: 1 << 20, request_bytes: 1 << 20, args_max: 1 << 20 };
    let mut decoder = RequestDecoder::default();
    assert_eq!(decoder.decode(&bytes, &limits), Ok(Step::Request(bytes.len())));
    f(&Request::new(&bytes, decoder.spans()))
}

/// What ringway answers to a `COMMAND` request.
fn answer(table: &Table, words: &[&str], version: Version) -> Value {
    let mut out = Vec::new();
    with_request(words, |request| match table.lookup(request) {
        Ok(_) => command_reply::answer(table, request, version, &mut out),
        Err(refusal) => write::error(&mut out, &refusal.text),
    });
    match redis::parse_redis_value(&out).expect("a reply") {
        Value::ServerError(e) => Value::SimpleString(format!("error: {}", e.details().unwrap_or(""))),
        value => value,
    }
}

fn table() -> Table {
    Table::new(&[], &[] as &[&str]).expect("the built-in table")
}

/// Names that the servers describe differently: two rows in the table.
fn described_twice() -> BTreeSet<String> {
    let rows = std::fs::read_to_string(TABLE).expect("the table");
    let mut seen = BTreeSet::new();
    let names = rows.lines().filter_map(|row| row.split('\t').next());
    names.filter(|name| !seen.insert(name.to_string())).map(str::to_owned).collect()
}

/// The table in the tree is what the running servers say: each command, its arity, flags, key
/// specifications and the rest.
#[test]
fn the_data_is_what_servers_say() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/commands.py");
    let output = Command::new("python3")
        .args([script, "--check", TABLE])
        .args(programs().iter().map(|(word, program)| format!("{word}={program}")))
        .output()
        .expect("python3");
    assert!(
        output.status.success(),
        "write the table again with tests/data/commands.py: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
}

/// `COMMAND INFO` about a command, in either version of the protocol, is what a server answers.
#[test]
fn info_is_what_servers_say() {
    let (table, different) = (table(), described_twice());
    for (_, program) in programs() {
        let server = RedisServer::start(&program);
        for version in [Version::Resp2, Version::Resp3] {
            let mut server = server.connect(version);
            let mut compared = 0;
            for command in table.offered() {
                // A container lists the subcommands that are offered.
                if different.contains(&*command.name) || table.subcommands(command).next().is_some() {
                    continue;
                }
                let request = ["COMMAND", "INFO", &*command.name];
                let said = plain(ask(&mut server, &request));
                if said == "[nil]" {
                    continue;
                }
                assert_eq!(plain(answer(&table, &request, version)), said, "{request:?}");
                compared += 1;
            }
            assert!(compared > 140, "{program}: {compared}");
        }
    }
}

/// A value as text. The notes in key specifications are left out, and an empty set is no different
/// from an empty array (servers disagree).
fn plain(value: Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Int(n) => n.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::SimpleString(text) => format!("+{text}"),
        Value::Okay => "+OK".to_owned(),
        Value::Array(values) => {
            let mut values: Vec<String> = values.into_iter().map(plain).collect();
            if values.first().is_some_and(|field| field == "notes") {
                values.drain(..2);
            }
            format!("[{}]", values.join(" "))
        }
        Value::Set(values) if values.is_empty() => "[]".to_owned(),
        Value::Set(values) => format!("~{}", plain(Value::Array(values))),
        Value::Map(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (plain(name), plain(value)));
            let fields: BTreeMap<_, _> = fields.filter(|(name, _)| name != "notes").collect();
            format!("{fields:?}")
        }
        other => panic!("{other:?} in an answer to COMMAND"),
    }
}

/// Requests whose keys are found as servers find them, the flags too.
const REQUESTS: &[&str] = &[
    "APPEND a b",
    "BITCOUNT a 0 1",
    "BITFIELD a GET u8 0",
    "BITFIELD a SET u8 0 1",
    "BITOP AND d a b c",
    "BITOP NOT d a",
    "BLMOVE a b LEFT RIGHT 0",
    "BLMPOP 0 2 a b LEFT",
    "BLPOP a b c 0",
    "BZMPOP 0 1 a MIN",
    "BZPOPMAX a b 0",
    "COPY a b REPLACE",
    "DEL a b c",
    "DUMP a",
    "EVAL script 0",
    "EVAL script 0 a",
    "EVAL script 2 a b c",
    "EVAL script 5 a",
    "EVAL script -1 a",
    "EVAL script x a",
    "EVALSHA sha 1 a b",
    "EVALSHA_RO sha 1 a b",
    "EVAL_RO script 1 a",
    "EXISTS a a",
    "EXPIRE a 1",
    "FCALL f 2 a b c",
    "FCALL_RO f 0",
    "GEOADD a 1 2 m",
    "GEORADIUS k 1 2 3 km",
    "GEORADIUS k 1 2 3 km COUNT 5 STORE d",
    "GEORADIUS k 1 2 3 km STOREDIST d",
    "GEORADIUSBYMEMBER k m 3 km ASC STORE d",
    "GEORADIUS_RO k 1 2 3 km",
    "GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 km",
    "GET a",
    "HSET a f v g w",
    "LCS a b LEN",
    "LMOVE a b LEFT LEFT",
    "LMPOP 2 a b LEFT",
    "LMPOP 3 a b LEFT",
    "MEMORY USAGE a SAMPLES 5",
    "MGET a b c",
    "MIGRATE h 1 a 0 9 COPY",
    "MIGRATE h 1  0 9 COPY AUTH p KEYS a b",
    "MIGRATE h 1  0 9 AUTH KEYS KEYS a b",
    "MOVE a 1",
    "MSET a 1 b 2",
    "MSETNX a 1 b 2",
    "OBJECT ENCODING a",
    "OBJECT FREQ a",
    "PFCOUNT a b",
    "PFDEBUG x a",
    "PFMERGE d a b",
    "PING",
    "PUBLISH a b",
    "RENAME a b",
    "RENAMENX a b",
    "RESTORE a 0 x",
    "RPOPLPUSH a b",
    "SDIFFSTORE d a b",
    "SET a b",
    "SET a b GET",
    "SINTER a b",
    "SINTERCARD 2 a b LIMIT 1",
    "SINTERCARD 0 a",
    "SMOVE a b m",
    "SORT a",
    "SORT a BY w_* GET # GET o_* STORE d",
    "SORT a BY STORE STORE d",
    "SORT a LIMIT STORE 1",
    "SORT a STORE d STORE e",
    "SORT_RO a BY w_*",
    "SUBSTR a 0 1",
    "SUNIONSTORE d a b",
    "TOUCH a b",
    "UNLINK a b",
    "WATCH a b",
    "XADD a * f v",
    "XGROUP CREATE a g 0",
    "XGROUP SETID a g 0",
    "XGROUP DELCONSUMER a g c",
    "XINFO STREAM a",
    "XINFO CONSUMERS a g",
    "XREAD COUNT 2 BLOCK 5 STREAMS a b 0 0",
    "XREAD STREAMS a 0",
    "XREAD STREAMS STREAMS 0",
    "XREADGROUP GROUP STREAMS c COUNT 1 STREAMS a b > >",
    "ZADD a 1 m",
    "ZDIFF 2 a b",
    "ZDIFFSTORE d 2 a b",
    "ZINTER 2 a b WEIGHTS 1 2",
    "ZINTERCARD 2 a b LIMIT 1",
    "ZINTERSTORE d 2 a b",
    "ZMPOP 1 a MIN",
    "ZRANGESTORE d s 0 1",
    "ZUNION 2 a b",
    "ZUNION 3 a b",
    "ZUNION 0 a b",
    "ZUNIONSTORE d 1 a",
    "ZUNIONSTORE d 0 a",
    "HGETEX a EX 1 FIELDS 1 f",
    "HSETEX a EX 1 FIELDS 1 f v",
    "MSETEX 2 a 1 b 2 EX 5",
    "DELIFEQ a v",
    "OBJECT NOSUCH a",
    "NOSUCH a",
];

/// `COMMAND GETKEYS` and `GETKEYSANDFLAGS` find what a server finds, errors included.
#[test]
fn keys_are_where_servers_find_them() {
    let table = table();
    for (_, program) in programs() {
        let process = RedisServer::start(&program);
        let mut server = process.connect(Version::Resp2);
        let mut compared = 0;
        for request in REQUESTS {
            let words: Vec<&str> = request.split(' ').collect();
            let known = plain(ask(&mut server, &["COMMAND", "INFO", words[0]])) != "[nil]";
            if !known && words[0] != "NOSUCH" {
                continue;
            }
            for how in ["GETKEYS", "GETKEYSANDFLAGS"] {
                let request = [&["COMMAND", how][..], &words].concat();
                // The second word that COMMAND GETKEYS PING lacks for Redis 7.0's own arity.
                if words.len() == 1 && program == "redis-server" {
                    continue;
                }
                let said = plain(ask(&mut server, &request));
                assert_eq!(plain(answer(&table, &request, Version::Resp2)), said, "{program}: {request:?}");
                compared += 1;
            }
        }
        assert!(compared > 180, "{program}: {compared}");
    }
}

/// Each command with keys that a server knows has them where the server finds them, in a request
/// made of its least number of arguments.
#[test]
fn every_keyed_command_agrees() {
    let table = table();
    for (_, program) in programs() {
        let process = RedisServer::start(&program);
        let mut server = process.connect(Version::Resp2);
        let Value::Array(names) = ask(&mut server, &["COMMAND", "LIST", "FILTERBY", "PATTERN", "*"]) else {
            panic!("COMMAND LIST answers with an array");
        };
        assert!(names.len() > 300);
        let mut different = Vec::new();
        for name in names.into_iter().map(plain) {
            let command =
                table.named(name.as_bytes()).unwrap_or_else(|| panic!("{name} is not in the table"));
            let least = command.arity().unsigned_abs() as usize;
            let mut request: Vec<&str> = ["COMMAND", "GETKEYS"].into_iter().chain(name.split('|')).collect();
            // Numbers fit everywhere, as names and as counts.
            request.resize((2 + least).max(4), "1");
            let ours = plain(answer(&table, &request, Version::Resp2));
            let theirs = plain(ask(&mut server, &request));
            if ours != theirs {
                different.push(format!("{request:?}: {ours}, not {theirs}"));
            }
        }
        assert!(different.is_empty(), "{program}: {different:#?}");
    }
}

/// `COMMAND LIST` and `COUNT` name what is offered, in the shape of a server.
#[test]
fn lists_name_what_is_offered() {
    let table = Table::new(&[], &["GETSET"]).expect("known");
    for version in [Version::Resp2, Version::Resp3] {
        let Value::Int(count) = answer(&table, &["COMMAND", "COUNT"], version) else { panic!("a number") };
        let names = match answer(&table, &["COMMAND", "LIST"], version) {
            Value::Array(names) | Value::Set(names) => names,
            other => panic!("{other:?}"),
        };
        assert_eq!(names.len() as i64, count);
        let names: BTreeSet<String> = names.into_iter().map(plain).collect();
        for (name, offered) in
            [("get", true), ("config", true), ("getset", false), ("multi", false), ("cluster", false)]
        {
            assert_eq!(names.contains(name), offered, "{name}");
        }
        let Value::Array(all) = answer(&table, &["COMMAND"], version) else { panic!("an array") };
        assert_eq!(all.len() as i64, count);
        for (request, expected) in [
            ("COMMAND LIST FILTERBY PATTERN CONFIG*", "[config config|get]"),
            ("COMMAND LIST FILTERBY PATTERN x[r]ead*", "[xread xreadgroup]"),
            ("COMMAND LIST FILTERBY MODULE x", "[]"),
            ("COMMAND LIST FILTERBY ACLCAT none", "[]"),
            ("COMMAND LIST FILTERBY NAME x", "+error: syntax error"),
            ("COMMAND LIST x", "+error: syntax error"),
            ("COMMAND INFO getset multi", "[nil nil]"),
            ("COMMAND COUNT x", "+error: wrong number of arguments for 'command|count' command"),
            ("COMMAND NOSUCH", "+error: unknown subcommand 'NOSUCH'. Try COMMAND HELP."),
        ] {
            let words: Vec<&str> = request.split(' ').collect();
            assert_eq!(plain(answer(&table, &words, version)), expected, "{request}");
        }
        let docs = plain(answer(&table, &["COMMAND", "DOCS", "get", "multi", "config"], version));
        for text in ["get", "since", "1.0.0", "group", "string", "subcommands", "config|get"] {
            assert!(docs.contains(text), "{text} in {docs}");
        }
        assert!(!docs.contains("multi"));
    }
}

/// What is not known, and what has too many or too few arguments, is refused in the words of a
/// server.
#[test]
fn refusals_are_in_the_words_of_servers() {
    let table = table();
    let long = "x".repeat(150);
    for (_, program) in programs() {
        let process = RedisServer::start(&program);
        let mut server = process.connect(Version::Resp2);
        for words in [
            &["nosuch"][..],
            &["NoSuch", "a", "b c", ""],
            &["no\r\nsuch", "a\nb", "nul\0hidden"],
            &["nosuch", &long, "b"],
            &["nosuch", &long[..100], &long[..100], "c"],
            &[&long, "a"],
            &["get|x"],
            &["config|get", "a"],
            &["get"],
            &["GET", "a", "b"],
            &["object"],
            &["Object", "Encoding"],
            &["object", "nosuch", "a"],
            &["object", &long],
            &["xgroup", "create", "a"],
            &["command", "count", "a"],
            &["mset", "a", "1", "b"],
            &["cluster", "info"],
        ] {
            assert_eq!(refusal(&table, words), plain(ask(&mut server, words)), "{program}: {words:?}");
        }
    }
}

/// What ringway refuses a request with, as [`ask`] shows an error.
fn refusal(table: &Table, words: &[&str]) -> String {
    let refused = with_request(words, |request| {
        table.lookup(request).and_then(|command| command.keys(request, 2, &mut Vec::new()))
    });
    let mut out = Vec::new();
    write::error(&mut out, &refused.expect_err("a refusal").text);
    format!("+error: {}", String::from_utf8_lossy(&out["-ERR ".len()..]).trim_end_matches("\r\n"))
}

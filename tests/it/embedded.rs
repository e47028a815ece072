//! The embedded node against a real redis-server: the same bytes for the same requests.
//!
//! What may differ is stated in [`compare`], each with its reason. Left out of the scripts:
//! `INFO`, `COMMAND` and `CLIENT SETINFO` (Redis has it from 7.2 on), and expiries that would
//! pass while the script runs.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{TestError, TestRunner},
};
use ringway::{
    embedded::{Embedded, Settings, Speaks},
    protocol::resp::{frame::Scanner, write},
};

/// A reply must be there within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A redis-server on a socket file, killed with its owner.
struct Redis {
    child: Child,
    place: tempfile::TempDir,
}

impl Redis {
    fn start() -> Redis {
        let place = tempfile::tempdir().expect("a directory for the socket");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--databases", "1", "--unixsocket"])
            .arg(place.path().join("s"))
            .current_dir(place.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Redis { child, place };
        let begun = Instant::now();
        while UnixStream::connect(redis.place.path().join("s")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "redis-server does not listen");
            std::thread::yield_now();
        }
        redis
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.place.path().join("s")).expect("redis-server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It is gone already, or it is gone now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The runtime of the embedded nodes in this file.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
});

fn start() -> Embedded {
    speaking(Speaks::Redis)
}

/// An embedded node on its own, without a proxy in front of it.
pub(crate) fn speaking(speaks: Speaks) -> Embedded {
    let _guard = RUNTIME.enter();
    Embedded::start(Settings { speaks, ..Settings::default() }).expect("a free port")
}

fn connect(node: &Embedded) -> TcpStream {
    let stream = TcpStream::connect(node.address()).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

type Request = Vec<Vec<u8>>;

/// Sends all requests at once and cuts the replies.
fn ask(stream: &mut (impl Read + Write), script: &[Request]) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    for args in script {
        write::request(&mut bytes, args);
    }
    stream.write_all(&bytes).expect("the node reads");
    let (mut replies, mut reply, mut scanner) = (Vec::new(), Vec::new(), Scanner::default());
    let mut buffer = [0; 4096];
    while replies.len() < script.len() {
        let n = stream.read(&mut buffer).expect("a reply in time");
        assert_ne!(n, 0, "closed after {} of {} replies to {}", replies.len(), script.len(), show(script));
        let mut chunk = &buffer[..n];
        while !chunk.is_empty() {
            let scan = scanner.advance(chunk).expect("RESP");
            reply.extend_from_slice(&chunk[..scan.used]);
            chunk = &chunk[scan.used..];
            if scan.done {
                replies.push(std::mem::take(&mut reply));
            }
        }
    }
    assert_eq!(replies.len(), script.len(), "one reply each");
    replies
}

fn show(script: &[Request]) -> String {
    let line =
        |request: &Request| request.iter().map(|a| format!("'{}' ", a.escape_ascii())).collect::<String>();
    script.iter().map(|r| line(r) + "\n").collect()
}

/// Whether two replies to a request are the same as far as they must be.
fn compare(request: &Request, real: &[u8], ours: &[u8]) -> bool {
    let name = request[0].to_ascii_uppercase();
    let sub = request.get(1).map(|s| s.to_ascii_uppercase()).unwrap_or_default();
    match (name.as_slice(), sub.as_slice()) {
        // Each server numbers its own clients.
        (b"CLIENT", b"ID") => real[0] == ours[0],
        (b"HELLO", _) => without_id(real) == without_id(ours),
        // A hash table has no order, and any key may be the random one.
        (b"KEYS" | b"SCAN", _) => sorted(real) == sorted(ours),
        (b"RANDOMKEY", _) => {
            real[..2] == ours[..2]
                || (real[0] == b'$' && ours[0] == b'$' && real[1] != b'-' && ours[1] != b'-')
        }
        // The two clocks are read at different moments.
        (b"TTL" | b"PTTL" | b"EXPIRETIME" | b"PEXPIRETIME", _) => match (integer(real), integer(ours)) {
            (Some(a), Some(b)) if a > 0 && b > 0 => a.abs_diff(b) < 20_000,
            _ => real == ours,
        },
        _ => real == ours,
    }
}

fn integer(reply: &[u8]) -> Option<i64> {
    std::str::from_utf8(reply.strip_prefix(b":")?).ok()?.trim_end().parse().ok()
}

fn without_id(reply: &[u8]) -> Vec<u8> {
    const ID: &[u8] = b"$2\r\nid\r\n:";
    match reply.windows(ID.len()).position(|w| w == ID) {
        Some(at) => {
            let rest = &reply[at + ID.len()..];
            let end = rest.iter().position(|b| *b == b'\r').unwrap_or(0);
            [&reply[..at], &rest[end..]].concat()
        }
        None => reply.to_vec(),
    }
}

/// The lines of a reply in order; the keys here have no line breaks and each its own length.
fn sorted(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|b| *b == b'\n').collect();
    lines.sort_unstable();
    lines
}

const KEYS: [&[u8]; 6] = [b"", b"a", b"b1", b"c*c", b"d\xff[]", b"e:345"];

fn word(words: &'static [&'static str]) -> BoxedStrategy<Vec<u8>> {
    select(words).prop_map(|w| w.as_bytes().to_vec()).boxed()
}

fn key() -> BoxedStrategy<Vec<u8>> {
    select(&KEYS[..]).prop_map(<[u8]>::to_vec).boxed()
}

fn value() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        4 => number(),
        2 => word(&["", "hello", "3.14", "1e3", "-0.1", "3001.1", "0.30000000000000004", "10.5e-3", "1.", ".5"]),
        1 => prop::collection::vec(any::<u8>(), 0..30),
        1 => prop::collection::vec(b'a'..=b'z', 1000..1001),
    ]
    .boxed()
}

fn number() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        4 => (-20..20i64).prop_map(|n| n.to_string().into_bytes()),
        1 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        2 => word(&[
            "9223372036854775807", "-9223372036854775808", "9223372036854775808", "-9223372036854775809", "007", "-0",
            "+1", " 1", "1 ", "x", "", "1.5", "99999999999999999999999",
        ]),
    ]
    .boxed()
}

fn float() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        3 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        3 => (-1e6..1e6f64).prop_map(|n| n.to_string().into_bytes()),
        3 => "[-+]?[0-9]{0,12}([.][0-9]{0,20})?(e-?[0-9])?".prop_map(String::into_bytes),
        2 => word(&["0.1", "-0.1", "1e-17", "5e-18", "1e-30", "inf", "-Infinity", "nan", "", " 1", "1 ", "1e", "e1", "1e99999", "-0"]),
    ]
    .boxed()
}

/// Spans of time that do not pass while a script runs.
fn span() -> BoxedStrategy<Vec<u8>> {
    word(&[
        "100000",
        "200000",
        "9999999999",
        "0",
        "-1",
        "-5000",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854775",
        "9223372036854776",
        "-9223372036854776",
        "x",
        "",
    ])
}

/// Points in time, long past or far to come.
fn moment() -> BoxedStrategy<Vec<u8>> {
    word(&[
        "1",
        "1000",
        "0",
        "-1",
        "99999999999",
        "99999999999999",
        "99999999999500",
        "9223372036854775",
        "9223372036854776",
        "9223372036854775000",
        "9223372036854775807",
        "-9223372036854775808",
        "x",
    ])
}

/// What may stand behind `SET key value` or `GETEX key`: right, odd and wrong.
fn lifetime() -> BoxedStrategy<Request> {
    let two = |w: BoxedStrategy<Vec<u8>>, n: BoxedStrategy<Vec<u8>>| (w, n).prop_map(|(w, n)| vec![w, n]);
    prop_oneof![
        3 => two(word(&["EX", "px", "Ex\0x"]), span()),
        3 => two(word(&["EXAT", "pxat"]), moment()),
        4 => word(&["NX", "xx", "GET", "KEEPTTL", "persist", "EX", "nonsense", "nx\0", ""]).prop_map(|w| vec![w]),
    ]
    .boxed()
}

fn request(name: &'static str, args: Vec<BoxedStrategy<Vec<u8>>>) -> BoxedStrategy<Request> {
    (word_case(name), args).prop_map(|(name, args)| std::iter::once(name).chain(args).collect()).boxed()
}

fn word_case(name: &'static str) -> BoxedStrategy<Vec<u8>> {
    any::<bool>()
        .prop_map(
            move |upper| {
                if upper { name.to_ascii_uppercase().into_bytes() } else { name.as_bytes().to_vec() }
            },
        )
        .boxed()
}

/// A request with more arguments behind it.
fn with(
    head: BoxedStrategy<Request>,
    tail: impl Strategy<Value = Vec<Request>> + 'static,
) -> BoxedStrategy<Request> {
    (head, tail).prop_map(|(head, tail)| [head, tail.concat()].concat()).boxed()
}

fn many(one: BoxedStrategy<Vec<u8>>, most: usize) -> impl Strategy<Value = Vec<Request>> {
    prop::collection::vec(one.prop_map(|w| vec![w]), 0..=most)
}

fn on_strings() -> BoxedStrategy<Request> {
    prop_oneof![
        4 => request("get", vec![key()]),
        4 => request("set", vec![key(), value()]),
        6 => with(request("set", vec![key(), value()]), prop::collection::vec(lifetime(), 1..4)),
        4 => with(request("getex", vec![key()]), prop::collection::vec(lifetime(), 0..3)),
        1 => request("setnx", vec![key(), value()]),
        1 => request("setex", vec![key(), span(), value()]),
        1 => request("psetex", vec![key(), span(), value()]),
        1 => request("getset", vec![key(), value()]),
        1 => request("getdel", vec![key()]),
        1 => request("append", vec![key(), value()]),
        1 => request("strlen", vec![key()]),
        3 => request("getrange", vec![key(), number(), number()]),
        2 => request("setrange", vec![key(), word(&["0", "1", "5", "100", "-1", "536870912", "9223372036854775807", "x"]), value()]),
        2 => with(request("mget", vec![]), many(key(), 4)),
        2 => with(request("mset", vec![]), many(key(), 5)),
        2 => with(request("msetnx", vec![]), many(key(), 5)),
        2 => request("incr", vec![key()]),
        2 => request("decr", vec![key()]),
        3 => request("incrby", vec![key(), number()]),
        3 => request("decrby", vec![key(), number()]),
        6 => request("incrbyfloat", vec![key(), float()]),
    ]
    .boxed()
}

fn on_keys() -> BoxedStrategy<Request> {
    let plain = || word(&["NX", "xx", "nonsense"]);
    let all = || word(&["NX", "xx", "GT", "lt", "nonsense"]);
    let pattern = || word(&["*", "**", "a*", "?", "[a-c]*", "[^a]*", "*[0-9]", "c\\*c", "", "[", "d?\\[*"]);
    let scan = (pattern(), word(&["string", "STRING", "hash", "nonsense"])).prop_map(|(p, t)| {
        [&b"SCAN"[..], b"0", b"COUNT", b"1000", b"match", &p, b"type", &t].map(<[u8]>::to_vec).to_vec()
    });
    prop_oneof![
        2 => with(request("del", vec![]), many(key(), 3)),
        1 => with(request("unlink", vec![]), many(key(), 3)),
        2 => with(request("exists", vec![]), many(key(), 4)),
        1 => with(request("touch", vec![]), many(key(), 3)),
        1 => request("type", vec![key()]),
        3 => request("ttl", vec![key()]),
        3 => request("pttl", vec![key()]),
        2 => request("expiretime", vec![key()]),
        2 => request("pexpiretime", vec![key()]),
        2 => with(request("expire", vec![key(), span()]), many(plain(), 2)),
        2 => with(request("pexpire", vec![key(), span()]), many(plain(), 2)),
        3 => with(request("expireat", vec![key(), moment()]), many(all(), 2)),
        3 => with(request("pexpireat", vec![key(), moment()]), many(all(), 2)),
        2 => request("persist", vec![key()]),
        2 => request("keys", vec![pattern()]),
        3 => scan,
        2 => request("scan", vec![word(&["", "x", "-", "18446744073709551616", " 0", "1x"])]),
        1 => with(request("scan", vec![word(&["0"])]), many(word(&["COUNT", "MATCH", "TYPE", "0", "-1", "x"]), 3)),
        1 => request("randomkey", vec![]),
        2 => request("dbsize", vec![]),
        1 => with(request("flushall", vec![]), many(word(&["SYNC", "async", "x"]), 1)),
        1 => with(request("flushdb", vec![]), many(word(&["SYNC", "async", "x"]), 2)),
    ]
    .boxed()
}

fn on_sessions() -> BoxedStrategy<Request> {
    prop_oneof![
        2 => with(request("ping", vec![]), many(value(), 2)),
        1 => request("echo", vec![value()]),
        2 => request("select", vec![word(&["0", "1", "-1", "x", "2147483648"])]),
        1 => with(request("hello", vec![]), many(word(&["2", "3", "4", "x", "-1"]), 1)),
        3 => with(
            request("hello", vec![word(&["2", "3", "4"])]),
            many(word(&["AUTH", "default", "x", "SETNAME", "name", "a b", "nonsense"]), 4)
        ),
        1 => with(request("auth", vec![]), many(word(&["default", "x"]), 3)),
        1 => request("reset", vec![]),
        1 => request("role", vec![]),
        2 => request("client", vec![word(&["id", "GETNAME"])]),
        2 => request("client", vec![word(&["setname"]), word(&["", "me", "a b", "\u{e9}"])]),
        1 => request("client", vec![word(&["nope", "nope\r\n", "x\0y"]), value()]),
        1 => request("command", vec![word(&["nope", ""])]),
        // Any number of arguments to any command, and commands that there are not.
        4 => (select(NAMES), prop::collection::vec(value(), 0..8)).prop_map(|(name, mut args)| {
            args.insert(0, name.as_bytes().to_vec());
            args
        }),
    ]
    .boxed()
}

/// Names for requests with arbitrary arguments: none that could change an expiry to a moment that
/// passes while the script runs.
const NAMES: &[&str] = &[
    "get",
    "mget",
    "strlen",
    "getdel",
    "getset",
    "setnx",
    "append",
    "exists",
    "del",
    "type",
    "ttl",
    "persist",
    "keys",
    "dbsize",
    "randomkey",
    "echo",
    "select",
    "reset",
    "role",
    "incr",
    "decrby",
    "getrange",
    "msetnx",
    "client",
    "nope",
    "no\0pe",
    "no\r\npe",
    "client|id",
    "",
    "\u{fc}ber",
];

fn script() -> impl Strategy<Value = Vec<Request>> {
    let one = prop_oneof![6 => on_strings(), 4 => on_keys(), 2 => on_sessions()];
    prop::collection::vec(one, 1..40)
}

/// Whether a request sees keys as a whole, expired ones included.
fn counts_keys(request: &Request) -> bool {
    matches!(request[0].to_ascii_uppercase().as_slice(), b"DBSIZE" | b"KEYS" | b"SCAN" | b"RANDOMKEY")
}

/// A sum that the embedded node does not reach: its numbers end at 2^127, which has 39 digits.
fn is_beyond(request: &Request, real: &[u8]) -> bool {
    let line = real.split(|b| *b == b'\n').nth(1).unwrap_or_default();
    let digits = line.iter().skip_while(|b| **b == b'-').take_while(|b| b.is_ascii_digit()).count();
    request[0].eq_ignore_ascii_case(b"incrbyfloat") && digits >= 39
}

/// Random scripts get from the embedded node what they get from Redis 7.0, in RESP2 and RESP3.
#[test]
fn the_same_bytes_as_redis() {
    let (redis, node) = (Redis::start(), start());
    let words = |words: &[&str]| -> Request { words.iter().map(|w| w.as_bytes().to_vec()).collect() };
    let touch_all: Request = std::iter::once(b"EXISTS".to_vec()).chain(KEYS.map(<[u8]>::to_vec)).collect();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let outcome = runner.run(&(script(), select(vec!["2", "3"])), |(requests, version)| {
        let mut script = vec![words(&["FLUSHALL"]), words(&["HELLO", version])];
        for request in requests {
            // A key that has expired goes when it is met, or some time; here it goes now.
            if counts_keys(&request) {
                script.push(touch_all.clone());
            }
            script.push(request);
        }
        let real = ask(&mut redis.connect(), &script);
        let ours = ask(&mut connect(&node), &script);
        for (i, request) in script.iter().enumerate() {
            if is_beyond(request, &real[i]) {
                break;
            }
            prop_assert!(
                compare(request, &real[i], &ours[i]),
                "{}redis: {}\n ours: {}",
                show(&script[..=i]),
                real[i].escape_ascii(),
                ours[i].escape_ascii()
            );
        }
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        // The script stands in the reason, as text.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

/// All that the other side says to these bytes and their end, until it closes.
fn until_closed<S: Read + Write>(
    mut stream: S,
    bytes: &[u8],
    shutdown: fn(&S, Shutdown) -> io::Result<()>,
) -> Vec<u8> {
    stream.write_all(bytes).expect("the node reads");
    shutdown(&stream, Shutdown::Write).expect("half a close");
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return said,
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            // It closed before it had read all.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return said,
            Err(e) => panic!("after {}: {e}", said.escape_ascii()),
        }
    }
}

/// Malformed streams, and those that end in the middle, get what they get from Redis.
#[test]
fn the_same_end_as_redis() {
    let (redis, node) = (Redis::start(), start());
    for stream in [
        &b"PING\r\n"[..],
        b"PING\r\nPI",
        b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1",
        b"  set  a \"x\\x41\\n\" \r\nget a\r\n",
        b"get 'a\r\nPING\r\n",
        b"\r\n\r\n*0\r\n*-1\r\nPING\r\n",
        b"*x\r\nPING\r\n",
        // Redis takes 2^31 - 1 arguments for possible; the embedded node stops at 2^20.
        b"*3000000000\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$600000000\r\n",
        b"QUIT\r\nPING\r\n",
        b"quit now\r\nPING\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n",
    ] {
        let real = until_closed(redis.connect(), stream, UnixStream::shutdown);
        let ours = until_closed(connect(&node), stream, TcpStream::shutdown);
        assert_eq!(
            ours.escape_ascii().to_string(),
            real.escape_ascii().to_string(),
            "to {}",
            stream.escape_ascii()
        );
    }
}

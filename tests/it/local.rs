//! What ringway answers itself must be what a Redis server answers, byte for byte.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringway::protocol::resp::frame::{FrameLimits, Request, RequestDecoder, Scanner, Step};
use ringway::protocol::resp::info::{Numbers, REDIS_VERSION};
use ringway::protocol::resp::local::{self, After, ClientState, Facts, NOAUTH, Settings};
use ringway::protocol::resp::rule::Local;
use ringway::protocol::resp::value::Value;
use ringway::protocol::resp::{Version, glob, write};

const WAIT: Duration = Duration::from_secs(10);

/// A redis-server on a Unix socket in a directory of its own; killed when it goes out of scope.
struct RedisServer {
    child: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl RedisServer {
    fn start(more: &[&str]) -> RedisServer {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--dir"])
            .arg(directory.path())
            .arg("--unixsocket")
            .arg(&socket)
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        RedisServer { child, socket, _directory: directory }
    }

    fn connect(&self) -> UnixStream {
        let until = Instant::now() + WAIT;
        loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(WAIT)).expect("a timeout");
                    return stream;
                }
                Err(e) => assert!(Instant::now() < until, "redis-server does not come up: {e}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One reply of the server to one request.
fn ask_server(stream: &mut UnixStream, args: &[&[u8]]) -> Vec<u8> {
    let mut request = Vec::new();
    write::request(&mut request, args);
    stream.write_all(&request).expect("the server reads");
    let (mut scanner, mut reply, mut chunk) = (Scanner::default(), Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk).expect("the server answers");
        assert_ne!(n, 0, "the server closed after {:?}", reply.escape_ascii().to_string());
        reply.extend_from_slice(&chunk[..n]);
        if scanner.advance(&chunk[..n]).expect("RESP").done {
            return reply;
        }
    }
}

struct World(Settings);

impl Facts for World {
    fn settings(&self) -> &Settings {
        &self.0
    }

    fn now(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }

    fn sessions(&self) -> Vec<(u64, String)> {
        Vec::new()
    }

    fn numbers(&self) -> Numbers {
        Numbers::default()
    }

    fn command(&self, _: &Request<'_>, _: Version, _: &mut Vec<u8>) {}
}

fn kind(args: &[&[u8]]) -> Local {
    match args[0].to_ascii_uppercase().as_slice() {
        b"PING" => Local::Ping,
        b"ECHO" => Local::Echo,
        b"QUIT" => Local::Quit,
        b"RESET" => Local::Reset,
        b"TIME" => Local::Time,
        b"SELECT" => Local::Select,
        b"AUTH" => Local::Auth,
        b"HELLO" => Local::Hello,
        b"CLIENT" => Local::Client,
        b"INFO" => Local::Info,
        b"CONFIG" => Local::ConfigGet,
        b"ACL" => Local::AclWhoami,
        other => panic!("{}", other.escape_ascii()),
    }
}

/// One answer of ringway's, login checked as a session does it.
fn ask_ringway(world: &World, client: &mut ClientState, args: &[&[u8]]) -> (Vec<u8>, After) {
    let (mut bytes, mut out) = (Vec::new(), Vec::new());
    write::request(&mut bytes, args);
    let limits = FrameLimits { bulk_bytes: 1 << 20, request_bytes: 1 << 20, args_max: 100 };
    let mut decoder = RequestDecoder::default();
    assert_eq!(decoder.decode(&bytes, &limits), Ok(Step::Request(bytes.len())));
    if !client.authenticated && !local::allowed_before_auth(kind(args)) {
        write::error(&mut out, NOAUTH);
        return (out, After::Continue);
    }
    let request = Request::new(&bytes, decoder.spans());
    let after = local::answer(kind(args), &request, client, world, &mut out);
    (out, after)
}

/// Runs one session of these requests against both and compares each reply.
fn compare(server: &RedisServer, password: Option<&str>, script: &[&str]) {
    let settings = Settings {
        password: password.map(|p| p.as_bytes().to_vec()),
        sessions_max: 10_000,
        bulk_bytes: 1 << 29,
        port: 0,
    };
    let mut stream = server.connect();
    let world = World(settings);
    let mut client = ClientState::new(0, None, None, world.now().as_secs(), password.is_some());
    for line in script {
        // "_" stands for a space within an argument, "''" for nothing.
        let words: Vec<String> = line.split(' ').map(|w| w.replace('_', " ").replace("''", "")).collect();
        let args: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let expected = ask_server(&mut stream, &args);
        if *line == "CLIENT ID" {
            let Some((Value::Integer(id), _)) = Value::parse(&expected) else { panic!("no id") };
            client.id = id as u64;
        }
        let (reply, after) = ask_ringway(&world, &mut client, &args);
        assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{line}");
        if after == After::Close {
            assert_eq!(stream.read(&mut [0; 1]).ok(), Some(0), "{line}: the server closes too");
            return;
        }
    }
}

/// What both must answer alike.
const SAME: &[&str] = &[
    "PING",
    "PING hi",
    "ping ''",
    "PING a b",
    "ECHO hi",
    "ECHO",
    "TIME x",
    "SELECT 0",
    "SELECT 16",
    "SELECT -1",
    "SELECT abc",
    "SELECT 00",
    "SELECT 99999999999",
    "SELECT -99999999999",
    "SELECT 99999999999999999999",
    "SELECT",
    "AUTH",
    "AUTH x",
    "AUTH default x",
    "AUTH other x",
    "AUTH a b c",
    "HELLO",
    "HELLO 1",
    "HELLO 4",
    "HELLO -3",
    "HELLO x",
    "HELLO 03",
    "HELLO 99999999999999999999",
    "HELLO 3 AUTH default",
    "HELLO 3 AUTH other x",
    "HELLO 3 SETNAME",
    "HELLO 3 SETNAME a_b",
    "HELLO 3 FOO",
    "HELLO 3 SETNAME one SETNAME a_b",
    "CLIENT GETNAME",
    "HELLO 3 SETNAME two AUTH other x",
    "CLIENT GETNAME",
    "CLIENT SETNAME a_b",
    "CLIENT SETNAME a~!",
    "CLIENT GETNAME",
    "client setname ''",
    "CLIENT GETNAME",
    "CLIENT SETNAME",
    "CLIENT GETNAME x",
    "CLIENT ID x",
    "CLIENT INFO x",
    "CLIENT",
    "CLIENT FOO",
    "client foo_bar",
    "CLIENT GETREDIR",
    "CLIENT NO-EVICT on",
    "CLIENT NO-EVICT OFF",
    "CLIENT NO-EVICT x",
    "CLIENT NO-EVICT",
    "CLIENT REPLY ON",
    "CLIENT TRACKING off",
    "CLIENT LIST FOO",
    "CLIENT LIST ID",
    "CLIENT LIST ID x",
    "CLIENT LIST ID 999999",
    "CLIENT LIST TYPE x",
    "CLIENT LIST TYPE pubsub",
    "CLIENT LIST TYPE",
    "CLIENT HELP x",
    "ACL WHOAMI",
    "ACL WHOAMI x",
    "CONFIG GET",
    "CONFIG GET save",
    "CONFIG GET SAVE",
    "CONFIG GET save save",
    "CONFIG GET appendonly",
    "CONFIG GET proto-max*",
    "CONFIG GET maxmemor?",
    "CONFIG GET max[c]lients",
    "CONFIG GET timeout",
    "CONFIG GET nothing",
    "INFO nothing",
    "RESET x",
];

/// Answers that do not depend on who answers are those of a running server, in both versions.
#[test]
fn answers_are_redis_answers() {
    let server = RedisServer::start(&[]);
    let version = ask_server(&mut server.connect(), &[b"INFO", b"server"]);
    let version = String::from_utf8_lossy(&version).into_owned();
    assert!(version.contains(&format!("redis_version:{REDIS_VERSION}\r\n")), "{version}");
    let session = |before: &'static str| {
        let begin = ["CLIENT ID", before];
        let end = ["RESET", "CLIENT GETNAME", "HELLO", "QUIT"];
        [&begin[..], SAME, &end].concat()
    };
    compare(&server, None, &session("HELLO 2"));
    compare(&server, None, &session("HELLO 3"));
    compare(&server, None, &["QUIT now"]);
}

/// A client without the password hears what Redis says, and gets in as it does there.
#[test]
fn login_is_redis_login() {
    let server = RedisServer::start(&["--requirepass", "sesame"]);
    compare(
        &server,
        Some("sesame"),
        &[
            "PING",
            "SELECT x",
            "HELLO",
            "HELLO 3",
            "HELLO 3 SETNAME x",
            "HELLO 4",
            "HELLO x",
            "HELLO 3 FOO",
            "HELLO 3 AUTH default bad",
            "AUTH bad",
            "AUTH sesam",
            "AUTH sesamesesame",
            "AUTH ''",
            "AUTH other sesame",
            "AUTH a b c",
            "AUTH",
            "CONFIG GET save",
            "RESET",
            "AUTH sesame",
            "CLIENT ID",
            "PING",
            "AUTH bad",
            "PING",
            "RESET",
            "PING",
            "HELLO 3 AUTH default sesame SETNAME x",
            "CLIENT GETNAME",
            "HELLO 2",
            "AUTH default sesame",
            "QUIT",
        ],
    );
}

/// A pattern matches here what it matches in a running server.
#[test]
fn patterns_are_redis_patterns() {
    let server = RedisServer::start(&[]);
    let mut stream = server.connect();
    let keys: [&[u8]; 9] = [b"a", b"b", b"ab", b"ba", b"a-b", b"[a]", b"a*b", b"\\", b"^a"];
    for key in keys {
        assert_eq!(ask_server(&mut stream, &[b"SET", key, b"1"]), b"+OK\r\n");
    }
    // All patterns of up to four of these bytes.
    let alphabet = b"ab*?[]^-\\";
    let mut patterns: Vec<Vec<u8>> = vec![Vec::new()];
    for length in 1..=4 {
        let shorter: Vec<Vec<u8>> = patterns.iter().filter(|p| p.len() + 1 == length).cloned().collect();
        patterns.extend(shorter.iter().flat_map(|p| alphabet.iter().map(|b| [&p[..], &[*b]].concat())));
    }
    for pattern in patterns {
        let reply = ask_server(&mut stream, &[b"KEYS", &pattern]);
        let Some((Value::Array(found), _)) = Value::parse(&reply) else { panic!("no array") };
        let mut found: Vec<&[u8]> = found.bulks().expect("keys").into_iter().map(|(_, key)| key).collect();
        let mut expected: Vec<&[u8]> =
            keys.into_iter().filter(|key| glob::matches(&pattern, key, false)).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(expected, found, "pattern {}", pattern.escape_ascii());
    }
}

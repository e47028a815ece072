use super::*;
use std::sync::LazyLock;

use crate::protocol::resp::command_reply;
use crate::protocol::resp::frame::{FrameLimits, RequestDecoder, Step};
use crate::protocol::resp::table::Table;

static TABLE: LazyLock<Table> = LazyLock::new(|| Table::new(&[], &[""; 0]).expect("the built-in table"));

#[derive(Default)]
struct World {
    settings: Settings,
    sessions: Vec<(u64, String)>,
}

impl Facts for World {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn now(&self) -> Duration {
        Duration::from_micros(1_700_000_100_000_042)
    }

    fn sessions(&self) -> Vec<(u64, String)> {
        self.sessions.clone()
    }

    fn numbers(&self) -> Numbers {
        Numbers { pool: "cache".into(), ..Numbers::default() }
    }

    fn command(&self, request: &Request<'_>, version: Version, out: &mut Vec<u8>) {
        command_reply::answer(&TABLE, request, version, out);
    }
}

fn world(password: Option<&str>) -> World {
    let password = password.map(|p| p.as_bytes().to_vec());
    let settings = Settings { password, port: 6380, sessions_max: 10_000, bulk_bytes: 1 << 29 };
    World { settings, sessions: Vec::new() }
}

fn stranger(world: &World) -> ClientState {
    let created = 1_700_000_000;
    let wanted = world.settings.password.is_some();
    let address = |text: &str| text.parse().ok();
    ClientState::new(7, address("10.0.0.9:555"), address("10.0.0.1:6380"), created, wanted)
}

fn kind(name: &str) -> Local {
    match name {
        "PING" => Local::Ping,
        "ECHO" => Local::Echo,
        "QUIT" => Local::Quit,
        "RESET" => Local::Reset,
        "TIME" => Local::Time,
        "SELECT" => Local::Select,
        "AUTH" => Local::Auth,
        "HELLO" => Local::Hello,
        "CLIENT" => Local::Client,
        "COMMAND" => Local::Command,
        "INFO" => Local::Info,
        "CONFIG" => Local::ConfigGet,
        "ACL" => Local::AclWhoami,
        other => panic!("{other}"),
    }
}

fn ask(world: &World, client: &mut ClientState, args: &[&str]) -> (String, After) {
    let mut bytes = Vec::new();
    write::request(&mut bytes, args);
    let limits = FrameLimits { bulk_bytes: 1 << 25, request_bytes: 1 << 25, args_max: 1 << 20 };
    let mut decoder = RequestDecoder::default();
    assert_eq!(decoder.decode(&bytes, &limits), Ok(Step::Request(bytes.len())));
    let mut out = Vec::new();
    let request = Request::new(&bytes, decoder.spans());
    let after = answer(kind(args[0]), &request, client, world, &mut out);
    (String::from_utf8(out).expect("text"), after)
}

fn said(world: &World, client: &mut ClientState, line: &str) -> String {
    ask(world, client, &line.split(' ').collect::<Vec<_>>()).0
}

/// The answers that the two versions write differently, and those that they write alike.
#[test]
fn a_table_of_answers() {
    let arity = |command: &str| format!("-ERR wrong number of arguments for '{command}' command\r\n");
    let name = "-ERR Client names cannot contain spaces, newlines or special characters.\r\n";
    let cases: &[(&str, &str, &str)] = &[
        ("PING", "+PONG\r\n", ""),
        ("PING hi", "$2\r\nhi\r\n", ""),
        ("PING a b", &arity("ping"), ""),
        ("ECHO hi", "$2\r\nhi\r\n", ""),
        ("ECHO", &arity("echo"), ""),
        ("TIME", "*2\r\n$10\r\n1700000100\r\n$2\r\n42\r\n", ""),
        ("TIME x", &arity("time"), ""),
        ("RESET x", &arity("reset"), ""),
        ("SELECT 0", "+OK\r\n", ""),
        ("SELECT 1", "-ERR DB index is out of range\r\n", ""),
        ("SELECT", &arity("select"), ""),
        ("COMMAND GETKEYS GET k", "*1\r\n$1\r\nk\r\n", ""),
        ("CLIENT", &arity("client"), ""),
        ("CLIENT ID", ":7\r\n", ""),
        ("CLIENT GETNAME", "$-1\r\n", "_\r\n"),
        ("CLIENT SETNAME a\u{7f}", name, ""),
        ("CLIENT SETNAME", &arity("client|setname"), ""),
        ("CLIENT GETREDIR", ":-1\r\n", ""),
        ("CLIENT REPLY on", "+OK\r\n", ""),
        ("CLIENT TRACKING off", "+OK\r\n", ""),
        ("CLIENT KILL x", "-ERR CLIENT KILL is not offered by ringway\r\n", ""),
        ("CLIENT foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP.\r\n", ""),
        ("CLIENT SETINFO lib-x 1", "-ERR Unrecognized option 'lib-x'\r\n", ""),
        ("CLIENT NO-EVICT x", "-ERR syntax error\r\n", ""),
        ("CLIENT CAPA redirect", "+OK\r\n", ""),
        ("CLIENT LIST FOO", "-ERR syntax error\r\n", ""),
        ("CLIENT LIST TYPE pubsub", "$0\r\n\r\n", "=4\r\ntxt:\r\n"),
        ("CLIENT LIST TYPE x", "-ERR Unknown client type 'x'\r\n", ""),
        ("CLIENT LIST ID x", "-ERR Invalid client ID\r\n", ""),
        ("INFO foo", "$0\r\n\r\n", "=4\r\ntxt:\r\n"),
        (
            "INFO replication",
            "$48\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n",
            "=52\r\ntxt:# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n",
        ),
        ("CONFIG GET", &arity("config|get"), ""),
        ("CONFIG GET nothing", "*0\r\n", "%0\r\n"),
        ("CONFIG GET SAVE", "*2\r\n$4\r\nSAVE\r\n$0\r\n\r\n", "%1\r\n$4\r\nSAVE\r\n$0\r\n\r\n"),
        (
            "CONFIG GET s[a]v? appendonly save",
            "*4\r\n$10\r\nappendonly\r\n$2\r\nno\r\n$4\r\nsave\r\n$0\r\n\r\n",
            "%2\r\n$10\r\nappendonly\r\n$2\r\nno\r\n$4\r\nsave\r\n$0\r\n\r\n",
        ),
        (
            "CONFIG GET proto-*",
            "*2\r\n$18\r\nproto-max-bulk-len\r\n$9\r\n536870912\r\n",
            "%1\r\n$18\r\nproto-max-bulk-len\r\n$9\r\n536870912\r\n",
        ),
        ("ACL WHOAMI", "$7\r\ndefault\r\n", ""),
        ("ACL WHOAMI x", &arity("acl|whoami"), ""),
        (
            "HELLO",
            "*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
            "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:7\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n",
        ),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n", ""),
    ];
    let world = world(None);
    for (line, resp2, resp3) in cases {
        let (mut two, mut three) = (stranger(&world), stranger(&world));
        three.version = Version::Resp3;
        assert_eq!(said(&world, &mut two, line), *resp2, "{line}, RESP2");
        let resp3 = if resp3.is_empty() { resp2 } else { resp3 };
        assert_eq!(said(&world, &mut three, line), *resp3, "{line}, RESP3");
    }
}

/// However a request that is answered here is made, its reply is not much larger than it, or than what
/// `COMMAND` alone is answered, and it is there at once.
#[test]
fn what_is_answered_here_is_bounded() {
    const FACTOR: usize = 64;
    const LEAST: usize = 256 << 10;
    let world = world(None);
    let long = |unit: &str, n: usize| unit.repeat(n);
    let mut asked: Vec<Vec<String>> = Vec::new();
    let mut ask_many = |head: &str, word: &str, n: usize| {
        let head = head.split(' ').map(str::to_owned);
        asked.push(head.chain(std::iter::repeat_n(word.to_owned(), n)).collect());
    };
    for n in [1, 10, 50, 100, 200, 500, 1000, 5000, 200_000] {
        for command in ["client", "get", "config", "client|list", "xinfo", "nothing"] {
            ask_many("COMMAND INFO", command, n);
            ask_many("COMMAND DOCS", command, n);
        }
        ask_many("COMMAND GETKEYS MGET", "k", n);
        ask_many("COMMAND GETKEYSANDFLAGS MSET", "k", n * 2);
        ask_many("COMMAND GETKEYSANDFLAGS SORT k GET", "#", n);
        ask_many("CONFIG GET", "*", n);
        ask_many("CONFIG GET", "*[abc]*[xyz]*?*?*?*0", n);
        ask_many("INFO", "all", n);
        ask_many("CLIENT LIST ID", "7", n);
        ask_many("HELLO 3", "SETNAME", n);
    }
    for n in [10, 200, 256, 10_000, 1 << 22] {
        for unit in ["*", "*?", "a*", "[a-z]*", "*[", "\\"] {
            let pattern = long(unit, n / unit.len());
            asked.push(["COMMAND", "LIST", "FILTERBY", "PATTERN", &pattern].map(str::to_owned).to_vec());
            asked.push(["CONFIG", "GET", &pattern].map(str::to_owned).to_vec());
            asked.push(vec!["CONFIG".into(), "GET".into(), pattern.clone(), pattern]);
        }
    }
    for args in &asked {
        let bytes: usize = args.iter().map(|arg| arg.len() + 5).sum();
        for version in [Version::Resp2, Version::Resp3] {
            let mut client = stranger(&world);
            client.version = version;
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            #[expect(clippy::disallowed_methods, reason = "it is about time")]
            let began = std::time::Instant::now();
            let (reply, after) = ask(&world, &mut client, &args);
            let shown = (&args[..args.len().min(3)], args.len(), bytes);
            assert!(reply.len() <= bytes * FACTOR + LEAST, "{shown:?}: {} bytes", reply.len());
            assert_eq!(after, After::Continue);
            // Decoded and answered: with every bound gone these take minutes.
            assert!(began.elapsed() < Duration::from_secs(5), "{shown:?}: {:?}", began.elapsed());
        }
    }
}

/// What is larger than any request of use is refused by name; what is said back is not.
#[test]
fn large_requests_are_refused_by_name() {
    let world = world(None);
    let many = |head: &str, word: &str, n: usize| format!("{head}{}", format!(" {word}").repeat(n));
    let mut client = stranger(&world);
    let refused = |name: &str| format!("-ERR {name} takes at most 1024 arguments and 65536 bytes here\r\n");
    assert_eq!(said(&world, &mut client, &many("COMMAND info", "client", 1023)), refused("COMMAND"));
    assert_eq!(said(&world, &mut client, &format!("INFO {}", "x".repeat(65536))), refused("INFO"));
    let too_much = "-ERR the reply would be larger than 512 KiB: ask for fewer commands at once\r\n";
    assert_eq!(said(&world, &mut client, &many("COMMAND INFO", "client", 1000)), too_much);
    assert_eq!(said(&world, &mut client, &many("COMMAND DOCS", "client", 1000)), too_much);
    let too_long = "-ERR a pattern has at most 256 bytes here\r\n";
    assert_eq!(said(&world, &mut client, &format!("CONFIG GET save {}", "*".repeat(257))), too_long);
    let list = "COMMAND LIST FILTERBY PATTERN ";
    assert_eq!(said(&world, &mut client, &format!("{list}{}", "*".repeat(257))), too_long);
    assert_eq!(said(&world, &mut client, &format!("{list}{}", "*".repeat(256))).find("*"), Some(0));
    assert_eq!(said(&world, &mut client, &format!("ECHO {}", "x".repeat(100_000))).len(), 100_011);
}

/// QUIT alone closes.
#[test]
fn quit_closes() {
    let world = world(None);
    let mut client = stranger(&world);
    assert_eq!(ask(&world, &mut client, &["QUIT", "now"]), ("+OK\r\n".into(), After::Close));
    assert_eq!(ask(&world, &mut client, &["PING"]).1, After::Continue);
}

/// A password is asked for once, by AUTH or HELLO; a wrong one changes nothing; RESET asks again.
#[test]
fn login() {
    let world = world(Some("sesame"));
    let mut client = stranger(&world);
    assert!(!client.authenticated);
    for wrong in ["AUTH bad", "AUTH other sesame", "HELLO 3 AUTH default bad"] {
        assert!(said(&world, &mut client, wrong).starts_with("-WRONGPASS "), "{wrong}");
    }
    assert!(said(&world, &mut client, "HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    assert!(!client.authenticated && client.version == Version::Resp2);
    assert_eq!(said(&world, &mut client, "AUTH default sesame"), "+OK\r\n");
    assert!(client.authenticated);
    assert!(said(&world, &mut client, "AUTH bad").starts_with("-WRONGPASS "));
    assert!(client.authenticated);
    assert_eq!(said(&world, &mut client, "RESET"), "+RESET\r\n");
    assert!(!client.authenticated);
    assert!(said(&world, &mut client, "HELLO 3 AUTH default sesame SETNAME x").starts_with("%7\r\n"));
    assert!(client.authenticated && client.version == Version::Resp3 && client.names().client == "x");
    for (kind, open) in [(Local::Hello, true), (Local::Auth, true), (Local::Quit, true), (Local::Ping, false)]
    {
        assert_eq!(allowed_before_auth(kind), open, "{kind:?}");
    }
}

/// HELLO's options act one by one, and its version only when all were right.
#[test]
fn hello_stops_at_what_is_wrong() {
    let world = world(None);
    let mut client = stranger(&world);
    let reply = said(&world, &mut client, "HELLO 3 SETNAME one SETNAME \u{e9}");
    assert!(reply.starts_with("-ERR Client names cannot contain"));
    assert_eq!((client.names().client.as_str(), client.version), ("one", Version::Resp2));
    let reply = said(&world, &mut client, "HELLO 3 AUTH default");
    assert_eq!(reply, "-ERR Syntax error in HELLO option 'AUTH'\r\n");
    let (reply, _) = ask(&world, &mut client, &["HELLO", "3", "a\r\nb"]);
    assert_eq!(reply, "-ERR Syntax error in HELLO option 'a  b'\r\n");
}

/// RESET brings back RESP2, takes the name and the flags, and keeps what the library said.
#[test]
fn reset_forgets() {
    let world = world(None);
    let mut client = stranger(&world);
    for line in [
        "HELLO 3 SETNAME me",
        "CLIENT NO-EVICT on",
        "CLIENT NO-TOUCH on",
        "CLIENT SETINFO LIB-NAME redis-py",
        "CLIENT SETINFO lib-ver 5.0",
    ] {
        assert!(!said(&world, &mut client, line).starts_with('-'), "{line}");
    }
    let line = "id=7 addr=10.0.0.9:555 laddr=10.0.0.1:6380 name=me age=100 flags=eT db=0 sub=0 psub=0 ssub=0 multi=-1 user=default redir=-1 resp=3 lib-name=redis-py lib-ver=5.0";
    assert_eq!(client.line(world.now()), line);
    said(&world, &mut client, "RESET");
    let line = line.replace("name=me", "name=").replace("flags=eT", "flags=N").replace("resp=3", "resp=2");
    assert_eq!(client.line(world.now()), line);
    assert_eq!(said(&world, &mut client, "CLIENT INFO"), format!("${}\r\n{line}\n\r\n", line.len() + 1));
}

/// LIST shows the other sessions and, as it is now, the one that asks; each once.
#[test]
fn list_shows_sessions() {
    let mut world = world(None);
    world.sessions = vec![(9, "id=9 x".into()), (7, "id=7 stale".into()), (3, "id=3 y".into())];
    let mut client = stranger(&world);
    let own = client.line(world.now());
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let all = bulk(&format!("id=3 y\n{own}\nid=9 x\n"));
    assert_eq!(said(&world, &mut client, "CLIENT LIST"), all);
    assert_eq!(said(&world, &mut client, "CLIENT LIST TYPE normal"), all);
    assert_eq!(said(&world, &mut client, "CLIENT LIST ID 9 3 9 -1 88"), bulk("id=3 y\nid=9 x\n"));
}

/// A name has a bound, and one that is refused changes nothing.
#[test]
fn names_are_bounded() {
    let world = world(None);
    let mut client = stranger(&world);
    let long = "x".repeat(1025);
    assert_eq!(said(&world, &mut client, "CLIENT SETNAME ok"), "+OK\r\n");
    assert!(
        said(&world, &mut client, &format!("CLIENT SETNAME {long}"))
            .starts_with("-ERR Client names cannot be longer")
    );
    assert_eq!(client.names().client, "ok");
    assert_eq!(ask(&world, &mut client, &["CLIENT", "SETNAME", ""]).0, "+OK\r\n");
    assert_eq!(client.names().client, "");
}

/// HELP lists every subcommand that does something.
#[test]
fn help_is_complete() {
    let world = world(None);
    let help = said(&world, &mut stranger(&world), "CLIENT HELP");
    for name in ["GETNAME", "ID", "INFO", "LIST", "NO-EVICT", "NO-TOUCH", "SETINFO", "SETNAME"] {
        assert!(help.contains(name), "{name}");
    }
}

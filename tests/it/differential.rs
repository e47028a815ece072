//! What a command does through ringway is byte for byte what one Redis answers: random scripts run
//! against both, with one node behind ringway and with several, in one session and in several at once.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use proptest::{
    array,
    prelude::*,
    test_runner::{Config as ProptestConfig, TestCaseError, TestRunner},
};

use crate::harness::{Client, Config, Redis, Ringway, SOON, encode};

const COMMANDS: &str = include_str!("differential/commands.txt");
const EXCEPTIONS: &str = include_str!("differential/exceptions.txt");

/// The end of a script: its reply is the last one.
const END: &str = "the end of this script";

/// What a script may end with instead: Redis answers and closes.
const BROKEN: [&str; 8] = [
    "*abc\r\n",
    "*1\r\n!x\r\n",
    "*1\r\n$-5\r\n",
    "*1\r\n$999999999999\r\n",
    "*1\r\n$abc\r\n",
    "GET \"unbalanced\r\n",
    "*2\r\n$3\r\nGET\r\n:1\r\n",
    "*99999999999999999999\r\n",
];

/// Lines that are data.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

/// One step of a script, drawn as numbers so that a failing script shrinks.
#[derive(Clone, Debug)]
struct Step {
    form: prop::sample::Index,
    seed: u64,
}

/// A script and how it is sent.
#[derive(Clone, Debug)]
struct Script {
    resp3: bool,
    steps: Vec<Step>,
    broken: Option<prop::sample::Index>,
    cuts: Vec<usize>,
}

fn script() -> impl Strategy<Value = Script> {
    let step = (any::<prop::sample::Index>(), any::<u64>()).prop_map(|(form, seed)| Step { form, seed });
    let steps = prop::collection::vec(step, 1..60);
    let broken = prop::option::weighted(0.15, any::<prop::sample::Index>());
    let cuts = prop::collection::vec(1usize..300, 0..30);
    (any::<bool>(), steps, broken, cuts).prop_map(|(resp3, steps, broken, cuts)| Script {
        resp3,
        steps,
        broken,
        cuts,
    })
}

/// What scripts are drawn from.
#[derive(Clone, Copy)]
struct Source {
    forms: &'static [&'static str],
    /// Behind the name of each key, so that sessions share none.
    suffix: &'static str,
    /// Whether words are now and then left out, added or exchanged, by which keys come in that no session has
    /// for itself.
    is_exact: bool,
}

/// Draws from one seed; the same seed draws the same.
struct Draw(u64, Source);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn key(&mut self, kind: &str) -> String {
        let kind = if self.below(10) == 0 { self.one(&["s", "l", "h", "t", "z", "x"]) } else { kind };
        format!("{kind}{}{}", self.below(3), self.1.suffix)
    }

    fn value(&mut self) -> Vec<u8> {
        match self.below(12) {
            0 => Vec::new(),
            1 => b"\0\xff\r\n$5\r\n".to_vec(),
            2 => vec![b'x'; 20_000],
            3 => vec![b'y'; 200_000],
            4 => "12".into(),
            5 => "-3.5".into(),
            _ => self.one(&["a", "b", "value", "more words", "caf\u{e9}"]).into(),
        }
    }

    fn word(&mut self, word: &str) -> Vec<u8> {
        match word {
            "s" | "l" | "h" | "t" | "z" | "x" => self.key(word).into(),
            "v" => self.value(),
            "i" => {
                self.one(&["0", "1", "-1", "2", "-3", "100", "9223372036854775807", "1.5", "abc", ""]).into()
            }
            "n" => self.one(&["0", "1", "2", "3", "7", "40"]).into(),
            "f" => self.one(&["1", "-2.5", "3e2", "inf", "0.1", "nan", "x"]).into(),
            "m" => self.one(&["a", "b", "c", "field", ""]).into(),
            "d" => self.below(9).to_string().into(),
            "r" => self.one(&["-inf", "+inf", "1", "(2", "x"]).into(),
            "id" => self.one(&["0-1", "1-1", "2-0", "5-5", "1", "x", "0-0"]).into(),
            _ => self.one(&word.split('|').collect::<Vec<_>>()).replace('@', " ").replace("\\n", "\n").into(),
        }
    }

    /// A command of this form, now and then a little wrong.
    fn command(&mut self, form: &str) -> Vec<Vec<u8>> {
        let mut args: Vec<Vec<u8>> = Vec::new();
        for word in form.split(' ') {
            match word.strip_prefix('?') {
                Some(_) if self.below(2) == 0 => {}
                Some(word) => args.push(self.word(word)),
                None => args.push(self.word(word)),
            }
        }
        // A member that is no integer would give a set the order of its server's random hash; and a
        // command that answers at random, or by the clock, is only asked for the key `none`.
        let is_free = args[0] != b"SADD" && !form.contains(" none");
        match self.below(24) {
            _ if self.1.is_exact => {}
            // HELLO alone greets, and a greeting names the server.
            0 if args.len() > 1 && args[0] != b"HELLO" => drop(args.pop()),
            1 if is_free => args.push(b"extra".to_vec()),
            2 if is_free && args.len() > 1 => {
                let at = 1 + self.below(args.len() - 1);
                args[at] = b"x".to_vec();
            }
            3 => args[0].make_ascii_lowercase(),
            _ => {}
        }
        args
    }

    /// Its bytes: mostly an array, inline where it can be.
    fn bytes(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        let plain = |arg: &Vec<u8>| !arg.is_empty() && arg.iter().all(u8::is_ascii_alphanumeric);
        // Whether a long line is refused depends on how much of it comes at once.
        let is_short = args.iter().map(Vec::len).sum::<usize>() < 10_000;
        let noise = self.one(&["", "", "", "", "", "", "", "*0\r\n", "\r\n", "*-1\r\n"]);
        let mut bytes = noise.as_bytes().to_vec();
        if is_short && args.iter().all(plain) && self.below(8) == 0 {
            bytes.extend(args.join(&b' '));
            bytes.extend(self.one(&["\r\n", "\n"]).as_bytes());
        } else {
            bytes.extend(encode(args));
        }
        bytes
    }
}

/// The commands of a script, and its bytes.
fn write(script: &Script, from: Source) -> (Vec<Vec<Vec<u8>>>, Vec<u8>) {
    let (mut commands, mut bytes) = (Vec::new(), Vec::new());
    for step in &script.steps {
        let mut draw = Draw(step.seed, from);
        let args = draw.command(step.form.get::<&str>(from.forms));
        bytes.extend(draw.bytes(&args));
        commands.push(args);
    }
    match &script.broken {
        Some(which) => bytes.extend(which.get(&BROKEN).as_bytes()),
        None => bytes.extend(encode(&["ECHO", END])),
    }
    (commands, bytes)
}

/// Sends a script and reads until its end, or until the other side closes.
fn play(address: &str, script: &Script, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    if script.resp3 {
        stream.write_all(&encode(&["HELLO", "3"]))?;
        // The greeting is one of the exceptions: it names the server.
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"modules\r\n*0\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            greeting.extend(byte);
        }
    }
    let mut sender = stream.try_clone()?;
    let end = format!("${}\r\n{END}\r\n", END.len());
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = bytes;
            for cut in &script.cuts {
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                // A side that has closed is seen by the reader.
                let _ = sender.write_all(piece);
                rest = more;
            }
            let _ = sender.write_all(rest);
        });
        let (mut replies, mut buffer) = (Vec::new(), [0; 16384]);
        while !replies.ends_with(end.as_bytes()) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => replies.extend_from_slice(&buffer[..n]),
                // The error line may be followed by a reset, as input was left unread.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
                Err(e) => return Err(e),
            }
        }
        Ok(replies)
    })
}

/// Where two streams part, for a person.
fn difference(commands: &[Vec<Vec<u8>>], ours: &[u8], theirs: &[u8]) -> String {
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let show = |bytes: &[u8]| {
        let from = at.saturating_sub(80);
        let shown: Vec<u8> = bytes.iter().skip(from).take(240).copied().collect();
        shown.escape_ascii().to_string()
    };
    let args = |c: &Vec<Vec<u8>>| {
        let arg = |a: &Vec<u8>| a.iter().take(60).copied().collect::<Vec<u8>>().escape_ascii().to_string();
        c.iter().map(arg).collect::<Vec<_>>().join(" ")
    };
    let script: Vec<String> = commands.iter().map(args).collect();
    format!("ringway: {}\nredis:   {}\nscript:\n  {}", show(ours), show(theirs), script.join("\n  "))
}

/// Plays a script at two addresses.
fn same(script: &Script, from: Source, ours: &str, theirs: &str) -> Result<(), TestCaseError> {
    let (commands, bytes) = write(script, from);
    let play = |at: &str| play(at, script, &bytes).map_err(|e| TestCaseError::fail(format!("{at}: {e}")));
    let (ours, theirs) = (play(ours)?, play(theirs)?);
    prop_assert!(ours == theirs, "{}", difference(&commands, &ours, &theirs));
    Ok(())
}

/// Runs random scripts against two addresses: one for each source, all of them at once.
fn compare<const N: usize>(cases: u32, from: [Source; N], ours: &str, theirs: &str) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let case = |scripts: [Script; N]| {
        // Through ringway where it stands before one: it remembers scripts.
        for at in [ours, theirs] {
            let mut client = Client::connect(at);
            for args in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
                assert_eq!(client.cmd(args), "+OK\r\n");
            }
        }
        thread::scope(|scope| {
            let sessions: Vec<_> = scripts
                .iter()
                .zip(from)
                .map(|(script, from)| scope.spawn(move || same(script, from, ours, theirs)))
                .collect();
            sessions.into_iter().try_for_each(|session| session.join().expect("it compares"))
        })
    };
    if let Err(failure) = TestRunner::new(config).run(&array::uniform(script()), case) {
        panic!("{failure}");
    }
}

/// All forms.
fn all() -> Source {
    Source { forms: lines(COMMANDS).collect::<Vec<_>>().leak(), suffix: "", is_exact: false }
}

/// Commands that are split when their keys live on several nodes.
const SPLIT: [&str; 6] = ["MGET", "MSET", "DEL", "UNLINK", "EXISTS", "TOUCH"];

/// Whether a form means the same on several nodes as on one: it has one key, is split, or asks all nodes.
/// Others are refused by name when their keys are apart, which has its own tests.
fn is_for_several(form: &str) -> bool {
    let words: Vec<&str> = form.split(' ').collect();
    let keys = words.iter().filter(|word| ["s", "l", "h", "t", "z", "x"].contains(word)).count();
    // Where the number of keys is drawn, other words may become keys.
    let draws_count = words[1..].first() == Some(&"n")
        || (words.len() > 2 && words[2] == "n" && ["FCALL", "ZUNIONSTORE"].contains(&words[0]))
        || form.starts_with("EVAL return@1 ");
    SPLIT.contains(&words[0]) || (keys <= 1 && !draws_count)
}

/// A server whose hashes list their fields in the order of their insertion, however large.
fn ordered() -> Redis {
    Redis::with(&["--hash-max-listpack-value", "10000000"])
}

/// Random scripts of commands of all types, errors, pipelines, split anywhere, in both protocols:
/// ringway's bytes are the server's bytes.
#[test]
fn one_node_through_ringway_is_that_node() {
    let (behind, plain) = (ordered(), ordered());
    let config = Config::of([&behind]).pool("request_timeout: 5s").pool("deadline: 10s");
    let mut ringway = Ringway::serve(config);
    compare(250, [all()], &ringway.address(), &plain.address());
}

/// Three nodes behind ringway answer as one server that holds all their keys.
#[test]
fn three_nodes_are_one_server() {
    let (nodes, plain) = ([ordered(), ordered(), ordered()], ordered());
    let config = Config::of(&nodes).pool("request_timeout: 5s").pool("deadline: 10s");
    let mut ringway = Ringway::serve(config);
    let forms: Vec<&str> = lines(COMMANDS).filter(|form| is_for_several(form)).collect();
    assert!(forms.len() > 150, "most of them: {}", forms.len());
    let from = Source { forms: forms.leak(), is_exact: true, ..all() };
    compare(150, [from], &ringway.address(), &plain.address());
}

/// Several sessions at once, each with keys of its own, do not notice each other, whichever nodes they share.
#[test]
fn sessions_side_by_side() {
    let (nodes, plain) = ([ordered(), ordered(), ordered()], ordered());
    let config = Config::of(&nodes).pool("request_timeout: 5s").pool("deadline: 10s");
    let mut ringway = Ringway::serve(config);
    let is_shared = |form: &str| {
        ["DBSIZE", "FLUSH", "KEYS", "SCRIPT", "FUNCTION", "EVALSHA", "FCALL"]
            .iter()
            .any(|w| form.starts_with(w))
    };
    let forms: Vec<&str> = lines(COMMANDS).filter(|f| is_for_several(f) && !is_shared(f)).collect();
    let of = |suffix| Source { forms: forms.clone().leak(), suffix, is_exact: true };
    compare(60, ["", ":b", ":c", ":d"].map(of), &ringway.address(), &plain.address());
}

/// Two servers answer the same scripts alike, so a difference is ringway's.
#[test]
fn two_servers_answer_alike() {
    let (one, other) = (ordered(), ordered());
    compare(80, [all()], &one.address(), &other.address());
}

/// Every command of the installed redis-server is compared, or has a reason why not.
#[test]
fn each_command_is_compared_or_has_a_reason() {
    let first = |line: &str| line.split(' ').next().unwrap_or_default().to_uppercase();
    let compared: HashSet<String> = lines(COMMANDS).map(first).collect();
    let excepted: HashSet<String> = lines(EXCEPTIONS).map(first).collect();
    let both: Vec<_> = compared.intersection(&excepted).collect();
    assert!(both.is_empty(), "compared and excepted: {both:?}");
    assert!(lines(EXCEPTIONS).all(|line| line.split(' ').count() > 1), "an exception has a reason");
    let server = Redis::start();
    server.client().set_timeout(Duration::from_secs(30));
    let known = server.client().list(&["COMMAND", "LIST"]);
    let missing: Vec<_> = known
        .iter()
        .map(|name| name.split('|').next().unwrap_or_default().to_uppercase())
        .filter(|name| !compared.contains(name) && !excepted.contains(name))
        .collect();
    assert!(missing.is_empty(), "neither compared nor excepted: {missing:?}");
}

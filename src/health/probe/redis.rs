//! A RESP node is asked with PING, and now and then for its role.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::super::slow_log::{self, Slow};
use super::{BREATH, KEY_SECONDS, Life, PIECE, Question, Told, Trouble, in_time, unwritable};
use crate::{
    net::Stream,
    protocol::resp::{frame, value::Value, write},
    topology::{Cause, NodeAuth, Policy},
};

/// A connection that has greeted as a pipeline does.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    auth: Option<NodeAuth>,
    db: u32,
    /// What the node said of its role.
    role: Option<Arc<str>>,
    /// Probes until it is asked for its role again.
    role_due: u32,
    /// How long the last PING took.
    pub(super) took: Duration,
    /// A script held it when it was asked last.
    is_busy: bool,
}

/// A node that serves is asked for its role at every so many probes.
const ROLE_EVERY: u32 = 10;

/// No reply to a probe is longer: ROLE lists a line for each replica.
const REPLY_MAX: usize = 64 * 1024;

/// Keys that are deleted with one command.
const DELETED_AT_ONCE: usize = 1000;

/// Keys that a node looks at for one page of SCAN, and what a page may have in bytes.
const SCAN_COUNT: &[u8] = b"2000";
const PAGE_MAX: usize = 64 << 20;

/// The first line of a reply, and the first string when it is an array.
struct Reply {
    kind: u8,
    text: String,
}

impl Link {
    /// Gives credentials and database.
    pub(super) async fn open(stream: Stream, question: &Question) -> Result<Link, Trouble> {
        let policy = &question.policy;
        let mut link = Link {
            stream,
            auth: policy.auth.clone(),
            db: policy.db,
            role: None,
            role_due: 0,
            took: Duration::ZERO,
            is_busy: false,
        };
        link.greet().await?;
        Ok(link)
    }

    /// Whether it was opened with the policy's credentials and database.
    pub(super) fn is_usable(&self, policy: &Policy) -> bool {
        (&self.auth, self.db) == (&policy.auth, policy.db)
    }

    /// Asks whether the node serves.
    pub(super) async fn ask(&mut self) -> Told {
        let began = Instant::now();
        let wrong = self.ping().await?;
        self.took = began.elapsed();
        if self.role_due == 0 {
            self.role = self.role().await?;
            // One with a role that does not fit is asked each time: it may be promoted any moment.
            self.role_due = if self.role.is_some() { 1 } else { ROLE_EVERY };
        }
        self.role_due -= 1;
        Ok(wrong.or_else(|| self.role.clone()))
    }

    /// Returns when the connection breaks. Nothing was asked: whatever comes, it is of no use any
    /// more.
    pub(super) async fn broken(&mut self) {
        let _ = self.stream.read(&mut [0; 1]).await;
    }

    /// Whether what it was asked is answered yet, or the connection ends. Nothing is asked on it afterwards.
    pub(super) async fn answered(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]).await, Ok(1..))
    }

    /// Whether the last answer was that a script holds it.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Which process it is, and how many keys its database has. A user who may not ask, or a server
    /// that does not know INFO, leaves it open.
    pub(super) async fn life(&mut self) -> Result<Option<Life>, Trouble> {
        let info = self.bytes(&[b"INFO", b"server"]).await?;
        let info = String::from_utf8_lossy(&info);
        let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        let Some(process) = run_id.map(|id| id.trim().to_owned()) else { return Ok(None) };
        let size = self.exchange(&[b"DBSIZE"]).await?;
        let keys = if size.kind == b':' { size.text.parse().ok() } else { None };
        Ok(Some(Life { process, started: None, keys }))
    }

    /// Empties the database that was selected, or all when none was. The memory is given back beside the
    /// server's work, so that a large one answers in time.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        let command: &[u8] = if self.db == 0 { b"FLUSHALL" } else { b"FLUSHDB" };
        let reply = self.exchange(&[command, b"ASYNC"]).await?;
        match (reply.kind, reply.text.as_str()) {
            (b'+', "OK") => Ok(()),
            _ => {
                let text = format!("it can't be emptied, as on_return wants it: {}", reply.shown());
                Err(Trouble::Refusal(Cause::Misconfigured, text))
            }
        }
    }

    /// Deletes these keys. The memory is given back beside the server's work.
    pub(super) async fn delete(&mut self, keys: &[Box<[u8]>]) -> Result<(), Trouble> {
        for some in keys.chunks(DELETED_AT_ONCE) {
            let args: Vec<&[u8]> = [&b"UNLINK"[..]].into_iter().chain(some.iter().map(|k| &**k)).collect();
            let reply = self.exchange(&args).await?;
            if reply.kind != b':' {
                let text = format!("its old keys can't be deleted: {}", reply.shown());
                return Err(Trouble::Refusal(Cause::Misconfigured, text));
            }
        }
        Ok(())
    }

    /// Writes, reads and deletes a key.
    pub(super) async fn deep(&mut self, key: &str, value: &str) -> Result<(), Trouble> {
        let key = key.as_bytes();
        let set = self.exchange(&[b"SET", key, value.as_bytes(), b"EX", KEY_SECONDS.as_bytes()]).await?;
        let get = self.exchange(&[b"GET", key]).await?;
        let del = self.exchange(&[b"DEL", key]).await?;
        for reply in [&set, &get, &del] {
            if reply.kind == b'-' {
                return Err(unwritable(reply.shown()));
            }
        }
        match (get.text.as_str(), del.text.as_str()) {
            (text, "1") if text == value => Ok(()),
            (text, "1") => Err(unwritable(format!("wrote {value}, read `{text}`"))),
            (_, deleted) => Err(unwritable(format!("deleted {deleted} keys of one"))),
        }
    }

    /// What it was slow at, if it says so.
    pub(super) async fn slow_log(&mut self) -> Result<Vec<Slow>, Trouble> {
        let log = self.bytes_of(&[b"SLOWLOG", b"GET", slow_log::ENTRIES], slow_log::LOG_MAX).await?;
        Ok(slow_log::read(&log).unwrap_or_default())
    }

    /// Deletes the keys that are said to be left over; how many they were.
    pub(super) async fn leftovers(
        &mut self,
        is_left: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, Trouble> {
        let garbage = || Trouble::Garbage("SCAN was answered with something else".to_owned());
        let (mut cursor, mut deleted) = (b"0".to_vec(), 0);
        loop {
            let began = Instant::now();
            let scan: [&[u8]; 4] = [b"SCAN", &cursor, b"COUNT", SCAN_COUNT];
            let page = in_time(self.bytes_of(&scan, PAGE_MAX), Instant::now() + PIECE).await?;
            let (value, _) = Value::parse(&page).ok_or_else(garbage)?;
            let Value::Array(mut parts) = value else {
                let text = String::from_utf8_lossy(value.error().unwrap_or(b"no array")).into_owned();
                return Err(Trouble::Refusal(Cause::Misconfigured, text));
            };
            let (Some((_, Value::Bulk(next))), Some((_, Value::Array(keys)))) = (parts.next(), parts.next())
            else {
                return Err(garbage());
            };
            let keys = keys.bulks().ok_or_else(garbage)?;
            let left: Vec<&[u8]> = keys.into_iter().map(|(_, key)| key).filter(|key| is_left(key)).collect();
            let next = next.to_vec();
            if !left.is_empty() {
                let args: Vec<&[u8]> = [&b"UNLINK"[..]].into_iter().chain(left).collect();
                let reply = in_time(self.exchange(&args), Instant::now() + PIECE).await?;
                deleted += reply.text.parse::<u64>().unwrap_or_default();
            }
            if next == b"0" {
                return Ok(deleted);
            }
            cursor = next;
            // Half of its time at most is ours.
            tokio::time::sleep(began.elapsed().max(BREATH)).await;
        }
    }

    async fn exchange(&mut self, args: &[&[u8]]) -> Result<Reply, Trouble> {
        self.bytes(args).await.map(|bytes| Reply::read(&bytes))
    }

    async fn bytes(&mut self, args: &[&[u8]]) -> Result<Vec<u8>, Trouble> {
        self.bytes_of(args, REPLY_MAX).await
    }

    async fn bytes_of(&mut self, args: &[&[u8]], reply_max: usize) -> Result<Vec<u8>, Trouble> {
        let broken = |e: io::Error| Trouble::Broken(e.to_string());
        let mut request = Vec::new();
        write::request(&mut request, args.iter());
        self.stream.write_all(&request).await.map_err(broken)?;
        let mut bytes = Vec::new();
        let mut scanner = frame::Scanner::default();
        let mut chunk = [0; 1024];
        loop {
            let n = self.stream.read(&mut chunk).await.map_err(broken)?;
            if n == 0 {
                return Err(Trouble::Broken("closed by the node".into()));
            }
            let scan = scanner.advance(&chunk[..n]).map_err(|e| Trouble::Garbage(e.to_string()))?;
            bytes.extend_from_slice(&chunk[..scan.used]);
            if scan.done {
                if scan.used < n && bytes[0] != b'-' {
                    return Err(Trouble::Garbage("more than one reply to one request".into()));
                }
                return Ok(bytes);
            }
            if bytes.len() > reply_max {
                return Err(Trouble::Garbage(format!("a reply longer than {reply_max} bytes")));
            }
        }
    }

    /// Credentials and database, as a pipeline gives them.
    async fn greet(&mut self) -> Result<(), Trouble> {
        if let Some(auth) = self.auth.clone() {
            let password = &auth.password.0[..];
            let reply = match &auth.user {
                Some(user) => self.exchange(&[b"AUTH", user.as_bytes(), password]).await?,
                None => self.exchange(&[b"AUTH", password]).await?,
            };
            reply.accepted("refuses our credentials")?;
        }
        if self.db != 0 {
            let db = self.db.to_string();
            let reply = self.exchange(&[b"SELECT", db.as_bytes()]).await?;
            reply.accepted(&format!("refuses database {db}"))?;
        }
        Ok(())
    }

    async fn ping(&mut self) -> Told {
        let reply = self.exchange(&[b"PING"]).await?;
        self.is_busy = reply.kind == b'-' && reply.text.starts_with("BUSY");
        if reply.kind == b'+' && reply.text == "PONG" {
            return Ok(None);
        }
        if reply.kind != b'-' {
            return Err(Trouble::Garbage(format!("PING was answered with `{}`", reply.shown())));
        }
        reply.served()
    }

    /// What is wrong with the node's role, if it says so.
    async fn role(&mut self) -> Told {
        let reply = self.exchange(&[b"ROLE"]).await?;
        Ok(match (reply.kind, reply.text.as_str()) {
            (b'*', "slave") => Some("it is a replica: it refuses writes".into()),
            (b'*', "sentinel") => Some("it is a sentinel: it holds no data".into()),
            // Not every server knows ROLE, and a user may not be allowed to ask.
            _ => None,
        })
    }
}

impl Reply {
    fn read(bytes: &[u8]) -> Reply {
        let mut lines = bytes.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        let head = lines.next().unwrap_or_default();
        let kind = head.first().copied().unwrap_or_default();
        let text = match kind {
            // The head of the array, the length of its first string, that string.
            b'*' => lines.nth(1).unwrap_or_default(),
            b'$' => lines.next().unwrap_or_default(),
            _ => head.get(1..).unwrap_or_default(),
        };
        Reply { kind, text: String::from_utf8_lossy(text).into_owned() }
    }

    /// The text, cut to what fits into a message.
    fn shown(&self) -> String {
        self.text.chars().take(120).collect()
    }

    /// Reads an answer to AUTH or SELECT.
    fn accepted(&self, otherwise: &str) -> Result<(), Trouble> {
        match self.kind {
            b'-' => match self.served() {
                Err(trouble @ Trouble::Refusal(Cause::Loading | Cause::Lost, _)) => Err(trouble),
                _ => {
                    let text = format!("it {otherwise}: {}", self.shown());
                    Err(Trouble::Refusal(Cause::Misconfigured, text))
                }
            },
            _ => Ok(()),
        }
    }

    /// Reads an error. Most say that the node is there and serves, one command apart.
    fn served(&self) -> Result<Option<Arc<str>>, Trouble> {
        let code = self.text.split(' ').next().unwrap_or_default();
        let refusal =
            |cause, what: &str| Err(Trouble::Refusal(cause, format!("it {what}: {}", self.shown())));
        match code {
            "LOADING" => refusal(Cause::Loading, "is loading its data"),
            "NOAUTH" => refusal(Cause::Misconfigured, "asks for a password"),
            "DENIED" => refusal(Cause::Misconfigured, "is in protected mode"),
            "MASTERDOWN" => Ok(Some("it is a replica without its primary".into())),
            "ERR" if self.text.contains("max number of clients") => {
                refusal(Cause::Lost, "takes no more clients")
            }
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        process::{Child, Command, Stdio},
    };

    use tokio::net::TcpStream;

    use super::*;
    use crate::{
        health::probe::{
            Answer, Prober,
            tests::{MASTER, PATIENCE, cause, listener, question, replies},
        },
        topology::Secret,
    };

    fn with_auth(mut question: Question, password: &str) -> Question {
        let auth = NodeAuth { user: None, password: Secret(password.as_bytes().into()) };
        question.policy = Arc::new(Policy { auth: Some(auth), ..(*question.policy).clone() });
        question
    }

    /// One probe of a node that answers like this on its first connection.
    async fn probe_of(script: &[&str]) -> Answer {
        let (listener, address) = listener().await;
        let mut prober = Prober::default();
        let question = question(&[address], PATIENCE);
        let node = async {
            let (stream, _) = listener.accept().await.expect("a probe");
            replies(stream, script).await;
        };
        tokio::join!(prober.probe(&question), node).0.answer
    }

    /// What a node answers decides what is thought of it, reply by reply.
    #[tokio::test]
    async fn answers_are_told_apart() {
        assert_eq!(probe_of(&["+PONG\r\n", MASTER]).await, Answer::Serves(None));
        assert_eq!(probe_of(&["-BUSY a script runs\r\n", MASTER]).await, Answer::Serves(None));
        assert_eq!(probe_of(&["+PONG\r\n", "-ERR unknown command\r\n"]).await, Answer::Serves(None));
        let replica = probe_of(&["+PONG\r\n", "*2\r\n$5\r\nslave\r\n$1\r\nx\r\n"]).await;
        assert!(matches!(&replica, Answer::Serves(Some(what)) if what.contains("replica")), "{replica:?}");
        for (script, expected) in [
            (&["-LOADING Redis is loading\r\n"][..], Cause::Loading),
            (&["-NOAUTH Authentication required.\r\n"], Cause::Misconfigured),
            (&["-DENIED Redis is running in protected mode\r\n"], Cause::Misconfigured),
            (&["-ERR max number of clients reached\r\n"], Cause::Lost),
            (&["HTTP/1.1 400 Bad Request\r\n\r\n"], Cause::Protocol),
            (&["+OK\r\n"], Cause::Protocol),
            (&["+PONG\r\n+PONG\r\n"], Cause::Protocol),
            (&[], Cause::Lost),
        ] {
            let answer = probe_of(script).await;
            assert_eq!(cause(&answer), Some((expected, false)), "{script:?}: {answer:?}");
        }
    }

    /// A reply without an end is cut off at the bound.
    #[tokio::test]
    async fn a_reply_is_bounded() {
        let long = format!("+{}", "x".repeat(2 * REPLY_MAX));
        assert_eq!(cause(&probe_of(&[&long]).await), Some((Cause::Protocol, false)));
    }

    /// A real redis-server that ends with the test.
    struct Redis {
        child: Child,
        address: SocketAddr,
        _directory: tempfile::TempDir,
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    impl Redis {
        async fn start(args: &[&str]) -> Redis {
            let (free, address) = listener().await;
            drop(free);
            let directory = tempfile::tempdir().expect("a directory");
            let child = Command::new("redis-server")
                .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
                .args(args)
                .current_dir(directory.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            let until = Instant::now() + PATIENCE;
            while TcpStream::connect(address).await.is_err() {
                assert!(Instant::now() < until, "redis-server did not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Redis { child, address, _directory: directory }
        }
    }

    /// A real server serves; with a password it serves those who have it, and tells the others
    /// that they do not; an unknown database is a fault of the configuration too.
    #[tokio::test]
    async fn a_real_server_with_a_password() {
        let redis = Redis::start(&["--requirepass", "sesame"]).await;
        let plain = question(&[redis.address], PATIENCE);
        let mut prober = Prober::default();
        let answer = prober.probe(&plain).await.answer;
        assert_eq!(cause(&answer), Some((Cause::Misconfigured, false)), "{answer:?}");
        let answer = prober.probe(&with_auth(plain.clone(), "wrong")).await.answer;
        assert_eq!(cause(&answer), Some((Cause::Misconfigured, false)), "{answer:?}");
        assert!(!format!("{answer:?}").contains("wrong\""), "the password is not shown");
        let right = with_auth(plain, "sesame");
        for _ in 0..3 {
            assert_eq!(prober.probe(&right).await.answer, Answer::Serves(None));
        }
        let mut policy = (*right.policy).clone();
        policy.db = 99;
        let far = Question { policy: Arc::new(policy), ..right };
        assert_eq!(cause(&prober.probe(&far).await.answer), Some((Cause::Misconfigured, false)));
    }

    /// A real server says what it was slow at, with the key of each command; to one who may not ask it says
    /// nothing, and that is no failure.
    #[tokio::test]
    async fn a_real_slow_log() {
        let slow = ["--slowlog-log-slower-than", "0"];
        let denied = [&slow[..], &["--rename-command", "SLOWLOG", ""]].concat();
        for (args, expected) in [(&slow[..], true), (&denied, false)] {
            let redis = Redis::start(args).await;
            let question = question(&[redis.address], PATIENCE);
            let mut client = TcpStream::connect(redis.address).await.expect("it listens");
            let set = b"*3\r\n$3\r\nSET\r\n$5\r\ngiant\r\n$1\r\nv\r\n";
            client.write_all(set).await.expect("it reads");
            client.read_exact(&mut [0; 5]).await.expect("it answers");
            let log = super::super::slow_log(&question).await.expect("it answers");
            assert_eq!(log.iter().any(|slow| slow.is_for(b"giant")), expected, "{log:?}");
        }
    }

    /// A real replica serves, and is named as one.
    #[tokio::test]
    async fn a_real_replica() {
        let redis = Redis::start(&["--replicaof", "127.0.0.1 1"]).await;
        let answer = Prober::default().probe(&question(&[redis.address], PATIENCE)).await.answer;
        assert!(matches!(&answer, Answer::Serves(Some(what)) if what.contains("replica")), "{answer:?}");
    }
}

//! A probe: a client of one node that asks whether it serves, and nothing more. It keeps its own
//! connection open between probes; when that one broke, the probe makes another and goes by what
//! it meets there.

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use crate::{
    net::{Stream, Target, dial, is_ours},
    protocol::resp::{frame, write},
    topology::{Cause, NodeAuth, Policy},
};

/// What a probe needs to know.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where the node is, in order of preference.
    pub targets: Arc<[Target]>,
    /// Credentials, database and `connect_timeout`.
    pub policy: Arc<Policy>,
    /// What the whole probe may take.
    pub timeout: Duration,
    /// Only a new connection proves something.
    pub anew: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It serves. What is wrong with its configuration all the same, if anything.
    Serves(Option<Arc<str>>),
    /// It does not.
    Failed {
        /// How.
        cause: Cause,
        /// The standing connection was lost, and this is what the new one met.
        after_loss: bool,
        /// What a person would say of it.
        text: String,
    },
    /// The probe could not be made, through no fault of the node.
    Void(String),
}

/// A probe that ended.
#[derive(Clone, Debug)]
pub struct Probe {
    /// When it began.
    pub started: Instant,
    /// When it ended.
    pub ended: Instant,
    /// What came of it.
    pub answer: Answer,
}

/// The client. One per node.
#[derive(Debug, Default)]
pub struct Prober {
    link: Option<Link>,
    /// The standing connection broke since the last probe.
    is_lost: bool,
    /// What the node said of its role.
    role: Option<Arc<str>>,
    /// Probes until it is asked for its role again.
    role_due: u32,
}

#[derive(Debug)]
struct Link {
    stream: Stream,
    target: Target,
    auth: Option<NodeAuth>,
    db: u32,
}

/// A node that serves is asked for its role at every so many probes.
const ROLE_EVERY: u32 = 10;

/// No reply to a probe is longer: ROLE lists a line for each replica.
const REPLY_MAX: usize = 64 * 1024;

/// Why an exchange gave no answer.
enum Trouble {
    Broken(String),
    Silent,
    Garbage(String),
    /// The node answered that it does not serve.
    Refusal(Cause, String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Broken(text) => write!(f, "the connection broke: {text}"),
            Trouble::Silent => f.write_str("no answer in time"),
            Trouble::Garbage(text) => write!(f, "not the protocol: {text}"),
            Trouble::Refusal(_, text) => f.write_str(text),
        }
    }
}

impl Trouble {
    fn cause(&self) -> Cause {
        match self {
            Trouble::Broken(_) => Cause::Lost,
            Trouble::Silent => Cause::Timeout,
            Trouble::Garbage(_) => Cause::Protocol,
            Trouble::Refusal(cause, _) => *cause,
        }
    }
}

/// The first line of a reply, and the first string when it is an array.
struct Reply {
    kind: u8,
    text: String,
}

impl Link {
    async fn ask(&mut self, args: &[&[u8]], until: Instant) -> Result<Reply, Trouble> {
        let exchange = self.exchange(args);
        timeout_at(until, exchange).await.map_err(|_| Trouble::Silent)?
    }

    async fn exchange(&mut self, args: &[&[u8]]) -> Result<Reply, Trouble> {
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
                return Ok(Reply::read(&bytes));
            }
            if bytes.len() > REPLY_MAX {
                return Err(Trouble::Garbage(format!("a reply longer than {REPLY_MAX} bytes")));
            }
        }
    }

    /// Credentials and database, as a pipeline gives them.
    async fn greet(&mut self, until: Instant) -> Result<(), Trouble> {
        if let Some(auth) = self.auth.clone() {
            let password = &auth.password.0[..];
            let reply = match &auth.user {
                Some(user) => self.ask(&[b"AUTH", user.as_bytes(), password], until).await?,
                None => self.ask(&[b"AUTH", password], until).await?,
            };
            reply.accepted("refuses our credentials")?;
        }
        if self.db != 0 {
            let db = self.db.to_string();
            let reply = self.ask(&[b"SELECT", db.as_bytes()], until).await?;
            reply.accepted(&format!("refuses database {db}"))?;
        }
        Ok(())
    }

    async fn ping(&mut self, until: Instant) -> Result<Option<Arc<str>>, Trouble> {
        let reply = self.ask(&[b"PING"], until).await?;
        if reply.kind == b'+' && reply.text == "PONG" {
            return Ok(None);
        }
        if reply.kind != b'-' {
            return Err(Trouble::Garbage(format!("PING was answered with `{}`", reply.shown())));
        }
        reply.served()
    }

    /// What is wrong with the node's role, if it says so.
    async fn role(&mut self, until: Instant) -> Result<Option<Arc<str>>, Trouble> {
        let reply = self.ask(&[b"ROLE"], until).await?;
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

fn dial_cause(error: &io::Error) -> Cause {
    match error.kind() {
        // A socket file that is not there: nobody listens on it.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Cause::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::Lost,
        io::ErrorKind::PermissionDenied => Cause::Misconfigured,
        _ => Cause::ConnectTimeout,
    }
}

impl Prober {
    /// Returns when the standing connection breaks; never while there is none. Dropping it loses
    /// nothing.
    pub async fn broken(&mut self) {
        let Some(link) = &mut self.link else {
            return std::future::pending().await;
        };
        // Nothing was asked: whatever comes, the connection is of no use any more.
        let _ = link.stream.read(&mut [0; 1]).await;
        self.link = None;
        self.is_lost = true;
    }

    /// Asks. An answer within the timeout.
    pub async fn probe(&mut self, question: &Question) -> Probe {
        let started = Instant::now();
        let answer = self.answer(question, started + question.timeout).await;
        if !matches!(answer, Answer::Serves(_)) {
            self.link = None;
            self.role_due = 0;
        }
        self.is_lost = false;
        Probe { started, ended: Instant::now(), answer }
    }

    async fn answer(&mut self, question: &Question, until: Instant) -> Answer {
        let policy = &question.policy;
        let is_usable = |link: &Link| {
            !question.anew
                && question.targets.contains(&link.target)
                && (&link.auth, link.db) == (&policy.auth, policy.db)
        };
        if let Some(mut link) = self.link.take().filter(is_usable) {
            match self.converse(&mut link, until).await {
                Ok(wrong) => {
                    self.link = Some(link);
                    return Answer::Serves(wrong);
                }
                Err(Trouble::Broken(_)) => self.is_lost = true,
                Err(trouble) => return self.failed(trouble.cause(), trouble.to_string()),
            }
        }
        self.connect(question, until).await
    }

    fn failed(&self, cause: Cause, text: String) -> Answer {
        Answer::Failed { cause, after_loss: self.is_lost, text }
    }

    /// Tries each target until one answers. Of several failures the one counts that got furthest,
    /// then the first: a name may also have an address of a family that this machine lacks.
    async fn connect(&mut self, question: &Question, until: Instant) -> Answer {
        let policy = &question.policy;
        let (mut failed, mut ours) = (None, None);
        self.role_due = 0;
        for target in &*question.targets {
            let dial_until = until.min(Instant::now() + policy.connect_timeout);
            let stream = match timeout_at(dial_until, dial(target, question.timeout)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(e)) if is_ours(&e) => {
                    ours = Some(format!("{target}: {e}"));
                    continue;
                }
                Ok(Err(e)) => {
                    failed.get_or_insert((dial_cause(&e), format!("{target}: {e}")));
                    continue;
                }
                Err(_) => {
                    let text = format!("{target}: no connection in time");
                    failed.get_or_insert((Cause::ConnectTimeout, text));
                    continue;
                }
            };
            let mut link = Link { stream, target: target.clone(), auth: policy.auth.clone(), db: policy.db };
            let conversation = async {
                link.greet(until).await?;
                self.converse(&mut link, until).await
            };
            match conversation.await {
                Ok(wrong) => {
                    self.link = Some(link);
                    return Answer::Serves(wrong);
                }
                Err(trouble) => failed = Some((trouble.cause(), format!("{target}: {trouble}"))),
            }
        }
        match (failed, ours) {
            (Some((cause, text)), _) => self.failed(cause, text),
            (None, Some(why)) => Answer::Void(why),
            (None, None) => self.failed(Cause::Unresolved, "its name does not resolve".into()),
        }
    }

    async fn converse(&mut self, link: &mut Link, until: Instant) -> Result<Option<Arc<str>>, Trouble> {
        let wrong = link.ping(until).await?;
        if self.role_due == 0 {
            self.role = link.role(until).await?;
            // One with a role that does not fit is asked each time: it may be promoted any moment.
            self.role_due = if self.role.is_some() { 1 } else { ROLE_EVERY };
        }
        self.role_due -= 1;
        Ok(wrong.or_else(|| self.role.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        process::{Child, Command, Stdio},
    };

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::topology::Secret;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn question(targets: &[SocketAddr], timeout: Duration) -> Question {
        Question {
            targets: targets.iter().copied().map(Target::Tcp).collect(),
            policy: Arc::new(Policy { connect_timeout: timeout, ..Policy::default() }),
            timeout,
            anew: false,
        }
    }

    fn with_auth(mut question: Question, password: &str) -> Question {
        let auth = NodeAuth { user: None, password: Secret(password.as_bytes().into()) };
        question.policy = Arc::new(Policy { auth: Some(auth), ..(*question.policy).clone() });
        question
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        (listener, address)
    }

    /// Answers each request with the next of these replies, then closes.
    async fn replies(mut stream: TcpStream, replies: &[&str]) {
        let mut buffer = [0; 512];
        for reply in replies {
            assert!(stream.read(&mut buffer).await.expect("a request") > 0);
            stream.write_all(reply.as_bytes()).await.expect("it reads");
        }
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

    fn cause(answer: &Answer) -> Option<(Cause, bool)> {
        match answer {
            Answer::Failed { cause, after_loss, .. } => Some((*cause, *after_loss)),
            _ => None,
        }
    }

    const MASTER: &str = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";

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

    /// Nobody there, a node that says nothing, and no targets at all are three different failures.
    #[tokio::test]
    async fn no_answer_at_all() {
        let (gone, address) = listener().await;
        drop(gone);
        let mut prober = Prober::default();
        let answer = prober.probe(&question(&[address], PATIENCE)).await.answer;
        assert_eq!(cause(&answer), Some((Cause::Refused, false)));
        let (_silent, address) = listener().await;
        let probe = prober.probe(&question(&[address], Duration::from_millis(30))).await;
        assert_eq!(cause(&probe.answer), Some((Cause::Timeout, false)));
        assert!(probe.ended - probe.started >= Duration::from_millis(30));
        let answer = prober.probe(&question(&[], PATIENCE)).await.answer;
        assert_eq!(cause(&answer), Some((Cause::Unresolved, false)));
        let file = Target::Unix("/nonexistent/ringway.sock".into());
        let absent = Question { targets: Arc::new([file]), ..question(&[], PATIENCE) };
        assert_eq!(cause(&prober.probe(&absent).await.answer), Some((Cause::Refused, false)));
    }

    /// The second target is asked when the first is not there.
    #[tokio::test]
    async fn each_target_is_tried() {
        let (gone, first) = listener().await;
        drop(gone);
        let (listener, second) = listener().await;
        let question = question(&[first, second], PATIENCE);
        let mut prober = Prober::default();
        let node = async {
            replies(listener.accept().await.expect("a probe").0, &["+PONG\r\n", MASTER]).await;
        };
        let (probe, ()) = tokio::join!(prober.probe(&question), node);
        assert_eq!(probe.answer, Answer::Serves(None));
    }

    /// A target that can't be dialled at all does not hide how the others failed; descriptors that
    /// ran out are our own fault, a refusal is not.
    #[tokio::test]
    async fn our_own_limits_are_no_failure() {
        let (gone, dead) = listener().await;
        drop(gone);
        assert!(is_ours(&io::Error::from_raw_os_error(24)) && !is_ours(&io::Error::from_raw_os_error(111)));
        // No socket file has such a long path.
        let far = Target::Unix("/x".repeat(200).into());
        let mut question = question(&[dead], PATIENCE);
        question.targets = Arc::new([Target::Tcp(dead), far]);
        let mut prober = Prober::default();
        let answer = prober.probe(&question).await.answer;
        assert_eq!(cause(&answer), Some((Cause::Refused, false)), "{answer:?}");
    }

    /// A standing connection is used again; when it broke, the same probe makes another, and only
    /// what it meets there counts; a refusal there is marked as one after a loss.
    #[tokio::test]
    async fn a_broken_connection_is_made_anew_in_the_same_probe() {
        let (listener, address) = listener().await;
        let question = question(&[address], PATIENCE);
        let mut prober = Prober::default();
        let node = async {
            replies(listener.accept().await.expect("a probe").0, &["+PONG\r\n", MASTER, "+PONG\r\n"]).await;
            replies(listener.accept().await.expect("another").0, &["+PONG\r\n", MASTER]).await;
            drop(listener);
        };
        let probes = async {
            for _ in 0..3 {
                assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            }
        };
        tokio::join!(probes, node);
        tokio::time::timeout(PATIENCE, prober.broken()).await.expect("it sees the close while idle");
        assert_eq!(cause(&prober.probe(&question).await.answer), Some((Cause::Refused, true)));
        assert_eq!(cause(&prober.probe(&question).await.answer), Some((Cause::Refused, false)));
    }

    /// A probe that shall prove that connections can be made does not use the standing one.
    #[tokio::test]
    async fn a_new_connection_on_request() {
        let (listener, address) = listener().await;
        let mut prober = Prober::default();
        let mut question = question(&[address], PATIENCE);
        let script = ["+PONG\r\n", MASTER];
        let node = async {
            let (first, _) = listener.accept().await.expect("a probe");
            replies(first, &script).await;
            let (second, _) = listener.accept().await.expect("a new connection");
            replies(second, &script).await;
        };
        let probes = async {
            assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            question.anew = true;
            assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
        };
        tokio::join!(probes, node);
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

    /// A real replica serves, and is named as one.
    #[tokio::test]
    async fn a_real_replica() {
        let redis = Redis::start(&["--replicaof", "127.0.0.1 1"]).await;
        let answer = Prober::default().probe(&question(&[redis.address], PATIENCE)).await.answer;
        assert!(matches!(&answer, Answer::Serves(Some(what)) if what.contains("replica")), "{answer:?}");
    }
}

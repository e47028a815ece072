//! A probe: a client of one node that asks whether it serves, and nothing more. It keeps its own
//! connection open between probes; when that one broke, the probe makes another and goes by what
//! it meets there. What is asked, and what an answer means, is the protocol's: a file for each.

mod http;
mod late;
mod memcached;
mod redis;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use xxhash_rust::xxh3::xxh3_64;

pub use late::Late;
use late::Lates;

use super::slow_log::Slow;
use crate::{
    net::{Address, Stream, Target, dial, is_ours},
    protocol::Protocol,
    topology::{Cause, Policy},
};

/// What a probe needs to know.
#[derive(Clone, Debug)]
pub struct Question {
    /// The node's address as configured: what an HTTP node is called when nothing else is said.
    pub address: Address,
    /// Where the node is, in order of preference.
    pub targets: Arc<[Target]>,
    /// Protocol, credentials, what is asked, and `connect_timeout`.
    pub policy: Arc<Policy>,
    /// What the whole probe may take.
    pub timeout: Duration,
    /// Only a new connection proves something.
    pub anew: bool,
    /// Whether a node on a new connection is asked who it is.
    pub who: bool,
    /// Whether it is emptied when it answers and has keys.
    pub flush: bool,
    /// A key that is written, read and deleted to try it.
    pub deep: Option<Arc<str>>,
}

impl Question {
    /// To be asked over a connection of its own, and for nothing but an answer.
    pub fn anew(
        address: &Address,
        targets: &Arc<[Target]>,
        policy: &Arc<Policy>,
        timeout: Duration,
    ) -> Question {
        Question {
            address: address.clone(),
            targets: targets.clone(),
            policy: policy.clone(),
            timeout,
            anew: true,
            who: false,
            flush: false,
            deep: None,
        }
    }
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

/// What a probe met, told apart finer than the detector needs: what a fault is located by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symptom {
    /// It serves.
    Good,
    /// It answers that a script holds it.
    Busy,
    /// The connection was refused.
    Refused,
    /// The way says that the address can't be reached: no route, or a firewall that rejects.
    Unreachable,
    /// Nothing answered when it was dialled.
    NoConnection,
    /// The connection was made, and nothing answered on it.
    Silent,
    /// The connection was made, and broke.
    Lost,
    /// It answered with something else.
    Garbage,
    /// It refuses our credentials or database, or us.
    Auth,
    /// It reads its data.
    Loading,
    /// It takes no more clients.
    Full,
    /// It answered with a status or a body that was not asked for.
    Status,
    /// Its name does not resolve.
    Unresolved,
    /// This process could not dial.
    Ours,
}

impl Symptom {
    /// Whether nothing at all was heard.
    pub fn is_silence(self) -> bool {
        matches!(self, Symptom::Silent | Symptom::NoConnection | Symptom::Unreachable)
    }

    /// Whether it answered with something that only who serves there can say.
    pub fn is_speech(self) -> bool {
        use Symptom::{Auth, Busy, Full, Garbage, Good, Loading, Status};
        matches!(self, Good | Busy | Garbage | Auth | Loading | Full | Status)
    }
}

/// Which process a node is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// What no other process has: Redis' run_id, memcached's pid.
    pub process: String,
    /// When it started, in seconds since 1970, if that is part of who it is.
    pub started: Option<i64>,
    /// Keys in its database, or in all of it.
    pub keys: Option<u64>,
}

/// A node's clock is read in whole seconds, and a little later than it was sent.
const STARTED_TOLERANCE: i64 = 2;

impl Life {
    /// Whether both are the same process.
    pub fn is_same(&self, other: &Life) -> bool {
        let is_near = match (self.started, other.started) {
            (Some(a), Some(b)) => (a - b).abs() <= STARTED_TOLERANCE,
            _ => true,
        };
        self.process == other.process && is_near
    }
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
    /// How long the node took to answer that it serves, without what came before and after that.
    pub took: Duration,
    /// Who the node is: asked on each new connection, as it can't change behind one.
    pub life: Option<Life>,
    /// It was emptied.
    pub flushed: bool,
    /// What it met.
    pub symptom: Symptom,
    /// Answers to earlier probes that came when nobody waited for them any more.
    pub late: Vec<Late>,
}

impl Probe {
    /// Whether the node serves; none if it could not be asked.
    pub fn is_well(&self) -> Option<bool> {
        match self.answer {
            Answer::Serves(_) => Some(true),
            Answer::Failed { .. } => Some(false),
            Answer::Void(_) => None,
        }
    }
}

/// The client. One per node.
#[derive(Debug, Default)]
pub struct Prober {
    link: Option<(Target, Link)>,
    /// The standing connection broke since the last probe.
    is_lost: bool,
    /// Who answered on a connection that is new in this probe.
    life: Option<Life>,
    /// It was emptied in this probe.
    flushed: bool,
    /// How long its answer took.
    took: Duration,
    /// What the last failure was.
    met: Option<Symptom>,
    lates: Lates,
}

/// What is wrong with the configuration of a node that serves, if anything; or why it does not.
type Told = Result<Option<Arc<str>>, Trouble>;

/// A connection to a node, and how its protocol asks. Each file below has one of these, with the
/// same four functions.
#[derive(Debug)]
enum Link {
    Redis(redis::Link),
    Memcached(memcached::Link),
    Http(http::Link),
}

impl Link {
    /// Greets on a new connection.
    async fn open(stream: Stream, question: &Question) -> Result<Link, Trouble> {
        match question.policy.protocol {
            Protocol::Redis => redis::Link::open(stream, question).await.map(Link::Redis),
            Protocol::Memcached => memcached::Link::open(stream, question).await.map(Link::Memcached),
            Protocol::Http => http::Link::open(stream, question).await.map(Link::Http),
        }
    }

    /// Whether it was opened as this policy would open it now, and can be asked again.
    fn is_usable(&self, policy: &Policy) -> bool {
        match (self, policy.protocol) {
            (Link::Redis(link), Protocol::Redis) => link.is_usable(policy),
            (Link::Memcached(link), Protocol::Memcached) => link.is_usable(policy),
            (Link::Http(link), Protocol::Http) => link.is_usable(policy),
            (Link::Redis(_) | Link::Memcached(_) | Link::Http(_), _) => false,
        }
    }

    /// Asks whether the node serves.
    async fn ask(&mut self, question: &Question) -> Told {
        match self {
            Link::Redis(link) => link.ask().await,
            Link::Memcached(link) => link.ask().await,
            Link::Http(link) => link.ask(question).await,
        }
    }

    /// How long the last answer took that it serves.
    fn took(&self) -> Duration {
        match self {
            Link::Redis(link) => link.took,
            Link::Memcached(link) => link.took,
            Link::Http(link) => link.took,
        }
    }

    /// Asks who the node is; `None` when it does not say, or its protocol has no such question.
    async fn life(&mut self) -> Result<Option<Life>, Trouble> {
        match self {
            Link::Redis(link) => link.life().await,
            Link::Memcached(link) => link.life().await,
            Link::Http(_) => Ok(None),
        }
    }

    /// Empties the node, or the pool's database of it.
    async fn flush(&mut self) -> Result<(), Trouble> {
        match self {
            Link::Redis(link) => link.flush().await,
            Link::Memcached(link) => link.flush().await,
            Link::Http(_) => Ok(()),
        }
    }

    /// Writes, reads and deletes a key, if that is wished.
    async fn deep(&mut self, question: &Question) -> Result<(), Trouble> {
        let Some(key) = &question.deep else { return Ok(()) };
        match self {
            Link::Redis(link) => link.deep(key, &next_value()).await,
            Link::Memcached(link) => link.deep(key, &next_value()).await,
            Link::Http(_) => Ok(()),
        }
    }

    /// Returns when it breaks while nothing is asked. Cancel-safe.
    async fn broken(&mut self) {
        match self {
            Link::Redis(link) => link.broken().await,
            Link::Memcached(link) => link.broken().await,
            Link::Http(link) => link.broken().await,
        }
    }

    /// What it was asked is answered after all, or never: whether it was. HTTP does not tell.
    async fn answered(&mut self) -> bool {
        match self {
            Link::Redis(link) => link.answered().await,
            Link::Memcached(link) => link.answered().await,
            Link::Http(_) => false,
        }
    }

    /// Whether the last answer said that a script holds the node.
    fn is_busy(&self) -> bool {
        matches!(self, Link::Redis(link) if link.is_busy())
    }
}

/// How long the key of a deep probe lives that could not be deleted.
const KEY_SECONDS: &str = "60";
/// No name of a key is longer: memcached takes 250 bytes.
const KEY_MAX: usize = 200;

/// A number that no other process has.
pub(super) fn process() -> u64 {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    *PROCESS
}

/// The key with which a node is tried: no other process has the same, or two would delete it under each
/// other's hands.
pub(super) fn key(pool: &str, node: &str) -> Arc<str> {
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    let process = process();
    if is_plain(pool) && is_plain(node) && pool.len() + node.len() < KEY_MAX {
        return format!("ringway:probe:{pool}:{node}:{process:016x}").into();
    }
    let name = xxh3_64(format!("{pool}:{node}").as_bytes());
    format!("ringway:probe:{name:016x}:{process:016x}").into()
}

/// What is written there: something else each time.
fn next_value() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Relaxed).to_string()
}

/// A deep probe went wrong.
fn unwritable(what: impl fmt::Display) -> Trouble {
    Trouble::Refusal(Cause::Unwritable, format!("a key can't be written, read and deleted to try it: {what}"))
}

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

    fn symptom(&self) -> Symptom {
        match self {
            Trouble::Broken(_) => Symptom::Lost,
            Trouble::Silent => Symptom::Silent,
            Trouble::Garbage(_) => Symptom::Garbage,
            Trouble::Refusal(Cause::Lost, _) => Symptom::Full,
            Trouble::Refusal(Cause::Loading, _) => Symptom::Loading,
            Trouble::Refusal(Cause::Status, _) => Symptom::Status,
            Trouble::Refusal(_, _) => Symptom::Auth,
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

fn dial_symptom(error: &io::Error) -> Symptom {
    match dial_cause(error) {
        Cause::Refused => Symptom::Refused,
        Cause::Lost => Symptom::Lost,
        Cause::Misconfigured => Symptom::Auth,
        // ETIMEDOUT is the kernel's own patience; everything else was said by somebody on the way.
        _ if error.kind() == io::ErrorKind::TimedOut => Symptom::NoConnection,
        _ => Symptom::Unreachable,
    }
}

impl Prober {
    /// Returns when the standing connection breaks; never while there is none. Dropping it loses
    /// nothing.
    pub async fn broken(&mut self) {
        let Some((_, link)) = &mut self.link else {
            return std::future::pending().await;
        };
        link.broken().await;
        self.link = None;
        self.is_lost = true;
    }

    /// Asks. An answer within the timeout.
    pub async fn probe(&mut self, question: &Question) -> Probe {
        let started = Instant::now();
        let answer = self.answer(question, started + question.timeout).await;
        if !matches!(answer, Answer::Serves(_)) {
            self.link = None;
        }
        self.is_lost = false;
        let is_busy = self.link.as_ref().is_some_and(|(_, link)| link.is_busy());
        let symptom = match (&answer, self.met.take()) {
            (Answer::Serves(_), _) if is_busy => Symptom::Busy,
            (Answer::Serves(_), _) => Symptom::Good,
            (Answer::Failed { .. }, met) => met.unwrap_or(Symptom::Unresolved),
            (Answer::Void(_), _) => Symptom::Ours,
        };
        Probe {
            started,
            ended: Instant::now(),
            answer,
            took: std::mem::take(&mut self.took),
            life: self.life.take(),
            flushed: std::mem::take(&mut self.flushed),
            symptom,
            late: self.lates.take(),
        }
    }

    async fn answer(&mut self, question: &Question, until: Instant) -> Answer {
        let standing = self.link.take().filter(|(target, link)| {
            !question.anew && question.targets.contains(target) && link.is_usable(&question.policy)
        });
        if let Some((target, mut link)) = standing {
            let conversation = async {
                let wrong = link.ask(question).await?;
                link.deep(question).await?;
                Ok(wrong)
            };
            match in_time(conversation, until).await {
                Ok(wrong) => {
                    self.took = link.took();
                    self.link = Some((target, link));
                    return Answer::Serves(wrong);
                }
                Err(Trouble::Broken(_)) => self.is_lost = true,
                Err(trouble) => {
                    self.met = Some(trouble.symptom());
                    if matches!(trouble, Trouble::Silent) {
                        self.lates.wait_for(link);
                    }
                    return self.failed(trouble.cause(), trouble.to_string());
                }
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
        let (mut failed, mut ours) = (None, None);
        for target in &*question.targets {
            let dial_until = until.min(Instant::now() + question.policy.connect_timeout);
            let stream = match timeout_at(dial_until, dial(target, question.timeout)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(e)) if is_ours(&e) => {
                    ours = Some(format!("{target}: {e}"));
                    continue;
                }
                Ok(Err(e)) => {
                    failed.get_or_insert((dial_cause(&e), dial_symptom(&e), format!("{target}: {e}")));
                    continue;
                }
                Err(_) => {
                    let text = format!("{target}: no connection in time");
                    failed.get_or_insert((Cause::ConnectTimeout, Symptom::NoConnection, text));
                    continue;
                }
            };
            let mut opened = None;
            let conversation = async {
                let link = opened.insert(Link::open(stream, question).await?);
                self.converse(link, question).await
            };
            let trouble = match (in_time(conversation, until).await, opened) {
                (Ok(wrong), Some(link)) => {
                    self.link = Some((target.clone(), link));
                    return Answer::Serves(wrong);
                }
                (Err(Trouble::Silent), Some(link)) => {
                    self.lates.wait_for(link);
                    Trouble::Silent
                }
                (Err(trouble), _) => trouble,
                // A conversation is had on a link.
                (Ok(_), None) => Trouble::Silent,
            };
            failed = Some((trouble.cause(), trouble.symptom(), format!("{target}: {trouble}")));
        }
        match (failed, ours) {
            (Some((cause, symptom, text)), _) => {
                self.met = Some(symptom);
                self.failed(cause, text)
            }
            (None, Some(why)) => Answer::Void(why),
            (None, None) => self.failed(Cause::Unresolved, "its name does not resolve".into()),
        }
    }

    /// What is asked on a new connection.
    async fn converse(&mut self, link: &mut Link, question: &Question) -> Told {
        let wrong = link.ask(question).await?;
        let life = if question.who { link.life().await? } else { None };
        let flush = question.flush && life.as_ref().is_none_or(|life| life.keys != Some(0));
        if flush {
            link.flush().await?;
        }
        link.deep(question).await?;
        (self.life, self.flushed, self.took) = (life, flush, link.took());
        Ok(wrong)
    }
}

/// A connection for a work that is more than a question, with who is at its other end.
async fn visit(question: &Question, until: Instant) -> Result<(Link, String), String> {
    let mut why = "its name does not resolve".to_owned();
    for target in &*question.targets {
        match timeout_at(until, dial(target, question.timeout)).await {
            Ok(Ok(stream)) => {
                let greeted = in_time(Link::open(stream, question), until).await;
                return match greeted {
                    Ok(link) => Ok((link, target.to_string())),
                    Err(trouble) => Err(format!("{target}: {trouble}")),
                };
            }
            Ok(Err(error)) => why = format!("{target}: {error}"),
            Err(_) => why = format!("{target}: no connection in time"),
        }
    }
    Err(why)
}

/// Deletes the keys of a node that are said to be left over; how many they were.
///
/// # Errors
/// Why it can't be done now, in words.
pub(super) async fn leftovers(
    question: &Question,
    is_left: &(dyn Fn(&[u8]) -> bool + Sync),
) -> Result<u64, String> {
    let (link, target) = visit(question, Instant::now() + question.timeout).await?;
    let left = match link {
        Link::Redis(mut link) => link.leftovers(is_left).await,
        Link::Memcached(mut link) => link.leftovers(is_left).await,
        Link::Http(_) => Ok(0),
    };
    left.map_err(|trouble| format!("{target}: {trouble}"))
}

/// Deletes these keys of a node.
///
/// # Errors
/// Why it can't be done now, in words.
pub(super) async fn delete(question: &Question, keys: &[Box<[u8]>], until: Instant) -> Result<(), String> {
    let (link, target) = visit(question, until).await?;
    let work = async {
        match link {
            Link::Redis(mut link) => link.delete(keys).await,
            Link::Memcached(mut link) => link.delete(keys).await,
            Link::Http(_) => Ok(()),
        }
    };
    in_time(work, until).await.map_err(|trouble| format!("{target}: {trouble}"))
}

/// Who a node is and how many keys it has, if it says so.
///
/// # Errors
/// Why it can't be asked now, in words.
pub(super) async fn life(question: &Question, until: Instant) -> Result<Option<Life>, String> {
    let (mut link, target) = visit(question, until).await?;
    in_time(link.life(), until).await.map_err(|trouble| format!("{target}: {trouble}"))
}

/// Empties a node, or the pool's database of it. How many keys it had, if it says so.
///
/// # Errors
/// Why it can't be done now, in words.
pub(super) async fn empty(question: &Question, until: Instant) -> Result<Option<u64>, String> {
    let (mut link, target) = visit(question, until).await?;
    let emptied = async {
        let keys = link.life().await?.and_then(|life| life.keys);
        link.flush().await.map(|()| keys)
    };
    in_time(emptied, until).await.map_err(|trouble| format!("{target}: {trouble}"))
}

/// The commands that a node says it was slow at lately, the newest first; none where it does not say.
///
/// # Errors
/// Why it can't be asked now, in words.
pub(super) async fn slow_log(question: &Question) -> Result<Vec<Slow>, String> {
    let until = Instant::now() + question.timeout;
    let (link, target) = visit(question, until).await?;
    let Link::Redis(mut link) = link else { return Ok(Vec::new()) };
    in_time(link.slow_log(), until).await.map_err(|trouble| format!("{target}: {trouble}"))
}

/// How long a node may take for one piece of a long work.
const PIECE: Duration = Duration::from_secs(5);

/// Between two pieces of a long work at a node at least; as long as the piece took if that is more.
const BREATH: Duration = Duration::from_millis(1);

async fn in_time<T>(
    exchange: impl Future<Output = Result<T, Trouble>>,
    until: Instant,
) -> Result<T, Trouble> {
    timeout_at(until, exchange).await.unwrap_or(Err(Trouble::Silent))
}

#[cfg(test)]
mod tests;

//! WHAT A NODE SAYS ITSELF THAT IT WAS SLOW AT. A Redis node keeps a log of commands that took it long,
//! whoever sent them: it knows what a proxy can only guess at, whose requests on all connections wait behind
//! the same one. The log of a node in doubt is read a few times a second; a node that has none, or a user who
//! may not ask, is known by samples.

use std::{
    collections::{HashMap, VecDeque},
    sync::LazyLock,
    time::Duration,
};

use tokio::{task::JoinError, time::Instant};

use super::{
    Ward,
    patient::Patient,
    probe::{self, Question},
};
use crate::{
    protocol::{
        Protocol,
        resp::{
            frame::{FrameLimits, Request, RequestDecoder, Step},
            table::Table,
            value::Value,
            write,
        },
    },
    topology::{Health, NodeId, SampledKey, Topology},
};

/// Entries that are read at once.
pub(super) const ENTRIES: &[u8] = b"64";
/// Nodes that are asked at once.
const NODES: usize = 16;
/// What was logged within this time counts.
const WITHIN: Duration = Duration::from_secs(10);
/// A key that it was slow at less often may have been unlucky; and one that has less of the time is one of
/// several.
const TIMES_MIN: f64 = 4.0;
const TIME_MIN: f64 = 0.5;
/// So many entries are remembered.
const REMEMBERED: usize = 512;

/// For what the node took as a command.
const UNLIMITED: FrameLimits = FrameLimits { bulk_bytes: LOG_MAX, request_bytes: LOG_MAX, args_max: LOG_MAX };
/// A longer reply is none: an entry has 32 words of 128 bytes at most.
pub(super) const LOG_MAX: usize = 1 << 20;

/// A command that took long.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Slow {
    /// Numbers rise as long as the node's process lives.
    id: i64,
    took: Duration,
    key: Vec<u8>,
}

/// What one node's log has said.
#[derive(Debug, Default)]
pub(super) struct SlowLog {
    /// When it was read first, and the last entry then or since.
    read: Option<(Instant, i64)>,
    entries: VecDeque<(Instant, Option<SampledKey>, Duration)>,
}

/// The key that a node was slow at the most.
#[derive(Clone, Debug)]
pub(super) struct Slowest {
    /// Which.
    pub(super) key: SampledKey,
    /// Its part of the time of all slow commands, 0.0..=1.0.
    pub(super) time: f64,
    /// For how much of each second it held the node.
    pub(super) held: f64,
    /// How often.
    pub(super) times: f64,
}

/// The entries of a reply to `SLOWLOG GET`; none when it is something else.
pub(super) fn read(reply: &[u8]) -> Option<Vec<Slow>> {
    let (Value::Array(entries), _) = Value::parse(reply)? else { return None };
    entries.map(|(_, entry)| read_entry(entry)).collect()
}

/// Its number, when it was, how long it took in microseconds, and the command; what follows is of no use
/// here.
fn read_entry(entry: Value<'_>) -> Option<Slow> {
    let Value::Array(mut parts) = entry else { return None };
    let Value::Integer(id) = parts.next()?.1 else { return None };
    let Value::Integer(_) = parts.next()?.1 else { return None };
    let Value::Integer(took) = parts.next()?.1 else { return None };
    let Value::Array(args) = parts.next()?.1 else { return None };
    let args: Vec<&[u8]> = args.bulks()?.into_iter().map(|(_, arg)| arg).collect();
    let took = Duration::from_micros(u64::try_from(took).ok()?);
    Some(Slow { id, took, key: first_key(&args).unwrap_or_default() })
}

/// Redis's log has so many bytes of an argument, and says of a longer one how many more there were.
const CUT_BYTES: usize = 128;

/// The first key of a command, if the log has it whole.
fn first_key(args: &[&[u8]]) -> Option<Vec<u8>> {
    static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| Table::new(&[], &[] as &[&str]).ok());
    let mut bytes = Vec::new();
    write::request(&mut bytes, args.iter());
    let mut decoder = RequestDecoder::default();
    let Ok(Step::Request(_)) = decoder.decode(&bytes, &UNLIMITED) else { return None };
    let request = Request::new(&bytes, decoder.spans());
    let mut keys = Vec::new();
    TABLE.as_ref()?.lookup(&request).ok()?.keys(&request, 1, &mut keys).ok()?;
    let key = request.arg(*keys.first()? as usize);
    // Redis cuts what is long, and many may begin alike: the samples know such a key.
    let is_cut = key.len() > CUT_BYTES && key.ends_with(b" more bytes)");
    (!is_cut).then(|| key.to_vec())
}

#[cfg(test)]
impl Slow {
    pub(super) fn new(id: i64, took: Duration, key: &str) -> Slow {
        Slow { id, took, key: key.into() }
    }

    pub(super) fn is_for(&self, key: &[u8]) -> bool {
        self.key == key
    }
}

impl SlowLog {
    /// Takes in what is new, the newest first as the node gives it. What was there at the first look may be
    /// old.
    pub(super) fn take(&mut self, now: Instant, log: &[Slow]) {
        let newest = log.iter().map(|slow| slow.id).max().unwrap_or(-1);
        // Numbers that begin anew are another process's.
        let known = self.read.map(|(_, known)| known).filter(|known| *known <= newest);
        if let Some(known) = known {
            for slow in log.iter().filter(|slow| slow.id > known).rev() {
                let key = (!slow.key.is_empty()).then(|| SampledKey::of(&slow.key));
                self.entries.push_back((now, key, slow.took));
            }
        }
        self.read = Some((self.read.map_or(now, |(since, _)| since), newest));
        let surplus = self.entries.len().saturating_sub(REMEMBERED);
        self.entries.drain(..surplus);
    }

    /// The key that it was slow at most of the time within the last seconds.
    pub(super) fn slowest(&self, now: Instant) -> Option<Slowest> {
        let (since, _) = self.read?;
        let lately = || self.entries.iter().filter(|(at, ..)| now < *at + WITHIN);
        let mut sums: HashMap<u64, (SampledKey, Duration, f64)> = HashMap::new();
        for (_, key, took) in lately() {
            let Some(key) = key else { continue };
            let sum = sums.entry(key.hash()).or_insert((*key, Duration::ZERO, 0.0));
            (sum.1, sum.2) = (sum.1 + *took, sum.2 + 1.0);
        }
        let (key, took, times) = sums.into_values().max_by_key(|sum| sum.1)?;
        let all: Duration = lately().map(|(_, _, took)| *took).sum();
        let watched = now.saturating_duration_since(since).min(WITHIN).as_secs_f64().max(0.1);
        let time = took.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
        let held = took.as_secs_f64() / watched;
        (times >= TIMES_MIN && time >= TIME_MIN).then_some(Slowest { key, time, held, times })
    }

    /// Whether nothing of it counts any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.entries.back().is_none_or(|(at, ..)| now >= *at + WITHIN)
            && self.read.is_none_or(|(since, _)| now >= since + WITHIN)
    }
}

impl Ward {
    /// Reads the logs of the nodes that are in doubt and serve.
    pub(super) fn read_slow_logs(&mut self) {
        let topology = self.reader.load();
        if topology.policy.protocol != Protocol::Redis || !topology.policy.hot_keys {
            return;
        }
        for (id, patient) in &self.patients {
            if self.slow_logs.len() >= NODES {
                return;
            }
            let Some(question) = question(&topology, *id).filter(|_| is_doubted(patient)) else { continue };
            if self.reading.insert(*id) {
                let id = *id;
                self.slow_logs.spawn(async move { (id, probe::slow_log(&question).await) });
            }
        }
    }

    /// A node's log was read, or not.
    pub(super) fn slow_log_read(&mut self, read: Result<(NodeId, Result<Vec<Slow>, String>), JoinError>) {
        let (id, log) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "reading a slow log failed inside ringway");
                return self.reading.clear();
            }
        };
        self.reading.remove(&id);
        let Some(patient) = self.patients.get(&id) else { return };
        match log {
            Ok(log) => {
                let whose = (self.reader.load().pool.clone(), patient.name.clone());
                self.scene.slow_log(Instant::now(), &whose, &log);
            }
            Err(error) => tracing::debug!(node = &*patient.name, error, "its slow log can't be read"),
        }
    }
}

/// It may be held by something.
fn is_doubted(patient: &Patient) -> bool {
    patient.told.health == Health::Suspect
}

fn question(topology: &Topology, id: NodeId) -> Option<Question> {
    let entry = &topology.nodes[topology.position(id)?];
    Some(Question {
        address: entry.node.address.clone(),
        targets: entry.targets.clone(),
        policy: topology.policy.clone(),
        timeout: topology.health.timeout,
        anew: true,
        who: false,
        flush: false,
        deep: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply of the server, with an entry for each command: its number, microseconds and words.
    fn reply(entries: &[(i64, i64, &[&str])]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", entries.len()).into_bytes();
        for (id, took, words) in entries {
            out.extend(format!("*6\r\n:{id}\r\n:1700000000\r\n:{took}\r\n").bytes());
            write::request(&mut out, words.iter());
            out.extend(b"$14\r\n127.0.0.1:4711\r\n$0\r\n\r\n");
        }
        out
    }

    fn log(entries: &[(i64, i64, &[&str])]) -> Vec<Slow> {
        read(&reply(entries)).expect("it is a log")
    }

    /// Entries are read with their keys, wherever a command has them; what has none is an entry all the same.
    /// Something else is no log.
    #[test]
    fn entries_are_read() {
        let all = log(&[
            (9, 20_000, &["SORT", "giant", "ALPHA"]),
            (8, 11_000, &["EVAL", "return 1", "1", "scripted"]),
            (7, 12_000, &["INFO"]),
            (6, 13_000, &["NOSUCH", "what"]),
            (5, 14_000, &["SORT", &format!("{}... (72 more bytes)", "k".repeat(128)), "ALPHA"]),
        ]);
        let keys: Vec<&[u8]> = all.iter().map(|slow| &slow.key[..]).collect();
        assert_eq!(keys, [&b"giant"[..], b"scripted", b"", b"", b""]);
        assert_eq!((all[0].id, all[0].took), (9, Duration::from_millis(20)));
        assert_eq!(read(b"*0\r\n"), Some(Vec::new()));
        for other in [&b"-NOPERM no\r\n"[..], b"+OK\r\n", b"*1\r\n:1\r\n", b"*1\r\n*1\r\n:1\r\n", b""] {
            assert_eq!(read(other), None, "{}", other.escape_ascii());
        }
    }

    /// What was logged before anybody looked is old, each entry counts once and for some seconds; a process
    /// that begins anew has a log of its own.
    #[tokio::test(start_paused = true)]
    async fn what_is_new_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut known = SlowLog::default();
        let old: (i64, i64, &[&str]) = (3, 900_000, &["SORT", "old"]);
        known.take(at(0), &log(&[old]));
        assert!(known.slowest(at(0)).is_none());
        let sort = |key: &str, ids: std::ops::Range<i64>| {
            ids.rev().map(|id| Slow::new(id, Duration::from_millis(20), key)).collect::<Vec<_>>()
        };
        known.take(at(500), &sort("giant", 4..7));
        assert!(known.slowest(at(500)).is_none(), "three times");
        (2..4).for_each(|i| known.take(at(i * 500), &sort("giant", 5..8)));
        known.take(at(2000), &sort("other", 8..9));
        let slowest = known.slowest(at(2000)).expect("there is one");
        assert_eq!((slowest.key.bytes(), slowest.times), (&b"giant"[..], 4.0));
        assert!((slowest.time - 0.8).abs() < 0.01 && (slowest.held - 0.04).abs() < 0.01, "{slowest:?}");
        known.take(at(2500), &sort("other", 9..13));
        assert_eq!(known.slowest(at(2500)).expect("it is another now").key.bytes(), b"other");
        known.take(at(3000), &sort("giant", 0..1));
        known.take(at(3500), &sort("giant", 1..6));
        assert_eq!(known.slowest(at(3500)).expect("of a log that begins anew").times, 9.0);
        assert!(!known.is_over(at(13_400)) && known.is_over(at(13_500)));
        assert!(known.slowest(at(13_500)).is_none());
    }
}

//! A memcached node is asked for its version.

use std::{io, time::Duration};

use percent_encoding::percent_decode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::{BREATH, KEY_SECONDS, Life, PIECE, Question, Told, Trouble, in_time, unwritable};
use crate::{
    net::Stream,
    protocol::{
        base64,
        memcache::{Awaits, ReplyScanner, login, write},
    },
    topology::{Cause, NodeAuth, Policy},
};

/// A connection that has greeted as a pipeline does.
#[derive(Debug)]
pub(super) struct Link {
    stream: Stream,
    auth: Option<NodeAuth>,
    /// How long the last `version` took.
    pub(super) took: Duration,
}

/// No reply to a probe is longer.
const REPLY_MAX: usize = 16 * 1024;

/// Deletions between two pauses.
const DELETED_AT_ONCE: usize = 200;

/// How often all keys are listed to delete some, if each time some are found.
const LISTED_MAX: u32 = 8;

impl Link {
    /// Gives credentials.
    pub(super) async fn open(stream: Stream, question: &Question) -> Result<Link, Trouble> {
        let mut link = Link { stream, auth: question.policy.auth.clone(), took: Duration::ZERO };
        if let Some(auth) = link.auth.clone() {
            let mut request = Vec::new();
            let user = auth.user.as_deref().unwrap_or_default();
            write::login(&mut request, user.as_bytes(), &auth.password.0);
            let reply = link.exchange(&request, Awaits::STORE).await?;
            if !login::is_accepted(&reply) {
                let text = format!("it refuses our credentials: {}", shown(&reply));
                return Err(Trouble::Refusal(Cause::Misconfigured, text));
            }
        }
        Ok(link)
    }

    /// Whether it was opened with the policy's credentials.
    pub(super) fn is_usable(&self, policy: &Policy) -> bool {
        self.auth == policy.auth
    }

    /// Asks whether the node serves.
    pub(super) async fn ask(&mut self) -> Told {
        let began = Instant::now();
        let reply = self.exchange(b"version\r\n", Awaits::VERSION).await?;
        self.took = began.elapsed();
        if reply.starts_with(b"VERSION ") {
            return Ok(None);
        }
        let cause =
            if reply.starts_with(b"CLIENT_ERROR unauth") { Cause::Misconfigured } else { Cause::Lost };
        let what = if cause == Cause::Misconfigured { "asks for a password" } else { "does not serve" };
        Err(Trouble::Refusal(cause, format!("it {what}: {}", shown(&reply))))
    }

    /// Which process it is, and how many items it has.
    pub(super) async fn life(&mut self) -> Result<Option<Life>, Trouble> {
        let stats = self.exchange(b"stats\r\n", Awaits::STATS).await?;
        let stats = String::from_utf8_lossy(&stats);
        let number = |name: &str| -> Option<i64> {
            let mut lines = stats.lines().filter_map(|l| l.strip_prefix("STAT ")?.split_once(' '));
            lines.find(|(found, _)| *found == name).and_then(|(_, value)| value.trim().parse().ok())
        };
        let (Some(pid), Some(time), Some(uptime)) = (number("pid"), number("time"), number("uptime")) else {
            return Ok(None);
        };
        let keys = number("curr_items").and_then(|n| u64::try_from(n).ok());
        Ok(Some(Life { process: pid.to_string(), started: Some(time - uptime), keys }))
    }

    /// Empties it.
    pub(super) async fn flush(&mut self) -> Result<(), Trouble> {
        let reply = self.exchange(b"flush_all\r\n", Awaits::OK).await?;
        if reply == b"OK\r\n" {
            return Ok(());
        }
        let text = format!("it can't be emptied, as on_return wants it: {}", shown(&reply));
        Err(Trouble::Refusal(Cause::Misconfigured, text))
    }

    /// Deletes these keys, many in one go. Each deletion is answered with a line: the flag `q` would silence
    /// those that find something, and of the others in some versions of memcached only.
    pub(super) async fn delete(&mut self, keys: &[Box<[u8]>]) -> Result<(), Trouble> {
        for some in keys.chunks(DELETED_AT_ONCE) {
            let mut request = Vec::new();
            for key in some {
                let is_plain = key.iter().all(|b| b.is_ascii_graphic());
                request.extend_from_slice(b"md ");
                if is_plain {
                    request.extend_from_slice(key);
                    request.extend_from_slice(b"\r\n");
                } else {
                    base64::encode(key, &mut request);
                    request.extend_from_slice(b" b\r\n");
                }
            }
            let replies = self.lines(&request, some.len()).await?;
            let is_done = |line: &&[u8]| matches!(*line, b"HD\r\n" | b"NF\r\n");
            if let Some(line) = replies.split_inclusive(|b| *b == b'\n').find(|line| !is_done(line)) {
                let text = format!("its old keys can't be deleted: {}", shown(line));
                return Err(Trouble::Refusal(Cause::Misconfigured, text));
            }
        }
        Ok(())
    }

    /// Sends requests and reads as many lines.
    async fn lines(&mut self, requests: &[u8], count: usize) -> Result<Vec<u8>, Trouble> {
        let broken = |e: io::Error| Trouble::Broken(e.to_string());
        self.stream.write_all(requests).await.map_err(broken)?;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
        while bytes.iter().filter(|b| **b == b'\n').count() < count {
            let n = self.stream.read(&mut chunk).await.map_err(broken)?;
            if n == 0 {
                return Err(Trouble::Broken("closed by the node".into()));
            }
            bytes.extend_from_slice(&chunk[..n]);
            if bytes.len() > REPLY_MAX {
                return Err(Trouble::Garbage(format!("{count} replies longer than {REPLY_MAX} bytes")));
            }
        }
        Ok(bytes)
    }

    /// Writes, reads and deletes a key.
    pub(super) async fn deep(&mut self, key: &str, value: &str) -> Result<(), Trouble> {
        let bytes = value.len();
        let set = format!("set {key} 0 {KEY_SECONDS} {bytes}\r\n{value}\r\n");
        let said = self.exchange(set.as_bytes(), Awaits::STORE).await?;
        if said != b"STORED\r\n" {
            return Err(unwritable(shown(&said)));
        }
        let said = self.exchange(format!("get {key}\r\n").as_bytes(), Awaits::GET).await?;
        if said != format!("VALUE {key} 0 {bytes}\r\n{value}\r\nEND\r\n").as_bytes() {
            return Err(unwritable(format!("wrote {value}, read `{}`", shown(&said))));
        }
        let said = self.exchange(format!("delete {key}\r\n").as_bytes(), Awaits::DELETE).await?;
        if said == b"DELETED\r\n" { Ok(()) } else { Err(unwritable(shown(&said))) }
    }

    /// Deletes the keys that are said to be left over; how many they were. memcached lists its keys when its
    /// crawler is on, as it is unless it was switched off. An item that goes from one list of the server to
    /// another meanwhile may be passed by, so that it is asked until there is none.
    pub(super) async fn leftovers(
        &mut self,
        is_left: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, Trouble> {
        let mut deleted = 0;
        for _ in 0..LISTED_MAX {
            let left = self.listed(is_left).await?;
            if left.is_empty() {
                break;
            }
            for keys in left.chunks(DELETED_AT_ONCE) {
                let began = Instant::now();
                in_time(self.delete(keys), began + PIECE).await?;
                tokio::time::sleep(began.elapsed().max(BREATH)).await;
            }
            deleted += left.len() as u64;
        }
        Ok(deleted)
    }

    /// Its keys of which this is said.
    async fn listed(&mut self, is_left: &(dyn Fn(&[u8]) -> bool + Sync)) -> Result<Vec<Box<[u8]>>, Trouble> {
        let broken = |e: io::Error| Trouble::Broken(e.to_string());
        self.stream.write_all(b"lru_crawler metadump all\r\n").await.map_err(broken)?;
        let (mut lines, mut left, mut ended) = (Vec::new(), Vec::new(), false);
        while !ended {
            let read = async { self.stream.read_buf(&mut lines).await.map_err(broken) };
            if in_time(read, Instant::now() + PIECE).await? == 0 {
                return Err(Trouble::Broken("closed by the node".into()));
            }
            let whole = lines.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            for line in lines[..whole].split(|b| *b == b'\n') {
                match line.strip_prefix(b"key=") {
                    Some(rest) => {
                        let key = rest.split(|b| *b == b' ').next().unwrap_or_default();
                        let key: Box<[u8]> = percent_decode(key).collect();
                        left.extend(Some(key).filter(|key| is_left(key)));
                    }
                    None if line.trim_ascii() == b"END" => ended = true,
                    None if line.trim_ascii().is_empty() => {}
                    None => return Err(Trouble::Refusal(Cause::Misconfigured, shown(line))),
                }
            }
            lines.drain(..whole);
        }
        Ok(left)
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

    async fn exchange(&mut self, request: &[u8], awaits: Awaits) -> Result<Vec<u8>, Trouble> {
        let broken = |e: io::Error| Trouble::Broken(e.to_string());
        self.stream.write_all(request).await.map_err(broken)?;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 1024]);
        let mut scanner = ReplyScanner::default();
        loop {
            let n = self.stream.read(&mut chunk).await.map_err(broken)?;
            if n == 0 {
                return Err(Trouble::Broken("closed by the node".into()));
            }
            let scan = scanner.advance(&chunk[..n], awaits).map_err(|e| Trouble::Garbage(e.to_string()))?;
            bytes.extend_from_slice(&chunk[..scan.used]);
            match scan.done {
                true if scan.used < n && !scanner.is_error() => {
                    return Err(Trouble::Garbage("more than one reply to one request".into()));
                }
                true => return Ok(bytes),
                false if bytes.len() > REPLY_MAX => {
                    return Err(Trouble::Garbage(format!("a reply longer than {REPLY_MAX} bytes")));
                }
                false => {}
            }
        }
    }
}

/// The reply as messages show it.
fn shown(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply.trim_ascii_end()).chars().take(120).collect()
}

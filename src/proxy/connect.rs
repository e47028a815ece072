//! How a pipeline gets its connection: dial, then say who we are and which version and database
//! we want, teach the node the scripts that clients loaded, and have all of it confirmed before
//! the first request goes out.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{dialect::Replies, scripts::Scripts};
use crate::{
    net::{ReadHalf, Stream, Target, WriteHalf, dial, is_ours},
    protocol::{
        Protocol,
        memcache::{self, Awaits},
        resp::{Version, write},
    },
    topology::{Failure, NodeId, Policy},
};

/// A connection that is ready for requests.
pub(crate) struct Connection {
    pub(crate) read: ReadHalf,
    pub(crate) write: WriteHalf,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct ConnectError {
    /// The node's failure; none when it is this process's own.
    pub(crate) kind: Option<Failure>,
    text: String,
}

/// Replies to a handshake that are larger than this are none.
const HANDSHAKE_BYTES_MAX: usize = 1 << 20;

/// What a node is taught again that clients loaded while it was taught.
const LESSONS_MAX: usize = 3;

/// Connects to the first target that answers, for a pipeline. With what clients loaded, and for whom, that is
/// taught first.
pub(crate) async fn connect(
    targets: &Arc<[Target]>,
    policy: &Policy,
    version: Version,
    lessons: Option<(&Scripts, NodeId)>,
) -> Result<Connection, ConnectError> {
    let mut stream = reach(targets, policy, version).await?;
    if let Some((scripts, node)) = lessons {
        let text = || "it takes too long to load the scripts that clients loaded".to_owned();
        timeout(policy.slow_timeout, teach(&mut stream, scripts, node))
            .await
            .unwrap_or_else(|_| Err(ConnectError { kind: Some(Failure::ConnectTimeout), text: text() }))?;
    }
    let (read, write) = stream.into_split();
    Ok(Connection { read, write })
}

/// Connects to the first target that answers and takes our credentials.
pub(crate) async fn reach(
    targets: &Arc<[Target]>,
    policy: &Policy,
    version: Version,
) -> Result<Stream, ConnectError> {
    let mut last =
        ConnectError { kind: Some(Failure::ConnectTimeout), text: "its name does not resolve".to_owned() };
    for target in targets.iter() {
        let attempt = async {
            let mut stream = dial(target, user_timeout(policy)).await.map_err(dial_error)?;
            let (bytes, count) = greeting(policy, version);
            if count > 0 {
                converse(&mut stream, &bytes, count, Replies::of(policy.protocol), true).await?;
            }
            Ok(stream)
        };
        last = match timeout(policy.connect_timeout, attempt).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => {
                let text =
                    format!("{target}: no connection within {} ms", policy.connect_timeout.as_millis());
                ConnectError { kind: Some(Failure::ConnectTimeout), text }
            }
        };
    }
    Err(last)
}

/// After how long without an acknowledgement the kernel gives a connection up. It is set when the connection
/// is made, so another one takes a new connection.
pub(crate) fn user_timeout(policy: &Policy) -> Duration {
    policy.deadline.max(policy.request_timeout)
}

fn dial_error(error: io::Error) -> ConnectError {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Failure::Refused,
        // Made, and gone before we had it: the node dies. The next attempt knows more.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Lost,
        _ => Failure::ConnectTimeout,
    };
    ConnectError { kind: (!is_ours(&error)).then_some(kind), text: error.to_string() }
}

/// The commands that a connection begins with, and how many there are.
pub(crate) fn greeting(policy: &Policy, version: Version) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut count = 0;
    if policy.protocol == Protocol::Http {
        return (bytes, 0);
    }
    if policy.protocol == Protocol::Memcached {
        if let Some(auth) = &policy.auth {
            let user = auth.user.as_deref().unwrap_or_default();
            memcache::write::login(&mut bytes, user.as_bytes(), &auth.password.0);
            count = 1;
        }
        return (bytes, count);
    }
    let mut say = |args: &[&[u8]]| {
        write::request(&mut bytes, args);
        count += 1;
    };
    let auth = policy.auth.as_ref();
    match (version, auth) {
        (Version::Resp3, None) => say(&[b"HELLO", b"3"]),
        (Version::Resp3, Some(auth)) => {
            let user = auth.user.as_deref().unwrap_or("default");
            say(&[b"HELLO", b"3", b"AUTH", user.as_bytes(), &auth.password.0]);
        }
        (Version::Resp2, None) => {}
        (Version::Resp2, Some(auth)) => match &auth.user {
            Some(user) => say(&[b"AUTH", user.as_bytes(), &auth.password.0]),
            None => say(&[b"AUTH", &auth.password.0]),
        },
    }
    if policy.db != 0 {
        say(&[b"SELECT", policy.db.to_string().as_bytes()]);
    }
    (bytes, count)
}

/// Gives a new connection what clients loaded; that may take as long as a script may. A script that
/// the node refuses is the business of who calls it.
async fn teach(stream: &mut Stream, scripts: &Scripts, node: NodeId) -> Result<(), ConnectError> {
    for _ in 0..LESSONS_MAX {
        let lessons = scripts.lessons(node);
        converse(stream, &lessons.bytes, lessons.count, Replies::of(Protocol::Redis), false).await?;
        if scripts.taught(node, &lessons) {
            break;
        }
    }
    Ok(())
}

/// Sends `count` requests and reads as many replies; with `strict` the first error ends it.
async fn converse(
    stream: &mut Stream,
    bytes: &[u8],
    count: usize,
    mut replies: Replies,
    strict: bool,
) -> Result<(), ConnectError> {
    let lost = |error: io::Error| ConnectError { kind: Some(Failure::Lost), text: error.to_string() };
    stream.write_all(bytes).await.map_err(lost)?;
    let (mut reply, mut start, mut seen, mut missing) = (Vec::new(), 0, 0, count);
    while missing > 0 {
        if seen == reply.len() {
            let n = stream.read_buf(&mut reply).await.map_err(lost)?;
            if n == 0 || reply.len() > HANDSHAKE_BYTES_MAX {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let scan = replies
            .advance(&reply[seen..], Awaits::STORE)
            .map_err(|text| ConnectError { kind: Some(Failure::Protocol), text })?;
        seen += scan.used;
        if scan.done {
            if strict && replies.is_error() {
                let said = reply[start..seen].trim_ascii_end();
                let text = String::from_utf8_lossy(said.strip_prefix(b"-").unwrap_or(said)).into_owned();
                return Err(ConnectError { kind: Some(Failure::Handshake), text });
            }
            start = seen;
            missing -= 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a failed dial says of the node: nobody listens, it took the connection and let it go, or it can't
    /// be reached; and nothing when it is this process that lacks something.
    #[test]
    fn what_a_dial_says_of_the_node() {
        let kinds = [
            (io::ErrorKind::ConnectionRefused, Failure::Refused),
            (io::ErrorKind::NotFound, Failure::Refused),
            (io::ErrorKind::ConnectionReset, Failure::Lost),
            (io::ErrorKind::HostUnreachable, Failure::ConnectTimeout),
        ];
        for (error, kind) in kinds {
            assert_eq!(dial_error(error.into()).kind, Some(kind), "{error:?}");
        }
        let no_descriptors = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert_eq!(dial_error(no_descriptors).kind, None);
    }
}

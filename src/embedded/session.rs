//! One client connection, without its socket: bytes in, replies out. Pure.

use crate::protocol::{
    self,
    resp::{
        Version,
        frame::{FrameError, FrameLimits, Request, RequestDecoder, Step},
    },
};

use super::{
    Settings, Speaks,
    commands::{self, Refusal},
    memcache,
    store::Store,
};

/// The node as its commands see it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) store: Store,
    pub(super) settings: Settings,
    /// Chosen anew at each start, as a server does it.
    pub(super) run_id: String,
    /// Unix time in milliseconds.
    pub(super) started_ms: i64,
    pub(super) sessions: usize,
    pub(super) sessions_ever: u64,
    pub(super) requests: u64,
    /// What its memcached commands keep.
    pub(super) memcache: memcache::State,
}

/// What a session keeps between requests.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) name: Vec<u8>,
    pub(super) version: Version,
    pub(super) fate: Fate,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Open,
    /// It is closed when its replies are written.
    Closing,
}

/// Replies beyond this are written before the next request runs.
const FLUSH_AT: usize = 64 * 1024;

/// The largest argument that Redis takes.
const BULK_MAX: usize = 512 << 20;

/// How much of the input a batch has used, and why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Bytes of the input that are done with.
    pub(super) used: usize,
    /// How many bytes the input must have before there is more to do; 0 when only the replies
    /// stand in the way.
    pub(super) needs: usize,
}

/// One client connection.
#[derive(Debug)]
pub(super) struct Session {
    decoder: Decoder,
    limits: FrameLimits,
    client: Client,
    /// Bytes to come that are passed over: of a value that was refused.
    skip: u64,
}

/// Cuts the requests of the protocol that the node speaks.
#[derive(Debug)]
enum Decoder {
    Resp(Box<RequestDecoder>),
    Memcache(Box<protocol::memcache::RequestDecoder>),
}

/// What a request may measure, given the cap: enough that a value above the cap gets its refusal
/// and not a protocol error, and no more.
pub(super) fn limits(bytes_max: usize) -> FrameLimits {
    let request_bytes = bytes_max.saturating_mul(2).clamp(1 << 20, 2 * BULK_MAX);
    FrameLimits { bulk_bytes: request_bytes.min(BULK_MAX), request_bytes, args_max: 1 << 20 }
}

impl Session {
    /// A session of this number.
    pub(super) fn new(id: u64, limits: FrameLimits, speaks: Speaks) -> Session {
        let client = Client { id, name: Vec::new(), version: Version::Resp2, fate: Fate::Open };
        let decoder = match speaks {
            Speaks::Redis => Decoder::Resp(Box::default()),
            Speaks::Memcached => Decoder::Memcache(Box::default()),
        };
        Session { decoder, limits, client, skip: 0 }
    }

    /// What becomes of the connection.
    pub(super) fn fate(&self) -> Fate {
        self.client.fate
    }

    /// Runs the whole requests at the start of the input, until the replies are worth a write.
    pub(super) fn answer(&mut self, node: &mut Node, input: &[u8], out: &mut Vec<u8>, now_ms: i64) -> Batch {
        let mut used = 0;
        while self.client.fate == Fate::Open {
            if out.len() >= FLUSH_AT {
                return Batch { used, needs: 0 };
            }
            let here = self.skip.min((input.len() - used) as u64);
            self.skip -= here;
            used += here as usize;
            match self.step(node, &input[used..], out, now_ms) {
                Cut::Used(n) => used += n,
                Cut::Skip(n, beyond) => (used, self.skip) = (used + n, beyond),
                Cut::Partial(needs) => return Batch { used, needs },
                Cut::Broken => break,
            }
        }
        // What follows the end of a session is not for us.
        Batch { used: input.len(), needs: 0 }
    }

    /// Runs the first request, if it is whole.
    fn step(&mut self, node: &mut Node, input: &[u8], out: &mut Vec<u8>, now_ms: i64) -> Cut {
        let (limits, client) = (&self.limits, &mut self.client);
        match &mut self.decoder {
            Decoder::Resp(decoder) => resp(decoder, limits, (node, client), input, (now_ms, out)),
            Decoder::Memcache(decoder) => {
                let limits = memcache::limits(limits.request_bytes);
                let step = memcache::step(decoder, &limits, (node, &mut client.fate), input, (now_ms, out));
                match step {
                    Some(memcache::Step::Request(n)) => Cut::Used(n),
                    Some(memcache::Step::Large { line, value }) => Cut::Skip(line, value),
                    Some(memcache::Step::Partial(needs)) => Cut::Partial(needs),
                    None => Cut::Broken,
                }
            }
        }
    }
}

/// What a look at the input came to.
enum Cut {
    /// So many bytes are done with.
    Used(usize),
    /// So many are done with, and so many behind them, which may not be there yet, are passed over.
    Skip(usize, u64),
    /// There must be so many before there is more to do.
    Partial(usize),
    /// The stream can't be read on.
    Broken,
}

fn resp(
    decoder: &mut RequestDecoder,
    limits: &FrameLimits,
    (node, client): (&mut Node, &mut Client),
    input: &[u8],
    (now_ms, out): (i64, &mut Vec<u8>),
) -> Cut {
    let (request, len) = match decoder.decode(input, limits) {
        Ok(Step::Partial(needs)) => return Cut::Partial(needs),
        Ok(Step::Skip(n)) => return Cut::Used(n),
        Ok(Step::Request(n)) => (Request::new(&input[..n], decoder.spans()), n),
        Ok(Step::Inline(n)) => (Request::new(decoder.inline(), decoder.spans()), n),
        Err(error) => {
            break_off(client, &error, out);
            return Cut::Broken;
        }
    };
    commands::run(node, client, request, now_ms, out);
    Cut::Used(len)
}

/// The stream can't be read on: says so and closes.
fn break_off(client: &mut Client, error: &FrameError, out: &mut Vec<u8>) {
    Refusal::from(format!("ERR {error}")).write(out);
    client.fate = Fate::Closing;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::resp::{frame::Scanner, write};

    fn node(bytes_max: usize) -> Node {
        Node {
            store: Store::new(bytes_max, 1),
            settings: Settings { bytes_max, ..Settings::default() },
            run_id: "0".repeat(40),
            started_ms: 0,
            sessions: 1,
            sessions_ever: 1,
            requests: 0,
            memcache: memcache::State::default(),
        }
    }

    /// The replies to a stream that arrives in these chunks.
    fn replies(node: &mut Node, chunks: &[&[u8]], now_ms: i64) -> Vec<u8> {
        let mut session = Session::new(1, limits(node.settings.bytes_max), Speaks::Redis);
        let (mut input, mut written) = (Vec::new(), Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            loop {
                let mut out = Vec::new();
                let batch = session.answer(node, &input, &mut out, now_ms);
                input.drain(..batch.used);
                written.extend_from_slice(&out);
                if session.fate() == Fate::Closing {
                    return written;
                }
                if batch.needs != 0 {
                    break;
                }
            }
        }
        written
    }

    fn said(node: &mut Node, stream: &str) -> String {
        String::from_utf8_lossy(&replies(node, &[stream.as_bytes()], 1000)).into_owned()
    }

    /// Each request of a batch is answered, in order, and the batch ends where the bytes do.
    #[test]
    fn a_pipeline_is_answered_at_once() {
        let mut node = node(1 << 20);
        let mut session = Session::new(1, limits(1 << 20), Speaks::Redis);
        let mut out = Vec::new();
        let input = b"SET a 1\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nINCR a\r\nGET";
        let batch = session.answer(&mut node, input, &mut out, 0);
        assert_eq!(out, b"+OK\r\n$1\r\n1\r\n:2\r\n");
        assert_eq!(batch, Batch { used: input.len() - 3, needs: 4 });
    }

    /// Replies do not pile up: a batch ends when they are worth a write, and goes on after it.
    #[test]
    fn a_batch_ends_when_its_replies_are_large() {
        let mut node = node(1 << 20);
        let mut session = Session::new(1, limits(1 << 20), Speaks::Redis);
        let mut stream = Vec::new();
        write::request(&mut stream, [&b"SET"[..], b"a", &[b'x'; 50_000]]);
        for _ in 0..10 {
            write::request(&mut stream, ["GET", "a"]);
        }
        let (mut used, mut written) = (0, 0);
        loop {
            let mut out = Vec::new();
            let batch = session.answer(&mut node, &stream[used..], &mut out, 0);
            assert!(out.len() <= FLUSH_AT + 50_100);
            used += batch.used;
            written += out.len();
            if batch.needs != 0 {
                break;
            }
        }
        assert_eq!((used, written), (stream.len(), 5 + 10 * (50_000 + 10)));
    }

    /// After a protocol error there is one refusal, and nothing after it is read.
    #[test]
    fn a_broken_stream_is_refused_and_closed() {
        let mut node = node(1 << 20);
        assert_eq!(
            said(&mut node, "PING\r\n*x\r\nPING\r\n"),
            "+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"
        );
        assert_eq!(said(&mut node, "QUIT\r\nPING\r\n"), "+OK\r\n");
        assert_eq!(said(&mut node, "POST / HTTP/1.1\r\nHost: x\r\n\r\nPING\r\n"), "");
    }

    /// A value above the cap gets Redis's refusal, and the connection goes on.
    #[test]
    fn a_value_above_the_cap_is_refused() {
        let mut node = node(10_000);
        let mut stream = Vec::new();
        write::request(&mut stream, [&b"SET"[..], b"a", &[b'x'; 10_001]]);
        write::request(&mut stream, ["PING"]);
        assert_eq!(
            replies(&mut node, &[&stream], 0).escape_ascii().to_string(),
            "-OOM command not allowed when used memory > \\'maxmemory\\'.\\r\\n+PONG\\r\\n"
        );
    }

    /// One MGET can't ask for more bytes than a reply may have.
    #[test]
    fn a_reply_is_bounded() {
        let mut node = node(1 << 20);
        let mut stream = Vec::new();
        write::request(&mut stream, [&b"SET"[..], b"a", &[b'x'; 1 << 19]]);
        write::request(
            &mut stream,
            std::iter::once("MGET")
                .chain([""; 40])
                .map(|w| if w.is_empty() { "a" } else { w })
                .collect::<Vec<_>>(),
        );
        let replies = replies(&mut node, &[&stream], 0);
        assert_eq!(replies.escape_ascii().to_string(), "+OK\\r\\n-ERR reply larger than 2097152 bytes\\r\\n");
    }

    /// INFO says what this is.
    #[test]
    fn info_names_the_embedded_node() {
        let mut node = node(1 << 20);
        let info = said(&mut node, "SET a 1 EX 10\r\nINFO\r\n");
        for line in [
            "ringway_embedded:1\r\n",
            "ringway_node:embedded\r\n",
            "uptime_in_seconds:1\r\n",
            "db0:keys=1,expires=1,",
        ] {
            assert!(info.contains(line), "{line:?} in {info}");
        }
        let one = said(&mut node, "INFO memory\r\n");
        assert!(one.contains("maxmemory:1048576\r\n") && !one.contains("# Server"), "{one}");
    }

    /// A client's library is taken note of, which Redis does from 7.2 on only.
    #[test]
    fn client_setinfo_is_accepted() {
        assert_eq!(said(&mut node(1 << 20), "CLIENT SETINFO lib-name x\r\n"), "+OK\r\n");
    }

    /// Some bytes that get past the first checks, and some that do not.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(vec![
            "GET",
            "SET",
            "a",
            "b",
            "EX",
            "10",
            "-1",
            "PING",
            "HELLO",
            "3",
            "SCAN",
            "0",
            "MATCH",
            "[a-",
            "INCRBYFLOAT",
            "1e308",
            "SETRANGE",
            "9223372036854775807",
            "GETRANGE",
            "APPEND",
            "EXPIRE",
            "NX",
            "COMMAND",
            "CLIENT",
            "MGET",
            "MSET",
            "KEYS",
            "*",
            "FLUSHALL",
            "INFO",
            "INCRBY",
            "DECRBY",
            "GETEX",
            "PXAT",
            "ID",
            "RESET",
        ]);
        prop_oneof![
            4 => prop::collection::vec(words, 1..6).prop_map(|args| {
                let mut out = Vec::new();
                write::request(&mut out, args);
                out
            }),
            1 => prop::collection::vec(any::<u8>(), 0..20),
            1 => "[*$][-0-9]{0,4}\r\n".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        /// No bytes make a session panic, however they are cut, and what it says is always RESP.
        #[test]
        fn any_bytes(pieces in prop::collection::vec(piece(), 0..20), size in 1..50usize) {
            let stream = pieces.concat();
            let whole = replies(&mut node(1 << 16), &[&stream], 5);
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            prop_assert_eq!(&whole, &replies(&mut node(1 << 16), &chunks, 5));
            let mut scanner = Scanner::default();
            let mut at = 0;
            while at < whole.len() {
                at += scanner.advance(&whole[at..]).expect("RESP").used;
            }
            prop_assert!(scanner.is_between(), "half a reply in {}", whole.escape_ascii());
        }
    }
}

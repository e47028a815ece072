//! Where requests go and as what, and the small pure pieces.

use super::*;
use crate::{
    metrics::Class,
    protocol::{
        Protocol,
        resp::frame::{FrameLimits, Step},
    },
    proxy::{
        clock::{Clock, woke},
        dialect::{Begun, Decoder, SharedDecoder},
        input::Input,
    },
};

const LIMITS: FrameLimits = FrameLimits { bulk_bytes: 1 << 29, request_bytes: 1 << 30, args_max: 1 << 20 };

/// What is kept of a request goes on where it stopped: split at any byte, the same request comes
/// out, and what follows it stays.
#[test]
fn input_is_kept_in_pieces() {
    let bytes = [words(&["SET", "k", "value"]), b"*1\r\n".to_vec()].concat();
    let whole = words(&["SET", "k", "value"]).len();
    for at in 1..whole {
        let mut input = Input::default();
        let shared = SharedDecoder::of(Protocol::Redis);
        let decode = |decoder: &mut Decoder, bytes: &[u8]| match decoder {
            Decoder::Resp(decoder) => decoder.decode(bytes, &LIMITS),
            _ => unreachable!("made for Redis"),
        };
        let (step, begun) = shared.lend(|decoder| decode(decoder, &bytes[..at]));
        assert!(matches!(step, Ok(Step::Partial(_))), "{at}");
        // Of a request's first bytes there may be nothing to know yet.
        input.keep(&bytes[..at], begun.unwrap_or_else(|| Decoder::of(Protocol::Redis)));
        let (next, begun) = shared.lend(|decoder| decode(decoder, &bytes[..whole]));
        assert_eq!(next, Ok(Step::Request(whole)), "the shared decoder is ready for the next session");
        assert!(begun.is_none());
        assert_eq!(input.len(), at);
        let mut waiting = input.take(&bytes[at..]).expect("it holds something");
        assert!(input.is_empty());
        assert_eq!((&waiting.bytes[..], waiting.done), (&bytes[..], 0));
        assert_eq!(decode(&mut waiting.decoder, &waiting.bytes), Ok(Step::Request(whole)), "{at}");
        waiting.done = whole;
        input.put_back(waiting);
        assert_eq!(input.len(), bytes.len() - whole);
    }
}

/// Reading pauses while a large request waits for its turn, goes on when it is looked at again,
/// and ends with the client.
#[test]
fn input_holds() {
    let mut input = Input::default();
    assert!(input.wants_more() && !input.is_streaming());
    assert!(!input.may_stream(1 << 20, 1 << 20) && input.may_stream((1 << 20) + 1, 32 << 10));
    assert!(!input.may_stream(1 << 30, (32 << 10) - 1), "little more than its length is there");
    assert!(matches!(input.begin(Begun::No, b"*3\r\n"), Ok(0)));
    assert!(input.wants_more());
    assert!(matches!(input.begin(Begun::Later, b"*3\r\n"), Ok(0)));
    assert!(!input.wants_more() && input.is_streaming());
    assert!(matches!(input.feed_bulk(b"x"), Ok(None)));
    drop(input.take(b""));
    assert!(!input.wants_more(), "nothing before it is answered yet");
    input.go_on();
    assert!(input.wants_more() && !input.is_streaming());
    input.wait_with(&[0; 1 << 20]);
    assert!(input.wants_more(), "some may wait");
    input.wait_with(&[0; (1 << 20) + 1]);
    assert!(!input.wants_more() && input.is_held());
    input.go_on();
    assert!(input.wants_more() && !input.is_held());
    input.end();
    assert!(!input.wants_more() && input.has_ended());
}

/// The clock stands still until it is read, and never goes back.
#[test]
fn the_clock() {
    let clock = Clock::new();
    assert_eq!(clock.now_us(), 0);
    let mut last = 0;
    for _ in 0..1000 {
        let now = clock.refresh();
        assert_eq!(clock.now_us(), now);
        assert!(now >= last);
        last = now;
    }
}

/// Batches share a reading of the clock as long as the thread does not sleep, but only a few of them.
#[test]
fn batches_share_a_reading() {
    let clock = Clock::new();
    let pass = || {
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_micros(10) {}
    };
    let read = clock.refresh();
    pass();
    clock.begin_batch();
    assert_eq!(clock.now_us(), read);
    woke();
    clock.begin_batch();
    assert!(clock.now_us() > read, "it slept");
    let read = clock.now_us();
    pass();
    (0..20).for_each(|_| clock.begin_batch());
    assert!(clock.now_us() > read, "they are many");
}

/// The account of buffered bytes follows its sessions, small changes aside, and says when the
/// limit is passed; what ends gives back all it had.
#[test]
fn the_account() {
    const KIB: usize = 1024;
    let memory = Memory::new(256 * KIB);
    let (mut one, mut two, mut three) = (0, 0, 0);
    assert!(memory.settle(&mut one, 10 * KIB), "too small to write down");
    assert_eq!(one, 0);
    assert!(memory.settle(&mut one, 200 * KIB));
    assert_eq!(one, 200 * KIB);
    assert!(memory.settle(&mut one, 190 * KIB), "a small change");
    assert_eq!(one, 200 * KIB);
    assert!(!memory.settle(&mut two, 100 * KIB), "over the limit together");
    assert!(memory.settle(&mut two, 0), "all is given back");
    assert!(memory.settle(&mut one, 100 * KIB));
    assert!(memory.settle(&mut two, 100 * KIB));
    assert!(memory.settle(&mut one, 0) && memory.settle(&mut two, 0));
    assert!(memory.settle(&mut three, 256 * KIB), "nothing is left of the others");
}

/// The parts of a split request carry the client's own bytes of its own keys, doubled keys too,
/// and a request whose keys one node owns goes untouched.
#[test]
fn frames_of_parts() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let [a1, a2] = world.keys(&["a"]);
        let b1 = world.key("b");
        let mut client = world.client().await;
        client.sends(&["mSet", &a1, "1", &b1, "2", &a2, "3", &a1, "4"]).await;
        client.sends(&["unlink", &b1, &a1, &b1]).await;
        client.sends(&["exists", &a1, &a2]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets(&["mSet", &a1, "1", &a2, "3", &a1, "4"]).await;
        to_b.gets(&["mSet", &b1, "2"]).await;
        to_b.gets(&["unlink", &b1, &b1]).await;
        to_a.gets(&["unlink", &a1]).await;
        to_a.gets(&["exists", &a1, &a2]).await;
        to_a.says("+OK\r\n:1\r\n:2\r\n").await;
        to_b.says("+OK\r\n:1\r\n").await;
        client.gets("+OK\r\n:2\r\n:2\r\n").await;
        client.ends().await;
        let block = &world.pool.blocks[0];
        let count = |class: Class| block.requests[class as usize].iter().map(|c| c.value()).sum::<u64>();
        assert_eq!((count(Class::Write), count(Class::Read)), (2, 1));
    });
}

/// Keys of several nodes in a command that can't be split: the refusal names the nodes and the
/// remedy, nothing is sent, and the session goes on.
#[test]
fn keys_that_cross() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        client.sends(&["rename", &of_a, &of_b]).await;
        client
            .gets(
                "-CROSSSLOT keys of rename live on nodes a and b; give them a common hash tag, as in {user1}:a {user1}:b\r\n",
            )
            .await;
        client.sends(&["nonsense"]).await;
        assert!(client.reply().await.starts_with("-ERR unknown command"));
        client.sends(&["PING"]).await;
        client.gets("+PONG\r\n").await;
        client.ends().await;
        assert_eq!(world.node("a").blocks[0].connects.value(), 0);
    });
}

/// A walk begins at the first live ordinal, passes to the next, and ends at 0; a cursor of a node
/// that left or is away is an error, never a silent gap.
#[test]
fn scan_ordinals() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        // The first ordinal is of a node that is gone.
        world.publish(|next| next.ordinals = ["gone", "a", "b"].map(Arc::from).into());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        client.sends(&["SCAN", "0", "COUNT", "5"]).await;
        let mut to_a = a.accepts().await;
        to_a.gets(&["SCAN", "0", "COUNT", "5"]).await;
        to_a.says(format!("*2\r\n$1\r\n7\r\n*2\r\n{0}{1}", text(&of_a), text(&of_b))).await;
        client.gets(format!("*2\r\n$4\r\n7169\r\n*1\r\n{}", text(&of_a))).await;
        client.sends(&["SCAN", "7169"]).await;
        to_a.gets(&["SCAN", "7"]).await;
        to_a.says("*2\r\n$1\r\n0\r\n*0\r\n").await;
        client.gets("*2\r\n$1\r\n2\r\n*0\r\n").await;
        client.sends(&["SCAN", "2"]).await;
        let mut to_b = b.accepts().await;
        to_b.gets(&["SCAN", "0"]).await;
        to_b.says("*2\r\n$1\r\n0\r\n*0\r\n").await;
        client.gets("*2\r\n$1\r\n0\r\n*0\r\n").await;
        client.sends(&["SCAN", "7168"]).await;
        client.gets("-ERR invalid cursor: node number 0 is not in the pool, start again with 0\r\n").await;
        client.sends(&["SCAN", "9"]).await;
        client.gets("-ERR invalid cursor: node number 9 is not in the pool, start again with 0\r\n").await;
        world.eject("b");
        client.sends(&["SCAN", "2"]).await;
        client.gets("-ERR invalid cursor: node b is away, start again with 0\r\n").await;
        client.ends().await;
    });
}

fn text(key: &str) -> String {
    String::from_utf8(bulk(key.as_bytes())).expect("text")
}

//! Requests that a node does not want: it says so before it has read them, and closes. That is the affair of
//! who asked.

use super::*;

/// What Redis says to an argument above `proto-max-bulk-len`.
const UNWANTED: &str = "-ERR Protocol error: invalid bulk length\r\n";

/// A script with an argument so large that a few of them fill what lies between ringway and a node.
fn script() -> Vec<u8> {
    frame(&[b"EVAL", b"return 1", b"1", b"k", &[b'x'; 900_000]])
}

/// The client whose request is written in part to a node that reads nothing, those that stand behind it on
/// the same connection, and the replies to all before it.
struct Jam {
    half: Client,
    behind: Vec<Client>,
    peer: Peer,
    replies: String,
}

async fn jam(world: &World, node: &ScriptedNode) -> Jam {
    let block = &world.node(node.name).blocks[0];
    let mut clients = Vec::new();
    for n in 1..=12 {
        let mut client = world.client().await;
        client.sends_raw(&script()).await;
        clients.push(client);
        until("it is in flight", || block.in_flight.value() == n).await;
    }
    let peer = node.accepts().await;
    until("some of it is written", || block.bytes_out.value() > 0).await;
    let whole = block.bytes_out.value() as usize / script().len();
    let behind = clients.split_off(whole + 1);
    let half = clients.pop().expect("all can't be written");
    // Those before it play no part.
    drop(clients);
    Jam { half, behind, peer, replies: ":1\r\n".repeat(whole) }
}

/// A node that has read the beginning of a request and refuses it there is not blamed: its words are the
/// reply, no other connection gets the request, and whoever waited behind it is served.
#[test]
fn what_a_node_refuses_half_read_is_its_reply() {
    play(async {
        let a = ScriptedNode::narrow("a").await;
        let world = World::new(&[&a], patient());
        let Jam { mut half, mut behind, mut peer, replies } = jam(&world, &a).await;
        peer.says(replies + UNWANTED).await;
        half.gets(UNWANTED).await;
        drop(peer);
        let mut again = a.accepts().await;
        again.gets_raw(&script()).await;
        again.says(":2\r\n").await;
        behind[0].gets(":2\r\n").await;
        assert!(world.is_innocent("a"));
        let block = &world.node("a").blocks[0];
        assert_eq!(block.requests[Class::Slow as usize][Outcome::Error as usize].value(), 1);
        assert_eq!(block.requests[Class::Slow as usize][Outcome::Lost as usize].value(), 0);
    });
}

/// The same for a value that is streamed: its client hears why, while it still sends.
#[test]
fn what_is_streamed_is_refused_in_the_nodes_words() {
    play(async {
        let a = ScriptedNode::narrow("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let value = vec![b'x'; 16 << 20];
        let request = frame(&[b"SET", b"k", &value]);
        let (_, mut peer) = tokio::join!(client.sends_raw(&request), async {
            let mut peer = a.accepts().await;
            peer.gets_raw(&request[..100]).await;
            peer.says(UNWANTED).await;
            peer
        });
        client.gets(UNWANTED).await;
        peer.0.shutdown().await.ok();
        drop(peer);
        assert!(world.is_innocent("a"));
        client.sends(&["PING"]).await;
        client.gets("+PONG\r\n").await;
        client.ends().await;
    });
}

/// A request in the middle of which each connection ends is given up, whatever the node says, and was not
/// applied.
#[test]
fn what_breaks_each_connection_is_given_up() {
    play(async {
        let a = ScriptedNode::narrow("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let request = frame(&[b"EVAL", b"return 1", b"1", b"k", &vec![b'x'; 16 << 20]]);
        client.sends_raw(&request).await;
        for _ in 0..3 {
            let mut peer = a.accepts().await;
            peer.gets_raw(&request[..1000]).await;
        }
        let told = client.reply().await;
        assert!(
            told.contains("connection lost in the middle of it, as before; it was not applied"),
            "{told}"
        );
        client.sends(&["GET", "k"]).await;
        let mut last = a.accepts().await;
        last.gets(&["GET", "k"]).await;
        last.says("$1\r\nv\r\n").await;
        client.gets("$1\r\nv\r\n").await;
        client.ends().await;
    });
}

/// The same words to a request that was written whole: the node closes, which is no evidence; what stood
/// behind it is lost, or repeated, as with any connection that is lost.
#[test]
fn a_node_that_closes_because_of_a_request_is_not_blamed() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let [mut one, mut two, mut three] =
            [world.client().await, world.client().await, world.client().await];
        one.sends(&["EVAL", "return 1", "1", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["EVAL", "return 1", "1", "k"]).await;
        two.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        three.sends(&["GET", "k"]).await;
        peer.gets(&["GET", "k"]).await;
        peer.says(UNWANTED).await;
        drop(peer);
        one.gets(UNWANTED).await;
        let told = two.reply().await;
        assert!(told.contains("connection lost; the command may have been applied"), "{told}");
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.says("$1\r\nw\r\n").await;
        three.gets("$1\r\nw\r\n").await;
        assert!(world.is_innocent("a"));
        // The next one that is lost is one of the usual kind.
        three.sends(&["GET", "k"]).await;
        again.gets(&["GET", "k"]).await;
        drop(again);
        let mut last = a.accepts().await;
        last.gets(&["GET", "k"]).await;
        last.says("$1\r\nw\r\n").await;
        three.gets("$1\r\nw\r\n").await;
        assert_eq!(world.failures("a", Failure::Lost), 1);
    });
}

/// A line that is no error says nothing to a request that is still being written: it is not the protocol.
#[test]
fn only_errors_come_early() {
    play(async {
        let a = ScriptedNode::narrow("a").await;
        let world = World::new(&[&a], patient());
        let Jam { mut peer, replies, .. } = jam(&world, &a).await;
        peer.says(replies + "+OK\r\n").await;
        let _again = a.accepts().await;
        assert_eq!(world.failures("a", Failure::Protocol), 1);
    });
}

/// A script above 1 MiB has a connection to itself: others are answered meanwhile, and nothing of its own
/// session overtakes it.
#[test]
fn a_large_script_has_its_own_connection() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut one, mut two) = (world.client().await, world.client().await);
        let request = frame(&[b"EVAL", b"return 1", b"1", b"k", &vec![b'x'; 2 << 20]]);
        one.sends(&["SET", "k", "1"]).await;
        let mut shared = a.accepts().await;
        shared.gets(&["SET", "k", "1"]).await;
        one.sends_raw(&request).await;
        one.sends(&["SET", "k", "2"]).await;
        two.sends(&["GET", "k"]).await;
        shared.gets(&["GET", "k"]).await;
        shared.says("+OK\r\n$1\r\n1\r\n").await;
        two.gets("$1\r\n1\r\n").await;
        one.gets("+OK\r\n").await;
        let mut own = a.accepts().await;
        own.gets_raw(&request).await;
        two.sends(&["GET", "k"]).await;
        shared.gets(&["GET", "k"]).await;
        own.says(UNWANTED).await;
        drop(own);
        one.gets(UNWANTED).await;
        shared.says("$1\r\n1\r\n").await;
        two.gets("$1\r\n1\r\n").await;
        shared.gets(&["SET", "k", "2"]).await;
        shared.says("+OK\r\n").await;
        one.gets("+OK\r\n").await;
        assert!(world.is_innocent("a"));
        one.ends().await;
        two.ends().await;
    });
}

/// What bounds the lives of keys that a large `MSET` writes follows it over the same connection.
#[test]
fn a_large_split_takes_its_bounds_with_it() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let b = ScriptedNode::new("b").await;
        let policy = Policy { ttl_max: Some(Duration::from_secs(1)), ..patient() };
        let world = World::new(&[&a, &b], policy);
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        let large = vec![b'x'; 2 << 20];
        client.sends_raw(&frame(&[b"MSET", of_a.as_bytes(), &large, of_b.as_bytes(), b"small"])).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets_raw(&frame(&[b"MSET", of_a.as_bytes(), &large])).await;
        to_b.gets(&["MSET", &of_b, "small"]).await;
        for (peer, key) in [(&mut to_a, &of_a), (&mut to_b, &of_b)] {
            peer.gets(&["PEXPIRE", key, "1000", "LT"]).await;
            peer.says("+OK\r\n:1\r\n").await;
        }
        client.gets("+OK\r\n").await;
        to_a.sees_the_end().await;
        client.sends(&["GET", &of_b]).await;
        to_b.gets(&["GET", &of_b]).await;
        to_b.says("$-1\r\n").await;
        client.gets("$-1\r\n").await;
    });
}

/// A node is not late while it takes a large request that was held whole, however long that is.
#[test]
fn a_large_request_takes_its_time() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let request_timeout = Duration::from_millis(200);
        let world = World::new(&[&a], Policy { request_timeout, ..patient() });
        let mut client = world.client().await;
        let request = frame(&[b"MSET", b"k", &vec![b'x'; 48 << 20]]);
        let began = tokio::time::Instant::now();
        let sent = request.clone();
        let all = async {
            let mut private = a.accepts().await;
            for piece in sent.chunks(2 << 20) {
                private.gets_raw(piece).await;
                tokio::time::sleep(request_timeout / 8).await;
            }
            private.says("+OK\r\n").await;
            private
        };
        let (_private, ()) = tokio::join!(all, client.sends_raw(&request));
        client.gets("+OK\r\n").await;
        assert!(began.elapsed() > 2 * request_timeout, "it was quick: {:?}", began.elapsed());
        assert_eq!(world.failures("a", Failure::Timeout), 0);
    });
}

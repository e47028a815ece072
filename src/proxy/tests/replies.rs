//! Replies: in the order of the requests, whole, whoever sends them in whatever pieces.

use super::*;

/// A reply that comes byte by byte reaches the client byte for byte.
#[test]
fn byte_by_byte() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        let node = world.node("a");
        let reply = b"$12\r\nhello\r\nworld\r\n";
        for (i, byte) in reply.iter().enumerate() {
            peer.says([*byte]).await;
            until("the byte is read", || node.blocks[0].bytes_in.value() > i as u64).await;
        }
        client.gets(reply).await;
        client.ends().await;
        assert_eq!(node.blocks[0].in_flight.value(), 0);
        assert!(world.is_innocent("a"));
    });
}

/// Reads that find nothing are counted at the node that said so, once each; values that are there, empty
/// ones, and writes are not.
#[test]
fn reads_that_find_nothing_are_counted() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let steps: [(&[&str], &str, u64); 8] = [
            (&["GET", "k"], "$-1\r\n", 1),
            (&["MGET", "k", "l"], "*2\r\n$-1\r\n$-1\r\n", 2),
            (&["MGET", "k", "l"], "*2\r\n$1\r\nv\r\n$-1\r\n", 2),
            (&["GET", "k"], "$0\r\n\r\n", 2),
            (&["LRANGE", "k", "0", "1"], "*0\r\n", 2),
            (&["GET", "k"], "-ERR no\r\n", 2),
            (&["SET", "k", "v", "NX"], "$-1\r\n", 2),
            (&["HGET", "k", "f"], "$-1\r\n", 3),
        ];
        client.sends(steps[0].0).await;
        let mut peer = a.accepts().await;
        for (i, (request, reply, misses)) in steps.iter().enumerate() {
            if i > 0 {
                client.sends(request).await;
            }
            peer.gets(request).await;
            peer.says(reply).await;
            client.gets(reply).await;
            assert_eq!(world.node("a").blocks[0].misses.value(), *misses, "{request:?}");
        }
        client.ends().await;
    });
}

/// A request that comes byte by byte is sent whole, once.
#[test]
fn a_request_byte_by_byte() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        for (i, byte) in words(&["SET", "k", "some\r\nvalue"]).iter().enumerate() {
            client.sends_raw(&[*byte]).await;
            until("the byte is read", || world.pool.blocks[0].bytes_in.value() > i as u64).await;
        }
        let mut peer = a.accepts().await;
        peer.gets(&["SET", "k", "some\r\nvalue"]).await;
        peer.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        client.ends().await;
    });
}

/// Replies of two nodes come in the order of the requests, whichever node is faster.
#[test]
fn order_over_two_nodes() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        for key in [&of_a, &of_b, &of_a, &of_b] {
            client.sends(&["GET", key]).await;
        }
        client.sends(&["PING", "last"]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_b.gets(&["GET", &of_b]).await;
        to_b.says("$2\r\nb1\r\n$2\r\nb2").await;
        until("b's are kept aside", || world.node("b").blocks[0].in_flight.value() == 1).await;
        to_a.gets(&["GET", &of_a]).await;
        to_a.says("$2\r\na1\r\n").await;
        client.gets("$2\r\na1\r\n$2\r\nb1\r\n").await;
        to_a.says("$2\r\na2\r\n").await;
        client.gets("$2\r\na2\r\n").await;
        to_b.says("\r\n").await;
        client.gets("$2\r\nb2\r\n$4\r\nlast\r\n").await;
        client.ends().await;
    });
}

/// Requests of several sessions share one connection, and each gets its own reply.
#[test]
fn sessions_share_a_connection() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.sends(&["GET", "1"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "1"]).await;
        two.sends(&["GET", "2"]).await;
        peer.gets(&["GET", "2"]).await;
        peer.says(":1\r\n:2\r\n").await;
        two.gets(":2\r\n").await;
        one.gets(":1\r\n").await;
        one.ends().await;
        two.ends().await;
        assert_eq!(world.node("a").blocks[0].connects.value(), 1);
    });
}

/// Bytes that are no reply: the reads are asked again on a new connection, a write is refused by
/// the node's name, the session stays, and it is one piece of evidence.
#[test]
fn garbage() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        two.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        peer.says("HTTP/1.1 400\r\n").await;
        let told = two.reply().await;
        assert!(told.starts_with(&format!("-ERR {}: sent something that is not a reply", a.describe())));
        assert!(told.contains("may have been applied"), "{told}");
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.says("$1\r\nv\r\n").await;
        one.gets("$1\r\nv\r\n").await;
        two.sends(&["GET", "k"]).await;
        again.gets(&["GET", "k"]).await;
        again.says("$1\r\nw\r\n").await;
        two.gets("$1\r\nw\r\n").await;
        assert_eq!(world.failures("a", Failure::Protocol), 1);
        assert_eq!(world.failures("a", Failure::Lost), 0);
        one.ends().await;
        two.ends().await;
    });
}

/// A node that answers more than it was asked loses its connection, and no session gets the rest;
/// what it owes is counted right.
#[test]
fn too_many_replies() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["SET", "k", "v"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["SET", "k", "v"]).await;
        peer.says("+OK\r\n+OK\r\n+OK\r\n").await;
        client.gets("+OK\r\n").await;
        peer.sees_the_end().await;
        assert_eq!(world.failures("a", Failure::Protocol), 1);
        client.sends(&["GET", "k"]).await;
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.says("$1\r\nv\r\n").await;
        client.gets("$1\r\nv\r\n").await;
        client.ends().await;
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
    });
}

/// Half a reply that the client has already can only end its session; nothing is put behind it.
#[test]
fn half_a_reply_at_the_head() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        let half = format!("$40000\r\n{}", "x".repeat(20_000));
        peer.says(&half).await;
        client.gets(&half).await;
        drop(peer);
        client.sees_the_end().await;
        until("the session is gone", || world.sessions() == 0).await;
        assert_eq!(world.failures("a", Failure::Lost), 1);
    });
}

/// Half of a small reply is not shown to the client: its read is asked again.
#[test]
fn half_a_small_reply() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        peer.says("$5\r\nhe").await;
        drop(peer);
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.says("$5\r\nhello\r\n").await;
        client.gets("$5\r\nhello\r\n").await;
    });
}

/// Half a reply that the client has not seen is forgotten, and the read asked again.
#[test]
fn half_a_reply_aside() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        client.sends(&["GET", &of_a]).await;
        client.sends(&["GET", &of_b]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_b.gets(&["GET", &of_b]).await;
        to_b.says("$5\r\nhe").await;
        until("half is aside", || world.node("b").blocks[0].bytes_in.value() == 6).await;
        drop(to_b);
        let mut again = b.accepts().await;
        again.gets(&["GET", &of_b]).await;
        again.says("$5\r\nhello\r\n").await;
        until("b's is aside", || world.node("b").blocks[0].in_flight.value() == 0).await;
        to_a.gets(&["GET", &of_a]).await;
        to_a.says("$-1\r\n").await;
        client.gets("$-1\r\n$5\r\nhello\r\n").await;
        assert_eq!(world.failures("b", Failure::Lost), 1);
        assert_eq!(world.node("b").blocks[0].retries.value(), 1);
        client.ends().await;
    });
}

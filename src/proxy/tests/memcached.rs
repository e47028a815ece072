//! memcached pools between scripted clients and scripted nodes.

use super::*;
use crate::{protocol::Protocol, topology::OnEjected};

fn memcached() -> Policy {
    Policy { protocol: Protocol::Memcached, ..patient() }
}

/// A node that refuses a value before it has read it all is not to blame: the client gets its
/// answer once the rest is written.
#[test]
fn an_early_refusal_of_a_streamed_value() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let mut client = world.client().await;
        let size = 32 << 20;
        let head = format!("set k 0 0 {size}\r\n");
        let request = [head.as_bytes(), &vec![b'x'; size], b"\r\n"].concat();
        let line = "SERVER_ERROR object too large for cache\r\n";
        let reads = async {
            let mut peer = node.accepts().await;
            peer.gets_raw(head.as_bytes()).await;
            // More than the sockets hold is on its way when the answer comes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            peer.says(line).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut left = size + 2;
            let mut chunk = vec![0; 1 << 20];
            while left > 0 {
                match soon("the rest of the value", peer.0.read(&mut chunk)).await {
                    Ok(n) if n > 0 => left -= n,
                    // Of a request that was answered the rest need not come.
                    _ => break,
                }
            }
        };
        tokio::join!(client.sends_raw(&request), reads);
        client.gets(line).await;
        assert!(world.is_innocent("a"));
    });
}

/// What is left of a refused value is its own session's: whatever else that session sends and however it
/// ends, the others of its worker are answered as if nothing had been.
#[test]
fn the_rest_of_a_refused_value_is_its_sessions_own() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let mut policy = memcached();
        policy.limits.bulk_bytes = 1000;
        let world = World::new(&[&node], policy);
        let mut other = world.client().await;
        let mut asks = async || {
            other.sends_raw(b"mn\r\nwrong\r\n").await;
            other.gets("MN\r\nERROR\r\n").await;
        };
        let refused = "SERVER_ERROR object too large for cache\r\n";
        let value = [&b"mn\r\n".repeat(500)[..], b"\r\n"].concat();
        let line = format!("set k 0 0 {}\r\n", value.len() - 2);
        // The line alone, in pieces, and with what stands behind the value in the same piece.
        for cuts in
            [&[line.len()][..], &[3, 7, line.len() + 1], &[line.len() + 900, line.len() + value.len() - 1]]
        {
            let stream = [line.as_bytes(), &value, b"mn\r\n"].concat();
            let mut client = world.client().await;
            let mut at = 0;
            for cut in cuts.iter().chain([&stream.len()]) {
                client.sends_raw(&stream[at..*cut]).await;
                at = *cut;
                asks().await;
            }
            client.gets([refused, "MN\r\n"].concat()).await;
        }
        let [mut closes, mut ends] = [world.client().await, world.client().await];
        for client in [&mut closes, &mut ends] {
            client.sends_raw(line.as_bytes()).await;
            client.gets(refused).await;
        }
        asks().await;
        drop(closes);
        ends.ends().await;
        until("the sessions are gone", || world.sessions() <= 1).await;
        asks().await;
        world.client().await.ends().await;
    });
}

/// Retrievals that find nothing are counted at the node that said so, in both protocols, also when their client
/// wants to hear nothing of it.
#[test]
fn retrievals_that_find_nothing_are_counted() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let mut client = world.client().await;
        client.sends_raw(b"get k\r\nmg k v\r\nmg k q v\r\nmg k v\r\nget k l\r\nmn\r\n").await;
        let mut peer = node.accepts().await;
        peer.gets_raw(b"get k\r\nmg k v\r\n").await;
        peer.says("END\r\nEN\r\nEN\r\nVA 1\r\nv\r\nVALUE l 0 1\r\nv\r\nEND\r\n").await;
        client.gets("END\r\nEN\r\nVA 1\r\nv\r\nVALUE l 0 1\r\nv\r\nEND\r\nMN\r\n").await;
        assert_eq!(world.node("a").blocks[0].misses.value(), 3);
    });
}

/// A `flush_all noreply` that a node does not answer in time is refused in silence: the next reply
/// is that of the next request.
#[test]
fn a_silent_flush_that_times_out() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let short = Duration::from_millis(50);
        let world = World::new(&[&node], Policy { deadline: short, slow_timeout: short, ..memcached() });
        let mut client = world.client().await;
        client.sends_raw(b"flush_all noreply\r\nmn\r\n").await;
        let mut peer = node.accepts().await;
        peer.gets_raw(b"flush_all\r\n").await;
        client.gets("MN\r\n").await;
        client.ends().await;
    });
}

/// A retrieval that is sent again to several owners, one of which is away, gives the values that are
/// there: with `miss` the others are misses, with `fail` an error stands behind them.
#[test]
fn a_retrieval_that_is_divided_when_a_node_is_away() {
    for (on_ejected, end) in [(OnEjected::Miss, "END\r\n"), (OnEjected::Fail, "SERVER_ERROR ")] {
        play(async move {
            let [a, b, c] =
                [ScriptedNode::new("a").await, ScriptedNode::new("b").await, ScriptedNode::new("c").await];
            let request_timeout = Duration::from_millis(50);
            let world = World::new(&[&a, &b, &c], Policy { request_timeout, ..memcached() });
            let ([at_a], [at_b]) = (world.keys(&["c", "a"]), world.keys(&["c", "b"]));
            let mut client = world.client().await;
            let request = format!("get {at_a} {at_b}\r\n");
            client.sends_raw(request.as_bytes()).await;
            let mut left = c.accepts().await;
            left.gets_raw(request.as_bytes()).await;
            world.publish(|next| {
                let mut nodes: Vec<_> = next.nodes.iter().filter(|e| &*e.node.name != "c").cloned().collect();
                (nodes[0].health, nodes[0].placement) = (Health::Ejected, Placement::Away);
                next.ring = topology(&[("a", a.address()), ("b", b.address())], memcached()).ring;
                next.nodes = nodes.into();
                next.policy = Arc::new(Policy { on_ejected, ..Policy::clone(&next.policy) });
            });
            let mut owner = b.accepts().await;
            owner.gets_raw(format!("get {at_b}\r\n").as_bytes()).await;
            let value = format!("VALUE {at_b} 0 1\r\nv\r\n");
            owner.says(format!("{value}END\r\n")).await;
            client.gets(format!("{value}{end}")).await;
        });
    }
}

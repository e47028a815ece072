//! Sessions: how they begin to speak another version, and how they end.

use super::*;

/// A client that closes with half a request: nothing is sent, and the session is gone.
#[test]
fn a_close_in_the_middle() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends_raw(b"*2\r\n$3\r\nGET\r\n$100\r\nabc").await;
        until("it is read", || world.pool.blocks[0].bytes_in.value() > 0).await;
        drop(client);
        until("the session is gone", || world.sessions() == 0).await;
        assert_eq!(world.node("a").blocks[0].connects.value(), 0);
    });
}

/// A client that sends no more still gets all replies, then the end.
#[test]
fn a_half_close() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        for key in ["k", "l"] {
            client.sends(&["GET", key]).await;
        }
        client.0.shutdown().await.expect("a client can end");
        let mut peer = a.accepts().await;
        for key in ["k", "l"] {
            peer.gets(&["GET", key]).await;
        }
        peer.says(":1\r\n").await;
        client.gets(":1\r\n").await;
        peer.says(":2\r\n").await;
        client.gets(":2\r\n").await;
        client.sees_the_end().await;
        until("the session is gone", || world.sessions() == 0).await;
    });
}

/// A client that sends no more while a key waits behind its fence: what came in whole is answered.
#[test]
fn a_half_close_behind_a_fence() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let of_a = world.key("a");
        world.place("a", fenced());
        let mut client = world.client().await;
        client.sends(&["GET", &of_a]).await;
        client.sends(&["GET", &of_a]).await;
        client.sends_raw(b"*2\r\n$3\r\nGET").await;
        client.0.shutdown().await.expect("a client can end");
        until("the end is read", || world.pool.blocks[0].bytes_in.value() > 50).await;
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        world.place("a", Placement::Owns);
        let mut peer = a.accepts().await;
        for reply in [":1\r\n", ":2\r\n"] {
            peer.gets(&["GET", &of_a]).await;
            peer.says(reply).await;
            client.gets(reply).await;
        }
        client.sees_the_end().await;
        until("the session is gone", || world.sessions() == 0).await;
    });
}

/// A client that closes while it is owed a reply: the reply is dropped, and the connection to the
/// node serves the next one.
#[test]
fn a_close_before_the_reply() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        drop(client);
        let mut next = world.client().await;
        next.sends(&["GET", "l"]).await;
        peer.gets(&["GET", "l"]).await;
        peer.says(":1\r\n:2\r\n").await;
        next.gets(":2\r\n").await;
        until("the session is gone", || world.sessions() == 1).await;
        next.ends().await;
        assert!(world.is_innocent("a"));
    });
}

/// HELLO 3 is answered when all before it is, and what follows it goes through a connection of the
/// new version.
#[test]
fn hello_drains_first() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        for args in [&["GET", "k"][..], &["HELLO", "3"], &["GET", "l"]] {
            client.sends(args).await;
        }
        let mut two = a.accepts().await;
        two.gets(&["GET", "k"]).await;
        two.says("$-1\r\n").await;
        client.gets("$-1\r\n").await;
        let hello = client.reply().await;
        assert!(hello.starts_with('%') && hello.contains("proto\r\n:3\r\n"), "{hello}");
        let mut three = a.accepts().await;
        three.gets(&["HELLO", "3"]).await;
        three.says("%1\r\n+proto\r\n:3\r\n").await;
        three.gets(&["GET", "l"]).await;
        three.says("_\r\n").await;
        client.gets("_\r\n").await;
        client.ends().await;
    });
}

/// A reload that changes the database: what is in flight is answered by the old connection, what
/// follows it waits for that and goes through a new one.
#[test]
fn another_database() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut old = a.accepts().await;
        old.gets(&["GET", "k"]).await;
        world.publish(|next| next.policy = Arc::new(Policy { db: 1, ..patient() }));
        client.sends(&["GET", "l"]).await;
        old.says(":1\r\n").await;
        client.gets(":1\r\n").await;
        let mut new = a.accepts().await;
        new.gets(&["SELECT", "1"]).await;
        new.says("+OK\r\n").await;
        new.gets(&["GET", "l"]).await;
        new.says(":2\r\n").await;
        client.gets(":2\r\n").await;
        old.sees_the_end().await;
        assert!(world.is_innocent("a"));
        client.ends().await;
    });
}

/// A reload reaches connections to nodes that are there already: how long one may take to be made, how often
/// a request is sent again, and how long the kernel keeps bytes that nobody acknowledges.
#[test]
fn a_reload_reaches_connections_that_exist() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let long = Duration::from_secs(60);
        let auth = Some(crate::topology::NodeAuth {
            user: None,
            password: crate::topology::Secret(b"secret".to_vec().into()),
        });
        let policy = Policy { auth, connect_timeout: long, retries: 0, ..patient() };
        let world = World::new(&[&a], policy.clone());
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["AUTH", "secret"]).await;
        peer.says("+OK\r\n").await;
        peer.gets(&["GET", "k"]).await;
        peer.says(":1\r\n").await;
        client.gets(":1\r\n").await;
        let reloaded = Policy { connect_timeout: Duration::from_millis(400), retries: 1, ..policy };
        world.publish(|next| next.policy = Arc::new(reloaded.clone()));
        drop(peer);
        until("the close is seen", || world.node("a").blocks[0].connections.value() == 0).await;
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        for is_last in [false, false, true] {
            peer.gets(&["AUTH", "secret"]).await;
            peer.says("+OK\r\n").await;
            peer.gets(&["GET", "k"]).await;
            if is_last {
                // Connections that broke before they said anything did not cost the only try.
                peer.says(":2\r\n").await;
            } else {
                drop(peer);
                peer = a.accepts().await;
            }
        }
        client.gets(":2\r\n").await;
        world.publish(|next| next.policy = Arc::new(Policy { deadline: long * 2, ..reloaded }));
        client.sends(&["GET", "k"]).await;
        let mut renewed = a.accepts().await;
        peer.sees_the_end().await;
        renewed.gets(&["AUTH", "secret"]).await;
        until("it took too long", || world.failures("a", Failure::ConnectTimeout) > 0).await;
    });
}

/// A server that gets another weight is another node to the ring, with connections of its own: a session's
/// commands reach it in their order all the same, those that were not yet written and those that come now.
#[test]
fn another_weight_keeps_the_order() {
    const COUNT: usize = 24;
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut client, mut other) = (world.client().await, world.client().await);
        let value = "x".repeat(900_000);
        let write = |at: usize| words(&["SET", &format!("k{at:02}"), &value]);
        for at in 0..COUNT {
            client.sends_raw(&write(at)).await;
        }
        let total: usize = (0..COUNT).map(|at| write(at).len()).sum();
        until("all is read", || world.pool.blocks[0].bytes_in.value() == total as u64).await;
        let mut old = a.accepts().await;
        world.publish(|next| {
            let mut nodes = next.nodes.to_vec();
            let node = &nodes[0].node;
            nodes[0].node = Arc::new(Node {
                id: NodeId(7),
                name: node.name.clone(),
                address: node.address.clone(),
                weight: 2,
                zone: None,
                evidence: Default::default(),
                blocks: Arc::new([NodeBlock::default()]),
                load: Arc::default(),
            });
            next.nodes = nodes.into();
        });
        client.sends(&["SET", "k00", "last"]).await;
        // Who waits for nothing is served by the new connection at once.
        other.sends(&["GET", "k"]).await;
        let mut new = a.accepts().await;
        new.gets(&["GET", "k"]).await;
        new.says("$-1\r\n").await;
        other.gets("$-1\r\n").await;
        let mut kept = 0;
        loop {
            let mut head = [0; 6];
            if soon("a request or the end", old.0.read_exact(&mut head)).await.is_err() {
                break;
            }
            old.gets_raw(&write(kept)[6..]).await;
            let mut early = [0];
            let read = timeout(Duration::from_millis(20), new.0.read(&mut early)).await;
            assert!(read.is_err(), "the new connection overtakes the old one");
            old.says("+OK\r\n").await;
            client.gets("+OK\r\n").await;
            kept += 1;
        }
        assert!(kept > 0 && kept < COUNT, "the sockets' buffers are too large or too small: {kept}");
        for at in kept..COUNT {
            new.gets_raw(&write(at)).await;
            new.says("+OK\r\n").await;
            client.gets("+OK\r\n").await;
        }
        new.gets(&["SET", "k00", "last"]).await;
        new.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        client.ends().await;
    });
}

/// A client that asks for nothing for `limits.idle_timeout` is disconnected, also one that was there when the
/// timeout was set; one that waits for a reply is not idle.
#[test]
fn idle_clients() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut idle, mut silent, mut waits) =
            (world.client().await, world.client().await, world.client().await);
        idle.sends(&["PING"]).await;
        idle.gets("+PONG\r\n").await;
        waits.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        let mut policy = patient();
        policy.limits.idle_timeout = Duration::from_millis(200);
        world.publish(|next| next.policy = Arc::new(policy));
        idle.sees_the_end().await;
        silent.sees_the_end().await;
        let mut late = world.client().await;
        late.sees_the_end().await;
        peer.says(":1\r\n").await;
        waits.gets(":1\r\n").await;
        waits.sees_the_end().await;
        until("the sessions are gone", || world.sessions() == 0).await;
    });
}

/// A drain serves what is in flight, ends idle sessions at once, and then the worker ends.
#[test]
fn a_drain() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut busy, mut idle) = (world.client().await, world.client().await);
        idle.sends(&["PING"]).await;
        idle.gets("+PONG\r\n").await;
        busy.sends(&["SET", "k", "v"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["SET", "k", "v"]).await;
        world.order(Order::Drain);
        idle.sees_the_end().await;
        assert!(!world.worker.is_finished());
        peer.says("+OK\r\n").await;
        busy.gets("+OK\r\n").await;
        busy.sees_the_end().await;
        soon("the worker ends", world.worker).await.expect("without a panic");
    });
}

/// A drain lets a large request that has begun arrive whole.
#[test]
fn a_drain_during_a_large_request() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let request = frame(&[b"SET", b"k", &vec![b'x'; 3 << 20]]);
        client.sends_raw(&request[..200_000]).await;
        let mut private = a.accepts().await;
        private.gets_raw(&request[..200_000]).await;
        world.order(Order::Drain);
        let rest = &request[200_000..];
        tokio::join!(client.sends_raw(rest), private.gets_raw(rest));
        private.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        client.sees_the_end().await;
        soon("the worker ends", world.worker).await.expect("without a panic");
    });
}

/// A client that sends more than it may while it reads nothing is closed with one reason.
#[test]
fn too_much_waits() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let mut policy = patient();
        policy.limits.session_bytes_max = 64 * 1024;
        policy.limits.pipeline_depth = 1;
        let world = World::new(&[&a], policy);
        let mut client = world.client().await;
        client.sends_raw(&words(&["GET", "k"]).repeat(20_000)).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        let refused = || world.pool.blocks[0].refusals[crate::metrics::Reason::SlowClient as usize].value();
        until("it is refused", || refused() > 0).await;
        peer.says(":1\r\n").await;
        client.gets(":1\r\n-ERR limits.session_bytes_max is used up by what this session has sent and not read\r\n").await;
        assert_eq!(refused(), 1);
        until("the session is gone", || world.sessions() == 0).await;
    });
}

/// A client that has sent half a request and sends no more does not keep a pool that is closed: it has as
/// long for the rest as one that reads slowly has.
#[test]
fn half_a_request_ends_with_its_pool() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let mut policy = patient();
        policy.limits.stall_timeout = Duration::from_millis(300);
        let world = World::new(&[&node], policy);
        let [mut half, mut late] = [world.client().await, world.client().await];
        let (part, more) = ("*2\r\n$4\r\nECHO\r\n", "*2\r\n$4\r\nECHO\r\n$2\r\nh");
        half.sends_raw(part.as_bytes()).await;
        late.sends_raw(more.as_bytes()).await;
        let read = || world.pool.blocks[0].bytes_in.value() as usize;
        until("both are there", || read() == part.len() + more.len()).await;
        world.order(Order::Close(1));
        late.sends_raw(b"i\r\n").await;
        late.gets("$2\r\nhi\r\n").await;
        late.sees_the_end().await;
        half.sees_the_end().await;
    });
}

/// Who follows a pool's topology learns of the pool's end, however many still read it.
#[test]
fn the_end_of_a_pool_is_told() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let (writer, reader) = channel(topology(&[(node.name, node.address())], patient()));
        let mut changes = reader.changes();
        drop(writer);
        assert!(changes.changed().await.is_err());
        assert_eq!(reader.load().revision, 1);
    });
}

//! Nodes that do not answer: timeouts, deadlines, and ejection.

use std::time::Instant;

use super::*;

fn hasty() -> Policy {
    Policy { request_timeout: Duration::from_millis(80), ..patient() }
}

/// A hung node: each request is overdue once, refused after the grace, its late reply reaches
/// nobody, and the connection goes on.
#[test]
fn overdue_once_and_late_replies_dropped() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], hasty());
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        two.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        let refusal = format!("-ERR {}: no reply within 80 ms", a.describe());
        one.gets(format!("{refusal}\r\n")).await;
        two.gets(format!("{refusal}{MAYBE}\r\n")).await;
        assert_eq!(world.failures("a", Failure::Timeout), 2);
        one.sends(&["GET", "l"]).await;
        peer.gets(&["GET", "l"]).await;
        peer.says("$4\r\nlate\r\n+OK\r\n:3\r\n").await;
        one.gets(":3\r\n").await;
        two.sends(&["GET", "m"]).await;
        peer.gets(&["GET", "m"]).await;
        peer.says(":4\r\n").await;
        two.gets(":4\r\n").await;
        assert_eq!(world.failures("a", Failure::Timeout), 2);
        assert_eq!(world.node("a").evidence.streak(), 0);
        assert_eq!(world.node("a").blocks[0].connects.value(), 1);
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
        one.ends().await;
        two.ends().await;
    });
}

/// An ejection while requests are in flight: reads go to the new owners and in their order, writes
/// are refused, and the old connection is reset so that nothing is applied later.
#[test]
fn an_ejection_moves_reads() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let [k, l] = world.keys(&["a", "b"]);
        let mut client = world.client().await;
        let sent = [vec!["GET", &k], vec!["SET", &k, "v"], vec!["GET", &l], vec!["GET", &k]];
        for args in &sent {
            client.sends(args).await;
        }
        let mut to_a = a.accepts().await;
        for args in &sent {
            to_a.gets(args).await;
        }
        world.eject("a");
        let mut to_b = b.accepts().await;
        for args in [["GET", &k], ["GET", &l], ["GET", &k]] {
            to_b.gets(&args).await;
        }
        client.sends(&["SET", &k, "w"]).await;
        to_b.gets(&["SET", &k, "w"]).await;
        to_b.says(":1\r\n:2\r\n:3\r\n+OK\r\n").await;
        client.gets(":1\r\n").await;
        let refusal = format!("-ERR {}: ejected; the command may have been applied\r\n", a.describe());
        client.gets(refusal).await;
        client.gets(":2\r\n:3\r\n+OK\r\n").await;
        let mut byte = [0];
        let end = soon("a reset", to_a.0.read(&mut byte)).await;
        assert_eq!(end.expect_err("not an ordinary close").kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
        assert_eq!(world.node("b").blocks[0].in_flight.value(), 0);
        client.ends().await;
    });
}

/// A part of a split request whose keys have several owners after an ejection becomes several, and
/// the values come in the client's order; so does a request that was not split before.
#[test]
fn an_ejection_divides_parts() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let c = ScriptedNode::new("c").await;
        let world = World::new(&[&a, &b, &c], patient());
        let [ab, ab2] = world.keys(&["a", "b"]);
        let [ac, ac2] = world.keys(&["a", "c"]);
        let own = world.key("b");
        let mut client = world.client().await;
        client.sends(&["MGET", &ab, &own, &ac]).await;
        client.sends(&["MGET", &ac2, &ab2]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets(&["MGET", &ab, &ac]).await;
        to_a.gets(&["MGET", &ac2, &ab2]).await;
        to_b.gets(&["MGET", &own]).await;
        world.eject("a");
        let mut to_c = c.accepts().await;
        to_b.gets(&["MGET", &ab]).await;
        to_b.gets(&["MGET", &ab2]).await;
        to_c.gets(&["MGET", &ac]).await;
        to_c.gets(&["MGET", &ac2]).await;
        to_b.says("*1\r\n$3\r\nown\r\n*1\r\n$2\r\nab\r\n*1\r\n$3\r\nab2\r\n").await;
        to_c.says("*1\r\n$2\r\nac\r\n*1\r\n$3\r\nac2\r\n").await;
        client.gets("*3\r\n$2\r\nab\r\n$3\r\nown\r\n$2\r\nac\r\n*2\r\n$3\r\nac2\r\n$3\r\nab2\r\n").await;
        client.ends().await;
    });
}

/// What waits for a connection that can't be made goes to the new owner, writes too: nothing of
/// them was sent.
#[test]
fn an_ejection_moves_unsent_writes() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let [k] = world.keys(&["a", "b"]);
        drop(a);
        let mut client = world.client().await;
        client.sends(&["SET", &k, "v"]).await;
        until("refused", || world.failures("a", Failure::Refused) > 0).await;
        world.eject("a");
        let mut to_b = b.accepts().await;
        to_b.gets(&["SET", &k, "v"]).await;
        to_b.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        client.ends().await;
    });
}

/// A node that never answers costs a client its deadline and no more, however long the timeout is;
/// the late reply reaches nobody.
#[test]
fn the_deadline_bounds_the_wait() {
    let deadline = Duration::from_millis(150);
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], Policy { deadline, ..patient() });
        let mut client = world.client().await;
        let began = Instant::now();
        client.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        client.gets("-ERR no reply within the deadline of 150 ms\r\n").await;
        let waited = began.elapsed();
        // Two ticks late by itself; the rest is for a busy machine.
        assert!(waited >= deadline && waited < deadline + Duration::from_millis(250), "{waited:?}");
        client.sends(&["GET", "l"]).await;
        peer.gets(&["GET", "l"]).await;
        peer.says(":1\r\n:2\r\n").await;
        client.gets(":2\r\n").await;
        assert!(world.is_innocent("a"));
        client.ends().await;
    });
}

/// A deadline is kept also when the session is being watched for something that is due much later.
#[test]
fn a_sooner_deadline_is_kept() {
    let deadline = Duration::from_millis(150);
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], Policy { deadline, ..patient() });
        let mut client = world.client().await;
        client.sends(&["EVAL", "return 1", "1", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["EVAL", "return 1", "1", "k"]).await;
        peer.says(":1\r\n").await;
        client.gets(":1\r\n").await;
        let began = Instant::now();
        client.sends(&["GET", "k"]).await;
        peer.gets(&["GET", "k"]).await;
        client.gets("-ERR no reply within the deadline of 150 ms\r\n").await;
        assert!(began.elapsed() < deadline + Duration::from_millis(250), "{:?}", began.elapsed());
        client.ends().await;
    });
}

/// A script that takes long is no evidence, and requests behind it wait for it.
#[test]
fn a_slow_script_is_no_evidence() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let slow = Duration::from_millis(200);
        let world = World::new(&[&a], Policy { slow_timeout: slow, ..hasty() });
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.sends(&["EVAL", "s", "1", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["EVAL", "s", "1", "k"]).await;
        two.sends(&["GET", "k"]).await;
        peer.gets(&["GET", "k"]).await;
        tokio::time::sleep(slow / 2).await;
        peer.says(":1\r\n:2\r\n").await;
        one.gets(":1\r\n").await;
        two.gets(":2\r\n").await;
        one.sends(&["EVAL", "s", "1", "k"]).await;
        peer.gets(&["EVAL", "s", "1", "k"]).await;
        one.gets(format!("-ERR {}: no reply within 200 ms{MAYBE}\r\n", a.describe())).await;
        assert!(world.is_innocent("a"));
        one.ends().await;
        two.ends().await;
    });
}

/// A node whose keys are fenced off may be cleaned only when what was sent before the fence is answered:
/// until then the worker does not report the revision. Requests for its keys wait, and go there once
/// it owns them.
#[test]
fn a_fence_waits_for_what_is_in_flight() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let [k] = world.keys(&["a"]);
        let mut client = world.client().await;
        world.eject("a");
        client.sends(&["SET", &k, "v"]).await;
        let mut to_b = b.accepts().await;
        to_b.gets(&["SET", &k, "v"]).await;
        world.place("a", fenced());
        let revision = world.writer.current().revision;
        let grace = || world.pool.graces[0].load(std::sync::atomic::Ordering::Acquire);
        let mut other = world.client().await;
        other.sends(&["GET", &k]).await;
        // Some ticks of the worker.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(grace() < revision, "a write is in flight");
        to_b.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        until("what was in flight is answered", || grace() >= revision).await;
        world.place("a", Placement::Owns);
        let mut to_a = a.accepts().await;
        to_a.gets(&["GET", &k]).await;
        to_a.says("$-1\r\n").await;
        other.gets("$-1\r\n").await;
    });
}

/// While a third node is away, its keys are those of the node that is back for now: a write of one of them is
/// waited for, too, or it would land where nobody cleans any more.
#[test]
fn a_fence_waits_for_keys_that_it_keeps_for_another() {
    play(async {
        let (a, b, c) =
            (ScriptedNode::new("a").await, ScriptedNode::new("b").await, ScriptedNode::new("c").await);
        let world = World::new(&[&a, &b, &c], patient());
        let [k] = world.keys(&["a", "b", "c"]);
        world.eject("a");
        world.eject("b");
        let mut client = world.client().await;
        client.sends(&["SET", &k, "v"]).await;
        let mut to_c = c.accepts().await;
        to_c.gets(&["SET", &k, "v"]).await;
        world.place("b", fenced());
        let revision = world.writer.current().revision;
        let grace = || world.pool.graces[0].load(std::sync::atomic::Ordering::Acquire);
        // Some ticks of the worker.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(grace() < revision, "a write is in flight");
        to_c.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        until("it is answered", || grace() >= revision).await;
    });
}

/// A node that is back is not kept out by what can write none of its keys: half a large request, a script
/// that takes its time, a read. A large request for one of its keys is waited for.
#[test]
fn a_fence_waits_for_its_own_keys_only() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let grace = || world.pool.graces[0].load(std::sync::atomic::Ordering::Acquire);
        let large = |key: &str| frame(&[b"SET", key.as_bytes(), &vec![b'x'; 2 << 20]]);
        world.eject("a");
        let (mut scripts, mut uploads) = (world.client().await, world.client().await);
        scripts.sends(&["EVAL", "s", "1", &of_b]).await;
        scripts.sends(&["GET", &of_a]).await;
        let mut shared = b.accepts().await;
        shared.gets(&["EVAL", "s", "1", &of_b]).await;
        uploads.sends_raw(&large(&of_b)[..100_000]).await;
        let mut private = b.accepts().await;
        private.gets_raw(&large(&of_b)[..100_000]).await;
        world.place("a", fenced());
        let revision = world.writer.current().revision;
        until("nothing of a's is in flight", || grace() >= revision).await;
        drop(uploads);
        private.sees_the_end().await;
        world.eject("a");
        let mut uploads = world.client().await;
        uploads.sends_raw(&large(&of_a)[..100_000]).await;
        let mut private = b.accepts().await;
        private.gets_raw(&large(&of_a)[..100_000]).await;
        world.place("a", fenced());
        let revision = world.writer.current().revision;
        // Some ticks of the worker.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(grace() < revision, "one of its keys is being written");
        let rest = &large(&of_a)[100_000..];
        tokio::join!(uploads.sends_raw(rest), private.gets_raw(rest));
        private.says("+OK\r\n").await;
        uploads.gets("+OK\r\n").await;
        until("it is answered", || grace() >= revision).await;
    });
}

/// A node that hangs and is drained: what was written there is refused in time, and what was not goes to the
/// new owner then, in its order.
#[test]
fn a_hung_node_that_is_drained() {
    const COUNT: usize = 24;
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let request_timeout = Duration::from_secs(1);
        let world = World::new(&[&a, &b], Policy { request_timeout, ..patient() });
        let key = world.key("a");
        let mut client = world.client().await;
        let write = |at: usize| words(&["SET", &key, &format!("{at:02}{}", "x".repeat(900_000))]);
        let total: usize = (0..COUNT).map(|at| write(at).len()).sum();
        for at in 0..COUNT {
            client.sends_raw(&write(at)).await;
        }
        until("all is read", || world.pool.blocks[0].bytes_in.value() == total as u64).await;
        let _mute = a.accepts().await;
        world.place("a", Placement::Away);
        let mut to_b = b.accepts().await;
        let mut head = vec![0; words(&["SET", &key, ""]).len() + 6];
        soon("a request", to_b.0.read_exact(&mut head)).await.expect("a request");
        let kept = (0..COUNT).find(|at| write(*at).starts_with(&head)).expect("one of them");
        assert!(kept > 0, "the sockets' buffers are too small");
        for at in kept..COUNT {
            to_b.gets_raw(&write(at)[if at == kept { head.len() } else { 0 }..]).await;
            to_b.says("+OK\r\n").await;
        }
        for _ in 0..kept {
            let told = client.reply().await;
            assert!(told.contains("no reply within 1000 ms"), "{told}");
        }
        client.gets("+OK\r\n".repeat(COUNT - kept)).await;
        client.ends().await;
    });
}

/// Requests that wait for a verdict on their node are told as parked, until they are answered or refused; and
/// so are those that wait for a connection.
#[test]
fn who_waits_is_told() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], Policy { request_timeout: Duration::from_millis(30), ..patient() });
        let parked = || world.pool.blocks[0].parked.value();
        let mut client = world.client().await;
        client.sends(&["GET", "k"]).await;
        client.sends(&["GET", "l"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        until("both wait for a verdict", || parked() == 2).await;
        peer.says(":1\r\n:2\r\n").await;
        client.reply().await;
        client.reply().await;
        until("nothing waits", || parked() == 0).await;
        client.ends().await;
    });
}

/// What waits for nodes counts as what clients hold: when `buffered_bytes` is used up by it more is refused
/// by name, and served again once the node has answered.
#[test]
fn what_waits_is_bounded() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::with_memory(&[&a], patient(), 480 << 10);
        let value = "v".repeat(100 << 10);
        let mut clients = Vec::new();
        let mut peer = None;
        for _ in 0..5 {
            let mut client = world.client().await;
            client.sends(&["SET", "k", &value]).await;
            let peer = match &mut peer {
                None => peer.insert(a.accepts().await),
                Some(peer) => peer,
            };
            peer.gets(&["SET", "k", &value]).await;
            clients.push(client);
        }
        until("it is counted", || world.memory.used().0 > 480 << 10).await;
        let mut late = world.client().await;
        late.sends(&["SET", "k", "v"]).await;
        let why = "buffered_bytes is used up by what waits for nodes and clients";
        late.gets(format!("-ERR {}: {why}\r\n", a.describe())).await;
        let mut peer = peer.expect("it was accepted");
        peer.says("+OK\r\n".repeat(5)).await;
        for client in &mut clients {
            client.gets("+OK\r\n").await;
        }
        until("nothing is held", || world.memory.used().0 == 0).await;
        late.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        peer.says("+OK\r\n").await;
        late.gets("+OK\r\n").await;
    });
}

/// Whoever only asked hears no more than that no reply came, also where it takes long or goes to all nodes;
/// whoever may have written hears that.
#[test]
fn what_only_reads_is_not_applied() {
    play(async {
        let short = Duration::from_millis(100);
        let cases: [(&[&str], bool); 7] = [
            (&["DBSIZE"], false),
            (&["SCRIPT", "EXISTS", "x"], false),
            (&["SCAN", "0"], false),
            (&["EVAL_RO", "return 1", "1", "k"], false),
            (&["EVAL", "return 1", "1", "k"], true),
            (&["FLUSHALL"], true),
            (&["SET", "k", "v"], true),
        ];
        for (request, may_write) in cases {
            let a = ScriptedNode::new("a").await;
            let world = World::new(&[&a], Policy { deadline: short, slow_timeout: short, ..patient() });
            let mut client = world.client().await;
            client.sends(request).await;
            let told = client.reply().await;
            assert!(told.starts_with("-ERR no reply within the deadline"), "{told}");
            assert_eq!(told.contains(MAYBE), may_write, "{request:?}: {told}");
        }
    });
}

/// Of a large request for all nodes there is a copy for each: it is refused by name where it has no reason to
/// be large, and before any is made where they have no room together. What is large and for one node, or
/// divided among them, is held once.
#[test]
fn copies_for_all_nodes_are_bounded() {
    play(async {
        const MIB: usize = 1 << 20;
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::with_memory(&[&a, &b], patient(), 8 * MIB);
        let mut client = world.client().await;
        let most =
            |name: &str| format!("-ERR {name} goes to all nodes, so it takes at most 1048576 bytes here\r\n");
        let long = "x".repeat(2 * MIB);
        client.sends(&["KEYS", &long]).await;
        client.gets(most("keys")).await;
        client.sends(&["SCRIPT", "EXISTS", &long]).await;
        client.gets(most("script|exists")).await;
        let used_up = "-ERR buffered_bytes is used up by what waits for nodes and clients\r\n";
        for load in [["SCRIPT", "LOAD"], ["FUNCTION", "LOAD"], ["FUNCTION", "RESTORE"]] {
            client.sends(&[load[0], load[1], &long]).await;
            client.gets(used_up).await;
        }
        client.sends(&["ECHO", &"x".repeat(3 * MIB)]).await;
        client.gets(used_up).await;
        until("nothing is held", || world.memory.used().0 == 0).await;
        assert_eq!(world.node("a").blocks[0].connects.value(), 0, "nobody was asked");
        // One megabyte for each, and the two that they are made from.
        let script = "x".repeat(MIB);
        client.sends(&["SCRIPT", "LOAD", &script]).await;
        let mut peers = [a.accepts().await, b.accepts().await];
        for peer in &mut peers {
            peer.gets(&["SCRIPT", "LOAD", &script]).await;
            peer.says("-ERR no\r\n").await;
        }
        client.gets("-ERR no\r\n").await;
        let (long, key) = ("x".repeat(6 * MIB), world.key("a"));
        client.sends(&["EVAL", &long, "1", &key]).await;
        let mut own = a.accepts().await;
        own.gets(&["EVAL", &long, "1", &key]).await;
        own.says(":1\r\n").await;
        client.gets(":1\r\n").await;
        client.ends().await;
    });
}

/// A connection whose requests were refused as its node hangs takes little more: that would wait for nothing,
/// and be memory that others want.
#[test]
fn who_hangs_takes_little_more() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], hasty());
        let value = "v".repeat(100 << 10);
        let mut clients = [world.client().await, world.client().await, world.client().await];
        let mut peer = None;
        for client in &mut clients {
            client.sends(&["SET", "k", &value]).await;
            let peer = match &mut peer {
                None => peer.insert(a.accepts().await),
                Some(peer) => peer,
            };
            peer.gets(&["SET", "k", &value]).await;
        }
        for client in &mut clients {
            client.gets(format!("-ERR {}: no reply within 80 ms{MAYBE}\r\n", a.describe())).await;
        }
        let mut late = world.client().await;
        late.sends(&["GET", "k"]).await;
        late.gets(format!("-ERR {}: too many requests wait for it\r\n", a.describe())).await;
    });
}

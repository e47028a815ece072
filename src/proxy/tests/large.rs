//! Large requests and replies: passed on in pieces, on connections of their own, and bounded.

use super::*;
use crate::{
    metrics::{Class, Outcome, Reason},
    topology::OnReturn,
};

const MIB: usize = 1 << 20;

/// A large SET goes through a connection of its own byte for byte, and what follows it waits for
/// its reply.
#[test]
fn a_large_request() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let value: Vec<u8> = (0..3 * MIB).map(|i| (i % 251) as u8).collect();
        let request = frame(&[b"SET", b"k", &value]);
        client.sends(&["GET", "before"]).await;
        let mut shared = a.accepts().await;
        shared.gets(&["GET", "before"]).await;
        let rest = [&request[100_000..], &words(&["GET", "after"])].concat();
        client.sends_raw(&request[..100_000]).await;
        shared.says("$-1\r\n").await;
        client.gets("$-1\r\n").await;
        let mut private = a.accepts().await;
        tokio::join!(client.sends_raw(&rest), private.gets_raw(&request));
        private.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        private.sees_the_end().await;
        shared.gets(&["GET", "after"]).await;
        shared.says("$1\r\nx\r\n").await;
        client.gets("$1\r\nx\r\n").await;
        client.ends().await;
        assert!(world.is_innocent("a"));
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
    });
}

/// A client that pauses in the middle of a large request is not the node's failure, and its
/// request goes on.
#[test]
fn a_client_that_pauses() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let timeout = Duration::from_millis(50);
        let world = World::new(&[&a], Policy { request_timeout: timeout, ..patient() });
        let mut client = world.client().await;
        let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
        client.sends_raw(&request[..100_000]).await;
        let mut private = a.accepts().await;
        private.gets_raw(&request[..100_000]).await;
        tokio::time::sleep(timeout * 6).await;
        tokio::join!(client.sends_raw(&request[100_000..]), private.gets_raw(&request[100_000..]));
        private.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        assert!(world.is_innocent("a"));
        // Once it is whole, the node is timed.
        client.sends_raw(&request).await;
        let _mute = a.accepts().await;
        client.gets(format!("-ERR {}: no reply within 50 ms{MAYBE}\r\n", a.describe())).await;
        client.ends().await;
    });
}

/// A client that stops in the middle of a large request is told so and disconnected, and the connection to
/// the node is reset, which is held against nobody. One that goes on by and by is not.
#[test]
fn a_client_that_stops() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let mut policy = patient();
        policy.limits.stall_timeout = Duration::from_millis(500);
        let world = World::new(&[&a], policy);
        let (mut steady, mut client) = (world.client().await, world.client().await);
        let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
        client.sends_raw(&request[..100_000]).await;
        let mut private = a.accepts().await;
        private.gets_raw(&request[..100_000]).await;
        // A crumb now and then is not enough.
        for at in 0..4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.sends_raw(&request[100_000 + at..][..1]).await;
        }
        private.gets_raw(&request[100_000..100_004]).await;
        client
            .gets(
                "-ERR less than 32768 bytes of a large request came within 500 ms (limits.stall_timeout); it was \
                 not applied\r\n",
            )
            .await;
        client.sees_the_end().await;
        private.sees_the_end().await;
        assert_eq!(world.pool.blocks[0].refusals[crate::metrics::Reason::SlowClient as usize].value(), 1);
        let parts: Vec<&[u8]> = request.chunks(request.len() / 12 + 1).collect();
        steady.sends_raw(parts[0]).await;
        let mut private = a.accepts().await;
        private.gets_raw(parts[0]).await;
        for part in &parts[1..] {
            tokio::time::sleep(Duration::from_millis(60)).await;
            tokio::join!(steady.sends_raw(part), private.gets_raw(part));
        }
        private.says("+OK\r\n").await;
        steady.gets("+OK\r\n").await;
        steady.ends().await;
        assert!(world.is_innocent("a"));
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
    });
}

/// Large requests that were announced and not sent cost their node no connection; of those that are sent so
/// many have one at once, and the others wait for their turn, each in the order in which it came.
#[test]
fn large_requests_that_are_announced() {
    const MOST: usize = 32;
    const MORE: usize = 6;
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let block = |at: &Node| (at.blocks[0].connects.value(), at.blocks[0].in_flight.value());
        let request = |at: usize| frame(&[b"SET", format!("k{at:02}").as_bytes(), &vec![b'x'; 2 * MIB]]);
        let mut clients = Vec::new();
        let mut read = 0;
        for at in 0..MOST + MORE {
            let mut client = world.client().await;
            client.sends_raw(&request(at)[..1000]).await;
            read += 1000;
            until("it is read", || world.pool.blocks[0].bytes_in.value() == read).await;
            clients.push(client);
        }
        assert_eq!(block(&world.node("a")), (0, 0), "nothing but their length is known");
        let mut peers = Vec::new();
        for (at, client) in clients.iter_mut().enumerate() {
            client.sends_raw(&request(at)[1000..50_000]).await;
            read += 49_000;
            until("it is read", || world.pool.blocks[0].bytes_in.value() == read).await;
            if at < MOST {
                let mut peer = a.accepts().await;
                peer.gets_raw(&request(at)[..50_000]).await;
                peers.push(peer);
            }
        }
        assert_eq!(block(&world.node("a")).0, MOST as u64);
        // Small requests do not wait.
        let mut other = world.client().await;
        other.sends(&["GET", "k"]).await;
        let mut shared = a.accepts().await;
        shared.gets(&["GET", "k"]).await;
        shared.says("$-1\r\n").await;
        other.gets("$-1\r\n").await;
        for (at, mut client) in clients.into_iter().enumerate() {
            let (mut peer, all) = (peers.remove(0), request(at));
            tokio::join!(client.sends_raw(&all[50_000..]), peer.gets_raw(&all[50_000..]));
            peer.says("+OK\r\n").await;
            client.gets("+OK\r\n").await;
            client.ends().await;
            let next = at + MOST;
            if next < MOST + MORE {
                let mut peer = a.accepts().await;
                peer.gets_raw(&request(next)[..50_000]).await;
                peers.push(peer);
            }
        }
        assert!(world.is_innocent("a"));
        until("nothing is in flight", || world.node("a").blocks[0].in_flight.value() == 0).await;
    });
}

/// Whose turn to send a large request does not come within the deadline is refused; what comes of the request
/// is passed over, and the session goes on.
#[test]
fn a_turn_that_does_not_come() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], Policy { deadline: Duration::from_secs(1), ..patient() });
        let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
        let mut others = Vec::new();
        for _ in 0..32 {
            let mut client = world.client().await;
            client.sends_raw(&request[..50_000]).await;
            others.push((client, a.accepts().await));
        }
        let mut client = world.client().await;
        client.sends_raw(&request[..50_000]).await;
        let refusal = format!("-ERR {}: too many large requests are on their way to it\r\n", a.describe());
        client.gets(&refusal).await;
        client.sends_raw(&request[50_000..]).await;
        client.sends(&["PING"]).await;
        client.gets("+PONG\r\n").await;
        // The next one has a deadline of its own, within which a place comes free.
        client.sends_raw(&request[..50_000]).await;
        let (mut first, mut peer) = others.remove(0);
        tokio::join!(first.sends_raw(&request[50_000..]), peer.gets_raw(&request));
        peer.says("+OK\r\n").await;
        first.gets("+OK\r\n").await;
        let mut private = a.accepts().await;
        tokio::join!(client.sends_raw(&request[50_000..]), private.gets_raw(&request));
        private.says("+OK\r\n").await;
        client.gets("+OK\r\n").await;
        client.ends().await;
        let refused = &world.pool.blocks[0].refusals[Reason::Overload as usize];
        assert_eq!(refused.value(), 1);
        assert!(world.is_innocent("a"));
    });
}

/// A client that leaves in the middle of a large request: the node's connection is reset, so that
/// nothing is applied, and nothing is held against the node.
#[test]
fn a_client_that_leaves() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let timeout = Duration::from_millis(50);
        let world = World::new(&[&a], Policy { request_timeout: timeout, ..patient() });
        let mut client = world.client().await;
        let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
        client.sends_raw(&request[..100_000]).await;
        let mut private = a.accepts().await;
        private.gets_raw(&request[..100_000]).await;
        drop(client);
        private.sees_the_end().await;
        until("the session is gone", || world.sessions() == 0).await;
        assert!(world.is_innocent("a"));
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
    });
}

/// A large request that turns out to be none: where it ends nobody knows, so its connection is reset,
/// and no command that stands behind it gets to the node unread.
#[test]
fn a_large_request_that_is_none() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let head = format!("*5\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n", 2 * MIB);
        client.sends_raw(head.as_bytes()).await;
        client.sends_raw(&vec![b'x'; MIB]).await;
        let mut private = a.accepts().await;
        let node = spawn_local(async move {
            let mut got = Vec::new();
            let _ = private.0.read_to_end(&mut got).await;
            got
        });
        client.sends_raw(&vec![b'x'; MIB]).await;
        client.sends_raw(b"\r\n$2\rXEX\r\n$2\r\n10\r\n*1\r\n$8\r\nFLUSHALL\r\n").await;
        client.gets("-ERR Protocol error: invalid bulk length\r\n").await;
        client.sees_the_end().await;
        let got = soon("the node's connection ends", node).await.expect("the node lives");
        assert!(!got.windows(8).any(|w| w == b"FLUSHALL"), "what follows was passed on");
        assert!(world.is_innocent("a"));
    });
}

/// A node that is drained, or leaves the pool, in the middle of a large request takes the rest of it, and its
/// answer arrives. What comes next goes where the topology points.
#[test]
fn a_large_request_to_a_node_that_leaves() {
    for is_drained in [true, false] {
        play(async {
            let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
            let world = World::new(&[&a, &b], patient());
            let key = world.key("a");
            let mut client = world.client().await;
            let request = frame(&[b"SET", key.as_bytes(), &vec![b'x'; 3 * MIB]]);
            client.sends_raw(&request[..100_000]).await;
            let mut private = a.accepts().await;
            private.gets_raw(&request[..100_000]).await;
            if is_drained {
                world.place("a", Placement::Away);
            } else {
                let only_b = topology(&[("b", b.address())], patient());
                world.publish(|next| {
                    let b = next.nodes[1].clone();
                    (next.ring, next.nodes) = (only_b.ring, [b].into());
                });
            }
            // It goes by the new topology already.
            let mut other = world.client().await;
            other.sends(&["GET", &key]).await;
            let mut to_b = b.accepts().await;
            to_b.gets(&["GET", &key]).await;
            to_b.says("$-1\r\n").await;
            other.gets("$-1\r\n").await;
            tokio::join!(client.sends_raw(&request[100_000..]), private.gets_raw(&request[100_000..]));
            private.says("+OK\r\n").await;
            client.gets("+OK\r\n").await;
            private.sees_the_end().await;
            client.sends(&["GET", &key]).await;
            to_b.gets(&["GET", &key]).await;
            to_b.says("$-1\r\n").await;
            client.gets("$-1\r\n").await;
            client.ends().await;
            assert!(world.is_innocent("b"));
        });
    }
}

/// A client whose large request waits for a node that takes nothing is noticed when it leaves, also
/// after the node was ejected.
#[test]
fn a_large_request_to_a_node_that_is_ejected() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let request_timeout = Duration::from_millis(50);
        let world = World::new(&[&a], Policy { request_timeout, ..patient() });
        let mut client = world.client().await;
        let request = frame(&[b"SET", b"k", &vec![b'x'; 64 * MIB]]);
        let all = timeout(Duration::from_millis(500), client.0.write_all(&request)).await;
        assert!(all.is_err(), "the node takes nothing, so nor does ringway");
        until("the refusal is written", || world.pool.blocks[0].bytes_out.value() > 0).await;
        world.eject("a");
        drop(client);
        until("the session is gone", || world.sessions() == 0).await;
    });
}

/// A node that dies in the middle of a large request: one refusal, the rest of the request is
/// swallowed, and the session goes on.
#[test]
fn a_node_that_dies() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
        client.sends_raw(&request[..100_000]).await;
        let mut private = a.accepts().await;
        private.gets_raw(&request[..50_000]).await;
        drop(private);
        client.sends_raw(&request[100_000..]).await;
        client.sends(&["PING"]).await;
        // Without its end the node can't have applied it.
        client.gets(format!("-ERR {}: connection lost\r\n", a.describe())).await;
        client.gets("+PONG\r\n").await;
        client.ends().await;
        // Whether it is a reset depends on what had come when it closed.
        assert_eq!(world.failures("a", Failure::Lost) + world.failures("a", Failure::Reset), 1);
    });
}

/// A large write whose end its client has not sent is in doubt nowhere, however its connection ends, and its
/// client is told so; one that is sent whole is noted by its key.
#[test]
fn large_writes_in_doubt() {
    play(async {
        for (is_whole, is_evicted) in [(false, false), (false, true), (true, false), (true, true)] {
            let a = ScriptedNode::new("a").await;
            let exact = Policy { on_return: OnReturn::Quarantine, sole_writer: true, ..patient() };
            let world = World::new(&[&a], exact);
            let mut client = world.client().await;
            let request = frame(&[b"SET", b"k", &vec![b'x'; 2 * MIB]]);
            let sent = if is_whole { &request[..] } else { &request[..100_000] };
            client.sends_raw(&sent[..50_000]).await;
            let mut private = a.accepts().await;
            tokio::join!(client.sends_raw(&sent[50_000..]), private.gets_raw(sent));
            if is_evicted {
                world.eject("a");
            } else {
                drop(private);
            }
            let told = client.reply().await;
            assert_eq!(told.contains("may have been applied"), is_whole, "evicted {is_evicted}: {told}");
            let noted = if is_whole { vec!["k".to_owned()] } else { Vec::new() };
            assert_eq!((world.noted(), world.noted.borrow().missed()), (noted, 0), "evicted {is_evicted}");
            assert_eq!(
                world.node("a").blocks[0].requests[Class::Write as usize][Outcome::Lost as usize].value(),
                1
            );
        }
    });
}

/// A large request of which the beginning is sent and forgotten is never sent on: a new connection
/// would take the rest of a value for commands.
#[test]
fn the_rest_of_a_request_is_no_request() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        // A unix socket, since it holds a fixed amount.
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node.sock");
        let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
        world.publish(|next| {
            let mut nodes = next.nodes.to_vec();
            nodes[0].targets = Arc::new([Target::Unix(path)]);
            next.nodes = nodes.into();
        });
        let mut client = world.client().await;
        let command = words(&["FLUSHALL"]);
        let request = frame(&[b"SET", b"k", &command.repeat(4 * MIB / command.len())]);
        let sent = request.clone();
        let sending = spawn_local(async move {
            client.sends_raw(&sent).await;
            client
        });
        let (mut private, _) = soon("a connection", listener.accept()).await.expect("a connection");
        let taken = || world.pool.blocks[0].bytes_in.value() as usize;
        let mut some = vec![0; 8 * 1024];
        while taken() < request.len() {
            soon("bytes of the request", private.read(&mut some)).await.expect("bytes of the request");
            tokio::task::yield_now().await;
        }
        assert!(world.node("a").blocks[0].bytes_out.value() < request.len() as u64, "its end is still here");
        drop(private);
        let mut client = sending.await.expect("all is sent");
        let told = client.reply().await;
        assert!(told.contains("connection lost"), "{told}");
        client.sends(&["GET", "k"]).await;
        let (mut next, _) = soon("a connection", listener.accept()).await.expect("a connection");
        let mut got = vec![0; words(&["GET", "k"]).len()];
        soon("a request", next.read_exact(&mut got)).await.expect("a request");
        assert_eq!(got.escape_ascii().to_string(), words(&["GET", "k"]).escape_ascii().to_string());
        next.write_all(b"$-1\r\n").await.expect("a node can write");
        client.gets("$-1\r\n").await;
        client.ends().await;
    });
}

/// A large reply that its client does not read holds up nobody else: others go on through a fresh
/// connection. It arrives whole once it is read.
#[test]
fn a_large_reply_to_a_slow_client() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut slow, mut quick) = (world.client().await, world.client().await);
        let reply = bulk(&vec![b'x'; 40 * MIB]);
        slow.sends(&["GET", "large"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "large"]).await;
        let said = reply.clone();
        let saying = spawn_local(async move {
            peer.says(said).await;
            peer
        });
        let node = world.node("a");
        until("it is more than the client's share", || node.blocks[0].bytes_in.value() > 2 * MIB as u64)
            .await;
        let stuck = async {
            let mut seen = 0;
            loop {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let now = node.blocks[0].bytes_in.value();
                if now == seen {
                    return;
                }
                seen = now;
            }
        };
        soon("the reply waits for its client", stuck).await;
        quick.sends(&["GET", "k"]).await;
        let mut fresh = a.accepts().await;
        fresh.gets(&["GET", "k"]).await;
        fresh.says(":1\r\n").await;
        quick.gets(":1\r\n").await;
        // What the slow one asks now comes after its large reply.
        slow.sends(&["GET", "next"]).await;
        slow.gets(&reply).await;
        fresh.gets(&["GET", "next"]).await;
        fresh.says(":2\r\n").await;
        slow.gets(":2\r\n").await;
        drop(saying);
        slow.ends().await;
        quick.ends().await;
        assert!(world.is_innocent("a"));
    });
}

/// A split MGET whose parts are larger than what a client may leave unread is merged all the same.
#[test]
fn a_large_merge() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        let value = bulk(&vec![b'x'; 3 * MIB]);
        let part = [b"*1\r\n", value.as_slice()].concat();
        client.sends(&["MGET", &of_a, &of_b]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets(&["MGET", &of_a]).await;
        to_b.gets(&["MGET", &of_b]).await;
        let whole = [b"*2\r\n", value.as_slice(), value.as_slice()].concat();
        tokio::join!(to_a.says(&part), to_b.says(&part), client.gets(&whole));
        client.ends().await;
    });
}

/// A merge that would hold more than a session may is refused, and the session goes on.
#[test]
fn a_merge_that_is_too_large() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let mut policy = patient();
        policy.limits.session_bytes_max = 4 * MIB;
        let world = World::new(&[&a, &b], policy);
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        client.sends(&["MGET", &of_a, &of_b]).await;
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets(&["MGET", &of_a]).await;
        to_b.gets(&["MGET", &of_b]).await;
        let part = [b"*1\r\n".to_vec(), bulk(&vec![b'x'; 6 * MIB])].concat();
        to_a.says(&part).await;
        client.gets("-ERR the reply is larger than limits.session_bytes_max, 4194304 bytes\r\n").await;
        to_b.says("*1\r\n$-1\r\n").await;
        client.sends(&["PING"]).await;
        client.gets("+PONG\r\n").await;
        client.ends().await;
    });
}

/// Two nodes of which one answers much earlier than the other: more than a session may hold waits
/// at the nodes, and all of it arrives in order.
#[test]
fn one_node_far_ahead_of_the_other() {
    const SMALL: usize = 100;
    const COUNT: usize = 120;
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let mut policy = patient();
        policy.limits.session_bytes_max = 4 * MIB;
        let world = World::new(&[&a, &b], policy);
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let mut client = world.client().await;
        let value = bulk(&vec![b'x'; 64 * 1024]);
        let answers = |node: ScriptedNode, key: &str, small: usize| {
            let (request, value) = (words(&["GET", key]), value.clone());
            let left = Rc::new(Cell::new(small));
            spawn_local(async move {
                // A connection whose client is behind is given up for a fresh one.
                while let Ok((mut stream, _)) = node.listener.accept().await {
                    let (mut got, value, left) = (request.clone(), value.clone(), left.clone());
                    spawn_local(async move {
                        while stream.read_exact(&mut got).await.is_ok() {
                            let small = left.replace(left.get().saturating_sub(1)) > 0;
                            let reply = if small { b":1\r\n" } else { value.as_slice() };
                            stream.write_all(reply).await.expect("a node can write");
                        }
                    });
                }
            })
        };
        let node = world.node("b");
        answers(b, &of_b, SMALL);
        // Small replies first, so that many requests are sent at once.
        client.sends_raw(&words(&["GET", &of_b]).repeat(SMALL)).await;
        client.gets(":1\r\n".repeat(SMALL)).await;
        client.sends_raw(&[words(&["GET", &of_a]), words(&["GET", &of_b])].concat().repeat(COUNT)).await;
        until("b is ahead", || node.blocks[0].bytes_in.value() > 2 * MIB as u64).await;
        answers(a, &of_a, 0);
        client.gets(&value.repeat(2 * COUNT)).await;
        client.ends().await;
        assert!(world.is_innocent("a") && world.is_innocent("b"));
    });
}

/// A large request that can't be passed on in pieces is taken whole; a client that leaves in the
/// middle of it leaves nothing behind.
#[test]
fn half_a_large_request_that_must_be_whole() {
    play(async {
        let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
        let world = World::new(&[&a, &b], patient());
        let (of_a, of_b) = (world.key("a"), world.key("b"));
        let value = vec![b'x'; 2 * MIB];
        let request = frame(&[b"MSET", of_a.as_bytes(), &value, of_b.as_bytes(), &value]);
        let (mut stays, mut leaves) = (world.client().await, world.client().await);
        leaves.sends(&["GET", &of_a]).await;
        leaves.sends_raw(&request[..3 * MIB]).await;
        leaves.0.shutdown().await.expect("a client can end");
        let sent = words(&["GET", &of_a]).len() + 3 * MIB;
        until("it is read", || world.pool.blocks[0].bytes_in.value() == sent as u64).await;
        for _ in 0..50 {
            // Its end is seen too.
            tokio::task::yield_now().await;
        }
        let mut to_a = a.accepts().await;
        to_a.gets(&["GET", &of_a]).await;
        to_a.says("$-1\r\n").await;
        leaves.gets("$-1\r\n").await;
        leaves.sees_the_end().await;
        until("the session is gone", || world.sessions() == 1).await;
        stays.sends_raw(&request).await;
        // Either has a connection to itself.
        let (mut to_a, mut to_b) = (a.accepts().await, b.accepts().await);
        to_a.gets_raw(&frame(&[b"MSET", of_a.as_bytes(), &value])).await;
        to_b.gets_raw(&frame(&[b"MSET", of_b.as_bytes(), &value])).await;
        to_a.says("+OK\r\n").await;
        to_b.says("+OK\r\n").await;
        stays.gets("+OK\r\n").await;
        stays.ends().await;
    });
}

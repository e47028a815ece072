//! Lost connections: what is repeated, what is refused, and what it says of the node.

use std::time::Instant;

use socket2::SockRef;

use super::*;
use crate::topology::{OnReturn, VERDICT_GRACE};

/// A connection is lost with requests in flight: the read is repeated once on a new connection,
/// the write is refused as maybe applied by the node's name, and it is one failure.
#[test]
fn reads_again_writes_refused() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut reader, mut writer) = (world.client().await, world.client().await);
        reader.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        writer.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        drop(peer);
        writer
            .gets(format!("-ERR {}: connection lost; the command may have been applied\r\n", a.describe()))
            .await;
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        assert_eq!(world.failures("a", Failure::Lost), 1);
        assert_eq!(world.node("a").blocks[0].retries.value(), 1);
        // A connection that breaks before it has said anything is how a dying node looks: it costs
        // no try, but not for longer than a verdict takes.
        drop(again);
        let mut third = a.accepts().await;
        third.gets(&["GET", "k"]).await;
        tokio::time::sleep(VERDICT_GRACE).await;
        drop(third);
        let mut last = a.accepts().await;
        last.gets(&["GET", "k"]).await;
        drop(last);
        reader.gets(format!("-ERR {}: connection lost\r\n", a.describe())).await;
        assert_eq!(world.failures("a", Failure::Lost), 4);
        reader.ends().await;
        writer.ends().await;
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
    });
}

/// Writes of which the last byte was never written are sent on the next connection, in order;
/// those before them are refused; each gets one reply.
#[test]
fn unsent_writes_are_sent_later() {
    const COUNT: usize = 24;
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        client.sends(&["GET", "first"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "first"]).await;
        peer.says("$-1\r\n").await;
        client.gets("$-1\r\n").await;
        let value = "x".repeat(900_000);
        let numbers: Vec<String> = (0..COUNT).map(|i| i.to_string()).collect();
        let before = world.pool.blocks[0].bytes_in.value();
        let mut total = 0;
        for number in &numbers {
            let request = words(&["SET", number, &value]);
            total += request.len() as u64;
            client.sends_raw(&request).await;
        }
        until("all is read", || world.pool.blocks[0].bytes_in.value() == before + total).await;
        // What it has not read makes this a reset.
        drop(peer);
        let mut again = a.accepts().await;
        let mut line = vec![0; words(&["SET", "0", &value]).len()];
        soon("the first request", again.0.read_exact(&mut line)).await.expect("a request");
        let first = numbers.iter().position(|n| words(&["SET", n, &value]).starts_with(&line[..40]));
        let first = first.expect("one of the requests");
        assert!(first > 0 && first < COUNT, "the sockets' buffers are too large or too small: {first}");
        let left = words(&["SET", &numbers[first], &value]).len() - line.len();
        soon("its end", again.0.read_exact(&mut vec![0; left])).await.expect("a request");
        again.says("+OK\r\n").await;
        for number in &numbers[first + 1..] {
            again.gets(&["SET", number, &value]).await;
            again.says("+OK\r\n").await;
        }
        for _ in 0..first {
            let told = client.reply().await;
            assert!(told.ends_with("connection lost; the command may have been applied\r\n"), "{told}");
        }
        for _ in first..COUNT {
            client.gets("+OK\r\n").await;
        }
        client.ends().await;
        assert_eq!(world.failures("a", Failure::Reset), 1);
    });
}

/// A node may close a connection on which it owes nothing: the next request gets a new one, and
/// nothing is held against the node.
#[test]
fn an_idle_close_is_no_failure() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        for turn in 1..4 {
            client.sends(&["SET", "k", "v"]).await;
            let mut peer = a.accepts().await;
            peer.gets(&["SET", "k", "v"]).await;
            peer.says("+OK\r\n").await;
            client.gets("+OK\r\n").await;
            drop(peer);
            until("the close is seen", || world.node("a").blocks[0].connections.value() == 0).await;
            assert_eq!(world.node("a").blocks[0].connects.value(), turn);
        }
        assert!(world.is_innocent("a"));
        client.ends().await;
    });
}

/// A node where nobody listens: a request is refused by its name within the grace, not after its
/// deadline; and once somebody listens again, requests are served.
#[test]
fn nobody_listens() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (name, address) = (a.describe(), a.address());
        drop(a);
        let mut client = world.client().await;
        client.sends(&["SET", "k", "v"]).await;
        client.gets(format!("-ERR {name}: no connection\r\n")).await;
        assert!(world.failures("a", Failure::Refused) >= 1);
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let served = async {
            loop {
                client.sends(&["GET", "k"]).await;
                if client.reply().await == "$1\r\nv\r\n" {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let serves = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut peer = Peer(stream);
            peer.gets(&["GET", "k"]).await;
            peer.says("$1\r\nv\r\n").await;
            peer
        };
        let (client, _peer) = soon("the node is back", async { tokio::join!(served, serves) }).await;
        client.ends().await;
    });
}

/// A read that is repeated keeps its place: a session's replies come in the order of its requests.
#[test]
fn order_over_a_loss() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        for args in [&["SET", "k", "1"][..], &["GET", "k"], &["GET", "l"]] {
            client.sends(args).await;
        }
        let mut peer = a.accepts().await;
        for args in [&["SET", "k", "1"][..], &["GET", "k"], &["GET", "l"]] {
            peer.gets(args).await;
        }
        drop(peer);
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.gets(&["GET", "l"]).await;
        client.sends(&["SET", "k", "2"]).await;
        again.gets(&["SET", "k", "2"]).await;
        again.says(":1\r\n:2\r\n+OK\r\n").await;
        assert!(client.reply().await.contains("may have been applied"));
        client.gets(":1\r\n:2\r\n+OK\r\n").await;
        client.ends().await;
    });
}

/// A read is not repeated when a later write of its own session may have been applied: it would
/// see what the session wrote after it. A read of another session is.
#[test]
fn nobody_reads_from_the_future() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let (mut both, mut reader) = (world.client().await, world.client().await);
        both.sends(&["GET", "k"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "k"]).await;
        both.sends(&["SET", "k", "v"]).await;
        peer.gets(&["SET", "k", "v"]).await;
        both.sends(&["GET", "k"]).await;
        peer.gets(&["GET", "k"]).await;
        reader.sends(&["GET", "other"]).await;
        peer.gets(&["GET", "other"]).await;
        drop(peer);
        both.gets(format!("-ERR {}: connection lost\r\n", a.describe())).await;
        both.gets(format!("-ERR {}: connection lost; the command may have been applied\r\n", a.describe()))
            .await;
        let mut again = a.accepts().await;
        again.gets(&["GET", "k"]).await;
        again.gets(&["GET", "other"]).await;
        again.says("$1\r\nv\r\n$-1\r\n").await;
        both.gets("$1\r\nv\r\n").await;
        reader.gets("$-1\r\n").await;
    });
}

/// A node that answers once on each connection and closes it is not dialled as fast as clients ask: after the
/// first connections each further one has to wait a little, and every request is answered.
#[test]
fn connections_come_one_by_one() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], patient());
        let mut client = world.client().await;
        let asked = 60;
        let (client, node) = (
            async {
                for _ in 0..asked {
                    client.sends(&["GET", "k"]).await;
                    client.gets("$1\r\nv\r\n").await;
                }
            },
            async {
                loop {
                    let mut peer = a.accepts().await;
                    peer.gets(&["GET", "k"]).await;
                    peer.says("$1\r\nv\r\n").await;
                }
            },
        );
        let began = Instant::now();
        tokio::select! {
            () = client => {}
            () = node => {}
        }
        // Those beyond the burst of 16 are 10 ms apart, give or take a quarter.
        assert!(began.elapsed() > Duration::from_millis(44 * 10 * 3 / 4), "{:?}", began.elapsed());
    });
}

/// What bounds the life of keys that were written is not lost with a connection: it is sent again, behind its
/// write where that is sent again too, and alone where the write may have been applied.
#[test]
fn lives_stay_bounded() {
    const COUNT: usize = 24;
    play(async {
        let a = ScriptedNode::new("a").await;
        let world = World::new(&[&a], Policy { ttl_max: Some(Duration::from_secs(60)), ..patient() });
        let mut client = world.client().await;
        client.sends(&["GET", "first"]).await;
        let mut peer = a.accepts().await;
        peer.gets(&["GET", "first"]).await;
        peer.says("$-1\r\n").await;
        client.gets("$-1\r\n").await;
        let value = "x".repeat(900_000);
        let write = |at: usize| words(&["HSET", &format!("k{at:02}"), "f", &value]);
        let limit = |at: usize| words(&["PEXPIRE", &format!("k{at:02}"), "60000", "LT"]);
        let before = world.pool.blocks[0].bytes_in.value();
        for at in 0..COUNT {
            client.sends_raw(&write(at)).await;
        }
        let total: usize = (0..COUNT).map(|at| write(at).len()).sum();
        until("all is read", || world.pool.blocks[0].bytes_in.value() == before + total as u64).await;
        // What it has not read makes this a reset.
        drop(peer);
        let mut again = a.accepts().await;
        // Those of writes that were sent come first.
        let mut first = 0;
        loop {
            let mut head = [0; 6];
            soon("a request", again.0.read_exact(&mut head)).await.expect("a request");
            if head == write(first)[..6] {
                break;
            }
            assert!(head == limit(first)[..6] && first < COUNT, "{}", head.escape_ascii());
            again.gets_raw(&limit(first)[6..]).await;
            again.says(":1\r\n").await;
            first += 1;
        }
        assert!(first > 0, "the sockets' buffers are too small");
        for at in first..COUNT {
            again.gets_raw(&write(at)[if at == first { 6 } else { 0 }..]).await;
            again.gets_raw(&limit(at)).await;
            again.says(":1\r\n:1\r\n").await;
        }
        for _ in 0..first {
            let told = client.reply().await;
            assert!(told.ends_with("connection lost; the command may have been applied\r\n"), "{told}");
        }
        for _ in first..COUNT {
            client.gets(":1\r\n").await;
        }
        client.ends().await;
        assert_eq!(world.node("a").blocks[0].unbounded.value(), 0);
    });
}

/// A write that a node may have executed is noted when the node is evicted or its connection breaks, be there
/// still somebody who waits for it or not: nothing is noted of reads, and of what was not sent.
#[test]
fn what_is_in_doubt_is_noted() {
    play(async {
        for (leaves, is_evicted) in [(false, true), (true, true), (false, false), (true, false)] {
            let (a, b) = (ScriptedNode::new("a").await, ScriptedNode::new("b").await);
            let exact = Policy { on_return: OnReturn::Quarantine, sole_writer: true, ..patient() };
            let world = World::new(&[&a, &b], exact);
            let [k, l] = world.keys(&["a", "b"]);
            let mut client = world.client().await;
            client.sends(&["GET", &l]).await;
            client.sends(&["DEL", &k]).await;
            let mut to_a = a.accepts().await;
            to_a.gets(&["GET", &l]).await;
            to_a.gets(&["DEL", &k]).await;
            if leaves {
                SockRef::from(&client.0).set_linger(Some(Duration::ZERO)).expect("an option");
                drop(client);
                until("it is gone", || world.sessions() == 0).await;
            }
            if is_evicted {
                world.eject("a");
                until("the node is evicted", || world.node("a").blocks[0].connections.value() == 0).await;
            } else {
                drop(to_a);
                until("it is lost", || world.node("a").blocks[0].connections.value() == 0).await;
            }
            let noted = RefCell::new(Vec::new());
            until("it is noted", || {
                noted.borrow_mut().extend(world.noted());
                !noted.borrow().is_empty()
            })
            .await;
            assert_eq!(noted.into_inner(), [k], "leaves {leaves}, evicted {is_evicted}");
        }
    });
}

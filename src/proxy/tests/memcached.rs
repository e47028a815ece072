//! memcached pools between scripted clients and scripted nodes.

use super::*;
use crate::{protocol::Protocol, topology::OnEjected};

fn memcached() -> Policy {
    Policy { protocol: Protocol::Memcached, ..patient() }
}

/// A node that hangs and goes on: each request is overdue once, its late reply reaches nobody, be it a value
/// or a line, and the connection serves the next.
#[test]
fn overdue_once_and_late_replies_dropped() {
    play(async {
        let a = ScriptedNode::new("a").await;
        let policy = Policy { request_timeout: Duration::from_millis(80), ..memcached() };
        let world = World::new(&[&a], policy);
        let (mut one, mut two) = (world.client().await, world.client().await);
        one.sends_raw(b"get k\r\n").await;
        let mut peer = a.accepts().await;
        peer.gets_raw(b"get k\r\n").await;
        two.sends_raw(b"set k 0 0 1\r\nx\r\n").await;
        peer.gets_raw(b"set k 0 0 1\r\nx\r\n").await;
        let refusal = format!("SERVER_ERROR {}: no reply within 80 ms", a.describe());
        one.gets(format!("{refusal}\r\n")).await;
        two.gets(format!("{refusal}{MAYBE}\r\n")).await;
        assert_eq!(world.failures("a", Failure::Timeout), 2);
        one.sends_raw(b"get l\r\n").await;
        peer.gets_raw(b"get l\r\n").await;
        peer.says("VALUE k 0 4\r\nlate\r\nEND\r\nSTORED\r\nVALUE l 0 1\r\n3\r\nEND\r\n").await;
        one.gets("VALUE l 0 1\r\n3\r\nEND\r\n").await;
        two.sends_raw(b"mg m v\r\n").await;
        peer.gets_raw(b"mg m v\r\n").await;
        peer.says("VA 1\r\n4\r\n").await;
        two.gets("VA 1\r\n4\r\n").await;
        assert_eq!(world.failures("a", Failure::Timeout), 2);
        assert_eq!(world.node("a").evidence.streak(), 0);
        assert_eq!(world.node("a").blocks[0].connects.value(), 1);
        assert_eq!(world.node("a").blocks[0].in_flight.value(), 0);
        one.ends().await;
        two.ends().await;
    });
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

/// Before the login nothing is held that is no login: a large value is refused at its line, and the session
/// ends; so does one that sends and reads nothing. A login may be as long as a line.
#[test]
fn strangers_hold_nothing() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let secret = crate::topology::Secret(b"user:secret"[..].into());
        let world = World::new(&[&node], Policy { client_auth: Some(secret), ..memcached() });
        let refused = "CLIENT_ERROR unauthenticated\r\n";
        for line in ["set k 0 0 2049\r\n", "add k 0 0 500000000 noreply\r\n", "ms k 3000 q\r\n"] {
            let mut client = world.client().await;
            client.sends_raw(format!("get k\r\n{line}").as_bytes()).await;
            client.gets(refused.repeat(2)).await;
            client.sees_the_end().await;
        }
        let mut mute = world.client().await;
        let sends = async {
            let bytes = b"x\r\n".repeat(1 << 20);
            while mute.0.write_all(&bytes).await.is_ok() {}
        };
        let refused = || world.pool.blocks[0].refusals[crate::metrics::Reason::SlowClient as usize].value();
        tokio::select! {
            () = sends => {}
            () = until("no more is taken", || refused() > 0) => {}
        }
        let mut client = world.client().await;
        let login = format!("set k 0 0 2048\r\n{:2048}\r\nmn\r\nset k 0 0 3000\r\n", "user secret");
        client.sends_raw(login.as_bytes()).await;
        client.gets("STORED\r\nMN\r\n").await;
        let value = [&[b'x'; 3000][..], b"\r\n"].concat();
        client.sends_raw(&value).await;
        let mut peer = node.accepts().await;
        peer.gets_raw(&[&b"set k 0 0 3000\r\n"[..], &value].concat()).await;
        peer.says("STORED\r\n").await;
        client.gets("STORED\r\n").await;
    });
}

/// Retrievals that find nothing are counted at the node that said so, in both protocols, also when their
/// client wants to hear nothing of it.
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

/// Retrievals that wait at a node which is ejected find nothing where that is asked for, and quiet ones say
/// nothing of it.
#[test]
fn quiet_retrievals_at_a_node_that_is_ejected() {
    play(async {
        let [a, b] = [ScriptedNode::new("a").await, ScriptedNode::new("b").await];
        let request_timeout = Duration::from_millis(50);
        let world = World::new(&[&a, &b], Policy { request_timeout, ..memcached() });
        let [at_a] = world.keys(&["a"]);
        let mut client = world.client().await;
        client.sends_raw(format!("mg {at_a} v q k O1\r\nmg {at_a} v k O2\r\nmn\r\n").as_bytes()).await;
        let mut left = a.accepts().await;
        left.gets_raw(format!("mg {at_a} v k O1\r\nmg {at_a} v k O2\r\n").as_bytes()).await;
        world.publish(|next| {
            let mut nodes = next.nodes.to_vec();
            let at = nodes.iter().position(|e| &*e.node.name == "a").expect("it is there");
            (nodes[at].health, nodes[at].placement) = (Health::Ejected, Placement::Away);
            next.nodes = nodes.into();
            next.policy = Arc::new(Policy { on_ejected: OnEjected::Miss, ..Policy::clone(&next.policy) });
        });
        drop(left);
        client.gets(format!("EN k{at_a} O2\r\nMN\r\n")).await;
    });
}

/// Reads the lines that a node gets for these keys, none of which is long: how many keys each of them names.
async fn short_lines(peer: &mut Peer, head: &str, keys: &[String]) -> Vec<usize> {
    let (mut lines, mut got) = (Vec::new(), Vec::new());
    while got.len() < keys.len() {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(soon("a line for the node", peer.0.read_u8()).await.expect("a line goes on"));
        }
        assert!(line.len() <= 2048, "a line of {} bytes", line.len());
        let line = String::from_utf8(line).expect("text");
        let rest = line.trim_end().strip_prefix(head).expect("the same command");
        let before = got.len();
        got.extend(rest.split(' ').filter(|key| !key.is_empty()).map(str::to_owned));
        lines.push(got.len() - before);
    }
    assert_eq!(got, keys);
    lines
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("key:{i}")).collect()
}

/// A retrieval of very many keys goes over a connection of its own, in short lines: others are answered
/// meanwhile, and what its own session asks behind it waits. When the connection breaks, what was not
/// answered is asked again.
#[test]
fn a_long_retrieval_keeps_nobody_waiting() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let (mut client, mut other) = (world.client().await, world.client().await);
        let keys = numbered(5000);
        client.sends_raw(b"get before\r\n").await;
        let mut shared = node.accepts().await;
        shared.gets_raw(b"get before\r\n").await;
        client.sends_raw(format!("get {}\r\nget after\r\n", keys.join("  ")).as_bytes()).await;
        shared.says("END\r\n").await;
        client.gets("END\r\n").await;
        let mut private = node.accepts().await;
        let lines = short_lines(&mut private, "get", &keys).await;
        other.sends_raw(b"get other\r\n").await;
        shared.gets_raw(b"get other\r\n").await;
        shared.says("END\r\n").await;
        other.gets("END\r\n").await;
        private.says("VALUE key:0 0 1\r\nv\r\nEND\r\n").await;
        drop(private);
        let mut private = node.accepts().await;
        let again = short_lines(&mut private, "get", &keys[lines[0]..]).await;
        assert_eq!(again, lines[1..]);
        private.says("END\r\n".repeat(again.len() - 1)).await;
        private.says("VALUE key:4999 0 1\r\nv\r\nEND\r\n").await;
        client.gets("VALUE key:0 0 1\r\nv\r\nVALUE key:4999 0 1\r\nv\r\nEND\r\n").await;
        private.sees_the_end().await;
        shared.gets_raw(b"get after\r\n").await;
        shared.says("END\r\n").await;
        client.gets("END\r\n").await;
    });
}

/// Of large retrievals so many have a connection at once, and the others wait for their turn; small ones wait
/// for none of them.
#[test]
fn many_large_retrievals() {
    const MOST: usize = 32;
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let keys = numbered(5000);
        let line = format!("get {}\r\n", keys.join(" "));
        let (mut clients, mut peers, mut read) = (Vec::new(), Vec::new(), 0);
        for at in 0..MOST + 1 {
            let mut client = world.client().await;
            client.sends_raw(line.as_bytes()).await;
            read += line.len() as u64;
            until("it is read", || world.pool.blocks[0].bytes_in.value() == read).await;
            clients.push(client);
            if at < MOST {
                peers.push(node.accepts().await);
            }
        }
        let mut other = world.client().await;
        other.sends_raw(b"get other\r\n").await;
        let mut shared = node.accepts().await;
        shared.gets_raw(b"get other\r\n").await;
        shared.says("END\r\n").await;
        other.gets("END\r\n").await;
        let lines = short_lines(&mut peers[0], "get", &keys).await;
        peers[0].says("END\r\n".repeat(lines.len())).await;
        clients[0].gets("END\r\n").await;
        peers.push(node.accepts().await);
        let mut rest = keys.as_slice();
        let mut line = |count: &usize| {
            let (here, behind) = rest.split_at(*count);
            rest = behind;
            format!("get {}\r\n", here.join(" "))
        };
        let all: String = lines.iter().map(&mut line).collect();
        for (client, peer) in clients.iter_mut().zip(&mut peers).skip(1) {
            peer.gets_raw(all.as_bytes()).await;
            peer.says("END\r\n".repeat(lines.len())).await;
            client.gets("END\r\n").await;
        }
        assert!(world.is_innocent("a"));
    });
}

/// What a large retrieval has to itself ends with it: when its client leaves, when it is refused as its reply
/// is larger than a session may hold, and when its time is over. The node sends no more, and is not to blame.
#[test]
fn a_large_retrieval_that_nobody_waits_for() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let mut policy = memcached();
        policy.limits.session_bytes_max = 2 << 20;
        policy.deadline = Duration::from_millis(1500);
        let world = World::new(&[&node], policy);
        let keys = numbered(5000);
        for verb in ["get", "gat 0"] {
            let line = format!("{verb} {}\r\n", keys.join(" "));
            let mut client = world.client().await;
            client.sends_raw(line.as_bytes()).await;
            let mut private = node.accepts().await;
            short_lines(&mut private, verb, &keys).await;
            private.says(b"VALUE key:0 0 1\r\nv\r\nEND\r\nVALUE ").await;
            drop(client);
            private.sees_the_end().await;

            let mut client = world.client().await;
            client.sends_raw(line.as_bytes()).await;
            let mut private = node.accepts().await;
            short_lines(&mut private, verb, &keys).await;
            let value = format!("VALUE key:0 0 {}\r\n{}\r\nEND\r\n", 3 << 20, "v".repeat(3 << 20));
            private.says(value).await;
            let why = "the reply is larger than limits.session_bytes_max";
            client.gets(format!("SERVER_ERROR {why}, {} bytes\r\n", 2 << 20)).await;
            private.sees_the_end().await;

            client.sends_raw(line.as_bytes()).await;
            let mut private = node.accepts().await;
            short_lines(&mut private, verb, &keys).await;
            let said = client.line().await;
            assert!(said.starts_with("SERVER_ERROR no reply within the deadline of 1500 ms"), "{said}");
            private.sees_the_end().await;
            client.ends().await;
        }
        assert!(world.is_innocent("a"));
        until("nothing is in flight", || world.node("a").blocks[0].in_flight.value() == 0).await;
    });
}

/// A `gat` that memcached would take for no line is cut, and one that is long without many keys is written
/// anew.
#[test]
fn a_long_gat_is_cut() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let mut client = world.client().await;
        let keys = numbered(600);
        client.sends_raw(format!("gats  100 {}\r\nget after\r\n", keys.join(" ")).as_bytes()).await;
        let mut shared = node.accepts().await;
        let lines = short_lines(&mut shared, "gats 100", &keys).await;
        assert_eq!(lines.len(), 3);
        shared.gets_raw(b"get after\r\n").await;
        shared.says("END\r\n".repeat(4)).await;
        client.gets("END\r\nEND\r\n").await;
        client
            .sends_raw(format!("gat {} 0 a\r\nget b{}\r\n", " ".repeat(3000), " ".repeat(70_000)).as_bytes())
            .await;
        shared.gets_raw(b"gat 0 a\r\nget b\r\n").await;
        shared.says("END\r\n".repeat(2)).await;
        client.gets("END\r\nEND\r\n").await;
    });
}

/// However many retrievals a session sends at once, a node is asked for a bounded number of its keys before
/// the next ones wait.
#[test]
fn many_retrievals_at_once() {
    play(async {
        let node = ScriptedNode::new("a").await;
        let world = World::new(&[&node], memcached());
        let mut client = world.client().await;
        let line = format!("get {}\r\n", numbered(4000).join(" "));
        client.sends_raw(line.repeat(6).as_bytes()).await;
        let mut shared = node.accepts().await;
        shared.gets_raw(line.repeat(4).as_bytes()).await;
        let more = timeout(Duration::from_millis(50), shared.0.read_u8()).await;
        assert!(more.is_err(), "more than it may have at once: {more:?}");
        shared.says("END\r\n".repeat(4)).await;
        shared.gets_raw(line.repeat(2).as_bytes()).await;
        shared.says("END\r\n".repeat(2)).await;
        client.gets("END\r\n".repeat(6)).await;
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

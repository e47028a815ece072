//! What must not allocate does not: a test binary of its own, because it counts every allocation.

use std::{
    io::{Read, Write},
    net::SocketAddr,
    sync::{Arc, Barrier, atomic::AtomicUsize, mpsc},
    time::{Duration, Instant},
};

use ringway::{
    embedded::{self, Embedded},
    metrics::NodeBlock,
    net::{StdStream, Target},
    protocol::Protocol,
    proxy::{self, Memory, Order, Place, PoolHandle, Registry},
    ring::{BoundedLoad, HashKind, Member, Placement, Ring, Settings},
    topology::{
        self, Entry, Health, HealthSettings, Node, NodeId, Policy, Samples, Topology, TopologyWriter,
    },
};

/// Hashing a key and finding its owner, the next one that serves and its first three candidates
/// allocates nothing, in every placement.
#[test]
fn a_lookup_allocates_nothing() {
    let members: Vec<Member> =
        (0..100).map(|i| Member { name: Arc::from(format!("node-{i}")), weight: 1 + i % 3 }).collect();
    let placements = [
        Placement::Vnode { points: 160 },
        Placement::Ketama,
        Placement::Maglev { slots: 65_537 },
        Placement::Modula,
    ];
    let bound = BoundedLoad::new(125).expect("it is above 1");
    for placement in placements {
        for hash in HashKind::ALL.iter().copied() {
            let ring = Ring::build(&Settings { placement, hash, ..Settings::default() }, &members);
            let counted = allocation_counter::measure(|| {
                for key in 0..1000u32 {
                    let place = ring.hash(&key.to_le_bytes());
                    let first = ring.first(place);
                    assert!(ring.first_where(place, |i| i != first).is_some_and(|other| other != first));
                    let loaded = |i: usize| if i == first { 99 } else { 1 };
                    assert!(ring.first_bounded(place, bound, |_| true, loaded) != Some(first));
                    assert_eq!(ring.candidates(place).take(3).next(), Some(first));
                }
            });
            assert_eq!(counted.count_total, 0, "{placement:?} {hash:?}");
        }
    }
}

/// What a worker needs of a process: a pool of two embedded nodes that live on a thread of their own.
struct Pool {
    handle: Arc<PoolHandle>,
    _writer: TopologyWriter,
    _stop: tokio::sync::oneshot::Sender<()>,
}

fn pool() -> Pool {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let start = || Embedded::start(embedded::Settings::default()).expect("a port");
            let nodes = [start(), start()];
            tell.send(nodes.each_ref().map(Embedded::address)).expect("the test waits");
            // The sender goes with the test.
            let _ = stopped.await;
        });
    });
    let addresses = told.recv().expect("the nodes listen");
    let entry = |(at, address): (usize, &SocketAddr)| Entry {
        node: Arc::new(Node {
            id: NodeId(at as u64),
            name: format!("n{at}").into(),
            address: address.to_string().parse().expect("an address"),
            weight: 1,
            zone: None,
            evidence: Default::default(),
            blocks: Arc::new([NodeBlock::default()]),
            load: Arc::default(),
        }),
        health: Health::Healthy,
        placement: topology::Placement::Owns,
        order: None,
        targets: Arc::new([Target::Tcp(*address)]),
        misconfigured: None,
        slow: None,
    };
    let nodes: Arc<[Entry]> = addresses.iter().enumerate().map(entry).collect();
    let members: Vec<Member> =
        nodes.iter().map(|e| Member { name: e.node.name.clone(), weight: 1 }).collect();
    let (writer, reader) = topology::channel(Topology {
        budget_due: None,
        leftovers: Arc::default(),
        gutter: None,
        waits: Arc::default(),
        pool: "cache".into(),
        epoch: 1,
        revision: 1,
        ring: Arc::new(Ring::build(&Settings::default(), &members)),
        nodes,
        policy: Arc::new(Policy::default()),
        health: Arc::new(HealthSettings::default()),
        ordinals: members.iter().map(|m| m.name.clone()).collect(),
    });
    let handle = PoolHandle {
        protocol: Protocol::Redis,
        name: "cache".into(),
        id: 1,
        reader,
        blocks: PoolHandle::blocks(1),
        sessions: AtomicUsize::new(1),
        requests: AtomicUsize::new(0),
        run_id: "0".repeat(40).into(),
        scripts: Arc::default(),
        registry: Registry::default(),
        writes: topology::write_notes().0,
        samples: Samples::new(1),
        graces: PoolHandle::graces(1),
        given: PoolHandle::given(1),
    };
    Pool { handle: Arc::new(handle), _writer: writer, _stop: stop }
}

/// Sets the keys, then asks for them so many times, in pipelines of this depth.
fn ask(client: &mut std::net::TcpStream, depth: usize, times: usize) {
    let reply = b"$5\r\nvalue\r\n".repeat(depth);
    let mut came = vec![0; reply.len()];
    for batch in 0..times / depth {
        let keys = (0..depth).map(|i| (batch * depth + i) % 1000);
        let request: Vec<u8> =
            keys.flat_map(|k| format!("*2\r\n$3\r\nGET\r\n$4\r\nk{k:03}\r\n").into_bytes()).collect();
        client.write_all(&request).expect("ringway reads");
        client.read_exact(&mut came).expect("ringway answers");
        assert_eq!(came.escape_ascii().to_string(), reply.escape_ascii().to_string());
    }
}

/// 100,000 GETs, one at a time and in pipelines, with all that a worker does beside them (metrics,
/// deadlines, limits, ticks), allocate nothing in its thread.
#[test]
fn a_steady_session_allocates_nothing() {
    let pool = pool();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (warm, warmed) = tokio::sync::oneshot::channel();
    let (done, ended) = tokio::sync::oneshot::channel();
    let go = Arc::new(Barrier::new(2));
    let gone = go.clone();
    let client = std::thread::spawn(move || {
        let mut client = std::net::TcpStream::connect(address).expect("a connection");
        client.set_nodelay(true).expect("an option");
        for key in 0..1000 {
            let set = format!("*3\r\n$3\r\nSET\r\n$4\r\nk{key:03}\r\n$5\r\nvalue\r\n");
            client.write_all(set.as_bytes()).expect("ringway reads");
            client.read_exact(&mut [0; 5]).expect("ringway answers");
        }
        // Longer than a deadline: the wheel has gone round, and buffers have grown.
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(3) {
            ask(&mut client, 1, 1000);
            ask(&mut client, 100, 10_000);
        }
        warm.send(()).expect("the worker's thread waits");
        gone.wait();
        ask(&mut client, 1, 10_000);
        ask(&mut client, 100, 90_000);
        done.send(client).expect("the worker's thread waits");
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(proxy::woke)
        .build_local(Default::default())
        .expect("a runtime");
    let (orders, taken) = tokio::sync::mpsc::unbounded_channel();
    runtime.spawn_local(proxy::run(0, Arc::new(Memory::new(1 << 30)), taken));
    let (stream, _) = listener.accept().expect("the client comes");
    stream.set_nonblocking(true).expect("an option");
    let (place, _) = Place::take(&pool.handle, 0);
    let order = Order::Serve { place, stream: StdStream::Tcp(stream), id: 1 };
    assert!(orders.send(order).is_ok(), "the worker runs");
    runtime.block_on(warmed).expect("the client lives");
    // tokio makes the list of tasks that yield anew each time that its runtime is entered.
    let entered = allocation_counter::measure(|| runtime.block_on(tokio::task::yield_now()));
    let mut client_is_back = None;
    let counted = allocation_counter::measure(|| {
        go.wait();
        client_is_back = Some(runtime.block_on(ended));
    });
    client.join().expect("the client got every reply");
    assert!(matches!(client_is_back, Some(Ok(_))));
    assert_eq!(counted.count_total, entered.count_total, "{counted:?}");
    assert!(entered.count_total <= 1, "{entered:?}");
}

//! The hot path as a whole, between scripted clients and scripted nodes on loopback: one thread,
//! the real clock, and no step that does not wait for what it needs.

mod hung;
mod large;
mod listener;
mod lost;
mod memcached;
mod plan;
mod poison;
mod replies;
mod session;
mod window;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::mpsc,
    task::{JoinHandle, spawn_local},
    time::timeout,
};

use super::{
    Memory, Order, Place, PoolHandle, Registry, dispatch, link::Link, pipeline::MAYBE, pool::Bound, run,
};
use crate::{
    metrics::{Class, NodeBlock, Outcome},
    net::{Stream, Target},
    protocol::{
        Protocol,
        resp::{frame::Scanner, write},
    },
    ring::{Ring, Settings},
    topology::{
        Entry, Failure, Health, HealthSettings, Node, NodeId, NodeSpec, NotedWrites, Placement, Policy,
        Samples, Topology, TopologyReader, TopologyWriter, WriteNotes, channel, write_notes,
    },
};

/// What one step may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(8);

/// Runs a test on a thread like a worker's.
pub(super) fn play(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_unpark(super::woke)
        .build_local(LocalOptions::default())
        .expect("a runtime can be made");
    runtime.block_on(test);
}

async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, step).await {
        Ok(done) => done,
        Err(_) => panic!("nothing came of: {what}"),
    }
}

/// Waits until something is true.
async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn frame(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::request(&mut bytes, args);
    bytes
}

fn words<'a>(args: &'a [&'a str]) -> Vec<u8> {
    frame(&args.iter().map(|a| a.as_bytes()).collect::<Vec<_>>())
}

fn bulk(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write::bulk(&mut bytes, value);
    bytes
}

/// A topology of healthy nodes with one worker's counters.
pub(super) fn topology(nodes: &[(&str, SocketAddr)], policy: Policy) -> Topology {
    let specs = nodes.iter().map(|(name, address)| NodeSpec {
        name: (*name).into(),
        address: address.to_string().parse().expect("an address"),
        weight: 1,
        zone: None,
    });
    let entry = |(id, spec): (usize, &NodeSpec)| Entry {
        node: Arc::new(Node {
            id: NodeId(id as u64),
            name: spec.name.clone(),
            address: spec.address.clone(),
            weight: spec.weight,
            zone: None,
            evidence: Default::default(),
            blocks: Arc::new([NodeBlock::default()]),
            load: Arc::default(),
        }),
        health: Health::Healthy,
        order: None,
        placement: Placement::Owns,
        targets: Arc::new([Target::Tcp(nodes[id].1)]),
        misconfigured: None,
        slow: None,
    };
    let specs: Vec<_> = specs.collect();
    let members: Vec<_> = specs.iter().map(NodeSpec::member).collect();
    Topology {
        budget_due: None,
        leftovers: Arc::default(),
        gutter: None,
        waits: Arc::default(),
        pool: "cache".into(),
        epoch: 1,
        revision: 1,
        ring: Arc::new(Ring::build(&Settings::default(), &members)),
        nodes: specs.iter().enumerate().map(entry).collect(),
        policy: Arc::new(policy),
        health: Arc::new(HealthSettings::default()),
        ordinals: specs.iter().map(|s| s.name.clone()).collect(),
    }
}

/// A topology as a worker is bound to it, with nodes that nobody dials.
fn bound(names: &[&str]) -> Rc<Bound> {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let nodes: Vec<_> = names.iter().map(|name| (*name, nowhere)).collect();
    let topology = Arc::new(topology(&nodes, Policy::default()));
    let scripts = Arc::default();
    let links = topology.nodes.iter().map(|e| Link::new(e, &topology.policy, 0, &scripts)).collect();
    let table = dispatch::table(&topology.policy);
    Rc::new(Bound::new(topology, table, links))
}

/// A pool that so many workers share.
pub(super) fn pool(
    reader: TopologyReader,
    protocol: Protocol,
    workers: usize,
    writes: WriteNotes,
) -> Arc<PoolHandle> {
    Arc::new(PoolHandle {
        name: "cache".into(),
        protocol,
        id: 1,
        reader,
        blocks: PoolHandle::blocks(workers),
        sessions: AtomicUsize::new(0),
        given: PoolHandle::given(workers),
        requests: AtomicUsize::new(0),
        run_id: "0".repeat(40).into(),
        scripts: Arc::default(),
        registry: Registry::default(),
        writes,
        samples: Samples::new(workers),
        graces: PoolHandle::graces(workers),
    })
}

/// One worker with one pool.
struct World {
    memory: Arc<Memory>,
    writer: TopologyWriter,
    pool: Arc<PoolHandle>,
    orders: mpsc::UnboundedSender<Order>,
    worker: JoinHandle<()>,
    ids: Cell<u64>,
    noted: RefCell<NotedWrites>,
}

impl World {
    fn new(nodes: &[&ScriptedNode], policy: Policy) -> World {
        World::with_memory(nodes, policy, 1 << 30)
    }

    /// One whose clients may hold so many bytes.
    fn with_memory(nodes: &[&ScriptedNode], policy: Policy, buffered_bytes: usize) -> World {
        let nodes: Vec<_> = nodes.iter().map(|n| (n.name, n.address())).collect();
        let policy_protocol = policy.protocol;
        let (writer, reader) = channel(topology(&nodes, policy));
        let (writes, noted) = write_notes();
        let pool = pool(reader, policy_protocol, 1, writes);
        let (orders, taken) = mpsc::unbounded_channel();
        let memory = Arc::new(Memory::new(buffered_bytes));
        let worker = spawn_local(run(0, memory.clone(), taken));
        World { memory, writer, pool, orders, worker, ids: Cell::new(1), noted: RefCell::new(noted) }
    }

    async fn client(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let (theirs, _) = listener.accept().await.expect("a client");
        theirs.set_nodelay(true).expect("an option");
        let theirs = Stream::Tcp(theirs).into_std().expect("a socket");
        let id = self.ids.replace(self.ids.get() + 1);
        let (place, _) = Place::take(&self.pool, 0);
        self.order(Order::Serve { place, stream: theirs, id });
        Client(stream)
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok(), "the worker runs");
    }

    /// Publishes the same topology with changes, as a new epoch.
    fn publish(&self, change: impl FnOnce(&mut Topology)) {
        let mut next = Topology::clone(&self.writer.current());
        next.epoch += 1;
        next.revision += 1;
        change(&mut next);
        self.writer.publish(next);
    }

    fn eject(&self, name: &str) {
        self.publish(|next| {
            let mut nodes = next.nodes.to_vec();
            for entry in nodes.iter_mut().filter(|e| &*e.node.name == name) {
                (entry.health, entry.placement) = (Health::Ejected, Placement::Away);
            }
            next.nodes = nodes.into();
        });
    }

    /// The node is well, and this is its place.
    fn place(&self, name: &str, placement: Placement) {
        self.publish(|next| {
            let mut nodes = next.nodes.to_vec();
            for entry in nodes.iter_mut().filter(|e| &*e.node.name == name) {
                (entry.health, entry.placement) = (Health::Healthy, placement);
            }
            next.nodes = nodes.into();
        });
    }

    fn node(&self, name: &str) -> Arc<Node> {
        let topology = self.writer.current();
        let entry = topology.nodes.iter().find(|e| &*e.node.name == name).expect("a node of this name");
        entry.node.clone()
    }

    fn failures(&self, name: &str, kind: Failure) -> u64 {
        self.node(name).evidence.count(kind)
    }

    fn is_innocent(&self, name: &str) -> bool {
        Failure::ALL.iter().all(|kind| self.failures(name, *kind) == 0)
    }

    /// The keys that were noted as written elsewhere since it was asked.
    fn noted(&self) -> Vec<String> {
        let noted = &mut *self.noted.borrow_mut();
        let keys = std::iter::from_fn(|| noted.here()).map(|w| String::from_utf8_lossy(&w.key).into_owned());
        keys.collect()
    }

    fn sessions(&self) -> usize {
        self.pool.sessions.load(Relaxed)
    }

    /// The first `n` keys whose candidates begin with these nodes.
    fn keys<const N: usize>(&self, candidates: &[&str]) -> [String; N] {
        let topology = self.writer.current();
        let fits = |key: &String| {
            let mut order = topology.ring.candidates(topology.ring.hash(key.as_bytes()));
            candidates.iter().all(|c| order.next().is_some_and(|i| *topology.nodes[i].node.name == **c))
        };
        let mut found = (0..).map(|i| format!("key:{i}")).filter(fits);
        std::array::from_fn(|_| found.next().expect("there are enough keys"))
    }

    fn key(&self, owner: &str) -> String {
        let [key] = self.keys(&[owner]);
        key
    }
}

/// A client.
struct Client(TcpStream);

impl Client {
    async fn sends(&mut self, args: &[&str]) {
        self.sends_raw(&words(args)).await;
    }

    async fn sends_raw(&mut self, bytes: &[u8]) {
        soon("the client's bytes are taken", self.0.write_all(bytes)).await.expect("a client can write");
    }

    /// The next bytes are these.
    async fn gets(&mut self, expected: impl AsRef<[u8]>) {
        read_exactly(&mut self.0, expected.as_ref(), "client").await;
    }

    /// The next line.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(soon("a line for the client", self.0.read_u8()).await.expect("a line goes on"));
        }
        String::from_utf8(line).expect("text")
    }

    /// The next reply, whole.
    async fn reply(&mut self) -> String {
        let mut scanner = Scanner::default();
        let mut bytes = Vec::new();
        loop {
            let byte = soon("a reply for the client", self.0.read_u8()).await.expect("a reply goes on");
            bytes.push(byte);
            if scanner.advance(&[byte]).expect("a reply").done {
                return String::from_utf8(bytes).expect("text");
            }
        }
    }

    /// Sends no more; all that still comes is nothing.
    async fn ends(mut self) {
        self.0.shutdown().await.expect("a client can end");
        self.sees_the_end().await;
    }

    async fn sees_the_end(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = soon("the client's connection ends", self.0.read_to_end(&mut rest)).await;
        assert_eq!(rest.escape_ascii().to_string(), "", "after the last reply");
    }
}

/// A node that does as it is told.
struct ScriptedNode {
    name: &'static str,
    listener: TcpListener,
}

impl ScriptedNode {
    async fn new(name: &'static str) -> ScriptedNode {
        ScriptedNode { name, listener: TcpListener::bind("127.0.0.1:0").await.expect("a port") }
    }

    /// One that takes little before it is read from.
    async fn narrow(name: &'static str) -> ScriptedNode {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("an option");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        ScriptedNode { name, listener: socket.listen(16).expect("a listener") }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// As errors name it.
    fn describe(&self) -> String {
        format!("node {} ({})", self.name, self.address())
    }

    async fn accepts(&self) -> Peer {
        let what = format!("a connection to {}", self.name);
        let (stream, _) = soon(&what, self.listener.accept()).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Peer(stream)
    }
}

/// A node's end of a connection.
struct Peer(TcpStream);

impl Peer {
    /// The next request is this one.
    async fn gets(&mut self, args: &[&str]) {
        self.gets_raw(&words(args)).await;
    }

    async fn gets_raw(&mut self, expected: &[u8]) {
        read_exactly(&mut self.0, expected, "node").await;
    }

    async fn says(&mut self, bytes: impl AsRef<[u8]>) {
        soon("the node's bytes are taken", self.0.write_all(bytes.as_ref())).await.expect("a node can write");
    }

    async fn sees_the_end(&mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = soon("the node's connection ends", self.0.read_to_end(&mut rest)).await;
        assert_eq!(rest.escape_ascii().to_string(), "", "after the last request");
    }
}

async fn read_exactly(stream: &mut TcpStream, expected: &[u8], who: &str) {
    let mut got = Vec::new();
    let show = |bytes: &[u8]| bytes[..bytes.len().min(400)].escape_ascii().to_string();
    while got.len() < expected.len() {
        let mut chunk = vec![0; (expected.len() - got.len()).min(1 << 20)];
        let read = timeout(PATIENCE, stream.read(&mut chunk)).await;
        match read {
            Ok(Ok(n)) if n > 0 => got.extend_from_slice(&chunk[..n]),
            other => panic!("{who}: {other:?} after {}, not {}", show(&got), show(expected)),
        }
        assert!(expected.starts_with(&got), "{who}: got {}, not {}", show(&got), show(expected));
    }
}

/// A node is back, and all of its keys are being cleaned.
fn fenced() -> Placement {
    Placement::Starting(crate::topology::Admission { admitted: 0, fence: crate::topology::LEVELS })
}

/// A policy whose deadlines play no part.
fn patient() -> Policy {
    let long = Duration::from_secs(60);
    Policy { request_timeout: long, deadline: long, slow_timeout: long, ..Policy::default() }
}

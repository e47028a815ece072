//! The routes, asked through the router.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{AdminState, Pool, router};
use crate::{
    metrics::{Class, NodeBlock, Outcome, PoolBlock},
    net::{Address, Target},
    ring::{CharSign, HashKind, Member, Placement as RingPlacement, Ring, Settings},
    topology::{
        Entry, ErrorReply, Evidence, Failure, Health, Leftovers, Node, NodeId, OnEjected, Placement, Policy,
        Topology, TopologyWriter, channel,
    },
};

fn entry(name: &str, id: u64) -> Entry {
    let address: Address = "127.0.0.1:7001".parse().expect("it is an address");
    let target = Target::Tcp(([127, 0, 0, 1], 7001).into());
    let node = Node {
        id: NodeId(id),
        name: name.into(),
        address,
        weight: 1,
        zone: Some("z1".into()),
        evidence: Evidence::default(),
        blocks: Arc::new([NodeBlock::default(), NodeBlock::default()]),
        load: Arc::default(),
    };
    Entry {
        node: Arc::new(node),
        health: Health::Healthy,
        order: None,
        placement: Placement::Owns,
        targets: Arc::new([target]),
        misconfigured: None,
        slow: None,
    }
}

pub(super) fn topology(pool: &str, names: &[&str]) -> Topology {
    let members: Vec<Member> = names.iter().map(|name| Member { name: (*name).into(), weight: 1 }).collect();
    let settings = Settings {
        placement: RingPlacement::Vnode { points: 160 },
        hash: HashKind::Xxh3_64,
        char_sign: CharSign::X86,
        hash_tag: None,
    };
    Topology {
        budget_due: None,
        leftovers: Arc::default(),
        gutter: None,
        waits: Arc::default(),
        pool: pool.into(),
        epoch: 41,
        revision: 50,
        ring: Arc::new(Ring::build(&settings, &members)),
        nodes: names.iter().zip(1..).map(|(name, id)| entry(name, id)).collect(),
        health: Arc::default(),
        policy: Arc::new(Policy::default()),
        ordinals: names.iter().map(|name| Arc::from(*name)).collect(),
    }
}

/// `count` pools of three nodes each, and their writers.
fn pools(count: usize) -> (AdminState, Vec<TopologyWriter>) {
    let mut writers = Vec::new();
    let mut pools = Vec::new();
    for i in 1..=count {
        let name: Arc<str> = format!("p{i}").into();
        let (writer, reader) = channel(topology(&name, &["a", "b", "c"]));
        writers.push(writer);
        pools.push(Pool { name, topology: reader, blocks: Arc::new([PoolBlock::default()]) });
    }
    let recorder = PrometheusBuilder::new().build_recorder().handle();
    (AdminState::new(pools, membership(), recorder, "boot-1".into()), writers)
}

/// Membership that nobody runs: orders wait for ever, and nothing has happened.
fn membership() -> crate::membership::Handle {
    let settings = crate::membership::Settings {
        workers: 1,
        max_share: 0.1,
        ids: crate::membership::IdSource::default(),
        embedded: Arc::new(|_, _| None),
        scene: crate::health::Scene::default(),
        incident_file: None,
    };
    crate::membership::Membership::new(settings).1
}

/// The state of a process with so many pools.
pub(super) fn state(count: usize) -> AdminState {
    pools(count).0
}

/// Publishes a next epoch in which some nodes are away.
fn send_away(writer: &TopologyWriter, away: &[usize], on_ejected: OnEjected) {
    let mut next = Topology::clone(&writer.current());
    let mut nodes = next.nodes.to_vec();
    for i in away {
        nodes[*i].health = Health::Ejected;
        nodes[*i].placement = Placement::Away;
    }
    next.nodes = nodes.into();
    next.policy = Arc::new(Policy { on_ejected, ..Policy::default() });
    next.epoch += 1;
    next.revision += 1;
    writer.publish(next);
}

async fn ask(state: &AdminState, method: Method, path: &str) -> (Response<()>, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("it is a request");
    let (head, body) = router(state.clone()).oneshot(request).await.expect("it can't fail").into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("the page is small");
    (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).expect("it is text"))
}

async fn json_of(state: &AdminState, path: &str) -> (StatusCode, Value) {
    let (head, body) = ask(state, Method::GET, path).await;
    assert_eq!(head.headers()[header::CONTENT_TYPE], "application/json", "{body}");
    (head.status(), serde_json::from_str(&body).expect("it is JSON"))
}

/// The values of all rows that begin so.
fn values(page: &str, series: &str) -> Vec<f64> {
    let rows = page.lines().filter(|l| l.starts_with(series));
    rows.map(|l| l.rsplit(' ').next().expect("a row").parse().expect("a number")).collect()
}

/// The metrics page carries what the workers counted and what traffic saw, in Prometheus' media
/// type, and the facade's numbers with it.
#[tokio::test]
async fn metrics_show_what_was_counted() {
    let (mut state, writers) = pools(2);
    let recorder = PrometheusBuilder::new().build_recorder();
    state.recorder = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || ::metrics::counter!("from_the_facade_total").increment(3));
    state.pools.load()[1].blocks[0].requests[Class::Read as usize][Outcome::Ok as usize].add(12);
    let topology = writers[1].current();
    topology.nodes[2].node.blocks[1].connects.add(4);
    topology.nodes[2].node.evidence.failed(Failure::Lost, 2);
    let (head, page) = ask(&state, Method::GET, "/metrics").await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    for (series, number) in [
        ("ringway_requests_total{pool=\"p2\",class=\"read\",outcome=\"ok\"}", 12.0),
        ("ringway_node_connects_total{pool=\"p2\",node=\"c\"}", 4.0),
        ("ringway_node_failures_total{pool=\"p2\",node=\"c\",kind=\"lost\"}", 2.0),
        ("ringway_node_health{pool=\"p2\",node=\"c\",state=\"healthy\"}", 1.0),
        ("ringway_epoch{pool=\"p1\"}", 41.0),
        ("from_the_facade_total", 3.0),
    ] {
        assert_eq!(values(&page, series), [number], "{series} in\n{page}");
    }
    assert!(values(&page, "process_start_time_seconds")[0] > 1.7e9);
}

/// A pool's shares sum to 1; those of a node that is away go to the others under `rehash`, stay
/// its own under `fail`, and all are 0 when nobody owns anything.
#[tokio::test]
async fn shares_sum_to_one() {
    let (state, writers) = pools(1);
    let shares = async || {
        let (_, page) = ask(&state, Method::GET, "/metrics").await;
        (values(&page, "ringway_node_share{"), values(&page, "ringway_node_owns{"))
    };
    let is_one = |shares: &[f64]| (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9;
    let (all, owns) = shares().await;
    assert!(is_one(&all) && all.iter().all(|s| *s > 0.1) && owns == [1.0; 3], "{all:?}");
    send_away(&writers[0], &[1], OnEjected::Rehash);
    let (rest, owns) = shares().await;
    assert!(is_one(&rest) && rest[1] == 0.0 && rest[0] > all[0], "{rest:?}");
    assert_eq!(owns, [1.0, 0.0, 1.0]);
    send_away(&writers[0], &[], OnEjected::Fail);
    assert_eq!(shares().await, (all, vec![1.0, 0.0, 1.0]));
    send_away(&writers[0], &[0, 2], OnEjected::Rehash);
    assert_eq!(shares().await, (vec![0.0; 3], vec![0.0; 3]));
}

/// `/readyz` is 200 until a pool has no owner, which it names, or the process drains; `/healthz`
/// stays 200 throughout.
#[tokio::test]
async fn readiness() {
    let (state, writers) = pools(2);
    let ready = json!({"ready": true, "draining": false, "pools_without_owner": []});
    assert_eq!(json_of(&state, "/readyz").await, (StatusCode::OK, ready.clone()));
    send_away(&writers[1], &[0, 1], OnEjected::Rehash);
    assert_eq!(json_of(&state, "/readyz").await, (StatusCode::OK, ready));
    send_away(&writers[1], &[2], OnEjected::Rehash);
    let ownerless = json!({"ready": false, "draining": false, "pools_without_owner": ["p2"]});
    assert_eq!(json_of(&state, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, ownerless));
    let other = self::state(1);
    other.drain();
    let draining = json!({"ready": false, "draining": true, "pools_without_owner": []});
    assert_eq!(json_of(&other, "/readyz").await, (StatusCode::SERVICE_UNAVAILABLE, draining));
    for state in [&state, &other] {
        let (head, body) = ask(state, Method::GET, "/healthz").await;
        assert_eq!((head.status(), &*body), (StatusCode::OK, "ok\n"));
    }
}

/// `/v1/topology` shows a pool and its nodes whole: state, share, evidence, counters.
#[tokio::test]
async fn topology_is_shown_whole() {
    let (state, writers) = pools(1);
    let node = &writers[0].current().nodes[1].node;
    node.evidence.failed(Failure::Timeout, 3);
    node.evidence.said(ErrorReply::OutOfMemory, false);
    node.blocks[0].in_flight.add(2);
    node.blocks[1].in_flight.add(5);
    node.blocks[1].connections.add(1);
    send_away(&writers[0], &[1], OnEjected::Rehash);
    let mut next = (*writers[0].current()).clone();
    next.revision += 1;
    next.leftovers = Arc::new([Leftovers { node: next.nodes[1].node.id, turn: 1 }]);
    writers[0].publish(next);
    let (status, page) = json_of(&state, "/v1/topology").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&page["boot_id"], &page["draining"]), (&json!("boot-1"), &json!(false)));
    let pool = &page["pools"][0];
    for (key, value) in [
        ("name", json!("p1")),
        ("epoch", json!(42)),
        ("revision", json!(52)),
        ("placement", json!("vnode")),
        ("hash", json!("xxh3_64")),
        (
            "ring",
            json!({
                "placement": "vnode", "points": 160, "slots": null, "hash": "xxh3_64", "char_sign": "x86",
                "hash_tag": "",
            }),
        ),
        ("http_key", json!(null)),
        ("failover", json!(null)),
        ("on_ejected", json!("rehash")),
        ("serves", json!(true)),
        ("degraded", json!(null)),
    ] {
        assert_eq!(pool[key], value, "{key}");
    }
    let failures = json!({
        "refused": 0, "connect_timeout": 0, "lost": 0, "reset": 0, "timeout": 3, "protocol": 0, "handshake": 0, "status": 0,
    });
    let replies = json!({
        "loading": 0, "busy": 0, "masterdown": 0, "readonly": 0, "oom": 1, "noauth": 0, "clusterdown": 0,
    });
    let refuses = page["pools"][0]["nodes"][1]["refuses_writes"].as_str().expect("it said so just now");
    assert!(refuses.starts_with("refuses writes, the last "), "{refuses}");
    assert!(refuses.ends_with(" s ago: it is out of memory and evicts nothing"), "{refuses}");
    let expected = json!({
        "name": "b", "address": "127.0.0.1:7001", "zone": "z1", "weight": 1,
        "health": "ejected", "placement": "away", "admitted": 0.0, "order": null, "share": 0.0, "wait": null, "leftovers": true, "misconfigured": null,
        "slow": null, "refuses_writes": refuses,
        "targets": ["127.0.0.1:7001"],
        "evidence": {"streak": 3, "failures": failures, "error_replies": replies},
        "in_flight": 7, "connections": 1,
    });
    assert_eq!(pool["nodes"][1], expected);
    assert_eq!(pool["nodes"].as_array().map(Vec::len), Some(3));
}

/// Every path that the index names answers, and HEAD has the same head without a body.
#[tokio::test]
async fn the_index_names_the_routes() {
    let state = state(1);
    let (_, index) = ask(&state, Method::GET, "/").await;
    let paths: Vec<&str> = index.lines().filter(|l| l.starts_with('/')).collect();
    assert_eq!(paths.len(), 5, "{index}");
    for path in paths.iter().filter_map(|l| l.split(' ').next()) {
        let (head, body) = ask(&state, Method::GET, path).await;
        assert!(head.status() == StatusCode::OK && !body.is_empty(), "{path}: {body}");
        let (head, body) = ask(&state, Method::HEAD, path).await;
        assert!(head.status() == StatusCode::OK && body.is_empty(), "{path}: {body}");
    }
}

/// An unknown path is a 404 and a wrong method a 405 that says what is allowed, both as JSON.
#[tokio::test]
async fn refusals_are_json() {
    let state = state(1);
    let (status, body) = json_of(&state, "/nothing").await;
    assert_eq!(
        (status, &body["error"]),
        (StatusCode::NOT_FOUND, &json!("there is nothing at /nothing: see /"))
    );
    let (head, body) = ask(&state, Method::POST, "/metrics").await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(head.headers()[header::ALLOW], "GET,HEAD");
    assert_eq!(body, r#"{"error":"POST can't be done here"}"#);
}

//! What a running ringway says of its pools: how they are placed, who serves, and what is asked of whom.

use std::{collections::HashMap, sync::Arc, thread, time::Duration};

use serde_json::Value;
use tokio::sync::Notify;

use super::{Stop, admin};
use crate::{
    config::ring_of,
    membership::{Births, IdSource, first_topology},
    topology::{
        Admission, Failover, HealthSettings, LEVELS, NodeSpec, OnEjected, Placement, Policy, PoolSpec,
        Topology,
    },
};

/// Requests are counted for so long.
const COUNTED: Duration = Duration::from_secs(1);

/// A pool of a running ringway.
pub(super) struct Running {
    pub(super) name: Arc<str>,
    /// Its ring and its nodes; what does not place keys is as by default.
    pub(super) spec: PoolSpec,
    /// What is its key, in an HTTP pool.
    pub(super) http_key: Option<String>,
    /// The nodes that do not own all of their keys.
    pub(super) placements: HashMap<Arc<str>, Placement>,
}

/// What nodes are asked for, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Requests of all kinds.
    pub(super) requests: f64,
    /// Reads that found something.
    pub(super) hits: f64,
}

/// Rates by pool and node.
pub(super) type Rates = HashMap<(String, String), Rate>;

/// The pools of the ringway at this address.
pub(super) fn pools(address: &str) -> Result<Vec<Running>, Stop> {
    let page = admin::get_json(address, "/v1/topology")?;
    let pools = page["pools"].as_array().into_iter().flatten().map(pool);
    pools.collect::<Result<_, _>>().map_err(|why| {
        let message =
            format!("error: the ringway at {address} can't be compared with: {why}; --config OLD can");
        Stop::Failed(message, 1)
    })
}

fn pool(page: &Value) -> Result<Running, String> {
    let name: Arc<str> = page["name"].as_str().ok_or("a pool has no name")?.into();
    let ring = &page["ring"];
    let text = |key: &str| match &ring[key] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let ring = ring_of(text).map_err(|why| format!("pool {name}: {why}"))?;
    let nodes = page["nodes"].as_array().into_iter().flatten();
    let read =
        nodes.map(node).collect::<Result<Vec<_>, String>>().map_err(|why| format!("pool {name}: {why}"))?;
    let placements = read.iter().filter(|(_, placement)| *placement != Placement::Owns);
    let placements = placements.map(|(node, placement)| (node.name.clone(), *placement)).collect();
    let gutter = page["failover"].as_str();
    let told = page["on_ejected"].as_str();
    let on_ejected = OnEjected::ALL.into_iter().find(|value| told == Some(value.word()));
    let on_ejected = on_ejected.ok_or_else(|| format!("pool {name}: it does not tell its on_ejected"))?;
    let failover = gutter.map(|pool| Failover { pool: pool.into(), ttl_max: Duration::ZERO });
    let policy = Arc::new(Policy { on_ejected, failover, ..Policy::default() });
    let (health, nodes) = (HealthSettings::default(), read.into_iter().map(|(node, _)| node).collect());
    let spec = PoolSpec { name: name.clone(), listen: Vec::new(), ring, policy, health, nodes };
    let http_key = page["http_key"].as_str().map(str::to_owned);
    Ok(Running { name, spec, http_key, placements })
}

fn node(page: &Value) -> Result<(NodeSpec, Placement), String> {
    let text = |key: &str| page[key].as_str();
    let name: Arc<str> = text("name").ok_or("a node has no name")?.into();
    let address = text("address").unwrap_or_default().parse().map_err(|e| format!("node {name}: {e}"))?;
    let weight = page["weight"].as_u64().and_then(|weight| u32::try_from(weight).ok());
    let weight = weight.ok_or_else(|| format!("node {name}: it does not tell its weight"))?;
    let admitted = page["admitted"].as_f64().unwrap_or_default();
    let placement = match text("placement") {
        Some("owns") => Placement::Owns,
        Some("away") => Placement::Away,
        Some("held") => Placement::Held,
        Some("starting") => {
            let admitted = (admitted * f64::from(LEVELS)).round() as u32;
            Placement::Starting(Admission { admitted, fence: admitted })
        }
        other => return Err(format!("node {name}: its placement is {other:?}")),
    };
    Ok((NodeSpec { name, address, weight, zone: text("zone").map(Into::into) }, placement))
}

/// The topology of a pool whose nodes have these placements, all others own. Its gutter is there, and empty.
pub(super) fn topology(spec: &PoolSpec, placements: &HashMap<Arc<str>, Placement>) -> Topology {
    let births = Births { ids: IdSource::default(), workers: 0, bell: Arc::new(Notify::new()) };
    let mut topology = first_topology(spec, &births, |_| Arc::default());
    let mut nodes = topology.nodes.to_vec();
    for entry in &mut nodes {
        entry.placement = placements.get(&entry.node.name).copied().unwrap_or(Placement::Owns);
    }
    topology.nodes = nodes.into();
    let gutter = spec.policy.failover.as_ref().filter(|_| spec.policy.fails_over());
    topology.gutter = gutter.map(|gutter| {
        let (ring, nodes) = (topology.ring.clone(), Arc::default());
        Arc::new(Topology { pool: gutter.pool.clone(), nodes, ring, gutter: None, ..topology.clone() })
    });
    topology
}

/// What its nodes are asked for now. Takes a second.
pub(super) fn rates(address: &str) -> Result<Rates, Stop> {
    let first = counts(&admin::get(address, "/metrics")?);
    thread::sleep(COUNTED);
    let second = counts(&admin::get(address, "/metrics")?);
    let since = |(node, now): ((String, String), Rate)| {
        let before = first.get(&node).copied().unwrap_or(now);
        let of = |now: f64, before: f64| (now - before).max(0.0) / COUNTED.as_secs_f64();
        (node, Rate { requests: of(now.requests, before.requests), hits: of(now.hits, before.hits) })
    };
    Ok(second.into_iter().map(since).collect())
}

/// What nodes were asked for, by pool and node, on a page of metrics.
fn counts(page: &str) -> Rates {
    let mut sums = Rates::new();
    for line in page.lines() {
        let Some((metric, rest)) = line.split_once('{') else { continue };
        let label = |name: &str| {
            let value = rest.split(&format!("{name}=\"")).nth(1)?.split('"').next()?;
            Some(value.to_owned())
        };
        let count = line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
        let (Some(pool), Some(node), Some(count)) = (label("pool"), label("node"), count) else { continue };
        let is_read =
            || label("class").as_deref() == Some("read") && label("outcome").as_deref() == Some("ok");
        let rate = sums.entry((pool, node)).or_default();
        match metric {
            "ringway_node_requests_total" => {
                rate.requests += count;
                rate.hits += if is_read() { count } else { 0.0 };
            }
            "ringway_node_misses_total" => rate.hits -= count,
            _ => {}
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Requests are added up by pool and node, and hits are reads that ended well and were no misses.
    #[test]
    fn counts_by_node() {
        let page = "ringway_node_requests_total{pool=\"a\",node=\"x\",class=\"read\",outcome=\"ok\"} 30\n\
                    ringway_node_requests_total{pool=\"a\",node=\"x\",class=\"read\",outcome=\"timeout\"} 2\n\
                    ringway_node_requests_total{pool=\"a\",node=\"x\",class=\"write\",outcome=\"ok\"} 4\n\
                    ringway_node_misses_total{pool=\"a\",node=\"x\"} 10\n\
                    ringway_node_requests_total{pool=\"b\",node=\"x\",class=\"read\",outcome=\"ok\"} 5\n\
                    ringway_requests_total{pool=\"a\"} 9\n";
        let rate = |requests, hits| Rate { requests, hits };
        let of = |pool: &str| (pool.to_owned(), "x".to_owned());
        assert_eq!(counts(page), Rates::from([(of("a"), rate(36.0, 20.0)), (of("b"), rate(5.0, 5.0))]));
    }

    /// A pool is read whole, with who serves what; what is missing is named.
    #[test]
    fn a_pool_is_read() {
        let node = |name: &str, placement: &str| {
            json!({"name": name, "address": "10.0.0.1:6379", "weight": 2, "zone": null,
                "placement": placement, "admitted": 0.25})
        };
        let mut page = json!({
            "name": "cache", "on_ejected": "failover", "failover": "gutter", "http_key": null,
            "ring": {"placement": "maglev", "points": null, "slots": 251, "hash": "crc32a", "char_sign": "arm", "hash_tag": "{}"},
            "nodes": [node("a", "owns"), node("b", "starting"), node("c", "held")],
        });
        let running = pool(&page).expect("it is whole");
        let settings = &running.spec.ring;
        assert_eq!(settings.placement, crate::ring::Placement::Maglev { slots: 251 });
        assert_eq!((settings.hash.word(), settings.char_sign.word()), ("crc32a", "arm"));
        assert_eq!(settings.hash_tag, Some((b'{', b'}')));
        let topology = topology(&running.spec, &running.placements);
        let placements: Vec<Placement> = topology.nodes.iter().map(|e| e.placement).collect();
        let quarter = Admission { admitted: LEVELS / 4, fence: LEVELS / 4 };
        assert_eq!(placements, [Placement::Owns, Placement::Starting(quarter), Placement::Held]);
        assert_eq!(&*topology.gutter.expect("it fails over").pool, "gutter");
        page["ring"] = Value::Null;
        assert_eq!(pool(&page).err().as_deref(), Some("pool cache: it does not tell its ring's placement"));
    }
}

//! Nodes with names, and a resolver that does not answer, or answers that there is no such name.

use serde_json::Value;

use crate::{
    diagnosis::located,
    harness::{Config, Redis, Ringway, SOON, names::Names, until},
};

const BRISK: &str = "health: {interval: 100ms, timeout: 300ms}";

/// Two nodes with addresses and two with names.
fn config(nodes: &[Redis]) -> Config {
    let port = |i: usize| nodes[i].address().rsplit_once(':').expect("a port").1.to_owned();
    let config = Config::of(&nodes[..2]).node("c", &format!("c.names.test:{}", port(2)));
    config.node("d", &format!("d.names.test:{}", port(3))).pool(BRISK)
}

fn serve(names: &Names, config: &Config) -> Ringway {
    let wrapper = names.wrapper();
    Ringway::serve_through(config, &wrapper.iter().map(String::as_str).collect::<Vec<_>>())
}

fn newest(ringway: &mut Ringway) -> Value {
    let page: Value = serde_json::from_str(&ringway.http("/v1/incidents").1).expect("JSON");
    page["incidents"][0].clone()
}

/// While the resolver does not answer nobody is ejected for it, though no node with a name can be reached,
/// and an incident of the proxy says so; when it answers, all is well.
#[test]
fn a_dead_resolver_is_the_proxy() {
    let Some(names) = Names::start() else { return };
    let nodes = Redis::several(4);
    let mut ringway = serve(&names, &config(&nodes));
    let epoch = ringway.epoch();
    located(&mut ringway, None, "proxy", "dns");
    until(SOON, "both are withheld", || {
        let steps = newest(&mut ringway)["timeline"].to_string();
        ["c", "d"].iter().all(|node| steps.contains(&format!("cache/{node} is not ejected for it")))
    });
    let mut client = ringway.client();
    let refusals = (0..100).filter(|i| {
        let reply = client.cmd(&["SET", &format!("key:{i}"), "v"]);
        assert!(reply == "+OK\r\n" || reply.contains("its name does not resolve"), "{reply}");
        reply != "+OK\r\n"
    });
    assert!(refusals.count() > 3, "requests for them are told why");
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    names.know(&[("c.names.test", &nodes[2].address()), ("d.names.test", &nodes[3].address())]);
    ["c", "d"].iter().for_each(|node| ringway.wait_back(node));
    until(SOON, "it is over", || newest(&mut ringway)["closed_ms"].is_number());
    for i in 0..100 {
        assert_eq!(client.cmd(&["SET", &format!("key:{i}"), "v"]), "+OK\r\n");
    }
    assert_eq!(ringway.metric("ringway_ejections_total", &[]), 0.0);
    assert_eq!(ringway.epoch(), epoch, "no key moved");
}

/// A name that does not exist is its node's misconfiguration, as the resolver answers.
#[test]
fn a_mistyped_name_is_its_node() {
    let Some(names) = Names::start() else { return };
    let nodes = Redis::several(4);
    names.know(&[("c.names.test", &nodes[2].address())]);
    let mut ringway = serve(&names, &config(&nodes));
    located(&mut ringway, Some("d"), "node", "unresolved");
    ringway.wait_away("d");
    ringway.wait_back("c");
}

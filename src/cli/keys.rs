//! `keys`: which keys, and which clients, the nodes of a running ringway are busy with.

use std::io::Write;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{Stop, admin};

const EXAMPLES: &str = "\
For each node that is busy: the keys with the largest parts of its requests, of their bytes, and of the \
time in which it was waited for, over about the last 15 seconds, and the clients that ask for most. They \
are estimates from samples: 42.0 +-3.1 means that the real part is from 38.9 % to 45.1 %, 19 times of 20. \
Keys of more than 48 bytes are cut. `hot_keys: false` in a pool switches sampling off; HTTP is never sampled.

Examples:
  ringway keys
  ringway keys --pool sessions --top 3
  ringway keys --admin 10.0.0.5:9400 --json | jq '.[0].nodes[0].busy_with.keys[0]'";

/// Arguments of `keys`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// One pool; all when it is not given
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// How many keys, and how many clients, to name of a node: 1 to 10
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=10))]
    top: u8,
    /// The admin address of the ringway
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    admin: String,
    /// Print the JSON that the admin port gives, in an array of pools
    #[arg(long)]
    json: bool,
}

/// Prints what nodes are busy with.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let names = match &arguments.pool {
        Some(pool) => vec![pool.clone()],
        None => {
            let topology = admin::get_json(&arguments.admin, "/v1/topology")?;
            let pools = topology["pools"].as_array().into_iter().flatten();
            pools.filter_map(|pool| pool["name"].as_str().map(str::to_owned)).collect()
        }
    };
    let mut pages = Vec::new();
    for name in names {
        let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        pages.push(admin::get_json(&arguments.admin, &format!("/v1/pools/{name}/keys"))?);
    }
    if arguments.json {
        return Ok(writeln!(out, "{:#}", Value::Array(pages))?);
    }
    pages.iter().try_for_each(|page| pool(page, usize::from(arguments.top), out))
}

fn pool(page: &Value, top: usize, out: &mut impl Write) -> Result<(), Stop> {
    let name = page["pool"].as_str().unwrap_or_default();
    let nodes: Vec<&Value> = page["nodes"].as_array().into_iter().flatten().collect();
    match (page["hot_keys"].as_bool(), nodes.is_empty()) {
        _ if page["protocol"] == "http" => {
            writeln!(out, "pool {name}: it speaks HTTP, which is not sampled")?
        }
        (Some(false), _) => writeln!(out, "pool {name}: hot_keys is false: nothing is sampled")?,
        (_, true) => writeln!(out, "pool {name}: no node is busy")?,
        _ => {}
    }
    for node in nodes {
        let busy = &node["busy_with"];
        let rate = |key: &str| busy[key].as_f64().unwrap_or_default();
        let node = node["node"].as_str().unwrap_or_default();
        let (requests, bytes) = (rate("requests_per_second"), rate("bytes_per_second") / 1024.0);
        writeln!(out, "node {node} of pool {name}: about {requests:.0} requests/s, {bytes:.0} KiB/s")?;
        for (list, word) in [("keys", "key"), ("clients", "client")] {
            let heavies: Vec<&Value> = busy[list].as_array().into_iter().flatten().take(top).collect();
            if !heavies.is_empty() {
                writeln!(out, "  {:>13} {:>13} {:>13}  {word}", "% of requests", "of bytes", "of time")?;
            }
            for heavy in heavies {
                let [requests, bytes, time] = ["requests", "bytes", "time"].map(|of| share(&heavy[of]));
                let name = heavy["name"].as_str().unwrap_or_default();
                writeln!(out, "  {requests:>13} {bytes:>13} {time:>13}  {name}")?;
            }
        }
    }
    Ok(())
}

/// `42.0 +-3.1`, in percent.
fn share(share: &Value) -> String {
    let percent = |key: &str| share[key].as_f64().unwrap_or_default() * 100.0;
    let (part, error) = (percent("share"), percent("error"));
    if part == 0.0 { "-".to_owned() } else { format!("{part:.1} +-{error:.1}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Nodes, keys and clients are told with their parts; a pool that is not sampled, or has nothing to do,
    /// says so.
    #[test]
    fn a_page_is_told() {
        let part = |share: f64| json!({ "share": share, "error": 0.031 });
        let heavy = |name: &str| json!({ "name": name, "requests": part(0.42), "bytes": part(0.0), "time": part(1.0), "times": 9.0 });
        let busy = json!({
            "requests_per_second": 1234.0, "bytes_per_second": 20480.0,
            "keys": [heavy("user:1"), heavy("user:2")], "clients": [heavy("10.0.0.1:5 (session 7)")],
        });
        let page =
            json!({ "pool": "cache", "hot_keys": true, "nodes": [{ "node": "n2", "busy_with": busy }] });
        let told = |page: &Value| {
            let mut out = Vec::new();
            assert!(pool(page, 1, &mut out).is_ok());
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            told(&page),
            "node n2 of pool cache: about 1234 requests/s, 20 KiB/s\n  % of requests      of bytes       of time  key\n     42.0 +-3.1             -   100.0 +-3.1  user:1\n  % of requests      of bytes       of time  client\n     42.0 +-3.1             -   100.0 +-3.1  10.0.0.1:5 (session 7)\n"
        );
        let none = json!({ "pool": "web", "hot_keys": true, "nodes": [] });
        assert_eq!(told(&none), "pool web: no node is busy\n");
        let web = json!({ "pool": "web", "protocol": "http", "hot_keys": true, "nodes": [] });
        assert_eq!(told(&web), "pool web: it speaks HTTP, which is not sampled\n");
        let off = json!({ "pool": "web", "hot_keys": false, "nodes": [] });
        assert_eq!(told(&off), "pool web: hot_keys is false: nothing is sampled\n");
    }
}

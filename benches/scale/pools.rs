//! One process with ever more pools of three nodes: what it costs to hold them, idle and with clients
//! in each, and to reload them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::{
    fleet::{Fleet, Place, free_ports},
    load::Failure,
    options::Options,
    subject::{Ports, Subject, ask, pool},
    table::markdown,
};

const NODES: usize = 3;
const WORKERS: usize = 2;
const RELOAD_MAX: Duration = Duration::from_secs(120);
const IDLE: Duration = Duration::from_secs(5);

pub(crate) fn run(fleet: &Fleet, options: &Options) -> Result<String, Failure> {
    let mut rows = Vec::new();
    for pools in [1, 250].into_iter().filter(|&n| n < options.pools).chain([options.pools]) {
        let row = row(fleet, options, pools)?;
        eprintln!("{}", row.join(" | "));
        rows.push(row);
    }
    let columns = [
        "start, ms",
        "RSS, MiB",
        "CPU when idle, ms/s",
        "descriptors",
        "threads",
        "with two clients in each: RSS, MiB",
        "CPU when idle, ms/s",
        "descriptors",
        "/metrics, MiB",
        "its time, ms",
        "reload of all, ms",
    ];
    let title = format!("Pools of {NODES} nodes, {WORKERS} workers");
    let mut text = String::new();
    markdown(&mut text, &title, "pools", &columns, &rows);
    Ok(text)
}

fn row(fleet: &Fleet, options: &Options, pools: usize) -> Result<Vec<String>, Failure> {
    // All at once, so that no two are the same.
    let mut listen = free_ports(pools + 1)?;
    let admin = listen.remove(pools);
    let ports = Ports { pool: listen[pools - 1], admin };
    let subject =
        Subject::start(fleet, &options.ringway, ports, &text(fleet, ports, &listen, "20s"), Place::Measured)?;
    std::thread::sleep(Duration::from_secs(2));
    let mut cells = vec![pools.to_string(), ms(subject.started_in)];
    cells.push(format!("{:.1}", subject.settled_kib()? / 1024.0));
    cells.push(format!("{:.1}", subject.cpu_ms_per_second(IDLE)?));
    cells.extend([subject.descriptors()?.to_string(), subject.threads()?.to_string()]);
    let clients = clients(&listen)?;
    cells.push(format!("{:.1}", subject.settled_kib()? / 1024.0));
    cells.push(format!("{:.1}", subject.cpu_ms_per_second(IDLE)?));
    cells.push(subject.descriptors()?.to_string());
    let (page, took) = subject.page("/metrics")?;
    cells.extend([format!("{:.2}", page.len() as f64 / f64::from(1 << 20)), ms(took)]);
    let start = Instant::now();
    subject.write_config(&text(fleet, ports, &listen, "20001ms"))?;
    subject.hang_up()?;
    let (count, took) = subject.logged("pool reloaded", pools, start, RELOAD_MAX)?;
    cells.push(if count >= pools { ms(took) } else { format!("- ({count})") });
    drop(clients);
    Ok(cells)
}

/// One client of each pool for each worker; each pool has asked a node.
fn clients(ports: &[u16]) -> Result<Vec<TcpStream>, Failure> {
    let mut clients = Vec::new();
    for &port in ports {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for _ in 0..WORKERS {
            clients.push(TcpStream::connect(address)?);
        }
        let reply = ask(address, b"GET scale\r\n")?;
        if reply.starts_with('-') {
            return Err(format!("a pool answers {reply}").into());
        }
    }
    Ok(clients)
}

fn text(fleet: &Fleet, ports: Ports, listen: &[u16], deadline: &str) -> String {
    let one = |(number, port): (usize, &u16)| {
        let node = |i: usize| format!("name: n{i}, address: '{}'", fleet.nodes[i]);
        pool(&format!("pool-{number}"), &format!("127.0.0.1:{port}"), deadline, (0..NODES).map(node))
    };
    ports.head(WORKERS) + &listen.iter().enumerate().map(one).collect::<String>()
}

fn ms(time: Duration) -> String {
    format!("{:.0}", time.as_secs_f64() * 1000.0)
}

//! One fault behind one proxy, from nodes without data to figures.

use std::{path::Path, thread::sleep, time::Duration};

use crate::{
    fault::Fault,
    figures::Figures,
    fleet::{Fleet, Place},
    harness::{Client, Load, SOON, load::Plan, until},
    load::Failure,
    nodes::Nodes,
    peers::Care,
    subject::Subject,
};

/// Threads of ringway's data plane: one for each core, as it would take itself.
const WORKERS: usize = 2;
/// Keys with which a proxy shows that it serves.
const TRIED: usize = 200;
/// What is seen of the time before the fault.
const BEFORE: Duration = Duration::from_secs(3);

/// The load: each client sends its next request some time after it has its reply.
pub(crate) const LOAD: Plan = Plan { clients: 50, keys: 100, writes: 10, pause: Duration::from_millis(10) };

pub(crate) fn run(
    fleet: &mut Fleet,
    subject: &Subject,
    program: &Path,
    fault: Fault,
) -> Result<Figures, Failure> {
    let mut nodes = Nodes::start(fault)?;
    fleet.nodes = nodes.addresses()?;
    let care = Care::Heals(subject.lines);
    let proxy = subject.peer.start_with(program, fleet, WORKERS, Place::Anywhere, care)?;
    let address = proxy.address.to_string();
    // Envoy listens before its first checks are through.
    let mut client = Client::connect(&address);
    until(SOON, "the proxy serves all keys", || {
        (0..TRIED).all(|i| client.cmd(&["SET", &format!("tried:{i}"), "v"]) == "+OK\r\n")
    });
    nodes.flush();
    let load = Load::start(&address, &LOAD);
    let homes = nodes.homes();
    sleep(BEFORE);
    let moments = fault.happen(&mut nodes);
    sleep(fault.after());
    Ok(Figures::of(&load.stop(), moments, &homes))
}

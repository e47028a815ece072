//! What operators want of nodes: planned as all changes are, before and beside what is thought of the
//! nodes. Pure.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    event::What,
    ledger::Ledger,
    plan::{Step, rules, step, told},
    settle::{is_refused, settle},
};
use crate::topology::{Entry, Order, Placement, Topology, Wanted};

/// What is to be in force for the node with this name when this is said of it; `None` when nothing is to be
/// done.
///
/// # Errors
/// Another order than the one that is taken back is in force: it is named, with what takes it back.
pub(super) fn wanted(now: &Topology, name: &str, wanted: Wanted) -> Result<Option<Option<Order>>, String> {
    let entry = now.nodes.iter().find(|entry| &*entry.node.name == name);
    let (is_there, in_force) = (entry.is_some(), entry.and_then(|entry| entry.order));
    match (wanted, in_force) {
        (Wanted::Order(order), _) => Ok(Some(Some(order))),
        (Wanted::TakenBack(order), Some(other)) if other != order => Err(format!(
            "node {name} is under the order {}, and {} does not take that back: `ringway {} {name}` does",
            other.word(),
            order.opposite(),
            other.opposite()
        )),
        // Only `restore` lets a node go on that was under no order.
        (Wanted::TakenBack(Order::Drain | Order::Pin), None) if is_there => Ok(None),
        (Wanted::TakenBack(_), _) => Ok(Some(None)),
    }
}

/// Nodes that are named to who asks for one that is not there.
const NAMED: usize = 20;

/// Plans an order for the node with this name; `None` takes back what was ordered. Gives `None` when
/// all is as it is wanted already.
///
/// # Errors
/// Why it can't be done, in words for the operator.
pub fn order(
    now: &Topology,
    ledger: &Ledger,
    (name, order): (&str, Option<Order>),
    time: Instant,
) -> Result<Option<Box<Step>>, String> {
    let Some(at) = now.nodes.iter().position(|entry| &*entry.node.name == name) else {
        let names: Vec<&str> = now.nodes.iter().map(|entry| &*entry.node.name).take(NAMED).collect();
        let more = if now.nodes.len() > NAMED { ", ..." } else { "" };
        return Err(format!("pool {}: there is no node {name}, it has {}{more}", now.pool, names.join(", ")));
    };
    let entry = &now.nodes[at];
    check(now, entry, order)?;
    if order == Some(Order::Drain)
        && entry.placement != Placement::Away
        && let Some(until) =
            ledger.debts.copies_until(entry.node.id, time).filter(|_| now.policy.minds_old_copies())
    {
        return Err(format!(
            "node {name}: other nodes may have old values of its keys: drain it when these are deleted, or have expired, \
             in {} s at most; eject takes it out now, and may bring them up",
            (until - time).as_secs() + 1
        ));
    }
    let mut ledger = ledger.clone();
    let waited = order.is_none() && ledger.go_on(entry.node.id, entry.order.is_none());
    if entry.order == order && !waited {
        return Ok(None);
    }
    let mut nodes = now.nodes.to_vec();
    nodes[at].order = order;
    ledger.order(&entry.node.name, order);
    settle(&mut nodes, &rules(now, time), &mut ledger);
    let mut events = told(&now.nodes, &nodes, &ledger);
    events.insert(0, What::Ordered(order, entry.order).of(entry));
    Ok(Some(Box::new(step(now, nodes, ledger, events, time))))
}

fn check(now: &Topology, entry: &Entry, order: Option<Order>) -> Result<(), String> {
    let name = &entry.node.name;
    // One that can't be cleaned serves nothing, for nobody knows how long.
    let serves = |e: &Entry| e.placement.serves() && !is_refused(e, e.placement);
    let others = |e: &&Entry| e.node.id != entry.node.id && serves(e);
    if order.is_some_and(Order::is_out) && !now.nodes.iter().any(|e| others(&e)) {
        return Err(format!("node {name} is the last of pool {} that owns keys: it stays", now.pool));
    }
    if order.is_none() && entry.order.is_none() && entry.health.is_out() && !entry.placement.serves() {
        let why = "it is ejected because it fails, and returns by itself when it answers; pin keeps it in";
        return Err(format!("node {name}: {why}"));
    }
    Ok(())
}

/// Gives nodes the orders that their names have.
pub(super) fn mark(nodes: &mut [Entry], orders: &std::collections::BTreeMap<Arc<str>, Order>) {
    if !orders.is_empty() {
        nodes.iter_mut().for_each(|entry| entry.order = orders.get(&entry.node.name).copied());
    }
}

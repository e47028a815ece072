//! Laws of a step that ask for nothing of the steps before: of orders, of `eject_max`, of what is told.

use std::sync::Arc;

use ringway::{
    membership::{Event, What},
    topology::{Entry, Health, Order},
};

use crate::{
    laws::{Breach, Case, Law, Reason, holds},
    planner::is_away,
};

/// What operators want is marked, and obeyed: a pinned node serves, one that is out by hand does not
/// unless it is the last.
pub(crate) fn orders(case: &Case<'_>) -> Result<(), Breach> {
    if case.orders.is_empty() && case.after.nodes.iter().all(|e| e.order.is_none()) {
        return Ok(());
    }
    let owners = case.after.nodes.iter().filter(|e| e.placement.serves()).count();
    for entry in case.after.nodes.iter() {
        let wanted = case.orders.get(&entry.node.name).copied();
        let is_obeyed = match wanted {
            None => true,
            // What it has may be old, and nobody can clean it as long as it fails.
            Some(Order::Pin) => entry.placement.serves() || stays_out(case, entry),
            Some(Order::Drain | Order::Eject) => is_away(entry) || owners == 1,
        };
        holds(Law::Orders, entry.order == wanted && is_obeyed, || {
            let Entry { node, order, placement, .. } = entry;
            format!("node {}: wanted {wanted:?}, marked {order:?}, and it is {placement:?}", node.name)
        })?;
    }
    Ok(())
}

/// Whether a node was out before, and fails still.
fn stays_out(case: &Case<'_>, entry: &Entry) -> bool {
    let was = case.before.nodes.iter().find(|e| e.node.name == entry.node.name);
    !works(entry) && was.is_some_and(|was| !was.placement.serves()) && !entry.placement.serves()
}

pub(crate) fn works(entry: &Entry) -> bool {
    !entry.health.is_out()
}

/// Not too much is out, but for what operators put out and what was out before and fails still, and nobody is
/// kept that may go.
pub(crate) fn guard(case: &Case<'_>) -> Result<(), Breach> {
    let nodes = &case.after.nodes;
    let weight = |which: &dyn Fn(&Entry) -> bool| -> u32 {
        nodes.iter().filter(|e| which(e)).map(|e| e.node.weight).sum()
    };
    let is_out = |e: &Entry| !e.placement.serves();
    let (total, out) = (weight(&|_| true), weight(&is_out));
    let by_hand = weight(&|e| is_out(e) && e.order.is_some_and(Order::is_out));
    let stays = weight(&|e| !e.order.is_some_and(Order::is_out) && stays_out(case, e));
    let most = case.after.health.eject_max * f64::from(total) + 1e-6;
    let owners = nodes.iter().filter(|e| !is_out(e)).count();
    holds(Law::Guard, owners > 0, || "nobody owns".to_owned())?;
    holds(Law::Guard, f64::from(out) <= most || out == by_hand + stays, || {
        format!("{out} of {total} is out, {by_hand} by hand, {stays} as before, at most {most:.2} may be")
    })?;
    let kept = nodes.iter().filter(|e| !is_out(e) && e.order.is_none() && e.health == Health::Ejected);
    for entry in kept {
        let must = owners == 1 || f64::from(out + entry.node.weight) > most - 2e-6;
        holds(Law::Guard, must, || format!("node {} is ejected and may go, but is kept", entry.node.name))?;
    }
    Ok(())
}

/// Each change of a placement is told once. What operators did is told as their order, and that a node left
/// as their reload.
pub(crate) fn told(case: &Case<'_>) -> Result<(), Breach> {
    let of_placement = |event: &&Event| {
        matches!(
            event.what,
            What::Ejected(_)
                | What::Held(_)
                | What::Released(_)
                | What::Stays
                | What::Readmitted(_)
                | What::Starts(_)
                | What::Admits(_)
                | What::Restored(_)
        )
    };
    let told: Vec<&Arc<str>> =
        case.events.iter().filter(of_placement).filter_map(|e| e.node.as_ref()).collect();
    if matches!(case.reason, Reason::Order(_) | Reason::Reload { .. }) {
        return Ok(());
    }
    for (before, after) in case.before.nodes.iter().zip(case.after.nodes.iter()) {
        let is_other = before.placement != after.placement;
        let waits =
            |e: &&Event| matches!(e.what, What::Waits(..)) && e.node.as_ref() == Some(&after.node.name);
        let waits = case.events.iter().filter(waits).count() * usize::from(is_other);
        let times = told.iter().filter(|name| ***name == after.node.name).count() + waits;
        holds(Law::Told, times == usize::from(is_other), || {
            format!(
                "node {} went from {:?} to {:?} and was told {times} times",
                after.node.name, before.placement, after.placement
            )
        })?;
    }
    Ok(())
}

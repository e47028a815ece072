//! `modula`, twemproxy's other distribution: the hash modulo the sum of weights, over the list of
//! nodes in the order of the configuration, each repeated as often as its weight says.
//!
//! twemproxy shrinks the list when it ejects a node, which moves almost all keys; ringway walks on
//! to the next entry past a node that is away.

use super::{Member, table::Slots};

/// Builds the slots.
pub(super) fn build(members: &[Member]) -> Slots {
    let owners = members.iter().enumerate().flat_map(|(i, m)| (0..m.weight).map(move |_| i as u32));
    Slots::new(owners.collect(), 32)
}

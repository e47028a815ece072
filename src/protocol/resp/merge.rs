//! How the replies of several nodes become one. The elements of a reply are copied as they are:
//! all parts come from pipelines of the client's own protocol version, so what RESP2 and RESP3
//! write differently is right already.
//!
//! A reply without the shape that its command has is an error that names the node, never a merge.

use super::frame::strings;
use super::rule::{Gather, Split};
use super::value::{Elements, Value};
use super::{Version, write};
pub use crate::protocol::merge::{Merged, Part};

/// Why a part can't be merged.
#[derive(Clone, Copy, Debug)]
enum Fault<'a> {
    /// It is an error, with this text.
    Said(&'a [u8]),
    /// It is not what this command answers.
    Shape,
}

/// Merges the parts of a request that was split by key. `keys` is how many the client named.
///
/// With `per_key_errors` a part of [`Split::Values`] that failed is an error for each of its keys;
/// otherwise, and for the other kinds, one failed part fails the command. An error of a part that
/// is the whole request passes as it is.
pub fn split(
    kind: Split,
    keys: usize,
    parts: &[Part<'_>],
    per_key_errors: bool,
    out: &mut Vec<u8>,
) -> Merged {
    match kind {
        Split::Values => values(keys, parts, per_key_errors, out),
        Split::Pairs => match ok_of_all(parts) {
            Ok(()) => whole(|| write::simple(out, "OK")),
            Err(faults) => refuse_parts(out, parts, &faults),
        },
        Split::Count => match sum(parts) {
            Ok(n) => whole(|| write::integer(out, n)),
            Err(faults) => refuse_parts(out, parts, &faults),
        },
    }
}

/// Merges the replies of all nodes.
///
/// `owns(part, key)` tells whether that part's node is the owner of a key; `pick` chooses among the
/// candidates of [`Gather::Random`], any number will do. An error that all nodes agree on passes as
/// it is, another one names its node.
pub fn gather(
    kind: Gather,
    parts: &[Part<'_>],
    version: Version,
    owns: &dyn Fn(usize, &[u8]) -> bool,
    pick: u64,
    out: &mut Vec<u8>,
) -> Merged {
    let merged = match kind {
        Gather::Sum => sum(parts).map(|n| write::integer(out, n)),
        Gather::Ok => ok_of_all(parts).map(|()| write::simple(out, "OK")),
        Gather::Keys => keys(parts, owns, out),
        Gather::Random => match random(parts, version, owns, pick, out) {
            Ok(merged) => return merged,
            Err(faults) => Err(faults),
        },
        Gather::Same => return same(parts, out),
        Gather::Every => every(parts, out),
        Gather::Any => one_ok(parts, out),
    };
    match merged {
        Ok(()) => Merged::Whole,
        Err(faults) => refuse_nodes(out, parts, &faults),
    }
}

fn whole(write: impl FnOnce()) -> Merged {
    write();
    Merged::Whole
}

/// What failed: part and reason, in the order of the parts. Never empty.
type Faults<'a> = Vec<(usize, Fault<'a>)>;

/// Looks at every part; all faults, if there is one.
fn each<'a>(
    parts: &[Part<'a>],
    mut look: impl FnMut(Value<'a>) -> Result<(), Fault<'a>>,
) -> Result<(), Faults<'a>> {
    let mut faults = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if let Err(fault) = value(part).and_then(&mut look) {
            faults.push((i, fault));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The part's reply, if it is one value and no error.
fn value<'a>(part: &Part<'a>) -> Result<Value<'a>, Fault<'a>> {
    let (value, used) = Value::parse(part.reply).ok_or(Fault::Shape)?;
    if used != part.reply.len() {
        return Err(Fault::Shape);
    }
    value.error().map_or(Ok(value), |text| Err(Fault::Said(text)))
}

fn array(value: Value<'_>) -> Result<Elements<'_>, Fault<'_>> {
    if let Value::Array(elements) = value { Ok(elements) } else { Err(Fault::Shape) }
}

fn ok_of_all<'a>(parts: &[Part<'a>]) -> Result<(), Faults<'a>> {
    if parts.iter().all(|part| part.reply == b"+OK\r\n") {
        return Ok(());
    }
    each(parts, |v| if v == Value::Simple(b"OK") { Ok(()) } else { Err(Fault::Shape) })
}

fn sum<'a>(parts: &[Part<'a>]) -> Result<i64, Faults<'a>> {
    let mut sum = 0i64;
    each(parts, |v| {
        let Value::Integer(n) = v else { return Err(Fault::Shape) };
        sum = sum.checked_add(n).ok_or(Fault::Shape)?;
        Ok(())
    })?;
    Ok(sum)
}

fn values(keys: usize, parts: &[Part<'_>], per_key_errors: bool, out: &mut Vec<u8>) -> Merged {
    let mut errors: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut faults: Faults<'_> = Vec::new();
    let mut places: Vec<&[u8]> = vec![&[]; keys];
    for (i, part) in parts.iter().enumerate() {
        if let Err(fault) = place(part, &mut places) {
            faults.push((i, fault));
        }
    }
    if !faults.is_empty() && !per_key_errors {
        return refuse_parts(out, parts, &faults);
    }
    for (i, fault) in &faults {
        let mut error = Vec::new();
        refuse(&mut error, &parts[*i], *fault, "");
        errors.push((*i, error));
    }
    for (i, error) in &errors {
        for at in parts[*i].positions {
            if let Some(slot) = places.get_mut(*at as usize) {
                *slot = error;
            }
        }
    }
    // A key that no part asked for would shift all behind it.
    if places.iter().any(|raw| raw.is_empty()) {
        write::error(out, "ERR ringway has no reply for one of the keys, which is a fault of its own");
        return Merged::Failed;
    }
    write::array(out, keys);
    places.iter().for_each(|raw| out.extend_from_slice(raw));
    if faults.is_empty() { Merged::Whole } else { Merged::Partly }
}

/// Puts each element of a part where the client asked for it.
fn place<'a>(part: &Part<'a>, places: &mut [&'a [u8]]) -> Result<(), Fault<'a>> {
    if place_strings(part, places).is_some() {
        return Ok(());
    }
    let elements = array(value(part)?)?;
    if elements.left() != part.positions.len() as u64 {
        return Err(Fault::Shape);
    }
    let mut placed = 0;
    for ((raw, _), at) in elements.zip(part.positions) {
        *places.get_mut(*at as usize).ok_or(Fault::Shape)? = raw;
        placed += 1;
    }
    if placed == part.positions.len() { Ok(()) } else { Err(Fault::Shape) }
}

/// The same for an array of strings and nulls, as nearly all are, in one pass. None for anything
/// else; some places may be set then.
fn place_strings<'a>(part: &Part<'a>, places: &mut [&'a [u8]]) -> Option<()> {
    let mut placed = 0;
    let used = strings(part.reply, |nth, raw| {
        *places.get_mut(*part.positions.get(nth)? as usize)? = raw;
        placed += 1;
        Some(())
    })?;
    (used == part.reply.len() && placed == part.positions.len()).then_some(())
}

/// All keys of all parts, but for those that the answering node does not own.
fn keys<'a>(
    parts: &[Part<'a>],
    owns: &dyn Fn(usize, &[u8]) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), Faults<'a>> {
    let mut found: Vec<Vec<(&[u8], &[u8])>> = Vec::with_capacity(parts.len());
    each(parts, |v| {
        found.push(array(v)?.bulks().ok_or(Fault::Shape)?);
        Ok(())
    })?;
    for (i, keys) in found.iter_mut().enumerate() {
        keys.retain(|(_, key)| owns(i, key));
    }
    write::array(out, found.iter().map(Vec::len).sum());
    found.iter().flatten().for_each(|(raw, _)| out.extend_from_slice(raw));
    Ok(())
}

fn random<'a>(
    parts: &[Part<'a>],
    version: Version,
    owns: &dyn Fn(usize, &[u8]) -> bool,
    pick: u64,
    out: &mut Vec<u8>,
) -> Result<Merged, Faults<'a>> {
    let mut found: Vec<Option<&[u8]>> = Vec::with_capacity(parts.len());
    each(parts, |v| {
        found.push(match v {
            Value::Bulk(key) => Some(key),
            Value::Null => None,
            _ => return Err(Fault::Shape),
        });
        Ok(())
    })?;
    let owned: Vec<&[u8]> =
        found.iter().enumerate().filter_map(|(i, key)| key.filter(|key| owns(i, key))).collect();
    if !owned.is_empty() {
        write::bulk(out, owned[(pick % owned.len() as u64) as usize]);
    } else if found.iter().all(Option::is_none) {
        write::null(out, version);
    } else {
        // Nothing here would say that there are no keys.
        write::error(out, "TRYAGAIN the nodes answered with keys that they do not own, ask again");
        return Ok(Merged::Failed);
    }
    Ok(Merged::Whole)
}

/// The one reply that all nodes gave.
fn same(parts: &[Part<'_>], out: &mut Vec<u8>) -> Merged {
    if let Err(faults) = each(parts, |_| Ok(())) {
        return refuse_nodes(out, parts, &faults);
    }
    let Some(first) = parts.first() else { return nobody(out) };
    match parts.iter().find(|part| part.reply != first.reply) {
        None => whole(|| out.extend_from_slice(first.reply)),
        Some(other) => {
            write::error(out, format!("ERR nodes {} and {} answer differently", first.node, other.node));
            Merged::Failed
        }
    }
}

/// 1 where all nodes say 1.
fn every<'a>(parts: &[Part<'a>], out: &mut Vec<u8>) -> Result<(), Faults<'a>> {
    let mut all: Option<Vec<i64>> = None;
    each(parts, |v| {
        let elements = array(v)?;
        let announced = elements.left();
        let said: Vec<i64> =
            elements.map_while(|(_, v)| if let Value::Integer(n) = v { Some(n) } else { None }).collect();
        let known = all.get_or_insert_with(|| said.clone());
        if said.len() as u64 != announced || known.len() != said.len() {
            return Err(Fault::Shape);
        }
        known.iter_mut().zip(said).for_each(|(known, n)| *known = n.min(*known));
        Ok(())
    })?;
    let all = all.unwrap_or_default();
    write::array(out, all.len());
    all.iter().for_each(|n| write::integer(out, *n));
    Ok(())
}

/// `+OK` when one says so. Else an error, and of several not `NOTBUSY`: that a script can't be
/// killed at one node says more than that there is none at another.
fn one_ok<'a>(parts: &[Part<'a>], out: &mut Vec<u8>) -> Result<(), Faults<'a>> {
    let Err(mut faults) = ok_of_all(parts) else {
        write::simple(out, "OK");
        return Ok(());
    };
    if faults.len() < parts.len() {
        write::simple(out, "OK");
        return Ok(());
    }
    faults.sort_by_key(|(_, fault)| matches!(fault, Fault::Said(text) if text.starts_with(b"NOTBUSY")));
    Err(faults)
}

fn nobody(out: &mut Vec<u8>) -> Merged {
    write::error(out, "ERR no node was asked");
    Merged::Failed
}

/// One error for a command of which parts failed.
fn refuse_parts(out: &mut Vec<u8>, parts: &[Part<'_>], faults: &Faults<'_>) -> Merged {
    match (parts, faults.as_slice()) {
        ([only], [(_, Fault::Said(_))]) => out.extend_from_slice(only.reply),
        (_, [(i, fault), ..]) => {
            let note = format!(" ({} of {} parts of the request failed)", faults.len(), parts.len());
            refuse(out, &parts[*i], *fault, &note);
        }
        _ => return nobody(out),
    }
    Merged::Failed
}

/// One error for a command that nodes failed.
fn refuse_nodes(out: &mut Vec<u8>, parts: &[Part<'_>], faults: &Faults<'_>) -> Merged {
    match faults.as_slice() {
        [(i, Fault::Said(_)), ..] if parts.iter().all(|p| p.reply == parts[*i].reply) => {
            out.extend_from_slice(parts[*i].reply);
        }
        [(i, fault), ..] => {
            let note = format!(" ({} of {} nodes failed)", faults.len(), parts.len());
            refuse(out, &parts[*i], *fault, &note);
        }
        [] => return nobody(out),
    }
    Merged::Failed
}

/// An error that keeps its code and names its node, unless it does so already, as ours do.
fn refuse(out: &mut Vec<u8>, part: &Part<'_>, fault: Fault<'_>, note: &str) {
    let text = match fault {
        Fault::Said(text) => text,
        Fault::Shape => b"ERR a reply without the shape of this command's",
    };
    let (code, rest) = match text.iter().position(|b| *b == b' ') {
        Some(i) if text[..i].iter().all(u8::is_ascii_uppercase) => (&text[..i], &text[i + 1..]),
        _ => (&b"ERR"[..], text),
    };
    let node = format!("node {}", part.node);
    let named = text.windows(node.len()).any(|w| w == node.as_bytes());
    let node = if named { String::new() } else { format!("{node}: ") };
    write::error(out, [code, b" ", node.as_bytes(), rest, note.as_bytes()].concat());
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    fn part<'a>(node: &'a str, reply: &'a str, positions: &'a [u32]) -> Part<'a> {
        Part { node, reply: reply.as_bytes(), positions }
    }

    fn split_of(kind: Split, keys: usize, parts: &[Part<'_>], per_key: bool) -> (String, Merged) {
        let mut out = Vec::new();
        let merged = split(kind, keys, parts, per_key, &mut out);
        (String::from_utf8(out).expect("text"), merged)
    }

    fn gather_of(kind: Gather, parts: &[Part<'_>]) -> (String, Merged) {
        let mut out = Vec::new();
        // A node owns the keys that begin with its name.
        let owns = |i: usize, key: &[u8]| key.starts_with(parts[i].node.as_bytes());
        let merged = gather(kind, parts, Version::Resp3, &owns, 1, &mut out);
        (String::from_utf8(out).expect("text"), merged)
    }

    /// An MGET over two nodes comes back in the client's order, byte for byte, nulls of both
    /// versions, doubled keys and attributes included.
    #[test]
    fn values_in_the_clients_order() {
        let parts = [
            part("a", "*3\r\n$1\r\nx\r\n_\r\n|1\r\n+t\r\n:1\r\n$1\r\nx\r\n", &[3, 0, 1]),
            part("b", "*1\r\n$-1\r\n", &[2]),
        ];
        let (text, merged) = split_of(Split::Values, 4, &parts, false);
        assert_eq!(text, "*4\r\n_\r\n|1\r\n+t\r\n:1\r\n$1\r\nx\r\n$-1\r\n$1\r\nx\r\n");
        assert_eq!(merged, Merged::Whole);
    }

    /// A failed part is one error that keeps its code and names its node; or, by option, an error
    /// for each of its keys and of no other.
    #[test]
    fn values_with_a_failed_part() {
        let parts = [
            part("a", "*2\r\n$1\r\nx\r\n$1\r\ny\r\n", &[0, 2]),
            part("b", "-LOADING not yet\r\n", &[1, 3]),
            part("c", "-ERR node c (10.0.0.3:6379): away\r\n", &[4]),
        ];
        assert_eq!(
            split_of(Split::Values, 5, &parts, false),
            ("-LOADING node b: not yet (2 of 3 parts of the request failed)\r\n".into(), Merged::Failed)
        );
        let expected = "*5\r\n$1\r\nx\r\n-LOADING node b: not yet\r\n$1\r\ny\r\n-LOADING node b: not yet\r\n-ERR node c (10.0.0.3:6379): away\r\n";
        assert_eq!(split_of(Split::Values, 5, &parts, true), (expected.into(), Merged::Partly));
    }

    /// A reply without the command's shape is an error that names the node.
    #[test]
    fn wrong_shapes_are_errors() {
        let good = part("a", "*1\r\n$1\r\nx\r\n", &[0]);
        for bad in [
            "*2\r\n+x\r\n+y\r\n",
            "*0\r\n",
            "*-1\r\n",
            "_\r\n",
            ":1\r\n",
            "%1\r\n+a\r\n+b\r\n",
            "*1\r\n:x\r\n",
            "*1\r\n",
            "",
            "*1\r\n+x\r\n+more\r\n",
        ] {
            let (text, merged) = split_of(Split::Values, 2, &[good, part("b", bad, &[1])], false);
            assert!(text.starts_with("-ERR node b: a reply without the shape"), "{bad:?}: {text}");
            assert_eq!(merged, Merged::Failed);
            let (text, merged) = split_of(Split::Values, 2, &[good, part("b", bad, &[1])], true);
            assert!(text.starts_with("*2\r\n$1\r\nx\r\n-ERR node b: a reply"), "{bad:?}: {text}");
            assert_eq!(merged, Merged::Partly);
        }
        for (kind, bad) in [
            (Split::Count, "+OK\r\n"),
            (Split::Count, ":9223372036854775807\r\n"),
            (Split::Pairs, ":1\r\n"),
            (Split::Pairs, "+QUEUED\r\n"),
        ] {
            let first = if kind == Split::Count { ":1\r\n" } else { "+OK\r\n" };
            let parts = [part("a", first, &[0]), part("b", bad, &[1])];
            let (text, merged) = split_of(kind, 2, &parts, false);
            assert!(text.starts_with("-ERR node b: a reply without the shape"), "{bad:?}: {text}");
            assert_eq!(merged, Merged::Failed);
        }
        let (text, merged) = split_of(Split::Values, 2, &[good], false);
        assert!(text.starts_with("-ERR ringway has no reply for one of the keys"), "{text}");
        assert_eq!(merged, Merged::Failed);
        assert_eq!(split_of(Split::Values, 1, &[part("a", "*1\r\n+x\r\n", &[7])], false).1, Merged::Failed);
    }

    /// Counts add up, pairs are OK together, and the one part of a whole request passes its error
    /// untouched.
    #[test]
    fn counts_and_pairs() {
        let of =
            |kind, a: &str, b: &str| split_of(kind, 2, &[part("a", a, &[0]), part("b", b, &[1])], false).0;
        assert_eq!(of(Split::Count, ":1\r\n", ":2\r\n"), ":3\r\n");
        assert_eq!(of(Split::Pairs, "+OK\r\n", "+OK\r\n"), "+OK\r\n");
        assert_eq!(
            of(Split::Pairs, "+OK\r\n", "-OOM no\r\n"),
            "-OOM node b: no (1 of 2 parts of the request failed)\r\n"
        );
        assert_eq!(
            of(Split::Count, "!3\r\na b\r\n", ":1\r\n"),
            "-ERR node a: a b (1 of 2 parts of the request failed)\r\n"
        );
        let alone = [part("a", "-OOM no\r\n", &[0])];
        for kind in [Split::Values, Split::Pairs, Split::Count] {
            assert_eq!(split_of(kind, 1, &alone, false), ("-OOM no\r\n".into(), Merged::Failed));
        }
        assert_eq!(split_of(Split::Pairs, 0, &[], false).0, "+OK\r\n");
    }

    /// The replies of all nodes become one, as the rule of each command says.
    #[test]
    fn a_table_of_gathers() {
        let shape = "-ERR node b: a reply without the shape of this command's (1 of 2 nodes failed)\r\n";
        for (kind, a, b, expected) in [
            (Gather::Sum, ":1\r\n", ":2\r\n", ":3\r\n"),
            (Gather::Sum, ":1\r\n", "+OK\r\n", shape),
            (Gather::Sum, ":1\r\n", "-ERR no\r\n", "-ERR node b: no (1 of 2 nodes failed)\r\n"),
            (Gather::Sum, "-ERR no\r\n", "-ERR no\r\n", "-ERR no\r\n"),
            (Gather::Ok, "+OK\r\n", "+OK\r\n", "+OK\r\n"),
            (Gather::Ok, "+OK\r\n", "-ERR no\r\n", "-ERR node b: no (1 of 2 nodes failed)\r\n"),
            (
                Gather::Keys,
                "*2\r\n$2\r\na1\r\n$2\r\nb1\r\n",
                "*1\r\n$2\r\nb2\r\n",
                "*2\r\n$2\r\na1\r\n$2\r\nb2\r\n",
            ),
            (Gather::Keys, "*0\r\n", "*0\r\n", "*0\r\n"),
            (Gather::Keys, "*0\r\n", ":1\r\n", shape),
            (Gather::Keys, "*0\r\n", "*2\r\n$2\r\nb1\r\n:x\r\n", shape),
            (Gather::Keys, "*0\r\n", "*2\r\n$2\r\nb1\r\n+b2\r\n", shape),
            (Gather::Random, "_\r\n", "$2\r\nb1\r\n", "$2\r\nb1\r\n"),
            (Gather::Random, "$2\r\na1\r\n", "$2\r\na2\r\n", "$2\r\na1\r\n"),
            (Gather::Random, "$2\r\na1\r\n", "$2\r\nb1\r\n", "$2\r\nb1\r\n"),
            (Gather::Random, "_\r\n", "_\r\n", "_\r\n"),
            (
                Gather::Random,
                "_\r\n",
                "$2\r\na1\r\n",
                "-TRYAGAIN the nodes answered with keys that they do not own, ask again\r\n",
            ),
            (Gather::Random, "_\r\n", ":1\r\n", shape),
            (Gather::Same, "$1\r\nx\r\n", "$1\r\nx\r\n", "$1\r\nx\r\n"),
            (Gather::Same, "$1\r\nx\r\n", "$1\r\ny\r\n", "-ERR nodes a and b answer differently\r\n"),
            (Gather::Same, "-ERR compile\r\n", "-ERR compile\r\n", "-ERR compile\r\n"),
            (Gather::Same, "$1\r\nx\r\n", "-ERR no\r\n", "-ERR node b: no (1 of 2 nodes failed)\r\n"),
            (Gather::Every, "*2\r\n:1\r\n:1\r\n", "*2\r\n:0\r\n:1\r\n", "*2\r\n:0\r\n:1\r\n"),
            (Gather::Every, "*2\r\n:1\r\n:1\r\n", "*1\r\n:0\r\n", shape),
            (Gather::Every, "*1\r\n:1\r\n", "*1\r\n+1\r\n", shape),
            (Gather::Any, "-NOTBUSY none\r\n", "+OK\r\n", "+OK\r\n"),
            (Gather::Any, "-NOTBUSY none\r\n", "-NOTBUSY none\r\n", "-NOTBUSY none\r\n"),
            (
                Gather::Any,
                "-NOTBUSY none\r\n",
                "-UNKILLABLE it wrote\r\n",
                "-UNKILLABLE node b: it wrote (2 of 2 nodes failed)\r\n",
            ),
        ] {
            let (text, merged) = gather_of(kind, &[part("a", a, &[]), part("b", b, &[])]);
            assert_eq!(text, expected, "{kind:?} {a:?} {b:?}");
            assert_eq!(merged == Merged::Failed, text.starts_with('-'), "{kind:?} {a:?} {b:?}");
        }
        assert_eq!(gather_of(Gather::Same, &[]), ("-ERR no node was asked\r\n".into(), Merged::Failed));
    }

    /// The null of a random key is written in the client's version.
    #[test]
    fn nothing_there_in_both_versions() {
        for (version, null) in [(Version::Resp2, "$-1\r\n"), (Version::Resp3, "_\r\n")] {
            let mut out = Vec::new();
            gather(Gather::Random, &[part("a", null, &[])], version, &|_, _| true, 0, &mut out);
            assert_eq!(out, null.as_bytes());
        }
    }

    proptest! {
        /// However keys are spread over nodes, the merged MGET is the one that a single node
        /// would have answered.
        #[test]
        fn a_split_mget_is_the_whole_one(owners in prop::collection::vec(0usize..4, 1..40)) {
            let mut replies = vec![String::new(); 4];
            let mut positions = vec![Vec::new(); 4];
            let mut whole = format!("*{}\r\n", owners.len());
            for (key, owner) in owners.iter().enumerate() {
                let value = if key % 5 == 0 { "_\r\n".to_owned() } else { format!("$2\r\n{:02}\r\n", key) };
                replies[*owner].push_str(&value);
                whole.push_str(&value);
                positions[*owner].push(key as u32);
            }
            for (reply, positions) in replies.iter_mut().zip(&positions) {
                let body = std::mem::take(reply);
                write!(reply, "*{}\r\n{body}", positions.len()).expect("a string");
            }
            let parts: Vec<Part<'_>> = (0..4).map(|i| part("n", &replies[i], &positions[i])).collect();
            prop_assert_eq!(split_of(Split::Values, owners.len(), &parts, false), (whole, Merged::Whole));
        }

        /// No reply of a node, whatever its bytes, makes a merge panic or leave the protocol.
        #[test]
        fn any_replies(
            replies in prop::collection::vec(prop::collection::vec(prop_oneof![
                prop::sample::select(b"*$:+-_\r\n\r\n".to_vec()), b'0'..=b'2'
            ], 0..24), 1..4),
            per_key in any::<bool>(),
        ) {
            let parts: Vec<Part<'_>> =
                replies.iter().map(|r| Part { node: "n", reply: r, positions: &[0, 1] }).collect();
            let mut out = Vec::new();
            let whole = |out: &[u8]| Value::parse(out).is_some_and(|(_, used)| used == out.len());
            for kind in [Split::Values, Split::Pairs, Split::Count] {
                out.clear();
                split(kind, 2, &parts, per_key, &mut out);
                prop_assert!(whole(&out), "{:?}", out.escape_ascii().to_string());
            }
            for kind in [Gather::Sum, Gather::Ok, Gather::Keys, Gather::Random, Gather::Same, Gather::Every, Gather::Any] {
                out.clear();
                gather(kind, &parts, Version::Resp2, &|_, _| true, 7, &mut out);
                prop_assert!(whole(&out), "{:?}", out.escape_ascii().to_string());
            }
        }
    }
}

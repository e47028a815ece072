//! Commands whose keys the published specifications do not describe well enough, read as the
//! servers read their options.

use super::{commands::Command, frame::Request, table::Refusal};

/// How the options of a command are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// `MSET`: each key has a value.
    Pairs,
    /// `COPY`: without its `DB`.
    Copy,
    /// `SORT`: `STORE` anywhere, patterns that name other keys.
    Sort,
    /// `SORT_RO`: the same without `STORE`.
    SortRo,
    /// `MIGRATE`: the third argument, or all behind `KEYS` when that is empty.
    Migrate,
    /// `GEORADIUS`, `GEORADIUSBYMEMBER`: the last of `STORE` and `STOREDIST`, among the options that begin
    /// here.
    Geo(usize),
    /// `XREAD`, `XREADGROUP`: the first half of what stands behind `STREAMS`; no `BLOCK`.
    Streams,
}

/// What a walk over the options of a request found.
#[derive(Debug, Default)]
struct Options {
    /// Positions from .. to of keys.
    keys: (usize, usize),
    /// One key more.
    store: Option<usize>,
    /// A pattern that names keys which may live anywhere.
    pattern: bool,
    /// It waits for data.
    blocks: bool,
}

impl Hand {
    /// The rule for a command, by its name in lower case.
    pub(super) fn of(name: &str) -> Option<Hand> {
        match name {
            "mset" => Some(Hand::Pairs),
            "copy" => Some(Hand::Copy),
            "sort" => Some(Hand::Sort),
            "sort_ro" => Some(Hand::SortRo),
            "migrate" => Some(Hand::Migrate),
            "georadius" => Some(Hand::Geo(6)),
            "georadiusbymember" => Some(Hand::Geo(5)),
            "xread" | "xreadgroup" => Some(Hand::Streams),
            _ => None,
        }
    }

    /// Whether it finds the keys too, not the specifications of the command.
    pub(super) fn finds_keys(self) -> bool {
        matches!(self, Hand::Sort | Hand::SortRo | Hand::Migrate | Hand::Geo(_) | Hand::Streams)
    }

    /// Refuses what a proxy can't do right, in a pool of so many nodes.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn permits(
        self,
        command: &Command,
        request: &Request<'_>,
        nodes: usize,
    ) -> Result<(), Refusal> {
        match self {
            Hand::Pairs if request.len().is_multiple_of(2) => Err(Refusal::arity(&command.name)),
            Hand::Copy if (3..request.len()).any(|at| is(request, at, "DB")) => {
                Err(Refusal::not_offered("copy", "its DB option names another database; a pool has one"))
            }
            Hand::Sort | Hand::SortRo if nodes > 1 && sort(request).pattern => Err(Refusal::keys(
                "ERR SORT with BY or GET patterns reads keys that may live on other nodes; sort in the client, \
                 or in a pool of one node"
                    .to_owned(),
            )),
            Hand::Streams if streams(request).blocks => Err(Refusal::not_offered(
                &command.name,
                "with BLOCK it waits on a connection that other clients share; ask again without BLOCK",
            )),
            _ => Ok(()),
        }
    }

    /// Calls `found` with each position, and whether it is a `STORE`'s; tells whether the request
    /// has the keys that it needs.
    pub(super) fn keys(self, request: &Request<'_>, mut found: impl FnMut(usize, bool)) -> bool {
        let options = match self {
            Hand::Sort => sort(request),
            Hand::SortRo => Options { store: None, ..sort(request) },
            Hand::Migrate => migrate(request),
            Hand::Geo(options) => geo(request, options),
            Hand::Streams => streams(request),
            Hand::Pairs | Hand::Copy => Options::default(),
        };
        for at in options.keys.0..options.keys.1 {
            found(at, false);
        }
        if let Some(at) = options.store {
            found(at, true);
        }
        options.keys.0 < options.keys.1
    }
}

fn is(request: &Request<'_>, at: usize, word: &str) -> bool {
    request.arg(at).eq_ignore_ascii_case(word.as_bytes())
}

/// `SORT key [BY p] [LIMIT o c] [GET p ...] [ASC|DESC] [ALPHA] [STORE key]`. The last `STORE`
/// counts; a pattern without `*` names no key.
fn sort(request: &Request<'_>) -> Options {
    let mut options = Options { keys: (1, 2.min(request.len())), ..Options::default() };
    let mut at = 2;
    while at < request.len() {
        let left = request.len() - at - 1;
        at += if is(request, at, "LIMIT") && left >= 2 {
            3
        } else if is(request, at, "STORE") && left >= 1 {
            options.store = Some(at + 1);
            2
        } else if (is(request, at, "BY") || is(request, at, "GET")) && left >= 1 {
            options.pattern |= request.arg(at + 1).contains(&b'*');
            2
        } else {
            1
        };
    }
    options
}

/// `GEORADIUS key x y radius unit [option ...] [STORE key|STOREDIST key]`: the last one counts, whichever of
/// both it is.
fn geo(request: &Request<'_>, from: usize) -> Options {
    let mut options = Options { keys: (1, 2.min(request.len())), ..Options::default() };
    let mut at = from;
    while at + 1 < request.len() {
        let stores = is(request, at, "STORE") || is(request, at, "STOREDIST");
        if stores {
            options.store = Some(at + 1);
        }
        at += if stores { 2 } else { 1 };
    }
    options
}

/// `MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH p] [AUTH2 u p] [KEYS key ...]`.
fn migrate(request: &Request<'_>) -> Options {
    let one = Options { keys: (3, 4.min(request.len())), ..Options::default() };
    if !request.arg(3).is_empty() {
        return one;
    }
    let mut at = 6;
    while at < request.len() {
        if is(request, at, "KEYS") {
            return Options { keys: (at + 1, request.len()), ..Options::default() };
        }
        at += match () {
            () if is(request, at, "AUTH") => 2,
            () if is(request, at, "AUTH2") => 3,
            () => 1,
        };
    }
    one
}

/// `XREAD [COUNT n] [BLOCK ms] STREAMS key ... id ...`, `XREADGROUP GROUP g c [NOACK] ...`. An
/// option that is not known is taken for a word without value.
fn streams(request: &Request<'_>) -> Options {
    let mut options = Options::default();
    let mut at = 1;
    while at < request.len() {
        if is(request, at, "STREAMS") {
            options.keys = (at + 1, at + 1 + (request.len() - at - 1) / 2);
            return options;
        }
        options.blocks |= is(request, at, "BLOCK");
        at += match () {
            () if is(request, at, "BLOCK") || is(request, at, "COUNT") => 2,
            () if is(request, at, "GROUP") => 3,
            () => 1,
        };
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::resp::table::tests::with_request;

    /// Of several `STORE` and `STOREDIST` the last one counts, and only where options stand.
    #[test]
    fn the_last_store_of_georadius() {
        for (request, store) in [
            ("georadius k 1 2 3 km store a count 1 store b", Some("b")),
            ("georadius k 1 2 3 km STOREDIST a store b", Some("b")),
            ("georadius k 1 2 3 km store a storedist b store", Some("b")),
            ("georadius k 1 2 3 km store store", Some("store")),
            ("georadius k 1 2 3 km store", None),
            ("georadiusbymember k store 3 km storedist a storedist b", Some("b")),
            ("georadiusbymember k store 3 km asc", None),
        ] {
            let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let hand = request.split(' ').next().and_then(Hand::of);
            let mut found = Vec::new();
            with_request(&words, |request| {
                let note = |at, is_store| found.push((request.arg(at).to_vec(), is_store));
                assert!(hand.is_some_and(|hand| hand.keys(request, note)));
            });
            let store = store.map(|key| (key.as_bytes().to_vec(), true));
            assert_eq!(
                found,
                [Some((b"k".to_vec(), false)), store].into_iter().flatten().collect::<Vec<_>>()
            );
        }
    }
}

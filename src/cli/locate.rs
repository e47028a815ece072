//! `locate`: which node owns a key, and who comes next. Offline, it knows the ring and not who is ejected at
//! the moment; with `--history` it asks a running ringway where the key has lived.

use std::{
    ffi::OsString,
    io::{self, BufRead, Read, Write},
    os::unix::ffi::OsStrExt,
};

use clap::Args;

use super::{ConfigArgument, EXIT_USAGE, Stop, admin, incident::utc, load};
use crate::{
    config::{Loaded, Source},
    ring::{Member, Ring},
    topology::{OnEjected, PoolSpec},
};

/// A line above this is no key that anyone asks about.
const LINE_BYTES_MAX: u64 = 1 << 20;

const EXAMPLES: &str = "\
Prints a line per key, in the order given: key, hash, owner, and who has it while that is away, in \
order (those of a gutter as pool/node, nobody where keys do not move), with tabs between them. Bytes \
of a key that are not printable stand as \\xNN.

Examples:
  ringway locate --pool cache user:1 user:2
  ringway locate --config ringway.yaml --pool sessions '{user:1}:name'
  ringway locate --history user:1                where it has lived since ringway runs, and why
  redis-cli --scan | ringway locate --pool cache - | cut -f3 | sort | uniq -c";

/// Arguments of `locate`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The pool; wanted when there are several
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// How many candidates to name behind the owner
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    next: usize,
    /// Read further keys from stdin, one per line; a key `-` does the same
    #[arg(long)]
    stdin: bool,
    /// Ask a running ringway where the keys have lived, epoch by epoch, and why
    #[arg(long, conflicts_with_all = ["config", "stdin"])]
    history: bool,
    /// The admin address of that ringway
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9400")]
    admin: String,
    /// The keys
    #[arg(value_name = "KEY", required_unless_present = "stdin")]
    keys: Vec<OsString>,
}

/// Prints a line per key.
pub(super) fn run(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    if arguments.history {
        return history(arguments, out);
    }
    let source = arguments.config.source();
    let Loaded { settings, .. } = load(&source)?;
    let pool = choose(&settings.pools, arguments.pool.as_deref(), &source)?;
    let ring_of = |pool: &PoolSpec| {
        let members: Vec<Member> = pool.nodes.iter().map(|n| n.member()).collect();
        Ring::build(&pool.ring, &members)
    };
    let ring = ring_of(pool);
    let gutter = pool.policy.failover.as_ref();
    let gutter = gutter.and_then(|failover| settings.pools.iter().find(|p| p.name == failover.pool));
    let gutter = gutter.map(|pool| (&*pool.name, ring_of(pool)));
    let mut place =
        |key: &[u8]| line(&ring, candidates(pool, &ring, gutter.as_ref(), arguments.next, key), key, out);
    let mut stdin = arguments.stdin;
    for key in &arguments.keys {
        match key.as_bytes() {
            b"-" => stdin = true,
            key => place(key)?,
        }
    }
    if stdin { lines(io::stdin().lock(), place) } else { Ok(()) }
}

/// Prints where each key has lived.
fn history(arguments: &Arguments, out: &mut impl Write) -> Result<(), Stop> {
    let pool = match &arguments.pool {
        Some(pool) => pool.clone(),
        None => admin::only_pool(&arguments.admin)?,
    };
    for key in &arguments.keys {
        let key = key.as_bytes();
        let path = format!("/v1/pools/{}/keys/{}", admin::escaped(pool.as_bytes()), admin::escaped(key));
        let page = admin::get_json(&arguments.admin, &path)?;
        writeln!(out, "{} in pool {pool}", printable(key))?;
        for lived in page["lived"].as_array().into_iter().flatten() {
            let since = lived["since_ms"].as_u64().map_or_else(|| "before".to_owned(), utc);
            let (node, requests) = (lived["node"].as_str().unwrap_or("-"), lived["requests"].as_str());
            let requests = requests.unwrap_or_default();
            let why = lived["why"].as_str().unwrap_or_default();
            writeln!(out, "  epoch {:<5} {since:<27} {node:<12} {requests:<8} {why}", lived["epoch"])?;
        }
    }
    Ok(())
}

/// The pool that is meant.
fn choose<'a>(pools: &'a [PoolSpec], name: Option<&str>, source: &Source) -> Result<&'a PoolSpec, Stop> {
    let found = match (name, pools) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(name), _) => pools.iter().find(|p| &*p.name == name),
    };
    found.ok_or_else(|| {
        let names: Vec<&str> = pools.iter().map(|p| &*p.name).collect();
        let asked = name.map_or("write --pool".to_owned(), |name| format!("there is no pool `{name}`"));
        Stop::Failed(format!("error: {asked}; {source} has {}", names.join(", ")), EXIT_USAGE)
    })
}

/// Hands on each line without its end.
fn lines(mut input: impl BufRead, mut place: impl FnMut(&[u8]) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut key = Vec::new();
    let mut number = 0_u64;
    loop {
        key.clear();
        number += 1;
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut key);
        match read.map_err(|e| Stop::Failed(format!("error: cannot read stdin: {e}"), 1))? {
            0 => return Ok(()),
            _ if key.last() == Some(&b'\n') => place(&key[..key.len() - 1])?,
            n if n as u64 == LINE_BYTES_MAX => {
                let message = format!("error: line {number} of stdin is longer than {LINE_BYTES_MAX} bytes");
                return Err(Stop::Failed(message, EXIT_USAGE));
            }
            _ => place(&key)?,
        }
    }
}

/// The owner of a key, and who has it while that is away, by what the pool does with such keys.
fn candidates(
    pool: &PoolSpec,
    ring: &Ring,
    gutter: Option<&(&str, Ring)>,
    next: usize,
    key: &[u8],
) -> Vec<String> {
    let of = |ring: &Ring, count: usize| -> Vec<String> {
        let candidates = ring.candidates(ring.hash(key)).take(count);
        candidates.map(|at| ring.members()[at].name.to_string()).collect()
    };
    match (pool.policy.on_ejected_for(key), gutter) {
        (OnEjected::Rehash, _) => of(ring, next.saturating_add(1)),
        (OnEjected::Failover, Some((name, over))) => {
            let others = of(over, next).into_iter().map(|node| format!("{name}/{node}"));
            of(ring, 1).into_iter().chain(others).collect()
        }
        (OnEjected::Failover | OnEjected::Fail | OnEjected::Miss, _) => of(ring, 1),
    }
}

fn line(ring: &Ring, candidates: Vec<String>, key: &[u8], out: &mut impl Write) -> Result<(), Stop> {
    write!(out, "{}\t{:016x}", printable(key), ring.hash(key))?;
    candidates.iter().try_for_each(|candidate| write!(out, "\t{candidate}"))?;
    Ok(writeln!(out)?)
}

/// The key as one field of a line: text stays text.
fn printable(key: &[u8]) -> String {
    let mut shown = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => shown.push_str("\\\\"),
                c if c.is_control() => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|b| shown.push_str(&format!("\\x{b:02x}")));
                }
                c => shown.push(c),
            }
        }
        chunk.invalid().iter().for_each(|b| shown.push_str(&format!("\\x{b:02x}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key is one field whatever its bytes, and two keys never look the same.
    #[test]
    fn keys_are_one_field() {
        assert_eq!(printable("user:é".as_bytes()), "user:é");
        assert_eq!(printable(b"a\tb\n\xff\\x09"), "a\\x09b\\x0a\\xff\\\\x09");
    }

    /// Lines are handed on without their ends, the last one also when it has none; one without an
    /// end in sight is refused.
    #[test]
    fn stdin_by_lines() {
        let read = |input: &[u8]| {
            let mut keys = Vec::new();
            let done = lines(input, |key| {
                keys.push(String::from_utf8_lossy(key).into_owned());
                Ok(())
            });
            done.map(|()| keys).map_err(|stop| match stop {
                Stop::Failed(message, code) => (message, code),
                Stop::Closed => (String::new(), 0),
            })
        };
        assert_eq!(read(b"a\n\nb"), Ok(vec!["a".to_owned(), String::new(), "b".to_owned()]));
        let (message, code) = read(&vec![b'x'; 2 << 20]).expect_err("too long");
        assert!(message.contains("line 1 of stdin") && code == EXIT_USAGE, "{message}");
    }
}

//! The commands: a request in, the bytes of its reply out. Pure. Replies and error texts are those
//! of Redis 7.0.

mod counters;
mod expiry;
mod keys;
mod lifetime;
mod session;
mod strings;

use std::borrow::Cow;

use crate::protocol::resp::{
    Version,
    frame::{self, Request},
    write,
};

use super::{
    session::{Client, Fate, Node},
    store::{Full, Store},
};

/// One command: its name, how many arguments it has with its name (at least, if negative), and
/// what it does.
struct Command {
    name: &'static str,
    arity: i32,
    run: fn(&mut Call<'_>) -> Outcome,
}

/// A reply is written, or there is a refusal instead.
type Outcome = Result<(), Refusal>;

/// One request on its way through a command.
struct Call<'a> {
    node: &'a mut Node,
    client: &'a mut Client,
    request: Request<'a>,
    /// The command's full name, as error texts give it.
    name: &'static str,
    /// Unix time in milliseconds.
    now_ms: i64,
    out: &'a mut Vec<u8>,
}

/// An error reply, without its `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(Cow<'static, [u8]>);

impl From<String> for Refusal {
    fn from(text: String) -> Refusal {
        Refusal(Cow::Owned(text.into_bytes()))
    }
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Refusal {
        Refusal::text("OOM command not allowed when used memory > 'maxmemory'.")
    }
}

impl Refusal {
    const SYNTAX: Refusal = Refusal::text("ERR syntax error");
    const NOT_INTEGER: Refusal = Refusal::text("ERR value is not an integer or out of range");

    const fn text(text: &'static str) -> Refusal {
        Refusal(Cow::Borrowed(text.as_bytes()))
    }

    fn arity(name: &str) -> Refusal {
        Refusal::from(format!("ERR wrong number of arguments for '{name}' command"))
    }

    fn expire_time(name: &str) -> Refusal {
        Refusal::from(format!("ERR invalid expire time in '{name}' command"))
    }

    /// Writes it as a reply. Clients' bytes may be in it, so line breaks become spaces.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(b'-');
        out.extend(self.0.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
        out.extend_from_slice(b"\r\n");
    }
}

/// Every command, the most frequent first: it is searched from the top.
static COMMANDS: &[Command] = &[
    Command { name: "get", arity: 2, run: strings::get },
    Command { name: "set", arity: -3, run: strings::set },
    Command { name: "mget", arity: -2, run: strings::mget },
    Command { name: "del", arity: -2, run: keys::del },
    Command { name: "ping", arity: -1, run: session::ping },
    Command { name: "incr", arity: 2, run: counters::incr },
    Command { name: "expire", arity: -3, run: expiry::expire },
    Command { name: "exists", arity: -2, run: keys::exists },
    Command { name: "mset", arity: -3, run: strings::mset },
    Command { name: "append", arity: 3, run: strings::append },
    Command { name: "auth", arity: -2, run: session::auth },
    Command { name: "client", arity: -2, run: session::container },
    Command { name: "client|getname", arity: 2, run: session::client_getname },
    Command { name: "client|id", arity: 2, run: session::client_id },
    Command { name: "client|setinfo", arity: 4, run: session::client_setinfo },
    Command { name: "client|setname", arity: 3, run: session::client_setname },
    Command { name: "command", arity: -1, run: session::container },
    Command { name: "command|count", arity: 2, run: session::command_count },
    Command { name: "command|docs", arity: -2, run: session::command_docs },
    Command { name: "dbsize", arity: 1, run: keys::dbsize },
    Command { name: "decr", arity: 2, run: counters::decr },
    Command { name: "decrby", arity: 3, run: counters::decrby },
    Command { name: "echo", arity: 2, run: session::echo },
    Command { name: "expireat", arity: -3, run: expiry::expireat },
    Command { name: "expiretime", arity: 2, run: expiry::expiretime },
    Command { name: "flushall", arity: -1, run: keys::flush },
    Command { name: "flushdb", arity: -1, run: keys::flush },
    Command { name: "getdel", arity: 2, run: strings::getdel },
    Command { name: "getex", arity: -2, run: strings::getex },
    Command { name: "getrange", arity: 4, run: strings::getrange },
    Command { name: "getset", arity: 3, run: strings::getset },
    Command { name: "hello", arity: -1, run: session::hello },
    Command { name: "incrby", arity: 3, run: counters::incrby },
    Command { name: "incrbyfloat", arity: 3, run: counters::incrbyfloat },
    Command { name: "info", arity: -1, run: session::info },
    Command { name: "keys", arity: 2, run: keys::keys },
    Command { name: "msetnx", arity: -3, run: strings::msetnx },
    Command { name: "persist", arity: 2, run: expiry::persist },
    Command { name: "pexpire", arity: -3, run: expiry::pexpire },
    Command { name: "pexpireat", arity: -3, run: expiry::pexpireat },
    Command { name: "pexpiretime", arity: 2, run: expiry::pexpiretime },
    Command { name: "psetex", arity: 4, run: strings::psetex },
    Command { name: "pttl", arity: 2, run: expiry::pttl },
    Command { name: "quit", arity: -1, run: session::quit },
    Command { name: "randomkey", arity: 1, run: keys::randomkey },
    Command { name: "reset", arity: 1, run: session::reset },
    Command { name: "role", arity: 1, run: session::role },
    Command { name: "scan", arity: -2, run: keys::scan },
    Command { name: "select", arity: 2, run: session::select },
    Command { name: "setex", arity: 4, run: strings::setex },
    Command { name: "setnx", arity: 3, run: strings::setnx },
    Command { name: "setrange", arity: 4, run: strings::setrange },
    Command { name: "strlen", arity: 2, run: strings::strlen },
    Command { name: "touch", arity: -2, run: keys::exists },
    Command { name: "ttl", arity: 2, run: expiry::ttl },
    Command { name: "type", arity: 2, run: keys::kind },
    Command { name: "unlink", arity: -2, run: keys::del },
];

/// Runs one request and writes its reply.
pub(super) fn run(
    node: &mut Node,
    client: &mut Client,
    request: Request<'_>,
    now_ms: i64,
    out: &mut Vec<u8>,
) {
    let name = request.arg(0);
    // A browser that was sent here speaks HTTP: nothing of it may run.
    if name.eq_ignore_ascii_case(b"host:") || name.eq_ignore_ascii_case(b"post") {
        client.fate = Fate::Closing;
        return;
    }
    node.requests += 1;
    node.store.begin_request();
    let begin = out.len();
    let outcome = find(&request).and_then(|command| {
        let mut call = Call { node, client, request, name: command.name, now_ms, out };
        (command.run)(&mut call)
    });
    if let Err(refusal) = outcome {
        out.truncate(begin);
        refusal.write(out);
    }
}

/// The command of a request, if it is known and the number of arguments is right.
fn find(request: &Request<'_>) -> Result<&'static Command, Refusal> {
    let named = |name: &[u8]| COMMANDS.iter().find(|c| c.name.as_bytes().eq_ignore_ascii_case(name));
    let first = request.arg(0);
    let mut command = named(first).filter(|c| !c.name.contains('|')).ok_or_else(|| unknown(request))?;
    if request.len() > 1 && matches!(command.name, "client" | "command") {
        let full = [command.name.as_bytes(), b"|", request.arg(1)].concat();
        command = named(&full).ok_or_else(|| unknown_subcommand(request))?;
    }
    let len = request.len() as i32;
    let fits = if command.arity < 0 { len >= -command.arity } else { len == command.arity };
    if fits { Ok(command) } else { Err(Refusal::arity(command.name)) }
}

/// At most this much of an argument stands in an error, and nothing from its first zero byte on.
const QUOTED_MAX: usize = 128;

fn quoted(bytes: &[u8], max: usize) -> &[u8] {
    let text = c_text(bytes);
    &text[..text.len().min(max)]
}

/// The bytes before the first zero: what Redis sees where it takes an argument for a C string.
fn c_text(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len())]
}

fn unknown(request: &Request<'_>) -> Refusal {
    let mut args = Vec::new();
    for arg in request.args().skip(1) {
        if args.len() >= QUOTED_MAX {
            break;
        }
        let room = QUOTED_MAX - args.len();
        args.extend_from_slice(&[b"'", quoted(arg, room), b"' "].concat());
    }
    let name = quoted(request.arg(0), QUOTED_MAX);
    let text = [b"ERR unknown command '", name, b"', with args beginning with: ", args.as_slice()].concat();
    Refusal(Cow::Owned(text))
}

fn unknown_subcommand(request: &Request<'_>) -> Refusal {
    let (name, sub) = (request.arg(0).to_ascii_uppercase(), quoted(request.arg(1), QUOTED_MAX));
    let text = [b"ERR unknown subcommand '", sub, b"'. Try ", name.as_slice(), b" HELP."].concat();
    Refusal(Cow::Owned(text))
}

impl<'a> Call<'a> {
    fn len(&self) -> usize {
        self.request.len()
    }

    fn arg(&self, i: usize) -> &'a [u8] {
        self.request.arg(i)
    }

    /// The argument as an option's word.
    fn word(&self, i: usize) -> Vec<u8> {
        c_text(self.arg(i)).to_ascii_uppercase()
    }

    fn integer(&self, i: usize) -> Result<i64, Refusal> {
        frame::number(self.arg(i)).ok_or(Refusal::NOT_INTEGER)
    }

    fn store(&mut self) -> &mut Store {
        &mut self.node.store
    }

    fn version(&self) -> Version {
        self.client.version
    }

    /// The value of a key.
    fn value(&mut self, key: &[u8]) -> Option<&[u8]> {
        let now_ms = self.now_ms;
        self.store().entry(key, now_ms).map(|e| e.value())
    }

    /// Replies with the value of a key; says whether it is there.
    fn reply_value(&mut self, key: &[u8]) -> bool {
        match self.node.store.entry(key, self.now_ms) {
            Some(entry) => {
                write::bulk(self.out, entry.value());
                true
            }
            None => {
                write::null(self.out, self.client.version);
                false
            }
        }
    }

    /// Gives a key this value; its expiry stays.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        let now_ms = self.now_ms;
        self.store().resize(key, value.len(), now_ms)?.copy_from_slice(value);
        Ok(())
    }

    /// Gives a key this value and no expiry.
    fn put_new(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        self.put(key, value)?;
        self.store().expire(key, None);
        Ok(())
    }

    fn reply_ok(&mut self) -> Outcome {
        write::simple(self.out, "OK");
        Ok(())
    }

    fn reply_integer(&mut self, n: i64) -> Outcome {
        write::integer(self.out, n);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is what a search expects: each name once, in lower case.
    #[test]
    fn each_name_stands_once() {
        let mut names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
        assert!(names.iter().all(|n| *n == n.to_ascii_lowercase()));
    }
}

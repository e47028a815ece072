//! The command table: from the name that a client sends to the command, in one look-up that
//! allocates nothing; and what is refused by name, in the words of Redis.

use std::sync::Arc;

use super::{
    commands::{BUILT_IN, Class, Command, accepts},
    frame::{Request, Start},
    name::{Name, Shorts},
    rule::Rule,
};

/// A command that the built-in table lacks: a module's, or one of a newer server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomCommand {
    /// As clients send it, in any case.
    pub name: String,
    /// Position of the first key, counted with the command's name as 0.
    pub first_key: u32,
    /// Position of the last key; negative counts from the end of the request.
    pub last_key: i32,
    /// From one key to the next.
    pub step: u32,
    /// Safe to repeat.
    pub read_only: bool,
}

/// A configuration that makes no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A command that is switched off does not exist.
    #[error("command {0} is unknown and can't be denied; a subcommand is written CONFIG|SET")]
    UnknownDenied(String),
    /// A custom command has the name of a built-in one, or of another.
    #[error("command {0} is in the table already; remove it from the custom commands")]
    Duplicate(String),
    /// A name that no client can send.
    #[error("command name {0:?} is not a word of 1 to 32 letters, digits and signs without '|'")]
    Name(String),
    /// Key positions that describe no key.
    #[error("command {0}: first_key must be 1 or more, last_key negative or not below it, step 1 or more")]
    Keys(String),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No such command or subcommand.
    Unknown,
    /// `POST` or `Host:`, which a browser sends on behalf of a hostile page; its body would be
    /// read as commands. Close the session without a reply, as Redis does.
    Http,
    /// Too many or too few arguments.
    Arity,
    /// Switched off by the configuration.
    Denied,
    /// Not offered by a proxy.
    NotOffered,
    /// Its keys are not where one node could use them.
    Keys,
}

/// A negative answer of our own to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error, its code first, without the `-`.
    pub text: String,
    /// Why.
    pub kind: RefusalKind,
}

/// Commands by name.
#[derive(Clone, Debug)]
pub struct Table {
    commands: Vec<Command>,
    names: Vec<Name>,
    /// Open addressing over `names`: an index + 1, or 0.
    slots: Vec<u32>,
    /// The same for names of up to eight bytes that stand for a command a client may use: most of
    /// what is ever asked.
    short: Shorts<u32>,
    /// Of these the commands that are about one key, their first argument, and on which no more depends than
    /// where they go: what a request of them has to look like.
    plain: Shorts<Shape>,
}

/// What a request of a command looks like.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    arity: i32,
    read_only: bool,
}

impl Table {
    /// The built-in commands and these; some of them switched off, by names like `FLUSHALL` and
    /// `CONFIG|SET`. A container's name stands for its subcommands too.
    ///
    /// # Errors
    /// The first [`TableError`].
    pub fn new(custom: &[CustomCommand], deny: &[impl AsRef<str>]) -> Result<Table, TableError> {
        let mut table = Table {
            commands: BUILT_IN.clone(),
            names: Vec::new(),
            slots: Vec::new(),
            short: Shorts::default(),
            plain: Shorts::default(),
        };
        for command in custom {
            if Name::new(None, command.name.as_bytes()).is_none() || !is_word(&command.name) {
                return Err(TableError::Name(command.name.clone()));
            }
            if !places_are_sound(command) {
                return Err(TableError::Keys(command.name.clone()));
            }
            if table.position(&command.name).is_some() {
                return Err(TableError::Duplicate(command.name.clone()));
            }
            table.commands.push(Command::custom(command));
        }
        for name in deny {
            let denied = table.position(name.as_ref());
            let denied = denied.ok_or_else(|| TableError::UnknownDenied(name.as_ref().to_owned()))?;
            for (at, command) in table.commands.iter_mut().enumerate() {
                command.denied |= at == denied || command.parent.is_some_and(|p| p as usize == denied);
            }
        }
        table.index();
        Ok(table)
    }

    /// The command of a request, if a client may use it so.
    ///
    /// # Errors
    /// The refusal to answer with; the session goes on, but for [`RefusalKind::Http`].
    #[inline(always)]
    pub fn lookup<'t>(&'t self, request: &Request<'_>) -> Result<&'t Command, Refusal> {
        match request
            .name()
            .and_then(|name| self.short.find(name))
            .and_then(|at| self.commands.get(at as usize))
        {
            Some(command) if command.accepts(request.len()) => Ok(command),
            _ => self.lookup_head(request, request.len()),
        }
    }

    /// Whether a request that begins so is of a command that is about one key, its first argument, and that a
    /// client may use so, with nothing to do but to pass it on; if so, whether it only reads.
    #[inline]
    pub fn plain(&self, start: &Start) -> Option<bool> {
        let Shape { arity, read_only } = self.plain.find(start.name)?;
        accepts(arity, start.args).then_some(read_only)
    }

    /// The same for a request of `args` arguments of which only the head has arrived: its first
    /// two arguments, or the one that it has.
    ///
    /// # Errors
    /// As [`Table::lookup`].
    pub fn lookup_head<'t>(&'t self, head: &Request<'_>, args: usize) -> Result<&'t Command, Refusal> {
        let command = self.known(head, args)?;
        if !command.accepts(args) {
            return Err(Refusal::arity(&command.name));
        }
        if command.denied {
            return Err(Refusal::denied(&command.name));
        }
        match command.rule {
            Rule::Refuse(reason) => Err(Refusal::not_offered(&command.name, reason)),
            _ => Ok(command),
        }
    }

    /// The command of a request, offered or not; a container without subcommand is itself.
    pub(super) fn known<'t>(&'t self, head: &Request<'_>, args: usize) -> Result<&'t Command, Refusal> {
        let at = self.find(None, head.arg(0)).ok_or_else(|| Refusal::unknown(head))?;
        let command = &self.commands[at];
        if !command.is_container || args < 2 {
            return Ok(command);
        }
        let at = self.find(Some(at as u16), head.arg(1));
        at.map(|at| &self.commands[at]).ok_or_else(|| Refusal::unknown_subcommand(head))
    }

    /// A command by its full name, in any case: `get`, `config|get`.
    pub fn named(&self, name: &[u8]) -> Option<&Command> {
        let mut words = name.splitn(2, |b| *b == b'|');
        let container = self.find(None, words.next()?)?;
        match words.next() {
            None => Some(&self.commands[container]),
            Some(sub) => self.find(Some(container as u16), sub).map(|at| &self.commands[at]),
        }
    }

    /// The commands that a client may use, without subcommands. A container is there when one of
    /// its subcommands is.
    pub fn offered(&self) -> impl Iterator<Item = &Command> {
        self.commands.iter().filter(|c| c.parent.is_none() && self.is_offered(c))
    }

    /// The subcommands of a container that a client may use.
    pub fn subcommands<'t>(&'t self, container: &'t Command) -> impl Iterator<Item = &'t Command> {
        let is_parent = |at: u16| self.commands[at as usize].name == container.name;
        self.commands.iter().filter(move |c| c.parent.is_some_and(is_parent) && c.is_offered())
    }

    /// Whether a client may use it, or one of its subcommands.
    pub fn is_offered(&self, command: &Command) -> bool {
        match command.is_container {
            true => self.subcommands(command).next().is_some(),
            false => command.is_offered(),
        }
    }

    /// Where a command stands, before there is an index.
    fn position(&self, name: &str) -> Option<usize> {
        self.commands.iter().position(|c| c.name.eq_ignore_ascii_case(name))
    }

    fn index(&mut self) {
        self.slots = vec![0; (self.commands.len() * 2).next_power_of_two()];
        let offered = |(at, command): (usize, &Command)| {
            let is_own = command.parent.is_none() && !command.is_container && command.is_offered();
            is_own.then(|| (at, command.name.clone()))
        };
        let offered: Vec<_> = self.commands.iter().enumerate().filter_map(offered).collect();
        self.short = Shorts::new(offered.iter().map(|(at, name)| (*at as u32, name.as_bytes())));
        let plain = |(at, name): &(usize, Arc<str>)| Some((Shape::of(&self.commands[*at])?, name.clone()));
        let plain: Vec<_> = offered.iter().filter_map(plain).collect();
        self.plain = Shorts::new(plain.iter().map(|(shape, name)| (*shape, name.as_bytes())));
        for (at, command) in self.commands.iter().enumerate() {
            let word = command.name.rsplit('|').next().unwrap_or_default();
            let name = Name::new(command.parent, word.as_bytes()).expect("names in the table are short");
            let mut slot = name.hash() & (self.slots.len() - 1);
            while self.slots[slot] != 0 {
                slot = (slot + 1) & (self.slots.len() - 1);
            }
            self.slots[slot] = at as u32 + 1;
            self.names.push(name);
        }
    }

    fn find(&self, container: Option<u16>, word: &[u8]) -> Option<usize> {
        let name = Name::new(container, word)?;
        let mut slot = name.hash() & (self.slots.len() - 1);
        // At most half of the slots are taken, so an empty one ends the search.
        loop {
            match self.slots[slot] {
                0 => return None,
                at if self.names[at as usize - 1] == name => return Some(at as usize - 1),
                _ => slot = (slot + 1) & (self.slots.len() - 1),
            }
        }
    }
}

impl Shape {
    fn of(command: &Command) -> Option<Shape> {
        let is_plain = command.rule == Rule::Keyed
            && command.only_key() == Some(1)
            && matches!(command.class, Class::Read | Class::Write);
        is_plain.then(|| Shape { arity: command.arity(), read_only: command.read_only })
    }
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_graphic() && b != b'|')
}

fn places_are_sound(custom: &CustomCommand) -> bool {
    let args_max = 1..=1 << 20;
    args_max.contains(&custom.first_key)
        && args_max.contains(&custom.step)
        && (custom.last_key < 0 || custom.last_key as u32 >= custom.first_key)
        && custom.last_key.unsigned_abs() <= 1 << 20
}

/// Redis quotes so much of what it does not know.
const QUOTED_MAX: usize = 128;

/// The beginning of an argument, as C prints it: up to a NUL.
fn quoted(arg: &[u8], max: usize) -> std::borrow::Cow<'_, str> {
    let end = arg.iter().take(max).position(|b| *b == 0).unwrap_or(arg.len().min(max));
    String::from_utf8_lossy(&arg[..end])
}

impl Refusal {
    #[cold]
    fn unknown(request: &Request<'_>) -> Refusal {
        let name = request.arg(0);
        let http = name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
        let kind = if http { RefusalKind::Http } else { RefusalKind::Unknown };
        let mut args = String::new();
        for arg in request.args().skip(1) {
            if args.len() >= QUOTED_MAX {
                break;
            }
            args = format!("{args}'{}' ", quoted(arg, QUOTED_MAX - args.len()));
        }
        let name = quoted(name, QUOTED_MAX);
        Refusal { text: format!("ERR unknown command '{name}', with args beginning with: {args}"), kind }
    }

    #[cold]
    pub(super) fn unknown_subcommand(request: &Request<'_>) -> Refusal {
        let (container, sub) = (quoted(request.arg(0), QUOTED_MAX), quoted(request.arg(1), QUOTED_MAX));
        let container = container.to_ascii_uppercase();
        let text = format!("ERR unknown subcommand '{sub}'. Try {container} HELP.");
        Refusal { text, kind: RefusalKind::Unknown }
    }

    /// Too many or too few arguments for the command of this name.
    #[cold]
    pub(super) fn arity(name: &str) -> Refusal {
        let text = format!("ERR wrong number of arguments for '{name}' command");
        Refusal { text, kind: RefusalKind::Arity }
    }

    #[cold]
    fn denied(name: &str) -> Refusal {
        let text = format!("NOPERM the '{name}' command is switched off in this pool (deny_commands)");
        Refusal { text, kind: RefusalKind::Denied }
    }

    /// A reason that begins with an error code is all of the text.
    #[cold]
    pub(super) fn not_offered(name: &str, reason: &str) -> Refusal {
        let text = match reason.starts_with("ERR ") {
            true => reason.to_owned(),
            false => format!("ERR the '{name}' command is not offered by ringway: {reason}"),
        };
        Refusal { text, kind: RefusalKind::NotOffered }
    }

    #[cold]
    pub(super) fn keys(text: String) -> Refusal {
        Refusal { text, kind: RefusalKind::Keys }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::resp::{
        frame::{FrameLimits, RequestDecoder, Step},
        write,
    };

    /// Gives a request of these arguments.
    pub(in crate::protocol::resp) fn with_request<T>(args: &[&[u8]], f: impl FnOnce(&Request<'_>) -> T) -> T {
        let mut bytes = Vec::new();
        write::request(&mut bytes, args);
        let limits = FrameLimits { bulk_bytes: 1 << 20, request_bytes: 1 << 24, args_max: 1 << 20 };
        let mut decoder = RequestDecoder::default();
        assert_eq!(decoder.decode(&bytes, &limits), Ok(Step::Request(bytes.len())));
        f(&Request::new(&bytes, decoder.spans()))
    }

    fn table() -> Table {
        Table::new(&[], &[] as &[&str]).expect("the built-in table")
    }

    fn custom(name: &str, first_key: u32, last_key: i32, step: u32) -> CustomCommand {
        CustomCommand { name: name.to_owned(), first_key, last_key, step, read_only: true }
    }

    /// The name found, or the refusal.
    fn look(table: &Table, request: &str) -> Result<String, Refusal> {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        with_request(&words, |request| table.lookup(request).map(|c| c.name.to_string()))
    }

    /// The keys of a request in a pool of so many nodes, or the refusal's kind.
    fn keys(table: &Table, request: &str, nodes: usize) -> Result<Vec<String>, RefusalKind> {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        with_request(&words, |request| {
            let command = table.lookup(request).map_err(|refusal| refusal.kind)?;
            let mut at = Vec::new();
            command.keys(request, nodes, &mut at).map_err(|refusal| refusal.kind)?;
            let key = |at: &u32| String::from_utf8_lossy(request.arg(*at as usize)).into_owned();
            Ok(at.iter().map(key).collect())
        })
    }

    /// Each built-in name is found, in any case, with as many arguments as it takes.
    #[test]
    fn every_command_is_found() {
        let table = table();
        for command in BUILT_IN.iter() {
            assert_eq!(table.named(command.name.as_bytes()).map(|c| &c.name), Some(&command.name));
            let mut words: Vec<String> = command.name.split('|').map(str::to_ascii_uppercase).collect();
            let least = command.arity().unsigned_abs() as usize;
            if command.is_container && least > 1 {
                continue;
            }
            words.resize(least.max(words.len()), "x".to_owned());
            let found = look(&table, &words.join(" "));
            match command.rule {
                Rule::Refuse(_) => {
                    assert_eq!(found.expect_err("refused").kind, RefusalKind::NotOffered, "{words:?}");
                }
                _ => assert_eq!(found.as_deref(), Ok(&*command.name), "{words:?}"),
            }
        }
    }

    /// What is refused by name is refused in the words of Redis.
    #[test]
    fn a_table_of_refusals() {
        let table = Table::new(&[], &["FLUSHALL", "client|LIST", "SCRIPT"]).expect("known names");
        let long = "x".repeat(200);
        for (request, text) in [
            ("foo", "ERR unknown command 'foo', with args beginning with: "),
            ("foo a b", "ERR unknown command 'foo', with args beginning with: 'a' 'b' "),
            ("GET\0 a", "ERR unknown command 'GET', with args beginning with: 'a' "),
            ("config|get a", "ERR unknown command 'config|get', with args beginning with: 'a' "),
            ("Get", "ERR wrong number of arguments for 'get' command"),
            ("get a b", "ERR wrong number of arguments for 'get' command"),
            ("object", "ERR wrong number of arguments for 'object' command"),
            ("object encoding", "ERR wrong number of arguments for 'object|encoding' command"),
            ("object foo a", "ERR unknown subcommand 'foo'. Try OBJECT HELP."),
            ("config Foo a", "ERR unknown subcommand 'Foo'. Try CONFIG HELP."),
            ("cluster info", "ERR This instance has cluster support disabled"),
            ("flushall", "NOPERM the 'flushall' command is switched off in this pool (deny_commands)"),
            ("client list", "NOPERM the 'client|list' command is switched off in this pool (deny_commands)"),
            (
                "script load x",
                "NOPERM the 'script|load' command is switched off in this pool (deny_commands)",
            ),
        ] {
            assert_eq!(look(&table, request).expect_err(request).text, text);
        }
        let refusal = look(&table, &format!("{long} {long} {long}")).expect_err("unknown");
        let (name, arg) = (&long[..128], &long[..128]);
        assert_eq!(refusal.text, format!("ERR unknown command '{name}', with args beginning with: '{arg}' "));
        for request in ["POST / HTTP/1.1", "host: example"] {
            assert_eq!(look(&table, request).expect_err(request).kind, RefusalKind::Http);
        }
    }

    /// What changes a shared connection, waits on it or concerns one node never passes.
    #[test]
    fn what_a_proxy_does_not_offer() {
        let table = table();
        for request in [
            "multi",
            "exec",
            "discard",
            "watch a",
            "unwatch",
            "blpop a 0",
            "brpoplpush a b 0",
            "bzmpop 0 1 a min",
            "wait 0 0",
            "subscribe a",
            "publish a b",
            "spublish a b",
            "pubsub channels",
            "monitor",
            "debug sleep 1",
            "shutdown",
            "replicaof no one",
            "psync a 1",
            "cluster slots",
            "config set a b",
            "config resetstat",
            "acl list",
            "module list",
            "swapdb 0 1",
            "move a 1",
            "bgsave",
            "failover",
            "client kill x",
            "latency reset",
            "slowlog get",
            "script debug yes",
            "copy a b db 1",
            "xread block 0 streams a 0",
            "xreadgroup group g c block 0 streams a >",
        ] {
            assert_eq!(keys(&table, request, 1), Err(RefusalKind::NotOffered), "{request}");
        }
    }

    /// All odd key positions.
    #[test]
    fn a_table_of_keys() {
        let table = table();
        for (request, expected) in [
            ("eval x 2 a b c", "a b"),
            ("EVALSHA x 1 a", "a"),
            ("evalsha_ro x 1 a", "a"),
            ("fcall f 2 a b", "a b"),
            ("fcall_ro f 1 a b", "a"),
            ("eval x 0 a", ""),
            ("eval x 3 a", ""),
            ("eval x many a", ""),
            ("zunion 2 a b withscores", "a b"),
            ("zinter 2 a b", "a b"),
            ("zdiff 2 a b", "a b"),
            ("zunionstore d 2 a b", "d a b"),
            ("zinterstore d 1 a weights 2", "d a"),
            ("zdiffstore d 2 a b", "d a b"),
            ("zunionstore d 9 a b", "d"),
            ("sintercard 2 a b limit 1", "a b"),
            ("zintercard 2 a b", "a b"),
            ("lmpop 2 a b left", "a b"),
            ("zmpop 1 a min", "a"),
            ("xread count 2 streams a b 0 0", "a b"),
            ("xread streams block 0", "block"),
            ("xread streams a b 0", "a"),
            ("xread count 1 a", ""),
            ("xreadgroup group streams c streams a >", "a"),
            ("xreadgroup noack group g streams streams a >", "a"),
            ("georadius k 1 2 3 km store d", "k d"),
            ("georadius k 1 2 3 km asc storedist d", "k d"),
            ("georadius k 1 2 3 km withdist", "k"),
            ("georadiusbymember k m 3 km store d", "k d"),
            ("geosearchstore d s frommember m byradius 1 km", "d s"),
            ("bitop and d a b", "d a b"),
            ("object encoding a", "a"),
            ("object help", ""),
            ("xgroup create a g 0", "a"),
            ("xinfo stream a", "a"),
            ("memory usage a samples 5", "a"),
            ("copy a b replace", "a b"),
            ("rename a b", "a b"),
            ("lcs a b len", "a b"),
            ("pfcount a b", "a b"),
            ("pfmerge d a b", "d a b"),
            ("msetnx a 1 b 2", "a b"),
            ("mset a 1 b 2", "a b"),
            ("smove a b m", "a b"),
            ("sort a", "a"),
            ("sort a by nosort get # store d", "a d"),
            ("sort a store d limit 0 1 store e", "a e"),
            ("sort a limit store 1 get store", "a"),
            ("sort_ro a by nosort", "a"),
            ("migrate h 1 a 0 9 copy", "a"),
            ("msetex 2 a 1 b 2 ex 5", "a b"),
            ("hsetex a ex 1 fields 1 f v", "a"),
            ("delifeq a v", "a"),
        ] {
            assert_eq!(keys(&table, request, 2).map(|k| k.join(" ")).as_deref(), Ok(expected), "{request}");
        }
        let migrate: [&[u8]; 11] =
            [b"migrate", b"h", b"1", b"", b"0", b"9", b"auth", b"keys", b"KEYS", b"a", b"b"];
        with_request(&migrate, |request| {
            let mut at = vec![];
            table.lookup(request).expect("known").keys(request, 2, &mut at).expect("permitted");
            assert_eq!(at, [9, 10]);
        });
    }

    /// Patterns that may read other keys are refused where these may live on other nodes, and half
    /// a pair is refused before it is split.
    #[test]
    fn refused_for_their_keys() {
        let table = table();
        for request in ["sort a by w_*", "sort a get # get w_*->f", "sort_ro a by w_*"] {
            assert_eq!(keys(&table, request, 2), Err(RefusalKind::Keys), "{request}");
            assert_eq!(keys(&table, request, 1), Ok(vec!["a".to_owned()]), "{request}");
        }
        assert_eq!(keys(&table, "mset a 1 b", 1), Err(RefusalKind::Arity));
    }

    /// A command of the configuration is found, and has its keys.
    #[test]
    fn custom_commands() {
        let commands = [custom("JSON.GET", 1, 1, 1), custom("json.mget", 1, -2, 1), custom("X.SET", 2, 4, 2)];
        let table = Table::new(&commands, &["X.SET"]).expect("sound");
        assert_eq!(look(&table, "Json.Get a $").as_deref(), Ok("json.get"));
        assert_eq!(keys(&table, "json.get a $", 2), Ok(vec!["a".to_owned()]));
        assert_eq!(keys(&table, "json.mget a b $", 2), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(keys(&table, "json.get", 2), Err(RefusalKind::Arity));
        assert_eq!(keys(&table, "x.set nx a 1 b 2", 2), Err(RefusalKind::Denied));
        assert_eq!(table.named(b"json.get").and_then(Command::only_key), Some(1));
    }

    /// A configuration that makes no table is named.
    #[test]
    fn tables_that_can_not_be() {
        let none: &[&str] = &[];
        let one = |command: CustomCommand| Table::new(&[command], none).expect_err("unsound");
        assert_eq!(one(custom("get", 1, 1, 1)), TableError::Duplicate("get".into()));
        for name in ["", "a b", "config|get", &"x".repeat(33)] {
            assert_eq!(one(custom(name, 1, 1, 1)), TableError::Name(name.into()));
        }
        for (first, last, step) in [(0, 1, 1), (2, 1, 1), (1, 1, 0), (u32::MAX, -1, 1), (1, i32::MIN, 1)] {
            assert_eq!(one(custom("x", first, last, step)), TableError::Keys("x".into()));
        }
        let deny = Table::new(&[], &["FLUSHAL"]).expect_err("unknown");
        assert_eq!(deny, TableError::UnknownDenied("FLUSHAL".into()));
    }

    const NUMBERS: &[&str] = &["0", "1", "2", "-1", "9223372036854775807", "-9223372036854775808", "x", ""];
    const WORDS: &[&str] =
        &["STREAMS", "STORE", "KEYS", "BY", "GET", "LIMIT", "BLOCK", "GROUP", "AUTH2", "DB", "w_*"];

    fn argument() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::sample::select(NUMBERS).prop_map(|word| word.as_bytes().to_vec()),
            prop::sample::select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..40),
        ]
    }

    proptest! {
        /// No request makes the table panic, and each position that it names is an argument.
        #[test]
        fn any_request(
            at in any::<prop::sample::Index>(),
            known in prop::bool::weighted(0.9),
            args in prop::collection::vec(argument(), 1..12),
            nodes in 1usize..3,
        ) {
            let table = table();
            let name = at.get(&BUILT_IN).name.clone();
            let mut words: Vec<&[u8]> = if known { name.split('|').map(str::as_bytes).collect() } else { vec![] };
            words.extend(args.iter().map(Vec::as_slice));
            with_request(&words, |request| {
                for count in [request.len(), request.len() + 5] {
                    let _ = table.lookup_head(request, count);
                }
                let command = match table.lookup(request) {
                    Ok(command) => command,
                    Err(refusal) => {
                        assert!(!refusal.text.is_empty());
                        return;
                    }
                };
                let mut out = vec![];
                if command.keys(request, nodes, &mut out).is_ok() {
                    assert!(out.iter().all(|at| (1..request.len()).contains(&(*at as usize))), "{out:?}");
                    if let Some(at) = command.only_key() {
                        assert_eq!(out, [at as u32]);
                    }
                }
            });
        }
    }
}

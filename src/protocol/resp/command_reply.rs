//! What `COMMAND` and its subcommands answer, from the table: only commands that ringway offers,
//! in the shapes of Redis 7.

use super::{
    Version,
    commands::Command,
    frame::Request,
    glob,
    keys::{Begin, Find, KeySpec},
    rule::{Rule, Split},
    table::{Refusal, Table},
    write,
};

const HELP: &[&str] = &[
    "COMMAND [<subcommand> [<argument> ...]]: the commands that ringway offers.",
    "(no subcommand)",
    "    All of them, with their arguments' count, flags and key positions.",
    "COUNT",
    "    How many there are.",
    "DOCS [<command> ...]",
    "    What ringway does with these commands, or with all.",
    "GETKEYS <request>",
    "    The keys in a request.",
    "GETKEYSANDFLAGS <request>",
    "    The keys in a request, and how it uses them.",
    "HELP",
    "    This text.",
    "INFO [<command> ...]",
    "    The same as without a subcommand, for these commands or for all.",
    "LIST [FILTERBY MODULE <name>|ACLCAT <category>|PATTERN <pattern>]",
    "    Their names.",
];

/// Bytes of a reply. That to `COMMAND` is the largest that is of use; names can be asked for many times over.
const REPLY_BYTES_MAX: usize = 512 << 10;

const TOO_MUCH: &str = "ERR the reply would be larger than 512 KiB: ask for fewer commands at once";

/// Answers one `COMMAND` request into an empty buffer.
pub fn answer(table: &Table, request: &Request<'_>, version: Version, out: &mut Vec<u8>) {
    let reply = Reply { table, version };
    let names = || request.args().skip(2);
    match request.arg(1).to_ascii_lowercase().as_slice() {
        b"" => reply.info_all(out),
        b"count" => write::integer(out, table.offered().count() as i64),
        b"docs" if request.len() == 2 => reply.docs(out, &table.offered().collect::<Vec<_>>()),
        b"docs" => {
            let commands: Vec<_> = names().filter_map(|name| reply.offered(name)).collect();
            write::map(out, version, commands.len());
            bounded(out, &commands, |out, command| reply.doc(out, command));
        }
        // Redis 7.0 asks for a whole request here, newer servers for its first word.
        sub @ (b"getkeys" | b"getkeysandflags") if request.len() < 4 => {
            let name = String::from_utf8_lossy(sub);
            write::error(out, format!("ERR wrong number of arguments for 'command|{name}' command"));
        }
        b"getkeys" => reply.keys(out, &request.without(2), false),
        b"getkeysandflags" => reply.keys(out, &request.without(2), true),
        b"help" => {
            write::array(out, HELP.len());
            HELP.iter().for_each(|line| write::simple(out, line));
        }
        b"info" if request.len() == 2 => reply.info_all(out),
        b"info" => {
            let commands: Vec<_> = names().map(|name| reply.offered(name)).collect();
            write::array(out, commands.len());
            bounded(out, &commands, |out, command| match command {
                Some(command) => reply.info(out, command),
                None => write::null(out, version),
            });
        }
        b"list" => reply.list(out, request),
        _ => write::error(out, &Refusal::unknown_subcommand(request).text),
    }
}

/// Appends what was asked for to the head of the reply, or makes of all of it an error once it is too much.
fn bounded<T>(out: &mut Vec<u8>, asked: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    for item in asked {
        write(out, item);
        if out.len() > REPLY_BYTES_MAX {
            out.clear();
            return write::error(out, TOO_MUCH);
        }
    }
}

struct Reply<'t> {
    table: &'t Table,
    version: Version,
}

impl<'t> Reply<'t> {
    fn offered(&self, name: &[u8]) -> Option<&'t Command> {
        self.table.named(name).filter(|command| self.table.is_offered(command))
    }

    fn info_all(&self, out: &mut Vec<u8>) {
        write::array(out, self.table.offered().count());
        self.table.offered().for_each(|command| self.info(out, command));
    }

    fn info(&self, out: &mut Vec<u8>, command: &Command) {
        let row = &command.row;
        write::array(out, 10);
        write::bulk(out, command.name.as_bytes());
        write::integer(out, command.arity().into());
        self.words(out, &row.flags);
        row.range.iter().for_each(|n| write::integer(out, (*n).into()));
        self.words(out, &row.categories);
        write::set(out, self.version, row.tips.len());
        row.tips.iter().for_each(|tip| write::bulk(out, tip.as_bytes()));
        write::set(out, self.version, row.keys.len());
        row.keys.iter().for_each(|spec| self.key_spec(out, spec));
        match self.table.subcommands(command).count() {
            // An empty set, while what is not empty is an array: that is how Redis says it.
            0 => write::set(out, self.version, 0),
            n => write::array(out, n),
        }
        self.table.subcommands(command).for_each(|sub| self.info(out, sub));
    }

    fn words(&self, out: &mut Vec<u8>, words: &[&str]) {
        write::set(out, self.version, words.len());
        words.iter().for_each(|word| write::simple(out, word));
    }

    fn key_spec(&self, out: &mut Vec<u8>, spec: &KeySpec) {
        write::map(out, self.version, 3);
        write::bulk(out, b"flags");
        self.words(out, &spec.flags);
        write::bulk(out, b"begin_search");
        match spec.begin {
            Begin::Index(at) => self.search(out, "index", &[("index", at as i64)]),
            Begin::Unknown => self.search(out, "unknown", &[]),
            Begin::Keyword(word, from) => {
                self.search_head(out, "keyword", 2);
                write::bulk(out, b"keyword");
                write::bulk(out, word.as_bytes());
                write::bulk(out, b"startfrom");
                write::integer(out, from);
            }
        }
        write::bulk(out, b"find_keys");
        match spec.find {
            Find::Range { last, step, limit } => {
                self.search(out, "range", &[("lastkey", last), ("keystep", step as i64), ("limit", limit)]);
            }
            Find::Count { at, first, step } => {
                let numbers =
                    [("keynumidx", at as i64), ("firstkey", first as i64), ("keystep", step as i64)];
                self.search(out, "keynum", &numbers);
            }
            Find::Unknown => self.search(out, "unknown", &[]),
        }
    }

    fn search(&self, out: &mut Vec<u8>, kind: &str, numbers: &[(&str, i64)]) {
        self.search_head(out, kind, numbers.len());
        for (name, number) in numbers {
            write::bulk(out, name.as_bytes());
            write::integer(out, *number);
        }
    }

    fn search_head(&self, out: &mut Vec<u8>, kind: &str, fields: usize) {
        write::map(out, self.version, 2);
        write::bulk(out, b"type");
        write::bulk(out, kind.as_bytes());
        write::bulk(out, b"spec");
        write::map(out, self.version, fields);
    }

    fn docs(&self, out: &mut Vec<u8>, commands: &[&Command]) {
        write::map(out, self.version, commands.len());
        commands.iter().for_each(|command| self.doc(out, command));
    }

    fn doc(&self, out: &mut Vec<u8>, command: &Command) {
        let subcommands: Vec<_> = self.table.subcommands(command).collect();
        write::bulk(out, command.name.as_bytes());
        write::map(out, self.version, 3 + usize::from(!subcommands.is_empty()));
        for (field, text) in
            [("summary", summary(command)), ("since", command.row.since), ("group", command.row.group)]
        {
            write::bulk(out, field.as_bytes());
            write::bulk(out, text.as_bytes());
        }
        if !subcommands.is_empty() {
            write::bulk(out, b"subcommands");
            self.docs(out, &subcommands);
        }
    }

    /// Without a filter only whole commands are named, with one subcommands too.
    fn list(&self, out: &mut Vec<u8>, request: &Request<'_>) {
        let by = |word: &str| request.arg(3).eq_ignore_ascii_case(word.as_bytes());
        let what = request.arg(4);
        if request.len() == 2 {
            write::set(out, self.version, self.table.offered().count());
            self.table.offered().for_each(|command| write::bulk(out, command.name.as_bytes()));
        } else if request.len() != 5 || !request.arg(2).eq_ignore_ascii_case(b"filterby") {
            write::error(out, "ERR syntax error");
        } else if by("module") {
            // Modules of the nodes are not known here.
            write::array(out, 0);
        } else if by("aclcat") {
            let is_category = |category: &&str| category.as_bytes()[1..].eq_ignore_ascii_case(what);
            self.filtered(out, |command| command.row.categories.iter().any(&is_category));
        } else if by("pattern") && what.len() > glob::BYTES_MAX {
            write::error(out, glob::TOO_LONG);
        } else if by("pattern") {
            self.filtered(out, |command| glob::matches(what, command.name.as_bytes(), true));
        } else {
            write::error(out, "ERR syntax error");
        }
    }

    fn filtered(&self, out: &mut Vec<u8>, is_meant: impl Fn(&Command) -> bool) {
        let all = self.table.offered().flat_map(|c| std::iter::once(c).chain(self.table.subcommands(c)));
        let found: Vec<_> = all.filter(|command| is_meant(command)).collect();
        write::array(out, found.len());
        found.iter().for_each(|command| write::bulk(out, command.name.as_bytes()));
    }

    /// Knows the keys of refused commands too: a client may ask before it goes elsewhere.
    fn keys(&self, out: &mut Vec<u8>, inner: &Request<'_>, with_flags: bool) {
        let Ok(command) = self.table.known(inner, inner.len()) else {
            return write::error(out, "ERR Invalid command specified");
        };
        if !command.row.keys.iter().any(KeySpec::is_key) {
            return write::error(out, "ERR The command has no key arguments");
        }
        if !command.accepts(inner.len()) {
            return write::error(out, "ERR Invalid number of arguments specified for command");
        }
        let mut found = Vec::new();
        let whole = command.visit(inner, |at, flags| found.push((at, used(flags))));
        if !whole && command.row.flags.contains(&"no_mandatory_keys") {
            found.clear();
        } else if !whole {
            return write::error(out, "ERR Invalid arguments specified for command");
        }
        write::array(out, found.len());
        for (at, flags) in found {
            if with_flags {
                write::array(out, 2);
            }
            write::bulk(out, inner.arg(at));
            if with_flags {
                self.words(out, actual_flags(command, inner).unwrap_or(&flags));
            }
        }
    }
}

/// The flags of a key without what they say about the specification itself.
fn used(flags: &[&'static str]) -> Vec<&'static str> {
    flags.iter().copied().filter(|flag| !["variable_flags", "incomplete"].contains(flag)).collect()
}

/// How a request uses its key, for commands whose options decide it.
fn actual_flags(command: &Command, request: &Request<'_>) -> Option<&'static [&'static str]> {
    let has = |from: usize, words: &[&str]| {
        request.args().skip(from).any(|arg| words.iter().any(|w| arg.eq_ignore_ascii_case(w.as_bytes())))
    };
    match &*command.name {
        "set" if has(3, &["GET"]) => Some(&["RW", "access", "update"]),
        "set" => Some(&["OW", "update"]),
        "bitfield" if has(2, &["SET", "INCRBY"]) => Some(&["RW", "access", "update"]),
        "bitfield" => Some(&["RO", "access"]),
        _ => None,
    }
}

/// What ringway does with a command, in a line.
fn summary(command: &Command) -> &'static str {
    match command.rule {
        _ if command.is_container => "A container of subcommands",
        Rule::Keyed if command.row.keys.is_empty() => "Forwarded to one node",
        Rule::Keyed if command.only_key().is_some() => "Forwarded to the node that owns its key",
        Rule::Keyed => "Forwarded to the node that owns all its keys",
        Rule::Split(Split::Values) => "Split by key, values in the order of the keys",
        Rule::Split(Split::Pairs) => "Split by key, each node atomically for itself",
        Rule::Split(Split::Count) => "Split by key, counts added",
        Rule::All(_) => "Asked of every node, replies merged",
        Rule::Scan => "Walks over all nodes, one after the other",
        Rule::Local(_) => "Answered by ringway",
        Rule::Refuse(_) => "Not offered",
    }
}

//! One command: what the servers say about it (`commands.tsv`, written by
//! `tests/data/commands.py`), and what a proxy does with it.

use std::sync::{Arc, LazyLock};

use super::{
    frame::Request,
    hand::Hand,
    keys::{Begin, Find, KeySpec},
    offer,
    rule::Rule,
    table::{CustomCommand, Refusal},
};

/// What kind of command it is, for time limits and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Only reads.
    Read,
    /// May write.
    Write,
    /// A script, or another command that may take long at one node.
    Slow,
    /// Asked of every node.
    All,
    /// Answered by ringway itself.
    Local,
}

/// One command or subcommand of the table.
#[derive(Clone, Debug)]
pub struct Command {
    /// In lower case, a subcommand behind its container: `config|get`.
    pub name: Arc<str>,
    /// What a proxy does with it.
    pub rule: Rule,
    /// What kind of command it is.
    pub class: Class,
    /// Safe to repeat: a request whose reply was lost can be sent again. That is what servers
    /// flag `readonly`, random replies included (the client sees one of them), and a few that
    /// they forgot; never what may write.
    pub read_only: bool,
    /// May rightly take long: a script, or one whose work grows with the whole key space. It gets
    /// `slow_timeout`, and its delay is no evidence against a node.
    pub slow: bool,
    pub(super) denied: bool,
    /// The container of a subcommand.
    pub(super) parent: Option<u16>,
    pub(super) is_container: bool,
    arity: i32,
    only_key: Option<usize>,
    hand: Option<Hand>,
    pub(super) row: Arc<Row>,
}

/// What servers say about a command, in their own words.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) flags: Vec<&'static str>,
    pub(super) categories: Vec<&'static str>,
    pub(super) tips: Vec<&'static str>,
    /// First key, last key and step, as servers before 7.0 had it.
    pub(super) range: [i32; 3],
    pub(super) keys: Vec<KeySpec>,
    pub(super) group: &'static str,
    pub(super) since: &'static str,
}

impl Command {
    /// The position of the key, when the command has exactly one that always stands at the same
    /// place. It is known before the rest of the request has arrived.
    #[inline]
    pub fn only_key(&self) -> Option<usize> {
        self.only_key
    }

    /// Appends the positions of all keys to `out`, in the order of the request's specifications.
    /// `nodes` is how many the pool has: what may concern several nodes is permitted with one.
    ///
    /// No position means that the request names no key (`EVAL script 0`), or is malformed so that
    /// no server could execute it either. Both go to the node that owns the empty key: it answers
    /// with the words that a client expects.
    ///
    /// # Errors
    /// What a proxy can't do right: `XREAD BLOCK`, `COPY DB`, `SORT` by patterns over several
    /// nodes; and `MSET` with half a pair, which can't be split.
    pub fn keys(&self, request: &Request<'_>, nodes: usize, out: &mut Vec<u32>) -> Result<(), Refusal> {
        if let Some(hand) = self.hand {
            hand.permits(self, request, nodes)?;
        }
        self.visit(request, |at, _| out.push(at as u32));
        Ok(())
    }

    /// Whether it may write: neither safe to repeat nor answered by ringway.
    pub fn may_write(&self) -> bool {
        !self.read_only && self.class != Class::Local
    }

    /// How many arguments it takes, its name included; a negative number is the least.
    pub fn arity(&self) -> i32 {
        self.arity
    }

    /// Whether a client may use it.
    pub fn is_offered(&self) -> bool {
        !self.denied && !matches!(self.rule, Rule::Refuse(_))
    }

    #[inline]
    pub(super) fn accepts(&self, args: usize) -> bool {
        accepts(self.arity, args)
    }

    /// Calls `found` with the position and the flags of each key; tells whether all keys that
    /// must be there are.
    pub(super) fn visit(&self, request: &Request<'_>, mut found: impl FnMut(usize, &[&'static str])) -> bool {
        let specs = &self.row.keys;
        if let (Some(hand), [first, .., last] | [first @ last]) = (self.hand, &specs[..])
            && hand.finds_keys()
        {
            return hand
                .keys(request, |at, stores| found(at, if stores { &last.flags } else { &first.flags }));
        }
        let (mut whole, mut any) = (true, false);
        for spec in specs.iter().filter(|spec| spec.is_key()) {
            let mut some = false;
            for at in spec.positions(request) {
                some = true;
                found(at, &spec.flags);
            }
            whole &= some || spec.is_optional();
            any |= some;
        }
        whole && any
    }

    fn built_in(name: &'static str, arity: i32, row: Row) -> Command {
        let hand = Hand::of(name);
        let rule = offer::rule(name).unwrap_or(match row.keys.is_empty() {
            // Only a container is left, which no request reaches; a test sees to it.
            true => Rule::Refuse("it has no rule"),
            false => Rule::Keyed,
        });
        let read_only = (row.flags.contains(&"readonly") && !row.flags.contains(&"write"))
            || offer::READS.contains(&name)
            || name.ends_with("|help");
        let slow = offer::SLOW.contains(&name);
        let class = match rule {
            Rule::Local(_) => Class::Local,
            Rule::All(_) | Rule::Scan => Class::All,
            _ if slow => Class::Slow,
            _ if read_only => Class::Read,
            _ => Class::Write,
        };
        Command {
            name: name.into(),
            rule,
            class,
            read_only,
            slow,
            denied: false,
            parent: None,
            is_container: false,
            arity,
            only_key: only_key(&row.keys, hand),
            hand,
            row: Arc::new(row),
        }
    }

    /// A command of the configuration; its positions have been checked.
    pub(super) fn custom(custom: &CustomCommand) -> Command {
        let last = match custom.last_key {
            last if last < 0 => last,
            last => last - custom.first_key as i32,
        };
        let (flags, class, uses) = match custom.read_only {
            true => (vec!["readonly", "module"], Class::Read, vec!["RO", "access"]),
            false => (vec!["write", "module"], Class::Write, vec!["RW", "access", "update"]),
        };
        let keys = vec![KeySpec {
            flags: uses,
            begin: Begin::Index(custom.first_key as usize),
            find: Find::Range { last: last.into(), step: custom.step as usize, limit: 0 },
        }];
        Command {
            name: custom.name.to_ascii_lowercase().into(),
            rule: Rule::Keyed,
            class,
            read_only: custom.read_only,
            slow: false,
            denied: false,
            parent: None,
            is_container: false,
            arity: -(custom.first_key as i32 + 1),
            only_key: only_key(&keys, None),
            hand: None,
            row: Arc::new(Row {
                flags,
                categories: vec![],
                tips: vec![],
                range: [custom.first_key as i32, custom.last_key, custom.step as i32],
                keys,
                group: "module",
                since: "0.0.0",
            }),
        }
    }
}

/// Whether a command of this arity takes so many arguments, its name included.
#[inline(always)]
pub(super) fn accepts(arity: i32, args: usize) -> bool {
    let least = arity.unsigned_abs() as usize;
    args == least || (arity < 0 && args > least)
}

fn only_key(keys: &[KeySpec], hand: Option<Hand>) -> Option<usize> {
    match keys {
        [spec] if hand.is_none() && spec.is_key() => spec.one_place(),
        _ => None,
    }
}

/// All commands that some server knows, containers before their subcommands. Where two servers
/// differ, the newer one's words count, and of two arities the one that accepts more: the node
/// itself refuses what it does not take.
pub(super) static BUILT_IN: LazyLock<Vec<Command>> = LazyLock::new(|| {
    let mut commands: Vec<Command> = Vec::new();
    for line in include_str!("commands.tsv").lines().filter(|line| !line.starts_with('#')) {
        let mut command = read_row(line).expect("commands.tsv has a malformed line");
        if commands.last().is_some_and(|older| older.name == command.name) {
            let older = commands.pop().expect("it was just looked at");
            command.arity = looser(older.arity, command.arity);
        }
        if let Some((container, _)) = command.name.split_once('|') {
            let parent = commands.iter().rposition(|c| *c.name == *container);
            let parent = parent.expect("commands.tsv has a subcommand before its container");
            commands[parent].is_container = true;
            command.parent = Some(parent as u16);
        }
        commands.push(command);
    }
    commands
});

fn read_row(line: &'static str) -> Option<Command> {
    let columns: Vec<&'static str> = line.split('\t').collect();
    let [name, _servers, arity, flags, categories, tips, range, keys, group, since] = columns[..] else {
        return None;
    };
    let list = |text: &'static str| text.split(',').filter(|word| !word.is_empty()).collect();
    let range: Vec<i32> = range.split(',').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let keys = match keys {
        "" => vec![],
        keys => keys.split("; ").map(KeySpec::parse).collect::<Option<_>>()?,
    };
    let row = Row {
        flags: list(flags),
        categories: list(categories),
        tips: list(tips),
        range: range.try_into().ok()?,
        keys,
        group,
        since,
    };
    Some(Command::built_in(name, arity.parse().ok()?, row))
}

fn looser(a: i32, b: i32) -> i32 {
    let least = a.abs().min(b.abs());
    if a == b && a > 0 { a } else { -least }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command has a rule or keys, and what waits, administers or publishes never goes to a
    /// shared connection because nobody thought of it.
    #[test]
    fn nothing_is_offered_by_accident() {
        for command in BUILT_IN.iter().filter(|c| !c.is_container) {
            let ruled = offer::rule(&command.name).is_some();
            assert!(ruled || !command.row.keys.is_empty(), "{} has neither keys nor a rule", command.name);
            let dangerous = ["blocking", "admin", "pubsub"].iter().any(|f| command.row.flags.contains(f));
            assert!(ruled || command.hand.is_some() || !dangerous, "{} needs a rule", command.name);
            let keyed = command.row.keys.iter().any(KeySpec::is_key) && matches!(command.rule, Rule::Keyed);
            let readable = command.row.keys.iter().all(|spec| {
                (spec.begin != Begin::Unknown && spec.find != Find::Unknown)
                    && !spec.flags.contains(&"incomplete")
            });
            assert!(
                !keyed || readable || command.hand.is_some(),
                "{} needs its keys read by hand",
                command.name
            );
        }
    }

    /// Each rule of our own names a command that exists, once.
    #[test]
    fn rules_name_commands() {
        let names = offer::RULES.iter().map(|(name, _)| name).chain(offer::SLOW).chain(offer::READS);
        for name in names {
            assert!(BUILT_IN.iter().any(|c| *c.name == **name), "{name} is no command");
        }
        for (at, (name, _)) in offer::RULES.iter().enumerate() {
            assert!(offer::RULES[..at].iter().all(|(other, _)| other != name), "{name} has two rules");
        }
    }

    /// A key that is found without looking at the request is always there, and only there.
    #[test]
    fn the_only_key_is_within_the_arity() {
        let mut found = 0;
        for command in BUILT_IN.iter() {
            let Some(at) = command.only_key() else { continue };
            found += 1;
            assert!(at >= 1 && at < command.arity.unsigned_abs() as usize, "{}", command.name);
            assert!(!matches!(command.rule, Rule::Split(_)), "{}", command.name);
        }
        assert!(found > 100, "GET, SET and their like");
    }

    /// Safe to repeat never includes what may write, block or be random in its effect.
    #[test]
    fn what_is_safe_to_repeat() {
        let find = |name: &str| BUILT_IN.iter().find(|c| &*c.name == name).expect(name);
        for name in ["get", "mget", "xread", "srandmember", "eval_ro", "scan", "script|exists", "object|help"]
        {
            assert!(find(name).read_only && !find(name).may_write(), "{name}");
        }
        for name in ["set", "incr", "getdel", "getex", "eval", "evalsha", "fcall", "script|load", "migrate"] {
            assert!(!find(name).read_only && find(name).may_write(), "{name}");
        }
        for command in BUILT_IN.iter().filter(|c| c.row.flags.contains(&"write")) {
            assert!(!command.read_only, "{}", command.name);
        }
        for (name, class, slow) in [
            ("get", Class::Read, false),
            ("del", Class::Write, false),
            ("eval", Class::Slow, true),
            ("keys", Class::All, true),
            ("dbsize", Class::All, false),
            ("ping", Class::Local, false),
        ] {
            assert_eq!((find(name).class, find(name).slow), (class, slow), "{name}");
        }
    }

    /// Where servers differ, the newer one's words count and the looser arity.
    #[test]
    fn rows_of_two_servers_are_one() {
        let zrank: Vec<_> = BUILT_IN.iter().filter(|c| &*c.name == "zrank").collect();
        assert_eq!(zrank.len(), 1);
        assert_eq!(zrank[0].arity(), -3, "Valkey's WITHSCORE");
        assert_eq!([looser(3, -3), looser(-4, -3), looser(2, 2), looser(2, 3)], [-3, -3, 2, -2]);
        let wait = BUILT_IN.iter().find(|c| &*c.name == "wait").expect("wait");
        assert!(wait.row.flags.contains(&"blocking"), "as Valkey says");
    }
}

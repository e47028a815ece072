//! `deny_commands` and `commands`: commands switched off, and commands that the built-in table
//! lacks.

use super::{
    section::{Field, Placed, Section},
    units::{number, switch},
};
use crate::{
    protocol::resp::table::{Table, TableError},
    topology::CustomCommand,
};

/// Redis has a few hundred commands; more than this is no list of commands.
const COMMANDS_MAX: usize = 1_000;
/// As many arguments as a request may have.
const POSITION_MAX: u32 = 1 << 20;

/// Reads both keys of a pool: first what is added to the table, because that can be denied, too.
pub(super) fn commands(pool: &mut Section<'_>) -> (Vec<CustomCommand>, Vec<String>) {
    let custom = pool.inner("commands").map(custom).unwrap_or_default();
    let denied = pool.take("deny_commands").map(|f| denied(&f, &custom)).unwrap_or_default();
    (custom, denied)
}

/// The commands of a list, upper case, each once.
fn denied(field: &Field<'_>, custom: &[CustomCommand]) -> Vec<String> {
    if !field.is_list() {
        field.error("is not a list; write [FLUSHALL, KEYS]");
        return Vec::new();
    }
    let items = field.items();
    if items.len() > COMMANDS_MAX {
        field.error(format!("has {} commands; {COMMANDS_MAX} are read", items.len()));
        return Vec::new();
    }
    // `custom` took in only what makes a table.
    let Ok(table) = Table::new(custom, &[""; 0]) else { return Vec::new() };
    let name = |text: &str| match table.named(text.as_bytes()) {
        Some(_) => Ok(text.to_ascii_uppercase()),
        None => Err(format!("`{text}` is not a command; write FLUSHALL, or CONFIG|SET for a subcommand")),
    };
    let mut names: Vec<String> = items.iter().filter_map(|i| i.parse(name)).collect();
    names.sort();
    names.dedup();
    names
}

/// The commands of a mapping from name to key positions.
fn custom(section: Section<'_>) -> Vec<CustomCommand> {
    let mut commands: Vec<CustomCommand> = Vec::new();
    let report = section.report();
    for (Placed { value: text, place }, field) in section.named() {
        if commands.len() == COMMANDS_MAX {
            report.error(&place, format!("is one command more than the {COMMANDS_MAX} that are read"));
            break;
        }
        let Some(section) = field.section() else { continue };
        let Some(command) = positions(text.to_ascii_uppercase(), section) else { continue };
        if commands.iter().any(|c| c.name == command.name) {
            report.error(&place, "is here twice: the case of a command does not matter");
            continue;
        }
        match Table::new(std::slice::from_ref(&command), &[""; 0]) {
            Ok(_) => commands.push(command),
            Err(TableError::Duplicate(_)) => report.error(&place, "is built in; leave it out"),
            Err(error) => report.error(&place, error.to_string()),
        }
    }
    commands
}

/// Where a command has its keys. `last_key` counts from the end when negative.
fn positions(name: String, mut section: Section<'_>) -> Option<CustomCommand> {
    let first = section.require("first_key", "count the command itself as 0");
    let first_key = first.and_then(|f| f.parse(number(1..=POSITION_MAX)));
    let last = section.take("last_key");
    let last_key = last.as_ref().and_then(|f| f.parse(number(-(POSITION_MAX as i32)..=POSITION_MAX as i32)));
    let (mut step, mut read_only) = (1, false);
    section.read("step", &mut step, number(1..=POSITION_MAX));
    section.read("read_only", &mut read_only, switch);
    section.finish();
    let first_key = first_key?;
    let last_key = last_key.unwrap_or(first_key as i32);
    if let Some(field) = last.filter(|_| (0..first_key as i32).contains(&last_key)) {
        field.error(format!("`{last_key}` is before first_key; -1 is the last argument"));
        return None;
    }
    Some(CustomCommand { name, first_key, last_key, step, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{finding::Report, tree};

    fn read(text: &str) -> Result<(Vec<String>, Vec<CustomCommand>), String> {
        let report = Report::new("f");
        let node = tree::parse(text, &report).expect("is YAML");
        let mut root = Section::root(&node, &report).expect("is a map");
        let (custom, denied) = commands(&mut root);
        root.finish();
        report.finish().map_err(|e| e.to_string())?;
        Ok((denied, custom))
    }

    /// Names are upper case, each once; positions have the defaults of one key that is written.
    #[test]
    fn read_as_written() {
        let (denied, commands) = read(
            "deny_commands: [flushall, CONFIG|set, FLUSHALL, JSON.GET]\n\
             commands: {json.get: {first_key: 1, read_only: true}, X.DEL: {first_key: 2, last_key: -1, step: 2}}",
        )
        .expect("fine");
        assert_eq!(denied, ["CONFIG|SET", "FLUSHALL", "JSON.GET"]);
        let name = |n: &str| n.to_owned();
        assert_eq!(
            commands,
            [
                CustomCommand { name: name("JSON.GET"), first_key: 1, last_key: 1, step: 1, read_only: true },
                CustomCommand { name: name("X.DEL"), first_key: 2, last_key: -1, step: 2, read_only: false },
            ]
        );
    }

    /// What is no command, or has no place for its keys, is refused.
    #[test]
    fn refused() {
        for (text, want) in [
            ("deny_commands: FLUSHALL", "write [FLUSHALL, KEYS]"),
            ("deny_commands: ['']", "deny_commands[0]: `` is not a command"),
            ("deny_commands: [A|B|C]", "`A|B|C` is not a command"),
            ("deny_commands: [FLUSH ALL]", "is not a command"),
            ("deny_commands: [GET, FLUSHAL]", "deny_commands[1]: `FLUSHAL` is not a command"),
            ("deny_commands: [CONFIG|GOT]", "`CONFIG|GOT` is not a command"),
            ("commands: {get: {first_key: 1}}", "f:1:12: commands.get: is built in"),
            ("deny_commands: [[A]]", "is a list where one value is wanted"),
            ("commands: [A]", "is not a section"),
            ("commands: {A: }", "is not a section"),
            ("commands: {A: {}}", "commands.A.first_key: is missing"),
            ("commands: {A: {first_key: 0}}", "outside 1 to"),
            ("commands: {A: {first_key: 2, last_key: 1}}", "`1` is before first_key"),
            ("commands: {A: {first_key: 1, last_key: 0}}", "`0` is before first_key"),
            ("commands: {A: {first_key: 1, step: 0}}", "step: `0` is outside"),
            ("commands: {A: {first_key: 1, readonly: true}}", "did you mean `read_only`?"),
            ("commands: {X.A: {first_key: 1}, x.a: {first_key: 1}}", "is here twice"),
            ("commands: {'A B': {first_key: 1}}", "commands.A B: command name"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{error}");
        }
    }
}

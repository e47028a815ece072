//! `deny_commands` and `commands`: commands switched off, and commands that the built-in table
//! lacks.

use std::collections::HashSet;

use super::{
    section::{Field, Placed, Section},
    units::{number, switch},
};
use crate::topology::CustomCommand;

/// Redis has a few hundred commands; a list above this is no list of commands.
const COMMANDS_MAX: usize = 10_000;
const NAME_MAX: usize = 64;
/// As many arguments as a request may have.
const POSITION_MAX: u32 = 1 << 24;

/// The commands of a list, upper case, each once.
pub(super) fn denied(field: &Field<'_>) -> Vec<String> {
    if !field.is_list() {
        field.error("is not a list; write [FLUSHALL, KEYS]");
        return Vec::new();
    }
    let items = field.items();
    if items.len() > COMMANDS_MAX {
        field.error(format!("has {} commands; {COMMANDS_MAX} are read", items.len()));
        return Vec::new();
    }
    let mut names: Vec<String> = items.iter().filter_map(|i| i.parse(denied_name)).collect();
    names.sort();
    names.dedup();
    names
}

/// `NAME`, or `NAME|SUBCOMMAND`.
fn denied_name(text: &str) -> Result<String, String> {
    let mut parts = text.split('|');
    let (first, second, third) = (parts.next(), parts.next(), parts.next());
    let fine = first.is_some_and(is_name) && second.is_none_or(is_name) && third.is_none();
    let wrong = || format!("`{text}` is not a command; write FLUSHALL, or CONFIG|SET for a subcommand");
    fine.then(|| text.to_ascii_uppercase()).ok_or_else(wrong)
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(plain)
}

/// The commands of a mapping from name to key positions.
pub(super) fn custom(section: Section<'_>) -> Vec<CustomCommand> {
    let mut seen = HashSet::new();
    let mut commands = Vec::new();
    let report = section.report();
    for (Placed { value: text, place }, field) in section.named() {
        let upper = text.to_ascii_uppercase();
        if !is_name(text) {
            report.error(&place, "is not a command's name; write JSON.GET");
        } else if !seen.insert(upper.clone()) {
            report.error(&place, "is here twice: the case of a command does not matter");
        } else if commands.len() == COMMANDS_MAX {
            report.error(&place, format!("is one command more than the {COMMANDS_MAX} that are read"));
            break;
        } else if let Some(section) = field.section() {
            commands.extend(positions(upper, section));
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
        let denied = root.take("deny").map(|f| denied(&f)).unwrap_or_default();
        let commands = root.inner("commands").map(custom).unwrap_or_default();
        root.finish();
        report.finish().map_err(|e| e.to_string())?;
        Ok((denied, commands))
    }

    /// Names are upper case, each once; positions have the defaults of one key that is written.
    #[test]
    fn read_as_written() {
        let (denied, commands) = read(
            "deny: [flushall, CONFIG|set, FLUSHALL]\n\
             commands: {json.get: {first_key: 1, read_only: true}, X.DEL: {first_key: 2, last_key: -1, step: 2}}",
        )
        .expect("fine");
        assert_eq!(denied, ["CONFIG|SET", "FLUSHALL"]);
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
            ("deny: FLUSHALL", "write [FLUSHALL, KEYS]"),
            ("deny: ['']", "deny[0]: `` is not a command"),
            ("deny: [A|B|C]", "`A|B|C` is not a command"),
            ("deny: [FLUSH ALL]", "is not a command"),
            ("deny: [[A]]", "is a list where one value is wanted"),
            ("commands: [A]", "is not a section"),
            ("commands: {A: }", "is not a section"),
            ("commands: {A: {}}", "commands.A.first_key: is missing"),
            ("commands: {A: {first_key: 0}}", "outside 1 to"),
            ("commands: {A: {first_key: 2, last_key: 1}}", "`1` is before first_key"),
            ("commands: {A: {first_key: 1, last_key: 0}}", "`0` is before first_key"),
            ("commands: {A: {first_key: 1, step: 0}}", "step: `0` is outside"),
            ("commands: {A: {first_key: 1, readonly: true}}", "did you mean `read_only`?"),
            ("commands: {A: {first_key: 1}, a: {first_key: 1}}", "is here twice"),
            ("commands: {'A B': {first_key: 1}}", "is not a command's name"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{error}");
        }
    }
}

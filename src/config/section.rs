//! TREE -> FIELDS. A [`Section`] is a mapping of which keys are taken one by one; what nobody took
//! is unknown. A wrong value is reported and leaves the default, so that reading goes on to the
//! next.

use std::rc::Rc;

use super::{
    finding::{Place, Report},
    tree::{Entry, Node, Value},
};

/// As long as a path may be.
const TEXT_MAX: usize = 4096;

/// A mapping whose keys are being taken.
pub(super) struct Section<'a> {
    place: Place,
    entries: &'a [Entry],
    known: Vec<&'static str>,
    report: &'a Report,
}

/// A value under its key.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub(super) place: Place,
    node: &'a Node,
    report: &'a Report,
}

/// A value that was read, and where it stands for a later cross-check.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<'a> Section<'a> {
    /// The file's outermost mapping.
    pub(super) fn root(node: &'a Node, report: &'a Report) -> Option<Section<'a>> {
        Field { place: Place { mark: node.mark, path: String::new() }, node, report }.section()
    }

    /// Where the section stands.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Where findings go.
    pub(super) fn report(&self) -> &'a Report {
        self.report
    }

    /// Where `key` of this section would stand.
    pub(super) fn place_of(&self, key: &str) -> Place {
        let mark = self.entries.iter().find(|e| e.key == key).map_or(self.place.mark, |e| e.node.mark);
        Place { mark, path: self.below(key) }
    }

    fn below(&self, key: &str) -> String {
        if self.place.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place.path) }
    }

    /// The field under `key`, if there is a value.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.written(key).filter(|field| !field.node.is_absent())
    }

    /// The field under `key`, if the key is there, even without a value: for what must not be
    /// left out by a slip.
    pub(super) fn written(&mut self, key: &'static str) -> Option<Field<'a>> {
        self.known.push(key);
        self.entries.iter().find(|e| e.key == key).map(|entry| self.field(entry))
    }

    fn field(&self, entry: &'a Entry) -> Field<'a> {
        let place = Place { mark: entry.node.mark, path: self.below(&entry.key) };
        Field { place, node: &entry.node, report: self.report }
    }

    /// The field at a path of keys, as in `limits.clients`, if there is a value; it is not taken.
    pub(super) fn peek(&self, path: &str) -> Option<Field<'a>> {
        let (mut entries, mut found) = (self.entries, None);
        for key in path.split('.') {
            let entry = entries.iter().find(|e| e.key == key)?;
            found = Some(&entry.node);
            entries = if let Value::Map(below) = &entry.node.value { below } else { &[] };
        }
        let node = found.filter(|node| !node.is_absent())?;
        Some(Field { place: Place { mark: node.mark, path: self.below(path) }, node, report: self.report })
    }

    /// The field under `key`, which must be there.
    pub(super) fn require(&mut self, key: &'static str, wanted: &str) -> Option<Field<'a>> {
        let field = self.take(key);
        if field.is_none() {
            self.report.error(&self.place_of(key), format!("is missing; {wanted}"));
        }
        field
    }

    /// Reads the value under `key` into `target`; an absent or wrong one leaves it as it is.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) {
        if let Some(value) = self.take(key).and_then(|f| f.parse(parse)) {
            *target = value;
        }
    }

    /// The section under `key`, if there is one.
    pub(super) fn inner(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.take(key)?.section()
    }

    /// All keys with their places and fields, for a mapping whose keys are names. A name without a
    /// value has an absent field.
    pub(super) fn named(self) -> impl Iterator<Item = (Placed<&'a str>, Field<'a>)> {
        let entries = self.entries;
        entries.iter().map(move |entry| {
            let place = Place { mark: entry.mark, path: self.below(&entry.key) };
            (Placed { value: entry.key.as_str(), place }, self.field(entry))
        })
    }

    /// Reports every key that nobody took, with the known key that it may be meant for.
    pub(super) fn finish(self) {
        for entry in self.entries.iter().filter(|e| !self.known.contains(&e.key.as_str())) {
            let place = Place { mark: entry.mark, path: self.below(&entry.key) };
            if self.report.is_full() {
                self.report.error(&place, "unknown key");
                continue;
            }
            let nearest = self.known.iter().map(|k| (distance(k, &entry.key), k)).min();
            let advice = match nearest {
                Some((d, known)) if d <= 1 + known.len() / 4 => format!("; did you mean `{known}`?"),
                _ => format!("; known here: {}", self.known.join(", ")),
            };
            self.report.error(&place, format!("unknown key{advice}"));
        }
    }
}

impl<'a> Field<'a> {
    /// Reports an error about this value.
    pub(super) fn error(&self, message: impl Into<String>) {
        self.report.error(&self.place, message);
    }

    /// Says that this value can be obeyed and is perhaps not meant.
    pub(super) fn warn(&self, message: impl Into<String>) {
        self.report.warn(&self.place, message);
    }

    /// The value as text. No value of ours is long or has control characters, and a message that
    /// repeats one must stay one line.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) if text.len() > TEXT_MAX => {
                self.error(format!("is longer than {TEXT_MAX} bytes"));
            }
            Value::Text(text) if text.chars().any(char::is_control) => {
                self.error("has line ends or other control characters in it");
            }
            Value::Text(text) => return Some(text),
            Value::Absent => self.error("has no value"),
            Value::List(_) => self.error("is a list where one value is wanted"),
            Value::Map(_) => self.error("has keys of its own where one value is wanted"),
        }
        None
    }

    /// The value through `parse`, whose error is reported.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        parse(self.text()?).map_err(|message| self.error(message)).ok()
    }

    /// The value as a section. Its text is not repeated in the error: where a section of
    /// credentials is wanted, the text may be a password.
    pub(super) fn section(self) -> Option<Section<'a>> {
        match &self.node.value {
            Value::Map(entries) => {
                Some(Section { place: self.place, entries, known: Vec::new(), report: self.report })
            }
            _ => {
                self.error("is not a section; write `key: value` lines below it");
                None
            }
        }
    }

    /// The items of a list; one value alone is a list of one.
    pub(super) fn items(&self) -> Vec<Field<'a>> {
        let Value::List(items) = &self.node.value else { return vec![self.clone()] };
        let item = |(i, node): (usize, &'a Rc<Node>)| Field {
            place: Place { mark: node.mark, path: format!("{}[{i}]", self.place.path) },
            node,
            report: self.report,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// Whether the value is this text.
    pub(super) fn is_text(&self, text: &str) -> bool {
        matches!(&self.node.value, Value::Text(value) if value == text)
    }

    /// Whether the value has keys of its own.
    pub(super) fn is_section(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }
}

/// How many characters must be put in, left out, changed or swapped with their neighbour to make
/// one word of the other. Words longer than any key are not compared.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    /// An unknown key is met with the key it was meant for, or with those that are known.
    #[test]
    fn suggestions() {
        let report = Report::new("f");
        let node = tree::parse("wokrers: 1\nbanana: 2\nworkers: 3\n", &report).expect("is YAML");
        let mut root = Section::root(&node, &report).expect("is a map");
        let mut workers = 0;
        root.read("workers", &mut workers, |t| t.parse().map_err(|_| String::new()));
        root.take("admin");
        root.finish();
        let text = report.finish().expect_err("unknown keys").to_string();
        assert_eq!(workers, 3);
        assert_eq!(
            text,
            "f:1:1: wokrers: unknown key; did you mean `workers`?\n\
             f:2:1: banana: unknown key; known here: workers, admin"
        );
    }

    /// The distance of a swap, a slip and a missing letter is one; unrelated words are far.
    #[test]
    fn distances() {
        for (a, b, d) in [("ab", "ba", 1), ("abc", "abd", 1), ("abc", "ac", 1), ("", "abc", 3), ("x", "x", 0)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
        }
        assert!(distance("deadline", &"z".repeat(1 << 20)) > 8);
    }
}

//! TEXT -> TREE. YAML as a tree of nodes that remember where they stand, every scalar as it was
//! written, so that `name: 007` and `user: no` mean what they say. Sharing stays sharing, and what
//! it would expand to is bounded: an alias bomb is refused while it is read.

use std::{collections::HashMap, rc::Rc};

use granit_parser::{Event, Marker, Parser, ScalarStyle, options};

use super::finding::{Mark, Place, Report};

/// Deeper than this is no configuration of ours; the deepest key of ours has five levels.
const DEPTH_MAX: usize = 16;
/// Scalars and collections, counted as if every alias were written out. Ten thousand nodes with
/// every key take 100,000.
const NODES_MAX: usize = 1_000_000;

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
    /// Nodes in it, itself included, with aliases written out.
    size: usize,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`: the same as if the key were not there.
    Absent,
    /// Any scalar.
    Text(String),
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping, in the order of the text.
    Map(Vec<Entry>),
}

/// A key of a mapping and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) mark: Mark,
    pub(super) node: Rc<Node>,
}

/// A collection that is still being read.
struct Open {
    mark: Mark,
    anchor: usize,
    size: usize,
    children: Children,
}

enum Children {
    List(Vec<Rc<Node>>),
    Map { entries: Vec<Entry>, seen: HashMap<String, Mark>, key: Option<(String, Mark)> },
}

struct Builder<'a> {
    report: &'a Report,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

/// Reads one document. `None` when the text is not YAML that can be read, which the report says.
pub(super) fn parse(text: &str, report: &Report) -> Option<Rc<Node>> {
    let options = options! {
        emit_comments: false,
        block_nesting_limit: DEPTH_MAX,
        flow_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder { report, open: Vec::new(), anchors: HashMap::new(), root: None };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(next) => next,
            Err(e) => {
                report.error(&at(mark(e.marker())), format!("is not YAML: {}", e.info()));
                return None;
            }
        };
        builder.event(event, mark(&span.start))?;
    }
    let nothing = || Rc::new(Node { mark: Mark::default(), value: Value::Absent, size: 1 });
    Some(builder.root.unwrap_or_else(nothing))
}

fn mark(marker: &Marker) -> Mark {
    Mark { line: marker.line(), column: marker.col() + 1 }
}

fn at(mark: Mark) -> Place {
    Place { mark, path: String::new() }
}

impl Node {
    /// Whether there is nothing in it.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self.value, Value::Absent)
    }
}

impl Builder<'_> {
    /// Takes one event; `None` ends the reading.
    fn event(&mut self, event: Event<'_>, mark: Mark) -> Option<()> {
        if let Some(tag) = event.tag() {
            self.report.error(&at(mark), format!("the tag `{tag}` is not read; leave it out"));
            return None;
        }
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                self.report.error(&at(mark), "a second document begins here; a configuration is one");
                None
            }
            Event::Scalar(text, style, anchor, _) => {
                let absent = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null");
                let value = if absent { Value::Absent } else { Value::Text(text.into_owned()) };
                self.close(Node { mark, value, size: 1 }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(mark, anchor, Children::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let children = Children::Map { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.start(mark, anchor, children)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { mark, anchor, size, children } = self.open.pop()?;
                let value = match children {
                    Children::List(items) => Value::List(items),
                    Children::Map { entries, .. } => Value::Map(entries),
                };
                self.close(Node { mark, value, size }, anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => self.add(node.clone(), mark),
                None => {
                    self.report.error(&at(mark), "an alias within what it stands for");
                    None
                }
            },
            _ => Some(()),
        }
    }

    fn start(&mut self, mark: Mark, anchor: usize, children: Children) -> Option<()> {
        self.open.push(Open { mark, anchor, size: 1, children });
        Some(())
    }

    fn close(&mut self, node: Node, anchor: usize) -> Option<()> {
        let (mark, node) = (node.mark, Rc::new(node));
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node, mark)
    }

    /// Where in the text's sections what is read now stands, as messages name it: `pools.cache.nodes[2]`.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.children {
                Children::Map { key: Some((key, _)), .. } => {
                    let dot = if path.is_empty() { "" } else { "." };
                    path.push_str(&format!("{dot}{key}"));
                }
                Children::List(items) => path.push_str(&format!("[{}]", items.len())),
                Children::Map { key: None, .. } => {}
            }
        }
        path
    }

    /// Puts a finished node into the collection around it.
    fn add(&mut self, node: Rc<Node>, mark: Mark) -> Option<()> {
        let path = self.path();
        let Some(around) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        around.size += node.size;
        if around.size > NODES_MAX {
            let message = format!("stands for more than {NODES_MAX} values with its aliases written out");
            self.report.error(&at(mark), message);
            return None;
        }
        match &mut around.children {
            Children::List(items) => items.push(node),
            Children::Map { entries, seen, key } => match key.take() {
                None => {
                    let Value::Text(text) = &node.value else {
                        self.report.error(&at(mark), "a key must be a plain word");
                        return None;
                    };
                    if let Some(first) = seen.insert(text.clone(), mark) {
                        let message = format!("key `{text}` is here again; it stands in line {}", first.line);
                        self.report.error(&Place { mark, path }, message);
                    }
                    *key = Some((text.clone(), mark));
                }
                Some((key, mark)) => entries.push(Entry { key, mark, node }),
            },
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Rc<Node>, String> {
        let report = Report::new("f");
        let node = parse(text, &report);
        report.finish().map_err(|e| e.to_string())?;
        node.ok_or_else(|| "nothing".to_owned())
    }

    /// The same tree as a value of the YAML crate, every scalar as text.
    fn plain(node: &Node) -> serde_yaml::Value {
        match &node.value {
            Value::Absent => serde_yaml::Value::Null,
            Value::Text(text) => serde_yaml::Value::String(text.clone()),
            Value::List(items) => serde_yaml::Value::Sequence(items.iter().map(|n| plain(n)).collect()),
            Value::Map(entries) => serde_yaml::Value::Mapping(
                entries.iter().map(|e| (serde_yaml::Value::String(e.key.clone()), plain(&e.node))).collect(),
            ),
        }
    }

    fn any_value() -> impl Strategy<Value = serde_yaml::Value> {
        let text = "[ -~\n\té]{0,12}".prop_map(serde_yaml::Value::String);
        prop_oneof![text, Just(serde_yaml::Value::Null)].prop_recursive(4, 32, 5, |inner| {
            let map = prop::collection::btree_map("[a-z#:0-9 -]{1,6}", inner.clone(), 0..5);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(serde_yaml::Value::Sequence),
                map.prop_map(|m| {
                    let pairs = m.into_iter().map(|(k, v)| (serde_yaml::Value::String(k), v));
                    serde_yaml::Value::Mapping(pairs.collect())
                }),
            ]
        })
    }

    proptest! {
        /// What the YAML crate writes is read back as the same tree.
        #[test]
        fn agrees_with_a_second_writer(value in any_value()) {
            let text = serde_yaml::to_string(&value).expect("a value can be written");
            let node = read(&text).map_err(TestCaseError::fail)?;
            prop_assert_eq!(plain(&node), value, "{}", text);
        }

        /// No text makes the reader panic or loop.
        #[test]
        fn any_text_ends(text in "([ -~\n\t]|[&*!|>%@`{}\\[\\]:,#-]|é){0,80}") {
            let _ = read(&text);
        }
    }

    /// Every value knows its line and column, also within flow collections and behind an alias.
    #[test]
    fn marks() {
        let root = read("a: 1\nb:\n  - {c: &x 2, d: *x}\n").expect("is YAML");
        let Value::Map(entries) = &root.value else { panic!("a map") };
        assert_eq!((entries[1].mark.line, entries[1].mark.column), (2, 1));
        let Value::List(items) = &entries[1].node.value else { panic!("a list") };
        let Value::Map(inner) = &items[0].value else { panic!("a map") };
        assert_eq!((inner[0].node.mark.line, inner[0].mark.column), (3, 6));
        assert!(matches!(&inner[1].node.value, Value::Text(t) if t == "2"));
    }

    /// Scalars stay as written, and only an unquoted nothing is nothing.
    #[test]
    fn scalars_verbatim() {
        let root = read("[007, no, 0x10, 1e3, '', ~, null, 'null']").expect("is YAML");
        let texts = ["007", "no", "0x10", "1e3", "", "-", "-", "null"];
        let Value::List(items) = &root.value else { panic!("a list") };
        for (node, want) in items.iter().zip(texts) {
            match &node.value {
                Value::Text(text) => assert_eq!(text, want),
                _ => assert_eq!("-", want),
            }
        }
    }

    /// An alias bomb, an alias of itself, depth, tags, second documents, odd and repeated keys are
    /// refused by name.
    #[test]
    fn refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..30 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        let deep = "[".repeat(100_000);
        let blocks: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        for (text, want) in [
            (bomb.as_str(), "stands for more than"),
            ("a: &a [*a]", "f:1:8: "),
            ("a: *b", "is not YAML"),
            (&deep, "is not YAML"),
            (&blocks, "is not YAML"),
            ("a: !!str 1", "the tag"),
            ("a: 1\n---\nb: 1", "f:2:1: a second document"),
            ("[a]: 1", "a key must be a plain word"),
            ("a: 1\nb: 2\na: 3", "f:3:1: key `a` is here again; it stands in line 1"),
            (
                "p:\n  c:\n    - {n: 1}\n    - n: 1\n      n: 2",
                "f:5:7: p.c[1]: key `n` is here again; it stands in line 4",
            ),
            ("a:\n\t- b", "is not YAML"),
        ] {
            let error = read(text).expect_err(want);
            assert!(error.contains(want), "{error}");
        }
    }
}

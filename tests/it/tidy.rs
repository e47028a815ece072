//! The code that polices code: rooms use only the rooms that they may, files and functions stay
//! short, tests say what they prove, and nothing is left for later.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may use whom. `app` knows all rooms; the program itself is `main`.
const ROOMS: [(&str, &[&str]); 16] = [
    ("ring", &[]),
    ("protocol", &[]),
    ("clock", &[]),
    ("net", &[]),
    ("metrics", &["clock"]),
    // Commands that a configuration adds cross the border in the shape of the protocol's table.
    ("topology", &["ring", "protocol", "metrics", "net", "clock"]),
    ("proxy", &["topology", "protocol", "net", "metrics", "clock"]),
    ("health", &["topology", "protocol", "net", "metrics"]),
    ("incident", &["topology", "health", "metrics"]),
    ("membership", &["topology", "ring", "health", "incident", "metrics", "net", "clock"]),
    ("admin", &["topology", "ring", "membership", "net", "metrics", "clock"]),
    ("embedded", &["protocol", "net", "clock"]),
    ("config", &["ring", "protocol", "topology", "net"]),
    ("cli", &["config", "ring", "protocol", "topology", "net", "membership"]),
    (
        "app",
        &[
            "ring",
            "protocol",
            "clock",
            "net",
            "metrics",
            "topology",
            "proxy",
            "health",
            "incident",
            "membership",
            "admin",
            "embedded",
            "config",
            "cli",
        ],
    ),
    ("main", &["app", "cli", "config"]),
];

/// Non-blank lines of a file, its tests left out.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, from its signature to its last brace.
const FUNCTION_LINES_MAX: usize = 70;

struct File {
    /// From the package's root.
    name: String,
    text: String,
}

impl File {
    /// The text without the module of tests at its end.
    fn without_tests(&self) -> &str {
        self.text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default()
    }
}

/// All Rust files below some directories.
fn files(below: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> = below.iter().map(|dir| root.join(dir)).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = path.read_dir().expect("the directory can be read");
            waiting.extend(entries.map(|entry| entry.expect("the directory can be read").path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).expect("it is below the root").display().to_string();
            found.push(File { name, text: fs::read_to_string(&path).expect("source is text") });
        }
    }
    assert!(!found.is_empty(), "there is source below {below:?}");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The room that a file of src/ belongs to.
fn room(name: &str) -> &str {
    let inside = name.strip_prefix("src/").unwrap_or(name);
    inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// The rooms that some code names, as `crate::ROOM` or within `crate::{...}`.
fn rooms_used(code: &str) -> BTreeSet<String> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |all, line| all + line + "\n");
    let word =
        |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut used = BTreeSet::new();
    for prefix in ["crate::", "ringway::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let Some(list) = rest.strip_prefix('{') else {
                used.insert(word(rest));
                continue;
            };
            let (mut depth, mut begins) = (0, true);
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => begins = true,
                    c if begins && !c.is_whitespace() => {
                        used.insert(word(&list[i..]));
                        begins = false;
                    }
                    _ => {}
                }
            }
        }
    }
    used
}

/// Files that are compiled for tests only: `#[cfg(test)] mod NAME;` somewhere beside them.
fn is_test_only(file: &File, all: &[File]) -> bool {
    let path = Path::new(&file.name);
    let (Some(dir), Some(stem)) = (path.parent(), path.file_stem()) else { return false };
    let declared = format!("#[cfg(test)]\nmod {};", stem.to_string_lossy());
    all.iter().any(|f| Path::new(&f.name).parent() == Some(dir) && f.text.contains(&declared))
}

/// Each function of rustfmt's making: its first line's number, and its length.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let signature = code.strip_prefix("pub").map_or(code, |rest| {
            let rest = rest.trim_start();
            rest.strip_prefix('(').and_then(|r| r.split_once(')')).map_or(rest, |r| r.1).trim_start()
        });
        let bare = ["const ", "async ", "extern \"C\" "]
            .iter()
            .fold(signature, |s, w| s.strip_prefix(w).unwrap_or(s));
        if !bare.starts_with("fn ") || code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[i..].iter().position(|l| *l == end).map_or(0, |n| n + 1);
        found.push((i + 1, length));
    }
    found
}

/// The lines of tests that do not open with the sentence that they prove.
fn silent_tests(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |line: &str| line == "#[test]" || line.starts_with("#[tokio::test");
    let says = |i: usize| {
        lines[..i].iter().rev().find(|l| !l.starts_with("#[")).is_some_and(|l| l.starts_with("///"))
    };
    (0..lines.len()).filter(|i| is_test(lines[*i]) && !says(*i)).map(|i| i + 1).collect()
}

/// The lines of comments that are wider than this. A table's rows can't be wrapped.
fn wide_comments(text: &str, width: usize) -> Vec<usize> {
    let is_wide = |line: &str| {
        let comment = line.trim_start().strip_prefix("//");
        let words = comment.map(|words| words.trim_start_matches(['/', '!', ' ']));
        words.is_some_and(|words| !words.starts_with('|')) && line.chars().count() > width
    };
    text.lines().enumerate().filter(|(_, line)| is_wide(line)).map(|(i, _)| i + 1).collect()
}

/// Each room uses only the rooms that the table allows.
#[test]
fn rooms_use_only_what_they_may() {
    let all = files(&["src"]);
    let mut wrong = Vec::new();
    for file in all.iter().filter(|f| f.name != "src/lib.rs" && !is_test_only(f, &all)) {
        let room = room(&file.name);
        let Some((_, allowed)) = ROOMS.iter().find(|r| r.0 == room) else {
            wrong.push(format!(
                "{}: {room} is a room that the table in tests/it/tidy.rs lacks: add it",
                file.name
            ));
            continue;
        };
        for used in rooms_used(file.without_tests()) {
            let is_room = ROOMS.iter().any(|r| r.0 == used);
            if is_room && used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!(
                    "{}: {room} may not use {used}, only [{}]: move what it needs down into one of these, or hand \
                     it over as an argument",
                    file.name,
                    allowed.join(", ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// No file is longer than a reader takes in.
#[test]
fn files_are_short() {
    let all = files(&["src", "tests", "benches"]);
    let mut wrong = Vec::new();
    for file in all.iter().filter(|f| !is_test_only(f, &all)) {
        let lines = file.without_tests().lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}: give a part of it its own file",
                file.name
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// No function is longer than a screen.
#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    for file in files(&["src", "tests", "benches"]) {
        for (line, length) in functions(&file.text) {
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!("{}:{line}: {length} lines, at most {FUNCTION_LINES_MAX}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Each test opens with the sentence that it proves.
#[test]
fn tests_say_what_they_prove() {
    let mut wrong = Vec::new();
    for file in files(&["src", "tests"]) {
        let silent = silent_tests(&file.text);
        wrong.extend(
            silent.into_iter().map(|line| format!("{}:{line}: no sentence above this test", file.name)),
        );
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Comments are no wider than code, which rustfmt wraps and they are not.
#[test]
fn comments_are_as_wide_as_code() {
    let settings = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("rustfmt.toml"));
    let settings = settings.expect("it is there");
    let width = settings.lines().find_map(|line| line.strip_prefix("max_width = "));
    let width = width.and_then(|width| width.parse().ok()).expect("it says how wide code is");
    let mut wrong = Vec::new();
    for file in files(&["src", "tests", "benches", "fuzz/fuzz_targets"]) {
        let wide = wide_comments(&file.text, width);
        wrong.extend(wide.into_iter().map(|line| format!("{}:{line}: above {width} columns", file.name)));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Nothing is left for later in the source: what must be done is done or written down elsewhere.
#[test]
fn nothing_is_left_for_later() {
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    let mut wrong = Vec::new();
    for file in files(&["src", "tests", "benches"]) {
        for (i, line) in file.text.lines().enumerate() {
            if line.split(|c| !is_letter(c)).any(|w| words.iter().any(|word| w == word)) {
                wrong.push(format!("{}:{}: {}", file.name, i + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The table's rooms are the modules of lib.rs, so none escapes it.
#[test]
fn the_table_has_every_room() {
    let lib =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("source is text");
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let known: BTreeSet<&str> = ROOMS.iter().map(|r| r.0).filter(|r| *r != "main").collect();
    assert_eq!(declared, known);
}

/// The police can see: each check finds what it looks for in a sample.
#[test]
fn each_check_finds_its_sample() {
    let code = "use crate::{net::{a, b}, ring,\n    topology::X};\n// crate::admin\nlet x = crate::proxy::Y;";
    assert_eq!(rooms_used(code).into_iter().collect::<Vec<_>>(), ["net", "proxy", "ring", "topology"]);
    let body = "        x();\n".repeat(80);
    let code = format!(
        "impl A {{\n    pub(crate) async fn long(\n        x: u8,\n    ) {{\n{body}    }}\n    fn one() {{}}\n}}\n"
    );
    assert_eq!(functions(&code), [(2, 84)]);
    assert_eq!(silent_tests("/// Says.\n#[test]\nfn a() {}\n\n#[test]\nfn b() {}\n"), [5]);
    let comments = "/// as wide\n//! | a row of a table | stays |\n    // one that is wider\nlet x = code(that, is, wide);";
    assert_eq!(wide_comments(comments, 12), [3]);
}

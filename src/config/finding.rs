//! What is wrong or doubtful in a configuration, and where: one [`Finding`] each, collected by a
//! [`Report`] so that a reader sees all of them at once.

use std::{cell::RefCell, fmt, sync::Arc};

/// More than this many errors are counted, not shown: a file of another format has one per line.
const SHOWN_MAX: usize = 200;

/// A place in the text, both counted from 1; line 0 stands for the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// One thing to say about a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file's name as it was given.
    pub origin: Arc<str>,
    /// Where in it.
    pub mark: Mark,
    /// The key it is about, as in `pools.cache.nodes[2].weight`; empty for the file as a whole.
    pub path: String,
    /// What is the matter, and what to write instead.
    pub message: String,
    /// Whether the configuration can be obeyed all the same.
    pub severity: Severity,
}

/// Whether a configuration with this finding can be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and is perhaps not what was meant.
    Warning,
}

/// Every error of a configuration that cannot be obeyed. Prints one line each, as
/// `file:line:column: key: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// In the order of the text, at least one.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub left_out: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if self.mark.line > 0 {
            write!(f, ":{}:{}", self.mark.line, self.mark.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str(": warning")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{finding}", if i > 0 { "\n" } else { "" })?;
        }
        if self.left_out > 0 {
            write!(f, "\nand {} more errors", self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// A key and where its value stands: what a finding about it needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) mark: Mark,
    pub(super) path: String,
}

/// Collects findings. Shared by all sections while a file is read, hence the cell.
#[derive(Debug)]
pub(super) struct Report {
    origin: Arc<str>,
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
    left_out: RefCell<usize>,
}

impl Report {
    pub(super) fn new(origin: &str) -> Report {
        Report {
            origin: origin.into(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            left_out: RefCell::default(),
        }
    }

    pub(super) fn error(&self, place: &Place, message: impl Into<String>) {
        if self.is_full() {
            *self.left_out.borrow_mut() += 1;
            return;
        }
        self.errors.borrow_mut().push(self.finding(Severity::Error, place, message.into()));
    }

    /// Whether further errors are only counted.
    pub(super) fn is_full(&self) -> bool {
        self.errors.borrow().len() == SHOWN_MAX
    }

    pub(super) fn warn(&self, place: &Place, message: impl Into<String>) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < SHOWN_MAX {
            warnings.push(self.finding(Severity::Warning, place, message.into()));
        }
    }

    fn finding(&self, severity: Severity, place: &Place, message: String) -> Finding {
        Finding { origin: self.origin.clone(), mark: place.mark, path: place.path.clone(), message, severity }
    }

    /// The warnings when there is no error, else the errors, each in the order of the text.
    pub(super) fn finish(self) -> Result<Vec<Finding>, Errors> {
        let by_mark = |f: &Finding| (f.mark.line, f.mark.column);
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        if errors.is_empty() {
            warnings.sort_by_key(by_mark);
            return Ok(warnings);
        }
        errors.sort_by_key(by_mark);
        Err(Errors { findings: errors, left_out: self.left_out.into_inner() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings come in the order of the text, and more errors than anyone reads are only counted.
    #[test]
    fn sorted_and_bounded() {
        let report = Report::new("f");
        for line in (1..=SHOWN_MAX + 3).rev() {
            report.error(&Place { mark: Mark { line, column: 1 }, path: "a.b".into() }, "is wrong");
        }
        let errors = report.finish().expect_err("there are errors");
        assert_eq!((errors.findings.len(), errors.left_out), (SHOWN_MAX, 3));
        let text = errors.to_string();
        assert!(text.starts_with("f:4:1: a.b: is wrong\nf:5:1: a.b"), "{text}");
        assert!(text.ends_with("\nand 3 more errors"), "{text}");
    }

    /// A warning says that it is one; a finding about the file as a whole has no line.
    #[test]
    fn warnings_and_whole_files() {
        let report = Report::new("f");
        report.warn(&Place::default(), "is odd");
        let warnings = report.finish().expect("no errors");
        assert_eq!(warnings[0].to_string(), "f: warning: is odd");
    }
}

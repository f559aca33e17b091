//! What is wrong with a configuration, where, and what to do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether `serve` would refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Works, and is worth a look.
    Warning,
    /// Is refused.
    Error,
}

/// One thing that is wrong. Prints as `file:line:column: error: message` and a line `help: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the name of the environment variable that holds the value.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: Option<usize>,
    /// In characters, counted from 1.
    pub column: Option<usize>,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl Severity {
    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Problem {
    /// An error about a whole file.
    #[must_use]
    pub fn in_file(file: &Path, message: String, help: &str) -> Self {
        Self {
            file: file.to_path_buf(),
            line: None,
            column: None,
            severity: Severity::Error,
            message,
            help: Some(help.to_owned()),
        }
    }

    /// Whether `serve` would refuse it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        write!(f, ": {}: {}", self.severity.name(), self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum Place {
    /// So many bytes into the file.
    Offset(usize),
    /// An environment variable of this name.
    Variable(Arc<str>),
    /// The file as a whole: something that isn't in it.
    Whole,
}

/// Collects problems while a document is read, and turns places into lines and columns.
pub(in crate::config) struct Ledger {
    file: PathBuf,
    text: String,
    problems: std::cell::RefCell<Vec<Problem>>,
}

impl Ledger {
    pub(in crate::config) fn new(file: &Path, text: &str) -> Self {
        Self { file: file.to_path_buf(), text: text.to_owned(), problems: std::cell::RefCell::default() }
    }

    pub(in crate::config) fn error(&self, place: &Place, message: String, help: Option<String>) {
        self.add(place, Severity::Error, message, help);
    }

    pub(in crate::config) fn warning(&self, place: &Place, message: String, help: Option<String>) {
        self.add(place, Severity::Warning, message, help);
    }

    /// Errors first, each kind in the order of their places.
    pub(in crate::config) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        let order = |problem: &Problem| (!problem.is_error(), problem.file.clone(), problem.line, problem.column);
        problems.sort_by_cached_key(order);
        problems.dedup();
        problems
    }

    fn spot(&self, place: &Place) -> Spot {
        match place {
            Place::Offset(offset) => {
                let (line, column) = line_and_column(&self.text, *offset);
                Spot { file: self.file.clone(), line: Some(line), column: Some(column) }
            }
            Place::Variable(name) => Spot { file: PathBuf::from(&**name), line: None, column: None },
            Place::Whole => Spot { file: self.file.clone(), line: None, column: None },
        }
    }

    fn add(&self, place: &Place, severity: Severity, message: String, help: Option<String>) {
        let Spot { file, line, column } = self.spot(place);
        self.problems.borrow_mut().push(Problem { file, line, column, severity, message, help });
    }
}

/// A place as problems tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    file: PathBuf,
    line: Option<usize>,
    column: Option<usize>,
}

/// Where the keys stand whose values are judged later, with what lies outside of the configuration.
#[derive(Debug, Clone)]
pub struct KeyPlaces {
    file: PathBuf,
    known: BTreeMap<&'static str, Spot>,
}

impl KeyPlaces {
    const KEYS: [&str; 4] = ["audit.spool", "server.control_host", "server.tls.certificate", "storage.url"];

    /// By how a dotted path is found.
    pub(in crate::config) fn of(ledger: &Ledger, place: &dyn Fn(&str) -> Place) -> Self {
        let known = Self::KEYS.into_iter().map(|key| (key, ledger.spot(&place(key)))).collect();
        Self { file: ledger.file.clone(), known }
    }

    /// What is wrong with the value of a key, at the key's place.
    #[must_use]
    pub fn problem(&self, key: &str, severity: Severity, message: String, help: &str) -> Problem {
        let whole = || Spot { file: self.file.clone(), line: None, column: None };
        let Spot { file, line, column } = self.known.get(key).cloned().unwrap_or_else(whole);
        Problem { file, line, column, severity, message, help: Some(help.to_owned()) }
    }
}

/// Both from 1; the column counts characters, as editors do.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(start..).map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

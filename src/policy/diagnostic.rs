//! What is wrong with a policy folder, where, and what to do about it.
//!
//! Lines and columns count from 1, columns in characters, as editors do.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether the folder is refused for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The folder is refused whole.
    Error,
    /// Worth a look; the folder is taken.
    Warning,
}

impl Severity {
    /// As printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file, as reached from the folder that was loaded.
    pub file: PathBuf,
    /// The line, from 1, where there is one.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    /// What is wrong: lower case, values in backticks.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Error or warning.
    pub severity: Severity,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        write!(f, ": {}: {}", self.severity.name(), self.message)?;
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// One file's text, read once, that turns byte offsets into places.
#[derive(Debug, Clone)]
pub(super) struct Source {
    file: Arc<Path>,
    text: Arc<str>,
}

impl Source {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self { file: file.into(), text: text.into() }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Line and column of a byte offset; an offset past the end is the end.
    pub(super) fn place(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = self.text.get(..end).unwrap_or_default();
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    fn diagnostic(&self, offset: usize, severity: Severity, message: String, help: Option<String>) -> Diagnostic {
        let (line, column) = self.place(offset);
        Diagnostic { file: self.file.to_path_buf(), line: Some(line), column: Some(column), message, help, severity }
    }
}

/// Where findings are gathered while a folder is read, so that one run shows all of them.
#[derive(Debug, Default)]
pub(super) struct Report {
    found: RefCell<Vec<Diagnostic>>,
}

impl Report {
    pub(super) fn error(&self, source: &Source, offset: usize, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|text| !text.is_empty());
        self.add(source.diagnostic(offset, Severity::Error, message.into(), help));
    }

    pub(super) fn warning(&self, source: &Source, offset: usize, message: impl Into<String>, help: impl Into<String>) {
        let help = Some(help.into()).filter(|text| !text.is_empty());
        self.add(source.diagnostic(offset, Severity::Warning, message.into(), help));
    }

    /// A finding about a file or folder as a whole.
    pub(super) fn file_error(&self, file: &Path, message: impl Into<String>, help: impl Into<String>) {
        self.add(Diagnostic {
            file: file.to_path_buf(),
            line: None,
            column: None,
            message: message.into(),
            help: Some(help.into()).filter(|text| !text.is_empty()),
            severity: Severity::Error,
        });
    }

    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.found.borrow().iter().any(|d| d.severity == Severity::Error)
    }

    pub(super) fn error_count(&self) -> usize {
        self.found.borrow().iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// Everything found: errors first, each kind by place, each once.
    pub(super) fn into_sorted(self) -> Vec<Diagnostic> {
        let mut found = self.found.into_inner();
        found.sort_by(|a, b| (a.severity, a).cmp(&(b.severity, b)));
        found.dedup();
        found
    }
}

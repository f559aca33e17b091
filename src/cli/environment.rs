//! The environment of the process, read once. Commands ask this value and never the process, so
//! that tests can give another one.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Environment variables by name. An empty one counts as not set.
#[derive(Debug, Clone, Default)]
pub struct Environment(HashMap<OsString, OsString>);

impl Environment {
    /// That of the process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place of the command line that reads the environment")]
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// One with these variables and no others.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The text of a variable. One that is not UTF-8 counts as not set.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str()).filter(|value| !value.is_empty())
    }

    /// A variable that names a file or folder.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

//! `doorward policy check`: everything that is wrong with a folder, its test tables included.

use std::path::Path;

use super::diagnostic::{Diagnostic, Severity};
use super::load::{LoadSettings, load};
use super::policy_set::PolicySet;
use super::test_table;

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// The policies, if nothing is wrong with them.
    pub policies: Option<PolicySet>,
    /// Errors and warnings, by place.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Whether anything is an error.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.policies.is_none() || self.diagnostics.iter().any(|found| found.severity == Severity::Error)
    }
}

/// Loads and lints the folder and reads its test tables; the tables are not run.
#[must_use]
pub fn check(dir: &Path, settings: &LoadSettings) -> Checked {
    match load(dir, settings) {
        Ok(policies) => {
            let mut diagnostics = policies.warnings().to_vec();
            diagnostics.extend(test_table::read(dir).err().unwrap_or_default());
            diagnostics.sort();
            Checked { policies: Some(policies), diagnostics }
        }
        Err(diagnostics) => Checked { policies: None, diagnostics },
    }
}

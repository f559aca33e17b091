//! `doorward policy check`: everything that is wrong with a folder.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::{FolderArgs, Printed, counted, listed, pretty, printed, settings};
use crate::cli::args::Format;
use crate::policy::{Diagnostic, check as check_folder};

/// `policy check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Which folder.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// Exit 2 if anything is an error.
#[must_use]
pub fn check(args: &CheckArgs) -> Printed {
    let checked = check_folder(&args.folder.dir, &settings(&args.folder));
    let code = if checked.failed() { 2 } else { 0 };
    if args.output == Format::Json {
        let items: Vec<Value> = checked.diagnostics.iter().map(diagnostic_json).collect();
        return printed(code, pretty(&json!({ "items": items, "next": null })));
    }
    let mut text = listed(&checked.diagnostics);
    if let Some(policies) = checked.policies.as_ref().filter(|_| code == 0) {
        let services = policies.services().count();
        let entitlements = policies.entitlements().count();
        let warnings = checked.diagnostics.len();
        let _ = writeln!(
            text,
            "{} is good: {}, {}, {}; version {}",
            args.folder.dir.display(),
            counted(services, "service"),
            counted(entitlements, "entitlement"),
            counted(warnings, "warning"),
            policies.version(),
        );
    }
    printed(code, text)
}

fn diagnostic_json(found: &Diagnostic) -> Value {
    json!({
        "file": found.file.display().to_string(),
        "line": found.line,
        "column": found.column,
        "severity": found.severity.name(),
        "message": found.message,
        "help": found.help,
    })
}

//! `doorward policy …`: one file a command. All but `replay` need neither server nor network.
//!
//! Results go to standard output, also findings, since they are what was asked for. Exit codes are
//! the house's: 0 done, 1 failed, 2 wrong usage or policies.

mod check;
mod diff;
mod explain;
pub mod replay;
mod schema;
mod test;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use self::check::CheckArgs;
use self::diff::DiffArgs;
use self::explain::ExplainArgs;
use self::replay::ReplayArgs;
use self::schema::SchemaArgs;
use self::test::TestArgs;
use super::args::Format;
use super::trust::{TrustTestArgs, trust_test};
use crate::model::Timestamp;
use crate::policy::{Diagnostic, LoadSettings, PolicySet, load};

/// The domain of `doorward dev`.
const DOMAIN: &str = "doorward.localhost";

/// What a command prints and how it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Printed {
    /// The exit code.
    pub code: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
}

/// `doorward policy …`
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyCommand {
    /// What needs no server.
    #[command(flatten)]
    Offline(OfflineCommand),
    /// Judge past decisions anew by the policies of this folder: who gains, who loses.
    Replay(ReplayArgs),
}

/// Check, test, compare and explain policies.
#[derive(Debug, Clone, Subcommand)]
pub enum OfflineCommand {
    /// Parse, validate against the generated schemas, and lint.
    #[command(before_help = "Examples:\n  doorward policy check\n  doorward policy check --dir ./policies -o json")]
    Check(CheckArgs),
    /// Run every `tests.toml`.
    #[command(
        before_help = "Examples:\n  doorward policy test\n  doorward policy test --dir ./policies -o junit > policies.xml"
    )]
    Test(TestArgs),
    /// Answer one hypothetical request.
    Explain(ExplainArgs),
    /// Print the generated Cedar schema of a service.
    #[command(before_help = "Example:\n  doorward policy schema ops-api --dir ./policies")]
    Schema(SchemaArgs),
    /// Say what changes between two policy folders, and which tested decisions with it.
    Diff(DiffArgs),
    /// Hold a token against the trust rules, claim by claim.
    TrustTest(TrustTestArgs),
}

/// Which folder.
#[derive(Debug, Clone, Args)]
pub struct FolderArgs {
    /// The policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies")]
    pub dir: PathBuf,
    /// Added to hosts without a dot.
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN)]
    pub domain: String,
}

/// Runs one of them. `now` is the time of a question that names none.
#[must_use]
pub fn run(mut command: OfflineCommand, format: Format, now: Timestamp) -> Printed {
    match &mut command {
        OfflineCommand::Check(args) => args.output = format,
        OfflineCommand::Test(args) => args.output = format,
        OfflineCommand::Explain(args) => args.output = format,
        OfflineCommand::Schema(args) => args.output = format,
        OfflineCommand::Diff(args) => args.output = format,
        OfflineCommand::TrustTest(args) => args.output = format,
    }
    match &command {
        OfflineCommand::Check(args) => check::check(args),
        OfflineCommand::Test(args) => test::test(args),
        OfflineCommand::Explain(args) => explain::explain(args, now),
        OfflineCommand::Schema(args) => schema::schema(args),
        OfflineCommand::Diff(args) => diff::diff(args),
        OfflineCommand::TrustTest(args) => trust_test(args, || loaded(&args.folder), now),
    }
}

fn failed(code: u8, message: impl std::fmt::Display) -> Printed {
    Printed { code, stdout: String::new(), stderr: format!("{message}\n") }
}

fn printed(code: u8, stdout: String) -> Printed {
    Printed { code, stdout, stderr: String::new() }
}

/// JSON as the house prints it: two spaces, a line end.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn settings(folder: &FolderArgs) -> LoadSettings {
    LoadSettings { domain: folder.domain.clone(), groups: Vec::new() }
}

/// The policies, or why there are none.
fn loaded(folder: &FolderArgs) -> Result<PolicySet, Printed> {
    load(&folder.dir, &settings(folder)).map_err(|found| failed(2, listed(&found).trim_end()))
}

fn listed(found: &[Diagnostic]) -> String {
    found.iter().fold(String::new(), |mut text, diagnostic| {
        let _ = writeln!(text, "{diagnostic}");
        text
    })
}

pub(super) fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn joined<'a>(words: impl Iterator<Item = &'a str>, none: &str) -> String {
    let words: Vec<&str> = words.collect();
    if words.is_empty() { none.to_owned() } else { words.join(", ") }
}

/// Rows under a header, each column as wide as its widest text; the last as it is.
fn columns<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or_default()).collect();
    rows.iter().fold(String::new(), |mut text, row| {
        let line =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

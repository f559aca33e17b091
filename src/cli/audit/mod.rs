//! `doorward audit`: the record exported, verified, reported on, asked, followed and searched, and who gets it.

mod anchor;
mod erase;
mod export;
mod folder;
mod follow;
mod foreign;
mod partial;
mod reading;
mod report;
mod stream;
mod streams;
mod verify;
mod view;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::audit::filter::{Filter, FilterText};
use crate::audit::report::FrameworkName;

use crate::model::Timestamp;
use crate::wire::TextsChoice;

use super::context::Context;
use super::failure::Failure;

const EXPORT_EXAMPLES: &str = "\
Examples:
  doorward audit export --format evidence --out ./evidence
  doorward audit export --from 2026-11-01T00:00:00Z \\
    --to 2026-12-01T00:00:00Z --service ops-api --out november.jsonl
  doorward audit export --type decision.deny | jq .";

const VERIFY_EXAMPLES: &str = "\
Examples:
  doorward audit verify ./evidence --key root.key \\
    --checkpoint witness.checkpoints
  doorward audit verify sqlite:///var/lib/doorward/doorward.db \\
    --checkpoint witness.checkpoints
  doorward audit verify https://doorward.example.com

Exit codes: 0 whole, 10 altered, 11 a gap or a missing log, 12 truncated, 13 forked, 14 consistent, but neither
key nor checkpoint holds it from outside.";

const REPORT_EXAMPLES: &str = "\
Examples:
  doorward audit report --framework soc2 --out soc2.html \\
    --from 2026-01-01T00:00:00Z --to 2027-01-01T00:00:00Z
  doorward audit report --framework pci-dss --format csv --out pci.csv
  doorward audit report --framework nist800-53 --format oscal \\
    --in ./evidence --key root.key --out results.json

The record is verified while it is read; one that does not hold ends with the exit code of `audit verify`, and no
report.";

const TAIL_EXAMPLES: &str = "\
Examples:
  doorward audit tail -f
  doorward audit tail --type decision.deny --service ops-api";

const SEARCH_EXAMPLES: &str = "\
Examples:
  doorward audit search --grant grt_…
  doorward audit search --from 2026-11-22T00:00:00Z \\
    --to 2026-11-23T00:00:00Z --type session.start -o json";

const STREAMS_EXAMPLES: &str = "\
Examples:
  doorward audit streams
  doorward audit streams -o json | \\
    jq '.items[] | select(.state != \"sending\")'

They are configured as `[[audit.stream]]` in doorward.toml; `doorward doctor` tries each.";

const SCHEMA_EXAMPLES: &str = "\
Examples:
  doorward audit schema > event.schema.json

It is asked of this program, which need not be signed in; `GET /api/v1/audit/schema` gives a server's.";

const GRANT_EXAMPLES: &str = "\
Examples:
  doorward audit grant grt_06cf…
  doorward audit grant grt_06cf… --in ./evidence --key root.key -o json";

const WHO_EXAMPLES: &str = "\
Examples:
  doorward audit who --on 2026-11-20
  doorward audit who --from 2026-11-01T00:00:00Z --to 2026-12-01T00:00:00Z \\
    --service ops-api
  doorward audit who --on 2026-11-20 --person alice@example.com \\
    --in ./evidence

Grants and openings of the emergency path are told whether they were used or not, standing permissions of policies
where they were used. Days are days of UTC.";

const ERASE_EXAMPLES: &str = "\
Examples:
  doorward audit erase 'company|8f14e45f' --reason 'request DSR-118' --dry-run
  doorward audit erase alice@example.com --reason 'request DSR-118'

Values and salts go, from the record and from every other table; leaves, proofs and the pseudonym stay. What
`[[audit.keep]]` holds back goes by itself when the rule's time is over. For those who may `administer`.";

/// `doorward audit …`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Write the record out, with what proves it
    #[command(before_help = EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Check an export, a database or a server, trusting none of them
    #[command(before_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// What the record shows for the controls of a framework, for an auditor
    #[command(before_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
    /// Who had access to what on a day, how, and how often it was used
    #[command(before_help = WHO_EXAMPLES)]
    Who(WhoArgs),
    /// Everything about one grant: asked for, approved, used, ended, reviewed
    #[command(before_help = GRANT_EXAMPLES)]
    Grant(GrantArgs),
    /// The newest events, and with -f those that come
    #[command(before_help = TAIL_EXAMPLES)]
    Tail(TailArgs),
    /// Events of the past, newest first
    #[command(before_help = SEARCH_EXAMPLES)]
    Search(SearchArgs),
    /// Receivers outside that get the record as it grows: how far each is, and what went wrong last
    #[command(before_help = STREAMS_EXAMPLES)]
    Streams,
    /// The JSON Schema (2020-12) of an event, as `export --format jsonl` and streams write it
    #[command(before_help = SCHEMA_EXAMPLES)]
    Schema,
    /// Erase a person from the record, without breaking a proof
    #[command(before_help = ERASE_EXAMPLES)]
    Erase(EraseArgs),
    /// Who was erased, by pseudonym, and what rules keep
    #[command(before_help = "Examples:\n  doorward audit erasures\n  doorward audit erasures -o json")]
    Erasures(ErasuresArgs),
}

/// Which events
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Not before this time, 2026-11-22T10:15:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// About this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// By this actor: `usr_…`, `User::"<provider>|<subject>"`, `<provider>|<subject>` or `brk_…`
    #[arg(long, value_name = "ACTOR")]
    pub actor: Option<String>,
    /// Of this type, such as `decision.deny`
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Belonging to this grant
    #[arg(long, value_name = "GRANT")]
    pub grant: Option<String>,
    /// Of this session
    #[arg(long, value_name = "SESSION")]
    pub session: Option<String>,
}

impl FilterArgs {
    fn written(&self) -> FilterText {
        FilterText {
            from: self.from.clone(),
            to: self.to.clone(),
            kind: self.kind.clone(),
            service: self.service.clone(),
            actor: self.actor.clone(),
            grant: self.grant.clone(),
            session: self.session.clone(),
        }
    }

    /// The filter as a query of the API.
    ///
    /// # Errors
    /// Exit 2 when something can't be read.
    fn query(&self) -> Result<String, Failure> {
        let written = self.written();
        // Whom a principal's name stands for in the record, only the server knows.
        let actor = written.actor.clone().filter(|actor| actor.starts_with("usr_"));
        let filter = Filter::parse(&FilterText { actor, ..written.clone() }).map_err(Failure::usage)?;
        not_empty(filter.from, filter.to)?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(written.named());
        Ok(query.finish())
    }
}

/// In which form the record is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ExportFormat {
    /// One file: evidence, events and an end, each line JSON
    #[default]
    Jsonl,
    /// A folder for an auditor: events, proofs, checkpoints, manifest, README
    Evidence,
    /// One row an event, safe to open in a spreadsheet
    Csv,
    /// OCSF 1.8, one JSON object a line
    Ocsf,
    /// ArcSight Common Event Format, one line an event
    Cef,
}

/// `doorward audit export`
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Which events; the others of the same time are there as leaves without content
    #[command(flatten)]
    pub filter: FilterArgs,
    /// The form
    #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
    pub format: ExportFormat,
    /// Where to; a folder that is not there yet for `evidence` [default: standard output, as `-`]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// Go on where an export to the same place broke off, or begin; the outcome is that of one that did not break off
    #[arg(long, requires = "out")]
    pub resume: bool,
}

/// `doorward audit verify`
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// An export (folder or file), a database (file or URL), or a server (https://…)
    #[arg(value_name = "PATH|URL")]
    pub target: String,
    /// The installation's root key, or a file that holds it [env: DOORWARD_AUDIT_KEY; else as learned at sign-in]
    #[arg(long, value_name = "KEY|FILE")]
    pub key: Option<String>,
    /// Checkpoints that a witness kept, or an answer of `/api/v1/audit/checkpoint`
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
}

/// In which form a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ReportFormat {
    /// One page that prints
    #[default]
    Html,
    /// One table, safe to open in a spreadsheet
    Csv,
    /// A workbook of five sheets, to a file
    Xlsx,
    /// OSCAL 1.1 assessment results, JSON
    Oscal,
}

/// `doorward audit report`
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// By whose controls
    #[arg(long, value_name = "FRAMEWORK")]
    pub framework: FrameworkName,
    /// Events not before this time, 2026-01-01T00:00:00Z [default: all]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Events before this time [default: all]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// The form
    #[arg(long, value_name = "FORMAT", default_value = "html")]
    pub format: ReportFormat,
    /// Where to [default: standard output, as `-`]
    #[arg(long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// From an export with proofs (folder or .jsonl file) instead of the server
    #[arg(long = "in", value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// The installation's root key, or a file that holds it [env: DOORWARD_AUDIT_KEY; else as learned at sign-in]
    #[arg(long, value_name = "KEY|FILE")]
    pub key: Option<String>,
    /// Checkpoints that a witness kept
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
}

/// From where, if not from the server
#[derive(Debug, Clone, Args)]
pub struct FromArgs {
    /// From an export with proofs (folder or .jsonl file) instead of the server
    #[arg(long = "in", value_name = "PATH")]
    pub input: Option<PathBuf>,
    /// The installation's root key, or a file that holds it [env: DOORWARD_AUDIT_KEY; else as learned at sign-in]
    #[arg(long, value_name = "KEY|FILE", requires = "input")]
    pub key: Option<String>,
    /// Checkpoints that a witness kept
    #[arg(long, value_name = "FILE", requires = "input")]
    pub checkpoint: Option<PathBuf>,
}

/// `doorward audit who`
#[derive(Debug, Clone, Args)]
pub struct WhoArgs {
    /// On this day of UTC, 2026-11-20 [default: today]
    #[arg(long, value_name = "DAY", conflicts_with_all = ["from", "to"])]
    pub on: Option<String>,
    /// Not before this time, 2026-11-22T10:15:00Z
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// To this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// This person: e-mail, `usr_…`, `<provider>|<subject>` or `brk_…`
    #[arg(long, value_name = "PERSON")]
    pub person: Option<String>,
    /// From where
    #[command(flatten)]
    pub source: FromArgs,
}

/// `doorward audit grant`
#[derive(Debug, Clone, Args)]
pub struct GrantArgs {
    /// The grant, `grt_…`, or how its id begins
    #[arg(value_name = "GRANT")]
    pub grant: String,
    /// From where
    #[command(flatten)]
    pub from: FromArgs,
}

/// `doorward audit tail`
#[derive(Debug, Clone, Args)]
pub struct TailArgs {
    /// Which events
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Go on with those that come, until interrupted
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the past
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub lines: u32,
}

/// `doorward audit search`
#[derive(Debug, Clone, Args)]
pub struct SearchArgs {
    /// Which events
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
}

/// What becomes of events in whose text a person is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TextsArg {
    /// They lose all their content, also what they tell of others
    Erase,
    /// They stay as they are
    Keep,
}

impl From<TextsArg> for TextsChoice {
    fn from(texts: TextsArg) -> Self {
        match texts {
            TextsArg::Erase => Self::Erase,
            TextsArg::Keep => Self::Keep,
        }
    }
}

/// `doorward audit erase`
#[derive(Debug, Clone, Args)]
pub struct EraseArgs {
    /// Whom: `<provider>|<subject>`, `usr_…`, or an e-mail address that one account has had
    #[arg(value_name = "PERSON")]
    pub person: String,
    /// Why, without naming them: it stays on record
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    /// What becomes of events in whose text, and of paths of others, they are named by account or address; asked for
    /// where there are any
    #[arg(long, value_name = "WHAT")]
    pub texts: Option<TextsArg>,
    /// Only tell how much would go, and what rules keep
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
}

/// `doorward audit erasures`
#[derive(Debug, Clone, Args)]
pub struct ErasuresArgs {
    /// How many at most, the newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Go on after a page: its `next`
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

/// Whether this is the name of standard output.
fn is_standard(out: &Path) -> bool {
    out.as_os_str() == "-"
}

/// A period that has no time in it was not meant.
fn not_empty(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<(), Failure> {
    match (from, to) {
        (Some(from), Some(to)) if from >= to => {
            Err(Failure::usage(format!("the period is empty: `--from` {from} is not before `--to` {to}")))
        }
        _ => Ok(()),
    }
}

/// Runs one of them.
///
/// # Errors
/// As the command says.
pub fn run(context: &Context, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Export(args) => super::wait_for(export::run(context, &args)),
        AuditCommand::Verify(args) => verify::run(context, &args),
        AuditCommand::Report(args) => super::wait_for(report::run(context, &args)),
        AuditCommand::Who(args) => super::wait_for(view::who(context, &args)),
        AuditCommand::Grant(args) => super::wait_for(view::grant(context, &args)),
        AuditCommand::Tail(args) => super::wait_for(follow::tail(context, &args)),
        AuditCommand::Search(args) => super::wait_for(follow::search(context, &args)),
        AuditCommand::Streams => super::wait_for(streams::list(context)),
        AuditCommand::Schema => streams::schema(context),
        AuditCommand::Erase(args) => super::wait_for(erase::erase(context, &args)),
        AuditCommand::Erasures(args) => super::wait_for(erase::list(context, &args)),
    }
}

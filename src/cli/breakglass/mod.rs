//! `doorward breakglass`: ask the custodians, sign as one, and go through with what they signed.

mod close;
mod drill;
mod init;
mod list;
mod nodes;
mod open;
mod pending;
mod sign;
mod terms;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::config::{BreakGlass, EmergencyConfig, Environment, load_breakglass};
use crate::model::{BreakGlassId, ServiceName, Ttl};

use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::wait_for;

/// The commands of the emergency path.
#[derive(Debug, Subcommand)]
pub enum BreakGlassCommand {
    /// Name the custodians and how many of them must sign; make keys for those who have none
    #[command(
        before_help = "Examples:\n  doorward breakglass init --threshold 2 \\\n    --custodian ann=ann.pub --custodian ben=ben.pub\n  doorward breakglass init --threshold 3 \\\n    --generate 5 --out ./keys --passphrase-file passphrase"
    )]
    Init(InitArgs),
    /// List the custodians of a configuration
    #[command(before_help = "Example:\n  doorward breakglass custodians --config /etc/doorward/doorward.toml")]
    Custodians(CustodiansArgs),
    /// Make a challenge, or with signatures a certificate that opens
    #[command(before_help = OPEN_EXAMPLES)]
    Open(OpenArgs),
    /// Sign a challenge where there is no OpenSSH
    #[command(
        before_help = "Example:\n  doorward breakglass sign --key ~/.ssh/id_ed25519 \\\n    --challenge challenge.txt"
    )]
    Sign(SignArgs),
    /// End an opening before its time, at every node that is named
    #[command(
        before_help = "Examples:\n  doorward breakglass close brk_…          with the opening's own client key\n  doorward breakglass close brk_… --key ~/.ssh/id_ed25519 \\\n    --node 10.0.0.1 --node 10.0.0.2"
    )]
    Close(CloseArgs),
    /// List openings and emergency grants, and whether they were reviewed
    #[command(before_help = "Example:\n  doorward breakglass list --unreviewed")]
    List(ListArgs),
    /// Show one, with all that was done under it
    #[command(before_help = "Example:\n  doorward breakglass show brk_…")]
    Show(ShowArgs),
    /// Say what you found; two people other than the opener review each
    #[command(
        before_help = "Example:\n  doorward breakglass review brk_… \\\n    --finding \"the provider was down; restarts only\""
    )]
    Review(ReviewArgs),
    /// Prove the path without opening anything, and record that
    #[command(
        before_help = "Examples:\n  doorward breakglass drill --opener erin  writes a challenge to be signed\n  doorward breakglass drill --resume brk_… \\\n    --signature a.sig --signature b.sig\n  doorward breakglass drill --opener erin \\\n    --key keys/custodian-1 --key keys/custodian-2"
    )]
    Drill(DrillArgs),
}

const OPEN_EXAMPLES: &str = "\
Examples:
  doorward breakglass open --config doorward.toml --all --for 30m \\
    --reason \"provider is down\" --opener erin --challenge-out challenge.txt
  ssh-keygen -Y sign -n doorward-breakglass \\
    -f KEY challenge.txt                   each custodian, anywhere
  doorward breakglass open --resume brk_… \\
    --signature a.sig --signature b.sig
  doorward --profile breakglass curl https://ops-api.example.com/status";

/// `doorward breakglass init`
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// How many custodians must sign: at least 2
    #[arg(long, value_name = "M")]
    pub threshold: u32,
    /// A custodian and their OpenSSH public key; may be given several times
    #[arg(long, value_name = "NAME=PUBLIC_KEY_FILE", value_parser = custodian, num_args = 1..)]
    pub custodian: Vec<(String, PathBuf)>,
    /// Make so many keys, for custodians who have none
    #[arg(long, value_name = "N", requires = "out", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub generate: Option<u32>,
    /// Where the new keys are written, `custodian-1` and so on
    #[arg(long, value_name = "DIR", requires = "generate")]
    pub out: Option<PathBuf>,
    /// The passphrase that seals the new keys [else DOORWARD_PASSPHRASE]
    #[arg(long, value_name = "FILE", requires = "generate")]
    pub passphrase_file: Option<PathBuf>,
    /// The configuration; custodians are written beside it
    #[arg(long, value_name = "FILE", default_value = "doorward.toml")]
    pub config: PathBuf,
}

fn custodian(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.to_owned(), PathBuf::from(path))),
        _ => Err("a custodian is written `NAME=PUBLIC_KEY_FILE`".to_owned()),
    }
}

/// `doorward breakglass custodians`
#[derive(Debug, Clone, Args)]
pub struct CustodiansArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "doorward.toml")]
    pub config: PathBuf,
}

/// `doorward breakglass open`
#[derive(Debug, Clone, Args)]
pub struct OpenArgs {
    /// A service that is to be opened; may be given several times
    #[arg(long, value_name = "SERVICE", value_parser = ServiceName::parse, conflicts_with_all = ["all", "resume"])]
    pub service: Vec<ServiceName>,
    /// Open every service
    #[arg(long, conflicts_with = "resume")]
    pub all: bool,
    /// Why, for the custodians and the record
    #[arg(long, value_name = "TEXT", required_unless_present = "resume")]
    pub reason: Option<String>,
    /// How long: 90s, 15m, at most 1h
    #[arg(long = "for", value_name = "LENGTH", required_unless_present = "resume", value_parser = length)]
    pub length: Option<Ttl>,
    /// Where the challenge is written
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    pub challenge_out: Option<PathBuf>,
    /// Who opens [default: the user of this machine]
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    pub opener: Option<String>,
    /// The opener's key, where the opener is a custodian: it proves the name and does not count
    #[arg(long, value_name = "KEY", conflicts_with = "resume")]
    pub opener_key: Option<PathBuf>,
    /// The passphrase of the opener's key [else DOORWARD_PASSPHRASE]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The configuration that the challenge goes by: no server is asked [else the server is]
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    pub config: Option<PathBuf>,
    /// Go on with a challenge that was signed
    #[arg(long, value_name = "ID", value_parser = BreakGlassId::parse, requires = "signature")]
    pub resume: Option<BreakGlassId>,
    /// A signature of it; one for each custodian
    #[arg(long, value_name = "FILE", requires = "resume", num_args = 1..)]
    pub signature: Vec<PathBuf>,
}

/// `doorward breakglass sign`
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// The custodian's OpenSSH private key
    #[arg(long, value_name = "KEY")]
    pub key: PathBuf,
    /// The challenge; the signature is written beside it, with `.sig`
    #[arg(long, value_name = "FILE")]
    pub challenge: PathBuf,
    /// Where the signature is written instead
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The passphrase of the key [else DOORWARD_PASSPHRASE]
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// `doorward breakglass close`
#[derive(Debug, Clone, Args)]
pub struct CloseArgs {
    /// Which opening
    #[arg(value_name = "ID", value_parser = BreakGlassId::parse)]
    pub id: BreakGlassId,
    /// A node to close it at; may be given several times [default: the server]
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub node: Vec<String>,
    /// Sign as a custodian, with this OpenSSH key [default: the opening's client key]
    #[arg(long, value_name = "KEY")]
    pub key: Option<PathBuf>,
    /// The passphrase of the key [else DOORWARD_PASSPHRASE]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub passphrase_file: Option<PathBuf>,
    /// The configuration, where the server is not to be asked which installation it is
    #[arg(long, value_name = "FILE", requires = "key")]
    pub config: Option<PathBuf>,
}

/// `doorward breakglass list`
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Only those that are over and wait for their review
    #[arg(long)]
    pub unreviewed: bool,
}

/// `doorward breakglass show`
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// `brk_…` or `grt_…`, or how it begins
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `doorward breakglass review`
#[derive(Debug, Clone, Args)]
pub struct ReviewArgs {
    /// `brk_…` or `grt_…`, or how it begins
    #[arg(value_name = "ID")]
    pub id: String,
    /// What you found: what was done, whether it had to be, what follows
    #[arg(long, value_name = "TEXT")]
    pub finding: String,
}

/// `doorward breakglass drill`
#[derive(Debug, Clone, Args)]
pub struct DrillArgs {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "doorward.toml")]
    pub config: PathBuf,
    /// Who drills [default: the user of this machine]
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    pub opener: Option<String>,
    /// Why, for the custodians and the record
    #[arg(long, value_name = "TEXT", default_value = "a drill of the emergency path", conflicts_with = "resume")]
    pub reason: String,
    /// Where the challenge is written
    #[arg(long, value_name = "FILE", default_value = "drill-challenge.txt", conflicts_with = "resume")]
    pub challenge_out: PathBuf,
    /// Go on with a challenge that was signed
    #[arg(long, value_name = "ID", value_parser = BreakGlassId::parse, requires = "signature")]
    pub resume: Option<BreakGlassId>,
    /// A signature of it; one for each custodian
    #[arg(long, value_name = "FILE", requires = "resume", num_args = 1..)]
    pub signature: Vec<PathBuf>,
    /// Sign here and now with this custodian's key; may be given several times
    #[arg(long, value_name = "KEY", conflicts_with = "resume")]
    pub key: Vec<PathBuf>,
    /// The passphrase of the keys [else DOORWARD_PASSPHRASE]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub passphrase_file: Option<PathBuf>,
    /// A node to drill at; may be given several times [default: the server]
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    pub node: Vec<String>,
}

fn length(text: &str) -> Result<Ttl, String> {
    let length = Ttl::parse(text).ok_or_else(|| "a length of time is written `90s`, `15m` or `1h`".to_owned())?;
    // What is over when it begins can't be signed.
    if length < Ttl::seconds(1) { Err("it lasts for 1s at least".to_owned()) } else { Ok(length) }
}

/// Runs one of them.
///
/// # Errors
/// What was wrong.
pub fn run(context: &Context, command: &BreakGlassCommand) -> Result<(), Failure> {
    match command {
        BreakGlassCommand::Init(args) => init::run(context, args),
        BreakGlassCommand::Custodians(args) => custodians(context, &args.config),
        BreakGlassCommand::Open(args) => wait_for(open::run(context, args)),
        BreakGlassCommand::Sign(args) => sign::run(context, args),
        BreakGlassCommand::Close(args) => wait_for(close::run(context, args)),
        BreakGlassCommand::List(args) => wait_for(list::list(context, args)),
        BreakGlassCommand::Show(args) => wait_for(list::show(context, args)),
        BreakGlassCommand::Review(args) => wait_for(list::review(context, args)),
        BreakGlassCommand::Drill(args) => wait_for(drill::run(context, args)),
    }
}

/// That a challenge with its signatures does not open; after some reasons it still may.
fn not_opened(why: &str, is_final: bool) -> Failure {
    if is_final {
        return Failure::failed(why);
    }
    Failure::failed(format!("{why}. Nothing is used up: correct it and resume again"))
}

/// A configuration and its emergency path. Nothing else of it is needed, so that a copy does as well, and
/// whoever can read that and the custodians' file.
fn installation(path: &Path) -> Result<(EmergencyConfig, BreakGlass), Failure> {
    let config = load_breakglass(path, &Environment::of_process()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Failure::usage(format!("the configuration can't be used\n{}", lines.join("\n"))).in_lines()
    })?;
    let Some(breakglass) = config.breakglass.clone() else {
        return Err(Failure::usage(format!(
            "`{}` has no `[breakglass]`: name `custodians` and `threshold` there",
            path.display()
        )));
    };
    Ok((config, breakglass))
}

fn custodians(context: &Context, path: &Path) -> Result<(), Failure> {
    let (_, breakglass) = installation(path)?;
    let keys = breakglass.rules.custodians.keys();
    let row = |key: &crate::identity::breakglass::custodians::CustodianKey| {
        let until = key.valid_before.map(|time| time.to_string());
        (key.name().to_owned(), key.key.algorithm().to_string(), key.key.fingerprint(ssh_key::HashAlg::Sha256), until)
    };
    if context.printer.format() == Format::Json {
        let items: Vec<_> = keys
            .iter()
            .map(row)
            .map(|(name, kind, print, until)| json!({ "name": name, "key_type": kind, "fingerprint": print.to_string(), "valid_before": until }))
            .collect();
        return context.printer.json(&json!({ "items": items, "next": null }));
    }
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(row)
        .map(|(name, kind, print, until)| vec![name, kind, print.to_string(), until.unwrap_or_default()])
        .collect();
    context.printer.table(&["custodian", "key", "fingerprint", "until"], &rows)?;
    context.printer.talk(&format!(
        "{} of {} must sign.",
        breakglass.rules.threshold,
        breakglass.rules.custodians.count()
    ));
    Ok(())
}

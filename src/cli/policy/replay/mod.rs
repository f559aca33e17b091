//! `doorward policy replay`: past decisions under the policies of a folder; who gains, who loses.
//!
//! 1. The folder is loaded, as `check` does.
//! 2. Decisions are read from the server's record, newest first (`server.rs`), or from an export
//!    (`export.rs`). Each names its sign-in; `sign_ins.rs` knows what was on record of that.
//! 3. `line.rs` puts together what the decision rested on; what is not on record is said, not guessed.
//! 4. `policy::Replay` judges it anew, and `tally.rs` counts what comes out otherwise.
//!
//! INVARIANT: memory holds a page of decisions, the sign-ins up to a bound, and a bounded number of
//! groups of what changed, however long the past is.

mod export;
mod line;
mod server;
mod sign_ins;
mod tally;

use std::path::PathBuf;

use clap::Args;

use super::{DOMAIN, listed};
use crate::cli::args::length;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::model::{ServiceName, Timestamp, Ttl};
use crate::policy::{LoadSettings, PolicySet, Replay, load};

use self::export::ExportFile;
use self::line::{Line, Reading};
use self::server::Server;
use self::sign_ins::SignIns;
use self::tally::Tally;

/// How many decisions are judged between two words about how far it is.
const TELL_EVERY: u64 = 20_000;
/// How far back is looked unless something else is asked for.
const SINCE: Ttl = Ttl::hours(24 * 7);

/// `policy replay`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    doorward policy replay --since 7d\n  \
    doorward policy replay --since 12h --dir ./policies \\\n    \
    --service ops-api --exit-code\n  \
    doorward audit export --out record.jsonl\n  \
    doorward policy replay --from record.jsonl")]
pub struct ReplayArgs {
    /// How far back: `12h`, `7d` [default: 7d, or all of an export].
    #[arg(long, value_name = "LENGTH", value_parser = length)]
    pub since: Option<Ttl>,
    /// The policy folder.
    #[arg(long, value_name = "DIR", default_value = "policies")]
    pub dir: PathBuf,
    /// Added to hosts without a dot [default: the server's domain].
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Only decisions about this service.
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// At most so many, the newest first.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Read an export (`events.jsonl`, or what `audit export` writes) instead of asking the server.
    #[arg(long, value_name = "FILE", conflicts_with = "limit")]
    pub from: Option<PathBuf>,
    /// End with 1 if anybody gains or loses.
    #[arg(long)]
    pub exit_code: bool,
}

/// Where decisions come from.
enum Past<'a> {
    Server(Box<Server<'a>>),
    Export(ExportFile),
}

impl Past<'_> {
    async fn next(&mut self) -> Result<Option<Line>, Failure> {
        match self {
            Self::Server(server) => server.next().await,
            Self::Export(file) => file.next(),
        }
    }

    /// Sees to it that the sign-in of a decision is known, where it is on record.
    async fn reach(&mut self, line: &Line, sign_ins: &mut SignIns) -> Result<(), Failure> {
        match self {
            Self::Server(server) => server.reach(line, sign_ins).await,
            Self::Export(_) => Ok(()),
        }
    }
}

/// Judges the past anew and prints who gains and who loses.
///
/// # Errors
/// Exit 2 when the folder or the arguments can't be read, 4 when no policy lets the caller read the
/// record; exit 1 with `--exit-code` when anything comes out otherwise.
pub async fn run(context: &Context, args: &ReplayArgs) -> Result<(), Failure> {
    let service = args.service.as_deref().map(ServiceName::parse).transpose();
    let service = service.map_err(|error| Failure::usage(error.to_string()))?;
    let since = match (args.since, &args.from) {
        (Some(length), _) => Some(context.clock.now().minus(length)),
        (None, None) => Some(context.clock.now().minus(SINCE)),
        (None, Some(_)) => None,
    };
    let mut sign_ins = SignIns::default();
    let (set, mut past) = match &args.from {
        Some(path) => {
            let set = policies(args, args.domain.as_deref().unwrap_or(DOMAIN))?;
            (set, Past::Export(ExportFile::open(path, since, service, &mut sign_ins)?))
        }
        None => {
            // The folder is looked at before anything is asked: nobody waits to be told of a typo.
            policies(args, args.domain.as_deref().unwrap_or(DOMAIN))?;
            let since = since.unwrap_or(Timestamp::from_millis(0));
            let mut server = Server::open(context, since, service).await?;
            let domain = match &args.domain {
                Some(domain) => domain.clone(),
                None => server.domain().await?.unwrap_or_else(|| DOMAIN.to_owned()),
            };
            server.begin(&mut sign_ins).await?;
            (policies(args, &domain)?, Past::Server(Box::new(server)))
        }
    };
    let mut replay = Replay::new(&set);
    let mut tally = Tally::default();
    let mut read = 0u64;
    while args.limit.is_none_or(|limit| read < limit) {
        let Some(line) = past.next().await? else { break };
        read += 1;
        past.reach(&line, &mut sign_ins).await?;
        match line.reading(&sign_ins) {
            Reading::Past(was, past) => match replay.judge(&past) {
                Ok(again) => tally.judged(&line, was, &past, &again),
                Err(missing) => tally.not_replayable(missing),
            },
            Reading::NotPolicy(reason) => tally.not_policy(reason),
            Reading::NotOnRecord(missing) => tally.not_replayable(missing.to_owned()),
        }
        if read.is_multiple_of(TELL_EVERY) {
            context.printer.talk(&format!("{read} decisions read, back to {}", line.time));
        }
    }
    tally.print(&context.printer)?;
    if args.limit == Some(read) {
        context.printer.talk(&format!("Older decisions were not read: `--limit {read}`."));
    }
    if args.exit_code && tally.changed() { Err(Failure::silent(Exit::Failed)) } else { Ok(()) }
}

fn policies(args: &ReplayArgs, domain: &str) -> Result<PolicySet, Failure> {
    load(&args.dir, &LoadSettings { domain: domain.to_owned(), groups: Vec::new() }).map_err(|found| {
        // The failure is told as an error already.
        let lines: Vec<String> = listed(&found).lines().map(|line| line.replacen(": error: ", ": ", 1)).collect();
        Failure::usage(lines.join("\n")).in_lines()
    })
}

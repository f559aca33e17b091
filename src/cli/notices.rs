//! `doorward notices` and `notices retry`: what people were told, what waits, what was given up.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::model::EventId;
use crate::wire::{Notice, Page, RetryNotice};

use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::printer::left;
use super::renewal::signed_in;

/// `doorward notices`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NoticesArgs {
    /// What is to be done with them [default: list them]
    #[command(subcommand)]
    pub command: Option<NoticesCommand>,
    /// Only those that were given up
    #[arg(long, conflicts_with = "state")]
    pub dead: bool,
    /// Only those that are this far
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(["waiting", "delivered", "dead"]))]
    pub state: Option<String>,
    /// How many at most, the newest first
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub limit: u32,
    /// Go on after a page: its `next`
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
}

/// What is done with notices.
#[derive(Debug, Clone, Subcommand)]
pub enum NoticesCommand {
    /// Try again what was given up of an event
    #[command(
        before_help = "Examples:\n  doorward notices retry evt_…\n  doorward notices retry evt_… --channel operations"
    )]
    Retry(RetryArgs),
}

/// `doorward notices retry`
#[derive(Debug, Clone, Args)]
pub struct RetryArgs {
    /// The event, `evt_…`
    #[arg(value_name = "ID", value_parser = EventId::parse)]
    pub id: EventId,
    /// Only on this channel [default: on all that gave it up]
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
}

/// Lists notices, or has one tried again.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked; exit 4 when one may not have them tried again.
pub async fn run(context: &Context, args: &NoticesArgs) -> Result<(), Failure> {
    match &args.command {
        None => list(context, args).await,
        Some(NoticesCommand::Retry(args)) => retry(context, args).await,
    }
}

async fn list(context: &Context, args: &NoticesArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    let state = if args.dead { Some("dead") } else { args.state.as_deref() };
    for (name, value) in [("state", state), ("cursor", args.cursor.as_deref())] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let json = here.client.get(&format!("/api/v1/notices?{}", query.finish())).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let page: Page<Notice> = here.client.read(&json)?;
    if page.items.is_empty() {
        context.printer.talk("There are no such notices, or none that you may see.");
        return Ok(());
    }
    print(context, &page)?;
    if let Some(next) = &page.next {
        context.printer.talk(&format!("There are more: --cursor {next}"));
    }
    Ok(())
}

async fn retry(context: &Context, args: &RetryArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let body = RetryNotice { channel: args.channel.clone() };
    let json = here.client.act(&format!("/api/v1/notices/{}/retry", args.id), &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    print(context, &here.client.read(&json)?)
}

fn print(context: &Context, page: &Page<Notice>) -> Result<(), Failure> {
    let now = context.clock.now();
    let row = |notice: &Notice| {
        let when = match (notice.next_at, notice.ended_at) {
            (Some(next), _) if next.0.is_over(now) => "now".to_owned(),
            (Some(next), _) => format!("next in {}", left(next.0, now)),
            (None, Some(ended)) => ended.to_string(),
            (None, None) => "-".to_owned(),
        };
        vec![
            notice.id.clone(),
            notice.channel.clone(),
            notice.kind.clone(),
            notice.state.clone(),
            notice.attempts.to_string(),
            when,
            notice.error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    context.printer.table(&["EVENT", "CHANNEL", "TYPE", "STATE", "TRIALS", "WHEN", "ERROR"], &rows)
}

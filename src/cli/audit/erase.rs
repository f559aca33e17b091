//! `doorward audit erase` and `doorward audit erasures`: people erased from the record, and the account
//! of it.

use std::io::{self, IsTerminal};

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::renewal::{SignedIn, signed_in};
use crate::wire::{Erasure, ErasureDryRun, KeptByRule, NewErasure, Page};

use super::{EraseArgs, ErasuresArgs};

const PATH: &str = "/api/v1/audit/erasures";

/// Erases a person, on a terminal after it was shown what that takes, and agreed to.
///
/// # Errors
/// Exit 4 when no policy permits it; exit 1 when nobody is meant, something of theirs is open, or a rule
/// keeps everything.
pub async fn erase(context: &Context, args: &EraseArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    if args.dry_run {
        let json = plan(context, args, &here).await?;
        if context.printer.format() == Format::Json {
            return context.printer.resource(&json);
        }
        return print_plan(context, &here.client.read(&json)?);
    }
    if !args.yes && context.printer.is_terminal() && io::stdin().is_terminal() {
        agree(context, args, &here).await?;
    }
    let body = body(args, false);
    let json = here.client.act(PATH, &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let erasure: Erasure = here.client.read(&json)?;
    context.printer.pairs(&pairs(&erasure))?;
    context.printer.talk(match erasure.state.as_str() {
        "running" => "It goes on by itself; see `doorward audit erasures`.",
        "kept" => "What is kept is erased by itself when the rule's time is over.",
        _ => "Values and salts are gone; leaves and proofs stay. Backups and what was exported are yours to see to.",
    });
    Ok(())
}

fn body(args: &EraseArgs, dry_run: bool) -> NewErasure {
    NewErasure { person: args.person.clone(), reason: args.reason.clone(), texts: args.texts.map(Into::into), dry_run }
}

async fn plan(context: &Context, args: &EraseArgs, here: &SignedIn) -> Result<String, Failure> {
    Ok(here.client.act(PATH, &body(args, true), &*context.entropy).await?)
}

async fn agree(context: &Context, args: &EraseArgs, here: &SignedIn) -> Result<(), Failure> {
    let plan: ErasureDryRun = here.client.read(&plan(context, args, here).await?)?;
    context.printer.talk_pairs(&planned(&plan));
    context.printer.talk_lines("\nErase this person? Nothing brings it back. [y/N]");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| Failure::failed(format!("reading the answer: {error}")))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not_answered", "nobody was erased"))
}

fn held(kept: &[KeptByRule]) -> String {
    if kept.is_empty() {
        return "nothing".to_owned();
    }
    let one = |kept: &KeptByRule| {
        let reason = if kept.reason.is_empty() { String::new() } else { format!(" ({})", kept.reason) };
        format!("{} by `{}`{reason} until {}", counted(kept.events, "event"), kept.rule, kept.until)
    };
    kept.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn counted(count: i64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

fn planned(plan: &ErasureDryRun) -> Vec<(&'static str, String)> {
    let (values, events) = (counted(plan.fields, "value"), counted(plan.events, "event"));
    let mut pairs =
        vec![("pseudonym", plan.pseudonym.clone()), ("would go", format!("{values} of {events}, each with its salt"))];
    for (count, of) in [(plan.texts, "the text of"), (plan.paths, "the path of another's request in")] {
        if count > 0 {
            pairs.push(("named in", format!("{of} {}: --texts erase or --texts keep", counted(count, "event"))));
        }
    }
    pairs.push(("would stay", held(&plan.kept)));
    pairs
}

fn print_plan(context: &Context, plan: &ErasureDryRun) -> Result<(), Failure> {
    context.printer.pairs(&planned(plan))
}

fn pairs(erasure: &Erasure) -> Vec<(&'static str, String)> {
    vec![
        ("id", erasure.id.clone()),
        ("pseudonym", erasure.pseudonym.clone()),
        ("state", erasure.state.clone()),
        (
            "erased",
            format!("{} of {}, each with its salt", counted(erasure.fields, "value"), counted(erasure.events, "event")),
        ),
        ("texts", format!("{} erased as a whole, {} left", counted(erasure.texts, "event"), erasure.texts_left)),
        ("kept", held(&erasure.kept)),
    ]
}

/// Lists erasures, newest first.
///
/// # Errors
/// Exit 4 when no policy permits it.
pub async fn list(context: &Context, args: &ErasuresArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &args.limit.to_string());
    if let Some(cursor) = &args.cursor {
        query.append_pair("cursor", cursor);
    }
    let json = here.client.get(&format!("{PATH}?{}", query.finish())).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let page: Page<Erasure> = here.client.read(&json)?;
    if page.items.is_empty() {
        context.printer.talk("Nobody was erased.");
        return Ok(());
    }
    let row = |erasure: &Erasure| {
        vec![
            erasure.id.clone(),
            erasure.requested_at.to_string(),
            erasure.pseudonym.clone(),
            erasure.state.clone(),
            erasure.events.to_string(),
            erasure.fields.to_string(),
            held(&erasure.kept),
            erasure.reason.clone(),
        ]
    };
    let rows: Vec<_> = page.items.iter().map(row).collect();
    context.printer.table(&["ID", "TIME", "PSEUDONYM", "STATE", "EVENTS", "VALUES", "KEPT", "REASON"], &rows)?;
    if let Some(next) = &page.next {
        context.printer.talk(&format!("There are more: --cursor {next}"));
    }
    Ok(())
}

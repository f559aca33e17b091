//! `doorward policy diff OLD NEW`: what changes between two folders, for whoever has to say yes.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{DOMAIN, Printed, columns, counted, failed, joined, listed, pretty, printed};
use crate::cli::args::Format;
use crate::cli::printer::plain;
use crate::model::ServiceName;
use crate::policy::{Change, Difference, LoadSettings, Reply, STATEMENT, Turn, diff as compare};

/// `policy diff`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  \
    doorward policy diff /etc/doorward/policies ./policies\n  \
    git worktree add ../before main\n  \
    doorward policy diff ../before/policies policies --exit-code")]
pub struct DiffArgs {
    /// The folder as it is.
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The folder as it will be.
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// Added to hosts without a dot.
    #[arg(long, value_name = "DOMAIN", default_value = DOMAIN)]
    pub domain: String,
    /// End with 1 if anything differs.
    #[arg(long)]
    pub exit_code: bool,
    /// How to print; from the global `-o`.
    #[arg(skip)]
    pub output: Format,
}

/// Exit 0 whether they differ or not, unless `--exit-code` asks for 1; 2 if one can't be read.
#[must_use]
pub fn diff(args: &DiffArgs) -> Printed {
    let settings = LoadSettings { domain: args.domain.clone(), groups: Vec::new() };
    let found = match compare(&args.old, &args.new, &settings) {
        Ok(found) => found,
        Err(wrong) => return failed(2, listed(&wrong).trim_end()),
    };
    let differs = !found.changes.is_empty() || !found.turns.is_empty();
    let text = match args.output {
        Format::Table | Format::Junit => told(&found),
        Format::Json => {
            let items = found.changes.iter().map(change_json).chain(found.turns.iter().map(turn_json));
            pretty(&json!({ "items": items.collect::<Vec<_>>(), "next": null }))
        }
    };
    printed(u8::from(differs && args.exit_code), text)
}

fn place(service: Option<&ServiceName>) -> &str {
    service.map_or("-", ServiceName::as_str)
}

fn told(found: &Difference) -> String {
    let mut text = String::new();
    if !found.changes.is_empty() {
        let rows = found.changes.iter().flat_map(rows);
        text.push_str(&columns(["CHANGE", "KIND", "SERVICE", "NAME", "WHAT"], rows));
        text.push('\n');
    }
    if !found.turns.is_empty() {
        let rows = found.turns.iter().map(|turn| {
            let decision = format!("{} → {}", word(&turn.old), word(&turn.new));
            let service = place(turn.service.as_ref()).to_owned();
            let by = format!("{} → {}", why(&turn.old), why(&turn.new));
            [decision, service, turn.who.clone(), turn.question.clone(), by].map(|text| plain(&text))
        });
        text.push_str(&columns(["DECISION", "SERVICE", "WHO", "ASKS", "BECAUSE OF"], rows));
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "{}; of {} asked of both, {} out otherwise",
        if found.changes.is_empty() { "no changes".to_owned() } else { counted(found.changes.len(), "change") },
        counted(found.cases, "tested decision"),
        if found.turns.len() == 1 { "1 comes".to_owned() } else { format!("{} come", found.turns.len()) },
    );
    text
}

/// A change as a row; a statement that changed as two, one under the other.
fn rows(change: &Change) -> Vec<[String; 5]> {
    let row = |what: String| {
        let service = place(change.service.as_ref()).to_owned();
        [change.word().to_owned(), change.kind.to_owned(), service, change.name.clone(), what].map(|text| plain(&text))
    };
    match (change.field, &change.old, &change.new) {
        (Some(STATEMENT), Some(old), Some(new)) => {
            let blank = String::new;
            vec![row(format!("- {old}")), [blank(), blank(), blank(), blank(), plain(&format!("+ {new}"))]]
        }
        (Some(field), Some(old), Some(new)) => vec![row(format!("{field}: {old} → {new}"))],
        (Some(field), Some(only), None) | (Some(field), None, Some(only)) => vec![row(format!("{field}: {only}"))],
        (None, Some(only), None) | (None, None, Some(only)) => vec![row(only.clone())],
        (None, Some(old), Some(new)) => vec![row(format!("{old} → {new}"))],
        (_, None, None) => Vec::new(),
    }
}

const fn word(reply: &Reply) -> &'static str {
    if reply.allow { "allow" } else { "deny" }
}

/// The policies that decided, else the reason.
fn why(reply: &Reply) -> String {
    let reason = reply.reason.as_deref().unwrap_or("none matched");
    joined(reply.policies.iter().map(|name| &**name), reason)
}

fn change_json(change: &Change) -> Value {
    json!({
        "type": "change",
        "change": change.word(),
        "kind": change.kind,
        "service": change.service.as_ref().map(ServiceName::as_str),
        "name": change.name,
        "field": change.field,
        "old": change.old,
        "new": change.new,
    })
}

fn turn_json(turn: &Turn) -> Value {
    let reply = |reply: &Reply| {
        json!({
            "outcome": word(reply),
            "reason": reply.reason,
            "policies": reply.policies.iter().map(|name| &**name).collect::<Vec<_>>(),
        })
    };
    json!({
        "type": "decision",
        "service": turn.service.as_ref().map(ServiceName::as_str),
        "case": turn.name,
        "file": turn.file.display().to_string(),
        "line": turn.line,
        "principal": turn.who,
        "question": turn.question,
        "old": reply(&turn.old),
        "new": reply(&turn.new),
    })
}

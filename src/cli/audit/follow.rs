//! `doorward audit tail` and `doorward audit search`: events as they come, and those of the past.

use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::audit::erase::ERASED;
use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::printer::plain;
use crate::cli::renewal::{SignedIn, signed_in};
use crate::wire::Page;

use super::{SearchArgs, TailArgs};

/// How often the server is asked for what came.
const ASK_EVERY: Duration = Duration::from_millis(1000);
/// Events of one page.
const PAGE: u32 = 500;
/// The longest wait for a server that could not answer.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The newest events, and those that come.
///
/// # Errors
/// Exit 2 when the filter can't be read, 4 when no policy lets the caller read.
pub async fn tail(context: &Context, args: &TailArgs) -> Result<(), Failure> {
    let query = args.filter.query()?;
    let mut here = signed_in(context).await?;
    // ORDER: the place first, so that nothing between the past and what comes is missed.
    let mut after = page(&here, &format!("/api/v1/audit/events?after=now&{query}")).await?.next;
    let mut printed: std::collections::VecDeque<String> = std::collections::VecDeque::new();
    if args.lines > 0 {
        let mut past = page(&here, &format!("/api/v1/audit/events?limit={}&{query}", args.lines)).await?.items;
        past.reverse();
        if !args.follow && context.printer.format() == Format::Json {
            return context.printer.json(&Page::whole(past));
        }
        for event in &past {
            print(context, event)?;
            // What was committed and had no number yet comes once more, with it.
            printed.push_back(text(&read(event), "/id").to_owned());
        }
    }
    if !args.follow {
        return Ok(());
    }
    let mut wait = ASK_EVERY;
    loop {
        tokio::time::sleep(wait).await;
        let Some(from) = after.clone() else { return Err(Failure::failed("the server told no place to go on from")) };
        // A certificate is renewed by whichever request comes next.
        let asked = async {
            here = signed_in(context).await?;
            page(&here, &format!("/api/v1/audit/events?after={from}&limit={PAGE}&{query}")).await
        };
        let came = match asked.await {
            Ok(came) => came,
            // The place is kept, so nothing is missed.
            Err(failure) if failure.exit == Exit::Unreachable => {
                if wait == ASK_EVERY {
                    failure.lines().iter().take(1).for_each(|line| context.printer.talk(line));
                    context.printer.talk("  it is asked again until it answers; nothing is missed");
                }
                wait = (wait * 2).min(WAIT_MAX);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        wait = ASK_EVERY;
        for event in &came.items {
            let id = text(&read(event), "/id").to_owned();
            if !printed.contains(&id) {
                print(context, event)?;
                printed.push_back(id);
            }
        }
        while printed.len() > 1024 {
            printed.pop_front();
        }
        after = came.next.or(after);
    }
}

/// Events of the past, newest first.
///
/// # Errors
/// As [`tail`].
pub async fn search(context: &Context, args: &SearchArgs) -> Result<(), Failure> {
    let query = args.filter.query()?;
    let here = signed_in(context).await?;
    let (mut items, mut cursor) = (Vec::new(), String::new());
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    loop {
        let left = limit - items.len();
        let size = left.min(usize::try_from(PAGE).unwrap_or(usize::MAX));
        let found = page(&here, &format!("/api/v1/audit/events?limit={size}{cursor}&{query}")).await?;
        items.extend(found.items);
        match found.next {
            Some(next) if items.len() < limit => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    if context.printer.format() == Format::Json {
        return context.printer.json(&Page::whole(items));
    }
    let rows: Vec<Vec<String>> = items.iter().map(|event| columns(&read(event))).collect();
    context.printer.table(&["time", "type", "outcome", "who", "what", "where"], &rows)
}

async fn page(here: &SignedIn, path: &str) -> Result<Page<Box<RawValue>>, Failure> {
    let json = here.client.get(path.trim_end_matches('&')).await?;
    Ok(here.client.read(&json)?)
}

fn read(event: &RawValue) -> Value {
    serde_json::from_str(event.get()).unwrap_or_default()
}

fn text<'v>(event: &'v Value, pointer: &str) -> &'v str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Time, type, outcome, who, what and where of an event.
fn columns(event: &Value) -> Vec<String> {
    let erased = |field: &str| {
        event.get(ERASED).and_then(Value::as_array).is_some_and(|erased| erased.iter().any(|name| name == field))
    };
    let who = [text(event, "/actor/email"), text(event, "/actor/principal"), text(event, "/actor/id"), "-"];
    let who = who.into_iter().find(|who| !who.is_empty()).unwrap_or_default();
    let gone = format!("{ERASED} ({who})");
    let who = if erased("principal") { &gone } else { who };
    let what = match (text(event, "/request/method"), text(event, "/request/path")) {
        _ if !text(event, "/withheld").is_empty() => format!("content {}", text(event, "/withheld")),
        (method, "") if erased("path") => format!("{method} {ERASED}"),
        ("", _) => format!("{} {}", text(event, "/action"), text(event, "/resource")),
        (method, path) => format!("{method} {path}"),
    };
    let outcome = match text(event, "/reason") {
        "" => text(event, "/outcome").to_owned(),
        reason => format!("{} {reason}", text(event, "/outcome")),
    };
    let place = [text(event, "/service"), text(event, "/node")].into_iter().find(|place| !place.is_empty());
    let all = [text(event, "/time"), text(event, "/type"), &outcome, who, what.trim(), place.unwrap_or_default()];
    all.into_iter().map(plain).collect()
}

/// One event, as one line. On a terminal what was refused is red and what failed yellow, beside the word
/// that says the same.
fn print(context: &Context, event: &RawValue) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.json_line(event.get());
    }
    let read = read(event);
    let line = columns(&read).join("  ");
    let colour = match text(&read, "/outcome") {
        "denied" => "31",
        "failed" => "33",
        _ => "",
    };
    let coloured =
        context.printer.is_terminal() && context.environment.text("NO_COLOR").is_none() && !colour.is_empty();
    if coloured {
        context.printer.line(&format!("\u{1b}[{colour}m{line}\u{1b}[0m"))
    } else {
        context.printer.line(&line)
    }
}

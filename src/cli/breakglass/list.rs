//! `doorward breakglass list`, `show` and `review`: the account of emergencies.

use serde_json::Value;

use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::printer::left;
use crate::cli::renewal::{SignedIn, signed_in};
use crate::model::{BreakGlassId, GrantId, Timestamp};
use crate::wire::{Emergency, NewReview};

use super::{ListArgs, ReviewArgs, ShowArgs};

/// Lists openings and emergency grants, newest first.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn list(context: &Context, args: &ListArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let mut page = here.client.list("/api/v1/breakglass").await?;
    if args.unreviewed {
        page.items.retain(|item| {
            serde_json::from_str::<Emergency>(item.get()).is_ok_and(|it| !it.reviewed && it.state != "active")
        });
    }
    if context.printer.format() == Format::Json {
        return context.printer.page(&page);
    }
    let now = context.clock.now();
    let mut rows = Vec::new();
    for item in &page.items {
        let it: Emergency = here.client.read(item.get())?;
        rows.push(vec![
            it.id.clone(),
            it.state.clone(),
            it.opener.clone(),
            it.scope.clone(),
            it.opened_at.to_string(),
            if it.state == "active" { left(it.expires.0, now) } else { "-".to_owned() },
            review_state(&it),
            it.reason.clone(),
        ]);
    }
    if rows.is_empty() {
        context.printer.talk("There are none that you may see.");
        return Ok(());
    }
    context.printer.table(&["OPENING", "STATE", "OPENER", "SCOPE", "OPENED", "LEFT", "REVIEW", "REASON"], &rows)
}

fn review_state(it: &Emergency) -> String {
    match (it.reviewed, it.state.as_str()) {
        (true, _) => "done".to_owned(),
        (false, "active") => "when it is over".to_owned(),
        (false, _) => format!("{} missing", it.reviews_missing),
    }
}

/// One of them, with what was done under it.
///
/// # Errors
/// As [`list`], and exit 1 when there is none of that id.
pub async fn show(context: &Context, args: &ShowArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let id = whole(&here, &args.id).await?;
    let json = here.client.get(&format!("/api/v1/breakglass/{id}")).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let it: Emergency = here.client.read(&json)?;
    context.printer.pairs(&told(&it, context.clock.now()))?;
    timeline(context, &here, &it).await
}

/// What was done under an opening, from the record; auditors may read it.
async fn timeline(context: &Context, here: &SignedIn, it: &Emergency) -> Result<(), Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("from", &it.opened_at.to_string());
    if it.id.starts_with("grt_") {
        query.append_pair("grant", &it.id);
    } else {
        query.append_pair("actor", &it.id);
    }
    query.append_pair("limit", "200");
    let page = match here.client.list(&format!("/api/v1/audit/events?{}", query.finish())).await {
        Ok(page) => page,
        Err(error) => {
            let failure = Failure::from(error);
            if failure.exit == Exit::Denied {
                context.printer.talk("What was done under it is in the record, which auditors may read.");
                return Ok(());
            }
            return Err(failure);
        }
    };
    let text = |event: &Value, pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for item in &page.items {
        let event: Value = serde_json::from_str(item.get()).map_err(|error| Failure::failed(error.to_string()))?;
        let what = ["method", "host", "path"].map(|key| text(&event, &format!("/request/{key}")));
        let decision = text(&event, "/decision");
        rows.push(vec![text(&event, "/time"), text(&event, "/type"), what.join(" ").trim().to_owned(), decision]);
    }
    rows.reverse();
    if rows.is_empty() {
        return Ok(());
    }
    context.printer.line("")?;
    context.printer.table(&["TIME", "WHAT", "REQUEST", "DECISION"], &rows)
}

fn told(it: &Emergency, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("opening", it.id.clone()), ("state", it.state.clone())];
    let opener = if it.opener_proven { it.opener.clone() } else { format!("{} (not proven)", it.opener) };
    pairs.push(("opener", opener));
    pairs.push(("scope", it.scope.clone()));
    pairs.push(("reason", it.reason.clone()));
    if !it.custodians.is_empty() {
        pairs.push(("signed by", it.custodians.join(", ")));
    }
    pairs.push(("opened", it.opened_at.to_string()));
    let end = if it.state == "active" {
        format!("{}, {} left", it.expires, left(it.expires.0, now))
    } else {
        it.expires.to_string()
    };
    pairs.push(("ends", end));
    if let (Some(at), Some(by)) = (it.closed_at, &it.closed_by) {
        pairs.push(("closed", format!("{at} by {by}")));
    }
    pairs.push(("review", review_state(it)));
    for review in &it.reviews {
        let who = review.by.email.clone().unwrap_or_else(|| review.by.id.clone());
        pairs.push(("finding", format!("{}: {} ({who})", review.time, review.finding)));
    }
    pairs
}

/// Adds one's review.
///
/// # Errors
/// Exit 4 when one may not, or opened it; exit 1 when it is open still or one has reviewed it.
pub async fn review(context: &Context, args: &ReviewArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let id = whole(&here, &args.id).await?;
    let body = NewReview { finding: args.finding.clone() };
    let path = format!("/api/v1/breakglass/{id}/reviews");
    let json = here.client.act(&path, &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let it: Emergency = here.client.read(&json)?;
    context.printer.talk(&if it.reviewed {
        format!("`{id}` is reviewed by {} people.", it.reviews.len())
    } else {
        format!("Your review of `{id}` is on record; {} more must review it.", it.reviews_missing)
    });
    Ok(())
}

/// The one id that begins so.
async fn whole(here: &SignedIn, text: &str) -> Result<String, Failure> {
    if BreakGlassId::parse(text).is_ok() || GrantId::parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    let page = here.client.list("/api/v1/breakglass").await?;
    let mut found = Vec::new();
    for item in &page.items {
        let it: Emergency = here.client.read(item.get())?;
        if it.id.starts_with(text) {
            found.push(it.id);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Failure::failed(format!("there is no opening or emergency grant `{text}` that you may see"))),
        _ => Err(Failure::usage(format!("`{text}` stands for several: {}", found.join(", ")))),
    }
}

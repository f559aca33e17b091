//! `doorward audit grant` and `doorward audit who`: the record as people ask it, from the server or from an
//! export that is here.

use std::path::Path;

use crate::audit::format::ReadLine;
use crate::audit::line::CheckedLine;
use crate::audit::verify::Anchor;
use crate::audit::view::grant::{NoGrant, Use};
use crate::audit::view::{AccessRow, GrantCollector, GrantView, Somebody, WhoCollector, WhoFilter};
use crate::cli::args::Format;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::policy::counted;
use crate::cli::renewal::signed_in;
use crate::cli::whole_id::{self, Kind};
use crate::model::{ServiceName, Timestamp};
use crate::wire::Page;

use super::reading::{self, Takes, Whole, untrue};
use super::{FromArgs, GrantArgs, WhoArgs, anchor};

const DAY_MILLIS: i64 = 86_400_000;
/// Rows of a page.
const PAGE: u32 = 200;

impl Takes for GrantCollector {
    fn take(&mut self, checked: &CheckedLine, read: Option<&ReadLine>) {
        match read {
            Some(read) => self.take(&read.entry()),
            None if checked.withheld.is_some() => self.without_content(),
            None => {}
        }
    }
}

impl Takes for WhoCollector {
    fn take(&mut self, _: &CheckedLine, read: Option<&ReadLine>) {
        if let Some(read) = read {
            self.take(&read.entry());
        }
    }
}

/// Reads an export that is here.
fn opened<T: Takes>(
    context: &Context,
    path: &Path,
    from: &FromArgs,
    taker: impl FnOnce(&reading::Statement) -> Result<T, Failure>,
) -> Result<Whole<T>, Failure> {
    let anchor: Anchor =
        anchor::read(context, from.key.as_deref(), from.checkpoint.as_deref())?.map_err(|fault| untrue(&fault))?;
    let whole = reading::of_path(path, &anchor, taker)?;
    if !whole.verified.anchored {
        context.printer.talk(
            "nothing from outside holds this record: give the root key (--key) or a witness's checkpoints (--checkpoint)",
        );
    }
    Ok(whole)
}

/// Tells everything about one grant.
///
/// # Errors
/// Exit 2 when several grants begin so, 1 when none does, 4 when no policy lets the caller, that of `audit
/// verify` when an export does not hold.
pub async fn grant(context: &Context, args: &GrantArgs) -> Result<(), Failure> {
    whole_id::read(&[Kind::Grant], &args.grant)?;
    let view: GrantView = match &args.from.input {
        Some(path) => {
            let whole = opened(context, path, &args.from, |_| Ok(GrantCollector::new(&args.grant)))?;
            whole.taken.end(whole.statement.made_at).map_err(|why| none(&args.grant, why))?
        }
        None => {
            let here = signed_in(context).await?;
            let (_, id) = whole_id::find(&here, &[Kind::Grant], &args.grant).await?;
            let json = here.client.get(&format!("/api/v1/audit/grants/{id}")).await?;
            if context.printer.format() == Format::Json {
                return context.printer.resource(&json);
            }
            here.client.read(&json)?
        }
    };
    if context.printer.format() == Format::Json {
        return context.printer.json(&view);
    }
    print_grant(context, &view)
}

fn none(wanted: &str, why: NoGrant) -> Failure {
    match why {
        NoGrant::Unknown => {
            Failure::new(Exit::Failed, "not_found", format!("nothing in this export is about a grant `{wanted}`"))
        }
        NoGrant::Several(ids) => {
            Failure::usage(format!("`{wanted}` is the beginning of several: `{}`", ids.join("`, `")))
        }
    }
}

fn people(people: &[Somebody]) -> String {
    let told: Vec<&str> = people.iter().map(Somebody::told).collect();
    if told.is_empty() { "nobody".to_owned() } else { told.join(", ") }
}

fn print_grant(context: &Context, view: &GrantView) -> Result<(), Failure> {
    let printer = &context.printer;
    printer.pairs(&summary(view))?;
    if !view.uses.is_empty() {
        let rows: Vec<Vec<String>> = view.uses.iter().map(use_row).collect();
        printer.line("")?;
        printer.table(&["USES", "ROUTE", "ACTION", "OUTCOME", "FIRST", "LAST"], &rows)?;
    }
    let steps: Vec<Vec<String>> = view
        .timeline
        .iter()
        .map(|step| {
            let who = step.by.as_ref().map_or("-", Somebody::told);
            vec![seconds(&step.time), step.kind.clone(), who.to_owned(), step.text.clone()]
        })
        .collect();
    printer.line("")?;
    printer.table(&["TIME", "EVENT", "WHO", "WHAT"], &steps)
}

fn summary(view: &GrantView) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("grant", view.id.clone()),
        ("state", view.state.clone()),
        ("entitlement", view.entitlement.clone()),
        ("who", view.holder.as_ref().map_or("unknown", Somebody::told).to_owned()),
    ];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    if let Some(request) = &view.request {
        add("request", Some(request.id.clone()));
        add("because", Some(request.reason.clone()).filter(|reason| !reason.is_empty()));
        add("ticket", request.ticket.clone());
        request.params.iter().for_each(|param| add("param", Some(param.clone())));
        add("hash", Some(request.hash.clone()));
    }
    add("approved by", Some(people(&view.approved_by)));
    add("active since", view.active_at.clone());
    add("until", view.expires_at.clone());
    add("ended at", view.ended_at.clone());
    add("ended because", view.end_reason.clone());
    add("emergency", view.emergency.then(|| format!("yes, its review is {}", view.review)));
    let used = match (&view.first_use, &view.last_use) {
        (Some(first), Some(last)) => format!("{}, first {first}, last {last}", many(view.allowed, "time")),
        _ => "never".to_owned(),
    };
    add("used", Some(used));
    add("refused", (view.denied > 0).then(|| many(view.denied, "time")));
    add(
        "unknown",
        (view.without_content > 0).then(|| format!("{} without content here", many(view.without_content, "event"))),
    );
    add("left out", (view.left_out > 0).then(|| format!("{} did not fit", many(view.left_out, "event"))));
    pairs
}

fn many(count: u64, word: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), word)
}

fn use_row(used: &Use) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let route = match (&used.method, &used.path) {
        (Some(method), Some(path)) => format!("{method} {path}"),
        (Some(method), None) => format!("{method} (path not known)"),
        _ => "(more routes)".to_owned(),
    };
    let outcome = match &used.reason {
        Some(reason) => format!("{} {reason}", used.outcome),
        None => used.outcome.clone(),
    };
    vec![used.count.to_string(), route, text(&used.action), outcome, seconds(&used.first), seconds(&used.last)]
}

/// A time without its fractions.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(whole, _)| format!("{whole}Z"))
}

/// Which time is asked for: a day, two ends, or this day.
fn times(args: &WhoArgs, now: Timestamp) -> Result<(Timestamp, Timestamp), Failure> {
    let read = |name: &str, text: &str| {
        Timestamp::parse(text)
            .ok_or_else(|| Failure::usage(format!("`--{name} {text}` is no time: it is written 2026-11-22T10:15:00Z")))
    };
    let day = |text: &str| {
        Timestamp::parse(&format!("{text}T00:00:00Z")).ok_or_else(|| {
            Failure::usage(format!("`--on {text}` is no day: it is written 2026-11-20, and is a day of UTC"))
        })
    };
    let next = |start: Timestamp| Timestamp::from_millis(start.millis().saturating_add(DAY_MILLIS));
    if let Some(on) = &args.on {
        let start = day(on)?;
        return Ok((start, next(start)));
    }
    let today = Timestamp::from_millis(now.millis() - now.millis().rem_euclid(DAY_MILLIS));
    let from = args.from.as_deref().map(|text| read("from", text)).transpose()?.unwrap_or(today);
    let to = args.to.as_deref().map(|text| read("to", text)).transpose()?.unwrap_or_else(|| next(today));
    if from >= to {
        return Err(Failure::usage(format!("the time is empty: `--from` {from} is not before `--to` {to}")));
    }
    Ok((from, to))
}

/// Tells who had access to what.
///
/// # Errors
/// Exit 2 when the time can't be read or an export has not all of it, 4 when no policy lets the caller, that
/// of `audit verify` when an export does not hold.
pub async fn who(context: &Context, args: &WhoArgs) -> Result<(), Failure> {
    let times = times(args, context.clock.now())?;
    if let Some(service) = &args.service {
        ServiceName::parse(service).map_err(|error| Failure::usage(format!("in `--service`: {error}")))?;
    }
    let rows = match &args.source.input {
        Some(path) => of_export(context, path, args, times)?,
        None => of_server(context, args, times).await?,
    };
    if context.printer.format() == Format::Json {
        return context.printer.json(&Page::whole(rows));
    }
    if rows.is_empty() {
        context.printer.talk("Nobody is known to have had access in that time.");
        return Ok(());
    }
    let told: Vec<Vec<String>> = rows.iter().map(|row| row_of(row, times)).collect();
    let header = ["WHO", "WHAT", "HOW", "FROM", "TO", "APPROVED BY", "USES", "FIRST", "LAST"];
    context.printer.table(&header, &told)?;
    context.printer.talk("Standing permissions are told where they were used; grants and openings also where not.");
    Ok(())
}

fn of_export(
    context: &Context,
    path: &Path,
    args: &WhoArgs,
    (from, to): (Timestamp, Timestamp),
) -> Result<Vec<AccessRow>, Failure> {
    let whole = opened(context, path, &args.source, |of| {
        let filter = &of.filter;
        let other = filter.kind.is_some()
            || filter.service.is_some()
            || filter.actor.is_some()
            || filter.grant.is_some()
            || filter.session.is_some();
        if other || filter.from.is_some_and(|first| first > from) || filter.to.is_some_and(|last| last < to) {
            return Err(Failure::usage(
                "the export has not every event of that time: make one without other filters than `--from` and `--to`",
            ));
        }
        if filter.from.is_some() {
            context.printer.talk("what was granted before this export begins is not known here");
        }
        let wanted =
            WhoFilter { from: Some(from), to: Some(to), service: args.service.clone(), person: args.person.clone() };
        Ok(WhoCollector::new(wanted))
    })?;
    if whole.taken.left_out() > 0 {
        return Err(Failure::failed("there is more than can be told at once: ask for a shorter time"));
    }
    Ok(whole.taken.end(whole.statement.made_at))
}

async fn of_server(
    context: &Context,
    args: &WhoArgs,
    (from, to): (Timestamp, Timestamp),
) -> Result<Vec<AccessRow>, Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("from", &from.to_string()).append_pair("to", &to.to_string());
    for (name, value) in [("service", &args.service), ("person", &args.person)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let path = format!("/api/v1/audit/who?limit={PAGE}&{}", query.finish());
    let page = here.client.list(&path).await?;
    page.items.iter().map(|item| Ok(here.client.read(item.get())?)).collect()
}

fn row_of(row: &AccessRow, (from, to): (Timestamp, Timestamp)) -> Vec<String> {
    let one_day = to.since(from).as_millis() <= DAY_MILLIS;
    let time = |time: &Option<String>| {
        let whole = time.as_deref().map(seconds);
        let whole = whole.unwrap_or_else(|| "-".to_owned());
        match whole.split_once('T') {
            Some((_, clock)) if one_day && clock != "00:00:00Z" => clock.to_owned(),
            _ => whole,
        }
    };
    let what = row.entitlement.clone().or_else(|| row.service.clone()).unwrap_or_else(|| "all services".to_owned());
    let how = match (&row.grant, &row.opening) {
        (Some(id), _) | (None, Some(id)) => id.clone(),
        (None, None) => row.how.replace('_', "-"),
    };
    let approved: Vec<&str> = row.approved_by.iter().map(|approval| approval.by.told()).collect();
    let custodians = row.custodians.iter().map(String::as_str);
    let approved: Vec<&str> = approved.into_iter().chain(custodians).collect();
    let approved = if approved.is_empty() { "-".to_owned() } else { approved.join(", ") };
    vec![
        row.person.told().to_owned(),
        what,
        how,
        time(&row.from),
        time(&row.to),
        approved,
        row.uses.count.to_string(),
        time(&row.uses.first),
        time(&row.uses.last),
    ]
}

//! `doorward requests` and `doorward show`: what was asked for, and one request or grant whole.

use std::collections::BTreeMap;

use crate::model::Timestamp;
use crate::model::text::shell_word;
use crate::wire::{AccessRequest, Answer, Approval, Principal};

use super::access_args::{RequestsArgs, ShowArgs};
use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::grants;
use super::printer::left;
use super::renewal::signed_in;
use super::table;
use super::whoami::listed;
use super::whole_id::{self, Kind};

/// Prints requests: one's own, those that wait for one's answer, or all that concern one.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context, args: &RequestsArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    match (args.to_approve, args.all) {
        (true, _) => query.append_pair("to_approve", "true"),
        (_, true) => query.append_pair("all", "true"),
        _ => query.append_pair("mine", "true"),
    };
    if let Some(state) = &args.state {
        query.append_pair("state", state);
    }
    let page = here.client.list(&format!("/api/v1/requests?{}", query.finish())).await?;
    if context.printer.format() == Format::Json {
        return context.printer.page(&page);
    }
    let now = context.clock.now();
    let (mut rows, mut params) = (Vec::new(), Vec::new());
    for item in &page.items {
        let request: AccessRequest = here.client.read(item.get())?;
        params.push(params_told(&request.params));
        rows.push(vec![
            request.id.clone(),
            request.state.clone(),
            request.entitlement.clone(),
            request.principal.id.clone(),
            request.length.clone(),
            time_left(&request, now),
            format!("{}/{}", approved_by(&request), request.approvals_needed),
            if request.emergency { format!("EMERGENCY {}", request.reason) } else { request.reason.clone() },
        ]);
    }
    if rows.is_empty() {
        let what = if args.to_approve { "Nothing waits for your answer." } else { "There are no such requests." };
        context.printer.talk(what);
        return Ok(());
    }
    let mut header = vec!["REQUEST", "STATE", "ENTITLEMENT", "WHO", "FOR", "LEFT", "APPROVALS", "REASON"];
    table::insert(&mut header, &mut rows, (3, "PARAMS"), params);
    context.printer.table(&header, &rows)
}

/// What was asked for beyond the entitlement, as it is typed: `pipeline=web 'note=two words'`. No value looks like
/// another parameter.
pub(super) fn params_told(params: &BTreeMap<String, String>) -> String {
    let pair = |(name, value): (&String, &String)| {
        let word = shell_word(&format!("{name}={value}"));
        word.unwrap_or_else(|| format!("{name}=\"{}\"", value.escape_debug()))
    };
    params.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// Prints one request or grant.
///
/// # Errors
/// Exit 2 when the id is none or stands for several; exit 1 when there is no such thing.
pub async fn show(context: &Context, args: &ShowArgs) -> Result<(), Failure> {
    let kinds = [Kind::Request, Kind::Grant];
    whole_id::read(&kinds, &args.id)?;
    let here = signed_in(context).await?;
    let (kind, id) = whole_id::find(&here, &kinds, &args.id).await?;
    let collection = if kind == Kind::Grant { "grants" } else { "requests" };
    let json = here.client.get(&format!("/api/v1/{collection}/{id}")).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let now = context.clock.now();
    if kind == Kind::Grant {
        return context.printer.pairs(&grants::told(&here.client.read(&json)?, now));
    }
    context.printer.pairs(&told(&here.client.read(&json)?, now))
}

/// What people call somebody, with the id that counts.
pub(super) fn called(principal: &Principal) -> String {
    let name = principal.name.as_deref().or(principal.email.as_deref());
    name.map_or_else(|| principal.text(), |name| format!("{name} ({})", principal.id))
}

/// What an approver saw is not what is asked any more: the approval counts for nothing.
fn is_void(approval: &Approval, request: &AccessRequest) -> bool {
    approval.answer == Answer::Approve && approval.hash != request.hash
}

fn counts(approval: &Approval, request: &AccessRequest) -> bool {
    approval.answer == Answer::Approve && approval.counts && !is_void(approval, request)
}

fn needed(request: &AccessRequest) -> usize {
    usize::try_from(request.approvals_needed).unwrap_or(usize::MAX)
}

/// How many approvals it has of those that it takes.
fn approved_by(request: &AccessRequest) -> usize {
    request.approvals.iter().filter(|approval| counts(approval, request)).count().min(needed(request))
}

/// How many approvals a pending request still waits for.
pub(super) fn missing(request: &AccessRequest) -> usize {
    if request.state == "pending" { needed(request).saturating_sub(approved_by(request)) } else { 0 }
}

/// How many approvals it has, and what it waits for where it has them all: nothing is granted because one that did
/// not count does again, but by the word of somebody who looks at it.
fn approvals(request: &AccessRequest) -> String {
    let told = format!("{} of {}", approved_by(request), request.approvals_needed);
    if request.state == "pending" && request.approvals_needed > 0 && missing(request) == 0 {
        let id = &request.id;
        return format!(
            "{told}; one counts again that did not, so it takes one more word, also of who gave theirs: doorward \
             approve {id}"
        );
    }
    told
}

/// Until it times out, or its grant ends; nothing for what is over.
fn time_left(request: &AccessRequest, now: Timestamp) -> String {
    match (request.state.as_str(), request.expires_at) {
        ("pending", _) => format!("{} to answer", left(request.answer_by.0, now)),
        ("active" | "approved" | "scheduled", Some(end)) => left(end.0, now),
        _ => "-".to_owned(),
    }
}

/// A request in names and values.
pub(super) fn told(request: &AccessRequest, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("request", request.id.clone()),
        ("state", request.state.clone()),
        ("entitlement", request.entitlement.clone()),
        ("who", called(&request.principal)),
        ("reason", if request.reason.is_empty() { "-".to_owned() } else { request.reason.clone() }),
    ];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    add("ticket", request.ticket.clone());
    for (key, value) in &request.params {
        add("param", Some(format!("{key}={value}")));
    }
    add("for", Some(request.length.clone()));
    add("start", request.start.map(|start| start.to_string()));
    add("emergency", request.emergency.then(|| "yes".to_owned()));
    add("extends", request.extends.clone());
    add("opens", Some(listed(&request.actions)));
    if let Some(context) = &request.context {
        context.routes.iter().for_each(|route| add("route", Some(route.clone())));
        add("first time", Some(if context.first_time { "yes" } else { "no" }.to_owned()));
        add("last 30 days", Some(format!("{} granted", context.grants_30d)));
        add("work hours", Some(if context.outside_hours { "no, outside of them" } else { "yes" }.to_owned()));
    }
    add("asked at", Some(request.created_at.to_string()));
    if request.state == "pending" {
        let left = left(request.answer_by.0, now);
        add("answer by", Some(format!("{}, in {left}", request.answer_by)));
    }
    add("approvals", Some(approvals(request)));
    let waits = matches!(request.state.as_str(), "pending" | "approved" | "scheduled");
    for approval in &request.approvals {
        let (verb, standing) = match approval.answer {
            Answer::Approve if is_void(approval, request) => ("void", ""),
            Answer::Approve if !counts(approval, request) && waits => ("approved", ", doesn't count any more"),
            Answer::Approve if !counts(approval, request) => ("approved", ", did not count"),
            Answer::Approve => ("approved", ""),
            Answer::Deny => ("denied", ""),
        };
        let said = approval.reason.as_deref().map(|said| format!(": {said}")).unwrap_or_default();
        add(verb, Some(format!("by {} at {}{standing}{said}", called(&approval.by), approval.time)));
    }
    add("grant", request.grant.clone());
    if let Some(end) = request.expires_at {
        let left = if request.state == "active" { format!(", {} left", left(end.0, now)) } else { String::new() };
        add("ends", Some(format!("{end}{left}")));
    }
    add("hash", Some(request.hash.clone()));
    pairs
}

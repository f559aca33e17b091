//! `doorward grants`, `extend`, `drop` and `revoke`: what is held, and ending it.

use crate::model::Timestamp;
use crate::wire::{AccessRequest, Extend, Grant, Nothing, Revoke};

use super::access_args::{DropArgs, ExtendArgs, GrantsArgs, RevokeArgs};
use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::printer::left;
use super::renewal::{SignedIn, signed_in};
use super::requests::{self, called, params_told};
use super::table;
use super::whoami::listed;
use super::whole_id::{self, Kind};

/// Prints grants: one's own, or all that concern one.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context, args: &GrantsArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let path = if args.all { "/api/v1/grants?all=true" } else { "/api/v1/grants" };
    let page = here.client.list(path).await?;
    if context.printer.format() == Format::Json {
        return context.printer.page(&page);
    }
    let now = context.clock.now();
    let (mut rows, mut params) = (Vec::new(), Vec::new());
    for item in &page.items {
        let grant: Grant = here.client.read(item.get())?;
        params.push(params_told(&grant.params));
        rows.push(vec![
            grant.id.clone(),
            grant.state.clone(),
            grant.entitlement.clone(),
            grant.principal.id.clone(),
            grant.active_at.or(grant.starts_at).map_or_else(|| "-".to_owned(), |at| at.to_string()),
            time_left(&grant, now),
            if grant.emergency { "emergency".to_owned() } else { String::new() },
        ]);
    }
    if rows.is_empty() {
        context.printer.talk(if args.all { "There are no such grants." } else { "You hold nothing." });
        return Ok(());
    }
    let mut header = vec!["GRANT", "STATE", "ENTITLEMENT", "WHO", "SINCE", "LEFT", ""];
    table::insert(&mut header, &mut rows, (3, "PARAMS"), params);
    context.printer.table(&header, &rows)
}

fn time_left(grant: &Grant, now: Timestamp) -> String {
    match (grant.state.as_str(), grant.expires_at, grant.starts_at) {
        ("active", Some(end), _) => match grant.idle_ends_at {
            Some(unused) if unused < end => format!("{}, unused {}", left(end.0, now), left(unused.0, now)),
            _ => left(end.0, now),
        },
        ("scheduled", _, Some(start)) => format!("begins in {}", left(start.0, now)),
        _ => "-".to_owned(),
    }
}

/// A grant in names and values.
pub(super) fn told(grant: &Grant, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("grant", grant.id.clone()),
        ("state", grant.state.clone()),
        ("entitlement", grant.entitlement.clone()),
        ("who", called(&grant.principal)),
        ("request", grant.request.clone()),
        ("opens", listed(&grant.actions)),
    ];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    for (key, value) in &grant.params {
        add("param", Some(format!("{key}={value}")));
    }
    add("emergency", grant.emergency.then(|| if grant.reviewed { "reviewed" } else { "not reviewed yet" }.to_owned()));
    add("begins", grant.starts_at.map(|at| at.to_string()));
    add("active since", grant.active_at.map(|at| at.to_string()));
    if let Some(end) = grant.expires_at {
        let rest = if grant.state == "active" { format!(", {} left", left(end.0, now)) } else { String::new() };
        add("ends", Some(format!("{end}{rest}")));
    }
    add("last used", grant.used_at.map(|at| at.to_string()));
    if let (Some(idle), Some(end)) = (&grant.idle, grant.idle_ends_at) {
        add("unused", Some(format!("ends after {idle} without use, at {end} ({} left)", left(end.0, now))));
    }
    add("ended at", grant.ended_at.map(|at| at.to_string()));
    add("because", grant.end_reason.clone());
    pairs
}

/// Asks for more time; what is held goes on meanwhile.
///
/// # Errors
/// Exit 1 when the grant is over, exit 4 when it may not be extended.
pub async fn extend(context: &Context, args: &ExtendArgs) -> Result<(), Failure> {
    let (here, id) = found(context, &args.id).await?;
    let body = Extend { length: args.length.to_string() };
    let json = here.client.act(&format!("/api/v1/grants/{id}/extend"), &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    let request: AccessRequest = here.client.read(&json)?;
    context.printer.pairs(&requests::told(&request, context.clock.now()))
}

/// Gives back a grant of one's own.
///
/// # Errors
/// Exit 1 when it is over already.
pub async fn drop(context: &Context, args: &DropArgs) -> Result<(), Failure> {
    let (here, id) = found(context, &args.id).await?;
    let json = here.client.act(&format!("/api/v1/grants/{id}/drop"), &Nothing {}, &*context.entropy).await?;
    print(context, &here, &json)
}

/// Ends a grant or a session.
///
/// # Errors
/// Exit 2 when the id is none; exit 4 when it isn't the caller's to end.
pub async fn revoke(context: &Context, args: &RevokeArgs) -> Result<(), Failure> {
    let kinds = [Kind::Grant, Kind::Session, Kind::Lease];
    if whole_id::read(&kinds, &args.id)? == Kind::Lease {
        return Err(Failure::failed(
            "no leases are issued yet, so there is none to revoke; grants (`grt_…`) and sessions (`ses_…`) can be",
        ));
    }
    let here = signed_in(context).await?;
    let (kind, id) = whole_id::find(&here, &kinds, &args.id).await?;
    let body = Revoke { reason: args.reason.clone() };
    let collection = if kind == Kind::Grant { "grants" } else { "sessions" };
    let json = here.client.act(&format!("/api/v1/{collection}/{id}/revoke"), &body, &*context.entropy).await?;
    if kind == Kind::Grant {
        return print(context, &here, &json);
    }
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    context.printer.talk(&format!("The session {id} is ended; requests and streams under it stop now."));
    Ok(())
}

async fn found(context: &Context, text: &str) -> Result<(SignedIn, String), Failure> {
    whole_id::read(&[Kind::Grant], text)?;
    let here = signed_in(context).await?;
    let (_, id) = whole_id::find(&here, &[Kind::Grant], text).await?;
    Ok((here, id))
}

fn print(context: &Context, here: &SignedIn, json: &str) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.resource(json);
    }
    let grant: Grant = here.client.read(json)?;
    context.printer.pairs(&told(&grant, context.clock.now()))
}

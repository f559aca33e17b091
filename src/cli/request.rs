//! `doorward request`: asks for an entitlement, and waits for the answer where that is wanted.

use std::collections::BTreeMap;

use crate::model::Ttl;
use crate::wire::{AccessRequest, Answer, DryRun, NewAccessRequest};

use super::access_args::RequestArgs;
use super::args::Format;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::renewal::{SignedIn, signed_in};
use super::requests;
use super::waiting;
use super::whoami::listed;

/// How long is waited where nothing is said.
pub(super) const WAIT: Ttl = Ttl::minutes(10);

/// Asks, and prints the request.
///
/// # Errors
/// Exit 4 when it is denied or may not be asked for, 5 when the wait ran out, 1 when it ended otherwise.
pub async fn run(context: &Context, args: &RequestArgs) -> Result<(), Failure> {
    let asked = NewAccessRequest {
        entitlement: args.entitlement.to_string(),
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        length: args.length.map(|length| length.to_string()),
        start: args.start.map(Into::into),
        params: parameters(&args.params)?,
        emergency: args.emergency,
        dry_run: args.dry_run,
    };
    let here = signed_in(context).await?;
    let json = here.client.act("/api/v1/requests", &asked, &*context.entropy).await?;
    if args.dry_run {
        return dry_run(context, args, &here, &json);
    }
    let request: AccessRequest = here.client.read(&json)?;
    if !args.wait {
        print(context, &json, &request)?;
        if request.state == "pending" {
            context.printer.talk(&format!("It waits for approval: doorward show {}", request.id));
        }
        return Ok(());
    }
    let (json, request) = decided(context, json, request, args.timeout.unwrap_or(WAIT)).await?;
    print(context, &json, &request)?;
    ended(&request)
}

/// The parameters of a request, each once.
pub(super) fn parameters(given: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut params = BTreeMap::new();
    for (key, value) in given {
        if params.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("`--param {}` is there twice", key.escape_debug())));
        }
    }
    Ok(params)
}

fn print(context: &Context, json: &str, request: &AccessRequest) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.resource(json);
    }
    context.printer.pairs(&requests::told(request, context.clock.now()))
}

/// Looks at the request until it isn't pending any more, or for that long.
async fn decided(
    context: &Context,
    json: String,
    request: AccessRequest,
    timeout: Ttl,
) -> Result<(String, AccessRequest), Failure> {
    let is_pending = |request: &AccessRequest| request.state == "pending";
    // In a log as on a terminal: somebody has to know what to approve. Scripts that read JSON read errors there.
    if is_pending(&request) && context.printer.format() != Format::Json {
        let id = &request.id;
        context.printer.talk(&format!("Waiting up to {timeout} for an answer to {id}: doorward approve {id}"));
    }
    // A wait may be longer than a certificate lasts.
    let client = async || Ok(signed_in(context).await?.client);
    waiting::watched(client, (json, request), is_pending, |_| {}, timeout).await
}

/// How a wait ends.
fn ended(request: &AccessRequest) -> Result<(), Failure> {
    let id = &request.id;
    match request.state.as_str() {
        "approved" | "scheduled" | "active" => Ok(()),
        "pending" => {
            let detail = format!("nobody has decided {id} yet; it waits on: doorward show {id}");
            Err(Failure::new(Exit::Pending, "pending", detail))
        }
        _ => Err(over(request)),
    }
}

/// A request that is over and came to nothing, for whoever waited for it: exit 4 where somebody said no; else 1,
/// since it is not pending any more and nobody denied it.
pub(super) fn over(request: &AccessRequest) -> Failure {
    let id = &request.id;
    let (exit, detail) = match request.state.as_str() {
        "denied" => (Exit::Denied, denial(request)),
        "timed_out" => (Exit::Failed, format!("{id} was not answered in time; ask again")),
        other => (Exit::Failed, format!("{id} is over already: {other}")),
    };
    Failure::new(exit, &request.state, detail)
}

/// Who said no, and why.
fn denial(request: &AccessRequest) -> String {
    let no = request.approvals.iter().rfind(|approval| approval.answer == Answer::Deny);
    let by = no.map(|no| format!(" by {}", no.by.id)).unwrap_or_default();
    let why = no.and_then(|no| no.reason.as_deref()).map(|why| format!(": {why}")).unwrap_or_default();
    format!("{} was denied{by}{why}", request.id)
}

fn dry_run(context: &Context, args: &RequestArgs, here: &SignedIn, json: &str) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.resource(json);
    }
    let plan: DryRun = here.client.read(json)?;
    let who: Vec<String> = plan.approvers.iter().map(requests::called).collect();
    let needed = match (plan.approvals_needed, who.as_slice()) {
        _ if args.emergency => "skipped in an emergency; two people review it afterwards".to_owned(),
        (0, _) => "none: policy approves it by itself".to_owned(),
        (needed, []) => format!("{needed}, of people who have not signed in here yet"),
        (needed, _) => format!("{needed}"),
    };
    let begins = if args.emergency || plan.approvals_needed == 0 { "at once" } else { "once approved" };
    let mut pairs = vec![
        ("entitlement", plan.entitlement),
        ("for", plan.length),
        ("start", plan.start.map_or_else(|| begins.to_owned(), |start| start.to_string())),
        ("opens", listed(&plan.actions)),
        ("approvals", needed),
        (if args.emergency { "passed over" } else { "could approve" }, listed(&who)),
    ];
    let mut add = |name, value: Option<String>| pairs.extend(value.map(|value| (name, value)));
    add("begins", plan.earliest_start.map(|lead| format!("{lead} after it is asked for, at the earliest")));
    add("unused", plan.idle.map(|idle| format!("ends after {idle} without use")));
    add("break", plan.break_after.map(|pause| format!("{pause} after each grant")));
    context.printer.pairs(&pairs)?;
    context.printer.talk("Nothing was asked for.");
    Ok(())
}

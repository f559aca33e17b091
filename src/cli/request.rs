//! `doorward request`: asks for an entitlement, and waits for the answer where that is wanted.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::model::Ttl;
use crate::wire::{AccessRequest, DryRun, NewAccessRequest};

use super::access_args::RequestArgs;
use super::args::Format;
use super::client::ClientError;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::renewal::{SignedIn, signed_in};
use super::requests;
use super::whoami::listed;

/// How long is waited where nothing is said.
const WAIT: Ttl = Ttl::minutes(10);
/// How soon the request is looked at; each time it is waited twice as long as before, up to the most.
const LOOK_FIRST: Duration = Duration::from_millis(125);
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Asks, and prints the request.
///
/// # Errors
/// Exit 4 when it is denied or may not be asked for, 5 when the wait ran out.
pub async fn run(context: &Context, args: &RequestArgs) -> Result<(), Failure> {
    let mut params = std::collections::BTreeMap::new();
    for (key, value) in &args.params {
        if params.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("`--param {}` is there twice", key.escape_debug())));
        }
    }
    let asked = NewAccessRequest {
        entitlement: args.entitlement.to_string(),
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        length: args.length.map(|length| length.to_string()),
        start: args.start.map(Into::into),
        params,
        emergency: args.emergency,
        dry_run: args.dry_run,
    };
    let here = signed_in(context).await?;
    let json = here.client.act("/api/v1/requests", &asked, &*context.entropy).await?;
    if args.dry_run {
        return dry_run(context, &here, &json);
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
    if request.state != "pending" {
        return Ok((json, request));
    }
    if context.printer.is_terminal() && io::stderr().is_terminal() {
        context.printer.talk(&format!("Waiting up to {timeout} for an answer to {} …", request.id));
    }
    let path = format!("/api/v1/requests/{}", request.id);
    let mut last = (json, request);
    let looking = async {
        let mut pause = LOOK_FIRST;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
            // A wait may be longer than a certificate lasts.
            let here = signed_in(context).await?;
            let json = match here.client.get(&path).await {
                Ok(json) => json,
                // A door that restarts is worth waiting for.
                Err(ClientError::Dial(_) | ClientError::Exchange { .. } | ClientError::Slow { .. }) => continue,
                Err(error) => return Err(Failure::from(error)),
            };
            let request: AccessRequest = here.client.read(&json)?;
            let over = request.state != "pending";
            last = (json, request);
            if over {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(timeout.duration(), looking).await {
        // What was seen last is pending: whoever prints it says so.
        Ok(Ok(())) | Err(_) => Ok(last),
        Ok(Err(failure)) => Err(failure),
    }
}

/// How a wait ends.
fn ended(request: &AccessRequest) -> Result<(), Failure> {
    let id = &request.id;
    let failure = |exit, reason: &str, detail: String| Err(Failure::new(exit, reason, detail));
    match request.state.as_str() {
        "approved" | "scheduled" | "active" => Ok(()),
        "pending" => {
            failure(Exit::Pending, "pending", format!("nobody has decided {id} yet; it waits on: doorward show {id}"))
        }
        "denied" => {
            let no = request.approvals.iter().rfind(|approval| approval.answer == crate::wire::Answer::Deny);
            let by = no.map(|no| format!(" by {}", no.by.id)).unwrap_or_default();
            let why = no.and_then(|no| no.reason.as_deref()).map(|why| format!(": {why}")).unwrap_or_default();
            failure(Exit::Denied, "denied", format!("{id} was denied{by}{why}"))
        }
        "timed_out" => failure(Exit::Failed, "timed_out", format!("{id} was not answered in time; ask again")),
        other => failure(Exit::Failed, other, format!("{id} is over already: {other}")),
    }
}

fn dry_run(context: &Context, here: &SignedIn, json: &str) -> Result<(), Failure> {
    if context.printer.format() == Format::Json {
        return context.printer.resource(json);
    }
    let plan: DryRun = here.client.read(json)?;
    let who: Vec<String> = plan.approvers.iter().map(requests::called).collect();
    let needed = match (plan.approvals_needed, who.as_slice()) {
        (0, _) => "none: policy approves it by itself".to_owned(),
        (needed, []) => format!("{needed}, of people who have not signed in here yet"),
        (needed, _) => format!("{needed}"),
    };
    context.printer.pairs(&[
        ("entitlement", plan.entitlement),
        ("for", plan.length),
        ("start", plan.start.map_or_else(|| "once approved".to_owned(), |start| start.to_string())),
        ("opens", listed(&plan.actions)),
        ("approvals", needed),
        ("could approve", listed(&who)),
    ])?;
    context.printer.talk("Nothing was asked for.");
    Ok(())
}

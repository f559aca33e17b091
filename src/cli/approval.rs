//! `doorward approve`, `deny` and `withdraw`: the answers to a request.
//!
//! INVARIANT: an approval names the hash of what was fetched and shown, so that what is approved is
//! what was looked at; where it changed meanwhile the server refuses.

use std::io::{self, IsTerminal};

use crate::wire::{AccessRequest, Answer, NewApproval, Nothing};

use super::access_args::{ApproveArgs, DenyArgs, WithdrawArgs};
use super::args::Format;
use super::context::Context;
use super::exit::Exit;
use super::failure::Failure;
use super::renewal::{SignedIn, signed_in};
use super::requests::{called, missing, told};
use super::whole_id::{self, Kind};

/// Approves a request, on a terminal after it was shown and agreed to.
///
/// # Errors
/// Exit 4 when it is one's own or no policy permits it; exit 1 when it is over or was changed.
pub async fn approve(context: &Context, args: &ApproveArgs) -> Result<(), Failure> {
    let (here, id) = found(context, &args.id).await?;
    let request: AccessRequest = here.client.read(&here.client.get(&format!("/api/v1/requests/{id}")).await?)?;
    let asks = !args.yes && context.printer.is_terminal() && io::stdin().is_terminal();
    if asks && request.state == "pending" {
        context.printer.talk_pairs(&told(&request, context.clock.now()));
        context.printer.talk("");
        let who = called(&request.principal);
        context.printer.talk(&format!("Let {who} hold {} for {}? [y/N]", request.entitlement, request.length));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| Failure::failed(format!("reading the answer: {error}")))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            let told = format!("nothing was approved; to say no: doorward deny {id}");
            return Err(Failure::new(Exit::Failed, "not_answered", told));
        }
    }
    let body = NewApproval { answer: Answer::Approve, reason: args.reason.clone(), hash: Some(request.hash) };
    let request = answer(context, &here, &id, &body).await?;
    let missing = missing(&request);
    if missing > 0 {
        context.printer.talk(&format!("Approved; {id} waits for {missing} more."));
    }
    Ok(())
}

/// Denies a request, which ends it.
///
/// # Errors
/// As [`approve`].
pub async fn deny(context: &Context, args: &DenyArgs) -> Result<(), Failure> {
    let (here, id) = found(context, &args.id).await?;
    let body = NewApproval { answer: Answer::Deny, reason: args.reason.clone(), hash: None };
    answer(context, &here, &id, &body).await?;
    Ok(())
}

/// Withdraws a request of one's own.
///
/// # Errors
/// Exit 1 when it is over, exit 4 when it is another's.
pub async fn withdraw(context: &Context, args: &WithdrawArgs) -> Result<(), Failure> {
    let (here, id) = found(context, &args.id).await?;
    let json = here.client.act(&format!("/api/v1/requests/{id}/withdraw"), &Nothing {}, &*context.entropy).await?;
    print(context, &here, &json)?;
    Ok(())
}

async fn found(context: &Context, text: &str) -> Result<(SignedIn, String), Failure> {
    whole_id::read(&[Kind::Request], text)?;
    let here = signed_in(context).await?;
    let (_, id) = whole_id::find(&here, &[Kind::Request], text).await?;
    Ok((here, id))
}

async fn answer(context: &Context, here: &SignedIn, id: &str, body: &NewApproval) -> Result<AccessRequest, Failure> {
    let json = here.client.act(&format!("/api/v1/requests/{id}/approvals"), body, &*context.entropy).await?;
    print(context, here, &json)
}

/// Prints the request as it is now, and gives it.
fn print(context: &Context, here: &SignedIn, json: &str) -> Result<AccessRequest, Failure> {
    let request: AccessRequest = here.client.read(json)?;
    if context.printer.format() == Format::Json {
        context.printer.resource(json)?;
    } else {
        context.printer.pairs(&told(&request, context.clock.now()))?;
    }
    Ok(request)
}

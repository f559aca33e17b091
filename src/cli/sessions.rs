//! `doorward sessions` and `doorward revoke`: which sign-ins are live, and ending one.

use crate::model::{GrantId, LeaseId, SessionId};
use crate::wire::{Revoke, Session};

use super::args::{Format, RevokeArgs, SessionsArgs};
use super::context::Context;
use super::failure::Failure;
use super::printer::left;
use super::renewal::signed_in;

/// Prints live sessions: one's own, or all that one may revoke or audit.
///
/// # Errors
/// When nobody is signed in, or the server can't be asked.
pub async fn run(context: &Context, args: &SessionsArgs) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let path = if args.all { "/api/v1/sessions?all=true" } else { "/api/v1/sessions" };
    let page = here.client.list(path).await?;
    if context.printer.format() == Format::Json {
        let json = serde_json::to_string(&page).map_err(|error| Failure::failed(error.to_string()))?;
        return context.printer.resource(&json);
    }
    let now = context.clock.now();
    let mut rows = Vec::new();
    for item in &page.items {
        let session: Session = here.client.read(item.get())?;
        rows.push(vec![
            session.id.clone(),
            session.principal.id.clone(),
            session.kind.clone(),
            session.device.map_or_else(|| "-".to_owned(), |device| device.id),
            session.created_at.to_string(),
            left(session.expires_at.0, now),
            if session.current { "this one".to_owned() } else { String::new() },
        ]);
    }
    context.printer.table(&["SESSION", "PRINCIPAL", "KIND", "DEVICE", "SINCE", "LEFT", ""], &rows)
}

/// Ends a session.
///
/// # Errors
/// Exit 2 when the id is none; exit 4 when it isn't the caller's to end.
pub async fn revoke(context: &Context, args: &RevokeArgs) -> Result<(), Failure> {
    let id = match SessionId::parse(&args.id) {
        Ok(id) => id,
        Err(_) if GrantId::parse(&args.id).is_ok() || LeaseId::parse(&args.id).is_ok() => {
            return Err(Failure::failed(
                "just-in-time access is not built yet, so there is no grant or lease to revoke; sessions (`ses_…`) can be",
            ));
        }
        Err(error) => return Err(Failure::usage(format!("`{}`: {error}", args.id.escape_debug()))),
    };
    let here = signed_in(context).await?;
    let json =
        here.client.post(&format!("/api/v1/sessions/{id}/revoke"), &Revoke { reason: args.reason.clone() }).await?;
    if context.printer.format() == Format::Json {
        return context.printer.resource(&json);
    }
    context.printer.talk(&format!("The session {id} is ended; requests and streams under it stop now."));
    Ok(())
}

//! `doorward lock` and `unlock`: bars somebody from everything, and lifts the bar.

use crate::wire::{Lock, NewLock};

use super::access_args::LockArgs;
use super::args::Format;
use super::context::Context;
use super::failure::Failure;
use super::renewal::signed_in;
use super::requests::called;

/// Bars a principal.
///
/// # Errors
/// Exit 4 when no policy permits it; exit 2 when there is no such provider; exit 1 when there is no such principal
/// or it is barred.
pub async fn lock(context: &Context, args: &LockArgs) -> Result<(), Failure> {
    change(context, args, "/api/v1/locks").await
}

/// Lifts the bar.
///
/// # Errors
/// As [`lock`], and exit 1 when there is none.
pub async fn unlock(context: &Context, args: &LockArgs) -> Result<(), Failure> {
    change(context, args, "/api/v1/locks/clear").await
}

async fn change(context: &Context, args: &LockArgs, path: &str) -> Result<(), Failure> {
    let here = signed_in(context).await?;
    let body = NewLock { principal: args.principal.clone(), reason: args.reason.clone() };
    let json = here.client.act(path, &body, &*context.entropy).await?;
    if context.printer.format() == Format::Json {
        context.printer.resource(&json)?;
    }
    let lock: Lock = here.client.read(&json)?;
    let who = called(&lock.principal);
    if lock.known == Some(false) {
        let near = lock.near.as_deref().map(|near| format!(" Did you mean {near}?")).unwrap_or_default();
        let id = lock.principal.text();
        context.printer.talk(&format!(
            "warning: nobody has come here as {id} so far; the lock stands and meets them when they do.{near}"
        ));
    }
    if context.printer.format() == Format::Json {
        return Ok(());
    }
    context.printer.talk(&if lock.active {
        format!("{who} is locked: requests and streams stop now, until `doorward unlock`.")
    } else {
        format!("{who} is not locked any more.")
    });
    Ok(())
}

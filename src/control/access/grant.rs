//! Prolonging and ending grants.

use crate::audit::{Actor, EventType};
use crate::model::{Grant, GrantEnd, GrantId, RequestState, Timestamp, Ttl};
use crate::policy::{EntitlementAction, InstallationAction};
use crate::store::{StoreError, Tx};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::super::oauth::run;
use super::activate::{stuck, tell};
use super::create::create_extension;
use super::standing::write_down;
use super::view::{GrantSeen, Seen, grant_fetch, grant_seen, request_fetch};
use super::{AccessError, grant_event, may, not_allowed, reason_of, request_event};

/// Asks for more of one's own grant. It needs what the grant needed, and interrupts nothing.
///
/// # Errors
/// When the grant is not the caller's or not active, or the length does not fit, by itself or with what
/// the grant has lasted.
pub async fn extend(
    desk: &Desk,
    caller: &Caller,
    id: GrantId,
    length: Ttl,
    now: Timestamp,
) -> Result<Seen, AccessError> {
    let grant = grant_fetch(desk, caller, id, now).await?.grant;
    if !is_own(desk, caller, &grant).await? {
        return Err(AccessError::Denied("only its holder can ask for more of a grant".to_owned()));
    }
    if grant.emergency {
        return Err(AccessError::Denied("an emergency is not prolonged; ask with approvals".to_owned()));
    }
    let next = grant.state_at(now).extended(length, now).map_err(stuck)?;
    let first = desk.store.access_request_fetch(grant.request).await?;
    let first = first.ok_or(AccessError::NotFound { what: "request" })?;
    let (request, _) = create_extension(desk, caller, &grant, &first, length, next, now).await?;
    request_fetch(desk, caller, request.id, now).await
}

/// Ends one's own grant.
///
/// # Errors
/// When it is not the caller's, or over.
pub async fn drop_grant(desk: &Desk, caller: &Caller, id: GrantId, now: Timestamp) -> Result<GrantSeen, AccessError> {
    let grant = grant_fetch(desk, caller, id, now).await?.grant;
    if !is_own(desk, caller, &grant).await? {
        return Err(AccessError::Denied("only its holder drops a grant; others revoke it".to_owned()));
    }
    end(desk, caller, id, GrantEnd::Dropped, None, now).await
}

/// Ends a grant: anyone's, where policy says so for the entitlement or the installation; one's own
/// always.
///
/// # Errors
/// When the caller may not, gives no reason, or it is over.
pub async fn revoke(
    desk: &Desk,
    caller: &Caller,
    id: GrantId,
    reason: &str,
    now: Timestamp,
) -> Result<GrantSeen, AccessError> {
    let reason = reason_of(reason)?;
    let grant = grant_fetch(desk, caller, id, now).await?.grant;
    let policies = desk.policies.load_full();
    let (action, name) = (EntitlementAction::Revoke, &grant.entitlement);
    let allowed = is_own(desk, caller, &grant).await?
        || may(desk, &policies, caller, action, name, now)
        || caller.may(desk, InstallationAction::Revoke, now);
    if !allowed {
        let told = format!("no policy lets you revoke `{name}`");
        return Err(not_allowed(desk, &policies, caller, action, name, now, told));
    }
    end(desk, caller, id, GrantEnd::Revoked, Some(&reason), now).await
}

/// Whether the caller holds it: of the jobs of one rule, those of the run that it was approved for.
async fn is_own(desk: &Desk, caller: &Caller, grant: &Grant) -> Result<bool, StoreError> {
    Ok(grant.holder.principal == *caller.principal() && run::is_of(desk, grant, &caller.session().claims).await?)
}

async fn end(
    desk: &Desk,
    caller: &Caller,
    id: GrantId,
    how: GrantEnd,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<GrantSeen, AccessError> {
    let mut tx = desk.store.begin().await?;
    close_extensions(desk, &mut tx, id, how, &caller.actor(), now.max(desk.clock.now())).await?;
    let grant = tx.grant_hold(id).await?.ok_or(AccessError::NotFound { what: "grant" })?;
    // Its end may have come while this waited for its turn.
    let now = now.max(desk.clock.now());
    // A use that the database has not been told of may keep it in force: what is not written down as over
    // for want of use can always be ended.
    let state = grant.state.at(now);
    let next = state
        .ended(how, now)
        .map_err(|_| AccessError::NotActive { state: state.name(), advice: "there is nothing to end" })?;
    let saved = tx.grant_save(&grant, next, reason).await?;
    let Some(saved) = saved else {
        drop(tx);
        return Err(AccessError::NotActive { state: "it changed meanwhile", advice: "look at it again" });
    };
    let kind = match how {
        GrantEnd::Dropped => EventType::GrantDropped,
        GrantEnd::Revoked => EventType::GrantRevoked,
        GrantEnd::Expired => EventType::GrantExpired,
    };
    let event = grant_event(desk, kind, caller.actor(), &saved, now);
    tx.event_append(&event.with("reason", reason)).await?;
    tell(&mut tx, &saved, now).await?;
    tx.commit().await?;
    desk.directory.grant_leave(&saved.holder.principal, saved.id);
    Ok(grant_seen(saved, now))
}

/// Whoever asked for more of a grant that is over waits for nothing any more: taken back with it by its
/// holder, else timed out. Before the grant is touched: whoever approves holds request, then grant, too.
pub(super) async fn close_extensions(
    desk: &Desk,
    tx: &mut Tx,
    grant: GrantId,
    how: GrantEnd,
    actor: &Actor,
    now: Timestamp,
) -> Result<(), AccessError> {
    let (state, kind) = match how {
        GrantEnd::Dropped => (RequestState::Withdrawn, EventType::RequestWithdrawn),
        GrantEnd::Revoked | GrantEnd::Expired => (RequestState::TimedOut, EventType::RequestTimedOut),
    };
    let policies = desk.policies.load_full();
    for closed in tx.access_request_close_extensions(grant, state, now).await? {
        write_down(desk, tx, &policies, &closed, now).await?;
        let event = request_event(desk, kind, actor.clone(), &closed, now).with("reason", "the grant is over");
        tx.event_append(&event).await?;
    }
    Ok(())
}

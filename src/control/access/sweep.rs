//! What time does to requests and grants: unanswered requests time out, scheduled and queued grants
//! begin, and what is over is written down as over.
//!
//! The truth is asked at each use; this only tidies up, on one node at a time. A request that has its approvals
//! again, since a lock was lifted say, is not granted here: `Seen::waits_for_a_word`.
//!
//! What happens when a node's policies do not let a grant begin that others' may: policies reach nodes one after
//! the other, and in more than one step, and what is ended stays so. The node leaves it alone, and its duty after
//! the round, so that one that has other policies looks at it; only where none has begun it within a bounded time
//! of its start (`UNFIT_MAX`, `UNKNOWN_MAX`) it is ended, with what is against it on record. Nothing is open
//! meanwhile: it is not active anywhere. What the database says, that its holder is locked, is so for all nodes
//! and ends it at once.

use std::collections::BTreeSet;

use crate::audit::{Actor, EventType};
use crate::model::{
    AccessRequest, EntitlementName, Grant, GrantEnd, GrantState, NodeId, RequestId, RequestState, Timestamp, Ttl,
};
use crate::policy::{Entitlement, PolicySet};
use crate::store::Tx;

use super::super::desk::Desk;
use super::activate::{has_place, tell};
use super::answer::stands;
use super::grant::close_extensions;
use super::rest::rested_within;
use super::standing::write_down;
use super::{AccessError, eligible, grant_event, known, opened, request_event};

/// Rows of each kind that are read at a time.
const BATCH: u32 = 100;
/// Pages of grants that one sweep looks at at most.
const PAGES_MAX: usize = 200;
/// How long a node has the duty before another may take it.
const DUTY: Ttl = Ttl::seconds(5);
/// How long a grant waits after its start for a holder of whom nothing is known any more: until they
/// sign in, nobody can say whether they may have it.
const ABSENT_MAX: Ttl = Ttl::hours(24);
/// How long a grant waits after its start for an entitlement that this node does not have: policies reach nodes
/// one after the other, and another one may have it.
const UNKNOWN_MAX: Ttl = Ttl::minutes(15);
/// How long a grant waits after its start where it may not begin by the policies of this node: another node may
/// have others already.
pub const UNFIT_MAX: Ttl = Ttl::minutes(5);
/// What the duty is called.
const DUTY_NAME: &str = "access";

/// What became of a grant that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tended {
    /// All that there is to do for now.
    Done,
    /// Nothing: a node with other policies may begin it.
    LeftToOthers,
}

/// One round; nothing while another node has the duty.
///
/// # Errors
/// When the database is away.
pub async fn round(desk: &Desk, node: NodeId, now: Timestamp) -> Result<(), AccessError> {
    // What is over by a clock that may be ahead is over at this node, and not written down for all.
    if desk.clock_guard.may_be_ahead() {
        return Ok(());
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    let believed = desk.clock_guard.check().is_ok();
    let overdue = desk.store.access_request_overdue(now, BATCH).await?;
    let mut due = desk.store.grant_list_due(None, BATCH, now).await?;
    // A node that would only leave all of them alone leaves the duty to one that would not.
    let policies = desk.policies.load_full();
    if overdue.is_empty() && due.iter().all(|grant| is_elsewhere(&policies, grant, now)) {
        return Ok(());
    }
    // A node that may begin nothing leaves the duty to one that may; what it ends is guarded anyway.
    if believed && !take_duty(desk, node, now).await? {
        return Ok(());
    }
    // One that can't be tended is told of, and keeps none of the others waiting.
    for request in overdue {
        if let Err(error) = time_out(desk, request.id, now).await {
            tracing::warn!(%error, request = %request.id, "a request that is overdue could not be closed");
        }
    }
    // Those that wait for a place keep none of the others waiting either, however many they are.
    let mut full: BTreeSet<EntitlementName> = BTreeSet::new();
    let mut leaves = false;
    for _ in 0..PAGES_MAX {
        for grant in &due {
            let unused = grant.idle.filter(|_| !matches!(grant.state.at(now), GrantState::Over { .. }));
            let unused = unused.map(|idle| format!("it was not used for {idle}"));
            let tended = match grant.state_at(now) {
                GrantState::Over { end, .. } => end_by_itself(desk, grant, end, unused.as_deref(), None, now).await,
                GrantState::Scheduled | GrantState::Queued if !believed => Ok(Tended::Done),
                GrantState::Queued if full.contains(&grant.entitlement) => Ok(Tended::Done),
                GrantState::Scheduled | GrantState::Queued => begin(desk, grant, &mut full, now).await,
                GrantState::Active { .. } => Ok(Tended::Done),
            };
            match tended {
                Ok(Tended::Done) => {}
                Ok(Tended::LeftToOthers) => leaves = true,
                Err(error) => {
                    tracing::warn!(%error, grant = %grant.id, "a grant that is due could not be tended");
                }
            }
        }
        let Some(last) = due.last().filter(|_| due.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX)) else {
            break;
        };
        due = desk.store.grant_list_due(Some(last), BATCH, now).await?;
    }
    if leaves {
        leave_duty(desk, node).await?;
    }
    Ok(())
}

async fn take_duty(desk: &Desk, node: NodeId, now: Timestamp) -> Result<bool, AccessError> {
    let mut tx = desk.store.begin().await?;
    let ours = tx.duty_take(DUTY_NAME, node, now.plus(DUTY), now).await?;
    tx.commit().await?;
    Ok(ours)
}

/// Lets another node have the next round. All look as often, so each of them comes before this one does again.
async fn leave_duty(desk: &Desk, node: NodeId) -> Result<(), AccessError> {
    let mut tx = desk.store.begin().await?;
    tx.duty_leave(DUTY_NAME, node).await?;
    tx.commit().await?;
    Ok(())
}

async fn time_out(desk: &Desk, id: RequestId, now: Timestamp) -> Result<(), AccessError> {
    let mut tx = desk.store.begin().await?;
    if let Some(closed) = tx.access_request_close(id, RequestState::TimedOut, None, now).await? {
        let policies = desk.policies.load_full();
        write_down(desk, &mut tx, &policies, &closed, now).await?;
        let event = request_event(desk, EventType::RequestTimedOut, Actor::default(), &closed, now);
        tx.event_append(&event).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Whether a grant that waits to begin is of an entitlement which this node does not have and another may.
fn is_elsewhere(policies: &PolicySet, grant: &Grant, now: Timestamp) -> bool {
    let waits = matches!(grant.state, GrantState::Scheduled | GrantState::Queued);
    waits && policies.entitlement(&grant.entitlement).is_none() && !grant.starts_at.plus(UNKNOWN_MAX).is_over(now)
}

/// Begins a grant that waited, if its holder may still have it and there is a place.
async fn begin(
    desk: &Desk,
    grant: &Grant,
    full: &mut BTreeSet<EntitlementName>,
    now: Timestamp,
) -> Result<Tended, AccessError> {
    let policies = desk.policies.load_full();
    let request = desk.store.access_request_fetch(grant.request).await?;
    if is_elsewhere(&policies, grant, now) {
        return Ok(Tended::LeftToOthers);
    }
    let (Some(request), Some(definition)) = (request, policies.entitlement(&grant.entitlement)) else {
        return end_by_itself(desk, grant, GrantEnd::Revoked, Some("the entitlement is gone"), None, now).await;
    };
    if known(desk, &request, now).await?.is_none() && !grant.starts_at.plus(ABSENT_MAX).is_over(now) {
        return Ok(Tended::Done);
    }
    if let Some(why) = unfit(desk, &policies, grant, &request, definition, now).await? {
        let locked = desk.store.lock_fetch(&request.requester.principal).await?.is_some();
        if !locked && !grant.starts_at.plus(UNFIT_MAX).is_over(now) {
            return Ok(Tended::LeftToOthers);
        }
        return end_by_itself(desk, grant, GrantEnd::Revoked, Some(&why), Some(&request), now).await;
    }
    let mut tx = desk.store.begin().await?;
    let rested = match request.emergency {
        true => None,
        false => rested_within(&mut tx, &policies, definition, &request.requester, Some(grant.id), now).await?,
    };
    let lead = definition.earliest_start.filter(|_| !request.emergency).map(|lead| request.created_at.plus(lead));
    if let Some(from) = rested.max(lead).filter(|from| !from.is_over(now)) {
        postpone(desk, tx, grant, from, now).await?;
        return Ok(Tended::Done);
    }
    let next = if has_place(&mut tx, definition, now).await? {
        grant.state.activated(grant.length, now).map_err(super::activate::stuck)?
    } else {
        full.insert(grant.entitlement.clone());
        GrantState::Queued
    };
    if next == grant.state {
        return Ok(Tended::Done);
    }
    let Some(saved) = tx.grant_save(grant, next, None).await? else { return Ok(Tended::Done) };
    if saved.state.is_active(now) {
        write_down(desk, &mut tx, &policies, &request, now).await?;
        tx.event_append(&grant_event(desk, EventType::GrantActive, Actor::default(), &saved, now)).await?;
        tell(&mut tx, &saved, now).await?;
    }
    tx.commit().await?;
    desk.directory.grant_enter(&saved);
    Ok(Tended::Done)
}

/// What is against a grant's beginning by the policies of this node, and what is known of its holder and approvers.
async fn unfit(
    desk: &Desk,
    policies: &PolicySet,
    grant: &Grant,
    request: &AccessRequest,
    definition: &Entitlement,
    now: Timestamp,
) -> Result<Option<String>, AccessError> {
    match eligible(desk, policies, request, now).await {
        Ok(()) => {}
        Err(AccessError::Ineligible(why)) => return Ok(Some(why)),
        Err(other) => return Err(other),
    }
    let changed = if opened(policies, &grant.entitlement).iter().any(|action| !grant.actions.contains(action)) {
        Some("the entitlement opens more than what was approved; ask anew")
    } else if (1..definition.approvals).contains(&request.approvals_needed) {
        Some("the entitlement needs more approvals than it had; ask anew")
    } else if grant.length > definition.max {
        Some("the entitlement is granted for less than what was approved; ask anew")
    } else if !stands(desk, policies, request, now).await? {
        Some("what approved it does not count any more; ask anew")
    } else {
        None
    };
    Ok(changed.map(str::to_owned))
}

/// It may begin later only: somebody held it meanwhile and has their break first, or the entitlement
/// wants more lead by now.
async fn postpone(desk: &Desk, mut tx: Tx, grant: &Grant, until: Timestamp, now: Timestamp) -> Result<(), AccessError> {
    let Some(saved) = tx.grant_postpone(grant.id, until).await? else { return Ok(()) };
    let event = grant_event(desk, EventType::GrantScheduled, Actor::default(), &saved, now);
    tx.event_append(&event.with("starts_at", until.to_string())).await?;
    tx.commit().await?;
    Ok(())
}

/// Ends a grant. `unbegun` is the request of one that may not begin, of which is kept what counts by then.
async fn end_by_itself(
    desk: &Desk,
    grant: &Grant,
    end: GrantEnd,
    why: Option<&str>,
    unbegun: Option<&AccessRequest>,
    now: Timestamp,
) -> Result<Tended, AccessError> {
    let next = match grant.state_at(now) {
        over @ GrantState::Over { .. } => over,
        open => open.ended(end, now).map_err(super::activate::stuck)?,
    };
    let mut tx = desk.store.begin().await?;
    close_extensions(desk, &mut tx, grant.id, end, &Actor::default(), now).await?;
    let Some(saved) = tx.grant_save(grant, next, why).await? else { return Ok(Tended::Done) };
    if let Some(request) = unbegun {
        let policies = desk.policies.load_full();
        write_down(desk, &mut tx, &policies, request, now).await?;
    }
    let kind = match end {
        GrantEnd::Expired => EventType::GrantExpired,
        GrantEnd::Revoked => EventType::GrantRevoked,
        GrantEnd::Dropped => EventType::GrantDropped,
    };
    tx.event_append(&grant_event(desk, kind, Actor::default(), &saved, now).with("reason", why)).await?;
    tell(&mut tx, &saved, now).await?;
    tx.commit().await?;
    desk.directory.grant_leave(&saved.holder.principal, saved.id);
    Ok(Tended::Done)
}

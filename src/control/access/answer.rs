//! What becomes of a request by somebody's word: an approver's, or the requester's own.

use crate::audit::EventType;
use crate::model::{AccessRequest, Answer, Approval, Circumstances, RequestId, RequestState, Timestamp};
use crate::policy::{EntitlementAction, PolicySet};
use crate::store::{StoreError, Tx};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::super::oauth::run;
use super::activate::grant_within;
use super::human::{Human, Shelf, human_of};
use super::standing::{is_enough, standing, write_down};
use super::view::{Seen, request_fetch, seen};
use super::{
    AccessError, eligible, hash_of, may, may_still, might, not_allowed, opened, person_of, reason_of, request_event,
};

/// Says yes to a request. `hash` is what was looked at; none: whatever it is now. With the last
/// approval that is needed the grant is made.
///
/// # Errors
/// When the caller may not, asked for it themself, has answered already, or the request is closed, is
/// not what was looked at, or may not be granted any more.
pub async fn approve(
    desk: &Desk,
    caller: &Caller,
    id: RequestId,
    hash: Option<&str>,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Seen, AccessError> {
    let policies = desk.policies.load_full();
    let reason = reason.map(reason_of).transpose()?;
    let (request, requester) = answerable(desk, &policies, caller, id, now).await?;
    let name = &request.entitlement;
    let definition = policies.entitlement(name).ok_or_else(|| AccessError::NoEntitlement(name.to_string()))?;
    eligible(desk, &policies, &request, now).await?;
    if request.length > definition.max {
        let (name, longest) = (&request.entitlement, definition.max);
        return Err(AccessError::Ineligible(format!("`{name}` is granted for {longest} at most by now; ask anew")));
    }

    let by = person_of(caller.session());
    let approver = human_of(Shelf::Store(&desk.store), &policies, &by, now).await?;
    let mut tx = desk.store.begin().await?;
    let Some((request, now)) = hold(desk, &mut tx, id, now).await? else {
        drop(tx);
        return Err(closed(desk, id, now).await?);
    };
    let actions = opened(&policies, &request.entitlement);
    let current = hash_of(&request, definition, &actions);
    let mut approvals_needed = request.approvals_needed;
    if current != request.hash {
        // What it opens, or its definition, changed since: what was approved before is void.
        let event = request_event(desk, EventType::RequestVoided, caller.actor(), &request, now);
        tx.event_append(&event.with("hash_now", current.as_str())).await?;
        approvals_needed = definition.approvals;
        tx.access_request_rebind(id, &current, &actions, approvals_needed).await?;
    }
    if hash.is_some_and(|hash| hash != current) {
        tx.commit().await?;
        return Err(AccessError::Changed { hash: current });
    }
    let request = AccessRequest { hash: current.clone(), actions, approvals_needed, ..request };
    let earlier = tx.access_approval_list(id).await?;
    let standing = standing(desk, Shelf::Tx(&mut tx), &policies, &request, &requester, &earlier, now).await?;
    let counted = || earlier.iter().zip(&standing).filter(|(_, counts)| **counts).map(|(approval, _)| approval);
    // Whose approval counts no more gives it anew. And where enough count already, since one that did not does
    // again, whoever comes next settles it.
    let (settled, again) = (is_enough(counted().count(), &request), counted().any(|it| approver.is(&it.by)));
    if again && !settled {
        return Err(AccessError::AnsweredAlready);
    }
    let void = earlier.iter().find(|approval| approval.by.principal == by.principal).map(|approval| approval.time);
    let approval = answer_of(caller, Answer::Approve, reason.clone(), current, now);
    if !tx.access_approval_insert(id, &approval, void).await? {
        return Err(AccessError::AnsweredAlready);
    }
    let event = request_event(desk, EventType::RequestApproved, caller.actor(), &request, now);
    tx.event_append(&event.with("answer_reason", reason)).await?;
    let grant = if settled || is_enough(counted().count() + 1, &request) {
        let (given, counts) = with_last(earlier, standing, &approver, approval);
        tx.access_approval_weigh(id, &given, &counts).await?;
        Some(grant_within(desk, &mut tx, &policies, &request, definition, &caller.actor(), now).await?.1)
    } else {
        None
    };
    tx.commit().await?;
    if let Some(grant) = &grant {
        // ORDER: after the commit and before the answer, so that an answer means that this node obeys.
        desk.directory.grant_enter(grant);
    }
    request_fetch(desk, caller, id, now).await
}

/// Says no to a request, which closes it.
///
/// # Errors
/// As [`approve`].
pub async fn deny(
    desk: &Desk,
    caller: &Caller,
    id: RequestId,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Seen, AccessError> {
    let policies = desk.policies.load_full();
    let reason = reason.map(reason_of).transpose()?;
    let (request, _) = answerable(desk, &policies, caller, id, now).await?;
    let mut tx = desk.store.begin().await?;
    let Some((_, now)) = hold(desk, &mut tx, id, now).await? else {
        drop(tx);
        return Err(closed(desk, id, now).await?);
    };
    let denied = tx.access_request_close(id, RequestState::Denied, None, now).await?;
    let denied = denied.ok_or(AccessError::Closed { state: RequestState::TimedOut.name() })?;
    let approval = answer_of(caller, Answer::Deny, reason.clone(), request.hash.clone(), now);
    if !tx.access_approval_insert(id, &approval, None).await? {
        return Err(AccessError::AnsweredAlready);
    }
    write_down(desk, &mut tx, &policies, &denied, now).await?;
    let event = request_event(desk, EventType::RequestDenied, caller.actor(), &denied, now);
    tx.event_append(&event.with("answer_reason", reason)).await?;
    tx.commit().await?;
    request_fetch(desk, caller, id, now).await
}

/// Whether the caller could answer what they see now: policy lets them, they did not ask for it, and they
/// have not approved it yet, or not so that it still counts.
///
/// # Errors
/// When the database is away.
pub async fn may_answer(desk: &Desk, caller: &Caller, seen: &Seen, now: Timestamp) -> Result<bool, StoreError> {
    let policies = desk.policies.load_full();
    let lets = may(desk, &policies, caller, EntitlementAction::Approve, &seen.request.entitlement, now);
    Ok(lets && is_for(desk, &policies, caller, seen, now).await?)
}

/// Whether the caller could answer what they see once they have signed in again, or can already.
///
/// # Errors
/// When the database is away.
pub async fn might_answer(desk: &Desk, caller: &Caller, seen: &Seen, now: Timestamp) -> Result<bool, StoreError> {
    let policies = desk.policies.load_full();
    let lets = might(desk, &policies, caller, EntitlementAction::Approve, &seen.request.entitlement, now);
    Ok(lets && is_for(desk, &policies, caller, seen, now).await?)
}

/// Whether it waits for somebody, and the caller is neither who asked nor among those who have approved it so that
/// it counts.
async fn is_for(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    seen: &Seen,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let request = &seen.request;
    if request.state_at(now) != RequestState::Pending {
        return Ok(false);
    }
    let me = human_of(Shelf::Store(&desk.store), policies, &person_of(caller.session()), now).await?;
    Ok(!me.is(&request.requester) && !seen.waits_for_others(&me))
}

/// Takes one's own request back.
///
/// # Errors
/// When it is not the caller's, or closed.
pub async fn withdraw(desk: &Desk, caller: &Caller, id: RequestId, now: Timestamp) -> Result<Seen, AccessError> {
    let found = request_fetch(desk, caller, id, now).await?;
    // Of the jobs of one rule, those of the run that asked.
    if found.request.requester.principal != *caller.principal()
        || !run::asked(desk, &found.request, &caller.session().claims).await?
    {
        return Err(AccessError::Denied("only who asked can take a request back; an approver denies it".to_owned()));
    }
    let mut tx = desk.store.begin().await?;
    let Some((_, now)) = hold(desk, &mut tx, id, now).await? else {
        drop(tx);
        return Err(closed(desk, id, now).await?);
    };
    let request = tx.access_request_close(id, RequestState::Withdrawn, None, now).await?;
    let request = request.ok_or(AccessError::Closed { state: RequestState::TimedOut.name() })?;
    let policies = desk.policies.load_full();
    write_down(desk, &mut tx, &policies, &request, now).await?;
    tx.event_append(&request_event(desk, EventType::RequestWithdrawn, caller.actor(), &request, now)).await?;
    tx.commit().await?;
    Ok(seen(desk, request, now).await?)
}

/// The request, if the caller may answer it, and whose it is.
async fn answerable(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    id: RequestId,
    now: Timestamp,
) -> Result<(AccessRequest, Human), AccessError> {
    let seen = request_fetch(desk, caller, id, now).await?;
    let request = &seen.request;
    let requester = human_of(Shelf::Store(&desk.store), policies, &request.requester, now).await?;
    if requester.is(&person_of(caller.session())) {
        return Err(AccessError::SelfApproval);
    }
    let (action, name) = (EntitlementAction::Approve, &request.entitlement);
    if !may(desk, policies, caller, action, name, now) {
        let told = format!("no policy lets you answer requests for `{name}`");
        return Err(not_allowed(desk, policies, caller, action, name, now, told));
    }
    match request.state_at(now) {
        RequestState::Pending => Ok((seen.request, requester)),
        _ => Err(seen.closed(now)),
    }
}

/// Whether a request that was approved is so still: by approvals that count, or by policy itself. In an
/// emergency nobody was asked.
pub(super) async fn stands(
    desk: &Desk,
    policies: &PolicySet,
    request: &AccessRequest,
    now: Timestamp,
) -> Result<bool, AccessError> {
    if request.emergency {
        return Ok(true);
    }
    if request.approvals_needed == 0 {
        // Like an approval, it is judged as of when it was given: a rule about the hour lets a night's work begin.
        let (action, at) = (EntitlementAction::AutoApprove, request.created_at);
        return Ok(may_still(desk, policies, request, action, at, now).await? == Some(true));
    }
    let mut tx = desk.store.begin().await?;
    let requester = human_of(Shelf::Tx(&mut tx), policies, &request.requester, now).await?;
    let given = tx.access_approval_list(request.id).await?;
    let standing = standing(desk, Shelf::Tx(&mut tx), policies, request, &requester, &given, now).await?;
    Ok(is_enough(standing.into_iter().filter(|counts| *counts).count(), request))
}

/// The caller's answer, with how they come.
fn answer_of(caller: &Caller, answer: Answer, reason: Option<String>, hash: String, time: Timestamp) -> Approval {
    let session = caller.session();
    let device = session.device.as_ref().map(|device| device.id.clone());
    let came = Circumstances { address: caller.connection().address, amr: session.amr.clone(), device };
    Approval { by: person_of(session), answer, reason, hash, time, came: Some(came), counted: None }
}

/// All answers once the approver's last is there, instead of what this account said before, and which of them
/// count: each human once, whichever of their accounts they come by.
fn with_last(
    earlier: Vec<Approval>,
    standing: Vec<bool>,
    approver: &Human,
    last: Approval,
) -> (Vec<Approval>, Vec<bool>) {
    let others = earlier.into_iter().zip(standing).filter(|(given, _)| given.by.principal != last.by.principal);
    let (mut given, mut counts): (Vec<Approval>, Vec<bool>) = others.unzip();
    let counts_already = given.iter().zip(&counts).any(|(other, counts)| *counts && approver.is(&other.by));
    given.push(last);
    counts.push(!counts_already);
    (given, counts)
}

/// The request, pending and untouched by others until the transaction ends, and what time it is by then:
/// whoever waited for others may have come too late.
async fn hold(
    desk: &Desk,
    tx: &mut Tx,
    id: RequestId,
    now: Timestamp,
) -> Result<Option<(AccessRequest, Timestamp)>, StoreError> {
    let held = tx.access_request_hold(id, now).await?;
    let now = now.max(desk.clock.now());
    Ok(held.filter(|request| request.state_at(now) == RequestState::Pending).map(|request| (request, now)))
}

/// Why a request could not be closed: somebody was first, or its time is over.
async fn closed(desk: &Desk, id: RequestId, now: Timestamp) -> Result<AccessError, StoreError> {
    let now = now.max(desk.clock.now());
    Ok(match desk.store.access_request_fetch(id).await? {
        None => AccessError::NotFound { what: "request" },
        Some(request) => seen(desk, request, now).await?.closed(now),
    })
}

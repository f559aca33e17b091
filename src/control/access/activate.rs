//! From an approved request to a grant, within the transaction that approved it.

use crate::audit::{Actor, EventType};
use crate::model::{AccessRequest, Grant, GrantId, GrantState, GrantStuck, Person, RequestState, Timestamp, Ttl};
use crate::policy::{Entitlement, PolicySet, WhenFull};
use crate::store::{RevocationKind, Tx};

use super::super::desk::Desk;
use super::rest::rested_within;
use super::{AccessError, grant_event};

/// Closes a pending request as approved, and makes what it asked for: a grant, or more of one. Nothing,
/// while the time of this node can't be believed.
pub(super) async fn grant_within(
    desk: &Desk,
    tx: &mut Tx,
    policies: &PolicySet,
    request: &AccessRequest,
    definition: &Entitlement,
    actor: &Actor,
    now: Timestamp,
) -> Result<(AccessRequest, Grant), AccessError> {
    desk.clock_guard.check()?;
    let grant = match request.extends {
        Some(id) => extend_within(desk, tx, request, definition, id, actor, now).await?,
        None => begin_within(desk, tx, policies, request, definition, actor, now).await?,
    };
    let closed = tx.access_request_close(request.id, RequestState::Approved, Some(grant.id), now).await?;
    let closed = closed.ok_or(AccessError::Closed { state: RequestState::Approved.name() })?;
    Ok((closed, grant))
}

async fn begin_within(
    desk: &Desk,
    tx: &mut Tx,
    policies: &PolicySet,
    request: &AccessRequest,
    definition: &Entitlement,
    actor: &Actor,
    now: Timestamp,
) -> Result<Grant, AccessError> {
    let mut starts_at = request.start.map_or(now, |start| start.max(now));
    // Whoever was granted it meanwhile has their break first. In an emergency there is none.
    if !request.emergency
        && let Some(rested) = rested_within(tx, policies, definition, &request.requester, None, now).await?
    {
        starts_at = starts_at.max(rested);
    }
    let waiting = if starts_at > now {
        Some(GrantState::Scheduled)
    } else if may_take_place(tx, request, definition, now).await? {
        None
    } else {
        match (definition.when_full, definition.capacity) {
            (WhenFull::Refuse, Some(capacity)) => {
                return Err(AccessError::Full { entitlement: request.entitlement.clone(), capacity });
            }
            _ => Some(GrantState::Queued),
        }
    };
    let state = match waiting {
        Some(state) => state,
        None => GrantState::Scheduled.activated(request.length, now).map_err(stuck)?,
    };
    let grant = Grant {
        id: GrantId::fresh(now, &*desk.entropy),
        request: request.id,
        entitlement: request.entitlement.clone(),
        holder: Person { ..request.requester.clone() },
        params: request.params.clone(),
        actions: request.actions.clone(),
        emergency: request.emergency,
        reviews: 0,
        created_at: now,
        starts_at,
        length: request.length,
        state,
        end_reason: None,
        idle: definition.idle,
        used_at: None,
    };
    tx.grant_insert(&grant).await?;
    let kind = if waiting.is_some() { EventType::GrantScheduled } else { EventType::GrantActive };
    tx.event_append(&grant_event(desk, kind, actor.clone(), &grant, now)).await?;
    tell(tx, &grant, now).await?;
    Ok(grant)
}

async fn extend_within(
    desk: &Desk,
    tx: &mut Tx,
    request: &AccessRequest,
    definition: &Entitlement,
    id: GrantId,
    actor: &Actor,
    now: Timestamp,
) -> Result<Grant, AccessError> {
    let grant = tx.grant_hold(id).await?.ok_or(AccessError::NotFound { what: "grant" })?;
    // Whoever had it until now may have had it until after its end.
    let now = now.max(desk.clock.now());
    // As written down: a use that the database has not been told of may keep it in force, and where
    // nobody used it a later end does not either.
    let next = grant.state.extended(request.length, now).map_err(stuck)?;
    // It was judged when it was asked for, but others may have been granted since, and the definition changed.
    if let Some(longest) = exceeded(definition, next) {
        let (name, length) = (&request.entitlement, request.length);
        return Err(AccessError::Ineligible(format!(
            "`{name}` may last {longest} in all, and with {length} more the grant would last longer by now; deny it, \
             so that its holder asks for less or anew"
        )));
    }
    let saved = tx.grant_save(&grant, next, None).await?;
    let saved = saved.ok_or_else(|| AccessError::NotActive { state: grant.state.at(now).name(), advice: ASK_ANEW })?;
    tx.event_append(&grant_event(desk, EventType::GrantExtended, actor.clone(), &saved, now)).await?;
    tell(tx, &saved, now).await?;
    Ok(saved)
}

/// What the entitlement may last in all, where a grant that goes on like that would last longer.
pub(super) fn exceeded(definition: &Entitlement, next: GrantState) -> Option<Ttl> {
    let (from, until, longest) = (next.active_at()?, next.expires_at()?, definition.extended_max?);
    (until.since(from) > longest).then_some(longest)
}

/// Whether a request that is granted now may take a place: those who wait for one already are before it,
/// but in an emergency.
async fn may_take_place(
    tx: &mut Tx,
    request: &AccessRequest,
    definition: &Entitlement,
    now: Timestamp,
) -> Result<bool, AccessError> {
    let Some(capacity) = definition.capacity else { return Ok(true) };
    if request.emergency {
        return has_place(tx, definition, now).await;
    }
    let (held, queued) =
        (tx.grant_count_held(&definition.name, now).await?, tx.grant_count_queued(&definition.name).await?);
    Ok(held + queued < i64::from(capacity))
}

/// Whether one more may hold the entitlement. Nobody else counts until the transaction ends.
pub(super) async fn has_place(tx: &mut Tx, definition: &Entitlement, now: Timestamp) -> Result<bool, AccessError> {
    let Some(capacity) = definition.capacity else { return Ok(true) };
    Ok(tx.grant_count_held(&definition.name, now).await? < i64::from(capacity))
}

/// Tells all nodes, once the transaction has committed.
pub(super) async fn tell(tx: &mut Tx, grant: &Grant, now: Timestamp) -> Result<(), AccessError> {
    tx.revocation_append(RevocationKind::GrantChanged, &grant.id.to_string(), now).await?;
    Ok(())
}

/// What whoever wanted more of a grant does that has none.
const ASK_ANEW: &str = "ask anew";

pub(super) fn stuck(why: GrantStuck) -> AccessError {
    let state = match why {
        GrantStuck::Over => "it is over",
        GrantStuck::Active => "it is active already",
        GrantStuck::NotActive => "it has not begun",
    };
    AccessError::NotActive { state, advice: ASK_ANEW }
}

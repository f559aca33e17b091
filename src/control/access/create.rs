//! Asking for an entitlement.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::audit::EventType;
use crate::model::{
    AccessRequest, EntitlementName, Grant, GrantId, GrantState, OpenedAction, Person, RequestId, RequestState, Session,
    Timestamp, Ttl,
};
use crate::policy::{Entitlement, EntitlementAction, PARAMETER_CHARS_MAX, PolicySet};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::activate::{exceeded, grant_within};
use super::approvers::approvers;
use super::rest::start_of;
use super::{AccessError, hash_of, may, opened, person_of, reads_as_is, reason_of, request_event, session_may};

/// The longest ticket in characters.
const TICKET_CHARS_MAX: usize = 200;
/// A start that was so long ago when it arrived is still "at once": clocks and networks differ.
const START_LATE_MAX: Ttl = Ttl::minutes(1);
/// The longest that an extension waits for its answers, if its grant lasts so long.
const EXTENSION_ANSWER_WITHIN: Ttl = Ttl::hours(24);

/// What somebody asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What.
    pub entitlement: EntitlementName,
    /// Why.
    pub reason: Option<String>,
    /// The ticket that it belongs to.
    pub ticket: Option<String>,
    /// How long; else the entitlement's default.
    pub length: Option<Ttl>,
    /// When it is to begin.
    pub start: Option<Timestamp>,
    /// What the entitlement asks beyond a reason.
    pub params: BTreeMap<String, String>,
    /// That it can't wait for approvals.
    pub emergency: bool,
}

/// What a request would take.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The entitlement.
    pub entitlement: EntitlementName,
    /// How long it would be granted.
    pub length: Ttl,
    /// When it would begin; none: at once.
    pub start: Option<Timestamp>,
    /// How many must approve; none where policy approves, or in an emergency.
    pub approvals_needed: u32,
    /// Who, of those that have signed in lately, could.
    pub approvers: Vec<Person>,
    /// The actions that it opens.
    pub actions: Vec<OpenedAction>,
    /// A grant ends when it is not used for so long.
    pub idle: Option<Ttl>,
    /// A grant begins so long after its request at the earliest, but in an emergency.
    pub earliest_start: Option<Ttl>,
    /// So long after a grant it is not held again, but in an emergency.
    pub break_after: Option<Ttl>,
}

/// A request that fits its entitlement.
struct Fitting {
    reason: String,
    ticket: Option<String>,
    length: Ttl,
    start: Option<Timestamp>,
}

/// Says what a request would take, and enters nothing.
///
/// # Errors
/// What [`create`] would refuse.
pub async fn plan(desk: &Desk, caller: &Caller, asked: &Asked, now: Timestamp) -> Result<Planned, AccessError> {
    let policies = desk.policies.load_full();
    let (requester, address) = (person_of(caller.session()), caller.connection().address);
    let definition = asked_for(desk, &policies, caller.session(), address, &asked.entitlement, now)?;
    let fitting = timed(desk, &policies, &requester, definition, asked, now).await?;
    let approvals_needed = approvals_needed(desk, &policies, caller, definition, asked.emergency, now);
    let approvers = approvers(desk, &policies, &requester, &asked.entitlement, &caller.ambient(now), now).await?;
    Ok(Planned {
        entitlement: asked.entitlement.clone(),
        length: fitting.length,
        start: fitting.start,
        approvals_needed,
        approvers,
        actions: opened(&policies, &asked.entitlement),
        idle: definition.idle,
        // Neither counts in an emergency.
        earliest_start: definition.earliest_start.filter(|_| !asked.emergency),
        break_after: definition.break_after.filter(|_| !asked.emergency),
    })
}

/// How many must approve it if the caller asks for it now; none where policy approves by itself.
#[must_use]
pub fn approvals_wanted(desk: &Desk, caller: &Caller, definition: &Entitlement, now: Timestamp) -> u32 {
    approvals_needed(desk, &desk.policies.load(), caller, definition, false, now)
}

/// Looks at what somebody of this session, which need not have begun, would ask for from there; enters nothing.
///
/// # Errors
/// What [`create`] would refuse.
pub async fn check(
    desk: &Desk,
    session: &Session,
    address: IpAddr,
    asked: &Asked,
    now: Timestamp,
) -> Result<(), AccessError> {
    let policies = desk.policies.load_full();
    let definition = asked_for(desk, &policies, session, address, &asked.entitlement, now)?;
    timed(desk, &policies, &person_of(session), definition, asked, now).await?;
    Ok(())
}

/// Enters a request. Where policy approves by itself, and in an emergency, it is granted at once.
///
/// # Errors
/// When the entitlement does not exist, the caller may not ask for it, or the request does not fit
/// what it demands.
pub async fn create(
    desk: &Desk,
    caller: &Caller,
    asked: &Asked,
    now: Timestamp,
) -> Result<(AccessRequest, Option<Grant>), AccessError> {
    let policies = desk.policies.load_full();
    let (requester, address) = (person_of(caller.session()), caller.connection().address);
    let definition = asked_for(desk, &policies, caller.session(), address, &asked.entitlement, now)?;
    let fitting = timed(desk, &policies, &requester, definition, asked, now).await?;
    let approvals_needed = approvals_needed(desk, &policies, caller, definition, asked.emergency, now);
    let answer_by = now.plus(definition.answer_within);
    let request = draft(caller, asked, fitting, approvals_needed, None, answer_by, now, desk);
    enter(desk, &policies, caller, definition, request, now).await
}

/// Asks for more of a grant, which would go on as `next`: the same approvals, and nothing is interrupted
/// meanwhile.
pub(super) async fn create_extension(
    desk: &Desk,
    caller: &Caller,
    grant: &Grant,
    first: &AccessRequest,
    length: Ttl,
    next: GrantState,
    now: Timestamp,
) -> Result<(AccessRequest, Option<Grant>), AccessError> {
    let policies = desk.policies.load_full();
    let address = caller.connection().address;
    let definition = asked_for(desk, &policies, caller.session(), address, &grant.entitlement, now)?;
    if let Some(longest) = exceeded(definition, next) {
        let name = &grant.entitlement;
        return Err(AccessError::Invalid(format!(
            "`{name}` may last {longest} in all, and with {length} more this grant would last longer; ask for less, or \
             drop it and ask anew"
        )));
    }
    let asked = Asked {
        entitlement: grant.entitlement.clone(),
        reason: Some(first.reason.clone()).filter(|reason| !reason.is_empty()),
        ticket: first.ticket.clone(),
        length: Some(length),
        start: None,
        params: grant.params.clone(),
        emergency: false,
    };
    let fitting = fitting(definition, &asked, now)?;
    let approvals_needed = approvals_needed(desk, &policies, caller, definition, false, now);
    let answer_by = now.plus(definition.answer_within.min(EXTENSION_ANSWER_WITHIN));
    // Once the grant is over there is nothing to extend.
    let answer_by = grant.state_at(now).expires_at().map_or(answer_by, |end| answer_by.min(end));
    let request = draft(caller, &asked, fitting, approvals_needed, Some(grant.id), answer_by, now, desk);
    enter(desk, &policies, caller, definition, request, now).await
}

#[expect(clippy::too_many_arguments, reason = "each is one part of the request")]
fn draft(
    caller: &Caller,
    asked: &Asked,
    fitting: Fitting,
    approvals_needed: u32,
    extends: Option<GrantId>,
    answer_by: Timestamp,
    now: Timestamp,
    desk: &Desk,
) -> AccessRequest {
    AccessRequest {
        id: RequestId::fresh(now, &*desk.entropy),
        entitlement: asked.entitlement.clone(),
        requester: person_of(caller.session()),
        session: caller.session().id,
        address: caller.connection().address,
        reason: fitting.reason,
        ticket: fitting.ticket,
        // What is left empty is not given: it would bind the grant to a value that nothing has.
        params: asked.params.clone().into_iter().filter(|(_, value)| !value.trim().is_empty()).collect(),
        length: fitting.length,
        start: fitting.start,
        emergency: asked.emergency,
        extends,
        hash: String::new(),
        actions: Vec::new(),
        approvals_needed,
        state: RequestState::Pending,
        created_at: now,
        answer_by,
        closed_at: None,
        grant: None,
    }
}

async fn enter(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    definition: &Entitlement,
    mut request: AccessRequest,
    now: Timestamp,
) -> Result<(AccessRequest, Option<Grant>), AccessError> {
    request.actions = opened(policies, &request.entitlement);
    request.hash = hash_of(&request, definition, &request.actions);
    let mut created = request_event(desk, EventType::RequestCreated, caller.actor(), &request, now);
    if request.emergency {
        // Whoever was passed over is told by `notify`; here is how many they are.
        let ambient = caller.ambient(now);
        let skipped = approvers(desk, policies, &request.requester, &request.entitlement, &ambient, now).await?;
        created = created.with("approvers_skipped", skipped.len()).with("approvals_skipped", definition.approvals);
    }
    let mut tx = desk.store.begin().await?;
    // What is granted at once is so from when its turn came: a grant may have ended meanwhile.
    let now = now.max(desk.clock.now());
    tx.access_request_insert(&request).await?;
    tx.event_append(&created).await?;
    if request.approvals_needed > 0 {
        tx.commit().await?;
        return Ok((request, None));
    }
    let (closed, grant) = grant_within(desk, &mut tx, policies, &request, definition, &caller.actor(), now).await?;
    tx.commit().await?;
    // ORDER: after the commit and before the answer, so that an answer means that this node obeys.
    desk.directory.grant_enter(&grant);
    Ok((closed, Some(grant)))
}

/// The definition of what is asked for, if whoever comes from there in this session may ask for it.
fn asked_for<'p>(
    desk: &Desk,
    policies: &'p PolicySet,
    session: &Session,
    address: IpAddr,
    name: &EntitlementName,
    now: Timestamp,
) -> Result<&'p Entitlement, AccessError> {
    let definition = policies.entitlement(name).ok_or_else(|| AccessError::NoEntitlement(name.to_string()))?;
    if !session_may(desk, policies, session, address, EntitlementAction::Request, name, now) {
        return Err(AccessError::Denied(format!("no policy lets you ask for `{name}`")));
    }
    Ok(definition)
}

fn approvals_needed(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    definition: &Entitlement,
    emergency: bool,
    now: Timestamp,
) -> u32 {
    let by_itself = emergency || may(desk, policies, caller, EntitlementAction::AutoApprove, &definition.name, now);
    if by_itself { 0 } else { definition.approvals }
}

/// As [`fitting`], and it may begin then.
async fn timed(
    desk: &Desk,
    policies: &PolicySet,
    requester: &Person,
    definition: &Entitlement,
    asked: &Asked,
    now: Timestamp,
) -> Result<Fitting, AccessError> {
    let fitting = fitting(definition, asked, now)?;
    let start = start_of(desk, policies, definition, requester, asked, fitting.start, now).await?;
    Ok(Fitting { start, ..fitting })
}

/// Compares what is asked with what the entitlement demands.
fn fitting(definition: &Entitlement, asked: &Asked, now: Timestamp) -> Result<Fitting, AccessError> {
    let invalid = |text: String| Err(AccessError::Invalid(text));
    let name = &definition.name;
    let reason = match asked.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()) {
        Some(reason) => reason_of(reason)?,
        None if definition.reason_required => return invalid(format!("`{name}` wants a reason: `--reason TEXT`")),
        None => String::new(),
    };
    let ticket = asked.ticket.as_deref().map(str::trim).filter(|ticket| !ticket.is_empty()).map(str::to_owned);
    if ticket.as_ref().is_some_and(|ticket| ticket.chars().count() > TICKET_CHARS_MAX) {
        return invalid(format!("a ticket has at most {TICKET_CHARS_MAX} characters"));
    }
    reads_as_is("ticket", ticket.as_deref().unwrap_or_default())?;
    if let Some(pattern) = &definition.ticket {
        match &ticket {
            None => return invalid(format!("`{name}` wants a ticket like `{}`: `--ticket TICKET`", pattern.as_str())),
            Some(ticket) if !pattern.matches(ticket) => {
                return invalid(format!(
                    "the ticket `{}` is not of the form `{}` that `{name}` wants",
                    ticket.escape_debug(),
                    pattern.as_str()
                ));
            }
            Some(_) => {}
        }
    }
    let longest = match (asked.emergency, definition.emergency_max) {
        (true, None) => {
            return invalid(format!(
                "`{name}` does not allow an emergency to skip approvals; ask without `--emergency`"
            ));
        }
        (true, Some(longest)) => longest.min(definition.max),
        (false, _) => definition.max,
    };
    let length = asked.length.unwrap_or_else(|| definition.default.min(longest));
    if length < definition.min || length > longest {
        return invalid(format!("`{name}` is granted for {} to {longest}, not for {length}", definition.min));
    }
    if let Some(start) = asked.start {
        if start.plus(START_LATE_MAX) < now {
            return invalid(format!("the start {start} is over; leave it out to begin at once"));
        }
        if start > now.plus(definition.scheduled_max) {
            return invalid(format!("`{name}` may be scheduled at most {} ahead", definition.scheduled_max));
        }
        if asked.emergency {
            return invalid("an emergency begins now; leave out the start".to_owned());
        }
    }
    fitting_params(definition, &asked.params)?;
    Ok(Fitting { reason, ticket, length, start: asked.start.filter(|start| !start.is_over(now)) })
}

fn fitting_params(definition: &Entitlement, params: &BTreeMap<String, String>) -> Result<(), AccessError> {
    let name = &definition.name;
    for (key, value) in params {
        let Some(rule) = definition.parameters.get(key) else {
            return Err(AccessError::Invalid(format!("`{name}` has no parameter `{}`", key.escape_debug())));
        };
        if value.chars().count() > PARAMETER_CHARS_MAX {
            return Err(AccessError::Invalid(format!("`{key}` has at most {PARAMETER_CHARS_MAX} characters")));
        }
        reads_as_is(key, value)?;
        if !rule.values.is_empty() && !rule.values.contains(value) {
            return Err(AccessError::Invalid(format!(
                "`{key}` can't be `{}`; it is one of {}",
                value.escape_debug(),
                rule.values.join(", ")
            )));
        }
    }
    let given = |key: &String| params.get(key).is_some_and(|value| !value.trim().is_empty());
    match definition.parameters.iter().find(|(key, rule)| rule.required && !given(key)) {
        Some((key, _)) => Err(AccessError::Invalid(format!("`{name}` wants `{key}`: `--param {key}=VALUE`"))),
        None => Ok(()),
    }
}

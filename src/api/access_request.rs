//! `requests`, `requests/{id}`, `requests/{id}/approvals`, `requests/{id}/withdraw`.

use std::sync::Arc;

use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;

use crate::control::Desk;
use crate::control::access::{self, AccessError, Asked, Whose};
use crate::model::{EntitlementName, RequestId, Ttl};
use crate::wire::{Answer, NewAccessRequest, NewApproval, Nothing, Page};

use super::answer::ApiError;
use super::caller::Proven;
use super::decided::{Trail, answered, json};
use super::fields::{Fields, Json};
use super::paging::{cursor, limit};
use super::shape;

/// As much of what is no name as an answer repeats.
const NAME_CHARS_SHOWN: usize = 80;
/// The states that a list can be narrowed to.
const STATES: &[&str] = &[
    "pending",
    "approved",
    "scheduled",
    "active",
    "expired",
    "revoked",
    "dropped",
    "denied",
    "withdrawn",
    "timed_out",
];

/// `?mine|to_approve|all=true&state=…&cursor=…&limit=…`
pub async fn list(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let fields = Fields::of_list(query.as_deref(), &["mine", "to_approve", "all", "state", "cursor", "limit"])?;
    let whose = whose(&fields, &["mine", "to_approve", "all"])?;
    let state = fields.get("state");
    if state.is_some_and(|state| !STATES.contains(&state)) {
        return Err(ApiError::Invalid(format!("`state` is one of {}", STATES.join(", "))));
    }
    let before = cursor(&fields, RequestId::parse)?;
    let limit = limit(&fields)?;
    let (found, next) = access::request_list(&desk, &caller, whose, state, before, limit, now).await?;
    let policies = desk.policies.load();
    let items = found.iter().map(|seen| shape::access_request(&policies, seen)).collect();
    Ok(answered(&Page { items, next: next.map(|id| id.to_string()) }))
}

/// Which of these one `true` names; none: one's own.
pub(super) fn whose(fields: &Fields, names: &[&str]) -> Result<Whose, ApiError> {
    let mut chosen = Vec::new();
    for name in names {
        match fields.get(name) {
            None | Some("false") => {}
            Some("true") => chosen.push(*name),
            Some(_) => return Err(ApiError::Invalid(format!("`{name}` is `true` or `false`"))),
        }
    }
    match chosen.as_slice() {
        [] | ["mine"] => Ok(Whose::Own),
        ["to_approve"] => Ok(Whose::ToApprove),
        ["all"] => Ok(Whose::All),
        _ => Err(ApiError::Invalid(format!("only one of {} can be `true`", names.join(", ")))),
    }
}

/// Reads a length of time that somebody asks for.
pub(super) fn length(text: &str) -> Result<Ttl, AccessError> {
    let wrong = "in `for`: a length of time is written `90s`, `15m`, `1h30m` or `1d`";
    Ttl::parse(text).ok_or_else(|| AccessError::Invalid(wrong.to_owned()))
}

/// Which entitlement a body asks for. What can't be a name names none.
pub(super) fn entitlement(body: &NewAccessRequest) -> Result<EntitlementName, AccessError> {
    let shown = || body.entitlement.chars().take(NAME_CHARS_SHOWN).collect();
    EntitlementName::parse(&body.entitlement).map_err(|_| AccessError::NoEntitlement(shown()))
}

/// What a body asks of an entitlement.
pub(super) fn asked(entitlement: EntitlementName, body: NewAccessRequest) -> Result<Asked, AccessError> {
    Ok(Asked {
        entitlement,
        reason: body.reason,
        ticket: body.ticket,
        length: body.length.as_deref().map(length).transpose()?,
        start: body.start.map(Into::into),
        params: body.params,
        emergency: body.emergency,
    })
}

/// Asks for an entitlement, or with `dry_run` what it would take.
pub async fn create(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Extension(trail): Extension<Trail>,
    Json(body): Json<NewAccessRequest>,
) -> Result<Response, ApiError> {
    let entitlement = entitlement(&body)?;
    trail.about("request", format!("Entitlement::\"{entitlement}\""));
    let dry_run = body.dry_run;
    let asked = asked(entitlement, body)?;
    if dry_run {
        let plan = access::plan(&desk, &caller, &asked, now).await?;
        return Ok(answered(&shape::dry_run(&plan)));
    }
    let (request, _) = access::create(&desk, &caller, &asked, now).await?;
    let seen = access::request_fetch(&desk, &caller, request.id, now).await?;
    Ok(json(StatusCode::CREATED, "application/json", &shape::access_request(&desk.policies.load(), &seen)))
}

fn id_of(text: &str) -> Result<RequestId, ApiError> {
    // What can't be an id names no request.
    RequestId::parse(text).map_err(|_| AccessError::NotFound { what: "request" }.into())
}

/// One request.
pub async fn fetch(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let seen = access::request_fetch(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape::access_request(&desk.policies.load(), &seen)))
}

/// What approvers answered.
pub async fn approvals(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let seen = access::request_fetch(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&Page::whole(seen.approvals.iter().map(shape::approval).collect())))
}

/// Approves or denies.
pub async fn answer(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(body): Json<NewApproval>,
) -> Result<Response, ApiError> {
    let (id, reason) = (id_of(&id)?, body.reason.as_deref());
    let seen = match body.answer {
        Answer::Approve => access::approve(&desk, &caller, id, body.hash.as_deref(), reason, now).await?,
        Answer::Deny => access::deny(&desk, &caller, id, reason, now).await?,
    };
    Ok(answered(&shape::access_request(&desk.policies.load(), &seen)))
}

/// Takes back a request of the caller's own.
pub async fn withdraw(
    State(desk): State<Arc<Desk>>,
    Proven { caller, now }: Proven,
    Path(id): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Result<Response, ApiError> {
    let seen = access::withdraw(&desk, &caller, id_of(&id)?, now).await?;
    Ok(answered(&shape::access_request(&desk.policies.load(), &seen)))
}

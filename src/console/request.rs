//! `/requests`: what one asked for and what waits for one's answer; one request, whole, and the forms
//! that answer it, take it back, or give back what it gave.
//!
//! INVARIANT: an approval names the hash of what its page showed, so that what is approved is what was
//! looked at; where it changed meanwhile it is refused.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Request, State};
use axum::response::Response;

use crate::control::access::{self, AccessError, ApprovalSeen, Seen, Whose};
use crate::control::{Caller, Desk};
use crate::model::{Answer, GrantId, Person, RequestId, RequestState, Timestamp, Ttl};
use crate::policy::PolicySet;

use super::form::Fields;
use super::page::{moment, render, see_other};
use super::refusal::PageError;
use super::visit::{Visit, Visitor};

/// Requests on one list.
const LIST_MAX: usize = 25;

/// One request in a list.
struct RequestLine {
    id: String,
    entitlement: String,
    who: String,
    state: &'static str,
    length: String,
    left: String,
    reason: String,
    emergency: bool,
}

/// `/requests`
#[derive(Template)]
#[template(path = "requests.html", config = "src/console/askama.toml")]
struct RequestsPage {
    waiting: Vec<RequestLine>,
    own: Vec<RequestLine>,
    /// Where older ones of one's own are.
    older: Option<String>,
}

/// One answer to a request.
struct AnswerLine {
    verb: &'static str,
    who: String,
    at: String,
    reason: Option<String>,
}

/// `/requests/{id}`
#[derive(Template)]
#[template(path = "request.html", config = "src/console/askama.toml")]
struct RequestPage {
    id: String,
    state: &'static str,
    left: String,
    entitlement: String,
    description: String,
    who: String,
    principal: String,
    reason: String,
    ticket: Option<String>,
    params: Vec<(String, String)>,
    length: String,
    start: Option<String>,
    emergency: bool,
    extends: Option<String>,
    asked_at: String,
    answer_by: Option<String>,
    routes: Vec<String>,
    actions: Vec<String>,
    first_time: bool,
    lately: i64,
    outside_hours: bool,
    approvals: usize,
    approvals_needed: u32,
    /// Whether it has them all, and somebody still has to say so.
    waits_for_a_word: bool,
    answers: Vec<AnswerLine>,
    grant: Option<String>,
    ends: Option<String>,
    hash: String,
    /// Whether the visitor may answer it now.
    may_answer: bool,
    /// Why not, where that is worth a word.
    why_not: Option<&'static str>,
    may_withdraw: bool,
    /// The grant that the visitor may give back.
    droppable: Option<String>,
    form_token: String,
}

fn refused(visitor: &Visitor) -> impl Fn(AccessError) -> PageError + use<> {
    let actor = visitor.caller.actor();
    move |error| PageError::Access(Box::new((error, actor.clone())))
}

/// What people call somebody.
fn called(person: &Person) -> String {
    let named = person.name.as_deref().or(person.email.as_deref());
    named.map_or_else(|| person.principal.subject().to_owned(), str::to_owned)
}

/// How long it is until then, for people: to the minute, where there is more than one.
fn left(until: Timestamp, now: Timestamp) -> String {
    let seconds = until.since(now).as_seconds();
    let rounded = if seconds >= 60 { seconds / 60 * 60 } else { seconds };
    Ttl::seconds(u32::try_from(rounded).unwrap_or(u32::MAX)).to_string()
}

fn time_left(seen: &Seen, now: Timestamp) -> String {
    let end = seen.grant.as_ref().and_then(|grant| grant.state.expires_at());
    match (seen.state, end) {
        ("pending", _) => format!("{} left to answer", left(seen.request.answer_by, now)),
        ("active", Some(end)) => format!("{} left", left(end, now)),
        _ => String::new(),
    }
}

fn line(seen: &Seen, now: Timestamp) -> RequestLine {
    let request = &seen.request;
    RequestLine {
        id: request.id.to_string(),
        entitlement: request.entitlement.to_string(),
        who: called(&request.requester),
        state: seen.state,
        length: request.length.to_string(),
        left: time_left(seen, now),
        reason: request.reason.clone(),
        emergency: request.emergency,
    }
}

/// `GET /requests[?before]`
pub async fn list(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let visitor = visit.visitor(&desk).await?;
    let (caller, now) = (&visitor.caller, visit.now);
    let before = match visit.query.get("before") {
        None => None,
        Some(id) => {
            Some(RequestId::parse(id).map_err(|_| PageError::Invalid("the link to older requests is not whole"))?)
        }
    };
    let wrong = refused(&visitor);
    let waiting = access::request_list(&desk, caller, Whose::ToApprove, None, None, LIST_MAX, now);
    let (waiting, _) = waiting.await.map_err(&wrong)?;
    let own = access::request_list(&desk, caller, Whose::Own, None, before, LIST_MAX, now);
    let (own, next) = own.await.map_err(&wrong)?;
    Ok(render(&RequestsPage {
        waiting: waiting.iter().map(|seen| line(seen, now)).collect(),
        own: own.iter().map(|seen| line(seen, now)).collect(),
        older: next.map(|id| id.to_string()),
    }))
}

fn id_of(text: &str) -> Result<RequestId, PageError> {
    // What can't be an id names no request.
    RequestId::parse(text).map_err(|_| PageError::NotFound("there is no such request"))
}

/// `GET /requests/{id}`
pub async fn show(State(desk): State<Arc<Desk>>, visit: Visit, Path(id): Path<String>) -> Result<Response, PageError> {
    let visitor = visit.visitor(&desk).await?;
    let id = id_of(&id)?;
    let seen = access::request_fetch(&desk, &visitor.caller, id, visit.now).await.map_err(refused(&visitor))?;
    let may_answer = access::may_answer(&desk, &visitor.caller, &seen, visit.now).await?;
    Ok(render(&page(&desk, visitor, &seen, may_answer, visit.now)))
}

fn page(desk: &Desk, visitor: Visitor, seen: &Seen, may_answer: bool, now: Timestamp) -> RequestPage {
    let Visitor { caller, form_token } = visitor;
    let policies = desk.policies.load();
    let request = &seen.request;
    let own = request.requester.principal == *caller.principal();
    let pending = request.state_at(now) == RequestState::Pending;
    let active = seen.grant.as_ref().filter(|grant| own && grant.state.is_active(now));
    let waits = matches!(seen.state, "pending" | "approved" | "scheduled");
    RequestPage {
        id: request.id.to_string(),
        state: seen.state,
        left: time_left(seen, now),
        entitlement: request.entitlement.to_string(),
        description: policies.entitlement(&request.entitlement).map(|it| it.description.clone()).unwrap_or_default(),
        who: called(&request.requester),
        principal: request.requester.principal.to_string(),
        reason: request.reason.clone(),
        ticket: request.ticket.clone(),
        params: request.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        length: request.length.to_string(),
        start: request.start.map(moment),
        emergency: request.emergency,
        extends: request.extends.map(|id| id.to_string()),
        asked_at: moment(request.created_at),
        answer_by: pending.then(|| moment(request.answer_by)),
        routes: routes(&policies, seen),
        actions: request.actions.iter().map(ToString::to_string).collect(),
        first_time: seen.first_time,
        lately: seen.held_lately,
        outside_hours: policies
            .service(request.entitlement.service())
            .is_none_or(|service| !service.is_at_work(request.created_at)),
        approvals: seen.approved(),
        approvals_needed: request.approvals_needed,
        waits_for_a_word: seen.waits_for_a_word(),
        answers: seen
            .approvals
            .iter()
            .map(|ApprovalSeen { approval, counts }| AnswerLine {
                verb: match approval.answer {
                    Answer::Approve if approval.hash != request.hash => "approved what it was before",
                    Answer::Approve if !counts && waits => "approved, but doesn't count any more",
                    Answer::Approve if !counts => "approved, but did not count",
                    Answer::Approve => "approved",
                    Answer::Deny => "denied",
                },
                who: called(&approval.by),
                at: moment(approval.time),
                reason: approval.reason.clone(),
            })
            .collect(),
        grant: request.grant.map(|id| id.to_string()),
        ends: seen.grant.as_ref().and_then(|grant| grant.state.expires_at()).map(moment),
        hash: request.hash.clone(),
        may_answer,
        why_not: match (pending, own, may_answer) {
            (true, true, _) => Some("Somebody else answers it: nobody answers what they asked for themselves."),
            (true, false, false) => Some("You can't answer it: you have already, or no policy lets you."),
            _ => None,
        },
        may_withdraw: pending && own,
        droppable: active.map(|grant| grant.id.to_string()),
        form_token,
    }
}

/// The routes that it opens.
fn routes(policies: &PolicySet, seen: &Seen) -> Vec<String> {
    let request = &seen.request;
    let Some(service) = policies.service(request.entitlement.service()) else { return Vec::new() };
    let home = request.entitlement.service();
    let opens =
        |route: &&crate::policy::Route| request.actions.iter().any(|opened| opened.is(home, home, &route.action));
    service.routes().iter().filter(opens).map(|route| route.template.to_string()).collect()
}

/// Whose form it is, and the form.
async fn form(desk: &Desk, visit: &Visit, request: Request) -> Result<(Visitor, Fields), PageError> {
    let form = Fields::form(request).await?;
    let visitor = visit.author(desk, &form).await?;
    Ok((visitor, form))
}

fn back(id: RequestId) -> Response {
    see_other(&format!("/requests/{id}"), &[])
}

/// `POST /requests/{id}/answer`
pub async fn answer(
    State(desk): State<Arc<Desk>>,
    visit: Visit,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, PageError> {
    let (visitor, form) = form(&desk, &visit, request).await?;
    let (caller, id, now) = (&visitor.caller, id_of(&id)?, visit.now);
    let reason = form.get("reason").map(str::trim).filter(|reason| !reason.is_empty());
    let answered = match form.get("answer") {
        Some("approve") => {
            let hash = form.get("hash").ok_or(PageError::Invalid("the form does not say what was looked at"))?;
            access::approve(&desk, caller, id, Some(hash), reason, now).await
        }
        Some("deny") => access::deny(&desk, caller, id, reason, now).await,
        _ => return Err(PageError::Invalid("say whether it is approved or denied")),
    };
    answered.map_err(refused(&visitor))?;
    Ok(back(id))
}

/// `POST /requests/{id}/withdraw`
pub async fn withdraw(
    State(desk): State<Arc<Desk>>,
    visit: Visit,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, PageError> {
    let (visitor, _) = form(&desk, &visit, request).await?;
    let id = id_of(&id)?;
    access::withdraw(&desk, &visitor.caller, id, visit.now).await.map_err(refused(&visitor))?;
    Ok(back(id))
}

/// `POST /grants/{id}/drop`
pub async fn drop_grant(
    State(desk): State<Arc<Desk>>,
    visit: Visit,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, PageError> {
    let (visitor, _) = form(&desk, &visit, request).await?;
    let id = GrantId::parse(&id).map_err(|_| PageError::NotFound("there is no such grant"))?;
    let dropped = access::drop_grant(&desk, &visitor.caller, id, visit.now).await.map_err(refused(&visitor))?;
    Ok(back(dropped.grant.request))
}

/// How many requests wait for the visitor's answer, as far as one page tells.
pub async fn waiting(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<usize, AccessError> {
    let (waiting, _) = access::request_list(desk, caller, Whose::ToApprove, None, None, LIST_MAX, now).await?;
    Ok(waiting.len())
}

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
use crate::control::{Caller, Desk, StoreError};
use crate::model::{Answer, GrantId, GrantState, Person, RequestId, RequestState, Timestamp, Ttl};
use crate::policy::PolicySet;

use super::form::Fields;
use super::home;
use super::page::{moment, prose, render, see_other, sentence, text_of};
use super::refusal::{PageError, sign_in_at, words_of};
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
    ticket: Option<String>,
    params: Vec<(String, String)>,
    emergency: bool,
}

/// `/requests`
#[derive(Template)]
#[template(path = "requests.html", config = "src/console/askama.toml")]
struct RequestsPage {
    waiting: Vec<RequestLine>,
    /// Whether newer ones wait that are on another page.
    waiting_goes_on: bool,
    /// Where older ones that wait are.
    waiting_older: Option<String>,
    own: Vec<RequestLine>,
    /// Where older ones of one's own are.
    older: Option<String>,
    me: String,
    form_token: String,
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
    /// Where one signs in again, if that is all that is missing.
    sign_in: Option<String>,
    /// What was wrong with the answer that was sent.
    wrong: Vec<(bool, String)>,
    /// What was said in it.
    remark: String,
    may_withdraw: bool,
    /// The grant that the visitor may give back.
    droppable: Option<String>,
    me: String,
    form_token: String,
}

/// Whether the visitor may answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    Answer,
    /// Once they have signed in again.
    AfterSignIn,
    Not,
}

/// An answer that was not taken.
#[derive(Clone, Copy, Default)]
struct Untaken<'a> {
    wrong: Option<&'a str>,
    remark: &'a str,
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
        ticket: request.ticket.clone(),
        params: params_of(seen),
        emergency: request.emergency,
    }
}

fn params_of(seen: &Seen) -> Vec<(String, String)> {
    seen.request.params.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// `GET /requests[?before&waiting_before]`
pub async fn list(State(desk): State<Arc<Desk>>, visit: Visit) -> Result<Response, PageError> {
    let visitor = visit.visitor(&desk).await?;
    let (caller, now) = (&visitor.caller, visit.now);
    let cursor = |name: &str| {
        let id = visit.query.get(name).map(RequestId::parse).transpose();
        id.map_err(|_| PageError::Invalid("the link to older requests is not whole"))
    };
    let (before, waiting_before) = (cursor("before")?, cursor("waiting_before")?);
    let wrong = refused(&visitor);
    let waiting = access::request_list(&desk, caller, Whose::ToApprove, None, waiting_before, LIST_MAX, now);
    let (waiting, waiting_next) = waiting.await.map_err(&wrong)?;
    let own = access::request_list(&desk, caller, Whose::Own, None, before, LIST_MAX, now);
    let (own, next) = own.await.map_err(&wrong)?;
    Ok(render(&RequestsPage {
        waiting: waiting.iter().map(|seen| line(seen, now)).collect(),
        waiting_goes_on: waiting_before.is_some(),
        waiting_older: waiting_next.map(|id| id.to_string()),
        own: own.iter().map(|seen| line(seen, now)).collect(),
        older: next.map(|id| id.to_string()),
        me: home::called(caller),
        form_token: visitor.form_token.clone(),
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
    let may = may(&desk, &visitor.caller, &seen, visit.now).await?;
    Ok(render(&page(&desk, &visitor, &seen, may, Untaken::default(), visit.now)))
}

async fn may(desk: &Desk, caller: &Caller, seen: &Seen, now: Timestamp) -> Result<May, StoreError> {
    Ok(if access::may_answer(desk, caller, seen, now).await? {
        May::Answer
    } else if access::might_answer(desk, caller, seen, now).await? {
        May::AfterSignIn
    } else {
        May::Not
    })
}

fn page(desk: &Desk, visitor: &Visitor, seen: &Seen, may: May, untaken: Untaken<'_>, now: Timestamp) -> RequestPage {
    let caller = &visitor.caller;
    let policies = desk.policies.load();
    let request = &seen.request;
    let own = request.requester.principal == *caller.principal();
    let pending = request.state_at(now) == RequestState::Pending;
    let not_over = |state: GrantState| match state {
        GrantState::Scheduled | GrantState::Queued | GrantState::Active { .. } => true,
        GrantState::Over { .. } => false,
    };
    let droppable = seen.grant.as_ref().filter(|grant| own && not_over(grant.state_at(now)));
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
        params: params_of(seen),
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
        may_answer: may == May::Answer,
        why_not: match (pending, own, may) {
            (true, true, _) => Some("Somebody else answers it: nobody answers what they asked for themselves."),
            (true, false, May::AfterSignIn) => {
                Some("You may answer it once you have signed in again: your sign-in is too long ago for that.")
            }
            (true, false, May::Not) => Some("You can't answer it: you have already, or no policy lets you."),
            (true, false, May::Answer) | (false, ..) => None,
        },
        sign_in: (may == May::AfterSignIn).then(|| sign_in_at(&format!("/requests/{}", request.id), Some(0))),
        wrong: untaken.wrong.map(|wrong| prose(&sentence(wrong))).unwrap_or_default(),
        remark: untaken.remark.to_owned(),
        may_withdraw: pending && own,
        droppable: droppable.map(|grant| grant.id.to_string()),
        me: home::called(caller),
        form_token: visitor.form_token.clone(),
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
    match answered {
        Ok(_) => Ok(back(id)),
        Err(error) => Err(not_answered(&desk, &visitor, id, error, reason.unwrap_or_default(), now).await),
    }
}

/// Why an answer was not taken: where its page is still for the visitor, on that, with what they said to it.
async fn not_answered(
    desk: &Desk,
    visitor: &Visitor,
    id: RequestId,
    error: AccessError,
    remark: &str,
    now: Timestamp,
) -> PageError {
    let goes_back = match &error {
        AccessError::NotFound { .. }
        | AccessError::NoEntitlement(_)
        | AccessError::Denied(_)
        | AccessError::SelfApproval => false,
        AccessError::Invalid(_)
        | AccessError::SignInTooOld(_)
        | AccessError::AnsweredAlready
        | AccessError::Closed { .. }
        | AccessError::Granted { .. }
        | AccessError::Changed { .. }
        | AccessError::Ineligible(_)
        | AccessError::Full { .. }
        | AccessError::TooSoon(_)
        | AccessError::NotActive { .. }
        | AccessError::Clock(_)
        | AccessError::Store(_) => true,
    };
    let wrong = words_of(&error);
    let error = refused(visitor)(error);
    if !goes_back {
        return error;
    }
    let caller = &visitor.caller;
    // It is as it is by now, and that may be why.
    let Ok(seen) = access::request_fetch(desk, caller, id, now).await else { return error };
    let Ok(may) = may(desk, caller, &seen, now).await else { return error };
    let untaken = Untaken { wrong: Some(&wrong), remark };
    let page = text_of(&page(desk, visitor, &seen, may, untaken, now));
    PageError::Again { error: Box::new(error), page }
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

/// How many requests wait for the visitor's answer, as far as one page tells, and whether there may be more.
pub async fn waiting(desk: &Desk, caller: &Caller, now: Timestamp) -> Result<(usize, bool), AccessError> {
    let (waiting, next) = access::request_list(desk, caller, Whose::ToApprove, None, None, LIST_MAX, now).await?;
    Ok((waiting.len(), next.is_some()))
}

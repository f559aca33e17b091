//! Just-in-time access: asking, answering, granting, ending.
//!
//! What happens when an entitlement is asked for: `create.rs` checks the request against its
//! definition and the right to ask, and enters it; `answer.rs` takes an approver's word, and with the
//! last one that is needed `activate.rs` makes the grant in the same transaction; `grant.rs` prolongs
//! and ends grants; `sweep.rs` tidies up what ended by itself and begins what was to begin later.
//!
//! INVARIANTS that no policy can switch off: the requester never answers; one human counts once,
//! whatever accounts they have; an answer counts only for the very request that was seen, with the
//! definition and the actions of that moment; the right to ask and locks are asked again when a
//! grant begins.

mod activate;
mod answer;
mod approvers;
mod create;
mod grant;
pub(super) mod human;
mod idle;
mod rest;
mod standing;
pub mod sweep;
mod view;

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::model::text::{REASON_CHARS_MAX, forges, shows};
use crate::model::{AccessRequest, ClockDoubt, EntitlementName, Grant, OpenedAction, Person, Session, Timestamp, Ttl};
use crate::policy::{Ambient, Entitlement, EntitlementAction, PolicySet, Subject};
use crate::store::StoreError;

use super::caller::Caller;
use super::desk::Desk;

pub use answer::{approve, deny, may_answer, might_answer, withdraw};
pub use approvers::audience;
pub use create::{Asked, Planned, approvals_wanted, check, create, plan};
pub use grant::{drop_grant, extend, revoke};
pub use idle::exchange_uses;
pub use rest::{TooSoon, Wait};
pub use view::{ApprovalSeen, GrantSeen, Seen, Whose, grant_fetch, grant_list, request_fetch, request_list};

/// Why an operation on requests or grants was not done.
#[derive(Debug)]
pub enum AccessError {
    /// There is no such thing, or the caller may not know that there is.
    NotFound { what: &'static str },
    /// No service defines an entitlement of this name.
    NoEntitlement(String),
    /// What was sent is not what it must be.
    Invalid(String),
    /// No policy lets the caller do it.
    Denied(String),
    /// No policy lets the caller do it by a sign-in as old as theirs; by one of this moment it would.
    SignInTooOld(String),
    /// Nobody answers their own request, under whatever account.
    SelfApproval,
    /// This human has answered already.
    AnsweredAlready,
    /// The request is closed; how far it has come, as one word.
    Closed { state: &'static str },
    /// The request was approved, and its grant goes on or is to begin; how far that has come, as one word.
    Granted { state: &'static str },
    /// The request is not the one that was looked at.
    Changed { hash: String },
    /// The requester may not have it any more.
    Ineligible(String),
    /// All places are taken.
    Full { entitlement: EntitlementName, capacity: u32 },
    /// It may not begin yet.
    TooSoon(TooSoon),
    /// The grant is not active, and what there is to do about it.
    NotActive { state: &'static str, advice: &'static str },
    /// The time of this node can't be believed.
    Clock(ClockDoubt),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { what } => write!(f, "there is no such {what}"),
            Self::NoEntitlement(name) => write!(
                f,
                "there is no entitlement `{}`; `doorward services` lists what can be asked for",
                name.escape_debug()
            ),
            Self::Invalid(what) | Self::Denied(what) | Self::SignInTooOld(what) | Self::Ineligible(what) => {
                f.write_str(what)
            }
            Self::SelfApproval => f.write_str(
                "you asked for this yourself, under this account or another of yours; somebody else has to answer",
            ),
            Self::AnsweredAlready => {
                f.write_str("you have answered this request already, under this account or another of yours")
            }
            Self::Granted { state } => {
                write!(f, "the request is answered already: it is {state}; a grant is ended with `revoke` or `drop`")
            }
            Self::Closed { state } => {
                write!(f, "the request is closed ({state}); what is closed stays so, ask anew")
            }
            Self::Changed { hash } => {
                write!(f, "the request is not the one that you looked at: it is `{hash}` now; look at it again")
            }
            Self::Full { entitlement, capacity } => {
                write!(f, "`{entitlement}` is held by as many as may hold it at once ({capacity}); try again later")
            }
            Self::NotActive { state, advice } => write!(f, "the grant is not active ({state}); {advice}"),
            Self::TooSoon(why) => why.fmt(f),
            Self::Clock(doubt) => doubt.fmt(f),
            Self::Store(error) => write!(f, "the request could not be carried out: {error}"),
        }
    }
}

impl std::error::Error for AccessError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<TooSoon> for AccessError {
    fn from(why: TooSoon) -> Self {
        Self::TooSoon(why)
    }
}

impl From<ClockDoubt> for AccessError {
    fn from(doubt: ClockDoubt) -> Self {
        Self::Clock(doubt)
    }
}

impl From<StoreError> for AccessError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The person of a session.
fn person_of(session: &Session) -> Person {
    Person {
        principal: session.principal.clone(),
        email: session.email.clone(),
        email_verified: session.email_verified,
        name: session.name.clone(),
    }
}

/// The caller's session as it would be had they signed in at `now`.
fn signed_in_now(caller: &Caller, now: Timestamp) -> Session {
    Session { created_at: now, authenticated_at: now, ..caller.session().clone() }
}

/// What the caller may do with an entitlement, or might once they sign in again.
fn might(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    action: EntitlementAction,
    name: &EntitlementName,
    now: Timestamp,
) -> bool {
    let session = signed_in_now(caller, now);
    session_may(desk, policies, &session, caller.connection().address, action, name, now)
}

/// That the caller may not do it, as `told`; or where nothing but a sign-in of lately is missing, that.
fn not_allowed(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    action: EntitlementAction,
    name: &EntitlementName,
    now: Timestamp,
    told: String,
) -> AccessError {
    if might(desk, policies, caller, action, name, now) {
        return AccessError::SignInTooOld(format!("{told} by a sign-in as old as yours; sign in again"));
    }
    AccessError::Denied(told)
}

/// What the caller may do with an entitlement.
fn may(
    desk: &Desk,
    policies: &PolicySet,
    caller: &Caller,
    action: EntitlementAction,
    name: &EntitlementName,
    now: Timestamp,
) -> bool {
    session_may(desk, policies, caller.session(), caller.connection().address, action, name, now)
}

/// What somebody of this session who comes from there may do with an entitlement.
fn session_may(
    desk: &Desk,
    policies: &PolicySet,
    session: &Session,
    address: IpAddr,
    action: EntitlementAction,
    name: &EntitlementName,
    now: Timestamp,
) -> bool {
    let subject = desk.subject_now(policies, session, now);
    policies.entitlement_decide(&subject, action, name, &Ambient::of_session(session, address, now)).allow
}

/// What is known of the requester at `now`: by their newest live session, else by the one that asked.
/// And the one that asked, while it lives.
async fn known(
    desk: &Desk,
    request: &AccessRequest,
    now: Timestamp,
) -> Result<Option<(Session, Option<Session>)>, StoreError> {
    let asking = desk.store.session_fetch(request.session).await?.map(|stored| stored.session);
    let newest = desk.store.session_list(Some(&request.requester.principal), None, 1, now).await?;
    let newest = newest.into_iter().next().map(|stored| stored.session);
    let live = asking.clone().filter(|session| session.is_live(now));
    Ok(newest.or(asking).map(|known| (known, live)))
}

/// Whether the requester could still ask for it at `now`: the right to ask, by what is known of them
/// now, and locks.
async fn eligible(
    desk: &Desk,
    policies: &PolicySet,
    request: &AccessRequest,
    now: Timestamp,
) -> Result<(), AccessError> {
    // The database is asked, since another node may have set a lock that this one has not heard of.
    if desk.store.lock_fetch(&request.requester.principal).await?.is_some() {
        return Err(AccessError::Ineligible("the requester is locked".to_owned()));
    }
    match may_still(desk, policies, request, EntitlementAction::Request, now, now).await? {
        Some(true) => Ok(()),
        Some(false) => {
            let text = format!("the requester may not ask for `{}` any more", request.entitlement);
            Err(AccessError::Ineligible(text))
        }
        None => Err(AccessError::Ineligible("nothing is known of the requester any more".to_owned())),
    }
}

/// Whether policy, of which the clock says `at`, lets the requester who is known at `now`; none: nothing is known of them any more. Who they are is
/// what was told of them last. How they come is how they came when they asked, too: signing in elsewhere,
/// from a device that nobody trusts, takes nothing from that.
async fn may_still(
    desk: &Desk,
    policies: &PolicySet,
    request: &AccessRequest,
    action: EntitlementAction,
    at: Timestamp,
    now: Timestamp,
) -> Result<Option<bool>, StoreError> {
    let Some((known, asking)) = known(desk, request, now).await? else { return Ok(None) };
    let subject: Subject = desk.subject_now(policies, &known, now);
    let comes = |session: &Session| {
        let ambient = Ambient::of_session(session, request.address, at);
        policies.entitlement_decide(&subject, action, &request.entitlement, &ambient).allow
    };
    Ok(Some(asking.as_ref().is_some_and(comes) || comes(&known)))
}

/// What an entitlement opens now, at its own service and at others.
fn opened(policies: &PolicySet, name: &EntitlementName) -> Vec<OpenedAction> {
    policies.opened_by(name)
}

/// `sha256:…` of the canonical request: who asks for what, how long, why, and what the entitlement is
/// and opens at this moment. An approval names it.
fn hash_of(request: &AccessRequest, definition: &Entitlement, actions: &[OpenedAction]) -> String {
    let parameters: Vec<_> = definition
        .parameters
        .iter()
        .map(|(name, rule)| serde_json::json!([name, rule.description, rule.values, rule.required]))
        .collect();
    let actions: Vec<String> = actions.iter().map(ToString::to_string).collect();
    let millis = |length: Option<Ttl>| length.map(Ttl::as_millis);
    let mut canonical = vec![serde_json::json!([
        "doorward access request 1",
        request.id.to_string(),
        request.entitlement.to_string(),
        request.requester.principal.to_string(),
        request.reason,
        request.ticket,
        request.params,
        request.length.as_millis(),
        request.start.map(Timestamp::millis),
        request.emergency,
        request.extends.map(|id| id.to_string()),
        definition.description,
        definition.max.as_millis(),
        definition.approvals,
        definition.capacity,
        millis(definition.extended_max),
        parameters,
        actions,
    ])];
    // What says when it may be held, only where something is said: what was asked for before these rules
    // were there keeps its hash.
    let times = [definition.idle, definition.earliest_start, definition.break_after];
    if times.iter().any(Option::is_some) {
        canonical.push(serde_json::json!(times.map(millis)));
    }
    let canonical: Vec<String> = canonical.iter().map(ToString::to_string).collect();
    let digest = Sha256::digest(canonical.join("\n").as_bytes());
    format!("sha256:{}", data_encoding::HEXLOWER.encode(&digest))
}

/// An event about a request.
fn request_event(desk: &Desk, kind: EventType, actor: Actor, request: &AccessRequest, now: Timestamp) -> Event {
    let outcome = match kind {
        EventType::RequestDenied => Outcome::Denied,
        _ => Outcome::Success,
    };
    let mut event = Event::new(desk.event_id(now), now, kind, outcome);
    event.actor = actor;
    event.subject = Some(request.requester.principal.clone());
    event.service = Some(request.entitlement.service().clone());
    event.resource = Some(request.id.to_string().into());
    event.grant = request.grant.or(request.extends);
    if !request.params.is_empty() {
        let params: Vec<String> = request.params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        event = event.with("params", params);
    }
    event
        .with("request", request.id.to_string())
        .with("entitlement", request.entitlement.to_string())
        .with("reason", request.reason.as_str())
        .with("ticket", request.ticket.clone())
        .with("for", request.length.to_string())
        .with("emergency", request.emergency)
        .with("hash", request.hash.as_str())
        .with("approvals_needed", request.approvals_needed)
}

/// An event about a grant.
fn grant_event(desk: &Desk, kind: EventType, actor: Actor, grant: &Grant, now: Timestamp) -> Event {
    let mut event = Event::new(desk.event_id(now), now, kind, Outcome::Success);
    event.actor = actor;
    event.subject = Some(grant.holder.principal.clone());
    event.service = Some(grant.entitlement.service().clone());
    event.resource = Some(grant.id.to_string().into());
    event.grant = Some(grant.id);
    let actions: Vec<String> = grant.actions.iter().map(ToString::to_string).collect();
    event
        .with("request", grant.request.to_string())
        .with("entitlement", grant.entitlement.to_string())
        .with("state", grant.state.name())
        .with("for", grant.length.to_string())
        .with("emergency", grant.emergency)
        .with("actions", actions)
        .with("expires_at", grant.state.expires_at().map(|at| at.to_string()))
        .with("idle", grant.idle.map(|idle| idle.to_string()))
}

/// A reason of people: trimmed, on one line, with a bound.
fn reason_of(text: &str) -> Result<String, AccessError> {
    // Forms send line breaks, and people mean no more by them than a blank.
    let text = text.trim().replace("\r\n", " ").replace(['\n', '\r', '\t'], " ");
    reads_as_is("reason", &text)?;
    if !shows(&text) || text.chars().count() > REASON_CHARS_MAX {
        return Err(AccessError::Invalid(format!("give a reason of 1 to {REASON_CHARS_MAX} characters")));
    }
    Ok(text)
}

/// What people write must not look like something else to those who approve it.
fn reads_as_is(field: &str, text: &str) -> Result<(), AccessError> {
    match text.chars().find(|c| forges(*c)) {
        None => Ok(()),
        Some(c) => Err(AccessError::Invalid(format!(
            "`{field}` has the character U+{:04X}, which can make it look like another text: leave it out",
            u32::from(c)
        ))),
    }
}

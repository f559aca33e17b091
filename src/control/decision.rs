//! Decisions read back from the record, for `doorward why`.
//!
//! INVARIANTS: everyone reads decisions about themselves; those of others only who may read the
//! audit, and that reading is recorded before it is answered. To everyone else they don't exist.

use std::fmt;

use serde_json::{Map, Value};

use crate::audit::{Event, EventType, Outcome, PersonalField, basis};
use crate::model::{
    Approved, DecisionId, EntitlementName, EventId, GrantId, GrantState, NodeId, Principal, RequestId, RequestState,
    ServiceName, Timestamp, UserRef,
};
use crate::policy::{InstallationAction, Matched, PolicySet};
use crate::store::{AccessRequestFilter, GRANT_PAGE_MAX, Recorded, StoreError};

use super::caller::Caller;
use super::desk::{Desk, event_id_of};

/// Keys of a decision event's `data`, for whoever writes one: the policies that decided, what went
/// wrong in evaluating them, and what would have helped (`{kind, entitlement, command}`).
pub const DATA_POLICIES: &str = "policies";
/// See [`DATA_POLICIES`].
pub const DATA_ERRORS: &str = "errors";
/// See [`DATA_POLICIES`].
pub const DATA_REMEDY: &str = "remedy";

/// Why no decision is told of.
#[derive(Debug)]
pub enum DecisionError {
    /// There is none, or the caller may not know that there is.
    NotFound,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for DecisionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such decision"),
            Self::Store(error) => write!(f, "the decision could not be read: {error}"),
        }
    }
}

impl std::error::Error for DecisionError {}

impl From<StoreError> for DecisionError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A decision as the record remembers it.
#[derive(Debug, Clone)]
pub struct Explained {
    /// Which.
    pub id: DecisionId,
    /// When.
    pub time: Timestamp,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was refused.
    pub reason: Option<String>,
    /// Whose request.
    pub principal: Option<Principal>,
    /// Whose it was, by pseudonym, where the person was erased.
    pub erased: Option<UserRef>,
    /// Their e-mail at that time.
    pub email: Option<String>,
    /// What the route stands for.
    pub action: Option<String>,
    /// On what, as policies name it.
    pub resource: Option<String>,
    /// Which service.
    pub service: Option<String>,
    /// Method, host and path of the request.
    pub request: Option<(String, String, String)>,
    /// Who acted for the principal, who acted itself first.
    pub act: Vec<String>,
    /// Which policies were in force.
    pub policy_version: Option<String>,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// What went wrong while they were evaluated.
    pub errors: Vec<String>,
    /// What would have helped, as it was answered then; the parameters of its command are in the path alone.
    pub remedy: Option<Value>,
    /// What of the credentials, or of the request, did not hold: more than whoever showed them was told.
    pub note: Option<String>,
    /// What of a job's token did not hold, for those who may read the record: it says what rules want.
    pub exchange: Option<RefusedExchange>,
    /// What its request was answered with, where it was let through and its upstream's answer was not passed on.
    pub ended: Option<UnansweredExchange>,
    /// The grant that it rested on, or that its token was made under.
    pub grant: Option<String>,
    /// The grants that counted: id and entitlement.
    pub grants: Vec<(String, String)>,
    /// Entitlements each of which would have allowed it, and what the principal has of them by now.
    pub helps: Vec<Help>,
    /// The log that holds it.
    pub log: NodeId,
    /// Its number there.
    pub seq: Option<i64>,
}

/// An exchange that was refused, as `oauth/foreign.rs` put it on record.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedExchange {
    /// Why, in one word.
    pub reason: String,
    /// What was wanted and what came.
    pub data: Map<String, Value>,
}

/// A request that was let through and got an answer of ours, as `gateway/record.rs` put it on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnansweredExchange {
    /// The status of that answer.
    pub status: i64,
    /// Its reason.
    pub reason: String,
    /// What was wrong, in one word, where that was the upstream or the request's body.
    pub fault: Option<String>,
    /// How long it took.
    pub duration_ms: Option<i64>,
    /// When it was given.
    pub time: Timestamp,
}

/// The id of the event that says how a request ended that was let through and got an answer of ours. It has the
/// time of the decision, by whose id alone it is found.
#[must_use]
pub fn exchange_ended(id: DecisionId) -> EventId {
    event_id_of(&[EventType::ExchangeEnded.name().as_bytes(), id.bytes()], id.made_at())
}

/// The id of the event that says of an exchange what its refusal does not.
#[must_use]
pub fn exchange_refused(id: DecisionId) -> EventId {
    event_id_of(&[EventType::ExchangeRefused.name().as_bytes(), id.bytes()], id.made_at())
}

/// An entitlement that would have allowed what was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Help {
    /// Which.
    pub entitlement: String,
    /// A grant of it that is not over, and how far it has come.
    pub grant: Option<(GrantId, &'static str)>,
    /// A request for it that waits for an answer.
    pub request: Option<RequestId>,
}

/// The decision of that id, if the caller may know of it.
///
/// # Errors
/// When there is none for the caller, or the database is away.
pub async fn fetch(desk: &Desk, caller: &Caller, id: DecisionId, now: Timestamp) -> Result<Explained, DecisionError> {
    let found = desk.store.decision_fetch(&id).await?.ok_or(DecisionError::NotFound)?;
    let mut explained = explain(id, &found);
    let reads_all = caller.may(desk, InstallationAction::ReadAudit, now);
    if explained.principal.as_ref() != Some(caller.principal()) {
        if !reads_all {
            return Err(DecisionError::NotFound);
        }
        let mut event = Event::new(desk.event_id(now), now, EventType::AuditRead, Outcome::Success);
        event.actor = caller.actor();
        event.action = Some(InstallationAction::ReadAudit.name().into());
        event.resource = Some(id.to_string().into());
        event.subject.clone_from(&explained.principal);
        let mut tx = desk.store.begin().await?;
        tx.event_append(&event).await?;
        tx.commit().await?;
    }
    if reads_all && !explained.allowed {
        let found = desk.store.event_fetch(&exchange_refused(id)).await?;
        explained.exchange = found.as_ref().and_then(refused_exchange);
    }
    if explained.allowed {
        let found = desk.store.event_fetch(&exchange_ended(id)).await?;
        explained.ended = found.as_ref().and_then(unanswered_exchange);
    }
    if let Some(whose) = explained.principal.clone().filter(|_| !explained.helps.is_empty()) {
        let policies = desk.policies.load_full();
        let asked = explained.asked(&policies);
        if let (Some((_, matched)), Some(remedy)) = (&asked, &mut explained.remedy) {
            tell_params(&policies, matched, remedy);
        }
        in_hand(desk, &whose, asked.as_ref(), &mut explained.helps, now).await?;
    }
    Ok(explained)
}

fn refused_exchange(found: &Recorded) -> Option<RefusedExchange> {
    if found.clear().kind != EventType::ExchangeRefused {
        return None;
    }
    let data = found.body.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
    Some(RefusedExchange { reason: found.text("/reason")?.to_owned(), data })
}

fn unanswered_exchange(found: &Recorded) -> Option<UnansweredExchange> {
    if found.clear().kind != EventType::ExchangeEnded {
        return None;
    }
    let number = |pointer: &str| found.body.pointer(pointer).and_then(Value::as_i64);
    let duration_ms = number("/data/duration_ms");
    Some(UnansweredExchange {
        status: number("/data/status")?,
        reason: found.text("/reason")?.to_owned(),
        fault: found.text("/data/fault").map(str::to_owned),
        duration_ms,
        time: Timestamp::from_millis(found.clear().time.millis().saturating_add(duration_ms.unwrap_or(0))),
    })
}

impl Explained {
    /// What was asked for, as routes say now; none: that is not known any more.
    fn asked(&self, policies: &PolicySet) -> Option<(ServiceName, Matched)> {
        let service = ServiceName::parse(self.service.as_deref()?).ok()?;
        let (method, _, path) = self.request.as_ref()?;
        let matched = policies.service(&service)?.route(method, path)?;
        (self.action.as_deref() == Some(matched.action.as_str())).then_some((service, matched))
    }
}

/// What `whose` has by now of what would have helped, and would help with what was asked for: another
/// parameter than the approved one is to be asked for by itself.
async fn in_hand(
    desk: &Desk,
    whose: &Principal,
    asked: Option<&(ServiceName, Matched)>,
    helps: &mut [Help],
    now: Timestamp,
) -> Result<(), DecisionError> {
    let covers = |approved: Approved<'_>| {
        asked.is_none_or(|(service, matched)| approved.covers(service, &matched.action, &matched.params))
    };
    let grants = desk.store.grant_list(Some(whose), None, GRANT_PAGE_MAX).await?;
    let pending = AccessRequestFilter {
        principal: Some(whose),
        state: Some(RequestState::Pending),
        ..AccessRequestFilter::default()
    };
    let requests = desk.store.access_request_list(&pending, GRANT_PAGE_MAX).await?;
    for help in helps {
        let open = grants.iter().filter(|grant| grant.entitlement.to_string() == help.entitlement);
        let open = open.filter(|grant| covers(grant.approved()));
        let open = open.map(|grant| (grant.id, grant.state_at(now)));
        let mut open = open.filter(|(_, state)| !matches!(state, GrantState::Over { .. }));
        help.grant = open.next().map(|(id, state)| (id, state.name()));
        let waiting = requests.iter().filter(|request| request.entitlement.to_string() == help.entitlement);
        let mut waiting = waiting.filter(|request| covers(request.to_be_approved()));
        help.request = waiting.find(|request| request.state_at(now) == RequestState::Pending).map(|request| request.id);
    }
    Ok(())
}

/// Puts the parameters of what was asked for into the command of the remedy, as they were told then: the record has
/// them in the path alone. One that was told by another definition of the entitlement stays as it is.
fn tell_params(policies: &PolicySet, matched: &Matched, remedy: &mut Value) {
    let text = |key: &str| remedy.get(key).and_then(Value::as_str);
    let name = text("entitlement").and_then(|name| EntitlementName::parse(name).ok());
    let definition = name.and_then(|name| policies.entitlement(&name));
    let (Some(definition), Some(recorded)) = (definition, text("command")) else { return };
    let told = if recorded == definition.command(&[]) {
        definition.command(&matched.params)
    } else if recorded == definition.command_of_job(&[]) {
        definition.command_of_job(&matched.params)
    } else {
        return;
    };
    if let Some(command) = remedy.get_mut("command") {
        *command = Value::String(told);
    }
}

/// What would have allowed it, as was told then: one, or all that would.
fn helps(remedy: Option<&Value>) -> Vec<Help> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = remedy.and_then(|remedy| remedy.get("entitlements")).and_then(Value::as_array);
    let names: Vec<String> = match all {
        Some(all) => all.iter().filter_map(text).collect(),
        None => remedy.and_then(|remedy| remedy.get("entitlement")).and_then(text).into_iter().collect(),
    };
    names.into_iter().map(|entitlement| Help { entitlement, grant: None, request: None }).collect()
}

/// The grants that counted, as `gateway/record.rs` writes them.
fn counted(found: &Recorded) -> Vec<(String, String)> {
    let listed = found.body.pointer("/data").and_then(|data| data.get(basis::GRANTS)).and_then(Value::as_array);
    let pair = |grant: &Value| {
        let text = |key: &str| grant.get(key).and_then(Value::as_str).map(str::to_owned);
        Some((text(basis::GRANT)?, text(basis::ENTITLEMENT)?))
    };
    listed.into_iter().flatten().filter_map(pair).collect()
}

fn explain(id: DecisionId, found: &Recorded) -> Explained {
    let text = |pointer: &str| found.text(pointer).map(str::to_owned);
    let texts = |key: &str| {
        let listed = found.body.pointer(&format!("/data/{key}")).and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let request = match (text("/request/method"), text("/request/host"), found.personal(PersonalField::Path)) {
        (Some(method), Some(host), Some(path)) => Some((method, host, path.to_owned())),
        _ => None,
    };
    Explained {
        id,
        time: found.clear().time,
        allowed: found.clear().kind == EventType::DecisionAllow,
        reason: text("/reason"),
        principal: found.personal(PersonalField::Principal).and_then(Principal::parse),
        erased: found.clear().actor.filter(|_| found.sealed.erased().contains(&PersonalField::Principal)),
        email: found.personal(PersonalField::Email).map(str::to_owned),
        action: text("/action"),
        resource: text("/resource"),
        service: found.clear().service.as_ref().map(|name| name.as_str().to_owned()),
        request,
        policy_version: text("/policy_version"),
        act: texts(basis::ACT),
        policies: texts(DATA_POLICIES),
        errors: texts(DATA_ERRORS),
        note: text("/data/note"),
        exchange: None,
        ended: None,
        grant: found.clear().grant.map(|id| id.to_string()),
        grants: counted(found),
        helps: helps(found.body.pointer(&format!("/data/{DATA_REMEDY}"))),
        remedy: found.body.pointer(&format!("/data/{DATA_REMEDY}")).cloned(),
        log: found.log,
        seq: found.seq,
    }
}

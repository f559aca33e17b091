//! How refusals of the control host go on record, whichever door they come from.

use std::sync::Arc;

use crate::audit::{Actor, Event, EventType, Outcome, RequestFacts};
use crate::model::{DecisionId, EventId, Timestamp};
use crate::store::RECORD_TIMEOUT;

use super::caller::{ConnectionFacts, actor_at};
use super::desk::Desk;

/// The longest path that goes into the record: one that is longer has no route here, and its beginning says enough.
const PATH_CHARACTERS_MAX: usize = 1024;
/// Methods of the standard (RFC 9110 §9, RFC 5789); what a client made up is not worth keeping.
const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// The request as the record names it.
#[must_use]
pub fn facts(desk: &Desk, method: &str, path: &str, protocol: &'static str) -> RequestFacts {
    let path: String = path.chars().take(PATH_CHARACTERS_MAX).collect();
    RequestFacts {
        method: METHODS.into_iter().find(|known| *known == method).unwrap_or("OTHER").into(),
        host: desk.settings.host().into(),
        path: path.into(),
        protocol,
    }
}

/// The event of a refusal. Where nobody is known as its `actor`, it is of whoever's session the connection shows.
#[must_use]
pub fn denial(
    desk: &Desk,
    reason: &'static str,
    actor: Option<Actor>,
    connection: Option<&ConnectionFacts>,
    facts: RequestFacts,
    decision: DecisionId,
    now: Timestamp,
) -> Event {
    let id = EventId::from_bytes(*decision.bytes());
    let mut event = Event::new(id, now, EventType::DecisionDeny, Outcome::Denied);
    event.decision = Some(decision);
    event.reason = Some(reason.into());
    event.request = Some(facts);
    event.policy_version = Some(Arc::clone(desk.policies.load().version()));
    let at = |connection| actor_at(&desk.directory, connection, now);
    event.actor = actor.or_else(|| connection.map(at)).unwrap_or_default();
    event
}

/// Puts a refusal on record, counted where it comes in floods: anybody can make one happen. What is refused stays
/// refused, on record or not, and the recorder counts what it could not keep.
pub async fn put_on_record(desk: &Desk, event: Event) {
    let (kind, reason, decision) = (event.kind.name(), event.reason.clone(), event.decision);
    if !matches!(tokio::time::timeout(RECORD_TIMEOUT, desk.recorder.refused(event)).await, Ok(Ok(()))) {
        let decision = decision.map(|id| id.to_string());
        tracing::warn!(kind, reason = reason.as_deref(), decision, "a refusal is not on record");
    }
}

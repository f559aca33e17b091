//! A drill: the custodians sign a challenge whose scope is nothing, and every node that is shown it
//! judges it as it would an opening, tells every channel, and records how long it all took.

use std::net::IpAddr;
use std::time::Duration;

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{Happening, KnownOpening};
use crate::model::breakglass::Scope;
use crate::model::{Timestamp, Ttl};

use super::super::desk::Desk;
use super::one_id;
use super::terms::{CheckError, Presented, judged, refused};

/// How long the record may take.
const RECORD_TIMEOUT: Duration = Duration::from_millis(1800);

/// A drill that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// Its id, as an opening's.
    pub id: String,
    /// Who signed and counts.
    pub custodians: Vec<String>,
    /// From the challenge to now.
    pub took: Ttl,
    /// Whether it is on record: without, it does not count as a drill.
    pub recorded: bool,
}

/// Judges a drill and records it. Opens nothing.
///
/// # Errors
/// What is wrong with challenge or signatures.
pub async fn drill(desk: &Desk, presented: &Presented, address: IpAddr, now: Timestamp) -> Result<Drilled, CheckError> {
    let judged = judged(desk, presented, now).and_then(|opening| {
        let is_drill = opening.challenge.scope == Scope::Drill;
        if is_drill { Ok(opening) } else { Err(CheckError::NoDrill) }
    });
    let opening = match judged {
        Ok(opening) => opening,
        Err(error) => {
            refused(desk, &error, address, now).await;
            return Err(error);
        }
    };
    let challenge = &opening.challenge;
    let took = now.since(challenge.not_before);
    let kind = EventType::BreakGlassDrilled;
    let event_id = one_id(kind, challenge.id.bytes(), challenge.not_before);
    let mut event = Event::new(event_id, now, kind, Outcome::Success)
        .with("id", challenge.id.to_string())
        .with("opener", challenge.opener.as_str())
        .with("custodians", opening.custodians.clone())
        .with("reason", challenge.reason.as_str())
        .with("took_ms", took.as_millis());
    event.actor.address = Some(address);
    let submitted = tokio::time::timeout(RECORD_TIMEOUT, desk.recorder.submit(event)).await;
    let recorded = matches!(submitted, Ok(Ok(())));
    if recorded {
        desk.directory.emergency.drilled(now);
    }
    let known = KnownOpening::of(&opening);
    // Whoever has the signatures may show them often; people are told once.
    if desk.directory.emergency.first_drill(challenge.id) {
        let happening = Happening { event: event_id, kind: kind.name(), time: now, opening: known, by: None };
        desk.directory.emergency.happened(happening);
    }
    Ok(Drilled { id: challenge.id.to_string(), custodians: opening.custodians.clone(), took, recorded })
}

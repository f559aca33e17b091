//! What a node does beside requests for the emergency path: it records that an opening ran out, and
//! learns from the record what other nodes saw.

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{Happening, KnownOpening};
use crate::model::{BreakGlassId, Timestamp};
use crate::store::StoreError;

use super::super::desk::Desk;
use super::{Emergency, EmergencyState, of_id, one_id, openings};

/// Events that are looked at at most.
const LOOK_MAX: u32 = 1000;

/// Records openings that ran out since the last time.
pub async fn record_ends(desk: &Desk, now: Timestamp) {
    let emergency = &desk.directory.emergency;
    for opening in emergency.newly_over(now) {
        let kind = EventType::BreakGlassExpired;
        let event_id = one_id(kind, opening.id.bytes(), opening.expires);
        let event = Event::new(event_id, opening.expires, kind, Outcome::Success).with("id", opening.id.to_string());
        if desk.recorder.submit(event).await.is_err() {
            emergency.not_told(opening.id);
            continue;
        }
        let opening = KnownOpening::clone(&opening);
        emergency.happened(Happening { event: event_id, kind: kind.name(), time: opening.expires, opening, by: None });
    }
}

/// Learns from the record which openings there are, which wait for their review, and when the last drill
/// was.
///
/// # Errors
/// When the database is away.
pub async fn follow(desk: &Desk, now: Timestamp) -> Result<(), StoreError> {
    let events = desk.store.emergency_events(None, LOOK_MAX).await?;
    let emergency = &desk.directory.emergency;
    let found = openings(&events, now);
    for opening in found.iter().filter(|it| it.state == EmergencyState::Active) {
        if let Some(known) = opening.known() {
            emergency.know(known);
        }
    }
    // What ended while no node looked is told of late rather than never.
    let told = |it: &&Emergency| of_id(&events, EventType::BreakGlassExpired, &it.id).next().is_some();
    for opening in found.iter().filter(|it| it.state == EmergencyState::Expired && !told(it)) {
        if let Some(known) = opening.known() {
            emergency.know(known);
        }
    }
    let waits = |it: &&Emergency| it.state != EmergencyState::Active && !it.is_reviewed();
    let unreviewed: Vec<BreakGlassId> =
        found.iter().filter(waits).filter_map(|it| BreakGlassId::parse(&it.id).ok()).collect();
    emergency.put_unreviewed(&unreviewed);
    let drills = events.iter().filter(|event| event.clear().kind == EventType::BreakGlassDrilled);
    if let Some(last) = drills.map(|event| event.clear().time).max() {
        emergency.drilled(last);
    }
    Ok(())
}

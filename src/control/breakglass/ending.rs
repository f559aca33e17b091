//! What a node does beside requests for the emergency path: it records that an opening ran out, how often
//! it was tried in vain and that a drill is overdue, and learns from the record what other nodes saw.

use crate::audit::{Event, EventType, Outcome};
use crate::identity::breakglass::{Happening, InForce, KnownOpening};
use crate::model::{BreakGlassId, EventId, Timestamp, Ttl};
use crate::store::StoreError;

use super::super::desk::Desk;
use super::{Account, Emergency, EmergencyState, of_kind, one_id};

/// How often people are told again of a drill that stays overdue.
const OVERDUE_AGAIN: Ttl = Ttl::hours(7 * 24);

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

/// Records how many failures of windows that are over nobody was told of one by one.
pub async fn record_refusals(desk: &Desk, now: Timestamp) {
    for untold in desk.directory.emergency.refusals.due(now) {
        let kind = EventType::BreakGlassRefused;
        let mut event = Event::new(desk.event_id(now), now, kind, Outcome::Denied)
            .with("count", untold.count)
            .with("since", untold.since.to_string())
            .with("until", untold.until.to_string());
        if let Some(opening) = untold.opening {
            event = event.with("id", opening.to_string());
        }
        event.reason = Some("opening_refused".into());
        event.actor.address = untold.address;
        // Each of them is on record by itself, or counted there: this is for those who are told.
        desk.recorder.offer(event);
    }
}

/// Puts on record that a drill is overdue: once, and again each week that it stays so, however many nodes
/// see it. `noted` is what this node wrote last.
///
/// # Errors
/// When the database is away.
pub async fn note_drill_overdue(
    desk: &Desk,
    in_force: Option<&InForce>,
    noted: &mut Option<EventId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let Some(in_force) = in_force else { return Ok(()) };
    let last = desk.directory.emergency.drilled_at();
    let since = match last {
        Some(last) => last.plus(in_force.drill_every),
        // A path that was never drilled is overdue from its first day on.
        None => {
            let changed = desk.store.emergency_events(EventType::BreakGlassCustodiansChanged, |_| true).await?;
            let Some(first) = changed.iter().map(|it| it.clear().time).min() else { return Ok(()) };
            first
        }
    };
    if !since.is_over(now) {
        return Ok(());
    }
    let week = now.since(since).as_millis() / OVERDUE_AGAIN.as_millis();
    // Every node says the same of a week: id and time are of its beginning, whenever it is seen.
    let began = Timestamp::from_millis(since.millis() + week * OVERDUE_AGAIN.as_millis());
    let kind = EventType::BreakGlassDrillOverdue;
    let id = one_id(kind, format!("{} {week}", last.map_or(0, Timestamp::millis)).as_bytes(), began);
    if *noted == Some(id) {
        return Ok(());
    }
    let event = Event::new(id, began, kind, Outcome::Failed)
        .with("last_drill", last.map_or_else(|| "never".to_owned(), |at| at.to_string()))
        .with("due", since.to_string())
        .with("drill_every", in_force.drill_every.to_string());
    if desk.recorder.submit(event).await.is_ok() {
        *noted = Some(id);
    }
    Ok(())
}

/// Learns from the record which openings there are, which wait for their review, and when the last drill
/// was.
///
/// # Errors
/// When the database is away.
pub async fn follow(desk: &Desk, now: Timestamp) -> Result<(), StoreError> {
    let account = Account::read(&desk.store, &[]).await?;
    let emergency = &desk.directory.emergency;
    let found = account.openings(now);
    for opening in found.iter().filter(|it| it.state == EmergencyState::Active) {
        if let Some(known) = opening.known() {
            emergency.know(known);
        }
    }
    // What ended while no node looked is told of late rather than never.
    let told = |it: &&Emergency| of_kind(account.of(&it.id), EventType::BreakGlassExpired).next().is_some();
    for opening in found.iter().filter(|it| it.state == EmergencyState::Expired && !told(it)) {
        if let Some(known) = opening.known() {
            emergency.know(known);
        }
    }
    let waits = |it: &&Emergency| it.state != EmergencyState::Active && !it.is_reviewed();
    let unreviewed: Vec<BreakGlassId> =
        found.iter().filter(waits).filter_map(|it| BreakGlassId::parse(&it.id).ok()).collect();
    emergency.put_unreviewed(&unreviewed);
    let drills = desk.store.emergency_events(EventType::BreakGlassDrilled, |_| true).await?;
    if let Some(last) = drills.iter().map(|event| event.clear().time).max() {
        emergency.drilled(last);
    }
    Ok(())
}

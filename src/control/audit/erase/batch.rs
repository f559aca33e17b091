//! One batch of an erasure: some events lose what is the person's, and it is on record that they did.

use crate::audit::erase::{fields_of, without};
use crate::audit::keep::kept_by;
use crate::audit::{Event, EventType, Outcome, PersonalField};
use crate::control::desk::Desk;
use crate::model::{ErasureId, Timestamp, UserRef};
use crate::store::{ERASURE_BATCH, ERASURE_LOOK, Erasure, Goes, LogEntry, Recorded, StoreError, Taken, Tx};

use super::plan::next_place;

/// Goes on with an erasure, `most` batches at most. Says whether all logs are looked through.
pub(super) async fn some(desk: &Desk, id: ErasureId, most: usize, now: Timestamp) -> Result<bool, StoreError> {
    for _ in 0..most {
        if one(desk, id, now).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The next batch. Says whether there is nothing more to do.
async fn one(desk: &Desk, id: ErasureId, now: Timestamp) -> Result<bool, StoreError> {
    let logs = desk.store.log_list().await?;
    let mut tx = desk.store.begin().await?;
    // ORDER: held from here on, so that two who work on it do so one after the other.
    let Some(erasure) = tx.erasure_hold(id, now).await? else { return Ok(true) };
    for entry in &logs {
        let from = tx.erasure_reached(id, entry.log).await?;
        if from < entry.size {
            look(desk, &mut tx, &erasure, entry, from, now).await?;
            tx.commit().await?;
            return Ok(false);
        }
    }
    tx.erasure_finish(id, now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn look(
    desk: &Desk,
    tx: &mut Tx,
    erasure: &Erasure,
    entry: &LogEntry,
    from: i64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let places = (from, entry.size.min(from + ERASURE_LOOK));
    let found = tx.erasure_matching(entry.log, places, erasure.pseudonym, ERASURE_BATCH).await?;
    let mut taken = Taken::default();
    for event in &found {
        taken.add(take(desk, tx, (erasure.id, erasure.pseudonym), event, now).await?);
    }
    let next = next_place(&found, places);
    tx.erasure_reach(erasure.id, entry.log, next).await?;
    if taken.events > 0 {
        let told = told(desk, erasure.id, taken, now).with("pseudonym", erasure.pseudonym.to_string());
        let mut told = told.with("from", from).with("to", next);
        told.resource = Some(entry.log.node().to_string().into());
        tx.event_append(&told).await?;
        tx.erasure_count(erasure.id, taken).await?;
    }
    Ok(())
}

/// What is said of a batch.
pub(super) fn told(desk: &Desk, id: ErasureId, taken: Taken, now: Timestamp) -> Event {
    Event::new(desk.event_id(now), now, EventType::AuditErased, Outcome::Success)
        .with("erasure", id.to_string())
        .with("count", taken.events)
        .with("fields", taken.fields)
        .with("whole", taken.texts)
}

/// Takes what is the person's from one event, unless a rule keeps it: that is written down.
pub(super) async fn take(
    desk: &Desk,
    tx: &mut Tx,
    (id, pseudonym): (ErasureId, UserRef),
    event: &Recorded,
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let clear = event.clear();
    let fields = fields_of(&event.sealed, event.text("/subject/id"), pseudonym);
    // What has no number yet has no leaf that commits to it: it is found when the logs are looked
    // through once more.
    if fields.is_empty() || event.seq.is_none() {
        return Ok(Taken::default());
    }
    if let Some((rule, until)) = kept_by(&desk.settings.keep, clear.kind, clear.time, now) {
        tx.erasure_keep(id, clear.id, (&rule.name, until), Goes::Values).await?;
        return Ok(Taken::default());
    }
    let (personal, salts) = without(&event.sealed, &fields);
    if !tx.event_erase(clear.id, personal, salts).await? {
        return Ok(Taken::default());
    }
    Ok(Taken { events: 1, fields: i64::try_from(fields.len()).unwrap_or(i64::MAX), texts: 0 })
}

/// Takes from a request of somebody else its path, in which the person is named, unless a rule keeps it.
pub(super) async fn take_path(
    desk: &Desk,
    tx: &mut Tx,
    id: ErasureId,
    event: &Recorded,
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let clear = event.clear();
    if event.personal(PersonalField::Path).is_none() {
        return Ok(Taken::default());
    }
    if let Some((rule, until)) = kept_by(&desk.settings.keep, clear.kind, clear.time, now) {
        tx.erasure_keep(id, clear.id, (&rule.name, until), Goes::Values).await?;
        return Ok(Taken::default());
    }
    let (personal, salts) = without(&event.sealed, &[PersonalField::Path]);
    let gone = tx.event_erase(clear.id, personal, salts).await?;
    Ok(Taken { events: i64::from(gone), fields: i64::from(gone), texts: 0 })
}

/// Takes all of an event's content, unless a rule keeps it.
pub(super) async fn take_whole(
    desk: &Desk,
    tx: &mut Tx,
    id: ErasureId,
    event: &Recorded,
    now: Timestamp,
) -> Result<Taken, StoreError> {
    let clear = event.clear();
    if let Some((rule, until)) = kept_by(&desk.settings.keep, clear.kind, clear.time, now) {
        tx.erasure_keep(id, clear.id, (&rule.name, until), Goes::Whole).await?;
        return Ok(Taken::default());
    }
    let gone = tx.event_erase_whole(clear.id).await?;
    Ok(Taken { texts: i64::from(gone), ..Taken::default() })
}

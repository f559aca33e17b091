//! Retention: events that are older than `[audit] retention` lose their content; their leaves stay,
//! and with them every proof. What was pruned is itself an event, and so is what a stream had not sent by
//! then.

use crate::audit::{Event, EventType, Outcome};
use crate::control::desk::Desk;
use crate::model::{EventId, Timestamp, Ttl};
use crate::store::StoreError;

use super::stream;

/// Places of a log that one transaction looks at.
const BATCH: i64 = 500;
/// Transactions of one round at most.
const ROUNDS_MAX: usize = 20;

/// Prunes what is older than `retention`, some thousand events at most; nothing while the clock may be
/// ahead. Gives how many.
///
/// # Errors
/// When the database is away.
pub async fn prune(desk: &Desk, retention: Ttl, now: Timestamp) -> Result<u64, StoreError> {
    // What is to be kept may not go because a clock is ahead.
    if desk.clock_guard.may_be_ahead() {
        return Ok(0);
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    let cutoff = now.minus(retention);
    let mut total = 0;
    for entry in desk.store.log_list().await? {
        let (mut from, first) = (entry.pruned_to, entry.pruned_to);
        let mut pruned = 0;
        for _ in 0..ROUNDS_MAX {
            let mut tx = desk.store.begin().await?;
            let (count, next) = tx.event_prune(entry.log, from, BATCH, cutoff).await?;
            if count > 0 {
                // ORDER: each batch commits with the event that tells of it.
                let id = EventId::fresh(now, &*desk.entropy);
                let mut event = Event::new(id, now, EventType::AuditPruned, Outcome::Success)
                    .with("before", cutoff.to_string())
                    .with("from", from)
                    .with("to", next)
                    .with("count", count);
                event.resource = Some(entry.log.node().to_string().into());
                tx.event_append(&event).await?;
                stream::note_gaps(&mut tx, desk, entry.log, (from, next), now).await?;
            }
            tx.commit().await?;
            pruned += count;
            if next == from || next < from + BATCH {
                break;
            }
            from = next;
        }
        if pruned > 0 {
            tracing::info!(log = %entry.log.node(), from = first, pruned, "old events were pruned; their leaves stay");
        }
        total += pruned;
    }
    Ok(total)
}

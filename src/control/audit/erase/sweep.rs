//! What time does to erasures: those that were broken off go on, logs are looked through once more for
//! what came late, and what a rule held back goes when its time is over.

use crate::control::desk::Desk;
use crate::model::{ErasureId, NodeId, Timestamp, Ttl};
use crate::store::{ERASURE_BATCH, Goes, HeldBack, Recorded, StoreError, Taken, Tx};

use super::batch;

/// Erasures that one round looks at.
const DUE: u32 = 20;
/// Batches of one erasure in one round.
const BATCHES: usize = 50;
/// Batches of what rules held back in one round.
const HELD_BATCHES: usize = 20;
/// How long a node has the duty before another may take it.
const DUTY: Ttl = Ttl::seconds(60);

/// One round; nothing while another node has the duty.
///
/// # Errors
/// When the database is away.
pub async fn round(desk: &Desk, node: NodeId, now: Timestamp) -> Result<(), StoreError> {
    // What is kept by law may not go because a clock is ahead.
    if desk.clock_guard.check().is_err() {
        return Ok(());
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    let due = desk.store.erasure_due(now, DUE).await?;
    if due.is_empty() && !desk.store.erasure_held_due(now).await? {
        return Ok(());
    }
    let mut tx = desk.store.begin().await?;
    let ours = tx.duty_take("erasure", node, now.plus(DUTY), now).await?;
    tx.commit().await?;
    if !ours {
        return Ok(());
    }
    for _ in 0..HELD_BATCHES {
        if !held(desk, now).await? {
            break;
        }
    }
    for erasure in due {
        // One that can't be gone on with keeps none of the others waiting.
        match batch::some(desk, erasure.id, BATCHES, now).await {
            Ok(true) => tracing::info!(erasure = %erasure.id, "all logs are looked through for an erasure"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, erasure = %erasure.id, "an erasure could not go on"),
        }
    }
    super::let_go(desk).await;
    Ok(())
}

/// Takes a batch of what nothing holds back any more. Says whether there may be more.
async fn held(desk: &Desk, now: Timestamp) -> Result<bool, StoreError> {
    let mut tx = desk.store.begin().await?;
    let found = tx.erasure_held(now, ERASURE_BATCH).await?;
    if found.is_empty() {
        return Ok(false);
    }
    let more = found.len() >= usize::try_from(ERASURE_BATCH).unwrap_or(usize::MAX);
    let mut ids: Vec<ErasureId> = found.iter().map(|held| held.erasure).collect();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let of_one: Vec<&HeldBack> = found.iter().filter(|held| held.erasure == id).collect();
        let_go(desk, &mut tx, id, &of_one, now).await?;
    }
    tx.commit().await?;
    Ok(more)
}

async fn let_go(desk: &Desk, tx: &mut Tx, id: ErasureId, held: &[&HeldBack], now: Timestamp) -> Result<(), StoreError> {
    let (mut taken, mut paths) = (Taken::default(), 0);
    let mut rules: Vec<&str> = Vec::new();
    let Some(first) = held.first() else { return Ok(()) };
    for one in held {
        // ORDER: first let go, since a rule that is longer by now holds it back again.
        if !tx.erasure_let_go(id, one.event).await? {
            continue;
        }
        if let Some(event) = tx.event_fetch(&one.event).await? {
            taken.add(match one.what {
                Goes::Whole => batch::take_whole(desk, tx, id, &event, now).await?,
                // What is kept for its path is another's: nothing else in it is the person's.
                Goes::Values if is_of_another(&event, one) => {
                    let of_path = batch::take_path(desk, tx, id, &event, now).await?;
                    paths += of_path.fields;
                    of_path
                }
                Goes::Values => batch::take(desk, tx, (id, first.pseudonym), &event, now).await?,
            });
        }
        if !one.rule.is_empty() && !rules.contains(&one.rule.as_str()) {
            rules.push(&one.rule);
        }
    }
    if taken != Taken::default() {
        let mut event = batch::told(desk, id, taken, now)
            .with("pseudonym", first.pseudonym.to_string())
            .with("paths", paths)
            .with("rules", rules.into_iter().map(str::to_owned).collect::<Vec<_>>());
        event.resource = Some(first.pseudonym.to_string().into());
        tx.event_append(&event).await?;
        tx.erasure_count(id, taken).await?;
    }
    tx.erasure_finish_kept(id, now).await
}

/// Whether an event is held back for its path alone: others acted, and no rule kept it as one about the person.
fn is_of_another(event: &Recorded, held: &HeldBack) -> bool {
    let pseudonym = held.pseudonym.to_string();
    event.clear().actor != Some(held.pseudonym)
        && (held.rule.is_empty() || event.text("/subject/id") != Some(&*pseudonym))
}

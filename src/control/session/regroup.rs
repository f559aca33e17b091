//! Giving sessions the groups that their provider tells now.

use crate::audit::{Actor, EventType, basis};
use crate::model::Timestamp;
use crate::store::{RevocationKind, StoreError, StoredSession};

use super::super::desk::Desk;
use super::{event, obey};

/// How often sessions are listed again until all have the groups.
const PASSES_MAX: usize = 100;

/// Gives the sessions that rest on one sign-in the groups that its provider tells now. Gives how
/// many had others.
///
/// # Errors
/// When the database refused.
pub async fn groups_replace(desk: &Desk, link: &str, groups: &[String], now: Timestamp) -> Result<usize, StoreError> {
    let mut total = 0;
    // A session that was being started from one of them has the old groups and is found next time.
    for _ in 0..PASSES_MAX {
        let found = desk.store.session_list_by_link(link, now).await?;
        let mut stale: Vec<&StoredSession> = found.iter().filter(|stored| *stored.session.groups != *groups).collect();
        if stale.is_empty() {
            break;
        }
        // ORDER: as `session/mod.rs` has it.
        stale.sort_unstable_by_key(|stored| stored.session.id);
        let mut tx = desk.store.begin().await?;
        let mut changed = Vec::with_capacity(stale.len());
        for stored in stale {
            let Some(regrouped) = tx.session_regroup(stored.session.id, groups, now).await? else { continue };
            changed.push((&stored.session.groups, regrouped));
        }
        for (_, regrouped) in &changed {
            tx.person_regrouped(&regrouped.session).await?;
        }
        for (before, regrouped) in &changed {
            let id = regrouped.session.id;
            let mut event = event(desk, EventType::SessionGroups, &Actor::default(), id, now)
                .with(basis::GROUPS_ADDED, without(groups, before))
                .with(basis::GROUPS_REMOVED, without(before, groups));
            event.subject = Some(regrouped.session.principal.clone());
            tx.event_append(&event).await?;
            tx.revocation_append(RevocationKind::SessionChanged, &id.to_string(), now).await?;
        }
        tx.commit().await?;
        obey(desk, changed.iter().map(|(_, regrouped)| regrouped));
        total += changed.len();
    }
    Ok(total)
}

/// Those of `groups` that are not in `others`.
fn without(groups: &[String], others: &[String]) -> Vec<String> {
    groups.iter().filter(|group| !others.contains(group)).cloned().collect()
}

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
        let stale: Vec<&StoredSession> = found.iter().filter(|stored| *stored.session.groups != *groups).collect();
        if stale.is_empty() {
            break;
        }
        let mut tx = desk.store.begin().await?;
        let mut changed = Vec::with_capacity(stale.len());
        for stored in stale {
            let id = stored.session.id;
            let Some(regrouped) = tx.session_regroup(id, groups, now).await? else { continue };
            tx.person_regrouped(&regrouped.session).await?;
            let mut event = event(desk, EventType::SessionGroups, &Actor::default(), id, now)
                .with(basis::GROUPS_ADDED, without(groups, &stored.session.groups))
                .with(basis::GROUPS_REMOVED, without(&stored.session.groups, groups));
            event.subject = Some(regrouped.session.principal.clone());
            tx.event_append(&event).await?;
            tx.revocation_append(RevocationKind::SessionChanged, &id.to_string(), now).await?;
            changed.push(regrouped);
        }
        tx.commit().await?;
        obey(desk, changed.iter());
        total += changed.len();
    }
    Ok(total)
}

/// Those of `groups` that are not in `others`.
fn without(groups: &[String], others: &[String]) -> Vec<String> {
    groups.iter().filter(|group| !others.contains(group)).cloned().collect()
}

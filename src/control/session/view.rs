//! Looking sessions up, listing them, and forgetting what is long over.

use std::sync::Arc;

use crate::identity::directory::{CookieEntry, CookieHash, LiveSession};
use crate::model::{SessionId, Timestamp, Ttl};
use crate::policy::InstallationAction;
use crate::store::{SESSION_PAGE_MAX, StoreError, StoredSession};

use super::super::access::human::LINKED_FOR;
use super::super::caller::Caller;
use super::super::desk::Desk;

/// How long a session is kept after its end by itself, so that a late use is told the reason.
const KEPT: Ttl = Ttl::hours(24);
/// How long is remembered who signed in last and may be told of what waits for them, and which addresses
/// were theirs: as long as these link accounts.
const PERSON_KEPT: Ttl = LINKED_FOR;

/// The session as this node obeys it, read from the database if this node hasn't heard of it.
///
/// # Errors
/// When the database is away.
pub async fn fetch(desk: &Desk, id: SessionId, now: Timestamp) -> Result<Option<Arc<LiveSession>>, StoreError> {
    if let Some(known) = desk.directory.session(id) {
        return Ok(Some(known));
    }
    let Some(stored) = desk.store.session_fetch(id).await? else { return Ok(None) };
    if !stored.session.expires_at.is_over(now) {
        desk.directory.insert(stored.session);
    }
    Ok(desk.directory.session(id))
}

/// The session of a browser's cookie at `host`, read from the database if this node hasn't heard
/// of it. A cookie of another host is none.
///
/// # Errors
/// When the database is away.
pub async fn fetch_by_cookie(
    desk: &Desk,
    hash: &CookieHash,
    host: &str,
    now: Timestamp,
) -> Result<Option<Arc<LiveSession>>, StoreError> {
    let entry = match desk.directory.cookie(hash) {
        Some(entry) => entry,
        None => match desk.store.session_cookie_fetch(hash).await? {
            Some(cookie) if !cookie.expires_at.is_over(now) => {
                let entry = CookieEntry { session: cookie.session, host: cookie.host.into() };
                desk.directory.cookie_insert(*hash, entry.clone());
                entry
            }
            _ => return Ok(None),
        },
    };
    if *entry.host == *host { fetch(desk, entry.session, now).await } else { Ok(None) }
}

/// Whose sessions are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The caller's.
    Own,
    /// All that the caller may revoke.
    All,
}

/// Live sessions, newest first, and whether there are more.
///
/// # Errors
/// When the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    whose: Whose,
    before: Option<SessionId>,
    now: Timestamp,
) -> Result<(Vec<StoredSession>, Option<SessionId>), StoreError> {
    let principal = match whose {
        Whose::All if may_end_others(desk, caller, now) => None,
        Whose::All | Whose::Own => Some(caller.principal()),
    };
    let mut found = desk.store.session_list(principal, before, SESSION_PAGE_MAX + 1, now).await?;
    let page = usize::try_from(SESSION_PAGE_MAX).unwrap_or(usize::MAX);
    let more = found.len() > page;
    found.truncate(page);
    let next = found.last().filter(|_| more).map(|stored| stored.session.id);
    Ok((found, next))
}

fn may_end_others(desk: &Desk, caller: &Caller, now: Timestamp) -> bool {
    caller.may(desk, InstallationAction::Revoke, now) || caller.may(desk, InstallationAction::Administer, now)
}

/// Forgets sessions, cookies, codes and tokens that are long over: tidying only, in small batches.
/// Gives how many rows went.
///
/// # Errors
/// When the database is away.
pub async fn sweep(desk: &Desk, now: Timestamp) -> Result<u64, StoreError> {
    let before = now.minus(KEPT);
    let mut tx = desk.store.begin().await?;
    let gone = tx.oauth_sweep(before).await? + tx.session_sweep(before).await? + tx.session_use_sweep().await?;
    let gone = gone + tx.credential_sweep(now).await? + tx.person_sweep(now.minus(PERSON_KEPT)).await?;
    tx.commit().await?;
    Ok(gone)
}

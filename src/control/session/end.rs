//! Ending sessions: one by id, all of a sign-in or a person, and on a caller's word.

use std::fmt;

use crate::audit::{Actor, EventType};
use crate::model::{Principal, SessionEnd, SessionId, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{RevocationKind, SESSION_PAGE_MAX, StoreError, StoredSession, Tx};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::event;

/// The longest reason that is taken from people, in characters.
pub const REASON_CHARS_MAX: usize = 1000;
/// How often sessions are listed again until none is left. Each can start one more at a time only
/// while it lives, so two passes are the rule.
const PASSES_MAX: usize = 100;

/// Ends a session if it is live; `None` when it was over. Whether the actor may is the caller's
/// to know.
///
/// # Errors
/// When the database refused.
pub async fn end(
    desk: &Desk,
    id: SessionId,
    why: SessionEnd,
    actor: &Actor,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let mut tx = desk.store.begin().await?;
    let ended = end_within(desk, &mut tx, id, why, actor, reason, now).await?;
    tx.commit().await?;
    obey(desk, ended.iter());
    Ok(ended)
}

/// Ends a session within a larger transaction; [`obey`] follows its commit.
///
/// # Errors
/// When the database refused.
pub async fn end_within(
    desk: &Desk,
    tx: &mut Tx,
    id: SessionId,
    why: SessionEnd,
    actor: &Actor,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Option<StoredSession>, StoreError> {
    let Some(ended) = tx.session_end(id, why, now).await? else { return Ok(None) };
    let mut event = event(desk, EventType::SessionEnd, actor, id, now).with("end", why.name());
    event.subject = Some(ended.session.principal.clone());
    if let Some(reason) = reason {
        event = event.with("reason", reason);
    }
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::SessionEnded, &id.to_string(), now).await?;
    Ok(Some(ended))
}

/// Makes this node obey what was committed of sessions: ended ones are cut, others are updated.
pub fn obey<'a>(desk: &Desk, changed: impl Iterator<Item = &'a StoredSession>) {
    for stored in changed {
        desk.directory.insert(stored.session.clone());
    }
}

/// Ends the sessions that rest on the provider's session `sid`.
///
/// # Errors
/// When the database refused.
pub async fn end_by_provider_session(
    desk: &Desk,
    provider: &str,
    sid: &str,
    now: Timestamp,
) -> Result<usize, StoreError> {
    end_all(desk, Which::ProviderSession { provider, sid }, now).await
}

/// Ends all sessions of a principal.
///
/// # Errors
/// When the database refused.
pub async fn end_by_principal(desk: &Desk, principal: &Principal, now: Timestamp) -> Result<usize, StoreError> {
    end_all(desk, Which::Principal(principal), now).await
}

/// Ends the sessions that rest on one sign-in, because its provider refused it.
///
/// # Errors
/// When the database refused.
pub async fn end_by_link(desk: &Desk, link: &str, now: Timestamp) -> Result<usize, StoreError> {
    end_all(desk, Which::Link(link), now).await
}

/// Which sessions are to end.
#[derive(Clone, Copy)]
enum Which<'a> {
    ProviderSession { provider: &'a str, sid: &'a str },
    Principal(&'a Principal),
    Link(&'a str),
}

impl Which<'_> {
    /// Those that live, or a page of them.
    async fn live(self, desk: &Desk, now: Timestamp) -> Result<Vec<SessionId>, StoreError> {
        let found = match self {
            Self::ProviderSession { provider, sid } => {
                return desk.store.link_sessions_by_sid(provider, sid, now).await;
            }
            Self::Principal(principal) => desk.store.session_list(Some(principal), None, SESSION_PAGE_MAX, now).await?,
            Self::Link(link) => desk.store.session_list_by_link(link, now).await?,
        };
        Ok(found.iter().map(|stored| stored.session.id).collect())
    }
}

/// Ends them until none lives: a session that was being started from one of them is listed the
/// next time.
async fn end_all(desk: &Desk, which: Which<'_>, now: Timestamp) -> Result<usize, StoreError> {
    let actor = Actor::default();
    let mut total = 0;
    for _ in 0..PASSES_MAX {
        let mut ids = which.live(desk, now).await?;
        if ids.is_empty() {
            break;
        }
        // ORDER: always the same, so that two who end the same sessions wait and don't deadlock.
        ids.sort_unstable();
        let mut tx = desk.store.begin().await?;
        let mut ended = Vec::with_capacity(ids.len());
        for id in ids {
            ended.extend(end_within(desk, &mut tx, id, SessionEnd::Provider, &actor, None, now).await?);
        }
        if let Which::Link(_) = which {
            // The provider does not know them any more: nobody tells them of anything.
            for stored in &ended {
                tx.person_forget(&stored.session.principal).await?;
            }
        }
        tx.commit().await?;
        obey(desk, ended.iter());
        total += ended.len();
    }
    Ok(total)
}

/// Why a session was not revoked.
#[derive(Debug)]
pub enum RevokeError {
    /// There is none, or the caller may not know that there is.
    NotFound,
    /// The caller may look at it but not end it.
    Denied,
    /// The reason is missing or too long.
    Reason,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such session"),
            Self::Denied => f.write_str("no policy lets you revoke sessions of others"),
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters"),
            Self::Store(error) => write!(f, "the session could not be ended: {error}"),
        }
    }
}

impl std::error::Error for RevokeError {}

impl From<StoreError> for RevokeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Ends a session on a caller's word: one's own always, others' where policy says so. One that is
/// over already stays as it is and is answered the same.
///
/// # Errors
/// When the caller may not, or the database refused.
pub async fn revoke(
    desk: &Desk,
    caller: &Caller,
    id: SessionId,
    reason: &str,
    now: Timestamp,
) -> Result<StoredSession, RevokeError> {
    let reason = reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return Err(RevokeError::Reason);
    }
    let stored = desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound)?;
    if stored.session.principal != *caller.principal() && !caller.may(desk, InstallationAction::Revoke, now) {
        let known = caller.may(desk, InstallationAction::Administer, now);
        return Err(if known { RevokeError::Denied } else { RevokeError::NotFound });
    }
    let ended = end(desk, id, SessionEnd::Revoked, &caller.actor(), Some(reason), now).await?;
    match ended {
        Some(ended) => Ok(ended),
        None => desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound),
    }
}

//! Ending sessions: one by id, all of a sign-in or that a provider means, and on a caller's word.

use std::fmt;

use crate::audit::{Actor, EventType};
use crate::identity::logout_token::LoggedOut;
use crate::model::text::{REASON_CHARS_MAX, one_line};
use crate::model::{Principal, SessionEnd, SessionId, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{RevocationKind, StoreError, StoredSession, Tx};

use super::super::caller::Caller;
use super::super::desk::Desk;
use super::super::oauth::run;
use super::event;

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
    let ended = tx.session_end(id, why, now).await?;
    tell(desk, tx, ended.as_slice(), why, actor, reason, now).await?;
    Ok(ended)
}

/// Ends sessions within a larger transaction, because their provider says so; [`obey`] follows its commit.
///
/// # Errors
/// When the database refused.
pub async fn end_many_within(
    desk: &Desk,
    tx: &mut Tx,
    ids: Vec<SessionId>,
    now: Timestamp,
) -> Result<Vec<StoredSession>, StoreError> {
    let ended = end_rows(tx, ids, now).await?;
    tell(desk, tx, &ended, SessionEnd::Provider, &Actor::default(), None, now).await?;
    Ok(ended)
}

/// Ends the rows alone: nobody is told yet.
async fn end_rows(tx: &mut Tx, mut ids: Vec<SessionId>, now: Timestamp) -> Result<Vec<StoredSession>, StoreError> {
    // ORDER: always the same, so that two who end the same sessions wait and don't deadlock.
    ids.sort_unstable();
    ids.dedup();
    let mut ended = Vec::with_capacity(ids.len());
    for id in ids {
        ended.extend(tx.session_end(id, SessionEnd::Provider, now).await?);
    }
    Ok(ended)
}

/// Writes events and feed entries of sessions whose rows this transaction ended.
/// ORDER: last of all that waits for a row (`session/mod.rs`).
async fn tell(
    desk: &Desk,
    tx: &mut Tx,
    ended: &[StoredSession],
    why: SessionEnd,
    actor: &Actor,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    for stored in ended {
        let id = stored.session.id;
        let mut event = event(desk, EventType::SessionEnd, actor, id, now).with("end", why.name());
        event.subject = Some(stored.session.principal.clone());
        if let Some(reason) = reason {
            event = event.with("reason", reason);
        }
        tx.event_append(&event).await?;
        tx.revocation_append(RevocationKind::SessionEnded, &id.to_string(), now).await?;
    }
    Ok(())
}

/// Makes this node obey what was committed of sessions: ended ones are cut, others are updated.
pub fn obey<'a>(desk: &Desk, changed: impl Iterator<Item = &'a StoredSession>) {
    for stored in changed {
        desk.directory.insert(stored.session.clone());
    }
}

/// The live sessions that a provider's word of a sign-out means.
///
/// # Errors
/// When the database is away.
pub async fn logged_out(
    desk: &Desk,
    provider: &str,
    who: &LoggedOut,
    now: Timestamp,
) -> Result<Vec<SessionId>, StoreError> {
    match who {
        LoggedOut::Sid { sid, subject } => {
            let mut found = desk.store.link_sessions_by_sid(provider, sid, now).await?;
            if let Some(subject) = subject {
                found.extend(desk.store.link_sessions_without_sid(provider, subject, now).await?);
            }
            Ok(found)
        }
        LoggedOut::Subject(subject) => desk.store.link_sessions_by_subject(provider, subject, now).await,
    }
}

/// Ends the sessions that a provider's word of a sign-out means.
///
/// # Errors
/// When the database refused.
pub async fn end_by_logout(desk: &Desk, provider: &str, who: &LoggedOut, now: Timestamp) -> Result<usize, StoreError> {
    end_all(desk, Which::LoggedOut { provider, who }, now).await
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
    LoggedOut { provider: &'a str, who: &'a LoggedOut },
    Link(&'a str),
}

impl Which<'_> {
    /// Those that live.
    async fn live(self, desk: &Desk, now: Timestamp) -> Result<Vec<SessionId>, StoreError> {
        match self {
            Self::LoggedOut { provider, who } => logged_out(desk, provider, who, now).await,
            Self::Link(link) => {
                let found = desk.store.session_list_by_link(link, now).await?;
                Ok(found.iter().map(|stored| stored.session.id).collect())
            }
        }
    }
}

/// Ends them until none lives: a session that was being started from one of them is listed the
/// next time.
async fn end_all(desk: &Desk, which: Which<'_>, now: Timestamp) -> Result<usize, StoreError> {
    let mut total = 0;
    for _ in 0..PASSES_MAX {
        let ids = which.live(desk, now).await?;
        if ids.is_empty() {
            break;
        }
        let mut tx = desk.store.begin().await?;
        let ended = end_rows(&mut tx, ids, now).await?;
        if let Which::Link(_) = which {
            for stored in &ended {
                forget_if_gone(&mut tx, &stored.session.principal, now).await?;
            }
        }
        tell(desk, &mut tx, &ended, SessionEnd::Provider, &Actor::default(), None, now).await?;
        tx.commit().await?;
        obey(desk, ended.iter());
        total += ended.len();
    }
    Ok(total)
}

/// Nobody tells a person of anything whom their provider does not know any more. One refresh that was
/// refused says that only where no other sign-in of theirs lives: a provider also refuses a token that
/// it let run out or that was used twice.
async fn forget_if_gone(tx: &mut Tx, principal: &Principal, now: Timestamp) -> Result<(), StoreError> {
    match tx.session_newest(principal, now).await? {
        Some(_) => Ok(()),
        None => tx.person_forget(principal).await,
    }
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
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters that all show"),
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

/// Ends a session on a caller's word: one's own always, others' where policy says so; of the jobs of one
/// rule another run's is not one's own (`control/oauth/run.rs`). One that is over already stays as it is and is answered the same.
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
    let reason = one_line(reason, REASON_CHARS_MAX).ok_or(RevokeError::Reason)?;
    let stored = desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound)?;
    if !run::is_same(&stored.session, caller.session()) && !caller.may(desk, InstallationAction::Revoke, now) {
        let listed = stored.session.principal == *caller.principal();
        let known = listed || caller.may(desk, InstallationAction::Administer, now);
        return Err(if known { RevokeError::Denied } else { RevokeError::NotFound });
    }
    let ended = end(desk, id, SessionEnd::Revoked, &caller.actor(), Some(&reason), now).await?;
    match ended {
        Some(ended) => Ok(ended),
        None => desk.store.session_fetch(id).await?.ok_or(RevokeError::NotFound),
    }
}

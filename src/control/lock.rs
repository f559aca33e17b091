//! Barring a principal and lifting the bar. Whether the caller may is asked of the policy before
//! (`lock` on the installation).

use std::fmt;

use crate::audit::{Actor, Event, EventType, Outcome};
use crate::identity::directory::Directory;
use crate::model::text::{REASON_CHARS_MAX, one_line};
use crate::model::{Entropy, EventId, LockId, Principal, Timestamp};
use crate::store::{Lock, RevocationKind, Store, StoreError};

/// Why a principal could not be barred, or the bar not lifted.
#[derive(Debug)]
pub enum LockError {
    /// There is no reason, or an over-long one.
    Reason,
    /// It is barred already.
    AlreadyLocked { principal: Principal },
    /// It is not barred.
    NotLocked { principal: Principal },
    /// The database did not do what it was asked.
    Store(StoreError),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reason => {
                write!(f, "a lock needs a reason of 1 to {REASON_CHARS_MAX} characters that all show")
            }
            Self::AlreadyLocked { principal } => write!(f, "`{principal}` is locked already"),
            Self::NotLocked { principal } => write!(f, "`{principal}` is not locked"),
            Self::Store(_) => f.write_str("the lock could not be changed"),
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Reason | Self::AlreadyLocked { .. } | Self::NotLocked { .. } => None,
        }
    }
}

impl From<StoreError> for LockError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Bars `principal` until someone lifts it.
///
/// # Errors
/// When there is no reason, it is barred already, or the database is away.
pub async fn set(
    store: &Store,
    by: Actor,
    principal: &Principal,
    reason: &str,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Lock, LockError> {
    let reason = checked(reason)?;
    let lock =
        Lock { id: LockId::fresh(now, entropy), principal: principal.clone(), reason: reason.clone(), set_at: now };
    let mut tx = store.begin().await?;
    if !tx.lock_insert(&lock).await? {
        return Err(LockError::AlreadyLocked { principal: principal.clone() });
    }
    let event = event(EventType::LockSet, by, &lock, &reason, now, entropy);
    tx.event_append(&event).await?;
    // ORDER: the feed's counter is held until the commit, so it comes last.
    tx.revocation_append(RevocationKind::LockSet, &principal.to_string(), now).await?;
    tx.commit().await?;
    Ok(lock)
}

/// Lifts the bar on `principal`.
///
/// # Errors
/// When there is no reason, it is not barred, or the database is away.
pub async fn clear(
    store: &Store,
    by: Actor,
    principal: &Principal,
    reason: &str,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> Result<Lock, LockError> {
    let reason = checked(reason)?;
    let mut tx = store.begin().await?;
    let Some(lock) = tx.lock_clear(principal, now).await? else {
        return Err(LockError::NotLocked { principal: principal.clone() });
    };
    let event = event(EventType::LockCleared, by, &lock, &reason, now, entropy);
    tx.event_append(&event).await?;
    tx.revocation_append(RevocationKind::LockCleared, &principal.to_string(), now).await?;
    tx.commit().await?;
    Ok(lock)
}

/// Lets `principal` through at this node, unless somebody bars them. What can't be asked changes nothing.
///
/// # Errors
/// When the database is away.
pub async fn lift(store: &Store, directory: &Directory, principal: &Principal) -> Result<(), StoreError> {
    // ORDER: the bar as it is here, then the database, then nothing that waits. Whoever breaks this off leaves
    // the bar, and one that is set after the database was asked is another.
    let bar = directory.bar(principal);
    let standing = store.lock_fetch(principal).await?;
    if let (Some(bar), None) = (bar, standing) {
        directory.unlock_if(principal, bar);
    }
    Ok(())
}

/// All who are barred, oldest first.
///
/// # Errors
/// When the database is away.
pub async fn list(store: &Store) -> Result<Vec<Lock>, LockError> {
    Ok(store.lock_list().await?)
}

fn checked(reason: &str) -> Result<String, LockError> {
    one_line(reason, REASON_CHARS_MAX).ok_or(LockError::Reason)
}

fn event(kind: EventType, by: Actor, lock: &Lock, reason: &str, now: Timestamp, entropy: &dyn Entropy) -> Event {
    let mut event = Event::new(EventId::fresh(now, entropy), now, kind, Outcome::Success);
    event.actor = by;
    event.subject = Some(lock.principal.clone());
    event.resource = Some(lock.id.to_string().into());
    event.with("reason", reason.trim())
}

//! Notices as people may see them: what waits, what was taken, what was given up; and having one that
//! was given up tried again.

use std::fmt;

use crate::audit::{Event, EventType, Outcome};
use crate::model::{EventId, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{NoticePlace, NoticeState, StoreError, StoredNotice};

use super::caller::Caller;
use super::desk::Desk;

/// Why notices are not told of, or not tried again.
#[derive(Debug)]
pub enum NoticeError {
    /// No policy lets the caller.
    Denied,
    /// There is none of that event, as far as the caller may know.
    NotFound,
    /// None of them was given up.
    NotDead,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for NoticeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str(
                "no policy lets you have notices tried again: that is for those who may `lock` or `administer` here",
            ),
            Self::NotFound => f.write_str("there is no such notice"),
            Self::NotDead => f.write_str("none of its notices was given up: there is nothing to try again"),
            Self::Store(error) => write!(f, "notices could not be read: {error}"),
        }
    }
}

impl std::error::Error for NoticeError {}

impl From<StoreError> for NoticeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn may_any(desk: &Desk, caller: &Caller, actions: &[InstallationAction], now: Timestamp) -> bool {
    actions.iter().any(|action| caller.may(desk, *action, now))
}

fn may_see(desk: &Desk, caller: &Caller, now: Timestamp) -> bool {
    use InstallationAction as A;
    may_any(desk, caller, &[A::ReadAudit, A::Lock, A::Administer], now)
}

/// Notices, newest event first, with the place after which the next page begins; none for those who may
/// neither read the record nor lock nor administer.
///
/// # Errors
/// When the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    state: Option<NoticeState>,
    after: Option<&NoticePlace>,
    limit: u32,
    now: Timestamp,
) -> Result<(Vec<StoredNotice>, Option<NoticePlace>), NoticeError> {
    if !may_see(desk, caller, now) {
        return Ok((Vec::new(), None));
    }
    let found = desk.store.notice_list(state, after, limit).await?;
    let whole = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next =
        found.last().filter(|_| whole).map(|last| NoticePlace { event: last.event, channel: last.channel.clone() });
    Ok((found, next))
}

/// Has what was given up of an event tried again: on one channel, or on all. Gives those notices.
///
/// # Errors
/// When the caller may not, there is none, or none was given up.
pub async fn retry(
    desk: &Desk,
    caller: &Caller,
    event: EventId,
    channel: Option<&str>,
    now: Timestamp,
) -> Result<Vec<StoredNotice>, NoticeError> {
    if !may_see(desk, caller, now) {
        return Err(NoticeError::NotFound);
    }
    if !may_any(desk, caller, &[InstallationAction::Lock, InstallationAction::Administer], now) {
        return Err(NoticeError::Denied);
    }
    let mut found = desk.store.notice_list_of(event).await?;
    found.retain(|notice| channel.is_none_or(|channel| channel == notice.channel));
    if found.is_empty() {
        return Err(NoticeError::NotFound);
    }
    let mut tx = desk.store.begin().await?;
    let mut again = Vec::new();
    for notice in &found {
        let Some(retried) = tx.notice_retry(&notice.channel, event, now).await? else { continue };
        let mut told = Event::new(desk.event_id(now), now, EventType::NoticeRetried, Outcome::Success)
            .with("channel", retried.channel.as_str())
            .with("event", event.to_string())
            .with("type", retried.kind.as_str());
        told.actor = caller.actor();
        told.resource = Some(event.to_string().into());
        tx.event_append(&told).await?;
        again.push(retried);
    }
    if again.is_empty() {
        return Err(NoticeError::NotDead);
    }
    tx.commit().await?;
    Ok(again)
}

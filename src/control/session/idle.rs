//! The end of a browser's session that nobody uses (`[session] idle`).
//!
//! What happens when a person leaves: 1. each request with the session's cookie, at the control host
//! ([`use_now`]) or a service (`gateway/authenticate.rs`), notes its use; 2. a request that comes after
//! the session was idle for too long is refused, wherever the last use was noted; 3. the [`round`] of
//! any node ends such sessions for good, on record, which cuts what is open under them. What a person
//! sends over an open WebSocket is a use too; what a page is merely shown is none. The command line's
//! sessions end by their certificate and refresh token instead, which are renewed by being used.

use crate::audit::Actor;
use crate::identity::session_use::step;
use crate::model::{Session, SessionEnd, Timestamp};
use crate::store::StoreError;

use super::super::desk::Desk;
use super::{end_within, obey};

/// Sessions that one round ends at most.
const ROUND_MAX: i64 = 200;

/// A session is used by its cookie at `now`. False when it was idle for too long.
///
/// # Errors
/// When the database is away.
pub async fn use_now(desk: &Desk, session: &Session, now: Timestamp) -> Result<bool, StoreError> {
    let Some(idle) = desk.settings.idle else { return Ok(true) };
    desk.directory.insert(session.clone());
    let Some(known) = desk.directory.session(session.id) else { return Ok(true) };
    if known.used.is_idle(session.created_at, idle, now)
        && let Some(at) = desk.store.session_use_fetch(session.id).await?
    {
        known.used.learn(at);
    }
    if known.used.is_idle(session.created_at, idle, now) {
        return Ok(false);
    }
    if known.used.note(step(idle), now) {
        desk.store.session_use_set(session.id, now).await?;
    }
    Ok(true)
}

/// Writes what moved over streams of this node, and ends sessions that are idle; nothing while the clock
/// may be ahead.
///
/// # Errors
/// When the database is away.
pub async fn round(desk: &Desk, now: Timestamp) -> Result<usize, StoreError> {
    let Some(idle) = desk.settings.idle else { return Ok(0) };
    // By a clock that may be ahead a session that is in use is idle, and what is written of a use hides
    // for as long that there is none.
    if desk.clock_guard.may_be_ahead() {
        return Ok(0);
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    for known in desk.directory.sessions_moved() {
        if !known.used.is_idle(known.session.created_at, idle, now) && known.used.note(step(idle), now) {
            desk.store.session_use_set(known.session.id, now).await?;
        }
    }
    // Another node may have noted a use that it has not written yet: one step later it has.
    let since = now.minus(idle).minus(step(idle));
    let mut total = 0;
    for id in desk.store.session_list_idle(since, ROUND_MAX, now).await? {
        let mut tx = desk.store.begin().await?;
        let ended = end_within(desk, &mut tx, id, SessionEnd::Idle, &Actor::default(), None, now).await?;
        tx.commit().await?;
        total += usize::from(ended.is_some());
        obey(desk, ended.iter());
    }
    Ok(total)
}

//! When browsers' sessions were last used, as far as nodes have written it.
//!
//! INVARIANT: a later use is never overwritten by an earlier one, whichever node writes last.

use crate::model::{SessionId, Timestamp};

use super::{Store, StoreError, Tx};

const USE_SET: &str = "insert into session_use (session, used_at) values ($1, $2) \
    on conflict (session) do update set used_at = excluded.used_at where session_use.used_at < excluded.used_at";
const USE_FETCH: &str = "select used_at from session_use where session = $1";
const IDLE_LIST: &str = "select session.id from session left join session_use on session_use.session = session.id \
    where session.kind = 'browser' and session.ended_at is null and session.expires_at > $1 \
    and coalesce(session_use.used_at, session.created_at) <= $2 order by session.id limit $3";
const USE_SWEEP: &str = "delete from session_use where session in (select session from session_use \
    where not exists (select 1 from session where session.id = session_use.session) limit $1)";
/// Rows that one sweep takes at most.
const SWEEP_MAX: i64 = 500;

impl Store {
    /// The session was used.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn session_use_set(&self, id: SessionId, at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(USE_SET).bind(id.to_string()).bind(at.millis()).execute(tx.connection()).await?;
        tx.commit().await
    }

    /// When any node last wrote that the session was used.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn session_use_fetch(&self, id: SessionId) -> Result<Option<Timestamp>, StoreError> {
        let row: Option<(i64,)> = sqlx::query_as(USE_FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        Ok(row.map(|(at,)| Timestamp::from_millis(at)))
    }

    /// Live sessions of browsers that no node has written to be used after `since`.
    ///
    /// # Errors
    /// When the database is away or a row is inconsistent.
    pub async fn session_list_idle(
        &self,
        since: Timestamp,
        limit: i64,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, StoreError> {
        let query = sqlx::query_as(IDLE_LIST).bind(now.millis()).bind(since.millis()).bind(limit);
        let rows: Vec<(String,)> = query.fetch_all(self.pool()).await?;
        let read = |(id,): (String,)| {
            SessionId::parse(&id).map_err(|_| StoreError::Inconsistent { table: "session", column: "id", row: id })
        };
        rows.into_iter().map(read).collect()
    }
}

impl Tx {
    /// Forgets uses of sessions that are gone; gives how many rows went.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn session_use_sweep(&mut self) -> Result<u64, StoreError> {
        Ok(sqlx::query(USE_SWEEP).bind(SWEEP_MAX).execute(self.connection()).await?.rows_affected())
    }
}

//! What may be used once, and tokens of ours that were withdrawn.
//!
//! INVARIANT: of two who use the same thing at the same moment, on whichever nodes, one inserts the
//! row and the other is told that it is there.

use sqlx::FromRow;

use super::{RevocationKind, Store, StoreError, Tx};
use crate::model::Timestamp;

const USED_INSERT: &str = "insert into used_once (hash, expires_at) values ($1, $2) on conflict (hash) do nothing";
const USED_SWEEP: &str = "delete from used_once where hash in \
    (select hash from used_once where expires_at <= $1 order by expires_at limit $2)";
const REVOKED_INSERT: &str = "insert into revoked_token (jti, expires_at, revoked_at) values ($1, $2, $3) \
    on conflict (jti) do nothing";
const REVOKED_LIST: &str = "select jti, expires_at from revoked_token where expires_at > $1 order by expires_at";
const REVOKED_SWEEP: &str = "delete from revoked_token where jti in \
    (select jti from revoked_token where expires_at <= $1 order by expires_at limit $2)";
/// Rows that one sweep removes of each kind: it must not hold the writer for long.
const SWEEP_MAX: i64 = 1000;

/// Whether something that may be used once was used now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// This was its one use.
    First,
    /// Somebody was first.
    Again,
}

/// A token of ours that was withdrawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedToken {
    /// Its id.
    pub jti: String,
    /// When it would have ended.
    pub expires_at: Timestamp,
}

#[derive(FromRow)]
struct RevokedRow {
    jti: String,
    expires_at: i64,
}

impl From<RevokedRow> for RevokedToken {
    fn from(row: RevokedRow) -> Self {
        Self { jti: row.jti, expires_at: Timestamp::from_millis(row.expires_at) }
    }
}

impl Store {
    /// Uses something by itself: one statement, committed when this answers.
    ///
    /// # Errors
    /// When the database is away; whether it was used is then not known.
    pub async fn use_once(&self, hash: &[u8; 32], expires_at: Timestamp) -> Result<Use, StoreError> {
        let mut tx = self.begin().await?;
        let used = tx.use_once(hash, expires_at).await?;
        tx.commit().await?;
        Ok(used)
    }

    /// Withdrawn tokens that would not have ended by `now`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn revoked_token_list(&self, now: Timestamp) -> Result<Vec<RevokedToken>, StoreError> {
        let rows: Vec<RevokedRow> = sqlx::query_as(REVOKED_LIST).bind(now.millis()).fetch_all(self.pool()).await?;
        Ok(rows.into_iter().map(RevokedToken::from).collect())
    }
}

impl Tx {
    /// Uses something within a larger transaction: an error later gives the use back.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn use_once(&mut self, hash: &[u8; 32], expires_at: Timestamp) -> Result<Use, StoreError> {
        let query = sqlx::query(USED_INSERT).bind(hash.to_vec()).bind(expires_at.millis());
        let done = query.execute(self.connection()).await?;
        Ok(if done.rows_affected() == 1 { Use::First } else { Use::Again })
    }

    /// Withdraws a token of ours and tells all nodes; false when it was withdrawn already.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn token_revoke(&mut self, jti: &str, expires_at: Timestamp, now: Timestamp) -> Result<bool, StoreError> {
        let query = sqlx::query(REVOKED_INSERT).bind(jti.to_owned()).bind(expires_at.millis()).bind(now.millis());
        let done = query.execute(self.connection()).await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        self.revocation_append(RevocationKind::TokenRevoked, jti, now).await?;
        Ok(true)
    }

    /// Removes some of what is over at `now`; gives how much that was.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn token_sweep(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        for text in [USED_SWEEP, REVOKED_SWEEP] {
            let query = sqlx::query(text).bind(now.millis()).bind(SWEEP_MAX);
            removed += query.execute(self.connection()).await?.rows_affected();
        }
        Ok(removed)
    }
}

//! Answers that are kept for those who ask the same thing twice.
//!
//! INVARIANT: of those who come with one key, one takes it (`idempotency_key_key`); the others see
//! what it was taken for, and its answer once there is one.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::Timestamp;

/// A key that was taken before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// SHA-256 of the body that it was taken for.
    pub body_hash: [u8; 32],
    /// Status and body of the answer; none while it is at work.
    pub answer: Option<(u16, String)>,
}

const TAKE: &str = "\
    insert into idempotency_key (key_hash, body_hash, status, answer, created_at) \
    values ($1, $2, null, null, $3) on conflict (key_hash) do nothing";
const FETCH: &str = "select body_hash, status, answer from idempotency_key where key_hash = $1";
const KEEP: &str = "update idempotency_key set status = $1, answer = $2 where key_hash = $3 and status is null";
const RELEASE: &str = "delete from idempotency_key where key_hash = $1 and status is null";
const SWEEP: &str = "\
    delete from idempotency_key where key_hash in \
    (select key_hash from idempotency_key where created_at < $1 limit 500)";

#[derive(FromRow)]
struct Row {
    body_hash: Vec<u8>,
    status: Option<i64>,
    answer: Option<String>,
}

impl TryFrom<Row> for KeptAnswer {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        // The key's hash says nothing to people, so the row is named by what it was taken for.
        let name = data_encoding::HEXLOWER.encode(&row.body_hash);
        let wrong = |column| StoreError::Inconsistent { table: "idempotency_key", column, row: name.clone() };
        let body_hash = row.body_hash.as_slice().try_into().map_err(|_| wrong("body_hash"))?;
        let answer = match (row.status, row.answer) {
            (None, None) => None,
            (Some(status), Some(answer)) => Some((u16::try_from(status).map_err(|_| wrong("status"))?, answer)),
            _ => return Err(wrong("answer")),
        };
        Ok(Self { body_hash, answer })
    }
}

impl Store {
    /// What a key was taken for, if it was.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn idempotency_fetch(&self, key: &[u8; 32]) -> Result<Option<KeptAnswer>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(key.to_vec()).fetch_optional(self.pool()).await?;
        row.map(KeptAnswer::try_from).transpose()
    }
}

impl Tx {
    /// Takes a key. `false`: it is taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_take(
        &mut self,
        key: &[u8; 32],
        body: &[u8; 32],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(TAKE)
            .bind(key.to_vec())
            .bind(body.to_vec())
            .bind(now.millis())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Keeps the answer for a key that was taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_keep(&mut self, key: &[u8; 32], status: u16, answer: &str) -> Result<(), StoreError> {
        sqlx::query(KEEP)
            .bind(i64::from(status))
            .bind(answer.to_owned())
            .bind(key.to_vec())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Gives back a key for which nothing was done.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_release(&mut self, key: &[u8; 32]) -> Result<(), StoreError> {
        sqlx::query(RELEASE).bind(key.to_vec()).execute(self.connection()).await?;
        Ok(())
    }

    /// Forgets keys that were taken before then, some at a time; gives how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_sweep(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        Ok(sqlx::query(SWEEP).bind(before.millis()).execute(self.connection()).await?.rows_affected())
    }
}

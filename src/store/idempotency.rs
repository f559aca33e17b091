//! Answers that are kept for those who ask the same thing twice.
//!
//! INVARIANTS: of those who come with one key, one takes it (`idempotency_key_key`); the others see
//! what it was taken for, and its answer once there is one. That it was done is written by the very
//! transaction that did it ([`TakenKey::within`]), so no crash and no lost answer comes between the two;
//! one that was begun and not done can be taken over after a while, and then its first holder's
//! transaction is not kept.

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
    /// Whether it was done, answered or not.
    pub done: bool,
}

/// A key that somebody has taken and does something under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenKey {
    hash: [u8; 32],
    /// When it was taken: who takes it over has another.
    since: i64,
}

tokio::task_local! {
    /// The key under which everything of this task is done.
    static UNDER: TakenKey;
}

impl TakenKey {
    /// Runs an operation under the key: its transactions are kept together with the word that it was done,
    /// or not at all.
    pub async fn within<F: Future>(self, operation: F) -> F::Output {
        UNDER.scope(self, operation).await
    }
}

const TAKE: &str = "\
    insert into idempotency_key (key_hash, body_hash, status, answer, created_at) \
    values ($1, $2, null, null, $3) on conflict (key_hash) do nothing";
/// Taken long ago for the same, and neither done nor answered since.
const TAKE_OVER: &str = "\
    update idempotency_key set created_at = $3 \
    where key_hash = $1 and body_hash = $2 and status is null and done = 0 and created_at <= $4";
const FETCH: &str = "select body_hash, status, answer, done from idempotency_key where key_hash = $1";
const KEEP: &str = "update idempotency_key set status = $1, answer = $2 \
    where key_hash = $3 and created_at = $4 and status is null";
const RELEASE: &str = "delete from idempotency_key where key_hash = $1 and created_at = $2 and status is null";
const RELEASE_UNDONE: &str =
    "delete from idempotency_key where key_hash = $1 and created_at = $2 and status is null and done = 0";
const DONE: &str = "update idempotency_key set done = 1 where key_hash = $1 and created_at = $2";
const SWEEP: &str = "\
    delete from idempotency_key where key_hash in \
    (select key_hash from idempotency_key where created_at < $1 limit 500)";

#[derive(FromRow)]
struct Row {
    body_hash: Vec<u8>,
    status: Option<i64>,
    answer: Option<String>,
    done: i64,
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
        Ok(Self { body_hash, answer, done: row.done == 1 })
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
    /// Takes a key, or takes it over from who took it before `abandoned` for the same and did nothing.
    /// `None`: it is taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_take(
        &mut self,
        key: &[u8; 32],
        body: &[u8; 32],
        abandoned: Timestamp,
        now: Timestamp,
    ) -> Result<Option<TakenKey>, StoreError> {
        let taken = TakenKey { hash: *key, since: now.millis() };
        let query = sqlx::query(TAKE).bind(key.to_vec()).bind(body.to_vec()).bind(now.millis());
        if query.execute(self.connection()).await?.rows_affected() == 1 {
            return Ok(Some(taken));
        }
        let query = sqlx::query(TAKE_OVER).bind(key.to_vec()).bind(body.to_vec());
        let query = query.bind(now.millis()).bind(abandoned.millis());
        Ok((query.execute(self.connection()).await?.rows_affected() == 1).then_some(taken))
    }

    /// Writes that what this task does under its key is done; nothing where there is no key.
    pub(in crate::store) async fn idempotency_done(&mut self) -> Result<(), StoreError> {
        let Ok(taken) = UNDER.try_with(|taken| *taken) else { return Ok(()) };
        let query = sqlx::query(DONE).bind(taken.hash.to_vec()).bind(taken.since);
        match query.execute(self.connection()).await?.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::Overtaken),
        }
    }

    /// Keeps the answer for a key that was taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_keep(&mut self, key: TakenKey, status: u16, answer: &str) -> Result<(), StoreError> {
        sqlx::query(KEEP)
            .bind(i64::from(status))
            .bind(answer.to_owned())
            .bind(key.hash.to_vec())
            .bind(key.since)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Gives back a key for which nothing was done.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_release(&mut self, key: TakenKey) -> Result<(), StoreError> {
        sqlx::query(RELEASE).bind(key.hash.to_vec()).bind(key.since).execute(self.connection()).await?;
        Ok(())
    }

    /// Gives back a key unless something was done under it, which stays known.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn idempotency_release_undone(&mut self, key: TakenKey) -> Result<(), StoreError> {
        sqlx::query(RELEASE_UNDONE).bind(key.hash.to_vec()).bind(key.since).execute(self.connection()).await?;
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

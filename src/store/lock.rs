//! Principals who are barred until someone lifts it.
//!
//! INVARIANT: a principal has one active lock at most (`principal_lock_active`).

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::{LockId, Principal, PrincipalKind, Timestamp};

/// A bar on a principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Its id.
    pub id: LockId,
    /// Who is barred.
    pub principal: Principal,
    /// Why, in the words of who set it.
    pub reason: String,
    /// Since when.
    pub set_at: Timestamp,
}

const INSERT: &str = "\
    insert into principal_lock (id, principal_kind, principal_id, reason, set_at, cleared_at) \
    values ($1, $2, $3, $4, $5, null) \
    on conflict (principal_kind, principal_id) where cleared_at is null do nothing";
const CLEAR: &str = "\
    update principal_lock set cleared_at = $1 \
    where principal_kind = $2 and principal_id = $3 and cleared_at is null \
    returning id, principal_kind, principal_id, reason, set_at";
const FETCH: &str = "\
    select id, principal_kind, principal_id, reason, set_at from principal_lock \
    where principal_kind = $1 and principal_id = $2 and cleared_at is null";
const LIST: &str = "\
    select id, principal_kind, principal_id, reason, set_at from principal_lock \
    where cleared_at is null order by set_at, id";

#[derive(FromRow)]
struct Row {
    id: String,
    principal_kind: String,
    principal_id: String,
    reason: String,
    set_at: i64,
}

impl TryFrom<Row> for Lock {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "principal_lock", column, row: row.id.clone() };
        let kind = PrincipalKind::parse(&row.principal_kind).ok_or_else(|| wrong("principal_kind"))?;
        Ok(Self {
            id: LockId::parse(&row.id).map_err(|_| wrong("id"))?,
            principal: Principal::stored(kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
            reason: row.reason,
            set_at: Timestamp::from_millis(row.set_at),
        })
    }
}

impl Store {
    /// The bar on `principal`, if there is one.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn lock_fetch(&self, principal: &Principal) -> Result<Option<Lock>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH)
            .bind(principal.kind().name())
            .bind(principal.id())
            .fetch_optional(self.pool())
            .await?;
        row.map(Lock::try_from).transpose()
    }

    /// All who are barred, oldest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn lock_list(&self) -> Result<Vec<Lock>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(self.pool()).await?;
        rows.into_iter().map(Lock::try_from).collect()
    }
}

impl Tx {
    /// The bar on `principal`, if there is one, as this transaction sees it.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn lock_fetch(&mut self, principal: &Principal) -> Result<Option<Lock>, StoreError> {
        let query = sqlx::query_as(FETCH).bind(principal.kind().name()).bind(principal.id().to_owned());
        let row: Option<Row> = query.fetch_optional(self.connection()).await?;
        row.map(Lock::try_from).transpose()
    }

    /// Bars a principal. `false`: it is barred already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn lock_insert(&mut self, lock: &Lock) -> Result<bool, StoreError> {
        let done = sqlx::query(INSERT)
            .bind(lock.id.to_string())
            .bind(lock.principal.kind().name())
            .bind(lock.principal.id())
            .bind(lock.reason.as_str())
            .bind(lock.set_at.millis())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Lifts the bar on `principal` and gives it back. `None`: there is none.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn lock_clear(&mut self, principal: &Principal, now: Timestamp) -> Result<Option<Lock>, StoreError> {
        let row: Option<Row> = sqlx::query_as(CLEAR)
            .bind(now.millis())
            .bind(principal.kind().name())
            .bind(principal.id())
            .fetch_optional(self.connection())
            .await?;
        row.map(Lock::try_from).transpose()
    }
}

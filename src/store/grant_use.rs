//! When grants that end for want of use were last used, and who has held an entitlement lately.

use sqlx::FromRow;

use super::access_request::principal_of;
use super::engine::{Store, StoreError, Tx};
use crate::model::{EntitlementName, GrantId, Principal, Timestamp};

/// Grants that end for want of use and are in force, at most.
const USES_MAX: i64 = 100_000;
/// Holders of one entitlement that are looked at at most; the latest ends count.
const HOLDERS_MAX: i64 = 10_000;

const USES: &str = "\
    select id, principal_kind, principal_id, used_at from access_grant \
    where idle_ms is not null and ended_at is null and used_at is not null limit $1";
const USED: &str =
    "update access_grant set used_at = $2 where id = $1 and ended_at is null and coalesce(used_at, 0) < $2";
/// Whoever holds it, or held it until after `$2`; the latest first.
const HELD_SINCE: &str = "\
    select id, principal_kind, principal_id, coalesce(ended_at, expires_at) as used_at from access_grant \
    where entitlement = $1 and active_at is not null and (ended_at is null or ended_at > $2) \
    order by coalesce(ended_at, expires_at) desc limit $3";

#[derive(FromRow)]
struct Row {
    id: String,
    principal_kind: String,
    principal_id: String,
    used_at: i64,
}

/// A grant with a moment of it: its last use, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantMoment {
    /// Which.
    pub id: GrantId,
    /// Whose.
    pub principal: Principal,
    /// When.
    pub at: Timestamp,
}

impl TryFrom<Row> for GrantMoment {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "access_grant", column, row: row.id.clone() };
        Ok(Self {
            id: GrantId::parse(&row.id).map_err(|_| wrong("id"))?,
            principal: principal_of(&row.principal_kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?,
            at: Timestamp::from_millis(row.used_at),
        })
    }
}

impl Store {
    /// The last use of every grant that ends for want of it, as far as nodes have told.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_uses(&self) -> Result<Vec<GrantMoment>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(USES).bind(USES_MAX).fetch_all(self.pool()).await?;
        rows.into_iter().map(GrantMoment::try_from).collect()
    }

    /// Grants of an entitlement that are in force or ended after `since`, with their ends.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn grant_ends(&self, name: &EntitlementName, since: Timestamp) -> Result<Vec<GrantMoment>, StoreError> {
        let query = sqlx::query_as(HELD_SINCE).bind(name.to_string()).bind(since.millis()).bind(HOLDERS_MAX);
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(GrantMoment::try_from).collect()
    }
}

impl Tx {
    /// A grant was used then. An earlier use than the known one changes nothing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant_used(&mut self, id: GrantId, at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(USED).bind(id.to_string()).bind(at.millis()).execute(self.connection()).await?;
        Ok(())
    }

    /// As [`Store::grant_ends`]; until this transaction ends nobody else begins a grant of it.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn grant_ends(
        &mut self,
        name: &EntitlementName,
        since: Timestamp,
    ) -> Result<Vec<GrantMoment>, StoreError> {
        self.entitlement_turn(name).await?;
        let query = sqlx::query_as(HELD_SINCE).bind(name.to_string()).bind(since.millis()).bind(HOLDERS_MAX);
        let rows: Vec<Row> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(GrantMoment::try_from).collect()
    }
}

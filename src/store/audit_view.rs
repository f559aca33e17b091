//! What the views of the record are made of: the events of one grant, those that tell of access, and uses
//! counted by person, service and grant.

use sqlx::FromRow;

use super::audit_event::{EVENT_PAGE_MAX, Recorded, Row};
use super::audit_scan::{ID_SLACK, id_at};
use super::engine::{Store, StoreError};
use crate::model::{EventId, GrantId, Timestamp};

const OF_GRANT: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.grant_id = $1 and e.id > $2 order by e.id limit $3";
/// The first condition is that of the index `audit_event_access`.
const OF_ACCESS: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where (e.type < 'bz' or (e.type > 'f' and e.type < 's')) and e.type in (\
    'request.created', 'request.approved', 'request.denied', 'request.voided', 'grant.scheduled', \
    'grant.active', 'grant.extended', 'grant.expired', 'grant.revoked', 'grant.dropped', 'breakglass.opened', \
    'breakglass.closed', 'breakglass.expired') and e.id > $1 and e.id < $2 order by e.id limit $3";
const USES: &str = "\
    select e.actor, e.service, e.grant_id, count(*) as uses, min(e.time) as first, max(e.time) as last, \
    max(e.id) as event \
    from audit_event e \
    where e.type = 'decision.allow' and e.id >= $1 and e.id < $2 and e.time >= $3 and e.time < $4 \
    and ($5 = '' or e.service = $5) and e.actor is not null \
    group by e.actor, e.service, e.grant_id order by e.actor, e.service, e.grant_id limit $6";
const REACH: &str = "\
    select min(r.created_at) from access_grant g join access_request r on r.id = g.request \
    where g.active_at is not null and g.active_at < $2 and (g.ended_at is null or g.ended_at > $1)";

#[derive(FromRow)]
struct UseRow {
    service: Option<String>,
    grant_id: Option<String>,
    uses: i64,
    first: i64,
    last: i64,
    event: String,
}

/// Requests that one person made of one service under one grant, or under none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedUse {
    /// Of which service.
    pub service: Option<String>,
    /// Under which grant.
    pub grant: Option<GrantId>,
    /// How many.
    pub count: u64,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// The newest of them, which tells whose they are.
    pub event: EventId,
}

impl TryFrom<UseRow> for CountedUse {
    type Error = StoreError;

    fn try_from(row: UseRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "audit_event", column, row: row.event.clone() };
        Ok(Self {
            grant: row.grant_id.as_deref().map(GrantId::parse).transpose().map_err(|_| wrong("grant_id"))?,
            count: u64::try_from(row.uses).unwrap_or(0),
            first: Timestamp::from_millis(row.first),
            last: Timestamp::from_millis(row.last),
            event: EventId::parse(&row.event).map_err(|_| wrong("id"))?,
            service: row.service,
        })
    }
}

/// Before every event of that time.
fn before(time: Timestamp) -> EventId {
    id_at(time.minus(ID_SLACK))
}

/// Behind every event of that time.
fn behind(time: Timestamp) -> EventId {
    id_at(time.plus(ID_SLACK))
}

impl Store {
    /// The events of a grant in the order of their ids, those behind `after`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_list_of_grant(
        &self,
        grant: GrantId,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let after = after.unwrap_or(EventId::from_bytes([0; 16]));
        let rows: Vec<Row> = sqlx::query_as(OF_GRANT)
            .bind(grant.to_string())
            .bind(after.to_string())
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// Events that tell of access without being a use, of these times and some around them, in the order
    /// of their ids, those behind `after`.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_list_of_access(
        &self,
        (from, to): (Timestamp, Timestamp),
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let after = after.unwrap_or_else(|| before(from));
        let rows: Vec<Row> = sqlx::query_as(OF_ACCESS)
            .bind(after.to_string())
            .bind(behind(to).to_string())
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// Requests that were let through in `from..to`, counted by person, service and grant; at most `limit`
    /// such rows.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_count_uses(
        &self,
        (from, to): (Timestamp, Timestamp),
        service: Option<&str>,
        limit: u32,
    ) -> Result<Vec<CountedUse>, StoreError> {
        let rows: Vec<UseRow> = sqlx::query_as(USES)
            .bind(before(from).to_string())
            .bind(behind(to).to_string())
            .bind(from.millis())
            .bind(to.millis())
            .bind(service.unwrap_or_default().to_owned())
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(CountedUse::try_from).collect()
    }

    /// When the oldest request was made whose grant was in force at any moment of `from..to`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn grant_reach(&self, from: Timestamp, to: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let oldest: Option<i64> =
            sqlx::query_scalar(REACH).bind(from.millis()).bind(to.millis()).fetch_one(self.pool()).await?;
        Ok(oldest.map(Timestamp::from_millis))
    }
}

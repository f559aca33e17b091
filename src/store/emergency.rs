//! What the record says of emergencies, and how many people have reviewed one.
//!
//! An opening of the emergency path has no table: a node without a database can only put it on record,
//! so the record is where it is.

use super::audit_event::{EVENT_PAGE_MAX, Recorded, Row};
use super::engine::{Store, StoreError, Tx};
use crate::model::{EventId, GrantId};

const EVENTS: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.type < 'c' and e.type in ('breakglass.opened', 'breakglass.closed', 'breakglass.expired', 'breakglass.reviewed', \
    'breakglass.drilled', 'breakglass.custodians_changed') and e.id < $1 order by e.id desc limit $2";
const REVIEW_TURN: &str = "update counter set value = value + 1 where name = 'review'";
const GRANT_REVIEWED: &str = "update access_grant set reviews = $2 where id = $1 and emergency = 1";

fn before(id: Option<EventId>) -> String {
    id.map_or_else(|| EventId::from_bytes([0xff; 16]).to_string(), |id| id.to_string())
}

fn limited(limit: u32) -> i64 {
    i64::from(limit.min(EVENT_PAGE_MAX))
}

impl Store {
    /// What the record has of emergencies, newest first by their ids, older than the one named.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn emergency_events(&self, older: Option<EventId>, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let query = sqlx::query_as(EVENTS).bind(before(older)).bind(limited(limit));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }
}

impl Tx {
    /// Waits until nobody else reviews.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn review_turn(&mut self) -> Result<(), StoreError> {
        sqlx::query(REVIEW_TURN).execute(self.connection()).await?;
        Ok(())
    }

    /// As [`Store::emergency_events`], as this transaction sees them.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn emergency_events(&mut self, older: Option<EventId>, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let query = sqlx::query_as(EVENTS).bind(before(older)).bind(limited(limit));
        let rows: Vec<Row> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// How many people have reviewed an emergency grant.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn grant_reviewed(&mut self, id: GrantId, people: u32) -> Result<(), StoreError> {
        let query = sqlx::query(GRANT_REVIEWED).bind(id.to_string()).bind(i64::from(people));
        query.execute(self.connection()).await?;
        Ok(())
    }
}

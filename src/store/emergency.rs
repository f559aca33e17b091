//! What the record says of emergencies, and how many people have reviewed one.
//!
//! An opening of the emergency path has no table: a node without a database can only put it on record,
//! so the record is where it is.

use sqlx::AnyConnection;

use super::audit_event::{EVENT_PAGE_MAX, Recorded, Row};
use super::engine::{Store, StoreError, Tx};
use crate::audit::EventType;
use crate::model::{EventId, GrantId};

const EVENTS: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.type < 'c' and e.type = $1 and e.id < $2 order by e.id desc limit $3";
const REVIEW_TURN: &str = "update counter set value = value + 1 where name = 'review'";
const GRANT_REVIEWED: &str = "update access_grant set reviews = $2 where id = $1 and emergency = 1";

fn before(id: Option<EventId>) -> String {
    id.map_or_else(|| EventId::from_bytes([0xff; 16]).to_string(), |id| id.to_string())
}

/// What the record has of emergencies of this kind and `keep` wants, newest first by their ids. It is read to its
/// end, page by page: events that somebody piled up may not hide others.
async fn events(
    connection: &mut AnyConnection,
    kind: EventType,
    keep: impl Fn(&Recorded) -> bool + Send + Sync,
) -> Result<Vec<Recorded>, StoreError> {
    let (mut found, mut older) = (Vec::new(), None);
    loop {
        let query = sqlx::query_as(EVENTS).bind(kind.name()).bind(before(older)).bind(i64::from(EVENT_PAGE_MAX));
        let rows: Vec<Row> = query.fetch_all(&mut *connection).await?;
        let is_full = rows.len() >= usize::try_from(EVENT_PAGE_MAX).unwrap_or(usize::MAX);
        for row in rows {
            let event = Recorded::try_from(row)?;
            older = Some(event.clear().id);
            if keep(&event) {
                found.push(event);
            }
        }
        if !is_full {
            return Ok(found);
        }
    }
}

impl Store {
    /// What the record has of emergencies of this kind and `keep` wants, newest first by their ids.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn emergency_events(
        &self,
        kind: EventType,
        keep: impl Fn(&Recorded) -> bool + Send + Sync,
    ) -> Result<Vec<Recorded>, StoreError> {
        events(&mut *self.pool().acquire().await?, kind, keep).await
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
    pub async fn emergency_events(
        &mut self,
        kind: EventType,
        keep: impl Fn(&Recorded) -> bool + Send + Sync,
    ) -> Result<Vec<Recorded>, StoreError> {
        events(self.connection(), kind, keep).await
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

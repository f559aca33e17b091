//! The record as an erasure reads and changes it: events of a person or that name them, what is taken
//! from each, and what a spool brings late.
//!
//! INVARIANT: only events that have their leaf lose anything, so that the leaf commits to what went; what
//! was pruned meanwhile does not come back.

use sqlx::{AnyConnection, FromRow};

use super::audit_event::{Recorded, Row as EventRow};
use super::engine::{Store, StoreError, Tx};
use super::erasure_person::{anywhere, in_json};
use super::log::Log;
use crate::audit::{EventType, Sealed};
use crate::model::{EventId, Timestamp, UserRef};

/// Places of a log that one look goes through.
pub const ERASURE_LOOK: i64 = 5_000;
/// Events that one look gives at most.
pub const ERASURE_BATCH: i64 = 500;

const MATCHING: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.log = $1 and e.seq >= $2 and e.seq < $3 and e.body <> '' and e.personal <> '{}' \
    and (e.actor = $4 or e.body like $5) order by e.seq limit $6";
/// Not one that was pruned meanwhile: nothing of it may come back.
const ERASE: &str =
    "update audit_event set personal = $2, salts = $3 where id = $1 and body <> '' and leaf is not null";

const ERASE_WHOLE: &str = "\
    update audit_event set body = '{}', personal = '{}', salts = $2, actor = null, session = null, grant_id = null \
    where id = $1 and body <> '' and body <> '{}' and leaf is not null";
const NAMED: &str = "\
    select id, type, time, seq, body from audit_event \
    where log = $1 and seq >= $2 and seq < $3 and body <> '' and (lower(body) like $4 escape '~' \
    or body like $5 escape '~') order by seq limit $6";

/// Requests that others made: of the person's own the path goes anyway.
const PATHS: &str = "\
    select id, type, time, seq, personal as body from audit_event \
    where log = $1 and seq >= $2 and seq < $3 and (actor is null or actor <> $4) and body <> '' \
    and lower(personal) like $5 escape '~' order by seq limit $6";

const SIZE: &str = "select next_seq from audit_log where number = $1";
const LOOK_AGAIN: &str = "\
    update audit_erasure set look_again_at = $1 where pseudonym in \
    (select actor from audit_event where log = $2 and seq >= $3 and actor is not null)";

/// An event in whose body a text was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Naming {
    /// The event.
    pub event: EventId,
    /// Its type.
    pub kind: EventType,
    /// Its time.
    pub time: Timestamp,
    /// Its place.
    pub seq: i64,
    /// Its body.
    pub body: String,
}

#[derive(FromRow)]
struct NamingRow {
    id: String,
    #[sqlx(rename = "type")]
    kind: String,
    time: i64,
    seq: i64,
    body: String,
}

impl TryFrom<NamingRow> for Naming {
    type Error = StoreError;

    fn try_from(row: NamingRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "audit_event", column, row: row.id.clone() };
        Ok(Self {
            event: EventId::parse(&row.id).map_err(|_| wrong("id"))?,
            kind: EventType::parse(&row.kind).ok_or_else(|| wrong("type"))?,
            time: Timestamp::from_millis(row.time),
            seq: row.seq,
            body: row.body,
        })
    }
}

async fn matching(
    connection: &mut AnyConnection,
    log: Log,
    (from, to): (i64, i64),
    pseudonym: UserRef,
    limit: i64,
) -> Result<Vec<Recorded>, StoreError> {
    let rows: Vec<EventRow> = sqlx::query_as(MATCHING)
        .bind(log.number)
        .bind(from)
        .bind(to)
        .bind(pseudonym.to_string())
        // Who was meant stands in the body; the columns tell who acted. A blank can't be in it, and what
        // the `_` of the pseudonym lets in beside it is looked at again by whoever asks.
        .bind(format!("%\"subject\":{{\"id\":\"{pseudonym}\"%"))
        .bind(limit)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(Recorded::try_from).collect()
}

impl Store {
    /// The events of `log` at `from..to` in which this pseudonym acts or is meant, in their order.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_matching(
        &self,
        log: Log,
        places: (i64, i64),
        pseudonym: UserRef,
        limit: i64,
    ) -> Result<Vec<Recorded>, StoreError> {
        matching(&mut *self.pool().acquire().await?, log, places, pseudonym, limit).await
    }

    /// The events of `log` at `from..to` whose body may have this text in it, in any case of letters.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_naming(
        &self,
        log: Log,
        (from, to): (i64, i64),
        text: &str,
        limit: i64,
    ) -> Result<Vec<Naming>, StoreError> {
        let written = in_json(text);
        let query = sqlx::query_as(NAMED).bind(log.number).bind(from).bind(to).bind(anywhere(&written.to_lowercase()));
        let rows: Vec<NamingRow> = query.bind(anywhere(&written)).bind(limit).fetch_all(self.pool()).await?;
        rows.into_iter().map(Naming::try_from).collect()
    }

    /// Events of `log` at `from..to` that are others' and have a path with this in it, in any case of letters;
    /// `body` is what they have of personal values.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_naming_paths(
        &self,
        log: Log,
        (from, to): (i64, i64),
        (pseudonym, part): (UserRef, &str),
        limit: i64,
    ) -> Result<Vec<Naming>, StoreError> {
        let query = sqlx::query_as(PATHS).bind(log.number).bind(from).bind(to).bind(pseudonym.to_string());
        let pattern = format!("%\"path\":\"{}", anywhere(&part.to_lowercase()));
        let rows: Vec<NamingRow> = query.bind(pattern).bind(limit).fetch_all(self.pool()).await?;
        rows.into_iter().map(Naming::try_from).collect()
    }
}

impl Tx {
    /// As [`Store::erasure_matching`].
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn erasure_matching(
        &mut self,
        log: Log,
        places: (i64, i64),
        pseudonym: UserRef,
        limit: i64,
    ) -> Result<Vec<Recorded>, StoreError> {
        matching(self.connection(), log, places, pseudonym, limit).await
    }

    /// Leaves an event with these personal values and salts. `false` where its content is gone already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn event_erase(&mut self, id: EventId, personal: String, salts: Vec<u8>) -> Result<bool, StoreError> {
        let query = sqlx::query(ERASE).bind(id.to_string()).bind(personal).bind(salts);
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Leaves an event with its leaf alone. `false` where its content is gone already.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn event_erase_whole(&mut self, id: EventId) -> Result<bool, StoreError> {
        let query = sqlx::query(ERASE_WHOLE).bind(id.to_string()).bind(Vec::<u8>::new());
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// As [`Tx::record_batch`], of a spool: it may have lain on its node since before an erasure, so the
    /// logs are looked through once more for whoever acts in it and was erased.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record_merge(&mut self, log: Log, events: &[Sealed], now: Timestamp) -> Result<usize, StoreError> {
        let added = self.record_batch(log, events).await?;
        let size: i64 = sqlx::query_scalar(SIZE).bind(log.number).fetch_one(self.connection()).await?;
        let first = size - i64::try_from(added).unwrap_or(size);
        let query = sqlx::query(LOOK_AGAIN).bind(now.millis()).bind(log.number).bind(first);
        query.execute(self.connection()).await?;
        Ok(added)
    }
}

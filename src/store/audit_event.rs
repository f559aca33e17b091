//! The record: events appended with the state that they tell of, events written in batches, and
//! the numbering of both.
//!
//! INVARIANT: an event is in at most one log, at one place, and a log has no gap. The id of an
//! event makes a second writing of it nothing; numbers are taken from the log's row, which the
//! transaction holds, and what was not needed is given back before it ends.

use std::sync::LazyLock;

use serde_json::Value;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, FromRow};

use super::engine::{Placeholders, Store, StoreError, Tx};
use super::log::Log;
use crate::audit::merkle::leaf_hash;
use crate::audit::{Clear, Event, EventType, Leaf, LeafError, Outcome, PersonalField, Sealed};
use crate::model::{DecisionId, EventId, GrantId, NodeId, ServiceName, SessionId, Timestamp, Ttl, UserRef};

/// The most that one page of the record has.
pub const EVENT_PAGE_MAX: u32 = 1000;
/// How many unnumbered events are numbered in one transaction.
const NUMBER_BATCH: i64 = 256;
/// After this long another node numbers what the one that wrote it did not.
const ADOPT_AFTER: Ttl = Ttl::seconds(60);

const COLUMNS: usize = 14;
const INSERT_HEAD: &str = "insert into audit_event (id, log, seq, time, type, service, outcome, actor, session, grant_id, body, personal, salts, leaf) values ";
const INSERT_TAIL: &str = " on conflict (id) do nothing";

/// Rows of the statements that write batches, largest first. The database reads a statement once
/// and keeps it, so there are few.
const INSERT_SIZES: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];
/// The texts of those statements: the one place of the house where SQL is put together, from
/// constants and counted placeholders only.
static NUMBERED: LazyLock<[&'static str; 7]> =
    LazyLock::new(|| INSERT_SIZES.map(|rows| insert_text(rows, Placeholders::Numbered)));
static PLAIN: LazyLock<[&'static str; 7]> =
    LazyLock::new(|| INSERT_SIZES.map(|rows| insert_text(rows, Placeholders::Plain)));

/// The statements that write batches on this engine, largest first.
fn inserts(placeholders: Placeholders) -> &'static [&'static str; 7] {
    match placeholders {
        Placeholders::Numbered => &NUMBERED,
        Placeholders::Plain => &PLAIN,
    }
}

fn insert_text(rows: usize, placeholders: Placeholders) -> &'static str {
    let mut text = INSERT_HEAD.to_owned();
    for row in 0..rows {
        for column in 0..COLUMNS {
            text.push_str(match (row, column) {
                (0, 0) => "(",
                (_, 0) => "), (",
                _ => ", ",
            });
            match placeholders {
                Placeholders::Plain => text.push('?'),
                Placeholders::Numbered => {
                    text.push('$');
                    text.push_str(&(row * COLUMNS + column + 1).to_string());
                }
            }
        }
    }
    text.push(')');
    text.push_str(INSERT_TAIL);
    text.leak()
}

/// The statement that writes one row.
fn insert_one(placeholders: Placeholders) -> &'static str {
    inserts(placeholders).last().copied().unwrap_or_default()
}

const DELETE_CHUNK: &str = "delete from audit_event where log = $1 and seq >= $2";
const SELECT_PENDING_ONE: &str = "select id from audit_event where seq is null and (log = $1 or time < $2) limit 1";
const SELECT_PENDING: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.seq is null and (e.log = $1 or e.time < $2) order by e.id limit $3";
const SET_NUMBER: &str = "update audit_event set log = $1, seq = $2, leaf = $3 where id = $4 and seq is null";
const FETCH: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log where e.id = $1";
const LIST: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where ($1 = '' or e.type = $1) and ($2 = '' or e.session = $2) and ($3 = '' or e.actor = $3) \
    and ($4 = '' or e.service = $4) and e.time >= $5 and e.time < $6 and e.id < $7 \
    order by e.id desc limit $8";
const LOG_LIST: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.log = $1 and e.seq >= $2 order by e.seq limit $3";

#[derive(FromRow)]
pub(in crate::store) struct Row {
    id: String,
    node: String,
    seq: Option<i64>,
    time: i64,
    #[sqlx(rename = "type")]
    kind: String,
    service: Option<String>,
    outcome: String,
    actor: Option<String>,
    session: Option<String>,
    grant_id: Option<String>,
    body: String,
    personal: String,
    salts: Vec<u8>,
    leaf: Option<Vec<u8>>,
}

impl TryFrom<Row> for Recorded {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let id = row.id;
        let wrong = |column| StoreError::Inconsistent { table: "audit_event", column, row: id.clone() };
        let clear = Clear {
            id: EventId::parse(&id).map_err(|_| wrong("id"))?,
            time: Timestamp::from_millis(row.time),
            kind: EventType::parse(&row.kind).ok_or_else(|| wrong("type"))?,
            service: row.service.map(|name| ServiceName::parse(&name)).transpose().map_err(|_| wrong("service"))?,
            outcome: Outcome::parse(&row.outcome).ok_or_else(|| wrong("outcome"))?,
            actor: row.actor.map(|id| UserRef::parse(&id)).transpose().map_err(|_| wrong("actor"))?,
            session: row.session.map(|id| SessionId::parse(&id)).transpose().map_err(|_| wrong("session"))?,
            grant: row.grant_id.map(|id| GrantId::parse(&id)).transpose().map_err(|_| wrong("grant_id"))?,
        };
        let log = NodeId::parse(&row.node).map_err(|_| wrong("log"))?;
        // A body that was pruned is no text at all.
        let body = match row.body.as_str() {
            "" => Value::Null,
            text => serde_json::from_str(text).map_err(|_| wrong("body"))?,
        };
        let sealed = Sealed::stored(clear, row.body, &row.personal, row.salts).map_err(|_| wrong("personal"))?;
        let sealed = match &row.leaf {
            Some(leaf) => sealed.beside(leaf),
            None => sealed,
        };
        Ok(Self { log, seq: row.seq, sealed, leaf: row.leaf, body })
    }
}

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// The log that numbers it.
    pub log: NodeId,
    /// Its number, once it has one.
    pub seq: Option<i64>,
    /// Clear part, body, personal fields and salts.
    pub sealed: Sealed,
    /// Its leaf, once it has a number.
    pub leaf: Option<Vec<u8>>,
    /// The body, read: keys as in `audit/leaf.rs`.
    pub body: Value,
}

impl Recorded {
    /// What stands in columns of its own.
    #[must_use]
    pub const fn clear(&self) -> &Clear {
        self.sealed.clear()
    }

    /// A personal field.
    #[must_use]
    pub fn personal(&self, field: PersonalField) -> Option<&str> {
        self.sealed.personal().iter().find(|(name, _)| *name == field).map(|(_, value)| value.as_str())
    }

    /// A text of the body by its JSON pointer (`/request/host`).
    #[must_use]
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.body.pointer(pointer).and_then(Value::as_str)
    }

    /// Compares everything that is kept of the event with its leaf. An unnumbered event has none
    /// yet and is taken as it is.
    ///
    /// # Errors
    /// Names what was altered.
    pub fn verify(&self) -> Result<(), LeafError> {
        let (Some(seq), Some(bytes)) = (self.seq, &self.leaf) else {
            return Ok(());
        };
        let leaf = Leaf::parse(bytes)?;
        if leaf.log != self.log || leaf.seq != seq {
            return Err(LeafError::Altered { what: "log or seq" });
        }
        leaf.verify(&self.sealed)
    }
}

/// Which events are wanted. Empty: all, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFilter<'a> {
    /// Only of this type.
    pub kind: Option<EventType>,
    /// Only of this session.
    pub session: Option<SessionId>,
    /// Only by this actor.
    pub actor: Option<UserRef>,
    /// Only about this service.
    pub service: Option<&'a ServiceName>,
    /// Not before this.
    pub from: Option<Timestamp>,
    /// Before this.
    pub to: Option<Timestamp>,
    /// Older than this one: the last of the page before.
    pub before: Option<EventId>,
}

impl Store {
    /// The event of this id.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn event_fetch(&self, id: &EventId) -> Result<Option<Recorded>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(Recorded::try_from).transpose()
    }

    /// The decision of this id. Its event has the same sixteen bytes; an event of another kind with
    /// them is no decision.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn decision_fetch(&self, id: &DecisionId) -> Result<Option<Recorded>, StoreError> {
        let found = self.event_fetch(&EventId::from_bytes(*id.bytes())).await?;
        // A sign-in that failed is on record as that, under the id of the refusal.
        let is_decision =
            |kind| matches!(kind, EventType::DecisionAllow | EventType::DecisionDeny | EventType::SignInFailed);
        Ok(found.filter(|event| is_decision(event.clear().kind)))
    }

    /// The newest events that pass `filter`, at most `limit` or [`EVENT_PAGE_MAX`].
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_list(&self, filter: &EventFilter<'_>, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let text = |value: Option<String>| value.unwrap_or_default();
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(filter.kind.map_or("", EventType::name))
            .bind(text(filter.session.map(|id| id.to_string())))
            .bind(text(filter.actor.map(|id| id.to_string())))
            .bind(filter.service.map_or("", ServiceName::as_str))
            .bind(filter.from.map_or(i64::MIN, Timestamp::millis))
            .bind(filter.to.map_or(i64::MAX, Timestamp::millis))
            .bind(filter.before.map_or_else(|| EventId::from_bytes([0xff; 16]).to_string(), |id| id.to_string()))
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// The events of `log` from number `from` on, in their order, at most `limit` or
    /// [`EVENT_PAGE_MAX`].
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_list_log(&self, log: Log, from: i64, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LOG_LIST)
            .bind(log.number)
            .bind(from)
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// Numbers events that were committed with their state, and those that a node wrote that is
    /// gone. Gives how many got a number; as many as one transaction takes at most, so ask again
    /// until it is none.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn number_pending(&self, log: Log, now: Timestamp) -> Result<u64, StoreError> {
        let adopt = now.minus(ADOPT_AFTER).millis();
        let any: Option<String> =
            sqlx::query_scalar(SELECT_PENDING_ONE).bind(log.number).bind(adopt).fetch_optional(self.pool()).await?;
        if any.is_none() {
            return Ok(0);
        }
        let mut tx = self.begin().await?;
        let first = tx.log_take(log, 0).await?;
        let rows: Vec<Row> = sqlx::query_as(SELECT_PENDING)
            .bind(log.number)
            .bind(adopt)
            .bind(NUMBER_BATCH)
            .fetch_all(tx.connection())
            .await?;
        let mut next = first;
        for row in rows {
            let event = Recorded::try_from(row)?;
            let done = sqlx::query(SET_NUMBER)
                .bind(log.number)
                .bind(next)
                .bind(event.sealed.leaf(log.node(), next))
                .bind(event.clear().id.to_string())
                .execute(tx.connection())
                .await?;
            // No row: another node was first.
            if done.rows_affected() == 1 {
                next += 1;
            }
        }
        tx.log_give_back(log, next).await?;
        tx.commit().await?;
        Ok(u64::try_from(next - first).unwrap_or(0))
    }
}

impl Tx {
    /// As [`Store::event_fetch`].
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn event_fetch(&mut self, id: &EventId) -> Result<Option<Recorded>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.connection()).await?;
        row.map(Recorded::try_from).transpose()
    }

    /// Appends `event` to the record: it commits with the state that it tells of, or not at all.
    /// It gets its number within a second of that.
    ///
    /// # Errors
    /// When the database refuses, or this node's log is not open yet.
    pub async fn event_append(&mut self, event: &Event) -> Result<(), StoreError> {
        let desk = self.desk()?;
        let sealed = desk.sealing.seal(event);
        bind(sqlx::query(insert_one(self.placeholders())), desk.log, &sealed, None).execute(self.connection()).await?;
        Ok(())
    }

    /// Appends events and numbers them in `log`, all in this transaction. One whose id is known
    /// already is left as it is and takes no number. Gives how many were new.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record_batch(&mut self, log: Log, events: &[Sealed]) -> Result<usize, StoreError> {
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        let first = self.log_take(log, count).await?;
        let mut next = first;
        let mut rest = events;
        for (size, text) in INSERT_SIZES.iter().zip(inserts(self.placeholders())) {
            while let Some((chunk, others)) = rest.split_at_checked(*size).filter(|(chunk, _)| !chunk.is_empty()) {
                rest = others;
                let inserted = self.insert_numbered(text, log, chunk, next).await?;
                if inserted == chunk.len() {
                    next += i64::try_from(inserted).unwrap_or(0);
                } else {
                    next = self.insert_unknown(log, chunk, next).await?;
                }
            }
        }
        if next - first != count {
            self.log_give_back(log, next).await?;
        }
        Ok(usize::try_from(next - first).unwrap_or(0))
    }

    /// Writes a chunk again of which some events were known: one by one, so that each number is
    /// taken by an event that is really written.
    async fn insert_unknown(&mut self, log: Log, chunk: &[Sealed], first: i64) -> Result<i64, StoreError> {
        sqlx::query(DELETE_CHUNK).bind(log.number).bind(first).execute(self.connection()).await?;
        let mut next = first;
        for event in chunk {
            if self.insert_numbered(insert_one(self.placeholders()), log, std::slice::from_ref(event), next).await? == 1
            {
                next += 1;
            }
        }
        Ok(next)
    }

    async fn insert_numbered(
        &mut self,
        text: &'static str,
        log: Log,
        events: &[Sealed],
        first: i64,
    ) -> Result<usize, StoreError> {
        let (mut query, mut hashes) = (sqlx::query(text), Vec::with_capacity(events.len()));
        for (seq, event) in (first..).zip(events) {
            let leaf = event.leaf(log.node(), seq);
            hashes.push(leaf_hash(leaf.as_ref()));
            query = bind(query, log, event, Some((seq, leaf)));
        }
        let done = query.execute(self.connection()).await?;
        let inserted = usize::try_from(done.rows_affected()).unwrap_or(usize::MAX);
        if inserted == events.len() {
            for (seq, hash) in (first..).zip(hashes) {
                self.leaf_numbered(log, seq, hash);
            }
        }
        Ok(inserted)
    }
}

type Statement<'q> = Query<'q, Any, AnyArguments>;

fn bind<'q>(query: Statement<'q>, log: Log, event: &Sealed, numbered: Option<(i64, Vec<u8>)>) -> Statement<'q> {
    let clear = event.clear();
    let (seq, leaf) = numbered.unzip();
    query
        .bind(clear.id.to_string())
        .bind(log.number)
        .bind(seq)
        .bind(clear.time.millis())
        .bind(clear.kind.name())
        .bind(clear.service.as_ref().map(|name| name.as_str().to_owned()))
        .bind(clear.outcome.name())
        .bind(clear.actor.map(|id| id.to_string()))
        .bind(clear.session.map(|id| id.to_string()))
        .bind(clear.grant.map(|id| id.to_string()))
        .bind(event.body().to_owned())
        .bind(event.personal_json())
        .bind(event.salts().to_vec())
        .bind(leaf)
}

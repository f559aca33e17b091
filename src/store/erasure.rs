//! Erasures of people from the record: what is asked for, how far it is, and what a rule holds back.
//!
//! INVARIANT: whoever works on an erasure holds its row until the transaction ends, and how far it looked commits
//! with what it erased, so that a crash repeats nothing and leaves nothing out.

use sqlx::{AnyConnection, FromRow};

use super::engine::{Store, StoreError, Tx};
use super::log::Log;
use crate::model::{ErasureId, EventId, Timestamp, UserRef};

/// The most that one page of erasures has.
pub const ERASURE_PAGE_MAX: u32 = 200;
macro_rules! columns {
    () => {
        "id, pseudonym, requested_at, requested_by, reason, state, events, fields, texts, texts_left, finished_at"
    };
}

const INSERT: &str = concat!(
    "insert into audit_erasure (",
    columns!(),
    ", look_again_at) values ($1, $2, $3, $4, $5, 'running', 0, 0, 0, $6, null, $7)"
);
const FETCH: &str = concat!("select ", columns!(), " from audit_erasure where id = $1");
const OF: &str = concat!("select ", columns!(), " from audit_erasure where pseudonym = $1");
const LIST: &str = concat!("select ", columns!(), " from audit_erasure where id < $1 order by id desc limit $2");
const DUE: &str = concat!(
    "select ",
    columns!(),
    " from audit_erasure where state = 'running' or look_again_at <= $1 order by id limit $2"
);
/// An update that changes nothing: it waits for who works on the row, and makes others wait.
const HOLD: &str = concat!(
    "update audit_erasure set events = events where id = $1 and (state = 'running' or look_again_at <= $2) returning ",
    columns!()
);
const COUNT: &str =
    "update audit_erasure set events = events + $2, fields = fields + $3, texts = texts + $4 where id = $1";
macro_rules! state {
    () => {
        "update audit_erasure set state = case \
         when exists (select 1 from audit_erasure_kept k where k.erasure = audit_erasure.id and k.rule = '') then 'running' \
         when exists (select 1 from audit_erasure_kept k where k.erasure = audit_erasure.id) then 'kept' else 'done' end, \
         finished_at = case when exists \
         (select 1 from audit_erasure_kept k where k.erasure = audit_erasure.id) then null \
         else coalesce(finished_at, $2) end"
    };
}
const FINISH: &str =
    concat!(state!(), ", look_again_at = case when look_again_at <= $2 then null else look_again_at end where id = $1");
/// One whose batches are under way is not over, whatever rules let go.
const FINISH_KEPT: &str = concat!(state!(), " where id = $1 and state = 'kept'");
const RETIRED: &str = "select pseudonym from audit_erasure";
const PEOPLE: &str = "select pseudonym from audit_erasure order by pseudonym limit $1";

/// Sums are numeric on PostgreSQL.
const SUM: &str = "\
    select cast(coalesce(sum(fields), 0) as bigint), cast(coalesce(sum(texts), 0) as bigint), \
    (select count(*) from audit_erasure_kept where whole = 1) from audit_erasure";
const REACHED: &str = "select next_seq from audit_erasure_log where erasure = $1 and log = $2";
const REACH: &str = "\
    insert into audit_erasure_log (erasure, log, next_seq) values ($1, $2, $3) \
    on conflict (erasure, log) do update set next_seq = excluded.next_seq";

const KEEP: &str = "\
    insert into audit_erasure_kept (erasure, event, rule, until, whole) values ($1, $2, $3, $4, $5) \
    on conflict (erasure, event) do update set rule = excluded.rule, until = excluded.until, \
    whole = case when audit_erasure_kept.whole = 1 then 1 else excluded.whole end";
const KEPT: &str = "\
    select rule, count(*) as events, max(until) as until from audit_erasure_kept where erasure = $1 and rule <> '' \
    group by rule order by rule";
const KEPT_DUE: &str = "\
    select k.erasure, k.event, k.rule, k.whole, e.pseudonym from audit_erasure_kept k join audit_erasure e on e.id = k.erasure \
    where k.until <= $1 order by k.until, k.event limit $2";
const KEPT_DONE: &str = "delete from audit_erasure_kept where erasure = $1 and event = $2";

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureState {
    /// Batches are under way.
    Running,
    /// All is erased but what a rule holds back.
    Kept,
    /// All is erased.
    Done,
}

impl ErasureState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Kept => "kept",
            Self::Done => "done",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Kept, Self::Done].into_iter().find(|state| state.name() == text)
    }
}

/// An erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Its id.
    pub id: ErasureId,
    /// Whose trail: a pseudonym that is nobody's any more.
    pub pseudonym: UserRef,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// By whom, by pseudonym.
    pub requested_by: UserRef,
    /// Why.
    pub reason: String,
    /// How far it is.
    pub state: ErasureState,
    /// Events that lost values.
    pub events: i64,
    /// Values that went, each with its salt.
    pub fields: i64,
    /// Events that lost all their content, since a text in them named the person.
    pub texts: i64,
    /// Events in whose text the person was found and left.
    pub texts_left: i64,
    /// When all was erased.
    pub finished_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    id: String,
    pseudonym: String,
    requested_at: i64,
    requested_by: String,
    reason: String,
    state: String,
    events: i64,
    fields: i64,
    texts: i64,
    texts_left: i64,
    finished_at: Option<i64>,
}

impl TryFrom<Row> for Erasure {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "audit_erasure", column, row: row.id.clone() };
        Ok(Self {
            id: ErasureId::parse(&row.id).map_err(|_| wrong("id"))?,
            pseudonym: UserRef::parse(&row.pseudonym).map_err(|_| wrong("pseudonym"))?,
            requested_at: Timestamp::from_millis(row.requested_at),
            requested_by: UserRef::parse(&row.requested_by).map_err(|_| wrong("requested_by"))?,
            state: ErasureState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            events: row.events,
            fields: row.fields,
            texts: row.texts,
            texts_left: row.texts_left,
            finished_at: row.finished_at.map(Timestamp::from_millis),
            reason: row.reason,
        })
    }
}

/// What went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Events that lost values.
    pub events: i64,
    /// Values that went, each with its salt.
    pub fields: i64,
    /// Events that lost all their content.
    pub texts: i64,
}

impl Taken {
    /// Counts more.
    pub const fn add(&mut self, more: Self) {
        self.events += more.events;
        self.fields += more.fields;
        self.texts += more.texts;
    }
}

/// What went by all erasures, and what is still to go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErasedSum {
    /// Personal values that went.
    pub values: u64,
    /// Events that lost all their content or are about to.
    pub events: u64,
    /// Of them those that are about to.
    pub events_due: u64,
}

/// What one rule holds back of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptByRule {
    /// The rule's name.
    pub rule: String,
    /// How many events.
    pub events: i64,
    /// When the last of them goes.
    pub until: Timestamp,
}

#[derive(FromRow)]
struct KeptRow {
    rule: String,
    events: i64,
    until: i64,
}

/// What of an event goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    /// The person's values.
    Values,
    /// All of its content.
    Whole,
}

/// An event that a rule held back until now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBack {
    /// Of which erasure.
    pub erasure: ErasureId,
    /// The event.
    pub event: EventId,
    /// Whose.
    pub pseudonym: UserRef,
    /// Which rule; empty where none did.
    pub rule: String,
    /// What goes.
    pub what: Goes,
}

#[derive(FromRow)]
struct HeldRow {
    erasure: String,
    event: String,
    rule: String,
    whole: i64,
    pseudonym: String,
}

impl TryFrom<HeldRow> for HeldBack {
    type Error = StoreError;

    fn try_from(row: HeldRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "audit_erasure_kept", column, row: row.event.clone() };
        Ok(Self {
            erasure: ErasureId::parse(&row.erasure).map_err(|_| wrong("erasure"))?,
            event: EventId::parse(&row.event).map_err(|_| wrong("event"))?,
            pseudonym: UserRef::parse(&row.pseudonym).map_err(|_| wrong("erasure"))?,
            rule: row.rule,
            what: if row.whole == 1 { Goes::Whole } else { Goes::Values },
        })
    }
}

async fn kept(connection: &mut AnyConnection, id: ErasureId) -> Result<Vec<KeptByRule>, StoreError> {
    let rows: Vec<KeptRow> = sqlx::query_as(KEPT).bind(id.to_string()).fetch_all(connection).await?;
    let read =
        |row: KeptRow| KeptByRule { rule: row.rule, events: row.events, until: Timestamp::from_millis(row.until) };
    Ok(rows.into_iter().map(read).collect())
}

impl Store {
    /// Erasures, newest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_list(&self, before: Option<ErasureId>, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        let before = before.unwrap_or(ErasureId::from_bytes([0xff; 16]));
        let query = sqlx::query_as(LIST).bind(before.to_string()).bind(i64::from(limit.min(ERASURE_PAGE_MAX)));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(Erasure::try_from).collect()
    }

    /// The erasure of that id.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn erasure_fetch(&self, id: ErasureId) -> Result<Option<Erasure>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(id.to_string()).fetch_optional(self.pool()).await?;
        row.map(Erasure::try_from).transpose()
    }

    /// The erasure of that pseudonym.
    ///
    /// # Errors
    /// When the database is away or the row can't be.
    pub async fn erasure_of(&self, pseudonym: UserRef) -> Result<Option<Erasure>, StoreError> {
        let row: Option<Row> = sqlx::query_as(OF).bind(pseudonym.to_string()).fetch_optional(self.pool()).await?;
        row.map(Erasure::try_from).transpose()
    }

    /// What rules hold back of an erasure.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn erasure_kept(&self, id: ErasureId) -> Result<Vec<KeptByRule>, StoreError> {
        kept(&mut *self.pool().acquire().await?, id).await
    }

    /// What went by all erasures.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn erasure_sum(&self) -> Result<ErasedSum, StoreError> {
        let (fields, texts, due): (i64, i64, i64) = sqlx::query_as(SUM).fetch_one(self.pool()).await?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(ErasedSum { values: count(fields), events: count(texts) + count(due), events_due: count(due) })
    }

    /// Who was erased, by pseudonym, at most `limit` of them.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn erasure_people(&self, limit: u32) -> Result<Vec<String>, StoreError> {
        Ok(sqlx::query_scalar(PEOPLE).bind(i64::from(limit)).fetch_all(self.pool()).await?)
    }

    /// Erasures that there is work on, the oldest first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_due(&self, now: Timestamp, limit: u32) -> Result<Vec<Erasure>, StoreError> {
        let query = sqlx::query_as(DUE).bind(now.millis()).bind(i64::from(limit));
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(Erasure::try_from).collect()
    }

    /// Whether a rule's time is over for anything.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn erasure_held_due(&self, now: Timestamp) -> Result<bool, StoreError> {
        let query = sqlx::query_as(KEPT_DUE).bind(now.millis()).bind(1_i64);
        Ok(query.fetch_optional(self.pool()).await?.map(|row: HeldRow| row.event).is_some())
    }

    /// Reads the pseudonyms that are given to nobody any more; a node does so before it seals anything.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn pseudonyms_retired(&self) -> Result<Vec<UserRef>, StoreError> {
        let texts: Vec<String> = sqlx::query_scalar(RETIRED).fetch_all(self.pool()).await?;
        let wrong = |row| StoreError::Inconsistent { table: "audit_erasure", column: "pseudonym", row };
        texts.into_iter().map(|text| UserRef::parse(&text).map_err(|_| wrong(text))).collect()
    }

    /// From now on this node gives this pseudonym to nobody.
    ///
    /// # Errors
    /// When this node's log is not open.
    pub fn pseudonym_retire(&self, pseudonym: UserRef) -> Result<(), StoreError> {
        let desk = self.desk().get().ok_or(StoreError::NoLog)?;
        desk.sealing.pseudonyms().retire([pseudonym]);
        Ok(())
    }
}

impl Tx {
    /// Enters an erasure; `look_again_at` is when the logs are looked through once more.
    ///
    /// # Errors
    /// When the database refuses, or the pseudonym was erased before.
    pub async fn erasure_insert(&mut self, erasure: &Erasure, look_again_at: Timestamp) -> Result<(), StoreError> {
        sqlx::query(INSERT)
            .bind(erasure.id.to_string())
            .bind(erasure.pseudonym.to_string())
            .bind(erasure.requested_at.millis())
            .bind(erasure.requested_by.to_string())
            .bind(erasure.reason.clone())
            .bind(erasure.texts_left)
            .bind(look_again_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Holds an erasure that there is work on until this transaction ends.
    ///
    /// # Errors
    /// When the database refuses or the row can't be.
    pub async fn erasure_hold(&mut self, id: ErasureId, now: Timestamp) -> Result<Option<Erasure>, StoreError> {
        let query = sqlx::query_as(HOLD).bind(id.to_string()).bind(now.millis());
        let row: Option<Row> = query.fetch_optional(self.connection()).await?;
        row.map(Erasure::try_from).transpose()
    }

    /// How far an erasure has looked through a log: the next place.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_reached(&mut self, id: ErasureId, log: Log) -> Result<i64, StoreError> {
        let query = sqlx::query_scalar(REACHED).bind(id.to_string()).bind(log.number);
        Ok(query.fetch_optional(self.connection()).await?.unwrap_or(0))
    }

    /// Notes how far it has.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_reach(&mut self, id: ErasureId, log: Log, next: i64) -> Result<(), StoreError> {
        let query = sqlx::query(REACH).bind(id.to_string()).bind(log.number).bind(next);
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// Adds to what an erasure has taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_count(&mut self, id: ErasureId, taken: Taken) -> Result<(), StoreError> {
        let query = sqlx::query(COUNT).bind(id.to_string()).bind(taken.events).bind(taken.fields).bind(taken.texts);
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// All logs are looked through: says how far it is.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_finish(&mut self, id: ErasureId, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(FINISH).bind(id.to_string()).bind(now.millis()).execute(self.connection()).await?;
        Ok(())
    }

    /// What a rule held back was erased: says how far it is, unless the logs are still looked through.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_finish_kept(&mut self, id: ErasureId, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(FINISH_KEPT).bind(id.to_string()).bind(now.millis()).execute(self.connection()).await?;
        Ok(())
    }

    /// Notes that a rule holds an event back, or (an empty name) that it is to be erased at once.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_keep(
        &mut self,
        id: ErasureId,
        event: EventId,
        (rule, until): (&str, Timestamp),
        what: Goes,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(KEEP).bind(id.to_string()).bind(event.to_string()).bind(rule.to_owned());
        query.bind(until.millis()).bind(i64::from(what == Goes::Whole)).execute(self.connection()).await?;
        Ok(())
    }

    /// Events whose rule's time is over, the earliest first.
    ///
    /// # Errors
    /// When the database refuses or a row can't be.
    pub async fn erasure_held(&mut self, now: Timestamp, limit: i64) -> Result<Vec<HeldBack>, StoreError> {
        let query = sqlx::query_as(KEPT_DUE).bind(now.millis()).bind(limit);
        let rows: Vec<HeldRow> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(HeldBack::try_from).collect()
    }

    /// Nothing holds this event back any more. `false`: somebody else was first.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn erasure_let_go(&mut self, id: ErasureId, event: EventId) -> Result<bool, StoreError> {
        let query = sqlx::query(KEPT_DONE).bind(id.to_string()).bind(event.to_string());
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }
}

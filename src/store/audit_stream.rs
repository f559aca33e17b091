//! Streams of the record: how far each receiver outside has each log, who sends, and how it goes.
//!
//! INVARIANTS: a cursor only moves forward, and only by the node that holds the stream; it moves after
//! the receiver has taken what lies before it, so what is sent twice is possible and what is not sent
//! is not.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use super::log::Log;
use crate::model::{NodeId, Timestamp};

/// The longest error that is kept, in characters.
const ERROR_CHARS_MAX: usize = 300;

const OPEN: &str = "\
    insert into audit_stream (name, kind, format, opened_at, seen_at) values ($1, $2, $3, $4, $4) \
    on conflict (name) do nothing";
const SEEN: &str = "update audit_stream set kind = $1, format = $2, seen_at = $3 where name = $4";
const CURSOR_BEGIN: &str = "\
    insert into audit_stream_cursor (stream, log, next_seq) select $1, number, next_seq from audit_log where true \
    on conflict (stream, log) do nothing";
const TAKE: &str = "\
    update audit_stream set sender = $1, sender_until = $2, seen_at = $3 \
    where name = $4 and (sender = $1 or sender is null or sender_until <= $3)";
const RELEASE: &str = "update audit_stream set sender = null, sender_until = 0 where name = $1 and sender = $2";
const HOLD: &str = "update audit_stream set seen_at = $1 where name = $2 and sender = $3";
const FETCH: &str = "\
    select name, kind, format, opened_at, seen_at, sender, sender_until, sent, sent_at, failing_since, failures, \
    error, stalled_at from audit_stream where name = $1";
const LIST: &str = "\
    select name, kind, format, opened_at, seen_at, sender, sender_until, sent, sent_at, failing_since, failures, \
    error, stalled_at from audit_stream order by name";
const POSITIONS: &str = "\
    select l.number, l.node, l.next_seq as size, coalesce(c.next_seq, 0) as next, e.time \
    from audit_log l left join audit_stream_cursor c on c.log = l.number and c.stream = $1 \
    left join audit_event e on e.log = l.number and e.seq = coalesce(c.next_seq, 0) order by l.number";
const CURSOR_SET: &str = "\
    insert into audit_stream_cursor (stream, log, next_seq) values ($1, $2, $3) \
    on conflict (stream, log) do update set next_seq = excluded.next_seq \
    where audit_stream_cursor.next_seq < excluded.next_seq";
const SENT: &str = "\
    update audit_stream set sent = sent + $1, sent_at = $2, failing_since = null, failures = 0, error = null, \
    stalled_at = null where name = $3";
/// What failed of another log stays told.
const SENT_SOME: &str = "update audit_stream set sent = sent + $1, sent_at = $2 where name = $3";
const FAILED: &str = "\
    update audit_stream set failing_since = coalesce(failing_since, $1), failures = failures + 1, error = $2, \
    seen_at = $1 where name = $3 and sender = $4";
const STALLED: &str = "update audit_stream set stalled_at = $1 where name = $2 and stalled_at is null";
const UNSENT: &str = "\
    select s.name, coalesce(c.next_seq, 0) as next from audit_stream s \
    left join audit_stream_cursor c on c.stream = s.name and c.log = $1 \
    where s.seen_at >= $2 and coalesce(c.next_seq, 0) < $3 order by s.name";

/// Where a new stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamStart {
    /// With what comes from now on.
    #[default]
    Now,
    /// With the first event that is on record.
    Beginning,
}

/// A stream as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStream {
    /// Its name in the configuration.
    pub name: String,
    /// `syslog`, `webhook` or `otlp`.
    pub kind: String,
    /// `jsonl`, `ocsf` or `cef`.
    pub format: String,
    /// When it was first configured.
    pub opened_at: Timestamp,
    /// When a node last had it in its configuration.
    pub seen_at: Timestamp,
    /// Which node sends, and until when nobody else may.
    pub sender: Option<(String, Timestamp)>,
    /// Events that were taken.
    pub sent: i64,
    /// When the last ones were.
    pub sent_at: Option<Timestamp>,
    /// Since when nothing is taken.
    pub failing_since: Option<Timestamp>,
    /// How often that was tried since.
    pub failures: i64,
    /// What went wrong last.
    pub error: Option<String>,
    /// When it was told that nothing is taken.
    pub stalled_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    name: String,
    kind: String,
    format: String,
    opened_at: i64,
    seen_at: i64,
    sender: Option<String>,
    sender_until: i64,
    sent: i64,
    sent_at: Option<i64>,
    failing_since: Option<i64>,
    failures: i64,
    error: Option<String>,
    stalled_at: Option<i64>,
}

impl From<Row> for StoredStream {
    fn from(row: Row) -> Self {
        let until = Timestamp::from_millis(row.sender_until);
        Self {
            name: row.name,
            kind: row.kind,
            format: row.format,
            opened_at: Timestamp::from_millis(row.opened_at),
            seen_at: Timestamp::from_millis(row.seen_at),
            sender: row.sender.map(|node| (node, until)),
            sent: row.sent,
            sent_at: row.sent_at.map(Timestamp::from_millis),
            failing_since: row.failing_since.map(Timestamp::from_millis),
            failures: row.failures,
            error: row.error,
            stalled_at: row.stalled_at.map(Timestamp::from_millis),
        }
    }
}

/// How far a stream has one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    /// The log.
    pub log: Log,
    /// How many events it has.
    pub size: u64,
    /// The number of the next one that is sent.
    pub next: u64,
    /// When that one happened, where it is there already.
    pub time: Option<Timestamp>,
}

impl StreamPosition {
    /// Events that are still to be looked at.
    #[must_use]
    pub const fn lag(&self) -> u64 {
        self.size.saturating_sub(self.next)
    }
}

#[derive(FromRow)]
struct PositionRow {
    number: i64,
    node: String,
    size: i64,
    next: i64,
    time: Option<i64>,
}

impl TryFrom<PositionRow> for StreamPosition {
    type Error = StoreError;

    fn try_from(row: PositionRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "audit_log", column, row: row.node.clone() };
        Ok(Self {
            log: Log { number: row.number, node: NodeId::parse(&row.node).map_err(|_| wrong("node"))? },
            size: u64::try_from(row.size).map_err(|_| wrong("next_seq"))?,
            next: u64::try_from(row.next).unwrap_or(0),
            time: row.time.map(Timestamp::from_millis),
        })
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn capped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect()
}

impl Store {
    /// Makes a stream known, or notes that it still is. Where it begins counts the first time only; a
    /// log that is opened later is sent from its start.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stream_open(
        &self,
        name: &str,
        kind: &str,
        format: &str,
        start: StreamStart,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(OPEN).bind(name).bind(kind).bind(format).bind(now.millis());
        let made = query.execute(tx.connection()).await?.rows_affected() == 1;
        if made && start == StreamStart::Now {
            sqlx::query(CURSOR_BEGIN).bind(name).execute(tx.connection()).await?;
        }
        let query = sqlx::query(SEEN).bind(kind).bind(format).bind(now.millis()).bind(name);
        query.execute(tx.connection()).await?;
        tx.commit().await
    }

    /// Takes the stream for `node` until `until`, or keeps it. False: another node has it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stream_take(
        &self,
        name: &str,
        node: &NodeId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(TAKE).bind(node.to_string()).bind(until.millis()).bind(now.millis()).bind(name);
        let taken = query.execute(tx.connection()).await?.rows_affected() == 1;
        tx.commit().await?;
        Ok(taken)
    }

    /// Lets another node take the stream at once.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stream_release(&self, name: &str, node: &NodeId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(RELEASE).bind(name).bind(node.to_string()).execute(tx.connection()).await?;
        tx.commit().await
    }

    /// How far the stream has each log.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn stream_positions(&self, name: &str) -> Result<Vec<StreamPosition>, StoreError> {
        let rows: Vec<PositionRow> = sqlx::query_as(POSITIONS).bind(name).fetch_all(self.pool()).await?;
        rows.into_iter().map(StreamPosition::try_from).collect()
    }

    /// A stream, if it is known.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stream_fetch(&self, name: &str) -> Result<Option<StoredStream>, StoreError> {
        let row: Option<Row> = sqlx::query_as(FETCH).bind(name).fetch_optional(self.pool()).await?;
        Ok(row.map(StoredStream::from))
    }

    /// Every stream that is or was configured, by name.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn stream_list(&self) -> Result<Vec<StoredStream>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(LIST).fetch_all(self.pool()).await?;
        Ok(rows.into_iter().map(StoredStream::from).collect())
    }
}

impl Tx {
    /// Holds the stream for `node` until this transaction ends, and gives it as it is. None: another
    /// node has it by now.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_hold(
        &mut self,
        name: &str,
        node: &NodeId,
        now: Timestamp,
    ) -> Result<Option<StoredStream>, StoreError> {
        let query = sqlx::query(HOLD).bind(now.millis()).bind(name).bind(node.to_string());
        if query.execute(self.connection()).await?.rows_affected() != 1 {
            return Ok(None);
        }
        let row: Option<Row> = sqlx::query_as(FETCH).bind(name).fetch_optional(self.connection()).await?;
        Ok(row.map(StoredStream::from))
    }

    /// Notes that everything of `log` before `next` was taken or is not wanted.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_advance(&mut self, name: &str, log: Log, next: u64) -> Result<(), StoreError> {
        let query = sqlx::query(CURSOR_SET).bind(name).bind(log.number).bind(signed(next));
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// Notes that `count` events were taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_sent(&mut self, name: &str, count: u64, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(SENT).bind(signed(count)).bind(now.millis()).bind(name);
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// As [`Self::stream_sent`], while a batch of another log is refused.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_sent_some(&mut self, name: &str, count: u64, now: Timestamp) -> Result<(), StoreError> {
        let query = sqlx::query(SENT_SOME).bind(signed(count)).bind(now.millis()).bind(name);
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// Notes why a batch was not taken.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_failed(
        &mut self,
        name: &str,
        node: &NodeId,
        error: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(FAILED).bind(now.millis()).bind(capped(error)).bind(name).bind(node.to_string());
        query.execute(self.connection()).await?;
        Ok(())
    }

    /// Notes that it is told that nothing is taken. False: it was told before.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_stalled(&mut self, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let query = sqlx::query(STALLED).bind(now.millis()).bind(name);
        Ok(query.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Streams that were configured since `seen_since` and have not sent all of `log` before `end`, each
    /// with the number of the next event that it sends.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn stream_list_behind(
        &mut self,
        log: Log,
        end: i64,
        seen_since: Timestamp,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let query = sqlx::query_as(UNSENT).bind(log.number).bind(seen_since.millis()).bind(end);
        Ok(query.fetch_all(self.connection()).await?)
    }
}

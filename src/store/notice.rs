//! Notices: which committed events a channel has yet to be told of, and how the telling went.
//!
//! INVARIANTS: a channel's cursor moves in the transaction that keeps its notices, so no event is
//! missed and none is kept twice. A trial is claimed before it is made, by one guarded update that
//! also sets when the next is due: two nodes never make the same trial, and one that dies in the
//! middle of it only leaves it to the next. What a notice says is read from the record when it is
//! sent.

use sqlx::FromRow;

use super::audit_event::Recorded;
use super::engine::{Store, StoreError, Tx};
use crate::audit::{Event, EventType, Outcome, PersonalField};
use crate::model::{EventId, Timestamp};

/// Numbers of one log that are looked at in one transaction.
const READ_SPAN: i64 = 5_000;
/// The most that one page of notices has.
pub const NOTICE_PAGE_MAX: u32 = 200;
/// The longest error that is kept of a trial, in characters.
const ERROR_CHARS_MAX: usize = 300;

const CHANNEL_OPEN: &str =
    "insert into notice_channel (name, created_at, read_at) values ($1, $2, $2) on conflict (name) do nothing";
const CHANNEL_HOLD: &str = "update notice_channel set read_at = $1 where name = $2";
const CURSOR_BEGIN: &str = "insert into notice_cursor (channel, log, next_seq) select $1, number, next_seq from audit_log where true on conflict (channel, log) do nothing";
const CURSORS: &str = "\
    select l.number, l.next_seq as size, coalesce(c.next_seq, 0) as read \
    from audit_log l left join notice_cursor c on c.log = l.number and c.channel = $1 order by l.number";
const CURSOR_SET: &str = "\
    insert into notice_cursor (channel, log, next_seq) values ($1, $2, $3) \
    on conflict (channel, log) do update set next_seq = excluded.next_seq";
// What passes through the door makes by far the most events and is never told.
const EVENTS: &str = "\
    select id, type, case when type = 'breakglass.refused' then body else null end as body from audit_event \
    where log = $1 and seq >= $2 and seq < $3 \
    and type not in ('decision.allow', 'decision.deny', 'exchange.ended') order by seq";
const INSERT: &str = "\
    insert into notice (channel, event, type, state, attempts, next_at, created_at) \
    values ($1, $2, $3, 'waiting', 0, $4, $4) on conflict (channel, event) do nothing";
const DUE: &str = "\
    select channel, event, type, state, attempts, next_at, error, created_at, ended_at from notice \
    where channel = $1 and state = 'waiting' and next_at <= $2 order by next_at, event limit $3";
const CLAIM: &str = "\
    update notice set attempts = attempts + 1, next_at = $1 \
    where channel = $2 and event = $3 and state = 'waiting' and attempts = $4";
const DELIVERED: &str = "\
    update notice set state = 'delivered', ended_at = $1, error = null \
    where channel = $2 and event = $3 and state = 'waiting'";
const FAILED: &str = "\
    update notice set error = $1, next_at = case when next_at < $2 then $2 else next_at end \
    where channel = $3 and event = $4 and state = 'waiting'";
const DEAD: &str = "\
    update notice set state = 'dead', ended_at = $1, error = $2 \
    where channel = $3 and event = $4 and state = 'waiting'";
const LIST: &str = "\
    select channel, event, type, state, attempts, next_at, error, created_at, ended_at from notice \
    where ($1 = '' or state = $1) and (event < $2 or (event = $2 and channel > $3)) \
    order by event desc, channel limit $4";
const OF_EVENT: &str = "\
    select channel, event, type, state, attempts, next_at, error, created_at, ended_at from notice \
    where event = $1 order by channel";
const RETRY: &str = "\
    update notice set state = 'waiting', attempts = 0, next_at = $1, ended_at = null \
    where channel = $2 and event = $3 and state = 'dead' \
    returning channel, event, type, state, attempts, next_at, error, created_at, ended_at";
const TOLD: &str = "\
    insert into notice_told (channel, event, mark, told_at) values ($1, $2, $3, $4) \
    on conflict (channel, event, mark) do nothing";
const TOLD_LIST: &str = "select mark from notice_told where channel = $1 and event = $2";
const COUNT: &str = "select count(*) from notice where state = $1 and channel = $2";
/// Rows of each kind that one pruning takes at most.
const PRUNE_MAX: i64 = 1_000;
const PRUNE: [&str; 2] = [
    "delete from notice where (channel, event) in \
     (select channel, event from notice where ended_at < $1 order by ended_at limit $2)",
    "delete from notice_told where (channel, event, mark) in \
     (select channel, event, mark from notice_told where told_at < $1 order by told_at limit $2)",
];

/// How far the telling of one notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeState {
    /// It is tried, now or later.
    Waiting,
    /// It was taken.
    Delivered,
    /// It is tried no more.
    Dead,
}

impl NoticeState {
    /// As stored and shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Delivered, Self::Dead].into_iter().find(|state| state.name() == text)
    }
}

/// One notice of one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNotice {
    /// Who is told.
    pub channel: String,
    /// Of which event.
    pub event: EventId,
    /// The event's type.
    pub kind: String,
    /// How far it is.
    pub state: NoticeState,
    /// Trials that were begun.
    pub attempts: i64,
    /// When the next one is due, while it waits.
    pub next_at: Timestamp,
    /// What went wrong last.
    pub error: Option<String>,
    /// When it was kept.
    pub created_at: Timestamp,
    /// When it was taken or given up.
    pub ended_at: Option<Timestamp>,
}

#[derive(FromRow)]
struct Row {
    channel: String,
    event: String,
    #[sqlx(rename = "type")]
    kind: String,
    state: String,
    attempts: i64,
    next_at: i64,
    error: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
}

impl TryFrom<Row> for StoredNotice {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "notice", column, row: row.event.clone() };
        Ok(Self {
            event: EventId::parse(&row.event).map_err(|_| wrong("event"))?,
            state: NoticeState::parse(&row.state).ok_or_else(|| wrong("state"))?,
            channel: row.channel,
            kind: row.kind,
            attempts: row.attempts,
            next_at: Timestamp::from_millis(row.next_at),
            error: row.error,
            created_at: Timestamp::from_millis(row.created_at),
            ended_at: row.ended_at.map(Timestamp::from_millis),
        })
    }
}

/// Where a page of notices begins: after this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticePlace {
    /// The event.
    pub event: EventId,
    /// The channel.
    pub channel: String,
}

/// Of some events the collector reads more than their type.
#[derive(FromRow)]
struct EventRow {
    id: String,
    #[sqlx(rename = "type")]
    kind: String,
    body: Option<String>,
}

impl EventRow {
    /// Whether it was left to a count that is told by itself.
    fn is_counted(&self) -> bool {
        let body = self.body.as_deref().and_then(|body| serde_json::from_str::<serde_json::Value>(body).ok());
        body.is_some_and(|body| body.pointer("/data/repeated") == Some(&true.into()))
    }
}

#[derive(FromRow)]
struct CursorRow {
    number: i64,
    size: i64,
    read: i64,
}

/// Who is named in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Who did it.
    Actor,
    /// The actor's e-mail.
    ActorEmail,
    /// To whom it was done.
    Subject,
}

impl Recorded {
    /// Who is named in the event, where they are and were not erased.
    #[must_use]
    pub fn named(&self, who: Named) -> Option<&str> {
        self.personal(match who {
            Named::Actor => PersonalField::Principal,
            Named::ActorEmail => PersonalField::Email,
            Named::Subject => PersonalField::Subject,
        })
    }
}

impl Store {
    /// Makes a channel known. It begins at what the record has by now; a log that is opened later
    /// it reads from the start. Later calls change nothing.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_channel_open(&self, channel: &str, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let made = sqlx::query(CHANNEL_OPEN).bind(channel).bind(now.millis()).execute(tx.connection()).await?;
        if made.rows_affected() == 1 {
            sqlx::query(CURSOR_BEGIN).bind(channel).execute(tx.connection()).await?;
        }
        tx.commit().await
    }

    /// Reads on in the record and keeps a notice of every event whose type is `wanted`. Gives how
    /// many were kept; `None` when there was nothing to read.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn notice_collect(
        &self,
        channel: &str,
        wanted: impl Fn(&str) -> bool + Send,
        now: Timestamp,
    ) -> Result<Option<u64>, StoreError> {
        let fresh = |rows: Vec<CursorRow>| rows.into_iter().filter(|row| row.read < row.size).collect::<Vec<_>>();
        let cursors = sqlx::query_as(CURSORS).bind(channel).fetch_all(self.pool()).await?;
        if fresh(cursors).is_empty() {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        // ORDER: the channel is held first; what another node read meanwhile is then seen.
        sqlx::query(CHANNEL_HOLD).bind(now.millis()).bind(channel).execute(tx.connection()).await?;
        let cursors = sqlx::query_as(CURSORS).bind(channel).fetch_all(tx.connection()).await?;
        let mut kept = 0;
        for cursor in fresh(cursors) {
            let to = cursor.size.min(cursor.read + READ_SPAN);
            let events: Vec<EventRow> = sqlx::query_as(EVENTS)
                .bind(cursor.number)
                .bind(cursor.read)
                .bind(to)
                .fetch_all(tx.connection())
                .await?;
            for event in events.iter().filter(|event| wanted(&event.kind) && !event.is_counted()) {
                let insert = sqlx::query(INSERT).bind(channel).bind(&event.id).bind(&event.kind).bind(now.millis());
                kept += insert.execute(tx.connection()).await?.rows_affected();
            }
            sqlx::query(CURSOR_SET).bind(channel).bind(cursor.number).bind(to).execute(tx.connection()).await?;
        }
        tx.commit().await?;
        Ok(Some(kept))
    }

    /// What is due of a channel, the longest waiting first.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn notice_list_due(
        &self,
        channel: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<StoredNotice>, StoreError> {
        let due: Vec<Row> = sqlx::query_as(DUE)
            .bind(channel)
            .bind(now.millis())
            .bind(i64::from(limit.min(NOTICE_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        due.into_iter().map(StoredNotice::try_from).collect()
    }

    /// Claims one trial, and says when the next is due should this one come to nothing. False:
    /// another node was first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_claim(&self, notice: &StoredNotice, next_at: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let claimed = sqlx::query(CLAIM)
            .bind(next_at.millis())
            .bind(&notice.channel)
            .bind(notice.event.to_string())
            .bind(notice.attempts)
            .execute(tx.connection())
            .await?;
        tx.commit().await?;
        Ok(claimed.rows_affected() == 1)
    }

    /// Notes that it was taken.
    ///
    /// # Errors
    /// When the database is away; it is then told once more.
    pub async fn notice_delivered(&self, notice: &StoredNotice, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(DELIVERED).bind(now.millis()).bind(&notice.channel).bind(notice.event.to_string());
        query.execute(tx.connection()).await?;
        tx.commit().await
    }

    /// Notes why a trial came to nothing; it is tried again, not before `not_before`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_failed(
        &self,
        notice: &StoredNotice,
        error: &str,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(FAILED).bind(capped(error)).bind(not_before.millis());
        query.bind(&notice.channel).bind(notice.event.to_string()).execute(tx.connection()).await?;
        tx.commit().await
    }

    /// Gives a notice up, on record. That the news of a dead notice is itself dead is not news:
    /// else a channel that is gone would never fall silent.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_bury(
        &self,
        notice: &StoredNotice,
        error: &str,
        id: EventId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(DEAD).bind(now.millis()).bind(capped(error));
        let buried =
            query.bind(&notice.channel).bind(notice.event.to_string()).execute(tx.connection()).await?.rows_affected();
        if buried == 1 && notice.kind != EventType::NoticeDead.name() {
            let event = Event::new(id, now, EventType::NoticeDead, Outcome::Failed)
                .with("channel", notice.channel.as_str())
                .with("event", notice.event.to_string())
                .with("type", notice.kind.as_str())
                .with("attempts", notice.attempts)
                .with("error", capped(error));
            tx.event_append(&event).await?;
        }
        tx.commit().await
    }

    /// Notices in this state or, without one, in all, newest event first, after the one named.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn notice_list(
        &self,
        state: Option<NoticeState>,
        after: Option<&NoticePlace>,
        limit: u32,
    ) -> Result<Vec<StoredNotice>, StoreError> {
        let event = after.map_or_else(|| EventId::from_bytes([0xff; 16]), |place| place.event);
        let rows: Vec<Row> = sqlx::query_as(LIST)
            .bind(state.map_or("", NoticeState::name))
            .bind(event.to_string())
            .bind(after.map_or("", |place| place.channel.as_str()))
            .bind(i64::from(limit.min(NOTICE_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(StoredNotice::try_from).collect()
    }

    /// The notices of one event, one a channel.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn notice_list_of(&self, event: EventId) -> Result<Vec<StoredNotice>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(OF_EVENT).bind(event.to_string()).fetch_all(self.pool()).await?;
        rows.into_iter().map(StoredNotice::try_from).collect()
    }

    /// Remembers that somebody of a notice's audience got it, by the mark of their address.
    ///
    /// # Errors
    /// When the database is away; they then get it once more.
    pub async fn notice_told(&self, notice: &StoredNotice, mark: &str, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let query = sqlx::query(TOLD).bind(&notice.channel).bind(notice.event.to_string()).bind(mark);
        query.bind(now.millis()).execute(tx.connection()).await?;
        tx.commit().await
    }

    /// The marks of those who got it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_told_list(&self, notice: &StoredNotice) -> Result<Vec<String>, StoreError> {
        let query = sqlx::query_scalar(TOLD_LIST).bind(&notice.channel).bind(notice.event.to_string());
        Ok(query.fetch_all(self.pool()).await?)
    }

    /// How many notices of a channel are in this state.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn notice_count(&self, channel: &str, state: NoticeState) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(COUNT).bind(state.name()).bind(channel).fetch_one(self.pool()).await?)
    }
}

impl Tx {
    /// Has a dead notice tried again from the start; `None` where it is not dead (any more).
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn notice_retry(
        &mut self,
        channel: &str,
        event: EventId,
        now: Timestamp,
    ) -> Result<Option<StoredNotice>, StoreError> {
        let query = sqlx::query_as(RETRY).bind(now.millis()).bind(channel).bind(event.to_string());
        let row: Option<Row> = query.fetch_optional(self.connection()).await?;
        row.map(StoredNotice::try_from).transpose()
    }

    /// Forgets notices that ended before `before`, some at a time. Gives how many rows went.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn notice_prune(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0;
        for statement in PRUNE {
            let query = sqlx::query(statement).bind(before.millis()).bind(PRUNE_MAX);
            gone += query.execute(self.connection()).await?.rows_affected();
        }
        Ok(gone)
    }
}

fn capped(error: &str) -> String {
    error.chars().take(ERROR_CHARS_MAX).collect()
}

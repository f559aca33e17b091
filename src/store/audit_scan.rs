//! The record read from one end to the other: numbered events, log by log in their order, or the
//! newest first, as a filter wants them.
//!
//! Whoever exports, streams or counts comes through here: page by page, the last position as the
//! cursor of the next page.

use serde_json::Value;

use super::audit_event::{EVENT_PAGE_MAX, Recorded, Row};
use super::engine::{Store, StoreError};
use super::log::Log;
use crate::audit::filter::Filter;
use crate::audit::settings::RETENTION_MIN;
use crate::model::{EventId, NodeId, ServiceName, Timestamp, Ttl};

/// Events are looked for by id, which begins with their time; an id and its event differ by less than
/// this: an opening of the emergency path has an id of the time at which its challenge begins, and may be used an hour later.
pub(super) const ID_SLACK: Ttl = Ttl::minutes(75);

const FORWARD: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.log = $1 and e.seq >= $2 and e.seq < $3 order by e.seq limit $4";
const BACKWARD: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.id < $1 and e.id >= $2 and e.time >= $3 and e.time < $4 \
    and ($5 = '' or e.type = $5) and ($6 = '' or e.service = $6) and ($7 = '' or e.actor = $7) \
    and ($8 = '' or e.grant_id = $8) and ($9 = '' or e.session = $9) \
    order by e.id desc limit $10";
const AFTER: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.log = $1 and e.seq >= $2 \
    and ($3 = '' or e.type = $3) and ($4 = '' or e.service = $4) and ($5 = '' or e.actor = $5) \
    and ($6 = '' or e.grant_id = $6) and ($7 = '' or e.session = $7) \
    order by e.seq limit $8";
const BOUNDS: &str = "\
    select min(seq), max(seq) from audit_event where log = $1 and seq is not null \
    and id >= $2 and id < $3 and time >= $4 and time < $5";
/// Numbers are given in the order in which events come, whatever their ids say.
const BOUNDS_NEAR: &str = "\
    select min(seq), max(seq) from audit_event where log = $1 and seq >= $2 and seq <= $3 and time >= $4 and time < $5";
const TIME_OF: &str = "select time from audit_event where log = $1 and seq = $2";

/// What a line of an export shows, or can't show any more: the rest is what its filter leaves out. Content that
/// is gone is `''` where it was pruned, `'{}'` where it was erased.
const COUNT_SHOWN: &str = "\
    select count(*) from audit_event e where e.log = $1 and e.seq >= $2 and e.seq < $3 and (e.body = '' or e.body = '{}' \
    or (e.time >= $4 and e.time < $5 and ($6 = '' or e.type = $6) and ($7 = '' or e.service = $7) \
    and ($8 = '' or e.actor = $8) and ($9 = '' or e.grant_id = $9) and ($10 = '' or e.session = $10)))";
const COUNT_ERASED: &str = "select count(*) from audit_event where log = $1 and seq >= $2 and seq < $3 and body = '{}'";
/// The first condition is that of the index `audit_event_emergency_kind`.
const PRUNED: &str = "\
    select e.id, l.node, e.seq, e.time, e.type, e.service, e.outcome, e.actor, e.session, e.grant_id, \
    e.body, e.personal, e.salts, e.leaf \
    from audit_event e join audit_log l on l.number = e.log \
    where e.type < 'c' and e.type = 'audit.pruned' and e.body <> '' and e.seq is not null order by e.id desc limit $1";
/// Accounts of prunings that are looked at for one that holds.
const PRUNED_LOOK: i64 = 20;
const ERASED_AHEAD: &str = "\
    select body from audit_event where log = $1 and ((seq is null and time >= $3 and time <= $4) or seq >= $2) and type = 'audit.erased'";
/// What is committed has its number within a second.
const NUMBERED_WITHIN: Ttl = Ttl::seconds(60);
/// What is committed may be of a node whose clock is ahead.
const CLOCKS_DIFFER: Ttl = Ttl::seconds(5);

/// So many numbers before and behind the events of a time are looked at for such whose id is of another time: ends
/// of streams of before their ids were those of the end, what tells of a merged spool.
const NEAR: i64 = 1_000;

/// A place in the record: a log and a number in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub log: Log,
    /// The number of the next event.
    pub seq: u64,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The least id of that time.
pub(super) fn id_at(time: Timestamp) -> EventId {
    EventId::from_bytes([0; 16]).at(time)
}

struct Texts {
    kind: &'static str,
    service: String,
    actor: String,
    grant: String,
    session: String,
}

impl Texts {
    fn of(filter: &Filter) -> Self {
        let text = |value: Option<String>| value.unwrap_or_default();
        Self {
            kind: filter.kind.map_or("", crate::audit::EventType::name),
            service: filter.service.as_ref().map_or("", ServiceName::as_str).to_owned(),
            actor: text(filter.actor.map(|id| id.to_string())),
            grant: text(filter.grant.map(|id| id.to_string())),
            session: text(filter.session.map(|id| id.to_string())),
        }
    }
}

impl Store {
    /// The numbered events `from..to` of a log in their order, at most `limit` or
    /// [`EVENT_PAGE_MAX`].
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_range(&self, log: Log, from: u64, to: u64, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(FORWARD)
            .bind(log.number)
            .bind(signed(from))
            .bind(signed(to))
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// The numbered events of a log that a filter wants, from `position` on, in their order. The
    /// filter's times are not looked at: who follows a log reads on from where it was.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_follow(
        &self,
        position: Position,
        filter: &Filter,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let texts = Texts::of(filter);
        let rows: Vec<Row> = sqlx::query_as(AFTER)
            .bind(position.log.number)
            .bind(signed(position.seq))
            .bind(texts.kind)
            .bind(texts.service)
            .bind(texts.actor)
            .bind(texts.grant)
            .bind(texts.session)
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// The newest events that a filter wants, older than `before` where that is given.
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn event_search(
        &self,
        filter: &Filter,
        before: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let texts = Texts::of(filter);
        let newest = filter.to.map_or(EventId::from_bytes([0xff; 16]), |to| id_at(to.plus(ID_SLACK)));
        let oldest = filter.from.map_or(EventId::from_bytes([0; 16]), |from| id_at(from.minus(ID_SLACK)));
        let before = before.map_or(newest, |before| before.min(newest));
        let rows: Vec<Row> = sqlx::query_as(BACKWARD)
            .bind(before.to_string())
            .bind(oldest.to_string())
            .bind(filter.from.map_or(i64::MIN, Timestamp::millis))
            .bind(filter.to.map_or(i64::MAX, Timestamp::millis))
            .bind(texts.kind)
            .bind(texts.service)
            .bind(texts.actor)
            .bind(texts.grant)
            .bind(texts.session)
            .bind(i64::from(limit.min(EVENT_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Recorded::try_from).collect()
    }

    /// The first and the last number of a log's events within these times; none where there are
    /// none.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn event_bounds(
        &self,
        log: Log,
        from: Option<Timestamp>,
        to: Option<Timestamp>,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let newest = to.map_or(EventId::from_bytes([0xff; 16]), |to| id_at(to.plus(ID_SLACK)));
        let oldest = from.map_or(EventId::from_bytes([0; 16]), |from| id_at(from.minus(ID_SLACK)));
        let times = (from.map_or(i64::MIN, Timestamp::millis), to.map_or(i64::MAX, Timestamp::millis));
        let by_id: (Option<i64>, Option<i64>) = sqlx::query_as(BOUNDS)
            .bind(log.number)
            .bind(oldest.to_string())
            .bind(newest.to_string())
            .bind(times.0)
            .bind(times.1)
            .fetch_one(self.pool())
            .await?;
        let size = self.log_size(log).await?;
        let least = match from {
            Some(from) => self.event_place(log, size, from).await?,
            None => 0,
        };
        let most = match to {
            Some(to) => self.event_place(log, size, to).await?,
            None => size,
        };
        let near: (Option<i64>, Option<i64>) = sqlx::query_as(BOUNDS_NEAR)
            .bind(log.number)
            .bind(least - NEAR)
            .bind(most + NEAR)
            .bind(times.0)
            .bind(times.1)
            .fetch_one(self.pool())
            .await?;
        let whole = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        let (first, last) = (by_id.0.into_iter().chain(near.0).min(), by_id.1.max(near.1));
        Ok(whole(first).zip(whole(last)))
    }

    /// About where in a log the events of this time begin: a merged spool stands behind what is younger.
    async fn event_place(&self, log: Log, size: i64, time: Timestamp) -> Result<i64, StoreError> {
        let (mut low, mut high) = (0, size);
        while low < high {
            let middle = low + (high - low) / 2;
            let query = sqlx::query_scalar(TIME_OF).bind(log.number).bind(middle);
            let found: Option<i64> = query.fetch_optional(self.pool()).await?;
            match found {
                Some(found) if found < time.millis() => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// How many of the events `from..to` of a log a filter wants, with those whose content is gone.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn event_count_shown(
        &self,
        log: Log,
        (from, to): (u64, u64),
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        let texts = Texts::of(filter);
        let count: i64 = sqlx::query_scalar(COUNT_SHOWN)
            .bind(log.number)
            .bind(signed(from))
            .bind(signed(to))
            .bind(filter.from.map_or(i64::MIN, Timestamp::millis))
            .bind(filter.to.map_or(i64::MAX, Timestamp::millis))
            .bind(texts.kind)
            .bind(texts.service)
            .bind(texts.actor)
            .bind(texts.grant)
            .bind(texts.session)
            .fetch_one(self.pool())
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How many of the events `from..to` of a log were erased as a whole.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn event_count_erased(&self, log: Log, (from, to): (u64, u64)) -> Result<u64, StoreError> {
        let query = sqlx::query_scalar(COUNT_ERASED).bind(log.number).bind(signed(from)).bind(signed(to));
        let count: i64 = query.fetch_one(self.pool()).await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Until when events were pruned, as the last pruning says that `is_kept` is sure of, by its log and number: a
    /// row that no tree holds could be anybody's, and none tells of what was younger than retention can be. None
    /// where there is none.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn pruned_before(&self, is_kept: impl Fn(NodeId, u64) -> bool) -> Result<Option<Timestamp>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(PRUNED).bind(PRUNED_LOOK).fetch_all(self.pool()).await?;
        let said = |row| {
            let event = Recorded::try_from(row).ok().filter(|event| event.verify().is_ok())?;
            u64::try_from(event.seq?).ok().filter(|seq| is_kept(event.log, *seq))?;
            let before = Timestamp::parse(event.text("/data/before")?)?;
            (before <= event.clear().time.minus(RETENTION_MIN)).then_some(before)
        };
        Ok(rows.into_iter().find_map(said))
    }

    /// How many personal values were erased by events of a log that have no number below `size`, and whose, by
    /// pseudonym; where it is `running`, also by those that were committed lately and have none yet.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn erased_ahead(
        &self,
        log: Log,
        size: u64,
        running: Option<Timestamp>,
    ) -> Result<(u64, Vec<String>), StoreError> {
        let lately = running.map(|now| (now.minus(NUMBERED_WITHIN).millis(), now.plus(CLOCKS_DIFFER).millis()));
        // Else no time is between the two.
        let (from, to) = lately.unwrap_or((i64::MAX, i64::MIN));
        let query = sqlx::query_scalar(ERASED_AHEAD).bind(log.number).bind(signed(size)).bind(from).bind(to);
        let bodies: Vec<String> = query.fetch_all(self.pool()).await?;
        let (mut values, mut people) = (0, Vec::new());
        for body in bodies.iter().filter_map(|body| serde_json::from_str::<Value>(body).ok()) {
            values += body.pointer("/data/fields").and_then(Value::as_u64).unwrap_or(0);
            people.extend(body.pointer("/data/pseudonym").and_then(Value::as_str).map(str::to_owned));
        }
        Ok((values, people))
    }
}

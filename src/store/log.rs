//! The log of a node: where its events get their numbers, gapless from 0.
//!
//! INVARIANT: who takes numbers holds the log's row until the transaction ends, so a rolled-back
//! transaction takes none.

use std::sync::Arc;

use super::engine::{Store, StoreError, Tx};
use super::fresh_leaves::FreshLeaves;
use crate::audit::Sealing;
use crate::model::{NodeId, Principal, Timestamp, UserRef};

/// A node's log: its short number in the database and the node whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub(in crate::store) number: i64,
    pub(in crate::store) node: NodeId,
}

impl Log {
    /// The node whose log this is.
    #[must_use]
    pub const fn node(&self) -> &NodeId {
        &self.node
    }
}

/// Where this node keeps events and what it seals them with.
#[derive(Clone)]
pub(in crate::store) struct Desk {
    pub log: Log,
    pub sealing: Arc<Sealing>,
    /// What was numbered in it and is not in its tree yet.
    pub fresh: Arc<FreshLeaves>,
}

const FETCH: &str = "select number from audit_log where node = $1";
const NUMBER: &str = "update counter set value = value + 1 where name = 'audit_log' returning value";
const INSERT: &str = "\
    insert into audit_log (number, node, next_seq, opened_at) values ($1, $2, 0, $3) \
    on conflict (node) do nothing";
const TAKE: &str = "update audit_log set next_seq = next_seq + $1 where number = $2 returning next_seq";
const GIVE_BACK: &str = "update audit_log set next_seq = $1 where number = $2";
const SIZE: &str = "select next_seq from audit_log where number = $1";

/// Ids sort by time.
const LATEST: &str = "select time from audit_event order by id desc limit 1";
const LATEST_HERE: &str = "select time from audit_event where log = $1 order by id desc limit 1";

impl Store {
    /// Opens the log of `node`, new or as it was left, and from now on seals with `sealing` what
    /// transactions of this store append. Later calls change nothing.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn log_open(&self, node: NodeId, sealing: Arc<Sealing>, now: Timestamp) -> Result<Log, StoreError> {
        let name = node.to_string();
        let mut tx = self.begin().await?;
        let known: Option<i64> = sqlx::query_scalar(FETCH).bind(&name).fetch_optional(tx.connection()).await?;
        let number = if let Some(number) = known {
            number
        } else {
            let next: i64 = sqlx::query_scalar(NUMBER).fetch_one(tx.connection()).await?;
            sqlx::query(INSERT).bind(next).bind(&name).bind(now.millis()).execute(tx.connection()).await?;
            sqlx::query_scalar(FETCH).bind(&name).fetch_one(tx.connection()).await?
        };
        tx.commit().await?;
        let log = Log { number, node };
        Ok(self.desk().get_or_init(|| Desk { log, sealing, fresh: Arc::default() }).log)
    }

    /// The node whose log this store appends to.
    ///
    /// # Errors
    /// When this node's log is not open yet.
    pub fn node(&self) -> Result<NodeId, StoreError> {
        Ok(*self.desk().get().ok_or(StoreError::NoLog)?.log.node())
    }

    /// The pseudonym of `principal` in the record: for asking what somebody did.
    ///
    /// # Errors
    /// When this node's log is not open yet.
    pub fn pseudonym(&self, principal: &Principal) -> Result<UserRef, StoreError> {
        let desk = self.desk().get().ok_or(StoreError::NoLog)?;
        Ok(desk.sealing.pseudonyms().of(principal))
    }

    /// What this node seals events with.
    ///
    /// # Errors
    /// When this node's log is not open yet.
    pub fn sealing(&self) -> Result<Arc<Sealing>, StoreError> {
        self.desk().get().map(|desk| Arc::clone(&desk.sealing)).ok_or(StoreError::NoLog)
    }

    /// The time of the newest event on record, and of the newest that this node wrote.
    ///
    /// # Errors
    /// When the database is away, or this node's log is not open yet.
    pub async fn log_latest(&self) -> Result<(Option<Timestamp>, Option<Timestamp>), StoreError> {
        let log = self.desk().get().ok_or(StoreError::NoLog)?.log;
        let latest: Option<i64> = sqlx::query_scalar(LATEST).fetch_optional(self.pool()).await?;
        let here: Option<i64> = sqlx::query_scalar(LATEST_HERE).bind(log.number).fetch_optional(self.pool()).await?;
        Ok((latest.map(Timestamp::from_millis), here.map(Timestamp::from_millis)))
    }

    /// How many events the log has: its next number.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn log_size(&self, log: Log) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(SIZE).bind(log.number).fetch_one(self.pool()).await?)
    }
}

impl Tx {
    /// Takes `count` numbers of `log` and holds the log until this transaction ends. Gives the
    /// first of them.
    pub(in crate::store) async fn log_take(&mut self, log: Log, count: i64) -> Result<i64, StoreError> {
        let next: i64 = sqlx::query_scalar(TAKE).bind(count).bind(log.number).fetch_one(self.connection()).await?;
        Ok(next - count)
    }

    /// Says that the numbers from `next` on, taken by this transaction, were not needed.
    pub(in crate::store) async fn log_give_back(&mut self, log: Log, next: i64) -> Result<(), StoreError> {
        sqlx::query(GIVE_BACK).bind(next).bind(log.number).execute(self.connection()).await?;
        Ok(())
    }
}

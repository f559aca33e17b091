//! The feed of what every node must hear of: ended and changed sessions, locks, grants, new keys,
//! erased people.
//!
//! INVARIANT: numbers appear in the order of their commits. Who appends holds the counter's row
//! until its transaction ends, so a node that has seen number N has seen all before it.

use sqlx::FromRow;

use super::engine::{Store, StoreError, Tx};
use crate::model::Timestamp;

/// The most that one look into the feed gives.
pub const REVOCATION_PAGE_MAX: u32 = 1000;

/// What happened to the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RevocationKind {
    /// The session (`ses_…`) ended.
    SessionEnded,
    /// The session (`ses_…`) has other groups, certificate or end.
    SessionChanged,
    /// The principal (`User::"…"`) is barred.
    LockSet,
    /// The principal (`User::"…"`) is not barred any more.
    LockCleared,
    /// The grant (`grt_…`) became active, lasts longer, or is over.
    GrantChanged,
    /// Signing keys changed; the subject is the key (`key_…`).
    KeysChanged,
    /// A token of ours was withdrawn; the subject is its `jti`.
    TokenRevoked,
    /// A person was erased; the subject is the pseudonym (`usr_…`) that nobody is given any more.
    PersonErased,
}

impl RevocationKind {
    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionEnded => "session_ended",
            Self::SessionChanged => "session_changed",
            Self::LockSet => "lock_set",
            Self::LockCleared => "lock_cleared",
            Self::GrantChanged => "grant_changed",
            Self::KeysChanged => "keys_changed",
            Self::TokenRevoked => "token_revoked",
            Self::PersonErased => "person_erased",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "session_ended" => Some(Self::SessionEnded),
            "session_changed" => Some(Self::SessionChanged),
            "lock_set" => Some(Self::LockSet),
            "lock_cleared" => Some(Self::LockCleared),
            "grant_changed" => Some(Self::GrantChanged),
            "keys_changed" => Some(Self::KeysChanged),
            "token_revoked" => Some(Self::TokenRevoked),
            "person_erased" => Some(Self::PersonErased),
            _ => None,
        }
    }
}

/// One entry of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Its number: 1, 2, 3 …
    pub number: i64,
    /// What happened.
    pub kind: RevocationKind,
    /// To whom or what: an id, or a principal in its text form.
    pub subject: String,
    /// When.
    pub time: Timestamp,
}

const NUMBER: &str = "update counter set value = value + 1 where name = 'revocation' returning value";
const INSERT: &str = "insert into revocation (number, kind, subject, time) values ($1, $2, $3, $4)";
const SINCE: &str = "\
    select number, kind, subject, time from revocation \
    where number > $1 order by number limit $2";
const LATEST: &str = "select value from counter where name = 'revocation'";
const PRUNE: &str = "delete from revocation where time < $1";

#[derive(FromRow)]
struct Row {
    number: i64,
    kind: String,
    subject: String,
    time: i64,
}

impl TryFrom<Row> for Revocation {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            number: row.number,
            kind: RevocationKind::parse(&row.kind).ok_or_else(|| StoreError::Inconsistent {
                table: "revocation",
                column: "kind",
                row: row.number.to_string(),
            })?,
            subject: row.subject,
            time: Timestamp::from_millis(row.time),
        })
    }
}

impl Store {
    /// The entries after `number`, in their order, at most `limit` or [`REVOCATION_PAGE_MAX`].
    ///
    /// # Errors
    /// When the database is away or a row can't be.
    pub async fn revocation_since(&self, number: i64, limit: u32) -> Result<Vec<Revocation>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(SINCE)
            .bind(number)
            .bind(i64::from(limit.min(REVOCATION_PAGE_MAX)))
            .fetch_all(self.pool())
            .await?;
        rows.into_iter().map(Revocation::try_from).collect()
    }

    /// The newest number. A node reads it first, then the state, and follows the feed from here:
    /// what changes in between it hears of twice, which does no harm.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn revocation_latest(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(LATEST).fetch_one(self.pool()).await?)
    }
}

impl Tx {
    /// Tells all nodes, once this transaction has committed. Gives the number.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn revocation_append(
        &mut self,
        kind: RevocationKind,
        subject: &str,
        now: Timestamp,
    ) -> Result<i64, StoreError> {
        let number: i64 = sqlx::query_scalar(NUMBER).fetch_one(self.connection()).await?;
        sqlx::query(INSERT)
            .bind(number)
            .bind(kind.name())
            .bind(subject)
            .bind(now.millis())
            .execute(self.connection())
            .await?;
        Ok(number)
    }

    /// Forgets entries from before `time`. A node that has not read them yet sees that they are missing.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn revocation_prune(&mut self, time: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query(PRUNE).bind(time.millis()).execute(self.connection()).await?;
        Ok(done.rows_affected())
    }
}

//! Authorization codes, refresh tokens and device codes.
//!
//! INVARIANTS: each is good once: using one is a single guarded update, and who gets no row back
//! was not first. What is kept is the SHA-256 of what its holder has.

use std::net::IpAddr;

use sqlx::FromRow;

use crate::model::{SessionId, Timestamp, Ttl};

use super::{Store, StoreError, Tx};

/// SHA-256 of a code or token.
pub type SecretHash = [u8; 32];

/// An authorization code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthCode {
    /// SHA-256 of the code.
    pub hash: SecretHash,
    /// Who may use it.
    pub client_id: String,
    /// Where it was sent; its user names the same.
    pub redirect_uri: String,
    /// The S256 challenge (RFC 7636 §4.2).
    pub challenge: String,
    /// The browser session behind it.
    pub parent: SessionId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whether it was used, and the session that came from it.
    pub used: bool,
    /// The session that came from it.
    pub issued: Option<SessionId>,
}

/// A refresh token of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// SHA-256 of the token.
    pub hash: SecretHash,
    /// The session, which is its family.
    pub session: SessionId,
    /// Who may use it.
    pub client_id: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Whether it was used.
    pub used: bool,
}

/// How far a device's sign-in has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Nobody has answered.
    Pending,
    /// The person of this browser session agreed.
    Approved(SessionId),
    /// Somebody refused.
    Denied,
    /// The device has its session.
    Redeemed(SessionId),
}

/// A device's sign-in under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCode {
    /// SHA-256 of what the device polls with.
    pub hash: SecretHash,
    /// SHA-256 of what its owner types, in its plain form.
    pub user_code_hash: SecretHash,
    /// Who may use it.
    pub client_id: String,
    /// How far it has come.
    pub state: DeviceState,
    /// Where the device asked from.
    pub address: IpAddr,
    /// What the device called itself.
    pub agent: String,
    /// When it asked.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// How long the device waits between two polls.
    pub interval: Ttl,
    /// When it may poll next.
    pub next_poll_at: Timestamp,
}

macro_rules! code_columns {
    () => {
        "hash, client_id, redirect_uri, challenge, parent, expires_at, used_at, issued"
    };
}
macro_rules! device_columns {
    () => {
        "hash, user_code_hash, client_id, state, address, agent, created_at, expires_at, interval_ms, next_poll_at, \
         parent, issued"
    };
}

const CODE_INSERT: &str = "insert into oauth_code (hash, client_id, redirect_uri, challenge, parent, created_at, expires_at) \
                           values ($1, $2, $3, $4, $5, $6, $7)";
const CODE_USE: &str = concat!(
    "update oauth_code set used_at = $2 where hash = $1 and used_at is null and expires_at > $2 returning ",
    code_columns!()
);
const CODE_FETCH: &str = concat!("select ", code_columns!(), " from oauth_code where hash = $1");
const CODE_ISSUED: &str = "update oauth_code set issued = $2 where hash = $1";

const REFRESH_INSERT: &str = "insert into refresh_token (hash, session, client_id, created_at, expires_at) \
                              values ($1, $2, $3, $4, $5)";
const REFRESH_USE: &str = "update refresh_token set used_at = $2 where hash = $1 and used_at is null and expires_at > $2 \
                           returning hash, session, client_id, expires_at, used_at";
const REFRESH_FETCH: &str = "select hash, session, client_id, expires_at, used_at from refresh_token where hash = $1";

const DEVICE_INSERT: &str = concat!(
    "insert into device_code (",
    device_columns!(),
    ") values ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $9, null, null)"
);
const DEVICE_FETCH: &str = concat!("select ", device_columns!(), " from device_code where hash = $1");
const DEVICE_FETCH_BY_USER_CODE: &str =
    concat!("select ", device_columns!(), " from device_code where user_code_hash = $1 and expires_at > $2");
const DEVICE_ANSWER: &str = concat!(
    "update device_code set state = $2, parent = $3 \
     where user_code_hash = $1 and state = 'pending' and expires_at > $4 returning ",
    device_columns!()
);
const DEVICE_POLLED: &str = "update device_code set interval_ms = $2, next_poll_at = $3 where hash = $1";
const DEVICE_REDEEM: &str = concat!(
    "update device_code set state = 'redeemed', issued = $2 where hash = $1 and state = 'approved' returning ",
    device_columns!()
);

/// Rows that one sweep takes of each kind at most.
const SWEEP_MAX: i64 = 500;
const SWEEP: [&str; 3] = [
    "delete from oauth_code where hash in (select hash from oauth_code where expires_at <= $1 limit $2)",
    "delete from device_code where hash in (select hash from device_code where expires_at <= $1 limit $2)",
    "delete from refresh_token where hash in (select hash from refresh_token where expires_at <= $1 limit $2)",
];

#[derive(FromRow)]
struct CodeRow {
    hash: Vec<u8>,
    client_id: String,
    redirect_uri: String,
    challenge: String,
    parent: String,
    expires_at: i64,
    used_at: Option<i64>,
    issued: Option<String>,
}

#[derive(FromRow)]
struct RefreshRow {
    hash: Vec<u8>,
    session: String,
    client_id: String,
    expires_at: i64,
    used_at: Option<i64>,
}

#[derive(FromRow)]
struct DeviceRow {
    hash: Vec<u8>,
    user_code_hash: Vec<u8>,
    client_id: String,
    state: String,
    address: String,
    agent: String,
    created_at: i64,
    expires_at: i64,
    interval_ms: i64,
    next_poll_at: i64,
    parent: Option<String>,
    issued: Option<String>,
}

fn session_of(table: &'static str, column: &'static str, text: &str) -> Result<SessionId, StoreError> {
    SessionId::parse(text).map_err(|_| StoreError::Inconsistent { table, column, row: text.to_owned() })
}

fn hash_of(table: &'static str, column: &'static str, bytes: &[u8]) -> Result<SecretHash, StoreError> {
    let row = || data_encoding::HEXLOWER.encode(bytes);
    bytes.try_into().map_err(|_| StoreError::Inconsistent { table, column, row: row() })
}

impl TryFrom<CodeRow> for OauthCode {
    type Error = StoreError;

    fn try_from(row: CodeRow) -> Result<Self, StoreError> {
        Ok(Self {
            hash: hash_of("oauth_code", "hash", &row.hash)?,
            client_id: row.client_id,
            redirect_uri: row.redirect_uri,
            challenge: row.challenge,
            parent: session_of("oauth_code", "parent", &row.parent)?,
            expires_at: Timestamp::from_millis(row.expires_at),
            used: row.used_at.is_some(),
            issued: row.issued.map(|id| session_of("oauth_code", "issued", &id)).transpose()?,
        })
    }
}

impl TryFrom<RefreshRow> for RefreshToken {
    type Error = StoreError;

    fn try_from(row: RefreshRow) -> Result<Self, StoreError> {
        Ok(Self {
            hash: hash_of("refresh_token", "hash", &row.hash)?,
            session: session_of("refresh_token", "session", &row.session)?,
            client_id: row.client_id,
            expires_at: Timestamp::from_millis(row.expires_at),
            used: row.used_at.is_some(),
        })
    }
}

impl TryFrom<DeviceRow> for DeviceCode {
    type Error = StoreError;

    fn try_from(row: DeviceRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent {
            table: "device_code",
            column,
            row: data_encoding::HEXLOWER.encode(&row.hash),
        };
        let session = |column, text: &Option<String>| {
            text.as_deref().ok_or_else(|| wrong(column)).and_then(|id| session_of("device_code", column, id))
        };
        let state = match row.state.as_str() {
            "pending" => DeviceState::Pending,
            "approved" => DeviceState::Approved(session("parent", &row.parent)?),
            "denied" => DeviceState::Denied,
            "redeemed" => DeviceState::Redeemed(session("issued", &row.issued)?),
            _ => return Err(wrong("state")),
        };
        Ok(Self {
            hash: hash_of("device_code", "hash", &row.hash)?,
            user_code_hash: hash_of("device_code", "user_code_hash", &row.user_code_hash)?,
            state,
            address: row.address.parse().map_err(|_| wrong("address"))?,
            client_id: row.client_id,
            agent: row.agent,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            interval: Ttl::millis(u32::try_from(row.interval_ms).unwrap_or(u32::MAX)),
            next_poll_at: Timestamp::from_millis(row.next_poll_at),
        })
    }
}

impl Store {
    /// The device sign-in that a person's code names, if it is not over.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn device_fetch_by_user_code(
        &self,
        hash: &SecretHash,
        now: Timestamp,
    ) -> Result<Option<DeviceCode>, StoreError> {
        let query = sqlx::query_as(DEVICE_FETCH_BY_USER_CODE).bind(hash.to_vec()).bind(now.millis());
        let row: Option<DeviceRow> = query.fetch_optional(self.pool()).await?;
        row.map(DeviceCode::try_from).transpose()
    }

    /// The refresh token of that hash, used or not.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn refresh_fetch(&self, hash: &SecretHash) -> Result<Option<RefreshToken>, StoreError> {
        let row: Option<RefreshRow> =
            sqlx::query_as(REFRESH_FETCH).bind(hash.to_vec()).fetch_optional(self.pool()).await?;
        row.map(RefreshToken::try_from).transpose()
    }
}

impl Tx {
    /// Enters a code.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn code_insert(&mut self, code: &OauthCode, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(CODE_INSERT)
            .bind(code.hash.to_vec())
            .bind(code.client_id.clone())
            .bind(code.redirect_uri.clone())
            .bind(code.challenge.clone())
            .bind(code.parent.to_string())
            .bind(now.millis())
            .bind(code.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Uses a code up; `None` when it is unknown, over or used.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn code_use(&mut self, hash: &SecretHash, now: Timestamp) -> Result<Option<OauthCode>, StoreError> {
        let query = sqlx::query_as(CODE_USE).bind(hash.to_vec()).bind(now.millis());
        let row: Option<CodeRow> = query.fetch_optional(self.connection()).await?;
        row.map(OauthCode::try_from).transpose()
    }

    /// The code of that hash, used or not.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn code_fetch(&mut self, hash: &SecretHash) -> Result<Option<OauthCode>, StoreError> {
        let row: Option<CodeRow> =
            sqlx::query_as(CODE_FETCH).bind(hash.to_vec()).fetch_optional(self.connection()).await?;
        row.map(OauthCode::try_from).transpose()
    }

    /// Remembers which session came from a code, so that a replay can end it.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn code_issued(&mut self, hash: &SecretHash, session: SessionId) -> Result<(), StoreError> {
        sqlx::query(CODE_ISSUED).bind(hash.to_vec()).bind(session.to_string()).execute(self.connection()).await?;
        Ok(())
    }

    /// Enters a refresh token.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn refresh_insert(&mut self, token: &RefreshToken, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(REFRESH_INSERT)
            .bind(token.hash.to_vec())
            .bind(token.session.to_string())
            .bind(token.client_id.clone())
            .bind(now.millis())
            .bind(token.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Uses a refresh token up; `None` when it is unknown, over or used.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn refresh_use(&mut self, hash: &SecretHash, now: Timestamp) -> Result<Option<RefreshToken>, StoreError> {
        let query = sqlx::query_as(REFRESH_USE).bind(hash.to_vec()).bind(now.millis());
        let row: Option<RefreshRow> = query.fetch_optional(self.connection()).await?;
        row.map(RefreshToken::try_from).transpose()
    }

    /// The refresh token of that hash, used or not, as this transaction sees it.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn refresh_fetch(&mut self, hash: &SecretHash) -> Result<Option<RefreshToken>, StoreError> {
        let row: Option<RefreshRow> =
            sqlx::query_as(REFRESH_FETCH).bind(hash.to_vec()).fetch_optional(self.connection()).await?;
        row.map(RefreshToken::try_from).transpose()
    }

    /// Enters a device's sign-in.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn device_insert(&mut self, code: &DeviceCode) -> Result<(), StoreError> {
        sqlx::query(DEVICE_INSERT)
            .bind(code.hash.to_vec())
            .bind(code.user_code_hash.to_vec())
            .bind(code.client_id.clone())
            .bind(code.address.to_string())
            .bind(code.agent.clone())
            .bind(code.created_at.millis())
            .bind(code.expires_at.millis())
            .bind(code.interval.as_millis())
            .bind(code.next_poll_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// The device's sign-in of that hash, over or not.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn device_fetch(&mut self, hash: &SecretHash) -> Result<Option<DeviceCode>, StoreError> {
        let row: Option<DeviceRow> =
            sqlx::query_as(DEVICE_FETCH).bind(hash.to_vec()).fetch_optional(self.connection()).await?;
        row.map(DeviceCode::try_from).transpose()
    }

    /// Answers a pending sign-in by its person's code: agreed to by the person of a browser session,
    /// or refused. `None` when it is unknown, over or answered.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn device_answer(
        &mut self,
        user_code_hash: &SecretHash,
        agreed: Option<SessionId>,
        now: Timestamp,
    ) -> Result<Option<DeviceCode>, StoreError> {
        let state = if agreed.is_some() { "approved" } else { "denied" };
        let query = sqlx::query_as(DEVICE_ANSWER)
            .bind(user_code_hash.to_vec())
            .bind(state)
            .bind(agreed.map(|id| id.to_string()))
            .bind(now.millis());
        let row: Option<DeviceRow> = query.fetch_optional(self.connection()).await?;
        row.map(DeviceCode::try_from).transpose()
    }

    /// Remembers when a device may poll next.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn device_polled(
        &mut self,
        hash: &SecretHash,
        interval: Ttl,
        next_poll_at: Timestamp,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(DEVICE_POLLED).bind(hash.to_vec()).bind(interval.as_millis());
        query.bind(next_poll_at.millis()).execute(self.connection()).await?;
        Ok(())
    }

    /// Gives an approved sign-in its session; `None` when another poll was first.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn device_redeem(
        &mut self,
        hash: &SecretHash,
        session: SessionId,
    ) -> Result<Option<DeviceCode>, StoreError> {
        let query = sqlx::query_as(DEVICE_REDEEM).bind(hash.to_vec()).bind(session.to_string());
        let row: Option<DeviceRow> = query.fetch_optional(self.connection()).await?;
        row.map(DeviceCode::try_from).transpose()
    }

    /// Forgets codes and tokens that have been over since `before` or longer. Tidying only: what
    /// is over is refused at use. A margin keeps replays of the late recognisable.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn oauth_sweep(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let mut gone = 0;
        for statement in SWEEP {
            let query = sqlx::query(statement).bind(before.millis()).bind(SWEEP_MAX);
            gone += query.execute(self.connection()).await?.rows_affected();
        }
        Ok(gone)
    }
}

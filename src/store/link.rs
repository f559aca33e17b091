//! What ties sessions to a sign-in at a provider: whom to ask whether they may go on, and whom a
//! provider's logout token means.

use sqlx::FromRow;

use crate::model::{SessionId, Timestamp};

use super::{Store, StoreError, Tx};

/// One sign-in at a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderLink {
    /// Its id, a text that is never used twice.
    pub id: String,
    /// The provider's local name.
    pub provider: String,
    /// The subject there.
    pub subject: String,
    /// The provider's own session id, where it told one.
    pub sid: Option<String>,
    /// The provider's refresh token, sealed under the key-encryption key.
    pub sealed: Option<Vec<u8>>,
    /// When the provider is to be asked next; none where it can't be.
    pub next_check_at: Option<Timestamp>,
}

const LINK_INSERT: &str = "insert into provider_link (id, provider, subject, sid, sealed, next_check_at, created_at) \
                           values ($1, $2, $3, $4, $5, $6, $7)";
const LINK_DUE: &str = "select id, provider, subject, sid, sealed, next_check_at from provider_link \
                        where next_check_at is not null and next_check_at <= $1 and exists \
                        (select 1 from session where session.link = provider_link.id \
                         and session.ended_at is null and session.expires_at > $1) \
                        order by next_check_at limit $2";
const LINK_CLAIM: &str =
    "update provider_link set next_check_at = $3 where id = $1 and next_check_at = $2 returning id";
const LINK_UPDATE: &str = "update provider_link set sealed = $2, next_check_at = $3 where id = $1";
const LINK_SESSIONS_BY_SID: &str = "select session.id from session join provider_link on session.link = provider_link.id \
     where provider_link.provider = $1 and provider_link.sid = $2 \
     and session.ended_at is null and session.expires_at > $3 order by session.id";
const LINK_SESSIONS_BY_SUBJECT: &str = "select session.id from session join provider_link on session.link = provider_link.id \
     where provider_link.provider = $1 and provider_link.subject = $2 \
     and session.ended_at is null and session.expires_at > $3 order by session.id";
const LINK_SESSIONS_WITHOUT_SID: &str = "select session.id from session join provider_link on session.link = provider_link.id \
     where provider_link.provider = $1 and provider_link.subject = $2 and provider_link.sid is null \
     and session.ended_at is null and session.expires_at > $3 order by session.id";

#[derive(FromRow)]
struct LinkRow {
    id: String,
    provider: String,
    subject: String,
    sid: Option<String>,
    sealed: Option<Vec<u8>>,
    next_check_at: Option<i64>,
}

impl From<LinkRow> for ProviderLink {
    fn from(row: LinkRow) -> Self {
        Self {
            id: row.id,
            provider: row.provider,
            subject: row.subject,
            sid: row.sid,
            sealed: row.sealed,
            next_check_at: row.next_check_at.map(Timestamp::from_millis),
        }
    }
}

fn ids(rows: Vec<(String,)>) -> Result<Vec<SessionId>, StoreError> {
    rows.into_iter()
        .map(|(id,)| {
            SessionId::parse(&id).map_err(|_| StoreError::Inconsistent { table: "session", column: "id", row: id })
        })
        .collect()
}

impl Store {
    /// Links with a live session whose provider is to be asked by now, the longest due first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn link_due(&self, now: Timestamp, limit: i64) -> Result<Vec<ProviderLink>, StoreError> {
        let rows: Vec<LinkRow> = sqlx::query_as(LINK_DUE).bind(now.millis()).bind(limit).fetch_all(self.pool()).await?;
        Ok(rows.into_iter().map(ProviderLink::from).collect())
    }

    /// Live sessions that rest on a sign-in which the provider calls `sid`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn link_sessions_by_sid(
        &self,
        provider: &str,
        sid: &str,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, StoreError> {
        let query = sqlx::query_as(LINK_SESSIONS_BY_SID).bind(provider.to_owned()).bind(sid.to_owned());
        ids(query.bind(now.millis()).fetch_all(self.pool()).await?)
    }

    /// Live sessions that rest on sign-ins of one subject at a provider.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn link_sessions_by_subject(
        &self,
        provider: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, StoreError> {
        let query = sqlx::query_as(LINK_SESSIONS_BY_SUBJECT).bind(provider.to_owned()).bind(subject.to_owned());
        ids(query.bind(now.millis()).fetch_all(self.pool()).await?)
    }

    /// Those of them whose sign-in has no `sid`.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn link_sessions_without_sid(
        &self,
        provider: &str,
        subject: &str,
        now: Timestamp,
    ) -> Result<Vec<SessionId>, StoreError> {
        let query = sqlx::query_as(LINK_SESSIONS_WITHOUT_SID).bind(provider.to_owned()).bind(subject.to_owned());
        ids(query.bind(now.millis()).fetch_all(self.pool()).await?)
    }
}

impl Tx {
    /// Enters a sign-in.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn link_insert(&mut self, link: &ProviderLink, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(LINK_INSERT)
            .bind(link.id.clone())
            .bind(link.provider.clone())
            .bind(link.subject.clone())
            .bind(link.sid.clone())
            .bind(link.sealed.clone())
            .bind(link.next_check_at.map(Timestamp::millis))
            .bind(now.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Takes a due link for the caller by moving its next check from `seen` to `until`; false when
    /// another node was first.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn link_claim(&mut self, id: &str, seen: Timestamp, until: Timestamp) -> Result<bool, StoreError> {
        let query = sqlx::query(LINK_CLAIM).bind(id.to_owned()).bind(seen.millis()).bind(until.millis());
        Ok(query.fetch_optional(self.connection()).await?.is_some())
    }

    /// Keeps what the provider gave at a check: the next refresh token and when to ask again.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn link_update(
        &mut self,
        id: &str,
        sealed: Option<&[u8]>,
        next_check_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        sqlx::query(LINK_UPDATE)
            .bind(id.to_owned())
            .bind(sealed.map(<[u8]>::to_vec))
            .bind(next_check_at.map(Timestamp::millis))
            .execute(self.connection())
            .await?;
        Ok(())
    }
}

//! Certificates and tokens that are out.
//!
//! INVARIANT: a row is written by the transaction that issues what it tells of; what is listed is good at
//! that moment: its session lives, its grant is in force, and nobody has withdrawn it.

use sqlx::FromRow;

use crate::model::{
    Credential, CredentialId, CredentialKind, GrantId, Principal, PrincipalKind, SessionId, Thumbprint, Timestamp,
};

use super::{Store, StoreError, Tx};

/// Credentials on one page of a list at most.
pub const CREDENTIAL_PAGE_MAX: i64 = 200;

/// A credential and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCredential {
    /// The credential.
    pub credential: Credential,
    /// Whose session it is of.
    pub principal: Principal,
    /// The e-mail that the provider told.
    pub email: Option<String>,
    /// The name that the provider told.
    pub name: Option<String>,
}

macro_rules! good {
    ($($more:literal),*) => {
        concat!(
            "select credential.id, credential.kind, credential.session, credential.audience, credential.scope, \
             credential.grant_id, credential.acting, credential.thumbprint, credential.jti, credential.issued_at, \
             credential.expires_at, session.principal_kind, session.principal_id, session.email, session.name \
             from credential join session on session.id = credential.session \
             where credential.expires_at > $1 and session.ended_at is null and session.expires_at > $1 \
             and not exists (select 1 from revoked_token where revoked_token.jti = credential.jti) \
             and (credential.grant_id is null or exists (select 1 from access_grant \
             where access_grant.id = credential.grant_id and access_grant.state = 'active' \
             and access_grant.expires_at > $1)) ",
            $($more),*
        )
    };
}

const INSERT: &str = "insert into credential (id, kind, session, audience, scope, grant_id, acting, thumbprint, jti, \
    issued_at, expires_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const FETCH: &str = good!("and credential.id = $2");
const LIST: &str = good!("and credential.id < $2 order by credential.id desc limit $3");
const LIST_OF: &str = good!(
    "and credential.id < $2 and session.principal_kind = $4 and session.principal_id = $5 \
     order by credential.id desc limit $3"
);
const SWEEP: &str = "delete from credential where id in (select id from credential where expires_at <= $1 limit $2)";
/// Rows that one sweep takes at most.
const SWEEP_MAX: i64 = 500;
/// Sorts after every id of a credential, which is base32hex.
const AFTER_ALL: &str = "crd_z";

#[derive(FromRow)]
struct Row {
    id: String,
    kind: String,
    session: String,
    audience: Option<String>,
    scope: Option<String>,
    grant_id: Option<String>,
    acting: Option<String>,
    thumbprint: Option<String>,
    jti: Option<String>,
    issued_at: i64,
    expires_at: i64,
    principal_kind: String,
    principal_id: String,
    email: Option<String>,
    name: Option<String>,
}

impl TryFrom<Row> for HeldCredential {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "credential", column, row: row.id.clone() };
        let kind = PrincipalKind::parse(&row.principal_kind).ok_or_else(|| wrong("principal_kind"))?;
        let grant = row.grant_id.as_deref().map(GrantId::parse).transpose().map_err(|_| wrong("grant_id"))?;
        let thumbprint = match row.thumbprint.as_deref() {
            None => None,
            Some(text) => Some(Thumbprint::parse(text).ok_or_else(|| wrong("thumbprint"))?),
        };
        let credential = Credential {
            id: CredentialId::parse(&row.id).map_err(|_| wrong("id"))?,
            kind: CredentialKind::parse(&row.kind).ok_or_else(|| wrong("kind"))?,
            session: SessionId::parse(&row.session).map_err(|_| wrong("session"))?,
            audience: row.audience.clone(),
            scope: row.scope.clone(),
            grant,
            acting: row.acting.clone(),
            thumbprint,
            jti: row.jti.clone(),
            issued_at: Timestamp::from_millis(row.issued_at),
            expires_at: Timestamp::from_millis(row.expires_at),
        };
        let principal = Principal::stored(kind, &row.principal_id).ok_or_else(|| wrong("principal_id"))?;
        Ok(Self { credential, principal, email: row.email.clone(), name: row.name.clone() })
    }
}

impl Store {
    /// The credential of that id, if it is good at `now`.
    ///
    /// # Errors
    /// When the database is away or the row is inconsistent.
    pub async fn credential_fetch(
        &self,
        id: CredentialId,
        now: Timestamp,
    ) -> Result<Option<HeldCredential>, StoreError> {
        let query = sqlx::query_as(FETCH).bind(now.millis()).bind(id.to_string());
        let row: Option<Row> = query.fetch_optional(self.pool()).await?;
        row.map(HeldCredential::try_from).transpose()
    }

    /// Credentials that are good at `now`, newest first: of `principal`, or of everyone; after the one named
    /// by `before`.
    ///
    /// # Errors
    /// When the database is away or a row is inconsistent.
    pub async fn credential_list(
        &self,
        principal: Option<&Principal>,
        before: Option<CredentialId>,
        limit: i64,
        now: Timestamp,
    ) -> Result<Vec<HeldCredential>, StoreError> {
        let before = before.map_or_else(|| AFTER_ALL.to_owned(), |id| id.to_string());
        let limit = limit.clamp(1, CREDENTIAL_PAGE_MAX + 1);
        let query = match principal {
            None => sqlx::query_as(LIST).bind(now.millis()).bind(before).bind(limit),
            Some(principal) => sqlx::query_as(LIST_OF)
                .bind(now.millis())
                .bind(before)
                .bind(limit)
                .bind(principal.kind().name())
                .bind(principal.id().to_owned()),
        };
        let rows: Vec<Row> = query.fetch_all(self.pool()).await?;
        rows.into_iter().map(HeldCredential::try_from).collect()
    }
}

impl Tx {
    /// Enters a credential that this transaction issues.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn credential_insert(&mut self, credential: &Credential) -> Result<(), StoreError> {
        sqlx::query(INSERT)
            .bind(credential.id.to_string())
            .bind(credential.kind.name())
            .bind(credential.session.to_string())
            .bind(credential.audience.clone())
            .bind(credential.scope.clone())
            .bind(credential.grant.map(|id| id.to_string()))
            .bind(credential.acting.clone())
            .bind(credential.thumbprint.map(|thumbprint| thumbprint.to_string()))
            .bind(credential.jti.clone())
            .bind(credential.issued_at.millis())
            .bind(credential.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Forgets credentials that are over; gives how many rows went.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn credential_sweep(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let query = sqlx::query(SWEEP).bind(now.millis()).bind(SWEEP_MAX);
        Ok(query.execute(self.connection()).await?.rows_affected())
    }
}

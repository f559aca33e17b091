//! Sign-ins under way, browsers on their way to a service host, logout tokens that were obeyed, and
//! the first issuer of each provider.
//!
//! INVARIANT: what may be used once is removed by the statement that reads it, so that of two who
//! come at the same moment one finds nothing.

use sqlx::FromRow;

use crate::model::{FlowId, SessionId, Timestamp};

use super::{Store, StoreError, Tx};

/// A browser that was sent to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInFlow {
    /// Its id.
    pub id: FlowId,
    /// SHA-256 of `state`.
    pub state_hash: [u8; 32],
    /// SHA-256 of the browser's flow cookie.
    pub binding_hash: [u8; 32],
    /// The provider's local name.
    pub provider: String,
    /// Nonce and PKCE verifier, sealed.
    pub sealed: Vec<u8>,
    /// Where the browser goes afterwards: a path of the control host.
    pub return_to: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it is too late for an answer.
    pub expires_at: Timestamp,
}

/// A signed-in browser on its way to a service host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHandover {
    /// SHA-256 of the code.
    pub code_hash: [u8; 32],
    /// SHA-256 of the browser's flow cookie at the service host.
    pub binding_hash: [u8; 32],
    /// The session that the browser has at the control host.
    pub session: SessionId,
    /// The service host.
    pub host: String,
    /// Where the browser goes afterwards: a path of that host.
    pub return_to: String,
    /// When it began.
    pub created_at: Timestamp,
    /// When it is too late.
    pub expires_at: Timestamp,
}

const FLOW_INSERT: &str = "insert into sign_in_flow \
    (id, state_hash, binding_hash, provider, sealed, return_to, created_at, expires_at) \
    values ($1, $2, $3, $4, $5, $6, $7, $8)";
const FLOW_TAKE: &str = "delete from sign_in_flow where state_hash = $1 and binding_hash = $2 \
    returning id, state_hash, binding_hash, provider, sealed, return_to, created_at, expires_at";
const HANDOVER_INSERT: &str = "insert into service_handover \
    (code_hash, binding_hash, session, host, return_to, created_at, expires_at) \
    values ($1, $2, $3, $4, $5, $6, $7)";
const HANDOVER_TAKE: &str = "delete from service_handover where code_hash = $1 \
    returning code_hash, binding_hash, session, host, return_to, created_at, expires_at";
const LOGOUT_TOKEN_INSERT: &str = "insert into logout_token (provider, jti_hash, expires_at) \
    values ($1, $2, $3) on conflict (provider, jti_hash) do nothing";
const ISSUER_INSERT: &str = "insert into provider_issuer (name, issuer, first_at) values ($1, $2, $3) \
    on conflict (name) do nothing";
const ISSUER_FETCH: &str = "select issuer from provider_issuer where name = $1";
const FLOW_SWEEP: &str = "delete from sign_in_flow where id in \
    (select id from sign_in_flow where expires_at <= $1 order by expires_at limit $2)";
const HANDOVER_SWEEP: &str = "delete from service_handover where code_hash in \
    (select code_hash from service_handover where expires_at <= $1 order by expires_at limit $2)";
const LOGOUT_TOKEN_SWEEP: &str = "delete from logout_token where expires_at <= $1";
/// Rows that one sweep removes of each kind: it must not hold the writer for long.
const SWEEP_MAX: i64 = 500;

#[derive(FromRow)]
struct FlowRow {
    id: String,
    state_hash: Vec<u8>,
    binding_hash: Vec<u8>,
    provider: String,
    sealed: Vec<u8>,
    return_to: String,
    created_at: i64,
    expires_at: i64,
}

#[derive(FromRow)]
struct HandoverRow {
    code_hash: Vec<u8>,
    binding_hash: Vec<u8>,
    session: String,
    host: String,
    return_to: String,
    created_at: i64,
    expires_at: i64,
}

impl TryFrom<FlowRow> for SignInFlow {
    type Error = StoreError;

    fn try_from(row: FlowRow) -> Result<Self, StoreError> {
        let wrong = |column| StoreError::Inconsistent { table: "sign_in_flow", column, row: row.id.clone() };
        Ok(Self {
            id: FlowId::parse(&row.id).map_err(|_| wrong("id"))?,
            state_hash: row.state_hash.as_slice().try_into().map_err(|_| wrong("state_hash"))?,
            binding_hash: row.binding_hash.as_slice().try_into().map_err(|_| wrong("binding_hash"))?,
            provider: row.provider.clone(),
            sealed: row.sealed.clone(),
            return_to: row.return_to.clone(),
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
        })
    }
}

impl TryFrom<HandoverRow> for ServiceHandover {
    type Error = StoreError;

    fn try_from(row: HandoverRow) -> Result<Self, StoreError> {
        let wrong =
            |column| StoreError::Inconsistent { table: "service_handover", column, row: format!("of {}", row.session) };
        Ok(Self {
            code_hash: row.code_hash.as_slice().try_into().map_err(|_| wrong("code_hash"))?,
            binding_hash: row.binding_hash.as_slice().try_into().map_err(|_| wrong("binding_hash"))?,
            session: SessionId::parse(&row.session).map_err(|_| wrong("session"))?,
            host: row.host.clone(),
            return_to: row.return_to.clone(),
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
        })
    }
}

impl Store {
    /// The issuer that a provider's name has, which is `issuer` if the name is new.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn provider_issuer_hold(&self, name: &str, issuer: &str, now: Timestamp) -> Result<String, StoreError> {
        let mut tx = self.begin().await?;
        sqlx::query(ISSUER_INSERT)
            .bind(name.to_owned())
            .bind(issuer.to_owned())
            .bind(now.millis())
            .execute(tx.connection())
            .await?;
        let first: String = sqlx::query_scalar(ISSUER_FETCH).bind(name.to_owned()).fetch_one(tx.connection()).await?;
        tx.commit().await?;
        Ok(first)
    }
}

impl Tx {
    /// Enters a sign-in.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn flow_insert(&mut self, flow: &SignInFlow) -> Result<(), StoreError> {
        sqlx::query(FLOW_INSERT)
            .bind(flow.id.to_string())
            .bind(flow.state_hash.to_vec())
            .bind(flow.binding_hash.to_vec())
            .bind(flow.provider.clone())
            .bind(flow.sealed.clone())
            .bind(flow.return_to.clone())
            .bind(flow.created_at.millis())
            .bind(flow.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Takes the sign-in of this state and this browser out; `None` when there is none, or no more.
    ///
    /// # Errors
    /// When the database refused or the row is inconsistent.
    pub async fn flow_take(
        &mut self,
        state_hash: &[u8; 32],
        binding_hash: &[u8; 32],
    ) -> Result<Option<SignInFlow>, StoreError> {
        let query = sqlx::query_as(FLOW_TAKE).bind(state_hash.to_vec()).bind(binding_hash.to_vec());
        let row: Option<FlowRow> = query.fetch_optional(self.connection()).await?;
        row.map(SignInFlow::try_from).transpose()
    }

    /// Enters a browser on its way to a service host.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn handover_insert(&mut self, handover: &ServiceHandover) -> Result<(), StoreError> {
        sqlx::query(HANDOVER_INSERT)
            .bind(handover.code_hash.to_vec())
            .bind(handover.binding_hash.to_vec())
            .bind(handover.session.to_string())
            .bind(handover.host.clone())
            .bind(handover.return_to.clone())
            .bind(handover.created_at.millis())
            .bind(handover.expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Takes out what belongs to a code; `None` when there is nothing, or nothing any more.
    ///
    /// # Errors
    /// When the database refused or the row is inconsistent.
    pub async fn handover_take(&mut self, code_hash: &[u8; 32]) -> Result<Option<ServiceHandover>, StoreError> {
        let row: Option<HandoverRow> =
            sqlx::query_as(HANDOVER_TAKE).bind(code_hash.to_vec()).fetch_optional(self.connection()).await?;
        row.map(ServiceHandover::try_from).transpose()
    }

    /// Remembers a logout token; false when it is known already.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn logout_token_insert(
        &mut self,
        provider: &str,
        jti_hash: &[u8; 32],
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(LOGOUT_TOKEN_INSERT)
            .bind(provider.to_owned())
            .bind(jti_hash.to_vec())
            .bind(expires_at.millis())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Removes some of what is over at `now`; gives how much that was.
    ///
    /// # Errors
    /// When the database refused.
    pub async fn sign_in_sweep(&mut self, now: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        for text in [FLOW_SWEEP, HANDOVER_SWEEP] {
            let query = sqlx::query(text).bind(now.millis()).bind(SWEEP_MAX);
            removed += query.execute(self.connection()).await?.rows_affected();
        }
        let query = sqlx::query(LOGOUT_TOKEN_SWEEP).bind(now.millis());
        Ok(removed + query.execute(self.connection()).await?.rows_affected())
    }
}

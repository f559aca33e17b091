//! Refresh tokens: each is good once, and using one twice ends the session (RFC 9700 §4.14.2).
//!
//! INVARIANT: where the session has a certificate, its key must speak too: by the connection, or by
//! a signing request for the same key. So a stolen refresh token is worth nothing by itself.

use subtle::ConstantTimeEq;

use crate::identity::certificate::Issuer;
use crate::model::Timestamp;
use crate::store::StoredSession;

use super::super::caller::ConnectionFacts;
use super::super::desk::{Desk, hash_of};
use super::super::session::{self, Started};
use super::code::SECRET_BYTES_MAX;
use super::{GrantError, Granted, end_reused, issue_tokens, known_client};

/// What the client brings (RFC 6749 §6).
#[derive(Debug, Clone, Default)]
pub struct RefreshRequest {
    /// The refresh token.
    pub refresh_token: String,
    /// `doorward-cli`
    pub client_id: String,
    /// A signing request, if the certificate is to be renewed.
    pub csr: Option<Vec<u8>>,
}

/// Goes on with a session: new tokens, and a new certificate where one is asked for.
///
/// # Errors
/// When the token is not good, the key does not fit, or the session is over.
pub async fn refresh(
    desk: &Desk,
    request: &RefreshRequest,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<Granted, GrantError> {
    known_client(&request.client_id)?;
    if request.refresh_token.is_empty() || request.refresh_token.len() > SECRET_BYTES_MAX {
        return Err(GrantError::InvalidRequest("`refresh_token` is needed"));
    }
    let hash = hash_of(&request.refresh_token);
    let mut tx = desk.store.begin().await?;
    let Some(token) = tx.refresh_use(&hash, now).await? else {
        let known = tx.refresh_fetch(&hash).await?.filter(|token| token.used);
        let ended = match known {
            Some(token) => end_reused(desk, &mut tx, token.session, "refresh_reused", connection, now).await?,
            None => None,
        };
        tx.commit().await?;
        session::obey(desk, ended.iter());
        return Err(GrantError::InvalidGrant);
    };
    // From here on an error rolls back, so that an honest client may try again.
    let stored = tx.session_fetch(token.session).await?.filter(|stored| stored.session.is_live(now));
    let stored = stored.filter(|_| token.client_id == request.client_id).ok_or(GrantError::InvalidGrant)?;
    if desk.directory.is_locked(&stored.session.principal) {
        return Err(GrantError::AccessDenied);
    }
    let by_connection = connection_speaks(&stored, connection, now)?;
    let started = match &request.csr {
        Some(csr) => session::renew_within(desk, &mut tx, &stored, csr, connection, now).await?,
        None => Started::unchanged(stored.clone()),
    };
    let by_request = request.csr.is_some() && same_key(&stored, &started.stored);
    if stored.certificate_key.is_some() && !by_connection && !by_request {
        return Err(GrantError::InvalidClient);
    }
    let (granted, started) = issue_tokens(desk, &mut tx, started, connection, now).await?;
    tx.commit().await?;
    session::enter(desk, &started);
    Ok(granted)
}

/// Whether the connection's certificate is the session's. One of another session is not passed over.
fn connection_speaks(stored: &StoredSession, connection: &ConnectionFacts, now: Timestamp) -> Result<bool, GrantError> {
    match connection.certificate.as_ref().filter(|certificate| certificate.issuer == Issuer::Ours) {
        Some(certificate) if certificate.session != Some(stored.session.id) => Err(GrantError::InvalidClient),
        Some(certificate) => Ok(certificate.is_current(now)),
        None => Ok(false),
    }
}

fn same_key(before: &StoredSession, after: &StoredSession) -> bool {
    match (before.certificate_key, after.certificate_key) {
        (Some(before), Some(after)) => bool::from(before.ct_eq(&after)),
        _ => false,
    }
}

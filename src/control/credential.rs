//! Certificates and tokens of ours that are out: who has which, until when, and withdrawing one.
//!
//! What can be withdrawn by itself is a token: it is refused at its next use, at every node, and what is
//! open under it is cut. A certificate is a session's proof of itself, and a session would get the next
//! one at once: so withdrawing it ends the session. Databases' and clouds' own credentials will be leases;
//! until some issuer of those is built there are none, and [`LEASES`] says so.

use std::fmt;

use crate::audit::{Event, EventType, Outcome};
use crate::model::text::{REASON_CHARS_MAX, one_line};
use crate::model::{Credential, CredentialId, CredentialKind, SessionId, Timestamp};
use crate::policy::InstallationAction;
use crate::store::{HeldCredential, SessionCertificate, StoreError, Tx};

use super::caller::Caller;
use super::desk::Desk;
use super::oauth::run;
use super::oauth::token::{Minted, Wish};
use super::session::{self, RevokeError, Whose};

/// Leases that are held: no credential that has one is issued by this version.
pub const LEASES: [Credential; 0] = [];

/// Enters a certificate that `tx` issues to a session.
///
/// # Errors
/// When the database refused.
pub async fn certificate_issued(
    desk: &Desk,
    tx: &mut Tx,
    session: SessionId,
    certificate: &SessionCertificate,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.credential_insert(&Credential {
        id: CredentialId::fresh(now, &*desk.entropy),
        kind: CredentialKind::X509,
        session,
        audience: None,
        scope: None,
        grant: None,
        acting: None,
        thumbprint: Some(certificate.thumbprint),
        jti: None,
        issued_at: now,
        expires_at: certificate.expires_at,
    })
    .await
}

/// Enters a token that `tx` issues.
///
/// # Errors
/// When the database refused.
pub(super) async fn token_issued(
    desk: &Desk,
    tx: &mut Tx,
    session: SessionId,
    minted: &Minted,
    wish: &Wish,
    now: Timestamp,
) -> Result<(), StoreError> {
    tx.credential_insert(&Credential {
        id: CredentialId::fresh(now, &*desk.entropy),
        kind: CredentialKind::Token,
        session,
        audience: Some(wish.audience.clone()),
        scope: wish.scope.clone(),
        grant: wish.grant,
        acting: wish.acting.first().map(|actor| actor.principal.to_string()),
        thumbprint: minted.bound_to,
        jti: Some(minted.id.clone()),
        issued_at: now,
        expires_at: minted.expires_at,
    })
    .await
}

/// Credentials that are good now, newest first, `limit` at most, and where the next page begins.
///
/// # Errors
/// When the database is away.
pub async fn list(
    desk: &Desk,
    caller: &Caller,
    whose: Whose,
    before: Option<CredentialId>,
    limit: usize,
    now: Timestamp,
) -> Result<(Vec<HeldCredential>, Option<CredentialId>), StoreError> {
    let principal = match whose {
        Whose::All if may_withdraw(desk, caller, now) => None,
        Whose::All | Whose::Own => Some(caller.principal()),
    };
    let asked = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut found = desk.store.credential_list(principal, before, asked, now).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|held| held.credential.id);
    Ok((found, next))
}

fn may_withdraw(desk: &Desk, caller: &Caller, now: Timestamp) -> bool {
    caller.may(desk, InstallationAction::Revoke, now) || caller.may(desk, InstallationAction::Administer, now)
}

/// One that is good now, of the caller's own or of anybody's whose the caller may withdraw.
///
/// # Errors
/// When there is none that the caller may know of, or the database is away.
pub async fn fetch(
    desk: &Desk,
    caller: &Caller,
    id: CredentialId,
    now: Timestamp,
) -> Result<HeldCredential, WithdrawError> {
    let held = desk.store.credential_fetch(id, now).await?.ok_or(WithdrawError::NotFound)?;
    let own = held.principal == *caller.principal();
    if own || may_withdraw(desk, caller, now) { Ok(held) } else { Err(WithdrawError::NotFound) }
}

/// Why a credential was not withdrawn.
#[derive(Debug)]
pub enum WithdrawError {
    /// There is none, it is over, or the caller may not know that there is.
    NotFound,
    /// The caller may look at it but not withdraw it.
    Denied,
    /// The reason is missing or too long.
    Reason,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for WithdrawError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such credential, or it is over"),
            Self::Denied => f.write_str("no policy lets you revoke credentials of others"),
            Self::Reason => write!(f, "give a reason of 1 to {REASON_CHARS_MAX} characters that all show"),
            Self::Store(error) => write!(f, "the credential could not be withdrawn: {error}"),
        }
    }
}

impl std::error::Error for WithdrawError {}

impl From<StoreError> for WithdrawError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RevokeError> for WithdrawError {
    fn from(error: RevokeError) -> Self {
        match error {
            RevokeError::NotFound => Self::NotFound,
            RevokeError::Denied => Self::Denied,
            RevokeError::Reason => Self::Reason,
            RevokeError::Store(error) => Self::Store(error),
        }
    }
}

/// Withdraws a credential on a caller's word: a token by itself, a certificate with its session. Gives it as
/// it was.
///
/// # Errors
/// When the caller may not, or the database refused.
pub async fn revoke(
    desk: &Desk,
    caller: &Caller,
    id: CredentialId,
    reason: &str,
    now: Timestamp,
) -> Result<HeldCredential, WithdrawError> {
    let reason = one_line(reason, REASON_CHARS_MAX).ok_or(WithdrawError::Reason)?;
    let held = fetch(desk, caller, id, now).await?;
    let credential = &held.credential;
    let Some(jti) = credential.jti.as_deref() else {
        session::revoke(desk, caller, credential.session, &reason, now).await?;
        return Ok(held);
    };
    if !is_own(desk, caller, &held).await? && !caller.may(desk, InstallationAction::Revoke, now) {
        return Err(WithdrawError::Denied);
    }
    let mut tx = desk.store.begin().await?;
    if tx.token_revoke(jti, credential.expires_at, now).await? {
        let mut event = Event::new(desk.event_id(now), now, EventType::TokenRevoked, Outcome::Success);
        event.actor = caller.actor();
        event.subject = Some(held.principal.clone());
        event.resource = Some(id.to_string().into());
        event.grant = credential.grant;
        tx.event_append(&event.with("jti", jti).with("reason", reason)).await?;
    }
    tx.commit().await?;
    desk.directory.token_revoke(jti, credential.expires_at);
    Ok(held)
}

/// Whether it is the caller's: of the jobs of one rule, one of the caller's own run.
async fn is_own(desk: &Desk, caller: &Caller, held: &HeldCredential) -> Result<bool, StoreError> {
    let session = desk.store.session_fetch(held.credential.session).await?;
    Ok(session.is_some_and(|stored| run::is_same(&stored.session, caller.session())))
}

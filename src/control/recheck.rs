//! Sessions go on only while their provider agrees: it is asked every `recheck`, and may say so by
//! itself (OIDC Back-Channel Logout 1.0).
//!
//! What happens at a check: 1. this node takes the due sign-in by moving its next check, so that of
//! several nodes one asks; 2. the provider is asked, outside of any transaction; 3. the refresh token
//! that it gave is kept, 4. then its word is obeyed: a refusal ends all sessions of the sign-in, new
//! groups replace the old, and an absent provider changes nothing but that it is asked again soon.
//! ORDER: 3 before 4, since a refresh token that is lost makes the next check a refusal.

use std::fmt;

use futures_util::future::join_all;

use crate::audit::{Event, EventType, Outcome};
use crate::credential::seal::SealError;
use crate::identity::provider::{ProviderError, Rechecked};
use crate::identity::token;
use crate::model::{Secret, Timestamp, Ttl};
use crate::store::{ProviderLink, StoreError};

use super::caller::ConnectionFacts;
use super::desk::{Desk, hash_of};
use super::refused::put_on_record;
use super::session;
use super::sign_in::REFRESH_PURPOSE;

/// Sign-ins that are checked at once.
const CHECKS_MAX: i64 = 16;
/// How long a node that took a check has for it, until another may.
const CLAIM: Ttl = Ttl::minutes(1);
/// How soon an absent provider is asked again, if `recheck` is not even shorter.
const RETRY: Ttl = Ttl::minutes(1);

/// Why a check did not come to its end.
#[derive(Debug)]
pub enum RecheckError {
    /// A refresh token does not open, or could not be sealed.
    Seal(SealError),
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for RecheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seal(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RecheckError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Seal(error) => Some(error),
            Self::Store(error) => Some(error),
        }
    }
}

impl From<StoreError> for RecheckError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SealError> for RecheckError {
    fn from(error: SealError) -> Self {
        Self::Seal(error)
    }
}

/// Checks sign-ins that are due, at most sixteen; gives how many that were; none while the clock may be
/// ahead. A task of the server calls it every few seconds.
///
/// # Errors
/// When the database is away. A check that fails by itself is logged and comes again.
pub async fn recheck_due(desk: &Desk, now: Timestamp) -> Result<usize, StoreError> {
    // By a clock that may be ahead all are due at once, and none again for as long as it is ahead.
    if desk.clock_guard.may_be_ahead() {
        return Ok(0);
    }
    // The caller may have asked for the time while it was ahead.
    let now = now.min(desk.clock.now());
    let due = desk.store.link_due(now, CHECKS_MAX).await?;
    // A loop and not a closure: the compiler can't prove a borrowing closure's future `Send` for all lifetimes.
    let mut checks = Vec::with_capacity(due.len());
    for link in &due {
        checks.push(recheck_or_tell(desk, link, now));
    }
    Ok(join_all(checks).await.len())
}

fn recheck_or_tell<'a>(
    desk: &'a Desk,
    link: &'a ProviderLink,
    now: Timestamp,
) -> futures_util::future::BoxFuture<'a, ()> {
    Box::pin(async move {
        if let Err(error) = recheck(desk, link, now).await {
            tracing::warn!(link = link.id, provider = link.provider, %error, "a session could not be checked");
        }
    })
}

async fn recheck(desk: &Desk, link: &ProviderLink, now: Timestamp) -> Result<(), RecheckError> {
    let Some(seen) = link.next_check_at else { return Ok(()) };
    let mut tx = desk.store.begin().await?;
    let ours = tx.link_claim(&link.id, seen, now.plus(CLAIM)).await?;
    tx.commit().await?;
    let Some(sealed) = link.sealed.as_ref().filter(|_| ours) else { return Ok(()) };
    let provider = desk.providers.get(&link.provider).cloned();
    let Some(provider) = provider else {
        // A provider that the configuration dropped can't vouch for anybody any more.
        session::end_by_link(desk, &link.id, now).await?;
        return Ok(keep(desk, link, None, None).await?);
    };
    let token = desk.sealer.open(REFRESH_PURPOSE, link.id.as_bytes(), sealed)?;
    let token = Secret::new(String::from_utf8_lossy(token.expose()).into_owned());
    let again = now.plus(desk.settings.recheck);
    match provider.recheck(&token, &link.subject, now).await {
        Rechecked::Valid { groups, refresh_token } => {
            let rotated = reseal(desk, link, refresh_token)?;
            keep(desk, link, rotated.as_deref().or(Some(sealed)), Some(again)).await?;
            if let Some(groups) = groups {
                session::groups_replace(desk, &link.id, &groups, now).await?;
            }
        }
        Rechecked::Refused { error } => {
            let ended = session::end_by_link(desk, &link.id, now).await?;
            tracing::info!(link = link.id, provider = link.provider, error, ended, "a provider refused a session");
            keep(desk, link, None, None).await?;
        }
        Rechecked::Unreachable { why, refresh_token } => {
            tracing::warn!(provider = link.provider, why, "a session could not be checked at its provider");
            let rotated = reseal(desk, link, refresh_token)?;
            let soon = again.min(now.plus(RETRY));
            keep(desk, link, rotated.as_deref().or(Some(sealed)), Some(soon)).await?;
        }
    }
    Ok(())
}

fn reseal(desk: &Desk, link: &ProviderLink, token: Option<Secret<String>>) -> Result<Option<Vec<u8>>, SealError> {
    let seal = |token: Secret<String>| {
        desk.sealer.seal(REFRESH_PURPOSE, link.id.as_bytes(), token.expose().as_bytes(), &*desk.entropy)
    };
    token.map(seal).transpose()
}

async fn keep(
    desk: &Desk,
    link: &ProviderLink,
    sealed: Option<&[u8]>,
    next: Option<Timestamp>,
) -> Result<(), StoreError> {
    let mut tx = desk.store.begin().await?;
    tx.link_update(&link.id, sealed, next).await?;
    tx.commit().await
}

/// Why a logout token ended nothing.
#[derive(Debug)]
pub enum LogoutError {
    /// It can't be read, or is of no provider of ours.
    Unknown,
    /// It does not hold, or its provider's keys can't be had.
    Provider(ProviderError),
    /// It was obeyed before.
    Replayed,
    /// The database did not do it.
    Store(StoreError),
}

impl fmt::Display for LogoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the logout token is of no provider that is configured here"),
            Self::Provider(error) => error.fmt(f),
            Self::Replayed => f.write_str("the logout token was used before"),
            Self::Store(error) => write!(f, "the logout could not be stored: {error}"),
        }
    }
}

impl std::error::Error for LogoutError {}

impl From<StoreError> for LogoutError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Obeys a provider's logout token; gives how many sessions it ended.
///
/// # Errors
/// When it does not hold, was used before, or the database refused.
pub async fn logout(
    desk: &Desk,
    logout_token: &str,
    connection: &ConnectionFacts,
    now: Timestamp,
) -> Result<usize, LogoutError> {
    let (_, issuer) = token::claimed(logout_token).ok_or(LogoutError::Unknown)?;
    let provider = desk.providers.of_issuer(&issuer).ok_or(LogoutError::Unknown)?;
    let told = provider.logout_token(logout_token, now).await.map_err(LogoutError::Provider)?;
    let (name, jti) = (&**provider.name(), hash_of(&told.jti));
    let ids = session::logged_out(desk, name, &told.who, now).await?;
    // Use and end commit together: what failed half-way may be sent again, what succeeded may not.
    let mut tx = desk.store.begin().await?;
    if !tx.logout_token_insert(name, &jti, told.remember_until).await? {
        drop(tx);
        reused(desk, name, connection, now).await;
        return Err(LogoutError::Replayed);
    }
    let ended = session::end_many_within(desk, &mut tx, ids, now).await?;
    tx.commit().await?;
    session::obey(desk, ended.iter());
    // What was being started from one of them meanwhile. The token is used by now, so its sender is not told to
    // come again; the next look at the provider ends what is left.
    let late = session::end_by_logout(desk, name, &told.who, now).await;
    if let Err(error) = &late {
        tracing::error!(%error, provider = name, "sessions that began during a logout live on until they are rechecked");
    }
    Ok(ended.len() + late.unwrap_or(0))
}

/// Puts the second use of a logout token on record: somebody may have taken it on its way, or its provider did
/// not hear our answer.
async fn reused(desk: &Desk, provider: &str, connection: &ConnectionFacts, now: Timestamp) {
    let mut event = Event::new(desk.event_id(now), now, EventType::TokenRevoked, Outcome::Denied);
    event.actor.address = Some(connection.address);
    event.reason = Some("logout_token_reused".into());
    put_on_record(desk, event.with("provider", provider)).await;
}

/// Forgets sign-ins, hand-overs and logout tokens that are over.
///
/// # Errors
/// When the database is away.
pub async fn sweep(desk: &Desk, now: Timestamp) -> Result<u64, StoreError> {
    let mut tx = desk.store.begin().await?;
    let removed = tx.sign_in_sweep(now).await?;
    tx.commit().await?;
    Ok(removed)
}
